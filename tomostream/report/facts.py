# SPDX-License-Identifier: GPL-3.0-or-later
"""All figures of one series, from the ledgers, the sidecar of its stack, and the files of its alignment."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, TypeVar

from tomostream.files.logs import first_words
from tomostream.journal import entries, versions
from tomostream.journal.composed import TiltRecord, read_record
from tomostream.journal.status import MovieStatus, ProjectStatus, SeriesStatus, State, number
from tomostream.programs import aretomo as files
from tomostream.programs.aln import AlnError, parse_aln, raw_sections
from tomostream.programs.ctf import CtfRow, ctf_sections, parse_ctf
from tomostream.programs.quality import Trust, parse_quality

T = TypeVar("T")


@dataclass(frozen=True)
class TiltFacts:
    """One tilt. None is unknown. Shifts and sigma in px of the raw image, drift in px of the movie, doses in e/A2.

    `section`: 0-based in the stack, None for a tilt not in it. `defocus_um`: mean of both axes, underfocus positive;
    `target_defocus_um`: as set at the microscope. `residual_px`: distance from its position to where it fits the prediction of
    the other tilts best; `sigma_px`: the uncertainty of its position. `counts_part`: mean counts relative to what the cosine of
    the tilt predicts. `command`: the command line that aligned its movie.
    """

    movie: str
    angle_deg: float
    section: int | None = None
    order: int | None = None
    used: bool = True
    reason: str = ""
    dose_e_A2: float | None = None
    prior_dose_e_A2: float | None = None
    sigma_px: float | None = None
    rot_deg: float | None = None
    tx: float | None = None
    ty: float | None = None
    drift_px: float | None = None
    drift_A: float | None = None
    defocus_um: float | None = None
    target_defocus_um: float | None = None
    residual_px: float | None = None
    command: str = ""
    astigmatism_um: float | None = None
    ctf_resolution_A: float | None = None
    mean_counts: float | None = None
    counts_part: float | None = None


@dataclass(frozen=True)
class SeriesFacts:
    """One series. None is unknown. Times in seconds since the epoch, lengths in the unit of the name. `pending`: decisions by a
    person on its tilts that its newest version does not show yet."""

    series_id: str
    name: str = ""
    state: State = "acquiring"
    reason: str = ""
    version: int = 0
    tilts_expected: int | None = None
    tilts_seen: int = 0
    tilts_aligned: int = 0
    tilts_used: int | None = None
    tilt_axis_deg: float | None = None
    tilt_axis_source: str = ""
    tilt_offset_deg: float | None = None
    thickness_A: float | None = None
    resolution_xy_A: float | None = None
    resolution_z_A: float | None = None
    gold_beads: int | None = None
    gold_residual_px: float | None = None
    quality: float | None = None
    quality_note: str = ""
    trust: Trust = Trust.UNKNOWN
    local_note: str = ""
    ctf_note: str = ""
    programs: tuple[str, ...] = ()
    pixel_size_A: float | None = None
    voltage_kV: float | None = None
    tilts: tuple[TiltFacts, ...] = ()
    warnings: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    mdocs: tuple[str, ...] = ()
    tilt_series: str | None = None
    tomogram: str | None = None
    z_first: bool | None = None
    folder: str | None = None
    times: Mapping[str, float | None] | None = None
    latency_s: float | None = None
    pending: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ("done", "failed")

    @property
    def dose_e_A2(self) -> float | None:
        """Dose of the whole series, including its last exposure."""
        totals = [tilt.prior_dose_e_A2 + tilt.dose_e_A2 for tilt in self.tilts
                  if tilt.prior_dose_e_A2 is not None and tilt.dose_e_A2 is not None]
        return max(totals) if totals else None

    @property
    def median_defocus_um(self) -> float | None:
        """Median over the tilts up to 45 degrees, where the defocus varies little across the image."""
        values = [tilt.defocus_um for tilt in self.tilts if tilt.defocus_um is not None and abs(tilt.angle_deg) <= 45]
        return median(values) if values else None

    @property
    def target_defocus_um(self) -> float | None:
        """Median over the tilts of the defocus set at the microscope."""
        values = [tilt.target_defocus_um for tilt in self.tilts if tilt.target_defocus_um is not None]
        return median(values) if values else None

    @property
    def least_tilt(self) -> TiltFacts | None:
        """The used tilt nearest to 0 degrees."""
        return min((tilt for tilt in self.tilts if tilt.used), key=lambda tilt: abs(tilt.angle_deg), default=None)

    @property
    def worst_tilt(self) -> TiltFacts | None:
        """The used tilt with the most uncertain shift."""
        known = [tilt for tilt in self.tilts if tilt.used and tilt.sigma_px is not None]
        return max(known, key=lambda tilt: tilt.sigma_px or 0.0) if known else None

    def signature(self) -> list[Any]:
        """Return a value that changes whenever the pictures and plots must be made again."""
        return [self.version, self.state, self.reason, (self.times or {}).get("reconstructed")]


def series_facts(status: ProjectStatus, series: SeriesStatus) -> SeriesFacts:
    """Return what the ledgers say about a series; opens no file."""
    made = series.result or entries.Reconstructed()
    return SeriesFacts(
        series.id, series.name or series.id, series.state, series.reason, series.version, series.tilts_expected,
        series.tilts_seen, series.tilts_aligned, series.tilts_used, series.tilt_axis_deg, tilt_offset_deg=made.tilt_offset,
        thickness_A=made.thickness_A, resolution_xy_A=made.resolution_xy_A, resolution_z_A=made.resolution_z_A,
        gold_beads=made.gold_beads, gold_residual_px=made.gold_residual_px,
        quality=made.quality, quality_note=made.quality_note, trust=made.trust,
        local_note=made.local_note, commands=made.commands, tilt_series=series.tilt_series, tomogram=series.tomogram,
        z_first=made.z_first,
        folder=os.path.join(status.project, made.folder) if made.folder else None, times=status.times(series),
        latency_s=status.latency_s(series))


def with_files(facts: SeriesFacts, movies: Mapping[str, MovieStatus],
               left_out: tuple[entries.LeftOut, ...]) -> SeriesFacts:
    """Add the facts of the movies, the sidecar of the stack, and the files of the alignment.

    Raises
    ------
    ValueError : the sidecar is invalid; names the file and the key.
    """
    record = read_record(os.path.splitext(facts.tilt_series)[0] + ".json") if facts.tilt_series else None
    tilts = [_tilt(section, tilt) for section, tilt in enumerate(record.tilts)] if record else []
    known = [movies.get(tilt.movie, MovieStatus()) for tilt in tilts]
    tilts = [replace(tilt, drift_px=movie.drift_px, drift_A=drift_A(movie), command=movie.command_line)
             for tilt, movie in zip(tilts, known, strict=True)]
    facts = replace(facts, programs=tuple(dict.fromkeys(movie.program for movie in known if movie.program)))
    if record is not None:
        facts = replace(facts, tilt_axis_source=record.tilt_axis_source, voltage_kV=record.voltage, warnings=record.warnings,
                        mdocs=record.mdocs)
    if facts.folder and facts.state == "done":
        facts, tilts = _with_alignment(facts, tilts)
    tilts += [TiltFacts(left.movie, left.angle, used=False, reason=left.reason) for left in left_out if left.angle is not None]
    unknown = tuple(f"{left.movie or 'a tilt'} at an unknown angle is not used: {left.reason}" for left in left_out
                    if left.angle is None)
    return replace(facts, tilts=tuple(tilts), warnings=facts.warnings + unknown)


def drift_A(movie: MovieStatus) -> float | None:
    """Return the length of the path of the frames in A; None if it or the pixel size is unknown."""
    drift, pixel = number(movie.drift_px), number(movie.pixel_size_A)
    return None if drift is None or pixel is None else drift * pixel


def _tilt(section: int, tilt: TiltRecord) -> TiltFacts:
    return TiltFacts(tilt.movie, tilt.angle, section, tilt.order, dose_e_A2=tilt.dose, prior_dose_e_A2=tilt.prior_dose,
                     target_defocus_um=tilt.target_defocus)


def _with_alignment(facts: SeriesFacts, tilts: list[TiltFacts]) -> tuple[SeriesFacts, list[TiltFacts]]:
    stem = os.path.join(facts.folder or "", facts.series_id)
    out = files.OutputFiles.of(f"{stem}.mrcs", f"{stem}.mrc")
    quality = parsed(out.quality, parse_quality)
    aln = parsed(out.aln, parse_aln)
    ctf = parsed(out.ctf_text, parse_ctf) or ()
    if quality is not None:
        facts = replace(facts, ctf_note=quality.ctf_note)
        for each in quality.tilts:
            if each.section < len(tilts):
                tilts[each.section] = replace(tilts[each.section], used=each.used, reason=each.reason,
                                              sigma_px=number(each.sigma_px), residual_px=number(each.residual_px))
    program = quality.program if quality is not None and quality.program else \
        versions.of_program(facts.commands[0], first_words(f"{stem}.log")) if facts.commands else ""
    facts = replace(facts, programs=tuple(dict.fromkeys([*facts.programs, *([program] if program else [])])))
    if aln is None:
        return facts, tilts
    try:
        sections, dark = raw_sections(aln, len(tilts))
    except AlnError:
        return facts, tilts
    for section in dark:
        if 0 <= section < len(tilts):
            reason = tilts[section].reason or "excluded by the program (dark)"
            tilts[section] = replace(tilts[section], used=False, reason=reason)
    of_ctf = dict(zip(ctf_sections(len(ctf), sections, len(tilts)), ctf, strict=False))
    for section, row in zip(sections, aln.rows, strict=True):
        if 0 <= section < len(tilts):
            tilts[section] = replace(tilts[section], rot_deg=number(row.rot_deg), tx=number(row.tx), ty=number(row.ty),
                                     **_ctf_of(of_ctf.get(section)))
    return facts, tilts


def _ctf_of(row: CtfRow | None) -> dict[str, Any]:
    if row is None or not math.isfinite(row.defocus_max_A + row.defocus_min_A) or row.defocus_max_A <= 0:
        return {}
    return {"defocus_um": (row.defocus_max_A + row.defocus_min_A) / 2e4,
            "astigmatism_um": (row.defocus_max_A - row.defocus_min_A) / 1e4,
            "ctf_resolution_A": None if row.resolution_A is None else number(row.resolution_A)}


def parsed(path: str, parse: Callable[[str, str], T]) -> T | None:
    """Parse a text file of the program; None if it is missing or invalid (the protocol has checked it before)."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return parse(file.read(), os.path.basename(path))
    except (OSError, AlnError):
        return None


def read_json(path: str) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def to_json(facts: SeriesFacts) -> dict[str, Any]:
    """Return the facts as plain values for JSON."""
    return asdict(facts)


def from_json(data: Mapping[str, Any]) -> SeriesFacts:
    """Invert `to_json`. Raises TypeError or KeyError for data of another version."""
    values = dict(data)
    values["tilts"] = tuple(TiltFacts(**tilt) for tilt in values["tilts"])
    values["trust"] = Trust(values["trust"])
    for name in ("warnings", "commands", "mdocs", "programs"):
        values[name] = tuple(values[name])
    return SeriesFacts(**values)
