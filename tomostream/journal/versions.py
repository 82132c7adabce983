# SPDX-License-Identifier: GPL-3.0-or-later
"""Versions: of the Python packages, and of a program that was run."""

from __future__ import annotations

import os
import platform
import re
import shlex
from importlib import metadata

from tomostream import __version__

PACKAGES = ("scipion-pyworkflow", "scipion-em", "scipion-em-tomo", "scipion-em-motioncorr", "scipion-em-aretomo", "numpy",
            "scipy", "numba")
#: How the programs report their versions: "AreTomo2 version 1.1.3", "MotionCor3 1.2.1".
_REPORTED = re.compile(r"\b(MotionCor|AreTomo)\d?\b[ ,:]*(?:version)?[ :=]*v?(\d+(?:\.\d+)+)", re.IGNORECASE)
_IN_NAME = re.compile(r"\d+(?:\.\d+)+")


def packages() -> dict[str, str]:
    """Return name -> version of tomostream, Python and the packages used; what is not installed is left out."""
    found = {"tomostream": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def of_program(command: str, log: str) -> str:
    """Return name and version of the program of a command line.

    Parameters
    ----------
    command : the command line, which begins with the program.
    log : output of the program. GPU programs report their version there, or have it in their name (AreTomo2_1.1.2_Cuda121).
    """
    try:
        path = shlex.split(command)[0]
    except (ValueError, IndexError):
        return ""
    name = os.path.basename(path)
    if name.startswith("tomostream-"):
        return f"{name} {__version__}"
    found = _REPORTED.search(log)
    if found:
        return f"{name} {found[2]}" if found[2] not in name else name
    if _IN_NAME.search(name):
        return name
    real = os.path.basename(os.path.realpath(path))
    return f"{name} ({real})" if _IN_NAME.search(real) else f"{name}, version not known"
