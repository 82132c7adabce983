# SPDX-License-Identifier: GPL-3.0-or-later
"""The specimen's own tilt: how well a series can tell it, and whether what was found is believed.

The likelihood knows an even slab. A real specimen is a limited number of things at random heights, and in a small field
their heights have a slope by chance, which the likelihood takes for a tilt of the slab, with large gains. Its own
curvature does not know of this; `uncertainty_deg` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tomostream.engine.align.geometry import Floats, Pose, frame_shape
from tomostream.engine.align.pipeline import Bench, profile

PRIOR_DEG = 4.0  # specimens are mounted, and lamellae taken care of, to about this
LARGEST_DEG = 12.0
SIGNIFICANT = 2.5  # standard deviations from 0 at which an offset is believed
GRAIN_A = 150.0  # distance at which heights in the specimen are independent; from simulated series of small fields
OVERDISPERSION = 30.0  # neighbouring coefficients are not independent, and specimens are not random fields
UNCERTAIN_DEG = 2.0  # said in the note from here on
PROBE_DEG = 3.0
UNDERSTATED = 1.6  # 2.2 degrees RMS where 1.4 were stated


@dataclass(frozen=True)
class Offset:
    """A tilt offset in degrees: what the likelihood prefers `found`, its standard deviation `sigma`, what is `used`."""

    found: float = 0.0
    sigma: float = 0.0
    used: float = 0.0

    def uncertainty(self) -> float:
        """Degrees by which the offset in use may be wrong."""
        return max(self.sigma, abs(self.found - self.used))

    def sigma_stated(self) -> float:
        """Standard deviation of the offset in use, as it is told to others: in simulated series of known tilt, errors were larger
        than the likelihood's own measure by `UNDERSTATED`."""
        return UNDERSTATED * self.uncertainty()

    def remark(self) -> str:
        """What to say of the offset; empty where it is well known."""
        if self.refused() or self.uncertainty() < UNCERTAIN_DEG:
            return ""
        return f"the tilt offset is uncertain by {self.uncertainty():.0f} degrees"

    def refused(self) -> bool:
        """Whether the likelihood asks for an offset that no specimen is believed to have."""
        return abs(self.found) > LARGEST_DEG


def uncertainty_deg(bench: Bench, pose: Pose, highest_per_A: float) -> float:
    """Standard deviation of the tilt offset (deg): chance slope of the specimen, and curvature of the likelihood.

    The slope of N independent heights, even over the thickness T, against places, even over the width L across the
    axis, has the standard deviation (T / L) / sqrt(N), with N = L W / GRAIN_A^2.
    """
    pixel = bench.images.pixel_A
    along, across = (side * pixel for side in frame_shape(bench.images.image_shape, pose.axis_deg))
    slope = pose.thickness * pixel / across * GRAIN_A / np.sqrt(along * across)
    values = profile(bench, [pose.offset_by(step) for step in (-PROBE_DEG, 0.0, PROBE_DEG)], highest_per_A)
    return float(np.hypot(np.degrees(np.arctan(slope)), _spread_deg(values)))


def _spread_deg(values: Floats) -> float:
    """Standard deviation from the log-likelihood at -PROBE_DEG, 0 and PROBE_DEG; the prior's where it is flat."""
    bend = (2.0 * values[1] - values[0] - values[2]) / PROBE_DEG**2
    return float(1.0 / np.sqrt(max(bend, 0.0) / OVERDISPERSION + PRIOR_DEG**-2))


def decide(found_deg: float, sigma_deg: float) -> Offset:
    """Use an offset only where it is significant and possible; else 0, which specimens are mounted to have."""
    believed = SIGNIFICANT * sigma_deg <= abs(found_deg) <= LARGEST_DEG
    return Offset(found_deg, sigma_deg, found_deg if believed else 0.0)
