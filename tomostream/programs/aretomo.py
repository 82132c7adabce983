# SPDX-License-Identifier: GPL-3.0-or-later
"""AreTomo2 as a command: its arguments, the names of its files, and those files read and written.

Our own program `tomostream-aretomo` takes the same arguments and writes the same files, so that one protocol drives
either. Formats as in the sources of AreTomo2 1.1.3; the `.aln` files of AreTomo 1 and AreTomo3 are read as well.

Conventions. A shift (tx, ty) is in pixels of the raw image, measured from its centre:
`raw = R(rot) aligned + (tx, ty)`, with R the counter-clockwise rotation by the tilt axis angle and the centre at
(n - 1) / 2 in 0-based pixel indices (IMOD's convention: n / 2 where the first pixel's centre is at 0.5). Sections are
0-based unless said otherwise.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "AlnError",
    "AlnFile",
    "AlnRow",
    "AngleRow",
    "AretomoRequest",
    "CtfRow",
    "DarkFrame",
    "LocalShift",
    "OutputFiles",
    "Quality",
    "TiltQuality",
    "aretomo_arguments",
    "ctf_sections",
    "format_aln",
    "format_angles",
    "format_ctf",
    "format_imod_defocus",
    "format_quality",
    "format_xf",
    "name_problem",
    "parse_aln",
    "parse_angles",
    "parse_ctf",
    "parse_quality",
    "parse_xf",
    "raw_sections",
    "row_from_xf",
    "xf_of_row",
]

Xf = tuple[float, float, float, float, float, float]
IDENTITY_XF: Xf = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
CTF_HEADER = (
    "# Columns: #1 micrograph number; #2 - defocus 1 [A]; #3 - defocus 2; #4 - azimuth of astigmatism; "
    "#5 - additional phase shift [radian]; #6 - cross correlation; "
    "#7 - spacing (in Angstroms) up to which CTF rings were fit successfully"
)
_ALN_COLUMNS = "# SEC     ROT         GMAG       TX          TY      SMEAN     SFIT    SCALE     BASE     TILT"
# longest path that AreTomo2's fixed buffers hold
_MAX_PATH = 255


class AlnError(ValueError):
    """A file of the program, or what it was asked, makes no sense. The message names the line and what is wrong."""


# ---------------------------------------------------------------------------------------------------- names of files
@dataclass(frozen=True)
class OutputFiles:
    """Every file that a run can leave, by name. `<In>` is the input's name without folder and last extension."""

    volume: str
    aln: str
    ctf_text: str
    ctf_spectra: str
    proj_xy: str
    proj_xz: str
    imod_folder: str
    quality: str

    @classmethod
    def of(cls, in_mrc: str, out_mrc: str) -> OutputFiles:
        """Names of the outputs of `-InMrc in_mrc -OutMrc out_mrc`: all in the folder of `out_mrc`."""
        folder = os.path.dirname(out_mrc)
        stem = os.path.join(folder, os.path.splitext(os.path.basename(in_mrc))[0])
        out_stem = os.path.splitext(out_mrc)[0]
        return cls(
            volume=out_mrc,
            aln=stem + ".aln",
            ctf_text=stem + "_ctf.txt",
            ctf_spectra=stem + "_ctf.mrc",
            proj_xy=out_stem + "_projXY.mrc",
            proj_xz=out_stem + "_projXZ.mrc",
            imod_folder=stem + "_Imod",
            quality=stem + "_quality.json",
        )

    def imod(self, suffix: str) -> str:
        """A file of the IMOD folder: `imod("_st.tlt")` is `<In>_Imod/<In>_st.tlt`; a `.com` file keeps its own name."""
        if suffix.endswith(".com"):
            return os.path.join(self.imod_folder, suffix)
        return os.path.join(self.imod_folder, os.path.basename(self.imod_folder)[: -len("_Imod")] + suffix)


def name_problem(in_mrc: str, out_mrc: str) -> str:
    """Why AreTomo2 would misplace the files of these names, in words; "" when it would not.

    It cuts the path of the `.aln` at the first `.mrc` anywhere in it, folders included, and its buffers hold 255 bytes.
    """
    stem = os.path.splitext(os.path.basename(in_mrc))[0]
    if ".mrc" in os.path.join(os.path.dirname(out_mrc), stem):
        return f"AreTomo2 cuts its .aln path at the first '.mrc': rename the folder or series in {out_mrc}"
    longest = max((in_mrc, out_mrc, OutputFiles.of(in_mrc, out_mrc).imod("_st_order_list.csv")), key=len)
    if len(os.fsencode(longest)) > _MAX_PATH:
        return f"AreTomo2 holds paths of at most {_MAX_PATH} characters; this has {len(longest)}: {longest}"
    return ""


# ------------------------------------------------------------------------------------------------------- arguments
@dataclass(frozen=True)
class AretomoRequest:
    """What is asked of AreTomo2. Lengths in pixels of the input unless named otherwise; None = leave the flag out.

    `tilt_axis` in degrees; an axis known to be 0 is passed as 0.01, because 0 asks for a full search (`search_axis`).
    `refine_axis`: -1 no, 0 one axis for the series, 1 an axis for each tilt. `tilt_cor`: -1 off, 0 measured for the
    alignment only, 1 applied to the reconstruction too. `vol_z` 0 writes the aligned stack. `dose_e_A2` per tilt.
    `ext_phase_deg`: guess and search range of a phase plate's phase shift.
    """

    in_mrc: str
    out_mrc: str
    ang_file: str | None = None
    aln_file: str | None = None
    align: bool = True
    align_z: int | None = None
    vol_z: int = 1200
    out_bin: float = 1.0
    tilt_axis: float | None = None
    search_axis: bool = False
    refine_axis: int = 0
    tilt_cor: int = 0
    tilt_offset: float | None = None
    wbp: bool = False
    sart: tuple[int, int] = (15, 5)
    dark_tol: float | None = None
    pixel_size_A: float | None = None
    voltage_kV: float | None = None
    cs_mm: float | None = None
    amplitude_contrast: float | None = None
    ext_phase_deg: tuple[float, float] | None = None
    dose_e_A2: float | None = None
    flip_vol: bool = True
    flip_int: bool = False
    out_imod: int = 0
    patch: tuple[int, int] | None = None
    roi_file: str | None = None
    gpu: str | None = None
    extra: tuple[str, ...] = ()


def _axis_arguments(request: AretomoRequest) -> list[str]:
    if request.search_axis:
        return ["-TiltAxis", "0", str(max(request.refine_axis, 0))]
    if request.tilt_axis is None:
        return []
    axis = 0.01 if request.tilt_axis == 0 else request.tilt_axis
    return ["-TiltAxis", f"{axis:g}", str(request.refine_axis)]


def _optional_arguments(request: AretomoRequest) -> list[str]:
    pairs: list[tuple[str, Any]] = [
        ("-DarkTol", request.dark_tol),
        ("-PixSize", request.pixel_size_A),
        ("-Kv", request.voltage_kV),
        ("-Cs", request.cs_mm),
        ("-AmpContrast", request.amplitude_contrast),
        ("-ImgDose", request.dose_e_A2),
        ("-RoiFile", request.roi_file),
        ("-Gpu", request.gpu),
    ]
    out = [word for flag, value in pairs if value is not None for word in (flag, _word(value))]
    if request.ext_phase_deg is not None:
        out += ["-ExtPhase", *(_word(v) for v in request.ext_phase_deg)]
    if request.patch is not None:
        out += ["-Patch", *(_word(v) for v in request.patch)]
    return out


def _word(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def aretomo_arguments(request: AretomoRequest) -> list[str]:
    """The arguments of AreTomo2 or `tomostream-aretomo` for `request`, one word an item.

    Raises
    ------
    AlnError
        Where neither an angle file nor an alignment file is given.
    """
    if request.ang_file is None and request.aln_file is None:
        raise AlnError(f"{request.in_mrc}: AreTomo2 needs an angle file or an alignment file")
    out = ["-InMrc", request.in_mrc, "-OutMrc", request.out_mrc]
    if request.aln_file is not None:
        out += ["-AlnFile", request.aln_file, "-Align", "0"]
    else:
        out += ["-AngFile", str(request.ang_file), "-Align", "1" if request.align else "0"]
        if request.align_z is not None:
            out += ["-AlignZ", str(request.align_z)]
        out += _axis_arguments(request)
        out += ["-TiltCor", str(request.tilt_cor)]
        out += [] if request.tilt_offset is None else [_word(request.tilt_offset)]
    out += ["-VolZ", str(request.vol_z), "-OutBin", _word(request.out_bin)]
    if request.vol_z > 0:
        out += ["-Wbp", "1"] if request.wbp else ["-Sart", str(request.sart[0]), str(request.sart[1])]
    out += ["-FlipVol", str(int(request.flip_vol)), "-FlipInt", str(int(request.flip_int))]
    out += ["-OutImod", str(request.out_imod)]
    return [*out, *_optional_arguments(request), *request.extra]


# ------------------------------------------------------------------------------------------------------ angle files
@dataclass(frozen=True)
class AngleRow:
    """One line of an angle file: tilt (degrees), acquisition order (1 for the first), dose before it (e/A2)."""

    tilt_deg: float
    order: int | None = None
    pre_exposure: float | None = None


def format_angles(rows: Sequence[AngleRow]) -> str:
    """Angle file: angle, order, pre-exposure. AreTomo2 reads two columns; ours reads the third as well."""
    lines = []
    for row in rows:
        line = f"{row.tilt_deg:9.3f}"
        if row.order is not None:
            line += f" {row.order:5d}"
            line += "" if row.pre_exposure is None else f" {row.pre_exposure:10.4f}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def parse_angles(text: str, source: str = "angle file") -> tuple[AngleRow, ...]:
    """Read an angle file; `#` starts a comment.

    A second column of whole, distinct numbers is the acquisition order (made 1-based); any other second column is taken
    for the accumulated dose that Scipion writes there, of which only the ranking is used: it gives the order.

    Raises
    ------
    AlnError
        Where a value is not a finite number, lines differ in their columns, or there is no angle.
    """
    table = [_numbers(line.split("#")[0], source, number) for number, line in enumerate(text.splitlines(), start=1)]
    table = [row for row in table if row]
    if not table:
        raise AlnError(f"{source} holds no tilt angle")
    columns = min(len(row) for row in table)
    if max(len(row) for row in table) != columns:
        raise AlnError(f"{source}: some lines have {columns} columns and others more; each tilt needs the same columns")
    if any(abs(row[0]) >= 90 for row in table):
        raise AlnError(f"{source}: a tilt angle of 90 degrees or more; column 1 must be the tilt angle in degrees")
    orders = _orders([row[1] for row in table]) if columns > 1 else [None] * len(table)
    doses = [row[2] if columns > 2 else None for row in table]
    return tuple(AngleRow(row[0], order, dose) for row, order, dose in zip(table, orders, doses, strict=True))


def _orders(values: list[float]) -> list[int | None]:
    if all(v == int(v) for v in values) and len(set(values)) == len(values):
        first = int(min(values))
        return [int(v) - first + 1 for v in values]
    if len(set(values)) != len(values):
        return [None] * len(values)
    rank = {value: place for place, value in enumerate(sorted(values), start=1)}
    return [rank[v] for v in values]


def _numbers(line: str, source: str, number: int) -> list[float]:
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        raise AlnError(f"{source}, line {number}: {line.strip()[:60]!r} is not numbers") from None
    if not all(math.isfinite(v) for v in values):
        raise AlnError(f"{source}, line {number}: {line.strip()[:60]!r} holds a value that is not finite")
    return values


# --------------------------------------------------------------------------------------------------------- .aln file
@dataclass(frozen=True)
class AlnRow:
    """One aligned tilt. `section` is as the file numbers it (see `raw_sections`); angles in degrees, shifts in px."""

    section: int
    rot_deg: float
    tx: float
    ty: float
    tilt_deg: float
    mag: float = 1.0


@dataclass(frozen=True)
class DarkFrame:
    """A tilt left out: `frame` in the stack sorted by tilt, `section` in the input, as the file numbers them."""

    frame: int
    section: int
    tilt_deg: float


@dataclass(frozen=True)
class LocalShift:
    """Local alignment of one patch in one row: position and shift in px of the raw image, from its centre."""

    row: int
    patch: int
    x: float
    y: float
    dx: float
    dy: float
    good: float


@dataclass(frozen=True)
class AlnFile:
    """A `.aln` file. `raw_size` is (x, y, sections); offsets in degrees and thickness in px are AreTomo3's."""

    rows: tuple[AlnRow, ...]
    dark: tuple[DarkFrame, ...] = ()
    raw_size: tuple[int, int, int] | None = None
    patches: int = 0
    local: tuple[LocalShift, ...] = ()
    alpha_offset: float | None = None
    beta_offset: float | None = None
    thickness: float | None = None


def format_aln(aln: AlnFile) -> str:
    """AreTomo2's `.aln` text. Without `raw_size` the older header of AreTomo 1 is written."""
    lines = ["# AreTomo Alignment / Priims bprmMn "]
    if aln.raw_size is None:
        lines.append(f"# {len(aln.rows)}  {aln.patches}")
    else:
        lines += ["# RawSize = {} {} {}".format(*aln.raw_size), f"# NumPatches = {aln.patches}"]
    lines += [f"# DarkFrame =  {d.frame:4d} {d.section:4d} {d.tilt_deg:8.2f}" for d in aln.dark]
    lines.append(_ALN_COLUMNS)
    lines += [
        f"{r.section:5d}  {r.rot_deg:9.4f}  {r.mag:9.5f}  {r.tx:9.3f}  {r.ty:9.3f}  {1:7.2f}  {1:7.2f}  {1:7.2f}"
        f"  {0:7.2f}  {r.tilt_deg:8.2f}"
        for r in aln.rows
    ]
    if aln.local:
        lines.append("# Local Alignment")
        lines += [
            f"{s.row:4d} {s.patch:3d} {s.x:8.2f}  {s.y:8.2f}  {s.dx:8.2f}  {s.dy:8.2f}  {s.good:4.1f}"
            for s in aln.local
        ]
    return "\n".join(lines) + "\n"


@dataclass
class _AlnHeader:
    raw_size: tuple[int, int, int] | None = None
    patches: int = 0
    dark: list[DarkFrame] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)


def parse_aln(text: str, source: str = "alignment file") -> AlnFile:
    """Read a `.aln` of AreTomo, AreTomo2, AreTomo3, Scipion or ours.

    Raises
    ------
    AlnError
        Where a line is malformed or there is no aligned tilt. The message names the line.
    """
    header, rows, local, in_local = _AlnHeader(), [], [], False
    for number, raw_line in enumerate(text.splitlines(), start=1):
        line = raw_line.strip()
        if line.startswith("#"):
            in_local = in_local or line[1:].strip().lower().startswith("local alignment")
            _read_header_line(line[1:].strip(), header, f"{source}, line {number}")
        elif line and in_local:
            local.append(_local_shift(_numbers(line, source, number), f"{source}, line {number}"))
        elif line:
            rows.append(_aln_row(_numbers(line, source, number), f"{source}, line {number}"))
    if not rows:
        raise AlnError(f"{source} holds no aligned tilt: it is not an AreTomo alignment, or it was cut short")
    return AlnFile(
        rows=tuple(rows),
        dark=tuple(header.dark),
        raw_size=header.raw_size,
        patches=header.patches,
        local=tuple(local),
        alpha_offset=header.numbers.get("alphaoffset"),
        beta_offset=header.numbers.get("betaoffset"),
        thickness=header.numbers.get("thickness"),
    )


def _read_header_line(body: str, header: _AlnHeader, where: str) -> None:
    if "=" not in body:
        return
    name, _, value = body.partition("=")
    name = name.strip().lower()
    if name not in ("rawsize", "numpatches", "darkframe", "alphaoffset", "betaoffset", "thickness"):
        return
    try:
        values = [float(word) for word in value.split()]
    except ValueError:
        raise AlnError(f"{where}: {body!r} should hold numbers after '='") from None
    wanted = {"rawsize": 3, "darkframe": 3}.get(name, 1)
    if len(values) < wanted:
        raise AlnError(f"{where}: {body!r} should hold {wanted} number(s) after '='")
    if name == "rawsize":
        header.raw_size = (int(values[0]), int(values[1]), int(values[2]))
    elif name == "darkframe":
        header.dark.append(DarkFrame(int(values[0]), int(values[1]), values[2]))
    elif name == "numpatches":
        header.patches = int(values[0])
    else:
        header.numbers[name] = values[0]


def _aln_row(values: list[float], where: str) -> AlnRow:
    if len(values) < 10:
        raise AlnError(f"{where}: an aligned tilt has 10 columns (SEC ROT GMAG TX TY ... TILT), this has {len(values)}")
    return AlnRow(int(values[0]), values[1], values[3], values[4], values[9], values[2])


def _local_shift(values: list[float], where: str) -> LocalShift:
    if len(values) < 6:
        raise AlnError(f"{where}: a local shift has 6 or 7 columns, this has {len(values)}")
    good = values[6] if len(values) > 6 else 1.0
    return LocalShift(int(values[0]), int(values[1]), values[2], values[3], values[4], values[5], good)


def raw_sections(aln: AlnFile, sections: int | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """0-based section of the input stack of every row and of every dark frame.

    AreTomo and AreTomo2 count sections from 0 and name the input's section; AreTomo3 counts from 0 or 1, and some of
    its versions count only the tilts that were kept. Which one a file uses follows from the numbers it must cover.

    Parameters
    ----------
    aln : AlnFile
    sections : int, optional
        Number of sections of the input, where it is known; else the file's own RawSize, else its rows and dark frames.

    Raises
    ------
    AlnError
        Where the numbers fit no reading (a section that the stack does not have, a section twice).
    """
    total = sections or (aln.raw_size[2] if aln.raw_size else len(aln.rows) + len(aln.dark))
    rows = [r.section for r in aln.rows]
    if len(set(rows)) != len(rows):
        raise AlnError("the alignment names a section twice")
    dark = _dark_numbers(aln)
    if set(rows) & set(dark):
        return _renumbered(rows, dark, total)
    base = _base(rows, dark, total)
    found = [n - base for n in rows]
    if min(found) < 0 or max(found) >= total:
        raise AlnError(f"the alignment names section {max(rows)}, but the stack has {total} sections")
    return tuple(found), tuple(n - base for n in dark)


def _dark_numbers(aln: AlnFile) -> list[int]:
    # some AreTomo3 versions leave 0 in the section column: then only the frame column tells the dark tilts apart
    numbers = [d.section for d in aln.dark]
    return numbers if len(set(numbers)) == len(numbers) else [d.frame for d in aln.dark]


def _base(rows: list[int], dark: list[int], total: int) -> int:
    """First section number of the file: 1 where every number lies in 1..total and one of them proves it."""
    named = set(rows) | set(dark)
    if 0 in named:
        return 0
    return 1 if total in named or named == set(range(1, total + 1)) else 0


def _renumbered(rows: list[int], dark: list[int], total: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows numbered among the kept tilts alone (AreTomo3): the k-th kept tilt is the k-th section that is not dark."""
    if len(rows) + len(dark) != total:
        raise AlnError(
            "rows and dark frames of the alignment name the same section, and together they are "
            f"{len(rows) + len(dark)} where the stack has {total}: which tilt is which cannot be told"
        )
    dark_base = 1 if total in dark and 0 not in dark else 0
    kept = [n for n in range(total) if n + dark_base not in set(dark)]
    place = {number: k for k, number in enumerate(sorted(rows))}
    return tuple(kept[place[n]] for n in rows), tuple(n - dark_base for n in dark)


# ---------------------------------------------------------------------------------------------------------- .xf file
def xf_of_row(rot_deg: float, tx: float, ty: float) -> Xf:
    """IMOD's transform of a raw image to the aligned one, (a11, a12, a21, a22, dx, dy): the inverse of the shift sense.

    `aligned = R(-rot) (raw - (tx, ty))`, both from the image centre.
    """
    c, s = math.cos(math.radians(rot_deg)), math.sin(math.radians(rot_deg))
    return (c, s, -s, c, -(c * tx + s * ty), s * tx - c * ty)


def row_from_xf(xf: Xf) -> tuple[float, float, float]:
    """(rot in degrees, tx, ty) of IMOD's transform; the inverse of `xf_of_row` (a stretch in it is not kept)."""
    a11, a12, a21, a22, dx, dy = xf
    rot = math.atan2(a12 - a21, a11 + a22)
    c, s = math.cos(rot), math.sin(rot)
    return math.degrees(rot), -(c * dx - s * dy), -(s * dx + c * dy)


def format_xf(transforms: Sequence[Xf]) -> str:
    """IMOD `.xf` text, one line a section, to seven decimals (AreTomo2 has three)."""
    return "".join("{:12.7f}{:12.7f}{:12.7f}{:12.7f}{:12.3f}{:12.3f}\n".format(*xf) for xf in transforms)


def parse_xf(text: str, source: str = ".xf file") -> tuple[Xf, ...]:
    """Read an IMOD `.xf` file. Raises AlnError where a line does not hold six numbers."""
    table = [_numbers(line, source, number) for number, line in enumerate(text.splitlines(), start=1)]
    rows = [row for row in table if row]
    for number, row in enumerate(rows, start=1):
        if len(row) != 6:
            raise AlnError(f"{source}: transform {number} has {len(row)} numbers where six are needed")
    return tuple((r[0], r[1], r[2], r[3], r[4], r[5]) for r in rows)


# --------------------------------------------------------------------------------------------------------------- CTF
@dataclass(frozen=True)
class CtfRow:
    """CTF of one tilt, in the order of the `.aln` rows: defoci in A (underfocus positive), azimuth in degrees."""

    number: int
    defocus_max_A: float
    defocus_min_A: float
    azimuth_deg: float
    phase_rad: float
    score: float
    resolution_A: float


def format_ctf(rows: Sequence[CtfRow]) -> str:
    """AreTomo2's `_ctf.txt`."""
    lines = [CTF_HEADER]
    lines += [
        f"{r.number:4d}   {r.defocus_max_A:8.2f}  {r.defocus_min_A:8.2f}  {r.azimuth_deg:8.2f}  {r.phase_rad:8.2f}"
        f"  {r.score:8.4f}  {r.resolution_A:8.4f}"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def format_imod_defocus(rows: Sequence[CtfRow], views: Sequence[int], tilts_deg: Sequence[float]) -> str:
    """IMOD's defocus file (version 3, astigmatism, phase shifts where there are any), one line a view.

    `views` are numbered from 1 in the stack that it goes with. Defoci in nm, the larger first, then its azimuth in
    degrees. (AreTomo2 writes the smaller first with the azimuth of the larger; readers take it for that of the first.)
    """
    shifted = any(row.phase_rad for row in rows)
    lines = [f"{5 if shifted else 1}  0  0.0  0.0  0.0  3"]
    for row, view, tilt in zip(rows, views, tilts_deg, strict=True):
        line = f"{view:4d}  {view:4d}  {tilt:7.2f}  {tilt:7.2f}  {row.defocus_max_A / 10:8.2f}  {row.defocus_min_A / 10:8.2f}"
        line += f"  {row.azimuth_deg:7.2f}"
        lines.append(line + (f"  {math.degrees(row.phase_rad):8.2f}" if shifted else ""))
    return "\n".join(lines) + "\n"


def parse_ctf(text: str, source: str = "CTF file") -> tuple[CtfRow, ...]:
    """Read AreTomo's `_ctf.txt`: seven columns, newer versions add more, which are left aside."""
    table = [_numbers(line.split("#")[0], source, number) for number, line in enumerate(text.splitlines(), start=1)]
    rows = [row for row in table if row]
    for row in rows:
        if len(row) < 7:
            raise AlnError(f"{source}: a line has {len(row)} columns where seven are needed")
    return tuple(CtfRow(int(r[0]), r[1], r[2], r[3], r[4], r[5], r[6]) for r in rows)


def ctf_sections(rows: int, aligned: Sequence[int], total: int) -> tuple[int, ...]:
    """0-based section of every row of a CTF file of `rows` rows; () where the file does not fit the alignment.

    The rows are those of the `.aln` (`aligned`, from `raw_sections`). With -OutImod 1 AreTomo2 fits before it takes out
    the dark tilts: then each of the `total` sections, which must lie in the stack in the order of their angles, has a row.
    """
    if rows == len(aligned):
        return tuple(aligned)
    return tuple(range(total)) if rows == total else ()


# ----------------------------------------------------------------------------------------------------------- quality
@dataclass(frozen=True)
class TiltQuality:
    """One section of the input: used or not and why; `sigma_px` is the standard deviation of its shift (raw px),
    `residual_px` how far from its place it fits best to what the other tilts let expect."""

    section: int
    tilt_deg: float
    used: bool
    reason: str = ""
    sigma_px: float | None = None
    residual_px: float | None = None


@dataclass(frozen=True)
class LocalQuality:
    """Local motion, where it was asked for: with how many `patches` (along x, y) it was measured, its RMS in raw px, whether it
    is in the alignment (no: it does not stand out of the noise), and that in words."""

    patches: tuple[int, int]
    rms_px: float
    applied: bool
    note: str


@dataclass(frozen=True)
class Quality:
    """What is known of an alignment beyond AreTomo2's own files. None = not known.

    `defocus_hand` 1: at positive tilts the defocus grows towards +x across the tilt axis, so +z of the tomogram points to
    the electron source; -1: it falls; 0: it could not be told.
    """

    tilts: tuple[TiltQuality, ...] = ()
    tilt_axis_deg: float | None = None
    tilt_offset_deg: float | None = None
    thickness_A: float | None = None
    quality: float | None = None
    quality_note: str = ""
    ctf_note: str = ""
    program: str = ""
    defocus_hand: int | None = None
    local: LocalQuality | None = None


def format_quality(quality: Quality) -> str:
    """`<In>_quality.json`: valid JSON; what is not known (or not finite) is null."""
    document: dict[str, Any] = {
        "program": quality.program,
        "tilt_axis_deg": _finite(quality.tilt_axis_deg),
        "tilt_offset_deg": _finite(quality.tilt_offset_deg),
        "thickness_A": _finite(quality.thickness_A),
        "quality": _finite(quality.quality),
        "quality_note": quality.quality_note,
        "ctf_note": quality.ctf_note,
        "defocus_hand": quality.defocus_hand,
        "tilts": [
            {
                "section": t.section,
                "tilt_deg": _finite(t.tilt_deg),
                "used": t.used,
                "reason": t.reason,
                "sigma_px": _finite(t.sigma_px),
                "residual_px": _finite(t.residual_px),
            }
            for t in quality.tilts
        ],
    }
    if quality.local is not None:
        local = quality.local
        document["local"] = {
            "patches": list(local.patches), "rms_px": _finite(local.rms_px), "applied": local.applied, "note": local.note}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _finite(value: float | None) -> float | None:
    return round(float(value), 6) if value is not None and math.isfinite(value) else None


def parse_quality(text: str, source: str = "quality file") -> Quality:
    """Read `<In>_quality.json`; unknown keys are left aside. Raises AlnError where it is not such a file."""
    try:
        document = json.loads(text)
        tilts = tuple(
            TiltQuality(
                section=int(t["section"]),
                tilt_deg=float(t["tilt_deg"]),
                used=bool(t["used"]),
                reason=str(t.get("reason", "")),
                sigma_px=t.get("sigma_px"),
                residual_px=t.get("residual_px"),
            )
            for t in document.get("tilts", [])
        )
        local = document.get("local")
        if local is not None:
            across, down = local["patches"]
            local = LocalQuality((int(across), int(down)), float(local["rms_px"]), bool(local["applied"]), str(local["note"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AlnError(f"{source} is not a quality file: {error}") from None
    return Quality(
        tilts=tilts,
        tilt_axis_deg=document.get("tilt_axis_deg"),
        tilt_offset_deg=document.get("tilt_offset_deg"),
        thickness_A=document.get("thickness_A"),
        quality=document.get("quality"),
        quality_note=str(document.get("quality_note", "")),
        ctf_note=str(document.get("ctf_note", "")),
        program=str(document.get("program", "")),
        defocus_hand=document.get("defocus_hand"),
        local=local,
    )
