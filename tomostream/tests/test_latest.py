# SPDX-License-Identifier: GPL-3.0-or-later
"""The latest aligned tilt on the page: its picture, its figures, its power spectrum."""

from __future__ import annotations

import os
import unittest

import numpy as np
from PIL import Image

from tomostream.journal import entries
from tomostream.journal.status import MOTIONCOR
from tomostream.report.latest import MAX_TILE, power_spectrum
from tomostream.tests.made_project import write_mrc
from tomostream.tests.test_report import WithProject


def with_rings(size: int, ring: float) -> np.ndarray:
    """Noise (size, size) whose power has a ring at this share of the sampling frequency, cycles per px."""
    k = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    noise = np.random.default_rng(1).normal(size=(size, size))
    return np.fft.ifft2(np.fft.fft2(noise) * (1 + 3 * np.exp(-((k - ring) / 0.02) ** 2))).real.astype(np.float32)


class TestPowerSpectrum(unittest.TestCase):
    def test_a_ring_lies_at_its_frequency_in_images_of_any_size(self):
        for size in (128, 320, 700, 1100):
            spectrum = power_spectrum(with_rings(size, 0.25))
            tile = spectrum.shape[0]
            self.assertEqual(tile, min(MAX_TILE, 2 ** int(np.log2(size))))
            y, x = np.ogrid[:tile, :tile]
            radius = np.round(np.hypot(y - tile // 2, x - tile // 2)).astype(int)
            mean = np.bincount(radius.ravel(), spectrum.ravel())[:tile // 2] / np.bincount(radius.ravel())[:tile // 2]
            self.assertAlmostEqual(np.argmax(mean[tile // 16:]) + tile // 16, 0.25 * tile, delta=0.02 * tile)

    def test_an_image_of_nothing_or_of_no_numbers_has_none(self):
        for image in (np.zeros((600, 600), np.float32), np.full((600, 600), np.nan, np.float32), np.ones((64, 900), np.float32)):
            self.assertIsNone(power_spectrum(image))


class TestOnThePage(WithProject):
    def test_the_latest_tilt_is_there_before_any_series_and_makes_room_for_the_next(self):
        for name, level in (("a", 5.0), ("b", 9.0)):
            self.project.time += 60
            write_mrc(os.path.join(self.project.path, f"{name}.mrc"), with_rings(256, 0.2)[None] + np.float32(level), 2.0)
            self.project.tell(MOTIONCOR, f"{name}.tif", entries.Aligned, "aligned", file=f"{name}.mrc", drift_px=3.0,
                              pixel_size_A=2.0)
            self.writer().finish()
            told = self.read("data", "session.js")["tilt"]
            self.assertEqual((told["movie"], told["drift_px"], told["drift_A"], told["shape"], told["spectrum"]),
                             (f"{name}.tif", 3.0, 6.0, [256, 256], True))
            self.assertAlmostEqual(told["mean_counts"], level, delta=0.2)
        for name in ("tilt", "spectrum"):
            with Image.open(self.path("data", f"{name}.webp")) as picture:
                self.assertEqual(picture.size, (256, 256))

    def test_a_sum_that_is_gone_costs_nothing(self):
        self.project.acquire("TS_01", tilts=2)
        said = []
        self.writer(say=said.append).finish()
        self.assertEqual((self.read("data", "session.js")["tilt"], said), ({}, []))


if __name__ == "__main__":
    unittest.main()
