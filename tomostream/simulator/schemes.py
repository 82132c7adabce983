# SPDX-License-Identifier: GPL-3.0-or-later
"""Tilt schemes: the order in which the stage visits the tilt angles."""

from __future__ import annotations

SCHEMES = ("dose-symmetric", "bidirectional", "unidirectional")


def tilt_angles(count: int, step: float) -> list[float]:
    """Return `count` tilt angles in degrees, increasing by `step`; 0 is one of them.

    An even count has one more angle on the positive side.
    """
    first = -((count - 1) // 2)
    return [round((first + index) * step, 4) for index in range(count)]


def acquisition_order(scheme: str, count: int, step: float) -> list[float]:
    """Return the tilt angles in degrees in the order of exposure.

    dose-symmetric: 0, +1, -1, -2, +2, +3, -3 ... steps (Hagen, Wan and Briggs, J. Struct. Biol. 197, 191, 2017), so
    that the low angles get the fresh specimen. bidirectional: from 0 to the positive end, then from -1 step to the
    negative end. unidirectional: from the negative end to the positive one.
    """
    angles = tilt_angles(count, step)
    if scheme == "unidirectional":
        return angles
    rising = [angle for angle in angles if angle >= 0]
    falling = [angle for angle in reversed(angles) if angle < 0]
    if scheme == "bidirectional":
        return rising + falling
    if scheme == "dose-symmetric":
        return _dose_symmetric(rising, falling)
    raise ValueError(f"There is no tilt scheme {scheme!r}: choose one of {', '.join(SCHEMES)}.")


def _dose_symmetric(rising: list[float], falling: list[float]) -> list[float]:
    """Merge both branches: for every step in |angle|, one image on the side where the stage is, then one on the other."""
    ordered, positive_first = [rising[0]], True
    for level in range(1, len(rising)):
        pair = [rising[level], *falling[level - 1 : level]]
        ordered += pair if positive_first else pair[::-1]
        positive_first = not positive_first
    return ordered
