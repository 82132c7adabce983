# SPDX-License-Identifier: GPL-3.0-or-later
"""Command lines of programs that a step runs, and the folder they work in."""

from __future__ import annotations

#: Programs write here first; what is complete is renamed into extra/.
WORK_FOLDER = ".work"


def gpu_command(line: str) -> str:
    """Return a command line of which pyworkflow will fill in the GPUs (`%(GPU)s`) by formatting: any other % is doubled."""
    return line.replace("%", "%%").replace("%%(GPU)s", "%(GPU)s") if "%(GPU)s" in line else line
