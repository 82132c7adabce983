# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of a series for the page: central slices, a set of slices to scroll, the aligned tilt series as a film.

A film or a set of slices is one WebP file, an atlas of equal pictures row by row: two files a series instead of a hundred,
which network disks thank. Pictures are drawn with y upward, as IMOD shows them: row 0 of an MRC file is at the bottom.
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

#: Longest edge of a picture in the atlas of slices, of the film, of the central slices, in the gallery, in the table.
SLICE_EDGE, FILM_EDGE, CENTRAL_EDGE, CARD_EDGE, THUMB_EDGE = 420, 320, 900, 360, 96
#: Most pictures in an atlas.
MAX_SLICES, MAX_FRAMES = 35, 121
#: Of a volume that is deeper than this part of its width, the side views show the middle.
DEEPEST = 0.7
#: WebP holds no picture longer than this.
LONGEST = 16383
#: Of WebP. Tilt images and slices are noise for the most part, which nobody needs to see exactly.
QUALITY, FILM_QUALITY, SLICES_QUALITY = 72, 50, 50


@dataclass(frozen=True)
class Atlas:
    """Where the pictures of an atlas are: `count` of `width` x `height` px, `columns` in a row; `labels` one each."""

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
    """Write a WebP picture under another name, then rename it."""
    with whole(path) as part:
        Image.fromarray(np.ascontiguousarray(pixels)).save(part, "WEBP", quality=quality, method=2)


def save_atlas(images: Sequence[NDArray[np.uint8]], path: str, labels: Sequence[str], quality: int = QUALITY) -> Atlas:
    """Put equal pictures together, as near to a square as it gets, and write them."""
    height, width = images[0].shape
    columns = min(max(1, math.ceil(math.sqrt(len(images) * height / width))), LONGEST // width, len(images))
    rows = math.ceil(len(images) / columns)
    sheet = np.zeros((rows * height, columns * width), np.uint8)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        sheet[row * height:(row + 1) * height, column * width:(column + 1) * width] = image
    save(sheet, path, quality)
    return Atlas(os.path.basename(path), width, height, columns, len(images), tuple(labels))


# ---------------------------------------------------------------------------------------------------- tomogram
def z_first(facts: SeriesFacts, shape: tuple[int, ...]) -> bool:
    """Tell whether the sections of a volume are slices in z, where y can come first; judged by the shape where nobody told."""
    return shape[0] <= shape[1] if facts.z_first is None else facts.z_first


def read_views(path: str, facts: SeriesFacts) -> Views:
    """Return slices of a tomogram. The file is read once, section by section, and never held in memory.

    Central slices are means over a slab of 1/60 of the volume's width, slices over up to five neighbours (never beyond half
    the way to the next slice): single sections of a cryo-tomogram are mostly noise.

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
    """Return the size of a voxel in A, as the file says; None where it says none."""
    return read_header(path)[0].pixel_size_A or None


def mean_of(volume: Array, axis: int, slab: int) -> Array:
    """Return the mean of the middle `slab` slices along an axis of (z, y, x)."""
    first = (volume.shape[axis] - slab) // 2
    index: list[slice] = [slice(None)] * 3
    index[axis] = slice(first, first + slab)
    block: Array = np.asarray(volume[tuple(index)], dtype=np.float32).mean(axis=axis)
    return block


def spread(count: int, most: int) -> list[int]:
    """At most `most` whole numbers, evenly over the middle 94 % of `count`: the rims of a volume hold nothing."""
    rim = int(0.03 * count)
    return sorted(set(np.linspace(rim, count - 1 - rim, min(most, count - 2 * rim)).round().astype(int).tolist()))


def paint_tomogram(facts: SeriesFacts, folder: str) -> dict[str, Any]:
    """Write the pictures of a tomogram into `folder`; returns what the page has to know of them.

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
    """Write the slices of a tomogram that is shown beside its filtered one; see `paint_tomogram`."""
    return {"plain": _atlas_of(read_views(facts.tomogram or "", facts), os.path.join(folder, f"v{facts.version}-plain.webp"))}


def _atlas_of(views: Views, path: str) -> dict[str, Any]:
    """Write the set of slices, all in the greys of the middle one."""
    limits = grey_range(views.slices[len(views.slices) // 2])
    labels = [f"z {z + 1} of {views.shape[0]}" for z in views.sections]
    return save_atlas([to_bytes(image, limits) for image in views.slices], path, labels, SLICES_QUALITY).__dict__


# ---------------------------------------------------------------------------------------------------- tilt series
def aligned_picture(image: Array, rot_deg: float, tx: float, ty: float, edge: int = FILM_EDGE) -> Array:
    """Return a raw tilt image, moved and turned as the alignment says and made small; outside of it the mean.

    `raw = R(rot) aligned + (tx, ty)` from the image centre, R counter-clockwise, y upward (see `programs.aretomo`).
    """
    small = shrink(image, edge)
    factor = image.shape[1] / small.shape[1]
    swap = abs(math.sin(math.radians(rot_deg))) > 0.707
    out_height, out_width = (small.shape[1], small.shape[0]) if swap else small.shape
    c, s = math.cos(math.radians(rot_deg)), math.sin(math.radians(rot_deg))
    # Pillow takes the point (x, y) of the result (pixel centres at 0.5) to a point of the source
    x0 = small.shape[1] / 2 + tx / factor - c * out_width / 2 + s * out_height / 2
    y0 = small.shape[0] / 2 + ty / factor - s * out_width / 2 - c * out_height / 2
    picture = Image.fromarray(np.ascontiguousarray(small), mode="F")
    turned = picture.transform((out_width, out_height), Image.Transform.AFFINE, (c, -s, x0, s, c, y0),
                               Image.Resampling.BILINEAR, fillcolor=float(small.mean()))
    return np.asarray(turned, dtype=np.float32)


def paint_series(facts: SeriesFacts, folder: str) -> tuple[SeriesFacts, dict[str, Any]]:
    """Write the film of the tilt series, and measure the mean counts of every tilt on the way.

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
    """Return which tilts the film shows: all, or evenly chosen ones of a very long series."""
    return list(range(len(tilts))) if len(tilts) <= MAX_FRAMES else \
        sorted(set(np.linspace(0, len(tilts) - 1, MAX_FRAMES).round().astype(int).tolist()))
