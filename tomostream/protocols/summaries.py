# SPDX-License-Identifier: GPL-3.0-or-later
"""The summaries of the protocols, from their ledgers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tomostream.journal import entries, ledger
from tomostream.programs.quality import Trust

#: The newest items that are named under each heading.
MAX_NAMED = 20


def _named(title: str, found: Sequence[tuple[str, str]]) -> list[str]:
    """Return a heading with the number of items, and the newest (item, reason) below it; nothing where there are none."""
    lines = [f"*{title}: {len(found)}*", *(f"  {item}: {reason}" for item, reason in found[-MAX_NAMED:])]
    if len(found) > MAX_NAMED:
        lines.append(f"  ... and {len(found) - MAX_NAMED} more, see extra/{ledger.NAME}")
    return lines if found else []


def of_results(protocol: Any) -> list[str]:
    """Return counts, and which series are in progress, waiting, failed or done; with the tilts excluded and why."""
    last: dict[str, entries.AnyEntry] = {}
    for entry in ledger.read(protocol._getExtraPath(ledger.NAME)):
        last[entry.item] = entry
    done = {key: entry for key, entry in last.items() if isinstance(entry, entries.Reconstructed)}
    lines = [f"*{len(done)}* series aligned and reconstructed."]
    for kind, title in ((entries.Started, "In progress"), (entries.Retried, "Retrying"), (entries.Waiting, "Waiting"),
                        (entries.Failed, "Failed")):
        lines += _named(title, [(key, entry.reason) for key, entry in last.items() if key and isinstance(entry, kind)])
    for key, entry in list(done.items())[-MAX_NAMED:]:
        lines.append(f"  {key}: {entry.reason}")
        lines += [f"    without {tilt.angle:.1f} degrees: {tilt.reason}" for tilt in entry.excluded]
        if entry.quality_note and entry.trust is not Trust.TRUSTED:
            lines.append(f"    {entry.quality_note}")
    if isinstance(last.get(""), entries.Waiting):
        lines.append(f"*Waiting*: {last[''].reason}.")
    return lines


def of_movies(protocol: Any, output_name: str, verb: str) -> list[str]:
    """Return counts, and which movies wait or failed, and why: for import and motioncor."""
    output = getattr(protocol, output_name, None)
    lines = [f"*{0 if output is None else output.getSize()}* movies {verb}."]
    last: dict[str, entries.AnyEntry] = {}
    session = None
    for entry in ledger.read(protocol._getExtraPath(ledger.NAME)):
        if entry.item:
            last[entry.item] = entry
        elif isinstance(entry, entries.Waiting):
            session = entry
        else:
            session = None
    if session is not None:
        lines.append(f"*Waiting*: {session.reason}.")
    for kind, title in ((entries.Failed, "Failed"), (entries.Waiting, "Waiting")):
        lines += _named(title, [(entry.item, entry.reason) for entry in last.values() if isinstance(entry, kind)])
    return lines


def of_series(protocol: Any, output_name: str) -> list[str]:
    """Return counts, and which series are incomplete, failed or are none, and why."""
    output = getattr(protocol, output_name, None)
    lines = [f"*{0 if output is None else output.getSize()}* tilt series composed."]
    last: dict[str, entries.AnyEntry] = {}
    kept: dict[str, entries.Kept] = {}
    unassigned = None
    for entry in ledger.read(protocol._getExtraPath(ledger.NAME)):
        if isinstance(entry, entries.Unassigned):
            unassigned = entry
        elif isinstance(entry, entries.Kept):
            kept[entry.item] = entry
        elif not isinstance(entry, (entries.Preview, entries.Space)):
            last[entry.item] = entry
            if isinstance(entry, entries.Composed):
                kept.pop(entry.item, None)
    waiting = [(key, entry) for key, entry in last.items()
               if key and isinstance(entry, entries.Series) and entry.state not in ("composed", "failed", "ignored")]
    failed = [(key, entry) for key, entry in last.items()
              if key and (isinstance(entry, entries.Failed) or (isinstance(entry, entries.Series) and entry.state == "failed"))]
    other = [(key, entry) for key, entry in last.items() if key and (isinstance(entry, entries.NotASeries) or (
        isinstance(entry, entries.Series) and entry.state == "ignored"))]
    kinds: list[tuple[str, list[tuple[str, Any]]]] = [
        ("Not complete yet", waiting), ("Failed", failed), ("Not tilt series", other),
        ("Late tilts left out", list(kept.items()))]
    for title, found in kinds:
        lines += _named(title, [(key, entry.reason) for key, entry in found])
    if isinstance(last.get(""), entries.Waiting):
        lines.append(f"*Waiting*: {last[''].reason}.")
    if unassigned is not None and unassigned.count:
        lines.append(f"*In no series*: {unassigned.reason}.")
    return lines
