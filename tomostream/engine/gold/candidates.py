# SPDX-License-Identifier: GPL-3.0-or-later
"""What looks like a bead in single tilt images: a matched filter, and its peaks.

In a round window about each pixel an image is fitted by a level and a ball. The depth of the ball over its usual deviation is
the score; how much of the variance in the window the ball explains is its share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.gold.images import ball, disc

if TYPE_CHECKING:
    from tomostream.engine.gold.images import WorkImages

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
#: Radii of the ball to the edge of the window.
WINDOW = 2.2
#: Scores from which peaks count, and the correlation of the window with the ball.
MIN_SCORE, MIN_CORRELATION = 3.5, 0.3
#: Peaks of an image that are kept, the strongest.
MAX_PEAKS = 600
#: Beyond this a score is not more convincing.
CAP = 10.0


@dataclass(frozen=True)
class Peaks:
    """Peaks of one image, the strongest first.

    Attributes
    ----------
    indices : ndarray, shape (n, 2)
        (x, y), working pixels.
    scores, depths : ndarray, shape (n,)
    evidence : ndarray of float32, shape (ny, nx)
        The score from 0 to `CAP`.
    """

    indices: Doubles
    scores: Doubles
    depths: Doubles
    evidence: Floats


class Filter:
    """The matched filter for a ball of one radius.

    Parameters
    ----------
    shape : (int, int)
        (ny, nx) of the images.
    radius_px : float
        Of the ball.
    """

    def __init__(self, shape: tuple[int, int], radius_px: float) -> None:
        import scipy.fft

        self.radius_px, self.reach = radius_px, math.ceil(max(WINDOW * radius_px, radius_px + 2))
        window = disc(self.reach, self.reach)
        model = ball(radius_px, self.reach)
        model = (model - (model * window).sum() / window.sum()) * window
        self._count, self._power = float(window.sum()), float((model**2).sum())
        self.size = tuple(scipy.fft.next_fast_len(n + 2 * self.reach, real=True) for n in shape)
        self._window, self._model = (self._transform(kernel) for kernel in (window, model))

    def _transform(self, kernel: Doubles) -> NDArray[np.complex64]:
        """Return the transform of a kernel, its middle at index 0."""
        import scipy.fft

        whole = np.zeros(self.size, np.float32)
        whole[: len(kernel), : len(kernel)] = kernel
        whole = np.roll(whole, (-self.reach, -self.reach), (0, 1))
        return np.asarray(scipy.fft.rfft2(whole), np.complex64)

    def depths(self, image: Floats) -> tuple[Floats, Floats]:
        """Return how much darker the ball is than its surroundings at each pixel, and the correlation of the window with the
        ball.

        Parameters
        ----------
        image : ndarray of float32, shape (ny, nx)
            A working image.

        Returns
        -------
        depth, correlation : ndarray of float32, shape (ny, nx)
            The least-squares height of a dark `ball` in a round window about the pixel, and the normalised correlation.
        """
        import scipy.fft

        ny, nx = image.shape
        level = image.mean()
        whole = np.pad((image - level).astype(np.float32), self.reach, mode="reflect")
        inner = (slice(self.reach, self.reach + ny), slice(self.reach, self.reach + nx))

        def along(spectrum: NDArray[np.complex64], kernel: NDArray[np.complex64]) -> Floats:
            out: Floats = scipy.fft.irfft2(spectrum * kernel, s=self.size, overwrite_x=True)
            return out[inner]

        spectrum = scipy.fft.rfft2(whole, s=self.size)
        depth = -along(spectrum, self._model) / np.float32(self._power)
        mean = along(spectrum, self._window) / np.float32(self._count)
        square = along(scipy.fft.rfft2(np.square(whole), s=self.size), self._window) / np.float32(self._count)
        variance = np.maximum(square - mean**2, 1e-12)
        correlation = depth * np.sqrt(np.float32(self._power / self._count) / variance)
        return depth, correlation

    def peaks(self, image: Floats) -> Peaks:
        """Return the peaks of one image.

        Parameters
        ----------
        image : ndarray of float32, shape (ny, nx)
            A working image.

        Returns
        -------
        Peaks
            Scores: depths over the spread of all depths in the image, 0 where the window looks little like a ball.
        """
        depth, correlation = self.depths(image)
        low, middle, high = np.percentile(depth[::2, ::2], (16, 50, 84))
        score = (depth - middle) / max((high - low) / 2, 1e-12)
        score[correlation < MIN_CORRELATION] = 0
        evidence = np.clip(score, 0, CAP)
        side = 2 * max(1, round(0.7 * self.radius_px)) + 1
        tops = (score == largest_around(score, side)) & (score > MIN_SCORE)
        edge = math.ceil(self.radius_px)
        tops[:edge] = tops[-edge:] = tops[:, :edge] = tops[:, -edge:] = False
        y, x = np.nonzero(tops)
        order = np.argsort(-score[y, x], kind="stable")[:MAX_PEAKS]
        y, x = y[order], x[order]
        return Peaks(_refined(depth, x, y), score[y, x].astype(float), depth[y, x].astype(float), evidence.astype(np.float32))


def largest_around(values: Floats, side: int) -> Floats:
    """Return the largest value in the square about each pixel.

    Parameters
    ----------
    values : ndarray of float32, shape (ny, nx)
    side : int
        Of the square, px; odd.

    Notes
    -----
    Runs of 2, 4, 8, ... pixels and at last of `side` are compared, along each axis: a third of the time of
    `scipy.ndimage.maximum_filter`.
    """
    for axis in (0, 1):
        margin = [(side // 2 * (axis == n),) * 2 for n in (0, 1)]
        run, out = 1, np.moveaxis(np.pad(values, margin, constant_values=-np.inf), axis, 0)
        while run < side:
            step = min(run, side - run)
            out = np.maximum(out[:-step], out[step:])
            run += step
        values = np.moveaxis(out, 0, axis)
    return values


def _refined(values: Floats, x: NDArray[np.int64], y: NDArray[np.int64]) -> Doubles:
    """Return maxima (x, y) of parabolas through the neighbours of peaks."""
    out = np.stack([x, y], axis=1).astype(float)
    for column, (dx, dy) in enumerate(((1, 0), (0, 1))):
        before, middle, after = (values[y + k * dy, x + k * dx].astype(float) for k in (-1, 0, 1))
        bend = before - 2 * middle + after
        out[:, column] += np.where(bend < 0, np.clip(0.5 * (before - after) / np.minimum(bend, -1e-12), -0.5, 0.5), 0)
    return out


def candidates(images: WorkImages, radius_px: float, threads: int) -> list[Peaks]:
    """Return the peaks of every image.

    Parameters
    ----------
    images : WorkImages
        Of all tilts.
    radius_px : float
        Of the beads, in working px.
    threads : int
        Images at a time.

    Returns
    -------
    list of Peaks
        One a tilt.
    """
    from tomostream.engine.threads import parallel

    work = Filter(images.shape, radius_px)
    return list(parallel(lambda tilt: work.peaks(images.data[tilt]), range(len(images.data)), threads))
