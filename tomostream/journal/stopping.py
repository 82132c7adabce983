# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking for the end of protocols that a command is about to start: it starts them no more.

While a command starts or continues the protocols of a project, one after the other, a request in the folder of a run would be too
early for those that are still to come. So it lies beside the lock that this command holds, as a list of names in JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection

from tomostream.files import locks
from tomostream.files.writing import write_text
from tomostream.journal.layout import starting_file, stop_request


def ask(project: str, names: Collection[str]) -> bool:
    """Ask for the end of these protocols before they are started; returns whether a command is starting protocols of the project.

    Those that run are to be asked after this and not before: one that is started meanwhile is asked by who starts it.

    Raises
    ------
    OSError : the request cannot be written.
    """
    if not locks.is_held(starting_file(project)):
        return False
    write_text(stop_request(project), json.dumps(sorted({*names, *_asked(project)})))
    return True


def is_asked(project: str, name: str) -> bool:
    """Tell whether somebody asked for the end of a protocol since the command that holds the lock took it."""
    return name in _asked(project)


def forget(project: str) -> None:
    """Whoever starts protocols now wants them to run, whatever was asked for before."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(stop_request(project))


def _asked(project: str) -> list[str]:
    try:
        with open(stop_request(project), encoding="utf-8") as file:
            names = json.load(file)
    except (OSError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []
