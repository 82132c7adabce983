# SPDX-License-Identifier: GPL-3.0-or-later
"""What a series shows of its specimen: spectrum, thickness, and how much of every tilt is noise.

The stretched images (`slab`) of tilts i and j share, at a frequency (kx, ky), the part ``sinc(Z kx (tan t_i - tan t_j))`` of what
they show of a slab of thickness Z (`align.likelihood`). Their cross spectra are therefore free of noise, and from those of
neighbouring tilts follow

* the power S(q) of the specimen's projections, pooled over all tilts, with the contrast transfer c divided out,
* how much more or less of it each tilt shows in each direction: membranes that stand upright and edges are sharp in one only,
* how much of it each tilt has, ``g_i(q)^2 = exp(alpha_i - beta_i q^2)``: dose, path through the specimen and focus,
* the noise ``N_i(q)`` of each tilt, from ``P_i(q) - g_i^2 <c_i^2> S`` with P_i the power of its image, where noise is most of it,
* thickness and height of the specimen: as a function of ``u = kx (tan t_i - tan t_j)`` the cross spectra of all pairs are the
  Fourier transform of the density along z, for an even slab ``sinc(Z u) exp(-2 pi i u Z0)``.

q is the frequency in the untilted image, in cycles/px. All powers are per pixel of the specimen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.threads import parallel

Doubles = NDArray[np.float64]
Complexes = NDArray[np.complex64]
#: Rings of q, from 0 to 0.5.
RINGS = 401
#: How many tilts apart are pairs from whose cross spectra the power comes, and those from which the thickness does.
_NEAR, _FAR = (1, 2), (1, 2, 3, 4, 6, 8, 10)
#: Directions of frequencies, in half a turn; bands of them, in cycles/px, of which each has its own power by direction.
SECTORS, _BANDS = 16, (0.0, 0.03, 0.06, 0.12, 0.24, 0.5)
#: As many looks say that the power is the same in all directions.
_EVEN = 1.0
#: Frequencies that are looked at, about.
SAMPLE = 40_000
#: Below this coherence a pair of tilts shows nothing.
_MIN_COHERENCE = 0.2
#: Of a tilt's power: never less of it counts as noise.
_MIN_NOISE = 0.05
#: Specimens are no random fields in even slabs: what they show otherwise than the model says counts as noise, about this much.
MISFIT = 2.0
#: 1/A: up to the first frequency illumination, ice and the shape of the specimen make images differ more than counting does; from
#: the second on only counting makes noise.
_COARSE = (1.0 / 600.0, 1.0 / 300.0)
_THICKNESSES_A = (200.0, 6000.0)
#: How far from the middle alignments put specimens, standard deviation in thicknesses.
_OFF_CENTRE = 0.125
#: Slabs less likely than the best by this factor are left out.
_UNLIKELY = 1e-3
#: Widths of the window over rings by which spectra are smoothed: rings at least, and part of q.
_NARROW, _PART = 3, 0.12
#: A larger amplitude contrast is believed where it leaves a spectrum smoother by this factor, in squares: spectra of specimens
#: themselves are as far from smooth as 1.8 times the best.
_NEARLY_BEST = 2.0


@dataclass(frozen=True)
class Sample:
    """Whitened stretched spectra of all tilts at some frequencies of a grid.

    Whitened: with the mean power of each tilt's image divided out, and its contrast transfer multiplied on; per pixel of the
    specimen that the tilt shows.

    Attributes
    ----------
    values : ndarray of complex64, shape (K, n)
    kx : ndarray, shape (L,)
        Of the columns of the grid, cycles/px.
    columns, sectors : ndarray of int, shape (n,)
        The column of each frequency, and which of `SECTORS`, from kx on, it is in.
    rings : ndarray of int, shape (K, n)
        The ring of q in each tilt, `RINGS` where it is beyond the last.
    seen : ndarray of float32, shape (K, n)
        Of each value, what it is times the root of the specimen's power, on average over the image.
    tangents : ndarray, shape (K,)
        Of the tilt angles.
    areas : ndarray, shape (K,)
        Pixels of the specimen that each tilt shows.
    """

    values: Complexes
    kx: Doubles
    columns: NDArray[np.int64]
    sectors: NDArray[np.int64]
    rings: NDArray[np.int64]
    seen: NDArray[np.float32]
    tangents: Doubles
    areas: Doubles

    @classmethod
    def of(
        cls, values: Complexes, grid: tuple[Doubles, NDArray[np.int64], Doubles], angles: tuple[Doubles, Doubles], areas: Doubles,
        powers: Doubles, contrasts: Doubles,
    ) -> Sample:
        """Return the sample of spectra.

        Parameters
        ----------
        values : ndarray of complex64, shape (K, n)
            Stretched spectra, multiplied by the root of the cosine.
        grid : (ndarray, ndarray, ndarray)
            kx (L,) of the columns, cycles/px; the column and ky >= 0 of each value, (n,).
        angles : (ndarray, ndarray)
            Cosines and tangents of the tilt angles, (K,).
        areas : ndarray, shape (K,)
            Pixels of the specimen that each tilt shows.
        powers : ndarray, shape (K, RINGS)
            Of the images.
        contrasts : ndarray, shape (K, P, RINGS)
            As for `measured`.
        """
        (columns_kx, columns, ky), (cosines, tangents) = grid, angles
        kx = columns_kx[columns]
        sectors = (np.arctan2(ky, kx) / np.pi * SECTORS).astype(np.int64) % SECTORS
        q = np.hypot(kx[None] / cosines[:, None], ky[None])
        rings = np.where(q < 0.49, np.rint(q * 2 * (RINGS - 1)), RINGS).astype(np.int64)
        white = np.zeros((len(values), RINGS + 1), np.float32)
        white[:, :-1] = 1 / np.sqrt(powers)
        squares = np.append((contrasts**2).mean(axis=1), np.zeros((len(values), 1)), axis=1).astype(np.float32)
        each = np.take_along_axis(white, rings, axis=1)
        seen = each * np.take_along_axis(squares, rings, axis=1) / np.sqrt(cosines)[:, None].astype(np.float32)
        white_values = values * (each / np.sqrt(areas)[:, None].astype(np.float32))
        return cls(white_values, columns_kx, columns, sectors, rings, seen, tangents, areas)

    def thinned(self, step: int) -> Sample:
        """Return the same at every `step`-th frequency."""
        values, columns, sectors, rings, seen = (
            np.ascontiguousarray(each[..., ::step])
            for each in (self.values, self.columns, self.sectors, self.rings, self.seen))
        return replace(self, values=values, columns=columns, sectors=sectors, rings=rings, seen=seen)

    def gain(self, i: int, j: int) -> float:
        """Return the factor of the cross spectrum of tilts `i` and `j` that makes it per pixel of the specimen that both show."""
        small, large = sorted((float(self.areas[i]), float(self.areas[j])))
        return math.sqrt(large / small)

    def sums(
        self, pair: tuple[int, int], table: Doubles, slab: tuple[float, float], cells: NDArray[np.int64], count: int
    ) -> Doubles:
        """Return what two tilts have in common, added up in cells.

        Parameters
        ----------
        pair : (int, int)
            The tilts.
        table : ndarray, shape (RINGS,)
            The model is multiplied by it.
        slab : (float, float)
            Thickness and height, px: what they let the tilts share little of counts as 0.
        cells : ndarray of int, shape (n,)
            Where each frequency is added.
        count : int
            Of cells.

        Returns
        -------
        ndarray, shape (2, count)
            The cross spectrum times what the model expects of a specimen of power 1, and the square of the latter.
        """
        from tomostream.engine.recon.spectral_kernels import pair_sums

        (i, j), (thickness, height) = pair, slab
        turn = self.kx * (self.tangents[i] - self.tangents[j])
        coherence = np.sinc(thickness * turn)
        coherence[np.abs(coherence) < _MIN_COHERENCE] = 0.0
        wave = self.gain(i, j) * np.exp(2j * np.pi * height * turn)
        out = np.zeros((2, count))
        pair_sums(self.values[i], self.values[j], self.seen[i], self.seen[j], self.rings[i], self.columns, cells,
                  np.append(table, 0.0), coherence, wave, out)
        return out


@dataclass(frozen=True)
class Specimen:
    """What is known of a specimen and of its images.

    Attributes
    ----------
    thickness, height : float
        Of the slab, px; from the middle of the volume.
    power : ndarray, shape (RINGS,)
        S of its projections.
    shares, noise : ndarray, shape (K, RINGS)
        g^2 and N of every tilt.
    directions : ndarray, shape (K, RINGS, SECTORS)
        The power by direction, over S.
    slabs : ndarray, shape (3, n)
        Thicknesses and heights that the data allow, px, and how likely each is.
    """

    thickness: float
    height: float
    power: Doubles
    shares: Doubles
    noise: Doubles
    directions: Doubles
    slabs: Doubles


def measured(
    sample: Sample, powers: Doubles, contrasts: Doubles, weights: Doubles, known: Doubles | None, pixel_A: float,
    threads: int = 1,
) -> Specimen:
    """Measure the specimen of a series.

    Parameters
    ----------
    sample : Sample
        Of the spectra of all tilts.
    powers : ndarray, shape (K, RINGS)
        Of the images.
    contrasts : ndarray, shape (K, P, RINGS)
        Transfer function of every tilt at P places across it.
    weights : ndarray, shape (K, RINGS)
        Powers by which images were weighted before (dose weighting), 1 where they were not.
    known : ndarray, shape (3, n), optional
        Thicknesses and heights that the specimen can have, px, and how likely each is; by default as the cross spectra show.
    pixel_A : float
        Of the images.
    threads : int
        At most this many.

    Returns
    -------
    Specimen
    """
    limits = (_THICKNESSES_A[0] / pixel_A, _THICKNESSES_A[1] / pixel_A)
    squares = contrasts**2
    means = np.maximum(squares.mean(axis=1), 1e-6)

    def alike(i: int, j: int) -> Doubles:
        """Return how much more two tilts show together than what they show each, where both change across the image, (RINGS,)."""
        return np.asarray((squares[i] * squares[j]).mean(axis=0) / (means[i] * means[j]))

    # spectra are smoothed relative to what the images show: where they are steep, a mean over rings is of the highest of them
    steep = smooth(powers.mean(axis=0), 0.0)
    slabs = np.array([[1500.0 / pixel_A], [0.0], [1.0]]) if known is None else known
    thick, height = float(np.clip(slabs[0] @ slabs[2], *limits)), float(slabs[1] @ slabs[2])
    power, shares = _power(sample, alike, weights, steep, (thick, height), threads)
    if known is None:
        for _ in range(2):
            slabs = likely_slabs(sample.thinned(2), alike, power * shares, limits, threads)
            thick, height = map(float, slabs[:2] @ slabs[2])
            power, shares = _power(sample, alike, weights, steep, (thick, height), threads)
    rest = smooth(np.maximum(powers - shares * means * power, _MIN_NOISE * powers))
    coarse = np.clip((np.linspace(0, 0.5, RINGS) / pixel_A - _COARSE[0]) / (_COARSE[1] - _COARSE[0]), 0.0, 1.0)
    noise = MISFIT * rest ** (1 - coarse) * _counting(rest, smooth(powers), weights) ** coarse
    directions = _directions(sample, alike, shares * power, (thick, height), threads)
    return Specimen(thick, height, power, shares, noise, directions, slabs)


def _power(
    sample: Sample, alike: Callable[[int, int], Doubles], weights: Doubles, steep: Doubles, slab: tuple[float, float],
    threads: int,
) -> tuple[Doubles, Doubles]:
    """Return the specimen's power, pooled over all pairs, and every tilt's share of it (with `weights`)."""
    count, roots = len(sample.values), np.sqrt(weights)

    def sums(pair: tuple[int, int]) -> Doubles:
        i, j = pair
        return sample.sums(pair, alike(i, j) * roots[i] * roots[j], slab, sample.rings[i], RINGS + 1)

    pairs = [(i, i + step) for step in _NEAR for i in range(count - step)]
    tops, norms = np.zeros((count, RINGS + 1)), np.zeros((count, RINGS + 1))
    for pair, (top, norm) in zip(pairs, parallel(sums, pairs, threads), strict=True):
        tops[list(pair)] += top
        norms[list(pair)] += norm
    tops, norms = tops[:, :-1], norms[:, :-1]
    top, norm = smooth(tops.sum(axis=0) * steep), smooth(norms.sum(axis=0) * steep**2)
    power = steep * np.maximum(top / np.maximum(norm, 1e-30), 0.0)
    return power, weights * np.array([_share(top, norm, power) for top, norm in zip(tops, norms, strict=True)])


def _directions(
    sample: Sample, alike: Callable[[int, int], Doubles], signal: Doubles, slab: tuple[float, float], threads: int
) -> Doubles:
    """Return the power by direction over its mean, (K, RINGS, SECTORS); `signal` g^2 S (K, RINGS)."""
    count, bands, roots = len(sample.values), len(_BANDS) - 1, np.sqrt(signal)
    q = np.linspace(0, 0.5, RINGS)
    band = np.append(np.clip(np.searchsorted(_BANDS, q, side="right") - 1, 0, bands - 1), 0)

    def sums(pair: tuple[int, int]) -> Doubles:
        i, j = pair
        cells = band[sample.rings[i]] * SECTORS + sample.sectors
        return sample.sums(pair, alike(i, j) * roots[i] * roots[j], slab, cells, bands * SECTORS)

    pairs = [(i, i + step) for step in _NEAR for i in range(count - step)]
    found = np.zeros((count, 2, bands * SECTORS))
    for pair, each in zip(pairs, parallel(sums, pairs, threads), strict=True):
        found[list(pair)] += each
    found = found.reshape(count, 2, bands, SECTORS)
    found = 0.5 * found + 0.25 * (np.roll(found, 1, axis=3) + np.roll(found, -1, axis=3))
    ratios = np.clip((found[:, 0] + _EVEN) / (found[:, 1] + _EVEN), 0.1, 10.0)
    middles = [0.5 * (a + b) for a, b in itertools.pairwise(_BANDS)]
    place = np.interp(q, middles, np.arange(bands))
    low = np.minimum(place.astype(int), bands - 2)
    share = (place - low)[None, :, None]
    return np.asarray((1 - share) * ratios[:, low] + share * ratios[:, low + 1])


def _counting(rest: Doubles, powers: Doubles, weights: Doubles) -> Doubles:
    """Return the noise of counting, (K, RINGS), from the `rest` of the images' powers that no specimen explains.

    At middle frequencies the rest is of the specimen too: what it shows otherwise than the model says, which is no noise.
    Counting makes noise that hardly changes with the frequency, ``exp(a_i - b q^2)`` with one b for camera and interpolation,
    and is seen where it is most of an image's power.
    """
    q = np.linspace(0, 0.5, RINGS)
    trust = (rest / powers) ** 4 * np.where((q > 0.06) & (q < 0.48), q, 0.0)
    x, y = np.broadcast_to(q**2, rest.shape), np.log(rest / np.maximum(weights, 1e-6))
    total = np.maximum(trust.sum(axis=1, keepdims=True), 1e-30)
    x_mean, y_mean = ((trust * values).sum(axis=1, keepdims=True) / total for values in (x, y))
    slope = (trust * (x - x_mean) * (y - y_mean)).sum() / max(float((trust * (x - x_mean) ** 2).sum()), 1e-30)
    return np.asarray(np.minimum(np.exp(y_mean + np.clip(slope, -12.0, 0.0) * (x - x_mean)) * weights, powers))


def _share(top: Doubles, norm: Doubles, power: Doubles) -> Doubles:
    """Return g^2 (RINGS,) of one tilt: alpha and beta by weighted least squares, near 0 where the data say little."""
    x = (np.arange(RINGS) / (RINGS - 1)) ** 2 * 4
    height = norm * power**2          # weight of each ring, and what `top * power` is where the share is 1
    value = top * power
    parameters = np.zeros(2)
    prior = np.diag([1.0, 0.25])
    for _ in range(8):
        share = np.exp(np.clip(parameters[0] - parameters[1] * x, -4, 2))
        slopes = np.stack([share, -x * share])
        rest = value - share * height
        gradient = slopes @ rest - prior @ parameters
        curvature = (slopes * height) @ slopes.T + prior
        parameters += np.clip(np.linalg.solve(curvature, gradient), -0.5, 0.5)
    return np.asarray(np.exp(np.clip(parameters[0] - parameters[1] * x, -4, 1.5)))


def likely_slabs(
    sample: Sample, alike: Callable[[int, int], Doubles], signal: Doubles, limits: tuple[float, float], threads: int
) -> Doubles:
    """Return which even slabs the cross spectra of all pairs allow.

    Thick specimens are dim: often no slab fits much better than all others, and the one that fits best is one of noise. Before
    looking, all thicknesses are equally likely, on a logarithmic scale, and heights near the middle more likely than others.

    Parameters
    ----------
    sample : Sample
        Of the spectra of all tilts.
    alike : callable
        Of two tilts: how much more they show together than what they show each, (RINGS,).
    signal : ndarray, shape (K, RINGS)
        g^2 S.
    limits : (float, float)
        Smallest and largest thickness, px.
    threads : int
        At most this many.

    Returns
    -------
    ndarray, shape (3, n)
        Thicknesses and heights in px, and how likely each of these slabs is; that adds up to 1.
    """
    from tomostream.engine.recon.spectral_kernels import pair_spectrum

    step, count = 0.25 / limits[1], len(sample.values)
    bins = int(1.5 / limits[0] / step) + 1
    roots = np.sqrt(signal)

    def sums(pair: tuple[int, int]) -> Doubles:
        i, j = pair
        turn = sample.kx * (sample.tangents[i] - sample.tangents[j])
        place = np.minimum(np.abs(turn) / step, bins - 1).astype(np.int64)
        table = np.append(alike(i, j) * roots[i] * roots[j], 0.0)
        out = np.zeros((3, bins))
        pair_spectrum(sample.values[i], sample.values[j], sample.seen[i], sample.seen[j], sample.rings[i], sample.columns,
                      table, place, sample.gain(i, j) * np.where(turn < 0, -1.0, 1.0), out)
        return out

    pairs = [(i, i + step) for step in _FAR for i in range(count - step)]
    real, imaginary, norm = np.sum(parallel(sums, pairs, threads), axis=0)[:, :-1]
    top = real + 1j * imaginary
    u = (np.arange(bins - 1) + 0.5) * step
    thicknesses, heights = np.geomspace(*limits, 80), np.linspace(-0.25, 0.25, 101) * limits[1]
    models = np.sinc(thicknesses[:, None] * u[None])
    turned = (np.exp(2j * np.pi * heights[:, None] * u[None]) * top[None]).real
    fits = np.maximum(models @ turned.T, 0.0) / np.sqrt(np.maximum((models**2) @ norm, 1e-30))[:, None]
    # of what no slab explains, per real number: noise, and what an even slab is not
    rest = (float((np.abs(top) ** 2 / np.maximum(norm, 1e-30)).sum()) - float(fits.max()) ** 2) / (2 * np.count_nonzero(norm))
    off = heights[None] / (_OFF_CENTRE * thicknesses[:, None])
    likely = 0.5 * fits**2 / max(rest, 1e-30) - 0.5 * off**2 - np.log(thicknesses)[:, None]
    chances = np.exp(likely - likely.max())
    rows, columns = np.nonzero(chances > _UNLIKELY)
    chances = chances[rows, columns]
    return np.stack([thicknesses[rows], heights[columns], chances / chances.sum()])


def smooth(values: Doubles, part: float = _PART) -> Doubles:
    """Return means over neighbouring rings, along the last axis: `part` of the frequency to either side.

    Parameters
    ----------
    values : ndarray, shape (..., RINGS)
        By ring of frequency.
    part : float
        Of the frequency, but at least three rings.
    """
    rings = np.arange(values.shape[-1])
    half = np.maximum(_NARROW, np.rint(part * rings)).astype(int)
    half = np.minimum(half, rings + 1)
    total = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
    first, last = np.maximum(rings - half, 0), np.minimum(rings + half + 1, len(rings))
    return np.asarray((total[..., last] - total[..., first]) / (last - first))


def absorbed(power: Doubles, contrast: Doubles, first: float, floors: Sequence[float]) -> float:
    """Return the smallest amplitude contrast that leaves the specimen's power about as smooth at low frequencies as any does.

    Below the first maximum of the transfer function the power that was measured is divided by whatever is believed of it
    there. A straight line with a slight curvature in double logarithms is what specimens have; too little amplitude contrast
    makes it rise towards 0, too much makes it fall.

    Parameters
    ----------
    power : ndarray, shape (RINGS,)
        As found with the largest of `floors`.
    contrast : ndarray, shape (RINGS,)
        The transfer function, without a floor.
    first : float
        The lowest q that counts, cycles/px.
    floors : sequence of float
        Amplitude contrasts that are tried, ascending.
    """
    q = np.arange(RINGS) / (RINGS - 1) * 0.5
    zero = np.argmax(contrast < 0) if (contrast < 0).any() else RINGS - 1
    maximum = int(np.argmax(contrast[: max(zero, 2)]))
    used = (q > first) & (np.arange(RINGS) < 0.8 * zero) & (power > 0)
    if np.count_nonzero(used) < 8:
        return min(floors)
    x, rows = np.log(q[used]), []
    below = np.arange(RINGS) < maximum
    taken = np.where(below, np.maximum(contrast, max(floors)), contrast)
    for floor in floors:
        believed = np.where(below, np.maximum(contrast, floor), contrast)
        y = np.log(power[used] * (taken[used] / believed[used]) ** 2)
        fit = np.polynomial.polynomial.polyfit(x, y, 2, w=np.sqrt(q[used]))
        rows.append(float(np.average((y - np.polynomial.polynomial.polyval(x, fit)) ** 2, weights=q[used])))
    enough = min(rows) * _NEARLY_BEST
    return next(float(floor) for floor, rest in zip(floors, rows, strict=True) if rest <= enough)
