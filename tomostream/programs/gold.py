# SPDX-License-Identifier: GPL-3.0-or-later
"""The file with the positions of gold beads: `<In>_gold.star`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Permitted diameters of beads, nm.
MIN_NM, MAX_NM = 3.0, 40.0
#: Name of the block.
BLOCK = "gold"
_COLUMNS = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ", "rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst",
            "rlnCenteredCoordinateZAngst", "tomostreamDiameterAngst", "tomostreamTilts", "tomostreamResidualAngst")


@dataclass(frozen=True)
class BeadRow:
    """One bead: index of its voxel (x, y, z, from 0) in a volume whose sections are slices in z; A from the
    centre of the volume; its diameter (A), the number of tilts in which it was seen, and its distance there from where the
    alignment puts it (RMS, A)."""

    voxel: tuple[float, float, float]
    position_A: tuple[float, float, float]
    diameter_A: float
    tilts: int
    residual_A: float


def format_beads(rows: Sequence[BeadRow]) -> str:
    """Return the text of the file, a STAR table."""
    head = [f"data_{BLOCK}", "", "loop_", *(f"_{name} #{number}" for number, name in enumerate(_COLUMNS, start=1))]
    body = [" ".join([*(f"{v:10.2f}" for v in (*row.voxel, *row.position_A, row.diameter_A)), f"{row.tilts:5d}",
                      f"{row.residual_A:8.2f}"]) for row in rows]
    return "\n".join([*head, *body]) + "\n\n"
