# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be acquired: the plan, its exposures in time, and the truth known before the first movie."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tomostream.simulator.faults import Faults
from tomostream.simulator.layout import LAYOUTS, NAMES, camera_name, name_on_disk
from tomostream.simulator.schemes import SCHEMES, acquisition_order

FORMATS = ("tif", "mrc")
WRITES = ("atomic", "slow", "frames")


@dataclass(frozen=True)
class Plan:
    """An acquisition. Lengths in px of the movie unless stated, angles in degrees, times in s, doses in e/A2.

    `size` is (nx, ny). `tilt_axis` follows IMOD: rotation of the tilt axis from the y axis; the mdoc gives it with
    `axis_error` added, rounded to 0.1 degrees as SerialEM does. `dose` is that of one tilt, shared by its `frames`.
    `interval` is the time from one exposure to the next, 0 for as fast as possible. `write`: movies appear whole
    (atomic), grow in place (slow), or grow by whole frames, each time a valid movie (frames). `max_shift` is the
    largest tracking error of any tilt, `drift` the typical path of the specimen during one exposure. `defocus` in
    um, positive for underfocus, None for no CTF. `thickness` in A; `pre_tilt` tilts the slab about the tilt axis. `gold` is the
    number of beads of `gold_diameter` A in the field of every series. `layout` and `names` are those of `simulator.layout`.
    """

    series: int = 1
    tilts: int = 41
    frames: int = 8
    size: tuple[int, int] = (512, 512)
    pixel_size: float = 6.0
    interval: float = 0.0
    scheme: str = "dose-symmetric"
    interleave: bool = False
    format: str = "tif"
    seed: int = 0
    dose: float = 3.0
    tilt_step: float = 3.0
    tilt_axis: float = 84.7
    axis_error: float = 0.0
    start_delay: float = 0.0
    write: str = "atomic"
    rewrite: bool = False
    half1: bool = False
    voltage: float = 300.0
    defocus: float | None = 4.0
    thickness: float = 1300.0
    pre_tilt: float = 0.0
    gold: int = 0
    gold_diameter: float = 100.0
    max_shift: float = 12.0
    drift: float = 3.0
    prefix: str = "TS"
    layout: str = "standard"
    names: str = "exact"
    faults: Faults = field(default_factory=Faults)

    def check(self) -> None:
        """Raise ValueError with a sentence if the plan cannot be acquired."""
        self._check_choices()
        for name in ("series", "tilts", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"The number of {name} must be at least 1; it is {getattr(self, name)}.")
        if self.gold < 0:
            raise ValueError(f"The number of gold beads cannot be below 0; it is {self.gold}.")
        for name in ("pixel_size", "dose", "tilt_step", "voltage", "thickness", "gold_diameter"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"The {name.replace('_', ' ')} must be above 0; it is {getattr(self, name):g}.")
        for name in ("interval", "start_delay", "max_shift", "drift"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"The {name.replace('_', ' ')} cannot be below 0; it is {getattr(self, name):g}.")
        for name in ("tilt_axis", "axis_error", "pre_tilt"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"The {name.replace('_', ' ')} must be a number; it is {getattr(self, name):g}.")
        if self.defocus is not None and not math.isfinite(self.defocus):
            raise ValueError(f"The defocus must be a number; it is {self.defocus:g}.")
        if self.seed < 0:
            raise ValueError(f"The seed cannot be below 0; it is {self.seed}.")
        if min(self.size) < 32:
            raise ValueError(f"The images must be at least 32 px wide and high; the size is {self.size}.")
        if self.max_angle > 80:
            raise ValueError(
                f"{self.tilts} tilts every {self.tilt_step:g} degrees reach {self.max_angle:g} degrees; "
                "a stage reaches 80: take fewer tilts or a smaller step.")  # fmt: skip
        self.faults.check(self.series, self.tilts)

    def _check_choices(self) -> None:
        for name, choices in (("scheme", SCHEMES), ("format", FORMATS), ("write", WRITES),
                              ("layout", tuple(LAYOUTS)), ("names", tuple(NAMES))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{getattr(self, name)!r} is not a {name}: choose one of {', '.join(choices)}.")
        if self.half1 and self.scheme != "bidirectional":
            raise ValueError("--half1 is what SerialEM does at the turn of a bidirectional series: add that scheme.")

    @property
    def max_angle(self) -> float:
        """Largest tilt angle in degrees."""
        return max(abs(angle) for angle in acquisition_order("unidirectional", self.tilts, self.tilt_step))


@dataclass(frozen=True)
class TiltTruth:
    """The truth of one tilt. `shift` is None if it is unknown (a replayed series).

    `shift` is AreTomo's: raw = R(tilt axis) aligned + shift, px of the raw image from its centre (`projector`). It is
    that of the frame in the middle (index frames // 2), which MotionCor takes as its reference: the shift of the
    aligned sum. `drift` is the displacement of every frame from the first. y counts up from row 0 of an MRC image,
    which is the last row of a TIFF.
    """

    movie: str
    angle: float
    order: int
    shift: tuple[float, float] | None
    drift: tuple[tuple[float, float], ...]
    dose: float
    prior_dose: float

    def frame_displacement(self, frame: int) -> tuple[float, float]:
        """Return the displacement of a frame (from 0) in px from the middle frame."""
        middle = self.drift[len(self.drift) // 2]
        return self.drift[frame][0] - middle[0], self.drift[frame][1] - middle[1]


@dataclass(frozen=True)
class SeriesTruth:
    """The truth of one series; `tilts` in acquisition order. `tilt_axis` is None if it is unknown. `folder` of its movies,
    below that of the acquisition."""

    id: str
    tilt_axis: float | None
    tilts: tuple[TiltTruth, ...]
    folder: str = "frames"


@dataclass(frozen=True)
class Exposure:
    """One exposure: series and tilt (acquisition order) from 0, its place in time, and the tilt as truth.

    `replaced`: it is repeated later, so its movie stays, and its section goes. `camera` is the name of its movie in the mdoc; the
    truth has the name on disk.
    """

    series: int
    tilt: int
    slot: int
    truth: TiltTruth
    nominal: float
    replaced: bool = False
    camera: str = ""


def schedule(truths: Sequence[Sequence[TiltTruth]], ids: Sequence[str], nominals: Sequence[Sequence[float]],
             plan: Plan) -> list[Exposure]:
    """Return all exposures in order of time: one series after the other or, interleaved, all series at one tilt, then the next.

    A repeated exposure comes right after the one it replaces; the specimen receives the dose of both.
    """
    rounds = [(series, tilt) for tilt in range(plan.tilts) for series in range(len(ids))]
    pairs = rounds if plan.interleave else sorted(rounds)
    number, wasted = [0] * len(ids), [0.0] * len(ids)
    exposures: list[Exposure] = []
    for series, tilt in pairs:
        repeated = plan.faults.of("reacquired", series + 1, tilt + 1) is not None
        for replaced in (True, False) if repeated else (False,):
            number[series] += 1
            truth, nominal = truths[series][tilt], nominals[series][tilt]
            camera = camera_name(plan.layout, plan.names, ids[series], number[series], nominal, plan.format)
            name = name_on_disk(plan.names, camera, nominal, truth.angle, plan.format)
            truth = replace(truth, movie=name, order=tilt + 1, prior_dose=truth.prior_dose + wasted[series])
            exposures.append(Exposure(series, tilt, len(exposures), truth, nominal, replaced, camera))
            wasted[series] += truth.dose if replaced else 0.0
    return exposures


def truth_document(pixel_size: float, series: Sequence[SeriesTruth]) -> str:
    """Return the text of `truth.json`."""
    document = {"pixel_size_A": pixel_size, "series": [_series_document(one) for one in series]}
    return json.dumps(document, indent=1) + "\n"


def _series_document(series: SeriesTruth) -> dict[str, object]:
    tilts = [
        {
            "movie": tilt.movie if series.folder == "frames" else f"{series.folder}/{tilt.movie}",
            "angle_deg": tilt.angle,
            "acquisition_order": tilt.order,
            "shift_px": None if tilt.shift is None else [round(value, 4) for value in tilt.shift],
            "drift_px": [[round(value, 4) for value in frame] for frame in tilt.drift],
            "dose_e_per_A2": tilt.dose,
            "prior_dose_e_per_A2": round(tilt.prior_dose, 4),
        }
        for tilt in series.tilts
    ]
    return {"id": series.id, "tilt_axis_deg": series.tilt_axis, "tilts": tilts}
