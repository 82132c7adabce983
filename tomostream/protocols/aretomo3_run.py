# SPDX-License-Identifier: GPL-3.0-or-later
"""One tilt series through AreTomo3: other names and flags than AreTomo2's, the halves in the same run, the CTF corrected."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

from tomostream.files.mrc import open_mrc
from tomostream.programs import aretomo3
from tomostream.programs.aln import AlnFile, AngleRow, parse_aln
from tomostream.programs.aretomo3 import MEASURED_THICKNESS, Wanted
from tomostream.programs.ctf import parse_ctf
from tomostream.programs.quality import Quality, format_quality
from tomostream.programs.words import words_of_flags
from tomostream.protocols.aretomo_run import EVEN, ODD, AretomoRun, expected_sizes, read_if_there
from tomostream.protocols.aretomo_series import Result
from tomostream.protocols.programs import Runner
from tomostream.streaming.work import BadInput

#: Below the folder of a run: the stacks under the names by which AreTomo3 finds them.
INPUTS = "input"
#: The pixel size comes from the header of the stack, not from the command line: it may be off by this share.
PIXEL_TOLERANCE = 1e-3
#: Degrees: an axis further from the given one was turned around.
TURNED = 90.0


class Aretomo3Run(AretomoRun):
    """A series through AreTomo3; its files are given AreTomo2's names, by which everything else knows them."""

    @property
    def min_tilts(self) -> int:
        return aretomo3.MIN_TILTS_WITH_CTF if self.fits_ctf else aretomo3.MIN_TILTS

    @property
    def fits_ctf(self) -> bool:
        return self.settings.ctf and not self.settings.skip_align

    @property
    def stack(self) -> str:
        return os.path.join(self.folder, INPUTS, f"{self.source.series_id}.mrc")

    def name_problem(self) -> str:
        return aretomo3.name_problem(self.stack, self.folder)

    # ------------------------------------------------------------------ what is given to the program
    def takes(self, stack: str) -> bool:
        if not super().takes(stack):
            return False
        size = self.source.pixel_size
        return abs(open_mrc(stack).pixel_size_A - size) <= PIXEL_TOLERANCE * size

    def write_inputs(self) -> None:
        super().write_inputs()
        names = aretomo3.InputFiles.of(self.stack)
        os.makedirs(os.path.dirname(self.stack))
        for suffix, name in (("", names.stack), (EVEN, names.even), (ODD, names.odd)):
            given = f"{self.stem}{suffix}.mrcs"
            if os.path.lexists(given):
                os.symlink(os.path.abspath(given), name)
        rows = [AngleRow(tilt.angle, tilt.order) for tilt in self.source.used]
        if any(row.order is None for row in rows):
            rows = [AngleRow(row.tilt_deg) for row in rows]
        with open(names.tilts, "w", encoding="utf-8") as file:
            file.write(aretomo3.format_tilts(rows, self.source.dose))
        if self.settings.skip_align:
            shutil.copyfile(f"{self.stem}.aln", names.aln)

    # ------------------------------------------------------------------ the program
    @property
    def wanted(self) -> Wanted:
        return Wanted(not self.settings.skip_align, self.settings.tomogram, self.settings.halves and self.settings.tomogram,
                      self.settings.ctf, self.settings.correct_ctf)

    def flags(self, runner: Runner, command: str, suffix: str) -> dict[str, list[str]]:
        return aretomo3.arguments(super().flags(runner, command, suffix), self.stack, self.folder, self.wanted)

    def run_program(self, runner: Runner, command: str, suffix: str) -> str:
        line = words_of_flags(self.flags(runner, command, suffix))
        log = f"{self.stem}.log"
        said = runner.run(line, log)
        self.give_known_names()
        if self.settings.tomogram:
            for part in ("", EVEN, ODD) if self.wanted.halves else ("",):
                self.check_volume(f"{self.stem}{part}.mrc", said, log, runner)
        return f"{runner.command} {line}"

    def give_known_names(self) -> None:
        """Rename the outputs of AreTomo3, and remove those not asked for."""
        made, known = aretomo3.OutputFiles.of(self.stack, self.folder), self.out
        if not self.settings.tomogram and os.path.exists(made.volume):
            os.remove(made.volume)
        for name, new in ((made.volume, known.volume), (made.even, f"{self.stem}{EVEN}.mrc"), (made.odd, f"{self.stem}{ODD}.mrc"),
                          (made.ctf_text, known.ctf_text), (made.ctf_spectra, known.ctf_spectra)):
            if os.path.exists(name):
                os.replace(name, new)
        if os.path.exists(made.done):
            os.remove(made.done)

    def make_halves(self, commands: list[str], notes: list[str]) -> None:
        """AreTomo3 makes them in the run of the whole series."""

    def finish(self, result: Result) -> Result:
        """Add what its files say beyond the alignment; remove its inputs."""
        shutil.rmtree(os.path.dirname(self.stack))
        hand = read_if_there(self.out.ctf_text, aretomo3.parse_defocus_hand) if self.fits_ctf else None
        notes = list(result.notes)
        if self._is_turned():
            notes.append("tilt axis turned around" + (", as the defocus across it says" if hand == -1 else ""))
        return replace(result, notes=tuple(notes), ctf_corrected=self._is_corrected(result))

    def _is_turned(self) -> bool:
        """Tell whether the axis of the alignment points the opposite way to the one given."""
        aln, given = read_if_there(self.out.aln, parse_aln), self.source.tilt_axis
        if aln is None or not aln.rows or given is None:
            return False
        return abs((aln.rows[0].rot_deg - given + 180) % 360 - 180) > TURNED

    def _defocus_hand(self) -> int | None:
        """Return which way the defocus changes across the axis, in the convention of `Quality`; None where no CTF was fitted.

        A 1 in its file means that the defocus falls towards +x at positive tilts, a -1 that it grows. At -1 AreTomo3 turns the
        axis around, unless the axis is fixed; seen from the turned axis the defocus falls.
        """
        found = read_if_there(self.out.ctf_text, aretomo3.parse_defocus_hand)
        if found is None or found == 1:
            return None if found is None else -1
        return -1 if self._is_turned() or self.source.tilt_axis is None else 1

    def _is_corrected(self, result: Result) -> bool:
        """Tell whether the volumes are corrected for the CTF: only if it was found in every image."""
        return (self.settings.correct_ctf and self.fits_ctf and bool(result.ctf)
                and all(row.defocus_max_A >= self.source.pixel_size for row in result.ctf))

    # ------------------------------------------------------------------ what came out
    def volume_sizes(self) -> list[tuple[int, int, int]]:
        """With the axis and the thickness that AreTomo3 found: it searches far from the axis it is given."""
        aln = read_if_there(self.out.aln, parse_aln) or AlnFile(())
        axis = aln.rows[0].rot_deg if aln.rows else self.source.tilt_axis
        thickness = self.settings.thickness
        if thickness == MEASURED_THICKNESS:
            thickness = int(aln.thickness or 0) + aretomo3.EXTRA_Z
        binning = self.settings.binning_for(self.source.pixel_size)
        z = aretomo3.slices(thickness, binning)
        sizes = expected_sizes(aretomo3.sides(self.source.size, binning), axis, z, 1, True)
        return [(x, y, z) if self.settings.flip else (x, z, y) for x, y, _ in sizes]

    def read_quality(self) -> Quality | None:
        """From AreTomo3's own table and session file; written to `_quality.json`, as for any other program."""
        made = aretomo3.OutputFiles.of(self.stack, self.folder)
        metrics = read_if_there(made.metrics, aretomo3.parse_metrics) or aretomo3.Metrics()
        version = read_if_there(made.session, aretomo3.parse_version) or ""
        ctf = self.fits_ctf and bool(read_if_there(self.out.ctf_text, parse_ctf))
        thickness = metrics.thickness_px if metrics.thickness_px and metrics.thickness_px > 0 else None
        quality = Quality(
            program=f"AreTomo3 {version}" if version else "AreTomo3, version not known", tilt_axis_deg=metrics.tilt_axis_deg,
            tilt_offset_deg=metrics.tilt_offset_deg if ctf else None,
            thickness_A=None if thickness is None else thickness * self.source.pixel_size, quality_note=_note(metrics, ctf),
            ctf_note="" if ctf else "AreTomo3 fitted none", defocus_hand=self._defocus_hand() if ctf else None)
        with open(self.out.quality, "w", encoding="utf-8") as file:
            file.write(format_quality(quality))
        return quality

    def check_input(self) -> None:
        super().check_input()
        if self.settings.skip_align and self.settings.thickness == MEASURED_THICKNESS:
            raise BadInput("without an alignment AreTomo3 measures no thickness; give the thickness of the tomogram")


def _note(metrics: aretomo3.Metrics, ctf: bool) -> str:
    """Return those values of AreTomo3's table that have no column of their own on the page."""
    words = []
    if metrics.largest_shift_px is not None:
        words.append(f"largest shift {metrics.largest_shift_px:.0f} px")
    if metrics.bad_patches:
        words.append(f"{100 * metrics.bad_patches:.0f} % of the local shifts left out")
    if ctf and metrics.ctf_resolution_A:
        words.append(f"CTF to {metrics.ctf_resolution_A:.1f} A at 0 degrees (score {metrics.ctf_score or 0.0:.2f})")
    if ctf and metrics.beta_offset_deg:
        words.append(f"specimen tilted along the axis by {metrics.beta_offset_deg:.1f} degrees")
    return ", ".join(words)
