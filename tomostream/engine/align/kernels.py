# SPDX-License-Identifier: GPL-3.0-or-later
"""The two compiled loops of the alignment: resampling of an image, and inversion of many small matrices.

They run without the interpreter lock, so that tilts and cells are worked on in threads; their own code is serial, so
the result does not depend on the number of threads. Their types are given: they are compiled, or taken from the cache,
when this module is imported, never by two threads at once.
"""

from __future__ import annotations

import math

import numpy as np

from tomostream.engine import numba_cache

numba_cache.prepare()

import numba  # noqa: E402

SAMPLE = (
    "float64(float32[:,::1], float64[:,::1], float64[::1], float32[::1], float32[::1], float32[::1], float32[::1], "
    "float32[:,::1], float32[:,::1])"
)


@numba.njit(SAMPLE, cache=True, nogil=True, fastmath=True)
def sample(coefficients, matrix, start, frame_rows, frame_columns, raw_rows, raw_columns, out, mask):  # type: ignore[no-untyped-def]
    """Resample an image into `out`, mask * (spline(matrix @ (y, x) + start) - weighted mean); return the mean of mask squared.

    Parameters
    ----------
    coefficients : ndarray of float32, shape (height, width)
        Cubic B-spline coefficients of the image.
    matrix, start : ndarray of float64, shapes (2, 2) and (2,)
        From indices (row, column) of the result to those of the image.
    frame_rows, frame_columns : ndarray of float32
        Window of the result along y and x.
    raw_rows, raw_columns : ndarray of float32
        Window of the image along y and x, taken at the pixel at or below each place.
    out, mask : ndarray of float32, shape (rows, columns)
        Filled: the mask is the product of all windows, and both are 0 where the spline has not all of its coefficients.
    """
    rows, columns = out.shape
    height, width = coefficients.shape
    total = 0.0
    weight = 0.0
    square = 0.0
    for y in range(rows):
        for x in range(columns):
            row = matrix[0, 0] * y + matrix[0, 1] * x + start[0]
            column = matrix[1, 0] * y + matrix[1, 1] * x + start[1]
            i = math.floor(row)
            j = math.floor(column)
            if i < 1 or j < 1 or i > height - 3 or j > width - 3:
                out[y, x] = 0.0
                mask[y, x] = 0.0
                continue
            a = np.float32(row - i)
            b = np.float32(column - j)
            a1 = np.float32(1.0) - a
            b1 = np.float32(1.0) - b
            sixth = np.float32(1.0 / 6.0)
            two_thirds = np.float32(2.0 / 3.0)
            half = np.float32(0.5)
            p0 = a1 * a1 * a1 * sixth
            p1 = two_thirds - half * a * a * (np.float32(2.0) - a)
            p2 = two_thirds - half * a1 * a1 * (np.float32(2.0) - a1)
            p3 = a * a * a * sixth
            q0 = b1 * b1 * b1 * sixth
            q1 = two_thirds - half * b * b * (np.float32(2.0) - b)
            q2 = two_thirds - half * b1 * b1 * (np.float32(2.0) - b1)
            q3 = b * b * b * sixth
            value = np.float32(0.0)
            for k in range(4):
                p = p0 if k == 0 else (p1 if k == 1 else (p2 if k == 2 else p3))
                m = i - 1 + k
                value += p * (
                    q0 * coefficients[m, j - 1] + q1 * coefficients[m, j]
                    + q2 * coefficients[m, j + 1] + q3 * coefficients[m, j + 2]
                )
            w = frame_rows[y] * frame_columns[x] * raw_rows[i] * raw_columns[j]
            out[y, x] = value
            mask[y, x] = w
            total += w * value
            weight += w
            square += w * w
    mean = np.float32(total / weight) if weight > 0.0 else np.float32(0.0)
    for y in range(rows):
        for x in range(columns):
            out[y, x] = (out[y, x] - mean) * mask[y, x]
    return square / (rows * columns)


@numba.njit("void(float32[:,:,::1], float64[::1])", cache=True, nogil=True, fastmath=True)
def invert_all(matrices, log_determinants):  # type: ignore[no-untyped-def]
    """Invert symmetric positive definite matrices in place, by sweeping.

    Parameters
    ----------
    matrices : ndarray of float32, shape (count, n, n)
        The inverses afterwards, exactly symmetric.
    log_determinants : ndarray of float64, shape (count,)
        Filled with the logarithms of the determinants of what was given.

    Notes
    -----
    Not by LAPACK: a threaded BLAS that is called from several threads for thousands of small matrices spends its time
    waiting for itself, on a busy machine for minutes. Only the lower triangle is worked on, which stays in the nearest
    cache for a hundred tilts; in the end it is mirrored. The sweep operator: Goodnight, Am. Stat. 33 (1979) 149.
    """
    count, size, _ = matrices.shape
    line = np.empty(size, np.float32)
    for which in range(count):
        matrix = matrices[which]
        total = 0.0
        for k in range(size):
            pivot = max(matrix[k, k], np.float32(1e-6))
            total += math.log(pivot)
            inverse = np.float32(1.0) / pivot
            for j in range(k):
                line[j] = matrix[k, j]
            for j in range(k + 1, size):
                line[j] = matrix[j, k]
            line[k] = np.float32(0.0)
            for i in range(size):
                factor = line[i] * inverse
                for j in range(i + 1):
                    matrix[i, j] -= factor * line[j]
            for j in range(k):
                matrix[k, j] = line[j] * inverse
            for i in range(k + 1, size):
                matrix[i, k] = line[i] * inverse
            matrix[k, k] = -inverse
        for i in range(size):
            for j in range(i):
                matrix[i, j] = -matrix[i, j]
                matrix[j, i] = matrix[i, j]
            matrix[i, i] = -matrix[i, i]
        log_determinants[which] = total
