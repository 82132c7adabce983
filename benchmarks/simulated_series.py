# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated tilt series with known truth, for `engine_align.py`.

A phantom is a cloud of points (particles, small proteins, vesicles, folded membranes) in a slab; it is projected
exactly, with contrast transfer, absorption and counting noise; 3 e/A2 a tilt unless said otherwise. A series can be
spoiled: by grid bars, ice, slipped tilts and so on; then it is known which tilts must be found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

PIXEL_A = 10.8


@dataclass(frozen=True)
class Case:
    """One simulated series: lengths in A, angles in degrees, dose in e/A2 a tilt; `thicker`: A of thickness to an A across."""

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
    thicker: float = 0.0
    full_search: bool = False
    spoiled: str = ""


FEW = (288, 288)

CASES = (
    Case("base"),
    Case("thin", thickness=900.0, contrast=0.03),
    Case("pre-tilt 9", own_tilt=9.0),
    Case("pre-tilt 4", own_tilt=4.0),
    Case("lamella 17", own_tilt=17.0, shape=(288, 288), thickness=1300.0, angles=(-69.0, 45.0, 3.0)),
    Case("lamella -20", own_tilt=-20.0, shape=(288, 288), thickness=1300.0, angles=(-39.0, 66.0, 3.0)),
    Case("lamella -15, -60 to 60", own_tilt=-15.0, shape=(288, 288), thickness=1500.0),
    Case("-6, one side", own_tilt=-6.0, shape=(288, 288), thickness=1300.0, angles=(0.0, 60.0, 2.0)),
    Case("hard", thickness=2200.0, contrast=0.03, dose=2.0),
    Case("wedge", thickness=2000.0, wedge=True, jitter=0.2),
    Case("thicker to one side", thickness=1500.0, thicker=0.1),
    Case("wide, axis -4", shape=(384, 544), axis=-4.0, start_axis=-6.0),
    Case("wide, axis 88", shape=(384, 544), axis=88.0, start_axis=90.0),
    Case("tall, axis 40", shape=(544, 384), axis=40.0, start_axis=38.0),
    Case("unknown axis", axis=-37.0, start_axis=0.0, full_search=True),
    Case("-40 to 64", angles=(-40.0, 64.0, 2.0)),
    Case("21 tilts", angles=(-50.0, 50.0, 5.0)),
    Case("121 tilts", angles=(-60.0, 60.0, 1.0), dose=1.0),
    Case("small 256", shape=(256, 256), angles=(-48.0, 48.0, 6.0), thickness=1000.0),
    Case("large 1024", shape=(1024, 1024)),
    Case("400 A thin", thickness=400.0, contrast=0.03),
    Case("4000 A thick", thickness=4000.0),
    Case("axis 40 deg off", shape=FEW, thickness=1300.0, start_axis=124.7),
    Case("bar sweeps in", shape=FEW, thickness=1300.0, spoiled="bar"),
    Case("half blocked", shape=FEW, thickness=1300.0, spoiled="half"),
    Case("ice", shape=FEW, thickness=1300.0, spoiled="ice"),
    Case("ice, jumping", shape=FEW, thickness=1300.0, spoiled="jumping ice"),
    Case("slipped", shape=FEW, thickness=1300.0, spoiled="slipped"),
    Case("out of the field", shape=FEW, thickness=1300.0, spoiled="out of the field"),
    Case("mixed", shape=FEW, thickness=1300.0, spoiled="mixed"),
)

#: Sets of small series, in which many can be run: those of the sets above that are, and smaller ones of others.
SMALL = tuple(case for case in CASES if case.shape == FEW) + tuple(
    replace(case, name=f"{case.name}, small", shape=FEW) for case in CASES
    if case.name in ("base", "thin", "pre-tilt 9", "pre-tilt 4", "hard", "wedge", "thicker to one side", "-40 to 64", "21 tilts")
) + tuple(case for case in CASES if case.name == "small 256")


@dataclass(frozen=True)
class Truth:
    """A simulated series: stack (n, rows, columns), nominal and true angles, shifts (n, 2) in pixels.

    `bad` tilts show nothing of the specimen (or are copies) and must be left out; `spoiled` tilts may be.
    """

    stack: np.ndarray
    angles: np.ndarray
    true_angles: np.ndarray
    axis: float
    shifts: np.ndarray
    thickness_px: float
    bad: frozenset[int] = frozenset()
    spoiled: frozenset[int] = frozenset()

    def only(self, keep: np.ndarray) -> Truth:
        """The series of some of its tilts, by a mask (n,)."""
        return replace(self, stack=self.stack[keep], angles=self.angles[keep], true_angles=self.true_angles[keep],
                       shifts=self.shifts[keep])


def phantom(random: np.random.Generator, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3) in A, and weights; the field is wide enough for the steepest tilt."""
    field = math.hypot(*case.shape) * PIXEL_A if abs(math.sin(2 * math.radians(case.axis))) > 0.5 else (
        max(case.shape) * PIXEL_A)
    steepest = math.radians(max(map(abs, case.angles[:2])))
    wide = field / math.cos(steepest) * 1.05 + case.thickness * math.tan(steepest)
    long, thick = field * 1.2, case.thickness + 0.5 * abs(case.thicker) * wide
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
    if case.thicker:
        keep = np.abs(points[:, 2]) < (case.thickness + case.thicker * points[:, 0]) / 2
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


def stage(random: np.random.Generator, angles: np.ndarray, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """What the stage does: shifts (n, 2) that wander by up to 15 px, none at 0 degrees, and the angles it really has."""
    shifts = np.cumsum(random.normal(size=(len(angles), 2)), axis=0) + 1.5 * random.normal(size=(len(angles), 2))
    shifts -= shifts[np.argmin(np.abs(angles))]
    shifts *= 15.0 / np.abs(shifts).max()
    true_angles = angles + random.normal(scale=case.jitter, size=len(angles))
    return shifts, true_angles


def exposure(random: np.random.Generator, clean: np.ndarray, level: float, nominal: float, case: Case) -> np.ndarray:
    """Counts of one tilt, float32: the `clean` projection, in units of `level`, on what ice lets through, with shot noise."""
    flux = case.dose * PIXEL_A**2 * 0.6 * math.exp(-case.thickness / 3100.0 / math.cos(math.radians(nominal)))
    counts = flux * (1.0 - case.contrast * (clean - clean.mean()) / level)
    return random.poisson(np.maximum(counts, 0.0)).astype(np.float32)


def simulate(case: Case, seed: int) -> Truth:
    """A series of a phantom with wandering shifts of up to 15 pixels."""
    random = np.random.default_rng(1000 + seed)
    angles = np.arange(case.angles[0], case.angles[1] + 0.1, case.angles[2])
    points, weights = phantom(random, case)
    shifts, true_angles = stage(random, angles, case)
    chance = np.random.default_rng(5000 + seed)
    jumped = JUMPS.get(case.spoiled, {})
    for tilt, pixels in jumped.items():
        shifts[tilt] += chance.choice([-1.0, 1.0], 2) * pixels * chance.uniform(0.7, 1.3, 2)
    level = np.std(project(points, weights, case, 0.0, np.zeros(2)))
    stack = []
    for tilt, nominal, shift in zip(true_angles, angles, shifts, strict=True):
        clean = project(points, weights, case, tilt, shift)
        stack.append(exposure(random, clean, level, nominal, case))
    truth = Truth(np.array(stack), angles, true_angles, case.axis, shifts, case.thickness / PIXEL_A)
    return spoil(truth, case, chance)


JUMPS = {
    "slipped": {4: 30.0, 9: 70.0, 10: 70.0, 28: 30.0, 36: 70.0},
    "out of the field": {3: 900.0, 33: 900.0},
}


def spoil(truth: Truth, case: Case, random: np.random.Generator) -> Truth:
    """The series with what `case.spoiled` names; made for 41 tilts."""
    stack = truth.stack.copy()

    def blocked(tilt: int, share: float) -> None:
        columns = stack.shape[2]
        edge = gaussian_filter1d((np.arange(columns) < columns * share).astype(float), 2.0)
        dark = random.poisson(0.03 * stack[tilt].mean(), stack[tilt].shape)
        stack[tilt] = stack[tilt] * (1.0 - edge) + dark * edge

    if case.spoiled == "bar":
        for tilt, share in ((36, 0.15), (37, 0.3), (38, 0.5), (39, 0.7), (40, 1.0)):
            blocked(tilt, share)
        return replace(truth, stack=stack, bad=frozenset({40}), spoiled=frozenset({36, 37, 38, 39}))
    if case.spoiled == "half":
        for tilt in (10, 11, 30, 31):
            blocked(tilt, 0.5)
        return replace(truth, stack=stack, spoiled=frozenset({10, 11, 30, 31}))
    if case.spoiled == "ice":
        return replace(truth, stack=iced(truth, case, random))
    if case.spoiled == "jumping ice":
        for tilt in range(22, 41):
            stack[tilt] = random.poisson(stack[tilt] * crystals(truth, case, random, 3 + (tilt - 20) // 4))
        return replace(truth, stack=stack, spoiled=frozenset(range(22, 41)))
    if case.spoiled == "out of the field":
        return replace(truth, bad=frozenset({3, 33}))
    if case.spoiled == "mixed":
        stack[15], stack[7], stack[30] = stack[14], 5.0, stack[30] * 0.15
        stack[20] = random.poisson(stack[20].mean(), stack[20].shape)
        blocked(39, 0.6)
        return replace(truth, stack=stack, bad=frozenset({7, 15, 20, 30}), spoiled=frozenset({14, 39}))
    return truth


def crystals(truth: Truth, case: Case, random: np.random.Generator, count: int) -> np.ndarray:
    """Transmission (rows, columns) of crystals anywhere."""
    places = random.random((count, 2)) * truth.stack.shape[:0:-1]
    return transmission(truth.stack.shape[1:], places, random.uniform(110.0, 330.0, count))


def transmission(shape: tuple[int, ...], places: np.ndarray, radii_A: np.ndarray) -> np.ndarray:
    """Transmission (rows, columns) of round crystals at `places` (n, 2), pixels (x, y)."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    depth = np.zeros(shape)
    for place, radius in zip(places, radii_A / PIXEL_A, strict=True):
        depth += 0.7 * np.exp(-((((x - place[0]) ** 2 + (y - place[1]) ** 2) / radius**2) ** 2))
    return np.exp(-depth)


def iced(truth: Truth, case: Case, random: np.random.Generator) -> np.ndarray:
    """The stack with 60 crystals that fall on both surfaces of the specimen while it is imaged outward from 0 degrees."""
    order = np.argsort(np.argsort(np.abs(truth.angles), kind="stable"))
    across, along = (random.random((2, 60)) - 0.5) * np.array([[5200.0], [3400.0]])
    height = random.choice([-0.5, 0.5], 60) * case.thickness
    fallen, radii = random.integers(5, len(order), 60), random.uniform(60.0, 300.0, 60)
    axis, stack = math.radians(case.axis), truth.stack.copy()
    for tilt, angle in enumerate(np.radians(truth.true_angles)):
        seen = across * math.cos(angle) + height * math.sin(angle)
        x = (seen * math.cos(axis) - along * math.sin(axis)) / PIXEL_A + truth.shifts[tilt, 0] + stack.shape[2] / 2
        y = (seen * math.sin(axis) + along * math.cos(axis)) / PIXEL_A + truth.shifts[tilt, 1] + stack.shape[1] / 2
        there = fallen <= order[tilt]
        light = transmission(stack.shape[1:], np.stack([x, y], axis=1)[there], radii[there])
        stack[tilt] = random.poisson(stack[tilt] * light)
    return stack


def residual(truth: Truth, axis: float, shifts: np.ndarray, angles: np.ndarray) -> float:
    """RMS over tilts of the residual shift in pixels after a rigid motion of the specimen."""
    return float(np.sqrt(np.mean(np.sum(residuals(truth, axis, shifts, angles) ** 2, axis=1))))


def residuals(truth: Truth, axis: float, shifts: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Residual shift of every tilt (n, 2) in pixels after the rigid motion of the specimen that leaves least."""
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
    return left(best.x).mean(axis=1)
