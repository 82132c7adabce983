# SPDX-License-Identifier: GPL-3.0-or-later
"""Tomograms as OME-Zarr, which napari, neuroglancer and ChimeraX open from a web share: a pyramid of chunks, coarse ones first.

The metadata follow OME-NGFF 0.4 (ngff.openmicroscopy.org/0.4): axes z, y, x in Ångström, each level half the previous one.
Arrays keep the order of the MRC file: y grows upward in the picture shown by IMOD.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomostream.files.mrc import open_mrc
from tomostream.handoff.facts import NotPossible, Series

#: Edge of a chunk in voxels, and longest edge of the coarsest level.
CHUNK, COARSE_EDGE = 64, 128
SUFFIX = ".ome.zarr"


def write(series: Series, folder: str, copy: bool = True) -> None:
    """Write the tomogram of a series as `<series>.ome.zarr`, always as a copy: there is nothing to link.

    Raises
    ------
    NotPossible : there is no tomogram, or the library is not installed.
    OSError : it cannot be written.
    """
    zarr = _library()
    volume = series.volume
    if volume is None:
        raise NotPossible("it has no tomogram")
    target = os.path.join(folder, series.name + SUFFIX)
    part = target + ".part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        group, levels = _group(zarr, part), _levels(volume.size[::-1])
        arrays = [_array(group, str(level), shape) for level, shape in enumerate(levels)]
        _fill(arrays, volume.path, volume.upright)
        group.attrs["multiscales"] = [_multiscales(series.name, series.pixel_size * volume.binning, len(levels))]
        group.attrs["ctf_corrected"] = volume.ctf_corrected
        remove(series.name, folder)
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove(name: str, folder: str) -> None:
    """Remove what was written for a series."""
    shutil.rmtree(os.path.join(folder, name + SUFFIX), ignore_errors=True)


def size_on_disk(series: Series) -> int:
    """Return the maximum size in bytes of the pyramid of a series, uncompressed."""
    return 0 if series.volume is None else sum(4 * z * y * x for z, y, x in _levels(series.volume.size[::-1]))


def _library() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise NotPossible("OME-Zarr needs the package zarr: pip install 'scipion-em-tomostream[zarr]'") from error
    return zarr


def _newer(zarr: Any) -> bool:
    return int(zarr.__version__.split(".")[0]) >= 3


def _group(zarr: Any, path: str) -> Any:
    """Return a new group in version 2 of the format, which all readers understand."""
    return zarr.open_group(path, mode="w", **({"zarr_format": 2} if _newer(zarr) else {}))


def _array(group: Any, name: str, shape: tuple[int, int, int]) -> Any:
    """Return a new array of chunks in nested folders, as required by OME-NGFF."""
    fields: dict[str, Any] = {"shape": shape, "chunks": tuple(min(CHUNK, length) for length in shape), "dtype": "float32"}
    if hasattr(group, "create_array"):
        return group.create_array(name, chunk_key_encoding={"name": "v2", "separator": "/"}, **fields)
    return group.create_dataset(name, dimension_separator="/", **fields)


def _levels(shape: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Return the shapes (z, y, x) of the pyramid, from the full size down."""
    z, y, x = shape
    levels = [(z, y, x)]
    while max(levels[-1]) > COARSE_EDGE:
        z, y, x = (max(1, length // 2) for length in levels[-1])
        levels.append((z, y, x))
    return levels


def _slabs(path: str, upright: bool, depth: int) -> Iterator[NDArray[np.float32]]:
    """Yield the sections of a volume as slabs of `depth` slices in z, one at a time in memory."""
    stack = open_mrc(path)
    if upright:
        for start in range(0, len(stack), depth):
            sections = range(start, min(start + depth, len(stack)))
            yield np.stack([np.asarray(stack.section(place), np.float32) for place in sections])
        return
    count = stack.section(0).shape[0]
    for start in range(0, count, depth):            # sections are slices in y: a slab of z is a band of rows of each
        rows = slice(start, min(start + depth, count))
        yield np.stack([np.asarray(stack.section(place)[rows], np.float32) for place in range(len(stack))], axis=1)


def _fill(arrays: list[Any], path: str, upright: bool) -> None:
    """Write all levels slab by slab; a slab holds whole voxels of every level."""
    depth = max(CHUNK, 2 ** (len(arrays) - 1))
    start = 0
    for slab in _slabs(path, upright, depth):
        for level, array in enumerate(arrays):
            first = start >> level
            slab = slab if level == 0 else _halved(slab, array.shape)
            rows = min(len(slab), array.shape[0] - first)
            if rows > 0:
                array[first:first + rows] = slab[:rows]
        start += depth


def _halved(slab: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the mean of cubes of two voxels a side; an axis that the level no longer halves (one voxel) is kept."""
    for axis in range(3):
        length = slab.shape[axis] // 2
        if length == 0:
            continue
        head = np.moveaxis(slab, axis, 0)[:2 * length]
        slab = np.moveaxis(head.reshape(length, 2, *head.shape[1:]).mean(axis=1, dtype=np.float32), 0, axis)
    return slab[:, :shape[1], :shape[2]]


def _multiscales(name: str, voxel_A: float, levels: int) -> dict[str, Any]:
    return {"version": "0.4", "name": name, "type": "mean",
            "axes": [{"name": axis, "type": "space", "unit": "angstrom"} for axis in "zyx"],
            "datasets": [{"path": str(level), "coordinateTransformations": [
                {"type": "scale", "scale": [voxel_A * 2 ** level] * 3},
                {"type": "translation", "translation": [voxel_A * (2 ** level - 1) / 2] * 3}]} for level in range(levels)]}
