# SPDX-License-Identifier: GPL-3.0-or-later
"""One process at a run, one command that starts runs of a project: locks that the kernel frees when their holder is gone."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from typing import IO

#: What file systems answer that have no such locks (Lustre mounted without them).
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


def hold(path: str, seconds: float) -> IO[str] | None:
    """Take the lock of a file and write our process id into it.

    Parameters
    ----------
    path : made if it is not there. Its folder must be.
    seconds : for how long to wait for whoever holds it.

    Returns
    -------
    The open file: whoever closes it, or ends, gives the lock back. None when it was not to be had.

    Raises
    ------
    OSError : the file cannot be opened.
    """
    file, pause, end = open(path, "a+", encoding="utf-8"), threading.Event(), time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return file
            if time.monotonic() >= end:
                file.close()
                return None
            pause.wait(0.1)
            continue
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        return file


def holder(path: str) -> int | None:
    """Process id of who took a lock last; None where nobody did."""
    try:
        with open(path, encoding="utf-8") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
