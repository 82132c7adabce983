# SPDX-License-Identifier: GPL-3.0-or-later
"""The output of another protocol as an input, whether the project knows it yet or not.

Scipion's scheduler starts a protocol as soon as the project knows the outputs that it points to, and most protocols read pixel
size, halves, alignment and acquisition of their input only once, when they start. We therefore show an output to the project with
its first rows, when all of that is known (see `StreamingProtocol.show_outputs`). Our own protocols need not wait for that: they
read the file, which exists with its tables from the first moment.
"""

from __future__ import annotations

import os
from typing import Any


def unseen_file(pointer: Any) -> str:
    """Return the file of one of our outputs that the project does not know yet; "" where there is none."""
    producer, name = pointer.getObjValue(), pointer.getExtended() if pointer.hasExtended() else ""
    files = getattr(producer, "output_files", None) or {}
    path = str(producer._getPath(files[name])) if name in files else ""
    return path if path and os.path.exists(path) else ""


def file_of(pointer: Any) -> str:
    """Return the SQLite file of the set that a pointer points to; "" while there is none."""
    items = pointer.get()
    return unseen_file(pointer) if items is None else str(items.getFileName())


def set_of(pointer: Any) -> Any:
    """Return the set that a pointer points to, known to the project or not, with its properties; None while there is none."""
    items = pointer.get()
    path = unseen_file(pointer) if items is None else ""
    if path:
        items = pointer.getObjValue()._possibleOutputs[pointer.getExtended()](filename=path)
        if not items._getMapper().doCreateTables:       # in the moment between the file and its tables
            items.loadAllProperties()
    return items


def attach(pointer: Any) -> None:
    """Make a pointer resolve to the set in the file, in this process, where the project does not know it yet."""
    if pointer.get() is None:
        items = set_of(pointer)
        if items is not None:
            setattr(pointer.getObjValue(), pointer.getExtended(), items)


def problem(pointer: Any, label: str, producer: str) -> list[str]:
    """For `_validate`: why an input cannot be read yet. `producer`: who makes it, e.g. "the import protocol"."""
    if file_of(pointer):
        return []
    if pointer.getObjValue() is None:
        return [f"{label}: choose the output of {producer}. It may still be empty."]
    return [f"{label}: {pointer.getObjValue().getObjLabel() or producer} has no {pointer.getExtended() or 'output'} yet. "
            "Start it first."]
