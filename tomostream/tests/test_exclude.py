# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking tilts out of a series: the file, following it, and the command's words."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import unittest

from tomostream import exclusions, ledger
from tomostream.cli import main


class TestFile(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = os.path.join(self.folder.name, exclusions.NAME)

    def test_what_is_written_is_read_back(self):
        chosen = {"TS_01": frozenset({"a", "b"}), "TS_02": frozenset()}
        exclusions.write(self.path, chosen)
        self.assertEqual(exclusions.read(self.path), chosen)

    def test_only_series_whose_choice_changed_are_told_and_each_once(self):
        follower = exclusions.Exclusions(self.path)
        self.assertEqual(list(follower.changes()), [])
        exclusions.write(self.path, {"TS_01": frozenset({"a"}), "TS_02": frozenset({"b"})})
        self.assertEqual(dict(follower.changes()), {"TS_01": frozenset({"a"}), "TS_02": frozenset({"b"})})
        self.assertEqual(list(follower.changes()), [])
        exclusions.write(self.path, {"TS_02": frozenset({"b"})})
        self.assertEqual(dict(follower.changes()), {"TS_01": frozenset()})

    def test_a_file_spoiled_by_hand_changes_nothing_for_the_session_and_is_named_to_the_user(self):
        with open(self.path, "w", encoding="utf-8") as file:
            file.write("{ TS_01")
        self.assertEqual(list(exclusions.Exclusions(self.path).changes()), [])
        with self.assertRaisesRegex(ValueError, exclusions.NAME):
            exclusions.read(self.path)


class TestCommand(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.extra = os.path.join(self.folder.name, "Runs", "000131_ProtTomoStreamComposeTS", "extra")
        os.makedirs(self.extra)
        tilts = [{"movie": f"TS_01_{order:03d}", "order": order, "angle": angle}
                 for order, angle in ((1, 0.0), (2, 3.0), (3, -3.0))]
        with open(os.path.join(self.extra, "TS_01.json"), "w", encoding="utf-8") as file:
            json.dump({"tilts": tilts}, file)
        ledger.Ledger(os.path.join(self.extra, ledger.NAME)).write("TS_01", ledger.COMPOSED, "", {"version": 1})

    def run_command(self, *words: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["exclude", self.folder.name, *words])
        return status, out.getvalue(), err.getvalue()

    def excluded(self) -> dict[str, frozenset[str]]:
        return exclusions.read(os.path.join(self.extra, exclusions.NAME))

    def test_tilts_are_named_by_order_or_movie_and_come_back(self):
        self.assertEqual(self.run_command("TS_01", "3", "TS_01_002.tif")[0], 0)
        self.assertEqual(self.excluded(), {"TS_01": frozenset({"TS_01_003", "TS_01_002"})})
        self.assertEqual(self.run_command("TS_01", "3", "--back")[0], 0)
        self.assertEqual(self.excluded(), {"TS_01": frozenset({"TS_01_002"})})
        self.assertEqual(self.run_command("TS_01", "--back")[0], 0)
        self.assertEqual(self.excluded(), {"TS_01": frozenset()})

    def test_without_tilts_it_lists_them_and_changes_nothing(self):
        status, out, _ = self.run_command("TS_01")
        self.assertEqual((status, self.excluded()), (0, {}))
        self.assertLess(out.index("TS_01_003"), out.index("TS_01_001"))

    def test_what_does_not_exist_is_said_in_one_line(self):
        for words, part in ((("TS_01", "9"), "'9' is no tilt"), (("TS_07", "1"), "no series TS_07")):
            status, _, err = self.run_command(*words)
            self.assertEqual((status, len(err.splitlines())), (2, 1))
            self.assertIn(part, err)


if __name__ == "__main__":
    unittest.main()
