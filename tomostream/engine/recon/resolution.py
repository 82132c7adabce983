# SPDX-License-Identifier: GPL-3.0-or-later
"""Resolution of a tomogram from its even and odd halves: Fourier shell correlation in the plane and along z.

With the Fourier transforms A and B of the two halves, the correlation of a shell is ``Re sum A B* / sqrt(sum |A|^2 sum |B|^2)``
(Harauz and van Heel, 1986); where it falls below 0.143, the signal of both together is as strong as their noise (Rosenthal and
Henderson, 2003). In the plane a shell holds directions within 17 degrees of it; along z those that are inclined by more than 30
degrees and lie where tilts were measured, by their frequency along z alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.fourier import soft_window
from tomostream.files.mrc import MrcStack

Floats = NDArray[np.float64]
THRESHOLD = 0.143
#: Sines of the largest inclination that counts as in the plane, and of the smallest that counts as along z.
FLAT, STEEP = 0.3, 0.5
#: Side of the pieces of the field that are looked at, px; of a field that is large enough there are four.
SIDE = 192
#: Of the field in x and y that is left out at each edge, where tilts end.
MARGIN = 0.1
#: A shell counts where it holds at least this many coefficients.
ENOUGH = 30


@dataclass(frozen=True)
class Resolution:
    """Resolution of a tomogram.

    Attributes
    ----------
    xy_A, z_A : float or None
        In the plane and along z; None where the halves have nothing in common.
    shells : ndarray, shape (S,)
        Frequencies, 1/A.
    xy, z : ndarray, shape (S,)
        The correlation in each; NaN where the shell holds too little.
    """

    xy_A: float | None
    z_A: float | None
    shells: Floats
    xy: Floats
    z: Floats


def resolution(
    even: MrcStack, odd: MrcStack, pixel_size_A: float, upright: bool, thickness_A: float | None = None,
    widest_deg: float = 60.0, threads: int = 1,
) -> Resolution:
    """Compare two halves of a tomogram.

    Parameters
    ----------
    even, odd : MrcStack
        Volumes of one size.
    pixel_size_A : float
        Of the voxels.
    upright : bool
        Whether sections are z (x, y, z), else y (x, z, y).
    thickness_A : float, optional
        Of the specimen, in the middle of the volume: what is outside is left out, as there is nothing in it.
    widest_deg : float
        The largest tilt angle.
    threads : int
        Of the transforms.

    Returns
    -------
    Resolution
    """
    shape = even.shape if upright else (even.shape[1], even.shape[0], even.shape[2])
    depth = shape[0] if thickness_A is None else min(shape[0], max(16, round(thickness_A / pixel_size_A)))
    places = [(y, x) for y in _starts(shape[1]) for x in _starts(shape[2])]
    side_y, side_x = min(SIDE, shape[1]), min(SIDE, shape[2])
    sums = _Sums.of((depth, side_y, side_x), widest_deg)
    top = (shape[0] - depth) // 2
    for y, x in places:
        box = (slice(top, top + depth), slice(y, y + side_y), slice(x, x + side_x))
        sums.add(_piece(even, box, upright), _piece(odd, box, upright), threads)
    xy, z = sums.curves()
    shells = (np.arange(len(xy)) + 0.5) / (2 * len(xy)) / pixel_size_A
    return Resolution(_crossing(shells, xy), _crossing(shells, z), shells, xy, z)


def _starts(length: int) -> list[int]:
    """Return where the pieces start along one side: one in the middle, or two that have nothing in common."""
    margin = round(MARGIN * length)
    if length - 2 * margin < 2 * SIDE:
        return [max(0, (length - SIDE) // 2)]
    return [length // 2 - SIDE, length // 2]


def _piece(volume: MrcStack, box: tuple[slice, slice, slice], upright: bool) -> NDArray[np.float32]:
    """Return a part of a volume as (z, y, x), without its mean."""
    z, y, x = box
    sections, rows = (z, y) if upright else (y, z)
    inside = (volume.rows(s, rows.start, rows.stop)[:, x] for s in range(sections.start, sections.stop))
    part = np.stack(list(inside)).astype(np.float32)
    part = part if upright else part.transpose(1, 0, 2)
    return part - part.mean()


class _Sums:
    """Cross power and powers of all pieces, by shell: in the plane, and along z."""

    def __init__(self, window: NDArray[np.float32], shells: int, flat: NDArray[np.int64], steep: NDArray[np.int64]) -> None:
        self._window, self._shells = window, shells
        inside = [np.flatnonzero(place < shells) for place in (flat, steep)]
        self._places = [(where, place.ravel()[where]) for where, place in zip(inside, (flat, steep), strict=True)]
        self._sums = np.zeros((2, 3, shells))
        self._count = np.array([np.bincount(shell, minlength=shells) for _, shell in self._places])

    @classmethod
    def of(cls, shape: tuple[int, int, int], widest_deg: float) -> _Sums:
        """Return sums of nothing yet, for pieces of one shape (z, y, x)."""
        kz, ky = np.fft.fftfreq(shape[0])[:, None, None], np.fft.fftfreq(shape[1])[None, :, None]
        kx = np.fft.rfftfreq(shape[2])[None, None]
        radius = np.sqrt(kz**2 + ky**2 + kx**2)
        shells = max(4, min(shape) // 2)
        measured = np.abs(kz) <= math.tan(math.radians(min(widest_deg, 80.0))) * kx
        slope = np.abs(kz) / np.maximum(radius, 1e-9)

        def shell(frequency: Floats, inside: NDArray[np.bool_]) -> NDArray[np.int64]:
            place = (np.broadcast_to(frequency, radius.shape) * 2 * shells).astype(np.int64)
            return np.where(inside & (place < shells) & (radius > 0), place, shells)

        window = np.ones(shape, np.float32)
        for axis, length in enumerate(shape):
            taper = np.hanning(length + 2)[1:-1] if axis else _ends(length)
            window *= taper.astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        return cls(window, shells, shell(radius, slope <= FLAT), shell(np.abs(kz), measured & (slope >= STEEP)))

    def add(self, even: NDArray[np.float32], odd: NDArray[np.float32], threads: int) -> None:
        """Add a piece of both halves."""
        import scipy.fft

        a, b = (scipy.fft.rfftn(piece * self._window, workers=threads) for piece in (even, odd))
        values = (a.real * b.real + a.imag * b.imag, a.real**2 + a.imag**2, b.real**2 + b.imag**2)
        for row, (where, shell) in enumerate(self._places):
            for column, value in enumerate(values):
                self._sums[row, column] += np.bincount(shell, value.ravel()[where], self._shells)

    def curves(self) -> tuple[Floats, Floats]:
        """Return the correlation in every shell, in the plane and along z; over three neighbouring shells."""
        out = []
        for (cross, a, b), count in zip(self._sums, self._count, strict=True):
            cross, a, b = (np.convolve(np.pad(values, 1, mode="edge"), (0.25, 0.5, 0.25), "valid") for values in (cross, a, b))
            power = np.sqrt(a * b)
            good = (power > 0) & (count >= ENOUGH)
            out.append(np.where(good, cross / np.where(power > 0, power, 1.0), np.nan))
        return out[0], out[1]


def _ends(length: int) -> Floats:
    """Return a window for the few pixels of the depth: level, with soft ends."""
    return soft_window(length, max(1, length // 8))


def _crossing(shells: Floats, curve: Floats) -> float | None:
    """Return where a curve falls below the threshold for the first time after it was above, in A; its end where it never does."""
    known = np.isfinite(curve)
    shells, curve = shells[known], curve[known]
    above = np.flatnonzero(curve > 2 * THRESHOLD)
    if not len(above):
        return None
    below = np.flatnonzero(curve[above[0]:] < THRESHOLD)
    if not len(below):
        return float(1 / shells[-1])
    last = above[0] + below[0]
    part = (curve[last - 1] - THRESHOLD) / max(curve[last - 1] - curve[last], 1e-9)
    return float(1 / (shells[last - 1] + part * (shells[last] - shells[last - 1])))
