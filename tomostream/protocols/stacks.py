# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing stacks of aligned tilts, and finding the image of a tilt again in an earlier stack."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.output import Outputs, Statistics, statistics
from tomostream.engine.recon.volume import VolumeWriter
from tomostream.files.mrc import MrcStack, open_mrc
from tomostream.journal.composed import RecordError, SeriesRecord, TiltRecord, read_record
from tomostream.journal.layout import EVEN, ODD
from tomostream.streaming.work import BadInput

LABEL = "tomostream tilt series"
#: Pixels copied at a time, few enough for the processor's cache; and images copied at the same time.
PIECE, AT_ONCE = 1 << 19, 2


def stack_images(paths: Sequence[str], target: str, pixel_size: float) -> tuple[int, int]:
    """Write single images as one stack (MRC mode 2), under a temporary name until it is complete.

    Returns
    -------
    (width, height) in pixels.

    Raises
    ------
    BadInput : an image cannot be read or has another size than the first; names the file.
    EngineError : the stack cannot be written (disk full, no permission).
    """
    images = [open_image(path) for path in paths]
    height, width = images[0].shape
    for path, image in zip(paths, images, strict=True):
        if image.shape != (height, width):
            raise BadInput(f"{os.path.basename(path)} is {image.shape[1]} x {image.shape[0]} pixels, but "
                           f"{os.path.basename(paths[0])} is {width} x {height}: they cannot be tilts of one series")
    with Outputs() as outputs, VolumeWriter(outputs, target, (len(paths), height, width), pixel_size, LABEL, volume=False) as out:
        step = max(1, PIECE // width)

        def copied(section: int) -> list[Statistics]:
            """Copy an image piece by piece; return the statistics of each."""
            found = []
            for first in range(0, height, step):
                piece = images[section].rows(first, min(first + step, height))
                out.write(piece[None], section, first)
                found.append(statistics(piece))
            return found

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for found in pool.map(copied, range(len(images))):
                for row, each in enumerate(found):
                    out.add(each, width * (min((row + 1) * step, height) - row * step))
    return width, height


@dataclass(frozen=True)
class Image:
    """One image of a file, read by rows."""

    stack: MrcStack
    section: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, px."""
        return self.stack.shape[1], self.stack.shape[2]

    def rows(self, first: int, last: int) -> NDArray[np.float32]:
        """Return the rows from `first` to before `last`; raises `BadInput`."""
        try:
            return self.stack.rows(self.section, first, last).astype(np.float32, copy=False)
        except (OSError, ValueError, IndexError) as error:
            raise BadInput(_unreadable(self.stack.path, error)) from error


def find_image(tilt: TiltRecord, suffix: str, earlier: Sequence[str]) -> str:
    """Return where the image of a tilt is: its micrograph or, if that was removed, a section of an earlier stack.

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
    """Return the record in a sidecar; a damaged one counts as absent, and the missing image is then reported by name."""
    try:
        return read_record(path)
    except RecordError:
        return None


def open_image(location: str) -> Image:
    """Open one image. `location`: a path, or "section@path" with sections from 1.

    Raises
    ------
    BadInput : it cannot be read, or is not a single image.
    """
    section, at, path = location.partition("@")
    if not (at and section.isdigit()):
        section, path = "", location
    try:
        stack = open_mrc(path)
        if not section and len(stack) != 1:
            raise BadInput(f"{os.path.basename(path)} holds {len(stack)} images where one was expected")
        return Image(stack, int(section or 1) - 1)
    except (OSError, ValueError, IndexError) as error:
        raise BadInput(_unreadable(path, error)) from error


def read_image(location: str) -> NDArray[np.float32]:
    """Return one image as float32, shape (height, width); see `open_image`."""
    image = open_image(location)
    return image.rows(0, image.shape[0])


def _unreadable(path: str, error: Exception) -> str:
    return f"the micrograph {os.path.basename(path)} cannot be read: {error}"
