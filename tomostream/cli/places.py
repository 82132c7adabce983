# SPDX-License-Identifier: GPL-3.0-or-later
"""Places that users choose for the output of a command: whether they can be written and, if not, why."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from tomostream.cli.errors import UserError
from tomostream.journal.layout import page_of
from tomostream.journal.status import ARETOMO, ProjectStatus


def cannot_write(path: str, error: OSError) -> str:
    """Return why a file or folder cannot be written, and what to do; for `refuse`.

    Parameters
    ----------
    path : as the user gave it, absolute or not.
    error : the error of the system.
    """
    above = nearest(path)
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and not os.path.isdir(above):
        why = f"{above} is a file, not a folder. Choose another place"
    elif error.errno == errno.EISDIR:
        why = "it is a folder. Name a file in it"
    elif error.errno == errno.EROFS:
        why = "the disk is read-only. Choose another place"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        why = "the disk is full. Make room, or choose another place"
    elif error.errno in (errno.EACCES, errno.EPERM):
        why = f"you have no permission to write in {above}. Choose another place"
    elif error.errno == errno.ENOENT:
        why = f"nothing can be made in {above}. Choose another place"
    else:
        why = f"{(error.strerror or str(error)).lower()}. Choose another place"
    return f"{os.path.abspath(path)} cannot be written: {why}"


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """Let a file or folder that cannot be written be something the user can fix.

    Raises
    ------
    UserError : in place of an OSError that names a file.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise UserError(cannot_write(str(error.filename).removesuffix(".part"), error)) from error


def unstorable(path: str) -> str:
    """Return why Scipion, whose databases hold text, cannot store a path, in words; "" where it can."""
    try:
        path.encode()
    except UnicodeEncodeError:
        readable = os.fsencode(path).decode("utf-8", "backslashreplace")
        return f"the name of {readable} is not UTF-8 text, so Scipion cannot store it: rename it, or give a link to it"
    return ""


def nearest(path: str) -> str:
    """Return a path, or the nearest of its parents, that exists."""
    path = os.path.abspath(path)
    while not os.path.lexists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path


def where(status: ProjectStatus) -> list[str]:
    """Return a line each for the page and the tomograms of a project, if there are any."""
    page = page_of(status.project)
    made = [series.tomogram for series in status.series.values() if series.tomogram]
    return [*([f"page: {page}"] if os.path.exists(page) else []),
            *([f"tomograms: {os.path.join(status.folders[ARETOMO], 'extra', '*', '*.mrc')}"] if made else [])]


def check_file(path: str) -> None:
    """Check that a file can be written hours from now, by writing and removing one beside it.

    Raises
    ------
    OSError : it cannot.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    part = f"{path}.part"
    with open(part, "w", encoding="utf-8"):
        pass
    os.remove(part)
