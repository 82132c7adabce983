# SPDX-License-Identifier: GPL-3.0-or-later
"""Gold, crystals of ice and edges of carbon: what is far stronger than any specimen is limited, and gold is noticed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
#: Standard deviations beyond which pixels, and patches of this many A, are gold, ice or carbon.
CLIP, PATCH_A = 6.0, 80.0
#: Side of the patches (A) that are darker than all but gold, and how many an image must have, in half of the images.
POINT_A, MIN_POINTS = 30.0, 3


def strong_points(images: Floats, pixel_A: float, dense_is_bright: bool = False) -> bool:
    """Tell whether points of half of the images are as dark as gold alone makes them.

    Parameters
    ----------
    images : ndarray of float32, shape (K, ny, nx)
        Aligned tilt images; what lies outside them is 0.
    pixel_A : float
        Pixel size, A.
    dense_is_bright : bool
        Whether the contrast was inverted.

    Returns
    -------
    bool
        Crystals of ice and the edge of carbon can be as strong, specimens of protein and lipid are not.
    """
    side = max(1, round(POINT_A / pixel_A))
    counts = []
    for image in images:
        patches = _patches(image, side)
        some = patches[patches != 0]
        if some.size:
            low, high = _limits(some)
            counts.append(int((some > high if dense_is_bright else some < low).sum()))
    return bool(counts) and float(np.median(counts)) >= MIN_POINTS


def tamed(image: Floats, pixel_A: float) -> Floats:
    """Return an image in which neither pixels nor patches of some 80 A are much darker or brighter than usual.

    Gold is hundreds of times stronger than protein, and the estimate of all frequencies would follow it.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        0 where there is no data.
    pixel_A : float
        Size of a pixel.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
        Clipped at `CLIP` standard deviations from the median, pixels first, then the means of patches.
    """
    some = image.ravel()[:: max(1, image.size // 50_000)]
    some = some[some != 0]
    if not some.size:
        return image
    out = np.clip(image, *_limits(some))
    side = round(PATCH_A / pixel_A)
    if not 1 < side < min(image.shape) // 4:
        return out
    patches = _patches(out, side)
    excess = patches - np.clip(patches, *_limits(patches[patches != 0]))
    if not excess.any():
        return out
    rows, columns = (np.minimum(np.arange(n) // side, m - 1) for n, m in zip(image.shape, patches.shape, strict=True))
    out -= excess[rows][:, columns]
    return out


def _patches(image: Floats, side: int) -> Floats:
    """Return the means of the patches of `side` pixels of an image (ny, nx); what is left over at its ends is in none."""
    ny, nx = (n // side for n in image.shape)
    means: Floats = image[: ny * side, : nx * side].reshape(ny, side, nx, side).mean(axis=(1, 3))
    return means


def _limits(values: Floats) -> tuple[np.float32, np.float32]:
    """Return what most values are within: CLIP standard deviations about the median, as its middle two thirds have them."""
    low, middle, high = np.percentile(values, (15.87, 50, 84.13))
    return np.float32(middle - CLIP * (middle - low)), np.float32(middle + CLIP * (high - middle))
