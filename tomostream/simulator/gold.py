# SPDX-License-Identifier: GPL-3.0-or-later
"""Gold beads as the camera sees them: spheres that shift the phase of the wave by radians and remove electrons.

They are far from being weak objects, so their image is the square of a defocused wave, not a linear transfer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tomostream.programs.ctf import wavelength_A
from tomostream.simulator.projector import Optics

#: rad/A at 300 kV: 24.5 V above ice, 0.00065 rad / (V A).
PHASE = 0.016
#: A over which the intensity falls to 1/e: electrons scattered out of the aperture or losing energy.
ABSORPTION = 120.0
#: A, standard deviation: vibration, the source, the detector.
BLUR = 3.0
#: Sampling of the wave, at most, A.
SAMPLING = 2.5


def bead_contrast(diameter: float, pixel_size: float, optics: Optics, offset: tuple[float, float] = (0.0, 0.0)
                  ) -> NDArray[np.float32]:
    """Return the share of electrons missing around a bead, on an odd square; its centre is `offset` (x, y) px from the middle
    pixel."""
    spectrum, side = _spectrum(diameter, pixel_size, optics)
    ky, kx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    shifted = spectrum * np.exp(-2j * math.pi * (kx * offset[0] + ky * offset[1]))
    return np.fft.fftshift(scipy.fft.irfft2(shifted, s=(side, side))).astype(np.float32)


@functools.lru_cache(maxsize=16)
def _spectrum(diameter: float, pixel_size: float, optics: Optics) -> tuple[NDArray[np.complex128], int]:
    """Return the transform of the contrast about index 0, and its side in pixels."""
    wavelength = wavelength_A(optics.voltage)
    defocus = optics.defocus or 0.0
    reach = diameter / 2 + 3.5 * math.sqrt(wavelength * abs(defocus)) + 2 * pixel_size
    side, finer = 2 * math.ceil(reach / pixel_size) + 1, math.ceil(pixel_size / SAMPLING)
    count, step = side * finer, pixel_size / finer
    at = np.fft.fftfreq(count, 1 / count) * step
    thickness = np.sqrt(np.maximum(0, diameter**2 / 4 - at[:, None] ** 2 - at[None] ** 2)) * 2
    wave = np.exp((1j * PHASE - 0.5 / ABSORPTION) * thickness)
    k2 = np.fft.fftfreq(count, step)[:, None] ** 2 + np.fft.fftfreq(count, step)[None] ** 2
    phase = math.pi * wavelength * defocus * k2
    phase -= 0.5 * math.pi * optics.spherical_aberration * 1e7 * wavelength**3 * k2**2
    seen = np.abs(scipy.fft.ifft2(scipy.fft.fft2(wave - 1) * np.exp(1j * phase)) + 1) ** 2
    whole = scipy.fft.fft2(1 - seen) * np.exp(-2 * (math.pi * BLUR) ** 2 * k2)
    rows = np.rint(np.fft.fftfreq(side, 1 / side)).astype(int)
    columns = np.arange(side // 2 + 1)
    return whole[np.ix_(rows, columns)] / finer**2, side


def gold_contrast(shape: tuple[int, int], places: Iterable[tuple[float, float]], diameter: float, pixel_size: float,
                  optics: Optics) -> NDArray[np.float32]:
    """Return the share of electrons that beads at `places`, (x, y) as pixel indices, remove from an image of `shape` (rows,
    columns)."""
    out = np.zeros(shape, np.float32)
    for x, y in places:
        column, row = round(x), round(y)
        bead = bead_contrast(diameter, pixel_size, optics, (x - column, y - row))
        reach = len(bead) // 2
        (a, b), (c, d) = ((max(0, at - reach), min(n, at + reach + 1)) for at, n in zip((row, column), shape, strict=True))
        if a < b and c < d:
            out[a:b, c:d] += bead[a - row + reach : b - row + reach, c - column + reach : d - column + reach]
    return np.minimum(out, 0.98, out=out)
