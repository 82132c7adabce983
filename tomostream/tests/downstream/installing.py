# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder of stand-ins, and the variables by which Scipion's plugins find their programs in it."""

from __future__ import annotations

import os
import sys

from tomostream.tests.downstream import imod_standins, other_standins

#: The CPU engine behind the names of the programs that it stands for: no stand-ins, they do the work.
ENGINE = {"AreTomo2": "aretomo", "MotionCor3": "motioncor"}


def install(home: str, python: str) -> dict[str, str]:
    """Make the folder; return the variables. `python` runs the programs."""
    programs = os.path.join(home, "bin")
    os.makedirs(programs, exist_ok=True)
    for module, names in (("imod_standins", [*imod_standins.PROGRAMS, "trimvol"]),
                          ("other_standins", [*other_standins.PROGRAMS, "ctffind"])):
        for name in names:
            write_script(os.path.join(programs, name), f'exec {python} -m tomostream.tests.downstream.{module} {name} "$@"')
    for name, function in ENGINE.items():
        code = f"import sys; from tomostream.engine.entry import {function}; sys.exit({function}())"
        write_script(os.path.join(programs, name), f'exec {python} -c "{code}" "$@"')
    write_script(os.path.join(home, "IMOD-linux.sh"), f"export IMOD_DIR={home}")
    for name in ("relion-5.0", "ctffind-5.0.2"):
        os.makedirs(os.path.join(home, name), exist_ok=True)
        os.symlink(programs, os.path.join(home, name, "bin"))
    return {"IMOD_HOME": home, "PATH": os.pathsep.join((programs, os.environ["PATH"])), "TOMO3D_HOME": programs,
            "RELIONTOMO_HOME": os.path.join(home, "relion-5.0"), "RELION_HOME": os.path.join(home, "relion-5.0"),
            "CISTEM_HOME": programs, "CTFFIND_HOME": os.path.join(home, "ctffind-5.0.2"), "ARETOMO_HOME": programs,
            "ARETOMO_CUDA_LIB": home, "MOTIONCOR_HOME": home, "MOTIONCOR_CUDA_LIB": home, "MOTIONCOR_BIN": "MotionCor3",
            "CONDA_ACTIVATION_CMD": "true",
            "EMAN_ENV_ACTIVATION": "true", "CRYOCARE_ENV_ACTIVATION": "true"}


def write_script(path: str, command: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"#!/bin/sh\n{command}\n")
    os.chmod(path, 0o755)


if __name__ == "__main__":
    install(sys.argv[1], sys.executable)
