# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that come and go: while a disk is not mounted, its folder is another, empty one."""

from __future__ import annotations

import os


def device_of(path: str) -> int | None:
    """Return the number of the disk of a path, or of as much of it as exists; None if that is unknown now."""
    path = os.path.abspath(path)
    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def is_empty(folder: str) -> bool:
    """Tell whether a folder exists and is empty."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False
