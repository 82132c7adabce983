# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream-aretomo`: AreTomo2's command line on a CPU. Tilt series in, aligned; tomogram out.

This module reads the command line, says what will be done and in which order; `align`, `recon` and `ctf` do it.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tomostream import __version__
from tomostream.engine.commandline import Arguments, Flag, Use, flags, help_text, parse, thread_count
from tomostream.engine.errors import exit_status
from tomostream.files.errors import EngineError
from tomostream.programs import aretomo as files
from tomostream.programs.aln import AngleRow, SecondColumn, format_aln
from tomostream.programs.ctf import CtfRow, format_ctf
from tomostream.programs.quality import format_quality

if TYPE_CHECKING:
    from tomostream.engine.align import Alignment, AlignOptions
    from tomostream.engine.output import Outputs
    from tomostream.engine.recon.solution import Solution
    from tomostream.engine.recon.stack import TiltStack
    from tomostream.engine.recon.tomogram import ReconOptions

NAME = "tomostream-aretomo"
IN, ALI, REC, CTF, OUT = "Input", "Alignment", "Reconstruction", "CTF and dose", "Output"
INTRO = f"""{NAME} {__version__} - aligns a tilt series and reconstructs it on the CPU, with AreTomo2's command line.

  {NAME} -InMrc TS.mrc -OutMrc out/TS.mrc -AngFile TS.tlt -TiltAxis 84.7 1 -VolZ 1200 -OutBin 4 -PixSize 1.35

Memory: the aligned images at the output's binning (beyond 2 GB in a temporary file beside the output), one raw image
with its Fourier transforms (4 to 10 times its float32 size), and about 250 MB; the volume is written as it is made.
41 tilts of 4096 x 5760 px at -OutBin 4 take 0.8 GB. The pages of the input that the alignment looked at come on top
where the system counts mapped files; it takes them back when it needs them.
Writes, in the folder of -OutMrc: the volume with its sums over z and y (_projXY, _projXZ), <In>.aln, <In>_quality.json,
<In>_Imod/ on demand, <In>_ctf.txt and <In>_ctf.mrc where the data carry a CTF."""

KNOWN = flags(
    Flag("-InMrc", str, group=IN, help="tilt series, MRC of mode 0, 1, 2, 6 or 12, sections in any order"),
    Flag("-OutMrc", str, group=OUT, help="tomogram; with -VolZ 0 the aligned stack; float32"),
    Flag("-AngFile", str, group=IN, unit="degrees, number, e/A2",
         help="a line a section: tilt angle, acquisition order, dose before it; # begins a comment"),
    Flag("-TiltRange", float, (2, 3), group=IN, unit="degrees", help="first and last angle, evenly spaced between, "
         "where there is no angle file"),
    Flag("-AlnFile", str, group=IN, help="use this alignment (AreTomo, AreTomo2, AreTomo3 or ours); implies -Align 0"),
    Flag("-Align", int, default=(1,), low=0, high=1, group=ALI, help="0: do not align"),
    Flag("-TiltAxis", float, (1, 2), (0.0, 0.0), low=-360, high=360, group=ALI, unit="degrees",
         help="tilt axis from the y axis, counter-clockwise; 0: search all directions (an axis known to be 0 is given "
         "as 0.01). Second value: below 0 not refined, else refined"),
    Flag("-AlignZ", float, default=(600.0,), low=0, group=ALI, unit="px", help="not used: the thickness is measured, and told "
         "beside this one"),
    Flag("-TiltCor", float, (1, 2), (0.0, 0.0), group=ALI, unit="-1 | 0 | 1, degrees",
         help="tilt offset: -1 not measured, 0 used in the alignment, 1 in the reconstruction as well. Second value: "
         "the offset, where it is known"),
    Flag("-DarkTol", float, default=(0.7,), group=ALI,
         help="tilts whose mean is below this share of what their angle lets expect are dark and left out; 0, 1 and "
         "anything beyond: none is, as in AreTomo2"),
    Flag("-Patch", int, (2, 2), (0, 0), low=0, high=100, group=ALI, help="patches along x and y in which local motion is "
         "measured after the global alignment; it is applied where it stands out of the noise. 0 0: global alignment only"),
    Flag("-VolZ", int, default=(1200,), low=0, high=30000, group=REC, unit="px of the input",
         help="thickness of the tomogram; 0: write the aligned stack"),
    Flag("-OutBin", float, default=(1.0,), low=0, high=64, group=REC, help="binning by Fourier cropping; 0: none"),
    Flag("-Wbp", int, default=(0,), low=0, group=REC, help="1: weighted back-projection"),
    Flag("-Sart", int, (1, 2), (15, 5), low=1, high=1000, group=REC, unit="iterations, (not used)",
         help="iterative reconstruction (SIRT of that many iterations, in closed form), unless -Wbp 1"),
    Flag("-ReconRange", float, (2, 2), (-90.0, 90.0), group=REC, unit="degrees", help="tilt angles to use"),
    Flag("-FlipVol", int, default=(0,), low=0, group=OUT, help="0: x, z, y; 1: x, y, z"),
    Flag("-FlipInt", int, default=(0,), low=0, group=OUT, help="1: dense is bright; 0: dark, as in the input"),
    Flag("-OutImod", int, default=(0,), low=0, high=3, group=OUT, help="IMOD files: 1 for Relion, 2 for Warp, 3 "
         "with the aligned stack"),
    Flag("-PixSize", float, low=0, group=CTF, unit="A", help="pixel size; default the header's"),
    Flag("-Kv", float, low=0, high=3000, group=CTF, unit="kV", help="acceleration voltage"),
    Flag("-Cs", float, low=0, group=CTF, unit="mm", help="spherical aberration; with -Kv the CTF is fitted"),
    Flag("-AmpContrast", float, default=(0.07,), low=0, high=1, group=CTF, help="amplitude contrast, a share"),
    Flag("-ExtPhase", float, (1, 2), (0.0, 0.0), group=CTF, unit="degrees", help="phase shift in the middle of the search, "
         "and the whole width of the search (90 60: from 60 to 120); 0: no search"),
    Flag("-ImgDose", float, default=(0.0,), low=0, group=CTF, unit="e/A2",
         help="dose of a tilt: weights the tilts by the dose before them, of the angle file, else by its order"),
    Flag("-CropVol", int, (2, 2), (0, 0), low=0, group=OUT, help="not supported: anything but 0 0 is refused"),
    Flag("-RoiFile", str, use=Use.WARNED, note="the alignment uses the whole field"),
    Flag("-Roi", float, (2, 2), use=Use.WARNED, note="the alignment uses the whole field"),
    Flag("-TiltScheme", float, (3, 3), use=Use.WARNED, note="give the order in column 2 of the angle file"),
    Flag("-OutXF", int, default=(0,), use=Use.WARNED, note="use -OutImod 1"),
    Flag("-Serial", int, (0, 1), use=Use.SILENT),
    Flag("-MaskCent", float, (0, 2), use=Use.SILENT),
    Flag("-MaskSize", float, (0, 2), use=Use.SILENT),
    Flag("-Bft", float, (0, 2), use=Use.SILENT),
    Flag("-IntpCor", int, (0, 1), use=Use.SILENT),
    Flag("-TmpFile", str, (0, 1), use=Use.SILENT),
    Flag("-LogFile", str, (0, 1), use=Use.SILENT),
    Flag("-Gpu", int, (0, 99), use=Use.SILENT),
)  # fmt: skip


#: What is a tilt series: degrees from the lowest to the highest tilt, and from tilt to tilt in the mean (radians have less).
MIN_SPAN_DEG, MIN_STEP_DEG = 0.5, 0.15


@dataclass(frozen=True)
class Input:
    """The stack, its angles (None where the alignment file has them), its pixel size in A (0: not known)."""

    stack: TiltStack
    angles: tuple[AngleRow, ...] | None
    pixel_size_A: float


class Log:
    """Lines of progress on standard output, with the seconds since the start; at most one a second for one stage."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._last: tuple[str, float] = ("", 0.0)

    def say(self, line: str) -> None:
        print(f"[{time.perf_counter() - self._start:7.1f} s] {line}", flush=True)

    def share(self, what: str, share: float) -> None:
        """Progress within a stage, 0 to 1."""
        now = time.perf_counter()
        if what != self._last[0] or now - self._last[1] >= 1.0:
            self._last = (what, now)
            self.say(f"{what}: {round(100 * share)} %")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program. Returns its exit status."""
    return exit_status(NAME, lambda: _main(sys.argv[1:] if argv is None else list(argv)))


def _main(argv: Sequence[str]) -> int:
    arguments = parse(argv, KNOWN)
    if arguments.given("--help") or not argv:
        print(help_text(INTRO, KNOWN), end="")
        return 0
    if arguments.given("--version"):
        print(f"{NAME} {__version__}")
        return 0
    log = Log()
    for warning in arguments.warnings:
        log.say(f"warning: {warning}")
    _check(arguments)
    _warn_of_unused(arguments, log)
    _use_threads(thread_count(arguments))
    _run(arguments, log)
    return 0


def _warn_of_unused(arguments: Arguments, log: Log) -> None:
    """Say which options have no effect without an alignment."""
    if _aligns(arguments):
        return
    from_file = arguments.given("-AlnFile")
    used_instead = {
        "-TiltAxis": "the axis is that of the alignment file" if from_file else "the stack is taken as aligned, its axis along y",
        "-TiltCor": "the angles are those of the alignment file" if from_file else "the angles are used as they are given",
    }
    for tag, instead in used_instead.items():
        if arguments.given(tag) and any(arguments.numbers(tag)):
            log.say(f"warning: {tag} {' '.join(f'{v:g}' for v in arguments.numbers(tag))} is not used: {instead}")
    if math.prod(arguments.integers("-Patch")) > 1:
        whose = "those of the alignment file" if from_file else "not measured without an alignment"
        log.say("warning: -Patch {} {} is not used: the local shifts are {}".format(*arguments.integers("-Patch"), whose))


def _check(arguments: Arguments) -> None:
    """Refuse what makes no sense before anything is read."""
    for tag in ("-InMrc", "-OutMrc"):
        if not arguments.given(tag):
            raise EngineError(f"{tag} is missing; see {NAME} --help")
    if any(arguments.integers("-CropVol")):
        raise EngineError("-CropVol is not supported; reconstruct the whole field and crop it afterwards")
    if arguments.number("-TiltCor") not in (-1, 0, 1):
        raise EngineError(f"-TiltCor must begin with -1, 0 or 1, got {arguments.number('-TiltCor'):g}")
    _binning(arguments)
    _check_names(arguments)
    if not _aligns(arguments) and not arguments.given("-AlnFile") and not _has_angles(arguments):
        raise EngineError("-Align 0 needs the tilt angles: -AlnFile, -AngFile or -TiltRange")
    if _aligns(arguments) and not _has_angles(arguments):
        raise EngineError("the tilt angles are missing: give -AngFile, or -TiltRange first last, or -AlnFile")


def _check_names(arguments: Arguments) -> None:
    """See that the inputs are there, and that no result would replace one, or another result."""
    inputs = {tag: arguments.text(tag) for tag in ("-InMrc", "-AngFile", "-AlnFile") if arguments.given(tag)}
    for tag, path in inputs.items():
        if not os.path.exists(path):
            raise EngineError(f"{tag} {path} does not exist; check the path")
    names = files.OutputFiles.of(arguments.text("-InMrc"), arguments.text("-OutMrc"))
    results = [names.volume, names.proj_xy, names.proj_xz]
    if _aligns(arguments):
        results += [names.aln, names.quality, names.ctf_text, names.ctf_spectra]
    whole = [os.path.abspath(name) for name in results]
    twice = next((name for name in results if whole.count(os.path.abspath(name)) > 1), "")
    if twice:
        raise EngineError(f"two results would be called {twice}; give another name as -OutMrc")
    if os.path.exists(names.volume) and os.path.samefile(inputs["-InMrc"], names.volume):
        raise EngineError(f"-OutMrc is the input itself: {names.volume}; give another name")
    for source in inputs.values():
        if any(os.path.samefile(source, name) for name in results if os.path.exists(name)):
            raise EngineError(f"-OutMrc {names.volume}: a result would replace {source}, which is read; give another name")


def _aligns(arguments: Arguments) -> bool:
    return arguments.integer("-Align") == 1 and not arguments.given("-AlnFile")


def _has_angles(arguments: Arguments) -> bool:
    return arguments.given("-AngFile") or arguments.given("-TiltRange")


def _use_threads(threads: int) -> None:
    """Let the libraries that make threads of their own (BLAS, numba) have as many as were asked for."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(threads)


def _read_input(arguments: Arguments, log: Log) -> Input:
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
    _check_angles(arguments, angles)
    pixel = arguments.number("-PixSize") if arguments.given("-PixSize") else stack.pixel_size_A
    return Input(stack, angles, pixel)


def _check_angles(arguments: Arguments, angles: tuple[AngleRow, ...] | None) -> None:
    """Refuse before any work what no tomogram can come of."""
    if angles is None:
        return
    source = arguments.text("-AngFile") or "-TiltRange"
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


def _binning(arguments: Arguments) -> float:
    binning = arguments.number("-OutBin")
    if 0 < binning < 1:
        raise EngineError(f"-OutBin must be 0 (no binning) or at least 1, got {binning:g}")
    return max(1.0, binning)


def _result_bytes(arguments: Arguments, data: Input) -> int:
    """How large the tomogram or the aligned stack will be."""
    binning, depth = _binning(arguments), arguments.integer("-VolZ")
    ny, nx = (int(side / binning) for side in data.stack.shape)
    return 4 * ny * nx * (int(depth / binning) if depth else data.stack.sections)


def _run(arguments: Arguments, log: Log) -> None:
    from tomostream.engine.output import Outputs, check_room

    data = _read_input(arguments, log)
    names = files.OutputFiles.of(data.stack.path, arguments.text("-OutMrc"))
    ny, nx = data.stack.shape
    log.say(f"{data.stack.path}: {data.stack.sections} sections of {nx} x {ny} px, {data.pixel_size_A:.4g} A/px")
    with Outputs() as outputs:
        outputs.reserve(names.volume)
        check_room(names.volume, _result_bytes(arguments, data))
        if _aligns(arguments):
            outputs.reserve(names.aln)
        solution = _solve(arguments, data, log)
        options = _recon_options(arguments, data)
        if _aligns(arguments):
            solution, ctf = _with_ctf(arguments, data, names, solution, outputs, log)
            _write_alignment(arguments, data, names, solution, ctf, options, outputs)
        elif arguments.given("-AlnFile"):
            _write_imod(arguments, data, names, solution, (), options, outputs)
        used = _dosed(arguments, data, _in_range(arguments, data.stack, solution, log), log)
        _write_result(data, names, used, options, outputs, log)
    log.say(f"done: {names.volume}{_peak_memory()}")


def _peak_memory() -> str:
    """The most memory that this process held, in words, where the system tells it."""
    try:
        import resource
    except ImportError:
        return ""
    unit = 1 if sys.platform == "darwin" else 1024
    return f", peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f} MB"


def _solve(arguments: Arguments, data: Input, log: Log) -> Solution:
    """Where every tilt goes: read, or aligned."""
    from tomostream.engine.recon import solution as solutions

    if arguments.given("-AlnFile"):
        path = arguments.text("-AlnFile")
        solution = solutions.of_aln(path, data.stack)
        local = ", with local shifts" if any(tilt.placement.local is not None for tilt in solution.used) else ""
        log.say(f"alignment of {len(solution.used)} tilts from {path}{local}")
        return solution
    if data.angles is None:
        raise EngineError("the tilt angles are missing: give -AngFile, or -TiltRange first last")
    if not _aligns(arguments):
        return solutions.of_identity([row.tilt_deg for row in data.angles])
    return _align(arguments, data, data.angles, log)


def _align(arguments: Arguments, data: Input, angles: tuple[AngleRow, ...], log: Log) -> Solution:
    import numpy as np

    from tomostream.engine.align import AlignmentError, AlignOptions, align_series
    from tomostream.engine.recon import solution as solutions

    if not data.pixel_size_A > 0:
        raise EngineError(f"{data.stack.path} does not tell its pixel size, which the alignment needs: give -PixSize")
    axis, refine = arguments.numbers("-TiltAxis")
    mode, given = arguments.numbers("-TiltCor")
    offset = given if mode >= 0 and abs(given) > 0.1 else 0.0
    options = AlignOptions(
        pixel_size_A=data.pixel_size_A,
        tilt_axis_deg=axis,
        refine_axis=refine >= 0,
        full_axis_search=axis == 0,
        tilt_cor=-1 if offset or mode < 0 else round(mode),
        dark_tol=arguments.number("-DarkTol"),
        threads=thread_count(arguments),
    )
    orders = [row.order for row in angles if row.order is not None]
    try:
        alignment = align_series(
            data.stack.data,
            np.array([row.tilt_deg + offset for row in angles]),
            options,
            log.say,
            orders if len(orders) == len(angles) else None,
        )
    except AlignmentError as error:
        raise EngineError(f"{data.stack.path} could not be aligned: {error}") from None
    solution = _locally(arguments, data, alignment, options, solutions.of_alignment(alignment, mode > 0, offset), log)
    if arguments.given("-AlignZ"):
        given_A = arguments.number("-AlignZ") * data.pixel_size_A
        log.say(f"-AlignZ ({given_A:.0f} A) is not used: the thickness was measured as {alignment.thickness_A:.0f} A")
    log.say(
        f"aligned {len(solution.used)} of {data.stack.sections} tilts: axis {alignment.tilt_axis_deg:.2f} deg, "
        f"tilt offset {alignment.tilt_offset_deg + offset:.2f} deg, thickness {alignment.thickness_A:.0f} A, "
        f"quality {alignment.quality:.2f} ({alignment.quality_note})"
    )
    return solution


def _locally(
    arguments: Arguments, data: Input, alignment: Alignment, options: AlignOptions, solution: Solution, log: Log
) -> Solution:
    """With the local motion in the patches that were asked for, where there is any."""
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


def _in_range(arguments: Arguments, stack: TiltStack, solution: Solution, log: Log) -> Solution:
    """Without the tilts that the reconstruction cannot or shall not use; they stay in the alignment."""
    from tomostream.engine.recon.slab import MAX_TILT_DEG
    from tomostream.files.mrc import UNUSABLE_VALUES

    low, high = sorted(arguments.numbers("-ReconRange"))
    out: dict[int, str] = {}
    for tilt in solution.used:
        if not stack.usable(tilt.section):
            out[tilt.section] = UNUSABLE_VALUES
        elif stack.blank(tilt.section):
            out[tilt.section] = "blank: all pixels are equal"
        elif not low <= tilt.tilt_deg <= high:
            out[tilt.section] = "outside -ReconRange"
        elif abs(tilt.tilt_deg) > MAX_TILT_DEG:
            out[tilt.section] = f"tilted beyond {MAX_TILT_DEG:g} degrees"
    for section, reason in out.items():
        log.say(f"section {section + 1} is not used: {reason}")
    return solution.without(out) if out else solution


def _dosed(arguments: Arguments, data: Input, solution: Solution, log: Log) -> Solution:
    """With the dose before every tilt, where dose weighting was asked for and can be done."""
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


def _recon_options(arguments: Arguments, data: Input) -> ReconOptions:
    from tomostream.engine.recon.slab import Method
    from tomostream.engine.recon.tomogram import ReconOptions

    return ReconOptions(
        binning=_binning(arguments),
        depth_px=arguments.integer("-VolZ"),
        method=Method(0 if arguments.integer("-Wbp") > 0 else arguments.integers("-Sart")[0]),
        upright=arguments.integer("-FlipVol") > 0,
        flip_contrast=arguments.integer("-FlipInt") > 0,
        pixel_size_A=data.pixel_size_A,
        voltage_kV=arguments.number("-Kv") if arguments.given("-Kv") and arguments.number("-Kv") > 0 else 300.0,
        threads=thread_count(arguments),
    )


def _with_ctf(
    arguments: Arguments, data: Input, names: files.OutputFiles, solution: Solution, outputs: Outputs, log: Log
) -> tuple[Solution, list[CtfRow]]:
    """Fit and write the CTF where voltage and spherical aberration are given; its worth goes with the quality.

    The rows are those of the used tilts, none where no CTF was found.
    """
    if not all(arguments.given(tag) and arguments.number(tag) > 0 for tag in ("-Kv", "-Cs")):
        return solution, []
    from tomostream.engine.ctf.series import estimate
    from tomostream.engine.ctf.spectra import Optics
    from tomostream.engine.recon.tomogram import LABEL

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


def _write_alignment(
    arguments: Arguments,
    data: Input,
    names: files.OutputFiles,
    solution: Solution,
    ctf: Sequence[CtfRow],
    options: ReconOptions,
    outputs: Outputs,
) -> None:
    """The files that tell the alignment."""
    from tomostream.engine.recon.solution import aln_of

    outputs.text(names.aln, format_aln(aln_of(solution, data.stack)))
    if solution.quality is not None:
        quality = replace(solution.quality, program=f"{NAME} {__version__}")
        outputs.text(names.quality, format_quality(quality))
    _write_imod(arguments, data, names, solution, ctf, options, outputs)


def _write_imod(
    arguments: Arguments,
    data: Input,
    names: files.OutputFiles,
    solution: Solution,
    ctf: Sequence[CtfRow],
    options: ReconOptions,
    outputs: Outputs,
) -> None:
    """The files of -OutImod: of our alignment, or of the one that was given. Angles and orders as far as they are known."""
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


def _write_result(
    data: Input,
    names: files.OutputFiles,
    solution: Solution,
    options: ReconOptions,
    outputs: Outputs,
    log: Log,
) -> None:
    """The tomogram, or with -VolZ 0 the aligned stack."""
    from tomostream.engine.recon.tomogram import reconstruct, write_aligned_stack

    axis = solution.tilt_axis_deg
    if options.depth_px == 0:
        write_aligned_stack(data.stack, solution.used, axis, options, outputs, names.volume, log.share)
        return
    log.say(f"reconstruction: {options.method.name}")
    size = reconstruct(
        data.stack, solution.used, axis, options, outputs, names.volume, (names.proj_xy, names.proj_xz), log.share
    )
    log.say("tomogram of {} x {} x {}".format(*size))


if __name__ == "__main__":
    sys.exit(main())
