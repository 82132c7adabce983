# SPDX-License-Identifier: GPL-3.0-or-later
"""Thickness from a quick reconstruction: a slab of known faces is found, and becomes heights for the form."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import unittest

import mrcfile
import numpy as np

from tomostream.choices import thickness
from tomostream.engine import quick
from tomostream.files.grey import averaged
from tomostream.programs.aln import AlnFile, AlnRow, AngleRow, format_aln
from tomostream.programs.quality import Trust
from tomostream.tests.test_handedness import ANGLES, AXIS, SHIFTS, SIDE, stack_of_marks

PIXEL = 12.0


def slab(depth: int, low: int, high: int, seed: int = 0) -> np.ndarray:
    """Noise everywhere, grains between two slices: (depth, 96, 96)."""
    rng = np.random.default_rng(seed)
    volume = rng.normal(size=(depth, 96, 96)).astype(np.float32)
    places = rng.integers([low, 8, 8], [high, 88, 88], (400, 3))
    for z, y, x in places:
        volume[z, y - 2:y + 3, x - 2:x + 3] -= 6.0
    return volume


class TestMeasure(unittest.TestCase):
    def test_faces_of_a_slab_out_of_the_middle_are_found(self):
        top, bottom = thickness.measure(slab(120, 50, 90), PIXEL, None)
        self.assertAlmostEqual(top, (90 - 60) * PIXEL, delta=3 * PIXEL)
        self.assertAlmostEqual(bottom, (50 - 60) * PIXEL, delta=3 * PIXEL)

    def test_the_thickness_of_the_alignment_is_put_around_the_middle_that_is_seen(self):
        top, bottom = thickness.measure(slab(120, 50, 90), PIXEL, 300.0)
        self.assertAlmostEqual(top - bottom, 300.0)
        self.assertAlmostEqual((top + bottom) / 2, 10 * PIXEL, delta=3 * PIXEL)

    def test_a_volume_of_one_value_gets_a_proposal_all_the_same(self):
        top, bottom = thickness.measure(np.zeros((40, 32, 32), np.float32), PIXEL, None)
        self.assertEqual((top, bottom), (10 * PIXEL, -10 * PIXEL))

    def test_side_views_have_z_upward_from_row_0(self):
        volume = np.zeros((10, 32, 48), np.float32)
        volume[7, 16, :] = 1.0
        xz, yz = thickness.side_views(volume)
        self.assertEqual((xz.shape, yz.shape), ((10, 48), (10, 32)))
        self.assertEqual((int(xz.mean(axis=1).argmax()), int(yz.mean(axis=1).argmax())), (7, 7))


    def test_views_are_of_the_filtered_volume_and_plain_where_that_is_empty(self):
        rng = np.random.default_rng(4)
        plain, filtered = (rng.normal(size=(40, 60)).astype(np.float32) for _ in range(2))
        filtered[:10], filtered[30:] = 0.0, 0.0
        view = thickness.seen(5 * plain + 7, filtered, filtered.std(axis=1).astype(float))
        np.testing.assert_allclose(view[10:30], filtered[10:30])
        self.assertGreater(np.corrcoef(view[:10].ravel(), plain[:10].ravel())[0, 1], 0.99)
        self.assertAlmostEqual(view[:10].std() / filtered[10:30].std(), 1.0, delta=0.2)
        self.assertTrue(np.isfinite(thickness.seen(plain, np.zeros_like(plain), np.zeros(40))).all())


class TestHeights(unittest.TestCase):
    def test_a_specimen_in_the_middle_gets_room_above_and_below(self):
        found = thickness.heights(600.0, -600.0, 6.0)
        self.assertEqual((found.alignment, found.tomogram), (200, 220))

    def test_a_specimen_off_the_middle_fits_into_the_tomogram_which_stays_where_it_is(self):
        found = thickness.heights(1000.0, -200.0, 6.0)
        self.assertGreaterEqual(found.tomogram * 6.0 / 2, 1000.0)
        self.assertEqual(found.alignment, 200)

    def test_heights_are_even_and_the_tomogram_is_never_lower_than_the_specimen(self):
        for top, bottom in ((601.0, -13.0), (50.0, 20.0), (-20.0, -400.0)):
            found = thickness.heights(top, bottom, 1.7)
            self.assertEqual((found.tomogram % 2, found.alignment % 2), (0, 0))
            self.assertGreaterEqual(found.tomogram, found.alignment)

    def test_lines_that_cross_are_refused(self):
        with self.assertRaisesRegex(ValueError, "upper line"):
            thickness.heights(-1.0, 1.0, 6.0)

    def test_the_words_tell_both_numbers_and_where_the_specimen_lies(self):
        measured = thickness.Measured(PIXEL, 2, 0.0, 0.0, 1250.0)
        text = thickness.words(measured, 1000.0, -200.0, 6.0)
        for part in ("120 nm thick", "measured 125 nm", "40 nm above the middle", "thickness for alignment 200"):
            self.assertIn(part, text)


    def test_what_speaks_against_the_alignment_is_said_and_nothing_where_it_is_trusted(self):
        for trust, note, said in ((Trust.TRUSTED, "trust; the tilt offset may be wrong by 3 degrees", False),
                                  (Trust.DOUBTFUL, "do not trust: only 3 tilts are used", True), (Trust.UNKNOWN, "", False)):
            text = thickness.words(thickness.Measured(PIXEL, 2, 0.0, 0.0, None, note, trust), 100.0, -100.0, 6.0)
            self.assertEqual(text.endswith("The alignment: do not trust: only 3 tilts are used."), said, text)
            self.assertEqual("The alignment" in text, said, text)


class TestProgram(unittest.TestCase):
    """As the wizard runs it."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.stack = os.path.join(self.folder, "TS_01.mrcs")

    def source(self, **values: object) -> quick.Source:
        rows = tuple(AngleRow(angle, order) for order, angle in enumerate((-20.0, 0.0, 20.0, 40.0), start=1))
        return quick.Source(**{"series_id": "TS_01", "stack": self.stack, "pixel_size_A": 6.0, "rows": rows,
                               "sections": (3, 0, 1, 2), "tilt_axis": 0.0, **values})  # type: ignore[arg-type]

    def run_program(self, source: quick.Source) -> tuple[int, str]:
        job = os.path.join(self.folder, "job.json")
        thickness.write_job(job, source)
        err = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
            return thickness.main([job, self.folder]), err.getvalue()

    def test_it_leaves_what_was_measured_and_the_side_views(self):
        stack_of_marks(self.stack)
        aln = os.path.join(self.folder, "TS_01.aln")
        rows = tuple(AlnRow(place, AXIS, *SHIFTS[place], angle) for place, angle in enumerate(ANGLES))
        with open(aln, "w", encoding="utf-8") as file:
            file.write(format_aln(AlnFile(rows, raw_size=(SIDE, SIDE, len(rows)))))
        status, err = self.run_program(self.source(
            pixel_size_A=18.0, rows=tuple(AngleRow(angle) for angle in ANGLES), sections=tuple(range(len(ANGLES))),
            tilt_axis=AXIS, alignment=aln))
        self.assertEqual((status, err), (0, ""))
        measured, (xz, yz) = thickness.read_result(self.folder)
        self.assertEqual((measured.binning, measured.thickness_A, xz.shape, yz.shape), (1, None, (SIDE, SIDE), (SIDE, SIDE)))
        # the tubes reach from -105 A, the wall of those that lie, to 330 A, the end of the one that stands
        self.assertAlmostEqual(measured.top_A, 330.0, delta=120.0)
        self.assertAlmostEqual(measured.bottom_A, -105.0, delta=120.0)

    def test_a_job_is_read_as_it_was_written(self):
        job = os.path.join(self.folder, "job.json")
        for source in (self.source(), self.source(tilt_axis=None, alignment="a.aln")):
            thickness.write_job(job, source)
            self.assertEqual(thickness.read_job(job), source)

    def test_an_alignment_of_the_whole_stack_is_scaled_to_the_binned_images_of_the_tilts_that_are_used(self):
        path = os.path.join(self.folder, "TS_01.aln")
        rows = tuple(AlnRow(section, AXIS, 12.0 + section, -6.0, -20.0 + 20.0 * section) for section in range(4))
        with open(path, "w", encoding="utf-8") as file:
            file.write(format_aln(AlnFile(rows, raw_size=(640, 640, 4))))
        found = quick._scaled(path, self.source(), 4, (160, 160, 4))
        self.assertEqual([(row.tx, row.ty) for row in found.rows], [(3.0, -1.5), (3.25, -1.5), (3.5, -1.5), (3.75, -1.5)])
        self.assertEqual(found.raw_size, (160, 160, 4))
        self.assertEqual(quick._scaled(self.stack, self.source(), 4, (160, 160, 4)).rows, ())       # there is no such file

    def test_a_stack_that_is_gone_is_one_sentence(self):
        status, err = self.run_program(self.source())
        self.assertEqual((status, len(err.splitlines())), (1, 1))
        self.assertIn("The images of TS_01 cannot be read", err)

    def test_images_of_one_value_are_one_sentence_of_the_engine(self):
        with mrcfile.new(self.stack) as mrc:
            mrc.set_data(np.ones((4, 64, 64), np.float32))
        status, err = self.run_program(self.source())
        self.assertEqual((status, len(err.splitlines())), (1, 1))
        with self.assertRaises(quick.NotDone):
            thickness.read_result(self.folder)

    def test_binning_is_about_12_angstroms_and_bounds_the_pixels(self):
        self.assertEqual(quick.TO_JUDGE.binning(1.5, 4096, 4096), 8)
        self.assertEqual(quick.TO_JUDGE.binning(14.0, 500, 500), 1)
        self.assertEqual(quick.TO_JUDGE.binning(10.0, 4096, 4096), 8)

    def test_averaging_keeps_the_mean_of_each_square_and_leaves_a_rim_out(self):
        image = np.arange(35, dtype=np.float32).reshape(5, 7)
        self.assertEqual(averaged(image, 2).tolist(), [[4.0, 6.0, 8.0], [18.0, 20.0, 22.0]])


if __name__ == "__main__":
    unittest.main()
