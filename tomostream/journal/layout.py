# SPDX-License-Identifier: GPL-3.0-or-later
"""The names of files and folders inside runs and projects. No tsId contains a dash, so a name with one never equals a series'."""

from __future__ import annotations

import os

#: In `extra` of a run: asks the protocol to end as soon as what is in flight has finished.
STOP_FILE = "STOP_STREAMING.TXT"
#: The folder of a project that holds its live page.
REPORT = "report"


def page_of(project: str) -> str:
    """Return the file to open in a browser."""
    return os.path.join(project, REPORT, "index.html")


def starting_file(project: str) -> str:
    """Return the lock file that a command holds while it starts protocols of a project."""
    return os.path.join(project, "Runs", ".starting")


def stop_request(project: str) -> str:
    """Return the file that asks the command that holds `starting_file` not to start some protocols."""
    return os.path.join(project, "Runs", ".stop")


def stop_file(run: str) -> str:
    """Return the file that asks the protocol of a run to stop."""
    return os.path.join(run, "extra", STOP_FILE)


#: In `extra` of a compose run, beside the files of series: tilts taken out by people, and the sign of the tilt angles.
EXCLUDED = "taken-out.json"
SIGN = "tilt-angles.json"
#: Suffixes of the stacks of sums of odd and of even frames.
ODD, EVEN = "-odd", "-even"


def stem(series_id: str, version: int) -> str:
    """Return the name of the files of one version of a series, without extension."""
    return series_id if version == 1 else f"{series_id}-v{version}"


def micrograph_stem(name: str, version: int) -> str:
    """Return the name of the files of one version of a micrograph, without extension; `name` is that of the movie.

    The version is at the end because `x-v2` can be the name of a movie: so no two movies, whatever their names, share a file.
    """
    return f"{name}_aligned_mic{'' if version == 1 else f'-v{version}'}"


def frames_log(micrograph: str, patches: bool = False) -> str:
    """Return the name of the log with the shifts of the frames; `micrograph`: name of its file without extension."""
    return f"{micrograph}{'-Patch' if patches else ''}-Full.log"
