# SPDX-License-Identifier: GPL-3.0-or-later
"""The specimen's own tilt: how well a series can tell it, and whether what was found is believed.

The likelihood knows an even slab. A real specimen is a limited number of things at random heights, and in a small field
their heights have a slope by chance, which the likelihood takes for a tilt of the slab, with large gains. How much that is the
heights themselves tell (`heights`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tomostream.engine.align.geometry import Floats, Pose, frame_shape
from tomostream.engine.align.heights import Slope
from tomostream.engine.align.pipeline import Bench

PRIOR_DEG = 4.0  # specimens are mounted, and lamellae turned to the beam, to about this
LARGEST_DEG = 25.0  # of a lamella; what is found beyond is a sign of something else
SEARCHED_DEG = 30.0  # so far an offset is looked for
MAX_TILT_DEG = 82.0  # beyond, an image is stretched sevenfold
SIGNIFICANT = 2.5  # standard deviations from 0 at which an offset is believed
NOTICEABLE_DEG = 3.0  # by which a range of angles is off its middle on purpose
GRAIN_A = 150.0  # distance at which heights in the specimen are independent; from simulated series of small fields
GRAIN_FREEDOM = 5  # the chance slope that is usual counts like so many parts of the field
UNCERTAIN_DEG = 2.0  # said in the note from here on


@dataclass(frozen=True)
class Offset:
    """A tilt offset in degrees: what the series prefers, `found`, with the standard deviation `sigma`, what is `used`, and
    `uncertain`, by how much that may be wrong (a standard deviation)."""

    found: float = 0.0
    sigma: float = 0.0
    used: float = 0.0
    uncertain: float = 0.0

    def remark(self) -> str:
        """Return what to say of the offset; empty where it is well known."""
        if self.refused() or self.uncertain < UNCERTAIN_DEG:
            return ""
        return f"the tilt offset is uncertain by {self.uncertain:.0f} degrees"

    def refused(self) -> bool:
        """Tell whether the series asks for an offset that no specimen is believed to have."""
        return abs(self.found) > LARGEST_DEG


def limits(tilts_deg: Floats, used_deg: float) -> tuple[float, float]:
    """Lowest and highest change of the tilt offset (deg) that may be tried, at angles that hold one of `used_deg` already."""
    low = max(-SEARCHED_DEG - used_deg, -MAX_TILT_DEG - float(tilts_deg.min()))
    high = min(SEARCHED_DEG - used_deg, MAX_TILT_DEG - float(tilts_deg.max()))
    return min(low, 0.0), max(high, 0.0)


def expected_deg(angles_deg: Floats, orders: Sequence[int] | None = None) -> float:
    """Return the tilt offset for which a series was set up, as its angles tell; 0 where they tell nothing.

    A lamella that is flat at a stage angle of a is recorded from there to either side, so its offset is -a: a is the angle of
    the first tilt, where that is not near an end of the range, else the middle of the range.
    """
    low, high = float(angles_deg.min()), float(angles_deg.max())
    flat = 0.5 * (low + high)
    if orders is not None:
        first = float(angles_deg[int(np.argmin(orders))])
        flat = first if min(first - low, high - first) > 0.25 * (high - low) else flat
    return -flat if NOTICEABLE_DEG <= abs(flat) <= LARGEST_DEG else 0.0


def uncertainty_deg(bench: Bench, pose: Pose, slope: Slope) -> float:
    """Return the standard deviation of the tilt offset (deg), from the heights of the field's parts and what is usual.

    The scatter of a few parts tells itself badly, so it is averaged with what is usual, by degrees of freedom. That is the
    slope of N independent heights, even over the thickness T, against places, even over the width L across the axis: it
    has the standard deviation (T / L) / sqrt(N), with N = L W / GRAIN_A^2.
    """
    pixel = bench.images.pixel_A
    along, across = (side * pixel for side in frame_shape(bench.images.image_shape, pose.axis_deg))
    usual = np.degrees(np.arctan(pose.thickness * pixel / across * GRAIN_A / np.sqrt(along * across)))
    both = slope.freedom * slope.sigma_deg**2 + GRAIN_FREEDOM * usual**2
    return float(np.sqrt(both / (slope.freedom + GRAIN_FREEDOM)))


def decide(found_deg: float, sigma_deg: float, expected: float = 0.0) -> Offset:
    """Use an offset only where it is significant, or what the series was set up for, and possible; else 0.

    `expected`: the offset for which the series was set up (`expected_deg`), 0 where that is not known. Where what was found is
    nearer to it than to 0, but not significant, the mean of both is used, each by its weight. Where 0 is used, the error to be
    expected is that of a normal distribution of offsets around 0 with what was found.
    """
    if abs(found_deg) > LARGEST_DEG:
        return Offset(found_deg, sigma_deg, 0.0, max(sigma_deg, abs(found_deg)))
    if SIGNIFICANT * sigma_deg <= abs(found_deg):
        return Offset(found_deg, sigma_deg, found_deg, sigma_deg)
    weight = PRIOR_DEG**2 / (PRIOR_DEG**2 + sigma_deg**2)  # of what was found, beside what is known before
    left = float(np.sqrt(weight) * sigma_deg)
    if expected and abs(found_deg - expected) < abs(found_deg):
        return Offset(found_deg, sigma_deg, weight * found_deg + (1.0 - weight) * expected, left)
    return Offset(found_deg, sigma_deg, 0.0, float(np.hypot(weight * found_deg, left)))
