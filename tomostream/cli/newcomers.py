# SPDX-License-Identifier: GPL-3.0-or-later
"""New sessions of a facility: which folders are new, and a project for each of them exactly once, whatever is restarted.

What becomes of a folder is noted in a file of its own before anything is done. A start is a process of its own, `tomostream run`
or, where an earlier start did not come to its end, `tomostream resume`; it holds the lock of the note as long as it lives, so
that whoever watches after a restart waits for it.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import Enum

from tomostream.cli.facility import Existing, Facility, Microscope, variables
from tomostream.files.disks import device_of
from tomostream.files.locks import Lock
from tomostream.files.logs import last_line
from tomostream.files.patterns import files_of
from tomostream.files.writing import write_text
from tomostream.journal.sessions import is_project
from tomostream.report.folders import safe_name
from tomostream.streaming.cores import CORES
from tomostream.streaming.gpus import PROGRAMS_PER_GPU

#: In the folder of the projects: what the watch notes.
NOTES = ".watch"
#: Seconds after which a session that could not be started is retried: at first, and at most.
RETRY_SECONDS, MAX_RETRY_SECONDS = 60.0, 600.0
#: Beside the notes on sessions; see `Notes.note_disk`.
DISK = "empty-on-disk"
LAUNCH = "import sys; from tomostream.cli import main; sys.exit(main())"


class Stage(str, Enum):
    """What became of the folder of a session."""

    IGNORED = "ignored"
    STARTING = "starting"
    STARTED = "started"
    REFUSED = "refused"


@dataclass(frozen=True)
class Note:
    """What is noted of a folder. `session`: its path below the root; `reason`: why it was not started."""

    microscope: str
    session: str
    project: str
    stage: Stage
    since: float
    reason: str = ""


class Notes:
    """The notes of one microscope: a file for each folder of a session.

    Parameters
    ----------
    facility, microscope : whose.
    """

    def __init__(self, facility: Facility, microscope: Microscope) -> None:
        self.folder = os.path.join(facility.projects, NOTES, microscope.name)
        self._facility, self._microscope = facility, microscope
        self._known = {note.session: note for note in self._read()}

    @property
    def first(self) -> bool:
        """Whether this microscope was never watched before."""
        return not os.path.isdir(self.folder)

    def all(self) -> list[Note]:
        return list(self._known.values())

    def of(self, session: str) -> Note | None:
        return self._known.get(session)

    def begin(self) -> None:
        """Watch the microscope from now on.

        Raises
        ------
        OSError : the folder cannot be made.
        """
        os.makedirs(self.folder, exist_ok=True)

    def note_disk(self, disk: str) -> None:
        """Note the disk on which the root was when nothing lay in it; "" when something does.

        Raises
        ------
        OSError : it cannot be written.
        """
        write_text(os.path.join(self.folder, DISK), disk)

    def disk(self) -> str:
        """Return what `note_disk` noted, "" where nothing was."""
        try:
            with open(os.path.join(self.folder, DISK), encoding="utf-8") as file:
                return file.read()
        except OSError:
            return ""

    def put(self, session: str, stage: Stage, reason: str = "") -> Note:
        """Note what became of a folder.

        Raises
        ------
        OSError : it cannot be written.
        """
        note = Note(self._microscope.name, session, self.project(session), stage, time.time(), reason)
        write_text(self.path(session, ".json"), json.dumps(asdict(note), indent=1) + "\n")
        self._known[session] = note
        return note

    def path(self, session: str, ending: str) -> str:
        """Return a file of the notes on a session."""
        return os.path.join(self.folder, f"{safe_name(session, set())}{ending}")

    def project(self, session: str) -> str:
        """Return the folder of the project of a session; Scipion takes only some characters."""
        plain = re.sub(r"[^A-Za-z0-9_-]", "-", session)[:80]
        if plain != session or self._is_anothers(plain):
            plain += f"-{hashlib.sha256(session.encode('utf-8', 'surrogateescape')).hexdigest()[:6]}"
        return os.path.join(self._facility.projects, f"{self._microscope.name}-{plain}")

    def _is_anothers(self, session: str) -> bool:
        """Tell whether a session of another microscope may have the same project: `krios` with 1-a, and `krios-1` with a."""
        name = f"{self._microscope.name}-{session}"
        return any(name.startswith(f"{other.name}-") and len(other.name) > len(self._microscope.name)
                   for other in self._facility.microscopes)

    def _read(self) -> Iterator[Note]:
        for path in sorted(glob.glob(os.path.join(glob.escape(self.folder), "*.json"))):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                with open(path, encoding="utf-8") as file:
                    data = json.load(file)
                yield Note(**{**data, "stage": Stage(data["stage"])})


def folders_of(microscope: Microscope) -> list[str]:
    """Return the folders of the sessions of a microscope, below its root.

    Raises
    ------
    OSError : the root is not there now.
    """
    os.listdir(microscope.root)
    found = glob.glob(os.path.join(glob.escape(microscope.root), microscope.sessions))
    return sorted(os.path.relpath(path, microscope.root) for path in found if os.path.isdir(path))


def has_movies(microscope: Microscope, session: str) -> bool:
    """Tell whether the first movie of a session is there."""
    return bool(files_of(os.path.join(microscope.pattern(microscope.movies, session))))


@dataclass
class Start:
    """A session that is being started by a process of its own; `again` seconds after which a refused one is retried."""

    microscope: Microscope
    session: str
    process: subprocess.Popen[bytes] | None = None
    lock: Lock | None = None
    again: float = RETRY_SECONDS
    due: float = 0.0


class Newcomers:
    """Starts the sessions of one microscope.

    Parameters
    ----------
    facility, microscope : whose.
    """

    def __init__(self, facility: Facility, microscope: Microscope) -> None:
        self.facility, self.microscope = facility, microscope
        self.notes = Notes(facility, microscope)
        self._starts: dict[str, Start] = {}
        self.trouble = ""

    @property
    def starting(self) -> int:
        """How many are being started now."""
        return sum(each.process is not None for each in self._starts.values())

    def preview(self) -> list[str]:
        """Return what `look` would give; notes nothing."""
        try:
            folders = folders_of(self.microscope)
        except OSError as error:
            self.trouble = f"the root {self.microscope.root} cannot be read now: {(error.strerror or str(error)).lower()}"
            return []
        if self._is_ignored():
            return []
        return [session for session in folders if self._is_wanted(session)]

    def _is_wanted(self, session: str) -> bool:
        note, start = self.notes.of(session), self._starts.get(session)
        if note is not None and note.stage in (Stage.IGNORED, Stage.STARTED):
            return False
        if start is not None and (start.process is not None or start.due > time.monotonic()):
            return False
        return note is not None or has_movies(self.microscope, session)

    def look(self) -> list[str]:
        """Return the sessions that are to be started, in the order of their names; at the first look, what is there may be
        ignored.

        Raises
        ------
        OSError : a note cannot be written.
        """
        self.trouble = ""
        wanted = self.preview()
        if self.trouble:
            return []
        if self._is_ignored():
            self.notes.begin()
            folders = folders_of(self.microscope)
            for session in folders:
                self.notes.put(session, Stage.IGNORED, "it was there before this microscope was watched")
            self.notes.note_disk("" if folders else str(device_of(self.microscope.root)))
            return []
        if self.notes.first:
            self.notes.begin()
        return wanted

    def _is_ignored(self) -> bool:
        """Tell whether everything that is in the root now is to be ignored, because it was there before."""
        return self.microscope.existing is Existing.IGNORE and (self.notes.first or self._is_mounted_now())

    def _is_mounted_now(self) -> bool:
        """Tell whether the root, which was empty at the first look, is on another disk by now: it was not mounted then."""
        disk = self.notes.disk()
        return bool(disk) and disk != str(device_of(self.microscope.root))

    def begin(self, session: str) -> bool:
        """Start the project of a session; False while an earlier watch's start of it still lives.

        Raises
        ------
        OSError : it cannot be noted.
        """
        start = self._starts.setdefault(session, Start(self.microscope, session))
        lock = Lock(self.notes.path(session, ".lock"))
        if not lock.take():
            lock.close()
            return False
        note = self.notes.put(session, Stage.STARTING)
        with open(self.notes.path(session, ".log"), "ab") as log:
            start.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCH, *self.command(session, note.project)], cwd=self.facility.projects,
                env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                pass_fds=(lock.fileno(),))
        start.lock = lock
        return True

    def command(self, session: str, project: str) -> list[str]:
        """Return the words of `tomostream` that start a session, or bring an interrupted start to its end."""
        if is_project(project):
            return ["resume", project, "--no-follow"]
        microscope, gpus = self.microscope, " ".join(map(str, self.microscope.gpus))
        words = ["run", project, "--movies", microscope.pattern(microscope.movies, session), "--mdocs",
                 microscope.pattern(microscope.mdocs, session), "--engine", microscope.engine, "--timeout", microscope.timeout,
                 "--no-follow"]
        words += ["--queue", microscope.queue] if microscope.queue else []
        words += ["--page", os.path.join(microscope.report, os.path.basename(project))] if microscope.report else []
        for name in ("motioncor", "aretomo") if gpus else ():
            words += ["--set", f"{name}.gpuList={gpus}", "--set", f"{name}.numberOfThreads={len(microscope.gpus) + 1}"]
        return words + [word for setting in microscope.settings for word in ("--set", setting)]

    def environment(self) -> dict[str, str]:
        """Return the environment of a start: ours, with what the configuration says."""
        given = {CORES: self.facility.cores, PROGRAMS_PER_GPU: self.facility.programs_per_gpu}
        return {**os.environ, **{name: value for name, value in given.items() if value}, **variables(self.microscope)}

    def collect(self) -> list[Note]:
        """Return the notes of the starts that have ended since the last time.

        Raises
        ------
        OSError : a note cannot be written; the next call writes it.
        """
        ended = []
        for session, start in list(self._starts.items()):
            if start.process is None or start.process.poll() is None:
                continue
            if start.process.returncode == 0:
                ended.append(self.notes.put(session, Stage.STARTED))
                del self._starts[session]
            else:
                reason = last_line(self.notes.path(session, ".log")) or f"it ended with status {start.process.returncode}"
                ended.append(self.notes.put(session, Stage.REFUSED, reason))
                self._starts[session] = replace(start, process=None, lock=None, due=time.monotonic() + start.again,
                                                again=min(2 * start.again, MAX_RETRY_SECONDS))
            if start.lock is not None:
                start.lock.close()
        return ended
