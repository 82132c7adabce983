# SPDX-License-Identifier: GPL-3.0-or-later
"""Thon rings and background of spectra, separated: how deep the rings of a series are, and one profile of a tilt's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.ctf.spectra import SECTORS, Optics, TiltSpectra

Doubles = NDArray[np.float64]
# the depth of the rings is a spline in log k of this many knots, the correction of the background a polynomial of this degree:
# defoci are found without bias from 1.5 to 6 um, while fewer terms follow the first ring, which is wide
_KNOTS, _DEGREE = 6, 8
# a tilt's own factor of that depth: beyond, it has no rings, or nothing else
_FACTORS = (0.05, 5.0)


def _own_rings(
    tilt: TiltSpectra, optics: Optics, defocus: float, hand: int, astigmatism: tuple[float, float]
) -> Doubles:
    """Return c(s, D) of every height and sector of a tilt, (G, SECTORS, S)."""
    angles = np.arange(SECTORS) * math.pi / SECTORS
    bend = astigmatism[0] * np.cos(2 * (angles - astigmatism[1]))
    own = defocus + hand * tilt.heights[:, None] + bend[None]
    return np.asarray(-np.cos(2 * optics.phase(tilt.s[None, None], own[:, :, None])))


def profile(
    tilt: TiltSpectra, optics: Optics, defocus: float, hand: int, astigmatism: tuple[float, float]
) -> tuple[Doubles, Doubles]:
    """Bring the rings of one tilt together.

    Parameters
    ----------
    tilt : TiltSpectra
        Modulation by height, sector and s = k^2, shape (heights, SECTORS, S).
    optics : Optics
        Voltage and spherical aberration.
    defocus : float
        Mean, A; underfocus is positive.
    hand : int
        1 or -1: which way the defocus goes across the tilt axis.
    astigmatism : (float, float)
        Half the difference of the defoci (A) and its azimuth (radians).

    Returns
    -------
    ndarray, shape (S,)
        The modulation with all heights and sectors brought to the mean defocus.
    ndarray, shape (S,)
        Its weight.
    """
    size, azimuth = astigmatism
    angles = np.arange(SECTORS) * math.pi / SECTORS
    total, weight = np.zeros(len(tilt.s)), np.zeros(len(tilt.s))
    target = optics.phase(tilt.s, defocus)
    for group, height in enumerate(tilt.heights):
        for sector in range(SECTORS):
            own = defocus + hand * height + size * math.cos(2 * (angles[sector] - azimuth))
            phase = optics.phase(tilt.s, max(own, 500.0))
            place = np.interp(phase, target, np.arange(len(tilt.s)), left=-1, right=-1)
            for step, share in ((0, 1 - place % 1), (1, place % 1)):
                index = np.floor(place).astype(int) + step
                held = (place >= 0) & (index < len(tilt.s))
                amount = (tilt.weight[group, sector] * share)[held]
                total += np.bincount(index[held], amount * tilt.modulation[group, sector][held], len(tilt.s))
                weight += np.bincount(index[held], amount, len(tilt.s))
    return total / np.maximum(weight, 1e-6), weight


@dataclass(frozen=True)
class _Sums:
    """Of one tilt, over heights and sectors: sums of weights, times rings, times rings squared, and so of modulation."""

    weight: Doubles
    rings: Doubles
    squares: Doubles
    level: Doubles
    product: Doubles

    @classmethod
    def of(cls, tilt: TiltSpectra, rings: Doubles) -> _Sums:
        """Return the sums of one tilt with rings c(s, D), (G, SECTORS, S)."""
        weight = tilt.weight.astype(np.float64)
        modulation = weight * tilt.modulation
        parts = (weight, weight * rings, weight * rings**2, modulation, modulation * rings)
        return cls(*(part.sum(axis=(0, 1)) for part in parts))


def _bases(s: Doubles) -> tuple[Doubles, Doubles]:
    """Return what a background's correction and the depth of the rings are made of: (S, N) each, smooth in log k."""
    from scipy.interpolate import BSpline

    x = np.log(s)
    x = (x - x[0]) / (x[-1] - x[0])
    inner = np.linspace(0, 1, _KNOTS)
    knots = np.concatenate([[0.0] * 3, inner, [1.0] * 3])
    splines = BSpline.design_matrix(np.clip(x, 0, 1 - 1e-9), knots, 3).toarray()
    return np.polynomial.chebyshev.chebvander(2 * x - 1, _DEGREE), splines


def separated(
    spectra: Sequence[TiltSpectra], optics: Optics, defocus: Doubles, hand: int, astigmatism: tuple[float, float]
) -> tuple[Doubles, list[TiltSpectra]]:
    """Separate rings from background.

    Parameters
    ----------
    spectra : sequence of TiltSpectra
        Of K tilts, at the same S values of s = k^2.
    defocus : ndarray, shape (K,)
        A; underfocus is positive.
    optics, hand, astigmatism
        As for `profile`.

    Returns
    -------
    ndarray, shape (K, S)
        The depth of the rings of every tilt.
    list of TiltSpectra
        The spectra with the background that goes with it.

    Notes
    -----
    The modulation of a tilt is b(s) + f a(s) c: a correction b of its background, a depth a common to the series, and a
    factor f of its own, as a longer path leaves fewer of the electrons in the image. All are found together by least
    squares: a background fitted without rings in mind follows the first of them and moves the rest.
    """
    smooth, splines = _bases(spectra[0].s)
    sums = [
        _Sums.of(tilt, _own_rings(tilt, optics, float(value), hand, astigmatism))
        for tilt, value in zip(spectra, defocus, strict=True)
    ]
    matrices, sides = [], []
    for part in sums:
        own = np.linalg.inv((smooth * part.weight[:, None]).T @ smooth)
        mixed = (splines * part.rings[:, None]).T @ smooth
        matrices.append((splines * part.squares[:, None]).T @ splines - mixed @ own @ mixed.T)
        sides.append(splines.T @ part.product - mixed @ own @ (smooth.T @ part.level))
    factors, curve = np.ones(len(sums)), np.zeros(splines.shape[1])
    for _ in range(4):
        whole = np.tensordot(factors**2, matrices, axes=1)
        whole += 1e-6 * np.trace(whole) / len(whole) * np.eye(len(whole))
        curve = np.linalg.solve(whole, factors @ np.array(sides))
        own_fit = [float(curve @ g) / max(float(curve @ m @ curve), 1e-9) for m, g in zip(matrices, sides, strict=True)]
        factors = np.clip(own_fit, *_FACTORS)
    depth = np.clip(splines @ curve, 0.0, 1.0)
    depths = np.clip(factors[:, None] * depth, 0.0, 1.0)
    corrected = []
    for tilt, part, own_depth in zip(spectra, sums, depths, strict=True):
        matrix = (smooth * part.weight[:, None]).T @ smooth
        shift = smooth @ np.linalg.solve(matrix, smooth.T @ (part.level - own_depth * part.rings))
        corrected.append(tilt.with_background(np.asarray(1 + np.clip(shift, -0.5, 1.0), dtype=np.float64)))
    return depths, corrected
