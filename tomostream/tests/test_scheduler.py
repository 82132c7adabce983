# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole workflow given to Scipion's scheduler before the first movie, with protocols of another plugin behind each output."""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
import unittest

import psutil
import pytest

from tomostream.tests.support import ORDER, Session, end, wait_for

pytestmark = pytest.mark.chain
FOREIGN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "foreign_plugin")
SIZE, TILTS, AXIS = 256, 9, 85.3
#: Schedules everything: our four protocols, and a reader of another plugin behind every output of theirs.
SCHEDULE = """
import json, sys
from tomostream.cli import home, project
place, settings = sys.argv[1], json.loads(sys.argv[2])
home.scipion_environment(home.default_home(place))
chain = project.create(place, settings)
from pyworkflow.config import Config
reader = Config.getDomain().getProtocols()["ProtForeignReader"]
for name, output in json.loads(sys.argv[3]):
    foreign = chain.project.newProtocol(reader)
    foreign.setObjLabel(f"reader of {output}")
    foreign.inputSet.set(chain.protocols[name])
    foreign.inputSet.setExtended(output)
    chain.project.saveProtocol(foreign)
    chain.project.scheduleProtocol(foreign)
for name in reversed(project.ORDER):
    chain.project.scheduleProtocol(chain.protocols[name])
print(json.dumps({p.getObjLabel(): p.getWorkingDir() for p in chain.project.getRuns()}))
"""
OUTPUTS = (("import", "outputMovies"), ("motioncor", "micrographs"), ("motioncor", "micrographsEven"), ("compose", "tiltSeries"),
           ("aretomo", "TiltSeries"), ("aretomo", "Tomograms"))


def end_all_of(project: str) -> None:
    """End the schedulers and protocols of a project."""
    for process in psutil.process_iter(["pid", "cmdline"]):
        if any(word.startswith(project) for word in process.info["cmdline"] or ()):
            end(process.info["pid"])


class TestAWorkflowScheduledBeforeTheFirstMovie(unittest.TestCase):
    """Foreign protocols start when the facts are there, ours before any."""

    @classmethod
    def setUpClass(cls):
        cls.session = session = Session()
        cls.addClassCleanup(session.__exit__)
        session.environment["PYTHONPATH"] = os.pathsep.join(filter(None, [FOREIGN, session.environment.get("PYTHONPATH", "")]))
        settings = {"import": {"filesPath": session.frames, "mdocsPath": session.mdocs, "timeout": "1h"},
                    "motioncor": {"engine": "CPU", "splitEvenOdd": "yes"},
                    "compose": {"filesPath": session.mdocs, "doEvenOdd": "yes", "time4NextTilt": "12", "liveReport": "no"},
                    "aretomo": {"engine": "CPU", "doEvenOdd": "yes", "tomoThickness": 200, "alignZ": 120, "binFactor": 2,
                                "handOff": os.path.join(session.folder, "handed")}}
        cls.addClassCleanup(end_all_of, session.project)
        with open(os.path.join(session.folder, "schedule.log"), "w+", encoding="utf-8") as log:    # the schedulers go on with it
            subprocess.run([sys.executable, "-c", SCHEDULE, session.project, json.dumps(settings), json.dumps(OUTPUTS)],
                           env=session.environment, cwd=session.folder, stdout=log, stderr=log, check=True, timeout=120)
            log.seek(0)
            cls.folders = json.loads(next(line for line in log if line.startswith('{"')))
        wait_for(lambda: all(session.state(name) == "running" and glob.glob(os.path.join(
            session.folder_of(name) or "", "extra", "ledger.jsonl")) for name in ORDER), 400, "running protocol of ours")
        cls.before = cls.facts()
        session.simulate("--tilts", str(TILTS), "--frames", "2", "--size", str(SIZE), "--interval", "0.3", "--max-tilt", "40",
                         "--tilt-axis", str(AXIS), "--thickness", "900", "--series", "1")
        wait_for(lambda: len(cls.facts()) == len(OUTPUTS), 300, "facts of all foreign protocols")

    @classmethod
    def facts(cls) -> dict[str, dict]:
        found = {}
        for label, folder in cls.folders.items():
            path = os.path.join(cls.session.project, folder, "extra", "facts.json")
            if os.path.exists(path):
                with open(path, encoding="utf-8") as file:
                    found[label.removeprefix("reader of ")] = json.load(file)
        return found

    def test_our_protocols_run_before_there_is_a_movie_and_no_other_does(self):
        self.assertEqual(self.before, {})

    def test_every_foreign_protocol_reads_the_pixel_size_and_the_acquisition_at_its_start(self):
        pixel = self.session.truth()["pixel_size_A"]
        for name, facts in self.facts().items():
            self.assertGreater(facts["size"], 0, name)
            self.assertAlmostEqual(facts["pixel_size"], 2 * pixel if name == "Tomograms" else pixel, places=3, msg=name)
            self.assertEqual((name, facts["voltage"], facts["cs"]), (name, 300.0, 2.7))
            self.assertEqual(tuple(facts["dim"])[:2], (SIZE // 2, SIZE // 2) if name == "Tomograms" else (SIZE, SIZE), name)
            self.assertNotIn("Couldn't convert", facts["text"], name)

    def test_the_finished_series_is_handed_on_meanwhile(self):
        out = os.path.join(self.session.folder, "handed")
        wait_for(lambda: os.path.exists(os.path.join(out, "README.rst")), 240, "README of the hand-off")
        name = self.session.truth()["series"][0]["id"]
        for path in (f"imod/{name}/{name}.xf", "relion5/tomograms.star", f"warp/tomostar/{name}.tomostar"):
            self.assertTrue(os.path.exists(os.path.join(out, path)), path)

    def test_series_tell_their_halves_axis_and_alignment(self):
        facts = self.facts()
        self.assertEqual([facts[name]["halves"] for name in ("tiltSeries", "Tomograms")], [True, True])
        self.assertEqual([facts[name]["aligned"] for name in ("tiltSeries", "TiltSeries")], [False, True])
        for name in ("tiltSeries", "TiltSeries"):
            self.assertAlmostEqual(facts[name]["axis"], AXIS, delta=2.0)
