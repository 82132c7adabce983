# SPDX-License-Identifier: GPL-3.0-or-later
"""Pixels of the camera that are bad, by a list, by a map or by what they show; and the pixels whose values they take."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.frames.references import References, magnified, read_image
from tomostream.files.errors import EngineError
from tomostream.programs import defects

_BLOCK = 8
_BAND = 32
"""Rows of blocks that one call looks at."""
_TOLERANCE = 3.5
"""Hot pixels: distance of the square roots in units of half a Poisson standard deviation; 3.5 is 7 sigma."""
_NONE = References()


def load_defects(
    shape: tuple[int, int], file: str = "", defect_map: str = "", upsampling: int = 1, turned_over: bool = True
) -> NDArray[np.bool_]:
    """Read a defect file (MotionCor's list or SerialEM's, see `programs.defects`) and a defect map (1 is bad).

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the frames.
    file, defect_map : str
        Files; "" for none.
    upsampling : int
        Pixels of the frames for one of the camera, in which the defect file counts (EER).
    turned_over : bool
        Whether row 0 of the frames is the bottom of the picture: not in EER.

    Returns
    -------
    ndarray of bool, shape `shape`
        True where a pixel is bad.

    Raises
    ------
    EngineError
        If a file cannot be read, a line of it makes no sense or lies outside of the frames, or too much is bad.
    """
    bad = np.zeros(shape, bool)
    rows, columns = (n // upsampling for n in shape)
    for x, y, width, height in defects.rectangles(file, columns, rows, turned_over) if file else ():
        left, bottom = max(0, x) * upsampling, max(0, y) * upsampling
        bad[bottom:(y + height) * upsampling, left:(x + width) * upsampling] = True
    if defect_map:
        image = read_image(defect_map, "-DefectMap")
        bad |= magnified(image != 0, shape, f"-DefectMap {defect_map}")
    if 2 * np.count_nonzero(bad) > bad.size:
        raise EngineError("the defects cover more than half of the frame; check -DefectFile and -DefectMap")
    return bad


@dataclass(frozen=True)
class _Blocks:
    """The corrected sum of `frames` frames, cut into blocks of pixels and made for some rows of blocks at a time."""

    total: NDArray
    references: References
    frames: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return self.total.shape[0] // _BLOCK, self.total.shape[1] // _BLOCK

    def at(self, first: int, last: int) -> NDArray:
        """Return some rows of blocks, (rows, _BLOCK, columns, _BLOCK)."""
        made = self.references.corrected_sum(self.total, self.frames, slice(first * _BLOCK, last * _BLOCK))
        return made[:, : self.shape[1] * _BLOCK].reshape(last - first, _BLOCK, self.shape[1], _BLOCK)


def outlying_pixels(
    total: NDArray, executor: Executor, references: References = _NONE, frames: int = 1
) -> NDArray[np.bool_]:
    """Find pixels that are hot, or dead, in the sum of all frames, without a map.

    Parameters
    ----------
    total : ndarray, shape (rows, columns)
        Sum of the frames' counts.
    executor : Executor
        For the passes over the image, some rows a call.
    references : References
        What corrects it.
    frames : int
        How many were summed.

    Returns
    -------
    ndarray of bool
        Where the value is above ``(sqrt(m) + 3.5 sqrt(f))^2``: m is the largest mean of the 3 x 3 blocks of 8 x 8
        pixels around (so that an edge does not count as hot), f the ratio of variance to mean in a typical block (1 for
        counted electrons). For counts this is 7 standard deviations at any mean (Anscombe's transform). A pixel that
        stayed at zero is dead where the mean around is above 30 of those units.

    Notes
    -----
    Two passes, the second without what the first found, so that a very hot pixel does not hide a hot neighbour.
    """
    blocks, bad = _Blocks(total, references, frames), np.zeros(total.shape, bool)
    rows, columns = blocks.shape
    if not rows * columns:
        return bad
    found = bad[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
    bands = [(first, min(first + _BAND, rows)) for first in range(0, rows, _BAND)]
    means = np.concatenate(list(executor.map(lambda band: _block_means(blocks.at(*band)), bands)))
    ratio = _variance_ratio(blocks)

    def mark(band: tuple[int, int], limit: NDArray[np.float32]) -> bool:
        """Mark in `found` what is above the limit; return whether anything is."""
        part = slice(*band)
        np.greater(blocks.at(*band), limit[part, None, :, None], out=found[part])
        return bool(found[part].any())

    for _ in range(2):
        around = _largest_around(means)
        positive = np.maximum(around, 0)
        limit = (np.sqrt(positive) + _TOLERANCE * np.sqrt(ratio)) ** 2 + np.minimum(around, 0)
        if not any(list(executor.map(mark, bands, repeat(limit.astype(np.float32))))):
            break
        for row in np.flatnonzero(found.any(axis=(1, 2, 3))):
            good = ~found[row]
            means[row] = np.where(good, blocks.at(row, row + 1)[0], 0).sum(axis=(0, 2)) / np.maximum(good.sum(axis=(0, 2)), 1)
    lit = means > 30 * ratio
    if lit.any():
        for band in bands:
            found[slice(*band)] |= (blocks.at(*band) == 0) & lit[slice(*band), None, :, None]
    return bad


def _block_means(blocks: NDArray) -> NDArray[np.float32]:
    """Return means of blocks (n, rows, m, columns) of pixels, (n, m)."""
    wide = blocks.sum(axis=1, dtype=np.float32)
    return wide.sum(axis=2) / np.float32(blocks.shape[1] * blocks.shape[3])


def _variance_ratio(blocks: _Blocks) -> float:
    """Return variance over mean in a typical block: the median over a sample of blocks; at least a tiny positive number."""
    rows, columns = blocks.shape
    step = max(1, round((rows * columns / 4096) ** 0.5))
    sample = np.concatenate([blocks.at(row, row + 1)[:, :, ::step] for row in range(0, rows, step)]).astype(np.float64)
    mean = sample.mean(axis=(1, 3))
    lit = mean > 0
    if not lit.any():
        return 1.0
    return max(float(np.median(sample.var(axis=(1, 3))[lit] / mean[lit])), 1e-6)


def _largest_around(means: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the largest of the 3 x 3 values around each, borders repeated."""
    padded = np.pad(means, 1, mode="edge")
    rows = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    return np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def replacements(bad: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Choose for every bad pixel a good one nearby, whose value it takes in all frames.

    A single pixel rather than a mean, so that the noise keeps its variance; of those around, one by a fixed rule that
    looks random, so that a line of defects does not repeat its neighbour.

    Parameters
    ----------
    bad : ndarray of bool, shape (rows, columns)

    Returns
    -------
    bad, source : ndarray of int
        Flat indices into the frame.
    """
    rows, columns = bad.shape
    y, x = np.nonzero(bad)
    source = np.full(y.size, -1, np.intp)
    turn = (y * 73856093 ^ x * 19349663) & 0x7FFFFFFF
    for reach in (1, 2, 4, 8):
        square = np.mgrid[-reach:reach + 1, -reach:reach + 1].reshape(2, -1).T
        offsets = square[np.abs(square).max(axis=1) * 2 > reach]
        for attempt in range(len(offsets)):
            left = np.nonzero(source < 0)[0]
            if left.size == 0:
                break
            step = offsets[(turn[left] + attempt * 5) % len(offsets)]  # 5: no divisor of the rings' sizes
            yy, xx = y[left] + step[:, 0], x[left] + step[:, 1]
            good = (yy >= 0) & (yy < rows) & (xx >= 0) & (xx < columns)
            good[good] = ~bad[yy[good], xx[good]]
            source[left[good]] = yy[good] * columns + xx[good]
    left = np.nonzero(source < 0)[0]
    if left.size:
        from scipy.ndimage import distance_transform_edt  # only for large defects

        near = distance_transform_edt(bad, return_distances=False, return_indices=True)
        source[left] = near[0][y[left], x[left]] * columns + near[1][y[left], x[left]]
    return y * columns + x, source
