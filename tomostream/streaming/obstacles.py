# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps work from being done although nothing is wrong with it: a full disk, a file server that is silent."""

from __future__ import annotations

import errno
import os

from tomostream.journal.space import disk_of

#: Bytes: with less than this a disk counts as full.
MIN_SPACE = 16 << 20


def is_short(path: str) -> bool:
    """Whether there is too little room on the disk of a path for anything; where that cannot be told there is enough."""
    disk = disk_of(path)
    return disk is not None and disk[0] < MIN_SPACE


#: A file server that does not answer, as the kernel says it.
_NO_ANSWER = (errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH)


def out_of_reach(path: str) -> str:
    """Why a file cannot be read whatever is in it: its folder is not there or may not be entered, its server is silent."""
    try:
        with open(path, "rb"):
            return ""
    except OSError as error:
        folder = os.path.dirname(os.path.realpath(path))
        if error.errno in _NO_ANSWER:
            return f"{path} cannot be read ({error.strerror.lower()})"
        if not os.path.isdir(folder):
            return f"the folder {folder} is not there, or is not to be reached"
        return "" if os.access(folder, os.X_OK) else f"there is no permission to enter the folder {folder}"


def is_full(error: BaseException, path: str) -> bool:
    """Whether something failed because nothing can be written any more: it says so, or there is no space left."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return is_short(path)
