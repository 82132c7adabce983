# SPDX-License-Identifier: GPL-3.0-or-later
"""What `tomostream-aretomo` reads: the stack and its halves, the tilt angles; what makes no sense is refused."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tomostream.engine.commandline import Arguments
from tomostream.engine.progress import Log
from tomostream.files.errors import EngineError
from tomostream.programs.aln import AngleRow, SecondColumn

if TYPE_CHECKING:
    from tomostream.engine.recon.stack import TiltStack

#: What is a tilt series: degrees from the lowest to the highest tilt, and from tilt to tilt in the mean (radians have less).
MIN_SPAN_DEG, MIN_STEP_DEG = 0.5, 0.15
#: The stacks of even and of odd frames.
HALVES = ("-InEven", "-InOdd")


@dataclass(frozen=True)
class Input:
    """The input of the program.

    Attributes
    ----------
    stack : TiltStack
    angles : tuple of AngleRow or None
        One a section; None where the alignment file has them.
    pixel_size_A : float
        0 where it is not known.
    halves : tuple of TiltStack
        Stacks of even and of odd frames, or none.
    add_up : bool
        Whether it is known that the halves add up to the stack (`recon.halves`).
    """

    stack: TiltStack
    angles: tuple[AngleRow, ...] | None
    pixel_size_A: float
    halves: tuple[TiltStack, ...] = ()
    add_up: bool = False


def read_input(arguments: Arguments, log: Log) -> Input:
    """Open the stacks and read the tilt angles.

    Parameters
    ----------
    arguments : Arguments
        Of `aretomo.KNOWN`.
    log : Log

    Raises
    ------
    EngineError
        If a file cannot be read, or the halves are not of the same tilts, or the angles are missing or make no sense.
    """
    from tomostream.engine.recon.solution import read_angles
    from tomostream.engine.recon.stack import open_stack

    stack = open_stack(arguments.text("-InMrc"))
    if stack.sections < 2:
        raise EngineError(f"{stack.path} has 1 section; a tilt series has several")
    angles: tuple[AngleRow, ...] | None = None
    if arguments.given("-AngFile"):
        angles, meaning = read_angles(arguments.text("-AngFile"), stack.sections)
        if meaning in (SecondColumn.DOSE_BEFORE, SecondColumn.DOSE_AFTER):
            log.say(f"{arguments.text('-AngFile')}: column 2 is read as {meaning.value}, not as the acquisition order")
    elif arguments.given("-TiltRange"):
        first, last = arguments.numbers("-TiltRange")[:2]
        step = (last - first) / (stack.sections - 1)
        angles = tuple(AngleRow(first + i * step) for i in range(stack.sections))
    elif not arguments.given("-AlnFile") or is_xf(arguments):
        angles = other_angles(arguments, stack, log)
    check_angles(arguments, angles)
    pixel = arguments.number("-PixSize") if arguments.given("-PixSize") else stack.pixel_size_A
    halves = tuple(open_stack(arguments.text(tag)) for tag in HALVES if arguments.given(tag))
    for half in halves:
        if (half.sections, half.shape) != (stack.sections, stack.shape):
            raise EngineError("{} has {} sections of {} x {} px, but {} has {} of {} x {}; give halves of the same tilts".format(
                half.path, half.sections, *half.shape[::-1], stack.path, stack.sections, *stack.shape[::-1]))
    return Input(stack, angles, pixel, halves)


def is_xf(arguments: Arguments) -> bool:
    """Tell whether the alignment that `arguments` name is a transform file of IMOD, which has no angles."""
    return arguments.text("-AlnFile").lower().endswith(".xf")


def other_angles(arguments: Arguments, stack: TiltStack, log: Log) -> tuple[AngleRow, ...]:
    """Return the angles where no option gives them: of the ``.tlt`` beside a transform file, else of the header of the stack.

    Parameters
    ----------
    arguments, log
        As for `read_input`.
    stack : TiltStack

    Raises
    ------
    EngineError
        If there are none.
    """
    from tomostream.engine.recon.solution import read_angles
    from tomostream.files.mrc_extended import read_tilts

    beside = os.path.splitext(arguments.text("-AlnFile"))[0] + ".tlt"
    if is_xf(arguments) and os.path.exists(beside):
        log.say(f"tilt angles from {beside}")
        return read_angles(beside, stack.sections)[0]
    found = read_tilts(stack.path)
    if found is None:
        raise EngineError(f"the tilt angles are missing, and the header of {stack.path} has none: give -AngFile, or -TiltRange "
                          "first last, or an alignment of AreTomo as -AlnFile")
    tilts = found.tilts_deg
    log.say(f"tilt angles from the header of {stack.path} (layout of {found.layout}): {min(tilts):g} to {max(tilts):g} degrees")
    return tuple(AngleRow(tilt) for tilt in tilts)


def check_angles(arguments: Arguments, angles: tuple[AngleRow, ...] | None) -> None:
    """Refuse, before any work, angles from which no tomogram can be made.

    Parameters
    ----------
    arguments : Arguments
    angles : tuple of AngleRow or None
        As in `Input`.

    Raises
    ------
    EngineError
    """
    if angles is None:
        return
    source = arguments.text("-AngFile") or ("-TiltRange" if arguments.given("-TiltRange") else "the tilt angles that were found")
    tilts = [row.tilt_deg for row in angles]
    span = max(tilts) - min(tilts)
    if span < MIN_SPAN_DEG or (len(tilts) > 4 and span < MIN_STEP_DEG * (len(tilts) - 1)):
        raise EngineError(f"{source}: the {len(tilts)} tilt angles span {span:g} degrees only; give them in degrees")
    if any((row.pre_exposure or 0.0) < 0 for row in angles):
        raise EngineError(f"{source}: a dose before a tilt is negative; column 3 must be e/A2, from 0")
    low, high = sorted(arguments.numbers("-ReconRange"))
    if not any(low <= tilt <= high for tilt in tilts):
        raise EngineError(
            f"-ReconRange {low:g} {high:g} holds no tilt of {source}, which has {min(tilts):g} to {max(tilts):g} degrees")
