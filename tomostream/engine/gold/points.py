# SPDX-License-Identifier: GPL-3.0-or-later
"""Points in three dimensions from the peaks of all tilts: a bead is one point that is seen in all of them.

A peak of one tilt lies somewhere on a line through the specimen. At every height along the line the evidence of all tilts that
show the place is added up; at the best height the peaks nearby are taken, and the point that fits them is found by least squares,
again and again while peaks that are off are let go. Peaks belong to one point only, that with the most evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tomostream.engine.gold.candidates import MIN_SCORE

if TYPE_CHECKING:
    from tomostream.engine.gold.candidates import Peaks
    from tomostream.engine.gold.geometry import Geometry
    from tomostream.engine.gold.images import WorkImages

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Of a peak from which a point is sought, and how many of one tilt.
SEED_SCORE, MAX_SEEDS = 5.0, 150
#: Tilts, the least tilted first, whose peaks are followed; heights (A) on both sides of the middle.
SEED_TILTS, HEIGHT_A = 16, 2500.0
#: Radii of the bead within which a peak is the point's.
REACH = 0.75
#: Of the tilts that show the place, and at least: in which the point must be seen; and of every third of them, by tilt.
MIN_SHARE, MIN_TILTS, MIN_SHARE_OF_THIRD = 0.7, 6, 0.55
#: Radii within which another point hides a peak: such tilts count only where the point is seen; of all, so many must show it.
HIDDEN, MIN_SHARE_OF_ALL = 2.2, 0.4
#: Degrees that these must span: else nothing is known of the height.
MIN_SPAN_DEG = 20.0


@dataclass(frozen=True)
class Point:
    """A point (X, Y, Z) in raw pixels from the centre, and its peaks: (tilt, peak) each.

    `shown`: tilts in whose field it is; `residuals` (matched, 2): how far (across, along, raw px) the peaks are from it;
    `evidence`: mean score.
    """

    position: Doubles
    tilts: Ints
    peaks: Ints
    shown: Ints
    residuals: Doubles
    evidence: float


class Search:
    """Finds points; peaks are claimed by what was found."""

    def __init__(self, geometry: Geometry, images: WorkImages, peaks: list[Peaks], radius_px: float) -> None:
        self.geometry, self.images, self.peaks = geometry, images, peaks
        self.scale = max(images.scales)
        self.margin = radius_px
        self.found: list[Point] = []
        #: raw pixels
        self.tolerance = max(1.0, REACH * radius_px) * self.scale
        side = 2 * round(max(1.0, REACH * radius_px)) + 1
        self.evidence = np.stack([ndimage.maximum_filter(each.evidence, side) for each in peaks])
        #: (across, along) of every peak, one row a tilt, and which of them are there and not claimed
        most = max(1, *(len(each.scores) for each in peaks))
        self.aligned, self.free = np.zeros((len(peaks), most, 2)), np.zeros((len(peaks), most), bool)
        for tilt, each in enumerate(peaks):
            self.aligned[tilt, : len(each.scores)] = geometry.aligned(tilt, images.places(each.indices))
            self.free[tilt, : len(each.scores)] = True

    def run(self) -> list[Point]:
        """Return all points; once more for those that others hide, which are known then."""
        for _ in range(2):
            before = len(self.found)
            self._run_once()
            if len(self.found) == before:
                break
        return self.found

    def _run_once(self) -> None:
        """Points by the free peaks, tilt by tilt."""
        order = np.argsort(-self.geometry.cosines, kind="stable")
        steps = np.unique(np.linspace(0, len(order) - 1, min(SEED_TILTS, len(order))).astype(int))
        for tilt in order[steps].tolist():
            seeds = np.flatnonzero(self.peaks[tilt].scores > SEED_SCORE)
            seeds = seeds[self.free[tilt][seeds]][:MAX_SEEDS]
            if seeds.size:
                self._from(tilt, seeds)

    def _from(self, tilt: int, seeds: Ints) -> None:
        """Points on the lines through some peaks of a tilt."""
        starts, evidence = self._best_heights(tilt, seeds)
        for which in np.argsort(-evidence, kind="stable").tolist():
            if evidence[which] < 0.9 * MIN_SHARE * MIN_SCORE:       # what is enough below has as much in the mean
                break
            if not self.free[tilt][seeds[which]]:
                continue
            point = self._fitted(starts[which])
            if point is None:
                continue
            self.found.append(point)
            self.free[point.tilts, point.peaks] = False

    def _best_heights(self, tilt: int, seeds: Ints) -> tuple[Doubles, Doubles]:
        """For every seed the place with the most evidence of all tilts, (n, 3), and how much that is."""
        reach = HEIGHT_A / self.images.pixel_A * self.scale
        steps = np.arange(-reach, reach + 1, 1.4 * self.tolerance)
        across, along = self.aligned[tilt][seeds].T
        x = (across[:, None] - steps * self.geometry.sines[tilt]) / self.geometry.cosines[tilt]
        points = np.stack([x, np.broadcast_to(along[:, None], x.shape), np.broadcast_to(steps, x.shape)], axis=-1)
        total, count = np.zeros(x.shape), np.zeros(x.shape)
        for k in range(len(self.peaks)):
            index = self.images.indices(self.geometry.place(k, points))
            inside = self._within(index)
            at = np.rint(np.where(inside[..., None], index, 0)).astype(int)
            total += np.where(inside, self.evidence[k][at[..., 1], at[..., 0]], 0)
            count += inside
        mean = np.where(count >= min(MIN_TILTS, len(self.peaks)), total / np.maximum(count, 1), 0)
        best = np.argmax(mean, axis=1)
        rows = np.arange(len(seeds))
        return points[rows, best], mean[rows, best]

    def _within(self, index: Doubles) -> NDArray[np.bool_]:
        """Tell whether indices (..., 2) of working images are within them."""
        ny, nx = self.images.shape
        inside = (index >= self.margin) & (index <= np.array([nx - 1, ny - 1]) - self.margin)
        return np.asarray(inside.all(axis=-1))

    def _fitted(self, start: Doubles) -> Point | None:
        """Return the point near `start` that fits free peaks of enough tilts; None where there is none."""
        position, tolerance = start, 2 * self.tolerance
        for _ in range(5):
            tilts, peaks, shown = self._matches(position, tolerance)
            if len(tilts) < 3:
                return None
            position, residuals = solved(self.geometry, tilts, self.aligned[tilts, peaks])
            tolerance = max(self.tolerance, 0.7 * tolerance)
        tilts, peaks, shown = self._matches(position, self.tolerance)
        inside = self._within(self.images.indices(self.geometry.places(position[None])[:, 0]))
        if not self._enough(tilts, shown, np.count_nonzero(inside)):
            return None
        position, residuals = solved(self.geometry, tilts, self.aligned[tilts, peaks])
        score = float(np.mean([min(10.0, self.peaks[k].scores[p]) for k, p in zip(tilts, peaks, strict=True)]))
        return Point(position, tilts, peaks, shown, residuals, score)

    def _matches(self, position: Doubles, tolerance: float) -> tuple[Ints, Ints, Ints]:
        """(tilts, peaks) of the free peaks nearest to a point, and the tilts that show it."""
        inside = self._within(self.images.indices(self.geometry.places(position[None])[:, 0]))
        across = position[0] * self.geometry.cosines + position[2] * self.geometry.sines
        distance = np.hypot(self.aligned[..., 0] - across[:, None], self.aligned[..., 1] - position[1])
        distance[~self.free] = np.inf
        best = np.argmin(distance, axis=1)
        near = np.flatnonzero(inside & (distance[np.arange(len(best)), best] <= tolerance))
        seen = np.zeros(len(best), bool)
        seen[near] = True
        return near, best[near], np.flatnonzero(inside & (seen | ~self._hidden(position)))

    def _hidden(self, position: Doubles) -> NDArray[np.bool_]:
        """In which tilts another point is so near that a peak of this one may be missing."""
        if not self.found:
            return np.zeros(len(self.peaks), bool)
        offsets = np.array([point.position for point in self.found]) - position
        across = np.multiply.outer(self.geometry.cosines, offsets[:, 0]) + np.multiply.outer(self.geometry.sines, offsets[:, 2])
        return np.asarray((np.hypot(across, offsets[:, 1]) < HIDDEN * self.margin * self.scale).any(axis=1))

    def _enough(self, tilts: Ints, shown: Ints, count: int) -> bool:
        """Tell whether a point is seen in enough of the tilts that show its place, and in every third of them by angle; `count`
        with those in which others may hide it."""
        if len(tilts) < max(MIN_TILTS, MIN_SHARE * len(shown), MIN_SHARE_OF_ALL * count):
            return False
        angles = np.degrees(np.arcsin(self.geometry.sines[tilts]))
        if np.ptp(angles) < MIN_SPAN_DEG:
            return False
        ordered = shown[np.argsort(-self.geometry.cosines[shown], kind="stable")]
        thirds = np.array_split(ordered, 3)
        return all(np.isin(third, tilts).mean() >= MIN_SHARE_OF_THIRD for third in thirds)


def solved(geometry: Geometry, tilts: Ints, seen: Doubles) -> tuple[Doubles, Doubles]:
    """Return the point that fits what is seen of it, (across, along) in raw px a tilt, that far off with less weight; the
    residuals.

    Parameters
    ----------
    geometry : Geometry
        Where the tilts go.
    tilts : ndarray of int, shape (n,)
        Those in which the point is seen.
    seen : ndarray, shape (n, 2)
        Where, in the aligned image.

    Returns
    -------
    position : ndarray, shape (3,)
        (x, y, z) in raw px, as for `Geometry.places`.
    residuals : ndarray, shape (n, 2)
        Seen minus predicted.

    Notes
    -----
    Least squares of x cos t + z sin t and y, iterated with the weights 1 / (1 + (r / 2 m)^2) of residuals r of median m (Cauchy).
    """
    design = np.stack([geometry.cosines[tilts], geometry.sines[tilts]], axis=1)
    weight = np.ones(len(tilts))
    for _ in range(4):
        # 1e-6: tilts of one angle tell no height
        normal = (design * weight[:, None]).T @ design + 1e-6 * np.eye(2)
        x, z = np.linalg.solve(normal, (design * weight[:, None]).T @ seen[:, 0])
        y = float(np.average(seen[:, 1], weights=weight))
        residuals = seen - np.stack([design @ [x, z], np.full(len(tilts), y)], axis=1)
        length = np.hypot(*residuals.T)
        weight = 1 / (1 + (length / max(2 * float(np.median(length)), 1e-6)) ** 2)
    return np.array([x, y, z]), residuals
