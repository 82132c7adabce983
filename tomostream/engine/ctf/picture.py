# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user looks at to believe a CTF: the power spectrum beside the fitted rings."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.ctf.fit import CtfTilt
from tomostream.engine.ctf.spectra import Optics, TiltSpectra

SIDE = 512


def spectrum_picture(tilt: TiltSpectra, ctf: CtfTilt, optics: Optics) -> NDArray[np.float32]:
    """(512, 512): right half the power over its background, left half the fitted CTF squared.

    Zero frequency is at (256, 256), the edge of the picture is the highest frequency that was fitted.
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
