# SPDX-License-Identifier: GPL-3.0-or-later
"""Acquisition sessions in virtual time, with known truth: what each mdoc says when, and when each micrograph comes.

This knows how instruments acquire and write, and nothing of how tomostream decides: it imports nothing of it. Times are
seconds by our clock; `Shot.stamp` is what the microscope, whose clock is off, writes into the mdoc. The facts of the
acquisition software (what is rewritten, renamed, interleaved) are those of the SerialEM, PACEtomo and Tomo5 manuals.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

SCHEMES = ("dose-symmetric", "bidirectional, half1", "unidirectional", "interleaved, 2-30 targets",
           "PACEtomo, rewritten sorted", "Tomo5, written at the end", "frame mdocs")
FAULTS = ("pause up to 20 min", "aborted", "repeated exposure", "lost movie", "late movie", "failed alignment", "restart",
          "half-written", "clock skew 5 min", "slow file server", "producer dies", "slow producer", "name used again",
          "other files", "realigned")
ENDS = ("closed", "closed", "closed", "stopped", "idle", "idle")

#: Series that a scheme acquires in turns.
INTERLEAVED = SCHEMES[3:6]


@dataclass(eq=False)
class Shot:
    """One exposure: the movie's name, the angle in degrees, when it ended by our clock, and by the microscope's."""

    movie: str
    angle: float
    time: float
    stamp: float
    order: int
    kept: bool = True
    aligned_at: float = math.inf
    failed: bool = False
    listed_at: float = math.inf


@dataclass(eq=False)
class TrueSeries:
    """What really was acquired as one series. `superseded`: its name was used again, in the same folder, later."""

    name: str
    folder: str
    shots: list[Shot] = field(default_factory=list)
    superseded: bool = False

    @property
    def kept(self) -> list[Shot]:
        return [shot for shot in self.shots if shot.kept]


@dataclass(frozen=True)
class Mdoc:
    """What a file says at a time: `kind` is that of tomostream's reader. `open_section`: it ends within a section."""

    path: str
    series: str
    kind: str
    shots: tuple[Shot, ...] = ()
    open_section: bool = False
    names_movies: bool = True


@dataclass
class VirtualSession:
    """A session: what happens as (time, what, data), and the truth about it. `junk`: mdocs of no series, since when."""

    scheme: str
    faults: frozenset[str]
    known: bool
    end: str
    tilts: int
    series: list[TrueSeries]
    events: list[tuple[float, str, Any]]
    junk: dict[str, float]
    skew_of_server: float

    @property
    def stop_time(self) -> float:
        return next((time for time, what, _ in self.events if what == "stop"), math.inf)


@dataclass
class _Plan:
    rng: Random
    scheme: str
    faults: frozenset[str]
    period: float
    step: float
    steps: int
    start: float
    skew: float
    burst: float
    jobs: int
    serial: int = 0
    most_targets: int = 30


def virtual_session(seed: int, small: bool = False) -> VirtualSession:
    """Make one session from a seed. A small one has few targets of few tilts, and names are used again more often."""
    rng = Random(seed)
    scheme = SCHEMES[seed % len(SCHEMES)]
    faults = frozenset(fault for fault in FAULTS if rng.random() < 0.15)
    known = rng.random() < 0.35
    skewed = "clock skew 5 min" in faults
    plan = _Plan(rng, scheme, faults, rng.uniform(8, 60), rng.choice((2.0, 3.0, 3.0, 4.0)), 0, 0.0,
                 rng.uniform(-300, 300) if skewed else rng.uniform(-1, 1),
                 rng.uniform(5, 40) if "slow file server" in faults else 0.0,
                 rng.randint(1, 2) if scheme in INTERLEAVED else rng.randint(2, 5))
    plan.steps = int(rng.uniform(30, 62) / plan.step)
    plan.start = rng.choice((0.0, 0.0, 0.0, 8.0, -12.0))
    if small:
        plan.steps, plan.most_targets = rng.randint(4, 6), 5
        if rng.random() < 0.1:
            plan.faults = faults = faults | {"aborted", "name used again"}
    series = _acquire(plan)
    writer = _Writer(plan)
    writer.write_all(series)
    movies = _produce(plan, [shot for each in series for shot in each.shots])
    junk = writer.junk(series) if "other files" in faults else {}
    events = sorted([*writer.events, *movies, *_restart(plan, series)], key=lambda event: event[0])
    events = _end(rng, rng.choice(ENDS), events)
    end = next((what for _, what, _ in events if what in ("closed", "stop")), "idle")
    _note_truth(events)
    return VirtualSession(scheme, faults, known, end, 2 * plan.steps + 1, series, events, junk,
                          rng.uniform(-300, 300) if skewed else 0.0)


# ---------------------------------------------------------------------- acquisition

def _angles(plan: _Plan) -> list[float]:
    one_side = [plan.step * k for k in range(1, plan.steps + 1)]
    if plan.scheme == "unidirectional":
        return sorted([0.0, *one_side, *(-a for a in one_side)])
    if plan.scheme.startswith("bidirectional"):
        return [0.0, *one_side, *(-a for a in one_side)]
    pairs = [0.0]
    for k, angle in enumerate(one_side):
        pairs += [angle, -angle] if k % 2 == 0 else [-angle, angle]
    return pairs


def _acquire(plan: _Plan) -> list[TrueSeries]:
    """Let the microscope run: jobs one after another, each a series or several in turns."""
    rng, time, every = plan.rng, 60.0, []
    pause_in = rng.randrange(plan.jobs) if "pause up to 20 min" in plan.faults else -1
    abort_in = rng.randrange(plan.jobs) if "aborted" in plan.faults else -1
    for job in range(plan.jobs):
        again = job > 0 and "name used again" in plan.faults and rng.random() < 0.5 and plan.scheme in SCHEMES[:3:2]
        group = _names(plan, job, every[-1] if again else None)
        order = _turns(plan, group, job == abort_in)
        pause_at = rng.randrange(len(order)) if job == pause_in else -1
        for place, (series, angle) in enumerate(order):
            time += _gap(plan, place, series, angle)
            if place == pause_at:
                time += rng.uniform(100, 1200)
            _shoot(plan, series, angle, time)
            if "repeated exposure" in plan.faults and plan.scheme in SCHEMES[:3] and rng.random() < 0.06:
                series.shots[-1].kept = False
                time += plan.period * rng.uniform(0.8, 2.0)
                _shoot(plan, series, angle, time)
        every += group
        time += rng.uniform(60, 600)
    return every


def _names(plan: _Plan, job: int, again: TrueSeries | None) -> list[TrueSeries]:
    rng = plan.rng
    if again is not None:
        folder = again.folder if rng.random() < 0.5 else "/data/second"
        again.superseded = folder == again.folder
        return [TrueSeries(again.name, folder)]
    targets = int(math.exp(rng.uniform(math.log(2), math.log(plan.most_targets + 1)))) if plan.scheme in INTERLEAVED else 1
    if plan.scheme.startswith("Tomo5"):
        return [TrueSeries(f"Position_{job + 1}" + (f"_{k}" if k > 1 else ""), "/data") for k in range(1, targets + 1)]
    return [TrueSeries(f"TS_{job + 1:02d}" + (f"_{k:02d}" if targets > 1 else ""), "/data") for k in range(targets)]


def _turns(plan: _Plan, group: list[TrueSeries], abort: bool) -> list[tuple[TrueSeries, float]]:
    """Return who is exposed at which angle, in order. Interleaved targets can be dropped on the way."""
    angles = _angles(plan)
    order = [(series, angle) for angle in angles for series in group]
    if len(group) > 1:
        dropped = {id(series): plan.rng.randrange(2, len(angles)) for series in group if plan.rng.random() < 0.04}
        order = [(series, angle) for place, angle in enumerate(angles) for series in group
                 if place < dropped.get(id(series), len(angles))]
    return order[: plan.rng.randint(1, len(order))] if abort else order


def _gap(plan: _Plan, place: int, series: TrueSeries, angle: float) -> float:
    rng = plan.rng
    gap = plan.period * rng.uniform(0.8, 1.2)
    if rng.random() < 0.08:
        gap += plan.period * rng.uniform(0.2, 0.8)
    turn = plan.scheme.startswith("bidirectional") and angle == -plan.step and series.shots
    return gap + (plan.period * rng.uniform(1.0, 6.0) if turn else 0.0)


def _shoot(plan: _Plan, series: TrueSeries, angle: float, time: float) -> None:
    plan.serial += 1
    order = len(series.shots) + 1
    nominal = angle + plan.start
    name = f"{series.name}_{order:03d}_{nominal:.2f}_{plan.serial:05d}.tif"
    if plan.scheme == "frame mdocs":
        name = f"{series.name}_{order:04d}_{nominal:.1f}.tif"
    series.shots.append(Shot(name, nominal + plan.rng.gauss(0, 0.01), time, round(time + plan.skew), order))


# ---------------------------------------------------------------------- mdoc files

class _Writer:
    """Writes the mdoc files of all series, as (time, "mdoc", Mdoc) and (time, "gone", path)."""

    def __init__(self, plan: _Plan) -> None:
        self.plan, self.rng = plan, plan.rng
        self.events: list[tuple[float, str, Any]] = []

    def write_all(self, series: list[TrueSeries]) -> None:
        for each in series:
            if self.plan.scheme.startswith("Tomo5"):
                continue
            elif self.plan.scheme == "frame mdocs":
                self._frames(each)
            else:
                self._grow(each)
        if self.plan.scheme.startswith("Tomo5"):
            self._at_the_end(series)
        if self.plan.burst:
            self.events = list(_in_bursts(self.events, self.plan.burst))

    def _put(self, time: float, path: str, series: TrueSeries, shots: Iterable[Shot], kind: str = "tilt-series",
             names_movies: bool = True, safe: bool = False) -> float:
        """Write a file; now and then it is first seen half-written. Return when it is whole."""
        shots, time = tuple(shots), time + self.rng.uniform(0.05, 1.0)
        if "half-written" in self.plan.faults and not safe and self.rng.random() < 0.15 and shots:
            self.events.append((time, "mdoc", Mdoc(path, series.name, kind, shots[:-1], True, names_movies)))
            time += self.rng.uniform(0.2, 15.0)
        self.events.append((time, "mdoc", Mdoc(path, series.name, kind, shots, False, names_movies)))
        return time

    def _grow(self, series: TrueSeries) -> None:
        path, content, turned = f"{series.folder}/{series.name}.mrc.mdoc", [], False
        time = 0.0
        for shot in series.shots:
            if self.plan.scheme.startswith("bidirectional") and not turned and shot.angle < self.plan.start - 0.5:
                turned = True
                self._turn(series, path, content, shot.time)
            if content and not content[-1].kept:
                content.pop()
            content.append(shot)
            time = self._put(max(shot.time, time), path, series, content)
        if self.plan.scheme.startswith("PACEtomo") and content:
            self._sort(series, path, content, time)

    def _turn(self, series: TrueSeries, path: str, content: list[Shot], before: float) -> None:
        """Half-way, the file is renamed and filled again in reverse order."""
        time = before - self.rng.uniform(0.1, 0.5) * self.plan.period
        self.events.append((time, "gone", path))
        half = path.replace(".mrc.mdoc", ".mrc-half1.mdoc")
        self.events.append((time + 0.01, "mdoc", Mdoc(half, series.name, "tilt-series", tuple(content))))
        if self.rng.random() < 0.5:
            part = tuple(reversed(content))[: self.rng.randrange(len(content))]
            self.events.append((time + 0.02, "mdoc", Mdoc(path, series.name, "tilt-series", part, True)))
        content.reverse()

    def _sort(self, series: TrueSeries, path: str, content: list[Shot], time: float) -> None:
        """PACEtomo leaves the file as it grew under another name and writes one sorted by angle."""
        time += self.rng.uniform(1, 20)
        other = path.replace(".mrc.mdoc", "_unsorted.mrc.mdoc")
        self.events.append((time, "gone", path))
        self.events.append((time + 0.01, "mdoc", Mdoc(other, series.name, "tilt-series", tuple(content))))
        ordered = sorted(content, key=lambda shot: shot.angle)
        part = tuple(ordered[: self.rng.randrange(len(ordered))])
        self.events.append((time + 0.02, "mdoc", Mdoc(path, series.name, "tilt-series", part, True)))
        self.events.append((time + 0.5, "mdoc", Mdoc(path, series.name, "tilt-series", tuple(ordered))))

    def _frames(self, series: TrueSeries) -> None:
        for shot in series.shots:
            path = f"{series.folder}/{shot.movie[:-4]}.mrc.mdoc"
            self._put(shot.time, path, series, (shot,), "frame")

    def _at_the_end(self, series: list[TrueSeries]) -> None:
        """All mdocs of a batch are written when its last tilt is done, 2-3 s apart."""
        ends: dict[str, float] = {}
        for each in series:
            batch = "_".join(each.name.split("_")[:2])
            ends[batch] = max([ends.get(batch, 0.0), *(shot.time for shot in each.shots)])
        names_movies = self.rng.random() < 0.6
        for each in series:
            if each.shots:
                batch = "_".join(each.name.split("_")[:2])
                ends[batch] += self.rng.uniform(2, 3)
                path = f"{each.folder}/{each.name}.mdoc"
                self._put(ends[batch], path, each, each.shots, names_movies=names_movies)

    def junk(self, series: list[TrueSeries]) -> dict[str, float]:
        """Files that are no tilt series, and a copy of one that is. Return when each appears."""
        last = series[-1].shots[-1].time if series[-1].shots else 100.0
        files: dict[str, float] = {}
        for path, kind in (("/data/garbage.mdoc", "unreadable"), ("/data/montage.mdoc", "montage")):
            time = files[path] = self.rng.uniform(10, last)
            self.events.append((time, "mdoc", Mdoc(path, path.split("/")[-1][:-5], kind)))
        whole = next((each for each in series if each.shots and not each.superseded), None)
        if whole is not None and self.plan.scheme != "frame mdocs":
            path = f"{whole.folder}/copy_of_{whole.name}.mdoc"
            time = max([last, *(time for time, _, _ in self.events)]) + self.rng.uniform(1, 100)
            self.events.append((time, "mdoc", Mdoc(path, f"copy_of_{whole.name}", "tilt-series", tuple(whole.kept))))
            files[path] = time
        return files


def _in_bursts(events: list[tuple[float, str, Any]], burst: float) -> Iterator[tuple[float, str, Any]]:
    """A file server shows what changed every `burst` seconds, and only the last state of each file."""
    newest: dict[tuple[int, str], tuple[float, str, Any]] = {}
    for time, what, data in sorted(events, key=lambda event: event[0]):
        turn = math.ceil(time / burst)
        path = data if isinstance(data, str) else data.path
        newest.pop((turn, path), None)
        newest[turn, path] = (turn * burst, what, data)
    yield from newest.values()


# ---------------------------------------------------------------------- micrographs

def _produce(plan: _Plan, shots: list[Shot]) -> list[tuple[float, str, Any]]:
    """Align the movies in the order in which they come, on some workers; lose, delay and fail some."""
    rng, events = plan.rng, []
    workers = [0.0] * rng.choice((1, 2, 4))
    service = plan.period * len(workers) * (rng.uniform(1.02, 1.3) if "slow producer" in plan.faults
                                            else rng.uniform(0.1, 0.8))
    dead = _dead_time(plan, shots)
    if dead is not None:
        events += [(dead[0], "producer", False), (dead[1], "producer", True)]
    arrivals = []
    for shot in shots:
        if "lost movie" in plan.faults and rng.random() < 0.01:
            continue
        late = rng.uniform(60, 1800) if "late movie" in plan.faults and rng.random() < 0.02 else 0.0
        arrivals.append((shot.time + rng.uniform(0.5, 4.0) + late, len(arrivals), shot))
    heapq.heapify(workers)
    for arrival, _, shot in sorted(arrivals):
        start = max(arrival, heapq.heappop(workers))
        end = start + service * rng.uniform(0.8, 1.3)
        if dead is not None and end > dead[0] and start < dead[1]:
            end = dead[1] + (end - start)
        heapq.heappush(workers, end)
        if "failed alignment" in plan.faults and rng.random() < 0.02:
            events.append((end, "failed", shot))
            if rng.random() < 0.3:
                events.append((end + rng.uniform(30, 3000), "micrograph", (shot, 1)))
        else:
            events.append((end, "micrograph", (shot, 1)))
    if "realigned" in plan.faults and shots:
        first = rng.randrange(len(shots))
        last_end = max(time for time, _, _ in events)
        done = {id(data[0]) for _, what, data in events if what == "micrograph"}
        for k, shot in enumerate(shots[first:first + rng.randint(1, 30)]):
            if id(shot) in done:
                events.append((last_end + 300 + 10.0 * k, "micrograph", (shot, 2)))
    return events


def _dead_time(plan: _Plan, shots: list[Shot]) -> tuple[float, float] | None:
    if "producer dies" not in plan.faults or not shots:
        return None
    start = plan.rng.uniform(shots[0].time, shots[-1].time)
    return start, start + plan.rng.uniform(60, 3600)


def _restart(plan: _Plan, series: list[TrueSeries]) -> list[tuple[float, str, Any]]:
    if "restart" not in plan.faults:
        return []
    last = max((shot.time for each in series for shot in each.shots), default=100.0)
    times = sorted(plan.rng.uniform(50, last + 600) for _ in range(plan.rng.randint(1, 3)))
    events: list[tuple[float, str, Any]] = []
    for time in times:
        if not events or time > events[-1][0] + 1:
            events += [(time, "killed", None), (time + plan.rng.uniform(5, 300), "continued", plan.rng.random() < 0.5)]
    return sorted(events, key=lambda event: event[0])


def _end(rng: Random, end: str, events: list[tuple[float, str, Any]]) -> list[tuple[float, str, Any]]:
    """End the session: the input closes after the last micrograph, the user stops it, or nothing more happens."""
    last = max(time for time, _, _ in events)
    if end == "stopped":
        time = rng.uniform(0.5 * last, last + 300)
        kept = [event for event in events if event[0] < time]
        if [what for _, what, _ in kept].count("killed") == [what for _, what, _ in kept].count("continued"):
            return [*kept, (time, "stop", None)]
    if end == "closed":
        done = max((time for time, what, _ in events if what in ("micrograph", "failed", "continued")), default=last)
        time = done + rng.uniform(0.5, 20)
        return sorted([*events, (time, "closed", None)], key=lambda event: event[0])
    return events


def _note_truth(events: list[tuple[float, str, Any]]) -> None:
    for time, what, data in events:
        if what == "mdoc":
            for shot in data.shots:
                shot.listed_at = min(shot.listed_at, time)
        elif what == "micrograph":
            data[0].aligned_at = min(data[0].aligned_at, time)
        elif what == "failed":
            data.failed = True
