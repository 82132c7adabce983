# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders and names as people have them through real Scipion processes: the images of every series against the truth."""

from __future__ import annotations

import os
import unittest

import mrcfile
import numpy as np
import pytest
import tifffile

from tomostream.journal import entries
from tomostream.journal.composed import read_record
from tomostream.journal.layout import stem
from tomostream.journal.status import COMPOSE
from tomostream.tests.support import Session

pytestmark = pytest.mark.chain
TILTS = 5


class TestTwoGridsInSmallLetters(unittest.TestCase):
    """TS_01 and TS_02 on each of two grids, and a server that made all names of the movies small."""

    @classmethod
    def setUpClass(cls):
        cls.session = Session()
        cls.addClassCleanup(cls.session.__exit__)
        cls.session.use_standins()
        writer = cls.session.simulate("--layout", "two-grids", "--names", "lower", "--series", "4", "--tilts", str(TILTS),
                                      "--frames", "3", "--size", "128", "--drift", "0", "--defocus", "0", "--max-tilt", "24")
        writer.wait(timeout=120)
        cls.session.frames = os.path.join(cls.session.acquisition, "*", "frames", "*.tif")
        cls.session.mdocs = cls.session.acquisition
        run = cls.session.run("--timeout", "10", settings={"compose.time4NextTilt": 12, "motioncor.binFactor": 1,
                                                           "motioncor.engine": 2})
        cls.status = run.wait(timeout=400)

    def test_every_image_of_every_series_is_the_one_that_was_exposed_for_it(self):
        made = {entry.item: entry for entry in self.session.events(COMPOSE, entries.Composed)}
        self.assertEqual(len(made), 4, self.session.last_words())
        truth = self.session.truth()["series"]
        movies = [tilt["movie"] for series in truth for tilt in series["tilts"]]
        exposed = {movie: tifffile.imread(os.path.join(self.session.acquisition, movie)).astype(float).sum(0)[::-1]
                   for movie in movies}
        of_series = {(series["tilts"][0]["movie"].split("/")[0], series["id"]): series for series in truth}
        found = set()
        for series_id, entry in made.items():
            path = os.path.join(self.session.folder_of(COMPOSE), "extra", stem(series_id, entry.version))
            record = read_record(f"{path}.json")
            grid = os.path.basename(os.path.dirname(record.mdocs[0]))
            found.add((grid, record.series_name))
            angles = {tilt["movie"]: tilt["angle_deg"] for tilt in of_series[grid, record.series_name]["tilts"]}
            with mrcfile.open(f"{path}.mrcs", permissive=True) as stack:
                self.assertEqual(len(stack.data), TILTS)
                for image, tilt in zip(stack.data, record.tilts, strict=True):
                    likeness = {movie: np.corrcoef(image.ravel(), each.ravel())[0, 1] for movie, each in exposed.items()}
                    best = max(likeness, key=likeness.__getitem__)
                    self.assertIn(best, angles, series_id)
                    self.assertAlmostEqual(abs(angles[best]), abs(tilt.angle), places=3)
        self.assertEqual(found, of_series.keys())

    def test_nothing_is_left_over(self):
        self.assertEqual(self.session.outcome()["movies"]["unassigned"], {})
        self.assertEqual(self.session.outcome()["counts"]["movies"]["aligned"], 4 * TILTS)


if __name__ == "__main__":
    unittest.main()
