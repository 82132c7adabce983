# SPDX-License-Identifier: GPL-3.0-or-later
"""The Wiener tomogram: the best linear estimate of the specimen under the model that the alignment uses too. For viewing.

The specimen is a slab of thickness Z, in it a Gaussian random field of a spectrum S that the series itself gives (`spectrum`).
The stretched image i shows ``g_i c_i p_i + n_i``: its projection p_i, with the contrast transfer c_i and what dose and path leave
of it, and noise of power N_i. With ``b_i^2 = g_i^2 <c_i^2> S / N_i`` and images m_i that are multiplied by c_i and whitened, the
covariance of the data is ``1 + b_i b_j sinc(Z kx (tan t_i - tan t_j))``, and the estimate of the volume is the back-projection of

    sqrt(S) b_i [(1 + b b^T sinc + u)^-1 m]_i / Z

A small system of equations at each frequency replaces ramp, CTF correction, dose and contrast weights, deconvolution and
low-pass. No parameter is left but that of u, which is for what no random field explains: on the diagonal, UNLIKE b_i^2 times the
number of tilts that share a frequency with tilt i (the sum of sinc^2). What the tilts share decides about each frequency: where
they are noise the estimate is 0.

Multiplying by c_i is done at each place with its own defocus, across the tilt axis and in slabs of height (`contrast`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.recon.calibration import gains
from tomostream.engine.recon.contrast import Contrast, Filtered, TiltContrast, pairs
from tomostream.engine.recon.slab import Block, Method, Slab, _interpolation_gain
from tomostream.engine.recon.spectrum import MISFIT, RINGS, SAMPLE, Sample, Specimen, absorbed, measured, smooth
from tomostream.engine.recon.taming import tamed
from tomostream.engine.recon.thickness import fitted

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Complexes = NDArray[np.complex64]
#: 1/A: below, up to where it counts whole, an image shows illumination and the thickness of the ice.
LOWEST = (1.0 / 2500.0, 1.0 / 1250.0)
#: Amplitude contrasts that are tried, beside the one that was given.
AMPLITUDES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
#: Specimens are no random fields: this share of a tilt's signal, for every tilt that shares its frequencies, is like no other's.
#: Where there is much signal all differences between tilts would be made into structure along z otherwise.
UNLIKE = 0.3
#: Outside the slab the estimate falls off over this part of the thickness.
FADE = 0.15
#: Of the sampling frequency, along ky, that one covariance serves at most, and of ky itself.
BAND, NARROW = 0.02, 0.2
#: Part of a frequency over which the power of a tilt is averaged, which has the rings of its transfer function.
FINE = 0.02
#: Places across an image at which its transfer function is averaged.
PLACES = 9
#: Directions in an image over which it is averaged, where there is astigmatism.
DIRECTIONS = 8


class Source(str, Enum):
    """What the thickness of the specimen is known by."""

    ALIGNMENT = "as the alignment has it"
    LIKELIHOOD = "by the likelihood of the alignment"
    SPECTRA = "by cross spectra of the tilts: the likelihood of the alignment does not determine it"


@dataclass(frozen=True)
class Findings:
    """What was measured in making a Wiener tomogram.

    Attributes
    ----------
    thickness_A, height_A : float
        Of the specimen, and how far its middle is above that of the volume.
    amplitude_contrast : float or None
        At low frequencies; None without a CTF.
    source : Source
        What the thickness is known by.
    """

    thickness_A: float
    height_A: float
    amplitude_contrast: float | None
    source: Source = Source.SPECTRA

    def words(self) -> str:
        """Return the same for the log."""
        where = f", {self.height_A:.0f} A from the middle" if abs(self.height_A) > 0.05 * self.thickness_A else ""
        where += f" ({self.source.value})"
        if self.amplitude_contrast is None:
            return f"specimen of {self.thickness_A:.0f} A{where}; the CTF is not known"
        return f"specimen of {self.thickness_A:.0f} A{where}; amplitude contrast at low frequencies {self.amplitude_contrast:.2f}"


class WienerSlab:
    """Makes the Wiener estimate of a slab from aligned images.

    Parameters
    ----------
    tilts_deg : ndarray, shape (K,)
        Ascending.
    shape : (int, int)
        (ny, nx) of the aligned images.
    depth : int
        Of the volume, px.
    pixel_A : float
        Of the aligned images.
    contrast : Contrast or None
        None: not known. The images are taken as they are, which holds up to the first zero of the transfer function.
    thickness_A : float or None
        Of the specimen in the middle of the volume; None: thickness and height are measured, by the likelihood of the alignment
        where that determines them (`thickness`), else by cross spectra (`spectrum`).
    weights : ndarray, shape (K, RINGS), optional
        Powers by which the images were weighted before (dose weighting), by frequency.
    threads : int
        At most this many.
    """

    def __init__(
        self, tilts_deg: Doubles, shape: tuple[int, int], depth: int, pixel_A: float, contrast: Contrast | None,
        thickness_A: float | None = None, weights: Doubles | None = None, threads: int = 1,
    ) -> None:
        self._slab = Slab(tilts_deg, shape[1], depth, Method(0), threads)
        self.depth, self.pixel_A, self.contrast, self.threads = depth, pixel_A, contrast, threads
        self._given_A = thickness_A
        self._weights = np.ones((len(tilts_deg), RINGS)) if weights is None else weights
        self._ny = shape[0]
        self._work = Filtered(shape, pixel_A, 1)
        self.rows = len(self._work.ky)
        self._powers = np.zeros((len(tilts_deg), RINGS))
        self._counts: Doubles | None = None
        self._transfers: dict[float, Doubles] = {}
        self._phases: Floats | None = None
        self.findings = Findings(0.0, 0.0, None)

    @property
    def room_shape(self) -> tuple[int, int, int]:
        """Shape of the room that `blocks` needs: spectra of all tilts, float32."""
        return len(self._slab.tilts_deg), self.rows, 2 * self._slab.length

    def blocks(self, images: Floats, room: Floats, upright: bool) -> Iterator[tuple[int, Block]]:
        """Estimate the slab, a block at a time.

        Parameters
        ----------
        images : ndarray of float32, shape (K, ny, nx)
            Aligned images, 0 where there is no data.
        room : ndarray of float32, shape `room_shape`
            Overwritten.
        upright : bool
            Whether sections are z (x, y, z), else y (x, z, y); see `Slab.blocks`.

        Yields
        ------
        first : int
            Of the z in the file.
        block : Block
        """
        parts = [(0, self.depth)] if self.contrast is None else self.contrast.slabs(self.depth)
        specimen: Specimen | None = None
        known, source = self._known(images)
        for first, last in sorted(parts, key=lambda part: abs(sum(part) - self.depth)):     # the middle one first
            middle = (first + last) / 2 - self.depth / 2
            self._fill(images, room, middle * self.pixel_A)
            if specimen is None:
                specimen = self._measured(room, known, source)
            self._estimate(room, specimen, middle)
            yield from self._projected(room, specimen, (first, last), upright)

    def _known(self, images: Floats) -> tuple[Doubles | None, Source]:
        """Return the slabs that the specimen can be, None where cross spectra have to show it, and what it is known by."""
        if self._given_A is not None:
            return np.array([[self._given_A / self.pixel_A], [0.0], [1.0]]), Source.ALIGNMENT
        found = fitted(images, self._slab.tilts_deg, self.pixel_A, self.threads)
        return (None, Source.SPECTRA) if found is None else (found.slabs(self.pixel_A), Source.LIKELIHOOD)

    def _fill(self, images: Floats, room: Floats, height_A: float) -> None:
        """Fill the room with spectra of the stretched images, multiplied by the transfer function for one height.

        They are whitened later: what is whitened, cut at its edges and made whole again lacks its low frequencies.
        """

        def one(tilt: int) -> None:
            room[tilt] = self._spectrum(images[tilt], tilt, height_A).view(np.float32)

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(one, range(len(images))))
        empty = ~self._powers.any(axis=1)
        self._powers[empty] = 1.0 if empty.all() else self._powers[~empty].mean(axis=0)     # they show no signal

    def _spectrum(self, image: Floats, tilt: int, height_A: float) -> Complexes:
        """Return the spectrum of one stretched image; the power of the image is kept."""
        import scipy.fft

        from tomostream.engine.recon.spectral_kernels import stretch_waves

        work = self._work
        spectrum = work.spectrum(tamed(image, self.pixel_A))
        if not self._powers[tilt].any():
            self._powers[tilt] = self._ring_powers(spectrum, np.count_nonzero(image))
        if self.contrast is None:
            waves = work.waves(spectrum)
        else:
            waves = work.across(spectrum, self.contrast.tilts[tilt], height_A, self.contrast.top, max(AMPLITUDES))
        cosine = self._slab.cosines[tilt]
        out: Complexes = np.empty((self.rows, self._slab.length), np.complex64)
        stretch_waves(pairs(waves), work.inside[1].start, self._slab.nx, cosine, np.float32(math.sqrt(cosine)), pairs(out))
        return np.asarray(scipy.fft.fft(out, axis=1, overwrite_x=True))

    def _ring_powers(self, spectrum: Complexes, shown: int) -> Doubles:
        """Return the mean power of an image by ring of frequency, (RINGS,), smooth; per pixel that shows something."""
        from tomostream.engine.recon.spectral_kernels import ring_sums

        work, scale = self._work, 2 * (RINGS - 1) * self.pixel_A
        if self._counts is None:
            q = np.hypot(work.kx[None], work.ky[:, None]) * scale
            self._counts = smooth(np.bincount(np.rint(q).astype(np.int64).ravel(), minlength=RINGS)[:RINGS].astype(float), FINE)
        total = np.zeros(RINGS)
        ring_sums(pairs(spectrum), work.kx, work.ky, scale, total)
        level = smooth(total, FINE) / np.maximum(self._counts, 1e-9)
        return np.asarray(np.maximum(level, 1e-12 * float(level.max())) / max(shown, 1))

    def _measured(self, room: Floats, known: Doubles | None, source: Source) -> Specimen:
        """Return the specimen by a sample of the spectra, and what is known then."""
        slab = self._slab
        # more rows where ky is low, for rings of low frequencies are small; not ky = 0, where illumination and edges show
        rows = 1 + np.unique(np.rint((self.rows - 2) * np.linspace(0, 1, max(8, min(SAMPLE // slab.length, self.rows))) ** 2))
        rows = rows.astype(np.int64)
        values = room.view(np.complex64)[:, rows, :].reshape(len(slab.tilts_deg), -1)
        ky, kx = np.meshgrid(self._ky()[rows], np.fft.fftfreq(slab.length), indexing="ij")
        low = self._lowest()[1]
        q = np.hypot(kx, ky)
        keep = ((q > low) & (q < 0.48) & (kx != 0)).ravel()
        areas = self._ny * np.minimum(slab.nx / slab.cosines, slab.length)
        contrasts, amplitude = self._contrasts(max(AMPLITUDES)), None
        powers = self._powers * slab.cosines[:, None]
        grid = np.fft.fftfreq(slab.length), np.flatnonzero(keep) % slab.length, ky.ravel()[keep]
        sample = Sample.of(values[:, keep], grid, (slab.cosines, slab.tangents), areas, self._powers, contrasts)
        specimen = measured(sample, powers, contrasts, self._weights, known, self.pixel_A, self.threads)
        if self.contrast is not None:
            given = self.contrast.tilts[0].optics.amplitude_contrast
            floors = sorted({given, *(a for a in AMPLITUDES if a > given)})
            middle = int(np.argmin(np.abs(slab.tilts_deg)))
            plain = self._contrasts(0.0)[middle, PLACES // 2]
            amplitude = absorbed(specimen.power, plain, low, floors)
            taken, believed = (np.sqrt((self._contrasts(f)[middle] ** 2).mean(axis=0)) for f in (max(AMPLITUDES), amplitude))
            factor = (taken / np.maximum(believed, 1e-6)) ** 2
            specimen = replace(specimen, power=specimen.power * factor, shares=specimen.shares / factor)
        self.findings = Findings(specimen.thickness * self.pixel_A, specimen.height * self.pixel_A, amplitude, source)
        return specimen

    def _ky(self) -> Doubles:
        """Return ky of the rows of the spectra, cycles/px."""
        return np.arange(self.rows) / (2 * self.rows - 2)

    def _lowest(self) -> tuple[float, float]:
        """Return frequencies (cycles/px) from which on images count, and from which on they count whole."""
        field = 0.6 / min(self._ny, self._slab.nx)      # longer waves are tilts' means, which are taken away
        return max(LOWEST[0] * self.pixel_A, field), max(LOWEST[1] * self.pixel_A, 2 * field)

    def _contrasts(self, floor: float) -> Doubles:
        """Return the transfer function by ring at some places across every tilt, (K, PLACES, RINGS); 1 where it is not known."""
        if self.contrast is None:
            return np.ones((len(self._slab.tilts_deg), 1, RINGS))
        if floor not in self._transfers:
            if self._phases is None:
                self._phases = np.stack([self._phases_of(tilt) for tilt in self.contrast.tilts])
            values = np.sin(self._phases)
            if floor:
                values = np.where(self._phases < np.pi / 2, np.maximum(values, np.float32(floor)), values)
            self._transfers[floor] = np.sqrt((values**2).mean(axis=2), dtype=np.float64) * np.sign(values.mean(axis=2))
        return self._transfers[floor]

    def _phases_of(self, tilt: TiltContrast) -> Floats:
        """Return the argument of a tilt's transfer function, (PLACES, directions, RINGS)."""
        s = np.linspace(0, 0.5, RINGS) / self.pixel_A
        extras = np.linspace(-0.4, 0.4, PLACES) * self._slab.nx * self.pixel_A * tilt.across
        directions = np.linspace(0, np.pi, DIRECTIONS, endpoint=False)[:, None]
        return np.stack([tilt.phase(s * np.cos(directions), s * np.sin(directions), float(extra)) for extra in extras]).astype(
            np.float32)

    def _estimate(self, room: Floats, specimen: Specimen, middle: float) -> None:
        """Solve for the estimate in place, `middle` (px) the height of the part that will be projected."""
        from tomostream.engine.recon.spectral_kernels import estimate

        slab = self._slab
        before, strength, after = self._tables(specimen)
        kx = np.fft.fftfreq(slab.length)
        turns = 2j * np.pi * slab.tangents[:, None] * kx[None]
        centre = np.exp(specimen.height * turns).astype(np.complex64)
        back = np.exp((middle - specimen.height) * turns) / _interpolation_gain(kx)[None] / specimen.thickness
        bands, ky = _bands(self._ky()), self._ky()
        middles = 0.5 * (ky[bands[:-1]] + ky[bands[1:] - 1])
        gain = gains(kx, middles, specimen.thickness, UNLIKE, (slab.cosines, slab.tangents), strength, 1 / MISFIT)
        estimate(room.reshape(*room.shape[:2], -1, 2), bands, specimen.thickness, UNLIKE, slab.tangents,
                 slab.cosines, centre, back.astype(np.complex64), before, strength, after,
                 specimen.directions.astype(np.float32), gain)

    def _tables(self, specimen: Specimen) -> tuple[Floats, Floats, Floats]:
        """Return weights of the data, root of signal over noise, weights of the result, (K, RINGS) each."""
        squares = (self._contrasts(max(AMPLITUDES)) ** 2).mean(axis=1)
        even = smooth(squares)        # a band of ky holds several rings: they are weighted as one
        low, whole = self._lowest()
        q = np.linspace(0, 0.5, RINGS)
        rise = np.clip((q - low) / (whole - low), 0, 1)[None] * np.ones_like(squares)
        # below, nothing is known of the specimen; what images show there must not be made strong
        power = np.where(q < whole, specimen.power[min(int(np.searchsorted(q, whole)), RINGS - 1)], specimen.power)
        noise = np.maximum(specimen.noise, 1e-30)
        before = rise * np.sqrt(self._slab.cosines[:, None] / (noise * np.maximum(even, 1e-3)))
        strength = np.sqrt(specimen.shares * even * power / noise)
        after = np.sqrt(power)[None] * strength
        return before.astype(np.float32), np.minimum(strength, 10).astype(np.float32), after.astype(np.float32)

    def _projected(
        self, room: Floats, specimen: Specimen, part: tuple[int, int], upright: bool
    ) -> Iterator[tuple[int, Block]]:
        """Back-project the solution into one part of the depth, faded outside the specimen."""
        import scipy.fft

        spectra, slab = room.view(np.complex64), self._slab
        lines = room.reshape(len(room), 2 * self.rows, slab.length)
        inside = self._work.inside[0]

        def line(tilt: int) -> None:
            waves = scipy.fft.ifft(spectra[tilt], axis=1)
            lines[tilt, : self._ny] = scipy.fft.irfft(waves, 2 * self.rows - 2, axis=0)[inside]

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(line, range(len(spectra))))
        for block in slab.projected(lines, chance_inside(np.arange(*part) + 0.5 - self.depth / 2, specimen), self._ny, upright):
            yield (part[0] if upright else self.depth - part[1]), block


def chance_inside(z: Doubles, specimen: Specimen) -> Floats:
    """Return how likely it is that there is specimen at heights `z`; its edges are soft.

    Parameters
    ----------
    z : ndarray, shape (n,)
        Heights in px from the middle of the volume.
    specimen : Specimen

    Returns
    -------
    ndarray of float32, shape (n,)
        0 to 1.
    """
    thicknesses, heights, chances = specimen.slabs
    outside = np.abs(z[:, None] - heights[None]) - thicknesses[None] / 2
    each = 0.5 + 0.5 * np.cos(np.pi * np.clip(outside / (FADE * thicknesses[None]), 0, 1))
    return np.asarray(each @ chances, dtype=np.float32)


def _bands(ky: Doubles) -> NDArray[np.int64]:
    """Return the first rows of bands of ky, and the last row + 1: narrow at low frequencies, where specimens change most."""
    edges = [0, 1]
    while edges[-1] < len(ky):
        edges.append(edges[-1] + max(1, round(min(BAND, NARROW * ky[edges[-1]]) * 2 * len(ky))))
    return np.minimum(edges, len(ky))


