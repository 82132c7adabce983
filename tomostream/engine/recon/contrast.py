# SPDX-License-Identifier: GPL-3.0-or-later
"""Contrast transfer of aligned images, as it changes across the tilt axis and with height.

A point at x' across the tilt axis of an aligned image (A from its centre) and at the height Z of the specimen has the defocus

    D(x', Z) = D0 + hand (x' tan t - Z / cos t),

with D0 that of the image's centre, t the tilt angle and `hand` as `ctf.fit` has it. The transfer function is ``sin(phase)`` of
`Optics`, with the defocus of astigmatism in place of D0. An image is multiplied in Fourier space by functions of a few defoci,
and what belongs to each x' is interpolated between them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.ctf.spectra import Optics

if TYPE_CHECKING:
    from tomostream.engine.recon.options import TiltUse
    from tomostream.programs.ctf import CtfRow

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Complexes = NDArray[np.complex64]
#: Of the transfer function's phase from one defocus to the next, radians at the highest frequency that counts.
_MAX_STEP = 1.2
#: 1/A: tomograms hold nothing beyond.
_TOP = 1.0 / 7.0
_MARGIN = 24


@dataclass(frozen=True)
class TiltContrast:
    """Contrast transfer of one aligned image.

    Attributes
    ----------
    optics : Optics
        With the tilt's own phase shift.
    defocus_A : float
        At the centre of the image and of the specimen; underfocus is positive.
    astigmatism_A, azimuth_rad : float
        Half the difference of the defoci, and the direction of the larger one from the aligned image's x axis.
    across : float
        A of defocus per A of x': hand tan t.
    upward : float
        A of defocus per A of Z: -hand / cos t.
    """

    optics: Optics
    defocus_A: float
    astigmatism_A: float
    azimuth_rad: float
    across: float
    upward: float

    def phase(self, kx: Doubles, ky: Doubles, extra_A: float = 0.0) -> Doubles:
        """Return the argument of the sine of the transfer function.

        Parameters
        ----------
        kx, ky : ndarray
            Frequencies of the aligned image, 1/A.
        extra_A : float
            Defocus beyond that of the centre.

        Returns
        -------
        ndarray
            Radians; see `Optics.phase`.

        Notes
        -----
        The defocus in the direction phi of a frequency is D0 + extra + A cos(2 (phi - azimuth)), with half the astigmatism A.
        """
        s = kx**2 + ky**2
        defocus: Doubles | float = self.defocus_A + extra_A
        if self.astigmatism_A > 0:
            defocus = defocus + self.astigmatism_A * np.cos(2 * (np.arctan2(ky, kx) - self.azimuth_rad))
        return self.optics.phase(s, defocus)

    def turns(self, extra_A: float = 0.0) -> Floats:
        """Return `phase` over pi as a polynomial, for `spectral_kernels.transferred`.

        Parameters
        ----------
        extra_A : float
            Defocus beyond that of the centre.

        Returns
        -------
        ndarray of float32, shape (5,)
            By what s = kx^2 + ky^2, kx^2 - ky^2, 2 kx ky, s^2 and 1 are multiplied, frequencies in 1/A.
        """
        constant, whole = map(float, self.optics.phase(np.array([0.0, 1.0]), 0.0) / math.pi)
        wave, double = self.optics.wavelength_A, 2 * self.azimuth_rad
        return np.array([
            wave * (self.defocus_A + extra_A), wave * self.astigmatism_A * math.cos(double),
            wave * self.astigmatism_A * math.sin(double), whole - constant, constant], np.float32)

    def transfer(self, kx: Doubles, ky: Doubles, extra_A: float = 0.0, floor: float = 0.0) -> Doubles:
        """Return the contrast transfer function.

        Parameters
        ----------
        kx, ky : ndarray
            Frequencies, 1/A.
        extra_A : float
            Defocus beyond that of the centre, A.
        floor : float
            The least below its first maximum.

        Returns
        -------
        ndarray
            sin(phase), at least `floor` below its first maximum.

        Notes
        -----
        Thick specimens absorb and scatter inelastically, and amplitude contrast that falls with the frequency is what that looks
        like: hence `floor`.
        """
        phase = self.phase(kx, ky, extra_A)
        out = np.sin(phase)
        return np.where(phase < math.pi / 2, np.maximum(out, floor), out) if floor else out

    def extras(self, width_A: float, height_A: float, top: float) -> Doubles:
        """Return the defoci beyond that of the centre at which an image is looked at, for one height.

        Parameters
        ----------
        width_A : float
            Of the image, across the tilt axis.
        height_A : float
            Z of the specimen, from the middle of the volume.
        top : float
            The highest frequency that counts, 1/A.

        Returns
        -------
        ndarray, shape (n,)
            A, ascending, so dense that the phase changes little from one to the next at `top`; one value where all of the image
            has about the same defocus.
        """
        reach, middle = abs(self.across) * width_A / 2, self.upward * height_A
        step = _MAX_STEP / (math.pi * self.optics.wavelength_A * top**2)
        if 4 * reach < step:
            return np.array([middle])
        return middle + np.linspace(-reach, reach, 2 + int(2 * reach / step))

    def shares(self, extras: Doubles, width: int, pixel_A: float, height_A: float) -> Floats:
        """Return how much of every column belongs to each of some defoci: hats between neighbours.

        Parameters
        ----------
        extras : ndarray, shape (n,)
            Of `extras`.
        width : int
            Columns of the image.
        pixel_A : float
            Size of its pixels.
        height_A : float
            As for `extras`.

        Returns
        -------
        ndarray of float32, shape (n, width)
            Adds up to 1 in every column.
        """
        if len(extras) == 1:
            return np.ones((1, width), np.float32)
        column = (np.arange(width) - (width - 1) / 2) * pixel_A * self.across + self.upward * height_A
        hats = 1 - np.abs(column[None] - extras[:, None]) / (extras[1] - extras[0])
        return np.clip(hats, 0, 1).astype(np.float32)


@dataclass(frozen=True)
class Contrast:
    """Contrast transfer of all tilts of a series, in the order of the aligned images, whose pixels are of `pixel_A`."""

    tilts: tuple[TiltContrast, ...]
    pixel_A: float

    @property
    def top(self) -> float:
        """The highest frequency (1/A) that counts."""
        return min(0.45 / self.pixel_A, _TOP)

    def slabs(self, depth: int) -> list[tuple[int, int]]:
        """Return parts of the depth within which one contrast does, an odd number of them.

        Parameters
        ----------
        depth : int
            Of the volume, px.

        Returns
        -------
        list of (int, int)
            First slice and the one after the last, from 0.
        """
        steepest = max(abs(tilt.upward) for tilt in self.tilts)
        wavelength = self.tilts[0].optics.wavelength_A
        spread = math.pi * wavelength * self.top**2 * steepest * depth * self.pixel_A
        count = 1 + 2 * math.ceil(max(0.0, spread / (1.5 * _MAX_STEP) - 1) / 2)
        edges = np.round(np.linspace(0, depth, min(count, depth) + 1)).astype(int)
        return [(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def contrast_of(
    rows: Sequence[CtfRow], sections: Sequence[int], tilts: Sequence[TiltUse], optics: Optics, hand: int,
    raw_pixel_A: float, binning: float,
) -> Contrast | None:
    """Return the contrast of aligned, binned images from the CTF of raw ones; None where a tilt has no CTF.

    Parameters
    ----------
    rows : sequence of CtfRow
    sections : sequence of int
        From 0, that of each row.
    tilts : sequence of TiltUse
        In the order of the aligned images.
    optics : Optics
        Voltage, spherical aberration, amplitude contrast.
    hand : int
        1, -1, or 0 where the defocus does not change across the axis, or how is not known; see `ctf.fit`.
    raw_pixel_A : float
        Of the raw images.
    binning : float
        Of the aligned ones.
    """
    by_section = dict(zip(sections, rows, strict=True))
    if not tilts or any(tilt.section not in by_section for tilt in tilts):
        return None
    out = []
    for tilt in tilts:
        row, place = by_section[tilt.section], tilt.placement
        angle, turn = math.radians(tilt.tilt_deg), math.radians(place.rot_deg)
        # the defocus of a row is that of the raw image's centre; the aligned one is this far from there across the axis
        centre_A = (math.cos(turn) * place.tx + math.sin(turn) * place.ty) * raw_pixel_A
        out.append(TiltContrast(
            replace(optics, phase_rad=row.phase_rad),
            0.5 * (row.defocus_max_A + row.defocus_min_A) + hand * centre_A * math.tan(angle),
            0.5 * (row.defocus_max_A - row.defocus_min_A), math.radians(row.azimuth_deg) - turn,
            hand * math.tan(angle), -hand / math.cos(angle)))
    return Contrast(tuple(out), raw_pixel_A * binning)


class Filtered:
    """Multiplies aligned images of one shape (ny, nx) by functions of the frequency that change with the defocus.

    Spectra have ky from 0 on along their rows and kx of both signs along their columns: an image of which only the columns were
    transformed (waves along y) can be weighted, stretched and cropped across the tilt axis without going back to an image.

    Parameters
    ----------
    shape : (int, int)
        (ny, nx) of the images.
    pixel_A : float
        Of their pixels.
    threads : int
        Of the transforms.
    """

    def __init__(self, shape: tuple[int, int], pixel_A: float, threads: int = 1) -> None:
        import scipy.fft

        self.shape, self.pixel_A, self.threads = shape, pixel_A, threads
        self.size = scipy.fft.next_fast_len(shape[0] + 2 * _MARGIN, real=True), scipy.fft.next_fast_len(shape[1] + 2 * _MARGIN)
        while self.size[0] % 2:
            self.size = scipy.fft.next_fast_len(self.size[0] + 1, real=True), self.size[1]
        self.ky = (np.fft.rfftfreq(self.size[0]) / pixel_A).astype(np.float32)
        self.kx = (np.fft.fftfreq(self.size[1]) / pixel_A).astype(np.float32)
        self.inside = tuple(slice((m - n) // 2, (m - n) // 2 + n) for m, n in zip(self.size, shape, strict=True))

    def spectrum(self, image: Floats) -> Complexes:
        """Return the Fourier transform of an image surrounded by zeros: what joins its edges would lend weight to their noise.

        Parameters
        ----------
        image : ndarray of float32, shape (ny, nx)

        Returns
        -------
        ndarray of complex64, shape (len(ky), len(kx))
        """
        import scipy.fft

        whole = np.zeros((self.size[0], self.shape[1]), np.float32)
        whole[self.inside[0]] = image
        waves = np.zeros((len(self.ky), self.size[1]), np.complex64)
        waves[:, self.inside[1]] = scipy.fft.rfft(whole, axis=0, workers=self.threads, overwrite_x=True)
        out: Complexes = scipy.fft.fft(waves, axis=1, workers=self.threads, overwrite_x=True)
        return out

    def waves(self, spectrum: Complexes) -> Complexes:
        """Return waves along y (rows of ky, columns with their margins) of a spectrum.

        Parameters
        ----------
        spectrum : ndarray of complex64
            Of `spectrum`; it is overwritten.
        """
        import scipy.fft

        out: Complexes = scipy.fft.ifft(spectrum, axis=1, workers=self.threads, overwrite_x=True)
        return out

    def image(self, waves: Complexes) -> Floats:
        """Return the image (ny, nx) of `waves` along y."""
        import scipy.fft

        out: Floats = scipy.fft.irfft(waves[:, self.inside[1]], self.size[0], axis=0, workers=self.threads)
        return out[self.inside[0]]

    def across(
        self, spectrum: Complexes, tilt: TiltContrast, height_A: float, top: float, floor: float = 0.0, flip: bool = False
    ) -> Complexes:
        """Return waves along y of an image multiplied at each place by its transfer function, or by the sign of it.

        Parameters
        ----------
        spectrum : ndarray of complex64
            Of `spectrum`.
        tilt : TiltContrast
            Contrast transfer of the image.
        height_A : float
            Z of the specimen for which the defocus is taken.
        top : float
            The highest frequency that counts, 1/A.
        floor : float
            Lower limit of the transfer function below its first maximum.
        flip : bool
            Whether to multiply by the sign only.

        Returns
        -------
        ndarray of complex64
            See `waves`.
        """
        from tomostream.engine.recon.spectral_kernels import add_share, transferred

        extras = tilt.extras(self.shape[1] * self.pixel_A, height_A, top)
        shares = tilt.shares(extras, self.shape[1], self.pixel_A, height_A)

        def of(extra: float) -> Complexes:
            product = np.empty_like(spectrum)
            transferred(pairs(spectrum), self.kx, self.ky, tilt.turns(extra), floor, flip, pairs(product))
            return self.waves(product)

        if len(extras) == 1:
            return of(float(extras[0]))
        total = np.zeros((len(self.ky), self.size[1]), np.complex64)
        for extra, share in zip(extras, shares, strict=True):
            add_share(pairs(of(float(extra))), share, self.inside[1].start, pairs(total))
        return total


def pairs(values: Complexes) -> Floats:
    """Return `values`, complex numbers next to each other along the last axis, as pairs of float32."""
    return values[..., None].view(np.float32)


def flip_phases(images: Floats, contrast: Contrast, height_A: float, out: Floats, threads: int = 1) -> None:
    """Fill `out` with images times the sign of the transfer function at each place, for one height.

    Parameters
    ----------
    images : ndarray of float32, shape (K, ny, nx)
        Aligned images.
    contrast : Contrast
        Of the K tilts.
    height_A : float
        Height z for which the defocus is taken.
    out : ndarray of float32, shape (K, ny, nx)
        Filled.
    threads : int
        Of the transforms.
    """
    work = Filtered((images.shape[1], images.shape[2]), contrast.pixel_A, threads)
    for image, tilt, target in zip(images, contrast.tilts, out, strict=True):
        target[...] = work.image(work.across(work.spectrum(image), tilt, height_A, contrast.top, flip=True))
