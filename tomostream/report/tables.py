# SPDX-License-Identifier: GPL-3.0-or-later
"""The columns of the table of series, for the page, `metrics.csv` and `session.json`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tomostream.report.facts import SeriesFacts
from tomostream.report.judging import Finding
from tomostream.report.notify import utc

#: Series in one file of rows, which is rewritten when one of them changes.
CHUNK = 50
#: The version of the format of session.json and of the columns.
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """What a row is made from. `folder`: with the data and pictures, inside `series/`; `thumb`: the small picture; or ""."""

    facts: SeriesFacts
    findings: tuple[Finding, ...] = ()
    folder: str = ""
    thumb: str = ""


@dataclass(frozen=True)
class Column:
    """One column: its name (with the unit), its meaning, and how it is computed. Unknown values are empty (null)."""

    name: str
    unit: str
    meaning: str
    value: Callable[[Entry], Any]


def _fact(name: str, digits: int | None = None) -> Callable[[Entry], Any]:
    def value(entry: Entry) -> Any:
        found = getattr(entry.facts, name)
        return round(found, digits) if digits is not None and found is not None else found
    return value


def _time(name: str) -> Callable[[Entry], Any]:
    return lambda entry: (entry.facts.times or {}).get(name)


def _defoci(entry: Entry) -> list[float]:
    return [tilt.defocus_um for tilt in entry.facts.tilts if tilt.defocus_um is not None]


def _worst(entry: Entry, name: str, digits: int) -> float | None:
    tilt = entry.facts.worst_tilt
    return None if tilt is None else round(getattr(tilt, name), digits)


def _counts(entry: Entry) -> float | None:
    tilt = entry.facts.least_tilt
    return None if tilt is None or tilt.mean_counts is None else round(tilt.mean_counts, 3)


def _most(entry: Entry, name: str, digits: int) -> float | None:
    """Return the largest value over all tilts."""
    values = [value for tilt in entry.facts.tilts if (value := getattr(tilt, name)) is not None]
    return round(max(values), digits) if values else None


COLUMNS = (
    Column("series_id", "", "name of the series in Scipion (tsId)", _fact("series_id")),
    Column("name", "", "name of the series at the microscope", _fact("name")),
    Column("state", "", "acquiring, aligning, waiting, composing, reconstructing, done or failed", _fact("state")),
    Column("reason", "", "why it is in this state, in words", _fact("reason")),
    Column("pending", "", "decisions by a person on its tilts that the newest version does not show yet, in words",
           _fact("pending")),
    Column("version", "", "1, and one more each time it was made again", _fact("version")),
    Column("tilts_expected", "", "tilts of a complete series", _fact("tilts_expected")),
    Column("tilts_seen", "", "tilts listed in the mdoc", _fact("tilts_seen")),
    Column("tilts_aligned", "", "tilts whose movie was aligned", _fact("tilts_aligned")),
    Column("tilts_used", "", "tilts in the tomogram (before it is made: in the tilt series)", _fact("tilts_used")),
    Column("dose_e_A2", "e/A2", "dose of the whole series", lambda entry: None if entry.facts.dose_e_A2 is None
           else round(entry.facts.dose_e_A2, 2)),
    Column("tilt_axis_deg", "degrees", "rotation of the tilt axis from the y axis of the image, counter-clockwise; refined "
           "once it is done", _fact("tilt_axis_deg", 2)),
    Column("tilt_offset_deg", "degrees", "tilt of the specimen relative to the stage, measured by the alignment",
           _fact("tilt_offset_deg", 2)),
    Column("thickness_A", "A", "thickness of the specimen, measured by the alignment", _fact("thickness_A", 0)),
    Column("resolution_xy_A", "A", "where the correlation of the even and the odd tomogram falls below 0.143, in plane",
           _fact("resolution_xy_A", 1)),
    Column("resolution_z_A", "A", "the same along z", _fact("resolution_z_A", 1)),
    Column("quality", "0 to 1", "quality of the alignment", _fact("quality", 3)),
    Column("trust", "", "trusted, doubtful or unknown: whether the alignment can be trusted, by its own checks",
           lambda entry: entry.facts.trust.value),
    Column("quality_note", "", "why it can be trusted or not, in words", _fact("quality_note")),
    Column("worst_tilt_deg", "degrees", "tilt angle of the tilt with the most uncertain shift",
           lambda entry: _worst(entry, "angle_deg", 2)),
    Column("worst_sigma_px", "px", "standard deviation of its shift, raw pixels",
           lambda entry: _worst(entry, "sigma_px", 3)),
    Column("max_residual_px", "px", "largest distance of a tilt from where the other tilts predict it, raw pixels",
           lambda entry: _most(entry, "residual_px", 3)),
    Column("target_defocus_um", "um", "the defocus set at the microscope (TargetDefocus of the mdoc)",
           _fact("target_defocus_um", 3)),
    Column("defocus_um", "um", "median defocus of its tilts up to 45 degrees, underfocus positive",
           _fact("median_defocus_um", 3)),
    Column("defocus_min_um", "um", "smallest defocus of its tilts, underfocus positive",
           lambda entry: round(min(_defoci(entry)), 3) if _defoci(entry) else None),
    Column("defocus_max_um", "um", "largest defocus of its tilts",
           lambda entry: round(max(_defoci(entry)), 3) if _defoci(entry) else None),
    Column("max_drift_px", "px", "largest drift of its movies: length of the frames' path, pixels of the movie",
           lambda entry: _most(entry, "drift_px", 2)),
    Column("max_drift_A", "A", "the same in A", lambda entry: _most(entry, "drift_A", 2)),
    Column("mean_counts", "per pixel", "mean counts of its tilt nearest to 0 degrees", _counts),
    Column("last_movie", "time", "when its last movie was on disk (UTC; in session.json seconds since the epoch)",
           _time("last_movie")),
    Column("composed", "time", "when its tilt series was ready", _time("composed")),
    Column("reconstructed", "time", "when its tomogram was ready", _time("reconstructed")),
    Column("latency_s", "s", "from its last movie to its tomogram", _fact("latency_s", 1)),
    Column("alarms", "", "kinds of alarms that it shows, separated by blanks",
           lambda entry: " ".join(dict.fromkeys(finding.kind for finding in entry.findings))),
    Column("pixel_size_A", "A", "pixel size of the tilt images", _fact("pixel_size_A", 4)),
    Column("tomogram", "", "file of the tomogram, relative to the project", _fact("tomogram")),
    Column("page", "", "folder of its data and pictures, inside series/; empty if there are none yet",
           lambda entry: entry.folder),
    Column("thumb", "", "small picture of its tomogram, in that folder", lambda entry: entry.thumb),
    Column("gold_beads", "", "gold beads that were erased; empty if none were searched for", _fact("gold_beads")),
    Column("gold_residual_px", "px", "their distance from where the alignment predicts them (RMS), raw pixels",
           _fact("gold_residual_px", 3)))
TIMES = {column.name for column in COLUMNS if column.unit == "time"}


def cells(entry: Entry) -> list[Any]:
    """Return one row, in the order of the columns; times in seconds since the epoch."""
    return [column.value(entry) for column in COLUMNS]


def as_csv(values: Sequence[Any]) -> str:
    """Return one line of metrics.csv. Times as ISO 8601 in UTC, unknown values empty."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(
        ["" if value is None else utc(value) if column.name in TIMES else value
         for column, value in zip(COLUMNS, values, strict=True)])
    return text.getvalue()


def as_json(values: Sequence[Any]) -> str:
    """Return one series of session.json, as JSON text."""
    return json.dumps({column.name: value for column, value in zip(COLUMNS, values, strict=True)}, allow_nan=False)


class Tables:
    """metrics.csv and session.json as text. A row is formatted when it changes, and a chunk of rows joined when one of its
    rows has changed, so the cost of a change does not depend on the number of rows."""

    def __init__(self) -> None:
        self.stale = True
        self._rows: list[tuple[str, str]] = []
        self._chunks: list[tuple[str, str] | None] = []

    def put(self, place: int, values: Sequence[Any] | None) -> None:
        """Set the row at a position (0, 1, ...); None: there is none."""
        while len(self._rows) <= place:
            self._rows.append(("", ""))
        while len(self._chunks) * CHUNK <= place:
            self._chunks.append(None)
        self._rows[place] = ("", "") if values is None else (as_csv(values), as_json(values))
        self._chunks[place // CHUNK] = None
        self.stale = True

    def csv(self) -> str:
        return ",".join(column.name for column in COLUMNS) + "\n" + "".join(text for text, _ in self._joined())

    def json(self, session: dict[str, Any]) -> str:
        """Return the table with `session`, the facts about the session as a whole."""
        series = ",\n ".join(text for _, text in self._joined() if text)
        return (f'{{"format": {FORMAT},\n"session": {json.dumps(session, allow_nan=False)},\n'
                f'"columns": {json.dumps(describe())},\n'
                f'"series": [{series}]}}\n')

    def _joined(self) -> list[tuple[str, str]]:
        joined = []
        for chunk, known in enumerate(self._chunks):
            rows = self._rows[chunk * CHUNK:(chunk + 1) * CHUNK] if known is None else []
            texts = known or ("".join(text for text, _ in rows), ",\n ".join(text for _, text in rows if text))
            self._chunks[chunk] = texts
            joined.append(texts)
        return joined


def describe() -> list[dict[str, str]]:
    """Return names, units and meanings of the columns, for session.json."""
    return [{"name": column.name, "unit": column.unit, "meaning": column.meaning} for column in COLUMNS]


def script(kind: str, *values: Any) -> str:
    """Return data as a script, which a page opened from the disk may load although it may not fetch files.

    Nothing in it can end the script or start a tag: `<`, `>` and `&` are escaped, and everything else is ASCII.
    """
    texts = [json.dumps(value, allow_nan=False, separators=(",", ":")) for value in (kind, *values)]
    text = ",".join(texts).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f"tomostream({text});\n"


def unscript(text: str) -> list[Any]:
    """Return the values in a script. Raises ValueError if it is not one."""
    if not text.startswith("tomostream(") or not text.endswith(");\n"):
        raise ValueError("these are not data of a tomostream page")
    found: list[Any] = json.loads(f"[{text[len('tomostream('):-len(');' + chr(10))]}]")
    return found
