# SPDX-License-Identifier: GPL-3.0-or-later
"""How long after the last movie of a series is what there? tomostream and the upstream chain, on the same acquisitions.

    python benchmarks/latency.py                                tomostream, all rhythms (some 15 minutes)
    python benchmarks/latency.py --rhythm steady --upstream     one rhythm, side by side with upstream's default settings
    python benchmarks/latency.py --rhythm steady --upstream --shortest      ... with the shortest that its forms take
    python benchmarks/latency.py --rhythm steady --seconds 0.5,2
    python benchmarks/latency.py --throughput                   100 runs of 0.2 s on 4 threads, and nothing else

Simulated acquisitions; stand-ins of fixed run time for MotionCor3 and AreTomo2. Measured from outside: the times at which
the simulator wrote a movie, and at which a row was seen in an output set by a reader that looks at the files every 20 ms.
"minus programs" subtracts the run times of the programs (MotionCor of the last movie, AreTomo of the series), as they logged
them. The first two series are shown apart: from them tomostream learns how many tilts a series has (`--tilts-given` says it
in the form instead); until then a series is over when it has been still for longer than its rhythm allows, 10 s at least.
The first series of the upstream chain also holds the time in which its protocols start: each waits for its input to exist.
Upstream gets the first series of the same rhythm, as many as it does in ten minutes; what is unfinished by then is reported.
"""

from __future__ import annotations

import argparse
import csv
import glob
import json
import os
import sqlite3
import stat
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field

from tomostream.cli.home import scipion_environment
from tomostream.journal.status import ARETOMO, CLASSES, COMPOSE, IMPORT, MOTIONCOR
from tomostream.tests.standins import write_mrc
from tomostream.tests.support import ORDER, Session, read_rows, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
STAGES = {IMPORT: "imported", MOTIONCOR: "aligned", COMPOSE: "composed", ARETOMO: "reconstructed"}
SETS = {IMPORT: "movies.sqlite", MOTIONCOR: "micrographs.sqlite", COMPOSE: "tiltseries.sqlite", ARETOMO: "tomograms.sqlite"}
UPSTREAM = {IMPORT: "ProtImportMovies", MOTIONCOR: "ProtMotionCorrNewStreaming", COMPOSE: "ProtComposeTS",
            ARETOMO: "ProtAreTomoAlignRecon"}
UPSTREAM_SETS = {IMPORT: "movies*.sqlite", MOTIONCOR: "micrographs*.sqlite", COMPOSE: "tiltseries*.sqlite",
                 ARETOMO: "tomograms*.sqlite"}
#: Rhythm -> options of `tomostream simulate`. `burst`: everything at once, for movies per second.
RHYTHMS = {
    "steady": ("--series", "4", "--tilts", "11", "--interval", "2"),
    "fast": ("--series", "6", "--tilts", "11", "--interval", "0.7"),
    "in turns": ("--series", "3", "--tilts", "11", "--interval", "1", "--interleave"),
    "burst": ("--series", "4", "--tilts", "25", "--interval", "0"),
}
#: So many series of a rhythm are done by the upstream chain within ten minutes: a movie takes it some 9 s.
UPSTREAM_SERIES = {"steady": 2, "fast": 2, "in turns": 2, "burst": 1}
#: A MotionCor3 that takes 0.2 s and next to no CPU: it finds the name of its output, waits, and copies an image.
QUICK = """#!/bin/sh
while [ $# -gt 0 ]; do [ "$1" = -OutMrc ] && out=$2; shift; done
sleep 0.2
cp {image} "$out"
"""
SHORTEST = {IMPORT: {"fileTimeout": "5"}, COMPOSE: {"time4NextTilt": "20s"}}


@dataclass
class Seen:
    """When what was seen: (stage, name of a movie or series) -> seconds since the epoch."""

    first: dict[tuple[str, str], float] = field(default_factory=dict)


class Observer(threading.Thread):
    """Looks at the files of the output sets every 20 ms and reads them when they changed; takes no lock."""

    def __init__(self, session: Session, classes: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.session, self.classes, self.seen = session, classes, Seen()
        self.stopped = threading.Event()
        self._stamps: dict[str, tuple] = {}
        self._folders: dict[str, str] = {}

    def run(self) -> None:
        while not self.stopped.wait(0.02):
            for name in ORDER:
                self._look(name)

    def folder(self, name: str) -> str | None:
        if name not in self._folders:
            runs = os.path.join(self.session.project, "Runs")
            found = [entry for entry in (os.listdir(runs) if os.path.isdir(runs) else ())
                     if entry.endswith("_" + self.classes[name])]
            if not found:
                return None
            self._folders[name] = os.path.join(runs, found[0])
        return self._folders[name]

    def _look(self, name: str) -> None:
        folder = self.folder(name)
        if folder is None:
            return
        if self.classes is CLASSES:
            self._look_at(name, os.path.join(folder, SETS[name]))
            return
        for path in glob.glob(os.path.join(folder, UPSTREAM_SETS[name])):
            if "failed" not in os.path.basename(path).lower():
                self._look_at(name, path)

    def _look_at(self, name: str, path: str) -> None:
        try:
            status = os.stat(path)
        except OSError:
            return
        stamp = (status.st_mtime_ns, status.st_size)
        if self._stamps.get(path) == stamp:
            return
        now = time.time()
        try:
            rows = read_rows(path)
        except sqlite3.Error:
            return
        self._stamps[path] = stamp
        for row in rows:
            self.seen.first.setdefault((name, row.get("_micName") or row.get("_tsId") or ""), now)


# ---------------------------------------------------------------------- the two chains
def start_tomostream(session: Session, options: argparse.Namespace, **more: object) -> None:
    given = {"compose.expectedTilts": RHYTHMS[options.now][3]} if options.tilts_given and options.now in RHYTHMS else {}
    session.run("--timeout", str(options.hold), "--quiet", engine="gpu", settings={
        **given, **more, "aretomo.filteredTomograms": not options.unfiltered,
        "aretomo.tomoThickness": 40, "aretomo.alignZ": 20, "motioncor.gpuList": "10 11 12 13", "aretomo.gpuList": "14 15",
        "motioncor.numberOfThreads": options.threads, "aretomo.numberOfThreads": 3})
    wait_for(lambda: session.ledger(ARETOMO), 240, "start of the last protocol")


def start_upstream(session: Session, options: argparse.Namespace) -> None:
    wait_for(lambda: os.path.isdir(session.frames) and os.listdir(session.frames), 60, "first movie")
    settings = {name: dict(values) for name, values in (SHORTEST if options.shortest else {}).items()}
    settings.setdefault(IMPORT, {})["timeout"] = "60"       # with its input open, the last series may wait for ever
    for name in (MOTIONCOR, ARETOMO):
        settings[name] = {"numberOfThreads": options.threads}
    environment = {**session.environment}
    if options.shortest:
        environment["SCIPION_EM_NEW_FILE_CHECK_SEC"] = "1"
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    scipion_environment(os.path.join(session.folder, "scipion"))
    environment = dict(os.environ)
    os.environ.clear()
    os.environ.update(before)
    with open(os.path.join(session.folder, "upstream.log"), "wb") as log:
        command = [sys.executable, os.path.join(HERE, "upstream_chain.py"), session.project, session.frames, session.mdocs]
        subprocess.run([*command, json.dumps(settings)], env=environment, cwd=session.folder, stdout=log, stderr=log,
                       check=True)


def run_chain(rhythm: str, upstream: bool, options: argparse.Namespace) -> dict:
    """One session; a dictionary of what was measured."""
    with Session() as session:
        session.use_standins(options.seconds)
        observer = Observer(session, UPSTREAM if upstream else CLASSES)
        observer.start()
        simulate = [*RHYTHMS[rhythm], "--frames", "2", "--size", "64"]
        if upstream:
            simulate[1] = str(UPSTREAM_SERIES[rhythm])
            simulator = session.simulate(*simulate)
            start_upstream(session, options)
        else:
            start_tomostream(session, options)
            simulator = session.simulate(*simulate)
        simulator.wait(timeout=600)
        written = movies_written(session)
        series = {name for name, _ in written.values()}
        try:
            wait_for(lambda: sum(stage == ARETOMO for stage, _ in observer.seen.first) >= len(series), options.max_wait,
                     "last tomogram")
        except AssertionError as error:
            print(f"  {error} What is there is shown.", flush=True)
        result = measured(session, observer.seen, written)
        result["idle"] = idle_cpu(session, options.idle)
        observer.stopped.set()
        return result


def movies_written(session: Session) -> dict[str, tuple[str, float]]:
    """Movie -> (series, time at which it was whole), from the simulator's own record."""
    written = {}
    with open(os.path.join(session.acquisition, "acquisition.csv"), encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["event"] == "movie":
                written[os.path.basename(row["file"])] = (row["series"], float(row["time"]))
    return written


def measured(session: Session, seen: Seen, written: dict[str, tuple[str, float]]) -> dict:
    """Seconds from the last movie of each series to each stage, with and without the run times of the programs."""
    runs = {(entry["program"], os.path.splitext(entry["item"])[0]): entry["time"] - entry["began"]
            for entry in session.standin_runs("end")}
    last: dict[str, tuple[float, str]] = {}
    for movie, (series, moment) in written.items():
        last[series] = max(last.get(series, (0.0, "")), (moment, movie))
    stages: dict[tuple[str, bool], list[tuple[float, float]]] = defaultdict(list)
    for number, (series, (moment, movie)) in enumerate(sorted(last.items(), key=lambda item: item[1])):
        aligning = runs.get(("MotionCor3", os.path.splitext(movie)[0]), 0.0)
        programs = {IMPORT: 0.0, MOTIONCOR: aligning, COMPOSE: aligning,
                    ARETOMO: aligning + runs.get(("AreTomo2", series), 0.0)}
        for stage in ORDER:
            movies = [name for name, (owner, _) in written.items() if owner == series]
            moments = [seen.first.get((stage, name)) for name in (movies if stage in (IMPORT, MOTIONCOR) else [series])]
            if None not in moments:
                stages[stage, number >= 2].append((max(moments) - moment, max(moments) - moment - programs[stage]))
    aligned = [moment for (stage, _), moment in seen.first.items() if stage == MOTIONCOR]
    first = min(moment for _, moment in written.values())
    return {"stages": stages, "series": len(last), "movies": len(written),
            "per_second": len(aligned) / (max(aligned) - first) if aligned else 0.0}


def throughput(options: argparse.Namespace) -> float:
    """Seconds from the first start of 100 programs of 0.2 s on 4 threads to the row of the last micrograph."""
    with Session() as session:
        session.use_standins("0.2")
        image, program = os.path.join(session.folder, "image.mrc"), os.path.join(session.folder, "standins", "motioncor", "bin",
                                                                                "MotionCor3")
        write_mrc(image, (64, 64, 1), 6.0)
        with open(program, "w", encoding="utf-8") as file:
            file.write(QUICK.format(image=image))
        os.chmod(program, os.stat(program).st_mode | stat.S_IXUSR)
        session.simulate(*RHYTHMS["burst"], "--frames", "2", "--size", "64").wait(timeout=300)
        ready = os.path.join(session.folder, "ready")
        os.rename(session.frames, ready)
        os.makedirs(session.frames)
        os.rename(session.mdocs, f"{session.mdocs}-later")      # MotionCor alone
        observer = Observer(session, CLASSES)
        observer.start()
        options.now, options.threads = "throughput", 5
        start_tomostream(session, options, **{"import.samplingRate": 6.0, "import.voltage": 300})
        for name in sorted(os.listdir(ready)):
            os.rename(os.path.join(ready, name), os.path.join(session.frames, name))
        wait_for(lambda: len(session.rows(MOTIONCOR)) >= 100, 120, "100 micrographs", every=0.5)
        threading.Event().wait(0.5)
        observer.stopped.set()
        aligned = [moment for (stage, _), moment in observer.seen.first.items() if stage == MOTIONCOR]
        return max(aligned) - (min(aligned) - 0.2)


def idle_cpu(session: Session, seconds: float) -> float:
    """CPU seconds a minute of a protocol process, while nothing comes; the mean of those that still run."""
    before = {pid: cpu_of(pid) for pid in session.pids()}
    threading.Event().wait(seconds)
    spent = [cpu_of(pid) - used for pid, used in before.items() if cpu_of(pid) >= used]
    return 60.0 / seconds * sum(spent) / len(spent) if spent else float("nan")


def cpu_of(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return -1.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------------- the table
def percentile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def show(chain: str, rhythm: str, result: dict) -> None:
    for later, words in ((False, "series 1-2"), (True, "the others")):
        for stage in ORDER:
            pairs = result["stages"].get((stage, later), [])
            if not pairs:
                print(f"{chain:11s} {rhythm:9s} {words:11s} {STAGES[stage]:14s}    none")
                continue
            total, own = ([pair[index] for pair in pairs] for index in (0, 1))
            print(f"{chain:11s} {rhythm:9s} {words:11s} {STAGES[stage]:14s} {len(pairs):3d}"
                  f" {statistics.median(total):9.2f} {percentile(total, 0.95):8.2f}"
                  f" {statistics.median(own):9.2f} {percentile(own, 0.95):8.2f}")
    print(f"{chain:11s} {rhythm:9s} {result['per_second']:.2f} movies a second from the first file; idle "
          f"{result['idle']:.2f} CPU-s a minute a protocol", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rhythm", action="append", choices=sorted(RHYTHMS))
    parser.add_argument("--upstream", action="store_true", help="measure the upstream chain too")
    parser.add_argument("--only-upstream", action="store_true")
    parser.add_argument("--shortest", action="store_true", help="the shortest settings that upstream's forms take")
    parser.add_argument("--throughput", action="store_true", help="100 runs of 0.2 s on 4 threads, and nothing else")
    parser.add_argument("--tilts-given", action="store_true", help="give tomostream the number of tilts")
    parser.add_argument("--unfiltered", action="store_true",
                        help="no filtered tomograms, which the CPU program adds to the stand-in's work")
    parser.add_argument("--seconds", default="0.5,2", help="run times of the two stand-ins (default 0.5,2)")
    parser.add_argument("--threads", type=int, default=3, help="threads of the protocols as in their forms (default 3)")
    parser.add_argument("--hold", type=int, default=3600, help="time without a movie after which the import ends, s")
    parser.add_argument("--idle", type=float, default=20.0, help="seconds of measuring what idling costs")
    parser.add_argument("--max-wait", type=float, default=540.0, help="seconds to wait for the last tomogram")
    options = parser.parse_args()
    print(f"{'s from the last movie of a series':48s}{'n':>4s}{'median':>10s}{'95 %':>9s}{'median':>10s}{'95 %':>9s}\n"
          f"{'':48s}{'all':>23s}{'minus programs':>19s}")
    for rhythm in [] if options.throughput else options.rhythm or ["steady", "fast", "in turns", "burst"]:
        for upstream in ([True] if options.only_upstream else [False, True] if options.upstream else [False]):
            options.now = rhythm
            show("upstream" if upstream else "tomostream", rhythm, run_chain(rhythm, upstream, options))
    if options.throughput or not options.rhythm:
        print(f"tomostream  100 runs of 0.2 s on 4 threads: {throughput(options):.2f} s, where the programs alone take 5.00 s",
              flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
