# SPDX-License-Identifier: GPL-3.0-or-later
"""The live table of a session in a terminal; plain lines if the output is not a terminal."""

from __future__ import annotations

import os
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from tomostream.journal.status import STATES, ProjectStatus, SeriesStatus

COLUMNS = (("series", 22), ("state", 15), ("tilts", 14), ("axis", 8), ("latency", 8))
MAX_ROWS = 25
#: How many failed movies are named, the newest.
FAILED_SHOWN = 10
#: Columns and rows of a terminal whose size is not known.
USUAL_SIZE = (80, 24)
#: Rows that are kept for the table, at the cost of the lines above it.
MIN_HEIGHT = 3


class Screen:
    """Redraws the table in place; without a terminal, prints a line for each change."""

    def __init__(self, stream: TextIO, enabled: bool) -> None:
        self.stream = stream
        self.enabled = enabled
        self.live = enabled and stream.isatty()
        self._lines = 0
        self._size = self._terminal_size() if self.live else USUAL_SIZE
        self._reported: dict[str, str] = {}

    def show(self, status: ProjectStatus, protocols: Mapping[str, str]) -> None:
        if not self.enabled:
            return
        if self.live:
            self._draw(status, protocols)
            return
        for series in status.series.values():
            if self._reported.get(series.id) != series.state:
                self._reported[series.id] = series.state
                self._print(f"{time.strftime('%H:%M:%S')}  {series.id:22.22s}  {series.state:14s}  {series.reason}")
        for name, reason in status.waiting.items():
            if self._reported.get(f"\0{name}") != reason:
                self._reported[f"\0{name}"] = reason
                self._print(f"{time.strftime('%H:%M:%S')}  {name} waits: {reason}")
        if self._reported.get("\0disk", "") != status.shortage:
            self._reported["\0disk"] = status.shortage
            self._print(f"{time.strftime('%H:%M:%S')}  {status.shortage or 'disk space is sufficient again'}")

    def close(self, status: ProjectStatus) -> None:
        """Print the whole table a last time, to stay."""
        self._print(self._back() + self._over(map(printable, render(status, {}))), end="")
        self._lines = 0

    def _draw(self, status: ProjectStatus, protocols: Mapping[str, str]) -> None:
        size = self._terminal_size()
        back, self._size = "\x1b[H" if size != self._size else self._back(), size      # a new width may have wrapped lines
        columns, rows = size
        lines = fit(status, protocols, rows - 1, columns - 1)       # the last row is for the cursor
        self._print(back + self._over(cut(line, columns - 1) for line in lines), end="")
        self._lines = len(lines)

    def _back(self) -> str:
        """Return the escape sequence that moves to the first line of the table."""
        return f"\x1b[{self._lines}F" if self._lines else ""

    def _over(self, lines: Iterable[str]) -> str:
        """Return the text that overwrites the table with lines. The screen is not cleared, because tmux and others would then
        keep a copy of it in their scrollback, once a second."""
        if not self.live:
            return "".join(f"{line}\n" for line in lines)
        return "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J"

    def _terminal_size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self.stream.fileno())
        except OSError:
            return USUAL_SIZE
        return size.columns or USUAL_SIZE[0], size.lines or USUAL_SIZE[1]

    def _print(self, text: str, end: str = "\n") -> None:
        """Write; once that fails, nothing more is written, and the caller decides whether to go on following."""
        try:
            self.stream.write(text + end)
            self.stream.flush()
        except OSError:
            self.enabled = self.live = False


def render(status: ProjectStatus, protocols: Mapping[str, str], notes: Mapping[str, str] | None = None,
           limit: int | None = MAX_ROWS) -> list[str]:
    """Return the table as lines, failed series first. `notes`: series -> text added to its reason. `limit`: None shows all
    series."""
    shown = chosen(status.series.values(), limit, ("failed", "", "done"))
    lines = [*_head(status, protocols), *_rows(status, shown, notes or {})]
    if len(shown) < len(status.series):
        lines.append(f"... and {len(status.series) - len(shown)} more series; --all shows them")
    failed = [(name, movie.failed) for name, movie in status.movies.items() if movie.failed]
    if len(failed) > FAILED_SHOWN:
        lines.append(f"... {len(failed) - FAILED_SHOWN} earlier failed movies")
    lines += [f"failed movie {name}: {reason}" for name, reason in failed[-FAILED_SHOWN:]]
    lines += [f"{name}: {text}" for name, text in status.unreadable.items()]
    lines += [status.unassigned_reason] if status.unassigned_count else []
    if status.not_series:
        names = ", ".join([*list(status.not_series)[:5], *(["..."] if len(status.not_series) > 5 else [])])
        lines.append(f"{len(status.not_series)} mdoc files are not tilt series (maps, montages): {names}")
    return lines


def fit(status: ProjectStatus, protocols: Mapping[str, str], height: int, width: int) -> list[str]:
    """Return the most useful part of the table for a number of lines: the counts, then series in progress, then the newest."""
    head = _head(status, protocols)[:max(0, height - MIN_HEIGHT)]
    if protocols and head and len(head[0]) > width:
        head[0] = _by_state(protocols)
    room = min(height - len(head) - 2, MAX_ROWS)        # minus the titles, and a line on how many are not shown
    shown = chosen(status.series.values(), max(0, room), ("", "failed", "done"))
    lines = [*head, *_rows(status, shown, {})]
    if len(shown) < len(status.series):
        lines.append(f"... and {len(status.series) - len(shown)} more series")
    return lines[:max(0, height)]


def chosen(series: Iterable[SeriesStatus], limit: int | None, order: Sequence[str]) -> list[SeriesStatus]:
    """Return the series to show, group by group ("" is all that have not ended), the newest of each, in their order."""
    groups: dict[str, list[SeriesStatus]] = {name: [] for name in order}
    for each in series:
        groups[each.state if each.ended else ""].append(each)
    found: list[SeriesStatus] = []
    for group in groups.values():
        room = len(group) if limit is None else max(0, limit - len(found))
        found += group[max(0, len(group) - room):]
    return found


def _head(status: ProjectStatus, protocols: Mapping[str, str]) -> list[str]:
    """Return lines with the states of the protocols, the counts, and what the protocols wait for."""
    movies, states = status.movie_counts(), Counter(series.state for series in status.series.values())
    lines = [f"protocols: {', '.join(f'{name} {state}' for name, state in protocols.items())}"] if protocols else []
    lines.append(f"movies: {movies['found']} found, {movies['imported']} imported, {movies['aligned']} aligned, "
                 f"{movies['failed']} failed")
    if states:
        lines.append("series: " + ", ".join(f"{states[state]} {state}" for state in STATES if states[state]))
    lines += [f"{name} waits: {reason}" for name, reason in status.waiting.items()
              if protocols.get(name, "running") in ("running", "starting")]        # one that has ended waits for nothing
    return lines + ([status.shortage] if status.shortage else [])


def _by_state(protocols: Mapping[str, str]) -> str:
    """Return the states of the protocols, the rarest first, so that a dead one is visible on a narrow terminal."""
    names: dict[str, list[str]] = {}
    for name, state in protocols.items():
        names.setdefault(state, []).append(name)
    if len(names) == 1:
        return f"protocols: all {next(iter(names))}"
    rarest_first = sorted(names.items(), key=lambda each: len(each[1]))
    return "protocols: " + "; ".join(f"{state}: {', '.join(each)}" for state, each in rarest_first)


def _rows(status: ProjectStatus, shown: Sequence[SeriesStatus], notes: Mapping[str, str]) -> list[str]:
    if not status.series:
        return ["no tilt series yet"]
    titles = "".join(f"{name:{width}s}" for name, width in COLUMNS) + "reason"
    return [titles, *(_row(status, series, notes.get(series.id, "")) for series in shown)]


def _row(status: ProjectStatus, series: SeriesStatus, note: str) -> str:
    seconds = status.latency_s(series)
    latency = "" if seconds is None else f"{seconds:.1f} s"
    expected = "?" if series.tilts_expected is None else str(series.tilts_expected)
    tilts = f"{series.tilts_seen}/{series.tilts_aligned}/{expected}"
    axis = "" if series.tilt_axis_deg is None else f"{series.tilt_axis_deg:.1f}"
    values = (series.id, series.state, tilts, axis, latency)
    row = "".join(f"{value[:width - 1]:{width}s}" for value, (_, width) in zip(values, COLUMNS, strict=True))
    return row + "; ".join(text for text in (series.reason.rstrip(".") if note else series.reason, note) if text)


def printable(line: str) -> str:
    """Return a line without control characters, which file names may contain."""
    return "".join(sign if sign.isprintable() else " " for sign in line)


def cut(line: str, columns: int) -> str:
    """Return as much of a line as fits into a number of terminal columns."""
    width, kept = 0, []
    for sign in printable(line):
        width += 0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1
        if width > columns:
            break
        kept.append(sign)
    return "".join(kept)
