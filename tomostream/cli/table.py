# SPDX-License-Identifier: GPL-3.0-or-later
"""The live table of a session, for a terminal; plain lines where the output is no terminal."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from typing import TextIO

from tomostream.journal.status import ProjectStatus, SeriesStatus

COLUMNS = (("series", 22), ("state", 15), ("tilts", 14), ("axis", 8), ("latency", 8))
#: Most rows of the live table; the newest are shown.
MAX_ROWS = 25
#: Most failed movies that are named; the newest are.
FAILED_SHOWN = 10


class Screen:
    """Shows the table again and again at the same place; without a terminal, only what changed, a line each."""

    def __init__(self, stream: TextIO, enabled: bool = True) -> None:
        self.stream = stream
        self.enabled = enabled
        self.live = enabled and stream.isatty()
        self._lines = 0
        self._told: dict[str, str] = {}

    def show(self, status: ProjectStatus, protocols: Mapping[str, str]) -> None:
        if not self.enabled:
            return
        if self.live:
            self._draw(render(status, protocols))
            return
        for series in status.series.values():
            if self._told.get(series.id) != series.state:
                self._told[series.id] = series.state
                self._print(f"{time.strftime('%H:%M:%S')}  {series.id:22.22s}  {series.state:14s}  {series.reason}")
        for name, reason in status.waiting.items():
            if self._told.get(f"\0{name}") != reason:
                self._told[f"\0{name}"] = reason
                self._print(f"{time.strftime('%H:%M:%S')}  {name} waits: {reason}")
        if self._told.get("\0disk", "") != status.shortage:
            self._told["\0disk"] = status.shortage
            self._print(f"{time.strftime('%H:%M:%S')}  {status.shortage or 'the disk is no longer short'}")

    def close(self, status: ProjectStatus) -> None:
        """The table once more, to stay."""
        if self.live:
            self._draw(render(status, {}))
        else:
            self._print("\n".join(render(status, {})))

    def _draw(self, lines: list[str]) -> None:
        width = shutil.get_terminal_size().columns
        back = f"\x1b[{self._lines}F\x1b[J" if self._lines else ""
        self._print(back + "".join(line[:width - 1] + "\n" for line in lines), end="")
        self._lines = len(lines)

    def _print(self, text: str, end: str = "\n") -> None:
        """Write; when that is no longer possible, nothing more is, and following goes on or ends as the caller decides."""
        try:
            self.stream.write(text + end)
            self.stream.flush()
        except OSError:
            self.enabled = self.live = False


def render(status: ProjectStatus, protocols: Mapping[str, str], notes: Mapping[str, str] | None = None) -> list[str]:
    """The table as lines. `notes`: series -> what is added to its reason."""
    movies = status.movie_counts()
    lines = [f"movies: {movies['found']} found, {movies['imported']} imported, {movies['aligned']} aligned, "
             f"{movies['failed']} failed"]
    if protocols:
        lines.append("protocols: " + ", ".join(f"{name} {state}" for name, state in protocols.items()))
    lines += [f"{name} waits: {reason}" for name, reason in status.waiting.items()]
    lines += [status.shortage] if status.shortage else []
    lines.append("".join(f"{name:{width}s}" for name, width in COLUMNS) + "reason")
    shown = list(status.series.values())[-MAX_ROWS:]
    if len(shown) < len(status.series):
        lines.append(f"... {len(status.series) - len(shown)} series before")
    lines += [_row(status, series, (notes or {}).get(series.id, "")) for series in shown]
    if not shown:
        lines.append("no tilt series yet")
    failed = [(name, movie.failed) for name, movie in status.movies.items() if movie.failed]
    if len(failed) > FAILED_SHOWN:
        lines.append(f"... {len(failed) - FAILED_SHOWN} failed movies before")
    lines += [f"failed movie {name}: {reason}" for name, reason in failed[-FAILED_SHOWN:]]
    lines += [f"{name}: {text}" for name, text in status.unreadable.items()]
    lines += [status.unassigned_reason] if status.unassigned_count else []
    return lines


def _row(status: ProjectStatus, series: SeriesStatus, note: str = "") -> str:
    seconds = status.latency_s(series)
    latency = "" if seconds is None else f"{seconds:.1f} s"
    expected = "?" if series.tilts_expected is None else str(series.tilts_expected)
    tilts = f"{series.tilts_seen}/{series.tilts_aligned}/{expected}"
    axis = "" if series.tilt_axis_deg is None else f"{series.tilt_axis_deg:.1f}"
    values = (series.id, series.state, tilts, axis, latency)
    row = "".join(f"{value[:width - 1]:{width}s}" for value, (_, width) in zip(values, COLUMNS, strict=True))
    return row + "; ".join(text for text in (series.reason.rstrip(".") if note else series.reason, note) if text)
