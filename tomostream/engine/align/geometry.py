# SPDX-License-Identifier: GPL-3.0-or-later
"""Pose of every tilt, and resampling of raw images into the stretched specimen frame.

In the stretched frame a tilted image is enlarged by 1/cos(tilt) across the tilt axis, so that points in the middle
plane of the specimen fall at the same place at all tilts. Resampling interpolates with cubic B-splines whose
coefficients were made once (`preprocess`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tomostream.engine.align.kernels import sample
from tomostream.engine.fourier import soft_window

Floats = NDArray[np.floating]

TAPER = 0.12  # of the image's side, at each edge


@dataclass(frozen=True)
class Pose:
    """Where every tilt is believed to be.

    Attributes
    ----------
    tilts_deg : ndarray, shape (n,)
        Nominal tilt angles plus the tilt offset, in the order of the stack.
    axis_deg : float
        Tilt axis, counter-clockwise from the y axis of the raw images.
    shifts : ndarray, shape (n, 2)
        (TX, TY) in pixels of the working images, in the raw image: raw = R(axis) aligned + (TX, TY) (see `model`).
    thickness : float
        Of the slab, in the same pixels.
    """

    tilts_deg: Floats
    axis_deg: float
    shifts: Floats
    thickness: float

    def moved(self, moves: Floats) -> Pose:
        """Return the pose with every tilt's place moved in the stretched specimen frame.

        Parameters
        ----------
        moves : ndarray, shape (n, 2)
            (dX, dY) across and along the tilt axis, working pixels. In the raw image dX is seen as dX cos t, and both are
            turned by the axis.
        """
        axis = np.radians(self.axis_deg)
        x = moves[:, 0] * np.cos(np.radians(self.tilts_deg))
        y = moves[:, 1]
        raw = np.stack([x * np.cos(axis) - y * np.sin(axis), x * np.sin(axis) + y * np.cos(axis)], axis=1)
        return replace(self, shifts=self.shifts + raw)

    def turned(self, axis_deg: float) -> Pose:
        """Return the same pose with the tilt axis at `axis_deg`, degrees counter-clockwise from y."""
        return replace(self, axis_deg=float(axis_deg))

    def offset_by(self, degrees: float) -> Pose:
        """Return the same pose with all tilt angles larger by `degrees`."""
        return replace(self, tilts_deg=self.tilts_deg + degrees)

    def scaled(self, factor: float) -> Pose:
        """Return the same pose in pixels that are `factor` times smaller: shifts and thickness grow by it."""
        return replace(self, shifts=self.shifts * factor, thickness=self.thickness * factor)

    def tangents(self) -> Floats:
        """Return the tangents of the tilt angles, (n,)."""
        return np.tan(np.radians(self.tilts_deg))


def frame_shape(image_shape: tuple[int, int], axis_deg: float) -> tuple[int, int]:
    """Return the shape (rows, columns) of the stretched frame, its rows along the tilt axis.

    Parameters
    ----------
    image_shape : (int, int)
        Rows and columns of a raw image.
    axis_deg : float
        Tilt axis. Where it is nearer to the x axis than to the y axis of the images, the sides are swapped.

    Returns
    -------
    (int, int)
        Each the next even length for which Fourier transforms are fast.

    Examples
    --------
    >>> frame_shape((96, 128), 5.0), frame_shape((96, 128), 85.0)
    ((96, 128), (128, 96))
    """
    rows, columns = image_shape
    if abs(np.sin(np.radians(axis_deg))) > np.sqrt(0.5):
        rows, columns = columns, rows
    return fast_even(rows), fast_even(columns)


def fast_even(length: int) -> int:
    """Return the smallest even length of at least `length` pixels for which real Fourier transforms are fast.

    Examples
    --------
    >>> fast_even(31), fast_even(4097)
    (32, 4320)
    """
    return 2 * int(scipy.fft.next_fast_len(-(-length // 2), True))


@lru_cache(maxsize=16)
def taper(length: int) -> NDArray[np.float32]:
    """Return a window of `length` pixels, 1 in the middle, with raised-cosine edges of a share `TAPER` each.

    Returns
    -------
    ndarray of float32, shape (length,)
        Shared between callers: not to be written to.
    """
    return soft_window(length, max(2, round(length * TAPER))).astype(np.float32)


@dataclass(frozen=True)
class Frame:
    """The map from the stretched frame of `shape` (rows, columns) to one raw image: index = matrix @ index_in_frame + start.

    Both indices are (row, column); `matrix` is (2, 2), `start` (2,).
    """

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
    """Resample one image into the stretched frame, with zero mean under its mask and tapered to 0 at all edges.

    Parameters
    ----------
    coefficients : ndarray of float32, shape (rows, columns)
        Cubic B-spline coefficients of the raw image (`preprocess`).
    frame : Frame
        Where it lies.

    Returns
    -------
    image : ndarray of float32, shape `frame.shape`
        The mask is the frame's own taper times that of the raw image.
    covered : float
        Mean of the squared mask: the effective share of the frame that the image fills, 0 to 1.
    """
    image = np.empty(frame.shape, np.float32)
    mask = np.empty(frame.shape, np.float32)
    height, width = coefficients.shape
    tapers = (taper(frame.shape[0]), taper(frame.shape[1]), taper(height), taper(width))
    covered = sample(coefficients, frame.matrix, frame.start, *tapers, image, mask)
    return image, float(covered)
