# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream-aretomo`: AreTomo2's command line on a CPU. Tilt series in, aligned; tomogram out.

This module reads the command line, says what will be done and in which order; `align`, `recon` and `ctf` do it.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tomostream import __version__
from tomostream.engine import inputs, limits, steps, volumes
from tomostream.engine.commandline import Arguments, Flag, Use, flags, help_text, parse, thread_count
from tomostream.engine.errors import exit_status
from tomostream.engine.gold import job as gold
from tomostream.engine.progress import Log
from tomostream.engine.steps import NAME, aligns, binning
from tomostream.files.errors import EngineError
from tomostream.programs import aretomo as files
from tomostream.programs.ctf import CtfRow

IN, ALI, REC, CTF, OUT = "Input", "Alignment", "Reconstruction", "CTF and dose", "Output"
INTRO = f"""{NAME} {__version__} - aligns a tilt series and reconstructs it on the CPU, with AreTomo2's command line.

  {NAME} -InMrc TS.mrc -OutMrc out/TS.mrc -AngFile TS.tlt -TiltAxis 84.7 1 -VolZ 1200 -OutBin 4 -PixSize 1.35

Memory: the aligned images at the output's binning (beyond 2 GB in a temporary file beside the output), for each thread (in the
reconstruction four at most) a raw image with a part of its Fourier transform (1.5 times its float32 size), and about 350 MB; the
volume is written as it is made.
41 tilts of 4096 x 5760 px at -OutBin 4 take 0.8 GB. With -Wiener 1 the spectra of the stretched
images come on top, 1.5 times the aligned images or more, likewise in a file where they are many. The pages of the input
that the alignment looked at come on top where the system counts mapped files; it takes them back when it needs them.
Writes, in the folder of -OutMrc: the volume with its sums over z and y (_projXY, _projXZ), <In>.aln, <In>_quality.json,
<In>_Imod/ on demand, <In>_ctf.txt and <In>_ctf.mrc where the data carry a CTF; with -InEven and -InOdd the volumes of
both (_even, _odd), and in <In>_quality.json the resolution that they show; with -Wiener 1 the
filtered tomogram (_wiener); with -EraseGold where the beads are (<In>_gold.star)."""

KNOWN = flags(
    Flag("-InMrc", str, group=IN, help="tilt series, MRC of mode 0, 1, 2, 6 or 12, sections in any order"),
    Flag("-InEven", str, group=IN, help="the same tilts, sums of the even frames; with -InOdd"),
    Flag("-InOdd", str, group=IN, help="sums of the odd frames: both are reconstructed as the whole is, from the same alignment"),
    Flag("-OutMrc", str, group=OUT, help="tomogram; with -VolZ 0 the aligned stack; float32"),
    Flag("-AngFile", str, group=IN, unit="degrees, number, e/A2",
         help="a line a section: tilt angle, acquisition order, dose before it; # starts a comment. "
         "Without it the angles are those of the stack's header (SerialEM, FEI)"),
    Flag("-TiltRange", float, (2, 3), group=IN, unit="degrees", help="first and last angle, evenly spaced between, "
         "where no angle file is given"),
    Flag("-AlnFile", str, group=IN, help="use this alignment (AreTomo, AreTomo2, AreTomo3 or ours, of any binning; "
         "or IMOD's .xf with its .tlt beside it); implies -Align 0"),
    Flag("-Align", int, default=(1,), low=0, high=1, group=ALI, help="0: do not align"),
    Flag("-TiltAxis", float, (1, 2), (0.0, 0.0), low=-360, high=360, group=ALI, unit="degrees",
         help="tilt axis from the y axis, counter-clockwise; 0: search all directions (an axis known to be 0 is given "
         "as 0.01). Second value: below 0 not refined, else refined"),
    Flag("-StartAln", str, group=ALI, help="start from this alignment (of the kinds and binnings that -AlnFile takes) instead of "
         "a search: its tilt axis, its tilt offset and its shifts are refined, and tilts that it leaves out are tried again"),
    Flag("-AlignZ", float, default=(600.0,), low=0, group=ALI, unit="px", help="not used: the thickness is measured, and "
         "reported beside this one"),
    Flag("-TiltCor", float, (1, 2), (0.0, 0.0), group=ALI, unit="-1 | 0 | 1, degrees",
         help="tilt offset: -1 not measured, 0 used in the alignment, 1 in the reconstruction as well. Second value: "
         "the offset, where it is known: it is added to the tilt angles and not measured. A specimen that lies flat, across the "
         "beam, at a stage angle of -10 has the offset 10"),
    Flag("-DarkTol", float, default=(0.7,), group=ALI,
         help="tilts whose mean is below this share of what their angle predicts are dark and left out; 0, 1 and "
         "anything beyond: none is, as in AreTomo2"),
    Flag("-Patch", int, (2, 2), (0, 0), low=0, high=100, group=ALI, help="patches along x and y in which local motion is "
         "measured after the global alignment; it is applied where it stands out of the noise. 0 0: global alignment only"),
    Flag("-VolZ", int, default=(1200,), low=0, high=30000, group=REC, unit="px of the input",
         help="thickness of the tomogram; 0: write the aligned stack"),
    Flag("-OutBin", float, default=(1.0,), low=0, high=64, group=REC, help="binning by Fourier cropping; 0: none"),
    Flag("-Wbp", int, default=(0,), low=0, group=REC, help="1: weighted back-projection"),
    Flag("-Sart", int, (1, 2), (15, 5), low=1, high=1000, group=REC, unit="iterations, (not used)",
         help="iterative reconstruction (SIRT of that many iterations, in closed form), unless -Wbp 1"),
    Flag("-Wiener", int, default=(0,), low=0, high=1, group=REC,
         help="1: beside it the Wiener tomogram, for viewing (_wiener): filtered and CTF corrected as measured in the series, "
         "without gold beads"),
    Flag("-EraseGold", str, default=("no",), group=REC, unit="no | auto | nm",
         help="gold beads of this diameter, or (auto) of the one they turn out to have, and hot pixels are filled with what is "
         "around them, alike in whole, even and odd images, before the reconstruction; <In>_gold.star lists the beads"),
    Flag("-OutErased", int, default=(0,), low=0, high=1, group=OUT, help="1: with -EraseGold, the tilt series without gold as "
         "well, not aligned, for another program (<In>_erased.mrc; _erased_even, _erased_odd)"),
    Flag("-CorrCTF", int, (1, 2), (0, 15), low=0, group=REC, unit="0 | 1, (not used)",
         help="1: correct the CTF by phase flipping, in strips across the tilt axis and slabs of height"),
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




def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        Words of the command line without the program; by default those of this process.
    """
    return exit_status(NAME, lambda: _main(sys.argv[1:] if argv is None else list(argv)))


def _main(argv: Sequence[str]) -> int:
    """Answer --help and --version, else check the command line and run."""
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
    limits.keep_freed_memory()
    _run(arguments, log)
    return 0


def _warn_of_unused(arguments: Arguments, log: Log) -> None:
    """Say which options have no effect without an alignment."""
    if aligns(arguments):
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
        raise EngineError(f"-TiltCor must start with -1, 0 or 1, got {arguments.number('-TiltCor'):g}")
    if arguments.given("-StartAln") and not aligns(arguments):
        raise EngineError("-StartAln is to be refined by an alignment, and -AlnFile or -Align 0 asks for none; give one of them")
    if arguments.given("-InEven") != arguments.given("-InOdd"):
        raise EngineError("-InEven and -InOdd go together; give both")
    if arguments.integer("-OutErased") and gold.asked(arguments) is None:
        raise EngineError(f"-OutErased 1 goes with {gold.TAG}: give {gold.AUTO} or the diameter of the beads in nm")
    binning(arguments)
    _check_names(arguments)


def _check_names(arguments: Arguments) -> None:
    """Check that the inputs are there, and that no result would replace one, or another result."""
    tags = ("-InMrc", *inputs.HALVES, "-AngFile", "-AlnFile", "-StartAln")
    sources = {tag: arguments.text(tag) for tag in tags if arguments.given(tag)}
    for tag, path in sources.items():
        if not os.path.exists(path):
            raise EngineError(f"{tag} {path} does not exist; check the path")
    names = files.OutputFiles.of(arguments.text("-InMrc"), arguments.text("-OutMrc"))
    results = [names.volume, names.proj_xy, names.proj_xz]
    if aligns(arguments):
        results += [names.aln, names.quality, names.ctf_text, names.ctf_spectra]
    results += [names.wiener] * arguments.integer("-Wiener")
    erases = gold.asked(arguments) is not None
    if arguments.given("-InEven"):
        results += [names.even, names.odd]
    results += [names.gold] * erases + [names.erased] * arguments.integer("-OutErased")
    results += [names.quality] * ((erases or arguments.given("-InEven")) and not aligns(arguments))
    whole = [os.path.abspath(name) for name in results]
    twice = next((name for name in results if whole.count(os.path.abspath(name)) > 1), "")
    if twice:
        raise EngineError(f"two results would be called {twice}; give another name as -OutMrc")
    if os.path.exists(names.volume) and os.path.samefile(sources["-InMrc"], names.volume):
        raise EngineError(f"-OutMrc is the input itself: {names.volume}; give another name")
    for source in sources.values():
        if any(os.path.samefile(source, name) for name in results if os.path.exists(name)):
            raise EngineError(f"-OutMrc {names.volume}: a result would replace {source}, which is read; give another name")


def _use_threads(threads: int) -> None:
    """Let the libraries that make threads of their own (BLAS, numba) have as many as were asked for.

    They read these variables when they are loaded. Where numba is loaded already it is set there: another value in the
    environment would make it refuse to compile anything more.
    """
    limits.blas_threads(threads)
    numba: Any = sys.modules.get("numba")
    if numba is None:
        os.environ["NUMBA_NUM_THREADS"] = str(threads)
    else:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def _run(arguments: Arguments, log: Log) -> None:
    """Do all steps in order; results get their names at the end."""
    from tomostream.engine.output import Outputs, check_room

    data = inputs.read_input(arguments, log)
    names = files.OutputFiles.of(data.stack.path, arguments.text("-OutMrc"))
    ny, nx = data.stack.shape
    log.say(f"{data.stack.path}: {data.stack.sections} sections of {nx} x {ny} px, {data.pixel_size_A:.4g} A/px")
    with Outputs() as outputs:
        outputs.reserve(names.volume)
        check_room(names.volume, steps.result_bytes(arguments, data))
        for name in [names.aln] * aligns(arguments) + [names.even, names.odd] * bool(data.halves) + \
                [names.wiener] * arguments.integer("-Wiener"):
            outputs.reserve(name)
        solution = steps.solve(arguments, data, log)
        if not aligns(arguments):
            solution, data = steps.readable(arguments, data, solution, log)
        options = steps.recon_options(arguments, data)
        ctf: Sequence[CtfRow] = ()
        sections, hand = tuple(tilt.section for tilt in solution.used), 0
        if aligns(arguments):
            solution, ctf = steps.with_ctf(arguments, data, names, solution, outputs, log)
            hand = (solution.quality.defocus_hand or 0) if solution.quality is not None else 0
            steps.write_alignment(arguments, data, names, solution, ctf, options, outputs)
        elif arguments.given("-AlnFile"):
            if volumes.corrects(arguments):
                ctf, sections, hand = volumes.given_ctf(arguments, data, names, solution, outputs, log)
            steps.write_imod(arguments, data, names, solution, (), options, outputs)
        used, data = steps.readable(arguments, data, solution, log) if aligns(arguments) else (solution, data)
        used = steps.dosed(arguments, data, steps.in_range(arguments, used, log), log)
        data, erased = gold.erased(arguments, data, names, used, options, outputs, log)
        if volumes.corrects(arguments):
            options = replace(options, contrast=volumes.contrast_for(arguments, data, used, ctf, sections, hand, log))
        viewing = volumes.viewing_of(arguments, data, names, used, log)
        found = volumes.write_result(data, names, used, options, outputs, log, viewing)
        volumes.write_quality(names, used, found, erased, outputs)
    log.say(f"done: {names.volume}{steps.peak_memory()}")


if __name__ == "__main__":
    sys.exit(main())
