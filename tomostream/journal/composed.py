# SPDX-License-Identifier: GPL-3.0-or-later
"""The composed series of a project, read from the sidecars of their stacks: no Scipion, at any time."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from tomostream.acquisition.naming import movie_key
from tomostream.journal.status import COMPOSE, ProjectStatus


class NoSeries(Exception):
    """There is no such series (yet); the words say what there is."""


@dataclass(frozen=True)
class Tilt:
    """One tilt of a series. `section` from 0 in the newest stack, None where it is not in it; angle in degrees, dose in e/A2.

    `micrograph` is its file below the project, "" where none was aligned. `state` is used, missing (left out by itself,
    `reason` says why) or excluded (taken out by a person).
    """

    movie: str
    angle: float
    order: int | None = None
    section: int | None = None
    prior_dose: float | None = None
    state: str = "used"
    reason: str = ""
    micrograph: str = ""


@dataclass(frozen=True)
class ComposedSeries:
    """A composed series, its newest version. `tilts` by angle, those that are left out too. Axis in degrees, pixel in A."""

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
    """Names of the composed series of a project, the newest first.

    Raises
    ------
    NoSeries : there is none (yet); says so.
    """
    status = ProjectStatus(project)
    status.update()
    found = [each for each in status.series.values() if each.composed is not None]
    if not found:
        raise NoSeries("No tilt series is composed yet: there is nothing to choose from.")
    return [each.id for each in sorted(found, key=lambda each: each.composed or 0.0, reverse=True)]


def read_series(project: str, series_id: str) -> ComposedSeries:
    """The newest version of a composed series.

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
                if (record := _sidecar(extra, series_id, number)) is not None]
    if not versions:
        raise NoSeries(f"{series_id} is not composed yet: there is nothing to choose from.")
    newest = versions[-1]
    return ComposedSeries(
        series_id, int(newest.get("version", series.version or 1)), extra,
        os.path.join(extra, f"{stem(series_id, int(newest.get('version', series.version or 1)))}.mrcs"),
        _tilts(versions), newest.get("tilt_axis"), newest.get("voltage"), tuple(newest.get("mdocs", ())),
        bool(newest.get("negated", False)))


def stem(series_id: str, version: int) -> str:
    """Name of the files of one version. A dash is in no tsId, so versions cannot collide with series."""
    return series_id if version == 1 else f"{series_id}-v{version}"


def _sidecar(extra: str, series_id: str, version: int) -> dict | None:
    try:
        with open(os.path.join(extra, f"{stem(series_id, version)}.json"), encoding="utf-8") as file:
            record = json.load(file)
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("tilts") else None


def _tilts(versions: list[dict]) -> tuple[Tilt, ...]:
    """All tilts that any version had, as the newest has them; of those that it has not, why."""
    found: dict[str, Tilt] = {}
    for record in versions:
        for each in record["tilts"]:
            found[each["movie"]] = Tilt(each["movie"], each["angle"], each["order"], None, each.get("prior_dose"), "missing",
                                        "not in this version", each.get("micrograph", ""))
    for name, angle, reason in versions[-1].get("left_out", ()):
        if name:
            movie = movie_key(name)         # the mdoc names it with its extension
            old = found.get(movie, Tilt(movie, angle))
            found[movie] = Tilt(movie, angle, old.order, None, old.prior_dose, "missing", reason, old.micrograph)
    for section, each in enumerate(versions[-1]["tilts"]):
        found[each["movie"]] = Tilt(each["movie"], each["angle"], each["order"], section, each.get("prior_dose"),
                                    micrograph=each.get("micrograph", ""))
    return tuple(sorted(found.values(), key=lambda tilt: tilt.angle))
