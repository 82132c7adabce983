# SPDX-License-Identifier: GPL-3.0-or-later
"""Where beads are to a small part of a pixel, by the images themselves: the mean of a bead over its tilts is its template.

To first order an image of the bead is a level, the template, and for a small displacement (dx, dy) of it the template's slopes
times -dx and -dy; a least-squares fit of the four gives the displacement.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.gold.points import solved

if TYPE_CHECKING:
    from tomostream.engine.gold.geometry import Geometry
    from tomostream.engine.gold.images import WorkImages
    from tomostream.engine.gold.points import Point

Doubles = NDArray[np.float64]
ROUNDS = 2
#: Of the half width of the fit, in radii; pixels around that the interpolation needs; and by how many px a bead is moved at most.
REACH, MARGIN, MAX_MOVE = 1.6, 4, 1.0


def refined(geometry: Geometry, images: WorkImages, point: Point, radius_px: float) -> Point:
    """Return the same point, placed by its own images.

    Parameters
    ----------
    geometry : Geometry
        Where the tilts go.
    images : WorkImages
        Of all tilts.
    point : Point
        Where it was found.
    radius_px : float
        Of the bead, in working px.

    Returns
    -------
    Point
        A bead is moved in an image by a pixel at most.
    """
    seen = np.stack([point.position[0] * geometry.cosines[point.tilts] + point.position[2] * geometry.sines[point.tilts],
                     np.full(len(point.tilts), point.position[1])], axis=1) + point.residuals
    places = np.stack([geometry.raw(tilt, at) for tilt, at in zip(point.tilts.tolist(), seen, strict=True)])
    index, reach = images.indices(places), math.ceil(REACH * radius_px) + 1
    start = index.copy()
    for _ in range(ROUNDS):
        patches = np.stack([_patch(images.data[tilt], at, reach) for tilt, at in zip(point.tilts.tolist(), index, strict=True)])
        moved = index + _displacements(patches)
        index = np.where((np.abs(moved - start) <= MAX_MOVE).all(axis=1, keepdims=True), moved, index)
    aligned = np.stack([geometry.aligned(tilt, place[None])[0]
                        for tilt, place in zip(point.tilts.tolist(), images.places(index), strict=True)])
    position, residuals = solved(geometry, point.tilts, aligned)
    return replace(point, position=position, residuals=residuals)


def _patch(image: NDArray[np.float32], at: Doubles, reach: int) -> Doubles:
    """Return the square of an image about (x, y), by cubic splines, less its level and over its deviation."""
    from scipy.ndimage import map_coordinates

    ny, nx = image.shape
    x0, y0 = (math.floor(v) - reach - MARGIN for v in at)
    side = 2 * (reach + MARGIN) + 2
    window = image[np.clip(np.arange(y0, y0 + side), 0, ny - 1)][:, np.clip(np.arange(x0, x0 + side), 0, nx - 1)]
    steps = np.arange(-reach, reach + 1)
    y, x = np.meshgrid(steps + at[1] - y0, steps + at[0] - x0, indexing="ij")
    patch = map_coordinates(window.astype(np.float64), [y, x], order=3, mode="nearest")
    return np.asarray((patch - patch.mean()) / max(float(patch.std()), 1e-12))


def _displacements(patches: Doubles) -> Doubles:
    """Return displacements (x, y) of each patch (n, side, side) from the mean of all, px."""
    template = patches.mean(axis=0)
    down, right = np.gradient(template)
    design = np.stack([np.ones(template.size), template.ravel(), right.ravel(), down.ravel()], axis=1)
    found = np.linalg.lstsq(design, patches.reshape(len(patches), -1).T, rcond=None)[0]
    scale = np.where(found[1] > 0.1, found[1], np.inf)
    return np.asarray(-(found[2:] / scale).T)
