# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a run, from what the run itself has written and from its process."""

from __future__ import annotations

import os
import shlex
import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import psutil

from tomostream.files.databases import select
from tomostream.files.logs import last_error
from tomostream.journal.layout import stop_file

#: Seconds that a run may take from its launch until its process exists.
LAUNCH_SECONDS = 5.0
RunState = Literal["running", "finished", "stopped", "failed", "dead", "unknown"]
#: The states of `producer_state`. Stopped: at the request of a person. Failed: with an error. Dead: its process is gone.
RUNNING: Final = "running"
FINISHED: Final = "finished"
STOPPED: Final = "stopped"
FAILED: Final = "failed"
DEAD: Final = "dead"
UNKNOWN: Final = "unknown"
#: States in which a run ended before its work was done, and all in which it has ended.
CUT_SHORT = frozenset[str]({STOPPED, FAILED, DEAD})
ENDED = CUT_SHORT | {FINISHED}
#: State -> the words to follow the name of a protocol.
WORDS: Mapping[str, str] = {RUNNING: "is running", FINISHED: "has finished", STOPPED: "was stopped",
                            FAILED: "ended with an error", DEAD: "died", UNKNOWN: "was never started"}


def producer_state(folder: str, protocol_id: int, patience: float = LAUNCH_SECONDS) -> RunState:
    """Return the state of a run: running, finished, stopped, failed (with an error), dead (silently) or unknown.

    It is read from the run's own `logs/run.db`, because the project's database is updated only when somebody refreshes it. A run
    that claims to be running but whose process is gone (same machine, not in a queue) is dead, or stopped if a person had asked
    it to. For `patience` seconds after its launch a run without a process is assumed to be starting.
    """
    return _state(folder, protocol_id, _facts(_database(folder), protocol_id), patience)


def _state(folder: str, protocol_id: int, facts: Mapping[str, str | None], patience: float) -> RunState:
    status = facts.get("status")
    known: dict[str | None, RunState] = {"finished": FINISHED, "failed": FAILED, "aborted": STOPPED, None: UNKNOWN}
    if status in known:
        return known[status]
    if not _is_gone(folder, protocol_id, facts, patience):
        return RUNNING
    return STOPPED if os.path.exists(stop_file(folder)) else DEAD


def _is_gone(folder: str, protocol_id: int, facts: Mapping[str, str | None], patience: float) -> bool:
    """Tell whether a run that has not ended has no process. Until a new process has started, the run keeps the old one's id."""
    pid, host = facts.get("_pid"), facts.get("hostFullName")
    coming_up = facts.get("status") != "running" and not _is_elsewhere(host)
    if not facts.get("_jobId") and (coming_up or pid in (None, "", "0")):
        return _never_came_up(_database(folder), protocol_id, patience)
    return _process_gone(pid, host, os.path.basename(folder.rstrip(os.sep)))


def _database(folder: str) -> str:
    return os.path.join(folder, "logs", "run.db")


def run_state(folder: str) -> RunState:
    """Return `producer_state` of the run in a folder, named as by Scipion: "000123_ProtTomoStreamComposeTS"."""
    return producer_state(folder, _number(folder))


def process_of(folder: str) -> int | None:
    """Return the process of a run; None if it is not on this machine (another host, a queue)."""
    database, number = _database(folder), _number(folder)
    return _process(folder, _facts(database, number)) or _coming_up(database, number)


def _process(folder: str, facts: Mapping[str, str | None]) -> int | None:
    pid, run = facts.get("_pid"), os.path.basename(folder.rstrip(os.sep))
    seen = pid is not None and pid.isdigit() and any(f"{os.sep}{run}{os.sep}" in word for word in _words_of(pid))
    return int(pid) if pid is not None and seen else None


# ---------------------------------------------------------------------------------------------------- for people
ProcessState = Literal["never-started", "starting", "running", "stopped", "dead", "finished"]


@dataclass(frozen=True)
class Process:
    """The state of a protocol, as shown by `tomostream status`.

    `since`: when it began, in seconds since the epoch, 0 if unknown. `reason`: why, and what to do. A protocol that ended with an
    error counts as dead, because it needs a person just as much.
    """

    state: ProcessState
    since: float = 0.0
    reason: str = ""


NEVER_STARTED = Process("never-started")


def process(folder: str, waits: str) -> Process:
    """Return the state of the run in a folder. `waits`: what it said it is waiting for."""
    facts, number = _facts(_database(folder), _number(folder)), _number(folder)
    state = _state(folder, number, facts, LAUNCH_SECONDS)
    resume = f"tomostream resume {shlex.quote(os.path.dirname(os.path.dirname(os.path.abspath(folder))))}"
    if state == UNKNOWN:
        return NEVER_STARTED
    if state == RUNNING:
        pid = _process(folder, facts)
        since = _begin_of(pid) or _time_of(facts.get("initTime")) or _last_sign(folder)
        return Process("running" if facts.get("status") == "running" else "starting", since, f"waits: {waits}" if waits else "")
    since = _last_sign(folder) if state == DEAD else _time_of(facts.get("endTime")) or _last_sign(folder)
    if state == FINISHED:
        return Process("finished", since)
    if state == STOPPED:
        return Process("stopped", since, f"It was stopped; to continue: {resume}")
    if state == DEAD:
        return Process("dead", since, f"Its process is gone; bring it back with: {resume}")
    why = " ".join((facts.get("_error") or last_error(os.path.join(folder, "logs"))).split())[:300]
    return Process("dead", since, f"It ended with an error ({why or 'see its log'}); log: "
                                  f"{os.path.join(folder, 'logs', 'run.stdout')}; to continue: {resume}")


def _begin_of(pid: int | None) -> float:
    """Return when a process started; 0 if it is not there."""
    try:
        return 0.0 if pid is None else psutil.Process(pid).create_time()
    except psutil.Error:
        return 0.0


def _time_of(text: str | None) -> float:
    """Return a time as pyworkflow writes it (local, without a zone), in seconds since the epoch; 0 if there is none."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else 0.0
    except ValueError:
        return 0.0


def _last_sign(folder: str) -> float:
    """Return when a run last wrote anything; 0 if never."""
    files = [_database(folder), *(os.path.join(folder, "logs", name) for name in ("run.stdout", "run.stderr")),
             os.path.join(folder, "extra", "ledger.jsonl")]
    return max((os.path.getmtime(path) for path in files if os.path.exists(path)), default=0.0)


def made_classes(project: str, names: Iterable[str]) -> set[str]:
    """Return which of these protocol classes a project has, started or not; none if its database cannot be read."""
    wanted = set(names)
    try:
        rows = select(os.path.join(project, "project.sqlite"), "SELECT DISTINCT classname FROM Objects")
        return {name for name, in rows} & wanted
    except sqlite3.Error:
        return set()


def is_just_made(project: str) -> bool:
    """Tell whether a project was made or changed so recently that its protocols may be about to be launched."""
    try:
        return abs(time.time() - os.path.getmtime(os.path.join(project, "project.sqlite"))) < LAUNCH_SECONDS
    except OSError:
        return False


# ---------------------------------------------------------------------------------------------------- asking, and its facts
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
    """Return what a run says about itself, by Scipion's names; empty if it cannot be read."""
    names = {f"{protocol_id}.{name}": name for name in (
        "status", "_pid", "hostFullName", "_jobId", "initTime", "endTime", "_error")}
    try:
        return {names[name]: value for name, value in select(
            database, f"SELECT name, value FROM Objects WHERE name IN ({','.join('?' * len(names))})", tuple(names))}
    except sqlite3.Error:
        return {}


def _never_came_up(database: str, protocol_id: int, patience: float) -> bool:
    """Tell whether a run died before it could write its process id: no process on this machine runs it."""
    try:
        if abs(time.time() - os.path.getmtime(database)) < patience:    # one far in the future: the clock was set back
            return False
        return _coming_up(database, protocol_id) is None
    except OSError:
        return False


def _coming_up(database: str, protocol_id: int) -> int | None:
    """Return the process that was launched for a run, found by its command line; None if there is none on this machine."""
    project, _, _ = os.path.abspath(database).rpartition(f"{os.sep}Runs{os.sep}")
    words = {project, os.path.relpath(database, project), str(protocol_id)}
    return next((int(pid) for pid in filter(str.isdigit, os.listdir("/proc")) if words <= _words_of(pid)), None)


def _words_of(pid: str) -> set[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return set(os.fsdecode(file.read()).split("\0"))
    except OSError:
        return set()


def _process_gone(pid: str | None, host: str | None, run: str) -> bool:
    """Tell whether a process of this machine has ended. After a reboot another process may have its id, but not the folder of the
    run in its command line."""
    if not pid or not pid.isdigit() or int(pid) == 0 or _is_elsewhere(host):
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


def _is_elsewhere(host: str | None) -> bool:
    """Tell whether a process is on another machine, where it cannot be looked for."""
    return bool(host) and host != os.uname().nodename.split(".")[0] and host != _full_host_name()


def _full_host_name() -> str:
    import socket

    return socket.getfqdn()
