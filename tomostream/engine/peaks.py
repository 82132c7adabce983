# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a curve has its maximum between its samples: the parabola through three of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def vertex(before: float, here: float, after: float, *, limit: float = np.inf) -> float:
    """Return where the parabola through three evenly spaced values has its maximum.

    Parameters
    ----------
    before, here, after : float
        The values at -1, 0 and 1.
    limit : float
        Farthest from the middle value, in steps, that the maximum may be put.

    Returns
    -------
    float
        In steps from the middle value; 0 where the parabola has no maximum.

    Notes
    -----
    (a - c) / (2 (a - 2 b + c)) for values a, b, c.

    Examples
    --------
    >>> vertex(0.0, 3.0, 2.0), vertex(0.0, 3.0, 2.9, limit=0.25), vertex(1.0, 0.0, 1.0)
    (0.25, 0.25, 0.0)
    """
    bend = before - 2 * here + after
    return float(np.clip(0.5 * (before - after) / bend, -limit, limit)) if bend < 0 else 0.0


def parabola_top(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Return the place of the maximum of y(x), by a parabola through the highest value and its neighbours; never outside x.

    Parameters
    ----------
    x : ndarray, shape (n,)
        Ascending; the steps need not be equal.
    y : ndarray, shape (n,)
        The values there.

    Examples
    --------
    >>> x = np.linspace(-2.0, 2.0, 5)
    >>> round(parabola_top(x, -(x - 0.3) ** 2), 6)
    0.3
    """
    if len(x) < 3:
        return float(x[int(np.argmax(y))])
    top = int(np.clip(np.argmax(y), 1, len(x) - 2))
    bend, slope, _ = np.polyfit(x[top - 1: top + 2] - x[top], y[top - 1: top + 2], 2)
    if not bend < 0.0:
        return float(x[int(np.argmax(y))])
    return float(np.clip(x[top] - slope / (2.0 * bend), x[0], x[-1]))
