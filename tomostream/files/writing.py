# SPDX-License-Identifier: GPL-3.0-or-later
"""What a row promises lies on the disk, also after the power went.

SQLite syncs what it commits; a file that is only written may be empty after a power failure although its row is there. So
files are synced before their row is committed, in the thread that made them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

#: What file systems answer that cannot sync a folder (some network disks).
_CANNOT = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def sync(paths: Iterable[str]) -> None:
    """Bring files and their names to the disk. Call after the last rename.

    Raises
    ------
    OSError : a file is not there, or the disk failed.
    """
    paths = list(paths)
    for path in paths:
        _sync(path)
    for folder in {os.path.dirname(path) or "." for path in paths}:
        _sync(folder)


def sync_tree(folder: str) -> None:
    """Bring a folder with all that is in it to the disk, and its own name."""
    for here, _, names in os.walk(folder):
        sync(path for name in names if not os.path.islink(path := os.path.join(here, name)))
        _sync(here)
    _sync(os.path.dirname(folder) or ".")


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(descriptor)


def write_text(path: str, text: str) -> None:
    """Write a file, complete or not at all: a reader never sees half of it."""
    part = f"{path}.part"
    with open(part, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    os.replace(part, path)
