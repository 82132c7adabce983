# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a series, in words for people."""

from __future__ import annotations

import math

from tomostream.acquisition import verdict
from tomostream.acquisition.events import Phase, SeriesState
from tomostream.acquisition.evidence import Evidence
from tomostream.acquisition.series import Series
from tomostream.files.logs import counted


def state_of(series: Series, evidence: Evidence) -> SeriesState:
    """Return the state of a series, its counts and a sentence."""
    by_state = [each.state for each in series.exposures.values()]
    state, reason = _state_and_reason(series, evidence)
    return SeriesState(series.series_id, series.name, state, reason, len(by_state), by_state.count("aligned"),
                       by_state.count("failed"), evidence.expected_tilts(series), series.version,
                       series.deadline if series.pending and series.deadline != math.inf else None)


def ignored(name: str, reason: str) -> SeriesState:
    """Return the state of a file that is ignored."""
    return SeriesState("", name, "ignored", reason, 0, 0, 0, None, 0)


def _state_and_reason(series: Series, evidence: Evidence) -> tuple[Phase, str]:
    missing, seen = list(series.missing.values()), len(series.exposures)
    waits = f"the micrograph of {len(missing)} of {counted(seen, 'tilt')}: {verdict.names(missing)}"
    if series.phase == "acquiring":
        if not series.exposures:
            files = list(series.trouble.values())
            return "waiting", f"Waiting for the mdoc: {files[-1].reason if files else 'it lists no tilt yet.'}"
        ahead = evidence.unfinished(series)
        return "acquiring", f"{counted(seen, 'tilt')} so far, waiting for the next{': ' if ahead else ''}{ahead}."
    if series.phase == "aligning":
        dead = "" if evidence.production.alive else (
            f" Nothing arrives: the producer is not running ({evidence.production.why_dead}).")
        return ("waiting" if dead else "aligning"), f"Waiting for {waits}.{dead}"
    return series.phase, series.reason
