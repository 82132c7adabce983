# SPDX-License-Identifier: GPL-3.0-or-later
"""Sums of the frames, moved back to where their content belongs; Fourier cropping; dose weighting.

Frames are first moved by whole pixels while they are added, which costs nothing. What is left of each shift is applied
in Fourier space to sums of frames that share it: frames are sorted by the fraction of their shift, rounded to half of
an output pixel but at most to a whole pixel of the movie, and each class is moved by the mean fraction of its frames. What
this rounding costs, at the highest frequency of the output, is at most sinc(1/4) = 10 % of the amplitude in each
direction, and less after the means are taken out; whole pixels alone, which may be asked for, cost 36 % there without
binning and save the transforms. With dose weighting each frame is transformed by itself, and its shift is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tomostream.engine.errors import EngineError

Loader = Callable[[int], NDArray]


def output_size(shape: tuple[int, int], binning: float) -> tuple[int, int]:
    """Rows and columns after Fourier cropping: int(n / binning + 0.5) // 2 * 2, as MotionCor3 has it."""
    rows, columns = (int(n / binning + 0.5) // 2 * 2 for n in shape)
    if min(rows, columns) < 2:
        raise EngineError(f"-FtBin {binning:g} leaves nothing of {shape[1]} x {shape[0]} pixels; give a smaller number")
    return rows, columns


def used_window(shape: tuple[int, int], binning: float) -> tuple[slice, slice]:
    """The part of the frame, about its centre, that the output shows.

    Cropping in Fourier space from n to n' pixels bins by n / n', which is not `binning` where n' was rounded: 4092
    pixels binned by 4 would become 1022 of 4.004. Here 4088 pixels are used, so that the pixel size is what the header
    says, and the same in x and y.
    """
    sizes = [min(n, round(m * binning)) for n, m in zip(shape, output_size(shape, binning), strict=True)]
    starts = [(n - size) // 2 for n, size in zip(shape, sizes, strict=True)]
    rows, columns = (slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
    return rows, columns


@dataclass(frozen=True)
class _Class:
    """Frames that are added with whole-pixel shifts (x, y), and then moved together by a fraction of a pixel."""

    frames: tuple[int, ...]
    whole: tuple[tuple[int, int], ...]
    fraction: tuple[float, float]


def _classes(shifts: NDArray[np.float64], frames: Sequence[int], step: float) -> list[_Class]:
    """Sort `frames` by the fractions of their shifts, rounded to `step` (at most 1, a whole part of it) pixels."""
    cells = np.rint(shifts / step)
    per_pixel = round(1 / step)
    members: dict[tuple[int, int], list[int]] = {}
    for frame in frames:
        cell = (int(cells[frame, 0]) % per_pixel, int(cells[frame, 1]) % per_pixel)
        members.setdefault(cell, []).append(frame)
    classes = []
    for cell, own in sorted(members.items()):
        whole = np.rint(cells[own] * step - np.array(cell) * step).astype(int)
        fraction = (shifts[own] - whole).mean(axis=0)
        classes.append(_Class(tuple(own), tuple((int(x), int(y)) for x, y in whole), (fraction[0], fraction[1])))
    return classes


def add_moved(total: NDArray[np.float32], frame: NDArray, dx: int, dy: int) -> None:
    """Add `frame`, moved by whole pixels to the right and up, to `total`; the uncovered border mirrors the frame.

    A mirrored border rather than zeros: it has the brightness and the noise of its neighbourhood.
    """
    rows, columns = total.shape
    for target_rows, source_rows in _mirrored(rows, dy):
        for target_columns, source_columns in _mirrored(columns, dx):
            target = total[target_rows, target_columns]
            np.add(target, frame[source_rows, source_columns], out=target, casting="unsafe")


def _mirrored(length: int, shift: int) -> list[tuple[slice, slice]]:
    """Pairs (where to, where from) that move a line of `length` by `shift` and mirror it into the gap."""
    shift = max(-length, min(length, shift))
    if shift == 0:
        return [(slice(0, length), slice(0, length))]
    if shift > 0:
        return [(slice(shift, length), slice(0, length - shift)), (slice(0, shift), _backward(shift - 1, shift))]
    gap = -shift
    return [(slice(0, length - gap), slice(gap, length)), (slice(length - gap, length), _backward(length - 1, gap))]


def _backward(last: int, number: int) -> slice:
    """The slice last, last - 1, ... of `number` elements."""
    return slice(last, last - number if last >= number else None, -1)


@dataclass(frozen=True)
class Summation:
    """What is needed to sum frames.

    Parameters
    ----------
    load : callable
        Gives frame i, corrected, (rows, columns).
    shifts : ndarray, shape (n, 2)
        To be applied, x and y, in pixels of the frames.
    shape : (int, int)
        Rows and columns of a frame.
    binning : float
        -FtBin.
    executor : Executor
        One frame a call.
    workers : int
        Threads for the transforms of whole sums.
    whole_pixels : bool
        Whether frames are added with whole-pixel shifts only (without dose weighting).
    """

    load: Loader
    shifts: NDArray[np.float64]
    shape: tuple[int, int]
    binning: float
    executor: Executor
    workers: int
    whole_pixels: bool = False

    def image(self, frames: Sequence[int]) -> NDArray[np.float32]:
        """The sum of some frames, (rows, columns) of `output_size`; the mean is that of the unbinned sum."""
        shifts = np.rint(self.shifts) if self.whole_pixels else self.shifts
        classes = _classes(shifts, frames, 1.0 if self.whole_pixels else 1.0 / max(1, round(2 / max(self.binning, 1.0))))
        sums = self.executor.map(self._class_sum, classes)
        if self._is_plain(classes):
            return next(sums)
        spectrum = None
        for members, summed in zip(classes, sums, strict=True):
            spectrum = self._add_shifted(spectrum, self._cropped_spectrum(summed), members.fraction)
        return self._inverse(spectrum)

    def _is_plain(self, classes: Sequence[_Class]) -> bool:
        """Whether the sum of whole pixels is the result already."""
        return len(classes) == 1 and max(map(abs, classes[0].fraction)) < 1e-6 and self._window_shape() == self._out()

    def _out(self) -> tuple[int, int]:
        return output_size(self.shape, self.binning)

    def _window_shape(self) -> tuple[int, int]:
        rows, columns = used_window(self.shape, self.binning)
        return rows.stop - rows.start, columns.stop - columns.start

    def _class_sum(self, members: _Class) -> NDArray[np.float32]:
        total = np.zeros(self.shape, np.float32)
        for frame, (dx, dy) in zip(members.frames, members.whole, strict=True):
            add_moved(total, self.load(frame), dx, dy)
        return total[used_window(self.shape, self.binning)]

    def _cropped_spectrum(self, image: NDArray[np.float32], workers: int | None = None) -> NDArray[np.complex64]:
        """The low frequencies of an image, as the real transform of one of the output's size, with its mean kept."""
        spectrum = scipy.fft.rfft2(image, workers=workers or self.workers)
        rows, columns = self._out()
        if (rows, columns) != image.shape:
            half = rows // 2
            top = spectrum[image.shape[0] - (rows - half) :, : columns // 2 + 1]
            spectrum = np.concatenate([spectrum[:half, : columns // 2 + 1], top])
            spectrum *= np.float32(rows * columns / image.size)
        return spectrum

    def _phases(self, shift: tuple[float, float]) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
        """Factors for columns and rows that move content by `shift` (x, y) pixels of the frames."""
        rows, columns = self._out()
        tall, wide = self._window_shape()
        kx = np.arange(columns // 2 + 1) / wide
        ky = np.fft.fftfreq(rows, 1 / rows) / tall
        return (
            np.exp(-2j * np.pi * kx * shift[0]).astype(np.complex64),
            np.exp(-2j * np.pi * ky * shift[1]).astype(np.complex64)[:, None])

    def _add_shifted(
        self, total: NDArray[np.complex64] | None, spectrum: NDArray[np.complex64], shift: tuple[float, float]
    ) -> NDArray[np.complex64]:
        """Move a spectrum and add it to `total`, in pieces that stay in the processor's cache."""
        along_x, along_y = self._phases(shift)
        for start in range(0, len(spectrum), 16):
            piece = spectrum[start : start + 16]
            piece *= along_x * along_y[start : start + 16]
            if total is not None:
                total[start : start + 16] += piece
        return spectrum if total is None else total

    def _inverse(self, spectrum: NDArray[np.complex64] | None) -> NDArray[np.float32]:
        if spectrum is None:
            return np.zeros(self._out(), np.float32)
        return scipy.fft.irfft2(spectrum, s=self._out(), workers=self.workers, overwrite_x=True)

    def frame_spectrum(self, frame: int) -> NDArray[np.complex64]:
        """The cropped spectrum of one frame, moved exactly."""
        whole = np.rint(self.shifts[frame])
        moved = np.zeros(self.shape, np.float32)
        add_moved(moved, self.load(frame), int(whole[0]), int(whole[1]))
        spectrum = self._cropped_spectrum(moved[used_window(self.shape, self.binning)], workers=1)
        x, y = self.shifts[frame] - whole
        return self._add_shifted(None, spectrum, (x, y))

    def weighted(
        self, doses: Sequence[float], pixel_size: float, voltage: float, selections: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float32]]:
        """Dose-weighted sums of several selections of the frames, sharing the work.

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
        """
        decay = (-0.5 / critical_dose(self._resolution(pixel_size), voltage)).astype(np.float32)
        norm = np.zeros_like(decay)
        for dose in doses:
            norm += np.exp(2 * np.float32(dose) * decay)
        norm = 1 / np.sqrt(norm / len(doses))
        totals: list[NDArray[np.complex64] | None] = [None] * len(selections)
        batch = max(1, self.workers)
        frames = sorted({frame for selection in selections for frame in selection})
        for start in range(0, len(frames), batch):
            own = frames[start : start + batch]
            for frame, spectrum in zip(own, self.executor.map(self.frame_spectrum, own), strict=True):
                spectrum *= np.exp(np.float32(doses[frame]) * decay) * norm
                for number, selection in enumerate(selections):
                    if frame in selection:
                        before = totals[number]
                        totals[number] = spectrum.copy() if before is None else np.add(before, spectrum, out=before)
        return [self._inverse(total) for total in totals]

    def _resolution(self, pixel_size: float) -> NDArray[np.float64]:
        """Spatial frequency of the output's spectrum, 1/A."""
        rows, columns = self._out()
        tall, wide = self._window_shape()
        kx = np.arange(columns // 2 + 1) / (wide * pixel_size)
        ky = np.fft.fftfreq(rows, 1 / rows) / (tall * pixel_size)
        return np.hypot(kx, ky[:, None])

    def aligned_frame(self, frame: int) -> NDArray[np.float32]:
        """One frame, moved exactly and cropped."""
        return self._inverse(self.frame_spectrum(frame))


def critical_dose(frequency: NDArray[np.float64], voltage: float) -> NDArray[np.float64]:
    """Dose in e/A2 at which the power of the signal has fallen to 1/e, by spatial frequency in 1/A; infinite at 0.

    ``(0.24499 k^-1.6649 + 2.8141)`` at 300 kV (Grant & Grigorieff, eLife 4 (2015) e06980), times 0.8 at 200 kV and 0.45
    at 120 kV, linear between (MotionCor3).
    """
    factor = float(np.interp(voltage, [120.0, 200.0, 300.0], [0.45, 0.8, 1.0]))
    with np.errstate(divide="ignore"):
        return factor * (0.24499 * np.power(frequency, -1.6649) + 2.8141)
