# SPDX-License-Identifier: GPL-3.0-or-later
"""Patches of the field for local alignment: the shapes that its motion is made of, and what each patch says of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tomostream.engine.align.geometry import Floats, Pose, fast_even, frame_of, taper
from tomostream.engine.align.kernels import sample
from tomostream.engine.align.likelihood import down_weighted, fisher, gradient, model_of, signal_share
from tomostream.engine.align.preprocess import WorkStack
from tomostream.engine.align.spectra import RINGS_PER_CYCLE, Band, Cells, cells_of, raw_radius, whiten
from tomostream.engine.threads import parallel

MIN_PATCH = 96  # px of the working images: smaller ones hold too little of the specimen
MAX_PATCHES = 8  # a side: the field is smooth
REACH = 0.3  # of the field: distance over which its parts move alike
MAX_UNKNOWNS, MAX_MODES = 4000, 25  # shapes times moves, whose matrix takes 128 MB; shapes that differ enough to matter
# share of a patch's coefficients that a Hann window leaves independent: mean(w^2)^2 / mean(w^4), in two dimensions
INDEPENDENT = (0.375**2 / (35.0 / 128.0)) ** 2


@dataclass(frozen=True)
class Patches:
    """Overlapping patches of the stretched frame.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of the frame.
    size : (int, int)
        Rows and columns of a patch.
    centres : ndarray, shape (P, 2)
        (X, Y) from the middle of the frame, working pixels.
    """

    shape: tuple[int, int]
    size: tuple[int, int]
    centres: Floats


@dataclass(frozen=True)
class Smooth:
    """The M shapes that a field of motion is made of, of unit variance together.

    Attributes
    ----------
    patches : Patches
    mixing : ndarray, shape (P, M)
        From likeness to each patch to the shapes.
    at_patches : ndarray, shape (P, M)
        Values of the shapes at the centres of the patches.
    """

    patches: Patches
    mixing: Floats
    at_patches: Floats

    def at(self, places: Floats) -> Floats:
        """Return the values of the shapes, (N, M), at places (X, Y) (N, 2) from the middle of the frame, working pixels."""
        out: Floats = _alike(places, self.patches) @ self.mixing
        return out


@dataclass(frozen=True)
class Job:
    """What all rounds of local alignment work with.

    Attributes
    ----------
    images : WorkStack
    pose : Pose
        The global alignment.
    members : ndarray of int, shape (K,)
        Used sections.
    smooth : Smooth
        The shapes of the field.
    times : ndarray, shape (K,)
        That the motion follows: two tilts move alike by exp(-|difference|).
    threads : int
    """

    images: WorkStack
    pose: Pose
    members: NDArray[np.int64]
    smooth: Smooth
    times: Floats
    threads: int

    @property
    def tangents(self) -> Floats:
        """Tangents of the used tilt angles, (K,)."""
        return self.pose.tangents()[self.members]

    @property
    def cosines(self) -> Floats:
        """Cosines of the used tilt angles, (K,)."""
        out: Floats = np.cos(np.radians(self.pose.tilts_deg[self.members]))
        return out


@dataclass(frozen=True)
class Terms:
    """What the patches say of their moves, in the order (dX0, dY0, dX1, ...) of the K used tilts.

    Attributes
    ----------
    gradients : ndarray, shape (P, 2K)
        Of the log-likelihood, 1/px.
    fishers : ndarray, shape (P, 2K, 2K)
        Fisher matrices, 1/px^2.
    excess : float
        By what factor the gradients' power is above the noise that the Fisher matrices predict, 1 or more.
    """

    gradients: Floats
    fishers: Floats
    excess: float


def patches_of(shape: tuple[int, int], axis_deg: float, wanted: tuple[int, int]) -> tuple[Patches, tuple[int, int]]:
    """Return half-overlapping patches that fill a frame, and how many there are along x and y of the raw image.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the stretched frame.
    axis_deg : float
        Tilt axis, which decides what x and y of the raw image are in the frame.
    wanted : (int, int)
        Along x and y of the raw image; fewer are made where they would be smaller than `MIN_PATCH` or more than `MAX_PATCHES`.
    """
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
    """Return the leading shapes of the Gaussian process, as many as memory allows for that number of tilts.

    Parameters
    ----------
    patches : Patches
    tilts : int
        How many take part.

    Notes
    -----
    With G_pq = exp(-|p - q|^2 / (2 r^2)) between patches, r a share `REACH` of the field, and G = V L V^T: the shapes are
    G(place, patches) V L^(-1/2), so that their covariance at the patches is G.
    """
    values, vectors = np.linalg.eigh(_alike(patches.centres, patches))
    most = max(1, min(MAX_MODES, MAX_UNKNOWNS // (2 * tilts)))
    keep = [i for i in np.argsort(values)[::-1][:most] if values[i] > 1e-4 * values[-1]]
    roots = np.sqrt(values[keep])
    return Smooth(patches, vectors[:, keep] / roots, vectors[:, keep] * roots)


def terms_of(job: Job, amounts: Floats, top: float) -> Terms:
    """Return gradient and Fisher matrix of every patch where the field of motion is now.

    Parameters
    ----------
    job : Job
    amounts : ndarray, shape (M, 2K)
        Of the shapes at every used tilt, working pixels.
    top : float
        Highest frequency, 1/A.

    Returns
    -------
    Terms
        What a patch at rest at another height would show, dX growing with tan t, is taken out.
    """
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
        robust = down_weighted(band, model)
        slope, _ = gradient(robust, model, robust.values)
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
    """Return a Hann window of `length` pixels."""
    out: NDArray[np.float32] = (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(length) + 0.5) / length)).astype(np.float32)
    return out
