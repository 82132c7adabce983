# SPDX-License-Identifier: GPL-3.0-or-later
"""Words from logs and exceptions, and into logs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import TextIO

#: Characters read from the start or the end of a log, and of a line that is quoted.
_BLOCK, _MAX_QUOTED = 4096, 300


class Lenient:
    """A stream for output that nothing depends on: what cannot be written (the disk is full) is lost, and the writer continues.

    Parameters
    ----------
    stream : the underlying stream; everything but writing is passed on to it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written; return the number of characters given."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def counted(number: int, noun: str) -> str:
    """Return a number of things as people write it: 1 job, 2 jobs."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def some(names: Sequence[str], most: int) -> str:
    """Return names for a sentence: all of them, or the first `most` and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def one_sentence(error: BaseException) -> str:
    """Return the message of an exception as one line; its type if it has none."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def first_words(log: str) -> str:
    """Return the beginning of a program's log; "" if there is none."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            return file.read(_BLOCK)
    except OSError:
        return ""


def last_words(log: str) -> str:
    """Return the last line of a program's log that says something, preferably an error."""
    lines = _at_the_end(log)
    errors = [line for line in lines if "error" in line.lower() or "cannot" in line.lower()] or lines
    return errors[-1][:_MAX_QUOTED] if errors else ""


def last_line(path: str) -> str:
    """Return the last line of a log that says something."""
    lines = _at_the_end(path)
    return lines[-1][:_MAX_QUOTED] if lines else ""


def last_error(logs: str) -> str:
    """Return the words with which a run ended, from its logs in a folder; "" if they mention no error."""
    for name in ("run.stderr", "run.stdout"):
        errors = [line for line in _at_the_end(os.path.join(logs, name), 8192) if "ERROR" in line or "rror:" in line
                  or "Error" in line]
        if errors:
            return errors[-1][:_MAX_QUOTED]
    return ""


def _at_the_end(path: str, size: int = _BLOCK) -> list[str]:
    """Return the lines that say something in the last `size` bytes of a log, without surrounding blanks; none if there is no
    log."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            return [line.strip() for line in file.read().splitlines() if line.strip()]
    except OSError:
        return []
