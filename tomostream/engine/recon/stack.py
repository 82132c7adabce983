# SPDX-License-Identifier: GPL-3.0-or-later
"""A tilt series on disk: one MRC file, read a section at a time."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomostream.files.errors import EngineError, sentence_of

Floats = NDArray[np.float32]
_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_HEADER_BYTES = 1024
# their squares and sums would overflow
_LARGEST = 1e15
# a pixel this many robust standard deviations above the median is a hot pixel or an X-ray, not specimen
_SPIKE = 12.0
# of the pixels; more bright ones are an area
_MOST_SPIKES = 5e-4


@dataclass(frozen=True)
class TiltStack:
    """An MRC stack opened for reading; pixel size in A, 0 where it is not told.

    `data` (n, ny, nx) is memory-mapped, for who wants a glance at all of it. Whole sections are read from the file, as
    the pages of a map would count as memory of the process, all of the file in the end.
    """

    path: str
    data: NDArray[np.generic]
    pixel_size_A: float

    @property
    def sections(self) -> int:
        return int(self.data.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of a section."""
        return int(self.data.shape[1]), int(self.data.shape[2])

    def section(self, index: int) -> Floats:
        """Section `index` as float32 (ny, nx).

        Raises
        ------
        EngineError
            Where it holds values that are not finite.
        """
        image = np.asarray(self._raw(index), dtype=np.float32)
        if not max(float(image.max()), -float(image.min())) < _LARGEST:  # nor if it is NaN
            what = "values that are not finite" if not np.isfinite(image).all() else f"values beyond {_LARGEST:g}"
            raise EngineError(f"{self.path}: section {index + 1} of {self.sections} holds {what}; make the image again")
        return image

    def _raw(self, index: int) -> NDArray[np.generic]:
        """Section `index` as it is in the file. Raises EngineError where it cannot be read any more."""
        if not isinstance(self.data, np.memmap):
            return self.data[index]
        count = self.shape[0] * self.shape[1]
        start = self.data.offset + index * count * self.data.itemsize
        try:
            read = np.fromfile(self.path, dtype=self.data.dtype, count=count, offset=start)
        except OSError as error:
            raise EngineError(sentence_of(error, self.path)) from None
        if len(read) < count:
            raise EngineError(f"{self.path} became shorter while it was read; copy it again, or wait until it is written")
        return read.reshape(self.shape)

    def blank(self, index: int) -> bool:
        """Whether all pixels of a section are equal."""
        image = self._raw(index)
        return bool((image == image.flat[0]).all())


def open_stack(path: str) -> TiltStack:
    """Open an MRC file of mode 0, 1, 2, 6 or 12, either byte order.

    Raises
    ------
    EngineError
        Where the file is missing, is not an MRC file, or is shorter than its header says.
    """
    try:
        with open(path, "rb") as handle:
            header = handle.read(_HEADER_BYTES)
            size = os.fstat(handle.fileno()).st_size
    except OSError as error:
        raise EngineError(f"{sentence_of(error, path)}; check -InMrc") from None
    if len(header) < _HEADER_BYTES:
        raise EngineError(f"{path} is not an MRC file: it has {size} bytes, fewer than the header's {_HEADER_BYTES}")
    order = _byte_order(header, path)
    words = np.frombuffer(header, dtype=order + "i4")
    nx, ny, nz, mode, extra = (int(words[i]) for i in (0, 1, 2, 3, 23))
    if mode not in _MODES:
        raise EngineError(f"{path}: MRC mode {mode} is not read; use mode 0, 1, 2, 6 or 12")
    kind = np.dtype(order + _MODES[mode])
    wanted = _HEADER_BYTES + max(extra, 0) + nx * ny * nz * kind.itemsize
    if size < wanted:
        raise EngineError(
            f"{path} is cut short: {nz} sections of {nx} x {ny} need {wanted} bytes, the file has {size}; "
            "copy it again, or wait until it is written"
        )
    cell = float(np.frombuffer(header, dtype=order + "f4")[10])
    grid = int(words[7])
    pixel = cell / grid if grid > 0 and math.isfinite(cell) and cell > 0 else 0.0
    data = np.memmap(path, dtype=kind, mode="r", offset=_HEADER_BYTES + max(extra, 0), shape=(nz, ny, nx))
    return TiltStack(path, data, pixel)


def _byte_order(header: bytes, path: str) -> str:
    """ "<" or ">": the order in which the sizes and the mode make sense."""
    for order in "<>":
        nx, ny, nz, mode = (int(v) for v in np.frombuffer(header[:16], dtype=order + "i4"))
        if 0 < nx < 1 << 20 and 0 < ny < 1 << 20 and 0 < nz < 1 << 20 and 0 <= mode < 128:
            return order
    raise EngineError(f"{path} is not an MRC file: its header holds no size and mode")


def without_spikes(image: Floats) -> Floats:
    """Replace hot pixels and X-rays by the median around them: few, bright, and far above their own neighbourhood.

    Only what is bright counts, since dense specimen is dark; a bright area (a hole, the film's edge) is no spike.
    """
    part = image[:: max(1, image.shape[0] // 512), :: max(1, image.shape[1] // 512)]
    low, middle, high = (float(v) for v in np.percentile(part, (16, 50, 84)))
    spread = max((high - low) / 2, float(part.std()) / 4)
    if spread <= 0:
        return image
    rows, columns = np.nonzero(image > middle + _SPIKE * spread)
    if len(rows) == 0 or len(rows) > _MOST_SPIKES * image.size:
        return image
    out = image.copy()
    for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
        around = image[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4]
        median = float(np.median(around))
        if image[y, x] > median + _SPIKE * spread:
            out[y, x] = median
    return out
