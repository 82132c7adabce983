# SPDX-License-Identifier: GPL-3.0-or-later
"""Previews before the end: when they are due, what they show, that they stand back, and that nothing is left of them."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

import mrcfile
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tomostream.acquisition.events import MdocRead, MicrographReady, Policy, SeriesState
from tomostream.acquisition.facts import Known, MdocFacts, Tilt
from tomostream.acquisition.preview import is_due
from tomostream.acquisition.session import Session
from tomostream.engine import preview as program
from tomostream.engine import quick
from tomostream.files.grey import averaged
from tomostream.journal import entries
from tomostream.journal.status import ARETOMO, COMPOSE, IMPORT, MOTIONCOR
from tomostream.report import painting, previews, writer
from tomostream.report.previews import FOLDER, Maker, request_of
from tomostream.tests.made_project import marked_volume, write_mrc
from tomostream.tests.test_aretomo_engine import ANGLES, AXIS, PIXEL, series
from tomostream.tests.test_report import WithProject


def state(aligned: int, expected: int | None, version: int = 0, name: str = "acquiring") -> SeriesState:
    return SeriesState("TS_01", "TS_01", name, "", aligned, aligned, 0, expected, version)


class TestWhenAPreviewIsDue(unittest.TestCase):
    @settings(deadline=None, max_examples=100)
    @given(st.integers(0, 121), st.integers(3, 121))
    def test_when_sixty_percent_of_the_expected_tilts_are_aligned_and_eight_at_least(self, aligned, expected):
        self.assertEqual(is_due(state(aligned, expected)), aligned >= 8 and aligned >= 0.6 * expected - 1e-9)

    def test_never_while_the_number_is_not_known_nor_once_it_was_composed_or_failed(self):
        for each in (state(40, None), state(40, 41, version=1), state(40, 41, name="failed"), state(40, 41, name="ignored")):
            self.assertFalse(is_due(each))

    def test_a_series_as_it_stands_is_reported_without_being_decided(self):
        session = Session(Policy(expected_tilts=20))
        tilts = tuple(Tilt(f"TS_01_{n:03d}_{3 * n}.tif", 3.0 * n, n + 1, prior_dose=Known(3.0 * n, "x")) for n in range(12))
        session.handle(MdocRead(MdocFacts("/m/TS_01.mdoc", "tilt-series", series_name="TS_01", tilts=tilts,
                                          tilt_axis=Known(85.0, "title")), 1.0))
        for n in range(10):
            session.handle(MicrographReady(f"TS_01_{n:03d}_{3 * n}", 2.0 + n))
        stands = session.as_it_stands("TS_01")
        self.assertEqual(([tilt.angle for tilt in stands.tilts], stands.tilt_axis.value), ([3.0 * n for n in range(10)], 85.0))
        self.assertEqual(session.states()[0].version, 0)
        self.assertIsNone(session.as_it_stands("TS_02"))


class InAFolder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.said = []

    def request(self, *micrographs: str, name: str = "TS_01") -> program.Request:
        tilts = tuple(program.Tilt(path, 3.0 * n) for n, path in enumerate(micrographs))
        return program.Request(name, tilts, 41, AXIS, PIXEL)

    def micrographs(self, images: np.ndarray) -> list[str]:
        paths = [os.path.join(self.folder, f"{n}.mrc") for n in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            write_mrc(path, image.astype(np.float32), PIXEL)
        return paths

    def endless(self) -> program.Request:
        """A request whose micrograph nobody ever writes: the program waits for it for ever."""
        path = os.path.join(self.folder, "fifo.mrc")
        os.mkfifo(path)
        return self.request(path)


class TestTheProgram(InAFolder):
    def test_its_volume_shows_what_is_in_the_tilts_at_its_place(self):
        """The blobs of a made series with an axis of 0 degrees, seen through the whole depth, are where one sees them."""
        images, _ = series(axis=0.0)
        few = np.flatnonzero(np.abs(ANGLES) <= 36)
        paths = self.micrographs(images[few])
        request = program.Request("TS", tuple(program.Tilt(path, float(angle)) for path, angle in
                                              zip(paths, ANGLES[few], strict=True)), len(ANGLES), 0.0, PIXEL)
        request.write(self.folder)
        self.assertEqual(program.Request.read(self.folder), request)
        with mock.patch("sys.stdout"):
            self.assertEqual(program.make(self.folder), 0)
        with mrcfile.open(os.path.join(self.folder, "preview.mrc")) as mrc:
            volume, pixel = np.asarray(mrc.data), float(mrc.voxel_size.x)
        self.assertEqual((volume.shape[1:], pixel), (images.shape[1:], PIXEL))
        flat, seen = volume.mean(axis=0)[16:-16, 16:-16].ravel(), images[np.argmin(np.abs(ANGLES))]
        best = max(np.corrcoef(flat, np.roll(seen, (dy, dx), (0, 1))[16:-16, 16:-16].ravel())[0, 1]
                   for dy in range(-8, 9) for dx in range(-8, 9))
        self.assertGreater(best, 0.5)

    @settings(deadline=None, max_examples=30)
    @given(st.integers(1, 12000), st.integers(1, 12000))
    @example(1, 576)
    def test_large_images_become_small_ones_and_small_ones_are_left_as_they_are(self, width, height):
        binning = quick.PREVIEW.binning(1.0, width, height)
        edge, size = max(width, height), quick.PREVIEW.edge
        self.assertTrue((binning == 1 and edge <= 1.5 * size) or 0.75 * size <= edge / binning <= 1.25 * size, binning)

    def test_binning_is_a_mean(self):
        image = np.arange(35.0, dtype=np.float32).reshape(5, 7)
        np.testing.assert_allclose(averaged(image, 2)[1, 2], image[2:4, 4:6].mean())
        self.assertEqual(averaged(image, 2).shape, (2, 3))

    def test_it_ends_when_the_process_that_started_it_is_killed(self):
        self.endless().write(self.folder)
        code = ("import os, subprocess, sys, threading; child = subprocess.Popen([sys.executable, '-m', "
                "'tomostream.engine.preview', sys.argv[1], str(os.getpid())]); print(child.pid, flush=True); "
                "threading.Event().wait()")
        parent = subprocess.Popen([sys.executable, "-c", code, self.folder], stdout=subprocess.PIPE, text=True)
        child = int(parent.stdout.readline())
        handle = os.pidfd_open(child)
        self.addCleanup(os.close, handle)
        parent.kill()
        parent.wait()
        parent.stdout.close()
        self.assertTrue(select.select([handle], [], [], 60)[0], "it lives on")


class TestPreviews(InAFolder):
    def made(self) -> Maker:
        previews = Maker(self.folder, self.said.append)
        self.addCleanup(previews.close)
        return previews

    def test_nothing_is_left_when_it_is_closed(self):
        previews = self.made()
        previews.update({"TS_01": self.endless()}, True, False)
        process = previews._work.process
        previews.close()
        self.assertIsNotNone(process.poll())
        self.assertEqual(os.listdir(self.folder), ["fifo.mrc"])

    def until_it_ends(self, previews: Maker, wanted) -> tuple | None:
        previews._work.process.wait(120)
        return previews.update(wanted, True, False)

    def test_a_preview_is_made_and_handed_over_once(self):
        images, _ = series()
        request = program.Request("TS_01", tuple(program.Tilt(path, float(angle)) for path, angle in
                                                 zip(self.micrographs(images), ANGLES, strict=True)), 41, AXIS, PIXEL)
        previews = self.made()
        wanted = {"TS_01": request}
        self.assertIsNone(previews.update(wanted, True, False))
        made, volume = self.until_it_ends(previews, wanted)
        self.assertEqual((made, os.path.exists(volume), self.said), (request, True, []))
        self.assertIsNone(previews.update(wanted, True, False))
        self.assertEqual(previews.series, "")

    def test_a_preview_that_fails_is_one_line_and_is_not_tried_again(self):
        wanted = {"TS_01": self.request(os.path.join(self.folder, "gone.mrc"))}
        previews = self.made()
        previews.update(wanted, True, False)
        self.assertIsNone(self.until_it_ends(previews, wanted))
        line, = self.said
        self.assertRegex(line, "TS_01: no preview: .*gone.mrc")
        previews.update(wanted, True, False)
        self.assertEqual((previews.series, os.listdir(os.path.join(self.folder, FOLDER))), ("", []))

    def test_it_is_ended_when_final_work_waits_and_begun_again_when_none_does(self):
        wanted = {"TS_01": self.endless()}
        previews = self.made()
        previews.update(wanted, False, False)
        self.assertEqual(previews.series, "")                   # something waits: not begun
        previews.update(wanted, True, False)
        process = previews._work.process
        previews.update(wanted, False, False)
        self.assertIsNone(process.poll())                       # a little waits: it goes on
        previews.update(wanted, False, True)
        self.assertIsNotNone(process.poll())
        self.assertEqual((os.listdir(os.path.join(self.folder, FOLDER)), self.said), ([], []))
        previews.update(wanted, True, False)
        self.assertEqual(previews.series, "TS_01")

    def test_it_is_ended_when_its_series_is_composed(self):
        previews = self.made()
        previews.update({"TS_01": self.endless()}, True, False)
        process = previews._work.process
        previews.update({}, True, False)
        self.assertIsNotNone(process.poll())

    def test_the_newest_series_comes_first(self):
        first, last = self.endless(), self.request(os.path.join(self.folder, "fifo.mrc"), name="TS_02")
        previews = self.made()
        previews.update({"TS_01": first, "TS_02": last}, True, False)
        self.assertEqual(previews.series, "TS_02")

    def test_what_a_killed_writer_left_behind_is_removed(self):
        left = os.path.join(self.folder, FOLDER, "0")
        os.makedirs(left)
        self.made()
        self.assertFalse(os.path.exists(left))


class FakePreviews:
    """Delivers a preview when it may; keeps what it was given."""

    def __init__(self, folder: str) -> None:
        self.folder, self.told, self.over = folder, [], set()

    def update(self, wanted, may_start, must_yield):
        self.told.append((list(wanted), may_start, must_yield))
        for name, request in wanted.items():
            if may_start and name not in self.over:
                self.over.add(name)
                place = os.path.join(self.folder, name)
                os.makedirs(place, exist_ok=True)
                write_mrc(os.path.join(place, "preview.mrc"), marked_volume(), 8.0)
                return request, os.path.join(place, "preview.mrc")
        return None

    def has(self, name):
        self.over.add(name)

    def close(self):
        pass


class TestOnThePage(WithProject):
    def test_the_page_says_why_no_preview_can_come(self):
        self.project.acquire("TS_01", tilts=4)
        self.project.report(COMPOSE, "TS_01", entries.Preview, "time for a preview", tilts=(("a.mrc", 0.0),) * 4, expected=5,
                            pixel_size_A=4.0)
        self.writer().finish()
        self.assertEqual(self.read("data", "session.js")["preview_trouble"],
                         "TS_01: no preview: its mdoc gives no tilt axis or no pixel size")

    def page(self) -> writer.ReportWriter:
        made = self.writer(say=self.said.append)
        made.previews.maker = FakePreviews(self.folder)
        return made

    def setUp(self):
        super().setUp()
        self.said = []
        self.project.acquire("TS_01", tilts=3)
        self.ask("TS_01")

    def ask(self, name: str) -> None:
        self.project.report(COMPOSE, name, entries.Preview, "time for a preview", tilts=(("a.mrc", -3.0), ("b.mrc", 0.0)),
                            expected=5, tilt_axis=85.0, pixel_size_A=4.0)

    def update(self, page: writer.ReportWriter) -> None:
        page.update()
        page.previews.wait(60)
        page.update()

    def pictures(self) -> list[str]:
        return sorted(name for name in os.listdir(self.path("series", "TS_01")) if name.startswith("v0-"))

    def test_a_preview_comes_to_the_page_marked_and_never_as_a_tomogram(self):
        page = self.page()
        self.update(page)
        session = self.read("data", "session.js")
        self.assertEqual(session["preview"], {"series_id": "TS_01", "tilts": 2, "expected": 5})
        self.assertEqual((session["latest"], session["series"]), ("", {"acquiring": 1}))
        payload = self.read("series", "TS_01", "data.js")
        self.assertEqual(payload["pictures"]["preview"], [2, 5])
        page.finish()
        row, = self.rows()
        self.assertEqual((row["thumb"], row["tomogram"], row["state"]), ("v0-thumb.webp", "", "acquiring"))
        self.assertEqual(os.listdir(self.folder), ["proj"])        # the volume is gone

    def test_one_that_ends_in_an_error_nobody_foresaw_stands_in_the_way_of_nothing(self):
        page = self.page()
        with mock.patch.object(previews, "paint_preview", side_effect=IndexError("unforeseen")):
            page.update()
            page.previews.wait(60)
            self.assertRaises(IndexError, page.update)      # whoever follows logs it, and goes on
        self.project.acquire("TS_02", tilts=3)
        self.ask("TS_02")
        self.update(page)
        self.assertEqual(self.read("data", "session.js")["preview"]["series_id"], "TS_02")

    def test_it_stays_until_the_tomogram_replaces_it(self):
        page = self.page()
        self.update(page)
        self.project.acquire("TS_01")
        self.project.compose("TS_01")
        page.finish()
        self.assertEqual(self.read("series", "TS_01", "data.js")["pictures"]["preview"], [2, 5])
        self.assertEqual((self.rows()[0]["thumb"], self.read("data", "session.js")["preview"]), ("v0-thumb.webp", None))
        self.project.reconstruct("TS_01")
        page.finish()
        self.assertNotIn("preview", self.read("series", "TS_01", "data.js")["pictures"])
        self.assertEqual((self.rows()[0]["thumb"], self.pictures()), ("v1-thumb.webp", []))

    def test_it_goes_when_the_series_fails(self):
        page = self.page()
        self.update(page)
        self.project.report(COMPOSE, "TS_01", entries.Failed, "two tilts only")
        page.finish()
        self.assertEqual((self.rows()[0]["thumb"], self.pictures()), ("", []))

    def test_none_is_begun_while_movies_or_series_wait(self):
        page = self.page()
        for n in range(7):
            self.project.report(IMPORT, f"m{n}.tif", entries.Imported, mtime=self.project.time)
        page.update()
        self.assertEqual(page.previews.maker.told[-1], (["TS_01"], False, True))
        for n in range(7):
            self.project.report(MOTIONCOR, f"m{n}.tif", entries.Failed, "no frames")    # lost movies do not wait
        self.update(page)
        self.assertEqual(page.previews.maker.told[-1], (["TS_01"], True, False))
        page.update()
        self.project.acquire("TS_02")
        self.project.compose("TS_02")
        self.project.report(ARETOMO, "TS_02", entries.Started, "to be aligned", version=1)
        page.update()
        self.assertEqual(page.previews.maker.told[-1][1:], (False, True))

    def test_the_next_writer_shows_it_and_does_not_make_it_again(self):
        self.update(self.page())
        page = self.page()
        page.update()
        self.assertEqual(self.read("data", "session.js")["preview"]["series_id"], "TS_01")
        self.assertIn("TS_01", page.previews.maker.over)

    def test_a_preview_of_which_no_picture_can_be_made_is_a_line_and_nothing_else(self):
        page = self.page()
        with mock.patch.object(painting.pictures, "paint_tomogram", side_effect=ValueError("no volume")):
            self.update(page)
        self.assertEqual(self.said, ["TS_01: no preview: no volume"])
        self.assertIsNone(self.read("data", "session.js")["preview"])

    def test_a_request_that_makes_no_sense_is_no_request(self):
        for wrong in (entries.Preview("TS_01"), entries.Preview("TS_01", tilts=(("a.mrc", 0.0),), pixel_size_A=4.0),
                      entries.Preview("TS_01", tilt_axis=1.0, pixel_size_A=4.0)):
            self.assertIsNone(request_of("/p", wrong))


if __name__ == "__main__":
    unittest.main()
