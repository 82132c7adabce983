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

MAXIMUM_THREADS = 64


class AlignmentError(ValueError):
    """A series that cannot be aligned at all; the message says why and what to do, in one sentence."""


@dataclass(frozen=True)
class Start:
    """An alignment to start from, in the conventions of the module: tilt axis and tilt offset in degrees, `shifts` (n, 2) of the
    sections in pixels of the stack, and which of them are `known` (n,)."""

    axis_deg: float
    offset_deg: float
    shifts: NDArray[np.floating]
    known: NDArray[np.bool_]


@dataclass(frozen=True)
class AlignOptions:
    """What is asked of `align_series`.

    `pixel_size_A` is that of the stack. `tilt_axis_deg` is the start value; with `refine_axis` it is refined, with
    `full_axis_search` it is ignored and searched in [-90, 90). `tilt_cor` is AreTomo's -TiltCor: -1 leaves the tilt
    angles as they are, 0 and 1 measure a tilt offset (the specimen's own tilt) and use it in the alignment; whether the
    reconstruction uses it is the caller's affair. The thickness is always measured. `dark_tol`: an image whose mean is
    below this fraction of what its tilt angle predicts is dark. `start`: an alignment to refine, instead of a search; its axis
    and offset come before those given here.
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
    """One section's alignment. `section` counts from 0 in the input stack; `tilt_deg` is the nominal angle.

    `tx`, `ty` in pixels of the input stack and `rot_deg` as in the module's conventions. `reason` says why a tilt is
    not used ("" when it is). `sigma_px` is the standard deviation of (x, y) in the aligned frame, in pixels of the
    input stack, from quarters of the field and the Fisher matrix (`quality.standard_deviations`), relative to the other
    tilts: what a shift of the specimen in X, Y and Z does is taken out; None for a tilt that is not used. `residual_px`
    is how far from its place the tilt best matches what all others predict, in pixels of the input stack; None
    where it does not stand out of the noise.
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
    """A series' alignment; `tilts` in the order of the input stack.

    `tilt_offset_deg` is to be added to the nominal angles to have them relative to the specimen's plane.
    `quality` is a figure between 0 and 1, `trust` whether it is to be trusted, and `quality_note` says so and why not;
    after either it says by how much the tilt offset is uncertain where that is much. An offset that is not significant is 0.
    `tilt_offset_sigma_deg` is by how much the offset may be wrong, a standard deviation; None where it was not measured.
    """

    tilts: tuple[TiltResult, ...]
    tilt_axis_deg: float
    tilt_offset_deg: float
    thickness_A: float
    quality: float
    quality_note: str
    trust: Trust
    tilt_offset_sigma_deg: float | None = None
