# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the pictures come from: a scene knows the truth of every series and renders the frames of an exposure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tomostream.simulator import movies
from tomostream.simulator.gold import gold_contrast
from tomostream.simulator.layout import Place, places
from tomostream.simulator.plan import Exposure, Plan, SeriesTruth, TiltTruth, schedule
from tomostream.simulator.projector import Optics, project_points, projection_spectrum
from tomostream.simulator.schemes import acquisition_order
from tomostream.simulator.specimen import MARKS, Specimen, make_specimen


class Scene(Protocol):
    """What the writer needs from a simulated or replayed acquisition."""

    plan: Plan
    ids: list[str]
    places: list[Place]
    exposures: list[Exposure]

    def truth(self) -> list[SeriesTruth]:
        """Return the truth of every series, as it will be listed in the mdocs."""

    def about(self) -> dict[str, object]:
        """Return what is on the grid, for `specimen.json`."""

    def render(self, exposure: Exposure) -> NDArray[np.integer]:
        """Return the counts (frames, rows, columns) of an exposure, row 0 at the bottom."""


def kept_truth(exposures: list[Exposure], series: int) -> tuple[TiltTruth, ...]:
    """Return the tilts of a series (from 0) in acquisition order, without exposures that were repeated."""
    return tuple(exposure.truth for exposure in exposures if exposure.series == series and not exposure.replaced)


class SimulatedScene:
    """Cells in ice: one specimen per series, all from the seed of the plan.

    `make` returns the specimen of a series (from 0), by default `series_specimen`.
    """

    def __init__(self, plan: Plan, make: Callable[[Plan, int], Specimen] | None = None) -> None:
        plan.check()
        self.plan = plan
        self._make = make or series_specimen
        self.places = places(plan.layout, plan.prefix, plan.series)
        self.ids = [place.name for place in self.places]
        angles = acquisition_order(plan.scheme, plan.tilts, plan.tilt_step)
        truths = [_tilt_truths(plan, angles, series) for series in range(plan.series)]
        self.exposures = schedule(truths, self.ids, [angles] * plan.series, plan)
        self._specimens: dict[int, Specimen] = {}

    def truth(self) -> list[SeriesTruth]:
        axis = self.plan.tilt_axis
        return [SeriesTruth(place.name, axis, kept_truth(self.exposures, index), place.movies)
                for index, place in enumerate(self.places)]

    def about(self) -> dict[str, object]:
        marks = {name: {"from_A": start, "to_A": end} for name, (start, end) in MARKS.items()}
        gold = {name: series_beads(self.plan, index).round(2).tolist() for index, name in enumerate(self.ids)}
        beads = {"diameter_A": self.plan.gold_diameter, "places_A": gold}
        return {"marks": marks, "thickness_A": self.plan.thickness} | ({"gold": beads} if self.plan.gold else {})

    def render(self, exposure: Exposure) -> NDArray[np.integer]:
        rng = np.random.default_rng([self.plan.seed, exposure.series, exposure.slot, 2])
        frames = np.empty((self.plan.frames, *self.plan.size[::-1]), np.uint16)
        expected: Iterable[NDArray[np.float32] | float] = self.expected(exposure)
        if self.plan.faults.of("dark", exposure.series + 1, exposure.tilt + 1):
            expected = [0.02 * self._flux(exposure) / self.plan.frames] * self.plan.frames
        for index, mean in enumerate(expected):
            frames[index] = np.minimum(rng.poisson(mean, frames.shape[1:]), 65535)
        return frames

    def expected(self, exposure: Exposure) -> Iterator[NDArray[np.float32]]:
        """Yield the expected counts (rows, columns) of each frame, without counting noise."""
        shape, crop = self._padded(), (self.plan.size[1], self.plan.size[0])
        truth, flux = exposure.truth, self._flux(exposure) / self.plan.frames
        shift = truth.shift or (0.0, 0.0)
        spectrum = self._spectrum(self.specimen(exposure.series), truth.angle, shift)
        if self.plan.gold:
            spectrum = spectrum + self._gold(exposure.series, truth.angle, shift)
        for index in range(self.plan.frames):
            contrast = movies.shifted_image(spectrum, shape, truth.frame_displacement(index), crop)
            yield np.maximum(flux * (1 - contrast), 0)

    def _flux(self, exposure: Exposure) -> float:
        """Return the mean counts per pixel in the sum of the frames."""
        plan, truth = self.plan, exposure.truth
        return movies.electrons_per_pixel(truth.dose, plan.pixel_size, plan.thickness, truth.angle)

    def specimen(self, series: int) -> Specimen:
        """Return the specimen of a series (from 0). All are kept, because interleaved series take turns."""
        if series not in self._specimens:
            self._specimens[series] = self._make(self.plan, series)
        return self._specimens[series]

    def _optics(self) -> Optics:
        return Optics(None if self.plan.defocus is None else self.plan.defocus * 1e4, self.plan.voltage)

    def _gold(self, series: int, tilt: float, shift: tuple[float, float]) -> NDArray[np.complex64]:
        """Return the transform of what the beads of a series remove."""
        plan, (rows, columns) = self.plan, self._padded()
        x, y = project_points(series_beads(plan, series), plan.pixel_size, tilt, plan.tilt_axis, shift)
        places = zip((x + (columns - 1) / 2).tolist(), (y + (rows - 1) / 2).tolist(), strict=True)
        seen = gold_contrast((rows, columns), places, plan.gold_diameter, plan.pixel_size, self._optics())
        return np.asarray(scipy.fft.rfft2(seen), np.complex64)

    def _spectrum(self, specimen: Specimen, tilt: float, shift: tuple[float, float]) -> NDArray[np.complex64]:
        plan = self.plan
        spectrum = projection_spectrum(
            specimen, self._padded(), plan.pixel_size, tilt, plan.tilt_axis, shift, self._optics())  # fmt: skip
        spectrum[0, 0] = 0  # what the slab removes on average is in its transmission
        return spectrum

    def _padded(self) -> tuple[int, int]:
        """Return rows and columns with a margin for drift and for the wrap-around of the CTF."""
        margin = 32 + 2 * math.ceil(2 * self.plan.drift)
        nx, ny = self.plan.size
        return _fast_length(ny, margin), _fast_length(nx, margin)


def _fast_length(length: int, margin: int) -> int:
    """Return a length that is fast to transform, at least `margin` px longer, and odd or even like `length`."""
    longer: int = scipy.fft.next_fast_len(length + margin, real=True)
    while (longer - length) % 2:
        longer = scipy.fft.next_fast_len(longer + 1, real=True)
    return longer


def series_specimen(plan: Plan, series: int) -> Specimen:
    """Return a slab wide enough to fill the images at every tilt up to 70 degrees."""
    axis = math.radians(plan.tilt_axis)
    nx, ny = (length + 2 * plan.max_shift + 64 for length in plan.size)
    across = (nx * abs(math.cos(axis)) + ny * abs(math.sin(axis))) * plan.pixel_size
    along = (nx * abs(math.sin(axis)) + ny * abs(math.cos(axis))) * plan.pixel_size
    steepest = math.radians(min(plan.max_angle + abs(plan.pre_tilt), 70.0))
    extent = across / math.cos(steepest) + plan.thickness * math.tan(steepest)
    rng = np.random.default_rng([plan.seed, series, 0])
    return make_specimen(rng, extent, along, plan.thickness, plan.pre_tilt)


def series_beads(plan: Plan, series: int) -> NDArray[np.float64]:
    """Return the centres of the gold beads (n, 3) of a series in A, in the frame of `Specimen`: in the field of the untilted
    image, not overlapping if there is room."""
    rng, axis, pre = np.random.default_rng([plan.seed, series, 3]), math.radians(plan.tilt_axis), math.radians(plan.pre_tilt)
    field = np.array([*(0.9 * length * plan.pixel_size for length in plan.size), max(0.0, plan.thickness - plan.gold_diameter)])
    found = np.zeros((0, 3))
    for _ in range(100 * plan.gold):
        place = (rng.random(3) - 0.5) * field
        if len(found) < plan.gold and (np.linalg.norm(found - place, axis=1) > 1.2 * plan.gold_diameter).all():
            found = np.vstack([found, place])
    across = found[:, 0] * math.cos(axis) + found[:, 1] * math.sin(axis)
    along = found[:, 1] * math.cos(axis) - found[:, 0] * math.sin(axis)
    return np.stack([across * math.cos(pre) + found[:, 2] * math.sin(pre), along,
                     found[:, 2] * math.cos(pre) - across * math.sin(pre)], axis=1)


def _tilt_truths(plan: Plan, angles: list[float], series: int) -> list[TiltTruth]:
    """Return the truth of every tilt in acquisition order: stage read-back, tracking error, drift and doses."""
    rng = np.random.default_rng([plan.seed, series, 1])
    readback = [float(f"{angle + rng.normal(scale=0.006):g}") for angle in angles]  # the six digits of an mdoc
    shifts = _tracking(rng, plan)
    return [
        TiltTruth("", readback[index], index + 1, shifts[index], movies.drift_path(rng, plan.frames, plan.drift),
                  plan.dose, plan.dose * index)
        for index in range(plan.tilts)
    ]  # fmt: skip


def _tracking(rng: np.random.Generator, plan: Plan) -> list[tuple[float, float]]:
    """Return shifts in px: a random walk in time with jitter, 0 at the first exposure, `max_shift` at the worst."""
    walk = np.cumsum(rng.normal(size=(plan.tilts, 2)), axis=0) + rng.normal(scale=0.7, size=(plan.tilts, 2))
    walk -= walk[0]
    longest = float(np.hypot(*walk.T).max())
    scale = plan.max_shift / longest if longest > 0 else 0.0
    return [(round(float(x), 4), round(float(y), 4)) for x, y in walk * scale]


