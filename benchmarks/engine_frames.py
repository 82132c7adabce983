# SPDX-License-Identifier: GPL-3.0-or-later
"""Motion correction on the CPU: error against known truth and against the Cramer-Rao bound, and time against the floor.

    python benchmarks/engine_frames.py [--size 4096] [--movies 3] [--draws 5] [--repeats 5] [--threads 2]

Simulated movies, 8 frames of uint8, LZW in strips of 16 rows, 0.375 e/A2 a frame at 1.35 A/px: membranes and particles
behind a CTF of 4.5 um, counted electrons, drift that is fast at first. Errors are the RMS of x and y over the frames
after their mean is taken out, in px of the movie; one movie has 14 such numbers, so that its own RMS is uncertain by a
fifth. Therefore the noise of each is drawn afresh --draws times, at the resolution that the alignment works at (sums of
counts are counts), and aligned as the program does it. The floor is what any program has to do that sums shifted frames in
Fourier space: decode, transform each frame, add; the program interpolates instead, and can be faster. Times are the least
of several runs in one process; the last but one is a whole run of the program, with the start of Python.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

# before numpy is imported: BLAS makes no threads of its own, as in the program when it is started from a shell
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import numpy as np
import scipy.fft
import tifffile
from numpy.typing import NDArray

FRAMES, PIXEL_SIZE, FLUX, CONTRAST, PAD = 8, 1.35, 0.42, 0.04, 32


def specimen(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Projected membranes (rings of two leaflets) and particles, then a CTF; standard deviation 4 % at a quarter size."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    image = np.zeros((size, size), np.float32)
    for _ in range(round(12 * (size / 4096) ** 2) + 2):
        centre, radius = rng.uniform(0, size, 2), rng.uniform(120, 900) * size / 4096
        distance = np.hypot(x - centre[0], y - centre[1])
        for leaflet in (-15, 15):
            image += np.exp(-(((distance - radius - leaflet) / 8) ** 2))
    for _ in range(round(400 * (size / 4096) ** 2) + 10):
        cx, cy = (int(v) for v in rng.uniform(60, size - 60, 2))
        part = np.s_[cy - 60 : cy + 60, cx - 60 : cx + 60]
        image[part] += 0.6 * np.exp(-(((x[part] - cx) ** 2 + (y[part] - cy) ** 2) / 35.0**2))
    k = np.hypot(np.fft.rfftfreq(size), np.fft.fftfreq(size)[:, None]) / PIXEL_SIZE
    ctf = np.sin(math.pi * 0.0197 * 45000 * k**2 + 0.07) * np.exp(-40 * k**2)
    image = scipy.fft.irfft2(scipy.fft.rfft2(image) * ctf.astype(np.float32), s=(size, size))
    quarter = image.reshape(size // 4, 4, size // 4, 4).mean(axis=(1, 3))
    return (image - image.mean()) * np.float32(CONTRAST / quarter.std())


def drift_path(rng: np.random.Generator) -> NDArray[np.float64]:
    """Displacements, px: a start that dies away, and a random walk."""
    speed = np.array([2.2, -1.4])
    steps = [speed * math.exp(-i / 2) + rng.normal(scale=0.35, size=2) for i in range(FRAMES - 1)]
    path = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    return path - path[FRAMES // 2]


@dataclass(frozen=True)
class Made:
    """A simulated movie: drift (y upward), the two Cramer-Rao bounds of the RMS error, px, and the mean counts binned."""

    drift: NDArray[np.float64]
    bounds: tuple[float, float]
    means: NDArray[np.float32]


def write_movie(path: Path, rng: np.random.Generator, size: int) -> Made:
    """Simulate one movie."""
    from tomostream.engine.frames.align import bin_factor, binned

    whole = size + 2 * PAD
    image = specimen(rng, whole)
    spectrum = scipy.fft.rfft2(image)
    kx, ky = np.fft.rfftfreq(whole), np.fft.fftfreq(whole)[:, None]
    drift, means = drift_path(rng), []
    with tifffile.TiffWriter(path) as writer:
        for x, y in drift:
            phase = np.exp(-2j * np.pi * kx * x).astype(np.complex64) * np.exp(-2j * np.pi * ky * y).astype(np.complex64)
            frame = scipy.fft.irfft2(spectrum * phase, s=(whole, whole))[PAD:-PAD, PAD:-PAD]
            mean = np.maximum(FLUX * (1 - frame), 0)
            means.append(binned(mean, bin_factor(mean.shape)))
            counts = rng.poisson(mean).clip(0, 255).astype(np.uint8)
            writer.write(counts[::-1].copy(), compression="lzw", rowsperstrip=16, photometric="minisblack",
                         contiguous=False, metadata=None)  # fmt: skip
    return Made(drift, bounds(FLUX * image[PAD:-PAD, PAD:-PAD]), np.stack(means))


def bounds(signal: NDArray[np.float32]) -> tuple[float, float]:
    """Cramer-Rao bounds of the RMS error, px, of frames in white noise of variance FLUX.

    One frame against the mean of the other m = n - 1, both noisy: a wave k adds (2 pi k)^2 times i to the information;
    taking the mean out leaves m / n of the variance. With S / N the signal to noise of the wave in one frame,

    * a random field with the mean spectrum of this image has i = c / (1 - c), c = S / (S + N) m S / (m S + N), the
      coherence (Carter, Proc. IEEE 75 (1987) 236);
    * if it were known beforehand which waves this very image holds, i = S / N m / n. No program can know that.
    """
    size, others = signal.shape[0], FRAMES - 1
    power = np.abs(scipy.fft.rfft2(signal)) ** 2
    kx, ky = np.fft.rfftfreq(size), np.fft.fftfreq(size)[:, None]
    ring = (np.hypot(kx, ky) * size).astype(np.intp)
    mean = (np.bincount(ring.ravel(), power.ravel()) / np.maximum(np.bincount(ring.ravel()), 1))[ring]
    noise = FLUX * size * size
    coherence = mean / (mean + noise) * (others * mean / (others * mean + noise))
    found = []
    for information in (coherence / (1 - coherence), power / noise * others / FRAMES):
        information[:, 1:] *= 2
        by_axis = [(information * (2 * np.pi * k) ** 2).sum() for k in (kx, ky)]
        found.append(math.sqrt(np.mean([others / FRAMES / own for own in by_axis])))
    return found[0], found[1]


def rms(measured: NDArray, truth: NDArray) -> float:
    """RMS of x and y after the mean is taken out."""
    error = (measured - measured.mean(axis=0)) - (truth - truth.mean(axis=0))
    return float(np.sqrt((error**2).mean()))


def drawn(made: Made, rng: np.random.Generator, size: int, threads: int, draws: int) -> float:
    """RMS error over several draws of the noise of one movie, px."""
    from tomostream.engine.frames.align import bin_factor, measure

    with ThreadPoolExecutor(threads) as executor:
        errors = [
            rms(measure(list(rng.poisson(made.means).astype(np.float32)), bin_factor((size, size)), executor).displacement,
                made.drift)
            for _ in range(draws)
        ]  # fmt: skip
    return float(np.sqrt(np.mean(np.square(errors)))) if errors else math.nan


def least(run: Callable[[], object], repeats: int) -> float:
    """Least time of several runs, s."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def floor(path: Path, threads: int, repeats: int) -> dict[str, float]:
    """Seconds for what cannot be avoided: decoding, one transform a frame, adding."""
    from tomostream.engine.frames.movies import open_movie

    movie = open_movie(str(path), "tiff")
    with ThreadPoolExecutor(threads) as executor:
        frames: list[NDArray] = []
        decode = least(lambda: frames.__setitem__(slice(None), executor.map(lambda i: movie.read(i, 1), range(FRAMES))),
                       repeats)  # fmt: skip
    single = np.ascontiguousarray(frames[0]).astype(np.float32)
    transform = FRAMES * least(lambda: scipy.fft.rfft2(single, workers=threads), repeats)
    total = np.zeros_like(single)
    adding = least(lambda: [np.add(total, frame, out=total, casting="unsafe") for frame in frames], repeats)
    movie.close()
    return {"decode": decode, "transforms": transform, "sum": adding}


def ours(path: Path, threads: int, repeats: int, *words: str) -> tuple[float, NDArray]:
    """Least time of the whole correction in this process, with writing the result; and the displacements."""
    from tomostream.engine.motioncor import main
    from tomostream.programs.motioncor import parse_log

    folder = path.parent
    arguments = ["-InTiff", str(path), "-OutMrc", str(folder / "out.mrc"), "-LogDir", str(folder), "--threads",
                 str(threads), *words]  # fmt: skip

    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            if main(arguments) != 0:
                raise SystemExit("the program failed")

    seconds = least(run, repeats)
    return seconds, -np.array(parse_log((folder / f"{path.stem}-Full.log").read_text()))


def program(path: Path, threads: int, repeats: int) -> float:
    """Least time of the program as it is started from a shell."""
    command = [sys.executable, "-m", "tomostream.engine.motioncor", "-InTiff", str(path), "-OutMrc",
               str(path.parent / "out.mrc"), "--threads", str(threads)]  # fmt: skip
    return least(lambda: subprocess.run(command, check=True, capture_output=True), repeats)


def phase_correlation(path: Path, repeats: int) -> tuple[float, NDArray] | None:
    """scikit-image's phase_cross_correlation of frames binned by 4 and smoothed, against the middle one; estimate only."""
    try:
        from scipy.ndimage import gaussian_filter
        from skimage.registration import phase_cross_correlation
    except ImportError:
        return None
    found: list[NDArray] = []

    def run() -> None:
        movie = tifffile.imread(path)[:, ::-1]
        count, rows, columns = movie.shape
        small = movie.reshape(count, rows // 4, 4, columns // 4, 4).sum(axis=(2, 4), dtype=np.float32)
        smooth = [gaussian_filter(frame, 3) for frame in small]
        found[:] = [-4 * phase_cross_correlation(smooth[count // 2], frame, upsample_factor=20, normalization=None)[0][::-1]
                    for frame in smooth]  # fmt: skip

    return least(run, repeats), np.array(found)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--movies", type=int, default=3)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for number in range(options.movies):
            path = Path(folder, f"movie{number}.tif")
            rng = np.random.default_rng(number)
            made = write_movie(path, rng, options.size)
            _, measured = ours(path, options.threads, 1)
            other = phase_correlation(path, 1)
            rows.append((*made.bounds, rms(measured, made.drift),
                         drawn(made, rng, options.size, options.threads, options.draws),
                         rms(other[1], made.drift) if other else math.nan))  # fmt: skip
        print(f"RMS error, px, {options.movies} movies of {FRAMES} x {options.size} x {options.size}")
        names = ("bound, random field", "bound, image known", "tomostream-motioncor",
                 f"  noise drawn {options.draws} times", "skimage")  # fmt: skip
        for name, column in zip(names, zip(*rows, strict=True), strict=True):
            every = np.sqrt(np.mean(np.square(column)))
            print(f"  {name:<22} {' '.join(f'{value:.3f}' for value in column)}   all {every:.3f}")
        parts = floor(path, options.threads, options.repeats)
        print(f"seconds, {options.threads} threads, least of {options.repeats}")
        print(f"  floor {sum(parts.values()):.2f} = " + " + ".join(f"{k} {v:.2f}" for k, v in parts.items()))
        for words in ([], ["--whole-pixels"], ["-FtBin", "2"], ["-SplitSum", "1"], ["-FtBin", "4", "-SplitSum", "1"],
                      ["-PixSize", "1.35", "-FmDose", "0.375", "-SumRange", "0", "0"]):  # fmt: skip
            seconds, _ = ours(path, options.threads, options.repeats, *words)
            print(f"  correction in this process, {' '.join(words) or 'as it is':<46} {seconds:.2f}")
        print(f"  the program from the shell, as it is {program(path, options.threads, options.repeats):.2f}")
        other = phase_correlation(path, options.repeats)
        print(f"  skimage, estimate only {other[0]:.2f}" if other else "  scikit-image is not installed")


if __name__ == "__main__":
    main()
