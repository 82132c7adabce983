# SPDX-License-Identifier: GPL-3.0-or-later
"""The reconstruction puts known marks where they are: right handed, right side up, at every size and axis."""

from __future__ import annotations

import math
import os
import tempfile
import unittest
from collections.abc import Callable
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.align import Alignment
from tomostream.engine.align.local import LocalMotion, TiltMotion
from tomostream.engine.align.model import TiltResult
from tomostream.engine.dose import critical_dose
from tomostream.engine.fourier import low_columns
from tomostream.engine.output import Outputs
from tomostream.engine.recon import aligned
from tomostream.engine.recon.aligned import Aligner, LocalShifts, Placement, aligned_size
from tomostream.engine.recon.images import Intensity, contrast_scales, dose_weights, write_aligned_stack
from tomostream.engine.recon.options import ReconOptions, TiltUse
from tomostream.engine.recon.resolution import Resolution, resolution
from tomostream.engine.recon.slab import Method, Slab, angular_steps, sirt_filter
from tomostream.engine.recon.slab import _interpolation_gain as interpolation_gain
from tomostream.engine.recon.solution import Solution, of_alignment, of_aln, with_local
from tomostream.engine.recon.stack import TiltStack, hot_pixels, open_stack, without_spikes
from tomostream.engine.recon.tomogram import reconstruct
from tomostream.files.errors import EngineError
from tomostream.files.mrc import open_mrc
from tomostream.programs.aln import AlnFile, AlnRow, LocalShift, format_aln
from tomostream.programs.quality import Trust

Array = NDArray[np.float64]

# marks (X, Y, Z) in px from the specimen's centre, and how much they take away: no mirror or rotation maps them on
# each other
MARKS = np.array([[20.0, 11.0, 9.0], [-25.0, 4.0, -7.0], [6.0, -22.0, 3.0], [-9.0, 18.0, -10.0]])
WEIGHTS = np.array([40.0, 30.0, 35.0, 25.0])
WIDTH = 1.6
LEVEL = 100.0


@dataclass(frozen=True)
class Pose:
    """Tilt, axis (degrees) and shift (px) of one raw image."""

    tilt: float
    axis: float
    tx: float
    ty: float


def raw_position(mark: Array, pose: Pose) -> tuple[float, float]:
    """Where a mark falls in a raw image, px from its centre: the definition, written down once more."""
    t, r = math.radians(pose.tilt), math.radians(pose.axis)
    x, y = mark[0] * math.cos(t) + mark[2] * math.sin(t), mark[1]
    return math.cos(r) * x - math.sin(r) * y + pose.tx, math.sin(r) * x + math.cos(r) * y + pose.ty


def picture(pose: Pose, shape: tuple[int, int], marks: Array = MARKS) -> NDArray[np.float32]:
    """A raw image of dark Gaussian marks on a bright ground; the centre is that of the area, (n - 1) / 2."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    out = np.full(shape, LEVEL)
    for mark, weight in zip(marks, WEIGHTS, strict=True):
        px, py = raw_position(mark, pose)
        distance = (x - (shape[1] - 1) / 2 - px) ** 2 + (y - (shape[0] - 1) / 2 - py) ** 2
        out -= weight * np.exp(-distance / (2 * WIDTH**2))
    return out.astype(np.float32)


def poses(axis: float, step: float = 4.0, reach: float = 60.0) -> list[Pose]:
    """A series with shifts of its own."""
    angles = np.arange(-reach, reach + 0.1, step)
    return [Pose(float(t), axis, 5 * math.sin(i), 4 * math.cos(2 * i)) for i, t in enumerate(angles)]


def stack_of(series: list[Pose], shape: tuple[int, int], marks: Array = MARKS) -> TiltStack:
    return TiltStack("memory", np.stack([picture(p, shape, marks) for p in series]), 1.0)


def uses(series: list[Pose]) -> list[TiltUse]:
    return [TiltUse(i, p.tilt, Placement(p.axis, p.tx, p.ty)) for i, p in enumerate(series)]


def mass_centre(volume: Array, at: Array, radius: int = 4) -> tuple[Array, float]:
    """Centre (z, y, x) of the darkness within `radius` voxels of `at`, and the least value there."""
    lo = np.round(at).astype(int) - radius
    box = volume[tuple(slice(a, a + 2 * radius + 1) for a in lo)]
    dark = np.clip(-box - 0.5 * (-box).max(), 0, None)
    grid = np.indices(box.shape).reshape(3, -1)
    return lo + (grid * dark.ravel()).sum(1) / dark.sum(), float(box.min())


class InFolder(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def tomogram(self, stack: TiltStack, tilts: list[TiltUse], options: ReconOptions) -> Array:
        """The volume as (z, y, x) of the file."""
        axis = tilts[0].placement.rot_deg
        with Outputs() as outputs:
            names = (self.path("xy.mrc"), self.path("xz.mrc"))
            reconstruct(stack, tilts, axis, options, outputs, self.path("v.mrc"), names)
        return np.array(open_stack(self.path("v.mrc")).data, dtype=np.float64)


class GeometryTest(InFolder):
    """Marks are found where they are; the same places in a mirrored volume are empty."""

    def check(self, axis: float, shape: tuple[int, int], binning: float, method: Method, upright: bool) -> None:
        series = poses(axis)
        options = ReconOptions(binning, 40, method, upright, pixel_size_A=1.0)
        scale, marks = 1.0, MARKS
        if binning > 1:
            scale, marks = binning, MARKS * binning
            options = replace(options, depth_px=int(40 * binning))
        volume = self.tomogram(stack_of(series, shape, marks), uses(series), options)
        if not upright:
            # x, z, y with z downwards: turn it by 90 degrees about x, which mirrors nothing
            volume = np.transpose(volume, (1, 0, 2))[::-1]
        swapped = abs(math.sin(math.radians(axis))) > 0.707
        height, width = (shape[1], shape[0]) if swapped else shape
        self.assertEqual(volume.shape, (40, int(height / binning) // 2 * 2, int(width / binning) // 2 * 2))
        middle = (np.array(volume.shape) - 1) / 2
        spread = volume.std()
        for mark in marks / scale:
            expected = middle + mark[::-1]
            found, value = mass_centre(volume, expected)
            self.assertLess(value, -6 * spread, f"mark {mark} at axis {axis} is not dark")
            self.assertLess(np.abs(found - expected).max(), 0.3, f"mark {mark}: {found} for {expected}")
            for flip in ([-1, 1, 1], [1, -1, 1], [1, 1, -1]):
                place = tuple(np.round(middle + mark[::-1] * flip).astype(int))
                self.assertGreater(volume[place], 0.5 * value, f"mark {mark} is also found mirrored")

    def test_an_upright_axis_keeps_x_and_y(self) -> None:
        self.check(4.0, (84, 100), 1.0, Method(0), True)

    def test_a_lying_axis_swaps_x_and_y(self) -> None:
        self.check(84.7, (100, 84), 1.0, Method(0), True)

    def test_an_axis_turned_the_other_way_is_not_mirrored(self) -> None:
        self.check(-95.3, (100, 84), 1.0, Method(0), True)
        self.check(-10.0, (84, 100), 1.0, Method(0), True)

    def test_the_xzy_orientation_is_turned_not_mirrored(self) -> None:
        self.check(84.7, (100, 84), 1.0, Method(0), False)

    def test_sirt_has_the_same_geometry(self) -> None:
        self.check(84.7, (100, 84), 1.0, Method(15), True)
        self.check(4.0, (84, 100), 1.0, Method(15), False)

    def test_binning_keeps_the_centre(self) -> None:
        self.check(84.7, (200, 168), 2.0, Method(0), True)
        self.check(4.0, (252, 300), 3.0, Method(0), True)

    def test_both_orientations_hold_the_same_voxels(self) -> None:
        series = poses(84.7, 10.0)
        stack, tilts = stack_of(series, (64, 60)), uses(series)
        options = ReconOptions(1.0, 20, Method(0), True, pixel_size_A=1.0)
        upright = self.tomogram(stack, tilts, options)
        flat = self.tomogram(stack, tilts, replace(options, upright=False))
        np.testing.assert_array_equal(upright, np.transpose(flat, (1, 0, 2))[::-1])

    def test_the_side_views_are_the_sums_of_the_volume(self) -> None:
        series = poses(4.0, 10.0)
        options = ReconOptions(1.0, 20, Method(0), False, pixel_size_A=1.0)
        volume = self.tomogram(stack_of(series, (64, 60)), uses(series), options)
        xy, xz = (np.array(open_stack(self.path(name)).data[0]) for name in ("xy.mrc", "xz.mrc"))
        np.testing.assert_allclose(xy, volume.sum(axis=1), atol=1e-3)
        np.testing.assert_allclose(xz, volume.sum(axis=0), atol=1e-3)

    def test_contrast_is_flipped_when_asked(self) -> None:
        series = poses(4.0, 10.0)
        options = ReconOptions(1.0, 20, Method(0), True, pixel_size_A=1.0)
        stack, tilts = stack_of(series, (64, 60)), uses(series)
        dark = self.tomogram(stack, tilts, options)
        bright = self.tomogram(stack, tilts, replace(options, flip_contrast=True))
        np.testing.assert_allclose(bright, -dark, atol=1e-6)

    def test_the_header_tells_size_pixel_and_statistics(self) -> None:
        import mrcfile

        series = poses(4.0, 10.0)
        options = ReconOptions(2.0, 40, Method(0), True, pixel_size_A=1.35)
        volume = self.tomogram(stack_of(series, (64, 60)), uses(series), options)
        with mrcfile.open(self.path("v.mrc")) as file:
            self.assertEqual(file.data.shape, volume.shape)
            self.assertTrue(mrcfile.validate(self.path("v.mrc")))
            self.assertAlmostEqual(float(file.voxel_size.z), 2.7, places=5)
            self.assertAlmostEqual(float(file.header.dmin), volume.min(), places=5)
            self.assertAlmostEqual(float(file.header.dmax), volume.max(), places=5)
            self.assertAlmostEqual(float(file.header.rms), volume.std(), places=5)

    def test_the_bytes_depend_on_the_data_alone(self) -> None:
        series = poses(84.7, 10.0)
        stack, tilts = stack_of(series, (64, 60)), uses(series)
        contents = []
        for threads in (1, 1, 2):
            options = ReconOptions(1.0, 20, Method(15), True, pixel_size_A=1.0, threads=threads)
            self.tomogram(stack, tilts, options)
            with open(self.path("v.mrc"), "rb") as file:
                contents.append(file.read())
        self.assertEqual(contents[0], contents[1])
        self.assertEqual(contents[0], contents[2])

    def test_a_volume_without_depth_is_refused(self) -> None:
        series = poses(4.0, 20.0)
        with self.assertRaisesRegex(EngineError, "too small"):
            self.tomogram(stack_of(series, (64, 60)), uses(series), ReconOptions(4.0, 5, Method(0)))
        self.assertEqual(os.listdir(self.folder), [])


class AlignedImageTest(InFolder):
    def test_an_aligned_image_is_the_projection_itself(self) -> None:
        pose = Pose(30.0, 84.7, 6.3, -4.6)
        shape = (96, 84)
        size = aligned_size(shape, pose.axis, 1.0)
        self.assertEqual(size, (84, 96))
        image = Aligner(shape, size, 1.0).image(picture(pose, shape), Placement(pose.axis, pose.tx, pose.ty))
        expected = picture(Pose(pose.tilt, 0.0, 0.0, 0.0), size)
        inner = (slice(14, -14), slice(14, -14))
        difference = (image - image[inner].mean())[inner] - (expected - expected[inner].mean())[inner]
        self.assertLess(np.abs(difference).max(), 0.15)  # of marks 25 to 40 deep

    def test_a_transform_of_bands_is_that_of_the_whole_image(self) -> None:
        image = np.random.default_rng(1).normal(10, 1, (75, 48)).astype(np.float32)
        bands = [(first, image[first : first + 32].copy()) for first in (32, 0, 64)]
        np.testing.assert_allclose(low_columns(bands, 75, 10), np.fft.rfft2(image)[:, :10], rtol=1e-4, atol=1e-2)

    def test_an_image_transformed_in_bands_is_what_it_would_be_in_one(self) -> None:
        image = np.random.default_rng(1).normal(10, 1, (75, 64)).astype(np.float32)
        place, made = Placement(5.0, 1.5, -2.0), []
        for rows in (1000, 32):
            with mock.patch.object(aligned, "BAND", rows):
                made.append(Aligner((75, 64), (36, 32), 2.0, 2).image(image, place))
        np.testing.assert_array_equal(*made)
        known = Aligner((75, 64), (36, 32), 2.0).image(image, place, mean=float(image.mean(dtype=float)))
        np.testing.assert_array_equal(made[0], known)

    def test_binning_keeps_the_signal_below_its_nyquist_frequency(self) -> None:
        n, binning = 240, 4.0
        y, x = np.mgrid[:n, :n] - (n - 1) / 2
        for period, kept in ((16.0, 1.0), (6.0, 0.0)):
            wave = np.cos(2 * np.pi * (0.6 * x + 0.8 * y) / period).astype(np.float32)
            image = Aligner((n, n), (60, 60), binning).image(wave, Placement(0.0, 0.0, 0.0))[8:-8, 8:-8]
            yb, xb = (np.mgrid[:60, :60] - 29.5)[:, 8:-8, 8:-8] * binning
            expected = np.cos(2 * np.pi * (0.6 * xb + 0.8 * yb) / period)
            share = float((image * expected).sum() / (expected**2).sum())
            self.assertAlmostEqual(share, kept, delta=0.02)

    def test_what_lies_outside_the_raw_image_is_zero(self) -> None:
        image = Aligner((64, 64), (64, 64), 1.0).image(
            np.random.default_rng(0).normal(10, 1, (64, 64)).astype(np.float32), Placement(0.0, 20.0, 0.0)
        )
        self.assertTrue((image[:, 44:] == 0).all())
        self.assertTrue((image[10:-10, 10:30] != 0).all())

    def test_local_shifts_are_undone(self) -> None:
        # two patches that moved apart: the image of each comes back to its place
        shape = (128, 128)
        moved = np.zeros(shape)
        y, x = np.mgrid[:128, :128] - 63.5
        for centre, shift in (((-32, 0), (3, 2)), ((32, 0), (-2, 1))):
            moved -= 50.0 * np.exp(-((x - centre[0] - shift[0]) ** 2 + (y - centre[1] - shift[1]) ** 2) / 8)
        local = LocalShifts(*(np.array(v, float) for v in ([-32, 32], [0, 0], [3, -2], [2, 1])))
        image = Aligner(shape, shape, 1.0).image(moved.astype(np.float32), Placement(0.0, 0.0, 0.0, local))
        for centre in ((-32, 0), (32, 0)):
            part = -image[56:72, 56 + centre[0] : 72 + centre[0]]
            part = np.clip(part - 10, 0, None)
            grid = np.indices(part.shape).reshape(2, -1)
            found = (grid * part.ravel()).sum(1) / part.sum()
            np.testing.assert_allclose(found, [7.5, 7.5], atol=0.1)

    def test_an_aligned_stack_keeps_the_grey_values(self) -> None:
        series = poses(84.7, 20.0)
        stack = stack_of(series, (64, 60))
        with Outputs() as outputs:
            write_aligned_stack(stack, uses(series), 84.7, ReconOptions(2.0), outputs, self.path("a.mrc"))
        data = np.asarray(open_stack(self.path("a.mrc")).data)
        self.assertEqual(data.shape, (len(series), 30, 32))
        self.assertAlmostEqual(float(data.mean()), LEVEL, delta=3)


class SlabTest(unittest.TestCase):
    def setUp(self) -> None:
        # a slab of smooth noise, thrice as wide as the field, projected ray by ray
        import scipy.ndimage

        rng = np.random.default_rng(1)
        self.rows, self.depth, self.nx = 3, 48, 160
        self.tilts = np.arange(-60, 61, 3.0)
        noise = rng.standard_normal((self.rows, self.depth, 3 * self.nx))
        wide = scipy.ndimage.gaussian_filter(noise, (0, 1.5, 1.5))
        x = np.arange(3 * self.nx) + 0.5 - 1.5 * self.nx
        z = np.arange(self.depth) + 0.5 - self.depth / 2
        self.images = np.zeros((len(self.tilts), self.rows, self.nx), np.float32)
        for k, t in enumerate(np.radians(self.tilts)):
            place = x[None] * math.cos(t) + z[:, None] * math.sin(t) + self.nx / 2 - 0.5
            left = np.floor(place).astype(int)
            for step, weight in ((0, 1 - (place - left)), (1, place - left)):
                inside = (left + step >= 0) & (left + step < self.nx)
                for y in range(self.rows):
                    self.images[k, y] += np.bincount((left + step)[inside], (weight * wide[y])[inside], self.nx)
        self.truth = wide[:, :, self.nx : 2 * self.nx]

    def correlation(self, method: Method, images: NDArray[np.float32] | None = None) -> float:
        slab = Slab(self.tilts, self.nx, self.depth, method)
        blocks = slab.blocks(self.images if images is None else images, True)
        volume = np.concatenate([b.data.copy() for b in blocks], axis=1).transpose(1, 0, 2)
        inner = (slice(None), slice(8, -8), slice(30, -30))
        return float(np.corrcoef(volume[inner].ravel(), self.truth[inner].ravel())[0, 1])

    def test_back_projection_resembles_the_truth_as_far_as_the_wedge_allows(self) -> None:
        self.assertGreater(self.correlation(Method(0)), 0.78)

    def test_sirt_comes_nearer_with_its_iterations(self) -> None:
        values = [self.correlation(Method(n)) for n in (1, 5, 15, 60)]
        self.assertEqual(values, sorted(values))
        self.assertGreater(values[2], 0.72)

    def test_the_closed_form_is_the_iteration(self) -> None:
        # the loop of the docstring, in plain matrices at one frequency
        tilts, depth, iterations = np.array([-50.0, -20.0, 3.0, 31.0]), 12, 7
        frequency = 0.07
        z = np.arange(depth) + 0.5 - depth / 2
        forward = np.exp(2j * np.pi * frequency * z[None] * np.tan(np.radians(tilts))[:, None])
        data = np.array([1.0, -0.5 + 0.2j, 0.3j, 2.0])
        volume = np.zeros(depth, complex)
        for _ in range(iterations):
            rest = data * np.cos(np.radians(tilts)) - forward @ volume
            volume = volume + forward.conj().T @ rest / (depth * len(tilts))
        matrix = sirt_filter(np.array([0.0, frequency]), tilts, depth, iterations)[1] * interpolation_gain(np.array([frequency]))
        np.testing.assert_allclose(forward.conj().T @ (matrix @ data), volume, atol=1e-6)

    def test_what_interpolation_loses_is_made_good_as_well_as_one_factor_can(self) -> None:
        fractions = (np.arange(1000) + 0.5) / 1000
        for frequency in (0.05, 0.2, 0.35, 0.49):
            gain = (1 - fractions + fractions * np.exp(2j * np.pi * frequency)) * np.exp(-2j * np.pi * frequency * fractions)
            factor = 1 / interpolation_gain(np.array([frequency]))[0]
            errors = [np.mean(np.abs(share * factor * gain - 1) ** 2) for share in (0.98, 1.0, 1.02)]
            self.assertEqual(min(errors), errors[1])

    def test_a_repeated_tilt_counts_once(self) -> None:
        steps = angular_steps(np.array([-3.0, 0.0, 0.0, 3.0]))
        np.testing.assert_allclose(np.degrees(steps), [3.0, 1.5, 1.5, 3.0])

    def test_the_order_of_the_tilts_does_not_matter(self) -> None:
        order = np.random.default_rng(2).permutation(len(self.tilts))
        straight = Slab(self.tilts, self.nx, self.depth, Method(0))
        shuffled = Slab(self.tilts[order], self.nx, self.depth, Method(0))
        a = next(iter(straight.blocks(self.images, True))).data
        b = next(iter(shuffled.blocks(self.images[order], True))).data
        np.testing.assert_allclose(a, b, atol=1e-4)

    def test_tilts_beyond_eighty_degrees_are_refused(self) -> None:
        with self.assertRaisesRegex(EngineError, "80 degrees"):
            Slab(np.array([0.0, 85.0]), 64, 16, Method(0))

    def test_an_axis_of_density_has_the_right_value(self) -> None:
        # a dense +-90 degree series gives the density itself, not a multiple of it
        tilts = np.arange(-79.5, 80, 1.0)
        x = np.arange(200) - 99.5
        disc = 2 * np.sqrt(np.clip(20.0**2 - x**2, 0, None)).astype(np.float32)
        images = np.repeat(disc[None, None], len(tilts), axis=0).repeat(2, axis=1)
        volume = next(iter(Slab(tilts, 200, 64, Method(0)).blocks(images, True))).data
        self.assertAlmostEqual(float(volume[26:38, 0, 94:106].mean()), 1.0, delta=0.2)


class IntensityTest(unittest.TestCase):
    def test_counts_are_brought_to_the_same_contrast(self) -> None:
        scales = contrast_scales([Intensity(50, 5), Intensity(100, 9), Intensity(25, 4)], 1)
        self.assertEqual(scales, [2.0, 1.0, 4.0])

    def test_normalised_images_are_left_as_they_are(self) -> None:
        self.assertEqual(contrast_scales([Intensity(0.01, 1), Intensity(-0.02, 1)], 0), [1.0, 1.0])

    def test_dose_weights_fall_with_dose_and_frequency_and_keep_the_noise(self) -> None:
        doses, pixel = [0.0, 30.0, 90.0], 2.0
        weights = dose_weights(doses, pixel, 300.0)
        table = np.stack([w for _, w in weights])
        np.testing.assert_allclose((table**2).mean(axis=0), 1.0, rtol=1e-5)
        self.assertTrue((table[0, 1:] > table[1, 1:]).all() and (table[1, 1:] > table[2, 1:]).all())
        frequency, place = weights[0][0], 256
        critical = 0.24499 * (frequency[place] / pixel) ** -1.6649 + 2.8141
        ratio = table[1, place] / table[0, place]
        self.assertAlmostEqual(ratio, math.exp(-30.0 / (2 * critical)), delta=1e-4)

    def test_electrons_of_less_energy_damage_more(self) -> None:
        """As MotionCor3 and AreTomo2 have it: 0.8 of the dose at 200 kV, 0.45 at 120 kV, and what lies between them."""
        at = [float(critical_dose(np.array(0.1), voltage)) for voltage in (300.0, 200.0, 120.0, 250.0, 400.0, 80.0)]
        np.testing.assert_allclose(np.array(at) / at[0], [1.0, 0.8, 0.45, 0.9, 1.0, 0.45], rtol=1e-9)

    def test_hot_pixels_become_the_median_and_dark_marks_stay(self) -> None:
        image = np.random.default_rng(0).poisson(20, (64, 64)).astype(np.float32)
        image[10, 10] = 5000
        image[30:34, 30:34] = 2
        clean = without_spikes(image)
        self.assertLess(clean[10, 10], 40)
        image[10, 10] = clean[10, 10]
        np.testing.assert_array_equal(clean, image)

    def test_many_bright_pixels_are_no_spikes(self) -> None:
        image = np.random.default_rng(0).poisson(20, (64, 64)).astype(np.float32)
        image[5::20, 7::20] = 5000
        self.assertIs(without_spikes(image), image)

    def test_the_middle_of_a_small_bright_hole_is_no_spike_and_a_pixel_of_that_brightness_is_one(self) -> None:
        image = np.random.default_rng(0).poisson(20, (256, 256)).astype(np.float32)
        image[100:105, 50:56] = 5000
        image[200, 30] = 5000
        hot = set(zip(*map(np.ndarray.tolist, hot_pixels(image)), strict=True))
        self.assertIn((200, 30), hot)
        self.assertEqual(hot & {(102, 52), (102, 53)}, set())

    def test_a_bright_hole_is_no_spike(self) -> None:
        image = np.random.default_rng(0).poisson(900, (128, 128)).astype(np.float32)
        image[:40, :40] *= 3
        np.testing.assert_array_equal(without_spikes(image), image)


class SolutionTest(InFolder):
    def test_shifts_of_patches_that_are_marked_bad_are_not_used(self) -> None:
        rows = tuple(AlnRow(section, 84.0, 0.0, 0.0, 10.0 * section) for section in range(3))
        local = tuple(LocalShift(row, patch, 5.0 * patch, 7.0, 1.5, -2.5, float(patch != row)) for row in range(3)
                      for patch in range(2))
        with open(self.path("TS.aln"), "w", encoding="utf-8") as file:
            file.write(format_aln(AlnFile(rows, (), (60, 50, 3), 2, local)))
        used = of_aln(self.path("TS.aln"), TiltStack("TS.mrc", np.zeros((3, 50, 60), np.float32), 1.0)).used
        self.assertEqual([None if tilt.placement.local is None else tilt.placement.local.x.tolist() for tilt in used],
                         [[5.0], [0.0], [0.0, 5.0]])

    def test_what_a_shift_of_the_specimen_does_is_taken_out_where_no_tilt_is_near_0(self) -> None:
        """The definition: a specimen at (X, Y) is seen at R(axis) (X cos t, Y), half a pixel less from index n / 2."""
        axis, measured, c, s = 84.0, 2.0, math.cos(math.radians(84.0)), math.sin(math.radians(84.0))
        tilts = []
        for section, angle in enumerate((25.0, 40.0, 55.0)):
            x, y = 30.0 * math.cos(math.radians(angle + measured)), -12.0
            tilts.append(TiltResult(section, angle, True, "", c * x - s * y - 0.5, s * x + c * y - 0.5, axis, None))
        made = of_alignment(Alignment(tuple(tilts), axis, measured, 900.0, 1.0, "trust", Trust.TRUSTED), True)
        self.assertEqual([tilt.tilt_deg for tilt in made.used], [27.0, 42.0, 57.0])
        np.testing.assert_allclose([(tilt.placement.tx, tilt.placement.ty) for tilt in made.used], 0.0, atol=1e-9)


    def test_local_motion_is_where_it_was_seen_in_the_raw_image_whatever_the_global_shift(self) -> None:
        """A point of the raw image is half a pixel further from its centre than from index n / 2, and the shift from its place in
        the aligned one."""
        side, place = 400, Placement(84.0, 45.0, -30.0)
        x, y = (grid.ravel() for grid in np.meshgrid([-120.0, 0.0, 120.0], [-120.0, 0.0, 120.0]))
        moved = TiltMotion(0, x, y, np.linspace(-4.0, 4.0, 9), np.linspace(3.0, -1.0, 9) ** 2)
        solution = Solution((TiltUse(0, 10.0, place),))
        tilt, = with_local(solution, LocalMotion((moved,), (3, 3), 1.0, ""), (side, side)).used
        local = tilt.placement.local
        if local is None:
            self.fail("the motion is lost")
        found = local.at(x + 0.5 - place.tx, y + 0.5 - place.ty, side, side)
        np.testing.assert_allclose(found, [moved.dx, moved.dy], atol=0.1)


class StackFileTest(InFolder):
    def write(self, name: str, data: NDArray[np.generic]) -> str:
        import mrcfile

        with mrcfile.new(self.path(name)) as file:
            file.set_data(data)
            file.voxel_size = 1.5
        return self.path(name)

    def test_all_modes_are_read(self) -> None:
        for kind in ("i1", "i2", "u2", "f2", "f4"):
            data = np.arange(24).reshape(2, 3, 4).astype(kind)
            stack = open_stack(self.write(f"{kind}.mrc", data))
            np.testing.assert_array_equal(stack.section(1), data[1].astype(np.float32))
            self.assertAlmostEqual(stack.pixel_size_A, 1.5, places=5)

    def test_big_endian_is_read(self) -> None:
        stack = open_stack(self.write("b.mrc", np.arange(24).reshape(2, 3, 4).astype(">f4")))
        self.assertEqual(float(stack.section(1)[0, 0]), 12.0)

    def test_what_is_not_a_whole_mrc_file_is_refused_in_words(self) -> None:
        path = self.write("t.mrc", np.zeros((2, 30, 40), np.float32))
        with open(path, "r+b") as file:
            file.truncate(5000)
        with self.assertRaisesRegex(EngineError, r"t\.mrc is truncated: 2 sections"):
            open_stack(path)
        with open(self.path("x.mrc"), "wb") as file:
            file.write(b"hello")
        with self.assertRaisesRegex(EngineError, "not an MRC file"):
            open_stack(self.path("x.mrc"))
        with self.assertRaisesRegex(EngineError, r"none\.mrc"):
            open_stack(self.path("none.mrc"))
        with self.assertRaisesRegex(EngineError, "mode 4"):
            open_stack(self.write("c.mrc", np.zeros((2, 3, 4), np.complex64)))

    def test_values_that_are_not_finite_are_refused(self) -> None:
        data = np.zeros((2, 30, 40), np.float32)
        data[1, 3, 3] = np.nan
        with self.assertRaisesRegex(EngineError, "section 2 of 2"):
            open_stack(self.write("n.mrc", data)).section(1)


class ResolutionTest(InFolder):
    """Halves of a known spectrum: the same signal, noise of their own that exceeds it beyond a known frequency."""

    SHAPE = (48, 200, 200)

    def halves(self, signal_of: Callable[[Array, Array, Array], Array], upright: bool = True) -> Resolution:
        rng = np.random.default_rng(2)
        nz, ny, nx = self.SHAPE
        kz, ky, kx = np.fft.fftfreq(nz)[:, None, None], np.fft.fftfreq(ny)[None, :, None], np.fft.rfftfreq(nx)[None, None]
        spectrum = np.fft.rfftn(rng.standard_normal(self.SHAPE)) * np.sqrt(signal_of(kz, ky, kx))
        signal, paths = np.fft.irfftn(spectrum, s=self.SHAPE), []
        for name in ("even.mrc", "odd.mrc"):
            volume = (signal + rng.standard_normal(self.SHAPE)).astype(np.float32)
            with Outputs() as outputs:
                outputs.mrc(self.path(name), volume if upright else volume.transpose(1, 0, 2), 4.0, "test", volume=True)
            paths.append(self.path(name))
        return resolution(open_mrc(paths[0]), open_mrc(paths[1]), 4.0, upright)

    def test_it_is_where_the_signal_falls_to_a_sixth_of_the_noise_in_either_orientation(self) -> None:
        # FSC = S / (S + 1) = 0.143 where S = 1 / 6: S = exp(-k^2 / 2 s^2) / 6 exp(k0^2 / 2 s^2) crosses at k0
        def falls(kz: Array, ky: Array, kx: Array) -> Array:
            flat, along = np.hypot(kx, ky) / 0.2, np.abs(kz) / 0.1
            return np.minimum(20.0, np.exp(-6 * (np.maximum(flat, along) - 1)) / 6)

        for upright in (True, False):
            found = self.halves(falls, upright)
            self.assertAlmostEqual(found.xy_A, 4.0 / 0.2, delta=1.5)
            self.assertAlmostEqual(found.z_A, 4.0 / 0.1, delta=5.0)

    def test_along_z_only_what_tilts_show_counts(self) -> None:
        """In the wedge that no tilt shows halves have nothing in common, and the tomogram is no worse for that."""
        def falls(kz: Array, ky: Array, kx: Array) -> Array:
            shown = np.abs(kz) <= math.tan(math.radians(60.0)) * kx + 1e-9
            return np.minimum(20.0, np.exp(-1.5 * (np.abs(kz) / 0.15 - 1)) / 6) * (shown | (np.abs(kz) < 0.01) & (ky < 2))

        self.assertAlmostEqual(self.halves(falls).z_A or 0.0, 4.0 / 0.15, delta=4.0)

    def test_noise_alone_has_none(self) -> None:
        found = self.halves(lambda kz, ky, kx: 0 * (kz + ky + kx))
        self.assertEqual((found.xy_A, found.z_A), (None, None))


if __name__ == "__main__":
    unittest.main()
