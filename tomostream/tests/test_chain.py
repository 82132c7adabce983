# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole chain for real: a simulated microscope, four Scipion processes, the CPU engine; outputs against the truth."""

from __future__ import annotations

import ast
import csv
import os
import re
import unittest

import numpy as np
import pytest

from tomostream.acquisition.movies import check_movie
from tomostream.journal import entries
from tomostream.journal.layout import STOP_FILE
from tomostream.journal.status import ARETOMO, COMPOSE, IMPORT, MOTIONCOR
from tomostream.programs.aln import row_from_xf
from tomostream.tests.support import ORDER, Session, wait_for

pytestmark = pytest.mark.chain
SIZE, TILTS, FRAMES, DOSE = 256, 11, 3, 6.0


def transform_of(tilt: dict) -> np.ndarray:
    """The 3 x 3 matrix of a tilt image's row."""
    return np.array(ast.literal_eval(tilt["_transform._matrix"]))


def off_truth(tilts: list[dict], truth: dict) -> np.ndarray:
    """Distance in px of each tilt's shift from the truth, but for the position of the specimen, which is free.

    A point (x, y, z) of the specimen is seen at (x cos + z sin, y) across and along the axis.
    """
    shifts, true, design = [], [], []
    by_order = {tilt["acquisition_order"]: tilt for tilt in truth["tilts"]}
    axis = np.radians(truth["tilt_axis_deg"])
    turn = np.array([[np.cos(axis), np.sin(axis)], [-np.sin(axis), np.cos(axis)]])
    for tilt in tilts:
        matrix = transform_of(tilt)
        _, tx, ty = row_from_xf((*matrix[0, :2], *matrix[1, :2], matrix[0, 2], matrix[1, 2]))
        shifts.append(turn @ (tx, ty))
        true.append(turn @ by_order[tilt["_acqOrder"]]["shift_px"])
        angle = np.radians(by_order[tilt["_acqOrder"]]["angle_deg"])
        design.append((np.cos(angle), np.sin(angle)))
    difference, design = np.array(shifts) - np.array(true), np.array(design)
    across = difference[:, 0] - design @ np.linalg.lstsq(design, difference[:, 0], rcond=None)[0]
    return np.hypot(across, difference[:, 1] - difference[:, 1].mean())


class TestASession(unittest.TestCase):
    """One series, nothing goes wrong."""

    @classmethod
    def setUpClass(cls):
        cls.session = Session()
        cls.addClassCleanup(cls.session.__exit__)
        run = cls.session.run("--timeout", "10", settings={"compose.time4NextTilt": 12, "aretomo.tomoThickness": 240,
                                                           "aretomo.alignZ": 160, "motioncor.splitEvenOdd": True,
                                                           "compose.doEvenOdd": True, "aretomo.doEvenOdd": True})
        cls.session.simulate("--tilts", str(TILTS), "--frames", str(FRAMES), "--size", str(SIZE), "--interval", "0.6",
                             "--start-delay", "6", "--max-tilt", "30", "--drift", "1", "--thickness", "900",
                             "--dose", str(DOSE))
        cls.status = run.wait(timeout=300)
        cls.truth = cls.session.truth()["series"][0]

    def test_ends_well_and_says_so(self):
        self.assertEqual(self.status, 0, self.session.said("run"))
        series = self.session.outcome()["series"]
        self.assertEqual([each["state"] for each in series], ["done"])
        self.assertGreaterEqual(series[0]["tilts_used"], TILTS - 1, series[0]["reason"])
        self.assertEqual(self.session.outcome()["counts"]["movies"],
                         {"found": TILTS, "imported": TILTS, "aligned": TILTS, "failed": 0})

    def test_tells_the_times_of_every_stage_in_their_order(self):
        times = self.session.outcome()["series"][0]["times"]
        order = [times[name] for name in ("last_movie", "imported", "aligned", "composed", "reconstructed")]
        self.assertNotIn(None, order)
        self.assertEqual(order, sorted(order))

    def test_leaves_every_protocol_finished_and_every_output_closed(self):
        for name in ORDER:
            self.assertEqual((name, self.session.state(name)), (name, "finished"))
            self.assertTrue(self.session.stream_closed(name), name)

    def test_imports_and_aligns_every_movie_once(self):
        movies = sorted(tilt["movie"] for tilt in self.truth["tilts"])
        for name in (IMPORT, MOTIONCOR):
            self.assertEqual(sorted(self.session.keys(name)), movies)
            for row in self.session.rows(name):
                check = check_movie(os.path.join(self.session.project, row["_filename"]))
                self.assertEqual((check.state, check.width, check.height), ("complete", SIZE, SIZE))

    def test_gives_movies_the_pixel_size_and_voltage_of_the_mdoc(self):
        for row in self.session.rows(IMPORT) + self.session.rows(MOTIONCOR):
            self.assertAlmostEqual(row["_samplingRate"], self.session.truth()["pixel_size_A"], places=3)
            self.assertEqual(row["_acquisition._voltage"], 300.0)

    def test_composes_the_tilts_sorted_by_angle_with_order_and_dose(self):
        tilts = self.session.tilts(COMPOSE, self.truth["id"])
        angles = [tilt["_tiltAngle"] for tilt in tilts]
        self.assertEqual(angles, sorted(angles))
        true = {tilt["acquisition_order"]: tilt for tilt in self.truth["tilts"]}
        self.assertEqual(sorted(tilt["_acqOrder"] for tilt in tilts), sorted(true))
        for index, tilt in enumerate(tilts, start=1):
            expected = true[tilt["_acqOrder"]]
            self.assertEqual(tilt["_index"], index)
            self.assertAlmostEqual(tilt["_tiltAngle"], expected["angle_deg"], places=3)
            self.assertAlmostEqual(tilt["_acquisition._doseInitial"], expected["prior_dose_e_per_A2"], places=3)
            self.assertAlmostEqual(tilt["_acquisition._accumDose"], expected["prior_dose_e_per_A2"] + DOSE, places=3)
            self.assertAlmostEqual(tilt["_acquisition._tiltAxisAngle"], self.truth["tilt_axis_deg"], places=2)
            self.assertEqual(tilt["_acquisition._voltage"], 300.0)

    def test_stacks_each_micrograph_at_its_place(self):
        import mrcfile

        tilts = self.session.tilts(COMPOSE, self.truth["id"])
        order = {tilt["acquisition_order"]: tilt["movie"] for tilt in self.truth["tilts"]}
        files = {row["_micName"]: row["_filename"] for row in self.session.rows(MOTIONCOR)}
        stack = mrcfile.read(os.path.join(self.session.project, tilts[0]["_filename"]))
        self.assertEqual(stack.shape, (TILTS, SIZE, SIZE))
        for tilt in tilts:
            image = mrcfile.read(os.path.join(self.session.project, files[order[tilt["_acqOrder"]]]))
            np.testing.assert_array_equal(stack[tilt["_index"] - 1], np.squeeze(image))

    def test_makes_the_halves_in_one_run_and_tells_their_resolution(self):
        entry, = self.session.events(ARETOMO, entries.Reconstructed)
        self.assertEqual(len(entry.commands), 1)
        self.assertIn("-InEven", entry.commands[0])
        self.assertGreater(entry.resolution_xy_A, 2 * self.truth_pixel_size())
        made = [check_movie(os.path.join(self.session.project, entry.folder, f"{self.truth['id']}{half}.mrc"))
                for half in ("", "_even", "_odd")]
        self.assertEqual(len({(each.state, each.width, each.height, each.frames) for each in made}), 1)
        self.assertEqual(made[1].state, "complete")

    def truth_pixel_size(self) -> float:
        return self.session.truth()["pixel_size_A"]

    def test_aligns_the_tilts_as_the_truth_says(self):
        tilts = [tilt for tilt in self.session.tilts(ARETOMO, self.truth["id"]) if tilt["enabled"]]
        self.assertGreaterEqual(len(tilts), TILTS - 1)
        distance = off_truth(tilts, self.truth)
        self.assertLess(np.sqrt(np.mean(distance**2)), 1.5, distance.round(2))
        for tilt in tilts:
            rotation = np.degrees(np.arctan2(transform_of(tilt)[0, 1], transform_of(tilt)[0, 0]))
            self.assertLess(abs(rotation - self.truth["tilt_axis_deg"]), 2.0)

    def test_makes_a_tomogram_of_the_right_size_and_pixel_size(self):
        row, = self.session.rows(ARETOMO)
        check = check_movie(os.path.join(self.session.project, row["_filename"]))
        self.assertEqual((check.state, check.width, check.height, check.frames), ("complete", SIZE // 2, SIZE // 2, 120))
        self.assertAlmostEqual(row["_samplingRate"], 2 * self.session.truth()["pixel_size_A"], places=3)
        self.assertEqual(os.path.realpath(self.session.outcome()["series"][0]["tomogram"]),
                         os.path.realpath(os.path.join(self.session.project, row["_filename"])))

    def test_tells_on_the_page_what_the_sets_hold(self):
        """Each figure of metrics.csv against the sets, read as Scipion reads them."""
        from tomo.objects import SetOfTiltSeries, SetOfTomograms

        page = os.path.join(self.session.folder, "page")
        self.assertEqual(self.session.call("report", self.session.project, "--out", page), 0, self.session.said("report"))
        with open(os.path.join(page, "metrics.csv"), encoding="utf-8", newline="") as file:
            row, = csv.DictReader(file)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.session.project)          # the sets name their files from there
        opened = [cls(filename=os.path.join(self.session.folder_of(name), file_name)) for cls, name, file_name in (
            (SetOfTiltSeries, COMPOSE, "tiltseries.sqlite"), (SetOfTiltSeries, ARETOMO, "tiltseries.sqlite"),
            (SetOfTomograms, ARETOMO, "tomograms.sqlite"))]
        for items in opened:
            self.addCleanup(items.close)
            items.loadAllProperties()
        composed, aligned, tomogram = (items.getFirstItem() for items in opened)
        enabled = [image for image in aligned.iterItems() if image.isEnabled()]
        self.assertEqual((row["series_id"], row["state"], row["version"]), (composed.getTsId(), "done", "1"))
        self.assertEqual((int(row["tilts_used"]), int(row["tilts_aligned"])), (len(enabled), composed.getSize()))
        self.assertAlmostEqual(float(row["dose_e_A2"]), composed.getAcquisition().getAccumDose(), places=2)
        self.assertAlmostEqual(float(row["tilt_axis_deg"]), tomogram.getAcquisition().getTiltAxisAngle(), places=2)
        self.assertAlmostEqual(float(row["pixel_size_A"]), composed.getSamplingRate(), places=3)
        self.assertEqual(row["tomogram"], tomogram.getFileName())
        self.assertIn(float(row["worst_tilt_deg"]), [round(image.getTiltAngle(), 2) for image in composed.iterItems()])
        defoci = [tilt for tilt in (row["defocus_min_um"], row["defocus_max_um"]) if tilt]
        self.assertEqual(len(defoci) == 2, self.session.folder_of(ARETOMO) is not None
                         and os.path.exists(os.path.join(self.session.folder_of(ARETOMO), "ctftomoseries.sqlite")))

    def test_tells_a_story_in_the_logs(self):
        for name in ORDER:
            text = self.session.log_of(name)
            self.assertNotIn("Traceback", text)
            self.assertNotIn("FATAL", text)
            self.assertNotIn("ERROR", text)
        for movie in self.truth["tilts"]:
            told = re.findall(rf"  {re.escape(movie['movie'])}: imported", self.session.log_of(IMPORT), re.MULTILINE)
            self.assertEqual(len(told), 1, movie["movie"])

    def test_leaves_no_work_folder_behind(self):
        for name in ORDER:
            self.assertFalse([found for found in os.walk(os.path.join(self.session.folder_of(name), "extra", ".work"))
                              if found[2]], name)


class TestASessionWithABadAndAMissingMovie(unittest.TestCase):
    """The movies grow in place, one is cut off for good, one never comes."""

    @classmethod
    def setUpClass(cls):
        cls.session = Session()
        cls.addClassCleanup(cls.session.__exit__)
        run = cls.session.run("--timeout", "10m", settings={
            "import.fileTimeout": 6, "compose.time4NextTilt": 5, "aretomo.tomoThickness": 240, "aretomo.alignZ": 160})
        cls.session.simulate("--tilts", "9", "--frames", str(FRAMES), "--size", "128", "--interval", "0.6", "--start-delay",
                             "6", "--max-tilt", "40", "--write", "slow", "--dose", str(DOSE), "--fault", "truncated:1:3",
                             "--fault", "missing:1:5")
        wait_for(lambda: cls.session.events(COMPOSE, entries.Composed) or run.poll() is not None, 240, "a composed series")
        cls.composed_first = run.poll() is None
        with open(os.path.join(cls.session.folder_of(IMPORT), "extra", STOP_FILE), "w", encoding="utf-8"):
            pass
        cls.status = run.wait(timeout=300)

    def test_reports_what_failed_by_its_exit_status(self):
        self.assertEqual(self.status, 1, self.session.said("run"))

    def test_fails_the_truncated_movie_alone_with_its_reason(self):
        failed = self.session.events(IMPORT, entries.Failed)
        self.assertEqual([entry.item.split("_")[2] for entry in failed], ["003"])
        self.assertIn("not complete", failed[0].reason)
        self.assertEqual(len(self.session.rows(IMPORT)), 7)
        self.assertEqual(len(self.session.rows(MOTIONCOR)), 7)

    def test_composes_the_series_without_the_two_and_says_which(self):
        composed, = self.session.events(COMPOSE, entries.Composed)
        self.assertEqual(len(composed.movies), 7)
        left = {movie.split("_")[2] for movie in [left.movie for left in composed.left_out]}
        self.assertEqual(left, {"003", "005"})
        self.assertEqual([tilt["_acqOrder"] for tilt in self.session.tilts(COMPOSE, "TS_01")
                          if tilt["_acqOrder"] in (3, 5)], [])

    def test_does_not_wait_for_the_end_of_the_import(self):
        self.assertTrue(self.composed_first, self.session.said("run"))

    def test_counts_the_dose_of_the_tilts_that_are_missing(self):
        for tilt in self.session.tilts(COMPOSE, "TS_01"):
            self.assertAlmostEqual(tilt["_acquisition._doseInitial"], DOSE * (tilt["_acqOrder"] - 1), places=3)

    def test_names_both_in_the_outcome(self):
        series, = self.session.outcome()["series"]
        self.assertEqual((series["state"], series["tilts_used"]), ("done", 7))
        self.assertEqual(self.session.outcome()["counts"]["movies"]["failed"], 1)

    def test_expected_faults_leave_no_traceback(self):
        for name in ORDER:
            self.assertNotIn("Traceback", self.session.log_of(name))


if __name__ == "__main__":
    unittest.main()
