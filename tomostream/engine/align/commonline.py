# SPDX-License-Identifier: GPL-3.0-or-later
"""Tilt axis from the common line: projected onto the tilt axis, every tilt of a specimen gives the same profile."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tomostream.engine.align.geometry import Floats, Pose, frame_of, frame_shape, resample
from tomostream.engine.align.preprocess import WorkStack
from tomostream.engine.peaks import parabola_top
from tomostream.engine.threads import parallel


def common_line_score(
    images: WorkStack, pose: Pose, members: NDArray[np.int64], lowest: float, highest: float, threads: int
) -> float:
    """Return how well the profiles along the axis agree at a pose: mean correlation of each with the sum of the others.

    Parameters
    ----------
    images : WorkStack
        The working images.
    pose : Pose
        With the tilt axis that is tried.
    members : ndarray of int
        Sections that take part.
    lowest, highest : float
        Cycles/px along the axis between which the whitened profiles are compared.
    threads : int
        At most this many.

    Returns
    -------
    float
        From -1 to 1.

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


def axis_by_common_line(
    images: WorkStack, pose: Pose, members: NDArray[np.int64], trials: Floats, band: tuple[float, float], threads: int
) -> float:
    """Return the tilt axis, in degrees, among and between trials at which the common lines agree best.

    Parameters
    ----------
    images, pose, members, threads
        As for `common_line_score`; the pose's own axis is not used.
    trials : ndarray, shape (n,)
        Axes that are tried, degrees, ascending.
    band : (float, float)
        Lowest and highest frequency along the axis, cycles/px.
    """
    scores = [common_line_score(images, pose.turned(axis), members, *band, threads) for axis in trials]
    return parabola_top(trials, np.array(scores))
