# SPDX-License-Identifier: GPL-3.0-or-later
"""The aligned images of a series: dose weighted, at one contrast, in memory or in a file; and as a stack of their own."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tomostream.engine import limits
from tomostream.engine.dose import critical_dose
from tomostream.engine.output import Outputs, statistics
from tomostream.engine.recon.aligned import Aligner, aligned_size
from tomostream.engine.recon.options import LABEL, Floats, Progress, ReconOptions, TiltUse, silent
from tomostream.engine.recon.stack import TiltStack
from tomostream.files.errors import EngineError, sentence_of

# bytes of aligned images that are kept in memory, and share of the memory that is free
_IN_MEMORY, _SHARE = 2 << 30, 0.5
# raw images that are worked on at the same time
_IMAGES_AT_ONCE = 4
# an image whose mean is below this many of its standard deviations has no counts to be relative to
_MIN_MEAN = 0.25


def dose_weights(
    pre_exposures: Sequence[float], pixel_size_A: float, voltage_kV: float
) -> list[tuple[Floats, Floats]]:
    """Return the dose weight of every tilt: exp(-D / (2 Dc)) over the tilts' RMS weight at that frequency.

    Parameters
    ----------
    pre_exposures : sequence of float, length K
        Dose before each tilt, e/A2.
    pixel_size_A : float
        Of the images that are weighted.
    voltage_kV : float
        For the critical exposure.

    Returns
    -------
    list of (ndarray, ndarray)
        Frequencies, cycles/px, and weights, one pair a tilt; the weights of all tilts have a mean square of 1 at every
        frequency, so that the power of the noise stays.

    Notes
    -----
    The critical dose Dc is that of Grant and Grigorieff (`dose.critical_dose`).
    """
    frequencies = np.linspace(0.0, 0.75, 769)
    critical = critical_dose(frequencies / pixel_size_A, voltage_kV)
    doses = np.asarray(pre_exposures, dtype=np.float64)
    doses -= doses.min()  # the same weights, and not all 0 after a large dose
    weights = np.exp(-doses[:, None] / (2 * critical[None]))
    weights /= np.sqrt((weights**2).mean(axis=0, keepdims=True))
    return [(frequencies.astype(np.float32), w.astype(np.float32)) for w in weights]


@contextmanager
def room_for(shape: tuple[int, int, int], folder: str) -> Iterator[Floats]:
    """Give room for images: in memory, or, where they are many, in an unnamed file that goes with them.

    Parameters
    ----------
    shape : (int, int, int)
        (K, ny, nx) of float32.
    folder : str
        For the file.

    Yields
    ------
    ndarray of float32
        Not set to anything.

    Raises
    ------
    EngineError
        Where the disk has too little space.
    """
    if 4 * math.prod(shape) <= min(_IN_MEMORY, _SHARE * limits.free_memory()):
        yield np.empty(shape, np.float32)
        return
    with tempfile.TemporaryFile(dir=folder or ".") as handle:
        size = 4 * math.prod(shape)
        try:
            os.posix_fallocate(handle.fileno(), 0, size)
        except OSError as error:
            need = f"{size / 2**30:.2f} GiB are needed for the aligned images"
            raise EngineError(f"{sentence_of(error, folder or '.')} ({need}); free some space") from None
        yield np.memmap(handle, dtype=np.float32, mode="r+", shape=shape)


@dataclass(frozen=True)
class Intensity:
    """Mean and standard deviation of a raw image."""

    mean: float
    deviation: float


def intensity_of(image: Floats) -> Intensity:
    """Return mean and standard deviation of a raw image (ny, nx)."""
    return Intensity(*statistics(image)[2:])


def contrast_scales(intensities: Sequence[Intensity], least_tilted: int) -> list[float]:
    """Return the factor that brings every tilt to the contrast of the least tilted one.

    Counts fall with the path through the specimen and with the beam, contrast relative to them does not: with counts
    the factor is the ratio of the means; images without a positive mean (already normalised ones) are left as they are.

    Parameters
    ----------
    intensities : sequence of Intensity
        Of the K raw images.
    least_tilted : int
        Which of them is the reference.

    Returns
    -------
    list of float
        K factors of the aligned images, which are without their means.
    """
    reference = intensities[least_tilted]
    if not all(i.mean > _MIN_MEAN * i.deviation for i in intensities):
        return [1.0] * len(intensities)
    return [reference.mean / i.mean for i in intensities]


def align_images(
    stack: TiltStack,
    tilts: Sequence[TiltUse],
    options: ReconOptions,
    out: Floats,
    progress: Progress = silent,
) -> list[Intensity]:
    """Align and bin images.

    Parameters
    ----------
    stack : TiltStack
        Raw tilt images (ny, nx).
    tilts : sequence of TiltUse
        Which sections are used, K of them, and where each goes.
    options : ReconOptions
        Binning, threads, and what dose weights need.
    out : ndarray of float32, shape (K, ny, nx)
        Filled with the aligned images, each minus its mean.
    progress : callable
        Takes a stage and the share of it that is done.

    Returns
    -------
    list
        Mean and deviation of each raw image.
    """
    at_once = min(options.threads, _IMAGES_AT_ONCE)
    aligner = Aligner(stack.shape, (out.shape[1], out.shape[2]), options.binning, max(1, options.threads // at_once))
    weights: list[tuple[Floats, Floats]] | list[None] = [None] * len(tilts)
    doses = [tilt.pre_exposure for tilt in tilts]
    if options.pixel_size_A > 0 and all(dose is not None for dose in doses):
        weights = dose_weights([dose or 0.0 for dose in doses], options.pixel_size_A, options.voltage_kV)

    def one(index: int) -> Intensity:
        raw = stack.section(tilts[index].section)
        intensity = intensity_of(raw)
        out[index] = aligner.image(raw, tilts[index].placement, weights[index], intensity.mean)
        return intensity

    intensities: list[Intensity] = []
    with ThreadPoolExecutor(at_once) as pool:
        for intensity in pool.map(one, range(len(tilts))):
            progress("aligned images", len(intensities) / len(tilts))
            intensities.append(intensity)
    return intensities


def write_aligned_stack(
    stack: TiltStack,
    tilts: Sequence[TiltUse],
    tilt_axis_deg: float,
    options: ReconOptions,
    outputs: Outputs,
    path: str,
    progress: Progress = silent,
) -> None:
    """Write the aligned, binned images, each with its mean, in the order of `tilts`.

    Parameters
    ----------
    stack, tilts, progress
        As for `align_images`.
    tilt_axis_deg : float
        From the y axis, counter-clockwise: decides which side of the result is the longer one.
    options : ReconOptions
        Binning, pixel size, contrast.
    outputs : Outputs
        Where files are kept until all are complete.
    path : str
        Of the stack.
    """
    ny, nx = aligned_size(stack.shape, tilt_axis_deg, options.binning)
    if min(ny, nx) < 2:
        size = f"{stack.shape[1]} x {stack.shape[0]}"
        raise EngineError(f"binning by {options.binning:g} leaves nothing of images of {size} px")
    images = outputs.mapped_mrc(path, (len(tilts), ny, nx), options.pixel_size_A * options.binning, LABEL, volume=False)
    intensities = align_images(stack, tilts, options, images, progress)
    for image, intensity in zip(images, intensities, strict=True):
        image += np.float32(intensity.mean)
        if options.flip_contrast:
            image *= np.float32(-1)


def scale_images(images: Floats, scales: Sequence[float], flip: bool) -> None:
    """Multiply images in place by their factors.

    Parameters
    ----------
    images : ndarray of float32, shape (K, ny, nx)
    scales : sequence of float
        One an image.
    flip : bool
        By -1 as well: dense becomes bright.
    """
    for image, scale in zip(images, scales, strict=True):
        image *= np.float32(-scale if flip else scale)
