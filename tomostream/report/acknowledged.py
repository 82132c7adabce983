# SPDX-License-Identifier: GPL-3.0-or-later
"""Alarms that a person has acknowledged, kept beside the page so that they are not shown, sent or counted again.

Acknowledged is not over: over means that the condition is gone, acknowledged that somebody knows about it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping

from tomostream.files.locks import writing
from tomostream.files.writing import write_text

FILE = "acknowledged.json"


def read(out: str) -> dict[str, float]:
    """Return key of an alarm -> when it was acknowledged (seconds since the epoch), for the page in folder `out`."""
    try:
        with open(os.path.join(out, FILE), encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError):
        return {}
    if not isinstance(data, dict):
        return {}
    return {key: float(when) for key, when in data.items() if isinstance(when, (int, float)) and math.isfinite(when)}


def acknowledge(out: str, keys: Collection[str], now: float) -> Mapping[str, float]:
    """Note that a person has acknowledged the alarms with these keys. Returns all that are acknowledged.

    Raises
    ------
    OSError : it cannot be written, or another process has held the lock for too long.
    """
    path = os.path.join(out, FILE)
    with writing(path):
        known = {**read(out), **dict.fromkeys(keys, now)}
        write_text(path, json.dumps(known, indent=1, allow_nan=False) + "\n")
    return known
