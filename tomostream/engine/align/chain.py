# SPDX-License-Identifier: GPL-3.0-or-later
"""How firmly the tilts of a series hang together across the axis.

Thick specimens have so little in common between neighbouring high tilts that all tilts beyond one may lie some pixels beside
their places with the likelihood hardly lower, or have two places that are as good. The Fisher matrix, which knows the top of one
peak, does not see that. Here the series is cut between each two neighbours in turn, and the likelihood of all that lies beyond
the cut being moved by d is followed over a wide range of d.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.align.geometry import Floats, Pose
from tomostream.engine.align.likelihood import BLOCK, Model, down_weighted
from tomostream.engine.align.spectra import Band

REACH_A, STEP_A = 150.0, 2.5  # of the moves that are tried, in the stretched frame


def step_deviations(band: Band, pose: Pose, model: Model, pixel_A: float) -> tuple[NDArray[np.int64], Floats]:
    """Return how well the step between each two neighbouring tilts is known across the axis.

    Parameters
    ----------
    band : Band
        Coefficients of the used tilts at `pose`.
    pose : Pose
        Where they are.
    model : Model
        Of the band at this pose.
    pixel_A : float
        Of the working images.

    Returns
    -------
    order : ndarray of int, shape (members,)
        Positions in the band, in the order of the tilt angles.
    deviations : ndarray, shape (members - 1,)
        Standard deviation of the step between each two neighbours, of all that lies beyond; working pixels of the frame.

    Notes
    -----
    With q_i the coefficients of tilt i and M the inverse of the model's covariance, the log-likelihood of a step d is, up to a
    constant, ``-2 Re sum M_ij q_i* q_j exp(2 pi i kx d)`` over the tilts i before the cut and j beyond it. Only the covered share
    of the coefficients is independent.
    """
    band = down_weighted(band, model)
    order = np.argsort(pose.tilts_deg[band.members], kind="stable")
    count = len(order)
    steps = np.arange(-REACH_A, REACH_A + 0.5 * STEP_A, STEP_A) / pixel_A
    value = np.zeros((count - 1, len(steps)))
    for first in range(0, len(band.cells.kx), BLOCK):
        cells = slice(first, first + BLOCK)
        weight = np.sqrt(band.cells.weight[cells]).astype(np.float32)[:, None, :]
        values = (band.values[cells] * weight)[:, order]
        coupled = model.inverse[cells][:, order][:, :, order] * np.matmul(np.conj(values), np.swapaxes(values, 1, 2))
        before = np.cumsum(coupled, axis=1)
        across = np.stack([before[:, k, k + 1 :].sum(axis=1) for k in range(count - 1)])
        value -= 2.0 * np.real(across @ np.exp(2j * np.pi * band.cells.kx[cells][:, None] * steps))
    value *= float(np.mean(band.coverage))
    density = np.exp(value - value.max(axis=1, keepdims=True))
    density /= density.sum(axis=1, keepdims=True)
    middle = density @ steps
    return order, np.sqrt(np.maximum(density @ steps**2 - middle**2, 0.0))


def chain_deviations(order: NDArray[np.int64], steps: Floats, tilts_deg: Floats) -> Floats:
    """Return the standard deviation of tilts' places across the axis from independent steps between neighbours.

    Parameters
    ----------
    order, steps
        As `step_deviations` returns them.
    tilts_deg : ndarray, shape (n,)
        Tilt angles, by position.

    Returns
    -------
    ndarray, shape (n,)
        Of dX cos t, in the unit of `steps`; what a shift of the specimen in X and Z does is taken out.
    """
    tilts = np.radians(tilts_deg[order])
    design = np.stack([np.cos(tilts), np.sin(tilts)], axis=1)
    basis, _ = np.linalg.qr(design)
    moved = np.tril(np.ones((len(order), len(order) - 1)), -1) * steps * np.cos(tilts)[:, None]
    out = np.empty(len(order))
    out[order] = np.sqrt(np.sum((moved - basis @ (basis.T @ moved)) ** 2, axis=1))
    return out
