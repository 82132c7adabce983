# SPDX-License-Identifier: GPL-3.0-or-later
"""A tilt series of the microscope's own size from its movies to its tomograms: seconds and memory, by part.

    python benchmarks/full_size.py [--camera k3|falcon4i|4k] [--movies 41] [--threads 2] [--keep FOLDER]

The programs are those of the chain, with its command lines: `tomostream-motioncor` for every movie, with a gain reference
(but for 4k) and even and odd sums, as many movies at a time as there are threads, each with one; the three stacks as compose
makes them, in one process; `tomostream-aretomo` with CTF, halves and the Wiener tomogram, at the binning that the form chooses.
Movies are simulated once, which is not counted:

* k3: 10 frames of 5760 x 4092, uint8, LZW;
* falcon4i: EER, 300 frames of 4096 x 4096, summed by 30 (`-FmIntFile`);
* 4k: 8 frames of 4096 x 4096, uint8, LZW, no gain reference.

All hold one specimen of 1500 A, seen at tilts 3 degrees apart, 3 e/A2 each at 1.35 A/px, with drift and shifts of the stage.
Seconds of the parts are measured inside the programs, around the functions that do them; "start" is Python and what it imports.
Needs 30 GB of disk for 41 movies (removed at the end, unless --keep says where everything stays; what is there is used again).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

PIXEL_A, DOSE, STEP_DEG, AXIS_DEG, THICKNESS_A, DEFOCUS_A, VOL_Z = 1.35, 3.0, 3.0, 84.7, 1500.0, 45000.0, 1200
REACH, JITTER = 64, 20.0
"""Pixels beyond each edge that are simulated, and the scatter of the stage, px."""


@dataclass(frozen=True)
class Camera:
    """Rows, columns and frames of a movie; of EER, frames of the file that make one; the kind of file."""

    rows: int
    columns: int
    frames: int
    raw: int
    kind: str
    gain: bool


CAMERAS = {"k3": Camera(4092, 5760, 10, 1, "tif", True), "falcon4i": Camera(4096, 4096, 10, 30, "eer", True),
           "4k": Camera(4096, 4096, 8, 1, "tif", False)}
MOTION = "tomostream.engine.frames"
RECON = "tomostream.engine.recon"
PARTS = {
    "motioncor": [("references", f"{MOTION}.references", "load_references"),
                  ("read and decode", f"{MOTION}.pipeline", "_total"),
                  ("gain and bad pixels", f"{MOTION}.pipeline", "_prepare"),
                  ("frame alignment", f"{MOTION}.pipeline", "_measure"),
                  ("sums and output", f"{MOTION}.pipeline", "_write_sums")],
    "stack": [("stack", "tomostream.protocols.stacks", "stack_images")],
    "aretomo": [("alignment", "tomostream.engine.steps", "align"), ("CTF", "tomostream.engine.ctf.series", "estimate"),
                ("reconstruction", f"{RECON}.tomogram", "reconstruct"), ("aligned images", f"{RECON}.tomogram", "align_images"),
                ("Wiener", f"{RECON}.tomogram", "_write_wiener"), ("resolution", "tomostream.engine.volumes", "_compared")],
}
HALVES = "halves"


# ------------------------------------------------------------------------------------------------------- simulation
def tilts_of(movies: int) -> list[float]:
    """Tilt angles of so many movies."""
    return [STEP_DEG * (i - (movies - 1) / 2) for i in range(movies)]


def movie_of(folder: Path, camera: Camera, tilt: float) -> Path:
    """The file of the movie of a tilt."""
    return folder / f"tilt{tilt:+.1f}.{camera.kind}"


def angles_of(folder: Path, movies: int) -> Path:
    """The angle file of a series of so many movies."""
    return folder / f"angles-{movies}.txt"


def simulate(camera: Camera, movies: int, folder: Path) -> None:
    """Write the movies, the gain reference, the angles and the fractions into `folder`; movies that are there stay."""
    import numpy as np

    from tomostream.engine.output import Outputs
    from tomostream.simulator.specimen import make_specimen

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    gain = np.exp(rng.normal(scale=0.04, size=(camera.rows, camera.columns))).astype(np.float32)
    gain[rng.integers(0, camera.rows, 40), rng.integers(0, camera.columns, 40)] = 0
    with Outputs() as outputs:
        outputs.mrc(folder / "gain.mrc", gain, PIXEL_A, "gain")
    tilts = tilts_of(movies)
    order = np.argsort(np.argsort(np.abs(tilts), kind="stable"), kind="stable")
    rows = [f"{tilt:.2f} {at + 1} {DOSE * at:.2f}\n" for tilt, at in zip(tilts, order, strict=True)]
    angles_of(folder, movies).write_text("".join(rows))
    (folder / "fractions.txt").write_text(f"{camera.frames * camera.raw} {camera.raw} 0.0\n")
    across, along = camera.rows * PIXEL_A * 2 + 3000, camera.columns * PIXEL_A + 1500
    specimen = make_specimen(np.random.default_rng(1), across, along, THICKNESS_A)
    for tilt in tilts:
        path = movie_of(folder, camera, tilt)
        if not path.exists():
            part = path.with_suffix(".part")
            _write_movie(part, camera, specimen, tilt, gain if camera.gain else np.ones_like(gain))
            part.rename(path)


def _write_movie(path: Path, camera: Camera, specimen: Any, tilt: float, gain: Any) -> None:
    """One movie: the specimen at half the sampling, which holds all of it, and counts of electrons at the camera's own."""
    import numpy as np
    import tifffile

    from tomostream.simulator.movies import drift_path, electrons_per_pixel
    from tomostream.tests.test_movie_formats import eer_file

    number = round(1000 + 10 * tilt)
    rng = np.random.default_rng((2, number))
    image = _projection(camera, specimen, tilt, rng.normal(scale=JITTER, size=2))
    rate = electrons_per_pixel(DOSE, PIXEL_A, THICKNESS_A, tilt) / (camera.frames * camera.raw)
    image = np.maximum(np.float32(rate) * (1 - image), 0).astype(np.float32)
    inverse = np.where(gain > 0, 1 / np.maximum(gain, 0.1), 0).astype(np.float32)
    drift = np.array(drift_path(rng, camera.frames, 6.0))
    counted, streams = _kernels()
    if camera.kind == "eer":
        pages: list[bytes] = []
        for frame, (x, y) in enumerate(drift):
            bits, sizes = streams(image, inverse, x, y, 1000 * number + frame, camera.raw)
            pages += [bits[i, :size].tobytes() for i, size in enumerate(sizes)]
        path.write_bytes(eer_file(pages, 65001, (), camera.rows))
        return
    with tifffile.TiffWriter(path) as writer:
        for frame, (x, y) in enumerate(drift):
            counts = np.empty(gain.shape, np.uint8)
            counted(image, inverse, x, y, 1000 * number + frame, counts)
            writer.write(counts[::-1].copy(), compression="lzw", rowsperstrip=16, photometric="minisblack", contiguous=False,
                         metadata=None, maxworkers=2)


def _projection(camera: Camera, specimen: Any, tilt: float, shift: Any) -> Any:
    """Contrast at twice the pixel size, (rows / 2 + REACH, columns / 2 + REACH) px."""
    import numpy as np
    import scipy.fft

    from tomostream.simulator.projector import Optics, contrast_transfer, project_points, squared_frequencies

    shape = (camera.rows // 2 + REACH, camera.columns // 2 + REACH)
    x, y = project_points(specimen.points, 2 * PIXEL_A, tilt, AXIS_DEG, tuple(shift / 2))
    column, row = (np.floor(v + (n - 1) / 2).astype(np.int64) for v, n in ((x, shape[1]), (y, shape[0])))
    inside = (column >= 0) & (row >= 0) & (column < shape[1]) & (row < shape[0])
    place = row[inside] * shape[1] + column[inside]
    image = np.bincount(place, specimen.weights[inside], shape[0] * shape[1]).reshape(shape) * 2 / (2 * PIXEL_A) ** 2
    k2 = squared_frequencies(shape, 2 * PIXEL_A)
    transfer = np.exp(-2 * (np.pi * 5.0) ** 2 * k2) * contrast_transfer(k2, Optics(DEFOCUS_A))
    return scipy.fft.irfft2(scipy.fft.rfft2(image.astype(np.float32)) * transfer.astype(np.float32), s=shape)


def _kernels() -> tuple[Callable[..., Any], Callable[..., Any]]:  # noqa: C901 - loops that are compiled together
    """Compiled loops: counts of one frame; streams of events of the frames of an EER fraction."""
    import numba as nb
    import numpy as np

    @nb.njit(inline="always")
    def mixed(state):  # type: ignore[no-untyped-def]
        state = state + np.uint64(0x9E3779B97F4A7C15)
        z = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state, np.float32((z ^ (z >> np.uint64(31))) >> np.uint64(40)) * np.float32(1 / 16777216)

    @nb.njit(inline="always")
    def seen(image, x, y):  # type: ignore[no-untyped-def]
        column, row = x * 0.5 + 32, y * 0.5 + 32
        i, j = int(column), int(row)
        a, b = np.float32(column - i), np.float32(row - j)
        one = np.float32(1)
        return ((one - b) * ((one - a) * image[j, i] + a * image[j, i + 1])
                + b * ((one - a) * image[j + 1, i] + a * image[j + 1, i + 1]))

    @nb.njit(parallel=True)
    def counted(image, inverse, dx, dy, seed, out):  # type: ignore[no-untyped-def]
        for y in nb.prange(out.shape[0]):
            state = np.uint64(seed) * np.uint64(100003) + np.uint64(y) * np.uint64(0xD1B54A32D192ED03)
            for x in range(out.shape[1]):
                rate = seen(image, x - dx, y - dy) * inverse[y, x]
                state, left = mixed(state)
                part, number = np.float32(np.exp(-rate)), 0
                left -= part
                while left > 0 and number < 15:
                    number += 1
                    part *= rate / np.float32(number)
                    left -= part
                out[y, x] = number

    @nb.njit(inline="always")
    def put(bits, at, value, width):  # type: ignore[no-untyped-def]
        word = np.uint32(value) << np.uint32(at & 7)
        byte = at >> 3
        while word:
            bits[byte] |= np.uint8(word & np.uint32(255))
            word >>= np.uint32(8)
            byte += 1
        return at + width

    @nb.njit(parallel=True)
    def streams(image, inverse, dx, dy, seed, count):  # type: ignore[no-untyped-def]
        rows, columns = inverse.shape
        most = image.max() * inverse.max()
        pixels = rows * columns
        sizes = np.empty(count, np.int64)
        bits = np.zeros((count, int(pixels * (most * 1.5 + 0.01) * 2)), np.uint8)
        fall = 1 / np.log(1 - most)
        for frame in nb.prange(count):
            state = np.uint64(seed) * np.uint64(100003) + np.uint64(frame) * np.uint64(0xD1B54A32D192ED03)
            at, last, pixel = 0, -1, -1
            while True:
                state, u = mixed(state)
                pixel += 1 + int(np.log(max(u, np.float32(1e-8))) * fall)
                if pixel >= pixels:
                    break
                y, x = pixel // columns, pixel % columns
                state, u = mixed(state)
                if u * most > seen(image, x - dx, y - dy) * inverse[y, x]:
                    continue
                gap = pixel - last - 1
                while gap >= 127:
                    at = put(bits[frame], at, 127, 7)
                    gap -= 127
                at = put(bits[frame], at, gap | (int(u * 1e7) & 15) << 7, 11)
                last = pixel
            gap = pixels - last - 1
            while gap >= 127:
                at = put(bits[frame], at, 127, 7)
                gap -= 127
            at = put(bits[frame], at, gap, 7)
            sizes[frame] = (at + 7) >> 3
        return bits, sizes

    return counted, streams


# ---------------------------------------------------------------------------------------------- inside of the programs
class Clock:
    """Wall and CPU seconds of the parts of one process; what a part calls of another is that one's."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._open: list[str] = []
        self._since = (time.perf_counter(), time.process_time())

    def _turn(self) -> None:
        now = time.perf_counter(), time.process_time()
        if self._open:
            for i in (0, 1):
                self.parts[self._open[-1]][i] += now[i] - self._since[i]
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def watch(self, name: str, module: str, function: str) -> None:
        """Count what a function of a module takes, from now on."""
        owner = importlib.import_module(module)
        plain = getattr(owner, function)

        @wraps(plain)
        def timed(*args: Any, **kwargs: Any) -> Any:
            half = HALVES in self._open or (function == "reconstruct" and HALVES in str(getattr(args[0], "path", "")))
            with self.part(HALVES if half else name):
                return plain(*args, **kwargs)

        setattr(owner, function, timed)


def inside(report: str, program: str, words: list[str]) -> int:
    """Run a program in this process and write what its parts took to the file `report`."""
    clock = Clock()
    for part in PARTS[program]:
        clock.watch(*part)
    if program == "stack":
        stacks = importlib.import_module("tomostream.protocols.stacks")
        for target, *images in json.loads(words[0]):
            stacks.stack_images(images, target, PIXEL_A)
            for image in images:        # else the disk would be what is measured
                os.unlink(image)
        status = 0
    else:
        status = importlib.import_module(f"tomostream.engine.{program}").main(words)
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
    Path(report).write_text(json.dumps({"parts": clock.parts, "peak": peak}))
    return int(status)


# ------------------------------------------------------------------------------------------------------------ the chain
class Tally:
    """Wall and CPU seconds by part of all processes, and the most memory that one of each program held, MB."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder, self.threads = folder, threads
        self.parts: dict[tuple[str, str], list[float]] = {}
        self.peaks: dict[str, float] = {}

    def run(self, program: str, jobs: list[list[str]], at_once: int = 1) -> None:
        """Run a program once for each of `jobs`, its words, so many at a time."""
        start = time.perf_counter()
        with ThreadPoolExecutor(at_once) as pool:
            told = list(pool.map(lambda job: self._one(program, *job), enumerate(jobs)))
        elapsed = time.perf_counter() - start
        share = elapsed / sum(seconds[0] for parts, _ in told for seconds in parts.values())
        for parts, peak in told:
            self.peaks[program] = max(self.peaks.get(program, 0.0), peak)
            for name, (wall, cpu) in parts.items():
                total = self.parts.setdefault((program, name), [0.0, 0.0])
                total[0] += wall * share
                total[1] += cpu

    def _one(self, program: str, number: int, words: list[str]) -> tuple[dict[str, list[float]], float]:
        """Run a program as a process of its own; return wall and CPU seconds of its parts, and its peak memory, MB."""
        report, log = self.folder / f"{program}{number}.json", self.folder / f"{program}{number}.log"
        count = "1" if program == "motioncor" else str(self.threads)
        environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), count)}
        start = time.perf_counter()
        with open(log, "w", encoding="utf-8") as out:
            process = subprocess.Popen([sys.executable, __file__, "--inside", str(report), program, *words], stdout=out,
                                       stderr=subprocess.STDOUT, env=environment)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
        if process.returncode:
            raise SystemExit(f"{program} failed: {log.read_text()}")
        told = json.loads(report.read_text())
        cpu = usage.ru_utime + usage.ru_stime
        rest = [wall - sum(p[0] for p in told["parts"].values()), cpu - sum(p[1] for p in told["parts"].values())]
        return {"start": rest, **told["parts"]}, told["peak"]

    def show(self) -> None:
        """Print the table."""
        print(f"{'':<34}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}")
        for program, peak in self.peaks.items():
            own = {name: seconds for (of, name), seconds in self.parts.items() if of == program}
            wall, cpu = (sum(seconds[i] for seconds in own.values()) for i in (0, 1))
            print(f"{program:<34}{wall:8.1f}{cpu:8.1f}{peak:9.0f}")
            for name, seconds in own.items():
                print(f"  {name:<32}{seconds[0]:8.1f}{seconds[1]:8.1f}")
        wall, cpu = (sum(seconds[i] for seconds in self.parts.values()) for i in (0, 1))
        print(f"{'all':<34}{wall:8.1f}{cpu:8.1f}{max(self.peaks.values()):9.0f}", flush=True)


def chain(camera: Camera, movies: int, threads: int, data: Path, folder: Path) -> Tally:
    """From the movies in `data` to the tomograms in `folder`."""
    from tomostream.programs.aretomo import binning_of

    tally = Tally(folder, threads)
    tags = ["-PixSize", str(PIXEL_A), "-SplitSum", "1", "-LogDir", str(folder), "--threads", "1"]
    tags += ["-Gain", str(data / "gain.mrc")] if camera.gain else []
    tags += ["-FmIntFile", str(data / "fractions.txt"), "-EerSampling", "1"] if camera.kind == "eer" else []
    name = "-InEer" if camera.kind == "eer" else "-InTiff"
    tilts = tilts_of(movies)
    names = [(movie_of(data, camera, tilt), folder / f"sum{number:02d}.mrc") for number, tilt in enumerate(tilts)]
    tally.run("motioncor", [[name, str(movie), "-OutMrc", str(target), *tags] for movie, target in names], at_once=threads)
    names_of = {"": "TS.mrcs", "_EVN": f"{HALVES}_even.mrcs", "_ODD": f"{HALVES}_odd.mrcs"}
    stacks = {end: str(folder / name) for end, name in names_of.items()}
    images = {end: [str(folder / f"sum{number:02d}{end}.mrc") for number in range(movies)] for end in stacks}
    tally.run("stack", [[json.dumps([[stacks[end], *images[end]] for end in stacks])]])
    words = ["-InMrc", stacks[""], "-InEven", stacks["_EVN"], "-InOdd", stacks["_ODD"], "-OutMrc", str(folder / "TS.mrc")]
    words += ["-AngFile", str(angles_of(data, movies)), "-TiltAxis", str(AXIS_DEG), "1", "-TiltCor", "0", "-VolZ", str(VOL_Z)]
    words += ["-OutBin", str(binning_of(None, PIXEL_A, VOL_Z)), "-FlipVol", "1", "-Sart", "15", "5", "-PixSize", str(PIXEL_A)]
    words += ["-Kv", "300", "-Cs", "2.7", "-AmpContrast", "0.07", "-Wiener", "1", "--threads", str(threads)]
    tally.run("aretomo", [words])
    return tally


def main() -> int:
    if sys.argv[1:2] == ["--inside"]:
        return inside(sys.argv[2], sys.argv[3], sys.argv[4:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camera", choices=CAMERAS, default="k3")
    parser.add_argument("--movies", type=int, default=41)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep", type=Path, help="folder for the movies and all results, which stay there")
    parser.add_argument("--simulate", action="store_true", help="make the movies and nothing else")
    options = parser.parse_args()
    camera, top = CAMERAS[options.camera], options.keep or Path(tempfile.mkdtemp(prefix="full_size"))
    data, folder = top / options.camera, top / f"{options.camera}-{options.movies}"
    if options.simulate:
        simulate(camera, options.movies, data)
        return 0
    try:
        words = ["--simulate", "--camera", options.camera, "--movies", str(options.movies), "--keep", str(top)]
        subprocess.run([sys.executable, __file__, *words], check=True)  # apart, so that its memory is not that of what it starts
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{options.movies} movies of {camera.frames * camera.raw} x {camera.columns} x {camera.rows} ({options.camera}), "
              f"{options.threads} threads; load of the machine {os.getloadavg()[0]:.1f}", flush=True)
        chain(camera, options.movies, options.threads, data, folder).show()
    finally:
        if options.keep is None:
            shutil.rmtree(top)
    return 0


if __name__ == "__main__":
    sys.exit(main())
