# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an mdoc in another folder continues a series of its name: a session that was restarted somewhere else."""

from __future__ import annotations

import math

from tomostream.acquisition.facts import MdocFacts, Origin
from tomostream.acquisition.grammar import numbers
from tomostream.acquisition.naming import ANGLE_TOLERANCE
from tomostream.acquisition.series import Series, seconds

#: One specimen: the tilt axes differ by less (degrees), and the stage is within this distance (um).
SAME_AXIS, SAME_PLACE = 2.0, 2.0


def why_another(series: Series, facts: MdocFacts) -> str:
    """Say why an mdoc with the name of a series is another acquisition; "" if scheme, axis, position and dose say it continues.

    It continues if its tilts are later than all of the series, at angles that are still missing, with the same axis, and if
    the stage position or the dose received before says that it is the same specimen.
    """
    known = list(series.exposures.values())
    times = [seconds(tilt.time) for tilt in facts.tilts]
    if not known or not times or None in times or any(each.acquired is None for each in known):
        return "it is not known when its tilts were acquired"
    if min(time for time in times if time is not None) <= max(each.acquired or 0.0 for each in known):
        return "its tilts are not later than those there"
    again = next((tilt.angle for tilt in facts.tilts for each in known if abs(each.tilt.angle - tilt.angle) <= ANGLE_TOLERANCE),
                 None)
    if again is not None:
        return f"the angle {again:.1f} degrees was already exposed there"
    files = [file.facts for file in series.files.values()]
    axes = [each.tilt_axis.value for each in files if each.tilt_axis.value is not None]
    axis = facts.tilt_axis.value
    if axis is not None and axes and abs(axes[-1] - axis) > SAME_AXIS:
        return f"its tilt axis is {axis:g} degrees, there {axes[-1]:g}"
    return _another_specimen(files, facts, series)


def _another_specimen(files: list[MdocFacts], facts: MdocFacts, series: Series) -> str:
    here, there = _place(facts), next(filter(None, map(_place, reversed(files))), None)
    if here is not None and there is not None and math.dist(here, there) > SAME_PLACE:
        return f"the stage is {math.dist(here, there):.1f} µm from there"
    received = [each.tilt.prior_dose.value for each in series.exposures.values()
                if each.tilt.prior_dose.origin is not Origin.SUMMED]
    before = facts.tilts[0].prior_dose
    dose_known = before.value is not None and before.origin is not Origin.SUMMED and received and None not in received
    if dose_known and (before.value or 0.0) < max(dose or 0.0 for dose in received):
        return "its specimen had received less dose before its first tilt"
    if not dose_known and (here is None or there is None):
        return "neither stage position nor dose shows that it is the same specimen"
    return ""


def _place(facts: MdocFacts) -> tuple[float, float] | None:
    values = numbers(facts.evidence.get("StagePosition", ""))
    return (values[0], values[1]) if len(values) >= 2 and values[0] is not None and values[1] is not None else None
