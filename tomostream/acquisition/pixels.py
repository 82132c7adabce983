# SPDX-License-Identifier: GPL-3.0-or-later
"""The pixel size of movies and images, from what an mdoc says and from how large the images are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from tomostream.acquisition.facts import Known, MdocFacts
from tomostream.acquisition.movies import MovieCheck


def movie_pixel_size(facts: MdocFacts, movie: MovieCheck | None = None) -> Known[float]:
    """Return the pixel size of the movies of a series, A per pixel of the file, and its source.

    PixelSpacing is that of the image which the mdoc describes, at its binning. If the size of that image (ImageSize)
    and of a movie are known, the movie's pixel is PixelSpacing times their ratio, as both show the same area. Otherwise it
    follows from Binning (0.5 is a super-resolution movie).

    Parameters
    ----------
    facts : the mdoc of the series.
    movie : one of its movies, if there is one already.
    """
    spacing = facts.pixel_size.value
    ratio = None if movie is None else _size_ratio(facts.evidence.get("ImageSize", ""), movie)
    if spacing is None or ratio is None:
        return facts.movie_pixel_size
    return Known(spacing * ratio, f"{facts.pixel_size.source} x ImageSize / size of the movie ({ratio:g})")


#: Two pixel sizes that differ by at most this share are one, calibrated twice.
_SAME_PIXEL_SIZE = 0.1


def pixel_size_doubt(pixel_size: float, mdocs: Iterable[MdocFacts], image: MovieCheck) -> str:
    """Say why the pixel size of an image (A) cannot be right, by the first mdoc that tells; "" if none does, or it agrees.

    The size of the area is compared, which is the same whatever the binning. Calibrations differ by a few per cent; the check
    is for a pixel size of another binning, camera mode or magnification.
    """
    for facts in mdocs:
        spacing, ratio = facts.pixel_size.value, _size_ratio(facts.evidence.get("ImageSize", ""), image)
        if spacing is None or ratio is None:
            continue
        expected = spacing * ratio
        if abs(pixel_size - expected) <= _SAME_PIXEL_SIZE * expected:
            return ""
        return (f"the pixel size is {pixel_size:.4g} A, but {os.path.basename(facts.path)} gives {expected:.4g} A for images of "
                f"{image.width} x {image.height} px: all lengths, defoci and dose weights depend on it")
    return ""


def _size_ratio(image_size: str, movie: MovieCheck) -> float | None:
    """Return image pixels per movie pixel, a power of two or its neighbour 3; None if the two do not show one area."""
    words: Sequence[str] = image_size.split()
    if len(words) != 2 or not all(word.isascii() and word.isdigit() and len(word) < 7 for word in words):
        return None
    image = sorted(int(word) for word in words)
    sides = sorted((movie.width or 0, movie.height or 0))
    if min(*image, *sides) <= 0:
        return None
    known = (0.125, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
    ratios = [small / large for small, large in zip(image, sides, strict=True)]
    nearest = min(known, key=lambda value: abs(value - ratios[0]) / value)
    return nearest if all(abs(ratio - nearest) < 0.04 * nearest for ratio in ratios) else None
