# SPDX-License-Identifier: GPL-3.0-or-later
"""What readers that are not ours understand of a hand-off. Runs in their environment, without tomostream.

    python readers.py OUT ARETOMO_FOLDER SERIES      prints a JSON object: reader -> what it read

Quantities that a reader does not give are left out. Angles in degrees, shifts in A (RELION) or as .xf and .aln have them.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np


def numbers(values) -> list[float]:
    return [float(value) for value in values]


def of_starfile(out: Path, name: str) -> dict:
    import starfile

    tomogram = starfile.read(out / "relion5" / "tomograms.star", always_dict=True)["global"]
    tomogram = tomogram[tomogram["rlnTomoName"] == name].iloc[0]
    tilts = starfile.read(out / "relion5" / tomogram["rlnTomoTiltSeriesStarFile"], always_dict=True)[name]
    tomostar = next(iter(starfile.read(out / "warp" / "tomostar" / f"{name}.tomostar", always_dict=True).values()))
    return {"tilts": numbers(tilts["rlnTomoYTilt"]), "nominal": numbers(tilts["rlnTomoNominalStageTiltAngle"]),
            "axis": numbers(tilts["rlnTomoZRot"]), "dose": numbers(tilts["rlnMicrographPreExposure"]),
            "shifts_A": np.stack([tilts["rlnTomoXShiftAngst"], tilts["rlnTomoYShiftAngst"]], 1).tolist(),
            "hand": float(tomogram["rlnTomoHand"]), "warp tilts": numbers(tomostar["wrpAngleTilt"]),
            "warp dose": numbers(tomostar["wrpDose"])}


def of_pytom(out: Path, name: str) -> dict:
    from pytom_tm import io

    voxel, facts = io.parse_relion5_star_data(out / "relion5" / "tomograms.star", Path(f"rec_{name}.mrc"))
    folder = out / "imod" / name
    found = {"nominal": numbers(facts.tilt_angles), "dose": numbers(facts.dose_accumulation), "hand": facts.defocus_handedness,
             "voxel_A": voxel, "defocus_um": [1e6 * ctf.defocus for ctf in facts.ctf_data],
             "tlt": numbers(io.read_tlt_file(folder / f"{name}.tlt"))}
    if (folder / f"{name}.defocus").exists():
        found["imod defocus_um"] = numbers(io.read_defocus_file(folder / f"{name}.defocus"))
    return found


def of_cryoet_relion(out: Path, name: str) -> dict:
    from cryoet_alignment.io.relion import RelionAlignment

    read = RelionAlignment.from_file(out / "relion5" / "tomograms.star", name)
    return {"tilts": [each.y_tilt for each in read.entries], "axis": [each.z_rot for each in read.entries],
            "shifts_A": [[each.x_shift_angst, each.y_shift_angst] for each in read.entries], "hand": read.hand,
            "dose": [each.pre_exposure for each in read.entries], "nominal": [e.nominal_stage_tilt_angle for e in read.entries]}


def of_cryoet_imod(out: Path, name: str) -> dict:
    from cryoet_alignment.io.imod import ImodAlignment

    read = ImodAlignment.read(base_name=str(out / "imod" / name / name))
    return {"tlt": read.tlt.angles, "xf": [list(each) for each in read.xf.alignments], "thickness": read.tiltcom.THICKNESS,
            "full image": list(read.tiltcom.FULLIMAGE), "stack": read.newstcom.InputFile}


def of_etomofiles(out: Path, name: str) -> dict:
    import etomofiles

    table = etomofiles.read(out / "imod" / name)
    return {"tlt": numbers(table["tlt"]), "nominal": numbers(table["rawtlt"]), "axis": numbers(table["tilt_axis_angle"]),
            "xf": table[["xf_a11", "xf_a12", "xf_a21", "xf_a22", "xf_dx", "xf_dy"]].to_numpy(float).tolist(),
            "excluded": int(table["excluded"].sum())}


def of_alnfile(folder: Path, name: str) -> dict:
    import alnfile

    table = alnfile.read(folder / f"{name}.aln")
    return {"tilts": numbers(table["tilt"]), "axis": numbers(table["rot"]),
            "shifts_px": table[["tx", "ty"]].to_numpy(float).tolist()}


def of_cryoet_aln(folder: Path, name: str) -> dict:
    from cryoet_alignment.io.aretomo3 import AreTomo3ALN

    read = AreTomo3ALN.from_file(folder / f"{name}.aln")
    return {"tilts": [each.tilt for each in read.GlobalAlignments], "axis": [each.rot for each in read.GlobalAlignments],
            "shifts_px": [[each.tx, each.ty] for each in read.GlobalAlignments]}


READERS = (("starfile", "starfile", of_starfile, True), ("pytom-match-pick", "pytom-match-pick", of_pytom, True),
           ("cryoet-alignment, RELION", "cryoet_alignment", of_cryoet_relion, True),
           ("cryoet-alignment, IMOD", "cryoet_alignment", of_cryoet_imod, True),
           ("etomofiles", "etomofiles", of_etomofiles, True),
           ("alnfile", "alnfile", of_alnfile, False), ("cryoet-alignment, .aln", "cryoet_alignment", of_cryoet_aln, False))


def main() -> None:
    out, folder, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    found = {}
    for title, package, read, handed in READERS:
        try:
            found[title] = {"version": version(package), **read(out if handed else folder, name)}
        except Exception as error:  # noqa: BLE001 - whatever a reader raises is its verdict
            found[title] = {"version": version(package), "error": f"{type(error).__name__}: {error}"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
