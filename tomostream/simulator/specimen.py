# SPDX-License-Identifier: GPL-3.0-or-later
"""A phantom of frozen cell material: ice with ribosomes, small proteins, vesicles and membranes; gold beads are `simulator.gold`.

The specimen is a cloud of weighted points, so that every projection is exact: field of view, tilt axis and shifts
are exact to the last digit, and a tilted image sees the material beyond the untilted field, as in a microscope.
Coordinates are X, Y, Z in A from the centre of the slab; Y is the tilt axis, Z the beam at 0 degrees. A weight is a
phase shift of the electron wave times an area (rad A2).

Three microtubules of different lengths start from one point, along +X, +Y and +Z, so that a mirrored, turned or
transposed volume can be told from a correct one at a glance (`MARKS`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Name -> start and end in A of the microtubules that show the hand of a volume.
MARKS = {
    "long tube along +X": ((160.0, 0.0, 0.0), (860.0, 0.0, 0.0)),
    "short tube along +Y": ((0.0, 160.0, 0.0), (0.0, 590.0, 0.0)),
    "shortest tube along +Z": ((0.0, 0.0, 0.0), (0.0, 0.0, 330.0)),
}
#: Radius in A of the wall of a microtubule.
_TUBE_RADIUS = 105.0
#: Weight of a ribosome in rad A2: 2.5 MDa shift the phase by 0.1 rad on average over their disc of 115 A radius
#: (protein and RNA are about 2.5 V above ice, 0.00065 rad / (V A) at 300 kV, two thirds of the body are water).
RIBOSOME = 4200.0
_DALTON = RIBOSOME / 2.5e6
#: Weight per A2 of one leaflet of a membrane (rad A2): head groups of about 18 A, 2.5 V above ice. Area of a point.
_LEAFLET = 0.03
_PATCH = 16.0**2


@dataclass(frozen=True)
class Specimen:
    """Points (n, 3) in A, their weights (n,), and the thickness of the slab in A."""

    points: NDArray[np.float32]
    weights: NDArray[np.float32]
    thickness: float


def make_specimen(rng: np.random.Generator, extent_x: float, extent_y: float, thickness: float,
                  pre_tilt: float = 0.0) -> Specimen:
    """Return a slab of `extent_x` times `extent_y` times `thickness` A of cell material; `pre_tilt` in degrees about Y."""
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
    """Return the three tubes: 30 kDa per A, on a wall around the line from start to end."""
    tubes, per_angstrom = [], 2.0
    for start, end in MARKS.values():
        along = np.subtract(end, start)
        length = float(np.linalg.norm(along))
        across = np.cross(along / length, _directions(rng, int(length * per_angstrom)))
        wall = across / np.linalg.norm(across, axis=1, keepdims=True) * _TUBE_RADIUS
        tubes.append(np.asarray(start) + rng.random((len(wall), 1)) * along + wall)
    points = np.concatenate(tubes)
    return points + rng.normal(scale=10, size=points.shape), 30e3 * _DALTON / per_angstrom


def _ribosomes(rng: np.random.Generator, box: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Lumpy bodies of 115 A radius in random orientations, 9000 per cubic micrometre, all identical, none across a face."""
    count, lumps = int(9000 * box.prod() * 1e-12), 250
    body = _directions(rng, lumps) * 100 * rng.random((lumps, 1)) ** (1 / 3)
    body[: lumps // 3] = body[: lumps // 3] * [0.9, 0.6, 0.5] + [70.0, 0.0, 0.0]  # the small subunit, on one side
    centres = (rng.random((count, 3)) - 0.5) * np.maximum(box - [0, 0, 240], 0)
    turned = np.einsum("nij,kj->nki", _rotations(rng, count), body)
    return (turned + centres[:, None]).reshape(-1, 3), RIBOSOME / lumps


def _proteins(rng: np.random.Generator, box: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Small proteins of 60 kDa and 22 A radius, one in 170 A cubed: the grain of the cytosol."""
    centres = (rng.random((int(box.prod() / 170.0**3), 3)) - 0.5) * np.maximum(box - [0, 0, 60], 0)
    points = centres[:, None] + rng.normal(scale=15, size=(len(centres), 3, 3))
    return points.reshape(-1, 3), 60e3 * _DALTON / 3


def _vesicles(rng: np.random.Generator, box: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Spherical bilayers of 250 to 900 A radius, 100 per cubic micrometre, cut off at the faces of the slab."""
    shells = []
    for _ in range(max(2, int(100 * box.prod() * 1e-12))):
        radius = rng.uniform(250, 900)
        centre = (rng.random(3) - 0.5) * box
        shells += [_directions(rng, int(4 * math.pi * leaflet**2 / _PATCH)) * leaflet + centre
                   for leaflet in (radius - 18, radius + 18)]  # fmt: skip
    points = np.concatenate(shells)
    return points[np.abs(points[:, 2]) < box[2] / 2], _PATCH * _LEAFLET


def _membranes(rng: np.random.Generator, box: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Three folded bilayers that cross the slab from face to face."""
    count = int(box[1] * box[2] / _PATCH)
    sheets = []
    for place in (-0.31 * box[0], 0.09 * box[0], 0.36 * box[0]):
        for leaflet in (-18, 18):
            y, z = (rng.random((2, count)) - 0.5) * box[1:, None]
            x = place + 260 * np.sin(y / 700 + place) + 120 * np.sin(z / 400) + leaflet
            sheets.append(np.stack([x, y, z], axis=1))
    return np.concatenate(sheets), _PATCH * _LEAFLET


def _directions(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return unit vectors (count, 3), uniform over the sphere."""
    vectors = rng.normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _rotations(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return rotation matrices (count, 3, 3), uniform over all orientations: orthonormal frames from two random directions."""
    first, other = _directions(rng, count), _directions(rng, count)
    third = np.cross(first, other)
    third /= np.linalg.norm(third, axis=1, keepdims=True)
    return np.stack([first, np.cross(third, first), third], axis=2)
