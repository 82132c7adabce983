# SPDX-License-Identifier: GPL-3.0-or-later
"""A series from stack to alignment: what can be used of it, then the stages in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.align import coarse, fine
from tomostream.engine.align.geometry import Floats, Pose
from tomostream.engine.align.model import MAX_THREADS, Alignment, AlignmentError, AlignOptions
from tomostream.engine.align.offset import Offset, expected_deg
from tomostream.engine.align.pipeline import Bench, Say
from tomostream.engine.align.preprocess import WorkStack, duplicates, reasons_of, work_stacks
from tomostream.files.mrc import Sections

COARSE_A = 20.0  # pixel of the coarse working images where the field is wide enough
MIN_SIDE = 32  # pixels of the shorter side of the coarse working images
MAX_PIXEL_A = 500.0  # a larger one is given in another unit
DEFAULT_THICKNESS_A = 1800.0  # to start from: no way leads back from a slab that is too thin


def align_series(
    stack: Sections,
    angles_deg: NDArray[np.floating],
    options: AlignOptions,
    progress: Callable[[str], None] | None = None,
    orders: Sequence[int] | None = None,
) -> Alignment:
    """Align a tilt series without fiducials.

    Parameters
    ----------
    stack : sections, shape (n, rows, columns)
        Of any real type; memory-mapped is fine.
    angles_deg : ndarray, shape (n,)
        Nominal tilt angles, in the order of the stack, which may be any.
    options : AlignOptions
        What is known and asked.
    progress : callable, optional
        Takes a line of text at each stage.
    orders : sequence of int, optional
        Acquisition order of each section; of identical images the later one is set aside.

    Returns
    -------
    Alignment
        With a row for every section; sections that do not match are marked with a reason.

    Raises
    ------
    AlignmentError
        Where nothing can be aligned: wrong shapes, angles that are not numbers, fewer than two usable images.
    """
    say: Say = progress if progress is not None else _silent
    angles = _checked(stack, angles_deg, options)
    threads = max(1, min(options.threads, MAX_THREADS))
    targets_A = (fine.FINE_A, _coarse_A(stack, options))
    (fine_images, coarse_images), levels = work_stacks(stack, options.pixel_size_A, targets_A, threads)
    reasons = {i: reason for i, reason in enumerate(reasons_of(levels, angles, options.dark_tol)) if reason}
    state = _prepare(coarse_images, reasons, angles, options, threads, orders, say)
    if len(state.bench.members) < 2:
        raise AlignmentError(
            f"only {len(state.bench.members)} of {len(angles)} images can be used ({_first_reason(state.reasons)}); "
            "at least two are needed"
        )
    if options.start is None:
        state = coarse.place(state, options, say)
    else:
        state = coarse.start_from(state, options.start, options, say)
    state = coarse.refine(state, angles, options, say)
    if options.tilt_cor >= 0:
        state = coarse.settle_offset(state, angles, options, expected_deg(angles, orders), say)
    return fine.finish(coarse.settle_thickness(state, say), replace(state.bench, images=fine_images), angles, say)


def _silent(line: str) -> None:
    """Progress that nobody wants to read."""


def _first_reason(reasons: dict[int, str]) -> str:
    """Return one reason to quote, with its section counted from 1."""
    return next((f"section {section + 1}: {reason}" for section, reason in sorted(reasons.items())), "")


def _checked(stack: Sections, angles_deg: NDArray[np.floating], options: AlignOptions) -> Floats:
    """Return the angles, after checking that stack, angles and options make sense together."""
    angles = np.asarray(angles_deg, dtype=float)
    if stack.ndim != 3:
        raise AlignmentError(f"the stack has {stack.ndim} dimensions; a tilt series has 3 (section, row, column)")
    if angles.shape != (len(stack),):
        raise AlignmentError(f"{angles.size} tilt angles were given for {len(stack)} images; there must be one each")
    if not np.all(np.isfinite(angles)) or np.any(np.abs(angles) >= 85.0):
        raise AlignmentError("tilt angles must be numbers between -85 and 85 degrees")
    if not options.pixel_size_A > 0.0:
        raise AlignmentError(f"the pixel size must be positive, not {options.pixel_size_A} A")
    if min(stack.shape[1:]) < 32:
        raise AlignmentError(f"images of {stack.shape[2]} x {stack.shape[1]} pixels are too small to be aligned")
    if options.pixel_size_A > MAX_PIXEL_A:
        raise AlignmentError(f"a pixel of {options.pixel_size_A:g} A is not that of a tilt series; give it in A")
    short, long = (side * options.pixel_size_A for side in sorted(stack.shape[1:]))
    needed = MIN_SIDE * _coarse_A(stack, options)
    if short < needed:
        raise AlignmentError(
            f"the images show {short:.0f} x {long:.0f} A of the specimen at {options.pixel_size_A:g} A/px, but {needed:.0f} A "
            "are needed each way; is the pixel size right?"
        )
    return angles


def _coarse_A(stack: Sections, options: AlignOptions) -> float:
    """Return the pixel size of the coarse working images."""
    longest = max(stack.shape[1:]) * options.pixel_size_A
    return COARSE_A if longest > 4000.0 else max(fine.FINE_A, options.pixel_size_A)


def _prepare(
    images: WorkStack, reasons: dict[int, str], angles: Floats, options: AlignOptions, threads: int,
    orders: Sequence[int] | None, say: Say,
) -> coarse.Progress:
    """Return where the alignment starts: working images, without those that cannot be used for one of `reasons`."""
    reasons = dict(reasons)
    usable = np.array([i not in reasons for i in range(len(angles))])
    for first, second in duplicates(images, usable):
        later = first if orders is not None and orders[first] > orders[second] else second
        other = first if later == second else second
        reasons.setdefault(later, f"the same picture as section {other + 1}")
    for section, reason in sorted(reasons.items()):
        say(f"section {section + 1} ({angles[section]:.1f} deg) is set aside: {reason}")
    members = np.array([i for i in range(len(angles)) if i not in reasons], dtype=np.int64)
    thickness = DEFAULT_THICKNESS_A / images.pixel_A
    pose = Pose(angles, float(options.tilt_axis_deg), np.zeros((len(angles), 2)), thickness)
    return coarse.Progress(Bench(images, members, threads), pose, reasons, Offset(), frozenset(reasons))
