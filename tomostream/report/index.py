# SPDX-License-Identifier: GPL-3.0-or-later
"""The page that lists many sessions: a table, rewritten when something has changed. Plain HTML, all text escaped."""

from __future__ import annotations

import html
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from tomostream.files.writing import write_text
from tomostream.journal.runs import DEAD, FAILED, FINISHED
from tomostream.journal.status import CLASSES
from tomostream.report.notify import one_line, utc
from tomostream.report.tables import unscript

#: Seconds without an update after which the page of a running session counts as no longer written.
STALE_SECONDS = 45.0
REFRESH_SECONDS = 15
_HEAD = ("Microscope", "Session", "State", "Tomograms", "Movies", "Failed", "Alarms", "Last event")


@dataclass(frozen=True)
class Listed:
    """A session to list. `page`: folder of its page, or a link to it; `note`: shown if there is no page yet."""

    microscope: str
    session: str
    project: str
    page: str
    note: str = ""


@dataclass(frozen=True)
class Row:
    """The row of a session; `address`: of its page, relative to the index, or ""."""

    microscope: str
    session: str
    project: str
    state: str
    grave: bool = False
    done: int = 0
    series: int = 0
    failed: int = 0
    aligned: int = 0
    movies: int = 0
    alarms: tuple[str, ...] = ()
    last_event: float | None = None
    address: str = ""


class Index:
    """Writes `index.html` and `sessions.json` into a folder.

    Parameters
    ----------
    folder : created if necessary.
    clock : seconds since the epoch.
    """

    def __init__(self, folder: str, clock: Callable[[], float] = time.time) -> None:
        self.folder, self._clock = folder, clock
        self._read: dict[str, tuple[int, Mapping[str, Any]]] = {}
        self._written = ""

    def write(self, sessions: Sequence[Listed], troubles: Sequence[str] = ()) -> bool:
        """Write the table, newest event first; return False if nothing has changed.

        Raises
        ------
        OSError : it cannot be written.
        """
        rows = sorted((self._row(each) for each in sessions), key=lambda row: row.last_event or float("inf"), reverse=True)
        body = render(rows, troubles)
        if body == self._written:
            return False
        os.makedirs(self.folder, exist_ok=True)
        style = resources.files("tomostream.report").joinpath("static").joinpath("style.css").read_text(encoding="utf-8")
        write_text(os.path.join(self.folder, "style.css"), style)
        write_text(os.path.join(self.folder, "sessions.json"), json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        write_text(os.path.join(self.folder, "index.html"), body)
        self._written = body
        return True

    def _row(self, listed: Listed) -> Row:
        session = self._session(listed.page)
        known = Row(listed.microscope, listed.session, listed.project, listed.note or "starting", bool(listed.note))
        if not session:
            return known
        state, grave = standing(session, self._clock())
        series, movies = session.get("series", {}), session.get("movies", {})
        kinds = session.get("kinds", {})
        return Row(
            listed.microscope, listed.session, listed.project, state, grave, series.get("done", 0), sum(series.values()),
            series.get("failed", 0), movies.get("aligned", 0), movies.get("found", 0),
            tuple(one_line(f"{kinds.get(each['kind'], each['kind'])}: {each['text']}") for each in session.get("alarms", ())),
            session.get("last_event"),
            os.path.relpath(os.path.join(os.path.realpath(listed.page), "index.html"), os.path.realpath(self.folder)))

    def _session(self, page: str) -> Mapping[str, Any]:
        """Return the data of a session from its page, which is read only if it has changed."""
        path = os.path.join(page, "data", "session.js")
        try:
            stamp = os.stat(path).st_mtime_ns
            if self._read.get(path, (0, {}))[0] != stamp:
                with open(path, encoding="utf-8") as file:
                    session = unscript(file.read())[-1]
                self._read[path] = (stamp, session if isinstance(session, dict) else {})
        except (OSError, ValueError):
            return self._read.get(path, (0, {}))[1]
        return self._read[path][1]


def standing(session: Mapping[str, Any], now: float) -> tuple[str, bool]:
    """Return the state of a session in words, and whether it needs a person. Ended means by itself."""
    states = session.get("protocols", {})
    dead = [name for name in CLASSES if states.get(name) in (DEAD, FAILED)]
    if dead:
        return f"{', '.join(dead)} died", True
    if not session.get("running"):
        return ("ended" if states and all(state == FINISHED for state in states.values()) else "stopped"), False
    if now - session.get("updated", now) > STALE_SECONDS:
        return "running, but its page is not being written", True
    return "running", False


def render(rows: Sequence[Row], troubles: Sequence[str]) -> str:
    """Return the page."""
    lines = ["<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8"><title>tomostream sessions</title>',
             f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}"><meta name="viewport" content="width=device-width">',
             '<link rel="stylesheet" href="style.css"></head><body>',
             '<header id="top"><span class="brand">tomostream</span><h1>Sessions</h1></header><main>']
    lines += [f'<div class="alarm grave"><span>{_safe(text)}</span></div>' for text in troubles]
    lines.append(f'<section class="card"><table><thead><tr>{"".join(f"<th>{name}</th>" for name in _HEAD)}</tr></thead><tbody>')
    lines += map(_line, rows)
    lines.append(f"</tbody></table>{'' if rows else '<p class=muted>No sessions yet.</p>'}</section></main></body></html>")
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    name = _safe(row.session)
    alarms = f'<span class="bad" title="{_safe(chr(10).join(row.alarms))}">{len(row.alarms)}: {_safe(row.alarms[0])}</span>' \
        if row.alarms else "none"
    cells = (_safe(row.microscope), f'<a href="{_address(row.address)}">{name}</a>' if row.address else name,
             f'<span class="{"bad" if row.grave else "good" if row.state == "running" else "muted"}">{_safe(row.state)}</span>',
             f"{row.done} of {row.series}", f"{row.aligned} of {row.movies}",
             f'<span class="bad">{row.failed}</span>' if row.failed else "0", alarms,
             _safe(utc(row.last_event)) if row.last_event is not None else "–")
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _safe(text: str) -> str:
    return html.escape("\n".join(map(one_line, text.split("\n"))))


def _address(path: str) -> str:
    from urllib.parse import quote

    return html.escape(quote(os.fsencode(path)))
