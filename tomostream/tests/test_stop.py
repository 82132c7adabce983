# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream stop` on made projects whose runs are processes that sleep; and arguments that stand after options."""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
import subprocess
import sys
import tempfile
import unittest
from types import SimpleNamespace

import psutil

from tomostream.cli import main, project, resume, stop
from tomostream.cli.leaving import Leaving, say
from tomostream.files import locks
from tomostream.journal import runs, stopping
from tomostream.journal.layout import starting_file, stop_file
from tomostream.journal.status import ARETOMO, COMPOSE, IMPORT, MOTIONCOR
from tomostream.report import background
from tomostream.tests.made_project import FOLDERS, MadeProject
from tomostream.tests.support import wait_for

#: A run: it starts a program in a session of its own, as queue commands are, and both sleep.
RUN = "import subprocess, sys; subprocess.Popen(['sleep', '60'], start_new_session=True); print(flush=True); " \
      "import time; time.sleep(60)"


class TestStop(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.made = MadeProject(os.path.join(folder.name, "night 1"))

    def folder(self, name: str) -> str:
        return os.path.join(self.made.path, "Runs", FOLDERS[name])

    def run_db(self, name: str, **values: str) -> None:
        os.makedirs(os.path.join(self.folder(name), "logs"))
        number = int(FOLDERS[name].split("_")[0])
        with contextlib.closing(sqlite3.connect(os.path.join(self.folder(name), "logs", "run.db"))) as connection, connection:
            connection.execute("CREATE TABLE Objects (name TEXT, value TEXT)")
            connection.executemany("INSERT INTO Objects VALUES (?, ?)",
                                   [(f"{number}.{key}", value) for key, value in values.items()])

    def runs_here(self, name: str) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", RUN, os.path.join(self.folder(name), "logs", "run.db")],
                                   stdout=subprocess.PIPE)
        self.addCleanup(process.stdout.close)
        self.addCleanup(self.end, process, psutil.Process(process.pid))
        process.stdout.readline()
        self.run_db(name, status="running", _pid=str(process.pid), hostFullName=os.uname().nodename)
        return process

    @staticmethod
    def end(process: subprocess.Popen, seen: psutil.Process) -> None:
        if process.poll() is None:
            for child in seen.children(recursive=True):
                child.kill()
            process.kill()
        process.wait()

    def stop(self, *words: str, expected: int = 0) -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            self.assertEqual(main(["stop", self.made.path, *words]), expected)
        return out.getvalue()

    def asked(self) -> list[str]:
        return [name for name in FOLDERS if os.path.exists(stop_file(self.folder(name)))]

    def test_every_protocol_that_runs_is_asked_and_goes_on_running(self):
        self.run_db(IMPORT, status="finished", _pid="1")
        process = self.runs_here(COMPOSE)
        said = self.stop()
        self.assertEqual(self.asked(), [COMPOSE])
        self.assertIsNone(process.poll())
        self.assertEqual(runs.process_of(self.folder(COMPOSE)), process.pid)
        self.assertIn("import is not running: there is nothing to stop.", said)
        self.assertIn("compose was asked to stop: it finishes what is in flight", said)
        self.assertIn(f"tomostream resume '{self.made.path}' --again", said)

    def test_only_the_protocols_that_are_named_are_asked(self):
        for name in (IMPORT, MOTIONCOR, ARETOMO):
            self.run_db(name, status="running", _pid="7", hostFullName="elsewhere.example.org")
        self.stop(ARETOMO, IMPORT)
        self.assertEqual(self.asked(), [IMPORT, ARETOMO])

    def test_now_ends_the_process_and_its_programs_and_leaves_the_request(self):
        process = self.runs_here(MOTIONCOR)
        children = psutil.Process(process.pid).children(recursive=True)
        self.assertEqual(len(children), 1)
        said = self.stop("--now", MOTIONCOR)
        self.assertEqual(process.wait(timeout=60), -15)
        wait_for(lambda: not children[0].is_running() or children[0].status() == psutil.STATUS_ZOMBIE, 240, "end of the program")
        self.assertEqual(self.asked(), [MOTIONCOR])
        self.assertIn(f"motioncor was ended (process {process.pid})", said)

    def test_now_lets_the_page_be_written_that_is_to_show_it(self):
        code = f"import subprocess, sys, time; subprocess.Popen(['sh', '-c', 'sleep 60; true', *{background.WORDS!r}]); " \
               "print(flush=True); time.sleep(60)"
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        self.addCleanup(process.stdout.close)
        self.addCleanup(self.end, process, psutil.Process(process.pid))
        process.stdout.readline()
        # a program that has just been started has no command line for a moment
        wait_for(lambda: stop.descendants(process.pid) == [], 60, "the writer of the page")
        self.assertTrue(stop.is_writer(psutil.Process(process.pid).children()[0].pid))

    def test_now_finds_programs_whatever_their_names_hold(self):
        path = os.path.join(self.made.path, "a) S 1 b")
        with open(path, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\nread line\n")
        os.chmod(path, 0o700)
        with subprocess.Popen([path], stdin=subprocess.PIPE) as process:
            self.assertIn(process.pid, stop.descendants(os.getpid()))

    def test_now_ends_all_before_any_can_read_the_request(self):
        """Compose would give up the series that only wait."""
        seen = os.path.join(self.made.path, "seen")
        for name in (IMPORT, COMPOSE):
            watch = f"import os\nprint(flush=True)\nwhile not os.path.exists({stop_file(self.folder(name))!r}): pass\n" \
                    f"open({seen!r}, 'w').close()"
            process = subprocess.Popen([sys.executable, "-c", watch, os.path.join(self.folder(name), "logs", "run.db")],
                                       stdout=subprocess.PIPE)
            self.addCleanup(process.stdout.close)
            self.addCleanup(self.end, process, psutil.Process(process.pid))
            process.stdout.readline()
            self.run_db(name, status="running", _pid=str(process.pid), hostFullName=os.uname().nodename)
        self.stop("--now")
        self.assertEqual((self.asked(), os.path.exists(seen)), ([IMPORT, COMPOSE], False))

    def test_a_process_that_is_not_the_run_is_never_ended(self):
        other = subprocess.Popen(["sleep", "60"])
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        self.run_db(COMPOSE, status="running", _pid=str(other.pid), hostFullName="elsewhere.example.org")
        said = self.stop("--now")
        self.assertIsNone(other.poll())
        self.assertEqual(self.asked(), [COMPOSE])
        self.assertIn("its process is not on this machine and was not ended", said)

    def test_one_that_took_the_request_before_it_was_looked_for_has_stopped(self):
        self.run_db(COMPOSE, status="finished", _pid="999999999")
        self.assertEqual(stop.ending(self.folder(COMPOSE)), "has stopped")

    def test_an_unknown_name_is_refused_before_anything_is_asked(self):
        self.run_db(IMPORT, status="running", _pid="7", hostFullName="elsewhere.example.org")
        said = self.stop(IMPORT, "ctf", expected=2)
        self.assertEqual(said, "tomostream stop: there is no protocol 'ctf'; there are: import, motioncor, compose, aretomo.\n")
        self.assertEqual(self.asked(), [])

    def test_an_unknown_project_is_refused_in_one_sentence(self):
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            self.assertEqual(main(["stop", "no-such-project"]), 2)
        self.assertEqual(said.getvalue(), "tomostream stop: there is no Scipion project no-such-project.\n")

    def test_a_request_that_cannot_be_written_is_refused_with_its_file(self):
        self.run_db(IMPORT, status="running", _pid="7", hostFullName="elsewhere.example.org")
        os.mkdir(stop_file(self.folder(IMPORT)))
        self.assertIn(stop_file(self.folder(IMPORT)), self.stop(expected=2))


class TestWhileTheSessionStarts(unittest.TestCase):
    """The four are started one after the other: a request reaches those that are still to come, and the one that is coming up."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.made = MadeProject(os.path.join(folder.name, "night"))
        self.launched: list[str] = []
        self.request: dict[str, tuple[str, ...]] = {}       # at the launch of which protocol what is asked for
        self.said = ""

    def launch(self, protocol: SimpleNamespace, wait: bool) -> None:
        """As pyworkflow: a request that lies in the folder is for the process before."""
        self.launched.append(protocol.name)
        if protocol.name in self.request:
            self.said += self.stop(*self.request[protocol.name])
        with contextlib.suppress(FileNotFoundError):
            os.remove(stop_file(self.folder(protocol.name)))

    def folder(self, name: str) -> str:
        return os.path.join(self.made.path, "Runs", FOLDERS[name])

    def stop(self, *words: str) -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self.assertEqual(main(["stop", self.made.path, *words]), 0)
        return out.getvalue()

    def chain(self) -> project.Chain:
        """Protocols whose outputs are there as soon as they are launched, and that say nothing of their state."""
        class Chain(project.Chain):
            def folder(chain, name: str) -> str:
                return self.folder(name)

        outputs = {"import": "outputMovies", "motioncor": "micrographs", "compose": "tiltSeries", "aretomo": ""}
        scipion = SimpleNamespace(launchProtocol=self.launch, _updateProtocol=lambda protocol: None)
        protocols = {name: SimpleNamespace(name=name, output_files={outputs[name]: "extra"}, getObjId=lambda: 1,
                                           isActive=lambda: False, runMode=SimpleNamespace(set=lambda mode: None),
                                           _prerequisites=[]) for name in project.ORDER}
        return Chain(self.made.path, scipion, protocols)

    def start(self) -> list[str]:
        with Leaving() as leaving:
            return project.start(self.chain(), lambda text: None, leaving)

    def resume(self, *names: str) -> list[str]:
        states = dict.fromkeys(project.ORDER, runs.DEAD)
        with Leaving() as leaving, project.starting(self.made.path, say, leaving):
            return resume.continue_all(self.chain(), states, list(names), leaving)

    def asked(self) -> list[str]:
        return [name for name in FOLDERS if os.path.exists(stop_file(self.folder(name)))]

    def test_all_are_started_when_nobody_asks(self):
        self.assertEqual((self.start(), self.launched, self.asked()), ([], list(project.ORDER), []))

    def test_the_end_of_all_reaches_the_one_that_is_coming_up_and_those_to_come_are_not_started(self):
        self.request = {MOTIONCOR: ()}
        self.assertEqual(self.start(), [COMPOSE, ARETOMO])
        self.assertEqual((self.launched, self.asked()), ([IMPORT, MOTIONCOR], [MOTIONCOR]))
        self.assertIn("compose is not running yet: the command that is starting the session will not start it.", self.said)
        self.assertIn("To continue: tomostream resume", self.said)

    def test_the_end_of_one_that_is_named_keeps_only_that_one_from_being_started(self):
        self.request = {IMPORT: (ARETOMO,)}
        self.assertEqual(self.start(), [ARETOMO])
        self.assertEqual((self.launched, self.asked()), ([IMPORT, MOTIONCOR, COMPOSE], []))

    def test_it_is_the_same_while_a_session_is_resumed(self):
        self.request = {MOTIONCOR: ()}
        self.assertEqual(self.resume(MOTIONCOR, COMPOSE, ARETOMO), [COMPOSE, ARETOMO])
        self.assertEqual((self.launched, self.asked()), ([MOTIONCOR], [MOTIONCOR]))

    def test_a_request_does_not_outlive_the_start_that_it_was_for(self):
        self.request = {MOTIONCOR: ()}
        self.start()
        self.request, self.launched = {}, []
        self.assertEqual((self.resume(*project.ORDER), self.launched), ([], list(project.ORDER)))

    def test_nothing_is_noted_where_no_command_starts_anything(self):
        self.assertIn("import is not running: there is nothing to stop.", self.stop())
        self.assertFalse(stopping.is_asked(self.made.path, IMPORT))
        with locks.hold(starting_file(self.made.path), 0.0):
            self.assertTrue(stopping.ask(self.made.path, [IMPORT]))
            self.assertTrue(stopping.ask(self.made.path, [COMPOSE]))
        self.assertEqual([name for name in FOLDERS if stopping.is_asked(self.made.path, name)], [IMPORT, COMPOSE])

    def test_what_was_not_started_is_reported_with_what_to_do(self):
        self.assertEqual(project.stopped_while_starting(self.chain(), [COMPOSE, ARETOMO]),
                         "The session was asked to stop meanwhile: compose and aretomo were not started. To continue: "
                         f"tomostream resume {self.made.path}")


class TestArgumentsAfterOptions(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.made = MadeProject(folder.name)
        self.made.acquire("TS_01")
        self.made.compose("TS_01")

    def exclude(self, *words: str) -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self.assertEqual(main(["exclude", self.made.path, *words]), 0)
        return out.getvalue()

    def test_tilts_may_stand_after_back_and_after_the_reason(self):
        self.assertIn("TS_01: 3 of 5 tilts", self.exclude("TS_01", "--reason", "grid bar", "2", "4"))
        self.assertIn("TS_01: 4 of 5 tilts", self.exclude("TS_01", "--back", "4"))
        self.assertIn("TS_01: 5 of 5 tilts", self.exclude("--back", "TS_01"))


if __name__ == "__main__":
    unittest.main()
