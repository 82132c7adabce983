# SPDX-License-Identifier: GPL-3.0-or-later
"""The CTF of an aligned series: spectra of its tilts, the joint fit, a search of the phase shift where one is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tomostream.engine.ctf.fit import CtfSeries, CtfTilt, fit_series
from tomostream.engine.ctf.picture import spectrum_picture
from tomostream.engine.ctf.spectra import LAST, Floats, Optics, TiltSpectra, highest_signal, tilt_spectra, usable_range
from tomostream.engine.peaks import vertex

if TYPE_CHECKING:
    from tomostream.engine.recon.options import TiltUse
    from tomostream.engine.recon.stack import TiltStack


# 1/A: two rings of a usual defocus need about this much
MIN_TOP = 1.0 / 28.0
# the fit goes this much further than the signal: the noise beyond holds the background in its place, and much more of
# it would be all that the background follows
BEYOND = 1.6
# rows of a binned image that are made at a time
BAND = 32
# of the centre of an image, which is enough to see how far its signal goes, px
CENTRE = 2048
# raw images that are worked on at the same time
IMAGES_AT_ONCE = 4
# phase shifts that a search tries
PHASES = 9


@dataclass(frozen=True)
class CtfResult:
    """The CTF of a series.

    Attributes
    ----------
    series : CtfSeries or None
        None where nothing could be fitted.
    pictures : ndarray of float32, shape (K, 512, 512), or None
        Measured and fitted spectrum of every tilt (`picture.spectrum_picture`).
    note : str
        What the fit is worth, or why there is none.
    """

    series: CtfSeries | None
    pictures: Floats | None
    note: str


def estimate(
    stack: TiltStack,
    tilts: Sequence[TiltUse],
    optics: Optics,
    phase_search_deg: tuple[float, float],
    pixel_A: float,
    threads: int,
    progress: Callable[[str, float], None],
) -> CtfResult:
    """Fit the CTF of the used tilts of an aligned series.

    Parameters
    ----------
    stack : TiltStack
        The raw images.
    tilts : sequence of TiltUse
        Those that are used, with their angles and the tilt axis.
    optics : Optics
        Voltage, spherical aberration, amplitude contrast.
    phase_search_deg : (float, float)
        Phase shift to expect and half the range to search about it (0: as it is).
    pixel_A : float
        Of the raw images.
    threads : int
        At most this many.
    progress : callable
        Takes a stage and the share of it that is done.

    Returns
    -------
    CtfResult
        Its tilts in the order of `tilts`.
    """
    middle = sorted(tilts, key=lambda tilt: abs(tilt.tilt_deg))[:3]
    seen = [_centre(stack.section(tilt.section)) for tilt in middle] if usable_range(pixel_A) else []
    top, note = _range(seen, pixel_A, threads)
    if note:
        return CtfResult(None, None, note)
    factor = binning(pixel_A, top)
    at_once = min(threads, IMAGES_AT_ONCE)

    def one(tilt: TiltUse) -> TiltSpectra:
        raw = binned(stack.section(tilt.section), factor)
        axis = tilt.placement.rot_deg
        return tilt_spectra(raw, tilt.tilt_deg, axis, pixel_A * factor, max(1, threads // at_once), BEYOND * top)

    spectra: list[TiltSpectra] = []
    with ThreadPoolExecutor(at_once) as pool:
        for made in pool.map(one, tilts):
            progress("spectra for the CTF", len(spectra) / len(tilts))
            spectra.append(made)
    series, phase = _best_phase(spectra, optics, phase_search_deg, top)
    if not series.found:
        return CtfResult(None, None, series.note)
    used = replace(optics, phase_rad=float(np.radians(phase)))
    with ThreadPoolExecutor(threads) as pool:
        pictures = list(pool.map(lambda s, t: spectrum_picture(s, t, used), spectra, series.tilts))
    return CtfResult(series, np.stack(pictures), series.note)


@dataclass(frozen=True)
class ImageCtf:
    """The CTF of one image, its spectra, and the reason where there is none (`note`)."""

    ctf: CtfTilt | None = None
    spectra: TiltSpectra | None = None
    note: str = ""


def of_image(image: Floats, optics: Optics, pixel_A: float, threads: int = 1) -> ImageCtf:
    """Return the CTF of the middle of one image, taken as untilted: at high tilts it is found less often.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Counts.
    optics : Optics
        Voltage, spherical aberration, amplitude contrast.
    pixel_A : float
        Its pixel size.
    threads : int
        Of the transforms.

    Returns
    -------
    ImageCtf
        The fit with its spectra; or none, with the reason.
    """
    image = _centre(image)
    top, note = _range([image] if usable_range(pixel_A) else [], pixel_A, threads)
    if note:
        return ImageCtf(note=note)
    factor = binning(pixel_A, top)
    spectra = tilt_spectra(binned(image, factor), 0.0, 0.0, pixel_A * factor, threads, BEYOND * top)
    series = fit_series([spectra], optics, top)
    return ImageCtf(series.tilts[0], spectra) if series.found else ImageCtf(note=series.note)


def _range(images: Sequence[Floats], pixel_A: float, threads: int) -> tuple[float, str]:
    """Return the frequency, 1/A, up to which images hold more than noise, and why no CTF can be fitted to them: "" if it can.

    Without `images` the pixels are too large.
    """
    if not images:
        return 0.0, f"at {pixel_A:.3g} A/px the images hold no Thon rings"
    top = highest_signal(images, pixel_A, threads)
    where = f"beyond {1 / top:.0f} A " if top > 0 else ""
    return top, f"{where}the images hold noise alone" if top < MIN_TOP else ""


def _best_phase(
    spectra: Sequence[TiltSpectra], optics: Optics, search_deg: tuple[float, float], top: float
) -> tuple[CtfSeries, float]:
    """Return the fit at the phase shift (degrees, returned too) that suits the series best, between trials by a parabola."""

    def fit(phase_deg: float) -> CtfSeries:
        return fit_series(spectra, replace(optics, phase_rad=float(np.radians(phase_deg))), top)

    guess, reach = search_deg
    if reach <= 0:
        return fit(guess), guess
    trials = np.linspace(guess - reach, guess + reach, PHASES)
    fits = [fit(float(trial)) for trial in trials]
    gains = np.array([found.gain for found in fits])
    best = int(np.argmax(gains))
    if best in (0, PHASES - 1):
        return fits[best], float(trials[best])
    phase = float(trials[best] + vertex(*gains[best - 1 : best + 2]) * (trials[1] - trials[0]))
    return max((fit(phase), phase), (fits[best], float(trials[best])), key=lambda found: found[0].gain)


def binning(pixel_A: float, top: float) -> int:
    """Return the binning at which images still hold all of the range that is fitted, but for the outermost noise.

    Parameters
    ----------
    pixel_A : float
        Of the raw images.
    top : float
        Up to which they hold more than noise, 1/A.

    Examples
    --------
    >>> binning(1.35, 1 / 10.0), binning(6.0, 1 / 10.0)
    (2, 1)
    """
    return max(1, int(LAST / (pixel_A * 0.5 * (1 + BEYOND) * top)))


def binned(image: Floats, factor: int) -> Floats:
    """Return means of `factor` x `factor` pixels. What they fold back is noise: beyond the new range there is no signal.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
    factor : int
        Side of the squares; what does not fill one at the end is left out.
    """
    if factor == 1:
        return image
    ny, nx = (n // factor for n in image.shape)
    total = np.zeros((ny, nx), np.float32)
    for first in range(0, ny, BAND):        # lines first, which are whole in memory, and few of them, for the cache
        band = image[first * factor : min(first + BAND, ny) * factor, : nx * factor]
        lines = sum(band[y::factor] for y in range(1, factor)) + band[::factor]
        total[first : first + BAND] = sum(lines[:, x::factor] for x in range(1, factor)) + lines[:, ::factor]
    return total / np.float32(factor**2)


def _centre(image: Floats) -> Floats:
    """Return the middle of an image, at most 2048 px wide and high."""
    y, x = (max(0, (n - CENTRE) // 2) for n in image.shape)
    return image[y : y + CENTRE, x : x + CENTRE]
