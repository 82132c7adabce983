# SPDX-License-Identifier: GPL-3.0-or-later
"""Pose of every tilt, and resampling of raw images into the stretched specimen frame.

In the stretched frame a tilted image is enlarged by 1/cos(tilt) across the tilt axis, so that points in the middle
plane of the specimen fall at the same place at all tilts. Resampling interpolates with cubic B-splines whose
coefficients were made once (`preprocess`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tomostream.engine.align.kernels import sample

Floats = NDArray[np.floating]
A = TypeVar("A")
B = TypeVar("B")

TAPER = 0.12  # of the image's side, at each edge


@dataclass(frozen=True)
class Pose:
    """Where every tilt is believed to be.

    `tilts_deg` (n,) are nominal angles plus the tilt offset, `axis_deg` the tilt axis, `shifts` (n, 2) the shifts
    (TX, TY) in pixels of the working images, `thickness` the slab's thickness in the same pixels.
    """

    tilts_deg: Floats
    axis_deg: float
    shifts: Floats
    thickness: float

    def moved(self, moves: Floats) -> Pose:
        """Shift by `moves` (n, 2), (dX, dY) in the stretched specimen frame."""
        axis = np.radians(self.axis_deg)
        x = moves[:, 0] * np.cos(np.radians(self.tilts_deg))
        y = moves[:, 1]
        raw = np.stack([x * np.cos(axis) - y * np.sin(axis), x * np.sin(axis) + y * np.cos(axis)], axis=1)
        return replace(self, shifts=self.shifts + raw)

    def turned(self, axis_deg: float) -> Pose:
        """Return the same pose with another tilt axis."""
        return replace(self, axis_deg=float(axis_deg))

    def offset_by(self, degrees: float) -> Pose:
        """Return the same pose with all tilt angles larger by `degrees`."""
        return replace(self, tilts_deg=self.tilts_deg + degrees)

    def scaled(self, factor: float) -> Pose:
        """Return the same pose in pixels that are `factor` times smaller."""
        return replace(self, shifts=self.shifts * factor, thickness=self.thickness * factor)

    def tangents(self) -> Floats:
        """Return the tangents of the tilt angles, (n,)."""
        return np.tan(np.radians(self.tilts_deg))


def parallel(work: Callable[[A], B], items: Sequence[A], threads: int) -> list[B]:
    """`work` on every item, in order, with at most `threads` threads (the work releases the interpreter lock)."""
    if threads <= 1 or len(items) <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(max_workers=threads) as pool:
        return list(pool.map(work, items))


def frame_shape(image_shape: tuple[int, int], axis_deg: float) -> tuple[int, int]:
    """Shape (rows, columns) of the stretched frame for raw images of `image_shape`: sides swapped if the axis lies.

    The sides are sizes for which Fourier transforms are fast.
    """
    rows, columns = image_shape
    if abs(np.sin(np.radians(axis_deg))) > np.sqrt(0.5):
        rows, columns = columns, rows
    return fast_even(rows), fast_even(columns)


def fast_even(length: int) -> int:
    """Return the smallest even fast FFT length that is not below `length`.

    Examples
    --------
    >>> fast_even(31), fast_even(4097)
    (32, 4320)
    """
    return 2 * int(scipy.fft.next_fast_len(-(-length // 2), True))


@lru_cache(maxsize=16)
def taper(length: int) -> NDArray[np.float32]:
    """Raised-cosine window, (length,); shared, not to be written to."""
    edge = max(2, round(length * TAPER))
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / edge)
    window = np.ones(length, np.float32)
    window[:edge] = ramp
    window[-edge:] = ramp[::-1]
    return window


@dataclass(frozen=True)
class Frame:
    """Maps one raw image into the stretched frame of `shape`: index = matrix @ index_in_frame + start."""

    matrix: Floats
    start: Floats
    shape: tuple[int, int]


def frame_of(pose: Pose, tilt: int, image_shape: tuple[int, int], shape: tuple[int, int]) -> Frame:
    """Return the map from the stretched frame of `shape` to indices (row, column) of the raw image `tilt`.

    Parameters
    ----------
    pose : Pose
        Tilt axis and angles (deg), shifts (px).
    tilt : int
        Section, from 0.
    image_shape, shape : (int, int)
        Rows and columns of the raw image and of the frame; both centres are at n / 2.

    Returns
    -------
    Frame
        Rotated by the tilt axis, squeezed by cos(tilt) across it.
    """
    axis = np.radians(pose.axis_deg)
    squeeze = np.cos(np.radians(pose.tilts_deg[tilt]))
    matrix = np.array([[np.cos(axis), np.sin(axis) * squeeze], [-np.sin(axis), np.cos(axis) * squeeze]])
    centre = np.array(shape) / 2.0
    raw_centre = np.array(image_shape) / 2.0 + pose.shifts[tilt][::-1]
    return Frame(matrix, raw_centre - matrix @ centre, shape)


def resample(coefficients: NDArray[np.float32], frame: Frame) -> tuple[NDArray[np.float32], float]:
    """Return one image in the stretched frame, tapered to 0 at all edges, and the fraction of the frame that it covers.

    `coefficients` are the image's cubic B-spline coefficients (rows, columns). The taper is that of the frame's own
    edges times that of the raw image's edges.
    """
    image = np.empty(frame.shape, np.float32)
    mask = np.empty(frame.shape, np.float32)
    height, width = coefficients.shape
    tapers = (taper(frame.shape[0]), taper(frame.shape[1]), taper(height), taper(width))
    covered = sample(coefficients, frame.matrix, frame.start, *tapers, image, mask)
    return image, float(covered)
