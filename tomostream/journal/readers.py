# SPDX-License-Identifier: GPL-3.0-or-later
"""Which protocols of other plugins work on one of our outputs, according to the project's database.

Upstream's protocols read a tilt series more than once: its stack and angles before their program runs, its images when the result
is registered (scipion-em-aretomo 4.0.1, protocols/protocol_aretomo.py, `convertInputStep` in line 386 and `_registerOutput` in
line 574). Tables are named after the tsId (`SetOfTiltSeries._setItemMapperPath` of scipion-em-tomo), so both versions of a series
that is composed again share one, and these protocols remember what they have done by the tsId alone.
"""

from __future__ import annotations

import os
import sqlite3

from tomostream.files.databases import select
from tomostream.journal.runs import ENDED, producer_state
from tomostream.journal.status import CLASSES

#: For each pointer: its owner, the object it points to and, if that is a protocol, the output. The name of an output begins with
#: the id of its protocol and a dot.
_POINTERS = """
    SELECT owner.id, owner.classname, owner.label, pointer.value, extended.value FROM Objects pointer
    JOIN Objects parent ON parent.id = pointer.parent_id
    JOIN Objects owner ON owner.id = CASE WHEN parent.classname = 'PointerList' THEN parent.parent_id ELSE parent.id END
    LEFT JOIN Objects extended ON extended.parent_id = pointer.id AND extended.name LIKE '%._extended'
    WHERE pointer.classname = 'Pointer' AND pointer.value IS NOT NULL AND owner.parent_id IS NULL"""
_FACTS = "SELECT name, value FROM Objects WHERE name LIKE '%.status' OR name LIKE '%.workingDir'"
_OUTPUTS = "SELECT id, name FROM Objects WHERE classname LIKE 'SetOf%'"


def of_other_plugins(project: str, protocol: int) -> tuple[str, ...]:
    """Return the labels of the protocols of other plugins that read, or will read, tilt series of a protocol.

    They include those downstream of our own protocols, but not readers of tomograms (a tomogram is one file of one version), nor
    those that were saved and never started, or have ended. Empty if the database cannot be read.
    """
    database = os.path.join(project, "project.sqlite")
    try:
        pointers, outputs = select(database, _POINTERS), dict(select(database, _OUTPUTS))
        facts = dict(select(database, _FACTS))
    except sqlite3.Error:
        return ()
    found: dict[int, str] = {}
    ours = {protocol}
    sources = [protocol]
    while sources:
        source = sources.pop()
        for number, kind, label, value, extended in pointers:
            if _source(value, extended, outputs) != source or number in found or number in ours:
                continue
            if kind in CLASSES.values():
                ours.add(number)
                sources.append(number)
            elif _works(project, number, facts):
                found[number] = label or kind
    return tuple(label for _, label in sorted(found.items()))


def _source(value: str, extended: str | None, outputs: dict[int, str]) -> int | None:
    """Return the protocol whose tilt series (or CTFs) a pointer points to; None if it points to something else."""
    number = int(value) if value.isdigit() else -1
    owner, _, own_name = outputs.get(number, "").partition(".")
    name = extended or own_name
    if not name or "tomogram" in name.lower():
        return None
    return number if extended else int(owner)


def _works(project: str, number: int, facts: dict[str, str | None]) -> bool:
    """Tell whether a protocol is running, or going to run."""
    folder = facts.get(f"{number}.workingDir")
    return (facts.get(f"{number}.status") not in (None, "", "saved") and bool(folder)
            and producer_state(os.path.join(project, str(folder)), number) not in ENDED)
