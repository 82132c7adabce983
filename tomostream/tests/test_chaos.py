# SPDX-License-Identifier: GPL-3.0-or-later
"""Three rounds of chaos: protocols killed at moments drawn from a seed; the outputs are those of an undisturbed session.

`benchmarks/chaos.py` plays as many as you like, with other disturbances too.
"""

from __future__ import annotations

import unittest

import pytest

from tomostream.tests import chaos

pytestmark = pytest.mark.chain


class TestChaos(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.expected = chaos.undisturbed()

    def play(self, seed: int, kind: str) -> None:
        wrong, _ = chaos.play(chaos.Round.of(seed, {kind: 1}), self.expected)
        self.assertEqual(wrong, [])

    def test_the_undisturbed_session_is_complete(self):
        self.assertEqual({name: len(rows) for name, rows in self.expected.items()}, {
            "import/movies.sqlite": 15, "motioncor/micrographs.sqlite": 15, "compose/tiltseries.sqlite": 3,
            "aretomo/tiltseries.sqlite": 3, "aretomo/tomograms.sqlite": 3})

    def test_one_killed_protocol_changes_nothing(self):
        self.play(31, "kill")

    def test_two_killed_protocols_change_nothing(self):
        self.play(32, "kill-two")

    def test_all_protocols_and_the_driver_killed_at_once_change_nothing(self):
        self.play(33, "kill-all")


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
