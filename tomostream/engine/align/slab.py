# SPDX-License-Identifier: GPL-3.0-or-later
"""How alike two tilts of a slab of scatterers are: the coherence, from the depth profile of the scattering.

In the stretched frame a scatterer at depth z is seen at X + z tan(t). Scatterers that are random and independent, with
variance w(z) at depth z (the mean over the field), make the coherence of tilts i and j at kx the Fourier transform of w at
kx (tan ti - tan tj). For an even slab that is a sinc. A wedge, a bent or thinning lamella, particles that lie at one
surface, all have their w(z); where w is not symmetric the coherence is complex, and taking it for real shifts the tilts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from tomostream.engine.align.geometry import Floats

LAYERS = 17
REACH = 0.85  # depth of the outermost layers' centres, in thicknesses from the middle
FURTHEST = 2.6  # thicknesses times spatial frequency up to which a profile is fitted
STEP = 0.01  # of the table in which coherences are looked up


def layer_depths() -> Floats:
    """Depths of the layers' centres in thicknesses, (LAYERS,)."""
    return np.linspace(-REACH, REACH, LAYERS)


def _layer_terms(distance: Floats) -> NDArray[np.complexfloating]:
    """Coherence of each layer by itself at `distance` (n,), thickness times depth frequency: (n, LAYERS)."""
    width = 2.0 * REACH / (LAYERS - 1)
    turn = np.exp(-2j * np.pi * distance[:, None] * layer_depths()[None])
    out: NDArray[np.complexfloating] = turn * np.sinc(width * distance)[:, None]
    return out


def coherence(distance: Floats, profile: Floats | None) -> NDArray[np.complex64]:
    """Coherence at `distance` = thickness kx (tan ti - tan tj), any shape; `profile` None is an even slab."""
    if profile is None:
        return np.sinc(distance).astype(np.complex64)
    top = float(np.max(np.abs(distance), initial=0.0)) + STEP
    grid = np.arange(0.0, top + STEP, STEP)
    table = (_layer_terms(grid) @ profile).astype(np.complex64)
    place = np.abs(distance) / STEP
    index = place.astype(np.int32)
    part = (place - index).astype(np.float32)
    out: NDArray[np.complex64] = table[index] * (1 - part) + table[index + 1] * part
    return np.where(distance < 0, np.conj(out), out)


def fit_profile(distance: Floats, measured: NDArray[np.complexfloating], weight: Floats) -> Floats | None:
    """Depth profile (LAYERS,), not negative, sum 1, that gives the `measured` coherence (n,) at `distance` (n,).

    Least squares with a mild preference for smoothness. None where nothing was measured.
    """
    inside = (weight > 0) & (distance < FURTHEST)
    if np.count_nonzero(inside) < 8:
        return None
    root = np.sqrt(weight[inside] / weight[inside].mean())
    terms = _layer_terms(distance[inside]) * root[:, None]
    target = measured[inside] * root
    bend = np.diff(np.eye(LAYERS), 2, axis=0) * 0.3
    system = np.concatenate([terms.real, terms.imag, bend])
    right = np.concatenate([target.real, target.imag, np.zeros(len(bend))])
    weights, _ = optimize.nnls(system, right)
    total = float(weights.sum())
    return weights / total if total > 0 else None
