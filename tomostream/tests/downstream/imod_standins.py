# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-ins for the programs of IMOD: files of the right kind, size and number, from what the command line says.

Installed under the name of each program; only what scipion-em-imod asks of them. What moves images is done as IMOD's manual
says (`newstack`, `tilt`, `trimvol`), so that a tomogram can be compared; what would measure gives values that are known
beforehand (`shift_of`, `refined`), so that they can be looked for in the outputs. Each refuses what the real one would.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable

import mrcfile
import numpy as np

#: Shift of a view against its neighbours that `tiltxcorr` finds, px; the transform that `tiltalign` adds to the rotation.
SHIFT, FINE = (0.75, -0.5), (1.5, -2.25)
#: What `tiltalign` adds to all tilt angles, degrees.
OFFSET = 0.5


def options(words: list[str]) -> dict[str, str]:
    """Options, by their name in small letters, with their value."""
    found: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("-") and word.lstrip("-")[:1].isalpha():
            name = word.lstrip("-").lower()
            found[name] = ""
        elif name:
            found[name] = word
    return found


def lines_of(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        return [line for line in file if line.strip()]


def write_lines(path: str, lines: list[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))


def write_mrc(path: str, data: np.ndarray) -> None:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(data.astype(np.float32))


def refuse(program: str, why: str) -> None:
    sys.exit(f"ERROR: {program.upper()} - {why}")


def same_count(program: str, **counts: int) -> None:
    if len(set(counts.values())) > 1:
        refuse(program, ", ".join(f"{count} {name}" for name, count in counts.items()))


# ------------------------------------------------------------------------------------------------------ images
def shift_of(view: int, views: int) -> tuple[float, float]:
    """Transform of a view (from 0) that `tiltxcorr` and `xftoxg` lead to, px."""
    return SHIFT[0] * (view - views // 2), SHIFT[1] * (view - views // 2)


def newstack(given: dict[str, str]) -> None:
    """Binned, transformed, without the excluded views (from 1), of the size that is asked for."""
    stack = mrcfile.read(given["input"])
    left = {int(view) - 1 for view in given.get("exclude", "").split(",") if view}
    rows = np.loadtxt(given["xform"], ndmin=2) if "xform" in given else None
    if rows is not None:
        same_count("newstack", sections=len(stack), transforms=len(rows))
    kept = [view for view in range(len(stack)) if view not in left]
    binning = int(float(given.get("bin", "1")))
    images = [binned(stack[view], binning) for view in kept]
    shape = tuple(map(int, given["size"].split(",")))[::-1] if "size" in given else images[0].shape
    if rows is not None:
        images = [transformed(image, rows[view], shape, binning) for image, view in zip(images, kept, strict=True)]
    write_mrc(given["output"], np.stack(images))


def binned(image: np.ndarray, binning: int) -> np.ndarray:
    ny, nx = (length // binning for length in image.shape)
    return image[:ny * binning, :nx * binning].reshape(ny, binning, nx, binning).mean((1, 3))


def transformed(image: np.ndarray, row: np.ndarray, shape: tuple[int, ...], binning: int) -> np.ndarray:
    """An image after a line of an .xf file: X' = A (X - Xc) + D + X'c."""
    from scipy.ndimage import affine_transform

    inverse = np.linalg.inv(row[:4].reshape(2, 2))[::-1, ::-1]          # (y, x)
    middle, target = ((np.array(size) - 1) / 2 for size in (image.shape, shape))
    offset = middle - inverse @ (target + row[[5, 4]] / binning)
    return affine_transform(image.astype(float), inverse, offset, shape, order=1, mode="nearest")


def tilt(given: dict[str, str]) -> None:
    """A volume with slices in y, by weighted back-projection; refuses another number of angles than of views."""
    stack, angles = mrcfile.read(given["inputprojections"]), np.loadtxt(given["tiltfile"], ndmin=1)
    same_count("tilt", views=len(stack), angles=len(angles))
    write_mrc(given["outputfile"], slices(stack, angles, int(given["thickness"])))


def slices(stack: np.ndarray, angles: np.ndarray, thickness: int) -> np.ndarray:
    """(y, thickness, x) of aligned views with their axis along y, as IMOD's tilt has them: the second axis turns into -z."""
    ny, nx = stack.shape[1:]
    x, line = np.arange(nx) - (nx - 1) / 2, (np.arange(thickness) - (thickness - 1) / 2)[:, None]
    ramp = np.abs(np.fft.fftfreq(nx))
    volume = np.zeros((ny, thickness, nx), np.float32)
    for image, angle in zip(stack, np.radians(angles), strict=True):
        filtered = np.fft.ifft(np.fft.fft(image - image.mean(), axis=1) * ramp, axis=1).real
        place = x * np.cos(angle) - line * np.sin(angle) + (nx - 1) / 2
        left = np.floor(place).astype(int)
        share, inside = place - left, (left >= 0) & (left < nx - 1)
        left = np.clip(left, 0, nx - 2)
        volume += (inside * ((1 - share) * filtered[:, left] + share * filtered[:, left + 1])).astype(np.float32)
    return volume


def trimvol(words: list[str]) -> None:
    """`-rx`: slices in z, y along the second axis."""
    source, target = [word for word in words if not word.startswith("-")][-2:]
    if "-rx" not in words:
        refuse("trimvol", "only -rx is known here")
    write_mrc(target, np.swapaxes(mrcfile.read(source), 0, 1)[::-1])


# ------------------------------------------------------------------------------------------------------ alignment
def tiltxcorr(given: dict[str, str]) -> None:
    """Known shifts, one a line of the angle file; with patches a model instead."""
    views = len(lines_of(given["tiltfile"]))
    same_count("tiltxcorr", views=len(mrcfile.read(given.get("input") or given["inputfile"])), angles=views)
    float(given["rotationangle"])
    if "sizeofpatchesxandy" in given:
        if os.path.exists(given.get("prealignmenttransformfile", "")):
            same_count("tiltxcorr", views=views, transforms=len(lines_of(given["prealignmenttransformfile"])))
        write_model(given["outputfile"], views)
        return
    write_lines(given["output"], [format_xf(1, 0, 0, 1, *shift_of(view, views)) for view in range(views)])


def format_xf(*values: float) -> str:
    return "{:12.7f}{:12.7f}{:12.7f}{:12.7f}{:12.3f}{:12.3f}".format(*values)


def xftoxg(given: dict[str, str]) -> None:
    shutil.copyfile(given["input"], given["goutput"])


def write_model(path: str, views: int) -> None:
    """Three points through all views, as text that only these stand-ins read: object, contour, x, y, view."""
    write_lines(path, [f"1 {contour} {20 + 10 * contour} {30 + 5 * contour} {view}"
                       for contour in (1, 2, 3) for view in range(views)])


def autofidseed(given: dict[str, str]) -> None:
    """Reads the command file of beadtrack, as the real one does."""
    track = dict(line.split(None, 1) for line in lines_of(given["trackcommandfile"]) if len(line.split(None, 1)) == 2)
    if not (float(track["PixelSize"]) > 0 and float(track["BeadDiameter"]) > 0):
        refuse("autofidseed", "neither pixel size nor bead")
    write_model(track["InputSeedModel"].strip(), 1)


def beadtrack(given: dict[str, str]) -> None:
    views = len(lines_of(given["tiltfile"]))
    same_count("beadtrack", views=len(mrcfile.read(given["imagefile"])), angles=views)
    lines_of(given["inputseedmodel"])
    float(given["rotationangle"])
    write_model(given["outputmodel"], views)


def model2point(given: dict[str, str]) -> None:
    first = 0 if "objectandcontour" in given else 2
    write_lines(given["outputfile"], [" ".join(line.split()[first:]) for line in lines_of(given["inputfile"])])


def tiltalign(given: dict[str, str]) -> None:
    """The rotation that is given, a known shift, a known offset of the angles."""
    angles = [float(line.split()[0]) for line in lines_of(given["tiltfile"])]
    points = [line.split() for line in lines_of(given["modelfile"])]
    same_count("tiltalign", views=len(mrcfile.read(given["imagefile"])), angles=len(angles),
               tracked=1 + max(int(point[4]) for point in points))
    c, s = np.cos(np.radians(float(given["rotationangle"]))), np.sin(np.radians(float(given["rotationangle"])))
    write_lines(given["outputtransformfile"], [format_xf(c, s, -s, c, *FINE)] * len(angles))
    write_lines(given["outputtiltfile"], [f"{angle + OFFSET:.2f}" for angle in angles])
    write_lines(given["outputxaxistiltfile"], ["0.0"] * len(angles))
    write_lines(given["outputresidualfile"], [f"{len(points)} residuals"] + [f"{' '.join(p[2:])} 0.1 -0.1" for p in points])
    write_lines(given["outputfidxyzfile"], [f"{contour} 10.0 10.0 0.0 1 {contour}" for contour in (1, 2, 3)])
    for name in ("outputmodelfile", "outputfilledinmodel"):
        shutil.copyfile(given["modelfile"], given[name])


# ------------------------------------------------------------------------------------------------------ CTF and dose
def ctfplotter(given: dict[str, str]) -> None:
    """The expected defocus for every view; fails without the optics, as the real one."""
    if not (float(given["voltage"]) > 0 and float(given["pixelsize"]) > 0 and float(given["sphericalaberration"]) > 0):
        refuse("ctfplotter", "the optics are not known")
    float(given["axisangle"])
    left = {int(view) for view in given.get("viewstoskip", "").split(",") if view}
    lines = []
    for view, line in enumerate(lines_of(given["anglefile"]), start=1):
        if view not in left:
            angle, end = float(line.split()[0]), "" if lines else "\t2"
            lines.append(f"{view}\t{view}\t{angle:.2f}\t{angle:.2f}\t{float(given['expecteddefocus']):.1f}{end}")
    write_lines(given["defocusfile"], lines)


def ctfphaseflip(given: dict[str, str]) -> None:
    """The stack as it is, after a look at whether angles, transforms and defocus are for its views."""
    stack = mrcfile.read(given["inputstack"])
    counts = {"views": len(stack), "angles": len(lines_of(given["anglefile"]))}
    if "transformfile" in given:
        counts["transforms"] = len(lines_of(given["transformfile"]))
    same_count("ctfphaseflip", **counts)
    last = max(int(line.split()[1]) for line in lines_of(given["defocusfile"]))
    if last > len(stack) or not (float(given["pixelsize"]) > 0 and float(given["voltage"]) > 0):
        refuse("ctfphaseflip", f"a defocus for view {last} of {len(stack)}, or no optics")
    write_mrc(given["outputfilename"], stack)


def mtffilter(given: dict[str, str]) -> None:
    """The stack as it is; refuses doses that are not one a section, or are none."""
    stack, doses = mrcfile.read(given["input"]), np.loadtxt(given["doseweightingfile"], ndmin=2)
    same_count("mtffilter", sections=len(stack), doses=len(doses))
    if not (np.isfinite(doses).all() and (doses[:, 0] >= 0).all() and (doses[:, 1] > 0).all()):
        refuse("mtffilter", f"doses make no sense: {doses.tolist()}")
    write_mrc(given["output"], stack)


def imodchopconts(given: dict[str, str]) -> None:
    shutil.copyfile(given["inputmodel"], given["outputmodel"])


def nothing(_: dict[str, str]) -> None:
    """A program of which only its end is waited for."""


PROGRAMS: dict[str, Callable[[dict[str, str]], None]] = {
    "newstack": newstack, "tilt": tilt, "tiltxcorr": tiltxcorr, "xftoxg": xftoxg, "autofidseed": autofidseed,
    "beadtrack": beadtrack, "imodchopconts": imodchopconts, "model2point": model2point,
    "tiltalign": tiltalign, "alignlog": nothing, "ctfplotter": ctfplotter, "ctfphaseflip": ctfphaseflip,
    "mtffilter": mtffilter, "etomo": nothing}


def main(name: str, words: list[str]) -> None:
    if name == "trimvol":
        trimvol(words)
    else:
        PROGRAMS[name](options(words))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
