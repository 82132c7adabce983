# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading MRC files of every mode that movies, gain references and defect maps come in."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomostream.files.errors import EngineError, sentence_of

_DTYPES = {1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_IMOD_STAMP = 1146047817
_SIGNED_BYTES = 1
_FOUR_BIT = 16


@dataclass(frozen=True)
class MrcStack:
    """An MRC file; its sections are read when they are asked for.

    Not mapped: where a mapped file becomes shorter, or a network drive fails, the process would be ended without a word.

    `shape` is (sections, rows, columns); `packed` says that two pixels of 4 bits share a byte, the left one in the low
    half; `kind` is the type of the pixels (or pairs), `offset` where they begin.
    """

    path: str
    shape: tuple[int, int, int]
    packed: bool
    kind: np.dtype
    offset: int

    def section(self, index: int) -> NDArray:
        """Section `index` as (rows, columns)."""
        stored = (self.shape[2] + 1) // 2 if self.packed else self.shape[2]
        count = self.shape[1] * stored
        try:
            raw = np.fromfile(self.path, self.kind, count, offset=self.offset + index * count * self.kind.itemsize)
        except OSError as error:
            raise EngineError(f"{sentence_of(error, self.path)}; check the path") from error
        if raw.size < count:
            raise EngineError(f"{self.path} became shorter while it was read; copy it again, or wait until it is written")
        raw = raw.reshape(self.shape[1], stored)
        return _unpacked(raw, self.shape[2]) if self.packed else raw


def _unpacked(packed: NDArray, columns: int) -> NDArray[np.uint8]:
    """Pixels of 4 bits from bytes (rows, (columns + 1) // 2), low half first."""
    pixels = np.empty((packed.shape[0], packed.shape[1] * 2), np.uint8)
    np.bitwise_and(packed, 15, out=pixels[:, 0::2])
    np.right_shift(packed, 4, out=pixels[:, 1::2])
    return pixels[:, :columns]


def open_mrc(path: str) -> MrcStack:
    """Open an MRC file.

    Raises
    ------
    EngineError
        If it is missing, too short for its header, or of a mode that cannot hold an image of counts.
    """
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            header = file.read(1024)
    except OSError as error:
        raise EngineError(f"{sentence_of(error, path)}; check the path") from error
    if len(header) < 1024:
        raise EngineError(f"{path} is too short to be an MRC file ({size} bytes); it is truncated or not an MRC file")
    order, words = _byte_order(header, path)
    columns, rows, sections, mode = (int(value) for value in words[:4])
    if min(columns, rows, sections) < 1:
        raise EngineError(f"{path} is not an MRC file: its header says {columns} x {rows} x {sections} pixels")
    dtype, packed, columns = _pixel_type(path, words, order, mode, columns)
    stored = (columns + 1) // 2 if packed else columns
    offset = 1024 + max(0, int(words[23]))
    need = offset + sections * rows * stored * dtype.itemsize
    if size < need:
        raise EngineError(f"{path} is truncated: it has {size} bytes of {need}; wait for the copy to finish")
    return MrcStack(path, (sections, rows, columns), packed, dtype, offset)


def _byte_order(header: bytes, path: str) -> tuple[str, NDArray]:
    """Which byte order makes sense of the header: the one that gives a small mode. The stamp is often wrong."""
    for order in ("<", ">"):
        words = np.frombuffer(header, order + "i4", 256)
        if 0 <= words[3] <= 101 and 0 < words[0] < 1 << 17:
            return order, words
    raise EngineError(f"{path} is not an MRC file: its header makes no sense")


def _pixel_type(path: str, words: NDArray, order: str, mode: int, columns: int) -> tuple[np.dtype, bool, int]:
    """Data type, whether two pixels share a byte, and the true number of columns."""
    flags = int(words[39]) if words[38] == _IMOD_STAMP else 0
    if mode == 101:
        return np.dtype("u1"), True, columns
    if mode == 0 and flags & _FOUR_BIT:
        return np.dtype("u1"), True, columns * 2
    if mode == 0:
        return np.dtype("i1" if _is_signed(words, order, flags) else "u1"), False, columns
    if mode not in _DTYPES:
        raise EngineError(f"{path} has MRC mode {mode}, which is not an image of counts; modes 0, 1, 2, 6, 12, 101 are")
    return np.dtype(order + _DTYPES[mode]), False, columns


def _is_signed(words: NDArray, order: str, flags: int) -> bool:
    """Whether bytes are signed: as IMOD's flag says; without its stamp, by the smallest value in the header.

    MRC2014 has them signed, IMOD and SerialEM had them unsigned before, and MotionCor3 reads them so. Counts are never
    negative, so that a header without a negative minimum means counts.
    """
    if words[38] == _IMOD_STAMP:
        return bool(flags & _SIGNED_BYTES)
    return float(words.view(order + "f4")[19]) < 0

HEADER_BYTES = 1024
_FLOAT32_MODE = 2


def mrc_header(
    shape: tuple[int, ...], pixel_size: float, stats: tuple[float, float, float, float], label: str, volume: bool
) -> bytes:
    """Return the 1024 bytes of an MRC2014 header for float32 data, without a date.

    Parameters as for `Outputs.mrc`; `stats` from `statistics`. The cell of a stack of images is one pixel thick
    (mz 1), that of a volume as thick as the volume. Source of the layout: Cheng et al., J. Struct. Biol. 192 (2015).
    """
    nz, ny, nx = (1,) * (3 - len(shape)) + tuple(shape)
    mz = nz if volume else 1
    header = bytearray(HEADER_BYTES)
    struct.pack_into("<10i", header, 0, nx, ny, nz, _FLOAT32_MODE, 0, 0, 0, nx, ny, mz)
    struct.pack_into("<6f", header, 40, nx * pixel_size, ny * pixel_size, mz * pixel_size, 90.0, 90.0, 90.0)
    struct.pack_into("<3i", header, 64, 1, 2, 3)
    struct.pack_into("<3f", header, 76, *stats[:3])
    struct.pack_into("<2i", header, 88, 1 if volume else 0, 0)
    struct.pack_into("<i", header, 108, 20140)
    header[208:216] = b"MAP \x44\x44\x00\x00"
    struct.pack_into("<fi", header, 216, stats[3], 1)
    header[224:304] = label.encode("ascii", "replace")[:80].ljust(80)
    return bytes(header)
