# SPDX-License-Identifier: GPL-3.0-or-later
"""AreTomo3 as an engine: its command line, its files, and a session in which a stand-in does the work as its source says."""

from __future__ import annotations

import os
import shlex
import tempfile
import unittest
from itertools import pairwise
from unittest import mock

import mrcfile
import numpy as np
import pytest
from pyworkflow.config import Config

Config.getDomain().getProtocols()       # the plugins below ours can be imported only once Scipion knows them

from tomostream.handoff.conventions import relion_hand  # noqa: E402
from tomostream.journal import entries  # noqa: E402
from tomostream.journal.status import ARETOMO  # noqa: E402
from tomostream.programs import aretomo3  # noqa: E402
from tomostream.programs.aln import AlnFile, AlnRow, AngleRow, format_aln, parse_aln  # noqa: E402
from tomostream.programs.ctf import CtfRow  # noqa: E402
from tomostream.programs.words import parse_flags  # noqa: E402
from tomostream.protocols.aretomo3_run import Aretomo3Run  # noqa: E402
from tomostream.protocols.aretomo_run import take_over  # noqa: E402
from tomostream.protocols.aretomo_series import Result, Settings, Source, SourceTilt  # noqa: E402
from tomostream.streaming.work import BadInput, ProgramFailed  # noqa: E402
from tomostream.tests import standins  # noqa: E402
from tomostream.tests.support import Session  # noqa: E402

#: The command that upstream's form makes for AreTomo2.
COMMAND = ("-InMrc IN -OutMrc OUT -OutImod 0 -Align 1 -VolZ 240 -OutBin 2 -FlipInt 0 -FlipVol 1 -PixSize 2.0 -Kv 300.0 "
           "-DarkTol 0.7 -AmpContrast 0.1 -Gpu %(GPU)s -ImgDose 3.0 -AngFile IN.tlt -AlignZ 200 -Sart 15 5 -Cs 2.7 "
           "-ExtPhase 60 120 -TiltAxis 85.0 0 -TiltCor 0 -Patch 4 5 -Roi 5 5")
#: By the order of acquisition; the fourth was taken out by hand.
ANGLES = (0.0, 3.0, -3.0, -6.0, 6.0, 9.0, -9.0, 12.0, -12.0)
BY_ANGLE = (9, 7, 3, 1, 2, 5, 6, 8)         # index (from 1) of the images that are given to the program


class TestArguments(unittest.TestCase):
    def flags(self, command: str = COMMAND, **wanted) -> dict[str, list[str]]:
        return aretomo3.arguments(parse_flags(command), "f/TS_1.mrc", "out", aretomo3.Wanted(**wanted))

    def test_are_the_program_s_own_for_what_upstream_s_form_asks_of_aretomo2(self):
        self.assertEqual(self.flags(), {
            "-InPrefix": ["f/TS_1.mrc"], "-OutDir": ["out/"], "-Cmd": ["1"], "-Serial": ["0"], "-VolZ": ["240"], "-AtBin": ["2"],
            "-FlipInt": ["0"], "-FlipVol": ["1"], "-PixSize": ["2.0"], "-kV": ["300.0"], "-DarkTol": ["0.7"],
            "-AmpContrast": ["0.1"], "-Gpu": ["%(GPU)s"], "-AlignZ": ["200"], "-Sart": ["15", "5"], "-Cs": ["2.7"],
            "-ExtPhase": ["60", "120"], "-TiltAxis": ["85.0", "0"], "-TiltCor": ["0"], "-AtPatch": ["4", "5"], "-SplitSum": ["0"],
            "-CorrCTF": ["1"]})

    def test_switch_the_tilt_offset_off_with_0_because_any_other_number_is_on(self):
        for given, sent in (("-1", ["0"]), ("0", ["0"]), ("1", ["1"]), ("1 3.5", ["1", "3.5"])):
            self.assertEqual(self.flags(f"-TiltCor {given}")["-TiltCor"], sent)

    def test_ask_for_no_offset_where_there_is_no_ctf_from_which_to_measure_it(self):
        self.assertEqual(self.flags("-TiltCor 1", ctf=False)["-TiltCor"], ["0"])
        self.assertEqual(self.flags("-TiltCor 1 3.5", ctf=False)["-TiltCor"], ["1", "3.5"])

    def test_switch_the_ctf_off_in_words_because_its_default_is_on(self):
        self.assertEqual(self.flags("-Kv 300", ctf=False)["-Cs"], ["0"])
        self.assertEqual([self.flags(**wanted)["-CorrCTF"] for wanted in ({}, {"correct_ctf": False}, {"ctf": False})],
                         [["1"], ["0"], ["0"]])

    def test_leave_no_tilt_out_at_a_dark_tolerance_of_1(self):
        self.assertEqual([self.flags(f"-DarkTol {value}")["-DarkTol"] for value in ("1", "1.0", "0", "0.5")],
                         [["0"], ["0"], ["0"], ["0.5"]])

    def test_make_the_cheapest_volume_where_none_is_wanted(self):
        found = self.flags(volume=False)
        self.assertEqual([found[name] for name in ("-AtBin", "-VolZ", "-Wbp")], [["8"], ["0"], ["1"]])

    def test_ask_for_no_local_alignment_with_fewer_patches_than_it_needs(self):
        self.assertNotIn("-AtPatch", self.flags("-Patch 3 1"))
        self.assertEqual(self.flags("-Patch 2 2")["-AtPatch"], ["2", "2"])

    def test_reconstruct_from_the_alignment_beside_the_stack(self):
        found = self.flags(align=False)
        self.assertEqual((found["-Cmd"], found["-Cs"], found["-CorrCTF"]), (["2"], ["0"], ["0"]))

    def test_keep_what_people_add(self):
        self.assertEqual(self.flags(f"{COMMAND} -ReconRange -50 50")["-ReconRange"], ["-50", "50"])


class TestFiles(unittest.TestCase):
    def test_paths_are_counted_as_the_program_completes_them(self):
        self.assertEqual(aretomo3.name_problem("in/TS_1.mrc", "out"), "")
        self.assertIn("at most 250 bytes", aretomo3.name_problem("/a/TS_1.mrc", "/" + "o" * 240))
        self.assertIn("at most 250 bytes", aretomo3.name_problem(f"/{'ö' * 120}/TS_1.mrc", "/out"))
        with mock.patch("os.getcwd", return_value="/" + "d" * 200):
            self.assertIn("at most 250 bytes", aretomo3.name_problem("in/TS_1.mrc", "o" * 60))

    def test_angles_orders_and_doses_of_the_images_themselves(self):
        rows = [AngleRow(-3.0, 2), AngleRow(0.0, 1)]
        self.assertEqual(aretomo3.format_tilts(rows, 3.25), "   -3.00     2      3.25\n    0.00     1      3.25\n")
        self.assertEqual(aretomo3.format_tilts([AngleRow(-3.0)], 3.0), "   -3.00\n")

    def test_metrics_that_are_missing_or_no_numbers_are_not_known(self):
        self.assertEqual(aretomo3.parse_metrics(""), aretomo3.Metrics())
        found = aretomo3.parse_metrics("Tilt_Series,Thickness(Pix),Tilt_Axis,Alpha0\nTS_1.mrc,  620, -95.30, nan\n")
        self.assertEqual((found.thickness_px, found.tilt_axis_deg, found.tilt_offset_deg), (620.0, -95.3, None))

    def test_the_hand_of_the_defocus_is_the_eighth_column_of_the_ctf_file(self):
        row = "   1   30000.00  29000.00     12.00     0.0000    0.2000    6.5000"
        self.assertEqual(aretomo3.parse_defocus_hand(f"# Columns\n{row}   -1\n"), -1)
        self.assertIsNone(aretomo3.parse_defocus_hand(f"# Columns\n{row}\n"))

    def test_a_session_file_without_a_version_gives_none(self):
        self.assertEqual([aretomo3.parse_version(text) for text in ("", "[]", '{"software": {"version": "version 2.3.1, of"}}')],
                         ["", "", "2.3.1"])


class StandIn:
    """The stand-in for AreTomo3, as the protocol runs a program."""

    name = command = "AreTomo3"
    gpu, threads = True, 1

    def __init__(self, **environment: str) -> None:
        self.environment, self.said = environment, []

    def run(self, arguments: str, log: str) -> str:
        self.said.append(parse_flags(arguments))
        standins.main("AreTomo3", shlex.split(arguments), self.environment)
        return ""

    def keep_log(self, log: str, name: str) -> None:
        """Nothing was logged."""


class TestARun(unittest.TestCase):
    SIZE = (64, 96)

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.join(folder.name, "work")
        os.makedirs(self.folder)
        self.stacks = folder.name

    def stack(self, name: str, first: float = 1.0, pixel_size: float = 2.0, dtype=np.float32) -> str:
        path = os.path.join(self.stacks, f"{name}.mrcs")
        data = np.ones((len(ANGLES), self.SIZE[1], self.SIZE[0]), dtype) * (first + np.arange(len(ANGLES)))[:, None, None]
        with mrcfile.new(path, overwrite=True) as stack:
            stack.set_data(data.astype(dtype))
            stack.voxel_size = pixel_size
        return path

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def source(self, **values) -> Source:
        tilts = tuple(SourceTilt(number, angle, number, 3.0 * (number - 1), number != 4, (1, 0, 0, 1, 0.0, 0))
                      for number, angle in enumerate(ANGLES, start=1))
        return Source(**{"series_id": "TS_1", "stack": "", "even": "", "odd": "", "size": self.SIZE, "pixel_size": 2.0,
                         "tilt_axis": 85.0, "tilts": tilts, "dose": 3.0, "command": COMMAND, **values})

    def align(self, source: Source | None = None, program: StandIn | None = None, **settings) -> Result:
        source = source or self.source(stack=self.stack("whole"))
        self.program = program or StandIn()
        made = Settings(**{"thickness": 240, "binning": 2.0, "correct_ctf": True, **settings})
        return Aretomo3Run(source, made, self.folder, self.program, self.program).run()

    def test_gives_each_image_the_row_of_its_section(self):
        result = self.align()
        self.assertEqual({index: row.tilt_deg for index, row in result.rows.items()},
                         {index: ANGLES[index - 1] for index in BY_ANGLE})
        self.assertEqual([result.ctf_order, [row.defocus_max_A for row in result.ctf]],
                         [BY_ANGLE, [30000.0 + place for place in range(8)]])

    def test_leaves_out_dark_tilts_whose_frame_and_section_count_from_0_and_from_1(self):
        result = self.align(self.source(stack=self.stack("whole", first=-8.0)))       # the ninth image is 0
        self.assertEqual((list(result.reasons), 9 in result.rows, result.rows[7].tilt_deg), ([9], False, -9.0))
        self.assertEqual(result.ctf_order, BY_ANGLE)

    def test_is_given_the_images_by_angle_with_their_own_doses_and_removes_its_inputs(self):
        seen = {}

        class Looking(StandIn):
            def run(inner, arguments: str, log: str) -> str:
                stack = parse_flags(arguments)["-InPrefix"][0]
                with open(stack.replace(".mrc", "_TLT.txt"), encoding="utf-8") as file:
                    seen["tilts"] = [[float(word) for word in line.split()] for line in file]
                with mrcfile.open(stack, permissive=True) as given:
                    seen["images"] = list(given.data[:, 0, 0])
                return super().run(arguments, log)

        self.align(program=Looking())
        self.assertEqual(seen["tilts"], [[ANGLES[index - 1], index, 3.0] for index in BY_ANGLE])
        self.assertEqual(seen["images"], list(map(float, BY_ANGLE)))
        self.assertFalse(os.path.exists(self.path("input")))

    def test_makes_the_halves_in_the_same_run(self):
        source = self.source(stack=self.stack("whole"), even=self.stack("even", 100.0), odd=self.stack("odd", 200.0))
        result = self.align(source, halves=True)
        self.assertEqual((len(result.commands), self.program.said[0]["-SplitSum"]), (1, ["1"]))
        sums = [float(mrcfile.read(self.path(f"TS_1{suffix}.mrc"))[0, 0, 0]) for suffix in ("", "_even", "_odd")]
        self.assertEqual(sums, [41.0, 833.0, 1633.0])

    def test_makes_no_halves_that_nobody_asked_for(self):
        self.align(self.source(stack=self.stack("whole"), even=self.stack("even"), odd=self.stack("odd")))
        self.assertEqual([name for name in os.listdir(self.folder) if "EVN" in name or "even" in name], [])

    def test_leaves_the_files_of_any_other_program_and_its_own_table_and_session(self):
        self.align()
        done = os.path.join(self.stacks, "done")
        take_over(self.folder, done)
        self.assertEqual(sorted(os.listdir(done)), sorted([
            "AreTomo3_Session.json", "TS_1.aln", "TS_1.mrc", "TS_1_angles.txt", "TS_1_ctf.txt", "TS_1_quality.json",
            "TiltSeries_Metrics.csv"]))

    def test_makes_at_least_100_slices_and_that_is_expected(self):
        self.align(self.source(stack=self.stack("whole"), command=COMMAND.replace("-VolZ 240", "-VolZ 20")), thickness=20)
        self.assertEqual(mrcfile.read(self.path("TS_1.mrc")).shape, (100, 32, 48))

    def test_of_another_size_than_asked_for_is_a_failure(self):
        with self.assertRaisesRegex(ProgramFailed, "48 x 32 x 120 voxels where 48 x 32 x 300 was expected"):
            self.align(thickness=600)

    def test_takes_the_thickness_that_it_measured_where_that_is_asked_for(self):
        self.align(self.source(stack=self.stack("whole"), command=COMMAND.replace("-VolZ 240", "-VolZ -1")), thickness=-1)
        self.assertEqual(mrcfile.read(self.path("TS_1.mrc")).shape, (390, 32, 48))      # (480 + 300) / 2

    def test_leaves_no_volume_where_only_the_alignment_is_wanted(self):
        self.align(tomogram=False)
        self.assertFalse(any(name.endswith("Vol.mrc") or name == "TS_1.mrc" for name in os.listdir(self.folder)))
        self.assertTrue(os.path.exists(self.path("TS_1.aln")))

    def test_says_before_the_run_that_there_are_too_few_tilts(self):
        few = self.source(stack=self.stack("whole"))
        few = Source(**{**few.__dict__, "tilts": tuple(SourceTilt(**{**tilt.__dict__, "enabled": tilt.index <= 6})
                                                       for tilt in few.tilts)})
        with self.assertRaisesRegex(BadInput, "only 6 of its tilts are enabled; AreTomo3 needs at least 7"):
            self.align(few)
        self.assertEqual(self.program.said, [])
        self.assertEqual(len(self.align(few, ctf=False).rows), 6)

    def in_order(self, **values) -> Source:
        """All images, in the order of their angles: nothing but the program asks for a copy of the stack."""
        tilts = tuple(SourceTilt(number, angle, number, 3.0 * (number - 1), True)
                      for number, angle in enumerate(sorted(ANGLES), start=1))
        return self.source(tilts=tilts, **values)

    def test_is_given_a_stack_that_it_takes_without_a_copy(self):
        self.align(self.in_order(stack=self.stack("whole")))
        self.assertTrue(os.path.islink(self.path("TS_1.mrcs")))

    def test_gets_the_pixel_size_in_the_header_of_the_stack(self):
        self.align(self.in_order(stack=self.stack("whole", pixel_size=1.0)))
        with mrcfile.open(self.path("TS_1.mrc"), header_only=True) as volume:
            self.assertAlmostEqual(float(volume.voxel_size.x), 4.0, 3)

    def test_gets_floats_where_it_would_not_read_the_stack(self):
        self.align(self.in_order(stack=self.stack("whole", dtype=np.int8)))
        with mrcfile.open(self.path("TS_1.mrcs"), header_only=True, permissive=True) as stack:
            self.assertEqual(int(stack.header.mode), 2)

    def test_is_corrected_for_the_ctf_where_it_was_found_and_that_was_asked_for(self):
        self.assertTrue(self.align().ctf_corrected)
        for settings in ({"correct_ctf": False}, {"ctf": False}):
            os.remove(self.path("TS_1.mrcs"))
            self.assertFalse(self.align(**settings).ctf_corrected, settings)

    def made(self) -> Aretomo3Run:
        settings = Settings(thickness=240, binning=2.0, correct_ctf=True)
        return Aretomo3Run(self.source(), settings, self.folder, StandIn(), StandIn())

    def test_is_not_corrected_where_the_ctf_of_one_image_was_not_found(self):
        found, lost = (CtfRow(1, value, value, 0.0, 0.0, 0.1, 12.0) for value in (30000.0, 1.0))      # 1 A: less than a pixel
        self.assertEqual([self.made()._is_corrected(Result("", ctf=rows)) for rows in ((found, found), (found, lost))],
                         [True, False])

    def test_takes_no_axis_for_turned_around_that_was_only_refined(self):
        for axis, turned in ((86.5, False), (-94.0, True), (266.0, True), (-273.5, False)):
            with open(self.path("TS_1.aln"), "w", encoding="utf-8") as file:
                file.write(format_aln(AlnFile((AlnRow(0, axis, 0.0, 0.0, -3.0),), raw_size=(*self.SIZE, 1))))
            self.assertEqual(self.made()._is_turned(), turned, axis)

    def test_is_not_corrected_where_the_program_fitted_no_ctf(self):
        without = COMMAND.replace("-Kv 300.0", "-Kv 0")
        self.assertFalse(self.align(self.source(stack=self.stack("whole"), command=without)).ctf_corrected)

    def test_reconstructs_with_the_alignment_of_the_input(self):
        result = self.align(skip_align=True, ctf=True)
        self.assertEqual((result.rows, result.ctf, result.ctf_corrected), ({}, (), False))
        self.assertEqual(self.program.said[0]["-Cmd"], ["2"])
        with open(self.path("TS_1.aln"), encoding="utf-8") as file:
            self.assertEqual([row.section for row in parse_aln(file.read()).rows], list(range(8)))

    def test_tells_that_the_axis_was_turned_around(self):
        result = self.align(program=StandIn(STANDIN_HAND="-1"))
        self.assertEqual(result.rows[1].rot_deg, -95.0)
        self.assertIn("tilt axis turned around, as the defocus across it says", result.notes)

    def test_never_turns_an_axis_that_is_not_to_be_refined(self):
        command = COMMAND.replace("-TiltAxis 85.0 0", "-TiltAxis 85.0 -1")
        result = self.align(self.source(stack=self.stack("whole"), command=command), StandIn(STANDIN_HAND="-1"))
        self.assertEqual((result.rows[1].rot_deg, result.notes), (85.0, ()))

    def test_the_hand_of_the_defocus_is_handed_on_as_seen_from_the_axis_of_the_alignment(self):
        kept = COMMAND.replace("-TiltAxis 85.0 0", "-TiltAxis 85.0 -1")
        for command, hand, expected in ((COMMAND, "1", -1), (COMMAND, "-1", -1), (kept, "1", -1), (kept, "-1", 1)):
            result = self.align(self.source(stack=self.stack("whole"), command=command), StandIn(STANDIN_HAND=hand))
            self.assertEqual(result.quality.defocus_hand, expected, (command, hand))
            self.assertEqual(relion_hand(result.quality.defocus_hand), -expected)
            os.remove(self.path("TS_1.mrcs"))
        self.assertIsNone(self.align(ctf=False).quality.defocus_hand)

    def test_tells_what_its_table_says(self):
        quality = self.align().quality
        self.assertEqual((quality.program, quality.thickness_A, quality.tilt_offset_deg), ("AreTomo3 2.3.1", 960.0, 2.5))
        self.assertEqual(quality.quality_note, "largest shift 42 px, 4 % of the local shifts left out, CTF to 6.1 A at 0 degrees "
                                               "(score 0.21), specimen tilted along the axis by -1.5 degrees")


@pytest.mark.chain
class TestASession(unittest.TestCase):
    """Stand-ins for all GPU programs; AreTomo3 reconstructs. Two GPUs, four workers."""

    @classmethod
    def setUpClass(cls):
        cls.session = session = Session()
        cls.addClassCleanup(session.__exit__)
        session.use_standins("0.05,0.6", STANDIN_HAND="-1")
        run = session.run("--timeout", "20", engine="gpu", settings={
            "aretomo.engine": "GPU (AreTomo3)", "aretomo.gpuList": "0 1", "aretomo.numberOfThreads": 5,
            "aretomo.tomoThickness": 300, "aretomo.alignZ": 200, "aretomo.doEvenOdd": True,
            "motioncor.splitEvenOdd": True, "compose.doEvenOdd": True,
            "compose.time4NextTilt": 6})
        session.simulate("--series", "4", "--tilts", "9", "--frames", "2", "--size", "64", "--interval", "0.05",
                         "--start-delay", "1")
        cls.status = run.wait(timeout=300)

    def test_ends_well_with_every_series_reconstructed_once(self):
        self.assertEqual(self.status, 0, self.session.said("run"))
        runs = [run for run in self.session.standin_runs() if run["program"] == "AreTomo3"]
        self.assertEqual(sorted(run["item"] for run in runs), [f"TS_0{number}.mrc" for number in (1, 2, 3, 4)])
        self.assertEqual(sorted(self.session.keys(ARETOMO)), ["TS_01", "TS_02", "TS_03", "TS_04"])

    def test_registers_tomograms_as_corrected_with_their_halves(self):
        for row in self.session.rows(ARETOMO):
            self.assertEqual(row["_ctfCorrected"], 1)
            self.assertIn("_odd.mrc", str(row["_halfMapFilenames"]))

    def test_tells_the_page_what_the_program_found(self):
        for entry in self.session.events(ARETOMO, entries.Reconstructed):
            self.assertEqual((entry.tilt_offset, sum("-Cmd 1" in command for command in entry.commands)), (2.5, 1))
            self.assertGreater(entry.thickness_A, 0)
            self.assertIn("tilt axis turned around", entry.reason)

    def test_never_runs_two_programs_on_one_gpu(self):
        spans: dict[str, list[tuple[float, float]]] = {}
        started = {run["pid"]: run for run in self.session.standin_runs() if run["program"] == "AreTomo3"}
        for end in self.session.standin_runs("end"):
            if end["pid"] in started:
                spans.setdefault(" ".join(started[end["pid"]]["gpu"]), []).append((end["began"], end["time"]))
        self.assertEqual(set(spans), {"0", "1"})
        for each in spans.values():
            ordered = sorted(each)
            self.assertTrue(all(one[1] <= two[0] for one, two in pairwise(ordered)), spans)


if __name__ == "__main__":
    unittest.main()
