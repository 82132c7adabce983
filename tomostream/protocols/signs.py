# SPDX-License-Identifier: GPL-3.0-or-later
"""The sign of the tilt angles of a session: from the form, or as remembered for the instrument. A run has one sign."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pyworkflow.protocol import MODE_RESUME, params

from tomostream.acquisition.instrument import instrument_name
from tomostream.choices import instruments
from tomostream.files.writing import write_text
from tomostream.journal.layout import SIGN

REMEMBERED, AS_GIVEN, NEGATED = range(3)
CHOICES = ("as remembered for the instrument", "as given in the mdoc", "negated")


@dataclass(frozen=True)
class Sign:
    """Whether the angles are negated, and why, in words."""

    negated: bool
    words: str


def define_params(group: Any) -> None:
    """Add the two fields of the compose form."""
    group.addParam("angleSign", params.EnumParam, choices=list(CHOICES), default=REMEMBERED, label="Sign of the tilt angles",
                   help="A wrong sign mirrors every tomogram. As remembered: the sign chosen for this instrument with the "
                        "handedness check (the wizard, or `tomostream handedness PROJECT SERIES`); as given in the mdoc if "
                        "nothing is remembered. The summary says which sign is used, and why. A run has one sign.")
    group.addParam("instrument", params.StringParam, default="", condition=f"angleSign=={REMEMBERED}", label="Instrument",
                   help="The instrument whose remembered sign is used. Empty: the name given in the mdoc files.")


def decide(choice: int, name: str, mdocs: Iterable[str]) -> Sign:
    """Return the sign for the form's choice; `name` of the instrument, "" for the one in the mdoc files."""
    if choice != REMEMBERED:
        return Sign(choice == NEGATED, f"{CHOICES[choice]}, chosen in the form")
    name = name.strip() or next((found for path in mdocs if (found := instrument_name(path))), "")
    try:
        entry = instruments.remembered(name)
    except ValueError as error:
        return Sign(False, f"as given in the mdoc, because the remembered sign cannot be read: {error}")
    if entry is None:
        return Sign(False, f"as given in the mdoc; nothing is remembered for {name or 'this instrument (the mdoc has no name)'}")
    word = "negated" if entry.negated else "as given in the mdoc"
    return Sign(entry.negated, f"{word}, as remembered for {name} ({entry.date}, {entry.user}, from {entry.series})")


def of_run(protocol: Any, mdocs: Iterable[str]) -> Sign:
    """Return the sign of a run: that of its first series, else decided now and stored."""
    path = protocol._getExtraPath(SIGN)
    kept = read(path)
    if kept is not None:
        return kept
    sign = decide(protocol.angleSign.get(), protocol.instrument.get() or "", mdocs)
    write_text(path, json.dumps(asdict(sign)))
    return sign


def read(path: str) -> Sign | None:
    """Return the stored sign of a run; None if there is none yet."""
    try:
        with open(path, encoding="utf-8") as file:
            return Sign(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None


def problems(protocol: Any) -> list[str]:
    """For `_validate`: remembered signs that cannot be read; a run continued with the other sign."""
    if protocol.angleSign.get() == REMEMBERED:
        try:
            instruments.read()
        except ValueError as error:
            return [f"Sign of the tilt angles: {error}."]
        return []
    kept = read(protocol._getExtraPath(SIGN)) if protocol.getRunMode() == MODE_RESUME else None
    if kept is None or kept.negated == (protocol.angleSign.get() == NEGATED):
        return []
    return [f"Sign of the tilt angles: this run has composed series with the angles {'negated' if kept.negated else 'as given'}. "
            "A set must not mix both: restart it, or make a new run."]


def summary(protocol: Any) -> list[str]:
    """For `_summary`: the sign that is used, and why."""
    kept = read(protocol._getExtraPath(SIGN))
    return [] if kept is None else [f"*Sign of the tilt angles*: {kept.words}."]
