# SPDX-License-Identifier: GPL-3.0-or-later
"""Which frames of the file make which frames of the movie, and how much dose the specimen had when each ended."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tomostream.files.errors import EngineError, sentence_of


@dataclass(frozen=True)
class Fraction:
    """One frame to be aligned.

    Attributes
    ----------
    first, number : int
        `number` frames of the file from `first` on, from 0.
    dose : float
        What the specimen received during it, e/A2.
    dose_after : float
        Since the start of this exposure until its end, e/A2; frames that were thrown away at the start count.
    """

    first: int
    number: int
    dose: float
    dose_after: float


@dataclass(frozen=True)
class IntegrationEntry:
    """One line of an -FmIntFile: of the next `raw` frames sum each `group`; `dose` in e/A2 a raw frame, or None."""

    raw: int
    group: int
    dose: float | None


def read_integration_file(path: str) -> tuple[IntegrationEntry, ...]:
    """Read an -FmIntFile: lines of two or three numbers, raw frames, frames to sum, dose a raw frame (e/A2).

    Parameters
    ----------
    path : str

    Raises
    ------
    EngineError
        If it cannot be read or a line is not of that form.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise EngineError(f"{sentence_of(error, path)}; check -FmIntFile") from error
    entries = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            dose = float(words[2]) if len(words) > 2 else None
            if dose is not None and not math.isfinite(dose):
                raise ValueError(dose)
            entry = IntegrationEntry(int(words[0]), int(words[1]), dose)
        except (ValueError, IndexError):
            reason = f"{line.strip()[:60]!r} is not 'frames group dose', such as '1000 20 0.003'"
            raise EngineError(f"{path}, line {number}: {reason}") from None
        if entry.raw < 0 or entry.group < 1 or (entry.dose or 0.0) < 0:
            raise EngineError(f"{path}, line {number}: {line.strip()!r} has a negative number or a group below 1")
        entries.append(entry)
    if not entries:
        raise EngineError(f"{path} has no line 'frames group dose'; write one, such as '1000 20 0.003'")
    return tuple(entries)


def plan_fractions(
    count: int, throw: int = 0, truncate: int = 0, frame_dose: float = 0.0, entries: tuple[IntegrationEntry, ...] = ()
) -> tuple[Fraction, ...]:
    """Decide which frames of the file make which frames of the movie.

    Parameters
    ----------
    count : int
        Frames in the file.
    throw, truncate : int
        -Throw and -Trunc: frames (after integration) to leave out at the start and at the end.
    frame_dose : float
        -FmDose, e/A2 a frame of the file; an entry's own dose goes before it.
    entries : tuple of IntegrationEntry
        From `read_integration_file`; empty: each frame of the file is one.

    Returns
    -------
    tuple of Fraction

    Raises
    ------
    EngineError
        If no frame is left.

    Notes
    -----
    As MotionCor3 does: if the file has more frames than the entries say, the last entry takes them; if it has fewer,
    the last entries shrink. Frames that do not fill a group go to the next entry, and those left at the very end are
    added, one each, to the last fractions. Other than there, entries may have different doses.

    Examples
    --------
    >>> [(each.first, each.number) for each in plan_fractions(5, entries=(IntegrationEntry(5, 2, None),))]
    [(0, 2), (2, 3)]
    """
    sizes = _group_sizes(count, entries) if entries else [(1, None)] * count
    fractions, first, dose_after = [], 0, 0.0
    for number, own_dose in sizes:
        dose = number * (frame_dose if own_dose is None else own_dose)
        dose_after += dose
        fractions.append(Fraction(first, number, dose, dose_after))
        first += number
    kept = fractions[throw:len(fractions) - truncate]
    if not kept:
        raise EngineError(
            f"-Throw {throw} and -Trunc {truncate} leave no frame of {len(fractions)}; lower one of them")
    return tuple(kept)


def _group_sizes(count: int, entries: tuple[IntegrationEntry, ...]) -> list[tuple[int, float | None]]:
    """Return frames of the file, and dose of one, for each fraction."""
    raw = [entry.raw for entry in entries]
    excess = sum(raw) - count
    for index in reversed(range(len(raw))):
        if excess > 0:
            cut = min(raw[index], excess)
            raw[index] -= cut
            excess -= cut
    raw[-1] -= min(excess, 0)
    sizes: list[tuple[int, float | None]] = []
    left = 0
    for entry, available in zip(entries, raw, strict=True):
        whole, left = divmod(available + left, entry.group)
        sizes.extend([(entry.group, entry.dose)] * whole)
    if not sizes:
        return [(count, entries[-1].dose)]
    while left > 0:
        for index in reversed(range(max(0, len(sizes) - left), len(sizes))):
            sizes[index] = (sizes[index][0] + 1, sizes[index][1])
            left -= 1
    return sizes
