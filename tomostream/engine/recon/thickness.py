# SPDX-License-Identifier: GPL-3.0-or-later
"""Thickness and height of the specimen by the likelihood of an alignment that is given.

All tilts at all low frequencies have their say at once, each pair with the weight that it deserves under the model of the
alignment (`align.likelihood`); the cross spectra of pairs (`spectrum.likely_slabs`) cannot tell specimens of 4000 A, which are
dim and alike in neighbouring tilts only, from noise. The images are aligned and stay where they are: with shifts that may follow,
every thickness finds some that suit it, and the likelihood of thick specimens has many maxima.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tomostream.engine.align.geometry import Pose
from tomostream.engine.align.likelihood import down_weighted, log_likelihood_ratio, model_of, signal_share, weighted
from tomostream.engine.align.pipeline import Bench
from tomostream.engine.align.preprocess import WorkStack
from tomostream.engine.align.spectra import Band
from tomostream.engine.peaks import parabola_top
from tomostream.engine.recon.taming import tamed
from tomostream.engine.threads import parallel

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
#: Fewer tilts say too little.
MIN_TILTS = 7
#: Thicknesses that are looked at first (A), and then, of the best.
THICKNESSES_A, FACTORS = tuple(np.geomspace(200.0, 6500.0, 13)), (0.73, 0.86, 1.0, 1.17, 1.37)
#: Heights that are looked at first, and then about the best, in thicknesses.
HEIGHTS, STEPS = (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3), (-0.06, -0.03, 0.0, 0.03, 0.06)
#: How far from the middle alignments put specimens, standard deviation in thicknesses.
OFF_CENTRE = 0.125
#: A height, in thicknesses, that changes which thickness fits.
FAR = 0.06
#: About the size of the pixels that are worked with (A); how many to a side, at least and at most; the highest frequency, 1/A.
COARSE_A, MIN_SIDE, MAX_SIDE, TOP = 15.0, 96, 320, 0.02
#: Cells of the band that are used at most, evenly taken of all.
MAX_CELLS = 450
#: Logarithms of the likelihood count so much less: specimens are no random fields, and coefficients not all independent.
TEMPER = 3.0
#: Standard deviation of the thickness's logarithm from which on the mean of all counts, for the highest likelihood may be one of
#: noise, and from which on nothing is known.
OPEN, MAX_SIGMA = 0.3, 0.6
#: Log-likelihood, over that of images that share nothing, below which nothing is known either: noise alone has 7 to 9, specimens
#: of 4000 A at 3 e/A2 have 23 to 27.
MIN_EVIDENCE = 12.0
START_A = 1500.0


@dataclass(frozen=True)
class Fitted:
    """Thickness and height of a slab that were fitted, A, and their standard deviations, that of the thickness relative."""

    thickness_A: float
    height_A: float
    thickness_sigma: float
    height_sigma_A: float

    def slabs(self, pixel_A: float) -> Doubles:
        """Return slabs that the specimen may be.

        Parameters
        ----------
        pixel_A : float
            Of the images.

        Returns
        -------
        ndarray, shape (3, n)
            Thicknesses and heights in px, and how likely each is; as `spectrum.Specimen` has them.
        """
        x = np.linspace(-2.0, 2.0, 5)
        first, second = (each.ravel() for each in np.meshgrid(x, x))
        chances = np.exp(-0.5 * (first**2 + second**2))
        thicknesses = self.thickness_A * np.exp(self.thickness_sigma * first)
        heights = self.height_A + self.height_sigma_A * second
        return np.stack([thicknesses / pixel_A, heights / pixel_A, chances / chances.sum()])


def fitted(images: Floats, tilts_deg: Doubles, pixel_A: float, threads: int = 1) -> Fitted | None:
    """Fit a slab to aligned images.

    Parameters
    ----------
    images : ndarray of float32, shape (K, ny, nx)
        Aligned, the tilt axis along y; 0 where there is no data.
    tilts_deg : ndarray, shape (K,)
        Tilt angles.
    pixel_A : float
        Of the images.
    threads : int
        At most this many.

    Returns
    -------
    Fitted or None
        None where the likelihood does not determine it, or there are fewer than `MIN_TILTS` images to ask.
    """
    shown = np.array([tilt for tilt, image in enumerate(images) if image.any()], dtype=np.int64)
    if len(shown) < MIN_TILTS:
        return None
    value, pixel = _likelihood(images[shown], np.asarray(tilts_deg, dtype=np.float64)[shown], pixel_A, threads)
    thicknesses, best, height = np.array(THICKNESSES_A) / pixel, 0.0, 0.0
    for _ in range(2):
        first = np.array([value(thickness, height) for thickness in thicknesses])
        best, before = float(thicknesses[np.argmax(first)]), height
        heights = best * np.array(HEIGHTS)
        height, _ = _peak(heights, np.array([value(best, h) for h in heights]))
        if abs(height - before) < FAR * best:
            break
    middle, sigma = _moments(np.log(thicknesses), first)
    if first.max() < MIN_EVIDENCE or sigma > MAX_SIGMA or best in thicknesses[[0, -1]]:
        return None
    if sigma <= OPEN:
        near = np.log(best * np.array(FACTORS))
        middle, sigma = _peak(near, np.array([value(float(np.exp(x)), height) for x in near]))
    thickness = float(np.exp(middle))
    heights = height + thickness * np.array(STEPS)
    height, height_sigma = _peak(heights, np.array([value(thickness, h) for h in heights]))
    return Fitted(thickness * pixel, height * pixel, sigma, height_sigma * pixel)


def _moments(places: Doubles, values: Doubles) -> tuple[float, float]:
    """Return mean and standard deviation of what has these log-likelihoods at evenly spaced places."""
    chances = np.exp(values - values.max())
    mean = float(np.average(places, weights=chances))
    return mean, float(np.sqrt(np.average((places - mean) ** 2, weights=chances)))


def _peak(places: Doubles, values: Doubles) -> tuple[float, float]:
    """Return the place of the highest log-likelihood, between those that were tried, and its standard deviation."""
    return float(parabola_top(places, values)), _moments(places, values)[1]


def _likelihood(
    images: Floats, tilts_deg: Doubles, pixel_A: float, threads: int
) -> tuple[Callable[[float, float], float], float]:
    """Return the log-likelihood of a thickness and a height in working pixels, and the size of these in A."""
    work = _work_images(images, pixel_A, threads)
    bench = Bench(work, np.arange(len(images)), threads)
    # the centre of the images is half a pixel before index n / 2, about which `frame_of` turns and stretches
    pose = Pose(tilts_deg, 0.0, np.full((len(images), 2), -0.5), START_A / work.pixel_A)
    band = _thinned(bench.cut(pose, TOP))
    band = down_weighted(band, model_of(band, pose, signal_share(band, pose), threads))

    def value(thickness: float, height: float) -> float:
        moves = np.stack([height * pose.tangents(), np.zeros(len(images))], axis=1)
        here, slab = band.moved(moves) if height else band, replace(pose, thickness=thickness)
        model = model_of(here, slab, signal_share(here, slab), threads)
        ratio = log_likelihood_ratio(here, model, here.values, weighted(model, here.values))
        return ratio / TEMPER - 0.5 * (height / (OFF_CENTRE * thickness)) ** 2

    return value, work.pixel_A


def _work_images(images: Floats, pixel_A: float, threads: int) -> WorkStack:
    """Return the middle of the images in pixels of some 10 A, without what is as strong as gold."""
    factor = max(1, min(int(COARSE_A / pixel_A), min(images.shape[1:]) // MIN_SIDE))
    rows, columns = (min(n // factor, MAX_SIDE) // 2 * 2 for n in images.shape[1:])
    top, left = ((n - factor * own) // 2 for n, own in zip(images.shape[1:], (rows, columns), strict=True))

    def one(image: Floats) -> Floats:
        part = image[top : top + factor * rows, left : left + factor * columns]
        summed = part.reshape(rows, factor, -1).sum(axis=1).reshape(rows, columns, factor).sum(axis=2)
        spline: Floats = ndimage.spline_filter(tamed(summed, pixel_A * factor), order=3, output=np.float32, mode="mirror")
        return spline

    return WorkStack(np.stack(parallel(one, list(images), threads)), pixel_A * factor, factor)


def _thinned(band: Band) -> Band:
    """Return the band with some of its cells, evenly taken, where they are very many."""
    count = len(band.cells.kx)
    if count <= MAX_CELLS:
        return band
    kept = np.linspace(0, count - 1, MAX_CELLS).astype(np.int64)
    cells = band.cells
    some = replace(cells, kx=cells.kx[kept], ky=cells.ky[kept], weight=cells.weight[kept], row=cells.row[kept],
                   column=cells.column[kept])
    return replace(band, cells=some, values=np.ascontiguousarray(band.values[kept]), ring=band.ring[kept])
