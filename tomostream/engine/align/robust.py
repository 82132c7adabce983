# SPDX-License-Identifier: GPL-3.0-or-later
"""Tilts that do not match: found, retried from their neighbours, corrected or left out with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tomostream.engine.align.geometry import Floats, Pose
from tomostream.engine.align.likelihood import Model, model_of, signal_share, weighted
from tomostream.engine.align.pipeline import Bench, spread, start_positions
from tomostream.engine.align.projection import (
    SIGNIFICANT,
    Match,
    default_share,
    find_peak,
    match_tilt,
    nearest,
    outward_order,
    shift_map,
)
from tomostream.engine.align.spectra import Band, Complexes, phases

TOLERANCE_A = 60.0  # a disagreement below this is left to the likelihood to settle
AWAY_A = 30.0  # so far from the place that all others want, a tilt of a good series never is
AWAY_GAIN = 5.0  # gain in the logarithm of the likelihood for which a tilt is put elsewhere
CERTAIN = 6.5  # standard deviations of the map for a tilt that did not fit before: chance has had its try
CLEARLY_HIGHER = 2.0  # standard deviations by which another place must fit better
FAINT = 0.35  # of the median tilt: ends of thick specimens, which are in their places, stand out by 0.4 of it and more


@dataclass(frozen=True)
class Repair:
    """A pose after repair: sections that had slipped and were moved, and why others (`misfits`, by section) do not match."""

    pose: Pose
    slipped: tuple[int, ...]
    misfits: dict[int, str]


def repair(bench: Bench, pose: Pose, highest_per_A: float, radius_A: float) -> Repair:
    """Check every tilt against what its inner neighbours predict, outward from the untilted one.

    Parameters
    ----------
    bench, pose, highest_per_A, radius_A
        As for `pipeline.match_outward`.

    Returns
    -------
    Repair
        The pose, the sections that had slipped, and those that match nowhere with the reason.

    Notes
    -----
    Where another place matches clearly better, the tilt goes there and its outer neighbours follow; where no place stands
    out, the tilt is a misfit and takes no part in the checks that follow.
    """
    band = bench.cut(pose, highest_per_A)
    share = np.minimum(signal_share(band, pose), default_share(len(bench.members), bench.images.pixel_A))
    angles = pose.tilts_deg[band.members]
    start = _fitting_start(band, pose, share, start_positions(pose, bench.members), radius_A / bench.images.pixel_A)
    moves = np.zeros((len(band.members), 2))
    values = band.values.copy()
    placed, slipped, misfits = [start], [], {}
    for tilt in outward_order(angles, start)[1:]:
        others = nearest(angles, tilt, placed)
        match = match_tilt(band, pose, share, tilt, others, values, radius_A / bench.images.pixel_A)
        distance_A = float(np.hypot(*match.move)) * bench.images.pixel_A
        if match.height < SIGNIFICANT:
            misfits[int(band.members[tilt])] = f"does not match its neighbours (peak of {match.height:.1f} sigma)"
            continue
        placed.append(tilt)
        if distance_A > TOLERANCE_A and match.height > match.height_here + CLEARLY_HIGHER:
            slipped.append(int(band.members[tilt]))
            moves[tilt] = match.move
            values[:, tilt] = (band.values[:, [tilt]] * phases(band.cells, moves[[tilt]]))[:, 0]
    repaired = pose.moved(spread(moves, bench.members, len(pose.tilts_deg)))
    return Repair(repaired, tuple(slipped), misfits)


def _fitting_start(band: Band, pose: Pose, share: Floats, starts: Sequence[int], radius: float) -> int:
    """Return the first of `starts` that matches its neighbours; the first of all where none does."""
    angles = pose.tilts_deg[band.members]
    for start in starts:
        others = nearest(angles, start, range(len(angles)))
        if match_tilt(band, pose, share, start, others, band.values, radius).height >= SIGNIFICANT:
            return start
    return starts[0]


def rescue(bench: Bench, pose: Pose, candidates: Sequence[int], highest_per_A: float, radius_A: float) -> tuple[Pose, list[int]]:
    """Try tilts that are out of use again, outward, each from its neighbours.

    Parameters
    ----------
    bench, pose, highest_per_A, radius_A
        As for `pipeline.match_outward`.
    candidates : sequence of int
        Sections that are out of use.

    Returns
    -------
    Pose
        With the shifts of those that now match.
    list of int
        These sections, sorted.

    Notes
    -----
    Early on a tilt may not match because its neighbours, the axis or the thickness were not yet right.
    """
    everyone = replace(bench, members=np.sort(np.concatenate([bench.members, np.asarray(candidates, dtype=np.int64)])))
    pose = replace(pose, shifts=pose.shifts.copy())
    angles = pose.tilts_deg
    for tilt in candidates:  # the nearest tilt alone may have jumped
        near = bench.members[np.argsort(np.abs(angles[bench.members] - angles[tilt]), kind="stable")[:5]]
        pose.shifts[tilt] = np.median(pose.shifts[near], axis=0)
    band = everyone.cut(pose, highest_per_A)
    members = everyone.members
    placed = [int(i) for i in np.flatnonzero(np.isin(members, bench.members))]
    share = default_share(len(members), bench.images.pixel_A)
    share[placed] = np.minimum(share[placed], signal_share(band.subset(np.array(placed)), pose))
    moves = np.zeros((len(members), 2))
    values, fitting = band.values.copy(), []
    waiting = np.flatnonzero(~np.isin(members, bench.members))
    for tilt in sorted(waiting, key=lambda i: abs(float(angles[members[i]]))):
        others = nearest(angles[members], int(tilt), placed)
        share[tilt] = share[others[0]]
        match = match_tilt(band, pose, share, int(tilt), others, values, radius_A / bench.images.pixel_A)
        if match.height < CERTAIN:
            continue
        moves[tilt] = match.move
        values[:, tilt] = (band.values[:, [tilt]] * phases(band.cells, moves[[tilt]]))[:, 0]
        placed.append(int(tilt))
        fitting.append(int(members[tilt]))
    return pose.moved(spread(moves, members, len(angles))), sorted(fitting)


def leave_one_out(band: Band, model: Model, position: int, product: Complexes, radius: float) -> Match:
    """Find how well one tilt matches what all others predict.

    Parameters
    ----------
    band : Band
        Coefficients q, (cells, tilts, places).
    model : Model
        The inverse M of their covariance in each cell.
    position : int
        Of the tilt among the members.
    product : ndarray, (cells, tilts, places)
        M q.
    radius : float
        How far from its place the peak may be, working pixels.

    Returns
    -------
    Match
        Where it fits best, and how far that stands out.

    Notes
    -----
    The expectation of tilt i given all others is q_i - (M q)_i / M_ii, with precision M_ii.
    """
    own = model.inverse[:, position, position][:, None]
    expected = own * band.values[:, position] - product[:, position]
    grid, _ = shift_map(band, band.values[:, position] * np.conj(expected))
    spacing = (band.cells.shape[0] / grid.shape[0], band.cells.shape[1] / grid.shape[1])
    return find_peak(grid, spacing, radius)


def all_left_out(bench: Bench, pose: Pose, highest_per_A: float, radius_A: float) -> list[Match]:
    """Compare every used tilt with what all others predict (`leave_one_out`).

    Parameters
    ----------
    bench, pose, highest_per_A, radius_A
        As for `pipeline.match_outward`.

    Returns
    -------
    list of Match
        One a member of the bench, in its order.
    """
    band = bench.cut(pose, highest_per_A)
    model = model_of(band, pose, np.minimum(signal_share(band, pose), 0.7))
    product = weighted(model, band.values)
    radius = radius_A / bench.images.pixel_A
    return [leave_one_out(band, model, tilt, product, radius) for tilt in range(len(bench.members))]


def elsewhere(matches: Sequence[Match], pixel_A: float) -> list[int]:
    """Return the positions of tilts that match clearly better elsewhere: neither noise nor an uneven specimen explains it.

    Parameters
    ----------
    matches : sequence of Match
        Of `all_left_out`.
    pixel_A : float
        Of the working images.

    Notes
    -----
    The height h is in standard deviations of noise, so h^2 / 2 is about the logarithm of the likelihood ratio, and the gain from
    one place to another is about h (h - h_here): it must exceed `AWAY_GAIN`, over a distance of more than `AWAY_A`.
    """
    return [
        position for position, match in enumerate(matches)
        if match.height >= SIGNIFICANT and float(np.hypot(*match.move)) * pixel_A > AWAY_A
        and match.height * (match.height - match.height_here) > AWAY_GAIN
    ]


def faint(matches: Sequence[Match]) -> list[int]:
    """Return the positions of tilts that stand out far less than the others do, by less than `FAINT` of the median height.

    What has come to rest on something that it shares with the others by chance, on ice say, may be anywhere, and the width of the
    likelihood around it says nothing of that.

    Parameters
    ----------
    matches : sequence of Match
        Of `all_left_out`.
    """
    heights = np.array([match.height_here for match in matches])
    return [int(position) for position in np.flatnonzero(heights < FAINT * np.median(heights))]


def without(bench: Bench, tilts: set[int]) -> Bench:
    """Return the bench without some sections (`tilts`, from 0)."""
    return replace(bench, members=np.array([tilt for tilt in bench.members if int(tilt) not in tilts], dtype=np.int64))
