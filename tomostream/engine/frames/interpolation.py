# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving images by parts of a pixel without a Fourier transform: interpolation as products of banded matrices.

The kernel has 20 taps and comes nearest, in the least-squares sense, to an exact shift of all frequencies below 0.43
cycles a pixel (86 % of Nyquist): it is off by less than 0.5 % of the amplitude up to 0.4, and falls off beyond, to zero at
Nyquist for a shift of half a pixel, where no shift of a real image can be exact. A row of an interpolated image is a
combination of 20 rows; 32 rows at a time, of several images at once, are one product of matrices, which BLAS does some
ten times as fast as transforms of the whole image; columns likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

HALF = 10
"""Half of the number of taps, and how many pixels are needed beyond each border of the result."""
_BAND = 0.43
_BLOCK = 32
"""Rows, or columns, of the result that are made by one product."""


def kernel(fraction: float, half: int = HALF) -> NDArray[np.float64]:
    """Return weights of the pixels from ``-(half - 1)`` to `half` around one, to move content by `fraction` of a pixel.

    Parameters
    ----------
    fraction : float
        To the right, or up; from -1 to 0 the kernel is centred (others work, less well).
    half : int
        Half of the number of taps.

    Returns
    -------
    ndarray, shape (2 half,)
        Weights w, of sum 1: out(r) = sum over j of w_j in(r + j). They minimise the integral of
        |sum_j w_j exp(2 pi i k j) - exp(-2 pi i k fraction)|^2 over |k| < 0.43.
    """
    taps = np.arange(1 - half, half + 1)
    normal = np.sinc(2 * _BAND * (taps[:, None] - taps))
    weights = np.linalg.solve(normal, np.sinc(2 * _BAND * (taps + fraction)))
    return weights / weights.sum()


def _banded(fraction: float, half: int) -> NDArray[np.float32]:
    """Return the kernel as a matrix, (`_BLOCK`, `_BLOCK` + 2 half - 1), from pixels to moved ones; input begins at 1 - half."""
    weights = kernel(fraction, half).astype(np.float32)
    matrix = np.zeros((_BLOCK, _BLOCK + 2 * half - 1), np.float32)
    for row in range(_BLOCK):
        matrix[row, row : row + 2 * half] = weights
    return matrix


class Rows(Protocol):
    """An image of which rows are made when they are asked for: `adding.MovedFrames`."""

    @property
    def height(self) -> int:
        """How many rows there are."""

    def add_to(self, total: NDArray, first: int) -> None:
        """Add the rows from `first` on to `total`, (n, columns)."""


@dataclass(frozen=True)
class Column:
    """Images that are moved by the same fraction of a pixel in x, each by its own in y.

    Each has `half` pixels more on every side than the result.

    Attributes
    ----------
    x : float
        To the right.
    y : tuple of float
        Up, for each image.
    images : tuple of Rows
    """

    x: float
    y: tuple[float, ...]
    images: tuple[Rows, ...]


class Interpolation:
    """The sum of moved images, made in blocks of rows.

    Parameters
    ----------
    columns : sequence of Column
    shape : (int, int)
        Rows and columns of the result.
    half : int
        Half of the number of taps.
    """

    def __init__(self, columns: Sequence[Column], shape: tuple[int, int], half: int = HALF) -> None:
        self._columns, self._shape, self._half = columns, shape, half
        self._vertical = [np.hstack([_banded(y, half) for y in column.y]) for column in columns]
        self._horizontal = [np.ascontiguousarray(_banded(column.x, half).T) for column in columns]
        self._blocks = -(-shape[1] // _BLOCK)
        self._need = _BLOCK + 2 * half - 1

    def rows(self, first: int, last: int) -> NDArray[np.float32]:
        """Return rows of the result; may be called from several threads.

        Parameters
        ----------
        first, last : int
            From `first` to before `last`.

        Returns
        -------
        ndarray of float32, shape (last - first, columns)
        """
        out = np.zeros((last - first, self._shape[1]), np.float32)
        most = max(len(column.images) for column in self._columns)
        stacked = np.zeros((most, self._need, self._blocks * _BLOCK + 2 * self._half), np.float32)
        along = np.empty((_BLOCK, stacked.shape[2]), np.float32)
        across = np.empty((_BLOCK, self._blocks * _BLOCK), np.float32)
        for column, vertical, horizontal in zip(self._columns, self._vertical, self._horizontal, strict=True):
            used = stacked[: len(column.images)]
            for start in range(first, last, _BLOCK):
                self._collect(column.images, start, self._need - _BLOCK if start > first else 0, used)
                np.matmul(vertical, used.reshape(-1, used.shape[2]), out=along)
                self._move_columns(along, horizontal, across)
                target = out[start - first : start - first + _BLOCK]
                target += across[: len(target), : self._shape[1]]
        return out

    def _collect(self, images: Sequence[Rows], start: int, known: int, out: NDArray[np.float32]) -> None:
        """Put the rows that the block from `start` on needs into `out`, (images, rows, columns), and zeros where there are none.

        The last `known` rows of `out` are the first ones: of the block before.
        """
        columns, first = self._shape[1] + 2 * self._half, start + 1 + known
        for image, rows in zip(images, out, strict=True):
            rows[:known] = rows[len(rows) - known :]
            fresh = rows[known:, :columns]
            fresh[:] = 0
            image.add_to(fresh[: max(0, image.height - first)], first)

    def _move_columns(
        self, image: NDArray[np.float32], horizontal: NDArray[np.float32], out: NDArray[np.float32]
    ) -> None:
        """Move rows in x: one product for each block of columns, all in one call."""
        step, size = image.strides
        windows = as_strided(
            image[:, 1:], (self._blocks, len(image), self._need), (_BLOCK * size, step, size), writeable=False)
        blocks = as_strided(out, (self._blocks, len(image), _BLOCK), (_BLOCK * size, out.strides[0], size))
        np.matmul(windows, horizontal, out=blocks)
