# SPDX-License-Identifier: GPL-3.0-or-later
"""A facility's night in small: four microscopes, one machine, everything that goes wrong, and `tomostream watch` alone with it.

    python benchmarks/night.py                       200 series of 15 tilts, some 20 minutes on two cores
    python benchmarks/night.py --series 24 --tilts 8   some 6 minutes
    python benchmarks/night.py --keep FOLDER         the projects stay there

Four simulated microscopes write sessions of their own, each in another way (whole files, growing ones, in turns), with all
faults of the simulator among them. `tomostream watch` starts a project for each, with stand-ins for MotionCor3 and AreTomo2 on
two GPUs that all share. On the way the clock of the machine is set back by an hour, all protocols of one session are killed,
the disk is full for a while, the watch and a protocol of another session are killed; what was killed is brought back as a person
would (`tomostream resume`). The sessions end by their time-outs.

In the end everything must add up: every movie is imported or failed with a reason, every series of the plan has its tomogram or a
reason, no row is there twice, no program ran again for what was done, no log holds a traceback, each project exists once, and the
page above all says that all have ended. Printed: what did not, the seconds from the last movie of a series to its tomogram, what
the processes cost, and the alarms. The clock and the full disk need root and a C compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from latency import movies_written

from tomostream.journal import entries
from tomostream.journal.status import ARETOMO, IMPORT, MOTIONCOR, ProjectStatus
from tomostream.tests import disturbances
from tomostream.tests.chaos import tracebacks
from tomostream.tests.support import ORDER, Session, end, read_rows, wait_for

#: How each microscope writes, and what goes wrong at it: {a}, {b}, {c}, {d} are series, {t} is a tilt in the middle.
MICROSCOPES = (
    ("--write", "atomic", "--fault", "missing:{a}:{t}", "--fault", "late:{b}:{t}:15", "--fault", "map"),
    ("--write", "slow", "--fault", "truncated:{a}:{t}", "--fault", "stuck:{b}:{t}:10", "--fault", "garbage-mdoc"),
    ("--write", "frames", "--fault", "reacquired:{a}:{t}", "--fault", "dark:{b}:{t}", "--fault", "empty-mdoc:{c}"),
    ("--write", "atomic", "--interleave", "--fault", "extra-section:{a}", "--fault", "no-axis:{b}", "--fault",
     "garbage-mdoc:{c}"))
#: Series (by the letters above) that cannot become a tomogram, by microscope.
HOPELESS = ({}, {}, {"c"}, {"b", "c"})
SESSION, DISK, TIMEOUT = "night-1", "size=1500m,mode=777", 75
CONFIG = """projects = "{folder}/disk/projects"
index = "{folder}/disk/www"
every = "2s"
starts = 2
"""
MICROSCOPE = """
[[microscope]]
name = "m{number}"
root = "{folder}/m{number}"
movies = "frames/*"
mdocs = "mdocs/*.mdoc"
engine = "gpu"
gpus = [0, 1]
timeout = "{timeout}s"
report = "{folder}/disk/www/m{number}"
[microscope.set.compose]
expectedTilts = {tilts}
[microscope.set.aretomo]
tomoThickness = 40
alignZ = 20
"""


@dataclass
class Night:
    """What is looked at from outside while it happens. Times by the true clock."""

    sessions: list[Session]
    seen: dict[tuple[int, str], float] = field(default_factory=dict)
    cpu: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    stopped: threading.Event = field(default_factory=threading.Event)
    wrong: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """In a thread: when each tomogram is there, and the CPU time of every process."""
        stamps: dict[str, int] = {}
        turn = 0
        while not self.stopped.wait(0.1):
            for number, session in enumerate(self.sessions):
                folder = session.folder_of(ARETOMO)
                path = os.path.join(folder, "tomograms.sqlite") if folder else ""
                with contextlib.suppress(OSError, sqlite3.Error):
                    stamp = os.stat(path).st_mtime_ns
                    if stamps.get(path) != stamp:
                        for row in read_rows(path):
                            self.seen.setdefault((number, row["_tsId"]), time.time())
                        stamps[path] = stamp
            turn += 1
            if turn % 10 == 0:
                self.count_cpu()

    def count_cpu(self) -> None:
        for pid, words in processes():
            text = " ".join(words)
            role = ("protocols" if "pw_protocol_run.py" in text else "pages" if " report " in text else
                    "watch" if " watch " in text else "")
            if role and self.sessions[0].folder.rpartition(os.sep)[0] in text:
                with contextlib.suppress(OSError, IndexError):
                    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                        fields = file.read().rsplit(")", 1)[1].split()
                    self.cpu[role][pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def processes() -> Iterator[tuple[int, list[str]]]:
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/cmdline", "rb") as file:
                yield int(name), os.fsdecode(file.read()).split("\0")


@contextlib.contextmanager
def place(keep: str | None) -> Iterator[str]:
    """A folder with a small disk in it, for the projects."""
    folder = os.path.realpath(tempfile.mkdtemp(prefix="tomostream-night-", dir=keep))
    disk = os.path.join(folder, "disk")
    os.makedirs(disk)
    mounted = os.geteuid() == 0 and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", DISK, "none", disk], stderr=subprocess.DEVNULL, check=False).returncode
    try:
        yield folder
        if keep and mounted:
            shutil.copytree(disk, os.path.join(folder, "kept"), symlinks=True)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", disk], check=False)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def sessions_in(folder: str) -> list[Session]:
    """The four sessions as the watch will name them; one environment for all."""
    found = []
    for number in range(1, len(MICROSCOPES) + 1):
        os.makedirs(os.path.join(folder, f"m{number}", "old session", "frames"))
        session = Session(os.path.join(folder, "work"), os.path.join(folder, "disk", "projects", f"m{number}-{SESSION}"))
        session.acquisition = os.path.join(folder, f"m{number}", SESSION)
        session.frames, session.mdocs = (os.path.join(session.acquisition, name) for name in ("frames", "mdocs"))
        found.append(session)
    return found


def faults(words: tuple[str, ...], options: argparse.Namespace) -> list[str]:
    """The options of a microscope, with series and tilts in place."""
    return [word.format(**letters(options), t=options.tilts // 2) for word in words]


def letters(options: argparse.Namespace) -> dict[str, int]:
    each = options.series // len(MICROSCOPES)
    return {letter: max(1, round(each * part)) for letter, part in (("a", 0.25), ("b", 0.5), ("c", 0.75), ("d", 1.0))}


# ---------------------------------------------------------------------- the night
def play(folder: str, options: argparse.Namespace) -> Night:
    """All of it; returns when the page above says that all sessions have ended."""
    os.makedirs(os.path.join(folder, "work"))
    sessions = sessions_in(folder)
    first = sessions[0]
    first.use_standins(options.seconds)
    clock = disturbances.clock_environment(first)
    for session in sessions:
        session.environment = {**first.environment, **(clock or {})}
    config = os.path.join(folder, "facility.toml")
    with open(config, "w", encoding="utf-8") as file:
        file.write(CONFIG.format(folder=folder) + "".join(
            MICROSCOPE.format(folder=folder, number=number, tilts=options.tilts, timeout=TIMEOUT)
            for number in range(1, len(MICROSCOPES) + 1)))
    watch = first.start("watch", config)
    wait_for(lambda: os.path.isdir(os.path.join(folder, "disk", "projects", ".watch", f"m{len(MICROSCOPES)}")), 300, "first look")
    night = Night(sessions)
    looking = threading.Thread(target=night.watch, daemon=True)
    looking.start()
    for session, words in zip(sessions, MICROSCOPES, strict=True):
        session.simulate("--series", str(options.series // len(MICROSCOPES)), "--tilts", str(options.tilts), "--frames", "2",
                         "--size", "48", "--interval", str(options.interval), *faults(words, options))
    watch = disturb(night, folder, config, watch, options, clock is not None)
    wait_for(lambda: [row["state"] for row in index_of(folder)] == ["ended"] * len(sessions), options.patience,
             "end of all sessions", every=1.0)
    wait_for(lambda: all(os.path.exists(os.path.join(session.project, "report", "summary.json")) for session in sessions), 120,
             "summaries of all sessions")
    night.stopped.set()
    looking.join()
    watch.send_signal(signal.SIGTERM)
    watch.wait(30)
    return night


def disturb(night: Night, folder: str, config: str, watch: subprocess.Popen, options: argparse.Namespace,
            clock: bool) -> subprocess.Popen:
    """One thing after the other, each when so large a part of the series is done. Returns the watch that lives."""
    wanted = options.series - sum(map(len, HOPELESS))

    def after(part: float) -> None:
        wait_for(lambda: len(night.seen) >= part * wanted, options.patience, f"{100 * part:.0f} % of the series", every=0.5)
        print(f"  {time.strftime('%H:%M:%S')}  {len(night.seen)} tomograms", flush=True)

    after(0.15)
    if clock:
        print("  the clock of the machine is set back by an hour", flush=True)
        disturbances.set_clock(night.sessions[0], -3600)
    after(0.3)
    print("  all protocols of the second session are killed", flush=True)
    kill_and_resume(night, night.sessions[1], list(ORDER))
    after(0.5)
    print("  the disk is full for 15 s", flush=True)
    fill(os.path.join(folder, "disk"), 15.0)
    after(0.7)
    print("  the watch and a protocol of the third session are killed", flush=True)
    end(watch.pid)
    watch.wait()
    kill_and_resume(night, night.sessions[2], [MOTIONCOR])
    return night.sessions[0].start("watch", config)


def kill_and_resume(night: Night, session: Session, names: list[str]) -> None:
    for name in names:
        for pid in session.pids(name):
            end(pid)
    threading.Event().wait(4.0)
    if session.call("resume", session.project, "--no-follow", seconds=300):
        night.wrong.append(f"resume failed: {session.said('resume')[-300:]}")


def fill(disk: str, seconds: float) -> None:
    if not os.path.ismount(disk):
        print("  (no: a small disk cannot be mounted here)", flush=True)
        return
    path = os.path.join(disk, "filler")
    with open(path, "wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    threading.Event().wait(seconds)
    os.remove(path)


def index_of(folder: str) -> list[dict]:
    try:
        with open(os.path.join(folder, "disk", "www", "sessions.json"), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return []


# ---------------------------------------------------------------------- does it add up?
def audit(night: Night, folder: str, options: argparse.Namespace) -> None:
    """Note everything that does not add up in `night.wrong`."""
    projects = sorted(name for name in os.listdir(os.path.join(folder, "disk", "projects")) if not name.startswith("."))
    if projects != [f"m{number}-{SESSION}" for number in range(1, len(MICROSCOPES) + 1)]:
        night.wrong.append(f"the projects are {projects}")
    for number, session in enumerate(night.sessions):
        night.wrong += [f"m{number + 1}: {text}" for text in audit_session(session, number, options)]
    ends = Counter((entry["program"], entry["item"]) for entry in night.sessions[0].standin_runs("end"))
    again = sum(ends.values()) - sum(min(times, len(MICROSCOPES)) for times in ends.values())     # all four use the same names
    print(f"  {sum(ends.values())} programs ended well, {again} of them for an item that had been made before")
    if again > 2 * len(ORDER):
        night.wrong.append(f"{again} programs ran again")


def audit_session(session: Session, number: int, options: argparse.Namespace) -> list[str]:
    wrong = tracebacks(session)
    status = ProjectStatus(session.project)
    status.update()
    written = movies_written(session)
    imported = Counter(row["_micName"] for row in session.rows(IMPORT))
    failed = {entry.item for entry in session.events(IMPORT, entries.Failed)}
    lost = [movie for movie in written if movie not in imported and movie not in failed]
    wrong += [f"movies neither imported nor failed: {lost[:5]} ({len(lost)})"] if lost else []
    for name in ORDER:
        keys = Counter(session.keys(name))
        wrong += [f"{name}: rows twice: {twice}"] if (twice := [key for key, times in keys.items() if times > 1]) else []
        wrong += [] if session.stream_closed(name) else [f"{name} is not closed"]
    hopeless = {f"TS_{letters(options)[letter]:02d}" for letter in HOPELESS[number]}
    planned = {name for name, _ in written.values()}
    done = {series.id for series in status.series.values() if series.state == "done"}
    unreasoned = [series.id for series in status.series.values() if series.state != "done" and not series.reason]
    wrong += [f"series without a tomogram or a reason: {unreasoned}"] if unreasoned else []
    if planned - hopeless - done:
        missing = {name: (status.series[name].state, status.series[name].reason) if name in status.series else "not known"
                   for name in sorted(planned - hopeless - done)}
        wrong.append(f"series that should have tomograms: {missing}")
    if set(session.keys(ARETOMO)) != done:
        wrong.append("the tomograms are not those of the series that are done")
    unassigned = status.movie_counts()["imported"] - sum(len(series.movies) for series in status.series.values())
    print(f"  m{number + 1}: {len(written)} movies written, {len(imported)} imported, {len(failed)} failed; {len(done)} of "
          f"{len(planned)} series have tomograms, {sum(series.state == 'failed' for series in status.series.values())} failed, "
          f"{len(status.not_series)} no series, {max(0, unassigned)} movies in none; programs run again: {run_again(session)}")
    return wrong


def run_again(session: Session) -> int:
    """Movies and series for which the ledger tells of more than one try."""
    return sum(len(session.events(name, entries.Retried)) for name in (MOTIONCOR, ARETOMO))


def report(night: Night, seconds: float) -> None:
    latencies = []
    for number, session in enumerate(night.sessions):
        last: dict[str, float] = {}
        for series, moment in movies_written(session).values():
            last[series] = max(last.get(series, 0.0), moment)
        latencies += [night.seen[number, series] - moment for series, moment in last.items() if (number, series) in night.seen]
    latencies.sort()
    movies = sum(len(movies_written(session)) for session in night.sessions)
    print(f"last movie of a series -> tomogram: median {statistics.median(latencies):.1f} s, 95 % "
          f"{latencies[int(0.95 * (len(latencies) - 1))]:.1f} s, most {latencies[-1]:.1f} s ({len(latencies)} series)")
    for role, spent in night.cpu.items():
        total = sum(spent.values())
        print(f"CPU of {role:10s} {total:7.1f} s in {len(spent)} processes, {1000 * total / movies:.0f} ms a movie, "
              f"{100 * total / seconds:.0f} % of a core")
    kinds = Counter()
    for session in night.sessions:
        with contextlib.suppress(OSError), open(os.path.join(session.project, "report", "alarms.log"), encoding="utf-8") as file:
            kinds.update(" ".join(line.split()[1:]).partition(":")[0] for line in file)
    print("alarms: " + ", ".join(f"{number} x {kind}" for kind, number in kinds.most_common()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=200, help="of all four microscopes together")
    parser.add_argument("--tilts", type=int, default=15)
    parser.add_argument("--interval", type=float, default=1.5, help="seconds from exposure to exposure at each microscope")
    parser.add_argument("--seconds", default="0.1,0.5", help="run times of the two stand-ins")
    parser.add_argument("--patience", type=float, default=1800.0, help="seconds for each stage of the night")
    parser.add_argument("--keep", metavar="FOLDER", help="leave everything there")
    options = parser.parse_args()
    began = time.monotonic()
    with place(options.keep) as folder:
        try:
            night = play(folder, options)
            seconds = time.monotonic() - began
            audit(night, folder, options)
            report(night, seconds)
        finally:
            for pid, words in list(processes()):
                if pid != os.getpid() and any(word.startswith(folder + os.sep) for word in words):
                    end(pid)
        for text in night.wrong:
            print(f"WRONG  {text}")
        print(f"{options.series} series of {options.tilts} tilts in {seconds:.0f} s: "
              f"{'everything adds up' if not night.wrong else f'{len(night.wrong)} things do not add up'}")
    return 1 if night.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
