# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of a series for the page: central slices, slices to scroll through, the aligned tilt series as a film.

A film or set of slices is a single WebP file, an atlas of equal pictures row by row: two files per series instead of a hundred,
which is kind to network disks. Pictures are drawn with y upward, as in IMOD: row 0 of an MRC file is at the bottom.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tomostream.files.grey import Array, grey_range, shrink, to_bytes
from tomostream.files.mrc import open_mrc
from tomostream.files.mrc_header import read_header
from tomostream.files.writing import whole
from tomostream.journal.status import number
from tomostream.report.facts import SeriesFacts, TiltFacts

#: Longest edge of a picture in the atlas of slices, in the film, of the central slices, in the gallery, in the table.
SLICE_EDGE, FILM_EDGE, CENTRAL_EDGE, CARD_EDGE, THUMB_EDGE = 420, 320, 900, 360, 96
#: Maximum of pictures in an atlas of slices, and of tilts.
MAX_SLICES, MAX_FRAMES = 35, 121
#: The side views of a volume deeper than this share of its width show only its middle.
DEEPEST = 0.7
#: Longest edge of a WebP picture.
MAX_EDGE = 16383
#: WebP quality. Tilt images and slices are mostly noise, which nobody needs to see exactly.
QUALITY, FILM_QUALITY, SLICES_QUALITY = 72, 50, 50


@dataclass(frozen=True)
class Atlas:
    """The layout of an atlas: `count` pictures of `width` x `height` px, `columns` in a row, each with a label."""

    file: str
    width: int
    height: int
    columns: int
    count: int
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Views:
    """Central slices as arrays (row 0 at the bottom or left), and the set of slices; `sections` are their numbers in z."""

    xy: Array
    xz: Array
    yz: Array
    slices: list[Array]
    sections: list[int]
    shape: tuple[int, int, int]


# ---------------------------------------------------------------------------------------------------- arrays


def save(pixels: NDArray[np.uint8], path: str, quality: int = QUALITY) -> None:
    """Write a WebP picture, complete or not at all."""
    with whole(path) as part:
        Image.fromarray(np.ascontiguousarray(pixels)).save(part, "WEBP", quality=quality, method=2)


def save_atlas(images: Sequence[NDArray[np.uint8]], path: str, labels: Sequence[str], quality: int) -> Atlas:
    """Write pictures of equal size as one, as nearly square as possible."""
    height, width = images[0].shape
    columns = min(max(1, math.ceil(math.sqrt(len(images) * height / width))), MAX_EDGE // width, len(images))
    rows = math.ceil(len(images) / columns)
    sheet = np.zeros((rows * height, columns * width), np.uint8)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        sheet[row * height:(row + 1) * height, column * width:(column + 1) * width] = image
    save(sheet, path, quality)
    return Atlas(os.path.basename(path), width, height, columns, len(images), tuple(labels))


# ---------------------------------------------------------------------------------------------------- tomogram
def z_first(facts: SeriesFacts, shape: tuple[int, ...]) -> bool:
    """Tell whether the sections of a volume are slices in z rather than y; judged by its shape if unknown."""
    return shape[0] <= shape[1] if facts.z_first is None else facts.z_first


def read_views(path: str, facts: SeriesFacts) -> Views:
    """Return slices of a tomogram, which is never held in memory as a whole.

    Central slices are means over a slab of 1/60 of the volume's width, slices over up to five neighbours (at most half-way to the
    next slice): single sections of a cryo-tomogram are mostly noise.

    Raises
    ------
    OSError, ValueError : the file cannot be read or is not a volume.
    """
    with mrcfile.mmap(path, mode="r", permissive=True) as mrc:
        data = mrc.data
        if data is None or data.ndim != 3:
            raise ValueError(f"{os.path.basename(path)} is not a volume")
        volume = data if z_first(facts, data.shape) else data.swapaxes(0, 1)
        depth, height, width = volume.shape
        slab = max(1, round(min(width, height) / 60))
        sections = spread(depth, MAX_SLICES)
        half = min(2, depth // (2 * len(sections)))
        return Views(mean_of(volume, 0, slab), mean_of(volume, 1, slab), mean_of(volume, 2, slab).T,
                     [shrink(np.asarray(volume[max(0, z - half):z + half + 1], dtype=np.float32).mean(axis=0), SLICE_EDGE)
                      for z in sections], sections, (depth, height, width))


def voxel_size(path: str) -> float | None:
    """Return the voxel size in A from the header; None if it has none."""
    return read_header(path)[0].pixel_size_A or None


def mean_of(volume: Array, axis: int, slab: int) -> Array:
    """Return the mean of the middle `slab` slices along an axis of (z, y, x)."""
    first = (volume.shape[axis] - slab) // 2
    index: list[slice] = [slice(None)] * 3
    index[axis] = slice(first, first + slab)
    block: Array = np.asarray(volume[tuple(index)], dtype=np.float32).mean(axis=axis)
    return block


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` indices, evenly spread over the middle 94 % of `count`: the rims of a volume are empty."""
    rim = int(0.03 * count)
    return sorted(set(np.linspace(rim, count - 1 - rim, min(most, count - 2 * rim)).round().astype(int).tolist()))


def paint_tomogram(facts: SeriesFacts, folder: str) -> dict[str, Any]:
    """Write the pictures of a tomogram into `folder`; return their data for the page.

    Raises
    ------
    OSError, ValueError : the tomogram cannot be read, the pictures cannot be written.
    """
    views = read_views(facts.tomogram or "", facts)
    stem = os.path.join(folder, f"v{facts.version}")
    scale = min(1.0, CENTRAL_EDGE / max(views.xy.shape))
    depth, rim = views.shape[0], max(0, views.shape[0] - round(DEEPEST * min(views.xy.shape))) // 2
    views = replace(views, xz=views.xz[rim:depth - rim], yz=views.yz[:, rim:depth - rim])
    limits = grey_range(shrink(views.xy, SLICE_EDGE))
    made: dict[str, Any] = {"shape": views.shape, "scale": scale, "depth": depth - 2 * rim}
    for name in ("xy", "xz", "yz"):
        image = getattr(views, name)
        small = shrink(image, max(1, round(max(image.shape) * scale)))
        save(to_bytes(small, limits if name == "xy" else grey_range(small)), f"{stem}-{name}.webp", 80)
        made[name] = {"file": f"v{facts.version}-{name}.webp", "width": small.shape[1], "height": small.shape[0]}
    for name, edge in (("card", CARD_EDGE), ("thumb", THUMB_EDGE)):
        save(to_bytes(shrink(views.xy, edge), limits), f"{stem}-{name}.webp")
    made["thumb"] = f"v{facts.version}-thumb.webp"
    made["slices"] = _atlas_of(views, f"{stem}-slices.webp")
    return made


def paint_plain(facts: SeriesFacts, folder: str) -> dict[str, Any]:
    """Write the slices of a tomogram shown beside its filtered one; see `paint_tomogram`."""
    return {"plain": _atlas_of(read_views(facts.tomogram or "", facts), os.path.join(folder, f"v{facts.version}-plain.webp"))}


def _atlas_of(views: Views, path: str) -> dict[str, Any]:
    """Write the slices, all with the grey levels of the middle one."""
    limits = grey_range(views.slices[len(views.slices) // 2])
    labels = [f"z {z + 1} of {views.shape[0]}" for z in views.sections]
    return save_atlas([to_bytes(image, limits) for image in views.slices], path, labels, SLICES_QUALITY).__dict__


# ---------------------------------------------------------------------------------------------------- tilt series
def aligned_picture(image: Array, rot_deg: float, tx: float, ty: float, edge: int = FILM_EDGE) -> Array:
    """Return a raw tilt image shifted and rotated by its alignment and reduced in size; filled with the mean outside.

    `raw = R(rot) aligned + (tx, ty)` from the image centre, R counter-clockwise, y upward (see `programs.aretomo`).
    """
    small = shrink(image, edge)
    factor = image.shape[1] / small.shape[1]
    swap = abs(math.sin(math.radians(rot_deg))) > 0.707
    out_height, out_width = (small.shape[1], small.shape[0]) if swap else small.shape
    c, s = math.cos(math.radians(rot_deg)), math.sin(math.radians(rot_deg))
    # Pillow maps a point (x, y) of the result (pixel centres at 0.5) to a point of the source
    x0 = small.shape[1] / 2 + tx / factor - c * out_width / 2 + s * out_height / 2
    y0 = small.shape[0] / 2 + ty / factor - s * out_width / 2 - c * out_height / 2
    picture = Image.fromarray(np.ascontiguousarray(small), mode="F")
    turned = picture.transform((out_width, out_height), Image.Transform.AFFINE, (c, -s, x0, s, c, y0),
                               Image.Resampling.BILINEAR, fillcolor=float(small.mean()))
    return np.asarray(turned, dtype=np.float32)


def paint_series(facts: SeriesFacts, folder: str) -> tuple[SeriesFacts, dict[str, Any]]:
    """Write the film of the tilt series, and add the mean counts of every tilt to the facts.

    Raises
    ------
    OSError, ValueError : the stack cannot be read, the film cannot be written.
    """
    tilts, frames, labels = list(facts.tilts), [], []
    stack = open_mrc(facts.tilt_series or "")
    pixel_size = stack.pixel_size_A or None
    shown = set(spread_tilts(tilts))
    for place in sorted(range(len(tilts)), key=lambda place: tilts[place].angle_deg):
        section = tilts[place].section
        if section is None or section >= len(stack):
            continue
        image = np.asarray(stack.section(section), dtype=np.float32)
        tilts[place] = replace(tilts[place], mean_counts=number(float(image.mean())))
        if place in shown:
            frames.append(_frame(image, tilts[place], facts.tilt_axis_deg))
            labels.append(_label(tilts[place]))
    facts = replace(facts, tilts=tuple(tilts), pixel_size_A=pixel_size)
    if not frames:
        return facts, {}
    atlas = save_atlas(frames, os.path.join(folder, f"v{facts.version}-film.webp"), labels, FILM_QUALITY)
    return facts, {"film": atlas.__dict__}


def _frame(image: Array, tilt: TiltFacts, axis: float | None) -> NDArray[np.uint8]:
    rot = tilt.rot_deg if tilt.rot_deg is not None else axis or 0.0
    small = aligned_picture(image, rot, tilt.tx or 0.0, tilt.ty or 0.0)
    return to_bytes(small, grey_range(small, 1, 99))


def _label(tilt: TiltFacts) -> str:
    return f"{round(tilt.angle_deg, 1) + 0.0:.1f}°" + ("" if tilt.used else " – not used")


def spread_tilts(tilts: Sequence[TiltFacts]) -> list[int]:
    """Return the indices of the tilts in the film: all, or evenly spread ones of a very long series."""
    return list(range(len(tilts))) if len(tilts) <= MAX_FRAMES else \
        sorted(set(np.linspace(0, len(tilts) - 1, MAX_FRAMES).round().astype(int).tolist()))
