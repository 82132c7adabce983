# SPDX-License-Identifier: GPL-3.0-or-later
"""The live page: its data, its pictures, what it costs, and what happens when something goes wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import tempfile
import threading
import unittest
from contextlib import redirect_stderr, redirect_stdout, suppress
from unittest import mock

import mrcfile
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tomostream.cli import main as command
from tomostream.cli import report
from tomostream.files.grey import grey_range, shrink, to_bytes
from tomostream.files.writing import write_text
from tomostream.journal import entries, versions
from tomostream.journal.status import ARETOMO, COMPOSE, IMPORT, MOTIONCOR
from tomostream.report import background, follow, notify, pictures, tables, writer
from tomostream.report.facts import SeriesFacts, from_json, to_json
from tomostream.report.folders import safe_name
from tomostream.report.follow import Follower
from tomostream.report.painting import filtered_of
from tomostream.report.writer import ReportWriter
from tomostream.tests.made_project import MadeProject, write_mrc

HOSTILE = "</script><img src=x onerror=alert(1)>'\"&"


class WithProject(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.project = MadeProject(os.path.join(folder.name, "proj"))
        self.states = {}

    def writer(self, **options) -> ReportWriter:
        made = ReportWriter(self.project.path, states=lambda folders: self.states if folders else {},
                            clock=lambda: self.project.time, **options)
        self.addCleanup(made.close)
        return made

    def path(self, *parts: str) -> str:
        return os.path.join(self.project.path, "report", *parts)

    def read(self, *parts: str):
        with open(self.path(*parts), encoding="utf-8") as file:
            text = file.read()
        return json.loads(text) if parts[-1].endswith(".json") else tables.unscript(text)[-1]

    def rows(self) -> list[dict]:
        with open(self.path("metrics.csv"), encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


class TestWhatIsWritten(WithProject):
    def test_a_finished_series_has_its_figures_in_the_table_and_on_its_page(self):
        self.project.whole("TS_01")
        self.writer().finish()
        row, = self.rows()
        expected = {"series_id": "TS_01", "state": "done", "tilts_used": "5", "tilts_expected": "5", "dose_e_A2": "15.0",
                    "tilt_axis_deg": "85.0", "tilt_offset_deg": "1.5", "thickness_A": "1500.0", "quality": "0.9",
                    "worst_tilt_deg": "-40.0", "worst_sigma_px": "0.5", "defocus_min_um": "3.0", "max_residual_px": "0.2",
                    "target_defocus_um": "3.5", "max_drift_px": "2.0",
                    "latency_s": "32.0", "pixel_size_A": "4.0", "alarms": "", "version": "1"}
        self.assertEqual({name: row[name] for name in expected}, expected)
        self.assertEqual(row["last_movie"], "2027-01-15T08:04:59Z")
        page = self.read("series", "TS_01", "data.js")
        tilt = page["facts"]["tilts"][0]
        self.assertEqual((tilt["angle_deg"], tilt["prior_dose_e_A2"], tilt["sigma_px"], tilt["defocus_um"]),
                         (-40.0, 0.0, 0.5, 3.0))
        self.assertAlmostEqual(tilt["mean_counts"], 100 * np.exp(-0.3 / np.cos(np.radians(40))), places=3)
        self.assertAlmostEqual(tilt["counts_part"], 1.0, places=2)
        self.assertEqual(page["facts"]["commands"], ["aretomo -FlipVol 1 -OutBin 2"])
        self.assertEqual(page["facts"]["programs"], ["MotionCor3 1.2.1", "made 1.0"])
        self.assertIn("/mdocs/TS_01.mdoc", [file["path"] for file in page["files"]])

    def test_gold_that_was_erased_is_in_the_table_and_on_the_page(self):
        self.project.whole("TS_01", gold_beads=26, gold_residual_px=0.4218)
        self.project.whole("TS_02")
        self.writer().finish()
        first, second = self.rows()
        self.assertEqual((first["gold_beads"], first["gold_residual_px"]), ("26", "0.422"))
        self.assertEqual((second["gold_beads"], second["gold_residual_px"]), ("", ""))
        self.assertEqual(self.read("session.json")["series"][0]["gold_beads"], 26)

    def test_what_local_alignment_found_is_on_the_page_of_the_series(self):
        self.project.whole("TS_01", local_note="local motion 0.70 px RMS over 4 x 4 patches")
        self.writer().finish()
        self.assertEqual(self.read("series", "TS_01", "data.js")["facts"]["local_note"],
                         "local motion 0.70 px RMS over 4 x 4 patches")

    def test_the_three_tables_say_the_same_and_their_columns_are_documented(self):
        for name in ("TS_01", "TS_02"):
            self.project.whole(name)
        self.writer().finish()
        told = self.read("session.json")
        self.assertEqual([column["name"] for column in told["columns"]], list(self.rows()[0]))
        self.assertEqual([each["series_id"] for each in told["series"]], [row["series_id"] for row in self.rows()])
        cells = self.read("data", "rows-000.js")
        self.assertEqual(cells, [list(each.values()) for each in told["series"]])
        with open(self.path("COLUMNS.txt"), encoding="utf-8") as file:
            text = file.read()
        for column in told["columns"]:
            self.assertIn(column["name"], text)
            self.assertTrue(column["meaning"])

    def test_the_exact_command_of_every_movie_is_on_the_page_and_the_versions_of_that_run(self):
        self.project.report(MOTIONCOR, "", entries.Session, "starts", versions={"tomostream": "9.9", "numpy": "1.26"})
        self.project.whole("TS_01")
        self.project.report(MOTIONCOR, "", entries.Command, "aligned with", program="MotionCor3 1.3.0",
                            command=f"MotionCor3 -InTiff {entries.MOVIE} -Trunc 2 -OutMrc {entries.OUTPUT}.mrc")
        self.project.whole("TS_02")
        self.writer().finish()
        first, second = (self.read("series", name, "data.js") for name in ("TS_01", "TS_02"))
        self.assertEqual(first["facts"]["tilts"][1]["command"],
                         'MotionCor3 -InTiff "/movies/TS_01_002_-20.0.tif" -OutMrc "TS_01_002_-20.0_aligned_mic.mrc"')
        self.assertEqual(second["facts"]["tilts"][4]["command"], "MotionCor3 -InTiff /movies/TS_02_005_40.0.tif -Trunc 2 "
                         "-OutMrc TS_02_005_40.0_aligned_mic.mrc")
        self.assertEqual(second["facts"]["programs"], ["MotionCor3 1.3.0", "made 1.0"])
        self.assertEqual(first["versions"], {"tomostream": "9.9", "numpy": "1.26"})

    def test_a_program_tells_its_version_or_is_called_by_it(self):
        for line, log, wanted in (
                ("/x/AreTomo2 -InMrc a", "AreTomo2 version 1.1.3\nBuilt on Jul", "AreTomo2 1.1.3"),
                ('"/x y/MotionCor3_1.1.2_Cuda121" -InTiff a', "", "MotionCor3_1.1.2_Cuda121"),
                ("/x/MotionCor3 -InTiff a", "no word", "MotionCor3, version not known"),
                ("/bin/tomostream-aretomo -InMrc a", "", f"tomostream-aretomo {versions.__version__}"), ("", "", "")):
            self.assertEqual(versions.of_program(line, log), wanted)
        self.assertIn("numpy", versions.packages())

    def test_a_session_in_progress_counts_movies_and_series_by_state(self):
        self.project.whole("TS_01")
        self.project.acquire("TS_02", tilts=3)
        self.project.report(IMPORT, "bad.tif", entries.Failed, "it is cut short")
        self.project.report(COMPOSE, "", entries.Unassigned, "1 movie in no series", count=1, movies={"m": "No mdoc lists it."})
        self.writer().finish()
        session = self.read("data", "session.js")
        self.assertEqual(session["unassigned"], "1 movie in no series")
        self.assertEqual(session["movies"], {"found": 9, "imported": 8, "aligned": 8, "failed": 1})
        self.assertEqual(session["series"], {"done": 1, "acquiring": 1})
        self.assertEqual((session["latest"], session["running"]), ("TS_01", True))
        self.assertIn("movie-failed", [alarm["kind"] for alarm in session["alarms"]])
        self.assertEqual(self.rows()[1]["tilts_used"], "")

    def test_tilts_that_are_left_out_are_named_with_the_reason(self):
        self.project.acquire("TS_01")
        self.project.compose("TS_01", left_out=[["TS_01_099_60.0", 60.0, "its movie failed"]])
        self.project.reconstruct("TS_01", excluded=1)
        self.writer().finish()
        tilts = self.read("series", "TS_01", "data.js")["facts"]["tilts"]
        self.assertEqual([(tilt["angle_deg"], tilt["reason"]) for tilt in tilts if not tilt["used"]],
                         [(-40.0, "too dark"), (60.0, "its movie failed")])
        self.assertEqual([tilt["defocus_um"] for tilt in tilts], [None, 3.0, 3.0, 3.0, 3.0, None])

    def test_a_series_made_again_replaces_its_pictures(self):
        self.project.whole("TS_01")
        page = self.writer()
        page.finish()
        self.project.compose("TS_01", version=2)
        self.project.reconstruct("TS_01", version=2, quality=0.5)
        page.finish()
        names = sorted(os.listdir(self.path("series", "TS_01")))
        self.assertEqual(names, ["data.js", *(f"v2-{name}.webp" for name in (
            "card", "film", "slices", "thumb", "xy", "xz", "yz"))])
        row, = self.rows()
        self.assertEqual((row["version"], row["quality"], row["thumb"]), ("2", "0.5", "v2-thumb.webp"))

    def test_a_filtered_tomogram_is_shown_and_the_slices_of_the_other_one_lie_beside_it(self):
        self.project.whole("TS_01", filtered=True)
        self.project.whole("TS_02")
        self.writer().finish()
        first, second = (self.read("series", name, "data.js") for name in ("TS_01", "TS_02"))
        self.assertEqual((first["pictures"]["filtered"], second["pictures"]["filtered"]), (True, False))
        self.assertEqual(first["pictures"]["plain"]["labels"], first["pictures"]["slices"]["labels"])
        self.assertTrue(os.path.exists(self.path("series", "TS_01", "v1-plain.webp")))
        self.assertNotIn("plain", second["pictures"])

    def test_what_turns_out_to_be_no_series_leaves_the_table(self):
        self.project.acquire("Map", tilts=2)
        page = self.writer()
        page.finish()
        self.assertEqual(len(self.rows()), 1)
        self.project.report(COMPOSE, "Map", entries.NotASeries, "a map")
        page.finish()
        self.assertEqual((self.rows(), self.read("data", "rows-000.js")), ([], [None]))

    def test_a_failed_series_has_a_page_with_the_reason_and_no_tomogram(self):
        self.project.acquire("TS_01")
        self.project.compose("TS_01")
        self.project.report(ARETOMO, "TS_01", entries.Failed, "the program made no tomogram", version=1)
        self.writer().finish()
        page = self.read("series", "TS_01", "data.js")
        self.assertEqual((page["facts"]["state"], set(page["pictures"])), ("failed", {"film"}))
        self.assertEqual(self.rows()[0]["alarms"], "series-failed")

    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.tuples(st.sampled_from([IMPORT, MOTIONCOR]), st.integers(0, 4), st.sampled_from(
        [entries.Imported, entries.Aligned, entries.Failed, entries.Waiting, entries.Replaced])), max_size=40))
    def test_counts_kept_beside_are_those_of_counting_all(self, events):
        with tempfile.TemporaryDirectory() as folder:
            project = MadeProject(folder)
            follower = Follower(folder)
            for place, (name, movie, event) in enumerate(events):
                project.time += 1
                project.report(name, f"m{movie}.tif", event, "why")
                if place % 7 == 0:
                    follower.update()
            follower.update()
            counts = follower.counts
            self.assertEqual({"found": counts.found, "imported": counts.imported, "aligned": counts.aligned,
                              "failed": counts.failed}, follower.movie_counts())


class TestLongSessions(WithProject):
    def test_rates_are_those_of_the_last_hour_however_long_the_session(self):
        with mock.patch.object(follow, "KEPT", 50):
            follower = follow.Follower(self.project.path)
        for n in range(120):
            self.project.time += 60.0 if n < 100 else 30.0
            self.project.report(IMPORT, f"m{n}.tif", entries.Imported, mtime=self.project.time)
        follower.update()
        facts = follower.session_facts(self.project.time, True, None)
        self.assertEqual(follower.counts.imported, 120)
        self.assertAlmostEqual(follower.per_hour(follower.imports, self.project.time), 49 / (29 * 60 + 20 * 30) * 3600, delta=1)
        self.assertEqual((facts.rhythm_s, facts.seconds_since_movie, facts.backlog_tilts), (60.0, 0.0, 120))


class TestWhatKeepsAProtocol(WithProject):
    def facts(self, states=None):
        follower = Follower(self.project.path)
        follower.update()
        return follower.session_facts(self.project.time, True, None, states)

    def test_a_queue_is_apart_from_all_else_and_each_is_over_alone(self):
        report = self.project.report
        report(MOTIONCOR, "", entries.Waiting, "the queue does not answer", topic=entries.Topic.QUEUE)
        report(MOTIONCOR, "", entries.Waiting, "the disk is full", topic=entries.Topic.DISK)
        report(MOTIONCOR, "", entries.Command, command="MotionCor3", program="MotionCor3 1.0")
        facts = self.facts()
        self.assertEqual((facts.queues, facts.held_up), (
            {MOTIONCOR: "the queue does not answer"}, {MOTIONCOR: "the disk is full"}))
        report(MOTIONCOR, "", entries.Session, "over: the disk is full", over=entries.Topic.DISK)
        facts = self.facts()
        self.assertEqual((facts.queues, facts.held_up), ({MOTIONCOR: "the queue does not answer"}, {}))
        report(MOTIONCOR, "", entries.Session, "motioncor starts", versions={"tomostream": "1"})
        self.assertEqual(self.facts().queues, {})

    def test_a_shortage_counts_while_the_protocol_that_tells_of_it_runs(self):
        self.project.report(COMPOSE, "", entries.Space, "12 h need 60 GB", short=True)
        self.assertEqual(self.facts().shortage, "12 h need 60 GB")
        self.assertEqual(self.facts({COMPOSE: "dead"}).shortage, "")

    def test_lines_that_are_no_entries_are_reported(self):
        with open(self.project.extra(COMPOSE, "ledger.jsonl"), "ab") as file:
            file.write(b'{"event": "composed", "item": 7}\n')
        told = self.facts().unreadable[COMPOSE]
        self.assertIn("1 entry cannot be read and is left out", told)
        self.assertIn("$.item", told)
        out = io.StringIO()
        with redirect_stdout(out):
            command(["status", self.project.path])
        self.assertIn("compose: 1 entry cannot be read", out.getvalue())


class TestPictures(WithProject):
    def test_the_central_slice_shows_y_upward_and_side_views_z(self):
        self.project.whole("TS_01")
        self.writer().finish()
        grey = {name: np.asarray(Image.open(self.path("series", "TS_01", f"v1-{name}.webp")).convert("L"), dtype=float)
                for name in ("xy", "xz", "yz")}
        self.assertEqual([grey[name].shape for name in ("xy", "xz", "yz")], [(24, 16), (12, 16), (24, 12)])
        self.assertGreater(grey["xy"][:5, :8].mean(), grey["xy"][7:].mean() + 50)       # high y: the upper rows
        self.assertGreater(grey["xy"][:5, :8].mean(), grey["xy"][:5, 10:].mean() + 50)   # low x: the left columns
        self.assertGreater(grey["yz"][:5, 6:].mean(), grey["yz"][:5, :4].mean() + 50)    # high z: to the right

    def test_a_volume_that_was_not_flipped_is_the_same_picture(self):
        volume = np.random.default_rng(3).normal(size=(10, 24, 16)).astype(np.float32)
        views = []
        for flip, data in (("1", volume), ("0", volume.swapaxes(0, 1))):
            path = os.path.join(self.folder, f"v{flip}.mrc")
            write_mrc(path, np.ascontiguousarray(data), 8.0)
            views.append(pictures.read_views(path, SeriesFacts("a", z_first=flip == "1")))
        for name in ("xy", "xz", "yz"):
            np.testing.assert_allclose(getattr(views[0], name), getattr(views[1], name))

    @settings(deadline=None, max_examples=40)
    @given(st.floats(-180, 180), st.floats(-8, 8), st.floats(-8, 8), st.floats(-9, 9), st.floats(-9, 9),
           st.sampled_from([1, 3]))
    def test_the_film_shows_a_point_where_the_alignment_says(self, rot, tx, ty, ax, ay, factor):
        height, width = 60 * factor, 72 * factor
        c, s = np.cos(np.radians(rot)), np.sin(np.radians(rot))
        x = factor * (c * ax - s * ay + tx) + (width - 1) / 2       # raw = R(rot) aligned + t, from the centre
        y = factor * (s * ax + c * ay + ty) + (height - 1) / 2
        rows, columns = np.mgrid[:height, :width]
        image = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * (2 * factor) ** 2)).astype(np.float32)
        small = pictures.aligned_picture(image, rot, factor * tx, factor * ty, edge=72)
        weight = np.clip(small - 0.2, 0, None)
        rows, columns = np.mgrid[:small.shape[0], :small.shape[1]]
        found = ((weight * columns).sum() / weight.sum() - (small.shape[1] - 1) / 2,
                 (weight * rows).sum() / weight.sum() - (small.shape[0] - 1) / 2)
        np.testing.assert_allclose(found, (ax, ay), atol=0.3)

    def test_an_atlas_holds_every_picture_at_its_place(self):
        images = [np.full((6, 9), 20 * n, np.uint8) for n in range(11)]
        path = os.path.join(self.folder, "a.webp")
        atlas = pictures.save_atlas(images, path, [str(n) for n in range(11)], quality=95)
        sheet = np.asarray(Image.open(path).convert("L"), dtype=int)
        for n in range(11):
            row, column = divmod(n, atlas.columns)
            self.assertAlmostEqual(sheet[row * 6 + 3, column * 9 + 4], 20 * n, delta=6)
        self.assertEqual(os.listdir(self.folder).count("a.webp.part"), 0)

    def test_shrinking_keeps_the_mean_and_the_shape(self):
        image = np.random.default_rng(4).normal(5, 1, (1000, 700)).astype(np.float32)
        small = shrink(image, 300)
        self.assertEqual(small.shape, (300, 210))
        self.assertAlmostEqual(float(small.mean()), float(image.mean()), delta=0.01)

    def test_values_that_are_no_numbers_are_drawn_black(self):
        image = np.array([[np.nan, 1.0], [np.inf, 2.0]])
        self.assertEqual(to_bytes(image, (1.0, 2.0)).tolist(), [[255, 255], [0, 0]])
        self.assertEqual(grey_range(np.full((2, 2), np.nan)), (0.0, 1.0))

    def test_a_tomogram_that_is_gone_is_reported_on_the_page_and_stops_nothing(self):
        self.project.whole("TS_01")
        self.project.whole("TS_02")
        os.remove(self.project.extra(ARETOMO, "TS_01", "TS_01.mrc"))
        page = self.writer()
        page.finish()
        path = self.project.extra(ARETOMO, "TS_01", "TS_01.mrc")
        self.assertEqual(self.read("series", "TS_01", "data.js")["trouble"],
                         f"no pictures of the tomogram: {path} does not exist (any more)")
        self.assertEqual([row["thumb"] for row in self.rows()], ["", "v1-thumb.webp"])

    def test_a_flat_volume_and_a_cut_stack_make_a_page_too(self):
        self.project.whole("TS_01")
        with mrcfile.open(self.project.extra(ARETOMO, "TS_01", "TS_01.mrc"), "r+") as mrc:
            mrc.data[:] = 3.0
        with open(self.project.extra(COMPOSE, "TS_01.mrcs"), "r+b") as file:
            file.truncate(1500)
        self.writer().finish()
        page = self.read("series", "TS_01", "data.js")
        self.assertIn("no film", page["trouble"])
        self.assertIn("xy", page["pictures"])


class TestUpdates(WithProject):
    def test_only_what_changed_is_written(self):
        for n in range(120):
            self.project.acquire(f"TS_{n:03d}", tilts=1)
        page = self.writer()
        page.finish()
        written = []
        keep = writer.write_text
        with mock.patch.object(writer, "write_text", lambda path, text: (written.append(os.path.relpath(path, page.out)),
                                                                         keep(path, text))):
            self.project.acquire("TS_060", tilts=2)
            page.update()
            self.assertEqual(sorted(written), ["data/rows-001.js", "data/session.js", "metrics.csv", "session.json"])
            written.clear()
            self.project.time += 1
            page.update()
        self.assertEqual(written, [])

    def test_the_tables_for_scripts_take_a_bounded_part_of_the_time_and_only_what_changed_is_written_out(self):
        for n in range(200):
            self.project.acquire(f"TS_{n:03d}", tilts=1)
        page = self.writer()
        page._stopwatch = lambda: 0.0
        page.finish()
        self.assertEqual(len(self.rows()), 200)
        with mock.patch.object(tables, "as_csv", wraps=tables.as_csv) as one, mock.patch.object(writer, "TABLES_BYTES", 1000):
            self.project.acquire("TS_060", tilts=2)
            self.project.time += 100
            page.update()
            self.assertEqual(one.call_count, 1)
            size = sum(os.path.getsize(self.path(name)) for name in ("metrics.csv", "session.json"))
            self.assertAlmostEqual(page._tables_pause, size / 1000, delta=1)
            self.project.acquire("TS_070", tilts=2)
            page.update()
            before = self.rows()[70]
            self.project.time += page._tables_pause
            page.update()
        self.assertNotEqual(self.rows()[70], before)

    def test_the_page_is_never_more_than_fifteen_seconds_behind(self):
        """A session of 200 series in virtual time: after each look of the follower the page tells all that was there before
        the look; the browser looks every few seconds; the tables for scripts follow within their own bound."""
        for n in range(200):
            self.project.acquire(f"TS_{n:03d}", tilts=1)
        page, random = self.writer(), np.random.default_rng(1)
        page._stopwatch = lambda: 0.0       # how long this machine takes to write the tables is not what is tested
        page.finish()
        behind_page, behind_tables = [], []
        for n in range(60):
            told = self.project.time
            if random.random() < 0.5:
                self.project.acquire(f"TS_{random.integers(200):03d}", tilts=2 + n % 3, seconds=0.5)
            page.update()
            self.assertEqual(self.read("data", "session.js")["movies"]["aligned"], page.follower.counts.aligned)
            behind_page.append(self.project.time - self.read("data", "session.js")["updated"])
            behind_tables.append(page._tables.stale and self.project.time - page._tables_at)
            self.project.time = max(self.project.time, told) + report.REFRESH_SECONDS
        with open(os.path.join(os.path.dirname(writer.__file__), "static", "base.js"), encoding="utf-8") as file:
            browser = float(re.search(r"POLL_SECONDS = (\d+)", file.read())[1])
        self.assertLess(max(behind_page) + report.REFRESH_SECONDS + browser, 15.0)
        self.assertLess(max(behind_tables) + report.REFRESH_SECONDS, 15.0)

    def test_an_error_that_nobody_foresaw_costs_one_series_its_pictures_and_is_logged(self):
        for name in ("TS_01", "TS_02"):
            self.project.whole(name)
        said, paint = [], writer.paint

        def broken(facts, *others):
            if facts.series_id == "TS_01":
                raise IndexError("unforeseen")
            return paint(facts, *others)

        with mock.patch.object(writer, "paint", broken):
            self.writer(say=said.append).finish()
        self.assertEqual([(row["state"], row["thumb"]) for row in self.rows()], [("done", ""), ("done", "v1-thumb.webp")])
        self.assertIn("unexpected error (IndexError: unforeseen)", self.read("series", "TS_01", "data.js")["trouble"])
        self.assertTrue(any("Traceback" in text for text in said))

    def test_a_tomogram_whose_pictures_take_long_holds_up_nothing_else(self):
        go_on, painting = threading.Event(), threading.Event()
        self.addCleanup(go_on.set)
        paint = writer.paint

        def slow(*arguments):
            painting.set()
            go_on.wait(60)
            return paint(*arguments)

        page = self.writer()
        self.project.whole("TS_01")
        with mock.patch.object(writer, "paint", slow):
            page.update()
            self.assertTrue(painting.wait(60))
            self.project.acquire("TS_02", tilts=3)
            page.update()
            rows = self.read("data", "rows-000.js")
            self.assertEqual([row[2] for row in rows], ["done", "acquiring"])
            thumb = [column.name for column in tables.COLUMNS].index("thumb")
            self.assertEqual(rows[0][thumb], "")
            go_on.set()
            page.finish()
        self.assertEqual(self.read("data", "rows-000.js")[0][thumb], "v1-thumb.webp")

    def test_the_page_is_alive_every_few_seconds_though_nothing_happens(self):
        page = self.writer()
        page.update()
        first = self.read("data", "session.js")["updated"]
        self.project.time += 6
        page.update()
        self.assertEqual(self.read("data", "session.js")["updated"], first + 6)

    def test_no_half_file_is_ever_seen(self):
        path = os.path.join(self.folder, "file.js")
        stop, wrong = threading.Event(), []

        def look():
            while not stop.is_set():
                try:
                    with open(path, encoding="utf-8") as file:
                        tables.unscript(file.read())
                except FileNotFoundError:
                    continue
                except ValueError as error:
                    wrong.append(error)

        reader = threading.Thread(target=look)
        reader.start()
        for n in range(200):
            write_text(path, tables.script("session", ["x" * 20000, n]))
        stop.set()
        reader.join()
        self.assertEqual(wrong, [])

    def test_a_full_disk_delays_the_page_and_nothing_is_lost(self):
        self.project.whole("TS_01")
        page = self.writer()
        with mock.patch.object(writer.os, "replace", side_effect=OSError(28, "No space left on device")):
            for _ in range(3):
                with self.assertRaises(OSError):
                    page.update()
                page.wait(10)
        with suppress(OSError):
            page.update()               # may still tell of pictures that could not be written then
        page.finish()
        self.assertEqual([row["state"] for row in self.rows()], ["done"])
        self.assertTrue(os.path.exists(self.path("series", "TS_01", "data.js")))

    def test_a_second_writer_paints_nothing_again_and_tells_no_alarm_twice(self):
        self.project.whole("TS_01", thickness_A=9000.0)
        first, second = [], []
        page = self.writer(say=first.append)
        page.finish()
        page.close()
        with mock.patch.object(writer, "paint", side_effect=AssertionError("painted again")):
            self.writer(say=second.append).finish()
        self.assertEqual((len(first), second), (1, []))
        self.assertIn("Thickness", first[0])
        with open(self.path("alarms.log"), encoding="utf-8") as file:
            self.assertEqual(len(file.readlines()), 1)
        self.assertEqual(self.rows()[0]["alarms"], "thickness")
        self.assertEqual(self.read("data", "session.js")["latest"], "TS_01")

    def test_a_second_writer_knows_which_tomogram_is_the_latest(self):
        for series in ("TS_01", "TS_02"):
            self.project.whole(series)
        self.project.compose("TS_01", version=2)
        self.project.reconstruct("TS_01", version=2)
        for _ in range(2):
            page = self.writer()
            page.finish()
            page.close()
            self.assertEqual(self.read("data", "session.js")["latest"], "TS_01")

    def test_an_alarm_that_ended_while_nobody_looked_is_reported_as_over(self):
        self.project.whole("TS_01", thickness_A=9000.0)
        page = self.writer()
        page.finish()
        page.close()
        for n in range(3):
            self.project.whole(f"good{n}")
        said = []
        self.writer(say=said.append).finish()
        self.assertEqual([("over" in line, "Thickness" in line) for line in said], [(True, True)])

    def test_alarms_of_a_running_session_are_reported_once_and_when_over(self):
        said = []
        page = self.writer(say=said.append)
        page.update()
        for n, thickness in enumerate((9000.0, 9000.0, 1500.0, 1500.0, 1500.0)):
            self.project.whole(f"TS_{n}", thickness_A=thickness)
            page.finish()
        self.assertEqual([line.split()[1] for line in said], ["ALARM", "over"])

    def test_a_session_that_ended_long_ago_is_never_reported_as_silent(self):
        self.project.whole("TS_01")
        self.states = {IMPORT: "finished"}
        page = self.writer()
        page.finish()
        page.close()
        self.project.time += 7200
        said = []
        self.writer(say=said.append).finish()       # nothing is to be painted: it tells at its first look
        self.assertEqual(said, [])

    def test_the_end_of_the_protocols_ends_the_session_on_the_page(self):
        self.project.whole("TS_01")
        page = self.writer()
        self.states = {IMPORT: "finished", MOTIONCOR: "running"}
        page.update()
        self.assertTrue(self.read("data", "session.js")["running"])
        self.states = {IMPORT: "finished", MOTIONCOR: "dead"}
        page.finish()
        self.assertFalse(self.read("data", "session.js")["running"])


class TestAlarmsThatStay(WithProject):
    def failed(self, series: str) -> None:
        self.project.acquire(series)
        self.project.compose(series)
        self.project.report(ARETOMO, series, entries.Failed, "no axis", version=1)

    def acknowledge(self, *words: str) -> tuple[int, str]:
        out, err = io.StringIO(), io.StringIO()
        with mock.patch("sys.stdout", out), mock.patch("sys.stderr", err):
            status = command(["acknowledge", self.project.path, *words])
        return status, out.getvalue() + err.getvalue()

    def test_a_failed_series_is_shown_until_it_is_acknowledged_also_by_the_next_writer(self):
        for series in ("TS_01", "TS_02"):
            self.failed(series)
        page = self.writer()
        page.finish()
        self.assertEqual([alarm["of"] for alarm in self.read("data", "session.js")["alarms"]], ["TS_01", "TS_02"])
        self.assertEqual(self.acknowledge("TS_03")[0], 2)
        with mock.patch("time.time", return_value=self.project.time + 60):
            status, text = self.acknowledge("TS_01")
        self.assertEqual(status, 0)
        self.assertIn("acknowledged TS_01", text)
        self.assertIn("ALARM TS_02", text)
        self.project.time += 120
        page.finish()
        page.close()
        said: list[str] = []
        other = self.writer(say=said.append)
        other.finish()
        session = self.read("data", "session.js")
        shown = [[alarm["of"] for alarm in session[kind]] for kind in ("alarms", "acknowledged")]
        self.assertEqual(shown, [["TS_02"], ["TS_01"]])
        self.assertEqual([line for line in said if "ALARM" in line or " over " in line], [])

    def test_a_dead_protocol_is_an_alarm_on_the_page_of_a_session_that_no_longer_runs(self):
        self.project.whole("TS_01")
        self.states = {IMPORT: "finished", COMPOSE: "dead"}
        self.writer().finish()
        session = self.read("data", "session.js")
        self.assertEqual([(alarm["kind"], alarm["of"]) for alarm in session["alarms"]], [("protocol-died", COMPOSE)])

    def test_the_end_of_a_session_is_summed_up_once_by_mail_and_webhook(self):
        self.project.whole("TS_01")
        self.failed("TS_02")
        sent = []
        notifier = mock.Mock(spec=notify.Notifier, trouble="")
        notifier.post.side_effect = sent.append
        self.states = dict.fromkeys((IMPORT, MOTIONCOR, COMPOSE, ARETOMO), "finished")
        for _ in range(2):
            page = self.writer(notifier=notifier)
            with mock.patch.object(report.signal, "signal"):
                self.assertEqual(report.follow(page, quiet=True), 0)
            page.close()
        message, = sent
        self.assertEqual(message.subject, "[tomostream] proj: session ended")
        self.assertEqual(message.body["series"], {"done": 1, "failed": 1})
        for words in ("1 of 2 series have tomograms; 1 failed.", "10 of 10 movies aligned;", "Series failed: TS_02: no axis",
                      "index.html"):
            self.assertIn(words, message.text)
        self.states = {**self.states, COMPOSE: "dead"}
        self.failed("TS_03")
        page = self.writer(notifier=notifier)
        page.finish()
        page.send_summary()
        self.assertEqual(sent[-1].subject, "[tomostream] proj: session died (compose)")

    def test_an_error_that_nobody_expected_is_logged_once_and_the_page_goes_on(self):
        self.project.whole("TS_01")
        page, err = self.writer(), io.StringIO()
        states = dict.fromkeys((IMPORT, MOTIONCOR, COMPOSE, ARETOMO), "running")
        self.states = states
        whole, calls = page.update, []

        def update():
            calls.append(1)
            if len(calls) <= 3:
                raise KeyError("unforeseen")
            states.update(dict.fromkeys(states, "finished"))
            return whole()

        with mock.patch.object(page, "update", update), mock.patch.object(report, "REFRESH_SECONDS", 0.02), \
                mock.patch.object(report.signal, "signal"), mock.patch("sys.stderr", err):
            self.assertEqual(report.follow(page, quiet=True), 0)
        self.assertEqual((err.getvalue().count("unexpected error"), self.rows()[0]["state"]), (1, "done"))


class TestHostileNames(WithProject):
    def test_a_name_full_of_tags_is_data_and_stays_what_it_was(self):
        self.project.whole("TS_01", image_files=False)
        self.project.report(COMPOSE, HOSTILE, entries.Series, f"because {HOSTILE}", name=HOSTILE, state="acquiring", seen=1)
        self.writer().finish()
        for name in ("rows-000.js", "session.js"):
            with open(self.path("data", name), encoding="utf-8") as file:
                text = file.read()
            for sign in "<>&":
                self.assertNotIn(sign, text)
        self.assertEqual(self.rows()[1]["series_id"], HOSTILE)
        self.assertEqual(self.read("data", "rows-000.js")[1][0], HOSTILE)

    @settings(deadline=None, max_examples=200)
    @given(st.text(max_size=300))
    def test_a_folder_name_is_plain_whatever_the_series_is_called(self, name):
        made = safe_name(name, set())
        self.assertRegex(made, r"\A[A-Za-z0-9_-]{1,80}\Z")

    def test_names_that_differ_in_case_or_signs_alone_get_different_folders(self):
        taken, folders = set(), []
        for name in ("TS_1", "ts_1", "TS/1", "TS 1", "../TS_1", ""):
            folders.append(safe_name(name, taken))
            taken.add(folders[-1].casefold())
        self.assertEqual(len({name.casefold() for name in folders}), 6)
        self.assertEqual(folders[0], "TS_1")

    @settings(deadline=None, max_examples=100)
    @given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda each: st.lists(each) | st.dictionaries(
        st.text(), each), max_leaves=10))
    def test_data_survives_the_way_through_a_script(self, value):
        text = tables.script("kind", value)
        self.assertTrue(text.isascii())
        self.assertNotIn("<", text)
        self.assertEqual(tables.unscript(text), ["kind", value])

    def test_facts_survive_the_way_through_json(self):
        self.project.whole("TS_01")
        self.writer().finish()
        data = self.read("series", "TS_01", "data.js")["facts"]
        self.assertEqual(json.loads(json.dumps(to_json(from_json(data)))), data)

    def test_the_page_never_makes_html_of_data_and_loads_nothing_from_elsewhere(self):
        folder = os.path.join(os.path.dirname(writer.__file__), "static")
        for name in writer.STATIC:
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                text = file.read()
            for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://", "@import",
                         *(() if name == "served.js" else ("fetch(",))):
                self.assertNotIn(word, text, name)


class TestSpoiltInput(WithProject):
    def spoil(self, path: str, old: str, new: str) -> None:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        self.assertIn(old, text)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace(old, new))

    @settings(deadline=None, max_examples=60)
    @given(st.data())
    def test_ledgers_cut_and_overwritten_anywhere_make_a_page(self, data):
        """Of a ledger, of which any line may be cut anywhere, glued to the next or hold any bytes, a page can be made."""
        with tempfile.TemporaryDirectory() as folder:
            project = MadeProject(folder)
            project.whole("TS_01", image_files=False)
            project.acquire("TS_02", tilts=2)
            for name in (IMPORT, MOTIONCOR, COMPOSE, ARETOMO):
                with open(project.ledgers[name].path, "rb") as file:
                    text = file.read()
                for _ in range(data.draw(st.integers(0, 3))):
                    first = data.draw(st.integers(0, len(text)))
                    last = min(len(text), first + data.draw(st.integers(0, 40)))
                    bad = data.draw(st.sampled_from([b"", b"\n", b"\0\xff", b'"', b"9" * 30, b"NaN"]))
                    text = text[:first] + bad + text[last:]
                with open(project.ledgers[name].path, "wb") as file:
                    file.write(text)
            page = ReportWriter(folder, clock=lambda: project.time)
            try:
                page.finish()
            finally:
                page.close()
            with open(os.path.join(folder, "report", "session.json"), encoding="utf-8") as file:
                self.assertIn("series", json.load(file))

    def test_an_angle_that_is_no_number_is_reported_on_the_page_and_stops_nothing(self):
        self.project.whole("TS_01")
        self.project.whole("TS_02")
        self.spoil(self.project.extra(COMPOSE, "TS_01.json"), '"angle": 0.0', '"angle": null')
        self.writer().finish()
        page = self.read("series", "TS_01", "data.js")
        self.assertEqual(page["trouble"], "no figures of its tilts: TS_01.json cannot be read: Expected `float`, got `null` - "
                         "at `$.tilts[2].angle`")
        self.assertIn("xy", page["pictures"])
        self.assertEqual([row["thumb"] for row in self.rows()], ["v1-thumb.webp"] * 2)

    def test_a_tilt_that_was_left_out_at_no_known_angle_is_a_note(self):
        self.project.acquire("TS_01")
        self.project.compose("TS_01", left_out=[["TS_01_009.tif", float("nan"), "its movie failed"]])
        self.project.reconstruct("TS_01")
        self.writer().finish()
        facts = self.read("series", "TS_01", "data.js")["facts"]
        self.assertEqual((len(facts["tilts"]), facts["warnings"]),
                         (5, ["TS_01_009.tif at an unknown angle is not used: its movie failed"]))

    def test_figures_of_the_alignment_that_are_no_numbers_are_unknown(self):
        self.project.whole("TS_01", quality=float("nan"), tilts_used=float("nan"))
        for end in (".aln", "_ctf.txt"):
            name = next(name for name in os.listdir(self.project.extra(ARETOMO, "TS_01")) if name.endswith(end))
            path = self.project.extra(ARETOMO, "TS_01", name)
            with open(path, encoding="utf-8") as file:
                text = file.read()
            with open(path, "w", encoding="utf-8") as file:
                file.write(re.sub(r"29000\.0+|\b2\.0+\b", "nan", text))
        self.writer().finish()
        self.assertEqual((self.rows()[0]["quality"], self.rows()[0]["tilts_used"]), ("", "5"))    # as it was composed
        self.assertEqual(self.rows()[0]["state"], "done")


class TestCommand(WithProject):
    def run_command(self, *words: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = command(["report", *words])
        return status, out.getvalue(), err.getvalue()

    def test_it_makes_the_page_of_a_session_that_is_over(self):
        self.project.whole("TS_01")
        target = os.path.join(self.folder, "web share")
        status, out, _ = self.run_command(self.project.path, "--out", target)
        self.assertEqual((status, out.splitlines()[-1]), (0, os.path.join(target, "index.html")))
        self.assertTrue(os.path.exists(os.path.join(target, "series", "TS_01", "v1-film.webp")))
        self.assertFalse(os.path.exists(self.path()))

    def test_it_says_what_is_wrong_in_one_line(self):
        for words, part in ((("nowhere",), "no Scipion project nowhere"),
                            ((self.project.path, "--threshold", "x=1"), "'x=1' is no")):
            status, _, err = self.run_command(*words)
            self.assertEqual((status, len(err.splitlines())), (2, 1))
            self.assertIn(part, err)

    def test_a_project_without_our_protocols_is_reported_and_left_as_it_is(self):
        other = os.path.join(self.folder, "other")
        os.makedirs(os.path.join(other, "Runs", "000002_ProtImportMovies", "extra"))
        status, _, err = self.run_command(other)
        self.assertEqual((status, len(err.splitlines()), os.listdir(other)), (2, 1, ["Runs"]))
        self.assertIn("no tomostream protocol has run", err)

    def test_ledgers_that_were_cut_and_spoilt_make_the_page_of_what_is_whole(self):
        self.project.whole("TS_01")
        self.project.whole("TS_02")
        self.project.acquire("TS_03", tilts=2)
        path = self.project.ledgers[COMPOSE].path
        with open(path, "rb") as file:
            data = file.read()
        with open(path, "wb") as file:
            file.write(data[:-40] + b"\n" + b"\xff\x00 \"no line\n" + b'1.0,TS_09,series,why,"{""sta\n')
        with open(self.project.ledgers[ARETOMO].path, "ab") as file:
            file.write(b'1.0,TS_02,failed,"half a rea')
        self.assertEqual(self.run_command(self.project.path, "--quiet"), (0, "", ""))
        self.assertEqual([(row["series_id"], row["state"]) for row in self.rows()],
                         [("TS_01", "done"), ("TS_02", "done"), ("TS_03", "acquiring")])

    def test_a_folder_that_cannot_be_written_is_named(self):
        blocked = os.path.join(self.folder, "file")
        with open(blocked, "w", encoding="utf-8"):
            pass
        status, _, err = self.run_command(self.project.path, "--out", os.path.join(blocked, "page"))
        self.assertEqual(status, 2)
        self.assertIn(blocked, err)

    def test_following_ends_when_all_four_protocols_have_finished(self):
        self.project.whole("TS_01")
        states = dict.fromkeys((IMPORT, MOTIONCOR, COMPOSE, ARETOMO), "running")
        page = self.writer()
        self.states = states
        ended = threading.Thread(target=self.end_soon, args=(page, states))
        ended.start()
        with mock.patch.object(report, "REFRESH_SECONDS", 0.05), mock.patch.object(report.signal, "signal"):
            self.assertEqual(report.follow(page, quiet=True), 0)
        ended.join()
        self.assertEqual((self.rows()[0]["thumb"], self.read("data", "session.js")["running"]), ("v1-thumb.webp", False))

    def end_soon(self, page: ReportWriter, states: dict[str, str]) -> None:
        while not os.path.exists(self.path("data", "session.js")):
            threading.Event().wait(0.01)
        states.update(dict.fromkeys(states, "finished"))

    def test_following_a_session_that_died_is_patient_and_then_ends(self):
        self.project.whole("TS_01")
        page = self.writer()
        self.states = dict.fromkeys((IMPORT, MOTIONCOR, COMPOSE, ARETOMO), "dead")
        with mock.patch.object(report, "REFRESH_SECONDS", 0.02), mock.patch.object(report, "PATIENCE_SECONDS", 0.1), \
                mock.patch.object(report.signal, "signal"), mock.patch.object(page, "update", wraps=page.update) as update:
            self.assertEqual(report.follow(page, quiet=True), 0)
        self.assertGreaterEqual(update.call_count, 5)

    def test_following_ends_when_the_project_is_removed(self):
        page = self.writer()
        shutil.rmtree(os.path.join(self.project.path, "Runs"))
        with mock.patch.object(report.signal, "signal"):
            self.assertEqual(report.follow(page, quiet=True), 1)

    def test_following_goes_on_when_the_disk_of_the_project_comes_back(self):
        """What is left of its path is on another disk meanwhile, which distinguishes it from a project that was removed."""
        page, runs = self.writer(), os.path.join(self.project.path, "Runs")
        self.states = dict.fromkeys((IMPORT, MOTIONCOR, COMPOSE, ARETOMO), "finished")
        os.rename(runs, f"{runs}.away")

        def wait(_: float) -> None:
            if os.path.exists(f"{runs}.away"):
                os.rename(f"{runs}.away", runs)

        stop = mock.Mock(**{"is_set.return_value": False, "wait.side_effect": wait})
        with mock.patch.object(report, "device_of", side_effect=[1, 2]), mock.patch.object(report.signal, "signal"), \
                mock.patch.object(report.threading, "Event", return_value=stop), redirect_stderr(io.StringIO()) as said:
            self.assertEqual(report.follow(page, quiet=True), 0)
        self.assertIn("is out of reach: is its disk mounted? Waiting for it", said.getvalue())

    def test_a_page_is_written_by_one_process_only(self):
        self.project.whole("TS_01")
        os.makedirs(self.path())
        first = background.OnlyOne(self.path())
        self.assertTrue(first.taken())
        status, _, err = self.run_command(self.project.path)
        self.assertEqual(status, 1)
        self.assertIn("another process is already writing", err)
        first.release()
        self.assertEqual(self.run_command(self.project.path)[0], 0)

    def test_who_goes_on_with_the_page_takes_the_thresholds_of_the_session(self):
        self.project.whole("TS_01", thickness_A=1500.0)
        with mock.patch.object(background.subprocess, "Popen") as started:
            background.start(self.project.path, ["thickness_max_A=1000"])
            background.start(self.project.path)                     # AreTomo is continued alone
        self.assertEqual(started.call_count, 2)
        self.assertEqual(self.run_command(self.project.path)[0], 0)
        self.assertEqual(self.rows()[0]["alarms"], "thickness")

    def test_thresholds_that_change_while_the_page_is_written_are_taken_and_the_command_line_has_the_last_word(self):
        with mock.patch.object(background.subprocess, "Popen"):
            background.start(self.project.path, ["thickness_max_A=1000", "axis_deg=3"])
            limits = background.SessionThresholds(self.project.path, ["axis_deg=2"])
            read = limits.read()
            self.assertEqual((read.thickness_max_A, read.axis_deg, limits.changed()), (1000.0, 2.0, None))
            background.start(self.project.path, ["thickness_max_A=2000"])
        path = self.path(background.THRESHOLDS)
        os.utime(path, ns=(0, os.stat(path).st_mtime_ns + 10**9))
        self.assertEqual(limits.changed().thickness_max_A, 2000.0)
        self.assertIsNone(limits.changed())

    def test_the_page_is_written_in_the_background_by_a_process_of_low_priority(self):
        self.project.whole("TS_01")
        process = background.start(self.project.path, ["quality_min=0.95"])
        try:
            for _ in range(600):
                if os.path.exists(self.path("series", "TS_01", "data.js")):
                    break
                threading.Event().wait(0.1)
            own = os.getpriority(os.PRIO_PROCESS, 0)
            self.assertEqual(os.getpriority(os.PRIO_PROCESS, process.pid), min(19, own + report.NICE))
            self.assertNotEqual(os.getsid(process.pid), os.getsid(0))
        finally:
            process.terminate()
            self.assertEqual(process.wait(120), 130)
        self.assertEqual([finding["kind"] for finding in self.read("series", "TS_01", "data.js")["findings"]], ["quality"])


class TestWhichTomogramIsShown(unittest.TestCase):
    def test_it_is_the_filtered_one_beside_it_where_there_is_one(self):
        with tempfile.TemporaryDirectory() as folder:
            whole, filtered = (os.path.join(folder, name) for name in ("TS_01.mrc", "TS_01_wiener.mrc"))
            self.assertEqual(filtered_of(whole), "")
            with open(filtered, "wb"):
                self.assertEqual(filtered_of(whole), filtered)


if __name__ == "__main__":
    unittest.main()
