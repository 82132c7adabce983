# SPDX-License-Identifier: GPL-3.0-or-later
"""Gold beads: found, missed and false; the tomogram with them, without them, and as if they had never been there.

    python benchmarks/engine_gold.py [--seeds 2] [--threads 2]
    python benchmarks/engine_gold.py --erasing [--seeds 2]
    python benchmarks/engine_gold.py --without 50
    python benchmarks/engine_gold.py --picture PICTURE.png

A bead is a sphere of gold whose image is the square of a defocused wave (`tomostream.simulator.gold`), in a known specimen. For
each diameter and pixel size: the beads that were found with the diameter not given, those that were missed, what else was taken
for gold, how far the beads are from the truth, and the diameter. Erasing: correlation with the truth, inside the specimen, of the
tomogram with gold, with gold erased and of the same specimen without gold; and the streaks: the deviation of the WBP tomogram
around the beads, across the tilt axis, over that far from all beads. Without: series of many kinds without gold, with crystals of
ice and edges of carbon, and what was erased of them with the diameter not given and with 10 nm given.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
#: Diameter (A) and pixel size (A).
SETS = ((50.0, 5.0), (50.0, 8.0), (50.0, 13.0), (100.0, 5.0), (100.0, 10.8), (100.0, 13.0), (150.0, 8.0), (150.0, 13.0),
        (200.0, 10.8), (200.0, 13.0))
COUNTS = 100.0
#: Side of the series with gold, px; of those without gold, and how far their alignment is off, px.
SIDE_WITH, SIDE, OFF = 288, 320, 0.3
#: Side of a panel of the picture, px.
PANEL = 240


def case_of(diameter: float, pixel: float, beads: int = 10) -> Any:
    """A specimen with beads."""
    from tomostream.tests.known_specimen import Case

    return Case(f"{diameter / 10:g} nm, {pixel:g} A/px", side=SIDE_WITH, pixel=pixel, beads=beads, diameter=diameter,
                thickness=1200.0, depth=2 * round(750 / pixel))


def of_images(images: Any, pixel: float) -> Any:
    """Images as a stack."""
    from tomostream.engine.recon.stack import TiltStack

    return TiltStack("simulated", images, pixel)


def straight(angles: Any) -> list[Any]:
    """Tilts that are aligned as they are."""
    from tomostream.engine.recon.aligned import Placement
    from tomostream.engine.recon.options import TiltUse

    return [TiltUse(section, float(angle), Placement(0.0, 0.0, 0.0)) for section, angle in enumerate(angles)]


def compared(found: Any, series: Any) -> tuple[int, int, float]:
    """Beads that were found, other things that were, and the median distance (A) of the beads from the truth."""
    import numpy as np

    if not found.beads:
        return 0, 0, float("nan")
    places = np.array([bead.position for bead in found.beads]) * series.case.pixel
    distance = np.linalg.norm(places[:, None] - series.beads[None], axis=-1)
    near = distance.min(axis=1) < 0.5 * series.case.diameter
    return len(set(distance.argmin(axis=1)[near])), int((~near).sum()), float(np.median(distance.min(axis=1)[near]))


def finding(seeds: int, threads: int) -> None:
    """Print a line for each diameter and pixel size."""
    from tomostream.engine.gold.find import find_gold
    from tomostream.tests.known_specimen import known

    print(f"{'set':20s} beads  found  missed  false   off (A)   diameter (nm)   residual (A)     s")
    for diameter, pixel in SETS:
        for seed in range(5, 5 + seeds):
            series = known(case_of(diameter, pixel), seed)
            known.cache_clear()
            began = time.perf_counter()
            found = find_gold(of_images((series.images + 1) * COUNTS, pixel), straight(series.angles), pixel, None, threads)
            took = time.perf_counter() - began
            there, false, off = compared(found, series)
            count = len(series.beads)
            print(f"{series.case.name:20s} {count:5d} {there:6d} {count - there:7d} {false:6d} {off:9.1f} "
                  f"{(found.diameter_A or 0) / 10:15.1f} {(found.residual_px or 0) * pixel:14.1f} {took:5.1f}", flush=True)


def volumes(series: Any, images: Any, threads: int) -> tuple[Any, Any]:
    """The WBP and the Wiener tomogram."""
    import numpy as np

    from tomostream.engine.recon.slab import Method, Slab
    from tomostream.engine.recon.wiener import WienerSlab

    case = series.case
    shape = (case.side, case.side)
    plain, wiener = (np.empty((case.depth, *shape), np.float32) for _ in range(2))
    for block in Slab(series.angles, case.side, case.depth, Method(0), threads).blocks(images, True):
        plain[:, block.y0 : block.y1] = block.data
    work = WienerSlab(series.angles, shape, case.depth, case.pixel, series.contrast, None, None, threads)
    for first, block in work.blocks(images, np.empty(work.room_shape, np.float32), True):
        wiener[first : first + len(block.data), block.y0 : block.y1] = block.data
    return plain, wiener


def streaks(series: Any, volume: Any, beads: Any) -> float:
    """Deviation around beads, across the tilt axis and outside of them, over that elsewhere in the specimen."""
    import numpy as np

    case = series.case
    z, y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * case.pixel for n in volume.shape), indexing="ij", sparse=True)
    near, gold = np.zeros(volume.shape, bool), np.zeros(volume.shape, bool)
    for bead in beads:
        beside = np.abs(y - bead[1]) < case.diameter / 2
        across = np.hypot(x - bead[0], z - bead[2])
        gold |= np.sqrt((x - bead[0]) ** 2 + (y - bead[1]) ** 2 + (z - bead[2]) ** 2) < case.diameter
        near |= beside & (across < 5 * case.diameter)
    field = np.maximum(np.abs(x), np.abs(y)) < 0.4 * case.side * case.pixel
    inside = np.broadcast_to((np.abs(z) < 0.4 * case.thickness) & field, volume.shape)
    return float(volume[near & ~gold & inside].std() / volume[~near & ~gold & inside].std())


def without_gold(series: Any, threads: int) -> tuple[Any, Any]:
    """The images without their gold, and what was found."""
    import numpy as np

    from tomostream.engine.gold.erase import ErasedStack, Erasure
    from tomostream.engine.gold.find import find_gold

    stack = of_images((series.images + 1) * COUNTS, series.case.pixel)
    found = find_gold(stack, straight(series.angles), series.case.pixel, None, threads)
    clean = ErasedStack.of(stack, Erasure(found, stack))
    return np.stack([clean.section(k) for k in range(stack.sections)]) / COUNTS - 1, found


def erasing(seeds: int, threads: int) -> None:
    """Print correlation and streaks before and after, and those of the specimen without gold."""
    from tomostream.tests.known_specimen import known

    print(f"{'':20s}   streaks (WBP): gold  erased  never     truth, WBP: gold  erased  never     Wiener: gold  erased  never")
    for diameter, pixel in ((50.0, 8.0), (100.0, 10.8), (150.0, 10.8), (200.0, 10.8)):
        for seed in range(5, 5 + seeds):
            series = known(case_of(diameter, pixel), seed)
            never = known(replace(series.case, beads=0), seed)
            known.cache_clear()
            clean, _ = without_gold(series, threads)
            made = [volumes(series, images.astype("float32"), threads) for images in (series.images, clean, never.images)]
            lines = [f"{streaks(series, plain, series.beads):7.2f}" for plain, _ in made]
            flat, best = ([f"{series.correlation(volume[k]):7.3f}" for volume in made] for k in (0, 1))
            gaps = (f"{series.case.name:20s} {'':14s}", f"{'':10s}", f"{'':6s}")
            print("".join(gap + " ".join(part) for gap, part in zip(gaps, (lines, flat, best), strict=True)), flush=True)


def hole(truth: Any, case: Any, random: Any) -> Any:
    """A stack with carbon film around a hole: a grainy layer below the specimen, its edge in the field."""
    import numpy as np
    import simulated_series as simulated
    from scipy import ndimage

    radius = random.uniform(0.25, 0.5) * min(case.shape)
    middle = random.uniform(-0.3, 0.3, 2) * min(case.shape)
    side = 4 * max(case.shape)
    grain = ndimage.gaussian_filter(random.normal(size=(side, side)), 2.0)
    film = 0.25 + 0.05 * grain / grain.std()
    height, axis, stack = 0.5 * case.thickness / simulated.PIXEL_A, np.radians(case.axis), truth.stack.copy()
    y, x = np.mgrid[: stack.shape[1], : stack.shape[2]]
    for tilt, angle in enumerate(np.radians(truth.true_angles)):
        dx, dy = x - stack.shape[2] / 2 - truth.shifts[tilt, 0], y - stack.shape[1] / 2 - truth.shifts[tilt, 1]
        across = (dx * np.cos(axis) + dy * np.sin(axis) - height * np.sin(angle)) / np.cos(angle)
        along = -dx * np.sin(axis) + dy * np.cos(axis)
        edge = np.clip((np.hypot(across - middle[0], along - middle[1]) - radius) / 2, 0, 1)
        depth = ndimage.map_coordinates(film, [along + side / 2, across + side / 2], order=1, mode="wrap") * edge
        stack[tilt] = random.poisson(stack[tilt] * np.exp(-depth / np.cos(angle)))
    return replace(truth, stack=stack)


def none_there(number: int) -> tuple[str, Any, Any]:
    """A series without gold: its name, the truth, and where its tilts go, nearly."""
    import numpy as np
    import simulated_series as simulated

    from tomostream.engine.recon.aligned import Placement
    from tomostream.engine.recon.options import TiltUse

    cases = [case for case in simulated.CASES if case.spoiled != "out of the field"]
    case = cases[number % len(cases)]
    case = replace(case, shape=(min(case.shape[0], SIDE), min(case.shape[1], SIDE)))
    random = np.random.default_rng([number, 9])
    truth, name = simulated.simulate(case, 200 + number), case.name
    if number % 4 == 2:
        truth, name = replace(truth, stack=simulated.iced(truth, case, random)), f"{name}, ice"
    if number % 3 == 2:
        truth, name = hole(truth, case, random), f"{name}, carbon"
    use = [tilt for tilt in range(len(truth.angles)) if tilt not in truth.bad]
    places = truth.shifts + 0.5 + random.normal(scale=OFF, size=truth.shifts.shape)
    return name, truth, [TiltUse(k, float(truth.true_angles[k]), Placement(case.axis, *map(float, places[k]))) for k in use]


def without(count: int, threads: int) -> None:
    """Print what was erased of series without gold."""
    import simulated_series as simulated

    from tomostream.engine.gold.find import find_gold

    total = {"auto": 0, "10 nm": 0}
    for number in range(count):
        name, truth, tilts = none_there(number)
        line = ""
        for word, diameter in (("auto", None), ("10 nm", 100.0)):
            found = find_gold(of_images(truth.stack, simulated.PIXEL_A), tilts, simulated.PIXEL_A, diameter, threads)
            total[word] += bool(found.beads)
            line += f"   {word}: {len(found.beads)}"
            if found.beads:
                line += "".join(f" ({m.diameter_A:.0f} A, {m.depth:.2f}, {m.fit:.2f})" for m in found.measured[:12])
        print(f"{number:3d} {name:30s}{line}", flush=True)
    print(f"series of {count} of which something was erased: " + ", ".join(f"{word} {number}" for word, number in total.items()))


def picture(target: str, threads: int) -> None:
    """One slice through a bead, across the tilt axis below and along it above: with gold, erased, never there."""
    import numpy as np
    from PIL import Image

    from tomostream.files.grey import grey_range, to_bytes
    from tomostream.tests.known_specimen import known

    series = known(case_of(100.0, 10.8), 5)
    never = known(replace(series.case, beads=0), 5)
    clean, _ = without_gold(series, threads)
    case, bead = series.case, series.beads[np.argmin(np.abs(series.beads).max(axis=1))]
    at = [round(v / case.pixel + (n - 1) / 2) for v, n in zip(bead, (case.side, case.side, case.depth), strict=True)]
    rows = []
    for images in (series.images, clean, never.images):
        plain, wiener = volumes(series, images.astype(np.float32), threads)
        views = []
        for volume in (plain, wiener):
            left = min(max(0, at[0] - PANEL // 2), case.side - PANEL)
            down = min(max(0, at[1] - PANEL // 2), case.side - PANEL)
            views += [volume[at[2], down : down + PANEL, left : left + PANEL], volume[:, at[1], left : left + PANEL]]
        rows.append(np.vstack([to_bytes(view, grey_range(view)) for view in views]))
    gap = np.full((rows[0].shape[0], 6), 255, np.uint8)
    Image.fromarray(np.hstack([rows[0], gap, rows[1], gap, rows[2]])).save(target)
    print(f"{target}: with gold, erased, never there; WBP in the plane and across, the Wiener tomogram in the plane and across")


def main() -> None:
    """Read the options, set the threads before anything makes some, print the table or make the picture."""
    parser = argparse.ArgumentParser(description="gold beads found and erased, against a known specimen")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--erasing", action="store_true")
    parser.add_argument("--without", type=int, metavar="COUNT")
    parser.add_argument("--picture", metavar="PNG")
    options = parser.parse_args()
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(options.threads)
    if options.picture:
        picture(options.picture, options.threads)
    elif options.without:
        without(options.without, options.threads)
    elif options.erasing:
        erasing(options.seeds, options.threads)
    else:
        finding(options.seeds, options.threads)


if __name__ == "__main__":
    main()
