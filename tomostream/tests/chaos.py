# SPDX-License-Identifier: GPL-3.0-or-later
"""Small sessions that are disturbed on purpose, and what comes out compared with an undisturbed one.

A round is drawn from its seed: what is done to which protocol, and when. Afterwards the session is resumed where that is
needed, and every output set must be that of the undisturbed session: rows, ids, files, values; and nothing that was
registered before may have been computed again.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tomostream.status import ARETOMO, COMPOSE, IMPORT, MOTIONCOR
from tomostream.tests.support import ORDER, OUTPUTS, Session, end, read_property, read_rows, wait_for

SERIES, TILTS, INTERVAL = 3, 5, 0.35
#: Kind -> how often it is drawn.
KINDS = {"kill": 10, "kill-two": 3, "kill-all": 3, "locked": 2, "full": 2, "unreadable": 2, "stalled": 2}
#: Seconds from the first movie on in which a disturbance may begin. Earlier ones hit the start of the protocols.
MOMENTS = (-3.0, SERIES * TILTS * INTERVAL + 3.0)
#: Attributes that tell when or in which order something was done, and not what.
NOT_COMPARED = ("id",)


class Skipped(Exception):
    """This machine cannot make that disturbance; says why."""


@dataclass(frozen=True)
class Round:
    """What is done in a round."""

    seed: int
    kind: str
    targets: tuple[str, ...]
    moment: float
    seconds: float

    @classmethod
    def of(cls, seed: int, kinds: dict[str, int] | None = None, lock_seconds: float = 30.0) -> Round:
        draw = random.Random(seed)
        chances = kinds or KINDS
        kind, = draw.choices(list(chances), list(chances.values()))
        targets = tuple(draw.sample(ORDER, {"kill-two": 2, "kill-all": 4, "full": 4}.get(kind, 1)))
        moment = draw.uniform(*MOMENTS)
        if kind in ("locked", "unreadable", "full"):
            moment = max(moment, 0.5)       # there is nothing to lock before
        return cls(seed, kind, targets, moment, lock_seconds if kind == "locked" else draw.uniform(2.0, 6.0))


def settings() -> dict[str, object]:
    return {"compose.expectedTilts": TILTS, "compose.time4NextTilt": 300, "compose.time4NextTS": 600,
            "aretomo.tomoThickness": 40, "aretomo.alignZ": 20, "motioncor.numberOfThreads": 3, "aretomo.numberOfThreads": 3}


def start(session: Session) -> subprocess.Popen:
    """The chain with stand-ins, and the acquisition as soon as the import is there."""
    session.use_standins("0.25,0.5")
    run = session.run("--timeout", "12", "--quiet", engine="gpu", settings=settings())
    wait_for(lambda: session.ledger(IMPORT), 120, "start of the import")
    session.simulate("--series", str(SERIES), "--tilts", str(TILTS), "--frames", "2", "--size", "48", "--interval",
                     str(INTERVAL), "--start-delay", "4", "--seed", "1")
    return run


def finish(session: Session, seconds: float = 120.0) -> None:
    wait_for(lambda: all(session.state(name) == "finished" for name in ORDER), seconds, "end of all protocols", every=0.5)


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
    with open(path, "rb") as file:
        if path.endswith((".mrc", ".mrcs")):
            file.seek(1024)
        return hashlib.sha1(file.read()).hexdigest()


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
            again.append(f"{name} {item}")
    return again


# ---------------------------------------------------------------------- disturbing
def play(round_: Round, expected: dict) -> tuple[list[str], float]:
    """Play a round; return what was wrong (nothing, if all is well) and the seconds from resuming to going on.

    Raises
    ------
    Skipped : see there.
    """
    with place_for(round_) as project, Session(project=project) as session:
        run = start(session)
        wait_until(session, round_.moment)
        before = {name: set(session.keys(name)) for name in ORDER}
        moment = time.time()
        resumed = disturb(session, round_, run)
        if resumed:
            began = time.monotonic()
            if session.call("resume", session.project, "--no-follow", seconds=240):
                return [f"resume failed: {session.said('resume')[-500:]}"], 0.0
            resumed = time.monotonic() - began
        try:
            finish(session)
        except AssertionError as error:
            states = {name: session.state(name) for name in ORDER}
            return [f"{error} {states} {session.said('resume')[-500:] if resumed else ''}"], float(resumed)
        try:
            wrong = differences(outputs_of(session), expected)
        except AssertionError as error:
            return [str(error)], float(resumed)
        wrong += [f"done again: {item}" for item in done_again(session, before, moment)]
        wrong += [f"{name} is not closed" for name in ORDER if not session.stream_closed(name)]
        return wrong, float(resumed)


@contextmanager
def place_for(round_: Round) -> Iterator[str | None]:
    """A place for the project: on a small disk of its own where the disk is to be filled."""
    if round_.kind != "full":
        yield None
        return
    folder = tempfile.mkdtemp(prefix="tomostream-")
    command = ["mount", "-t", "tmpfs", "-o", "size=96m", "none", folder]
    if os.geteuid() != 0 or subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode:
        os.rmdir(folder)
        raise Skipped("a small disk cannot be mounted here")
    try:
        yield os.path.join(folder, "proj")
    finally:
        subprocess.run(["umount", "-l", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(session: Session, moment: float) -> None:
    """Until so many seconds after the first movie is due."""
    pause = threading.Event()
    pause.wait(max(0.0, 4.0 + min(moment, 0.0)))
    if moment > 0:
        wait_for(lambda: os.path.isdir(session.frames) and os.listdir(session.frames), 60, "first movie", every=0.05)
        pause.wait(moment)


def disturb(session: Session, round_: Round, run: subprocess.Popen) -> bool:
    """Do it; True when the session has to be resumed."""
    if round_.kind.startswith("kill"):
        kill(session, round_, run)
        return True
    {"locked": lock, "full": fill, "unreadable": make_unreadable, "stalled": stall}[round_.kind](session, round_)
    return False


def kill(session: Session, round_: Round, run: subprocess.Popen) -> None:
    if round_.kind == "kill-all":
        run.kill()
        run.wait()
    for pid in (session.pids() if round_.kind == "kill-all" else
                [pid for name in round_.targets for pid in session.pids(name)]):
        end(pid)
    threading.Event().wait(round_.seconds / 6)
    # While the driver still starts protocols it would start those that resume starts: it ends, or has started all, first.
    wait_for(lambda: run.poll() is not None or all(session.state(name) != "unknown" for name in ORDER), 240,
             "end of the start")


def main_set(session: Session, round_: Round) -> str:
    name = round_.targets[0]
    path = os.path.join(session.folder_of(name) or "", OUTPUTS[name][0])
    wait_for(lambda: os.path.exists(path) or _found(session, name), 60, f"output of {name}")
    return os.path.join(session.folder_of(name), OUTPUTS[name][0])


def _found(session: Session, name: str) -> bool:
    folder = session.folder_of(name)
    return folder is not None and os.path.exists(os.path.join(folder, OUTPUTS[name][0]))


def lock(session: Session, round_: Round) -> None:
    """Nobody can read or write a set for a while."""
    connection = sqlite3.connect(main_set(session, round_), timeout=30, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        threading.Event().wait(round_.seconds)
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def make_unreadable(session: Session, round_: Round) -> None:
    """SQLite finds another file's bytes in the place of a set, as on a file server that answers wrongly for a while."""
    path = main_set(session, round_)
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")           # so that nobody is in the middle of writing
    with open(path, "r+b") as file:
        header = file.read(16)
        file.seek(0)
        file.write(b"not a database!\0")
        file.flush()
        connection.close()
        threading.Event().wait(round_.seconds)
        file.seek(0)
        file.write(header)


def fill(session: Session, round_: Round) -> None:
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
        threading.Event().wait(round_.seconds)
    os.remove(filler)


def stall(session: Session, round_: Round) -> None:
    """A protocol stands still, as when its file system does."""
    pids = [pid for name in round_.targets for pid in session.pids(name)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    threading.Event().wait(round_.seconds)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


if __name__ == "__main__":
    sys.exit("Use benchmarks/chaos.py.")

__all__ = ["COMPOSE", "KINDS", "Round", "Skipped", "differences", "outputs_of", "play", "undisturbed"]
