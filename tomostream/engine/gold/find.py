# SPDX-License-Identifier: GPL-3.0-or-later
"""From an aligned series to its gold beads: candidates, points, and which of them are gold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.gold.candidates import candidates
from tomostream.engine.gold.geometry import Geometry
from tomostream.engine.gold.images import ACROSS, WorkImages, work_images
from tomostream.engine.gold.judge import MIN_BEADS, Measured, common_size, like_gold, measured, reach_A, with_neighbours
from tomostream.engine.gold.points import Search
from tomostream.engine.gold.refine import refined
from tomostream.engine.recon.options import silent
from tomostream.engine.threads import parallel

if TYPE_CHECKING:
    from tomostream.engine.recon.options import TiltUse
    from tomostream.engine.recon.stack import TiltStack

Doubles = NDArray[np.float64]
#: What is tried where the diameter is not given, A: beads of 5 to 20 nm are sold.
LADDER_A = (50.0, 70.0, 100.0, 140.0, 200.0)
#: Of the size that was sought a point's may differ: on the ladder, of the common size, and of a given one, which is nominal.
RUNG, SAME_SIZE, NOMINAL = 0.3, 0.2, 0.3
#: Pixels of the shorter side, below which images are not binned.
MIN_SIDE = 128
#: Beads from which on their residuals say something of the alignment.
ENOUGH = 5


@dataclass(frozen=True)
class Bead:
    """One bead.

    Attributes
    ----------
    position : (float, float, float)
        (X, Y, Z) in raw pixels from the centre of the specimen.
    diameter_A : float
    seen : int
        In how many tilts.
    residual_px : float
        How far it was there from where the alignment puts it, RMS, raw px.
    places : ndarray, shape (K, 2)
        Where it is in every tilt of the series, raw pixels from the centre of the image.
    """

    position: tuple[float, float, float]
    diameter_A: float
    seen: int
    residual_px: float
    places: Doubles


@dataclass(frozen=True)
class Gold:
    """The beads of a series.

    Attributes
    ----------
    beads : tuple of Bead
    sections : tuple of int
        Those of the tilts.
    radius_px : float
        What is erased around each, raw px.
    residual_px : float or None
        RMS over all beads and tilts of how far they are from where the alignment puts them, raw px; None where there are few.
    diameter_A : float or None
        Of the beads.
    offsets_px : dict
        By section, how far all of them together are, the length of the mean, raw px.
    measured : tuple of Measured
        Points of all sizes that were looked at.
    """

    beads: tuple[Bead, ...] = ()
    sections: tuple[int, ...] = ()
    radius_px: float = 0.0
    residual_px: float | None = None
    diameter_A: float | None = None
    offsets_px: dict[int, float] = field(default_factory=dict)
    #: Points of all sizes that were looked at.
    measured: tuple[Measured, ...] = field(default=(), repr=False)


def find_gold(
    stack: TiltStack, tilts: Sequence[TiltUse], pixel_A: float, diameter_A: float | None = None, threads: int = 1,
    progress: Callable[[str, float], None] = silent,
) -> Gold:
    """Return the gold beads of an aligned series.

    Parameters
    ----------
    stack : TiltStack
        The raw images.
    tilts : sequence of TiltUse
        Where the tilts go.
    pixel_A : float
        Of the stack.
    diameter_A : float, optional
        Of the beads; by default it is found out.
    threads : int
        At most this many.
    progress : callable
        Takes a stage and the share of it that is done.

    Returns
    -------
    Gold
        Without beads where there are none, or, of an unknown diameter, too few of one.
    """
    geometry = Geometry.of(tilts, stack.shape)
    scales = Scales(work_images(stack, geometry, pixel_A, (diameter_A or LADDER_A[0]) / ACROSS, threads))
    if diameter_A is not None:
        progress("gold beads", 0.5)
        every = _of_size(geometry, scales, diameter_A, threads)
        found = with_neighbours(like_gold(every, NOMINAL, diameter_A), every, NOMINAL, diameter_A)
        return _reported(geometry, scales, _apart(found), every)
    tried: list[Measured] = []
    for number, sought in enumerate(LADDER_A):
        progress("gold beads", number / (1 + len(LADDER_A)))
        tried += like_gold(_of_size(geometry, scales, sought, threads), RUNG, sought)
    common = common_size(_apart(tried))
    if common is None:
        return Gold((), tuple(tilt.section for tilt in geometry.tilts), measured=tuple(tried))
    every = _of_size(geometry, scales, common, threads)
    found = _apart(with_neighbours(like_gold(every, SAME_SIZE, common), every, SAME_SIZE, common))
    return _reported(geometry, scales, found if len(found) >= MIN_BEADS else [], every)


class Scales:
    """Working images at one scale and at coarser ones, made when they are needed."""

    def __init__(self, finest: WorkImages) -> None:
        self._levels = [finest]

    def of(self, diameter_A: float) -> WorkImages:
        """Return images in which a bead of `diameter_A` is nine to seventeen pixels wide; the finest, where it is less."""
        level = 0
        while diameter_A / self._levels[level].pixel_A > 1.9 * ACROSS and min(self._levels[level].shape) >= MIN_SIDE:
            level += 1
            if level == len(self._levels):
                self._levels.append(self._levels[-1].binned())
        return self._levels[level]


def _of_size(geometry: Geometry, scales: Scales, diameter_A: float, threads: int) -> list[Measured]:
    """Return all points that are seen as balls of about one size."""
    images = scales.of(diameter_A)
    radius = 0.5 * diameter_A / images.pixel_A
    points = Search(geometry, images, candidates(images, radius, threads), radius, threads).run()
    return parallel(lambda point: measured(geometry, images, point, radius), points, threads)


def _apart(every: Sequence[Measured]) -> list[Measured]:
    """Of points that are the same but for the size that was sought, the one that fits its ball best."""
    kept: list[Measured] = []
    for each in sorted(every, key=lambda one: -one.fit):
        near = 0.5 * each.diameter_A / each.step_A * each.scale
        if all(np.linalg.norm(each.point.position - one.point.position) > near for one in kept):
            kept.append(each)
    return kept


def _reported(geometry: Geometry, scales: Scales, gold: Sequence[Measured], every: Sequence[Measured]) -> Gold:
    """Return the beads as they are handed on."""
    sections = tuple(tilt.section for tilt in geometry.tilts)
    if not gold:
        return Gold((), sections, measured=tuple(every))
    images = scales.of(gold[0].diameter_A)
    gold = [replace(each, point=refined(geometry, images, each.point, 0.5 * each.diameter_A / images.pixel_A)) for each in gold]
    residuals = np.concatenate([each.point.residuals for each in gold])
    rms = float(np.sqrt((residuals**2).sum(axis=1).mean())) if len(gold) >= ENOUGH else None
    diameter = float(np.median([each.diameter_A for each in gold]))
    radius = reach_A(gold) * images.scales[1] / images.pixel_A
    offsets = _offsets(geometry, gold) if rms is not None else {}
    return Gold(tuple(_bead(geometry, each) for each in gold), sections, radius, rms, diameter, offsets, tuple(every))


def _offsets(geometry: Geometry, gold: Sequence[Measured]) -> dict[int, float]:
    """Return the length of the mean residual of the beads of every tilt that shows enough of them, by section."""
    tilts = np.concatenate([each.point.tilts for each in gold])
    residuals = np.concatenate([each.point.residuals for each in gold])
    counts = np.bincount(tilts, minlength=len(geometry.tilts))
    return {geometry.tilts[tilt].section: float(np.hypot(*residuals[tilts == tilt].mean(axis=0)))
            for tilt in np.flatnonzero(counts >= ENOUGH).tolist()}


def _bead(geometry: Geometry, each: Measured) -> Bead:
    """Return a bead, put in every tilt where it was seen, else where it must be."""
    point = each.point
    places = geometry.places(point.position[None])[:, 0]
    for tilt, off in zip(point.tilts.tolist(), point.residuals, strict=True):
        turn = np.radians(geometry.tilts[tilt].placement.rot_deg)
        places[tilt] += [np.cos(turn) * off[0] - np.sin(turn) * off[1], np.sin(turn) * off[0] + np.cos(turn) * off[1]]
    x, y, z = (float(value) for value in point.position)
    return Bead((x, y, z), each.diameter_A, len(point.tilts), float(np.sqrt((point.residuals**2).sum(axis=1).mean())), places)
