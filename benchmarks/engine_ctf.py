# SPDX-License-Identifier: GPL-3.0-or-later
"""CTF: errors of the joint fit on simulated tilted fields with known defocus, astigmatism and hand.

    python benchmarks/engine_ctf.py [--sets base,thin,...] [--seeds 2] [--threads 2] [--tilts 41]

Only power matters to a CTF fit, so the specimen is noise of a spectrum measured on a real series (EMPIAR-10499 at 3 e/A2:
signal over shot noise 1.7 at 40 A and 0.6 at 25 A for the least tilted image, a quarter of it at 60 degrees), continued as
k^-2 with a Gaussian envelope. Each image is made of strips along the tilt axis, blended linearly, each with the CTF of its
own defocus averaged over the depth of the specimen; then electrons are drawn. Every tilt has a defocus of its own (400 A
about the series', as microscopes leave it). The specimen's mean plane is inclined (`incline`) where the set says so.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
CS_MM, AMPLITUDE, KV = 2.7, 0.07, 300.0
WAVE = 12.2639 / math.sqrt(KV * 1e3 + 0.97845e-6 * (KV * 1e3) ** 2)
DEFOCUS_SPREAD = 400.0


@dataclass(frozen=True)
class Case:
    """One kind of series. Lengths in A, dose in e/A2 a tilt, `signal` relative to the real series, axis in degrees."""

    name: str
    side: int = 2048
    pixel: float = 2.7
    defocus: float = 32000.0
    astigmatism: float = 600.0
    dose: float = 3.0
    signal: float = 1.0
    decay: float = 120.0
    thickness: float = 1500.0
    hand: int = 1
    axis: float = 0.0
    incline: float = 0.0
    phase_deg: float = 0.0
    ringless: bool = False


BASE = Case("3.2 um, 2.7 A/px")
CASES = {
    "base": BASE,
    "low": replace(BASE, name="1.5 um", defocus=15000.0),
    "middle": replace(BASE, name="2.5 um, no astigmatism, other hand", defocus=25000.0, astigmatism=0.0, hand=-1),
    "high": replace(BASE, name="6 um", defocus=60000.0),
    "astigmatic": replace(BASE, name="3.2 um, astigmatism 0.2 um", astigmatism=2000.0),
    "dim": replace(BASE, name="2 e/A2, half the signal", dose=2.0, signal=0.5),
    "thick": replace(BASE, name="3000 A thick", thickness=3000.0, signal=0.7),
    "inclined": replace(BASE, name="specimen inclined by 10 degrees", incline=10.0),
    "sharp": replace(BASE, name="rings to 6 A, lying axis", decay=40.0, axis=90.0),
    "field": replace(BASE, name="4096 px of 1.35 A", side=4096, pixel=1.35),
    "fine": replace(BASE, name="4096 px of 1.0 A, 2.5 um", side=4096, pixel=1.0, defocus=25000.0, dose=3.5),
    "coarse": replace(BASE, name="1024 px of 5.4 A", side=1024, pixel=5.4),
    "phase": replace(BASE, name="phase plate, 90 degrees", phase_deg=90.0, defocus=25000.0),
    "noise": replace(BASE, name="noise alone", signal=0.0),
    "ringless": replace(BASE, name="a specimen without rings", ringless=True),
    "binned": replace(BASE, name="512 px of 10 A", side=512, pixel=10.0),
}


def phase(s: Any, defocus: Any, phase_deg: float) -> Any:
    """Argument of the CTF's sine; `defocus` in A, s = k^2 in 1/A2."""
    bend = 0.5 * math.pi * CS_MM * 1e7 * WAVE**3 * s**2
    return math.pi * WAVE * defocus * s - bend + math.asin(AMPLITUDE) + math.radians(phase_deg)


def image_of(case: Case, tilt: float, defocus: float, azimuth: float, rng: Any) -> Any:
    """Counts (float32) of one tilt."""
    import numpy as np
    import scipy.fft

    n, core, margin = case.side, max(32, round(175 / case.pixel)), max(64, round(350 / case.pixel))
    width = 2 * core + 2 * margin
    count = n // core + 2
    field = rng.standard_normal((n, count * core + width), dtype=np.float32)
    ky, kx = np.fft.fftfreq(n, case.pixel)[:, None], np.fft.rfftfreq(width, case.pixel)[None]
    s = (ky**2 + kx**2).astype(np.float32)
    bend = case.astigmatism / 2 * np.cos(2 * (np.arctan2(ky, kx) - azimuth)).astype(np.float32)
    cosine = math.cos(math.radians(tilt))
    path = 1 / max(math.cos(math.radians(tilt + case.incline)), 0.17)
    # 1e-3 / k^2 is the measured ratio at 0 degrees; a longer path through the specimen loses electrons from the image
    ratio = case.signal * case.dose / 3 * 1e-3 / (s + 2e-5) * np.exp(-case.decay * s - 1.3 * (path - 1))
    blur = np.sinc(WAVE * s * case.thickness * path) * (0.0 if case.ringless else 1.0)
    gradient = case.hand * math.tan(math.radians(tilt + case.incline)) if cosine > 0 else 0.0
    out = np.zeros((n, n + 2 * core), np.float32)
    triangle = (1 - np.abs(np.arange(-core, core) + 0.5) / core).astype(np.float32)
    for index in range(count):
        x0 = (index - 1) * core
        middle = (x0 + core - n / 2) * case.pixel
        power = ratio * 0.5 * (1 - np.cos(2 * phase(s, defocus + gradient * middle + bend, case.phase_deg)) * blur)
        part = scipy.fft.rfft2(field[:, index * core : index * core + width]) * np.sqrt(power * 2)
        strip = scipy.fft.irfft2(part, s=(n, width))[:, margin : margin + 2 * core]
        lo = index * core
        if lo + 2 * core <= out.shape[1]:
            # neighbouring strips hold the same noise where they overlap: blending them interpolates the CTF
            out[:, lo : lo + 2 * core] += strip * triangle
    electrons = case.dose * case.pixel**2 * math.exp(-0.35 * (path - 1))
    contrast = out[:, core : core + n] / math.sqrt(electrons)
    counts = rng.poisson(electrons * np.clip(1 - contrast, 0, None)).astype(np.float32)
    return np.ascontiguousarray(counts.T) if case.axis == 90.0 else counts


def series_of(case: Case, tilts: Any, seed: int, threads: int = 1) -> tuple[Any, Any, float]:
    """(stack (K, n, n), true mean defocus of each tilt, azimuth in degrees of the larger defocus in the image)."""
    import numpy as np

    rng = np.random.default_rng(seed)
    azimuth = rng.uniform(0, math.pi)
    defoci = case.defocus + rng.normal(0, DEFOCUS_SPREAD, len(tilts))

    def image(index: int) -> Any:
        own = np.random.default_rng([seed, index])
        return image_of(case, float(tilts[index]), float(defoci[index]), azimuth, own)

    with ThreadPoolExecutor(threads) as pool:
        images = np.stack(list(pool.map(image, range(len(tilts)))))
    # a transposed image has x and y exchanged: an azimuth of 90 degrees minus it
    return images, defoci, math.degrees(azimuth if case.axis != 90.0 else math.pi / 2 - azimuth)


def judge(case: Case, tilts: Any, seed: int, threads: int) -> str:
    """Fit one series and tell how far off it is."""
    import numpy as np

    from tomostream.engine.ctf.series import estimate
    from tomostream.engine.ctf.spectra import Optics
    from tomostream.engine.recon.aligned import Placement
    from tomostream.engine.recon.options import TiltUse
    from tomostream.engine.recon.stack import TiltStack

    images, truth, azimuth = series_of(case, tilts, seed, threads)
    stack = TiltStack("simulated", images, case.pixel)
    uses = [TiltUse(i, float(t), Placement(case.axis, 0.0, 0.0)) for i, t in enumerate(tilts)]
    start = time.perf_counter()
    search = (case.phase_deg, 30.0 if case.phase_deg else 0.0)
    found = estimate(stack, uses, Optics(KV, CS_MM, AMPLITUDE), search, case.pixel, threads, lambda *_: None)
    taken = time.perf_counter() - start
    if found.series is None:
        return f"{taken:6.1f} s  {found.note}"
    fitted = found.series.tilts
    error = 100 * (np.array([(t.defocus_max_A + t.defocus_min_A) / 2 for t in fitted]) - truth) / truth
    low = np.abs(tilts) <= 30
    first = fitted[0]
    size = first.defocus_max_A - first.defocus_min_A
    away = (first.azimuth_deg - azimuth + 90) % 180 - 90
    sigma = np.array([t.sigma_A for t in fitted]) / truth * 100
    z = float(np.sqrt(np.mean((error / sigma) ** 2)))
    return (
        f"{taken:6.1f} s  {np.sqrt((error[low] ** 2).mean()):6.2f} {np.sqrt((error[~low] ** 2).mean()):6.2f}"
        f" {np.abs(error).max():6.2f} {np.median(error):6.2f} {z:5.2f}  {size:5.0f} A{away:6.0f} deg  hand {found.series.hand:2d}"
        f" of {case.hand:2d}  score {np.median([t.score for t in fitted]):.2f}"
        f"  {np.median([t.resolution_A for t in np.array(fitted, object)[low]]):.1f} A"
        f" {np.median([t.resolution_A for t in np.array(fitted, object)[~low]]):.1f} A"
    )


def main() -> None:
    """Read the options, set the threads before anything makes some, print the table."""
    parser = argparse.ArgumentParser(description="errors of the CTF fit")
    parser.add_argument("--sets", default=",".join(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tilts", type=int, default=41, help="within +-60 degrees")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(options.threads)
    import numpy as np

    tilts = np.linspace(-60.0, 60.0, options.tilts)
    print(f"{options.tilts} tilts, {options.threads} threads; errors of the defocus in %: RMS to 30 degrees, RMS beyond,")
    print("worst, median; RMS over the stated uncertainty; astigmatism and its azimuth's error; resolution to 30, beyond")
    for name in options.sets.split(","):
        for seed in range(options.seeds):
            case = CASES[name]
            print(f"{case.name:36s}{seed} {judge(case, tilts, seed, options.threads)}", flush=True)


if __name__ == "__main__":
    main()
