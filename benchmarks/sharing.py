# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a session with much to do keep another one on the same machine from its share of the cores?

    python benchmarks/sharing.py                one session alone; beside one with a backlog; the same without sharing by tickets

Two sessions with the CPU engine. The first gets all its movies at once, more than the machine can do for minutes; the second
acquires two series, tilt by tilt. Printed for the second: seconds from the last movie of a series to its tomogram, and how far
the first one came meanwhile. "by luck": each looks for tickets in a folder of its own, so nobody waits for the other, and the
kernel decides.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time

from tomostream.journal.status import ARETOMO, MOTIONCOR
from tomostream.tests.support import Session, wait_for

SETTINGS = {"compose.expectedTilts": 11, "aretomo.tomoThickness": 160, "aretomo.alignZ": 120, "aretomo.binFactor": 1}
MANY, FEW = ("--series", "10", "--tilts", "11"), ("--series", "2", "--tilts", "11")
LOOK = ("--frames", "6", "--size", "384", "--pixel-size", "8")


def start(session: Session) -> None:
    session.run("--timeout", "1h", "--quiet", "--no-report", settings=SETTINGS)
    wait_for(lambda: session.ledger(ARETOMO), 300, "start of the last protocol")


def last_movies(session: Session) -> dict[str, float]:
    """Series -> when its last movie was whole."""
    last: dict[str, float] = {}
    with open(os.path.join(session.acquisition, "acquisition.csv"), encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["event"] == "movie":
                last[row["series"]] = max(last.get(row["series"], 0.0), float(row["time"]))
    return last


def measure(words: str, beside: bool, interval: float, shared: bool = True) -> None:
    """One run; prints a line."""
    with Session() as little, Session(**({"TMPDIR": little.environment["TMPDIR"]} if shared else {})) as much:
        start(little)
        if beside:
            start(much)
            much.simulate(*MANY, *LOOK).wait(timeout=600)
            wait_for(lambda: len(much.rows(MOTIONCOR)) >= 5, 300, "first micrographs of the backlog")
        began, done = time.time(), len(much.rows(MOTIONCOR)) if beside else 0
        little.simulate(*FEW, *LOOK, "--interval", str(interval))
        seen: dict[str, float] = {}

        def look() -> bool:
            for series in little.keys(ARETOMO):
                seen.setdefault(series, time.time())
            return len(seen) == 2

        wait_for(look, 900, "tomograms", every=0.1)
        last, seconds = last_movies(little), time.time() - began
        latencies = sorted(seen[series] - last[series] for series in seen)
        more = f"; the other one aligned {(len(much.rows(MOTIONCOR)) - done) / seconds:.2f} movies a second" if beside else ""
        print(f"{words:36s} {latencies[0]:6.1f} and {latencies[1]:6.1f} s{more}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interval", type=float, default=3.0, help="seconds from exposure to exposure of the second session")
    options = parser.parse_args()
    print("seconds from the last movie of a series to its tomogram", flush=True)
    measure("alone", False, options.interval)
    measure("beside a backlog, cores by tickets", True, options.interval)
    measure("beside a backlog, by luck", True, options.interval, shared=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
