# SPDX-License-Identifier: GPL-3.0-or-later
"""The fine stage: the last fit of the shifts, checks of every tilt and of the whole, and the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tomostream.engine.align.answer import answer_of, residuals
from tomostream.engine.align.chain import chain_deviations, step_deviations
from tomostream.engine.align.coarse import COARSE_TOP, SEARCHES, Progress, plural
from tomostream.engine.align.geometry import Floats, Pose
from tomostream.engine.align.likelihood import model_of, signal_share
from tomostream.engine.align.model import Alignment
from tomostream.engine.align.pipeline import Bench, Say, maximise, spread
from tomostream.engine.align.projection import Match
from tomostream.engine.align.quality import (
    UNCERTAIN_A,
    Checks,
    Quarters,
    fisher_deviations,
    judge,
    loosely_placed,
    quarters,
    split_difference_A,
    standard_deviations,
)
from tomostream.engine.align.robust import all_left_out, elsewhere, faint
from tomostream.engine.align.wedge import Wedge, wedge_of

FINE_A = 10.0  # pixel of the fine working images, or that of the stack where it is larger
FINE_TOP = 0.03  # highest frequency in the likelihood, 1/A
QUARTERS_TOP = 0.02  # highest frequency where quarters of the field are aligned separately, 1/A
# Scatterers thin out towards the surfaces, and then the even slab that fits best is thinner than the specimen and
# leaves shifts across the axis loose. See benchmarks/engine_align.py --thicker.
THICKER = 1.04
LEFT_OUT_A = 400.0  # how far from its place a tilt is looked for when it is left out
MAX_ROUNDS = 5  # times that tilts are put where the others want them


def finish(state: Progress, bench: Bench, angles: Floats, say: Say) -> Alignment:
    """Fit the shifts once more at the fine scale, check the alignment and return it.

    Parameters
    ----------
    state : Progress
        Of the coarse stages, whose bench has the coarse images.
    bench : Bench
        With the fine images.
    angles : ndarray, shape (n,)
        Nominal tilt angles, degrees.
    say : callable
        Takes a line of text.

    Returns
    -------
    Alignment
        In pixels of the input stack, with the shifts corrected for a wedge (`wedge`).
    """
    wedge = wedge_of(state.bench, state.pose, COARSE_TOP)
    pose = state.pose.scaled(state.bench.images.pixel_A / bench.images.pixel_A)
    pose, _ = maximise(bench, replace(pose, thickness=pose.thickness * THICKER), 0.02, 2)
    pose, _ = maximise(bench, pose, FINE_TOP, 2)
    pose, matches = return_strays(bench, pose, angles, say)
    state, matches = leave_out_faint(replace(state, bench=bench, pose=pose), angles, matches, say)
    bench, pose = state.bench, state.pose
    field = quarters(bench, pose, QUARTERS_TOP)
    sigma = _deviations(bench, pose, field, wedge)
    sigma_A = np.hypot(*sigma.T) * bench.images.pixel_A
    heights = np.array([match.height_here for match in matches])
    checks = Checks(heights, split_difference_A(bench, pose, FINE_TOP), (*field.misfits(), *still_away(bench, angles, matches)),
                    float(np.sqrt(np.mean(sigma_A**2))), loosely_placed(sigma_A, angles[bench.members]),
                    float(np.mean(sigma_A > UNCERTAIN_A)))
    span = float(np.ptp(angles[bench.members]))
    figure, note, trust = judge(checks, len(bench.members), len(angles), span, state.offset)
    say(f"quality {figure:.2f}: {note}")
    left_out = residuals(bench, pose, matches)
    pose = pose.moved(wedge.moves(pose, bench.images.pixel_A))
    return answer_of(bench, pose, angles, state.reasons, state.offset, sigma, left_out, (figure, note, trust))


def _deviations(bench: Bench, pose: Pose, field: Quarters, wedge: Wedge) -> Floats:
    """Return the standard deviation of every used tilt's (dX cos t, dY), (members, 2), from all that makes it uncertain, in
    working pixels: noise, what quarters of the field show, loose neighbours, and a wedge."""
    band, used_deg = bench.cut(pose, FINE_TOP), pose.tilts_deg[bench.members]
    model = model_of(band, pose, signal_share(band, pose), bench.threads)
    sigma = standard_deviations(fisher_deviations(band, pose, model), field, used_deg)
    chain = chain_deviations(*step_deviations(band, pose, model, bench.images.pixel_A), used_deg)
    sigma[:, 0] = np.hypot(np.maximum(sigma[:, 0], chain), wedge.deviations(used_deg) / bench.images.pixel_A)
    return sigma


def return_strays(bench: Bench, pose: Pose, angles: Floats, say: Say) -> tuple[Pose, list[Match]]:
    """Move tilts that match all others better elsewhere, and fit again; at most `MAX_ROUNDS` times.

    In thick specimens neighbours have little in common, and a tilt may have come to rest at a wrong place.

    Parameters
    ----------
    bench, pose
        Fine images, and where the tilts are.
    angles : ndarray, shape (n,)
        Nominal tilt angles, degrees, as they are to be named.
    say : callable
        Takes a line of text.

    Returns
    -------
    Pose
    list of Match
        How well each used tilt matches all others then.
    """
    matches = all_left_out(bench, pose, FINE_TOP, LEFT_OUT_A)
    for _ in range(MAX_ROUNDS):
        away = elsewhere(matches, bench.images.pixel_A)
        if not away:
            break
        fit, were = plural(away, "fits", "fit"), plural(away, "was", "were")
        say(f"{_tilts(bench, angles, away, 'deg')} {fit} better elsewhere and {were} moved there")
        moves = np.zeros((len(bench.members), 2))
        moves[away] = [matches[tilt].move for tilt in away]
        pose = pose.moved(spread(moves, bench.members, len(angles)))
        pose, _ = maximise(bench, pose, SEARCHES[-1].top, 2)
        pose, _ = maximise(bench, pose, FINE_TOP, 2)
        matches = all_left_out(bench, pose, FINE_TOP, LEFT_OUT_A)
    return pose, matches


def leave_out_faint(state: Progress, angles: Floats, matches: list[Match], say: Say) -> tuple[Progress, list[Match]]:
    """Leave out tilts that hardly match what all others predict (`robust.faint`), and fit again; at most `MAX_ROUNDS` times.

    Parameters
    ----------
    state : Progress
        At the fine scale.
    angles, say
        As for `return_strays`.
    matches : list of Match
        Of the state's used tilts.

    Returns
    -------
    Progress
    list of Match
        How well each tilt that is left matches all others then.
    """
    for _ in range(MAX_ROUNDS):
        weak = faint(matches)
        left = state.excluding({
            int(state.bench.members[tilt]): f"hardly matches the other tilts (peak of {matches[tilt].height_here:.1f} sigma)"
            for tilt in weak})
        if left is state:
            break
        match, are = plural(weak, "matches", "match"), plural(weak, "is", "are")
        say(f"{_tilts(state.bench, angles, weak, 'deg')} hardly {match} the others and {are} left out")
        pose, _ = maximise(left.bench, left.pose, FINE_TOP, 2)
        state, matches = replace(left, pose=pose), all_left_out(left.bench, pose, FINE_TOP, LEFT_OUT_A)
    return state, matches


def still_away(bench: Bench, angles: Floats, matches: Sequence[Match]) -> list[str]:
    """Return, in words, which tilts match better elsewhere and could not be brought to rest there; [] where there are none.

    Parameters
    ----------
    bench : Bench
        The used tilts.
    angles : ndarray, shape (n,)
        Nominal tilt angles, degrees.
    matches : sequence of Match
        Of `robust.all_left_out`, one a used tilt.
    """
    away = elsewhere(matches, bench.images.pixel_A)
    if not away:
        return []
    fit, they = plural(away, "fits", "fit"), plural(away, "it is", "they are")
    return [f"{_tilts(bench, angles, away, 'degrees')} {fit} better elsewhere than where {they}"]


def _tilts(bench: Bench, angles: Floats, positions: Sequence[int], unit: str) -> str:
    """Return members of the bench by their nominal angles, for people."""
    named = ", ".join(f"{angles[bench.members[position]]:.0f}" for position in positions)
    return f"the {plural(positions, 'tilt', 'tilts')} at {named} {unit}"
