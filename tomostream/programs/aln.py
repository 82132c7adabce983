# SPDX-License-Identifier: GPL-3.0-or-later
"""Alignments as the programs write them: angle files, `.aln`, and IMOD's `.xf`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import pairwise

Xf = tuple[float, float, float, float, float, float]
IDENTITY_XF: Xf = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
_ALN_COLUMNS = "# SEC     ROT         GMAG       TX          TY      SMEAN     SFIT    SCALE     BASE     TILT"


class AlnError(ValueError):
    """A file of the program, or a request, is invalid. The message names the line and what is wrong."""


MAX_ROUNDING_PX = 2
"""Both sides of a binned image give the same binning, to within this many of its pixels."""
MIN_SCALING = 0.02
"""Images whose sizes differ by less were cropped, not binned."""
MAX_ORDER_SPAN = 2
"""An acquisition order spans at most this many times the number of tilts that remain of it."""


@dataclass(frozen=True)
class AngleRow:
    """One line of an angle file: tilt (degrees), acquisition order (1 for the first), dose before it (e/A2)."""

    tilt_deg: float
    order: int | None = None
    pre_exposure: float | None = None


def format_angles(rows: Sequence[AngleRow]) -> str:
    """Return an angle file: angle, order, pre-exposure. AreTomo2 reads two columns; ours reads the third as well."""
    lines = []
    for row in rows:
        line = f"{row.tilt_deg:9.3f}"
        if row.order is not None:
            line += f" {row.order:5d}"
            line += "" if row.pre_exposure is None else f" {row.pre_exposure:10.4f}"
        lines.append(line)
    return "\n".join(lines) + "\n"


class SecondColumn(str, Enum):
    """What the second column of an angle file is."""

    NONE = "neither order nor dose"
    ORDER = "the acquisition order"
    DOSE_BEFORE = "the dose before each tilt"
    DOSE_AFTER = "the dose after each tilt"


def second_column(values: Sequence[float]) -> SecondColumn:
    """Tell what the second column of an angle file is, from its spacing and its range relative to the number of tilts.

    An order is whole numbers, each once, without a common divisor (tilts may be missing between them), that span no more
    than twice the number of tilts; whole doses are multiples of one dose. A dose that begins with a whole step or
    more includes the tilt itself, as Scipion writes it. Repeated values are neither.
    """
    ranked = sorted(values)
    if len(ranked) < 2 or len(set(ranked)) != len(ranked) or ranked[0] < 0:
        return SecondColumn.ORDER if len(ranked) == 1 and ranked[0] == int(ranked[0]) else SecondColumn.NONE
    whole = all(value == int(value) for value in ranked)
    if whole and math.gcd(*(int(value) for value in ranked)) == 1 and ranked[-1] - ranked[0] < MAX_ORDER_SPAN * len(ranked):
        return SecondColumn.ORDER
    step = min(after - before for before, after in pairwise(ranked))
    return SecondColumn.DOSE_AFTER if ranked[0] > 0.9 * step else SecondColumn.DOSE_BEFORE


def parse_angle_file(text: str, source: str = "angle file") -> tuple[tuple[AngleRow, ...], SecondColumn]:
    """Read an angle file, and tell what its second column was taken for; `#` starts a comment.

    An order is made 1-based. From doses follow the order, by ranking, and the dose before each tilt if there is no third
    column: if the tilt itself is included, the smallest step, which is the dose of one tilt, is subtracted.

    Raises
    ------
    AlnError
        If a value is not a finite number, lines differ in their columns, or there is no angle.
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
    second = [row[1] for row in table] if columns > 1 else []
    meaning = second_column(second)
    orders, doses = _orders(second, meaning, len(table)), _doses(second, meaning, len(table))
    if columns > 2:
        doses = [row[2] for row in table]
    rows = tuple(AngleRow(row[0], order, dose) for row, order, dose in zip(table, orders, doses, strict=True))
    return rows, meaning


def _orders(values: list[float], meaning: SecondColumn, count: int) -> list[int | None]:
    if meaning is SecondColumn.NONE:
        return [None] * count
    if meaning is SecondColumn.ORDER:
        first = int(min(values))
        return [int(v) - first + 1 for v in values]
    rank = {value: place for place, value in enumerate(sorted(values), start=1)}
    return [rank[v] for v in values]


def _doses(values: list[float], meaning: SecondColumn, count: int) -> list[float | None]:
    """Return the dose before each tilt, e/A2, from a second column of doses."""
    if meaning is SecondColumn.DOSE_BEFORE:
        return list(values)
    if meaning is not SecondColumn.DOSE_AFTER:
        return [None] * count
    ranked = sorted(values)
    step = min(after - before for before, after in pairwise(ranked))
    return [max(0.0, value - step) for value in values]


def _numbers(line: str, source: str, number: int) -> list[float]:
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        raise AlnError(f"{source}, line {number}: {line.strip()[:60]!r} is not numbers") from None
    if not all(math.isfinite(v) for v in values):
        raise AlnError(f"{source}, line {number}: {line.strip()[:60]!r} holds a value that is not finite")
    return values


@dataclass(frozen=True)
class AlnRow:
    """One aligned tilt. `section` as numbered in the file (see `raw_sections`); angles in degrees, shifts in px."""

    section: int
    rot_deg: float
    tx: float
    ty: float
    tilt_deg: float
    mag: float = 1.0


@dataclass(frozen=True)
class DarkFrame:
    """A tilt left out: `frame` in the stack sorted by tilt, `section` in the input, as numbered in the file."""

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
    """Return AreTomo2's `.aln` text. Without `raw_size`, the older header of AreTomo 1 is written."""
    lines = ["# AreTomo Alignment / Priims bprmMn "]
    if aln.raw_size is None:
        lines.append(f"# {len(aln.rows)}  {aln.patches}")
    else:
        lines += ["# RawSize = {} {} {}".format(*aln.raw_size), f"# NumPatches = {aln.patches}"]
    lines += [f"# DarkFrame =  {d.frame:4d} {d.section:4d} {d.tilt_deg:8.2f}" for d in aln.dark]
    if aln.raw_size is not None:        # AreTomo3's: readers want them, AreTomo2 ignores them; the angles are complete
        lines += [f"# AlphaOffset = {aln.alpha_offset or 0.0:8.2f}", f"# BetaOffset = {aln.beta_offset or 0.0:8.2f}"]
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
    """Read a `.aln` of AreTomo, AreTomo2, AreTomo3, Scipion or our own.

    Raises
    ------
    AlnError
        If a line is malformed or there is no aligned tilt. The message names the line.
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
    if not all(math.isfinite(number) for number in values):
        raise AlnError(f"{where}: {body!r} holds a value that is not finite")
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
    """Return the 0-based section in the input stack of every row and of every dark frame.

    AreTomo and AreTomo2 count sections from 0 and refer to the input's sections; AreTomo3 counts from 0 or 1, and some of
    its versions count only the tilts that were kept. Which one a file uses follows from the numbers that it must cover.

    Parameters
    ----------
    aln : AlnFile
    sections : int, optional
        Number of sections of the input, if known; else the file's own RawSize, else its rows and dark frames.

    Raises
    ------
    AlnError
        If the numbers fit no interpretation (a section that the stack does not have, a section twice).
    """
    total = sections or (aln.raw_size[2] if aln.raw_size else len(aln.rows) + len(aln.dark))
    rows = [r.section for r in aln.rows]
    if len(set(rows)) != len(rows):
        raise AlnError("the alignment names a section twice")
    if _column_is_zero(aln, rows, total):
        return _by_frames(rows, [d.frame for d in aln.dark], total)
    dark = [d.section for d in aln.dark]
    if set(rows) & set(dark):
        return _renumbered(rows, dark, total)
    base = _base(rows, dark, total)
    found = [n - base for n in rows]
    if min(found) < 0 or max(found) >= total:
        raise AlnError(f"the alignment names section {max(rows)}, but the stack has {total} sections")
    return tuple(found), tuple(n - base for n in dark)


def _column_is_zero(aln: AlnFile, rows: list[int], total: int) -> bool:
    """Tell whether the file has 0 as the section of every dark frame, as some versions of AreTomo3 write: it is meaningless
    then.

    A single dark frame with section 0 may be meant literally; not if its place in the sorted stack is another, or the rows
    count from 1.
    """
    if not aln.dark or any(d.section != 0 for d in aln.dark):
        return False
    return len(aln.dark) > 1 or aln.dark[0].frame != 0 or total in rows


def _by_frames(rows: list[int], frames: list[int], total: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return rows and dark frames if only the frame column tells which tilts are dark; both columns may count from 0 or 1."""
    for base in (1, 0):
        missing = set(range(total)) - {n - base for n in rows}
        for frame_base in (0, 1):
            if missing == {n - frame_base for n in frames}:
                return tuple(n - base for n in rows), tuple(n - frame_base for n in frames)
    return _renumbered(rows, frames, total)


def _base(rows: list[int], dark: list[int], total: int) -> int:
    """Return the first section number of the file: 1 if every number is in 1..total and one of them proves it."""
    named = set(rows) | set(dark)
    if 0 in named:
        return 0
    return 1 if total in named or named == set(range(1, total + 1)) else 0


def _renumbered(rows: list[int], dark: list[int], total: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return rows numbered among the kept tilts alone (AreTomo3): the k-th kept tilt is the k-th section that is not dark."""
    if len(rows) + len(dark) != total:
        raise AlnError(
            "rows and dark frames of the alignment name the same section, and together they are "
            f"{len(rows) + len(dark)} where the stack has {total}: which tilt is which is unknown"
        )
    dark_base = 1 if total in dark and 0 not in dark else 0
    kept = [n for n in range(total) if n + dark_base not in set(dark)]
    place = {number: k for k, number in enumerate(sorted(rows))}
    return tuple(kept[place[n]] for n in rows), tuple(n - dark_base for n in dark)


def scale_to(aln: AlnFile, size: tuple[int, int, int]) -> float | None:
    """Return the factor by which to scale an alignment for a stack of `size` (x, y, sections): 1 if the sizes are equal, or the
    file gives none; None if it is for other images.

    >>> scale_to(AlnFile((), raw_size=(4092, 5760, 41)), (1023, 1440, 41))
    0.25
    """
    if aln.raw_size is None or aln.raw_size == size:
        return 1.0
    x, y, sections = aln.raw_size
    if min(x, y) < 1 or sections != size[2]:
        return None
    across, along = size[0] / x, size[1] / y
    scale = across if x >= y else along         # the longer side is more accurate, because sizes were rounded
    if abs(across - along) * max(x, y) > MAX_ROUNDING_PX or abs(scale - 1) < MIN_SCALING:
        return None
    return scale


def scaled(aln: AlnFile, scale: float) -> AlnFile:
    """Return an alignment for images with `scale` times the pixels along each side."""
    rows = tuple(replace(row, tx=row.tx * scale, ty=row.ty * scale) for row in aln.rows)
    local = tuple(replace(shift, x=shift.x * scale, y=shift.y * scale, dx=shift.dx * scale, dy=shift.dy * scale)
                  for shift in aln.local)
    return replace(aln, rows=rows, local=local, thickness=None if aln.thickness is None else aln.thickness * scale)


def xf_of_row(rot_deg: float, tx: float, ty: float) -> Xf:
    """Return IMOD's transform of a raw image to the aligned one, (a11, a12, a21, a22, dx, dy): the inverse of the shift sense.

    `aligned = R(-rot) (raw - (tx, ty))`, both from the image centre.
    """
    c, s = math.cos(math.radians(rot_deg)), math.sin(math.radians(rot_deg))
    return (c, s, -s, c, -(c * tx + s * ty), s * tx - c * ty)


def row_from_xf(xf: Xf) -> tuple[float, float, float]:
    """Return (rot in degrees, tx, ty) from IMOD's transform; the inverse of `xf_of_row` (a stretch is lost)."""
    a11, a12, a21, a22, dx, dy = xf
    rot = math.atan2(a12 - a21, a11 + a22)
    c, s = math.cos(rot), math.sin(rot)
    return math.degrees(rot), -(c * dx - s * dy), -(s * dx + c * dy)


def stretch_of(xf: Xf) -> float:
    """Return how much a transform differs from a rotation and a shift: the largest change of a length, as a share.

    Infinite for one that mirrors, which no alignment of a tilt series does.
    """
    a11, a12, a21, a22, _, _ = xf
    if a11 * a22 - a12 * a21 <= 0:
        return math.inf
    mean = (a11**2 + a12**2 + a21**2 + a22**2) / 2
    half = math.hypot((a11**2 + a21**2 - a12**2 - a22**2) / 2, a11 * a12 + a21 * a22)
    return max(abs(math.sqrt(max(0.0, value)) - 1) for value in (mean + half, mean - half))


def format_xf(transforms: Sequence[Xf]) -> str:
    """Return the text of IMOD's `.xf`, one line per section, to seven decimals (AreTomo2 has three)."""
    return "".join("{:12.7f}{:12.7f}{:12.7f}{:12.7f}{:12.3f}{:12.3f}\n".format(*xf) for xf in transforms)


def parse_xf(text: str, source: str = ".xf file") -> tuple[Xf, ...]:
    """Read an IMOD `.xf` file. Raises AlnError if a line does not hold six numbers."""
    table = [_numbers(line, source, number) for number, line in enumerate(text.splitlines(), start=1)]
    rows = [row for row in table if row]
    for number, row in enumerate(rows, start=1):
        if len(row) != 6:
            raise AlnError(f"{source}: transform {number} has {len(row)} numbers where six are needed")
    return tuple((r[0], r[1], r[2], r[3], r[4], r[5]) for r in rows)
