# SPDX-License-Identifier: GPL-3.0-or-later
"""The streaming room: what is noticed, what is started when, what is registered, and that it is so exactly once."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import math
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

import psutil
from pwem.objects import Acquisition, Movie, SetOfMovies
from tomo.objects import SetOfTiltSeries, TiltImage, TiltSeries, TomoAcquisition

from tomostream.files import clock
from tomostream.journal import runs
from tomostream.journal.layout import stop_file
from tomostream.journal.space import disk_of
from tomostream.streaming import executor, orphans, sets, watch
from tomostream.streaming import gpus as gpus_room
from tomostream.streaming import protocol as protocol_room
from tomostream.streaming import rows as rows_room
from tomostream.streaming.bookkeeping import Bookkeeping
from tomostream.streaming.form import StreamingForm
from tomostream.streaming.gpus import PROGRAMS_PER_GPU, gpu_lock, inherited
from tomostream.streaming.obstacles import is_full
from tomostream.streaming.protocol import StreamingProtocol
from tomostream.streaming.rows import RowReader
from tomostream.streaming.tickets import Stopped
from tomostream.streaming.work import ProgramFailed
from tomostream.tests.support import read_property, read_rows, wait_for


class InAFolder(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)

    def path(self, *parts: str) -> str:
        return os.path.join(self.folder, *parts)

    def write(self, *parts: str, text: str = "x") -> str:
        os.makedirs(os.path.dirname(self.path(*parts)), exist_ok=True)
        with open(self.path(*parts), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(*parts)


class Silent:
    """A watcher that hears nothing, as on a network disk."""

    hears = True

    def add(self, folder: str, recursive: bool = False, only=None) -> bool:
        return False

    def forget(self, folder: str) -> None:
        pass

    def take(self) -> set[str]:
        return set()


class Told(Silent):
    """A watcher that hears what the test tells it."""

    def __init__(self) -> None:
        self.paths: set[str] = set()

    def add(self, folder: str, recursive: bool = False, only=None) -> bool:
        return True

    def take(self) -> set[str]:
        taken, self.paths = self.paths, set()
        return taken


class TestAWatcherWhoseThreadEnded(InAFolder):
    def test_is_noticed_and_the_folder_is_looked_at(self):
        watcher = watch.Watcher(lambda: None)
        self.addCleanup(watcher.stop)
        files = watch.FolderWatch(self.path("*.tif"), watcher, poll=5.0)
        files.changes(0.0)
        self.assertTrue(files.heard)
        emitter, = watcher._observer.emitters
        emitter.stop()
        emitter.join()
        self.write("a.tif")
        self.assertEqual([os.path.basename(path) for path, _ in files.changes(1.0)], ["a.tif"])
        self.assertFalse(files.heard)
        self.write("b.tif")
        self.assertEqual([os.path.basename(path) for path, _ in files.changes(6.1)], ["b.tif"])


class TestAFolderThatIsPolled(InAFolder):
    def watch(self, pattern: str = "*.tif") -> watch.FolderWatch:
        return watch.FolderWatch(self.path(pattern), Silent(), poll=5.0)

    def names(self, found) -> list[str]:
        return [os.path.relpath(path, self.folder) for path, _ in found]

    def test_gives_each_file_once(self):
        self.write("a.tif")
        files = self.watch()
        self.assertEqual(self.names(files.changes(0.0)), ["a.tif"])
        self.assertEqual(files.changes(5.0), [])
        self.write("b.tif")
        self.assertEqual(self.names(files.changes(10.0)), ["b.tif"])

    def test_is_not_looked_at_before_its_interval_is_over(self):
        files = self.watch()
        files.changes(0.0)
        self.write("a.tif")
        self.assertEqual(files.changes(4.9), [])
        self.assertAlmostEqual(files.seconds_to_next_look(4.0), 1.0)
        self.assertEqual(self.names(files.changes(5.0)), ["a.tif"])

    def test_gives_a_file_again_when_it_has_grown(self):
        self.write("a.tif")
        files = self.watch()
        files.changes(0.0)
        self.write("a.tif", text="more of it")
        self.assertEqual(self.names(files.changes(5.0)), ["a.tif"])

    def test_passes_over_other_names_hidden_files_and_folders(self):
        self.write(".a.tif")
        self.write("a.txt")
        os.makedirs(self.path("folder.tif"))
        self.assertEqual(self.watch().changes(0.0), [])

    def test_takes_a_folder_that_exists_by_its_name_whatever_signs_are_in_it(self):
        self.write("run [2]", "frames", "a.tif")
        self.write("run 2", "frames", "b.tif")
        for pattern in (("run [2]", "frames", "*.tif"), ("run [2]", "*", "*.tif"), ("run [2]", "**", "frames", "*.tif")):
            files = watch.FolderWatch(self.path(*pattern), Silent(), poll=5.0)
            self.assertEqual(self.names(files.changes(0.0)), ["run [2]/frames/a.tif"])
            self.assertEqual(files.root(), self.path("run [2]", "frames") if pattern[1] == "frames" else self.path("run [2]"))
        wild = watch.FolderWatch(self.path("run[ ]2", "frames", "*.tif"), Silent(), poll=5.0)
        self.assertEqual(self.names(wild.changes(0.0)), ["run 2/frames/b.tif"])

    def test_tells_what_is_gone_once(self):
        self.write("a.tif")
        files = self.watch()
        files.changes(0.0)
        os.remove(self.path("a.tif"))
        files.changes(5.0)
        self.assertEqual(files.gone(), [self.path("a.tif")])
        self.assertEqual(files.gone(), [])

    def test_may_appear_later(self):
        files = self.watch("later/*.tif")
        self.assertEqual(files.changes(0.0), [])
        self.assertIn("does not exist", files.trouble)
        self.write("later", "a.tif")
        self.assertEqual(self.names(files.changes(5.0)), ["later/a.tif"])
        self.assertEqual(files.trouble, "")

    def test_finds_files_in_new_subfolders_of_a_pattern(self):
        files = self.watch("*/frames/*.tif")
        files.changes(0.0)
        self.write("grid1", "frames", "a.tif")
        self.write("grid1", "other", "b.tif")
        self.assertEqual(self.names(files.changes(5.0)), ["grid1/frames/a.tif"])
        self.write("grid2", "frames", "a.tif")
        self.assertEqual(self.names(files.changes(10.0)), ["grid2/frames/a.tif"])

    def test_finds_files_at_any_depth_of_a_pattern_with_two_stars(self):
        self.write("a.tif")
        self.write("b", "c", "d.tif")
        self.assertEqual(sorted(self.names(self.watch("**/*.tif").changes(0.0))), ["a.tif", "b/c/d.tif"])

    def test_that_cannot_be_read_for_a_while_loses_no_file(self):
        self.write("a.tif")
        files = self.watch()
        files.changes(0.0)
        self.write("b.tif")
        with mock.patch("os.listdir", side_effect=PermissionError(13, "Permission denied")):
            self.assertEqual(files.changes(5.0), [])
        self.assertIn("permission denied", files.trouble)
        self.assertEqual(files.gone(), [])
        self.assertEqual(self.names(files.changes(10.0)), ["b.tif"])

    def test_has_lost_no_file_while_its_disk_is_not_mounted(self):
        """Its place, or that of a folder above it, is then there and empty, on another disk."""
        for pattern, name in (("disk/*.tif", "disk/a.tif"), ("disk/*/*.tif", "disk/grid/a.tif")):
            self.write(name)
            files = self.watch(pattern)
            disk = mock.Mock(st_dev=-7, st_mtime_ns=1)
            with mock.patch.object(watch.os, "fstat", return_value=disk):
                self.assertEqual(self.names(files.changes(0.0)), [name])
            os.rename(self.path("disk"), self.path("away"))
            os.mkdir(self.path("disk"))
            self.assertEqual(files.changes(5.0), [])
            self.assertIn("mounted", files.trouble)
            self.assertEqual((files.gone(), files.seconds_to_next_look(5.0)), ([], 5.0))
            os.rmdir(self.path("disk"))
            os.rename(self.path("away"), self.path("disk"))
            with mock.patch.object(watch.os, "fstat", return_value=disk):
                self.write(os.path.dirname(name), "b.tif")
                disk.st_mtime_ns = 2
                self.assertEqual([os.path.basename(each) for each in self.names(files.changes(10.0))], ["b.tif"])
            self.assertEqual((files.gone(), files.trouble), ([], ""))
            shutil.rmtree(self.path("disk"))

    def test_is_not_listed_while_its_own_time_stands_still(self):
        self.write("a.tif")
        files = self.watch()
        for now in (0.0, 5.0):
            files.changes(now)
        with mock.patch("os.listdir", side_effect=AssertionError("listed")):
            files.changes(10.0)
            files.changes(15.0)

    def test_looks_at_a_slice_of_old_files_only(self):
        for number in range(40):
            self.write(f"{number:03d}.tif")
        files = self.watch()
        files.SLICE, files.LATELY = 10, 1.0
        for now in (0.0, 5.0, 10.0):
            files.changes(now)
        with mock.patch("os.stat", wraps=os.stat) as stat:
            files.changes(15.0)
        self.assertLess(sum(str(call.args[0]).endswith(".tif") for call in stat.mock_calls if call.args), 11)


class TestAFolderThatIsHeard(InAFolder):
    def setUp(self) -> None:
        super().setUp()
        self.told = Told()
        self.files = watch.FolderWatch(self.path("*.tif"), self.told)

    def test_a_file_is_found_that_is_heard_of_together_with_something_in_a_folder_that_is_not_watched(self):
        os.makedirs(self.path("run1"))
        self.write("run1/a.tif")
        files = watch.FolderWatch(self.path("run*", "*.tif"), self.told)
        files.changes(0.0)
        for number in range(20):        # in the order of a set, which differs from name to name
            self.write(f"run1/b{number}.tif")
            self.told.paths = {os.path.realpath(self.path(name)) for name in (f"run1/b{number}.tif", f"state{number}.json")}
            self.assertEqual([path for path, _ in files.changes(1.0 + number)], [self.path("run1", f"b{number}.tif")])

    def test_looks_only_at_what_was_heard_of(self):
        for number in range(30):
            self.write(f"{number}.tif")
        self.files.changes(0.0)
        self.told.paths = {self.write("new.tif")}
        with mock.patch("os.stat", wraps=os.stat) as stat, mock.patch("os.listdir", side_effect=AssertionError("listed")):
            self.assertEqual([path for path, _ in self.files.changes(1.0)], [self.path("new.tif")])
        self.assertLess(stat.call_count, 5)

    def test_is_listed_in_full_from_time_to_time_in_case_an_event_was_lost(self):
        self.files.changes(0.0)
        self.files.changes(5.0)
        self.write("lost.tif")
        self.assertEqual(self.files.changes(20.0), [])
        self.assertEqual([path for path, _ in self.files.changes(700.0)], [self.path("lost.tif")])

    def test_is_listened_to_again_when_another_folder_has_taken_its_name(self):
        """As when a disk is mounted over it: the kernel hears of the folder before, and says nothing."""
        def renamed() -> None:
            os.rename(self.path("frames"), self.path("frames_old"))
            os.mkdir(self.path("frames"))

        def turned() -> None:
            os.symlink(self.path("night2"), self.path("new"))
            os.replace(self.path("new"), self.path("latest"))

        for name in ("frames", "night1", "night2"):
            os.mkdir(self.path(name))
        os.symlink(self.path("night1"), self.path("latest"))
        for folder, change in (("frames", renamed), ("latest", turned)):
            watcher = watch.Watcher(lambda: None)
            self.addCleanup(watcher.stop)
            files = watch.FolderWatch(self.path(folder, "*.tif"), watcher, poll=5.0)
            self.assertEqual(files.changes(0.0), [])
            if not files.heard:
                self.skipTest("this file system tells nothing")
            change()
            path = self.write(folder, "a.tif")
            self.assertLessEqual(files.seconds_to_next_look(1.0), 4.0)
            self.assertEqual([name for name, _ in files.changes(5.0)], [path])
            self.assertTrue(files.heard)
            path = self.write(folder, "b.tif")
            wait_for(lambda files=files, path=path: path in [name for name, _ in files.changes(5.1)], 60, "word of it")

    def test_keeps_the_users_name_of_a_folder_behind_a_link(self):
        os.makedirs(self.path("real"))
        os.symlink(self.path("real"), self.path("link"))
        files = watch.FolderWatch(self.path("link", "*.tif"), self.told)
        files.changes(0.0)
        self.told.paths = {self.write("real", "a.tif")}
        self.assertEqual([path for path, _ in files.changes(1.0)], [self.path("link", "a.tif")])


class TestAWatcher(InAFolder):
    def setUp(self) -> None:
        super().setUp()
        self.woken = threading.Event()
        self.watcher = watch.Watcher(self.woken.set)
        self.addCleanup(self.watcher.stop)

    def hears(self, **kwargs) -> None:
        if not self.watcher.add(self.folder, **kwargs):
            self.skipTest("this file system tells nothing")

    def test_tells_a_file_that_was_closed(self):
        self.hears()
        path = self.write("a.tif")
        wait_for(lambda: self.watcher.how_written(path) == "closed", 60, "word of the closed file", every=0.01)
        self.assertEqual(self.watcher.how_written(path), "")
        self.assertIn(path, self.watcher.take())

    def test_hears_again_in_a_folder_that_was_removed_and_made_again(self):
        self.hears(only=frozenset())
        folder = self.path("grid1")
        os.mkdir(folder)
        self.assertTrue(self.watcher.add(folder))
        os.rmdir(folder)
        wait_for(lambda: len(self.watcher._observer.emitters) == 1, 60, "the end of the old watch", every=0.01)
        os.mkdir(folder)
        self.assertTrue(self.watcher.add(folder))
        path = self.write("grid1/a.tif")
        wait_for(lambda: path in self.watcher.take(), 60, "word of a file in the new folder", every=0.01)
        self.assertTrue(self.watcher.hears)

    def test_tells_a_file_that_was_moved_in_from_elsewhere(self):
        with tempfile.TemporaryDirectory(dir=os.path.dirname(self.folder)) as other:
            source = os.path.join(other, "a.tif")
            with open(source, "w", encoding="utf-8"):
                pass
            self.hears()
            os.replace(source, self.path("a.tif"))
        wait_for(lambda: self.watcher.how_written(self.path("a.tif")) == "moved", 60, "word of the moved file", every=0.01)

    def test_remembers_no_more_files_that_nobody_asks_for_than_it_must(self):
        watcher = watch.Watcher(lambda: None)
        with mock.patch.object(watch, "MAX_CLOSED", 3):
            for number in range(9):
                watcher._collect(f"/frames/{number}.txt", mock.Mock(event_type="closed", src_path=b""))
        self.assertEqual(list(watcher._closed), [f"/frames/{number}.txt" for number in (6, 7, 8)])

    def test_wakes_for_the_named_files_alone_where_only_some_matter(self):
        self.hears(only=frozenset(["STOP"]))
        self.write("other.mrc")
        self.write("STOP")
        self.assertTrue(self.woken.wait(60))
        self.assertEqual(self.watcher.take(), set())

    def test_wakes_when_a_database_was_committed(self):
        self.hears(only=frozenset())
        connection = sqlite3.connect(self.path("movies.sqlite"))
        self.addCleanup(connection.close)
        connection.execute("CREATE TABLE Objects (id INTEGER)")
        connection.commit()
        self.assertTrue(self.woken.wait(60))


    def test_is_not_notified_of_files_that_are_only_read(self):
        old, new, told = self.write("a.tif"), self.path("b.tif"), []
        with mock.patch.object(self.watcher, "_hear", told.append):
            self.hears()
            with open(old, "rb") as file:
                file.read()
            self.write("b.tif")
            wait_for(lambda: (new, "closed") in {(event.src_path, event.event_type) for event in list(told)}, 60,
                     "word of the closed file", every=0.01)
        self.assertEqual({event.src_path for event in told}, {new})

    def test_goes_on_hearing_after_an_error_of_its_own(self):
        woken = threading.Event()
        watcher = watch.Watcher(woken.set)
        self.addCleanup(watcher.stop)
        self.assertTrue(watcher.add(self.folder))
        with mock.patch.object(watch, "is_database", side_effect=RuntimeError("unforeseen")), self.assertLogs(watch.__name__):
            self.write("a.tif")
            self.assertTrue(woken.wait(60))
        self.write("b.tif")
        wait_for(lambda: os.path.realpath(self.path("b.tif")) in watcher.take(), 60, "word of the next file", every=0.01)


class TestTheFileSystem(InAFolder):
    def mounts(self, text: str) -> str:
        return self.write("mounts", text=text)

    def test_of_a_path_is_that_of_its_nearest_mount(self):
        mounts = self.mounts(f"disk / ext4 rw\nserver:/x {self.folder} nfs4 rw\n")
        self.assertEqual(watch.file_system_of(self.path("movies"), mounts), "nfs4")
        self.assertEqual(watch.file_system_of("/somewhere/else", mounts), "ext4")

    def test_that_another_machine_may_write_to_is_polled(self):
        for kind, heard in (("nfs4", False), ("fuse.sshfs", False), ("lustre", False), ("fuse", False),
                            ("virtiofs", False), ("ext4", True), ("xfs", True),
                            ("", False)):
            with mock.patch.object(watch, "file_system_of", return_value=kind):
                self.assertEqual(watch.hears_changes(self.folder), heard, kind)


def movie(name: str, pixel_size: float = 2.0) -> Movie:
    made = Movie()
    made.setLocation(f"extra/{name}")
    made.setMicName(name)
    made.setSamplingRate(pixel_size)
    made.setAcquisition(Acquisition(magnification=50000, voltage=300.0))
    made.setFramesRange([1, 8, 1])
    return made


class WithMovies(InAFolder):
    def setUp(self) -> None:
        super().setUp()
        self.file = self.path("movies.sqlite")
        self.output = self.open()

    def open(self) -> sets.OutputSet:
        items = SetOfMovies(filename=self.file)
        if not items._getMapper().doCreateTables:
            items.loadAllProperties()
        items.load()
        output = sets.OutputSet(items, movie("template"), "_micName")
        items.setSamplingRate(2.0)
        output.set_stream_state(SetOfMovies.STREAM_OPEN)
        self.addCleanup(items.close)
        return output

    def put(self, *names: str, version: int = 1, pixel_size: float = 2.0) -> None:
        for name in names:
            self.output.put(name, movie(name, pixel_size), version)

    def names(self) -> list[tuple[int, str]]:
        return [(row["id"], row["_micName"]) for row in read_rows(self.file)]


class TestAnOutput(WithMovies):
    def test_is_there_with_its_tables_before_the_first_item(self):
        self.assertEqual(self.names(), [])
        self.assertEqual(read_property(self.file, "_streamState"), "1")

    def test_that_was_empty_when_its_run_was_killed_goes_on(self):
        self.output.items.close()
        self.output = self.open()
        self.put("a.tif")
        self.output.commit()
        self.assertEqual(self.names(), [(1, "a.tif")])

    def test_shows_nothing_before_the_commit_and_everything_after(self):
        self.put("a.tif", "b.tif")
        self.assertEqual(self.names(), [])
        self.assertTrue(self.output.commit())
        self.assertEqual(self.names(), [(1, "a.tif"), (2, "b.tif")])
        self.assertEqual(read_property(self.file, "_size"), "2")
        self.assertFalse(self.output.commit())

    def test_knows_after_a_restart_that_its_first_row_of_an_item_was_a_later_version(self):
        self.put("a.tif", version=2)        # the first version failed
        self.put("b.tif")
        self.output.commit()
        self.output.items.close()
        self.output = self.open()
        self.assertEqual(self.output.versions, {"a.tif": 2, "b.tif": 1})

    def test_is_read_by_scipion_as_its_own(self):
        self.put("a.tif", "b.tif")
        self.output.commit()
        items = SetOfMovies(filename=self.file)
        self.addCleanup(items.close)
        items.loadAllProperties()
        self.assertEqual([item.getMicName() for item in items], ["a.tif", "b.tif"])
        self.assertEqual((items.getSize(), items.getSamplingRate(), items.isStreamOpen()), (2, 2.0, True))

    def test_goes_on_after_it_was_opened_again(self):
        self.put("a.tif")
        self.output.commit()
        self.output.items.close()
        self.output = self.open()
        self.assertEqual((self.output.ids, self.output.versions), ({"a.tif": 1}, {"a.tif": 1}))
        self.put("b.tif")
        self.output.commit()
        self.assertEqual(self.names(), [(1, "a.tif"), (2, "b.tif")])

    def test_says_of_itself_what_its_file_says_whatever_the_project_remembers(self):
        protocol = mock.Mock(_getPath=lambda name: self.path(name), outputMovies=SetOfMovies(filename=self.file), outputs={},
                             output_files={"outputMovies": "movies.sqlite"})
        self.addCleanup(protocol.outputMovies.close)
        self.assertIsNone(protocol.outputMovies.getSamplingRate())
        output = StreamingProtocol.open_output(protocol, "outputMovies", movie("template"), "_micName")
        self.assertEqual(output.items.getSamplingRate(), 2.0)
        self.assertEqual(read_property(self.file, "_samplingRate"), "2.0")

    def test_replaces_an_item_in_its_row_as_a_higher_version(self):
        self.put("a.tif", "b.tif")
        self.output.commit()
        self.put("a.tif", version=2, pixel_size=3.0)
        self.output.commit()
        self.assertEqual(self.names(), [(1, "a.tif"), (2, "b.tif")])
        self.assertEqual(read_rows(self.file)[0]["_samplingRate"], 3.0)
        self.output.items.close()
        self.assertEqual(self.open().versions, {"a.tif": 2, "b.tif": 1})

    def test_removes_an_item_and_counts_the_rest(self):
        self.put("a.tif", "b.tif")
        self.output.commit()
        self.output.remove("a.tif")
        self.output.remove("a.tif")
        self.output.commit()
        self.assertEqual(self.names(), [(2, "b.tif")])
        self.assertEqual(read_property(self.file, "_size"), "1")

    def test_that_is_locked_keeps_what_waits_and_writes_it_once(self):
        lock = sqlite3.connect(self.file)
        self.addCleanup(lock.close)
        self.put("a.tif")
        self.output.commit()
        lock.execute("BEGIN EXCLUSIVE")
        self.put("b.tif", "c.tif")
        self.output.connection.execute("PRAGMA busy_timeout=50")
        with self.assertRaises(sets.NotCommitted) as caught:
            self.output.commit()
        self.assertIn("locked", str(caught.exception))
        self.assertEqual(self.output.ids, {"a.tif": 1})
        lock.rollback()
        self.output.commit()
        self.assertEqual(self.names(), [(1, "a.tif"), (2, "b.tif"), (3, "c.tif")])
        self.assertEqual(read_property(self.file, "_size"), "3")

    def test_on_a_full_disk_is_rolled_back_and_written_when_there_is_room(self):
        self.put("a.tif")
        self.output.commit()
        pages = self.output.connection.execute("PRAGMA page_count").fetchone()[0]
        self.output.connection.execute(f"PRAGMA max_page_count={pages}")
        self.put(*(f"{number}.tif" for number in range(200)))
        with self.assertRaises(sets.NotCommitted) as caught:
            self.output.commit()
        self.assertIn("full", str(caught.exception))
        self.assertEqual(self.names(), [(1, "a.tif")])
        self.output.connection.execute(f"PRAGMA max_page_count={10 * pages + 1000}")
        self.output.commit()
        self.assertEqual(len(self.names()), 201)
        self.assertEqual([row_id for row_id, _ in self.names()], list(range(1, 202)))

    def test_does_not_wait_for_a_lock_as_long_as_pyworkflow_does(self):
        self.assertEqual(self.output.connection.execute("PRAGMA busy_timeout").fetchone()[0], sets.BUSY_MS)


def tilt_series(series_id: str, tilts: int) -> tuple[TiltSeries, list[TiltImage]]:
    series = TiltSeries(tsId=series_id)
    series.setAcquisition(TomoAcquisition(magnification=50000, voltage=300.0))
    series.setSamplingRate(2.0)
    images = []
    for index in range(1, tilts + 1):
        image = TiltImage()
        image.setTsId(series_id)
        image.setLocation(index, f"{series_id}.mrcs")
        image.setTiltAngle(3.0 * index)
        image.setAcquisitionOrder(index)
        image.setSamplingRate(2.0)
        image.setAcquisition(series.getAcquisition().clone())
        images.append(image)
    return series, images


class TestAnOutputOfTiltSeries(InAFolder):
    def setUp(self) -> None:
        super().setUp()
        self.file = self.path("tiltseries.sqlite")
        items = SetOfTiltSeries(filename=self.file)
        items.load()
        self.addCleanup(items.close)
        self.output = sets.OutputSet(items, tilt_series("template", 1)[0], "_tsId")
        items.setSamplingRate(2.0)
        self.output.set_stream_state(SetOfTiltSeries.STREAM_OPEN)

    def put(self, series_id: str, tilts: int = 3, version: int = 1) -> None:
        series, images = tilt_series(series_id, tilts)
        self.output.put(series_id, series, version, children=images)

    def tilts(self, series_id: str) -> list[float]:
        return [row["_tiltAngle"] for row in read_rows(self.file, f"{series_id}_")]

    def test_holds_series_and_tilts_that_scipion_reads(self):
        self.put("TS_1")
        self.put("TS_2", 5)
        self.output.commit()
        items = SetOfTiltSeries(filename=self.file)
        self.addCleanup(items.close)
        items.loadAllProperties()
        self.assertEqual({series.getTsId(): [image.getTiltAngle() for image in series] for series in items},
                         {"TS_1": [3.0, 6.0, 9.0], "TS_2": [3.0, 6.0, 9.0, 12.0, 15.0]})

    def test_replaces_the_tilts_of_a_series_with_its_row(self):
        self.put("TS_1", 3)
        self.output.commit()
        self.put("TS_1", 5, version=2)
        self.output.commit()
        self.assertEqual(len(self.tilts("TS_1")), 5)
        self.assertEqual([(row["id"], row["_size"]) for row in read_rows(self.file)], [(1, 5)])

    def test_writes_each_series_once_when_the_second_of_two_does_not_fit(self):
        self.put("TS_1")
        self.output.commit()
        pages = self.output.connection.execute("PRAGMA page_count").fetchone()[0]
        self.put("TS_2", 3)
        self.put("TS_3", 400)
        self.output.connection.execute(f"PRAGMA max_page_count={pages + 8}")
        with self.assertRaises(sets.NotCommitted):
            self.output.commit()
        self.assertEqual([row["_tsId"] for row in read_rows(self.file)], ["TS_1"])
        self.assertEqual(self.tilts("TS_2"), [])
        self.output.connection.execute(f"PRAGMA max_page_count={pages + 1000}")
        self.output.commit()
        self.assertEqual([(row["id"], row["_tsId"], row["_size"]) for row in read_rows(self.file)],
                         [(1, "TS_1", 3), (2, "TS_2", 3), (3, "TS_3", 400)])
        self.assertEqual(len(self.tilts("TS_3")), 400)

    def test_fills_what_a_killed_run_left_of_a_series(self):
        series, images = tilt_series("TS_1", 4)
        self.output._write_children(series, images)
        self.output.connection.commit()             # killed here: tables, but no row of the series
        self.put("TS_1", 3)
        self.output.commit()
        self.assertEqual(self.tilts("TS_1"), [3.0, 6.0, 9.0])


class TestAReaderOfRows(WithMovies):
    def setUp(self) -> None:
        super().setUp()
        items = SetOfMovies(filename=self.file)
        self.addCleanup(items.close)
        self.reader = RowReader(items, sets.REPLACED, lambda row: row.clone())

    def read(self) -> list[str]:
        return [row.getMicName() for row in self.reader.read()[0]]

    def test_gives_each_row_once_and_in_order(self):
        self.put("b.tif", "a.tif")
        self.output.commit()
        self.assertEqual(self.read(), ["b.tif", "a.tif"])
        self.assertEqual(self.read(), [])
        self.put("c.tif")
        self.output.commit()
        self.assertEqual(self.read(), ["c.tif"])

    def test_reads_no_row_where_nothing_was_committed_since(self):
        self.put("a.tif")
        self.output.commit()
        self.assertEqual(self.read(), ["a.tif"])
        with mock.patch.object(self.reader, "_read_snapshot", side_effect=AssertionError("it was read again")):
            self.assertEqual(self.reader.read(), ([], False))
        self.output.set_stream_state(SetOfMovies.STREAM_CLOSED)
        for _ in range(2):
            self.assertEqual(self.reader.read(), ([], True))

    def test_ends_a_query_of_its_own_that_was_half_read(self):
        self.put("a.tif", "b.tif")
        self.output.commit()
        self.read()
        half = self.reader.items.iterItems()
        next(half)
        self.assertEqual(self.read(), [])
        self.put("c.tif")
        self.output.commit()
        self.assertEqual(self.read(), ["c.tif"])

    def test_keeps_of_each_row_what_is_asked_for(self):
        items = SetOfMovies(filename=self.file)
        self.addCleanup(items.close)
        reader = RowReader(items, sets.REPLACED, lambda row: (row.getObjId(), row.getMicName()))
        self.put("a.tif", "b.tif")
        self.output.commit()
        self.assertEqual(reader.read(), ([(1, "a.tif"), (2, "b.tif")], False))

    def test_gives_a_replaced_row_with_its_version_once(self):
        self.put("a.tif")
        self.output.commit()
        self.reader.read()
        self.put("a.tif", version=2, pixel_size=3.0)
        self.output.commit()
        (row,), _ = self.reader.read()
        self.assertEqual((row.getObjId(), row.getSamplingRate(), self.reader.version_of(1)), (1, 3.0, 2))
        self.assertEqual(self.reader.read()[0], [])

    def test_lets_the_writer_write_when_it_was_released_in_the_middle_of_reading(self):
        self.put("a.tif", "b.tif", "c.tif")
        self.output.commit()
        self.assertEqual(self.read(), ["a.tif", "b.tif", "c.tif"])
        circle: list = [self.reader.items.iterItems()]
        next(circle[0])
        circle.append(circle)
        gc.disable()
        self.addCleanup(gc.enable)
        del circle
        self.put("d.tif")
        with self.assertRaises(sets.NotCommitted):
            self.output.commit()
        self.reader.release()
        self.output.commit()
        self.assertEqual(self.read(), ["d.tif"])

    def test_never_takes_a_row_with_the_version_of_another_moment(self):
        self.put("a.tif")
        self.output.commit()
        versions = self.reader._replaced

        def then_it_is_replaced(connection):
            found = versions(connection)
            self.put("a.tif", version=2, pixel_size=3.0)
            with contextlib.suppress(sets.NotCommitted):        # not while somebody reads
                self.output.commit()
            return found

        with mock.patch.object(self.reader, "_replaced", then_it_is_replaced):
            (row,), _ = self.reader.read()
        self.assertEqual((row.getSamplingRate(), self.reader.version_of(1)), (2.0, 1))
        self.output.commit()
        (row,), _ = self.reader.read()
        self.assertEqual((row.getSamplingRate(), self.reader.version_of(1)), (3.0, 2))

    def test_says_that_the_stream_is_closed_with_the_last_rows(self):
        self.put("a.tif")
        self.output.commit()
        self.output.set_stream_state(SetOfMovies.STREAM_CLOSED)
        rows, closed = self.reader.read()
        self.assertEqual((len(rows), closed), (1, True))

    def test_loses_nothing_while_the_set_is_locked(self):
        self.put("a.tif")
        self.output.commit()
        with mock.patch.object(rows_room, "BUSY_MS", 20):
            self.reader.read()
        self.put("b.tif")
        self.output.commit()
        lock = sqlite3.connect(self.file)
        self.addCleanup(lock.close)
        lock.execute("BEGIN EXCLUSIVE")
        self.assertEqual(self.read(), [])
        self.assertIn("locked", self.reader.trouble)
        lock.rollback()
        self.assertEqual(self.read(), ["b.tif"])
        self.assertEqual(self.reader.trouble, "")

    def test_reads_an_upstream_set_whose_ids_come_out_of_order(self):
        file = self.path("upstream.sqlite")
        upstream = SetOfMovies(filename=file)
        self.addCleanup(upstream.close)
        reader = RowReader(SetOfMovies(filename=file), sets.REPLACED, lambda row: row.clone())
        self.addCleanup(reader.items.close)
        found = []
        for row_id in (5, 2, 7):
            item = movie(f"{row_id}.tif")
            item.setObjId(row_id)
            with mock.patch.object(SetOfMovies, "_setFirstDim", create=True), mock.patch.object(
                    SetOfMovies, "append", lambda items, one: items._insertItem(one)):
                upstream.append(item)
            upstream.write()
            found += [row.getMicName() for row in reader.read()[0]]
        self.assertEqual(sorted(found), ["2.tif", "5.tif", "7.tif"])


#: Changes more than fits into its memory, and does not come to the end.
WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size=1")
connection.execute("BEGIN IMMEDIATE")
connection.executemany("INSERT INTO Objects VALUES (?, ?)", [(f"8.{number}", "x" * 2000) for number in range(500)])
connection.execute("UPDATE Objects SET value = 'finished' WHERE name = '7.status'")
print(flush=True)
time.sleep(60)
"""


class TestTheProducerOfAnInput(unittest.TestCase):
    def test_is_looked_at_once_a_second_but_each_time_when_its_set_is_closed(self):
        pointer, clock, states = mock.Mock(), [100.0], iter((runs.RUNNING, runs.DEAD, runs.RUNNING, runs.FINISHED))
        protocol = mock.Mock(_producer_looked=-math.inf)
        with mock.patch.object(protocol_room, "steady", lambda: clock[0]), mock.patch.object(
                protocol_room.inputs, "file_of", return_value="Runs/000002_P/movies.sqlite"), mock.patch.object(
                protocol_room.runs, "producer_state", lambda *_: next(states)):
            def state(now: float, closed: bool = False) -> str:
                clock[0] = now
                return protocol_room.StreamingProtocol.producer_state(protocol, pointer, closed)

            self.assertEqual([state(100.0), state(100.9), state(101.1)], [runs.RUNNING, runs.RUNNING, runs.DEAD])
            self.assertEqual([state(101.2, closed=True), state(101.3, closed=True)], [runs.RUNNING, runs.FINISHED])


class TestTheStateOfAProducer(InAFolder):
    def run_db(self, **values: object) -> None:
        os.makedirs(self.path("logs"), exist_ok=True)
        connection = sqlite3.connect(self.path("logs", "run.db"))
        connection.execute("CREATE TABLE Objects (name TEXT, value TEXT)")
        connection.executemany("INSERT INTO Objects VALUES (?, ?)", [(f"7.{key}", value) for key, value in values.items()])
        connection.commit()
        connection.close()

    def state(self) -> str:
        return runs.producer_state(self.folder, 7)

    def test_of_a_run_that_ended_well_is_finished(self):
        self.run_db(status="finished", _pid="1")
        self.assertEqual(self.state(), runs.FINISHED)

    def test_of_a_run_that_was_stopped_is_not_that_of_one_that_failed(self):
        self.run_db(status="aborted")
        self.assertEqual(self.state(), runs.STOPPED)
        os.remove(self.path("logs", "run.db"))
        self.run_db(status="failed")
        self.assertEqual(self.state(), runs.FAILED)

    def test_of_a_run_whose_end_a_person_asked_for_is_stopped_though_its_process_was_ended(self):
        self.run_db(status="running", _pid="999999999", hostFullName=os.uname().nodename)
        self.assertEqual(self.state(), runs.DEAD)
        os.makedirs(self.path("extra"))
        open(stop_file(self.folder), "wb").close()
        self.assertEqual(self.state(), runs.STOPPED)

    def process(self, *words: str) -> int:
        child = subprocess.Popen(["sh", "-c", "sleep 60; true", "sh", *words])     # more than one command: sh stays
        self.addCleanup(lambda: (child.kill(), child.wait()))
        wait_for(lambda: open(f"/proc/{child.pid}/cmdline").read(), 10, "command line", 0.01)
        return child.pid

    def test_of_a_run_whose_process_is_there_is_running(self):
        pid = self.process(self.folder, f"Runs/{os.path.basename(self.folder)}/logs/run.db", "7")
        self.run_db(status="running", _pid=str(pid), hostFullName=os.uname().nodename)
        self.assertEqual(self.state(), runs.RUNNING)

    def test_of_a_run_whose_process_number_is_anothers_after_a_reboot_is_dead(self):
        self.run_db(status="running", _pid=str(self.process("something", "else")), hostFullName=os.uname().nodename)
        self.assertEqual(self.state(), runs.DEAD)

    def test_of_a_run_whose_process_is_gone_is_dead(self):
        child = subprocess.Popen(["true"])
        child.wait()
        self.run_db(status="running", _pid=str(child.pid), hostFullName=os.uname().nodename)
        self.assertEqual(self.state(), runs.DEAD)

    def test_of_a_run_whose_process_nobody_collected_is_dead(self):
        child = subprocess.Popen(["true"])
        self.addCleanup(child.wait)
        wait_for(lambda: open(f"/proc/{child.pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z", 10, "zombie", 0.01)
        self.run_db(status="running", _pid=str(child.pid), hostFullName=os.uname().nodename)
        self.assertEqual(self.state(), runs.DEAD)

    def test_of_a_run_that_was_launched_and_never_came_up_is_dead(self):
        self.run_db(status="launched")
        self.assertEqual(runs.producer_state(self.folder, 7, patience=600.0), runs.RUNNING)       # it may be about to
        os.utime(self.path("logs", "run.db"), (1, 1))
        self.assertEqual(self.state(), runs.DEAD)

    def test_of_a_run_that_never_came_up_is_dead_although_the_clock_was_set_back(self):
        self.run_db(status="launched")
        ahead = time.time() + 3600
        os.utime(self.path("logs", "run.db"), (ahead, ahead))
        self.assertEqual(self.state(), runs.DEAD)

    def test_of_a_run_that_is_coming_up_again_is_running_though_it_names_the_process_before(self):
        """Scipion puts `launched` into its database and leaves the number of the process that has ended."""
        os.makedirs(self.path("Runs", "000007_X", "logs"))
        self.run_db(status="launched", _pid="999999999", hostFullName=os.uname().nodename)
        os.replace(self.path("logs", "run.db"), self.path("Runs", "000007_X", "logs", "run.db"))
        os.utime(self.path("Runs", "000007_X", "logs", "run.db"), (1, 1))
        self.assertEqual(runs.producer_state(self.path("Runs", "000007_X"), 7), runs.DEAD)
        pid = self.process(self.folder, "Runs/000007_X/logs/run.db", "7")
        self.assertEqual(runs.producer_state(self.path("Runs", "000007_X"), 7), runs.RUNNING)
        self.assertEqual(runs.process_of(self.path("Runs", "000007_X")), pid)       # it can be stopped at once already

    def test_of_a_run_that_is_coming_up_is_running(self):
        os.makedirs(self.path("Runs", "000007_X", "logs"))
        self.run_db(status="launched")
        os.replace(self.path("logs", "run.db"), self.path("Runs", "000007_X", "logs", "run.db"))
        os.utime(self.path("Runs", "000007_X", "logs", "run.db"), (1, 1))
        self.process(self.folder, "Runs/000007_X/logs/run.db", "7")
        self.assertEqual(runs.producer_state(self.path("Runs", "000007_X"), 7), runs.RUNNING)

    def test_on_another_machine_is_believed(self):
        self.run_db(status="running", _pid="999999999", hostFullName="elsewhere.example.org")
        self.assertEqual(self.state(), runs.RUNNING)

    def test_of_a_run_that_was_killed_while_it_wrote_its_database_is_dead(self):
        """SQLite reads no database whose journal must be rolled back first, unless it may write it."""
        self.run_db(status="running", _pid="999999999", hostFullName=os.uname().nodename)
        path = self.path("logs", "run.db")
        with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            self.assertEqual(self.state(), runs.DEAD)       # locked by a writer: as it was before
            writer.kill()
        self.assertTrue(os.path.exists(f"{path}-journal"))
        with open(path, "rb") as file:
            before = file.read()
        self.assertEqual(self.state(), runs.DEAD)
        with open(path, "rb") as file:
            self.assertEqual(file.read(), before)

    def test_in_a_folder_with_signs_of_addresses_is_read(self):
        self.folder = self.path("50%41 #1?")
        os.makedirs(self.folder)
        self.run_db(status="finished")
        self.assertEqual(self.state(), runs.FINISHED)

    def test_without_a_database_is_unknown(self):
        self.assertEqual(self.state(), runs.UNKNOWN)


class TestGpuLocks(InAFolder):
    def setUp(self) -> None:
        super().setUp()
        patch = mock.patch.object(gpus_room.tempfile, "gettempdir", return_value=self.folder)
        patch.start()
        self.addCleanup(patch.stop)

    def is_free(self, gpu: int, slot: int = 0) -> bool:
        name = next(path for path in os.listdir(self.folder) if path.endswith(f"-{gpu}-{slot}.lock"))
        with open(self.path(name), "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
        return True

    def test_hold_a_gpu_while_a_program_runs_and_free_it_then(self):
        with gpu_lock([1]):
            self.assertFalse(self.is_free(1))
        self.assertTrue(self.is_free(1))

    def test_free_a_gpu_when_the_program_failed(self):
        with self.assertRaises(ValueError), gpu_lock([0]):
            raise ValueError
        self.assertTrue(self.is_free(0))

    def test_hold_against_another_process(self):
        code = ("import sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
                "from tomostream.streaming.gpus import gpu_lock\n"
                "with gpu_lock([0]):\n    print('held', flush=True); sys.stdin.read()\n")
        child = subprocess.Popen([sys.executable, "-c", code, self.folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(child.stdout.close)
        self.assertEqual(child.stdout.readline(), b"held\n")
        self.assertFalse(self.is_free(0))
        stop = threading.Event()
        stop.set()
        with self.assertRaises(Stopped), gpu_lock([0], stop):
            self.fail("two hold one GPU")
        child.kill()
        child.stdin.close()
        child.wait()
        self.assertTrue(self.is_free(0))

    def test_let_as_many_programs_on_a_gpu_as_the_setting_says(self):
        with mock.patch.dict(os.environ, {PROGRAMS_PER_GPU: "2"}), gpu_lock([0]):
            with gpu_lock([0]):
                stop = threading.Event()
                stop.set()
                with self.assertRaises(Stopped), gpu_lock([0], stop):
                    self.fail("three hold a GPU for two")
            with gpu_lock([0]):
                pass

    def test_are_taken_in_ascending_order_so_that_two_protocols_cannot_wait_for_each_other(self):
        free_while_waiting = []

        class Once:
            @staticmethod
            def wait(_seconds: float) -> bool:
                free_while_waiting.append((self.is_free(0), os.path.exists(self.lock_of(1)) and not self.is_free(1)))
                return True

        for wanted in ([0, 1], [1, 0]):
            with gpu_lock([0]), self.assertRaises(Stopped), gpu_lock(wanted, Once()):
                self.fail("two hold one GPU")
        self.assertEqual(free_while_waiting, [(False, False)] * 2)

    def lock_of(self, gpu: int) -> str:
        return self.path(f"tomostream-gpu-{socket.gethostname()}-{gpu}-0.lock")

    def test_pass_over_an_empty_setting_and_refuse_one_that_is_no_number(self):
        with mock.patch.dict(os.environ, {PROGRAMS_PER_GPU: " "}), gpu_lock([0]):
            self.assertFalse(self.is_free(0))
        for wrong in ("two", "0", "-1", "1.5"):
            with (mock.patch.dict(os.environ, {PROGRAMS_PER_GPU: wrong}),
                  self.assertRaisesRegex(ValueError, f"{PROGRAMS_PER_GPU} is '{wrong}'"), gpu_lock([0])):
                self.fail("a wrong number was taken")

    def test_neither_block_at_a_pipe_nor_follow_a_link(self):
        os.mkfifo(self.lock_of(0))
        os.symlink(self.write("elsewhere"), self.lock_of(1))
        os.symlink(self.path("nowhere"), self.lock_of(2))
        os.mkdir(self.lock_of(3))
        for gpu in range(4):
            with self.assertRaisesRegex(OSError, "directory" if gpu == 3 else "remove it"), gpu_lock([gpu]):
                self.fail("something that is no lock was taken")
        self.assertFalse(os.path.exists(self.path("nowhere")))

    def test_are_held_by_a_program_that_outlives_its_protocol(self):
        with gpu_lock([0]):
            child = subprocess.Popen(["sleep", "60"], pass_fds=inherited())
        try:
            self.assertFalse(self.is_free(0))
        finally:
            child.kill()
            child.wait()
        self.assertTrue(self.is_free(0))


class TestTheClockOfDeadlines(unittest.TestCase):
    def test_goes_on_when_the_clock_of_the_machine_is_set_back(self):
        deadline = clock.steady() + 1000.0
        with mock.patch.object(clock.time, "time", return_value=time.time() - 3600):
            self.assertTrue(0.0 <= deadline - clock.steady() <= 1000.0)
            run = mock.Mock(_failing_since=None, **{"next_deadline.return_value": deadline})
            self.assertLessEqual(StreamingProtocol.seconds_to_next_turn(run, 6000.0), 1000.0)

    def test_says_the_time_of_the_day_to_begin_with(self):
        self.assertAlmostEqual(clock.steady(), time.time(), delta=60.0)


class TestOrphans(InAFolder):
    def start(self, folder: str | None, *command: str) -> subprocess.Popen:
        environment = None if folder is None else orphans.marked(None, folder)
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        self.addCleanup(lambda: (child.kill(), child.wait(), child.stdout.close()))
        return child

    def test_of_the_run_are_stopped_with_what_they_started_and_no_others(self):
        work, other = self.path("run", ".work"), self.path("other", ".work")
        ours = self.start(work, "sh", "-c", "sleep 60 & echo $!; wait")
        theirs = self.start(other, "sleep", "60")
        grandchild = int(ours.stdout.readline())
        self.assertEqual(orphans.end_orphans(work), 2)
        self.assertEqual(ours.wait(timeout=60), -9)
        for _ in range(600):
            if not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE:
                break
            threading.Event().wait(0.1)
        else:
            self.fail("what the program started goes on")
        self.assertIsNone(theirs.poll())

    def test_are_no_programs_of_a_user_who_looks_into_the_same_folder(self):
        log = self.write("run", ".work", "a", "program.log")
        looking = self.start(None, "tail", "-f", log)
        self.assertEqual(orphans.end_orphans(self.path("run", ".work")), 0)
        self.assertIsNone(looking.poll())

    def test_are_found_whatever_way_leads_to_the_folder(self):
        os.makedirs(self.path("project"))
        os.symlink(self.path("project"), self.path("link"))
        child = self.start(self.path("link", ".work"), "sleep", "60")
        self.assertEqual(orphans.end_orphans(self.path("project", ".work")), 1)
        self.assertEqual(child.wait(timeout=60), -9)


class Step:
    """As much of a step as the loop looks at."""

    def __init__(self, name: str, work=None, gpu: bool = False) -> None:
        self.name, self.work, self.gpu, self.status = name, work, gpu, "new"
        self._func, self._args = None, ()

    def needsGPU(self) -> bool:
        return self.gpu

    def getObjId(self) -> None:
        return None             # a generated step has none yet when it starts

    def setRunning(self) -> None:
        self.status = "running"

    def setFinished(self) -> None:
        self.status = "finished"

    def setFailed(self, words: str) -> None:
        self.status, self.words = "failed", words

    def isRunning(self) -> bool:
        return self.status == "running"

    def isFailed(self) -> bool:
        return self.status == "failed"

    def _run(self) -> None:
        if self.work:
            self.work()


class Protocol:
    """As much of a protocol as the loop asks for."""

    def __init__(self) -> None:
        self._log = mock.Mock()

    def seconds_to_next_turn(self, default: float) -> float:
        return default


class TestTheLoop(unittest.TestCase):
    def loop(self, workers: int, gpus: tuple[int, ...] = ()) -> executor.EventStepExecutor:
        loop = executor.EventStepExecutor(mock.Mock(), workers, gpuList=list(gpus) or None)
        loop.protocol = Protocol()
        return loop

    def run_steps(self, loop, generate, seconds: float = 30.0) -> list:
        """Run with a generator that is given the list of steps at every turn and returns True at the end."""
        generator = Step("generator")
        steps = [generator]
        generator._func = lambda: generate(steps)
        ended = []

        def finished(step) -> bool:
            ended.append(step)
            return step is not generator or step.status == "finished"

        loop.runSteps(steps, lambda step: None, finished, lambda: None, stepsCheckSecs=seconds)
        return ended

    def test_starts_a_step_when_one_ends_and_not_at_a_tick(self):
        done = threading.Event()

        def generate(steps):
            if len(steps) == 1:
                steps += [Step("first", lambda: None), Step("second", done.set)]
            return done.is_set()

        self.run_steps(self.loop(1), generate, seconds=3600.0)       # an hour's tick would hang
        self.assertTrue(done.is_set())

    def test_never_runs_more_steps_than_it_has_threads(self):
        lock, running, most = threading.Lock(), [0], [0]

        def work() -> None:
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            threading.Event().wait(0.01)
            with lock:
                running[0] -= 1

        def generate(steps):
            if len(steps) == 1:
                steps += [Step(str(number), work) for number in range(12)]
            return sum(step.status == "finished" for step in steps[1:]) == 12

        self.run_steps(self.loop(3), generate)
        self.assertLessEqual(most[0], 3)

    def test_never_gives_one_gpu_to_two_steps_although_they_have_no_id(self):
        loop, lock, held, seen = self.loop(4, gpus=(0, 1)), threading.Lock(), [], []

        def work() -> None:
            gpu, = loop.getGpuList()
            with lock:
                seen.append(gpu)
                self.assertNotIn(gpu, held)
                held.append(gpu)
            threading.Event().wait(0.005)
            with lock:
                held.remove(gpu)

        def generate(steps):
            if len(steps) == 1:
                steps += [Step(str(number), work, gpu=True) for number in range(20)]
            return all(step.status == "finished" for step in steps[1:])

        self.run_steps(loop, generate)
        self.assertEqual(len(seen), 20)
        self.assertEqual(set(seen), {0, 1})

    def test_gives_every_job_of_a_queue_the_one_gpu_of_the_form(self):
        """Jobs have GPUs of their own, which Scipion numbers from 0: where one is named, as many at a time as workers."""
        for gpus, many in (([2], 3), ([2, 3], 2)):
            host = mock.Mock(**{"getCheckCommand.return_value": "true", "getJobDoneRegex.return_value": ""})
            slots, taken = executor.EventQueueStepExecutor(host, {}, 3, gpuList=gpus).slots, []
            while slots:
                taken.append(object())
                slots.take(taken[-1])
            self.assertEqual([slots.of(each) for each in taken], [[0]] * many)

    def test_does_not_let_a_step_without_a_gpu_wait_for_one(self):
        order, free = [], threading.Event()

        def generate(steps):
            if len(steps) == 1:
                steps += [Step("gpu 1", lambda: free.wait(20), gpu=True),
                          Step("gpu 2", lambda: order.append("gpu 2"), gpu=True),
                          Step("cpu", lambda: (order.append("cpu"), free.set()))]
            return all(step.status == "finished" for step in steps[1:])

        self.run_steps(self.loop(3, gpus=(0,)), generate)
        self.assertEqual(order, ["cpu", "gpu 2"])

    def test_looks_once_at_each_step_that_waits_for_a_gpu_however_long_it_waits(self):
        asked: list[str] = []

        class Asked(Step):
            def needsGPU(self) -> bool:
                asked.append(self.name)
                return True

        def generate(steps):
            if len(steps) == 1:
                steps += [Asked(str(number), lambda: None) for number in range(20)]
            return all(step.status == "finished" for step in steps[1:])

        self.run_steps(self.loop(3, gpus=(0,)), generate)
        self.assertEqual(asked, [str(number) for number in range(20)])

    def test_takes_the_newest_first_when_asked_to(self):
        loop, order = self.loop(1), []
        loop.newest_first = True

        def generate(steps):
            if len(steps) == 1:
                steps += [Step(str(number), lambda number=number: order.append(number)) for number in range(3)]
            return len(order) == 3

        self.run_steps(loop, generate)
        self.assertEqual(order, [2, 1, 0])

    def test_ends_as_failed_with_the_reason_when_a_turn_goes_wrong(self):
        def generate(steps):
            raise ValueError("the reason")

        ended = self.run_steps(self.loop(1), generate)
        self.assertEqual((ended[-1].status, ended[-1].words), ("failed", "the reason"))

    def test_is_woken_from_any_thread(self):
        loop, turns = self.loop(1), []

        def generate(steps):
            turns.append(1)
            if len(turns) == 1:
                threading.Timer(0.05, loop.wake).start()
            return len(turns) == 2

        self.run_steps(loop, generate, seconds=3600.0)
        self.assertEqual(len(turns), 2)


class TestOpening(InAFolder):
    def test_waits_for_an_input_that_cannot_be_read_now(self):
        """Its writer may be at it, or its disk out of reach, just when the protocol starts."""
        run = mock.Mock(input_field="inputMovies", outputs={}, done={}, _getPath=lambda: self.folder,
                        _getExtraPath=lambda: self.folder, _getLogsPath=lambda: self.folder)
        run.hindrances.is_full.return_value = False
        with mock.patch.object(protocol_room.inputs, "attach",
                               side_effect=[sqlite3.DatabaseError("file is not a database"), None]) as attach:
            StreamingProtocol._open(run)
        self.assertEqual((attach.call_count, run.open_outputs.call_count), (2, 1))
        self.assertEqual([bool(call.args[1]) for call in run.trouble.call_args_list], [True, False])


class TestAFullDisk(InAFolder):
    def test_is_recognised_by_the_error_or_its_cause(self):
        full = OSError(errno.ENOSPC, "No space left on device")
        behind = RuntimeError("the stack cannot be written")
        behind.__cause__ = full
        for error, answer in ((full, True), (OSError(errno.EDQUOT, "quota"), True), (behind, True), (ValueError("no"), False)):
            self.assertEqual(is_full(error, self.folder), answer, error)

    def test_is_recognised_by_the_space_when_a_program_only_says_that_it_failed(self):
        with mock.patch("tomostream.streaming.obstacles.disk_of", return_value=(1000, 10**9)):
            self.assertTrue(is_full(ProgramFailed("it said nothing"), self.folder))


class TestWhatScipionKeepsOfARun(unittest.TestCase):
    def test_is_written_once_a_second_and_at_the_end_without_waiting(self):
        for complete in (False, True):
            protocol = mock.Mock(_gui_at=float("inf"), _complete=complete)
            Bookkeeping._stepsCheck(protocol)
            self.assertEqual(protocol._store_for_gui.called, complete)

    def test_a_step_has_an_id_after_those_of_earlier_processes(self):
        protocol = Bookkeeping.__new__(Bookkeeping)
        vars(protocol).update(_steps=[mock.Mock()], _step_log=mock.Mock(before=7))
        with mock.patch.object(StreamingForm, "_insertFunctionStep", return_value=1):
            protocol._insertFunctionStep("turn")
        protocol._steps[0].setObjId.assert_called_once_with(8)

    def test_names_the_jobs_that_are_in_the_queue(self):
        protocol = mock.Mock(_jobs=[], _jobs_lock=threading.Lock())
        for started, ended in (("1", None), ("2", None), (None, "1"), (None, "7")):
            Bookkeeping.jobs_changed(protocol, started, ended)
        self.assertEqual(protocol._jobs, ["2"])

    def test_a_step_that_failed_fails_its_attempt_and_not_the_protocol(self):
        first, step = mock.Mock(), mock.Mock()
        step.isFailed.return_value, step.getErrorMessage.return_value, step.attempt.error = True, "the program crashed", None
        protocol = mock.Mock(_steps=[first, step])
        self.assertTrue(Bookkeeping._stepFinished(protocol, step))
        self.assertEqual(str(step.attempt.error), "the program crashed")
        protocol.in_flight.ended.assert_called_once_with(step.attempt)
        protocol.setFailed.assert_not_called()


class TestRunningAProgram(InAFolder):
    def test_gives_it_the_gpu_locks_of_its_thread(self):
        loop = executor.EventStepExecutor(mock.Mock(), 1)
        loop.protocol = mock.Mock(getSubmitDict=lambda: {}, workplace=mock.Mock(root=self.folder))
        with mock.patch.object(gpus_room.tempfile, "gettempdir", return_value=self.folder), gpu_lock([0]):
            descriptor, = inherited()
            loop.runJob(mock.Mock(), "sh", f"-c 'ls -l /proc/self/fd/{descriptor} > {self.path('said')}'")
        with open(self.path("said"), encoding="utf-8") as file:
            self.assertIn("tomostream-gpu", file.read())

    def test_raises_when_it_ends_with_an_error(self):
        loop = executor.EventStepExecutor(mock.Mock(), 1)
        loop.protocol = mock.Mock(getSubmitDict=lambda: {}, workplace=mock.Mock(root=self.folder))
        with self.assertRaises(subprocess.CalledProcessError):
            loop.runJob(mock.Mock(), "false", "")


@unittest.skipUnless(shutil.which("mount") and os.geteuid() == 0, "only root can mount a small disk")
class TestASmallDisk(WithMovies):
    def setUp(self) -> None:
        InAFolder.setUp(self)
        os.makedirs(self.path("disk"))
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", self.path("disk")], check=False,
                          stderr=subprocess.DEVNULL).returncode:
            self.skipTest("a small disk cannot be mounted here")
        self.addCleanup(subprocess.run, ["umount", "-l", self.path("disk")], check=False)
        self.file = self.path("disk", "movies.sqlite")
        self.output = self.open()

    def test_that_is_full_loses_no_item(self):
        with open(self.path("disk", "filler"), "wb") as filler:
            free, _ = disk_of(self.path("disk"))
            filler.write(bytes(free - 16_384))
        self.put(*(f"{number}.tif" for number in range(400)))
        with self.assertRaises(sets.NotCommitted):
            self.output.commit()
        os.remove(self.path("disk", "filler"))
        self.output.commit()
        self.assertEqual([row_id for row_id, _ in self.names()], list(range(1, 401)))


if __name__ == "__main__":
    unittest.main()
