# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocols of other plugins behind ours, scheduled before the first movie, against the truth of a simulated session.

    python -m tomostream.tests.downstream.check_protocols [--environment FOLDER]

Makes an environment with scipion-em-imod and this checkout (network needed), stand-ins for IMOD's programs, runs `protocols.py`
in it, and prints a table. Exit status 1 where a protocol did not do every series right.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv

import numpy as np

from tomostream.tests.downstream import imod_standins
from tomostream.tests.downstream.check_handoff import print_columns

PACKAGES = ("scipion-em-imod==3.9.1",)
HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
#: Largest difference of the tilt axis in degrees: the alignment refines it.
AXIS = 1.5


def environment(folder: str) -> str:
    """An environment with Scipion, the plugins and this checkout; return its Python."""
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES, CHECKOUT], check=True)
    return python


def judged(found: dict, truth: dict) -> list[str]:
    """What of the series of one protocol is right: (present, angles, doses, axis, halves, closed), in words."""
    series = found["series"]
    wanted = {each["id"]: sorted(each["tilts"], key=lambda tilt: tilt["angle_deg"]) for each in truth["series"]}
    shift = {name: float(np.mean(np.subtract(one["angles"], [tilt["angle_deg"] for tilt in wanted[name]])))
             for name, one in series.items() if "angles" in one and len(one["angles"]) == len(wanted[name])}

    def of(key: str, right) -> str:
        values = [right(name, one) for name, one in series.items() if key in one]
        return "" if not values else "right" if all(values) else "WRONG"

    return [f"{len(series)} of {len(wanted)}",
            of("angles", lambda name, one: name in shift and np.allclose(
                np.subtract(one["angles"], shift[name]), [tilt["angle_deg"] for tilt in wanted[name]], atol=0.01)),
            of("dose", lambda name, one: np.allclose(one["dose"], [tilt["prior_dose_e_per_A2"] for tilt in wanted[name]])),
            of("axis", lambda name, one: abs(one["axis"] - truth["series"][0]["tilt_axis_deg"]) < AXIS),
            of("halves", lambda name, one: one["halves"]), "yes" if found.get("closed") else "no"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", default="build/downstream/scipion")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        imod_standins.install(os.path.join(folder, "imod"))
        python = environment(os.path.abspath(options.environment))
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("SCIPION", "PYTHONPATH"))}
        done = subprocess.run([python, os.path.join(HERE, "protocols.py"), folder, os.path.join(folder, "imod")],
                              env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr[-2000:] or done.stdout[-2000:], file=sys.stderr)
            return 1
        with open(os.path.join(folder, "acq", "truth.json"), encoding="utf-8") as file:
            truth = json.load(file)
        results = json.loads(done.stdout.splitlines()[-1])
    rows = [[name, each["status"], *judged(each, truth)] for name, each in results.items()]
    print_columns(["protocol", "status", "series", "angles", "doses", "axis", "halves", "closed"], rows)
    return 0 if all(row[1] == "finished" and "WRONG" not in row and row[-1] == "yes" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
