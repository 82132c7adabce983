# SPDX-License-Identifier: GPL-3.0-or-later
"""A quick reconstruction of one series to judge by: binned, aligned and reconstructed by the CPU engine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tomostream.engine import aretomo as engine
from tomostream.engine.output import Outputs
from tomostream.engine.recon.stack import open_stack
from tomostream.files.errors import EngineError
from tomostream.files.grey import averaged
from tomostream.files.mrc import open_mrc
from tomostream.programs.aln import AlnError, AlnFile, AngleRow, format_aln, format_angles, parse_aln, raw_sections
from tomostream.programs.quality import Quality, parse_quality

#: Pixels of the quick reconstruction: about this size in A, and no more of them along a side.
PIXEL_A, MAX_PIXELS = 12.0, 512
#: Depth of the volume in A: more than any specimen that electrons cross, where the images are wide enough.
DEPTH_A = 6000.0
NAME = "quick"


class NotDone(Exception):
    """It could not be made; the words say why."""


@dataclass(frozen=True)
class Source:
    """A tilt series on disk. `rows[i]` is section `sections[i]` of the stack (from 0). Angles and axis in degrees.

    `alignment` is an `.aln` file of the whole stack (shifts in its pixels), where there is one already.
    """

    series_id: str
    stack: str
    pixel_size_A: float
    rows: tuple[AngleRow, ...]
    sections: tuple[int, ...]
    tilt_axis: float | None = None
    alignment: str | None = None


@dataclass(frozen=True)
class Quick:
    """What was made. `pixel_size_A` is that of the volume, `binning` how many pixels of the stack are one of its voxels."""

    volume: str
    aln: AlnFile
    quality: Quality
    pixel_size_A: float
    binning: int


Say = Callable[[str], None]


def binning_of(pixel_size_A: float, width: int, height: int) -> int:
    """How many pixels are put together: about 12 A, at most 512 pixels a side."""
    return max(1, round(PIXEL_A / pixel_size_A), -(-max(width, height) // MAX_PIXELS))


def reconstruct(source: Source, folder: str, say: Say, keep: Quick | None = None, negated: bool = False) -> Quick:
    """Make the volume of a series, (z, y, x), y along the tilt axis.

    Parameters
    ----------
    keep : one that was made already in this folder: its binned images and its alignment serve again.
    negated : with all tilt angles of the other sign (only with `keep`).

    Raises
    ------
    NotDone : the stack cannot be read, or the engine cannot align it; in its words.
    """
    stem = os.path.join(folder, NAME)
    if keep is None:
        keep = _binned(source, stem, say)
    width = keep.aln.raw_size[0] if keep.aln.raw_size else MAX_PIXELS
    depth = 2 * round(min(DEPTH_A / keep.pixel_size_A, width) / 2)
    target = f"{stem}{'_negated' if negated else ''}.mrc"
    arguments = ["-InMrc", f"{stem}.mrcs", "-OutMrc", target, "-VolZ", str(depth), "-FlipVol", "1", "-PixSize",
                 f"{keep.pixel_size_A:g}"]
    if negated or keep.aln.rows:
        aln = _mirrored(keep.aln) if negated else keep.aln
        path = f"{stem}{'_negated' if negated else '_given'}.aln"
        with open(path, "w", encoding="utf-8") as file:
            file.write(format_aln(aln))
        arguments += ["-AlnFile", path]
    else:
        axis = source.tilt_axis
        word = "0" if axis is None else "0.01" if axis == 0 else f"{axis:g}"
        arguments += ["-AngFile", f"{stem}.tlt", "-TiltAxis", word, "1", "-TiltCor", "0"]
    _run(arguments, say)
    return keep if negated else _finished(keep, stem, target)


def _binned(source: Source, stem: str, say: Say) -> Quick:
    """Write the images at the quick pixel size, and their angles; the alignment, where there is one, scaled to them."""
    try:
        stack = open_stack(source.stack)
        height, width = stack.shape
        binning = binning_of(source.pixel_size_A, width, height)
        shape = (len(source.rows), height // binning, width // binning)
        with Outputs() as outputs:
            images = outputs.mapped_mrc(f"{stem}.mrcs", shape, source.pixel_size_A * binning, "tomostream", volume=False)
            for place, section in enumerate(source.sections):
                say(f"reading tilt {place + 1} of {len(source.rows)}")
                images[place] = averaged(stack.section(section), binning)
    except BrokenPipeError:         # of whoever reads the progress
        raise
    except (EngineError, OSError, ValueError, IndexError) as error:
        raise NotDone(f"The images of {source.series_id} cannot be read: {error}") from error
    with open(f"{stem}.tlt", "w", encoding="utf-8") as file:
        file.write(format_angles(_plain(source.rows)))
    size = (shape[2], shape[1], shape[0])
    aln = _scaled(source.alignment, source, binning, size) if source.alignment else AlnFile((), raw_size=size)
    return Quick("", aln, Quality(), source.pixel_size_A * binning, binning)


def _plain(rows: tuple[AngleRow, ...]) -> tuple[AngleRow, ...]:
    """An angle file has the order of every tilt or of none."""
    if all(row.order is not None for row in rows):
        return tuple(replace(row, pre_exposure=None) for row in rows)
    return tuple(AngleRow(row.tilt_deg) for row in rows)


def _scaled(path: str, source: Source, binning: int, size: tuple[int, int, int]) -> AlnFile:
    """An alignment of the whole stack, for the binned images of it; none where it cannot be read or is of other tilts."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            aln = parse_aln(file.read(), os.path.basename(path))
        sections, dark = raw_sections(aln, len(source.rows))
    except (OSError, AlnError):
        return AlnFile((), raw_size=size)
    rows = tuple(replace(row, section=section, tx=row.tx / binning, ty=row.ty / binning)
                 for row, section in zip(aln.rows, sections, strict=True))
    out = tuple(replace(each, section=section) for each, section in zip(aln.dark, dark, strict=True))
    return AlnFile(rows, out, raw_size=size)


def _mirrored(aln: AlnFile) -> AlnFile:
    """The same alignment for angles of the other sign: the images stay where they are, the volume is mirrored in z."""
    return replace(aln, rows=tuple(replace(row, tilt_deg=-row.tilt_deg) for row in aln.rows),
                   dark=tuple(replace(each, tilt_deg=-each.tilt_deg) for each in aln.dark))


def _run(arguments: list[str], say: Say) -> None:
    """The engine as a program; its last words become the reason where it fails."""
    process = subprocess.Popen([sys.executable, "-m", engine.__name__, *arguments], text=True, errors="replace",
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    last = ""
    with process:
        for line in process.stdout or ():
            if line.strip():
                last = line.strip().partition("] ")[2] or line.strip()
                say(last)
    if process.returncode != 0:
        raise NotDone(last.removeprefix(f"{engine.NAME}: ") or f"the engine ended with status {process.returncode}")


def _finished(made: Quick, stem: str, target: str) -> Quick:
    aln, quality = made.aln, made.quality
    if not aln.rows:
        with open(f"{stem}.aln", encoding="utf-8") as file:
            aln = parse_aln(file.read())
        with open(f"{stem}_quality.json", encoding="utf-8") as file:
            quality = parse_quality(file.read())
    return replace(made, volume=target, aln=aln, quality=quality)


def read_volume(path: str) -> NDArray[np.float32]:
    """A quick volume, (z, y, x)."""
    return np.asarray(open_mrc(path), dtype=np.float32)
