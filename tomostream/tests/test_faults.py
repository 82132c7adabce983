# SPDX-License-Identifier: GPL-3.0-or-later
"""The seventeen ways in which a session loses or spoils data in a streaming chain, each made on purpose.

Through real protocol processes, with stand-ins for the two programs: a session in which the files are bad, one in which
protocols are killed, one in which every series changes after its tomogram. Each test looks at one of the ways:

     1  one movie of a series never comes                     TestBadFiles.test_01
     2  a movie is truncated or unreadable                    TestBadFiles.test_02
     3  garbage or empty mdoc                                 TestBadFiles.test_03; the dialects: test_mdoc
     4  MotionCor fails for one movie                         TestBadFiles.test_04
     5  MotionCor killed, project refreshed                   TestKilledProtocols.test_05
     6  ... and continued                                     TestKilledProtocols.test_06, test_chaos
     7  compose killed and continued                          TestKilledProtocols.test_07, test_chaos
     8  axis 0 degrees or missing                             TestBadFiles.test_08; given in the form: test_session
     9  a name that SQLite cannot take, names that collapse   TestBadFiles.test_09; more of them: test_naming
    10  the input closes within the time for the next tilt    TestKilledProtocols.test_10
    11  same names acquired again                             TestBadFiles.test_11, TestReplacements (TS_02)
    12  mdoc removed or renamed while running                 TestBadFiles.test_12
    13  a protocol with one thread                            TestRefusals.test_13
    14  first launch before any movie exists                  TestBadFiles.test_14
    15  two series registered at once                         TestBadFiles.test_15
    16  several GPU steps generated together                  TestBadFiles.test_16
    17  a dimension of the tomogram equals the number of tilts TestBadFiles.test_17

Late micrographs and repeated exposures, down to the tomogram: TestReplacements. Whatever is killed, locked, full, forbidden
or stalled: test_chaos and `benchmarks/chaos.py`.
"""

from __future__ import annotations

import ast
import glob
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import unittest
from collections import Counter
from itertools import pairwise

import pytest

from tomostream.acquisition.movies import check_movie
from tomostream.files.locks import Lock
from tomostream.journal import entries
from tomostream.journal.status import ARETOMO, COMPOSE, IMPORT, MOTIONCOR
from tomostream.programs.aln import row_from_xf
from tomostream.tests.standins import shift_of, value_of, values_in
from tomostream.tests.support import ORDER, Session, end, wait_for

pytestmark = pytest.mark.chain
TILTS, SIZE = 6, 64
BY_THREES = re.compile(r"_(\d{3})_")


def order_of(movie: str) -> int:
    """Acquisition order from the name of a simulated movie."""
    return int(BY_THREES.search(movie).group(1))


class TestBadFiles(unittest.TestCase):
    """One session: five simulated series with faults, three copies of the first under other names."""

    @classmethod
    def setUpClass(cls):
        cls.session = session = Session()
        cls.addClassCleanup(session.__exit__)
        session.use_standins("0.15", STANDIN_FAIL="TS_03_004", STANDIN_FAIL_ONCE="TS_02_005")
        run = session.run("--timeout", "90", engine="gpu", settings={
            "import.fileTimeout": 4, "compose.time4NextTilt": 6, "motioncor.numberOfThreads": 5, "motioncor.gpuList": "0 1",
            "aretomo.gpuList": "2 3", "aretomo.numberOfThreads": 5, "aretomo.binFactor": 2,
            "aretomo.tomoThickness": 40, "aretomo.alignZ": 20})
        wait_for(lambda: session.ledger(ARETOMO), 240, "start of the last protocol")
        cls.started_on_nothing = not os.path.exists(session.frames)
        simulator = session.simulate(
            "--series", "5", "--tilts", str(TILTS), "--frames", "3", "--size", str(SIZE), "--interval", "0.2",
            *(f"--fault={fault}" for fault in ("truncated:1:1", "missing:2:3", "truncated:3:2", "no-axis:4",
                                               "garbage-mdoc:5")))
        if simulator.wait(timeout=60):
            raise AssertionError(session.said("simulate"))
        for name in ("pl_(1)", "pl_[1]", "AX0"):
            cls.copy_series(name)
        wait_for(lambda: session.events(ARETOMO, entries.Reconstructed), 240, "tomogram")
        wait_for(lambda: session.events(COMPOSE, entries.Failed) and "TS_01" in session.keys(ARETOMO), 60,
                 "word of the bad mdocs")
        cls.write_again("TS_01")
        cls.repair_mdoc("TS_05")
        wanted = {"TS_01", "TS_02", "TS_03", "TS_05", "AX0"}
        wait_for(lambda: wanted <= set(session.keys(ARETOMO)) and len(session.rows(ARETOMO)) == 7
                 and cls.version("TS_01") == 2, 240, "last tomogram")
        os.remove(os.path.join(session.mdocs, "TS_01.mrc.mdoc"))
        with open(os.path.join(session.folder_of(IMPORT), "extra", "STOP_STREAMING.TXT"), "w", encoding="utf-8"):
            pass
        cls.status = run.wait(timeout=300)

    @classmethod
    def copy_series(cls, name: str) -> None:
        """The first series once more, under another name; AX0 has its tilt axis at 0 degrees."""
        for path in sorted(glob.glob(os.path.join(cls.session.frames, "TS_01_*.tif"))):
            source = path.replace("TS_01_001", "TS_04_001")         # that of the first series is cut off
            shutil.copyfile(glob.glob(source.rsplit("_", 1)[0] + "_*")[0], path.replace("TS_01", name))
        with open(os.path.join(cls.session.mdocs, "TS_01.mrc.mdoc"), encoding="utf-8") as file:
            text = file.read().replace("TS_01", name)
        if name == "AX0":
            text = re.sub(r"Tilt axis angle = [-\d.]+", "Tilt axis angle = 0.0", text)
            text = re.sub(r"RotationAngle = [-\d.]+", "RotationAngle = 0.0", text)
        cls.write_mdoc(name, text)

    @classmethod
    def write_mdoc(cls, name: str, text: str) -> None:
        with open(os.path.join(cls.session.mdocs, f"{name}.mrc.mdoc"), "w", encoding="utf-8") as file:
            file.write(text)

    @classmethod
    def write_again(cls, name: str) -> None:
        """The second exposure is acquired again under the name that it had."""
        path, = glob.glob(os.path.join(cls.session.frames, f"{name}_002_*.tif"))
        other, = glob.glob(os.path.join(cls.session.frames, "TS_02_002_*.tif"))
        shutil.copyfile(other, f"{path}.part")
        os.replace(f"{path}.part", path)

    @classmethod
    def repair_mdoc(cls, name: str) -> None:
        with open(os.path.join(cls.session.mdocs, "TS_02.mrc.mdoc"), encoding="utf-8") as file:
            cls.write_mdoc(name, file.read().replace("TS_02", name))

    @classmethod
    def version(cls, series_id: str) -> int:
        return max((entry.version for entry in cls.session.events(ARETOMO, entries.Reconstructed)
                    if entry.item == series_id), default=0)

    def composed(self, series_id: str) -> entries.Composed:
        return [entry for entry in self.session.events(COMPOSE, entries.Composed) if entry.item == series_id][-1]

    def orders(self, series_id: str) -> list[int]:
        return sorted(tilt["_acqOrder"] for tilt in self.session.tilts(COMPOSE, series_id))

    def test_01_a_movie_that_never_comes_is_left_out_after_the_series_own_deadline(self):
        self.assertEqual(self.orders("TS_02"), [1, 2, 4, 5, 6])
        self.assertEqual([order_of(left.movie) for left in self.composed("TS_02").left_out], [3])
        self.assertLess(self.composed("TS_02").time, self.ended(IMPORT))

    def ended(self, name: str) -> float:
        return self.session.ledger(name)[-1].time

    def test_02_a_truncated_movie_fails_alone_and_gives_the_set_no_wrong_size(self):
        failed = {entry.item: entry.reason for entry in self.session.events(IMPORT, entries.Failed)}
        self.assertEqual({name[:9] for name in failed}, {"TS_01_001", "TS_03_002"})
        self.assertTrue(all("not complete" in reason for reason in failed.values()), failed)
        self.assertEqual(self.orders("TS_01"), [2, 3, 4, 5, 6])
        for row in self.session.rows(MOTIONCOR):
            check = check_movie(os.path.join(self.session.project, row["_filename"]))
            self.assertEqual((check.width, check.height), (SIZE, SIZE))

    def test_03_a_garbage_mdoc_is_named_with_its_reason_and_read_again_when_it_changes(self):
        told = [entry.reason for entry in self.session.ledger(COMPOSE) if entry.item == "TS_05" and entry.reason]
        self.assertTrue(any("mdoc" in reason or "text" in reason for reason in told), told)
        self.assertIn("TS_05", self.session.keys(ARETOMO))

    def test_04_a_movie_on_which_the_program_fails_is_tried_twice_then_recorded(self):
        tries = Counter(entry["item"][:9] for entry in self.session.standin_runs() if entry["program"] == "MotionCor3")
        self.assertEqual((tries["TS_03_004"], tries["TS_02_005"]), (2, 2))
        failed = [entry for entry in self.session.events(MOTIONCOR, entries.Failed)]
        self.assertEqual([entry.item[:9] for entry in failed], ["TS_03_004"])
        self.assertIn("was told to fail", failed[0].reason)
        self.assertEqual(self.orders("TS_03"), [1, 3, 5, 6])

    def test_08_an_axis_of_zero_is_a_value_and_none_fails_that_series_with_the_reason(self):
        self.assertEqual({tilt["_acquisition._tiltAxisAngle"] for tilt in self.session.tilts(COMPOSE, "AX0")}, {0.0})
        self.assertIn("AX0", self.session.keys(ARETOMO))
        reason, = {entry.reason for entry in self.session.events(COMPOSE, entries.Failed) if entry.item == "TS_04"}
        self.assertIn("axis", reason)
        self.assertNotIn("TS_04", self.session.keys(COMPOSE))

    def test_09_any_name_works_and_two_that_collapse_to_one_are_distinguished(self):
        names = {row["_tsId"]: row["label"] for row in self.session.rows(COMPOSE)}
        others = {series_id: label for series_id, label in names.items() if label in ("pl_(1)", "pl_[1]")}
        self.assertEqual(len(others), 2, names)
        for series_id in others:
            self.assertRegex(series_id, r"^[A-Za-z_][A-Za-z0-9_]*$")
            self.assertEqual(self.orders(series_id), [1, 2, 3, 4, 5, 6][-len(self.orders(series_id)):])
            self.assertIn(series_id, self.session.keys(ARETOMO))

    def test_11_a_movie_acquired_again_under_its_name_is_noticed_and_the_newest_wins(self):
        replaced = [entry for entry in self.session.events(IMPORT, entries.Replaced)]
        self.assertEqual([entry.item[:9] for entry in replaced], ["TS_01_002"])
        self.assertEqual(self.session.keys(IMPORT).count(replaced[0].item), 1)
        self.assertEqual(self.composed("TS_01").version, 2)
        self.assertEqual(self.session.keys(ARETOMO).count("TS_01"), 1)
        row, = (row for row in self.session.rows(ARETOMO) if row["_tsId"] == "TS_01")
        self.assertIn("TS_01-v2", row["_filename"])

    def test_12_a_removed_mdoc_keeps_nothing_from_ending(self):
        self.assertEqual([self.session.state(name) for name in ORDER], ["finished"] * 4)
        self.assertEqual(self.status, 1, self.session.said("run"))

    def test_14_the_first_launch_needs_no_movie_and_no_folder(self):
        self.assertTrue(self.started_on_nothing)

    def test_15_every_series_has_its_own_alignment(self):
        for row in self.session.rows(COMPOSE):
            if row["_tsId"] == "TS_01":
                continue
            tilts = sorted(self.session.tilts(ARETOMO, row["_tsId"]), key=lambda tilt: tilt["_index"])
            for tilt in tilts[:1]:
                matrix = ast.literal_eval(tilt["_transform._matrix"])
                _, tx, _ = row_from_xf((*matrix[0][:2], *matrix[1][:2], matrix[0][2], matrix[1][2]))
                self.assertAlmostEqual(tx, shift_of(row["_tsId"]), delta=0.02)

    def test_16_no_two_programs_share_a_gpu(self):
        ends = {(entry["item"], entry["pid"]): entry["time"] for entry in self.session.standin_runs("end")}
        by_gpu: dict[str, list] = {}
        for entry in self.session.standin_runs():
            stop = ends.get((entry["item"], entry["pid"]), entry["time"] + 0.15)
            by_gpu.setdefault(" ".join(entry["gpu"]), []).append((entry["time"], stop, entry["item"]))
        self.assertEqual(set(by_gpu), {"0", "1", "2", "3"})
        for runs in by_gpu.values():
            runs.sort()
            for before, after in pairwise(runs):
                self.assertLessEqual(before[1], after[0] + 0.01, (before, after))

    def test_17_tomograms_have_the_size_that_was_asked_for(self):
        for row in self.session.rows(ARETOMO):
            check = check_movie(os.path.join(self.session.project, row["_filename"]))
            self.assertEqual((check.width, check.height, check.frames), (SIZE // 2, SIZE // 2, 40 // 2))

    def test_the_counts_of_every_stage_add_up(self):
        movies = self.session.outcome()["counts"]["movies"]
        self.assertEqual(movies["found"], movies["imported"] + 2)
        self.assertEqual(movies["imported"], movies["aligned"] + 1)
        self.assertEqual(movies["failed"], 3)
        series = self.session.outcome()["counts"]["series"]
        self.assertEqual(series, {"done": 7, "failed": 1})

    def test_the_log_has_no_traceback_for_what_was_to_be_expected(self):
        for name in ORDER:
            self.assertNotIn("Traceback", self.session.log_of(name))
            self.assertNotIn("FATAL", self.session.log_of(name))


REFRESH = """
import sys
from pyworkflow.config import Config
from pyworkflow.project import Manager
Config.getDomain().getProtocols()
project = Manager().loadProject(sys.argv[1])
print([run.getStatus() for run in project.getRuns(refresh=True, checkPids=True)])
"""


class TestKilledProtocols(unittest.TestCase):
    """One session: motioncor is killed and the project refreshed, as the GUI does; later compose; each is continued."""

    @classmethod
    def setUpClass(cls):
        cls.session = session = Session()
        cls.addClassCleanup(session.__exit__)
        session.use_standins("0.3,0.3")
        run = session.run("--timeout", "300", engine="gpu", settings={
            "compose.time4NextTilt": 240, "aretomo.tomoThickness": 40, "aretomo.alignZ": 20})
        wait_for(lambda: session.ledger(ARETOMO), 240, "start of the last protocol")
        session.simulate("--series", "4", "--tilts", str(TILTS), "--frames", "3", "--size", str(SIZE), "--interval", "0.4")
        wait_for(lambda: len(session.rows(MOTIONCOR)) >= 4, 240, "micrographs")
        cls.kill(MOTIONCOR)
        cls.refreshed = subprocess.run([sys.executable, "-c", REFRESH, session.project], env={
            **session.environment, "SCIPION_DOMAIN": "pwem"}, capture_output=True, text=True, check=False)
        cls.closed_after_refresh = session.stream_closed(MOTIONCOR)
        cls.waited = wait_for(lambda: [entry for entry in session.events(COMPOSE, entries.Waiting)
                                       if "motioncor" in entry.reason], 240, "word of compose")
        cls.composed_meanwhile = len(session.rows(COMPOSE))
        cls.resumed = [session.call("resume", session.project, "--no-follow")]
        wait_for(lambda: session.rows(COMPOSE), 240, "series")
        cls.kill(COMPOSE)
        cls.resumed.append(session.call("resume", session.project, "--no-follow"))
        wait_for(lambda: len(session.rows(IMPORT)) == 4 * TILTS, 240, "last movie")
        with open(os.path.join(session.folder_of(IMPORT), "extra", "STOP_STREAMING.TXT"), "w", encoding="utf-8"):
            pass
        cls.stopped = time.monotonic()
        cls.status = run.wait(timeout=300)
        cls.ended = time.monotonic()
        wait_for(lambda: all(session.state(name) == "finished" for name in ORDER), 240, "end")

    @classmethod
    def kill(cls, name: str) -> None:
        for pid in cls.session.pids(name):
            end(pid)
        wait_for(lambda: cls.session.state(name) == "dead", 240, f"dead {name}")

    def test_05_the_outputs_of_a_killed_protocol_stay_open_and_its_consumer_waits_and_says_so(self):
        self.assertEqual(self.refreshed.returncode, 0, self.refreshed.stderr)
        self.assertFalse(self.closed_after_refresh)
        self.assertIn("died", self.waited[0].reason)
        self.assertEqual(self.composed_meanwhile, 0)

    def test_06_a_continued_protocol_recomputes_only_what_was_in_flight(self):
        self.assertEqual(self.resumed, [0, 0], self.session.said("resume"))
        tries = Counter(entry["item"] for entry in self.session.standin_runs() if entry["program"] == "MotionCor3")
        self.assertEqual(len(tries), 4 * TILTS)
        self.assertLessEqual(sum(number - 1 for number in tries.values()), 2)
        self.assertEqual(len(set(self.session.keys(MOTIONCOR))), 4 * TILTS)
        self.assertEqual(len(self.session.keys(MOTIONCOR)), 4 * TILTS)

    def test_07_a_continued_compose_makes_no_series_again(self):
        self.assertEqual(sorted(self.session.keys(COMPOSE)), ["TS_01", "TS_02", "TS_03", "TS_04"])
        versions = Counter((entry.item, entry.version)
                           for entry in self.session.events(COMPOSE, entries.Composed))
        self.assertEqual(set(versions.values()), {1})
        self.assertEqual({version for _, version in versions}, {1})
        for series_id in self.session.keys(COMPOSE):
            self.assertEqual(len(self.session.tilts(COMPOSE, series_id)), TILTS)

    def test_10_the_last_series_is_decided_before_the_protocol_ends(self):
        """The input closes within the time for the next tilt."""
        self.assertEqual(sorted(self.session.keys(ARETOMO)), ["TS_01", "TS_02", "TS_03", "TS_04"])
        self.assertLess(self.ended - self.stopped, 240)

    def test_resume_says_what_it_found(self):
        said = self.session.said("resume")
        self.assertRegex(said, r"motioncor died: \d+ movies aligned, \d+ to do.*; continues")
        self.assertRegex(said, r"compose died: \d+ series composed.*; continues")


class TestReplacements(unittest.TestCase):
    """One session in which every series changes after its tomogram was made, each in another way. The stand-ins write
    numbers that tell of which movies something was made: they must arrive in the tomogram.

    TS_01: a movie comes after the series' own deadline. TS_02: an exposure is repeated under its own name. TS_03: a movie
    on which MotionCor failed twice is aligned after the protocol was continued. TS_04: an exposure is repeated under a new
    name and takes its section in the mdoc.
    """

    SERIES = ("TS_01", "TS_02", "TS_03", "TS_04")

    @classmethod
    def setUpClass(cls):
        cls.session = session = Session()
        cls.addClassCleanup(session.__exit__)
        session.use_standins("0.1,0.2", STANDIN_FAIL_TWICE="TS_03_002")
        run = session.run("--timeout", "120", "--quiet", "--no-report", engine="gpu", settings={
            "compose.expectedTilts": 5, "compose.time4NextTilt": 5, "aretomo.tomoThickness": 40, "aretomo.alignZ": 20,
            "motioncor.gpuList": "0 1", "aretomo.gpuList": "2"})
        wait_for(lambda: session.ledger(ARETOMO), 240, "start of the last protocol")
        session.simulate("--series", "4", "--tilts", "5", "--frames", "2", "--size", str(SIZE), "--interval", "0.4",
                         "--fault=late:1:3:22")
        wait_for(lambda: set(session.keys(ARETOMO)) == set(cls.SERIES), 240, "first tomograms")
        cls.before = {series_id: cls.tomogram(series_id) for series_id in cls.SERIES}
        cls.write_again("TS_02")
        cls.expose_again("TS_04")
        for pid in session.pids(MOTIONCOR):
            end(pid)
        wait_for(lambda: session.state(MOTIONCOR) == "dead", 240, "dead motioncor")
        cls.resumed = session.call("resume", session.project, "--no-follow")
        wait_for(lambda: session.acquired and all(cls.tomogram(series_id) == sum(map(value_of, cls.movies_of(series_id)))
                             for series_id in cls.SERIES), 240, "tomogram of the right movies for every series")
        with open(os.path.join(session.folder_of(IMPORT), "extra", "STOP_STREAMING.TXT"), "w", encoding="utf-8"):
            pass
        cls.status = run.wait(timeout=300)

    @classmethod
    def movie(cls, series_id: str, order: int) -> str:
        path, = glob.glob(os.path.join(cls.session.frames, f"{series_id}_{order:03d}_*.tif"))
        return path

    @classmethod
    def write_again(cls, series_id: str) -> None:
        path = cls.movie(series_id, 2)
        shutil.copyfile(cls.movie("TS_04", 2), f"{path}.part")
        os.replace(f"{path}.part", path)

    @classmethod
    def expose_again(cls, series_id: str) -> None:
        """A new movie of the fourth exposure; its section in the mdoc names it, with a later time."""
        old = cls.movie(series_id, 4)
        new = old.replace(f"{series_id}_004", f"{series_id}_006")
        shutil.copyfile(cls.movie("TS_02", 4), new)
        mdoc = os.path.join(cls.session.mdocs, f"{series_id}.mrc.mdoc")
        with open(mdoc, encoding="utf-8") as file:
            text = file.read()
        start = text.rindex("[ZValue", 0, text.index(os.path.basename(old)))
        stop = text.find("[ZValue", start + 1)
        section = text[start:stop if stop > 0 else None]
        changed = re.sub(r"(DateTime = \S+\s+)\S+", r"\g<1>23:59:59", section).replace(
            os.path.basename(old), os.path.basename(new))
        with open(f"{mdoc}.part", "w", encoding="utf-8") as file:
            file.write(text.replace(section, changed))
        os.replace(f"{mdoc}.part", mdoc)

    @classmethod
    def row(cls, series_id: str) -> dict:
        row, = (row for row in cls.session.rows(ARETOMO) if row["_tsId"] == series_id)
        return row

    @classmethod
    def tomogram(cls, series_id: str) -> float:
        """What the tomogram in the output is filled with."""
        path = os.path.join(cls.session.project, cls.row(series_id)["_filename"])
        return values_in(path, check_movie(path))[0]

    @classmethod
    def movies_of(cls, series_id: str) -> list[str]:
        """The movies of which a series must be made in the end."""
        return [cls.movie(series_id, 6 if (series_id, order) == ("TS_04", 4) else order) for order in range(1, 6)]

    def test_the_stack_holds_the_right_exposure_of_every_tilt(self):
        for series_id in self.SERIES:
            tilts = self.session.tilts(COMPOSE, series_id)
            path, = {os.path.join(self.session.project, tilt["_filename"]) for tilt in tilts}
            by_order = {tilt["_acqOrder"]: values_in(path, check_movie(path))[tilt["_index"] - 1] for tilt in tilts}
            found = [by_order[order] for order in sorted(by_order)]
            self.assertEqual(sorted(found), sorted(map(value_of, self.movies_of(series_id))), series_id)

    def test_the_tomogram_is_made_of_the_new_stack(self):
        for series_id in self.SERIES:
            self.assertEqual(self.tomogram(series_id), sum(map(value_of, self.movies_of(series_id))), series_id)
            self.assertNotEqual(self.tomogram(series_id), self.before[series_id], series_id)

    def test_every_series_keeps_its_one_row_in_every_set(self):
        for name, file_name in ((COMPOSE, "tiltseries.sqlite"), (ARETOMO, "tiltseries.sqlite"),
                                (ARETOMO, "tomograms.sqlite")):
            rows = self.session.rows(name, file_name)
            self.assertEqual(sorted(row["_tsId"] for row in rows), list(self.SERIES))
            self.assertEqual(sorted(row["id"] for row in rows), [1, 2, 3, 4])
        self.assertEqual(len(self.session.rows(IMPORT)), 21)
        self.assertEqual(len(set(self.session.keys(MOTIONCOR))), len(self.session.rows(MOTIONCOR)))

    def test_the_aligned_series_refer_to_the_new_stack_with_all_tilts(self):
        for series_id in self.SERIES:
            tilts = self.session.tilts(ARETOMO, series_id)
            self.assertEqual(len(tilts), 5)
            self.assertEqual({tilt["_filename"] for tilt in tilts},
                             {tilt["_filename"] for tilt in self.session.tilts(COMPOSE, series_id)})
            self.assertRegex(tilts[0]["_filename"], r"-v\d+\.mrcs$")
            self.assertTrue(all(tilt["enabled"] for tilt in tilts))

    def test_the_reason_why_each_was_made_again_is_reported(self):
        reasons = {series_id: " ".join(entry.reason for entry in self.session.events(COMPOSE, entries.Composed)
                                       if entry.item == series_id and entry.version > 1)
                   for series_id in self.SERIES}
        for series_id, words in (("TS_01", "arrived (late|after)"), ("TS_02", "replaced by version 2"),
                                 ("TS_03", "arrived (late|after)"), ("TS_04", "exposed again")):
            self.assertRegex(reasons[series_id], words)

    def test_the_session_ends_well(self):
        self.assertEqual((self.resumed, self.status), (0, 0), self.session.said("run"))


class TestRefusals(unittest.TestCase):
    def test_13_one_thread_is_refused_in_words(self):
        with Session() as session:
            status = session.run(settings={"motioncor.numberOfThreads": 1}).wait(timeout=120)
            self.assertEqual(status, 2)
            self.assertIn("Threads must be 2 or more", session.said("run"))


class TestStopWhileAnotherHasTheGpu(unittest.TestCase):
    """Somebody else's program holds the only GPU; the session is stopped, the GPU becomes free, the session goes on."""

    @classmethod
    def setUpClass(cls):
        cls.session = session = Session()
        cls.addClassCleanup(session.__exit__)
        session.use_standins("0.1,0.1")
        with Lock(os.path.join(session.environment["TMPDIR"], f"tomostream-gpu-{socket.gethostname()}-77-0.lock")) as other:
            if not other.take():
                raise AssertionError("the lock of a new session is taken")
            run = session.run("--timeout", "300", engine="gpu", settings={
                "motioncor.gpuList": "77", "aretomo.gpuList": "77", "compose.expectedTilts": 6, "compose.time4NextTilt": 60,
                "aretomo.tomoThickness": 40, "aretomo.alignZ": 20})
            session.simulate("--series", "1", "--tilts", "6", "--frames", "2", "--size", "64", "--interval", "0.1",
                             "--start-delay", "1").wait(timeout=60)
            wait_for(lambda: len(session.rows(IMPORT)) == 6, 240, "imported movie")
            session.call("stop", session.project)
            run.wait(timeout=300)
            cls.when_stopped = {"rows": session.rows(MOTIONCOR), "waiting": session.events(MOTIONCOR, entries.Waiting),
                                "failed": session.events(MOTIONCOR, entries.Failed),
                                "runs": session.standin_runs()}
        again = session.start("resume", session.project, "--again", "--set", "import.timeout=5")
        cls.status = again.wait(timeout=300)

    def test_nothing_fails_and_nothing_is_run(self):
        self.assertEqual([self.when_stopped[name] for name in ("rows", "failed", "runs")], [[], [], []])
        self.assertEqual({entry.reason for entry in self.when_stopped["waiting"] if entry.item},
                         {"the session was stopped while it waited for a GPU; it is done when the protocol is continued"})

    def test_all_of_it_is_done_when_the_session_goes_on(self):
        self.assertEqual(self.status, 0, self.session.said("resume"))
        self.assertEqual((len(self.session.rows(MOTIONCOR)), self.session.keys(ARETOMO)), (6, ["TS_01"]))


if __name__ == "__main__":
    unittest.main()
