# SPDX-License-Identifier: GPL-3.0-or-later
"""What `tomostream-aretomo` does with gold: asked for by `-EraseGold`, found by the alignment, erased, and reported."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tomostream.engine.commandline import Arguments, thread_count
from tomostream.files.errors import EngineError
from tomostream.programs.gold import MAX_NM, MIN_NM, BeadRow, format_beads
from tomostream.programs.quality import GoldQuality, Quality

if TYPE_CHECKING:
    from tomostream.engine.gold.erase import Erasure
    from tomostream.engine.gold.find import Gold
    from tomostream.engine.inputs import Input
    from tomostream.engine.output import Outputs
    from tomostream.engine.progress import Log
    from tomostream.engine.recon.options import ReconOptions
    from tomostream.engine.recon.solution import Solution
    from tomostream.engine.recon.stack import TiltStack
    from tomostream.programs.aretomo import OutputFiles

#: Words of the command line.
NO, AUTO = "no", "auto"
TAG = "-EraseGold"


@dataclass(frozen=True)
class Asked:
    """Gold is to be erased, of this diameter; None: of whatever diameter it has."""

    diameter_A: float | None


def asked(arguments: Arguments) -> Asked | None:
    """Return what `-EraseGold` asks for; None where nothing is to be erased.

    Parameters
    ----------
    arguments : Arguments

    Raises
    ------
    EngineError
        Where it is neither a word nor a diameter of beads.
    """
    word = arguments.text(TAG).lower()
    if word in (NO, "0"):
        return None
    if word == AUTO:
        return Asked(None)
    try:
        diameter = float(word)
    except ValueError:
        diameter = 0.0
    if not MIN_NM <= diameter <= MAX_NM:
        raise EngineError(f"{TAG} must be {NO}, {AUTO} or a diameter from {MIN_NM:g} to {MAX_NM:g} nm, got {word}")
    return Asked(10 * diameter)


def erased(
    arguments: Arguments, data: Input, names: OutputFiles, solution: Solution, options: ReconOptions, outputs: Outputs, log: Log
) -> tuple[Input, Erasure | None]:
    """Return the input without gold and hot pixels, where that is asked for; what was found is written.

    Parameters
    ----------
    arguments : Arguments
    data : Input
    names : OutputFiles
    solution : Solution
        With the used tilts.
    options : ReconOptions
    outputs : Outputs
    log : Log

    Returns
    -------
    Input
        The same where nothing is to be erased.
    Erasure or None

    Raises
    ------
    EngineError
        Where the pixel size is not known.
    """
    what = asked(arguments)
    if what is None:
        return data, None
    from tomostream.engine.gold.erase import ErasedStack, Erasure

    if not data.pixel_size_A > 0:
        raise EngineError(f"{data.stack.path} does not give its pixel size, which {TAG} needs: give -PixSize")
    gold = _found(arguments, data, solution, log, what.diameter_A)
    erasure = Erasure(gold, data.stack)
    stack, *halves = (ErasedStack.of(each, erasure) for each in (data.stack, *data.halves))
    clean = replace(data, stack=stack, halves=tuple(halves))
    _write_found(data, names, solution, options, gold, outputs)
    if arguments.integer("-OutErased"):
        _write_stacks(clean, names, outputs, log)
    return clean, erasure


def for_viewing(arguments: Arguments, data: Input, solution: Solution, log: Log) -> Callable[[], TiltStack | None] | None:
    """Return what finds the images without gold for the Wiener tomogram, where the other tomogram keeps it.

    Parameters
    ----------
    arguments, data, solution, log
        As for `erased`.

    Returns
    -------
    callable or None
        None where gold is erased for both already.
    """
    if asked(arguments) is not None:
        return None

    def without_gold() -> TiltStack | None:
        from tomostream.engine.gold.erase import ErasedStack, Erasure

        gold = _found(arguments, data, solution, log, done="erased from the Wiener tomogram alone")
        return ErasedStack.of(data.stack, Erasure(gold, data.stack)) if gold.beads else None

    return without_gold


def _found(
    arguments: Arguments, data: Input, solution: Solution, log: Log, diameter_A: float | None = None, done: str = "erased"
) -> Gold:
    """Return the gold of a series, and say in the log what is `done` with it."""
    from tomostream.engine.gold.find import find_gold

    gold = find_gold(data.stack, solution.used, data.pixel_size_A, diameter_A, thread_count(arguments), log.share)
    log.say(words(gold, data.pixel_size_A, done))
    return gold


def words(gold: Gold, pixel_A: float, done: str = "erased") -> str:
    """Return what was found and done, for the log.

    Parameters
    ----------
    gold : Gold
    pixel_A : float
        Of the stack.
    done : str
        With the beads.
    """
    if not gold.beads or gold.diameter_A is None:
        return "gold: no beads were found"
    count = f"{len(gold.beads)} bead{'s' * (len(gold.beads) > 1)}"
    line = f"gold: {count} of {gold.diameter_A / 10:.1f} nm {done}, {0.2 * gold.radius_px * pixel_A:.0f} nm across"
    if gold.residual_px is None:
        return line
    off = f"{gold.residual_px:.2f} px ({gold.residual_px * pixel_A:.1f} A)"
    return f"{line}; they are {off} RMS from where the alignment puts them"


def _write_found(
    data: Input, names: OutputFiles, solution: Solution, options: ReconOptions, gold: Gold, outputs: Outputs
) -> None:
    """Write the beads' places, where there are any."""
    from tomostream.engine.recon.aligned import aligned_size

    if not gold.beads:
        return
    ny, nx = aligned_size(data.stack.shape, solution.tilt_axis_deg, options.binning)
    size = (nx, ny, int(options.depth_px / options.binning) // 2 * 2)
    pixel, rows = data.pixel_size_A, []
    for bead in gold.beads:
        voxel = [v / options.binning + (n - 1) / 2 for v, n in zip(bead.position, size, strict=True)]
        x, y, z = (v * pixel for v in bead.position)
        rows.append(BeadRow((voxel[0], voxel[1], voxel[2]), (x, y, z), bead.diameter_A, bead.seen, bead.residual_px * pixel))
    outputs.text(names.gold, format_beads(rows))


def _write_stacks(data: Input, names: OutputFiles, outputs: Outputs, log: Log) -> None:
    """Write the stacks without gold as they came, for another program: the whole and, where they are given, the halves."""
    from tomostream.engine.recon.options import LABEL

    stem, end = os.path.splitext(names.erased)
    for stack, path in zip((data.stack, *data.halves), (names.erased, f"{stem}_even{end}", f"{stem}_odd{end}"), strict=False):
        target = outputs.mapped_mrc(path, (stack.sections, *stack.shape), data.pixel_size_A, LABEL, volume=False)
        for index in range(stack.sections):
            target[index] = stack.section(index) if stack.usable(index) else stack.data[index]
            log.share(f"stack without gold: {os.path.basename(path)}", (index + 1) / stack.sections)


def with_gold(quality: Quality, erasure: Erasure) -> Quality:
    """Return the quality of an alignment with what was erased, and what that says of the alignment.

    Parameters
    ----------
    quality : Quality
    erasure : Erasure
    """
    gold = erasure.gold
    found = GoldQuality(len(gold.beads), gold.diameter_A, gold.residual_px, erasure.hot_count)
    tilts = tuple(replace(tilt, gold_px=gold.offsets_px.get(tilt.section)) for tilt in quality.tilts)
    return replace(quality, gold=found, tilts=tilts)
