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
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tomostream.journal import entries
from tomostream.journal.runs import DEAD
from tomostream.journal.status import ARETOMO, IMPORT, MOTIONCOR
from tomostream.tests import disturbances
from tomostream.tests.chaos_round import KINDS, Disturbance, Round, Skipped
from tomostream.tests.schedulers import Scheduler
from tomostream.tests.support import ORDER, OUTPUTS, Session, read_property, read_rows, someone_else, wait_for

SERIES, TILTS, INTERVAL, START_DELAY = 4, 5, 0.8, 3.0
#: Attributes that tell when or in which order something was done, and not what.
NOT_COMPARED = ("id",)


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


def start(session: Session, *words: str) -> subprocess.Popen:
    """The chain with stand-ins, and the acquisition as soon as the import is there. Movies grow in place."""
    session.use_standins("0.3,0.6")
    run = session.run("--timeout", "300", "--quiet", "--no-report", *words, engine="gpu", settings=settings())
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


def done_again(session: Session, before: dict[str, set[str]], started: int) -> list[str]:
    """Items that were registered before so many programs had been started, and whose program was started after that."""
    again = []
    for entry in session.standin_runs()[started:]:
        name = MOTIONCOR if entry["program"] == "MotionCor3" else ARETOMO
        item = entry["item"] if name == MOTIONCOR else os.path.splitext(entry["item"])[0]
        if item in before[name]:
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
    with (place_for(round_) as project, Session(project=project, someone=someone) as session,
          neighbour_for(session, round_) as other, disk_for(session, round_)):
        if round_.has("clock"):
            environment = disturbances.clock_environment(session)
            if environment is None:
                raise Skipped("there is no C compiler here")
            session.environment.update(environment)
        outcome = _play(session, round_, expected, other)
        if keep and outcome.wrong:
            for path in (session.folder, *([session.project] if project else [])):
                shutil.copytree(path, os.path.join(keep, str(round_.seed), os.path.basename(path)), symlinks=True)
        return outcome


def _play(session: Session, round_: Round, expected: dict, other: Session | None = None) -> Outcome:
    resumed: list[float] = []
    words = ("--queue", "tomo") if round_.has("scheduler") else ()
    if words:
        session.environment.update(Scheduler(os.path.join(session.folder, "scheduler")).environment)
    try:
        run = start(session, *words)
        before = [do(session, each, run, resumed, other) for each in round_.disturbances]
        finish(session)
        wrong = differences(outputs_of(session), expected)
        if other is not None:
            finish(other)
            wrong += [f"the neighbour: {words}" for words in differences(outputs_of(other), expected)]
            wrong += [] if round_.has("clock") else shared_gpus(session, other)
    except AssertionError as error:
        states = {name: session.state(name) for name in ORDER}
        return Outcome((f"{error} {states} {session.last_words()}", *tracebacks(session)), tuple(resumed))
    wrong += [item for registered, started in before for item in done_again(session, registered, started)]
    wrong += [f"{name} is not closed" for name in ORDER if not session.stream_closed(name)]
    return Outcome((*wrong, *tracebacks(session)), tuple(resumed))


def do(session: Session, disturbance: Disturbance, run: subprocess.Popen, resumed: list[float],
       other: Session | None) -> tuple[dict, int]:
    """Wait, disturb, and resume where that is needed; what was registered before, and how many programs had been started."""
    wait_until(session, disturbance.wait)
    before = {name: set(session.keys(name)) for name in ORDER}
    started = len(session.standin_runs())
    if disturbance.kind.startswith("kill"):
        said = {name: len(session.events(name, entries.Session)) for name in ORDER}
        disturbances.kill(session, disturbance, run)
        resumed.append(resume(session, said))
    elif disturbance.kind == "hang-up":
        disturbances.hang_up(session, disturbance, run)
        if set(ORDER) - {name for name in ORDER if session.pids(name)}:     # Ctrl-C fell into the start
            resume(session, {})
    elif disturbance.kind == "neighbour" and other is not None:
        start(other)
    else:
        {"locked": disturbances.lock, "full": disturbances.fill, "unreadable": disturbances.make_unreadable,
         "stalled": disturbances.stall, "permission": disturbances.forbid, "paused-writer": disturbances.pause_writer,
         "unmounted": disturbances.unmount, "scheduler": disturbances.disturb_scheduler,
         "clock": disturbances.step_clock}[disturbance.kind](session, disturbance)
    return before, started


def resume(session: Session, said: dict[str, int]) -> float:
    """Resume; return the seconds until each protocol that was dead has said that it goes on (`said`: how often it had before)."""
    dead = [name for name in ORDER if session.state(name) in (DEAD, "unknown") or not session.pids(name)]
    began = time.monotonic()
    if session.call("resume", session.project, "--no-follow", seconds=240):
        raise AssertionError(f"resume failed: {session.said('resume')[-500:]}")
    for name in dead:
        wait_for(lambda name=name: len(session.events(name, entries.Session)) > said.get(name, 0), 120,
                 f"word of {name} after it was resumed", every=0.1)
    return round(time.monotonic() - began, 1)


@contextmanager
def neighbour_for(session: Session, round_: Round) -> Iterator[Session | None]:
    """Another session on the same machine, with the same GPUs, where the round has one."""
    if not round_.has("neighbour"):
        yield None
        return
    with Session(TMPDIR=session.environment["TMPDIR"]) as other:
        yield other


def shared_gpus(*sessions: Session) -> list[str]:
    """Programs of different sessions that had the same GPU at the same time."""
    runs = sorted((entry["began"], entry["time"], entry["item"], gpu) for session in sessions
                  for entry in session.standin_runs("end") for gpu in entry.get("gpu") or ())
    last: dict[str, tuple[float, str]] = {}
    wrong = []
    for began, ended, item, gpu in runs:
        if gpu in last and began < last[gpu][0]:
            wrong.append(f"{item} and {last[gpu][1]} had GPU {gpu} at the same time")
        last[gpu] = max(last.get(gpu, (0.0, "")), (ended, item))
    return wrong


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


@contextmanager
def disk_for(session: Session, round_: Round) -> Iterator[None]:
    """A disk of its own for the movies, mounted in their folder, where the round takes it away."""
    if not round_.has("unmounted"):
        yield
        return
    for folder in (session.frames, disturbances.disk_of(session)):
        os.makedirs(folder)
    try:
        for words in (["-t", "tmpfs", "-o", "mode=777", "none"], ["--bind", disturbances.disk_of(session)]):
            folder = disturbances.disk_of(session) if words[0] == "-t" else session.frames
            if os.geteuid() != 0 or subprocess.run(["mount", *words, folder], stderr=subprocess.DEVNULL, check=False).returncode:
                raise Skipped("a disk cannot be mounted here")
        yield
    finally:
        for folder in (session.frames, disturbances.disk_of(session)):
            subprocess.run(["umount", "-l", folder], stderr=subprocess.DEVNULL, check=False)


def wait_until(session: Session, moment: float) -> None:
    """So many seconds after now, but not before the first movie; less than 0: before the first movie is due."""
    pause = threading.Event()
    if moment < 0:
        pause.wait(max(0.0, START_DELAY + moment))
        return
    wait_for(lambda: os.path.isdir(session.frames) and os.listdir(session.frames), 60, "first movie", every=0.05)
    pause.wait(moment)


__all__ = ["KINDS", "Disturbance", "Outcome", "Round", "Skipped", "differences", "outputs_of", "play", "undisturbed"]
