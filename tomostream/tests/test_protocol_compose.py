# SPDX-License-Identifier: GPL-3.0-or-later
"""What the compose protocol tells Scipion of a series, without a project."""

from __future__ import annotations

import os
import tempfile
import threading
import unittest
from types import SimpleNamespace
from unittest.mock import patch

import mrcfile
import numpy as np
from pyworkflow.config import Config

Config.getDomain().getProtocols()       # the plugins below ours can be imported only once Scipion knows them

from pwem.objects import Acquisition  # noqa: E402

from tomostream.journal import entries, runs  # noqa: E402
from tomostream.journal.composed import SeriesRecord, TiltRecord  # noqa: E402
from tomostream.programs.ctf import CtfRow  # noqa: E402
from tomostream.protocols.objects import ctf_of_tilt  # noqa: E402
from tomostream.protocols.programs import in_all, read_rows  # noqa: E402
from tomostream.protocols.protocol_compose import series_acquisition  # noqa: E402
from tomostream.protocols.stacks import open_image, stack_images  # noqa: E402
from tomostream.streaming.work import BadInput  # noqa: E402
from tomostream.tests.made_project import write_mrc  # noqa: E402


def record(angles: list[float], dose: float | None = 3.0) -> SeriesRecord:
    """A series of which the first tilts were acquired last: the prior dose falls with the angle."""
    tilts = tuple(TiltRecord(f"m{n}", angle, f"m{n}.mrc", len(angles) - n, dose, "", 3.0 * (len(angles) - 1 - n))
                  for n, angle in enumerate(angles))
    return SeriesRecord("TS_1", tilts, series_name="TS_1", tilt_axis=85.0, tilt_axis_source="title")


class TestTheAcquisitionOfASeries(unittest.TestCase):
    def setUp(self):
        self.micrographs = Acquisition(voltage=200.0, magnification=50000.0, sphericalAberration=2.0, amplitudeContrast=0.07)

    def test_has_the_step_of_the_microscope_whatever_tilts_are_missing(self):
        angles = [-9.0, -6.01, -3.0, 6.0, 9.02]     # 0 and 3 were lost
        self.assertAlmostEqual(series_acquisition(record(angles), self.micrographs).getStep(), 3.0, delta=0.03)
        self.assertEqual(series_acquisition(record([4.0]), self.micrographs).getStep(), 0.0)

    def test_has_the_dose_before_the_first_and_after_the_last_exposure(self):
        made = series_acquisition(record([-3.0, 0.0, 3.0]), self.micrographs)
        self.assertEqual((made.getDoseInitial(), made.getAccumDose(), made.getDosePerFrame()), (0.0, 9.0, 3.0))
        unknown = series_acquisition(record([-3.0, 0.0, 3.0], dose=None), self.micrographs)
        self.assertIsNone(unknown.getAccumDose())
        self.assertIsNone(unknown.getDosePerFrame())

    def test_has_the_range_the_axis_and_the_optics(self):
        made = series_acquisition(record([-3.0, 0.0, 6.0]), self.micrographs)
        self.assertEqual((made.getAngleMin(), made.getAngleMax(), made.getTiltAxisAngle()), (-3.0, 6.0, 85.0))
        self.assertEqual((made.getVoltage(), made.getSphericalAberration(), made.getAmplitudeContrast()), (200.0, 2.0, 0.07))


class TestTheCtfOfATilt(unittest.TestCase):
    def test_is_marked_as_wrong_and_switched_off_where_there_is_none(self):
        for defocus in (0.0, -1.0, float("nan"), float("inf")):
            self.assertFalse(ctf_of_tilt(CtfRow(1, defocus, defocus, 0.0, 0.0, 0.1, None), None).isEnabled(), defocus)
        self.assertFalse(ctf_of_tilt(None, None).isEnabled())
        made = ctf_of_tilt(CtfRow(1, 31000.0, 29000.0, 10.0, 0.0, 0.1, 8.0), "1@spectra.mrc")
        self.assertEqual((made.isEnabled(), made.getDefocusU(), made.getDefocusV(), made.getResolution()),
                         (True, 31000.0, 29000.0, 8.0))


class TestItemsThatAreDone(unittest.TestCase):
    def test_are_those_that_every_output_holds_in_the_same_version(self):
        self.assertEqual(in_all([{"a": 1, "b": 2, "c": 1}, {"a": 1, "b": 1, "d": 1}]), {"a": 1})
        self.assertEqual(in_all([{"a": 1, "b": 2}]), {"a": 1, "b": 2})


class TestTheRowsOfAnInput(unittest.TestCase):
    def read(self, closed: bool, state: str, stopped: bool = False) -> bool:
        """Whether the rows that were read are the last, with a producer in this state."""
        stop = threading.Event()
        if stopped:
            stop.set()
        self.troubles: dict[entries.Topic, str] = {}
        protocol = SimpleNamespace(_reader=SimpleNamespace(read=lambda: (["row"], closed), trouble=""), stop_event=stop,
                                   trouble=self.troubles.__setitem__, producer_state=lambda pointer, closed: state)
        rows, last = read_rows(protocol, None, "movies", "the import")
        self.assertEqual(rows, ["row"])
        return last

    def test_are_the_last_when_the_set_is_closed_and_its_run_has_finished(self):
        self.assertTrue(self.read(True, runs.FINISHED))
        for closed, state in ((False, runs.FINISHED), (True, runs.RUNNING), (True, runs.DEAD), (True, runs.STOPPED)):
            self.assertFalse(self.read(closed, state), (closed, state))

    def test_are_the_last_when_the_session_is_stopped(self):
        self.assertTrue(self.read(False, runs.RUNNING, stopped=True))

    def test_of_a_run_that_broke_off_are_waited_for_and_it_is_said_what_to_do(self):
        self.read(False, runs.DEAD)
        self.assertIn("it must be continued before more movies come (tomostream resume", self.troubles[entries.Topic.PRODUCER])
        self.read(False, runs.RUNNING)
        self.assertEqual(self.troubles[entries.Topic.PRODUCER], "")


class TestAStack(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def image(self, name: str, rows: int = 4, value: float = 0.0) -> str:
        path = os.path.join(self.folder, name)
        write_mrc(path, np.full((rows, 6), value, np.float32), 2.0)
        return path

    def test_holds_the_images_in_their_order(self):
        target = os.path.join(self.folder, "TS_1.mrcs")
        size = stack_images([self.image(f"{value:.0f}.mrc", value=value) for value in (3.0, 1.0, 2.0)], target, 2.0)
        with mrcfile.open(target) as stack:
            self.assertEqual((size, stack.data.shape, stack.data[:, 0, 0].tolist()), ((6, 4), (3, 4, 6), [3.0, 1.0, 2.0]))

    def test_copied_in_pieces_it_has_all_rows_and_the_statistics_of_all(self):
        rng, target = np.random.default_rng(1), os.path.join(self.folder, "TS_1.mrcs")
        images = rng.normal(1000, 3, (3, 11, 6)).astype(np.float32)
        paths = [self.image(f"{n}.mrc") for n in range(3)]
        for path, image in zip(paths, images, strict=True):
            write_mrc(path, image, 2.0)
        with patch("tomostream.protocols.stacks.PIECE", 24):
            stack_images(paths, target, 2.0)
        with mrcfile.open(target) as stack:
            np.testing.assert_array_equal(stack.data, images)
            header = [float(stack.header[name]) for name in ("dmin", "dmax", "dmean", "rms")]
        np.testing.assert_allclose(header, [images.min(), images.max(), images.mean(dtype=float), images.std(dtype=float)], 1e-5)

    def test_an_image_that_becomes_shorter_while_it_is_copied_is_named(self):
        paths = [self.image("a.mrc"), self.image("b.mrc")]
        opened = [open_image(path) for path in paths]
        os.truncate(paths[1], 1040)
        handed = patch("tomostream.protocols.stacks.open_image", side_effect=opened)
        with handed, self.assertRaisesRegex(BadInput, "b.mrc cannot be read"):
            stack_images(paths, os.path.join(self.folder, "TS_1.mrcs"), 2.0)
        self.assertEqual(sorted(os.listdir(self.folder)), ["a.mrc", "b.mrc"])

    def test_of_images_of_two_sizes_is_refused_and_leaves_nothing(self):
        paths = [self.image("a.mrc"), self.image("b.mrc", rows=1)]
        with self.assertRaisesRegex(BadInput, "b.mrc is 6 x 1 pixels, but a.mrc is 6 x 4"):
            stack_images(paths, os.path.join(self.folder, "TS_1.mrcs"), 2.0)
        self.assertEqual(sorted(os.listdir(self.folder)), ["a.mrc", "b.mrc"])


if __name__ == "__main__":
    unittest.main()
