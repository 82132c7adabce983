# SPDX-License-Identifier: GPL-3.0-or-later
"""How the conventions of other programs relate to ours.

Ours: a point (X, Y, Z) of the tomogram, Y along the tilt axis, is seen at tilt t at x' = X cos t + Z sin t and lies at the
height z' = -X sin t + Z cos t along the beam; the raw image is raw = R(rot) (x', Y) + (tx, ty), from its centre. The same
holds for IMOD (`trimvol -rotx` brings its tomogram into this frame) and for RELION 5 (rlnTomoYTilt = t, rlnTomoZRot = rot, shifts
in A). Warp has x' = X cos t - Z sin t and z' = X sin t + Z cos t: its angles are ours with the opposite sign, which leaves the
tomogram unchanged.

Defocus grows with `hand` x' tan t across the axis (`defocus_hand`). RELION adds rlnTomoHand z' to the defocus of the centre, Warp
adds z', or -z' where its angles are inverted. In the plane of the specimen z' = -x' tan t.
"""

from __future__ import annotations


def relion_hand(defocus_hand: int | None) -> int | None:
    """Return rlnTomoHand from `Quality.defocus_hand`; None if it is unknown."""
    return -defocus_hand if defocus_hand else None


def warp_flip(defocus_hand: int | None) -> bool | None:
    """Tell whether Warp's defocus handedness is "flip" (AreAnglesInverted); None if it is unknown."""
    return defocus_hand > 0 if defocus_hand else None
