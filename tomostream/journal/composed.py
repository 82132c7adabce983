# SPDX-License-Identifier: GPL-3.0-or-later
"""The composed series of a project and the sidecars of their stacks, which only this module reads and writes. No Scipion.

A sidecar says what a stack is made of. Unknown keys are ignored; a wrong value is an error that names its key.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal

import msgspec

from tomostream.acquisition.events import Compose, Why
from tomostream.acquisition.naming import movie_key
from tomostream.files.writing import write_text
from tomostream.journal.entries import LeftOut
from tomostream.journal.layout import stem
from tomostream.journal.status import COMPOSE, ProjectStatus

#: The version of the format of a sidecar.
FORMAT = 1


class RecordError(ValueError):
    """A sidecar is invalid; names the file and the key."""


class TiltRecord(msgspec.Struct, frozen=True):
    """One tilt of a composed series, as registered. None is unknown. Doses in e/A2, angle in degrees, target defocus in um,
    underfocus positive."""

    movie: str
    angle: float
    micrograph: str = ""
    order: int | None = None
    dose: float | None = None
    dose_source: str = ""
    prior_dose: float | None = None
    prior_dose_source: str = ""
    time: str | None = None
    micrograph_version: int = 1
    even: str = ""
    odd: str = ""
    target_defocus: float | None = None


class SeriesRecord(msgspec.Struct, frozen=True):
    """The sidecar of the stack of a composed series. The outputs say that it is done, the sidecar says what it is made of.

    `tilts` are in the order of the sections; `negated`: the angles of the mdoc have been negated.
    """

    series_id: str = ""
    tilts: tuple[TiltRecord, ...] = ()
    format: int = FORMAT
    series_name: str = ""
    version: int = 1
    left_out: tuple[LeftOut, ...] = ()
    tilt_axis: float | None = None
    tilt_axis_source: str = ""
    voltage: float | None = None
    reason: str = ""
    evidence: tuple[str, ...] = ()
    mdocs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    negated: bool = False


def record_of(decision: Compose, micrographs: Mapping[str, tuple[str, str, str]], key_of: Callable[[str], str],
              negated: bool = False) -> SeriesRecord:
    """Return the record of a decision. `micrographs`: the files (sum, odd, even) of each movie; `negated`: negate all angles."""
    sign = -1.0 if negated else 1.0
    tilts = []
    versions = decision.micrograph_versions or (1,) * len(decision.tilts)
    for tilt, version in zip(decision.tilts, versions, strict=True):
        movie = key_of(tilt.movie or "")
        whole, odd, even = micrographs[movie]
        tilts.append(TiltRecord(movie, sign * tilt.angle + 0.0, whole, tilt.order, tilt.dose.value, tilt.dose.source,
                                tilt.prior_dose.value, tilt.prior_dose.source,
                                None if tilt.time is None else tilt.time.isoformat(), version, even, odd,
                                tilt.target_defocus))
    if negated:
        tilts.sort(key=lambda tilt: (tilt.angle, tilt.order or 0))
    left_out = tuple(LeftOut(each.tilt.movie or "", sign * each.tilt.angle, each.reason, each.why) for each in decision.left_out)
    return SeriesRecord(
        decision.series_id, tuple(tilts), FORMAT, decision.series_name, decision.version, left_out, decision.tilt_axis.value,
        decision.tilt_axis.source, decision.voltage.value, decision.reason, decision.evidence, decision.mdocs,
        decision.warnings, negated)


def write_record(record: SeriesRecord, path: str) -> None:
    """Write a sidecar, complete or not at all."""
    write_text(path, msgspec.json.format(msgspec.json.encode(record), indent=1).decode())


def read_record(path: str) -> SeriesRecord | None:
    """Read a sidecar; None if there is none (removed by hand).

    Raises
    ------
    RecordError : it is invalid, or cannot be read now; names the file and what is wrong.
    """
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=SeriesRecord)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{os.path.basename(path)} cannot be read: {error}") from error


def target_defocus(stack: str) -> float | None:
    """Return the target defocus (um, underfocus positive) of a composed stack; None if its sidecar does not give it."""
    try:
        record = read_record(f"{os.path.splitext(stack)[0]}.json")
    except RecordError:
        return None
    targets = [tilt.target_defocus for tilt in record.tilts if tilt.target_defocus is not None] if record else []
    return median(targets) if targets else None


class NoSeries(Exception):
    """There is no such series (yet); the message says what there is."""


@dataclass(frozen=True)
class Tilt:
    """One tilt of a series. `section` from 0 in the newest stack, None where it is not in it; angle in degrees, dose in e/A2.

    `micrograph` is its file below the project, "" if it was not aligned. `state` is used, missing (left out automatically,
    `reason` says why) or excluded (taken out by a person).
    """

    movie: str
    angle: float
    order: int | None = None
    section: int | None = None
    prior_dose: float | None = None
    state: Literal["used", "missing", "excluded"] = "used"
    reason: str = ""
    micrograph: str = ""
    why: Why = Why.UNKNOWN


@dataclass(frozen=True)
class ComposedSeries:
    """The newest version of a composed series. `tilts` by angle, including those left out. Axis in degrees."""

    series_id: str
    version: int
    folder: str
    stack: str
    tilts: tuple[Tilt, ...]
    tilt_axis: float | None = None
    voltage: float | None = None
    mdocs: tuple[str, ...] = ()
    negated: bool = False

    @property
    def used(self) -> tuple[Tilt, ...]:
        """The tilts of the stack, in the order of its sections."""
        return tuple(sorted((tilt for tilt in self.tilts if tilt.section is not None), key=lambda tilt: tilt.section or 0))


def composed(project: str) -> list[str]:
    """Return the names of the composed series of a project, the newest first.

    Raises
    ------
    NoSeries : there is none (yet); says so.
    """
    status = ProjectStatus(project)
    status.update()
    found = [each for each in status.series.values() if each.composed is not None]
    if not found:
        raise NoSeries("No tilt series has been composed yet: there is nothing to choose from.")
    return [each.id for each in sorted(found, key=lambda each: each.composed or 0.0, reverse=True)]


def read_series(project: str, series_id: str) -> ComposedSeries:
    """Return the newest version of a composed series.

    Raises
    ------
    NoSeries : the project has no such series, or it is not composed; says which.
    """
    status = ProjectStatus(project)
    status.update()
    if COMPOSE not in status.folders:
        raise NoSeries(f"There is no project {project} with tilt series.")
    series = status.series.get(series_id)
    if series is None:
        known = ", ".join(sorted(status.series)[:8])
        raise NoSeries(f"The project has no series {series_id}{f'; it has {known}' if known else ''}.")
    extra = os.path.join(status.folders[COMPOSE], "extra")
    versions = [record for number in range(1, max(1, series.version) + 1)
                if (record := _record(os.path.join(extra, f"{stem(series_id, number)}.json"))) is not None]
    if not versions:
        raise NoSeries(f"{series_id} has not been composed yet: there is nothing to choose from.")
    newest = versions[-1]
    return ComposedSeries(
        series_id, newest.version, extra, os.path.join(extra, f"{stem(series_id, newest.version)}.mrcs"), _tilts(versions),
        newest.tilt_axis, newest.voltage, newest.mdocs, newest.negated)


def _record(path: str) -> SeriesRecord | None:
    try:
        record = read_record(path)
    except RecordError as error:
        raise NoSeries(f"{error}.") from error
    return record if record is not None and record.tilts else None


def _tilts(versions: list[SeriesRecord]) -> tuple[Tilt, ...]:
    """Return the tilts of all versions, as they are in the newest, or with the reason why they are not in it."""
    found: dict[str, Tilt] = {}
    for record in versions:
        for each in record.tilts:
            found[each.movie] = Tilt(each.movie, each.angle, each.order, None, each.prior_dose, "missing",
                                     "not in this version", each.micrograph)
    for left in versions[-1].left_out:
        if left.movie and left.angle is not None:
            movie = movie_key(left.movie)         # the mdoc names it with its extension
            old = found.get(movie, Tilt(movie, left.angle))
            found[movie] = Tilt(movie, left.angle, old.order, None, old.prior_dose, "missing", left.reason, old.micrograph,
                                left.why)
    for section, each in enumerate(versions[-1].tilts):
        found[each.movie] = Tilt(each.movie, each.angle, each.order, section, each.prior_dose, micrograph=each.micrograph)
    return tuple(sorted(found.values(), key=lambda tilt: tilt.angle))
