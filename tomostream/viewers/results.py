# SPDX-License-Identifier: GPL-3.0-or-later
"""The data of the plots, read from the files and ledger of a run."""

from __future__ import annotations

import os
import pathlib
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tomostream.journal import entries, ledger
from tomostream.journal.layout import REPORT, frames_log
from tomostream.programs import motioncor
from tomostream.programs.aln import AlnError, parse_aln, raw_sections
from tomostream.programs.ctf import parse_ctf
from tomostream.programs.quality import Quality, parse_quality

T = TypeVar("T", bound=entries.Entry)
P = TypeVar("P")
#: Where the live page of a project is.
REPORT_PAGE = os.path.join(REPORT, "index.html")


class NoResult(Exception):
    """A result does not exist (yet); the message says which and why."""


@dataclass(frozen=True)
class TiltAlignment:
    """One tilt of an aligned series: angle in degrees, shifts and their standard deviation in px of the tilt image.

    A tilt that was left out has `reason` and no shifts.
    """

    angle: float
    shift: tuple[float, float] | None
    sigma: float | None
    reason: str = ""


@dataclass(frozen=True)
class SeriesAlignment:
    """Alignment of a series, in the order of the tilt angles. Axis and offset in degrees, thickness in A; None unknown."""

    series_id: str
    tilts: tuple[TiltAlignment, ...]
    tilt_axis: float | None
    tilt_offset: float | None
    thickness: float | None
    quality: float | None


@dataclass(frozen=True)
class TiltCtf:
    """CTF of one tilt: angle in degrees, defoci in um (underfocus positive), resolution of the fit in A (None: not measured)."""

    angle: float
    defocus_max: float
    defocus_min: float
    resolution: float | None


def movies(run_folder: str) -> list[str]:
    """Return the aligned movies, newest first."""
    return list(reversed(_last(run_folder, (entries.Aligned, entries.Replaced))))


def series(run_folder: str) -> list[str]:
    """Return the aligned series, newest first."""
    return list(reversed(_last(run_folder, (entries.Reconstructed,))))


def composed(run_folder: str) -> list[str]:
    """Return the composed series, newest first."""
    return list(reversed(_last(run_folder, (entries.Composed,))))


def _last(run_folder: str, kinds: tuple[type[T], ...]) -> dict[str, T]:
    """Return the last entry of these kinds for each item, in the order of writing."""
    found: dict[str, T] = {}
    for entry in ledger.read(ledger.path_in(run_folder)):
        if entry.item and isinstance(entry, kinds):
            found.pop(entry.item, None)
            found[entry.item] = entry
    return found


def frame_drift(run_folder: str, movie: str) -> tuple[tuple[float, float], ...]:
    """Return shift (x, y) of every frame of a movie in px, from the program's log.

    Raises
    ------
    NoResult : the movie was not aligned, or its log is missing or invalid.
    """
    made: dict[str, entries.Aligned | entries.Replaced] = _last(run_folder, (entries.Aligned, entries.Replaced))
    entry = made.get(movie)
    if entry is None:
        raise NoResult(f"{movie} is not aligned (yet).")
    micrograph, _ = os.path.splitext(os.path.basename(entry.file))
    path = os.path.join(run_folder, "extra", frames_log(micrograph))
    if not os.path.exists(path):
        raise NoResult(f"There is no log of the frames of {movie} in {os.path.join(run_folder, 'extra')}.")
    return _parsed(path, motioncor.parse_log, motioncor.LogError)


def drifts(run_folder: str) -> list[tuple[str, float]]:
    """Return (movie, length of the path of its frames in px) of all aligned movies, in order of alignment."""
    found = []
    for movie, entry in _last(run_folder, (entries.Aligned,)).items():
        if entry.drift_px is not None:
            found.append((movie, entry.drift_px))
    return found


def alignment(project: str, run_folder: str, series_id: str) -> SeriesAlignment:
    """Return the latest registered alignment of a series.

    Raises
    ------
    NoResult : the series is not aligned, or its files are gone.
    """
    folder, entry = _series_folder(project, run_folder, series_id)
    aln = _parsed(os.path.join(folder, f"{series_id}.aln"), parse_aln, AlnError)
    path = os.path.join(folder, f"{series_id}_quality.json")
    quality = _parsed(path, parse_quality, AlnError) if os.path.exists(path) else Quality()
    sigmas = {tilt.section: tilt.sigma_px for tilt in quality.tilts}
    sections, _ = raw_sections(aln)
    tilts = [TiltAlignment(row.tilt_deg, (row.tx, row.ty), sigmas.get(section))
             for section, row in zip(sections, aln.rows, strict=True)]
    tilts += [TiltAlignment(tilt.angle, None, None, tilt.reason) for tilt in entry.excluded]
    axis = aln.rows[0].rot_deg if aln.rows else None
    return SeriesAlignment(series_id, tuple(sorted(tilts, key=lambda tilt: tilt.angle)), axis, quality.tilt_offset_deg,
                           quality.thickness_A, quality.quality)


def ctf(project: str, run_folder: str, series_id: str) -> list[TiltCtf]:
    """Return the CTF of the aligned tilts of a series.

    Raises
    ------
    NoResult : there is none; says why, if known.
    """
    folder, _ = _series_folder(project, run_folder, series_id)
    path = os.path.join(folder, f"{series_id}_ctf.txt")
    if not os.path.exists(path):
        quality = os.path.join(folder, f"{series_id}_quality.json")
        note = _parsed(quality, parse_quality, AlnError).ctf_note if os.path.exists(quality) else ""
        raise NoResult(f"There is no CTF of {series_id}{': ' + note if note else ''}.")
    rows = _parsed(path, parse_ctf, AlnError)
    aln = _parsed(os.path.join(folder, f"{series_id}.aln"), parse_aln, AlnError)
    found = [TiltCtf(tilt.tilt_deg, row.defocus_max_A / 1e4, row.defocus_min_A / 1e4, row.resolution_A)
             for tilt, row in zip(aln.rows, rows, strict=False) if row.defocus_max_A > 0]
    if not found:
        raise NoResult(f"No tilt of {series_id} has a CTF.")
    return found


def report_page(project: str) -> str:
    """Return the address of the live page.

    Raises
    ------
    NoResult : the project has none; says how to make it.
    """
    path = os.path.join(project, REPORT_PAGE)
    if not os.path.exists(path):
        raise NoResult(f"This project has no live report yet. This makes it: tomostream report {project}")
    return pathlib.Path(os.path.abspath(path)).as_uri()


def series_page(project: str, series_id: str) -> str:
    """Return the address of the page of one series in the live report.

    Raises
    ------
    NoResult : the project has no report.
    """
    return f"{report_page(project)}#/series/{urllib.parse.quote(series_id, safe='')}"


def _series_folder(project: str, run_folder: str, series_id: str) -> tuple[str, entries.Reconstructed]:
    entry = _last(run_folder, (entries.Reconstructed,)).get(series_id)
    if entry is None:
        raise NoResult(f"{series_id or 'The series'} is not aligned (yet).")
    folder = os.path.join(project, entry.folder)
    if not os.path.isdir(folder):
        raise NoResult(f"The folder of {series_id} is gone: {folder}")
    return folder, entry


def _parsed(path: str, parse: Callable[[str, str], P], error_class: type[Exception]) -> P:
    """Parse a text file of a program. Raises NoResult with a sentence if that fails."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return parse(file.read(), os.path.basename(path))
    except (OSError, error_class) as error:
        raise NoResult(f"{os.path.basename(path)} cannot be shown: {error}") from error
