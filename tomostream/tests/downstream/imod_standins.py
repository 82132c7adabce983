# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-ins for the programs of IMOD: files of the right kind, size and number, from what the command line says.

Installed under the name of each program; only what scipion-em-imod asks of them. Without tomostream.
"""

from __future__ import annotations

import os
import sys

import mrcfile
import numpy as np

PROGRAMS = ("newstack", "tiltxcorr", "xftoxg", "ctfplotter", "tilt", "trimvol", "etomo")


def options(words: list[str]) -> dict[str, str]:
    """Options, by their name in small letters, with their value."""
    found: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("-") and word[1:2].isalpha():
            name = word.lstrip("-").lower()
            found[name] = ""
        elif name:
            found[name] = word
    return found


def lines_of(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        return [line for line in file if line.strip()]


def write_mrc(path: str, data: np.ndarray) -> None:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(data.astype(np.float32))


def newstack(given: dict[str, str]) -> None:
    """Binned, without the excluded views (from 1), of the size that is asked for. Transforms are not applied."""
    stack = mrcfile.read(given["input"])
    left = {int(view) - 1 for view in given.get("exclude", "").split(",") if view}
    stack = stack[[view for view in range(len(stack)) if view not in left]]
    binning = int(float(given.get("bin", "1")))
    ny, nx = (length // binning for length in stack.shape[1:])
    binned = stack[:, :ny * binning, :nx * binning].reshape(len(stack), ny, binning, nx, binning).mean((2, 4))
    if "size" in given:
        nx, ny = map(int, given["size"].split(","))
        binned = np.resize(binned, (len(binned), ny, nx))
    write_mrc(given["output"], binned)


def tiltxcorr(given: dict[str, str]) -> None:
    """Transforms without a rotation, one a line of the angle file."""
    if len(lines_of(given["tiltfile"])) != len(mrcfile.read(given["input"])):
        sys.exit("ERROR: TILTXCORR - the angles are not as many as the views")
    with open(given["output"], "w", encoding="utf-8") as file:
        file.writelines("   1.0000000   0.0000000   0.0000000   1.0000000       0.000       0.000\n"
                        for _ in lines_of(given["tiltfile"]))


def xftoxg(given: dict[str, str]) -> None:
    with open(given["goutput"], "w", encoding="utf-8") as file:
        file.writelines(lines_of(given["input"]))


def ctfplotter(given: dict[str, str]) -> None:
    """The expected defocus for every view; fails without the optics, as the real one."""
    if not (float(given["voltage"]) > 0 and float(given["pixelsize"]) > 0 and float(given["sphericalaberration"]) > 0):
        sys.exit("ERROR: CTFPLOTTER - the optics are not known")
    with open(given["defocusfile"], "w", encoding="utf-8") as file:
        for view, line in enumerate(lines_of(given["anglefile"]), start=1):
            angle, end = float(line.split()[0]), "\t2" if view == 1 else ""
            file.write(f"{view}\t{view}\t{angle:.2f}\t{angle:.2f}\t{float(given['expecteddefocus']):.1f}{end}\n")


def tilt(given: dict[str, str]) -> None:
    """A volume with slices in y, after a look at whether there are as many angles as views."""
    stack = mrcfile.read(given["inputprojections"])
    if len(lines_of(given["tiltfile"])) != len(stack):
        sys.exit("ERROR: TILT - the angles are not as many as the views")
    write_mrc(given["outputfile"], np.zeros((stack.shape[1], int(given["thickness"]), stack.shape[2])))


def trimvol(words: list[str]) -> None:
    source, target = [word for word in words if not word.startswith("-")][-2:]
    write_mrc(target, np.swapaxes(mrcfile.read(source), 0, 1))


def install(home: str) -> None:
    """Make an IMOD_HOME of them: bin/ with executable files, and the script that sets IMOD's variables."""
    os.makedirs(os.path.join(home, "bin"), exist_ok=True)
    with open(os.path.join(home, "IMOD-linux.sh"), "w", encoding="utf-8") as file:
        file.write(f"export IMOD_DIR={home}\n")
    for name in PROGRAMS:
        path = os.path.join(home, "bin", name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\nexec {sys.executable} {os.path.abspath(__file__)} {name} \"$@\"\n")
        os.chmod(path, 0o755)


def main() -> None:
    name, words = sys.argv[1], sys.argv[2:]
    if name == "trimvol":
        trimvol(words)
    elif name != "etomo":
        {"newstack": newstack, "tiltxcorr": tiltxcorr, "xftoxg": xftoxg, "ctfplotter": ctfplotter, "tilt": tilt}[name](
            options(words))


if __name__ == "__main__":
    main()
