# SPDX-License-Identifier: GPL-3.0-or-later
"""Outputs that the project does not see yet, as inputs of our own protocols."""

from __future__ import annotations

import os
import tempfile
import unittest

from pwem.objects import SetOfMovies
from pyworkflow.config import Config
from pyworkflow.object import Pointer

Config.getDomain().getProtocols()

from tomostream.protocols import ProtTomoStreamImportMovies, ProtTomoStreamMotionCor  # noqa: E402
from tomostream.streaming import inputs  # noqa: E402


class TestAnOutputThatIsNotSeenYet(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.producer = ProtTomoStreamImportMovies()
        self.producer.setObjLabel("my import")
        self.producer.workingDir.set(folder.name)
        self.pointer = Pointer(self.producer, extended="outputMovies")
        self.file = os.path.join(folder.name, "movies.sqlite")

    def test_is_waited_for_until_its_file_is_there(self):
        self.assertEqual(inputs.problem(self.pointer, "Input movies", "the import protocol"),
                         ["Input movies: my import has no outputMovies yet. Start it first."])
        open(self.file, "w").close()
        self.assertEqual(inputs.problem(self.pointer, "Input movies", "the import protocol"), [])
        self.assertEqual(inputs.file_of(self.pointer), self.file)

    def test_is_read_from_its_file_by_the_process_that_attaches_it(self):
        movies = SetOfMovies(filename=self.file)
        movies.close()
        self.assertIsNone(self.pointer.get())
        inputs.attach(self.pointer)
        self.addCleanup(self.pointer.get().close)
        self.assertEqual((type(self.pointer.get()).__name__, self.pointer.get().getFileName()), ("SetOfMovies", self.file))

    def test_nothing_chosen_is_reported_in_words_not_by_a_grey_button(self):
        protocol = ProtTomoStreamMotionCor()
        self.assertIn("Input movies: choose the output of the import protocol. It may still be empty.", protocol._validate())
        self.assertTrue(protocol.getParam("inputMovies").allowsNull)
