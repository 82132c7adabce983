# SPDX-License-Identifier: GPL-3.0-or-later
"""The live page: a folder of static files that is written while the session runs.

    index.html app.js style.css      the page, the same for every session
    data/session.js                  the session: small, written at every update
    data/rows-000.js ...             the table, 50 series a file: only files with a changed series are written
    series/NAME/data.js *.webp       one series, written when it changes
    metrics.csv session.json         the table for scripts; COLUMNS.txt says what the columns are
    alarms.log                       one line for every alarm that was raised or is over

Every file is written under another name and renamed. Pictures are made in one thread of its own, so that the page goes on
while a large tomogram is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import asdict, dataclass, replace
from importlib import resources
from typing import Any

from tomostream import __version__
from tomostream.acquisition.naming import movie_key
from tomostream.engine.preview import Request
from tomostream.report import pictures, tables
from tomostream.report.alarms import KINDS, Alarms, Event, Finding, Thresholds, counts_of_expected
from tomostream.report.facts import SeriesFacts, from_json, series_facts, to_json, with_files
from tomostream.report.follow import BAR, Follower
from tomostream.report.notify import Notifier, utc
from tomostream.report.preview import Previews, request_of
from tomostream.report.tables import CHUNK, Entry
from tomostream.status import MovieStatus, SeriesStatus

FOLDER = "report"
STATIC = ("index.html", "app.js", "style.css")
#: Where the alarms that hold are kept: for summaries, and so that a second writer does not tell them again.
ALARMS = os.path.join("data", "alarms.json")
#: Seconds: the page is told that it is alive at least so often.
HEARTBEAT = 5.0
#: The tables for scripts are whole files, so writing them is bounded: a pause of at least so many seconds, so many times
#: what the last one took, and so many bytes a second at most.
TABLES_EVERY, TABLES_PAUSE, TABLES_BYTES = 5.0, 100.0, 200_000
#: Series whose pictures may be in the making at the same time, the one that is made included.
IN_FLIGHT = 2
#: A preview is begun while at most so many movies wait to be aligned, and ended when there are more than so many.
FEW_MOVIES, MANY_MOVIES = 2, 6
#: Protocol states after which nothing more comes.
ENDED = ("finished", "stopped", "dead")
#: What of a series comes from its files, not from the ledgers.
FROM_FILES = ("tilt_axis_source", "voltage_kV", "pixel_size_A", "tilts", "warnings", "mdocs", "programs", "ctf_note")
#: End of a file's name -> what it is.
MEANINGS = {".aln": "alignment (AreTomo)", "_ctf.txt": "CTF", "_quality.json": "quality", ".log": "log",
            ".tlt": "tilt angles, order, dose", ".xf": "alignment (IMOD)"}
StatesOf = Callable[[Mapping[str, str]], Mapping[str, str]]


@dataclass(frozen=True)
class Made:
    """What the pictures' thread gives back for one series."""

    facts: SeriesFacts
    pictures: dict[str, Any]
    trouble: str = ""


class ReportWriter:
    """Writes the live page of a project. `update()` again and again; `close()` at the end.

    Parameters
    ----------
    project : folder of the Scipion project.
    out : folder of the page; by default `report` inside the project.
    thresholds : of the alarms.
    notifier : sends alarms on; None sends none.
    states : working folders of the protocols (name -> path) to their states (name -> "running", "finished", ...).
    say : told of every alarm, a line each.
    clock : seconds since the epoch.
    """

    def __init__(self, project: str, out: str | None = None, thresholds: Thresholds | None = None,
                 notifier: Notifier | None = None, states: StatesOf | None = None,
                 say: Callable[[str], None] | None = None, clock: Callable[[], float] = time.time) -> None:
        self.project = os.path.abspath(project)
        self.out = os.path.abspath(out) if out else os.path.join(self.project, FOLDER)
        self.follower = Follower(self.project)
        self.alarms = Alarms(thresholds)
        self.notifier = notifier
        self._states_of, self._say, self._clock = states, say or (lambda _: None), clock
        self._states: dict[str, str] = {}
        self._index: dict[str, int] = {}
        self._entries: dict[str, Entry] = {}
        self._cells: list[list[Any] | None] = []
        self._revisions: list[int] = []
        self._dirty: dict[int, None] = {}
        self._folders: dict[str, str] = {}
        self._taken: set[str] = set()
        self._signatures: dict[str, list[Any]] = {}
        self._waiting: dict[str, None] = {}
        self._jobs: dict[str, Future[Made]] = {}
        self._painter = ThreadPoolExecutor(1, thread_name_prefix="tomostream-pictures")
        self._tables, self._tables_at, self._tables_pause, self._beat_at = tables.Tables(), 0.0, TABLES_EVERY, 0.0
        self._latest, self._latest_preview = "", ""
        self._previews: Previews | None = None
        self._wanted: dict[str, Request] = {}
        self._shown: dict[str, dict[str, Any]] = {}
        self._preview_job: tuple[Request, str, Future[Made]] | None = None
        self._told = {str(alarm["kind"]): float(alarm["since"]) for alarm in read_alarms(self.out)}
        self._first = True
        self._prepare()

    # ------------------------------------------------------------------ what callers use
    def update(self) -> bool:
        """Take in what is new and write what changed; True when anything was new. Does not wait for pictures.

        Raises
        ------
        OSError : the page cannot be written now (disk full, no permission). The next update tries again.
        """
        now = self._clock()
        if self._states_of is not None:
            self._states = dict(self._states_of(self.follower.folders))
        news = self.follower.update()
        for tilt in self.follower.take_tilts():
            self.alarms.tilt(tilt.time, tilt.movie, tilt.drift_px, tilt.failed)
        for series_id in self.follower.take_changed():
            self._changed(series_id)
        news = self._collect() or news
        news = self._go_on_with_previews() or news
        if not self._first or not self.busy:
            self.alarms.session(self.follower.session_facts(now, self.running, self._disk()), now)
            self._tell()
        self._write(now, news)
        return news

    @property
    def states(self) -> Mapping[str, str]:
        """Protocol -> its state, as of the last update."""
        return dict(self._states)

    @property
    def busy(self) -> bool:
        """Whether pictures are still to be made."""
        return bool(self._waiting or self._jobs)

    @property
    def running(self) -> bool:
        """Whether any protocol may still write; True where nobody can tell, or before there is one."""
        return not self._states or any(state not in ENDED for state in self._states.values())

    def wait(self, seconds: float) -> None:
        """Wait until the picture in work is made, at most so long."""
        for job in list(self._jobs.values())[:1]:
            try:
                job.exception(timeout=seconds)
            except NotYet:
                return

    def finish(self) -> None:
        """Update until everything is written, the pictures too."""
        self.update()
        while self.busy:
            self.wait(60.0)
            self.update()
        self._tables_at = self._beat_at = 0.0
        self.update()

    def close(self) -> None:
        """End the threads. What was not painted is painted by the next one who writes this page."""
        if self._previews is not None:
            self._previews.close()
        self._painter.shutdown(wait=True, cancel_futures=True)
        if self.notifier is not None:
            self.notifier.close()

    # ------------------------------------------------------------------ series
    def _changed(self, series_id: str) -> None:
        series = self.follower.series.get(series_id)
        self._want_preview(series_id, series)
        if series is None:          # it turned out to be no tilt series
            if series_id in self._index:
                self._put(series_id, None)
            return
        facts = series_facts(self.follower, series)
        before = self._entries.get(series_id)
        if before is not None and before.facts.version == facts.version:     # keep what the files told
            facts = _refreshed(before.facts, facts)
        self._put(series_id, replace(before, facts=facts) if before else Entry(facts, folder=self._folder(series_id)))
        signature = facts.signature()
        if (facts.ended or series.composed is not None) and self._signatures.get(series_id) != signature:
            if not self._load(series_id, signature):
                self._signatures[series_id] = signature
                self._waiting[series_id] = None
        self._submit()

    def _submit(self) -> None:
        for series_id in list(self._waiting):
            if len(self._jobs) >= IN_FLIGHT:
                return
            if series_id in self._jobs:
                continue
            del self._waiting[series_id]
            series = self.follower.series[series_id]
            movies = self.follower.movies
            known = {movie: replace(movies[movie_key(movie)]) for movie in series.movies if movie_key(movie) in movies}
            folder = os.path.join(self.out, "series", self._folder(series_id))
            self._jobs[series_id] = self._painter.submit(paint, series_facts(self.follower, series), known,
                                                         series.left_out, folder)

    def _collect(self) -> bool:
        """Take over what the pictures' thread has made."""
        done = [series_id for series_id, job in self._jobs.items() if job.done()]
        for series_id in done:
            made = self._jobs.pop(series_id).result()
            if made.trouble:
                self._say(f"{series_id}: {made.trouble}")
            try:
                self._take(series_id, made.facts, made.pictures, made.trouble)
            except OSError:
                self._waiting[series_id] = None     # once more, when the disk takes it
                raise
        self._submit()
        return bool(done)

    def _take(self, series_id: str, facts: SeriesFacts, made: dict[str, Any], trouble: str = "", write: bool = True) -> None:
        findings: tuple[Finding, ...] = ()
        if facts.ended:
            findings = self.alarms.series(facts, (facts.times or {}).get("reconstructed") or self._clock())
        else:                   # a preview stays until the tomogram is there
            made = {**self._shown.get(series_id, {}), **made}
        folder = self._folder(series_id)
        entry = Entry(facts, findings, folder, str(made.get("thumb", "")))
        if facts.state == "done" and "xy" in made:
            made_at, latest = (facts.times or {}).get("reconstructed"), self._entries.get(self._latest)
            before = (latest.facts.times or {}).get("reconstructed") if latest else None
            if before is None or made_at is None or made_at >= before:      # they are taken by name when a page goes on
                self._latest = series_id
        if write:
            payload = {"facts": to_json(facts), "pictures": made, "trouble": trouble, "signature": facts.signature(),
                       "versions": self.follower.versions,
                       "findings": [asdict(finding) for finding in findings], "files": files_of(facts, self.project)}
            write_text(os.path.join(self.out, "series", folder, "data.js"), tables.script("series", series_id, payload))
            if facts.ended:
                self._shown.pop(series_id, None)
                remove_older(os.path.join(self.out, "series", folder), max(1, facts.version))
        series = self.follower.series.get(series_id)
        if series is not None:
            self._put(series_id, replace(entry, facts=_refreshed(facts, series_facts(self.follower, series))))

    def _load(self, series_id: str, signature: list[Any]) -> bool:
        """Take over what an earlier writer made of this series; False when there is nothing, or it is of another version."""
        payload = self._payload(series_id)
        try:
            if payload["signature"] != signature or payload["trouble"]:
                return False
            facts = from_json(payload["facts"])
        except (TypeError, KeyError):
            return False
        self._signatures[series_id] = signature
        self._take(series_id, facts, payload["pictures"], write=False)
        return True

    def _payload(self, series_id: str) -> dict[str, Any]:
        """What lies in the folder of this series already; empty when it is of another series, or nothing."""
        try:
            with open(os.path.join(self.out, "series", self._folder(series_id), "data.js"), encoding="utf-8") as file:
                _, name, payload = tables.unscript(file.read())
        except (OSError, ValueError):
            return {}
        return payload if name == series_id and isinstance(payload, dict) else {}

    def _folder(self, series_id: str) -> str:
        if series_id not in self._folders:
            self._folders[series_id] = safe_name(series_id, self._taken)
            self._taken.add(self._folders[series_id].casefold())
        return self._folders[series_id]

    def _put(self, series_id: str, entry: Entry | None) -> None:
        place = self._index.setdefault(series_id, len(self._cells))
        if place == len(self._cells):
            self._cells.append(None)
        if entry is None:
            self._entries.pop(series_id, None)
            cells = None
        else:
            facts = entry.facts
            tomogram = os.path.relpath(facts.tomogram, self.project) if facts.tomogram else None
            self._entries[series_id] = entry
            cells = tables.cells(replace(entry, facts=replace(facts, tomogram=tomogram)))
        if cells != self._cells[place]:
            self._cells[place] = cells
            self._dirty[place // CHUNK] = None
            self._tables.put(place, cells)

    # ------------------------------------------------------------------ alarms
    def _tell(self) -> None:
        """Hand on what is new. At the start what an earlier writer has told is not told again, nor what is long over."""
        events = self.alarms.take_events()
        if self._first:
            self._first = False
            active = self.alarms.active
            events = [Event(alarm.since, kind, True, alarm.text, alarm.since) for kind, alarm in active.items()
                      if kind not in self._told]
            events += [Event(self._clock(), kind, False, "back to normal", since) for kind, since in self._told.items()
                       if kind not in active and kind in KINDS]
        for event in events:
            line = f"{utc(event.time)} {'ALARM' if event.raised else 'over'} {KINDS.get(event.kind, event.kind)}: {event.text}"
            self._say(line)
            if self.notifier is not None:
                self.notifier.send(event)
            with open(os.path.join(self.out, "alarms.log"), "a", encoding="utf-8") as file:
                file.write(" ".join(line.split()) + "\n")
        if events:
            told = [{"kind": alarm.kind, "since": alarm.since, "text": alarm.text} for alarm in self.alarms.active.values()]
            write_text(os.path.join(self.out, ALARMS), json.dumps(told))

    def _limits(self) -> dict[str, float | None]:
        """What the plots mark, and the judgement of the backlog: the thresholds as they are now."""
        limits = self.alarms.thresholds
        return {"drift_px": self.alarms.drift_limit(), "residual_px": limits.residual_px, "counts_part": limits.counts_least,
                "defocus_um": limits.defocus_tolerance_um}

    def _disk(self) -> tuple[float, float] | None:
        try:
            usage = shutil.disk_usage(self.project)
        except OSError:
            return None
        return usage.free / max(usage.total, 1), usage.free / 1e9

    # ------------------------------------------------------------------ previews
    def make_previews(self) -> None:
        """Make the previews that the compose protocol asks for, from now on. For the one process that follows a session."""
        self._previews = Previews(self.out, self._say)

    def _want_preview(self, series_id: str, series: SeriesStatus | None) -> None:
        open_ = series is not None and series.version == 0 and not series.ended and series.preview
        request = request_of(series_id, self.project, series.preview) if series is not None and open_ else None
        if request is None:
            self._wanted.pop(series_id, None)
        elif series_id not in self._wanted:
            self._wanted[series_id] = request
            self._load_preview(series_id, request)

    def _go_on_with_previews(self) -> bool:
        """Start, end or take over a preview; never while final work waits. True when one came to the page."""
        if self._preview_job is not None:
            return self._take_preview()
        if self._previews is None:
            return False
        backlog, final = self.follower.backlog, self.follower.final_work
        made = self._previews.update(self._wanted, self.running and final == 0 and backlog <= FEW_MOVIES,
                                     final > 0 or backlog > MANY_MOVIES)
        if made is not None:
            request, volume = made
            facts = series_facts(self.follower, self.follower.series[request.series_id])
            folder = os.path.join(self.out, "series", self._folder(request.series_id))
            self._preview_job = request, volume, self._painter.submit(paint_preview, facts, volume, folder)
        return False

    def _take_preview(self) -> bool:
        """Put a painted preview on the page, unless the series was composed meanwhile."""
        if self._preview_job is None or not self._preview_job[2].done():
            return False
        (request, volume, job), self._preview_job = self._preview_job, None
        shutil.rmtree(os.path.dirname(volume), ignore_errors=True)
        made = job.result()
        if made.trouble:
            self._say(f"{request.series_id}: no preview: {made.trouble}")
        elif request.series_id in self._wanted:
            self._show_preview(request, made.facts, made.pictures)
            return True
        return False

    def _show_preview(self, request: Request, facts: SeriesFacts, made: dict[str, Any], write: bool = True) -> None:
        folder, entry = self._folder(request.series_id), self._entries.get(request.series_id)
        if write:
            made = {**made, "preview": [len(request.tilts), request.expected]}
            payload = {"facts": to_json(facts), "pictures": made, "trouble": "", "findings": [], "versions": {}, "files": [],
                       "signature": ["preview", len(request.tilts), request.expected]}
            write_text(os.path.join(self.out, "series", folder, "data.js"), tables.script("series", request.series_id, payload))
        self._shown[request.series_id] = made
        self._latest_preview = request.series_id
        self._put(request.series_id, replace(entry or Entry(facts, folder=folder), thumb=str(made["thumb"])))

    def _preview_told(self) -> dict[str, Any] | None:
        """The newest preview that no tomogram has replaced yet: series, tilts, expected tilts."""
        request, entry = self._wanted.get(self._latest_preview), self._entries.get(self._latest_preview)
        if request is None or entry is None or not entry.thumb:
            return None
        return {"series_id": request.series_id, "tilts": len(request.tilts), "expected": request.expected}

    def _load_preview(self, series_id: str, request: Request) -> None:
        """Take over the preview that an earlier writer made."""
        payload = self._payload(series_id)
        if payload.get("signature") != ["preview", len(request.tilts), request.expected]:
            return
        try:
            self._show_preview(request, from_json(payload["facts"]), payload["pictures"], write=False)
        except (TypeError, KeyError):
            return
        if self._previews is not None:
            self._previews.has(series_id)

    # ------------------------------------------------------------------ files
    def _prepare(self) -> None:
        for name in ("data", "series"):
            os.makedirs(os.path.join(self.out, name), exist_ok=True)
        for name in STATIC:
            text = resources.files("tomostream.report").joinpath("static").joinpath(name).read_text(encoding="utf-8")
            write_text(os.path.join(self.out, name), text)
        lines = [f"{column.name:16s} {column.unit:8s} {column.meaning}" for column in tables.COLUMNS]
        write_text(os.path.join(self.out, "COLUMNS.txt"),
                   "Columns of metrics.csv and session.json. Unknown values are empty (null).\n\n" + "\n".join(lines) + "\n")

    def _write(self, now: float, news: bool) -> None:
        while len(self._revisions) * CHUNK < len(self._cells):
            self._revisions.append(0)
        for chunk in list(self._dirty):
            rows = self._cells[chunk * CHUNK:(chunk + 1) * CHUNK]
            revision = int(now * 1000)
            write_text(os.path.join(self.out, "data", f"rows-{chunk:03d}.js"), tables.script("rows", chunk, revision, rows))
            self._revisions[chunk] = revision
            del self._dirty[chunk]
        if news or now - self._beat_at >= HEARTBEAT or not self.running:
            write_text(os.path.join(self.out, "data", "session.js"), tables.script("session", self.summary(now)))
            self._beat_at = now
        if self._tables.stale and now - self._tables_at >= self._tables_pause:
            self._write_tables(now)

    def _write_tables(self, now: float) -> None:
        began = time.perf_counter()
        texts = {"metrics.csv": self._tables.csv(), "session.json": self._tables.json(self.summary(now))}
        for name, text in texts.items():
            write_text(os.path.join(self.out, name), text)
        self._tables.stale, self._tables_at = False, now
        self._tables_pause = max(TABLES_EVERY, TABLES_PAUSE * (time.perf_counter() - began),
                                 sum(map(len, texts.values())) / TABLES_BYTES)

    def summary(self, now: float) -> dict[str, Any]:
        """The session as a whole, as data/session.js and session.json carry it. Times in seconds since the epoch."""
        follower = self.follower
        until = now if self.running else follower.last_event or now
        facts = follower.session_facts(until, self.running, self._disk())
        latest = self._entries.get(self._latest)
        return {
            "project": os.path.basename(self.project), "path": self.project, "version": __version__, "updated": now,
            "running": self.running, "protocols": self._states, "started": follower.first_event,
            "last_event": follower.last_event, "last_time": follower.last_time or None, "last_text": follower.last_text,
            "waiting": dict(follower.waiting),
            "last_movie": follower.imports[-1] if follower.imports else None, "movies": asdict(follower.counts),
            "series": {state: count for state, count in follower.states.items() if count},
            "tilts_per_hour": facts.arrivals_per_hour, "aligned_per_hour": facts.aligned_per_hour,
            "series_per_hour": follower.per_hour(follower.finished, until), "backlog_tilts": facts.backlog_tilts,
            "backlog_series": facts.backlog_series, "backlog_minutes": facts.backlog_minutes,
            "backlog_series_minutes": facts.backlog_series_minutes, "keeps_up": "behind" not in self.alarms.active,
            "disk_free_GB": facts.disk_free_GB, "pictures_waiting": len(self._waiting) + len(self._jobs),
            "alarms": [asdict(alarm) for alarm in self.alarms.active.values()],
            "history": [asdict(event) for event in list(self.alarms.history)[-50:]],
            "kinds": KINDS, "versions": follower.versions, "limits": self._limits(),
            "trouble": self.notifier.trouble if self.notifier else "",
            "not_series": len(follower.not_series), "latest": latest.folder and self._latest if latest else "",
            "preview": self._preview_told(),
            "bar_seconds": BAR, "activity": [[bar * BAR, *counts] for bar, counts in sorted(follower.activity.items())],
            "columns": [column.name for column in tables.COLUMNS], "chunks": self._revisions}


# ---------------------------------------------------------------------------------------------------- one series
def paint(facts: SeriesFacts, movies: Mapping[str, MovieStatus], left_out: tuple[Any, ...], folder: str) -> Made:
    """All figures and pictures of one series. Runs in the pictures' thread; what goes wrong is told, not raised."""
    facts = with_files(facts, movies, left_out)
    made: dict[str, Any] = {}
    troubles = []
    os.makedirs(folder, exist_ok=True)
    if facts.ended and facts.tilt_series and os.path.exists(facts.tilt_series):
        try:
            facts, film = pictures.paint_series(facts, folder)
            made |= film
        except (OSError, ValueError) as error:
            troubles.append(f"no film: {error}")
    if facts.state == "done" and facts.tomogram:
        try:
            made |= pictures.paint_tomogram(facts, folder)
        except (OSError, ValueError) as error:
            troubles.append(f"no pictures of the tomogram: {error}")
    parts = zip(facts.tilts, counts_of_expected(facts.tilts), strict=True)
    facts = replace(facts, tilts=tuple(replace(tilt, counts_part=part) for tilt, part in parts))
    return Made(facts, made, "; ".join(troubles))


def paint_preview(facts: SeriesFacts, volume: str, folder: str) -> Made:
    """The pictures of a preview, as those of version 0. Runs in the pictures' thread."""
    shown = replace(facts, version=0, tomogram=volume, commands=("preview -FlipVol 1",))
    try:
        os.makedirs(folder, exist_ok=True)
        made = pictures.paint_tomogram(shown, folder)
        return Made(replace(facts, version=0), {**made, "pixel_size_A": pictures.voxel_size(volume)})
    except (OSError, ValueError) as error:
        return Made(facts, {}, str(error))


def _refreshed(known: SeriesFacts, ledgers: SeriesFacts) -> SeriesFacts:
    """What the files told before, with what the ledgers tell now."""
    return replace(ledgers, **{name: getattr(known, name) for name in FROM_FILES})


def files_of(facts: SeriesFacts, project: str) -> list[dict[str, Any]]:
    """The files of a series that people ask for: name from the project's folder, size in bytes, what it is."""
    candidates = [("tilt series, raw", facts.tilt_series), ("tomogram", facts.tomogram)]
    if facts.folder and os.path.isdir(facts.folder):
        for name in sorted(os.listdir(facts.folder)):
            meaning = next((text for end, text in MEANINGS.items() if name.endswith(end)), None)
            if meaning:
                candidates.append((meaning, os.path.join(facts.folder, name)))
    found = []
    for meaning, path in candidates:
        if path and os.path.exists(path):
            found.append({"what": meaning, "path": os.path.relpath(path, project), "bytes": os.path.getsize(path)})
    return found + [{"what": "mdoc", "path": path, "bytes": None} for path in facts.mdocs]


def safe_name(series_id: str, taken: set[str]) -> str:
    """A folder name for any series name: letters, digits, - and _ only, and none that differs from another in case alone."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", series_id)[:60]
    if plain and plain == series_id and plain.casefold() not in taken:
        return plain
    return f"{plain}-{hashlib.sha256(series_id.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def read_alarms(out: str) -> list[dict[str, Any]]:
    """Alarms that hold, as the page in folder `out` tells them: kind, since (seconds since the epoch), text."""
    try:
        with open(os.path.join(out, ALARMS), encoding="utf-8") as file:
            alarms = json.load(file)
        return [{"kind": str(alarm["kind"]), "since": float(alarm["since"]), "text": str(alarm["text"])} for alarm in alarms]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def remove_older(folder: str, version: int) -> None:
    """Remove the pictures of the versions before."""
    for name in os.listdir(folder):
        match = re.match(r"v(\d+)-", name)
        if match and int(match[1]) < version:
            os.remove(os.path.join(folder, name))


def write_text(path: str, text: str) -> None:
    """Write a file, complete or not at all: a reader never sees half of it."""
    part = f"{path}.part"
    with open(part, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    os.replace(part, path)
