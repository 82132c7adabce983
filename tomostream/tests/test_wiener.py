# SPDX-License-Identifier: GPL-3.0-or-later
"""The Wiener tomogram shows a known specimen better than WBP and SIRT do, where it is, and says what it could not know."""

from __future__ import annotations

import functools
import math
import unittest
from dataclasses import replace
from unittest import mock

import numpy as np
import scipy.fft

from tomostream.engine.ctf.spectra import Optics
from tomostream.engine.recon import wiener as wieners
from tomostream.engine.recon.aligned import Placement
from tomostream.engine.recon.calibration import gains
from tomostream.engine.recon.contrast import Contrast, Filtered, TiltContrast, contrast_of, flip_phases, pairs
from tomostream.engine.recon.options import TiltUse
from tomostream.engine.recon.slab import Method, Slab
from tomostream.engine.recon.spectral_kernels import estimate, transferred
from tomostream.engine.recon.spectrum import RINGS, Sample, Specimen, likely_slabs
from tomostream.engine.recon.taming import tamed
from tomostream.engine.recon.thickness import MIN_TILTS, Fitted, fitted
from tomostream.engine.recon.wiener import FADE, Findings, Source, WienerSlab, chance_inside
from tomostream.programs.ctf import CtfRow
from tomostream.tests.known_specimen import Array, Case, Known, contrast_of_case, known, points_of, projected

SMALL = Case("small", side=256, depth=160, thickness=1100.0, step=4.0)
SHARP = Case("sharp", side=512, pixel=3.5, thickness=400.0, defocus=30000.0, noise=False, blur=1.5)


class Plain(TiltContrast):
    """A microscope that transfers everything."""

    def transfer(self, kx: Array, ky: Array, extra_A: float = 0.0, floor: float = 0.0) -> Array:
        return np.ones(np.broadcast_shapes(kx.shape, ky.shape))


def plain(series: Known, iterations: int, upright: bool = True) -> Array:
    """WBP or SIRT of a series, (z, y, x)."""
    case = series.case
    slab = Slab(series.angles, case.side, case.depth, Method(iterations), 2)
    blocks = [(b.y0, b.y1, b.data.copy()) for b in slab.blocks(series.images, upright)]
    return assembled(case, [(0, *block) for block in blocks], upright)


def deconvolved(series: Known) -> Array:
    """WBP divided by the contrast transfer, damped where noise is expected: the best setting where there is much signal."""
    case, flat = series.case, plain(series, 0)
    k = np.sqrt(sum(np.meshgrid(*[(np.fft.fftfreq if axis < 2 else np.fft.rfftfreq)(n) ** 2 for axis, n in enumerate(flat.shape)],
                                indexing="ij", sparse=True))).astype(np.float32)
    transfer = np.sin(series.contrast.tilts[0].optics.phase((k / case.pixel) ** 2, case.defocus)).astype(np.float32)
    ratio = 10**3.9 * np.exp(-k * 400 / case.pixel) * np.minimum(1, k / 0.01)
    spectrum = scipy.fft.rfftn(flat) * (transfer / (transfer**2 + 1 / np.maximum(ratio, 1e-9)))
    return np.asarray(scipy.fft.irfftn(spectrum, s=flat.shape))


def assembled(case: Case, blocks: list[tuple[int, int, int, Array]], upright: bool) -> Array:
    out = np.full((case.depth, case.side, case.side), np.nan, np.float32)
    for first, y0, y1, data in blocks:
        if upright:
            out[first : first + len(data), y0:y1] = data
        else:
            rows = data.transpose(1, 0, 2)[::-1]
            out[case.depth - first - len(rows) : case.depth - first, y0:y1] = rows
    return out


def wiener(
    series: Known, contrast: Contrast | None, thickness: float | None = None, upright: bool = True, images: Array | None = None,
    weights: Array | None = None,
) -> tuple[Array, Findings]:
    """The Wiener tomogram (z, y, x) of a series, and what was found."""
    case = series.case
    shape = (case.side, case.side)
    work = WienerSlab(series.angles, shape, case.depth, case.pixel, contrast, thickness, weights, 2)
    room = np.empty(work.room_shape, np.float32)
    made = [(first, b.y0, b.y1, b.data.copy())
            for first, b in work.blocks(series.images if images is None else images, room, upright)]
    return assembled(case, made, upright), work.findings


class SpecimenTest(unittest.TestCase):
    def test_it_is_nearer_to_the_truth_than_wbp_and_sirt(self) -> None:
        series = known(SMALL)
        volume, found = wiener(series, series.contrast)
        self.assertTrue(np.isfinite(volume).all())
        best = series.correlation(volume)
        self.assertGreater(best, 2.0 * series.correlation(plain(series, 0)))
        self.assertGreater(best, 1.6 * series.correlation(plain(series, 15)))
        self.assertAlmostEqual(found.thickness_A, 1100, delta=160)

    def test_without_a_ctf_it_is_still_better_and_says_so(self) -> None:
        series = known(SMALL)
        volume, found = wiener(series, None)
        self.assertGreater(series.correlation(volume), series.correlation(plain(series, 15)))
        self.assertLess(series.correlation(volume), series.correlation(wiener(series, series.contrast)[0]))
        self.assertIsNone(found.amplitude_contrast)
        self.assertIn("the CTF is not known", found.words())

    def test_it_lies_as_the_plain_tomogram_does_and_is_not_mirrored(self) -> None:
        series = known(SMALL)
        upright, turned = (wiener(series, series.contrast, 1100.0, up)[0] for up in (True, False))
        np.testing.assert_allclose(turned, upright, atol=1e-3 * upright.std())
        right = series.correlation(upright)
        for axis in range(3):
            self.assertLess(series.correlation(np.flip(upright, axis)), 0.7 * right)
        sirt = series.inner(plain(series, 15))
        spectrum = np.fft.rfftn(series.inner(upright)) * np.conj(np.fft.rfftn(sirt))
        peak = np.unravel_index(int(np.argmax(np.fft.irfftn(spectrum, s=sirt.shape))), sirt.shape)
        self.assertEqual(tuple(map(int, peak)), (0, 0, 0))

    def test_outside_the_specimen_it_fades_and_inside_it_has_the_size_of_a_density(self) -> None:
        series = known(SMALL)
        volume, _ = wiener(series, series.contrast, 1100.0)
        by_height = volume[:, 40:-40, 40:-40].std(axis=(1, 2))
        self.assertEqual(by_height[:13].max() + by_height[-13:].max(), 0.0)
        self.assertGreater(by_height[50:110].min(), 0.5 * by_height.max())
        # the estimate is the truth times what can be known of it: it explains part of it and adds little else
        a, b = series.inner(volume), series.inner(series.truth)
        self.assertGreater((a * b).sum(), 0)

    def test_a_specimen_away_from_the_middle_is_found_there(self) -> None:
        series = known(replace(SMALL, height=-140.0))
        volume, found = wiener(series, series.contrast)
        self.assertAlmostEqual(found.height_A, -140, delta=45)
        self.assertAlmostEqual(found.thickness_A, 1100, delta=200)
        self.assertGreater(series.correlation(volume), 1.4 * series.correlation(plain(series, 0)))
        self.assertIn("A from the middle", found.words())

    def test_gold_does_not_spoil_the_rest(self) -> None:
        series = known(replace(SMALL, gold=12))
        volume, _ = wiener(series, series.contrast)
        self.assertTrue(np.isfinite(volume).all())
        self.assertGreater(series.correlation(volume), 1.2 * series.correlation(plain(series, 15)))

    def test_a_membrane_that_stands_upright_does_not_spoil_what_lies_along_it(self) -> None:
        """Its power is all in one direction; taken for that of all directions it made the frequencies beside it too strong, and
        the middle of the spectrum worse than in SIRT's tomogram."""
        series = known(SMALL)
        volume, sirt = wiener(series, series.contrast)[0], plain(series, 15)
        for low, high in ((0.04, 0.08), (0.08, 0.12), (0.12, 0.2)):
            self.assertGreater(self.shell(series, volume, low, high), self.shell(series, sirt, low, high) - 0.01)

    def test_where_there_is_much_signal_it_is_no_worse_than_a_deconvolution(self) -> None:
        """What specimens show otherwise than random fields do became structure along z: a deconvolution was better by 7 %."""
        series = known(replace(SMALL, own_tilt=9.0, depth=200, step=3.0))
        volume, _ = wiener(series, series.contrast)
        self.assertGreater(series.correlation(volume), series.correlation(deconvolved(series)))

    def test_what_one_tilt_alone_shows_is_weakened_no_more_than_what_all_share(self) -> None:
        """The part of the signal that is like no other tilt's: of the same size everywhere it made streaks along the images."""
        tilts, columns = 4, 8
        tangents, ones = np.linspace(-1.5, 1.5, tilts), np.ones((tilts, 401), np.float32)
        made = []
        for unlike in (0.0, 0.15):
            spectra = np.ones((tilts, 3, columns, 2), np.float32)
            turns = np.ones((tilts, columns), np.complex64)
            estimate(spectra, np.array([0, 1, 2, 3]), 64.0, unlike, tangents, np.ones(tilts), turns, turns, ones, 3 * ones, ones,
                     np.ones((tilts, 401, 2), np.float32), np.ones((columns, 3), np.float32))
            made.append(spectra[:, 0, :, 0])
        for column in (0, 3):       # shared by all tilts, and by none
            ratio = made[1][:, column] / made[0][:, column]
            self.assertGreater(ratio.min(), 0.85)
            self.assertLess(ratio.max(), 0.95)

    def shell(self, series: Known, volume: Array, low: float, high: float) -> float:
        """Fourier shell correlation with the truth between two frequencies (cycles/px)."""
        parts = [series.inner(each) for each in (volume, series.truth)]
        window = functools.reduce(np.multiply.outer, [np.hanning(n + 2)[1:-1] for n in parts[0].shape])
        a, b = (np.fft.rfftn(part * window) for part in parts)
        q = np.sqrt(sum(np.meshgrid(*[(np.fft.fftfreq if axis < 2 else np.fft.rfftfreq)(n) ** 2
                                      for axis, n in enumerate(window.shape)], indexing="ij", sparse=True)))
        a, b = a[(q >= low) & (q < high)], b[(q >= low) & (q < high)]
        return float((a * np.conj(b)).real.sum() / np.sqrt((np.abs(a) ** 2).sum() * (np.abs(b) ** 2).sum()))

    def test_dose_weights_change_next_to_nothing(self) -> None:
        series = known(SMALL)
        frequencies, rings = np.fft.rfftfreq(SMALL.side)[None], np.linspace(0, 0.5, 401)
        q = np.hypot(np.fft.fftfreq(SMALL.side)[:, None], frequencies)
        dose = np.abs(series.angles) / 60
        weight = np.exp(-8 * dose[:, None] * rings)
        images = np.array([np.fft.irfft2(np.fft.rfft2(image) * np.interp(q, rings, w), s=image.shape)
                           for image, w in zip(series.images, weight, strict=True)]).astype(np.float32)
        plainly, weighted = (wiener(series, series.contrast, 1100.0, images=i, weights=w)[0]
                             for i, w in ((None, None), (images, weight**2)))
        inner = slice(60, 100), slice(50, -50), slice(50, -50)
        self.assertGreater(np.corrcoef(plainly[inner].ravel(), weighted[inner].ravel())[0, 1], 0.97)

    def test_empty_and_dark_images_make_no_nan(self) -> None:
        series = known(SMALL)
        images = series.images.copy()
        images[3], images[10, :, :90] = 0.0, 0.0
        volume, _ = wiener(series, series.contrast, images=images)
        self.assertTrue(np.isfinite(volume).all())
        self.assertGreater(series.correlation(volume), 1.3 * series.correlation(plain(series, 0)))


class ThicknessTest(unittest.TestCase):
    """Spectra that an even slab makes; lengths in px."""

    def slabs(self, thickness: float, height: float, share: float, seed: int) -> Array:
        """What is found of such a slab, whose signal has this share in the power of 41 tilts."""
        rng, tangents, rows = np.random.default_rng(seed), np.tan(np.radians(np.arange(-60.0, 61.0, 3.0))), 20
        kx, count = np.arange(1, 41) / 700, len(tangents)
        columns = np.repeat(np.arange(len(kx)), rows)

        def random() -> Array:
            return (rng.standard_normal((count, rows)) + 1j * rng.standard_normal((count, rows))) / math.sqrt(2)

        parts = []
        for k in kx:
            levels, vectors = np.linalg.eigh(np.sinc(thickness * k * (tangents[:, None] - tangents[None])))
            seen = vectors @ (np.sqrt(np.maximum(levels, 0))[:, None] * random())
            turn = np.exp(-2j * np.pi * height * k * tangents)[:, None]
            parts.append(math.sqrt(share) * turn * seen + math.sqrt(1 - share) * random())
        values = np.concatenate(parts, axis=1).astype(np.complex64)
        sample = Sample(values, kx, columns, np.zeros_like(columns), np.full(values.shape, 100),
                        np.ones(values.shape, np.float32), tangents, np.ones(count))
        return likely_slabs(sample, lambda i, j: np.ones(RINGS), np.full((count, RINGS), share), (18.5, 555.0), 1)

    def test_a_slab_with_much_signal_is_found_where_it_is(self) -> None:
        slabs = self.slabs(140.0, 25.0, 0.3, 0)
        np.testing.assert_allclose(slabs[:2] @ slabs[2], [140.0, 25.0], rtol=0.04)

    def test_a_slab_that_can_hardly_be_told_is_taken_for_one_around_the_middle_and_not_cut_off(self) -> None:
        """The slab that fitted best, a twentieth as thick and 133 px aside, was taken as it was, and the rest of the specimen
        left out: at 4000 A tomograms were worse than a plain deconvolution."""
        slabs = self.slabs(370.0, 0.0, 0.02, 2)
        thickness, height = slabs[:2] @ slabs[2]
        self.assertGreater(thickness, 185.0)
        self.assertLess(abs(height), 37.0)
        specimen = Specimen(thickness, height, *(np.ones(1) for _ in range(4)), slabs)
        kept = chance_inside(np.array([-150.0, 0.0, 150.0]), specimen)
        self.assertGreater(kept.min(), 0.3)
        self.assertGreater(kept[1], 0.9)

    def test_a_slab_above_the_middle_is_kept_where_it_is(self) -> None:
        slab = np.array([[100.0], [30.0], [1.0]])
        specimen = Specimen(100.0, 30.0, *(np.ones(1) for _ in range(4)), slab)
        edge = 50 + FADE * 100
        kept = chance_inside(30 + np.array([-edge - 1, -edge / 2 - 25, -49.0, 0.0, 49.0, edge / 2 + 25, edge + 1]), specimen)
        np.testing.assert_allclose(kept, [0, 0.5, 1, 1, 1, 0.5, 0], atol=1e-6)

    def test_frequencies_of_which_two_tilts_share_next_to_nothing_tell_nothing_of_the_power(self) -> None:
        """There a slab that is not quite even shares something else than the model says: nothing of it may count."""
        thickness, kx = 100.0, np.array([0.05, 0.09, 0.11, 0.145])
        tangents, columns = np.array([0.0, 0.1]), np.arange(4)
        self.assertEqual([abs(share) > 0.2 for share in np.sinc(thickness * kx * 0.1)], [True, False, False, True])
        sample = Sample(np.full((2, 4), 1 + 2j, np.complex64), kx, columns, columns, np.full((2, 4), 100),
                        np.ones((2, 4), np.float32), tangents, np.ones(2))
        both, expected = sample.sums((0, 1), np.ones(RINGS), (thickness, 0.0), columns, 4)
        np.testing.assert_array_equal(both[1:3], 0.0)
        np.testing.assert_array_equal(expected[1:3], 0.0)
        self.assertGreater(np.abs(both[[0, 3]]).min() * expected[[0, 3]].min(), 0.0)


class TamedTest(unittest.TestCase):
    """Images without anything stronger than noise, of standard deviation 1, but for what a test puts in."""

    def setUp(self) -> None:
        self.image = np.random.default_rng(8).normal(size=(160, 240)).astype(np.float32)

    def test_a_patch_that_is_dark_as_a_whole_is_brought_to_what_patches_are(self) -> None:
        """None of its pixels stands out, and only the mean of some 80 A shows it: ice, or gold out of focus."""
        dark = self.image.copy()
        dark[64:72, 96:104] -= 3.0
        self.assertLess(abs(dark).max(), 8.0)
        clean = tamed(dark, 10.0)
        self.assertAlmostEqual(float(clean[64:72, 96:104].mean()), -6 / 8, delta=0.15)
        clean[64:72, 96:104] = dark[64:72, 96:104]
        np.testing.assert_allclose(clean, np.clip(dark, -6.5, 6.5), atol=1e-6)

    def test_pixels_that_stand_out_are_clipped_and_nothing_else_changes(self) -> None:
        hot = self.image.copy()
        hot[10, 20], hot[100, 200] = 40.0, -40.0
        clean = tamed(hot, 10.0)
        self.assertLess(np.abs(clean[[10, 100], [20, 200]]).max(), 6.5)
        hot[[10, 100], [20, 200]] = clean[[10, 100], [20, 200]]
        np.testing.assert_array_equal(clean, hot)


class LikelihoodTest(unittest.TestCase):
    """Thickness and height by the likelihood of an alignment that is given."""

    def test_a_specimen_of_4000_A_is_measured_where_cross_spectra_find_334_to_4019_A(self) -> None:
        case = Case("thick", side=144, pixel=20.0, thickness=4000.0)
        found = fitted(known(case, 68).images, case.angles, case.pixel)
        assert_found(self, found, 4000.0, 0.2, 0.0, 400.0)

    def test_thickness_and_height_of_a_thinner_one_are_within_a_few_percent(self) -> None:
        series = known(replace(SMALL, height=-140.0))
        assert_found(self, fitted(series.images, series.angles, SMALL.pixel), 1100.0, 0.08, -140.0, 25.0)

    def test_the_tomogram_takes_it_and_says_so(self) -> None:
        series = known(SMALL)
        found = wiener(series, None)[1]
        self.assertEqual(found.source, Source.LIKELIHOOD)
        self.assertIn("(by the likelihood of the alignment)", found.words())
        self.assertAlmostEqual(found.thickness_A, 1100, delta=90)
        self.assertEqual(wiener(series, None, 900.0)[1], Findings(900.0, 0.0, None, Source.ALIGNMENT))

    def test_where_it_does_not_tell_cross_spectra_are_asked_and_it_is_said(self) -> None:
        noise = np.random.default_rng(4).standard_normal((31, 128, 128)).astype(np.float32)
        angles = np.linspace(-60.0, 60.0, 31)
        self.assertIsNone(fitted(noise, angles, 10.0))
        self.assertIsNone(fitted(known(SMALL).images[: MIN_TILTS - 1], SMALL.angles[: MIN_TILTS - 1], SMALL.pixel))
        series = replace(known(SMALL), case=replace(SMALL, side=128, depth=64, step=4.0), images=noise)
        found = wiener(series, None)[1]
        self.assertEqual(found.source, Source.SPECTRA)
        self.assertIn("does not determine it", found.words())

    def test_empty_images_are_not_asked(self) -> None:
        series = known(SMALL)
        images = series.images.copy()
        images[[3, 20]] = 0.0
        assert_found(self, fitted(images, series.angles, SMALL.pixel), 1100.0, 0.08, 0.0, 25.0)


def assert_found(
    test: unittest.TestCase, found: Fitted | None, thickness: float, part: float, height: float, near: float
) -> None:
    """A slab of this thickness, but for a `part` of it, and height, `near` A."""
    if found is None:
        raise AssertionError("no slab was found")
    test.assertAlmostEqual(found.thickness_A, thickness, delta=part * thickness)
    test.assertAlmostEqual(found.height_A, height, delta=near)
    slabs = found.slabs(10.0)
    test.assertAlmostEqual(float(slabs[2].sum()), 1.0)
    test.assertAlmostEqual(float(slabs[1] @ slabs[2]) * 10.0, found.height_A, places=3)


class SizeTest(unittest.TestCase):
    """How large the estimate is at each frequency."""

    def test_with_the_noise_as_it_was_taken_for_it_is_right_as_it_is(self) -> None:
        one, other = (self.gains(counted, 2.0, 5) for counted in (1.0, 0.5))
        np.testing.assert_allclose(one, 1.0, atol=1e-4)
        self.assertGreater(other.min(), 1.0)

    def test_one_tilt_has_the_size_that_two_numbers_tell(self) -> None:
        for signal in (0.1, 1.0, 5.0):
            power = signal**2 * 1.3
            np.testing.assert_allclose(self.gains(0.5, signal, 1), (power + 1.0) / (power + 0.5), rtol=1e-4)

    def gains(self, counted: float, signal: float, tilts: int) -> Array:
        angles = np.radians(np.linspace(-50.0, 50.0, tilts)) if tilts > 1 else np.zeros(1)
        kx = np.fft.fftfreq(16)
        return gains(kx[np.abs(kx) < 0.3], np.array([0.0, 0.1]), 40.0, 0.3, (np.cos(angles), np.tan(angles)),
                     np.full((tilts, RINGS), signal, np.float32), counted)

    def test_the_tomogram_is_nearer_to_the_truth_with_it(self) -> None:
        """High frequencies were too weak, low ones too strong: at 2.7 A/px a deconvolution was better for that alone."""
        series = known(SMALL)
        right = series.correlation(wiener(series, series.contrast, 1100.0)[0])
        with mock.patch.object(wieners, "gains", lambda kx, ky, *rest: np.ones((len(kx), len(ky)), np.float32)):
            self.assertGreater(right, 1.003 * series.correlation(wiener(series, series.contrast, 1100.0)[0]))


class ContrastTest(unittest.TestCase):
    def test_every_point_of_a_tilted_specimen_has_the_defocus_of_its_place_along_the_beam(self) -> None:
        """The definition: ``hand (x sin t - z cos t)`` more than the centre, which shows across the axis at x cos t + z sin t."""
        row = CtfRow(1, 31000.0, 29000.0, 40.0, 0.3, 0.9, 6.0)
        rot, tx, ty, pixel = math.radians(84.0), 300.0, -120.0, 2.0
        for hand in (1, -1):
            for angle in (-50.0, 20.0, 60.0):
                use = TiltUse(4, angle, Placement(84.0, tx, ty))
                found = contrast_of([row], [4], [use], Optics(), hand, pixel, 2.0)
                tilt, t = found.tilts[0] if found is not None else self.fail("a tilt with a CTF has none"), math.radians(angle)
                for x, z in ((0.0, 0.0), (700.0, 0.0), (0.0, 900.0), (-400.0, -650.0)):
                    here = tilt.defocus_A + tilt.across * (x * math.cos(t) + z * math.sin(t)) + tilt.upward * z
                    self.assertAlmostEqual(here - tilt.defocus_A, hand * (x * math.sin(t) - z * math.cos(t)), places=6)
                # the raw image's centre, of which the CTF is, is here in the aligned image
                centre = -(math.cos(rot) * tx + math.sin(rot) * ty) * pixel
                self.assertAlmostEqual(tilt.defocus_A + tilt.across * centre, 30000.0, places=6)
                self.assertEqual((tilt.astigmatism_A, tilt.optics.phase_rad), (1000.0, 0.3))
                self.assertAlmostEqual(math.degrees(tilt.azimuth_rad), 40.0 - 84.0)

    def test_compiled_and_plain_transfer_functions_are_the_same(self) -> None:
        tilt = replace(contrast_of_case(SHARP).tilts[10], astigmatism_A=900.0)
        work = Filtered((60, 90), SHARP.pixel)
        ones = np.ones((len(work.ky), len(work.kx)), np.complex64)
        for floor, flip in ((0.0, False), (0.4, False), (0.0, True)):
            out = np.empty_like(ones)
            transferred(pairs(ones), work.kx, work.ky, tilt.turns(1500.0), floor, flip, pairs(out))
            right = tilt.transfer(work.kx[None].astype(float), work.ky[:, None].astype(float), 1500.0, floor)
            clear = np.abs(right) > 1e-3
            np.testing.assert_allclose(out.real[clear], (np.sign(right) if flip else right)[clear], atol=2e-4)
            self.assertEqual(np.abs(out.imag).max(), 0.0)

    def test_the_defocus_changes_across_the_axis(self) -> None:
        points, weights = points_of(SHARP, np.random.default_rng(3))
        index = int(np.argmax(SHARP.angles > 55))
        tilt, angle = contrast_of_case(SHARP).tilts[index], float(SHARP.angles[index])
        image = projected(SHARP, points, weights, tilt, angle, 0.0)
        work = Filtered(image.shape, SHARP.pixel)
        right, level, wrong = (
            work.image(work.across(work.spectrum(image), replace(tilt, across=hand * tilt.across), 0.0, 1 / 7.0, flip=True))
            for hand in (1, 0, -1))
        without = projected(SHARP, points, weights, Plain(**vars(tilt)), angle, 0.0)
        q = np.hypot(np.fft.fftfreq(SHARP.side, SHARP.pixel)[:, None], np.fft.rfftfreq(SHARP.side, SHARP.pixel)[None])

        def agreement(a: Array) -> float:
            """Correlation with the image of a microscope without any transfer function, from 14 to 8 A, near both edges."""
            band = [np.fft.irfft2(np.fft.rfft2(each) * ((q > 1 / 14) & (q < 1 / 8)), s=each.shape) for each in (a, without)]
            edges = [np.concatenate([each[:, 20:120], each[:, -120:-20]]).ravel() for each in band]
            return float(np.corrcoef(*edges)[0, 1])

        self.assertGreater(agreement(right), 0.7)
        self.assertLess(agreement(level), 0.9 * agreement(right))
        self.assertLess(agreement(wrong), agreement(level))

    def test_thick_specimens_of_small_pixels_are_made_in_slabs_that_join(self) -> None:
        series = known(SMALL)
        parts = replace(series.contrast, pixel_A=2.7).slabs(600)
        self.assertEqual((parts[0][0], parts[-1][1], len(parts) % 2), (0, 600, 1))
        self.assertGreater(len(parts), 1)
        self.assertEqual([b for _, b in parts[:-1]], [a for a, _ in parts[1:]])
        self.assertEqual(series.contrast.slabs(SMALL.depth), [(0, SMALL.depth)])
        whole = wiener(series, series.contrast, 1100.0)[0]
        with mock.patch.object(Contrast, "slabs", return_value=[(0, 50), (50, 110), (110, 160)]):
            for upright in (True, False):
                parted = wiener(series, series.contrast, 1100.0, upright)[0]
                self.assertGreater(np.corrcoef(parted[20:-20].ravel(), whole[20:-20].ravel())[0, 1], 0.995)

    def test_flipped_phases_are_those_of_the_specimen(self) -> None:
        series = known(replace(SMALL, name="noiseless", noise=False, defocus=80000.0))
        flipped = np.empty_like(series.images)
        flip_phases(series.images, series.contrast, 0.0, flipped, 2)
        before, after = (self.agreement(series, images) for images in (series.images, flipped))
        zero = 1 / math.sqrt(0.0196875 * 80000) * SMALL.pixel     # the first zero, cycles/px
        rings = (np.arange(len(before)) + 0.5) / len(before) / 2
        beyond = (rings > 1.05 * zero) & (rings < 1.3 * zero)
        self.assertLess(before[beyond].max(), -0.4)
        self.assertGreater(after.min(), 0.3)

    def agreement(self, series: Known, images: Array) -> Array:
        """Correlation of the plain tomogram with the truth by ring of frequency in the plane."""
        volume = plain(replace(series, images=images), 0)
        a, b = (np.fft.rfft2(series.inner(v) * np.outer(*2 * [np.hanning(series.inner(v).shape[1])])) for v in
                (volume, series.truth))
        side = a.shape[1]
        ring = (np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) * 48).astype(int)
        flat = np.broadcast_to(ring, a.shape).ravel()
        sums = [np.bincount(flat, v.ravel())[:24] for v in ((a * np.conj(b)).real, np.abs(a) ** 2, np.abs(b) ** 2)]
        return np.asarray(sums[0] / np.sqrt(sums[1] * sums[2]))


if __name__ == "__main__":
    unittest.main()
