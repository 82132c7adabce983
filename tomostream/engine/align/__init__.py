# SPDX-License-Identifier: GPL-3.0-or-later
"""Fiducial-free alignment of tilt series by joint maximum likelihood over all pairs of tilts."""

from tomostream.engine.align.model import Alignment, AlignmentError, AlignOptions, Start, TiltResult
from tomostream.engine.align.series import align_series

__all__ = ["AlignOptions", "Alignment", "AlignmentError", "Start", "TiltResult", "align_series"]
