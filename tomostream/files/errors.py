# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors that a user can correct, each as one sentence."""

from __future__ import annotations

import errno
import os


class EngineError(Exception):
    """Something that the user can correct. The message is one sentence: what is wrong, where, and what to do."""


class BadFileError(EngineError, ValueError):
    """A file is missing, damaged, or not what it should be."""


_NO_ROOM = {errno.ENOSPC: "no space is left on the disk", errno.EDQUOT: "the disk quota is used up"}


def sentence_of(error: OSError, path: str | os.PathLike[str] = "") -> str:
    """Return an operating-system error as one sentence that names the file.

    Parameters
    ----------
    error : OSError
        As caught.
    path : str, optional
        The file that was read or written, used where the error does not name one itself (a failed `write` does not).
    """
    name = os.fspath(path) or error.filename or "the file"
    reason = _NO_ROOM.get(error.errno or 0) or (error.strerror or str(error)).lower()
    return f"{name}: {reason}"
