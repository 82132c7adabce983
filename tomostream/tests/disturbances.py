# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done to a session on purpose, one function a kind; see `chaos`."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import threading

from tomostream.acquisition.movies import check_movie
from tomostream.journal.status import ARETOMO
from tomostream.tests.chaos_round import Disturbance
from tomostream.tests.schedulers import Scheduler
from tomostream.tests.support import OUTPUTS, Session, end, wait_for


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
    with open(filler, "wb", buffering=0) as file:       # a buffer would be written once more at the end, and fail
        try:
            while True:
                file.write(bytes(1 << 16))
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


def disk_of(session: Session) -> str:
    """Where the disk with the movies is mounted for good; it is mounted in their folder too."""
    return os.path.join(session.folder, "disk")


def unmount(session: Session, disturbance: Disturbance) -> None:
    """The disk with the movies is not mounted for a while, and the microscope, which writes there, stands still."""
    session.writer.send_signal(signal.SIGSTOP)
    subprocess.run(["umount", "-l", session.frames], check=True)
    threading.Event().wait(disturbance.seconds)
    subprocess.run(["mount", "--bind", disk_of(session), session.frames], check=True)
    session.writer.send_signal(signal.SIGCONT)


def hang_up(session: Session, disturbance: Disturbance, run: subprocess.Popen) -> None:
    """The terminal of the driver is closed, or `timeout` ends it: the protocols go on."""
    if run.poll() is None:
        os.killpg(run.pid, getattr(signal, disturbance.what))
        run.wait(120)


def disturb_scheduler(session: Session, disturbance: Disturbance) -> None:
    """The scheduler fails, hangs, is silent or has forgotten its jobs for a while."""
    scheduler = Scheduler(os.path.join(session.folder, "scheduler"))
    scheduler.behave(disturbance.what)
    threading.Event().wait(disturbance.seconds)
    scheduler.behave()


def step_clock(session: Session, disturbance: Disturbance) -> None:
    """The clock of the machine is set; the microscope has its own, and so has the file server."""
    set_clock(session, float(disturbance.what))
    threading.Event().wait(disturbance.seconds)


def set_clock(session: Session, seconds: float) -> None:
    """From now on the clock of the session's machine is so far ahead (behind: negative)."""
    with open(clock_file(session), "r+b") as file:
        file.write(struct.pack("q", round(seconds)))


def clock_file(session: Session) -> str:
    return os.path.join(session.folder, "clock")


def clock_environment(session: Session) -> dict[str, str] | None:
    """The environment of processes whose clock can be set; None where there is no C compiler."""
    library, source = os.path.join(session.folder, "clock.so"), os.path.join(os.path.dirname(__file__), "data", "clock.c")
    compiler = shutil.which("cc") or shutil.which("gcc")
    command = [str(compiler), "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"]
    if compiler is None or subprocess.run(command, check=False).returncode:
        return None
    with open(clock_file(session), "wb") as file:
        file.write(bytes(8))
    return {"LD_PRELOAD": library, "CLOCK_OFFSET": clock_file(session)}
