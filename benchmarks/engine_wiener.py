# SPDX-License-Identifier: GPL-3.0-or-later
"""The Wiener tomogram beside WBP, SIRT and deconvolutions, against a specimen that is known; and pictures of a real one.

    python benchmarks/engine_wiener.py [--sets thin,base,...] [--seeds 1] [--threads 2]
    python benchmarks/engine_wiener.py --picture PICTURE.png STACK.mrc ALIGNMENT.aln

For each series: correlation with the truth, inside the specimen, of WBP, SIRT (15 iterations), the best of 15 deconvolutions of
the WBP volume (three strengths, five falls, chosen by the truth, which nobody has) and the Wiener tomogram, the latter with the
thickness measured from the series itself; where the shell correlation with the truth falls below one half, in the plane; and the
seconds that SIRT and the Wiener tomogram took, one after the other in the same process.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
#: Side of a panel of the picture, px.
PANEL = 340
STRENGTHS, FALLS = (0.6, 1.0, 1.3), (0.5, 0.7, 1.0, 1.4, 2.0)


def cases() -> dict[str, Any]:
    """The sets, one by one away from the first."""
    from tomostream.tests.known_specimen import Case

    base = Case("1500 A, 3 e/A2, 4.5 um, 10.8 A/px", side=400)
    return {
        "base": base,
        "thin": replace(base, name="800 A", thickness=800.0, depth=128),
        "thick": replace(base, name="2500 A, 2.5 e/A2, 3.2 um", thickness=2500.0, depth=288, dose=2.5, defocus=32000.0),
        "thickest": replace(base, name="4000 A", thickness=4000.0, depth=420),
        "dim": replace(base, name="1.5 e/A2", dose=1.5),
        "bright": replace(base, name="4 e/A2, 2 um", dose=4.0, defocus=20000.0),
        "high": replace(base, name="6 um", defocus=60000.0),
        "sharp": replace(base, name="5.4 A/px, 800 A, 3 um", pixel=5.4, thickness=800.0, depth=224, defocus=30000.0),
        "sharpest": replace(base, name="2.7 A/px, 400 A, 2.5 um", pixel=2.7, thickness=400.0, depth=224, defocus=25000.0),
        "gold": replace(base, name="25 gold beads", gold=25),
        "inclined": replace(base, name="inclined by 9 degrees", own_tilt=9.0, depth=256),
    }


def deconvolved(volume: Any, pixel: float, defocus: float, strength: float, fall: float) -> Any:
    """A volume divided by the CTF, damped where an assumed signal-to-noise ratio falls."""
    import numpy as np
    import scipy.fft

    from tomostream.engine.ctf.spectra import Optics

    k = np.sqrt(sum(np.meshgrid(*[(np.fft.fftfreq if i < 2 else np.fft.rfftfreq)(n) ** 2 for i, n in enumerate(volume.shape)],
                                indexing="ij", sparse=True)))
    transfer = np.sin(Optics().phase((k / pixel) ** 2, defocus))
    ratio = 10 ** (3 * strength) * np.exp(-k * 2 * 100 / pixel * fall) * np.minimum(1, k / 0.01)
    spectrum = scipy.fft.rfftn(volume, workers=2) * (transfer / (transfer**2 + 1 / np.maximum(ratio, 1e-9)))
    return scipy.fft.irfftn(spectrum, s=volume.shape, workers=2)


def reach(series: Any, volume: Any) -> float:
    """1/A: where the shell correlation with the truth, in planes, falls below one half."""
    import numpy as np

    parts = [series.inner(v) for v in (volume, series.truth)]
    window = np.outer(*[np.hanning(n) for n in parts[0].shape[1:]])
    a, b = (np.fft.rfft2(part * window) for part in parts)
    side = a.shape[1]
    ring = (np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) * 100).astype(int)
    flat = np.broadcast_to(ring, a.shape).ravel()
    cross, p, q = (np.bincount(flat, v.ravel())[:50] for v in ((a * np.conj(b)).real, np.abs(a) ** 2, np.abs(b) ** 2))
    below = np.flatnonzero((cross / np.sqrt(p * q))[2:] < 0.5)
    return float((2 + (below[0] if len(below) else 48)) / 100 / series.case.pixel)


def measure(case: Any, seed: int, threads: int) -> dict[str, Any]:
    """Correlations, reaches and times of one series."""
    import numpy as np

    from tomostream.engine.recon.slab import Method, Slab
    from tomostream.engine.recon.wiener import WienerSlab
    from tomostream.tests.known_specimen import known

    series = known(case, seed)
    shape, out = (case.side, case.side), {}

    def plain(iterations: int) -> Any:
        volume = np.empty((case.depth, *shape), np.float32)
        for block in Slab(series.angles, case.side, case.depth, Method(iterations), threads).blocks(series.images, True):
            volume[:, block.y0 : block.y1] = block.data
        return volume

    def wiener() -> Any:
        volume = np.empty((case.depth, *shape), np.float32)
        work = WienerSlab(series.angles, shape, case.depth, case.pixel, series.contrast, None, None, threads)
        for first, block in work.blocks(series.images, np.empty(work.room_shape, np.float32), True):
            volume[first : first + len(block.data), block.y0 : block.y1] = block.data
        out["thickness"] = work.findings.thickness_A
        return volume

    flat = plain(0)
    out["WBP"], out["WBP reach"] = series.correlation(flat), reach(series, flat)
    for name, work in (("SIRT", lambda: plain(15)), ("Wiener", wiener)):
        best = 1e9
        for _ in range(2):
            began = time.perf_counter()
            volume = work()
            best = min(best, time.perf_counter() - began)
        out[name], out[f"{name} reach"], out[f"{name} s"] = series.correlation(volume), reach(series, volume), best
    out["deconvolved"] = max(series.correlation(deconvolved(flat, case.pixel, case.defocus, strength, fall))
                             for strength in STRENGTHS for fall in FALLS)
    known.cache_clear()
    return out


def table(names: list[str], seeds: int, threads: int) -> None:
    """Print a line a set: medians over its seeds; then the median and the worst of all series."""
    import numpy as np

    print(f"{'set':42s}   WBP  SIRT deconv. Wiener   over WBP  SIRT  deconv.   0.5 at (A)    s: SIRT Wiener")
    ratios = []
    for name in names:
        case = cases()[name]
        rows = [measure(case, seed, threads) for seed in range(5, 5 + seeds)]
        mid = {key: float(np.median([row[key] for row in rows])) for key in rows[0]}
        ratios += [[row["Wiener"] / row[key] for key in ("WBP", "SIRT", "deconvolved")] + [row["Wiener s"] / row["SIRT s"]]
                   for row in rows]
        over = "  ".join(f"{mid['Wiener'] / mid[key]:5.2f}" for key in ("WBP", "SIRT", "deconvolved"))
        print(f"{case.name:42s} {mid['WBP']:.3f} {mid['SIRT']:.3f}  {mid['deconvolved']:.3f}  {mid['Wiener']:.3f}      {over}    "
              f"{1 / mid['WBP reach']:5.1f} {1 / mid['Wiener reach']:5.1f}     {mid['SIRT s']:5.1f} {mid['Wiener s']:5.1f}",
              flush=True)
    worst = [*np.min(ratios, axis=0)[:3], np.max(ratios, axis=0)[3]]
    for what, values in (("median", np.median(ratios, axis=0)), ("worst", worst)):
        print(f"{what}: Wiener over WBP {values[0]:.2f}, over SIRT {values[1]:.2f}, over the best deconvolution {values[2]:.2f}; "
              f"time {values[3]:.2f} x SIRT")


def picture(target: str, stack: str, aln: str, threads: int) -> None:
    """One slice of a real series three ways, side by side: WBP, SIRT, Wiener."""
    import subprocess
    import sys
    import tempfile

    import numpy as np
    from PIL import Image

    from tomostream.files.grey import grey_range, to_bytes
    from tomostream.files.mrc import open_mrc

    with tempfile.TemporaryDirectory() as folder:
        panels = []
        for name, extra in (("wbp", ["-Wbp", "1"]), ("sirt", ["-Wiener", "1"])):
            out = os.path.join(folder, f"{name}.mrc")
            subprocess.run([sys.executable, "-m", "tomostream.engine.aretomo", "-InMrc", stack, "-OutMrc", out, "-AlnFile", aln,
                            "-VolZ", "300", "-FlipVol", "1", "-Kv", "300", "-Cs", "2.7", "-AmpContrast", "0.1",
                            "--threads", str(threads), *extra], check=True)
        for name in ("wbp", "sirt", "sirt_wiener"):
            volume = open_mrc(os.path.join(folder, f"{name}.mrc"))
            slice_ = np.asarray(volume.section(volume.shape[0] // 2), np.float32)
            y, x = ((n - PANEL) // 2 for n in slice_.shape)
            part = slice_[y : y + PANEL, x - PANEL // 4 : x - PANEL // 4 + PANEL]
            panels.append(to_bytes(part, grey_range(part)))
        gap = np.full((panels[0].shape[0], 6), 255, np.uint8)
        sheet = np.hstack([panels[0], gap, panels[1], gap, panels[2]])
        Image.fromarray(sheet).quantize(24).save(target, optimize=True)
    print(f"{target}: WBP, SIRT, Wiener; {os.path.getsize(target) // 1000} kB")


def main() -> None:
    """Read the options, set the threads before anything makes some, print the table or make the picture."""
    parser = argparse.ArgumentParser(description="the Wiener tomogram against a known specimen")
    parser.add_argument("--sets", default="all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--picture", nargs=3, metavar=("PNG", "STACK", "ALN"))
    options = parser.parse_args()
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(options.threads)
    if options.picture:
        picture(*options.picture, options.threads)
        return
    table(list(cases()) if options.sets == "all" else options.sets.split(","), options.seeds, options.threads)


if __name__ == "__main__":
    main()
