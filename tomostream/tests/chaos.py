# SPDX-License-Identifier: GPL-3.0-or-later
"""Small sessions that are disturbed on purpose, and what comes out compared with an undisturbed one.

A round is a session with some disturbances, one after the other, drawn from its seed: what is done to which protocol, and
when. After each the session is resumed where that is needed. In the end every output set must be that of the undisturbed
session: rows, ids, files, values; nothing that was registered before may have been computed again; and no protocol may
have left a traceback, because all of this was to be expected.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tomostream.acquisition.movies import check_movie
from tomostream.journal import entries
from tomostream.journal.runs import DEAD
from tomostream.journal.status import ARETOMO, IMPORT, MOTIONCOR
from tomostream.tests.support import ORDER, OUTPUTS, Session, end, read_property, read_rows, someone_else, wait_for

SERIES, TILTS, INTERVAL, START_DELAY = 4, 5, 0.8, 3.0
#: Kind -> how often it is drawn.
KINDS = {"kill": 12, "kill-two": 4, "kill-all": 4, "unreadable": 3, "permission": 3, "stalled": 2, "paused-writer": 2,
         "full": 2, "locked": 1}
#: Kinds of which a session has one at most: they take long, or need a place of their own.
ONCE = ("locked", "full")
#: Seconds from the end of one disturbance to the next; the first may come before the first movie.
WAITS, FIRST_WAIT = (0.3, 5.0), (-2.0, 5.0)
#: Of the databases that are locked: the set that others read, and what Scipion keeps of a run and of the project.
DATABASES = ("set", "set", "set", "run", "steps", "project")
#: Folders whose permission is removed: the microscope's, a run's, and the one that holds a run's files.
FOLDERS = ("frames", "mdocs", "run", "extra")
#: Attributes that tell when or in which order something was done, and not what.
NOT_COMPARED = ("id",)


class Skipped(Exception):
    """This machine cannot make that disturbance; says why."""


@dataclass(frozen=True)
class Disturbance:
    """One thing that is done to a session: to which protocols (and to what of them), how long after the one before, and
    for how many seconds."""

    kind: str
    targets: tuple[str, ...]
    what: str
    wait: float
    seconds: float

    @classmethod
    def drawn(cls, draw: random.Random, kind: str, first: bool, lock_seconds: float) -> Disturbance:
        targets = tuple(draw.sample(ORDER, {"kill-two": 2, "kill-all": 4, "full": 4}.get(kind, 1)))
        wait = draw.uniform(*(FIRST_WAIT if first else WAITS))
        what = {"locked": draw.choice(DATABASES), "permission": draw.choice(FOLDERS)}.get(kind, "")
        if kind in ("locked", "unreadable", "full", "paused-writer", "permission"):
            wait = max(wait, 0.5)           # there is nothing to lock before
        return cls(kind, targets, what, wait, lock_seconds if kind == "locked" else draw.uniform(1.0, 6.0))

    def __str__(self) -> str:
        return f"{self.kind}{f' {self.what}' if self.what else ''} {'+'.join(self.targets)} after {self.wait:.1f} s"


@dataclass(frozen=True)
class Round:
    """The disturbances of one session."""

    seed: int
    disturbances: tuple[Disturbance, ...]

    @classmethod
    def of(cls, seed: int, kinds: dict[str, int] | None = None, many: int = 3, lock_seconds: float = 30.0) -> Round:
        draw, left, found = random.Random(seed), dict(kinds or KINDS), []
        for place in range(many):
            kind, = draw.choices(list(left), list(left.values()))
            if kind in ONCE and len(left) > 1:
                del left[kind]
            found.append(Disturbance.drawn(draw, kind, place == 0, lock_seconds))
        return cls(seed, tuple(found))

    def has(self, kind: str) -> bool:
        return any(each.kind == kind for each in self.disturbances)


@dataclass(frozen=True)
class Outcome:
    """What was wrong (nothing, if all is well), and for each resuming the seconds until the protocols went on."""

    wrong: tuple[str, ...]
    resumed: tuple[float, ...] = ()


# ---------------------------------------------------------------------- a session
def settings() -> dict[str, object]:
    return {"compose.expectedTilts": TILTS, "compose.time4NextTilt": 300, "compose.time4NextTS": 600,
            "aretomo.tomoThickness": 40, "aretomo.alignZ": 20, "motioncor.numberOfThreads": 3, "aretomo.numberOfThreads": 3,
            "motioncor.gpuList": "0 1", "aretomo.gpuList": "2 3"}


def start(session: Session) -> subprocess.Popen:
    """The chain with stand-ins, and the acquisition as soon as the import is there. Movies grow in place."""
    session.use_standins("0.3,0.6")
    run = session.run("--timeout", "300", "--quiet", "--no-report", engine="gpu", settings=settings())
    wait_for(lambda: session.ledger(IMPORT) or run.poll() is not None, 180, "start of the import")
    if run.poll() is not None:
        raise AssertionError(f"the session did not start: {session.said('run')[-500:]}")
    session.simulate("--series", str(SERIES), "--tilts", str(TILTS), "--frames", "2", "--size", "48", "--interval",
                     str(INTERVAL), "--start-delay", str(START_DELAY), "--seed", "1", "--write", "slow")
    return run


def finish(session: Session, seconds: float = 150.0) -> None:
    """Everything is acquired; when it is imported the import is stopped, and the others end by themselves."""
    wait_for(lambda: len(session.rows(IMPORT)) == SERIES * TILTS, seconds, "last movie", every=0.3)
    with open(os.path.join(session.folder_of(IMPORT), "extra", "STOP_STREAMING.TXT"), "w", encoding="utf-8"):
        pass
    wait_for(lambda: all(session.state(name) == "finished" for name in ORDER), seconds, "end of all protocols", every=0.3)


def undisturbed() -> dict:
    """What comes out when nothing happens."""
    with Session() as session:
        start(session)
        finish(session)
        return outputs_of(session)


# ---------------------------------------------------------------------- what came out
def outputs_of(session: Session) -> dict:
    """Every output set: key -> attributes, tilts and digests of files. Raises AssertionError where ids are not 1 to N."""
    found: dict = {}
    for name in ORDER:
        for path in sets_of(session, name):
            rows = read_rows(path)
            key = "_tsId" if rows and "_tsId" in rows[0] else OUTPUTS[name][1]
            if sorted(row["id"] for row in rows) != list(range(1, len(rows) + 1)):
                raise AssertionError(f"{name}: the ids of {os.path.basename(path)} are {sorted(row['id'] for row in rows)}")
            if read_property(path, "_size") != str(len(rows)):
                size = read_property(path, "_size")
                raise AssertionError(f"{name}: {os.path.basename(path)} says {size} of {len(rows)} rows")
            found[f"{name}/{os.path.basename(path)}"] = {row[key]: described(session, path, row) for row in rows}
    return found


def sets_of(session: Session, name: str) -> list[str]:
    folder = session.folder_of(name)
    return sorted(os.path.join(folder, entry) for entry in os.listdir(folder) if entry.endswith(".sqlite"))


def described(session: Session, path: str, row: dict) -> dict:
    """A row without what depends on the moment, with its tilts and what its files hold."""
    values = {name: value for name, value in row.items() if name not in NOT_COMPARED}
    tilts = read_rows(path, f"{row['_tsId']}_") if "_tsId" in row else []
    values["tilts"] = [{name: value for name, value in tilt.items() if name != "id"} for tilt in tilts]
    for file_name in {each.get("_filename") for each in [row, *tilts]} - {None, ""}:
        values[f"file {file_name}"] = digest(os.path.join(session.project, file_name))
    return values


def digest(path: str) -> str:
    """Of the data of a file; the headers of MRC files hold the time."""
    try:
        with open(path, "rb") as file:
            if path.endswith((".mrc", ".mrcs")):
                file.seek(1024)
            return hashlib.sha1(file.read()).hexdigest()
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def differences(found: dict, expected: dict) -> list[str]:
    """What differs, in words; none when the two are the same."""
    words = []
    for name in sorted(found.keys() | expected.keys()):
        ours, theirs = found.get(name, {}), expected.get(name, {})
        if lost := sorted(theirs.keys() - ours.keys()):
            words.append(f"{name} lacks {', '.join(lost)}")
        if extra := sorted(ours.keys() - theirs.keys()):
            words.append(f"{name} has {', '.join(extra)} that should not be there")
        for key in sorted(ours.keys() & theirs.keys()):
            unlike = [attribute for attribute in ours[key].keys() | theirs[key].keys()
                      if ours[key].get(attribute) != theirs[key].get(attribute)]
            if unlike:
                words.append(f"{name} {key} differs in {', '.join(sorted(unlike))}")
    return words


def done_again(session: Session, before: dict[str, set[str]], moment: float) -> list[str]:
    """Items that were registered before the moment and whose program was started after it."""
    again = []
    for entry in session.standin_runs():
        name = MOTIONCOR if entry["program"] == "MotionCor3" else ARETOMO
        item = entry["item"] if name == MOTIONCOR else os.path.splitext(entry["item"])[0]
        if entry["time"] > moment and item in before[name]:
            again.append(f"done again: {name} {item}")
    return again


def tracebacks(session: Session) -> list[str]:
    """Protocols whose log holds one: whatever was done to them was to be expected."""
    found = []
    for name in filter(session.folder_of, ORDER):
        log = session.log_of(name)
        if "Traceback" in log:
            found.append(f"a traceback in the log of {name}: {log[log.rindex('Traceback'):][:1500]}")
    return found


# ---------------------------------------------------------------------- a round
def play(round_: Round, expected: dict, keep: str | None = None) -> Outcome:
    """Play a round. Where something was wrong the session is copied into the folder `keep`.

    Raises
    ------
    Skipped : see there.
    """
    someone = None
    if round_.has("permission"):
        someone = someone_else()
        if someone is None:
            raise Skipped("the session cannot be run by somebody who feels permissions (needs root and setpriv)")
    with place_for(round_) as project, Session(project=project, someone=someone) as session:
        outcome = _play(session, round_, expected)
        if keep and outcome.wrong:
            for path in (session.folder, *([session.project] if project else [])):
                shutil.copytree(path, os.path.join(keep, str(round_.seed), os.path.basename(path)), symlinks=True)
        return outcome


def _play(session: Session, round_: Round, expected: dict) -> Outcome:
    resumed: list[float] = []
    try:
        run = start(session)
        before = [do(session, each, run, resumed) for each in round_.disturbances]
        finish(session)
        wrong = differences(outputs_of(session), expected)
    except AssertionError as error:
        states = {name: session.state(name) for name in ORDER}
        return Outcome((f"{error} {states} {session.last_words()}", *tracebacks(session)), tuple(resumed))
    wrong += [item for registered, moment in before for item in done_again(session, registered, moment)]
    wrong += [f"{name} is not closed" for name in ORDER if not session.stream_closed(name)]
    return Outcome((*wrong, *tracebacks(session)), tuple(resumed))


def do(session: Session, disturbance: Disturbance, run: subprocess.Popen, resumed: list[float]) -> tuple[dict, float]:
    """Wait, disturb, and resume where that is needed; what was registered before, and when that was."""
    wait_until(session, disturbance.wait)
    before = {name: set(session.keys(name)) for name in ORDER}
    moment = time.time()
    if disturbance.kind.startswith("kill"):
        kill(session, disturbance, run)
        resumed.append(resume(session, moment))
    else:
        {"locked": lock, "full": fill, "unreadable": make_unreadable, "stalled": stall, "permission": forbid,
         "paused-writer": pause_writer}[disturbance.kind](session, disturbance)
    return before, moment


def resume(session: Session, moment: float) -> float:
    """Resume; return the seconds until each protocol that was dead has said that it goes on."""
    dead = [name for name in ORDER if session.state(name) in (DEAD, "unknown") or not session.pids(name)]
    began = time.monotonic()
    if session.call("resume", session.project, "--no-follow", seconds=240):
        raise AssertionError(f"resume failed: {session.said('resume')[-500:]}")
    for name in dead:
        wait_for(lambda name=name: any(entry.time > moment for entry in session.events(name, entries.Session)), 120,
                 f"word of {name} after it was resumed", every=0.1)
    return round(time.monotonic() - began, 1)


@contextmanager
def place_for(round_: Round) -> Iterator[str | None]:
    """A place for the project: on a small disk of its own where the disk is to be filled."""
    if not round_.has("full"):
        yield None
        return
    folder = tempfile.mkdtemp(prefix="tomostream-")
    command = ["mount", "-t", "tmpfs", "-o", "size=96m,mode=777", "none", folder]
    if os.geteuid() != 0 or subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode:
        os.rmdir(folder)
        raise Skipped("a small disk cannot be mounted here")
    try:
        yield os.path.join(folder, "proj")
    finally:
        subprocess.run(["umount", "-l", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(session: Session, moment: float) -> None:
    """So many seconds after now, but not before the first movie; less than 0: before the first movie is due."""
    pause = threading.Event()
    if moment < 0:
        pause.wait(max(0.0, START_DELAY + moment))
        return
    wait_for(lambda: os.path.isdir(session.frames) and os.listdir(session.frames), 60, "first movie", every=0.05)
    pause.wait(moment)


# ---------------------------------------------------------------------- the disturbances
def kill(session: Session, disturbance: Disturbance, run: subprocess.Popen) -> None:
    """SIGKILL of one, two or all protocols; with all, of the driver too."""
    if disturbance.kind == "kill-all":
        run.kill()
        run.wait()
    for pid in (session.pids() if disturbance.kind == "kill-all" else
                [pid for name in disturbance.targets for pid in session.pids(name)]):
        end(pid)
    threading.Event().wait(disturbance.seconds / 6)


def main_set(session: Session, disturbance: Disturbance) -> str:
    """Path of the output of the protocol that is meant, as soon as it is there."""
    name = disturbance.targets[0]

    def path() -> str:
        folder = session.folder_of(name)
        return os.path.join(folder, OUTPUTS[name][0]) if folder else ""

    wait_for(lambda: os.path.exists(path()), 60, f"output of {name}")
    return path()


def lock(session: Session, disturbance: Disturbance) -> None:
    """Nobody can read or write a database for a while."""
    path = main_set(session, disturbance)
    logs = os.path.join(os.path.dirname(path), "logs")
    path = {"set": path, "run": os.path.join(logs, "run.db"), "steps": os.path.join(logs, "steps.sqlite"),
            "project": os.path.join(session.project, "project.sqlite")}[disturbance.what]
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        threading.Event().wait(disturbance.seconds)
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def make_unreadable(session: Session, disturbance: Disturbance) -> None:
    """SQLite finds another file's bytes in the place of a set, as on a file server that answers wrongly for a while."""
    path = main_set(session, disturbance)
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")           # so that nobody is in the middle of writing
    with open(path, "r+b") as file:
        header = file.read(16)
        file.seek(0)
        file.write(b"not a database!\0")
        file.flush()
        connection.close()
        threading.Event().wait(disturbance.seconds)
        file.seek(0)
        file.write(header)


def fill(session: Session, disturbance: Disturbance) -> None:
    """Nothing can be written in the project for a while."""
    wait_for(lambda: session.ledger(ARETOMO), 120, "start of the last protocol")
    filler = os.path.join(os.path.dirname(session.project), "filler")
    with open(filler, "wb") as file:
        try:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        except OSError:
            pass
        threading.Event().wait(disturbance.seconds)
    os.remove(filler)


def stall(session: Session, disturbance: Disturbance) -> None:
    """A protocol stands still, as when its file system does."""
    pids = [pid for name in disturbance.targets for pid in session.pids(name)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    threading.Event().wait(disturbance.seconds)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def pause_writer(session: Session, disturbance: Disturbance) -> None:
    """The microscope stands still in the middle of a movie."""
    def half_written() -> bool:
        return session.acquired or any(check_movie(entry.path).state != "complete" for entry in os.scandir(session.frames))

    wait_for(half_written, 30, "half-written movie", every=0.01)
    if not session.acquired:
        session.writer.send_signal(signal.SIGSTOP)
        threading.Event().wait(disturbance.seconds)
        session.writer.send_signal(signal.SIGCONT)


def forbid(session: Session, disturbance: Disturbance) -> None:
    """The protocols may no longer enter a folder; the microscope (root) still can."""
    run = os.path.dirname(main_set(session, disturbance))
    folder = {"frames": session.frames, "mdocs": session.mdocs, "run": run,
              "extra": os.path.join(run, "extra")}[disturbance.what]
    mode = os.stat(folder).st_mode
    os.chmod(folder, 0o000)
    threading.Event().wait(disturbance.seconds)
    os.chmod(folder, mode)


__all__ = ["KINDS", "Disturbance", "Outcome", "Round", "Skipped", "differences", "outputs_of", "play", "undisturbed"]
