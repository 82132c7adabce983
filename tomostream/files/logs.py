# SPDX-License-Identifier: GPL-3.0-or-later
"""Words out of logs and exceptions."""

from __future__ import annotations

import os


def one_sentence(error: BaseException) -> str:
    """Return the words of an exception as one line; its type where it has no words."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def first_words(log: str, limit: int = 4096) -> str:
    """Return the beginning of a program's log; empty where it left none."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            return file.read(limit)
    except OSError:
        return ""


def last_words(log: str, limit: int = 300) -> str:
    """Return the last line of a program's log that says something, at most `limit` characters."""
    lines = _at_the_end(log)
    said = [line for line in lines if "error" in line.lower() or "cannot" in line.lower()] or lines
    return said[-1][:limit] if said else ""


def last_line(path: str) -> str:
    """Return the last line of a log that says something."""
    lines = _at_the_end(path)
    return lines[-1][:300] if lines else ""


def last_error(logs: str) -> str:
    """Return the words with which a run ended, from its logs in a folder; empty where they tell of no error."""
    for name in ("run.stderr", "run.stdout"):
        errors = [line for line in _at_the_end(os.path.join(logs, name), 8192) if "ERROR" in line or "rror:" in line
                  or "Error" in line]
        if errors:
            return errors[-1][:300]
    return ""


def _at_the_end(path: str, size: int = 4096) -> list[str]:
    """The lines that say something in the last `size` bytes of a log, without blanks around them; none where there is no log."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            return [line.strip() for line in file.read().splitlines() if line.strip()]
    except OSError:
        return []
