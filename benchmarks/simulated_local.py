# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated tilt series of a specimen that deforms while it is imaged, with known truth, for `engine_local.py`.

The phantom, the noise and the wandering of the stage are those of `simulated_series.py`. In addition every point of the
specimen moves by a smooth field u(X, Y) that grows with the dose, tilt by tilt in a dose-symmetric order: a dome that rises
with the first tilts (so it is seen across the axis as sin t), the radial shear that goes with it, and a slow creep in the plane
of the specimen. The amplitude is what a perfect global alignment leaves: RMS over tilts and field of the image displacement,
without the mean of each tilt and without what only changes the shape of the specimen for all tilts alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation
from simulated_series import PIXEL_A, Case, Truth, exposure, phantom, project, stage

BASE = Case("base")
RISE_DOSE = 12.0  # e/A2 after which the dome has risen to 1 - 1/e


@dataclass(frozen=True)
class Deformed:
    """A simulated series and what its specimen did.

    `order` (n,) from 0; `clean` (n, rows, columns): noise-free images of the specimen at rest, without shifts; `scale` (n, 6, 3):
    how far each of the fields of `spatial` moves the specimen in A at each tilt; `shapes`: centre, waves and phases of these.
    """

    truth: Truth
    order: np.ndarray
    clean: np.ndarray
    field_A: float
    scale: np.ndarray
    shapes: tuple[np.ndarray, ...]

    def displacement(self, points: np.ndarray, tilt: int) -> np.ndarray:
        """How far `points` (m, 3) in A have moved at a tilt, (m, 3) in A."""
        return np.einsum("ms,sc->mc", spatial(points, self.field_A, self.shapes), self.scale[tilt])


def spatial(points: np.ndarray, field_A: float, shapes: tuple[np.ndarray, ...]) -> np.ndarray:
    """The fields' shapes at `points` (m, 3): (m, S) - dome, shear along x and y, three creeping waves."""
    centre, waves, phase = shapes
    p = points[:, :2] / (0.5 * field_A) - centre
    bump = np.exp(-0.5 * np.sum(p**2, axis=1) / 0.65**2)
    creep = np.sin(p @ waves.T + phase)
    return np.concatenate([bump[:, None], p * bump[:, None], creep], axis=1)


def dose_symmetric(angles: np.ndarray) -> np.ndarray:
    """Acquisition order (n,) from 0: 0, 3, -3, -6, 6, 9, ..."""
    rank = np.argsort(np.argsort(np.abs(angles), kind="stable"), kind="stable")
    pair = (rank + 1) // 2
    first = np.where((pair % 2 == 1) == (angles > 0), 2 * pair - 1, 2 * pair)
    return np.where(rank == 0, 0, first)


def histories(order: np.ndarray, dose: float, random: np.random.Generator) -> np.ndarray:
    """What each shape does at each tilt, (n, 6, 3), before scaling: components x, y, z."""
    exposure = order * dose + 0.5 * dose
    rise = 1.0 - np.exp(-exposure / RISE_DOSE)
    slow = exposure / exposure.max()
    out = np.zeros((len(order), 6, 3))
    out[:, 0, 2] = 2.2 * rise
    out[:, 1, 0] = out[:, 2, 1] = -0.8 * rise
    for wave in (3, 4, 5):
        target = random.normal(size=(2, 3)) * [0.6, 0.6, 0.3]
        out[:, wave] = slow[:, None] * target[0] + rise[:, None] * 0.5 * target[1]
    return out


def at_rest(moves: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """`moves` (n, S, 3) without what is the same at all tilts (a specimen of another shape, at rest)."""
    t = np.radians(angles)
    design = np.zeros((2 * len(t), 3))
    design[0::2, 0], design[0::2, 2], design[1::2, 1] = np.cos(t), np.sin(t), 1.0
    seen = np.zeros((2 * len(t), moves.shape[1]))
    seen[0::2] = moves[:, :, 0] * np.cos(t)[:, None] + moves[:, :, 2] * np.sin(t)[:, None]
    seen[1::2] = moves[:, :, 1]
    return moves - np.linalg.lstsq(design, seen, rcond=None)[0].T[None]


def seen_rms(field: Callable[[np.ndarray, int], np.ndarray], angles: np.ndarray, side: float) -> float:
    """RMS over tilts and field of the image displacement (A) without each tilt's mean."""
    line = np.linspace(-0.4, 0.4, 9) * side
    grid = np.stack(np.meshgrid(line, line, [0.0], indexing="ij"), axis=-1).reshape(-1, 3)
    total = []
    for k, t in enumerate(np.radians(angles)):
        u = field(grid, k)
        d = np.stack([u[:, 0] * np.cos(t) + u[:, 2] * np.sin(t), u[:, 1]], axis=1)
        total.append(np.sum((d - d.mean(axis=0)) ** 2, axis=1))
    return float(np.sqrt(np.mean(total)))


def simulate_local(case: Case, seed: int, amplitude_A: float) -> Deformed:
    """A series of a deforming phantom; `amplitude_A` 0: rigid. The same seed gives the same phantom and the same stage."""
    random = np.random.default_rng(1000 + seed)
    chance = np.random.default_rng(9000 + seed)
    angles = np.arange(case.angles[0], case.angles[1] + 0.1, case.angles[2])
    points, weights = phantom(random, case)
    shifts, true_angles = stage(random, angles, case)
    order = dose_symmetric(angles)
    field_A = max(case.shape) * PIXEL_A
    shapes = (chance.uniform(-0.4, 0.4, 2), chance.normal(scale=1.3, size=(3, 2)), chance.uniform(0.0, 6.28, 3))
    moves = at_rest(histories(order, case.dose, chance), true_angles)
    trial = Deformed(Truth(np.empty(0), angles, true_angles, case.axis, shifts, 0.0), order, np.empty(0), field_A, moves, shapes)
    moves = moves * (amplitude_A / seen_rms(trial.displacement, true_angles, field_A))
    moving = Deformed(trial.truth, order, trial.clean, field_A, moves, shapes)
    level = np.std(project(points, weights, case, 0.0, np.zeros(2)))
    stack, rest = [], []
    for k, (tilt, nominal, shift) in enumerate(zip(true_angles, angles, shifts, strict=True)):
        rest.append(project(points, weights, case, tilt, np.zeros(2)).astype(np.float32) / level)
        clean = project(points + moving.displacement(points, k), weights, case, tilt, shift)
        stack.append(exposure(random, clean, level, nominal, case))
    truth = Truth(np.array(stack), angles, true_angles, case.axis, shifts, case.thickness / PIXEL_A)
    return Deformed(truth, order, np.array(rest), field_A, moves, shapes)


@dataclass(frozen=True)
class Left:
    """What an alignment leaves: RMS in A over tilts and field, after a rigid motion of the specimen (`rigid_A`), and of that what
    blurs (`blur_A`): without what only shows a specimen of another shape. `motion`: the rigid motion, rotation vector and px."""

    rigid_A: float
    blur_A: float
    motion: np.ndarray


def left_over(series: Deformed, axis: float, shifts: np.ndarray, angles: np.ndarray,
              local: Callable[[np.ndarray, int], np.ndarray] | None = None) -> Left:
    """What an alignment leaves of the true image positions; `local(places (m, 2), tilt)` is its local shift (m, 2) in raw px of
    what global alignment puts at `places` of the raw image, px from its centre, before the global shift."""
    truth = series.truth
    rows, columns = truth.stack.shape[1:]
    if abs(math.sin(math.radians(truth.axis))) > 0.707:
        rows, columns = columns, rows
    y, x = np.linspace(-0.4, 0.4, 7) * rows, np.linspace(-0.4, 0.4, 7) * columns
    grid = np.stack(np.meshgrid(x, y, np.array([-0.35, 0.0, 0.35]) * truth.thickness_px), axis=-1).reshape(-1, 3)

    def seen(points: np.ndarray, tilt: float, turn: float) -> np.ndarray:
        t, a = math.radians(tilt), math.radians(turn)
        across = points[:, 0] * math.cos(t) + points[:, 2] * math.sin(t)
        return np.stack([across * math.cos(a) - points[:, 1] * math.sin(a),
                         across * math.sin(a) + points[:, 1] * math.cos(a)], axis=1)

    count = range(len(truth.angles))
    true = np.array([seen(grid + series.displacement(grid * PIXEL_A, k) / PIXEL_A, truth.true_angles[k], truth.axis)
                     + truth.shifts[k] for k in count])

    def error(p: np.ndarray) -> np.ndarray:
        moved = Rotation.from_rotvec(p[:3]).apply(grid) + p[3:]
        places = [seen(moved, angles[k], axis) for k in count]
        moves = [shifts[k] + (0.0 if local is None else local(place, k)) for k, place in enumerate(places)]
        return np.array(places) + np.array([np.broadcast_to(move, places[0].shape) for move in moves]) - true

    start = np.array([0.0, math.radians(truth.angles[0] - angles[0]), 0.0, 0.0, 0.0, 0.0])
    best = least_squares(lambda p: error(p).ravel(), start, x_scale=[1e-3] * 3 + [1.0] * 3, max_nfev=8)
    final = error(best.x)
    return Left(PIXEL_A * rms(final), PIXEL_A * rms(blurring(final, truth.axis, truth.true_angles)), best.x)


def rms(vectors: np.ndarray) -> float:
    """RMS length of vectors (..., 2)."""
    return float(np.sqrt(np.mean(np.sum(vectors**2, axis=-1))))


def blurring(error: np.ndarray, axis: float, angles: np.ndarray) -> np.ndarray:
    """`error` (n, m, 2) without what each place would show at rest elsewhere in the specimen (n, m, 2)."""
    a, t = math.radians(axis), np.radians(angles)
    across = error[..., 0] * math.cos(a) + error[..., 1] * math.sin(a)
    along = error[..., 1] * math.cos(a) - error[..., 0] * math.sin(a)
    design = np.stack([np.cos(t), np.sin(t)], axis=1)
    across = across - design @ np.linalg.lstsq(design, across, rcond=None)[0]
    return np.stack([across, along - along.mean(axis=0)], axis=-1)
