# SPDX-License-Identifier: GPL-3.0-or-later
"""A clock for deadlines. What people read takes the wall's time; what is decided must not wait for it."""

from __future__ import annotations

import time

_START = time.time() - time.monotonic()


def steady() -> float:
    """Return seconds since the epoch as this process knew them when it began, going on steadily.

    Somebody, or a time server, may set the clock of the machine back by an hour: a deadline by `time.time` would then be an
    hour late.
    """
    return _START + time.monotonic()
