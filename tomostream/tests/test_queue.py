# SPDX-License-Identifier: GPL-3.0-or-later
"""What a queue says of the jobs that it ended reaches the user."""

from __future__ import annotations

import os
import tempfile
import unittest

from pyworkflow.config import Config

Config.getDomain().getProtocols()       # the plugins below ours can be imported only once Scipion knows them

from tomostream.streaming.executor import words_of_queue  # noqa: E402

LIMIT = "slurmstepd: error: *** JOB 12 ON node1 CANCELLED AT 2026-11-22T22:35:40 DUE TO TIME LIMIT ***"


class TestTheWordsOfAQueue(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.logs = os.path.join(folder.name, "62-3-1")

    def write(self, ending: str, text: str) -> None:
        with open(self.logs + ending, "w", encoding="utf-8") as file:
            file.write(text)

    def test_a_job_that_ran_out_of_time_is_told_with_the_words_of_slurm(self):
        self.write(".err", f"Loading modules\n{LIMIT}\n")
        self.assertEqual(words_of_queue(self.logs), LIMIT)

    def test_lack_of_memory_is_told_wherever_the_queue_wrote_it(self):
        self.write(".err", "")
        self.write(".out", "slurmstepd: error: Detected 1 oom_kill event in StepId=13.batch.\n")
        self.assertIn("oom_kill", words_of_queue(self.logs))

    def test_the_end_of_time_in_pbs_is_known(self):
        self.write(".err", "=>> PBS: job killed: walltime 3605 exceeded limit 3600\n")
        self.assertIn("walltime 3605 exceeded", words_of_queue(self.logs))

    def test_other_words_mean_nothing(self):
        self.write(".err", "module: command not found\nterminal is not set\nnumpy warns of nothing\n")
        self.write(".out", "done\n")
        self.assertEqual(words_of_queue(self.logs), "")

    def test_a_queue_that_writes_no_logs_said_nothing(self):
        self.assertEqual(words_of_queue(self.logs), "")


if __name__ == "__main__":
    unittest.main()
