# SPDX-License-Identifier: GPL-3.0-or-later
"""A small, quick tomogram of the tilts that are there so far: `python -m tomostream.engine.preview FOLDER PARENT`.

FOLDER holds `request.json`; `preview.mrc` (x, y, z) and `preview_quality.json` are written beside it. It takes only the
processor time that nobody else wants, and ends when the process PARENT that started it is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from tomostream.files.errors import EngineError
from tomostream.files.grey import averaged
from tomostream.files.mrc import open_mrc
from tomostream.programs.aln import AngleRow

REQUEST, NAME = "request.json", "preview"
#: Seconds between two looks whether the process that started this one is still there.
WATCH_SECONDS = 1.0


@dataclass(frozen=True)
class Tilt:
    """One aligned tilt: file of its micrograph, angle in degrees."""

    micrograph: str
    angle_deg: float


@dataclass(frozen=True)
class Request:
    """What a preview is made of.

    Attributes
    ----------
    series_id : str
    tilts : tuple of Tilt
        By angle.
    expected : int
        Tilts in the whole series.
    tilt_axis_deg : float
    pixel_size_A : float
    """

    series_id: str
    tilts: tuple[Tilt, ...]
    expected: int
    tilt_axis_deg: float
    pixel_size_A: float

    def write(self, folder: str) -> None:
        """Write the request into `folder`, for the process that makes the preview."""
        with open(os.path.join(folder, REQUEST), "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)

    @classmethod
    def read(cls, folder: str) -> Request:
        """Return the request that is in `folder`."""
        with open(os.path.join(folder, REQUEST), encoding="utf-8") as file:
            data = json.load(file)
        return cls(**{**data, "tilts": tuple(Tilt(**tilt) for tilt in data["tilts"])})


def make(folder: str) -> int:
    """Make the preview that a request asks for; return the exit status of the engine.

    Parameters
    ----------
    folder : str
        With `request.json`; the preview is written beside it.

    Raises
    ------
    OSError, ValueError
        If the request or a micrograph cannot be read, or the folder cannot be written to.
    """
    from tomostream.engine import aretomo, quick

    request = Request.read(folder)
    first = np.asarray(open_mrc(request.tilts[0].micrograph).section(0))
    height, width = first.shape
    binning = quick.PREVIEW.binning(request.pixel_size_A, width, height)
    shape, pixel_size = (height // binning, width // binning), request.pixel_size_A * binning
    stem = os.path.join(folder, NAME)
    images = (averaged(open_mrc(tilt.micrograph).section(0), binning) for tilt in request.tilts)
    quick.write_images(stem, images, [AngleRow(tilt.angle_deg) for tilt in request.tilts], shape, pixel_size)
    depth = quick.PREVIEW.depth(pixel_size, shape[1], shape[0])
    return aretomo.main([*quick.arguments_of(stem, f"{stem}.mrc", depth, pixel_size),
                         *quick.angles_of(stem, request.tilt_axis_deg), "--threads", "1"])


def step_back() -> None:
    """Let this process run only when the processor has nothing else to do."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):
        os.nice(19)


def end_with(parent: int) -> None:
    """End this process, whatever it does, when its `parent` (a process id) is gone."""
    pause = threading.Event()

    def watch() -> None:
        while os.getppid() == parent:
            pause.wait(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main(argv: Sequence[str]) -> int:
    """Make the preview; return the exit status.

    Parameters
    ----------
    argv : sequence of str
        The folder, and the id of the parent process.
    """
    if len(argv) != 2 or not argv[1].isdigit():
        print("usage: python -m tomostream.engine.preview FOLDER PARENT", file=sys.stderr)
        return 2
    end_with(int(argv[1]))
    step_back()
    try:
        return make(argv[0])
    except (OSError, ValueError, TypeError, KeyError, EngineError) as error:
        print(f"no preview: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
