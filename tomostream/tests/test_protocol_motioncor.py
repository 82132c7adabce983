# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line that the MotionCor protocol gives to its program, without running it."""

from __future__ import annotations

import os
import shlex
import tempfile
import unittest
from types import SimpleNamespace

from pyworkflow.config import Config

Config.getDomain().getProtocols()       # the plugins below ours can be imported only once Scipion knows them

from pwem.objects import Acquisition, Movie, SetOfMovies  # noqa: E402
from pyworkflow.utils.process import buildRunCommand  # noqa: E402

from tomostream.protocols.protocol_motioncor import ProtTomoStreamMotionCor, UniqueNames  # noqa: E402
from tomostream.streaming.programs import gpu_command  # noqa: E402

PIXEL_SIZE, FRAMES = 1.5, 40


class TestCommandLine(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder.name)
        os.mkdir("extra")

    def words(self, movie: str, gain: str = "", dark: str = "", **form) -> list[str]:
        """The words that the program gets, as the shell takes the command line apart."""
        protocol = ProtTomoStreamMotionCor(workingDir=".")
        for name, value in form.items():
            getattr(protocol, name).set(value)
        acquisition = Acquisition(voltage=200.0, magnification=50000.0, doseInitial=0.0, dosePerFrame=0.4)
        movies = SetOfMovies(filename=f"movies{len(os.listdir('.'))}.sqlite")
        self.addCleanup(movies.close)
        movies.setSamplingRate(PIXEL_SIZE)
        movies.setAcquisition(acquisition)
        movies.setGain(gain or None)
        movies.setDark(dark or None)
        item = Movie()
        item.setLocation(movie)
        item.setAcquisition(acquisition)
        item.setSamplingRate(PIXEL_SIZE)
        for each in (movies, item):
            each.setFramesRange([1, FRAMES, 1])
        movies.setDim((4096, 4096, FRAMES))
        movies.append(item)
        movies.write()
        protocol.inputMovies.set(movies)
        protocol._reader, protocol.outputs = SimpleNamespace(items=movies), {}
        protocol._runner = SimpleNamespace(gpu=True, name="MotionCor3", threads=1)
        protocol._prepare()
        self.pixel_size = protocol._pixel_size
        return shlex.split(protocol._arguments(movie, FRAMES, "work/out.mrc", "extra"))

    def value(self, words: list[str], flag: str, count: int = 1) -> list[str]:
        return words[words.index(flag) + 1:][:count]

    def test_the_pixel_size_is_that_of_the_up_sampled_eer_image_and_the_sums_keep_the_field_of_view(self):
        for choice, pixels in enumerate((1, 2, 4)):
            words = self.words("m.eer", eerSampling=choice, binFactor=2.0)
            given = float(self.value(words, "-PixSize")[0])
            self.assertAlmostEqual(given, PIXEL_SIZE / pixels)
            self.assertEqual(self.value(words, "-EerSampling"), [str(choice + 1)])
            self.assertAlmostEqual(self.pixel_size, given * 2.0)

    def test_frames_that_are_left_out_are_counted_from_both_ends(self):
        words = self.words("m.tif", alignFrame0=3, alignFrameN=30)
        self.assertEqual(self.value(words, "-Throw") + self.value(words, "-Trunc"), ["2", "10"])

    def test_dose_weighting_gives_the_dose_of_a_frame_of_the_file(self):
        self.assertEqual(self.value(self.words("m.tif", doApplyDoseFilter=True), "-FmDose"), ["0.4"])
        self.words("m.eer", doApplyDoseFilter=True, eerGroup=8)
        with open("extra/FmIntFile.txt", encoding="utf-8") as file:
            self.assertEqual(file.read().split(), [str(FRAMES), "8", "0.4"])

    def test_names_with_blanks_quotes_and_dollars_reach_the_program_as_they_are(self):
        movie, gain, dark = '/a b/it\'s "TS"_$HOME `1`.tif', "/a b/gain $1.mrc", "/a b/dark.mrc"
        words = self.words(movie, gain, dark)
        self.assertEqual(words[:2], ["-InTiff", movie])
        self.assertEqual(self.value(words, "-Gain") + self.value(words, "-Dark"), [gain, dark])

    def test_a_percent_sign_in_a_name_survives_the_filling_in_of_the_gpus(self):
        line = gpu_command("-InTiff '/data/100%s done/TS%d.tif' -Gpu %(GPU)s")
        made = buildRunCommand("MotionCor3", line, 1, gpuList=[0, 2])
        self.assertEqual(shlex.split(made), ["MotionCor3", "-InTiff", "/data/100%s done/TS%d.tif", "-Gpu", "0", "2"])
        self.assertEqual(gpu_command("-InTiff 100%.tif"), "-InTiff 100%.tif")


class TestNames(unittest.TestCase):
    def test_movies_that_differ_in_their_extension_alone_have_micrographs_of_their_own(self):
        names = UniqueNames()
        self.assertEqual([names.of(movie) for movie in ("x.mrc", "x.tif", "x_tif.mrc", "x.mrc")],
                         ["x", "x_tif", "x_tif_mrc", "x"])


if __name__ == "__main__":
    unittest.main()
