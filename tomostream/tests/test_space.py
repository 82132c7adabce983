# SPDX-License-Identifier: GPL-3.0-or-later
"""What a session needs on disk is reported in time, and what is not needed is removed on request, and nothing else."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
import unittest
from unittest import mock
from unittest.mock import patch

import mrcfile
import numpy as np
import pytest

from tomostream.journal import entries, ledger, space
from tomostream.journal.composed import SeriesRecord, TiltRecord
from tomostream.journal.status import ARETOMO, CLASSES, COMPOSE, IMPORT, MOTIONCOR
from tomostream.protocols import disk
from tomostream.tests.standins import value_of
from tomostream.tests.support import Session, end, read_rows, wait_for

GB = 10**9


class WithLedgers(unittest.TestCase):
    """A project of ledgers: 60 movies, one a minute; 3 series of 20 tilts of 4 MB, stacks of 80 MB, tomograms of 30 MB."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.project = folder.name
        self.books = {}
        for number, (name, class_name) in enumerate(CLASSES.items(), start=1):
            extra = os.path.join(self.project, "Runs", f"{number:06d}_{class_name}", "extra")
            os.makedirs(extra)
            self.books[name] = ledger.Ledger(os.path.join(extra, ledger.NAME))

    def acquire(self, movies: int = 60, copied: int | None = None) -> None:
        for number in range(movies):
            size = {} if copied is None else {"bytes": copied}
            self.books[IMPORT].write(entries.Imported(f"m{number}", "", **size, time=60.0 * number))
            self.books[MOTIONCOR].write(entries.Aligned(f"m{number}", "", bytes=4_000_000, time=60.0 * number + 5))

    def finish(self, series: int = 3) -> None:
        for number in range(series):
            self.books[COMPOSE].write(entries.Composed(f"TS_{number}", "", tilts=20, bytes=80_000_000))
            self.books[ARETOMO].write(entries.Reconstructed(f"TS_{number}", "", bytes=30_000_000))


class TestForecast(WithLedgers):
    def forecast(self, free: float, series: int | None = None) -> space.Forecast:
        follower = space.SessionSpace(self.project)
        follower.update()
        with patch.object(space, "disk_of", return_value=(int(free), 10 * GB)):
            return follower.forecast(series)

    def test_a_series_needs_what_the_ones_before_took(self):
        self.acquire()
        self.finish()
        forecast = self.forecast(5 * GB)
        self.assertEqual(dict(forecast.parts), {"aligned tilts": 80_000_000, "stack": 80_000_000, "tomogram": 30_000_000})
        self.assertAlmostEqual(forecast.pace, 3.0)
        self.assertIn("a series of 20 tilts needs 190 MB", forecast.text())
        self.assertIn("room for 26 series, 9 h at the present pace", forecast.text())

    def test_copied_movies_count(self):
        self.acquire(copied=10_000_000)
        self.finish()
        self.assertEqual(self.forecast(5 * GB).per_series, 390_000_000)

    def test_before_the_first_series_is_done_it_is_foreseen_from_its_first_tilts(self):
        self.acquire(movies=2)
        self.books[COMPOSE].write(entries.Series("TS_0", "", seen=2, expected=41))
        self.assertEqual(dict(self.forecast(5 * GB).parts), {"aligned tilts": 164_000_000, "stack": 164_000_000})
        self.books[ARETOMO].write(entries.Started("TS_0", "", bytes=7_000_000))
        self.assertEqual(dict(self.forecast(5 * GB).parts)["tomogram"], 7_000_000)

    def test_nothing_is_foreseen_before_the_first_tilt(self):
        forecast = self.forecast(5 * GB)
        self.assertIsNone(forecast.per_series)
        self.assertIn("will be known when the first tilt is aligned", forecast.text())
        self.assertEqual(forecast.shortage(), "")

    def test_a_night_at_the_present_pace_must_fit(self):
        self.acquire()
        self.finish()       # 12 h x 3 series x 190 MB = 6.84 GB
        self.assertEqual(self.forecast(6.9 * GB).shortage(), "")
        self.assertIn("6.8 GB are free, but 12 h at the present pace need 6.84 GB", self.forecast(6.8 * GB).shortage())

    def test_the_series_that_are_expected_must_fit(self):
        self.acquire()
        self.finish()
        self.assertEqual(self.forecast(1.4 * GB, series=10).shortage(), "")         # 7 are still to come: 1.33 GB
        self.assertIn("the 7 series still expected need 1.33 GB", self.forecast(1.3 * GB, series=10).shortage())
        self.assertEqual(self.forecast(0.1 * GB, series=3).shortage(), "")

    def test_a_disk_that_was_short_needs_more_before_it_is_not(self):
        self.acquire()
        self.finish()
        self.assertTrue(self.forecast(7.0 * GB).shortage(was_short=True))
        self.assertEqual(self.forecast(8.3 * GB).shortage(was_short=True), "")

    def test_a_twentieth_of_the_disk_is_short_while_nothing_else_is_known(self):
        limits = space.Limits(bytes=0)
        self.assertIn("490 MB are free, 5 % of it", self.forecast(0.49 * GB).shortage(limits))
        self.assertTrue(self.forecast(0.55 * GB).shortage(limits, was_short=True))
        self.assertEqual(self.forecast(0.55 * GB).shortage(limits), "")

    def test_fewer_bytes_than_the_limit_are_short_but_no_more_than_a_tenth_of_a_small_disk(self):
        self.assertTrue(space.Room(4_900_000_000, 60 * GB).shortage())
        self.assertEqual(space.Room(5_100_000_000, 60 * GB).shortage(), "")
        self.assertTrue(space.Room(5_900_000_000, 60 * GB).shortage(was_short=True))
        self.assertEqual(space.Room(int(1.1 * GB), 10 * GB).shortage(), "")
        self.assertTrue(space.Room(int(0.9 * GB), 10 * GB).shortage())

    def test_a_disk_that_does_not_answer_is_reported_as_unknown_and_never_short(self):
        self.acquire()
        self.finish()
        self.assertIsNone(space.disk_of(os.path.join(self.project, "gone")))
        follower = space.SessionSpace(self.project)
        follower.update()
        with patch.object(space, "disk_of", return_value=None):
            forecast = follower.forecast(10)
        self.assertEqual((forecast.shortage(), forecast.free), ("", None))
        self.assertIn("is unknown; a series of 20 tilts needs 190 MB", forecast.text())

    def test_sizes_are_written_as_people_write_them(self):
        self.assertEqual([space.human(size) for size in (0, 999, 1000, 61_234_567_890, 2.5e12)],
                         ["0 B", "999 B", "1 kB", "61.2 GB", "2.5 TB"])


class TestTheKeeperOfTheDisk(WithLedgers):
    """What the compose protocol does about the disk."""

    def setUp(self) -> None:
        super().setUp()
        self.told: list[tuple[str, bool, bool]] = []
        self.protocol = mock.Mock(report=lambda entry, warn: self.told.append((entry.reason, entry.short, warn)))
        self.protocol.getWorkingDir.return_value = os.path.join(self.project, "Runs", "000003_ProtTomoStreamComposeTS")
        self.protocol.expectedSeries.get.return_value = None
        with mock.patch.object(disk.alarms, "thresholds_of", return_value=disk.alarms.Thresholds()):
            self.keeper = disk.DiskKeeper(self.protocol)

    def look(self, now: float, free_GB: float) -> list[tuple[str, bool, bool]]:
        """What is reported at a look with so much room."""
        self.told.clear()
        with patch.object(space, "disk_of", return_value=(int(free_GB * GB), 10 * GB)):
            self.keeper.look(now)
        return list(self.told)

    def test_says_once_what_a_series_needs_and_once_when_space_is_running_low_and_is_sufficient_again(self) -> None:
        self.acquire()
        self.finish()
        (words, short, warn), = self.look(0.0, 6.9)
        self.assertIn("a series of 20 tilts needs 190 MB", words)
        self.assertEqual((short, warn), (False, False))
        self.assertEqual(self.look(2.0, 6.9), [])
        self.assertEqual(self.look(2.0 + disk.LOOK_SECONDS - 0.1, 6.8), [])     # it does not look yet
        (words, short, warn), = self.look(2.0 + disk.LOOK_SECONDS, 6.8)
        self.assertIn("12 h at the present pace need 6.84 GB", words)
        self.assertEqual((short, warn), (True, True))
        self.assertEqual(self.look(60.0, 7.0), [])                          # not enough more to be over
        (words, short, warn), = self.look(90.0, 8.3)
        self.assertIn("disk space is sufficient again: 8.3 GB are free", words)
        self.assertEqual((short, warn), (False, False))

    def test_looks_often_until_it_is_known_what_a_whole_series_takes(self) -> None:
        self.assertEqual(len(self.look(0.0, 9.0)), 1)
        self.acquire()
        self.finish()
        (words, _, _), = self.look(disk.FIRST_SECONDS, 9.0)
        self.assertIn("tomogram 30 MB", words)

    def test_removes_single_images_where_the_form_says_so_and_halves_where_they_are_stacked(self) -> None:
        names = {each: os.path.join(self.project, f"{each}.mrc") for each in ("sum", "even", "odd")}
        record = SeriesRecord("TS_1", (TiltRecord("gone", 0.0, os.path.join(self.project, "gone.mrc")),
                                       TiltRecord("m", 0.0, names["sum"], even=names["even"], odd=names["odd"])))
        for asked, halves, left in ((False, True, {"sum", "even", "odd"}), (True, False, {"even", "odd"}), (True, True, set())):
            for path in names.values():
                with open(path, "w", encoding="utf-8"):
                    pass
            self.protocol.removeAligned.get.return_value, self.protocol.doEvenOdd.get.return_value = asked, halves
            self.keeper.remove_aligned(record)
            self.assertEqual({each for each, path in names.items() if os.path.exists(path)}, left)



class TestImagesOfAnEarlierStack(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def test_a_tilt_is_found_by_its_movie_and_version(self):
        from tomostream.journal.composed import SeriesRecord, TiltRecord, write_record
        from tomostream.protocols.stacks import find_image, read_image, stack_images

        paths = []
        for value in (1.0, 2.0, 3.0):
            paths.append(os.path.join(self.folder, f"{value:.0f}.mrc"))
            with mrcfile.new(paths[-1]) as image:
                image.set_data(np.full((4, 6), value, np.float32))
        tilts = tuple(TiltRecord(f"m{n}", 3.0 * n, path, n) for n, path in enumerate(paths))
        stem = os.path.join(self.folder, "TS_01")
        stack_images(paths, f"{stem}.mrcs", 2.0)
        write_record(SeriesRecord("TS_01", tilts), f"{stem}.json")
        os.remove(paths[1])
        self.assertEqual(find_image(tilts[0], "", [stem]), paths[0])
        found = find_image(tilts[1], "", [stem])
        self.assertEqual(found, f"2@{stem}.mrcs")
        np.testing.assert_array_equal(read_image(found), np.full((4, 6), 2.0, np.float32))
        newer = TiltRecord("m1", 3.0, paths[1], 1, micrograph_version=2)
        self.assertEqual(find_image(newer, "", [stem]), paths[1])       # another exposure than that of the stack


@pytest.mark.chain
class TestRemoving(unittest.TestCase):
    """A series whose second movie is exposed again after the aligned tilts were removed and two protocols were killed."""

    @classmethod
    def setUpClass(cls):
        cls.session = session = Session()
        cls.addClassCleanup(session.__exit__)
        session.use_standins("0.1")
        run = session.run("--timeout", "60", engine="gpu", settings={
            "import.fileTimeout": 4, "compose.time4NextTilt": 6, "compose.expectedTilts": 5, "motioncor.gpuList": "60 61",
            "aretomo.gpuList": "62", "compose.removeAligned": True, "aretomo.removeReplaced": True, "aretomo.binFactor": 2,
            "aretomo.tomoThickness": 40, "aretomo.alignZ": 20})
        wait_for(lambda: session.ledger(ARETOMO), 240, "start of the last protocol")
        options = ("--tilts", "5", "--size", "64", "--interval", "0.1")
        session.simulate("--series", "1", "--frames", "3", *options).wait(timeout=60)
        wait_for(lambda: session.events(ARETOMO, entries.Reconstructed), 240, "tomogram")
        wait_for(lambda: not cls.micrographs(), 240, "removal")
        for name in (MOTIONCOR, COMPOSE):
            for pid in session.pids(name):
                end(pid)
        wait_for(lambda: session.call("resume", session.project, "--no-follow") == 0, 240, "resumed session")
        wait_for(lambda: all(any("continues" in entry.reason for entry in session.ledger(name)) for name in (MOTIONCOR, COMPOSE)),
                 60, "continued protocol")
        session.start("simulate", os.path.join(session.folder, "more"), "--quiet", "--series", "1", "--frames", "4",
                      *options).wait(timeout=60)
        again, = glob.glob(os.path.join(session.folder, "more", "frames", "TS_01_002_*"))
        shutil.copyfile(again, os.path.join(session.folder, "part"))
        os.replace(os.path.join(session.folder, "part"), os.path.join(session.frames, os.path.basename(again)))
        wait_for(lambda: len(session.events(ARETOMO, entries.Reconstructed)) == 2, 240, "second tomogram")
        with open(os.path.join(session.folder_of(IMPORT), "extra", "STOP_STREAMING.TXT"), "w", encoding="utf-8"):
            pass
        cls.status = run.wait(timeout=300)

    @classmethod
    def micrographs(cls) -> list[str]:
        return glob.glob(os.path.join(cls.session.folder_of(MOTIONCOR), "extra", "*_aligned_mic*.mrc"))

    def test_the_aligned_tilts_are_gone_and_the_session_is_whole(self):
        self.assertEqual(self.status, 0, self.session.said("run"))
        self.assertEqual(self.micrographs(), [])
        self.assertEqual(len(self.session.rows(MOTIONCOR)), 5)

    def test_the_repeated_tilt_is_new_and_the_others_come_from_the_stack_before(self):
        rows = self.session.tilts(COMPOSE, "TS_01")
        stack = os.path.join(self.session.project, rows[0]["_filename"])
        self.assertTrue(stack.endswith("TS_01-v2.mrcs"))
        with mrcfile.open(stack) as mrc:
            means = {row["_acqOrder"]: mrc.data[int(row["_index"]) - 1].mean() for row in rows}
        movies = {order: glob.glob(os.path.join(self.session.frames, f"TS_01_{order:03d}_*"))[0] for order in range(1, 6)}
        self.assertEqual(means, {order: value_of(movie) for order, movie in movies.items()})

    def test_nothing_was_aligned_again_because_its_file_is_gone(self):
        runs = [run["item"][:9] for run in self.session.standin_runs() if run["program"] == "MotionCor3"]
        self.assertEqual(sorted(runs), ["TS_01_001", "TS_01_002", "TS_01_002", "TS_01_003", "TS_01_004", "TS_01_005"])

    def test_of_two_tomograms_the_one_that_is_registered_is_there(self):
        row, = read_rows(os.path.join(self.session.folder_of(ARETOMO), "tomograms.sqlite"))
        self.assertTrue(os.path.exists(os.path.join(self.session.project, row["_filename"])))
        self.assertFalse(os.path.exists(os.path.join(self.session.folder_of(ARETOMO), "extra", "TS_01")))

    def test_the_log_and_status_say_what_a_series_needs(self):
        self.assertIn("a series of 5 tilts needs", self.session.log_of(COMPOSE))
        self.session.call("status", self.session.project)
        self.assertIn("a series of 5 tilts needs", self.session.said("status"))


if __name__ == "__main__":
    unittest.main()
