# SPDX-License-Identifier: GPL-3.0-or-later
"""The answer of the alignment, in AreTomo's conventions and in pixels of the input stack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tomostream.engine.align.geometry import Floats, Pose
from tomostream.engine.align.model import Alignment, TiltResult
from tomostream.engine.align.offset import Offset
from tomostream.engine.align.pipeline import Bench
from tomostream.engine.align.projection import SIGNIFICANT, Match
from tomostream.programs.quality import Trust


def residuals(bench: Bench, pose: Pose, matches: Sequence[Match]) -> list[float | None]:
    """Return how far from its place each used tilt matches best what all others predict.

    Parameters
    ----------
    bench : Bench
        The used tilts.
    pose : Pose
        Where they are.
    matches : sequence of Match
        Of `robust.all_left_out`, one a used tilt.

    Returns
    -------
    list of float or None
        Pixels of the input stack, in the image: a move across the axis is seen shortened by cos t. None where the match does not
        stand out of the noise.
    """
    cosines = np.cos(np.radians(pose.tilts_deg[bench.members]))
    return [
        float(np.hypot(match.move[0] * cosine, match.move[1])) * bench.images.scale if match.height >= SIGNIFICANT else None
        for match, cosine in zip(matches, cosines, strict=True)
    ]


def answer_of(
    bench: Bench,
    pose: Pose,
    angles: Floats,
    reasons: dict[int, str],
    offset: Offset,
    sigma: Floats,
    left_out: Sequence[float | None],
    verdict: tuple[float, str, Trust],
) -> Alignment:
    """Return the result in pixels of the input stack; the used tilt nearest to 0 degrees keeps its centre.

    Parameters
    ----------
    bench, pose : Bench, Pose
        The used tilts, and where they were found.
    angles : ndarray, shape (n,)
        Nominal tilt angles, degrees.
    reasons : dict
        Why each other section is not used.
    offset : Offset
        What is known of the tilt offset.
    sigma : ndarray, shape (members, 2)
        Standard deviations of (x, y) in the aligned frame, working pixels.
    left_out : sequence of float or None
        Of `residuals`.
    verdict : (float, str, Trust)
        Figure, note and trust, as `quality.judge` gives them.

    Returns
    -------
    Alignment
    """
    members = [int(i) for i in bench.members]
    reference = min(members, key=lambda i: abs(angles[i]))
    shifts = recentred(pose, reference) * bench.images.scale
    tilts = []
    for section in range(len(angles)):
        used = section in members
        spread_px = sigma[members.index(section)] * bench.images.scale if used else None
        tilts.append(
            TiltResult(
                section=section,
                tilt_deg=float(angles[section]),
                used=used,
                reason="" if used else reasons[section],
                tx=float(shifts[section, 0]) if used else 0.0,
                ty=float(shifts[section, 1]) if used else 0.0,
                rot_deg=pose.axis_deg,
                sigma_px=None if spread_px is None else (float(spread_px[0]), float(spread_px[1])),
                residual_px=left_out[members.index(section)] if used else None,
            )
        )
    return Alignment(tuple(tilts), pose.axis_deg, float(pose.tilts_deg[0] - angles[0]), pose.thickness * bench.images.pixel_A,
                     *verdict, offset.uncertain if offset.sigma > 0.0 else None)


def recentred(pose: Pose, reference: int) -> Floats:
    """Return shifts after moving the specimen in its plane so that one tilt has none.

    Parameters
    ----------
    pose : Pose
    reference : int
        The section that keeps its centre.

    Returns
    -------
    ndarray, shape (n, 2)
        (TX, TY), working pixels.
    """
    axis = np.radians(pose.axis_deg)
    x, y = pose.shifts[reference]
    across = (x * np.cos(axis) + y * np.sin(axis)) / np.cos(np.radians(pose.tilts_deg[reference]))
    along = -x * np.sin(axis) + y * np.cos(axis)
    back = np.broadcast_to([-across, -along], (len(pose.tilts_deg), 2))
    return pose.moved(back).shifts
