# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a movie file has been written completely, judged by its structure alone: nothing is decoded.

TIFF, BigTIFF and EER: the chain of directories and all strips or tiles they point to must be within the file. MRC: the
size must match the header. A file can pass and still grow (a TIFF is whole after every frame, and uncompressed
pixels that a file server has not received yet are zeros like any others), so the caller also waits until it is still.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tomostream.acquisition.naming import parse_movie_name
from tomostream.files.errors import EngineError
from tomostream.files.mrc_header import HEADER_BYTES, MAX_SIDE, MODES, parse_header
from tomostream.files.tiff import EER_COMPRESSIONS, imagej_frames, is_reduced

#: Extensions of movie files, in lower case.
EXTENSIONS = (".eer", ".tif", ".tiff", ".mrc", ".mrcs")
State = Literal["complete", "growing", "broken", "unknown"]
COMPLETE: Final = "complete"
GROWING: Final = "growing"
BROKEN: Final = "broken"
UNKNOWN: Final = "unknown"


@dataclass(frozen=True)
class MovieCheck:
    """What the structure of a movie file says.

    `state`: complete; growing (not complete now, may still become so); broken (can never become complete); unknown (not
    a format whose structure can be checked). `reason` is a sentence, "" when complete. `width`, `height` in pixels and
    `frames` as in the file (EER: raw fractions, unrendered), None where the file does not say. `dtype` is NumPy's name
    of the pixel type, or "uint4" (packed) or "eer". `pixel_size` in A per pixel of the file, None if it gives no
    plausible one.
    """

    state: State
    reason: str = ""
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    dtype: str | None = None
    pixel_size: float | None = None


def why_no_movie(path: str, check: MovieCheck, movies_have_frames: bool) -> str:
    """Say why a complete file is not a movie although its format can hold one; "" if it may be one.

    A gain reference, a map or an average is one image where movies have frames. A file of one image is a movie only if no
    other has frames, and its name gives a tilt angle.

    Parameters
    ----------
    path : of the file.
    check : what its structure says.
    movies_have_frames : whether a movie of several frames is in use in this session.
    """
    if check.state != COMPLETE or check.frames != 1:
        return ""
    if movies_have_frames:
        return "it holds one image where the movies have frames: an average, a reference or a map"
    if parse_movie_name(path).angle is None:
        return "it holds one image, and its name gives no tilt angle: a reference, an average or a map"
    return ""


class _NotYet(Exception):
    """What is to be read is not in the file, or is zeros: it may still be written."""


class _Never(Exception):
    """What was read is wrong, and further writing cannot make it right."""


def check_movie(path: str | os.PathLike[str]) -> MovieCheck:
    """Tell from its structure whether a movie file is complete. Takes a few reads per directory; never raises.

    A file that does not exist or cannot be opened is `growing`, because that can change.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return MovieCheck(GROWING, "The file does not exist.")
    except PermissionError:
        return MovieCheck(GROWING, "There is no permission to read the file.")
    except (OSError, ValueError) as error:
        return MovieCheck(GROWING, f"The file cannot be opened: {error}.")
    try:
        return _check(_File(descriptor), os.fsdecode(path).lower())
    except _NotYet as reason:
        return MovieCheck(GROWING, str(reason))
    except _Never as reason:
        return MovieCheck(BROKEN, str(reason))
    except OSError as error:
        return MovieCheck(GROWING, f"The file cannot be read: {error}.")
    finally:
        os.close(descriptor)


class _File:
    """Reads parts of an open file without mapping it: a mapped file that shrinks kills the process."""

    def __init__(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Never("It is not a file.")
        self.descriptor = descriptor
        self.size = status.st_size

    def read(self, offset: int, count: int, what: str) -> bytes:
        """Read all of `count` bytes, or say that `what` is not written yet."""
        if offset + count <= self.size:
            data = os.pread(self.descriptor, count, offset)
            if len(data) == count:
                return data
        raise _NotYet(f"The file ends at byte {self.size}, before the end of {what}.")

    def read_some(self, offset: int, count: int) -> bytes:
        """Read up to `count` bytes, fewer at the end of the file."""
        return os.pread(self.descriptor, count, offset) if offset < self.size else b""


def _check(file: _File, name: str) -> MovieCheck:
    if file.size == 0:
        raise _NotYet("The file is empty.")
    start = file.read_some(0, 1024)
    if start[:4] in _TIFF_MAGIC:
        return _check_tiff(file)
    if not any(start):
        raise _NotYet("The file begins with zeros: its header is not written yet.")
    if name.endswith((".mrc", ".mrcs")) or start[208:211] == b"MAP":
        return _check_mrc(file)
    if name.endswith((".tif", ".tiff", ".eer")):
        if len(start) < 4 and any(magic.startswith(start) for magic in _TIFF_MAGIC):
            raise _NotYet("The file is shorter than a TIFF header.")
        raise _Never("It is not a TIFF or EER file, whatever its name says.")
    return MovieCheck(UNKNOWN, "It is not a TIFF, EER or MRC file: its structure cannot be checked.")


# ---------------------------------------------------------------------------------------------------------------- MRC

def _check_mrc(file: _File) -> MovieCheck:
    """Compare the size of the file with what its header says."""
    data = file.read(0, HEADER_BYTES, "the MRC header")
    try:
        header = parse_header(data)
    except EngineError:
        raise _Never("It is not an MRC file: its header holds no size and mode.") from None
    width, height, frames = header.columns, header.rows, header.sections
    if 0 in (width, height, frames):
        raise _NotYet(f"Its MRC header says {width} x {height} x {frames} pixels: it is not completely written yet.")
    if not header.pixel_type:
        raise _Never(f"Its MRC mode {header.mode} is not that of a movie ({', '.join(map(str, MODES))}).")
    if file.size < header.file_bytes:
        raise _NotYet(f"The file is {file.size} bytes long, its MRC header says {header.file_bytes}.")
    if file.size >= header.file_bytes + header.section_bytes:
        raise _NotYet(f"The file holds more frames than the {frames} of its MRC header: the header is not final yet.")
    # programs that do not know the pixel size write exactly 1.0
    size = None if header.pixel_size_A == 1.0 else _plausible(header.pixel_size_A)
    return MovieCheck(COMPLETE, "", width, height, frames, header.pixel_type, size)


def _plausible(size: float) -> float | None:
    """Return a pixel size in A if a movie can have it, to the precision of a float32; else None."""
    return float(f"{size:.6g}") if 0.05 < size < 100.0 else None


# --------------------------------------------------------------------------------------------------------------- TIFF

_TIFF_MAGIC = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
#: TIFF type -> (letter of `struct`, values per item) of the types that are read here; others are taken as bytes.
_TYPES = {1: ("B", 1), 3: ("H", 1), 4: ("I", 1), 5: ("I", 2), 13: ("I", 1), 16: ("Q", 1), 18: ("Q", 1)}
_INTEGERS = (1, 3, 4, 13, 16, 18)
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _DESCRIPTION = 254, 256, 257, 258, 259, 270
_OFFSETS, _COUNTS, _SAMPLES, _TILE_OFFSETS, _TILE_COUNTS = 273, 279, 277, 324, 325
_RESOLUTION, _UNIT, _FORMAT, _EER_METADATA = 282, 296, 339, 65001
_EER_PIXEL = re.compile(rb'"sensorPixelSize\.(?:width|height)"[^>]{0,200}>\s{0,20}([-+.0-9eE]{1,32})')
_UNCOMPRESSED = 1
_MAX_DIRECTORIES = 200_000
_MAX_ENTRIES = 4096
_MAX_STRIPS = 2**22
_MAX_TEXT = 2**20


@dataclass(frozen=True)
class _Entry:
    """One field of a directory: `data` holds the value, or its offset in the file."""

    kind: int
    count: int
    data: bytes


class _Tiff:
    """The layout of one TIFF or BigTIFF file."""

    def __init__(self, file: _File) -> None:
        self.file = file
        self.order, self.big = _TIFF_MAGIC[file.read(0, 4, "the TIFF header")]
        self.pointer = f"{self.order}{'Q' if self.big else 'I'}"
        self.inline = 8 if self.big else 4
        header = file.read(0, 16 if self.big else 8, "the TIFF header")
        if self.big and header[4:8] not in (b"\x08\0\0\0", b"\0\x08\0\0"):
            raise _Never("Its BigTIFF header is wrong.")
        (self.first,) = struct.unpack_from(self.pointer, header, 8 if self.big else 4)

    def directory(self, offset: int, number: int) -> tuple[dict[int, _Entry], int]:
        """Return the fields of the directory at `offset`, and the offset of the next (0: it is the last)."""
        what = f"directory {number}"
        head, entry = (8, 20) if self.big else (2, 12)
        chunk = self.file.read_some(offset, 512)
        if len(chunk) < head:
            raise _NotYet(f"The file ends at byte {self.file.size}, before {what} at byte {offset}.")
        (count,) = struct.unpack_from(f"{self.order}{'Q' if self.big else 'H'}", chunk)
        if count == 0:
            raise _NotYet(f"Where {what} begins (byte {offset}) there are still zeros.")
        if count > _MAX_ENTRIES:
            raise _Never(f"At byte {offset}, where {what} should be, there is none.")
        length = head + count * entry + self.inline
        data = chunk if len(chunk) >= length else self.file.read(offset, length, what)
        layout = f"{self.order}HH{'Q8s' if self.big else 'I4s'}"
        fields = {tag: _Entry(kind, number_of, value) for tag, kind, number_of, value
                  in struct.iter_unpack(layout, data[head:head + count * entry])}
        if 0 in fields:
            raise _NotYet(f"In {what} (byte {offset}) there are still zeros.")
        return fields, struct.unpack_from(self.pointer, data, head + count * entry)[0]

    def raw(self, entry: _Entry, size: int, what: str) -> bytes:
        """Return the `size` bytes of a field's value, wherever they are."""
        if size <= self.inline:
            return entry.data[:size]
        return self.file.read(struct.unpack(self.pointer, entry.data)[0], size, what)

    def values(self, entry: _Entry, what: str) -> tuple[int, ...]:
        """Return the value of a field of integers; of rationals, numerators and denominators in turn."""
        letter, each = _TYPES.get(entry.kind, ("B", 1))
        layout = f"{self.order}{entry.count * each}{letter}"
        return struct.unpack(layout, self.raw(entry, struct.calcsize(layout), what))

    def integer(self, fields: dict[int, _Entry], tag: int, default: int, what: str) -> int:
        """Return the first value of an integer field."""
        entry = fields.get(tag)
        if entry is None or not 0 < entry.count <= _MAX_STRIPS or entry.kind not in _INTEGERS:
            return default
        return self.values(entry, what)[0]


@dataclass(frozen=True)
class _Frame:
    """One full-size image of a TIFF."""

    width: int
    height: int
    dtype: str
    eer: bool
    begin: int
    bytes: int
    """Where its data begin, and their size; 0 if they are compressed."""


def _check_tiff(file: _File) -> MovieCheck:
    """Walk the chain of directories; every one, and all that it points to, must be in the file."""
    tiff = _Tiff(file)
    if tiff.first == 0:
        raise _NotYet("The offset of the first TIFF directory is not written yet.")
    frames: list[_Frame] = []
    pixel_size: float | None = None
    offset, seen = tiff.first, set[int]()
    while offset != 0:
        if offset in seen or offset < 8 or len(seen) >= _MAX_DIRECTORIES:
            raise _Never(f"Its chain of TIFF directories is wrong at byte {offset}.")
        seen.add(offset)
        fields, following = tiff.directory(offset, len(seen))
        frame = _check_directory(tiff, fields, f"directory {len(seen)}")
        if frame is not None:
            frames.append(frame)
        pixel_size = _tiff_pixel_size(tiff, fields) if len(seen) == 1 else pixel_size
        offset = following
    if not frames:
        raise _Never("None of its TIFF directories holds an image.")
    kept = [frame for frame in frames if frame.eer] or frames
    first = kept[0]
    count = sum((frame.width, frame.height) == (first.width, first.height) for frame in kept)
    if len(seen) == 1 and first.bytes:
        count = _imagej_count(tiff, fields, first)
    return MovieCheck(COMPLETE, "", first.width, first.height, count, "eer" if first.eer else first.dtype, pixel_size)


def _imagej_count(tiff: _Tiff, fields: dict[int, _Entry], frame: _Frame) -> int:
    """Return how many frames follow the only directory; all of them must be in the file."""
    text = fields.get(_DESCRIPTION)
    if text is None or text.count > _MAX_TEXT:
        return 1
    count = imagej_frames(tiff.raw(text, text.count, "the description").decode("ascii", "replace"))
    end = frame.begin + count * frame.bytes
    if end > tiff.file.size:
        raise _NotYet(f"Its {count} frames end at byte {end}, the file at byte {tiff.file.size}.")
    return count


def _check_directory(tiff: _Tiff, fields: dict[int, _Entry], what: str) -> _Frame | None:
    """Check that all the data of one image are in the file; None if it is not a full-size image."""
    width, height = (tiff.integer(fields, tag, 0, what) for tag in (_WIDTH, _HEIGHT))
    if is_reduced(tiff.integer(fields, _SUBFILE, 0, what)) or _WIDTH not in fields:
        return None
    if width <= 0 or height <= 0 or max(width, height) > MAX_SIDE:
        raise _Never(f"In {what} the image is {width} x {height} pixels.")
    offsets, counts = (fields.get(_TILE_OFFSETS, fields.get(_OFFSETS)), fields.get(_TILE_COUNTS, fields.get(_COUNTS)))
    if offsets is None or counts is None or offsets.count == 0 or offsets.count != counts.count:
        raise _Never(f"In {what} the offsets or sizes of the image data are missing.")
    if {offsets.kind, counts.kind} - {*_INTEGERS} or offsets.count > _MAX_STRIPS:
        raise _Never(f"In {what} the offsets or sizes of the image data are not integers.")
    compression = tiff.integer(fields, _COMPRESSION, _UNCOMPRESSED, what)
    bits = tiff.integer(fields, _BITS, 1, what)
    total = _check_data(tiff, tiff.values(offsets, what), tiff.values(counts, what), compression, what)
    samples = tiff.integer(fields, _SAMPLES, 1, what)
    if compression == _UNCOMPRESSED and total < (width * bits * samples + 7) // 8 * height:
        raise _NotYet(f"In {what} there are {total} bytes of data: fewer than {width} x {height} pixels need.")
    kind = {2: "int", 3: "float"}.get(tiff.integer(fields, _FORMAT, 1, what), "uint")
    return _Frame(width, height, f"{kind}{bits}", compression in EER_COMPRESSIONS,
                  min(tiff.values(offsets, what)), total if compression == _UNCOMPRESSED else 0)


def _check_data(tiff: _Tiff, offsets: Sequence[int], counts: Sequence[int], compression: int, what: str) -> int:
    """Check that the strips or tiles are within the file and written; return their total size."""
    if min(offsets) == 0 or min(counts) == 0:
        raise _NotYet(f"In {what} some image data are not written yet.")
    end = max(offset + count for offset, count in zip(offsets, counts, strict=True))
    if end > tiff.file.size:
        raise _NotYet(f"The image data of {what} end at byte {end}, the file at byte {tiff.file.size}.")
    if compression != _UNCOMPRESSED:
        # A compressed strip never begins with so many zeros: the file was made at its full length and is being filled.
        last = max(range(len(offsets)), key=offsets.__getitem__)
        sample = tiff.file.read(offsets[last], min(counts[last], 64), f"the data of {what}")
        if len(sample) == 64 and not any(sample):
            raise _NotYet(f"The image data of {what} are still zeros.")
    return sum(counts)


def _tiff_pixel_size(tiff: _Tiff, fields: dict[int, _Entry]) -> float | None:
    """Return the pixel size, A, given by EER's metadata or the resolution of a TIFF; None if it is not plausible."""
    what = "the fields of directory 1"
    metadata = fields.get(_EER_METADATA)
    if metadata is not None and metadata.count <= _MAX_TEXT:
        found = _EER_PIXEL.search(tiff.raw(metadata, metadata.count, what))
        size = _to_float(found[1]) if found is not None else None
        if size is not None:
            return _plausible(size * 1e10)
    resolution = fields.get(_RESOLUTION)
    if resolution is None or resolution.kind != 5 or resolution.count != 1:
        return None
    numerator, denominator = tiff.values(resolution, what)
    per_unit = {2: 2.54e8, 3: 1e8}.get(tiff.integer(fields, _UNIT, 2, what))
    if per_unit is None or numerator == 0:
        return None
    return _plausible(per_unit * denominator / numerator)


def _to_float(text: bytes) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
