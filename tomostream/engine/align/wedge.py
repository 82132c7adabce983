# SPDX-License-Identifier: GPL-3.0-or-later
"""Specimens that are thicker on one side than on the other, and what that does to the shifts.

A ray of the tilt t through a slab whose thickness grows across the tilt axis meets more of it above its middle plane than below,
or the other way round, in the opposite sense at the opposite tilt: with the thickness T and its slope T', the mean height of what
it meets is -T T' tan t / 4. The likelihood, which knows an even slab, takes it for the middle of the specimen, and that it may:
what two tilts have in common then moves as if each were shifted by

    dX = -(T T' / 8) tan^2 t,

which fits all pairs of tilts together. Nothing in the shifts shows that it is wrong; the thickness of the field's parts does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tomostream.engine.align.geometry import Floats, Pose, frame_shape
from tomostream.engine.align.heights import bands_and_heights, plane_through
from tomostream.engine.align.likelihood import down_weighted, log_likelihood_ratio, model_of, signal_share, weighted
from tomostream.engine.align.pipeline import Bench
from tomostream.engine.peaks import parabola_top

# Parts of the field to a thickness of the specimen: smaller ones lose what they hold while the tilts move it, and are found too
# even. Parts a side: fewer do not show how much they scatter. And how many thicknesses a field must be wide.
ACROSS_PART, MIN_PARTS, MAX_PARTS, MIN_FIELD = 1.5, 3, 4, 1.5
# Factors of the thickness of the whole that are tried for its parts. The likelihood has a sharper top than a parabola: one
# through trials 30 % apart finds parts that differ by 7 % half as different.
FACTORS = np.geomspace(0.65, 1.55, 7)
CHANCE = 1.5  # standard deviations that a slope has by chance
FORMULA_SIGMA = 0.3  # by how much the formula may be wrong, a share; benchmarks/engine_align.py --sets "thicker to one side"


@dataclass(frozen=True)
class Wedge:
    """By how much the likelihood puts a tilt t too far across the axis: `bend` tan^2 t in the stretched frame, A.

    `sigma` is the standard deviation of `bend`, A.
    """

    bend: float = 0.0
    sigma: float = 0.0

    def moves(self, pose: Pose, pixel_A: float) -> Floats:
        """Return what is to be added to the moves of all tilts.

        Parameters
        ----------
        pose : Pose
            Its tilt angles.
        pixel_A : float
            Of the working images.

        Returns
        -------
        ndarray, shape (n, 2)
            (dX, 0) in the stretched frame, working pixels.
        """
        out = np.zeros((len(pose.tilts_deg), 2))
        out[:, 0] = -self.bend / pixel_A * pose.tangents() ** 2
        return out

    def deviations(self, tilts_deg: Floats) -> Floats:
        """Return the standard deviation of tilts' places across the axis that comes from `sigma`.

        Parameters
        ----------
        tilts_deg : ndarray, shape (n,)
            Tilt angles.

        Returns
        -------
        ndarray, shape (n,)
            Of dX cos t, A; what a shift of the specimen does is taken out.
        """
        tilts = np.radians(tilts_deg)
        seen = np.cos(tilts) * np.tan(tilts) ** 2
        design = np.stack([np.cos(tilts), np.sin(tilts)], axis=1)
        out: Floats = self.sigma * np.abs(seen - design @ np.linalg.lstsq(design, seen, rcond=None)[0])
        return out


def parts_for(bench: Bench, pose: Pose) -> tuple[int, int] | None:
    """Return into how many parts (down, over) the field is cut; None where it is too small for the thickness of the specimen.

    Parameters
    ----------
    bench : Bench
        Gives the size of the field.
    pose : Pose
        Gives the thickness, working pixels.
    """
    held = np.array(frame_shape(bench.images.image_shape, pose.axis_deg)) / pose.thickness
    if held.min() < MIN_FIELD:
        return None
    down, over = np.clip((ACROSS_PART * held).astype(int), MIN_PARTS, MAX_PARTS).tolist()
    return down, over


def thicknesses(bench: Bench, pose: Pose, highest_per_A: float, parts: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return how thick the specimen is in each part of the field.

    Parameters
    ----------
    bench, pose, highest_per_A
        As for `heights.heights`.
    parts : (int, int)
        How many down and over.

    Returns
    -------
    centres : ndarray, shape (P, 2)
        (X, Y) of the parts from the middle of the stretched frame, working pixels.
    thicknesses : ndarray, shape (P,)
        Working pixels: at which the likelihood of the part alone is highest, with its own share of signal and at the height of
        the plane through the heights of all parts, as the specimen may be inclined along the axis.
    """
    centres, bands, found = bands_and_heights(bench, pose, highest_per_A, parts)
    plane = plane_through(centres, found)
    levels = plane.level + centres @ [plane.across, plane.along]
    trials = [replace(pose, thickness=float(pose.thickness * factor)) for factor in FACTORS]
    thick = []
    for band, level in zip(bands, levels, strict=True):
        band = band.moved(np.stack([level * pose.tangents()[band.members], np.zeros(len(band.members))], axis=1))
        robust = down_weighted(band, model_of(band, pose, signal_share(band, pose), bench.threads))
        values = []
        for trial in trials:
            model = model_of(robust, trial, signal_share(robust, trial), bench.threads)
            values.append(log_likelihood_ratio(robust, model, robust.values, weighted(model, robust.values)))
        thick.append(np.exp(parabola_top(np.log([trial.thickness for trial in trials]), np.array(values))))
    return centres, np.array(thick)


def wedge_of(bench: Bench, pose: Pose, highest_per_A: float) -> Wedge:
    """Return what the thickness of the parts of the field says about the shifts at the highest likelihood.

    Parameters
    ----------
    bench, pose, highest_per_A
        As for `heights.heights`.

    Returns
    -------
    Wedge
        One that changes nothing where the field is too small.
    """
    parts = parts_for(bench, pose)
    if parts is None:
        return Wedge()
    plane = plane_through(*thicknesses(bench, pose, highest_per_A, parts))
    return wedge_from(plane.level * bench.images.pixel_A, plane.across, plane.sigma)


def wedge_from(thickness_A: float, slope: float, sigma: float) -> Wedge:
    """Return the wedge of a specimen whose thickness has a slope across the tilt axis.

    Parameters
    ----------
    thickness_A : float
        T in the middle of the field.
    slope : float
        T' across the axis, A per A.
    sigma : float
        Its standard deviation: of the slope only what is not by chance is used, and nothing where it does not stand out. What is
        not used may be true all the same, and makes the bend uncertain.

    Notes
    -----
    The bend is -T T' / 8 (the module's text).

    Examples
    --------
    >>> wedge_from(1600.0, 0.1, 0.0).bend
    -20.0
    """
    real = max(0.0, 1.0 - (CHANCE * sigma / slope) ** 2) if slope else 0.0
    bend = -thickness_A / 8.0 * real * slope
    by_chance = thickness_A / 8.0 * np.hypot(sigma, (1.0 - real) * slope)
    return Wedge(bend, float(np.hypot(by_chance, FORMULA_SIGMA * bend)))
