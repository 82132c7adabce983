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
from tomostream.programs.aln import AngleRow, format_angles

REQUEST, NAME = "request.json", "preview"
#: Pixels along the longer side that binning leaves, about: 4k images are binned 11 times, which takes some seconds in all.
EDGE, MAX_BINNING = 384, 16
#: Depth of the volume, A, and as a part of the images' shorter side: whichever is less.
DEPTH_A, DEPTH_PART = 4000.0, 0.6
#: Seconds between two looks whether the process that started this one is still there.
WATCH_SECONDS = 1.0


@dataclass(frozen=True)
class Tilt:
    """One aligned tilt: file of its micrograph, angle in degrees."""

    micrograph: str
    angle_deg: float


@dataclass(frozen=True)
class Request:
    """What a preview is made of: tilts by angle, `expected` in the whole series, tilt axis in degrees, pixel size in A."""

    series_id: str
    tilts: tuple[Tilt, ...]
    expected: int
    tilt_axis_deg: float
    pixel_size_A: float

    def write(self, folder: str) -> None:
        with open(os.path.join(folder, REQUEST), "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)

    @classmethod
    def read(cls, folder: str) -> Request:
        with open(os.path.join(folder, REQUEST), encoding="utf-8") as file:
            data = json.load(file)
        return cls(**{**data, "tilts": tuple(Tilt(**tilt) for tilt in data["tilts"])})


def binning_of(width: int, height: int) -> int:
    """How many pixels along each side become one."""
    return max(1, min(MAX_BINNING, round(max(width, height) / EDGE)))


def make(folder: str) -> int:
    """Make the preview that `request.json` asks for. Returns the exit status of the engine.

    Raises
    ------
    OSError, ValueError : the request or a micrograph cannot be read, the folder cannot be written.
    """
    from tomostream.engine import aretomo
    from tomostream.engine.output import Outputs

    request = Request.read(folder)
    images, binning = [], 0
    for tilt in request.tilts:
        image = np.asarray(open_mrc(tilt.micrograph).section(0), dtype=np.float32)
        binning = binning or binning_of(image.shape[1], image.shape[0])
        images.append(averaged(image, binning))
    stem, pixel_size = os.path.join(folder, NAME), request.pixel_size_A * binning
    with Outputs() as outputs:
        outputs.mrc(f"{stem}.mrcs", np.stack(images), pixel_size, "tomostream")
    with open(f"{stem}.tlt", "w", encoding="utf-8") as file:
        file.write(format_angles([AngleRow(tilt.angle_deg) for tilt in request.tilts]))
    depth = 2 * round(min(DEPTH_A / pixel_size, DEPTH_PART * min(images[0].shape)) / 2)
    axis = request.tilt_axis_deg
    return aretomo.main(["-InMrc", f"{stem}.mrcs", "-OutMrc", f"{stem}.mrc", "-AngFile", f"{stem}.tlt", "-TiltAxis",
                         f"{axis:g}" if axis != 0 else "0.01", "1", "-VolZ", str(depth), "-OutBin", "1", "-FlipVol", "1",
                         "-PixSize", f"{pixel_size:g}", "--threads", "1"])


def step_back() -> None:
    """Run only when the processor has nothing else to do."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):
        os.nice(19)


def end_with(parent: int) -> None:
    """End this process, whatever it does, when its parent is gone."""
    pause = threading.Event()

    def watch() -> None:
        while os.getppid() == parent:
            pause.wait(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main(argv: Sequence[str]) -> int:
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
