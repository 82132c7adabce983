# SPDX-License-Identifier: GPL-3.0-or-later
"""The tilt axis of an mdoc file, from one of three conventions, in IMOD's."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tomostream.acquisition.facts import Known
from tomostream.acquisition.grammar import Grammar, Section, number

_TITLE_AXIS = re.compile(r"Tilt axis angle\s*=\s*(\S+)", re.ASCII | re.IGNORECASE)
TITLE_TOMO5_AXIS = re.compile(r"TiltAxisAngle\s*=\s*(\S+)", re.ASCII)

#: SerialEM's title gives one decimal, so title and RotationAngle may differ by half of it, plus rounding, degrees.
_AXIS_AGREEMENT = 0.11


def tilt_axis(grammar: Grammar, sections: Sequence[Section], dialect: str, warnings: list[str]) -> Known[float]:
    """Return the tilt axis in IMOD's convention (rotation of the axis from y), degrees, and its source."""
    given = [value for section in sections if (value := section.number("RotationAngle", 360)) is not None]
    rotation = given[0] if given else None
    if given and max(given) - min(given) > 1.0:
        warnings.append(f"RotationAngle varies from {min(given):g} to {max(given):g}: the first was taken.")
    titles = " ".join(grammar.titles)
    if dialect == "Tomo5":
        return _tomo5_axis(titles, rotation, warnings)
    title = _title_number(_TITLE_AXIS, titles)
    if title is not None:
        if rotation is not None and _apart(title + 90.0, rotation) > _AXIS_AGREEMENT:
            warnings.append(f"The title says that the tilt axis is at {title:g} and RotationAngle = {rotation:g}, that "
                            f"it is at {_signed(rotation - 90.0):g}: the title was taken.")
        return Known(title, "title")
    if rotation is None:
        return Known(None, "neither a title 'Tilt axis angle' nor RotationAngle is in the file")
    if dialect == "unknown":
        return Known(None, f"RotationAngle = {rotation:g}, but the file does not say who wrote it, so that its "
                           "convention is unknown")
    return Known(_signed(rotation - 90.0), "field RotationAngle - 90")


def _tomo5_axis(titles: str, rotation: float | None, warnings: list[str]) -> Known[float]:
    title = _title_number(TITLE_TOMO5_AXIS, titles)
    if rotation is not None:
        warnings.append(f"Tomo5 writes the tilt axis in more than one convention: |RotationAngle| = {abs(rotation):g} "
                        "was taken. If the tomograms are wrong, give the tilt axis yourself.")
        if title is not None and min(_apart(-title - 90.0, rotation), _apart(title + 90.0, rotation)) > 1.0:
            warnings.append(f"TiltAxisAngle = {title:g} in the title does not agree with RotationAngle = {rotation:g}.")
        return Known(abs(rotation), "field RotationAngle (Tomo5: its absolute value)")
    if title is None:
        return Known(None, "neither RotationAngle nor a title TiltAxisAngle is in the file")
    axis = abs(_signed(-title - 90.0))
    warnings.append(f"RotationAngle is absent: the tilt axis {axis:g} was computed from the title TiltAxisAngle = "
                    f"{title:g}, which some versions of Tomo5 write in another convention. Check it.")
    return Known(axis, "title TiltAxisAngle (Tomo5: |-angle - 90|)")


def _title_number(pattern: re.Pattern[str], titles: str) -> float | None:
    found = pattern.search(titles)
    angle = None if found is None else number(found[1].rstrip(",;]"))
    return angle if angle is not None and abs(angle) <= 360 else None


def _signed(angle: float) -> float:
    """Return the same direction in (-180, 180]."""
    turned = (angle + 180.0) % 360.0 - 180.0
    return round(180.0 if turned == -180.0 else turned, 6)


def _apart(one: float, other: float) -> float:
    """Return the angle between two axes, degrees: an axis is the same after half a turn."""
    difference = (one - other) % 180.0
    return min(difference, 180.0 - difference)
