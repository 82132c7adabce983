# SPDX-License-Identifier: GPL-3.0-or-later
"""A series from stack to alignment: the stages in order, then the result in AreTomo's conventions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.align.answer import answer_of, residuals
from tomostream.engine.align.chain import chain_deviations, step_deviations
from tomostream.engine.align.commonline import axis_by_common_line, common_line_score
from tomostream.engine.align.geometry import Floats, Pose
from tomostream.engine.align.heights import heights, slope_of
from tomostream.engine.align.likelihood import model_of, signal_share
from tomostream.engine.align.model import (
    MAXIMUM_THREADS,
    Alignment,
    AlignmentError,
    AlignOptions,
    Start,
)
from tomostream.engine.align.offset import Offset, decide, expected_deg, limits, uncertainty_deg
from tomostream.engine.align.pipeline import (
    Bench,
    Say,
    fit_axis,
    fit_offset,
    fit_thickness,
    match_outward,
    maximise,
    spread,
)
from tomostream.engine.align.preprocess import WorkStack, duplicates, reasons_of, work_stacks
from tomostream.engine.align.projection import Match
from tomostream.engine.align.quality import (
    UNCERTAIN_A,
    Checks,
    fisher_deviations,
    judge,
    loosely_placed,
    quarters,
    split_difference_A,
    standard_deviations,
)
from tomostream.engine.align.robust import all_left_out, elsewhere, faint, repair, rescue, without
from tomostream.engine.align.wedge import wedge_of
from tomostream.files.mrc import Sections

FINE_A = 10.0
COARSE_A = 20.0
MIN_SIDE = 32  # pixels of the shorter side of the coarse working images
MAX_PIXEL_A = 500.0
DEFAULT_THICKNESS_A = 1800.0
COARSE_TOP = 0.015  # highest frequency in projection matching, 1/A
FINE_TOP = 0.03  # highest frequency in the likelihood, 1/A
QUARTERS_TOP = 0.02  # highest frequency where quarters of the field are aligned apart, 1/A
# Scatterers thin out towards the surfaces, and then the even slab that fits best is thinner than the specimen and
# leaves shifts across the axis loose. See benchmarks/engine_align.py --thicker.
THICKER = 1.04
LAST_FACTORS = (0.93, 1.0, 1.07)  # of the thickness, when all else has come to rest
LEFT_OUT_A = 400.0  # how far from its place a tilt is looked for when it is left out
CALLS = 5  # times that tilts are put where the others want them
FAR_AXIS_DEG = 3.5  # a given axis from which the common lines lead farther away is not believed
FAR_SLOPE_DEG = 2.0  # of the heights in the field, at which they are measured again where it is taken off
FAR_OFFSET_DEG = 1.0  # by which a tilt offset changes thickness and axis that fit best
LINES = (0.01, 0.3)  # frequencies of common lines, cycles per coarse pixel


@dataclass(frozen=True)
class Search:
    """What one round of likelihood tries: highest frequency (1/A), thickness factors, tilt offsets and turns of the
    axis (deg), relative to where it starts."""

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
    """The state between stages: pose at the bench's scale, reasons for the tilts that are out of use, and what is
    known of the tilt offset; `screened` sections were unusable from the start."""

    bench: Bench
    pose: Pose
    reasons: dict[int, str]
    offset: Offset
    screened: frozenset[int] = frozenset()

    def readmitting(self, tilts: list[int], pose: Pose) -> Progress:
        """With tilts that were left out as misfits and fit after all, at `pose`."""
        members = np.sort(np.concatenate([self.bench.members, np.array(tilts, dtype=np.int64)]))
        reasons = {section: reason for section, reason in self.reasons.items() if section not in tilts}
        return replace(self, bench=replace(self.bench, members=members), reasons=reasons, pose=pose)

    def excluding(self, misfits: dict[int, str]) -> Progress:
        """Without some tilts, unless too few would remain."""
        if not misfits or len(self.bench.members) - len(misfits) < 3:
            return self
        return replace(self, bench=without(self.bench, set(misfits)), reasons={**self.reasons, **misfits})


def align_series(
    stack: Sections,
    angles_deg: NDArray[np.floating],
    options: AlignOptions,
    progress: Callable[[str], None] | None = None,
    orders: Sequence[int] | None = None,
) -> Alignment:
    """Align a tilt series without fiducials.

    Parameters
    ----------
    stack : (n, rows, columns) array, any real type; memory-mapped is fine
    angles_deg : (n,) nominal tilt angles, in the order of the stack, which may be any
    options : what is known and asked
    progress : called with a line of text at each stage
    orders : (n,) acquisition order, if known; of identical images the later one is set aside

    Returns
    -------
    Alignment, with a row for every section; sections that do not fit are marked with a reason.

    Raises
    ------
    AlignmentError
        Where nothing can be aligned: wrong shapes, angles that are not numbers, fewer than two usable images.
    """
    say: Say = progress if progress is not None else _silent
    angles = _checked(stack, angles_deg, options)
    threads = max(1, min(options.threads, MAXIMUM_THREADS))
    (fine, coarse), levels = work_stacks(stack, options.pixel_size_A, (FINE_A, _coarse_A(stack, options)), threads)
    reasons = {i: reason for i, reason in enumerate(reasons_of(levels, angles, options.dark_tol)) if reason}
    state = _prepare(coarse, reasons, angles, options, threads, orders, say)
    if len(state.bench.members) < 2:
        raise AlignmentError(
            f"only {len(state.bench.members)} of {len(angles)} images can be used ({_first_reason(state.reasons)}); "
            "at least two are needed"
        )
    state = _place(state, options, say) if options.start is None else _begin(state, options.start, options, say)
    state = _refine(state, angles, options, say)
    if options.tilt_cor >= 0:
        state = _settle_offset(state, angles, options, expected_deg(angles, orders), say)
    return _finish(settle_thickness(state, say), replace(state.bench, images=fine), angles, say)


def _silent(line: str) -> None:
    """Progress that nobody wants to read."""


def _first_reason(reasons: dict[int, str]) -> str:
    """Return one reason to quote."""
    return next((f"section {section + 1}: {reason}" for section, reason in sorted(reasons.items())), "")


def _checked(stack: Sections, angles_deg: NDArray[np.floating], options: AlignOptions) -> Floats:
    """Return the angles, after looking whether stack, angles and options make sense together."""
    angles = np.asarray(angles_deg, dtype=float)
    if stack.ndim != 3:
        raise AlignmentError(f"the stack has {stack.ndim} dimensions; a tilt series has 3 (section, row, column)")
    if angles.shape != (len(stack),):
        raise AlignmentError(f"{angles.size} tilt angles were given for {len(stack)} images; there must be one each")
    if not np.all(np.isfinite(angles)) or np.any(np.abs(angles) >= 85.0):
        raise AlignmentError("tilt angles must be numbers between -85 and 85 degrees")
    if not options.pixel_size_A > 0.0:
        raise AlignmentError(f"the pixel size must be positive, not {options.pixel_size_A} A")
    if min(stack.shape[1:]) < 32:
        raise AlignmentError(f"images of {stack.shape[2]} x {stack.shape[1]} pixels are too small to be aligned")
    if options.pixel_size_A > MAX_PIXEL_A:
        raise AlignmentError(f"a pixel of {options.pixel_size_A:g} A is not that of a tilt series; give it in A")
    short, long = (side * options.pixel_size_A for side in sorted(stack.shape[1:]))
    needed = MIN_SIDE * _coarse_A(stack, options)
    if short < needed:
        raise AlignmentError(
            f"the images show {short:.0f} x {long:.0f} A of the specimen at {options.pixel_size_A:g} A/px, but {needed:.0f} A "
            "are needed each way; is the pixel size right?"
        )
    return angles


def _coarse_A(stack: Sections, options: AlignOptions) -> float:
    """Return the pixel size of the coarse working images."""
    longest = max(stack.shape[1:]) * options.pixel_size_A
    return COARSE_A if longest > 4000.0 else max(FINE_A, options.pixel_size_A)


def _prepare(
    coarse: WorkStack, reasons: dict[int, str], angles: Floats, options: AlignOptions, threads: int,
    orders: Sequence[int] | None, say: Say,
) -> Progress:
    """Return where the alignment begins: the coarse working images, without those that cannot be used for one of `reasons`."""
    reasons = dict(reasons)
    usable = np.array([i not in reasons for i in range(len(angles))])
    for first, second in duplicates(coarse, usable):
        later = first if orders is not None and orders[first] > orders[second] else second
        other = first if later == second else second
        reasons.setdefault(later, f"the same picture as section {other + 1}")
    for section, reason in sorted(reasons.items()):
        say(f"section {section + 1} ({angles[section]:.1f} deg) is set aside: {reason}")
    members = np.array([i for i in range(len(angles)) if i not in reasons], dtype=np.int64)
    thickness = DEFAULT_THICKNESS_A / coarse.pixel_A  # from too thin a slab no way leads back
    pose = Pose(angles, float(options.tilt_axis_deg), np.zeros((len(angles), 2)), thickness)
    return Progress(Bench(coarse, members, threads), pose, reasons, Offset(), frozenset(reasons))


def _begin(state: Progress, start: Start, options: AlignOptions, say: Say) -> Progress:
    """Return where another alignment has the tilts; those that it does not have are tried from their neighbours."""
    offset = start.offset_deg if options.tilt_cor >= 0 else 0.0
    pose = replace(state.pose.turned(start.axis_deg).offset_by(offset), shifts=start.shifts / state.bench.images.scale)
    missing = {int(i): "not in the alignment to start from" for i in state.bench.members if not start.known[i]}
    say(f"starts from {np.count_nonzero(start.known)} aligned tilts: axis {start.axis_deg:.1f} deg, offset {offset:.1f} deg")
    return _rescued(replace(state, pose=pose).excluding(missing), say)


def _place(state: Progress, options: AlignOptions, say: Say) -> Progress:
    """Coarse placement by projection matching, and the tilt axis by common lines."""
    bench, pose = state.bench, state.pose
    far = max(bench.images.image_shape) * bench.images.pixel_A
    if options.full_axis_search:
        pose = pose.turned(_search_axis(state, far))
        say(f"tilt axis by a full search: about {pose.axis_deg:.0f} deg")
    pose, _ = match_outward(bench, pose, COARSE_TOP, 0.45 * far, False, True)
    if options.refine_axis or options.full_axis_search:
        given = pose.axis_deg
        pose = _by_common_lines(bench, pose, 8.0, 2.0)
        if abs(pose.axis_deg - given) > FAR_AXIS_DEG and not options.full_axis_search:
            say(f"the tilt axis given, {given:.1f} deg, does not fit: all directions are searched")
            found = _search_axis(state, far)
            pose = state.pose.turned(given + (found - given + 90.0) % 180.0 - 90.0)  # the same hand as the one given
            pose, _ = match_outward(bench, pose, COARSE_TOP, 0.45 * far, False, True)
            pose = _by_common_lines(bench, pose, 8.0, 2.0)
        pose = _by_common_lines(bench, pose, 1.5, 0.75)
        say(f"tilt axis by common lines: {pose.axis_deg:.1f} deg")
    pose, result = match_outward(bench, pose, COARSE_TOP, 0.1 * far, False, False)
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
    """Return the tilt axis in [-90, 90) at which the tilts fit best together, by trying directions all around.

    Each direction gets a sweep of projection matching of its own at low resolution; the measure is the mean height
    of the peaks. Then the common lines decide between the best three.
    """
    bench, pose = state.bench, state.pose
    trials = np.arange(-90.0, 90.0, 9.0)
    scores = []
    poses = []
    for axis in trials:
        placed, result = match_outward(bench, pose.turned(axis), 0.6 * COARSE_TOP, 0.45 * far, False, True)
        scores.append(float(np.mean(result.heights[np.isfinite(result.heights)])))
        poses.append(placed)
    lines = {}
    for best in np.argsort(scores)[-3:]:
        for axis in trials[best] + np.array([-6.0, -3.0, 0.0, 3.0, 6.0]):
            trial = poses[best].turned(axis)
            lines[axis] = common_line_score(bench.images, trial, bench.members, *LINES, bench.threads)
    found = max(lines, key=lambda axis: lines[axis])
    return float((found + 90.0) % 180.0 - 90.0)


def _refine(state: Progress, nominal_deg: Floats, options: AlignOptions, say: Say) -> Progress:
    """Maximum likelihood at the coarse scale, from low to higher frequencies: shifts, thickness, offset, axis.

    Ends as soon as a round moves none of the three by much.
    """
    pose, _ = maximise(state.bench, state.pose, 0.006, 2)
    pose, _ = maximise(state.bench, pose, 0.012, 1)
    pose = fit_thickness(state.bench, pose, 0.012, np.array(SEARCHES[0].factors))
    state = replace(state, pose=pose)
    for number, search in enumerate(SEARCHES):
        state = _repaired(state, say)
        before = state.pose
        state = replace(state, pose=_fit_geometry(state.bench, before, nominal_deg, options, search))
        after = state.pose
        thick = after.thickness * state.bench.images.pixel_A
        say(f"likelihood {number + 1}/{len(SEARCHES)}: tilt axis {after.axis_deg:.2f} deg, thickness {thick:.0f} A")
        known = len(state.bench.members)
        state = _rescued(state, say)
        settled = (
            len(state.bench.members) == known
            and abs(after.axis_deg - before.axis_deg) < 0.1
            and abs(after.tilts_deg[0] - before.tilts_deg[0]) < 0.3
            and abs(np.log(after.thickness / before.thickness)) < 0.02
        )
        if settled and number > 0:
            break
    return _repaired(state, say)


def _fit_geometry(bench: Bench, pose: Pose, nominal_deg: Floats, options: AlignOptions, search: Search) -> Pose:
    """Go once over thickness, tilt offset and axis, shifts following each time."""
    top = search.top
    pose, _ = maximise(bench, fit_thickness(bench, pose, top, np.array(search.factors)), top, 1)
    if options.tilt_cor >= 0:
        reach = limits(pose.tilts_deg[bench.members], float(pose.tilts_deg[0] - nominal_deg[0]))
        pose, _ = maximise(bench, fit_offset(bench, pose, top, np.array(search.offsets), reach), top, 1)
    if options.refine_axis or options.full_axis_search:
        pose, _ = maximise(bench, fit_axis(bench, pose, top, np.array(search.turns)), top, 1)
    return pose


def _settle_offset(state: Progress, nominal_deg: Floats, options: AlignOptions, expected: float, say: Say) -> Progress:
    """Correct the tilt offset by the heights in the field, and keep it where it is significant; else go back to none.

    Thickness and axis are fitted again where the offset changes by much.
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
    """Return the state with the thickness fitted once more, where all else has come to rest.

    The axis and the tilt offset move after the thickness was fitted, and the fits of wide steps that follow a new offset leave it
    5 % too large: enough to double the errors of the shifts across the axis, for which a slab that is too thick is far worse
    than one that is too thin.

    Parameters
    ----------
    state : Progress
        After axis and tilt offset are settled.
    say : callable
        Is told the thickness.

    Returns
    -------
    Progress
    """
    pose = fit_thickness(state.bench, state.pose, SEARCHES[-1].top, np.array(LAST_FACTORS))
    say(f"thickness {pose.thickness * state.bench.images.pixel_A:.0f} A")
    return replace(state, pose=pose)


def _repaired(state: Progress, say: Say) -> Progress:
    """Put slipped tilts back, leave misfits out."""
    far = max(state.bench.images.image_shape) * state.bench.images.pixel_A
    for _ in range(2):
        found = repair(state.bench, state.pose, COARSE_TOP, 0.45 * far)
        for section, reason in found.misfits.items():
            say(f"section {section + 1} is left out: {reason}")
        state = replace(state, pose=found.pose).excluding(found.misfits)
        if not found.slipped:
            break
        say(f"sections {', '.join(map(str, found.slipped))} had slipped and were put back")
        pose, _ = maximise(state.bench, state.pose, 0.012, 2)
        state = replace(state, pose=pose)
    return state


def _rescued(state: Progress, say: Say) -> Progress:
    """Take back misfits that fit by now."""
    candidates = sorted(set(state.reasons) - state.screened)
    if not candidates:
        return state
    far = max(state.bench.images.image_shape) * state.bench.images.pixel_A
    pose, fitting = rescue(state.bench, state.pose, candidates, COARSE_TOP, 0.45 * far)
    if not fitting:
        return state
    say(f"sections {', '.join(map(str, fitting))} fit after all and are used again")
    state = state.readmitting(fitting, pose)
    pose, _ = maximise(state.bench, state.pose, 0.012, 2)
    return replace(state, pose=pose)


def _finish(state: Progress, bench: Bench, angles: Floats, say: Say) -> Alignment:
    """Maximum likelihood at the fine scale, checks, what a wedge makes of it, and the answer."""
    wedge = wedge_of(state.bench, state.pose, COARSE_TOP)
    pose = state.pose.scaled(state.bench.images.pixel_A / bench.images.pixel_A)
    pose, _ = maximise(bench, replace(pose, thickness=pose.thickness * THICKER), 0.02, 2)
    pose, _ = maximise(bench, pose, FINE_TOP, 2)
    pose, matches = called_back(bench, pose, angles, say)
    state, matches = without_faint(replace(state, bench=bench, pose=pose), angles, matches, say)
    bench, pose = state.bench, state.pose
    field = quarters(bench, pose, QUARTERS_TOP)
    band, used_deg = bench.cut(pose, FINE_TOP), pose.tilts_deg[bench.members]
    model = model_of(band, pose, signal_share(band, pose), bench.threads)
    sigma = standard_deviations(fisher_deviations(band, pose, model), field, used_deg)
    heights = np.array([match.height_here for match in matches])
    chain = chain_deviations(*step_deviations(band, pose, model, bench.images.pixel_A), used_deg)
    sigma[:, 0] = np.hypot(np.maximum(sigma[:, 0], chain), wedge.deviations(used_deg) / bench.images.pixel_A)
    sigma_A = np.hypot(*sigma.T) * bench.images.pixel_A
    checks = Checks(heights, split_difference_A(bench, pose, FINE_TOP), (*field.misfits(), *_still_away(bench, angles, matches)),
                    float(np.sqrt(np.mean(sigma_A**2))), loosely_placed(sigma_A, angles[bench.members]),
                    float(np.mean(sigma_A > UNCERTAIN_A)))
    span = float(np.ptp(angles[bench.members]))
    figure, note, trust = judge(checks, len(bench.members), len(angles), span, state.offset)
    say(f"quality {figure:.2f}: {note}")
    left_out = residuals(bench, pose, matches)
    pose = pose.moved(wedge.moves(pose, bench.images.pixel_A))
    return answer_of(bench, pose, angles, state.reasons, state.offset, sigma, left_out, (figure, note, trust))


def called_back(bench: Bench, pose: Pose, angles: Floats, say: Say) -> tuple[Pose, list[Match]]:
    """Tilts that by all others belong elsewhere go there, the likelihood follows; the pose, and how all tilts fit then.

    In thick specimens neighbours have little in common, and a tilt may have come to rest at a wrong place.
    """
    matches = all_left_out(bench, pose, FINE_TOP, LEFT_OUT_A)
    for _ in range(CALLS):
        away = elsewhere(matches, bench.images.pixel_A)
        if not away:
            break
        say(f"tilts at {_angles(bench, angles, away)} deg fit better elsewhere and were put there")
        moves = np.zeros((len(bench.members), 2))
        moves[away] = [matches[tilt].move for tilt in away]
        pose = pose.moved(spread(moves, bench.members, len(angles)))
        pose, _ = maximise(bench, pose, SEARCHES[-1].top, 2)
        pose, _ = maximise(bench, pose, FINE_TOP, 2)
        matches = all_left_out(bench, pose, FINE_TOP, LEFT_OUT_A)
    return pose, matches


def without_faint(state: Progress, angles: Floats, matches: list[Match], say: Say) -> tuple[Progress, list[Match]]:
    """Tilts that hardly match what all others predict are left out, the likelihood follows; the state, and how the rest fit."""
    for _ in range(CALLS):
        weak = faint(matches)
        left = state.excluding({
            int(state.bench.members[tilt]): f"hardly matches the other tilts (peak of {matches[tilt].height_here:.1f} sigma)"
            for tilt in weak})
        if left is state:
            break
        say(f"tilts at {_angles(state.bench, angles, weak)} deg hardly match the others and are left out")
        pose, _ = maximise(left.bench, left.pose, FINE_TOP, 2)
        state, matches = replace(left, pose=pose), all_left_out(left.bench, pose, FINE_TOP, LEFT_OUT_A)
    return state, matches


def _still_away(bench: Bench, angles: Floats, matches: Sequence[Match]) -> list[str]:
    """In words, the tilts that fit better elsewhere and could not be brought to rest there; empty where there are none."""
    away = elsewhere(matches, bench.images.pixel_A)
    return [f"tilts at {_angles(bench, angles, away)} degrees fit better elsewhere than where they are"] if away else []


def _angles(bench: Bench, angles: Floats, positions: Sequence[int]) -> str:
    """Nominal angles of members of the bench."""
    return ", ".join(f"{angles[bench.members[position]]:.0f}" for position in positions)
