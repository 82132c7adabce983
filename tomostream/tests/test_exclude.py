# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking tilts out of a series: the file, following it, and the command's words."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest import mock

from tomostream.choices import exclusions
from tomostream.cli import main
from tomostream.journal import entries, ledger
from tomostream.journal.composed import NoSeries, composed, read_series


class TestFile(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = os.path.join(self.folder.name, exclusions.NAME)

    def test_what_is_written_is_read_back(self):
        chosen = {"TS_01": {"a": "ice on the area", "b": ""}, "TS_02": {}}
        exclusions.write(self.path, chosen)
        self.assertEqual(exclusions.read(self.path), chosen)

    def test_only_series_whose_choice_changed_are_reported_and_each_once(self):
        follower = exclusions.Exclusions(self.path)
        self.assertEqual(list(follower.changes()), [])
        exclusions.write(self.path, {"TS_01": {"a": "ice"}, "TS_02": {"b": ""}})
        self.assertEqual(dict(follower.changes()), {"TS_01": {"a": "ice"}, "TS_02": {"b": ""}})
        self.assertEqual(list(follower.changes()), [])
        exclusions.write(self.path, {"TS_02": {"b": "another reason"}})
        self.assertEqual(dict(follower.changes()), {"TS_01": {}})

    def test_a_file_spoiled_by_hand_changes_nothing_for_the_session_and_is_named_to_the_user(self):
        with open(self.path, "w", encoding="utf-8") as file:
            file.write("{ TS_01")
        self.assertEqual(list(exclusions.Exclusions(self.path).changes()), [])
        with self.assertRaisesRegex(ValueError, exclusions.NAME):
            exclusions.read(self.path)


    def test_a_first_read_that_fails_for_a_moment_loses_nothing(self):
        exclusions.write(self.path, {"TS_01": {"a": "ice"}})
        follower = exclusions.Exclusions(self.path)
        with mock.patch.object(exclusions, "read", side_effect=ValueError("stale file handle")):
            self.assertEqual(list(follower.changes()), [])
        self.assertEqual(dict(follower.changes()), {"TS_01": {"a": "ice"}})


class SeriesCase(unittest.TestCase):
    """A project with one composed series of five tilts, and a tilt that never arrived."""

    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.extra = os.path.join(self.folder.name, "Runs", "000131_ProtTomoStreamComposeTS", "extra")
        os.makedirs(self.extra)
        tilts = [{"movie": f"TS_01_{order:03d}", "order": order, "angle": angle}
                 for order, angle in ((1, 0.0), (2, 3.0), (3, -3.0), (4, -6.0), (5, 6.0))]
        with open(os.path.join(self.extra, "TS_01.json"), "w", encoding="utf-8") as file:
            json.dump({"version": 1, "tilts": sorted(tilts, key=lambda tilt: tilt["angle"]),
                       "left_out": [{"movie": "TS_01_006.tif", "angle": 9.0, "reason": "Its movie never arrived."}]}, file)
        ledger.Ledger(os.path.join(self.extra, ledger.NAME)).write(entries.Composed("TS_01", "", version=1))


class TestCommand(SeriesCase):
    def run_command(self, *words: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["exclude", self.folder.name, *words])
        return status, out.getvalue(), err.getvalue()

    def test_a_project_in_the_folder_above_is_named_as_it_was_given(self):
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            self.assertEqual(main(["exclude", "../no-such-project", "TS_01"]), 2)
        self.assertEqual(err.getvalue(), "tomostream exclude: there is no Scipion project ../no-such-project.\n")

    def excluded(self) -> dict[str, dict[str, str]]:
        return exclusions.read(os.path.join(self.extra, exclusions.NAME))

    def test_tilts_are_named_by_order_or_movie_and_come_back(self):
        status, out, _ = self.run_command("TS_01", "3", "TS_01_002.tif", "--reason", "grid  bar")
        self.assertEqual(status, 0)
        self.assertIn("The session has ended; make it again with: tomostream resume", out)
        self.assertEqual(self.excluded(), {"TS_01": {"TS_01_003": "grid bar", "TS_01_002": "grid bar"}})
        self.assertEqual(self.run_command("TS_01", "3", "--back")[0], 0)
        self.assertEqual(self.excluded(), {"TS_01": {"TS_01_002": "grid bar"}})
        self.assertIn("TS_01_002  (taken out: grid bar)", self.run_command("TS_01")[1])
        self.assertEqual(self.run_command("TS_01", "--back")[0], 0)
        self.assertEqual(self.excluded(), {"TS_01": {}})

    def test_without_tilts_it_lists_them_and_changes_nothing(self):
        status, out, _ = self.run_command("TS_01")
        self.assertEqual((status, self.excluded()), (0, {}))
        self.assertIn("TS_01_006  (missing: Its movie never arrived.)", out)
        self.assertLess(out.index("TS_01_003"), out.index("TS_01_001"))

    def test_what_does_not_exist_is_reported_in_one_line(self):
        for words, part in ((("TS_01", "9"), "'9' is not one of its tilts"), (("TS_07", "1"), "no series TS_07; it has TS_01"),
                            (("TS_01", "1", "2", "3"), "only 2 of the tilts of TS_01 would be left")):
            status, _, err = self.run_command(*words)
            self.assertEqual((status, len(err.splitlines())), (2, 1))
            self.assertIn(part, err)


class TestSeries(SeriesCase):
    """What a window shows of a series before anything is chosen."""

    def test_tilts_come_by_angle_with_their_section_and_what_became_of_them(self):
        series = read_series(self.folder.name, "TS_01")
        self.assertEqual([(tilt.order, tilt.section, tilt.state) for tilt in series.tilts],
                         [(4, 0, "used"), (3, 1, "used"), (1, 2, "used"), (2, 3, "used"), (5, 4, "used"),
                          (None, None, "missing")])

    def test_choices_for_many_series_at_the_same_time_are_all_kept(self):
        series = exclusions.read_choice(self.folder.name, "TS_01")
        names = [f"TS_{number:02d}" for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: exclusions.apply(replace(series, series_id=name), {"TS_01_004": "ice"}), names))
        self.assertEqual(sorted(exclusions.read(os.path.join(self.extra, exclusions.NAME))), names)

    def test_what_is_taken_out_stays_in_the_list_after_the_series_was_composed_without_it(self):
        series = exclusions.read_choice(self.folder.name, "TS_01")
        self.assertEqual(exclusions.apply(series, {"TS_01_004": "ice"}), 4)
        record = {"version": 2, "tilts": [{"movie": tilt.movie, "order": tilt.order, "angle": tilt.angle}
                                          for tilt in series.used if tilt.order != 4],
                  "left_out": [{"movie": "TS_01_004.tif", "angle": -6.0, "reason": "The user took it out: ice.",
                                "why": "taken-out"}]}
        with open(os.path.join(self.extra, "TS_01-v2.json"), "w", encoding="utf-8") as file:
            json.dump(record, file)
        ledger.Ledger(os.path.join(self.extra, ledger.NAME)).write(entries.Composed("TS_01", "", version=2))
        again = exclusions.read_choice(self.folder.name, "TS_01")
        self.assertEqual([(tilt.state, tilt.reason, tilt.section) for tilt in again.tilts if tilt.angle == -6.0],
                         [("excluded", "ice", None)])
        self.assertEqual((again.version, again.stack), (2, os.path.join(self.extra, "TS_01-v2.mrcs")))
        self.assertEqual(exclusions.apply(again, back=["TS_01_004"]), 5)

    def test_a_project_without_series_says_so(self):
        with tempfile.TemporaryDirectory() as empty, self.assertRaisesRegex(NoSeries, "No tilt series has been composed yet"):
            composed(empty)


if __name__ == "__main__":
    unittest.main()
