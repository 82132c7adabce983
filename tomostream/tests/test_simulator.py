# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulator: its truth is checked with formulas and measurements that are not its own."""

from __future__ import annotations

import cmath
import contextlib
import csv
import io
import json
import math
import re
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path
from unittest import mock

import mrcfile
import numpy as np
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tomostream import cli
from tomostream.acquisition.mdoc import read_mdoc
from tomostream.acquisition.movies import check_movie
from tomostream.simulator import Faults, Plan, ReplayScene, SimulatedScene, VirtualClock, Writer, parse_fault, simulate
from tomostream.simulator import movies as movie_files
from tomostream.simulator.ahead import MoviesAhead
from tomostream.simulator.faults import KINDS
from tomostream.simulator.plan import WRITES
from tomostream.simulator.replay import counts_scale, thin
from tomostream.simulator.scene import series_specimen
from tomostream.simulator.schemes import SCHEMES, acquisition_order
from tomostream.simulator.specimen import MARKS, Specimen
from tomostream.simulator.timeline import timeline

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "empiar-10499"
SMALL = Plan(tilts=5, frames=3, size=(64, 72), pixel_size=12.0, drift=2.0, max_shift=4.0)


def faults(*texts: str) -> Faults:
    """The faults of `--fault` texts."""
    return Faults(tuple(parse_fault(text) for text in texts))


def point_specimen(x: float, y: float, z: float):
    """What makes a specimen of one heavy point at x, y, z in A."""

    def make(_plan: Plan, _series: int) -> Specimen:
        return Specimen(np.array([[x, y, z]], np.float32), np.array([2000.0], np.float32), 1000.0)

    return make


def dark_centre(image: np.ndarray) -> complex:
    """Centroid of what is darker than the background, px from the centre of the area: x + iy; row 0 is the lowest."""
    weights = np.maximum(np.median(image) - image, 0)
    weights[weights < 0.02 * weights.max()] = 0
    rows, columns = np.indices(image.shape)
    x = (weights * columns).sum() / weights.sum() - (image.shape[1] - 1) / 2
    y = (weights * rows).sum() / weights.sum() - (image.shape[0] - 1) / 2
    return complex(x, y)


class FolderTest(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.out = Path(folder.name) / "session"

    def acquire(self, plan: Plan, **changes: object) -> SimulatedScene:
        """Simulate in no time into `self.out`."""
        return simulate(replace(plan, **changes), self.out, clock=VirtualClock())

    def truth(self) -> dict:
        return json.loads((self.out / "truth.json").read_text())

    def mdoc(self, name: str = "TS_01.mrc.mdoc") -> str:
        return (self.out / "mdocs" / name).read_text()

    def movie_names(self) -> list[str]:
        return sorted(path.name for path in (self.out / "frames").iterdir())

    def listed(self, name: str = "TS_01.mrc.mdoc") -> list[str]:
        """Movies that an mdoc lists, in its order."""
        return re.findall(r"SubFramePath = D:\\DATA\\frames\\(\S+)", self.mdoc(name))


class AheadTest(unittest.TestCase):
    def test_movies_are_made_ahead_in_their_order_as_far_as_memory_holds_them(self) -> None:
        scene = SimulatedScene(Plan(tilts=3, frames=1, size=(32, 32), pixel_size=20.0))
        ahead = MoviesAhead(scene, range(3))
        with mock.patch("tomostream.simulator.ahead.LIMIT", 1):
            self.assertEqual([ahead.while_waiting(1e9) for _ in range(2)], [True, False])
            ahead.forget(scene.exposures[0])        # it is on disk
            self.assertEqual([ahead.while_waiting(1e9) for _ in range(2)], [True, False])
        self.assertEqual([ahead.while_waiting(1e9) for _ in range(2)], [True, False])       # the third, and there is no more
        with mock.patch.object(scene, "render", side_effect=AssertionError("it was made before")):
            self.assertGreater(len(ahead.get(scene.exposures[1])), 32 * 32)
            self.assertGreater(len(ahead.get(scene.exposures[2])), 32 * 32)


class SchemeTest(unittest.TestCase):
    def test_dose_symmetric_visits_both_sides_in_pairs(self) -> None:
        self.assertEqual(acquisition_order("dose-symmetric", 9, 3), [0, 3, -3, -6, 6, 9, -9, -12, 12])

    def test_bidirectional_goes_up_from_zero_then_down(self) -> None:
        self.assertEqual(acquisition_order("bidirectional", 5, 2), [0, 2, 4, -2, -4])

    def test_unidirectional_rises_from_end_to_end(self) -> None:
        self.assertEqual(acquisition_order("unidirectional", 5, 1.5), [-3, -1.5, 0, 1.5, 3])

    @given(scheme=st.sampled_from(SCHEMES), count=st.integers(1, 121), step=st.sampled_from([0.5, 1.0, 3.0]))
    @settings(deadline=None, max_examples=60)
    def test_every_scheme_visits_every_angle_once(self, scheme: str, count: int, step: float) -> None:
        angles = acquisition_order(scheme, count, step)
        self.assertEqual(sorted(angles), acquisition_order("unidirectional", count, step))
        self.assertEqual(len(set(angles)), count)
        self.assertIn(0.0, angles)

    @unittest.skipUnless(SHARED.exists(), "the real series is not on this machine")
    def test_dose_symmetric_is_the_order_of_a_real_series(self) -> None:
        with open(SHARED / "tilts.csv", newline="") as file:
            rows = sorted(csv.DictReader(file), key=lambda row: int(row["acquisition_order"]))
        real = [round(float(row["tilt_angle_deg"])) for row in rows]
        self.assertEqual(acquisition_order("dose-symmetric", 41, 3), real)


class GeometryTest(unittest.TestCase):
    """A single point of the specimen, found in the images again by its centroid."""

    plan = Plan(tilts=9, frames=3, size=(160, 141), pixel_size=8.0, tilt_step=15.0, tilt_axis=72.0, defocus=None,
                max_shift=9.0, drift=4.0)  # fmt: skip

    def found(self, plan: Plan, x: float, y: float, z: float, frame: int) -> list[tuple[complex, object]]:
        """Where the point lies in a frame of every tilt, with the truth of the tilt."""
        scene = SimulatedScene(plan, point_specimen(x, y, z))
        return [(dark_centre(list(scene.expected(one))[frame]), one.truth) for one in scene.exposures]

    def test_point_lies_where_the_alignment_in_truth_says(self) -> None:
        x, y, z = 180.0, -210.0, 150.0
        for found, truth in self.found(self.plan, x, y, z, frame=1):
            aligned = (found - complex(*truth.shift)) * cmath.exp(-1j * math.radians(self.plan.tilt_axis))
            stretched = x * math.cos(math.radians(truth.angle)) + z * math.sin(math.radians(truth.angle))
            self.assertAlmostEqual(aligned.real, stretched / 8.0, delta=0.03)
            self.assertAlmostEqual(aligned.imag, y / 8.0, delta=0.03)

    def test_positive_axis_leans_counterclockwise_from_the_y_axis(self) -> None:
        for axis in (0.0, 20.0, -35.0, 84.7):
            plan = replace(self.plan, tilt_axis=axis, max_shift=0.0, drift=0.0)
            for found, _ in self.found(plan, 0.0, 200.0, 0.0, frame=0):
                expected = 25.0 * complex(-math.sin(math.radians(axis)), math.cos(math.radians(axis)))
                self.assertLess(abs(found - expected), 0.03)

    def test_gold_beads_are_dark_at_their_recorded_places(self) -> None:
        plan = replace(self.plan, gold=4, gold_diameter=100.0, defocus=3.0, pre_tilt=7.0, drift=0.0)
        empty = Specimen(np.zeros((0, 3), np.float32), np.zeros(0, np.float32), plan.thickness)
        scene = SimulatedScene(plan, lambda _plan, _series: empty)
        gold = scene.about()["gold"]
        points = np.array(gold["places_A"]["TS_01"])
        self.assertEqual((points.shape, gold["diameter_A"]), ((4, 3), 100.0))
        axis, inside = cmath.exp(1j * math.radians(plan.tilt_axis)), 0
        for exposure in scene.exposures[:5]:
            image = next(scene.expected(exposure))
            angle, shift = math.radians(exposure.truth.angle), complex(*exposure.truth.shift)
            for x, y, z in points:
                seen = complex(x * math.cos(angle) + z * math.sin(angle), y) / plan.pixel_size * axis + shift
                column, row = round(seen.real + 79.5), round(seen.imag + 70)
                if not (0 <= column < 160 and 0 <= row < 141):
                    continue
                inside += 1
                self.assertLess(image[row, column], 0.5 * np.median(image))
        self.assertGreater(inside, 12)
        self.assertGreater(next(scene.expected(scene.exposures[0])).max(), 1.1 * np.median(image))     # the rim

    def test_frames_drift_as_truth_says_against_the_first(self) -> None:
        scene = SimulatedScene(self.plan, point_specimen(50.0, 40.0, 0.0))
        for exposure in scene.exposures[:3]:
            places = [dark_centre(frame) for frame in scene.expected(exposure)]
            self.assertEqual(exposure.truth.drift[0], (0.0, 0.0))
            for place, drift in zip(places, exposure.truth.drift, strict=True):
                self.assertLess(abs(place - places[0] - complex(*drift)), 0.03)
            self.assertGreater(abs(complex(*exposure.truth.drift[-1])), 1.0)

    def test_first_exposure_is_centred_and_worst_tilt_has_the_shift_asked_for(self) -> None:
        shifts = [complex(*one.truth.shift) for one in SimulatedScene(self.plan).exposures]
        self.assertEqual(shifts[0], 0)
        self.assertAlmostEqual(max(map(abs, shifts)), 9.0, places=3)


class PictureTest(unittest.TestCase):
    plan = Plan(tilts=7, frames=4, size=(192, 192), pixel_size=14.0, tilt_step=17.0, drift=6.0, defocus=None, seed=5)

    def test_frames_moved_back_by_the_drift_are_sharper(self) -> None:
        scene = SimulatedScene(self.plan)
        exposure = scene.exposures[0]
        frames = scene.render(exposure).astype(float)
        ky, kx = np.fft.fftfreq(192)[:, None], np.fft.fftfreq(192)[None]
        back = [np.exp(2j * np.pi * (kx * x + ky * y)) for x, y in exposure.truth.drift]
        aligned = sum(np.fft.fft2(frame) * phase for frame, phase in zip(frames, back, strict=True))
        blurred = np.fft.fft2(frames.sum(axis=0))
        ring = (np.hypot(kx, ky) > 0.08) & (np.hypot(kx, ky) < 0.2)
        self.assertGreater((abs(aligned[ring]) ** 2).mean(), 1.1 * (abs(blurred[ring]) ** 2).mean())

    def test_marks_lie_on_their_own_side_and_not_on_the_mirrored_one(self) -> None:
        scene = SimulatedScene(self.plan)
        images = [(list(scene.expected(one))[self.plan.frames // 2], one.truth) for one in scene.exposures]
        for start, end in MARKS.values():
            axis = np.linspace(start, end, 12)
            self.assertLess(self.brightness(images, axis), self.brightness(images, -axis))

    def brightness(self, images: list, points: np.ndarray) -> float:
        """Mean counts, against those of the image, where the points (n, 3) in A fall in all images."""
        turn = cmath.exp(1j * math.radians(self.plan.tilt_axis))
        levels = []
        for image, truth in images:
            t = math.radians(truth.angle)
            for x, y, z in points / self.plan.pixel_size:
                place = complex(x * math.cos(t) + z * math.sin(t), y) * turn + complex(*truth.shift)
                column, row = round(place.real + 95.5), round(place.imag + 95.5)
                if 5 < column < 186 and 5 < row < 186:
                    levels.append(image[row - 5 : row + 6, column - 5 : column + 6].mean() / image.mean())
        return float(np.mean(levels))

    def test_counts_are_those_of_the_dose_behind_a_slab_that_thickens_with_tilt(self) -> None:
        scene = SimulatedScene(self.plan)
        for exposure in scene.exposures[:4]:
            path = 1300.0 / 3100.0 / math.cos(math.radians(exposure.truth.angle))
            counts = scene.render(exposure).sum(axis=0)
            self.assertAlmostEqual(counts.mean() / (3.0 * 14.0**2 * 0.6 * math.exp(-path)), 1.0, delta=0.02)

    def test_counting_noise_is_that_of_electrons(self) -> None:
        plan = replace(self.plan, tilts=1)
        scene = SimulatedScene(plan, point_specimen(1e6, 0.0, 0.0))  # nothing within the field
        frames = scene.render(scene.exposures[0]).astype(float)
        self.assertAlmostEqual(frames.var() / frames.mean(), 1.0, delta=0.03)

    def test_specimen_fills_the_field_at_the_highest_tilt(self) -> None:
        specimen = series_specimen(self.plan, 0)
        steepest = math.radians(51.0)
        x = specimen.points[:, 0] * math.cos(steepest) + specimen.points[:, 2] * math.sin(steepest)
        self.assertGreater(x.max(), 96 * 14.0)
        self.assertLess(x.min(), -96 * 14.0)
        self.assertLess(abs(specimen.points[:, 2]).max(), 0.5 * 1300 + 60)

    def test_an_image_at_a_defocus_shows_protein_dark(self) -> None:
        plan = replace(self.plan, defocus=4.0, tilts=1, drift=0.0)
        scene = SimulatedScene(plan, point_specimen(0.0, 0.0, 0.0))
        frame = next(scene.expected(scene.exposures[0]))
        self.assertLess(frame[94:98, 94:98].mean(), frame.mean())


class MovieFileTest(unittest.TestCase):
    frames = np.random.default_rng(3).poisson(40, (3, 40, 52))

    def test_tiff_shows_the_same_picture_as_mrc_with_its_rows_from_the_top(self) -> None:
        tiff = tifffile.imread(io.BytesIO(movie_files.encode(self.frames, 2.5, "tif")))
        self.assertEqual(tiff.dtype, np.uint8)
        np.testing.assert_array_equal(tiff[:, ::-1], self.frames)

    def test_tiff_has_a_page_a_frame_in_compressed_strips_and_its_pixel_size(self) -> None:
        with tifffile.TiffFile(io.BytesIO(movie_files.encode(self.frames, 2.5, "tif"))) as file:
            self.assertEqual(len(file.pages), 3)
            page = file.pages[0]
            self.assertEqual((page.compression, page.rowsperstrip), (tifffile.COMPRESSION.LZW, 32))
            numerator, denominator = page.tags["XResolution"].value
            self.assertAlmostEqual(1e8 * denominator / numerator, 2.5)

    def test_many_counts_are_kept_in_sixteen_bits(self) -> None:
        tiff = tifffile.imread(io.BytesIO(movie_files.encode(self.frames * 50, 2.5, "tif")))
        np.testing.assert_array_equal(tiff[:, ::-1], self.frames * 50)

    def test_mrc_is_valid_and_has_its_pixel_size(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "movie.mrc"
            path.write_bytes(movie_files.encode(self.frames, 2.5, "mrc"))
            with contextlib.redirect_stdout(io.StringIO()), mrcfile.open(path) as file:
                np.testing.assert_array_equal(file.data, self.frames)
                self.assertAlmostEqual(float(file.voxel_size.x), 2.5, places=5)


class TruthTest(FolderTest):
    def test_truth_has_the_agreed_keys_and_no_others(self) -> None:
        self.acquire(SMALL, series=2)
        truth = self.truth()
        self.assertEqual(set(truth), {"pixel_size_A", "series"})
        self.assertEqual([set(series) for series in truth["series"]], [{"id", "tilt_axis_deg", "tilts"}] * 2)
        tilt = truth["series"][1]["tilts"][4]
        self.assertEqual(set(tilt), {"movie", "angle_deg", "acquisition_order", "shift_px", "drift_px", "dose_e_per_A2",
                                     "prior_dose_e_per_A2"})  # fmt: skip
        self.assertEqual((len(tilt["shift_px"]), np.shape(tilt["drift_px"])), (2, (3, 2)))
        self.assertEqual((tilt["acquisition_order"], tilt["prior_dose_e_per_A2"]), (5, 12.0))

    def test_truth_is_there_before_the_first_movie(self) -> None:
        writer = Writer(SimulatedScene(SMALL), self.out, clock=VirtualClock())
        writer.prepare()
        self.assertEqual((self.movie_names(), len(self.truth()["series"])), ([], 1))

    def test_every_movie_of_truth_is_written_and_listed(self) -> None:
        self.acquire(SMALL, series=2)
        truth = self.truth()["series"]
        names = [[tilt["movie"] for tilt in series["tilts"]] for series in truth]
        self.assertEqual(sorted(names[0] + names[1]), self.movie_names())
        self.assertEqual(names, [self.listed("TS_01.mrc.mdoc"), self.listed("TS_02.mrc.mdoc")])

    def test_the_same_seed_gives_the_same_movies_and_another_one_others(self) -> None:
        bytes_of = []
        for number, seed in enumerate((1, 1, 2)):
            out = self.out / str(number)
            simulate(replace(SMALL, seed=seed), out, clock=VirtualClock())
            bytes_of.append((out / "frames" / "TS_01_002_3.0.tif").read_bytes())
        self.assertEqual(bytes_of[0], bytes_of[1])
        self.assertNotEqual(bytes_of[1], bytes_of[2])

    def test_a_folder_with_an_acquisition_is_not_written_over(self) -> None:
        self.acquire(SMALL)
        with self.assertRaisesRegex(ValueError, "already holds an acquisition"):
            self.acquire(SMALL)


class WritingTest(FolderTest):
    def writer(self, **changes: object) -> Writer:
        writer = Writer(SimulatedScene(replace(SMALL, **changes)), self.out, clock=VirtualClock())
        writer.prepare()
        return writer

    def test_a_movie_is_complete_before_its_section_is_begun(self) -> None:
        for number, write in enumerate(("atomic", "slow")):
            self.out = self.out / str(number)
            writer = self.writer(write=write, interval=2.0)
            while not writer.finished:
                writer.step()
                for path in (self.out / "mdocs").iterdir():
                    for name in re.findall(r"frames\\(\S+\.tif)", path.read_text()):
                        self.assertEqual(len(tifffile.imread(self.out / "frames" / name)), 3)

    def test_an_mdoc_only_ever_grows(self) -> None:
        writer, before = self.writer(write="slow", interval=2.0), b""
        while not writer.finished:
            writer.step()
            now = b"".join(path.read_bytes() for path in (self.out / "mdocs").iterdir())
            self.assertTrue(now.startswith(before))
            before = now

    def test_whole_writes_show_complete_movies_only(self) -> None:
        writer, seen = self.writer(), 0
        while not writer.finished:
            writer.step()
            for path in (self.out / "frames").iterdir():
                seen += len(tifffile.imread(path))
        self.assertGreater(seen, 0)

    def test_slow_writes_grow_movies_and_sections_in_place(self) -> None:
        writer = self.writer(write="slow", interval=8.0)
        sizes, halves = [], 0
        while not writer.finished:
            action = writer.step()
            if action.kind in ("piece", "movie") and action.exposure is not None and action.exposure.slot == 0:
                sizes.append((self.out / "frames" / action.exposure.truth.movie).stat().st_size)
            halves += action.kind == "half-section" and not self.mdoc().endswith("\n\n")
        self.assertEqual(len(set(sizes)), 8)
        self.assertEqual(sizes, sorted(sizes))
        self.assertEqual(halves, 5)

    def test_writes_by_frames_show_a_valid_shorter_movie_at_every_moment(self) -> None:
        writer, counts = self.writer(write="frames", interval=9.0), []
        while not writer.finished:
            action = writer.step()
            if action.kind in ("piece", "movie") and action.exposure is not None:
                path = self.out / "frames" / action.exposure.truth.movie
                self.assertEqual(check_movie(path).state, "complete")
                counts.append(check_movie(path).frames)
        self.assertEqual(counts, [1, 2, 3] * 5)
        frames = writer.scene.render(writer.scene.exposures[4])
        np.testing.assert_array_equal(tifffile.imread(path)[:, ::-1], frames)

    def test_exposures_follow_at_the_interval_after_the_delay(self) -> None:
        scene = SimulatedScene(replace(SMALL, interval=20.0, start_delay=7.0))
        times = [action.time for action in timeline(scene.plan, scene.exposures, None) if action.kind == "movie"]
        self.assertEqual(times, [7.0, 27.0, 47.0, 67.0, 87.0])

    def test_run_until_writes_what_is_due_and_no_more(self) -> None:
        writer = self.writer(interval=10.0)
        writer.run_until(25.0)
        self.assertEqual(self.movie_names(), ["TS_01_001_0.0.tif", "TS_01_002_3.0.tif", "TS_01_003_-3.0.tif"])

    def test_interleaved_series_take_turns_and_others_do_not(self) -> None:
        for interleave, expected in ((True, [0, 1, 0, 1, 0, 1]), (False, [0, 0, 0, 1, 1, 1])):
            scene = SimulatedScene(replace(SMALL, series=2, tilts=3, interleave=interleave))
            self.assertEqual([exposure.series for exposure in scene.exposures], expected)

    def test_rewritten_mdocs_end_as_appended_ones(self) -> None:
        self.acquire(SMALL)
        appended, self.out = self.mdoc(), self.out / "again"
        self.acquire(SMALL, rewrite=True)
        same = [re.sub(r"\d\d-[A-Z].*|TimeStamp.*", "", text) for text in (appended, self.mdoc())]
        self.assertEqual(same[0], same[1])

    def test_nothing_but_the_agreed_files_remains(self) -> None:
        self.acquire(SMALL)
        names = {path.name for path in self.out.iterdir()}
        self.assertEqual(names, {"frames", "mdocs", "truth.json", "specimen.json", "acquisition.csv"})


class MdocTest(FolderTest):
    def test_sections_hold_what_truth_says(self) -> None:
        self.acquire(SMALL, tilt_axis=-3.2, interval=25.0)
        text = self.mdoc()
        self.assertIn("[T =     Tilt axis angle = -3.2, binning = 1  spot = 8  camera = 0]", text)
        self.assertEqual(text.count("RotationAngle = 86.8"), 5)
        self.assertIn("Voltage = 300", text)
        for key, name in (("TiltAngle", "angle_deg"), ("PriorRecordDose", "prior_dose_e_per_A2"),
                          ("ExposureDose", "dose_e_per_A2")):  # fmt: skip
            values = [float(value) for value in re.findall(rf"^{key} = (\S+)", text, re.M)]
            self.assertEqual(values, [tilt[name] for tilt in self.truth()["series"][0]["tilts"]])
        stamps = [int(value) for value in re.findall(r"TimeStamp = (\d+)", text)]
        self.assertEqual(np.diff(stamps).tolist(), [25] * 4)

    def test_the_reader_of_mdocs_finds_what_truth_says(self) -> None:
        for number, changes in enumerate(({}, {"scheme": "bidirectional", "half1": True}, {"tilt_axis": 0.0})):
            self.out = self.out / str(number)
            self.acquire(SMALL, **changes)
            facts, truth = read_mdoc(self.out / "mdocs" / "TS_01.mrc.mdoc"), self.truth()
            self.assertEqual((facts.kind, facts.series_name, facts.warnings), ("tilt-series", "TS_01", ()))
            found = (facts.tilt_axis.value, facts.movie_pixel_size.value, facts.voltage.value)
            self.assertEqual(found, (truth["series"][0]["tilt_axis_deg"], 12.0, 300.0))
            tilts = [(one.movie, one.angle, one.order, one.dose.value, one.prior_dose.value) for one in facts.tilts]
            self.assertEqual(tilts, [
                tuple(tilt[key] for key in ("movie", "angle_deg", "acquisition_order", "dose_e_per_A2",
                                            "prior_dose_e_per_A2"))
                for tilt in truth["series"][0]["tilts"]])  # fmt: skip

    def test_lines_end_as_on_windows(self) -> None:
        self.acquire(SMALL)
        data = (self.out / "mdocs" / "TS_01.mrc.mdoc").read_bytes()
        self.assertEqual(data.count(b"\n"), data.count(b"\r\n"))

    def test_angles_are_those_of_truth_to_the_last_digit_at_high_tilt_too(self) -> None:
        self.acquire(SMALL, tilt_step=29.0)
        angles = [float(value) for value in re.findall(r"TiltAngle = (\S+)", self.mdoc())]
        self.assertEqual(angles, [tilt["angle_deg"] for tilt in self.truth()["series"][0]["tilts"]])

    def test_an_axis_of_zero_is_written_as_zero(self) -> None:
        self.acquire(SMALL, tilt_axis=0.0)
        self.assertIn("Tilt axis angle = 0.0,", self.mdoc())
        self.assertIn("RotationAngle = 90", self.mdoc())

    def test_the_axis_of_the_mdoc_can_be_wrong_by_a_known_error(self) -> None:
        self.acquire(SMALL, tilt_axis=84.0, axis_error=-1.5)
        self.assertIn("Tilt axis angle = 82.5,", self.mdoc())
        self.assertEqual(self.truth()["series"][0]["tilt_axis_deg"], 84.0)

    def test_the_first_half_of_a_bidirectional_series_is_renamed_and_refilled_in_reverse(self) -> None:
        self.acquire(SMALL, scheme="bidirectional", half1=True)
        names = [[name.split("_")[-1] for name in self.listed(file)] for file in
                 ("TS_01.mrc-half1.mdoc", "TS_01.mrc.mdoc")]  # fmt: skip
        self.assertEqual(names[0], ["0.0.tif", "3.0.tif", "6.0.tif"])
        self.assertEqual(names[1], ["6.0.tif", "3.0.tif", "0.0.tif", "-3.0.tif", "-6.0.tif"])
        self.assertEqual(re.findall(r"ZValue = (\d)", self.mdoc()), list("01234"))


class FaultTest(FolderTest):
    def test_a_missing_movie_is_listed_and_never_written(self) -> None:
        self.acquire(SMALL, faults=faults("missing:1:2"))
        self.assertEqual(set(self.listed()) - set(self.movie_names()), {"TS_01_002_3.0.tif"})

    def test_a_truncated_movie_ends_at_half_its_bytes(self) -> None:
        self.acquire(SMALL)
        whole = (self.out / "frames" / "TS_01_003_-3.0.tif").read_bytes()
        self.out = self.out / "again"
        self.acquire(SMALL, faults=faults("truncated:1:3"))
        cut = (self.out / "frames" / "TS_01_003_-3.0.tif").read_bytes()
        self.assertEqual(cut, whole[: round(len(whole) / 2)])
        self.assertEqual(check_movie(self.out / "frames" / "TS_01_003_-3.0.tif").state, "growing")

    def test_a_late_movie_comes_after_its_section(self) -> None:
        scene = SimulatedScene(replace(SMALL, interval=10.0, faults=faults("late:1:2:95")))
        times = {action.kind: action.time for action in timeline(scene.plan, scene.exposures, None)
                 if action.exposure is not None and action.exposure.tilt == 1}  # fmt: skip
        self.assertEqual(times, {"movie": 105.0, "section": 10.0})

    def test_a_stuck_movie_stops_half_way_and_is_completed(self) -> None:
        writer = Writer(SimulatedScene(replace(SMALL, interval=10.0, faults=faults("stuck:1:2:25"))), self.out,
                        clock=VirtualClock())  # fmt: skip
        writer.prepare()
        writer.run_until(34.0)
        path = self.out / "frames" / "TS_01_002_3.0.tif"
        half = path.stat().st_size
        writer.run_until(35.0)
        self.assertAlmostEqual(path.stat().st_size / half, 2.0, delta=0.01)
        self.assertEqual(len(tifffile.imread(path)), 3)

    def test_a_dark_tilt_has_next_to_no_counts(self) -> None:
        self.acquire(SMALL, faults=faults("dark:1:2"))
        means = [tifffile.imread(self.out / "frames" / name).mean() for name in self.listed()]
        self.assertLess(means[1], 0.05 * means[0])

    def test_a_repeated_exposure_replaces_its_section_and_leaves_its_movie(self) -> None:
        self.acquire(SMALL, faults=faults("reacquired:1:3"))
        self.assertEqual(self.listed()[2:4], ["TS_01_004_-3.0.tif", "TS_01_005_-6.0.tif"])
        self.assertEqual(set(self.movie_names()) - set(self.listed()), {"TS_01_003_-3.0.tif"})
        tilts = self.truth()["series"][0]["tilts"]
        self.assertEqual([tilt["movie"] for tilt in tilts], self.listed())
        self.assertEqual([tilt["acquisition_order"] for tilt in tilts], [1, 2, 3, 4, 5])
        self.assertEqual([tilt["prior_dose_e_per_A2"] for tilt in tilts], [0, 3, 9, 12, 15])
        self.assertEqual(re.findall(r"ZValue = (\d)", self.mdoc()), list("01234"))

    def test_an_extra_section_names_a_movie_that_never_existed(self) -> None:
        self.acquire(SMALL, faults=faults("extra-section:1"))
        self.assertEqual(len(self.listed()), 6)
        self.assertNotIn(self.listed()[-1], self.movie_names())
        self.assertEqual(len(self.truth()["series"][0]["tilts"]), 5)

    def test_an_mdoc_without_an_axis_gives_it_nowhere(self) -> None:
        self.acquire(SMALL, faults=faults("no-axis:1"))
        self.assertNotRegex(self.mdoc(), "axis|RotationAngle")

    def test_spoiled_mdocs_take_the_place_of_those_of_a_series_or_lie_beside(self) -> None:
        self.acquire(SMALL, series=3, faults=faults("garbage-mdoc:1", "empty-mdoc:2", "garbage-mdoc", "empty-mdoc"))
        folder = self.out / "mdocs"
        self.assertNotIn(b"ZValue", (folder / "TS_01.mrc.mdoc").read_bytes())
        self.assertEqual((folder / "TS_02.mrc.mdoc").read_bytes(), b"")
        self.assertEqual(len(self.listed("TS_03.mrc.mdoc")), 5)
        self.assertTrue((folder / "garbage.mdoc").stat().st_size and not (folder / "empty.mdoc").stat().st_size)

    def test_maps_lie_beside_the_series(self) -> None:
        self.acquire(SMALL, faults=faults("map"))
        self.assertNotIn("SubFramePath", self.mdoc("map.mrc.mdoc"))
        self.assertIn("Montage = 1", self.mdoc("LMM.mrc.mdoc"))

    @given(kinds=st.lists(st.sampled_from(["missing", "truncated", "late", "stuck", "dark", "reacquired"]), max_size=5),
           series=st.integers(1, 2), scheme=st.sampled_from(SCHEMES), write=st.sampled_from(WRITES),
           interleave=st.booleans(), data=st.data())  # fmt: skip
    @settings(deadline=None, max_examples=25)
    def test_whatever_goes_wrong_every_movie_can_be_accounted_for(
        self, kinds: list[str], series: int, scheme: str, write: str, interleave: bool, data: st.DataObject
    ) -> None:
        wrong = faults(*(f"{one}:{data.draw(st.integers(1, series))}:{data.draw(st.integers(1, 4))}" for one in kinds))
        with tempfile.TemporaryDirectory() as folder:
            self.out = Path(folder)
            self.acquire(Plan(series=series, tilts=4, frames=2, size=(32, 36), pixel_size=20.0, scheme=scheme, seed=1,
                              write=write, interleave=interleave, interval=3.0, faults=wrong))  # fmt: skip
            truth = [[tilt["movie"] for tilt in one["tilts"]] for one in self.truth()["series"]]
            self.assertEqual([self.listed(f"TS_{number + 1:02d}.mrc.mdoc") for number in range(series)], truth)
            missing = {truth[one.series - 1][one.tilt - 1] for one in wrong.faults if one.kind == "missing"}
            cut = {truth[one.series - 1][one.tilt - 1] for one in wrong.faults if one.kind == "truncated"} - missing
            repeats = {(one.series, one.tilt) for one in wrong.faults if one.kind == "reacquired"}
            self.assertEqual(len(self.movie_names()), series * 4 - len(missing) + len(repeats))
            whole = {name for name in self.movie_names()
                     if check_movie(self.out / "frames" / name).state == "complete"
                     and check_movie(self.out / "frames" / name).frames == 2}  # fmt: skip
            self.assertEqual(set(self.movie_names()) - whole, cut)
            self.assertEqual({name for names in truth for name in names} - set(self.movie_names()), missing)

    def test_a_fault_that_is_not_understood_is_answered_with_its_form(self) -> None:
        for text, words in (("bla", "There is no fault 'bla': choose one of missing"), ("missing:1", "missing:S:T"),
                            ("late:1:2:soon", "late:S:T"), ("map:1", "map - "), ("dark:1:-2", "dark:S:T")):  # fmt: skip
            with self.assertRaisesRegex(ValueError, re.escape(words)):
                parse_fault(text)

    def test_a_fault_of_a_tilt_that_does_not_exist_is_refused(self) -> None:
        for text, words in (("missing:2:1", "names series 2; there are 1"), ("dark:1:6", "names tilt 6; there are 5")):
            with self.assertRaisesRegex(ValueError, words):
                replace(SMALL, faults=faults(text)).check()


class ReplayTest(FolderTest):
    def setUp(self) -> None:
        super().setUp()
        self.out.mkdir()
        self.rng = np.random.default_rng(8)
        self.counts = self.rng.poisson(50, (5, 48, 60))
        self.stack, self.table = self.out / "S1.mrc", self.out / "tilts.csv"
        with mrcfile.new(self.stack) as file:
            file.set_data((self.counts * 0.4).astype(np.float32))
            file.voxel_size = 10.0
        rows = ["0,-6.01,9,4", "1,-3.00,6,3", "2,0.01,0,1", "3,3.00,3,2", "4,6.02,12,5"]
        header = "section,tilt_angle_deg,prior_dose_e_per_A2,acquisition_order"
        self.table.write_text("\n".join([header, *rows]) + "\n")

    def scene(self, **changes: object) -> ReplayScene:
        return ReplayScene(replace(Plan(frames=4, tilt_axis=-5.0, drift=3.0), **changes), self.stack, self.table)

    @given(frames=st.integers(1, 12), seed=st.integers(0, 99))
    @settings(deadline=None, max_examples=20)
    def test_thinned_frames_sum_to_the_image_exactly(self, frames: int, seed: int) -> None:
        image = np.random.default_rng(seed).poisson(9, (12, 14))
        parts = thin(np.random.default_rng(seed + 1), image, frames)
        self.assertEqual(parts.shape, (frames, 12, 14))
        self.assertTrue((parts >= 0).all())
        np.testing.assert_array_equal(parts.sum(axis=0), image)

    def test_thinned_frames_of_a_poisson_image_are_independent(self) -> None:
        first, second = thin(self.rng, self.rng.poisson(40, (200, 200)), 2)
        self.assertLess(abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]), 0.03)

    def test_thinned_frames_get_the_same_share(self) -> None:
        sums = thin(self.rng, np.full((200, 200), 30), 5).sum(axis=(1, 2))
        np.testing.assert_allclose(sums / sums.mean(), 1.0, atol=0.01)

    def test_the_scale_to_counts_is_found_from_the_noise(self) -> None:
        self.assertAlmostEqual(counts_scale(self.counts * 0.4), 2.5, delta=0.1)

    def test_frames_moved_back_by_the_drift_sum_to_the_image(self) -> None:
        scene = self.scene()
        for exposure in scene.exposures:
            frames = scene.render(exposure)
            back = [np.roll(frame, (-round(scene_y), -round(scene_x)), axis=(0, 1)) for frame, (scene_x, scene_y) in
                    zip(frames, map(exposure.truth.frame_displacement, range(4)), strict=True)]  # fmt: skip
            np.testing.assert_array_equal(np.sum(back, axis=0), scene.counts(exposure))
        self.assertTrue(any(one.truth.drift[-1] != (0.0, 0.0) for one in scene.exposures))

    def test_tilts_come_in_acquisition_order_with_the_doses_of_the_table(self) -> None:
        writer = Writer(self.scene(), self.out / "session", clock=VirtualClock())
        writer.run()
        self.out = self.out / "session"
        truth = self.truth()
        tilts = truth["series"][0]["tilts"]
        self.assertEqual((truth["pixel_size_A"], truth["series"][0]["id"]), (10.0, "S1"))
        self.assertEqual([tilt["angle_deg"] for tilt in tilts], [0.01, 3.0, -3.0, -6.01, 6.02])
        self.assertEqual([tilt["prior_dose_e_per_A2"] for tilt in tilts], [0, 3, 6, 9, 12])
        self.assertEqual({tilt["dose_e_per_A2"] for tilt in tilts}, {3.0})
        self.assertEqual(self.listed("S1.mrc.mdoc"), self.movie_names())
        self.assertIn("Tilt axis angle = -5.0,", self.mdoc("S1.mrc.mdoc"))

    def test_what_is_not_known_of_a_real_series_is_null(self) -> None:
        series = self.scene().truth()[0]
        self.assertIsNone(series.tilt_axis)
        self.assertEqual({tilt.shift for tilt in series.tilts}, {None})

    def test_bad_input_gets_a_sentence(self) -> None:
        self.table.write_text("section,angle\n0,3\n")
        with self.assertRaisesRegex(ValueError, "expected a header section,tilt_angle_deg"):
            self.scene()
        self.table.write_text("section,tilt_angle_deg,prior_dose_e_per_A2,acquisition_order\n9,0,0,1\n")
        with self.assertRaisesRegex(ValueError, "names section 9; .* has 5"):
            self.scene()
        self.stack.write_bytes(b"no stack")
        with self.assertRaisesRegex(ValueError, r"The stack .*S1.mrc cannot be read"):
            self.scene()

    @unittest.skipUnless(SHARED.exists(), "the real series is not on this machine")
    def test_the_real_series_becomes_41_movies_of_its_own_counts(self) -> None:
        scene = ReplayScene(Plan(frames=3), SHARED / "TS_00254.mrc", SHARED / "tilts.csv")
        self.assertEqual((scene.ids, len(scene.exposures), scene.plan.size), (["TS_00254"], 41, (652, 630)))
        self.assertEqual(scene.plan.dose, 3.0)
        first = scene.exposures[0]
        self.assertEqual(scene.render(first).sum(), scene.counts(first).sum())


class CommandTest(FolderTest):
    def call(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, output and errors of `tomostream simulate`."""
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            status = cli.main(["simulate", *arguments])
        return status, out.getvalue(), err.getvalue()

    def test_the_command_writes_the_acquisition_that_was_asked_for(self) -> None:
        status, out, _ = self.call(str(self.out), "--series", "2", "--tilts", "3", "--max-tilt", "50", "--frames", "2",
                                   "--size", "64", "48", "--pixel-size", "12", "--format", "mrc")  # fmt: skip
        self.assertEqual(status, 0)
        self.assertIn("6 exposures of 2 series", out)
        with mrcfile.open(self.out / "frames" / "TS_02_003_-50.0.mrc") as file:
            self.assertEqual(file.data.shape, (2, 48, 64))

    def test_wrong_arguments_get_one_sentence_and_status_2(self) -> None:
        for arguments, words in (
            (["--fault", "bla"], "There is no fault 'bla'"),
            (["--tilts", "many"], "this is the number of tilts"),
            (["--tilts", "101"], "reach 150 degrees"),
            (["--dose", "0"], "The dose must be above 0"),
            (["--size", "1", "2", "3"], "--size takes one number or two"),
            (["--half1"], "bidirectional"),
            (["--seed", "-1"], "The seed cannot be below 0"),
            (["--tilt-axis", "nan"], "The tilt axis must be a number"),
            (["--replay", "nowhere.mrc"], "--tilts CSV"),
            (["--replay", "nowhere.mrc", "--tilts", "t.csv", "--gold", "3"], "leave --gold out"),
            (["--gold", "-3"], "gold beads cannot be below 0"),
            (["--replay", "nowhere.mrc", "--tilts", "t.csv", "--series", "2"], "one series"),
        ):
            status, _, err = self.call(str(self.out), *arguments)
            self.assertEqual((status, err.count("\n")), (2, 1))
            self.assertIn(words, err)
        self.assertFalse(self.out.exists())

    def test_a_folder_that_cannot_be_made_gets_one_sentence(self) -> None:
        self.out.write_text("a file")
        status, _, err = self.call(str(self.out), "--tilts", "1", "--size", "48")
        self.assertEqual((status, err.count("\n")), (2, 1))
        self.assertIn("is a file, not a folder", err)

    def test_every_fault_is_explained_in_the_help(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as out, self.assertRaises(SystemExit):
            cli.main(["simulate", "--help"])
        for kind in KINDS.values():
            self.assertIn(kind.text, out.getvalue())


if __name__ == "__main__":
    unittest.main()
