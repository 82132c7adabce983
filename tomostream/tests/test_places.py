# SPDX-License-Identifier: GPL-3.0-or-later
"""Places that cannot be written: every command says so in one sentence with the place and what to do, and exits with 2."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import unittest
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

from tomostream.cli import main, places, readiness, report
from tomostream.tests.made_project import MadeProject


class TestPlaces(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.file = os.path.join(self.folder, "file")
        with open(self.file, "w", encoding="utf-8"):
            pass

    def run_command(self, *words: str) -> tuple[int, str]:
        err = io.StringIO()
        with redirect_stdout(io.StringIO()), redirect_stderr(err):
            status = main(words)
        return status, err.getvalue()

    def test_each_cause_is_reported_in_words_of_a_user(self):
        for code, words in ((errno.EROFS, "read-only"), (errno.ENOSPC, "Make room"), (errno.EDQUOT, "full"),
                            (errno.EACCES, f"no permission to write in {self.folder}"), (errno.EISDIR, "Name a file in it"),
                            (errno.ENOENT, "nothing can be made"), (errno.EIO, "input/output error. Choose")):
            path = os.path.join(self.folder, "a", "b")
            text = places.cannot_write(path, OSError(code, os.strerror(code), path))
            self.assertTrue(text.startswith(f"{path} cannot be written: "), text)
            self.assertIn(words, text)
            self.assertNotIn("Errno", text)

    def test_a_name_that_is_no_text_is_refused_by_run_and_found_by_check(self):
        latin = os.path.join(self.folder, os.fsdecode(b"caf\xe9"))
        words = rf"the name of {self.folder}/caf\\xe9.* is not UTF-8 text, so Scipion cannot store it: rename it, or give a link"
        project = os.path.join(self.folder, "new")
        for given in ((project, latin, self.folder), (project, self.folder, latin), (latin, self.folder, self.folder)):
            with mock.patch.dict(os.environ):
                status, err = self.run_command("run", given[0], "--movies", given[1], "--mdocs", given[2])
            self.assertEqual((status, len(err.splitlines())), (2, 1), err)
            self.assertRegex(err, words)
        self.assertFalse(os.path.exists(project))
        found = readiness.folder_of("movies", os.path.join(latin, "*"), (".tif",))
        self.assertEqual(found.verdict, readiness.Verdict.WRONG)
        self.assertRegex(found.text, words)

    def test_a_project_that_may_not_be_entered_is_not_reported_as_missing(self):
        os.mkdir(os.path.join(self.folder, "proj"))
        with mock.patch("os.access", return_value=False):
            for name in ("status", "stop", "marks", "resume"):
                status, err = self.run_command(name, os.path.join(self.folder, "proj"))
                self.assertEqual(status, 2)
                self.assertRegex(err, f"^tomostream {name}: [Yy]ou have no permission to enter {self.folder}/proj.\n$")

    def test_below_a_file_every_command_names_the_file_and_exits_with_two(self):
        project = MadeProject(os.path.join(self.folder, "proj"))
        project.whole("TS_01")
        below = os.path.join(self.file, "place")
        for words in (("report", project.path, "--out", below), ("report", project.path, "--out", self.file),
                      ("simulate", below, "--quiet", "--tilts", "3", "--size", "32"), ("demo", below), ("demo", self.file),
                      ("run", below, "--movies", self.folder, "--mdocs", self.folder),
                      ("run", os.path.join(self.folder, "new"), "--movies", self.folder, "--mdocs", self.folder, "--json", below),
                      ("resume", project.path, "--json", below)):
            with mock.patch.dict(os.environ):
                status, err = self.run_command(*words)
            self.assertEqual((status, len(err.splitlines())), (2, 1), (words, err))
            self.assertRegex(err, f"^tomostream {words[0]}: .* cannot be written: {self.file} is a file, not a folder. Choose")
        self.assertFalse(os.path.exists(os.path.join(self.folder, "new")))

    def test_a_disk_that_gets_full_while_the_page_is_written_is_reported_and_exits_with_two(self):
        project = MadeProject(os.path.join(self.folder, "proj"))
        project.whole("TS_01")
        full = OSError(errno.ENOSPC, "No space left on device")
        for place in ("tomostream.report.pictures.save", "tomostream.report.writer.write_text",
                      "tomostream.report.folders.write_text"):
            with mock.patch(place, side_effect=full):
                status, err = self.run_command("report", project.path)
            self.assertEqual((status, err), (2, f"tomostream report: {os.path.join(project.path, 'report')} cannot be written: "
                                             "the disk is full. Make room, or choose another place.\n"), place)
        self.assertEqual(self.run_command("report", project.path), (0, ""))
        self.assertTrue(os.path.exists(os.path.join(project.path, "report", "series", "TS_01", "v1-xy.webp")))

    def test_the_place_of_the_status_is_looked_at_before_the_session_and_nothing_is_left_there(self):
        path = os.path.join(self.folder, "out.json")
        places.check_file(path)
        self.assertEqual(os.listdir(self.folder), ["file"])
        with self.assertRaises(IsADirectoryError):
            places.check_file(self.folder)

    def test_a_page_that_another_process_writes_is_left_as_it_is(self):
        project = MadeProject(os.path.join(self.folder, "proj"))
        project.whole("TS_01")
        only = report.OnlyOne(os.path.join(project.path, "report"))
        os.makedirs(os.path.join(project.path, "report"))
        self.assertTrue(only.taken())
        self.addCleanup(only.release)
        self.assertEqual(self.run_command("report", project.path)[0], 1)
        self.assertEqual(os.listdir(os.path.join(project.path, "report")), [".lock"])


if __name__ == "__main__":
    unittest.main()
