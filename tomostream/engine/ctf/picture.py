# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user looks at to believe a CTF: the power spectrum beside the fitted rings."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.ctf.fit import CtfTilt
from tomostream.engine.ctf.rings import profile, separated
from tomostream.engine.ctf.spectra import Optics, TiltSpectra

SIDE = 512
Doubles = NDArray[np.float64]


def spectrum_picture(tilt: TiltSpectra, ctf: CtfTilt, optics: Optics) -> NDArray[np.float32]:
    """Return the measured spectrum of a tilt beside the fitted one: right the power over its background, left the CTF squared.

    Zero frequency is at (256, 256), the edge of the picture is the highest frequency that was fitted.

    Parameters
    ----------
    tilt : TiltSpectra
        What was measured.
    ctf : CtfTilt
        What was fitted to it.
    optics : Optics
        With the tilt's phase shift.

    Returns
    -------
    ndarray of float32, shape (512, 512)
        0 to 1; row 0 is the lowest ky.
    """
    top = math.sqrt(float(tilt.s[-1]))
    axis = (np.arange(SIDE) - SIDE // 2) * top / (SIDE // 2)
    ky, kx = np.meshgrid(axis, axis, indexing="ij")
    s = kx**2 + ky**2
    size = tilt.power.shape[0]
    row = np.round(ky * size * tilt.pixel_size_A).astype(int) % size
    column = np.minimum(np.round(np.abs(kx) * size * tilt.pixel_size_A).astype(int), tilt.power.shape[1] - 1)
    power = np.log(np.maximum(tilt.power[row, column], 1e-12))
    radius = np.round(np.sqrt(s) / top * 128).astype(int)
    mean = np.bincount(radius.ravel(), power.ravel()) / np.maximum(np.bincount(radius.ravel()), 1)
    smooth = np.convolve(np.pad(mean, 12, mode="edge"), np.ones(25) / 25, mode="valid")
    seen = np.clip(power - smooth[radius], -1.0, 1.0)
    seen = 0.5 + 0.5 * seen / max(float(np.abs(seen).max()), 1e-6)
    angle = np.arctan2(ky, kx) - math.radians(ctf.azimuth_deg)
    middle, half = (ctf.defocus_max_A + ctf.defocus_min_A) / 2, (ctf.defocus_max_A - ctf.defocus_min_A) / 2
    fitted = np.sin(optics.phase(s, middle + half * np.cos(2 * angle))) ** 2
    return np.where(kx < 0, fitted, seen).astype(np.float32)


def curves(tilt: TiltSpectra, ctf: CtfTilt, optics: Optics) -> tuple[Doubles, Doubles, Doubles]:
    """Return the radial profile of a tilt and of what was fitted to it, all directions brought to the mean defocus.

    Parameters
    ----------
    tilt : TiltSpectra
        What was measured.
    ctf : CtfTilt
        What was fitted to it.
    optics : Optics
        With the tilt's phase shift.

    Returns
    -------
    frequency : ndarray, shape (S,)
        1/A.
    measured : ndarray, shape (S,)
        Power over its background, less 1.
    fitted : ndarray, shape (S,)
        -a cos(2 phase) = a (2 CTF^2 - 1), with the depth a of the rings.
    """
    middle, astigmatism = _middle(ctf)
    depths, corrected = separated([tilt], optics, np.array([middle]), 0, astigmatism)
    measured, _ = profile(corrected[0], optics, middle, 0, astigmatism)
    return np.sqrt(tilt.s), measured, np.asarray(-depths[0] * np.cos(2 * optics.phase(tilt.s, middle)))


def zeros(tilt: TiltSpectra, ctf: CtfTilt, optics: Optics) -> list[tuple[float, float]]:
    """Return where the CTF is zero, as far as the rings are seen.

    Parameters
    ----------
    tilt, ctf, optics
        As for `curves`.

    Returns
    -------
    list of (float, float)
        1/A along the azimuth, where the defocus is largest, and across it, from the first zero on.
    """
    k = np.linspace(0.0, min(1 / ctf.resolution_A, math.sqrt(float(tilt.s[-1]))), 4000)[1:]
    along, across = (_crossings(k, optics.phase(k**2, defocus)) for defocus in (ctf.defocus_max_A, ctf.defocus_min_A))
    return list(zip(along, across, strict=False))


def _crossings(k: Doubles, phase: Doubles) -> list[float]:
    """Return where the phase passes a multiple of pi."""
    turns = np.floor(phase / math.pi)
    return [float(each) for each in k[1:][np.diff(turns) != 0]]


def _middle(ctf: CtfTilt) -> tuple[float, tuple[float, float]]:
    """Return the mean defocus (A), and half the difference of the defoci (A) with its azimuth (radians)."""
    half = (ctf.defocus_max_A - ctf.defocus_min_A) / 2
    return (ctf.defocus_max_A + ctf.defocus_min_A) / 2, (half, math.radians(ctf.azimuth_deg))
