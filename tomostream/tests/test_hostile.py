# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and command lines that nobody tried: right ones come out right, others are refused in a sentence.

`benchmarks/fuzz_files.py` runs many more of them.
"""

from __future__ import annotations

import os
import tempfile
import unittest
from collections.abc import Callable

import numpy as np

from tomostream.programs import aretomo3
from tomostream.programs.aln import (
    AlnError,
    AlnFile,
    AlnRow,
    DarkFrame,
    LocalShift,
    format_aln,
    format_xf,
    parse_aln,
    parse_xf,
    xf_of_row,
)
from tomostream.programs.ctf import CtfRow, format_ctf, parse_ctf
from tomostream.programs.motioncor import LogError, format_log, parse_log
from tomostream.programs.quality import Quality, TiltQuality, format_quality, parse_quality
from tomostream.tests.hostile import KINDS, Wrong, make, run, spoilt_text

#: Cases of a kind that were wrong once.
KNOWN = {"spoilt movie": (102, 3113, 3611, 20740), "reference": (1564,), "series": (3038, 3070), "options": (40397,),
         "content": (50023,)}
#: How many others of a kind, and the first of them: the benchmark begins elsewhere.
CASES = {"movie": 30, "spoilt movie": 50, "reference": 40, "series": 20, "command line": 25, "options": 12, "content": 8}
FIRST = 10_000


_ROWS = tuple(AlnRow(i, 85.0, 1.5, -2.5, 3.0 * i) for i in range(5))
_LOCAL = (LocalShift(0, 0, 1.0, 2.0, 3.0, 4.0, 1.0),)
_QUALITY = Quality((TiltQuality(0, -3.0, True, "", 0.5, 1.0), TiltQuality(1, 0.0, False, "dark")), 85.0, 1.0, 900.0, 0.5, "why")
#: A parser, a text of its kind, and how it refuses one.
PARSERS: list[tuple[Callable[[str], object], str, type[Exception]]] = [
    (parse_aln, format_aln(AlnFile(_ROWS, (DarkFrame(0, 5, 60.0),), (64, 48, 6), 1, _LOCAL)), AlnError),
    (parse_ctf, format_ctf([CtfRow(i, 4e4, 3.9e4, 20.0, 0.0, 0.5, 9.0) for i in range(1, 5)]), AlnError),
    (parse_quality, format_quality(_QUALITY), AlnError),
    (parse_xf, format_xf([xf_of_row(85.0, 1.0, 2.0)] * 4), AlnError),
    (parse_log, format_log([(0.5, 1.0), (0.0, 0.0), (-1.0, 2.0)]), LogError),
    (aretomo3.parse_metrics, "Tilt_Series,Thickness(Pix),Tilt_Axis\nTS_1,400,85.0\n", AlnError),
    (aretomo3.parse_version, '{"software": {"version": "AreTomo3 2.3.1"}}', AlnError),
    (aretomo3.parse_defocus_hand, "# Columns\n 1 4e4 4e4 0 0 0.5 8.0 -1\n", AlnError)]


class TestHostileInputs(unittest.TestCase):
    def check(self, kind: str) -> None:
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        for seed in (*KNOWN.get(kind, ()), *range(FIRST, FIRST + CASES[kind])):
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)        # a word of a command line may be the name of a file
                try:
                    run(make(kind, seed, folder))
                except Wrong as error:
                    self.fail(f"{kind} {seed}: {error}")
                finally:
                    os.chdir(here)

    def test_files_of_results_are_read_or_refused_in_a_sentence(self) -> None:
        for parse, text, refusal in PARSERS:
            for seed in range(FIRST, FIRST + 120):
                broken = spoilt_text(np.random.default_rng(seed), text)
                try:
                    parse(broken)
                except refusal:
                    continue
                except Exception as error:  # noqa: BLE001 - whatever else it is, the text is to be shown
                    self.fail(f"{parse.__name__}: {error!r} of {broken!r}")

    def test_every_kind_is_tried(self) -> None:
        self.assertEqual(set(CASES), set(KINDS))

    def test_movies_of_any_layout_are_summed_right(self) -> None:
        self.check("movie")

    def test_spoilt_movies_are_read_or_refused(self) -> None:
        self.check("spoilt movie")

    def test_references_of_any_format_are_used_or_refused(self) -> None:
        self.check("reference")

    def test_series_with_any_angles_and_alignments_are_made_or_refused(self) -> None:
        self.check("series")

    def test_any_command_line_is_done_or_refused(self) -> None:
        self.check("command line")

    def test_any_flags_together_are_done_or_refused(self) -> None:
        self.check("options")

    def test_pixels_that_no_camera_gives_are_left_out_or_refused(self) -> None:
        self.check("content")


if __name__ == "__main__":
    unittest.main()
