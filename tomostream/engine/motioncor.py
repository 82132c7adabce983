# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream-motioncor`: motion correction of one movie on the CPU, with the command line and files of MotionCor3.

Importing this module, ``--help`` and errors in the arguments cost milliseconds; numpy and the rest come with the work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tomostream import __version__
from tomostream.engine import limits
from tomostream.engine.commandline import Arguments, Flag, Use, flags, help_text, parse, thread_count
from tomostream.engine.errors import exit_status
from tomostream.files.errors import EngineError

if TYPE_CHECKING:
    from tomostream.engine.frames.job import Job

PROGRAM = "tomostream-motioncor"
_INTRO = f"""{PROGRAM} {__version__}: global motion correction of a movie on the CPU, with MotionCor3's options.

  {PROGRAM} -InTiff movie.tif -OutMrc sum.mrc [-Gain gain.mrc] [-FtBin 2] [-SplitSum 1] [-LogDir logs]

Options may be in upper or lower case. Images have row 0 at the bottom (a TIFF is turned over when read). The log lists
the shifts applied to the frames, in pixels of the movie before binning. Exit status 0, or 1 and one line that says why."""
_LOCAL = "local motion is not corrected: it would bend the images of a tilt series against one another"
_CTF = "the CTF of a micrograph is not estimated here; that of the tilt series is, by tomostream-aretomo"
_INPUT, _REFERENCES, _MOTION, _SUMS = "Input and output", "References and defects", "Frames and motion", "Sums"

KNOWN = flags(
    Flag("-InTiff", help="movie, TIFF: uncompressed, LZW or zip", group=_INPUT),
    Flag("-InMrc", help="movie, MRC: modes 0, 1, 2, 6, 12 and 4 bits (101)", group=_INPUT),
    Flag("-InEer", help="movie, EER; see -FmIntFile and -EerSampling", group=_INPUT),
    Flag("-OutMrc", help="sum of the frames, MRC float32; other results get _DW, _DWS, _ODD, _EVN or _Stk before .mrc",
         group=_INPUT),
    Flag("-LogDir", help="folder for <movie>-Full.log (which must exist)", group=_INPUT),
    Flag("-PixSize", float, default=(0.0,), low=0, unit="A", group=_INPUT,
         help="pixel size of the movie (of EER: after up-sampling); 0: not known"),
    Flag("-Gain", help="gain reference (.mrc, .tif, .gain, .dm4, .dm3); "
         "frames are multiplied by it; one of super-resolution is averaged for counted frames", group=_REFERENCES),
    Flag("-RotGain", int, default=(0,), low=0, high=3, unit="90 degrees", group=_REFERENCES,
         help="rotate gain and dark counter-clockwise"),
    Flag("-FlipGain", int, default=(0,), low=0, high=2, group=_REFERENCES,
         help="flip gain and dark after rotation: 1 upside down, 2 left to right (a .gain for EER needs 1)"),
    Flag("-InvGain", int, default=(0,), low=0, high=1, group=_REFERENCES, help="1: divide by the gain"),
    Flag("-Dark", help="dark reference, subtracted before the gain", group=_REFERENCES),
    Flag("-DefectFile", group=_REFERENCES, unit="px",
         help="SerialEM's defect file, or text, one defect a line: x y width height, 0-based, from the lower left corner"),
    Flag("-DefectMap", group=_REFERENCES, help="an image of the frame's size, not 0 where a pixel is bad"),
    Flag("-Throw", int, default=(0,), low=0, unit="frames", group=_MOTION, help="leave out at the start"),
    Flag("-Trunc", int, default=(0,), low=0, unit="frames", group=_MOTION, help="leave out at the end"),
    Flag("-FmIntFile", group=_MOTION, help="text, one line for a run of frames: frames, how many to sum into one, "
         "dose of a frame of the file [e/A2]"),
    Flag("-EerSampling", int, default=(1,), low=1, high=3, group=_MOTION,
         help="EER: 1, 2 or 3 for 1, 2 or 4 pixels for one of the camera in each direction"),
    Flag("-Group", int, (1, 2), (1, 4), low=1, unit="frames", group=_MOTION,
         help="sum this many for the alignment; the second number is not used"),
    Flag("-FmRef", int, default=(-1,), low=-1, group=_MOTION,
         help="frame that stays in place, from 1, those of -Throw counted; -1: the middle one"),
    Flag("-Align", int, default=(1,), low=0, high=1, group=_MOTION, help="0: sum the frames as they are"),
    Flag("-Patch", int, (1, 3), (0, 0, 0), group=_MOTION, help="accepted; local motion is not corrected"),
    Flag("-Crop", int, (2, 2), (0, 0), low=0, unit="px", group=_MOTION, help="use this many columns and rows around the "
         "centre; 0 0: all"),
    Flag("-FtBin", float, default=(1.0,), low=1, high=64, group=_SUMS, help="binning by cropping in Fourier space"),
    Flag("-SplitSum", int, default=(0,), low=0, high=1, group=_SUMS,
         help="1: also the sums of frames 1, 3, ... (_ODD) and 2, 4, ... (_EVN)"),
    Flag("-FmDose", float, default=(0.0,), low=0, unit="e/A2", group=_SUMS,
         help="dose of a frame of the file; with -PixSize it makes the dose-weighted sum (_DW)"),
    Flag("-InitDose", float, default=(0.0,), low=0, unit="e/A2", group=_SUMS, help="dose before this exposure"),
    Flag("-kV", float, default=(300.0,), low=0, unit="kV", group=_SUMS, help="high tension, for dose weighting"),
    Flag("-SumRange", float, (2, 2), (3.0, 25.0), unit="e/A2", group=_SUMS,
         help="dose-weighted sum of the frames that end within this dose of the exposure (_DWS); 0 0: none"),
    Flag("-OutStack", int, (1, 2), (0, 1), low=0, group=_SUMS,
         help="1: the aligned frames too (_Stk), summed in groups of the second number"),
    Flag("--whole-pixels", count=(0, 0), group=_SUMS,
         help="quicker sums: shifts in whole pixels, which costs up to a third of the finest detail if -FtBin is 1"),
    Flag("-Cs", float, default=(0.0,), use=Use.WARNED, note=_CTF),
    Flag("-InFmMotion", int, default=(0,), use=Use.WARNED, note="motion within a frame is not accounted for"),
    Flag("-Mag", float, (3, 3), (1.0, 1.0, 0.0), use=Use.WARNED, note="anisotropic magnification is not corrected"),
    Flag("-MaskCent", float, (2, 2), (0.0, 0.0), use=Use.WARNED, note="use -Crop"),
    Flag("-MaskSize", float, (2, 2), (1.0, 1.0), use=Use.WARNED, note="use -Crop"),
    Flag("-Roi", float, (2, 4), use=Use.WARNED, note="use -Crop"),
    Flag("-ArcDir", use=Use.WARNED, note="no archive is written"),
    Flag("-FullSum", use=Use.WARNED, note="-OutMrc is the sum of full frames already"),
    Flag("-InAln", use=Use.WARNED, note="the motion is measured"),
    Flag("-OutAln", use=Use.WARNED, note="-LogDir has the shifts"),
    Flag("-OutStar", int, default=(0,), use=Use.WARNED, note="no star file is written"),
    Flag("-StackZ", int, default=(0,), use=Use.WARNED, note="it belongs to a former version of the program"),
    Flag("-Serial", int, default=(0,), low=0, help="1 means 0 where the input is one movie; a folder is refused", group=_INPUT),
    *(Flag(tag, count=(0, 99), use=Use.SILENT) for tag in (
        "-Gpu", "-UseGpus", "-GpuMemUsage", "-Iter", "-Tol", "-Bft", "-PhaseOnly", "-CorrInterp", "-Tilt", "-TiffOrder",
        "-AmpCont", "-ExtPhase", "-TmpFile", "-InSuffix", "-InSkips", "-OutXF")),
)  # fmt: skip


def job_of(arguments: Arguments) -> Job:
    """Return what the command line asks for.

    Parameters
    ----------
    arguments : Arguments
        Of `KNOWN`.

    Returns
    -------
    Job

    Raises
    ------
    EngineError
        If there is not one input and one output, or something is asked for that is not done.
    """
    from tomostream.engine.frames.job import Job

    inputs = [(kind, arguments.text(tag)) for tag, kind in (("-InTiff", "tiff"), ("-InMrc", "mrc"), ("-InEer", "eer"))]
    given = [(kind, path) for kind, path in inputs if path]
    if len(given) != 1:
        raise EngineError("give one movie, as -InTiff, -InMrc or -InEer; see --help")
    if not arguments.text("-OutMrc"):
        raise EngineError("give the result's name, as -OutMrc sum.mrc; see --help")
    if arguments.integer("-Serial") != 0 and not os.path.isfile(given[0][1]):
        raise EngineError("-Serial 1 (all movies of a folder) is not done here; run the program once for each movie")
    kind, movie = given[0]
    stack, stack_group = arguments.integers("-OutStack")
    low, high = arguments.numbers("-SumRange")
    columns, rows = arguments.integers("-Crop")
    if low > high:
        raise EngineError(f"-SumRange {low:g} {high:g} starts after it ends; give the lower dose first")
    return Job(
        movie=movie, kind=kind, out=arguments.text("-OutMrc"), log_dir=arguments.text("-LogDir"),
        gain=arguments.text("-Gain"), dark=arguments.text("-Dark"), defect_file=arguments.text("-DefectFile"),
        defect_map=arguments.text("-DefectMap"), rotate_gain=arguments.integer("-RotGain"),
        flip_gain=arguments.integer("-FlipGain"), inverse_gain=arguments.integer("-InvGain") == 1,
        throw=arguments.integer("-Throw"), truncate=arguments.integer("-Trunc"), group=arguments.integer("-Group"),
        binning=arguments.number("-FtBin"), frame_dose=arguments.number("-FmDose"),
        initial_dose=arguments.number("-InitDose"), pixel_size=arguments.number("-PixSize"),
        voltage=arguments.number("-kV"), sum_range=(low, high), reference=arguments.integer("-FmRef"),
        align=arguments.integer("-Align") != 0, split=arguments.integer("-SplitSum") != 0,
        patches=_patches(arguments), stack=stack != 0, stack_group=max(1, stack_group), crop=(columns, rows),
        integration_file=arguments.text("-FmIntFile"), upsampling=2 ** (arguments.integer("-EerSampling") - 1),
        threads=thread_count(arguments), whole_pixels=arguments.given("--whole-pixels"), label=f"{PROGRAM} {__version__}",
    )  # fmt: skip


def _patches(arguments: Arguments) -> bool:
    """Tell whether local alignment is asked for: MotionCor3 does it only if both numbers are above 1."""
    across, down = arguments.integers("-Patch")[:2]
    return across > 1 and down > 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        Words of the command line without the program; by default those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_status(PROGRAM, lambda: _run(words))


def _run(words: Sequence[str]) -> int:
    """Answer --help and --version, else check the command line and run."""
    arguments = parse(words, KNOWN)
    if arguments.given("--version"):
        print(f"{PROGRAM} {__version__}")
        return 0
    if arguments.given("--help") or not words:
        print(help_text(_INTRO, KNOWN), end="")
        return 0
    job = job_of(arguments)
    job.check_files()
    for warning in arguments.warnings:
        _warn(warning)
    if job.patches:
        _warn(f"-Patch: {_LOCAL}; global motion is")

    limits.blas_threads(1)
    limits.keep_freed_memory()
    from tomostream.engine.frames.pipeline import correct_movie

    correct_movie(job, _say, _warn)
    return 0


def _say(line: str) -> None:
    """Print a line of progress."""
    print(line, flush=True)


def _warn(line: str) -> None:
    """Print a warning to standard error."""
    print(f"{PROGRAM}: warning: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
