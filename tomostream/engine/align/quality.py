# SPDX-License-Identifier: GPL-3.0-or-later
"""What an alignment is worth: uncertainties from the Fisher matrix, checks without a reference, a figure in words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import median_filter, uniform_filter1d

from tomostream.engine.align.geometry import Floats, Pose, frame_shape
from tomostream.engine.align.likelihood import Model, ascend, down_weighted, fisher, model_of, signal_share
from tomostream.engine.align.offset import MAX_OFFSET_DEG, Offset
from tomostream.engine.align.pipeline import Bench, maximise
from tomostream.engine.align.spectra import Band
from tomostream.programs.quality import Trust

ENOUGH_TILTS = 9  # with fewer a series is not trusted: a wrong place of one of them hardly contradicts the others
TRUSTED_SPLIT_A = 20.0  # RMS difference of even and odd tilts up to which a series is trusted; benchmarks/engine_align.py
TRUSTED_SIGMA_A = 20.0  # typical uncertainty up to which it is
UNCERTAIN_A = 8.0  # standard deviation of a tilt's place above which it is named; errors of 15 A are twice that
FAINT, CLEAR = 4.0, 12.0  # standard deviations that a tilt stands out by where it counts nothing, and where it counts whole
MIN_CLEAR, MIN_USED, MIN_SPAN_DEG = 0.5, 0.6, 40.0  # mean of that, share of tilts used and their range, to be trusted
MAX_NAMED = 6  # tilts that are named one by one; of more only the number is
TRUSTED_LOOSE = 2 / 3  # of the tilts that may be uncertain
NEIGHBOURING = 7  # tilts over which the scatter between quarters is averaged: four quarters give that of a single tilt poorly
# Medians, and the 90th percentile of unevenness, up to which axis and angles are believed: see `Quarters.misfits`.
MAX_TURN_DEG = 0.1
MAX_STRETCH = 0.025
MAX_UNEVENNESS = 0.015


@dataclass(frozen=True)
class Quarters:
    """What quarters of the field show, aligned separately.

    Attributes
    ----------
    scatter : ndarray, shape (members, 2)
        Standard deviation over the quarters of each tilt's (dX cos t, dY), working pixels.
    stretched : ndarray, shape (members,)
        By how much each image is stretched across the axis against what its angle predicts, a share.
    turned : ndarray, shape (members,)
        By how much it is rotated against the tilt axis, degrees.
    tilts_deg : ndarray, shape (members,)
        Tilt angles.
    """

    scatter: Floats
    stretched: Floats
    turned: Floats
    tilts_deg: Floats

    def misfits(self) -> list[str]:
        """Return, in words, what a wrong tilt axis or wrong tilt angles leave behind; empty where there is no sign of them.

        Good series, with wedges and with ice on the specimen among them, reach about a third of the limits (`MAX_TURN_DEG`,
        `MAX_STRETCH`, `MAX_UNEVENNESS`); series with an axis that is wrong by 10 degrees or with swapped angles exceed them.
        """
        ordered = self.stretched[np.argsort(self.tilts_deg, kind="stable")]
        uneven = np.percentile(np.abs(ordered - median_filter(ordered, NEIGHBOURING)), 90.0)
        out = []
        if np.median(np.abs(self.turned)) > MAX_TURN_DEG:
            out.append(f"the images are rotated against each other by {np.median(np.abs(self.turned)):.2f} degrees, as with a "
                       "wrong tilt axis")
        if np.median(np.abs(ordered)) > MAX_STRETCH:
            out.append(f"the images are stretched by {100 * np.median(np.abs(ordered)):.0f} % off what their angles predict")
        if uneven > MAX_UNEVENNESS:
            out.append(f"neighbouring images are stretched unevenly by {100 * uneven:.1f} %, as with swapped tilt angles")
        return out


@dataclass(frozen=True)
class Checks:
    """What was measured on the finished alignment.

    Attributes
    ----------
    heights : ndarray, shape (members,)
        How far each tilt, left out and predicted from all others, stands out where it is, in standard deviations.
    split_A : float or None
        RMS difference of even and odd tilts aligned separately; None where they are too few.
    misfits : tuple of str
        What quarters of the field and tilts out of place say, in words.
    sigma_A : float
        Typical uncertainty of a tilt's place.
    loose : str
        Which tilts have places that are not well known, in words.
    loose_share : float
        Their share of all used tilts.
    """

    heights: Floats
    split_A: float | None
    misfits: tuple[str, ...] = ()
    sigma_A: float = 0.0
    loose: str = ""
    loose_share: float = 0.0


def standard_deviations(noise: Floats, field: Quarters, tilts_deg: Floats) -> Floats:
    """Return the standard deviation of every tilt's place, leaving out what a shift of the specimen does.

    The larger of two: what the Fisher matrix predicts for noise (`fisher_deviations`), and what quarters of the field,
    aligned separately, show. The Fisher matrix alone is 1.5 to 8 times too small: it does not know that the specimen is no even
    slab of random density, that ice lies on it, or that angles are not exact. How the larger of the two compares with the
    truth is measured by `python benchmarks/engine_align.py`, column "error/sigma".

    Parameters
    ----------
    noise : ndarray, shape (members, 2)
        Of `fisher_deviations`.
    field : Quarters
        Of `quarters`. The mean of four has half their scatter.
    tilts_deg : ndarray, shape (members,)
        Tilt angles: the scatter is averaged over `NEIGHBOURING` tilts.

    Returns
    -------
    ndarray, shape (members, 2)
        Of (dX cos t, dY), working pixels.
    """
    order = np.argsort(tilts_deg, kind="stable")
    smooth = np.empty_like(noise)
    smooth[order] = np.sqrt(uniform_filter1d(field.scatter[order] ** 2, NEIGHBOURING, axis=0, mode="nearest"))
    out: Floats = np.maximum(noise, 0.5 * smooth)
    return out


def fisher_deviations(band: Band, pose: Pose, model: Model) -> Floats:
    """Return the standard deviation of every tilt's place, as far as noise goes, from the Fisher matrix.

    What a shift of the specimen in X, Y and Z does is taken out; of the coefficients only the share that the window covers is
    independent.

    Parameters
    ----------
    band : Band
        The coefficients of the used tilts.
    pose : Pose
        Where they are.
    model : Model
        Of the band at this pose.

    Returns
    -------
    ndarray, shape (members, 2)
        Of (dX cos t, dY), working pixels.
    """
    cosines = np.cos(np.radians(pose.tilts_deg[band.members]))
    scale = np.stack([1.0 / cosines, np.ones_like(cosines)], axis=1).ravel()
    share = np.sqrt(np.clip(band.coverage, 0.05, 1.0))
    information = fisher(band, model, np.outer(share, share)) * np.outer(scale, scale)
    free = np.eye(len(information)) - gauge(cosines, np.sin(np.radians(pose.tilts_deg[band.members])))
    covariance = bounded_inverse(free @ information @ free)
    out: Floats = np.sqrt(np.maximum(np.diag(covariance), 0.0)).reshape(-1, 2)
    return out


def quarters(bench: Bench, pose: Pose, highest_per_A: float) -> Quarters:
    """Align each quarter of the field separately, and compare; shifts of the specimen are taken out of each.

    Parameters
    ----------
    bench : Bench
        Images and used tilts.
    pose : Pose
        Where each starts.
    highest_per_A : float
        Highest frequency that is used, 1/A.

    Returns
    -------
    Quarters
    """
    share = signal_share(bench.cut(pose, highest_per_A), pose)
    tangents = pose.tangents()[bench.members]
    flatten = np.stack([np.cos(np.arctan(tangents)), np.ones_like(tangents)], axis=1)
    moved = []
    for band in bench.cut_parts(pose, highest_per_A, (2, 2)):
        model = model_of(band, pose, share, bench.threads)
        moves, _, _ = ascend(down_weighted(band, model), model, np.ones(len(bench.members), bool), 8, 3.0)
        moved.append(without_gauge(moves, tangents))
    low, high = moved[0] + moved[2], moved[1] + moved[3]  # at low and at high x
    difference = 0.5 * (high - low) / (0.5 * frame_shape(bench.images.image_shape, pose.axis_deg)[1])
    scatter: Floats = np.std([moves * flatten for moves in moved], axis=0, ddof=1)
    return Quarters(scatter, difference[:, 0], np.degrees(difference[:, 1]), pose.tilts_deg[bench.members])


def gauge(cosines: Floats, sines: Floats) -> Floats:
    """Return the projector onto what shifts of the specimen in X, Y and Z do to the tilts' (dX cos t, dY).

    Parameters
    ----------
    cosines, sines : ndarray, shape (n,)
        Of the tilt angles.

    Returns
    -------
    ndarray, shape (2n, 2n)
        In the order (dX0 cos t0, dY0, dX1 cos t1, ...).

    Notes
    -----
    A specimen that moves by (x, y, z) moves the image of tilt t by dX cos t = x cos t + z sin t and dY = y.
    """
    design = np.zeros((2 * len(cosines), 3))
    design[0::2, 0] = cosines
    design[0::2, 1] = sines
    design[1::2, 2] = 1.0
    basis, strengths, _ = np.linalg.svd(design, full_matrices=False)
    basis = basis[:, strengths > 1e-6 * strengths.max()]
    out: Floats = basis @ basis.T
    return out


def bounded_inverse(information: Floats) -> Floats:
    """Return the inverse of a symmetric matrix outside its null space, which is that of directions already taken out.

    Directions of less than a hundred-thousandth of the mean information come from rounding: they count as null.

    Parameters
    ----------
    information : ndarray, shape (n, n)
    """
    values, vectors = np.linalg.eigh(0.5 * (information + information.T))
    least = 1e-5 * max(float(np.mean(values)), 1e-30)
    inverse = np.where(values > least, 1.0 / np.maximum(values, least), 0.0)
    out: Floats = (vectors * inverse) @ vectors.T
    return out


def without_gauge(moves: Floats, tangents: Floats) -> Floats:
    """Return moves less what a shift of the specimen in X, Y and Z makes of them, by least squares.

    Parameters
    ----------
    moves : ndarray, shape (n, 2)
        (dX, dY) in the stretched frame.
    tangents : ndarray, shape (n,)
        Of the tilt angles: a height z moves a tilt by dX = z tan t.
    """
    design = np.stack([np.ones_like(tangents), tangents], axis=1)
    across = moves[:, 0] - design @ np.linalg.lstsq(design, moves[:, 0], rcond=None)[0]
    return np.stack([across, moves[:, 1] - moves[:, 1].mean()], axis=1)


def split_difference_A(bench: Bench, pose: Pose, highest_per_A: float) -> float | None:
    """Align even and odd tilts separately, and compare each half with the whole.

    The half alignments know only every other tilt, so this is an upper bound for errors that differ from tilt to tilt.

    Parameters
    ----------
    bench, pose, highest_per_A
        As for `quarters`.

    Returns
    -------
    float or None
        RMS in A in the image, without shifts of the specimen; None where a half has fewer than five tilts.
    """
    order = bench.members[np.argsort(pose.tilts_deg[bench.members], kind="stable")]
    if len(order) < 10:
        return None
    residuals = []
    for half in (order[::2], order[1::2]):
        members = np.sort(half)
        fitted, _ = maximise(replace(bench, members=members), pose, highest_per_A, 1, steps=4)
        axis = np.radians(pose.axis_deg)
        raw = fitted.shifts[members] - pose.shifts[members]
        across = raw[:, 0] * np.cos(axis) + raw[:, 1] * np.sin(axis)
        along = -raw[:, 0] * np.sin(axis) + raw[:, 1] * np.cos(axis)
        cosines = np.cos(np.radians(pose.tilts_deg[members]))
        moves = without_gauge(np.stack([across / cosines, along], axis=1), pose.tangents()[members])
        moves[:, 0] *= cosines
        residuals.append(moves)
    every = np.concatenate(residuals)
    return float(np.sqrt(np.mean(np.sum(every**2, axis=1))) * bench.images.pixel_A)


def loosely_placed(sigma_A: Floats, tilts_deg: Floats) -> str:
    """Return, in words, which tilts have places that are not well known; "" where there are none.

    In thick specimens, and under ice, the ends of a series have little in common with the rest.

    Parameters
    ----------
    sigma_A : ndarray, shape (n,)
        Standard deviation of each tilt's place, A; beyond `UNCERTAIN_A` it is named.
    tilts_deg : ndarray, shape (n,)
        Tilt angles, as they are to be named.
    """
    loose = np.sort(tilts_deg[sigma_A > UNCERTAIN_A])
    if not len(loose):
        return ""
    if len(loose) == 1:
        return f"the place of the tilt at {loose[0]:.0f} degrees is uncertain by {sigma_A.max():.0f} A"
    named = ", ".join(f"{tilt:.0f}" for tilt in loose)
    which = f"the tilts at {named} degrees" if len(loose) <= MAX_NAMED else f"{len(loose)} tilts"
    return f"the places of {which} are uncertain by up to {sigma_A.max():.0f} A"


def judge(checks: Checks, used: int, total: int, span_deg: float, offset: Offset) -> tuple[float, str, Trust]:
    """Judge an alignment by its own checks.

    Parameters
    ----------
    checks : Checks
        What was measured of the alignment, lengths in A.
    used, total : int
        Tilts used, tilts of the series.
    span_deg : float
        From the lowest to the highest tilt used.
    offset : Offset
        The tilt offset and its uncertainty, degrees.

    Returns
    -------
    float
        From 0 to 1.
    str
        What it is worth, for people.
    Trust

    Notes
    -----
    The figure is the share of tilts that are used and stand well out of the noise, lowered where the halves disagree. A tilt
    offset that is not well known does not make the shifts wrong; it is said, after "trust", as are tilts whose places are not.
    """
    reasons = []
    clear = float(np.mean(np.clip((checks.heights - FAINT) / (CLEAR - FAINT), 0.0, 1.0))) if len(checks.heights) else 0.0
    figure = clear * used / max(total, 1)
    if checks.split_A is not None:
        figure /= 1.0 + (checks.split_A / (2.0 * TRUSTED_SPLIT_A)) ** 2
        if checks.split_A > TRUSTED_SPLIT_A:
            reasons.append(f"even and odd tilts aligned separately differ by {checks.split_A:.0f} A")
    if used < ENOUGH_TILTS:
        reasons.append(f"only {used} tilts are used")
    if used < MIN_USED * total:
        reasons.append(f"{total - used} of {total} tilts do not take part")
    if span_deg < MIN_SPAN_DEG:
        reasons.append(f"the tilts used span only {span_deg:.0f} degrees")
    if clear < MIN_CLEAR:
        reasons.append("most tilts, left out and predicted from the others, hardly stand out from the noise")
    if checks.sigma_A > TRUSTED_SIGMA_A:
        reasons.append(f"quarters of the field aligned separately suggest errors of {checks.sigma_A:.0f} A")
    if checks.loose_share > TRUSTED_LOOSE:
        reasons.append(checks.loose)
    reasons += checks.misfits
    figure /= 1.0 + len(checks.misfits)
    if offset.refused():
        reasons.append(f"the tilts fit best with an offset of {offset.found:.0f} degrees, more than {MAX_OFFSET_DEG:.0f}")
    figure = float(np.clip(figure, 0.0, 1.0))
    trust = Trust.DOUBTFUL if reasons else Trust.TRUSTED
    verdict = "do not trust: " + "; ".join(reasons) if reasons else "trust"
    remarks = [remark for remark in (offset.remark(), "" if reasons else checks.loose) if remark]
    return figure, "; ".join([verdict, *remarks]), trust
