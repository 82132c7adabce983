# SPDX-License-Identifier: GPL-3.0-or-later
"""Sums of the frames, moved back to where their content belongs; Fourier cropping; dose weighting.

Frames are first moved by whole pixels while they are added, which costs nothing. What is left of each shift is applied
to sums of frames that share it: frames are sorted by the fraction of their shift, rounded to half of an output pixel but
at most to a whole pixel of the movie, and each class is moved by the mean fraction of its frames, by interpolation
(`interpolation`) without binning, in Fourier space with it. What this rounding costs, at the highest frequency of the
output, is at most sinc(1/4) = 10 % of the amplitude in each direction, and less after the means are taken out; whole
pixels alone, which may be asked for, cost 36 % there without binning. With dose weighting each frame is transformed by
itself, and its shift is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tomostream.engine.dose import critical_dose
from tomostream.engine.fourier import low_columns, low_rows
from tomostream.engine.frames import interpolation
from tomostream.engine.frames.adding import MovedFrames, add_moved, sum_type
from tomostream.files.errors import EngineError

_BAND_ROWS = 256
"""Rows that one call adds: few enough to stay in the processor's cache."""
Part = Callable[[int, int], NDArray[np.float32]]
"""Makes the rows of an image from the first to before the last that are asked for; may be called from several threads."""


class Frames(Protocol):
    """Where the frames come from: see `store.FrameStore`."""

    @property
    def kept(self) -> bool:
        """Whether all of them are in memory."""

    def counts(self, index: int) -> NDArray:
        """Return the counts of a frame, (rows, columns), by its index from 0."""

    def rows(self, counts: NDArray, which: slice) -> NDArray:
        """Return rows `which` of a frame, corrected."""


def output_size(shape: tuple[int, int], binning: float) -> tuple[int, int]:
    """Return rows and columns after Fourier cropping: int(n / binning + 0.5) // 2 * 2, as MotionCor3 has it.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of a frame.
    binning : float
        1 or more.

    Raises
    ------
    EngineError
        Where nothing would be left.

    Examples
    --------
    >>> output_size((4092, 5760), 2.0)
    (2046, 2880)
    """
    rows, columns = (int(n / binning + 0.5) // 2 * 2 for n in shape)
    if min(rows, columns) < 2:
        raise EngineError(f"-FtBin {binning:g} leaves nothing of {shape[1]} x {shape[0]} pixels; give a smaller number")
    return rows, columns


def used_window(shape: tuple[int, int], binning: float) -> tuple[slice, slice]:
    """Return the part of the frame, about its centre, that the output shows.

    Cropping in Fourier space from n to n' pixels bins by n / n', which is not `binning` where n' was rounded: 4092
    pixels binned by 4 would become 1022 of 4.004. Here 4088 pixels are used, so that the pixel size is what the header
    says, and the same in x and y.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of a frame.
    binning : float
        1 or more.

    Returns
    -------
    rows, columns : slice

    Examples
    --------
    >>> used_window((4092, 5760), 4.0)
    (slice(2, 4090, None), slice(0, 5760, None))
    """
    sizes = [min(n, round(m * binning)) for n, m in zip(shape, output_size(shape, binning), strict=True)]
    starts = [(n - size) // 2 for n, size in zip(shape, sizes, strict=True)]
    rows, columns = (slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
    return rows, columns


@dataclass(frozen=True)
class _Class:
    """Frames that are added with whole-pixel shifts (x, y), and then moved together by a fraction of a pixel.

    `cell` is the fraction, x and y, that they were sorted by, in units of the step.
    """

    cell: tuple[int, int]
    frames: tuple[int, ...]
    whole: tuple[tuple[int, int], ...]
    fraction: tuple[float, float]


def _classes(shifts: NDArray[np.float64], frames: Sequence[int], step: float) -> list[_Class]:
    """Sort `frames` by the fractions of their shifts, rounded down to multiples of `step` (1 or a whole part of it) pixels.

    Fractions are from -1 + step / 2 to step / 2, about the middle of the kernel of `interpolation`.
    """
    steps = np.rint(shifts / step).astype(int)
    per_pixel = round(1 / step)
    members: dict[tuple[int, int], list[int]] = {}
    for frame in frames:
        cell = (-int(steps[frame, 0]) % per_pixel, -int(steps[frame, 1]) % per_pixel)
        members.setdefault(cell, []).append(frame)
    classes = []
    for cell, own in sorted(members.items()):
        whole = (steps[own] + np.array(cell)) // per_pixel
        fraction = (shifts[own] - whole).mean(axis=0)
        classes.append(_Class(cell, tuple(own), tuple((int(x), int(y)) for x, y in whole), (fraction[0], fraction[1])))
    return classes


@dataclass(frozen=True)
class Summation:
    """What is needed to sum frames.

    Parameters
    ----------
    frames : Frames
        Counts and their correction.
    shifts : ndarray, shape (n, 2)
        To be applied, x and y, in pixels of the frames.
    shape : (int, int)
        Rows and columns of a frame.
    binning : float
        -FtBin.
    executor : Executor
        Some frames, or rows, a call.
    workers : int
        Its threads.
    whole_pixels : bool
        Whether frames are added with whole-pixel shifts only (without dose weighting).
    """

    frames: Frames
    shifts: NDArray[np.float64]
    shape: tuple[int, int]
    binning: float
    executor: Executor
    workers: int
    whole_pixels: bool = False

    def parts(self, frames: Sequence[int]) -> Part:
        """Return what makes rows of the sum of some frames, of `output_size`; the mean is that of the unbinned sum.

        Parameters
        ----------
        frames : sequence of int
            Which of them, from 0. Each is moved by its shift, by whole pixels with `whole_pixels`.
        """
        shifts = np.rint(self.shifts) if self.whole_pixels else self.shifts
        classes = _classes(shifts, frames, 1.0 if self.whole_pixels else 1.0 / max(1, round(2 / max(self.binning, 1.0))))
        plain = self._window_shape() == self._out()
        if plain and (len(classes) > 1 or max(map(abs, classes[0].fraction)) >= 1e-6):
            return self._interpolated(classes)
        whole = self._window(self._class_sums(classes, 0)[0]).astype(np.float32) if plain else self._cropped(classes)
        return lambda first, last: whole[first:last]

    def _cropped(self, classes: Sequence[_Class]) -> NDArray[np.float32]:
        """Return the sum of the classes, moved and binned in Fourier space."""
        spectrum = None
        for members, summed in zip(classes, self._class_sums(classes, 0), strict=True):
            own = self._cropped_spectrum(self._window(summed).astype(np.float32, copy=False))
            spectrum = self._add_shifted(spectrum, own, members.fraction)
        return self._inverse(spectrum)

    def _out(self) -> tuple[int, int]:
        """Return rows and columns of the result."""
        return output_size(self.shape, self.binning)

    def _window_shape(self) -> tuple[int, int]:
        """Return rows and columns of the part of a frame that the result shows."""
        rows, columns = used_window(self.shape, self.binning)
        return rows.stop - rows.start, columns.stop - columns.start

    def _window(self, image: NDArray) -> NDArray:
        """Return that part of an image."""
        return image[used_window(self.shape, self.binning)]

    def _class_sums(self, classes: Sequence[_Class], margin: int) -> list[NDArray]:
        """Return the sums of each class's frames, with `margin` pixels more at each side; frame by frame, rows in parallel."""
        shape = (self.shape[0] + 2 * margin, self.shape[1] + 2 * margin)
        sums = []
        for members in classes:
            total: NDArray | None = None
            for counts, (dx, dy) in zip(self._loaded(members.frames), members.whole, strict=True):
                one = MovedFrames((counts,), ((dx + margin, dy + margin),), shape[0], self.frames.rows)
                if total is None:
                    total = np.zeros(shape, sum_type(one.dtype(), len(members.frames)))
                bands = range(0, shape[0], _BAND_ROWS)
                list(self.executor.map(one.add_to, [total[first : first + _BAND_ROWS] for first in bands], bands))
            sums.append(np.zeros(shape, np.float32) if total is None else total)
        return sums

    def _loaded(self, frames: Sequence[int]) -> Iterator[NDArray]:
        """Yield the counts of the frames, decoded by as many threads as there are, with as many in memory at a time."""
        for start in range(0, len(frames), self.workers):
            yield from self.executor.map(self.frames.counts, frames[start : start + self.workers])

    def _interpolated(self, classes: Sequence[_Class]) -> Part:
        """Make rows of the sum of the classes, each moved by its fraction; those of one cell in x by the mean of theirs."""
        half = max(1, min(interpolation.HALF, min(self.shape) // 4))
        sources = dict(zip(classes, self._sources(classes, half), strict=True))
        columns = []
        for _, group in groupby(classes, key=lambda members: members.cell[0]):
            own = list(group)
            x = np.average([c.fraction[0] for c in own], weights=[len(c.frames) for c in own])
            columns.append(interpolation.Column(
                float(x), tuple(c.fraction[1] for c in own), tuple(sources[c] for c in own)))  # fmt: skip
        work = interpolation.Interpolation(columns, self.shape, half)
        down, over = used_window(self.shape, self.binning)
        return lambda first, last: work.rows(down.start + first, down.start + last)[:, over]

    def _sources(self, classes: Sequence[_Class], margin: int) -> list[MovedFrames]:
        """Return the classes' sums with a margin: made from the frames block by block if these are in memory, else beforehand."""
        height = self.shape[0] + 2 * margin
        if not self.frames.kept:
            return [MovedFrames((total,), ((0, 0),), height) for total in self._class_sums(classes, margin)]
        return [
            MovedFrames(
                tuple(self.frames.counts(frame) for frame in members.frames),
                tuple((x + margin, y + margin) for x, y in members.whole),
                height,
                self.frames.rows,
            )
            for members in classes
        ]

    def _cropped_spectrum(self, image: NDArray[np.float32], workers: int | None = None) -> NDArray[np.complex64]:
        """Return the low frequencies of an image, as the real transform of one of the output's size, with its mean kept."""
        threads = workers or self.workers
        rows, columns = self._out()
        if (rows, columns) == image.shape:
            return scipy.fft.rfft2(image, workers=threads)
        spectrum = low_rows(low_columns([(0, image)], len(image), columns // 2 + 1, threads), (rows, columns))
        spectrum *= np.float32(rows * columns / image.size)
        return spectrum

    def _phases(self, shift: tuple[float, float]) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
        """Return factors for columns and rows that move content by `shift` (x, y) pixels of the frames."""
        rows, columns = self._out()
        tall, wide = self._window_shape()
        kx = np.arange(columns // 2 + 1) / wide
        ky = np.fft.fftfreq(rows, 1 / rows) / tall
        return (
            np.exp(-2j * np.pi * kx * shift[0]).astype(np.complex64),
            np.exp(-2j * np.pi * ky * shift[1]).astype(np.complex64)[:, None])

    def _add_shifted(
        self,
        total: NDArray[np.complex64] | None,
        spectrum: NDArray[np.complex64],
        shift: tuple[float, float],
        exponent: tuple[float, NDArray[np.float32]] | None = None,
    ) -> NDArray[np.complex64]:
        """Move a spectrum and add it to `total`, in pieces that stay in the processor's cache.

        `exponent`, a dose and `_decay`: weight it by the exponential of their product too.
        """
        along_x, along_y = self._phases(shift)
        for start in range(0, len(spectrum), 16):
            piece = spectrum[start : start + 16]
            piece *= along_x * along_y[start : start + 16]
            if exponent is not None:
                piece *= np.exp(np.float32(exponent[0]) * exponent[1][start : start + 16])
            if total is not None:
                total[start : start + 16] += piece
        return spectrum if total is None else total

    def _inverse(self, spectrum: NDArray[np.complex64] | None) -> NDArray[np.float32]:
        """Return the image of a spectrum; zeros where there is none."""
        if spectrum is None:
            return np.zeros(self._out(), np.float32)
        return scipy.fft.irfft2(spectrum, s=self._out(), workers=self.workers, overwrite_x=True)

    def frame_spectrum(
        self, frame: int, exponent: tuple[float, NDArray[np.float32]] | None = None
    ) -> NDArray[np.complex64]:
        """Return the cropped spectrum of one frame, moved exactly, and weighted if asked (`_add_shifted`).

        Parameters
        ----------
        frame : int
            From 0.
        exponent : (float, ndarray of float32), optional
            Weights are exp of the number times the array, which has the shape of the spectrum.

        Returns
        -------
        ndarray of complex64
            Real transform of an image of `output_size`.
        """
        whole = np.rint(self.shifts[frame])
        moved = np.zeros(self.shape, np.float32)
        add_moved(moved, self.frames.counts(frame), (int(whole[0]), int(whole[1])), rows=self.frames.rows)
        spectrum = self._cropped_spectrum(self._window(moved), workers=1)
        x, y = self.shifts[frame] - whole
        return self._add_shifted(None, spectrum, (x, y), exponent)

    def weighted(
        self, doses: Sequence[float], pixel_size: float, voltage: float, selections: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float32]]:
        """Return dose-weighted sums of several selections of the frames, sharing the work.

        Parameters
        ----------
        doses : sequence of float
            For each frame what the specimen had received when it ended, e/A2.
        pixel_size : float
            Of the frames, A.
        voltage : float
            kV.
        selections : sequence of sequences of int
            Frames of each sum. The weights are those of the whole movie.

        Returns
        -------
        list of ndarray
            One image for each selection.

        Notes
        -----
        Weights exp(-N / (2 Nc(k))) for a dose N with the critical dose Nc (`dose.critical_dose`), over the root of their mean
        square: Grant and Grigorieff, eLife 4 (2015) e06980.
        """
        doses = [dose - min(doses) for dose in doses]  # the same weights, and not all 0 after a large dose
        decay, norm = self._decay(doses, pixel_size, voltage)
        totals: list[NDArray[np.complex64] | None] = [None] * len(selections)
        batch = max(1, self.workers)
        frames = sorted({frame for selection in selections for frame in selection})
        for start in range(0, len(frames), batch):
            own = frames[start : start + batch]
            spectra = self.executor.map(lambda frame: self.frame_spectrum(frame, (doses[frame], decay)), own)
            for frame, spectrum in zip(own, spectra, strict=True):
                for number, selection in enumerate(selections):
                    if frame in selection:
                        before = totals[number]
                        totals[number] = spectrum.copy() if before is None else np.add(before, spectrum, out=before)
        for total in totals:
            if total is not None:
                total *= norm
        return [self._inverse(total) for total in totals]

    def _decay(
        self, doses: Sequence[float], pixel_size: float, voltage: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what a dose is multiplied by in the exponent of its frame's weight, and what makes their mean square 1.

        Both (rows, columns) of the output's spectrum.
        """
        rows, columns = self._out()
        tall, wide = self._window_shape()
        kx = (np.arange(columns // 2 + 1) / (wide * pixel_size)).astype(np.float32)
        ky = (np.fft.fftfreq(rows, 1 / rows) / (tall * pixel_size)).astype(np.float32)[:, None]
        decay = np.empty((rows, kx.size), np.float32)
        norm = np.empty_like(decay)

        def fill(start: int) -> None:
            part = slice(start, start + 64)
            decay[part] = -0.5 / critical_dose(np.hypot(kx, ky[part]), voltage)
            squares = sum(np.exp(np.float32(2 * dose) * decay[part]) for dose in doses)
            norm[part] = 1 / np.sqrt(squares / np.float32(len(doses)))

        list(self.executor.map(fill, range(0, rows, 64)))
        return decay, norm

    def aligned_frame(self, frame: int) -> NDArray[np.float32]:
        """Return one frame (from 0), moved exactly and cropped, (rows, columns) of `output_size`."""
        return self._inverse(self.frame_spectrum(frame))
