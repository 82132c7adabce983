# SPDX-License-Identifier: GPL-3.0-or-later
"""How long after the last movie of a series is what there? tomostream and the upstream chain, on the same acquisitions.

    python benchmarks/latency.py                            tomostream, all rhythms
    python benchmarks/latency.py --upstream                 and the upstream chain with its default settings
    python benchmarks/latency.py --upstream --shortest      ... with the shortest settings that its forms take
    python benchmarks/latency.py --rhythm steady --seconds 0.5,2

Simulated acquisitions; stand-ins of fixed run time for MotionCor3 and AreTomo2. Measured from outside: the times at which
the simulator wrote a movie, and at which a row was seen in an output set by a reader that looks at the files every 20 ms.
"minus programs" subtracts the run times of the programs (MotionCor of the last movie, AreTomo of the series), as they logged
them. The first two series are shown apart: from them tomostream learns how many tilts a series has (`--tilts-given` says it
in the form instead); until then a series is over when it has been still for longer than its rhythm allows, 10 s at least.
The first series of the upstream chain also holds the time in which its protocols start: each waits for its input to exist.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field

from tomostream.cli.project import scipion_environment
from tomostream.status import ARETOMO, CLASSES, COMPOSE, IMPORT, MOTIONCOR
from tomostream.tests.support import ORDER, Session, read_rows, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
STAGES = {IMPORT: "imported", MOTIONCOR: "aligned", COMPOSE: "composed", ARETOMO: "reconstructed"}
SETS = {IMPORT: "movies.sqlite", MOTIONCOR: "micrographs.sqlite", COMPOSE: "tiltseries.sqlite", ARETOMO: "tomograms.sqlite"}
UPSTREAM = {IMPORT: "ProtImportMovies", MOTIONCOR: "ProtMotionCorrNewStreaming", COMPOSE: "ProtComposeTS",
            ARETOMO: "ProtAreTomoAlignRecon"}
UPSTREAM_SETS = {COMPOSE: "tiltseries_composed.sqlite"}
#: Rhythm -> options of `tomostream simulate`. `burst`: everything at once, for movies per second.
RHYTHMS = {
    "steady": ("--series", "4", "--tilts", "11", "--interval", "2"),
    "fast": ("--series", "6", "--tilts", "11", "--interval", "0.7"),
    "in turns": ("--series", "3", "--tilts", "11", "--interval", "1", "--interleave"),
    "burst": ("--series", "4", "--tilts", "25", "--interval", "0"),
}
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
        ours = self.classes is CLASSES
        path = os.path.join(folder or "", SETS[name] if ours else UPSTREAM_SETS.get(name, SETS[name]))
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
def start_tomostream(session: Session, options: argparse.Namespace) -> None:
    given = {"compose.expectedTilts": RHYTHMS[options.now][3]} if options.tilts_given else {}
    session.run("--timeout", str(options.hold), "--quiet", engine="gpu", settings={
        **given,
        "aretomo.tomoThickness": 40, "aretomo.alignZ": 20, "motioncor.gpuList": "10 11 12 13", "aretomo.gpuList": "14 15",
        "motioncor.numberOfThreads": options.threads, "aretomo.numberOfThreads": 3})
    wait_for(lambda: session.ledger(ARETOMO), 240, "start of the last protocol")


def start_upstream(session: Session, options: argparse.Namespace) -> None:
    wait_for(lambda: os.path.isdir(session.frames) and os.listdir(session.frames), 60, "first movie")
    settings = {name: dict(values) for name, values in (SHORTEST if options.shortest else {}).items()}
    settings.setdefault(IMPORT, {})["timeout"] = "3600"
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
        simulate = (*RHYTHMS[rhythm], "--frames", "2", "--size", "64")
        if upstream:
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
    parser.add_argument("--tilts-given", action="store_true", help="tomostream is told the number of tilts")
    parser.add_argument("--seconds", default="0.5,2", help="run times of the two stand-ins (default 0.5,2)")
    parser.add_argument("--threads", type=int, default=3, help="threads of the protocols as in their forms (default 3)")
    parser.add_argument("--hold", type=int, default=3600, help="time without a movie after which the import ends, s")
    parser.add_argument("--idle", type=float, default=20.0, help="seconds of measuring what idling costs")
    parser.add_argument("--max-wait", type=float, default=700.0, help="seconds to wait for the last tomogram")
    options = parser.parse_args()
    print(f"{'s from the last movie of a series':48s}{'n':>4s}{'median':>10s}{'95 %':>9s}{'median':>10s}{'95 %':>9s}\n"
          f"{'':48s}{'all':>23s}{'minus programs':>19s}")
    for rhythm in options.rhythm or ["steady", "fast", "in turns", "burst"]:
        for upstream in ([True] if options.only_upstream else [False, True] if options.upstream else [False]):
            options.now = rhythm
            show("upstream" if upstream else "tomostream", rhythm, run_chain(rhythm, upstream, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
