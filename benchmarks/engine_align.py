# SPDX-License-Identifier: GPL-3.0-or-later
"""Accuracy and speed of the tilt-series alignment, on simulated series with known truth and on real ones.

    python benchmarks/engine_align.py                              # all sets, one seed
    python benchmarks/engine_align.py --seeds 10 --sets base thin  # ten seeds of two sets
    python benchmarks/engine_align.py --thicker 1.0                # the likelihood's own thickness (series.THICKER)
    python benchmarks/engine_align.py --real STACK.mrc TILTS.csv --pixel 10 --axis -5

A phantom is a cloud of points (particles, small proteins, vesicles, folded membranes) in a slab; it is projected
exactly, with contrast transfer, absorption and counting noise; 3 e/A2 a tilt unless said otherwise. Residuals are
what is left of the shifts after a rigid motion of the specimen, RMS over tilts, in pixels of the input (10.8 A; twice
that in pixels of 5.4 A). "matching" is projection matching in AreTomo's manner from the same parts: cosine-stretched
neighbours within 20 degrees, low-passed by the slab, summed; the axis from common lines; thickness given by the truth.

TILTS.csv has a header; its second column holds tilt angles in degrees, in the order of the stack.
"""

from __future__ import annotations

import argparse
import csv
import math
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from tomostream.engine.align import Alignment, AlignOptions, align_series, series
from tomostream.engine.align.commonline import axis_by_common_line
from tomostream.engine.align.geometry import Pose
from tomostream.engine.align.likelihood import coherence
from tomostream.engine.align.pipeline import Bench, match_outward
from tomostream.engine.align.preprocess import work_stack
from tomostream.engine.align.projection import find_peak, outward_order, shift_map
from tomostream.engine.align.spectra import phases

PIXEL_A = 10.8


@dataclass(frozen=True)
class Case:
    """One simulated series: lengths in A, angles in degrees, dose in e/A2 a tilt."""

    name: str
    shape: tuple[int, int] = (512, 512)
    axis: float = 84.7
    start_axis: float = 87.2
    angles: tuple[float, float, float] = (-60.0, 60.0, 3.0)
    thickness: float = 1500.0
    dose: float = 3.0
    contrast: float = 0.04
    own_tilt: float = 0.0
    jitter: float = 0.05
    wedge: bool = False
    full_search: bool = False


CASES = (
    Case("base"),
    Case("thin", thickness=900.0, contrast=0.03),
    Case("pre-tilt 9", own_tilt=9.0),
    Case("hard", thickness=2200.0, contrast=0.03, dose=2.0),
    Case("wedge", thickness=2000.0, wedge=True, jitter=0.2),
    Case("wide, axis -4", shape=(384, 544), axis=-4.0, start_axis=-6.0),
    Case("wide, axis 88", shape=(384, 544), axis=88.0, start_axis=90.0),
    Case("tall, axis 40", shape=(544, 384), axis=40.0, start_axis=38.0),
    Case("unknown axis", axis=-37.0, start_axis=0.0, full_search=True),
    Case("-40 to 64", angles=(-40.0, 64.0, 2.0)),
    Case("21 tilts", angles=(-50.0, 50.0, 5.0)),
    Case("121 tilts", angles=(-60.0, 60.0, 1.0), dose=1.0),
    Case("small 256", shape=(256, 256), angles=(-48.0, 48.0, 6.0), thickness=1000.0),
)


@dataclass(frozen=True)
class Truth:
    """A simulated series: stack (n, rows, columns), nominal and true angles, shifts (n, 2) in pixels."""

    stack: np.ndarray
    angles: np.ndarray
    true_angles: np.ndarray
    axis: float
    shifts: np.ndarray
    thickness_px: float


def phantom(random: np.random.Generator, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3) in A, and weights; the field is wide enough for the steepest tilt."""
    field = math.hypot(*case.shape) * PIXEL_A if abs(math.sin(2 * math.radians(case.axis))) > 0.5 else (
        max(case.shape) * PIXEL_A)
    steepest = math.radians(max(map(abs, case.angles[:2])))
    wide = field / math.cos(steepest) * 1.05 + case.thickness * math.tan(steepest)
    long, thick = field * 1.2, case.thickness
    volume = wide * long * thick

    def anywhere(count: int, fill: float) -> np.ndarray:
        return (random.random((count, 3)) - 0.5) * [wide, long, thick * fill]

    body = random.normal(size=(40, 3))
    body *= 115 * random.random((40, 1)) ** (1 / 3) / np.linalg.norm(body, axis=1, keepdims=True)
    particles = [body @ Rotation.random(random_state=random).as_matrix().T + c
                 for c in anywhere(int(7e-9 * volume), 0.92)]
    proteins = np.repeat(anywhere(int(volume / 150**3), 0.96), 3, axis=0)
    proteins += random.normal(scale=22.0, size=proteins.shape)
    shells = []
    for centre in anywhere(int(7e-11 * volume), 1.0):
        radius = random.uniform(250, 1100)
        ball = random.normal(size=(int(4 * math.pi * radius**2 / 24**2), 3))
        shells.append(centre + radius * ball / np.linalg.norm(ball, axis=1, keepdims=True))
    sheets = []
    for place in (-0.31, 0.06, 0.36):
        flat = (random.random((int(2 * long * thick / 24**2), 3)) - 0.5) * [36.0, long, thick]
        flat[:, 0] += place * wide + 260 * np.sin(flat[:, 1] / 700 + place) + 120 * np.sin(flat[:, 2] / 400)
        sheets.append(flat)
    groups = ((np.concatenate(particles), 1.75), (proteins, 1.1), (np.concatenate([*shells, *sheets]), 0.5))
    points = np.concatenate([group for group, _ in groups])
    weights = np.concatenate([np.full(len(group), weight) for group, weight in groups])
    keep = np.abs(points[:, 2]) < thick / 2
    if case.wedge:
        local = 900.0 + (thick - 900.0) * (points[:, 1] / long + 0.5)
        keep &= (np.abs(points[:, 2]) < local / 2) & ~((points[:, 0] > 0.18 * field) & (points[:, 1] > 0.1 * field))
    turn = Rotation.from_euler("y", case.own_tilt, degrees=True).as_matrix()
    return points[keep] @ turn.T, weights[keep]


def contrast_transfer(shape: tuple[int, int], defocus: float = 45000.0) -> np.ndarray:
    """Contrast transfer at 300 kV with a little envelope, and the size of the points."""
    wavelength = 0.0196875
    square = np.fft.fftfreq(shape[0], PIXEL_A)[:, None] ** 2 + np.fft.rfftfreq(shape[1], PIXEL_A)[None] ** 2
    phase = math.pi * wavelength * square * (defocus - 0.5 * 2.7e7 * wavelength**2 * square) + math.asin(0.07)
    return np.sin(phase) * np.exp(-15.0 * square - 2.0 * math.pi**2 * 81.0 * square)


def project(points: np.ndarray, weights: np.ndarray, case: Case, tilt: float, shift: np.ndarray) -> np.ndarray:
    """Noise-free image of the points at one tilt, linear splatting."""
    t, a = math.radians(tilt), math.radians(case.axis)
    across = points[:, 0] * math.cos(t) + points[:, 2] * math.sin(t)
    x = (across * math.cos(a) - points[:, 1] * math.sin(a)) / PIXEL_A + shift[0]
    y = (across * math.sin(a) + points[:, 1] * math.cos(a)) / PIXEL_A + shift[1]
    rows, columns = case.shape[0] + 64, case.shape[1] + 64
    x, y = x + columns / 2, y + rows / 2
    i, j = np.floor(y).astype(int), np.floor(x).astype(int)
    inside = (i >= 0) & (j >= 0) & (i < rows - 1) & (j < columns - 1)
    i, j, fy, fx, w = i[inside], j[inside], (y - i)[inside], (x - j)[inside], weights[inside]
    image = np.zeros(rows * columns)
    corners = ((0, 0, (1 - fy) * (1 - fx)), (0, 1, (1 - fy) * fx), (1, 0, fy * (1 - fx)), (1, 1, fy * fx))
    for down, right, part in corners:
        image += np.bincount((i + down) * columns + j + right, w * part, rows * columns)
    spectrum = scipy.fft.rfft2(image.reshape(rows, columns)) * contrast_transfer((rows, columns))
    return scipy.fft.irfft2(spectrum, s=(rows, columns))[32:-32, 32:-32]


def simulate(case: Case, seed: int) -> Truth:
    """A series of a phantom with wandering shifts of up to 15 pixels."""
    random = np.random.default_rng(1000 + seed)
    angles = np.arange(case.angles[0], case.angles[1] + 0.1, case.angles[2])
    points, weights = phantom(random, case)
    shifts = np.cumsum(random.normal(size=(len(angles), 2)), axis=0) + 1.5 * random.normal(size=(len(angles), 2))
    shifts -= shifts[np.argmin(np.abs(angles))]
    shifts *= 15.0 / np.abs(shifts).max()
    true_angles = angles + random.normal(scale=case.jitter, size=len(angles))
    level = np.std(project(points, weights, case, 0.0, np.zeros(2)))
    stack = []
    for tilt, nominal, shift in zip(true_angles, angles, shifts, strict=True):
        clean = project(points, weights, case, tilt, shift)
        flux = case.dose * PIXEL_A**2 * 0.6 * math.exp(-case.thickness / 3100.0 / math.cos(math.radians(nominal)))
        counts = flux * (1.0 - case.contrast * (clean - clean.mean()) / level)
        stack.append(random.poisson(np.maximum(counts, 0.0)).astype(np.float32))
    return Truth(np.array(stack), angles, true_angles, case.axis, shifts, case.thickness / PIXEL_A)


def residual(truth: Truth, axis: float, shifts: np.ndarray, angles: np.ndarray) -> float:
    """RMS over tilts of the residual shift in pixels after a rigid motion of the specimen."""
    side = np.linspace(-0.35, 0.35, 5) * min(truth.stack.shape[1:])
    grid = np.stack(np.meshgrid(side, side, np.array([-0.4, 0.0, 0.4]) * truth.thickness_px), axis=-1).reshape(-1, 3)

    def seen(points: np.ndarray, tilt: float, turn: float, shift: np.ndarray) -> np.ndarray:
        t, a = math.radians(tilt), math.radians(turn)
        across = points[:, 0] * math.cos(t) + points[:, 2] * math.sin(t)
        x = across * math.cos(a) - points[:, 1] * math.sin(a)
        y = across * math.sin(a) + points[:, 1] * math.cos(a)
        return np.stack([x, y], axis=1) + shift

    count = range(len(truth.angles))
    true = np.array([seen(grid, truth.true_angles[k], truth.axis, truth.shifts[k]) for k in count])

    def left(p: np.ndarray) -> np.ndarray:
        moved = Rotation.from_rotvec(p[:3]).apply(grid) + p[3:]
        return np.array([seen(moved, angles[k], axis, shifts[k]) for k in count]) - true

    start = np.array([0.0, math.radians(truth.angles[0] - angles[0]), 0.0, 0.0, 0.0, 0.0])
    best = least_squares(lambda p: left(p).ravel(), start, x_scale=[1e-3] * 3 + [1.0] * 3)
    return float(np.sqrt(np.mean(np.sum(left(best.x).mean(axis=1) ** 2, axis=1))))


def matching(truth: Truth, case: Case, threads: int) -> tuple[float, np.ndarray]:
    """Projection matching in AreTomo's manner: axis and shifts (n, 2)."""
    images = work_stack(truth.stack, PIXEL_A, 10.0, threads)
    bench = Bench(images, np.arange(len(truth.angles)), threads)
    pose = Pose(truth.angles, case.start_axis, np.zeros_like(truth.shifts), truth.thickness_px)
    pose, _ = match_outward(bench, pose, 0.015, 2000.0, False, True)
    for number in range(4):
        pose = match_in_turn(bench, pose)
        if number == 1:
            trials = pose.axis_deg + np.arange(-8.0, 8.1, 1.0)
            pose = pose.turned(axis_by_common_line(images, pose, bench.members, trials, (0.006, 0.2), threads))
    return pose.axis_deg, pose.shifts


def match_in_turn(bench: Bench, pose: Pose) -> Pose:
    """One pass: each tilt against the low-passed sum of up to ten neighbours within 20.5 degrees."""
    band = bench.cut(pose, 0.025)
    tangents, angles = pose.tangents(), pose.tilts_deg
    start = int(np.argmin(np.abs(angles)))
    values, done, moves = band.values.copy(), [start], np.zeros((len(angles), 2))
    fall = np.exp(-2.0 * (band.cells.middle_ky() ** 2 + band.cells.kx**2) / 0.25**2)
    for tilt in outward_order(angles, start)[1:]:
        distance = np.abs(angles - angles[tilt])
        near = [j for j in np.argsort(distance) if j in done and distance[j] < 20.5]
        reference = np.zeros_like(values[:, 0])
        for j in (near or [done[-1]])[:10]:
            weight = coherence(pose.thickness, band.cells.kx, tangents[tilt] - tangents[j])
            reference += values[:, j] * (weight * math.cos(math.radians(angles[tilt] - angles[j])) * fall)[:, None]
        grid, spacing = shift_map(band, values[:, tilt] * np.conj(reference))
        moves[tilt] = find_peak(grid, spacing, 40.0).move
        values[:, tilt] = (values[:, [tilt]] * phases(band.cells, moves[[tilt]]))[:, 0]
        done.append(tilt)
    return pose.moved(moves)


def tiltxcorr(truth: Truth, case: Case) -> tuple[float, np.ndarray] | None:
    """torch-tiltxcorr's shifts where it is installed (it takes the axis as given); None elsewhere."""
    try:
        import torch
        from torch_tiltxcorr import tiltxcorr as run
    except ImportError:
        return None
    stack = torch.from_numpy(truth.stack - truth.stack.mean(axis=(1, 2), keepdims=True))
    found = run(tilt_series=stack, tilt_angles=torch.from_numpy(truth.angles).float(), tilt_axis_angle=case.start_axis,
                pixel_spacing_angstroms=PIXEL_A, lowpass_angstroms=40)
    shifts = np.asarray(found[0] if isinstance(found, tuple) else found)[:, ::-1]
    return case.start_axis, -shifts


def shifts_of(answer: Alignment) -> np.ndarray:
    """Shifts (n, 2) of an answer."""
    return np.array([(tilt.tx, tilt.ty) for tilt in answer.tilts])


def measure(case: Case, seed: int, threads: int) -> str:
    """One line of the table."""
    truth = simulate(case, seed)
    options = AlignOptions(PIXEL_A, case.start_axis, full_axis_search=case.full_search, threads=threads)
    begun = time.perf_counter()
    answer = align_series(truth.stack, truth.angles, options)
    seconds = time.perf_counter() - begun
    used = np.array([tilt.used for tilt in answer.tilts])       # one that is left out has no shift to be wrong
    kept = replace(truth, stack=truth.stack[used], angles=truth.angles[used], true_angles=truth.true_angles[used],
                   shifts=truth.shifts[used])
    ours = residual(kept, answer.tilt_axis_deg, shifts_of(answer)[used], kept.angles + answer.tilt_offset_deg)
    axis, shifts = matching(truth, case, threads)
    theirs = residual(truth, axis, shifts, truth.angles)
    torch_result = tiltxcorr(truth, case)
    last = "" if torch_result is None else f"{residual(truth, *torch_result, truth.angles):9.2f}"
    sigma = np.sqrt(np.mean([np.sum(np.square(t.sigma_px)) for t in answer.tilts if t.sigma_px is not None]))
    unused = sum(not tilt.used for tilt in answer.tilts)
    return (
        f"{case.name:15s} {seed:4d} {ours:8.3f} {sigma:8.3f} {answer.tilt_axis_deg - case.axis:+8.2f} "
        f"{answer.tilt_offset_deg - case.own_tilt:+8.2f} {answer.thickness_A:8.0f} {answer.quality:6.2f} "
        f"{unused:6d} {seconds:7.1f} {theirs:9.2f} {last}"
    )


def real(stack_path: str, tilts_path: str, pixel: float, axis: float, threads: int) -> Iterator[str]:
    """Checks that need no reference: even and odd tilts apart, and each tilt left out and predicted."""
    import mrcfile

    with mrcfile.open(stack_path, permissive=True) as opened:
        stack = np.array(opened.data)
    with open(tilts_path) as lines:
        angles = np.array([float(row[1]) for row in list(csv.reader(lines))[1:]])
    options = AlignOptions(pixel, axis, threads=threads)
    begun = time.perf_counter()
    whole = align_series(stack, angles, options)
    yield (f"whole series: {time.perf_counter() - begun:.1f} s, axis {whole.tilt_axis_deg:.2f}, offset "
           f"{whole.tilt_offset_deg:+.2f} deg, thickness {whole.thickness_A:.0f} A, {whole.quality:.2f} "
           f"{whole.quality_note}")
    order = np.argsort(angles)
    for name, half in (("even", order[::2]), ("odd", order[1::2])):
        answer = align_series(stack[half], angles[half], replace(options, tilt_axis_deg=whole.tilt_axis_deg))
        truth = Truth(stack[half], angles[half], angles[half] + whole.tilt_offset_deg, whole.tilt_axis_deg,
                      shifts_of(whole)[half], whole.thickness_A / pixel)
        left = residual(truth, answer.tilt_axis_deg, shifts_of(answer), angles[half] + answer.tilt_offset_deg)
        yield (f"{name} tilts aligned alone, from nothing: {left:.2f} px from the whole, axis "
               f"{answer.tilt_axis_deg:.2f}, offset {answer.tilt_offset_deg:+.2f} deg, "
               f"thickness {answer.thickness_A:.0f} A")
    for number, (fit, angle) in enumerate(zip(consistency(stack, whole, angles, pixel, threads), angles, strict=True)):
        yield f"section {number:3d} {angle:7.2f} deg: correlation with its neighbours' prediction {fit:.3f}"


def consistency(stack: np.ndarray, answer: Alignment, angles: np.ndarray, pixel: float, threads: int) -> list[float]:
    """Correlation of each tilt with the slab prediction of those within 12 degrees, whitened, 0.02 - 0.2 cycles/px."""
    images = work_stack(stack, pixel, 10.0, threads)
    shifts = shifts_of(answer) / images.scale
    pose = Pose(angles + answer.tilt_offset_deg, answer.tilt_axis_deg, shifts, answer.thickness_A / images.pixel_A)
    band = Bench(images, np.arange(len(angles)), threads).cut(pose, 0.02)
    weight = band.cells.weight * (np.hypot(band.cells.kx[:, None], band.cells.ky) > 0.02)
    tangents, out = pose.tangents(), []
    for tilt in range(len(angles)):
        mixed = np.zeros_like(band.values[:, 0])
        for other in np.flatnonzero(np.abs(angles - angles[tilt]) <= 12.0):
            if other != tilt and answer.tilts[other].used:
                mixed += band.values[:, other] * coherence(
                    pose.thickness, band.cells.kx, tangents[tilt] - tangents[other])[:, None].astype(np.float32)
        own = band.values[:, tilt]
        top = np.sum(weight * np.real(own * np.conj(mixed)))
        norm = math.sqrt(float(np.sum(weight * np.abs(own) ** 2) * np.sum(weight * np.abs(mixed) ** 2)))
        out.append(float(top / norm) if norm > 0 else 0.0)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--thicker", type=float, default=series.THICKER)
    parser.add_argument("--real", nargs=2, metavar=("STACK", "TILTS"))
    parser.add_argument("--pixel", type=float, default=10.0)
    parser.add_argument("--axis", type=float, default=0.0)
    arguments = parser.parse_args()
    series.THICKER = arguments.thicker
    if arguments.real:
        for line in real(*arguments.real, arguments.pixel, arguments.axis, arguments.threads):
            print(line, flush=True)
        return
    print("set             seed   rms px sigma px axis err  off err  thick A   qual unused  time s  matching tiltxcorr")
    for case in CASES:
        for seed in range(arguments.seeds if case.name in arguments.sets else 0):
            print(measure(case, seed, arguments.threads), flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB (simulation included)")


if __name__ == "__main__":
    main()
