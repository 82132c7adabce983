# SPDX-License-Identifier: GPL-3.0-or-later
"""Which images of a TIFF file are frames of a movie: one rule for checking and for reading."""

from __future__ import annotations

import re

EER_COMPRESSIONS = (65000, 65001, 65002)
_REDUCED = 1
_IMAGEJ = "ImageJ="
_IMAGES = re.compile(r"^images=(\d{1,7})\s*$", re.MULTILINE)


def is_reduced(subfile_type: int) -> bool:
    """Tell whether an image is a thumbnail of another one in the file, according to its tag NewSubfileType."""
    return bool(subfile_type & _REDUCED)


def imagej_frames(description: str) -> int:
    """Return how many images follow one another if ImageJ wrote a single directory for all; 1 for any other file.

    Parameters
    ----------
    description : str
        The tag ImageDescription of the only directory of the file.
    """
    if not description.startswith(_IMAGEJ):
        return 1
    found = _IMAGES.search(description)
    return max(1, int(found[1])) if found else 1
