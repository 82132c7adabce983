# SPDX-License-Identifier: GPL-3.0-or-later
"""A clock for deadlines. What people read is wall-clock time; decisions must not depend on it."""

from __future__ import annotations

import time

_START = time.time() - time.monotonic()


def steady() -> float:
    """Return seconds since the epoch as known when this process began, and steady from then on.

    Somebody, or a time server, may set the machine's clock back by an hour: a deadline by `time.time` would then be an
    hour late.
    """
    return _START + time.monotonic()
