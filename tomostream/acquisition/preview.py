# SPDX-License-Identifier: GPL-3.0-or-later
"""When enough of a series is there for a preview of it to be worthwhile."""

from __future__ import annotations

import math

from tomostream.acquisition.events import SeriesState

#: Share of the expected tilts that must be aligned, and the fewest tilts in which anything can be seen.
SHARE, MIN_TILTS = 0.6, 8


def is_due(state: SeriesState) -> bool:
    """Tell whether a series that was never composed has enough of its expected tilts (given or learned) for a preview."""
    if state.version > 0 or state.state not in ("acquiring", "aligning", "waiting") or state.tilts_expected is None:
        return False
    return state.tilts_aligned >= max(MIN_TILTS, math.ceil(SHARE * state.tilts_expected))
