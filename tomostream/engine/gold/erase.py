# SPDX-License-Identifier: GPL-3.0-or-later
"""Tilt images without gold and hot pixels.

What is taken out is filled with what is around it: the plane that fits the surroundings, and on it their noise, a sum with random
signs of patches nearby, each less its own plane. The sum has their variance at every frequency and shows nothing in particular of
the specimen. Where a patch is taken and with which sign depends on the section and the bead alone, and all is
linear in the image: the same places of even, odd and whole images are filled alike, and the whole stays the sum of its halves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.recon.stack import TiltStack, hot_pixels

if TYPE_CHECKING:
    from tomostream.engine.gold.find import Gold

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
#: Patches of which noise is made, and places that are tried for them.
PATCHES, TRIES = 6, 120
#: Width of the soft edge, of the radius and at least px; of the ring whose plane is taken, of the radius and at least px.
SOFT, MIN_SOFT, RING, MIN_RING = 0.15, 1.5, 0.8, 3.0
#: Where patches are taken, in radii from the bead.
NEAR, FAR = 2.1, 7.0
#: px from a hot pixel: where its value is taken from.
AROUND = (3, 6)


@dataclass(frozen=True)
class Spot:
    """A round piece of an image.

    Attributes
    ----------
    x, y : float
        Its centre as pixel index.
    radius : float
        px.
    number : int
        Of the bead.
    """

    x: float
    y: float
    radius: float
    number: int

    @property
    def soft(self) -> float:
        """Width of the soft edge, px."""
        return max(MIN_SOFT, SOFT * self.radius)

    @property
    def outer(self) -> float:
        """Radius outside which nothing is changed, px."""
        return self.radius + self.soft


@dataclass(frozen=True)
class Erasure:
    """What is erased of a series.

    Attributes
    ----------
    gold : Gold
        The beads.
    whole : TiltStack
        In which hot pixels are found.
    hot : dict
        Their rows and columns by section, found when it is first read.
    """

    gold: Gold
    whole: TiltStack
    hot: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=dict)

    def spots(self, section: int) -> list[Spot]:
        """Return where beads are in section `section`, from 0; none in one that is not used."""
        if section not in self.gold.sections:
            return []
        tilt, (ny, nx) = self.gold.sections.index(section), self.whole.shape
        out = []
        for number, bead in enumerate(self.gold.beads):
            x, y = bead.places[tilt] + (np.array([nx, ny]) - 1) / 2
            spot = Spot(float(x), float(y), self.gold.radius_px, number)
            if -spot.outer < x < nx - 1 + spot.outer and -spot.outer < y < ny - 1 + spot.outer:
                out.append(spot)
        return out

    def hot_of(self, section: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return rows and columns of the hot pixels of section `section`, from 0."""
        if section not in self.hot:
            self.hot[section] = hot_pixels(self.whole.section(section))
        return self.hot[section]

    @property
    def hot_count(self) -> int:
        """Hot pixels of the sections that were read."""
        return sum(len(rows) for rows, _ in self.hot.values())


@dataclass(frozen=True)
class ErasedStack(TiltStack):
    """A stack as `TiltStack`, its sections without gold and hot pixels."""

    erasure: Erasure = field(kw_only=True)

    @classmethod
    def of(cls, stack: TiltStack, erasure: Erasure) -> ErasedStack:
        """Return `stack`, the whole or a half of the erasure's, without what is erased."""
        return cls(stack.path, stack.data, stack.pixel_size_A, erasure=erasure)

    def section(self, index: int) -> Floats:
        """Return section `index`, from 0, without what is erased."""
        image = super().section(index)
        out = without_hot(image, *self.erasure.hot_of(index), index)
        return without_spots(out, self.erasure.spots(index), index)


def without_hot(image: Floats, rows: NDArray[np.int64], columns: NDArray[np.int64], section: int) -> Floats:
    """Return an image with the values of other pixels nearby in place of some.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Stays as it is.
    rows, columns : ndarray of int, shape (n,)
        Where the hot pixels are.
    section : int
        Chooses the random places from which values are taken, the same every time.
    """
    if not len(rows):
        return image
    rng = np.random.default_rng([section, 1])
    out, hot = image.copy(), set(zip(rows.tolist(), columns.tolist(), strict=True))
    ny, nx = image.shape
    for y, x in sorted(hot):
        for _ in range(TRIES):
            angle, distance = rng.uniform(0, 2 * math.pi), rng.uniform(*AROUND)
            at = (y + round(distance * math.sin(angle)), x + round(distance * math.cos(angle)))
            if 0 <= at[0] < ny and 0 <= at[1] < nx and at not in hot:
                out[y, x] = image[at]
                break
    return out


def without_spots(image: Floats, spots: Sequence[Spot], section: int) -> Floats:
    """Return an image with its surroundings in place of some round pieces.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Stays as it is.
    spots : sequence of Spot
        Places and radii in px of this image.
    section : int
        Chooses the random numbers, with the number of the spot: the same every time.
    """
    if not spots:
        return image
    out = np.array(image, np.float32)
    centres = np.array([[spot.x, spot.y] for spot in spots])
    for spot in spots:
        _fill(out, image, spot, centres, np.random.default_rng([section, spot.number, 2]))
    return out


def _fill(out: Floats, image: Floats, spot: Spot, centres: Doubles, rng: np.random.Generator) -> None:
    """Fill one piece of `out`, from `image`."""
    ring = spot.outer + max(MIN_RING, RING * spot.radius)
    (y0, y1), (x0, x1) = (_range(at, ring, n) for at, n in zip((spot.y, spot.x), image.shape, strict=True))
    if y1 - y0 < 2 or x1 - x0 < 2:
        return
    y, x = np.meshgrid(np.arange(y0, y1) - spot.y, np.arange(x0, x1) - spot.x, indexing="ij")
    distance = np.hypot(x, y)
    clear = (distance > spot.outer) & (distance <= ring)
    for centre in centres:
        if np.hypot(centre[0] - spot.x, centre[1] - spot.y) < ring + spot.outer:
            clear &= np.hypot(x + spot.x - centre[0], y + spot.y - centre[1]) > spot.outer
    weight = np.clip((spot.outer - distance) / spot.soft, 0, 1)
    weight = (0.5 - 0.5 * np.cos(np.pi * weight)).astype(np.float32)
    part = (slice(y0, y1), slice(x0, x1))
    fill = _plane(image[part], x, y, clear, spot.radius) + _noise(image, spot, (y0, y1, x0, x1), centres, rng)
    # what of it another bead has filled already stays so where this one does not reach
    out[part] += weight * (fill.astype(np.float32) - out[part])


def _range(at: float, reach: float, count: int) -> tuple[int, int]:
    """Return the pixels within `reach` of a place along one side of `count`: first, and one after the last."""
    return max(0, math.floor(at - reach)), min(count, math.ceil(at + reach) + 1)


def _plane(part: Floats, x: Doubles, y: Doubles, clear: NDArray[np.bool_], scale: float) -> Doubles:
    """Return the plane that fits the clear pixels best, at all; the mean of all pixels where fewer than 12 are clear."""
    if np.count_nonzero(clear) < 12:
        return np.full(part.shape, float(np.median(part)))
    design = np.stack([np.ones(part.shape), x / scale, y / scale], axis=-1)
    # a ring that is cut off at an edge of the image says little of the slope: 1e-3 keeps it from being followed
    inner = design[clear]
    normal = inner.T @ inner + np.diag([0, 1e-3, 1e-3]) * len(inner)
    return np.asarray(design @ np.linalg.solve(normal, inner.T @ part[clear].astype(np.float64)))


def _noise(
    image: Floats, spot: Spot, part: tuple[int, int, int, int], centres: Doubles, rng: np.random.Generator
) -> Doubles:
    """Return the noise of the surroundings for the part (y0, y1, x0, x1) of an image; none where everything around is gold."""
    y0, y1, x0, x1 = part
    (ny, nx), sources = image.shape, []
    half = 0.5 * math.hypot(y1 - y0, x1 - x0)
    for _ in range(TRIES):
        angle, distance = rng.uniform(0, 2 * math.pi), spot.outer * rng.uniform(NEAR, FAR)
        down, right = round(distance * math.sin(angle)), round(distance * math.cos(angle))
        if min(y0 + down, x0 + right) < 0 or y1 + down > ny or x1 + right > nx:
            continue
        middle = np.array([0.5 * (x0 + x1) + right, 0.5 * (y0 + y1) + down])
        if (np.hypot(*(centres - middle).T) < 0.8 * half + spot.outer).any():
            continue
        sources.append((distance, image[y0 + down : y1 + down, x0 + right : x1 + right], rng.choice([-1.0, 1.0])))
        if len(sources) == 2 * PATCHES:
            break
    total = np.zeros((y1 - y0, x1 - x0))
    nearest = sorted(sources, key=lambda each: each[0])[:PATCHES]
    y, x = np.meshgrid(np.linspace(-1, 1, y1 - y0), np.linspace(-1, 1, x1 - x0), indexing="ij")
    everywhere = np.ones(total.shape, bool)
    for _, patch, sign in nearest:
        total += sign * (patch - _plane(patch, x, y, everywhere, 1.0))
    return total / math.sqrt(max(1, len(nearest)))
