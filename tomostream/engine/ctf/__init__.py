# SPDX-License-Identifier: GPL-3.0-or-later
"""The contrast transfer function of a tilt series, fitted to all tilts at once with the tilt geometry."""

from tomostream.engine.ctf.fit import CtfSeries, CtfTilt, fit_series
from tomostream.engine.ctf.spectra import Optics, TiltSpectra, tilt_spectra

__all__ = ["CtfSeries", "CtfTilt", "Optics", "TiltSpectra", "fit_series", "tilt_spectra"]
