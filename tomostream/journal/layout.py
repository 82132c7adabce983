# SPDX-License-Identifier: GPL-3.0-or-later
"""The names of files and folders inside a run. A dash is in no tsId, so what has one cannot collide with a series."""

from __future__ import annotations


def stem(series_id: str, version: int) -> str:
    """Name of the files of one version of a series, without extension."""
    return series_id if version == 1 else f"{series_id}-v{version}"
