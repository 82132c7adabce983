# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing files: complete or not at all, and on the disk before a row refers to them.

SQLite syncs what it commits; a file that was only written may be empty after a power failure although its row exists. So
files are synced before their row is committed, in the thread that made them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Iterable, Iterator

#: Errors of file systems that cannot sync a folder (some network disks).
_CANNOT = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def sync(paths: Iterable[str]) -> None:
    """Flush files and their names to the disk. Call after the last rename.

    Raises
    ------
    OSError : a file does not exist, or the disk failed.
    """
    paths = list(paths)
    for path in paths:
        _sync(path)
    for folder in {os.path.dirname(path) or "." for path in paths}:
        _sync(folder)


def sync_tree(folder: str) -> None:
    """Flush a folder with everything in it to the disk, and its own name."""
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


@contextlib.contextmanager
def whole(path: str) -> Iterator[str]:
    """Give the name under which to write a file that replaces `path` if the block succeeds: complete or not at all.

    The name is unique to this process and thread, hidden, and in the same folder; nothing of it remains if writing fails.
    """
    folder, name = os.path.split(path)
    short = os.fsdecode(os.fsencode(name)[:200])        # a name may have 255 bytes, and a character up to four of them
    part = os.path.join(folder, f".{short}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise


def remove_parts(folder: str) -> None:
    """Remove what `whole` could not, because its process was killed. Only for the sole user of this folder."""
    for name in os.listdir(folder):
        if re.fullmatch(r"\..+\.\d+-\d+\.part", name, re.DOTALL):
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(folder, name))


def write_text(path: str, text: str) -> None:
    """Write a file, complete or not at all: a reader never sees half of it.

    Raises
    ------
    OSError : it cannot be written; names the file that was meant.
    """
    try:
        with whole(path) as part, open(part, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        error.filename = path
        raise
