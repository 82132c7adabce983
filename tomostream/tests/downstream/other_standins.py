# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-ins for the programs of CTFFIND, EMAN2, cryoCARE and tomo3d, as `imod_standins`."""

from __future__ import annotations

import json
import os
import sys

import mrcfile
import numpy as np

from tomostream.tests.downstream import imod_standins
from tomostream.tests.downstream.imod_standins import options, refuse, write_lines, write_mrc

DEFOCUS_A = 31000.0


def ctffind() -> None:
    """A table beside the spectra, from the answers on the standard input."""
    answers = [line.strip() for line in sys.stdin]
    stack, spectra, (pixel, voltage, cs) = answers[0], answers[2], map(float, answers[3:6])
    if not (pixel > 0 and voltage > 0 and cs > 0):
        refuse("ctffind", "the optics are not known")
    images = len(mrcfile.read(stack))
    base = os.path.splitext(spectra)[0]
    write_mrc(spectra, np.zeros((images, 8, 8)))
    write_lines(f"{base}.txt", ["# Columns: number, defocus 1, defocus 2, azimuth, phase shift, score, resolution"] + [
        f"{image}.0 {DEFOCUS_A + 500:.2f} {DEFOCUS_A - 500:.2f} 10.0 0.0 0.15 8.0" for image in range(1, images + 1)])
    write_lines(f"{base}_avrot.txt", ["# rotational averages"] + ["0.1 0.2 0.26 0.4"] * 6 * images)


# ------------------------------------------------------------------------------------------------------ tomo3d
def tomo3d(words: list[str]) -> None:
    """Slices in y of an aligned stack, thickness from -z."""
    given = options(words)
    stack, angles = mrcfile.read(given["i"]), np.loadtxt(given["a"], ndmin=1)
    imod_standins.same_count("tomo3d", views=len(stack), angles=len(angles))
    write_mrc(given["o"], imod_standins.slices(stack, angles, int(given["z"])))


def tomoeed(words: list[str]) -> None:
    write_mrc(words[1], mrcfile.read(words[0]))


# ------------------------------------------------------------------------------------------------------ EMAN2
def e2proc3d(words: list[str]) -> None:
    """MRC to EMAN's HDF5, or back."""
    import h5py

    source, target = words[:2]
    if target.endswith(".hdf"):
        with h5py.File(target, "w") as file:
            group = file.create_group("MDF/images/0")
            group["image"] = mrcfile.read(source)
            group.attrs["EMAN.apix_x"] = float(options(words)["apix"])
    else:
        with h5py.File(source) as file:
            write_mrc(target, file["MDF/images/0/image"][()])


def _eman_info(words: list[str], more: dict[str, object]) -> None:
    """Adds to the file of facts that EMAN keeps of a series, below the folder where it runs."""
    path = os.path.join("info", f"{os.path.splitext(os.path.basename(words[0]))[0]}_info.json")
    facts = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            facts = json.load(file)
    write_lines(path, [json.dumps({**facts, **more})])


def _eman_stack(path: str) -> np.ndarray:
    import h5py

    with h5py.File(path) as file:
        return file["MDF/images/0/image"][()]


def e2spt_tomoctf(words: list[str]) -> None:
    if not (float(options(words)["voltage"]) > 0 and float(options(words)["cs"]) > 0):
        refuse("e2spt_tomoctf", "the optics are not known")
    images = len(_eman_stack(words[0]))
    _eman_info(words, {"defocus": [DEFOCUS_A / 1e4] * images, "phase": [0.0] * images})


# ------------------------------------------------------------------------------------------------------ cryoCARE
def _configuration(words: list[str]) -> dict:
    with open(options(words)["conf"], encoding="utf-8") as file:
        return json.load(file)


def cryocare_extract(words: list[str]) -> None:
    """Refuses halves that are not there, or not pairs of one size."""
    given = _configuration(words)
    for even, odd in zip(given["even"], given["odd"], strict=True):
        if "even" not in os.path.basename(even) or "odd" not in os.path.basename(odd):
            refuse("cryoCARE", f"{even} and {odd} are not a pair")
        if mrcfile.read(even).shape != mrcfile.read(odd).shape:
            refuse("cryoCARE", f"{even} and {odd} differ in size")
    os.makedirs(given["path"], exist_ok=True)
    for name in ("train_data.npz", "val_data.npz"):
        np.savez(os.path.join(given["path"], name), pairs=len(given["even"]))


def cryocare_train(words: list[str]) -> None:
    given = _configuration(words)
    write_lines(os.path.join(given["path"], f"{given['model_name']}.tar.gz"), ["a model"])


def cryocare_predict(words: list[str]) -> None:
    given = _configuration(words)
    os.makedirs(given["output"], exist_ok=True)
    write_mrc(os.path.join(given["output"], os.path.basename(given["even"])),
              0.5 * (mrcfile.read(given["even"]) + mrcfile.read(given["odd"])))


PROGRAMS = {"tomo3d": tomo3d, "tomoeed": tomoeed, "e2proc3d.py": e2proc3d, "e2spt_tomoctf.py": e2spt_tomoctf,
            "cryoCARE_extract_train_data.py": cryocare_extract, "cryoCARE_train.py": cryocare_train,
            "cryoCARE_predict.py": cryocare_predict}


def main(name: str, words: list[str]) -> None:
    if name == "ctffind":
        ctffind()
    else:
        PROGRAMS[name](words)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
