# SPDX-License-Identifier: GPL-3.0-or-later
"""Power spectra of a tilt, by height of the specimen, on a grid in which Thon rings are evenly spaced.

An image of a tilted specimen has a defocus that changes across the tilt axis. Tiles of one height share a spectrum; a
spectrum is averaged over bins of s = k^2 (rings of one defocus are then periodic, and all bins hold the same number of
Fourier coefficients) and over sectors of direction, for astigmatism.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tomostream.programs.ctf import wavelength_A

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

SECTORS = 8
_TILE_A = 1024.0
_LOWEST = 1.0 / 45.0  # 1/A: below, the envelope of the specimen is steeper than any background can follow
_HIGHEST = 1.0 / 4.5
_BINS = 256
# share of the sampling frequency beyond which nothing is looked at
LAST = 0.47
# 1/A: up to here usual specimens have signal, so that noise alone can only be met beyond
_NOISE_FROM = 1.0 / 9.0
# share of the noise's power below which the specimen's does not count
_MIN_SIGNAL = 0.003
# about as many pixels along each side give the usual brightness of an image
_LEVEL_SIDE = 512
# tiles whose heights differ by less share a spectrum (A)
_HEIGHT_STEP = 250.0


@dataclass(frozen=True)
class Optics:
    """The microscope, as the CTF knows it.

    Attributes
    ----------
    voltage_kV : float
    cs_mm : float
        Spherical aberration.
    amplitude_contrast : float
        A share, from 0 to 1.
    phase_rad : float
        Phase shift of a phase plate.
    """

    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.07
    phase_rad: float = 0.0

    @property
    def wavelength_A(self) -> float:
        """Relativistic wavelength of the electrons."""
        return wavelength_A(self.voltage_kV)

    def phase(self, s: Doubles, defocus_A: Doubles | float) -> Doubles:
        """Return the argument of the sine of the CTF; underfocus is positive, the CTF is sin(phase).

        Parameters
        ----------
        s : ndarray
            Square of the frequency, 1/A2.
        defocus_A : ndarray or float
            Along the direction of the frequency.

        Notes
        -----
        pi lambda s (defocus - Cs lambda^2 s / 2) plus the phase of amplitude contrast and phase plate; see Rohou and
        Grigorieff, J. Struct. Biol. 192 (2015) 216.

        Examples
        --------
        >>> optics = Optics(300.0, 2.7, 0.07)
        >>> first_zero = 1 / 24.3**2                    # of 3 um
        >>> round(float(optics.phase(np.array(first_zero), 30000.0) / math.pi), 2)
        1.02
        """
        wave = self.wavelength_A
        bend = 0.5 * math.pi * self.cs_mm * 1e7 * wave**3 * s**2
        constant = math.asin(self.amplitude_contrast) + self.phase_rad
        return np.asarray(math.pi * wave * defocus_A * s - bend + constant)


@dataclass(frozen=True)
class TiltSpectra:
    """Spectra of one tilt, by height of the specimen and direction.

    Attributes
    ----------
    tilt_deg : float
    s : ndarray, shape (S,)
        Middles of the bins of k^2, 1/A2.
    heights : ndarray, shape (G,)
        x' tan t of each group of tiles in A, x' across the tilt axis from the image centre: the defocus is
        D + hand * height.
    modulation : ndarray of float32, shape (G, SECTORS, S)
        Power over background minus 1.
    weight : ndarray of float32, shape (G, SECTORS, S)
        Number of independent Fourier coefficients behind it: 1 / variance of the modulation without signal.
    power : ndarray of float32, shape (tile, tile // 2 + 1)
        Mean power spectrum of all tiles.
    pixel_size_A : float
    """

    tilt_deg: float
    s: Doubles
    heights: Doubles
    modulation: Floats
    weight: Floats
    power: Floats
    pixel_size_A: float

    def with_background(self, factor: Doubles) -> TiltSpectra:
        """Return the same spectra over another background.

        Parameters
        ----------
        factor : ndarray, shape (S,)
            The new background over the old one, more than 0.
        """
        return replace(self, modulation=((1 + self.modulation) / factor - 1).astype(np.float32))


@dataclass(frozen=True)
class _Grid:
    """Which bin each Fourier coefficient of a tile falls into; SECTORS * S for those outside the range."""

    tile: int
    s: Doubles
    bins: NDArray[np.int64]
    count: Doubles


def _grid(tile: int, pixel_A: float, top_A: float) -> _Grid:
    """Return the grid of tiles of `tile` x `tile` pixels up to a frequency of `top_A`, 1/A."""
    ky = np.fft.fftfreq(tile, pixel_A)[:, None]
    kx = np.fft.rfftfreq(tile, pixel_A)[None]
    s = ky**2 + kx**2
    top = min(_HIGHEST, LAST / pixel_A, top_A) ** 2
    low = _LOWEST**2
    width = (top - low) / _BINS
    place = np.floor((s - low) / width).astype(np.int64)
    # the directions 0 to 180 degrees; sector 0 is centred on the x axis
    sector = np.round(np.arctan2(ky, kx) / (math.pi / SECTORS)).astype(np.int64) % SECTORS
    bins = np.where((place >= 0) & (place < _BINS), sector * _BINS + place, SECTORS * _BINS)
    # the lines kx = 0 and ky = 0 hold the detector's and the scan's own patterns
    bins[:, 0] = SECTORS * _BINS
    bins[0, :] = SECTORS * _BINS
    count = np.bincount(bins.ravel(), minlength=SECTORS * _BINS + 1)[:-1].reshape(SECTORS, _BINS).astype(float)
    return _Grid(tile, low + width * (np.arange(_BINS) + 0.5), bins, count)


def tile_size(shape: tuple[int, int], pixel_A: float) -> int:
    """Return the side of a tile, px: about 1000 A, a fast Fourier length, at most a third of the image.

    Parameters
    ----------
    shape : (int, int)
        (ny, nx) of the images.
    pixel_A : float
        Size of their pixels.

    Examples
    --------
    >>> tile_size((4092, 5760), 2.0)
    512
    """
    from scipy.fft import next_fast_len

    wanted = min(max(64.0, _TILE_A / pixel_A), max(64.0, min(shape) / 3))
    return int(2 * next_fast_len(max(32, round(wanted / 2)), real=True))


def usable_range(pixel_A: float) -> bool:
    """Tell whether images of this pixel size reach far enough beyond the lowest frequency to hold rings.

    Parameters
    ----------
    pixel_A : float
        Size of the pixels of the images.
    """
    return LAST / pixel_A > 2.6 * _LOWEST


def highest_signal(images: Sequence[Floats], pixel_A: float, threads: int = 1) -> float:
    """Return the frequency up to which images hold more than noise.

    Noise is what a straight line through the logarithm of the power beyond 60 % of the range (and 9 A) says. Where the
    pixels are too coarse to reach that, it is the end of the range.

    Parameters
    ----------
    images : sequence of ndarray of float32, shape (ny, nx)
        As they were taken, of one size: their power spectra are added up.
    pixel_A : float
        Size of a pixel.
    threads : int
        At most this many.

    Returns
    -------
    float
        1/A; 0 without images or signal.
    """
    first = max(120, math.ceil(200 * _NOISE_FROM * pixel_A / LAST))
    if first > 160:
        return LAST / pixel_A
    power, tile = None, 0
    for image in images:
        tile = _tile(image, pixel_A)
        for _, total, _ in _by_height(image, tile, 0.0, 0.0, pixel_A, threads):
            power = total if power is None else power + total
    if power is None:
        return 0.0
    k = np.hypot(np.fft.fftfreq(tile, pixel_A)[:, None], np.fft.rfftfreq(tile, pixel_A)[None])
    end = LAST / pixel_A
    place = np.minimum((k / end * 200).astype(int), 200)
    count = np.maximum(np.bincount(place[1:, 1:].ravel(), minlength=201), 1)
    radial = np.log(np.maximum(np.bincount(place[1:, 1:].ravel(), power[1:, 1:].ravel(), 201) / count, 1e-12))[:200]
    middle = (np.arange(200) + 0.5) / 200 * end
    line = np.polynomial.polynomial.polyfit(middle[first:], radial[first:], 1)
    rest = radial - np.polynomial.polynomial.polyval(middle, line)
    noise = max(_MIN_SIGNAL, 4 * float(rest[first:].std()) / math.sqrt(7))
    above = np.convolve(rest, np.ones(7) / 7, mode="same") > noise
    last = 0
    for index in range(3, 180):
        if above[index]:
            last = index
        elif index - last > 15:  # longer than any gap between rings
            break
    return float(middle[last]) if last else 0.0


def _tile(image: Floats, pixel_A: float) -> int:
    """Return the side of a tile, px, for one image."""
    return min(tile_size((image.shape[0], image.shape[1]), pixel_A), min(image.shape) // 2 * 2)


def tilt_spectra(
    image: Floats, tilt_deg: float, axis_deg: float, pixel_A: float, threads: int = 1, top_A: float = _HIGHEST
) -> TiltSpectra:
    """Return the spectra of one raw image.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        As it was taken, not aligned.
    tilt_deg, axis_deg : float
        Tilt, and the tilt axis counter-clockwise from y (IMOD's convention).
    pixel_A : float
        Size of a pixel.
    threads : int
        At most this many.
    top_A : float
        Highest frequency, 1/A.

    Returns
    -------
    TiltSpectra
    """
    tile = _tile(image, pixel_A)
    grid = _grid(tile, pixel_A, top_A)
    heights, groups = [], []
    for height, power, tiles in _by_height(image, tile, tilt_deg, axis_deg, pixel_A, threads):
        heights.append(height)
        groups.append((power, tiles))
    total = sum(tiles for _, tiles in groups)
    mean = np.sum([power for power, _ in groups], axis=0) / max(total, 1)
    binned = np.stack([_binned(power / tiles, grid) for power, tiles in groups])
    background = _background(_binned(mean, grid), grid.s)
    # half-overlapping Hann windows: two tiles in one direction hold about 1.9 independent ones, hence 0.6 in the plane;
    # a Hann window correlates neighbouring coefficients, which leaves about 0.5 of them independent
    independent = 0.3 * np.array([tiles for _, tiles in groups], dtype=float)[:, None, None] * grid.count
    return TiltSpectra(
        tilt_deg=tilt_deg,
        s=grid.s,
        heights=np.array(heights),
        modulation=(binned / background - 1).astype(np.float32),
        weight=independent.astype(np.float32),
        power=np.asarray(mean, dtype=np.float32),
        pixel_size_A=pixel_A,
    )


def _by_height(
    image: Floats, tile: int, tilt_deg: float, axis_deg: float, pixel_A: float, threads: int
) -> Iterator[tuple[float, Floats, int]]:
    """Yield the mean height in A, the sum of power spectra, and the number of tiles of every group of tiles."""
    import scipy.fft

    window = np.outer(*(np.hanning(tile + 1)[:-1],) * 2).astype(np.float32)
    c, s = math.cos(math.radians(axis_deg)), math.sin(math.radians(axis_deg))
    places: dict[int, list[tuple[int, int, float]]] = {}
    for y in _starts(image.shape[0], tile):
        for x in _starts(image.shape[1], tile):
            dx, dy = x + tile / 2 - image.shape[1] / 2, y + tile / 2 - image.shape[0] / 2
            height = (c * dx + s * dy) * pixel_A * math.tan(math.radians(tilt_deg))
            places.setdefault(round(height / _HEIGHT_STEP), []).append((y, x, height))
    step = max(1, min(image.shape) // _LEVEL_SIDE)
    level = float(np.median(image[::step, ::step]))
    for group in sorted(places):
        tiles = [image[y : y + tile, x : x + tile] for y, x, _ in places[group]]
        kept = [t for t in tiles if level <= 0 or float(t.mean()) > 0.5 * level]
        total = np.zeros((tile, tile // 2 + 1), np.float32)
        for start in range(0, len(kept), 8):
            part = np.stack(kept[start : start + 8])
            part = (part - part.mean(axis=(1, 2), keepdims=True)) * window
            part /= np.maximum(part.std(axis=(1, 2), keepdims=True), 1e-6)
            spectra = scipy.fft.rfft2(part, axes=(1, 2), workers=threads)
            total += (spectra.real**2 + spectra.imag**2).sum(axis=0)
        if kept:
            yield float(np.mean([h for _, _, h in places[group]])), total, len(kept)


def _starts(length: int, tile: int) -> list[int]:
    """Return the starts of tiles that overlap by half, spread evenly over `length`."""
    count = max(1, round(2 * length / tile) - 1)
    return [round(i * (length - tile) / max(count - 1, 1)) for i in range(count)]


def _binned(power: Floats, grid: _Grid) -> Doubles:
    """Return the mean power of every sector and bin, (SECTORS, S); bins without a coefficient take their neighbours' mean."""
    total = np.bincount(grid.bins.ravel(), weights=power.ravel(), minlength=grid.s.size * SECTORS + 1)[:-1]
    total = total.reshape(SECTORS, -1)
    out = np.empty_like(total)
    for sector in range(SECTORS):
        held = grid.count[sector] > 0
        mean = total[sector, held] / grid.count[sector, held]
        out[sector] = np.interp(grid.s, grid.s[held], mean) if held.any() else 1.0
    return out


def _background(binned: Doubles, s: Doubles) -> Doubles:
    """Return the smooth background (SECTORS, S): a polynomial of the logarithm in k, common to all sectors but for its level."""
    k = np.sqrt(s)
    x = 2 * (k - k[0]) / (k[-1] - k[0]) - 1
    logs = np.log(np.maximum(binned, 1e-12))
    mean = logs.mean(axis=0)
    coefficients = np.polynomial.chebyshev.chebfit(x, mean, 5)
    shape = np.polynomial.chebyshev.chebval(x, coefficients)
    # a sector's own departure (the detector, drift) is taken out where it is slower than any ring
    own = [np.polynomial.chebyshev.chebval(x, np.polynomial.chebyshev.chebfit(x, row - mean, 2)) for row in logs]
    return np.exp(shape[None] + np.stack(own))
