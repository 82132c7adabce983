# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream marks`: the marks of a session, and Scipion sets of the series that have one, read back as Scipion reads them."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import unittest

import numpy as np
import pytest
from pyworkflow.config import Config

Config.getDomain().getProtocols()       # the plugins below ours can be imported only once Scipion knows them

from pwem.objects import Acquisition  # noqa: E402
from tomo.objects import SetOfTiltSeries, SetOfTomograms, TiltImage, TiltSeries, Tomogram  # noqa: E402

from tomostream.cli import main, project  # noqa: E402
from tomostream.journal.layout import REPORT  # noqa: E402
from tomostream.journal.status import ARETOMO  # noqa: E402
from tomostream.report import marks  # noqa: E402
from tomostream.tests.made_project import write_mrc  # noqa: E402

SERIES = ("TS_01", "TS_02", "TS_03")


def tomograms(folder: str) -> SetOfTomograms:
    """A tomogram of each series."""
    items = SetOfTomograms(filename=os.path.join(folder, "tomograms.sqlite"))
    items.setSamplingRate(8.0)
    for name in SERIES:
        path = os.path.join(folder, "extra", f"{name}.mrc")
        write_mrc(path, np.zeros((4, 6, 8), np.float32), 8.0)
        tomogram = Tomogram(tsId=name)
        tomogram.setTsId(name)
        tomogram.setLocation(path)
        tomogram.setSamplingRate(8.0)
        items.append(tomogram)
    items.write()
    return items


def tilt_series(folder: str) -> SetOfTiltSeries:
    """Three tilts of each series."""
    items = SetOfTiltSeries(filename=os.path.join(folder, "tiltseries.sqlite"))
    items.setSamplingRate(4.0)
    items.setAcquisition(Acquisition(voltage=300.0, magnification=50000.0, sphericalAberration=2.7, amplitudeContrast=0.1))
    for name in SERIES:
        series = TiltSeries(tsId=name)
        series.setSamplingRate(4.0)
        items.append(series)
        for index, angle in enumerate((-3.0, 0.0, 3.0), start=1):
            image = TiltImage(tsId=name, tiltAngle=angle)
            image.setLocation(index, f"{name}.mrcs")
            image.setSamplingRate(4.0)
            series.append(image)
        series.write()
        items.update(series)
    items.write()
    return items


class MarksCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.addClassCleanup(os.chdir, os.getcwd())
        chain = project.create(os.path.join(folder.name, "night"), {})
        cls.path, aretomo = chain.path, chain.protocols[ARETOMO]
        os.makedirs(aretomo._getExtraPath())
        aretomo._defineOutputs(Tomograms=tomograms(aretomo._getPath()), TiltSeries=tilt_series(aretomo._getPath()))
        chain.project.saveProtocol(aretomo)
        chain.project.closeMapper()
        os.makedirs(os.path.join(cls.path, REPORT))
        for name, mark in (("TS_01", marks.Mark("good", "thin ice", 1.0)), ("TS_02", marks.Mark("bad", "", 1.0)),
                           ("TS_03", marks.Mark("good", "", 1.0))):
            marks.put(os.path.join(cls.path, REPORT), name, mark)

    def said(self, *arguments: str) -> tuple[int, str]:
        """(status, what was printed)"""
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
            status = main(["marks", self.path, *arguments])
        return status, out.getvalue()

    def boxes(self) -> dict[str, list[str]]:
        """Label of each subset in the project -> its series, as Scipion reads them."""
        chain = project.load(self.path)
        self.addCleanup(chain.project.closeMapper)
        return {run.getObjLabel(): [item.getTsId() for item in output.iterItems()] for run in chain.project.getRuns()
                if run.getClassName() == "ProtUserSubSet" for _, output in run.iterOutputAttributes()}


@pytest.mark.slow       # Scipion makes the sets in processes of its own
class TestSets(MarksCase):
    def test_those_of_the_good_ones_are_boxes_in_the_project_with_tomograms_and_tilt_series(self):
        status, text = self.said("--set", "good")
        self.assertEqual((status, text.count("2 of 3 series")), (0, 2), text)
        found = self.boxes()
        self.assertEqual(found, {"Tomograms marked good": ["TS_01", "TS_03"], "TiltSeries marked good": ["TS_01", "TS_03"]})
        chain = project.load(self.path)
        self.addCleanup(chain.project.closeMapper)
        outputs = [output for run in chain.project.getRuns() if run.getClassName() == "ProtUserSubSet"
                   for _, output in run.iterOutputAttributes()]
        made = {type(output).__name__: output for output in outputs}
        self.assertEqual((made["SetOfTomograms"].getSamplingRate(), made["SetOfTiltSeries"].getSamplingRate()), (8.0, 4.0))
        images = [image.getTiltAngle() for image in made["SetOfTiltSeries"].getFirstItem().iterItems()]
        self.assertEqual(images, [-3.0, 0.0, 3.0])
        self.assertTrue(os.path.exists(made["SetOfTomograms"].getFirstItem().getFileName()))


class TestWords(MarksCase):
    def write(self, text: str) -> str:
        path = os.path.join(self.path, "list.csv")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def test_the_marks_are_listed(self):
        status, text = self.said()
        self.assertEqual(status, 0)
        self.assertEqual([line.split() for line in text.splitlines()],
                         [["TS_01", "good", "thin", "ice"], ["TS_02", "bad"], ["TS_03", "good"]])

    def test_what_makes_no_set_is_reported(self):
        self.assertEqual(self.said("--set", "look-again")[0], 2)
        self.assertIn("no series is marked look-again", self.said("--set", "look-again")[1])
        self.assertIn("--of volumes: use one or more of tomograms", self.said("--set", "good", "--of", "volumes")[1])
        self.assertEqual(self.said("--set", "good", "--of", "filtered"),
                         (1, "FilteredTomograms: none of these series is in it (yet)\n"))
        unknown = self.write("TS_77\n")
        self.assertEqual(self.said("--series-file", unknown, "--of", "tomograms")[0], 1)

    def test_the_list_that_the_page_saves_is_read_with_its_marks(self):
        path = self.write("\ufeffseries_id,mark,note\nTS_02,good,\"a, b\"\nTS_03,bad,\nTS_01,better,\n")
        self.assertEqual(marks.marks_in(path), {"TS_02": marks.Mark("good", "a, b"), "TS_03": marks.Mark("bad"),
                                                "TS_01": marks.Mark()})


if __name__ == "__main__":
    unittest.main()
