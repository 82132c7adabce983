# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and command lines that nobody tried: right ones come out right, others are refused in a sentence.

`benchmarks/fuzz_files.py` runs many more of them.
"""

from __future__ import annotations

import os
import tempfile
import unittest

from tomostream.tests.hostile import KINDS, Wrong, make, run

#: Cases of a kind that were wrong once.
KNOWN = {"spoilt movie": (102, 3113, 3611, 20740), "reference": (1564,), "series": (3038, 3070)}
#: How many others of a kind, and the first of them: the benchmark begins elsewhere.
CASES = {"movie": 30, "spoilt movie": 50, "reference": 40, "series": 20, "command line": 25, "options": 12, "content": 8}
FIRST = 10_000


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
