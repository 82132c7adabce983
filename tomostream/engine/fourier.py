# SPDX-License-Identifier: GPL-3.0-or-later
"""Fourier transforms of images of which only low frequencies are wanted, without the whole spectrum in memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

#: Rows that are transformed at a time: a spectrum of all columns is held of these only.
BAND = 256


def low_columns(
    bands: Iterable[tuple[int, NDArray[np.float32]]], rows: int, columns: int, threads: int = 1
) -> NDArray[np.complex64]:
    """Return the first columns of the real two-dimensional transform of an image that comes in bands of rows.

    Parameters
    ----------
    bands : iterable of (int, ndarray)
        First row of each band and the band, shape (at most `BAND`, image columns); a band may be overwritten after it.
    rows : int
        Of the image.
    columns : int
        Wanted, of the image's columns // 2 + 1.
    threads : int
        That transform.

    Returns
    -------
    ndarray, shape (rows, columns)
        `scipy.fft.rfft2(image)[:, :columns]`.
    """
    import scipy.fft

    waves = np.empty((rows, columns), np.complex64)
    for first, band in bands:
        waves[first : first + len(band)] = scipy.fft.rfft(band, axis=1, workers=threads)[:, :columns]
    return scipy.fft.fft(waves, axis=0, workers=threads, overwrite_x=True)
