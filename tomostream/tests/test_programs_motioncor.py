# SPDX-License-Identifier: GPL-3.0-or-later
"""MotionCor3 as a command: names of files, logs."""

import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from tomostream.programs.motioncor import (
    LogError,
    OutputNames,
    format_log,
    input_tag,
    log_stem,
    parse_log,
)

SHIFTS = st.lists(st.tuples(*[st.floats(-9999, 9999, allow_nan=False)] * 2), min_size=1, max_size=50)


class TestNames(unittest.TestCase):
    """The files are where readers look for them."""

    def test_results_get_their_suffix_before_the_extension(self):
        names = OutputNames.of("/raw/TS_1.tif", "out/x.mrc", "logs")
        self.assertEqual((names.total, names.weighted, names.odd, names.even, names.log),
                         ("out/x.mrc", "out/x_DW.mrc", "out/x_ODD.mrc", "out/x_EVN.mrc", "logs/TS_1-Full.log"))

    def test_the_log_of_local_alignment_has_its_own_name(self):
        self.assertEqual(OutputNames.of("a.tif", "x.mrc", "l", patches=True).log, "l/a-Patch-Full.log")

    def test_the_input_s_flag_follows_from_its_extension_and_others_are_refused(self):
        self.assertEqual([input_tag(name) for name in ("a.mrcs", "a b.TIFF", "a.eer")], ["-InMrc", "-InTiff", "-InEer"])
        with self.assertRaisesRegex(ValueError, "a.dm4"):
            input_tag("a.dm4")

    def test_a_dotted_folder_and_a_double_extension_do_not_mislead(self):
        self.assertEqual(log_stem("/a.mrc.d/TS.1_003.mrc.tif"), "TS.1_003")
        self.assertEqual(OutputNames.of("a.tif", "dir.mrc/x", "").total, "dir.mrc/x.mrc")


class TestLog(unittest.TestCase):
    """Logs are written and read to two decimals."""

    def test_a_log_looks_as_motioncor_writes_it(self):
        self.assertEqual(format_log([(0.0, 0.0), (-0.61, 12.345)]),
                         "# full frame alignment\n   1      0.00      0.00\n   2     -0.61     12.35\n")

    @given(SHIFTS)
    @settings(deadline=None, max_examples=50)
    def test_what_is_written_is_read_back(self, shifts):
        for given_shift, read in zip(shifts, parse_log(format_log(shifts)), strict=True):
            self.assertAlmostEqual(given_shift[0], read[0], delta=0.0051)
            self.assertAlmostEqual(given_shift[1], read[1], delta=0.0051)

    def test_the_log_of_local_alignment_is_read(self):
        text = "# Patch based alignment\n# Initial alignment based upon full frames\n\n   1   -0.10   0.20\n"
        self.assertEqual(parse_log(text), ((-0.1, 0.2),))

    def test_a_damaged_log_names_its_line(self):
        with self.assertRaisesRegex(LogError, "x.log, line 2: '   3  0.0  0.0' is not|frame 3 follows frame 1"):
            parse_log("   1  0.0  0.0\n   3  0.0  0.0\n", "x.log")
        with self.assertRaisesRegex(LogError, "line 1"):
            parse_log("   1  0.0\n")
        with self.assertRaisesRegex(LogError, "no frame"):
            parse_log("# full frame alignment\n")
