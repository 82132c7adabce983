# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocols of other plugins behind and before ours, scheduled before the first movie, against the truth of a simulated session.

    python -m tomostream.tests.downstream.check_protocols [SESSION ...] [--environment FOLDER] [--keep FOLDER]

Makes an environment with the plugins and this checkout (network needed) and stand-ins for their programs, runs the sessions of
`sessions` in it, and prints a table. Exit status 1 where a protocol did not do every series right.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import venv

import numpy as np

from tomostream.tests.downstream import imod_standins, installing, sessions
from tomostream.tests.downstream.check_handoff import ALIKE, MIRRORED, print_columns
from tomostream.tests.downstream.protocols import LATE, RELION
from tomostream.tests.downstream.sessions import Doses, Expected, Shifts

#: Those that are released on the package index.
PACKAGES = ("scipion-em-imod==3.9.1", "scipion-em-reliontomo==4.0.5", "scipion-em-cistem==3.10.1", "scipion-em-warp==3.6.2",
            "scipion-em-emantomo==3.4.3", "scipion-em-cryocare==4.2.4", "scipion-em-tomo3d==3.4.2")
HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
#: Largest difference of the tilt axis in degrees and of shifts in px: the alignment measures them.
AXIS, SHIFT = 1.5, 2.0
RIGHT, WRONG = "right", "WRONG"
HEAD = ["protocol", "output", "status", "series", "angles", "doses", "axis", "shifts", "halves", "tomogram", "closed"]


def environment(folder: str) -> str:
    """An environment with Scipion, the plugins and this checkout; return its Python."""
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip"], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES, "--editable", CHECKOUT], check=True)
    return python


class Truth:
    """What the simulation wrote, by series: its tilts by their angle."""

    def __init__(self, path: str) -> None:
        with open(path, encoding="utf-8") as file:
            truth = json.load(file)
        self.axis = truth["series"][0]["tilt_axis_deg"]
        self.tilts = {each["id"]: sorted(each["tilts"], key=lambda tilt: tilt["angle_deg"]) for each in truth["series"]}
        self._late = os.path.join(os.path.dirname(path), LATE)

    def without_late(self) -> Truth:
        """The truth as it was before the late tilt came."""
        with open(self._late, encoding="utf-8") as file:
            late = json.load(file)
        left = copy.copy(self)
        left.tilts = {**self.tilts, late["id"]: [tilt for tilt in self.tilts[late["id"]] if tilt["movie"] != late["movie"]]}
        return left

    def angles(self, name: str) -> np.ndarray:
        return np.array([tilt["angle_deg"] for tilt in self.tilts[name]])

    def doses(self, name: str) -> np.ndarray:
        return np.array([tilt["prior_dose_e_per_A2"] for tilt in self.tilts[name]])

    def within(self, name: str) -> list[bool]:
        """Which tilts are within the limits of the filter."""
        spent = sorted(self.doses(name))
        return [abs(angle) < sessions.MAX_ANGLE and dose + spent[1] <= sessions.MAX_DOSE
                for angle, dose in zip(self.angles(name), self.doses(name), strict=True)]

    def shifts(self, name: str) -> np.ndarray:
        return np.array([tilt["shift_px"] for tilt in self.tilts[name]])


def angles_right(truth: Truth, name: str, one: dict, expected: Expected) -> bool:
    """All tilts, with one offset for all, and enabled as they should be."""
    if len(one["angles"]) != len(truth.angles(name)):
        return False
    moved = np.subtract(one["angles"], truth.angles(name))
    wanted, enabled = np.array(truth.within(name) if expected.limits else [True] * len(moved)), np.array(one["enabled"])
    # an alignment may leave out more of weak images, never less
    aligned = expected.shifts is Shifts.TRUE
    right = (enabled <= wanted).all() and enabled.sum() >= 3 if aligned else (enabled == wanted).all()
    return bool(np.ptp(moved) < 0.02 and abs(moved[0]) < 3.0 and right)


def doses_right(truth: Truth, name: str, one: dict, expected: Expected) -> bool:
    doses = truth.doses(name)
    wanted = {Doses.SPENT: 0.0 * doses, Doses.LAST: np.full(len(doses), doses[-1]),
              Doses.UPSTREAM: np.maximum(sessions.DOSE, doses / 2)}.get(expected.doses, doses)
    return len(one["dose"]) == len(wanted) and bool(np.allclose(one["dose"], wanted, atol=1e-3))


def shifts_right(truth: Truth, name: str, one: dict, expected: Expected) -> bool:
    if any(matrix is None for matrix in one["matrices"]):
        return False
    matrices = np.array(one["matrices"])
    if expected.shifts is Shifts.TRUE:
        enabled = np.array(one["enabled"])
        return residual(truth, name, matrices[enabled], enabled) < SHIFT
    views = len(matrices)
    coarse = np.array([imod_standins.shift_of(view, views) for view in range(views)])
    if expected.shifts is Shifts.COARSE:
        return bool(np.allclose(matrices[:, :, 2], coarse, atol=1e-3) and np.allclose(matrices[:, :, :2], np.eye(2), atol=1e-6))
    turn = matrices[:, :, :2]
    return bool(np.allclose(matrices[:, :, 2], np.einsum("nij,nj->ni", turn, coarse) + imod_standins.FINE, atol=2e-2))


def residual(truth: Truth, name: str, matrices: np.ndarray, enabled: np.ndarray) -> float:
    """Largest difference from the true shifts in px, after a common motion of the specimen."""
    shifts = np.array([-np.linalg.inv(matrix[:, :2]) @ matrix[:, 2] for matrix in matrices])
    difference = shifts - truth.shifts(name)[enabled]
    axis, tilt = np.radians(truth.axis), np.radians(truth.angles(name)[enabled])
    across = difference @ (np.cos(axis), np.sin(axis))
    along = difference @ (-np.sin(axis), np.cos(axis))
    design = np.stack([np.cos(tilt), np.sin(tilt)], axis=1)
    across = across - design @ np.linalg.lstsq(design, across, rcond=None)[0]
    return float(max(np.abs(across).max(), np.abs(along - along.mean()).max()))


def judged(found: dict, truth: Truth, expected: Expected) -> list[str]:
    """What of the series of one output is right, in words."""
    series = found["series"]
    truth = truth.without_late() if expected.without_late else truth
    once = found.get("rows", len(series)) == len(series)

    def of(wanted: bool, key: str, right) -> str:
        if not wanted:
            return ""
        return RIGHT if series and all(key in one and right(name, one) for name, one in series.items()) else WRONG

    def alike(_: str, one: dict) -> bool:
        return one["likeness"][0] > ALIKE and one["likeness"][1] < MIRRORED

    tomogram = of(expected.tomogram, "likeness", alike)
    if tomogram == WRONG and any("likeness" in one for one in series.values()):
        measured = [one["likeness"] for one in series.values() if "likeness" in one]
        tomogram = f"{min(each[0] for each in measured):.2f} {max(each[1] for each in measured):.2f}"
    return [f"{len(series.keys() & truth.tilts.keys()) if once else found['rows']} of {len(truth.tilts)}",
            of(expected.angles, "angles", lambda name, one: angles_right(truth, name, one, expected)),
            of(expected.doses is not None, "dose", lambda name, one: doses_right(truth, name, one, expected)),
            of(expected.axis is not None, "axis", lambda name, one: abs(
                one["axis"] - (expected.axis or 0.0) * truth.axis) < AXIS),
            of(expected.shifts is not None, "matrices", lambda name, one: shifts_right(truth, name, one, expected)),
            of(expected.halves is not None, "halves", lambda name, one: one["halves"] == expected.halves),
            tomogram, "yes" if found.get("closed") else "no"]


def check(name: str, python: str, folder: str) -> list[list[str]]:
    """Rows of the table for one session."""
    session = sessions.SESSIONS[name]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SCIPION", "PYTHONPATH"))}
    variables = {**kept, **installing.install(os.path.join(folder, "standins"), python), "PYTHONUNBUFFERED": "1"}
    done = subprocess.run([python, "-m", "tomostream.tests.downstream.protocols", folder, name], env=variables, cwd=folder,
                          capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr[-3000:] or done.stdout[-3000:], file=sys.stderr)
        return [[name, "", "no session", *[""] * (len(HEAD) - 4), "no"]]
    truth = Truth(os.path.join(folder, "acq", "truth.json"))
    results = json.loads(done.stdout.splitlines()[-1])
    named = {**session.template_outputs, **{node.name: node.outputs for node in session.nodes},
             RELION: {"stars": Expected(tomogram=True)}}
    return [[protocol, output, found["status"], *judged(found, truth, named[protocol][output])]
            for protocol, outputs in results.items() for output, found in outputs.items()]


def is_right(row: list[str]) -> bool:
    """Whether a row says that every series was done right."""
    counts = row[3].split(" of ")
    return (row[2] == "finished" and counts[0] == counts[-1] and all(word in ("", RIGHT) for word in row[4:10])
            and row[-1] == "yes")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sessions", nargs="*", choices=[[], *sessions.SESSIONS], default=[], metavar="SESSION")
    parser.add_argument("--environment", default="build/downstream/scipion")
    parser.add_argument("--keep", metavar="FOLDER", help="keep the projects there, to look into them")
    options = parser.parse_args()
    python = environment(os.path.abspath(options.environment))
    rows = []
    for name in options.sessions or sessions.SESSIONS:
        with tempfile.TemporaryDirectory() as folder:
            if options.keep:
                folder = os.path.join(os.path.abspath(options.keep), name)
                os.makedirs(folder)
            rows += check(name, python, folder)
    print_columns(HEAD, rows)
    return 0 if all(is_right(row) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
