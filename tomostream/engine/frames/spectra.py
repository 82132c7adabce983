# SPDX-License-Identifier: GPL-3.0-or-later
"""Transforms of frames for their alignment: masked where there are no electrons, and only the frequencies that are used."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tomostream.engine.fourier import low_rows, soft_window

_KEPT = 0.75
"""Fraction of the binned frame's frequencies that is used: box binning folds the rest."""


def illumination(images: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Weight the pixels of the frames: where there are electrons, falling off at the borders.

    Parameters
    ----------
    images : sequence of ndarray, shape (rows, columns)
        The binned frames.

    Returns
    -------
    ndarray, shape (rows, columns)
        0 to 1.

    Notes
    -----
    Where the beam is blocked or the camera saturated, a pixel hardly changes from frame to frame; elsewhere it does, if
    only by shot noise. Such regions keep still while the specimen moves, and would hold the alignment at zero. They are
    taken two blocks larger: one that they may reach into, one over which the weight rises.
    """
    rows, columns = images[0].shape
    block = max(4, min(rows, columns) // 64)
    mean = added(images) / np.float32(len(images))
    change = np.zeros_like(mean)
    for image in images:
        change += (image - mean) ** 2
    tall, wide = rows // block, columns // block
    activity = change[: tall * block, : wide * block].reshape(tall, block, wide, block).mean(axis=(1, 3))
    lit = activity > 0.1 * np.median(activity)
    lit = np.pad(lit, 2, constant_values=True)
    eroded = np.minimum.reduce([lit[j : j + tall, i : i + wide] for j in range(5) for i in range(5)])
    if len(images) < 2 or eroded.mean() < 0.2:  # no change to judge by, or frames so faint that most blocks are empty
        eroded[:] = True
    weight = np.ones((rows, columns), np.float32)
    patch = np.repeat(np.repeat(eroded.astype(np.float32), block, axis=0), block, axis=1)
    weight[: tall * block, : wide * block] = patch
    if not eroded.all():
        weight = _smooth(weight, block)
    return weight * _border(rows)[:, None] * _border(columns)


def added(images: Sequence[NDArray]) -> NDArray:
    """Return the sum of images of one shape, without copying them into one array.

    Parameters
    ----------
    images : sequence of ndarray
    """
    total = images[0].copy()
    for image in images[1:]:
        total += image
    return total


def _smooth(image: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return a running mean over 2 `width` + 1 pixels in both directions, so that a mask has no edge."""
    from scipy.ndimage import uniform_filter

    return uniform_filter(image, 2 * width + 1, mode="nearest")


def _border(length: int) -> NDArray[np.float32]:
    """Return a cosine fall to zero over the outer hundredth at both ends: the transform sees no edge of the frame."""
    return soft_window(length, max(1, length // 100)).astype(np.float32)


@dataclass(frozen=True)
class Spectra:
    """Transforms of the frames, low frequencies only, and what is needed to correlate them.

    Attributes
    ----------
    values : ndarray of complex64, shape (n, size[0], size[1] // 2 + 1)
        The real transforms of frames of `size`.
    size : (int, int)
        Rows and columns.
    scale : (float, float)
        Binned pixels for one of `size`, along x and y.
    executor : Executor
        For what is done frame by frame.
    """

    values: NDArray[np.complex64]
    size: tuple[int, int]
    scale: tuple[float, float]
    executor: Executor

    @classmethod
    def of(cls, images: Sequence[NDArray[np.float32]], executor: Executor) -> Spectra:
        """Return the transforms of binned frames.

        Parameters
        ----------
        images : sequence of ndarray of float32, shape (rows, columns)
            The binned frames.
        executor : Executor
            For the transforms, one frame a call.
        """
        rows, columns = (_fast(n) for n in images[0].shape)
        weight = illumination(images)[:rows, :columns]
        total = float(weight.sum())

        def transform(image: NDArray[np.float32]) -> NDArray[np.complex64]:
            inner = image[:rows, :columns]
            mean = float(np.sum(inner * weight, dtype=np.float64)) / total
            return _cropped(scipy.fft.rfft2((inner - np.float32(mean)) * weight), size)

        size = (_even(_KEPT * rows), _even(_KEPT * columns))
        values = np.stack(list(executor.map(transform, images)))
        return cls(values, size, (columns / size[1], rows / size[0]), executor)

    def coarse(self, longest: int = 400) -> Spectra:
        """Return the same with frequencies up to where the longer side is `longest` pixels.

        Parameters
        ----------
        longest : int
            px; images that are smaller stay as they are.
        """
        ratio = longest / max(self.size)
        if ratio >= 1:
            return self
        size = (_even(ratio * self.size[0]), _even(ratio * self.size[1]))
        values = np.stack([_cropped(value, size) for value in self.values])
        scale = (self.scale[0] * self.size[1] / size[1], self.scale[1] * self.size[0] / size[0])
        return Spectra(values, size, scale, self.executor)

    def grouped(self, number: int) -> Spectra:
        """Return the spectra of sums of `number` neighbours; the last sum takes what is left over."""
        count = max(1, len(self.values) // number)
        ends = [*range(number, number * count, number), len(self.values)]
        parts = [added(list(self.values[i * number : end])) for i, end in enumerate(ends)]
        return Spectra(np.stack(parts), self.size, self.scale, self.executor)

    def frequencies(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return kx (columns,) and ky (rows, 1) in cycles a pixel of `size`."""
        kx = np.fft.rfftfreq(self.size[1]).astype(np.float32)
        return kx, np.fft.fftfreq(self.size[0]).astype(np.float32)[:, None]


def _fast(length: int) -> int:
    """Return the largest even length up to `length` whose prime factors are at most 5."""
    best = 2
    for fives in range(7):
        for threes in range(8):
            odd = 5**fives * 3**threes
            if odd * 2 <= length:
                best = max(best, odd * 2 ** int(np.log2(length / odd)))
    return best


def _even(length: float) -> int:
    """Return a fast even length near `length`, 16 or more."""
    return max(16, _fast(round(length)))


def _cropped(spectrum: NDArray[np.complex64], size: tuple[int, int]) -> NDArray[np.complex64]:
    """Return the low frequencies of a real transform, as one of `size`; no more than it has."""
    return low_rows(spectrum, (min(size[0], len(spectrum)), size[1]))
