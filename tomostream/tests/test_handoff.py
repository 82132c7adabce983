# SPDX-License-Identifier: GPL-3.0-or-later
"""Exports for IMOD, RELION 5 and Warp: the files, and, by geometry, that each of them sees our tomogram."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import sqlite3
import tempfile
import unittest
from unittest import mock

import mrcfile
import numpy as np
import starfile

from tomostream.cli import main as command
from tomostream.engine import aretomo as engine
from tomostream.handoff import relion, warp
from tomostream.handoff.collect import _tilt, collect, finished
from tomostream.handoff.conventions import relion_hand, warp_flip
from tomostream.handoff.export import README, export, exported_series, remove
from tomostream.handoff.facts import USUAL, Target
from tomostream.handoff.readme import warp_hand_commands
from tomostream.journal import entries
from tomostream.journal.status import ARETOMO, COMPOSE, ProjectStatus
from tomostream.programs.aln import AlnFile, AlnRow, DarkFrame, format_aln
from tomostream.programs.ctf import CtfRow, format_ctf, parse_ctf
from tomostream.programs.quality import Quality, TiltQuality, format_quality
from tomostream.tests import foreign_geometry as foreign
from tomostream.tests.made_project import FOLDERS, MadeProject

NAME, PIXEL, NX, NY, DEPTH, BINNING = "TS_01", 10.0, 144, 120, 112, 2
NOMINAL = tuple(float(angle) for angle in range(-60, 61, 6))
OFFSET, DARK = 4.0, (0, 13)
ALL = USUAL


class Specimen:
    """Points in an empty slab, px from the middle of the volume, and the tilt series of them as an alignment says."""

    def __init__(self, axis: float) -> None:
        rng = np.random.default_rng(8)
        self.points = rng.uniform(-1, 1, (60, 3)) * (0.36 * min(NX, NY), 0.36 * min(NX, NY), 0.36 * DEPTH)
        shifts = rng.normal(0, 3, (len(NOMINAL), 2))
        self.rows = [AlnRow(section, axis, *shift, angle + OFFSET)
                     for section, (angle, shift) in enumerate(zip(NOMINAL, shifts.tolist(), strict=True)) if section not in DARK]
        self.dark = [DarkFrame(section, section, NOMINAL[section]) for section in DARK]
        self.stack = rng.normal(100, 1, (len(NOMINAL), NY, NX)).astype(np.float32)
        for row in self.rows:
            self._draw(row)

    def _draw(self, row: AlnRow) -> None:
        x, y, z = self.points.T
        tilt, axis = np.radians(row.tilt_deg), np.radians(row.rot_deg)
        across = x * np.cos(tilt) + z * np.sin(tilt)
        px = np.cos(axis) * across - np.sin(axis) * y + row.tx + (NX - 1) / 2
        py = np.sin(axis) * across + np.cos(axis) * y + row.ty + (NY - 1) / 2
        rows, columns = np.mgrid[:NY, :NX]
        for here_x, here_y in zip(px, py, strict=True):
            self.stack[row.section] -= 30 * np.exp(-((columns - here_x) ** 2 + (rows - here_y) ** 2) / (2 * 2.0**2))


class Project(MadeProject):
    """A finished series on disk, with an alignment that is known and the tomogram that our engine makes with it."""

    def __init__(self, path: str, axis: float = 85.0, halves: bool = True, hand: int = 1) -> None:
        super().__init__(path, NOMINAL)
        self.specimen = Specimen(axis)
        self.acquire(NAME)
        self._compose(halves)
        self._align(hand, halves)

    def movies(self, series: str) -> list[str]:
        return [f"{series}_{order:03d}" for order in range(1, len(NOMINAL) + 1)]

    def _compose(self, halves: bool) -> None:
        stem = self.extra(COMPOSE, NAME)
        write_stack(f"{stem}.mrcs", self.specimen.stack)
        tilts = []
        for order, (movie, angle) in enumerate(zip(self.movies(NAME), NOMINAL, strict=True), start=1):
            tilts.append({"movie": movie, "micrograph": "", "angle": angle, "order": order, "dose": 3.0,
                          "prior_dose": 3.0 * (order - 1), "target_defocus": 4.0})
        if halves:
            for suffix in ("_even", "_odd"):
                write_stack(f"{stem}{suffix}.mrcs", self.specimen.stack)
        with open(f"{stem}.json", "w", encoding="utf-8") as file:
            json.dump({"series_id": NAME, "version": 1, "tilts": tilts, "tilt_axis": self.specimen.rows[0].rot_deg + 1.0,
                       "voltage": 300.0}, file)
        with contextlib.closing(sqlite3.connect(os.path.join(self.path, "Runs", FOLDERS[COMPOSE], "tiltseries.sqlite"))) as base:
            base.execute("CREATE TABLE Properties (key TEXT, value TEXT)")
            base.executemany("INSERT INTO Properties VALUES (?, ?)", [
                ("_samplingRate", str(PIXEL)), ("_acquisition._voltage", "300.0"), ("_acquisition._sphericalAberration", "2.7"),
                ("_acquisition._amplitudeContrast", "0.1")])
            base.commit()
        self.report(COMPOSE, NAME, entries.Composed, "composed", version=1, name=NAME, tilts=len(tilts),
                    movies=tuple(self.movies(NAME)))

    def _align(self, hand: int, halves: bool) -> None:
        folder = self.extra(ARETOMO, NAME)
        os.makedirs(folder)
        stem = os.path.join(folder, NAME)
        with open(f"{stem}.aln", "w", encoding="utf-8") as file:
            file.write(format_aln(AlnFile(tuple(self.specimen.rows), tuple(self.specimen.dark), (NX, NY, len(NOMINAL)))))
        words = ["-InMrc", f"{self.extra(COMPOSE, NAME)}.mrcs", "-OutMrc", f"{stem}.mrc", "-AlnFile", f"{stem}.aln",
                 "-VolZ", str(DEPTH), "-OutBin", str(BINNING), "-Wbp", "1", "-FlipVol", "1", "-PixSize", str(PIXEL)]
        with contextlib.redirect_stdout(io.StringIO()):
            if engine.main(words) != 0:
                raise AssertionError("the engine failed")
        if halves:
            for suffix in ("_even", "_odd"):
                shutil.copyfile(f"{stem}.mrc", f"{stem}{suffix}.mrc")
        with open(f"{stem}_ctf.txt", "w", encoding="utf-8") as file:
            file.write(format_ctf([CtfRow(number, 41000.0, 39000.0, 20.0, 0.0, 0.8, 12.0)
                                   for number in range(1, len(self.specimen.rows) + 1)]))
        tilts = tuple(TiltQuality(section, angle, section not in DARK, "" if section not in DARK else "too dark")
                      for section, angle in enumerate(NOMINAL))
        with open(f"{stem}_quality.json", "w", encoding="utf-8") as file:
            file.write(format_quality(Quality(tilts, self.specimen.rows[0].rot_deg, OFFSET, defocus_hand=hand)))
        self.report(ARETOMO, NAME, entries.Reconstructed, "done", version=1, tilts_used=len(self.specimen.rows),
                    tilt_offset=OFFSET, folder=os.path.relpath(folder, self.path),
                    tomogram=os.path.relpath(f"{stem}.mrc", self.path), commands=("tomostream-aretomo " + " ".join(words),))

    def series(self):
        status = ProjectStatus(self.path)
        status.update()
        return collect(status, finished(status)[0])


def write_stack(path: str, stack: np.ndarray) -> None:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(stack.astype(np.float32))
        file.voxel_size = PIXEL


@functools.cache
def exported(axis: float) -> str:
    """A folder with a series of this axis, exported for all programs: made once."""
    folder = tempfile.mkdtemp(prefix="tomostream-handoff-")
    unittest.addModuleCleanup(shutil.rmtree, folder)
    project = Project(os.path.join(folder, "project"), axis)
    refused = export(project.series(), os.path.join(folder, "out"), ALL)
    if refused:
        raise AssertionError(refused)
    return folder


class TestByGeometry(unittest.TestCase):
    """What each program reads is back-projected by its own conventions and compared with our tomogram. There is a tilt offset,
    and two tilts take no part."""

    def compare(self, axis: float, views: foreign.Views) -> None:
        ours = mrcfile.read(os.path.join(exported(axis), "project", "Runs", FOLDERS[ARETOMO], "extra", NAME, f"{NAME}.mrc"))
        self.assertEqual(len(views), len(NOMINAL) - len(DARK))
        theirs = foreign.back_project(views, ours.shape, BINNING)
        self.assertGreater(foreign.likeness(ours, theirs), 0.8)
        for name, mirrored in (("x", ours[:, :, ::-1]), ("y", ours[:, ::-1]), ("z", ours[::-1])):
            self.assertLess(foreign.likeness(mirrored, theirs), 0.1, f"mirrored in {name}")

    def imod(self, axis: float) -> None:
        self.compare(axis, foreign.imod_views(os.path.join(exported(axis), "out", "imod", NAME)))

    def relion(self, axis: float) -> None:
        self.compare(axis, foreign.relion_views(os.path.join(exported(axis), "out", "relion5"), NAME))

    def warp(self, axis: float) -> None:
        self.compare(axis, foreign.warp_views(os.path.join(exported(axis), "out", "warp"), NAME, PIXEL))

    def test_imod_sees_our_tomogram_with_the_axis_near_0(self):
        self.imod(2.0)

    def test_imod_sees_our_tomogram_with_the_axis_near_85(self):
        self.imod(85.0)

    def test_imod_sees_our_tomogram_with_the_axis_near_minus_95(self):
        self.imod(-95.0)

    def test_relion_sees_our_tomogram_with_the_axis_near_0(self):
        self.relion(2.0)

    def test_relion_sees_our_tomogram_with_the_axis_near_85(self):
        self.relion(85.0)

    def test_relion_sees_our_tomogram_with_the_axis_near_minus_95(self):
        self.relion(-95.0)

    def test_warp_sees_our_tomogram_with_the_axis_near_0(self):
        self.warp(2.0)

    def test_warp_sees_our_tomogram_with_the_axis_near_85(self):
        self.warp(85.0)

    def test_warp_sees_our_tomogram_with_the_axis_near_minus_95(self):
        self.warp(-95.0)


class TestOfAreTomo3(unittest.TestCase):
    def test_binning_thickness_and_correction_are_what_the_program_made(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            project = Project(os.path.join(folder, "project"), 2.0, halves=False)
            known = project.series()
            made = os.path.relpath(os.path.dirname(known.volume.path), project.path)
            project.report(ARETOMO, NAME, entries.Reconstructed, "done", version=1, tilts_used=len(project.specimen.rows),
                           folder=made, tomogram=os.path.join(made, f"{NAME}.mrc"), ctf_corrected=True,
                           commands=(f"AreTomo3 -InPrefix x.mrc -AtBin {BINNING} -VolZ -1 -FlipVol 1",))
            series = project.series()
            self.assertEqual((series.volume.binning, series.thickness, series.volume.size), (BINNING, DEPTH, known.volume.size))
            self.assertEqual((known.volume.ctf_corrected, series.volume.ctf_corrected), (False, True))
            export(series, os.path.join(folder, "out"), ALL)
            with open(os.path.join(folder, "out", README), encoding="utf-8") as file:
                self.assertIn("already corrected for the CTF: do not correct them again", file.read())


class TestTakenBack(unittest.TestCase):
    """What IMOD was handed is reconstructed from its transforms, as tomostream-aretomo takes them."""

    def compare(self, axis: float) -> None:
        truth = mrcfile.read(os.path.join(exported(axis), "project", "Runs", FOLDERS[ARETOMO], "extra", NAME, f"{NAME}.mrc"))
        stem = os.path.join(exported(axis), "out", "imod", NAME, NAME)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            words = ["-InMrc", f"{stem}.mrc", "-AlnFile", f"{stem}.xf", "-OutMrc", os.path.join(folder, "back.mrc"), "-VolZ",
                     str(DEPTH), "-OutBin", str(BINNING), "-Wbp", "1", "-FlipVol", "1"]
            self.assertEqual(engine.main(words), 0)
            found = mrcfile.read(os.path.join(folder, "back.mrc"))
        self.assertEqual(found.shape, truth.shape)
        self.assertGreater(np.corrcoef(found.ravel(), truth.ravel())[0, 1], 0.999)

    def test_gives_the_same_volume_with_the_axis_near_85(self) -> None:
        self.compare(85.0)

    def test_gives_the_same_volume_with_the_axis_near_0(self) -> None:
        self.compare(2.0)


class TestTheHand(unittest.TestCase):
    """A defocus that was measured to grow towards +x at positive tilts does so in RELION and in Warp."""

    def test_relion_adds_what_was_measured(self):
        for hand in (1, -1):
            tomogram = {"rlnTomoHand": relion_hand(hand)}
            tilts = foreign.as_table({"rlnTomoYTilt": 30.0, "rlnDefocusU": 40000.0, "rlnDefocusV": 40000.0})
            x = 1000.0 / np.cos(np.radians(30.0))       # seen 1000 A across the axis
            self.assertAlmostEqual(foreign.relion_defocus(tilts, tomogram, 0, x, 0.0) - 40000.0,
                                   hand * 1000.0 * np.tan(np.radians(30.0)))

    def test_warp_adds_what_was_measured(self):
        for hand in (1, -1):
            x = 1000.0 / np.cos(np.radians(30.0))
            self.assertAlmostEqual(foreign.warp_defocus(-30.0, warp_flip(hand), x, 0.0), hand * 1000.0 * np.tan(np.radians(30.0)))

    def test_warp_would_measure_what_we_hand_on(self):
        """Its own check, on a defocus that grows towards +x at positive tilts, or the other way. Its port to Python, warpylib
        1.1.2, gives the same."""
        tilts = np.arange(-60.0, 61.0, 6.0)
        for hand in (1, -1):
            self.assertIs(foreign.warp_wants_flip(-tilts, hand * np.tan(np.radians(tilts))), warp_flip(hand))

    def test_warps_flip_is_relions_hand_of_minus_1(self):
        self.assertEqual([(relion_hand(hand), warp_flip(hand)) for hand in (1, -1)], [(-1, True), (1, False)])

    def test_warp_is_given_the_hand_of_every_series(self):
        series = Project(os.path.join(exported(85.0), "hands")).series()

        def named(name: str, hand: int | None):
            return type(series)(**{key: getattr(series, key) for key in series.__struct_fields__}
                                | {"name": name, "defocus_hand": hand})

        def options(*hands: int | None) -> list[list[str]]:
            lines = warp_hand_commands([named(f"TS_{place}", hand) for place, hand in enumerate(hands)])
            return [line.split("settings ")[-1].split() for line in lines]

        self.assertEqual(options(None), [["--set_flip"]])
        self.assertEqual(options(None, -1), [["--set_noflip"]])
        self.assertEqual(options(1, 1, -1), [["--set_flip"], ["--set_noflip", "--input_data", "tomostar/TS_2.tomostar"]])

    def test_unknown_is_not_a_hand(self):
        self.assertEqual([relion_hand(hand) for hand in (None, 0)] + [warp_flip(hand) for hand in (None, 0)], [None] * 4)


class TestPieces(unittest.TestCase):
    def test_the_size_of_a_volume_that_lies_is_reported_as_x_y_z(self):
        for upright, size in ((True, (200, 100, 400)), (False, (200, 400, 100))):
            series = mock.Mock(volume=mock.Mock(size=(100, 50, 200), binning=2.0, upright=upright))
            self.assertEqual(relion.unbinned(series), size, upright)

    def test_a_tilt_left_out_that_warp_cannot_tell_from_another_by_its_angle_is_not_named(self):
        near, far = mock.Mock(nominal_deg=0.3), mock.Mock(nominal_deg=3.0)
        self.assertEqual(warp.cut(mock.Mock(used=[mock.Mock(nominal_deg=0.0)], left_out=[near, far])), [far])

    def test_a_defocus_that_is_not_believed_is_not_handed_on(self):
        made = mock.Mock(poses={1: "pose"}, reasons={}, ctf={1: "defocus"})
        tilt = mock.Mock(movie="a", micrograph="", even="", odd="")
        found = [_tilt(mock.Mock(movies={}, project="/"), 1, tilt, made, doubted).ctf for doubted in (False, True)]
        self.assertEqual(found, ["defocus", None])


class TestFiles(unittest.TestCase):
    """The files, as other programs look for them."""

    @classmethod
    def setUpClass(cls):
        cls.out = os.path.join(exported(85.0), "out")

    def lines(self, *parts: str) -> list[str]:
        with open(os.path.join(self.out, *parts), encoding="utf-8") as file:
            return [line for line in file.read().splitlines() if line.strip()]

    def test_imod_counts_the_views_that_are_left_and_names_those_that_were_cut(self):
        left = len(NOMINAL) - len(DARK)
        for suffix in (".xf", ".tlt", ".rawtlt", ".xtilt"):
            self.assertEqual((suffix, len(self.lines("imod", NAME, f"{NAME}{suffix}"))), (suffix, left))
        self.assertEqual(mrcfile.read(os.path.join(self.out, "imod", NAME, f"{NAME}.mrc")).shape, (left, NY, NX))
        self.assertEqual([float(line) for line in self.lines("imod", NAME, f"{NAME}_cutviews0.rawtlt")],
                         [NOMINAL[section] for section in DARK])
        self.assertEqual(len(self.lines("imod", NAME, f"{NAME}.defocus")), left + 1)

    def test_angle_files_have_one_column(self):
        for name in (f"{NAME}.tlt", f"{NAME}.rawtlt"):
            self.assertEqual({len(line.split()) for line in self.lines("imod", NAME, name)}, {1})
        refined, nominal = (np.loadtxt(os.path.join(self.out, "imod", NAME, f"{NAME}.{end}")) for end in ("tlt", "rawtlt"))
        np.testing.assert_allclose(refined - nominal, OFFSET, atol=0.01)

    def test_commands_name_files_of_their_folder(self):
        for name in ("newst.com", "tilt.com"):
            text = "\n".join(self.lines("imod", NAME, name))
            for word in text.split():
                self.assertNotIn("/", word.replace("./savework", ""))
        tilt = "\n".join(self.lines("imod", NAME, "tilt.com"))
        self.assertIn(f"FULLIMAGE\t{NY} {NX}", tilt)        # the axis lies nearer to x: the aligned images are turned
        self.assertIn(f"THICKNESS\t{DEPTH}", tilt)

    def test_relion_gets_averages_halves_doses_ctf_and_the_hand(self):
        tomogram = foreign.as_table(starfile.read(os.path.join(self.out, "relion5", "tomograms.star"))).iloc[0]
        tilts = starfile.read(os.path.join(self.out, "relion5", tomogram["rlnTomoTiltSeriesStarFile"]), always_dict=True)[NAME]
        self.assertEqual(tomogram["rlnTomoHand"], -1)
        self.assertEqual((tomogram["rlnTomoSizeX"], tomogram["rlnTomoSizeY"], tomogram["rlnTomoSizeZ"]), (NY, NX, DEPTH))
        self.assertEqual((tomogram["rlnTomoTomogramBinning"], tomogram["rlnTomoTiltSeriesPixelSize"]), (BINNING, PIXEL))
        for half in ("", "Half1", "Half2"):
            self.assertTrue(os.path.exists(os.path.join(self.out, "relion5", tomogram[f"rlnTomoReconstructedTomogram{half}"])))
        self.assertEqual(len(tilts), len(NOMINAL) - len(DARK))
        self.assertEqual(list(tilts["rlnTomoNominalStageTiltAngle"]), [a for i, a in enumerate(NOMINAL) if i not in DARK])
        self.assertEqual(list(tilts["rlnMicrographPreExposure"]), [3.0 * i for i in range(len(NOMINAL)) if i not in DARK])
        self.assertEqual(set(tilts["rlnDefocusU"]), {41000.0})
        self.assertEqual(set(tilts["rlnTomoNominalDefocus"]), {-4.0})       # underfocus is negative, as in SerialEM
        for label in ("rlnMicrographName", "rlnMicrographNameEven", "rlnMicrographNameOdd"):
            image = foreign.relion_image(os.path.join(self.out, "relion5"), tilts[label].iloc[2])
            self.assertEqual(image.shape, (NY, NX))

    def test_warp_has_every_tilt_with_the_dose_before_it(self):
        table = starfile.read(os.path.join(self.out, "warp", "tomostar", f"{NAME}.tomostar"))
        self.assertEqual(list(table["wrpAngleTilt"]), sorted(-angle for angle in NOMINAL))
        self.assertEqual(dict(zip(-table["wrpAngleTilt"], table["wrpDose"], strict=True)),
                         {angle: 3.0 * place for place, angle in enumerate(NOMINAL)})
        angles = [float(line) for line in self.lines("warp", "alignments", NAME, f"{NAME}.tlt")]
        self.assertEqual(angles, sorted(angles))

    def test_the_readme_says_what_was_decided_and_what_comes_next(self):
        text = "\n".join(self.lines(README))
        for words in ("rlnTomoHand -1, measured", "in Warp flip", "--set_flip", "tilt offset 4.0 degrees",
                      "-60.0 degrees (too dark)", "ts_import_alignments", "relion_tomo_reconstruct_tomogram",
                      "submfg newst.com tilt.com"):
            self.assertIn(words, text)


class TestOneAfterTheOther(unittest.TestCase):
    """A hand-off that is written again and again while a session runs."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        shutil.copytree(os.path.join(exported(85.0), "project"), os.path.join(folder.name, "project"))
        self.project = os.path.join(folder.name, "project")
        self.out = os.path.join(folder.name, "out")
        status = ProjectStatus(self.project)
        status.update()
        self.series = collect(status, finished(status)[0])

    def files(self) -> set[str]:
        return {os.path.relpath(os.path.join(here, name), self.out) for here, _, names in os.walk(self.out) for name in names}

    def test_a_series_that_is_made_again_takes_the_place_of_the_one_before(self):
        export(self.series, self.out, ALL)
        first = self.files()
        fewer = type(self.series)(**{name: getattr(self.series, name) for name in self.series.__struct_fields__}
                                  | {"version": 2, "tilts": self.series.tilts[1:]})
        export(fewer, self.out, ALL)
        self.assertEqual([each.series.version for each in exported_series(self.out)], [2])
        gone = first - self.files()
        self.assertEqual(gone, {f"warp/warp_frameseries/average{half}/{NAME}_001.mrc" for half in ("", "/even", "/odd")})

    def test_a_series_that_fails_when_it_is_made_again_is_taken_back(self):
        export(self.series, self.out, ALL)
        self.assertTrue(remove(NAME, self.out))
        self.assertFalse(remove(NAME, self.out))
        self.assertEqual({name for name in self.files() if NAME in name}, set())
        self.assertFalse(os.path.exists(os.path.join(self.out, "relion5", "tomograms.star")))

    def test_images_are_linked_or_copied(self):
        export(self.series, self.out, [Target.RELION5])
        self.assertTrue(os.path.islink(os.path.join(self.out, "relion5", "micrographs", NAME, f"{NAME}.mrcs")))
        export(self.series, self.out, [Target.RELION5], copy=True)
        self.assertFalse(os.path.islink(os.path.join(self.out, "relion5", "micrographs", NAME, f"{NAME}.mrcs")))

    def test_what_relion_needs_and_nobody_knows_is_reported(self):
        for tilt in ("prior_dose",):
            unknown = [type(each)(**{name: getattr(each, name) for name in each.__struct_fields__} | {tilt: None})
                       for each in self.series.tilts]
            series = type(self.series)(**{name: getattr(self.series, name) for name in self.series.__struct_fields__}
                                       | {"tilts": tuple(unknown)})
            refused = export(series, self.out, ALL)
            self.assertEqual(set(refused), {Target.RELION5, Target.WARP})
            self.assertIn("the dose before each tilt", refused[Target.RELION5])
            self.assertTrue(os.path.exists(os.path.join(self.out, "imod", NAME, f"{NAME}.xf")))

    def run_command(self, *arguments: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = command(["export", self.project, self.out, *arguments])
        return status, out.getvalue(), err.getvalue()

    def test_the_command_hands_on_what_it_is_asked_for(self):
        status, said, _ = self.run_command("--to", "imod,warp", "--series", NAME)
        self.assertEqual((status, said.splitlines()[0]), (0, f"{NAME}: imod, warp"))
        seen = sorted(name for name in os.listdir(self.out) if not name.startswith("."))
        self.assertEqual(seen, ["README.rst", "imod", "warp"])

    def test_the_command_refuses_programs_and_series_that_are_none(self):
        self.assertEqual(self.run_command("--to", "eman")[::2],
                         (2, "tomostream export: --to eman: use one or more of imod, relion5, warp, zarr, separated by "
                             "commas.\n"))
        self.assertEqual(self.run_command("--series", "TS_9")[::2],
                         (2, "tomostream export: TS_9: no such finished series; finished are TS_01.\n"))


class TestCtfThatIsHandedOn(unittest.TestCase):
    def test_a_tilt_without_its_own_has_that_of_the_nearest_angle_with_a_score_of_0(self):
        from tomostream.handoff.facts import Pose, Tilt
        from tomostream.handoff.relion import ctf_of

        row, = parse_ctf(format_ctf([CtfRow(1, 41000.0, 39000.0, 20.0, 0.0, 0.8, 12.0)]))
        pose = Pose(0.0, 85.0, 0.0, 0.0)
        tilts = [Tilt(1, -3.0, pose=pose, ctf=row), Tilt(2, 0.0, pose=pose)]
        self.assertEqual((ctf_of(tilts, tilts[1]).defocus_max_A, ctf_of(tilts, tilts[1]).score), (41000.0, 0.0))
        self.assertIsNone(ctf_of(tilts[1:], tilts[1]))
