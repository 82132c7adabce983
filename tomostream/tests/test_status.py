# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream status` and `list`: the truth about protocols, what needs a person, and a table that fits its terminal."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest
from datetime import datetime
from types import SimpleNamespace
from unittest import mock

import pytest

from tomostream.cli import main, resume, table
from tomostream.files import locks
from tomostream.journal import entries, runs, sessions
from tomostream.journal.layout import starting_file, stop_file
from tomostream.journal.status import ARETOMO, CLASSES, COMPOSE, IMPORT, MOTIONCOR, ProjectStatus
from tomostream.report import acknowledged
from tomostream.report.attention import overview
from tomostream.report.writer import ReportWriter
from tomostream.tests.made_project import FOLDERS, MadeProject
from tomostream.tests.support import LAUNCH, Session, wait_for

#: A screen that shows a project again and again; each line of its input says that there is something new, or another size.
SCREEN = """
import sys
from tomostream.cli.table import Screen
from tomostream.journal.status import ProjectStatus
status, screen = ProjectStatus(sys.argv[1]), Screen(sys.stdout, enabled=True)
for line in sys.stdin:
    status.update()
    screen.close(status) if line == "close\\n" else screen.show(status, {"import": "running", "motioncor": "running"})
    print("\\x07", end="", flush=True)
"""


class WithRuns(unittest.TestCase):
    """A made project whose runs say how they stand."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)
        self.made = MadeProject(os.path.join(self.folder, "night 1"))

    def run_of(self, name: str) -> str:
        return os.path.join(self.made.path, "Runs", FOLDERS[name])

    def run_db(self, name: str, **values: str) -> None:
        os.makedirs(os.path.join(self.run_of(name), "logs"), exist_ok=True)
        number = int(FOLDERS[name].split("_")[0])
        with contextlib.closing(sqlite3.connect(os.path.join(self.run_of(name), "logs", "run.db"))) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS Objects (name TEXT, value TEXT)")
            connection.execute("DELETE FROM Objects")
            connection.executemany("INSERT INTO Objects VALUES (?, ?)",
                                   [(f"{number}.{key}", value) for key, value in values.items()])

    def all_finished(self) -> None:
        for name in CLASSES:
            self.run_db(name, status="finished", endTime="2026-11-29 04:05:06.500000")

    def here(self, name: str) -> None:
        """The run of a protocol goes on in a process of this machine."""
        child = subprocess.Popen(["sh", "-c", "sleep 60; true", "sh", os.path.join(self.run_of(name), "logs", "run.db")])
        self.addCleanup(lambda: (child.kill(), child.wait()))
        self.run_db(name, status="running", _pid=str(child.pid), hostFullName=os.uname().nodename)

    def said(self, *words: str) -> tuple[int, str]:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            status = main([*words])
        return status, out.getvalue()

    def status(self) -> tuple[int, dict]:
        code, text = self.said("status", self.made.path, "--json")
        return code, json.loads(text)

    def failed(self, series: str, reason: str = "no axis") -> None:
        self.made.acquire(series)
        self.made.compose(series, image_files=False)
        self.made.report(ARETOMO, series, entries.Failed, reason, version=1)


class TestTheStatesOfProtocols(WithRuns):
    def test_are_all_reported_with_since_when_and_what_to_do(self):
        self.run_db(IMPORT, status="finished", endTime="2026-11-29 04:05:06.500000")
        self.here(MOTIONCOR)
        self.run_db(COMPOSE, status="running", _pid="999999999", hostFullName=os.uname().nodename)
        code, told = self.status()
        protocols = told["protocols"]
        self.assertEqual({name: each["state"] for name, each in protocols.items()},
                         {IMPORT: "finished", MOTIONCOR: "running", COMPOSE: "dead", ARETOMO: "never-started"})
        self.assertEqual(protocols[IMPORT], {"state": "finished", "reason": "",
                                             "since": datetime(2026, 11, 29, 4, 5, 6, 500000).timestamp()})
        self.assertAlmostEqual(protocols[MOTIONCOR]["since"], time.time(), delta=60)
        last = os.path.getmtime(os.path.join(self.run_of(COMPOSE), "logs", "run.db"))
        self.assertAlmostEqual(protocols[COMPOSE]["since"], last, delta=1)
        self.assertEqual(protocols[COMPOSE]["reason"],
                         f"Its process is gone; bring it back with: tomostream resume '{self.made.path}'")
        self.assertEqual((code, len(told["needs_attention"])), (3, 1))
        self.assertIn("compose is dead (since 20", told["needs_attention"][0])

    def test_tell_one_that_failed_with_its_error_from_one_that_was_stopped(self):
        self.all_finished()
        self.run_db(COMPOSE, status="failed", _error="No such\nfolder: mdocs", endTime="2026-11-29 04:05:06")
        self.run_db(ARETOMO, status="aborted")
        code, told = self.status()
        self.assertEqual((told["protocols"][COMPOSE]["state"], told["protocols"][ARETOMO]["state"]), ("dead", "stopped"))
        self.assertIn("It ended with an error (No such folder: mdocs)", told["protocols"][COMPOSE]["reason"])
        self.assertEqual((code, len(told["needs_attention"])), (3, 1))

    def test_tell_that_one_was_stopped_at_once_and_did_not_die(self):
        self.all_finished()
        self.run_db(IMPORT, status="running", _pid="999999999", hostFullName=os.uname().nodename)
        open(stop_file(self.run_of(IMPORT)), "wb").close()
        code, told = self.status()
        self.assertEqual((code, told["protocols"][IMPORT]["state"], told["needs_attention"]), (0, "stopped", []))

    def test_tell_of_one_that_is_launched_that_it_is_starting_and_of_one_that_waits_for_what(self):
        self.here(MOTIONCOR)
        self.made.report(MOTIONCOR, "", entries.Waiting, "the queue does not answer")
        self.run_db(COMPOSE, status="launched")
        _, told = self.status()
        self.assertEqual((told["protocols"][COMPOSE]["state"], told["protocols"][MOTIONCOR]["reason"]),
                         ("starting", "waits: the queue does not answer"))
        self.assertIn("motioncor waits: the queue does not answer\n", self.said("status", self.made.path)[1])
        self.all_finished()
        self.assertNotIn("waits", self.said("status", self.made.path)[1])

    def test_name_one_that_the_project_has_and_nobody_started_unless_it_is_being_started(self):
        self.here(IMPORT)
        with contextlib.closing(sqlite3.connect(os.path.join(self.made.path, "project.sqlite"))) as connection, connection:
            connection.execute("CREATE TABLE Objects (classname TEXT)")
            connection.executemany("INSERT INTO Objects VALUES (?)", [(each,) for each in CLASSES.values()])
        code, told = self.status()
        self.assertEqual((code, len(told["needs_attention"])), (3, 3))
        self.assertIn(f"start it with: tomostream resume '{self.made.path}'", told["protocols"][ARETOMO]["reason"])
        with locks.hold(starting_file(self.made.path), 0.0):
            self.assertEqual(self.status()[0], 0)


    def test_tell_of_a_project_in_which_nothing_was_started_yet_what_to_do(self):
        """Ctrl-C fell into the moment between the making of the project and the first start."""
        path = os.path.join(self.folder, "interrupted")
        os.makedirs(os.path.join(path, "Runs"))
        self.assertEqual(self.said("status", path)[0], 2)
        database = os.path.join(path, "project.sqlite")
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("CREATE TABLE Objects (classname TEXT)")
            connection.executemany("INSERT INTO Objects VALUES (?)", [(each,) for each in CLASSES.values()])
        os.utime(database, (1, 1))
        code, said = self.said("status", path)
        self.assertEqual((code, said.count(f"It was never started; start it with: tomostream resume {path}")), (3, 4))
        self.assertEqual(overview(path).state, "never-started")
        os.utime(database)
        self.assertEqual(self.said("status", path)[0], 0)       # it is about to be


class TestWhatNeedsAPerson(WithRuns):
    def test_stands_first_then_counts_then_series_with_the_failed_ones_first(self):
        for number in range(1, 31):
            self.made.whole(f"TS_{number:02d}", image_files=False)
        self.failed("TS_50")
        self.made.whole("TS_60", image_files=False)
        self.all_finished()
        code, text = self.said("status", self.made.path)
        lines = text.splitlines()
        self.assertEqual((code, lines[:2]), (3, ["needs attention:", "- TS_50 failed: no axis"]))
        self.assertEqual(lines[2], "protocols: import finished, motioncor finished, compose finished, aretomo finished")
        self.assertEqual(lines[4], "series: 31 done, 1 failed")
        self.assertTrue(lines[6].startswith("TS_50 "), lines[6])
        self.assertEqual(sum(line.startswith("TS_") for line in lines), 25)
        self.assertTrue(lines[30].startswith("TS_60 ") and lines[31].startswith("... and 7 more series; --all"), lines[30:])
        self.assertEqual(sum(line.startswith("TS_") for line in self.said("status", self.made.path, "--all")[1].splitlines()), 32)
        self.assertIn(f"tomograms: {self.run_of(ARETOMO)}/extra/*/*.mrc", lines)

    def test_is_over_for_a_series_that_is_acknowledged_and_names_other_alarms(self):
        self.failed("TS_01")
        self.made.acquire("TS_02", drift=99.0)
        self.all_finished()
        page = ReportWriter(self.made.path, states=lambda folders: dict.fromkeys(folders, "finished"))
        self.addCleanup(page.close)
        page.finish()
        code, told = self.status()
        self.assertEqual((code, [text.split(":")[0] for text in told["needs_attention"]]), (3, ["TS_01 failed", "Drift"]))
        acknowledged.acknowledge(page.out, ["series-failed/TS_01", "drift"], time.time() + 1e9)
        self.assertEqual((self.status()[0], self.status()[1]["needs_attention"]), (0, []))
        self.assertIn(f"page: {page.out}/index.html", self.said("status", self.made.path)[1])

    def test_is_no_map(self):
        self.made.whole("TS_01", image_files=False)
        self.made.report(COMPOSE, "map", entries.NotASeries, "a map")
        self.all_finished()
        code, told = self.status()
        self.assertEqual((code, told["ignored"], told["counts"]["series"]), (0, {"map": "a map"}, {"done": 1}))


class TestASeriesThatIsDone(WithRuns):
    def state(self, status: ProjectStatus) -> str:
        status.update()
        return status.series["TS_01"].state

    def again(self, state: str, seen: int, reason: str = "so far") -> None:
        self.made.report(COMPOSE, "TS_01", entries.Series, reason, name="TS_01", state=state, seen=seen, aligned=seen, version=1,
                         expected=5)

    def test_stays_done_while_compose_takes_in_again_what_it_knew(self):
        self.made.whole("TS_01", image_files=False)
        status = ProjectStatus(self.made.path)
        self.assertEqual(self.state(status), "done")
        for seen in range(6):
            self.again("acquiring", seen)
            self.assertEqual((self.state(status), status.series["TS_01"].tilts_seen), ("done", 5))

    def test_is_acquiring_again_when_a_tilt_comes_late_and_done_again_when_nothing_comes_of_it(self):
        self.made.whole("TS_01", image_files=False)
        status = ProjectStatus(self.made.path)
        status.update()
        reason = status.series["TS_01"].reason
        self.again("aligning", 6)
        self.assertEqual(self.state(status), "aligning")
        self.again("composed", 6)
        self.assertEqual((self.state(status), status.series["TS_01"].reason), ("done", reason))
        self.again("aligning", 7)
        self.made.compose("TS_01", version=2, image_files=False)
        self.again("composed", 7)
        self.assertEqual(self.state(status), "reconstructing")


class TestTheList(WithRuns):
    def test_names_sessions_of_a_folder_the_newest_first_with_their_states(self):
        self.failed("TS_01")
        self.all_finished()
        other = MadeProject(os.path.join(self.folder, "facility", "krios", "night2"))
        other.time += 86400
        other.whole("TS_01", image_files=False)
        code, text = self.said("list", self.folder, "--json")
        told = json.loads(text)
        self.assertEqual((code, [os.path.basename(each["project"]) for each in told]), (0, ["night 1"]))
        code, text = self.said("list", self.folder, os.path.join(self.folder, "facility"), "--json")
        told = json.loads(text)
        self.assertEqual([os.path.basename(each["project"]) for each in told], ["night2", "night 1"])
        self.assertEqual((told[1]["state"], told[1]["counts"]["series"], told[1]["needs_attention"]),
                         ("finished", {"failed": 1}, ["TS_01 failed: no axis"]))
        lines = self.said("list", self.folder)[1].splitlines()
        self.assertRegex(lines[1], r"^finished +0/1 +1 +5/5  \d{4}-.* /.*/night 1$")
        self.assertEqual(lines[2], "    needs attention: TS_01 failed: no axis")

    def test_knows_sessions_that_were_started_here_and_forgets_those_that_are_gone(self):
        before = os.environ.get("XDG_DATA_HOME")
        self.addCleanup(lambda: os.environ.pop("XDG_DATA_HOME", None) if before is None
                        else os.environ.update(XDG_DATA_HOME=before))
        os.environ["XDG_DATA_HOME"] = os.path.join(self.folder, "data")
        sessions.remember(os.path.join(self.folder, "gone"))
        away = os.path.join(self.folder, "disk", "night")      # its disk is not mounted now
        os.makedirs(os.path.dirname(away))
        sessions.remember(away)
        for _ in range(2):
            sessions.remember(self.made.path)
        self.assertEqual(sessions.known(), [self.made.path])
        self.made.whole("TS_01", image_files=False)
        self.assertEqual([each["project"] for each in json.loads(self.said("list", "--json")[1])], [self.made.path])
        with open(sessions.path(), encoding="utf-8") as file:
            self.assertEqual(json.load(file), [away, self.made.path])

    def test_of_nothing_says_so_and_of_no_folder_is_refused(self):
        os.makedirs(os.path.join(self.folder, "empty"))
        self.assertEqual(self.said("list", os.path.join(self.folder, "empty")), (0, "No sessions.\n"))
        self.assertEqual(self.said("list", "/no/such")[0], 2)

    def test_a_session_with_one_dead_protocol_is_dead_and_one_that_runs_runs(self):
        self.all_finished()
        self.here(ARETOMO)
        self.assertEqual(overview(self.made.path).state, "running")
        self.run_db(IMPORT, status="running", _pid="999999999", hostFullName=os.uname().nodename)
        self.assertEqual(overview(self.made.path).state, "dead")
        self.assertIsNone(overview(self.folder))


class Terminal:
    """What a person sees: the lines that scrolled away and the screen, after what a program wrote. As in tmux, a screen that is
    cleared from its first line on scrolls away whole."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.lines, self.row, self.top, self.begin = [""], 0, 0, True

    def feed(self, text: str) -> None:
        for word in re.findall(r"\x1b\[\d*[A-Z]|[^\x1b]", text):
            if word[0] == "\x1b":
                self.control(int(word[2:-1] or 1), word[-1])
            elif word == "\r":
                self.begin = True
            elif word == "\n":
                self.row, self.begin = self.row + 1, True
                self.lines += [""] * (self.row + 1 - len(self.lines))
                self.top = max(self.top, self.row + 1 - self.rows)
            elif word.isprintable():
                if len(self.lines[self.row]) == self.columns:
                    self.feed("\n")
                self.lines[self.row], self.begin = word if self.begin else self.lines[self.row] + word, False

    def control(self, number: int, letter: str) -> None:
        if letter == "F":
            self.row, self.begin = max(self.top, self.row - number), True
        elif letter == "H":
            self.row, self.begin = self.top, True
        elif letter == "K":
            self.lines[self.row] = "" if self.begin else self.lines[self.row]
        elif letter == "J":
            first = self.top if number == 2 else self.row
            if first == self.top and any(self.lines[first:]):
                self.top = self.row = len(self.lines)
                self.lines.append("")
            self.lines[first:] = self.lines[first:self.top] + [""] * (len(self.lines) - max(first, self.top))


class TestTheLiveTable(WithRuns):
    """In a real terminal of ten rows and forty columns."""

    def show(self, sizes: list[tuple[int, int]], close: bool = False) -> Terminal:
        pid, ours = pty.fork()
        if pid == 0:
            os.execv(sys.executable, [sys.executable, "-c", SCREEN, self.made.path])
        self.addCleanup(os.close, ours)
        self.addCleanup(os.waitpid, pid, 0)
        settings = termios.tcgetattr(ours)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(ours, termios.TCSANOW, settings)
        terminal = Terminal(*sizes[0])
        for number, size in enumerate([*sizes, sizes[-1]] if close else sizes):
            terminal.columns, terminal.rows = size
            fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
            self.made.whole(f"new_{number}", image_files=False)
            os.write(ours, b"close\n" if close and number == len(sizes) else b"\n")
            text = ""
            while "\x07" not in text:
                self.assertTrue(select.select([ours], [], [], 60)[0], text)
                text += os.read(ours, 65536).decode()
            terminal.feed(text)
        os.write(ours, b"\x04")
        return terminal

    def count(self, terminal: Terminal, words: str) -> int:
        return sum(words in line for line in terminal.lines)

    def test_never_repeats_itself(self):
        for number in range(30):
            self.made.whole(f"TS_{number:02d}", image_files=False)
        self.made.report(COMPOSE, "漢字" * 8, entries.Started, "two columns a sign")
        self.failed("bad\nname")
        terminal = self.show([(40, 10)] * 5)
        self.assertEqual((self.count(terminal, "movies:"), self.count(terminal, "new_4")), (1, 1))
        self.assertEqual((self.count(terminal, "漢字"), terminal.top), (1, 0))
        self.assertTrue(all(len(line) < 40 for line in terminal.lines))

    def test_stands_once_when_the_terminal_changes_its_size(self):
        for number in range(30):
            self.made.whole(f"TS_{number:02d}", image_files=False)
        terminal = self.show([(120, 40), (40, 10), (80, 24), (20, 4), (40, 10)])
        self.assertEqual(self.count(terminal, "movies:"), 1)

    def test_is_whole_at_the_end_and_stands_there_once(self):
        for number in range(20):
            self.made.whole(f"TS_{number:02d}", image_files=False)
        terminal = self.show([(60, 10)] * 3, close=True)
        self.assertEqual([self.count(terminal, words) for words in ("movies:", "TS_00", "new_3")], [1, 1, 1])


class TestResume(unittest.TestCase):
    def test_continues_a_finished_run_after_a_dead_one_because_more_will_come_to_it(self):
        states = {IMPORT: runs.FINISHED, MOTIONCOR: runs.DEAD, COMPOSE: runs.FINISHED, ARETOMO: runs.FINISHED}
        self.assertEqual(resume.to_continue(states), [MOTIONCOR, COMPOSE, ARETOMO])
        self.assertEqual(resume.to_continue({**states, MOTIONCOR: runs.FAILED}), [MOTIONCOR, COMPOSE, ARETOMO])
        self.assertEqual(resume.to_continue({**states, MOTIONCOR: runs.STOPPED, COMPOSE: runs.RUNNING}), [MOTIONCOR, ARETOMO])
        self.assertEqual(resume.to_continue(dict.fromkeys(states, runs.FINISHED)), [])
        self.assertEqual(resume.to_continue(dict.fromkeys(states, runs.FINISHED), again=True, start=COMPOSE), [COMPOSE, ARETOMO])


    def test_of_a_session_that_has_ended_well_says_how_movies_that_came_later_are_taken_up(self):
        chain = SimpleNamespace(path="/data/night 1", folder=lambda name: "", protocols={
            name: SimpleNamespace(getObjId=lambda: 1) for name in CLASSES})
        options = SimpleNamespace(again=False, start=None)
        with mock.patch.object(runs, "producer_state", return_value=runs.FINISHED), \
                mock.patch.object(resume, "say") as said:
            resume.bring_back(chain, options, {}, mock.Mock())
        self.assertEqual(said.call_args_list[-1].args[0],
                         "There is nothing to continue. For movies that arrived later: tomostream resume '/data/night 1' --again")

    def test_tells_what_the_form_warns_of_a_value_that_is_changed(self):
        protocol = SimpleNamespace(getObjId=lambda: 1, _warnings=lambda: ["Time for the next tilt is short."])
        chain = SimpleNamespace(path="/data/night", folder=lambda name: "", protocols={COMPOSE: protocol})
        options = SimpleNamespace(again=False, start=None)
        with mock.patch.object(runs, "producer_state", return_value=runs.STOPPED), mock.patch.object(resume, "say") as said, \
                mock.patch.object(resume, "change"), mock.patch.object(resume, "continue_all"):
            resume.bring_back(chain, options, {COMPOSE: {"time4NextTilt": "2"}}, mock.Mock())
        self.assertIn(mock.call("Note: compose: Time for the next tilt is short."), said.call_args_list)


@pytest.mark.chain
class TestARealSession(unittest.TestCase):
    """What is reported while protocols start, die, are stopped at once and brought back."""

    def told(self, session: Session) -> tuple[int, dict[str, str], list[str]]:
        done = subprocess.run([sys.executable, "-c", LAUNCH, "status", session.project, "--json"], env=session.environment,
                              capture_output=True, text=True, check=False)
        told = json.loads(done.stdout)
        return done.returncode, {name: each["state"] for name, each in told["protocols"].items()}, told["needs_attention"]

    def all_running(self, session: Session) -> bool:
        """Whether all run; until then none may be reported as dead."""
        code, states, needs = self.told(session)
        self.assertEqual((code, needs), (0, []), states)
        return set(states.values()) == {"running"}

    def test_is_reported_as_it_is(self):
        with Session() as session:
            session.use_standins()
            session.simulate("--series", "3", "--tilts", "5", "--frames", "2", "--size", "64", "--interval", "3")
            session.run("--timeout", "10m", "--no-report", "--no-follow", engine="gpu", settings={"compose.expectedTilts": 5})
            wait_for(lambda: session.folder_of(IMPORT), 240, "import")
            wait_for(lambda: self.all_running(session), 240, "session that runs")
            os.kill(session.pids(MOTIONCOR)[0], signal.SIGKILL)
            wait_for(lambda: session.state(MOTIONCOR) == "dead", 240, "dead protocol")
            code, states, needs = self.told(session)
            self.assertEqual((code, states[MOTIONCOR], len(needs)), (3, "dead", 1))
            self.assertIn(f"tomostream resume {session.project}", needs[0])
            self.assertEqual(session.call("resume", session.project, "--no-follow"), 0)
            wait_for(lambda: self.all_running(session), 240, "session that runs again")
            self.assertEqual(session.call("stop", session.project, "--now"), 0)
            wait_for(lambda: not session.pids(), 240, "end of the processes")
            code, states, needs = self.told(session)
            self.assertEqual((code, needs), (0, []))
            self.assertTrue({"stopped"} <= set(states.values()) <= {"stopped", "finished"}, states)
            self.assertEqual(session.call("resume", session.project, "--again", "--no-follow"), 0)
            wait_for(lambda: self.all_running(session), 240, "session that runs after it was stopped")


class TestTheTable(unittest.TestCase):
    def test_tells_on_a_narrow_terminal_which_protocol_is_not_as_the_others(self):
        with tempfile.TemporaryDirectory() as folder:
            status = ProjectStatus(folder)
            states = dict.fromkeys(CLASSES, "running")
            self.assertEqual(table.fit(status, states, 9, 39)[0], "protocols: all running")
            states[ARETOMO] = "dead"
            self.assertEqual(table.fit(status, states, 9, 39)[0][:39], "protocols: dead: aretomo; running: impo")
            self.assertEqual(table.fit(status, states, 9, 200)[0],
                             "protocols: import running, motioncor running, compose running, aretomo dead")

    def test_is_never_higher_than_the_terminal(self):
        with tempfile.TemporaryDirectory() as folder:
            made = MadeProject(folder)
            for number in range(9):
                made.report(COMPOSE, f"TS_{number}", entries.Started, "")
            status = ProjectStatus(made.path)
            status.update()
            for height in range(20):
                self.assertLessEqual(len(table.fit(status, dict.fromkeys(CLASSES, "running"), height, 79)), height)

    def test_names_what_protocols_wait_for_while_they_run(self):
        with tempfile.TemporaryDirectory() as folder:
            made = MadeProject(folder)
            made.report(MOTIONCOR, "", entries.Waiting, "the queue takes no jobs", topic=entries.Topic.QUEUE)
            status = ProjectStatus(made.path)
            status.update()
            waits = "motioncor waits: the queue takes no jobs"
            for state, told in (("running", True), ("starting", True), ("stopped", False), ("dead", False)):
                self.assertEqual(waits in table.render(status, {MOTIONCOR: state}), told, state)

    def test_is_drawn_from_the_top_of_the_screen_when_a_new_width_may_have_wrapped_its_lines(self):
        stream = io.StringIO()
        stream.isatty = lambda: True
        with tempfile.TemporaryDirectory() as folder:
            sizes = iter([(80, 24), (80, 24), (80, 24), (40, 24)])
            with mock.patch.object(table.Screen, "_terminal_size", lambda screen: next(sizes)):
                screen, drawn = table.Screen(stream, True), []
                for _ in range(3):
                    screen.show(ProjectStatus(folder), {})
                    drawn.append(stream.getvalue())
                    stream.seek(0)
                    stream.truncate()
        self.assertRegex(drawn[1], r"^\x1b\[\d+F")
        self.assertRegex(drawn[2], r"^\x1b\[H")

    def test_counts_columns_as_a_terminal_does(self):
        self.assertEqual(table.cut("ab漢字c", 5), "ab漢")
        self.assertEqual(table.cut("a\nb\x1b[2Jc", 20), "a b [2Jc")


if __name__ == "__main__":
    unittest.main()
