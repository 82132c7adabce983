# SPDX-License-Identifier: GPL-3.0-or-later
"""Tilt angles in the extended header of an MRC file, in the layouts of SerialEM, Agard and FEI, FEI1 and FEI2.

Layouts: "The MRC file format used by IMOD" (Mastronarde) for the first two, distinguished as IMOD does; for the others the
manual of EPU, as given in the package mrcfile.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tomostream.files.errors import BadFileError, sentence_of
from tomostream.files.mrc_header import HEADER_BYTES, MrcHeader, parse_header

_TYPE, _PER_SECTION = 104, 128
#: SerialEM: bytes that each flag adds to a section. The tilt angle comes first, in hundredths of a degree.
_BYTES_OF_FLAGS = (2, 6, 4, 2, 2, 4, 4, 4, 2, 4, 2)
_TILT_FLAG = 1
#: FEI1 and FEI2: where in a section's record its length, the bits that say what is known, and the tilt in degrees are.
_FEI_MASK, _FEI_TILT_BIT, _FEI_TILT, _FEI_MIN_RECORD = 8, 1 << 7, 100, 108
_MAX_TILT_DEG = 90.0


@dataclass(frozen=True)
class HeaderTilts:
    """Tilt angles of all sections, degrees, and the layout in which they were found."""

    tilts_deg: tuple[float, ...]
    layout: str


def read_tilts(path: str) -> HeaderTilts | None:
    """Return the tilt angles in the extended header of an MRC file; None if it has none that are plausible.

    Raises
    ------
    BadFileError
        If the file cannot be read or is not an MRC file.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(HEADER_BYTES)
            header = parse_header(start, path)
            size = min(header.offset, os.fstat(file.fileno()).st_size) - HEADER_BYTES
            extended = file.read(max(0, size))
    except OSError as error:
        raise BadFileError(f"{sentence_of(error, path)}; check the path") from error
    return _tilts(start, header, extended)


def _tilts(start: bytes, header: MrcHeader, extended: bytes) -> HeaderTilts | None:
    if header.sections < 1 or not extended:
        return None
    kind = start[_TYPE:_TYPE + 4]
    if kind in (b"FEI1", b"FEI2"):
        return _plausible(_of_fei(extended, header), kind.decode())
    integers, reals = struct.unpack_from(f"{header.order}2h", start, _PER_SECTION)
    if kind != b"AGAR" and _is_of_serialem(integers, reals):
        return _plausible(_of_serialem(extended, header, integers, reals), "SerialEM")
    return _plausible(_of_agard(extended, header, integers, reals), "Agard and FEI")


def _plausible(tilts: Sequence[float], layout: str) -> HeaderTilts | None:
    """None if a value is not a tilt angle, or if all are equal, which means that they were not filled in."""
    if len(set(tilts)) < min(2, len(tilts)) or not tilts:
        return None
    if not all(math.isfinite(tilt) and abs(tilt) < _MAX_TILT_DEG for tilt in tilts):
        return None
    return HeaderTilts(tuple(float(tilt) for tilt in tilts), layout)


def _is_of_serialem(size: int, flags: int) -> bool:
    """Tell whether `size` is the number of bytes that each section has according to `flags`."""
    if size <= 0 or flags <= 0 or flags >= 1 << len(_BYTES_OF_FLAGS):
        return False
    return size == sum(count for bit, count in enumerate(_BYTES_OF_FLAGS) if flags & 1 << bit)


def _of_serialem(extended: bytes, header: MrcHeader, size: int, flags: int) -> list[float]:
    if not flags & _TILT_FLAG or size * header.sections > len(extended):
        return []
    return [struct.unpack_from(f"{header.order}h", extended, size * i)[0] / 100 for i in range(header.sections)]


def _of_agard(extended: bytes, header: MrcHeader, integers: int, reals: int) -> list[float]:
    """Four-byte integers come first, then real numbers, the first of which is the tilt angle."""
    stride = 4 * (integers + reals)
    if integers < 0 or reals < 1 or stride * header.sections > len(extended):
        return []
    return [struct.unpack_from(f"{header.order}f", extended, stride * i + 4 * integers)[0] for i in range(header.sections)]


def _of_fei(extended: bytes, header: MrcHeader) -> list[float]:
    """Records that begin with their length; the mask is little-endian, the rest has the byte order of the file or not."""
    for order in (header.order, "<", ">"):
        if len(extended) < _FEI_MIN_RECORD:
            return []
        (stride,) = struct.unpack_from(f"{order}i", extended)
        if not _FEI_MIN_RECORD <= stride <= len(extended) // header.sections:
            continue
        starts = range(0, stride * header.sections, stride)
        if all(struct.unpack_from("<I", extended, at + _FEI_MASK)[0] & _FEI_TILT_BIT for at in starts):
            return [struct.unpack_from(f"{order}d", extended, at + _FEI_TILT)[0] for at in starts]
    return []
