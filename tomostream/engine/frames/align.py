# SPDX-License-Identifier: GPL-3.0-or-later
"""Global motion: where the content of each frame lies, from the frames themselves.

Every frame is correlated with the sum of the others, moved to where the correlation has its peak, and so on until
nothing moves. What makes it accurate at tomographic doses is the weight of each spatial frequency: not a fixed
B-factor but the one of maximum likelihood, from the coherence between frames that is measured in the same iteration,

    w(k) = X / (P ((n - 1) X + P - X)),

P the mean power of a frame at k and X the mean cross power of two frames (the signal). It whitens, and it leaves out
what the frames do not share. What makes it robust: a coarse stage that looks everywhere, from two starting points
(no motion; frames added one by one outward from the middle), of which the better total correlation wins; regions
without electrons are masked (`spectra`); a peak counts only if it stands out of the noise of its map, else the
frame's position is interpolated; if most do not stand out, neighbours are summed and it starts again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tomostream.engine.frames.spectra import Spectra, added
from tomostream.engine.peaks import vertex

_WORKING_SIZE = 1100
"""Frames are summed over square bins until their longer side is below this: 0.4 px of it are 1.5 px of a 4k frame."""
_SIGNIFICANT = 7.0
"""A peak must stand out by this many standard deviations of its map: the largest of 600 000 noise values has 5.2."""
_TOLERANCE = 0.004
"""Iterations end when no frame moves by more than this, in pixels of the working size."""
_MAX_ITERATIONS = 12


@dataclass(frozen=True)
class Motion:
    """Displacements of the frames of a movie.

    Attributes
    ----------
    displacement : ndarray, shape (n, 2)
        x, y in pixels of the frames, against the reference frame.
    measured : ndarray of bool, shape (n,)
        False where the frame's own peak did not stand out and its place is interpolated between its neighbours.
    confidence : ndarray, shape (n,)
        Height of the peak in standard deviations of its correlation map; 0 where there was none.
    """

    displacement: NDArray[np.float64]
    measured: NDArray[np.bool_]
    confidence: NDArray[np.float64]


def bin_factor(shape: tuple[int, int]) -> int:
    """Return how many pixels along each side are summed before the alignment.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of a frame.

    Examples
    --------
    >>> bin_factor((4092, 5760)), bin_factor((512, 512))
    (6, 1)
    """
    return max(1, -(-max(shape) // _WORKING_SIZE))


def binned(frame: NDArray, factor: int) -> NDArray[np.float32]:
    """Return sums over squares of `factor` pixels, as float32; what does not fill a square at the top and right is left out.

    Rows first, while the numbers are small: integers are summed in the next wider type.

    Parameters
    ----------
    frame : ndarray, shape (rows, columns)
        Counts of any type.
    factor : int
        Side of the squares.

    Returns
    -------
    ndarray of float32, shape (rows // factor, columns // factor)
        Sums, not means.
    """
    rows, columns = (n // factor * factor for n in frame.shape)
    wide = np.dtype("f4") if frame.dtype.kind == "f" else np.dtype(f"{frame.dtype.kind}{min(8, frame.itemsize * 2)}")
    summed = frame[0:rows:factor, :columns].astype(wide)
    for start in range(1, factor):
        summed += frame[start:rows:factor, :columns]
    out = summed[:, 0::factor].astype(np.float32)
    for start in range(1, factor):
        out += summed[:, start::factor]
    return out


def measure(
    images: Sequence[NDArray[np.float32]], factor: int, executor: Executor, group: int = 1, reference: int | None = None
) -> Motion:
    """Measure the displacement of every frame.

    Parameters
    ----------
    images : sequence of ndarray, shape (rows, columns)
        The binned frames.
    factor : int
        Their bin factor: displacements are given in pixels of the frames.
    executor : Executor
        For the transforms, one frame a call.
    group : int
        -Group: frames to sum before they are aligned; the places of single frames are then interpolated.
    reference : int, optional
        Frame, from 0, whose displacement is set to zero; by default the one in the middle, ``n // 2``.

    Returns
    -------
    Motion
    """
    count = len(images)
    usable = has_signal(images)
    displacement = np.zeros((count, 2))
    measured = np.zeros(count, bool)
    confidence = np.zeros(count)
    indices = np.nonzero(usable)[0]
    if indices.size > 1:
        spectra = Spectra.of([images[i] for i in indices], executor)
        own, peaks = _measure_groups(spectra, group)
        displacement[indices], confidence[indices] = own * factor, peaks
        measured[indices] = peaks >= _SIGNIFICANT
    displacement = _interpolated(displacement, measured)
    middle = count // 2 if reference is None else min(max(reference, 0), count - 1)
    return Motion(displacement - displacement[middle], measured, confidence)


def has_signal(images: Sequence[NDArray[np.float32]]) -> NDArray[np.bool_]:
    """Return which frames are more than blank: some spread, and at least a tenth of the usual mean if that is positive.

    Parameters
    ----------
    images : sequence of ndarray, shape (rows, columns)
        The frames, binned.

    Returns
    -------
    ndarray of bool, shape (frames,)
    """
    means = np.array([float(image.mean()) for image in images])
    spreads = np.array([float(image.std()) for image in images])
    usual = float(np.median(means[spreads > 0])) if (spreads > 0).any() else 0.0
    return (spreads > 0) & ((means > 0.1 * usual) if usual > 0 else True)


def _interpolated(displacement: NDArray[np.float64], measured: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Fill the places of frames that were not measured from those before and after; zeros if fewer than two were."""
    if measured.sum() < 2:
        return np.zeros_like(displacement)
    index = np.arange(len(displacement))
    return np.stack([np.interp(index, index[measured], displacement[measured, axis]) for axis in (0, 1)], axis=1)


def _measure_groups(spectra: Spectra, group: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return displacements (binned pixels) and peak heights of all frames, in groups that grow until the peaks stand out."""
    count = len(spectra.values)
    number = max(1, min(group, count // 3))
    while True:
        grouped = spectra.grouped(number) if number > 1 else spectra
        displacement, peaks = _Alignment(grouped).run()
        if np.mean(peaks >= _SIGNIFICANT) > 0.7 or count // (number * 2) < 3:
            break
        number *= 2
    if number == 1:
        return displacement, peaks
    return _spread(displacement, peaks, number, count)


def _spread(
    displacement: NDArray[np.float64], peaks: NDArray[np.float64], number: int, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return places of single frames from those of groups: linear between the groups' middles and beyond the outer ones."""
    edges = np.append(np.arange(len(displacement)) * number, count)
    middles = (edges[:-1] + edges[1:] - 1) / 2
    index = np.arange(count)
    good = peaks >= _SIGNIFICANT
    group_of = np.minimum(index // number, len(displacement) - 1)
    if good.sum() < 2:
        return displacement[group_of], peaks[group_of]
    # not beyond the outer groups that were measured: a slope of noise would carry the frames after them far away
    near = np.clip(index, middles[good][0] - number / 2, middles[good][-1] + number / 2)
    single = np.stack([_extended(near, middles[good], displacement[good, axis]) for axis in (0, 1)], axis=1)
    return single, peaks[group_of]


def _extended(at: NDArray, known: NDArray, values: NDArray) -> NDArray:
    """Interpolate linearly, and go on with the outer slopes beyond what is known."""
    out = np.interp(at, known, values)
    first, last = (values[1] - values[0]) / (known[1] - known[0]), (values[-1] - values[-2]) / (known[-1] - known[-2])
    out = np.where(at < known[0], values[0] + (at - known[0]) * first, out)
    return np.where(at > known[-1], values[-1] + (at - known[-1]) * last, out)


_Finder = Callable[[NDArray[np.complex64]], tuple[NDArray[np.float64], float]]
"""From a weighted cross spectrum to the place of its peak (x, y), and the peak's height in sigma."""


class _Alignment:
    """Iterative alignment of the frames of one `Spectra`; positions are kept in its pixels (x, y)."""

    def __init__(self, spectra: Spectra) -> None:
        self._spectra = spectra

    def run(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return displacements in binned pixels, (n, 2), and the heights of the peaks in standard deviations, (n,)."""
        coarse = self._spectra.coarse()
        stage = _Stage(coarse)
        candidates = [stage.search(start) for start in (stage.still(), stage.outward())]
        best = max(candidates, key=lambda candidate: candidate.score)
        ratio = np.array(coarse.scale) / np.array(self._spectra.scale)
        final = _Stage(self._spectra).polish(best.position * ratio)
        return final.position * np.array(self._spectra.scale), final.peaks


@dataclass(frozen=True)
class _Solution:
    """Positions (n, 2) of the frames, heights (n,) of their peaks, and the sum of these."""
    position: NDArray[np.float64]
    peaks: NDArray[np.float64]
    score: float


class _Stage:
    """Alignment at one resolution."""

    def __init__(self, spectra: Spectra) -> None:
        self._spectra = spectra
        self._values = spectra.values
        self._kx, self._ky = spectra.frequencies()
        rows, columns = spectra.size
        radius = np.hypot(self._kx * columns, self._ky * rows * (columns / rows))  # rings of equal frequency
        self._ring = np.minimum(radius, columns // 2).astype(np.intp)
        self._rings = columns // 2 + 1
        self._population = np.bincount(self._ring.ravel(), minlength=self._rings)
        self._power = np.mean([self._radial(np.abs(value) ** 2) for value in self._values], axis=0)
        self._power = np.maximum(self._power, self._power.max() * 1e-12 + 1e-30)

    def _radial(self, image: NDArray) -> NDArray[np.float64]:
        """Return the mean over rings of equal frequency."""
        return np.bincount(self._ring.ravel(), image.ravel(), self._rings) / np.maximum(self._population, 1)

    def _map(self, profile: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return a radial weight as an image; the lowest frequencies, illumination and thickness, are left out."""
        profile = profile.copy()
        profile[:4] = 0
        return profile.astype(np.float32)[self._ring]

    def _first_weight(self) -> NDArray[np.float32]:
        """Whitening with a gentle fall, for as long as the coherence is not known."""
        k = np.arange(self._rings) / (2 * (self._rings - 1))
        return self._map(np.exp(-40 * k**2) / self._power)

    def _coherence_weight(self, cross: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the weight of maximum likelihood from the mean cross power of two frames, by ring (module docstring)."""
        count, others = len(self._values), len(self._values) - 1
        signal = np.clip(np.convolve(np.pad(cross, 4, mode="edge"), np.full(9, 1 / 9), "valid"), 0, self._power)
        chance = self._power / np.sqrt(np.maximum(9 * self._population, 1) * count * others)
        signal[signal < 3 * chance] = 0  # no weight where what is shared is hardly more than noise would seem to share
        if not signal[4:].any():
            return self._first_weight()
        return self._map(signal / (self._power * (others * signal + self._power - signal)))

    def _moved_back(self, index: int, position: NDArray[np.float64]) -> NDArray[np.complex64]:
        """Return the spectrum of frame `index` with its content moved back from `position`."""
        return self._values[index] * (
            np.exp(2j * np.pi * self._kx * position[0]).astype(np.complex64)
            * np.exp(2j * np.pi * self._ky * position[1]).astype(np.complex64))

    def still(self) -> NDArray[np.float64]:
        """Start: nothing moves."""
        return np.zeros((len(self._values), 2))

    def outward(self) -> NDArray[np.float64]:
        """Start: frames added one by one outward from the middle, each found against those before it."""
        count, weight = len(self._values), self._first_weight()
        middle = count // 2
        position = np.zeros((count, 2))
        total = self._values[middle].copy()
        for index in sorted(range(count), key=lambda i: (abs(i - middle), i))[1:]:
            position[index], _ = self._found_anywhere(self._values[index] * total.conj() * weight)
            total += self._moved_back(index, position[index])
        return position

    def search(self, start: NDArray[np.float64]) -> _Solution:
        """Correlate each frame with the sum of the others and move it to the peak, wherever, until nothing moves much."""
        return self._iterate(start, self._found_anywhere, enough=0.1)

    def polish(self, start: NDArray[np.float64]) -> _Solution:
        """Improve positions that are right to a fraction of a pixel, by Fisher scoring on the phases."""
        return self._iterate(start, self._found_near, enough=_TOLERANCE)

    def _iterate(self, start: NDArray[np.float64], find: _Finder, enough: float) -> _Solution:
        """Move every frame by what `find` says, with the weight of the last iteration, until less than `enough`."""
        position, weight = start - start.mean(axis=0), self._first_weight()
        count, run = len(self._values), self._spectra.executor.map
        for iteration in range(_MAX_ITERATIONS):
            moved = list(run(self._moved_back, range(count), position))
            total = added(moved)
            found = list(run(self._compare, moved, repeat(total), repeat(weight), repeat(find)))
            step = np.array([one.step for one in found])
            step -= np.median(step, axis=0)
            position = self._nearest(position + step)
            weight = self._coherence_weight(np.mean([one.cross for one in found], axis=0) / (count - 1))
            if iteration > 1 and np.abs(step).max() < enough:
                break
        return _Solution(position, np.array([one.height for one in found]), float(sum(one.height for one in found)))

    def _nearest(self, position: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the same places within half a frame of the median: a transform repeats itself, and steps add up without end."""
        period = np.array(self._spectra.size[::-1], float)
        middle = np.median(position, axis=0)
        return middle + (position - middle + period / 2) % period - period / 2

    def _compare(
        self, own: NDArray[np.complex64], total: NDArray[np.complex64], weight: NDArray[np.float32], find: _Finder
    ) -> _Comparison:
        """Correlate one frame with the sum of the others."""
        product = own * np.conj(total - own)
        step, height = find(product * weight)
        return _Comparison(step, height, self._radial(product.real))

    def _found_near(self, weighted: NDArray[np.complex64]) -> tuple[NDArray[np.float64], float]:
        """Return the place (x, y) of the peak near zero of a correlation, and its height, from its transform alone.

        A displacement d turns the phase at k by -2 pi k d; the least-squares d, weighted, is one 2 x 2 system. The
        transform of a real map holds half of it: all columns but the first stand for two.
        """
        real, imaginary = weighted.real, weighted.imag
        columns = np.full(self._kx.size, 2.0)
        columns[0] = 1.0
        kx, ky = 2 * np.pi * self._kx.astype(np.float64), 2 * np.pi * self._ky[:, 0].astype(np.float64)
        by_column, by_row = real.sum(axis=0, dtype=np.float64) * columns, (real @ columns.astype(np.float32))
        mixed = ky @ (real @ (kx * columns).astype(np.float32))
        normal = np.array([[by_column @ kx**2, mixed], [mixed, by_row @ ky**2]])
        slope = np.array([(imaginary.sum(axis=0, dtype=np.float64) * columns) @ kx,
                          ky @ (imaginary @ columns.astype(np.float32))])  # fmt: skip
        power = (np.square(real).sum(axis=0) + np.square(imaginary).sum(axis=0)) @ columns
        height = float(by_column.sum() / np.sqrt(power)) if power > 0 else 0.0
        if normal[0, 0] <= 0 or np.linalg.det(normal) <= 1e-9 * normal[0, 0] * abs(normal[1, 1]):
            return np.zeros(2), height
        return np.clip(-np.linalg.solve(normal, slope), -1.0, 1.0), height

    def _found_anywhere(self, weighted: NDArray[np.complex64]) -> tuple[NDArray[np.float64], float]:
        """Return the place (x, y) and height of the highest point of a correlation, in the inner two thirds of the map."""
        rows, columns = self._spectra.size
        field = scipy.fft.irfft2(weighted, s=self._spectra.size)
        spread = float(field.std())
        tall, wide = rows // 3, columns // 3
        window = np.roll(field, (tall, wide), (0, 1))[: 2 * tall + 1, : 2 * wide + 1]
        y, x = np.unravel_index(np.argmax(window[1:-1, 1:-1]), (2 * tall - 1, 2 * wide - 1))
        cross = window[y : y + 3, x : x + 3].astype(np.float64)
        place = np.array([x + 1 - wide + vertex(*cross[1], limit=0.5), y + 1 - tall + vertex(*cross[:, 1], limit=0.5)])
        return place, float(cross[1, 1]) / spread if spread > 0 else 0.0


@dataclass(frozen=True)
class _Comparison:
    """How one frame compares with the sum of the others: its step, the height of the peak, and the radial cross power."""
    step: NDArray[np.float64]
    height: float
    cross: NDArray[np.float64]
