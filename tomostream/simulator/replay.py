# SPDX-License-Identifier: GPL-3.0-or-later
"""Replays a real tilt series as an acquisition: one motion-corrected image per tilt is turned into a movie again.

The image is scaled to counts and split into frames by multinomial thinning: every electron falls into one frame at
random, all equally likely, so that the frames sum to the image exactly. If the image is Poisson-distributed, so are the frames,
which are then independent. The scale is therefore the one at which the noise of the images has the variance of their mean. Every
frame is then moved by a known drift of whole pixels, wrapping around the edges, which preserves the counts.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tomostream.files.mrc import open_mrc
from tomostream.simulator import movies
from tomostream.simulator.layout import places
from tomostream.simulator.plan import Exposure, Plan, SeriesTruth, TiltTruth, schedule
from tomostream.simulator.scene import kept_truth

COLUMNS = ("section", "tilt_angle_deg", "prior_dose_e_per_A2", "acquisition_order")


@dataclass(frozen=True)
class Section:
    """One row of the table of tilts: section of the stack (from 0), angle (degrees), pre-exposure (e/A2), order."""

    section: int
    angle: float
    prior_dose: float
    order: int


def read_tilts(path: str | Path) -> list[Section]:
    """Read the table of tilts, sorted by acquisition order. Raises ValueError with a sentence if it is not one."""
    form = f"expected a header {','.join(COLUMNS)} and one row per tilt"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        sections = [Section(int(row[COLUMNS[0]]), float(row[COLUMNS[1]]), float(row[COLUMNS[2]]), int(row[COLUMNS[3]]))
                    for row in rows]  # fmt: skip
    except OSError as error:
        raise ValueError(f"The table of tilts {path} cannot be read: {error.strerror}.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"The table of tilts {path} is not understood ({error}): {form}.") from error
    if not sections:
        raise ValueError(f"The table of tilts {path} is empty: {form}.")
    return sorted(sections, key=lambda one: one.order)


def read_stack(path: str | Path) -> tuple[NDArray[np.floating], float]:
    """Return the sections (n, rows, columns) and the pixel size in A. Raises ValueError with a sentence."""
    try:
        stack = open_mrc(str(path))
        return np.asarray(stack), stack.pixel_size_A
    except (OSError, ValueError) as error:
        raise ValueError(f"The stack {path} cannot be read: {error}.") from error


def counts_scale(stack: NDArray[np.floating]) -> float:
    """Return the constant that makes the noise of the images Poisson: mean / variance, the variance from high frequencies.

    The median over the sections; above 0.4 cycles/px there is next to nothing but noise.
    """
    scales = []
    for image in stack:
        rows, columns = image.shape
        power = np.abs(scipy.fft.rfft2(image - image.mean())) ** 2 / image.size
        radius = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None])
        variance = float(power[(radius > 0.4) & (radius < 0.5)].mean())
        if variance > 0 and image.mean() > 0:
            scales.append(float(image.mean()) / variance)
    return float(np.median(scales)) if scales else 1.0


def thin(rng: np.random.Generator, counts: NDArray[np.integer], frames: int) -> NDArray[np.integer]:
    """Split an image of counts into `frames` images (frames, rows, columns) that sum to it exactly."""
    left, parts = counts.copy(), []
    for remaining in range(frames, 1, -1):
        part = rng.binomial(left, 1 / remaining)
        parts.append(part)
        left = left - part
    return np.stack([*parts, left])


class ReplayScene:
    """A real tilt series as an acquisition. The tilt axis and the shifts of a real series are unknown."""

    def __init__(self, plan: Plan, stack_path: str | Path, tilts_path: str | Path, dose: float | None = None,
                 pixel_size: float | None = None) -> None:
        sections = read_tilts(tilts_path)
        stack, in_header = read_stack(stack_path)
        highest = max(one.section for one in sections)
        if highest >= len(stack):
            raise ValueError(f"{tilts_path} names section {highest}; {stack_path} has {len(stack)}, from 0.")
        size = pixel_size if pixel_size is not None else in_header
        if size <= 0:
            raise ValueError(f"The header of {stack_path} has no pixel size: give it with --pixel-size.")
        angles = [one.angle for one in sections]
        self.plan = replace(
            plan, series=1, tilts=len(sections), size=(stack.shape[2], stack.shape[1]), pixel_size=size,
            dose=dose if dose is not None else _dose(sections), tilt_step=_step(angles))  # fmt: skip
        self.plan.check()
        self.ids = [Path(stack_path).name.split(".")[0]]
        self.places = [replace(places(self.plan.layout, self.plan.prefix, 1)[0], name=self.ids[0])]
        self._path = Path(stack_path)
        self._stack, self._sections, self._scale = stack, sections, counts_scale(stack)
        self.exposures = schedule([self._tilt_truths()], self.ids, [angles], self.plan)

    def _tilt_truths(self) -> list[TiltTruth]:
        rng = np.random.default_rng([self.plan.seed, 0, 1])
        truths = []
        for index, section in enumerate(self._sections):
            path = movies.drift_path(rng, self.plan.frames, self.plan.drift)
            whole = tuple((float(round(x)), float(round(y))) for x, y in path)
            truths.append(TiltTruth("", section.angle, index + 1, None, whole, self.plan.dose, section.prior_dose))
        return truths

    def truth(self) -> list[SeriesTruth]:
        return [SeriesTruth(self.ids[0], None, kept_truth(self.exposures, 0), self.places[0].movies)]

    def about(self) -> dict[str, object]:
        return {"stack": self._path.name, "counts_per_value": self._scale}

    def counts(self, exposure: Exposure) -> NDArray[np.integer]:
        """Return the image of a tilt in counts (rows, columns)."""
        image = self._stack[self._sections[exposure.tilt].section]
        return np.maximum(np.rint(image * self._scale), 0).astype(np.int64)

    def render(self, exposure: Exposure) -> NDArray[np.integer]:
        rng = np.random.default_rng([self.plan.seed, exposure.slot, 2])
        if self.plan.faults.of("dark", 1, exposure.tilt + 1):
            return rng.poisson(0.05, (self.plan.frames, *self._stack.shape[1:]))
        frames = thin(rng, self.counts(exposure), self.plan.frames)
        for index, frame in enumerate(frames):
            x, y = exposure.truth.frame_displacement(index)
            frames[index] = np.roll(frame, (round(y), round(x)), axis=(0, 1))
        return frames


def _dose(sections: list[Section]) -> float:
    """Return the dose of a tilt in e/A2: the usual increase of the pre-exposure from one exposure to the next."""
    steps = np.diff([one.prior_dose for one in sections])
    dose = float(np.median(steps)) if len(steps) else 0.0
    if dose <= 0:
        raise ValueError("The pre-exposures in the table of tilts do not grow: give the dose per tilt with --dose.")
    return dose


def _step(angles: list[float]) -> float:
    """Return the usual difference between neighbouring tilt angles, degrees."""
    return round(float(np.median(np.diff(sorted(angles)))), 2) if len(angles) > 1 else 3.0
