# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking a command that is about to start protocols not to start them.

While a command starts or continues the protocols of a project one after the other, a request in the folder of a run would be too
early for those not started yet. The request is therefore beside the lock that the command holds, as a list of names in JSON.
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
    """Ask that these protocols not be started; returns whether a command is starting protocols of the project.

    Ask running protocols after this and not before: one that is started in between is asked by the command that starts it.

    Raises
    ------
    OSError : the request cannot be written.
    """
    if not locks.is_held(starting_file(project)):
        return False
    write_text(stop_request(project), json.dumps(sorted({*names, *_asked(project)})))
    return True


def is_asked(project: str, name: str) -> bool:
    """Tell whether somebody has asked not to start a protocol since the starting command took its lock."""
    return name in _asked(project)


def forget(project: str) -> None:
    """Forget earlier requests: whoever starts protocols now wants them to run."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(stop_request(project))


def _asked(project: str) -> list[str]:
    try:
        with open(stop_request(project), encoding="utf-8") as file:
            names = json.load(file)
    except (OSError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []
