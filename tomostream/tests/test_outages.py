# SPDX-License-Identifier: GPL-3.0-or-later
"""What is out of reach for a while, and what must not happen at the same time: the parts, each alone.

`test_chaos` does such things to whole sessions.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import unittest
from unittest import mock

from pwem.objects import SetOfMovies
from pyworkflow.protocol.protocol import FunctionStep

from tomostream.files import locks, writing
from tomostream.streaming import protocol, sets, steps, watch
from tomostream.streaming.obstacles import out_of_reach
from tomostream.streaming.protocol import StreamingProtocol
from tomostream.streaming.rows import RowReader

NOT_A_DATABASE = b"not a database!\0"


class InAFolder(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)

    def path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def write(self, *names: str, data: bytes = b"data") -> str:
        path = self.path(*names)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        return path


class TestASetThatIsNoDatabaseForAWhile(InAFolder):
    """Several reads in a row find it unreadable: pyworkflow fails in another way when it reopens it."""

    def setUp(self) -> None:
        super().setUp()
        from tomostream.tests.test_streaming import movie

        items = SetOfMovies(filename=self.path("movies.sqlite"))
        self.output = sets.OutputSet(items, movie("template"), "_micName")
        self.addCleanup(items.close)
        for name in ("a.tif", "b.tif"):
            self.output.put(name, movie(name))
            self.output.commit()
        self.output.put("b.tif", movie("b.tif"), version=2)
        self.output.commit()
        self.reader = RowReader(SetOfMovies(filename=self.path("movies.sqlite")), sets.REPLACED, lambda row: row.clone())
        self.addCleanup(self.reader.items.close)
        self.movie = movie

    def spoil(self) -> bytes:
        with open(self.path("movies.sqlite"), "r+b") as file:
            header = file.read(16)
            file.seek(0)
            file.write(NOT_A_DATABASE)
        return header

    def repair(self, header: bytes) -> None:
        with open(self.path("movies.sqlite"), "r+b") as file:
            file.write(header)

    def test_its_reader_waits_in_words_and_then_gives_every_row(self):
        self.reader.items.close()           # one that is open may know enough of the file to go on
        header = self.spoil()
        for _ in range(3):
            self.assertEqual(self.reader.read(), ([], False))
            self.assertIn("file is not a database", self.reader.trouble)
            self.assertNotIn("SqliteFlatMapper", self.reader.trouble)
        self.repair(header)
        rows, _ = self.reader.read()
        self.assertEqual([row.getMicName() for row in rows], ["a.tif", "b.tif"])
        self.assertEqual([self.reader.version_of(row.getObjId()) for row in rows], [1, 2])

    def test_its_writer_keeps_what_it_has_and_writes_it_then(self):
        self.output.items.close()
        self.output._broken = True
        header = self.spoil()
        self.output.put("c.tif", self.movie("c.tif"))
        for _ in range(2):
            self.assertRaises(sets.NotCommitted, self.output.commit)
        self.repair(header)
        self.output.commit()
        self.assertEqual(sorted(self.output.ids.values()), [1, 2, 3])

    def test_a_read_that_fails_half_way_is_no_read(self):
        with mock.patch.object(SetOfMovies, "iterItems", side_effect=sqlite3.OperationalError("disk I/O error")):
            self.assertEqual(self.reader.read(), ([], False))
        self.assertEqual(len(self.reader.read()[0]), 2)
        self.assertEqual(self.reader.read()[0], [])


class TestAFolderThatMayNotBeEntered(InAFolder):
    def setUp(self) -> None:
        super().setUp()
        self.write("frames", "a.tif")
        watcher = mock.Mock(**{"take.return_value": set(), "add.return_value": True})
        self.watcher = watcher
        self.files = watch.FolderWatch(self.path("frames", "*.tif"), watcher, poll=5.0, full_every=600.0)

    def names(self, now: float) -> list[str]:
        return [os.path.basename(path) for path, _ in self.files.changes(now)]

    def test_loses_no_file_of_which_word_came_meanwhile(self):
        self.assertEqual(self.names(0.0), ["a.tif"])
        path = self.write("frames", "b.tif")
        self.watcher.take.return_value = {path}
        with mock.patch.object(watch.os, "stat", side_effect=PermissionError(13, "Permission denied")):
            self.assertEqual(self.names(1.0), [])
        self.assertIn("permission denied", self.files.trouble)
        self.watcher.take.return_value = set()
        self.assertLessEqual(self.files.seconds_to_next_look(1.0), 5.0)
        self.assertEqual(self.names(6.0), ["b.tif"])
        self.assertEqual((self.files.trouble, self.files.gone()), ("", []))

    def test_is_looked_at_soon_again_when_it_cannot_be_listed(self):
        self.assertEqual(self.names(0.0) + self.names(6.0), ["a.tif"])
        self.write("frames", "b.tif")
        self.files.look_at_all()
        with mock.patch.object(watch.os, "open", side_effect=PermissionError(13, "Permission denied")):
            self.assertEqual(self.names(7.0), [])
        self.assertLessEqual(self.files.seconds_to_next_look(7.0), 5.0)
        self.assertEqual(self.names(12.0), ["b.tif"])

    def test_a_file_that_may_be_read_now_is_reported_again(self):
        path = self.path("frames", "a.tif")
        os.chmod(path, 0o200)
        self.assertEqual(self.names(0.0), ["a.tif"])
        os.chmod(path, 0o644)
        self.watcher.take.return_value = {path}
        self.assertEqual(self.names(1.0), ["a.tif"])

    def test_everything_is_looked_at_once_more_when_that_is_asked_for(self):
        self.names(0.0)
        self.write("frames", "b.tif")
        self.assertEqual(self.names(1.0), [])           # an event that the kernel lost
        self.files.look_at_all()
        self.assertEqual(self.names(2.0), ["b.tif"])


class TestWhatIsOutOfReach(InAFolder):
    def test_a_file_that_can_be_read_is_not(self):
        self.assertEqual(out_of_reach(self.write("a")), "")
        os.mkfifo(self.path("pipe.tif"))        # nobody writes into it: to open it would block for ever
        self.assertEqual(out_of_reach(self.path("pipe.tif")), "")

    def test_a_file_that_is_not_there_in_a_folder_that_is_there_is_not(self):
        self.write("b")
        self.assertEqual(out_of_reach(self.path("a")), "")

    def test_a_file_whose_folder_is_empty_as_that_of_a_disk_that_is_not_mounted_is(self):
        os.mkdir(self.path("frames"))
        os.symlink(self.path("frames", "a.tif"), self.path("link"))
        self.assertEqual(out_of_reach(self.path("link")), f"the folder {self.path('frames')} is empty: is its disk mounted?")

    def test_a_file_whose_folder_is_gone_is_also_behind_a_link(self):
        os.symlink(self.path("gone", "a"), self.path("link"))
        self.assertIn("gone does not exist", out_of_reach(self.path("link")))

    def test_a_file_of_a_server_that_does_not_answer_is(self):
        with mock.patch("os.open", side_effect=OSError(116, "Stale file handle")):
            self.assertIn("stale file handle", out_of_reach(self.path("a")))


HOLDS = ("import sys; from tomostream.files import locks; file = locks.hold(sys.argv[1], 0); "
         "print(file is not None, flush=True); input()")


class TestOneAtATime(InAFolder):
    def other(self) -> subprocess.Popen:
        child = subprocess.Popen([sys.executable, "-c", HOLDS, self.path("lock")], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, text=True)
        self.addCleanup(lambda: (child.kill(), child.wait(), child.stdin.close(), child.stdout.close()))
        self.assertEqual(child.stdout.readline(), "True\n")
        return child

    def test_whoever_comes_second_waits_for_as_long_as_it_was_given(self):
        held = locks.hold(self.path("lock"), 0.0)
        releasing = threading.Timer(0.2, held.close)
        releasing.start()
        self.addCleanup(releasing.join)
        with locks.hold(self.path("lock"), 60.0) as mine:
            self.assertEqual(mine.path, self.path("lock"))

    def test_whoever_comes_second_is_told_who_holds_it(self):
        child = self.other()
        self.assertIsNone(locks.hold(self.path("lock"), 0.0))
        self.assertEqual(locks.holder(self.path("lock")), child.pid)

    def test_one_that_was_killed_gives_it_back(self):
        child = self.other()
        child.kill()
        with locks.hold(self.path("lock"), 10.0):
            self.assertEqual(locks.holder(self.path("lock")), os.getpid())

    def test_a_second_process_at_a_run_ends_and_leaves_its_status_to_the_first(self):
        child = self.other()
        second = mock.Mock(**{"_getExtraPath.return_value": self.path("lock")})
        with mock.patch.object(protocol, "LOCK_SECONDS", 0.0):
            StreamingProtocol.run(second)           # it would fail on a stand-in if it did more than that
        self.assertIn(str(child.pid), second.error.call_args[0][0])
        second.setPid.assert_called_once_with(child.pid)
        second.setStatus.assert_called_once_with("running")

    def test_nobody_ever_held_it(self):
        self.assertIsNone(locks.holder(self.path("lock")))


    def test_a_full_disk_keeps_nobody_from_holding_it(self):
        with mock.patch.object(locks.os, "pwrite", side_effect=OSError(28, "No space left on device")):
            with locks.hold(self.path("lock"), 0.0):
                self.assertIsNone(locks.hold(self.path("lock"), 0.0))


class TestAFileThatIsWrittenWhole(InAFolder):
    def test_is_as_before_and_named_when_the_disk_is_full(self):
        path = self.write("thresholds.json", data=b"before")
        with (mock.patch.object(writing, "open", side_effect=OSError(28, "No space left on device"), create=True),
              self.assertRaises(OSError) as caught):
            writing.write_text(path, "after")
        self.assertEqual(caught.exception.filename, path)
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read(), "before")
        self.assertEqual(os.listdir(self.folder), ["thresholds.json"])

    def test_that_a_killed_process_left_is_removed_and_nothing_else(self):
        left = (".a.tif.4711-140.part", "a.tif", ".lock", "b.part", ".c-1.part")
        for name in left:
            self.write(name)
        writing.remove_parts(self.folder)
        self.assertEqual(sorted(os.listdir(self.folder)), sorted(left[1:]))

    def test_may_have_as_long_a_name_as_the_file_system_takes(self):
        for name in ("x" * 255, "\u6f22" * 85, "\U0001f52c" * 63):
            writing.write_text(self.path(name), "all of it")
            self.assertEqual(os.listdir(self.folder), [name])
            os.remove(self.path(name))

    def test_leaves_nothing_beside_it_when_writing_fails_half_way(self):
        with self.assertRaises(ValueError), writing.whole(self.path("a.json")) as part:
            with open(part, "w", encoding="utf-8") as file:
                file.write("half")
            raise ValueError
        self.assertEqual(os.listdir(self.folder), [])


class TestWhatLiesOnTheDisk(InAFolder):
    """What was synced, in order; that the kernel does it is its own affair."""

    def synced(self, function, argument) -> list[str]:
        found = []
        with mock.patch.object(writing.os, "fsync", side_effect=lambda fd: found.append(os.readlink(f"/proc/self/fd/{fd}"))):
            function(argument)
        return [os.path.relpath(path, self.folder) for path in found]

    def test_a_file_and_then_its_name(self):
        self.assertEqual(self.synced(writing.sync, [self.write("extra", "a.mrc")]), ["extra/a.mrc", "extra"])

    def test_a_folder_with_all_files_and_its_own_name(self):
        self.write("extra", "TS_1", "a.mrc")
        os.symlink("/nowhere", self.path("extra", "TS_1", "link"))
        found = self.synced(writing.sync_tree, self.path("extra", "TS_1"))
        self.assertEqual(found, ["extra/TS_1/a.mrc", "extra/TS_1", "extra/TS_1", "extra"])

    def test_a_file_system_that_cannot_sync_folders_is_no_reason_to_fail(self):
        path = self.write("a.mrc")
        with mock.patch.object(writing.os, "fsync", side_effect=OSError(22, "Invalid argument")):
            writing.sync([path])
        with mock.patch.object(writing.os, "fsync", side_effect=OSError(5, "Input/output error")), self.assertRaises(OSError):
            writing.sync([path])


class TestATurnThatGoesWrong(unittest.TestCase):
    def setUp(self) -> None:
        self.run_ = mock.Mock(_failing_since=None)
        self.run_._turn_failed = lambda error: StreamingProtocol._turn_failed(self.run_, error)

    def turn(self, error: Exception | None = None) -> bool:
        self.run_._take_turn.side_effect = error
        self.run_._take_turn.return_value = True
        return StreamingProtocol.turn(self.run_, "")

    def test_is_reported_and_followed_by_the_next_one(self):
        self.assertFalse(self.turn(OSError(28, "No space left on device")))
        self.assertIn("No space left on device", self.run_.trouble.call_args[0][1])
        self.assertTrue(self.turn())
        self.run_.trouble.assert_called_with("turn", "")

    def test_ends_the_protocol_when_nobody_foresaw_it_and_it_does_not_go_away(self):
        self.assertFalse(self.turn(KeyError("x")))
        self.run_._failing_since -= protocol.FAILING_SECONDS + 1
        self.assertFalse(self.turn(OSError(28, "No space left on device")))
        self.assertRaises(KeyError, self.turn, KeyError("x"))


class TestADamagedListOfSteps(InAFolder):
    def open(self) -> mock.Mock:
        run = mock.Mock()
        found = steps.open_steps(self.path("steps.sqlite"), run.warning, 1.0)
        self.addCleanup(found.close)
        return run

    def test_is_put_aside_and_started_over(self):
        self.write("steps.sqlite", data=b"SQLite format 3\0" + os.urandom(5000))
        run = self.open()
        self.assertIn("damaged", run.warning.call_args[0][0])
        self.assertTrue(os.path.exists(self.path("steps.sqlite.damaged")))

    def test_one_that_is_well_stays(self):
        sqlite3.connect(self.path("steps.sqlite")).close()
        self.open().warning.assert_not_called()


class TestTheStepsOfAKilledProcess(InAFolder):
    def log(self) -> steps.StepLog:
        made = steps.StepLog(self.path("steps.sqlite"), mock.Mock(), 1.0)
        self.addCleanup(made._steps.close)
        return made

    def test_that_were_running_are_shown_as_aborted_and_those_of_the_next_process_come_after_them(self):
        made = []
        for number, end in ((1, "setFinished"), (2, None)):
            step = FunctionStep(None, "work")
            step.setObjId(number)
            step.setRunning()
            if end:
                getattr(step, end)()
            made.append(step)
        self.log().store(made)
        after = self.log()
        self.assertEqual(after.before, 2)
        self.assertEqual([step.getStatus() for step in after._steps.iterItems()], ["finished", "aborted"])


if __name__ == "__main__":
    unittest.main()
