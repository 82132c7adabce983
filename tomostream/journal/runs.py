# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a run, read from what the run itself wrote and from its process."""

from __future__ import annotations

import os
import sqlite3
import time
from typing import Final, Literal

from tomostream.journal.layout import stop_file

#: Seconds that a run may take from its launch until its process is seen.
LAUNCH_SECONDS = 5.0
RunState = Literal["running", "finished", "stopped", "dead", "unknown"]
RUNNING: Final = "running"
FINISHED: Final = "finished"
STOPPED: Final = "stopped"
DEAD: Final = "dead"
UNKNOWN: Final = "unknown"


def producer_state(folder: str, protocol_id: int, patience: float = LAUNCH_SECONDS) -> RunState:
    """Whether the run that makes a set goes on, ended well, was stopped or failed, or died silently.

    Read from the run's own `logs/run.db`: the project's database follows only when somebody refreshes it. A run that
    says it is running and whose process is gone (same machine, not in a queue) is dead; `patience` is for how many seconds
    after its launch a run is believed to be coming up although no process of it is seen.
    """
    database = os.path.join(folder, "logs", "run.db")
    rows = _facts(database, protocol_id)
    status = rows.get("status")
    if status == "finished":
        return FINISHED
    if status in ("failed", "aborted"):
        return STOPPED
    if status is None:
        return UNKNOWN
    if rows.get("_pid") in (None, "", "0") and not rows.get("_jobId"):
        return DEAD if _never_came_up(database, protocol_id, patience) else RUNNING
    gone = _process_gone(rows.get("_pid"), rows.get("hostFullName"), os.path.basename(folder.rstrip(os.sep)))
    return DEAD if gone else RUNNING


def run_state(folder: str, patience: float = LAUNCH_SECONDS) -> RunState:
    """`producer_state` of the run in a folder as Scipion names it: "000123_ProtTomoStreamComposeTS"."""
    return producer_state(folder, _number(folder), patience)


def process_of(folder: str) -> int | None:
    """The process of a run that goes on here; None where it is not seen on this machine (another host, a queue)."""
    pid = _facts(os.path.join(folder, "logs", "run.db"), _number(folder)).get("_pid")
    run = os.path.basename(folder.rstrip(os.sep))
    seen = pid is not None and pid.isdigit() and any(f"{os.sep}{run}{os.sep}" in word for word in _words_of(pid))
    return int(pid) if pid is not None and seen else None


def ask_to_stop(folder: str, by: str) -> None:
    """Ask the protocol of a run to finish what is in flight, register what is decided, and close its outputs.

    Raises
    ------
    OSError : the request cannot be written.
    """
    with open(stop_file(folder), "w", encoding="utf-8") as file:
        file.write(f"Written by {by}: the protocol finishes what is in flight and ends.\n")


def _number(folder: str) -> int:
    return int(os.path.basename(folder.rstrip(os.sep)).partition("_")[0])


def _facts(database: str, protocol_id: int) -> dict[str, str | None]:
    """What a run says of itself, by the names of Scipion; empty where it cannot be read."""
    names = {f"{protocol_id}.{name}": name for name in ("status", "_pid", "hostFullName", "_jobId")}
    try:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=1)
        try:
            return {names[name]: value for name, value in connection.execute(
                f"SELECT name, value FROM Objects WHERE name IN ({','.join('?' * len(names))})", tuple(names))}
        finally:
            connection.close()
    except sqlite3.Error:
        return {}


def _never_came_up(database: str, protocol_id: int, patience: float) -> bool:
    """A run that was launched and died before it could write its process id: nobody on this machine is at it."""
    try:
        if abs(time.time() - os.path.getmtime(database)) < patience:        # one of an hour ahead: the clock was set back
            return False
        processes = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return False
    project, _, _ = os.path.abspath(database).rpartition(f"{os.sep}Runs{os.sep}")
    words = {project, os.path.relpath(database, project), str(protocol_id)}
    return not any(words <= _words_of(pid) for pid in processes)


def _words_of(pid: str) -> set[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return set(os.fsdecode(file.read()).split("\0"))
    except OSError:
        return set()


def _process_gone(pid: str | None, host: str | None, run: str) -> bool:
    """Whether a process of this machine has ended. After a reboot its number may be another's: that one does not name the
    folder of the run in its command line."""
    if not pid or not pid.isdigit() or int(pid) == 0 or (host and host != os.uname().nodename.split(".")[0]
                                                         and host != _full_host_name()):
        return False
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            if file.read().rsplit(")", 1)[-1].split()[0] == "Z":
                return True
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return int(pid) != os.getpid() and f"{os.sep}{run}{os.sep}" not in os.fsdecode(file.read())
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _full_host_name() -> str:
    import socket

    return socket.getfqdn()
