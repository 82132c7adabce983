# SPDX-License-Identifier: GPL-3.0-or-later
"""How large the Wiener estimate has to be at each frequency to be nearest to the specimen.

The estimate `wiener` solves for takes the noise for larger than counting makes it, against structure along z that is none
(`spectrum`). That weakens what there is little of more than it should: the contrast of the tomogram would be that of its low
frequencies. With the noise as it is, the estimate's size follows in closed form: with M the covariance of the signal, C the
one that was solved with and T the true one, it is ``tr(M C^-1) / tr(M C^-1 T C^-1)`` times too small.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
#: Frequencies kx at which it is worked out, cycles/px, denser where they are low; between them it is interpolated.
KX = 0.49 * np.linspace(0.0, 1.0, 16) ** 2
#: Cells whose systems are solved at a time.
_AT_ONCE = 64


def gains(
    kx: Doubles, ky: Doubles, thickness: float, unlike: float, angles: tuple[Doubles, Doubles], strength: Floats, counted: float,
) -> Floats:
    """Return by what the estimate is to be multiplied.

    Parameters
    ----------
    kx : ndarray, shape (columns,)
        Of the columns, cycles/px of the specimen, of both signs.
    ky : ndarray, shape (bands,)
        Of the bands of rows.
    thickness : float
        Of the specimen, px.
    unlike : float
        As for `spectral_kernels.estimate`.
    angles : (ndarray, ndarray), shapes (K,)
        Cosines and tangents of the tilts.
    strength : ndarray, shape (K, rings)
        Root of the signal's power over the noise's.
    counted : float
        Part of the noise that is counting.

    Returns
    -------
    ndarray of float32, shape (columns, bands)

    Notes
    -----
    tr(M C^-1) / tr(M C^-1 T C^-1), with the covariances of the module's text.
    """
    cosines, tangents = angles
    rings = strength.shape[1]
    x, y = (each.ravel() for each in np.meshgrid(KX, ky, indexing="ij"))
    q = np.hypot(x[:, None] / cosines[None], y[:, None])
    ring = np.minimum(np.rint(q * (rings - 1) / 0.5), rings - 1).astype(np.int64)
    signal = np.where(q < 0.49, strength[np.arange(len(cosines))[None], ring], 0.0).astype(np.float32)
    values = np.concatenate([
        _of_cells(x[i : i + _AT_ONCE], signal[i : i + _AT_ONCE], thickness, unlike, tangents, counted)
        for i in range(0, len(x), _AT_ONCE)]).reshape(len(KX), len(ky))
    return np.stack([np.interp(np.abs(kx), KX, column) for column in values.T], axis=1).astype(np.float32)


def _of_cells(kx: Doubles, signal: Floats, thickness: float, unlike: float, tangents: Doubles, counted: float) -> Floats:
    """Return the factors of some cells, (n,): their kx, and root of the signal's power over the noise's in every tilt, (n, K)."""
    shared = np.sinc(thickness * kx[:, None, None] * (tangents[:, None] - tangents[None])).astype(np.float32)
    own = np.float32(unlike) * (shared**2).sum(axis=2) * signal**2
    common = signal[:, :, None] * shared * signal[:, None, :]
    diagonal, one = np.arange(len(tangents)), np.float32(1.0)
    taken = common.copy()
    taken[:, diagonal, diagonal] += one + own
    inverse = np.linalg.inv(taken)
    weighted = inverse @ common         # C^-1 M; T = C - (1 - counted) 1
    top = np.trace(weighted, axis1=1, axis2=2)
    least = top - np.float32(1.0 - counted) * np.einsum("nij,nji->n", weighted, inverse)
    return np.asarray(np.where(top > 1e-12, top / np.maximum(least, 1e-12), 1.0), dtype=np.float32)
