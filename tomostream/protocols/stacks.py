# SPDX-License-Identifier: GPL-3.0-or-later
"""Stacks of aligned tilts, and what is kept beside a stack so that the protocol can go on after it was killed."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.output import Outputs
from tomostream.files.mrc import open_mrc
from tomostream.journal.composed import RecordError, SeriesRecord, TiltRecord, read_record
from tomostream.journal.layout import EVEN, ODD
from tomostream.streaming.work import BadInput

LABEL = "tomostream tilt series"


def stack_images(paths: Sequence[str], target: str, pixel_size: float) -> tuple[int, int]:
    """Put single images together as one stack (MRC mode 2), written under another name until it is whole.

    Returns
    -------
    (width, height) in pixels.

    Raises
    ------
    BadInput : an image cannot be read or has another size than the first; names the file.
    EngineError : the stack cannot be written (disk full, no permission).
    """
    first = read_image(paths[0])
    with Outputs() as outputs:
        stack = outputs.mapped_mrc(target, (len(paths), *first.shape), pixel_size, LABEL, volume=False)
        stack[0] = first
        for index, path in enumerate(paths[1:], start=1):
            image = read_image(path)
            if image.shape != first.shape:
                raise BadInput(f"{os.path.basename(path)} is {image.shape[1]} x {image.shape[0]} pixels, but "
                               f"{os.path.basename(paths[0])} is {first.shape[1]} x {first.shape[0]}: they cannot be tilts "
                               "of one series")
            stack[index] = image
    return first.shape[1], first.shape[0]


def find_image(tilt: TiltRecord, suffix: str, earlier: Sequence[str]) -> str:
    """Return where the image of a tilt is: its micrograph, or a section of an earlier stack where that was removed.

    Parameters
    ----------
    suffix : "", ODD or EVEN.
    earlier : stems of the earlier versions of the series, the latest first.

    Returns
    -------
    path, or "section@path" with sections from 1.
    """
    own = {"": tilt.micrograph, ODD: tilt.odd, EVEN: tilt.even}[suffix]
    if os.path.exists(own):
        return own
    for stem in earlier:
        record, stack = _record(f"{stem}.json"), f"{stem}{suffix}.mrcs"
        for section, other in enumerate(record.tilts if record else (), start=1):
            same = (other.movie, other.micrograph_version) == (tilt.movie, tilt.micrograph_version)
            if same and os.path.exists(stack):
                return f"{section}@{stack}"
    return own


def _record(path: str) -> SeriesRecord | None:
    """Return what a sidecar says; one that makes no sense is as good as none: the image is then missed, by its name."""
    try:
        return read_record(path)
    except RecordError:
        return None


def read_image(location: str) -> NDArray[np.float32]:
    """Return one image as float32, shape (height, width). `location`: a path, or "section@path" with sections from 1.

    Raises
    ------
    BadInput : it cannot be read, or is no single image.
    """
    section, at, path = location.partition("@")
    if not (at and section.isdigit()):
        section, path = "", location
    try:
        stack = open_mrc(path)
        if not section and len(stack) != 1:
            raise BadInput(f"{os.path.basename(path)} holds {len(stack)} images where one was expected")
        return stack.section(int(section or 1) - 1).astype(np.float32)
    except (OSError, ValueError, IndexError) as error:
        raise BadInput(f"the micrograph {os.path.basename(path)} cannot be read: {error}") from error

