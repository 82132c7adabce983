# SPDX-License-Identifier: GPL-3.0-or-later
"""Which points are gold, by what all their tilts show together.

The images around a point, added up over the tilts, have little noise left. A bead is round there, its profile is that of a ball,
it takes as many electrons away as gold of that size does, and it is one of many of its size. Ribosomes, crystals of ice, edges of
carbon and crossing membranes fail one of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.gold.candidates import WINDOW
from tomostream.engine.gold.images import ball

if TYPE_CHECKING:
    from tomostream.engine.gold.geometry import Geometry
    from tomostream.engine.gold.images import WorkImages
    from tomostream.engine.gold.points import Point

Doubles = NDArray[np.float64]
#: The half width of the averages, in radii of the bead that was sought.
REACH = 3.0
#: Factors of the radius at which a ball is fitted to an average.
FACTORS = np.arange(0.6, 1.71, 0.05)
#: Correlation of an average with its ball, and the most that its directions differ, of its depth.
MIN_FIT, MAX_UNEVEN = 0.85, 0.25
#: The same beside another bead, which is in the average as well; and diameters from it within which it is.
MIN_FIT_BESIDE, BESIDE = 0.7, 1.8
#: Half of what a layer of gold takes away at 300 kV: 1 - exp(-thickness / this), A.
ABSORPTION_A = 200.0
#: Where values are no counts: standard deviations of the images.
MIN_DEVIATIONS = 1.5
#: Of the common size that a bead's may be away; of all points that look like gold, the share that have it; and their number.
ALIKE, MIN_ALIKE, MIN_BEADS = 0.15, 0.6, 3
#: What is left of the depth, where a bead and its fringes end.
FADED = 0.04


@dataclass(frozen=True)
class Measured:
    """A point and what the average of the images around it shows.

    Attributes
    ----------
    point : Point
    diameter_A : float
    depth : float
        In parts of the surroundings' brightness, or in standard deviations.
    fit : float
        Correlation with a ball.
    uneven : float
        How much the directions differ, in parts of the depth.
    profile : ndarray
        Radial, at multiples of `step_A`.
    step_A, scale : float
        Size of a working pixel, and how many raw pixels that is.
    counts : bool
        Whether the images were counts.
    """

    point: Point
    diameter_A: float
    depth: float
    fit: float
    uneven: float
    profile: Doubles
    step_A: float
    scale: float
    counts: bool


def measured(geometry: Geometry, images: WorkImages, point: Point, radius_px: float) -> Measured:
    """Return what the average of the images around a point shows.

    Parameters
    ----------
    geometry : Geometry
        Where the tilts go.
    images : WorkImages
        Working images.
    point : Point
        Position (raw px from the centre of the specimen) and the tilts that show it.
    radius_px : float
        Of the ball that was sought, working pixels.

    Returns
    -------
    Measured
        Diameter, depth, fit and profile of the average over the tilts.
    """
    average = _average(geometry, images, point, math.ceil(REACH * radius_px) + 1)
    reach = len(average) // 2
    at = np.arange(-reach, reach + 1)
    distance = np.hypot(at[:, None], at[None])
    best = max((_fitted(average, distance, radius_px * factor, reach) for factor in FACTORS), key=lambda each: each[0])
    fit, depth, radius = best
    inner = distance < 1.3 * radius
    radial = _radial(average, distance)
    smooth = np.interp(distance, np.arange(len(radial)), radial)
    uneven = float(np.sqrt(np.mean((average - smooth)[inner] ** 2)) / max(depth, 1e-9))
    size, scale = 2 * radius * images.pixel_A, max(images.scales)
    return Measured(point, size, depth, fit, uneven, radial, images.pixel_A, scale, images.counts)


def _average(geometry: Geometry, images: WorkImages, point: Point, reach: int) -> Doubles:
    """Return the mean of the images around a point, each over its own surroundings where they are counts; without its level."""
    from scipy.ndimage import map_coordinates

    at = np.arange(-reach, reach + 1)
    y, x = np.meshgrid(at, at, indexing="ij")
    ring = np.hypot(x, y) > 0.75 * reach
    total, count = np.zeros(x.shape), 0
    for tilt in point.tilts.tolist():
        column, row = images.indices(geometry.place(tilt, point.position))
        # what a single tilt is off by blurs the average less than its own peak would sharpen noise
        patch = map_coordinates(images.data[tilt], [y + row, x + column], order=1, mode="nearest")
        level = float(np.median(patch[ring]))
        total += (patch - level) / (max(level, 0.2) if images.counts else 1.0)
        count += 1
    return total / max(count, 1)


def _fitted(average: Doubles, distance: Doubles, radius: float, reach: int) -> tuple[float, float, float]:
    """Return the correlation and depth of the ball of one radius, and that radius."""
    window = distance <= max(WINDOW * radius, radius + 2)
    model, values = ball(radius, reach)[window], -average[window]
    model, values = model - model.mean(), values - values.mean()
    power = float((model**2).sum())
    cross = float((model * values).sum())
    return cross / math.sqrt(max(power * float((values**2).sum()), 1e-30)), cross / power, radius


def _radial(average: Doubles, distance: Doubles) -> Doubles:
    """Return means over rings of one pixel."""
    ring = np.rint(distance).astype(int).ravel()
    count = np.bincount(ring)
    return np.asarray(np.bincount(ring, average.ravel()) / np.maximum(count, 1))[: len(average) // 2 + 1]


def like_gold(every: Sequence[Measured], tolerance: float, diameter_A: float, min_fit: float = MIN_FIT) -> list[Measured]:
    """Return those of some points that could be gold of about one diameter, each by its own average.

    Parameters
    ----------
    every : sequence of Measured
        Points with their averages.
    tolerance : float
        By which a diameter may be off, as a share.
    diameter_A : float
        That of the beads.
    min_fit : float
        Least correlation of the average with a ball.

    Returns
    -------
    list of Measured
    """
    return [each for each in every if abs(each.diameter_A / diameter_A - 1) <= tolerance
            and each.fit >= min_fit and each.uneven <= MAX_UNEVEN and each.depth >= least_depth(each.diameter_A, each.counts)]


def with_neighbours(
    found: Sequence[Measured], every: Sequence[Measured], tolerance: float, diameter_A: float
) -> list[Measured]:
    """Return beads, and those of all points that fit less well because they are beside one of several.

    Parameters
    ----------
    found : sequence of Measured
        Points that are gold on their own.
    every : sequence of Measured
        All points.
    tolerance : float
        By which part of the diameter one may differ.
    diameter_A : float
        That of the beads.

    Returns
    -------
    list of Measured
    """
    out = list(found)
    if len(found) < MIN_BEADS:
        return out
    for each in like_gold(every, tolerance, diameter_A, MIN_FIT_BESIDE):
        reach = BESIDE * diameter_A / each.step_A * each.scale
        distances = [float(np.linalg.norm(each.point.position - other.point.position)) for other in every if other is not each]
        if all(each is not other for other in out) and min(distances, default=math.inf) < reach:
            out.append(each)
    return out


def least_depth(diameter_A: float, counts: bool) -> float:
    """Return the smallest depth that gold of some size has in an image.

    Parameters
    ----------
    diameter_A : float
        Of a bead.
    counts : bool
        Whether images are in parts of their median, else in standard deviations.

    Notes
    -----
    Half of 1 - exp(-diameter / ABSORPTION_A), what gold that thick absorbs and scatters.
    """
    return 0.5 * (1 - math.exp(-diameter_A / ABSORPTION_A)) if counts else MIN_DEVIATIONS


def common_size(every: Sequence[Measured]) -> float | None:
    """Return the diameter (A) that most of some points have; None where they are few, or of many sizes.

    Parameters
    ----------
    every : sequence of Measured
        Points that may be gold.
    """
    if len(every) < MIN_BEADS:
        return None
    sizes = np.array([each.diameter_A for each in every])
    alike = np.abs(sizes[None] / sizes[:, None] - 1) <= ALIKE
    best = alike[np.argmax(alike.sum(axis=1))]
    if best.sum() < max(MIN_BEADS, MIN_ALIKE * len(every)):
        return None
    return float(np.median(sizes[best]))


def reach_A(beads: Sequence[Measured]) -> float:
    """Return how far from their middles beads and their fringes show, A, by the mean profile of `beads`."""
    profile = np.mean([each.profile / each.depth for each in beads], axis=0)
    radius = float(np.median([each.diameter_A for each in beads])) / 2
    step = beads[0].step_A
    shown = np.flatnonzero(np.abs(profile) > FADED)
    edge = float(shown[-1] + 0.5) * step if shown.size else radius
    return float(np.clip(edge, radius + step, 2.2 * radius + step))
