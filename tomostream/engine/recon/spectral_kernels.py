# SPDX-License-Identifier: GPL-3.0-or-later
"""The compiled loops over spectra: contrast transfer, stretching on the way, and the Wiener estimate itself.

Spectra here are those of `contrast.Filtered`: ky from 0 on along the rows, kx of both signs along the columns, complex numbers
as two float32. Nothing is added up in an order that the compiler may choose, so that the same input gives the same bytes.
"""

from __future__ import annotations

import math

import numpy as np

from tomostream.engine import numba_cache

numba_cache.prepare()

import numba as nb  # noqa: E402  (the cache's folder has to be known before)

from tomostream.engine.recon.kernels import cubic_weights  # noqa: E402

# columns of the spectra that are solved at a time: whole cache lines are read then
_COLUMNS_AT_ONCE = 16


@nb.njit(nogil=True, fastmath=True, error_model="numpy", cache=True)
def transferred(spectrum, kx, ky, turns, floor, flip, out):  # type: ignore[no-untyped-def]
    """Multiply a spectrum by a contrast transfer function.

    Parameters
    ----------
    spectrum : ndarray of float32, shape (rows, columns, 2)
    kx, ky : ndarray of float32, shapes (columns,) and (rows,)
        1/A.
    turns : ndarray of float32, shape (5,)
        The function is sin(pi p), with p the sum of these times s, kx^2 - ky^2, 2 kx ky, s^2 and 1; s = kx^2 + ky^2.
    floor : float
        The function is at least that before its first maximum; 0: as it is.
    flip : bool
        By its sign only.
    out : ndarray of float32, shape (rows, columns, 2)
        Filled.
    """
    rows, columns, _ = spectrum.shape
    line = np.empty(columns, np.float32)
    half, one, two = np.float32(0.5), np.float32(1.0), np.float32(2.0)
    least = np.float32(floor) if floor > 0 else np.float32(-2.0)
    for y in range(rows):
        v = ky[y]
        square = v * v
        for x in range(columns):
            u = kx[x]
            s = u * u + square
            p = turns[0] * s + turns[1] * (u * u - square) + turns[2] * two * u * v + turns[3] * s * s + turns[4]
            whole = np.floor(p + half)
            r = p - whole
            t = r * r
            value = r * (np.float32(3.1415927) + t * (np.float32(-5.1677128) + t * (np.float32(2.5501640) + t * (
                np.float32(-0.5992645) + t * np.float32(0.0821459)))))
            value *= one - two * (whole - two * np.floor(whole * half))
            line[x] = max(value, least) if p < half else value
        if flip:
            for x in range(columns):
                line[x] = one if line[x] > 0 else -one if line[x] < 0 else np.float32(0.0)
        for x in range(columns):
            out[y, x, 0] = spectrum[y, x, 0] * line[x]
            out[y, x, 1] = spectrum[y, x, 1] * line[x]


@nb.njit(nogil=True, fastmath=True, error_model="numpy", cache=True)
def add_share(lines, share, first, total):  # type: ignore[no-untyped-def]
    """Add lines, each column times a share of its own.

    Parameters
    ----------
    lines, total : ndarray of float32, shape (rows, columns, 2)
        What is added, and to what.
    share : ndarray of float32, shape (n,)
        Of the columns from `first` on.
    first : int
    """
    for y in range(total.shape[0]):
        for x in range(share.shape[0]):
            total[y, first + x, 0] += lines[y, first + x, 0] * share[x]
            total[y, first + x, 1] += lines[y, first + x, 1] * share[x]


@nb.njit(nogil=True, error_model="numpy", cache=True)
def ring_sums(spectrum, kx, ky, scale, sums):  # type: ignore[no-untyped-def]
    """Add the powers of a spectrum by ring of frequency.

    Parameters
    ----------
    spectrum : ndarray of float32, shape (rows, columns, 2)
    kx, ky : ndarray of float32, shapes (columns,) and (rows,)
        Frequencies.
    scale : float
        Rings to a unit of frequency: a coefficient belongs to the nearest ring.
    sums : ndarray of float64, shape (rings,)
        Added to.
    """
    for y in range(spectrum.shape[0]):
        square = ky[y] * ky[y]
        for x in range(spectrum.shape[1]):
            ring = int(math.sqrt(kx[x] * kx[x] + square) * scale + 0.5)
            if ring < sums.shape[0]:
                sums[ring] += spectrum[y, x, 0] * spectrum[y, x, 0] + spectrum[y, x, 1] * spectrum[y, x, 1]


@nb.njit(nogil=True, error_model="numpy", cache=True)
def pair_sums(first, second, seen, other, rings, columns, cells, table, coherence, wave, out):  # type: ignore[no-untyped-def]
    """Add up in cells what two tilts have in common, times its model: what it would be of a specimen of power 1.

    Parameters
    ----------
    first, second : ndarray of complex64, shape (n,)
        Spectra of the tilts.
    seen, other : ndarray of float32, shape (n,)
        What they are times the root of the specimen's power.
    rings, columns, cells : ndarray of int64, shape (n,)
        Where each frequency is in `table`, in `coherence` and `wave`, and in `out`.
    table : ndarray of float64, shape (rings,)
    coherence : ndarray of float64, shape (columns,)
        Both multiply the model.
    wave : ndarray of complex128, shape (columns,)
        Multiplies the cross spectrum.
    out : ndarray of float64, shape (2, cells)
        The cross spectrum times its model, and the model's square, are added to it.
    """
    for k in range(first.shape[0]):
        model = seen[k] * other[k] * coherence[columns[k]] * table[rings[k]]
        if model != 0.0:
            a, b, turn = first[k], second[k], wave[columns[k]]
            real = (a.real * b.real + a.imag * b.imag) * turn.real - (a.imag * b.real - a.real * b.imag) * turn.imag
            out[0, cells[k]] += real * model
            out[1, cells[k]] += model * model


@nb.njit(nogil=True, error_model="numpy", cache=True)
def pair_spectrum(first, second, seen, other, rings, columns, table, places, signs, out):  # type: ignore[no-untyped-def]
    """Add up the cross spectrum of two tilts, times its model, by places of its columns.

    Parameters
    ----------
    first, second, seen, other, rings, columns, table
        As for `pair_sums`.
    places : ndarray of int64, shape (columns,)
        Where each column is added.
    signs : ndarray of float64, shape (columns,)
        Factors of the columns; their sign is that of the imaginary part alone.
    out : ndarray of float64, shape (3, places)
        Real and imaginary part, and the model's square, are added to it.
    """
    for k in range(first.shape[0]):
        model = seen[k] * other[k] * table[rings[k]]
        if model != 0.0:
            a, b, x = first[k], second[k], columns[k]
            size = model * abs(signs[x])
            out[0, places[x]] += (a.real * b.real + a.imag * b.imag) * size
            out[1, places[x]] += (a.imag * b.real - a.real * b.imag) * model * signs[x]
            out[2, places[x]] += model * model


@nb.njit(nogil=True, fastmath=True, error_model="numpy", cache=True)
def stretch_waves(lines, start, nx, cosine, factor, out):  # type: ignore[no-untyped-def]
    """Stretch waves along y as `kernels.stretch` does images.

    Parameters
    ----------
    lines : ndarray of float32, shape (rows, columns, 2)
    start, nx : int
        The columns that are taken: `nx` from `start` on.
    cosine : float
        Of the tilt angle.
    factor : float
        Multiplies the result.
    out : ndarray of float32, shape (rows, n, 2)
        Filled.
    """
    rows, n = lines.shape[0], out.shape[1]
    first, weights = np.empty(n, np.int64), np.empty((n, 4), np.float32)
    for x in range(n):
        f = (x + 0.5 - n * 0.5) * cosine + nx * 0.5 - 0.5
        i = math.floor(f)
        first[x] = start + i - 1 if 1 <= i <= nx - 3 else -1
        w0, w1, w2, w3 = cubic_weights(np.float32(f - i))
        weights[x, 0], weights[x, 1], weights[x, 2], weights[x, 3] = w0 * factor, w1 * factor, w2 * factor, w3 * factor
    for y in range(rows):
        for x in range(n):
            i = first[x]
            for part in range(2):
                out[y, x, part] = np.float32(0.0) if i < 0 else (
                    weights[x, 0] * lines[y, i, part] + weights[x, 1] * lines[y, i + 1, part]
                    + weights[x, 2] * lines[y, i + 2, part] + weights[x, 3] * lines[y, i + 3, part])


@nb.njit(fastmath=True, error_model="numpy", inline="always")
def _take(row, factor, other, first, last):  # type: ignore[no-untyped-def]
    """Subtract `factor` times `other` from `row`, from `first` to `last`."""
    for x in range(first, last):
        row[x] -= factor * other[x]


@nb.njit(fastmath=True, error_model="numpy", inline="always")
def _take_four(row, factors, rows, first, last):  # type: ignore[no-untyped-def]
    """The same of four rows at once, so that `row` is read and written a quarter as often."""
    f0, f1, f2, f3 = factors
    r0, r1, r2, r3 = rows[0], rows[1], rows[2], rows[3]
    for x in range(first, last):
        row[x] -= f0 * r0[x] + f1 * r1[x] + f2 * r2[x] + f3 * r3[x]


@nb.njit(fastmath=True, error_model="numpy", inline="always")
def _solved(rows, count, width):  # type: ignore[no-untyped-def]
    """Solve A x = b in place for a symmetric positive definite A, by Cholesky's decomposition.

    `rows`, float32 (>= count, >= count + width), hold the upper triangle of A and right of it b, which x replaces; `count` is
    a multiple of four.
    """
    end = count + width
    for first in range(0, count, 4):
        for k in range(first, first + 4):
            row = rows[k]
            inverse = np.float32(1.0) / math.sqrt(max(row[k], np.float32(1e-6)))
            for x in range(k, end):
                row[x] *= inverse
            for i in range(k + 1, first + 4):
                _take(rows[i], row[i], row, i, end)
        four = rows[first : first + 4]
        for i in range(first + 4, count):
            _take_four(rows[i], (four[0, i], four[1, i], four[2, i], four[3, i]), four, i, end)
    for first in range(count - 4, -1, -4):
        for k in range(first + 3, first - 1, -1):
            row = rows[k]
            inverse = np.float32(1.0) / row[k]
            for x in range(count, end):
                row[x] *= inverse
            for i in range(first, k):
                _take(rows[i], rows[i, k], row, count, end)
        four = rows[first : first + 4]
        for i in range(first):
            row = rows[i]
            _take_four(row, (row[first], row[first + 1], row[first + 2], row[first + 3]), four, count, end)


@nb.njit(fastmath=True, error_model="numpy", inline="always")
def _shared(kx, thickness, tangents, unlike, out, own):  # type: ignore[no-untyped-def]
    """Fill the upper triangle of `out` (K, K) with what two tilts share of an even slab at kx, and `own` (K,) with the part of
    each that is like no other's: `unlike` for every tilt that shares its frequencies."""
    for i in range(tangents.shape[0]):
        own[i] = 0.0
    for i in range(tangents.shape[0]):
        for j in range(i, tangents.shape[0]):
            angle = math.pi * thickness * kx * (tangents[i] - tangents[j])
            both = math.sin(angle) / angle if abs(angle) > 1e-6 else 1.0
            out[i, j] = both
            own[i] += unlike * both * both
            if j > i:
                own[j] += unlike * both * both


@nb.njit(fastmath=True, error_model="numpy", inline="always")
def _weights(kx, ky, cosines, before, strength, after, directions, used, weights):  # type: ignore[no-untyped-def]
    """Which tilts reach (kx, ky), into `used`, and their weights into `weights` (K, 3): of the data, root of the signal's power
    over the noise's, of the result. Returns how many."""
    rings, sectors = before.shape[1], directions.shape[2]
    turn = math.atan2(ky, kx) / math.pi * sectors - 0.5
    low = math.floor(turn)
    share = np.float32(turn - low)
    low = low % sectors
    high = (low + 1) % sectors
    count = 0
    for k in range(cosines.shape[0]):
        stretched = kx / cosines[k]
        q = math.sqrt(stretched * stretched + ky * ky)
        if q >= 0.49:
            continue
        ring = int(q * (rings - 1) / 0.5 + 0.5)
        along = (np.float32(1.0) - share) * directions[k, ring, low] + share * directions[k, ring, high]
        used[count] = k
        weights[count, 0] = before[k, ring]
        weights[count, 1] = strength[k, ring] * math.sqrt(along)
        weights[count, 2] = after[k, ring] * along
        count += 1
    return count


@nb.njit(fastmath=True, error_model="numpy", inline="always")
def _of_column(spectra, x, y0, y1, used, count, weights, shared, own, centre, back, gain, system):  # type: ignore[no-untyped-def]
    """Solve for column x of the rows y0 to y1 of `spectra`, in place."""
    width, padded = 2 * (y1 - y0), (count + 3) // 4 * 4
    for i in range(padded):
        system[i, i : padded + width] = np.float32(0.0)
        system[i, i] = np.float32(1.0)
    for i in range(count):
        k, row = used[i], system[i]
        signal = weights[i, 1]
        row[i] += signal * signal * own[k]
        for j in range(i, count):
            row[j] += signal * weights[j, 1] * shared[k, used[j]]
        real, imag = weights[i, 0] * centre[k, x].real, weights[i, 0] * centre[k, x].imag
        for y in range(y0, y1):
            a, b = spectra[k, y, x, 0], spectra[k, y, x, 1]
            row[padded + 2 * (y - y0)] = a * real - b * imag
            row[padded + 2 * (y - y0) + 1] = a * imag + b * real
    _solved(system, padded, width)
    for k in range(spectra.shape[0]):
        for y in range(y0, y1):
            spectra[k, y, x, 0] = 0.0
            spectra[k, y, x, 1] = 0.0
    for i in range(count):
        k, row = used[i], system[i]
        real, imag = gain * weights[i, 2] * back[k, x].real, gain * weights[i, 2] * back[k, x].imag
        for y in range(y0, y1):
            a, b = row[padded + 2 * (y - y0)], row[padded + 2 * (y - y0) + 1]
            spectra[k, y, x, 0] = a * real - b * imag
            spectra[k, y, x, 1] = a * imag + b * real


@nb.njit(parallel=True, fastmath=True, error_model="numpy", cache=True)
def estimate(  # type: ignore[no-untyped-def]
    spectra, bands, thickness, unlike, tangents, cosines, centre, back, before, strength, after, directions, gain,
):
    """The Wiener estimate of the stretched images' spectra, in place (`wiener` has the formula).

    At each kx and for each band of ky the tilts that reach there are weighted, the system of their covariance is solved for
    all rows of the band at once, and the solution is weighted again. Columns do not depend on each other.

    Parameters
    ----------
    spectra : float32 (K, rows, columns, 2)
        Replaced. ky of row y is y / (2 rows - 2), kx of column x is x / columns, less 1 beyond its half.
    bands : int64 (bands + 1,)
        First row of each band, and the last row + 1: within a band all weights are those of its middle.
    thickness : float
        Of the specimen, px.
    unlike : float
        Part of the signal that is another one in each tilt, for every tilt that shares its frequencies.
    tangents, cosines : float64 (K,)
    centre, back : complex64 (K, columns)
        Factors of the data and of the result.
    before, strength, after : float32 (K, rings)
        Weights of the data, root of the signal's power over the noise's, weights of the result, by frequency in the image:
        ring q (rings - 1) / 0.5.
    directions : float32 (K, rings, sectors)
        The signal's power by direction, over its mean; sectors of half a turn from kx on.
    gain : float32 (columns, bands)
        Factors of the result.
    """
    tilts, rows, columns, _ = spectra.shape
    widest = 0
    for b in range(len(bands) - 1):
        widest = max(widest, 2 * (bands[b + 1] - bands[b]))
    for job in nb.prange((columns + _COLUMNS_AT_ONCE - 1) // _COLUMNS_AT_ONCE):
        x0 = job * _COLUMNS_AT_ONCE
        x1 = min(x0 + _COLUMNS_AT_ONCE, columns)
        shared, own = np.empty((_COLUMNS_AT_ONCE, tilts, tilts), np.float32), np.empty((_COLUMNS_AT_ONCE, tilts), np.float32)
        system = np.empty((tilts + 3, tilts + 3 + widest), np.float32)
        used, weights = np.empty(tilts, np.int64), np.empty((tilts, 3), np.float32)
        for x in range(x0, x1):
            _shared((x if 2 * x <= columns else x - columns) / columns, thickness, tangents, unlike, shared[x - x0], own[x - x0])
        for b in range(len(bands) - 1):
            ky = 0.5 * (bands[b] + bands[b + 1] - 1) / (2 * rows - 2)
            for x in range(x0, x1):
                kx = (x if 2 * x <= columns else x - columns) / columns
                count = _weights(kx, ky, cosines, before, strength, after, directions, used, weights)
                _of_column(spectra, x, bands[b], bands[b + 1], used, count, weights, shared[x - x0], own[x - x0], centre, back,
                           gain[x, b], system)
