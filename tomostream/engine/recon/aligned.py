# SPDX-License-Identifier: GPL-3.0-or-later
"""Aligned images: each raw tilt rotated, shifted, binned and dose weighted in one interpolation.

The image is Fourier-interpolated to twice the sampling of the output (cropped, for a binning above 2), with everything
removed that the output's Nyquist box could not hold after the rotation; cubic interpolation at that sampling keeps what
is left, and the rotated grid is read off it directly. Nothing is binned twice and nothing aliases.

Pixel centres of an image of n pixels lie at i - (n - 1) / 2 from its centre, raw, aligned and binned alike: a binned
pixel covers exactly its raw pixels, and the tilt axis goes through the centre of the volume.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.fourier import BAND, low_columns
from tomostream.engine.recon.stack import without_spikes

Floats = NDArray[np.float32]
# samples of the finer grid above which it is not made twice as fine as the output (memory: 12 bytes a sample)
_MAX_FINE = 1 << 26
# the last twentieth below Nyquist is rolled off, so that the cut does not ring
_ROLL_OFF = 0.05
_PAD = 24
_TAPER = 6.0
# numba runs one parallel loop at a time
_SAMPLING = threading.Lock()
# rounds of sharpening shifts at patches; each leaves half or less of what their weighted mean flattens
_SHARPENED = 6


@dataclass(frozen=True)
class LocalShifts:
    """Local alignment of one tilt.

    AreTomo2's meaning: a point at (x, y) of the rotated grid, before the global shift, is read (dx, dy) further.

    Attributes
    ----------
    x, y : ndarray, shape (P,)
        Centres of the patches from the middle of the image, raw px.
    dx, dy : ndarray, shape (P,)
        Shifts, raw px.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    dx: NDArray[np.float64]
    dy: NDArray[np.float64]

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
        """Return the shift (2, ...) at (x, y): the mean of the patches' shifts, weighted exp(-100 d^2), d in image sizes.

        Parameters
        ----------
        x, y : ndarray of one shape
            Places in raw px from the middle of the image, before the global shift.
        width, height : int
            Of the raw image.

        Returns
        -------
        ndarray, shape (2, ...)
            (dx, dy), raw px.
        """
        if x.ndim > 1:  # row by row, because there may be many patches
            rows = [self.at(of_x, of_y, width, height) for of_x, of_y in zip(x, y, strict=True)]
            return np.stack(rows, axis=1)
        distance = ((x[..., None] - self.x) / width) ** 2 + ((y[..., None] - self.y) / height) ** 2
        weight = np.exp(-100.0 * (distance - distance.min(axis=-1, keepdims=True)))
        weight /= weight.sum(axis=-1, keepdims=True)
        return np.stack([(weight * self.dx).sum(-1), (weight * self.dy).sum(-1)])

    @classmethod
    def through(cls, wanted: LocalShifts, width: int, height: int) -> LocalShifts:
        """Return patches at the same places whose weighted mean (`at`) is there what is wanted.

        The mean of the wanted shifts themselves would flatten what is curved.

        Parameters
        ----------
        wanted : LocalShifts
            Shifts that are to be found at its places.
        width, height : int
            Of the raw image.

        Notes
        -----
        The values are sharpened a few times by what is still lacking: v <- v + (wanted - at(v)).
        """
        target = np.stack([wanted.dx, wanted.dy])
        values = target.copy()
        for _ in range(_SHARPENED):
            values += target - cls(wanted.x, wanted.y, values[0], values[1]).at(wanted.x, wanted.y, width, height)
        return cls(wanted.x, wanted.y, values[0], values[1])


@dataclass(frozen=True)
class Placement:
    """Where one raw image goes: raw = R(rot) aligned + (tx, ty).

    Attributes
    ----------
    rot_deg : float
        Tilt axis, counter-clockwise from y.
    tx, ty : float
        Raw px, from centre to centre, which are at (n - 1) / 2.
    local : LocalShifts, optional
    """

    rot_deg: float
    tx: float
    ty: float
    local: LocalShifts | None = None


def aligned_size(shape: tuple[int, int], tilt_axis_deg: float, binning: float) -> tuple[int, int]:
    """Return (ny, nx) of the aligned, binned images: sides swapped where the tilt axis is nearer x than y; even, as AreTomo2's.

    Parameters
    ----------
    shape : (int, int)
        (ny, nx) of the raw image.
    tilt_axis_deg : float
        Counter-clockwise from y.
    binning : float
        1 or more.

    Examples
    --------
    >>> aligned_size((4092, 5760), 85.0, 4.0)
    (1440, 1022)
    """
    ny, nx = shape
    if abs(math.sin(math.radians(tilt_axis_deg))) > 0.707:
        ny, nx = nx, ny
    return int(ny / binning + 0.1) // 2 * 2, int(nx / binning + 0.1) // 2 * 2


def _grids(shape: tuple[int, int], binning: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the padded raw size and the size of the finer grid, (y, x) each, of one Fourier interpolation."""
    from scipy.fft import next_fast_len

    spacing = binning / 2
    if (shape[0] / spacing) * (shape[1] / spacing) > _MAX_FINE:
        spacing = max(1.0, spacing)
    padded, fine = [], []
    for n in shape:
        count = next_fast_len(2 * math.ceil((n + 2 * _PAD) / spacing / 2), real=True)
        while (count * spacing) % 1 > 1e-9 and count * spacing < 1.02 * (n + 2 * _PAD) + 64:
            count = next_fast_len(count + 1, real=True)
        padded.append(next_fast_len(round(count * spacing), real=True))
        fine.append(count)
    return (padded[0], padded[1]), (fine[0], fine[1])


def _ramp(length: int) -> Floats:
    """Return a smooth ramp of `length` values from 0 to 1, neither of them included."""
    ramp = (np.arange(length, dtype=np.float32) + 1) / (length + 1)
    return (0.5 - 0.5 * np.cos(np.pi * ramp)).astype(np.float32)


def _padded_bands(image: Floats, mean: np.float32, size: tuple[int, int]) -> Iterator[tuple[int, Floats]]:
    """Yield `image` minus `mean`, centred in `size`, in bands of rows, each with its first row; a band is gone at the next.

    The margin goes smoothly from one edge to the opposite one, as the FFT is periodic.
    """
    extra, beside = (whole - n for whole, n in zip(size, image.shape, strict=True))
    above, left = extra // 2, beside // 2
    last = image[-1:] - mean
    tail, head = np.split(last + ((image[:1] - mean) - last) * _ramp(extra)[:, None], [extra - above])
    across, columns = _ramp(beside)[None], slice(left, left + image.shape[1])
    out = np.empty((max(BAND, len(head), len(tail)), size[1]), np.float32)
    inner = range(0, len(image), BAND)
    for first, rows in ((0, head), *((above + y, image[y : y + BAND]) for y in inner), (above + len(image), tail)):
        band = out[: len(rows)]
        np.subtract(rows, mean if above <= first < above + len(image) else np.float32(0), out=band[:, columns])
        end = band[:, columns.stop - 1 : columns.stop]
        margin = end + (band[:, left : left + 1] - end) * across
        band[:, columns.stop :], band[:, :left] = margin[:, : beside - left], margin[:, beside - left :]
        yield first, band


class Aligner:
    """Makes aligned images of one size.

    Parameters
    ----------
    shape : (int, int)
        (ny, nx) of the raw images.
    out_shape : (int, int)
        Of the aligned images, from `aligned_size`.
    binning : float
    threads : int
    """

    def __init__(self, shape: tuple[int, int], out_shape: tuple[int, int], binning: float, threads: int = 1) -> None:
        self.shape, self.out_shape, self.binning, self.threads = shape, out_shape, binning, threads
        self.padded, self.fine = _grids(shape, binning)
        self.spacing = np.array([p / f for p, f in zip(self.padded, self.fine, strict=True)])
        keep = [min(p, f) for p, f in zip(self.padded, self.fine, strict=True)]
        self._rows = np.concatenate([np.arange((keep[0] + 1) // 2), np.arange(-(keep[0] // 2), 0)])
        self._columns = keep[1] // 2 + 1
        self._ky = (self._rows / self.padded[0]).astype(np.float32)[:, None]
        self._kx = (np.arange(self._columns) / self.padded[1]).astype(np.float32)[None]

    def image(
        self, raw: Floats, placement: Placement, dose_weight: tuple[Floats, Floats] | None = None, mean: float | None = None
    ) -> Floats:
        """Return the aligned image of a raw one, minus the raw image's mean; 0 where there is no data.

        May be called from several threads.

        Parameters
        ----------
        raw : ndarray of float32, shape (ny, nx)
        placement : Placement
        dose_weight : (ndarray, ndarray), optional
            Frequencies in cycles per raw px, ascending, and the weight of each.
        mean : float, optional
            Of the raw image, where it is known.

        Returns
        -------
        ndarray of float32, shape `out_shape`
        """
        from tomostream.engine.recon.kernels import sample

        clean = without_spikes(raw)
        known = mean if mean is not None and clean is raw else float(clean.mean(dtype=np.float64))
        fine = self._interpolated(clean, np.float32(known), placement.rot_deg, dose_weight)
        out = np.empty(self.out_shape, np.float32)
        before = np.array([(p - n) // 2 for p, n in zip(self.padded, self.shape, strict=True)], dtype=np.float64)
        field = np.array(self.shape, dtype=np.float64)
        step, knots = self._knots(placement)
        with _SAMPLING:
            sample(fine, before, self.spacing, field, _TAPER * self.binning, self._affine(placement), step, knots, out)
        return out

    def _affine(self, placement: Placement) -> NDArray[np.float64]:
        """Return the raw pixel index (x, y) as an affine function of the output's pixel index (x, y): six numbers."""
        c, s = (f(math.radians(placement.rot_deg)) * self.binning for f in (math.cos, math.sin))
        mid_y, mid_x = ((n - 1) / 2 for n in self.out_shape)
        raw_y, raw_x = ((n - 1) / 2 for n in self.shape)
        x0 = raw_x + placement.tx - c * mid_x + s * mid_y
        y0 = raw_y + placement.ty - s * mid_x - c * mid_y
        return np.array([c, -s, x0, s, c, y0])

    def _knots(self, placement: Placement) -> tuple[float, Floats]:
        """Return the step of a coarse grid of output pixels, and local displacements on it, (2, ky, kx); one cell without any."""
        if placement.local is None:
            return 1.0, np.zeros((2, 1, 1), np.float32)
        step = 16.0
        counts = [math.ceil(n / step) + 2 for n in self.out_shape]
        y, x = np.meshgrid(*(np.arange(n) * step for n in counts), indexing="ij")
        a = self._affine(placement)
        raw_x = a[0] * x + a[1] * y + a[2] - placement.tx - (self.shape[1] - 1) / 2
        raw_y = a[3] * x + a[4] * y + a[5] - placement.ty - (self.shape[0] - 1) / 2
        return step, placement.local.at(raw_x, raw_y, self.shape[1], self.shape[0]).astype(np.float32)

    def _interpolated(
        self, image: Floats, mean: np.float32, rot_deg: float, dose_weight: tuple[Floats, Floats] | None
    ) -> Floats:
        """Return `image` minus `mean`, padded, on the finer grid, band-limited to the output's Nyquist box and dose weighted."""
        import scipy.fft

        bands = _padded_bands(image, mean, self.padded)
        spectrum = low_columns(bands, self.padded[0], self._columns, self.threads)[self._rows]
        spectrum *= self._band(rot_deg)
        if dose_weight is not None:
            radius = np.hypot(self._ky, self._kx)
            spectrum *= np.interp(radius, *dose_weight).astype(np.float32)
        if self._rows.size < self.fine[0]:
            full = np.zeros((self.fine[0], self._columns), spectrum.dtype)
            full[self._rows] = spectrum
            spectrum = full
        fine = scipy.fft.irfft2(spectrum, s=self.fine, workers=self.threads, overwrite_x=True)
        fine *= np.float32(np.prod(self.fine) / np.prod(self.padded))
        return fine

    def _band(self, rot_deg: float) -> Floats:
        """Return the weight of every frequency: 1 inside the output's Nyquist box, turned to the raw image's axes, rolled off."""
        c, s = np.float32(math.cos(math.radians(rot_deg))), np.float32(math.sin(math.radians(rot_deg)))
        outer = np.maximum(np.abs(c * self._kx + s * self._ky), np.abs(c * self._ky - s * self._kx))
        share = np.float32(2 * self.binning) * outer
        return np.clip((1 - share) / np.float32(_ROLL_OFF), 0, 1)
