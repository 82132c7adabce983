# SPDX-License-Identifier: GPL-3.0-or-later
"""All tables of the CPU engine, one after the other: frames, alignment (simulated, local, real), reconstruction, CTF.

    python benchmarks/engine.py [--seeds 10] [--threads 2] [--record FOLDER]

Each part is a command of its own with more options (`engine_frames.py`, `engine_align.py`, `engine_local.py`,
`engine_real.py`, `engine_recon.py`, `engine_ctf.py`); this prints the command before its tables. The alignment of ten seeds
takes hours: with --record it goes on where it was stopped. The real series is fetched once. Nothing else should run beside it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def commands(seeds: int, threads: int, record: Path | None) -> list[list[str]]:
    """The command lines."""
    align = ["engine_align.py", "--seeds", str(seeds), "--threads", str(threads)]
    if record is not None:
        align += ["--record", str(record / "align.jsonl")]
    return [["engine_frames.py", "--movies", "3", "--draws", "5", "--threads", str(threads)], align,
            ["engine_local.py", "--seeds", str(min(seeds, 3)), "--threads", str(threads)],
            ["engine_real.py", "--threads", str(threads)], ["engine_recon.py", "--threads", str(threads)],
            ["engine_ctf.py", "--seeds", str(min(seeds, 3)), "--threads", str(threads)]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--record", type=Path, help="folder in which the alignment notes what is done")
    options = parser.parse_args()
    if options.record is not None:
        options.record.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name, *arguments in commands(options.seeds, options.threads, options.record):
        print(f"\n$ python benchmarks/{shlex.join([name, *arguments])}", flush=True)
        failed += subprocess.run([sys.executable, str(HERE / name), *arguments], check=False).returncode != 0
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
