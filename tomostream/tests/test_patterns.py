# SPDX-License-Identifier: GPL-3.0-or-later
"""What a pattern matches, and what is reported and done if it matches nothing."""

from __future__ import annotations

import os
import unittest

from tomostream.acquisition.movies import EXTENSIONS
from tomostream.cli.run import found_instead
from tomostream.files import patterns
from tomostream.journal.status import COMPOSE, IMPORT
from tomostream.streaming import lookout
from tomostream.streaming.lookout import Lookout
from tomostream.tests.test_streaming import InAFolder, Silent


class TestPatterns(InAFolder):
    def test_capitals_and_small_letters_are_one(self) -> None:
        for name in ("a.TIF", "b.tif", "c.Tif", "d.eer", ".hidden.tif"):
            self.write(name)
        self.assertEqual([os.path.basename(path) for path in patterns.files_of(self.path("*.tif"))], ["a.TIF", "b.tif", "c.Tif"])

    def test_hidden_files_are_none_of_a_star(self) -> None:
        for name, pattern, found in ((".a.tif", "*", False), (".a.tif", "*.tif", False), (".a.tif", ".a*", True),
                                     ("a.tif", "*", True)):
            self.assertEqual(patterns.matches(name, pattern), found, f"{name} {pattern}")

    def test_a_pattern_that_finds_something_needs_no_words(self) -> None:
        self.write("TS_01.MDOC")
        self.assertEqual(patterns.what_is_there(self.path("*.mdoc"), (".mdoc",)), "")
        self.assertEqual(patterns.what_is_there(self.path("nowhere", "*.mdoc"), (".mdoc",)), "")

    def test_files_in_subfolders_are_reported_with_their_places(self) -> None:
        for grid in ("grid1", "grid2"):
            for number in range(3):
                self.write(grid, "mdocs", f"TS_{number:02d}.mrc.mdoc")
        folder = self.folder
        self.assertEqual(patterns.what_is_there(self.path("*.mdoc"), (".mdoc",)),
                         f"no *.mdoc in {folder}, but 6 in its subfolders, grid1/mdocs, grid2/mdocs: {folder}/*/*/*.mdoc")
        self.assertEqual(patterns.depth_of(self.path("*.mdoc"), (".mdoc",)), 2)
        self.assertEqual(len(patterns.files_of(self.path("*.mdoc"), 2)), 6)

    def test_movies_with_other_names_are_reported(self) -> None:
        for number in range(2):
            self.write(f"m_{number}.eer")
        self.assertEqual(patterns.what_is_there(self.path("*.tif"), EXTENSIONS),
                         f"no file in {self.folder} is named *.tif, but 2 *.eer are there, m_0.eer, m_1.eer")

    def test_what_else_is_there_is_reported(self) -> None:
        self.write("a.tif")
        self.assertEqual(patterns.what_is_there(self.path("*.mdoc"), (".mdoc",)), "")       # Tomo5 writes them at the end
        self.write("notes.txt")
        self.assertEqual(patterns.what_is_there(self.path("*.mdoc"), (".mdoc",)),
                         f"no *.mdoc in {self.folder}, but 1 *.txt, notes.txt")

    def test_run_says_it_before_anything_is_started(self) -> None:
        self.write("frames", "a.eer")
        self.write("grid1", "TS_01.mdoc")
        told = found_instead({IMPORT: {"filesPath": self.path("frames"), "filesPattern": "*.tif"},
                              COMPOSE: {"filesPath": self.folder, "mdocPattern": "*.mdoc"}})
        self.assertIn("No file in", told[0])
        self.assertIn("1 in its subfolders, grid1", told[1])
        told = found_instead({
            IMPORT: {"filesPath": self.path("frames"), "filesPattern": "*.eer", "mdocsPath": self.path("*.mdoc")},
            COMPOSE: {"filesPath": "", "mdocPattern": "*.mdoc"}})
        self.assertEqual(len(told), 1)
        self.assertIn("1 in its subfolders, grid1", told[0])


class TestALookout(InAFolder):
    def test_takes_mdocs_in_subfolders_of_the_folder_above_and_those_that_come_beside_them(self) -> None:
        self.write("grid1", "TS_01.mdoc")
        self.write("grid1", "frames", "a.tif")
        files = Lookout(self.path("*.mdoc"), Silent(), (".mdoc",), descend=True)
        self.assertEqual([os.path.relpath(path, self.folder) for path, _ in files.changes(0.0)], ["grid1/TS_01.mdoc"])
        self.write("grid2", "TS_01.mdoc")
        self.write("TS_09.MDOC")
        self.assertEqual(sorted(os.path.relpath(path, self.folder) for path, _ in files.changes(5.0)),
                         ["TS_09.MDOC", "grid2/TS_01.mdoc"])
        self.assertEqual(files.lies, "")

    def test_does_not_descend_where_the_folder_itself_holds_what_is_meant(self) -> None:
        self.write("TS_01.mdoc")
        self.write("backup", "TS_01.mdoc")
        files = Lookout(self.path("*.mdoc"), Silent(), (".mdoc",), descend=True)
        self.assertEqual([os.path.relpath(path, self.folder) for path, _ in files.changes(0.0)], ["TS_01.mdoc"])

    def test_says_what_lies_there_until_something_is_found(self) -> None:
        self.write("a.eer")
        files = Lookout(self.path("*.tif"), Silent(), EXTENSIONS)
        files.changes(0.0)
        self.assertIn("1 *.eer is there", files.lies)
        self.assertLessEqual(files.seconds_to_next_look(0.0), lookout.LOOK_SECONDS)
        self.write("a.tif")
        files.changes(5.0)
        self.assertEqual(files.lies, "")


if __name__ == "__main__":
    unittest.main()
