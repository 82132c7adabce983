# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream demo`: a simulated acquisition, four Scipion protocols that turn it into tomograms, and pictures of them."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from tomostream.cli import refuse, run
from tomostream.cli.leaving import say
from tomostream.cli.places import cannot_write
from tomostream.journal.status import ProjectStatus

#: Linux: the option of prctl by which a process asks to be signalled when its parent has ended.
PARENT_DEATH_SIGNAL = 1
#: Small enough for two cores to process two series while they are "acquired".
SIMULATED = ["--series", "2", "--tilts", "15", "--tilt-step", "6", "--frames", "4", "--size", "320", "--pixel-size", "8",
             "--interval", "1", "--start-delay", "15"]
SIMULATED_SETTINGS = ["compose.expectedTilts=15", "aretomo.tomoThickness=220", "aretomo.alignZ=160"]
#: Time-out of the import: twice the start delay of the microscope, for busy machines.
TIME_OUT = "30"
REAL = ["--frames", "6", "--interval", "1", "--start-delay", "15"]
REAL_SETTINGS = ["compose.expectedTilts=41", "aretomo.tomoThickness=300", "aretomo.alignZ=180"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", nargs="?", default="tomostream-demo", metavar="OUT",
                        help="folder to make, for the acquisition and the project (default: tomostream-demo)")
    parser.add_argument("--real", action="store_true",
                        help="replay a real tilt series (EMPIAR-10499, 41 tilts); fetched once, 58 MB")
    parser.add_argument("--engine", choices=sorted(run.ENGINES), default="cpu", help="which programs do the work")


def main(options: argparse.Namespace) -> int:
    from tomostream.cli.errors import UserError

    began = time.monotonic()
    try:
        out = empty_folder(options.out)
        arguments, settings = REAL, REAL_SETTINGS
        if options.real:
            from tomostream.cli.realdata import real_stack, tilts_table

            arguments = [*REAL, "--replay", real_stack(say), "--tilts", tilts_table()]
        else:
            arguments, settings = SIMULATED, SIMULATED_SETTINGS
    except UserError as error:
        return refuse("demo", error)
    except OSError as error:
        return refuse("demo", cannot_write(options.out, error))
    status = process(out, arguments, settings, options.engine)
    return report(out, status, time.monotonic() - began)


def empty_folder(path: str) -> str:
    """Make the folder of a demo; nothing is overwritten: if it is not empty, a number is added to its name."""
    base, number = os.path.abspath(path), 1
    candidate = base
    while os.path.isdir(candidate) and os.listdir(candidate):
        number += 1
        candidate = f"{base}-{number}"
    os.makedirs(candidate, exist_ok=True)
    return candidate


def ends_with(parent: int) -> Callable[[], None]:
    """Return a function for a child to call before its program starts, so that it ends when its parent does."""
    prctl = ctypes.CDLL(None).prctl

    def before() -> None:
        prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:      # the parent has just ended
            os._exit(1)

    return before


def process(out: str, simulate: list[str], settings: list[str], engine: str) -> int:
    """Start the microscope, run the four protocols on what it writes, and wait for both."""
    acquisition = os.path.join(out, "acquisition")
    say(f"A microscope starts to write into {acquisition}")
    microscope = subprocess.Popen([sys.executable, "-m", "tomostream.cli", "simulate", acquisition, "--quiet", *simulate],
                                  preexec_fn=ends_with(os.getpid()))
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    arguments = [os.path.join(out, "project"), "--movies", os.path.join(acquisition, "frames"), "--mdocs",
                 os.path.join(acquisition, "mdocs"), "--engine", engine, "--timeout", TIME_OUT, "--json",
                 os.path.join(out, "status.json")]
    try:
        return run.main(parser.parse_args([*arguments, *(word for text in settings for word in ("--set", text))]))
    finally:
        microscope.terminate()
        microscope.wait()


def report(out: str, status: int, seconds: float) -> int:
    """Print the results, and how to look at them."""
    from tomostream.cli.slices import picture

    project = os.path.join(out, "project")
    results = ProjectStatus(project)
    results.update()
    tomograms = [series.tomogram for series in results.series.values() if series.tomogram and os.path.exists(series.tomogram)]
    say("")
    if not tomograms:
        say(f"No tomogram was made; the logs are in {project}/Runs/*/logs.")
        return status or 2
    for path in tomograms:
        say(f"tomogram: {path}")
    say(f"picture:  {picture(tomograms[:4], os.path.join(out, 'slices.png'))}")
    say(f"project:  SCIPION_HOME={os.environ['SCIPION_HOME']} SCIPION_USER_DATA={os.environ['SCIPION_USER_DATA']} "
            f"{sys.executable} -m scipion project {project}")
    say(f"The demo took {seconds:.0f} s.")
    return status
