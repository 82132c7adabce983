# SPDX-License-Identifier: GPL-3.0-or-later
"""Are sessions exact whatever is killed, locked, filled or stalled? Small sessions, each disturbed once, at random.

    python benchmarks/chaos.py 20                    20 rounds, seeds 0 to 19
    python benchmarks/chaos.py 20 --seed 100         seeds 100 to 119
    python benchmarks/chaos.py 1000 --record r.jsonl seeds that are in the record are not played again
    python benchmarks/chaos.py 5 --kind kill         one kind of disturbance only

kill, kill-two, kill-all: SIGKILL of one, two or all protocols (and the driver), then `tomostream resume`.
locked: a set is locked for 30 s. full: the disk is full for a while (a small tmpfs; needs root). unreadable: a set is no
database for a while. stalled: a protocol is stopped (SIGSTOP) for a while.
Every output set must be that of the undisturbed session: rows, ids, files, values; nothing registered is done again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections import Counter
from dataclasses import asdict

from tomostream.tests import chaos


def main() -> int:
    options = arguments()
    record = read(options.record)
    expected = chaos.undisturbed()
    print(f"undisturbed: {', '.join(f'{len(rows)} in {name}' for name, rows in expected.items())}", flush=True)
    kinds = {options.kind: 1} if options.kind else None
    for seed in range(options.seed, options.seed + options.rounds):
        if any(entry["seed"] == seed and entry["kind"] == chaos.Round.of(seed, kinds).kind for entry in record):
            continue
        entry = play(chaos.Round.of(seed, kinds, options.lock), expected)
        record.append(entry)
        if options.record:
            with open(options.record, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        print(f"{entry['seed']:5d}  {entry['kind']:10s} {','.join(entry['targets']):32s} at {entry['moment']:5.1f} s  "
              f"{entry['result']}", flush=True)
    return report(record)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", type=int)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--kind", choices=sorted(chaos.KINDS), help="this kind alone")
    parser.add_argument("--lock", type=float, default=30.0, help="seconds that a set is locked")
    parser.add_argument("--record", help="a file (JSON lines) that is continued")
    return parser.parse_args()


def read(path: str | None) -> list[dict]:
    if not path or not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def play(round_: chaos.Round, expected: dict) -> dict:
    began = time.time()
    try:
        wrong, resumed = chaos.play(round_, expected)
        result = "; ".join(wrong) or "same as undisturbed"
    except chaos.Skipped as skipped:
        wrong, resumed, result = [], 0.0, f"skipped: {skipped}"
    return {**asdict(round_), "result": result, "wrong": len(wrong), "resumed": round(resumed, 1),
            "seconds": round(time.time() - began, 1)}


def report(record: list[dict]) -> int:
    """Counts by kind, and the seconds that resuming took."""
    played = [entry for entry in record if not entry["result"].startswith("skipped")]
    wrong = Counter(entry["kind"] for entry in played if entry["wrong"])
    for kind, number in Counter(entry["kind"] for entry in played).most_common():
        print(f"{kind:10s} {number:5d} rounds, {wrong[kind]} with something wrong")
    resumed = [entry["resumed"] for entry in played if entry["resumed"]]
    if resumed:
        print(f"seconds until the protocols ran again: median {statistics.median(resumed):.1f}, most {max(resumed):.1f}")
    print(f"{len(played)} rounds, {sum(wrong.values())} with something wrong, {len(record) - len(played)} skipped")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
