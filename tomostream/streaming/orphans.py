# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that a killed protocol left running: found by a mark in their environment, and stopped.

SIGKILL of a protocol does not reach its programs. They go on, hold their GPU, and write to a folder that nobody will read. They,
and everything they started, have the environment that we gave them. Their process ids may have been reused, and the folder in
their command lines may also be in that of a user's `tail -f`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import psutil

#: Variable that names the work folder of the run that started a program.
MARK = "TOMOSTREAM_WORK_FOLDER"


def marked(environment: Mapping[str, str] | None, folder: str) -> dict[str, str]:
    """Return an environment for a program (None: ours) that says which run started it; `folder` is that run's work folder."""
    return {**(os.environ if environment is None else environment), MARK: os.path.realpath(folder)}


def end_orphans(folder: str) -> int:
    """End the programs on this machine that carry the mark of a work folder.

    Called by the only process of a run before it starts any program, so every process with its mark is a leftover.

    Returns
    -------
    How many processes were stopped.
    """
    stopped = 0
    for process in list(_marked_with(os.path.realpath(folder))):
        try:
            process.kill()          # psutil checks by the start time that it is still the same process
        except psutil.Error:
            continue
        stopped += 1
    return stopped


def _marked_with(folder: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == folder:
                yield process
        except (psutil.Error, OSError):         # it has ended meanwhile, or is another user's
            continue
