# SPDX-License-Identifier: GPL-3.0-or-later
"""The coarse stages: from a stack of which nothing but the angles is known to axis, offset, thickness and shifts of all tilts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tomostream.engine.align.commonline import axis_by_common_line, common_line_score
from tomostream.engine.align.geometry import Floats, Pose
from tomostream.engine.align.heights import heights, slope_of
from tomostream.engine.align.model import AlignOptions, Start
from tomostream.engine.align.offset import Offset, decide, limits, uncertainty_deg
from tomostream.engine.align.pipeline import Bench, Say, fit_axis, fit_offset, fit_thickness, match_outward, maximise
from tomostream.engine.align.robust import repair, rescue, without

COARSE_TOP = 0.015  # highest frequency in projection matching, 1/A
LAST_FACTORS = (0.93, 1.0, 1.07)  # of the thickness, when all else has come to rest
FIRST_TOPS = (0.006, 0.012)  # highest frequencies of the first fits, 1/A: low, where shifts are off by parts of a period only
SEARCH_TOP = 0.6  # of COARSE_TOP, where all directions of the axis are tried
ALL_AROUND_DEG, AROUND_DEG = 9.0, (-6.0, -3.0, 0.0, 3.0, 6.0)  # steps of that search, and turns about the best that are tried
REACH, NEAR = 0.45, 0.1  # of the longer side: how far a tilt is looked for, and when it has been placed already
FAR_AXIS_DEG = 3.5  # a given axis from which the common lines lead farther away is not believed
FAR_SLOPE_DEG = 2.0  # of the heights in the field, at which they are measured again where it is taken off
FAR_OFFSET_DEG = 1.0  # by which a tilt offset changes thickness and axis that fit best
LINES = (0.01, 0.3)  # frequencies of common lines, cycles per coarse pixel


@dataclass(frozen=True)
class Search:
    """What one round of likelihood tries, relative to where it starts.

    Attributes
    ----------
    top : float
        Highest frequency, 1/A.
    factors : tuple of float
        Of the thickness.
    offsets : tuple of float
        Changes of the tilt offset, degrees.
    turns : tuple of float
        Turns of the tilt axis, degrees.
    """

    top: float
    factors: tuple[float, ...]
    offsets: tuple[float, ...]
    turns: tuple[float, ...]


SEARCHES = (
    Search(0.012, (0.5, 0.63, 0.8, 1.0, 1.26, 1.6, 2.0), (-12.0, -6.0, 0.0, 6.0, 12.0), (-1.0, 0.0, 1.0)),
    Search(0.015, (0.85, 1.0, 1.18), (-2.5, 0.0, 2.5), (-0.5, 0.0, 0.5)),
    Search(0.02, (0.9, 1.0, 1.1), (-1.5, 0.0, 1.5), (-0.3, 0.0, 0.3)),
)


@dataclass(frozen=True)
class Progress:
    """The state between stages.

    Attributes
    ----------
    bench : Bench
        Images at one scale, and the sections in use.
    pose : Pose
        At the bench's scale.
    reasons : dict
        Why each section that is out of use is so.
    offset : Offset
        What is known of the tilt offset.
    screened : frozenset of int
        Sections that were unusable from the start, which nothing brings back.
    """

    bench: Bench
    pose: Pose
    reasons: dict[int, str]
    offset: Offset
    screened: frozenset[int] = frozenset()

    def readmitting(self, tilts: list[int], pose: Pose) -> Progress:
        """Return the state with sections in use again that were left out as misfits, at a pose in which they match."""
        members = np.sort(np.concatenate([self.bench.members, np.array(tilts, dtype=np.int64)]))
        reasons = {section: reason for section, reason in self.reasons.items() if section not in tilts}
        return replace(self, bench=replace(self.bench, members=members), reasons=reasons, pose=pose)

    def excluding(self, misfits: dict[int, str]) -> Progress:
        """Return the state without some sections, for the reasons given; the same state where fewer than three would remain."""
        if not misfits or len(self.bench.members) - len(misfits) < 3:
            return self
        return replace(self, bench=without(self.bench, set(misfits)), reasons={**self.reasons, **misfits})


def start_from(state: Progress, start: Start, options: AlignOptions, say: Say) -> Progress:
    """Place the tilts where another alignment has them; those that it does not have are tried from their neighbours.

    Parameters
    ----------
    state : Progress
        With nothing placed yet.
    start : Start
        The other alignment.
    options : AlignOptions
        Its tilt offset is taken unless `tilt_cor` forbids one.
    say : callable
        Takes a line of text.

    Returns
    -------
    Progress
    """
    offset = start.offset_deg if options.tilt_cor >= 0 else 0.0
    pose = replace(state.pose.turned(start.axis_deg).offset_by(offset), shifts=start.shifts / state.bench.images.scale)
    missing = {int(i): "not in the alignment to start from" for i in state.bench.members if not start.known[i]}
    say(f"starts from {np.count_nonzero(start.known)} aligned tilts: axis {start.axis_deg:.1f} deg, offset {offset:.1f} deg")
    return rescued(replace(state, pose=pose).excluding(missing), say)


def place(state: Progress, options: AlignOptions, say: Say) -> Progress:
    """Place the tilts by projection matching, with the tilt axis by common lines where it may be refined.

    Parameters
    ----------
    state : Progress
        With nothing placed yet.
    options : AlignOptions
        What is known of the tilt axis.
    say : callable
        Takes a line of text.

    Returns
    -------
    Progress
        Without the tilts that match nowhere.
    """
    bench, pose = state.bench, state.pose
    far = _side_A(bench)
    if options.full_axis_search:
        pose = pose.turned(_search_axis(state, far))
        say(f"tilt axis by a full search: about {pose.axis_deg:.0f} deg")
    pose, _ = match_outward(bench, pose, COARSE_TOP, REACH * far, False, True)
    if options.refine_axis or options.full_axis_search:
        given = pose.axis_deg
        pose = _by_common_lines(bench, pose, 8.0, 2.0)
        if abs(pose.axis_deg - given) > FAR_AXIS_DEG and not options.full_axis_search:
            say(f"the tilt axis given, {given:.1f} deg, does not match the images: all directions are searched")
            found = _search_axis(state, far)
            pose = state.pose.turned(given + (found - given + 90.0) % 180.0 - 90.0)  # the same hand as the one given
            pose, _ = match_outward(bench, pose, COARSE_TOP, REACH * far, False, True)
            pose = _by_common_lines(bench, pose, 8.0, 2.0)
        pose = _by_common_lines(bench, pose, 1.5, 0.75)
        say(f"tilt axis by common lines: {pose.axis_deg:.1f} deg")
    pose, result = match_outward(bench, pose, COARSE_TOP, NEAR * far, False, False)
    misfits = {
        int(bench.members[i]): f"does not match its neighbours (peak of {result.heights[i]:.1f} sigma)"
        for i in np.flatnonzero(~result.placed)
    }
    return replace(state, pose=pose).excluding(misfits)


def _by_common_lines(bench: Bench, pose: Pose, reach_deg: float, step_deg: float) -> Pose:
    """Return the pose with the axis near its own at which the common lines agree best."""
    trials = pose.axis_deg + np.arange(-reach_deg, reach_deg + 0.1, step_deg)
    return pose.turned(axis_by_common_line(bench.images, pose, bench.members, trials, LINES, bench.threads))


def _search_axis(state: Progress, far: float) -> float:
    """Return the tilt axis in [-90, 90) at which the tilts match best, by trying directions all around.

    Each direction gets a sweep of projection matching of its own at low resolution; the measure is the mean height
    of the peaks. Then the common lines decide between the best three.
    """
    bench, pose = state.bench, state.pose
    trials = np.arange(-90.0, 90.0, ALL_AROUND_DEG)
    scores = []
    poses = []
    for axis in trials:
        placed, result = match_outward(bench, pose.turned(axis), SEARCH_TOP * COARSE_TOP, REACH * far, False, True)
        scores.append(float(np.mean(result.heights[np.isfinite(result.heights)])))
        poses.append(placed)
    lines = {}
    for best in np.argsort(scores)[-3:]:
        for axis in trials[best] + np.array(AROUND_DEG):
            trial = poses[best].turned(axis)
            lines[axis] = common_line_score(bench.images, trial, bench.members, *LINES, bench.threads)
    found = max(lines, key=lambda axis: lines[axis])
    return float((found + 90.0) % 180.0 - 90.0)


def refine(state: Progress, nominal_deg: Floats, options: AlignOptions, say: Say) -> Progress:
    """Fit shifts, thickness, tilt offset and axis by maximum likelihood, from low to higher frequencies.

    It ends as soon as a round moves none of the last three by much.

    Parameters
    ----------
    state : Progress
        With the tilts placed.
    nominal_deg : ndarray, shape (n,)
        Tilt angles without offset.
    options : AlignOptions
        What may be refined.
    say : callable
        Takes a line of text.

    Returns
    -------
    Progress
    """
    pose, _ = maximise(state.bench, state.pose, FIRST_TOPS[0], 2)
    pose, _ = maximise(state.bench, pose, FIRST_TOPS[1], 1)
    pose = fit_thickness(state.bench, pose, FIRST_TOPS[1], np.array(SEARCHES[0].factors))
    state = replace(state, pose=pose)
    for number, search in enumerate(SEARCHES):
        state = repaired(state, say)
        before = state.pose
        state = replace(state, pose=_fit_geometry(state.bench, before, nominal_deg, options, search))
        after = state.pose
        thick = after.thickness * state.bench.images.pixel_A
        say(f"likelihood {number + 1}/{len(SEARCHES)}: tilt axis {after.axis_deg:.2f} deg, thickness {thick:.0f} A")
        known = len(state.bench.members)
        state = rescued(state, say)
        if number > 0 and len(state.bench.members) == known and _alike(before, after):
            break
    return repaired(state, say)


def _alike(before: Pose, after: Pose) -> bool:
    """Tell whether axis, tilt offset and thickness moved by less than they are known: 0.1 and 0.3 degrees, 2 %."""
    return bool(
        abs(after.axis_deg - before.axis_deg) < 0.1
        and abs(after.tilts_deg[0] - before.tilts_deg[0]) < 0.3
        and abs(np.log(after.thickness / before.thickness)) < 0.02
    )


def _fit_geometry(bench: Bench, pose: Pose, nominal_deg: Floats, options: AlignOptions, search: Search) -> Pose:
    """Return the pose after one turn of thickness, tilt offset and axis, shifts following each time."""
    top = search.top
    pose, _ = maximise(bench, fit_thickness(bench, pose, top, np.array(search.factors)), top, 1)
    if options.tilt_cor >= 0:
        reach = limits(pose.tilts_deg[bench.members], float(pose.tilts_deg[0] - nominal_deg[0]))
        pose, _ = maximise(bench, fit_offset(bench, pose, top, np.array(search.offsets), reach), top, 1)
    if options.refine_axis or options.full_axis_search:
        pose, _ = maximise(bench, fit_axis(bench, pose, top, np.array(search.turns)), top, 1)
    return pose


def settle_offset(state: Progress, nominal_deg: Floats, options: AlignOptions, expected: float, say: Say) -> Progress:
    """Correct the tilt offset by the heights in the field, and keep it where it is significant; else go back to none.

    Thickness and axis are fitted again where the offset changes by much.

    Parameters
    ----------
    state : Progress
        After `refine`.
    nominal_deg : ndarray, shape (n,)
        Tilt angles without offset.
    options : AlignOptions
        What may be refined.
    expected : float
        Offset for which the series was set up, degrees (`offset.expected_deg`).
    say : callable
        Takes a line of text.

    Returns
    -------
    Progress
    """
    search, before = SEARCHES[-1], state.pose.tilts_deg[0]
    pose = state.pose
    slope = slope_of(*heights(state.bench, pose, search.top))
    if abs(slope.degrees) > FAR_SLOPE_DEG:
        low, high = limits(pose.tilts_deg[state.bench.members], float(pose.tilts_deg[0] - nominal_deg[0]))
        pose, _ = maximise(state.bench, pose.offset_by(float(np.clip(-slope.degrees, low, high))), search.top, 1)
        slope = slope_of(*heights(state.bench, pose, search.top))
    found = float(pose.tilts_deg[0] - nominal_deg[0]) - slope.degrees
    offset = decide(found, uncertainty_deg(state.bench, pose, slope), expected)
    say(f"tilt offset {offset.found:.1f} deg, uncertain by {offset.sigma:.1f} deg: {offset.used:.1f} deg is used")
    pose = pose.offset_by(float(nominal_deg[0] + offset.used - pose.tilts_deg[0]))
    change = abs(float(pose.tilts_deg[0] - before))
    pose, _ = maximise(state.bench, pose, search.top, 2 if change > FAR_OFFSET_DEG else 1)
    if change > FAR_OFFSET_DEG:
        pose = _fit_geometry(state.bench, pose, nominal_deg, replace(options, tilt_cor=-1), SEARCHES[1])
    return replace(state, pose=pose, offset=offset)


def settle_thickness(state: Progress, say: Say) -> Progress:
    """Fit the thickness once more, where all else has come to rest.

    The axis and the tilt offset move after the thickness was fitted, and the fits of wide steps that follow a new offset leave it
    5 % too large: enough to double the errors of the shifts across the axis, for which a slab that is too thick is far worse
    than one that is too thin.

    Parameters
    ----------
    state : Progress
        After axis and tilt offset are settled.
    say : callable
        Takes a line of text.

    Returns
    -------
    Progress
    """
    pose = fit_thickness(state.bench, state.pose, SEARCHES[-1].top, np.array(LAST_FACTORS))
    say(f"thickness {pose.thickness * state.bench.images.pixel_A:.0f} A")
    return replace(state, pose=pose)


def repaired(state: Progress, say: Say) -> Progress:
    """Move slipped tilts back, and leave out those that do not match.

    Parameters
    ----------
    state : Progress
    say : callable
        Takes a line of text.

    Returns
    -------
    Progress
    """
    far = _side_A(state.bench)
    for _ in range(2):
        found = repair(state.bench, state.pose, COARSE_TOP, REACH * far)
        for section, reason in found.misfits.items():
            say(f"section {section + 1} is left out: {reason}")
        state = replace(state, pose=found.pose).excluding(found.misfits)
        if not found.slipped:
            break
        say(f"{_sections(found.slipped)} had slipped and {plural(found.slipped, 'was', 'were')} moved back")
        pose, _ = maximise(state.bench, state.pose, FIRST_TOPS[1], 2)
        state = replace(state, pose=pose)
    return state


def rescued(state: Progress, say: Say) -> Progress:
    """Take back sections that were left out and match by now.

    Parameters
    ----------
    state : Progress
    say : callable
        Takes a line of text.

    Returns
    -------
    Progress
    """
    candidates = sorted(set(state.reasons) - state.screened)
    if not candidates:
        return state
    far = _side_A(state.bench)
    pose, fitting = rescue(state.bench, state.pose, candidates, COARSE_TOP, REACH * far)
    if not fitting:
        return state
    match, are = plural(fitting, "matches", "match"), plural(fitting, "is", "are")
    say(f"{_sections(fitting)} {match} the others after all and {are} used again")
    state = state.readmitting(fitting, pose)
    pose, _ = maximise(state.bench, state.pose, FIRST_TOPS[1], 2)
    return replace(state, pose=pose)


def _side_A(bench: Bench) -> float:
    """Return the longer side of the images, A."""
    return max(bench.images.image_shape) * bench.images.pixel_A


def _sections(numbers: Sequence[int]) -> str:
    """Return sections, which are counted from 0, as people count them."""
    return f"{plural(numbers, 'section', 'sections')} {', '.join(str(number + 1) for number in numbers)}"


def plural(items: Sequence[int], one: str, more: str) -> str:
    """Return the word for one of some items, or for more of them.

    Examples
    --------
    >>> plural([7], "is", "are"), plural([7, 8], "is", "are")
    ('is', 'are')
    """
    return one if len(items) == 1 else more
