# SPDX-License-Identifier: GPL-3.0-or-later
"""Which file gave which movie: unique names, files by two paths, files that were moved, and what is not a movie."""

from __future__ import annotations

import doctest
import os
import tempfile
import unittest

from hypothesis import given
from hypothesis import strategies as st

from tomostream.acquisition import imported
from tomostream.acquisition.imported import FileFacts, MovieFiles, Sight, folder_that_differs, goes_first, why_stack
from tomostream.acquisition.movies import MovieCheck
from tomostream.acquisition.naming import movie_key
from tomostream.files import patterns
from tomostream.journal.layout import EVEN, EXCLUDED, ODD, SIGN, frames_log, micrograph_stem, stem

FRAMES = MovieCheck("complete", frames=8)


class TestNames(unittest.TestCase):
    def setUp(self):
        self.disk: dict[str, FileFacts] = {}
        self.files = MovieFiles(self.disk.get)

    def test_the_folder_that_differs_is_put_in_front_of_a_name_that_is_taken(self):
        self.assertEqual(self.files.name("/d/grid1/frames/TS_01_001_0.0.tif"), "TS_01_001_0.0.tif")
        self.assertEqual(self.files.name("/d/grid 2/frames/TS_01_001_0.0.tif"), "grid_2_TS_01_001_0.0.tif")
        self.assertEqual(self.files.name("/d/grid1/frames/TS_01_001_0.0.tif"), "TS_01_001_0.0.tif")

    def test_names_that_differ_in_their_extension_alone_are_distinguished(self):
        self.assertEqual([self.files.name(f"/d/x.{end}") for end in ("mrc", "tif")], ["x.mrc", "x_tif.tif"])

    def test_the_names_of_the_run_before_stay(self):
        self.files.remember("/d/b/x.tif", "x.tif")
        self.assertEqual(self.files.name("/d/a/x.tif"), "a_x.tif")
        self.assertEqual(self.files.name("/d/b/x.tif"), "x.tif")

    @given(st.lists(st.tuples(st.sampled_from(("/d/a", "/d/b", "/d/a/b", "/d/a b", "/e/a")),
                              st.sampled_from(("x.tif", "x.mrc", "a_x.tif", "x_tif.tif", "b_x.mrc", "x y.tif", "x_y.eer"))),
                    unique=True))
    def test_no_two_files_get_one_name_even_without_extensions(self, files):
        known = MovieFiles(lambda path: None)
        names = [known.name("/".join(each)) for each in files]
        self.assertEqual(len({movie_key(name) for name in names}), len(files))


class TestOneFileOneMovie(unittest.TestCase):
    def setUp(self):
        self.disk: dict[str, FileFacts] = {}
        self.files = MovieFiles(self.disk.get)

    def see(self, path, size=10, mtime=1.0, inode=1):
        self.disk[path] = FileFacts(size, mtime, 7, inode)
        return self.files.sight(path, self.disk[path])

    def test_the_same_file_by_another_path_is_reported(self):
        self.assertEqual(self.see("/d/x.tif"), (Sight.NEW, ""))
        self.assertEqual(self.see("/link/x.tif"), (Sight.SAME, "/d/x.tif"))

    def test_another_file_of_that_name_is_new(self):
        self.see("/d/x.tif")
        self.assertEqual(self.see("/e/x.tif", inode=2), (Sight.NEW, ""))

    def test_a_file_that_was_imported_is_known_until_it_changes(self):
        self.see("/d/x.tif")
        self.files.register("/d/x.tif", self.files.name("/d/x.tif"), 10, 1.0)
        self.assertEqual(self.see("/d/x.tif"), (Sight.KNOWN, ""))
        self.assertEqual(self.see("/d/x.tif", 11, 2.0), (Sight.NEW, ""))

    def test_data_that_was_moved_to_another_disk_is_known(self):
        for k in range(3):
            for grid in ("g1", "g2"):
                self.files.remember(f"/old/{grid}/x{k}.tif", f"{grid}_x{k}.tif")
                self.files.register(f"/old/{grid}/x{k}.tif", f"{grid}_x{k}.tif", 10, 1.0)
        for grid in ("g2", "g1"):
            self.assertEqual(self.see(f"/new/{grid}/x1.tif", inode=30 + int(grid[1])), (Sight.MOVED, f"/old/{grid}/x1.tif"))
            self.assertEqual(self.files.name(f"/new/{grid}/x1.tif"), f"{grid}_x1.tif")

    def test_a_file_that_is_still_there_was_not_moved(self):
        self.see("/old/x.tif")
        self.files.register("/old/x.tif", self.files.name("/old/x.tif"), 10, 1.0)
        self.assertEqual(self.see("/new/x.tif", inode=2), (Sight.NEW, ""))

    def test_a_copy_in_the_project_is_all_that_is_known_of_a_movie(self):
        self.files.register("", "grid2_x.tif", 10, 1.0)
        self.assertEqual(self.see("/d/grid2/x.tif")[0], Sight.MOVED)
        self.assertEqual(self.files.name("/d/grid2/x.tif"), "grid2_x.tif")

    def test_links_that_lead_back_up_give_each_file_once(self):
        with tempfile.TemporaryDirectory() as folder:
            os.makedirs(os.path.join(folder, "a", "b"))
            os.symlink(folder, os.path.join(folder, "a", "b", "up"))
            os.symlink("b", os.path.join(folder, "a", "c"))
            for place in ("", "a", "a/b"):
                with open(os.path.join(folder, place, "x.tif"), "w", encoding="utf-8"):
                    pass
            found = patterns.files_of(os.path.join(folder, "**", "*.tif"))
            self.assertEqual(found, [os.path.join(folder, each) for each in ("a/b/x.tif", "a/x.tif", "x.tif")])
            linked = patterns.files_of(os.path.join(folder, "a", "b", "**", "*.tif"))     # behind the link, too
            self.assertEqual(linked, [os.path.join(folder, each) for each in ("a/b/up/a/x.tif", "a/b/up/x.tif", "a/b/x.tif")])


class TestWhatIsNoMovie(unittest.TestCase):
    def test_of_one_name_in_one_folder_only_one_file_is_the_movie(self):
        disk = {path: FileFacts(1, 1.0) for path in ("/d/x.eer", "/d/x.tif", "/e/x.tif")}
        files = MovieFiles(disk.get)
        files.use("/d/x.eer")
        self.assertEqual([files.beside(path) for path in disk], ["", "/d/x.eer", ""])
        self.assertTrue(goes_first("/d/x.eer", "/d/x.tif"))
        self.assertFalse(goes_first("/d/x.tif", "/d/x.eer"))
        self.assertFalse(goes_first("/d/x.eer", "/e/x.tif"))

    def test_the_stack_that_an_mdoc_describes_is_no_movie(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "TS_01.mrc")
            self.assertEqual(why_stack(path, FRAMES, frozenset()), "")
            with open(f"{path}.mdoc", "w", encoding="utf-8") as file:
                file.write("ImageFile = TS_01.mrc\n\n" + "".join(
                    f"[ZValue = {k}]\nTiltAngle = {3 * k}\nSubFramePath = x{k}.tif\n\n" for k in range(3)))
            self.assertIn("TS_01.mrc.mdoc", why_stack(path, FRAMES, frozenset()))

    def test_a_movie_of_mrc_frames_with_an_mdoc_of_its_own_is_one(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "TS_01_001_0.0.mrc")
            with open(f"{path}.mdoc", "w", encoding="utf-8") as file:
                file.write("T = SerialEM\n\n[FrameSet = 0]\nTiltAngle = 0\nSubFramePath = TS_01_001_0.0.mrc\n"
                           "DateTime = 01-Mar-2026  12:00:00\n\n")
            self.assertEqual(why_stack(path, FRAMES, frozenset()), "")

    def test_mrc_files_beside_tiff_movies_are_movies_only_where_their_names_tell_an_angle(self):
        self.assertIn("TIFF", why_stack("/d/map.mrc", FRAMES, frozenset(["TIFF"])))
        self.assertEqual(why_stack("/d/TS_01_001_0.0.mrc", FRAMES, frozenset(["TIFF"])), "")
        self.assertEqual(why_stack("/d/map.mrc", FRAMES, frozenset(["MRC"])), "")


class TestFilesOfARun(unittest.TestCase):
    NAMES = st.from_regex(r"[a-c](_aligned_mic|-v2|-Patch|_DW|-Full|_mic){0,3}", fullmatch=True)

    @given(st.lists(st.tuples(NAMES, st.integers(1, 3)), min_size=2, max_size=2, unique=True))
    def test_no_two_micrographs_share_a_file(self, movies):
        written = [{*(f"{micrograph_stem(*movie)}{suffix}.mrc" for suffix in ("", "_DW", "_EVN", "_ODD")),
                    *(frames_log(micrograph_stem(*movie), patches) for patches in (False, True))} for movie in movies]
        self.assertEqual(written[0] & written[1], set())

    @given(st.lists(st.tuples(st.from_regex(r"[a-c](_odd|_even|_v2|_tilt)?", fullmatch=True), st.integers(1, 3)), min_size=2,
                    max_size=2, unique=True))
    def test_no_two_series_share_a_file_and_none_has_that_of_the_run(self, series):
        written = [{f"{stem(*each)}{end}" for end in (".json", ".mrcs", f"{ODD}.mrcs", f"{EVEN}.mrcs")} for each in series]
        self.assertEqual(written[0] & written[1], set())
        for word in ("excluded", "angles", "taken_out", "tilt_angles"):
            self.assertNotIn(f"{stem(word, 1)}.json", (EXCLUDED, SIGN))

    def test_the_examples_in_the_docstrings(self):
        self.assertEqual(doctest.testmod(imported).failed, 0)
        self.assertEqual(folder_that_differs("x.tif", "y.tif"), "")


if __name__ == "__main__":
    unittest.main()
