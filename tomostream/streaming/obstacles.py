# SPDX-License-Identifier: GPL-3.0-or-later
"""What prevents work although nothing is wrong with it: a full disk, a file server that does not answer."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable

from tomostream.files.disks import is_empty
from tomostream.journal.space import disk_of, human
from tomostream.streaming.work import Task

#: Bytes: with less than this a disk counts as full.
MIN_SPACE = 16 << 20


def is_short(path: str) -> bool:
    """Tell whether the disk of a path is full; where that cannot be determined it is not."""
    disk = disk_of(path)
    return disk is not None and disk[0] < MIN_SPACE


#: The kernel's errors for a file server that does not answer.
_NO_ANSWER = (errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
              errno.ENETUNREACH, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.ESHUTDOWN, errno.EREMOTEIO)


def out_of_reach(path: str) -> str:
    """Return why a file cannot be read whatever is in it: its folder is not there, is empty or may not be entered, its server is
    silent."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))        # else a pipe would block until it has a writer
        return ""
    except OSError as error:
        folder = os.path.dirname(os.path.realpath(path))
        if error.errno in _NO_ANSWER:
            return f"{path} cannot be read ({(error.strerror or str(error)).lower()})"
        if not os.path.isdir(folder):
            return f"the folder {folder} does not exist, or cannot be reached"
        if not os.access(folder, os.X_OK):
            return f"there is no permission to enter the folder {folder}"
        return f"the folder {folder} is empty: is its disk mounted?" if is_empty(folder) else ""


def is_full(error: BaseException, path: str) -> bool:
    """Tell whether something failed because the disk is full: the error says so, or there is no space left."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__
    return is_short(path)


class Obstacles:
    """The obstacles to the work of one protocol.

    Parameters
    ----------
    folder : working folder of the run.
    extra : the folder in it into which programs write.
    inputs_of : gives the files that the work on a task reads.
    """

    def __init__(self, folder: str, extra: str, inputs_of: Callable[[Task], Iterable[str]]) -> None:
        self._folder, self._extra, self._inputs_of = folder, extra, inputs_of

    def of(self, task: Task) -> str:
        """Return what would prevent any program from working on a task now; "" when nothing would."""
        if is_short(self._folder):
            return self.full()
        if not os.access(self._extra, os.W_OK | os.X_OK):
            return f"nothing can be written in {self._extra}"
        return next(filter(None, map(out_of_reach, self._inputs_of(task))), "")

    def is_full(self, error: BaseException) -> bool:
        """Tell whether something failed because the disk of the project is full."""
        return is_full(error, self._folder)

    def full(self) -> str:
        """Say that the disk of the project is full, in words."""
        disk = disk_of(self._folder)
        free = "" if disk is None else f" ({human(disk[0])} are free)"
        return f"the disk of the project is full{free}: make room"
