# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders and names as found in practice, through real Scipion processes: the images of every series against the truth."""

from __future__ import annotations

import json
import os
import unittest
from datetime import datetime, timedelta
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile

from tomostream.journal import entries
from tomostream.journal.composed import read_record
from tomostream.journal.layout import stem
from tomostream.journal.status import COMPOSE
from tomostream.simulator import Plan, SimulatedScene, VirtualClock, Writer
from tomostream.tests import standins
from tomostream.tests.support import Session

pytestmark = pytest.mark.chain
TILTS = 4


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
        run = cls.session.run("--timeout", "5", engine="gpu", settings={"compose.time4NextTilt": 12, "motioncor.binFactor": 1,
                                                                        "motioncor.engine": 2})       # the movies: by the CPU
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

#: Nights of one project, a folder each: layout, names, series. Their series have the same names, their movies too.
NIGHTS = (("standard", "exact", 1), ("flat", "exact", 1), ("folder-per-series", "exact", 2), ("two-grids", "exact", 2),
          ("samples", "exact", 2), ("standard", "lower", 1), ("standard", "prefix", 1), ("standard", "rounded", 1),
          ("standard", "brackets", 1), ("standard", "extension", 1), ("standard", "accents", 1),
          ("folder-per-series", "prefix", 2), ("two-grids", "lower", 2), ("two-grids", "prefix", 2), ("flat", "rounded", 1),
          ("flat", "extension", 1), ("folder-per-series", "lower", 2))
NIGHT_TILTS = 3


class TestManyNights(unittest.TestCase):
    """Every layout and every kind of names at once. The sum of a movie is a number of its bytes: it tells which file it is of."""

    @classmethod
    def setUpClass(cls):
        cls.session = Session()
        cls.addClassCleanup(cls.session.__exit__)
        cls.session.use_standins("0")
        for number, (layout, names, series) in enumerate(NIGHTS):
            plan = Plan(series=series, tilts=NIGHT_TILTS, frames=2, size=(48, 40), pixel_size=12.0, defocus=None, layout=layout,
                        names=names, seed=number)
            Writer(SimulatedScene(plan), cls.folder(number), clock=VirtualClock(),
                   start_time=datetime.now() - timedelta(days=len(NIGHTS) - number)).run()
        cls.session.frames = os.path.join(cls.session.acquisition, "**", "*.tif")
        cls.session.mdocs = cls.session.acquisition
        cls.session.run("--timeout", "5", engine="gpu", settings={"compose.time4NextTilt": 12}).wait(timeout=400)
        cls.truth, cls.files = {}, {}
        for number in range(len(NIGHTS)):
            movies = sorted(str(path) for path in Path(cls.folder(number)).rglob("*.tif"))
            cls.files.update({standins.value_of(path): path for path in movies})
            with open(os.path.join(cls.folder(number), "truth.json"), encoding="utf-8") as file:
                for series in json.load(file)["series"]:
                    tilts = {path: each["angle_deg"] for each in series["tilts"] for path in movies
                             if path.endswith(f"/{each['movie']}")}
                    assert len(tilts) == NIGHT_TILTS, tilts
                    cls.truth[number, min(tilts)] = tilts

    @classmethod
    def folder(cls, number: int) -> str:
        return os.path.join(cls.session.acquisition, f"night{number:02d}")

    def test_every_image_of_every_series_is_of_the_movie_that_was_exposed_for_it(self):
        self.assertEqual(len(self.files), NIGHT_TILTS * len(self.truth))
        made = {entry.item: entry for entry in self.session.events(COMPOSE, entries.Composed)}
        self.assertEqual(len(made), len(self.truth), self.session.last_words())
        found = {}
        for series_id, entry in made.items():
            path = os.path.join(self.session.folder_of(COMPOSE), "extra", stem(series_id, entry.version))
            record = read_record(f"{path}.json")
            with mrcfile.open(f"{path}.mrcs", permissive=True) as stack:
                movies = [self.files[float(image.flat[0])] for image in stack.data]
            number = int(os.path.relpath(record.mdocs[0], self.session.acquisition)[5:7])
            tilts = self.truth[number, min(movies)]
            self.assertEqual(sorted(movies), sorted(tilts), (series_id, NIGHTS[number]))
            for movie, tilt in zip(movies, record.tilts, strict=True):
                self.assertAlmostEqual(abs(tilts[movie]), abs(tilt.angle), places=3)
            found[number, min(movies)] = series_id
        self.assertEqual(found.keys(), self.truth.keys())

    def test_nothing_is_left_over(self):
        self.assertEqual(self.session.outcome()["movies"]["unassigned"], {})


if __name__ == "__main__":
    unittest.main()
