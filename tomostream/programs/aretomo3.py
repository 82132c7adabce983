# SPDX-License-Identifier: GPL-3.0-or-later
"""AreTomo3 as a command: its arguments, the names of its files, and those files read and written.

As in its source, version 2.3.1. Its flags differ from AreTomo2's, it finds its inputs by their names, makes the halves in the
same run, and exits with 0 whatever happened. `docs/programs.rst` has the whole contract.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tomostream.programs.aln import AngleRow

#: A series with fewer images is silently ignored; with a CTF, fewer crash it.
MIN_TILTS, MIN_TILTS_WITH_CTF = 6, 7
#: It makes no thinner volume, in binned slices.
MIN_SLICES = 100
#: It makes no local alignment with fewer patches in total.
MIN_PATCHES = 4
#: Unbinned slices that it adds to the measured thickness (-ExtZ) if it chooses the height of the volume itself.
EXTRA_Z = 300
#: The value for the height of the volume that leaves the choice to the program.
MEASURED_THICKNESS = -1
#: Bytes of an absolute path that its buffers hold, including quotes and comma of its session file.
_MAX_PATH = 250
#: The longest suffix that it appends to the name of a series in its folder, or writes there.
_LONGEST_ENDING = "_CTF_Imod.txt"
#: Binning of an unwanted volume: there is no way to ask for none.
_UNWANTED_BINNING = "8"
_VERSION = re.compile(r"\d+(?:\.\d+)+")


# ---------------------------------------------------------------------------------------------------- names of files
@dataclass(frozen=True)
class InputFiles:
    """Where AreTomo3 looks for the files that belong to a stack: beside it, under its name."""

    stack: str
    even: str
    odd: str
    tilts: str
    aln: str

    @classmethod
    def of(cls, stack: str) -> InputFiles:
        """Return the files beside `stack`."""
        stem, extension = os.path.splitext(stack)
        return cls(stack, f"{stem}_EVN{extension}", f"{stem}_ODD{extension}", f"{stem}_TLT.txt", f"{stem}.aln")


@dataclass(frozen=True)
class OutputFiles:
    """Every file that a run with `-Cmd 1` leaves in its folder."""

    volume: str
    even: str
    odd: str
    aln: str
    ctf_text: str
    ctf_spectra: str
    metrics: str
    session: str
    done: str

    @classmethod
    def of(cls, stack: str, folder: str) -> OutputFiles:
        """Return the names of the outputs of `-InPrefix stack -OutDir folder/`."""
        stem = os.path.join(folder, os.path.splitext(os.path.basename(stack))[0])
        return cls(
            volume=f"{stem}_Vol.mrc", even=f"{stem}_EVN_Vol.mrc", odd=f"{stem}_ODD_Vol.mrc", aln=f"{stem}.aln",
            ctf_text=f"{stem}_CTF.txt", ctf_spectra=f"{stem}_CTF.mrc",
            metrics=os.path.join(folder, "TiltSeries_Metrics.csv"), session=os.path.join(folder, "AreTomo3_Session.json"),
            done=os.path.join(folder, "MdocDone.txt"))


def name_problem(stack: str, folder: str) -> str:
    """Return why AreTomo3's buffers would not hold the names of its files, in words; "" if they would.

    It completes relative paths in buffers of 256 bytes.
    """
    stem = os.path.splitext(os.path.basename(stack))[0]
    paths = (InputFiles.of(stack).tilts, os.path.join(folder, stem + _LONGEST_ENDING), OutputFiles.of(stack, folder).session)
    longest = max(map(os.path.abspath, paths), key=lambda path: len(os.fsencode(path)))
    length = len(os.fsencode(longest))
    if length <= _MAX_PATH:
        return ""
    return f"AreTomo3 holds paths of at most {_MAX_PATH} bytes; this has {length}, move the project to a shorter path: {longest}"


# -------------------------------------------------------------------------------------------------------- arguments
#: AreTomo2's flags that AreTomo3 has under another name, and those that it lacks or that its files replace.
_RENAMED = {"-OutBin": "-AtBin", "-Patch": "-AtPatch", "-Kv": "-kV"}
_LEFT_OUT = frozenset({"-InMrc", "-OutMrc", "-AngFile", "-AlnFile", "-Align", "-OutImod", "-ImgDose", "-Roi", "-RoiFile"})


@dataclass(frozen=True)
class Wanted:
    """What is requested of AreTomo3 beyond the flags that it shares with AreTomo2.

    `align` False: the alignment beside the stack is used. `volume` False: only the alignment is needed. `ctf`: whether the
    CTF is fitted, `correct_ctf`: whether the volumes are corrected for it.
    """

    align: bool = True
    volume: bool = True
    halves: bool = False
    ctf: bool = True
    correct_ctf: bool = True


def arguments(flags: Mapping[str, Sequence[str]], stack: str, folder: str, wanted: Wanted) -> dict[str, list[str]]:
    """Return AreTomo3's flags for what AreTomo2's `flags` request, without those of the threads."""
    out: dict[str, list[str]] = {
        "-InPrefix": [stack], "-OutDir": [os.path.join(folder, "")], "-Cmd": ["1" if wanted.align else "2"], "-Serial": ["0"]}
    for flag, values in flags.items():
        if flag not in _LEFT_OUT:
            out[_RENAMED.get(flag, flag)] = list(values)
    if "-DarkTol" in out:
        out["-DarkTol"] = [dark_tolerance(float(out["-DarkTol"][0]))]
    if "-TiltCor" in out:       # anything but 0 is on, even -1; without a CTF the offset is uninitialised memory
        correct = float(out["-TiltCor"][0]) > 0 and (wanted.ctf or len(out["-TiltCor"]) > 1)
        out["-TiltCor"] = ["1", *out["-TiltCor"][1:]] if correct else ["0"]
    if "-AtPatch" in out and math.prod(int(value) for value in out["-AtPatch"]) < MIN_PATCHES:
        del out["-AtPatch"]
    if not wanted.ctf or not wanted.align:
        out["-Cs"] = ["0"]      # its default is 2.7 mm
    if not wanted.volume:
        out |= {"-AtBin": [_UNWANTED_BINNING], "-VolZ": ["0"], "-Wbp": ["1"]}
    out["-SplitSum"] = [str(int(wanted.halves))]
    out["-CorrCTF"] = [str(int(wanted.correct_ctf and wanted.ctf and wanted.align))]
    return out


def dark_tolerance(value: float) -> str:
    """Return -DarkTol for AreTomo3, which takes 1 literally and leaves out half of the tilts: 1 is off, as in AreTomo2."""
    return f"{value:g}" if 0 < value < 1 else "0"


def slices(thickness: int, binning: float) -> int:
    """Return the number of slices of a volume of `thickness` unbinned px."""
    return max(MIN_SLICES, int(thickness / binning) // 2 * 2)


def sides(size: tuple[int, int], binning: float) -> tuple[int, int]:
    """Return the sides (x, y) of a volume from images of this size: halves are rounded down, then both sides are made even."""
    x, y = (int(length / binning) // 2 * 2 for length in size)
    return x, y


def format_tilts(rows: Iterable[AngleRow], dose: float | None) -> str:
    """Return `_TLT.txt`: angle (degrees), acquisition order, dose of that image (e/A2) if both are known."""
    lines = []
    for row in rows:
        line = f"{row.tilt_deg:8.2f}"
        if row.order is not None:
            line += f"  {row.order:4d}" + ("" if dose is None else f"  {dose:8.2f}")
        lines.append(line)
    return "\n".join(lines) + "\n"


# ----------------------------------------------------------------------------------------------------- what it wrote
@dataclass(frozen=True)
class Metrics:
    """A line of `TiltSeries_Metrics.csv`. Lengths in the unit of the name, angles in degrees; None is unknown.

    `bad_patches`: share of the local shifts that it left out, over all tilts. `ctf_resolution_A`, `ctf_score` are those of the
    tilt nearest to 0. `tilt_offset_deg`, `beta_offset_deg`: of the specimen against the stage, from the CTF.
    """

    thickness_px: float | None = None
    tilt_axis_deg: float | None = None
    largest_shift_px: float | None = None
    bad_patches: float | None = None
    ctf_resolution_A: float | None = None
    ctf_score: float | None = None
    tilt_offset_deg: float | None = None
    beta_offset_deg: float | None = None


_COLUMNS = {"thickness_px": "Thickness(Pix)", "tilt_axis_deg": "Tilt_Axis", "largest_shift_px": "Global_Shift(Pix)",
            "bad_patches": "Bad_Patch_All", "ctf_resolution_A": "CTF_Res(A)", "ctf_score": "CTF_Score",
            "tilt_offset_deg": "Alpha0", "beta_offset_deg": "Beta0"}


def parse_metrics(text: str, source: str = "metrics") -> Metrics:
    """Return the last line of `TiltSeries_Metrics.csv`; what is missing or not a number is None."""
    lines = [line.split(",") for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        return Metrics()
    found = dict(zip((name.strip() for name in lines[0]), lines[-1], strict=False))
    return Metrics(**{field: _finite(found.get(column, "")) for field, column in _COLUMNS.items()})


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def parse_version(text: str, source: str = "session") -> str:
    """Return the version in `AreTomo3_Session.json`, "" if there is none."""
    try:
        text = str(json.loads(text)["software"]["version"])
    except (ValueError, KeyError, TypeError):
        return ""
    version = _VERSION.search(text)
    return version[0] if version else ""


def parse_defocus_hand(text: str, source: str = "CTF file") -> int | None:
    """Return the eighth column of `_CTF.txt`: -1 if the defocus says that the tilt axis points the opposite way to that
    given."""
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if len(words) >= 8 and words[7] in ("1", "-1"):
            return int(words[7])
    return None
