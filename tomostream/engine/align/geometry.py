# SPDX-License-Identifier: GPL-3.0-or-later
"""Pose of every tilt, and resampling of raw images into the stretched specimen frame.

In the stretched frame a tilted image is enlarged by 1/cos(tilt) across the tilt axis, so that points in the middle plane
of the specimen fall at the same place at all tilts. Resampling interpolates with cubic B-splines whose coefficients were
made once (`preprocess`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

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
        """The same pose with another tilt axis."""
        return replace(self, axis_deg=float(axis_deg))

    def offset_by(self, degrees: float) -> Pose:
        """The same pose with all tilt angles larger by `degrees`."""
        return replace(self, tilts_deg=self.tilts_deg + degrees)

    def scaled(self, factor: float) -> Pose:
        """The same pose in pixels that are `factor` times smaller."""
        return replace(self, shifts=self.shifts * factor, thickness=self.thickness * factor)

    def tangents(self) -> Floats:
        """Tangents of the tilt angles, (n,)."""
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
    """The smallest even fast FFT length that is not below `length`."""
    return 2 * int(scipy.fft.next_fast_len(-(-length // 2), True))


def taper(length: int) -> Floats:
    """Raised-cosine window, (length,)."""
    edge = max(2, round(length * TAPER))
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / edge)
    window = np.ones(length)
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
    """The map from the stretched frame of `shape` to indices (row, column) of the raw image `tilt`."""
    axis = np.radians(pose.axis_deg)
    squeeze = np.cos(np.radians(pose.tilts_deg[tilt]))
    matrix = np.array([[np.cos(axis), np.sin(axis) * squeeze], [-np.sin(axis), np.cos(axis) * squeeze]])
    centre = np.array(shape) / 2.0
    raw_centre = np.array(image_shape) / 2.0 + pose.shifts[tilt][::-1]
    return Frame(matrix, raw_centre - matrix @ centre, shape)


def _mask(frame: Frame, image_shape: tuple[int, int]) -> NDArray[np.float32]:
    """Weight of each pixel of the frame: tapered at the frame's own edges and at the raw image's edges."""
    rows = np.arange(frame.shape[0])
    columns = np.arange(frame.shape[1])
    mask = np.outer(taper(frame.shape[0]), taper(frame.shape[1]))
    for side in (0, 1):
        index = (frame.matrix[side, 0] * rows)[:, None] + (frame.matrix[side, 1] * columns)[None] + frame.start[side]
        edge = max(2.0, image_shape[side] * TAPER)
        inside = np.minimum(index, image_shape[side] - 1.0 - index) / edge
        mask *= 0.5 - 0.5 * np.cos(np.pi * np.clip(inside, 0.0, 1.0))
    return mask.astype(np.float32)


def resample(coefficients: NDArray[np.float32], frame: Frame) -> tuple[NDArray[np.float32], float]:
    """One image in the stretched frame, tapered to 0 at all edges, and the fraction of the frame that it covers.

    `coefficients` are the image's cubic B-spline coefficients (rows, columns).
    """
    image = ndimage.affine_transform(
        coefficients, frame.matrix, frame.start, output_shape=frame.shape, order=3, mode="nearest", prefilter=False,
        output=np.float32,
    )
    mask = _mask(frame, coefficients.shape)
    weight = float(np.sum(mask))
    if weight > 0.0:
        image -= np.float32(np.sum(image * mask, dtype=np.float64) / weight)
    image *= mask
    return image, float(np.mean(np.square(mask, dtype=np.float64)))
