# SPDX-License-Identifier: GPL-3.0-or-later
"""What a reconstruction is asked: which tilts, where they go, and how the volume is to be made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tomostream import __version__
from tomostream.engine.recon.aligned import Placement
from tomostream.engine.recon.contrast import Contrast
from tomostream.engine.recon.slab import Method

Floats = NDArray[np.float32]
Progress = Callable[[str, float], None]
LABEL = f"tomostream-aretomo {__version__}"


def silent(what: str, share: float) -> None:
    """Report no progress.

    Parameters
    ----------
    what : str
        The stage.
    share : float
        Of it that is done.
    """


@dataclass(frozen=True)
class TiltUse:
    """One tilt that is used.

    Attributes
    ----------
    section : int
        From 0.
    tilt_deg : float
        Angle of the reconstruction.
    placement : Placement
        Where its image goes.
    pre_exposure : float or None
        Dose before it, e/A2.
    """

    section: int
    tilt_deg: float
    placement: Placement
    pre_exposure: float | None = None


@dataclass(frozen=True)
class ReconOptions:
    """How to reconstruct.

    Attributes
    ----------
    binning : float
        1 or more.
    depth_px : int
        Pixels of the input.
    method : Method
    upright : bool
        x, y, z (-FlipVol 1), else x, z, y.
    flip_contrast : bool
        Dense becomes bright.
    pixel_size_A : float
        Of the input; 0 where it is not known.
    voltage_kV : float
        For dose weights.
    threads : int
    contrast : Contrast or None
        The contrast transfer of the tilts in their order; None where it is not known.
    flip_phases : bool
        Correct it by phase flipping.
    """

    binning: float = 1.0
    depth_px: int = 0
    method: Method = field(default_factory=lambda: Method(15))
    upright: bool = True
    flip_contrast: bool = False
    pixel_size_A: float = 0.0
    voltage_kV: float = 300.0
    threads: int = 1
    contrast: Contrast | None = None
    flip_phases: bool = False
