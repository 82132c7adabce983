# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the sessions of this machine are: those started from the command line are noted, others are searched for."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable

from tomostream.files import locks
from tomostream.files.disks import is_empty
from tomostream.files.writing import write_text
from tomostream.journal.status import CLASSES

#: How many levels below a folder projects are searched for.
DEPTH = 2


def path() -> str:
    """Return the user's own file in which they are noted."""
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(base, "tomostream", "sessions.json")


def remember(project: str) -> None:
    """Note a project for `known`. Failure to write is ignored, because nothing depends on it."""
    file = path()
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with locks.writing(file):
            noted = _noted()
            if os.path.abspath(project) not in noted:
                kept = [each for each in noted if not _is_removed(each)]
                write_text(file, json.dumps([*kept, os.path.abspath(project)], indent=1) + "\n")


def known() -> list[str]:
    """Return the noted projects that still exist."""
    return [project for project in _noted() if is_project(project)]


def _noted() -> list[str]:
    try:
        with open(path(), encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError):
        return []
    return [each for each in data if isinstance(each, str)] if isinstance(data, list) else []


def is_project(folder: str) -> bool:
    """Tell whether a folder is a Scipion project."""
    return os.path.isdir(os.path.join(folder, "Runs"))


def _is_removed(project: str) -> bool:
    """Tell whether a project is gone for good: one whose disk is not mounted now will be back."""
    above = os.path.dirname(project)
    return not is_project(project) and os.path.isdir(above) and not is_empty(above)


def below(folder: str, depth: int = DEPTH) -> list[str]:
    """Return the projects with runs of our protocols in a folder, or the folder itself if it is one, sorted by name."""
    if is_project(folder):
        return [os.path.abspath(folder)] if has_sessions(folder) else []
    if depth < 1:
        return []
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []
    return [project for name in names for project in below(os.path.join(folder, name), depth - 1)]


def has_sessions(project: str) -> bool:
    """Tell whether a project has runs of our protocols."""
    try:
        names = os.listdir(os.path.join(project, "Runs"))
    except OSError:
        return False
    return any(name.partition("_")[2] in CLASSES.values() for name in names)


def all_of(folders: Iterable[str]) -> list[str]:
    """Return the noted projects and those below these folders, each once."""
    return list(dict.fromkeys([*known(), *(project for folder in folders for project in below(folder, 1))]))
