# SPDX-License-Identifier: GPL-3.0-or-later
"""What electrons do to the specimen: the dose that its signal survives, by spatial frequency."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def critical_dose(frequency: NDArray[np.floating], voltage_kV: float) -> NDArray[np.floating]:
    """Return the dose at which the power of the signal has fallen to 1/e, e/A2; infinite at a frequency of 0.

    Parameters
    ----------
    frequency : ndarray
        Spatial frequency, 1/A.
    voltage_kV : float
        From 120 to 300; others count as the nearest of these.

    Notes
    -----
    0.24499 k^-1.6649 + 2.8141 at 300 kV (Grant and Grigorieff, eLife 4 (2015) e06980), times 0.8 at 200 kV and 0.45 at 120 kV, as
    MotionCor3 and AreTomo2 have it; linear between.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(critical_dose(np.array(0.1), 300.0)), 2)
    14.14
    """
    factor = float(np.interp(voltage_kV, [120.0, 200.0, 300.0], [0.45, 0.8, 1.0]))
    with np.errstate(divide="ignore"):
        return factor * (0.24499 * np.power(frequency, -1.6649) + 2.8141)
