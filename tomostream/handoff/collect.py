# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts of finished series, from the files of a project, without Scipion."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from tomostream.files.databases import select
from tomostream.files.errors import BadFileError
from tomostream.files.mrc_header import MrcHeader, read_header
from tomostream.handoff.facts import NotPossible, Optics, Pose, Series, Tilt, Volume
from tomostream.journal import entries
from tomostream.journal.composed import RecordError, SeriesRecord, TiltRecord, read_record
from tomostream.journal.layout import stem
from tomostream.journal.status import ARETOMO, COMPOSE, IMPORT, MOTIONCOR, ProjectStatus, SeriesStatus
from tomostream.programs import aretomo as files
from tomostream.programs.aln import AlnError, AlnFile, parse_aln, raw_sections
from tomostream.programs.ctf import CtfRow, ctf_sections, parse_ctf
from tomostream.programs.quality import Quality, parse_quality

EVEN, ODD = "_even", "_odd"


@dataclass(frozen=True)
class Made:
    """What the reconstruction has left for a series, by section of the composed stack (from 1)."""

    poses: Mapping[int, Pose]
    reasons: Mapping[int, str]
    ctf: Mapping[int, CtfRow]
    quality: Quality | None
    local: bool


def finished(status: ProjectStatus) -> list[SeriesStatus]:
    """Return the series of a project that can be handed over: those that are reconstructed."""
    return [each for each in status.series.values() if each.state == "done" and each.result is not None]


def collect(status: ProjectStatus, series: SeriesStatus) -> Series:
    """Return the facts of a finished series.

    Raises
    ------
    NotPossible : files are missing or invalid; names them.
    """
    if series.result is None:
        raise NotPossible(f"{series.id} is not reconstructed yet")
    base = os.path.join(status.folders[COMPOSE], "extra", stem(series.id, series.result.version))
    record = _record(f"{base}.json")
    header = _header(f"{base}.mrcs")
    optics, pixel_size = _optics(status)
    pixel_size = pixel_size or header.pixel_size_A
    made = read_made(os.path.join(status.project, series.result.folder), series.id, len(record.tilts))
    flags = flags_of(series.result.commands)
    volume = _volume(status.project, series.id, series.result, flags)
    believed = made.ctf.keys() - set(series.result.defocus_doubted)
    return Series(
        series.id, series.result.version, f"{base}.mrcs", (header.columns, header.rows), pixel_size,
        tuple(_tilt(status, section, tilt, made, section in series.result.defocus_doubted)
              for section, tilt in enumerate(record.tilts, start=1)),
        _if_there(f"{base}{EVEN}.mrcs"), _if_there(f"{base}{ODD}.mrcs"), _property(status, IMPORT, "_samplingRate"),
        record.tilt_axis, _thickness(flags, volume), optics, volume,
        made.quality.defocus_hand if made.quality and believed else None, series.result.tilt_offset,
        series.result.quality_note, record.negated, made.local)


def read_made(folder: str, name: str, sections: int) -> Made:
    """Read what the program left in a folder for a series with this many sections.

    Raises
    ------
    NotPossible : there is no alignment, or it is invalid.
    """
    out = files.OutputFiles.of(os.path.join(folder, f"{name}.mrcs"), os.path.join(folder, f"{name}.mrc"))
    try:
        aln = parse_aln(_text(out.aln), os.path.basename(out.aln))
        used, _ = raw_sections(aln, sections)
        quality = parse_quality(_text(out.quality)) if os.path.exists(out.quality) else None
        rows = parse_ctf(_text(out.ctf_text)) if os.path.exists(out.ctf_text) else ()
    except (OSError, AlnError) as error:
        raise NotPossible(f"the alignment of {name} cannot be read: {error}") from error
    of_ctf = ctf_sections(len(rows), used, sections)
    poses = {section + 1: Pose(row.tilt_deg, row.rot_deg, row.tx, row.ty) for section, row in zip(used, aln.rows, strict=True)}
    ctf = {section + 1: row for section, row in zip(of_ctf, rows, strict=bool(of_ctf)) if row.defocus_max_A > 0}
    return Made(poses, _reasons(aln, quality, sections), ctf, quality, bool(aln.local))


def _reasons(aln: AlnFile, quality: Quality | None, sections: int) -> dict[int, str]:
    """Return why sections are not used."""
    reasons = {section + 1: "too dark" for section in raw_sections(aln, sections)[1]}
    excluded = {tilt.section + 1: tilt.reason for tilt in quality.tilts if not tilt.used} if quality else {}
    return reasons | {section: reason for section, reason in excluded.items() if reason}


def _tilt(status: ProjectStatus, section: int, tilt: TiltRecord, made: Made, doubted: bool) -> Tilt:
    movie = status.movies.get(tilt.movie)
    pose = made.poses.get(section)
    source = os.path.join(status.project, movie.source) if movie and movie.source else ""
    return Tilt(
        section, tilt.angle, tilt.order, tilt.prior_dose, tilt.dose, os.path.realpath(source) if source else "", None,
        _below(status.project, tilt.micrograph), _below(status.project, tilt.even), _below(status.project, tilt.odd),
        tilt.target_defocus, pose, "" if pose else made.reasons.get(section, ""),
        made.ctf.get(section) if pose and not doubted else None)


def _below(project: str, path: str) -> str:
    """Return the absolute path of a file below the project; "" if it does not exist."""
    return _if_there(os.path.join(project, path)) if path else ""


def _if_there(path: str) -> str:
    return os.path.abspath(path) if os.path.exists(path) else ""


def _volume(project: str, name: str, result: entries.Reconstructed, flags: Mapping[str, str]) -> Volume | None:
    if not result.tomogram:
        return None
    path = os.path.join(project, result.tomogram)
    header = _header(path)
    folder = os.path.dirname(path)
    binning = float(flags.get("-OutBin") or flags.get("-AtBin") or "1")     # AreTomo3 has its own
    return Volume(os.path.abspath(path), (header.columns, header.rows, header.sections), binning,
                  _if_there(os.path.join(folder, f"{name}{EVEN}.mrc")), _if_there(os.path.join(folder, f"{name}{ODD}.mrc")),
                  flags.get("-FlipVol", "0") == "1", result.ctf_corrected)


def _thickness(flags: Mapping[str, str], volume: Volume | None) -> int:
    """Return the thickness of the volume in px of the tilt series: as requested, but AreTomo3 makes 100 slices or more, or
    measures it."""
    if "-AtBin" in flags and volume is not None:
        return round((volume.size[2] if volume.upright else volume.size[1]) * volume.binning)
    return int(float(flags.get("-VolZ", "0")))


def flags_of(commands: Sequence[str]) -> dict[str, str]:
    """Return the first value of every flag of the first command line."""
    import shlex

    words = shlex.split(commands[0]) if commands else []
    return {word: value for word, value in zip(words, chain(words[1:], [""]), strict=True)
            if word.startswith("-") and word[1:2].isalpha()}


def _optics(status: ProjectStatus) -> tuple[Optics, float | None]:
    """Return the optics and the pixel size of the tilt series, from the sets of compose and motioncor."""
    def of(name: str) -> float | None:
        found = [_property(status, protocol, name) for protocol in (COMPOSE, MOTIONCOR)]
        return next((value for value in found if value is not None), None)

    return (Optics(of("_acquisition._voltage"), of("_acquisition._sphericalAberration"), of("_acquisition._amplitudeContrast")),
            of("_samplingRate"))


_SETS = {IMPORT: "movies.sqlite", MOTIONCOR: "micrographs.sqlite", COMPOSE: "tiltseries.sqlite", ARETOMO: "tiltseries.sqlite"}


def _property(status: ProjectStatus, protocol: str, name: str) -> float | None:
    """Return a numerical property of a set of a project; None if it has none."""
    path = os.path.join(status.folders.get(protocol, ""), _SETS[protocol])
    try:
        value, = next(iter(select(path, "SELECT value FROM Properties WHERE key=?", (name,))), (None,))
        return float(value) if value not in (None, "None") else None
    except (sqlite3.Error, ValueError):
        return None


def _record(path: str) -> SeriesRecord:
    try:
        record = read_record(path)
    except RecordError as error:
        raise NotPossible(str(error)) from error
    if record is None:
        raise NotPossible(f"{os.path.basename(path)}, which says what the series was composed of, is missing")
    return record


def _header(path: str) -> MrcHeader:
    try:
        return read_header(path)[0]
    except BadFileError as error:
        raise NotPossible(str(error)) from error


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
