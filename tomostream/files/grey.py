# SPDX-License-Identifier: GPL-3.0-or-later
"""Grey images of arrays: reduced in size, stretched, as bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]


def shrink(image: Array, edge: int) -> Array:
    """Average an image down until its longer side is at most `edge` px; it is never enlarged."""
    height, width = image.shape
    factor = max(height, width) / edge
    if factor <= 1:
        return np.asarray(image, dtype=np.float32)
    whole = int(factor)
    if whole > 1:       # average whole pixels, resample the rest: fast, without aliasing
        h, w = height // whole * whole, width // whole * whole
        image = np.asarray(image[:h, :w], dtype=np.float32).reshape(h // whole, whole, w // whole, whole).mean(axis=(1, 3))
    size = max(1, round(width / factor)), max(1, round(height / factor))
    picture = Image.fromarray(np.ascontiguousarray(image, dtype=np.float32), mode="F")
    return np.asarray(picture.resize(size, Image.Resampling.BOX), dtype=np.float32)


def averaged(image: Array, binning: int) -> NDArray[np.float32]:
    """Return the mean of squares of `binning` pixels; pixels at the edge that do not fill a square are left out."""
    height, width = (length // binning for length in image.shape)
    cut = np.asarray(image[:height * binning, :width * binning], dtype=np.float32)
    mean: NDArray[np.float32] = cut.reshape(height, binning, width, binning).mean(axis=(1, 3), dtype=np.float32)
    return mean


def grey_range(image: Array, low: float = 0.5, high: float = 99.5) -> tuple[float, float]:
    """Return the values for black and white: percentiles of the finite values."""
    values = image[np.isfinite(image)]
    if not values.size:
        return 0.0, 1.0
    black, white = np.percentile(values, (low, high))
    return (float(black), float(white)) if white > black else (float(black) - 0.5, float(black) + 0.5)


def to_bytes(image: Array, limits: tuple[float, float]) -> NDArray[np.uint8]:
    """Return grey values from 0 to 255, y upward; values that are not finite become black."""
    scaled = (np.nan_to_num(image, nan=limits[0], posinf=limits[1], neginf=limits[0]) - limits[0]) / (limits[1] - limits[0])
    grey: NDArray[np.uint8] = (np.clip(scaled, 0, 1) * 255 + 0.5).astype(np.uint8)[::-1]
    return grey
