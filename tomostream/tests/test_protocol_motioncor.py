# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line that the MotionCor protocol gives to its program, without running it."""

from __future__ import annotations

import os
import pathlib
import shlex
import struct
import tempfile
import unittest
from types import SimpleNamespace
from unittest import mock

import mrcfile
import numpy as np
import tifffile
from pyworkflow.config import Config

Config.getDomain().getProtocols()       # the plugins below ours can be imported only once Scipion knows them

from pwem.objects import Acquisition, Movie, SetOfMovies  # noqa: E402
from pyworkflow.utils.process import buildRunCommand  # noqa: E402

from tomostream.journal import entries  # noqa: E402
from tomostream.protocols import motioncor_form  # noqa: E402
from tomostream.protocols.protocol_motioncor import ProtTomoStreamMotionCor, UniqueNames  # noqa: E402
from tomostream.protocols.references import References  # noqa: E402
from tomostream.streaming.work import BadInput, ProgramFailed, Task  # noqa: E402
from tomostream.streaming.workplace import WORK_FOLDER, Workplace, gpu_command  # noqa: E402
from tomostream.tests.dmfile import dm_file  # noqa: E402
from tomostream.tests.test_movie_formats import SIDE, eer_file, eer_frame  # noqa: E402

PIXEL_SIZE, FRAMES = 1.5, 40


def write_mrc(path: str, x: int, y: int, z: int, mode: int = 2) -> str:
    header = struct.pack("<10i6f3i", x, y, z, mode, 0, 0, 0, x, y, z, x, y, z, 90.0, 90.0, 90.0, 1, 2, 3).ljust(208, b"\0")
    data = bytes(x * y * z * {1: 2, 2: 4}[mode])
    pathlib.Path(path).write_bytes((header + b"MAP DD\0\0").ljust(1024, b"\0") + data)
    return os.path.abspath(path)


class StandIn:
    """MotionCor3, as far as the protocol sees it: writes a sum of a size that is given, and these words."""

    gpu, name, threads, command = True, "MotionCor3", 1, "MotionCor3"

    def __init__(self, size: tuple[int, int], words: str = "") -> None:
        self.size, self.words, self.targets, self.words_given = size, words, [], [""]

    def run(self, arguments: str, log: str) -> str:
        words = self.words_given = shlex.split(arguments)
        self.targets.append(words[words.index("-OutMrc") + 1])
        write_mrc(self.targets[-1], *self.size, 1)
        pathlib.Path(log).write_text(self.words, encoding="utf-8")
        return self.words

    def keep_log(self, log: str, name: str) -> None:
        """Not looked at here."""


class OfAMovie(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder.name)
        os.mkdir("extra")

    def words(self, movie: str, gain: str = "", dark: str = "", gpu: bool = True, **form) -> list[str]:
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
        protocol._reader, protocol.outputs, protocol._program_divides = SimpleNamespace(items=movies), {}, False
        protocol._references = References("extra", lambda line: None)
        protocol._runner = SimpleNamespace(gpu=gpu, name="MotionCor3", threads=1)
        protocol.workplace = Workplace(protocol, os.path.join("extra", WORK_FOLDER))
        protocol._prepare()
        self.protocol = protocol
        self.pixel_size = protocol._pixel_size
        return shlex.split(protocol._arguments(movie, FRAMES, "work/out.mrc", "extra"))

    def value(self, words: list[str], flag: str, count: int = 1) -> list[str]:
        return words[words.index(flag) + 1:][:count]


class TestCommandLine(OfAMovie):
    def test_the_pixel_size_is_that_of_the_up_sampled_eer_image_and_the_sums_keep_the_field_of_view(self):
        for choice, pixels in enumerate((1, 2, 4)):
            words = self.words("m.eer", eerSampling=choice, binFactor=2.0)
            given = float(self.value(words, "-PixSize")[0])
            self.assertAlmostEqual(given, PIXEL_SIZE / pixels)
            self.assertEqual(self.value(words, "-EerSampling"), [str(choice + 1)])
            self.assertAlmostEqual(self.pixel_size, given * 2.0)

    def test_the_pixel_size_is_that_of_the_stretched_image_where_the_program_stretches_it(self):
        form = {"doMagCor": True, "scaleMaj": 1.02, "scaleMin": 0.99, "angDist": 30.0}
        self.assertEqual(self.value(self.words("m.tif", binFactor=2.0, **form), "-Mag", 3), ["1.02", "0.99", "30.0"])
        self.assertAlmostEqual(self.pixel_size, 2.0 * PIXEL_SIZE / 1.02)
        self.words("m.tif", gpu=False, binFactor=2.0, **form)
        self.assertAlmostEqual(self.pixel_size, 2.0 * PIXEL_SIZE)

    def test_frames_that_are_left_out_are_counted_from_both_ends(self):
        words = self.words("m.tif", alignFrame0=3, alignFrameN=30)
        self.assertEqual(self.value(words, "-Throw") + self.value(words, "-Trunc"), ["2", "10"])

    def test_dose_weighting_gives_the_dose_of_a_frame_of_the_file(self):
        self.assertEqual(self.value(self.words("m.tif", doApplyDoseFilter=True), "-FmDose"), ["0.4"])
        self.words("m.eer", doApplyDoseFilter=True, eerGroup=8)
        with open("extra/FmIntFile.txt", encoding="utf-8") as file:
            self.assertEqual(file.read().split(), [str(FRAMES), "8", "0.4"])

    def test_eer_fractions_have_the_dose_that_was_asked_for(self):
        for dose, group in ((0.0, "8"), (1.2, "3"), (0.9, "2"), (0.1, "1")):
            self.words("m.eer", eerDose=dose, eerGroup=8)
            with open("extra/FmIntFile.txt", encoding="utf-8") as file:
                self.assertEqual(file.read().split(), [str(FRAMES), group, "0.0"], dose)
        self.protocol.inputMovies.get().getAcquisition().setDosePerFrame(0.0)
        self.protocol._fraction_file(FRAMES, "extra")
        with open("extra/FmIntFile.txt", encoding="utf-8") as file:
            self.assertEqual(file.read().split()[1], "8")
        self.assertTrue(any("no dose per frame" in text for text in motioncor_form.warnings(self.protocol)))

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


class TestFormatsInOneRun(OfAMovie):
    def test_each_movie_gets_the_options_of_its_own_format(self):
        for first, other in (("m.eer", "n.tif"), ("m.tif", "n.eer")):
            self.words(first)
            words = shlex.split(self.protocol._arguments(other, FRAMES, "work/out.mrc", "extra"))
            self.assertEqual("-FmIntFile" in words, other.endswith(".eer"), other)
            self.assertEqual(words[0], "-InEer" if other.endswith(".eer") else "-InTiff")
            self.assertAlmostEqual(float(self.value(words, "-PixSize")[0]), PIXEL_SIZE)

    def test_a_movie_that_would_get_another_pixel_size_is_refused(self):
        self.words("m.eer", eerSampling=1)
        with self.assertRaisesRegex(BadInput, "no EER movie, unlike the first movies of this run"):
            self.protocol._refuse_what_comes_out_wrong("n.tif")


class DividingProgram(StandIn):
    """MotionCor3 from 1.2.3 on: divides -PixSize of an EER movie by the up-sampling."""

    def run(self, arguments: str, log: str) -> str:
        said = super().run(arguments, log)
        words = shlex.split(arguments)
        given, sampling = (float(words[words.index(flag) + 1]) for flag in ("-PixSize", "-EerSampling"))
        self.pixel_sizes = [*getattr(self, "pixel_sizes", []), given]
        with open(self.targets[-1], "r+b") as file:
            file.seek(40)
            file.write(struct.pack("<3f", *(length * given / 2 ** (sampling - 1) for length in (*self.size, 1))))
        return said


class TestPixelSizeOfEer(OfAMovie):
    def test_is_given_undivided_to_a_program_that_divides_it_by_the_up_sampling(self):
        movie = os.path.abspath("m.eer")
        pathlib.Path(movie).write_bytes(eer_file([eer_frame([(5, 1, 1)], (7, 2, 2))] * 2, 65002, (7, 2, 2)))
        self.words(movie, eerSampling=1)
        runner = DividingProgram((16, 16))
        self.protocol._runner, self.protocol.outputs = runner, {"micrographs": None}
        with mock.patch.object(self.protocol, "_expected_size", return_value=None):
            for name in ("m", "n"):
                self.protocol.work(Task(name, (movie, FRAMES, name), 1))
        self.assertEqual(runner.pixel_sizes, [PIXEL_SIZE / 2, PIXEL_SIZE, PIXEL_SIZE])
        with mrcfile.open("extra/n_aligned_mic.mrc", header_only=True) as found:
            self.assertAlmostEqual(float(found.voxel_size.x), PIXEL_SIZE / 2, 5)


class TestReferences(OfAMovie):
    def test_are_inputs_of_every_movie_so_that_a_silent_server_makes_movies_wait(self):
        self.words("m.tif", "/server/a gain.mrc", "/server/dark.mrc", defectFile="/server/defects.txt")
        found = self.protocol.inputs_of(Task("m", ("/data/m.tif", FRAMES, "m"), 1))
        self.assertEqual(list(found), ["/data/m.tif", "/server/a gain.mrc", "/server/dark.mrc", "/server/defects.txt"])

    def test_of_super_resolution_have_a_bad_pixel_wherever_part_of_it_is_bad(self):
        gain = np.ones((48, 64), np.float32)
        gain[0, 0], gain[3, 4], gain[47, 63] = 0, np.nan, -1
        mrcfile.write("super.mrc", gain)
        made = References("extra", lambda line: None).image("-Gain", os.path.abspath("super.mrc"), 32, 24)
        with mrcfile.open(made) as found:
            self.assertEqual(np.argwhere(found.data != 1).tolist(), [[0, 0], [1, 2], [23, 31]])
            self.assertEqual(found.data.min(), 0)

    def test_that_are_dark_are_not_averaged_and_of_several_images_the_first_counts(self):
        mrcfile.write("dark.mrc", np.ones((48, 64), np.float32))
        mrcfile.write("gains.mrc", np.stack([np.full((24, 32), value, np.float32) for value in (1, 3)]))
        references = References("extra", lambda line: None)
        self.assertEqual(references.image("-Dark", os.path.abspath("dark.mrc"), 32, 24), os.path.abspath("dark.mrc"))
        with mrcfile.open(references.image("-Gain", os.path.abspath("gains.mrc"), 32, 24)) as found:
            self.assertEqual((found.data.shape, set(found.data.ravel().tolist())), ((24, 32), {1.0}))

    def test_that_nobody_gave_are_not_waited_for(self):
        self.words("m.tif")
        self.assertEqual(list(self.protocol.inputs_of(Task("m", ("/data/m.tif", FRAMES, "m"), 1))), ["/data/m.tif"])


class TestGainOfEer(OfAMovie):
    def gain(self, metadata: bytes) -> str:
        tifffile.imwrite("g.gain", np.ones((SIDE, SIDE), np.float32), photometric="minisblack",
                         extratags=[(65100, 7, len(metadata), metadata, True)])
        return os.path.abspath("g.gain")

    def test_names_defects_that_both_programs_get(self):
        gain = self.gain(b"<defects><point>3,4</point><area>1,2,5,6</area><col>7-8</col></defects>")
        for gpu in (True, False):
            words = self.words("m.eer", gain, gpu=gpu)
            self.assertEqual(pathlib.Path(self.value(words, "-DefectFile")[0]).read_text(), "3 4 1 1\n1 2 5 5\n7 0 2 4096\n")

    def test_that_is_damaged_ends_nothing(self):
        for name, data in (("cut.gain", b"II*\0"), ("none.gain", b""), ("odd.gain", None)):
            if data is None:
                os.replace(self.gain(b"<defects><col>7</col></defects>"), name)
            else:
                pathlib.Path(name).write_bytes(data)
            self.assertNotIn("-DefectFile", self.words("m.eer", os.path.abspath(name)))


class TestWrongResults(OfAMovie):
    """What MotionCor3 does wrong and exits with 0."""

    def align(self, movie: str, runner: StandIn, gain: str = "", name: str = "m", **form):
        self.words(movie, gain, **form)
        self.protocol._runner, self.protocol.outputs = runner, {"micrographs": None}
        return self.protocol.work(Task("m", (movie, FRAMES, name), 1))

    def given(self, runner: StandIn, flag: str) -> str:
        """The value that the program got with a flag in its last run."""
        return runner.words_given[runner.words_given.index(flag) + 1]

    def test_a_gain_that_is_not_of_32_bit_floats_is_converted_as_it_lies(self):
        gain = np.arange(1, 32 * 24 + 1).reshape(24, 32)
        mrcfile.write("ints.mrc", gain.astype(np.int16))
        tifffile.imwrite("of a camera.v2.TIF", gain[::-1].astype(np.float32))
        pathlib.Path("gatan.dm4").write_bytes(dm_file(gain.astype(np.float32), 4))
        for name in ("ints.mrc", "of a camera.v2.TIF", "gatan.dm4"):
            runner = StandIn((32, 24))
            self.align(write_mrc("m.mrc", 32, 24, 3), runner, os.path.abspath(name))
            given = self.given(runner, "-Gain")
            self.assertEqual(given, os.path.abspath(given))
            with mrcfile.open(given) as found:
                self.assertEqual((int(found.header.mode), found.data.tolist()), (2, gain.tolist()), name)
            self.assertEqual(self.given(runner, "-FlipGain"), "0")

    def test_a_gain_of_super_resolution_is_averaged_for_motioncor3_also_where_it_is_turned(self):
        gain = np.kron(np.arange(1, 32 * 24 + 1).reshape(24, 32), np.ones((2, 2)))
        gain[0, :2] += (0.5, -0.5)
        for turned, shape in ((gain, (24, 32)), (np.rot90(gain), (32, 24))):
            mrcfile.write("super.mrc", turned.astype(np.float32), overwrite=True)
            runner = StandIn((32, 24))
            self.align(write_mrc("m.mrc", 32, 24, 3), runner, os.path.abspath("super.mrc"))
            with mrcfile.open(self.given(runner, "-Gain")) as found:
                np.testing.assert_array_equal(found.data, turned.reshape(shape[0], 2, shape[1], 2).mean(axis=(1, 3)))

    def test_the_gain_that_the_program_can_read_is_given_as_it_is(self):
        runner, gain = StandIn((32, 24)), write_mrc("gain.mrc", 32, 24, 1)
        self.align(write_mrc("m.mrc", 32, 24, 3), runner, gain)
        self.assertEqual(self.given(runner, "-Gain"), gain)

    def test_a_gain_of_eer_that_is_damaged_fails_the_movie_before_the_run(self):
        pathlib.Path("g.gain").write_bytes(b"II*\0")
        pathlib.Path("m.eer").write_bytes(eer_file([eer_frame([(5, 1, 1)], (7, 2, 2))] * 2, 65001))
        runner = StandIn((SIDE, SIDE))
        with self.assertRaisesRegex(BadInput, "g.gain is not a readable TIFF"):
            self.align(os.path.abspath("m.eer"), runner, os.path.abspath("g.gain"))
        self.assertEqual(runner.targets, [])

    def test_a_gain_that_is_none_fails_the_movie_in_words(self):
        pathlib.Path("gain.dm4").write_bytes(b"no such file")
        with self.assertRaisesRegex(BadInput, "gain.dm4 is not a .dm3 or .dm4 file"):
            self.align(write_mrc("m.mrc", 32, 24, 3), StandIn((32, 24)), os.path.abspath("gain.dm4"))

    def test_the_defects_of_serialem_are_given_as_the_list_that_the_program_reads(self):
        pathlib.Path("defects 1.txt").write_text("CameraSizeX 32\nCameraSizeY 24\nBadColumns 3\nPartialBadRow 0 2 5 9\n")
        runner = StandIn((32, 24))
        self.align(write_mrc("m.mrc", 32, 24, 3), runner, defectFile=os.path.abspath("defects 1.txt"))
        self.assertEqual(pathlib.Path(self.given(runner, "-DefectFile")).read_text(), "3 0 1 24\n5 22 5 2\n")
        pathlib.Path("list of motioncor.txt").write_text("3 0 1 24\n")
        self.align(write_mrc("n.mrc", 32, 24, 3), runner, defectFile=os.path.abspath("list of motioncor.txt"))
        self.assertEqual(self.given(runner, "-DefectFile"), os.path.abspath("list of motioncor.txt"))

    def test_the_command_is_reported_once_for_movies_that_differ_in_their_names_alone(self):
        self.words("m.mrc")
        told: list[entries.Entry] = []
        protocol, protocol.report = self.protocol, lambda entry, warn=False: told.append(entry)
        protocol._runner, protocol.outputs, protocol._command = StandIn((32, 24)), {"micrographs": None}, ""
        for name in ("a b", "TS_1[0.0]"):
            task = Task(f"{name}.mrc", (write_mrc(f"{name}.mrc", 32, 24, 3), FRAMES, name), 1)
            protocol._report_command(task, protocol.work(task))
        self.assertEqual(len(told), 1, told)
        self.assertIn(f"{protocol.workplace.root}/{entries.OUTPUT}.mrc", told[0].command)

    def test_a_gain_that_is_gone_stops_the_run(self):
        movie, gain = write_mrc("m.mrc", 32, 24, 3), write_mrc("gain.mrc", 32, 24, 1)
        self.align(movie, StandIn((32, 24)), gain)
        os.remove(self.protocol._gain())
        with self.assertRaisesRegex(ProgramFailed, "there is no gain reference"):
            self.protocol.work(Task("m", (movie, FRAMES, "m"), 1))

    def test_a_gain_that_the_program_says_it_did_not_apply_fails_the_movie(self):
        words = "Error: gain size does not match frame size.\n        Unable to apply gain reference.\n"
        with self.assertRaisesRegex(ProgramFailed, "MotionCor3 did not apply the gain reference"):
            self.align(write_mrc("m.mrc", 32, 24, 3), StandIn((32, 24), words), write_mrc("gain.mrc", 20, 24, 1))

    def test_a_sum_of_another_size_than_the_form_asks_for_fails_the_movie(self):
        movie = write_mrc("m.mrc", 50, 24, 3)
        self.assertEqual(list(self.align(movie, StandIn((24, 12)), binFactor=2.0).files), ["micrographs"])
        with self.assertRaisesRegex(ProgramFailed, "micrographs of 50 x 24 px where 24 x 12 were expected"):
            self.align(movie, StandIn((50, 24)), binFactor=2.0)

    def test_eer_that_the_program_cannot_render_is_refused_in_words(self):
        cases = (65000, (8, 2, 2), 1, "scrambles at 2x"), (65002, (7, 1, 1), 2, "1/2 of a pixel")
        for compression, bits, choice, words in cases:
            movie = os.path.abspath(f"m{compression}.eer")
            pathlib.Path(movie).write_bytes(eer_file([eer_frame([(5, 1, 1)], bits)] * 2, compression, bits))
            with self.assertRaisesRegex(BadInput, words):
                self.align(movie, StandIn((16, 16)), eerSampling=choice)

    def test_names_in_which_the_program_would_cut_are_run_under_safe_ones(self):
        runner = StandIn((32, 24))
        result = self.align(write_mrc("a.st_1.mrc", 32, 24, 3), runner, name="a.st_1")
        self.assertNotIn(".st", runner.targets[0])
        self.assertEqual(os.path.basename(result.files["micrographs"]), "a.st_1_aligned_mic.mrc")


class TestNames(unittest.TestCase):
    def test_movies_that_differ_in_their_extension_alone_have_micrographs_of_their_own(self):
        names = UniqueNames()
        self.assertEqual([names.of(movie) for movie in ("x.mrc", "x.tif", "x_tif.mrc", "x.mrc")],
                         ["x", "x_tif", "x_tif_mrc", "x"])


if __name__ == "__main__":
    unittest.main()
