# SPDX-License-Identifier: GPL-3.0-or-later
"""Which fitted defoci are exported: series of hard conditions, with and without a target, first in a session and after others.

    python benchmarks/defocus_evidence.py [--seeds 50] [--defoci 2,3,4,5,6] [--keep FILE]

The series are those of `tomostream simulate --tilts 15 --tilt-step 6 --size 640 --pixel-size 4 --dose 6 --frames 4
--thickness 900`: few tilts, small images, hardly more than two rings. The fit gets the true alignment. A fit is wrong where the
median of its defoci is more than `WRONG_UM` from the truth. Targets are what an operator asks for: the truth and an error of the
autofocus, 0.4 um (standard deviation). `--keep` writes the fits, and reads them where they are there.
"""

from __future__ import annotations

import argparse
import json
import os

import numpy as np

from tomostream.engine.ctf import Optics
from tomostream.engine.ctf.series import estimate
from tomostream.engine.recon.aligned import Placement
from tomostream.engine.recon.options import TiltUse
from tomostream.programs.ctf import CtfRow
from tomostream.programs.defocus import Doubt, Evidence, judge
from tomostream.simulator.plan import Plan
from tomostream.simulator.scene import SimulatedScene

WRONG_UM = 0.5
AUTOFOCUS_UM = 0.4
PIXEL = 4.0


class Stack:
    """Images in memory, as the fit reads them."""

    def __init__(self, images: np.ndarray) -> None:
        self.images, self.sections, self.shape = images, len(images), images.shape[1:]

    def section(self, index: int) -> np.ndarray:
        return self.images[index]


def fit(seed: int, defocus: float) -> dict:
    """One series, and what the fit says of it."""
    plan = Plan(tilts=15, tilt_step=6.0, size=(640, 640), pixel_size=PIXEL, defocus=defocus, dose=6.0, frames=1, drift=0.0,
                thickness=900.0, seed=seed, max_shift=16.0)
    scene = SimulatedScene(plan)
    exposures = sorted(scene.exposures, key=lambda exposure: exposure.truth.angle)
    images = np.stack([scene.render(exposure)[0] for exposure in exposures]).astype(np.float32)
    tilts = [TiltUse(section, exposure.truth.angle, Placement(plan.tilt_axis, *(exposure.truth.shift or (0.0, 0.0))))
             for section, exposure in enumerate(exposures)]
    result = estimate(Stack(images), tilts, Optics(300.0, 2.7, 0.07), (0.0, 0.0), PIXEL, 1, lambda *_: None)
    series = result.series
    rows = [] if series is None else [[(tilt.defocus_max_A + tilt.defocus_min_A) / 2e4, tilt.score, tilt.resolution_A]
                                      for tilt in series.tilts]
    return {"seed": seed, "defocus": defocus, "rows": rows, "gain": 0.0 if series is None else series.gain, "note": result.note}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--defoci", default="2,3,4,5,6")
    parser.add_argument("--keep", default="")
    options = parser.parse_args()
    kept: dict[str, dict] = {}
    if options.keep and os.path.exists(options.keep):
        with open(options.keep, encoding="utf-8") as file:
            kept = {f"{each['seed']} {each['defocus']:g}": each for each in map(json.loads, file)}
    fits = []
    for seed in range(options.seeds):
        for defocus in map(float, options.defoci.split(",")):
            found = kept.get(f"{seed} {defocus:g}")
            if found is None:
                found = fit(seed, defocus)
                if options.keep:
                    with open(options.keep, "a", encoding="utf-8") as file:
                        file.write(json.dumps(found) + "\n")
            fits.append(found)
    print_table(fits)


def rows_of(found: dict) -> list[CtfRow]:
    """What a fit gave, as the protocol reads it."""
    return [CtfRow(number, 1e4 * defocus, 1e4 * defocus, 0.0, 0.0, score, resolution)
            for number, (defocus, score, resolution) in enumerate(found["rows"], start=1)]


def is_wrong(found: dict) -> bool:
    return abs(float(np.median([row[0] for row in found["rows"]])) - found["defocus"]) > WRONG_UM


def passed(found: dict, target: float | None, others: tuple[float, ...]) -> bool:
    """Whether a fit is believed."""
    belief = judge(rows_of(found), Evidence(target, others), PIXEL)
    return belief is not None and belief.doubt is Doubt.NONE


def print_table(fits: list[dict]) -> None:
    """Right and wrong fits by defocus, and how many of each are believed with which evidence."""
    random = np.random.default_rng(0)
    print(f"{'defocus':>8} {'series':>7} {'fits':>5} {'wrong':>6}   believed right/wrong: {'with a target':>14} {'first':>10} "
          f"{'after three':>12}")
    for defocus in sorted({found["defocus"] for found in fits}):
        every = [found for found in fits if found["defocus"] == defocus]
        fitted = [found for found in every if found["rows"]]
        counts = []
        for kind in range(3):
            believed = []
            for found in fitted:
                target = defocus + random.normal(0, AUTOFOCUS_UM) if kind == 0 else None
                others = tuple(defocus + random.normal(0, AUTOFOCUS_UM, 3)) if kind == 2 else ()
                believed.append(passed(found, target, others))
            right = sum(ok and not is_wrong(found) for ok, found in zip(believed, fitted, strict=True))
            wrong = sum(ok and is_wrong(found) for ok, found in zip(believed, fitted, strict=True))
            counts.append(f"{right}/{wrong}")
        print(f"{defocus:8.1f} {len(every):7} {len(fitted):5} {sum(map(is_wrong, fitted)):6}   "
              f"{'':21} {counts[0]:>14} {counts[1]:>10} {counts[2]:>12}")


if __name__ == "__main__":
    main()
