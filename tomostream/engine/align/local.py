# SPDX-License-Identifier: GPL-3.0-or-later
"""Local alignment: a smooth displacement field for every tilt, around the global alignment.

The field is cut into overlapping patches of the stretched frame (`geometry`), which follow the specimen through the tilts.
Each patch gives the gradient and the Fisher matrix of the same slab likelihood as the global alignment (`likelihood`); what a
patch at rest at another height would show (dX growing with tan t) is taken out of both. The field is a Gaussian process:
smooth over the specimen, and over the acquisition as motion in its plane and in its height that is quick in the first tilts,
plus a little that is each tilt's own. Its strength is that at which the evidence is highest; where the data show no motion it
goes to 0, and the global alignment is kept. What only describes a specimen of another shape that is at rest is no motion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tomostream.engine.align.evidence import Evidence
from tomostream.engine.align.fine import FINE_A, FINE_TOP
from tomostream.engine.align.geometry import Floats, Pose, frame_shape
from tomostream.engine.align.model import MAX_THREADS, Alignment, AlignOptions
from tomostream.engine.align.patches import Job, patches_of, smooth_of, terms_of
from tomostream.engine.align.preprocess import work_stack
from tomostream.files.mrc import Sections

MIN_TILTS = 7  # fewer do not determine motion beside the heights of the patches
ROUNDS = ((0.012, 4), (0.02, 4), (FINE_TOP, 4))  # highest frequency (1/A) and rounds at most
SETTLED = 0.03  # working px RMS
SLOWING_TILTS = 4.0  # tilts after which the motion has slowed down to half its speed
TURN_DEG = 40.0  # tilt angle over which motion is alike where the order of acquisition is not known
MODES_FOR_STRENGTH = 6  # shapes with which strengths are tried: the leading ones hold nearly all, and a trial costs their cube
TRIALS, FIRST_TRIALS = 20, 50  # of strengths
# Gain of the logarithm of the evidence, a tilt, for which motion is believed. It must be there before the finest details are
# used: what an uneven specimen feigns is seen in them first (benchmarks/engine_local.py --spoiled).
MIN_GAIN = 0.8
NODES = 11  # a side of the grid on which the motion is given


@dataclass(frozen=True)
class TiltMotion:
    """Local motion of one tilt at N nodes of a grid, in pixels of the input stack.

    Attributes
    ----------
    section : int
        From 0.
    x, y : ndarray, shape (N,)
        Where the global alignment puts the nodes in the raw image, from its centre (index n / 2).
    dx, dy : ndarray, shape (N,)
        How much further they are found.
    """

    section: int
    x: Floats
    y: Floats
    dx: Floats
    dy: Floats


@dataclass(frozen=True)
class LocalMotion:
    """Local motion of a series.

    Attributes
    ----------
    tilts : tuple of TiltMotion
        The used ones, in the order of the stack; none where the motion does not stand out of the noise.
    patches : (int, int)
        Along x and y of the raw image, as they were really used.
    rms_px : float
        Over tilts and field, without each tilt's mean, pixels of the input.
    note : str
        The same in words.
    """

    tilts: tuple[TiltMotion, ...]
    patches: tuple[int, int]
    rms_px: float
    note: str


def local_motion(
    stack: Sections,
    alignment: Alignment,
    options: AlignOptions,
    patches: tuple[int, int],
    progress: Callable[[str], None],
    orders: Sequence[int] | None = None,
) -> LocalMotion:
    """Measure the local motion in a series that `align_series` has aligned.

    Parameters
    ----------
    stack : sections, shape (n, rows, columns)
        Of any real type.
    alignment : Alignment
        Of this stack.
    options : AlignOptions
        Those of the alignment.
    patches : (int, int)
        Along x and y of the raw image; fewer are used where they would be too small, or too many.
    progress : callable
        Takes a line of text at each stage.
    orders : sequence of int, optional
        Acquisition order of each section.

    Returns
    -------
    LocalMotion
        Without tilts where nothing stands out of the noise.
    """
    members = np.array([t.section for t in alignment.tilts if t.used], dtype=np.int64)
    if len(members) < MIN_TILTS:
        return LocalMotion((), patches, 0.0, f"{len(members)} tilts are too few for local motion: the global alignment is kept")
    threads = max(1, min(options.threads, MAX_THREADS))
    images = work_stack(stack, options.pixel_size_A, FINE_A, threads)
    pose = Pose(
        np.array([t.tilt_deg for t in alignment.tilts]) + alignment.tilt_offset_deg,
        alignment.tilt_axis_deg,
        np.array([(t.tx, t.ty) for t in alignment.tilts]) / images.scale,
        alignment.thickness_A / images.pixel_A,
    )
    grid, used = patches_of(frame_shape(images.image_shape, pose.axis_deg), pose.axis_deg, patches)
    if used != patches:
        progress(f"local motion: instead of {patches[0]} x {patches[1]} patches {used[0]} x {used[1]} are used")
    if max(used) < 2:
        return LocalMotion((), used, 0.0, "the field is too small for patches: the global alignment is kept")
    times = pose.tilts_deg[members] / TURN_DEG
    if orders is not None:
        order = np.asarray(orders, dtype=float)[members]
        times = np.log1p((order - order.min()) / SLOWING_TILTS)
    job = Job(images, pose, members, smooth_of(grid, len(members)), times, threads)
    amounts, gain = _maximise(job, progress)
    name = f"over {used[0]} x {used[1]} patches"
    if gain < MIN_GAIN * len(members):
        return LocalMotion((), used, 0.0, f"no local motion beyond the noise {name}: the global alignment is kept")
    tilts, rms = motion_at_nodes(job, amounts)
    return LocalMotion(tilts, used, rms, f"local motion {rms:.2f} px RMS {name}")


def _maximise(job: Job, progress: Callable[[str], None]) -> tuple[Floats, float]:
    """Return amounts (M, 2K) of the shapes at every used tilt, and how much more log-evidence a smooth motion has than patches
    that each move by themselves.
    """
    modes = job.smooth.at_patches.shape[1]
    amounts, strength, gain = np.zeros((modes, 2 * len(job.members))), np.log([0.3, 1.0, 0.05, 0.1]), 0.0
    for number, (top, rounds) in enumerate(ROUNDS):
        for turn in range(rounds):
            evidence = Evidence.of(job, terms_of(job, amounts, top), amounts)
            strength = evidence.strongest(strength, min(modes, MODES_FOR_STRENGTH), FIRST_TRIALS if turn == 0 else TRIALS)
            found, together = evidence.at(strength, modes)
            change = float(np.sqrt(2.0 * np.mean((job.smooth.at_patches @ (found - amounts)) ** 2)))
            amounts = found
            if change < SETTLED:
                break
        gain = together - evidence.at(evidence.strongest(strength, 0, FIRST_TRIALS), 0)[1]
        rms = motion_at_nodes(job, amounts)[1] if gain >= MIN_GAIN * len(job.members) else 0.0
        progress(f"local motion {number + 1}/{len(ROUNDS)}: {rms:.2f} px RMS")
        if number > 0 and gain < MIN_GAIN * len(job.members):
            break
    return amounts, gain


def motion_at_nodes(job: Job, amounts: Floats) -> tuple[tuple[TiltMotion, ...], float]:
    """Return the field of motion at the nodes of a grid that covers the frame, and its size.

    Parameters
    ----------
    job : Job
    amounts : ndarray, shape (M, 2K)
        Of the shapes at every used tilt, working pixels.

    Returns
    -------
    tilts : tuple of TiltMotion
        `NODES` x `NODES` nodes each.
    rms : float
        Over tilts and nodes, without each tilt's mean, pixels of the input.
    """
    rows, columns = job.smooth.patches.shape
    line = np.linspace(-0.5, 0.5, NODES)
    nodes = np.stack(np.meshgrid(line * columns, line * rows), axis=-1).reshape(-1, 2)
    moves = (job.smooth.at(nodes) @ amounts).reshape(len(nodes), -1, 2)
    axis, scale = np.radians(job.pose.axis_deg), job.images.scale
    turn = np.array([[np.cos(axis), np.sin(axis)], [-np.sin(axis), np.cos(axis)]]) * scale
    tilts, squares = [], []
    for place, (tilt, cosine) in enumerate(zip(job.members.tolist(), job.cosines, strict=True)):
        seen = np.array([cosine, 1.0])
        at = (nodes * seen) @ turn + job.pose.shifts[tilt] * scale
        shift = (moves[:, place] * seen) @ turn
        squares.append(np.mean(np.sum((shift - shift.mean(axis=0)) ** 2, axis=1)))
        tilts.append(TiltMotion(tilt, at[:, 0], at[:, 1], shift[:, 0], shift[:, 1]))
    return tuple(tilts), float(np.sqrt(np.mean(squares)))
