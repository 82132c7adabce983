# SPDX-License-Identifier: GPL-3.0-or-later
"""A facility: what its configuration may say, that each new session is started exactly once, and the page above all."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import tempfile
import unittest
from unittest import mock

import pytest

from tomostream.cli import facility, newcomers, watch
from tomostream.cli import main as command
from tomostream.cli.facility import ConfigError, Existing
from tomostream.cli.newcomers import RETRY_SECONDS, Newcomers, Stage
from tomostream.files.locks import Lock
from tomostream.journal.status import ARETOMO, CLASSES
from tomostream.report import notify, tables
from tomostream.report.index import Index, Listed, standing
from tomostream.tests.support import Session, end, wait_for

CONFIG = """
projects = "{folder}/projects"
index = "{folder}/www"
every = "1s"
{top}
[[microscope]]
name = "krios1"
root = "{folder}/krios1"
movies = "frames/*.tif"
mdocs = "mdocs/*.mdoc"
{more}
"""
HOSTILE = "<script>alert(1)</script>"
#: Stands for `tomostream run` and `resume`: makes the project, takes as long as a file says, and ends as a file says.
STARTER = """
import os, sys, time
words, folder = sys.argv[1:], {folder!r}
os.getcwd()
with open(os.path.join(folder, "calls"), "a") as file:
    file.write(" ".join(words[:2]) + "\\n")
os.makedirs(os.path.join(words[1], "Runs"), exist_ok=True)
while os.path.exists(os.path.join(folder, "wait")):
    time.sleep(0.02)
if os.path.exists(os.path.join(folder, "refuse")):
    os.rmdir(os.path.join(words[1], "Runs")); os.rmdir(words[1])
    sys.exit("tomostream run: there is no queue 'tomo'.")
"""


class WithAFacility(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)
        os.makedirs(self.path("krios1"))

    def path(self, *parts: str) -> str:
        return os.path.join(self.folder, *parts)

    def touch(self, *parts: str) -> None:
        os.makedirs(os.path.dirname(self.path(*parts)), exist_ok=True)
        with open(self.path(*parts), "w", encoding="utf-8"):
            pass

    def config(self, more: str = "", top: str = "") -> str:
        path = self.path("facility.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(CONFIG.format(folder=self.folder, more=more, top=top))
        return path

    def read(self, more: str = "", top: str = "") -> facility.Facility:
        return facility.read(self.config(more, top))


class TestAConfiguration(WithAFacility):
    def test_says_all_of_a_microscope(self):
        read = self.read('engine = "gpu"\ngpus = [0, 1]\nqueue = "tomo"\ntimeout = "6h"\nexisting = "start"\n'
                         f'report = "{self.folder}/www/krios1"\n'
                         '[microscope.alarms]\nemail = ["a@lab.org", "b@lab.org"]\n'
                         '[microscope.set.aretomo]\ntomoThickness = 1500\nmakeTomo = true\n', "cores = 8\nprograms_per_gpu = 2")
        microscope, = read.microscopes
        self.assertEqual((read.every, read.cores, read.programs_per_gpu), (1.0, "8", "2"))
        self.assertEqual((microscope.gpus, microscope.queue, microscope.timeout, microscope.existing),
                         ((0, 1), "tomo", "6h", Existing.START))
        self.assertEqual(microscope.settings, ("aretomo.tomoThickness=1500", "aretomo.makeTomo=True"))
        self.assertEqual(facility.variables(microscope), {notify.EMAIL: "a@lab.org,b@lab.org"})

    def test_that_makes_no_sense_is_refused_in_one_sentence_with_file_key_and_value(self):
        path = self.path("facility.toml")
        for more, top, words in (
                ('engine = "gppu"', "", "microscope 'krios1': engine is 'gppu'; write one of auto, cpu, gpu"),
                ("gpus = [0, -1]", "", "microscope 'krios1': gpus is [0, -1]; write numbers of GPUs, e.g. [0, 1]"),
                ("gpus = 0", "", "microscope 'krios1': gpus is 0; write numbers of GPUs, e.g. [0, 1]"),
                ('timeout = "3 weeks"', "", """krios1': timeout is '3 weeks'; write a time, e.g. "30s", "10m" or "12h\""""),
                ('thickness = 3', "", "microscope 'krios1': thickness is not a key; there are name, "),
                ('timout = "3h"', "", "microscope 'krios1': timout is not a key; did you mean timeout?"),
                ("[microscope.set.ctf]\nx = 1", "", "set.ctf is {'x': 1}; write [microscope.set.PROTOCOL] with import"),
                ("[microscope.set.aretomo]\nx = [1]", "", "set.aretomo.x is [1]; write a number, a text, true or false"),
                ('[microscope.alarms]\nemail = ["lab"]', "", "'lab' is not an e-mail address"),
                ('[microscope.alarms]\nmail = ["a@b"]', "", "alarms.mail is not a key; did you mean email?"),
                ("", "starts = 0", "starts is 0; write a whole number of at least 1"),
                ("", "cores = true", "cores is True; write a whole number"),
                ("", "cores = ", "is not TOML"),
                (f'report = "{self.folder}/krios1/pages"', "", "inside the root of the microscope 'krios1'"),
                (f'[[microscope]]\nname = "krios1"\nroot = "{self.folder}/x"\nmovies = "*"', "", "two microscopes are called"),
                ('[[microscope]]\nname = "k 2"\nroot = "/x"\nmovies = "*"', "", "microscope 2: name is 'k 2'; write letters"),
                ('[[microscope]]\nname = "k2"\nroot = "x"\nmovies = "*"', "", "'k2': root is 'x'; write an absolute path"),
                ('[[microscope]]\nname = "k2"\nroot = "/x"', "", "'k2': movies is missing; write a text in quotes"),
                ('[[microscope]]\nname = "k2"\nroot = "/x"\nmovies = "/y/*.tif"', "", "an absolute one with {session} in it")):
            with self.assertRaises(ConfigError) as caught:
                self.read(more, top)
            self.assertIn(words, str(caught.exception))
            self.assertTrue(str(caught.exception).startswith(path), caught.exception)
            self.assertNotIn("\n", str(caught.exception))

    def test_without_a_file_or_a_microscope_is_refused(self):
        with self.assertRaisesRegex(ConfigError, "nowhere.toml cannot be read: no such file"):
            facility.read(self.path("nowhere.toml"))
        with open(self.path("empty.toml"), "w", encoding="utf-8") as file:
            file.write('projects = "/data"\n')
        with self.assertRaisesRegex(ConfigError, r"microscope is missing; write one or more \[\[microscope\]\] tables"):
            facility.read(self.path("empty.toml"))

    def test_takes_patterns_elsewhere_with_the_name_of_the_session_taken_literally(self):
        microscope, = self.read().microscopes
        self.assertEqual(microscope.pattern("frames/*.tif", "run [2]"), self.path("krios1", "run [2]", "frames/*.tif"))
        self.assertEqual(microscope.pattern("/serialem/{session}/*.mdoc", "run [2]"), "/serialem/run [[]2]/*.mdoc")

    def test_of_parameters_is_tried_before_the_first_session_comes(self):
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            status = command(["watch", self.config("[microscope.set.aretomo]\ntomoThicknes = 1500"), "--check"])
        self.assertEqual(status, 2)
        self.assertIn("microscope 'krios1': set.aretomo: The protocol aretomo has no parameter 'tomoThicknes'. Did you mean "
                      "tomoThickness", said.getvalue())


class WithStarts(WithAFacility):
    """What is started is a stand-in; what is noted and locked is real."""

    def setUp(self) -> None:
        super().setUp()
        with open(self.path("starter.py"), "w", encoding="utf-8") as file:
            file.write(STARTER.format(folder=self.folder))
        launch = f"import sys; exec(open({self.path('starter.py')!r}).read())"
        patch = mock.patch.object(newcomers, "LAUNCH", launch)
        patch.start()
        self.addCleanup(patch.stop)
        os.makedirs(self.path("projects"))

    def make(self, more: str = 'existing = "start"') -> Newcomers:
        read = self.read(more)
        return Newcomers(read, read.microscopes[0])

    def calls(self) -> list[str]:
        if not os.path.exists(self.path("calls")):
            return []
        with open(self.path("calls"), encoding="utf-8") as file:
            return file.read().splitlines()

    def start_all(self, made: Newcomers) -> list[Stage]:
        for session in made.look():
            made.begin(session)
        notes = []
        wait_for(lambda: notes.extend(made.collect()) or not made.starting, 240, "end of the starts", every=0.02)
        return [note.stage for note in notes]


class TestNewSessions(WithStarts):
    def test_are_started_once_when_their_first_movie_is_there(self):
        made = self.make()
        os.makedirs(self.path("krios1", "s1"))
        self.assertEqual(self.start_all(made), [])
        self.touch("krios1", "s1", "frames", "a.tif")
        self.assertEqual(self.start_all(made), [Stage.STARTED])
        self.assertEqual(self.start_all(made), [])
        self.assertEqual(self.start_all(self.make()), [])           # after a restart
        self.assertEqual(self.calls(), [f"run {self.path('projects', 'krios1-s1')}"])

    def test_that_were_there_before_are_ignored_unless_the_configuration_says_otherwise(self):
        self.touch("krios1", "old", "frames", "a.tif")
        made = self.make("")
        self.assertEqual((made.preview(), made.notes.first), ([], True))        # what --check says
        self.assertEqual(self.start_all(made), [])
        self.touch("krios1", "new", "frames", "a.tif")
        self.assertEqual(self.make("").preview(), ["new"])
        self.assertEqual(self.start_all(self.make("")), [Stage.STARTED])
        self.touch("krios1", "old", "frames", "b.tif")
        self.assertEqual(self.start_all(self.make("")), [])
        self.assertEqual([(note.session, note.stage) for note in self.make("").notes.all()],
                         [("new", Stage.STARTED), ("old", Stage.IGNORED)])

    def test_of_a_watch_that_was_killed_are_waited_for_and_not_started_twice(self):
        self.touch("krios1", "s1", "frames", "a.tif")
        self.touch("wait")
        killed = self.make()
        self.assertEqual(killed.look(), ["s1"])
        self.assertTrue(killed.begin("s1"))
        killed._starts["s1"].lock.close()           # the kernel does that; the start itself goes on and holds it
        wait_for(self.calls, 240, "start")
        after = self.make()
        self.assertEqual(after.look(), ["s1"])
        self.assertFalse(after.begin("s1"))
        os.remove(self.path("wait"))
        killed._starts["s1"].process.wait()
        self.assertEqual(self.start_all(after), [Stage.STARTED])
        project = self.path("projects", "krios1-s1")
        self.assertEqual(self.calls(), [f"run {project}", f"resume {project}"])     # which finds all running

    def test_whose_start_was_killed_before_it_made_the_project_are_started_again(self):
        self.touch("krios1", "s1", "frames", "a.tif")
        made = self.make()
        made.notes.begin()
        made.notes.put("s1", Stage.STARTING)
        self.assertEqual(self.start_all(self.make()), [Stage.STARTED])
        self.assertEqual(self.calls(), [f"run {self.path('projects', 'krios1-s1')}"])

    def test_that_are_refused_are_reported_with_the_reason_and_tried_again_later(self):
        self.touch("krios1", "s1", "frames", "a.tif")
        self.touch("refuse")
        made = self.make()
        self.assertEqual(self.start_all(made), [Stage.REFUSED])
        self.assertEqual(made.notes.of("s1").reason, "tomostream run: there is no queue 'tomo'.")
        self.assertEqual(made.look(), [])
        self.assertEqual(made._starts["s1"].again, 2 * RETRY_SECONDS)
        os.remove(self.path("refuse"))
        made._starts["s1"].due = 0.0
        self.assertEqual(self.start_all(made), [Stage.STARTED])

    def test_of_any_name_have_projects_of_their_own_and_the_data_is_not_touched(self):
        names = ["s 1", "s_1", "s-1", "caf\u00e9 [1]", "x" * 200, "a'b$`"]
        for name in names:
            self.touch("krios1", name, "frames", "a.tif")
        before = sorted(os.walk(self.path("krios1")))
        made = self.make()
        self.assertEqual(self.start_all(made), [Stage.STARTED] * len(names))
        projects = {note.project for note in made.notes.all()}
        self.assertEqual(len(projects), len(names))
        for project in projects:
            self.assertRegex(os.path.basename(project), r"^[A-Za-z0-9_-]+$")
        self.assertEqual(sorted(os.walk(self.path("krios1"))), before)

    def test_of_microscopes_whose_names_continue_each_other_have_projects_of_their_own(self):
        made = [Newcomers(read, each) for read in [self.read(f'[[microscope]]\nname = "krios1-b"\nroot = "{self.folder}/k"\n'
                                                             'movies = "*"')] for each in read.microscopes]
        self.assertEqual([os.path.basename(made[0].notes.project(name)) for name in ("s1", "b-s1")],
                         ["krios1-s1", "krios1-b-s1-15e326"])
        self.assertEqual(os.path.basename(made[1].notes.project("s1")), "krios1-b-s1")

    def test_are_started_though_the_folder_from_which_the_watch_was_called_is_gone(self):
        self.touch("krios1", "s1", "frames", "a.tif")
        made, before = self.make(), os.getcwd()
        os.mkdir(self.path("gone"))
        self.addCleanup(os.chdir, before)
        os.chdir(self.path("gone"))
        os.rmdir(self.path("gone"))
        self.assertEqual(self.start_all(made), [Stage.STARTED])

    def test_that_lie_on_a_disk_that_is_mounted_after_the_first_look_were_there_before(self):
        self.assertEqual(self.make("").look(), [])          # the root is empty: nothing tells whether its disk is mounted
        self.touch("krios1", "old", "frames", "a.tif")
        with mock.patch.object(newcomers, "device_of", return_value=-7):
            self.assertEqual(self.make("").preview(), [])
            self.assertEqual(self.make("").look(), [])
            self.touch("krios1", "new", "frames", "a.tif")
            self.assertEqual(self.make("").look(), ["new"])

    def test_in_a_root_that_was_empty_at_the_first_look_are_new(self):
        self.assertEqual(self.make("").look(), [])
        self.touch("krios1", "new", "frames", "a.tif")
        self.assertEqual(self.make("").look(), ["new"])

    def test_wait_while_the_root_is_not_there(self):
        os.rmdir(self.path("krios1"))
        made = self.make()
        self.assertEqual(made.look(), [])
        self.assertIn("cannot be read now: no such file or directory", made.trouble)
        self.assertTrue(made.notes.first)           # that is no first look
        self.touch("krios1", "s1", "frames", "a.tif")
        self.assertEqual((made.look(), made.trouble), (["s1"], ""))

    def test_get_gpus_queue_page_and_parameters_and_their_alarms(self):
        made = self.make(f'gpus = [2, 3]\nqueue = "tomo"\nengine = "gpu"\nreport = "{self.folder}/www/k"\n'
                         '[microscope.alarms]\nwebhook = "https://chat.lab.org/x"\n[microscope.set.aretomo]\nalignZ = 800\n')
        words = made.command("s1", self.path("projects", "krios1-s1"))
        text = " ".join(words)
        for part in ("--queue tomo", f"--page {self.folder}/www/k/krios1-s1", "--set motioncor.gpuList=2 3",
                     "--set aretomo.numberOfThreads=3", "--set aretomo.alignZ=800", "--no-follow", "--engine gpu",
                     f"--movies {self.folder}/krios1/s1/frames/*.tif"):
            self.assertIn(part, text)
        self.assertEqual(made.environment()[notify.WEBHOOK], "https://chat.lab.org/x")


class TestTheWatch(WithStarts):
    def watch(self, *words: str) -> tuple[int, str]:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), mock.patch("os.chdir"):
            status = command(["watch", self.path("facility.toml"), *words])
        return status, out.getvalue()

    def test_once_starts_what_is_new_and_ends(self):
        self.config('existing = "start"')
        self.touch("krios1", "s1", "frames", "a.tif")
        status, said = self.watch("--once")
        self.assertEqual(status, 0)
        self.assertIn("krios1: s1 is new and is being started", said)
        self.assertIn(f"krios1: s1 was started in {self.path('projects', 'krios1-s1')}", said)
        self.assertEqual(len(self.calls()), 1)
        self.watch("--once")
        self.assertEqual(len(self.calls()), 1)
        with open(self.path("www", "sessions.json"), encoding="utf-8") as file:
            row, = json.load(file)
        self.assertEqual((row["session"], row["state"]), ("s1", "starting"))

    def test_only_one_watches_the_same_projects(self):
        self.config()
        os.makedirs(self.path("projects", ".watch"), exist_ok=True)
        with Lock(self.path("projects", watch.LOCK)) as lock:
            self.assertTrue(lock.take())
            lock.sign()
            self.assertEqual(self.watch(), (
                2, f"tomostream watch: process {os.getpid()} watches {self.path('projects')} already.\n"))
            self.assertEqual(self.watch("--once")[0], 0)

    def test_check_says_what_would_be_started_and_starts_nothing(self):
        self.config('existing = "start"')
        self.touch("krios1", "s1", "frames", "a.tif")
        status, said = self.watch("--check")
        self.assertEqual((status, self.calls()), (0, []))
        self.assertIn("to be started: s1", said)
        self.assertTrue(Newcomers(facility.read(self.path("facility.toml")), self.make().microscope).notes.first)

    def test_a_session_that_cannot_be_started_is_sent_once(self):
        self.config('existing = "start"\n[microscope.alarms]\nemail = ["a@lab.org"]')
        self.touch("krios1", "s1", "frames", "a.tif")
        self.touch("refuse")
        with mock.patch.object(watch, "deliver", return_value=[]) as sent:
            status, said = self.watch("--once")
        self.assertEqual(status, 1)
        self.assertIn("krios1: s1: could not be started: tomostream run: there is no queue 'tomo'.", said)
        (message, destinations), = (call.args for call in sent.call_args_list)
        self.assertEqual((message.subject, destinations.email), ("[tomostream] krios1 s1: not started", ("a@lab.org",)))

    def test_a_changed_configuration_is_taken_over_and_a_wrong_one_is_not(self):
        self.config()
        watching = watch.Watch(facility.read(self.path("facility.toml")))
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            for more, stamp in (('engine = "gppu"', 10), ('engine = "cpu"', 20)):
                self.config(more)
                os.utime(self.path("facility.toml"), (stamp, stamp))
                watching.turn()
        self.assertIn("the one before stays in force", said.getvalue())
        self.assertEqual(watching.facility.microscopes[0].engine, "cpu")


    def test_an_error_that_nobody_foresaw_is_reported_once_and_the_microscopes_are_watched_on(self):
        self.config('existing = "start"')
        self.touch("krios1", "s1", "frames", "a.tif")
        watching, said = watch.Watch(facility.read(self.path("facility.toml"))), io.StringIO()
        turns = iter([ZeroDivisionError("no"), ZeroDivisionError("no"), None])

        def listed() -> list[Listed]:
            error = next(turns, None)
            if error is not None:
                raise error
            return []

        leaving = mock.Mock(asked=False, wait=lambda _seconds: None)
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), mock.patch.object(watching, "listed", listed):
            self.assertEqual(watching.follow(leaving, once=True), 0)
        self.assertEqual(said.getvalue().count("Traceback"), 1)
        self.assertIn("unforeseen: over: an unexpected error; watching continues (ZeroDivisionError: no)", said.getvalue())


class TestTheIndex(WithAFacility):
    def page(self, name: str, **told: object) -> str:
        folder = self.path("pages", name)
        os.makedirs(os.path.join(folder, "data"))
        session = {"running": True, "updated": 1000.0, "protocols": {"import": "running"}, "series": {"done": 2, "failed": 1},
                   "movies": {"aligned": 30, "found": 45}, "kinds": {"disk": "Disk nearly full"},
                   "alarms": [{"kind": "disk", "text": HOSTILE}], "last_event": 990.0, **told}
        with open(os.path.join(folder, "data", "session.js"), "w", encoding="utf-8") as file:
            file.write(tables.script("session", session))
        return folder

    def test_shows_every_session_and_lets_no_name_write_into_the_page(self):
        index = Index(self.path("www"), clock=lambda: 1010.0)
        listed = [Listed("krios1", f"s {HOSTILE}\n2", "/p/a", self.page("a <b>")),
                  Listed("krios1", "s2", "/p/b", self.path("none")),
                  Listed("krios2", "s3", "/p/c", self.path("none"), "not started: no queue")]
        self.assertTrue(index.write(listed, [HOSTILE]))
        self.assertFalse(index.write(listed, [HOSTILE]))
        with open(self.path("www", "index.html"), encoding="utf-8") as file:
            text = file.read()
        self.assertNotIn("<script", text)
        self.assertIn("2 of 3", text)
        self.assertIn("30 of 45", text)
        self.assertIn('href="../pages/a%20%3Cb%3E/index.html"', text)
        with open(self.path("www", "sessions.json"), encoding="utf-8") as file:
            rows = json.load(file)
        self.assertEqual([row["state"] for row in rows], ["starting", "not started: no queue", "running"])

    def test_says_ended_only_of_what_ended_by_itself_and_names_the_dead(self):
        four = dict.fromkeys(CLASSES, "finished")
        for told, expected in (({"running": False, "protocols": four}, ("ended", False)),
                               ({"running": False, "protocols": {**four, ARETOMO: "stopped"}}, ("stopped", False)),
                               ({"running": True, "protocols": {**four, ARETOMO: "dead"}}, ("aretomo died", True)),
                               ({"running": True, "protocols": {**four, ARETOMO: "failed"}}, ("aretomo died", True)),
                               ({"running": True, "updated": 1.0}, ("running, but its page is not being written", True)),
                               ({"running": True, "updated": 999.0}, ("running", False))):
            self.assertEqual(standing(told, 1000.0), expected)


class TestAddressesThatAreKept(WithAFacility):
    def test_are_those_of_the_start_unless_the_environment_says_otherwise_and_hold_no_password(self):
        given = {notify.EMAIL: "a@lab.org", notify.PASSWORD: "secret", notify.SERVER: "mail:587", "PATH": "/bin"}
        notify.keep(self.folder, given)
        with open(self.path(notify.KEPT), encoding="utf-8") as file:
            self.assertNotIn("secret", file.read())
        self.assertEqual(os.stat(self.path(notify.KEPT)).st_mode & 0o777, 0o600)
        clean = {name: "" for name in notify.VARIABLES}
        with mock.patch.dict(os.environ):
            for name in clean:
                os.environ.pop(name, None)
            self.assertEqual(notify.Destinations.configured(self.folder).email, ("a@lab.org",))
            os.environ[notify.EMAIL] = "b@lab.org"
            found = notify.Destinations.configured(self.folder)
        self.assertEqual((found.email, found.server), (("b@lab.org",), "mail:587"))


@pytest.mark.chain
class TestAWatchedMicroscope(unittest.TestCase):
    """A real session: started by the watch, which is killed while it starts it, and by another one brought to its end."""

    def test_has_one_project_whatever_was_killed_and_its_page_is_in_the_index(self):
        with Session() as session:
            session.use_standins("0.1,0.2")
            folder, projects = session.folder, os.path.join(session.folder, "projects")
            session.project = os.path.join(projects, "krios1-acq")
            config = os.path.join(folder, "facility.toml")
            with open(config, "w", encoding="utf-8") as file:
                file.write(f'projects = "{projects}"\nindex = "{folder}/www"\nevery = "1s"\n[[microscope]]\nname = "krios1"\n'
                           f'root = "{folder}/root"\nmovies = "frames/*"\nmdocs = "mdocs/*.mdoc"\nengine = "gpu"\n'
                           f'existing = "start"\ntimeout = "15s"\nreport = "{folder}/www/krios1"\n'
                           "[microscope.set.aretomo]\ntomoThickness = 40\nalignZ = 20\n"
                           "[microscope.set.compose]\nexpectedTilts = 5\n")
            os.makedirs(os.path.join(folder, "root"))
            os.symlink(session.acquisition, os.path.join(folder, "root", "acq"))
            session.simulate("--series", "2", "--tilts", "5", "--frames", "2", "--size", "48").wait()
            first = session.start("watch", config)
            wait_for(lambda: session.folder_of("import"), 240, "project")
            end(first.pid)
            first.wait()
            second = session.start("watch", config)
            wait_for(lambda: len(session.rows(ARETOMO)) == 2, 240, "two tomograms")
            wait_for(lambda: all(session.state(name) == "finished" for name in CLASSES), 240, "end of the session")
            row = wait_for(lambda: self.row(folder, "ended"), 240, "end on the page above")
            second.send_signal(signal.SIGTERM)
            self.assertEqual(second.wait(120), 0)
            self.assertEqual(sorted(name for name in os.listdir(projects) if not name.startswith(".")), ["krios1-acq"])
            self.assertEqual((row["done"], row["series"], row["address"]), (2, 2, "krios1/krios1-acq/index.html"))
            self.assertTrue(os.path.exists(os.path.join(folder, "www", row["address"])))
            self.assertEqual(len(session.standin_runs()), 12)

    @staticmethod
    def row(folder: str, state: str) -> dict | None:
        with open(os.path.join(folder, "www", "sessions.json"), encoding="utf-8") as file:
            return next((row for row in json.load(file) if row["state"] == state), None)


if __name__ == "__main__":
    unittest.main()
