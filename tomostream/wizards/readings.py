# SPDX-License-Identifier: GPL-3.0-or-later
"""Values for the forms, read from the mdoc files, with the source of each."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tomostream.acquisition import overview
from tomostream.acquisition.facts import Known, MdocFacts
from tomostream.acquisition.mdoc import read_mdoc
from tomostream.acquisition.movies import check_movie
from tomostream.files import patterns

#: A session may have thousands of mdoc files; the first ones suffice.
FILES_READ = 60
#: Movies are assigned to series for at most so many, and reported in at most so many lines.
MAX_MOVIES = 3000
MAX_LINES = 12
#: Axes (degrees) that differ by less are the same axis, rounded or read back differently.
SAME_AXIS = 1.0


class NothingFound(Exception):
    """There is nothing to read (yet); the message says where we looked."""


@dataclass(frozen=True)
class Readings:
    """Values by name of the form's field, and the sentences that say where they come from or why one is missing."""

    values: Mapping[str, float | int]
    words: tuple[str, ...]


def mdoc_files(folder: str | None, pattern: str = "*.mdoc", largest: int = FILES_READ) -> list[str]:
    """Return the mdoc files of a folder, or of a pattern if `folder` is one, sorted, at most `largest`.

    Raises
    ------
    NothingFound : no folder is given, or nothing matches; says what was looked for.
    """
    if not folder:
        raise NothingFound("Give the folder of the mdoc files first.")
    wanted = os.path.join(folder, pattern) if os.path.isdir(folder) or not folder.endswith(".mdoc") else folder
    found = patterns.files_of(wanted) or patterns.files_of(wanted, patterns.depth_of(wanted, (".mdoc",)))
    if not found:
        lies = patterns.what_is_there(wanted, (".mdoc",))
        raise NothingFound(f"There is no mdoc file {wanted} (yet){': ' if lies else '.'}{lies}")
    return found[:largest]


def series_facts(paths: Sequence[str]) -> list[MdocFacts]:
    """Return the facts of the mdoc files that are tilt series or single frames of one; maps and montages are ignored.

    Raises
    ------
    NothingFound : none of them is; says what the first one is instead.
    """
    facts = [read_mdoc(path) for path in paths]
    useful = [each for each in facts if each.kind in ("tilt-series", "frame", "fast-tilt")]
    if not useful:
        raise NothingFound(f"None of the {len(facts)} mdoc files is a tilt series; {os.path.basename(facts[0].path)}: "
                           f"{facts[0].reason.rstrip('.')}.")
    return useful


def acquisition(facts: Sequence[MdocFacts], movie_folder: str | None) -> Readings:
    """Return pixel size (A), voltage (kV), magnification and dose per frame (e/A2) for the import form.

    Parameters
    ----------
    movie_folder : of the movies, for the number of frames of one of them.
    """
    values: dict[str, float | int] = {}
    words: list[str] = []
    for field, label, unit, key in (("samplingRate", "Pixel size", "A", "movie_pixel_size"),
                                    ("voltage", "Voltage", "kV", "voltage"),
                                    ("magnification", "Magnification", "", "magnification")):
        value, sentence = _first(facts, key, label, unit)
        words.append(sentence)
        if value is not None:
            values[field] = int(value) if field == "magnification" else value
    dose, sentence = dose_per_frame(facts, movie_folder)
    words.append(sentence)
    if dose is not None:
        values["dosePerFrame"] = dose
    return Readings(values, tuple(words))


def who_has_what(mdocs: Sequence[str], movie_pattern: str) -> list[str]:
    """Return which movies belong to which series, as `tomostream mdoc FOLDER --movies PATTERN`: what needs attention first.

    Parameters
    ----------
    mdocs : all mdoc files; movies of a series not among them would be reported as left over.
    movie_pattern : a folder or pattern; nothing is reported if there are no movies yet.
    """
    movies = overview.movie_files(movie_pattern) if movie_pattern else []
    if not movies:
        return []
    if len(movies) > MAX_MOVIES:
        return [f"To see to which series the {len(movies)} movies belong: tomostream mdoc FOLDER --movies PATTERN"]
    lines = overview.as_text(overview.survey(mdocs, movies, time.time())).splitlines()
    left = len(lines) - MAX_LINES
    more = [f"... and {left} more lines: tomostream mdoc FOLDER --movies PATTERN"] if left > 0 else []
    return ["", *lines[:MAX_LINES], *more]


def _first(facts: Sequence[MdocFacts], key: str, label: str, unit: str) -> tuple[float | None, str]:
    """Return the first known value and a sentence; or why it is not known from the first file."""
    for each in facts:
        known: Known[float] = getattr(each, key)
        if known.value is not None:
            number = f"{known.value:g} {unit}".strip()
            return known.value, f"{label}: {number}, from {os.path.basename(each.path)} ({known.source})"
    return None, f"{label}: not known, {getattr(facts[0], key).source}"


def dose_per_frame(facts: Sequence[MdocFacts], movie_folder: str | None) -> tuple[float | None, str]:
    """Return the dose of one frame in e/A2: that of the first tilt with an existing movie, divided by its number of frames."""
    label = "Dose per frame"
    for each in facts:
        for tilt in each.tilts:
            if tilt.dose.value is None or not tilt.movie or not movie_folder:
                continue
            path = os.path.join(movie_folder, tilt.movie)
            frames = check_movie(path).frames if os.path.exists(path) else None
            if frames:
                dose = tilt.dose.value / frames
                return dose, (f"{label}: {dose:.4g} e/A2, {tilt.dose.value:g} e/A2 of {tilt.movie} over its {frames} frames "
                              f"({tilt.dose.source})")
    return None, f"{label}: not known, it needs an mdoc with doses and the movie of one of its tilts"


def tilt_axis(facts: Sequence[MdocFacts]) -> Readings:
    """Return the tilt axis in degrees (IMOD's convention) for the compose form, with its source.

    If the files differ by more than `SAME_AXIS` none is proposed.
    """
    known = [(axis, each) for each in facts if (axis := each.tilt_axis.value) is not None]
    if not known:
        return Readings({}, (f"The tilt axis is not known: {facts[0].tilt_axis.source}.",))
    axis, first = known[0]
    words = [f"Tilt axis: {axis:g} degrees, from {os.path.basename(first.path)} ({first.tilt_axis.source})."]
    others = sorted({round(other, 1) for other, _ in known})
    if len(others) > 1:
        words.append(f"The mdoc files do not agree: {', '.join(f'{axis:g}' for axis in others)} degrees. Left empty, each "
                     "series gets its own.")
        if others[-1] - others[0] > SAME_AXIS:
            return Readings({}, (*words, "Nothing was written into the field."))
    return Readings({"manualTiltAxisAngle": axis}, tuple(words))


def expected_tilts(facts: Sequence[MdocFacts]) -> Readings:
    """Return how many tilts a complete series has: the most common number, the largest if there are several."""
    counts = Counter(len(each.tilts) for each in facts if each.kind != "frame" and each.tilts)
    if not counts:
        return Readings({}, ("No tilt series gives the number of its tilts yet.",))
    most = max(counts.values())
    tilts = max(number for number, times in counts.items() if times == most)
    table = ", ".join(f"{times} with {number}" for number, times in sorted(counts.items()))
    return Readings({"expectedTilts": tilts},
                    (f"Tilts per series: {tilts}. Of {sum(counts.values())} mdoc files: {table}.",
                     "A series still being acquired has fewer than it will have: check before you keep this value."))
