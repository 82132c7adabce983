# SPDX-License-Identifier: GPL-3.0-or-later
"""Accuracy, honesty, speed and memory of the tilt-series alignment, on simulated series with known truth.

    python benchmarks/engine_align.py                                # all sets, one seed
    python benchmarks/engine_align.py --seeds 10 --sets base thin    # ten seeds of two sets
    python benchmarks/engine_align.py --seeds 10 --record FILE       # a JSON line a series; goes on where it was stopped
    python benchmarks/engine_align.py --record FILE --table          # only the table of what is recorded
    python benchmarks/engine_align.py --record FILE --readme         # the README's tables of it
    python benchmarks/engine_align.py --series 250 --record FILE     # so many small series of all kinds: is the trust right?
    python benchmarks/engine_align.py --wrong                        # series whose alignment cannot be right: does it say so?
    python benchmarks/engine_align.py --thicker 1.0                  # the likelihood's own thickness (fine.THICKER)

The series are those of `simulated_series.py`. Residuals are what is left of the shifts after a rigid motion of the
specimen, RMS over tilts, in pixels of the input (10.8 A; twice that in pixels of 5.4 A). "error/sigma" is the true error
over the uncertainty that the program tells; "offset z" the same of the tilt offset, RMS; "not named" the worst tilt of series
that are trusted, but for those that the note names as uncertain. "matching" is projection matching in AreTomo's manner from the
same parts: cosine-stretched neighbours within 20 degrees, low-passed by the slab, summed; the axis from common lines; thickness
given by the truth. "tiltxcorr" is the Python package torch-tiltxcorr, where it can be imported; it is given the start axis.
A real series is measured by `engine_real.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from align_tables import honesty, readme, screen
from judging import shifts_of
from simulated_series import CASES, PIXEL_A, SMALL, Case, Truth, residual, residuals, simulate

from tomostream.engine.align import AlignOptions, align_series, fine
from tomostream.engine.align.commonline import axis_by_common_line
from tomostream.engine.align.geometry import Pose
from tomostream.engine.align.likelihood import coherence
from tomostream.engine.align.pipeline import Bench, match_outward
from tomostream.engine.align.preprocess import work_stack
from tomostream.engine.align.projection import find_peak, outward_order, shift_map
from tomostream.engine.align.quality import UNCERTAIN_A
from tomostream.engine.align.spectra import phases


def matching(truth: Truth, case: Case, threads: int) -> tuple[float, np.ndarray]:
    """Projection matching in AreTomo's manner: axis and shifts (n, 2)."""
    images = work_stack(truth.stack, PIXEL_A, 10.0, threads)
    bench = Bench(images, np.arange(len(truth.angles)), threads)
    pose = Pose(truth.angles, case.start_axis, np.zeros_like(truth.shifts), truth.thickness_px)
    pose, _ = match_outward(bench, pose, 0.015, 2000.0, False, True)
    for number in range(4):
        pose = match_in_turn(bench, pose)
        if number == 1:
            trials = pose.axis_deg + np.arange(-8.0, 8.1, 1.0)
            pose = pose.turned(axis_by_common_line(images, pose, bench.members, trials, (0.006, 0.2), threads))
    return pose.axis_deg, pose.shifts


def match_in_turn(bench: Bench, pose: Pose) -> Pose:
    """One pass: each tilt against the low-passed sum of up to ten neighbours within 20.5 degrees."""
    band = bench.cut(pose, 0.025)
    tangents, angles = pose.tangents(), pose.tilts_deg
    start = int(np.argmin(np.abs(angles)))
    values, done, moves = band.values.copy(), [start], np.zeros((len(angles), 2))
    fall = np.exp(-2.0 * (band.cells.middle_ky() ** 2 + band.cells.kx**2) / 0.25**2)
    for tilt in outward_order(angles, start)[1:]:
        distance = np.abs(angles - angles[tilt])
        near = [j for j in np.argsort(distance) if j in done and distance[j] < 20.5]
        reference = np.zeros_like(values[:, 0])
        for j in (near or [done[-1]])[:10]:
            weight = coherence(pose.thickness, band.cells.kx, tangents[tilt] - tangents[j])
            reference += values[:, j] * (weight * math.cos(math.radians(angles[tilt] - angles[j])) * fall)[:, None]
        grid, spacing = shift_map(band, values[:, tilt] * np.conj(reference))
        moves[tilt] = find_peak(grid, spacing, 40.0).move
        values[:, tilt] = (values[:, [tilt]] * phases(band.cells, moves[[tilt]]))[:, 0]
        done.append(tilt)
    return pose.moved(moves)


def tiltxcorr_installed() -> bool:
    """Whether torch-tiltxcorr can be imported."""
    return importlib.util.find_spec("torch_tiltxcorr") is not None


def tiltxcorr(truth: Truth, case: Case) -> tuple[float, np.ndarray] | None:
    """torch-tiltxcorr's shifts where it is installed (it takes the axis as given); None elsewhere."""
    if not tiltxcorr_installed():
        return None
    import torch
    from torch_tiltxcorr import tiltxcorr as run

    stack = torch.from_numpy(truth.stack - truth.stack.mean(axis=(1, 2), keepdims=True))
    found = run(tilt_series=stack, tilt_angles=torch.from_numpy(truth.angles).float(), tilt_axis_angle=case.start_axis,
                pixel_spacing_angstroms=PIXEL_A, lowpass_angstroms=40)
    shifts = np.asarray(found[0] if isinstance(found, tuple) else found)[:, ::-1]
    return case.start_axis, -shifts


def peak_memory_MiB(reset: bool) -> float | None:
    """The most memory this process held since the last `reset` (just after it: what it holds); None where not told."""
    try:
        if reset:
            with open("/proc/self/clear_refs", "w") as switch:
                switch.write("5")
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        return None


def measure(case: Case, seed: int, threads: int, others: bool) -> dict[str, object]:
    """What is measured on one simulated series, for the record."""
    truth = simulate(case, seed)
    options = AlignOptions(PIXEL_A, case.start_axis, full_axis_search=case.full_search, threads=threads)
    before = peak_memory_MiB(reset=True)
    begun, begun_cpu = time.perf_counter(), time.process_time()
    answer = align_series(truth.stack, truth.angles, options)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    after = peak_memory_MiB(reset=False)
    memory = None if before is None or after is None else after - before  # beyond the stack itself
    used = np.array([tilt.used for tilt in answer.tilts])  # one that is left out has no shift to be wrong
    kept, out = truth.only(used), {int(i) for i in np.flatnonzero(~used)}
    errors = np.linalg.norm(
        residuals(kept, answer.tilt_axis_deg, shifts_of(answer)[used], kept.angles + answer.tilt_offset_deg), axis=1
    )
    sigma = np.array([np.hypot(*tilt.sigma_px) for tilt in answer.tilts if tilt.sigma_px is not None])
    named = sigma * PIXEL_A > UNCERTAIN_A
    record: dict[str, object] = {
        "set": case.name, "seed": seed, "threads": threads, "tilts": len(used),
        "rms_px": rms(errors), "worst_px": float(errors.max()), "named": int(named.sum()),
        "worst_not_named_px": float(errors[~named].max(initial=0.0)), "sigma_px": rms(sigma),
        "axis_error_deg": answer.tilt_axis_deg - case.axis, "offset_error_deg": answer.tilt_offset_deg - case.own_tilt,
        "offset_sigma_deg": answer.tilt_offset_sigma_deg,
        "thickness_A": answer.thickness_A, "quality": answer.quality, "trust": answer.trust.value,
        "note": answer.quality_note,
        "bad_not_found": sorted(truth.bad - out), "good_left_out": sorted(out - truth.bad - truth.spoiled),
        "spoiled_left_out": sorted(out & truth.spoiled), "seconds": seconds, "cpu_seconds": cpu, "extra_MiB": memory,
    }
    if others:
        record["matching_px"] = residual(truth, *matching(truth, case, threads), truth.angles)
        found = tiltxcorr(truth, case)
        record["tiltxcorr_px"] = None if found is None else residual(truth, *found, truth.angles)
    return record


def rms(values: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def recorded(path: str | None) -> list[dict[str, object]]:
    """What a file of records holds so far."""
    if path is None or not os.path.exists(path):
        return []
    with open(path) as lines:
        return [json.loads(line) for line in lines if line.strip()]


def wrong(threads: int) -> Iterator[str]:
    """Series whose alignment cannot be right, and one that can: what the quality figure says of each."""
    case = next(case for case in CASES if case.name == "bar sweeps in")
    truth = simulate(replace(case, spoiled=""), 0)
    random = np.random.default_rng(0)
    swapped = truth.angles.copy()
    for tilt in range(3, 38, 4):
        swapped[[tilt, tilt + 1]] = swapped[[tilt + 1, tilt]]
    noise = random.poisson(200.0, truth.stack.shape).astype(np.float32)
    good = AlignOptions(PIXEL_A, case.start_axis, threads=threads)
    fixed = replace(good, refine_axis=False)
    trials = (
        ("as it should be", truth.stack, truth.angles, good),
        ("noise alone", noise, truth.angles, good),
        ("axis 40 degrees off, not refined", truth.stack, truth.angles, replace(fixed, tilt_axis_deg=case.axis + 40.0)),
        ("axis 8 degrees off, not refined", truth.stack, truth.angles, replace(fixed, tilt_axis_deg=case.axis + 8.0)),
        ("axis 40 degrees off, refined", truth.stack, truth.angles, replace(good, tilt_axis_deg=case.axis + 40.0)),
        ("nine pairs of angles swapped", truth.stack, swapped, good),
        ("angles shuffled", truth.stack, random.permutation(truth.angles), good),
        ("angles half of what they are", truth.stack, truth.angles / 2.0, good),
        ("pixel size 8 times too small", truth.stack, truth.angles, replace(good, pixel_size_A=PIXEL_A / 8.0)),
    )
    for name, stack, angles, options in trials:
        answer = align_series(stack, angles, options)
        yield f"{name:34s} axis {answer.tilt_axis_deg - case.axis:+6.1f}  {answer.quality:.2f}  {answer.quality_note}"


def asked(arguments: argparse.Namespace) -> Iterator[tuple[Case, int]]:
    """The series that are asked for: sets and seeds."""
    if arguments.table:
        return
    if arguments.series:
        for number in range(arguments.series):
            yield SMALL[number % len(SMALL)], arguments.first + number // len(SMALL)
        return
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        yield from ((case, seed) for case in CASES if case.name in arguments.sets)


def run(arguments: argparse.Namespace) -> Iterator[str]:
    """Measure what is not yet recorded, then give the table."""
    records = recorded(arguments.record)
    if arguments.readme:
        yield from readme(records)
        return
    done = {(record["set"], record["seed"]) for record in records}
    for case, seed in asked(arguments):
        if (case.name, seed) in done:
            continue
        record = measure(case, seed, arguments.threads, not arguments.alone and not arguments.series)
        records.append(record)
        yield (f"{case.name}, seed {seed}: {record['rms_px']:.3f} px, worst tilt that is not named "
               f"{record['worst_not_named_px']:.2f} px, in {record['cpu_seconds']:.0f} s of CPU")
        if arguments.record:
            with open(arguments.record, "a") as file:
                file.write(json.dumps(record) + "\n")
    if arguments.series:
        yield from honesty(records)
        return
    if tiltxcorr_installed():
        yield "torch-tiltxcorr is installed"
    else:
        yield "torch-tiltxcorr is not installed (pip install torch-tiltxcorr): it is not measured"
    yield from screen(records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=[case.name for case in CASES], help="names; see simulated_series.py")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--series", type=int, default=0, metavar="N", help="so many small series of all kinds in turn")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="without matching and torch-tiltxcorr")
    parser.add_argument("--record", metavar="FILE", help="file of records, a JSON line each, to which is added")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--readme", action="store_true", help="only the README's tables of what is recorded")
    parser.add_argument("--wrong", action="store_true", help="series that must not be trusted")
    parser.add_argument("--thicker", type=float, default=fine.THICKER)
    arguments = parser.parse_args()
    fine.THICKER = arguments.thicker
    if arguments.readme and not recorded(arguments.record):
        parser.error("--readme needs --record FILE with records")
    unknown = set(arguments.sets) - {case.name for case in CASES}
    if unknown:
        parser.error(f"no set is called {', '.join(sorted(unknown))}; there are: {', '.join(case.name for case in CASES)}")
    for line in wrong(arguments.threads) if arguments.wrong else run(arguments):
        print(line, flush=True)


if __name__ == "__main__":
    main()
