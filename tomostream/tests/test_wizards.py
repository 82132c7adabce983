# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizards: what is read from mdoc files of known content arrives in the right fields, with where it comes from."""

from __future__ import annotations

import os
import tempfile
import unittest
from unittest import mock

import numpy as np
import tifffile
from pyworkflow.config import Config
from pyworkflow.viewer import Viewer

Config.getDomain().getProtocols()       # the plugins below ours can be imported only once Scipion knows them

from tomostream.choices import instruments  # noqa: E402
from tomostream.wizards import TomoStreamThicknessWizard, readings  # noqa: E402
from tomostream.wizards.wizard import memory_words, quick_source  # noqa: E402

HEADER = "PixelSpacing = 5.4\nVoltage = 300\nImageFile = TS_01.mrc\nImageSize = 1024 1024\nDataMode = 1\n\n"
TITLE = "[T = SerialEM: Titan Krios]\n\n[T =     Tilt axis angle = {axis}, binning = 2  spot = 8  camera = 0]\n\n"
SECTION = ("[ZValue = {z}]\nTiltAngle = {angle}\nMagnification = 42000\nPixelSpacing = 5.4\nBinning = 2\n"
           "ExposureDose = 3.0\n"
           "SubFramePath = X:\\frames\\{movie}\nNumSubFrames = 6\nRotationAngle = {rotation}\n"
           "DateTime = 22-Nov-26  10:{z:02d}:00\n\n")


class FakeForm:
    """A form window without a display: what the wizard sets and says."""

    def __init__(self, **fields):
        self.protocol = type("Protocol", (), {name: FakeValue(value) for name, value in fields.items()})()
        self.set: dict = {}
        self.said: list[str] = []

    def setVar(self, name, value):
        self.set[name] = value

    def showInfo(self, text):
        self.said.append(text)


class FakeValue:
    def __init__(self, value):
        self.value = value

    def get(self):
        return self.value


class MdocCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def mdoc(self, name: str, tilts: int = 3, axis: float = 84.7) -> str:
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(HEADER + TITLE.format(axis=axis))
            for z in range(tilts):
                file.write(SECTION.format(z=z, angle=3.0 * z, movie=f"{name[:5]}_{z:03d}.tif", rotation=axis + 90))
        return path

    def movie(self, name: str, frames: int) -> None:
        tifffile.imwrite(os.path.join(self.folder, name), np.zeros((frames, 16, 16), np.uint8), photometric="minisblack")


class TestImportWizard(MdocCase):
    """Pixel size, voltage, magnification and dose per frame."""

    def show(self, **fields) -> FakeForm:
        from tomostream.wizards import TomoStreamImportWizard

        form = FakeForm(**{"filesPath": self.folder, "filesPattern": "*.tif", "mdocsPath": self.folder, **fields})
        TomoStreamImportWizard().show(form)
        return form

    def test_the_pixel_size_is_that_of_the_movie_not_of_the_binned_image(self):
        self.mdoc("TS_01.mrc.mdoc")
        self.assertAlmostEqual(self.show().set["samplingRate"], 2.7)

    def test_voltage_and_magnification_are_set(self):
        self.mdoc("TS_01.mrc.mdoc")
        form = self.show()
        self.assertEqual((form.set["voltage"], form.set["magnification"]), (300.0, 42000))

    def test_the_dose_of_a_frame_is_that_of_the_tilt_over_the_frames_of_its_movie(self):
        self.mdoc("TS_01.mrc.mdoc")
        self.movie("TS_01_001.tif", frames=4)
        form = self.show()
        self.assertAlmostEqual(form.set["dosePerFrame"], 0.75)
        self.assertIn("TS_01_001.tif", form.said[0])

    def test_without_the_movie_the_dose_per_frame_stays_empty_and_this_is_reported(self):
        self.mdoc("TS_01.mrc.mdoc")
        form = self.show()
        self.assertNotIn("dosePerFrame", form.set)
        self.assertIn("Dose per frame: not known", form.said[0])

    def test_where_each_value_comes_from_is_reported(self):
        self.mdoc("TS_01.mrc.mdoc")
        self.assertIn("TS_01.mrc.mdoc", self.show().said[0])

    def test_it_tells_which_movie_is_whose_as_the_command_does(self):
        self.mdoc("TS_01.mrc.mdoc")
        self.assertNotIn("tilt series and", self.show().said[0])        # no movie is there yet
        for name in ("TS_01_001.tif", "TS_01_002.tif", "stray_007.tif"):
            self.movie(name, frames=4)
        said = self.show().said[0].splitlines()
        self.assertIn("1 tilt series and 3 movies, most of 3 tilts, tilt axis 84.7 degrees, 5.4 A.", said)
        self.assertTrue(any("no movie for 1 of 3" in line for line in said), said)
        self.assertIn("1 movie in no series:", said)

    def test_movies_of_series_beyond_those_whose_values_are_read_are_not_reported_as_left_over(self):
        for number in range(readings.FILES_READ + 1):
            self.mdoc(f"TS_{number:03d}.mrc.mdoc", tilts=2)
        self.movie(f"TS_{readings.FILES_READ:03d}"[:5] + "_001.tif", frames=4)
        self.assertNotIn("in no series", self.show().said[0])

    def test_a_folder_without_mdoc_files_gets_one_sentence(self):
        form = self.show()
        self.assertEqual(form.set, {})
        self.assertIn("no mdoc file", form.said[0])

    def test_an_empty_field_gets_one_sentence(self):
        self.assertIn("Give the folder", self.show(mdocsPath=None).said[0])

    def test_a_file_that_is_no_tilt_series_is_named_and_nothing_is_set(self):
        with open(os.path.join(self.folder, "map.mdoc"), "w", encoding="utf-8") as file:
            file.write("this is not an mdoc\n")
        form = self.show()
        self.assertEqual(form.set, {})
        self.assertIn("map.mdoc", form.said[0])

    def test_a_pattern_of_files_is_taken_too(self):
        self.mdoc("TS_01.mrc.mdoc")
        self.assertIn("voltage", self.show(mdocsPath=os.path.join(self.folder, "TS_*.mdoc")).set)


class TestComposeWizards(MdocCase):
    """Tilt axis and number of tilts."""

    def show(self, name: str) -> FakeForm:
        import tomostream.wizards as ours

        form = FakeForm(filesPath=self.folder, mdocPattern="*.mdoc")
        getattr(ours, name)().show(form)
        return form

    def test_the_axis_of_the_title_is_set_and_its_source_is_reported(self):
        self.mdoc("TS_01.mrc.mdoc", axis=84.7)
        form = self.show("TomoStreamAxisWizard")
        self.assertAlmostEqual(form.set["manualTiltAxisAngle"], 84.7)
        self.assertIn("TS_01.mrc.mdoc", form.said[0])

    def test_an_axis_of_zero_degrees_is_a_value(self):
        self.mdoc("TS_01.mrc.mdoc", axis=0.0)
        self.assertEqual(self.show("TomoStreamAxisWizard").set, {"manualTiltAxisAngle": 0.0})

    def test_files_that_disagree_are_reported(self):
        self.mdoc("TS_01.mrc.mdoc", axis=84.7)
        self.mdoc("TS_02.mrc.mdoc", axis=84.9)
        form = self.show("TomoStreamAxisWizard")
        self.assertIn("do not agree", form.said[0])
        self.assertEqual(form.set, {"manualTiltAxisAngle": 84.7})

    def test_files_of_different_axes_propose_none_of_them(self):
        self.mdoc("TS_01.mrc.mdoc", axis=84.7)
        self.mdoc("TS_02.mrc.mdoc", axis=-5.0)
        form = self.show("TomoStreamAxisWizard")
        self.assertIn("Nothing was written", form.said[0])
        self.assertEqual(form.set, {})

    def test_the_number_of_tilts_is_that_of_most_series(self):
        for number, tilts in enumerate((5, 5, 2), start=1):
            self.mdoc(f"TS_{number:02d}.mrc.mdoc", tilts=tilts)
        form = self.show("TomoStreamTiltsWizard")
        self.assertEqual(form.set, {"expectedTilts": 5})
        self.assertIn("1 with 2, 2 with 5", form.said[0])

    def test_of_two_numbers_that_are_equally_frequent_the_larger_is_taken(self):
        self.mdoc("TS_01.mrc.mdoc", tilts=7)
        self.mdoc("TS_02.mrc.mdoc", tilts=4)
        self.assertEqual(self.show("TomoStreamTiltsWizard").set, {"expectedTilts": 7})


def form_of(target):
    """What has the fields: a protocol, or a viewer with a protocol."""
    if not issubclass(target, Viewer):
        return target()
    with tempfile.TemporaryDirectory() as folder:
        viewer = target(project=mock.Mock(getTmpPath=lambda *_: folder, path=folder))
        viewer.setProtocol(viewer._targets[0]())
        return viewer


class TestWizards(unittest.TestCase):
    """Scipion finds the wizards, and their fields exist."""

    def test_every_target_is_a_field_of_its_form_and_scipion_finds_it(self):
        from pyworkflow.viewer import DESKTOP_TKINTER

        domain = Config.getDomain()
        import tomostream.wizards as ours

        for name in ours.__all__:
            wizard = getattr(ours, name)
            for protocol_class, fields in wizard._targets:
                protocol = form_of(protocol_class)
                found = domain.findWizards(protocol, DESKTOP_TKINTER)
                for field in fields:
                    self.assertIsNotNone(protocol.getParam(field), f"{name}: {field}")
                    self.assertIs(found[field], wizard, f"{name}: {field}")


class TestQuickSource(unittest.TestCase):
    """Which series the wizard of the thickness reconstructs, and of which images."""

    def setUp(self):
        from tomo.objects import SetOfTiltSeries

        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.items = SetOfTiltSeries(filename=os.path.join(self.folder, "tiltseries.sqlite"))

    def add(self, name: str, tilts: int, disabled: tuple[int, ...] = (), axis: float = 84.0) -> None:
        from tomo.objects import TiltImage, TiltSeries, TomoAcquisition

        acquisition = TomoAcquisition()
        acquisition.setTiltAxisAngle(axis)
        series = TiltSeries(tsId=name)
        series.setAcquisition(acquisition)
        series.setSamplingRate(1.35)
        self.items.setSamplingRate(1.35)
        self.items.append(series)
        for index in range(1, tilts + 1):
            image = TiltImage()
            image.setTsId(name)
            image.setLocation(index, os.path.join(self.folder, f"{name}.mrcs"))
            image.setTiltAngle(3.0 * index)
            image.setAcquisitionOrder(tilts - index + 1)
            image.setSamplingRate(1.35)
            image.setEnabled(index not in disabled)
            series.append(image)
        series.write()
        self.items.update(series)
        self.items.write()

    def test_without_an_input_or_with_an_empty_one_a_sentence_says_what_to_do(self):
        for items, words in ((None, "Choose the input tilt series first"), (self.items, "wait for the first one")):
            form = FakeForm(inputSetOfTiltSeries=items)
            TomoStreamThicknessWizard().show(form)
            self.assertIn(words, form.said[0])

    def test_the_series_with_the_most_tilts_is_taken_without_those_that_are_switched_off(self):
        self.add("TS_01", 3)
        self.add("TS_02", 6, disabled=(2,), axis=0.0)
        source = quick_source(self.items)
        self.assertEqual((source.series_id, source.pixel_size_A, source.tilt_axis), ("TS_02", 1.35, 0.0))
        self.assertEqual(source.sections, (0, 2, 3, 4, 5))
        self.assertEqual([(row.tilt_deg, row.order) for row in source.rows][:2], [(3.0, 6), (9.0, 4)])
        self.assertEqual(source.stack, os.path.join(self.folder, "TS_02.mrcs"))


class TestMemory(unittest.TestCase):
    def test_what_is_remembered_is_listed_and_a_broken_memory_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "instruments.json")
            with mock.patch.dict(os.environ, {instruments.VARIABLE: path}):
                self.assertIn("Nothing is remembered", memory_words())
                instruments.remember("Krios 7", instruments.NEGATED, "TS_01")
                self.assertIn("Krios 7: angles negated", memory_words())
                with open(path, "w", encoding="utf-8") as file:
                    file.write("{")
                self.assertIn("instruments.json cannot be read", memory_words())


class TestReadings(unittest.TestCase):
    def test_no_more_files_are_read_than_needed(self):
        with tempfile.TemporaryDirectory() as folder:
            for number in range(readings.FILES_READ + 5):
                open(os.path.join(folder, f"{number:03d}.mdoc"), "w", encoding="utf-8").close()
            self.assertEqual(len(readings.mdoc_files(folder)), readings.FILES_READ)


if __name__ == "__main__":
    unittest.main()
