# SPDX-License-Identifier: GPL-3.0-or-later
"""What `tomostream-aretomo` does, step by step: read, align, fit the CTF, reconstruct, write. `aretomo` puts them in order."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tomostream.engine.commandline import Arguments, thread_count
from tomostream.engine.inputs import HALVES, Input, is_xf
from tomostream.engine.progress import Log
from tomostream.files.errors import EngineError
from tomostream.programs import aretomo as files
from tomostream.programs.aln import AngleRow, DarkFrame, format_aln
from tomostream.programs.ctf import CtfRow, format_ctf

if TYPE_CHECKING:
    from tomostream.engine.align import Alignment, AlignOptions, Start
    from tomostream.engine.output import Outputs
    from tomostream.engine.recon.options import ReconOptions, TiltUse
    from tomostream.engine.recon.solution import Solution

NAME = "tomostream-aretomo"
#: A tilt offset given with -TiltCor that is no larger counts as not given: it is measured.
MIN_OFFSET_DEG = 0.1


def aligns(arguments: Arguments) -> bool:
    """Tell whether the program aligns, by its `arguments`: not with -AlnFile, nor with -Align 0."""
    return arguments.integer("-Align") == 1 and not arguments.given("-AlnFile")


def binning(arguments: Arguments) -> float:
    """Return the binning of the results, 1 or more.

    Parameters
    ----------
    arguments : Arguments

    Raises
    ------
    EngineError
        For one between 0 and 1.
    """
    binning = arguments.number("-OutBin")
    if 0 < binning < 1:
        raise EngineError(f"-OutBin must be 0 (no binning) or at least 1, got {binning:g}")
    return max(1.0, binning)


def result_bytes(arguments: Arguments, data: Input) -> int:
    """Return how large the tomogram or the aligned stack will be, with its halves, bytes.

    Parameters
    ----------
    arguments : Arguments
    data : Input
    """
    factor, depth = binning(arguments), arguments.integer("-VolZ")
    ny, nx = (int(side / factor) for side in data.stack.shape)
    volumes = 1 + len(HALVES) * arguments.given(HALVES[0]) + arguments.integer("-Wiener")
    stacks = arguments.integer("-OutErased") * (1 + len(data.halves))
    erased = 4 * stacks * data.stack.sections * data.stack.shape[0] * data.stack.shape[1]
    return 4 * ny * nx * (int(depth / factor) if depth else data.stack.sections) * volumes + erased


def peak_memory() -> str:
    """Return the most memory that this process held, in words, where the system says."""
    try:
        import resource
    except ImportError:
        return ""
    unit = 1 if sys.platform == "darwin" else 1024
    return f", peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f} MB"


def solve(arguments: Arguments, data: Input, log: Log) -> Solution:
    """Return where every tilt goes: read, or aligned.

    Parameters
    ----------
    arguments, log
        As for `read_input`.
    data : Input

    Raises
    ------
    EngineError
        If the alignment file cannot be read, or the series cannot be aligned.
    """
    from tomostream.engine.recon import solution as solutions

    if arguments.given("-AlnFile"):
        path = arguments.text("-AlnFile")
        if is_xf(arguments):
            solution = solutions.of_xf(path, [row.tilt_deg for row in data.angles or ()], log.say)
        else:
            solution = solutions.of_aln(path, data.stack, log.say)
        local = ", with local shifts" if any(tilt.placement.local is not None for tilt in solution.used) else ""
        log.say(f"alignment of {len(solution.used)} tilts from {path}{local}")
        return solution
    if data.angles is None:
        raise EngineError("the tilt angles are missing: give -AngFile, or -TiltRange first last")
    if not aligns(arguments):
        return solutions.of_identity([row.tilt_deg for row in data.angles])
    return align(arguments, data, data.angles, log)


def align(arguments: Arguments, data: Input, angles: tuple[AngleRow, ...], log: Log) -> Solution:
    """Return where every tilt goes, by our own alignment.

    Parameters
    ----------
    arguments, data, log
        As for `solve`.
    angles : tuple of AngleRow
        One a section.

    Raises
    ------
    EngineError
        If the pixel size is not known, or the series cannot be aligned.
    """
    import numpy as np

    from tomostream.engine.align import AlignmentError, align_series
    from tomostream.engine.recon import solution as solutions

    if not data.pixel_size_A > 0:
        raise EngineError(f"{data.stack.path} does not give its pixel size, which the alignment needs: give -PixSize")
    mode, given = arguments.numbers("-TiltCor")
    offset = given if mode >= 0 and abs(given) > MIN_OFFSET_DEG else 0.0
    tilts = [row.tilt_deg + offset for row in angles]
    options = align_options(arguments, data, bool(offset), start_of(arguments, data, tilts, log))
    orders = [row.order for row in angles if row.order is not None]
    known = orders if len(orders) == len(angles) else None
    try:
        alignment = align_series(data.stack.data, np.array(tilts), options, log.say, known)
    except AlignmentError as error:
        raise EngineError(f"{data.stack.path} could not be aligned: {error}") from None
    solution = locally(arguments, data, alignment, options, solutions.of_alignment(alignment, mode > 0, offset), log)
    if arguments.given("-AlignZ"):
        given_A = arguments.number("-AlignZ") * data.pixel_size_A
        log.say(f"-AlignZ ({given_A:.0f} A) is not used: the thickness was measured as {alignment.thickness_A:.0f} A")
    log.say(
        f"aligned {len(solution.used)} of {data.stack.sections} tilts: axis {alignment.tilt_axis_deg:.2f} deg, "
        f"tilt offset {alignment.tilt_offset_deg + offset:.2f} deg, thickness {alignment.thickness_A:.0f} A, "
        f"quality {alignment.quality:.2f} ({alignment.quality_note})"
    )
    return solution


def align_options(arguments: Arguments, data: Input, offset_given: bool, start: Start | None) -> AlignOptions:
    """Return how to align.

    Parameters
    ----------
    arguments, data
        As for `solve`.
    offset_given : bool
        Whether the tilt offset is known, and so not measured.
    start : Start, optional
        The alignment to start from; with it all directions are never searched.
    """
    from tomostream.engine.align import AlignOptions

    axis, refine = arguments.numbers("-TiltAxis")
    mode = arguments.number("-TiltCor")
    return AlignOptions(
        pixel_size_A=data.pixel_size_A,
        tilt_axis_deg=axis,
        refine_axis=refine >= 0,
        full_axis_search=axis == 0 and start is None,
        tilt_cor=-1 if offset_given or mode < 0 else round(mode),
        dark_tol=arguments.number("-DarkTol"),
        threads=thread_count(arguments),
        start=start,
    )


def start_of(arguments: Arguments, data: Input, angles: Sequence[float], log: Log) -> Start | None:
    """Return the alignment that ours is to start from (-StartAln), or None.

    Parameters
    ----------
    arguments, data, log
        As for `solve`.
    angles : sequence of float
        Tilt angles, degrees, that hold a given offset already.
    """
    if not arguments.given("-StartAln"):
        return None
    import numpy as np

    from tomostream.engine.align import Start
    from tomostream.engine.recon import solution as solutions

    path = arguments.text("-StartAln")
    known = solutions.of_xf(path, angles, log.say) if path.endswith(".xf") else solutions.of_aln(path, data.stack, log.say)
    shifts, there = np.zeros((len(angles), 2)), np.zeros(len(angles), bool)
    for tilt in known.used:     # `Solution` counts from the centre of the area, half a pixel before index n / 2
        shifts[tilt.section] = tilt.placement.tx - 0.5, tilt.placement.ty - 0.5
        there[tilt.section] = True
    offset = float(np.median([tilt.tilt_deg - angles[tilt.section] for tilt in known.used]))
    return Start(known.tilt_axis_deg, offset, shifts, there)


def locally(
    arguments: Arguments, data: Input, alignment: Alignment, options: AlignOptions, solution: Solution, log: Log
) -> Solution:
    """Return the solution with the local motion in the patches that were asked for, where there is any.

    Parameters
    ----------
    arguments, data, log
        As for `solve`.
    alignment, options : Alignment, AlignOptions
        The global alignment, and how it was made.
    solution : Solution
        Of that alignment.
    """
    across, down = arguments.integers("-Patch")
    if across * down < 2:
        return solution
    from tomostream.engine.align.local import local_motion
    from tomostream.engine.recon.solution import with_local

    orders = [row.order for row in data.angles or () if row.order is not None]
    known = orders if len(orders) == data.stack.sections else None
    motion = local_motion(data.stack.data, alignment, options, (across, down), log.say, known)
    log.say(motion.note)
    return with_local(solution, motion, data.stack.shape)


def readable(arguments: Arguments, data: Input, solution: Solution, log: Log) -> tuple[Solution, Input]:
    """Return the solution without the tilts whose image, or one of its halves, holds nothing to use; and the input with what is
    known of its halves then.

    Parameters
    ----------
    arguments, data, log
        As for `solve`.
    solution : Solution
        Images that were aligned here have been checked already.
    """
    from tomostream.engine.recon.halves import look
    from tomostream.engine.threads import parallel
    from tomostream.files.mrc import UNUSABLE_VALUES

    def wrong(tilt: TiltUse) -> tuple[str, bool]:
        """Return why a tilt is not used, "" where it is; and whether its halves add up to it."""
        seen = look(data.stack, data.halves, tilt.section) if data.halves else None
        usable = data.stack.usable(tilt.section) if seen is None and not aligns(arguments) else seen is None or seen.usable[0]
        found = "" if usable or aligns(arguments) else UNUSABLE_VALUES
        for half, good in zip(data.halves, seen.usable[1:] if seen is not None else (), strict=True):
            found = found if good else f"{UNUSABLE_VALUES} in {half.path}"
        blank = not (found or aligns(arguments)) and data.stack.blank(tilt.section)
        return "blank: all pixels are equal" if blank else found, seen is not None and seen.adds_up

    seen = parallel(wrong, solution.used, thread_count(arguments))
    out = {tilt.section: reason for tilt, (reason, _) in zip(solution.used, seen, strict=True) if reason}
    data = replace(data, add_up=all(adds_up for reason, adds_up in seen if not reason))
    order = sorted(solution.used, key=lambda tilt: tilt.tilt_deg)
    dark = tuple(DarkFrame(frame, tilt.section, tilt.tilt_deg) for frame, tilt in enumerate(order) if tilt.section in out)
    return replace(_without(solution, out, log), dark=(*solution.dark, *dark)), data


def _without(solution: Solution, out: dict[int, str], log: Log) -> Solution:
    """Return the solution without the sections `out`, and say why each is not used."""
    for section, reason in out.items():
        log.say(f"section {section + 1} is not used: {reason}")
    return solution.without(out) if out else solution


def in_range(arguments: Arguments, solution: Solution, log: Log) -> Solution:
    """Return the solution without the tilts that the reconstruction cannot or shall not use; they stay in the alignment.

    Parameters
    ----------
    arguments, log
        As for `solve`.
    solution : Solution
    """
    from tomostream.engine.recon.slab import MAX_TILT_DEG

    low, high = sorted(arguments.numbers("-ReconRange"))
    out: dict[int, str] = {}
    for tilt in solution.used:
        if not low <= tilt.tilt_deg <= high:
            out[tilt.section] = "outside -ReconRange"
        elif abs(tilt.tilt_deg) > MAX_TILT_DEG:
            out[tilt.section] = f"tilted beyond {MAX_TILT_DEG:g} degrees"
    return _without(solution, out, log)


def dosed(arguments: Arguments, data: Input, solution: Solution, log: Log) -> Solution:
    """Return the solution with the dose before every tilt, where dose weighting was asked for and can be done.

    Parameters
    ----------
    arguments, data, log
        As for `solve`.
    solution : Solution
    """
    dose = arguments.number("-ImgDose")
    if dose <= 0:
        return solution
    if data.angles is None or data.pixel_size_A <= 0:
        what = "the angle file (-AngFile)" if data.angles is None else "the pixel size (-PixSize)"
        log.say(f"warning: -ImgDose without {what}: the tilts are not dose weighted")
        return solution
    doses = [row.pre_exposure for row in data.angles]
    if any(value is None for value in doses):
        doses = [None if row.order is None else (row.order - 1) * dose for row in data.angles]
    if any(value is None for value in doses):
        log.say("warning: the angle file has neither order nor dose: the tilts are not dose weighted")
        return solution
    known = {section: float(value or 0.0) for section, value in enumerate(doses)}
    log.say(f"dose weighting: {min(known.values()):g} to {max(known.values()):g} e/A2 before the tilts")
    return solution.with_doses(known)


def recon_options(arguments: Arguments, data: Input) -> ReconOptions:
    """Return how to reconstruct, as `arguments` and `data` say."""
    from tomostream.engine.recon.options import ReconOptions
    from tomostream.engine.recon.slab import Method

    return ReconOptions(
        binning=binning(arguments),
        depth_px=arguments.integer("-VolZ"),
        method=Method(0 if arguments.integer("-Wbp") > 0 else arguments.integers("-Sart")[0]),
        upright=arguments.integer("-FlipVol") > 0,
        flip_phases=arguments.integer("-CorrCTF") > 0,
        flip_contrast=arguments.integer("-FlipInt") > 0,
        pixel_size_A=data.pixel_size_A,
        voltage_kV=arguments.number("-Kv") if arguments.given("-Kv") and arguments.number("-Kv") > 0 else 300.0,
        threads=thread_count(arguments),
    )


def with_ctf(
    arguments: Arguments, data: Input, names: files.OutputFiles, solution: Solution, outputs: Outputs, log: Log
) -> tuple[Solution, list[CtfRow]]:
    """Fit and write the CTF where voltage and spherical aberration are given; its worth goes with the quality.

    Parameters
    ----------
    arguments, data, log
        As for `solve`.
    names : OutputFiles
    solution : Solution
    outputs : Outputs

    Returns
    -------
    Solution
    list of CtfRow
        Of the used tilts; none where no CTF was found.
    """
    if not all(arguments.given(tag) and arguments.number(tag) > 0 for tag in ("-Kv", "-Cs")):
        return solution, []
    from tomostream.engine.ctf.series import estimate
    from tomostream.engine.ctf.spectra import Optics
    from tomostream.engine.recon.options import LABEL

    optics = Optics(arguments.number("-Kv"), arguments.number("-Cs"), arguments.number("-AmpContrast"))
    guess, width = arguments.numbers("-ExtPhase")[:2]
    threads = thread_count(arguments)
    found = estimate(data.stack, solution.used, optics, (guess, width / 2), data.pixel_size_A, threads, log.share)
    log.say(f"{'no CTF' if found.series is None else 'CTF'}: {found.note}")
    rows: list[CtfRow] = []
    if found.series is not None and found.pictures is not None:
        rows = [
            CtfRow(i, t.defocus_max_A, t.defocus_min_A, t.azimuth_deg, t.phase_rad, t.score, t.resolution_A)
            for i, t in enumerate(found.series.tilts, start=1)
        ]
        outputs.text(names.ctf_text, format_ctf(rows))
        outputs.mrc(names.ctf_spectra, found.pictures, 1.0, LABEL)
    if solution.quality is not None:
        hand = None if found.series is None else found.series.hand
        solution = replace(solution, quality=replace(solution.quality, ctf_note=found.note, defocus_hand=hand))
    return solution, rows


def write_alignment(
    arguments: Arguments,
    data: Input,
    names: files.OutputFiles,
    solution: Solution,
    ctf: Sequence[CtfRow],
    options: ReconOptions,
    outputs: Outputs,
) -> None:
    """Write the files of the alignment.

    Parameters
    ----------
    arguments, data
        As for `solve`.
    names : OutputFiles
    solution : Solution
    ctf : sequence of CtfRow
        Of the used tilts, or none.
    options : ReconOptions
    outputs : Outputs
    """
    from tomostream.engine.recon.solution import aln_of

    outputs.text(names.aln, format_aln(aln_of(solution, data.stack)))
    write_imod(arguments, data, names, solution, ctf, options, outputs)


def write_imod(
    arguments: Arguments,
    data: Input,
    names: files.OutputFiles,
    solution: Solution,
    ctf: Sequence[CtfRow],
    options: ReconOptions,
    outputs: Outputs,
) -> None:
    """Write the files of -OutImod: of our alignment, or of the one that was given. Angles and orders as far as they are known.

    Parameters
    ----------
    arguments, data, names, solution, ctf, options, outputs
        As for `write_alignment`.
    """
    from tomostream.engine.recon.imod import ImodJob, write_imod

    if arguments.integer("-OutImod") == 0:
        return
    outputs.folder(names.imod_folder)
    shown = {t.section: t.tilt_deg for t in solution.used} | {d.section: d.tilt_deg for d in solution.dark}
    given = data.angles or tuple(AngleRow(shown.get(i, 0.0)) for i in range(data.stack.sections))
    orders = [row.order if row.order is not None else i + 1 for i, row in enumerate(given)]
    angles = [shown.get(i, row.tilt_deg) for i, row in enumerate(given)]
    job = ImodJob(arguments.integer("-OutImod"), names, os.path.abspath(data.stack.path), orders, angles, ctf)
    write_imod(outputs, job, data.stack, solution, options)
