# SPDX-License-Identifier: GPL-3.0-or-later
"""The tilt-series alignment on a real series, by checks that need no truth, and beside an alignment by other software.

    python benchmarks/engine_real.py                                         # EMPIAR-10499, fetched once as for the demo
    python benchmarks/engine_real.py --gold 10                               # and how far its gold beads are from their places
    python benchmarks/engine_real.py --stack STACK.mrc --tilts TILTS.csv --pixel 10 --axis -5 [--other WARP.xml]

The series of the demo comes with an alignment that others made of it with Warp: without --stack it is put beside ours.
With --gold DIAMETER (nm) its beads are found, and their distance from where the alignment puts them is reported.

Three checks. Even and odd tilts are aligned apart, from nothing, and compared with the alignment of all, after a rigid motion
of the specimen. Each tilt is compared with what its neighbours within 12 degrees predict for it (a slab of the measured
thickness, the tilt itself left out): correlation of whitened spectra, 0.02 - 0.2 cycles per pixel of 10 A. The other
alignment's shifts against ours, and its tilts by the same prediction, with our thickness and tilt offset.

TILTS.csv has a header; its second column holds tilt angles in degrees, in the order of the stack. Of Warp's XML file, axis
(degrees) and offsets (A) of every tilt are read.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, replace

import mrcfile
import numpy as np
from judging import prediction, shifts_of
from simulated_series import Truth, residuals

from tomostream.cli import realdata
from tomostream.engine.align import Alignment, AlignOptions, align_series
from tomostream.engine.align.geometry import Pose
from tomostream.engine.align.pipeline import Bench
from tomostream.engine.align.preprocess import work_stack
from tomostream.engine.gold.find import find_gold
from tomostream.engine.recon.solution import of_alignment
from tomostream.engine.recon.stack import TiltStack

#: The alignment that comes with the demo's series.
OTHER = "testdata/00254.xml"


@dataclass(frozen=True)
class Series:
    """A real series: sections (n, height, width) and their tilt angles in degrees; start axis."""

    stack: np.ndarray
    angles: np.ndarray
    pixel_A: float
    axis_deg: float


@dataclass(frozen=True)
class Other:
    """An alignment by other software: tilt axis in degrees, shifts (n, 2) in px of the stack, in our convention."""

    axis_deg: float
    shifts: np.ndarray


def read_warp(path: str, pixel_A: float) -> Other:
    """Axis and offsets of Warp's XML file; it has one axis for all tilts here, and offsets in A in the frame of the image."""
    root = ElementTree.parse(path).getroot()
    axis, x, y = (np.array(root.findtext(name, "").split(), dtype=float) for name in ("AxisAngle", "AxisOffsetX", "AxisOffsetY"))
    return Other(float(axis.mean()), np.stack([x, y], axis=1) / pixel_A)


def distances(series: Series, whole: Alignment, which: np.ndarray, axis: float, shifts: np.ndarray,
              tilts: np.ndarray) -> np.ndarray:
    """How far shifts of some tilts are from those of the whole alignment, in px, after a rigid motion of the specimen."""
    truth = Truth(series.stack[which], series.angles[which], series.angles[which] + whole.tilt_offset_deg, whole.tilt_axis_deg,
                  shifts_of(whole)[which], whole.thickness_A / series.pixel_A)
    return np.linalg.norm(residuals(truth, axis, shifts, tilts), axis=1)


def halves(series: Series, whole: Alignment, options: AlignOptions) -> Iterator[str]:
    """Even and odd tilts apart."""
    order = np.argsort(series.angles)
    for name, half in (("even", order[::2]), ("odd", order[1::2])):
        answer = align_series(series.stack[half], series.angles[half], replace(options, tilt_axis_deg=whole.tilt_axis_deg))
        left = distances(series, whole, half, answer.tilt_axis_deg, shifts_of(answer),
                         series.angles[half] + answer.tilt_offset_deg)
        yield (f"{name} tilts aligned alone, from nothing: {np.median(left):.2f} px (median), {np.sqrt(np.mean(left**2)):.2f} px "
               f"(RMS) from the whole, axis {answer.tilt_axis_deg:.2f}, offset {answer.tilt_offset_deg:+.2f} deg, thickness "
               f"{answer.thickness_A:.0f} A")


def consistency(series: Series, answer: Alignment, threads: int) -> np.ndarray:
    """Correlation of each tilt with the slab prediction of those within 12 degrees, whitened, 0.02 - 0.2 cycles/px."""
    images = work_stack(series.stack, series.pixel_A, 10.0, threads)
    shifts = shifts_of(answer) / images.scale
    pose = Pose(series.angles + answer.tilt_offset_deg, answer.tilt_axis_deg, shifts, answer.thickness_A / images.pixel_A)
    band = Bench(images, np.arange(len(series.angles)), threads).cut(pose, 0.02)
    weight = band.cells.weight * (np.hypot(band.cells.kx[:, None], band.cells.ky) > 0.02)
    return prediction(band, pose, weight, series.angles, np.array([tilt.used for tilt in answer.tilts]))


def by_tilt(series: Series, whole: Alignment, other: Other | None, threads: int) -> Iterator[str]:
    """A line a tilt: how it fits its neighbours, ours and the other's."""
    ours = consistency(series, whole, threads)
    if other is None:
        yield from (f"{angle:7.2f} deg: {fit:.3f}" for angle, fit in zip(series.angles, ours, strict=True))
        return
    every = np.arange(len(series.angles))
    apart = distances(series, whole, every, other.axis_deg, other.shifts, series.angles + whole.tilt_offset_deg)
    tilts = tuple(replace(tilt, tx=float(x), ty=float(y)) for tilt, (x, y) in zip(whole.tilts, other.shifts, strict=True))
    theirs = consistency(series, replace(whole, tilt_axis_deg=other.axis_deg, tilts=tilts), threads)
    yield f"the other alignment: axis {other.axis_deg:.2f}, {np.median(apart):.2f} px (median) from ours"
    yield "tilt angle   apart px   fit ours   fit other"
    for row in zip(series.angles, apart, ours, theirs, strict=True):
        yield "{:10.2f} {:10.2f} {:10.3f} {:11.3f}".format(*row)
    difference = ours - theirs
    yield (f"ours fits better by more than 0.002 at {np.sum(difference > 0.002)} tilts (by up to {difference.max():.3f}), the "
           f"other at {np.sum(difference < -0.002)} (by up to {max(0.0, -difference.min()):.3f})")


def beads(series: Series, whole: Alignment, diameter_nm: float, threads: int) -> str:
    """How far gold beads are from where the alignment puts them."""
    stack = TiltStack("series", series.stack, series.pixel_A)
    found = find_gold(stack, of_alignment(whole, False, 0.0).used, series.pixel_A, 10.0 * diameter_nm, threads)
    if found.residual_px is None:
        return f"gold: {len(found.beads)} beads, too few to say how far they are from their places"
    common = np.array(list(found.offsets_px.values()))
    return (f"gold: {len(found.beads)} beads are {found.residual_px:.2f} px RMS from where the alignment puts them, "
            f"{np.sqrt(np.mean(common**2)):.2f} px of it alike for all beads of a tilt")


def measure(series: Series, other: Other | None, gold_nm: float | None, threads: int) -> Iterator[str]:
    """The whole series, its gold, its halves, and every tilt."""
    options = AlignOptions(series.pixel_A, series.axis_deg, threads=threads)
    begun = time.perf_counter()
    whole = align_series(series.stack, series.angles, options)
    yield (f"whole series: {time.perf_counter() - begun:.1f} s, {sum(tilt.used for tilt in whole.tilts)} of "
           f"{len(whole.tilts)} tilts, axis {whole.tilt_axis_deg:.2f}, offset {whole.tilt_offset_deg:+.2f} deg, thickness "
           f"{whole.thickness_A:.0f} A, {whole.quality:.2f} {whole.quality_note}")
    if gold_nm is not None:
        yield beads(series, whole, gold_nm, threads)
    yield from halves(series, whole, options)
    yield from by_tilt(series, whole, other, threads)


def read_series(stack: str, tilts: str, pixel: float, axis: float) -> Series:
    """A series from its files."""
    with mrcfile.open(stack, permissive=True) as opened:
        images = np.array(opened.data)
    with open(tilts, encoding="utf-8") as lines:
        angles = np.array([float(row[1]) for row in list(csv.reader(lines))[1:]])
    return Series(images, angles, pixel, axis)


def of_the_demo() -> tuple[Series, Other]:
    """The demo's series and the alignment in the same archive, which is fetched for it each time."""
    series = read_series(realdata.real_stack(print), realdata.tilts_table(), 10.0, -5.0)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "other.xml")
        realdata.extract(realdata.fetch(folder), OTHER, path)
        return series, read_warp(path, series.pixel_A)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", help="tilt series, MRC")
    parser.add_argument("--tilts", help="table of its tilt angles")
    parser.add_argument("--pixel", type=float, default=10.0, help="pixel size in A")
    parser.add_argument("--axis", type=float, default=0.0, help="tilt axis in degrees, to start from")
    parser.add_argument("--other", help="Warp's XML file of the same series")
    parser.add_argument("--gold", type=float, metavar="DIAMETER", help="of gold beads in it, in nm")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if (arguments.stack is None) != (arguments.tilts is None):
        parser.error("--stack and --tilts belong together")
    try:
        if arguments.stack is None:
            series, other = of_the_demo()
        else:
            series = read_series(arguments.stack, arguments.tilts, arguments.pixel, arguments.axis)
            other = read_warp(arguments.other, arguments.pixel) if arguments.other else None
    except (OSError, ValueError, realdata.UserError) as error:
        parser.error(str(error))
    for line in measure(series, other, arguments.gold, arguments.threads):
        print(line, flush=True)


if __name__ == "__main__":
    main()
