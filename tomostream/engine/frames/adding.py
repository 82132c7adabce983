# SPDX-License-Identifier: GPL-3.0-or-later
"""Adding frames with whole-pixel shifts; where a shift uncovers a border, the frame is mirrored into it.

A mirrored border rather than zeros: it has the brightness and the noise of its neighbourhood.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = Callable[[NDArray, slice], NDArray]
"""Corrects rows of a frame's counts: ``rows(counts, which)`` gives ``counts[which]`` with the references applied."""


def sum_type(kind: np.dtype, number: int) -> np.dtype:
    """Return the smallest type that holds a sum of frames: of bytes a two-byte integer, else float32.

    Parameters
    ----------
    kind : dtype
        Of the frames.
    number : int
        How many are added.

    Examples
    --------
    >>> str(sum_type(np.dtype(np.uint8), 40)), str(sum_type(np.dtype(np.uint8), 400)), str(sum_type(np.dtype(np.int16), 2))
    ('uint16', 'float32', 'float32')
    """
    return np.dtype(f"{kind.kind}2") if kind.itemsize == 1 and kind.kind in "iu" and number <= 256 else np.dtype("f4")


def add_moved(
    total: NDArray, counts: NDArray, offset: tuple[int, int], first: int = 0, height: int = 0, rows: Rows | None = None
) -> None:
    """Add a frame to a target, its lower left corner at an offset, and mirror it over what it leaves of the target.

    Parameters
    ----------
    total : ndarray, shape (n, columns)
        Rows `first` to ``first + n`` of the target, which may be larger than the frame and has `height` rows; by default
        the whole of it.
    counts : ndarray, shape (rows, columns)
        The frame.
    offset : (int, int)
        x, y of its corner: columns to the right and rows up. Where a mirror image would not reach to the end of the target, it is
        cut to what would.
    first, height : int
        Which rows of the target `total` holds, and how many it has; 0: as many as `total`.
    rows : callable, optional
        Corrects rows of the frame; without it the counts are added.
    """
    tall, wide = height or len(total), total.shape[1]
    x, y = (_within(at, n, m) for at, n, m in zip(offset, counts.shape[::-1], (wide, tall), strict=True))
    across = list(_mirrored(wide, counts.shape[1], x, 0, wide))
    for target_rows, source_rows, turned in _mirrored(tall, len(counts), y, first, first + len(total)):
        piece = counts[source_rows] if rows is None else rows(counts, source_rows)
        piece = piece[::-1] if turned else piece
        into = total[target_rows.start - first : target_rows.stop - first]
        for target_columns, source_columns, mirrored in across:
            part = piece[:, source_columns]
            target = into[:, target_columns]
            np.add(target, part[:, ::-1] if mirrored else part, out=target, casting="unsafe")


def _within(offset: int, length: int, target: int) -> int:
    """Return the nearest offset for which one mirror image at each end fills the target."""
    return max(target - 2 * length, min(length, offset))


def _mirrored(target: int, length: int, offset: int, first: int, last: int) -> Iterator[tuple[slice, slice, bool]]:
    """Yield pieces (where to, where from, whether reversed) that fill `first` to `last` of a line with a mirrored one."""
    end = offset + length
    low, high = max(offset, first), min(end, last)
    if low < high:
        yield slice(low, high), slice(low - offset, high - offset), False
    for start, stop, axis in ((0, offset, offset), (end, target, end + length)):  # t shows axis - 1 - t
        low, high = max(start, first), min(stop, last)
        if low < high:
            yield slice(low, high), slice(axis - high, axis - low), True


@dataclass(frozen=True)
class MovedFrames:
    """The sum of frames at whole-pixel offsets, of which rows are made when they are asked for.

    Parameters
    ----------
    frames : tuple of ndarray
    offsets : tuple of (int, int)
        x, y of each frame's lower left corner in the sum.
    height : int
        Rows of the sum.
    rows : callable, optional
        Corrects rows of a frame.
    """

    frames: tuple[NDArray, ...]
    offsets: tuple[tuple[int, int], ...]
    height: int
    rows: Rows | None = None

    def dtype(self) -> np.dtype:
        """Return the type of the sum."""
        first = self.frames[0][:1]
        return sum_type(first.dtype if self.rows is None else self.rows(first, slice(0, 1)).dtype, len(self.frames))

    def add_to(self, total: NDArray, first: int) -> None:
        """Add the rows of the sum from `first` on to `total`, (n, columns)."""
        for frame, offset in zip(self.frames, self.offsets, strict=True):
            add_moved(total, frame, offset, first, self.height, self.rows)
