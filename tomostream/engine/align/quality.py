# SPDX-License-Identifier: GPL-3.0-or-later
"""What an alignment is worth: uncertainties from the Fisher matrix, checks without a reference, a figure in words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tomostream.engine.align.geometry import Floats, Pose
from tomostream.engine.align.likelihood import ascend, model_of, signal_share
from tomostream.engine.align.pipeline import Bench, maximise
from tomostream.engine.align.spectra import Band

ENOUGH_TILTS = 9
TRUSTED_SPLIT_A = 20.0


@dataclass(frozen=True)
class Checks:
    """Measured on the finished alignment: standard deviations (members, 2) in working pixels, leave-one-out heights
    (members,), and the RMS difference of even and odd tilts aligned apart, in A (None where there are too few)."""

    sigma: Floats
    heights: Floats
    split_A: float | None


def standard_deviations(band: Band, pose: Pose) -> Floats:
    """Standard deviation (members, 2) of every tilt's (dX cos t, dY) in working pixels.

    From the pseudo-inverse of the Fisher matrix (the common shift is free); the window lets only the covered share of
    the coefficients be independent.
    """
    model = model_of(band, pose, signal_share(band, pose))
    _, _, information = ascend(band, model, np.ones(len(band.members), bool), 0, 1.0)
    weight = np.repeat(np.clip(band.coverage, 0.05, 1.0), 2) ** 0.5
    inverse = np.linalg.pinv(information * weight[:, None] * weight[None], rcond=1e-8, hermitian=True)
    sigma = np.sqrt(np.maximum(np.diag(inverse), 0.0)).reshape(-1, 2)
    sigma[:, 0] *= np.cos(np.radians(pose.tilts_deg[band.members]))
    return sigma


def without_gauge(moves: Floats, tangents: Floats) -> Floats:
    """Moves (n, 2) in the stretched frame without what a shift of the specimen in X, Y and Z makes of them."""
    design = np.stack([np.ones_like(tangents), tangents], axis=1)
    across = moves[:, 0] - design @ np.linalg.lstsq(design, moves[:, 0], rcond=None)[0]
    return np.stack([across, moves[:, 1] - moves[:, 1].mean()], axis=1)


def split_difference_A(bench: Bench, pose: Pose, highest_per_A: float) -> float | None:
    """Align even and odd tilts apart, both from `pose`, and compare each half with the whole: RMS in A.

    None where a half has fewer than five tilts. The half alignments know only every other tilt, so this is an upper
    bound for errors that differ from tilt to tilt.
    """
    order = bench.members[np.argsort(pose.tilts_deg[bench.members], kind="stable")]
    if len(order) < 10:
        return None
    residuals = []
    for half in (order[::2], order[1::2]):
        members = np.sort(half)
        fitted, _ = maximise(replace(bench, members=members), pose, highest_per_A, 1, steps=4)
        axis = np.radians(pose.axis_deg)
        raw = fitted.shifts[members] - pose.shifts[members]
        across = raw[:, 0] * np.cos(axis) + raw[:, 1] * np.sin(axis)
        along = -raw[:, 0] * np.sin(axis) + raw[:, 1] * np.cos(axis)
        cosines = np.cos(np.radians(pose.tilts_deg[members]))
        moves = without_gauge(np.stack([across / cosines, along], axis=1), pose.tangents()[members])
        moves[:, 0] *= cosines
        residuals.append(moves)
    every = np.concatenate(residuals)
    return float(np.sqrt(np.mean(np.sum(every**2, axis=1))) * bench.images.pixel_A)


def judge(checks: Checks, used: int, total: int, span_deg: float, highest_per_A: float) -> tuple[float, str]:
    """A figure between 0 and 1 and what it is worth in words.

    The figure is the share of tilts that are used and stand well out of the noise, lowered where the halves disagree.
    """
    reasons = []
    clear = float(np.mean(np.clip((checks.heights - 4.0) / 8.0, 0.0, 1.0))) if len(checks.heights) else 0.0
    figure = clear * used / max(total, 1)
    if checks.split_A is not None:
        figure /= 1.0 + (checks.split_A / (2.0 * TRUSTED_SPLIT_A)) ** 2
        if checks.split_A > TRUSTED_SPLIT_A:
            reasons.append(f"even and odd tilts aligned apart differ by {checks.split_A:.0f} A")
    if used < ENOUGH_TILTS:
        reasons.append(f"only {used} tilts are used")
    if used < 0.6 * total:
        reasons.append(f"{total - used} of {total} tilts do not take part")
    if span_deg < 40.0:
        reasons.append(f"the tilts used span only {span_deg:.0f} degrees")
    if clear < 0.5:
        reasons.append("most tilts hardly stand out of the noise when they are left out and predicted")
    figure = float(np.clip(figure, 0.0, 1.0))
    return figure, "trust" if not reasons else "do not trust: " + "; ".join(reasons)
