# SPDX-License-Identifier: GPL-3.0-or-later
"""Three rounds of chaos: what is done at moments drawn from a seed leaves the outputs of an undisturbed session.

`benchmarks/chaos.py` plays as many as you like, with other disturbances too.
"""

from __future__ import annotations

import io
import os
import random
import tempfile
import unittest
from unittest import mock

import pytest

from tomostream.tests import chaos, disturbances

pytestmark = pytest.mark.chain


class TestChaos(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.expected = chaos.undisturbed()

    def play(self, seed: int, *kinds: str) -> None:
        """One session in which these things happen, each at a moment that the seed gives."""
        draw = random.Random(seed)
        round_ = chaos.Round(seed, tuple(chaos.Disturbance.drawn(draw, kind, place == 0, 5.0)
                                         for place, kind in enumerate(kinds)))
        try:
            outcome = chaos.play(round_, self.expected)
        except chaos.Skipped as skipped:
            self.skipTest(str(skipped))
        self.assertEqual(outcome.wrong, (), round_)

    def test_the_undisturbed_session_is_complete(self):
        self.assertEqual({name: len(rows) for name, rows in self.expected.items()}, {
            "import/movies.sqlite": 20, "motioncor/micrographs.sqlite": 20, "compose/tiltseries.sqlite": 4,
            "aretomo/tiltseries.sqlite": 4, "aretomo/tomograms.sqlite": 4})

    def test_protocols_killed_one_by_one_two_and_all_with_the_driver_change_nothing(self):
        self.play(31, "kill", "kill-two", "kill-all")

    def test_what_is_unreadable_locked_or_stands_still_for_a_while_changes_nothing(self):
        self.play(32, "unreadable", "paused-writer", "stalled", "locked")

    def test_folders_that_may_not_be_entered_for_a_while_change_nothing(self):
        self.play(33, "permission", "permission")

    def test_a_disk_of_movies_that_is_not_mounted_for_a_while_changes_nothing(self):
        self.play(36, "unmounted", "unmounted")

    def test_a_closed_terminal_clocks_that_are_set_and_a_neighbour_change_nothing(self):
        self.play(34, "hang-up", "clock", "neighbour", "kill")

    def test_a_scheduler_that_fails_hangs_and_forgets_changes_nothing(self):
        self.play(35, "scheduler", "scheduler", "scheduler")


class SmallDisk(io.RawIOBase):
    """A file on a disk with room for one and nearly two more blocks."""

    left = 125_000

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        if not self.left:
            raise OSError(28, "No space left on device")
        written = min(len(data), self.left)
        self.left -= written
        return written


class TestAFullDisk(unittest.TestCase):
    def test_is_full_until_its_time_is_over_and_that_is_no_error_of_the_round(self):
        with tempfile.TemporaryDirectory() as folder:
            def small_disk(path: str, mode: str, buffering: int = -1) -> io.RawIOBase | io.BufferedWriter:
                os.mkdir(path)
                return SmallDisk() if buffering == 0 else io.BufferedWriter(SmallDisk())

            session = mock.Mock(project=os.path.join(folder, "proj"))
            with mock.patch.object(disturbances, "open", small_disk, create=True), \
                    mock.patch.object(disturbances.os, "remove", os.rmdir):
                disturbances.fill(session, chaos.Disturbance("full", (), "", 0.0, 0.0))
            self.assertEqual(os.listdir(folder), [])


class TestComparing(unittest.TestCase):
    """That a round can fail: what is lost, too much or other is named."""

    def test_names_what_is_lost_too_much_and_other(self):
        expected = {"import/movies.sqlite": {"a": {"x": 1}, "b": {"x": 1}}}
        found = {"import/movies.sqlite": {"a": {"x": 2}, "c": {"x": 1}}}
        self.assertEqual(chaos.differences(found, expected), [
            "import/movies.sqlite lacks b", "import/movies.sqlite has c that should not be there",
            "import/movies.sqlite a differs in x"])

    def test_finds_nothing_where_nothing_differs(self):
        self.assertEqual(chaos.differences({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 1}}}), [])


if __name__ == "__main__":
    unittest.main()
