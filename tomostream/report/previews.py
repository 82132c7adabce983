# SPDX-License-Identifier: GPL-3.0-or-later
"""Previews of series that are still being acquired, only for the page: one at a time, and only while no final work is waiting.

The compose protocol says in its ledger which tilts a preview can be made from. `Maker` makes it, in a process that uses only idle
processor time, is killed when movies or series are waiting, and started again when none are. `Previews` chooses a series, has the
pictures painted, and keeps a preview on the page until the tomogram replaces it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import Any

from tomostream.engine.preview import NAME, Request, Tilt
from tomostream.files.logs import last_line
from tomostream.journal import entries
from tomostream.journal.status import SeriesStatus
from tomostream.report.facts import SeriesFacts, from_json, series_facts, to_json
from tomostream.report.folders import SeriesFolders
from tomostream.report.follow import Follower
from tomostream.report.painting import Made, paint_preview

FOLDER, LOG = ".preview", "preview.log"
#: A preview is started while at most this many movies are waiting to be aligned, and killed when more than this many are.
FEW_MOVIES, MANY_MOVIES = 2, 6


@dataclass(frozen=True)
class Preview:
    """A preview on the page: its request, the facts of its series at that time, its pictures."""

    request: Request
    facts: SeriesFacts
    pictures: dict[str, Any]


@dataclass(frozen=True)
class _Work:
    """A preview in progress."""

    request: Request
    folder: str
    process: subprocess.Popen[bytes]


def request_of(project: str, asked: entries.Preview) -> Request | None:
    """Return the request for a preview from the ledger of the compose protocol; None if too little is known."""
    if not asked.tilts or asked.tilt_axis is None or asked.pixel_size_A is None:
        return None
    made = tuple(Tilt(os.path.join(project, path), angle) for path, angle in asked.tilts)
    return Request(asked.item, made, asked.expected, asked.tilt_axis, asked.pixel_size_A)


class Previews:
    """The previews of a page. Call `ask()` whenever a series changes, then `update()`.

    Parameters
    ----------
    project : folder of the project.
    folders : where the page keeps the data and pictures of its series.
    painter : the painting thread.
    say : called with a line if a preview fails, which has no other consequence.
    """

    def __init__(self, project: str, folders: SeriesFolders, painter: Executor, say: Callable[[str], None]) -> None:
        self.maker: Maker | None = None
        self._project, self._folders, self._painter, self._reported_to = project, folders, painter, say
        self._wanted: dict[str, Request] = {}
        self._shown: dict[str, Preview] = {}
        self._latest = ""
        self.trouble = ""
        self._painting: tuple[Request, str, Future[Made]] | None = None

    def _say(self, text: str) -> None:
        """Log what goes wrong and keep it for the page, so that whoever waits for a preview learns why there is none."""
        self.trouble = text
        self._reported_to(text)

    def begin(self, out: str) -> None:
        """Make the requested previews from now on, below `out`. Only for the process that follows a session."""
        self.maker = Maker(out, self._say)

    def ask(self, series_id: str, series: SeriesStatus | None) -> Preview | None:
        """Take in the state of a series. If it needs a preview that an earlier writer has made, returns that, once."""
        request = None
        if series is not None and series.version == 0 and not series.ended and series.preview is not None:
            request = request_of(self._project, series.preview)
            if request is None:
                self.trouble = f"{series_id}: no preview: its mdoc gives no tilt axis or no pixel size"
        if request is None:
            self._wanted.pop(series_id, None)
            return None
        if series_id in self._wanted:
            return None
        self._wanted[series_id] = request
        return self._load(request)

    def update(self, follower: Follower, running: bool) -> Preview | None:
        """Start, kill or collect a preview; returns one that is new on the page.

        Raises
        ------
        OSError : it cannot be written now; the next call retries.
        """
        if self._painting is not None:
            return self._take()
        if self.maker is None:
            return None
        backlog, final = follower.backlog, follower.final_work
        made = self.maker.update(self._wanted, running and final == 0 and backlog <= FEW_MOVIES,
                                 final > 0 or backlog > MANY_MOVIES)
        if made is not None:
            request, volume = made
            facts = series_facts(follower, follower.series[request.series_id])
            folder = self._folders.path(request.series_id)
            self._painting = request, volume, self._painter.submit(paint_preview, facts, volume, folder)
        return None

    def pictures_of(self, series_id: str) -> dict[str, Any]:
        """Return the pictures of the preview of a series; empty if there is none."""
        return self._shown[series_id].pictures if series_id in self._shown else {}

    def replaced(self, series_id: str) -> None:
        """Note that a series has ended and its own pictures are on the page."""
        self._shown.pop(series_id, None)

    def newest(self) -> dict[str, Any] | None:
        """Return the latest preview that is not about to be replaced, for the page: series, tilts, expected tilts."""
        request = self._wanted.get(self._latest)
        if request is None or self._latest not in self._shown:
            return None
        return {"series_id": request.series_id, "tilts": len(request.tilts), "expected": request.expected}

    def wait(self, seconds: float) -> None:
        """Wait until the painting in progress is done, for at most this long."""
        wait([] if self._painting is None else [self._painting[2]], seconds)

    def close(self) -> None:
        """Kill the preview in progress; what is on the page stays."""
        if self.maker is not None:
            self.maker.close()

    def _take(self) -> Preview | None:
        """Put what was painted on the page, unless the series was composed meanwhile, and return it."""
        if self._painting is None or not self._painting[2].done():
            return None
        request, volume, job = self._painting
        shutil.rmtree(os.path.dirname(volume), ignore_errors=True)
        self._painting, preview = None, None
        made = job.result()
        if made.trouble:
            self._say(f"{request.series_id}: no preview: {made.trouble}")
        elif request.series_id in self._wanted:
            preview = Preview(request, made.facts, {**made.pictures, "preview": [len(request.tilts), request.expected]})
            self._folders.write(request.series_id, {
                "facts": to_json(preview.facts), "pictures": preview.pictures, "trouble": "", "findings": [], "versions": {},
                "files": [], "signature": signature(request)})
            self._show(preview)
        return preview

    def _show(self, preview: Preview) -> None:
        self._latest, self.trouble = preview.request.series_id, ""
        self._shown[self._latest] = preview

    def _load(self, request: Request) -> Preview | None:
        """Return the preview for this request if an earlier writer has made it."""
        payload = self._folders.read(request.series_id)
        if payload.get("signature") != signature(request):
            return None
        try:
            preview = Preview(request, from_json(payload["facts"]), dict(payload["pictures"]))
        except (TypeError, KeyError):
            return None
        self._show(preview)
        if self.maker is not None:
            self.maker.has(request.series_id)
        return preview


def signature(request: Request) -> list[Any]:
    """Return what distinguishes the data of a preview from those of another one, and of a tomogram."""
    return ["preview", len(request.tilts), request.expected]


class Maker:
    """Makes previews below `out`. `say` is called with a line if one fails, which has no other consequence."""

    def __init__(self, out: str, say: Callable[[str], None]) -> None:
        self._root = os.path.join(out, FOLDER)
        self._say = say
        self._work: _Work | None = None
        self._over: set[str] = set()
        shutil.rmtree(self._root, ignore_errors=True)       # left by a writer that was killed

    @property
    def series(self) -> str:
        """The series whose preview is in progress, or ""."""
        return self._work.request.series_id if self._work else ""

    def has(self, series_id: str) -> None:
        """Note that a series already has its preview."""
        self._over.add(series_id)

    def update(self, wanted: Mapping[str, Request], may_start: bool, must_yield: bool) -> tuple[Request, str] | None:
        """Go on; return, once, a request and the volume that was made for it.

        `wanted`: requests for series still being acquired, the newest last. The caller removes the volume's folder.
        """
        made = None
        if self._work is not None:
            if must_yield or self._work.request.series_id not in wanted:
                self.stop()
            elif self._work.process.poll() is not None:
                made = self._collect(self._work)
        if self._work is None and may_start and not must_yield and made is None:
            left = [series_id for series_id in wanted if series_id not in self._over]
            if left:
                self._start(wanted[left[-1]])
        return made

    def stop(self) -> None:
        """Kill the preview in progress; it may be started again."""
        if self._work is None:
            return
        try:
            os.killpg(self._work.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass        # it has ended by itself
        self._work.process.wait()
        shutil.rmtree(self._work.folder, ignore_errors=True)
        self._work = None

    def close(self) -> None:
        """Kill the preview in progress, and remove everything."""
        self.stop()
        shutil.rmtree(self._root, ignore_errors=True)

    def _start(self, request: Request) -> None:
        folder = os.path.join(self._root, str(len(self._over)))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
            request.write(folder)
            with open(os.path.join(folder, LOG), "wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "tomostream.engine.preview", folder, str(os.getpid())], stdin=subprocess.DEVNULL,
                    stdout=log, stderr=log, env=environment, start_new_session=True)
        except OSError as error:
            self._failed(request.series_id, str(error))
            return
        self._work = _Work(request, folder, process)

    def _collect(self, work: _Work) -> tuple[Request, str] | None:
        self._work = None
        self._over.add(work.request.series_id)
        volume = os.path.join(work.folder, f"{NAME}_wiener.mrc")        # the filtered tomogram shows most
        if work.process.returncode == 0 and os.path.exists(volume):
            return work.request, volume
        self._failed(work.request.series_id, last_line(os.path.join(work.folder, LOG)))
        shutil.rmtree(work.folder, ignore_errors=True)
        return None

    def _failed(self, series_id: str, why: str) -> None:
        self._over.add(series_id)
        self._say(f"{series_id}: no preview: {' '.join(why.split()) or 'it ended silently'}")


