# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream check`, and the quick part of it in `run`: what would go wrong in the night is reported before it."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable
from unittest import mock

from tomostream.cli import home, main, project, readiness
from tomostream.cli.errors import UserError
from tomostream.cli.readiness import NoQueue, Verdict
from tomostream.constants import ENGINE_AUTO, ENGINE_CPU, ENGINE_GPU
from tomostream.files import configuration
from tomostream.files.patterns import near
from tomostream.journal.status import ARETOMO, COMPOSE, IMPORT, MOTIONCOR
from tomostream.report import notify
from tomostream.tests.support import LAUNCH, clean_environment
from tomostream.tests.test_mdoc import DATA

HOSTS = """
[localhost]
NAME = SLURM
SUBMIT_COMMAND = {submit} %_(JOB_SCRIPT)s
CHECK_COMMAND = true %_(JOB_ID)s
CANCEL_COMMAND = true %_(JOB_ID)s
SUBMIT_TEMPLATE = #!/bin/sh
    ##SBATCH -p %_(JOB_QUEUE)s
    %_(JOB_COMMAND)s
QUEUES = {{ "gpu": {{}}, "long": {{}} }}
"""


class InAFolder(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)
        patch = mock.patch.dict(os.environ)
        patch.start()
        self.addCleanup(patch.stop)

    def path(self, *names: str, make: bool = False) -> str:
        path = os.path.join(self.folder, *names)
        if make:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            open(path, "wb").close()
        return path

    def hosts(self, submit: str = "true") -> None:
        os.environ["SCIPION_HOSTS"] = self.path("hosts.conf")
        with open(self.path("hosts.conf"), "w", encoding="utf-8") as file:
            file.write(HOSTS.format(submit=submit))

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command in a process of its own, with nothing of Scipion set."""
        environment = clean_environment(self.folder)
        del environment["SCIPION_HOME"]
        environment.update({name: os.environ[name] for name in ("SCIPION_HOSTS",) if name in os.environ})
        return subprocess.run([sys.executable, "-c", LAUNCH, *words], env=environment, cwd=self.folder, capture_output=True,
                              text=True, timeout=240, check=False)


class TestFolders(InAFolder):
    def test_that_were_mistyped_are_reported_with_what_comes_near(self):
        self.path("session", "frames", "a.eer", make=True)
        finding = readiness.folder_of("movies", self.path("sesion", "frames", "*"), (".eer",))
        self.assertEqual(finding.verdict, Verdict.WRONG)
        self.assertEqual(finding.text, f"the folder {self.path('sesion', 'frames')} does not exist ({self.folder} has session)")
        self.assertEqual(near(self.path("session", "x", "y")), f" (of its path, {self.path('session')} exists)")
        self.assertEqual(near(self.folder), "")

    def test_tell_what_matches_and_what_lies_there_instead(self):
        self.path("frames", "a.eer", make=True)
        for pattern, verdict, words in (("*", Verdict.OK, "1 match .*, the first being a.eer"),
                                        ("*.tif", Verdict.WRONG, r"1 \*.eer is there"),
                                        ("b*", Verdict.WRONG, "is named b")):
            finding = readiness.folder_of("movies", self.path("frames", pattern), (".eer", ".tif"))
            self.assertEqual(finding.verdict, verdict)
            self.assertRegex(finding.text, words)
        os.makedirs(self.path("empty"))
        self.assertEqual(readiness.folder_of("movies", self.path("empty", "*"), (".eer",)).verdict, Verdict.NOTE)

    def test_of_mdoc_files_are_read(self):
        good = str(DATA / "tomo5_new.mdoc")
        finding, = readiness.series([good], [], "")
        self.assertEqual((finding.verdict, finding.text), (Verdict.OK, "1 file"), finding.text)
        with open(self.path("broken.mdoc"), "wb") as file:
            file.write(b"\0\1\2 nothing of an mdoc")
        for movies in ([], [self.path("frames", "a.eer", make=True)]):
            finding, other = readiness.series([self.path("broken.mdoc"), good], movies, "again")
            self.assertEqual((finding.verdict, other.name), (Verdict.WRONG, "series"))
            self.assertIn(f"tomostream mdoc {self.path('broken.mdoc')}", finding.text)


class TestSeriesAndMovies(InAFolder):
    def test_that_do_not_find_each_other_are_reported_before_the_night(self):
        mdoc = self.path("mdocs", "TS_01.mrc.mdoc", make=True)
        with open(mdoc, "w", encoding="utf-8") as file:
            file.write("[T = SerialEM: Krios]\n\n[T =     Tilt axis angle = 84.7, binning = 1  spot = 8  camera = 0]\n\n")
            for number, angle in enumerate((0, 3, -3, 6, -6)):
                file.write(f"[ZValue = {number}]\nTiltAngle = {angle}\nPixelSpacing = 2.1\nBinning = 1\nExposureDose = 3\n"
                           f"DateTime = 29-Nov-26  10:0{number}:00\nSubFramePath = D:\\frames\\TS_01_{number}.tif\n\n")
        movies = [self.path("frames", f"TS_01_{number}.tif", make=True) for number in range(5)]
        for found, verdict in ((movies, Verdict.OK), (movies[:3], Verdict.NOTE)):
            with mock.patch("tomostream.acquisition.overview.is_movie", return_value=True):
                finding, = readiness.series([mdoc], found, "tomostream mdoc x --movies y")
            self.assertEqual(finding.verdict, verdict, finding)
        self.assertIn("1 tilt series and 3 movies", finding.text)
        self.assertIn("See: tomostream mdoc x --movies y", finding.text)
        self.assertEqual(readiness.series([], movies, ""), [])


class TestTheQueue(InAFolder):
    def test_that_is_not_in_hosts_conf_is_reported_with_those_that_are(self):
        self.hosts()
        self.assertEqual(str(readiness.queue("gpu")), "ok    queue        'gpu' is configured, and its commands are installed")
        finding = readiness.queue("gpus")
        self.assertEqual((finding.verdict, finding.text),
                         (Verdict.WRONG, f"{self.path('hosts.conf')} has no queue of this name; it has: gpu, long"))

    def test_whose_submit_command_is_absent_makes_items_wait_and_this_is_reported(self):
        self.hosts(submit="/no/such/sbatch")
        self.assertIn("/no/such/sbatch cannot be found", readiness.queue("gpu").text)
        self.assertIn("items will wait", readiness.absent_of("gpu"))

    def test_whose_file_is_invalid_is_reported_with_the_file(self):
        self.hosts()
        for text in ("QUEUES = {}\n", "[localhost]\nNAME = X\nQUEUES = { gpu }\n", ""):
            with open(self.path("hosts.conf"), "w", encoding="utf-8") as file:
                file.write(text)
            with self.assertRaisesRegex(NoQueue, "hosts.conf"):
                readiness.absent_of("gpu")


class TestConfiguration(InAFolder):
    """An invalid file of Scipion's is reported with its line, and nothing is done on the basis of half of it."""

    def write(self, name: str, text: str | bytes) -> str:
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
        return self.path(name)

    def test_that_is_invalid_is_reported_with_file_and_line(self):
        for text, line, why in (("\n# EM\nEM_ROOT = em\n[PLUGINS]\n", 3, r"'EM_ROOT = em' stands before any \[SECTION\]"),
                                ("[PLUGINS]\nA = 1\n\nMOTIONCOR_HOME /sw\n", 4, "'MOTIONCOR_HOME /sw' is neither a .* nor NAME"),
                                (b"[PLUGINS]\nA = \xff\xfe\n", 2, "this is not text"),
                                (b"\0\0\0", 1, "stands before any")):
            path = self.write("scipion.conf", text)
            with self.assertRaisesRegex(configuration.Unreadable, f"^{path}, line {line}: .*{why}.*; correct the file"):
                configuration.variables(path)
        os.makedirs(self.path("folder.conf"))
        with self.assertRaisesRegex(configuration.Unreadable, "folder.conf: cannot be read .is a directory"):
            configuration.variables(self.path("folder.conf"))
        self.assertEqual(configuration.variables(self.path("none.conf")), {})

    def test_the_line_of_a_value_is_that_in_its_own_section(self):
        path = self.write("hosts.conf", "[here]\nQUEUES = {}\n[there]\n# QUEUES = old\nQUEUES = none\n QUEUES = of the value\n")
        self.assertEqual([configuration.line_of(path, section, "QUEUES") for section in ("here", "there", "nowhere")], [2, 5, 0])

    def test_of_queues_is_reported_with_the_line_of_the_value(self):
        self.hosts()
        for queues, line, why in (('QUEUES = { "gpu": {},\n    "long" }', 4, "QUEUES is not JSON"),
                                  ('QUEUES = ["gpu"]', 3, "QUEUES must look like"),
                                  ('QUEUES_DEFAULT = {', 3, "QUEUES_DEFAULT is not JSON")):
            self.write("hosts.conf", f"[localhost]\nNAME = X\n{queues}\n")
            with self.assertRaisesRegex(NoQueue, f"hosts.conf, line {line}: {why}"):
                readiness.read_queues()

    def test_is_refused_by_run_and_resume_and_a_finding_of_check(self):
        for name in ("SCIPION_HOSTS", "SCIPION_USER_DATA", "SCIPION_LOCAL_CONFIG"):
            os.environ.pop(name, None)
        os.environ |= {"SCIPION_HOME": self.path(".scipion"), "HOME": self.folder}
        home.scipion_environment("")
        os.makedirs(self.path("night", "Runs"))
        self.write("night/project.sqlite", "")
        commands = (["run", self.path("new"), "--movies", "x", "--mdocs", "y"], ["resume", self.path("night")])
        for name in (".scipion/config/scipion.conf", ".scipion/config/hosts.conf"):
            with open(self.path(name), encoding="utf-8") as file:
                before = file.read()
            self.write(name, f"{before}\ngarbage {{\n")
            line = before.count("\n") + 2
            for words in commands:
                with contextlib.redirect_stderr(io.StringIO()) as said:
                    self.assertEqual(main(words), 2)
                self.assertIn(f"{self.path(name)}, line {line}: 'garbage {{' is neither", said.getvalue())
            finding, = readiness.configured(home.set_variables(""))
            self.assertEqual((finding.verdict, finding.name), (Verdict.WRONG, "Scipion"))
            self.assertIn(f"{name}, line {line}", finding.text)
            self.write(name, before)
        self.assertEqual([each.verdict for each in readiness.configured(home.set_variables(""))], [Verdict.OK])
        self.assertFalse(os.path.exists(self.path("new")))

    def test_holds_for_our_commands_as_for_scipion_and_the_environment_goes_before_it(self):
        for name in ("MOTIONCOR_HOME", "ARETOMO_HOME", "SCIPION_USER_DATA", "TOMOSTREAM_SMTP_PASSWORD"):
            os.environ.pop(name, None)
        os.environ |= {"SCIPION_HOME": self.path("scipion"), "HOME": self.folder, "GPU": "/gpu", "ARETOMO_HOME": "/mine"}
        self.write("scipion/config/scipion.conf", "[PYWORKFLOW]\nSCIPION_USER_DATA = /data # ours\n[PLUGINS]\n"
                   "MOTIONCOR_HOME = x\nARETOMO_HOME = /theirs\nTOMOSTREAM_SMTP_PASSWORD = a#b\nSCIPION_HOME = /elsewhere\n")
        os.environ["SCIPION_LOCAL_CONFIG"] = self.write("mine.conf", "[PLUGINS]\nMOTIONCOR_HOME = $GPU/motioncor\n")
        self.assertEqual(home.set_variables(""), [])
        self.assertEqual([os.environ.get(name) for name in ("SCIPION_USER_DATA", "MOTIONCOR_HOME", "ARETOMO_HOME", "SCIPION_HOME",
                                                            "TOMOSTREAM_SMTP_PASSWORD")],
                         ["/data", "/gpu/motioncor", "/mine", self.path("scipion"), None])

    def test_of_the_alarms_of_a_project_that_is_invalid_is_reported(self):
        self.assertEqual(notify.kept_trouble(self.folder), "")
        notify.keep(self.folder, {notify.EMAIL: "a@lab.org"})
        self.assertEqual(notify.kept_trouble(self.folder), "")
        self.write(notify.KEPT, "{")
        self.assertIn(f"{self.path(notify.KEPT)}, which says where the alarms", notify.kept_trouble(self.folder))


class TestPlaces(InAFolder):
    def test_a_disk_with_too_little_room_is_wrong_and_a_file_is_no_place(self):
        with mock.patch.object(readiness, "disk_of", return_value=(10 ** 9, 10 ** 12)):
            self.assertRegex(str(readiness.place(self.path("night"))), "^WRONG disk +only 1 GB of 1 TB free")
        with mock.patch.object(readiness, "disk_of", return_value=(10 ** 12, 10 ** 12)):
            self.assertEqual(readiness.place(self.path("night")).verdict, Verdict.OK)
        self.assertIn("is a file, not a folder", readiness.place(os.path.join(self.path("file", make=True), "night")).text)

    def test_a_clock_of_the_disk_that_is_ahead_or_behind_is_wrong(self):
        self.assertEqual(readiness.clock(self.path("night")).verdict, Verdict.OK)
        for by, words in ((-6000.0, r" 6\d\d\d s ahead of"), (6000.0, r" 5\d\d\d s behind| 6000 s behind")):
            with mock.patch.object(readiness.time, "time", return_value=time.time() + by):
                finding = readiness.clock(self.path("night"))
            self.assertEqual(finding.verdict, Verdict.WRONG)
            self.assertRegex(finding.text, words)
        self.assertEqual(os.listdir(self.folder), [])

    def test_files_written_in_the_future_tell_of_the_clock_of_the_microscope(self):
        now = os.stat(self.path("a.eer", make=True)).st_mtime
        self.assertEqual(readiness.microscope_clock([self.path("a.eer")], now), [])
        finding, = readiness.microscope_clock([self.path("a.eer")], now - 600)
        self.assertIn("600 s in the future", finding.text)


class TestPrograms(InAFolder):
    def test_a_gpu_program_that_was_asked_for_and_is_not_there_is_wrong(self):
        for engine, verdict in ((ENGINE_GPU, Verdict.WRONG), (ENGINE_AUTO, Verdict.OK), (ENGINE_CPU, Verdict.OK)):
            found = readiness.programs(engine)
            self.assertEqual([(each.verdict, each.name) for each in found], [(verdict, "programs")] * 2, found)

    def test_packages_of_the_wrong_version_and_missing_ones_are_named(self):
        self.assertIn(readiness.packages().verdict, (Verdict.OK, Verdict.NOTE))
        with mock.patch.object(readiness.importlib.metadata, "requires", return_value=["numpy<1", "no-such-package>=3",
                                                                                   "x; extra=='d'"]):
            finding = readiness.packages()
        self.assertRegex(finding.text, r"^numpy is .*, but <1 is needed; no-such-package is missing: pip install")


class TestMessages(InAFolder):
    def test_nobody_who_gets_alarms_is_a_note_and_a_server_that_refuses_is_wrong(self):
        for name in (readiness.EMAIL, readiness.WEBHOOK, "SCIPION_HOME", "SCIPION_LOCAL_CONFIG"):
            os.environ.pop(name, None)
        os.environ["HOME"] = self.folder
        self.assertEqual([each.verdict for each in readiness.messages()], [Verdict.NOTE])
        os.environ[readiness.WEBHOOK] = "http://127.0.0.1:9/hook"
        answers = [("the webhook at x", ""), ("the mail server y", "it refused")]
        with mock.patch.object(readiness, "test_message", return_value=answers):
            self.assertEqual([str(each) for each in readiness.messages()],
                             ["ok    alarms       the webhook at x accepted a test message", "WRONG alarms       it refused"])
        self.assertEqual([each.verdict for each in readiness.messages(send=False)], [Verdict.NOTE])
        os.environ[readiness.WEBHOOK] = "chat.lab.org"
        self.assertEqual([each.verdict for each in readiness.messages()], [Verdict.WRONG])


class TestTheCommand(InAFolder):
    def test_says_a_line_a_check_ends_with_1_when_something_is_wrong_and_leaves_nothing_behind(self):
        self.hosts()
        self.path("frames", "a.eer", make=True)
        before = sorted(os.listdir(self.folder))
        done = self.command("check", "./night", "--movies", self.path("frames"), "--mdocs", self.path("mdocs"), "--queue",
                            "nosuch", "--no-message")
        self.assertEqual((done.returncode, done.stderr), (1, ""))
        words = [line[:18].split() for line in done.stdout.splitlines()]
        for each in (["ok", "interpreter"], ["ok", "movies"], ["WRONG", "mdoc", "files"], ["WRONG", "queue"], ["ok", "programs"],
                     ["ok", "clock"]):
            self.assertIn(each, words)
        self.assertEqual(sorted(os.listdir(self.folder)), before)
        self.assertIn(f"is not installed ({self.path('.scipion', 'software')}", done.stdout)


class TestScipionsOwnFiles(InAFolder):
    """They are made with the first project, and are gone again when that is refused."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("SCIPION_HOSTS", "SCIPION_USER_DATA"):
            os.environ.pop(name, None)
        os.environ["SCIPION_HOME"] = self.path(".scipion")
        home.set_variables("")

    def refused(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        with self.assertRaises(UserError), home.made_for(self.path("new", "night")):
            os.makedirs(self.path("new"))
            os.makedirs(self.path(".scipion", "software", "bindings"))
            os.symlink(self.path("new", "night"), self.path(".scipion", "ScipionUserData", "projects", "night"))
            meanwhile()
            raise UserError("it is refused")

    def test_are_taken_back(self):
        self.refused()
        self.assertEqual(os.listdir(self.folder), [])

    def test_stay_where_another_project_was_made_meanwhile(self):
        self.refused(lambda: os.symlink("/other", self.path(".scipion", "ScipionUserData", "projects", "other")))
        self.assertTrue(os.path.exists(self.path(".scipion", "config", "hosts.conf")))

    def test_that_were_there_before_stay_as_they_are(self):
        home.make_home()
        before = sorted(os.walk(self.folder))
        self.refused()
        self.assertEqual(sorted(os.walk(self.folder)), before)

    def test_that_are_named_and_not_there_are_refused(self):
        os.environ["SCIPION_HOSTS"] = self.path("hosts.conf")
        with self.assertRaisesRegex(UserError, "There is no file .*/hosts.conf, which SCIPION_HOSTS names"), \
                home.made_for(self.path("night")):
            self.fail("it went on")
        self.assertEqual(os.listdir(self.folder), [])

    def test_that_cannot_be_written_are_named_and_none_is_half_there(self):
        with mock.patch("os.replace", side_effect=OSError(28, "No space left on device")), self.assertRaises(OSError) as caught:
            home.make_home()
        self.assertEqual(caught.exception.filename, self.path(".scipion", "config", "hosts.conf"))
        self.assertEqual(os.listdir(self.path(".scipion", "config")), [])

    def test_are_made_again_when_another_command_took_them_back(self):
        with home.made_for(self.path("night")):
            os.remove(self.path(".scipion", "config", "hosts.conf"))
        self.assertTrue(os.path.exists(self.path(".scipion", "config", "hosts.conf")))


class TestRun(InAFolder):
    def run_it(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        return self.command("run", name, "--movies", self.path("frames"), "--mdocs", self.path("mdocs"), *words)

    def test_that_is_refused_for_whatever_leaves_nothing_behind(self):
        self.hosts()
        self.path("file", make=True)
        before = sorted(os.listdir(self.folder))
        for words, said in ((("./new folder/my session.1",), "Call it 'my-session-1'"),
                            (("./night", "--queue", "nosuch"), "has no queue of this name; it has: gpu, long"),
                            (("./night", "--until", "soon"), "'soon' is not a time"),
                            (("./night",), "hosts.conf, line 1: 'garbage {' stands before any [SECTION]; correct the file"),
                            (("./new/night", "--set", "aretomo.darkTol=3"), "3 is out of range; it must be between 0 and 1"),
                            (("./night", "--page", self.path("file", "page")), "is a file, not a folder")):
            if words == ("./night",):
                with open(self.path("hosts.conf"), "w", encoding="utf-8") as file:
                    file.write("garbage {")
            done = self.run_it(*words)
            self.hosts()
            self.assertEqual((done.returncode, done.stderr.count("\n")), (2, 1), done.stderr)
            self.assertIn(said, done.stderr)
            self.assertEqual(sorted(os.listdir(self.folder)), before)

    def test_what_the_forms_warn_of_is_reported(self):
        self.addCleanup(os.chdir, os.getcwd())
        chain = project.create(self.path("night"), {
            COMPOSE: {"time4NextTilt": "2", "filesPath": self.path("mdcs"), "doEvenOdd": True}, ARETOMO: {},
            MOTIONCOR: {"patchX": "5", "splitEvenOdd": True}, IMPORT: {"filesPath": self.path("frames")}})
        os.makedirs(self.path("mdocs"))
        told = "\n".join(project.warnings(chain))
        for words in ("compose: Time for the next tilt is below", "motioncor: Patches are 5 x 1", "import: The folder",
                      f"mdcs does not exist yet ({self.folder} has mdocs)"):
            self.assertIn(words, told)
        self.assertNotIn("Even/odd", told)      # they will be made

    def test_on_its_own_is_refused_in_process_too(self):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            self.assertEqual(main(["run", self.path("a b"), "--movies", "x", "--mdocs", "y"]), 2)
        self.assertIn("Call it 'a-b'", said.getvalue())


if __name__ == "__main__":
    unittest.main()
