# SPDX-License-Identifier: GPL-3.0-or-later
"""Which images of a TIFF file are frames of a movie: one rule for whoever checks a file and whoever reads it."""

from __future__ import annotations

import re

EER_COMPRESSIONS = (65000, 65001, 65002)
_REDUCED = 1
_IMAGEJ = "ImageJ="
_IMAGES = re.compile(r"^images=(\d{1,7})\s*$", re.MULTILINE)


def is_reduced(subfile_type: int) -> bool:
    """Tell whether an image is a thumbnail of another one in the file, by its tag NewSubfileType."""
    return bool(subfile_type & _REDUCED)


def imagej_frames(description: str) -> int:
    """Return how many images lie one behind another where ImageJ wrote a single directory for all; 1 for any other file.

    Parameters
    ----------
    description : str
        The tag ImageDescription of the only directory of the file.
    """
    if not description.startswith(_IMAGEJ):
        return 1
    found = _IMAGES.search(description)
    return max(1, int(found[1])) if found else 1
