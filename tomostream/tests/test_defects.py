# SPDX-License-Identifier: GPL-3.0-or-later
"""Defect files: MotionCor's lists, and those of SerialEM, turned, scaled and refused."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

import numpy as np

from tomostream.files.errors import BadFileError
from tomostream.programs.defects import rectangles

COLUMNS, ROWS = 12, 8
SIZE = f"CameraSizeX {COLUMNS}\nCameraSizeY {ROWS}\n"


class DefectTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = str(Path(folder.name, "defects.txt"))

    def bad(self, text: str, columns: int = COLUMNS, rows: int = ROWS, turned_over: bool = False) -> np.ndarray:
        """Where a file says that frames are bad, (rows, columns)."""
        Path(self.path).write_text(text, encoding="utf-8")
        bad = np.zeros((rows, columns), bool)
        for x, y, width, height in rectangles(self.path, columns, rows, turned_over):
            self.assertTrue(0 <= x and 0 <= y and width > 0 and height > 0 and x + width <= columns and y + height <= rows)
            bad[y:y + height, x:x + width] = True
        return bad

    def refused(self, text: str, reason: str, **size: int) -> None:
        with self.assertRaisesRegex(BadFileError, reason):
            self.bad(text, **size)


class TestOfSerialem(DefectTest):
    def test_every_keyword_marks_its_pixels_counted_from_the_upper_left(self) -> None:
        cases = {"BadColumns 2 3 9": np.s_[:, [2, 3, 9]], "BadRows 0 7": np.s_[[0, 7], :], "BadPixels 1 2 5 6": ([2, 6], [1, 5]),
                 "PartialBadColumn 4 2 1 3": np.s_[1:4, 4:6], "PartialBadRow 5 2 3 8": np.s_[5:7, 3:9]}
        for line, where in cases.items():
            expected = np.zeros((ROWS, COLUMNS), bool)
            expected[where] = True
            np.testing.assert_array_equal(self.bad(SIZE + line), expected, line)
            np.testing.assert_array_equal(self.bad(f"# of a camera\n{line}\n{SIZE}K2Type 1\nNew 1 x\n", turned_over=True),
                                          expected[::-1], line)

    def test_what_is_outside_of_the_usable_area_is_bad_and_0_is_no_bound(self) -> None:
        expected = np.ones((ROWS, COLUMNS), bool)
        expected[1:6, 2:10] = False
        np.testing.assert_array_equal(self.bad(SIZE + "UsableArea 1 2 5 9"), expected)
        self.assertFalse(self.bad(SIZE + "UsableArea 0 0 0 0").any())

    def test_frames_of_super_resolution_and_binned_ones_are_marked_alike(self) -> None:
        text = SIZE + "BadColumns 3\nBadPixels 6 2 11 7\nPartialBadRow 4 1 8 9"
        whole = self.bad(text)
        for times in (2, 4):
            large = self.bad(text, COLUMNS * times, ROWS * times, turned_over=True)
            np.testing.assert_array_equal(large, np.kron(whole, np.ones((times, times), bool))[::-1])
        np.testing.assert_array_equal(self.bad(text, COLUMNS // 2, ROWS // 2), whole.reshape(4, 2, 6, 2).any(axis=(1, 3)))

    def test_pixels_of_a_list_that_was_scaled_up_are_blocks(self) -> None:
        self.assertEqual(self.bad(SIZE + "WasScaled 1\nBadPixels 4 2").sum(), 4)
        self.assertEqual(self.bad(SIZE + "BadPixels 4 2\nWasScaled 2").sum(), 16)
        self.assertEqual(self.bad(SIZE + "BadPixels 4 2\nWasScaled -1").sum(), 1)

    def test_frames_that_were_saved_unrotated_are_marked_where_the_camera_is_bad(self) -> None:
        camera = np.zeros((COLUMNS, ROWS), bool)        # as the camera itself counts, on its side
        camera[2, 5] = camera[10, 1:4] = True
        for operation in (1, 3, 5, 7, 9, 11):
            turned = camera[:, ::-1] if operation & 4 else camera
            turned = np.rot90(turned, operation % 4)
            turned = turned[:, ::-1] if operation & 8 else turned
            pixels = " ".join(f"{x} {y}" for y, x in np.argwhere(turned))
            text = f"{SIZE}RotationAndFlip {operation}\nBadPixels {pixels}"
            np.testing.assert_array_equal(self.bad(text, ROWS, COLUMNS), camera, str(operation))
            np.testing.assert_array_equal(self.bad(text), turned, str(operation))
        self.refused(SIZE + "BadColumns 1", "for a camera of 12 x 8 pixels, the frames have 8 x 12", columns=ROWS, rows=COLUMNS)

    def test_what_makes_no_sense_is_refused_with_its_line(self) -> None:
        self.refused("BadColumns 1\n", "does not say the size of the camera")
        self.refused(SIZE + "BadColumns x", "line 3: BadColumns has 'x', which are not whole numbers")
        self.refused(SIZE + "BadPixels 1 2 3", "has 3 numbers where pairs are needed")
        self.refused(SIZE + "UsableArea 1 2", "has 2 numbers where 4 are needed")
        self.refused(SIZE + "BadColumns", "has 0 numbers where 1 are needed")
        self.refused(SIZE + "BadColumns 12", "BadColumns 12 is outside the camera, 12 x 8")
        self.refused(SIZE + "BadRows -1", "negative")
        self.refused(SIZE + "BadRows 99999999999999999999", "which no camera has")
        self.refused(SIZE + "5 6 7 8", "'5 6 7 8' does not begin with a SerialEM keyword")


class TestOfMotioncor(DefectTest):
    def test_rectangles_count_from_the_lower_left_whatever_the_movie(self) -> None:
        expected = np.zeros((ROWS, COLUMNS), bool)
        expected[2:5, 1:3] = expected[0, 0] = True
        for turned_over in (True, False):
            np.testing.assert_array_equal(self.bad("1 2 2 3 # a comment\n\n0 0 1 1\n", turned_over=turned_over), expected)
        self.refused("12 0 1 1", "outside the frames, 12 x 8")
        self.refused("1 1 0 1", "a defect of 0 x 1 pixels")
        self.refused("nan 1 1 1", "is not 'x y width height'")


if __name__ == "__main__":
    unittest.main()
