# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of every movie and every series of a project, from the ledgers of its protocols.

It reads files of the project and not its databases through Scipion, so it works at any time from any terminal, while the session
runs and afterwards. Each call reads only what is new.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tomostream.acquisition.naming import movie_key
from tomostream.journal import entries, ledger
from tomostream.journal.layout import stem

#: The version of the format of `as_json`.
FORMAT = 1
IMPORT, MOTIONCOR, COMPOSE, ARETOMO = "import", "motioncor", "compose", "aretomo"
#: Protocol -> its class, which is part of the name of its folder.
CLASSES = {IMPORT: "ProtTomoStreamImportMovies", MOTIONCOR: "ProtTomoStreamMotionCor",
           COMPOSE: "ProtTomoStreamComposeTS", ARETOMO: "ProtTomoStreamAreTomo"}
#: Protocol -> the one whose output it reads.
SOURCES = {MOTIONCOR: IMPORT, COMPOSE: MOTIONCOR, ARETOMO: COMPOSE}
#: A run says what it reads within the first bytes of its ledger.
_HEAD = 1 << 16
State = Literal["acquiring", "aligning", "waiting", "composing", "reconstructing", "done", "failed"]
STATES: tuple[State, ...] = get_args(State)


def _head_is_whole(path: str) -> bool:
    """Tell whether a ledger has grown beyond the bytes in which a run says what it reads."""
    try:
        return os.path.getsize(path) > _HEAD
    except OSError:
        return False


@dataclass
class SeriesStatus:
    """One series. Times in seconds since the epoch; None is unknown."""

    id: str
    name: str = ""
    state: State = "acquiring"
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
    result: entries.Reconstructed | None = None
    left_out: tuple[entries.LeftOut, ...] = ()
    preview: entries.Preview | None = None
    #: Its reason when it is done: a compose protocol that is continued reports earlier stages again.
    done_reason: str = ""
    #: Why late tilts are not in it, or "".
    kept: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ("done", "failed")


@dataclass
class MovieStatus:
    """One movie; `pixel_size_A` is that of its frames, the unit of the drift.

    `failed` is the reason, "" if it has not failed. `source` and `output` are its file and the name of its micrograph, `command`
    the command line (with `entries.MOVIE` and `entries.OUTPUT` for these two) of the `program` that aligned it."""

    imported: float | None = None
    written: float | None = None
    aligned: float | None = None
    failed: str = ""
    waiting: str = ""
    drift_px: float | None = None
    pixel_size_A: float | None = None
    source: str = ""
    output: str = ""
    command: str = ""
    program: str = ""

    @property
    def command_line(self) -> str:
        """The exact command line; "" if unknown."""
        return self.command.replace(entries.MOVIE, self.source).replace(entries.OUTPUT, self.output) if self.source else ""


def number(value: object) -> float | None:
    """Return a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


class ProjectStatus:
    """Follows the newest chain of protocols in a project. `update()` takes in what is new; `movies` and `series` hold the result.

    When a protocol is run again, or there is a newer chain, everything about the older run is forgotten.
    """

    def __init__(self, project: str) -> None:
        self.project = project
        self.folders: dict[str, str] = {}
        self._inputs: dict[str, str] = {}
        self.forget()

    def forget(self) -> None:
        """Forget all items, and read every ledger from the start."""
        self.movies: dict[str, MovieStatus] = {}
        self.series: dict[str, SeriesStatus] = {}
        self.not_series: dict[str, str] = {}
        self.troubles: dict[str, dict[entries.Topic, str]] = {}
        self.unassigned: dict[str, str] = {}
        self.unassigned_count = 0
        self.unassigned_reason = ""
        self.shortage = ""
        self.commands: dict[str, str] = {}
        self.programs: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.last_event: float | None = None
        self._readers = {name: ledger.LedgerReader(ledger.path_in(folder)) for name, folder in self.folders.items()}

    def update(self) -> bool:
        """Read what is new; return whether there was anything."""
        self.find()
        found = {name: reader.new() for name, reader in self._readers.items()}
        if any(reader.restarted for reader in self._readers.values()):
            self.forget()
            found = {name: reader.new() for name, reader in self._readers.items()}
        news = False
        for name in CLASSES:
            for entry in found.get(name, ()):
                news = True
                self.last_event = max(entry.time, self.last_event or 0.0)
                if entry.item:
                    getattr(self, f"_{name}")(entry)
                else:
                    self._protocol(name, entry)
        return news

    def _protocol(self, name: str, entry: entries.AnyEntry) -> None:
        """Take in what a protocol says about itself."""
        if isinstance(entry, entries.Waiting):
            self.troubles.setdefault(name, {})[entry.topic] = entry.reason
        elif isinstance(entry, entries.Space):
            self.shortage = entry.reason if entry.short else ""
        elif isinstance(entry, entries.Unassigned):
            self.unassigned, self.unassigned_reason = dict(entry.movies), entry.reason
            self.unassigned_count = len(entry.movies) if entry.count is None else entry.count
        elif isinstance(entry, entries.Command):
            self.commands[name], self.programs[name] = entry.command, entry.program
        elif isinstance(entry, entries.Session) and entry.over is not None:
            self.troubles.get(name, {}).pop(entry.over, None)
        elif isinstance(entry, entries.Session) and entry.versions:       # it starts, or goes on after it was killed
            self.versions = dict(entry.versions)
            self.troubles.pop(name, None)

    @property
    def waiting(self) -> dict[str, str]:
        """Protocol -> the latest reason that keeps it from going on."""
        return {name: list(troubles.values())[-1] for name, troubles in self.troubles.items() if troubles}

    @property
    def unreadable(self) -> dict[str, str]:
        """Protocol -> how many lines of its ledger are invalid, and what is wrong with the last one."""
        return {name: f"{reader.wrong} {'entry' if reader.wrong == 1 else 'entries'} cannot be read and "
                      f"{'is' if reader.wrong == 1 else 'are'} left out ({reader.trouble})"
                for name, reader in self._readers.items() if reader.wrong}

    def find(self) -> None:
        """Find the newest import and, for each later protocol, the newest run that reads the output of the previous one."""
        try:
            names = sorted(os.listdir(os.path.join(self.project, "Runs")), reverse=True)
        except OSError:
            return
        found: dict[str, str] = {}
        for key, class_name in CLASSES.items():
            if found and SOURCES[key] not in found:
                break                   # the remaining ones belong to an older chain
            source = os.path.basename(found.get(SOURCES.get(key, ""), ""))
            for name in names:
                folder = os.path.join(self.project, "Runs", name)
                if re.fullmatch(rf"\d+_{class_name}", name) and (not source or self._reads(folder) in (source, "")):
                    found[key] = folder
                    break
        if found != self.folders:
            known, self.folders = self.folders, found
            if not known.items() <= found.items():
                self.forget()
            for key in found.keys() - self._readers.keys():
                self._readers[key] = ledger.LedgerReader(ledger.path_in(found[key]))

    def _reads(self, folder: str) -> str:
        """Return the name of the run whose output a run reads; "" if it has not said so yet."""
        if folder not in self._inputs:
            named = next((entry.input_run for entry in ledger.read(ledger.path_in(folder), _HEAD)
                          if isinstance(entry, entries.Session) and entry.input_run), "")
            if not named and not _head_is_whole(ledger.path_in(folder)):
                return ""
            self._inputs[folder] = named         # "" is final once the head is complete, so it is not read in every update
        return self._inputs[folder]

    # ------------------------------------------------------------------ one method a protocol
    def _movie(self, name: str) -> MovieStatus:
        return self.movies.setdefault(movie_key(name), MovieStatus())

    def _import(self, entry: entries.AnyEntry) -> None:
        movie = self._movie(entry.item)
        if isinstance(entry, (entries.Imported, entries.Replaced)):
            movie.imported, movie.failed, movie.waiting = entry.time, "", ""
            # a file cannot have been written after its import: the clock of the microscope may be ahead
            movie.written = min(entry.mtime, entry.time) if entry.mtime is not None else None
        elif isinstance(entry, entries.Failed):
            movie.failed, movie.waiting = entry.reason, ""
        elif isinstance(entry, entries.Waiting):
            movie.waiting = entry.reason

    def _motioncor(self, entry: entries.AnyEntry) -> None:
        movie = self._movie(entry.item)
        if isinstance(entry, entries.Aligned):
            movie.aligned, movie.failed, movie.waiting = entry.time, "", ""
            movie.drift_px, movie.pixel_size_A, movie.source = entry.drift_px, entry.pixel_size_A, entry.movie
            movie.output = os.path.splitext(os.path.basename(entry.file))[0]
            movie.command, movie.program = self.commands.get(MOTIONCOR, ""), self.programs.get(MOTIONCOR, "")
        elif isinstance(entry, entries.Failed):
            movie.failed, movie.waiting = entry.reason, ""
        elif isinstance(entry, entries.Waiting):
            movie.waiting = entry.reason

    def _series(self, entry: entries.AnyEntry) -> SeriesStatus:
        return self.series.setdefault(entry.item, SeriesStatus(entry.item))

    def _compose(self, entry: entries.AnyEntry) -> None:
        if isinstance(entry, entries.NotASeries):
            self.not_series[entry.item] = entry.reason
            self.series.pop(entry.item, None)
            return
        if isinstance(entry, entries.Series) and entry.state == "ignored":
            self.not_series.setdefault(entry.item, entry.reason)
            self.series.pop(entry.item, None)
            return
        series = self._series(entry)
        self.not_series.pop(entry.item, None)
        if isinstance(entry, entries.Series):
            self._counts(series, entry)
        elif isinstance(entry, entries.Preview):
            series.preview = entry
        elif isinstance(entry, entries.Composed):
            series.composed = entry.time
            series.composed_first = series.composed_first or entry.time
            series.done_reason = series.kept = ""
            series.version, series.movies, series.tilts_used = entry.version, entry.movies, len(entry.movies)
            series.tilt_axis_deg, series.left_out = entry.tilt_axis, entry.left_out
            series.tilt_series = os.path.join(self.folders[COMPOSE], "extra", f"{stem(series.id, series.version)}.mrcs")
            series.state, series.reason = "reconstructing", entry.reason
        elif isinstance(entry, entries.Kept):
            series.kept = entry.reason
            series.reason = _with_kept(series.reason, entry.reason)
            series.done_reason = _with_kept(series.done_reason, entry.reason) if series.done_reason else ""
        elif isinstance(entry, entries.Failed):
            series.state, series.reason = "failed", entry.reason
        elif isinstance(entry, entries.Started):
            series.state, series.reason = "composing", entry.reason
        elif isinstance(entry, entries.Waiting):
            series.state, series.reason = "waiting", entry.reason

    @staticmethod
    def _counts(series: SeriesStatus, entry: entries.Series) -> None:
        if series.state == "done" and entry.seen <= series.tilts_seen and entry.version <= series.version:
            return                  # a compose protocol that was continued reports again what is done
        if entry.state == "composed" and series.state in ("acquiring", "aligning", "waiting") and series.done_reason:
            series.state, series.reason = "done", series.done_reason        # later tilts changed nothing
        series.name, series.tilts_seen, series.tilts_aligned = entry.name, entry.seen, entry.aligned
        series.tilts_expected = series.tilts_expected if entry.expected is None else entry.expected
        if entry.state in ("acquiring", "aligning", "waiting") or (entry.state == "failed" and not series.ended):
            series.state, series.reason = entry.state, entry.reason

    def _aretomo(self, entry: entries.AnyEntry) -> None:
        series = self._series(entry)
        version = getattr(entry, "version", None)
        if version is not None and version < series.version:
            return                                  # a version that was replaced meanwhile
        if isinstance(entry, entries.Reconstructed):
            series.state, series.reason, series.reconstructed = "done", entry.reason, entry.time
            series.tilts_used = series.tilts_used if entry.tilts_used is None else entry.tilts_used
            series.tilt_axis_deg = series.tilt_axis_deg if entry.tilt_axis is None else entry.tilt_axis
            series.tomogram = os.path.join(self.project, entry.tomogram) if entry.tomogram else None
            series.result = entry
            if series.left_out:
                series.reason += f"; without {'; '.join(map(_named, series.left_out))}"
            series.reason = _with_kept(series.reason, series.kept) if series.kept else series.reason
            series.done_reason = series.reason
        elif isinstance(entry, entries.Failed):
            series.state, series.reason = "failed", entry.reason
        elif isinstance(entry, (entries.Started, entries.Retried)):
            series.state, series.reason = "reconstructing", entry.reason
        elif isinstance(entry, entries.Waiting):
            series.state, series.reason = "waiting", entry.reason

    # ------------------------------------------------------------------ results
    def times(self, series: SeriesStatus) -> dict[str, float | None]:
        """Return when the last movie of a series was written, imported and aligned, and when it was composed and
        reconstructed."""
        movies = [self.movies[key] for key in series.movies if key in self.movies]

        def last(values: Iterable[float | None]) -> float | None:
            known = [value for value in values if value is not None]
            return max(known) if known else None

        return {"last_movie": last(movie.written for movie in movies), "imported": last(movie.imported for movie in movies),
                "aligned": last(movie.aligned for movie in movies), "composed": series.composed,
                "reconstructed": series.reconstructed}

    def latency_s(self, series: SeriesStatus) -> float | None:
        """Return the seconds from the last movie of a series on disk to its tomogram; None if there is none yet, or if it was
        made again at the request of people rather than because of a movie."""
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

    def as_json(self) -> dict[str, Any]:
        """Return what `tomostream status --json` prints."""
        series = [{
            "id": each.id, "state": each.state, "reason": each.reason, "tilts_expected": each.tilts_expected,
            "tilts_used": each.tilts_used, "tilt_axis_deg": each.tilt_axis_deg, "tilt_series": each.tilt_series,
            "tomogram": each.tomogram, "times": self.times(each)} for each in self.series.values()]
        states = Counter(each.state for each in self.series.values())
        movies = {"failed": {name: movie.failed for name, movie in self.movies.items() if movie.failed},
                  "waiting": {name: movie.waiting for name, movie in self.movies.items() if movie.waiting},
                  "unassigned": self.unassigned}
        return {"format": FORMAT, "series": series, "ignored": self.not_series, "movies": movies,
                "counts": {"movies": self.movie_counts(),
                           "series": {state: states[state] for state in STATES if states[state]}}}


def _with_kept(reason: str, kept: str) -> str:
    return reason if kept in reason else f"{reason}; {kept}"


def _named(left: entries.LeftOut) -> str:
    """Describe a tilt that was left out."""
    angle = "an unknown angle" if left.angle is None else f"{left.angle:.1f} degrees"
    return f"{left.movie or 'a tilt'} at {angle}: {left.reason}"
