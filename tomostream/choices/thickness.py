# SPDX-License-Identifier: GPL-3.0-or-later
"""How thick the specimen is, and how high a tomogram must be: measured in a quick reconstruction, with pictures to judge by.

As a program: `python -m tomostream.choices.thickness JOB.json FOLDER` makes the reconstruction of a `quick.Source`, writes the
measurements to FOLDER/thickness.json and the side views to FOLDER/views.npz, and prints lines of progress. Scipion's wizard runs
it this way so that its window does not freeze.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tomostream.engine import quick
from tomostream.programs.aln import AngleRow
from tomostream.programs.quality import Trust

RESULT, VIEWS = "thickness.json", "views.npz"
#: Room above and below the specimen in the tomogram, relative to the specimen's thickness.
ROOM = 0.1
Image = NDArray[np.float32]


@dataclass(frozen=True)
class Measured:
    """Top and bottom of the specimen in A from the middle of the volume (top is positive), and what is known of them.

    `thickness_A` is the alignment's own measurement (None unknown), `note` what it says of itself and `trust` whether it is to
    be trusted. `binning` pixels of the tilt series are one voxel.
    """

    pixel_size_A: float
    binning: int
    top_A: float
    bottom_A: float
    thickness_A: float | None
    note: str = ""
    trust: Trust = Trust.UNKNOWN


@dataclass(frozen=True)
class Heights:
    """For the form, in pixels of the tilt series: height of the tomogram, and thickness for the alignment."""

    tomogram: int
    alignment: int


def heights(top_A: float, bottom_A: float, pixel_size_A: float) -> Heights:
    """Return heights that hold a specimen from bottom to top with some room.

    The middle of the volume is fixed, so a specimen that is not centred needs more. The heights are even, as the programs make
    them. `pixel_size_A` is that of the tilt series.

    Raises
    ------
    ValueError : the top is not above the bottom.
    """
    thickness = top_A - bottom_A
    if not thickness > 0:
        raise ValueError("the upper line must be above the lower one")
    half = max(abs(top_A), abs(bottom_A)) + ROOM * thickness / 2
    return Heights(2 * math.ceil(half / pixel_size_A), 2 * math.ceil(thickness / pixel_size_A / 2))


def measure(volume: Image, pixel_size_A: float, thickness_A: float | None) -> tuple[float, float]:
    """Return (top, bottom) of the specimen in A from the middle of a volume (z, y, x).

    The specimen is where slices hold more structure than those far above and below. If the alignment gives the thickness, only
    the middle is taken from the volume.
    """
    depth = volume.shape[0]
    z = (np.arange(depth) - (depth - 1) / 2) * pixel_size_A
    share = structure(volume)
    inside = share > 0.5
    if not inside.any():
        half = (thickness_A or 0.5 * depth * pixel_size_A) / 2
        return half, -half
    marks, _ = ndimage.label(inside)
    largest = marks == np.bincount(marks.ravel())[1:].argmax() + 1
    top, bottom = float(z[largest].max()) + pixel_size_A / 2, float(z[largest].min()) - pixel_size_A / 2
    if thickness_A is not None and thickness_A > 0:
        middle = (top + bottom) / 2
        return middle + thickness_A / 2, middle - thickness_A / 2
    return top, bottom


def structure(volume: Image) -> NDArray[np.float64]:
    """Return how much structure each slice in z holds, from 0 for the outermost slices to 1 for the fullest."""
    depth, height, width = volume.shape
    rim_y, rim_x = height // 8, width // 8
    inner = volume[:, rim_y:height - rim_y, rim_x:width - rim_x]
    smooth = ndimage.gaussian_filter(inner, (1.0, 2.0, 2.0))
    variance = ndimage.gaussian_filter1d(smooth.var(axis=(1, 2), dtype=np.float64), max(1.0, depth / 100))
    edge = max(1, depth // 12)
    low = float(np.median(np.concatenate([variance[:edge], variance[-edge:]])))
    high = float(np.percentile(variance, 95))
    if not high > low:
        return np.zeros(depth)
    share: NDArray[np.float64] = np.clip((variance - low) / (high - low), 0.0, 1.0)
    return share


def side_views(volume: Image) -> tuple[Image, Image]:
    """Return XZ and YZ views (row 0 is the lowest z), averaged over the middle eighth to reduce noise."""
    _, height, width = volume.shape
    slab_y, slab_x = max(1, height // 16), max(1, width // 16)
    xz = volume[:, height // 2 - slab_y:height // 2 + slab_y].mean(axis=1, dtype=np.float32)
    yz = volume[:, :, width // 2 - slab_x:width // 2 + slab_x].mean(axis=2, dtype=np.float32)
    return xz, yz


def seen(plain: Image, filtered: Image, strength: NDArray[np.float64]) -> Image:
    """Return a side view of the filtered volume, filled in with the plain one above and below where it is empty. (What the filter
    takes for empty must be seen, or nobody could tell that it is wrong.) `strength`: standard deviation of each z."""
    level = float(np.median(strength[strength > 0])) if (strength > 0).any() else 0.0
    missing = 1 - np.clip(strength / (0.3 * level), 0, 1) if level else np.ones(len(strength))
    inside = missing == 0
    scale = filtered[inside].std() / max(float(plain[inside].std()), 1e-30) if inside.any() else 1.0
    return np.asarray(filtered + missing[:, None] * scale * (plain - plain.mean()), np.float32)


def words(measured: Measured, top_A: float, bottom_A: float, pixel_size_A: float) -> str:
    """Return what lines at these heights mean, in a sentence, and what speaks against the alignment, in another."""
    found = heights(top_A, bottom_A, pixel_size_A)
    middle = (top_A + bottom_A) / 20
    place = "in the middle" if abs(middle) < 3 else f"{abs(middle):.0f} nm {'above' if middle > 0 else 'below'} the middle"
    known = "" if measured.thickness_A is None else f" (the alignment measured {measured.thickness_A / 10:.0f} nm)"
    against = f" The alignment: {measured.note}." if measured.note and measured.trust is not Trust.TRUSTED else ""
    return (f"Specimen {(top_A - bottom_A) / 10:.0f} nm thick{known}, {place}: thickness for alignment {found.alignment}, "
            f"tomogram thickness {found.tomogram} unbinned voxels of {pixel_size_A:g} A.{against}")


def write_job(path: str, source: quick.Source) -> None:
    """Write the job of the program."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(asdict(source), file)


def read_job(path: str) -> quick.Source:
    """Return what `write_job` wrote."""
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    data["rows"] = tuple(AngleRow(**row) for row in data["rows"])
    data["sections"] = tuple(data["sections"])
    return quick.Source(**data)


def read_result(folder: str) -> tuple[Measured, tuple[Image, Image]]:
    """Return what the program measured, and the side views.

    Raises
    ------
    quick.NotDone : it wrote nothing.
    """
    try:
        with open(os.path.join(folder, RESULT), encoding="utf-8") as file:
            measured = Measured(**json.load(file))
        measured = replace(measured, trust=Trust(measured.trust))
        with np.load(os.path.join(folder, VIEWS)) as views:
            return measured, (views["xz"], views["yz"])
    except (OSError, ValueError, TypeError) as error:
        raise quick.NotDone("The quick reconstruction wrote no result.") from error


def main(arguments: Sequence[str]) -> int:
    """Run the program; return its exit status."""
    job, folder = arguments
    source = read_job(job)
    try:
        made = quick.reconstruct(source, folder, lambda line: print(line, flush=True))
    except quick.NotDone as problem:
        print(problem, file=sys.stderr)
        return 1
    volume = quick.read_volume(made.volume)
    filtered = quick.read_volume(made.filtered)
    strength = np.array([section.std(dtype=np.float64) for section in filtered])
    xz, yz = (seen(*views, strength) for views in zip(side_views(volume), side_views(filtered), strict=True))
    np.savez(os.path.join(folder, VIEWS), xz=xz, yz=yz)
    top, bottom = measure(volume, made.pixel_size_A, made.quality.thickness_A)
    measured = Measured(made.pixel_size_A, made.binning, top, bottom, made.quality.thickness_A,
                        made.quality.quality_note, made.quality.trust)
    with open(os.path.join(folder, RESULT), "w", encoding="utf-8") as file:
        json.dump(asdict(measured), file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
