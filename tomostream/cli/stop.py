# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream stop`: end some or all protocols of a session, in order or at once; `tomostream resume` continues them."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import threading
import time
from collections.abc import Iterable

from tomostream.cli import refuse
from tomostream.cli.places import cannot_write
from tomostream.journal import runs, stopping
from tomostream.journal.layout import stop_file, stop_request
from tomostream.journal.status import CLASSES, ProjectStatus
from tomostream.report import background
from tomostream.streaming.submitted import cancel_left

#: What happens to a protocol that is asked to stop,
IN_ORDER = "was asked to stop: it finishes what is in flight, registers what is decided and closes its outputs"
#: and to one that a command, which starts protocols one after the other, has not started yet.
NOT_STARTED = "is not running yet: the command that is starting the session will not start it"
#: Seconds for a process to end.
GONE_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="name or path of the project")
    parser.add_argument("protocols", nargs="*", metavar="PROTOCOL", help=f"{', '.join(CLASSES)}; none: all that are running")
    parser.add_argument("--now", action="store_true",
                        help="end the processes too; what is in flight is repeated when the session is resumed")


def main(options: argparse.Namespace) -> int:
    from tomostream.cli.status import existing

    path = existing(options.project)
    unknown = next((name for name in options.protocols if name not in CLASSES), None)
    if unknown is not None:
        return refuse("stop", f"there is no protocol '{unknown}'; there are: {', '.join(CLASSES)}")
    wanted = options.protocols or list(CLASSES)
    try:
        starting = stopping.ask(path, wanted)
    except OSError as error:
        return refuse("stop", cannot_write(stop_request(path), error))
    status = ProjectStatus(path)
    status.find()
    absent = [name for name in options.protocols if name not in status.folders]
    if (absent or not status.folders) and not starting:
        return refuse("stop", f"the project {path} has no {' and no '.join(absent) or 'tomostream'} protocol")
    chosen = {name: status.folders[name] for name in CLASSES if name in wanted and name in status.folders}
    running = [name for name, folder in chosen.items() if runs.run_state(folder) == runs.RUNNING]
    # end all processes before asking any: one that reads the request would give up series that are only waiting
    words = {name: ending(chosen[name]) if options.now else IN_ORDER for name in running}
    for name in running:
        try:
            runs.ask_to_stop(chosen[name], "tomostream stop")
        except OSError as error:
            return refuse("stop", cannot_write(stop_file(chosen[name]), error))
    for name in [name for name in CLASSES if name in wanted and (name in chosen or starting)]:
        print(f"{name} {words.get(name, NOT_STARTED if starting else 'is not running: there is nothing to stop')}.")
    if running or starting:
        print(f"To continue: tomostream resume {shlex.quote(path)} --again")
    return 0


def ending(folder: str) -> str:
    """End the processes of a run at once and wait until they are gone; return what happened, in words."""
    pid = runs.process_of(folder)
    if pid is None and runs.run_state(folder) != runs.RUNNING:
        return "has stopped"
    if pid is None:
        return f"{IN_ORDER}; its process is not on this machine and was not ended"
    try:
        end([pid, *descendants(pid)])
    except PermissionError:
        return f"{IN_ORDER}; its process {pid} belongs to another user and was not ended"
    pause, deadline = threading.Event(), time.monotonic() + GONE_SECONDS
    while runs.process_of(folder) is not None and time.monotonic() < deadline:
        pause.wait(0.02)
    jobs = cancel_left(folder)
    words = jobs.in_words()
    again = "; jobs that were not cancelled will be when it continues" if jobs.left else ""
    return f"was ended (process {pid}){words and f', and {words}'}: what was in flight is repeated when it continues{again}"


def end(pids: Iterable[int]) -> None:
    """Send SIGTERM to processes; those that have ended meanwhile are skipped.

    Raises
    ------
    PermissionError : one belongs to another user.
    """
    for pid in pids:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue


def is_writer(pid: int) -> bool:
    """Tell whether a process is the background writer of a page; see `report/background.py`."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return set(background.WORDS) <= set(os.fsdecode(file.read()).split("\0"))
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """Return all processes started by a process, directly or not. (Its process group may include Scipion's window.) The writer of
    the page is left out: it must still show that the session was stopped, and ends by itself."""
    parents: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                parents.setdefault(int(file.read().rsplit(")", 1)[-1].split()[1]), []).append(int(name))
        except OSError:
            continue
    found, new = [], [pid]
    while new:
        new = [child for each in new for child in parents.get(each, ()) if not is_writer(child)]
        found += new
    return found
