# SPDX-License-Identifier: GPL-3.0-or-later
"""Work in flight, without Scipion, threads or a clock: retry, hold, supersede, fail."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

from tomostream.journal import entries
from tomostream.streaming.tickets import Stopped
from tomostream.streaming.troubles import Troubles
from tomostream.streaming.work import (
    DISK_SECONDS,
    HELD_A_TURN,
    MAX_DISK_SECONDS,
    MAX_POSTPONED_SECONDS,
    Attempt,
    BadInput,
    NotNow,
    Postponed,
    ProgramFailed,
    Task,
    Work,
)
from tomostream.streaming.workplace import Workplace


class Around:
    """A protocol and its disk, as the test wants them."""

    def __init__(self) -> None:
        self.now, self.stopped, self.obstacle, self.disk_full = 0.0, False, "", False
        self.started: list[Attempt] = []
        self.registered: list[tuple[str, int, object]] = []
        self.told: list[tuple[str, str, str]] = []
        self.troubles: dict[str, str] = {}
        self.refusal: Exception | None = None

    def start_step(self, attempt: Attempt) -> None:
        self.started.append(attempt)

    def register_task(self, task: Task, result: object) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.registered.append((task.key, task.version, result))

    def report(self, entry: entries.Entry, warn: bool = False) -> None:
        self.told.append((entry.item, type(entry), entry.reason))

    def trouble(self, topic: str, text: str) -> None:
        self.troubles[topic] = text

    def stop_asked(self) -> bool:
        return self.stopped

    def of(self, task: Task) -> str:
        return self.obstacle

    def is_full(self, error: BaseException) -> bool:
        return self.disk_full

    def full(self) -> str:
        return "the disk of the project is full"


class WithWork(unittest.TestCase):
    def setUp(self) -> None:
        self.around = Around()
        self.work = Work(self.around, self.around, lambda: self.around.now)
        self.task = Task("TS_01", ("a.mrc",))

    def end(self, result: object = "made", error: Exception | None = None) -> None:
        """The newest attempt ends."""
        def program(_task: Task) -> object:
            if error is not None:
                raise error
            return result

        attempt = self.around.started[-1]
        attempt.carry_out(program, self.around)
        self.work.ended(attempt)

    def turn(self, *tasks: Task) -> None:
        self.work.collect()
        self.work.hand_out(tasks)
        self.work.release()


class TestATask(WithWork):
    def test_is_started_once_registered_once_and_then_done(self):
        self.turn(self.task, self.task)
        self.turn(self.task)
        self.assertEqual(len(self.around.started), 1)
        self.assertFalse(self.work.idle)
        self.end()
        self.assertFalse(self.work.idle)
        self.turn(self.task)
        self.assertEqual(self.around.registered, [("TS_01", 1, "made")])
        self.assertEqual(self.work.done, {"TS_01": 1})
        self.assertTrue(self.work.idle)
        self.assertEqual(len(self.around.started), 1)

    def test_that_needs_no_program_is_registered_at_once(self):
        self.turn(Task("a.tif", run=False))
        self.assertEqual((self.around.started, self.around.registered), ([], [("a.tif", 1, None)]))

    def test_whose_program_left_nothing_is_retried_once_and_then_fails(self):
        self.turn(self.task)
        self.end(error=ProgramFailed("it said nothing"))
        self.turn()
        self.assertEqual([attempt.tries for attempt in self.around.started], [1, 2])
        self.end(error=ProgramFailed("it said nothing"))
        self.turn(self.task)
        self.assertEqual(self.around.told, [("TS_01", entries.Retried, "it said nothing; retrying once"),
                                            ("TS_01", entries.Failed, "it said nothing (failed twice)")])
        self.assertEqual(len(self.around.started), 2)

    def test_whose_session_is_stopped_while_it_waits_for_a_gpu_stays_undone_and_is_no_failure(self):
        self.turn(self.task)
        self.around.stopped = True
        self.end(error=Stopped("the session was stopped while it waited for a GPU"))
        self.turn()
        self.assertEqual(self.around.told, [("TS_01", entries.Waiting, "the session was stopped while it waited for a GPU; it is "
                                                                       "done when the protocol is continued")])
        self.assertEqual((self.work.done, self.work.idle, len(self.around.started)), ({}, True, 1))

    def test_whose_input_is_wrong_is_not_retried(self):
        self.turn(self.task)
        self.end(error=BadInput("only 2 tilts"))
        self.turn(self.task)
        self.assertEqual(self.around.told, [("TS_01", entries.Failed, "only 2 tilts")])
        self.assertEqual(len(self.around.started), 1)

    def test_that_failed_is_taken_up_again_as_a_newer_version(self):
        self.turn(self.task)
        self.end(error=BadInput("only 2 tilts"))
        self.turn(Task("TS_01", version=2))
        self.assertEqual(self.around.started[-1].task.version, 2)

    def test_that_is_superseded_while_it_runs_is_followed_by_the_newest_version_alone(self):
        self.turn(self.task)
        self.turn(Task("TS_01", version=2))
        self.turn(Task("TS_01", version=3))
        self.assertEqual(len(self.around.started), 1)
        self.end()
        self.turn()
        self.assertEqual([attempt.task.version for attempt in self.around.started], [1, 3])
        self.end("newest")
        self.turn()
        self.assertEqual(self.around.registered, [("TS_01", 1, "made"), ("TS_01", 3, "newest")])
        self.assertTrue(self.work.idle)

    def test_that_is_superseded_while_its_next_job_is_refused_is_done_in_the_newest_version_alone(self):
        self.turn(self.task)
        self.turn(Task("TS_01", version=1))
        self.assertFalse(self.around.started[0].outdated)
        self.turn(Task("TS_01", version=2))
        self.assertTrue(self.around.started[0].outdated)        # by which its thread gives up the wait for the queue
        self.end(error=Postponed("the queue takes no jobs"))
        self.turn()
        self.around.now += DISK_SECONDS
        self.turn()
        self.assertEqual([attempt.task.version for attempt in self.around.started], [1, 2])

    def test_that_is_superseded_while_it_fails_is_followed_all_the_same(self):
        self.turn(self.task)
        self.turn(Task("TS_01", version=2))
        self.end(error=ProgramFailed("killed"))
        self.turn()                                         # the retry of version 1
        self.end(error=ProgramFailed("killed"))
        self.turn()
        self.assertEqual([attempt.task.version for attempt in self.around.started], [1, 1, 2])

    def test_that_cannot_be_registered_now_is_registered_later(self):
        self.turn(self.task)
        self.end()
        self.around.refusal = NotNow("database is locked")
        self.turn(self.task)
        self.turn(self.task)
        self.assertTrue(self.work.waits_for_reading)
        self.assertEqual(self.around.troubles["reading"], "the input cannot be read now (database is locked); retrying")
        self.around.refusal = None
        self.turn()
        self.assertEqual(self.around.registered, [("TS_01", 1, "made")])

    def test_that_cannot_be_registered_at_all_fails_alone(self):
        self.turn(self.task, Task("TS_02"))
        self.around.refusal = KeyError("no such column")
        self.work.ended(self.around.started[0])
        self.turn()
        self.assertEqual(self.around.told[-1][:2], ("TS_01", entries.Failed))
        self.assertIn("TS_02", self.work.attempts)

    def test_that_failed_is_recorded_until_recording_it_succeeds(self):
        def locked(*_):
            raise OSError("locked")

        self.work.fail(self.task, "no")
        self.assertRaises(OSError, self.work.record_failures, locked)
        self.assertFalse(self.work.idle)
        recorded = []
        self.work.record_failures(lambda task, reason: recorded.append((task.key, reason)))
        self.work.record_failures(lambda task, reason: recorded.append((task.key, reason)))
        self.assertEqual(recorded, [("TS_01", "no")])
        self.assertTrue(self.work.idle)


class TestATaskThatIsHeldUp(WithWork):
    def hold(self, obstacle: str = "the server is silent") -> None:
        self.turn(self.task)
        self.around.obstacle = obstacle
        self.end(error=ProgramFailed("nothing"))
        self.turn()

    def test_waits_without_counting_as_a_try_and_goes_on_when_the_obstacle_is_gone(self):
        self.hold()
        self.turn(self.task)
        self.assertEqual(len(self.around.started), 1)
        self.assertEqual(self.around.troubles["disk"], "the server is silent; what needs it waits and is retried")
        self.around.obstacle = ""
        self.turn()
        self.assertEqual([attempt.tries for attempt in self.around.started], [1, 1])
        self.assertEqual((self.around.told, self.around.troubles["disk"]), ([], ""))

    def test_goes_on_as_the_newest_version(self):
        self.hold()
        self.turn(Task("TS_01", version=2))
        self.around.obstacle = ""
        self.turn()
        self.assertEqual(self.around.started[-1].task.version, 2)

    def test_by_a_disk_that_looks_free_is_retried_later_and_later(self):
        self.around.disk_full = True
        self.turn(self.task)
        pause = DISK_SECONDS
        for tries in range(1, 12):
            self.end(error=OSError(28, "No space left on device"))
            self.turn()
            self.around.now += pause - 0.1
            self.turn()
            self.assertEqual(len(self.around.started), tries)
            self.around.now += 0.2
            self.turn()
            self.assertEqual(len(self.around.started), tries + 1)
            pause = min(2 * pause, MAX_DISK_SECONDS)

    def test_when_its_rows_find_the_disk_full_waits_too(self):
        self.turn(self.task)
        self.end()
        self.around.refusal, self.around.disk_full = OSError(28, "No space left on device"), True
        self.turn()
        self.assertEqual(self.around.told, [])
        self.assertIn("full", self.around.troubles["disk"])

    def test_stays_undone_and_is_no_failure_when_the_session_is_stopped(self):
        self.hold()
        self.around.stopped = True
        self.turn()
        self.assertEqual(self.around.told, [("TS_01", entries.Waiting, "the server is silent, and the session was stopped; it is "
                                                                       "done when the protocol is continued")])
        self.assertEqual((self.work.done, self.work.idle), ({}, True))

    def test_by_a_queue_that_takes_no_jobs_never_fails_and_is_retried_later_and_later(self):
        self.turn(self.task)
        pause = DISK_SECONDS
        for tries in range(1, 12):
            self.end(error=Postponed("'sbatch' says: command not found"))
            self.turn()
            self.around.now += pause - 0.1
            self.turn()
            self.assertEqual(len(self.around.started), tries)
            self.around.now += 0.2
            self.turn()
            self.assertEqual([attempt.tries for attempt in self.around.started], [1] * (tries + 1))
            pause = min(2 * pause, MAX_POSTPONED_SECONDS)
        self.assertEqual(self.around.told, [])
        self.end()
        self.turn()
        self.assertEqual(self.around.registered, [("TS_01", 1, "made")])

    def test_is_looked_at_in_turns_when_there_are_many(self):
        tasks = [Task(f"TS_{number:03d}") for number in range(2 * HELD_A_TURN)]
        self.turn(*tasks)
        self.around.obstacle = "the server is silent"
        for attempt in list(self.around.started):
            attempt.carry_out(lambda _: 1 / 0, self.around)
            self.work.ended(attempt)
        self.turn()
        asked = []
        self.around.of = lambda task: asked.append(task.key) or "the server is silent"
        self.turn()
        self.turn()
        self.assertEqual(sorted(asked), sorted(task.key for task in tasks))


class TestTheRoom(unittest.TestCase):
    def test_of_work_and_queue_needs_no_scipion(self):
        code = ("import sys, tomostream.streaming.work, tomostream.streaming.obstacles, tomostream.streaming.queue\n"
                "from tomostream.streaming import gpus, orphans\n"
                "print(sorted({'pwem', 'tomo', 'numpy'} & set(sys.modules)), 'pyworkflow.protocol' in sys.modules)")
        self.assertEqual(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout,
                         "[] False\n")


class TestTroubles(unittest.TestCase):
    def test_one_is_reported_when_it_begins_and_when_it_is_over_and_not_while_it_lasts(self) -> None:
        host = mock.Mock()
        troubles = Troubles(host)
        for text in ("locked", "still locked", "", "", "locked again"):
            troubles.report(entries.Topic.DATABASES, text)
        self.assertEqual([call.args[0] for call in host.warning.call_args_list], ["Locked", "Locked again"])
        self.assertEqual([call.args[0] for call in host.info.call_args_list], ["Over: still locked"])
        self.assertEqual([call.args[0].reason for call in host.ledger.write.call_args_list],
                         ["locked", "over: still locked", "locked again"])


class TestAWorkplace(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.host = mock.Mock()
        self.place = Workplace(self.host, os.path.join(folder.name, "work"))
        self.log = os.path.join(folder.name, "log")

    def test_every_run_of_a_program_has_a_folder_of_its_own(self) -> None:
        one, two = self.place.folder("TS_01"), self.place.folder("TS_01")
        self.place.discard(one)
        self.assertEqual((os.path.exists(one), os.listdir(two)), (False, []))

    def test_what_the_queue_does_not_take_now_is_postponed_and_what_fails_is_reported(self) -> None:
        self.host.runJob.side_effect = RuntimeError("status 3")
        self.assertEqual(self.place.run("sh", "-c true", self.log), "the program ended with an error (status 3)")
        self.host.runJob.side_effect = Postponed("'sbatch' says: not now")
        with self.assertRaises(Postponed):
            self.place.run("sh", "-c true", self.log)


if __name__ == "__main__":
    unittest.main()
