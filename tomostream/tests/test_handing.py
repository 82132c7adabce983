# SPDX-License-Identifier: GPL-3.0-or-later
"""Finished series are exported one after the other while the session runs, and each result is reported."""

from __future__ import annotations

import os
import tempfile
import unittest
from types import SimpleNamespace
from unittest import mock

from tomostream.handoff.facts import Target
from tomostream.journal.status import ARETOMO
from tomostream.protocols import handing


class TestExporting(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.run_folder = os.path.join(folder.name, "Runs", "000200_ProtTomoStreamAreTomo")
        self.woken = mock.Mock()
        self.exporter = handing.Exporter(self.run_folder, os.path.join(folder.name, "out"), (Target.IMOD, Target.WARP), False,
                                         self.woken)
        self.addCleanup(self.exporter._thread.shutdown)
        self.status = SimpleNamespace(update=mock.Mock(), folders={ARETOMO: self.run_folder}, series={"TS_01": "the series"})
        self.exporter._status = self.status

    def words_of(self, work, name: str, export: mock.Mock) -> str:
        """Have one series exported; return what is reported."""
        with mock.patch.object(handing, "collect", side_effect=lambda status, series: series), \
                mock.patch.object(handing, "export", export):
            work(name)
            self.assertTrue(self.exporter.busy)
            self.exporter._thread.submit(int).result(60)        # those before it are done
        entry, = self.exporter.news()
        self.assertEqual((self.exporter.busy, self.woken.call_count), (False, 1))
        return entry.reason

    def test_says_which_programs_were_served_and_why_others_were_not(self) -> None:
        export = mock.Mock(return_value={Target.WARP: "it has no CTF"})
        self.assertEqual(self.words_of(self.exporter.export, "TS_01", export),
                         f"TS_01 was exported for {Target.IMOD.value}; not for {Target.WARP.value}: it has no CTF")
        self.assertEqual(export.call_args.args[0], "the series")
        self.status.update.assert_called_once_with()

    def test_of_a_run_that_is_not_the_last_of_the_chain_is_refused(self) -> None:
        export = mock.Mock()
        self.status.folders[ARETOMO] = os.path.join(os.path.dirname(self.run_folder), "000300_ProtTomoStreamAreTomo")
        self.assertIn("TS_01 could not be exported: this run is not the last",
                      self.words_of(self.exporter.export, "TS_01", export))
        export.assert_not_called()

    def test_that_fails_is_reported_and_the_next_series_comes(self) -> None:
        full = mock.Mock(side_effect=OSError(28, "No space left on device"))
        self.assertEqual(self.words_of(self.exporter.export, "TS_01", full),
                         "TS_01 could not be exported: [Errno 28] No space left on device")
        self.woken.reset_mock()
        self.assertIn("TS_01 was exported for", self.words_of(self.exporter.export, "TS_01", mock.Mock(return_value={})))

    def test_is_removed_if_a_series_fails_later(self) -> None:
        self.assertEqual(self.words_of(self.exporter.remove, "TS_01", mock.Mock()), "TS_01 had not been exported")

    def test_lacks_what_the_folder_does_not_hold_in_the_newest_version(self) -> None:
        held = [SimpleNamespace(series=SimpleNamespace(name=name, version=1)) for name in ("TS_01", "TS_02")]
        with mock.patch.object(handing, "exported_series", return_value=held):
            self.assertEqual(self.exporter.missing([("TS_03", 1), ("TS_02", 2), ("TS_01", 1)]), ["TS_02", "TS_03"])


if __name__ == "__main__":
    unittest.main()
