# SPDX-License-Identifier: GPL-3.0-or-later
"""Working images in which a bead is some nine pixels wide, and what a bead looks like in them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tomostream.engine.gold.geometry import Geometry
    from tomostream.engine.recon.stack import TiltStack

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
#: Working pixels to the diameter of a bead.
ACROSS = 9.0
#: An image whose mean is below this many of its standard deviations has no counts to be relative to.
_MIN_MEAN = 0.25
#: Points to a pixel, along each axis, by which a ball is averaged.
_FINER = 8


@dataclass(frozen=True)
class WorkImages:
    """Images of the used tilts.

    Attributes
    ----------
    data : ndarray of float32, shape (K, ny, nx)
        With a median of 1 where they are counts, else in standard deviations.
    scales : (float, float)
        Raw pixels to a working pixel, along x and y.
    pixel_A : float
        Of the working images.
    counts : bool
        Whether they are counts.
    """

    data: Floats
    scales: tuple[float, float]
    pixel_A: float
    counts: bool

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return self.data.shape[1], self.data.shape[2]

    def indices(self, places: Doubles) -> Doubles:
        """Return pixel indices (x, y) of `places` in raw pixels from the centre of the image, both (..., 2)."""
        middle = np.array(self.shape[::-1]) / 2
        # the reduction keeps index n / 2, the centre of an image is (n - 1) / 2
        return middle + (places - 0.5) / np.array(self.scales)

    def places(self, indices: Doubles) -> Doubles:
        """Return places, in raw pixels from the centre of the image, of pixel `indices` (x, y), both (..., 2)."""
        middle = np.array(self.shape[::-1]) / 2
        return (indices - middle) * np.array(self.scales) + 0.5

    def binned(self) -> WorkImages:
        """Return the same with pixels of twice the size."""
        from tomostream.engine.align.preprocess import fourier_crop

        ny, nx = (2 * max(1, round(n / 4)) for n in self.shape)
        data = np.stack([fourier_crop(image, (ny, nx)) for image in self.data])
        factors = self.shape[1] / nx, self.shape[0] / ny
        scales = self.scales[0] * factors[0], self.scales[1] * factors[1]
        return WorkImages(data, scales, self.pixel_A * factors[1], self.counts)


def work_images(stack: TiltStack, geometry: Geometry, pixel_A: float, target_A: float, threads: int) -> WorkImages:
    """Make the working images of an aligned series.

    Parameters
    ----------
    stack : TiltStack
        Raw tilt images.
    geometry : Geometry
        Where the tilts go.
    pixel_A : float
        Of the stack.
    target_A : float
        About the pixel size wanted.
    threads : int
        Images made at a time.

    Returns
    -------
    WorkImages
        Reduced images, or raw ones where these are coarser.
    """
    from tomostream.engine.align.preprocess import fourier_crop, reduced_shape
    from tomostream.engine.recon.stack import without_spikes
    from tomostream.engine.threads import parallel

    shape, _ = reduced_shape(stack.shape, pixel_A, target_A)
    ny, nx = stack.shape
    scales = nx / shape[1], ny / shape[0]
    data = np.empty((len(geometry.tilts), *shape), np.float32)

    def one(tilt: int) -> tuple[np.float32, np.float32]:
        """Make an image; return its middle and its spread."""
        data[tilt] = fourier_crop(without_spikes(stack.section(geometry.tilts[tilt].section)), shape)
        return np.median(data[tilt]), data[tilt].std()

    middles, spreads = np.array(parallel(one, range(len(data)), threads)).T
    counts = bool((middles > _MIN_MEAN * spreads).all() and (middles > 0).all())
    levels = middles if counts else np.maximum(spreads, 1e-30)
    data /= levels[:, None, None].astype(np.float32)
    return WorkImages(data, scales, pixel_A * scales[1], counts)


def ball(radius_px: float, reach: int) -> Doubles:
    """Return the thickness of a ball about the middle of a square of 2 reach + 1 pixels, 1 at its middle.

    Parameters
    ----------
    radius_px : float
        Of the ball.
    reach : int
        Pixels from the middle of the square to its edge.

    Returns
    -------
    ndarray, shape (2 reach + 1, 2 reach + 1)
        sqrt(1 - (distance / radius)^2), averaged over each pixel; 0 outside.
    """
    return _ball(round(radius_px, 3), reach)


@functools.lru_cache(maxsize=64)
def _ball(radius_px: float, reach: int) -> Doubles:
    """Return `ball` of a rounded radius, which is kept."""
    side = 2 * reach + 1
    at = (np.arange(side * _FINER) + 0.5) / _FINER - side / 2
    thickness = np.sqrt(np.maximum(0, 1 - (at[:, None] ** 2 + at[None] ** 2) / radius_px**2))
    return thickness.reshape(side, _FINER, side, _FINER).mean(axis=(1, 3))


def disc(radius_px: float, reach: int) -> Doubles:
    """Return a disc on the same square as `ball`: 1 within the radius, 0 outside.

    Parameters
    ----------
    radius_px : float
    reach : int
        Pixels from the middle of the square to its edge.
    """
    at = np.arange(-reach, reach + 1)
    return (np.hypot(at[:, None], at[None]) <= radius_px).astype(np.float64)
