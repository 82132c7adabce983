# SPDX-License-Identifier: GPL-3.0-or-later
"""Projects made from the command line, and what is reported about them."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sqlite3
import tempfile
import time
import unittest
from types import SimpleNamespace
from unittest import mock

from pyworkflow.protocol import FloatParam

from tomostream.cli import errors, main, project, resume, run, table
from tomostream.cli.run import exit_status
from tomostream.files import locks
from tomostream.journal import entries, ledger
from tomostream.journal.status import ARETOMO, COMPOSE, IMPORT, ProjectStatus
from tomostream.tests.made_project import MadeProject


class TestTheDatabaseOfARun(unittest.TestCase):
    """pyworkflow copies that of the project as a file, which another process may be writing."""

    def database(self, name: str, *ids: int) -> str:
        path = os.path.join(self.folder, name)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE Objects (id INTEGER PRIMARY KEY)")
            connection.executemany("INSERT INTO Objects VALUES (?)", [(each,) for each in ids])
            connection.commit()
        return path

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def test_is_left_alone_where_it_holds_the_run(self):
        whole, copy = self.database("project.sqlite", 2, 133), self.database("run.db", 133)
        self.assertFalse(project.copy_again_if_torn(whole, copy, 133))
        self.assertFalse(project.has_protocol(copy, 2))

    def test_is_looked_at_before_the_process_of_the_run_starts(self):
        launch, made = importlib.import_module("pyworkflow.protocol.launch"), os.path.join(self.folder, "made")
        scipion = SimpleNamespace(launchProtocol=lambda protocol, wait: launch._run(f"touch '{made}'", True))
        there = []
        with mock.patch.object(project, "check_database", lambda chain, name: there.append(os.path.exists(made))):
            self.assertTrue(project.launch(project.Chain(self.folder, scipion, {COMPOSE: None}), COMPOSE))
        self.assertEqual((there, os.path.exists(made)), ([False], True))

    def test_is_copied_again_where_it_lacks_the_run_or_is_no_database(self):
        whole = self.database("project.sqlite", 2, 133)
        torn = os.path.join(self.folder, "torn.db")
        with open(whole, "rb") as file, open(torn, "wb") as copy:
            copy.write(file.read(4096) + b"?" * 4096)
        for copy in (self.database("run.db", 2), torn):
            self.assertTrue(project.copy_again_if_torn(whole, copy, 133))
            self.assertTrue(project.has_protocol(copy, 133))
        self.assertEqual(sorted(os.listdir(self.folder)), ["project.sqlite", "run.db", "torn.db"])


class TestANewProject(unittest.TestCase):
    def test_is_refused_where_scipion_cannot_work(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ('the "new" one', "cost$5", "a`b", "a\\b"):
                path = os.path.join(folder, name, "project")
                with self.assertRaisesRegex(errors.UserError, "Scipion cannot work in the folder"):
                    project.create(path, {})
                self.assertFalse(os.path.exists(path))

    def test_is_refused_under_a_name_that_scipion_would_change(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(errors.UserError, "Call it 'my-session-1'"):
                project.create(os.path.join(folder, "my session.1"), {})
            self.assertEqual(os.listdir(folder), [])

    def test_is_refused_in_a_folder_that_holds_files_and_leaves_them_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            movie = os.path.join(folder, "session", "frames", "TS_01_001")
            os.makedirs(os.path.dirname(movie))
            open(movie, "wb").close()
            with self.assertRaisesRegex(errors.UserError, "is not an empty folder"):
                project.create(os.path.join(folder, "session"), {})
            with self.assertRaisesRegex(errors.UserError, "is not an empty folder"):
                project.create(movie, {})
            self.assertTrue(os.path.exists(movie))

    def test_that_is_refused_for_a_parameter_leaves_nothing_behind(self):
        self.addCleanup(os.chdir, os.getcwd())
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "night", "project")
            for values in ({"tomoThicknes": "1500"}, {"tomoThickness": "thick"}):
                with self.assertRaises(errors.UserError):
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


    def test_follows_on_after_an_error_that_nobody_foresaw_and_says_it_once(self):
        with tempfile.TemporaryDirectory() as folder:
            made = MadeProject(os.path.join(folder, "night"))
            made.whole("TS_01", image_files=False)
            chain = SimpleNamespace(path=made.path, protocols={}, ended=mock.Mock(
                side_effect=[KeyError("unforeseen"), KeyError("unforeseen"), True]))
            leaving = SimpleNamespace(asked=False, wait=lambda seconds: None)
            with contextlib.redirect_stdout(io.StringIO()) as said:
                status = run.follow(chain, SimpleNamespace(quiet=True, json=os.path.join(folder, "told.json")), leaving)
        self.assertEqual((status, said.getvalue().count("unexpected error"), said.getvalue().count("KeyError: 'unforeseen'")),
                         (0, 1, 1))


class TestSettings(unittest.TestCase):
    """--set of run and of resume, and the list of what it takes."""

    def test_are_read_from_what_the_user_writes(self):
        self.assertEqual(project.settings_of(["aretomo.tomoThickness=1500", "compose.excludedWords=a=b", "aretomo.doDW=True"]),
                         {ARETOMO: {"tomoThickness": "1500", "doDW": "True"}, COMPOSE: {"excludedWords": "a=b"}})
        for text in ("tomoThickness=1500", "aretomo.tomoThickness", "relion.x=1"):
            with self.assertRaisesRegex(errors.UserError, "PROTOCOL.PARAMETER=VALUE"):
                project.settings_of([text])

    def test_take_every_name_that_is_listed_with_its_default(self):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            self.assertEqual(main(["parameters", COMPOSE]), 0)
        listed = [line.split("#")[0].split(" = ") for line in said.getvalue().splitlines()]
        from tomostream.protocols import ProtTomoStreamComposeTS

        protocol = ProtTomoStreamComposeTS()
        values = {name.strip().removeprefix("compose."): value.strip() for name, value in listed}
        self.assertEqual((values["time4NextTilt"], values["manualTiltAxisAngle"]), ("3m", ""))
        project.apply(protocol, COMPOSE, values)
        self.assertIsNone(protocol.manualTiltAxisAngle.get())
        self.assertEqual(protocol.minNumTilts.get(), 3)

    def test_of_resume_reach_only_protocols_that_are_continued_and_that_take_them(self):
        protocol = mock.Mock(**{"getParam.return_value": FloatParam(label="axis"), "_validate.return_value": []})
        chain = SimpleNamespace(protocols={COMPOSE: protocol})
        resume.change(chain, {COMPOSE: {"manualTiltAxisAngle": "84.3"}}, [COMPOSE])
        protocol.manualTiltAxisAngle.set.assert_called_once_with(84.3)
        with self.assertRaisesRegex(errors.UserError, "compose is not being continued"):
            resume.change(chain, {COMPOSE: {"manualTiltAxisAngle": "84.3"}}, [ARETOMO])
        protocol._validate.return_value = ["Tilt axis angle: it is too large."]
        with self.assertRaisesRegex(errors.UserError, "too large"):
            resume.change(chain, {COMPOSE: {"manualTiltAxisAngle": "1000"}}, [COMPOSE])


class TestTheTable(unittest.TestCase):
    def test_says_how_many_failed_movies_it_does_not_name(self):
        with tempfile.TemporaryDirectory() as folder:
            run = os.path.join(folder, "Runs", "000002_ProtTomoStreamImportMovies")
            os.makedirs(os.path.join(run, "extra"))
            book = ledger.Ledger(ledger.path_in(run))
            for number in range(13):
                book.write(entries.Failed(f"m{number:02d}.tif", "is not complete"))
            book.flush()
            status = ProjectStatus(folder)
            status.update()
            lines = table.render(status, {})
        self.assertIn("... 3 earlier failed movies", lines)
        self.assertEqual([line.split()[2] for line in lines if line.startswith("failed movie")],
                         [f"m{number:02d}:" for number in range(3, 13)])          # the newest


class TestStatus(unittest.TestCase):
    def test_names_movies_that_failed_or_wait_with_their_reasons_for_scripts(self):
        with tempfile.TemporaryDirectory() as folder:
            made = MadeProject(folder)
            made.acquire("TS_01")
            made.report(IMPORT, "cut.tif", entries.Failed, "it is cut short")
            made.report(IMPORT, "late.tif", entries.Waiting, "is not complete")
            made.report(IMPORT, "repaired.tif", entries.Failed, "it is cut short")
            made.report(IMPORT, "repaired.tif", entries.Imported, "imported")
            with contextlib.redirect_stdout(io.StringIO()) as said:
                self.assertEqual(main(["status", folder, "--json"]), 0)
        self.assertEqual(json.loads(said.getvalue())["movies"],
                         {"failed": {"cut": "it is cut short"}, "waiting": {"late": "is not complete"}, "unassigned": {}})

    def test_names_movies_that_no_series_lists_and_ends_with_1(self):
        with tempfile.TemporaryDirectory() as folder:
            made = MadeProject(folder)
            made.whole("TS_01")
            status = ProjectStatus(folder)
            status.update()
            self.assertEqual((exit_status(status), exit_status(status, died=True)), (0, 1))
            made.report(COMPOSE, "", entries.Unassigned, "1 movie in no tilt series", count=1,
                        movies={"m_1": "No mdoc lists it."})
            status.update()
            self.assertEqual((exit_status(status), status.as_json()["movies"]["unassigned"]), (1, {"m_1": "No mdoc lists it."}))
            self.assertIn("1 movie in no tilt series", table.render(status, {}))
            made.report(COMPOSE, "", entries.Unassigned, "every movie belongs to a tilt series", count=0, movies={})
            status.update()
            self.assertEqual(exit_status(status), 0)

    def test_of_a_project_whose_protocols_are_about_to_start_says_so(self):
        with tempfile.TemporaryDirectory() as folder:
            os.makedirs(os.path.join(folder, "Runs"))
            with contextlib.redirect_stderr(io.StringIO()) as said:
                self.assertEqual(main(["status", folder]), 2)
            self.assertIn("no tomostream protocols", said.getvalue())
            with locks.hold(os.path.join(folder, "Runs", ".starting"), 0.0), contextlib.redirect_stdout(io.StringIO()) as said:
                self.assertEqual(main(["status", folder]), 0)
            self.assertIn("are starting", said.getvalue())


class TestTimes(unittest.TestCase):
    def test_no_movie_was_written_after_it_was_imported_whatever_the_clock_of_the_microscope(self):
        with tempfile.TemporaryDirectory() as folder:
            run = os.path.join(folder, "Runs", "000002_ProtTomoStreamImportMovies")
            os.makedirs(os.path.join(run, "extra"))
            book = ledger.Ledger(ledger.path_in(run))
            for name, ahead in (("ahead.tif", 3600.0), ("behind.tif", -5.0)):
                book.write(entries.Imported(name, "imported", file=name, size=1, mtime=time.time() + ahead))
            book.flush()
            status = ProjectStatus(folder)
            status.update()
            ahead, behind = status.movies["ahead"], status.movies["behind"]
            self.assertEqual(ahead.written, ahead.imported)
            self.assertAlmostEqual(behind.imported - behind.written, 5.0, delta=1.0)

    def test_a_latency_is_of_movies_not_of_people_who_had_a_series_made_again(self):
        with tempfile.TemporaryDirectory() as folder:
            made = MadeProject(folder)
            made.whole("TS_01", image_files=False)
            status = ProjectStatus(folder)
            status.update()
            self.assertAlmostEqual(status.latency_s(status.series["TS_01"]), 32.0)
            made.time += 1000
            made.compose("TS_01", version=2, image_files=False)
            made.reconstruct("TS_01", version=2, image_files=False)
            status.update()
            self.assertIsNone(status.latency_s(status.series["TS_01"]))
            made.acquire("TS_01")                   # now with newer movies
            made.compose("TS_01", version=3, image_files=False)
            made.reconstruct("TS_01", version=3, image_files=False)
            status.update()
            self.assertAlmostEqual(status.latency_s(status.series["TS_01"]), 32.0)


if __name__ == "__main__":
    unittest.main()
