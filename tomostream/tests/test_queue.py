# SPDX-License-Identifier: GPL-3.0-or-later
"""What a queue says of the jobs that it ended reaches the user."""

from __future__ import annotations

import functools
import json
import os
import shlex
import tempfile
import threading
import unittest
from collections import Counter
from types import SimpleNamespace
from unittest import mock

import pytest
from pyworkflow.config import Config

Config.getDomain().getProtocols()       # the plugins below ours can be imported only once Scipion knows them

from tomostream.journal import entries  # noqa: E402
from tomostream.journal.status import ARETOMO, MOTIONCOR  # noqa: E402
from tomostream.streaming import executor, queue, submitted  # noqa: E402
from tomostream.streaming.queue import Jobs, JobState, NoAnswer, with_mark, words_of_queue  # noqa: E402
from tomostream.streaming.submitted import Cancelled  # noqa: E402
from tomostream.streaming.tickets import Stopped  # noqa: E402
from tomostream.streaming.work import MAX_POSTPONED_SECONDS, Attempt, Task  # noqa: E402
from tomostream.streaming.workplace import Workplace  # noqa: E402
from tomostream.tests.schedulers import Scheduler  # noqa: E402
from tomostream.tests.support import ORDER, Session, wait_for  # noqa: E402

LIMIT = "slurmstepd: error: *** JOB 12 ON node1 CANCELLED AT 2026-11-22T22:35:40 DUE TO TIME LIMIT ***"


class TestTheWordsOfAQueue(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.logs = os.path.join(folder.name, "62-3-1")

    def write(self, ending: str, text: str) -> None:
        with open(self.logs + ending, "w", encoding="utf-8") as file:
            file.write(text)

    def test_a_job_that_ran_out_of_time_is_reported_with_the_words_of_slurm(self):
        self.write(".err", f"Loading modules\n{LIMIT}\n")
        self.assertEqual(words_of_queue(self.logs), LIMIT)

    def test_lack_of_memory_is_reported_wherever_the_queue_wrote_it(self):
        self.write(".err", "")
        self.write(".out", "slurmstepd: error: Detected 1 oom_kill event in StepId=13.batch.\n")
        self.assertIn("oom_kill", words_of_queue(self.logs))

    def test_the_end_of_time_in_pbs_is_known(self):
        self.write(".err", "=>> PBS: job killed: walltime 3605 exceeded limit 3600\n")
        self.assertIn("walltime 3605 exceeded", words_of_queue(self.logs))

    def test_other_words_mean_nothing(self):
        self.write(".err", "module: command not found\nterminal is not set\nnumpy warns of nothing\n")
        self.write(".out", "done\n")
        self.assertEqual(words_of_queue(self.logs), "")

    def test_a_queue_that_writes_no_logs_said_nothing(self):
        self.assertEqual(words_of_queue(self.logs), "")


class Answers:
    """Answers as instructed; notes what it was asked."""

    def __init__(self) -> None:
        self.now, self.asked, self.running = 0.0, [], set()
        self.status, self.words = 0, None

    def __call__(self, command: str) -> tuple[int, str]:
        self.asked.append(command)
        if isinstance(self.words, Exception):
            raise self.words
        if self.words is not None:
            return self.status, self.words
        wanted = command.split()[-1].split(",")
        known = [job for job in wanted if job in self.running]
        if not known and len(wanted) == 1:
            return 1, "slurm_load_jobs error: Invalid job id specified\n"
        return 0, "".join(f"  {job}  debug  62-3-1  root  R  0:10  1 node1\n" for job in known)


class TestJobs(unittest.TestCase):
    def setUp(self) -> None:
        self.scheduler = Answers()
        self.jobs = self.of("squeue -h -j %(JOB_ID)s")

    def of(self, command: str, done: str | None = None) -> Jobs:
        return Jobs(command, done, self.scheduler, lambda: self.scheduler.now)

    def add(self, *jobs: str) -> None:
        for job in jobs:
            self.jobs.add(job)
            self.scheduler.running.add(job)

    def states(self, *jobs: str, after: float = queue.QUEUE_POLL_SECONDS) -> list[JobState]:
        self.scheduler.now += after
        return [self.jobs.state(job) for job in jobs]

    def test_are_asked_for_all_at_once_and_not_more_often_than_needed(self):
        self.add("12", "13", "123")
        self.assertEqual(self.states("12", "13", "123"), [JobState.RUNNING] * 3)
        self.states("12", "13", after=1.0)
        self.assertEqual(self.scheduler.asked, ["squeue -h -j 12,13,123"])

    def test_that_the_scheduler_does_not_know_when_asked_for_them_alone_are_over(self):
        self.add("12", "13", "123")
        self.scheduler.running.remove("12")
        self.assertEqual(self.states("12", "13", "123"), [JobState.UNKNOWN, JobState.RUNNING, JobState.RUNNING])
        self.assertEqual(self.states("12", "13", "123"), [JobState.OVER, JobState.RUNNING, JobState.RUNNING])

    def test_that_a_scheduler_forgot_for_a_moment_are_not_over(self):
        self.add("12")
        self.scheduler.running.clear()
        self.assertEqual(self.states("12"), [JobState.UNKNOWN])
        self.scheduler.running.add("12")
        self.assertEqual(self.states("12"), [JobState.RUNNING])
        self.scheduler.running.clear()
        self.assertEqual(self.states("12"), [JobState.UNKNOWN])
        self.assertEqual(self.states("12"), [JobState.OVER])

    def test_of_which_a_scheduler_says_nothing_are_over_when_their_own_log_says_that_it_ended_them(self):
        self.add("12", "13")
        with tempfile.TemporaryDirectory() as folder:
            logs = os.path.join(folder, "job")
            looking = SimpleNamespace(jobs=self.jobs)

            def over() -> bool:
                return executor.EventQueueStepExecutor._is_over(looking, "12", logs)

            with open(f"{logs}.err", "w", encoding="utf-8") as file:
                file.write(f"{LIMIT}\n")
            self.states("12")
            self.assertFalse(over())                    # it is listed: it may still be ending
            self.scheduler.words = ""
            self.states("12")
            self.assertTrue(over())
            os.remove(f"{logs}.err")
            self.assertFalse(over())                    # silence alone is no end
            self.scheduler.words = None
            self.states("12")
            self.assertFalse(self.jobs.is_silent("12"))

    def test_of_a_scheduler_that_fails_are_not_known_to_be_over_and_this_is_reported(self):
        self.add("12")
        self.scheduler.status = 1
        for words in ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", ""):
            self.scheduler.words = words
            self.assertEqual(self.states("12"), [JobState.UNKNOWN])
            self.assertIn(words or "exit status 1", self.jobs.trouble)
        self.scheduler.words = None
        self.assertEqual(self.states("12"), [JobState.RUNNING])
        self.assertEqual(self.jobs.trouble, "")

    def test_of_a_scheduler_that_hangs_are_not_known_to_be_over(self):
        self.add("12", "13")
        self.scheduler.words = NoAnswer("no answer within 30 s")
        self.assertEqual(self.states("12", "13"), [JobState.UNKNOWN] * 2)
        self.assertIn("no answer", self.jobs.trouble)

    def test_of_a_scheduler_that_says_nothing_are_not_over_for_long(self):
        self.add("12")
        self.scheduler.words = ""
        self.assertEqual(self.states("12"), [JobState.UNKNOWN])
        self.assertEqual(self.states("12", after=queue.SILENT_SECONDS - 1), [JobState.UNKNOWN])
        self.scheduler.words = None
        self.assertEqual(self.states("12"), [JobState.RUNNING])       # it was a lie
        self.scheduler.words = ""
        self.assertEqual(self.states("12"), [JobState.UNKNOWN])
        self.assertEqual(self.states("12", after=queue.SILENT_SECONDS), [JobState.UNKNOWN])
        self.assertEqual(self.states("12"), [JobState.OVER])

    def test_of_other_schedulers_are_asked_for_one_by_one_and_their_words_are_known(self):
        for command, words in (("qstat %(JOB_ID)s", "qstat: Unknown Job Id 12.server"),
                               ("bjobs %(JOB_ID)s", "Job <12> is not found"),
                               ("qstat -j %(JOB_ID)s", "Following jobs do not exist: 12"),
                               ("sacct -nj %(JOB_ID)s", "12 debug COMPLETED 0:0")):
            self.jobs = self.of(command)
            self.add("12")
            self.scheduler.words, self.scheduler.asked = words, []
            self.assertEqual([*self.states("12"), *self.states("12")], [JobState.UNKNOWN, JobState.OVER], command)
            self.assertEqual(self.scheduler.asked, [command % {"JOB_ID": "12"}] * 2)

    def test_are_judged_by_scipions_expression_where_there_is_one(self):
        self.jobs = self.of("status %(JOB_ID)s", "ENDED")
        self.add("12")
        for words, state in (("12 COMPLETED", JobState.RUNNING), ("12 ENDED", JobState.UNKNOWN), ("12 ENDED", JobState.OVER)):
            self.scheduler.words = words
            self.assertEqual(self.states("12"), [state])

    def test_that_a_queue_does_not_take_are_reported_until_it_takes_one(self):
        self.jobs.refusal = "'sbatch' says: sbatch: command not found"
        self.assertIn("the queue takes no jobs ('sbatch' says: sbatch: command not found)", self.jobs.trouble)
        self.jobs.refusal = ""
        self.assertEqual(self.jobs.trouble, "")


class TestASubmission(unittest.TestCase):
    def test_gives_the_number_of_the_job(self):
        self.assertEqual(queue.submit_job("echo Submitted batch job 4711"), "4711")
        for said in ("sbatch: warning: 2 nodes are down\nSubmitted batch job 4711", "Job <4711> is submitted to queue <12>.",
                     'Your job 4711 ("62-3-1") has been submitted', "4711.node1", "qsub: quota of project 3\n4711",
                     "Your job-array 4711.1-3:1 has been submitted", "4711;cluster2"):
            self.assertEqual(queue.submit_job(f"printf '%s' {shlex.quote(said)}"), "4711", said)

    def test_that_is_not_taken_says_why(self):
        for command, words in (("no-such-sbatch job.sh", "no-such-sbatch.* not found"),
                               ("echo 'sbatch: error: invalid partition specified: tomo2' >&2; exit 1", "invalid partition"),
                               ("echo 'Submitted batch job 12'; exit 1", "Submitted batch job 12"),
                               ("echo Submitted", "says: Submitted"), ("true", "status 0 and gave no job number"),
                               ("false", "status 1 and gave no job number")):
            with self.assertRaisesRegex(queue.NotTaken, words):
                queue.submit_job(command)

    def test_that_hangs_is_given_up(self):
        with self.assertRaisesRegex(queue.NotTaken, "did not answer within 0.2 s") as refused:
            queue.submit_job("sleep 60", seconds=0.2)
        self.assertTrue(refused.exception.unclear)

    def test_may_have_been_taken_although_no_number_came(self):
        for command, unclear in (
                ("echo 'error: Batch job submission failed: Socket timed out on send/recv operation'; exit 1", True),
                ("true", True), ("echo Submitted", True),
                ("echo 'error: Unable to contact slurm controller (connect failure)'; exit 1", False),
                ("echo 'error: Batch job submission failed: Invalid partition name specified'; exit 1", False),
                ("no-such-sbatch job.sh", False)):
            with self.assertRaises(queue.NotTaken) as refused:
                queue.submit_job(command)
            self.assertEqual(refused.exception.unclear, unclear, command)


class Answering(executor.EventQueueStepExecutor):
    """Submits to a queue that gives these answers, one a job: None takes it, and it ends at once."""

    def __init__(self, folder: str, *answers: Exception | None) -> None:
        host = mock.Mock(**{"getCheckCommand.return_value": "true", "getJobDoneRegex.return_value": "",
                            "getCancelCommand.return_value": "true"})
        super().__init__(host, {}, 1)
        self.folder, self.answers, self.taken = folder, list(answers), []

    def _submit_job(self, program: str, params: str, mpi: int, env: object, cwd: str | None) -> tuple[str, str, str]:
        answer = self.answers.pop(0)
        if answer is not None:
            raise answer
        self.taken.append(program)
        logs = os.path.join(self.folder, str(len(self.taken)))
        with open(f"{logs}.ended", "w", encoding="utf-8") as file:
            file.write("0\n")
        return str(len(self.taken)), logs, f"{logs}.ended"


class TestAnItemOfTwoJobs(unittest.TestCase):
    """As a series by AreTomo with a filtered tomogram."""

    NO = queue.NotTaken("'sbatch' says: sbatch: error: Unable to contact slurm controller (connect failure)")
    UNCLEAR = queue.NotTaken("'sbatch' did not answer within 120 s", unclear=True)

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.attempt = Attempt(Task("TS_01"))
        self.waits: list[float] = []
        self.on_wait = self.waits.append

    def run_with(self, *answers: Exception | None, stop: object = None) -> list[str]:
        """Both jobs of the item, to a queue that gives these answers; return the programs that were run."""
        self.loop = Answering(self.folder, *answers)
        self.loop.protocol = mock.Mock(stop_event=stop or SimpleNamespace(wait=self.on_wait))
        self.loop.protocol.workplace.root = os.path.join(self.folder, ".work")
        place = Workplace(SimpleNamespace(runJob=functools.partial(self.loop.runJob, mock.Mock())), self.folder)

        def both(_task: Task) -> None:
            for program in ("AreTomo2", "cpu"):
                place.run(program, "", os.path.join(self.folder, "log"))

        with mock.patch.object(threading.current_thread(), "step", mock.Mock(attempt=self.attempt), create=True):
            self.attempt.carry_out(both, mock.Mock())
        return self.loop.taken

    def test_waits_between_them_until_the_queue_takes_jobs_again_and_runs_neither_twice(self):
        said: list[str] = []

        def wait(seconds: float) -> None:
            self.waits.append(seconds)
            said.append(self.loop.trouble())

        self.on_wait = wait
        self.assertEqual(self.run_with(None, *[self.NO] * 6, None), ["AreTomo2", "cpu"])
        self.assertIsNone(self.attempt.error)
        self.assertEqual(self.waits, [5.0, 10.0, 20.0, 40.0, MAX_POSTPONED_SECONDS, MAX_POSTPONED_SECONDS])
        self.assertEqual(set(said), {f"the queue takes no jobs ({self.NO}); they wait and are retried"})
        self.assertEqual(self.loop.trouble(), "")

    def test_that_waits_between_them_is_left_at_once_when_the_session_is_stopped(self):
        stop = threading.Event()
        stop.set()
        self.assertEqual(self.run_with(None, self.NO, stop=stop), ["AreTomo2"])
        self.assertIsInstance(self.attempt.error, Stopped)
        self.assertFalse(self.attempt.postponed)

    def test_that_has_not_begun_is_postponed(self):
        self.assertEqual(self.run_with(self.NO), [])
        self.assertEqual((self.attempt.postponed, self.attempt.error, self.waits), (True, self.NO, []))
        self.assertIn("takes no jobs", self.loop.trouble())

    def test_starts_over_where_its_second_may_run_after_all_and_would_write_into_the_same_files(self):
        self.assertEqual(self.run_with(None, self.NO, self.UNCLEAR), ["AreTomo2"])
        self.assertEqual((self.attempt.postponed, self.waits), (True, [5.0]))

    def test_gives_up_its_second_when_a_newer_version_of_it_has_come(self):
        def wait(seconds: float) -> None:
            self.waits.append(seconds)
            self.attempt.outdated = True

        self.on_wait = wait
        self.assertEqual(self.run_with(None, self.NO, self.NO), ["AreTomo2"])
        self.assertEqual((self.attempt.postponed, self.waits), (True, [5.0]))


class TestAQuestion(unittest.TestCase):
    def test_that_hangs_ends_after_a_while_with_all_that_it_started(self):
        with self.assertRaisesRegex(NoAnswer, "did not answer within 0.2 s"):
            queue.ask("sleep 60 | sleep 60", seconds=0.2)

    def test_gives_the_exit_status_and_what_was_printed_on_both_streams(self):
        self.assertEqual(queue.ask("echo one; echo two >&2; exit 3"), (3, "one\ntwo\n"))


class TestJobsThatAProcessLeft(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.run_folder, self.place = os.path.join(folder.name, "run"), os.path.join(folder.name, "scheduler")
        os.makedirs(os.path.join(self.run_folder, "extra"))
        self.scheduler = Scheduler(self.place)
        self.path = os.path.join(self.run_folder, "extra", submitted.NAME)
        self.noted = submitted.Submitted(self.path, f"{self.place}/scancel %(JOB_ID)s")

    def submit(self) -> tuple[str, int]:
        """A job that sleeps; its number and process."""
        descriptor, script = tempfile.mkstemp(dir=self.place)       # of its own: sh reads it as it goes
        os.close(descriptor)
        with open(script, "w", encoding="utf-8") as file:
            file.write(f"#SBATCH -o {self.place}/out\n#SBATCH -e {self.place}/err\nsleep 600\n")
        job = queue.submit_job(f"{self.place}/sbatch {script}")
        with open(os.path.join(self.place, "jobs", job, "pid"), encoding="utf-8") as file:
            return job, int(file.read())

    def test_are_cancelled_and_those_that_are_over_are_not(self):
        jobs = [self.submit() for _ in range(3)]
        for job, process in jobs:
            self.addCleanup(queue.ask, f"kill -9 -{process}")
            self.noted.add(job)
        self.noted.remove(jobs[1][0])
        self.assertEqual((submitted.cancel_left(self.run_folder), os.path.exists(self.path)), (Cancelled(2), False))
        for number in (0, 2):
            wait_for(lambda number=number: queue.ask(f"{self.place}/squeue -h -j {jobs[number][0]}")[0], 60, "end of the job")
        self.assertEqual(queue.ask(f"{self.place}/squeue -h -j {jobs[1][0]}")[0], 0)
        self.assertEqual(submitted.cancel_left(self.run_folder), Cancelled())

    def test_are_none_where_nothing_was_noted_or_makes_no_sense(self):
        for text in ("", "[]", '{"cancel": "true", "jobs": 3}', '{"cancel": "true %(X)s", "jobs": ["1"]}', '{"cancel": "true"}'):
            with open(self.path, "w", encoding="utf-8") as file:
                file.write(text)
            self.assertEqual(submitted.cancel_left(self.run_folder), Cancelled(), text)

    def test_that_the_scheduler_does_not_cancel_stay_noted_and_are_when_it_takes_jobs_again(self):
        job, process = self.submit()
        self.addCleanup(queue.ask, f"kill -9 -{process}")
        self.noted.add(job)
        self.scheduler.behave("down")
        found = submitted.cancel_left(self.run_folder)
        self.assertEqual((found.number, found.left), (0, (job,)))
        self.assertRegex(found.in_words(), rf"^cancelled 1 job not \({job}: .*Unable to contact")
        again = submitted.Submitted(self.path, f"{self.place}/scancel %(JOB_ID)s")
        self.assertEqual(again.add("1"), 0)                     # it cannot be cancelled now either
        self.scheduler.behave()
        self.assertEqual((again.add("2"), again.add("3")), (1, 0))
        wait_for(lambda: queue.ask(f"{self.place}/squeue -h -j {job}")[0], 60, "end of the job")
        with open(self.path, encoding="utf-8") as file:
            self.assertEqual(json.load(file)["jobs"], ["1", "2", "3"])

    def test_that_the_scheduler_does_not_know_have_ended(self):
        self.assertEqual(submitted.cancel_jobs("echo 'error: Invalid job id specified' >&2; exit 1 # %(JOB_ID)s", ["1", "2"]),
                         Cancelled())

    def test_are_not_asked_for_one_by_one_where_nothing_answers(self):
        with mock.patch.object(submitted, "ask", side_effect=NoAnswer("it hangs")) as asked:
            self.assertEqual(submitted.cancel_jobs("scancel %(JOB_ID)s", ["1", "2"]), Cancelled(0, ("1", "2"), "it hangs"))
        asked.assert_called_once_with("scancel 1")

    def test_in_words(self):
        for found, words in ((Cancelled(), ""), (Cancelled(2), "2 jobs in the queue cancelled"),
                             (Cancelled(1, ("7",), "why"), "1 job in the queue cancelled, 1 job not (7: why)")):
            self.assertEqual(found.in_words(), words)


@pytest.mark.chain
class TestASessionThroughAQueue(unittest.TestCase):
    """The scheduler is not there at first, then fails, hangs, says nothing and lies: nothing fails, nothing runs twice."""

    def test_waits_and_is_whole_in_the_end(self):
        with Session() as session:
            session.use_standins("3,3")
            scheduler = Scheduler(os.path.join(session.folder, "scheduler"))
            session.environment.update(scheduler.environment)
            scheduler.behave("absent")
            run = session.run("--queue", "tomo", "--timeout", "300", "--quiet", engine="gpu", settings={
                "compose.expectedTilts": 4, "aretomo.tomoThickness": 40, "aretomo.alignZ": 20, "motioncor.numberOfThreads": 4})
            session.simulate("--series", "2", "--tilts", "4", "--frames", "2", "--size", "48")
            waits = wait_for(lambda: [entry for entry in session.events(MOTIONCOR, entries.Waiting)
                                      if entry.topic is entries.Topic.QUEUE], 240, "word of the queue")
            self.assertIn("the queue takes no jobs (", waits[0].reason)
            self.assertIn("command not found", waits[0].reason)
            self.assertIsNone(run.poll())
            scheduler.behave("silent")          # before a series begins: what is not clearly refused would start it over
            threading.Event().wait(3.0)
            scheduler.behave("down")
            threading.Event().wait(6.0)
            for mode in ("", "forgets", "down", "", "hangs", "down", ""):
                scheduler.behave(mode)
                threading.Event().wait(3.0)
            wait_for(lambda: len(session.rows(ARETOMO)) == 2, 240, "two tomograms")
            failed = [entry for name in ORDER for entry in session.events(name, (entries.Failed, entries.Retried))]
            self.assertEqual(failed, [])
            programs = Counter(entry["program"] for entry in session.standin_runs("end"))
            self.assertEqual(programs, {"MotionCor3": 8, "AreTomo2": 2})
            over = [entry.over for entry in session.events(MOTIONCOR, entries.Session)]
            self.assertIn(entries.Topic.QUEUE, over)


class TestTheMark(unittest.TestCase):
    def test_is_there_when_the_program_has_ended_whatever_its_status(self):
        with tempfile.TemporaryDirectory() as folder:
            mark = os.path.join(folder, "a b.ended")
            self.assertEqual(queue.ask(with_mark("(exit 3)", mark)), (0, ""))
            self.assertTrue(queue.is_marked(mark))
            with open(mark, encoding="utf-8") as file:
                self.assertEqual(file.read(), "3\n")


if __name__ == "__main__":
    unittest.main()
