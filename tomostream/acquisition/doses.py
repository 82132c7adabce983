# SPDX-License-Identifier: GPL-3.0-or-later
"""The dose of one exposure, and what the specimen had received before it, in e/A2."""

from __future__ import annotations

from collections.abc import Sequence

from tomostream.acquisition.facts import Known, Origin
from tomostream.acquisition.grammar import Section, numbers

#: A larger dose for one exposure is implausible, e/A2.
MAX_DOSE = 10_000.0


def exposure_dose(section: Section) -> Known[float]:
    """Return the dose of one exposure on the specimen, e/A2.

    ExposureDose if it is positive, else the sum of all pairs of FrameDosesAndNumber, else unknown: 0 means that the
    dose was not calibrated.
    """
    dose = section.number("ExposureDose")
    if dose is not None and 0 < dose <= MAX_DOSE:
        return Known(dose, "field ExposureDose")
    total = _sum_of_pairs(section.text("FrameDosesAndNumber") or "")
    if total is not None:
        return Known(total, "field FrameDosesAndNumber", Origin.FRAME_DOSES)
    given = section.text("ExposureDose")
    if given is None:
        return Known(None, "ExposureDose is not in the file")
    uncalibrated = dose == 0 or given.lower() == "nan"
    return Known(None, f"ExposureDose = {given[:20]} in the file" + (", which means not calibrated" if uncalibrated else ""))


def _sum_of_pairs(text: str) -> float | None:
    values = numbers(text)
    known = [value for value in values if value is not None]
    if not values or len(values) % 2 != 0 or len(known) != len(values):
        return None
    doses, counts = known[0::2], known[1::2]
    if any(dose < 0 for dose in doses) or any(count <= 0 for count in counts):
        return None
    total = sum(dose * count for dose, count in zip(doses, counts, strict=True))
    return total if 0 < total <= MAX_DOSE else None


def frame_doses_are_on_another_scale(sections: Sequence[Section]) -> bool:
    """Tell whether ExposureDose and the sum of FrameDosesAndNumber disagree where a section has both."""
    both = [(dose, total) for section in sections if (dose := section.number("ExposureDose")) is not None and dose > 0
            and (total := _sum_of_pairs(section.text("FrameDosesAndNumber") or "")) is not None]
    return any(abs(total - dose) > 0.2 * dose for dose, total in both)


def running_sums(doses: Sequence[Known[float]]) -> list[Known[float]]:
    """Return the sum of the doses before each, e/A2; unknown after the first unknown dose."""
    total: float | None = 0.0
    sums: list[Known[float]] = []
    for dose in doses:
        if total is None:
            sums.append(Known(None, "the dose of an earlier tilt is unknown"))
        elif not sums and dose.value is None:
            sums.append(Known(None, dose.source))
        else:
            sums.append(Known(total, "running sum", Origin.SUMMED))
        total = None if total is None or dose.value is None else total + dose.value
    return sums
