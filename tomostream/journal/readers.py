# SPDX-License-Identifier: GPL-3.0-or-later
"""Which protocols of other plugins work on an output of ours, as the project's database has it.

Upstream's protocols read a tilt series at several moments: its stack and angles before their program runs, its images when the
result is registered (scipion-em-aretomo 4.0.1, protocols/protocol_aretomo.py, `convertInputStep` in line 386 and
`_registerOutput` in 574).
Tables are named by the tsId (`SetOfTiltSeries._setItemMapperPath` of scipion-em-tomo), so both versions of a series that is
composed again have one, and they remember by the tsId alone what they have done.
"""

from __future__ import annotations

import os
import sqlite3

from tomostream.files.databases import select
from tomostream.journal.runs import ENDED, producer_state
from tomostream.journal.status import CLASSES

#: The object that a pointer names, with the output where it names a protocol; and whose it is. An output has its protocol's
#: number before the first dot of its name.
_POINTERS = """
    SELECT owner.id, owner.classname, owner.label, pointer.value, extended.value FROM Objects pointer
    JOIN Objects parent ON parent.id = pointer.parent_id
    JOIN Objects owner ON owner.id = CASE WHEN parent.classname = 'PointerList' THEN parent.parent_id ELSE parent.id END
    LEFT JOIN Objects extended ON extended.parent_id = pointer.id AND extended.name LIKE '%._extended'
    WHERE pointer.classname = 'Pointer' AND pointer.value IS NOT NULL AND owner.parent_id IS NULL"""
_FACTS = "SELECT name, value FROM Objects WHERE name LIKE '%.status' OR name LIKE '%.workingDir'"
_OUTPUTS = "SELECT id, name FROM Objects WHERE classname LIKE 'SetOf%'"


def of_other_plugins(project: str, protocol: int) -> tuple[str, ...]:
    """Return the labels of the protocols of other plugins that are to read, or are reading, tilt series of a protocol.

    Those behind our own protocols are among them; readers of tomograms are not: a tomogram is one file, of one version. Nor are
    those that were saved and never started, or have ended. Empty where the database cannot be read.
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
    """Return the protocol whose tilt series (or CTFs) a pointer names; None where it names something else."""
    number = int(value) if value.isdigit() else -1
    owner, _, own_name = outputs.get(number, "").partition(".")
    name = extended or own_name
    if not name or "tomogram" in name.lower():
        return None
    return number if extended else int(owner)


def _works(project: str, number: int, facts: dict[str, str | None]) -> bool:
    """Tell whether a protocol is going to run, or runs."""
    folder = facts.get(f"{number}.workingDir")
    return (facts.get(f"{number}.status") not in (None, "", "saved") and bool(folder)
            and producer_state(os.path.join(project, str(folder)), number) not in ENDED)
