# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-ins for MotionCor3, AreTomo2 and AreTomo3: same command line, same files, a run time that is given. Nothing is computed.

    python -m tomostream.tests.standins FOLDER      makes FOLDER/motioncor/bin/MotionCor3, FOLDER/aretomo/AreTomo2, ...

Set MOTIONCOR_HOME, ARETOMO_HOME and ARETOMO3_HOME to those folders. The environment says how they behave:

    STANDIN_SECONDS     seconds that a run takes, or "0.3,1.5" for MotionCor3 and the others (default 0)
    STANDIN_LOG         a file to which each run appends a line of JSON: program, item, start, end, gpu, pid
    STANDIN_FAIL        regular expression: items that fail, every time (nothing is written, exit status 0, as AreTomo2 does)
    STANDIN_FAIL_ONCE   regular expression: items that fail the first time; the log remembers
    STANDIN_FAIL_TWICE  regular expression: items that fail the first two times
    STANDIN_HAND        -1: AreTomo3 finds that the tilt axis points the other way (default 1)

What they write tells of what it was made: a sum is filled with a number of its movie's bytes, a tomogram with the sum of
those in its stack.

They need numpy no more than a shell script does, so that a run of 0.2 s takes 0.2 s.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import struct
import sys
import time
import zlib
from collections.abc import Mapping, Sequence

from tomostream.acquisition.movies import MovieCheck, check_movie
from tomostream.programs import aretomo as files
from tomostream.programs import aretomo3
from tomostream.programs.aln import AlnFile, AlnRow, DarkFrame, format_aln, parse_aln
from tomostream.programs.motioncor import sum_size

#: Of the package that these stand-ins belong to: another may be installed.
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAMS = {"MotionCor3": ("motioncor", "bin"), "AreTomo2": ("aretomo",), "AreTomo3": ("aretomo3",)}


def install(folder: str) -> dict[str, str]:
    """Make the programs in a folder; return the variables that point to them."""
    for name, parts in PROGRAMS.items():
        place = os.path.join(folder, *parts)
        os.makedirs(place, exist_ok=True)
        path = os.path.join(place, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!{sys.executable} -E\nimport sys\nsys.path.insert(0, {ROOT!r})\n"
                       "from tomostream.tests.standins import main\n"
                       f"sys.exit(main({name!r}, sys.argv[1:]))\n")
        os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)   # also for `someone_else`
    cuda = os.path.join(folder, "cuda")
    os.makedirs(cuda, exist_ok=True)
    return {"MOTIONCOR_HOME": os.path.join(folder, "motioncor"), "MOTIONCOR_BIN": "MotionCor3",
            "ARETOMO_HOME": os.path.join(folder, "aretomo"), "ARETOMO3_HOME": os.path.join(folder, "aretomo3"),
            "MOTIONCOR_CUDA_LIB": cuda, "ARETOMO_CUDA_LIB": cuda}


def main(program: str, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Run a stand-in."""
    began, steady = time.time(), time.monotonic()
    flags = flags_of(arguments)
    source = next(flags[flag][0] for flag in ("-InTiff", "-InMrc", "-InEer", "-InPrefix") if flag in flags)
    item = os.path.basename(source)
    seconds = environment.get("STANDIN_SECONDS", "0").split(",")
    _log(environment, program=program, item=item, event="start", time=began, gpu=flags.get("-Gpu"), pid=os.getpid())
    time.sleep(max(0.0, steady + float(seconds[0 if program == "MotionCor3" else -1]) - time.monotonic()))
    if _fails(environment, program, item):
        print(f"Error: {item} was told to fail")
        return 0
    try:
        if program == "AreTomo3":
            _aretomo3(source, flags, int(environment.get("STANDIN_HAND", "1")))
        else:
            (_motioncor if program == "MotionCor3" else _aretomo)(source, flags)
    except OSError as error:
        print(f"Error: {error}")
        return 1
    _log(environment, program=program, item=item, event="end", time=time.time(), began=began, gpu=flags.get("-Gpu"),
         pid=os.getpid())
    return 0


def flags_of(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Flags with their values; a negative number is a value."""
    flags: dict[str, list[str]] = {}
    name = ""
    for word in arguments:
        if word.startswith("-") and word.lstrip("-")[:1].isalpha():
            name = word
            flags[name] = []
        else:
            flags.setdefault(name, []).append(word)
    return flags


def _log(environment: Mapping[str, str], **facts: object) -> None:
    path = environment.get("STANDIN_LOG")
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")


def _fails(environment: Mapping[str, str], program: str, item: str) -> bool:
    always = environment.get("STANDIN_FAIL")
    if always and re.search(always, item):
        return True
    times = [many for name, many in (("STANDIN_FAIL_ONCE", 1), ("STANDIN_FAIL_TWICE", 2))
             if environment.get(name) and re.search(environment[name], item)]
    if not times:
        return False
    with open(environment["STANDIN_LOG"], encoding="utf-8") as file:
        starts = [entry for entry in map(json.loads, file) if entry["event"] == "start"]
    return sum((entry["program"], entry["item"]) == (program, item) for entry in starts) <= max(times)


def write_mrc(path: str, size: tuple[int, int, int], pixel_size: float, value: float = 0.0) -> None:
    """An MRC file (mode 2) of one value, size (x, y, z)."""
    x, y, z = size
    header = struct.pack("<10i", x, y, z, 2, 0, 0, 0, x, y, z)
    header += struct.pack("<6f", x * pixel_size, y * pixel_size, z * pixel_size, 90, 90, 90)
    header += struct.pack("<3i3f2i", 1, 2, 3, value, value, value, 0 if z == 1 else 1, 0)
    header = header.ljust(208, b"\0") + b"MAP " + bytes([0x44, 0x44, 0, 0]) + struct.pack("<fi", 0.0, 0)
    with open(path, "wb") as file:
        file.write(header.ljust(1024, b"\0"))
        file.write(struct.pack("<f", value) * (x * y * z))


def shift_of(item: str) -> float:
    """A shift in px that is an item's own: tells whose alignment it is."""
    return zlib.crc32(item.split(".")[0].encode()) % 1000 / 100


def value_of(movie: str) -> float:
    """What the stand-in for MotionCor fills the sum of a movie with: tells from which bytes it was made. Exact in float32,
    also when those of a series are added."""
    with open(movie, "rb") as file:
        return float(zlib.crc32(file.read()) % 65521)


def values_in(stack: str, check: MovieCheck) -> list[float]:
    """The first pixel of every section of an MRC stack (mode 2)."""
    with open(stack, "rb") as file:
        return [struct.unpack_from("<f", os.pread(file.fileno(), 4, 1024 + 4 * section * check.width * check.height))[0]
                for section in range(check.frames)]


def _motioncor(source: str, flags: Mapping[str, Sequence[str]]) -> None:
    check = check_movie(source)
    target, pixel_size = flags["-OutMrc"][0], float(flags.get("-PixSize", ["1"])[0])
    pixels = 2 ** (int(flags.get("-EerSampling", ["1"])[0]) - 1) if source.lower().endswith(".eer") else 1
    size = (*sum_size(((check.width or 64) * pixels, (check.height or 64) * pixels), float(flags.get("-FtBin", ["1"])[0])), 1)
    stem = os.path.splitext(target)[0]
    suffixes = [""]
    if float(flags.get("-FmDose", ["0"])[0]) > 0:
        suffixes.append("_DW")
    if flags.get("-SplitSum", ["0"])[0] == "1":
        suffixes += ["_EVN", "_ODD"]
    for suffix in suffixes:
        write_mrc(f"{stem}{suffix}.mrc", size, pixel_size, value_of(source))
    name = os.path.splitext(os.path.basename(source))[0]
    with open(os.path.join(flags["-LogDir"][0], f"{name}-Full.log"), "w", encoding="utf-8") as file:
        file.write("# full frame alignment\n")
        file.writelines(f"{frame + 1:4d}  {0.3 * frame:8.2f}  {-0.4 * frame:8.2f}\n" for frame in range(check.frames or 1))


def _aretomo(source: str, flags: Mapping[str, Sequence[str]]) -> None:
    check, target = check_movie(source), flags["-OutMrc"][0]
    out = files.OutputFiles.of(source, target)
    axis = float(flags.get("-TiltAxis", ["0"])[0])
    if "-AngFile" in flags:
        with open(flags["-AngFile"][0], encoding="utf-8") as file:
            angles = [float(line.split()[0]) for line in file if line.strip()]
        own = shift_of(os.path.basename(source))
        rows = tuple(AlnRow(section, axis, own + 0.5 * section, -0.25 * section, angle)
                     for section, angle in enumerate(angles))
        raw = (check.width or 0, check.height or 0, len(rows))
        with open(out.aln, "w", encoding="utf-8") as file:
            file.write(format_aln(AlnFile(rows, raw_size=raw)))
    thickness, binning = float(flags.get("-VolZ", ["0"])[0]), float(flags.get("-OutBin", ["1"])[0])
    if thickness > 0:
        x, y, z = (int(length / binning + 0.1) // 2 * 2 for length in (check.width or 64, check.height or 64, thickness))
        if abs(math.sin(math.radians(axis))) > 0.707:
            x, y = y, x
        flip = flags.get("-FlipVol", ["0"])[0] == "1"
        write_mrc(target, (x, y, z) if flip else (x, z, y), float(flags["-PixSize"][0]) * binning,
                  sum(values_in(source, check)))


class Skipped(Exception):
    """AreTomo3 leaves a series aside, and exits with 0."""


def _aretomo3(stack: str, flags: Mapping[str, Sequence[str]], hand: int) -> None:
    """As the source of AreTomo3 2.3.1 says, for `-Cmd 1` and `-Cmd 2`, `-Serial 0` and one stack."""
    out = aretomo3.OutputFiles.of(stack, flags["-OutDir"][0])
    with open(out.done, "w", encoding="utf-8"), open(out.session, "w", encoding="utf-8") as session:
        json.dump({"software": {"name": "AreTomo3", "version": "version 2.3.1, built on Aug. 07, 2026"}}, session)
    try:
        _Aretomo3(stack, flags, hand, out).run()
    except Skipped as reason:
        print(f"Warning: {reason}, skip")


class _Aretomo3:
    THICKNESS_PX, ALPHA, BETA = 480, 2.5, -1.5

    def __init__(self, stack: str, flags: Mapping[str, Sequence[str]], hand: int, out: aretomo3.OutputFiles) -> None:
        self.stack, self.hand, self.out = stack, hand, out
        self.flags = {name.lower(): values for name, values in reversed(list(flags.items()))}
        self.check = check_movie(stack)
        with open(stack, "rb") as file:
            header = file.read(1024)
        columns, _, self.sections, mode = struct.unpack_from("<4i", header)
        self.pixel_size = struct.unpack_from("<f", header, 40)[0] / columns
        if mode not in (1, 2, 6):
            raise Skipped(f"MRC mode {mode}")
        self.angles = self._angles()
        if self.sections <= 5:
            raise Skipped("Too few tilt images")

    def number(self, flag: str, default: float, place: int = 0) -> float:
        values = self.flags.get(flag.lower(), ())
        return float(values[place]) if len(values) > place else default

    def _angles(self) -> list[float]:
        names = aretomo3.InputFiles.of(self.stack)
        for path in (names.tilts, names.tilts.replace("_TLT.txt", ".rawtlt")):
            if os.path.exists(path):
                with open(path, encoding="utf-8") as file:
                    found = [float(line.split()[0]) for line in file if line.strip()]
                if len(found) >= self.sections:
                    return found[:self.sections]
        raise Skipped("Unable to load tilt angles")

    def run(self) -> None:
        align, axis = self.number("-Cmd", 0) == 1, self.number("-TiltAxis", 0.0)
        ctf = align and self.number("-Cs", 2.7) != 0 and self.number("-kV", 0) != 0
        if align:
            turned = ctf and self.hand == -1 and self.number("-TiltAxis", 1.0, 1) >= 0
            axis = axis - 180 if turned else axis
            self._write_aln(axis)
            self._write_metrics(axis)
        if ctf:
            self._write_ctf()
        if not align:
            with open(aretomo3.InputFiles.of(self.stack).aln, encoding="utf-8") as file:
                axis = parse_aln(file.read()).rows[0].rot_deg
        self._write_volumes(axis)

    def _write_aln(self, axis: float) -> None:
        values = [1.0] * self.sections if self.number("-DarkTol", 0.7) <= 0 else values_in(self.stack, self.check)
        dark = [place for place, (value, angle) in enumerate(zip(values, self.angles, strict=True))
                if value == 0 and abs(angle) >= 3.5]
        own = shift_of(os.path.basename(self.stack))
        offset = self.ALPHA if self.number("-TiltCor", 0) != 0 else 0.0
        rows = tuple(AlnRow(place + 1, axis, own + 0.5 * place, -0.25 * place, angle + offset)
                     for place, angle in enumerate(self.angles) if place not in dark)
        aln = AlnFile(rows, tuple(DarkFrame(place, place + 1, self.angles[place]) for place in dark),
                      (self.check.width or 0, self.check.height or 0, self.sections))
        lines = format_aln(aln).splitlines(keepends=True)
        place = next(number for number, line in enumerate(lines) if line.startswith("# SEC"))
        lines.insert(place, f"# AlphaOffset = {offset:8.2f}\n# BetaOffset = {0:8.2f}\n# Thickness = {self.THICKNESS_PX}\n")
        with open(self.out.aln, "w", encoding="utf-8") as file:
            file.writelines(lines)

    def _write_metrics(self, axis: float) -> None:
        with open(self.out.metrics, "w", encoding="utf-8") as file:
            file.write("Tilt_Series,Thickness(Pix),Tilt_Axis,Global_Shift(Pix),Bad_Patch_Low,Bad_Patch_All,Defocus(A),ExtPhase(Deg),"
                       "CTF_Res(A),CTF_Score,DF_Hand,Pix_Size(A),Cs(nm),Kv,Alpha0,Beta0\n")
            file.write(f"{os.path.basename(self.stack)}, {self.THICKNESS_PX:6d}, {axis:6.2f}, {42.4:8.2f}, {0:5.2f},{0.04:5.2f}, "
                       f"{30000:8.1f}, {0:5.1f}, {6.13:5.2f}, {0.21:7.4f},{1:2d}, {self.pixel_size:5.2f}, 2.7, 300, "
                       f"{self.ALPHA:.1f}, {self.BETA:.1f}\n")

    def _write_ctf(self) -> None:
        """A row for every image, dark ones too: the CTF is fitted before they are taken out."""
        with open(self.out.ctf_text, "w", encoding="utf-8") as file:
            file.write("# Columns: #1 micrograph number; ... #8 - dfHand\n")
            for place in range(self.sections):
                file.write(f"{place + 1:4d}   {30000 + place:8.2f}  {29000 + place:8.2f}  {12:8.2f}  {0:9.4f}  {0.2:8.4f}  "
                           f"{6.5:8.4f}  {self.hand:3d}\n")

    def _write_volumes(self, axis: float) -> None:
        binning, thickness = max(1.0, self.number("-AtBin", 1)), int(self.number("-VolZ", -1))
        if thickness < 0:
            thickness = self.THICKNESS_PX + int(self.number("-ExtZ", 300))
        z = max(100, int(thickness / binning) // 2 * 2)
        x, y = (int(length / binning) // 2 * 2 for length in (self.check.width or 0, self.check.height or 0))
        if abs(math.sin(math.radians(axis))) > 0.707:
            x, y = y, x
        names = aretomo3.InputFiles.of(self.stack)
        pairs = [(names.stack, self.out.volume)]
        if self.number("-SplitSum", 1) != 0:
            pairs += [pair for pair in ((names.even, self.out.even), (names.odd, self.out.odd)) if os.path.exists(pair[0])]
        for stack, volume in pairs:
            write_mrc(volume, (x, y, z) if self.number("-FlipVol", 0) else (x, z, y), self.pixel_size * binning,
                      sum(values_in(stack, check_movie(stack))))


if __name__ == "__main__":
    for variable, folder in install(os.path.abspath(sys.argv[1])).items():
        print(f"export {variable}={folder}")
