# SPDX-License-Identifier: GPL-3.0-or-later
"""Where IMOD, RELION 5 and Warp see a point of a tomogram, from the files that they read: written from their own sources and
nothing of ours, to check what we hand on.

Each function gives for a series a list of (image, where), one a tilt: `where(X, Y, Z)`, offsets from the middle of the volume
in px of the tilt series, gives places in the image in px from its middle, (x, y). The middle is that of the pixels, (n - 1) / 2.

IMOD: flib/tilt/tilt.f90 (sinBeta = -sin, slices seen from -Y) and `clip rotx`; the .xf as in the manual of xfmodel.
RELION 5: src/jaz/tomography/tomogram.cpp, Tomogram::setProjectionMatrix. (Its middle is n // 2: half a pixel, not modelled.)
Warp: WarpLib/TiltSeries/TiltSeries.cs (GetPositionInAllTilts), TiltSeries.ImportAlignments.cs, Tools/Matrix3.cs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import mrcfile
import numpy as np
import starfile

Where = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
Views = list[tuple[np.ndarray, Where]]


def as_table(table):
    """starfile gives a block of one row as a Series or a dict."""
    import pandas

    return table if isinstance(table, pandas.DataFrame) else pandas.DataFrame([dict(table)])


# ---------------------------------------------------------------------------------------------------- IMOD
def imod_views(folder: str) -> Views:
    """From the files that newst.com and tilt.com name."""
    newst, tilt = (open(os.path.join(folder, name), encoding="utf-8").read() for name in ("newst.com", "tilt.com"))
    stack = mrcfile.read(os.path.join(folder, re.search(r"^InputFile\s+(\S+)", newst, re.M)[1]))
    xf = np.loadtxt(os.path.join(folder, re.search(r"^TransformFile\s+(\S+)", newst, re.M)[1]), ndmin=2)
    angles = np.loadtxt(os.path.join(folder, re.search(r"^TILTFILE\s+(\S+)", tilt, re.M)[1]), ndmin=1)
    if not len(stack) == len(xf) == len(angles):
        raise AssertionError(f"{len(stack)} views, {len(xf)} transforms and {len(angles)} angles")

    def place(row: np.ndarray, angle: float) -> Where:
        matrix = np.linalg.inv(row[:4].reshape(2, 2))

        def where(x, y, z):
            line = -z                                   # clip rotx turns the slices' second axis into -z
            sine = -np.sin(np.radians(angle))
            aligned = np.stack([x * np.cos(np.radians(angle)) + line * sine - row[4], y - row[5]])
            return tuple(np.tensordot(matrix, aligned, axes=1))
        return where
    return [(image, place(row, angle)) for image, row, angle in zip(stack, xf, angles, strict=True)]


# ---------------------------------------------------------------------------------------------------- RELION 5
def relion_tomograms(path: str):
    """The table of tomograms of a STAR file."""
    return as_table(starfile.read(path, always_dict=True)["global"])


def relion_views(project: str, name: str, tomograms: str = "tomograms.star") -> Views:
    """From the table of tomograms and the one of tilts that it names; paths are from the project."""
    every = relion_tomograms(os.path.join(project, tomograms))
    tomogram = every[every["rlnTomoName"] == name].iloc[0]
    tilts = as_table(starfile.read(os.path.join(project, tomogram["rlnTomoTiltSeriesStarFile"]), always_dict=True)[name])

    def turn(axis: int, degrees: float) -> np.ndarray:
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return np.array([[[1, 0, 0], [0, c, -s], [0, s, c]], [[c, 0, s], [0, 1, 0], [-s, 0, c]],
                         [[c, -s, 0], [s, c, 0], [0, 0, 1]]][axis])

    views = []
    for _, row in tilts.iterrows():
        matrix = turn(2, row["rlnTomoZRot"]) @ turn(1, row["rlnTomoYTilt"]) @ turn(0, row["rlnTomoXTilt"])
        shift = np.array([row["rlnTomoXShiftAngst"], row["rlnTomoYShiftAngst"]]) / tomogram["rlnTomoTiltSeriesPixelSize"]

        def where(x, y, z, matrix=matrix, shift=shift):
            return tuple(matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] * z + shift[i] for i in (0, 1))
        views.append((relion_image(project, row["rlnMicrographName"]), where))
    return views


def relion_image(project: str, name: str) -> np.ndarray:
    """An image as RELION names it: a path, or section@path."""
    section, at, path = name.removesuffix(":mrcs").partition("@")
    image = mrcfile.read(os.path.join(project, path if at else name))
    return image[int(section) - 1] if at else np.squeeze(image)


def relion_defocus(tilts, tomogram, index: int, x: float, z: float) -> float:
    """Defocus in A of a point of the tomogram in one tilt: Tomogram::getCtf, with Tomogram::getDepthOffset. Offsets in A."""
    row = tilts.iloc[index]
    angle = np.radians(row["rlnTomoYTilt"])
    depth = -x * np.sin(angle) + z * np.cos(angle)
    return 0.5 * (row["rlnDefocusU"] + row["rlnDefocusV"]) + tomogram["rlnTomoHand"] * depth


# ---------------------------------------------------------------------------------------------------- Warp
def warp_euler(rot: float, tilt: float, psi: float) -> np.ndarray:
    """Matrix3.Euler, radians."""
    ca, cb, cg, sa, sb, sg = np.cos(rot), np.cos(tilt), np.cos(psi), np.sin(rot), np.sin(tilt), np.sin(psi)
    return np.array([[cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
                     [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb], [sb * ca, sb * sa, cb]])


def warp_views(folder: str, name: str, pixel_size: float) -> Views:
    """From the files of a hand-off."""
    return warp_views_of(os.path.join(folder, "tomostar", f"{name}.tomostar"), os.path.join(folder, "alignments", name),
                         pixel_size, pixel_size)


def warp_views_of(tomostar: str, alignments: str, pixel_size: float, alignment_angpix: float) -> Views:
    """From the .tomostar, after ts_import_alignments; averages where Warp looks for them."""
    name = os.path.splitext(os.path.basename(tomostar))[0]
    table = as_table(starfile.read(tomostar))
    angles = table["wrpAngleTilt"].to_numpy(float).copy()
    cut_path = os.path.join(alignments, f"{name}_cutviews0.rawtlt")
    cut = np.loadtxt(cut_path, ndmin=1) if os.path.exists(cut_path) else np.array([])
    used = [not any(abs(angle - other) < 0.2 for other in cut) for angle in angles]
    xf = np.loadtxt(os.path.join(alignments, f"{name}.xf"), ndmin=2)
    tlt = np.loadtxt(os.path.join(alignments, f"{name}.tlt"), ndmin=1)
    if not sum(used) == len(xf) == len(tlt):
        raise AssertionError(f"{sum(used)} active tilts in series, but {len(xf)} lines in .xf")
    views = []
    for place, line in zip(np.flatnonzero(used), range(len(xf)), strict=True):
        a11, a12, a21, a22, dx, dy = xf[line]
        axis = np.arctan2(-a21, a11)                    # EulerFromMatrix of a rotation around z
        offset = np.array([[a11, a12], [a21, a22]]).T @ (-dx, -dy) * alignment_angpix
        matrix = warp_euler(0.0, np.radians(tlt[line]), -axis)
        movie = os.path.join(os.path.dirname(tomostar), table["wrpMovieName"].iloc[place])
        average = os.path.join(os.path.dirname(movie), "average", os.path.splitext(os.path.basename(movie))[0] + ".mrc")

        def where(x, y, z, matrix=matrix, offset=offset):
            return tuple(matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] * z + offset[i] / pixel_size for i in (0, 1))
        views.append((np.squeeze(mrcfile.read(os.path.normpath(average))), where))
    return views


def warp_defocus(warp_angle: float, flipped: bool, x: float, z: float) -> float:
    """What Warp adds to the defocus in the middle, in A: the z of GetPositionInAllTilts. Offsets in A."""
    angle = np.radians(warp_angle)
    return -x * np.sin(angle) - z * np.cos(angle) if flipped else x * np.sin(angle) + z * np.cos(angle)


def warp_wants_flip(warp_angles: np.ndarray, gradients: np.ndarray) -> bool:
    """What `ts_defocus_hand --check` says (WarpTools, DefocusHandTiltseries.cs): flip where the defocus that was measured from
    the left to the right end of the volume goes against Warp's z without a flip. `gradients`: right minus left, one a tilt."""
    assumed = np.array([warp_defocus(angle, False, 1.0, 0.0) for angle in warp_angles])
    return float(np.corrcoef(assumed, gradients)[0, 1]) < 0


# ---------------------------------------------------------------------------------------------------- back-projection
def back_project(views: Views, shape: tuple[int, int, int], binning: float) -> np.ndarray:
    """Weighted back-projection onto a volume of `shape` (z, y, x), voxels of `binning` px."""
    from scipy.ndimage import map_coordinates

    z, y, x = ((grid - (length - 1) / 2) * binning for grid, length in zip(np.indices(shape, float), shape, strict=True))
    volume = np.zeros(shape)
    for image, where in views:
        px, py = where(x, y, z)
        zero = np.array(0.0)
        across = np.subtract(where(zero + 1, zero, zero), where(zero, zero, zero))
        across = across / np.hypot(*across)
        ky, kx = np.fft.fftfreq(image.shape[0])[:, None], np.fft.fftfreq(image.shape[1])[None]
        k = np.hypot(kx, ky)
        weight = np.abs(kx * across[0] + ky * across[1]) * (k < 0.5 / binning)
        filtered = np.fft.ifft2(np.fft.fft2(image - image.mean()) * weight).real
        rows, columns = image.shape
        volume += map_coordinates(filtered, [py + (rows - 1) / 2, px + (columns - 1) / 2], order=1)
    return volume


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two volumes, away from their edges."""
    inner = tuple(slice(length // 8, length - length // 8) for length in one.shape)
    return float(np.corrcoef(one[inner].ravel(), other[inner].ravel())[0, 1])


#: In cycles a voxel: between these frequencies volumes are compared. Below, a slab and its illumination are like their own mirror
#: images; beyond, a real tomogram is noise, of which each way of reconstruction makes another.
BAND = (0.06, 0.25)


def compared(theirs: np.ndarray, ours: np.ndarray) -> tuple[float, float]:
    """Correlation of a volume with ours, and the largest one with a mirror image of ours; in `BAND`, and with the power of ours
    at each frequency, which depends on how a volume was reconstructed."""
    k = np.sqrt(sum(np.square(axis) for axis in np.meshgrid(*map(np.fft.fftfreq, ours.shape), indexing="ij", sparse=True)))
    shell = np.minimum((k * 2 * max(ours.shape)).astype(int), max(ours.shape))
    here, there = (np.fft.fftn(volume - volume.mean()) for volume in (theirs, ours))
    power = [np.bincount(shell.ravel(), np.abs(transform.ravel()) ** 2) + 1e-12 for transform in (here, there)]
    band = np.exp(-0.5 * (k / BAND[1]) ** 2) * (1 - np.exp(-0.5 * (k / BAND[0]) ** 2))
    theirs, ours = np.fft.ifftn(here * np.sqrt(power[1] / power[0])[shell] * band).real, np.fft.ifftn(there * band).real
    return likeness(ours, theirs), max(likeness(each, theirs) for each in (ours[:, :, ::-1], ours[:, ::-1], ours[::-1]))
