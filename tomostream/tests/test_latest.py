# SPDX-License-Identifier: GPL-3.0-or-later
"""The latest aligned tilt on the page: its picture, its figures, its power spectrum."""

from __future__ import annotations

import os
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np
from PIL import Image

from tomostream.engine.ctf.spectra import Optics
from tomostream.journal import entries
from tomostream.journal.status import MOTIONCOR
from tomostream.report import latest
from tomostream.report.latest import MAX_TILE, fit_of, power_spectrum
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

    def test_the_decay_of_the_power_with_frequency_is_taken_out(self):
        k = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None])
        noise = np.random.default_rng(2).normal(size=(256, 256))
        spectrum = power_spectrum(np.fft.ifft2(np.fft.fft2(noise) * np.exp(-8 * k)).real.astype(np.float32))
        low, high = spectrum[128, 128 + 25:128 + 51], spectrum[128, 128 + 89:128 + 115]
        self.assertAlmostEqual(low.mean(), high.mean(), delta=1.0)      # the logarithm of the power falls by 4

    def test_an_image_of_nothing_or_of_no_numbers_has_none(self):
        for image in (np.zeros((600, 600), np.float32), np.full((600, 600), np.nan, np.float32), np.ones((64, 900), np.float32)):
            self.assertIsNone(power_spectrum(image))


OPTICS = Optics(300.0, 2.7, 0.07)


def with_ctf(size: int, pixel_A: float, defocus_A: float) -> np.ndarray:
    """A specimen of white noise (size, size) seen through a CTF whose envelope ends at about 8 A, and noise of the camera."""
    k2 = np.fft.fftfreq(size, pixel_A)[:, None] ** 2 + np.fft.rfftfreq(size, pixel_A)[None] ** 2
    noise = np.random.default_rng(3)
    seen = np.fft.rfft2(noise.normal(size=(size, size))) * np.sin(OPTICS.phase(k2, defocus_A)) * np.exp(-15 * k2)
    return (np.fft.irfft2(seen, (size, size)) + noise.normal(size=(size, size)) + 20).astype(np.float32)


class TestTheFitOfATilt(unittest.TestCase):
    """The CTF is fitted to the latest tilt alone, and drawn beside what was measured."""

    def test_the_defocus_is_found_and_the_zeros_lie_where_the_ctf_is_zero(self):
        found = fit_of(with_ctf(512, 4.0, 25000.0), OPTICS, 4.0)["ctf"]
        self.assertAlmostEqual(found["defocus_um"], 2.5, delta=0.03)
        self.assertLess(found["astigmatism_um"], 0.1)
        for along, across in found["zeros"]:
            for share, sign in ((along, 1), (across, -1)):
                defocus = 1e4 * (found["defocus_um"] + sign * found["astigmatism_um"] / 2)
                self.assertLess(abs(np.sin(OPTICS.phase(np.array([share / 8.0]) ** 2, defocus)[0])), 0.05)
        self.assertGreater(len(found["zeros"]), 3)
        self.assertGreater(np.corrcoef(found["measured"], found["fitted"])[0, 1], 0.7)

    def test_a_fit_that_few_rings_or_the_other_series_speak_against_is_not_shown(self):
        image = with_ctf(512, 4.0, 12000.0)         # three rings
        self.assertIn("a defocus of 1.20 µm is not believed", fit_of(image, OPTICS, 4.0)["ctf_note"])
        self.assertIn("the other series are at 3.10 µm", fit_of(image, OPTICS, 4.0, (3.0, 3.1, 3.2))["ctf_note"])
        self.assertAlmostEqual(fit_of(image, OPTICS, 4.0, (1.1, 1.2, 1.3))["ctf"]["defocus_um"], 1.2, delta=0.05)

    def test_where_there_is_no_fit_the_page_says_why(self):
        noise = np.random.default_rng(4).normal(size=(256, 256)).astype(np.float32)
        for image, optics, pixel, words in (
                (noise, None, 4.0, "voltage and spherical aberration are not known"), (noise, OPTICS, 20.0, "hold no Thon rings"),
                (noise, OPTICS, 3.0, "noise alone"), (np.zeros((256, 256), np.float32), OPTICS, 3.0, "nothing to fit"),
                (noise, OPTICS, 0.0, "nothing to fit")):
            self.assertIn(words, fit_of(image, optics, pixel)["ctf_note"])


class TestHowOftenATiltIsPainted(unittest.TestCase):
    def test_the_next_picture_is_begun_when_the_last_one_is_old_enough(self):
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as thread, \
                mock.patch.object(latest, "paint_tilt", side_effect=lambda tilt, *_: {"time": tilt.time}) as paint:
            with open(os.path.join(folder, "a.mrc"), "wb"):
                pass
            painter = latest.TiltPainter(folder, folder, thread, self.fail)
            for number, now in enumerate((100.0, 100.0 + latest.EVERY - 1.0, 100.0 + latest.EVERY)):
                tilt = latest.LatestTilt("a.tif", "a.mrc", float(number))
                painter.follow(tilt, now, idle=True)
                painter.wait(60)
                painter.follow(tilt, now, idle=True)
            self.assertEqual([call.args[0].time for call in paint.call_args_list], [0.0, 2.0])


class TestOnThePage(WithProject):
    def test_the_fit_comes_with_the_optics_that_motioncor_tells(self):
        write_mrc(os.path.join(self.project.path, "a.mrc"), with_ctf(512, 4.0, 25000.0)[None], 4.0)
        self.project.report(MOTIONCOR, "a.tif", entries.Aligned, "aligned", file="a.mrc", drift_px=3.0, pixel_size_A=2.0,
                            voltage_kV=300.0, cs_mm=2.7, amplitude_contrast=0.07)
        self.writer().finish()
        self.assertAlmostEqual(self.read("data", "session.js")["tilt"]["ctf"]["defocus_um"], 2.5, delta=0.03)

    def test_the_latest_tilt_is_there_before_any_series_and_makes_room_for_the_next(self):
        for name, level in (("a", 5.0), ("b", 9.0)):
            self.project.time += 60
            write_mrc(os.path.join(self.project.path, f"{name}.mrc"), with_rings(256, 0.2)[None] + np.float32(level), 2.0)
            self.project.report(MOTIONCOR, f"{name}.tif", entries.Aligned, "aligned", file=f"{name}.mrc", drift_px=3.0,
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
