# SPDX-License-Identifier: GPL-3.0-or-later
"""Noise-free projections of a specimen as the camera sees them.

Convention (that of AreTomo's `.aln`, and of IMOD): a point X, Y, Z of the specimen (px, from its centre, Y along the
tilt axis) at tilt angle t, tilt axis r and shift s lies in the raw image, from its centre, at

    x' = X cos t + Z sin t
    x  = x' cos r - Y sin r + sx
    y  = x' sin r + Y cos r + sy

with y counted upwards from row 0 of an MRC image. So r is the angle from the y axis to the tilt axis, counter-
clockwise. The centre is that of the area, as in AreTomo2's GCorrPatchShift and in IMOD: half-way between the middle
pixels of an even image, at index (n - 1) / 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tomostream.programs.ctf import wavelength_A
from tomostream.simulator.specimen import Specimen

#: Blur of a point in A (standard deviation): the envelope of the microscope and the size of a point.
BLUR = 9.0
#: Points projected at a time: a wide field has tens of millions.
_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Optics:
    """Defocus in A (positive is underfocus, None for no CTF), voltage in kV, Cs in mm, amplitude contrast."""

    defocus: float | None = 30000.0
    voltage: float = 300.0
    spherical_aberration: float = 2.7
    amplitude_contrast: float = 0.07


def project_points(points: NDArray[np.floating], pixel_size: float, tilt: float, axis: float,
                   shift: tuple[float, float]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return where points (n, 3) in A fall in the raw image: x and y in px from its centre. Angles in degrees, shift in px."""
    t, r = math.radians(tilt), math.radians(axis)
    along = (points[:, 0] * math.cos(t) + points[:, 2] * math.sin(t)) / pixel_size
    y = points[:, 1] / pixel_size
    return along * math.cos(r) - y * math.sin(r) + shift[0], along * math.sin(r) + y * math.cos(r) + shift[1]


def projection_spectrum(specimen: Specimen, shape: tuple[int, int], pixel_size: float, tilt: float, axis: float,
                        shift: tuple[float, float], optics: Optics) -> NDArray[np.complex64]:
    """Return the Fourier transform (`scipy.fft.rfft2`) of the contrast image of `shape` (rows, columns).

    Contrast is twice the phase shift after the blur and the CTF (weak-phase approximation), positive where electrons
    are missing.
    """
    image = np.zeros(shape)
    for start in range(0, len(specimen.points), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        x, y = project_points(specimen.points[part], pixel_size, tilt, axis, shift)
        image += _splat(x + (shape[1] - 1) / 2, y + (shape[0] - 1) / 2, specimen.weights[part], shape)
    image *= 2 / pixel_size**2
    k2 = squared_frequencies(shape, pixel_size)
    transfer = np.exp(-2 * (math.pi * BLUR) ** 2 * k2) * contrast_transfer(k2, optics)
    return scipy.fft.rfft2(image.astype(np.float32)) * transfer.astype(np.float32)


def squared_frequencies(shape: tuple[int, int], pixel_size: float) -> NDArray[np.float64]:
    """Return squared spatial frequencies in 1/A2 on the grid of `rfft2`."""
    return np.fft.fftfreq(shape[0], pixel_size)[:, None] ** 2 + np.fft.rfftfreq(shape[1], pixel_size)[None] ** 2


def contrast_transfer(k2: NDArray[np.float64], optics: Optics) -> NDArray[np.float64]:
    """Return the CTF at squared frequencies in 1/A2, positive at low frequencies so that protein is dark.

    Without a defocus it is the same at all frequencies, and as strong as a typical CTF at that of a ribosome.
    """
    if optics.defocus is None:
        return np.full_like(k2, 0.3)
    wavelength = wavelength_A(optics.voltage)
    phase = math.pi * wavelength * optics.defocus * k2
    phase -= 0.5 * math.pi * optics.spherical_aberration * 1e7 * wavelength**3 * k2**2
    return np.sin(phase + math.asin(optics.amplitude_contrast))


def _splat(x: NDArray[np.floating], y: NDArray[np.floating], weights: NDArray[np.floating],
           shape: tuple[int, int]) -> NDArray[np.float64]:
    """Distribute every point among the four pixels around it (bilinear); x, y in px from pixel (0, 0); outside is lost."""
    rows, columns = shape
    inside = (x >= 0) & (y >= 0) & (x < columns - 1) & (y < rows - 1)
    x, y, weights = x[inside], y[inside], weights[inside]
    column, row = x.astype(np.int64), y.astype(np.int64)
    right, up = x - column, y - row
    image = np.zeros(rows * columns)
    for dy, wy in ((0, 1 - up), (1, up)):
        for dx, wx in ((0, 1 - right), (1, right)):
            image += np.bincount((row + dy) * columns + column + dx, weights * wy * wx, rows * columns)
    return image.reshape(shape)
