# SPDX-License-Identifier: GPL-3.0-or-later
"""Gold beads: found by what all tilts show of them, erased with what is around them, and told; nothing else is."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import starfile
from numpy.typing import NDArray
from scipy import ndimage

from tomostream.engine import aretomo
from tomostream.engine.gold.candidates import Filter, largest_around
from tomostream.engine.gold.erase import ErasedStack, Erasure, Spot, without_spots
from tomostream.engine.gold.find import Bead, Gold, find_gold
from tomostream.engine.gold.geometry import Geometry
from tomostream.engine.gold.judge import Measured, common_size, like_gold, with_neighbours
from tomostream.engine.gold.kernels import add_along, nearest
from tomostream.engine.gold.points import Point, solved, solved_all
from tomostream.engine.recon.aligned import LocalShifts, Placement
from tomostream.engine.recon.options import TiltUse
from tomostream.engine.recon.stack import TiltStack, open_stack
from tomostream.files.mrc_header import mrc_header
from tomostream.programs.aln import AlnFile, AlnRow, format_aln
from tomostream.programs.quality import parse_quality
from tomostream.simulator.gold import bead_contrast, gold_contrast
from tomostream.simulator.projector import Optics

Array = NDArray[np.float64]
PIXEL, AXIS, COUNTS, SHAPE = 12.0, 84.7, 100.0, (176, 160)
ANGLES = np.arange(-54.0, 55.0, 6.0)


@functools.cache
def blobs() -> tuple[Array, Array]:
    """Places (n, 3) px of dark lumps in a slab 40 px thick, and where every tilt is (n, 2) px."""
    rng = np.random.default_rng(3)
    return (rng.random((600, 3)) - 0.5) * [520.0, 280.0, 40.0], rng.uniform(-6, 6, (len(ANGLES), 2))


def seen(points: Array, tilt: int) -> Array:
    """Where points (n, 3), px, are in the raw image of a tilt: pixel indices (x, y). The definition."""
    t, a, shift = math.radians(ANGLES[tilt]), math.radians(AXIS), blobs()[1][tilt]
    u, v = points[:, 0] * math.cos(t) + points[:, 2] * math.sin(t), points[:, 1]
    x, y = math.cos(a) * u - math.sin(a) * v + shift[0], math.sin(a) * u + math.cos(a) * v + shift[1]
    return np.stack([x + (SHAPE[1] - 1) / 2, y + (SHAPE[0] - 1) / 2], axis=1)


def tilts() -> list[TiltUse]:
    """The alignment of the series."""
    return [TiltUse(k, float(angle), Placement(AXIS, *map(float, blobs()[1][k]))) for k, angle in enumerate(ANGLES)]


@functools.cache
def beads(count: int = 7) -> Array:
    """Centres (n, 3) px of beads apart from each other."""
    rng, out = np.random.default_rng(11), np.zeros((0, 3))
    while len(out) < count:
        new = (rng.random(3) - 0.5) * [110.0, 120.0, 36.0]
        if not len(out) or np.linalg.norm(out - new, axis=1).min() > 20:
            out = np.vstack([out, new])
    return out


@functools.cache
def series(diameter: float = 100.0, crystals: int = 0) -> Array:
    """Counts (n, ny, nx): lumps, beads of some diameter (A; 0: none), and dark crystals of all sizes."""
    rng = np.random.default_rng(5)
    places = (rng.random((crystals, 3)) - 0.5) * [150.0, 130.0, 2.0] + [0.0, 0.0, 20.0]
    sizes, images = rng.uniform(5.0, 24.0, crystals), []
    for tilt in range(len(ANGLES)):
        lumps = np.zeros(SHAPE)
        x, y = np.rint(seen(blobs()[0], tilt)).astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < SHAPE[1]) & (y < SHAPE[0])
        np.add.at(lumps, (y[inside], x[inside]), 1.0)
        mean = COUNTS * np.exp(-6.0 * ndimage.gaussian_filter(lumps, 4.0))
        if diameter:
            mean *= 1 - gold_contrast(SHAPE, [(u, v) for u, v in seen(beads(), tilt)], diameter, PIXEL, Optics(40000.0))
        at_y, at_x = np.mgrid[: SHAPE[0], : SHAPE[1]]
        for (u, v), radius in zip(seen(places, tilt), sizes, strict=True):
            mean *= np.exp(-0.7 * np.exp(-((np.hypot(at_x - u, at_y - v) / radius) ** 4)))
        images.append(rng.poisson(mean))
    return np.stack(images).astype(float)


def stack(images: Array) -> TiltStack:
    return TiltStack("made here", images.astype(np.float32), PIXEL)


class GeometryTest(unittest.TestCase):
    def test_a_point_is_where_the_definition_puts_it(self) -> None:
        geometry = Geometry.of(tilts(), SHAPE)
        for tilt in (0, 9, 17):
            expected = seen(beads(), tilt) - (np.array(SHAPE[::-1]) - 1) / 2
            np.testing.assert_allclose(geometry.place(tilt, beads()), expected, atol=1e-9)

    def test_the_way_back_knows_local_shifts(self) -> None:
        x, y = (grid.ravel() for grid in np.meshgrid([-50.0, 0.0, 50.0], [-50.0, 0.0, 50.0]))
        local = LocalShifts(x, y, 0.02 * x, 1.0 - 0.01 * y)
        geometry = Geometry.of([TiltUse(0, 30.0, Placement(AXIS, 3.0, -2.0, local))], SHAPE)
        expected = np.stack([beads()[:, 0] * math.cos(math.radians(30)) + beads()[:, 2] * math.sin(math.radians(30)),
                             beads()[:, 1]], axis=1)
        np.testing.assert_allclose(geometry.aligned(0, geometry.place(0, beads())), expected, atol=0.05)


class FindingTest(unittest.TestCase):
    def test_all_beads_are_found_where_they_are_and_with_their_diameter(self) -> None:
        for diameter, given in ((100.0, None), (180.0, 200.0)):
            found = find_gold(stack(series(diameter)), tilts(), PIXEL, given)
            self.assertEqual(len(found.beads), len(beads()), diameter)
            places = np.array([bead.position for bead in found.beads])
            distance = np.linalg.norm(places[:, None] - beads()[None], axis=-1)
            self.assertLess(distance.min(axis=0).max(), 0.5)
            self.assertLess(abs(found.diameter_A / diameter - 1), 0.15)
            self.assertLess(found.residual_px, 0.5)
            self.assertGreater(found.radius_px, 0.5 * diameter / PIXEL)

    def test_an_alignment_that_is_off_has_residuals_that_are_off(self) -> None:
        off = [TiltUse(t.section, t.tilt_deg, Placement(AXIS, t.placement.tx + 1.5 * (-1) ** t.section, t.placement.ty))
               for t in tilts()]
        off[9] = TiltUse(9, float(ANGLES[9]), Placement(AXIS, tilts()[9].placement.tx, tilts()[9].placement.ty + 2.5))
        found = find_gold(stack(series()), off, PIXEL, 100.0)
        self.assertGreater(found.residual_px, 1.2)
        self.assertEqual(max(found.offsets_px, key=lambda section: found.offsets_px[section]), 9)
        self.assertLess(max(find_gold(stack(series()), tilts(), PIXEL, 100.0).offsets_px.values()), 0.3)

    def test_where_there_is_no_gold_none_is_found(self) -> None:
        for diameter in (None, 100.0):
            self.assertEqual(find_gold(stack(series(0.0)), tilts(), PIXEL, diameter).beads, ())

    def test_dark_crystals_of_many_sizes_are_no_gold(self) -> None:
        self.assertEqual(find_gold(stack(series(0.0, 14)), tilts(), PIXEL).beads, ())

    def test_values_that_are_no_counts_do_as_well(self) -> None:
        images = series()
        normal = (images - images.mean(axis=(1, 2), keepdims=True)) / images.std(axis=(1, 2), keepdims=True)
        self.assertEqual(len(find_gold(stack(normal), tilts(), PIXEL, 100.0).beads), len(beads()))


class CandidatesTest(unittest.TestCase):
    def test_an_edge_of_carbon_is_no_candidate(self) -> None:
        y, x = np.indices((120, 120))
        image = 1 + 0.02 * np.random.default_rng(1).normal(size=y.shape) - 0.5 * (np.hypot(x - 30, y - 40) < 4) - 0.5 * (y >= 80)
        peaks = Filter(image.shape, 4.0).peaks(image.astype(np.float32))
        np.testing.assert_allclose(peaks.indices, [[30.0, 40.0]], atol=0.2)


class JudgingTest(unittest.TestCase):
    """Points that are measured: which are gold."""

    def point(self, diameter: float = 100.0, fit: float = 0.95, at: float = 0.0, **more: float) -> Measured:
        none = np.arange(0)
        place = Point(np.array([at, 0.0, 0.0]), none, none, none, np.zeros((0, 2)), 0.0)
        return Measured(place, diameter, more.get("depth", 0.6), fit, more.get("uneven", 0.05), np.zeros(4), 10.0, 1.0, True)

    def test_most_of_all_points_must_be_of_one_size(self) -> None:
        beads = [self.point(size) for size in (97.0, 100.0, 104.0)]
        others = [self.point(size) for size in (40.0, 60.0, 150.0, 210.0)]
        self.assertEqual(common_size([*beads, *others[:2]]), 100.0)
        self.assertIsNone(common_size([*beads, *others]))       # 3 of 7: of many sizes some are alike by chance
        self.assertIsNone(common_size(beads[:2]))

    def test_what_does_not_look_like_a_ball_of_its_size_is_no_bead(self) -> None:
        bead = self.point()
        wrong = [self.point(fit=0.8), self.point(uneven=0.3), self.point(depth=0.15), self.point(130.0)]
        self.assertEqual(like_gold([bead, *wrong], 0.2, 100.0), [bead])

    def test_beads_beside_others_are_told_by_their_neighbours_where_there_are_some_beads_anyway(self) -> None:
        beads = [self.point(at=100.0 * place) for place in range(3)]
        beside, alone = self.point(fit=0.75, at=115.0), self.point(fit=0.75, at=170.0)
        every = [*beads, beside, alone]
        self.assertEqual(with_neighbours(beads, every, 0.2, 100.0), [*beads, beside])
        self.assertEqual(with_neighbours(beads[:2], every, 0.2, 100.0), beads[:2])


class SearchTest(unittest.TestCase):
    """The loops of the search do what is written down here slowly."""

    def test_the_nearest_free_peak_within_reach_is_found(self) -> None:
        rng = np.random.default_rng(4)
        peaks, free = rng.random((3, 40, 2)), rng.random((3, 40)) < 0.7
        peaks[2, 30:], free[2, 30:] = np.inf, False     # fewer peaks than the others have
        expected, found = rng.random((25, 3, 2)), np.empty((25, 3), np.int64)
        nearest(peaks, np.argsort(peaks[..., 1], axis=1), free, expected, 0.1, found)
        distance = np.linalg.norm(peaks[None] - expected[:, :, None], axis=-1)
        distance[:, ~free] = np.inf
        best = distance.argmin(axis=-1)
        np.testing.assert_array_equal(found, np.where(distance.min(axis=-1) <= 0.1, best, -1))
        self.assertTrue((found >= 0).any() and (found < 0).any())

    def test_evidence_is_added_where_lines_go_through_the_field(self) -> None:
        rng = np.random.default_rng(5)
        evidence = rng.random((20, 30)).astype(np.float32)
        knots, total, count = rng.uniform(-3, 32, (6, 3, 2)), np.zeros((6, 10)), np.zeros((6, 10), np.int64)
        add_along(evidence, knots, 8, 2.0, total, count)
        for line in range(6):
            for place in range(10):
                x, y = (np.interp(place, [0, 8, 16], knots[line, :, axis]) for axis in (0, 1))
                inside = 2 <= x <= 27 and 2 <= y <= 17
                self.assertEqual(count[line, place], inside)
                self.assertAlmostEqual(total[line, place], float(evidence[round(y), round(x)]) if inside else 0.0)

    def test_many_points_are_solved_as_each_alone_is(self) -> None:
        rng = np.random.default_rng(6)
        angles = np.radians(ANGLES)
        true = rng.normal(scale=50, size=(5, 3))
        across = np.multiply.outer(true[:, 0], np.cos(angles)) + np.multiply.outer(true[:, 2], np.sin(angles))
        seen_at = np.stack([across, np.broadcast_to(true[:, 1:2], across.shape)], axis=-1)
        there = rng.random(across.shape) < 0.8
        positions, residuals = solved_all(np.cos(angles), np.sin(angles), np.where(there[..., None], seen_at, 1e3), there)
        np.testing.assert_allclose(positions, true, atol=1e-4)
        np.testing.assert_allclose(residuals[there], 0, atol=1e-4)
        spoiled = seen_at.copy()
        spoiled[:, 4] += 30.0      # one tilt far off is let go
        positions, _ = solved_all(np.cos(angles), np.sin(angles), spoiled, np.ones(across.shape, bool))
        np.testing.assert_allclose(positions, true, atol=0.5)
        for point in range(5):
            alone = solved(Geometry.of(tilts(), SHAPE), np.arange(len(angles)), spoiled[point])[0]
            np.testing.assert_allclose(alone, positions[point], atol=1e-9)

    def test_the_largest_value_around_is_that_of_a_maximum_filter(self) -> None:
        values = np.random.default_rng(7).random((23, 31)).astype(np.float32)
        for side in (3, 7, 9, 17):
            np.testing.assert_array_equal(largest_around(values, side), ndimage.maximum_filter(values, side))


class ErasingTest(unittest.TestCase):
    def setUp(self) -> None:
        rng = np.random.default_rng(2)
        y, x = np.mgrid[:120, :140]
        self.smooth = 60 + 0.3 * x + 0.1 * y
        noise = ndimage.gaussian_filter(rng.normal(size=x.shape), 1.0)
        self.clean = self.smooth + 9.0 * noise / noise.std()
        self.spot = Spot(71.3, 60.8, 9.0, 0)
        self.inside = np.hypot(x - self.spot.x, y - self.spot.y) < 8.0
        self.outside = np.hypot(x - self.spot.x, y - self.spot.y) > self.spot.outer
        self.image = np.where(self.inside, 5.0, self.clean).astype(np.float32)

    def test_a_bead_is_filled_with_the_level_and_the_noise_around_it(self) -> None:
        filled = np.stack([without_spots(self.image, [self.spot], section) for section in range(20)])
        np.testing.assert_array_equal(filled[:, self.outside], np.tile(self.image[self.outside], (20, 1)))
        rest = (filled - self.smooth)[:, self.inside]
        self.assertLess(abs(rest.mean()), 2.0)
        self.assertLess(abs(rest.std() / 9.0 - 1), 0.15)
        left, right = filled - self.smooth, np.roll(filled - self.smooth, 1, axis=2)
        along = (left * right)[:, self.inside].mean() / rest.var()
        self.assertLess(abs(along - math.exp(-0.25)), 0.12)     # neighbours are as much alike as they are outside

    def test_even_and_odd_are_filled_alike_and_add_up_to_the_whole(self) -> None:
        rng = np.random.default_rng(4)
        images = series()[:3].copy()
        images[1, 30, 40] = 5000.0
        even = rng.binomial(images.astype(int), 0.5).astype(float)
        place = np.zeros((3, 2))
        erasure = Erasure(Gold((Bead((0, 0, 0), 100.0, 3, 0.1, place),), (0, 1, 2), 7.0, None, 100.0), stack(images))
        parts = [ErasedStack.of(stack(part), erasure) for part in (images, even, images - even)]
        for section in range(3):
            whole, first, second = (part.section(section) for part in parts)
            np.testing.assert_allclose(first + second, whole, atol=1e-3)
        self.assertEqual(erasure.hot_count, 1)
        self.assertLess(parts[1].section(1)[30, 40], 100.0)

    def test_beads_at_an_edge_and_side_by_side_are_filled_without_a_fault(self) -> None:
        spots = [Spot(1.0, 2.0, 9.0, 0), Spot(139.5, 60.0, 9.0, 1), Spot(70.0, 60.0, 9.0, 2), Spot(80.0, 60.0, 9.0, 3)]
        for x, y in ((70, 60), (80, 60)):
            self.image[y - 3 : y + 4, x - 3 : x + 4] = 0
        filled = without_spots(self.image, spots, 0)
        self.assertTrue(np.isfinite(filled).all())
        self.assertGreater(filled[55:66, 64:86].min(), 30.0)

    def test_a_bead_does_not_darken_what_another_beside_it_is_filled_with(self) -> None:
        image, spots = np.full(self.image.shape, 60.0, np.float32), [Spot(60.0, 60.0, 9.0, 0), Spot(80.0, 60.0, 9.0, 1)]
        for spot in spots:
            y, x = np.indices(image.shape)
            image[np.hypot(x - spot.x, y - spot.y) < 8.0] = 0.0
        for section in range(5):
            filled = without_spots(image, spots, section)
            self.assertLess(abs(filled - 60.0).max(), 2.0)

    def test_what_is_alike_all_around_does_not_add_up_in_the_noise_of_the_filling(self) -> None:
        """Patches have random signs: without them six times the same arch would stand where a bead was."""
        y, x = np.indices(self.image.shape)
        arched = (60 + 0.02 * ((x - 70.0) ** 2 + (y - 60.0) ** 2)).astype(np.float32)
        filled = np.mean([without_spots(arched, [Spot(70.0, 60.0, 9.0, 0)], section) for section in range(40)], axis=0)
        inside = np.hypot(x - 70.0, y - 60.0) < 8.0
        self.assertLess((filled[inside] - filled[inside].mean()).std(), 0.5 * (arched[inside] - arched[inside].mean()).std())

    def test_an_image_that_is_all_gold_is_left_without_noise_and_without_a_fault(self) -> None:
        spots = [Spot(x, y, 9.0, 0) for x in range(0, 140, 12) for y in range(0, 120, 12)]
        self.assertTrue(np.isfinite(without_spots(self.image, spots, 0)).all())


class SimulatedBeadTest(unittest.TestCase):
    def test_a_bead_in_focus_takes_away_what_its_thickness_absorbs_and_has_a_bright_rim_out_of_focus(self) -> None:
        focus, away = (bead_contrast(100.0, 5.0, Optics(defocus)) for defocus in (0.0, 30000.0))
        self.assertLess(abs(focus[len(focus) // 2, len(focus) // 2] - (1 - math.exp(-100 / 120))), 0.12)
        self.assertLess(away.min(), -0.1)
        self.assertGreater(away.max(), 0.5)


class ProgramTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.source = self.written("TS_1.mrcs", series())
        rows = tuple(AlnRow(k, AXIS, *map(float, blobs()[1][k]), float(angle)) for k, angle in enumerate(ANGLES))
        self.aln = os.path.join(self.folder, "given.aln")
        Path(self.aln).write_text(format_aln(AlnFile(rows, raw_size=(SHAPE[1], SHAPE[0], len(ANGLES)))))

    def written(self, name: str, images: Array) -> str:
        path, data = os.path.join(self.folder, name), images.astype("<f4")
        Path(path).write_bytes(mrc_header(data.shape, PIXEL, (0, 0, 0, 0), "test", False) + data.tobytes())
        return path

    def ran(self, *words: object) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        given = ["-InMrc", self.source, "-OutMrc", os.path.join(self.folder, "v.mrc"), "-AlnFile", self.aln, "-VolZ", 60,
                 "-FlipVol", 1, "-OutBin", 2, *words]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = aretomo.main([str(word) for word in given])
        return status, out.getvalue(), err.getvalue()

    def test_beads_are_gone_from_whole_even_and_odd_and_their_places_are_told(self) -> None:
        status, _, err = self.ran()
        self.assertEqual((status, err), (0, ""))
        before = np.array(open_stack(os.path.join(self.folder, "v.mrc")).data, float)
        even = np.random.default_rng(1).binomial(series().astype(int), 0.5).astype(float)
        halves = ["-InEven", self.written("e.mrcs", even), "-InOdd", self.written("o.mrcs", series() - even)]
        status, out, err = self.ran("-EraseGold", "auto", "-OutErased", 1, *halves)
        self.assertEqual((status, err), (0, ""), out)
        self.assertRegex(out, r"gold: 7 beads of 1\d\.\d nm erased, \d+ nm across; they are 0\.\d\d px \(\d\.\d A\) RMS from")
        whole, first, second, raw = (np.array(open_stack(os.path.join(self.folder, name)).data, float)
                                     for name in ("v.mrc", "v_even.mrc", "v_odd.mrc", "TS_1_erased.mrc"))
        np.testing.assert_allclose(first + second, whole, atol=1e-3 * whole.std())
        table = starfile.read(os.path.join(self.folder, "TS_1_gold.star"))
        self.assertEqual(len(table), len(beads()))
        for row in table.itertuples():
            x, y, z = (round(v) for v in (row.rlnCoordinateX, row.rlnCoordinateY, row.rlnCoordinateZ))
            place = (slice(z - 1, z + 2), slice(y - 1, y + 2), slice(x - 1, x + 2))
            self.assertLess((before - before.mean())[place].min() / before.std(), -6.0)
            self.assertGreater((whole - whole.mean())[place].min() / whole.std(), -5.0)
        centred = table[[f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]].to_numpy() / PIXEL
        self.assertLess(np.linalg.norm(centred[:, None] - beads()[None], axis=-1).min(axis=0).max(), 0.5)
        self.assertEqual(raw.shape, series().shape)
        u, v = np.rint(seen(beads(), 9)).astype(int)[0]
        self.assertGreater(raw[9, v - 2 : v + 3, u - 2 : u + 3].mean(), series()[9, v - 2 : v + 3, u - 2 : u + 3].mean() + 25)
        gold = parse_quality(Path(self.folder, "TS_1_quality.json").read_text()).gold
        self.assertEqual((gold.beads, gold.hot_pixels), (7, 0))
        self.assertLess(gold.residual_px, 0.5)

    def test_the_wiener_tomogram_is_without_gold_also_where_the_tomogram_keeps_it(self) -> None:
        volumes = {}
        for words in ((), ("-EraseGold", "auto"), ("-FlipInt", 1)):
            status, out, err = self.ran("-Wiener", 1, *words)
            self.assertEqual((status, err), (0, ""), out)
            self.assertIn("gold: 7 beads", out)
            volumes[words] = [np.array(open_stack(os.path.join(self.folder, name)).data, float)
                              for name in ("v.mrc", "v_wiener.mrc")]
        (kept, viewed), (erased, clean), (_, inverted) = volumes.values()
        self.assertLess(kept.min() / kept.std(), 2 * erased.min() / erased.std())
        np.testing.assert_allclose(viewed, clean, atol=1e-3 * clean.std())
        np.testing.assert_allclose(inverted, -clean, atol=1e-3 * clean.std())

    def test_where_no_point_is_as_strong_as_gold_none_is_looked_for(self) -> None:
        self.source = self.written("TS_1.mrcs", series(0.0))
        with mock.patch("tomostream.engine.gold.find.find_gold", side_effect=AssertionError):
            status, out, err = self.ran("-Wiener", 1)
        self.assertEqual((status, err), (0, ""), out)

    def test_where_nothing_is_found_the_tomogram_is_as_it_was_and_no_places_are_told(self) -> None:
        self.source = self.written("TS_1.mrcs", series(0.0))
        volumes = []
        for words in ((), ("-EraseGold", "auto")):
            status, out, err = self.ran(*words)
            self.assertEqual((status, err), (0, ""), out)
            volumes.append(np.array(open_stack(os.path.join(self.folder, "v.mrc")).data, float))
        np.testing.assert_array_equal(*volumes)
        self.assertIn("gold: no beads were found", out)
        self.assertNotIn("TS_1_gold.star", os.listdir(self.folder))

    def test_what_cannot_be_a_diameter_is_refused(self) -> None:
        for words, said in ((("-EraseGold", "yes"), "-EraseGold must be no, auto or a diameter from 3 to 40 nm, got yes"),
                            (("-EraseGold", 100), "got 100"), (("-OutErased", 1), "-OutErased 1 goes with -EraseGold")):
            status, _, err = self.ran(*words)
            self.assertEqual(status, 1)
            self.assertIn(said, err)


if __name__ == "__main__":
    unittest.main()
