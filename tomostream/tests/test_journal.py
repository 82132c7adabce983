# SPDX-License-Identifier: GPL-3.0-or-later
"""What follows from entries: where a series stands, of what it is composed, what files take."""

from __future__ import annotations

import os
import tempfile
import unittest

from tomostream.acquisition.events import Compose, LeftOut, Why
from tomostream.acquisition.facts import Known, Tilt
from tomostream.acquisition.naming import movie_key
from tomostream.journal import composed, entries, layout, space
from tomostream.journal.status import ARETOMO, ProjectStatus
from tomostream.tests.made_project import MadeProject

UNKNOWN: Known[float] = Known(None, "not in the file")


class TestASeries(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.project = MadeProject(os.path.join(folder.name, "night"))

    def status(self):
        status = ProjectStatus(self.project.path)
        status.update()
        return status.series["TS_01"]

    def test_that_was_composed_again_is_not_done_with_the_tomogram_of_the_version_before(self):
        self.project.acquire("TS_01")
        self.project.compose("TS_01", image_files=False)
        self.project.compose("TS_01", version=2, image_files=False)
        self.project.reconstruct("TS_01", version=1, image_files=False)
        series = self.status()
        self.assertEqual((series.state, series.tomogram, series.version), ("reconstructing", None, 2))
        self.project.report(ARETOMO, "TS_01", entries.Failed, "the program crashed", version=1)
        self.assertEqual(self.status().state, "reconstructing")
        self.project.reconstruct("TS_01", version=2, image_files=False)
        self.assertEqual(self.status().state, "done")


class TestARecord(unittest.TestCase):
    def decision(self) -> Compose:
        tilts = tuple(Tilt(f"a_{order}.tif", angle, order, dose=Known(3.0, "field"), prior_dose=Known(3.0 * (order - 1), "sum"))
                      for order, angle in enumerate((-3.0, 0.0, 6.0), start=1))
        lost = LeftOut(Tilt("a_4.tif", 9.0, 4), "it failed", Why.MOVIE_FAILED)
        return Compose("TS_01", "TS_01", tilts, (lost,), Known(85.0, "title"), UNKNOWN, UNKNOWN, 1, "complete")

    def record(self, negated: bool) -> composed.SeriesRecord:
        files = {f"a_{order}": (f"a_{order}.mrc", "", "") for order in range(1, 5)}
        return composed.record_of(self.decision(), files, movie_key, negated)

    def test_has_the_angles_of_the_mdoc(self):
        record = self.record(False)
        self.assertEqual([(tilt.movie, tilt.angle) for tilt in record.tilts], [("a_1", -3.0), ("a_2", 0.0), ("a_3", 6.0)])
        self.assertEqual((record.left_out[0].angle, record.negated), (9.0, False))

    def test_has_the_other_sign_where_the_instrument_needs_it_and_stays_in_the_order_of_angles(self):
        record = self.record(True)
        self.assertEqual([(tilt.movie, tilt.angle) for tilt in record.tilts], [("a_3", -6.0), ("a_2", 0.0), ("a_1", 3.0)])
        self.assertEqual([tilt.prior_dose for tilt in record.tilts], [6.0, 3.0, 0.0])
        self.assertEqual((record.left_out[0].angle, record.negated), (-9.0, True))


    def test_never_says_minus_zero_degrees(self):
        self.assertEqual([str(tilt.angle) for tilt in self.record(True).tilts], ["-6.0", "0.0", "3.0"])


class TestTheNamesOfFiles(unittest.TestCase):
    def test_of_the_first_version_are_those_of_the_series_and_of_later_ones_no_series_has(self):
        self.assertEqual([layout.stem("TS_01", version) for version in (1, 2, 12)], ["TS_01", "TS_01-v2", "TS_01-v12"])


class TestTheBytesOfFiles(unittest.TestCase):
    def test_are_those_on_this_disk_without_what_is_linked(self):
        with tempfile.TemporaryDirectory() as folder:
            os.makedirs(os.path.join(folder, "run", "below"))
            for name, size in (("raw.tif", 1000), ("run/a.mrc", 100), ("run/below/b.mrc", 10)):
                with open(os.path.join(folder, name), "wb") as file:
                    file.write(b"x" * size)
            os.symlink(os.path.join(folder, "raw.tif"), os.path.join(folder, "run", "link.tif"))
            os.symlink(folder, os.path.join(folder, "run", "above"))
            self.assertEqual(space.bytes_of([os.path.join(folder, "run"), os.path.join(folder, "gone")]), 110)


if __name__ == "__main__":
    unittest.main()
