# SPDX-License-Identifier: GPL-3.0-or-later
"""MRC files: the one reader for everything in this format (movies, tilt series, references, volumes); headers: `mrc_header`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomostream.files.errors import BadFileError, sentence_of
from tomostream.files.mrc_header import MODES, Bytes, MrcHeader, read_header

_MIN_UPPER_HALF = 0.02
"""Share of the bytes; if fewer are above 127 they are hot pixels of counts, not negative values."""


MAX_VALUE = 1e15
"""Squares and sums of larger values would overflow."""
UNUSABLE_VALUES = "holds values that are not finite, or too large for any image"


def _meaning_of_data(sample: NDArray[np.uint8]) -> Bytes:
    """Return the meaning of bytes, judged by the bytes themselves: a wrong one splits a distribution that was in one piece.

    Counts are never negative; up to 2 % of the bytes above 127 are hot pixels of counts.
    """
    if not sample.size or float(np.mean(sample > 127)) < _MIN_UPPER_HALF:
        return Bytes.UNSIGNED
    return Bytes.SIGNED if float(sample.view(np.int8).std()) < float(sample.std()) else Bytes.UNSIGNED


@dataclass(frozen=True)
class MrcStack:
    """An MRC file whose sections are read on demand.

    It is not mapped: if a mapped file is truncated, or a network drive fails, the process exits silently, and the pages
    of a map count as memory of the process. `shape` is (sections, rows, columns), `dtype` the type of the sections.
    """

    path: str
    header: MrcHeader
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """3, as for an array of sections."""
        return 3

    @property
    def pixel_size_A(self) -> float:
        """Along x; 0 if the header does not say."""
        return self.header.pixel_size_A

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Return section `index`; for anything but a whole number, what NumPy makes of it for all sections."""
        if isinstance(index, (int, np.integer)):
            return self.section(int(index))
        whole: NDArray[Any] = np.asarray(self)[index]
        return whole

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All sections."""
        whole = np.stack([self.section(index) for index in range(len(self))])
        return whole if dtype is None else whole.astype(dtype)

    def section(self, index: int) -> NDArray[Any]:
        """Return section `index`, from 0, as (rows, columns).

        Raises
        ------
        BadFileError
            If the file can no longer be read.
        """
        return self.rows(index, 0, self.shape[1])

    def rows(self, index: int, first: int, last: int) -> NDArray[Any]:
        """Return the rows of a section from `first` up to but excluding `last`; see `section`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path} has {len(self)} sections, none with index {index}")
        stored = _stored_type(self.header)
        row_bytes = self.header.section_bytes // self.shape[1]
        count = (last - first) * row_bytes // stored.itemsize
        try:
            start = self.header.offset + index % len(self) * self.header.section_bytes + first * row_bytes
            raw = np.fromfile(self.path, stored, count, offset=start)
        except OSError as error:
            raise BadFileError(f"{sentence_of(error, self.path)}; check the path") from error
        if raw.size < count:
            raise BadFileError(f"{self.path} was truncated while being read; copy it again, or wait until it is written")
        raw = raw.reshape(last - first, -1)
        if self.header.packed:
            return _unpacked(raw, self.shape[2])
        if self.header.bytes is Bytes.SHIFTED and self.header.mode == 0:
            return np.bitwise_xor(raw, np.uint8(128))
        return raw.view(self.dtype)


Sections = NDArray[Any] | MrcStack
"""Images by section: an array (n, rows, columns), or a file of them."""


def _stored_type(header: MrcHeader) -> np.dtype[Any]:
    if header.packed or header.mode == 0:
        return np.dtype("u1")
    return np.dtype(header.order + np.dtype(MODES[header.mode][1]).str[1:])


def _unpacked(packed: NDArray[Any], columns: int) -> NDArray[np.uint8]:
    """Unpack pixels of 4 bits from bytes (rows, (columns + 1) // 2), low half first."""
    pixels = np.empty((packed.shape[0], packed.shape[1] * 2), np.uint8)
    np.bitwise_and(packed, 15, out=pixels[:, 0::2])
    np.right_shift(packed, 4, out=pixels[:, 1::2])
    return pixels[:, :columns]


def open_mrc(path: str) -> MrcStack:
    """Open an MRC file for reading, whatever its byte order and the meaning of its bytes.

    Raises
    ------
    BadFileError
        If it is missing, shorter than its header says, or of a mode that is not used for real images.
    """
    header, size = read_header(path)
    if not header.pixel_type:
        modes = ", ".join(map(str, MODES))
        raise BadFileError(f"{path} has MRC mode {header.mode}, which is not one of real images ({modes}); convert it")
    if min(header.columns, header.rows, header.sections) < 1:
        raise BadFileError(f"{path} is not an MRC file, or not written yet: its header says "
                          f"{header.columns} x {header.rows} x {header.sections} pixels")
    if size < header.file_bytes:
        raise BadFileError(f"{path} is truncated: {header.sections} sections of {header.columns} x {header.rows} need "
                          f"{header.file_bytes} bytes, the file has {size}; wait for the copy to finish, or copy it again")
    shape = (header.sections, header.rows, header.columns)
    if header.packed or header.mode != 0:
        return MrcStack(path, header, shape, np.dtype("u1") if header.packed else _stored_type(header))
    stack = MrcStack(path, header, shape, np.dtype("u1"))
    if header.bytes is Bytes.UNKNOWN:
        sample = [stack.section(index)[::4, ::4].ravel() for index in {0, len(stack) // 2, len(stack) - 1}]
        signed = _meaning_of_data(np.concatenate(sample)) is Bytes.SIGNED
    else:
        signed = header.bytes is Bytes.SIGNED
    return MrcStack(path, header, shape, np.dtype("i1")) if signed else stack
