# SPDX-License-Identifier: GPL-3.0-or-later
"""What is remembered of an instrument: one entry each, found whatever its case and blanks."""

from __future__ import annotations

import os
import tempfile
import unittest
from unittest import mock

from tomostream.choices import instruments


class TestAnInstrument(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        patch = mock.patch.dict(os.environ, {instruments.VARIABLE: os.path.join(folder.name, "instruments.json")})
        patch.start()
        self.addCleanup(patch.stop)

    def test_is_found_whatever_its_case_and_blanks(self):
        instruments.remember("Titan Krios 1", instruments.NEGATED, "TS_01")
        found = instruments.remembered("  titan   KRIOS 1 ")
        self.assertEqual((found.angles, found.series, found.negated), (instruments.NEGATED, "TS_01", True))
        self.assertIsNone(instruments.remembered("Titan Krios 2"))

    def test_has_one_entry_the_newest_under_the_name_as_it_was_written_last(self):
        instruments.remember("Titan Krios", instruments.NEGATED, "TS_01")
        instruments.remember("Glacios", instruments.AS_GIVEN, "TS_02")
        instruments.remember("titan krios", instruments.AS_GIVEN, "TS_03")
        self.assertEqual({name: (entry.angles, entry.series) for name, entry in instruments.read().items()},
                         {"titan krios": (instruments.AS_GIVEN, "TS_03"), "Glacios": (instruments.AS_GIVEN, "TS_02")})

    def test_without_a_name_is_not_remembered(self):
        with self.assertRaisesRegex(ValueError, "give the instrument a name"):
            instruments.remember("  ", instruments.NEGATED, "TS_01")
        self.assertIsNone(instruments.remembered(" "))


if __name__ == "__main__":
    unittest.main()
