# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of the stages: from coarse cross-correlation to joint maximum likelihood with all unknowns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.align.geometry import Floats, Pose
from tomostream.engine.align.likelihood import ascend, down_weighted, model_of, robust_weights, signal_share
from tomostream.engine.align.preprocess import WorkStack
from tomostream.engine.align.projection import Sweep, default_share, sweep
from tomostream.engine.align.spectra import Band, cut_band, cut_parts
from tomostream.engine.peaks import parabola_top

THICKNESSES_A = (200.0, 8000.0)  # from a bare layer of proteins to what hardly an electron crosses
STARTS = 4  # tilts to start from that are tried
Say = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """What all stages work with: images at one scale, the sections in use (`members`, from 0), and how many threads."""

    images: WorkStack
    members: NDArray[np.int64]
    threads: int

    def cut(self, pose: Pose, highest_per_A: float) -> Band:
        """Return the whitened band of the members at a pose.

        Parameters
        ----------
        pose : Pose
            In working pixels.
        highest_per_A : float
            Up to this frequency, 1/A.
        """
        return cut_band(self.images, pose, self.members, *self._limits(highest_per_A, 1), self.threads)

    def cut_parts(self, pose: Pose, highest_per_A: float, parts: tuple[int, int]) -> list[Band]:
        """Return `cut` of each of some parts (down, over) of the field by itself (`spectra.parts_of`).

        Parameters
        ----------
        pose, highest_per_A
            As for `cut`.
        parts : (int, int)
            How many down and over.
        """
        limits = self._limits(highest_per_A, max(parts))
        return cut_parts(self.images, pose, self.members, *limits, parts, self.threads)

    def _limits(self, highest_per_A: float, parts: int) -> tuple[float, float]:
        """Lowest and highest frequency, in cycles per pixel, where each side is cut in `parts`."""
        lowest = max(3.0 * parts / min(self.images.image_shape), self.images.pixel_A / 1200.0)
        return lowest, max(min(highest_per_A * self.images.pixel_A, 0.45), 3 * lowest)


def start_positions(pose: Pose, members: NDArray[np.int64]) -> list[int]:
    """Return positions among the members of the tilts nearest to 0 degrees, to start from: any one may be a bad image.

    Parameters
    ----------
    pose : Pose
        Its tilt angles.
    members : ndarray of int
        Sections in use.
    """
    return [int(i) for i in np.argsort(np.abs(pose.tilts_deg[members]), kind="stable")[:STARTS]]


def spread(moves: Floats, members: NDArray[np.int64], count: int) -> Floats:
    """Return moves of the members as moves of all tilts, 0 for the others.

    Parameters
    ----------
    moves : ndarray, shape (members, 2)
    members : ndarray of int, shape (members,)
        Sections in use.
    count : int
        Of all tilts.

    Returns
    -------
    ndarray, shape (count, 2)
    """
    out = np.zeros((count, 2))
    out[members] = moves
    return out


def match_outward(
    bench: Bench, pose: Pose, highest_per_A: float, radius_A: float, measured: bool, follow: bool
) -> tuple[Pose, Sweep]:
    """Make one sweep of projection matching.

    Parameters
    ----------
    bench : Bench
        Images and sections in use.
    pose : Pose
        Axis (degrees), angles, thickness and shifts (working pixels) to start from.
    highest_per_A : float
        Highest frequency that is used, 1/A.
    radius_A : float
        How far from its place a tilt is looked for, A.
    measured : bool
        Take the share of signal at the present pose, else a usual one.
    follow : bool
        First move a tilt along with its nearest placed neighbours: in a series that is not aligned yet.

    Returns
    -------
    Pose
        With the shifts found.
    Sweep
        How each tilt was found.

    Notes
    -----
    It starts from the tilt nearest to 0 degrees unless most others do not match it.
    """
    band = bench.cut(pose, highest_per_A)
    share = signal_share(band, pose) if measured else default_share(len(bench.members), bench.images.pixel_A)
    radius = radius_A / bench.images.pixel_A
    result: Sweep | None = None
    for start in start_positions(pose, bench.members):
        trial = sweep(band, pose, share, start, radius, follow)
        if result is None or np.count_nonzero(trial.placed) > np.count_nonzero(result.placed):
            result = trial
        if 2 * np.count_nonzero(result.placed) > len(bench.members):
            break
    if result is None:
        raise ValueError("no tilt to start from")
    return pose.moved(spread(result.moves, bench.members, len(pose.tilts_deg))), result


def fit(bench: Bench, band: Band, pose: Pose, share: Floats, steps: int) -> tuple[Floats, float]:
    """Find the moves of all tilts that maximise the likelihood of a band.

    Parameters
    ----------
    bench : Bench
        Images and sections in use.
    band : Band
        Coefficients (cells, tilts, places) at the pose.
    pose : Pose
        Axis (degrees), angles, thickness and shifts (working pixels) to start from.
    share : ndarray, shape (tilts, RINGS)
        Share of signal in the power.
    steps : int
        At most this many of the ascent.

    Returns
    -------
    ndarray, shape (all tilts, 2)
        Moves (dX, dY), working pixels; 0 for tilts that are not members.
    float
        The log-likelihood ratio reached.
    """
    model = model_of(band, pose, share, bench.threads)
    moves, value, _ = ascend(band, model, np.ones(len(bench.members), bool), steps, 6.0)
    return spread(moves, bench.members, len(pose.tilts_deg)), value


def down_weighted_band(bench: Bench, pose: Pose, highest_per_A: float) -> Band:
    """Return the band at a pose with coefficients that are too strong scaled down (`likelihood.down_weighted`).

    Parameters
    ----------
    bench, pose, highest_per_A
        As for `match_outward`.
    """
    band = bench.cut(pose, highest_per_A)
    return down_weighted(band, model_of(band, pose, signal_share(band, pose), bench.threads))


def maximise(bench: Bench, pose: Pose, highest_per_A: float, rounds: int, steps: int = 6) -> tuple[Pose, float]:
    """Fit all shifts at once by maximum likelihood, at a pose's axis, angles and thickness.

    Parameters
    ----------
    bench, pose, highest_per_A
        As for `match_outward`.
    rounds : int
        Times that the band is cut anew at the moved pose, at most.
    steps : int
        Of the ascent in each.

    Returns
    -------
    Pose
        With the shifts found.
    float
        The log-likelihood ratio reached.
    """
    value = -np.inf
    for _ in range(rounds):
        band = down_weighted_band(bench, pose, highest_per_A)
        moves, value = fit(bench, band, pose, signal_share(band, pose), steps)
        pose = pose.moved(moves)
        if np.abs(moves).max() < 0.02:
            break
    return pose, value


@dataclass(frozen=True)
class Comparison:
    """Poses compared by their likelihood after their shifts were fitted, each with the same share of signal and the same
    `weights` (cells, 1, places): coefficients that are too strong (ice, gold) would else decide alone."""

    bench: Bench
    highest_per_A: float
    share: Floats
    weights: NDArray[np.float32]

    @classmethod
    def around(cls, bench: Bench, pose: Pose, highest_per_A: float) -> Comparison:
        """Return the comparison of poses near `pose`, whose signal share and weights all of them are given.

        Parameters
        ----------
        bench, pose, highest_per_A
            As for `match_outward`.
        """
        band = bench.cut(pose, highest_per_A)
        weights = robust_weights(band, model_of(band, pose, signal_share(band, pose), bench.threads))
        return cls(bench, highest_per_A, signal_share(replace(band, values=band.values * weights), pose), weights)

    def value(self, pose: Pose) -> float:
        """Return the log-likelihood ratio of a pose after its shifts were fitted."""
        band, weights = self.bench.cut(pose, self.highest_per_A), self.weights
        if len(weights) != len(band.values):       # beyond 45 degrees images that are not square are cut the other way
            weights = Comparison.around(self.bench, pose, self.highest_per_A).weights
        return fit(self.bench, replace(band, values=band.values * weights), pose, self.share, 3)[1]


def fit_thickness(bench: Bench, pose: Pose, highest_per_A: float, factors: Floats) -> Pose:
    """Return the pose with the thickness at which the likelihood is highest.

    Parameters
    ----------
    bench, pose, highest_per_A
        As for `match_outward`.
    factors : ndarray
        Thicknesses that are tried, as factors of the present one.

    Returns
    -------
    Pose

    Notes
    -----
    Between the trials by a parabola in the logarithm of the thickness. Where the highest is the first or the last of them, the
    search goes on from there, within `THICKNESSES_A`.
    """
    band = down_weighted_band(bench, pose, highest_per_A)
    thinnest, thickest = (limit / bench.images.pixel_A for limit in THICKNESSES_A)
    for _ in range(3):
        trials = np.unique(np.clip(pose.thickness * factors, thinnest, thickest))
        values = []
        for thickness in trials:
            trial = replace(pose, thickness=float(thickness))
            values.append(fit(bench, band, trial, signal_share(band, trial), 3)[1])
        pose = replace(pose, thickness=float(np.exp(parabola_top(np.log(trials), np.array(values)))))
        inside = trials[0] * 1.01 < pose.thickness < trials[-1] / 1.01
        if inside or not thinnest * 1.01 < pose.thickness < thickest / 1.01:
            break
    return pose


def fit_offset(bench: Bench, pose: Pose, highest_per_A: float, trials: Floats, limits: tuple[float, float]) -> Pose:
    """Return the pose with the tilt offset at which the likelihood is highest.

    Parameters
    ----------
    bench, pose, highest_per_A
        As for `match_outward`.
    trials : ndarray
        Offsets that are tried, degrees from the present one, evenly spaced.
    limits : (float, float)
        Lowest and highest that may be tried, degrees from the present one.

    Returns
    -------
    Pose

    Notes
    -----
    Where the highest is the first or the last of `trials`, the search goes on from there, within `limits`.
    """
    comparison = Comparison.around(bench, pose, highest_per_A)
    steps = [float(trial) for trial in trials if limits[0] <= trial <= limits[1]]
    spacing = float(trials[1] - trials[0])
    values = [comparison.value(pose.offset_by(step)) for step in steps]
    for end, way in ((0, -spacing), (-1, spacing)):
        while values[end] == max(values) and limits[0] <= steps[end] + way <= limits[1]:
            steps.insert(end % len(steps) + (end < 0), steps[end] + way)
            values.insert(end % len(values) + (end < 0), comparison.value(pose.offset_by(steps[end])))
    return pose.offset_by(parabola_top(np.array(steps), np.array(values)))


def fit_axis(bench: Bench, pose: Pose, highest_per_A: float, trials: Floats) -> Pose:
    """Return the pose with the tilt axis at which the likelihood is highest.

    Parameters
    ----------
    bench, pose, highest_per_A
        As for `match_outward`.
    trials : ndarray
        Turns of the axis that are tried, degrees from the present one.

    Returns
    -------
    Pose
    """
    comparison = Comparison.around(bench, pose, highest_per_A)
    values = np.array([comparison.value(pose.turned(pose.axis_deg + float(trial))) for trial in trials])
    return pose.turned(pose.axis_deg + parabola_top(trials, values))
