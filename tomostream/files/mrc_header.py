# SPDX-License-Identifier: GPL-3.0-or-later
"""Headers of MRC files, read and written without arrays: checking a movie needs no more."""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from enum import Enum

from tomostream.files.errors import BadFileError, sentence_of

HEADER_BYTES = 1024
MAX_SIDE = 1_000_000
"""No camera, and no volume, has more pixels along a side."""
#: MRC mode -> (bits a pixel, NumPy's name of the pixel type; "uint4" is packed, two pixels in a byte).
MODES = {0: (8, "int8"), 1: (16, "int16"), 2: (32, "float32"), 6: (16, "uint16"), 12: (16, "float16"), 101: (4, "uint4")}
_MAX_MODE = 128
_IMOD_STAMP = 1146047817
_SIGNED_BYTES = 1
_FOUR_BIT = 16
_STAMPED_LITTLE, _STAMPED_BIG = 0x44, 0x11
class Bytes(Enum):
    """What a byte of mode 0 means."""

    UNSIGNED = "0 to 255"
    SIGNED = "-128 to 127, as MRC2014 has it"
    SHIFTED = "value - 128, as IMOD and SerialEM write signed bytes"
    UNKNOWN = "the header does not say"


@dataclass(frozen=True)
class MrcHeader:
    """What the header of an MRC file says.

    Attributes
    ----------
    columns, rows, sections : int
        As images: if the header counts bytes with two pixels each, twice as many columns. 0 while the header has
        not been written.
    mode : int
        As in the file.
    order : {"<", ">"}
        Byte order of header and data.
    packed : bool
        Two pixels of 4 bits share a byte, the left one in the low half.
    offset : int
        Where the data begin, in bytes.
    pixel_size_A : float
        Along x; 0 if the header does not say.
    bytes : Bytes
        What the bytes of mode 0 mean.
    """

    columns: int
    rows: int
    sections: int
    mode: int
    order: str
    packed: bool
    offset: int
    pixel_size_A: float
    bytes: Bytes

    @property
    def pixel_type(self) -> str:
        """NumPy's name of the pixel type, or "uint4"; "" for a mode that is not used for real images."""
        if self.packed:
            return "uint4"
        if self.mode == 0 and self.bytes in (Bytes.UNSIGNED, Bytes.SHIFTED):
            return "uint8"
        return MODES.get(self.mode, (0, ""))[1]

    @property
    def section_bytes(self) -> int:
        """Bytes of one section; 0 for a mode that is not used for real images."""
        bits = 4 if self.packed else MODES.get(self.mode, (0, ""))[0]
        return (self.columns * bits + 7) // 8 * self.rows

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file."""
        return self.offset + self.sections * self.section_bytes


def parse_header(header: bytes, name: str = "the file") -> MrcHeader:
    """Parse the first 1024 bytes of an MRC file.

    The byte order is the one in which sizes and mode make sense, because machine stamps are often wrong; if both do (sizes
    that are multiples of 256), the one with the smaller image, then the stamp.

    Raises
    ------
    BadFileError
        If they are not the header of an MRC file.
    """
    if len(header) < HEADER_BYTES:
        raise BadFileError(f"{name} is truncated or not an MRC file: it has {len(header)} bytes, the header alone {HEADER_BYTES}")
    order = _byte_order(header)
    if not order:
        raise BadFileError(f"{name} is not an MRC file: its header holds no size and mode")
    columns, rows, sections, mode = struct.unpack_from(f"{order}4i", header)
    (grid,), (cell,) = struct.unpack_from(f"{order}i", header, 28), struct.unpack_from(f"{order}f", header, 40)
    (extended,) = struct.unpack_from(f"{order}i", header, 92)
    stamp, flags = struct.unpack_from(f"{order}2i", header, 152)
    flags = flags if stamp == _IMOD_STAMP else 0
    halved = mode == 0 and bool(flags & _FOUR_BIT)
    pixel = cell / grid if grid > 0 and math.isfinite(cell) and cell > 0 else 0.0
    return MrcHeader(columns * 2 if halved else columns, rows, sections, mode, order, halved or mode == 101,
                     HEADER_BYTES + max(0, extended), pixel, _meaning(header, order, stamp == _IMOD_STAMP, flags))


def _byte_order(header: bytes) -> str:
    """"<" or ">"; "" if neither makes sense."""
    sensible: list[tuple[int, bool, str]] = []
    stamped = {_STAMPED_LITTLE: "<", _STAMPED_BIG: ">"}.get(header[212], "<")
    for order in "<>":
        columns, rows, sections, mode = struct.unpack_from(f"{order}4i", header)
        if min(columns, rows, sections, mode) >= 0 and max(columns, rows, sections) <= MAX_SIDE and mode < _MAX_MODE:
            sensible.append((columns * rows * sections, order != stamped, order))
    return min(sensible)[2] if sensible else ""


def _meaning(header: bytes, order: str, stamped: bool, flags: int) -> Bytes:
    """Return the meaning of bytes of mode 0: as IMOD's stamp says, else according to the header's smallest and largest value.

    MRC2014 has them signed; IMOD and SerialEM used to have them unsigned, and MotionCor3 reads them like that.
    """
    if stamped:
        return Bytes.SHIFTED if flags & _SIGNED_BYTES else Bytes.UNSIGNED
    smallest, largest = struct.unpack_from(f"{order}2f", header, 76)
    if not smallest < largest:      # unknown, or not a number
        return Bytes.UNKNOWN
    if smallest < 0:
        return Bytes.SIGNED
    return Bytes.UNSIGNED if 127 < largest <= 255 else Bytes.UNKNOWN


def read_header(path: str) -> tuple[MrcHeader, int]:
    """Return the header of an MRC file and the size of the file in bytes.

    Raises
    ------
    BadFileError
        If it is missing, cannot be read or is not an MRC file.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return parse_header(file.read(HEADER_BYTES), path), size
    except OSError as error:
        raise BadFileError(f"{sentence_of(error, path)}; check the path") from error


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
