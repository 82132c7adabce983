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
    """Return how far from its place each used tilt fits best when it is left out and predicted, in pixels of the input stack.

    A match tells the move in the stretched frame: across the axis it is seen shortened by the cosine of the tilt.
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
    angles : (n,) nominal tilt angles, degrees
    reasons : why each other section is not used
    offset : what is known of the tilt offset
    sigma : (members, 2) standard deviations, working pixels
    left_out : `residuals`
    verdict : figure, note and trust, as `quality.judge` gives them
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
    """Return shifts (n, 2) after moving the specimen in its plane so that the tilt `reference` has none."""
    axis = np.radians(pose.axis_deg)
    x, y = pose.shifts[reference]
    across = (x * np.cos(axis) + y * np.sin(axis)) / np.cos(np.radians(pose.tilts_deg[reference]))
    along = -x * np.sin(axis) + y * np.cos(axis)
    back = np.broadcast_to([-across, -along], (len(pose.tilts_deg), 2))
    return pose.moved(back).shifts
