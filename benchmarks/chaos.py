# SPDX-License-Identifier: GPL-3.0-or-later
"""Are sessions exact whatever is killed, locked, filled, forbidden or stalled? Small sessions, disturbed at random.

    python benchmarks/chaos.py 20                    20 sessions of three disturbances each, seeds 0 to 19
    python benchmarks/chaos.py 20 --seed 100         seeds 100 to 119
    python benchmarks/chaos.py 1000 --record r.jsonl what is in the record is not played again
    python benchmarks/chaos.py 5 --kind kill         one kind of disturbance only
    python benchmarks/chaos.py 40 --jobs 2           two sessions at a time
    python benchmarks/chaos.py 0 --record r.jsonl    the counts of a record

kill, kill-two, kill-all: SIGKILL of one, two or all protocols (and the driver), then `tomostream resume`.
locked: a SQLite file (a set, a run's or the project's database) is locked for 30 s. full: the disk is full for a while (a
small tmpfs). unreadable: a set is no database for a while. permission: a folder (movies, mdocs, of a run, its files) may
not be entered for a while. stalled: a protocol stands still (SIGSTOP). paused-writer: the microscope stands still in the
middle of a movie. hang-up: the terminal is closed, or the driver ended. clock: the clock is set by an hour or 90 s (needs
a C compiler). neighbour: another session on the same machine and GPUs. scheduler: the programs of the session are jobs of a
queue whose scheduler fails, hangs, is silent or forgets them. unmounted (only with --kind): the disk with the movies is not
mounted for a while. `full`, `unmounted` and `permission` need root; the latter runs the session
as another user.

Every output set must be that of the undisturbed session: rows, ids, files, values; nothing registered is done again; no
log holds a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from tomostream.tests import chaos

SLOW_SECONDS = 30.0


def main() -> int:
    options = arguments()
    for number in (signal.SIGINT, signal.SIGHUP):       # `nohup` and `&` hand them on ignored, and then nothing can be hung up
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    record = read(options.record)
    played = {(entry["seed"], entry["kinds"]) for entry in record}
    kinds = {options.kind: 1} if options.kind else None
    rounds = [chaos.Round.of(seed, kinds, options.many, options.lock)
              for seed in range(options.seed, options.seed + options.rounds) if (seed, options.kind or "all") not in played]
    if rounds:
        expected = chaos.undisturbed()
        print(f"undisturbed: {', '.join(f'{len(rows)} in {name}' for name, rows in expected.items())}", flush=True)
        writing = threading.Lock()

        def one(round_: chaos.Round) -> None:
            entry = {**play(round_, expected, options.keep), "kinds": options.kind or "all"}
            with writing:
                record.append(entry)
                write(options.record, entry)
                print(f"{entry['seed']:5d}  {'; '.join(map(str, round_.disturbances))}: {entry['result']}", flush=True)

        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(one, rounds))
    return report(record)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", type=int)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--kind", choices=sorted(chaos.KINDS), help="this kind alone")
    parser.add_argument("--many", type=int, default=3, help="disturbances in a session (default: 3)")
    parser.add_argument("--lock", type=float, default=30.0, help="seconds that a database is locked (default: 30)")
    parser.add_argument("--jobs", type=int, default=1, help="sessions at a time (default: 1)")
    parser.add_argument("--keep", metavar="FOLDER", help="copy the sessions in which something was wrong there")
    parser.add_argument("--record", help="a file (JSON lines) that is continued")
    return parser.parse_args()


def read(path: str | None) -> list[dict]:
    if not path or not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path: str | None, entry: dict) -> None:
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def commit() -> str:
    """Of this working tree, with a + where tracked files are changed; "" outside git."""
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=os.path.dirname(__file__), capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno", "--", "../tomostream") else "")


def play(round_: chaos.Round, expected: dict, keep: str | None) -> dict:
    began, version, skipped = time.time(), commit(), False
    try:
        outcome = chaos.play(round_, expected, keep)
        result = "; ".join(outcome.wrong) or "same as undisturbed"
    except chaos.Skipped as why:
        outcome, result, skipped = chaos.Outcome(()), f"skipped: {why}", True
    except Exception as error:  # noqa: BLE001 - the other rounds go on; this one has failed, with the reason
        outcome, result = chaos.Outcome((f"{type(error).__name__}: {error}",)), f"{type(error).__name__}: {error}"
    return {**asdict(round_), "commit": version, "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime(began)),
            "result": result, "skipped": skipped, "wrong": len(outcome.wrong), "resumed": outcome.resumed,
            "seconds": round(time.time() - began, 1)}


def report(record: list[dict]) -> int:
    """Counts by kind, and the seconds that resuming took."""
    played = [entry for entry in record if not entry["skipped"]]
    many: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for entry in played:
        for each in entry["disturbances"]:
            many[each["kind"]] += 1
        wrong.update({each["kind"] for each in entry["disturbances"]} if entry["wrong"] else ())
    for kind, number in many.most_common():
        print(f"{kind:14s} {number:5d} disturbances, {wrong[kind]} in sessions with something wrong")
    resumed = [seconds for entry in played for seconds in entry["resumed"]]
    if resumed:
        print(f"seconds until the protocols went on: median {statistics.median(resumed):.1f}, most {max(resumed):.1f}, "
              f"{sum(seconds > SLOW_SECONDS for seconds in resumed)} of {len(resumed)} over {SLOW_SECONDS:.0f}")
    bad = sum(bool(entry["wrong"]) for entry in played)
    print(f"{len(played)} sessions with {sum(many.values())} disturbances, {bad} sessions with something wrong, "
          f"{len(record) - len(played)} skipped; commits {', '.join(sorted({entry['commit'] for entry in played}))}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
