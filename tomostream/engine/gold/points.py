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

from tomostream.engine.gold.candidates import MIN_SCORE, largest_around
from tomostream.engine.threads import parallel

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
#: Radii within which another point hides a peak: such tilts count only where the point is seen; and the share of all tilts that
#: must show it.
HIDDEN, MIN_SHARE_OF_ALL = 2.2, 0.4
#: Degrees that these must span: else nothing is known of the height.
MIN_SPAN_DEG = 20.0
#: Heights from one to the next at which a line is put into the images exactly; starts that are fitted at the same time, at most.
PER_KNOT, AT_ONCE = 8, 64


@dataclass(frozen=True)
class Point:
    """A point in three dimensions, and its peaks.

    Attributes
    ----------
    position : ndarray, shape (3,)
        (X, Y, Z) in raw pixels from the centre.
    tilts, peaks : ndarray of int, shape (matched,)
        The tilt and the number of each peak.
    shown : ndarray of int
        Tilts in whose field it is.
    residuals : ndarray, shape (matched, 2)
        How far (across, along, raw px) the peaks are from it.
    evidence : float
        Mean score.
    """

    position: Doubles
    tilts: Ints
    peaks: Ints
    shown: Ints
    residuals: Doubles
    evidence: float


class Search:
    """Finds points in three dimensions; peaks are claimed by what was found.

    Parameters
    ----------
    geometry : Geometry
        Where the tilts go.
    images : WorkImages
    peaks : list of Peaks
        Of every tilt.
    radius_px : float
        Of the beads, working pixels.
    threads : int
        At most this many.
    """

    def __init__(self, geometry: Geometry, images: WorkImages, peaks: list[Peaks], radius_px: float, threads: int = 1) -> None:
        self.geometry, self.images, self.peaks, self.threads = geometry, images, peaks, threads
        self.scale = max(images.scales)
        self.margin = radius_px
        self.found: list[Point] = []
        #: raw pixels
        self.tolerance = max(1.0, REACH * radius_px) * self.scale
        side = 2 * round(max(1.0, REACH * radius_px)) + 1
        self.evidence = parallel(lambda each: np.ascontiguousarray(largest_around(each.evidence, side)), peaks, threads)
        #: (across, along) of every peak, one row a tilt, which of them are there and not claimed, and their order by `along`
        most = max(1, *(len(each.scores) for each in peaks))
        self.aligned, self.free = np.full((len(peaks), most, 2), np.inf), np.zeros((len(peaks), most), bool)
        for tilt, each in enumerate(peaks):
            self.aligned[tilt, : len(each.scores)] = geometry.aligned(tilt, images.places(each.indices))
            self.free[tilt, : len(each.scores)] = True
        self.order = np.argsort(self.aligned[..., 1], axis=1)

    def run(self) -> list[Point]:
        """Return all points; it looks once more for those that others hide, which are known then."""
        for _ in range(2):
            before = len(self.found)
            self._run_once()
            if len(self.found) == before:
                break
        return self.found

    def _run_once(self) -> None:
        """Find points from the free peaks, tilt by tilt."""
        order = np.argsort(-self.geometry.cosines, kind="stable")
        steps = np.unique(np.linspace(0, len(order) - 1, min(SEED_TILTS, len(order))).astype(int))
        for tilt in order[steps].tolist():
            seeds = np.flatnonzero(self.peaks[tilt].scores > SEED_SCORE)
            seeds = seeds[self.free[tilt][seeds]][:MAX_SEEDS]
            if seeds.size:
                self._from(tilt, seeds)

    def _from(self, tilt: int, seeds: Ints) -> None:
        """Find points on the lines through some peaks of a tilt, those with the most evidence first.

        Some are fitted at a time; what is found claims peaks, so that those after it are fitted again.
        """
        starts, evidence = self._best_heights(tilt, seeds)
        waiting = np.argsort(-evidence, kind="stable")
        waiting = waiting[evidence[waiting] >= 0.9 * MIN_SHARE * MIN_SCORE]     # what is enough below has as much in the mean
        number = 1
        while waiting.size:
            waiting = waiting[self.free[tilt][seeds[waiting]]]
            point, failed = self._first_fitted(starts[waiting[:number]])
            waiting = waiting[failed + (point is not None) :]
            if point is None:
                number = min(2 * number, AT_ONCE)
                continue
            number = 1
            self.found.append(point)
            self.free[point.tilts, point.peaks] = False

    def _best_heights(self, tilt: int, seeds: Ints) -> tuple[Doubles, Doubles]:
        """Return for every seed the place with the most evidence of all tilts, (n, 3), and how much that is."""
        reach = HEIGHT_A / self.images.pixel_A * self.scale
        steps = np.arange(-reach, reach + 1, 1.4 * self.tolerance)
        # lines are straight in all images but for local shifts, which change little from knot to knot
        knots = steps[0] + 1.4 * self.tolerance * PER_KNOT * np.arange(2 + (len(steps) - 1) // PER_KNOT)
        parts = np.array_split(seeds, min(self.threads, len(seeds)))
        means = parallel(lambda part: self._evidence(self._on_lines(tilt, part, knots), len(steps)), parts, self.threads)
        mean = np.concatenate(means)
        best = np.argmax(mean, axis=1)
        rows = np.arange(len(seeds))
        return self._on_lines(tilt, seeds, steps)[rows, best], mean[rows, best]

    def _on_lines(self, tilt: int, seeds: Ints, heights: Doubles) -> Doubles:
        """Return the points (n, heights, 3) that a tilt shows where its peaks are."""
        across, along = self.aligned[tilt][seeds].T
        x = (across[:, None] - heights * self.geometry.sines[tilt]) / self.geometry.cosines[tilt]
        return np.stack([x, np.broadcast_to(along[:, None], x.shape), np.broadcast_to(heights, x.shape)], axis=-1)

    def _evidence(self, knots: Doubles, places: int) -> Doubles:
        """Return the mean evidence of all tilts at `places` along lines (n, knots, 3), (n, places); 0 where few show them."""
        from tomostream.engine.gold.kernels import add_along

        total, count = np.zeros((len(knots), places)), np.zeros((len(knots), places), np.int64)
        for k, evidence in enumerate(self.evidence):
            index = np.ascontiguousarray(self.images.indices(self.geometry.place(k, knots)))
            add_along(evidence, index, PER_KNOT, self.margin, total, count)
        return np.where(count >= min(MIN_TILTS, len(self.peaks)), total / np.maximum(count, 1), 0)

    def _within(self, index: Doubles) -> NDArray[np.bool_]:
        """Tell whether indices (..., 2) of working images are within them."""
        ny, nx = self.images.shape
        inside = (index >= self.margin) & (index <= np.array([nx - 1, ny - 1]) - self.margin)
        return np.asarray(inside.all(axis=-1))

    def _first_fitted(self, starts: Doubles) -> tuple[Point | None, int]:
        """Return the first point near one of `starts` (n, 3) that fits free peaks of enough tilts, and how many before it fit
        none."""
        alive, positions, tolerance = np.arange(len(starts)), starts, 2 * self.tolerance
        for _ in range(5):
            peaks = self._matches(positions, tolerance)[0]
            enough = (peaks >= 0).sum(axis=1) >= 3
            alive, peaks = alive[enough], peaks[enough]
            positions, _ = solved_all(self.geometry.cosines, self.geometry.sines, self._seen(peaks), peaks >= 0)
            tolerance = max(self.tolerance, 0.7 * tolerance)
        for which, position, own, inside in zip(alive, positions, *self._matches(positions, self.tolerance), strict=True):
            tilts = np.flatnonzero(own >= 0)
            if len(tilts) < max(MIN_TILTS, MIN_SHARE_OF_ALL * np.count_nonzero(inside)):
                continue
            shown = np.flatnonzero(inside & ((own >= 0) | ~self._hidden(position)))
            if self._enough(tilts, shown):
                return self._point(tilts, own[tilts], shown), int(which)
        return None, len(starts)

    def _point(self, tilts: Ints, peaks: Ints, shown: Ints) -> Point:
        """Return the point that fits its peaks."""
        position, residuals = solved(self.geometry, tilts, self.aligned[tilts, peaks])
        score = float(np.mean([min(10.0, self.peaks[k].scores[p]) for k, p in zip(tilts, peaks, strict=True)]))
        return Point(position, tilts, peaks, shown, residuals, score)

    def _matches(self, positions: Doubles, tolerance: float) -> tuple[Ints, NDArray[np.bool_]]:
        """Return the free peaks (n, tilts) nearest to points (n, 3), -1 where none is near, and which tilts show their places."""
        from tomostream.engine.gold.kernels import nearest

        inside = self._within(self.images.indices(self.geometry.places(positions))).T
        x, y, z = positions.T
        across = np.multiply.outer(x, self.geometry.cosines) + np.multiply.outer(z, self.geometry.sines)
        expected = np.ascontiguousarray(np.stack([across, np.broadcast_to(y[:, None], across.shape)], axis=-1))
        found = np.empty(across.shape, np.int64)
        nearest(self.aligned, self.order, self.free, expected, tolerance, found)
        return np.where(inside, found, -1), inside

    def _seen(self, peaks: Ints) -> Doubles:
        """Return where peaks (n, tilts) are, (n, tilts, 2); 0 for those that are none."""
        places = self.aligned[np.arange(peaks.shape[1]), peaks]
        return np.where(peaks[..., None] >= 0, places, 0.0)

    def _hidden(self, position: Doubles) -> NDArray[np.bool_]:
        """Return in which tilts another point is so near that a peak of this one may be missing."""
        if not self.found:
            return np.zeros(len(self.peaks), bool)
        offsets = np.array([point.position for point in self.found]) - position
        across = np.multiply.outer(self.geometry.cosines, offsets[:, 0]) + np.multiply.outer(self.geometry.sines, offsets[:, 2])
        return np.asarray((np.hypot(across, offsets[:, 1]) < HIDDEN * self.margin * self.scale).any(axis=1))

    def _enough(self, tilts: Ints, shown: Ints) -> bool:
        """Tell whether a point is seen in enough of the tilts that show its place, and in every third of them by angle."""
        if len(tilts) < MIN_SHARE * len(shown):
            return False
        angles = np.degrees(np.arcsin(self.geometry.sines[tilts]))
        if np.ptp(angles) < MIN_SPAN_DEG:
            return False
        ordered = shown[np.argsort(-self.geometry.cosines[shown], kind="stable")]
        thirds = np.array_split(ordered, 3)
        return all(np.isin(third, tilts).mean() >= MIN_SHARE_OF_THIRD for third in thirds)


def solved(geometry: Geometry, tilts: Ints, seen: Doubles) -> tuple[Doubles, Doubles]:
    """Return the point that fits what is seen of it in some tilts; what is far off counts less.

    Parameters
    ----------
    geometry : Geometry
        Where the tilts go.
    tilts : ndarray of int, shape (n,)
        Those in which the point is seen.
    seen : ndarray, shape (n, 2)
        Where, (across, along) in the aligned image, raw px.

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
    positions, off = solved_all(geometry.cosines[tilts], geometry.sines[tilts], seen[None], np.ones((1, len(tilts)), bool))
    return positions[0], off[0]


def solved_all(cosines: Doubles, sines: Doubles, seen: Doubles, there: NDArray[np.bool_]) -> tuple[Doubles, Doubles]:
    """Return the points that fit what is seen of each, as `solved` does for one.

    Parameters
    ----------
    cosines, sines : ndarray, shape (tilts,)
        Of the tilt angles.
    seen : ndarray, shape (n, tilts, 2)
        Where every point is seen in each tilt, any number where it is not.
    there : ndarray of bool, shape (n, tilts)
        Where it is seen, for each point once at least.

    Returns
    -------
    positions : ndarray, shape (n, 3)
    residuals : ndarray, shape (n, tilts, 2)
    """
    weight, count = there.astype(np.float64), there.sum(axis=1)
    middle = np.stack([(count - 1) // 2, count // 2], axis=1)
    for _ in range(4):
        # 1e-6: tilts of one angle give no height
        a, b, c = weight @ cosines**2 + 1e-6, weight @ (cosines * sines), weight @ sines**2 + 1e-6
        across = weight * seen[..., 0]
        p, q = across @ cosines, across @ sines
        determinant: Doubles = a * c - b * b
        x, z = (c * p - b * q) / determinant, (a * q - b * p) / determinant
        y = (weight * seen[..., 1]).sum(axis=1) / weight.sum(axis=1)
        expected = np.multiply.outer(x, cosines) + np.multiply.outer(z, sines)
        residuals = seen - np.stack([expected, np.broadcast_to(y[:, None], expected.shape)], axis=-1)
        length = np.hypot(residuals[..., 0], residuals[..., 1])
        ordered = np.sort(np.where(there, length, np.inf), axis=1)
        median = np.take_along_axis(ordered, middle, axis=1).mean(axis=1)
        weight = there / (1 + (length / np.maximum(2 * median, 1e-6)[:, None]) ** 2)
    return np.stack([x, y, z], axis=1), residuals
