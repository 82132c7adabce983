# SPDX-License-Identifier: GPL-3.0-or-later
"""The mdoc doctor: what each file is, and what tomostream reads from it; as text for people, as JSON for programs."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tomostream.acquisition.facts import Known, MdocFacts, Tilt
from tomostream.acquisition.frames import group_frames
from tomostream.acquisition.mdoc import read_mdoc
from tomostream.acquisition.naming import SeriesIds

#: What cannot be used although somebody may have meant it to be. Not montages and maps: they are just not series.
UNUSABLE = ("unreadable", "fast-tilt", "overwritten")

#: Seconds without a change after which a file is no longer being written.
AT_REST = 60.0


def find_mdocs(paths: Iterable[str]) -> list[str]:
    """Return the mdoc files among `paths` and, at any depth, in those of them that are folders, sorted, each once.

    A path that is not a folder is returned whatever its name.
    """
    found: dict[str, None] = {}
    for path in paths:
        if os.path.isdir(path):
            for folder, folders, files in os.walk(path):
                folders.sort()
                found.update((os.path.join(folder, name), None) for name in sorted(files)
                             if name.lower().endswith(".mdoc"))
        else:
            found[path] = None
    return list(found)


def is_at_rest(path: str) -> bool:
    """Tell whether a file has not been written to for so long that nothing more is to be expected."""
    try:
        return time.time() - os.stat(path).st_mtime > AT_REST
    except OSError:
        return False


def examine(paths: Sequence[str]) -> list[MdocFacts]:
    """Read mdoc files; the series that frame mdocs among them form are appended."""
    facts = [read_mdoc(path, at_rest=is_at_rest(path)) for path in paths]
    return [*facts, *group_frames(facts)]


def series_ids(facts: Iterable[MdocFacts]) -> dict[str, str]:
    """Return path -> series identifier for the tilt series among `facts`, in order of name: reproducible.

    Files of one series in one folder (half1, unsorted, override) are one series.
    """
    ids = SeriesIds()
    series = sorted((one for one in facts if one.kind in ("tilt-series", "fast-tilt")),
                    key=lambda one: (os.path.dirname(one.path), one.series_name))
    return {one.path: ids.id_for(one.series_name, os.path.dirname(one.path)) for one in series}


def as_json(facts: Sequence[MdocFacts]) -> list[dict[str, Any]]:
    """Return one object per file, as `tomostream mdoc --json` prints them."""
    ids = series_ids(facts)
    return [{
        "file": one.path,
        "kind": one.kind,
        "reason": one.reason,
        "dialect": one.dialect,
        "series_id": ids.get(one.path),
        "tilt_axis_deg": one.tilt_axis.value,
        "tilt_axis_source": one.tilt_axis.source,
        "pixel_size_A": one.pixel_size.value,
        "voltage_kV": one.voltage.value,
        "warnings": list(one.warnings),
        "tilts": [_tilt_as_json(tilt) for tilt in one.tilts],
    } for one in facts]


def _tilt_as_json(tilt: Tilt) -> dict[str, Any]:
    return {
        "movie": tilt.movie,
        "angle_deg": tilt.angle,
        "dose_e_per_A2": tilt.dose.value,
        "prior_dose_e_per_A2": tilt.prior_dose.value,
        "acquisition_order": tilt.order,
        "time": None if tilt.time is None else tilt.time.isoformat(),
    }


def as_text(facts: Sequence[MdocFacts]) -> str:
    """Return what `tomostream mdoc` prints for people."""
    ids = series_ids(facts)
    return "\n\n".join("\n".join(_lines(one, ids.get(one.path))) for one in facts)


def as_lines(facts: Sequence[MdocFacts]) -> str:
    """Return one line per file, those that differ from most first: for many files."""
    ids = series_ids(facts)
    summaries = {id(one): _in_short(one) for one in facts}
    usual = [words for words, times in Counter(summaries.values()).most_common(1) if times > 1]
    ordered = sorted(facts, key=lambda one: (summaries[id(one)] in usual, one.path))
    count = f"{len(facts)} file{'s' * (len(facts) != 1)}"
    lines = [f"{count}, most of them: {usual[0]}." if usual else f"{count}."]
    for one in ordered:
        words = "" if summaries[id(one)] in usual else f": {summaries[id(one)]}"
        lines.append(f"  {ids.get(one.path) or one.series_name or os.path.basename(one.path):24} {one.path}{words}")
    return "\n".join(lines)


def _in_short(facts: MdocFacts) -> str:
    """Return in one line what a file is."""
    if facts.kind not in ("tilt-series", "frame") or not facts.tilts:
        return f"{facts.kind}: {facts.reason.rstrip('.')}"
    angles = [tilt.angle for tilt in facts.tilts]
    dose = facts.tilts[0].dose.value
    parts = [f"{len(angles)} tilts from {min(angles):.0f} to {max(angles):.0f} deg", f"axis {_value(facts.tilt_axis, 'deg')}",
             f"{_value(facts.pixel_size, 'A')}", f"{_value(facts.voltage, 'kV')}",
             "dose not known" if dose is None else f"{dose:.1f} e/A2 per tilt"]
    if facts.kind == "frame":
        parts[0] = f"a movie of '{facts.frame_series or '?'}'"
    return ", ".join([*parts, *(["the last section is not finished"] if facts.last_section_open else [])])


def _value(value: Known[float], unit: str) -> str:
    return f"{unit} not known" if value.value is None else f"{value.value:.4g} {unit}"


def _lines(facts: MdocFacts, series_id: str | None) -> list[str]:
    lines = [facts.path, f"  kind       {facts.kind}" + (f": {facts.reason}" if facts.reason else "")]
    if facts.kind != "unreadable":
        lines.append(f"  dialect    {facts.dialect}")
    if series_id is not None:
        altered = "" if series_id == facts.series_name else f" (named '{facts.series_name}')"
        lines.append(f"  series     {series_id}{altered}")
    elif facts.frame_series:
        lines.append(f"  series     movie of '{facts.frame_series}'")
    if facts.kind in ("tilt-series", "frame", "fast-tilt"):
        lines += [f"  tilt axis  {_known(facts.tilt_axis, 'deg')}", f"  pixel      {_known(facts.pixel_size, 'A')}",
                  f"  movie px   {_known(facts.movie_pixel_size, 'A')}", f"  voltage    {_known(facts.voltage, 'kV')}"]
    if facts.kind in ("tilt-series", "frame"):
        lines += [f"  tilts      {_tilt_summary(facts.tilts)}", *_table(facts.tilts)]
    return lines + [f"  warning    {warning}" for warning in facts.warnings]


def _known(value: Known[float], unit: str) -> str:
    return f"unknown: {value.source}" if value.value is None else f"{value.value:g} {unit} ({value.source})"


def _tilt_summary(tilts: Sequence[Tilt]) -> str:
    if not tilts:
        return "none yet"
    angles = [tilt.angle for tilt in tilts]
    doses = [tilt.dose.value for tilt in tilts]
    known = [dose for dose in doses if dose is not None]
    sources = " and ".join(dict.fromkeys(tilt.dose.source for tilt in tilts))
    dose = (f"dose {sum(known):.2f} e/A2 in all ({sources})" if len(known) == len(doses)
            else f"dose unknown for {len(doses) - len(known)} of them ({sources})")
    return f"{len(tilts)}, from {min(angles):.2f} to {max(angles):.2f} deg; {dose}"


def _table(tilts: Sequence[Tilt]) -> list[str]:
    """Return the tilts in acquisition order as lines."""
    if not tilts:
        return []
    head = f"    {'order':>5} {'angle/deg':>10} {'dose':>7} {'before':>8}  {'time':19}  movie"
    return [head, *(f"    {tilt.order:5d} {tilt.angle:10.2f} {_short(tilt.dose):>7} {_short(tilt.prior_dose):>8}  "
                    f"{tilt.time.isoformat(' ') if tilt.time else '-':19}  {tilt.movie or '-'}" for tilt in tilts)]


def _short(value: Known[float]) -> str:
    return "-" if value.value is None else f"{value.value:.2f}"
