# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that a killed protocol left running: found by the folder in which they work, and ended.

SIGKILL of a protocol does not reach its programs. They go on, hold their GPU, and write to a folder that nobody will read.
"""

from __future__ import annotations

import os
import signal


def end_orphans(folder: str) -> int:
    """End the processes of this machine that name `folder` in their command line; return how many.

    Parameters
    ----------
    folder : a work folder of this run alone, absolute or relative to the working directory.

    Only called by the one process of a run, before it starts a program: whoever works in its folder is a leftover.
    """
    ended = 0
    for pid in _processes():
        if pid != os.getpid() and _works_in(pid, folder):
            try:
                os.kill(pid, signal.SIGKILL)
                ended += 1
            except (ProcessLookupError, PermissionError):
                continue
    return ended


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:         # no /proc: nothing can be found
        return []


def _works_in(pid: int, folder: str) -> bool:
    """Whether a command line names the folder; a relative name counts where the process has our working directory."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = os.fsdecode(file.read())
        if os.path.abspath(folder) + os.sep in command:
            return True
        relative = os.path.relpath(folder) + os.sep
        return relative in command and os.readlink(f"/proc/{pid}/cwd") == os.getcwd()
    except OSError:         # it has ended meanwhile, or is not ours
        return False
