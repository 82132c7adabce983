# SPDX-License-Identifier: GPL-3.0-or-later
"""From a stack and where its tilts go to files: the tomogram with its two projections, or the aligned stack.

Memory: the aligned images at the output's binning (beyond 2 GB, or half of what is free, in a temporary file beside it),
up to four raw images at a time, and about 250 MB of buffers; never the volume.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tomostream import __version__
from tomostream.engine import limits
from tomostream.engine.dose import critical_dose
from tomostream.engine.output import Outputs, statistics
from tomostream.engine.recon.aligned import Aligner, Placement, aligned_size
from tomostream.engine.recon.contrast import Contrast, flip_phases
from tomostream.engine.recon.slab import MAX_TILT_DEG, Block, Method, Slab
from tomostream.engine.recon.stack import TiltStack
from tomostream.engine.recon.volume import VolumeWriter
from tomostream.files.errors import EngineError, sentence_of

if TYPE_CHECKING:
    from tomostream.engine.recon.wiener import Findings

Floats = NDArray[np.float32]
Progress = Callable[[str, float], None]
LABEL = f"tomostream-aretomo {__version__}"
_IN_MEMORY = 2 << 30
# of the memory that is free
_SHARE = 0.5
# raw images that are worked on at the same time
_IMAGES_AT_ONCE = 4
# an image whose mean is below this many of its standard deviations has no counts to be relative to
_MIN_MEAN = 0.25


def _silent(what: str, share: float) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class TiltUse:
    """One tilt that is used.

    Attributes
    ----------
    section : int
        From 0.
    tilt_deg : float
        Angle of the reconstruction.
    placement : Placement
        Where its image goes.
    pre_exposure : float or None
        Dose before it, e/A2.
    """

    section: int
    tilt_deg: float
    placement: Placement
    pre_exposure: float | None = None


@dataclass(frozen=True)
class ReconOptions:
    """How to reconstruct.

    Attributes
    ----------
    binning : float
        1 or more.
    depth_px : int
        Pixels of the input.
    method : Method
    upright : bool
        x, y, z (-FlipVol 1), else x, z, y.
    flip_contrast : bool
        Dense becomes bright.
    pixel_size_A : float
        Of the input; 0 where it is not known.
    voltage_kV : float
        For dose weights.
    threads : int
    contrast : Contrast or None
        The contrast transfer of the tilts in their order; None where it is not known.
    flip_phases : bool
        Correct it by phase flipping.
    """

    binning: float = 1.0
    depth_px: int = 0
    method: Method = field(default_factory=lambda: Method(15))
    upright: bool = True
    flip_contrast: bool = False
    pixel_size_A: float = 0.0
    voltage_kV: float = 300.0
    threads: int = 1
    contrast: Contrast | None = None
    flip_phases: bool = False


@dataclass(frozen=True)
class Reconstructed:
    """A tomogram that was written.

    Attributes
    ----------
    size : (int, int, int)
        Columns, rows and sections of the file.
    scales : tuple of float
        Factors of the tilts' contrast.
    findings : Findings or None
        What was found in making the Wiener tomogram, where that was asked for.
    """

    size: tuple[int, int, int]
    scales: tuple[float, ...]
    findings: Findings | None = None


@dataclass(frozen=True)
class Viewing:
    """The Wiener tomogram that is asked for beside another.

    Attributes
    ----------
    path : str
        Its file.
    thickness_A : float or None
        Of the specimen, where it is known.
    without_gold : callable or None
        Finds the gold that the tomogram keeps and returns the images without it, None where there is none. It takes time, and
        is called only where images have points as strong as gold.
    """

    path: str
    thickness_A: float | None = None
    without_gold: Callable[[], TiltStack | None] | None = None


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
def _room(shape: tuple[int, int, int], folder: str) -> Iterator[Floats]:
    """Give room for the aligned images: in memory, or, where they are many, in an unnamed file in `folder`."""
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
class _Intensity:
    """Mean and standard deviation of a raw image."""

    mean: float
    deviation: float


def _intensity(image: Floats) -> _Intensity:
    """Return mean and standard deviation of a raw image."""
    return _Intensity(*statistics(image)[2:])


def contrast_scales(intensities: Sequence[_Intensity], least_tilted: int) -> list[float]:
    """Return the factor that brings every tilt to the contrast of the least tilted one.

    Counts fall with the path through the specimen and with the beam, contrast relative to them does not: with counts
    the factor is the ratio of the means; images without a positive mean (already normalised ones) are left as they are.

    Parameters
    ----------
    intensities : sequence, length K
        Mean and deviation of each raw image.
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
    progress: Progress = _silent,
) -> list[_Intensity]:
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

    def one(index: int) -> _Intensity:
        raw = stack.section(tilts[index].section)
        intensity = _intensity(raw)
        out[index] = aligner.image(raw, tilts[index].placement, weights[index], intensity.mean)
        return intensity

    intensities: list[_Intensity] = []
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
    progress: Progress = _silent,
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


def usable(tilts: Sequence[TiltUse]) -> list[TiltUse]:
    """Return the `tilts` that a slab can use: those within `MAX_TILT_DEG`."""
    return [tilt for tilt in tilts if abs(tilt.tilt_deg) <= MAX_TILT_DEG]


def reconstruct(
    stack: TiltStack,
    tilts: Sequence[TiltUse],
    tilt_axis_deg: float,
    options: ReconOptions,
    outputs: Outputs,
    path: str,
    projections: tuple[str, str] | None,
    progress: Progress = _silent,
    scales: Sequence[float] | None = None,
    viewing: Viewing | None = None,
) -> Reconstructed:
    """Write a tomogram.

    Parameters
    ----------
    stack, tilts, progress
        As for `align_images`.
    tilt_axis_deg : float
        From the y axis, counter-clockwise.
    options : ReconOptions
        Method, depth (raw px), binning, contrast, orientation.
    outputs : Outputs
        Where files are kept until all are complete.
    path : str
        Of the tomogram.
    projections : (str, str), optional
        Files for its sums over z and over y.
    scales : sequence of float, optional
        Factors of the tilts' contrast, those of the whole series for a half of it; measured where not given.
    viewing : Viewing, optional
        The Wiener tomogram, from the same aligned images, or from those without gold.

    Returns
    -------
    Reconstructed

    Raises
    ------
    EngineError
        Where the volume would have no depth, no tilt is left, or the outputs cannot be written.
    """
    tilts = usable(tilts)
    depth = int(options.depth_px / options.binning) // 2 * 2
    ny, nx = aligned_size(stack.shape, tilt_axis_deg, options.binning)
    if depth < 2 or min(ny, nx) < 8:
        raise EngineError(
            f"-VolZ {options.depth_px} at -OutBin {options.binning:g} is a volume of {nx} x {ny} x {depth}: too small"
        )
    pixel = options.pixel_size_A * options.binning
    shape = (depth, ny, nx) if options.upright else (ny, depth, nx)
    writer = VolumeWriter(outputs, path, shape, pixel, LABEL, volume=True)
    with writer, _room((len(tilts), ny, nx), os.path.dirname(path)) as images:
        slab = Slab(np.array([t.tilt_deg for t in tilts]), nx, depth, options.method, options.threads)
        intensities = align_images(stack, tilts, options, images, progress)
        least = int(np.argmin([abs(t.tilt_deg) for t in tilts]))
        scales = contrast_scales(intensities, least) if scales is None else scales
        # a binned pixel is `binning` raw px of path: densities stay per raw px
        _scale(images, [scale / options.binning for scale in scales], options.flip_contrast)
        blocks = _blocks(slab, images, options, pixel, os.path.dirname(path))
        xy, xz = _write_blocks(slab, blocks, options.upright, writer, progress)
        if projections is not None:
            outputs.mrc(projections[0], xy, pixel, LABEL)
            outputs.mrc(projections[1], xz, pixel, LABEL)
        findings = None
        if viewing is not None:
            _take_gold_away(images, tilts, options, scales, viewing, progress)
            findings = _write_wiener(slab, images, tilts, options, outputs, viewing, progress)
    return Reconstructed((shape[2], shape[1], shape[0]), tuple(scales), findings)


def _blocks(slab: Slab, images: Floats, options: ReconOptions, pixel_A: float, folder: str) -> Iterator[tuple[int, Block]]:
    """Yield blocks of the tomogram, with the first z of each as in the file: in slabs of height where the CTF is corrected."""
    if options.contrast is None or not options.flip_phases:
        for block in slab.blocks(images, options.upright):
            yield 0, block
        return
    with _room((len(images), images.shape[1], images.shape[2]), folder) as flipped:
        for first, last in options.contrast.slabs(slab.depth):
            flip_phases(images, options.contrast, ((first + last) / 2 - slab.depth / 2) * pixel_A, flipped, options.threads)
            for block in slab.blocks(flipped, options.upright, (first, last)):
                yield (first if options.upright else slab.depth - last), block


def _take_gold_away(
    images: Floats, tilts: Sequence[TiltUse], options: ReconOptions, scales: Sequence[float], viewing: Viewing, progress: Progress
) -> None:
    """Put images without gold in the place of the aligned ones, where they show any."""
    from tomostream.engine.recon.taming import strong_points

    pixel_A = options.pixel_size_A * options.binning
    if viewing.without_gold is None or not strong_points(images, pixel_A, options.flip_contrast):
        return
    clean = viewing.without_gold()
    if clean is not None:
        align_images(clean, tilts, options, images, progress)
        _scale(images, [scale / options.binning for scale in scales], options.flip_contrast)


def _write_wiener(
    slab: Slab, images: Floats, tilts: Sequence[TiltUse], options: ReconOptions, outputs: Outputs, viewing: Viewing,
    progress: Progress,
) -> Findings:
    """Write the Wiener tomogram of aligned images."""
    from tomostream.engine.recon.spectrum import RINGS
    from tomostream.engine.recon.wiener import WienerSlab

    pixel, shape = options.pixel_size_A * options.binning, (images.shape[1], images.shape[2])
    weights = None
    doses = [tilt.pre_exposure for tilt in tilts]
    if all(dose is not None for dose in doses):
        own = dose_weights([dose or 0.0 for dose in doses], options.pixel_size_A, options.voltage_kV)
        frequencies = np.linspace(0, 0.5, RINGS) / options.binning
        weights = np.array([np.interp(frequencies, *weight) ** 2 for weight in own])
    work = WienerSlab(slab.tilts_deg, shape, slab.depth, pixel, options.contrast, viewing.thickness_A, weights, options.threads)
    size = (slab.depth, *shape) if options.upright else (shape[0], slab.depth, shape[1])
    writer = VolumeWriter(outputs, viewing.path, size, pixel, LABEL, volume=True)
    with writer, _room(work.room_shape, os.path.dirname(viewing.path)) as room:
        _write_blocks(slab, work.blocks(images, room, options.upright), options.upright, writer, progress, "Wiener tomogram")
    return work.findings


def _scale(images: Floats, scales: Sequence[float], flip: bool) -> None:
    """Multiply images in place by their factors, and by -1 to flip the contrast."""
    for image, scale in zip(images, scales, strict=True):
        image *= np.float32(-scale if flip else scale)


def _write_blocks(
    slab: Slab, blocks: Iterator[tuple[int, Block]], upright: bool, writer: VolumeWriter, progress: Progress,
    name: str = "tomogram",
) -> tuple[Floats, Floats]:
    """Write blocks, each with its first z, by `writer`. Returns the sums over z (ny, nx) and over y (depth, nx)."""
    ny = writer.shape[1] if upright else writer.shape[0]
    xy = np.zeros((ny, slab.nx), np.float64)
    xz = np.zeros((slab.depth, slab.nx), np.float64)
    for first, block in blocks:
        progress(name, block.y0 / ny)
        writer.write(block.data, *((first, block.y0) if upright else (block.y0, first)))
        writer.add_statistics(
            float(block.stats[:, 0].min()), float(block.stats[:, 1].max()), *map(float, block.stats[:, 2:].sum(axis=0))
        )
        xy[block.y0 : block.y1] += block.projection
        rows = block.data.sum(axis=1 if upright else 0)
        xz[first : first + len(rows)] += rows
    # both projections are of the x, z, y orientation, as AreTomo2's, whichever is written
    return xy.astype(np.float32), (xz[::-1] if upright else xz).astype(np.float32)
