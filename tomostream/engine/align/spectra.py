# SPDX-License-Identifier: GPL-3.0-or-later
"""Whitened Fourier coefficients of the stretched images, in a regular tensor of small frequency cells.

All stages work on the same object: a `Band`. A cell holds one kx and a few neighbouring |ky| with both signs, so that
within a cell the model covariance between the tilts is the same and products are batched matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tomostream.engine.align.geometry import Floats, Pose, fast_even, frame_of, frame_shape, resample, taper
from tomostream.engine.align.preprocess import WorkStack
from tomostream.engine.threads import parallel

Complexes = NDArray[np.complex64]

CELL_HEIGHT = 0.024  # of a cell along ky, cycles/px: less than the smoothing of the signal share
LAST = 0.48  # cycles/px of the raw image: beyond, where working images were cropped, nothing is used
RINGS_PER_CYCLE = 400  # rings of raw-image frequency, per cycle/px


@dataclass(frozen=True)
class Cells:
    """Frequencies of a band's coefficients, in cells of one kx and a few neighbouring ky of both signs.

    Attributes
    ----------
    kx : ndarray, shape (cells,)
        Across the tilt axis, cycles per working pixel.
    ky : ndarray, shape (cells, places)
        Along the tilt axis, cycles per working pixel.
    weight : ndarray, shape (cells, places)
        1 for a coefficient that counts, 1/2 where its conjugate is in the band as well (kx = 0), 0 outside the band.
    row, column : ndarray of int, shape (cells, places)
        Where each coefficient lies in the real transform of an image of `shape`.
    shape : (int, int)
        Rows and columns of the frame.
    highest : float
        End of the band, cycles per working pixel.
    """

    kx: Floats
    ky: Floats
    weight: Floats
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    shape: tuple[int, int]
    highest: float

    def middle_ky(self) -> Floats:
        """Return the mean |ky| of each cell, (cells,), cycles per working pixel."""
        out: Floats = np.mean(np.abs(self.ky), axis=1)
        return out


@dataclass(frozen=True)
class Band:
    """Whitened Fourier coefficients of some tilts, at the pose at which they were cut.

    Whitened: on each ring of raw-image frequency every tilt has unit mean power, so noise is white whatever the CTF.

    Attributes
    ----------
    cells : Cells
        Their frequencies.
    members : ndarray of int, shape (tilts,)
        Sections of the stack.
    values : ndarray of complex64, shape (cells, tilts, places)
    ring : ndarray of int, shape (cells, tilts)
        Ring of raw-image frequency of each cell in each tilt, `RINGS_PER_CYCLE` to a cycle per pixel.
    coverage : ndarray, shape (tilts,)
        Effective share of the frame that each image fills: the fraction of coefficients that are independent of each other.
    """

    cells: Cells
    members: NDArray[np.int64]
    values: Complexes
    ring: NDArray[np.int64]
    coverage: Floats

    def moved(self, moves: Floats) -> Band:
        """Return the band after moving each tilt's image, by phase factors.

        Parameters
        ----------
        moves : ndarray, shape (tilts, 2)
            (dX, dY) in the stretched frame, working pixels: how far the content lies from where it belongs (`phases`).
        """
        return replace(self, values=self.values * phases(self.cells, moves))

    def subset(self, keep: NDArray[np.int64]) -> Band:
        """Return the band of the tilts at positions `keep` of `members`."""
        return replace(
            self, members=self.members[keep], values=self.values[:, keep], ring=self.ring[:, keep],
            coverage=self.coverage[keep],
        )


def phases(cells: Cells, moves: Floats) -> Complexes:
    """Return the factors that correct coefficients for moves, exp(2 pi i k.d).

    Parameters
    ----------
    cells : Cells
        The frequencies k.
    moves : ndarray, shape (tilts, 2)
        (dX, dY), working pixels of the stretched frame: how far the content lies from where it belongs.

    Returns
    -------
    ndarray of complex64, shape (cells, tilts, places)
    """
    along_x = np.exp(2j * np.pi * cells.kx[:, None] * moves[None, :, 0]).astype(np.complex64)
    steps = np.unique(cells.ky)
    table = np.exp(2j * np.pi * steps[:, None] * moves[None, :, 1]).astype(np.complex64)
    along_y = table[np.searchsorted(steps, cells.ky)]
    return np.ascontiguousarray(np.swapaxes(along_y, 1, 2)) * along_x[:, :, None]


def cells_of(shape: tuple[int, int], lowest: float, highest: float) -> Cells:
    """Return cells that tile the half plane kx >= 0 of a frame of `shape`, between two frequencies in cycles per pixel.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the stretched frame.
    lowest, highest : float
        Cycles per px; never beyond `LAST`.
    """
    rows, columns = shape
    highest = min(highest, LAST)
    lines = max(4, round(CELL_HEIGHT * rows))
    blocks = int(np.ceil(highest * rows / lines)) + 1
    up = np.arange(blocks)[:, None] * lines + np.arange(lines)
    index = np.concatenate([up, -1 - up], axis=1)
    column, block = np.meshgrid(np.arange(int(highest * columns) + 1), np.arange(blocks), indexing="ij")
    kx = column.ravel() / columns
    row = index[block.ravel()]
    ky = row / rows
    radius = np.hypot(kx[:, None], ky)
    weight = ((radius > lowest) & (radius < highest)).astype(float)
    weight[column.ravel() == 0] *= 0.5
    keep = weight.any(axis=1)
    row = row[keep] % rows
    wide = np.broadcast_to(column.ravel()[keep][:, None], row.shape)
    return Cells(kx[keep], ky[keep], weight[keep], row, wide, shape, highest)


def raw_radius(kx: Floats, ky: Floats, tilt_deg: float) -> Floats:
    """Return the frequency in the raw image of frequencies in the stretched frame, in the units of `kx` and `ky`.

    Parameters
    ----------
    kx, ky : ndarray
        Across and along the tilt axis in the stretched frame; they broadcast.
    tilt_deg : float
        Tilt angle t: stretching by 1 / cos t has lowered kx by cos t. Its cosine is taken as 0.05 at least.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(raw_radius(np.array(0.1), np.array(0.0), 60.0)), 6)
    0.2
    """
    out: Floats = np.hypot(kx / max(np.cos(np.radians(tilt_deg)), 0.05), ky)
    return out


def cut_band(
    images: WorkStack, pose: Pose, members: NDArray[np.int64], lowest: float, highest: float, threads: int
) -> Band:
    """Resample the tilts `members` at `pose`, transform, whiten and cut into cells (frequencies in cycles/px).

    Parameters
    ----------
    images : WorkStack
        Spline coefficients of the working images.
    pose : Pose
        Where the tilts are believed to be.
    members : ndarray of int
        Sections that the band is made of.
    lowest, highest : float
        Cycles per working px.
    threads : int
        At most this many.

    Returns
    -------
    Band
    """
    shape = frame_shape(images.image_shape, pose.axis_deg)
    cells = cells_of(shape, lowest, highest)

    def one(tilt: int) -> tuple[Complexes, NDArray[np.int64], float]:
        frame = frame_of(pose, tilt, images.image_shape, shape)
        image, coverage = resample(images.coefficients[tilt], frame)
        transform = scipy.fft.rfft2(image)[cells.row, cells.column]
        radius = raw_radius(cells.kx[:, None], cells.ky, float(pose.tilts_deg[tilt]))
        values = whiten(transform, radius, cells.weight)
        ring = raw_radius(cells.kx, cells.middle_ky(), float(pose.tilts_deg[tilt])) * RINGS_PER_CYCLE
        return values, ring.astype(np.int64), coverage

    parts = parallel(one, [int(tilt) for tilt in members], threads)
    values = np.stack([part[0] for part in parts], axis=1)
    ring = np.stack([part[1] for part in parts], axis=1)
    return Band(cells, np.asarray(members), values, ring, np.array([part[2] for part in parts]))


def parts_of(shape: tuple[int, int], parts: tuple[int, int]) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """Return how a frame is cut into parts that share nothing or little.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the frame.
    parts : (int, int)
        How many down and over.

    Returns
    -------
    size : (int, int)
        Rows and columns of a part, for which Fourier transforms are fast.
    corners : list of (int, int)
        First row and first column of each part, row by row.
    """
    size = (fast_even(shape[0] // parts[0] - 1), fast_even(shape[1] // parts[1] - 1))
    tops, lefts = (np.rint(np.linspace(0, side - own, n)).astype(int) for side, own, n in zip(shape, size, parts, strict=True))
    return size, [(int(top), int(left)) for top in tops for left in lefts]


def cut_parts(
    images: WorkStack, pose: Pose, members: NDArray[np.int64], lowest: float, highest: float, parts: tuple[int, int], threads: int
) -> list[Band]:
    """Return the bands of the parts of the field, each cut by itself as `cut_band` cuts the whole.

    Parameters
    ----------
    images, pose, members, lowest, highest, threads
        As for `cut_band`.
    parts : (int, int)
        How many down and over (`parts_of`).

    Returns
    -------
    list of Band
        One a part, row by row, all on the same cells.
    """
    shape = frame_shape(images.image_shape, pose.axis_deg)
    (rows, columns), places = parts_of(shape, parts)
    cells = cells_of((rows, columns), lowest, highest)
    window = taper(rows)[:, None] * taper(columns)[None]

    def one(tilt: int) -> list[Complexes]:
        frame = frame_of(pose, tilt, images.image_shape, shape)
        image, _ = resample(images.coefficients[tilt], frame)
        radius = raw_radius(cells.kx[:, None], cells.ky, float(pose.tilts_deg[tilt]))
        cut = [image[top : top + rows, left : left + columns] for top, left in places]
        spectra = [scipy.fft.rfft2((part - part.mean()) * window)[cells.row, cells.column] for part in cut]
        return [whiten(spectrum, radius, cells.weight) for spectrum in spectra]

    found = parallel(one, [int(tilt) for tilt in members], threads)
    rings = [raw_radius(cells.kx, cells.middle_ky(), float(pose.tilts_deg[tilt])) * RINGS_PER_CYCLE for tilt in members]
    ring = np.stack(rings, axis=1).astype(np.int64)
    share = np.full(len(members), float(np.mean(window**2)))
    return [Band(cells, members, np.stack([own[i] for own in found], axis=1), ring, share) for i in range(len(places))]


def whiten(transform: Complexes, radius: Floats, weight: Floats) -> Complexes:
    """Divide coefficients by the root of the mean power on their ring; 0 beyond `LAST` in the raw image.

    The ring power is smoothed over neighbours and interpolated linearly, so that there are no steps at ring borders.

    Parameters
    ----------
    transform : ndarray of complex64, shape (cells, places)
        Of one image.
    radius : ndarray, shape (cells, places)
        Frequency of each coefficient in the raw image, cycles/px.
    weight : ndarray, shape (cells, places)
        0 where a coefficient is outside the band.

    Returns
    -------
    ndarray of complex64, shape (cells, places)
    """
    inside = (weight > 0) & (radius < LAST)
    width = max(2.0 / 400.0, 4.0 / np.sqrt(max(np.count_nonzero(inside), 1)))
    position = radius / width
    ring = np.rint(position).astype(np.int64)
    power = np.square(transform.real, dtype=np.float64) + np.square(transform.imag, dtype=np.float64)
    count = np.bincount(ring[inside], minlength=3).astype(float)
    total = np.bincount(ring[inside], power[inside], minlength=3)
    kernel = np.array([0.25, 0.5, 0.25])
    smooth = np.convolve(total, kernel, "same") / np.maximum(np.convolve(count, kernel, "same"), 1e-9)
    level = np.interp(position, np.arange(len(smooth)), smooth)
    scale = np.where(inside & (level > 0), 1.0 / np.sqrt(np.maximum(level, 1e-30)), 0.0)
    out: Complexes = (transform * scale).astype(np.complex64)
    return out
