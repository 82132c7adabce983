# SPDX-License-Identifier: GPL-3.0-or-later
"""How high the specimen is in each part of the field, and by how much it is inclined there.

At height z a part is seen in the tilt t moved by z tan t, so the likelihood of one part alone has its highest value at the mean
height of what is in it. Over the field the heights lie on a plane, whose slope across the tilt axis is the tilt that the
specimen has against the angles of the pose; what is left over is how unevenly things lie in it by chance, and the noise. So the
slope comes with a standard deviation of its own, which needs no model of the specimen. In ranges to one side the likelihood of
the whole field is biased, and things that are stronger than all else, as ice, decide in it; here each part has one vote.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tomostream.engine.align.geometry import Floats, Pose, frame_shape
from tomostream.engine.align.likelihood import down_weighted, model_of, signal_share
from tomostream.engine.align.pipeline import Bench
from tomostream.engine.align.spectra import Band, parts_of
from tomostream.engine.peaks import vertex

MAX_PARTS, MIN_PART = 4, 24  # parts a side, and their shorter side in working pixels
REACH, STEPS = 0.6, 25  # heights that are tried: up to this share of the thickness to either side, and how many
OUTLYING = 2.0  # standard deviations from the plane at which a part counts half
UNKNOWNS = 3  # of a plane


@dataclass(frozen=True)
class Slope:
    """By how much the specimen is inclined across the tilt axis against the angles of a pose.

    Attributes
    ----------
    degrees : float
        To be taken off the tilt offset.
    sigma_deg : float
        Its standard deviation.
    freedom : int
        Degrees of freedom behind it: parts of the field beyond the three that a plane needs.
    """

    degrees: float
    sigma_deg: float
    freedom: int


@dataclass(frozen=True)
class Plane:
    """A plane through values in the parts of the field.

    Attributes
    ----------
    level : float
        In the middle of the frame, in the unit of the values.
    across, along : float
        Slopes across and along the tilt axis, per working pixel.
    sigma : float
        Standard deviation of `across`.
    freedom : int
        Degrees of freedom behind it.
    """

    level: float
    across: float
    along: float
    sigma: float
    freedom: int


def parts_a_side(shape: tuple[int, int]) -> tuple[int, int]:
    """Return into how many parts (down, over) a frame of `shape` (rows, columns) is cut, each `MIN_PART` px or more.

    Examples
    --------
    >>> parts_a_side((60, 512))
    (2, 4)
    """
    down, over = (int(np.clip(side // MIN_PART, 2, MAX_PARTS)) for side in shape)
    return down, over


def heights(bench: Bench, pose: Pose, highest_per_A: float) -> tuple[Floats, Floats]:
    """Return how high the specimen is in each part of the field.

    Parameters
    ----------
    bench : Bench
        Images and used tilts.
    pose : Pose
        At which the heights are 0 on average.
    highest_per_A : float
        Highest frequency that is used, 1/A.

    Returns
    -------
    centres : ndarray, shape (P, 2)
        (X, Y) of the parts from the middle of the stretched frame, working pixels.
    heights : ndarray, shape (P,)
        Working pixels, along z.
    """
    parts = parts_a_side(frame_shape(bench.images.image_shape, pose.axis_deg))
    centres, _, found = bands_and_heights(bench, pose, highest_per_A, parts)
    return centres, found


def bands_and_heights(
    bench: Bench, pose: Pose, highest_per_A: float, parts: tuple[int, int]
) -> tuple[Floats, list[Band], Floats]:
    """Return centres, bands and heights of the parts of the field.

    Parameters
    ----------
    bench, pose, highest_per_A
        As for `heights`.
    parts : (int, int)
        How many down and over.

    Returns
    -------
    centres : ndarray, shape (P, 2)
    bands : list of Band
        Of each part, at `pose`.
    heights : ndarray, shape (P,)

    Notes
    -----
    With q_i the coefficients of tilt i in a part, M the inverse of the model's covariance and t_i the tangents, the
    log-likelihood of the height z is, up to a constant, ``-sum M_ij q_i* q_j exp(2 pi i kx z (t_j - t_i))``.
    """
    shape = frame_shape(bench.images.image_shape, pose.axis_deg)
    size, corners = parts_of(shape, parts)
    centres = np.array([(left + 0.5 * (size[1] - shape[1]), top + 0.5 * (size[0] - shape[0])) for top, left in corners])
    share = signal_share(bench.cut(pose, highest_per_A), pose)
    bands = bench.cut_parts(pose, highest_per_A, parts)
    model = model_of(bands[0], pose, share, bench.threads)
    trials = np.linspace(-REACH, REACH, STEPS) * pose.thickness
    turns = trials[None, :, None] * bands[0].cells.kx[:, None, None] * pose.tangents()[bench.members]
    phases = np.exp(2j * np.pi * turns).astype(np.complex64)
    found = []
    for band in bands:
        values = down_weighted(band, model).values * np.sqrt(band.cells.weight)[:, None, :].astype(np.float32)
        coupled = model.inverse * np.matmul(np.conj(values), np.swapaxes(values, 1, 2))
        value = -np.real(np.einsum("czj,czj->z", np.matmul(np.conj(phases), coupled), phases))
        found.append(_top(trials, value))
    return centres, bands, np.array(found)


def _top(x: Floats, y: Floats) -> float:
    """Return the place of the maximum of y(x), evenly spaced, by a parabola; not beyond half a step outside."""
    top = int(np.clip(np.argmax(y), 1, len(x) - 2))
    return float(x[top] + (x[1] - x[0]) * vertex(*y[top - 1 : top + 2], limit=1.5))


def plane_through(centres: Floats, found: Floats) -> Plane:
    """Fit a plane through values of the parts of the field; parts far from it count little.

    Parameters
    ----------
    centres : ndarray, shape (P, 2)
        (X, Y) of the parts, working pixels.
    found : ndarray, shape (P,)
        The values.

    Returns
    -------
    Plane
        By reweighted least squares; its `sigma` is that of the plain fit, in which all parts count.

    Notes
    -----
    Weights 1 / (1 + (r / (2 s))^2) for residuals r, with s from their median (Cauchy's).
    """
    design = np.column_stack([np.ones(len(found)), centres])
    plain = found - design @ np.linalg.lstsq(design, found, rcond=None)[0]
    freedom = max(1, len(found) - UNKNOWNS)
    spread = np.sqrt(np.sum(plain**2) / freedom * np.linalg.inv(design.T @ design)[1, 1])
    weight, plane = np.ones(len(found)), np.zeros(UNKNOWNS)
    for _ in range(10):
        root = np.sqrt(weight)
        plane = np.linalg.lstsq(design * root[:, None], found * root, rcond=None)[0]
        left = found - design @ plane
        usual = max(1.4826 * float(np.median(np.abs(left))), 1e-9)
        weight = 1.0 / (1.0 + (left / (OUTLYING * usual)) ** 2)
    return Plane(float(plane[0]), float(plane[1]), float(plane[2]), float(spread), freedom)


def slope_of(centres: Floats, found: Floats) -> Slope:
    """Return the slope across the tilt axis of a plane through heights.

    Parameters
    ----------
    centres : ndarray, shape (P, 2)
    found : ndarray, shape (P,)
        As `heights` returns them.

    Returns
    -------
    Slope
    """
    plane = plane_through(centres, found)
    return Slope(float(np.degrees(np.arctan(plane.across))), float(np.degrees(np.arctan(plane.sigma))), plane.freedom)
