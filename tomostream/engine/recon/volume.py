# SPDX-License-Identifier: GPL-3.0-or-later
"""An MRC file written block by block, under the temporary name that `Outputs` keeps for it.

The bytes depend on the data alone: no date, no path, in the header.
"""

from __future__ import annotations

import math
import os
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.output import Outputs, Statistics
from tomostream.files.errors import EngineError, sentence_of
from tomostream.files.mrc_header import HEADER_BYTES, mrc_header

Floats = NDArray[np.float32]


class VolumeWriter:
    """A float32 MRC file of `shape` (sections, rows, columns), written at any place; its header comes last.

    A context manager inside that of `outputs`, which gives the file its name or removes it. Space is taken at the
    start, so that a full disk is found before the work. The caller adds up the statistics of what it writes: reading a
    volume again for its header would cost as much as writing it.

    Parameters
    ----------
    outputs : Outputs
    path : str
        Final name.
    shape : (int, int, int)
    pixel_size_A : float
    label : str
        Of the header.
    volume : bool
        False for a stack of images.

    Raises
    ------
    EngineError
        Where the file cannot be made or the disk has no room for it.
    """

    def __init__(
        self, outputs: Outputs, path: str, shape: tuple[int, int, int], pixel_size_A: float, label: str, volume: bool
    ) -> None:
        self.path, self.shape, self.pixel_size_A, self.label, self.volume = path, shape, pixel_size_A, label, volume
        self._minimum, self._maximum, self._sum, self._squares = math.inf, -math.inf, 0.0, 0.0
        self._temporary = outputs.reserve(path)
        self._file = -1

    def __enter__(self) -> VolumeWriter:
        size = HEADER_BYTES + 4 * math.prod(self.shape)
        try:
            self._file = os.open(self._temporary, os.O_WRONLY)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file, 0, size)
        except OSError as error:
            self._close()
            need = f"{size / 2**30:.2f} GiB are needed"
            raise EngineError(f"{sentence_of(error, self.path)} ({need}); free some space") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                count = math.prod(self.shape)
                mean = self._sum / count
                deviation = math.sqrt(max(0.0, self._squares / count - mean * mean))
                stats = (self._minimum, self._maximum, mean, deviation)
                self._write_all(mrc_header(self.shape, self.pixel_size_A, stats, self.label, self.volume), 0)
        finally:
            self._close()

    def _close(self) -> None:
        """Close the file, if it is open."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def write(self, data: Floats, section: int, row: int = 0) -> None:
        """Write a block of whole rows.

        Parameters
        ----------
        data : ndarray of float32, shape (sections, rows, columns)
            Of the volume's columns.
        section, row : int
            Where its first value goes, from 0.

        Raises
        ------
        EngineError
            Where the disk is full.
        ValueError
            Where the block does not fit into the volume.
        """
        sections, rows, columns = data.shape
        if columns != self.shape[2] or section + sections > self.shape[0] or row + rows > self.shape[1]:
            raise ValueError(f"a block of {data.shape} does not fit into {self.shape} at section {section}, row {row}")
        data = np.ascontiguousarray(data, dtype="<f4")
        plane = 4 * self.shape[1] * columns
        start = HEADER_BYTES + section * plane + 4 * row * columns
        if rows == self.shape[1]:
            self._write_all(data.reshape(-1).data.cast("B"), start)
            return
        for z in range(sections):
            self._write_all(data[z].reshape(-1).data.cast("B"), start + z * plane)

    def _write_all(self, data: memoryview | bytes, offset: int) -> None:
        """Write all of `data` at an offset; one call of `os.pwrite` may write less than asked."""
        view, done = memoryview(data), 0
        while done < len(view):
            try:
                done += os.pwrite(self._file, view[done : done + (1 << 30)], offset + done)
            except OSError as error:
                raise EngineError(f"{sentence_of(error, self.path)}; free some space") from None

    def add_statistics(self, minimum: float, maximum: float, total: float, squares: float) -> None:
        """Add what is known of values that were written, for the header.

        Parameters
        ----------
        minimum, maximum, total, squares : float
            Smallest and largest value, the sum and the sum of squares.
        """
        self._minimum, self._maximum = min(self._minimum, minimum), max(self._maximum, maximum)
        self._sum += total
        self._squares += squares

    def add(self, found: Statistics, count: int) -> None:
        """Add the statistics of values that were written, for the header.

        Parameters
        ----------
        found : Statistics
            Minimum, maximum, mean and standard deviation.
        count : int
            Of the values.
        """
        low, high, mean, deviation = found
        self.add_statistics(low, high, count * mean, count * (deviation**2 + mean**2))
