# SPDX-License-Identifier: GPL-3.0-or-later
"""Leaving `run` and `resume`: Ctrl-C, a closed terminal, a closed pipe, `timeout`. What was started goes on.

The terminals are real (pty), the processes that are started are `sleep`, started by pyworkflow as it starts protocols.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import termios
import time
import unittest
from unittest import mock

import psutil
import pytest

from tomostream import cli
from tomostream.cli import leaving, main
from tomostream.journal import entries
from tomostream.journal.status import ARETOMO, COMPOSE
from tomostream.tests.made_project import MadeProject
from tomostream.tests.support import LAUNCH, ORDER, Session, clean_environment, wait_for

#: Starts four `sleep`s as protocols and follows them. A protocol has its output some time after its start.
DRIVER = '''
import argparse, importlib, os, signal, sys, threading, time
from tomostream.cli import leaving, project, run
from tomostream.journal import runs
launch = importlib.import_module("pyworkflow.protocol.launch")
folder, seconds, use_json = sys.argv[1], float(sys.argv[2]), sys.argv[3] == "json"
class Protocol:
    # its outputs are files, and one that is there is made some time after its start; that of the import soon
    def __init__(self, name):
        self.name, self.began = name, None
        self.seconds = min(seconds, 0.3) if name == "import" else seconds
    @property
    def output_files(self): return self
    def __getitem__(self, output):
        return "Runs" if self.began is not None and time.monotonic() >= self.began + self.seconds else "not there yet"
class Project:
    def launchProtocol(self, protocol, wait):
        pid = launch._run("exec sleep 60", wait)
        protocol.began = time.monotonic()
        with open(os.path.join(folder, protocol.name), "w") as file: file.write(str(pid))
    def _updateProtocol(self, protocol): pass
class Chain(project.Chain):
    def folder(self, name): return folder
    def state(self, name): return runs.RUNNING if self.protocols[name].began else runs.UNKNOWN
os.makedirs(os.path.join(folder, "Runs"), exist_ok=True)
project.check_database = lambda chain, name: None       # there is none
chain = Chain(folder, Project(), {name: Protocol(name) for name in project.ORDER})
options = argparse.Namespace(quiet=False, json=os.path.join(folder, "out.json") if use_json else None)
with leaving.Leaving() as going:
    print("ready", flush=True)
    try:
        project.start(chain, leaving.say, going)
        if not going.asked: leaving.say("following")
        status = run.follow(chain, options, going)
    except leaving.Interrupted:
        leaving.say(project.interrupted(chain))
        status = 130
signal.signal(signal.SIGINT, signal.SIG_IGN)        # a second Ctrl-C that comes late finds the command at its end
if leaving.reader_gone(): leaving.mute()
sys.exit(status)
'''


class Driven(unittest.TestCase):
    """A driver in a terminal or behind a pipe."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.said = ""
        self.addCleanup(self.end_all)

    def command(self, seconds: float, json: bool = False) -> list[str]:
        return [sys.executable, "-c", DRIVER, self.folder, str(seconds), "json" if json else "-"]

    def in_terminal(self, command: list[str]) -> tuple[int, int]:
        """Process id, and our end of its terminal."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(command[0], command)
        settings = termios.tcgetattr(terminal)
        settings[3] |= termios.NOFLSH       # Ctrl-C throws nothing away that was written before it
        termios.tcsetattr(terminal, termios.TCSANOW, settings)
        return pid, terminal

    def read_until(self, terminal: int, words: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while words not in self.said and time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.2)[0]:
                try:
                    self.said += os.read(terminal, 4096).decode(errors="replace")
                except OSError:         # the other end is closed
                    break
        self.assertIn(words, self.said)

    def status_of(self, pid: int) -> int:
        found = wait_for(lambda: [each for each in [os.waitpid(pid, os.WNOHANG)] if each[0]], 240, "end of the command")
        return os.waitstatus_to_exitcode(found[0][1])

    def running(self) -> dict[str, int]:
        """`alive`, and each is in a session of its own and away from every terminal and pipe."""
        found = self.alive()
        for pid in found.values():
            self.assertEqual(os.getsid(pid), pid)
            self.assertEqual({os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)}, {os.devnull})
        return found

    def alive(self) -> dict[str, int]:
        """Protocol -> process id of those that live."""
        found = {}
        for name in ORDER:
            path = os.path.join(self.folder, name)
            if os.path.exists(path):
                with open(path, encoding="utf-8") as file:
                    pid = int(file.read())
                with contextlib.suppress(psutil.NoSuchProcess):
                    if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                        found[name] = pid
        return found

    def end_all(self) -> None:
        for pid in self.alive().values():
            with contextlib.suppress(ProcessLookupError):       # it has just ended by itself
                os.kill(pid, signal.SIGKILL)


class TestCtrlC(Driven):
    def test_while_protocols_start_ends_in_a_sentence_that_says_which_run(self):
        for words, running in (("ready", ()), ("motioncor is starting", ORDER[:2])):
            self.said = ""
            pid, terminal = self.in_terminal(self.command(100.0))
            self.addCleanup(os.close, terminal)
            self.read_until(terminal, words)
            os.write(terminal, b"\x03")
            self.read_until(terminal, "tomostream resume")
            self.assertEqual(self.status_of(pid), 130)
            alive = tuple(self.running())
            self.assertIn("Interrupted while the protocols were being started", self.said)
            self.assertTrue(set(running) <= set(alive), alive)
            self.assertLess(len(alive), 4)
            for name in alive:
                self.assertRegex(self.said, rf"started: [^.]*{name}[^.]* goe?s? on|started: [^.]*{name}[^.]* go on")
            self.end_all()

    def test_while_following_says_that_the_protocols_go_on_and_they_do(self):
        pid, terminal = self.in_terminal(self.command(0.0))
        self.addCleanup(os.close, terminal)
        self.read_until(terminal, "following")
        os.write(terminal, b"\x03\x03")
        self.read_until(terminal, "The protocols keep running; see: tomostream status")
        self.assertEqual(self.status_of(pid), 130)
        self.assertEqual(tuple(self.running()), ORDER)


class TestAClosedTerminal(Driven):
    def test_while_protocols_start_lets_all_four_start(self):
        pid, terminal = self.in_terminal(self.command(1.0))
        self.read_until(terminal, "import is starting")
        os.close(terminal)
        self.assertEqual(self.status_of(pid), 130)
        self.assertEqual(tuple(self.running()), ORDER)

    def test_while_following_ends_nothing_else(self):
        pid, terminal = self.in_terminal(self.command(0.0))
        self.read_until(terminal, "following")
        os.close(terminal)
        self.assertEqual(self.status_of(pid), 130)
        self.assertEqual(tuple(self.running()), ORDER)


class TestAClosedPipe(Driven):
    def test_lets_all_four_start_and_ends_the_following(self):
        with subprocess.Popen(self.command(0.5), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            child.stdout.readline()
            child.stdout.close()
            self.assertEqual((child.wait(timeout=60), child.stderr.read()), (130, b""))
        self.assertEqual(tuple(self.running()), ORDER)

    def test_does_not_keep_json_for_the_end_from_being_written(self):
        with subprocess.Popen(self.command(0.0, json=True), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            child.stdout.readline()
            child.stdout.close()
            with self.assertRaises(subprocess.TimeoutExpired):
                child.wait(timeout=8)
            child.terminate()
            self.assertEqual((child.wait(timeout=60), child.stderr.read()), (130, b""))

    def test_of_a_command_that_only_says_something_is_no_traceback(self):
        for target, status, words in (("/dev/full", 2, b"the output cannot be written"), (None, 0, b"")):
            read, write = os.pipe()
            os.close(read)
            output = os.open(target, os.O_WRONLY) if target else write
            child = subprocess.run([sys.executable, "-c", LAUNCH, "mdoc", __file__], stdout=output, stderr=subprocess.PIPE,
                                   check=False)
            self.assertEqual((child.returncode, child.stderr.count(b"\n")), (status, bool(target)), child.stderr)
            self.assertIn(words, child.stderr)
            os.close(write)


class TestHowACommandIsCalled(unittest.TestCase):
    """From cron, over ssh, from a terminal that has stood open since yesterday."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)

    def call(self, before: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
        """What a shell says that calls a command after it has done something."""
        line = f"{before} \"$@\""
        return subprocess.run(["sh", "-c", line, "sh", sys.executable, "-c", LAUNCH, *words], cwd=self.folder, text=True,
                              capture_output=True, check=False, env={**os.environ, **environment})

    def test_with_closed_streams_it_does_its_work_and_no_file_takes_their_numbers(self):
        for closing in (">&-", "2>&-", "<&- >&- 2>&-"):
            done = self.call(f"exec {closing};", "list", self.folder)
            self.assertEqual((closing, done.returncode, done.stderr), (closing, 0, ""))
        show = "import os; from tomostream.cli.leaving import ready_streams; ready_streams(); " \
               "assert {os.readlink(f'/proc/self/fd/{number}') for number in range(3)} == {os.devnull}; print(1)"
        done = subprocess.run(["sh", "-c", "exec <&- >&- 2>&-; \"$@\"", "sh", sys.executable, "-c", show], check=False)
        self.assertEqual(done.returncode, 0)

    def test_in_a_locale_without_the_signs_that_it_says_they_are_spelt_out(self):
        done = self.call("", "parameters", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("\\xb5m", done.stdout)

    def test_from_a_folder_that_is_gone_says_so_in_a_sentence(self):
        os.mkdir(os.path.join(self.folder, "gone"))
        for words in (("run", "night", "--movies", "a", "--mdocs", "b"), ("simulate", "acq"), ("status", "night")):
            done = self.call(f"mkdir -p {self.folder}/gone; cd {self.folder}/gone; rmdir ../gone;", *words)
            self.assertEqual((done.returncode, done.stderr), (2, f"tomostream {words[0]}: the folder from which it was called is "
                             "gone (removed, or its disk is not mounted): cd to another.\n"))


class TestAnAnswerThatNobodyReadsToTheEnd(unittest.TestCase):
    """`tomostream status P | head -2`: the exit status says the same as where all of it was read."""

    def show(self, number: int) -> mock.Mock:
        with mock.patch("builtins.print", side_effect=OSError(number, os.strerror(number))), \
                mock.patch.object(leaving, "mute") as mute:
            leaving.show("text")
        return mute

    def test_is_no_error_and_a_full_disk_is_one(self):
        self.show(errno.EPIPE).assert_called_once_with()
        with self.assertRaises(OSError):
            self.show(errno.ENOSPC)

    def test_of_status_has_the_exit_status_of_the_whole(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        made = MadeProject(os.path.join(folder.name, "night"))
        made.acquire("TS_01")
        made.report(ARETOMO, "TS_01", entries.Failed, "no axis", version=1)
        with mock.patch.object(leaving, "mute"), mock.patch("builtins.print", side_effect=BrokenPipeError(errno.EPIPE, "")):
            self.assertEqual(main(["status", made.path]), 3)


class TestEveryCommandThatTells(unittest.TestCase):
    """More than a pipe holds, into one that nobody reads any more, and onto a disk that is full."""

    COMMANDS = (("status", "--all"), ("status", "--json"), ("list",), ("acknowledge",), ("until",), ("stop",),
                ("exclude", "TS_001"))

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.made = MadeProject(os.path.join(folder.name, "night"))
        for number in range(400):
            cls.made.whole(f"TS_{number:03d}", image_files=number == 1)

    def test_ends_without_a_traceback(self):
        for name, *words in self.COMMANDS:
            command = [sys.executable, "-c", LAUNCH, name, self.made.path, *words]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
                child.stdout.read(1)
                child.stdout.close()
                self.assertEqual((name, child.stderr.read()), (name, b""))
                self.assertIn(child.wait(timeout=60), (0, 3))
            with open("/dev/full", "w", encoding="utf-8") as full:
                done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
            said = f"tomostream {name}: the output cannot be written: No space left on device.\n"
            self.assertEqual((done.returncode, done.stderr), (2, said))


class TestTheDemo(unittest.TestCase):
    def test_takes_its_microscope_with_it_when_it_is_killed(self):
        with tempfile.TemporaryDirectory() as folder:
            demo = subprocess.Popen([sys.executable, "-c", LAUNCH, "demo", os.path.join(folder, "demo")],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment(folder))
            microscope, = wait_for(lambda: [each for each in psutil.Process(demo.pid).children() if "simulate" in each.cmdline()],
                                   60, "microscope", 0.02)
            demo.kill()
            demo.wait()
            wait_for(lambda: not microscope.is_running() or microscope.status() == psutil.STATUS_ZOMBIE, 240, "end of it")


class TestTimeout(Driven):
    def test_lets_all_four_start_and_ends_the_following(self):
        """Its time is over when the second protocol starts, however long that takes on this machine."""
        command = ["timeout", "600", *self.command(1.0)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            said = ""
            while "motioncor is starting" not in said:
                line = child.stdout.readline()
                self.assertTrue(line, said)
                said += line
            child.terminate()           # it passes the signal on as it does when its time is over
            rest, errors = child.communicate(timeout=120)
        self.assertIn(child.returncode, (124, 130))
        self.assertEqual(tuple(self.running()), ORDER)
        self.assertIn("aretomo is starting", rest)
        self.assertIn("The protocols keep running", rest)
        self.assertEqual(errors, "")


class TestWaiting(unittest.TestCase):
    def test_is_ended_by_a_signal_that_came_before(self):
        with leaving.Leaving() as going:
            os.kill(os.getpid(), signal.SIGTERM)
            began = time.monotonic()
            self.assertTrue(going.wait(30.0))
            self.assertLess(time.monotonic() - began, 5.0)
            going.pause(0.0)                # a start goes on
            os.kill(os.getpid(), signal.SIGINT)
            with self.assertRaises(leaving.Interrupted):
                going.pause(0.0)

    def test_leaves_nohup_as_it_is(self):
        previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGHUP, previous)
        with leaving.Leaving() as going:
            os.kill(os.getpid(), signal.SIGHUP)
            self.assertFalse(going.wait(0.1))
        self.assertIs(signal.getsignal(signal.SIGHUP), signal.SIG_IGN)


@pytest.mark.chain
class TestARealSession(unittest.TestCase):
    def test_goes_on_when_its_terminal_closes_and_when_a_pipe_does(self):
        """A terminal that is closed while the third of four starts, then `resume --no-follow | head -1`."""
        with Session() as session:
            os.makedirs(session.frames)
            os.makedirs(session.mdocs)
            pid, terminal = pty.fork()
            if pid == 0:
                os.chdir(session.folder)
                os.execve(sys.executable, [sys.executable, "-c", LAUNCH, "run", session.project, "--movies", session.frames,
                                           "--mdocs", session.mdocs, "--engine", "cpu"], session.environment)
            wait_for(lambda: session.state(COMPOSE) == "running", 240, "compose")
            os.close(terminal)
            wait_for(lambda: os.waitpid(pid, os.WNOHANG)[0], 240, "end of the command")
            for name in ORDER:
                self.assertEqual((name, session.state(name)), (name, "running"))
            os.kill(session.pids(COMPOSE)[0], signal.SIGKILL)
            wait_for(lambda: session.state(COMPOSE) == "dead", 240, "dead protocol")
            subprocess.run(f"{sys.executable} -c '{LAUNCH}' resume {session.project} --no-follow | head -1", shell=True,
                           cwd=session.folder, env=session.environment, timeout=240, check=True, stdout=subprocess.DEVNULL)
            wait_for(lambda: session.state(COMPOSE) == "running", 240, "compose")


class TestCtrlCBeforeACommandBegins(unittest.TestCase):
    def test_is_no_traceback(self):
        """What a subcommand needs is imported for a second or more on a busy machine."""
        with mock.patch.object(cli.importlib, "import_module", side_effect=KeyboardInterrupt):
            self.assertEqual(main(["run", "x"]), 130)


class TestARefusal(unittest.TestCase):
    def test_of_a_project_is_one_line(self):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            self.assertEqual(main(["status", "/nowhere/at/all"]), 2)
        self.assertEqual(said.getvalue().count("\n"), 1)


if __name__ == "__main__":
    unittest.main()
