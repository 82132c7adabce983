# SPDX-License-Identifier: GPL-3.0-or-later
"""The joint CTF fit finds known defoci, astigmatism and hand, and says so where there is nothing to find."""

from __future__ import annotations

import functools
import math
import unittest
from collections.abc import Sequence
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.ctf import CtfSeries, Optics, TiltSpectra, fit_series, tilt_spectra
from tomostream.engine.ctf.picture import spectrum_picture
from tomostream.engine.ctf.series import _best_phase as best_phase
from tomostream.engine.ctf.series import binned, binning, estimate
from tomostream.engine.ctf.spectra import SECTORS, highest_signal, usable_range
from tomostream.engine.recon.aligned import Placement
from tomostream.engine.recon.options import TiltUse
from tomostream.engine.recon.stack import TiltStack

PIXEL, SIDE, AXIS = 2.7, 512, 84.0
TILTS = np.arange(-60.0, 61.0, 10.0)
ASTIGMATISM, AZIMUTH = 600.0, math.radians(35.0)
FLUX = 12.0


def ctf(s: NDArray[np.float64], defocus: NDArray[np.float64], shift: float = 0.0) -> NDArray[np.float64]:
    """The formula once more: 300 kV, Cs 2.7 mm, amplitude contrast 0.07; underfocus positive; `shift` in radians."""
    volts = 300e3
    wave = 12.2639 / math.sqrt(volts + 0.97845e-6 * volts * volts)
    return np.sin(math.pi * wave * defocus * s - 0.5 * math.pi * 2.7e7 * wave**3 * s * s + math.asin(0.07) + shift)


def picture(
    tilt: float, defocus: float, hand: int, rings: bool, rng: np.random.Generator, shift: float = 0.0
) -> NDArray[np.float32]:
    """Counts of a random object whose defocus changes across the axis, made of strips of constant defocus."""
    ky, kx = np.fft.fftfreq(SIDE, PIXEL)[:, None], np.fft.rfftfreq(SIDE, PIXEL)[None]
    s, direction = kx**2 + ky**2, np.arctan2(ky, kx)
    spectrum = np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) * np.exp(-60 * s) / (1 + 1600 * s)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    across = (math.cos(math.radians(AXIS)) * x + math.sin(math.radians(AXIS)) * y) * PIXEL
    change = hand * across * math.tan(math.radians(tilt))
    levels = np.linspace(change.min(), change.max(), 1 if hand == 0 or tilt == 0 else 9)
    image = np.zeros((SIDE, SIDE))
    for level in levels:
        here = defocus + level + ASTIGMATISM / 2 * np.cos(2 * (direction - AZIMUTH))
        part = np.fft.irfft2(spectrum * (ctf(s, here, shift) if rings else 1.0), s=(SIDE, SIDE))
        step = levels[1] - levels[0] if len(levels) > 1 else 1.0
        image += part * (np.clip(1 - np.abs(change - level) / step, 0, 1) if len(levels) > 1 else 1.0)
    image *= 0.05 / image.std()
    return rng.poisson(FLUX * PIXEL**2 * np.clip(1 - image, 0, None)).astype(np.float32)


@functools.cache
def case(defocus: float, hand: int, rings: bool) -> tuple[tuple[float, ...], tuple[TiltSpectra, ...], CtfSeries]:
    """True defoci, spectra, fit."""
    rng = np.random.default_rng(4)
    truth = tuple(float(d) for d in defocus + rng.normal(0, 400, len(TILTS)))
    spectra = tuple(
        tilt_spectra(picture(float(t), d, hand, rings, rng), float(t), AXIS, PIXEL)
        for t, d in zip(TILTS, truth, strict=True)
    )
    return truth, spectra, fit_series(spectra, Optics())


class FitTest(unittest.TestCase):
    def check(self, defocus: float, hand: int) -> CtfSeries:
        truth, _, fit = case(defocus, hand, True)
        self.assertTrue(fit.found, fit.note)
        self.assertEqual(fit.hand, hand)
        errors = np.array([(t.defocus_max_A + t.defocus_min_A) / 2 for t in fit.tilts]) - truth
        self.assertLess(abs(np.median(errors)), 0.005 * defocus)
        self.assertLess(np.median(np.abs(errors)), 0.01 * defocus)
        return fit

    def test_defocus_and_hand_are_found(self) -> None:
        self.check(32000.0, 1)

    def test_the_other_hand_is_found(self) -> None:
        self.check(22000.0, -1)

    def test_a_defocus_that_does_not_change_across_the_image_is_found(self) -> None:
        self.check(42000.0, 0)

    def test_a_steep_spectrum_does_not_move_the_rings(self) -> None:
        # powers as they are on average, with the specimen's spectrum as steep as that of a real series
        s = np.linspace(1 / 45.0**2, 1 / 5.5**2, 256)
        for defocus in (15000.0, 45000.0):
            spectra = []
            for tilt in TILTS:
                heights = np.linspace(-2500, 2500, 11) * math.tan(math.radians(tilt)) if tilt else np.zeros(1)
                path = 1 / math.cos(math.radians(tilt))
                ratio = 1e-3 / s * np.exp(-120 * s - 1.3 * (path - 1))
                power = 1 + ratio * ctf(s[None, None], (defocus + heights)[:, None, None]) ** 2
                power = np.repeat(power, SECTORS, axis=1)
                level = np.exp(np.polyval(np.polyfit(np.sqrt(s), np.log(power.mean(axis=(0, 1))), 5), np.sqrt(s)))
                modulation = (power / level - 1).astype(np.float32)
                weight = np.full(power.shape, 2e4 / power.shape[0] / SECTORS, np.float32)
                spectra.append(
                    TiltSpectra(float(tilt), s, heights, modulation, weight, np.zeros((2, 2), np.float32), PIXEL)
                )
            fit = fit_series(spectra, Optics())
            self.assertTrue(fit.found)
            errors = np.array([(t.defocus_max_A + t.defocus_min_A) / 2 for t in fit.tilts]) / defocus - 1
            self.assertLess(np.abs(errors).max(), 0.004)

    def test_astigmatism_and_its_direction_are_found(self) -> None:
        fit = self.check(32000.0, 1)
        first = fit.tilts[0]
        self.assertAlmostEqual(first.defocus_max_A - first.defocus_min_A, ASTIGMATISM, delta=350)
        away = (first.azimuth_deg - math.degrees(AZIMUTH) + 90) % 180 - 90
        self.assertLess(abs(away), 20)

    def test_the_stated_uncertainty_is_that_of_the_errors(self) -> None:
        truth, _, fit = case(32000.0, 1, True)
        errors = np.array([(t.defocus_max_A + t.defocus_min_A) / 2 for t in fit.tilts]) - truth
        ratio = np.sqrt(np.mean((errors / [t.sigma_A for t in fit.tilts]) ** 2))
        self.assertTrue(0.4 < ratio < 2.5, ratio)

    def test_scores_and_resolutions_mean_something(self) -> None:
        _, _, fit = case(32000.0, 1, True)
        self.assertGreater(np.median([t.score for t in fit.tilts]), 0.5)
        self.assertTrue(all(5 < t.resolution_A < 40 for t in fit.tilts))

    def test_images_without_rings_are_reported_as_such(self) -> None:
        _, _, fit = case(30000.0, 0, False)
        self.assertFalse(fit.found)
        self.assertIn("no Thon rings", fit.note)

    def test_rings_beyond_the_signal_are_not_believed(self) -> None:
        _, spectra, _ = case(32000.0, 1, True)
        self.assertFalse(fit_series(spectra, Optics(), 1 / 30.0).found)

    def test_the_signal_is_told_from_the_noise(self) -> None:
        rng = np.random.default_rng(7)
        image = picture(0.0, 30000.0, 0, True, rng)
        noise = rng.poisson(80, (SIDE, SIDE)).astype(np.float32)
        self.assertTrue(1 / 25 < highest_signal([image], PIXEL) < 1 / 6)
        self.assertLess(highest_signal([noise], PIXEL), 1 / 28)

    def test_what_a_grid_bar_covers_takes_no_part(self) -> None:
        image = picture(0.0, 30000.0, 0, True, np.random.default_rng(7))
        whole = tilt_spectra(image, 0.0, AXIS, PIXEL)
        image[:, : SIDE // 2] *= 0.02
        part = tilt_spectra(image, 0.0, AXIS, PIXEL)
        self.assertLess(abs(float(part.weight.sum() / whole.weight.sum()) - 0.5), 0.15)

    def test_coarse_pixels_hold_no_rings(self) -> None:
        self.assertTrue(usable_range(5.4))
        self.assertFalse(usable_range(10.0))

    def test_binning_is_the_mean_of_squares_of_pixels(self) -> None:
        image = np.random.default_rng(3).random((103, 80)).astype(np.float32)
        for factor in (1, 2, 3):
            rows, columns = (n // factor for n in image.shape)
            squares = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
            np.testing.assert_allclose(binned(image, factor), squares.mean(axis=(1, 3)), rtol=1e-6)

    def test_fine_pixels_are_binned_as_far_as_the_signal_allows(self) -> None:
        self.assertEqual([binning(pixel, 1 / 9.0) for pixel in (1.0, 1.35, 2.7, 5.4)], [3, 2, 1, 1])
        self.assertEqual(binning(1.35, 1 / 5.0), 1)

    def test_a_phase_shift_is_found_within_the_range_that_is_searched(self) -> None:
        rng = np.random.default_rng(3)
        tilts = np.arange(-45.0, 46.0, 15.0)
        images = np.stack([picture(float(t), 26000.0, 1, True, rng, math.pi / 2) for t in tilts])
        uses = [TiltUse(i, float(t), Placement(AXIS, 0.0, 0.0)) for i, t in enumerate(tilts)]
        found = estimate(TiltStack("memory", images, PIXEL), uses, Optics(), (80.0, 40.0), PIXEL, 1, lambda *_: None)
        series = found.series
        if series is None:
            self.fail(found.note)
        self.assertAlmostEqual(math.degrees(series.tilts[0].phase_rad), 90, delta=12)
        middle = [(t.defocus_max_A + t.defocus_min_A) / 2 for t in series.tilts]
        self.assertAlmostEqual(float(np.median(middle)), 26000, delta=400)

    def test_the_best_phase_shift_is_looked_for_between_those_that_are_tried_and_not_beyond(self) -> None:
        """Of a gain that is highest at 83.7 degrees, where 80 and 90 are tried."""

        def fitted(spectra: Sequence[TiltSpectra], optics: Optics, top: float) -> CtfSeries:
            phase = math.degrees(optics.phase_rad)
            return CtfSeries((), 0, True, f"{phase:.1f}", -((phase - 83.7) ** 2))

        with mock.patch("tomostream.engine.ctf.series.fit_series", fitted):
            for search, expected in (((80.0, 40.0), 83.7), ((20.0, 40.0), 60.0), ((90.0, 0.0), 90.0)):
                found, phase = best_phase([], Optics(), search, 0.1)
                self.assertAlmostEqual(phase, expected, places=6)
                self.assertEqual(found.note, f"{expected:.1f}")

    def test_the_fit_is_the_same_each_time(self) -> None:
        _, spectra, fit = case(22000.0, -1, True)
        self.assertEqual(fit_series(spectra, Optics()), fit)

    def test_the_picture_shows_the_fit_left_and_the_data_right(self) -> None:
        _, spectra, fit = case(32000.0, 1, True)
        middle = len(TILTS) // 2
        image = spectrum_picture(spectra[middle], fit.tilts[middle], Optics())
        self.assertEqual(image.shape, (512, 512))
        self.assertTrue(np.isfinite(image).all())
        left, right = image[1:, 1:256][::-1, ::-1], image[1:, 257:]
        ring = np.hypot(*np.mgrid[-255:256, 1:256])
        band = (ring > 90) & (ring < 160)
        self.assertGreater(np.corrcoef(left[band], right[band])[0, 1], 0.1)


if __name__ == "__main__":
    unittest.main()
