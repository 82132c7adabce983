# SPDX-License-Identifier: GPL-3.0-or-later
"""The summary of a session to print and hand over: what was done with which programs, a methods text with references, the
figures, a table of all series, what failed and why. A single file without scripts, made from the data of the page."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from statistics import median
from typing import Any

from tomostream.files.writing import write_text
from tomostream.report import marks
from tomostream.report.folders import read_data
from tomostream.report.notify import utc

FILE = "handover.html"
#: Seconds that Chromium may take for the PDF.
PDF_SECONDS = 120.0
#: Columns of the table: name, heading, decimals (None: unchanged).
TABLE: tuple[tuple[str, str, int | None], ...] = (
    ("state", "State", None),
    ("tilts_used", "Tilts", 0),
    ("dose_e_A2", "Dose e/Å²", 0),
    ("tilt_axis_deg", "Axis °", 1),
    ("tilt_offset_deg", "Offset °", 1),
    ("thickness_A", "Thickness Å", 0),
    ("defocus_um", "Defocus µm", 2),
    ("quality", "Quality", 2),
    ("max_residual_px", "Residual px", 2),
    ("max_drift_px", "Drift px", 1),
)
#: Columns summarised by median and range: name, heading, unit.
FIGURES = (
    ("tilts_used", "Tilts used", ""),
    ("dose_e_A2", "Dose", "e/Å²"),
    ("tilt_axis_deg", "Tilt axis", "°"),
    ("tilt_offset_deg", "Tilt offset", "°"),
    ("thickness_A", "Thickness", "Å"),
    ("defocus_um", "Defocus", "µm"),
    ("quality", "Quality of the alignment", ""),
    ("max_drift_px", "Largest drift of a movie", "px"),
    ("latency_s", "Last movie to tomogram", "s"),
)
#: The programs are taken from the data of this many series, the first and the last.
MAX_READ = 10
#: A word in the name of a program -> the key of its reference.
REFERENCES = (("motioncor", "Zheng2017"), ("aretomo", "Zheng2022"))
STYLE = "handover.css"


class NoSummary(ValueError):
    """There is nothing to summarise, or no PDF can be made."""


def save(out: str, path: str) -> str:
    """Write the summary of the page in folder `out` to a file, as PDF if its name ends in .pdf. Returns its absolute path.

    Raises
    ------
    NoSummary : the page has no table yet, or a PDF was requested and Chromium is missing or fails.
    OSError : the file cannot be written.
    """
    path = os.path.abspath(path)
    text = page(out)
    if not path.lower().endswith(".pdf"):
        write_text(path, text)
        return path
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise NoSummary("a PDF needs Chromium, which is not installed: write an .html file and print it from a browser")
    with tempfile.TemporaryDirectory() as folder:
        source, made = os.path.join(folder, FILE), os.path.join(folder, "made.pdf")
        write_text(source, text)
        try:
            subprocess.run([chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
                            f"--user-data-dir={folder}/profile", f"--print-to-pdf={made}", f"file://{source}"],
                           capture_output=True, timeout=PDF_SECONDS, check=True)
            shutil.copyfile(made, path)
        except (subprocess.SubprocessError, FileNotFoundError) as error:
            raise NoSummary(f"{chromium} made no PDF ({error}): write an .html file and print it from a browser") from error
    return path


def page(out: str) -> str:
    """Return the summary as HTML.

    Raises
    ------
    NoSummary : the page has no table yet.
    """
    try:
        with open(os.path.join(out, "session.json"), encoding="utf-8") as file:
            data = json.load(file)
        session, series = data["session"], data["series"]
    except (OSError, ValueError, KeyError) as error:
        raise NoSummary(f"the page in {out} has no table yet: tomostream report writes it") from error
    shown_ones = [row for row in series if row.get("page")]
    chosen = shown_ones[:MAX_READ] + shown_ones[-MAX_READ:]          # programs hardly change within a session
    payloads = {row["series_id"]: read_data(os.path.join(out, "series", row["page"]))[1] for row in chosen}
    try:
        marked = marks.read(out)
    except ValueError:
        marked = {}
    parts = [heading(session, series), "<h2>What was done</h2>", methods(session, series, payloads), figures(series),
             failures(session, series), table(out, series, marked), commands(session, payloads)]
    style = resources.files("tomostream.report").joinpath("static").joinpath(STYLE).read_text(encoding="utf-8")
    title, body = escape(f"{session['project']} – summary"), "\n".join(filter(None, parts))
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{style}</style></head>'
            f"\n<body>\n{body}\n</body></html>\n")


def heading(session: Mapping[str, Any], series: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of the session, its times and the counts."""
    states = Counter(row["state"] for row in series)
    when = " to ".join(utc(each) for each in (session.get("started"), session.get("last_event")) if each is not None)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
    movies = session["movies"]
    lost = f", {movies['failed']} failed" if movies["failed"] else ""
    return (f"<h1>{escape(session['project'])}</h1><p class=muted>{escape(when)} · {escape(session['path'])}</p>"
            f"<p>{len(series)} tilt series: {escape(counts)}. {movies['aligned']} of {movies['found']} movies aligned{lost}.</p>")


def methods(session: Mapping[str, Any], series: Sequence[Mapping[str, Any]], payloads: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a text for a methods section, with its references."""
    facts = [payload["facts"] for payload in payloads.values() if payload.get("facts")]
    done = [row for row in series if row["state"] == "done"]
    programs = list(dict.fromkeys(name for each in facts for name in each.get("programs", ())))
    voltage = next((f"{each['voltage_kV']:g} kV" for each in facts if each.get("voltage_kV")), "")
    pixel = next((f"{row['pixel_size_A']:g} Å" for row in done if row.get("pixel_size_A")), "")
    optics = ", ".join(filter(None, (voltage, f"pixel size {pixel}" if pixel else "")))
    doses, tilts = numbers(done, "dose_e_A2"), numbers(done, "tilts_used")
    sentences = [f"Movies of {len(series)} tilt series were acquired{f' ({optics})' if optics else ''}, aligned as whole frames, "
                 f"and composed into series by their mdoc files during the session (tomostream {session['version']})."]
    if tilts and doses:
        sentences.append(f"{len(done)} series of {median(tilts):.0f} tilts and {median(doses):.0f} e/Å² (medians) were aligned "
                         "and reconstructed.")
    beads = numbers(done, "gold_beads")
    if any(beads):
        sentences.append(f"{sum(beads):.0f} gold beads were located in 3D and replaced in the tilt images by noise like that "
                         "around them before the reconstruction.")
    if programs:
        sentences.append(f"Programs: {', '.join(programs)}.")
    cited = list(dict.fromkeys(key for name in programs for word, key in REFERENCES if word in name.lower()))
    works = "".join(f"<li>{escape(each)}</li>" for each in references(["Mastronarde2005", *cited]))
    return f"<p>{escape(' '.join(sentences))}</p><ol>{works}</ol>"


def references(keys: Iterable[str]) -> list[str]:
    """Return a line for each of these references."""
    import bibtexparser

    from tomostream import bibtex

    known = bibtexparser.loads(bibtex.__doc__ or "").entries_dict
    found = []
    for key in keys:
        entry = {name: value.replace("{", "").replace("}", "").replace("--", "–") for name, value in known[key].items()}
        authors = entry["author"].split(" and ")
        names = ", ".join(authors) if len(authors) < 4 else f"{authors[0]} et al."
        found.append(f"{names} ({entry['year']}). {entry['title']}. {entry['journal']} {entry.get('volume', '')}: "
                     f"{entry.get('pages', '')}. {entry['doi']}")
    return found


def numbers(rows: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    """Return the known values of a column."""
    return [row[name] for row in rows if isinstance(row.get(name), (int, float))]


def figures(series: Sequence[Mapping[str, Any]]) -> str:
    """Return the median and range of what was measured."""
    lines = []
    for name, words, unit in FIGURES:
        values = numbers(series, name)
        if values:
            cells = "".join(f"<td>{value:.4g}</td>" for value in (median(values), min(values), max(values)))
            lines.append(f"<tr><td>{escape(words)}</td>{cells}<td class=text>{escape(unit)}</td></tr>")
    if not lines:
        return ""
    head = "<tr><th>of the series</th><th>median</th><th>smallest</th><th>largest</th><th class=text></th></tr>"
    return f"<h2>Figures</h2><table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>"


def failures(session: Mapping[str, Any], series: Sequence[Mapping[str, Any]]) -> str:
    """Return the failed series, and the other alarms that are on."""
    failed = [f"<li><b>{escape(row['series_id'])}</b>: {escape(row['reason'])}</li>" for row in series
              if row["state"] == "failed"]
    others = [f"<li>{escape(alarm['text'])}</li>" for alarm in session["alarms"] if alarm["kind"] != "series-failed"]
    return f"<h2>What failed and why</h2><ul>{''.join(failed + others) or '<li>Nothing.</li>'}</ul>"


def table(out: str, series: Sequence[Mapping[str, Any]], marked: Mapping[str, marks.Mark]) -> str:
    """Return the table of all series, with their small pictures embedded."""
    head = "<th>Series</th>" + "".join(f"<th>{escape(words)}</th>" for _, words, _ in TABLE) + "<th class=text>Mark</th>"
    lines = []
    for row in series:
        cells = [shown(row.get(name), digits) for name, _, digits in TABLE]
        mark = marked.get(row["series_id"], marks.Mark())
        lines.append(f"<tr{' class=failed' if row['state'] == 'failed' else ''}>"
                     f"<td>{picture(out, row)}{escape(row['series_id'])}</td>"
                     + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
                     + f"<td class=text>{escape(' – '.join(filter(None, (mark.mark.replace('-', ' '), mark.note))))}</td></tr>")
    return f"<h2>All series</h2><table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def shown(value: Any, digits: int | None) -> str:
    if value is None:
        return "–"
    return str(value) if digits is None else f"{value:.{digits}f}"


def picture(out: str, row: Mapping[str, Any]) -> str:
    """Return the small picture of a series, embedded; "" if there is none."""
    if not row.get("thumb"):
        return ""
    try:
        with open(os.path.join(out, "series", row["page"], row["thumb"]), "rb") as file:
            return f'<img alt="" src="data:image/webp;base64,{base64.b64encode(file.read()).decode()}">'
    except OSError:
        return ""


def commands(session: Mapping[str, Any], payloads: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the command lines of one series, and the versions."""
    facts = next((payload["facts"] for payload in payloads.values() if payload.get("facts", {}).get("commands")), None)
    lines = []
    if facts is not None:
        first = next((tilt["command"] for tilt in facts["tilts"] if tilt.get("command")), "")
        lines = [f"<p class=muted>Of {escape(facts['series_id'])}; those of the others differ only in files and angles.</p>",
                 *(f"<pre>{escape(each)}</pre>" for each in filter(None, [first, *facts["commands"]]))]
    versions = ", ".join(f"{name} {version}" for name, version in session.get("versions", {}).items())
    return f"<h2>Commands and versions</h2>{''.join(lines)}<p class=muted>{escape(versions)}</p>"
