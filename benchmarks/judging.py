# SPDX-License-Identifier: GPL-3.0-or-later
"""What several benchmarks of the alignment ask of an answer."""

from __future__ import annotations

import numpy as np

from tomostream.engine.align import Alignment
from tomostream.engine.align.geometry import Pose
from tomostream.engine.align.likelihood import coherence
from tomostream.engine.align.spectra import Band

NEAR_DEG = 12.0  # tilts within this of another can be predicted from it


def shifts_of(answer: Alignment) -> np.ndarray:
    """Shifts (n, 2) of an answer, in px of the input."""
    return np.array([(tilt.tx, tilt.ty) for tilt in answer.tilts])


def prediction(band: Band, pose: Pose, weight: np.ndarray, angles: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Correlation (n,) of each tilt of a band with what the slab predicts for it from those `used` (n,) that are near.

    Near by `angles` (n,), in degrees. `weight` (cells, places) says which frequencies count; 0 where nothing is predicted.
    """
    tangents, out = pose.tangents(), []
    for tilt, angle in enumerate(angles):
        mixed = np.zeros_like(band.values[:, 0])
        for other in np.flatnonzero((np.abs(angles - angle) <= NEAR_DEG) & used):
            if other != tilt:
                mixed += band.values[:, other] * coherence(
                    pose.thickness, band.cells.kx, tangents[tilt] - tangents[other])[:, None].astype(np.float32)
        own = band.values[:, tilt]
        top = float(np.sum(weight * np.real(own * np.conj(mixed))))
        norm = float(np.sqrt(np.sum(weight * np.abs(own) ** 2) * np.sum(weight * np.abs(mixed) ** 2)))
        out.append(top / norm if norm > 0 else 0.0)
    return np.array(out)
