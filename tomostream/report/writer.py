# SPDX-License-Identifier: GPL-3.0-or-later
"""The live page: a folder of static files that is written while the session runs.

    index.html style.css *.js         the page, the same for every session
    data/session.js                  the session: small, written in every update
    data/rows-000.js ...             the table, 50 series per file: only files with a changed series are written
    series/NAME/data.js *.webp       one series, written when it changes
    metrics.csv session.json         the table for scripts; COLUMNS.txt says what the columns are
    alarms.log                       a line for every alarm that was raised, is over or was acknowledged
    acknowledged.json                alarms that a person has seen
    marks.json data/marks.js         what people think of the series, if the page is served
    handover.html                    the summary to print, once the session has ended
    summary.json                     what was sent when the session had ended

Every file is written under another name and renamed. Pictures are made in a separate thread, so that the page continues
while a large tomogram is read.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from importlib import resources
from typing import Any

from tomostream import __version__
from tomostream.acquisition.naming import movie_key
from tomostream.choices.pending import PendingChoices
from tomostream.files.writing import write_text
from tomostream.journal import until
from tomostream.journal.layout import REPORT
from tomostream.journal.runs import ENDED
from tomostream.journal.space import Room, disk_of
from tomostream.journal.status import IMPORT, SeriesStatus
from tomostream.report import acknowledged, handover, marks, tables
from tomostream.report.alarms import KINDS, Alarms
from tomostream.report.announce import Announcer
from tomostream.report.facts import SeriesFacts, from_json, read_json, series_facts, to_json
from tomostream.report.folders import SeriesFolders
from tomostream.report.follow import BAR, Follower
from tomostream.report.judging import Finding, Thresholds
from tomostream.report.latest import TiltPainter
from tomostream.report.notify import Notifier
from tomostream.report.painting import Made, files_of, paint
from tomostream.report.previews import Preview, Previews
from tomostream.report.summary import Summary
from tomostream.report.tables import CHUNK, Entry

#: What was sent at the end of the session.
SUMMARY = "summary.json"
STATIC = ("index.html", "style.css", *(f"{name}.js" for name in (
    "base", "filter", "marks", "served", "overview", "table", "gallery", "viewer", "series", "plots", "trends", "app")))
#: Seconds: the longest time between two updates of the page, as a sign that it is alive.
HEARTBEAT = 5.0
#: The tables for scripts are written as whole files, so this is limited: a pause of at least this many seconds, this many times
#: as long as the last one took, and this many bytes per second at most.
TABLES_EVERY, TABLES_PAUSE, TABLES_BYTES = 5.0, 100.0, 200_000
#: Series whose pictures may be in progress at the same time, including the one being made.
IN_FLIGHT = 2
#: What is read from the files of a series, not from the ledgers.
FROM_FILES = ("tilt_axis_source", "voltage_kV", "pixel_size_A", "tilts", "warnings", "mdocs", "programs", "ctf_note")
StatesOf = Callable[[Mapping[str, str]], Mapping[str, str]]


class ReportWriter:
    """Writes the live page of a project. Call `update()` repeatedly, and `close()` at the end.

    Parameters
    ----------
    project : folder of the Scipion project.
    out : folder of the page; by default `report` inside the project.
    thresholds : of the alarms.
    notifier : sends alarms; None sends none.
    states : maps working folders of the protocols (name -> path) to their states (name -> "running", "finished", ...).
    say : called with a line for every alarm.
    clock : seconds since the epoch.
    """

    def __init__(self, project: str, out: str | None = None, thresholds: Thresholds | None = None,
                 notifier: Notifier | None = None, states: StatesOf | None = None,
                 say: Callable[[str], None] | None = None, clock: Callable[[], float] = time.time) -> None:
        self.project = os.path.abspath(project)
        self.out = os.path.abspath(out) if out else os.path.join(self.project, REPORT)
        self.follower = Follower(self.project)
        self._choices = PendingChoices(self.follower)
        self.notifier = notifier
        self._states_of, self._say, self._clock = states, say or (lambda _: None), clock
        self._states: dict[str, str] = {}
        self._index: dict[str, int] = {}
        self._entries: dict[str, Entry] = {}
        self._cells: list[list[Any] | None] = []
        self._revisions: list[int] = []
        self._dirty: dict[int, None] = {}
        self._signatures: dict[str, list[Any]] = {}
        self._waiting: dict[str, None] = {}
        self._jobs: dict[str, Future[Made]] = {}
        self._painter = ThreadPoolExecutor(1, thread_name_prefix="tomostream-pictures")
        self._folders = SeriesFolders(self.out)
        self.previews = Previews(self.project, self._folders, self._painter, self._say)
        self._announcer = Announcer(self.out, self._say, notifier)
        self.alarms = Alarms(thresholds, self._announcer.since())
        self._tables, self._tables_at, self._tables_pause, self._beat_at = tables.Tables(), 0.0, TABLES_EVERY, 0.0
        self._stopwatch: Callable[[], float] = time.perf_counter
        self._latest = ""
        self._tilt = TiltPainter(self.project, self.out, self._painter, self._say)
        self._prepare()

    # ------------------------------------------------------------------ what callers use
    def update(self) -> bool:
        """Take in what is new and write what has changed; return whether anything was new. Does not wait for pictures.

        Raises
        ------
        OSError : the page cannot be written now (disk full, no permission). The next update retries.
        """
        now = self._clock()
        if self._states_of is not None:     # the states first, so that everything written before an end is read
            self.follower.find()
            self._states = dict(self._states_of(self.follower.folders))
        news = self.follower.update()
        for tilt in self.follower.take_tilts():
            self.alarms.tilt(tilt.time, tilt.movie, tilt.drift_px, tilt.failed)
        for series_id in dict.fromkeys([*self.follower.take_changed(), *self._choices.update()]):
            self._changed(series_id)
        try:
            news = self._collect() or news
            news = self._tilt.follow(self.follower.latest_tilt, now, not self.busy) or news
            preview = self.previews.update(self.follower, self.running)
            if preview is not None:
                news = True
                self._show(preview)
        finally:            # a full disk is announced even though nothing can be written to it
            if self._announcer.begun or not self.busy:
                self.alarms.session(self.follower.session_facts(now, self.running, self._disk(), self._states), now)
                self.alarms.acknowledge(acknowledged.read(self.out), now)
                self._announcer.announce(self.alarms, now)
        self._write(now, news)
        return news

    @property
    def states(self) -> Mapping[str, str]:
        """Protocol -> its state, as of the last update."""
        return dict(self._states)

    @property
    def busy(self) -> bool:
        """Whether pictures have yet to be made."""
        return bool(self._waiting or self._jobs)

    @property
    def running(self) -> bool:
        """Whether any protocol may still write; True if that is unknown, or before there is one."""
        return not self._states or any(state not in ENDED for state in self._states.values())

    def wait(self, seconds: float) -> None:
        """Wait until the picture in progress is made, for at most this long."""
        wait(list(self._jobs.values())[:1], seconds)

    def make_previews(self) -> None:
        """Make the previews requested by the compose protocol from now on. Only for the process that follows a session."""
        self.previews.begin(self.out)

    def finish(self) -> None:
        """Update until everything is written, including the pictures."""
        self.update()
        while self.busy:
            self.wait(60.0)
            self.update()
        self._tilt.wait(60.0)
        self._tables_at = self._beat_at = 0.0
        self.update()
        write_text(os.path.join(self.out, handover.FILE), handover.page(self.out))

    @property
    def until(self) -> float | None:
        """When the import will end; None if no time is set."""
        folder = self.follower.folders.get(IMPORT)
        return None if folder is None else until.read(folder)

    def summary_due(self) -> bool:
        """Tell whether the time at which the import was to end has come, and no summary has been sent for it yet."""
        at = self.until
        return (self.notifier is not None and at is not None and at <= self._clock() and self.running
                and read_json(os.path.join(self.out, SUMMARY)).get("until") != at)

    def send_summary(self) -> None:
        """Send the summary of a session that has ended, once for each end, or of one whose time has come.

        Raises
        ------
        OSError : it cannot be noted that it was sent.
        """
        follower, path = self.follower, os.path.join(self.out, SUMMARY)
        if self.notifier is None or follower.last_event is None or (
                read_json(path).get("last_event") == follower.last_event and not self.summary_due()):
            return
        disk, series = self._disk(), {state: count for state, count in follower.states.items() if count}
        hours = (follower.last_event - (follower.first_event or follower.last_event)) / 3600.0
        message = Summary(
            os.path.basename(self.project), self._states, series, follower.counts.found, follower.counts.aligned,
            follower.first_event, follower.last_event, list(self.alarms.active.values()), os.path.join(self.out, "index.html"),
            follower.counts.aligned / hours if hours > 0 else None, series.get("done", 0) / hours if hours > 0 else None,
            disk.free / 1e9 if disk else None, self.until).message()
        self.notifier.post(message)
        write_text(path, json.dumps(message.body, indent=1, allow_nan=False) + "\n")

    def close(self) -> None:
        """End the threads. The next writer of this page paints what is left."""
        self.previews.close()
        self._painter.shutdown(wait=True, cancel_futures=True)
        if self.notifier is not None:
            self.notifier.close()

    # ------------------------------------------------------------------ series
    def _changed(self, series_id: str) -> None:
        series = self.follower.series.get(series_id)
        preview = self.previews.ask(series_id, series)
        if series is None:          # it turned out not to be a tilt series
            self.alarms.gone(series_id, self._clock())
            if series_id in self._index:
                self._put(series_id, None)
            return
        facts = self._facts(series)
        before = self._entries.get(series_id)
        if before is not None and before.facts.version == facts.version:     # keep what the files said
            facts = _refreshed(before.facts, facts)
        self._put(series_id, replace(before, facts=facts) if before else Entry(facts))
        if preview is not None:
            self._show(preview)
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
            self._jobs[series_id] = self._painter.submit(paint, series_facts(self.follower, series), known, series.left_out,
                                                         self._folders.path(series_id))

    def _collect(self) -> bool:
        """Take over what the painting thread has made."""
        done = [series_id for series_id, job in self._jobs.items() if job.done()]
        for series_id in done:
            try:
                made = self._made(series_id, self._jobs.pop(series_id))
                if made.trouble:
                    self._say(f"{series_id}: {made.trouble}")
                self._take(series_id, made.facts, made.pictures, made.trouble)
            except OSError:
                self._waiting[series_id] = None     # once more, when the disk allows it
                raise
        self._submit()
        return bool(done)

    def _made(self, series_id: str, job: Future[Made]) -> Made:
        """Return the result of the painting thread; an unexpected error costs one series its pictures, and nothing else."""
        try:
            return job.result()
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, the session and its alarms are followed on
            self._say("".join(traceback.format_exception(error)).rstrip())
            os.makedirs(self._folders.path(series_id), exist_ok=True)
            return Made(self._facts(self.follower.series[series_id]), {},
                        f"no pictures: an unexpected error ({type(error).__name__}: {error})")

    def _take(self, series_id: str, facts: SeriesFacts, made: dict[str, Any], trouble: str = "", write: bool = True) -> None:
        findings: tuple[Finding, ...] = ()
        if facts.ended:
            findings = self.alarms.series(facts, (facts.times or {}).get("reconstructed") or self._clock())
        else:                   # a preview stays until there is a tomogram
            made = {**self.previews.pictures_of(series_id), **made}
        entry = Entry(facts, findings, self._folders.name(series_id), str(made.get("thumb", "")))
        if facts.state == "done" and "xy" in made:
            made_at, latest = (facts.times or {}).get("reconstructed"), self._entries.get(self._latest)
            before = (latest.facts.times or {}).get("reconstructed") if latest else None
            if before is None or made_at is None or made_at >= before:      # they are taken by name when a page is continued
                self._latest = series_id
        if write:
            payload = {"facts": to_json(facts), "pictures": made, "trouble": trouble, "signature": facts.signature(),
                       "versions": self.follower.versions,
                       "findings": [asdict(finding) for finding in findings], "files": files_of(facts, self.project)}
            self._folders.write(series_id, payload)
            if facts.ended:
                self.previews.replaced(series_id)
                self._folders.remove_older(series_id, max(1, facts.version))
        series = self.follower.series.get(series_id)
        if series is not None:
            self._put(series_id, replace(entry, facts=_refreshed(facts, self._facts(series))))

    def _facts(self, series: SeriesStatus) -> SeriesFacts:
        """Return what is known about a series without its files."""
        return replace(series_facts(self.follower, series), pending=str(self._choices.of(series)))

    def _load(self, series_id: str, signature: list[Any]) -> bool:
        """Take over what an earlier writer has made for this series; False if there is nothing, or it is for another version."""
        payload = self._folders.read(series_id)
        try:
            if payload["signature"] != signature or payload["trouble"]:
                return False
            facts = from_json(payload["facts"])
        except (TypeError, KeyError):
            return False
        self._signatures[series_id] = signature
        self._take(series_id, facts, payload["pictures"], write=False)
        return True

    def _show(self, preview: Preview) -> None:
        """Put a preview into the row of its series."""
        series_id = preview.request.series_id
        entry = self._entries.get(series_id) or Entry(preview.facts)
        self._put(series_id, replace(entry, folder=self._folders.name(series_id), thumb=str(preview.pictures["thumb"])))

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
    def _limits(self) -> dict[str, float | None]:
        """Return what the plots mark, and how the backlog is judged, by the current thresholds."""
        limits = self.alarms.thresholds
        return {"drift_px": self.alarms.drift_limit(), "residual_px": limits.residual_px, "counts_part": limits.counts_min,
                "defocus_um": limits.defocus_tolerance_um}

    def _disk(self) -> Room | None:
        """Return the free space on the project's disk; None if unknown."""
        disk = disk_of(self.project)
        return None if disk is None else Room(*disk)

    # ------------------------------------------------------------------ files
    def _prepare(self) -> None:
        for name in ("data", "series"):
            os.makedirs(os.path.join(self.out, name), exist_ok=True)
        for name in STATIC:
            text = resources.files("tomostream.report").joinpath("static").joinpath(name).read_text(encoding="utf-8")
            write_text(os.path.join(self.out, name), text)
        write_text(os.path.join(self.out, "data", "columns.js"), tables.script("columns", tables.describe()))
        if not os.path.exists(os.path.join(self.out, marks.SCRIPT)):
            marks.write(self.out, {})
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
        began = self._stopwatch()
        texts = {"metrics.csv": self._tables.csv(), "session.json": self._tables.json(self.summary(now))}
        for name, text in texts.items():
            write_text(os.path.join(self.out, name), text)
        self._tables.stale, self._tables_at = False, now
        self._tables_pause = max(TABLES_EVERY, TABLES_PAUSE * (self._stopwatch() - began),
                                 sum(map(len, texts.values())) / TABLES_BYTES)

    def summary(self, now: float) -> dict[str, Any]:
        """Return the session as a whole, for data/session.js and session.json. Times in seconds since the epoch."""
        follower = self.follower
        until = now if self.running else follower.last_event or now
        facts = follower.session_facts(until, self.running, self._disk(), self._states)
        latest = self._entries.get(self._latest)
        return {
            "project": os.path.basename(self.project), "path": self.project, "version": __version__, "updated": now,
            "running": self.running, "protocols": self._states, "started": follower.first_event,
            "last_event": follower.last_event, "last_time": follower.last_time or None, "last_text": follower.last_text,
            "waiting": {name: text for name, text in follower.waiting.items() if self._states.get(name) not in ENDED},
            "until": self.until,
            "unassigned": follower.unassigned_reason if follower.unassigned_count else "",
            "last_movie": follower.imports[-1] if follower.imports else None, "movies": asdict(follower.counts),
            "series": {state: count for state, count in follower.states.items() if count},
            "tilts_per_hour": facts.arrivals_per_hour, "aligned_per_hour": facts.aligned_per_hour,
            "series_per_hour": follower.per_hour(follower.finished, until), "backlog_tilts": facts.backlog_tilts,
            "backlog_series": facts.backlog_series, "backlog_minutes": facts.backlog_minutes,
            "backlog_series_minutes": facts.backlog_series_minutes, "keeps_up": "behind" not in self.alarms.active,
            "disk_free_GB": facts.disk.free / 1e9 if facts.disk else None,
            "pictures_waiting": len(self._waiting) + len(self._jobs),
            "alarms": [{**asdict(alarm), "key": alarm.key} for alarm in self.alarms.open],
            "acknowledged": [{**asdict(alarm), "key": alarm.key} for alarm in self.alarms.active.values()
                             if alarm.acknowledged is not None],
            "history": [asdict(event) for event in list(self.alarms.history)[-50:]],
            "kinds": KINDS, "versions": follower.versions, "limits": self._limits(),
            "trouble": self.notifier.trouble if self.notifier else "",
            "not_series": len(follower.not_series), "latest": latest.folder and self._latest if latest else "",
            "preview": self.previews.newest(), "preview_trouble": self.previews.trouble,
            "tilt": self._tilt.shown, "marks": marks.revision(self.out),
            "root": os.path.relpath(self.project, self.out), "handover": handover.FILE if not self.running else "",
            "bar_seconds": BAR, "activity": [[bar * BAR, *counts] for bar, counts in sorted(follower.activity.items())],
            "columns": [column.name for column in tables.COLUMNS], "chunks": self._revisions}


def _refreshed(known: SeriesFacts, ledgers: SeriesFacts) -> SeriesFacts:
    """Return what the files said before, with what the ledgers say now."""
    return replace(ledgers, **{name: getattr(known, name) for name in FROM_FILES})
