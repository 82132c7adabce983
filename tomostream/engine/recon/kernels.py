# SPDX-License-Identifier: GPL-3.0-or-later
"""The compiled loops of the reconstruction. Everything else is numpy.

Every kernel is parallel over output rows that do not depend on each other, so its result does not depend on the number
of threads.
"""

from __future__ import annotations

import math

import numpy as np

from tomostream.engine import numba_cache

numba_cache.prepare()

import numba as nb  # noqa: E402  (the cache's folder has to be known before)

# what the back-projection works on at a time: these rows of the volume and of four tilts fill half a first cache
_Z_AT_ONCE = 8
_X_AT_ONCE = 1024


@nb.njit(inline="always")
def cubic_weights(a):  # type: ignore[no-untyped-def]
    """Return the Catmull-Rom weights of the four neighbours for a fraction `a` in [0, 1)."""
    w0 = a * (-0.5 + a * (1.0 - 0.5 * a))
    w1 = 1.0 + a * a * (-2.5 + 1.5 * a)
    w2 = a * (0.5 + a * (2.0 - 1.5 * a))
    w3 = a * a * (-0.5 + 0.5 * a)
    return np.float32(w0), np.float32(w1), np.float32(w2), np.float32(w3)


@nb.njit(parallel=True, fastmath=True, error_model="numpy", cache=True)
def sample(image, fine, spacing, field, taper, affine, step, knots, out):  # type: ignore[no-untyped-def]
    """Sample a Fourier-interpolated image on a rotated, shifted grid: `out[y, x]` at `affine` applied to (x, y).

    Parameters
    ----------
    image : float32 (H, W)
        Samples at spacing `spacing` raw px; sample (0, 0) lies `fine` raw px before the first raw pixel.
    fine, spacing : float64 (2,)
        (y, x).
    field : float64 (2,)
        Size of the raw image (y, x) in px: outside it the result is 0, and it falls off over `taper` raw px inside.
    taper : float
    affine : float64 (6,)
        raw_x = a0 x + a1 y + a2, raw_y = a3 x + a4 y + a5 in 0-based raw pixel indices, of output pixel (x, y).
    step : float
        Spacing of `knots` in output px.
    knots : float32 (2, ky, kx)
        Local displacement (dx, dy) in raw px at output (ky, kx) * step, added to the raw position; empty: none.
    out : float32 (ny, nx)
    """
    rows, columns = image.shape
    ny, nx = out.shape
    local = knots.shape[1] > 1
    for y in nb.prange(ny):
        for x in range(nx):
            fx = affine[0] * x + affine[1] * y + affine[2]
            fy = affine[3] * x + affine[4] * y + affine[5]
            if local:
                ky = y / step
                kx = x / step
                iy = min(int(ky), knots.shape[1] - 2)
                ix = min(int(kx), knots.shape[2] - 2)
                ay = ky - iy
                ax = kx - ix
                fx += (1 - ay) * ((1 - ax) * knots[0, iy, ix] + ax * knots[0, iy, ix + 1]) + ay * (
                    (1 - ax) * knots[0, iy + 1, ix] + ax * knots[0, iy + 1, ix + 1]
                )
                fy += (1 - ay) * ((1 - ax) * knots[1, iy, ix] + ax * knots[1, iy, ix + 1]) + ay * (
                    (1 - ax) * knots[1, iy + 1, ix] + ax * knots[1, iy + 1, ix + 1]
                )
            edge = min(min(fx + 0.5, field[1] - 0.5 - fx), min(fy + 0.5, field[0] - 0.5 - fy))
            if edge <= 0.0:
                out[y, x] = 0.0
                continue
            px = (fx + fine[1]) / spacing[1]
            py = (fy + fine[0]) / spacing[0]
            jx = math.floor(px)
            jy = math.floor(py)
            if jx < 1 or jy < 1 or jx > columns - 3 or jy > rows - 3:
                out[y, x] = 0.0
                continue
            w0, w1, w2, w3 = cubic_weights(np.float32(px - jx))
            v = cubic_weights(np.float32(py - jy))
            total = np.float32(0.0)
            for r in range(4):
                line = image[jy - 1 + r]
                total += v[r] * (w0 * line[jx - 1] + w1 * line[jx] + w2 * line[jx + 1] + w3 * line[jx + 2])
            if edge < taper:
                total *= np.float32(0.5 - 0.5 * math.cos(math.pi * edge / taper))
            out[y, x] = total


@nb.njit(fastmath=True, error_model="numpy", inline="always")
def _stretch_line(line, cosine, target):  # type: ignore[no-untyped-def]
    """One row of an image, stretched: `target[X] = line[(X - cX) cosine + cx]`, cubic, 0 outside."""
    nx, n = line.shape[0], target.shape[0]
    for x in range(n):
        f = (x + 0.5 - n * 0.5) * cosine + nx * 0.5 - 0.5
        i = math.floor(f)
        if i < 1 or i > nx - 3:
            target[x] = 0.0
            continue
        w0, w1, w2, w3 = cubic_weights(np.float32(f - i))
        target[x] = w0 * line[i - 1] + w1 * line[i] + w2 * line[i + 1] + w3 * line[i + 2]


@nb.njit(parallel=True, fastmath=True, error_model="numpy", cache=True)
def stretch(images, y0, cosines, out):  # type: ignore[no-untyped-def]
    """Stretch rows to specimen x: `out[k, y, X] = images[k, y0 + y, (X - cX) cos t_k + cx]`, cubic, 0 outside.

    Parameters
    ----------
    images : ndarray of float32, shape (K, ny, nx)
    y0 : int
        First row that is taken.
    cosines : ndarray of float64, shape (K,)
        Of the tilt angles.
    out : ndarray of float32, shape (>= K, rows, n)
        Filled; those beyond K with zeros.
    """
    tilts, rows = images.shape[0], out.shape[1]
    for job in nb.prange(out.shape[0] * rows):
        k = job // rows
        target = out[k, job % rows]
        if k >= tilts:
            target[:] = 0.0
            continue
        _stretch_line(images[k, y0 + job % rows], cosines[k], target)


@nb.njit(fastmath=True, boundscheck=False, error_model="numpy", inline="always")
def _add_four(images, y, tangents, k, height, first, row):  # type: ignore[no-untyped-def]
    """Add tilts k to k + 3 of `images[:, y]`, shifted by `height` tan t, to `row`; `first`: its column at height 0."""
    n = row.shape[0]
    s0 = height * tangents[k]
    s1 = height * tangents[k + 1]
    s2 = height * tangents[k + 2]
    s3 = height * tangents[k + 3]
    i0 = math.floor(s0)
    i1 = math.floor(s1)
    i2 = math.floor(s2)
    i3 = math.floor(s3)
    a0 = np.float32(s0 - i0)
    a1 = np.float32(s1 - i1)
    a2 = np.float32(s2 - i2)
    a3 = np.float32(s3 - i3)
    b0 = np.float32(1.0) - a0
    b1 = np.float32(1.0) - a1
    b2 = np.float32(1.0) - a2
    b3 = np.float32(1.0) - a3
    p0 = images[k, y, i0 + first : i0 + first + n + 1]
    p1 = images[k + 1, y, i1 + first : i1 + first + n + 1]
    p2 = images[k + 2, y, i2 + first : i2 + first + n + 1]
    p3 = images[k + 3, y, i3 + first : i3 + first + n + 1]
    for x in range(n):
        row[x] += (
            b0 * p0[x] + a0 * p0[x + 1] + b1 * p1[x] + a1 * p1[x + 1]
            + b2 * p2[x] + a2 * p2[x + 1] + b3 * p3[x] + a3 * p3[x + 1]
        )  # fmt: skip


@nb.njit(fastmath=True, boundscheck=False, error_model="numpy", inline="always")
def _tally(row, flat, squares, lows, highs):  # type: ignore[no-untyped-def]
    """Add `row` to `flat` and its squares to `squares`; keep the smallest and the largest of each column.

    By columns, because a running number for all of them is not vectorised or, where the compiler may reorder (fastmath),
    added up in an order that differs between code just compiled and the same code loaded from the cache.
    """
    for x in range(row.shape[0]):
        value = row[x]
        flat[x] += value
        squares[x] += value * value
        lows[x] = min(lows[x], value)
        highs[x] = max(highs[x], value)


@nb.njit(error_model="numpy")
def _total(values):  # type: ignore[no-untyped-def]
    """The sum of the values, from the first to the last, in double precision. No fastmath: see `_tally`."""
    total = 0.0
    for x in range(values.shape[0]):
        total += values[x]
    return total


@nb.njit(parallel=True, fastmath=True, boundscheck=False, error_model="numpy", cache=True)
def backproject(images, tangents, offset, sign, depth, fade, y_stride, z_stride, out, projection, stats):  # type: ignore[no-untyped-def]
    """Shear back-projection of stretched rows: `out[z, y, x] = sum_k images[k, y, x + offset + Z tan t_k]`.

    A z-slice of a slab is the stretched image shifted by Z tan t: a multiply-add over contiguous memory with two
    constant weights. Four tilts at a time, so that a row of the volume is read and written a quarter as often; a few
    z and part of x at a time, so that what is read and written stays in the first cache.

    Parameters
    ----------
    images : float32 (K, rows, n)
        K a multiple of four.
    tangents : float64 (K,)
    offset : int
        Column of `images` that lies above the volume's first column at Z = 0.
    sign : int
        1: row z of `out` is at Z = z + 0.5 - depth / 2; -1: at minus that.
    depth : int
        Rows of `out` in z.
    fade : float32 (depth,)
        Factors of the rows in z; those of 0 are not worked on.
    y_stride, z_stride : int
        Row (y, z) of the volume is `out[y * y_stride + z * z_stride]`.
    out : float32 (rows * depth, nx)
    projection : float64 (rows, nx)
        Sum over z, written.
    stats : float64 (rows, 4)
        Minimum, maximum, sum and sum of squares of the values of each y, written.
    """
    tilts, rows, _ = images.shape
    nx = out.shape[1]
    for y in nb.prange(rows):
        projection[y] = 0.0
        squares = np.zeros(nx, np.float32)
        lows = np.full(nx, np.inf, np.float32)
        highs = np.full(nx, -np.inf, np.float32)
        for z0 in range(0, depth, _Z_AT_ONCE):
            z1 = min(z0 + _Z_AT_ONCE, depth)
            for x0 in range(0, nx, _X_AT_ONCE):
                x1 = min(x0 + _X_AT_ONCE, nx)
                for z in range(z0, z1):
                    out[y * y_stride + z * z_stride, x0:x1] = 0.0
                for k in range(0, tilts, 4):
                    for z in range(z0, z1):
                        if fade[z] == 0.0:
                            continue
                        height = sign * (z + 0.5 - depth * 0.5)
                        row = out[y * y_stride + z * z_stride, x0:x1]
                        _add_four(images, y, tangents, k, height, offset + x0, row)
                for z in range(z0, z1):
                    row = out[y * y_stride + z * z_stride, x0:x1]
                    if fade[z] != 1.0:
                        row *= fade[z]
                    _tally(row, projection[y, x0:x1], squares[x0:x1], lows[x0:x1], highs[x0:x1])
        stats[y, 0] = lows.min()
        stats[y, 1] = highs.max()
        stats[y, 2] = _total(projection[y])
        stats[y, 3] = _total(squares)
