# SPDX-License-Identifier: GPL-3.0-or-later
"""CTF estimates of a series as the programs write them: AreTomo2's `_ctf.txt` and IMOD's defocus file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tomostream.programs.aln import AlnError, _numbers

CTF_HEADER = (
    "# Columns: #1 micrograph number; #2 - defocus 1 [A]; #3 - defocus 2; #4 - azimuth of astigmatism; "
    "#5 - additional phase shift [radian]; #6 - cross correlation; "
    "#7 - spacing (in Angstroms) up to which CTF rings were fit successfully"
)


@dataclass(frozen=True)
class CtfRow:
    """CTF of one tilt, in the order of the `.aln` rows: defoci in A (underfocus positive), azimuth in degrees.

    `resolution_A` is None where the program does not measure it.
    """

    number: int
    defocus_max_A: float
    defocus_min_A: float
    azimuth_deg: float
    phase_rad: float
    score: float
    resolution_A: float | None


def wavelength_A(voltage_kV: float) -> float:
    """Return the relativistic wavelength of electrons, A.

    Notes
    -----
    h / sqrt(2 m e V (1 + e V / (2 m c^2))) = 12.2639 A / sqrt(V + 0.97845e-6 V^2), V in volts.

    Examples
    --------
    >>> round(wavelength_A(300.0), 5)
    0.01969
    """
    volts = voltage_kV * 1e3
    return 12.2639 / math.sqrt(volts + 0.97845e-6 * volts**2)


#: AreTomo2 does not measure the resolution and writes this into every row.
_NOT_MEASURED_A = 10.0


def format_ctf(rows: Sequence[CtfRow]) -> str:
    """Return AreTomo2's `_ctf.txt`."""
    lines = [CTF_HEADER]
    lines += [
        f"{r.number:4d}   {r.defocus_max_A:8.2f}  {r.defocus_min_A:8.2f}  {r.azimuth_deg:8.2f}  {r.phase_rad:8.2f}"
        f"  {r.score:8.4f}  {_NOT_MEASURED_A if r.resolution_A is None else r.resolution_A:8.4f}"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def format_imod_defocus(rows: Sequence[CtfRow], views: Sequence[int], tilts_deg: Sequence[float]) -> str:
    """Return IMOD's defocus file (version 3, astigmatism, phase shifts if there are any), one line per view.

    `views` are numbered from 1 in the stack to which it belongs. Defoci in nm, the larger first, then its azimuth in
    degrees. (AreTomo2 writes the smaller first with the azimuth of the larger; readers take that for the azimuth of the first.)
    """
    shifted = any(row.phase_rad for row in rows)
    lines = [f"{5 if shifted else 1}  0  0.0  0.0  0.0  3"]
    for row, view, tilt in zip(rows, views, tilts_deg, strict=True):
        line = f"{view:4d}  {view:4d}  {tilt:7.2f}  {tilt:7.2f}  {row.defocus_max_A / 10:8.2f}  {row.defocus_min_A / 10:8.2f}"
        line += f"  {row.azimuth_deg:7.2f}"
        lines.append(line + (f"  {math.degrees(row.phase_rad):8.2f}" if shifted else ""))
    return "\n".join(lines) + "\n"


def parse_ctf(text: str, source: str = "CTF file") -> tuple[CtfRow, ...]:
    """Read AreTomo's `_ctf.txt`: seven columns; more, as in newer versions, are ignored.

    A resolution of exactly 10 in every row is that of AreTomo2, which measures none: it is unknown, not 10 A.
    """
    table = [_numbers(line.split("#")[0], source, number) for number, line in enumerate(text.splitlines(), start=1)]
    rows = [row for row in table if row]
    for row in rows:
        if len(row) < 7:
            raise AlnError(f"{source}: a line has {len(row)} columns where seven are needed")
    measured = any(row[6] != _NOT_MEASURED_A for row in rows)
    return tuple(CtfRow(int(r[0]), r[1], r[2], r[3], r[4], r[5], r[6] if measured else None) for r in rows)


def ctf_sections(rows: int, aligned: Sequence[int], total: int) -> tuple[int, ...]:
    """Return the 0-based section of every row of a CTF file with `rows` rows; () if the file does not fit the alignment.

    The rows are those of the `.aln` (`aligned`, from `raw_sections`). With -OutImod 1 AreTomo2 fits before it removes
    the dark tilts: then each of the `total` sections, which must be in the stack in the order of their angles, has a row.
    """
    if rows == len(aligned):
        return tuple(aligned)
    return tuple(range(total)) if rows == total else ()
