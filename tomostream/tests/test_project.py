# SPDX-License-Identifier: GPL-3.0-or-later
"""Projects made from the command line, and what is told of them."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
import unittest
from unittest import mock

from tomostream import ledger
from tomostream.cli import main, project, table
from tomostream.status import ARETOMO, ProjectStatus


class TestANewProject(unittest.TestCase):
    def test_is_refused_where_scipion_cannot_work(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ('the "new" one', "cost$5", "a`b", "a\\b"):
                path = os.path.join(folder, name, "project")
                with self.assertRaisesRegex(project.UserError, "Scipion cannot work in the folder"):
                    project.create(path, {})
                self.assertFalse(os.path.exists(path))

    def test_is_refused_under_a_name_that_scipion_would_change(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(project.UserError, "Call it 'my-session-1'"):
                project.create(os.path.join(folder, "my session.1"), {})
            self.assertEqual(os.listdir(folder), [])

    def test_is_refused_in_a_folder_that_holds_files_and_leaves_them_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            movie = os.path.join(folder, "session", "frames", "TS_01_001")
            os.makedirs(os.path.dirname(movie))
            open(movie, "wb").close()
            with self.assertRaisesRegex(project.UserError, "is no empty folder"):
                project.create(os.path.join(folder, "session"), {})
            with self.assertRaisesRegex(project.UserError, "is no empty folder"):
                project.create(movie, {})
            self.assertTrue(os.path.exists(movie))

    def test_that_is_refused_for_a_parameter_leaves_nothing_behind(self):
        self.addCleanup(os.chdir, os.getcwd())
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "night", "project")
            for values in ({"tomoThicknes": "1500"}, {"tomoThickness": "thick"}):
                with self.assertRaises(project.UserError):
                    project.create(path, {ARETOMO: values})
                self.assertFalse(os.path.exists(path))

class TestRunOnTheCommandLine(unittest.TestCase):
    def test_says_in_one_sentence_that_a_place_cannot_be_written(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ):
            file = os.path.join(folder, "file")
            open(file, "wb").close()
            os.environ.pop("SCIPION_HOME", None)
            with contextlib.redirect_stderr(io.StringIO()) as said:
                status = main(["run", os.path.join(file, "project"), "--movies", folder, "--mdocs", folder])
        self.assertEqual(status, 2)
        self.assertIn("file/.scipion", said.getvalue())
        self.assertEqual(said.getvalue().count("\n"), 1)


class TestTheTable(unittest.TestCase):
    def test_says_how_many_failed_movies_it_does_not_name(self):
        with tempfile.TemporaryDirectory() as folder:
            run = os.path.join(folder, "Runs", "000002_ProtTomoStreamImportMovies")
            os.makedirs(os.path.join(run, "extra"))
            book = ledger.Ledger(ledger.path_in(run))
            for number in range(13):
                book.write(f"m{number:02d}.tif", ledger.FAILED, "is not complete")
            book.flush()
            status = ProjectStatus(folder)
            status.update()
            lines = table.render(status, {})
        self.assertIn("... 3 failed movies before", lines)
        self.assertEqual(sum(line.startswith("failed movie m") for line in lines), 10)


class TestTimes(unittest.TestCase):
    def test_no_movie_was_written_after_it_was_imported_whatever_the_clock_of_the_microscope(self):
        with tempfile.TemporaryDirectory() as folder:
            run = os.path.join(folder, "Runs", "000002_ProtTomoStreamImportMovies")
            os.makedirs(os.path.join(run, "extra"))
            book = ledger.Ledger(ledger.path_in(run))
            for name, ahead in (("ahead.tif", 3600.0), ("behind.tif", -5.0)):
                book.write(name, ledger.IMPORTED, "imported", {"file": name, "size": 1, "mtime": time.time() + ahead})
            book.flush()
            status = ProjectStatus(folder)
            status.update()
            ahead, behind = status.movies["ahead"], status.movies["behind"]
            self.assertEqual(ahead.written, ahead.imported)
            self.assertAlmostEqual(behind.imported - behind.written, 5.0, delta=1.0)


if __name__ == "__main__":
    unittest.main()
