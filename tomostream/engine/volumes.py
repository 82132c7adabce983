# SPDX-License-Identifier: GPL-3.0-or-later
"""What `tomostream-aretomo` makes when the alignment is known: volumes, halves, the Wiener tomogram, the quality."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tomostream import __version__
from tomostream.engine.commandline import Arguments
from tomostream.engine.gold import job as gold
from tomostream.engine.inputs import Input, is_xf
from tomostream.engine.progress import Log
from tomostream.engine.steps import NAME, binning, with_ctf
from tomostream.files.errors import EngineError
from tomostream.programs import aretomo as files
from tomostream.programs.aln import AlnError, raw_sections
from tomostream.programs.ctf import CtfRow, ctf_sections, parse_ctf
from tomostream.programs.quality import Quality, format_quality, parse_quality

if TYPE_CHECKING:
    from tomostream.engine.gold.erase import Erasure
    from tomostream.engine.output import Outputs
    from tomostream.engine.recon.contrast import Contrast
    from tomostream.engine.recon.options import ReconOptions
    from tomostream.engine.recon.resolution import Resolution
    from tomostream.engine.recon.solution import Solution
    from tomostream.engine.recon.tomogram import Viewing

MIN_TILTS_OF_WIENER = 2


def corrects(arguments: Arguments) -> bool:
    """Tell whether anything in the reconstruction that `arguments` ask for uses the CTF."""
    return bool(arguments.integer("-Wiener") or arguments.integer("-CorrCTF"))


def contrast_for(
    arguments: Arguments, data: Input, solution: Solution, ctf: Sequence[CtfRow], sections: Sequence[int], hand: int, log: Log
) -> Contrast | None:
    """Return the contrast transfer of the tilts that are used, or None; what is missing is said.

    Parameters
    ----------
    arguments : Arguments
    data : Input
    solution : Solution
        With the used tilts.
    ctf : sequence of CtfRow
        Of `sections`, from 0 in the stack; none where no CTF is known.
    sections : sequence of int
    hand : int
        1: the defocus grows towards +x across the axis at positive tilts, -1: it falls, 0: not known.
    log : Log
    """
    from tomostream.engine.ctf.spectra import Optics
    from tomostream.engine.recon.contrast import contrast_of

    made = None
    if ctf and data.pixel_size_A > 0:
        kV, cs = (arguments.number(tag) if arguments.given(tag) else 0.0 for tag in ("-Kv", "-Cs"))
        optics = Optics(kV or 300.0, cs or 2.7, arguments.number("-AmpContrast"))
        made = contrast_of(ctf, sections, solution.used, optics, hand, data.pixel_size_A, binning(arguments))
    if made is None:
        what = "the Wiener tomogram holds up to the first zero of the CTF" if arguments.integer("-Wiener") else ""
        not_done = "-CorrCTF 1 is not done" if arguments.integer("-CorrCTF") else ""
        log.say(f"warning: no CTF of the tilts is known: {'; '.join(filter(None, (not_done, what)))}")
    elif not hand:
        log.say("how the defocus changes across the tilt axis is not known: it is taken as the same everywhere")
    return made


def given_ctf(
    arguments: Arguments, data: Input, names: files.OutputFiles, solution: Solution, outputs: Outputs, log: Log
) -> tuple[Sequence[CtfRow], tuple[int, ...], int]:
    """Return CTF, sections and hand for an alignment that was given: of the files beside it, else fitted (with -Kv and -Cs).

    Parameters
    ----------
    arguments, data, solution, log
        As for `contrast_for`.
    names : OutputFiles
    outputs : Outputs
        For a CTF that is fitted.

    Returns
    -------
    ctf : sequence of CtfRow
    sections : tuple of int
    hand : int
        As `contrast_for` takes them.
    """
    from tomostream.engine.recon import solution as solutions

    stem = os.path.splitext(arguments.text("-AlnFile"))[0]
    try:
        with open(f"{stem}_ctf.txt", encoding="utf-8", errors="replace") as file:
            rows = parse_ctf(file.read(), f"{stem}_ctf.txt")
        aligned: Sequence[int] = range(data.stack.sections)
        if not is_xf(arguments):
            aligned, _ = raw_sections(solutions.read_aln(arguments.text("-AlnFile")), data.stack.sections)
        sections = ctf_sections(len(rows), aligned, data.stack.sections)
    except (OSError, AlnError):
        rows, sections = (), ()
    if sections:
        log.say(f"CTF of {len(rows)} tilts from {stem}_ctf.txt")
        return rows, sections, _quality_beside(f"{stem}_quality.json").defocus_hand or 0
    solution, found = with_ctf(arguments, data, names, replace(solution, quality=Quality()), outputs, log)
    quality = solution.quality
    return found, tuple(tilt.section for tilt in solution.used), (quality.defocus_hand or 0) if quality is not None else 0


def viewing_of(arguments: Arguments, data: Input, names: files.OutputFiles, solution: Solution, log: Log) -> Viewing | None:
    """Return what the Wiener tomogram is made with, where it is asked for and can be made; the thickness is the alignment's
    own, else it is measured.

    Parameters
    ----------
    arguments, data, solution, log
        As for `contrast_for`.
    names : OutputFiles

    Raises
    ------
    EngineError
        If the pixel size is not known.
    """
    from tomostream.engine.recon.tomogram import Viewing

    if not arguments.integer("-Wiener"):
        return None
    if arguments.integer("-VolZ") == 0:
        log.say("warning: -Wiener 1 is not used: -VolZ 0 asks for the aligned stack")
        return None
    if len(solution.used) < MIN_TILTS_OF_WIENER:
        log.say(f"warning: -Wiener 1 is not used: {MIN_TILTS_OF_WIENER} tilts are needed, to separate specimen from noise")
        return None
    if not data.pixel_size_A > 0:
        raise EngineError(f"{data.stack.path} does not give its pixel size, which the Wiener tomogram needs: give -PixSize")
    quality = solution.quality
    if quality is None and arguments.given("-AlnFile"):
        quality = _quality_beside(os.path.splitext(arguments.text("-AlnFile"))[0] + "_quality.json")
    thickness_A = quality.thickness_A if quality is not None else None
    return Viewing(names.wiener, thickness_A, gold.for_viewing(arguments, data, solution, log))


def write_result(
    data: Input,
    names: files.OutputFiles,
    solution: Solution,
    options: ReconOptions,
    outputs: Outputs,
    log: Log,
    viewing: Viewing | None = None,
) -> Resolution | None:
    """Write the tomogram, or with -VolZ 0 the aligned stack, and the same of the halves.

    Parameters
    ----------
    data : Input
    names : OutputFiles
    solution : Solution
        With the used tilts.
    options : ReconOptions
    outputs : Outputs
    log : Log
    viewing : Viewing, optional
        The Wiener tomogram, which is written too.

    Returns
    -------
    Resolution or None
        That the halves show; None without halves.
    """
    from tomostream.engine.recon.halves import subtract
    from tomostream.engine.recon.images import write_aligned_stack
    from tomostream.engine.recon.options import LABEL
    from tomostream.engine.recon.tomogram import reconstruct

    axis = solution.tilt_axis_deg
    halves = list(zip(data.halves, (names.even, names.odd), strict=False))
    if options.depth_px == 0:
        for stack, path in [(data.stack, names.volume), *halves]:
            write_aligned_stack(stack, solution.used, axis, options, outputs, path, log.share)
        return None
    log.say(f"reconstruction: {options.method.name}")
    projections = (names.proj_xy, names.proj_xz)
    made = reconstruct(
        data.stack, solution.used, axis, options, outputs, names.volume, projections, log.share, viewing=viewing)
    log.say("tomogram of {} x {} x {}".format(*made.size))
    if made.findings is not None:
        log.say(f"Wiener tomogram: {made.findings.words()}")
    for stack, path in halves:
        log.say(f"tomogram of {stack.path}")
        if data.add_up and path == names.odd:
            subtract(outputs, names.volume, names.even, path, options.pixel_size_A * options.binning, LABEL)
            continue
        reconstruct(stack, solution.used, axis, options, outputs, path, None, log.share, made.scales)
    return _compared(names, solution, options, outputs, log) if halves else None


def _compared(
    names: files.OutputFiles, solution: Solution, options: ReconOptions, outputs: Outputs, log: Log
) -> Resolution | None:
    """Return the resolution that the two halves show, in words too; None where the pixel size is not known."""
    from tomostream.engine.recon.resolution import resolution
    from tomostream.files.mrc import open_mrc

    if not options.pixel_size_A > 0:
        return None
    even, odd = (open_mrc(outputs.reserve(path)) for path in (names.even, names.odd))
    widest = max(abs(tilt.tilt_deg) for tilt in solution.used)
    thickness = solution.quality.thickness_A if solution.quality is not None else None
    pixel_A = options.pixel_size_A * options.binning
    found = resolution(even, odd, pixel_A, options.upright, thickness, widest, options.threads)
    xy, z = ("none" if figure is None else f"{figure:.0f} A" for figure in (found.xy_A, found.z_A))
    log.say(f"resolution by the halves (correlation of 0.143): {xy} in the plane, {z} along z")
    return found


def write_quality(
    names: files.OutputFiles, solution: Solution, found: Resolution | None, erased: Erasure | None, outputs: Outputs
) -> None:
    """Write what is known of the alignment and, from its halves, of the tomogram; what was erased.

    Of an alignment that was given, the file beside the tomogram is taken up and the rest put into it.

    Parameters
    ----------
    names : OutputFiles
    solution : Solution
        Its quality is None where the alignment was given.
    found : Resolution or None
    erased : Erasure or None
    outputs : Outputs
    """
    quality = solution.quality
    aligned = quality is not None
    if quality is None and found is None and erased is None:
        return
    if quality is None:
        quality = _quality_beside(names.quality)
    if found is not None:
        quality = replace(quality, resolution_xy_A=found.xy_A, resolution_z_A=found.z_A)
    if erased is not None:
        quality = gold.with_gold(quality, erased)
    outputs.text(names.quality, format_quality(replace(quality, program=f"{NAME} {__version__}" if aligned else quality.program)))


def _quality_beside(path: str) -> Quality:
    """Return the quality that an earlier run left there; an empty one where there is none that makes sense."""
    try:
        with open(path, encoding="utf-8") as file:
            return parse_quality(file.read(), path)
    except (OSError, AlnError, UnicodeDecodeError):
        return Quality()
