# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and command lines that nobody tried, made from a number: right ones with what is to come of them, and spoilt ones.

`make(kind, seed, folder)` writes the files of a case; `run(case)` runs the program in this process and raises `Wrong` unless it
does what is right, or says in one sentence why it does not.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import tifffile
from numpy.typing import NDArray

from tomostream.acquisition.movies import COMPLETE, check_movie
from tomostream.engine import aretomo, motioncor
from tomostream.engine.commandline import Flag
from tomostream.files.errors import EngineError
from tomostream.files.mrc import open_mrc
from tomostream.programs.aln import AlnFile, AlnRow, DarkFrame, LocalShift, format_aln, format_xf, xf_of_row
from tomostream.tests.dmfile import dm_file
from tomostream.tests.test_movie_formats import SIDE, eer_file, eer_frame

Generator = np.random.Generator
ABSURD = (-1, 0, 1, 2, 7, 127, 128, 255, 256, 4095, 32767, 65535, 65536, 10**6, 2**24, 2**31 - 1, -2**31)
WORDS = ("", "0", "-1", "1", "2", "3", "nan", "inf", "-inf", "1e400", "1e-400", "0x10", "1,2", "abc", "ü", "--", "-", "%s",
         "1" * 400, "4294967296", "-0.0", "0.5", "64", "1024", "/dev/null", "/nowhere/x.mrc", "$HOME", "a b")
EDGE = 24
TILTS = 7
MAX_LINE = 2000


class Wrong(AssertionError):
    """A program did neither what is right nor say why it does not."""


@dataclass(frozen=True)
class Case:
    """A program, its command line, the image that must come of it (None: not known), and whether it must work."""

    program: str
    words: tuple[str, ...]
    out: str
    truth: NDArray[np.float64] | None = None
    works: bool = False


# ------------------------------------------------------------------------------------------------------ what is spoilt
def spoilt(rng: Generator, data: bytes, start: int = 0, end: int | None = None) -> bytes:
    """Some bytes, or whole numbers, of a part changed; or the end cut off, or something put behind it."""
    out = bytearray(data)
    end = min(end or len(out), len(out))
    for _ in range(int(rng.integers(1, 5))):
        kind = rng.integers(0, 8)
        place = int(rng.integers(start, max(start + 1, end)))
        if kind == 0:
            del out[int(rng.integers(0, len(out) + 1)):]
        elif kind == 1:
            out += rng.bytes(int(rng.integers(1, 200)))
        elif kind < 4 and place < len(out):
            out[place] = int(rng.integers(0, 256))
        else:
            width, letter = ((2, "h"), (4, "i"), (8, "q"))[rng.integers(0, 3)]
            place -= place % 2
            value = int(rng.choice(ABSURD)) % (1 << 8 * width)
            if place + width <= len(out):
                out[place:place + width] = struct.pack(f"{rng.choice(['<', '>'])}{letter.upper()}", value)
    return bytes(out)


def spoilt_fields(rng: Generator, data: bytes) -> bytes:
    """A TIFF in whose directories a kind, a count, a value or the place of the next directory is another."""
    out = bytearray(data)
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    pointer, head, size, count = ("Q", 8, 20, "Q") if big else ("I", 2, 12, "H")
    places, place = [], struct.unpack_from(order + pointer, data, 8 if big else 4)[0]
    while 0 < place < len(data) - head and len(places) < 20:
        places.append(place)
        place += head + size * int(struct.unpack_from(order + count, data, place)[0])
        place = int(struct.unpack_from(order + pointer, data, place)[0]) if place + 8 <= len(data) else 0
    for _ in range(int(rng.integers(1, 3))):
        start = int(rng.choice(places))
        fields = int(struct.unpack_from(order + count, data, start)[0])
        entry = start + head + size * int(rng.integers(0, fields + 1))       # one behind the last: the next directory
        width = 8 if big else 4
        if entry == start + head + size * fields:
            struct.pack_into(order + pointer, out, entry, int(rng.choice([*places, 1, len(data), len(data) - 3, 2**31])))
            continue
        kind = rng.integers(0, 4)
        if kind == 0:
            struct.pack_into(f"{order}H", out, entry + 2, int(rng.choice([0, 1, 2, 3, 4, 5, 7, 11, 12, 13, 16, 99])))
        elif kind == 1:
            struct.pack_into(order + pointer, out, entry + 4, int(rng.choice(ABSURD)) % (1 << 31))
        elif kind == 2:
            tags = [254, 256, 257, 258, 259, 273, 277, 278, 279, 284, 317, 322, 330, 339]
            struct.pack_into(f"{order}H", out, entry, int(rng.choice(tags)))
        else:
            value = int(rng.choice([*ABSURD, 5, 6, 8, 12, 16, 24, 64, 32773, 32946, 34712, 50000, 65000, 65001, 65002]))
            struct.pack_into(f"{order}{'H' if rng.random() < 0.5 else pointer}", out, entry + 4 + width, value % (1 << 16))
    return bytes(out)


def spoilt_text(rng: Generator, text: str) -> str:
    """Words, lines or characters changed."""
    lines = text.split("\n")
    for _ in range(int(rng.integers(1, 4))):
        number = int(rng.integers(0, len(lines)))
        words = lines[number].split()
        kind = rng.integers(0, 5)
        if kind == 0:
            lines[number] = str(rng.choice(WORDS))
        elif kind == 1 and len(lines) > 1:
            del lines[number]
        elif kind == 2:
            lines.insert(number, lines[int(rng.integers(0, len(lines)))])
        elif words:
            words[int(rng.integers(0, len(words)))] = str(rng.choice(WORDS))
            lines[number] = " ".join(words)
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------- movies
def mrc_movie(rng: Generator) -> tuple[bytes, NDArray[np.float64]]:
    """An MRC movie of any mode with any header that can be meant, and the sum of its frames."""
    count, rows, columns = (int(n) for n in (rng.integers(1, 4), rng.integers(16, 40), rng.integers(16, 40)))
    kind = str(rng.choice(["unsigned", "imod", "signed", "i2", "f4", "u2", "f2", "four", "flagged"]))
    low, high = (3, 12) if kind in ("four", "flagged") else (40, 60)
    columns += columns % 2 * (kind == "flagged")
    frames = rng.integers(low, high, (count, rows, columns))
    order = "<" if rng.random() < 0.7 else ">"
    mode = {"unsigned": 0, "imod": 0, "signed": 0, "i2": 1, "f4": 2, "u2": 6, "f2": 12, "four": 101, "flagged": 0}[kind]
    stamp, flags = (1146047817, {"imod": 1, "flagged": 16}[kind]) if kind in ("imod", "flagged") else (0, 0)
    if kind in ("four", "flagged"):
        padded = np.concatenate([frames, np.zeros((count, rows, columns % 2), int)], axis=2).astype(np.uint8)
        data = (padded[..., ::2] | padded[..., 1::2] << 4).astype(np.uint8).tobytes()
    elif kind == "imod":
        data = (frames - 128).astype("i1").tobytes()
    else:
        data = frames.astype({"unsigned": "u1", "signed": "i1"}.get(kind, order + kind)).tobytes()
    extended = bytes(int(rng.choice([0, 0, 4, 128, 1000])))
    header = bytearray(1024)
    wide = columns // 2 if kind == "flagged" else columns
    struct.pack_into(f"{order}4i", header, 0, wide, rows, count, mode)
    struct.pack_into(f"{order}3i", header, 28, *(int(n) for n in rng.choice([0, 1, columns, -5, 10**9], 3)))
    struct.pack_into(f"{order}6f", header, 40, *(float(n) for n in rng.choice([0.0, 1.0, -3.0, 1e38, np.nan, np.inf, 90.0], 6)))
    struct.pack_into(f"{order}3f", header, 76, *(float(n) for n in rng.choice([0.0, -1.0, np.nan], 1).repeat(3)))
    struct.pack_into(f"{order}2i", header, 88, int(rng.choice([0, 1, 401, -1])), len(extended))
    struct.pack_into(f"{order}i", header, 108, int(rng.choice([0, 20140, 20141, -1, 99])))
    struct.pack_into(f"{order}2i", header, 152, stamp, flags)
    header[208:216] = [b"MAP \x44\x44\0\0", b"MAP \x11\x11\0\0", bytes(8), b"XYZ \x44\x41\0\0"][rng.integers(0, 4)]
    return bytes(header) + extended + data, frames.sum(axis=0).astype(float)


def float_header(columns: int, rows: int, sections: int) -> bytearray:
    """The header of an MRC file of 32-bit floats with pixels of 10 A."""
    header = bytearray(1024)
    struct.pack_into("<10i", header, 0, columns, rows, sections, 2, 0, 0, 0, columns, rows, sections)
    struct.pack_into("<3f", header, 40, 10.0 * columns, 10.0 * rows, 10.0 * sections)
    return header


def tiff_movie(rng: Generator, path: str) -> NDArray[np.float64]:
    """Write a TIFF movie of any layout; return the sum of its frames, row 0 at the bottom."""
    count, rows, columns = (int(n) for n in (rng.integers(1, 4), rng.integers(16, 40), rng.integers(16, 40)))
    dtype = str(rng.choice(["u1", "u2", "i1", "i2", "u4", "f4", "f8"]))
    frames = rng.integers(40, 60, (count, rows, columns)).astype(dtype)
    compression = rng.choice([None, "lzw", "zlib", "deflate", "packbits", "zstd"])
    words: dict[str, object] = {"compression": compression, "photometric": "minisblack", "metadata": None}
    if compression in ("lzw", "zlib", "deflate") and dtype != "f8":
        words["predictor"] = bool(rng.random() < 0.5)
    if rng.random() < 0.3:
        words["tile"] = (16, 32)
    else:
        words["rowsperstrip"] = int(rng.integers(1, rows + 1))
    with tifffile.TiffWriter(path, bigtiff=bool(rng.random() < 0.4), byteorder=str(rng.choice(["<", ">"]))) as writer:
        for number, frame in enumerate(frames):
            nested = 1 if number == 0 and rng.random() < 0.2 else 0
            writer.write(frame, contiguous=False, subifds=nested, **words)  # type: ignore[arg-type]
            if nested:
                writer.write(frame[::2, ::2], contiguous=False, subfiletype=1, **words)  # type: ignore[arg-type]
        if rng.random() < 0.2:
            writer.write(frames[0][:8, :8], contiguous=False, subfiletype=1, metadata=None, photometric="minisblack")
    return frames.sum(axis=0, dtype=float)[::-1]


def eer_movie(rng: Generator, doublings: int) -> tuple[bytes, NDArray[np.float64]]:
    """An EER movie of any of the three codings, and its sum at 2 ** doublings pixels for one of the camera."""
    compression = int(rng.choice([65000, 65001, 65002]))
    bits = {65000: (8, 2, 2), 65001: (7, 2, 2)}.get(
        compression, (int(rng.integers(1, 17)), int(rng.integers(doublings, 5)), int(rng.integers(doublings, 5))))
    total = np.zeros((SIDE << doublings, SIDE << doublings))
    frames = []
    for _ in range(int(rng.integers(1, 5))):
        pixels = np.sort(rng.permutation(SIDE * SIDE)[:int(rng.integers(20, 200))])
        events = [(int(p), int(rng.integers(1 << bits[1])), int(rng.integers(1 << bits[2]))) for p in pixels]
        for pixel, x, y in events:
            row = (pixel // SIDE << doublings) + (y >> bits[2] - doublings)
            total[row, (pixel % SIDE << doublings) + (x >> bits[1] - doublings)] += 1
        frames.append(eer_frame(events, bits, compression == 65000))
    return eer_file(frames, compression, bits if compression == 65002 else ()), total


def of_a_movie(path: str, tag: str, folder: str, *words: str, **known: object) -> Case:
    out = os.path.join(folder, "out", "sum.mrc")
    return Case("tomostream-motioncor", (tag, path, "-OutMrc", out, "-Align", "0", "--threads", "1", *words), out,
                **known)  # type: ignore[arg-type]


def movie(rng: Generator, folder: str) -> Case:
    """A right movie of any kind."""
    kind = rng.integers(0, 3)
    if kind == 0:
        data, truth = mrc_movie(rng)
        return of_a_movie(written(folder, "m.mrc", data), "-InMrc", folder, truth=truth, works=True)
    if kind == 1:
        path = os.path.join(folder, "m.tif")
        return of_a_movie(path, "-InTiff", folder, truth=tiff_movie(rng, path), works=True)
    doublings = int(rng.integers(0, 3))
    data, truth = eer_movie(rng, doublings)
    words = "-EerSampling", str(doublings + 1)
    return of_a_movie(written(folder, "m.eer", data), "-InEer", folder, *words, truth=truth, works=True)


def spoilt_movie(rng: Generator, folder: str) -> Case:
    """A movie with a wrong header, wrong fields, a chain of directories that turns back, or a stream that is none."""
    kind = rng.integers(0, 4)
    if kind == 0:
        return of_a_movie(written(folder, "m.mrc", spoilt(rng, mrc_movie(rng)[0], 0, 224)), "-InMrc", folder)
    if kind == 1:
        path = os.path.join(folder, "m.tif")
        tiff_movie(rng, path)
        data = Path(path).read_bytes()
        data = spoilt_fields(rng, data) if rng.random() < 0.7 else spoilt(rng, data)
        return of_a_movie(written(folder, "m.tif", data), "-InTiff", folder)
    doublings = int(rng.integers(0, 3))
    data = eer_movie(rng, doublings)[0]
    if kind == 2:
        stream, bits = rng.bytes(int(rng.integers(1, 400))), [int(n) for n in rng.choice([0, 1, 2, 7, 8, 16, 17, 99], 3)]
        compression, count = int(rng.choice([65000, 65001, 65002])), int(rng.integers(1, 4))
        data = eer_file([stream] * count, compression, bits, int(rng.integers(1, 40)))
    else:
        data = spoilt_fields(rng, data) if rng.random() < 0.6 else spoilt(rng, data)
    return of_a_movie(written(folder, "m.eer", data), "-InEer", folder, "-EerSampling", str(doublings + 1))


def reference(rng: Generator, folder: str) -> Case:
    """A movie with a gain, a dark, defects or a list of fractions, of any format, right or spoilt."""
    count, rows, columns = 3, 2 * EDGE, 2 * EDGE
    frames = rng.integers(40, 60, (count, rows, columns)).astype(np.uint8)
    path = os.path.join(folder, "m.tif")
    tifffile.imwrite(path, frames[:, ::-1], photometric="minisblack")
    shape = [(rows, columns), (2 * rows, 2 * columns), (rows // 2, columns // 2), (rows, columns + 1), (7, 7)][rng.integers(0, 5)]
    image = rng.uniform(0.9, 1.1, shape).astype("f4")
    if rng.random() < 0.2:
        image.reshape(-1)[:int(rng.integers(1, image.size))] = rng.choice([0.0, np.nan, np.inf, -1.0, 1e30])
    kind = rng.integers(0, 7)
    if kind < 4:
        name = os.path.join(folder, ("g.mrc", "g.tif", "g.gain", "g.dm4")[kind])
        if kind == 0:
            header = float_header(shape[1], shape[0], 1)
            Path(name).write_bytes(bytes(header) + image.tobytes())
        elif kind == 3:
            name = name if rng.random() < 0.5 else f"{name[:-1]}3"
            Path(name).write_bytes(dm_file(image, int(name[-1])))
        else:
            tifffile.imwrite(name, image, photometric="minisblack", compression=rng.choice([None, "zlib"]))
        if rng.random() < 0.7:
            Path(name).write_bytes(spoilt(rng, Path(name).read_bytes(), 0, 1024))
        flag = str(rng.choice(["-Gain", "-Gain", "-Dark", "-DefectMap"]))
        return of_a_movie(path, "-InTiff", folder, flag, name, "-RotGain", str(rng.integers(0, 4)))
    texts = {4: "3 4 5 6\n0 0 1 1\n",
             5: f"CameraSizeX {columns}\nCameraSizeY {rows}\nRotationAndFlip 3\nBadColumns 3 4\nBadRows 5\nBadPixels 1 2 3 4\n"
             f"UsableArea 1 1 {rows - 2} {columns - 2}\nPartialBadColumn 7 1 2 9\nPartialBadRow 7 1 2 9\n",
             6: "2 1 0.5\n1 1 0.5\n"}
    text = texts[int(kind)]
    name = written(folder, "t.txt", (spoilt_text(rng, text) if rng.random() < 0.8 else text).encode())
    return of_a_movie(path, "-InTiff", folder, "-FmIntFile" if kind == 6 else "-DefectFile", name)


# ------------------------------------------------------------------------------------------------------------- series
def series(rng: Generator, folder: str) -> Case:
    """A small tilt series whose stack, angles or alignment are right or spoilt."""
    rows, columns = 2 * EDGE, 3 * EDGE
    images = rng.normal(100, 10, (TILTS, rows, columns)).astype("<f4")
    angles = np.linspace(-45, 45, TILTS)
    header = float_header(columns, rows, TILTS)
    extended = b"".join(struct.pack("<5h", round(angle * 100), 0, 0, 9, 1) for angle in angles)
    struct.pack_into("<i", header, 92, len(extended))
    struct.pack_into("<2h", header, 128, 10, 29)
    which = rng.integers(0, 5)
    data = bytes(header) + extended
    data = (spoilt(rng, data, 0, len(data)) if which == 0 else data) + images.tobytes()
    stack, out = written(folder, "ts.mrc", data), os.path.join(folder, "out", "v.mrc")
    row = [AlnRow(i, 85.0, *(float(n) for n in rng.normal(0, 3, 2)), float(angle)) for i, angle in enumerate(angles)]
    local = tuple(LocalShift(i, 0, 5.0, -4.0, 1.0, 1.0, 1.0) for i in range(TILTS - 1)) if rng.random() < 0.3 else ()
    dark = (DarkFrame(TILTS - 1, TILTS - 1, 45.0),)
    aln = format_aln(AlnFile(tuple(row[:-1]), dark, (columns, rows, TILTS), len(local[:1]), local))
    tlt = "".join(f"{angle:8.2f} {i + 1} {3 * i}\n" for i, angle in enumerate(angles))
    xf = format_xf([xf_of_row(each.rot_deg, each.tx, each.ty) for each in row])
    change = [lambda text: text, lambda text: spoilt_text(rng, text)]
    words: list[str] = ["-InMrc", stack, "-OutMrc", out, "-VolZ", "16", "-OutBin", "1", "-Wbp", "1", "--threads", "1"]
    if which in (0, 1):
        words += ["-AlnFile", written(folder, "ts.aln", change[which](aln).encode())]
    elif which == 2:
        words += ["-Align", "0", "-AngFile", written(folder, "ts.tlt", change[rng.integers(0, 2)](tlt).encode())]
    elif which == 3:
        words += ["-AlnFile", written(folder, "ts.xf", change[rng.integers(0, 2)](xf).encode())]
        if rng.random() < 0.5:
            written(folder, "ts.tlt", change[rng.integers(0, 2)](tlt).encode())
    else:
        words += ["-Align", "0"]
    return Case("tomostream-aretomo", tuple(words), out)


def strange(rng: Generator, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images of which some pixels, rows or whole ones are not what a camera gives."""
    out = images.astype(float)
    for _ in range(int(rng.integers(1, 4))):
        value = float(rng.choice([0.0, np.nan, np.inf, -np.inf, 1e38, -1e38, 1e-40, -5.0, 1e15]))
        which = int(rng.integers(0, len(out)))
        kind = rng.integers(0, 6)
        if kind == 0:
            out[which] = value
        elif kind == 1:
            out[which, int(rng.integers(0, out.shape[1]))] = value
        elif kind == 2:
            out[which].reshape(-1)[rng.integers(0, out[0].size, 5)] = value
        elif kind == 3:
            out[which] = out[int(rng.integers(0, len(out)))]
        elif kind == 4:
            good = np.isfinite(out)
            out[good] *= rng.choice([1e-20, 1e20, -1.0, 0.0])
        else:
            out += rng.choice([-100.0, 1e6, -1e10])
    with np.errstate(over="ignore"):
        return out.astype(np.float32)


def content(rng: Generator, folder: str) -> Case:
    """A movie or a series that is aligned, with pixels that are not what a camera gives."""
    if rng.random() < 0.6:
        frames = strange(rng, rng.poisson(3.0, (int(rng.integers(2, 7)), 2 * EDGE, 3 * EDGE)).astype("f4"))
        header = float_header(3 * EDGE, 2 * EDGE, len(frames))
        case = of_a_movie(written(folder, "m.mrc", bytes(header) + frames.astype("<f4").tobytes()), "-InMrc", folder)
        words = tuple("1" if case.words[i - 1] == "-Align" else word for i, word in enumerate(case.words))
        more = ("-FmDose", "1", "-PixSize", "2", "-SplitSum", "1", "-FtBin", "1.5") if rng.random() < 0.5 else ()
        return Case(case.program, (*words, *more), case.out)
    case = series(rng, folder)
    stack, rows, columns = os.path.join(folder, "ts.mrc"), 2 * EDGE, 3 * EDGE
    images = strange(rng, rng.normal(100, 10, (TILTS, rows, columns)).astype("<f4"))
    header = float_header(columns, rows, TILTS)
    written(folder, "ts.mrc", bytes(header) + images.tobytes())
    words = ("-InMrc", stack, "-OutMrc", case.out, "-VolZ", "16", "-OutBin", "1", "-Wbp", "1", "--threads", "1",
             "-TiltRange", "-45", "45")
    align = () if rng.random() < 0.3 else ("-Align", "0")
    return Case(case.program, words + align, case.out)


def options(rng: Generator, folder: str) -> Case:
    """A right command line with more flags, whose values are in their range."""
    case, known = _of_either(rng, folder, 0.5)
    words = list(case.words)
    numbers = [flag for flag in known.values() if flag.kind is not str and flag.tag not in ("--threads", "-Align")]
    for _ in range(int(rng.integers(1, 5))):
        flag = numbers[int(rng.integers(0, len(numbers)))]
        count = int(rng.integers(flag.count[0], min(3, flag.count[1]) + 1))
        low = -3.0 if flag.low is None else flag.low
        high = min(low + 6.0, low + 6.0 if flag.high is None else flag.high)
        whole = flag.kind is int
        values = [int(rng.integers(int(low), int(high) + 1)) if whole else round(rng.uniform(low, high), 2) for _ in range(count)]
        words += [flag.tag, *map(str, values)]
    return Case(case.program, tuple(words), case.out)


def command_line(rng: Generator, folder: str) -> Case:
    """A right command line with flags of the program, their values or their order changed."""
    case, known = _of_either(rng, folder, 0.6)
    words = list(case.words)
    for _ in range(int(rng.integers(1, 5))):
        flag: Flag = list(known.values())[int(rng.integers(0, len(known)))]
        values = [_value(rng, flag) for _ in range(int(rng.integers(0, min(4, flag.count[1] + 2))))]
        place = int(rng.integers(0, len(words) + 1))
        words[place:place] = [flag.tag if rng.random() < 0.9 else flag.tag.upper() + "x", *values]
    if rng.random() < 0.2:
        del words[int(rng.integers(0, len(words)))]
    return Case(case.program, tuple(words), case.out)


def _of_either(rng: Generator, folder: str, movies: float) -> tuple[Case, dict[str, Flag]]:
    """A case of the one program or the other, and the flags that it knows; `movies`: the share of the first."""
    if rng.random() < movies:
        return movie(rng, folder), motioncor.KNOWN
    return series(rng, folder), aretomo.KNOWN


def _value(rng: Generator, flag: Flag) -> str:
    """A value that is near what the flag takes, or is not."""
    if flag.kind is str or rng.random() < 0.4:
        return str(rng.choice(WORDS))
    low = -10.0 if flag.low is None else flag.low - 1
    high = 100.0 if flag.high is None else min(flag.high + 1, 1000.0)
    value = rng.uniform(low, max(low + 1, high))
    return str(round(value)) if flag.kind is int else f"{value:.3g}"


def written(folder: str, name: str, data: bytes) -> str:
    path = os.path.join(folder, name)
    Path(path).write_bytes(data)
    return path


KINDS: dict[str, Callable[[Generator, str], Case]] = {
    "movie": movie, "spoilt movie": spoilt_movie, "reference": reference, "series": series, "command line": command_line,
    "options": options, "content": content}


def make(kind: str, seed: int, folder: str) -> Case:
    """The case of this number, with its files in a folder that is empty."""
    os.makedirs(os.path.join(folder, "out"), exist_ok=True)
    return KINDS[kind](np.random.default_rng([sorted(KINDS).index(kind), seed]), folder)


# ------------------------------------------------------------------------------------------------------------ the run
def run(case: Case) -> str:
    """Run a case; return "" where it worked, else the sentence that was said.

    Raises
    ------
    Wrong
        Where it ended otherwise, said more or less than a sentence, left something behind, or made a wrong image.
    """
    if case.program.endswith("motioncor") and len(case.words) > 1:
        check_movie(case.words[1])      # never raises
    main = motioncor.main if case.program.endswith("motioncor") else aretomo.main
    said, shown = io.StringIO(), io.StringIO()
    # The number of threads of libraries is set once a process, and here many programs run in one.
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown), warnings.catch_warnings(), \
            mock.patch.object(aretomo, "_use_threads"), mock.patch.dict(os.environ):
        warnings.simplefilter("always", RuntimeWarning)
        try:
            status = main(case.words)
        except Exception as error:
            raise Wrong(f"{type(error).__name__}: {error}") from error
    error = _checked_words(case, status, said.getvalue().splitlines())
    _check_folder(case, status)
    if error and case.works:
        raise Wrong(f"it refused what is right: {error}")
    if not error and "--help" not in case.words and "--version" not in case.words:
        _check_image(case)
    if case.works and case.program.endswith("motioncor"):
        found = check_movie(case.words[1])
        if found.state != COMPLETE:
            raise Wrong(f"the check of its structure says {found.state}: {found.reason}")
    return error


def _checked_words(case: Case, status: int, lines: list[str]) -> str:
    """The sentence with which a program refused, "" where it did not."""
    if status not in (0, 1):
        raise Wrong(f"status {status}")
    if any(not line.startswith(f"{case.program}: ") or len(line) > MAX_LINE for line in lines):
        raise Wrong(f"it said {lines[:3]}")
    errors = [line for line in lines if ": error: " in line]
    if len(errors) != status:
        raise Wrong(f"status {status}, and {len(errors)} lines of error")
    return errors[0] if errors else ""


def _check_folder(case: Case, status: int) -> None:
    """Nothing half-written, and nothing empty; nothing at all of a case that was refused."""
    folder = os.path.dirname(case.out)
    left = {name: os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)} if os.path.isdir(folder) else {}
    if any(name.endswith(".tmp") or size == 0 for name, size in left.items()) or (status and os.path.exists(case.out)):
        raise Wrong(f"it left {left} behind")


def _check_image(case: Case) -> None:
    if not os.path.exists(case.out):
        return      # the command line gave another name
    try:
        image = np.asarray(open_mrc(case.out), float)
    except EngineError as error:
        raise Wrong(f"its image cannot be read: {error}") from error
    if not np.isfinite(image).all():
        raise Wrong("its image holds values that are not finite")
    even = case.truth is not None and not any(side % 2 for side in case.truth.shape)      # odd sides lose a line in Fourier space
    if case.truth is not None and even and not np.array_equal(image[0], case.truth):
        raise Wrong(f"its image is wrong: mean {image.mean():g} where {case.truth.mean():g} is right")
