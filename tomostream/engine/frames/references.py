# SPDX-License-Identifier: GPL-3.0-or-later
"""Gain and dark references.

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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.frames.tiffs import check_size, guarded, open_tiff
from tomostream.files.digitalmicrograph import EXTENSIONS as DM_EXTENSIONS
from tomostream.files.digitalmicrograph import read_dm
from tomostream.files.errors import EngineError
from tomostream.files.mrc import MAX_VALUE, open_mrc

Say = Callable[[str], None]
_TIFF_EXTENSIONS = (".tif", ".tiff", ".gain")


def read_image(path: str, what: str) -> NDArray:
    """Read the first image of a file, row 0 at the bottom.

    Parameters
    ----------
    path : str
        .mrc, .mrcs, .tif, .tiff, .gain, .dm3 or .dm4.
    what : str
        What it is, for the message of an error ("-Gain").

    Returns
    -------
    ndarray, shape (rows, columns)
        Of the file's type.

    Raises
    ------
    EngineError
        If the file is missing, is damaged, or is not one grey image.
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
    """Rotate counter-clockwise (as seen with row 0 at the bottom) by quarters of a turn, then flip.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
    quarters : int
        -RotGain.
    flip : int
        -FlipGain: 0 no, 1 upside down, 2 left to right.

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

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
    shape : (int, int)
        Rows and columns of the frames.
    what : str
        What it is, for the message of an error.

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
    """Return a super-resolution gain for frames of fewer pixels: the mean over the pixels of each.

    Parameters
    ----------
    gain : ndarray, shape (rows, columns)
    bad : ndarray of bool, shape (rows, columns)
    factor : int
        Pixels of the gain along each side for one of the frames.

    Returns
    -------
    gain, bad : ndarray, shape (rows // factor, columns // factor)
        A pixel is bad where any part of it is; its gain is 1.
    """
    rows, columns = (n // factor for n in gain.shape)
    blocks = gain.reshape(rows, factor, columns, factor)
    small_bad = bad.reshape(blocks.shape).any(axis=(1, 3))
    return np.where(small_bad, np.float32(1), blocks.mean(axis=(1, 3), dtype=np.float64)).astype(np.float32), small_bad


def super_resolution(gain: tuple[int, ...], frames: tuple[int, ...]) -> int:
    """Return by how much a gain is to be averaged along each side: 2 or 4, else 1.

    Parameters
    ----------
    gain, frames : (int, int)
        Rows and columns of both.

    Examples
    --------
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
    path : str
    shape : (int, int)
        Rows and columns of the frames.
    quarters, flip : int
        -RotGain and -FlipGain (`oriented`).
    inverse : bool
        Whether it is to be divided by.
    say : callable, optional
        Takes a line about what was averaged.

    Returns
    -------
    gain : ndarray of float32
        As large as the frames, or smaller; 1 where it is bad.
    bad : ndarray of bool
        Where it is zero, negative, beyond `MAX_VALUE` or not a number.

    Raises
    ------
    EngineError
        If it cannot be read, or is bad in more than half of the image.
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
        """Apply the references to rows of a frame; without any, the counts are returned, in their own type.

        Parameters
        ----------
        counts : ndarray, shape (n, columns)
            The rows.
        which : slice
            Which rows of the frame they are.
        """
        if self.dark is None and self.gain is None:
            return counts
        frame = counts.astype(np.float32)  # by itself: what is converted within another operation takes half as long again
        if self.dark is not None:
            frame -= self.dark[which]
        if self.gain is not None:
            frame *= self.gain[which]
        return frame

    def corrected_sum(self, total: NDArray, frames: int, which: slice = slice(None)) -> NDArray:
        """Apply the references to rows of a sum of frames.

        Parameters
        ----------
        total : ndarray, shape (rows, columns)
            The whole sum.
        frames : int
            How many were added: the dark image is subtracted as often.
        which : slice
            Rows that are returned.
        """
        if self.dark is None:
            return self.corrected(total[which], which)
        gain = None if self.gain is None else self.gain[which]
        return References(gain, self.dark[which] * np.float32(frames)).corrected(total[which])

    def cut(self, window: tuple[slice, slice]) -> References:
        """Return the references of a part of the frame, `window` (rows, columns)."""
        return References(*(None if ref is None else np.ascontiguousarray(ref[window]) for ref in (self.gain, self.dark)))

    def patch(self, bad: NDArray[np.intp], source: NDArray[np.intp]) -> None:
        """Change the references, in place, for frames whose bad pixels hold the counts of others.

        Parameters
        ----------
        bad, source : ndarray of int
            Flat indices, as `badpixels.replacements` returns them.
        """
        for reference in (self.gain, self.dark):
            if reference is not None:
                flat = reference.reshape(-1)
                flat[bad] = flat[source]


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

    Raises
    ------
    EngineError
        If a file cannot be read or does not fit the frames.
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


def better_orientation(
    total: NDArray, gain: NDArray[np.float32], quarters: int, flip: int
) -> tuple[int, int, bool, float, float] | None:
    """Look whether the gain fits the frames in another orientation, or as a divisor.

    Where the camera is sensitive the counts are high and the gain is low: pixel for pixel, apart from the specimen, the
    sum of the frames goes with one over the right gain. A wrong orientation leaves the camera's pattern in the images
    and adds a second one, which nothing afterwards reveals.

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
        if not, or if there are too few frames to decide.
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
    """Return the -RotGain and -FlipGain that do both orientations, the second pair after the first."""
    probe = np.arange(6).reshape(2, 3)
    wanted = oriented(oriented(probe, quarters, flip), turn, mirror)
    pairs = ((q, f) for f in (0, 1, 2) for q in range(4))
    return next(pair for pair in pairs if np.array_equal(oriented(probe, *pair), wanted))
