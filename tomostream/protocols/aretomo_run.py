# SPDX-License-Identifier: GPL-3.0-or-later
"""One tilt series through AreTomo2 or the CPU program: its input files, its command line, and the results in its files."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import mrcfile
import numpy as np

from tomostream.acquisition.movies import check_movie
from tomostream.files.mrc import open_mrc
from tomostream.files.writing import sync_tree
from tomostream.programs import aretomo as files
from tomostream.programs.aln import (
    AlnError,
    AlnFile,
    AlnRow,
    AngleRow,
    format_aln,
    format_angles,
    parse_aln,
    raw_sections,
    row_from_xf,
)
from tomostream.programs.ctf import ctf_sections, parse_ctf
from tomostream.programs.quality import Quality, parse_quality
from tomostream.programs.words import parse_flags, phase_search, tilt_axis_word, words_of_flags
from tomostream.protocols.aretomo_series import Result, Settings, Source
from tomostream.protocols.programs import Runner
from tomostream.streaming.work import BadInput, ProgramFailed

EVEN, ODD = "_even", "_odd"
#: End of the name of the angle file (angle, acquisition order, dose before the tilt).
ANGLES = "_angles.txt"
#: The program may round the size of the volume; a difference of more voxels means a wrong volume.
SIZE_TOLERANCE = 2
#: MRC modes that AreTomo2 and AreTomo3 read.
GPU_MODES = (1, 2, 6)
Parsed = TypeVar("Parsed")


class AretomoRun:
    """A series through AreTomo2 or the CPU program, in a folder of its own.

    Parameters
    ----------
    runner : the program that was chosen.
    cpu : the CPU program, for what AreTomo2 cannot do; the same as `runner` where it was chosen.
    """

    def __init__(self, source: Source, settings: Settings, folder: str, runner: Runner, cpu: Runner) -> None:
        self.source, self.settings, self.folder = source, settings, folder
        self.runner, self.cpu = runner, cpu

    @property
    def stem(self) -> str:
        return os.path.join(self.folder, self.source.series_id)

    @property
    def out(self) -> files.OutputFiles:
        """The output files of the whole series, under AreTomo2's names."""
        return files.OutputFiles.of(f"{self.stem}.mrcs", f"{self.stem}.mrc")

    @property
    def parts(self) -> tuple[str, ...]:
        """Suffixes of the tomograms: the whole, and the halves where they are asked for."""
        return ("", EVEN, ODD) if self.settings.halves else ("",)

    @property
    def angles(self) -> str:
        """The angle file of the program. It has three columns, so it is not called `.tlt`: others expect one column there."""
        return f"{self.stem}{ANGLES}"

    def run(self) -> Result:
        """Align and reconstruct into the folder.

        Raises
        ------
        BadInput : the series cannot be processed, with the reason.
        ProgramFailed : the program left no usable result.
        """
        self.check_input()
        self.write_inputs()
        commands = [self.run_program(self.runner, self.source.command, "")]
        result = self.read_results()
        notes: list[str] = []
        if self.settings.gold and self.settings.tomogram and self.runner.gpu:
            result = replace(result, quality=self.erase_gold(commands, notes))
        elif self.settings.halves and self.settings.tomogram:
            self.make_halves(commands, notes)
            result = replace(result, quality=self.read_quality())
        if self.settings.imod and self.runner.gpu:
            commands.append(self.write_imod())
        filtered = self.settings.filtered and self.settings.tomogram and self.make_filtered(commands, notes)
        return self.finish(replace(result, commands=tuple(commands), notes=tuple(notes), filtered=filtered))

    def make_filtered(self, commands: list[str], notes: list[str]) -> bool:
        """Make the filtered tomogram with the CPU program, unless it is there already; tell whether there is one. It is only for
        viewing, so a series without one is done all the same."""
        if self.runner.gpu and not os.path.exists(self.out.wiener):
            commands.append(self.by_cpu(halves=False, filtered=True))
        if check_movie(self.out.wiener).state == "complete":
            return True
        notes.append(f"no filtered tomogram: {self.cpu.name} made none")
        return False

    def make_halves(self, commands: list[str], notes: list[str]) -> None:
        """Reconstruct both halves with the alignment of the whole series, adding to the command lines and notes. The CPU program
        has made them together with the whole."""
        if not self.runner.gpu:
            return
        if self._has_local_shifts():
            notes.append(f"halves by {self.cpu.name}: {self.runner.name} does not read local shifts from an alignment file")
            commands.append(self.by_cpu(halves=True, filtered=self.settings.filtered))
            for suffix in (EVEN, ODD):
                self.check_volume(f"{self.stem}{suffix}.mrc", "", self.cpu_log, self.cpu)
        else:
            commands += [self.run_program(self.runner, self.source.half_command, suffix) for suffix in (EVEN, ODD)]

    def erase_gold(self, commands: list[str], notes: list[str]) -> Quality | None:
        """Make the tomograms again without gold, which no GPU program erases, from the alignment; return the quality, which says
        what was erased."""
        notes.append(f"tomograms by {self.cpu.name}, which erases gold")
        commands.append(self.by_cpu(halves=self.settings.halves, filtered=self.settings.filtered, whole=True))
        for suffix in self.parts:
            self.check_volume(f"{self.stem}{suffix}.mrc", "", self.cpu_log, self.cpu)
        return read_if_there(self.out.quality, parse_quality)

    @property
    def cpu_log(self) -> str:
        """The log of the CPU program where it adds to the work of a GPU program."""
        return f"{self.stem}_cpu.log"

    def by_cpu(self, halves: bool, filtered: bool, whole: bool = False) -> str:
        """Make halves and the filtered tomogram with one run of the CPU program, from the alignment file; return its command.

        It always makes the whole tomogram too, which is kept only with `whole`: then it replaces the one with gold.
        """
        made, names = files.OutputFiles.of(f"{self.stem}.mrcs", f"{self.stem}_cpu.mrc"), self.out
        flags = AretomoRun.flags(self, self.cpu, self.source.half_command, EVEN)
        flags |= {"-InMrc": [f"{self.stem}.mrcs"], "-OutMrc": [made.volume], "-VolZ": [str(self.slices_of_whole())]}
        flags |= self._halves() if halves else {}
        flags |= {"-Wiener": ["1"]} if filtered else {}
        if whole:
            flags |= {"-EraseGold": [self.settings.gold]} | ({"-CorrCTF": ["1"]} if self.settings.correct_ctf else {})
        asked = parse_flags(self.source.command)
        flags |= {tag: asked[tag] for tag in ("-Kv", "-Cs", "-AmpContrast") if tag in asked and self.settings.ctf}
        line = words_of_flags(flags)
        self.cpu.run(line, self.cpu_log)
        kept = [(made.even, names.even), (made.odd, names.odd), (made.wiener, names.wiener)]
        kept += [(made.volume, names.volume), (made.proj_xy, names.proj_xy), (made.proj_xz, names.proj_xz)] * whole
        for name, known in kept:
            if os.path.exists(name):
                os.replace(name, known)
        for name in (made.volume, made.proj_xy, made.proj_xz):
            if os.path.exists(name):
                os.remove(name)
        return f"{self.cpu.command} {line}"

    def slices_of_whole(self) -> int:
        """Return the height of the existing tomogram in unbinned px: the program may have chosen it."""
        _, rows, sections = open_mrc(f"{self.stem}.mrc").shape[::-1]
        return (sections if self.settings.flip else rows) * self.settings.binning_for(self.source.pixel_size)

    def _halves(self) -> dict[str, list[str]]:
        """Return the flags of the CPU program for the halves."""
        return {"-InEven": [f"{self.stem}{EVEN}.mrcs"], "-InOdd": [f"{self.stem}{ODD}.mrcs"]}

    def finish(self, result: Result) -> Result:
        """Return the result with what is known only after everything has run."""
        return result

    # ------------------------------------------------------------------ what is given to the program
    def check_input(self) -> None:
        """Refuse a series that no program could process."""
        source = self.source
        check = check_movie(source.stack)
        if check.state != "complete":
            words = f"the stack {os.path.basename(source.stack)} is not complete: {check.reason}"
            raise ProgramFailed(words) if check.state == "growing" else BadInput(words)
        if len(source.used) < self.min_tilts:
            raise BadInput(f"only {len(source.used)} of its tilts are enabled; {self.runner.name} needs at least "
                           f"{self.min_tilts}")
        problem = self.name_problem()
        if problem:
            raise BadInput(problem)
        if self.settings.halves and self.settings.tomogram and not (source.even and source.odd):
            raise BadInput("even and odd tomograms were requested, but the series has no even and odd images; switch them on in "
                           "the motioncor and compose protocols")
        if self.settings.weight_by_dose and (source.dose is None or any(tilt.prior_dose is None for tilt in source.used)):
            raise BadInput("dose weighting was requested, but the mdoc does not give the dose of every tilt")

    @property
    def min_tilts(self) -> int:
        """The fewest tilts that the program aligns."""
        return 3

    def name_problem(self) -> str:
        """Return why the program would put its files in the wrong place; "" where it would not."""
        return files.name_problem(f"{self.stem}.mrcs", f"{self.stem}.mrc") if self.runner.gpu else ""

    def write_inputs(self) -> None:
        """Write the stack in the form the program reads, its angles, and its alignment if there is one."""
        self.write_stacks({"": f"{self.stem}.mrcs", EVEN: f"{self.stem}{EVEN}.mrcs", ODD: f"{self.stem}{ODD}.mrcs"})
        rows = [AngleRow(tilt.angle, tilt.order, tilt.prior_dose) for tilt in self.source.used]
        if any(row.order is None for row in rows):
            rows = [AngleRow(row.tilt_deg) for row in rows]
        elif any(row.pre_exposure is None for row in rows):
            rows = [AngleRow(row.tilt_deg, row.order) for row in rows]
        with open(self.angles, "w", encoding="utf-8") as file:
            file.write(format_angles(rows))
        if self.settings.skip_align:
            self._write_alignment()

    def write_stacks(self, names: Mapping[str, str]) -> None:
        """Write the enabled images, sorted by angle, to `names`: suffix ("", EVEN, ODD) -> path."""
        source = self.source
        for suffix, stack in (("", source.stack), (EVEN, source.even), (ODD, source.odd)):
            if not stack or (suffix and not self.settings.halves):
                continue
            sections = [tilt.index - 1 for tilt in source.used]
            if sections == list(range(len(source.tilts))) and self.takes(stack):
                os.symlink(stack, names[suffix])
            else:
                restack(stack, names[suffix], sections, source.pixel_size)

    def takes(self, stack: str) -> bool:
        """Tell whether the program reads a stack as it is; otherwise it gets a copy in 32-bit floats."""
        return not self.runner.gpu or open_mrc(stack).header.mode in GPU_MODES

    def _write_alignment(self) -> None:
        rows = []
        for section, tilt in enumerate(self.source.used):
            if tilt.transform is None:
                raise BadInput("the alignment was to be skipped, but the input series has none")
            rot, tx, ty = row_from_xf(tilt.transform)
            rows.append(AlnRow(section, rot, tx, ty, tilt.angle))
        with open(f"{self.stem}.aln", "w", encoding="utf-8") as file:
            file.write(format_aln(AlnFile(tuple(rows), raw_size=(*self.source.size, len(rows)))))

    # ------------------------------------------------------------------ the program
    def run_program(self, runner: Runner, command: str, suffix: str) -> str:
        """Run the program for the whole series or one half; return the command line."""
        flags = self.flags(runner, command, suffix)
        line = words_of_flags(flags)
        log = f"{self.stem}{suffix}.log"
        said = runner.run(line, log)
        if self.settings.tomogram:
            for part in (suffix, EVEN, ODD) if "-InEven" in flags else (suffix,):
                self.check_volume(f"{self.stem}{part}.mrc", said, log, runner)
        return f"{runner.command} {line}"

    def flags(self, runner: Runner, command: str, suffix: str) -> dict[str, list[str]]:
        """Return the flags of upstream's command with our files, and with what this program expects in another form."""
        flags = parse_flags(command)
        flags["-InMrc"], flags["-OutMrc"] = [f"{self.stem}{suffix}.mrcs"], [f"{self.stem}{suffix}.mrc"]
        flags.pop("-OutImod", None)     # AreTomo2 writes them under wrong names, or crashes: see `write_imod`
        if not runner.gpu and not suffix:       # the CPU program does in one run what takes several with the others
            if self.settings.tomogram:
                flags |= self._halves() if self.settings.halves else {}
                flags |= {"-Wiener": ["1"]} if self.settings.filtered else {}
                flags |= {"-EraseGold": [self.settings.gold]} if self.settings.gold else {}
            if self.settings.imod:
                flags["-OutImod"] = [str(self.settings.imod)]
        if "-ExtPhase" in flags:
            flags["-ExtPhase"] = phase_search(*map(float, flags["-ExtPhase"]))
        if "-AngFile" in flags:
            flags["-AngFile"] = [self.angles]
            flags["-TiltAxis"] = [tilt_axis_word(self.source.tilt_axis), flags["-TiltAxis"][1]]
        if "-AlnFile" in flags:
            flags["-AlnFile"] = [f"{self.stem}.aln"]
            flags.pop("-TiltAxis", None)
            if "-ImgDose" in flags:     # the doses before the tilts are in the angle file: without it halves are not weighted
                flags["-AngFile"] = [self.angles]
        if not runner.gpu:
            flags.pop("-Gpu", None)
            flags["--threads"] = [str(runner.threads)]
        return flags

    def _has_local_shifts(self) -> bool:
        aln = read_if_there(f"{self.stem}.aln", parse_aln)
        return aln is not None and bool(aln.local)

    def write_imod(self) -> str:
        """Write the IMOD files with the CPU program, from the alignment file (see `flags` for why); return its command line."""
        out = f"{self.stem}_imod_stack.mrc"     # the program always writes a result; this one is not needed
        flags = {"-InMrc": [f"{self.stem}.mrcs"], "-OutMrc": [out], "-AlnFile": [f"{self.stem}.aln"],
                 "-AngFile": [self.angles], "-VolZ": ["0"], "-OutBin": ["8"], "-OutImod": [str(self.settings.imod)],
                 "-PixSize": [f"{self.source.pixel_size:g}"], "--threads": [str(self.cpu.threads)]}
        line = words_of_flags(flags)
        log = f"{self.stem}_imod.log"
        said = self.cpu.run(line, log)
        made = files.OutputFiles.of(f"{self.stem}.mrcs", out).imod("_st.xf")
        if not os.path.exists(made):
            self.cpu.keep_log(log, os.path.basename(log))
            raise ProgramFailed(f"{self.cpu.name} made no IMOD files: {said or 'it said nothing'}")
        if os.path.exists(out):
            os.remove(out)
        return f"{self.cpu.command} {line}"

    def check_volume(self, path: str, said: str, log: str, runner: Runner) -> None:
        """Check that the tomogram is there, complete and of an expected size."""
        check = check_movie(path)
        if check.state != "complete":
            runner.keep_log(log, os.path.basename(log))
            missing = "made no tomogram" if not os.path.exists(path) else f"left an incomplete tomogram ({check.reason})"
            raise ProgramFailed(f"{runner.name} {missing}: {said or 'it said nothing'}")
        found = (check.width, check.height, check.frames)
        wanted = self.volume_sizes()
        if not any(all(abs((a or 0) - b) <= SIZE_TOLERANCE for a, b in zip(found, size, strict=True)) for size in wanted):
            runner.keep_log(log, os.path.basename(log))
            raise ProgramFailed(f"{runner.name} made a volume of {found[0]} x {found[1]} x {found[2]} voxels where "
                                f"{' x '.join(map(str, wanted[0]))} was expected")

    def volume_sizes(self) -> list[tuple[int, int, int]]:
        """Return the sizes that the tomogram may have, the likeliest first."""
        return expected_sizes(self.source.size, self.source.tilt_axis, self.settings.thickness,
                              self.settings.binning_for(self.source.pixel_size), self.settings.flip)

    # ------------------------------------------------------------------ what came out
    def read_results(self) -> Result:
        """Return the results of the program, its sections mapped back to the images of the input."""
        out, quality = self.out, self.read_quality()
        if self.settings.skip_align:
            return Result(self.folder, quality=quality)
        used = self.source.used
        try:
            aln = read_if_there(out.aln, parse_aln)
            if aln is None:
                raise ProgramFailed(f"{self.runner.name} wrote no alignment file")
            sections, _ = raw_sections(aln, len(used))
        except AlnError as error:
            raise ProgramFailed(f"the alignment file of {self.runner.name} is not valid: {error}") from error
        rows = {used[section].index: row for section, row in zip(sections, aln.rows, strict=True)}
        if not all(math.isfinite(value) for row in rows.values() for value in (row.rot_deg, row.tx, row.ty, row.tilt_deg)):
            raise ProgramFailed("the alignment contains values that are not numbers")
        reasons = {tilt.index: "excluded by the program (dark)" for tilt in used if tilt.index not in rows}
        if quality is not None:
            reasons |= {used[tilt.section].index: tilt.reason for tilt in quality.tilts
                        if not tilt.used and tilt.section < len(used)}
        ctf = (read_if_there(out.ctf_text, parse_ctf) if self.settings.ctf else None) or ()
        of_ctf = ctf_sections(len(ctf), sections, len(used))
        indices = tuple(used[section].index for section in of_ctf)
        return Result(self.folder, rows, reasons, ctf if of_ctf else (), indices, quality)

    def read_quality(self) -> Quality | None:
        """Return the program's own judgement of its work."""
        return read_if_there(self.out.quality, parse_quality)


def take_over(folder: str, target: str) -> None:
    """Rename the finished folder into extra/, replacing anything of that name there, which was never registered."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.endswith(".mrcs") or name.endswith("~"):
            os.remove(path)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(folder, target)
    sync_tree(target)


def expected_sizes(size: tuple[int, int], tilt_axis: float | None, thickness: int, binning: float,
                   flip_vol: bool) -> list[tuple[int, int, int]]:
    """Return the sizes (x, y, z of the file) that a tomogram of a series can have, the likeliest first.

    x and y are swapped where the axis is nearer to x than to y. The refined axis decides, so near 45 degrees both are possible.
    """
    x, y = (int(length / binning + 0.1) // 2 * 2 for length in size)
    z = int(thickness / binning + 0.1) // 2 * 2
    swapped = tilt_axis is not None and abs(math.sin(math.radians(tilt_axis))) > 0.707
    pairs = [(y, x), (x, y)] if swapped else [(x, y), (y, x)]
    sure = tilt_axis is not None and abs(abs(math.sin(math.radians(tilt_axis))) - 0.707) > 0.1
    return [(a, b, z) if flip_vol else (a, z, b) for a, b in (pairs[:1] if sure else pairs)]


def restack(stack: str, target: str, sections: list[int], pixel_size: float) -> None:
    """Copy some sections (0-based) of a stack into a new one."""
    source = open_mrc(stack)
    with mrcfile.new(target) as out:
        out.set_data(np.stack([source.section(section) for section in sections]).astype(np.float32))
        out.voxel_size = pixel_size


def read_if_there(path: str, parse: Callable[[str, str], Parsed]) -> Parsed | None:
    """Parse a text file of the program; None if there is none."""
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8", errors="replace") as file:
        return parse(file.read(), os.path.basename(path))


