# SPDX-License-Identifier: GPL-3.0-or-later
"""Which protocols of other plugins work on tilt series, from a project's database."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import unittest

from tomostream.journal import entries, readers
from tomostream.journal.status import ARETOMO, COMPOSE, ProjectStatus
from tomostream.tests.made_project import MadeProject

THE_COMPOSE, THE_ARETOMO = 10, 20


class Project:
    """The tables of a project of Scipion that tell who reads what."""

    def __init__(self, test: unittest.TestCase) -> None:
        folder = tempfile.TemporaryDirectory()
        test.addCleanup(folder.cleanup)
        self.path = folder.name
        self._next = 1000
        with self._open() as base:
            base.execute("CREATE TABLE Objects (id INTEGER PRIMARY KEY, parent_id INTEGER, name TEXT, classname TEXT, "
                         "value TEXT, label TEXT)")
        self.protocol(THE_COMPOSE, "ProtTomoStreamComposeTS", "compose")
        self.protocol(THE_ARETOMO, "ProtTomoStreamAreTomo", "aretomo")
        self.reads(THE_ARETOMO, THE_COMPOSE, "tiltSeries")

    @contextlib.contextmanager
    def _open(self):
        with contextlib.closing(sqlite3.connect(os.path.join(self.path, "project.sqlite"))) as base:
            yield base
            base.commit()

    def add(self, *rows: tuple) -> list[int]:
        numbers = range(self._next, self._next + len(rows))
        self._next += len(rows)
        with self._open() as base:
            base.executemany("INSERT INTO Objects VALUES (?, ?, ?, ?, ?, ?)", [
                (number, *row) for number, row in zip(numbers, rows, strict=True)])
        return list(numbers)

    def protocol(self, number: int, kind: str, label: str, status: str = "scheduled") -> None:
        with self._open() as base:
            base.execute("INSERT INTO Objects VALUES (?, NULL, ?, ?, NULL, ?)", (number, kind, kind, label))
        self.add((number, f"{number}.status", "String", status, ""),
                 (number, f"{number}.workingDir", "String", f"Runs/{number:06d}_{kind}", ""))

    def reads(self, number: int, source: int, output: str | None, parent: int | None = None) -> None:
        pointer, = self.add((parent or number, f"{number}.inputSet", "Pointer", str(source), ""))
        self.add((pointer, f"{number}.{pointer}._extended", "String", output, ""))

    def ends(self, number: int, kind: str) -> None:
        """A run that has finished, as it says of itself."""
        folder = os.path.join(self.path, "Runs", f"{number:06d}_{kind}", "logs")
        os.makedirs(folder)
        with contextlib.closing(sqlite3.connect(os.path.join(folder, "run.db"))) as base:
            base.execute("CREATE TABLE Objects (name TEXT, value TEXT)")
            base.execute("INSERT INTO Objects VALUES (?, 'finished')", (f"{number}.status",))
            base.commit()

    @property
    def found(self) -> tuple[str, ...]:
        return readers.of_other_plugins(self.path, THE_COMPOSE)


class TestReadersOfOtherPlugins(unittest.TestCase):
    def setUp(self) -> None:
        self.project = Project(self)

    def test_our_own_are_none(self) -> None:
        self.assertEqual(self.project.found, ())

    def test_one_that_is_to_read_our_series_or_those_of_our_aretomo_is_one(self) -> None:
        self.project.protocol(30, "ProtImodTsNormalization", "imod - preprocess")
        self.project.reads(30, THE_COMPOSE, "tiltSeries")
        self.project.protocol(40, "ProtImodTomoReconstruction", "")
        self.project.reads(40, THE_ARETOMO, "TiltSeries")
        self.assertEqual(self.project.found, ("imod - preprocess", "ProtImodTomoReconstruction"))

    def test_one_that_names_the_output_itself_or_has_it_in_a_list_is_one(self) -> None:
        output, = self.project.add((THE_COMPOSE, f"{THE_COMPOSE}.tiltSeries", "SetOfTiltSeries", None, ""))
        self.project.protocol(30, "ProtOther", "by the output")
        self.project.reads(30, output, None)
        self.project.protocol(40, "ProtUnion", "from a list")
        pointers, = self.project.add((40, "40.inputSets", "PointerList", None, ""))
        self.project.reads(40, THE_COMPOSE, "tiltSeries", parent=pointers)
        self.assertEqual(self.project.found, ("by the output", "from a list"))

    def test_one_that_reads_tomograms_or_another_protocol_or_was_only_saved_is_none(self) -> None:
        for number, source, output, status in ((30, THE_ARETOMO, "Tomograms", "running"), (40, 99, "tiltSeries", "running"),
                                               (50, THE_COMPOSE, "tiltSeries", "saved")):
            self.project.protocol(number, "ProtOther", f"reader {number}", status)
            self.project.reads(number, source, output)
        self.assertEqual(self.project.found, ())

    def test_one_that_has_ended_does_not_count_although_the_project_does_not_know_it(self) -> None:
        self.project.protocol(30, "ProtOther", "a reader", "running")
        self.project.reads(30, THE_COMPOSE, "tiltSeries")
        self.project.ends(30, "ProtOther")
        self.assertEqual(self.project.found, ())

    def test_a_database_that_cannot_be_read_tells_of_none(self) -> None:
        self.assertEqual(readers.of_other_plugins(os.path.join(self.project.path, "gone"), THE_COMPOSE), ())


class TestWhatIsTold(unittest.TestCase):
    def test_a_series_that_stays_as_it_is_names_its_late_tilts_until_it_is_composed_again(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        made = MadeProject(os.path.join(folder.name, "project"))
        made.report(COMPOSE, "TS_01", entries.Composed, "composed of 2 tilts", movies=("a", "b"))
        made.report(ARETOMO, "TS_01", entries.Reconstructed, "done", version=1)
        made.report(COMPOSE, "TS_01", entries.Kept, "c came late", movies=("c",))
        status = ProjectStatus(made.path)
        status.update()
        self.assertEqual((status.series["TS_01"].state, status.series["TS_01"].reason), ("done", "done; c came late"))
        made.report(COMPOSE, "TS_01", entries.Composed, "composed of 3 tilts", version=2, movies=("a", "b", "c"))
        made.report(ARETOMO, "TS_01", entries.Reconstructed, "done again", version=2)
        status.update()
        self.assertEqual(status.series["TS_01"].reason, "done again")


class TestInAProjectOfScipion(unittest.TestCase):
    """As pyworkflow stores it."""

    def test_a_scheduled_filter_of_upstream_works_on_our_series_and_one_that_is_only_saved_does_not(self) -> None:
        from pyworkflow.config import Config
        from pyworkflow.project import Manager
        from pyworkflow.protocol import STATUS_SCHEDULED

        classes = Config.getDomain().getProtocols()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        project = Manager().createProject("readers", location=folder.name)
        self.addCleanup(project.closeMapper)
        os.chdir(project.path)
        compose = project.newProtocol(classes["ProtTomoStreamComposeTS"])
        project.saveProtocol(compose)
        for name, status in (("the filter", STATUS_SCHEDULED), ("another", None)):
            upstream = project.newProtocol(classes["ProtExclViewFilter"])
            upstream.setObjLabel(name)
            upstream.inTsSet.set(compose)
            upstream.inTsSet.setExtended("tiltSeries")
            project.saveProtocol(upstream)
            if status:
                upstream.setStatus(status)
                project._storeProtocol(upstream)
        self.assertEqual(readers.of_other_plugins(project.path, compose.getObjId()), ("the filter",))


if __name__ == "__main__":
    unittest.main()
