# SPDX-License-Identifier: GPL-3.0-or-later
"""What the AreTomo protocol gives to its program and how it reads its files, without running either."""

from __future__ import annotations

import math
import os
import tempfile
import unittest
from types import SimpleNamespace

import mrcfile
import numpy as np
from pyworkflow.config import Config

Config.getDomain().getProtocols()       # the plugins below ours can be imported only once Scipion knows them

from pyworkflow.object import Boolean, Pointer  # noqa: E402
from tomo.objects import SetOfCTFTomoSeries, TiltSeries, TomoAcquisition  # noqa: E402

from tomostream.constants import ENGINE_ARETOMO3, ENGINE_CPU, ENGINE_GPU  # noqa: E402
from tomostream.programs.aln import (  # noqa: E402
    AlnFile,
    AlnRow,
    DarkFrame,
    LocalShift,
    format_aln,
    parse_aln,
    parse_angle_file,
)
from tomostream.programs.ctf import CtfRow, format_ctf  # noqa: E402
from tomostream.programs.quality import GoldQuality, Quality, format_quality  # noqa: E402
from tomostream.programs.words import parse_flags  # noqa: E402
from tomostream.protocols import aretomo_form  # noqa: E402
from tomostream.protocols.aretomo_run import AretomoRun  # noqa: E402
from tomostream.protocols.aretomo_series import Result, Settings, Source, SourceTilt  # noqa: E402
from tomostream.protocols.objects import point_at, prior_doses  # noqa: E402
from tomostream.protocols.protocol_aretomo import ProtTomoStreamAreTomo  # noqa: E402
from tomostream.streaming.work import BadInput, ProgramFailed  # noqa: E402

#: Sections of a stack in the order of acquisition; the third was taken out by hand.
ANGLES = (0.0, 3.0, -3.0, -6.0, 6.0)
ENABLED = (True, True, False, True, True)
BY_ANGLE = (3, 0, 1, 4)         # sections (from 0) of the enabled tilts, from the lowest angle to the highest


def source(stack: str = "", **values) -> Source:
    tilts = tuple(SourceTilt(number, angle, number, 3.0 * (number - 1), enabled, (1, 0, 0, 1, float(number), 0))
                  for number, (angle, enabled) in enumerate(zip(ANGLES, ENABLED, strict=True), start=1))
    return Source(**{"series_id": "TS_1", "stack": stack, "even": "", "odd": "", "size": (8, 8), "pixel_size": 2.0,
                     "tilt_axis": 85.0, "tilts": tilts, "dose": 3.0, **values})


class Program:
    """A program that is not run: its arguments are kept, and `writes(flags)` makes its files."""

    def __init__(self, name: str = "AreTomo2", gpu: bool = True, writes=lambda flags: None) -> None:
        self.name, self.command, self.gpu, self.threads, self.said, self.writes = name, name, gpu, 1, [], writes

    def run(self, arguments: str, log: str) -> str:
        self.said.append(parse_flags(arguments))
        self.writes(self.said[-1])
        return ""

    def keep_log(self, log: str, name: str) -> None:
        """Nothing was logged."""


def run_of(series: Source, folder: str, program: Program | None = None, cpu: Program | None = None, **settings) -> AretomoRun:
    made = Settings(**{"tomogram": False, **settings})
    return AretomoRun(series, made, folder, program or Program(), cpu or Program("tomostream-aretomo", gpu=False))


class InFolder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)


class TestTheDosesBeforeTilts(unittest.TestCase):
    def test_are_those_of_the_input(self) -> None:
        self.assertEqual(prior_doses([6.0, 0.0, 12.0], [12.0, 6.0, 18.0], [2, 1, 3]), [6.0, 0.0, 12.0])
        self.assertEqual(prior_doses([6.0, None], [12.0, None], [2, 1]), [6.0, None])

    def test_are_those_accumulated_after_the_tilts_before_where_the_input_contradicts_itself_as_upstreams_compose(self) -> None:
        self.assertEqual(prior_doses([6.0, 6.0, 6.0, 9.0], [12.0, 6.0, 18.0, 24.0], [2, 1, 3, 4]), [6.0, 0.0, 12.0, 18.0])
        self.assertEqual(prior_doses([0.0, 0.0], [0.0, 0.0], [1, 2]), [0.0, 0.0])
        self.assertEqual(prior_doses([6.0, 6.0], [6.0, None], [1, 2]), [6.0, 6.0])


class TestInputs(InFolder):
    """AreTomo2 takes an alignment file as being in the order of the stack: so the stack has to be in the order of angles."""

    def write(self, **values) -> np.ndarray:
        with mrcfile.new(self.path("in.mrcs")) as stack:
            stack.set_data(np.arange(5, dtype=np.float32)[:, None, None] * np.ones((5, 8, 8), np.float32))
        run_of(source(self.path("in.mrcs")), self.folder, **values).write_inputs()
        with mrcfile.open(self.path("TS_1.mrcs"), permissive=True) as given:
            return given.data[:, 0, 0].astype(int)

    def test_images_angles_orders_and_doses_come_by_angle_and_belong_together(self):
        sections = self.write()
        self.assertEqual(tuple(sections), BY_ANGLE)
        with open(self.path("TS_1_angles.txt"), encoding="utf-8") as file:
            rows = parse_angle_file(file.read())[0]
        self.assertEqual([row.tilt_deg for row in rows], [ANGLES[section] for section in BY_ANGLE])
        self.assertEqual([row.pre_exposure for row in rows], [3.0 * section for section in BY_ANGLE])
        self.assertEqual([row.order for row in rows], [section + 1 for section in BY_ANGLE])

    def test_a_given_alignment_names_the_sections_of_the_stack_that_is_given_with_it(self):
        self.write(skip_align=True)
        with open(self.path("TS_1.aln"), encoding="utf-8") as file:
            aln = parse_aln(file.read())
        self.assertEqual([row.section for row in aln.rows], [0, 1, 2, 3])
        self.assertEqual([row.tilt_deg for row in aln.rows], [ANGLES[section] for section in BY_ANGLE])
        self.assertEqual([row.tx for row in aln.rows], [-(section + 1.0) for section in BY_ANGLE])

    def test_halves_of_a_series_without_even_and_odd_images_are_refused_with_what_to_do(self):
        with mrcfile.new(self.path("in.mrcs")) as stack:
            stack.set_data(np.ones((5, 8, 8), np.float32))
        with self.assertRaisesRegex(BadInput, "no even and odd images; switch them on"):
            run_of(source(self.path("in.mrcs")), self.folder, halves=True, tomogram=True).check_input()

    def test_without_the_dose_of_a_tilt_there_is_no_dose_weighting(self):
        with mrcfile.new(self.path("in.mrcs")) as stack:
            stack.set_data(np.ones((5, 8, 8), np.float32))
        with self.assertRaisesRegex(BadInput, "does not give the dose"):
            run_of(source(self.path("in.mrcs"), dose=None), self.folder, weight_by_dose=True).check_input()


class TestVolume(InFolder):
    def check(self, shape: tuple[int, int, int]) -> None:
        """Check a volume of `shape` (z, y, x of the file) of a series of 64 x 96 px, 40 px thick, binned twice."""
        with mrcfile.new(self.path("v.mrc"), overwrite=True) as volume:
            volume.set_data(np.ones(shape, np.float32))
        series = source(size=(64, 96), tilt_axis=2.0)
        program = Program()
        run_of(series, self.folder, program, thickness=40, binning=2, flip=True).check_volume(self.path("v.mrc"), "", "", program)

    def test_a_volume_of_another_size_than_asked_for_is_a_failure_of_the_program(self):
        self.check((20, 48, 32))
        for shape in ((20, 48, 48), (20, 24, 32), (40, 48, 32)):
            with self.assertRaisesRegex(ProgramFailed, "where 32 x 48 x 20 was expected"):
                self.check(shape)


class TestTheCtfsOfARunThatIsContinued(unittest.TestCase):
    def test_keep_the_number_of_their_pointer_in_the_database(self):
        """With that of the input's pointer nothing of the protocol could be stored, and it died at its end."""
        items, pointer = SetOfCTFTomoSeries(filename=":memory:"), Pointer()
        items.getSetOfTiltSeries(pointer=True).setObjId(394)
        pointer.setObjId(7)
        pointer.set(TiltSeries(tsId="TS_1"))
        pointer.setExtended("tiltSeries")
        point_at(items, pointer)
        kept = items.getSetOfTiltSeries(pointer=True)
        self.assertEqual((kept.getObjId(), kept.getObjValue(), kept.getExtended()), (394, pointer.getObjValue(), "tiltSeries"))


class TestBinning(InFolder):
    """Where nobody chooses one, voxels are about 10 A: a camera of 4096 x 5760 px at 1.35 A makes 0.4 GB, not 18."""

    def command(self, pixel_size: float, **values: int) -> tuple[list[str], list[str]]:
        protocol, said = ProtTomoStreamAreTomo(), []
        protocol.setWorkingDir(self.folder)
        protocol.report = lambda entry: said.append(entry.reason)
        for name, value in values.items():
            getattr(protocol, name).set(value)
        series = TiltSeries(tsId="TS_1")
        series.setSamplingRate(pixel_size)
        series.setAcquisition(TomoAcquisition(voltage=300.0, sphericalAberration=2.7, amplitudeContrast=0.1, tiltAxisAngle=85.0))
        for even in (None, True):
            flags = parse_flags(protocol._genAretomoCmd(series, "IN", "TS_1", even=even))
        self.assertEqual(protocol.binFactor.get(), values.get("binFactor", 0))      # the form stays as it is
        return flags["-OutBin"], said

    def test_is_chosen_from_the_pixel_size_and_reported_once(self):
        self.assertEqual(self.command(2.6), (["4"], ["binning 4, chosen from the pixel size: voxels of 10.4 A"]))
        self.assertEqual([self.command(pixel)[0] for pixel in (1.35, 3.4, 5.4, 8.0, 15.0)], [["7"], ["3"], ["2"], ["1"], ["1"]])
        self.assertEqual(self.command(2.6, binFactor=2), (["2"], []))

    def test_leaves_aretomo2_the_slices_without_which_it_makes_no_volume_and_says_why(self):
        thin = {"tomoThickness": 64, "alignZ": 40}
        self.assertEqual(self.command(2.6, **thin, engine=ENGINE_GPU),
                         (["3"], ["binning 3, chosen from the pixel size: voxels of 7.8 A, not 10.4 A, because AreTomo2 makes no "
                                  "volume of 16 slices or fewer and 64 px would be 16"]))
        self.assertEqual(self.command(2.6, **thin, engine=ENGINE_CPU)[0], ["4"])
        self.assertEqual(self.command(1.35, tomoThickness=18, alignZ=18, engine=ENGINE_GPU)[0], ["1"])

    def test_that_aretomo3_makes_thicker_tomograms_with_is_reported(self):
        binning, said = self.command(2.6, tomoThickness=240, alignZ=200, engine=ENGINE_ARETOMO3)
        self.assertEqual((binning, said[0].partition("; ")[2]),
                         (["4"], "AreTomo3 makes at least 100 slices: the tomograms will be 400 unbinned voxels thick, not 240"))
        self.assertNotIn(";", self.command(2.6, tomoThickness=1200, alignZ=600, engine=ENGINE_ARETOMO3)[1][0])

    def test_that_leaves_enough_slices_is_that_of_the_volume_that_is_expected(self):
        thin = run_of(source(pixel_size=2.6, size=(64, 96)), self.folder, thickness=64, binning=0, min_slices=17)
        self.assertEqual(thin.volume_sizes()[0][2], 20)

    def test_is_that_of_the_volume_that_is_expected(self):
        sizes = [run_of(source(pixel_size=2.6, size=(64, 96)), self.folder, thickness=40, binning=binning).volume_sizes()
                 for binning in (0, 4)]
        self.assertEqual(sizes[0], sizes[1])


class TestAKnownTilt(InFolder):
    """The form asks for the stage angle at which the specimen is flat; the programs for what is added to the tilt angles."""

    def tilt_cor(self, **values: object) -> list[str]:
        protocol = ProtTomoStreamAreTomo()
        protocol.setWorkingDir(self.folder)
        protocol.perTsAlignZ, protocol._reported_binning = {}, 2.0
        for name, value in values.items():
            getattr(protocol, name).set(value)
        series = TiltSeries(tsId="TS_1")
        series.setSamplingRate(2.0)
        series.setAcquisition(TomoAcquisition(voltage=300.0, sphericalAberration=2.7, amplitudeContrast=0.1, tiltAxisAngle=85.0))
        return [str(word) for word in parse_flags(protocol.command_of(series))["-TiltCor"]]

    def test_is_given_with_the_other_sign_and_only_where_it_is_used(self):
        self.assertEqual(self.tilt_cor(engine=ENGINE_CPU), ["0"])
        self.assertEqual(self.tilt_cor(engine=ENGINE_CPU, flatAngle=-10.0), ["0", "10"])
        self.assertEqual(self.tilt_cor(engine=ENGINE_GPU, flatAngle=9.5, refineTiltAngles=2), ["1", "-9.5"])
        self.assertEqual(self.tilt_cor(engine=ENGINE_CPU, flatAngle=-10.0, refineTiltAngles=0), ["-1"])
        self.assertEqual(self.tilt_cor(engine=ENGINE_ARETOMO3, flatAngle=-10.0, refineTiltAngles=2), ["1"])

    def test_of_more_than_60_degrees_is_refused(self):
        protocol = ProtTomoStreamAreTomo()
        protocol.flatAngle.set(-61.0)
        self.assertTrue(any("flat" in problem and "60" in problem for problem in aretomo_form.problems(protocol)))


class TestCommands(InFolder):
    def flags(self, command: str, suffix: str = "", program: Program | None = None, **settings) -> dict[str, list[str]]:
        program = program or Program()
        series = source(**{name: settings.pop(name) for name in ("tilt_axis",) if name in settings})
        run_of(series, self.folder, program, **settings).run_program(program, command, suffix)
        return program.said[0]

    def test_halves_are_weighted_by_dose_as_the_whole_is(self):
        half = self.flags("-InMrc x -OutMrc y -Align 0 -AlnFile z -ImgDose 3.0 -TiltAxis 85 0", "_even")
        self.assertEqual(half["-AngFile"], [self.path("TS_1_angles.txt")])
        self.assertEqual(half["-AlnFile"], [self.path("TS_1.aln")])
        self.assertEqual(half["-InMrc"], [self.path("TS_1_even.mrcs")])
        self.assertNotIn("-TiltAxis", half)

    def test_halves_without_dose_weighting_need_no_angles(self):
        self.assertNotIn("-AngFile", self.flags("-InMrc x -OutMrc y -Align 0 -AlnFile z", "_odd"))


    def test_an_axis_of_zero_is_given_as_nearly_zero_because_zero_asks_for_a_search(self):
        command = "-InMrc x -OutMrc y -AngFile z -TiltAxis 0.0 0"
        self.assertEqual(self.flags(command, tilt_axis=0.0)["-TiltAxis"], ["0.01", "0"])
        self.assertEqual(self.flags(command, tilt_axis=None)["-TiltAxis"], ["0", "0"])
        self.assertEqual(self.flags(command, tilt_axis=84.7)["-TiltAxis"], ["84.7", "0"])

    def test_the_range_of_phase_shifts_is_given_as_its_middle_and_its_whole_width(self):
        found = self.flags("-InMrc x -OutMrc y -AngFile z -TiltAxis 85 0 -ExtPhase 60 120")
        self.assertEqual(found["-ExtPhase"], ["90", "60"])

    def test_aretomo2_is_never_asked_for_imod_files_and_the_cpu_program_is_for_the_whole_series(self):
        command = "-InMrc x -OutMrc y -AngFile z -TiltAxis 85 0 -OutImod 2"
        self.assertNotIn("-OutImod", self.flags(command, imod=2))
        cpu = Program("tomostream-aretomo", gpu=False)
        self.assertEqual(self.flags(command, program=cpu, imod=1)["-OutImod"], ["1"])
        half = Program("tomostream-aretomo", gpu=False)
        self.assertNotIn("-OutImod", self.flags(command, "_even", half, imod=1))


class TestWhatAretomo2CannotDo(InFolder):
    """The CPU program does it, from AreTomo2's alignment file."""

    def run_series(self, local: bool, gpu: bool = True, lost: str = "-", **settings) -> tuple[Result, Program, Program]:
        for name in ("in", "even", "odd"):
            with mrcfile.new(self.path(f"{name}.mrcs")) as stack:
                stack.set_data(np.ones((5, 8, 8), np.float32))

        def align(flags):
            if "-AngFile" in flags and "-AlnFile" not in flags:
                rows = tuple(AlnRow(section, 85.0, 0.0, 0.0, ANGLES[BY_ANGLE[section]]) for section in range(4))
                shifts = tuple(LocalShift(row, 0, 0.0, 0.0, 1.0, 1.0, 1.0) for row in range(4))
                with open(self.path("TS_1.aln"), "w", encoding="utf-8") as file:
                    file.write(format_aln(AlnFile(rows, raw_size=(8, 8, 4), patches=1, local=shifts if local else ())))
            volume(flags)

        def volume(flags):
            whole = flags["-OutMrc"][0]
            halves = ["_even", "_odd"] if "-InEven" in flags else []
            halves += ["_wiener"] if "-Wiener" in flags else []
            for name in (whole.replace(".mrc", f"{part}.mrc") for part in ["", *halves] if part != lost):
                with mrcfile.new(name, overwrite=True) as out:
                    out.set_data(np.full((8, 8, 8), 7.0 if "-EraseGold" in flags else 0.0, np.float32))
            if "-EraseGold" in flags:
                with open(self.path("TS_1_quality.json"), "w", encoding="utf-8") as file:
                    file.write(format_quality(Quality(gold=GoldQuality(4, 100.0, 0.4))))
            if "-OutImod" in flags:
                os.makedirs(self.path("TS_1_Imod"))
                with open(self.path("TS_1_Imod/TS_1_st.xf"), "w", encoding="utf-8"):
                    pass

        program = Program("AreTomo2" if gpu else "tomostream-aretomo", gpu, align)
        cpu = Program("tomostream-aretomo", gpu=False, writes=volume)
        series = source(self.path("in.mrcs"), even=self.path("even.mrcs"), odd=self.path("odd.mrcs"),
                        command="-InMrc x -OutMrc y -AngFile z -TiltAxis 85 0 -VolZ 8",
                        half_command="-InMrc x -OutMrc y -AlnFile z -VolZ 8 -TiltAxis 85 0")
        settings = {"tomogram": True, "halves": True, "thickness": 8, **settings}
        return run_of(series, self.folder, program, cpu, **settings).run(), program, cpu

    def test_halves_of_a_locally_aligned_series_are_made_by_the_cpu_program_and_this_is_reported(self):
        result, aretomo2, cpu = self.run_series(local=True)
        self.assertEqual(len(aretomo2.said), 1)
        self.assertEqual([[flags[name] for name in ("-InMrc", "-InEven", "-InOdd", "-AlnFile")] for flags in cpu.said],
                         [[[self.path(f"TS_1{name}")] for name in (".mrcs", "_even.mrcs", "_odd.mrcs", ".aln")]])
        self.assertIn("halves by tomostream-aretomo", result.notes[0])
        self.assertEqual(self.made(), ["TS_1.mrc", "TS_1_even.mrc", "TS_1_odd.mrc"])

    def test_halves_without_local_shifts_are_made_by_aretomo2(self):
        result, aretomo2, cpu = self.run_series(local=False)
        self.assertEqual((len(aretomo2.said), len(cpu.said), result.notes), (3, 0, ()))

    def test_the_cpu_program_makes_halves_in_the_run_that_makes_the_whole(self):
        _, program, cpu = self.run_series(local=True, gpu=False)
        self.assertEqual((len(program.said), len(cpu.said)), (1, 0))
        self.assertEqual([program.said[0][name] for name in ("-InEven", "-InOdd")],
                         [[self.path(f"TS_1{name}")] for name in ("_even.mrcs", "_odd.mrcs")])

    def test_halves_that_are_missing_are_a_failure(self):
        with self.assertRaisesRegex(ProgramFailed, "made no tomogram"):
            self.run_series(local=True, gpu=False, lost="_odd")

    def made(self) -> list[str]:
        return [name for name in sorted(os.listdir(self.folder)) if name.startswith("TS_1") and name.endswith(".mrc")]

    def test_the_filtered_tomogram_is_made_by_the_cpu_program_from_the_alignment_of_whatever_program(self):
        result, aretomo2, cpu = self.run_series(local=False, halves=False, filtered=True)
        self.assertEqual((len(aretomo2.said), len(cpu.said), result.filtered, result.notes), (1, 1, True, ()))
        self.assertNotIn("-Wiener", aretomo2.said[0])
        given = [cpu.said[0][name] for name in ("-AlnFile", "-Wiener", "-VolZ")]
        self.assertEqual(given, [[self.path("TS_1.aln")], ["1"], ["8"]])
        self.assertEqual(self.made(), ["TS_1.mrc", "TS_1_wiener.mrc"])

    def test_halves_of_a_locally_aligned_series_and_its_filtered_tomogram_come_from_one_run(self):
        result, _, cpu = self.run_series(local=True, filtered=True)
        self.assertEqual((len(cpu.said), result.filtered), (1, True))
        self.assertEqual(self.made(), ["TS_1.mrc", "TS_1_even.mrc", "TS_1_odd.mrc", "TS_1_wiener.mrc"])

    def test_the_cpu_program_makes_the_filtered_tomogram_with_the_whole(self):
        result, program, cpu = self.run_series(local=True, gpu=False, filtered=True)
        self.assertEqual((program.said[0]["-Wiener"], len(cpu.said), result.filtered), (["1"], 0, True))

    def test_gold_is_erased_by_the_cpu_program_which_makes_all_tomograms_then_from_the_alignment_of_whatever_program(self):
        result, aretomo2, cpu = self.run_series(local=False, filtered=True, gold="auto")
        self.assertEqual((len(aretomo2.said), len(cpu.said), result.filtered), (1, 1, True))
        self.assertNotIn("-EraseGold", aretomo2.said[0])
        given = [*cpu.said[0]["-InMrc"], *cpu.said[0]["-InEven"], *cpu.said[0]["-AlnFile"]]
        self.assertEqual(given, [self.path(name) for name in ("TS_1.mrcs", "TS_1_even.mrcs", "TS_1.aln")])
        self.assertEqual([cpu.said[0][name] for name in ("-EraseGold", "-Wiener")], [["auto"], ["1"]])
        self.assertEqual(self.made(), ["TS_1.mrc", "TS_1_even.mrc", "TS_1_odd.mrc", "TS_1_wiener.mrc"])
        with mrcfile.open(self.path("TS_1.mrc"), permissive=True) as whole:
            self.assertEqual(whole.data.max(), 7.0)         # the CPU program's
        self.assertEqual(result.quality.gold.words, "4 gold beads of 10.0 nm erased")
        self.assertIn("which erases gold", result.notes[0])

    def test_the_cpu_program_erases_gold_in_its_one_run(self):
        _, program, cpu = self.run_series(local=True, gpu=False, gold="12.5")
        self.assertEqual((program.said[0]["-EraseGold"], len(program.said), len(cpu.said)), (["12.5"], 1, 0))

    def test_without_a_filtered_tomogram_the_series_is_done_all_the_same_and_this_is_reported(self):
        result, _, _ = self.run_series(local=False, halves=False, filtered=True, lost="_wiener")
        self.assertFalse(result.filtered)
        self.assertEqual(result.notes, ("no filtered tomogram: tomostream-aretomo made none",))
        self.assertEqual(self.made(), ["TS_1.mrc"])

    def test_imod_files_come_from_the_alignment_file(self):
        result, _, cpu = self.run_series(local=False, halves=False, imod=3)
        self.assertEqual((cpu.said[0]["-AlnFile"], cpu.said[0]["-OutImod"]), ([self.path("TS_1.aln")], ["3"]))
        self.assertIn("-OutImod 3", result.commands[-1])
        self.assertFalse(os.path.exists(self.path("TS_1_imod_stack.mrc")))


class TestResults(InFolder):
    """AreTomo2 -OutImod 1 fits the CTF before it takes out dark tilts: the file then has rows of dark tilts, too."""

    def read(self, ctf_rows: int) -> Result:
        rows = tuple(AlnRow(section, 85.0, 0.0, 0.0, ANGLES[BY_ANGLE[section]]) for section in (0, 2, 3))
        aln = AlnFile(rows, (DarkFrame(1, 1, 0.0),), (8, 8, 4))
        ctf = [CtfRow(n + 1, 30000.0 + n, 29000.0, 0.0, 0.0, 0.5, 8.0) for n in range(ctf_rows)]
        for name, text in (("TS_1.aln", format_aln(aln)), ("TS_1_ctf.txt", format_ctf(ctf))):
            with open(self.path(name), "w", encoding="utf-8") as file:
                file.write(text)
        return run_of(source(), self.folder).read_results()

    def test_alignment_and_reasons_are_of_the_images_of_the_input(self):
        result = self.read(3)
        self.assertEqual({index: row.tilt_deg for index, row in result.rows.items()}, {4: -6.0, 2: 3.0, 5: 6.0})
        self.assertEqual(list(result.reasons), [1])

    def test_each_defocus_belongs_to_its_tilt_whether_dark_tilts_have_rows_or_not(self):
        self.assertEqual(self.read(3).ctf_order, (4, 2, 5))
        self.assertEqual(self.read(4).ctf_order, (4, 1, 2, 5))

    def test_a_ctf_file_that_does_not_fit_is_left_aside(self):
        self.assertEqual((self.read(2).ctf, self.read(2).ctf_order), ((), ()))

    def registered_ctf(self, **values) -> list:
        result, put = self.read(4), []
        made = SimpleNamespace(**{name: Boolean(value) for name, value in values.items()})
        made.outputs = {"CTFTomoSeries": SimpleNamespace(put=lambda *given, children: put.extend(children))}
        made._defoci = SimpleNamespace(doubted=lambda name: frozenset())
        task = SimpleNamespace(key="TS_1", version=1)
        shifted = tuple(CtfRow(**{**row.__dict__, "phase_rad": math.pi / 2}) for row in result.ctf)
        ProtTomoStreamAreTomo._register_ctf(made, task, source(), Result(**{**result.__dict__, "ctf": shifted}))
        return put

    def test_tilts_that_could_not_be_aligned_have_no_ctf(self):
        found = [ctf.getDefocusU() for ctf in self.registered_ctf(doPhaseShiftSearch=False)]
        self.assertEqual([found[1], found[3], found[4]], [30002.0, 30000.0, 30003.0])
        self.assertTrue(found[0] < 0 and found[2] < 0, found)

    def test_the_phase_shift_that_was_searched_is_registered_in_degrees(self):
        found = [ctf.getPhaseShift() for ctf in self.registered_ctf(doPhaseShiftSearch=True)]
        self.assertEqual(found, [0.0, 90.0, 0.0, 90.0, 90.0])
        self.assertFalse(self.registered_ctf(doPhaseShiftSearch=False)[1].hasPhaseShift())


if __name__ == "__main__":
    unittest.main()


class TestWhatSeriesTellOfThemselves(unittest.TestCase):
    """The angles, the axis and the verdict that the outputs carry."""

    def setUp(self):
        from tomo.objects import TiltImage, TiltSeries, TomoAcquisition

        from tomostream.protocols.objects import Original

        images = []
        for index, angle in enumerate((-12.0, -9.0, -6.0, 0.0, 3.0), start=1):
            image = TiltImage()
            image.setLocation(index, "TS_1.mrcs")
            image.setTiltAngle(angle)
            image.setAcquisition(TomoAcquisition(tiltAxisAngle=85.0))
            images.append(image)
        series = TiltSeries(tsId="TS_1")
        series.setAcquisition(TomoAcquisition(tiltAxisAngle=85.0, angleMin=-12.0, angleMax=3.0))
        self.original = Original(series, images)
        #: The first tilt takes no part; the alignment moved all angles by 3 degrees.
        self.rows = {index: AlnRow(index - 1, 84.0, 1.0, 2.0, angle + 3.0)
                     for index, angle in ((2, -9.0), (3, -6.0), (4, 0.0), (5, 3.0))}

    def test_a_disabled_tilt_has_the_tilt_offset_of_all_others(self):
        from tomostream.protocols import objects

        images = objects.aligned_series(self.original, self.rows, {2: 1.5})
        self.assertEqual([image.getTiltAngle() for image in images], [-9.0, -6.0, -3.0, 3.0, 6.0])
        self.assertEqual([image.isEnabled() for image in images], [False, True, True, True, True])
        self.assertEqual([image._alignmentSigma.get() for image in images], [None, 1.5, None, None, None])

    def test_the_range_of_angles_follows_the_tilt_offset(self):
        from tomostream.protocols import objects

        acquisition = objects.aligned_acquisition(self.original, self.rows)
        self.assertEqual((acquisition.getAngleMin(), acquisition.getAngleMax()), (-9.0, 6.0))
        self.assertEqual(acquisition.getTiltAxisAngle(), 84.0)

    def test_a_series_says_whether_it_is_to_be_trusted_and_the_hand_for_relion(self):
        from tomostream.programs.quality import Quality, TiltQuality, Trust
        from tomostream.protocols import objects

        tilts = tuple(TiltQuality(section, 0.0, True, sigma_px=sigma) for section, sigma in enumerate((1.0, 2.0, 6.0)))
        quality = Quality(tilts, quality_note="do not trust: only 3 tilts are used", trust=Trust.DOUBTFUL, defocus_hand=1)
        template = objects.aligned_template()
        objects.add_verdict(template, objects.Verdict.of(quality, 2.0))
        self.assertEqual((template._tomostreamTrusted.get(), template._relionHand.get(), template._alignmentSigma.get()),
                         (False, -1, 4.0))
        self.assertEqual(template._tomostreamNote.get(), "do not trust: only 3 tilts are used")
        objects.add_verdict(template, objects.Verdict.of(None, 2.0))
        self.assertEqual((template._tomostreamTrusted.get(), template._relionHand.get()), (None, None))
