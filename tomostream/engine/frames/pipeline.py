# SPDX-License-Identifier: GPL-3.0-or-later
"""One movie from file to sums: the order of the steps, what is kept in memory, and what is reported."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, closing

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.frames import align, badpixels, plan, references, sums
from tomostream.engine.frames.job import DEFAULT_SUM_RANGE, Job
from tomostream.engine.frames.movies import Movie, open_movie, total_type
from tomostream.engine.frames.store import FrameStore
from tomostream.engine.output import Outputs, Statistics, statistics
from tomostream.engine.recon.volume import VolumeWriter
from tomostream.files.errors import EngineError
from tomostream.programs.motioncor import format_log

Say = Callable[[str], None]
_MAX_EER_FRACTIONS = 40
_MIN_SIDE = 16
"""Pixels of the shorter side of a frame."""
_BAND_ROWS = 128
"""Rows of the results that are made and written at a time."""


def correct_movie(job: Job, say: Say, warn: Say) -> align.Motion:
    """Correct one movie and write its results: all of them, or none.

    Parameters
    ----------
    job : Job
    say, warn : callable
        Take one line of progress, or of warning.

    Returns
    -------
    Motion

    Raises
    ------
    EngineError
        For bad input or output, in one sentence.
    """
    with Outputs() as outputs:
        for path in wanted_files(job):
            outputs.reserve(path)
        with closing(open_movie(job.movie, job.kind, job.upsampling)) as movie, _threads(job) as executor:
            fractions = fractions_of(job, movie, warn)
            window = crop_window(job, movie.shape)
            _check(job, fractions, window, warn)
            frames = "1 frame" if len(fractions) == 1 else f"{len(fractions)} frames"
            say(f"{job.stem}: {movie.shape[1]} x {movie.shape[0]} pixels, {frames}")
            store = FrameStore(movie, fractions, window)
            _prepare(job, movie.shape, window, store, executor, say, warn)
            motion = _measure(job, store, executor, say, warn)
            shape = (window[0].stop - window[0].start, window[1].stop - window[1].start)
            summation = sums.Summation(
                store, -motion.displacement, shape, job.binning, executor, job.threads, job.whole_pixels)  # fmt: skip
            _write_sums(job, summation, fractions, outputs)
        if job.log_dir:
            outputs.text(job.names.log, format_log([(-float(x), -float(y)) for x, y in motion.displacement]))
    say(f"wrote {job.names.total}")
    return motion


def _threads(job: Job) -> ThreadPoolExecutor:
    """Return the threads that all steps of one movie share."""
    return ThreadPoolExecutor(job.threads, thread_name_prefix="frames")


def doses_known(job: Job, fractions: Sequence[plan.Fraction]) -> bool:
    """Tell whether dose weighting can be done: dose, pixel size and a voltage of 80 to 300 kV, as in MotionCor3.

    Parameters
    ----------
    job : Job
    fractions : sequence of Fraction
        Of the movie.
    """
    return fractions[-1].dose_after > 0 and weighting_asked(job)


def weighting_asked(job: Job) -> bool:
    """Tell whether the command line allows dose weighting (`doses_known`): of a `job` alone, before the movie is opened."""
    return job.align and job.pixel_size > 0 and 80 <= job.voltage <= 300


def wanted_files(job: Job) -> list[str]:
    """Return the files that a `job` writes whatever the movie holds: those to be reserved before any work."""
    names = job.names
    wanted = [names.total]
    wanted += [names.odd, names.even] if job.split else []
    wanted += [names.stack] if job.stack else []
    return wanted + ([names.log] if job.log_dir else [])


def fractions_of(job: Job, movie: Movie, warn: Say) -> tuple[plan.Fraction, ...]:
    """Return which frames of the file make which frames of the movie.

    Parameters
    ----------
    job : Job
    movie : Movie
    warn : callable
        Takes a line of text.

    Raises
    ------
    EngineError
        If the -FmIntFile cannot be read, or no frame would be left.

    Notes
    -----
    EER files of more than `_MAX_EER_FRACTIONS` frames are summed to that many where no -FmIntFile says otherwise.
    """
    entries = plan.read_integration_file(job.integration_file) if job.integration_file else ()
    if not entries and job.kind == "eer" and movie.count > _MAX_EER_FRACTIONS:
        group = -(-movie.count // _MAX_EER_FRACTIONS)
        entries = (plan.IntegrationEntry(movie.count, group, None),)
        warn(f"no -FmIntFile: the {movie.count} frames of the file are summed by {group}")
    elif entries and sum(entry.raw for entry in entries) != movie.count:
        warn(f"{job.integration_file} is for {sum(entry.raw for entry in entries)} frames, {job.movie} has {movie.count}: "
             "its last lines are made to fit")  # fmt: skip
    return plan.plan_fractions(movie.count, job.throw, job.truncate, job.frame_dose, entries)


def crop_window(job: Job, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return rows and columns that are used: all, or -Crop about the centre (even numbers, as in MotionCor3).

    Parameters
    ----------
    job : Job
        Its `crop` is (x, y), 0 for all.
    shape : (int, int)
        Rows and columns of a frame.

    Raises
    ------
    EngineError
        Where the part is larger than the frame, or too small to align.
    """
    asked = (job.crop[1] // 2 * 2, job.crop[0] // 2 * 2)
    if any(0 < pixels < _MIN_SIDE for pixels in job.crop):
        raise EngineError(f"-Crop {job.crop[0]} {job.crop[1]} is too small; give {_MIN_SIDE} pixels or more each way, 0 for all")
    if asked[0] > shape[0] or asked[1] > shape[1]:
        raise EngineError(f"-Crop {job.crop[0]} {job.crop[1]} is larger than the frames, {shape[1]} x {shape[0]}")
    sizes = [own or n for own, n in zip(asked, shape, strict=True)]
    starts = [(n - size) // 2 for n, size in zip(shape, sizes, strict=True)]
    rows, columns = (slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
    return rows, columns


def _check(
    job: Job, fractions: Sequence[plan.Fraction], window: tuple[slice, slice], warn: Say
) -> None:
    """Refuse before any work what cannot be done with this number of frames of that size; warn of what will be missing."""
    rows, columns = (part.stop - part.start for part in window)
    if min(rows, columns) < _MIN_SIDE:
        raise EngineError(
            f"{job.movie}: {columns} x {rows} pixels are too few to work on; at least {_MIN_SIDE} each way are needed")
    sums.output_size((rows, columns), job.binning)
    if job.split and len(fractions) < 2:
        raise EngineError(f"-SplitSum 1 needs two frames or more, {job.movie} has 1; give -SplitSum 0")
    first = job.throw + 1
    if job.reference > 0 and not first <= job.reference < first + len(fractions):
        raise EngineError(
            f"-FmRef {job.reference} is none of the frames, {first} to {first + len(fractions) - 1}; give one of them, or -1")
    if job.align and job.group > 1 and job.group > len(fractions) // 3:
        warn(f"-Group {job.group} would leave fewer than three groups of {len(fractions)} frames; smaller ones are aligned")
    if fractions[-1].dose_after > 0 and not weighting_asked(job):
        missing = "-Align 0" if not job.align else "-PixSize is not given" if job.pixel_size <= 0 else f"-kV {job.voltage:g}"
        warn(f"the dose is known, but no dose-weighted sum is made: {missing}")
    elif doses_known(job, fractions) and job.sum_range != DEFAULT_SUM_RANGE and not in_range(job, fractions):
        low, high = job.sum_range
        if high > low:
            warn(f"-SumRange {low:g} {high:g}: no frames end within it (at {fractions[0].dose_after:g} to "
                 f"{fractions[-1].dose_after:g} e/A2), no _DWS sum is made")  # fmt: skip


def in_range(job: Job, fractions: Sequence[plan.Fraction]) -> list[int]:
    """Return the frames of the _DWS sum: those that end within -SumRange, if it is wider than 1 e/A2, as in MotionCor3.

    Parameters
    ----------
    job : Job
    fractions : sequence of Fraction
        Of the movie.

    Returns
    -------
    list of int
        From 0.
    """
    low, high = job.sum_range
    return [i for i, fraction in enumerate(fractions) if low <= fraction.dose_after <= high and high - low > 1.0]


def _prepare(
    job: Job, shape: tuple[int, int], window: tuple[slice, slice], store: FrameStore, executor: Executor,
    say: Say, warn: Say,
) -> None:  # fmt: skip
    """Decode everything once; find and replace bad pixels; give the store the references, cut to the window."""
    refs, dead = references.load_references(
        shape, job.gain, job.dark, job.rotate_gain, job.flip_gain, job.inverse_gain, say)  # fmt: skip
    bad = dead | badpixels.load_defects(shape, job.defect_file, job.defect_map, job.upsampling, job.kind != "eer")
    refs, bad = refs.cut(window), bad[window]
    known = np.count_nonzero(bad)
    where, source = badpixels.replacements(bad)
    if known:
        store.replace(where, source)
    total, varying = _total(store, executor, say)
    if not varying:
        raise EngineError(
            f"{job.movie}: every frame is constant (no pixel differs from another); there is nothing to align or sum")
    _doubt_gain(job, total, refs, warn)
    found = badpixels.outlying_pixels(total, executor, refs, len(store))
    found[bad] = False
    hot = np.count_nonzero(found)
    if hot > 0.01 * bad.size:
        warn(f"{hot} pixels look hot, too many to be; they are left as they are (check -Gain)")
        hot = 0
    if hot:
        where, source = badpixels.replacements(bad | found)
        store.replace(where, source)
    if hot or known:
        refs.patch(where, source)
        say(f"replaced {known} bad pixels of the map and {hot} hot or dead ones")
    store.references = refs


def _doubt_gain(job: Job, total: NDArray, refs: references.References, warn: Say) -> None:
    """Warn if the gain would fit the frames better in another orientation, or as a divisor."""
    if refs.gain is None:
        return
    better = references.better_orientation(total, refs.gain, job.rotate_gain, job.flip_gain)
    if better is None:
        return
    quarters, flip, inverse, fit, own = better
    divide = f" -InvGain {0 if job.inverse_gain else 1}" if inverse else ""
    warn(f"the gain fits the frames better with -RotGain {quarters} -FlipGain {flip}{divide} (correlation {fit:.3f}) "
         f"than as asked for ({own:.3f}); check its orientation")  # fmt: skip


def _total(store: FrameStore, executor: Executor, say: Say) -> tuple[NDArray, bool]:
    """Return the sum of all frames as counts, and whether any frame has two different values; says how far it is each second."""
    total = None
    varying = False
    said = time.monotonic()
    for number, frame in enumerate(executor.map(store.counts, range(len(store)))):
        if time.monotonic() - said >= 1.0:
            said = time.monotonic()
            say(f"decoded {number + 1} of {len(store)} frames")
        if total is None:
            total = np.zeros(frame.shape, total_type(frame.dtype, len(store)))
        np.add(total, frame, out=total, casting="unsafe")
        varying = varying or bool((frame != frame[0, 0]).any())
    if total is None:
        raise EngineError("the movie has no frame")
    return total, varying


def _measure(
    job: Job, store: FrameStore, executor: Executor, say: Say, warn: Say
) -> align.Motion:
    """Measure the motion, and say what is doubtful about it."""
    count = len(store)
    if not job.align or count == 1:
        return align.Motion(np.zeros((count, 2)), np.ones(count, bool), np.zeros(count))
    rows, columns = store.counts(0).shape
    factor = align.bin_factor((rows, columns))
    images = list(executor.map(lambda index: store.binned(index, factor), range(count)))
    reference = max(0, job.reference - 1 - job.throw) if job.reference >= 0 else None
    motion = align.measure(images, factor, executor, job.group, reference)
    doubtful = np.nonzero(~motion.measured)[0] + 1
    if len(doubtful) > count - 2:
        warn("the frames have too little in common to be aligned; they are summed as they are")
    elif len(doubtful):
        which = ", ".join(str(number) for number in doubtful)
        warn(f"frames {which} are blank or do not match the others; their shifts are taken from their neighbours")
    largest = float(np.hypot(*motion.displacement.T).max())
    say(f"aligned {count} frames: largest shift {largest:.2f} px from the reference frame")
    return motion


def _write_sums(
    job: Job, summation: sums.Summation, fractions: Sequence[plan.Fraction], outputs: Outputs
) -> None:
    """Compute and write every sum that is asked for."""
    names, every = job.names, list(range(len(fractions)))
    pixel_size = job.pixel_size * job.binning
    weighting = doses_known(job, fractions)
    if job.split:
        halves = () if weighting else (names.odd, names.even)
        _write_parts(job, summation, [summation.parts(every[0::2]), summation.parts(every[1::2])], halves, outputs)
    else:
        _write_parts(job, summation, [summation.parts(every)], (), outputs)
    if weighting:
        _write_weighted(job, summation, fractions, lambda path, image: outputs.mrc(path, image, pixel_size, job.label))
    if job.stack:
        size = sums.output_size(summation.shape, job.binning)
        groups = [every[i : i + job.stack_group] for i in range(0, len(every), job.stack_group)]
        stack = outputs.mapped_mrc(names.stack, (len(groups), *size), pixel_size, job.label, volume=False)
        for section, group in enumerate(groups):
            stack[section] = sum(summation.aligned_frame(frame) for frame in group)


def _write_parts(
    job: Job, summation: sums.Summation, parts: Sequence[sums.Part], halves: Sequence[str], outputs: Outputs
) -> None:
    """Write the total of one image or two, and each of them to its own file of `halves`, if there are any.

    Some rows of all of them at a time, which stay in the processor's cache: whole images are never held.
    """
    rows, columns = sums.output_size(summation.shape, job.binning)
    with ExitStack() as stack:
        writers = [
            stack.enter_context(VolumeWriter(outputs, path, (1, rows, columns), job.pixel_size * job.binning, job.label, False))
            for path in (job.names.total, *halves)
        ]

        def band(first: int) -> list[Statistics]:
            """Write the same rows to every file; return what is in them."""
            images = [part(first, min(first + _BAND_ROWS, rows)) for part in parts]
            total = images[0] if len(images) == 1 else np.add(*images)
            written = list(zip(writers, (total, *images[: len(halves)]), strict=True))
            for writer, image in written:
                writer.write(image[None], 0, first)
            return [statistics(image) for _, image in written]

        starts = range(0, rows, _BAND_ROWS)
        for first, found in zip(starts, summation.executor.map(band, starts), strict=True):
            for writer, each in zip(writers, found, strict=True):
                writer.add(each, columns * (min(first + _BAND_ROWS, rows) - first))


def _write_weighted(
    job: Job, summation: sums.Summation, fractions: Sequence[plan.Fraction], write: Callable[[str, NDArray], None]
) -> None:
    """Write the dose-weighted sums: of all frames, of those within -SumRange, and of the halves."""
    names, every = job.names, list(range(len(fractions)))
    doses = [job.initial_dose + fraction.dose_after for fraction in fractions]
    wanted = {names.weighted: every}
    if selected := in_range(job, fractions):
        wanted[names.weighted_range] = selected
    if job.split:
        wanted |= {names.odd: every[0::2], names.even: every[1::2]}
    images = summation.weighted(doses, job.pixel_size, job.voltage, list(wanted.values()))
    list(summation.executor.map(write, map(os.fspath, wanted), images))
