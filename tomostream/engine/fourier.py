# SPDX-License-Identifier: GPL-3.0-or-later
"""Fourier transforms of images of which only low frequencies are wanted, without the whole spectrum in memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

#: Rows that are transformed at a time: a spectrum of all columns is held of these only.
BAND = 256


def soft_window(length: int, edge: int) -> NDArray[np.float64]:
    """Return a window of ones whose ends fall to 0 as half a period of a cosine.

    Parameters
    ----------
    length : int
        Pixels.
    edge : int
        Of them at either end that fall; no more than half of `length`.

    Examples
    --------
    >>> soft_window(6, 2).round(3).tolist()
    [0.146, 0.854, 1.0, 1.0, 0.854, 0.146]
    """
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / edge)
    window = np.ones(length)
    window[:edge], window[length - edge :] = ramp, ramp[::-1]
    return window


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


def low_rows(spectrum: NDArray[np.complex64], shape: tuple[int, int]) -> NDArray[np.complex64]:
    """Return what the real transform of a smaller image holds of a spectrum: its lowest frequencies along both axes.

    Parameters
    ----------
    spectrum : ndarray, shape (rows, columns)
        First columns of a real two-dimensional transform, at least as many as are kept.
    shape : (int, int)
        Rows and columns of the smaller image.

    Returns
    -------
    ndarray, shape (shape[0], shape[1] // 2 + 1)
        Not scaled: times the ratio of the numbers of pixels it has the mean of the image.
    """
    half, columns = shape[0] // 2, shape[1] // 2 + 1
    return np.concatenate([spectrum[: shape[0] - half, :columns], spectrum[len(spectrum) - half :, :columns]])


def low_frequencies(image: NDArray[np.floating], shape: tuple[int, int], threads: int = 1) -> NDArray[np.complex64]:
    """Return what the real transform of a smaller image holds of that of an image; its columns are cropped before transforming.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
        Of any real type: it is converted in bands.
    shape : (int, int)
        Rows and columns of the smaller image.
    threads : int
        That transform.

    Returns
    -------
    ndarray, shape (shape[0], shape[1] // 2 + 1)
        As of `low_rows`.

    Examples
    --------
    >>> image = np.arange(48.0).reshape(6, 8)
    >>> float(low_frequencies(image, (4, 4))[0, 0].real) == image.sum()
    True
    """
    bands = ((first, np.asarray(image[first : first + BAND], np.float32)) for first in range(0, len(image), BAND))
    return low_rows(low_columns(bands, len(image), shape[1] // 2 + 1, threads), shape)
