# SPDX-License-Identifier: GPL-3.0-or-later
"""Gain and dark references, and the defects of the camera.

Orientation, as MotionCor3 has it: a reference is read like a movie (an MRC file as it is, a TIFF or .gain file turned
over), then rotated counter-clockwise by -RotGain quarters as one sees it with row 0 at the bottom, then flipped (1
upside down, 2 left to right). EER movies are not turned over but a .gain file is, so that it needs -FlipGain 1. A .dm4
file is not turned over either: it is what Scipion's conversion to .mrc gives, and mostly needs -FlipGain 1 as well.

A gain of super-resolution for counted frames, which has twice or four times their pixels, is averaged over the pixels of
each, as is usual in the field (RELION, cryoSPARC and IMOD users bin it so); a pixel that has no gain in any part has none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.frames.movies import check_size, guarded, open_tiff
from tomostream.files.digitalmicrograph import EXTENSIONS as DM_EXTENSIONS
from tomostream.files.digitalmicrograph import read_dm
from tomostream.files.errors import EngineError
from tomostream.files.mrc import MAX_VALUE, open_mrc
from tomostream.programs import defects

Say = Callable[[str], None]
_TIFF_EXTENSIONS = (".tif", ".tiff", ".gain")
_BLOCK = 8
_BAND = 32
"""Rows of blocks that one call looks at."""
_TOLERANCE = 3.5
"""Hot pixels: distance of the square roots in units of half a Poisson standard deviation; 3.5 is 7 sigma."""


def read_image(path: str, what: str) -> NDArray:
    """Read the first image of a file, row 0 at the bottom.

    Parameters
    ----------
    path : str
        .mrc, .mrcs, .tif, .tiff, .gain, .dm3 or .dm4.
    what : str
        What it is, for the message of an error ("-Gain").
    """
    if not os.path.isfile(path):
        wrong = "is a folder; give a file" if os.path.isdir(path) else "does not exist; check the path"
        raise EngineError(f"{what} {path} {wrong}")
    extension = os.path.splitext(path)[1].lower()
    if extension.startswith(_TIFF_EXTENSIONS):
        with open_tiff(path) as file:
            page = guarded(path, lambda: file.pages[0])
            if len(page.shape) != 2:
                raise EngineError(f"{what} {path} is not one grey image")
            check_size(path, page)
            image = guarded(path, lambda: page.asarray(maxworkers=1))
        if image.ndim != 2 or image.dtype.kind not in "biuf":
            raise EngineError(f"{what} {path} is not one grey image")
        return image[::-1]
    if extension in DM_EXTENSIONS:
        image = read_dm(path)
        if image.ndim != 2:
            raise EngineError(f"{what} {path} is not one grey image")
        return image
    if not extension.startswith(".mrc"):
        raise EngineError(f"{what} {path} has no known extension; give .mrc, .tif, .gain, .dm4 or .dm3")
    return open_mrc(path).section(0)


def oriented(image: NDArray, quarters: int, flip: int) -> NDArray:
    """Rotate counter-clockwise (as seen with row 0 at the bottom) by `quarters` of a turn, then flip.

    `flip`: 0 no, 1 upside down, 2 left to right.

    Parameters
    ----------
    quarters, flip : int
        -RotGain and -FlipGain.

    Examples
    --------
    >>> import numpy as np
    >>> oriented(np.array([[1, 2], [3, 4]]), 1, 0).tolist()         # 1 2 lay below 3 4
    [[3, 1], [4, 2]]
    """
    turned = np.rot90(image, -quarters)  # numpy counts quarters as seen with row 0 at the top
    return turned[::-1] if flip == 1 else turned[:, ::-1] if flip == 2 else turned


def magnified(image: NDArray, shape: tuple[int, int], what: str) -> NDArray:
    """Repeat the pixels of a reference for a movie with a whole number of times as many (super-resolution, EER).

    Raises
    ------
    EngineError
        Where the frames are not a whole number of times as large, alike in both directions.
    """
    factor = _times(image.shape, shape)
    if factor == 0:
        turn = ", or turn it with -RotGain 1" if _times(image.shape[::-1], shape) else ""
        raise EngineError(
            f"{what} has {image.shape[1]} x {image.shape[0]} pixels, the frames {shape[1]} x {shape[0]}; "
            f"give the reference of this camera mode{turn}")
    return image if factor == 1 else np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)


def averaged(gain: NDArray, bad: NDArray[np.bool_], factor: int) -> tuple[NDArray, NDArray[np.bool_]]:
    """Return a gain of super-resolution for frames of 1 / `factor` of its pixels along each side: the mean over each of them.

    Returns
    -------
    gain, bad : ndarray
        A pixel is bad where any part of it is; its gain is 1.
    """
    rows, columns = (n // factor for n in gain.shape)
    blocks = gain.reshape(rows, factor, columns, factor)
    small_bad = bad.reshape(blocks.shape).any(axis=(1, 3))
    return np.where(small_bad, np.float32(1), blocks.mean(axis=(1, 3), dtype=np.float64)).astype(np.float32), small_bad


def super_resolution(gain: tuple[int, ...], frames: tuple[int, ...]) -> int:
    """Return by how much a gain of this shape is to be averaged for frames of that shape: 2 or 4, else 1.

    >>> super_resolution((11520, 8184), (5760, 4092)), super_resolution((5760, 4092), (11520, 8184))
    (2, 1)
    """
    factor = _times(frames, gain)
    return factor if factor in (2, 4) else 1


def usable_gain(
    path: str, shape: tuple[int, int], quarters: int = 0, flip: int = 0, inverse: bool = False, say: Say | None = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read a gain reference, orient it, and average one of super-resolution.

    Parameters
    ----------
    shape : (int, int)
        Of the frames.
    inverse : bool
        Whether it is to be divided by.
    say : callable, optional
        Is told what was averaged.

    Returns
    -------
    gain : ndarray of float32
        As large as the frames, or smaller; 1 where it is bad.
    bad : ndarray of bool
        Where it is zero, negative, beyond all measure or not a number.
    """
    gain = np.require(oriented(read_image(path, "-Gain"), quarters, flip), np.float32, "W")
    if inverse:
        with np.errstate(divide="ignore"):
            gain = 1 / gain
    bad = gain > 0
    bad &= gain < MAX_VALUE
    np.logical_not(bad, out=bad)
    if 2 * np.count_nonzero(bad) > bad.size:
        raise EngineError(f"-Gain {path} is zero or not a number in more than half of the image; it is not a gain")
    gain[bad] = 1
    factor = super_resolution(gain.shape, shape)
    if factor == 1:
        return gain, bad
    if say is not None:
        say(f"-Gain {path} has {factor} times the pixels of the frames along each side (super-resolution): the mean of "
            f"{factor} x {factor} pixels is used")
    return averaged(gain, bad, factor)


def _times(small: tuple[int, ...], large: tuple[int, ...]) -> int:
    """Return how many times `small` goes into `large`, alike in both directions; 0 if it does not."""
    factor = large[0] // small[0]
    return factor if (small[0] * factor, small[1] * factor) == large else 0


@dataclass(frozen=True)
class References:
    """What turns counts into a corrected frame: ``(counts - dark) * gain``; both (rows, columns) float32, or None."""

    gain: NDArray[np.float32] | None = None
    dark: NDArray[np.float32] | None = None

    def corrected(self, counts: NDArray, which: slice = slice(None)) -> NDArray:
        """Apply the references to rows `which` of a frame; without any, the counts are returned, in their own type."""
        if self.dark is None and self.gain is None:
            return counts
        frame = counts.astype(np.float32)  # by itself: what is converted within another operation takes half as long again
        if self.dark is not None:
            frame -= self.dark[which]
        if self.gain is not None:
            frame *= self.gain[which]
        return frame

    def corrected_sum(self, total: NDArray, frames: int, which: slice = slice(None)) -> NDArray:
        """Apply the references to rows `which` of a sum of `frames` frames."""
        if self.dark is None:
            return self.corrected(total[which], which)
        gain = None if self.gain is None else self.gain[which]
        return References(gain, self.dark[which] * np.float32(frames)).corrected(total[which])

    def cut(self, window: tuple[slice, slice]) -> References:
        """Return the references of a part of the frame."""
        return References(*(None if ref is None else np.ascontiguousarray(ref[window]) for ref in (self.gain, self.dark)))

    def patch(self, bad: NDArray[np.intp], source: NDArray[np.intp]) -> None:
        """Make them, in place, fit frames whose pixels `bad` hold the counts of `source` (flat indices)."""
        for reference in (self.gain, self.dark):
            if reference is not None:
                flat = reference.reshape(-1)
                flat[bad] = flat[source]


_NONE = References()


def load_references(
    shape: tuple[int, int], gain: str = "", dark: str = "", quarters: int = 0, flip: int = 0, inverse: bool = False,
    say: Say | None = None,
) -> tuple[References, NDArray[np.bool_]]:
    """Read the references and bring them to the frames' size and orientation; see `usable_gain`.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the frames.
    gain, dark : str
        Files; "" for none.
    quarters, flip, inverse, say
        As for `usable_gain`; the dark image is turned likewise.

    Returns
    -------
    references : References
    dead : ndarray of bool, shape `shape`
        Pixels for which the gain is zero, negative or not a number: the camera has no value there.
    """
    dead = np.zeros(shape, bool)
    gain_image = dark_image = None
    if gain:
        gain_image, bad = usable_gain(gain, shape, quarters, flip, inverse, say)
        gain_image = np.ascontiguousarray(magnified(gain_image, shape, f"-Gain {gain}"))
        dead |= magnified(bad, shape, f"-Gain {gain}")
    if dark:
        dark_image = oriented(read_image(dark, "-Dark"), quarters, flip).astype(np.float32)
        dark_image = np.ascontiguousarray(magnified(dark_image, shape, f"-Dark {dark}"))
        if not (np.abs(dark_image) < MAX_VALUE).all():
            raise EngineError(f"-Dark {dark} holds values that are not numbers, or beyond {MAX_VALUE:g}; make it again")
    return References(gain_image, dark_image), dead


def load_defects(
    shape: tuple[int, int], file: str = "", defect_map: str = "", upsampling: int = 1, turned_over: bool = True
) -> NDArray[np.bool_]:
    """Read a defect file (MotionCor's list or SerialEM's, see `programs.defects`) and a defect map (1 is bad).

    Parameters
    ----------
    shape : (int, int)
        Of the frames.
    upsampling : int
        Pixels of the frames for one of the camera, which the defect file speaks of (EER).
    turned_over : bool
        Whether row 0 of the frames is the bottom of the picture: not in EER.

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
        """Mark in `found` what is above the limit; tell whether anything is."""
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


def better_orientation(
    total: NDArray, gain: NDArray[np.float32], quarters: int, flip: int
) -> tuple[int, int, bool, float, float] | None:
    """Look whether the gain fits the frames in another orientation, or as a divisor.

    Where the camera is sensitive the counts are high and the gain is low: pixel for pixel, apart from the specimen, the
    sum of the frames goes with one over the right gain. A wrong orientation leaves the camera's pattern in the images
    and adds a second one, which nothing afterwards tells.

    Parameters
    ----------
    total : ndarray, shape (rows, columns)
        Sum of the frames without references.
    gain : ndarray, shape (rows, columns)
        As it is applied.
    quarters, flip : int
        The orientation it has got (`oriented`).

    Returns
    -------
    tuple or None
        (quarters, flip, inverse, its correlation, that of the gain as applied) if another one fits clearly better; None
        if not, or if the frames are too few to tell.
    """
    side = min(512, *(n // 2 * 2 for n in total.shape))
    if side < 64 or any(n % 2 for n in total.shape):
        return None
    rows, columns = (slice((n - side) // 2, (n + side) // 2) for n in total.shape)
    counts, pattern = _fine_detail(total[rows, columns]), _fine_detail(1 / gain[rows, columns])
    size = counts.size
    fits = {}
    for turn, mirror in ((t, m) for m in (0, 1) for t in range(4)):
        fits[turn, mirror] = float(np.vdot(counts, oriented(pattern, turn, mirror))) / size
    own = fits[0, 0]
    best = max(fits, key=lambda key: abs(fits[key]))
    if abs(fits[best]) < max(6 / size**0.5, 2 * own) or (best == (0, 0) and own > 0):
        return None
    return (*_combined(quarters, flip, *best), fits[best] < 0, abs(fits[best]), own)


def _fine_detail(image: NDArray) -> NDArray[np.float32]:
    """Return each pixel against its four neighbours, outliers clipped, with variance 1 (0 for an even image)."""
    image = image.astype(np.float32)
    around = np.roll(image, 1, 0) + np.roll(image, -1, 0) + np.roll(image, 1, 1) + np.roll(image, -1, 1)
    detail = image - around / 4
    detail -= detail.mean()
    deviation = float(detail.std())
    detail = np.clip(detail, -4 * deviation, 4 * deviation)
    return detail / max(float(detail.std()), 1e-30)


def _combined(quarters: int, flip: int, turn: int, mirror: int) -> tuple[int, int]:
    """-RotGain and -FlipGain that do both orientations, the second pair after the first."""
    probe = np.arange(6).reshape(2, 3)
    wanted = oriented(oriented(probe, quarters, flip), turn, mirror)
    pairs = ((q, f) for f in (0, 1, 2) for q in range(4))
    return next(pair for pair in pairs if np.array_equal(oriented(probe, *pair), wanted))


def _variance_ratio(blocks: _Blocks) -> float:
    """Variance over mean in a typical block: the median over a sample of blocks; at least a tiny positive number."""
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
