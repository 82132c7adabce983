# SPDX-License-Identifier: GPL-3.0-or-later
"""Specimens that are thicker on one side than on the other, and what that does to the shifts.

A ray of the tilt t through a slab whose thickness grows across the tilt axis meets more of it above its middle plane than below,
or the other way round, in the opposite sense at the opposite tilt: with the thickness T and its slope T', the mean height of what
it meets is -T T' tan t / 4. The likelihood, which knows an even slab, takes it for the middle of the specimen, and that it may:
what two tilts have in common then moves as if each were shifted by

    dX = -(T T' / 8) tan^2 t,

which fits all pairs of tilts together. Nothing in the shifts tells it from a true one; the thickness of the field's parts does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tomostream.engine.align.commonline import parabola_top
from tomostream.engine.align.geometry import Floats, Pose, frame_shape
from tomostream.engine.align.heights import bands_and_heights, plane_through
from tomostream.engine.align.likelihood import log_likelihood_ratio, model_of, signal_share, steadied, weighted
from tomostream.engine.align.pipeline import Bench

# Parts of the field to a thickness of the specimen: smaller ones lose what they hold while the tilts move it, and are found too
# even. Parts a side: fewer do not tell by how much they scatter. And thicknesses that a field must hold at least.
ACROSS_PART, MIN_PARTS, MAX_PARTS, MIN_FIELD = 1.5, 3, 4, 1.5
FACTORS = np.geomspace(0.55, 1.8, 5)  # of the thickness of the whole that are tried for its parts
CHANCE = 1.5  # standard deviations that a slope has by chance
FORMULA_SIGMA = 0.3  # by how much the formula may be wrong, a share; benchmarks/engine_align.py --sets "thicker to one side"


@dataclass(frozen=True)
class Wedge:
    """By how much the likelihood moves a tilt t: `bend` tan^2 t across the axis in the stretched frame, in A; `sigma` is its
    standard deviation."""

    bend: float = 0.0
    sigma: float = 0.0

    def moves(self, pose: Pose, pixel_A: float) -> Floats:
        """Return what is to be added to the moves (n, 2) of all tilts, in pixels."""
        out = np.zeros((len(pose.tilts_deg), 2))
        out[:, 0] = -self.bend / pixel_A * pose.tangents() ** 2
        return out

    def deviations(self, tilts_deg: Floats) -> Floats:
        """Return the standard deviation (n,) of dX cos t of tilts, in A; what a shift of the specimen does is taken out."""
        tilts = np.radians(tilts_deg)
        seen = np.cos(tilts) * np.tan(tilts) ** 2
        design = np.stack([np.cos(tilts), np.sin(tilts)], axis=1)
        out: Floats = self.sigma * np.abs(seen - design @ np.linalg.lstsq(design, seen, rcond=None)[0])
        return out


def parts_for(bench: Bench, pose: Pose) -> tuple[int, int] | None:
    """Into how many parts (down, over) the field is cut; None where it is too small for the thickness of the specimen."""
    held = np.array(frame_shape(bench.images.image_shape, pose.axis_deg)) / pose.thickness
    if held.min() < MIN_FIELD:
        return None
    down, over = np.clip((ACROSS_PART * held).astype(int), MIN_PARTS, MAX_PARTS).tolist()
    return down, over


def thicknesses(bench: Bench, pose: Pose, highest_per_A: float, parts: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return centres (P, 2), (X, Y) from the middle of the frame, of the parts of the field, and how thick each is (P,),
    working pixels.

    That is the thickness at which the likelihood of the part alone is highest, with its own share of signal and at the height of
    the plane through the heights of all parts: the specimen may be inclined along the axis.
    """
    centres, bands, found = bands_and_heights(bench, pose, highest_per_A, parts)
    plane = plane_through(centres, found)
    levels = plane.level + centres @ [plane.across, plane.along]
    trials = [replace(pose, thickness=float(pose.thickness * factor)) for factor in FACTORS]
    thick = []
    for band, level in zip(bands, levels, strict=True):
        band = band.moved(np.stack([level * pose.tangents()[band.members], np.zeros(len(band.members))], axis=1))
        steady = steadied(band, model_of(band, pose, signal_share(band, pose), bench.threads))
        values = []
        for trial in trials:
            model = model_of(steady, trial, signal_share(steady, trial), bench.threads)
            values.append(log_likelihood_ratio(steady, model, steady.values, weighted(model, steady.values)))
        thick.append(np.exp(parabola_top(np.log([trial.thickness for trial in trials]), np.array(values))))
    return centres, np.array(thick)


def wedge_of(bench: Bench, pose: Pose, highest_per_A: float) -> Wedge:
    """Return what the thickness of the parts of the field tells of the shifts at the highest likelihood."""
    parts = parts_for(bench, pose)
    if parts is None:
        return Wedge()
    plane = plane_through(*thicknesses(bench, pose, highest_per_A, parts))
    return wedge_from(plane.level * bench.images.pixel_A, plane.across, plane.sigma)


def wedge_from(thickness_A: float, slope: float, sigma: float) -> Wedge:
    """From the thickness in the middle of the field and its slope across the axis, which has the standard deviation `sigma`.

    Of the slope only the share that is not by chance is used: nothing where it does not stand out of `sigma`.
    """
    real = max(0.0, 1.0 - (CHANCE * sigma / slope) ** 2) if slope else 0.0
    bend = -thickness_A / 8.0 * real * slope
    by_chance = thickness_A / 8.0 * min(sigma, abs(slope))
    return Wedge(bend, float(np.hypot(by_chance, FORMULA_SIGMA * bend)))
