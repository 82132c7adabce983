# SPDX-License-Identifier: GPL-3.0-or-later
"""Tilts that do not fit: found, tried again from their neighbours, put right or left out with a reason."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tomostream.engine.align.geometry import Pose
from tomostream.engine.align.likelihood import Model, model_of, signal_share, weighted
from tomostream.engine.align.pipeline import Bench, spread, start_position
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
CLEARLY_HIGHER = 2.0  # standard deviations by which another place must fit better


@dataclass(frozen=True)
class Repair:
    """A pose after repair: `slipped` lists tilts that were moved, `misfits` maps tilts to why they do not fit."""

    pose: Pose
    slipped: tuple[int, ...]
    misfits: dict[int, str]


def repair(bench: Bench, pose: Pose, highest_per_A: float, radius_A: float) -> Repair:
    """Check every tilt against what its inner neighbours let expect of it, outward from the untilted one.

    Where another place fits clearly better, the tilt goes there and its outer neighbours follow; where no place stands
    out, the tilt is a misfit and takes no part in the checks that follow.
    """
    band = bench.cut(pose, highest_per_A)
    share = np.minimum(signal_share(band, pose), default_share(len(bench.members), bench.images.pixel_A))
    angles = pose.tilts_deg[band.members]
    start = start_position(pose, bench.members)
    moves = np.zeros((len(band.members), 2))
    values = band.values.copy()
    placed, slipped, misfits = [start], [], {}
    for tilt in outward_order(angles, start)[1:]:
        others = nearest(angles, tilt, placed)
        match = match_tilt(band, pose, share, tilt, others, values, radius_A / bench.images.pixel_A)
        distance_A = float(np.hypot(*match.move)) * bench.images.pixel_A
        if match.height < SIGNIFICANT:
            misfits[int(band.members[tilt])] = f"does not fit to its neighbours (peak of {match.height:.1f} sigma)"
            continue
        placed.append(tilt)
        if distance_A > TOLERANCE_A and match.height > match.height_here + CLEARLY_HIGHER:
            slipped.append(int(band.members[tilt]))
            moves[tilt] = match.move
            values[:, tilt] = (band.values[:, [tilt]] * phases(band.cells, moves[[tilt]]))[:, 0]
    repaired = pose.moved(spread(moves, bench.members, len(pose.tilts_deg)))
    return Repair(repaired, tuple(slipped), misfits)


def leave_one_out(band: Band, model: Model, position: int, product: Complexes, radius: float) -> Match:
    """How well one tilt fits to what all others let expect of it; `product` is the model's inverse @ values.

    The expectation of tilt i given all others is q_i - (M q)_i / M_ii, with precision M_ii.
    """
    own = model.inverse[:, position, position][:, None]
    expected = own * band.values[:, position] - product[:, position]
    grid, _ = shift_map(band, band.values[:, position] * np.conj(expected))
    spacing = (band.cells.shape[0] / grid.shape[0], band.cells.shape[1] / grid.shape[1])
    return find_peak(grid, spacing, radius)


def all_left_out(bench: Bench, pose: Pose, highest_per_A: float, radius_A: float) -> list[Match]:
    """`leave_one_out` of every member."""
    band = bench.cut(pose, highest_per_A)
    model = model_of(band, pose, np.minimum(signal_share(band, pose), 0.7))
    product = weighted(model, band.values)
    radius = radius_A / bench.images.pixel_A
    return [leave_one_out(band, model, tilt, product, radius) for tilt in range(len(bench.members))]


def without(bench: Bench, tilts: set[int]) -> Bench:
    """The bench with some tilts taken out of use."""
    return replace(bench, members=np.array([tilt for tilt in bench.members if int(tilt) not in tilts], dtype=np.int64))
