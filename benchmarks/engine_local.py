# SPDX-License-Identifier: GPL-3.0-or-later
"""Local alignment (`tomostream-aretomo -Patch`): does it earn its place? Simulated specimens that deform, with known truth.

    python benchmarks/engine_local.py                            # amplitudes 0 to 40 A, three seeds
    python benchmarks/engine_local.py --amplitudes 0 10 --seeds 1 --patches 5 5
    python benchmarks/engine_local.py --sides 1024               # a larger field
    python benchmarks/engine_local.py --thickness 400            # a thinner specimen
    python benchmarks/engine_local.py --spoiled                  # rigid series that are hard: is motion seen where none is?
    python benchmarks/engine_local.py --real STACK.mrc TILTS.csv --pixel 10 --axis -5

The series are those of `simulated_local.py`: 41 tilts of 3 e/A2, 10.8 A pixels. "global" and "local": what is left of the true
image positions after a rigid motion of the specimen, RMS in A over tilts and field and depth. Correlation is that of the
tomogram (SIRT-15) with one of noise-free images of the specimen at rest, between 1/150 and 1/25 A; "sharp" the same between 1/40
and 1/25 A, both without and with local alignment. "middle" is what the true motion of the middle plane would leave: no local
shift of images is right for all depths of a thick specimen at once.

A real series has no truth. Its local motion is measured up to 1/33 A; then each tilt is compared with what its neighbours within
12 degrees predict for it (as in `engine_real.py`), at those frequencies and at higher ones, which had no part in it. TILTS.csv
has a header; columns 2 and 4 hold tilt angles in degrees and the order of acquisition.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import scipy.fft
from judging import prediction, shifts_of
from simulated_local import Deformed, Left, left_over, simulate_local
from simulated_series import CASES, PIXEL_A, Case, simulate

from tomostream.engine.align import Alignment, AlignOptions, align_series
from tomostream.engine.align.geometry import Pose
from tomostream.engine.align.local import LocalMotion, local_motion
from tomostream.engine.align.preprocess import work_stack
from tomostream.engine.align.spectra import cut_band
from tomostream.engine.recon.aligned import Aligner, LocalShifts, Placement, aligned_size
from tomostream.engine.recon.slab import Method, Slab

BANDS_A = ((150.0, 25.0), (40.0, 25.0))
HARD = ("ice", "half blocked", "ice, jumping", "bar sweeps in", "mixed", "wedge", "hard", "4000 A thick", "pre-tilt 9",
        "wide, axis -4", "21 tilts")
Local = dict[int, LocalShifts]


def fields_of(motion: LocalMotion, shifts: np.ndarray, shape: tuple[int, ...]) -> Local:
    """Local shifts by section, as the reconstruction reads them (px from index n / 2, before the global shift)."""
    return {m.section: LocalShifts.through(LocalShifts(m.x - shifts[m.section, 0], m.y - shifts[m.section, 1], m.dx, m.dy),
                                           shape[1], shape[0]) for m in motion.tilts}


def at_places(fields: Local, shape: tuple[int, ...]) -> Callable[[np.ndarray, int], np.ndarray]:
    """The local shift of a tilt at places (m, 2), as `left_over` wants it."""

    def local(places: np.ndarray, tilt: int) -> np.ndarray:
        if tilt not in fields:
            return np.zeros_like(places)
        return fields[tilt].at(places[:, 0], places[:, 1], shape[1], shape[0]).T

    return local


def in_the_middle(series: Deformed) -> Callable[[np.ndarray, int], np.ndarray]:
    """The true motion of the middle plane, as `left_over` wants it."""
    truth = series.truth
    a = math.radians(truth.axis)

    def local(places: np.ndarray, tilt: int) -> np.ndarray:
        t = math.radians(truth.true_angles[tilt])
        x = (places[:, 0] * math.cos(a) + places[:, 1] * math.sin(a)) / math.cos(t)
        y = places[:, 1] * math.cos(a) - places[:, 0] * math.sin(a)
        u = series.displacement(np.stack([x, y, 0.0 * x], axis=1) * PIXEL_A, tilt) / PIXEL_A
        across = u[:, 0] * math.cos(t) + u[:, 2] * math.sin(t)
        return np.stack([across * math.cos(a) - u[:, 1] * math.sin(a), across * math.sin(a) + u[:, 1] * math.cos(a)], axis=1)

    return local


def volume(images: np.ndarray, angles: np.ndarray, places: list[Placement], depth: int, threads: int) -> np.ndarray:
    """The tomogram (z, y, x) of a stack, each image over its mean where it has one."""
    ny, nx = aligned_size(images.shape[1:], places[0].rot_deg, 1.0)
    aligner = Aligner(images.shape[1:], (ny, nx), 1.0, threads)
    aligned = np.stack([aligner.image(image, place) for image, place in zip(images, places, strict=True)])
    if images.mean() > images.std() * 0.25:
        aligned /= images.mean(axis=(1, 2))[:, None, None]
    blocks = Slab(angles, nx, depth, Method(15), threads).blocks(aligned, True)
    return np.concatenate([block.data.copy() for block in blocks], axis=1)


def correlations(one: np.ndarray, other: np.ndarray) -> list[float]:
    """Correlation of two tomograms in `BANDS_A`, away from the edges."""
    spectra = []
    for data in (one, other):
        inner = data[:, 40:-40, 40:-40].astype(np.float32)
        spectra.append(scipy.fft.rfftn(inner - inner.mean()))
    frequencies = [np.fft.fftfreq(n, PIXEL_A) for n in inner.shape[:2]] + [np.fft.rfftfreq(inner.shape[2], PIXEL_A)]
    square = sum(f.reshape([-1 if i == axis else 1 for i in range(3)]) ** 2 for axis, f in enumerate(frequencies))
    out = []
    for low, high in BANDS_A:
        a, b = (spectrum[(square > 1 / low**2) & (square < 1 / high**2)] for spectrum in spectra)
        out.append(float(np.real(np.vdot(a, b)) / np.sqrt(np.vdot(a, a).real * np.vdot(b, b).real)))
    return out


def placements(answer: Alignment, motion: np.ndarray, fields: Local) -> tuple[np.ndarray, list[Placement]]:
    """Tilt angles and placements of an answer after the specimen was put where the truth has it: `motion` from `left_over`."""
    angles = np.array([t.tilt_deg for t in answer.tilts]) + answer.tilt_offset_deg
    a, out = math.radians(answer.tilt_axis_deg), []
    for tilt, t in zip(answer.tilts, np.radians(angles), strict=True):
        across = motion[3] * math.cos(t) + motion[5] * math.sin(t)
        x, y = across * math.cos(a) - motion[4] * math.sin(a), across * math.sin(a) + motion[4] * math.cos(a)
        out.append(Placement(answer.tilt_axis_deg, tilt.tx + x + 0.5, tilt.ty + y + 0.5, fields.get(tilt.section)))
    return angles + math.degrees(motion[1]), out


def measure(case: Case, seed: int, amplitude: float, patches: tuple[int, int], threads: int) -> Iterator[str]:
    """One line of the table."""
    series = simulate_local(case, seed, amplitude)
    truth, shape = series.truth, series.truth.stack.shape[1:]
    options, order = AlignOptions(PIXEL_A, case.start_axis, threads=threads), [int(i) for i in series.order]
    answer = align_series(truth.stack, truth.angles, options, None, order)
    begun = time.process_time()
    found = local_motion(truth.stack, answer, options, patches, lambda line: None, order)
    seconds = time.process_time() - begun
    shifts, angles = shifts_of(answer), truth.angles + answer.tilt_offset_deg
    fields = fields_of(found, shifts, shape)
    before = left_over(series, answer.tilt_axis_deg, shifts, angles)
    after = left_over(series, answer.tilt_axis_deg, shifts, angles, at_places(fields, shape))
    least = left_over(series, truth.axis, truth.shifts, truth.true_angles, in_the_middle(series))
    depth = round(1.2 * truth.thickness_px) // 2 * 2
    rest = [Placement(truth.axis, 0.5, 0.5)] * len(truth.angles)
    ideal = volume(-series.clean, truth.true_angles, rest, depth, threads)

    def likeness(left: Left, local: Local) -> str:
        turned, places = placements(answer, left.motion, local)
        return "{:6.3f} {:6.3f}".format(*correlations(volume(truth.stack, turned, places, depth, threads), ideal))

    yield (f"{shape[0]:5d} {case.thickness:6.0f} {amplitude:6.0f} {seed:4d}  {before.rigid_A:7.2f} {after.rigid_A:7.2f} "
           f"{least.rigid_A:7.2f}  {likeness(before, {})}   {likeness(after, fields)}  {seconds:5.0f}  {found.note}")


def run(arguments: argparse.Namespace) -> Iterator[str]:
    """The table of series that deform."""
    yield " side thick A  rms A seed  left: global  local  middle  corr. sharp    corr. sharp  cpu s  said"
    for side in arguments.sides:
        case = replace(next(case for case in CASES if case.name == "base"), shape=(side, side), thickness=arguments.thickness)
        for amplitude in arguments.amplitudes:
            for seed in range(arguments.seeds):
                yield from measure(case, seed, amplitude, tuple(arguments.patches), arguments.threads)


def spoiled(arguments: argparse.Namespace) -> Iterator[str]:
    """Rigid specimens whose images are hard: what is reported about their local motion, and what it would do."""
    for case in (case for case in CASES if case.name in HARD):
        for seed in range(arguments.seeds):
            truth = simulate(case, seed)
            options = AlignOptions(PIXEL_A, case.start_axis, threads=arguments.threads)
            answer = align_series(truth.stack, truth.angles, options)
            found = local_motion(truth.stack, answer, options, tuple(arguments.patches), lambda line: None)
            count, shape, shifts = len(truth.angles), truth.stack.shape[1:], shifts_of(answer)
            used = np.array([tilt.used for tilt in answer.tilts])
            still = Deformed(truth.only(used), np.arange(count)[used], np.empty(0), 1.0, np.zeros((count, 6, 3)),
                             (np.zeros(2), np.zeros((3, 2)), np.zeros(3)))
            sections = np.flatnonzero(used)
            fields = fields_of(found, shifts, shape)
            kept = {k: fields[int(section)] for k, section in enumerate(sections) if int(section) in fields}
            where = (answer.tilt_axis_deg, shifts[used], truth.angles[used] + answer.tilt_offset_deg)
            yield (f"{case.name:16s} seed {seed}: {left_over(still, *where).rigid_A:5.2f} A global, "
                   f"{left_over(still, *where, at_places(kept, shape)).rigid_A:5.2f} A local: {found.note}")


def fits(images: np.ndarray, pose: Pose, pixel_A: float, band_A: tuple[float, float], threads: int) -> np.ndarray:
    """How well (n,) each aligned image fits to what its neighbours predict for it, between two resolutions."""
    work = work_stack(images, pixel_A, pixel_A, threads)
    lowest, highest = (work.pixel_A / length for length in band_A)
    band = cut_band(work, pose, np.arange(len(images)), lowest, highest, threads)
    return prediction(band, pose, band.cells.weight, pose.tilts_deg, np.ones(len(images), bool))


def real(arguments: argparse.Namespace) -> Iterator[str]:
    """A real series: what is found, and whether tilts fit their neighbours better with it."""
    import mrcfile

    stack = np.array(mrcfile.read(arguments.real[0]), np.float32)
    with open(arguments.real[1]) as lines:
        rows = list(csv.reader(lines))[1:]
    angles, order = np.array([float(row[1]) for row in rows]), [int(row[3]) for row in rows]
    options = AlignOptions(arguments.pixel, arguments.axis, threads=arguments.threads)
    answer = align_series(stack, angles, options, None, order)
    found = local_motion(stack, answer, options, tuple(arguments.patches), lambda line: None, order)
    yield found.note
    used, shifts = [tilt.section for tilt in answer.tilts if tilt.used], shifts_of(answer)
    aligner = Aligner(stack.shape[1:], aligned_size(stack.shape[1:], answer.tilt_axis_deg, 1.0), 1.0, arguments.threads)
    tilts = angles[used] + answer.tilt_offset_deg
    pose = Pose(tilts, 0.0, np.zeros((len(used), 2)), answer.thickness_A / arguments.pixel)
    aligned = []
    for fields in ({}, fields_of(found, shifts, stack.shape[1:])):
        places = [Placement(answer.tilt_axis_deg, *(shifts[k] + 0.5), fields.get(k)) for k in used]
        aligned.append(np.stack([aligner.image(stack[k], place) for k, place in zip(used, places, strict=True)]))
    for band in ((200.0, 33.3), (33.3, 2.2 * arguments.pixel)):
        before, after = (fits(images, pose, arguments.pixel, band, arguments.threads) for images in aligned)
        yield (f"1/{band[0]:.0f} to 1/{band[1]:.0f} A: correlation {before.mean():.4f} global, {after.mean():.4f} local; "
               f"better at {np.sum(after > before)} of {len(used)} tilts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--amplitudes", nargs="*", type=float, default=[0.0, 5.0, 10.0, 20.0, 40.0], help="A, RMS")
    parser.add_argument("--sides", nargs="*", type=int, default=[512], help="of the field, px")
    parser.add_argument("--thickness", type=float, default=1500.0, help="of the specimen, A")
    parser.add_argument("--patches", nargs=2, type=int, default=[4, 4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--spoiled", action="store_true", help="rigid series that are hard")
    parser.add_argument("--real", nargs=2, metavar=("STACK", "TILTS"))
    parser.add_argument("--pixel", type=float, default=10.0)
    parser.add_argument("--axis", type=float, default=0.0)
    arguments = parser.parse_args()
    table = real if arguments.real else spoiled if arguments.spoiled else run
    for line in table(arguments):
        print(line, flush=True)


if __name__ == "__main__":
    main()
