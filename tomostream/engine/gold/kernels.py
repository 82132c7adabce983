# SPDX-License-Identifier: GPL-3.0-or-later
"""The compiled loops of the search for points: what all tilts show along lines through the specimen, and the nearest peaks.

They are serial and run without the interpreter lock, with their types given, as those of `align.kernels` are.
"""

from __future__ import annotations

import numpy as np

from tomostream.engine import numba_cache

numba_cache.prepare()

import numba  # noqa: E402


@numba.njit("void(float32[:,::1], float64[:,:,::1], int64, float64, float64[:,::1], int64[:,::1])", cache=True, nogil=True)
def add_along(evidence, knots, per, margin, total, count):  # type: ignore[no-untyped-def]
    """Add what one tilt shows at places along lines, and count the places that are in its field.

    Parameters
    ----------
    evidence : ndarray of float32, shape (ny, nx)
    knots : ndarray of float64, shape (lines, knots, 2)
        Pixel indices (x, y) of every `per`-th place of a line; those between lie evenly between them.
    per : int
        Places from knot to knot.
    margin : float
        Pixels at each edge that are not in the field.
    total : ndarray of float64, shape (lines, places)
    count : ndarray of int64, shape (lines, places)
        Both are added to.
    """
    ny, nx = evidence.shape
    for line in range(total.shape[0]):
        for place in range(total.shape[1]):
            first = place // per
            share = (place - first * per) / per
            x, y = knots[line, first, 0], knots[line, first, 1]
            if share > 0.0:
                x += share * (knots[line, first + 1, 0] - x)
                y += share * (knots[line, first + 1, 1] - y)
            if x >= margin and y >= margin and x <= nx - 1 - margin and y <= ny - 1 - margin:
                total[line, place] += evidence[int(np.rint(y)), int(np.rint(x))]
                count[line, place] += 1


@numba.njit(
    "void(float64[:,:,::1], int64[:,::1], boolean[:,::1], float64[:,:,::1], float64, int64[:,::1])", cache=True, nogil=True)
def nearest(peaks, order, free, expected, reach, found):  # type: ignore[no-untyped-def]
    """Find the free peak of every tilt that is nearest to where each of some points is expected there.

    Parameters
    ----------
    peaks : ndarray of float64, shape (tilts, peaks, 2)
        (across, along) of every peak.
    order : ndarray of int64, shape (tilts, peaks)
        The peaks of each tilt by `along`, ascending.
    free : ndarray of bool, shape (tilts, peaks)
    expected : ndarray of float64, shape (points, tilts, 2)
        (across, along).
    reach : float
        How far from there a peak may be.
    found : ndarray of int64, shape (points, tilts)
        Filled with the peak; -1 where none is that near.
    """
    for point in range(expected.shape[0]):
        for tilt in range(expected.shape[1]):
            across, along = expected[point, tilt, 0], expected[point, tilt, 1]
            low, high = 0, order.shape[1]
            while low < high:
                middle = (low + high) // 2
                if peaks[tilt, order[tilt, middle], 1] < along - reach:
                    low = middle + 1
                else:
                    high = middle
            best, least = -1, reach * reach
            for place in range(low, order.shape[1]):
                peak = order[tilt, place]
                down = peaks[tilt, peak, 1] - along
                if down > reach:
                    break
                beside = peaks[tilt, peak, 0] - across
                distance = beside * beside + down * down
                if free[tilt, peak] and distance <= least:
                    best, least = peak, distance
            found[point, tilt] = best
