# SPDX-License-Identifier: GPL-3.0-or-later
"""A tilt series on disk: one MRC file, read a section at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomostream.files.errors import EngineError
from tomostream.files.mrc import MAX_VALUE, MrcStack, Sections, open_mrc

Floats = NDArray[np.float32]
# a pixel this many robust standard deviations above the median is a hot pixel or an X-ray, not specimen
_SPIKE = 12.0
# of the pixels; more bright ones are an area
_MAX_SPIKES = 5e-4
# about as many pixels along each side give the usual brightness
_SAMPLE_SIDE = 512
# pixels that are looked at at a time
_PIECE = 1 << 19


@dataclass(frozen=True)
class TiltStack:
    """A tilt series opened for reading.

    Attributes
    ----------
    path : str
    data : sections, shape (n, ny, nx)
        An MRC file that is read a section at a time, or an array.
    pixel_size_A : float
        0 where it is not given.
    """

    path: str
    data: Sections
    pixel_size_A: float

    @property
    def sections(self) -> int:
        """How many sections there are."""
        return int(self.data.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of a section."""
        return int(self.data.shape[1]), int(self.data.shape[2])

    def section(self, index: int) -> Floats:
        """Return a section.

        Parameters
        ----------
        index : int
            From 0.

        Returns
        -------
        ndarray of float32, shape (ny, nx)

        Raises
        ------
        EngineError
            Where it holds values that are not finite, or too large.
        """
        image = np.asarray(self.data[index], dtype=np.float32)
        if not max(float(image.max()), -float(image.min())) < MAX_VALUE:  # nor if it is NaN
            what = "values that are not finite" if not np.isfinite(image).all() else f"values beyond {MAX_VALUE:g}"
            raise EngineError(f"{self.path}: section {index + 1} of {self.sections} holds {what}; make the image again")
        return image

    def usable(self, index: int) -> bool:
        """Tell whether all values of section `index` (from 0) are finite and not too large to be added up."""
        return all(max(float(piece.max()), -float(piece.min())) < MAX_VALUE for piece in self.pieces(index))

    def blank(self, index: int) -> bool:
        """Tell whether all pixels of section `index` (from 0) are equal."""
        first = next(self.pieces(index)).flat[0]
        return all(bool((piece == first).all()) for piece in self.pieces(index))

    def pieces(self, index: int) -> Iterator[NDArray[Any]]:
        """Yield section `index` (from 0) some rows at a time, which stay in the processor's cache."""
        ny, nx = self.shape
        step = max(1, _PIECE // nx)
        rows = self.data.rows if isinstance(self.data, MrcStack) else lambda i, first, last: self.data[i, first:last]
        for first in range(0, ny, step):
            yield rows(index, first, min(first + step, ny))


def open_stack(path: str) -> TiltStack:
    """Open a tilt series.

    Parameters
    ----------
    path : str
        An MRC file of any mode that real images come in.

    Raises
    ------
    EngineError
        Where the file is missing, is not an MRC file, or is shorter than its header says.
    """
    stack = open_mrc(path)
    return TiltStack(path, stack, stack.pixel_size_A)


def without_spikes(image: Floats) -> Floats:
    """Replace hot pixels and X-rays by the median around them.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Stays as it is.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
        The image itself where there are none; else a copy with medians of 7 x 7 pixels in their places.
    """
    rows, columns = hot_pixels(image)
    if not len(rows):
        return image
    out = image.copy()
    for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
        out[y, x] = np.median(image[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4])
    return out


def hot_pixels(image: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of hot pixels and X-rays: few, bright, and far above their own neighbourhood.

    Only what is bright counts, since dense specimen is dark; a bright area (a hole, the film's edge) is no spike.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)

    Returns
    -------
    rows, columns : ndarray of int, shape (n,)
        None where they would be many: that is no camera's fault.
    """
    down, over = sample_steps((image.shape[0], image.shape[1]))
    limit, above = _spike_limit(image[::down, ::over])
    none = np.zeros(0, np.int64)
    if not image.max() > limit:
        return none, none
    rows, columns = np.divmod(np.flatnonzero(image > limit), image.shape[1])
    if len(rows) > _MAX_SPIKES * image.size:
        return none, none
    median = np.array([np.median(image[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4])
                       for y, x in zip(rows.tolist(), columns.tolist(), strict=True)])
    far = image[rows, columns] > median + above
    return rows[far], columns[far]


def sample_steps(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the steps in rows and columns between the pixels of an image from which its usual brightness is taken.

    Parameters
    ----------
    shape : (int, int)
        (ny, nx).

    Examples
    --------
    >>> sample_steps((4092, 5760)), sample_steps((300, 400))
    ((7, 11), (1, 1))
    """
    return max(1, shape[0] // _SAMPLE_SIDE), max(1, shape[1] // _SAMPLE_SIDE)


def spike_limit(sample: Floats) -> float:
    """Return the value above which a pixel may be hot; infinite where all are equal.

    Parameters
    ----------
    sample : ndarray of float32
        Pixels of the image, a part of them.
    """
    return _spike_limit(sample)[0]


def _spike_limit(sample: Floats) -> tuple[float, float]:
    """Return the limit, and how far above the median it is."""
    low, middle, high = (float(v) for v in np.percentile(sample, (16, 50, 84)))
    spread = max((high - low) / 2, float(sample.std()) / 4)
    return (middle + _SPIKE * spread, _SPIKE * spread) if spread > 0 else (np.inf, np.inf)
