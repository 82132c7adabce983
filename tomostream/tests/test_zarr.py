# SPDX-License-Identifier: GPL-3.0-or-later
"""Tomograms as OME-Zarr, read back by the library, and the list of series for an export."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import unittest
from unittest import mock

import mrcfile
import numpy as np
import zarr

from tomostream.cli import main as command
from tomostream.handoff import zarr as target
from tomostream.handoff.export import README, export, remove
from tomostream.handoff.facts import NotPossible, Series, Target, Volume
from tomostream.tests.test_handoff import NAME, Project


class TestOmeZarr(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def series(self, data: np.ndarray, upright: bool = True) -> Series:
        path = os.path.join(self.folder, "volume.mrc")
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(data if upright else np.ascontiguousarray(data.swapaxes(0, 1)))
        return Series("TS_01", 1, "", (1, 1), 2.5, (), volume=Volume(path, data.shape[::-1], 4.0, upright=upright))

    def written(self, series: Series):
        target.write(series, self.folder)
        return zarr.open_group(os.path.join(self.folder, "TS_01.ome.zarr"), mode="r")

    def test_the_finest_level_is_the_tomogram_and_each_other_one_the_mean_of_the_one_before(self):
        for shape in ((70, 150, 131), (200, 140, 260), (3, 129, 500)):
            for upright in (True, False):
                data = np.random.default_rng(1).normal(size=shape).astype(np.float32)
                group = self.written(self.series(data, upright))
                np.testing.assert_array_equal(group["0"][:], data)
                fine = data
                for level in range(1, len(group.attrs["multiscales"][0]["datasets"])):
                    z, y, x = (max(1, length // 2) for length in fine.shape)
                    halves = [min(2, length) for length in fine.shape]
                    fine = fine[:z * halves[0], :y * 2, :x * 2].reshape(z, halves[0], y, 2, x, 2).mean(axis=(1, 3, 5))
                    np.testing.assert_allclose(group[str(level)][:], fine, atol=1e-5)
                self.assertLessEqual(max(fine.shape), target.COARSE_EDGE)

    def test_a_viewer_is_told_where_each_voxel_is(self):
        data = np.zeros((8, 300, 260), np.float32)
        group = self.written(self.series(data))
        scales, = group.attrs["multiscales"]
        self.assertEqual((scales["version"], [axis["name"] for axis in scales["axes"]]), ("0.4", ["z", "y", "x"]))
        first, second = (each["coordinateTransformations"] for each in scales["datasets"][:2])
        self.assertEqual((first[0]["scale"], first[1]["translation"]), ([10.0] * 3, [0.0] * 3))
        self.assertEqual((second[0]["scale"], second[1]["translation"]), ([20.0] * 3, [5.0] * 3))    # middles of voxels
        with open(os.path.join(self.folder, "TS_01.ome.zarr", "0", ".zarray"), encoding="utf-8") as file:
            self.assertEqual(json.load(file)["dimension_separator"], "/")

    def test_without_the_library_or_a_tomogram_it_says_what_is_missing(self):
        series = self.series(np.zeros((2, 4, 4), np.float32))
        with mock.patch.dict(sys.modules, {"zarr": None}), self.assertRaisesRegex(NotPossible, "pip install"):
            target.write(series, self.folder)
        with self.assertRaisesRegex(NotPossible, "no tomogram"):
            target.write(Series("TS_01", 1, "", (1, 1), 2.5, ()), self.folder)
        self.assertEqual(os.listdir(self.folder), ["volume.mrc"])

    def test_a_finished_series_is_exported_by_a_list_and_taken_back(self):
        project, out = Project(os.path.join(self.folder, "night"), halves=False), os.path.join(self.folder, "out")
        names = os.path.join(self.folder, "series.csv")
        with open(names, "w", encoding="utf-8") as file:
            file.write(f"series_id,mark,note\n{NAME},good,\n")
        self.assertEqual(command(["export", project.path, out, "--to", "zarr", "--series-file", names]), 0)
        series = project.series()
        with mrcfile.open(series.volume.path) as volume:
            group = zarr.open_group(os.path.join(out, "zarr", f"{NAME}.ome.zarr"), mode="r")
            np.testing.assert_array_equal(group["0"][:], volume.data)
        with open(os.path.join(out, README), encoding="utf-8") as file:
            self.assertIn(f"napari zarr/{NAME}.ome.zarr", file.read())
        self.assertEqual(export(series, out, [Target.ZARR]), {})
        remove(NAME, out)
        self.assertEqual(os.listdir(os.path.join(out, "zarr")), [])
        with open(names, "w", encoding="utf-8") as file:
            file.write("TS_99\n")
        self.assertEqual(command(["export", project.path, out, "--series-file", names]), 2)
        self.assertEqual(command(["export", project.path, out, "--series-file", os.path.join(self.folder, "none")]), 2)


if __name__ == "__main__":
    unittest.main()
