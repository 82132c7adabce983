# SPDX-License-Identifier: GPL-3.0-or-later
"""Which program does the work: that of the GPU where both are there, else the CPU engine, with the reason."""

from __future__ import annotations

import os
import sys
import tempfile
import unittest
from types import SimpleNamespace
from unittest import mock

from pyworkflow.config import Config

Config.getDomain().getProtocols()

from tomostream.constants import ENGINE_AUTO, ENGINE_CPU, ENGINE_GPU  # noqa: E402
from tomostream.protocols import engines  # noqa: E402
from tomostream.streaming.cores import CORES  # noqa: E402


class TestTheProgramThatIsRun(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="with blanks ")
        self.addCleanup(folder.cleanup)
        self.folder, self.program = folder.name, os.path.join(folder.name, "AreTomo2")
        self.plugin = SimpleNamespace(getProgram=lambda: self.program, getEnviron=lambda: {"CUDA": "12"})

    def install(self, name: str) -> None:
        with open(os.path.join(self.folder, name), "w", encoding="utf-8"):
            pass

    def choose(self, choice: int, gpu: bool = True) -> engines.Program:
        with mock.patch.object(engines, "gpu_present", return_value=gpu):
            return engines.choose(choice, self.plugin, "tomostream-aretomo")

    def test_is_chosen_by_what_is_there(self) -> None:
        found = self.choose(ENGINE_AUTO)
        self.assertEqual((found.gpu, found.environment), (False, None))
        self.assertIn(f"AreTomo2 is not installed ({self.program})", found.reason)
        self.install("AreTomo2")
        found = self.choose(ENGINE_AUTO, gpu=False)
        self.assertEqual((found.gpu, found.reason), (False, "this machine shows no GPU for AreTomo2, so the CPU engine does the "
                                                            "work"))
        found = self.choose(ENGINE_AUTO)
        self.assertEqual((found.gpu, found.environment, found.command), (True, {"CUDA": "12"}, f"'{self.program}'"))

    def test_is_the_one_that_was_asked_for_whatever_is_there(self) -> None:
        self.assertTrue(self.choose(ENGINE_GPU, gpu=False).gpu)         # jobs of a queue run on other machines
        self.install("AreTomo2")
        self.assertFalse(self.choose(ENGINE_CPU).gpu)

    def test_of_our_own_is_the_one_beside_the_interpreter(self) -> None:
        self.install("tomostream-aretomo")
        with mock.patch.object(sys, "executable", os.path.join(self.folder, "python3")):
            found = self.choose(ENGINE_CPU)
        self.assertEqual(found.command, f"'{self.folder}/tomostream-aretomo'")

    def test_has_its_share_of_the_cores(self) -> None:
        with mock.patch.dict(os.environ, {CORES: "8"}):
            self.assertEqual([engines.threads_per_program(workers) for workers in (0, 1, 3, 16)], [8, 8, 2, 1])


if __name__ == "__main__":
    unittest.main()
