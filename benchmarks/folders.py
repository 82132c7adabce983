# SPDX-License-Identifier: GPL-3.0-or-later
"""Which movie belongs to which tilt, with folders and names as found in practice? Thousands of sessions, with known truth.

    python benchmarks/folders.py                        10,000 sessions, beside the rule of upstream
    python benchmarks/folders.py --alone                without the rule of upstream
    python benchmarks/folders.py --old CHECKOUT         another version of tomostream too
    python benchmarks/folders.py --show 4711            one session, event by event

The sessions come from `virtual_folders.py`, which knows nothing of tomostream: text of mdoc files, paths of movies. They go
through `read_mdoc` and the session's state machine, with the names that the import gives. Columns, each as "reported" (a failed
series, a tilt named as left out, movies reported as unassigned) + "silent":

right       the last composition has all images that could be used, and no other
mixed       it has an image of another series, or one that the operator took again (reported: as an angle exposed more than once)
lost        nothing was composed although it could be
truncated   images that could be used are left out
duplicated  the same images are in two series
unfinished  the session ended, or never does, without a decision
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields

from player import Player
from virtual_folders import EXTRAS, LAYOUTS, NAMES, TRANSFERS, FolderSession, Text, folder_session
from virtual_sessions import SCHEMES, Shot, TrueSeries

from tomostream.acquisition.events import Compose, Event, GiveUp, MdocRead, MovieSeen, Policy
from tomostream.acquisition.facts import MdocFacts
from tomostream.acquisition.mdoc import read_mdoc
from tomostream.acquisition.naming import basename, movie_key

MIN_TILTS = 3
OUTCOMES = ("right", "mixed", "lost", "truncated", "duplicated", "unfinished")
PENDING = ("acquiring", "aligning", "waiting")


@dataclass
class Run:
    """What a rule made of a session. Compositions: time, series, paths of the images, paths that are named as left out."""

    made: list[tuple[float, str, tuple[str, ...], frozenset[str]]] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)
    copies: set[str] = field(default_factory=set)
    loose: set[str] = field(default_factory=set)
    pending: set[str] = field(default_factory=set)
    end: float = math.inf


# ---------------------------------------------------------------------- tomostream

class Machine(Player):
    """Plays a session to the state machine of whichever tomostream is installed."""

    def __init__(self, world: FolderSession, show: bool = False) -> None:
        super().__init__(Policy(min_tilts=MIN_TILTS, expected_tilts=world.base.tilts if world.base.known else None),
                         world.events, show)
        self.world = world
        self.run = Run()
        self.taken: dict[str, str] = {}                 # name in the project -> path
        self.names: dict[str, str] = {}                 # path -> name in the project
        self.files: dict[str, Text] = {}
        self.seen: dict[str, float | None] = {}
        self.written = {path: world.written.get(shot) for shot, path in world.paths.items()}
        self.knows_paths = "path" in {each.name for each in fields(MovieSeen)}

    def play(self) -> Run:
        self.play_all()
        unassigned = getattr(self.session, "unassigned", dict)()
        self.run.end = self.end
        self.run.loose = {self._path(key) for key in unassigned}
        self.run.pending = {state.series_name for state in self.session.states() if state.state in PENDING}
        return self.run

    def decided(self, when: float, decision: Compose | GiveUp) -> None:
        if isinstance(decision, GiveUp):
            (self.run.failed if decision.failed else self.run.ignored).update(decision.mdocs)
            if decision.series_id:
                self.ledger.setdefault(decision.series_id, decision)
            else:
                self.run.copies.update(decision.mdocs)
            return
        self.ledger[decision.series_id] = decision
        self.run.made.append((when, decision.series_id, tuple(self._path(str(tilt.movie)) for tilt in decision.tilts),
                              frozenset((*(self._path(str(left.tilt.movie)) for left in decision.left_out),
                                         *self._repeated(decision)))))

    def _repeated(self, decision: Compose) -> Iterator[str]:
        """The images at angles that were exposed more than once, which the reason of a composition names."""
        times = Counter(round(tilt.angle, 1) for tilt in decision.tilts)
        return (self._path(str(tilt.movie)) for tilt in decision.tilts if times[round(tilt.angle, 1)] > 1)

    def _path(self, movie: str) -> str:
        """The file that the protocol would take for a movie that the machine names."""
        key = movie_key(movie)
        return self.taken.get(key, f"?{key}")

    def happens(self, when: float, what: str, data: object) -> Event | None:
        if isinstance(data, Text):
            self.files[data.path] = data
            return MdocRead(read_mdoc(data.path, data.data()), when)
        if what == "micrograph" and isinstance(data, tuple):
            return self.aligned(self._key(self.world.path_of(data[0])), data[1], when)
        if not isinstance(data, Shot):
            return None
        path = self.world.path_of(data)
        return self._movie_seen(path, when) if what == "movie" else self.fails(self._key(path), when)

    def gone(self, path: str) -> None:
        self.files.pop(path, None)

    def on_disk(self, when: float) -> Iterator[Event]:
        for path in self.seen:
            yield self._movie_seen(path, when + 0.05)
        for text in list(self.files.values()):
            yield MdocRead(read_mdoc(text.path, text.data()), when + 0.1)

    def _movie_seen(self, path: str, when: float) -> Event:
        written = self.written.get(path)
        self.seen[path] = written
        key = self._key(path)
        return MovieSeen(key, when, path=path, written=written) if self.knows_paths else MovieSeen(key, when)

    def _key(self, path: str) -> str:
        """The name that the import gives: that of the file, with its folder in front where another folder has it too."""
        if path not in self.names:
            name = basename(path).replace(" ", "_")
            if movie_key(name) in self.taken:
                name = f"{basename(os.path.dirname(path))}_{name}"
            while movie_key(name) in self.taken:
                name = f"_{name}"
            self.names[path] = movie_key(name)
            self.taken[movie_key(name)] = path
        return self.names[path]


# ---------------------------------------------------------------------- the rule in use elsewhere

class Untouched:
    """The rule of scipion-em-tomo: each mdoc that was not written to for 3 min is read; its movies are those micrographs that
    have the basename in SubFramePath; it is composed when all are there, or with those that are once the input is closed."""

    POLL, QUIET = 10.0, 180.0

    def __init__(self, world: FolderSession) -> None:
        self.world = world
        self.run = Run()
        self.files: dict[str, tuple[float, Text]] = {}
        self.done: set[str] = set()
        self.there: dict[str, str] = {}
        self.used: set[str] = set()
        self.closed = False
        self.read: dict[str, tuple[Text, MdocFacts]] = {}

    def play(self) -> Run:
        poll = self.world.events[0][0] + self.POLL
        for when, what, data in self.world.events:
            while poll <= when:
                self._poll(poll)
                poll += self.POLL
            if isinstance(data, Text):
                self.files[data.path] = (when, data)
            elif what == "gone":
                self.files.pop(str(data), None)
            elif what == "micrograph" and isinstance(data, tuple):
                path = self.world.path_of(data[0])
                self.there.setdefault(movie_key(path), path)
            elif what == "stop":
                break
            self.closed = self.closed or what == "closed"
        for _ in range(200):
            self._poll(poll)
            poll += self.POLL
        self.closed = True
        self._poll(poll)
        self.run.pending = self.files.keys() - self.done
        return self.run

    def _poll(self, now: float) -> None:
        for path, (changed, text) in list(self.files.items()):
            if path in self.done or (now - changed < self.QUIET and not self.closed) or not path.endswith(".mdoc"):
                continue
            if path not in self.read or self.read[path][0] is not text:
                self.read[path] = (text, read_mdoc(path, text.data()))
            facts = self.read[path][1]
            if facts.kind != "tilt-series" or len(facts.tilts) < MIN_TILTS:
                self.done.add(path)
                self.run.failed.add(path)
                continue
            keys = [movie_key(tilt.movie) for tilt in facts.tilts if tilt.movie]
            found = [self.there[key] for key in keys if key in self.there and self.there[key] not in self.used]
            if len(found) < len(facts.tilts) and not self.closed:
                continue
            self.done.add(path)
            if found:
                self.used.update(found)
                self.run.made.append((now, path, tuple(found), frozenset()))
            else:
                self.run.failed.add(path)


# ---------------------------------------------------------------------- judging

@dataclass(frozen=True)
class Verdict:
    """How one series came out, whether that was said, and what there is to see."""

    outcome: str
    said: bool
    note: str = ""


def judge(world: FolderSession, run: Run) -> Iterator[tuple[TrueSeries, Verdict]]:
    """Hold what was composed against what was acquired, image by image."""
    owner = {world.path_of(shot): series for series in world.series for shot in series.shots}
    finals: dict[str, tuple[float, tuple[str, ...], frozenset[str]]] = {}
    for when, series_id, images, named in run.made:
        finals[series_id] = (when, images, named)
    mine: dict[int, list[str]] = defaultdict(list)
    for series_id, (_, images, _) in finals.items():
        majority = Counter(id(owner[image]) if image in owner else 0 for image in images).most_common(1)[0][0]
        mine[majority].append(series_id)
    for series in world.series:
        if series.shots:
            yield series, _judge_one(world, run, series, [finals[each] for each in mine[id(series)]], mine[id(series)])


def _judge_one(world: FolderSession, run: Run, series: TrueSeries, made: list[tuple[float, tuple[str, ...], frozenset[str]]],
               ids: list[str]) -> Verdict:
    until = min(world.base.stop_time + world.events[0][0], run.end)
    listed, aligned = _when(world)
    usable = {world.path_of(shot) for shot in series.kept
              if aligned.get(id(shot), math.inf) < until and listed.get(id(shot), math.inf) < until}
    all_mine = {world.path_of(shot) for shot in series.shots}
    allowed = all_mine if until < math.inf else {world.path_of(shot) for shot in series.kept}
    if not made:
        said = bool(run.failed & set(world.mdocs.get(id(series), ()))) or bool(run.loose & all_mine)
        if series.superseded or len(usable) < MIN_TILTS:
            return Verdict("right", True)
        if series.name in run.pending or run.pending & set(world.mdocs.get(id(series), ())):
            return Verdict("unfinished", said)
        return Verdict("lost", said, f"{len(usable)} usable")
    for _, images, named in made:
        foreign = [image for image in images if image not in all_mine]
        if foreign:
            return Verdict("mixed", named.issuperset(foreign), f"{len(foreign)} of {len(images)}: {foreign[0]}")
        again = [image for image in images if image not in allowed]
        if again and not series.superseded:
            return Verdict("mixed", named.issuperset(again), f"exposed again: {again[0]}")
    if len(made) > 1:
        both = set(made[0][1]) & set(made[1][1])
        return Verdict("duplicated" if both else "truncated", False, ", ".join(ids))
    _, images, named = made[0]
    lacking = usable - set(images)
    if lacking and not series.superseded:
        return Verdict("truncated", lacking <= named | run.loose, f"{len(images)} of {len(usable)}")
    return Verdict("right", True)


def _when(world: FolderSession) -> tuple[dict[int, float], dict[int, float]]:
    """Return when each shot was listed first, and when its micrograph came."""
    listed: dict[int, float] = {}
    aligned: dict[int, float] = {}
    for when, what, data in world.events:
        if isinstance(data, Text) and data.path not in world.others:
            for shot in data.shots:
                listed.setdefault(id(shot), when)
        elif what == "micrograph" and isinstance(data, tuple):
            aligned.setdefault(id(data[0]), when)
    return listed, aligned


# ---------------------------------------------------------------------- tables

Tallies = dict[str, Counter[tuple[str, bool]]]


def _one(job: tuple[int, bool]) -> tuple[dict[str, Tallies], list[str]]:
    """Play one session by every rule; return counts by rule and row."""
    seed, upstream = job
    world = folder_session(seed)
    try:
        runs = {"tomostream": Machine(world).play()}
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return {}, [f"seed {seed}: raised {type(error).__name__}: {error}"]
    if upstream:
        runs["upstream"] = Untouched(world).play()
    tallies: dict[str, Tallies] = {rule: defaultdict(Counter) for rule in runs}
    notes = []
    for rule, run in runs.items():
        for series, verdict in judge(world, run):
            for row in ("all", world.layout, world.names, world.transfer, world.base.scheme, *world.extras):
                tallies[rule][row][verdict.outcome, verdict.said] += 1
            if rule == "tomostream" and verdict.outcome != "right" and not (verdict.said and verdict.outcome == "truncated"):
                notes.append(f"seed {seed} {series.folder}/{series.name}: {verdict.outcome} "
                             f"{'said' if verdict.said else 'IN SILENCE'} {verdict.note} [{world.layout}; {world.names}; "
                             f"{world.transfer}; {world.base.scheme}; {', '.join(sorted(world.extras))}; "
                             f"{', '.join(sorted(world.base.faults))}; {world.base.end}]")
        if rule == "tomostream":
            said = run.failed - run.copies          # a copy is reported as one, and its series can fail for other reasons
            notes += [f"seed {seed} {path}: no series, and composed or failed" for path in world.others if path in said]
    return {rule: dict(rows) for rule, rows in tallies.items()}, notes


def play(seeds: Iterable[int], upstream: bool, workers: int) -> tuple[dict[str, Tallies], list[str]]:
    """Play many sessions on some processes."""
    total: dict[str, Tallies] = defaultdict(lambda: defaultdict(Counter))
    notes: list[str] = []
    with multiprocessing.Pool(workers) as pool:
        for tallies, some in pool.imap_unordered(_one, [(seed, upstream) for seed in seeds], chunksize=10):
            notes += some
            for rule, rows in tallies.items():
                for row, counts in rows.items():
                    total[rule][row].update(counts)
    return {rule: dict(rows) for rule, rows in total.items()}, notes


def table(total: dict[str, Tallies]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"{'sessions':34} {'rule':12} {'series':>7} {'right':>7} " + " ".join(f"{outcome:>13}" for outcome in OUTCOMES[1:])
    for row in ("all", *LAYOUTS, *NAMES, *TRANSFERS, *SCHEMES, *EXTRAS):
        for rule, rows in total.items():
            counts = rows.get(row)
            if counts:
                cells = " ".join(f"{f'{counts[outcome, True]} + {counts[outcome, False]}':>13}" for outcome in OUTCOMES[1:])
                right = counts["right", True] + counts["right", False]
                yield f"{row:34} {rule:12} {sum(counts.values()):7d} {right:7d} {cells}"


def other_version(checkout: str, options: argparse.Namespace) -> Tallies:
    """Let another checkout of tomostream play the same sessions, in processes of its own."""
    command = [sys.executable, os.path.abspath(__file__), "-n", str(options.sessions), "--seed", str(options.seed), "--workers",
               str(options.workers), "--pickle"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.path.abspath(checkout)}, capture_output=True, check=True)
    rows: Tallies = pickle.loads(done.stdout)
    return rows


def show(seed: int) -> None:
    """Print one session, event by event."""
    world = folder_session(seed)
    print(world.layout, "|", world.names, "|", world.transfer, "|", world.base.scheme, "|", sorted(world.extras),
          sorted(world.base.faults), world.base.end)
    run = Machine(world, show=True).play()
    for series, verdict in judge(world, run):
        print(series.folder, series.name, len(series.kept), "superseded" if series.superseded else "", verdict)


def main() -> int:
    """Run the benchmark; exit status 1 if anything is mixed, or silently lost or unfinished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--sessions", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first session")
    parser.add_argument("--old", metavar="CHECKOUT", help="another version of tomostream to compare with")
    parser.add_argument("--show", type=int, metavar="SEED", help="print one session, event by event")
    parser.add_argument("--notes", type=int, default=30, help="how many series that are not right to name")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="without the rule of upstream")
    parser.add_argument("--pickle", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.show is not None:
        show(options.show)
        return 0
    started, seeds = time.perf_counter(), range(options.seed, options.seed + options.sessions)
    total, notes = play(seeds, not (options.pickle or options.alone), options.workers)
    if options.pickle:
        sys.stdout.buffer.write(pickle.dumps(total["tomostream"]))
        return 0
    if options.old:
        total["old"] = other_version(options.old, options)
    for line in table(total):
        print(line)
    for note in notes[: options.notes]:
        print(note)
    counts = total["tomostream"]["all"]
    silent = sum(counts[outcome, False] for outcome in OUTCOMES[1:])
    print(f"{options.sessions} sessions from seed {options.seed} in {time.perf_counter() - started:.0f} s; "
          f"silently wrong: {silent}; mixed, and reported: {counts['mixed', True]}")
    return 1 if silent or counts["mixed", True] else 0


if __name__ == "__main__":
    sys.exit(main())
