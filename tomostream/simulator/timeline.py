# SPDX-License-Identifier: GPL-3.0-or-later
"""What appears on the microscope's disk, and when: pure facts, computed before the clock starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from tomostream.simulator.plan import Exposure, Plan

#: Number of pieces of a movie that grows in place, if not by frames.
PIECES = 8
#: Share of the interval during which a movie grows in place.
GROWTH = 0.8


@dataclass(frozen=True)
class Action:
    """Something written at a time (s after the start).

    `kind` is movie, piece, section, half-section, half1, extra-section, spoiled-mdoc or other-mdoc. `part` is the share
    of the movie's bytes on disk afterwards (0 to 1).
    """

    time: float
    kind: str
    series: int
    exposure: Exposure | None = None
    part: float = 1.0
    name: str = ""

    @property
    def writes_movie(self) -> bool:
        """Whether this writes a movie or part of one."""
        return self.kind in ("movie", "piece")


def timeline(plan: Plan, exposures: list[Exposure], turn: int | None) -> list[Action]:
    """Return all actions in order of time. `turn` is the tilt (from 0) at which a bidirectional series turns, or None."""
    actions = list(_other_mdocs(plan))
    spoiled = {fault.series for fault in plan.faults.faults if fault.kind in ("garbage-mdoc", "empty-mdoc")}
    last = {exposure.series: exposure for exposure in exposures}
    for exposure in exposures:
        finished = _finished(plan, exposure)
        if plan.half1 and exposure.tilt == turn and not _is_repeat(exposures, exposure):
            actions.append(Action(_start(plan, exposure), "half1", exposure.series, exposure))
        actions += _movie(plan, exposure)
        if exposure.series + 1 in spoiled:
            if exposure.tilt == 0:
                actions.append(Action(finished, "spoiled-mdoc", exposure.series))
            continue
        if plan.write != "atomic":
            actions.append(Action(finished, "half-section", exposure.series, exposure))
        actions.append(Action(finished + _pause(plan), "section", exposure.series, exposure))
        if last[exposure.series] is exposure and plan.faults.of("extra-section", exposure.series + 1):
            actions.append(Action(finished + _pause(plan), "extra-section", exposure.series, exposure))
    return sorted(actions, key=lambda action: action.time)


def _start(plan: Plan, exposure: Exposure) -> float:
    return plan.start_delay + exposure.slot * plan.interval


def _finished(plan: Plan, exposure: Exposure) -> float:
    """Return when the movie of an exposure is complete on disk."""
    return _start(plan, exposure) + (0.0 if plan.write == "atomic" else GROWTH * plan.interval)


def _pause(plan: Plan) -> float:
    """Return how long a section stays half-written."""
    return 0.0 if plan.write == "atomic" else 0.1 * plan.interval


def _is_repeat(exposures: list[Exposure], exposure: Exposure) -> bool:
    """Tell whether this exposure repeats the one before it in time."""
    if exposure.slot == 0:
        return False
    before = exposures[exposure.slot - 1]
    return before.replaced and (before.series, before.tilt) == (exposure.series, exposure.tilt)


def _movie(plan: Plan, exposure: Exposure) -> Iterator[Action]:
    """Yield how the movie of an exposure gets onto the disk, with its faults; they affect the last try of a repeated exposure."""
    series, tilt, finished = exposure.series + 1, exposure.tilt + 1, _finished(plan, exposure)
    faults = plan.faults

    def fault(kind: str) -> bool:
        return not exposure.replaced and faults.of(kind, series, tilt) is not None

    if fault("missing"):
        return
    late = faults.of("late", series, tilt) if fault("late") else None
    stuck = faults.of("stuck", series, tilt) if fault("stuck") else None
    end = finished + (late.seconds or 0.0 if late else 0.0)
    total = 0.5 if fault("truncated") else 1.0
    if stuck is not None:
        yield Action(end, "piece", exposure.series, exposure, 0.5)
        yield Action(end + (stuck.seconds or 0.0), "movie", exposure.series, exposure, total)
    elif plan.write != "atomic":
        pieces = PIECES if plan.write == "slow" else plan.frames
        for piece in range(1, pieces):
            yield Action(end - GROWTH * plan.interval * (1 - piece / pieces), "piece", exposure.series, exposure,
                         total * piece / pieces)  # fmt: skip
        yield Action(end, "movie", exposure.series, exposure, total)
    else:
        yield Action(end, "movie", exposure.series, exposure, total)


def _other_mdocs(plan: Plan) -> Iterator[Action]:
    """Yield files that are next to the mdocs of the series from the start."""
    if plan.faults.of("map"):
        yield Action(0.0, "other-mdoc", -1, name="map.mrc.mdoc")
        yield Action(0.0, "other-mdoc", -1, name="LMM.mrc.mdoc")
    if plan.faults.of("garbage-mdoc"):
        yield Action(0.0, "other-mdoc", -1, name="garbage.mdoc")
    if plan.faults.of("empty-mdoc"):
        yield Action(0.0, "other-mdoc", -1, name="empty.mdoc")


def last_use(actions: list[Action]) -> dict[int, int]:
    """Return slot of an exposure -> index of the last action that writes its movie, after which its bytes can be forgotten."""
    uses = [(action.exposure.slot, index) for index, action in enumerate(actions)
            if action.exposure is not None and action.writes_movie]  # fmt: skip
    return {slot: max(index for _, index in group) for slot, group in groupby(sorted(uses), key=lambda use: use[0])}
