# SPDX-License-Identifier: GPL-3.0-or-later
"""Previews of series that are still being acquired, for the page alone: one at a time, and only while no final work waits.

The compose protocol tells in its ledger of which tilts a preview can be made; here it is made, by a process that takes
only idle processor time. It is ended the moment a movie or a series waits, and begun again when none does.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tomostream.engine.preview import NAME, Request, Tilt
from tomostream.report.facts import number

FOLDER, LOG = ".preview", "preview.log"


@dataclass(frozen=True)
class _Work:
    """A preview in the making."""

    request: Request
    folder: str
    process: subprocess.Popen[bytes]


def request_of(series_id: str, project: str, evidence: Mapping[str, object]) -> Request | None:
    """What the ledger of the compose protocol tells of a preview; None where it makes no sense."""
    tilts = evidence.get("tilts")
    axis, pixel_size, expected = (number(evidence.get(name)) for name in ("tilt_axis", "pixel_size_A", "expected"))
    if not isinstance(tilts, list) or axis is None or pixel_size is None or expected is None:
        return None
    try:
        made = tuple(Tilt(os.path.join(project, str(path)), float(angle)) for path, angle in tilts)
    except (TypeError, ValueError):
        return None
    return Request(series_id, made, int(expected), axis, pixel_size)


class Previews:
    """Makes previews below `out`. What goes wrong with one is told to `say`, a line, and has no other consequence."""

    def __init__(self, out: str, say: Callable[[str], None]) -> None:
        self._root = os.path.join(out, FOLDER)
        self._say = say
        self._work: _Work | None = None
        self._over: set[str] = set()
        shutil.rmtree(self._root, ignore_errors=True)       # of a writer that was killed

    @property
    def series(self) -> str:
        """The series of which a preview is in the making; "" for none."""
        return self._work.request.series_id if self._work else ""

    def has(self, series_id: str) -> None:
        """This series has its preview already."""
        self._over.add(series_id)

    def update(self, wanted: Mapping[str, Request], may_start: bool, must_yield: bool) -> tuple[Request, str] | None:
        """Go on; return a request and the volume that was made of it, once.

        `wanted`: series that are still to be acquired, the newest last. The caller removes the volume's folder.
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
        """End what is in the making; it may be begun again."""
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
        """End what is in the making for good; nothing is left."""
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
        volume = os.path.join(work.folder, f"{NAME}.mrc")
        if work.process.returncode == 0 and os.path.exists(volume):
            return work.request, volume
        self._failed(work.request.series_id, last_line(os.path.join(work.folder, LOG)))
        shutil.rmtree(work.folder, ignore_errors=True)
        return None

    def _failed(self, series_id: str, why: str) -> None:
        self._over.add(series_id)
        self._say(f"{series_id}: no preview: {' '.join(why.split()) or 'it ended without a word'}")


def last_line(path: str) -> str:
    """The last line of a log that says something."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file if line.strip()]
    except OSError:
        return ""
    return lines[-1][:300] if lines else ""
