# SPDX-License-Identifier: GPL-3.0-or-later
"""A quick reconstruction of one series to judge by: binned, aligned and reconstructed by the CPU engine.

`reconstruct` makes one of a tilt series on disk, by the engine as a program. The previews of series that are still being
acquired (`engine.preview`) are the same thing, smaller, made of the micrographs that are there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tomostream.engine import aretomo as engine
from tomostream.engine import steps
from tomostream.engine.output import Outputs
from tomostream.engine.recon.stack import open_stack
from tomostream.files.errors import EngineError
from tomostream.files.grey import averaged
from tomostream.files.mrc import open_mrc
from tomostream.programs.aln import AlnError, AlnFile, AngleRow, format_aln, format_angles, parse_aln, raw_sections
from tomostream.programs.aretomo import OutputFiles
from tomostream.programs.quality import Quality, parse_quality
from tomostream.programs.words import tilt_axis_word

NAME = "quick"


@dataclass(frozen=True)
class Size:
    """How large a quick volume becomes.

    Attributes
    ----------
    pixel_A : float
        Size of its pixels, at least about this.
    edge : int
        About as many of them along the longer side.
    depth_A : float
    depth_part : float
        Depth: `depth_A`, or this part of the images' shorter side, whichever is less.
    """

    pixel_A: float
    edge: int
    depth_A: float
    depth_part: float

    def binning(self, pixel_size_A: float, width: int, height: int) -> int:
        """Return how many pixels along each side become one.

        Parameters
        ----------
        pixel_size_A : float
            Of the images as they are.
        width, height : int
            Their pixels.
        """
        return max(1, round(self.pixel_A / pixel_size_A), round(max(width, height) / self.edge))

    def depth(self, pixel_size_A: float, width: int, height: int) -> int:
        """Return the depth in binned pixels, even.

        Parameters
        ----------
        pixel_size_A : float
            Of the binned images.
        width, height : int
            Their pixels.
        """
        return 2 * round(min(self.depth_A / pixel_size_A, self.depth_part * min(width, height)) / 2)


#: Deeper than any specimen that electrons cross, where the images are wide enough.
TO_JUDGE = Size(12.0, 512, 6000.0, 1.0)
#: Images of 4k are binned 11 times, which takes some seconds in all.
PREVIEW = Size(0.0, 384, 4000.0, 0.6)


class NotDone(Exception):
    """The volume could not be made, for the reason that the message gives."""


@dataclass(frozen=True)
class Source:
    """A tilt series on disk.

    Attributes
    ----------
    series_id : str
    stack : str
        MRC file.
    pixel_size_A : float
        Of the stack.
    rows : tuple of AngleRow
        One a tilt, degrees.
    sections : tuple of int
        `rows[i]` is section `sections[i]` of the stack, from 0.
    tilt_axis : float, optional
        Degrees; without it all directions are searched.
    alignment : str, optional
        An `.aln` file of the whole stack (shifts in its pixels), where there is one already.
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
    """What was made.

    Attributes
    ----------
    volume : str
        The plain volume, on which to measure; `filtered` is the one in which most can be seen.
    aln : AlnFile
        Of the binned images.
    quality : Quality
    pixel_size_A : float
        Of the volumes.
    binning : int
        Pixels of the stack along each side for one of their voxels.
    """

    volume: str
    aln: AlnFile
    quality: Quality
    pixel_size_A: float
    binning: int

    @property
    def filtered(self) -> str:
        """The filtered volume."""
        return filtered_of(self.volume)


Say = Callable[[str], None]


def reconstruct(source: Source, folder: str, say: Say, keep: Quick | None = None, negated: bool = False) -> Quick:
    """Make the volume of a series, (z, y, x), y along the tilt axis.

    Parameters
    ----------
    source : Source
    folder : str
        For all files.
    say : callable
        Takes a line of progress.
    keep : Quick, optional
        One that was made already in this folder: its binned images and its alignment serve again.
    negated : bool
        With all tilt angles of the other sign (only with `keep`).

    Returns
    -------
    Quick

    Raises
    ------
    NotDone
        If the stack cannot be read, or the engine cannot align it; in its words.
    """
    stem = os.path.join(folder, NAME)
    if keep is None:
        keep = _binned(source, stem, say)
    width, height, _ = keep.aln.raw_size or (TO_JUDGE.edge, TO_JUDGE.edge, 0)
    target = f"{stem}{'_negated' if negated else ''}.mrc"
    arguments = arguments_of(stem, target, TO_JUDGE.depth(keep.pixel_size_A, width, height), keep.pixel_size_A)
    if negated or keep.aln.rows:
        aln = _mirrored(keep.aln) if negated else keep.aln
        path = f"{stem}{'_negated' if negated else '_given'}.aln"
        with open(path, "w", encoding="utf-8") as file:
            file.write(format_aln(aln))
        arguments += ["-AlnFile", path]
    else:
        arguments += angles_of(stem, source.tilt_axis)
    _run(arguments, say)
    return keep if negated else _finished(keep, stem, target)


def arguments_of(stem: str, target: str, depth: int, pixel_size_A: float) -> list[str]:
    """Return the engine's arguments for a volume.

    Parameters
    ----------
    stem : str
        The binned images are `stem`.mrcs.
    target : str
        The volume.
    depth : int
        Binned pixels.
    pixel_size_A : float
        Of the binned images.
    """
    return ["-InMrc", f"{stem}.mrcs", "-OutMrc", target, "-VolZ", str(depth), "-FlipVol", "1",
            "-PixSize", f"{pixel_size_A:g}", "-Wiener", "1"]


def filtered_of(target: str) -> str:
    """Return the filtered volume that the engine writes beside the volume `target`."""
    return OutputFiles.of(target, target).wiener


def angles_of(stem: str, tilt_axis: float | None) -> list[str]:
    """Return the engine's arguments for an alignment of its own.

    Parameters
    ----------
    stem : str
        The tilt angles are in `stem`.tlt.
    tilt_axis : float or None
        Degrees; None: all directions are searched.
    """
    word = tilt_axis_word(tilt_axis)
    return ["-AngFile", f"{stem}.tlt", "-TiltAxis", word, "1", "-TiltCor", "0"]


def write_images(stem: str, images: Iterable[NDArray[np.float32]], rows: Sequence[AngleRow], shape: tuple[int, int],
                 pixel_size_A: float) -> None:
    """Write binned images to `stem`.mrcs, and their angles to `stem`.tlt.

    Parameters
    ----------
    stem : str
    images : iterable of ndarray of float32, shape `shape`
    rows : sequence of AngleRow
        One an image.
    shape : (int, int)
        (ny, nx).
    pixel_size_A : float
        Of the binned images.

    Raises
    ------
    EngineError
        If they cannot be written.
    """
    with Outputs() as outputs:
        stack = outputs.mapped_mrc(f"{stem}.mrcs", (len(rows), *shape), pixel_size_A, "tomostream", volume=False)
        for section, image in zip(stack, images, strict=True):
            section[...] = image
        outputs.text(f"{stem}.tlt", format_angles(rows))


def _binned(source: Source, stem: str, say: Say) -> Quick:
    """Write the images at the quick pixel size, and their angles; the alignment, where there is one, scaled to them."""
    try:
        stack = open_stack(source.stack)
        height, width = stack.shape
        binning = TO_JUDGE.binning(source.pixel_size_A, width, height)

        def images() -> Iterator[NDArray[np.float32]]:
            for place, section in enumerate(source.sections):
                say(f"reading tilt {place + 1} of {len(source.rows)}")
                yield averaged(stack.section(section), binning)

        shape = (height // binning, width // binning)
        write_images(stem, images(), _plain(source.rows), shape, source.pixel_size_A * binning)
    except BrokenPipeError:         # of whoever reads the progress
        raise
    except (EngineError, OSError, ValueError, IndexError) as error:
        raise NotDone(f"The images of {source.series_id} cannot be read: {error}") from error
    size = (shape[1], shape[0], len(source.rows))
    aln = _scaled(source.alignment, source, binning, size) if source.alignment else AlnFile((), raw_size=size)
    return Quick("", aln, Quality(), source.pixel_size_A * binning, binning)


def _plain(rows: tuple[AngleRow, ...]) -> tuple[AngleRow, ...]:
    """Return rows for an angle file, which has the order of every tilt or of none."""
    if all(row.order is not None for row in rows):
        return tuple(replace(row, pre_exposure=None) for row in rows)
    return tuple(AngleRow(row.tilt_deg) for row in rows)


def _scaled(path: str, source: Source, binning: int, size: tuple[int, int, int]) -> AlnFile:
    """Return an alignment of the whole stack, for the binned images of it; none where it cannot be read or is of other tilts."""
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
    """Return the same alignment for angles of the other sign: the images stay where they are, the volume is mirrored in z."""
    return replace(aln, rows=tuple(replace(row, tilt_deg=-row.tilt_deg) for row in aln.rows),
                   dark=tuple(replace(each, tilt_deg=-each.tilt_deg) for each in aln.dark))


def _run(arguments: list[str], say: Say) -> None:
    """Run the engine as a program; its last words become the reason where it fails."""
    process = subprocess.Popen([sys.executable, "-m", engine.__name__, *arguments], text=True, errors="replace",
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    last = ""
    with process:
        for line in process.stdout or ():
            if line.strip():
                last = line.strip().partition("] ")[2] or line.strip()
                say(last)
    if process.returncode != 0:
        raise NotDone(last.removeprefix(f"{steps.NAME}: ") or f"the engine ended with status {process.returncode}")


def _finished(made: Quick, stem: str, target: str) -> Quick:
    """Return what was made, with the alignment and its quality read from the engine's files where they are new."""
    aln, quality = made.aln, made.quality
    if not aln.rows:
        with open(f"{stem}.aln", encoding="utf-8") as file:
            aln = parse_aln(file.read())
        with open(f"{stem}_quality.json", encoding="utf-8") as file:
            quality = parse_quality(file.read())
    return replace(made, volume=target, aln=aln, quality=quality)


def read_volume(path: str) -> NDArray[np.float32]:
    """Return a quick volume from its `path`, (z, y, x)."""
    return np.asarray(open_mrc(path), dtype=np.float32)
