# SPDX-License-Identifier: GPL-3.0-or-later
"""An MRC volume written block by block under a temporary name, which becomes the file only when it is whole.

The bytes depend on the data alone: no date, no path, in the header.
"""

from __future__ import annotations

import math
import os
import struct
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_HEADER_BYTES = 1024
_LABEL = b"tomostream-aretomo"


def temporary_name(path: str) -> str:
    """A name beside `path`, hidden and of this process alone, for a file that is not whole yet."""
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}.part")


class VolumeWriter:
    """A float32 MRC file of `shape` (sections, rows, columns), written at any place, then closed into its name.

    Used as a context manager: an exception inside removes what was written. Space is reserved at the start, so that a
    full disk is found before the work.

    Parameters
    ----------
    path : str
    shape : (int, int, int)
    pixel_size_A : float
    volume : bool
        False for a stack of images (space group 0).

    Raises
    ------
    OSError
        Where the file cannot be made or the disk has no room for it.
    """

    def __init__(self, path: str, shape: tuple[int, int, int], pixel_size_A: float, volume: bool = True) -> None:
        self.path, self.shape, self.pixel_size_A, self.volume = path, shape, pixel_size_A, volume
        self._minimum, self._maximum, self._sum, self._squares = math.inf, -math.inf, 0.0, 0.0
        self._temporary = temporary_name(path)
        self._file = -1

    def __enter__(self) -> VolumeWriter:
        self._file = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            size = _HEADER_BYTES + 4 * math.prod(self.shape)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file, 0, size)
            else:
                os.truncate(self._file, size)
        except OSError as error:
            self._discard()
            # the call knows only a number for the file
            raise OSError(error.errno, error.strerror, self.path) from None
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            os.pwrite(self._file, self._header(), 0)
            os.close(self._file)
            self._file = -1
            os.replace(self._temporary, self.path)
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if os.path.exists(self._temporary):
            os.unlink(self._temporary)

    def write(self, data: Floats, section: int, row: int = 0) -> None:
        """Write `data` (sections, rows, columns) at `section` and `row`. A block holds whole rows."""
        sections, rows, columns = data.shape
        if columns != self.shape[2] or section + sections > self.shape[0] or row + rows > self.shape[1]:
            raise ValueError(f"a block of {data.shape} does not fit into {self.shape} at section {section}, row {row}")
        data = np.ascontiguousarray(data, dtype="<f4")
        plane = 4 * self.shape[1] * columns
        start = _HEADER_BYTES + section * plane + 4 * row * columns
        if rows == self.shape[1]:
            self._write_all(data, start)
            return
        for z in range(sections):
            self._write_all(data[z], start + z * plane)

    def _write_all(self, data: Floats, offset: int) -> None:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        done = 0
        while done < len(view):
            try:
                done += os.pwrite(self._file, view[done:], offset + done)
            except OSError as error:
                raise OSError(error.errno, error.strerror, self.path) from None

    def add_statistics(self, minimum: float, maximum: float, total: float, squares: float) -> None:
        """Tell what was written: its smallest and largest value, the sum and the sum of squares. Adds up over calls."""
        self._minimum, self._maximum = min(self._minimum, minimum), max(self._maximum, maximum)
        self._sum += total
        self._squares += squares

    def _header(self) -> bytes:
        """MRC2014 header, little-endian."""
        nz, ny, nx = self.shape
        count = nz * ny * nx
        mean = self._sum / count
        deviation = math.sqrt(max(0.0, self._squares / count - mean * mean))
        cell = [self.pixel_size_A * n for n in (nx, ny, nz)]
        words = struct.pack("<10i6f3i3f2i", nx, ny, nz, 2, 0, 0, 0, nx, ny, nz, *cell, 90, 90, 90, 1, 2, 3,
                            self._minimum, self._maximum, mean, 1 if self.volume else 0, 0)  # fmt: skip
        head = bytearray(_HEADER_BYTES)
        head[: len(words)] = words
        head[104:112] = b"\0\0\0\0" + struct.pack("<i", 20140)
        head[208:212] = b"MAP "
        head[212:216] = b"\x44\x44\0\0"
        head[216:224] = struct.pack("<fi", deviation, 1)
        head[224 : 224 + 80] = _LABEL.ljust(80)
        return bytes(head)


def write_image_stack(path: str, images: Floats, pixel_size_A: float, volume: bool = False) -> None:
    """Write float32 images (n, ny, nx) as one MRC file, whole or not at all."""
    images = np.ascontiguousarray(images, dtype=np.float32)
    count, ny, nx = images.shape
    with VolumeWriter(path, (count, ny, nx), pixel_size_A, volume) as writer:
        for index, image in enumerate(images):
            writer.write(image[None], index)
            values = image.astype(np.float64)
            writer.add_statistics(float(image.min()), float(image.max()), float(values.sum()), float((values**2).sum()))
