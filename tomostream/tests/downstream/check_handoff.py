# SPDX-License-Identifier: GPL-3.0-or-later
"""Readers that are not ours, on hand-offs of a simulated and of a real session: what they read against the alignment.

    python -m tomostream.tests.downstream.check_handoff [PROJECT] [--environment FOLDER]

Makes an environment with the readers (network needed), hands every finished series of the project on, three ways, and prints a
table. Without PROJECT two sessions are processed first: three simulated series, with tilt axes near 0, 85 and -95 degrees, a tilt
offset and a dark tilt each, and the real series of `tomostream demo --real`. Exit status 1 where a reader disagrees.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv

import mrcfile
import numpy as np

from tomostream.cli.demo import REAL_SETTINGS
from tomostream.cli.realdata import real_stack, tilts_table
from tomostream.handoff.collect import collect, finished
from tomostream.handoff.export import export
from tomostream.handoff.facts import Series, Target
from tomostream.journal.status import ProjectStatus
from tomostream.programs.aln import xf_of_row
from tomostream.simulator import Fault, Faults, Plan, SimulatedScene, Writer
from tomostream.tests import foreign_geometry
from tomostream.tests.downstream import specimen

PACKAGES = ("starfile==0.5.13", "alnfile==0.1.1", "etomofiles==0.1.2", "cryoet-alignment==0.2.0", "mrcfile", "lxml", "scipy",
            "voltools==0.6.0", "packaging", "healpix", "importlib_resources")
#: Without its GPU libraries.
WITHOUT_DEPENDENCIES = ("pytom-match-pick==0.14.0",)
#: Readers that take no series without a defocus, and what is said of them then.
WANT_DEFOCUS, NOTHING, AGREES = ("pytom-match-pick",), "wants a defocus; the series has none", "agrees"
#: A tomogram is ours by correlation, and its mirror images are not. Compared at about so many voxels a side.
ALIKE, MIRRORED, VOXELS = 0.8, 0.1, 100
#: Of the simulated session: tilt axes in degrees, tilts, degrees between them, pixels, A a pixel.
AXES, TILTS, STEP, SIZE, PIXEL = {"axis_0": 2.1, "axis_85": 84.7, "axis_m95": -95.3}, 15, 8.0, 512, 4.0
#: Tilt of the specimen against the stage in degrees, exposure that is dark, defocus in um, A of the slab, px of the tomograms.
OFFSET, DARK, DEFOCUS, SLAB, THICKNESS = 4.0, 7, 6.0, 900.0, 320
#: Largest difference that rounding in the files leaves: degrees, e/A2, A, px, um.
TOLERANCE = {"tilts": 0.006, "tlt": 0.006, "nominal": 0.006, "warp tilts": 0.006, "axis": 0.001, "dose": 1e-3, "warp dose": 1e-3,
             "shifts_A": 0.02, "shifts_px": 6e-4, "xf": 6e-4, "hand": 0.0, "voxel_A": 1e-3, "defocus_um": 1e-3,
             "imod defocus_um": 1e-3}


def environment(folder: str) -> str:
    """An environment with the readers; return its Python."""
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *WITHOUT_DEPENDENCIES], check=True)
    return python


def expected(series: Series) -> dict[str, object]:
    """What every reader should give of a series, from the alignment."""
    used = series.used
    poses = [tilt.pose for tilt in used]
    by_warp = sorted(series.tilts, key=lambda tilt: -tilt.nominal_deg)
    return {
        "tilts": [pose.tilt_deg for pose in poses], "tlt": [pose.tilt_deg for pose in poses],
        "nominal": [tilt.nominal_deg for tilt in used], "axis": [pose.rot_deg for pose in poses],
        "dose": [tilt.prior_dose for tilt in used], "shifts_px": [[pose.tx, pose.ty] for pose in poses],
        "shifts_A": [[pose.tx * series.pixel_size, pose.ty * series.pixel_size] for pose in poses],
        "xf": [list(xf_of_row(pose.rot_deg, pose.tx, pose.ty)) for pose in poses],
        "hand": float(-series.defocus_hand if series.defocus_hand else -1),
        "warp tilts": [-tilt.nominal_deg for tilt in by_warp], "warp dose": [tilt.prior_dose for tilt in by_warp],
        "voxel_A": series.pixel_size * (series.volume.binning if series.volume else 1.0),
        "defocus_um": [0.5e-4 * (tilt.ctf.defocus_max_A + tilt.ctf.defocus_min_A) for tilt in used if tilt.ctf],
        "imod defocus_um": [0.5e-4 * (tilt.ctf.defocus_max_A + tilt.ctf.defocus_min_A) for tilt in used if tilt.ctf]}


def compare(read: dict, wanted: dict) -> dict[str, float]:
    """Largest difference of every quantity that a reader gives; infinite where the number of tilts is another."""
    found = {}
    for name, value in read.items():
        if name in wanted:
            one, other = np.asarray(value, float), np.asarray(wanted[name], float)
            found[name] = float(np.abs(one - other).max(initial=0.0)) if one.shape == other.shape else float("inf")
    return found


def simulate(folder: str) -> str:
    """Process the simulated series; return their project."""
    for number, (prefix, axis) in enumerate(AXES.items()):
        plan = Plan(tilts=TILTS, tilt_step=STEP, frames=2, size=(SIZE, SIZE), pixel_size=PIXEL, dose=6.0, defocus=DEFOCUS,
                    tilt_axis=axis, thickness=SLAB, pre_tilt=OFFSET, prefix=prefix, seed=number,
                    faults=Faults((Fault("dark", 1, DARK),)))
        Writer(SimulatedScene(plan, specimen.balls), os.path.join(folder, prefix)).run()
    return process(folder, [f"compose.expectedTilts={TILTS}", f"aretomo.tomoThickness={THICKNESS}",
                            f"aretomo.alignZ={int(SLAB / PIXEL)}",
                            "aretomo.reconMethod=WBP"])     # as it is back-projected from what the readers understood


def replay(folder: str) -> str:
    """Process the real series of `tomostream demo --real`, all of whose movies are there when it begins; return its project."""
    acquisition = os.path.join(folder, "empiar_10499")
    subprocess.run([sys.executable, "-m", "tomostream.cli", "simulate", acquisition, "--quiet", "--frames", "2", "--replay",
                    real_stack(print), "--tilts", tilts_table()], check=True)
    return process(folder, REAL_SETTINGS)


def process(folder: str, settings: list[str]) -> str:
    """Process the acquisitions in the folders of a folder; return their project."""
    project = os.path.join(folder, "project")
    movies, mdocs = (os.path.join(folder, "*", name) for name in ("frames", "mdocs"))
    subprocess.run([sys.executable, "-m", "tomostream.cli", "run", project, "--movies", movies, "--mdocs", mdocs, "--engine",
                    "cpu", "--timeout", "60", "--no-report", *(word for each in settings for word in ("--set", each))],
                   check=True)
    return project


def check(project: str, python: str, out: str) -> list[list[str]]:
    """Rows of the table: series, reader, version, what it read, and whether it is right."""
    status = ProjectStatus(project)
    status.update()
    rows = []
    for each in finished(status):
        series = collect(status, each)
        refused = export(series, out, (Target.IMOD, Target.RELION5, Target.WARP))
        words = [python, os.path.join(os.path.dirname(__file__), "readers.py"), out, os.path.join(project, each.result.folder)]
        done = subprocess.run([*words, series.name], capture_output=True, text=True, check=True)
        for reader, read in json.loads(done.stdout.splitlines()[-1]).items():
            differences = compare(read, expected(series))
            wrong = [f"{name} differs by {value:.3g}" for name, value in differences.items() if value > TOLERANCE[name]]
            if "error" in read and reader in WANT_DEFOCUS and not any(tilt.ctf for tilt in series.used):
                words = NOTHING
            else:
                words = " ".join(read.get("error", "").split())[:80] or "; ".join(wrong) or AGREES
            rows.append([series.name, reader, read["version"], ", ".join(differences), words])
        rows += by_geometry(series, out)
        rows += [[series.name, target.value, "", "", why] for target, why in refused.items()]
    return rows


def by_geometry(series: Series, out: str) -> list[list[str]]:
    """Rows of what the three programs would reconstruct from their files, by their own conventions, against our tomogram."""
    if series.volume is None or not series.volume.upright:
        return []
    ours = mrcfile.read(series.volume.path).astype(float)
    coarser = max(1, round(min(ours.shape[1:]) / VOXELS))
    ours, binning = binned(ours, coarser), series.volume.binning * coarser
    readers = {"IMOD": lambda: foreign_geometry.imod_views(os.path.join(out, "imod", series.name)),
               "RELION 5": lambda: foreign_geometry.relion_views(os.path.join(out, "relion5"), series.name),
               "Warp": lambda: foreign_geometry.warp_views(os.path.join(out, "warp"), series.name, series.pixel_size)}
    rows = []
    for name, views in readers.items():
        alike, mirrored = foreign_geometry.compared(foreign_geometry.back_project(views(), ours.shape, binning), ours)
        verdict = f"{AGREES} " if alike > ALIKE and mirrored < MIRRORED else ""
        rows.append([series.name, f"{name}, by geometry", "", "tomogram, mirrored", f"{verdict}{alike:.2f}, {mirrored:.2f}"])
    return rows


def is_right(row: list[str]) -> bool:
    return row[-1] == NOTHING or row[-1].split()[:1] == [AGREES]


def by_reader(rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of a table with a column a series."""
    names = list(dict.fromkeys(row[0] for row in rows))
    found: dict[str, list[str]] = {}
    for series, reader, version, read, words in rows:
        row = found.setdefault(reader, [reader, version, read, *[""] * len(names)])
        row[2], row[3 + names.index(series)] = max(row[2], read, key=len), words
    return ["reader", "version", "read", *names], list(found.values())


def binned(volume: np.ndarray, factor: int) -> np.ndarray:
    z, y, x = (length // factor for length in volume.shape)
    return volume[:z * factor, :y * factor, :x * factor].reshape(z, factor, y, factor, x, factor).mean((1, 3, 5))


def print_columns(head: list[str], rows: list[list[str]]) -> None:
    """A table as docs/figures.rst has it."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]]
    print("\n".join([rule, lines[0], rule, *lines[1:], rule]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", nargs="?")
    parser.add_argument("--environment", default="build/downstream")
    options = parser.parse_args()
    python, rows = environment(os.path.abspath(options.environment)), []
    with tempfile.TemporaryDirectory() as folder:
        projects = [options.project] if options.project else [
            simulate(os.path.join(folder, "simulated")), replay(os.path.join(folder, "real"))]
        for number, project in enumerate(projects):
            rows += check(os.path.abspath(project), python, os.path.join(folder, f"out{number}"))
    print_columns(*by_reader(rows))
    return 0 if rows and all(map(is_right, rows)) else 1


if __name__ == "__main__":
    sys.exit(main())
