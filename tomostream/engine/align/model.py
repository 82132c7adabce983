# SPDX-License-Identifier: GPL-3.0-or-later
"""What the alignment of a tilt series is asked and what it answers, as frozen facts.

Conventions (AreTomo's, the same as in its `.aln` files):

- Image coordinates are in pixels from the image's centre, which is index n/2; x runs along columns, y along rows.
- raw = R(ROT) aligned + (TX, TY), with R(a)(x, y) = (x cos a - y sin a, x sin a + y cos a).
- The tilt axis is the y axis of the aligned frame; its angle ROT is counter-clockwise from the image's y axis (IMOD).
- A specimen point (X, Y, Z) is seen in the aligned image of tilt angle t at (X cos t + Z sin t, Y).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomostream.programs.quality import Trust

MAX_THREADS = 64  # more than a series has tilts to share out gain nothing


class AlignmentError(ValueError):
    """A series that cannot be aligned at all; the message says why and what to do, in one sentence."""


@dataclass(frozen=True)
class Start:
    """An alignment to start from, in the conventions of the module.

    Attributes
    ----------
    axis_deg, offset_deg : float
        Tilt axis and tilt offset.
    shifts : ndarray, shape (n, 2)
        (TX, TY) of the sections, pixels of the stack.
    known : ndarray of bool, shape (n,)
        Which sections it has.
    """

    axis_deg: float
    offset_deg: float
    shifts: NDArray[np.floating]
    known: NDArray[np.bool_]


@dataclass(frozen=True)
class AlignOptions:
    """What is asked of `align_series`.

    Attributes
    ----------
    pixel_size_A : float
        Of the stack.
    tilt_axis_deg : float
        Where the search starts, counter-clockwise from y.
    refine_axis : bool
        Refine it.
    full_axis_search : bool
        Ignore it and search in [-90, 90).
    tilt_cor : int
        AreTomo's -TiltCor: -1 leaves the tilt angles as they are; 0 and 1 measure a tilt offset (the specimen's own tilt) and use
        it in the alignment. Whether the reconstruction uses it is the caller's affair. The thickness is always measured.
    dark_tol : float
        An image whose mean is below this fraction of what its tilt angle predicts is dark.
    threads : int
        At most this many, and no more than `MAX_THREADS`.
    start : Start, optional
        An alignment to refine, instead of a search; its axis and offset come before those given here.
    """

    pixel_size_A: float
    tilt_axis_deg: float = 0.0
    refine_axis: bool = True
    full_axis_search: bool = False
    tilt_cor: int = 0
    dark_tol: float = 0.7
    threads: int = 1
    start: Start | None = None


@dataclass(frozen=True)
class TiltResult:
    """One section's alignment.

    Attributes
    ----------
    section : int
        From 0 in the input stack.
    tilt_deg : float
        Nominal angle.
    used : bool
    reason : str
        Why it is not used; "" where it is.
    tx, ty : float
        Pixels of the input stack, as in the module's conventions.
    rot_deg : float
        Tilt axis.
    sigma_px : (float, float) or None
        Standard deviation of (x, y) in the aligned frame, pixels of the input stack, from quarters of the field and the Fisher
        matrix (`quality.standard_deviations`), relative to the other tilts: what a shift of the specimen in X, Y and Z does is
        taken out. None for a tilt that is not used.
    residual_px : float or None
        How far from its place the tilt best matches what all others predict, pixels of the input stack; None where that does not
        stand out of the noise.
    """

    section: int
    tilt_deg: float
    used: bool
    reason: str
    tx: float
    ty: float
    rot_deg: float
    sigma_px: tuple[float, float] | None
    residual_px: float | None = None


@dataclass(frozen=True)
class Alignment:
    """A series' alignment.

    Attributes
    ----------
    tilts : tuple of TiltResult
        In the order of the input stack.
    tilt_axis_deg : float
        Counter-clockwise from y.
    tilt_offset_deg : float
        To be added to the nominal angles to have them relative to the specimen's plane; 0 where it is not significant.
    thickness_A : float
        Of the slab that fits best.
    quality : float
        From 0 to 1.
    quality_note : str
        Whether to trust it and why not; after either, by how much the tilt offset and the places of tilts are uncertain.
    trust : Trust
        The same, for programs.
    tilt_offset_sigma_deg : float or None
        By how much the offset may be wrong, a standard deviation; None where it was not measured.
    """

    tilts: tuple[TiltResult, ...]
    tilt_axis_deg: float
    tilt_offset_deg: float
    thickness_A: float
    quality: float
    quality_note: str
    trust: Trust
    tilt_offset_sigma_deg: float | None = None
