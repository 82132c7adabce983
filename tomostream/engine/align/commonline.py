# SPDX-License-Identifier: GPL-3.0-or-later
"""Tilt axis from the common line: projected onto the tilt axis, every tilt of a specimen gives the same profile."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tomostream.engine.align.geometry import Floats, Pose, frame_of, frame_shape, parallel, resample
from tomostream.engine.align.preprocess import WorkStack


def common_line_score(
    images: WorkStack, pose: Pose, members: NDArray[np.int64], lowest: float, highest: float, threads: int
) -> float:
    """Return how well the profiles along the axis agree at a pose: mean correlation of each with the sum of the others.

    Profiles are compared between the frequencies `lowest` and `highest` (cycles/px), whitened.

    Parameters
    ----------
    images : WorkStack
        The working images.
    pose : Pose
        With the tilt axis that is tried.
    members : ndarray of int
        Sections that take part.
    lowest, highest : float
        Cycles/px along the axis.
    threads : int
        At most so many.

    Notes
    -----
    The projection of a specimen onto its tilt axis does not depend on the tilt: the central line of every transform along
    the axis is common to all images.
    """
    shape = frame_shape(images.image_shape, pose.axis_deg)
    frequency = scipy.fft.rfftfreq(shape[0])
    inside = (frequency > lowest) & (frequency < highest)

    def line(tilt: int) -> NDArray[np.complex64]:
        image, _ = resample(images.coefficients[tilt], frame_of(pose, tilt, images.image_shape, shape))
        profile = scipy.fft.rfft(image.sum(axis=1))[inside]
        power = np.convolve(np.abs(profile) ** 2, np.ones(9) / 9, "same")
        return np.asarray(profile / np.sqrt(np.maximum(power, 1e-30)), np.complex64)

    lines = np.stack(parallel(line, [int(tilt) for tilt in members], threads))
    rest = lines.sum(axis=0)[None] - lines
    norm = np.linalg.norm(lines, axis=1) * np.linalg.norm(rest, axis=1)
    return float(np.mean(np.real(np.sum(np.conj(lines) * rest, axis=1)) / np.maximum(norm, 1e-12)))


def parabola_top(x: Floats, y: Floats) -> float:
    """Place of the maximum of y(x), by a parabola through the highest point and its neighbours; never outside x.

    Parameters
    ----------
    x : ndarray, shape (n,)
        Evenly spaced, ascending.
    y : ndarray, shape (n,)
        The values there.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(-2.0, 2.0, 5)
    >>> round(parabola_top(x, -(x - 0.3) ** 2), 6)
    0.3
    """
    if len(x) < 3:
        return float(x[int(np.argmax(y))])
    top = int(np.clip(np.argmax(y), 1, len(x) - 2))
    bend, slope, _ = np.polyfit(x[top - 1: top + 2] - x[top], y[top - 1: top + 2], 2)
    if not bend < 0.0:
        return float(x[int(np.argmax(y))])
    return float(np.clip(x[top] - slope / (2.0 * bend), x[0], x[-1]))


def axis_by_common_line(
    images: WorkStack, pose: Pose, members: NDArray[np.int64], trials: Floats, band: tuple[float, float], threads: int
) -> float:
    """Return the tilt axis (deg) among and between `trials` at which the common lines agree best."""
    scores = [common_line_score(images, pose.turned(axis), members, *band, threads) for axis in trials]
    return parabola_top(trials, np.array(scores))
