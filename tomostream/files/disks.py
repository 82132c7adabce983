# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that come and go: what lies under the name of a folder while its disk is not mounted is another, empty folder."""

from __future__ import annotations

import os


def device_of(path: str) -> int | None:
    """Return the number of the disk that holds a path, or as much of it as is there; None where that cannot be told now."""
    path = os.path.abspath(path)
    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def is_empty(folder: str) -> bool:
    """Tell whether a folder is there and nothing at all lies in it."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False
