# SPDX-License-Identifier: GPL-3.0-or-later
"""How often is a tilt series decided right, and how soon? Thousands of sessions in virtual time, with known truth.

    python benchmarks/completeness.py                     10,000 sessions, both rules side by side
    python benchmarks/completeness.py -n 1000 --ablation  what each rule of the machine is worth
    python benchmarks/completeness.py --show 4711         one session, event by event

The sessions come from `virtual_sessions.py`, which knows nothing of tomostream. Each goes through
`tomostream.acquisition.session`, and through the rule in use elsewhere: "mdoc file unchanged for 3 minutes, then all its
micrographs are there or the input is closed" (as scipion-em-tomo 3.12 does, looking every 10 s). Columns of the table:

right       the last composition has all tilts that could be used, and those left out are named
truncated   it lacks some that could be used (reported: they are named as left out)
mixed       it has a tilt of another series, or an exposure that the operator took again
duplicated  the same tilts were composed twice
lost        nothing was composed although it could be (reported: given up with a reason)
redone      compositions that came too early: a tilt was listed after them
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from player import Player
from virtual_sessions import FAULTS, SCHEMES, Mdoc, Shot, TrueSeries, VirtualSession, virtual_session

from tomostream.acquisition.events import Compose, Event, GiveUp, MdocRead, Policy
from tomostream.acquisition.evidence import RULES
from tomostream.acquisition.facts import Known, MdocFacts, Tilt

MIN_TILTS = 3
TIME_FOR_NEXT_TILT = 180.0
POLL = 10.0
OUTCOMES = ("right", "truncated", "mixed", "duplicated", "lost")
_EPOCH = datetime(2026, 1, 1)


@dataclass
class Composition:
    """What was composed, by any rule: when, under which identifier, from which shots (by movie), naming which others."""

    time: float
    series_id: str
    movies: tuple[str, ...]
    named: frozenset[str] = frozenset()
    versions: tuple[int, ...] = ()
    told: bool = False


@dataclass
class Run:
    """All that a rule decided in a session; `given_up` by the folder and name of the series."""

    compositions: list[Composition] = field(default_factory=list)
    given_up: Counter[str] = field(default_factory=Counter)
    end: float = math.inf


# ---------------------------------------------------------------------- the machine

class Machine(Player):
    """Plays a virtual session to the state machine."""

    def __init__(self, virtual: VirtualSession, rules_off: frozenset[str] = frozenset(), show: bool = False) -> None:
        super().__init__(Policy(time_for_next_tilt=TIME_FOR_NEXT_TILT, min_tilts=MIN_TILTS, rules_off=rules_off,
                                expected_tilts=virtual.tilts if virtual.known else None), virtual.events, show)
        self.tilts: dict[tuple[int, bool], Tilt] = {}
        self.movies: dict[tuple[float, datetime | None], str] = {}
        self.run = Run()
        self.files: dict[str, MdocFacts] = {}

    def play(self) -> Run:
        self.play_all()
        self.run.end = self.end
        return self.run

    def decided(self, when: float, decision: Compose | GiveUp) -> None:
        if isinstance(decision, GiveUp):
            self.run.given_up[decision.mdocs[0]] += 1
            self.ledger.setdefault(decision.series_id, decision)
            return
        self.ledger[decision.series_id] = decision
        told = any("started over" in text or "exposed again" in text for text in decision.warnings)
        self.run.compositions.append(Composition(
            when, decision.series_id, tuple(self._movie(tilt) for tilt in decision.tilts),
            frozenset(self._movie(left.tilt) for left in decision.left_out if left.reason),
            decision.micrograph_versions, told))

    def happens(self, when: float, what: str, data: object) -> Event | None:
        if isinstance(data, Mdoc):
            facts = self.files[data.path] = self._facts(data)
            return MdocRead(facts, when)
        if what == "micrograph" and isinstance(data, tuple):
            return self.aligned(_key(data[0]), data[1], when)
        return self.fails(_key(data), when) if isinstance(data, Shot) else None

    def gone(self, path: str) -> None:
        self.files.pop(path, None)

    def on_disk(self, when: float) -> Iterator[Event]:
        for facts in self.files.values():
            yield MdocRead(facts, when + 0.1)

    def _facts(self, mdoc: Mdoc) -> MdocFacts:
        kind = mdoc.kind if mdoc.shots or mdoc.kind in ("unreadable", "montage") else "unreadable"
        reasons = {"unreadable": "It is not an mdoc file.", "montage": "It is a montage, not a tilt series."}
        return MdocFacts(
            path=mdoc.path, kind=kind, reason=reasons.get(kind, ""), series_name=mdoc.series,
            tilts=tuple(self._tilt(shot, mdoc.names_movies) for shot in mdoc.shots), tilt_axis=Known(85.0, "title"),
            frame_series=mdoc.series if mdoc.kind == "frame" else "", last_section_open=mdoc.open_section)

    def _movie(self, tilt: Tilt) -> str:
        """Return the file of a tilt: where the mdoc named none, the machine knows the movie by its key, or not at all."""
        if tilt.movie is None:
            return self.movies[tilt.angle, tilt.time]
        return tilt.movie if tilt.movie.endswith(".tif") else f"{tilt.movie}.tif"

    def _tilt(self, shot: Shot, named: bool) -> Tilt:
        tilt = self.tilts.get((id(shot), named))
        if tilt is None:
            tilt = self.tilts[id(shot), named] = Tilt(
                shot.movie if named else None, shot.angle, shot.order, _EPOCH + timedelta(seconds=shot.stamp))
            self.movies[tilt.angle, tilt.time] = shot.movie
        return tilt


def _key(shot: Shot) -> str:
    return shot.movie[:-4]


# ---------------------------------------------------------------------- the rule in use elsewhere

class Untouched:
    """The rule of scipion-em-tomo: every 10 s, each mdoc that was not written to for the time for the next tilt is read;
    it is composed when all its micrographs are there, or with those that are there once the input is closed."""

    def __init__(self, virtual: VirtualSession) -> None:
        self.virtual = virtual
        self.run = Run()
        self.files: dict[str, tuple[float, Mdoc]] = {}
        self.processed: set[str] = set()
        self.used: set[str] = set()
        self.there: set[str] = set()
        self.closed, self.over, self.down = False, False, False

    def play(self) -> Run:
        next_poll = POLL
        for when, what, data in self.virtual.events:
            while next_poll <= when and not self.over:
                if not self.down:
                    self._poll(next_poll)
                next_poll += POLL
            self._event(when, what, data)
            if what == "stop":
                break
        self._polls(next_poll, next_poll + 1800.0)
        if not self.closed and self.virtual.end == "idle":
            # Its input ends after a time without movies. Then it decides with what is there.
            self.closed = True
            self._polls(next_poll + 1800.0, next_poll + 2400.0)
        return self.run

    def _polls(self, begin: float, end: float) -> None:
        for k in range(int((end - begin) / POLL)):
            if not self.over and not self.down:
                self._poll(begin + POLL * k)

    def _event(self, when: float, what: str, data: object) -> None:
        if isinstance(data, Mdoc):
            self.files[data.path] = (when + self.virtual.skew_of_server, data)
        elif what == "gone":
            self.files.pop(str(data), None)
        elif what == "micrograph" and isinstance(data, tuple):
            self.there.add(data[0].movie)
        elif what == "closed" or (what == "producer" and not data):
            self.closed = True
        elif what == "producer":
            self.closed = False
        elif what == "killed":
            self.down = True
        elif what == "continued":
            self.down, self.processed, self.used = False, set(), set()

    def _poll(self, now: float) -> None:
        if self.closed and self.processed >= self.files.keys():
            self.over, self.run.end = True, now
            return
        for path, (changed, mdoc) in list(self.files.items()):
            if path in self.processed:
                continue
            if now - changed < TIME_FOR_NEXT_TILT:
                if self.closed:
                    self.processed.add(path)
                continue
            self._read(now, path, mdoc)

    def _read(self, now: float, path: str, mdoc: Mdoc) -> None:
        if len(mdoc.shots) < MIN_TILTS or mdoc.kind != "tilt-series":
            self.processed.add(path)
            self.run.given_up[path] += 1
            return
        found = tuple(shot.movie for shot in mdoc.shots
                      if mdoc.names_movies and shot.movie in self.there and shot.movie not in self.used)
        if len(found) < len(mdoc.shots) and not self.closed:
            return
        self.processed.add(path)
        if found:
            self.used.update(found)
            named = frozenset(shot.movie for shot in mdoc.shots) - set(found)
            self.run.compositions.append(Composition(now, path, found, named, (1,) * len(found)))
        else:
            self.run.given_up[path] += 1


# ---------------------------------------------------------------------- judging

@dataclass
class Verdict:
    """How one series came out. `delay` from all being there to the decision, `after_tilt` from the last tilt, seconds;
    `gaps` is `after_last` (all listed and aligned, to the decision) over the series' own largest gap."""

    outcome: str
    reported: bool
    redone: int = 0
    delay: float | None = None
    after_tilt: float | None = None
    gaps: float | None = None
    note: str = ""


def judge(virtual: VirtualSession, run: Run) -> list[tuple[TrueSeries, Verdict]]:
    """Hold what was decided against what was acquired."""
    owner = {shot.movie: series for series in virtual.series for shot in series.shots}
    by_series: dict[int, list[Composition]] = defaultdict(list)
    for each in run.compositions:
        majority = Counter(id(owner[movie]) for movie in each.movies).most_common(1)[0][0]
        by_series[majority].append(each)
    until = min(virtual.stop_time, run.end if run.end < math.inf else math.inf)
    judged = []
    for series in virtual.series:
        if any(shot.listed_at < math.inf for shot in series.shots):
            judged.append((series, _judge_one(virtual, run, series, by_series[id(series)], until)))
    return judged


def _judge_one(virtual: VirtualSession, run: Run, series: TrueSeries, made: list[Composition], until: float) -> Verdict:
    deadline = virtual.stop_time
    counting = _counting(series, deadline)
    listed = {shot.movie: shot for shot in counting if shot.listed_at < deadline}
    usable = {movie for movie, shot in listed.items() if shot.aligned_at < deadline}
    given_up = any(count for path, count in run.given_up.items() if _of(path, series))
    if not made:
        if series.superseded:
            return Verdict("right", True, note="superseded")
        if len(usable) < MIN_TILTS:
            return Verdict("right" if given_up else "lost", given_up, note="nothing to compose")
        return Verdict("lost", given_up)
    last, final = made[-1], set(made[-1].movies)
    contents = [(each.movies, each.versions) for each in made]
    ids = {each.series_id for each in made if set(each.movies) & usable}
    if len(contents) != len(set(contents)) or len(ids) > 1:
        return Verdict("duplicated", False, note=str(ids))
    if final - {shot.movie for shot in counting}:
        return Verdict("mixed", last.told)
    if series.superseded:
        return Verdict("right", True, note="superseded")
    if usable - final:
        return Verdict("truncated", usable - final <= last.named, note=f"{len(final)}/{len(usable)}")
    if set(listed) - final - last.named and len(made) == 1 and not _late(listed, final, last):
        return Verdict("truncated", False, note="left out silently")
    return _right(series, made, final)


def _counting(series: TrueSeries, deadline: float) -> list[Shot]:
    """Return the exposures that count; one that was taken again counts if that was listed only after the session."""
    following = [*series.shots[1:], None]
    return [shot for shot, after in zip(series.shots, following, strict=True)
            if shot.kept or (after is not None and after.listed_at >= deadline)]


def _late(listed: dict[str, Shot], final: set[str], last: Composition) -> bool:
    """Tell whether what is not named was listed only after the decision, and never could be used."""
    return all(listed[movie].listed_at >= last.time for movie in set(listed) - final - last.named)


def _of(path: str, series: TrueSeries) -> bool:
    folder, name = path.rsplit("/", 1)
    return folder == series.folder and name.startswith(series.name)


def _right(series: TrueSeries, made: list[Composition], final: set[str]) -> Verdict:
    first = next(each for each in made if set(each.movies) == final)
    shots = [shot for shot in series.shots if shot.movie in final]
    last_tilt = max(shot.listed_at for shot in series.shots if shot.listed_at < math.inf)
    there = max(last_tilt, *(shot.aligned_at for shot in shots))
    times = sorted(shot.time for shot in series.shots)
    largest = max((b - a for a, b in pairwise(times)), default=0.0)
    redone = sum(any(shot.listed_at > each.time for shot in shots) for each in made)
    missing = len(series.kept) != len(final)
    return Verdict("right", True, redone, first.time - there, first.time - last_tilt,
                   None if missing or not largest else (first.time - there) / largest)


# ---------------------------------------------------------------------- tables

@dataclass
class Tally:
    """Counts and delays of one row of a table."""

    outcomes: Counter[tuple[str, bool]] = field(default_factory=Counter)
    redone: int = 0
    delays: list[float] = field(default_factory=list)
    known: list[float] = field(default_factory=list)
    after_tilt: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def add(self, verdict: Verdict, known: bool) -> None:
        self.outcomes[verdict.outcome, verdict.reported] += 1
        self.redone += verdict.redone
        if verdict.delay is not None and verdict.after_tilt is not None:
            self.delays.append(verdict.delay)
            self.after_tilt.append(verdict.after_tilt)
            if known:
                self.known.append(verdict.delay)
            elif verdict.gaps is not None:
                self.gaps.append(verdict.gaps)

    def merge(self, other: Tally) -> None:
        self.outcomes.update(other.outcomes)
        self.redone += other.redone
        for name in ("delays", "known", "after_tilt", "gaps"):
            getattr(self, name).extend(getattr(other, name))

    @property
    def silent(self) -> int:
        return sum(n for (outcome, reported), n in self.outcomes.items() if outcome != "right" and not reported)

    @property
    def reported(self) -> int:
        return sum(n for (outcome, reported), n in self.outcomes.items() if outcome != "right" and reported)


def _one(job: tuple[int, frozenset[str], bool]) -> tuple[dict[str, dict[str, Tally]], list[str]]:
    """Play one session by the machine (and by the other rule), return tallies by rule and by row."""
    seed, rules_off, both = job
    virtual = virtual_session(seed)
    runs = {"tomostream": Machine(virtual, rules_off).play()}
    if both:
        runs["untouched 3 min"] = Untouched(virtual).play()
    tallies: dict[str, dict[str, Tally]] = {rule: defaultdict(Tally) for rule in runs}
    notes = []
    for rule, run in runs.items():
        for series, verdict in judge(virtual, run):
            for row in ("all", virtual.scheme, *virtual.faults, "no fault" if not virtual.faults else "any fault"):
                tallies[rule][row].add(verdict, virtual.known)
            if rule == "tomostream" and verdict.outcome != "right" and not verdict.reported:
                notes.append(f"seed {seed} {series.folder}/{series.name}: {verdict.outcome} silently {verdict.note} "
                             f"[{virtual.scheme}; {', '.join(sorted(virtual.faults))}; {virtual.end}]")
        if rule == "tomostream":
            notes += [f"seed {seed} {path}: given up {run.given_up[path]} times" for path, when in virtual.junk.items()
                      if run.given_up[path] != 1 and when < min(run.end, virtual.stop_time)]
    return {rule: dict(rows) for rule, rows in tallies.items()}, notes


def play(seeds: Iterable[int], rules_off: frozenset[str], both: bool, workers: int) \
        -> tuple[dict[str, dict[str, Tally]], list[str]]:
    """Play many sessions on some processes."""
    total: dict[str, dict[str, Tally]] = defaultdict(lambda: defaultdict(Tally))
    notes: list[str] = []
    jobs = [(seed, rules_off, both) for seed in seeds]
    with multiprocessing.Pool(workers) as pool:
        for tallies, some in pool.imap_unordered(_one, jobs, chunksize=20):
            notes += some
            for rule, rows in tallies.items():
                for row, tally in rows.items():
                    total[rule][row].merge(tally)
    return total, notes


def _spread(values: list[float], digits: int = 1) -> str:
    if not values:
        return "-"
    ordered = sorted(values)
    return (f"{statistics.median(ordered):.{digits}f} / {ordered[int(0.95 * (len(ordered) - 1))]:.{digits}f} / "
            f"{ordered[-1]:.{digits}f}")


def table(total: dict[str, dict[str, Tally]]) -> Iterator[str]:
    """Yield the lines of the table: counts as reported + silent."""
    yield ("| sessions | rule | series | right | truncated | mixed | duplicated | lost | silent | redone | "
           "known: after last micrograph, s | unknown: in own largest gaps | last tilt to decision, s |")
    yield "|" + "---|" * 13
    for row in ("all", "no fault", "any fault", *SCHEMES, *FAULTS):
        for rule, rows in total.items():
            tally = rows.get(row)
            if tally is None:
                continue
            cells = [str(tally.outcomes["right", True] + tally.outcomes["right", False])]
            cells += [f"{tally.outcomes[outcome, True]} + {tally.outcomes[outcome, False]}" for outcome in OUTCOMES[1:]]
            yield (f"| {row} | {rule} | {sum(tally.outcomes.values())} | {' | '.join(cells)} | {tally.silent} | "
                   f"{tally.redone} | {_spread(tally.known, 2)} | {_spread(tally.gaps, 2)} | "
                   f"{_spread(tally.after_tilt, 0)} |")


def ablation(seeds: list[int], workers: int) -> Iterator[str]:
    """Yield the lines of a table: each rule switched off."""
    yield "| rule off | right | reported | silent | redone | known, s | unknown, gaps | last tilt to decision, s |"
    yield "|" + "---|" * 8
    for rule in ("(none)", *RULES):
        off = frozenset() if rule == "(none)" else frozenset((rule,))
        tally = play(seeds, off, False, workers)[0]["tomostream"]["all"]
        right = tally.outcomes["right", True] + tally.outcomes["right", False]
        yield (f"| {rule} | {right} | {tally.reported} | {tally.silent} | {tally.redone} | {_spread(tally.known, 2)} | "
               f"{_spread(tally.gaps, 2)} | {_spread(tally.after_tilt, 0)} |")


def show(seed: int) -> None:
    """Print one session, event by event."""
    virtual = virtual_session(seed)
    print(virtual.scheme, sorted(virtual.faults), virtual.end, "tilts", virtual.tilts, "known" if virtual.known else "")
    run = Machine(virtual, show=True).play()
    for series, verdict in judge(virtual, run):
        print(series.name, series.folder, len(series.kept), verdict)


def main() -> int:
    """Run the benchmark; exit status 1 if anything went wrong silently."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--sessions", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first session")
    parser.add_argument("--ablation", action="store_true", help="switch each rule off in turn")
    parser.add_argument("--show", type=int, metavar="SEED", help="print one session, event by event")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.show is not None:
        show(options.show)
        return 0
    seeds, started = list(range(options.seed, options.seed + options.sessions)), time.perf_counter()
    if options.ablation:
        for line in ablation(seeds, options.workers):
            print(line, flush=True)
        return 0
    total, notes = play(seeds, frozenset(), True, options.workers)
    for line in table(total):
        print(line)
    for note in notes[:40]:
        print(note)
    print(f"{options.sessions} sessions from seed {options.seed} in {time.perf_counter() - started:.0f} s; "
          f"silently wrong: {total['tomostream']['all'].silent}")
    return 1 if notes else 0


if __name__ == "__main__":
    sys.exit(main())
