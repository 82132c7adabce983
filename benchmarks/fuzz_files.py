# SPDX-License-Identifier: GPL-3.0-or-later
"""Run our programs on files and command lines that nobody tried, and say what they did wrong.

    python benchmarks/fuzz_files.py --cases 400 [--kinds movie,series] [--first 0]
    NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(mktemp -d) python benchmarks/fuzz_files.py --cases 400

Each case is made from its kind and number alone (`tomostream/tests/hostile.py`) and runs in a process that is watched: a crash,
a run of more than `--seconds`, or more than `--megabytes` of memory is found like a traceback, a second line, a refusal of what
is right or a wrong image. With NUMBA_BOUNDSCHECK=1 the compiled code checks every index.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from multiprocessing.connection import Connection


def work(line: Connection) -> None:
    """Run the cases that come; answer (wrong, said, megabytes that were taken at most)."""
    from tomostream.tests.hostile import Wrong, make, run

    while True:
        kind, seed = line.recv()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                wrong, said = "", run(make(kind, seed, folder))
            except Wrong as error:
                wrong, said = str(error), ""
            os.chdir("/")
        line.send((wrong, said.replace(folder, ""), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


class Worker:
    """A process that runs cases, and is started again where it was lost."""

    def __init__(self, seconds: float, megabytes: float) -> None:
        self._seconds, self._megabytes = seconds, megabytes
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._line, theirs = self._context.Pipe()
        self._process = self._context.Process(target=work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, kind: str, seed: int) -> tuple[str, str]:
        """What was wrong with a case, and what it said."""
        self._line.send((kind, seed))
        wrong, said = "", ""
        if not self._line.poll(self._seconds):
            wrong = f"no end within {self._seconds:g} s"
        else:
            try:
                wrong, said, peak = self._line.recv()
            except EOFError:
                self._process.join()
                wrong = f"the process was lost (exit {self._process.exitcode})"
            else:
                if peak <= self._megabytes:
                    return wrong, said
                wrong = wrong or f"{peak:.0f} MB of memory"
        self._process.kill()
        self._process.join()
        self._start()
        return wrong, said


def main() -> int:
    from tomostream.tests.hostile import KINDS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=400, help="of each kind")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seconds", type=float, default=180.0, help="the first case compiles")
    parser.add_argument("--megabytes", type=float, default=2000.0)
    options = parser.parse_args()
    worker, found, started = Worker(options.seconds, options.megabytes), 0, time.monotonic()
    for kind in options.kinds.split(","):
        counts: collections.Counter[str] = collections.Counter()
        for seed in range(options.first, options.first + options.cases):
            wrong, said = worker.run(kind, seed)
            counts["wrong" if wrong else "refused in a sentence" if said else "right"] += 1
            if wrong:
                found += 1
                print(f"{kind} {seed}: {wrong}", flush=True)
        words = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
        print(f"{kind}: {options.cases} cases, {words}", flush=True)
    print(f"{found} found in {time.monotonic() - started:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
