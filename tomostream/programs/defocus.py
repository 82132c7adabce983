# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether to believe a fitted defocus: by the rings that support it, the target of the microscope, and other series.

A specimen has a spectrum of its own, and if few rings are visible its slope looks like the first ring of a small defocus: such
a fit has a good score and is wrong by micrometres. Rings within the resolution cannot result from a slope; a target and the
other series of a session say where the defocus should be. They are evidence, not an answer: a fit is believed or not, but
never moved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median

from tomostream.programs.ctf import CtfRow, wavelength_A

#: Rings with which a defocus needs no other evidence; if their end is not seen, of those that the pixels can hold.
ENOUGH_RINGS, ENOUGH_UNMEASURED = 2.0, 4.0
#: Rings with which it stands against other evidence, and without which no evidence helps: several defoci then fit equally well.
MANY_RINGS, MIN_RINGS = 4.0, 1.2
#: Score with which many rings stand against a target.
GOOD_SCORE = 0.7
#: How far a defocus may be from what is expected, in um and as a share: autofocus, tilts of the grid, drift.
TOLERANCE_UM, TOLERANCE = 0.7, 0.25
#: Number of other series needed before they say anything.
MIN_SERIES = 2
#: A tilt further than this from its series, in um and as a share, is wrong: microscopes refocus by less.
TILT_UM, TILT = 1.0, 0.3
#: As a multiple of the pixel size: rings beyond this are noise.
_FINEST = 2.2


class Doubt(str, Enum):
    """Why a defocus is not believed."""

    NONE = "believed"
    TARGET = "far from the target"
    SERIES = "far from the other series"
    RINGS = "too few rings to be sure"


@dataclass(frozen=True)
class Evidence:
    """Evidence about the defocus of a series apart from its images, in um, underfocus positive.

    `target`: the setting of the microscope, None unknown. `others`: believed defoci of the session's other series.
    """

    target: float | None = None
    others: tuple[float, ...] = ()

    def expected(self) -> tuple[float, float, Doubt] | None:
        """Return (expected defocus, tolerance, source); None if nothing is known."""
        if self.target is not None:
            return self.target, max(TOLERANCE_UM, TOLERANCE * self.target), Doubt.TARGET
        if len(self.others) < MIN_SERIES:
            return None
        middle = median(self.others)
        spread = 1.5 * median(abs(value - middle) for value in self.others)
        return middle, max(TOLERANCE_UM, TOLERANCE * middle, spread), Doubt.SERIES


@dataclass(frozen=True)
class Belief:
    """What is believed of a fit: the defocus of the series in um, the rings that support it, the doubt, also as a sentence;
    `tilts`: places of the rows that are not believed."""

    defocus_um: float
    rings: float
    doubt: Doubt
    words: str
    tilts: frozenset[int]


def judge(rows: Sequence[CtfRow], evidence: Evidence, pixel_size: float, voltage_kV: float = 300.0) -> Belief | None:
    """Return what to believe of the CTF of a series; None if there is none.

    Parameters
    ----------
    pixel_size : of the tilt series, in A.
    """
    fitted = {place: _defocus(row) for place, row in enumerate(rows)
              if row.defocus_max_A > 0 and math.isfinite(row.defocus_max_A)}
    if not fitted:
        return None
    middle = median(fitted.values())
    rings, measured = rings_of(rows, middle, pixel_size, voltage_kV)
    score = median(rows[place].score for place in fitted)
    doubt, words = _doubt(middle, rings / (ENOUGH_RINGS if measured else ENOUGH_UNMEASURED), score, evidence)
    if doubt is not Doubt.NONE:
        return Belief(middle, rings, doubt, words, frozenset(fitted))
    limit = max(TILT_UM, TILT * middle)
    alone = frozenset(place for place, value in fitted.items() if abs(value - middle) > limit)
    return Belief(middle, rings, doubt, f"{len(alone)} tilts are far from the others" if alone else words, alone)


def rings_of(rows: Sequence[CtfRow], defocus_um: float, pixel_size: float, voltage_kV: float) -> tuple[float, bool]:
    """Return how many rings of a defocus are within the resolution of a fit, or of the pixels; and whether the rings end before
    the pixels do, as rings should and a slope does not."""
    measured = [row.resolution_A for row in rows if row.resolution_A is not None]
    limit, resolution = _FINEST * pixel_size, median(measured) if measured else 0.0
    return wavelength_A(voltage_kV) * defocus_um * 1e4 / max(limit, resolution) ** 2, resolution > limit


def _defocus(row: CtfRow) -> float:
    return 0.5e-4 * (row.defocus_max_A + row.defocus_min_A)


def _doubt(defocus: float, rings: float, score: float, evidence: Evidence) -> tuple[Doubt, str]:
    """`rings`: relative to the number that suffices."""
    expected = evidence.expected()
    if expected is None:
        if rings >= 1:
            return Doubt.NONE, ""
        return Doubt.RINGS, (f"a defocus of {defocus:.2f} µm is not believed: too few rings support it, and neither a target "
                             "nor other series do")
    where, tolerance, whose = expected
    if abs(defocus - where) <= tolerance:
        enough = rings >= MIN_RINGS / ENOUGH_RINGS
        return (Doubt.NONE, "") if enough else (
            Doubt.RINGS, f"a defocus of {defocus:.2f} µm is not believed: hardly any Thon ring supports it")
    speaks = f"the target is {where:.2f} µm" if whose is Doubt.TARGET else f"the other series are at {where:.2f} µm"
    if rings >= MANY_RINGS / ENOUGH_RINGS and score >= GOOD_SCORE:
        return Doubt.NONE, f"a defocus of {defocus:.2f} µm, although {speaks}: many rings support it"
    return whose, f"a defocus of {defocus:.2f} µm is not believed: {speaks}, and few rings support it"
