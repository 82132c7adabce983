# SPDX-License-Identifier: GPL-3.0-or-later
"""A specimen that is known, and what an aligned tilt series shows of it: for tests and benchmarks of tomograms.

A cloud of points (particles, proteins, vesicles, a membrane) in a slab, each a little blurred, is projected exactly. Every point
has the contrast transfer of its own defocus, by its place across the tilt axis and its height; then come damage, absorption and
counting noise. The images need no alignment: shifts and turns are tested elsewhere.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from tomostream.engine.ctf.spectra import Optics
from tomostream.engine.dose import critical_dose
from tomostream.engine.recon.contrast import Contrast, TiltContrast
from tomostream.simulator.gold import gold_contrast
from tomostream.simulator.projector import Optics as Microscope

Array = NDArray[Any]
#: The defoci at which points are projected, apart; between them points are shared.
DEFOCUS_STEP = 700.0


@dataclass(frozen=True)
class Case:
    """Lengths in A, angles in degrees, `dose` in e/A2 a tilt; `gold`: balls of 100 A in the field that are dense, as the rest is;
    `beads` of a `diameter` that are gold as `simulator.gold` has it, and no part of the truth."""

    name: str = "base"
    side: int = 512
    pixel: float = 10.8
    depth: int = 192
    thickness: float = 1500.0
    dose: float = 3.0
    defocus: float = 45000.0
    astigmatism: float = 300.0
    hand: int = 1
    step: float = 3.0
    own_tilt: float = 0.0
    height: float = 0.0
    gold: int = 0
    beads: int = 0
    diameter: float = 100.0
    contrast: float = 0.04
    noise: bool = True
    blur: float = 9.0

    @property
    def angles(self) -> Array:
        return np.arange(-60.0, 60.1, self.step)


@dataclass(frozen=True)
class Known:
    """Aligned images (K, ny, nx), dark where the specimen is dense; their contrast; the truth (z, y, x), as dark; the centres of
    the beads (n, 3), A."""

    case: Case
    images: Array
    contrast: Contrast
    truth: Array
    beads: Array

    @property
    def angles(self) -> Array:
        return self.case.angles

    def inner(self, volume: Array) -> Array:
        """The part of a volume that all tilts show, inside the specimen, without its mean."""
        nz, ny, nx = volume.shape
        half = int(0.4 * self.case.thickness / self.case.pixel)
        middle = nz // 2 + round(self.case.height / self.case.pixel)
        edge = ny // 5
        part = volume[middle - half : middle + half, edge : ny - edge, edge : nx - edge].astype(float)
        return part - part.mean()

    def correlation(self, volume: Array) -> float:
        a, b = self.inner(volume), self.inner(self.truth)
        return float((a * b).sum() / max(math.sqrt((a**2).sum() * (b**2).sum()), 1e-30))


def points_of(case: Case, rng: np.random.Generator) -> tuple[Array, Array]:
    """Places (n, 3) in A from the centre of the volume, and weights; wide enough for the steepest tilt."""
    field = case.side * case.pixel
    wide = field / math.cos(math.radians(60)) * 1.05 + case.thickness * math.tan(math.radians(60))
    long, thick = field * 1.1, case.thickness
    volume = wide * long * thick

    def anywhere(count: int, fill: float = 0.95) -> Array:
        return (rng.random((count, 3)) - 0.5) * [wide, long, thick * fill]

    body = rng.normal(size=(40, 3))
    body *= 115 * rng.random((40, 1)) ** (1 / 3) / np.linalg.norm(body, axis=1, keepdims=True)
    particles = [body @ Rotation.random(random_state=rng).as_matrix().T + c for c in anywhere(int(7e-9 * volume) + 3)]
    proteins = np.repeat(anywhere(int(volume / 150**3)), 3, axis=0)
    proteins += rng.normal(scale=22.0, size=proteins.shape)
    shells = []
    for centre in anywhere(int(7e-11 * volume) + 1, 1.0):
        radius = rng.uniform(250, 1100)
        ball = rng.normal(size=(int(4 * math.pi * radius**2 / 24**2), 3))
        shells.append(centre + radius * ball / np.linalg.norm(ball, axis=1, keepdims=True))
    flat = (rng.random((int(2 * long * thick / 24**2), 3)) - 0.5) * [36.0, long, thick]
    flat[:, 0] += 260 * np.sin(flat[:, 1] / 700)
    beads = [c + 50 * (ball := rng.normal(size=(500, 3))) / np.linalg.norm(ball, axis=1, keepdims=True)
             * rng.random((500, 1)) ** (1 / 3) for c in anywhere(case.gold) * [field / wide, 0.9, 1.0]]
    groups = [(np.concatenate(particles), 1.75), (proteins, 1.1), (np.concatenate([*shells, flat]), 0.5)]
    groups += [(np.concatenate(beads), 6.0)] if beads else []
    points = np.concatenate([group for group, _ in groups])
    weights = np.concatenate([np.full(len(group), weight) for group, weight in groups])
    keep = np.abs(points[:, 2]) < thick / 2
    turn = Rotation.from_euler("y", case.own_tilt, degrees=True).as_matrix()
    return points[keep] @ turn.T + [0, 0, case.height], weights[keep]


def beads_of(case: Case, seed: int) -> Array:
    """Centres of the beads (n, 3) in A, as those of `points_of`, in the field of the untilted image; none through another."""
    rng, out = np.random.default_rng([seed, 77]), np.zeros((0, 3))
    turn = Rotation.from_euler("y", case.own_tilt, degrees=True).as_matrix()
    room = np.array([0.9 * case.side * case.pixel] * 2 + [max(0.0, case.thickness - case.diameter)])
    while len(out) < case.beads:
        new = (rng.random(3) - 0.5) * room
        if not len(out) or np.linalg.norm(out - new, axis=1).min() > 1.2 * case.diameter:
            out = np.vstack([out, new])
    return out @ turn.T + [0, 0, case.height]


def splatted(shape: tuple[int, ...], places: Array, weights: Array) -> Array:
    """Points at `places` (n, dimensions), indices of the array, shared among the pixels around."""
    out = np.zeros(math.prod(shape))
    low = np.floor(places).astype(int)
    part = places - low
    for corner in np.ndindex(*[2] * len(shape)):
        index, share = low + corner, weights.copy()
        for axis, side in enumerate(corner):
            share *= part[:, axis] if side else 1 - part[:, axis]
        inside = ((index >= 0) & (index < shape)).all(axis=1)
        flat = np.ravel_multi_index(tuple(index[inside].T), shape)
        out += np.bincount(flat, share[inside], len(out))
    return out.reshape(shape)


def blurred(volume: Array, pixel: float, width_A: float) -> Array:
    """By a Gaussian, along all axes."""
    s = sum(np.meshgrid(*[(np.fft.fftfreq if axis < volume.ndim - 1 else np.fft.rfftfreq)(n, pixel) ** 2
                          for axis, n in enumerate(volume.shape)], indexing="ij", sparse=True))
    spectrum = scipy.fft.rfftn(volume, workers=2) * np.exp(-2 * math.pi**2 * width_A**2 * s)
    return np.asarray(scipy.fft.irfftn(spectrum, s=volume.shape, workers=2))


def contrast_of_case(case: Case) -> Contrast:
    """What a perfect fit of the CTF would say."""
    return Contrast(tuple(
        TiltContrast(Optics(), case.defocus, case.astigmatism / 2, 0.6, case.hand * math.tan(t), -case.hand / math.cos(t))
        for t in np.radians(case.angles)), case.pixel)


def projected(case: Case, points: Array, weights: Array, tilt: TiltContrast, angle: float, dose: float) -> Array:
    """Noise-free image of one tilt (dense is bright)."""
    t, size = math.radians(angle), case.side + 64
    across = points[:, 0] * math.cos(t) + points[:, 2] * math.sin(t)
    places = np.stack([points[:, 1], across], axis=1) / case.pixel + (size - 1) / 2
    near = (np.abs(places - (size - 1) / 2) < size / 2 + 2).all(axis=1)
    places, weights = places[near], weights[near]
    height = -points[near, 0] * math.sin(t) + points[near, 2] * math.cos(t)     # towards the source or away from it
    extra = -case.hand * height / DEFOCUS_STEP
    kx, ky = np.fft.rfftfreq(size, case.pixel)[None], np.fft.fftfreq(size, case.pixel)[:, None]
    s = kx**2 + ky**2
    level = np.exp(-15.0 * s - 2 * math.pi**2 * case.blur**2 * s - dose / 2 / critical_dose(np.sqrt(s), 300.0))
    total = np.zeros((size, size // 2 + 1), complex)
    for step in range(math.floor(extra.min()), math.ceil(extra.max()) + 1):
        share = weights * np.clip(1 - np.abs(extra - step), 0, None)
        if share.any():
            transfer = tilt.transfer(kx, ky, step * DEFOCUS_STEP)
            total += scipy.fft.rfft2(splatted((size, size), places[share > 0], share[share > 0])) * transfer
    return np.asarray(scipy.fft.irfft2(total * level, s=(size, size))[32:-32, 32:-32])


def gold_seen(case: Case, beads: Array, angle: float) -> Array:
    """The share of electrons that the beads take from one tilt."""
    t = math.radians(angle)
    across = beads[:, 0] * math.cos(t) + beads[:, 2] * math.sin(t)
    places = np.stack([across, beads[:, 1]], axis=1) / case.pixel + (case.side - 1) / 2
    return gold_contrast((case.side, case.side), [(x, y) for x, y in places], case.diameter, case.pixel, Microscope(case.defocus))


@functools.lru_cache(maxsize=4)
def known(case: Case, seed: int = 5) -> Known:
    """The series of a case, and the truth."""
    rng = np.random.default_rng(seed)
    points, weights = points_of(case, rng)
    beads = beads_of(case, seed)
    contrast, order = contrast_of_case(case), np.argsort(np.argsort(np.abs(case.angles), kind="stable"))
    level, images = 0.0, []
    doses = order * case.dose
    for index in np.argsort(order):
        angle = float(case.angles[index])
        clean = projected(case, points, weights, contrast.tilts[index], angle, float(doses[index]))
        level = level or float(clean.std())
        flux = case.dose * case.pixel**2 * 0.6 * math.exp(-case.thickness / 3100.0 / math.cos(math.radians(angle)))
        counts = flux * np.maximum(1 - case.contrast * (clean - clean.mean()) / level, 0.02)
        if case.beads:
            counts *= 1 - gold_seen(case, beads, angle)
        seen = rng.poisson(counts) if case.noise else counts
        images.append((index, (seen / seen.mean() - 1).astype(np.float32)))
    stack = np.stack([image for _, image in sorted(images, key=lambda each: each[0])])
    shape = (case.depth, case.side, case.side)
    truth = splatted(shape, points[:, ::-1] / case.pixel + (np.array(shape) - 1) / 2, weights)
    return Known(case, stack, contrast, -blurred(truth, case.pixel, case.blur).astype(np.float32), beads)
