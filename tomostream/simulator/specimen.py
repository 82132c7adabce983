# SPDX-License-Identifier: GPL-3.0-or-later
"""A phantom of frozen cell material: a slab of ice with ribosomes, small proteins, vesicles and membranes, without gold.

The specimen is a cloud of points with weights (the projected mass), so that every projection is exact: field of view, tilt
axis and shifts hold to the last digit, and a tilted image sees the material beyond the untilted field, as it does in a
microscope. Coordinates are X, Y, Z in A from the centre of the slab; Y is the tilt axis, Z the beam at 0 degrees.

Three filaments of different lengths start in one point, along +X, +Y and +Z: a volume that was mirrored, turned or
transposed is told from a right one at a glance (`MARKS`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Name -> start and end in A of the filaments that tell the hand of a volume.
MARKS = {
    "long filament along +X": ((0.0, 0.0, 0.0), (720.0, 0.0, 0.0)),
    "short filament along +Y": ((0.0, 0.0, 0.0), (0.0, 430.0, 0.0)),
    "shortest filament along +Z": ((0.0, 0.0, 0.0), (0.0, 0.0, 300.0)),
}
_FILAMENT_RADIUS = 34.0


@dataclass(frozen=True)
class Specimen:
    """Points (n, 3) in A, their weights (n,), and the thickness of the slab in A."""

    points: NDArray[np.float32]
    weights: NDArray[np.float32]
    thickness: float


def make_specimen(rng: np.random.Generator, extent_x: float, extent_y: float, thickness: float,
                  pre_tilt: float = 0.0) -> Specimen:
    """A slab of `extent_x` times `extent_y` times `thickness` A full of cell material; `pre_tilt` in degrees about Y."""
    box = np.array([extent_x, extent_y, thickness])
    parts = [_marks(rng), _ribosomes(rng, box), _proteins(rng, box), _vesicles(rng, box), _membranes(rng, box)]
    points = np.concatenate([part for part, _ in parts])
    weights = np.concatenate([np.full(len(part), weight) for part, weight in parts])
    angle = math.radians(pre_tilt)
    x = points[:, 0] * math.cos(angle) + points[:, 2] * math.sin(angle)
    z = points[:, 2] * math.cos(angle) - points[:, 0] * math.sin(angle)
    points = np.stack([x, points[:, 1], z], axis=1)
    return Specimen(points.astype(np.float32), weights.astype(np.float32), thickness)


def _marks(rng: np.random.Generator) -> tuple[NDArray[np.float64], float]:
    """The three filaments, as tubes of points."""
    tubes = []
    for start, end in MARKS.values():
        along = np.subtract(end, start)
        count = int(np.linalg.norm(along) / 1.2)
        around = _directions(rng, count) * _FILAMENT_RADIUS * rng.random((count, 1)) ** (1 / 3)
        tubes.append(np.asarray(start) + rng.random((count, 1)) * along + around)
    return np.concatenate(tubes), 0.9


def _ribosomes(rng: np.random.Generator, box: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Lumpy bodies of 115 A radius in any orientation, 7000 per cubic micrometre, all alike."""
    body = _directions(rng, 70) * 115 * rng.random((70, 1)) ** (1 / 3)
    body[:22] = body[:22] * 0.55 + [70.0, 30.0, 10.0]  # a small subunit: asymmetric, as ribosomes are
    count = int(7000 * box.prod() * 1e-12)
    centres = (rng.random((count, 3)) - 0.5) * box * [1, 1, 0.9]
    turned = np.einsum("nij,kj->nki", _rotations(rng, count), body)
    return (turned + centres[:, None]).reshape(-1, 3), 1.0


def _proteins(rng: np.random.Generator, box: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Small proteins of 22 A radius, one in 160 A cubed on the average: the grain of the cytosol."""
    centres = (rng.random((int(box.prod() / 160.0**3), 3)) - 0.5) * box * [1, 1, 0.95]
    return (centres[:, None] + rng.normal(scale=22, size=(len(centres), 5, 3))).reshape(-1, 3), 0.5


def _vesicles(rng: np.random.Generator, box: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Spherical bilayers of 250 to 1000 A radius, 80 per cubic micrometre, cut off at the faces of the slab."""
    shells = []
    for _ in range(max(2, int(80 * box.prod() * 1e-12))):
        radius = rng.uniform(250, 1000)
        centre = (rng.random(3) - 0.5) * box
        for leaflet in (radius - 18, radius + 18):
            count = int(4 * math.pi * leaflet**2 / 22**2)
            shells.append(_directions(rng, count) * leaflet + centre)
    points = np.concatenate(shells)
    return points[np.abs(points[:, 2]) < box[2] / 2], 0.5


def _membranes(rng: np.random.Generator, box: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Three folded bilayers that cross the slab from face to face."""
    count = int(box[1] * box[2] / 24**2)
    sheets = []
    for place in (-0.31 * box[0], 0.07 * box[0], 0.36 * box[0]):
        for leaflet in (-18, 18):
            y, z = (rng.random((2, count)) - 0.5) * box[1:, None]
            x = place + 260 * np.sin(y / 700 + place) + 120 * np.sin(z / 400) + leaflet
            sheets.append(np.stack([x, y, z], axis=1))
    return np.concatenate(sheets), 0.5


def _directions(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Unit vectors (count, 3), evenly over the sphere."""
    vectors = rng.normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _rotations(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Rotation matrices (count, 3, 3), evenly over all orientations: an orthonormal frame from two random directions."""
    first, other = _directions(rng, count), _directions(rng, count)
    third = np.cross(first, other)
    third /= np.linalg.norm(third, axis=1, keepdims=True)
    return np.stack([first, np.cross(third, first), third], axis=2)
