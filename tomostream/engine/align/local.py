# SPDX-License-Identifier: GPL-3.0-or-later
"""Local alignment: a smooth displacement field for every tilt, around the global alignment.

The field is cut into overlapping patches of the stretched frame (`geometry`), which follow the specimen through the tilts.
Each patch gives the gradient and the Fisher matrix of the same slab likelihood as the global alignment (`likelihood`); what a
patch at rest at another height would show (dX growing with tan t) is taken out of both. The field is a Gaussian process:
smooth over the specimen, and over the acquisition as motion in its plane and in its height that is quick in the first tilts,
plus a little that is each tilt's own. Its strength is that at which the evidence is highest; where the data show no motion it
goes to 0, and the global alignment is kept. What only describes a specimen of another shape that is at rest is no motion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.linalg
from numpy.typing import NDArray
from scipy.optimize import minimize

from tomostream.engine.align.geometry import Floats, Pose, fast_even, frame_of, frame_shape, parallel, taper
from tomostream.engine.align.kernels import sample
from tomostream.engine.align.likelihood import fisher, gradient, model_of, signal_share, steadied
from tomostream.engine.align.model import MAXIMUM_THREADS, Alignment, AlignOptions
from tomostream.engine.align.preprocess import WorkStack, work_stack
from tomostream.engine.align.series import FINE_A, FINE_TOP
from tomostream.engine.align.spectra import RINGS_PER_CYCLE, Band, Cells, cells_of, raw_radius, whiten
from tomostream.files.mrc import Sections

MIN_PATCH = 96  # px of the working images: smaller ones hold too little of the specimen
MAX_PATCHES = 8  # a side: the field is smooth
MIN_TILTS = 7
ROUNDS = ((0.012, 4), (0.02, 4), (FINE_TOP, 4))  # highest frequency (1/A) and rounds at most
SETTLED = 0.03  # working px RMS
REACH = 0.3  # of the field: distance over which its parts move alike
HURRY = 4.0  # tilts after which the motion has slowed down to half its speed
TURN_DEG = 40.0  # tilt angle over which motion is alike where the order of acquisition is not known
MAX_UNKNOWNS, MAX_MODES, MODES_FOR_STRENGTH = 4000, 25, 6
# a Hann window leaves so many of a patch's coefficients independent: mean(w^2)^2 / mean(w^4), in two dimensions
INDEPENDENT = (0.375**2 / (35.0 / 128.0)) ** 2
# Logarithms of the least and the most that the strengths of the prior may be: motion in the plane (working px), in height and of
# each tilt by itself relative to it, and of each patch by itself (working px). Then what is usual of the middle two.
LIMITS = np.log([[1e-3, 0.2, 1e-3, 1e-3], [20.0, 2.5, 1.0, 20.0]])
USUAL, UNUSUAL = np.log([1.0, 0.05]), np.array([0.5, 1.2])
TRIALS, FIRST_TRIALS = 20, 50  # of strengths
# Gain of the logarithm of the evidence, a tilt, for which motion is believed. It must be there before the finest details are
# used: what an uneven specimen feigns is seen in them first (benchmarks/engine_local.py --spoiled).
MIN_GAIN = 0.8
NODES = 11  # a side of the grid on which the field is told


@dataclass(frozen=True)
class TiltMotion:
    """Local motion of one tilt at the nodes of a grid, all (N,), in px of the input stack from its centre (index n / 2).

    `x`, `y`: where the global alignment puts the node in the raw image; `dx`, `dy`: how much further it is found.
    """

    section: int
    x: Floats
    y: Floats
    dx: Floats
    dy: Floats


@dataclass(frozen=True)
class LocalMotion:
    """Local motion of the used tilts, in the order of the stack; none where it does not stand out of the noise.

    `patches` (along x and y of the raw image) were really used. `rms_px`: over tilts and field, in px of the input, without
    each tilt's mean; `note` says it in words.
    """

    tilts: tuple[TiltMotion, ...]
    patches: tuple[int, int]
    rms_px: float
    note: str


@dataclass(frozen=True)
class Patches:
    """Overlapping patches of `size` (rows, columns) in a frame of `shape`; `centres` (P, 2): (X, Y) from its centre, px."""

    shape: tuple[int, int]
    size: tuple[int, int]
    centres: Floats


@dataclass(frozen=True)
class Smooth:
    """The shapes that a field is made of: values `at_patches` (P, M) and, by `at`, anywhere, of unit variance together."""

    patches: Patches
    mixing: Floats
    at_patches: Floats

    def at(self, places: Floats) -> Floats:
        """Return values (N, M) at places (N, 2)."""
        out: Floats = _alike(places, self.patches) @ self.mixing
        return out


@dataclass(frozen=True)
class Job:
    """What all rounds work with: images, pose and sections of the K used tilts, `times` (K,) that the motion follows."""

    images: WorkStack
    pose: Pose
    members: NDArray[np.int64]
    smooth: Smooth
    times: Floats
    threads: int

    @property
    def tangents(self) -> Floats:
        return self.pose.tangents()[self.members]

    @property
    def cosines(self) -> Floats:
        out: Floats = np.cos(np.radians(self.pose.tilts_deg[self.members]))
        return out


@dataclass(frozen=True)
class Terms:
    """Of all patches: gradients (P, 2K) and Fisher matrices (P, 2K, 2K) of the moves (dX0, dY0, dX1, ...), and `excess`:
    by what factor the gradients' power is above the noise that the Fisher matrices predict, 1 or more."""

    gradients: Floats
    fishers: Floats
    excess: float


def local_motion(
    stack: Sections,
    alignment: Alignment,
    options: AlignOptions,
    patches: tuple[int, int],
    progress: Callable[[str], None],
    orders: Sequence[int] | None = None,
) -> LocalMotion:
    """Measure the local motion in a series that `align_series` has aligned.

    Parameters
    ----------
    stack : (n, rows, columns), any real type
    alignment : of this stack
    options : those of the alignment
    patches : along x and y of the raw image; fewer are used where they would be too small, or too many
    progress : called with a line of text at each stage
    orders : (n,) acquisition order, if known

    Returns
    -------
    LocalMotion, without tilts where none stands out of the noise.
    """
    members = np.array([t.section for t in alignment.tilts if t.used], dtype=np.int64)
    if len(members) < MIN_TILTS:
        return LocalMotion((), patches, 0.0, f"{len(members)} tilts are too few for local motion: the global alignment is kept")
    threads = max(1, min(options.threads, MAXIMUM_THREADS))
    images = work_stack(stack, options.pixel_size_A, FINE_A, threads)
    pose = Pose(
        np.array([t.tilt_deg for t in alignment.tilts]) + alignment.tilt_offset_deg,
        alignment.tilt_axis_deg,
        np.array([(t.tx, t.ty) for t in alignment.tilts]) / images.scale,
        alignment.thickness_A / images.pixel_A,
    )
    grid, used = patches_of(frame_shape(images.image_shape, pose.axis_deg), pose.axis_deg, patches)
    if used != patches:
        progress(f"local motion: instead of {patches[0]} x {patches[1]} patches {used[0]} x {used[1]} are used")
    if max(used) < 2:
        return LocalMotion((), used, 0.0, "the field is too small for patches: the global alignment is kept")
    times = pose.tilts_deg[members] / TURN_DEG
    if orders is not None:
        order = np.asarray(orders, dtype=float)[members]
        times = np.log1p((order - order.min()) / HURRY)
    job = Job(images, pose, members, smooth_of(grid, len(members)), times, threads)
    amounts, gain = _maximise(job, progress)
    name = f"over {used[0]} x {used[1]} patches"
    if gain < MIN_GAIN * len(members):
        return LocalMotion((), used, 0.0, f"no local motion beyond the noise {name}: the global alignment is kept")
    tilts, rms = told(job, amounts)
    return LocalMotion(tilts, used, rms, f"local motion {rms:.2f} px RMS {name}")


def patches_of(shape: tuple[int, int], axis_deg: float, wanted: tuple[int, int]) -> tuple[Patches, tuple[int, int]]:
    """Half-overlapping patches that fill a frame of `shape`, and how many along x and y of the raw image there are."""
    swapped = abs(np.sin(np.radians(axis_deg))) > np.sqrt(0.5)
    counts = wanted if swapped else wanted[::-1]  # down the frame, over the frame
    most = [max(1, min(MAX_PATCHES, int(2 * side / MIN_PATCH) - 1)) for side in shape]
    down, over = max(1, min(counts[0], most[0])), max(1, min(counts[1], most[1]))
    tall, wide = (fast_even(round(2 * side / (n + 1))) for n, side in zip((down, over), shape, strict=True))
    size = (min(tall, shape[0]), min(wide, shape[1]))
    y = np.linspace(0.5 * size[0], shape[0] - 0.5 * size[0], down) - 0.5 * shape[0] if down > 1 else np.zeros(1)
    x = np.linspace(0.5 * size[1], shape[1] - 0.5 * size[1], over) - 0.5 * shape[1] if over > 1 else np.zeros(1)
    centres = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return Patches(shape, size, centres), (down, over) if swapped else (over, down)


def _alike(places: Floats, patches: Patches) -> Floats:
    """Return how much places (N, 2) are believed to move as the patches do, (N, P)."""
    reach = REACH * np.sqrt(patches.shape[0] * patches.shape[1])
    square = np.sum((places[:, None] - patches.centres[None]) ** 2, axis=-1)
    out: Floats = np.exp(-0.5 * square / reach**2)
    return out


def smooth_of(patches: Patches, tilts: int) -> Smooth:
    """Return the leading shapes of the Gaussian process, as many as `tilts` tilts let the memory hold."""
    values, vectors = np.linalg.eigh(_alike(patches.centres, patches))
    most = max(1, min(MAX_MODES, MAX_UNKNOWNS // (2 * tilts)))
    keep = [i for i in np.argsort(values)[::-1][:most] if values[i] > 1e-4 * values[-1]]
    roots = np.sqrt(values[keep])
    return Smooth(patches, vectors[:, keep] / roots, vectors[:, keep] * roots)


def _maximise(job: Job, progress: Callable[[str], None]) -> tuple[Floats, float]:
    """Amounts (M, 2K) of the shapes at every tilt, and by how much a smooth motion has more log-evidence than patches that each
    move for themselves."""
    modes = job.smooth.at_patches.shape[1]
    amounts, strength, gain = np.zeros((modes, 2 * len(job.members))), np.log([0.3, 1.0, 0.05, 0.1]), 0.0
    for number, (top, rounds) in enumerate(ROUNDS):
        for turn in range(rounds):
            evidence = Evidence.of(job, terms_of(job, amounts, top), amounts)
            strength = evidence.strongest(strength, min(modes, MODES_FOR_STRENGTH), FIRST_TRIALS if turn == 0 else TRIALS)
            found, together = evidence.at(strength, modes)
            change = float(np.sqrt(2.0 * np.mean((job.smooth.at_patches @ (found - amounts)) ** 2)))
            amounts = found
            if change < SETTLED:
                break
        gain = together - evidence.at(evidence.strongest(strength, 0, FIRST_TRIALS), 0)[1]
        rms = told(job, amounts)[1] if gain >= MIN_GAIN * len(job.members) else 0.0
        progress(f"local motion {number + 1}/{len(ROUNDS)}: {rms:.2f} px RMS")
        if number > 0 and gain < MIN_GAIN * len(job.members):
            break
    return amounts, gain


def terms_of(job: Job, amounts: Floats, top: float) -> Terms:
    """Gradient and Fisher matrix of every patch where the field is now, up to a frequency `top` in 1/A."""
    size = job.smooth.patches.size
    lowest = max(3.0 / min(size), job.images.pixel_A / 1200.0)
    cells = cells_of(size, lowest, max(min(top * job.images.pixel_A, 0.45), 3 * lowest))
    centres, count = job.smooth.patches.centres, len(job.members)
    field = (job.smooth.at_patches @ amounts).reshape(-1, count, 2)
    slopes = np.empty((*field.shape, 2))
    for axis in (0, 1):
        step = np.eye(2)[axis] * 2.0
        slopes[..., axis] = ((job.smooth.at(centres + step) - job.smooth.at(centres - step)) @ amounts).reshape(field.shape) / 4.0
    height = np.zeros(2 * count)
    height[0::2] = job.tangents

    def one(patch: int) -> tuple[Floats, Floats, float]:
        band = _cut(job, cells, centres[patch], field[patch], slopes[patch])
        model = model_of(band, job.pose, signal_share(band, job.pose))
        steady = steadied(band, model)
        slope, _ = gradient(steady, model, steady.values)
        force, information = INDEPENDENT * slope.ravel(), INDEPENDENT * fisher(band, model)
        along = information @ height
        norm = max(float(height @ along), 1e-30)
        force, information = force - along * (height @ force) / norm, information - np.outer(along, along) / norm
        values, vectors = np.linalg.eigh(information)
        keep = values > 1e-4 * max(values.mean(), 1e-30)
        power = np.sum((vectors[:, keep].T @ force) ** 2 / values[keep]) / max(1, np.count_nonzero(keep))
        return force, information, float(power)

    parts = parallel(one, range(len(centres)), job.threads)
    excess = max(1.0, float(np.median([part[2] for part in parts])))
    return Terms(np.array([part[0] for part in parts]), np.array([part[1] for part in parts]), excess)


def _cut(job: Job, cells: Cells, centre: Floats, moves: Floats, slopes: Floats) -> Band:
    """Return the whitened band of one patch at all tilts, read where the field puts it: `moves` (K, 2) and `slopes` (K, 2, 2),
    the derivative of (dX, dY) by (X, Y), in the middle of the patch."""
    size, shape = job.smooth.patches.size, job.smooth.patches.shape
    windows, edges = (_hann(size[0]), _hann(size[1])), [taper(side) for side in job.images.image_shape]
    image, mask = np.empty(size, np.float32), np.empty(size, np.float32)
    values, coverage, rings = [], [], []
    half = np.array(size) / 2.0
    for place, tilt in enumerate(job.members.tolist()):
        frame = frame_of(job.pose, tilt, job.images.image_shape, shape)
        stretch = np.eye(2) + slopes[place][::-1, ::-1]
        middle = np.array(shape) / 2.0 + centre[::-1] + moves[place][::-1]
        start = frame.start + frame.matrix @ (middle - stretch @ half)
        matrix = np.ascontiguousarray(frame.matrix @ stretch)
        coefficients = job.images.coefficients[tilt]
        coverage.append(float(sample(coefficients, matrix, start, windows[0], windows[1], edges[0], edges[1], image, mask)))
        angle = float(job.pose.tilts_deg[tilt])
        transform = scipy.fft.rfft2(image)[cells.row, cells.column]
        values.append(whiten(transform, raw_radius(cells.kx[:, None], cells.ky, angle), cells.weight))
        rings.append((raw_radius(cells.kx, cells.middle_ky(), angle) * RINGS_PER_CYCLE).astype(np.int64))
    return Band(cells, job.members, np.stack(values, axis=1), np.stack(rings, axis=1), np.array(coverage))


def _hann(length: int) -> NDArray[np.float32]:
    out: NDArray[np.float32] = (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(length) + 0.5) / length)).astype(np.float32)
    return out


def prior_root(job: Job, strength: Floats) -> Floats:
    """Return a square root (2K, 2K) of the prior covariance of one shape's amounts at all tilts.

    `strength`: logarithms of the motion in the plane (working px), of the motion in height relative to it, and of the share of
    variance that is each tilt's own. A specimen of another shape at rest (the same in X, Y and Z at all tilts) is taken out,
    by least squares in the image.
    """
    size, height, own = np.exp(strength[:3])
    count, tangents, cosines = len(job.members), job.tangents, job.cosines
    slow = np.exp(-np.abs(job.times[:, None] - job.times[None]))
    root = np.zeros((2 * count, 2 * count))
    ridge = 1e-9 * np.eye(count)
    across = slow * (1.0 + height**2 * np.outer(tangents, tangents))
    root[0::2, 0::2] = np.linalg.cholesky(across + np.diag(own / cosines**2) + ridge)
    root[1::2, 1::2] = np.linalg.cholesky(slow + own * np.eye(count) + ridge)
    rest = np.zeros((2 * count, 3))
    rest[0::2, 0], rest[0::2, 1], rest[1::2, 2] = 1.0, tangents, 1.0
    seen = np.ones((2 * count, 1))
    seen[0::2, 0] = cosines
    out: Floats = size * (root - rest @ (np.linalg.pinv(seen * rest) @ (seen * root)))
    return out


@dataclass(frozen=True)
class Evidence:
    """What the terms of one round tell of the prior: `pull` (P, 2K) is what the patches would have where there is no motion."""

    job: Job
    fishers: Floats
    pull: Floats

    @classmethod
    def of(cls, job: Job, terms: Terms, amounts: Floats) -> Evidence:
        """At the amounts (M, 2K) at which the terms were made."""
        there = np.einsum("pij,pj->pi", terms.fishers, job.smooth.at_patches @ amounts)
        return cls(job, terms.fishers / terms.excess, (terms.gradients + there) / terms.excess)

    def at(self, strength: Floats, modes: int) -> tuple[Floats, float]:
        """Return the most probable amounts of the first `modes` shapes, and the log-evidence over that of no motion at all."""
        strength = np.clip(strength, LIMITS[0], LIMITS[1])
        root = prior_root(self.job, strength)
        fishers, pull, gain = _apart(self.fishers, self.pull, np.exp(strength[3] - strength[0]) * root)
        amounts = np.zeros((0, len(root)))
        if modes > 0:
            amounts, together = _posterior(fishers, self.job.smooth.at_patches[:, :modes], pull, root)
            gain += together
        # what is not told by the data stays near what is usual
        return amounts, gain - 0.5 * float(np.sum(((strength[1:3] - USUAL) / UNUSUAL) ** 2))

    def strongest(self, start: Floats, modes: int, trials: int) -> Floats:
        """Return the strengths (4,) of the prior at which the evidence is highest, searched from `start`."""
        simplex = start + np.vstack([np.zeros(4), 0.6 * np.eye(4)])
        answer = minimize(lambda trial: -self.at(trial, modes)[1], start, method="Nelder-Mead",
                          options={"maxfev": trials, "initial_simplex": simplex})
        out: Floats = np.clip(answer.x, LIMITS[0], LIMITS[1])
        return out


def _apart(fishers: Floats, pull: Floats, root: Floats) -> tuple[Floats, Floats, float]:
    """Fisher matrices and pulls of the patches when each may move by itself as well, with a prior covariance root @ root.T, and
    the gain in log-evidence by that: the content of a patch is no even slab, and ice may come down on it."""
    freed, pulled, gain = np.empty_like(fishers), np.empty_like(pull), 0.0
    for patch, (fisher_matrix, force) in enumerate(zip(fishers, pull, strict=True)):
        turned = fisher_matrix @ root
        factor = scipy.linalg.cholesky(root.T @ turned + np.eye(len(root)), lower=True, overwrite_a=True, check_finite=False)
        both = np.column_stack([turned.T, root.T @ force])
        solved = scipy.linalg.solve_triangular(factor, both, lower=True, overwrite_b=True, check_finite=False)
        left, right = solved[:, :-1], solved[:, -1]
        freed[patch], pulled[patch] = fisher_matrix - left.T @ left, force - left.T @ right
        gain += 0.5 * float(right @ right) - float(np.log(np.diag(factor)).sum())
    return freed, pulled, gain


def _posterior(fishers: Floats, shapes: Floats, pull: Floats, root: Floats) -> tuple[Floats, float]:
    """Return most probable amounts (M, 2K) under a prior of covariance root @ root.T for each shape, and the gain in
    log-evidence."""
    modes, size = shapes.shape[1], len(root)
    fishers = np.matmul(root.T, np.matmul(fishers, root))
    pairs = (shapes[:, :, None] * shapes[:, None, :]).reshape(len(shapes), -1)
    matrix = (pairs.T @ fishers.reshape(len(shapes), -1)).reshape(modes, modes, size, size)
    matrix = matrix.transpose(0, 2, 1, 3).reshape(modes * size, modes * size)
    matrix[np.diag_indices_from(matrix)] += 1.0
    right = (shapes.T @ (pull @ root)).ravel()
    factor = scipy.linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    half = scipy.linalg.solve_triangular(factor, right, lower=True, check_finite=False)
    whole = scipy.linalg.solve_triangular(factor, half, lower=True, trans="T", check_finite=False)
    return whole.reshape(modes, size) @ root.T, float(0.5 * half @ half - np.log(np.diag(factor)).sum())


def told(job: Job, amounts: Floats) -> tuple[tuple[TiltMotion, ...], float]:
    """Return the field at the nodes of a grid that covers the frame, in px of the input, and its RMS without each tilt's mean."""
    rows, columns = job.smooth.patches.shape
    line = np.linspace(-0.5, 0.5, NODES)
    nodes = np.stack(np.meshgrid(line * columns, line * rows), axis=-1).reshape(-1, 2)
    moves = (job.smooth.at(nodes) @ amounts).reshape(len(nodes), -1, 2)
    axis, scale = np.radians(job.pose.axis_deg), job.images.scale
    turn = np.array([[np.cos(axis), np.sin(axis)], [-np.sin(axis), np.cos(axis)]]) * scale
    tilts, squares = [], []
    for place, (tilt, cosine) in enumerate(zip(job.members.tolist(), job.cosines, strict=True)):
        seen = np.array([cosine, 1.0])
        at = (nodes * seen) @ turn + job.pose.shifts[tilt] * scale
        shift = (moves[:, place] * seen) @ turn
        squares.append(np.mean(np.sum((shift - shift.mean(axis=0)) ** 2, axis=1)))
        tilts.append(TiltMotion(tilt, at[:, 0], at[:, 1], shift[:, 0], shift[:, 1]))
    return tuple(tilts), float(np.sqrt(np.mean(squares)))
