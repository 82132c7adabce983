# SPDX-License-Identifier: GPL-3.0-or-later
"""The newest aligned tilt, for the front page: the picture of its sum and its power spectrum. From the first minute on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomostream.files.grey import Array, grey_range, shrink, to_bytes
from tomostream.files.mrc import open_mrc
from tomostream.journal.status import number
from tomostream.report.pictures import save

#: Longest edge of the picture; largest and smallest edge of the tiles of the power spectrum; most tiles along each side.
EDGE, MAX_TILE, MIN_TILE, MAX_TILES = 700, 512, 128, 4
#: Seconds between two of them at least: tilts come faster than anybody looks.
EVERY = 15.0
PICTURE, SPECTRUM = os.path.join("data", "tilt.webp"), os.path.join("data", "spectrum.webp")


@dataclass(frozen=True)
class LatestTilt:
    """A tilt whose movie was aligned: the movie, the file of its sum, when (seconds since the epoch), its drift."""

    movie: str
    file: str
    time: float
    drift_px: float | None = None
    drift_A: float | None = None


def paint_tilt(tilt: LatestTilt, project: str, out: str) -> dict[str, Any]:
    """Write the pictures of a tilt; returns what the page has to know of them.

    Raises
    ------
    OSError, ValueError : the sum cannot be read, the pictures cannot be written.
    """
    image = np.asarray(open_mrc(os.path.join(project, tilt.file)).section(0), dtype=np.float32)
    small = shrink(image, EDGE)
    save(to_bytes(small, grey_range(small, 1, 99)), os.path.join(out, PICTURE))
    made: dict[str, Any] = {
        "movie": tilt.movie,
        "time": tilt.time,
        "drift_px": number(tilt.drift_px),
        "drift_A": number(tilt.drift_A),
        "mean_counts": number(float(image.mean())),
        "shape": [image.shape[1], image.shape[0]],
    }
    spectrum = power_spectrum(image)
    if spectrum is not None:
        save(to_bytes(spectrum, grey_range(spectrum, 2, 99.7)), os.path.join(out, SPECTRUM))
    return {**made, "spectrum": spectrum is not None}


def power_spectrum(image: Array) -> NDArray[np.float32] | None:
    """Logarithm of the mean power of tiles over its smooth fall from the centre: a square whose edge is Nyquist, zero frequency
    in its middle. None for an image that holds no tile, or nothing."""
    tile = min(MAX_TILE, 1 << (min(image.shape).bit_length() - 1))
    if tile < MIN_TILE:
        return None
    starts = [np.unique(np.linspace(0, length - tile, min(MAX_TILES, length // tile)).astype(int)) for length in image.shape]
    tiles = [image[y:y + tile, x:x + tile] for y in starts[0] for x in starts[1]]
    tiles = [each for each in tiles if np.isfinite(each).all() and each.std() > 0]
    if not tiles:
        return None
    window = np.outer(np.hanning(tile), np.hanning(tile)).astype(np.float32)
    power = sum(np.abs(np.fft.fft2((each - each.mean()) * window)) ** 2 for each in tiles)
    logs = np.log(np.fft.fftshift(np.asarray(power)) + 1e-12)
    y, x = np.ogrid[:tile, :tile]
    radius = np.hypot(y - tile // 2, x - tile // 2).astype(int)
    mean = np.bincount(radius.ravel(), logs.ravel()) / np.maximum(np.bincount(radius.ravel()), 1)
    smooth = np.convolve(np.pad(mean, 20, mode="edge"), np.ones(41) / 41, mode="valid")
    return np.asarray(logs - smooth[radius], dtype=np.float32)
