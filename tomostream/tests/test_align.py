# SPDX-License-Identifier: GPL-3.0-or-later
"""The alignment of tilt series, against specimens whose projections are computed here, from points in space.

The projector below shares nothing with the engine: points are turned about the y axis by the tilt angle, projected
along z, turned in the image plane by the angle of the tilt axis, shifted, and drawn as Gaussian blobs.
"""

from __future__ import annotations

import dataclasses
import unittest
from functools import lru_cache
from types import SimpleNamespace
from unittest import mock

import numpy as np

from tomostream.engine.align import Alignment, AlignmentError, AlignOptions, Start, align_series, coarse, fine
from tomostream.engine.align.answer import recentred
from tomostream.engine.align.answer import residuals as left_out_residuals
from tomostream.engine.align.chain import chain_deviations, step_deviations
from tomostream.engine.align.coarse import COARSE_TOP, Progress, settle_thickness
from tomostream.engine.align.fine import FINE_TOP, LEFT_OUT_A, THICKER, leave_out_faint, return_strays
from tomostream.engine.align.geometry import Pose
from tomostream.engine.align.heights import heights, slope_of
from tomostream.engine.align.likelihood import model_of, signal_share
from tomostream.engine.align.offset import Offset, decide, expected_deg, limits
from tomostream.engine.align.pipeline import Bench, maximise
from tomostream.engine.align.preprocess import (
    Level,
    clear_of_bars,
    densest,
    fourier_crop,
    level_of,
    reasons_of,
    work_stack,
    work_stacks,
)
from tomostream.engine.align.projection import Match, find_peak, sweep
from tomostream.engine.align.quality import (
    Checks,
    Quarters,
    bounded_inverse,
    fisher_deviations,
    gauge,
    judge,
    loosely_placed,
    standard_deviations,
)
from tomostream.engine.align.robust import Repair, all_left_out, elsewhere, faint, repair, rescue
from tomostream.engine.align.series import _prepare as prepare
from tomostream.engine.align.wedge import Wedge, parts_for, wedge_from, wedge_of
from tomostream.programs.quality import Trust

PIXEL_A = 16.0
SIDE = 160


@dataclasses.dataclass(frozen=True)
class Specimen:
    """Points (n, 3) in A with weights (n,)."""

    points: np.ndarray
    weights: np.ndarray


@lru_cache(maxsize=4)
def slab(seed: int = 0, thickness: float = 1200.0, own_tilt: float = 0.0, reach: float = 6000.0) -> Specimen:
    """A slab of clusters of points, turned by `own_tilt` degrees about the tilt axis."""
    random = np.random.default_rng(seed)
    count = int(reach * reach * thickness / 260.0**3)
    centres = (random.random((count, 3)) - 0.5) * [reach, reach, thickness]
    points = np.repeat(centres, 3, axis=0) + random.normal(scale=35.0, size=(3 * count, 3))
    points = points[np.abs(points[:, 2]) < thickness / 2]
    turned = points @ rotation_about_y(own_tilt).T
    return Specimen(turned, random.uniform(0.5, 1.5, len(turned)))


def rotation_about_y(degrees: float) -> np.ndarray:
    """x' = x cos + z sin, z' = z cos - x sin: what tilting the stage does in IMOD's and AreTomo's sense."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def project(
    specimen: Specimen, tilt: float, axis: float, shift: np.ndarray, shape: tuple[int, int], pixel: float = PIXEL_A
) -> np.ndarray:
    """Image (rows, columns) of a specimen; `axis` counter-clockwise from the y axis, `shift` (x, y) in pixels."""
    seen = (specimen.points @ rotation_about_y(tilt).T)[:, :2]
    c, s = np.cos(np.radians(axis)), np.sin(np.radians(axis))
    raw = seen @ np.array([[c, -s], [s, c]]).T / pixel + shift
    edges = [np.arange(n + 17) - 8.5 - n / 2 for n in shape]
    image, _, _ = np.histogram2d(raw[:, 1], raw[:, 0], bins=edges, weights=specimen.weights)
    rows = np.fft.fftfreq(image.shape[0])[:, None]
    columns = np.fft.rfftfreq(image.shape[1])[None]
    blur = np.exp(-2.0 * np.pi**2 * 0.9**2 * (rows**2 + columns**2))
    return np.fft.irfft2(np.fft.rfft2(image) * blur, s=image.shape)[8:-8, 8:-8]


@dataclasses.dataclass(frozen=True)
class Truth:
    """A simulated series with what is true of it; angles as the microscope says, shifts (n, 2) in pixels."""

    stack: np.ndarray
    angles: np.ndarray
    axis: float
    shifts: np.ndarray
    own_tilt: float = 0.0
    pixel: float = PIXEL_A

    def with_stack(self, stack: np.ndarray) -> Truth:
        return dataclasses.replace(self, stack=stack)


def simulate(angles: np.ndarray, axis: float, **more: object) -> Truth:
    """`simulated`, remembered: many tests look at the same series. The arrays are fresh copies."""
    truth = simulated(tuple(float(angle) for angle in angles), axis, **more)
    return dataclasses.replace(truth, stack=truth.stack.copy(), shifts=truth.shifts.copy())


@lru_cache(maxsize=8)
def simulated(
    tilts: tuple[float, ...], axis: float, shape: tuple[int, int] = (SIDE, SIDE), seed: int = 1, drift: float = 5.0,
    own_tilt: float = 0.0, noise: float = 1.0, thickness: float = 1200.0,
) -> Truth:
    """A series with shifts that wander by up to `drift` pixels or so, and noise of `noise` times the signal."""
    angles = np.array(tilts)
    random = np.random.default_rng(seed)
    shifts = np.cumsum(random.normal(size=(len(angles), 2)), axis=0)[np.argsort(np.argsort(angles))]
    shifts = shifts - shifts[np.argmin(np.abs(angles))]
    shifts *= drift / np.abs(shifts).max()
    specimen = slab(0, thickness, own_tilt)
    clean = [project(specimen, t, axis, s, shape) for t, s in zip(angles, shifts, strict=True)]
    level = np.std(clean[int(np.argmin(np.abs(angles)))])
    transmission = np.exp(-0.3 / np.cos(np.radians(angles)))
    stack = [
        (100.0 * f * (1.0 - 0.05 * (c - c.mean()) / level + 0.05 * noise * random.normal(size=shape)))
        for c, f in zip(clean, transmission, strict=True)
    ]
    return Truth(np.array(stack, dtype=np.float32), np.asarray(angles, float), axis, shifts, own_tilt)


def residuals(truth: Truth, answer: Alignment) -> np.ndarray:
    """Distance in pixels of each used tilt from the truth, after the best rigid motion of the specimen.

    Points on a grid are followed through both geometries; the shift of each tilt that is left is its residual.
    """
    from scipy.optimize import least_squares
    from scipy.spatial.transform import Rotation

    used = [t for t in answer.tilts if t.used]
    side = np.linspace(-0.3, 0.3, 4) * SIDE
    grid = np.stack(np.meshgrid(side, side, [-20.0, 20.0]), axis=-1).reshape(-1, 3)

    def image(points: np.ndarray, tilt: float, axis: float, shift: np.ndarray) -> np.ndarray:
        seen = (points @ rotation_about_y(tilt).T)[:, :2]
        c, s = np.cos(np.radians(axis)), np.sin(np.radians(axis))
        return seen @ np.array([[c, -s], [s, c]]).T + shift

    true = np.array([image(grid, truth.angles[t.section], truth.axis, truth.shifts[t.section]) for t in used])

    def difference(p: np.ndarray) -> np.ndarray:
        moved = Rotation.from_rotvec(p[:3]).apply(grid) + p[3:]
        found = [
            image(moved, t.tilt_deg + answer.tilt_offset_deg, t.rot_deg, np.array([t.tx, t.ty])) for t in used
        ]
        return np.array(found) - true

    start = np.concatenate([[0.0, -np.radians(answer.tilt_offset_deg), 0.0], np.zeros(3)])
    best = least_squares(lambda p: difference(p).ravel(), start, x_scale=[1e-2] * 3 + [1.0] * 3)
    return np.linalg.norm(difference(best.x).mean(axis=1), axis=1)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def options(axis: float, **more: object) -> AlignOptions:
    return dataclasses.replace(AlignOptions(pixel_size_A=PIXEL_A, tilt_axis_deg=axis, threads=2), **more)


def regular(last: float = 48.0, step: float = 6.0) -> np.ndarray:
    return np.arange(-last, last + 0.1, step)


@lru_cache(maxsize=4)
def small_field(seed: int) -> Truth:
    """31 tilts of a field of 1920 A, 1300 A thick, of few things: their heights have a slope by chance."""
    random = np.random.default_rng(seed)
    angles, side, pixel = np.arange(-45.0, 45.1, 3.0), 320, 6.0
    centres = (random.random((260, 3)) - 0.5) * [4500.0, 3000.0, 1300.0]
    ball = random.normal(size=(60, 3))
    points = (centres[:, None] + 60.0 * ball / np.linalg.norm(ball, axis=1)[:, None]).reshape(-1, 3)
    specimen = Specimen(points, np.ones(len(points)))
    shifts = random.normal(scale=3.0, size=(len(angles), 2)) * (np.abs(angles) > 0.1)[:, None]
    clean = [project(specimen, t, 84.0, s, (side, side), pixel) for t, s in zip(angles, shifts, strict=True)]
    level = np.std(clean[15])
    stack = [100.0 * (1.0 - 0.05 * (c - c.mean()) / level + 0.1 * random.normal(size=c.shape)) for c in clean]
    return Truth(np.array(stack, dtype=np.float32), angles, 84.0, shifts, pixel=pixel)


@lru_cache(maxsize=1)
def small_answer() -> Alignment:
    """The alignment of the first small field."""
    truth = small_field(0)
    return align_series(truth.stack, truth.angles, options(85.0, pixel_size_A=6.0))


class TestDirections(unittest.TestCase):
    """Signs and conventions; a mirrored axis or a swapped shift would show here."""

    def test_shifts_have_the_sense_of_aretomo(self) -> None:
        truth = simulate(regular(), axis=30.0)
        answer = align_series(truth.stack, truth.angles, options(31.5))
        self.assertLess(rms(residuals(truth, answer)), 0.35)
        self.assertAlmostEqual(answer.tilt_axis_deg, 30.0, delta=0.4)

    def test_a_mirrored_axis_does_not_fit(self) -> None:
        truth = simulate(regular(), axis=30.0)
        answer = align_series(truth.stack, truth.angles, options(-30.0, refine_axis=False))
        right = align_series(truth.stack, truth.angles, options(30.0, refine_axis=False))
        self.assertGreater(rms(residuals(truth, answer)), 5.0 * rms(residuals(truth, right)))

    def test_the_untilted_image_keeps_its_centre(self) -> None:
        truth = simulate(regular(), axis=5.0)
        answer = align_series(truth.stack, truth.angles, options(5.0))
        zero = answer.tilts[int(np.argmin(np.abs(truth.angles)))]
        self.assertAlmostEqual(zero.tx, 0.0, places=6)
        self.assertAlmostEqual(zero.ty, 0.0, places=6)

    def test_the_tilt_offset_is_what_the_specimen_is_tilted_by(self) -> None:
        truth = simulate(regular(), axis=-85.0, own_tilt=8.0)
        answer = align_series(truth.stack, truth.angles, options(-84.0))
        self.assertAlmostEqual(answer.tilt_offset_deg, 8.0, delta=1.0)
        self.assertLess(rms(residuals(truth, answer)), 0.35)

    def test_a_thickness_that_is_off_is_right_once_all_else_has_come_to_rest(self) -> None:
        truth = simulate(regular(), axis=84.0)
        images = work_stack(truth.stack, PIXEL_A, PIXEL_A, 1)
        bench = Bench(images, np.arange(len(truth.angles)), 1)
        for factor in (1.1, 0.9):
            pose = Pose(truth.angles, 84.0, truth.shifts / images.scale, factor * 1200.0 / images.pixel_A)
            settled = settle_thickness(Progress(bench, pose, {}, Offset()), lambda line: None).pose
            self.assertAlmostEqual(settled.thickness * images.pixel_A, 1200.0, delta=60.0)

    def test_the_thickness_told_is_the_one_that_was_fitted_last(self) -> None:
        lines: list[str] = []
        truth = simulate(regular(), axis=84.0)
        answer = align_series(truth.stack, truth.angles, options(84.5), lines.append)
        last = next(line for line in reversed(lines) if line.startswith("thickness"))
        self.assertAlmostEqual(answer.thickness_A, THICKER * float(last.split()[1]), delta=1.0)

    def test_tilt_cor_off_leaves_the_angles_alone(self) -> None:
        truth = simulate(regular(), axis=-85.0, own_tilt=8.0)
        answer = align_series(truth.stack, truth.angles, options(-85.0, tilt_cor=-1))
        self.assertEqual(answer.tilt_offset_deg, 0.0)


class TestReference(unittest.TestCase):
    def test_what_a_shift_of_the_specimen_does_is_taken_out_whatever_the_tilt_that_keeps_its_centre(self) -> None:
        """The definition: a specimen at (x, y) is seen at R(axis) (x cos t, y). Of a lamella no tilt is near 0."""
        tilts, axis = np.array([25.0, 40.0, 55.0]), 84.0
        c, s = np.cos(np.radians(axis)), np.sin(np.radians(axis))
        seen = np.stack([30.0 * np.cos(np.radians(tilts)), np.full(3, -12.0)], axis=1)
        pose = Pose(tilts, axis, seen @ np.array([[c, -s], [s, c]]).T, 100.0)
        for reference in range(3):
            np.testing.assert_allclose(recentred(pose, reference), 0.0, atol=1e-9)


class TestLamellae(unittest.TestCase):
    """Specimens that are tilted against the stage."""

    def test_one_of_17_degrees_is_found_and_trusted(self) -> None:
        truth = simulate(regular() - 15.0, axis=84.0, own_tilt=17.0)
        answer = align_series(truth.stack, truth.angles, options(85.0))
        self.assertAlmostEqual(answer.tilt_offset_deg, 17.0, delta=max(1.5, 2.0 * (answer.tilt_offset_sigma_deg or 0.0)))
        self.assertTrue(answer.quality_note.startswith("trust"), answer.quality_note)
        self.assertLess(rms(residuals(truth, answer)), 0.4)

    def test_the_heights_of_the_field_tell_the_tilt_with_its_sign_and_how_well(self) -> None:
        truth = simulate(regular(), axis=-85.0, own_tilt=8.0)
        images = work_stack(truth.stack, PIXEL_A, PIXEL_A, 1)
        bench = Bench(images, np.arange(len(truth.angles)), 1)
        for offset in (8.0, 0.0, 16.0):     # what is to be added to the angles of the stage is 8
            pose = Pose(truth.angles + offset, truth.axis, truth.shifts / images.scale, 1200.0 / images.pixel_A)
            slope = slope_of(*heights(bench, pose, 0.02))
            self.assertAlmostEqual(offset - slope.degrees, 8.0, delta=2.5)
            self.assertLess(slope.sigma_deg, 3.0)

    def test_a_part_of_the_field_that_lies_elsewhere_does_not_incline_the_rest(self) -> None:
        centres = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), axis=-1).reshape(-1, 2) * 40.0
        level = 3.0 + np.tan(np.radians(2.0)) * centres[:, 0] - 0.1 * centres[:, 1]
        found = slope_of(centres, level + 0.1 * np.random.default_rng(0).normal(size=16))
        self.assertAlmostEqual(found.degrees, 2.0, delta=0.2)
        spoiled = level.copy()
        spoiled[3] += 60.0
        bent = slope_of(centres, spoiled)
        self.assertAlmostEqual(bent.degrees, 2.0, delta=0.5)
        self.assertGreater(bent.sigma_deg, 10.0 * found.sigma_deg)

    def test_the_angles_of_a_series_tell_for_which_tilt_it_was_set_up(self) -> None:
        self.assertEqual(expected_deg(np.arange(-48.0, 66.1, 3.0)), -9.0)
        self.assertEqual(expected_deg(np.arange(-60.0, 60.1, 3.0)), 0.0)
        self.assertEqual(expected_deg(np.arange(0.0, 60.1, 3.0)), 0.0)      # to one side: no lamella
        outward = np.array([-10.0, -7.0, -13.0, -4.0, -16.0, 20.0, -40.0, 44.0, -46.0])
        self.assertEqual(expected_deg(outward, range(1, 10)), 10.0)
        through = np.arange(-50.0, 51.0, 10.0)
        self.assertEqual(expected_deg(through, range(11)), 0.0)             # it begins at an end of the range

    def test_a_tilt_that_the_series_was_set_up_for_needs_less_evidence(self) -> None:
        self.assertEqual(decide(-8.0, 4.0).used, 0.0)
        known = decide(-8.0, 4.0, -10.0)
        self.assertAlmostEqual(known.used, -9.0)        # both weigh the same
        self.assertAlmostEqual(known.uncertain, 4.0 / np.sqrt(2.0))
        self.assertEqual(decide(1.0, 1.0, -10.0).used, 0.0)

    def test_no_offset_is_tried_that_would_turn_an_image_edge_on(self) -> None:
        self.assertEqual(limits(np.array([-60.0, 60.0]), 0.0), (-22.0, 22.0))
        self.assertEqual(limits(np.array([-48.0, 66.0]), 0.0), (-30.0, 16.0))


def thicker_to_one_side(gain: float) -> Truth:
    """25 tilts of a specimen 700 A thick in the middle, by `gain` A an A thicker towards +X; the tilts are where they belong."""
    random = np.random.default_rng(5)
    angles, reach = np.arange(-60.0, 60.1, 5.0), 8000.0
    points = (random.random((60000, 3)) - 0.5) * [reach, 3200.0, 2300.0]
    points = points[np.abs(points[:, 2]) < 0.5 * np.maximum(700.0 + gain * points[:, 0], 50.0)]
    specimen = Specimen(points, np.ones(len(points)))
    clean = [project(specimen, t, 0.0, np.zeros(2), (SIDE, SIDE)) for t in angles]
    level = np.std(clean[12])
    stack = [100.0 * (1.0 - 0.05 * (c - c.mean()) / level + 0.1 * random.normal(size=c.shape)) for c in clean]
    return Truth(np.array(stack, dtype=np.float32), angles, 0.0, np.zeros((25, 2)))


class TestWedges(unittest.TestCase):
    """Specimens that are thicker on one side than on the other."""

    def test_tilts_of_one_are_put_where_they_belong_and_not_where_the_likelihood_of_an_even_slab_is_highest(self) -> None:
        for gain in (0.16, -0.16):
            truth = thicker_to_one_side(gain)
            images = work_stack(truth.stack, PIXEL_A, PIXEL_A, 1)
            bench = Bench(images, np.arange(25), 1)
            pose, _ = maximise(bench, Pose(truth.angles, 0.0, np.zeros((25, 2)), 700.0 / PIXEL_A), 0.025, 3)
            wedge = wedge_of(bench, pose, 0.02)
            free = np.eye(50) - gauge(np.cos(np.radians(truth.angles)), np.sin(np.radians(truth.angles)))
            before = rms((free @ pose.shifts.ravel())[0::2])
            after = rms((free @ pose.moved(wedge.moves(pose, PIXEL_A)).shifts.ravel())[0::2])
            self.assertGreater(before, 0.35)
            self.assertLess(after, 0.5 * before)
            self.assertEqual(np.sign(wedge.bend), -np.sign(gain))

    def test_a_slope_of_the_thickness_that_chance_makes_moves_nothing(self) -> None:
        self.assertEqual(wedge_from(1500.0, 0.02, 0.02).bend, 0.0)
        self.assertEqual(wedge_from(1500.0, 0.0, 0.0), Wedge(0.0, 0.0))
        sure = wedge_from(1600.0, 0.1, 1e-6)
        self.assertAlmostEqual(sure.bend, -20.0, places=3)      # T T' / 8
        self.assertAlmostEqual(sure.sigma, 6.0, delta=0.1)

    def test_what_is_not_known_of_a_slope_makes_the_places_of_tilts_uncertain(self) -> None:
        by_chance = wedge_from(1600.0, 0.03, 0.03)
        self.assertEqual(by_chance.bend, 0.0)
        self.assertAlmostEqual(by_chance.sigma, 200.0 * np.hypot(0.03, 0.03), places=6)
        even = wedge_from(1600.0, 0.0, 0.03)                    # a slope of none was measured as badly as any
        self.assertAlmostEqual(even.sigma, 200.0 * 0.03, places=6)

    def test_what_a_wedge_may_be_wrong_by_is_least_where_a_shift_of_the_specimen_hides_it(self) -> None:
        tilts = np.arange(-60.0, 60.1, 5.0)
        deviations = Wedge(0.0, 10.0).deviations(tilts)
        self.assertGreater(deviations[0], 4.0)
        self.assertLess(deviations.min(), 1.0)
        np.testing.assert_allclose(deviations, deviations[::-1])

    def test_a_field_that_is_small_for_the_thickness_of_the_specimen_tells_nothing_of_a_wedge(self) -> None:
        images = work_stack(np.random.default_rng(0).normal(size=(5, SIDE, SIDE)).astype(np.float32), PIXEL_A, PIXEL_A, 1)
        bench = Bench(images, np.arange(5), 1)
        pose = Pose(np.arange(5.0), 0.0, np.zeros((5, 2)), 110.0)
        self.assertIsNone(parts_for(bench, pose))
        self.assertEqual(wedge_of(bench, pose, 0.02), Wedge())
        self.assertEqual(parts_for(bench, dataclasses.replace(pose, thickness=70.0)), (3, 3))


class TestGeometries(unittest.TestCase):
    """Shapes, axes and ranges."""

    def check(self, truth: Truth, start: float, **more: object) -> Alignment:
        answer = align_series(truth.stack, truth.angles, options(start, **more))
        self.assertLess(rms(residuals(truth, answer)), 0.4)
        self.assertTrue(all(tilt.used for tilt in answer.tilts))
        return answer

    def test_wide_images_with_an_upright_axis(self) -> None:
        self.check(simulate(regular(), axis=-3.0, shape=(144, 192)), -5.0)

    def test_wide_images_with_a_lying_axis(self) -> None:
        self.check(simulate(regular(), axis=88.0, shape=(144, 192)), 90.0)

    def test_tall_images_with_a_lying_axis(self) -> None:
        self.check(simulate(regular(), axis=-87.0, shape=(192, 144)), -85.0)

    def test_angles_in_acquisition_order(self) -> None:
        angles = np.array(sorted(regular(), key=lambda a: (abs(a), -a)))
        self.check(simulate(angles, axis=84.0), 86.0)

    def test_a_range_that_is_not_symmetric(self) -> None:
        self.check(simulate(np.arange(-24.0, 57.0, 4.0), axis=0.0), 2.0)

    def test_an_axis_that_nobody_knows(self) -> None:
        answer = self.check(simulate(regular(), axis=57.0), 0.0, full_axis_search=True)
        self.assertAlmostEqual(answer.tilt_axis_deg, 57.0, delta=0.5)

    def test_a_specimen_of_300_A_is_known_for_thin(self) -> None:
        answer = self.check(simulate(regular(), axis=84.0, thickness=300.0), 85.0)
        self.assertLess(answer.thickness_A, 500.0)

    def test_pixels_of_the_input_count_where_images_are_binned_inside(self) -> None:
        truth = simulate(regular(), axis=20.0)
        larger = truth.stack.repeat(2, axis=1).repeat(2, axis=2)
        larger_series = dataclasses.replace(truth, stack=larger, shifts=truth.shifts * 2)
        answer = align_series(larger_series.stack, larger_series.angles, options(21.0, pixel_size_A=PIXEL_A / 2))
        self.assertLess(rms(residuals(larger_series, answer)), 0.8)


class TestBadTilts(unittest.TestCase):
    """Tilts that must not spoil the others."""

    def setUp(self) -> None:
        self.truth = simulate(regular(), axis=84.0)
        self.stack = self.truth.stack.copy()
        self.random = np.random.default_rng(5)

    def answer(self, bad: set[int]) -> Alignment:
        """Align; all but `bad` must be used and right."""
        truth = self.truth.with_stack(self.stack)
        answer = align_series(truth.stack, truth.angles, options(85.0))
        self.assertEqual({t.section for t in answer.tilts if not t.used}, bad, [t.reason for t in answer.tilts])
        self.assertLess(rms(residuals(truth, answer)), 0.45)
        for section in bad:
            self.assertIsNone(answer.tilts[section].sigma_px)
        return answer

    def test_a_blank_image_is_excluded_as_blank(self) -> None:
        self.stack[4] = 7.0
        self.assertIn("blank", self.answer({4}).tilts[4].reason)

    def test_a_dark_image_is_excluded_as_dark(self) -> None:
        self.stack[14] = self.stack[14] * 0.1
        self.assertIn("dark", self.answer({14}).tilts[14].reason)

    def test_a_dark_zero_tilt_is_survived(self) -> None:
        self.stack[8] = self.random.normal(2.0, 1.0, self.stack[8].shape)
        self.answer({8})

    def test_an_image_of_something_else_does_not_fit(self) -> None:
        other = project(slab(seed=9), 0.0, 0.0, np.zeros(2), (SIDE, SIDE))
        level = self.stack[12].mean()
        noise = self.random.normal(size=other.shape)
        self.stack[12] = level * (1 - 0.05 * (other - other.mean()) / other.std() + 0.05 * noise)
        self.assertIn("does not match", self.answer({12}).tilts[12].reason)

    def test_an_image_of_noise_at_the_end_does_not_fit(self) -> None:
        self.stack[16] = self.stack[16].mean() * (1 + 0.08 * self.random.normal(size=self.stack[16].shape))
        self.answer({16})

    def test_a_duplicated_image_is_used_once(self) -> None:
        self.stack[13] = self.stack[12]
        self.assertIn("same picture", self.answer({13}).tilts[13].reason)

    def test_a_tilt_that_jumped_is_followed(self) -> None:
        tilt, shift = 11, np.array([26.0, -20.0])
        specimen = slab(0, 1200.0, 0.0)
        there = project(specimen, self.truth.angles[tilt], 84.0, shift, (SIDE, SIDE))
        level = self.stack[tilt].mean()
        noise = self.random.normal(size=there.shape)
        self.stack[tilt] = level * (1 - 0.05 * (there - there.mean()) / there.std() + 0.05 * noise)
        self.truth.shifts[tilt] = shift
        self.answer(set())

    def test_a_dark_image_stays_where_the_tolerance_allows_it(self) -> None:
        self.stack[14] = self.stack[14] * 0.5
        answer = align_series(self.stack, self.truth.angles, options(85.0, dark_tol=0.3))
        self.assertTrue(answer.tilts[14].used)

    def test_a_grid_bar_that_sweeps_in_moves_no_tilt_and_blocks_the_last(self) -> None:
        for tilt, columns in ((14, 25), (15, 40), (16, 110)):
            self.stack[tilt, :, :columns] *= 0.02
        self.assertIn("dark", self.answer({16}).tilts[16].reason)

    def test_ice_that_falls_on_the_specimen_is_survived(self) -> None:
        places = (self.random.random((8, 3)) - 0.5) * [2400.0, 2400.0, 0.0] + [0.0, 0.0, 600.0]
        rows, columns = np.mgrid[:SIDE, :SIDE]
        for tilt in range(9, 17):
            seen = (places[: tilt - 8] @ rotation_about_y(self.truth.angles[tilt]).T)[:, :2]
            c, s = np.cos(np.radians(84.0)), np.sin(np.radians(84.0))
            for x, y in seen @ np.array([[c, -s], [s, c]]).T / PIXEL_A + self.truth.shifts[tilt] + SIDE / 2:
                self.stack[tilt] *= np.exp(-0.7 * np.exp(-((((columns - x) ** 2 + (rows - y) ** 2) / 81.0) ** 2)))
        truth = self.truth.with_stack(self.stack)
        answer = align_series(truth.stack, truth.angles, options(85.0, dark_tol=0.1))
        self.assertTrue(all(tilt.used for tilt in answer.tilts))
        self.assertLess(rms(residuals(truth, answer)), 1.0)

    def test_an_untilted_image_of_noise_does_not_spoil_the_rest(self) -> None:
        level = self.stack[8].mean()
        self.stack[8] = level * (1.0 + 0.07 * self.random.normal(size=self.stack[8].shape))
        self.answer({8})

    def test_neighbours_that_jumped_apart_take_no_others_along(self) -> None:
        specimen = slab(0, 1200.0, 0.0)
        for tilt, shift in ((2, (-30.0, 14.0)), (12, (28.0, -26.0)), (13, (-26.0, 28.0))):
            there = project(specimen, self.truth.angles[tilt], 84.0, np.array(shift), (SIDE, SIDE))
            noise = self.random.normal(size=there.shape)
            self.stack[tilt] = self.stack[tilt].mean() * (1 - 0.05 * (there - there.mean()) / there.std() + 0.05 * noise)
            self.truth.shifts[tilt] = shift
        self.answer(set())

    def test_a_tilt_that_came_to_rest_at_a_wrong_place_is_called_back_by_the_others(self) -> None:
        truth = simulate(regular(), 85.0)
        images = work_stack(truth.stack, PIXEL_A, PIXEL_A, 1)
        away = truth.shifts.copy()
        away[2] += [8.0, 0.5]  # across the tilt axis, which images of thick specimens hardly resist
        bench = Bench(images, np.arange(len(truth.angles)), 1)
        said: list[str] = []
        right = Pose(truth.angles, truth.axis, truth.shifts / images.scale, 1200.0 / images.pixel_A)
        pose, _ = return_strays(bench, dataclasses.replace(right, shifts=away / images.scale), truth.angles, said.append)
        self.assertEqual(said, [f"the tilt at {truth.angles[2]:.0f} deg fits better elsewhere and was moved there"])
        self.assertLess(np.abs(pose.shifts * images.scale - truth.shifts).max(), 1.0)
        self.assertIs(return_strays(bench, right, truth.angles, said.append)[0], right)

    def test_a_tilt_that_is_out_of_use_comes_back_only_where_it_fits_beyond_doubt(self) -> None:
        """Noise has a highest place too: of several tries on as many tilts one would pass for a match."""
        truth = simulate(regular(), 85.0)
        stack = truth.stack.copy()
        stack[13] = stack[13].mean() * (1 + 0.05 * self.random.normal(size=stack[13].shape))
        images = work_stack(stack, PIXEL_A, PIXEL_A, 1)
        away = truth.shifts.copy()
        away[[3, 13]] += 6.0
        bench = Bench(images, np.delete(np.arange(len(truth.angles)), [3, 13]), 1)
        pose, fitting = rescue(bench, Pose(truth.angles, truth.axis, away / images.scale, 1200.0 / images.pixel_A), [3, 13],
                               COARSE_TOP, 600.0)
        self.assertEqual(fitting, [3])
        self.assertLess(np.abs(pose.shifts[3] * images.scale - truth.shifts[3]).max(), 1.5)

    def test_a_higher_place_beyond_what_is_searched_does_not_count(self) -> None:
        grid = np.zeros((40, 50))
        grid[20, 25], grid[38, 3], grid[0, 0] = 9.0, 5.0, 1.0
        found = find_peak(grid, (2.0, 1.0), 6.0)
        self.assertEqual(found.move, (3.0, -4.0))
        self.assertGreater(found.height, found.height_here)

    def test_a_tilt_that_does_not_fit_is_tried_again_when_all_others_have_their_places(self) -> None:
        tried: list[tuple[int, int]] = []

        def matched(band: object, pose: object, share: object, tilt: int, others: list[int], *_: object) -> Match:
            tried.append((tilt, len(others)))
            return Match((1.0, 0.0), 9.0 if tilt != 1 or len(others) > 2 else 1.0, 0.0)

        band = SimpleNamespace(members=np.arange(5), values=np.ones((1, 5, 1), np.complex64), cells=None)
        pose = Pose(np.arange(-20.0, 21.0, 10.0), 0.0, np.zeros((5, 2)), 50.0)
        with mock.patch.multiple("tomostream.engine.align.projection", match_tilt=matched,
                                 phases=lambda cells, moves: np.ones((1, 1, 1))):
            found = sweep(band, pose, np.ones((5, 4)), 2, 10.0, False)
        self.assertEqual(tried, [(1, 1), (3, 1), (0, 2), (4, 3), (1, 4)])
        self.assertTrue(found.placed.all())

    def test_of_two_that_are_the_same_picture_the_later_one_is_set_aside(self) -> None:
        stack = self.stack[:6].copy()
        stack[4] = stack[2]
        coarse = work_stack(stack, PIXEL_A, PIXEL_A, 1)
        for orders, later in ((None, 4), (range(6), 4), (range(6, 0, -1), 2)):
            state = prepare(coarse, {}, self.truth.angles[:6], options(84.0), 1, orders, lambda line: None)
            self.assertEqual(list(state.reasons), [later])

    def test_three_tilts_are_left_whatever_does_not_fit(self) -> None:
        state = Progress(Bench(mock.Mock(), np.arange(4), 1), mock.Mock(), {}, decide(0.0, 0.5))
        self.assertEqual(state.excluding({0: "does not fit"}).bench.members.tolist(), [1, 2, 3])
        self.assertIs(state.excluding({0: "does not fit", 2: "does not fit"}), state)

    def test_an_image_is_not_dark_because_others_are_the_brighter_the_more_they_are_tilted(self) -> None:
        """Transmission falls with the tilt: what rises is not followed."""
        angles = np.arange(-60.0, 61.0, 10.0)
        levels = [Level(100.0 / np.cos(np.radians(angle)), 5.0, "") for angle in angles]
        levels[11] = Level(80.0, 5.0, "")       # at 50 degrees: 155 would be expected by the others
        self.assertFalse(any(reasons_of(levels, angles, 0.6)))

    def test_a_tilt_slips_only_where_another_place_far_away_fits_clearly_better(self) -> None:
        truth = simulate(regular(), 85.0)
        bench = Bench(work_stack(truth.stack, PIXEL_A, PIXEL_A, 1), np.arange(len(truth.angles)), 1)
        at = {2: Match((9.0, 0.0), 12.0, 3.0), 5: Match((9.0, 0.0), 12.0, 11.0), 9: Match((2.0, 0.0), 12.0, 3.0),
              14: Match((9.0, 0.0), 4.0, 1.0)}
        pose = Pose(truth.angles, truth.axis, truth.shifts, 1200.0 / PIXEL_A)
        with mock.patch("tomostream.engine.align.robust.match_tilt",
                        lambda band, pose, share, tilt, *_: at.get(tilt, Match((0.0, 0.0), 12.0, 12.0))):
            found = repair(bench, pose, COARSE_TOP, 600.0)
        self.assertEqual((found.slipped, list(found.misfits)), ((2,), [14]))
        self.assertEqual(np.flatnonzero(np.abs(found.pose.shifts - pose.shifts).max(axis=1)).tolist(), [2])

    def test_only_what_fits_clearly_better_and_far_from_its_place_is_called_back(self) -> None:
        here, near, faint, chance = (Match((0.0, 0.0), 12.0, 12.0), Match((2.0, 0.0), 12.0, 9.0),
                                     Match((9.0, 0.0), 12.0, 11.9), Match((9.0, 0.0), 4.0, 1.0))
        self.assertEqual(elsewhere([here, near, faint, chance, Match((0.0, -9.0), 12.0, 11.0)], 10.0), [4])

    def test_a_tilt_that_shows_something_else_is_left_out_in_the_end_and_the_rest_keep_their_places(self) -> None:
        truth = simulate(regular(), 85.0)
        stack = truth.stack.copy()
        stack[2] = stack[2].mean() * (1 + 0.05 * self.random.normal(size=stack[2].shape))
        images = work_stack(stack, PIXEL_A, PIXEL_A, 1)
        bench = Bench(images, np.arange(len(truth.angles)), 1)
        right = Pose(truth.angles, truth.axis, truth.shifts / images.scale, 1200.0 / images.pixel_A)
        said: list[str] = []
        state = Progress(bench, right, {}, decide(0.0, 0.5))
        matches = all_left_out(bench, right, FINE_TOP, LEFT_OUT_A)
        left, rest = leave_out_faint(state, truth.angles, matches, said.append)
        self.assertEqual(set(range(len(truth.angles))) - set(left.bench.members.tolist()), {2})
        self.assertRegex(left.reasons[2], r"hardly matches the other tilts \(peak of .* sigma\)")
        self.assertEqual((len(rest), len(said)), (len(truth.angles) - 1, 1))
        self.assertLess(np.abs(np.delete(left.pose.shifts * images.scale - truth.shifts, 2, 0)).max(), 1.0)
        self.assertIs(leave_out_faint(left, truth.angles, rest, said.append)[0], left)

    def test_sections_that_slipped_or_are_used_again_are_counted_from_1_as_everywhere(self) -> None:
        images = work_stack(self.stack[:5], PIXEL_A, 4 * PIXEL_A, 1)
        pose = Pose(self.truth.angles[:5], self.truth.axis, np.zeros((5, 2)), 20.0)
        state = Progress(Bench(images, np.arange(4), 1), pose, {4: "does not match its neighbours"}, Offset())
        said: list[str] = []
        with mock.patch.object(coarse, "maximise", return_value=(pose, 0.0)):
            with mock.patch.object(coarse, "repair", side_effect=[Repair(pose, (0, 3), {}), Repair(pose, (), {})]):
                coarse.repaired(state, said.append)
            with mock.patch.object(coarse, "rescue", return_value=(pose, [4])):
                coarse.rescued(state, said.append)
        self.assertEqual(said, ["sections 1, 4 had slipped and were moved back",
                                "section 5 matches the others after all and is used again"])

    def test_one_tilt_that_stays_at_a_wrong_place_or_several_are_named(self) -> None:
        bench = Bench(work_stack(self.stack[:3], PIXEL_A, 4 * PIXEL_A, 1), np.arange(3), 1)
        here, away = Match((0.0, 0.0), 12.0, 12.0), Match((9.0, 0.0), 12.0, 11.0)
        angles = np.array([-51.0, 0.0, 48.0])
        self.assertEqual(fine.still_away(bench, angles, [here, here, here]), [])
        self.assertEqual(fine.still_away(bench, angles, [away, here, here]),
                         ["the tilt at -51 degrees fits better elsewhere than where it is"])
        self.assertEqual(fine.still_away(bench, angles, [away, here, away]),
                         ["the tilts at -51, 48 degrees fit better elsewhere than where they are"])

    def test_ends_of_thick_specimens_are_not_faint(self) -> None:
        heights = [24.4, 10.1, 25.0, 23.0, 11.3, 8.0]
        self.assertEqual(faint([Match((0.0, 0.0), height, height) for height in heights]), [])
        self.assertEqual(faint([Match((0.0, 0.0), 9.0, height) for height in (30.9, 8.4, 31.0, 29.0, 12.0)]), [1])

    def test_a_tilt_that_stays_at_a_wrong_place_is_not_trusted(self) -> None:
        good = Checks(np.full(20, 20.0), 5.0)
        self.assertEqual(judge(good, 20, 20, 120.0, decide(0.0, 0.5))[1], "trust")
        figure, note, _ = judge(dataclasses.replace(good, misfits=("tilts at 51 degrees fit better elsewhere",)), 20, 20, 120.0,
                             decide(0.0, 0.5))
        self.assertIn("do not trust: tilts at 51 degrees fit better elsewhere", note)
        self.assertLess(figure, 0.6)

    def test_only_what_is_opaque_counts_as_a_bar(self) -> None:
        image = self.stack[8].copy()
        self.assertIsNone(clear_of_bars(image, PIXEL_A))
        self.assertIsNone(clear_of_bars(image - image.mean(), PIXEL_A))
        image[:, :60] *= 0.5  # a thick part of the specimen
        self.assertIsNone(clear_of_bars(image, PIXEL_A))
        image[:, :40] *= 0.1
        clear = clear_of_bars(image, PIXEL_A)
        self.assertIsNotNone(clear)
        self.assertEqual(float(clear[:, :40].max()), 0.0)
        self.assertEqual(float(clear[:, 75:].min()), 1.0)

    def test_the_usual_brightness_is_known_where_half_of_an_image_is_of_something_else(self) -> None:
        values = self.random.normal(100.0, 5.0, 10000).astype(np.float32)
        values[:5000] = self.random.uniform(0.0, 60.0, 5000)
        middle, spread = densest(values)
        self.assertAlmostEqual(float(middle), 100.0, delta=2.5)
        self.assertLess(float(spread), 12.0)  # of all values it is 45

    def test_a_tilt_with_values_that_are_not_numbers_is_left_out_and_the_others_are_aligned(self) -> None:
        self.stack[3, 20:22, 30:34] = np.nan
        self.answer({3})

    def test_normalised_images_are_not_taken_for_dark(self) -> None:
        self.stack -= self.stack.mean(axis=(1, 2), keepdims=True)
        self.answer(set())


class TestDarkImages(unittest.TestCase):
    def test_a_tolerance_of_1_or_beyond_or_of_0_marks_no_image_as_dark(self):
        rng = np.random.default_rng(1)
        angles = np.arange(-60.0, 61.0, 10.0)
        stack = np.stack([rng.normal(100 - abs(angle) / 3, 4, (32, 32)) for angle in angles]).astype(np.float32)
        stack[3] *= 0.3
        levels = [level_of(image) for image in stack]
        self.assertEqual([i for i, reason in enumerate(reasons_of(levels, angles, 0.7)) if reason], [3])
        for tolerance in (0.0, 1.0, 1.5, -1.0):
            self.assertFalse(any(reasons_of(levels, angles, tolerance)), tolerance)

    def test_an_image_with_any_value_that_is_not_finite_is_left_out(self):
        stack = np.random.default_rng(1).normal(100, 4, (13, 64, 64)).astype(np.float32)
        stack[2, 5, 5], stack[4, 6, 6], stack[6, 7, 7] = np.nan, np.inf, 1e30
        (images,), levels = work_stacks(stack, 10.0, (20.0,), 1)
        reasons = reasons_of(levels, np.arange(-60.0, 61.0, 10.0), 0.7)
        self.assertEqual([i for i, reason in enumerate(reasons) if reason], [2, 4, 6])
        self.assertTrue(np.isfinite(images.coefficients).all())


class TestWorkingImages(unittest.TestCase):
    def test_those_of_two_pixel_sizes_are_what_each_would_be_by_itself(self):
        stack = np.random.default_rng(1).normal(100, 4, (2, 600, 90)).astype(np.float32)
        both, _ = work_stacks(stack, 5.0, (10.0, 20.0), 2)
        for images, pixel_A in zip(both, (10.0, 20.0), strict=True):
            np.testing.assert_array_equal(images.coefficients, work_stack(stack, 5.0, pixel_A, 1).coefficients)

    def test_cropping_a_transform_keeps_its_low_frequencies(self):
        image = np.random.default_rng(1).normal(100, 4, (601, 90)).astype(np.float32)
        whole, small = (np.fft.rfft2(each) / each.size for each in (image, fourier_crop(image, (120, 20))))
        np.testing.assert_allclose(small[:60, :10], whole[:60, :10], atol=1e-5)
        np.testing.assert_allclose(small[61:, :10], whole[-59:, :10], atol=1e-5)


class TestHonesty(unittest.TestCase):
    """Uncertainties and the quality figure."""

    def test_uncertainties_are_of_the_size_of_the_errors(self) -> None:
        truth = simulate(regular(), axis=84.0)
        answer = align_series(truth.stack, truth.angles, options(85.0))
        sigma = rms(np.array([np.hypot(*(t.sigma_px or (0.0, 0.0))) for t in answer.tilts]))
        error = rms(residuals(truth, answer))
        self.assertLess(error, 3.0 * sigma)
        self.assertGreater(error, sigma / 3.0)
        self.assertEqual(answer.quality_note, "trust")

    def test_uncertainties_are_free_of_what_a_shift_of_the_specimen_does(self) -> None:
        angles = np.radians(np.arange(-45.0, 46.0, 3.0))
        taken = gauge(np.cos(angles), np.sin(angles))
        moved = np.stack([3.0 * np.cos(angles) - 2.0 * np.sin(angles), np.full(31, 5.0)], axis=1).ravel()
        np.testing.assert_allclose(taken @ moved, moved, atol=1e-9)
        self.assertAlmostEqual(float(np.trace(taken)), 3.0)

    def test_of_tilts_that_are_known_equally_well_each_is_as_uncertain_as_it_is_against_the_rest(self) -> None:
        tilts = np.arange(-45.0, 46.0, 15.0)
        cosines = np.cos(np.radians(tilts))
        band = SimpleNamespace(members=np.arange(7), coverage=np.ones(7))
        known = np.diag(np.stack([cosines**2, np.ones(7)], axis=1).ravel())     # 1 a tilt, as it is seen
        with mock.patch("tomostream.engine.align.quality.fisher", return_value=known):
            found = fisher_deviations(band, Pose(tilts, 0.0, np.zeros((7, 2)), 50.0), mock.Mock())
        np.testing.assert_allclose(found[:, 1], np.sqrt(1 - 1 / 7))
        self.assertAlmostEqual(float((found[:, 0] ** 2).sum()), 7 - 2)     # a shift of the specimen in X, and in Z

    def test_what_quarters_of_the_field_show_counts_where_it_is_more_than_noise(self) -> None:
        tilts = np.array([30.0, -30.0, 0.0, 10.0])
        field = Quarters(np.full((4, 2), 0.8), np.zeros(4), np.zeros(4), tilts)
        noise = np.array([[0.1, 0.6]] * 4)
        np.testing.assert_allclose(standard_deviations(noise, field, tilts), [[0.4, 0.6]] * 4)      # a mean of four has half

    def test_a_tilt_that_hangs_on_a_weak_link_is_uncertain_with_all_beyond_it(self) -> None:
        order, tilts = np.array([1, 0, 2, 3, 4]), np.array([-30.0, -60.0, 0.0, 30.0, 60.0])
        firm = chain_deviations(order, np.full(4, 0.01), tilts)
        loose = chain_deviations(order, np.array([0.01, 0.01, 0.01, 3.0]), tilts)
        self.assertLess(firm.max(), 0.02)
        self.assertGreater(loose[4], 0.5)
        self.assertEqual(int(np.argmax(loose)), 4)
        shifted = chain_deviations(np.arange(2), np.array([5.0]), np.array([-20.0, 20.0]))
        np.testing.assert_allclose(shifted, 0.0, atol=1e-9)     # two tilts are always where some specimen has them

    def test_neighbours_that_share_nothing_are_a_weak_link(self) -> None:
        truth = simulate(regular(), axis=84.0)
        stack = truth.stack.copy()
        stack[-2:] = np.random.default_rng(7).normal(100.0, 8.0, stack[-2:].shape)
        pose = Pose(truth.angles, truth.axis, truth.shifts, 1200.0 / PIXEL_A)
        weak = []
        for images in (truth.stack, stack):
            bench = Bench(work_stack(images, PIXEL_A, PIXEL_A, 1), np.arange(len(truth.angles)), 1)
            band = bench.cut(pose, 0.03)
            order, steps = step_deviations(band, pose, model_of(band, pose, signal_share(band, pose)), PIXEL_A)
            self.assertEqual(order.tolist(), list(range(len(truth.angles))))
            weak.append(steps[-2])
        self.assertLess(weak[0], 0.5)
        self.assertGreater(weak[1], 4.0 * weak[0])

    def test_uncertainties_do_not_explode_where_rounding_spoils_the_null_space(self) -> None:
        information = 1e6 * (31.0 * np.eye(31) - np.ones((31, 31))) + np.random.default_rng(0).normal(size=(31, 31))
        free = np.eye(31) - np.ones((31, 31)) / 31.0
        variance = np.diag(bounded_inverse(free @ information @ free))
        np.testing.assert_allclose(variance, 30.0 / 31.0 / 31.0e6, rtol=1e-2)

    def test_no_uncertainty_is_far_from_the_others_or_zero_in_a_small_field(self) -> None:
        answer = small_answer()
        sigma = np.array([t.sigma_px for t in answer.tilts])
        self.assertLess(sigma.max(), 1.0)
        self.assertGreater(sigma.min(), 1e-3)

    def test_a_small_field_without_a_tilt_of_its_own_gets_no_offset_and_says_that_it_is_uncertain(self) -> None:
        answer = small_answer()
        self.assertEqual(answer.tilt_offset_deg, 0.0)
        self.assertAlmostEqual(answer.thickness_A, 1300.0, delta=260.0)
        self.assertTrue(answer.quality_note.startswith("trust; the tilt offset is uncertain by"), answer.quality_note)

    def test_an_offset_is_believed_only_where_it_is_significant(self) -> None:
        self.assertEqual(decide(4.5, 2.9).used, 0.0)
        self.assertEqual(decide(9.0, 0.5).used, 9.0)
        self.assertEqual(decide(-9.0, 0.5).used, -9.0)

    def test_the_offset_in_use_is_told_with_how_far_it_may_be_off(self) -> None:
        self.assertAlmostEqual(decide(8.0, 1.0).uncertain, 1.0)
        unused = decide(2.0, 1.0)       # of a tilt that is 4 degrees or so: 2 +- 1 were found, and 0 is used
        self.assertEqual(unused.used, 0.0)
        self.assertAlmostEqual(unused.uncertain, np.hypot(2.0 * 16.0 / 17.0, np.sqrt(16.0 / 17.0)))

    def test_an_offset_that_no_specimen_has_is_refused_and_not_trusted(self) -> None:
        offset = decide(28.0, 0.5)
        self.assertEqual(offset.used, 0.0)
        checks = Checks(np.full(31, 20.0), 1.0)
        self.assertRegex(judge(checks, 31, 31, 90.0, offset)[1], "do not trust: .* offset of 28 degrees")

    def test_an_uncertain_offset_leaves_the_shifts_trusted(self) -> None:
        checks = Checks(np.full(31, 20.0), 1.0)
        note = judge(checks, 31, 31, 90.0, decide(4.5, 2.9))[1]
        self.assertEqual(note, "trust; the tilt offset is uncertain by 4 degrees")

    def test_tilts_whose_places_are_not_well_known_are_named_after_trust(self) -> None:
        angles = np.array([60.0, -3.0, 0.0, -57.0, -60.0])
        sigma_A = np.array([14.6, 1.0, 7.9, 8.1, 12.0])
        words = loosely_placed(sigma_A, angles)
        self.assertEqual(words, "the places of the tilts at -60, -57, 60 degrees are uncertain by up to 15 A")
        self.assertEqual(loosely_placed(sigma_A[:2], angles[:2]), "the place of the tilt at 60 degrees is uncertain by 15 A")
        checks = Checks(np.full(31, 20.0), 1.0, loose=words)
        self.assertEqual(judge(checks, 31, 31, 90.0, decide(0.0, 0.5))[1:], (f"trust; {words}", Trust.TRUSTED))
        most = judge(dataclasses.replace(checks, loose_share=0.8), 31, 31, 90.0, decide(0.0, 0.5))
        self.assertEqual(most[1:], (f"do not trust: {words}", Trust.DOUBTFUL))
        self.assertEqual(judge(dataclasses.replace(checks, loose_share=0.6), 31, 31, 90.0, decide(0.0, 0.5))[2], Trust.TRUSTED)
        self.assertNotIn("places", judge(checks, 8, 31, 90.0, decide(0.0, 0.5))[1])     # there is more to say of that one
        self.assertEqual(loosely_placed(np.full(9, 7.9), np.arange(9.0)), "")
        self.assertIn("the places of 9 tilts are", loosely_placed(np.full(9, 8.1), np.arange(9.0)))

    def test_a_series_of_which_half_of_the_tilts_take_no_part_is_not_trusted(self) -> None:
        checks, known = Checks(np.full(18, 20.0), 1.0), decide(0.0, 0.5)
        _, note, trust = judge(checks, 18, 31, 90.0, known)
        self.assertEqual((note, trust), ("do not trust: 13 of 31 tilts do not take part", Trust.DOUBTFUL))
        self.assertEqual(judge(checks, 19, 31, 90.0, known)[2], Trust.TRUSTED)

    def test_how_far_a_tilt_is_off_is_told_as_it_is_seen_in_its_image(self) -> None:
        """Across the axis the stretched frame shows a tilt at 60 degrees twice as wide as its image is."""
        bench = Bench(work_stack(np.ones((2, 64, 64), np.float32), PIXEL_A, 2 * PIXEL_A, 1), np.arange(2), 1)
        pose = Pose(np.array([0.0, 60.0]), 84.0, np.zeros((2, 2)), 50.0)
        found = left_out_residuals(bench, pose, [Match((0.0, 1.0), 1.0, 1.0), Match((6.0, 4.0), 12.0, 12.0)])
        self.assertIsNone(found[0])     # it does not stand out
        self.assertAlmostEqual(found[1] or 0.0, 5.0 * bench.images.scale)
        self.assertAlmostEqual(bench.images.scale, 2.0)

    def test_noise_is_not_trusted(self) -> None:
        noise = np.random.default_rng(3).normal(50.0, 5.0, (13, SIDE, SIDE)).astype(np.float32)
        answer = align_series(noise, regular(48.0, 8.0), options(0.0))
        self.assertIn("do not trust", answer.quality_note)
        self.assertLess(answer.quality, 0.3)

    def test_an_axis_that_is_far_off_is_found_or_not_trusted(self) -> None:
        truth = simulate(regular(), axis=84.0)
        answer = align_series(truth.stack, truth.angles, options(124.0))
        if answer.quality_note.startswith("trust"):
            self.assertAlmostEqual(answer.tilt_axis_deg, 84.0, delta=0.4)
            self.assertLess(rms(residuals(truth, answer)), 0.4)
        else:
            self.assertLess(answer.quality, 0.5)

    def test_a_wrong_axis_that_must_not_be_refined_is_not_trusted(self) -> None:
        truth = simulate(regular(), axis=84.0)
        answer = align_series(truth.stack, truth.angles, options(114.0, refine_axis=False))
        self.assertRegex(answer.quality_note, "do not trust: .*")

    def test_swapped_angles_are_not_trusted(self) -> None:
        truth = simulate(regular(), axis=84.0)
        angles = truth.angles.copy()
        for tilt in range(0, 16, 2):
            angles[[tilt, tilt + 1]] = angles[[tilt + 1, tilt]]
        answer = align_series(truth.stack, angles, options(85.0))
        self.assertRegex(answer.quality_note, "do not trust: .*")

    def test_a_short_series_is_aligned_but_not_trusted(self) -> None:
        truth = simulate(np.arange(-9.0, 9.1, 3.0), axis=84.0)
        answer = align_series(truth.stack, truth.angles, options(84.0))
        self.assertLess(rms(residuals(truth, answer)), 0.5)
        self.assertIn("do not trust", answer.quality_note)


class TestRequests(unittest.TestCase):
    """What is asked and what is refused."""

    def test_an_alignment_to_start_from_is_refined_and_what_it_lacks_is_found(self) -> None:
        truth = simulate(regular(), axis=84.0)
        away = truth.shifts + 1.5 * np.random.default_rng(4).normal(size=truth.shifts.shape)
        known = np.ones(len(truth.angles), bool)
        known[[3, 14]] = False
        lines: list[str] = []
        start = Start(84.6, 0.0, np.where(known[:, None], away, 0.0), known)
        answer = align_series(truth.stack, truth.angles, options(10.0, start=start), lines.append)
        self.assertTrue(all(tilt.used for tilt in answer.tilts))
        self.assertLess(rms(residuals(truth, answer)), 0.4)
        self.assertAlmostEqual(answer.tilt_axis_deg, 84.0, delta=0.4)
        self.assertFalse(any("common lines" in line or "full search" in line for line in lines), lines)

    def test_the_axis_stays_where_it_must_not_be_refined(self) -> None:
        truth = simulate(regular(), axis=84.0)
        answer = align_series(truth.stack, truth.angles, options(84.5, refine_axis=False))
        self.assertEqual(answer.tilt_axis_deg, 84.5)

    def test_the_same_input_gives_the_same_answer(self) -> None:
        truth = simulate(regular(), axis=84.0)
        first = align_series(truth.stack, truth.angles, options(84.5))
        second = align_series(truth.stack, truth.angles, options(84.5))
        self.assertEqual(first, second)

    def test_the_input_is_not_changed(self) -> None:
        truth = simulate(regular(), axis=84.0)
        before = truth.stack.copy()
        align_series(truth.stack, truth.angles, options(84.0))
        np.testing.assert_array_equal(truth.stack, before)

    def test_integer_images_are_taken(self) -> None:
        truth = simulate(regular(), axis=84.0)
        whole = truth.with_stack(np.rint(truth.stack * 20).astype(np.int16))
        answer = align_series(whole.stack, whole.angles, options(85.0))
        self.assertLess(rms(residuals(whole, answer)), 0.4)

    def test_progress_is_told(self) -> None:
        lines: list[str] = []
        truth = simulate(regular(), axis=84.0)
        align_series(truth.stack, truth.angles, options(84.0), progress=lines.append)
        self.assertTrue(any("tilt axis" in line for line in lines))

    def test_a_wrong_number_of_angles_is_refused(self) -> None:
        with self.assertRaisesRegex(AlignmentError, "3 tilt angles were given for 5 images"):
            align_series(np.ones((5, 64, 64), np.float32), np.zeros(3), options(0.0))

    def test_a_stack_without_one_good_image_is_refused(self) -> None:
        with self.assertRaisesRegex(AlignmentError, "blank"):
            align_series(np.ones((5, 64, 64), np.float32), np.arange(5.0), options(0.0))

    def test_angles_that_are_not_numbers_are_refused(self) -> None:
        with self.assertRaisesRegex(AlignmentError, "between -85 and 85"):
            align_series(np.ones((2, 64, 64), np.float32), np.array([0.0, np.nan]), options(0.0))


if __name__ == "__main__":
    unittest.main()
