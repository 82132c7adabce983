# SPDX-License-Identifier: GPL-3.0-or-later
"""From a stack and where its tilts go to files: the tomogram with its two projections, or the aligned stack.

Memory: the aligned images at the output's binning (beyond 2 GB, or half of what is free, in a temporary file beside it),
up to four raw images at a time, and about 250 MB of buffers; never the volume.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tomostream.engine.output import Outputs
from tomostream.engine.recon.aligned import aligned_size
from tomostream.engine.recon.contrast import flip_phases
from tomostream.engine.recon.images import align_images, contrast_scales, dose_weights, room_for, scale_images
from tomostream.engine.recon.options import LABEL, Floats, Progress, ReconOptions, TiltUse, silent
from tomostream.engine.recon.slab import MAX_TILT_DEG, Block, Slab
from tomostream.engine.recon.stack import TiltStack
from tomostream.engine.recon.volume import VolumeWriter
from tomostream.files.errors import EngineError

if TYPE_CHECKING:
    from tomostream.engine.recon.wiener import Findings


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
    progress: Progress = silent,
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
    with writer, room_for((len(tilts), ny, nx), os.path.dirname(path)) as images:
        slab = Slab(np.array([t.tilt_deg for t in tilts]), nx, depth, options.method, options.threads)
        intensities = align_images(stack, tilts, options, images, progress)
        least = int(np.argmin([abs(t.tilt_deg) for t in tilts]))
        scales = contrast_scales(intensities, least) if scales is None else scales
        # a binned pixel is `binning` raw px of path: densities stay per raw px
        scale_images(images, [scale / options.binning for scale in scales], options.flip_contrast)
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
    with room_for((len(images), images.shape[1], images.shape[2]), folder) as flipped:
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
        scale_images(images, [scale / options.binning for scale in scales], options.flip_contrast)


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
    with writer, room_for(work.room_shape, os.path.dirname(viewing.path)) as room:
        _write_blocks(slab, work.blocks(images, room, options.upright), options.upright, writer, progress, "Wiener tomogram")
    return work.findings


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
