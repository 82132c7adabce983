# SPDX-License-Identifier: GPL-3.0-or-later
"""Where every movie and every series of a project stands, from the ledgers of its protocols.

Pure: it reads files of the project, never its databases through Scipion, so it works at any time from any terminal, while
the session runs and afterwards. Each call reads only what is new.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TypeVar

from tomostream.acquisition.naming import movie_key
from tomostream.journal import ledger

IMPORT, MOTIONCOR, COMPOSE, ARETOMO = "import", "motioncor", "compose", "aretomo"
Default = TypeVar("Default", int, None)
#: Protocol of a `tomostream run` -> its class, which is in the name of its folder.
CLASSES = {IMPORT: "ProtTomoStreamImportMovies", MOTIONCOR: "ProtTomoStreamMotionCor",
           COMPOSE: "ProtTomoStreamComposeTS", ARETOMO: "ProtTomoStreamAreTomo"}
STATES = ("acquiring", "aligning", "waiting", "composing", "reconstructing", "done", "failed")


@dataclass
class SeriesStatus:
    """One series, as `tomostream status --json` gives it. Times in seconds since the epoch, None where unknown."""

    id: str
    name: str = ""
    state: str = "acquiring"
    reason: str = ""
    tilts_expected: int | None = None
    tilts_seen: int = 0
    tilts_aligned: int = 0
    tilts_used: int | None = None
    tilt_axis_deg: float | None = None
    tilt_series: str | None = None
    tomogram: str | None = None
    version: int = 0
    movies: tuple[str, ...] = ()
    composed: float | None = None
    composed_first: float | None = None
    reconstructed: float | None = None
    details: dict = field(default_factory=dict)
    left_out: tuple = ()
    preview: dict = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.state in ("done", "failed")


@dataclass
class MovieStatus:
    """One movie. `failed` is the reason, "" when it has not failed. `source` and `output` are its file and the name of its
    micrograph, `command` the line with which it was aligned (with `ledger.MOVIE` and `ledger.OUTPUT` in place of these two)
    and `program` whose line it is."""

    imported: float | None = None
    written: float | None = None
    aligned: float | None = None
    failed: str = ""
    waiting: str = ""
    drift_px: float | None = None
    source: str = ""
    output: str = ""
    command: str = ""
    program: str = ""

    @property
    def command_line(self) -> str:
        """The exact command line; "" where it is not known."""
        return self.command.replace(ledger.MOVIE, self.source).replace(ledger.OUTPUT, self.output) if self.source else ""


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def whole(value: object, default: Default) -> int | Default:
    """A whole number; `default` where it is none."""
    known = number(value)
    return default if known is None else int(known)


class ProjectStatus:
    """Follows a project. `update()` takes in what is new; `movies` and `series` hold the result."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.movies: dict[str, MovieStatus] = {}
        self.series: dict[str, SeriesStatus] = {}
        self.not_series: dict[str, str] = {}
        self.waiting: dict[str, str] = {}
        self.unassigned: dict[str, str] = {}
        self.unassigned_count = 0
        self.unassigned_reason = ""
        self.shortage = ""
        self.commands: dict[str, str] = {}
        self.programs: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.last_event: float | None = None
        self.folders: dict[str, str] = {}
        self._readers: dict[str, ledger.LedgerReader] = {}

    def update(self) -> bool:
        """Read what is new; True when there was anything."""
        self.find()
        news = False
        for name in (IMPORT, MOTIONCOR, COMPOSE, ARETOMO):
            reader = self._readers.get(name)
            for entry in reader.new() if reader else ():
                news = True
                self.last_event = max(entry.time, self.last_event or 0.0)
                if entry.item:
                    getattr(self, f"_{name}")(entry)
                elif entry.event == ledger.WAITING:
                    self.waiting[name] = entry.reason
                elif entry.event == ledger.UNASSIGNED:
                    told = entry.evidence.get("movies")
                    self.unassigned = {str(key): str(why) for key, why in told.items()} if isinstance(told, dict) else {}
                    self.unassigned_count = whole(entry.evidence.get("count"), len(self.unassigned))
                    self.unassigned_reason = entry.reason
                elif "short" in entry.evidence:
                    self.shortage = entry.reason if entry.evidence["short"] else ""
                else:
                    self.waiting.pop(name, None)
                    if "command" in entry.evidence:
                        self.commands[name] = str(entry.evidence["command"])
                        self.programs[name] = str(entry.evidence.get("program", ""))
                    if isinstance(entry.evidence.get("versions"), dict):
                        self.versions = {str(key): str(value) for key, value in entry.evidence["versions"].items()}
        return news

    def find(self) -> None:
        """The newest run of each of the four protocols."""
        try:
            names = sorted(os.listdir(os.path.join(self.project, "Runs")))
        except OSError:
            return
        for key, class_name in CLASSES.items():
            runs = [name for name in names if re.fullmatch(rf"\d+_{class_name}", name)]
            if runs and self.folders.get(key) != os.path.join(self.project, "Runs", runs[-1]):
                self.folders[key] = os.path.join(self.project, "Runs", runs[-1])
                self._readers[key] = ledger.LedgerReader(ledger.path_in(self.folders[key]))

    # ------------------------------------------------------------------ one method a protocol
    def _movie(self, name: str) -> MovieStatus:
        return self.movies.setdefault(movie_key(name), MovieStatus())

    def _import(self, entry: ledger.Entry) -> None:
        movie = self._movie(entry.item)
        if entry.event in (ledger.IMPORTED, ledger.REPLACED):
            movie.imported, movie.failed, movie.waiting = entry.time, "", ""
            written = number(entry.evidence.get("mtime"))
            # a microscope whose clock is ahead: no file was written after it was imported
            movie.written = min(written, entry.time) if written is not None else None
        elif entry.event == ledger.FAILED:
            movie.failed, movie.waiting = entry.reason, ""
        elif entry.event == ledger.WAITING:
            movie.waiting = entry.reason

    def _motioncor(self, entry: ledger.Entry) -> None:
        movie = self._movie(entry.item)
        if entry.event == ledger.ALIGNED:
            movie.aligned, movie.failed = entry.time, ""
            movie.drift_px = number(entry.evidence.get("drift_px"))
            movie.source = str(entry.evidence.get("movie", ""))
            movie.output = os.path.splitext(os.path.basename(str(entry.evidence.get("file", ""))))[0]
            movie.command, movie.program = self.commands.get(MOTIONCOR, ""), self.programs.get(MOTIONCOR, "")
        elif entry.event == ledger.FAILED:
            movie.failed = entry.reason

    def _series(self, entry: ledger.Entry) -> SeriesStatus:
        return self.series.setdefault(entry.item, SeriesStatus(entry.item))

    def _compose(self, entry: ledger.Entry) -> None:
        if entry.event == ledger.NOT_A_SERIES:
            self.not_series[entry.item] = entry.reason
            self.series.pop(entry.item, None)
            return
        series, facts = self._series(entry), entry.evidence
        self.not_series.pop(entry.item, None)
        if entry.event == ledger.SERIES:
            self._counts(series, entry)
        elif entry.event == ledger.PREVIEW:
            series.preview = dict(facts)
        elif entry.event == ledger.COMPOSED:
            series.composed = entry.time
            series.composed_first = series.composed_first or entry.time
            series.version = whole(facts.get("version"), 1)
            series.movies = tuple(str(movie) for movie in facts.get("movies", ()))
            series.tilts_used = len(series.movies)
            series.tilt_axis_deg = number(facts.get("tilt_axis"))
            series.left_out = tuple(tuple(each) for each in facts.get("left_out", ()))
            stem = series.id if series.version == 1 else f"{series.id}-v{series.version}"
            series.tilt_series = os.path.join(self.folders[COMPOSE], "extra", f"{stem}.mrcs")
            series.state, series.reason = "reconstructing", entry.reason
        elif entry.event == ledger.FAILED:
            series.state, series.reason = "failed", entry.reason
        elif entry.event == ledger.STARTED:
            series.state, series.reason = "composing", entry.reason

    @staticmethod
    def _counts(series: SeriesStatus, entry: ledger.Entry) -> None:
        facts = entry.evidence
        series.name = str(facts.get("name", ""))
        series.tilts_seen, series.tilts_aligned = whole(facts.get("seen"), 0), whole(facts.get("aligned"), 0)
        series.tilts_expected = whole(facts.get("expected"), series.tilts_expected)
        state = str(facts.get("state", ""))
        if state in ("acquiring", "aligning", "waiting"):
            series.state, series.reason = state, entry.reason
        elif state == "failed" and not series.ended:
            series.state, series.reason = state, entry.reason

    def _aretomo(self, entry: ledger.Entry) -> None:
        series, facts = self._series(entry), entry.evidence
        if whole(facts.get("version"), series.version) < series.version:
            return                                  # of a version that was replaced meanwhile
        if entry.event == ledger.RECONSTRUCTED:
            series.state, series.reason, series.reconstructed = "done", entry.reason, entry.time
            series.tilts_used = whole(facts.get("tilts_used"), series.tilts_used)
            axis = number(facts.get("tilt_axis"))
            series.tilt_axis_deg = series.tilt_axis_deg if axis is None else axis
            tomogram = facts.get("tomogram")
            series.tomogram = os.path.join(self.project, str(tomogram)) if tomogram else None
            series.details = dict(facts)
            if series.left_out:
                names = "; ".join(f"{movie or 'a tilt'} at {'?' if number(angle) is None else f'{angle:.1f}'} degrees: {why}"
                                  for movie, angle, why in series.left_out)
                series.reason += f"; without {names}"
        elif entry.event == ledger.FAILED:
            series.state, series.reason = "failed", entry.reason
        elif entry.event in (ledger.STARTED, ledger.RETRIED):
            series.state, series.reason = "reconstructing", entry.reason

    # ------------------------------------------------------------------ results
    def times(self, series: SeriesStatus) -> dict[str, float | None]:
        """When the last of its movies was written, imported, aligned; when it was composed and reconstructed."""
        movies = [self.movies[key] for key in series.movies if key in self.movies]

        def last(values):
            known = [value for value in values if value is not None]
            return max(known) if known else None

        return {"last_movie": last(movie.written for movie in movies), "imported": last(movie.imported for movie in movies),
                "aligned": last(movie.aligned for movie in movies), "composed": series.composed,
                "reconstructed": series.reconstructed}

    def latency_s(self, series: SeriesStatus) -> float | None:
        """Seconds from the last movie of a series on disk to its tomogram; None where there is none yet, and where people had
        it made again (a movie did not make it newer)."""
        times = self.times(series)
        last, done = times["last_movie"] or times["imported"], times["reconstructed"]
        if last is None or done is None or (series.version > 1 and last < (series.composed_first or 0.0)):
            return None
        return max(0.0, done - last)

    def movie_counts(self) -> dict[str, int]:
        movies = self.movies.values()
        return {"found": len(self.movies), "imported": sum(movie.imported is not None for movie in movies),
                "aligned": sum(movie.aligned is not None for movie in movies),
                "failed": sum(bool(movie.failed) for movie in movies)}

    def as_json(self) -> dict:
        """What `tomostream status --json` prints."""
        series = [{
            "id": each.id, "state": each.state, "reason": each.reason, "tilts_expected": each.tilts_expected,
            "tilts_used": each.tilts_used, "tilt_axis_deg": each.tilt_axis_deg, "tilt_series": each.tilt_series,
            "tomogram": each.tomogram, "times": self.times(each)} for each in self.series.values()]
        states = Counter(each.state for each in self.series.values())
        movies = {"failed": {name: movie.failed for name, movie in self.movies.items() if movie.failed},
                  "waiting": {name: movie.waiting for name, movie in self.movies.items() if movie.waiting},
                  "unassigned": self.unassigned}
        return {"series": series, "movies": movies, "counts": {"movies": self.movie_counts(),
                                             "series": {state: states[state] for state in STATES if states[state]}}}
