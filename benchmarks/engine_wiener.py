# SPDX-License-Identifier: GPL-3.0-or-later
"""The Wiener tomogram beside WBP, SIRT and deconvolutions, against a specimen that is known; and pictures of a real one.

    python benchmarks/engine_wiener.py [--sets thin,base,...] [--seeds 1] [--first 5] [--threads 2] [--csv FILE]
    python benchmarks/engine_wiener.py --cost [--threads 2]
    python benchmarks/engine_wiener.py --slices FOLDER [--sets ...] [--seeds 1]
    python benchmarks/engine_wiener.py --picture PICTURE.png STACK.mrc ALIGNMENT.aln

For each series: correlation with the truth, inside the specimen, of WBP, SIRT (15 iterations), the best of 15 deconvolutions of
the WBP volume (three strengths, five falls, chosen by the truth, which nobody has) and the Wiener tomogram, the latter with the
thickness measured from the series itself; where the shell correlation with the truth falls below one half, in the plane; and the
CPU seconds that SIRT and the Wiener tomogram took from the aligned images on, one after the other in the same process. Gold beads
are no part of the truth; where they are not erased, what is within a diameter of one is not looked at. With --csv every series is
a line of the file, and those that are there already are not made again: several runs with other sets or seeds may share the file,
and the last one prints the table of all. --cost: the CPU seconds at the size that microscopes have. --slices: slices of every one
of these volumes, and of the truth.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
#: Side of a panel of the picture, px.
PANEL = 340
STRENGTHS, FALLS = (0.6, 1.0, 1.3), (0.5, 0.7, 1.0, 1.4, 2.0)


def cases() -> dict[str, Any]:
    """The sets, one by one away from the first."""
    from tomostream.tests.known_specimen import Case

    base = Case("1500 A, 3 e/A2, 4.5 um, 10.8 A/px", side=256, depth=160)
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
        "gold": replace(base, name="10 gold beads of 10 nm, erased", beads=10),
        "gold-left": replace(base, name="10 gold beads of 10 nm, not erased", beads=10),
        "inclined": replace(base, name="inclined by 9 degrees", own_tilt=9.0, depth=256),
    }


def deconvolutions(volume: Any, pixel: float, defocus: float, threads: int) -> Iterator[Any]:
    """A volume divided by the CTF, damped where an assumed signal-to-noise ratio falls, for all STRENGTHS and FALLS."""
    import numpy as np
    import scipy.fft

    from tomostream.engine.ctf.spectra import Optics

    k = np.sqrt(sum(np.meshgrid(*[(np.fft.fftfreq if i < 2 else np.fft.rfftfreq)(n) ** 2 for i, n in enumerate(volume.shape)],
                                indexing="ij", sparse=True))).astype(np.float32)
    transfer = np.sin(Optics().phase((k / pixel) ** 2, defocus)).astype(np.float32)
    spectrum = scipy.fft.rfftn(volume, workers=threads)
    for strength in STRENGTHS:
        for fall in FALLS:
            ratio = 10 ** (3 * strength) * np.exp(-k * 2 * 100 / pixel * fall) * np.minimum(1, k / 0.01)
            filtered = spectrum * (transfer / (transfer**2 + 1 / np.maximum(ratio, 1e-9)))
            yield scipy.fft.irfftn(filtered, s=volume.shape, workers=threads, overwrite_x=True)


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


def correlation(series: Any, volume: Any, erased: bool) -> float:
    """With the truth, inside the specimen; away from beads that were not `erased`."""
    import numpy as np

    if erased or not len(series.beads):
        return float(series.correlation(volume))
    z, y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * series.case.pixel for n in volume.shape), indexing="ij", sparse=True)
    far = np.ones(volume.shape, bool)
    for bead in series.beads:
        far &= (x - bead[0]) ** 2 + (y - bead[1]) ** 2 + (z - bead[2]) ** 2 > series.case.diameter**2
    looked_at = series.inner(far) > series.inner(far).mean()
    return float(np.corrcoef(series.inner(volume)[looked_at], series.inner(series.truth)[looked_at])[0, 1])


class Reconstructions:
    """What is made of the aligned images of one series, with `threads`."""

    def __init__(self, name: str, seed: int, threads: int) -> None:
        import engine_gold
        import numpy as np

        from tomostream.tests.known_specimen import known

        self.series, self.threads, self.thickness_A = known(cases()[name], seed), threads, 0.0
        known.cache_clear()
        self.erased = name == "gold"
        if self.erased:
            clean, _ = engine_gold.without_gold(self.series, threads)
            self.series = replace(self.series, images=clean.astype(np.float32))

    def plain(self, iterations: int) -> Any:
        """WBP, or SIRT."""
        import numpy as np

        from tomostream.engine.recon.slab import Method, Slab

        case, volume = self.series.case, np.empty(self.series.truth.shape, np.float32)
        for block in Slab(self.series.angles, case.side, case.depth, Method(iterations), self.threads).blocks(
                self.series.images, True):
            volume[:, block.y0 : block.y1] = block.data
        return volume

    def wiener(self) -> Any:
        """The Wiener tomogram; `thickness_A` is what it found."""
        import numpy as np

        from tomostream.engine.recon.wiener import WienerSlab

        case, volume = self.series.case, np.empty(self.series.truth.shape, np.float32)
        work = WienerSlab(self.series.angles, volume.shape[1:], case.depth, case.pixel, self.series.contrast, None, None,
                          self.threads)
        for first, block in work.blocks(self.series.images, np.empty(work.room_shape, np.float32), True):
            volume[first : first + len(block.data), block.y0 : block.y1] = block.data
        self.thickness_A = work.findings.thickness_A
        return volume

    def deconvolved(self, flat: Any) -> tuple[float, Any]:
        """The best deconvolution of the WBP volume `flat`, and its correlation."""
        case, best = self.series.case, (-1.0, flat)
        for each in deconvolutions(flat, case.pixel, case.defocus, self.threads):
            found = self.correlation(each)
            best = (found, each) if found > best[0] else best
        return best

    def correlation(self, volume: Any) -> float:
        """With the truth."""
        return correlation(self.series, volume, self.erased)


def measure(name: str, seed: int, threads: int) -> dict[str, Any]:
    """Correlations, reaches and times of one series."""
    made = Reconstructions(name, seed, threads)
    flat, out = made.plain(0), {}
    out["WBP"], out["WBP reach"] = made.correlation(flat), reach(made.series, flat)
    for method, work in (("SIRT", lambda: made.plain(15)), ("Wiener", made.wiener)):
        seconds, volume = least_cpu(work)
        out[method], out[f"{method} reach"], out[f"{method} s"] = made.correlation(volume), reach(made.series, volume), seconds
    out["deconvolved"], out["thickness"] = made.deconvolved(flat)[0], made.thickness_A
    return out


def least_cpu(work: Callable[[], Any], repeats: int = 2) -> tuple[float, Any]:
    """CPU seconds of the fastest of `repeats` calls, and what the last one returned."""
    best, result = 1e9, None
    for _ in range(repeats):
        result = None
        began = time.process_time()
        result = work()
        best = min(best, time.process_time() - began)
    return best, result


def lines_of(path: str) -> list[dict[str, Any]]:
    """The series that are in a file of results already; none where `path` is "" or does not exist."""
    if not path or not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: value if key == "set" else float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def measured(names: list[str], seeds: range, threads: int, path: str) -> list[dict[str, Any]]:
    """A line for each series: those of `path` ("" none), and the others, which are added there."""
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for name in names:
            if any((row["set"], row["seed"]) == (name, seed) for row in [*rows, *lines_of(path)]):
                continue
            rows.append({"set": name, "seed": seed, **measure(name, seed, threads)})
            if path:
                new = not os.path.exists(path)
                with open(path, "a", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, rows[-1].keys())
                    if new:
                        writer.writeheader()
                    writer.writerow(rows[-1])
    return [row for row in lines_of(path) or rows if row["set"] in names]


def table(rows: list[dict[str, Any]]) -> None:
    """Print a line a set: medians over its seeds, the worst in brackets; then the median and the worst of all series."""
    import numpy as np

    others = ("WBP", "SIRT", "deconvolved")
    rows = sorted(rows, key=lambda row: list(cases()).index(row["set"]))
    print(f"{'set':42s} seeds   WBP  SIRT deconv. Wiener   over WBP     over SIRT    over deconv.  0.5 at (A)    s: SIRT Wiener")
    ratios = np.array([[row["Wiener"] / row[key] for key in others] + [row["Wiener s"] / row["SIRT s"]] for row in rows])
    for name in dict.fromkeys(row["set"] for row in rows):
        here = [row["set"] == name for row in rows]
        mid = {key: float(np.median([row[key] for row in rows if row["set"] == name])) for key in rows[0] if key != "set"}
        over = "  ".join(f"{np.median(column):5.2f} ({column.min():.2f})" for column in ratios[here].T[:3])
        print(f"{cases()[name].name:42s} {sum(here):5d} {mid['WBP']:.3f} {mid['SIRT']:.3f}  {mid['deconvolved']:.3f}  "
              f"{mid['Wiener']:.3f} {over}  {1 / mid['WBP reach']:5.1f} {1 / mid['Wiener reach']:5.1f}     "
              f"{mid['SIRT s']:5.2f} {mid['Wiener s']:5.2f}", flush=True)
    worst = [*ratios.min(axis=0)[:3], ratios[:, 3].max()]
    for what, values in (("median", np.median(ratios, axis=0)), ("worst", worst)):
        print(f"{what}: Wiener over WBP {values[0]:.2f}, over SIRT {values[1]:.2f}, over the best deconvolution {values[2]:.2f}; "
              f"time {values[3]:.2f} x SIRT")


def cost(threads: int) -> None:
    """Print the CPU seconds of SIRT and the Wiener tomogram, in turn, for 41 x 1024 x 1024 to a depth of 256 px."""
    import numpy as np

    from tomostream.engine.recon.slab import Method, Slab
    from tomostream.engine.recon.wiener import WienerSlab
    from tomostream.tests.known_specimen import Case, contrast_of_case

    case = Case(side=1024, depth=256)
    shape = case.side, case.side
    images = np.random.default_rng(0).standard_normal((len(case.angles), *shape), dtype=np.float32)

    def sirt() -> None:
        for _ in Slab(case.angles, case.side, case.depth, Method(15), threads).blocks(images, True):
            pass

    def wiener() -> None:
        work = WienerSlab(case.angles, shape, case.depth, case.pixel, contrast_of_case(case), None, None, threads)
        for _ in work.blocks(images, np.empty(work.room_shape, np.float32), True):
            pass

    seconds = np.array([[least_cpu(work, 1)[0] for work in (sirt, wiener)] for _ in range(4)])[1:]
    both, ratio = seconds.min(axis=0), np.median(seconds[:, 1] / seconds[:, 0])
    print(f"{len(images)} x {case.side} x {case.side} -> {case.side} x {case.side} x {case.depth}, {threads} threads: CPU s "
          f"{both[0]:.2f} (SIRT), {both[1]:.2f} (Wiener), {ratio:.2f} x in the median of three")


def slices(folder: str, names: list[str], seeds: range, threads: int) -> None:
    """Write the central slice of each series as WBP, SIRT, best deconvolution, Wiener and the truth, side by side, and below
    each of them a slice across the tilt axis."""
    import numpy as np
    from PIL import Image

    from tomostream.files.grey import grey_range, to_bytes

    os.makedirs(folder, exist_ok=True)
    for name in names:
        for seed in seeds:
            made = Reconstructions(name, seed, threads)
            flat = made.plain(0)
            panels = []
            for volume in (flat, made.plain(15), made.deconvolved(flat)[1], made.wiener(), made.series.truth):
                views = volume[len(volume) // 2], volume[:, volume.shape[1] // 2]
                panels.append(np.vstack([to_bytes(view, grey_range(view)) for view in views]))
            Image.fromarray(np.hstack(panels)).save(os.path.join(folder, f"{name}_{seed}.png"))


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
    parser.add_argument("--sets", "--set", default="all")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--first", type=int, default=5, help="the first of them")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--slices", metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--csv", default="")
    parser.add_argument("--picture", nargs=3, metavar=("PNG", "STACK", "ALN"))
    options = parser.parse_args()
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(options.threads)
    if options.picture:
        picture(*options.picture, options.threads)
        return
    if options.cost:
        cost(options.threads)
        return
    names = list(cases()) if options.sets == "all" else options.sets.split(",")
    seeds = range(options.first, options.first + options.seeds)
    if options.slices:
        slices(options.slices, names, seeds, options.threads)
    else:
        table(measured(names, seeds, options.threads, options.csv))


if __name__ == "__main__":
    main()
