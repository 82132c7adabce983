# SPDX-License-Identifier: GPL-3.0-or-later
"""The names of files and folders inside runs and projects. A dash is in no tsId, so what has one cannot collide with a series."""

from __future__ import annotations

import os

#: In `extra` of a run: the protocol is asked to end as soon as what is in flight has finished.
STOP_FILE = "STOP_STREAMING.TXT"


#: The folder of a project that holds its live page.
REPORT = "report"


def page_of(project: str) -> str:
    """Return the file to open in a browser."""
    return os.path.join(project, REPORT, "index.html")


def starting_file(project: str) -> str:
    """Return what a command holds while it starts protocols of a project."""
    return os.path.join(project, "Runs", ".starting")


def stop_file(run: str) -> str:
    """Return the file that asks the protocol of a run to stop."""
    return os.path.join(run, "extra", STOP_FILE)


def stem(series_id: str, version: int) -> str:
    """Return the name of the files of one version of a series, without extension."""
    return series_id if version == 1 else f"{series_id}-v{version}"
