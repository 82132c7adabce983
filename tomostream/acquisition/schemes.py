# SPDX-License-Identifier: GPL-3.0-or-later
"""Tilt schemes, learned from complete series, so that the next ones are recognised as complete at once.

A scheme is a set of tilt angles relative to the first one acquired, because lamellae differ in their pre-tilt but not in
what is acquired around it. It counts once two series that were not interleaved had exactly the same angles: a series
that was aborted does not repeat itself, but a group of interleaved series is aborted as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

#: Two angles are one nominal angle when they differ by less, degrees (the stage reads back within some 0.05).
ANGLE_TOLERANCE = 0.4

#: A scheme with fewer tilts is not worth the risk.
MIN_TILTS = 5


def step_of(angles: Sequence[float]) -> float | None:
    """Return the usual step in degrees between neighbouring (sorted) angles; None if there is none."""
    steps = sorted(b - a for a, b in pairwise(angles) if b - a > 0.1)
    return steps[len(steps) // 2] if steps else None


@dataclass
class Scheme:
    """Sorted angles in degrees relative to the first acquired; `seen`: the series that had them."""

    angles: tuple[float, ...]
    seen: list[str] = field(default_factory=list)
    wrong: bool = False

    def same(self, angles: Sequence[float]) -> bool:
        """Tell whether these are the angles of this scheme, all of them and no other."""
        return len(angles) == len(self.angles) and all(
            abs(a - b) < ANGLE_TOLERANCE for a, b in zip(angles, self.angles, strict=True))

    def holds(self, angles: Sequence[float]) -> bool:
        """Tell whether all `angles` (sorted) are among those of this scheme, so that it may be the one being acquired."""
        place = 0
        for angle in angles:
            while place < len(self.angles) and self.angles[place] < angle - ANGLE_TOLERANCE:
                place += 1
            if place == len(self.angles) or self.angles[place] > angle + ANGLE_TOLERANCE:
                return False
            place += 1
        return True


class Schemes:
    """The schemes of a session. Angles are given in acquisition order."""

    def __init__(self) -> None:
        self._schemes: list[Scheme] = []

    def learn(self, series: str, angles: Sequence[float], companions: Iterable[str]) -> None:
        """Remember the angles of a complete series; it confirms a scheme unless one of its companions already did."""
        if len(angles) < MIN_TILTS:
            return
        relative = _relative(angles)
        scheme = next((each for each in self._schemes if each.same(relative)), None)
        if scheme is None:
            scheme = Scheme(relative)
            self._schemes.append(scheme)
        if series not in scheme.seen and not set(companions).intersection(scheme.seen):
            scheme.seen.append(series)

    def refute(self, angles: Sequence[float]) -> None:
        """Forget the scheme of these angles: a series that had them went on."""
        relative = _relative(angles)
        for scheme in self._schemes:
            if scheme.same(relative):
                scheme.wrong = True

    def complete(self, angles: Sequence[float]) -> Scheme | None:
        """Return the scheme of which these are all the angles, if it is known and no known scheme continues from here."""
        known = [each for each in self._known() if len(each.angles) >= len(angles)]
        if not any(len(each.angles) == len(angles) for each in known):
            return None
        relative = _relative(angles)
        found = next((each for each in known if each.same(relative)), None)
        longer = any(len(each.angles) > len(angles) and each.holds(relative) for each in known)
        return None if longer else found

    def seen(self, angles: Sequence[float]) -> bool:
        """Tell whether an earlier series had exactly these angles."""
        relative = _relative(angles)
        return any(each.same(relative) and not each.wrong for each in self._schemes)

    def unfinished(self, angles: Sequence[float]) -> Scheme | None:
        """Return the shortest scheme that continues from here. One series is enough, because it only asks for patience."""
        longer = [each for each in self._schemes if len(each.angles) > len(angles) and not each.wrong]
        if not longer:
            return None
        relative = _relative(angles)
        return min((each for each in longer if each.holds(relative)), key=lambda each: len(each.angles), default=None)

    def expected(self, angles: Sequence[float]) -> int | None:
        """Return the number of tilts of the shortest known scheme that contains all these angles; None if there is none."""
        relative = _relative(angles)
        return min((len(each.angles) for each in self._known() if each.holds(relative)), default=None)

    def _known(self) -> list[Scheme]:
        return [each for each in self._schemes if len(each.seen) >= 2 and not each.wrong]


def _relative(angles: Sequence[float]) -> tuple[float, ...]:
    return tuple(sorted(angle - angles[0] for angle in angles))
