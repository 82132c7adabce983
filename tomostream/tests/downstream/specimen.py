# SPDX-License-Identifier: GPL-3.0-or-later
"""A specimen that is like none of its mirror images: small balls anywhere in a slab.

The cell of `simulator.specimen` is no good for telling a volume from its mirror images by correlation: its microtubules lie on
the axes and its membranes across the slab, and correlate with their own mirror images by 0.2 to 0.3.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.transform import Rotation

from tomostream.simulator.plan import Plan
from tomostream.simulator.specimen import Specimen

#: Standard deviation of a ball in A, its weight in rad A2 (0.3 rad in its middle), its points; balls per A3.
SIGMA, WEIGHT, POINTS, DENSITY = 14.0, 800.0, 8, 1e-7


def balls(plan: Plan, series: int) -> Specimen:
    """A slab that fills the images of a series at every tilt, with its faces free."""
    steepest = math.radians(plan.max_angle + abs(plan.pre_tilt))
    field = (math.hypot(*plan.size) + 2 * plan.max_shift) * plan.pixel_size
    box = np.array([field / math.cos(steepest) + plan.thickness * math.tan(steepest), field, plan.thickness - 4 * SIGMA])
    rng = np.random.default_rng([plan.seed, series, 0])
    centres = (rng.random((int(DENSITY * box.prod()), 1, 3)) - 0.5) * box
    points = (centres + rng.normal(scale=SIGMA, size=(len(centres), POINTS, 3))).reshape(-1, 3)
    points = points @ Rotation.from_euler("y", plan.pre_tilt, degrees=True).as_matrix().T
    return Specimen(points.astype(np.float32), np.full(len(points), WEIGHT / POINTS, np.float32), plan.thickness)
