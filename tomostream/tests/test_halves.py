# SPDX-License-Identifier: GPL-3.0-or-later
"""What is seen of a series and its halves before they are reconstructed."""

from __future__ import annotations

import unittest

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.recon.halves import Look, look
from tomostream.engine.recon.stack import TiltStack


class LookTest(unittest.TestCase):
    def setUp(self) -> None:
        rng = np.random.default_rng(1)
        self.even, self.odd = (rng.poisson(20, (2, 40, 50)).astype(np.float32) for _ in range(2))
        self.whole = self.even + self.odd

    def seen(self, *images: NDArray[np.float32]) -> Look:
        whole, *halves = (TiltStack("made here", each, 5.0) for each in images or (self.whole, self.even, self.odd))
        return look(whole, halves, 1)

    def test_halves_that_add_up_to_the_bit_do(self) -> None:
        self.assertEqual(self.seen(), Look((True, True, True), True))
        self.odd[1, 7, 9] += np.float32(1e-5)
        self.assertEqual(self.seen(), Look((True, True, True), False))

    def test_what_is_in_another_section_does_not_count(self) -> None:
        self.odd[0, 7, 9] = np.nan
        self.assertEqual(self.seen(), Look((True, True, True), True))

    def test_values_that_are_not_finite_are_seen_wherever_they_are(self) -> None:
        for value in (np.nan, np.inf, -np.inf, 1e20):
            self.setUp()
            self.odd[1, 39, 49] = value
            self.assertEqual(self.seen(), Look((True, True, False), False), value)

    def test_hot_pixels_are_replaced_in_each_image_by_itself_so_that_images_with_them_do_not_add_up(self) -> None:
        self.even[1, 20, 20] += 4000
        self.assertEqual(self.seen(self.even + self.odd, self.even, self.odd), Look((True, True, True), False))

    def test_counts_of_bytes_add_up_beyond_a_byte(self) -> None:
        even = np.full((2, 40, 50), 200, np.uint8)
        even[:, ::2] = 190
        self.assertTrue(self.seen((2 * even.astype(np.uint16)), even, even).adds_up)


if __name__ == "__main__":
    unittest.main()
