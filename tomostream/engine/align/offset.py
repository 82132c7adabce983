# SPDX-License-Identifier: GPL-3.0-or-later
"""The specimen's own tilt: how well a series determines it, and whether what was found is believed.

The likelihood knows an even slab. A real specimen is a limited number of things at random heights, and in a small field
their heights have a slope by chance, which the likelihood takes for a tilt of the slab, with large gains. How much that is the
heights themselves show (`heights`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tomostream.engine.align.geometry import Floats, Pose, frame_shape
from tomostream.engine.align.heights import Slope
from tomostream.engine.align.pipeline import Bench

PRIOR_DEG = 4.0  # specimens are mounted, and lamellae turned to the beam, to about this
MAX_OFFSET_DEG = 25.0  # of a lamella; more than that is a sign of something else
SEARCHED_DEG = 30.0  # to either side, where an offset is looked for
MAX_TILT_DEG = 82.0  # beyond, an image is stretched sevenfold
SIGNIFICANT = 2.5  # standard deviations from 0 at which an offset is believed
NOTICEABLE_DEG = 3.0  # by which a range of angles is off its middle on purpose
GRAIN_A = 150.0  # distance at which heights in the specimen are independent; from simulated series of small fields
GRAIN_FREEDOM = 5  # the chance slope that is usual counts like this many parts of the field
UNCERTAIN_DEG = 2.0  # said in the note from here on


@dataclass(frozen=True)
class Offset:
    """A tilt offset: what the series prefers and what of it is used. All in degrees.

    Attributes
    ----------
    found : float
        At which the series fits best.
    sigma : float
        Its standard deviation; 0 where it was not measured.
    used : float
        What is added to the nominal angles.
    uncertain : float
        By how much `used` may be wrong, a standard deviation.
    """

    found: float = 0.0
    sigma: float = 0.0
    used: float = 0.0
    uncertain: float = 0.0

    def remark(self) -> str:
        """Return what to say of the offset, for people; "" where it is well known."""
        if self.refused() or self.uncertain < UNCERTAIN_DEG:
            return ""
        return f"the tilt offset is uncertain by {self.uncertain:.0f} degrees"

    def refused(self) -> bool:
        """Tell whether the series asks for an offset that no specimen is believed to have."""
        return abs(self.found) > MAX_OFFSET_DEG


def limits(tilts_deg: Floats, used_deg: float) -> tuple[float, float]:
    """Return the lowest and the highest change of the tilt offset that may be tried, degrees.

    Parameters
    ----------
    tilts_deg : ndarray, shape (n,)
        Tilt angles that hold an offset already.
    used_deg : float
        That offset.

    Returns
    -------
    (float, float)
        From 0 or below to 0 or above: within `SEARCHED_DEG` of no offset, and no tilt beyond `MAX_TILT_DEG`.
    """
    low = max(-SEARCHED_DEG - used_deg, -MAX_TILT_DEG - float(tilts_deg.min()))
    high = min(SEARCHED_DEG - used_deg, MAX_TILT_DEG - float(tilts_deg.max()))
    return min(low, 0.0), max(high, 0.0)


def expected_deg(angles_deg: Floats, orders: Sequence[int] | None = None) -> float:
    """Return the tilt offset for which a series was set up, as its angles suggest; 0 where they suggest none.

    Parameters
    ----------
    angles_deg : ndarray, shape (n,)
        Nominal tilt angles.
    orders : sequence of int, optional
        Acquisition order of each.

    Notes
    -----
    A lamella that is flat at a stage angle of a is recorded from there to either side, so its offset is -a: a is the angle of
    the first tilt, where that is not near an end of the range, else the middle of the range.

    Examples
    --------
    >>> import numpy as np
    >>> expected_deg(np.arange(-50.0, 71.0, 10.0))
    -10.0
    """
    low, high = float(angles_deg.min()), float(angles_deg.max())
    flat = 0.5 * (low + high)
    if orders is not None:
        first = float(angles_deg[int(np.argmin(orders))])
        flat = first if min(first - low, high - first) > 0.25 * (high - low) else flat
    return -flat if NOTICEABLE_DEG <= abs(flat) <= MAX_OFFSET_DEG else 0.0


def uncertainty_deg(bench: Bench, pose: Pose, slope: Slope) -> float:
    """Return the standard deviation of the tilt offset in degrees, from the heights of the field's parts and from what is usual.

    Parameters
    ----------
    bench : Bench
        Gives the size of the field.
    pose : Pose
        Gives the thickness of the specimen.
    slope : Slope
        Through the heights (`heights.slope_of`).

    Notes
    -----
    The scatter of a few parts is itself poorly known, so it is averaged with what is usual, by degrees of freedom. That is the
    slope of N independent heights, even over the thickness T, against places, even over the width L across the axis: it
    has the standard deviation (T / L) / sqrt(N), with N = L W / GRAIN_A^2.
    """
    pixel = bench.images.pixel_A
    along, across = (side * pixel for side in frame_shape(bench.images.image_shape, pose.axis_deg))
    usual = np.degrees(np.arctan(pose.thickness * pixel / across * GRAIN_A / np.sqrt(along * across)))
    both = slope.freedom * slope.sigma_deg**2 + GRAIN_FREEDOM * usual**2
    return float(np.sqrt(both / (slope.freedom + GRAIN_FREEDOM)))


def decide(found_deg: float, sigma_deg: float, expected: float = 0.0) -> Offset:
    """Decide which tilt offset is used: what was found where it is significant and possible, else what was expected, else 0.

    Parameters
    ----------
    found_deg : float
        At which the series fits best.
    sigma_deg : float
        Its standard deviation.
    expected : float
        For which the series was set up (`expected_deg`); 0 where that is not known.

    Returns
    -------
    Offset

    Notes
    -----
    Where what was found is nearer to `expected` than to 0, but not significant, the mean of both is used, each by its weight.
    Where 0 is used, the error to be expected is that of a normal distribution of offsets around 0 (`PRIOR_DEG`) given what was
    found.

    Examples
    --------
    >>> decide(8.0, 1.0).used, decide(2.0, 1.0).used, decide(28.0, 1.0).used
    (8.0, 0.0, 0.0)
    """
    if abs(found_deg) > MAX_OFFSET_DEG:
        return Offset(found_deg, sigma_deg, 0.0, max(sigma_deg, abs(found_deg)))
    if SIGNIFICANT * sigma_deg <= abs(found_deg):
        return Offset(found_deg, sigma_deg, found_deg, sigma_deg)
    weight = PRIOR_DEG**2 / (PRIOR_DEG**2 + sigma_deg**2)  # of what was found, beside what is known before
    left = float(np.sqrt(weight) * sigma_deg)
    if expected and abs(found_deg - expected) < abs(found_deg):
        return Offset(found_deg, sigma_deg, weight * found_deg + (1.0 - weight) * expected, left)
    return Offset(found_deg, sigma_deg, 0.0, float(np.hypot(weight * found_deg, left)))
