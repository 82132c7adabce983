# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream-aretomo` as a user meets it: what it writes, what it refuses in which words, what it leaves behind."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from tomostream.engine import aretomo
from tomostream.engine.align import Alignment, AlignOptions, TiltResult
from tomostream.engine.commandline import parse
from tomostream.engine.ctf import CtfSeries, CtfTilt
from tomostream.engine.ctf.series import CtfResult
from tomostream.engine.recon import halves
from tomostream.engine.recon.aligned import Placement
from tomostream.engine.recon.options import TiltUse
from tomostream.engine.recon.solution import Solution
from tomostream.engine.recon.stack import TiltStack, open_stack
from tomostream.engine.steps import Input, in_range, result_bytes
from tomostream.files.mrc_header import HEADER_BYTES, mrc_header
from tomostream.programs.aln import (
    AlnFile,
    AlnRow,
    AngleRow,
    DarkFrame,
    format_aln,
    format_angles,
    parse_aln,
    parse_angle_file,
    parse_xf,
    raw_sections,
)
from tomostream.programs.ctf import CtfRow, format_ctf
from tomostream.programs.quality import Quality, Trust, format_quality, parse_quality

Array = NDArray[np.float64]
PIXEL = 12.0
ANGLES = np.arange(-54.0, 55.0, 6.0)
AXIS = 84.7


def write_mrc(path: str, data: NDArray[np.generic], pixel: float = PIXEL) -> str:
    array = np.ascontiguousarray(data, dtype="<f4")
    with open(path, "wb") as file:
        file.write(mrc_header(array.shape, pixel, (0, 0, 0, 0), "test", False))
        file.write(array.tobytes())
    return path


def raw_positions(points: Array, tilt: float, axis: float, shift: tuple[float, float]) -> tuple[Array, Array]:
    """Raw positions (x, y) from the image centre, px, of points (n, 3): the definition."""
    t, r = math.radians(tilt), math.radians(axis)
    x, y = points[:, 0] * math.cos(t) + points[:, 2] * math.sin(t), points[:, 1]
    return math.cos(r) * x - math.sin(r) * y + shift[0], math.sin(r) * x + math.cos(r) * y + shift[1]


class StepsTest(unittest.TestCase):
    """Steps by themselves, without any work."""

    WORDS = ("-InMrc", "TS_1.mrc", "-OutMrc", "v.mrc", "-VolZ", "100", "-OutBin", "2")

    def test_the_disk_is_asked_for_the_room_of_all_volumes(self) -> None:
        data = Input(TiltStack("TS_1.mrc", np.zeros((3, 40, 60), np.float32), PIXEL), None, PIXEL)
        halves = ("-InEven", "e.mrc", "-InOdd", "o.mrc")
        for more, volumes in (((), 1), (("-Wiener", "1"), 2), (halves, 3), ((*halves, "-Wiener", "1"), 4)):
            self.assertEqual(result_bytes(parse([*self.WORDS, *more], aretomo.KNOWN), data), volumes * 4 * 20 * 30 * 50)

    def test_tilts_that_no_slab_can_use_are_named(self) -> None:
        uses = tuple(TiltUse(section, angle, Placement(0.0, 0.0, 0.0)) for section, angle in enumerate((-81.0, -80.0, 0.0, 70.0)))
        log = mock.Mock()
        left = in_range(parse([*self.WORDS, "-ReconRange", "-90", "60"], aretomo.KNOWN), Solution(uses), log)
        self.assertEqual([tilt.section for tilt in left.used], [1, 2])
        self.assertEqual([call.args[0] for call in log.say.call_args_list],
                         ["section 1 is not used: tilted beyond 80 degrees", "section 4 is not used: outside -ReconRange"])


@functools.cache
def series(shape: tuple[int, int] = (128, 160), axis: float = AXIS) -> tuple[Array, Array]:
    """A slab of dark blobs, 40 px thick: raw images with Poisson noise (n, ny, nx), and the shifts (n, 2)."""
    import scipy.ndimage

    rng = np.random.default_rng(5)
    points = (rng.random((1500, 3)) - 0.5) * [3.2 * max(shape), 1.6 * max(shape), 40.0]
    shifts = rng.uniform(-6, 6, (len(ANGLES), 2))
    images = []
    for tilt, shift in zip(ANGLES, shifts, strict=True):
        x, y = raw_positions(points, float(tilt), axis, (float(shift[0]), float(shift[1])))
        column, row = x + (shape[1] - 1) / 2, y + (shape[0] - 1) / 2
        image = np.zeros(shape)
        for dy in (0, 1):
            for dx in (0, 1):
                i, j = np.floor(row).astype(int) + dy, np.floor(column).astype(int) + dx
                weight = (1 - np.abs(row - i)) * (1 - np.abs(column - j))
                inside = (i >= 0) & (j >= 0) & (i < shape[0]) & (j < shape[1])
                np.add.at(image, (i[inside], j[inside]), weight[inside])
        absorbed = 3.0 * scipy.ndimage.gaussian_filter(image, 1.4)
        images.append(rng.poisson(300 * np.exp(-absorbed)))
    return np.array(images, float), shifts


def aln_text(shifts: Array, shape: tuple[int, int], axis: float = AXIS) -> str:
    rows = tuple(
        AlnRow(i, axis, float(s[0]), float(s[1]), float(t))
        for i, (s, t) in enumerate(zip(shifts, ANGLES, strict=True))
    )
    return format_aln(AlnFile(rows, (), (shape[1], shape[0], len(ANGLES))))


class InFolder(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.out = self.path("out")
        os.mkdir(self.out)
        environment = mock.patch.dict(os.environ)
        environment.start()
        self.addCleanup(environment.stop)

    def path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def text(self, name: str, content: str) -> str:
        Path(self.path(name)).write_text(content)
        return self.path(name)

    def angle_file(self) -> str:
        order = np.argsort(np.argsort(np.abs(ANGLES) + 1e-3 * (ANGLES < 0))) + 1
        rows = [AngleRow(float(t), int(o), 3.0 * float(o - 1)) for t, o in zip(ANGLES, order, strict=True)]
        return self.text("TS_1.tlt", format_angles(rows))

    def run_it(self, *words: object) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = aretomo.main([*map(str, words), "--threads", "2"])
        return status, out.getvalue(), err.getvalue()

    def left(self) -> list[str]:
        return sorted(os.listdir(self.out))


class AlignmentFlagsTest(InFolder):
    """What the flags ask of the alignment, and what becomes of its answer; the alignment itself is a stand-in here."""

    def asked(self, *words: object) -> tuple[AlignOptions, Array, str]:
        """The options and angles that the alignment is called with, and what the program says."""
        calls: list[tuple[AlignOptions, Array]] = []

        def answer(stack: Array, angles: Array, options: AlignOptions, say: object, orders: object) -> Alignment:
            calls.append((options, np.asarray(angles)))
            tilts = tuple(
                TiltResult(i, float(a), i != 3, "" if i != 3 else "dark: 9 %", 0.0, 0.0, AXIS, (0.1, 0.1) if i != 3 else None)
                for i, a in enumerate(angles)
            )
            return Alignment(tilts, AXIS, 1.5, 480.0, 1.0, "trust", Trust.TRUSTED)

        source = write_mrc(self.path("TS_1.mrcs"), series()[0])
        with mock.patch("tomostream.engine.align.align_series", answer):
            status, out, err = self.run_it(
                "-InMrc", source, "-OutMrc", self.path("out", "TS_1.mrc"), "-AngFile", self.angle_file(), "-VolZ", 40,
                "-OutBin", 4, "-Wbp", 1, *words,
            )  # fmt: skip
        self.assertEqual((status, err), (0, ""), out)
        return *calls[0], out

    def written(self) -> list[float]:
        """Tilt angles in the alignment file."""
        return [row.tilt_deg for row in parse_aln(Path(self.path("out", "TS_1.aln")).read_text()).rows]

    def test_a_tilt_axis_is_refined_unless_its_second_value_is_below_0(self) -> None:
        self.assertEqual(self.what(("-TiltAxis", 84.7, 1)), (84.7, True, False))
        self.assertEqual(self.what(("-TiltAxis", -84.7)), (-84.7, True, False))
        self.assertEqual(self.what(("-TiltAxis", 84.7, -1)), (84.7, False, False))

    def test_a_tilt_axis_of_0_or_none_is_searched_all_around(self) -> None:
        self.assertTrue(self.what(("-TiltAxis", 0, 1))[2])
        self.assertTrue(self.what(())[2])
        self.assertFalse(self.what(("-TiltAxis", 0.01, 1))[2])

    def what(self, words: tuple[object, ...]) -> tuple[float, bool, bool]:
        options = self.asked(*words)[0]
        return options.tilt_axis_deg, options.refine_axis, options.full_axis_search

    def test_tilt_cor_below_0_measures_no_offset(self) -> None:
        self.assertEqual(self.asked("-TiltCor", -1)[0].tilt_cor, -1)

    def test_tilt_cor_0_leaves_the_angles_of_the_reconstruction_alone(self) -> None:
        self.assertEqual(self.asked("-TiltCor", 0)[0].tilt_cor, 0)
        self.assertAlmostEqual(self.written()[0], -54.0)

    def test_tilt_cor_1_gives_the_measured_offset_to_the_reconstruction(self) -> None:
        self.assertEqual(self.asked("-TiltCor", 1)[0].tilt_cor, 1)
        self.assertAlmostEqual(self.written()[0], -52.5)

    def test_a_given_offset_goes_into_the_angles_and_is_not_measured(self) -> None:
        options, angles, _ = self.asked("-TiltCor", 1, 5.0)
        self.assertEqual(options.tilt_cor, -1)
        np.testing.assert_allclose(angles, ANGLES + 5.0, atol=0.01)

    def test_an_alignment_to_start_from_is_scaled_and_handed_on_with_the_offset_that_it_holds(self) -> None:
        rows = tuple(AlnRow(i, AXIS, 4.0 + i, -2.0, float(t) + 7.0) for i, t in enumerate(ANGLES) if i != 2)
        ny, nx = series()[0].shape[1:]
        dark = (DarkFrame(2, 2, float(ANGLES[2]) + 7.0),)
        path = self.text("before.aln", format_aln(AlnFile(rows, dark, (2 * nx, 2 * ny, len(ANGLES)))))
        options, angles, out = self.asked("-StartAln", path)
        np.testing.assert_allclose(angles, ANGLES, atol=0.01)
        start = options.start
        self.assertAlmostEqual(start.offset_deg, 7.0, places=2)
        self.assertAlmostEqual(start.axis_deg, AXIS, places=2)
        self.assertEqual([i for i, there in enumerate(start.known) if not there], [2])
        np.testing.assert_allclose(start.shifts[5], ((4.0 + 5) / 2 - 0.5, -1.0 - 0.5), atol=0.01)
        self.assertFalse(options.full_axis_search)
        self.assertIn("its shifts are scaled by 0.5", out)

    def test_the_tolerance_for_dark_images_is_handed_on_and_what_is_left_out_is_listed(self) -> None:
        self.assertEqual(self.asked("-DarkTol", 0.2)[0].dark_tol, 0.2)
        aln = parse_aln(Path(self.path("out", "TS_1.aln")).read_text())
        self.assertEqual([dark.section for dark in aln.dark], [3])

    def test_sections_of_the_alignment_file_count_from_0(self) -> None:
        self.asked()
        text = Path(self.path("out", "TS_1.aln")).read_text()
        rows = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
        self.assertEqual(sorted(int(row[0]) for row in rows), [i for i in range(len(ANGLES)) if i != 3])
        self.assertRegex(text, r"# DarkFrame = +\d+ +3 ")

    def test_binning_0_is_no_binning(self) -> None:
        source = write_mrc(self.path("TS_1.mrcs"), series()[0])
        status, out, err = self.run_it("-InMrc", source, "-OutMrc", self.path("out", "ali.mrc"), "-AngFile",
                                       self.angle_file(), "-VolZ", 0, "-Align", 0, "-OutBin", 0)  # fmt: skip
        self.assertEqual(status, 0, out + err)
        self.assertEqual(open_stack(self.path("out", "ali.mrc")).shape, series()[0].shape[1:])

    def test_an_axis_and_an_offset_without_alignment_are_said_to_be_unused(self) -> None:
        status, out, _ = self.run_it(
            "-InMrc", write_mrc(self.path("TS_1.mrcs"), series()[0]), "-OutMrc", self.path("out", "v.mrc"), "-AngFile",
            self.angle_file(), "-VolZ", 40, "-OutBin", 4, "-Align", 0, "-TiltAxis", 84.7, 1, "-TiltCor", 1, 5,
        )  # fmt: skip
        self.assertEqual(status, 0, out)
        self.assertIn("warning: -TiltAxis 84.7 1 is not used: the stack is taken as aligned", out)
        self.assertIn("warning: -TiltCor 1 5 is not used", out)

    def test_a_given_thickness_is_told_beside_the_measured_one(self) -> None:
        self.assertIn("-AlignZ (960 A) is not used: the thickness was measured as 480 A", self.asked("-AlignZ", 80)[2])

    def test_regions_are_refused_in_words(self) -> None:
        out = self.asked("-Roi", 10, 10, "-RoiFile", "points.txt")[2]
        self.assertIn("warning: -Roi 10 10 is ignored", out)
        self.assertIn("warning: -RoiFile points.txt is ignored", out)


class AlignedRunTest(InFolder):
    def test_a_series_is_aligned_and_reconstructed(self) -> None:
        images, shifts = series()
        source = write_mrc(self.path("TS_1.mrcs"), images)
        status, out, err = self.run_it(
            "-InMrc", source, "-OutMrc", self.path("out", "TS_1.mrc"), "-AngFile", self.angle_file(),
            "-TiltAxis", 83, 1, "-VolZ", 80, "-OutBin", 2, "-FlipVol", 1, "-Wbp", 1, "-OutImod", 1, "-TiltCor", -1,
        )  # fmt: skip
        self.assertEqual((status, err), (0, ""), out)
        self.assertEqual(
            self.left(),
            ["TS_1.aln", "TS_1.mrc", "TS_1_Imod", "TS_1_projXY.mrc", "TS_1_projXZ.mrc", "TS_1_quality.json"],
        )
        self.assertEqual(open_stack(self.path("out", "TS_1.mrc")).data.shape, (40, 80, 64))
        aln = parse_aln(Path(self.path("out", "TS_1.aln")).read_text())
        self.assertEqual(aln.raw_size, (160, 128, len(ANGLES)))
        self.assertEqual(len(aln.rows), len(ANGLES))
        self.check_shifts(aln, shifts)
        self.check_imod()
        quality = parse_quality(Path(self.path("out", "TS_1_quality.json")).read_text())
        self.assertEqual(len(quality.tilts), len(ANGLES))
        self.assertTrue(all(t.sigma_px is not None and 0 < t.sigma_px < 3 for t in quality.tilts))

    def check_shifts(self, aln: AlnFile, shifts: Array) -> None:
        """The shifts are right but for a move of the specimen as a whole, in the area-centred convention."""
        rot = np.array([math.radians(r.rot_deg) for r in aln.rows])
        tilt = np.array([math.radians(r.tilt_deg) for r in aln.rows])
        self.assertLess(abs(aln.rows[0].rot_deg - AXIS), 0.7)
        difference = np.array([(r.tx, r.ty) for r in aln.rows]) - shifts[[r.section for r in aln.rows]]
        across = difference[:, 0] * np.cos(rot) + difference[:, 1] * np.sin(rot)
        along = -difference[:, 0] * np.sin(rot) + difference[:, 1] * np.cos(rot)
        model = np.stack([np.cos(tilt), np.sin(tilt)], axis=1)
        rest = across - model @ np.linalg.lstsq(model, across, rcond=None)[0]
        self.assertLess(np.sqrt((rest**2).mean()), 0.35)
        self.assertLess(np.std(along), 0.35)
        # at the reference the specimen is not moved
        zero = next(r for r in aln.rows if r.tilt_deg == 0)
        self.assertEqual((zero.tx, zero.ty), (0.0, 0.0))

    def check_imod(self) -> None:
        folder = Path(self.path("out", "TS_1_Imod"))
        names = ["TS_1_st.tlt", "TS_1_st.xf", "TS_1_st.xtilt", "TS_1_st_order_list.csv", "newst.com", "tilt.com"]
        self.assertEqual(sorted(p.name for p in folder.iterdir()), sorted(names))
        self.assertEqual([float(t) for t in (folder / "TS_1_st.tlt").read_text().split()], ANGLES.tolist())
        self.assertEqual(len(parse_xf((folder / "TS_1_st.xf").read_text())), len(ANGLES))
        self.assertEqual((folder / "TS_1_st_order_list.csv").read_text().splitlines()[0], "   1,0.00")

    def test_a_blank_tilt_is_listed_as_a_dark_frame_and_the_rest_is_used(self) -> None:
        images, _ = series()
        images = images.copy()
        images[4] = 0.0
        source = write_mrc(self.path("TS_1.mrc"), images)
        status, out, _ = self.run_it(
            "-InMrc", source, "-OutMrc", self.path("out", "v.mrc"), "-AngFile", self.angle_file(),
            "-TiltAxis", AXIS, -1, "-VolZ", 40, "-OutBin", 4, "-Wbp", 1, "-TiltCor", -1,
        )  # fmt: skip
        self.assertEqual(status, 0, out)
        aln = parse_aln(Path(self.path("out", "TS_1.aln")).read_text())
        self.assertIn((4, 4), [(d.frame, d.section) for d in aln.dark])
        used, dark = raw_sections(aln)
        self.assertEqual(sorted(used + dark), list(range(len(ANGLES))))
        self.assertGreaterEqual(len(used), 14)
        quality = parse_quality(Path(self.path("out", "TS_1_quality.json")).read_text())
        self.assertIn("blank", quality.tilts[4].reason)


class CtfRunTest(InFolder):
    """The CTF's files, for a fit whose result is given: what the fit finds is the affair of test_ctf."""

    def run_with(self, found: CtfResult | Callable[..., CtfResult], *words: object) -> AlnFile:
        images, _ = series()
        source = write_mrc(self.path("TS_1.mrc"), images)
        tilts = tuple(TiltUse(i, float(t), Placement(AXIS, 0.0, 0.0)) for i, t in enumerate(ANGLES) if i != 2)
        dark = (DarkFrame(2, 2, float(ANGLES[2])),)
        solution = Solution(tilts, dark, ((2, "dark"),), Quality())
        with (
            mock.patch("tomostream.engine.steps.align", return_value=solution),
            mock.patch("tomostream.engine.ctf.series.estimate", found if callable(found) else lambda *_: found),
        ):
            status, out, _ = self.run_it(
                "-InMrc", source, "-OutMrc", self.path("out", "v.mrc"), "-AngFile", self.angle_file(), "-VolZ", 40,
                "-OutBin", 4, "-PixSize", 2.7, *words,
            )  # fmt: skip
        self.assertEqual(status, 0, out)
        return parse_aln(Path(self.path("out", "TS_1.aln")).read_text())

    def test_the_rows_of_the_ctf_are_those_of_the_alignment(self) -> None:
        tilts = tuple(CtfTilt(30100.0 + i, 29900.0 + i, 35.0, 0.0, 0.8, 9.5, 50.0) for i in range(len(ANGLES) - 1))
        pictures = np.zeros((len(tilts), 512, 512), np.float32)
        aln = self.run_with(CtfResult(CtfSeries(tilts, 1, True, "", 900.0), pictures, "fine"), "-Kv", 300, "-Cs", 2.7)
        table = np.loadtxt(self.path("out", "TS_1_ctf.txt"), dtype=float, comments="#")
        self.assertEqual(table.shape, (len(aln.rows), 7))
        np.testing.assert_allclose(table[3], [4, 30103, 29903, 35, 0, 0.8, 9.5])
        self.assertEqual(open_stack(self.path("out", "TS_1_ctf.mrc")).data.shape, (len(aln.rows), 512, 512))

    def test_the_phase_shift_is_searched_over_its_whole_width_about_its_middle(self) -> None:
        asked: list[object] = []

        def answer(stack: object, used: object, optics: object, search: object, *rest: object) -> CtfResult:
            asked.append(search)
            return CtfResult(None, None, "none")

        self.run_with(answer, "-Kv", 300, "-Cs", 2.7, "-ExtPhase", 60, 120)
        self.assertEqual(asked, [(60.0, 60.0)])

    def test_the_imod_file_of_the_ctf_counts_views_in_its_own_stack(self) -> None:
        tilts = tuple(CtfTilt(30100.0 + i, 29900.0 + i, 35.0, 0.0, 0.8, 9.5, 50.0) for i in range(len(ANGLES) - 1))
        found = CtfResult(CtfSeries(tilts, 1, True, "", 900.0), np.zeros((len(tilts), 512, 512), np.float32), "fine")
        for kind, view in ((1, 4), (2, 3)):
            self.run_with(found, "-Kv", 300, "-Cs", 2.7, "-OutImod", kind)
            lines = Path(self.path("out", "TS_1_Imod", "TS_1_ctf.txt")).read_text().splitlines()
            self.assertEqual(lines[0].split(), ["1", "0", "0.0", "0.0", "0.0", "3"])
            self.assertEqual(len(lines), len(ANGLES))
            # section 3 is dark: what is third here is fourth in the raw stack
            self.assertEqual([float(v) for v in lines[3].split()], [view, view, -36.0, -36.0, 3010.2, 2990.2, 35.0])

    def test_without_rings_there_is_no_file_but_a_sentence(self) -> None:
        self.run_with(CtfResult(None, None, "no Thon rings were found"), "-Kv", 300, "-Cs", 2.7)
        self.assertNotIn("TS_1_ctf.txt", self.left())
        quality = parse_quality(Path(self.path("out", "TS_1_quality.json")).read_text())
        self.assertEqual(quality.ctf_note, "no Thon rings were found")

    def test_without_the_aberration_no_ctf_is_fitted(self) -> None:
        tilts = (CtfTilt(30100.0, 29900.0, 35.0, 0.0, 0.8, 9.5, 50.0),)
        self.run_with(CtfResult(CtfSeries(tilts, 1, True, "", 900.0), None, ""), "-Kv", 300)
        self.assertNotIn("TS_1_ctf.txt", self.left())


MARKS = np.array([[20.0, 11.0, 9.0], [-25.0, 4.0, -7.0], [6.0, -22.0, 3.0], [-9.0, 18.0, -10.0]])


@functools.cache
def marked(axis: float, scale: float = 1.0) -> tuple[Array, Array]:
    """Raw images (n, 108, 132 px or more) of dark marks that no turn or mirror maps on each other; shifts (n, 2)."""
    shape = (round(108 * scale), round(132 * scale))
    shifts = np.random.default_rng(2).uniform(-5, 5, (len(ANGLES), 2))
    y, x = np.mgrid[: shape[0], : shape[1]] - (np.array(shape).reshape(2, 1, 1) - 1) / 2
    images = np.full((len(ANGLES), *shape), 100.0)
    for image, tilt, shift in zip(images, ANGLES, shifts, strict=True):
        for px, py in zip(*raw_positions(MARKS * scale, float(tilt), axis, (shift[0], shift[1])), strict=True):
            image -= 30 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * (1.6 * scale) ** 2))
    return images, shifts


class PlaceTest(InFolder):
    """Marks come out where they are, in every file from which a tomogram can be made."""

    def check(self, value: Callable[[Array], float], spread: float) -> None:
        """`value` at a point (X, Y, Z) is low at the marks and at none of their mirror images."""
        for mark in MARKS:
            there = value(mark)
            self.assertLess(there, -5 * spread, mark)
            for flip in ((-1, 1, 1), (1, -1, 1), (1, 1, -1), (-1, -1, 1), (-1, 1, -1), (1, -1, -1)):
                self.assertGreater(value(mark * flip), 0.5 * there, f"{mark} is also found at {flip}")

    def test_the_program_puts_marks_where_they_are_for_any_axis_and_orientation(self) -> None:
        for axis, flip, binning in (
            (0.0, 1, 1.0), (0.0, 0, 1.0), (90.0, 1, 1.0), (-95.0, 0, 1.0), (-95.0, 1, 1.0), (85.0, 0, 1.0),
            (180.0, 1, 1.0), (-179.0, 0, 1.0), (85.0, 1, 2.5), (0.0, 0, 2.5),
        ):  # fmt: skip
            images, shifts = marked(axis, binning)
            source = write_mrc(self.path("TS_1.mrc"), images)
            aln = self.text("given.aln", aln_text(shifts, (images.shape[1], images.shape[2]), axis))
            status, out, err = self.run_it(
                "-InMrc", source, "-OutMrc", self.path("out", "v.mrc"), "-AlnFile", aln, "-VolZ", round(40 * binning),
                "-OutBin", binning, "-FlipVol", flip, "-Wbp", 1,
            )  # fmt: skip
            self.assertEqual((status, err), (0, ""), out)
            volume = np.array(open_stack(self.path("out", "v.mrc")).data, float)
            if not flip:
                # x, z, y: sections are y, and z falls with the rows, so that nothing is mirrored
                volume = volume.transpose(1, 0, 2)[::-1]
            self.assertEqual(volume.shape, (40, 108, 132) if abs(math.sin(math.radians(axis))) < 0.7 else (40, 132, 108))
            middle = (np.array(volume.shape) - 1) / 2

            def value(point: Array, volume: Array = volume, middle: Array = middle) -> float:
                return float(volume[tuple(np.round(middle + point[::-1]).astype(int))])

            self.check(value, float(volume.std()))

    def check_again(self, source: str, kind: int, folder: Path) -> None:
        """From the alignment file alone the same files come."""
        os.makedirs(self.path("again"), exist_ok=True)
        status, out, _ = self.run_it("-InMrc", source, "-OutMrc", self.path("again", "v.mrc"), "-AlnFile",
                                     self.path("out", "TS_1.aln"), "-AngFile", self.angle_file(), "-VolZ", 0, "-OutImod", kind)
        self.assertEqual(status, 0, out)
        for name in ("TS_1_st.tlt", "TS_1_st_order_list.csv"):
            again = Path(self.path("again", "TS_1_Imod", name))
            self.assertEqual(again.read_text(), (folder / name).read_text(), name)
        found = np.loadtxt(self.path("again", "TS_1_Imod", "TS_1_st.xf"))
        self.assertLess(np.abs(found - np.loadtxt(folder / "TS_1_st.xf")).max(), 2e-3)

    def test_the_imod_files_lead_to_the_same_places(self) -> None:
        for axis, kind in ((85.0, 1), (85.0, 2), (-4.0, 3), (-95.0, 1)):
            images, shifts = marked(axis)
            source = write_mrc(self.path("TS_1.mrc"), images)
            tilts = [
                TiltUse(i, float(t), Placement(axis, float(s[0]), float(s[1])))
                for i, (t, s) in enumerate(zip(ANGLES, shifts, strict=True))
            ]
            dark = (DarkFrame(5, 5, float(ANGLES[5])),)
            solution = Solution(tuple(t for t in tilts if t.section != 5), dark, ((5, "dark"),))
            with mock.patch("tomostream.engine.steps.align", return_value=solution):
                status, out, _ = self.run_it(
                    "-InMrc", source, "-OutMrc", self.path("out", "v.mrc"), "-AngFile", self.angle_file(), "-VolZ", 40,
                    "-OutBin", 2, "-OutImod", kind,
                )  # fmt: skip
            self.assertEqual(status, 0, out)
            folder = Path(self.path("out", "TS_1_Imod"))
            stack = np.asarray(open_stack(source if kind == 1 else str(folder / "TS_1_st.mrc")).data)
            angles = np.loadtxt(folder / "TS_1_st.tlt")
            transforms = np.loadtxt(folder / "TS_1_st.xf")
            self.check_again(source, kind, folder)
            com = (folder / "tilt.com").read_text().splitlines()
            left_out = [int(v) - 1 for line in com if line.startswith("EXCLUDELIST") for v in line.split()[1].split(",")]
            self.assertEqual(left_out, [5] if kind == 1 else [])
            self.assertEqual((len(stack), len(transforms)), (len(angles), len(angles)))
            views = [
                (np.array(stack[i], float), float(angles[i]), transforms[i]) for i in range(len(angles)) if i not in left_out
            ]
            self.check(lambda point, views=views: imod_value(views, point), 1.0)  # type: ignore[misc]


def imod_value(views: list[tuple[Array, float, Array]], point: Array) -> float:
    """Back-projection at a point (X, Y, Z), as IMOD's newstack and tilt would have it: each view's mean taken off.

    A transform is aligned = A raw + d, both from the centre of the area; the point is seen at X cos t + Z sin t, Y.
    """
    total = 0.0
    for image, tilt, (a11, a12, a21, a22, dx, dy) in views:
        t = math.radians(tilt)
        aligned = np.array([point[0] * math.cos(t) + point[2] * math.sin(t) - dx, point[1] - dy])
        x, y = np.linalg.solve([[a11, a12], [a21, a22]], aligned)
        column, row = (round(float(v + (n - 1) / 2)) for v, n in ((x, image.shape[1]), (y, image.shape[0])))
        total += float(image[row, column] - np.median(image))
    return total / len(views)


class GivenAlignmentTest(InFolder):
    def setUp(self) -> None:
        super().setUp()
        images, self.shifts = series()
        self.source = write_mrc(self.path("TS_1.mrcs"), images)
        self.aln = self.text("given.aln", aln_text(self.shifts, (128, 160)))

    def volume(self, name: str, *words: object, source: str = "") -> Array:
        path = self.path("out", name)
        status, out, err = self.run_it("-InMrc", source or self.source, "-OutMrc", path, *words)
        self.assertEqual((status, err), (0, ""), out)
        return np.array(open_stack(path).data, float)

    def test_a_given_alignment_is_used_and_not_written_again(self) -> None:
        volume = self.volume("v.mrc", "-AlnFile", self.aln, "-VolZ", 60, "-FlipVol", 1)
        self.assertEqual(volume.shape, (60, 160, 128))
        self.assertEqual(self.left(), ["v.mrc", "v_projXY.mrc", "v_projXZ.mrc"])

    def halves(self) -> list[object]:
        """Arguments for the even and the odd half of the counts."""
        images, _ = series()
        even = np.random.default_rng(1).binomial(images.astype(int), 0.5).astype(float)
        write_mrc(self.path("e.mrcs"), even)
        write_mrc(self.path("o.mrcs"), images - even)
        return ["-InEven", self.path("e.mrcs"), "-InOdd", self.path("o.mrcs")]

    def test_even_and_odd_volumes_come_from_one_run_and_add_up_to_the_whole(self) -> None:
        kind = ["-AlnFile", self.aln, "-VolZ", 48, "-OutBin", 2, "-FlipVol", 1, "-PixSize", 5]
        whole = self.volume("v.mrc", *kind, *self.halves())
        even, odd = (np.array(open_stack(self.path("out", f"v_{name}.mrc")).data, float) for name in ("even", "odd"))
        inner = (slice(6, -6), slice(8, -8), slice(8, -8))
        self.assertGreater(np.corrcoef(even[inner].ravel(), odd[inner].ravel())[0, 1], 0.7)
        np.testing.assert_allclose(even + odd, whole, atol=1e-4 * whole.std())
        np.testing.assert_allclose(whole, self.volume("w.mrc", *kind), atol=0)
        quality = parse_quality(Path(self.path("out", "TS_1_quality.json")).read_text())
        self.assertLess(quality.resolution_xy_A, 40)
        self.assertGreater(quality.resolution_xy_A, 19)
        self.assertLess(quality.resolution_z_A, 80)

    def test_the_odd_volume_is_the_same_whether_it_is_reconstructed_or_is_the_whole_less_the_even_one(self) -> None:
        kind, given = ["-AlnFile", self.aln, "-VolZ", 48, "-OutBin", 2, "-FlipVol", 1, "-PixSize", 5], self.halves()
        made = []
        for count in (1, 0):
            with mock.patch.object(halves, "subtract", wraps=halves.subtract) as subtracted:
                self.volume("v.mrc", *kind, *given)
            self.assertEqual(subtracted.call_count, count)
            made.append(np.array(open_stack(self.path("out", "v_odd.mrc")).data, float))
            odd = np.array(open_stack(self.path("o.mrcs")).data)
            odd[0, 0, 0] += 0.01                        # they do not add up to the whole any more
            write_mrc(self.path("o.mrcs"), odd)
        np.testing.assert_allclose(made[0], made[1], atol=1e-4 * made[1].std())

    def test_the_resolution_joins_what_was_known_of_a_given_alignment(self) -> None:
        known = Quality(thickness_A=200.0, quality=0.7, quality_note="trust", program="an earlier run")
        Path(self.path("out", "TS_1_quality.json")).write_text(format_quality(known))
        self.volume("v.mrc", "-AlnFile", self.aln, "-VolZ", 48, "-OutBin", 2, "-PixSize", 5, *self.halves())
        quality = parse_quality(Path(self.path("out", "TS_1_quality.json")).read_text())
        self.assertEqual((quality.thickness_A, quality.quality_note, quality.program), (200.0, "trust", "an earlier run"))
        self.assertIsNotNone(quality.resolution_xy_A)

    def test_halves_of_an_aligned_run_come_with_the_alignment(self) -> None:
        status, out, err = self.run_it(
            "-InMrc", self.source, "-OutMrc", self.path("out", "TS_1.mrc"), "-AngFile", self.angle_file(), "-TiltAxis", 83, 1,
            "-VolZ", 48, "-OutBin", 2, "-PixSize", 10, *self.halves())  # fmt: skip
        self.assertEqual((status, err), (0, ""), out)
        self.assertEqual(self.left(), ["TS_1.aln", "TS_1.mrc", "TS_1_even.mrc", "TS_1_odd.mrc", "TS_1_projXY.mrc",
                                       "TS_1_projXZ.mrc", "TS_1_quality.json"])
        quality = parse_quality(Path(self.path("out", "TS_1_quality.json")).read_text())
        self.assertEqual((len(quality.tilts), quality.resolution_xy_A is not None), (len(ANGLES), True))
        self.assertGreater(quality.tilt_offset_sigma_deg, 0.0)
        self.assertRegex(out, r"resolution by the halves .*: \d+ A in the plane, \d+ A along z")

    def test_the_wiener_tomogram_comes_beside_the_volume_and_changes_nothing_of_it(self) -> None:
        kind = ["-AlnFile", self.aln, "-VolZ", 60, "-FlipVol", 1, "-PixSize", PIXEL]
        alone = self.volume("a.mrc", *kind)
        both = self.volume("b.mrc", *kind, "-Wiener", 1)
        np.testing.assert_array_equal(alone, both)
        filtered = np.array(open_stack(self.path("out", "b_wiener.mrc")).data, float)
        self.assertEqual(filtered.shape, both.shape)
        self.assertTrue(np.isfinite(filtered).all())
        inner = (slice(24, 36), slice(20, -20), slice(20, -20))
        self.assertGreater(np.corrcoef(filtered[inner].ravel(), both[inner].ravel())[0, 1], 0.3)
        self.assertIn("b_wiener.mrc", self.left())
        self.assertNotIn("a_wiener.mrc", self.left())

    def test_without_a_ctf_the_filtered_tomogram_is_made_and_the_flipping_is_not_and_both_are_said(self) -> None:
        status, out, _ = self.run_it("-InMrc", self.source, "-OutMrc", self.path("out", "v.mrc"), "-AlnFile", self.aln,
                                     "-VolZ", 60, "-PixSize", PIXEL, "-Wiener", 1, "-CorrCTF", 1)  # fmt: skip
        self.assertEqual(status, 0, out)
        self.assertRegex(out, "no CTF of the tilts is known: -CorrCTF 1 is not done; the Wiener tomogram holds up to the first")
        self.assertRegex(out, r"Wiener tomogram: specimen of \d+ A.*; the CTF is not known")

    def test_the_ctf_beside_a_given_alignment_is_used(self) -> None:
        rows = [CtfRow(i, 31000.0, 30000.0, 20.0, 0.0, 0.9, 20.0) for i in range(1, len(ANGLES) + 1)]
        self.text("given_ctf.txt", format_ctf(rows))
        kind = ["-AlnFile", self.aln, "-VolZ", 60, "-FlipVol", 1, "-PixSize", PIXEL]
        plain = self.volume("p.mrc", *kind)
        status, out, _ = self.run_it("-InMrc", self.source, "-OutMrc", self.path("out", "f.mrc"), *kind, "-CorrCTF", 1, "-Wiener",
                                     1)  # fmt: skip
        self.assertEqual(status, 0, out)
        self.assertRegex(out, f"CTF of {len(ANGLES)} tilts from .*given_ctf.txt")
        self.assertRegex(out, "how the defocus changes across the tilt axis is not known")
        flipped = np.array(open_stack(self.path("out", "f.mrc")).data, float)
        together = np.corrcoef(flipped.ravel(), plain.ravel())[0, 1]
        self.assertTrue(0.2 < together < 0.999, together)

    def test_sections_in_any_order_and_from_one_give_the_same_volume(self) -> None:
        straight = self.volume("a.mrc", "-AlnFile", self.aln, "-VolZ", 40, "-OutBin", 2)
        order = np.random.default_rng(3).permutation(len(ANGLES))
        images, _ = series()
        shuffled = write_mrc(self.path("s.mrc"), images[order])
        place = np.argsort(order)
        rows = tuple(
            AlnRow(int(place[i]) + 1, AXIS, float(s[0]), float(s[1]), float(t))
            for i, (s, t) in enumerate(zip(self.shifts, ANGLES, strict=True))
        )
        aln = self.text("one.aln", format_aln(AlnFile(rows, (), (160, 128, len(ANGLES)))))
        other = self.volume("b.mrc", "-AlnFile", aln, "-VolZ", 40, "-OutBin", 2, source=shuffled)
        np.testing.assert_allclose(other, straight, atol=2e-3 * np.abs(straight).max())

    def test_many_images_are_kept_in_a_file_that_goes_again(self) -> None:
        inside = self.volume("a.mrc", "-AlnFile", self.aln, "-VolZ", 40, "-OutBin", 2)
        with mock.patch("tomostream.engine.recon.images._IN_MEMORY", 0):
            outside = self.volume("b.mrc", "-AlnFile", self.aln, "-VolZ", 40, "-OutBin", 2)
        np.testing.assert_array_equal(inside, outside)
        self.assertEqual(len(self.left()), 6)

    def test_depth_zero_writes_the_aligned_stack(self) -> None:
        stack = self.volume("ali.mrc", "-AlnFile", self.aln, "-VolZ", 0, "-OutBin", 2)
        self.assertEqual(stack.shape, (len(ANGLES), 80, 64))
        self.assertEqual(self.left(), ["ali.mrc"])
        images, _ = series()
        self.assertAlmostEqual(stack[9].mean(), images[9].mean(), delta=0.02 * images[9].mean())

    def test_align_zero_takes_the_stack_as_aligned(self) -> None:
        aligned = self.volume("ali.mrc", "-AlnFile", self.aln, "-VolZ", 0)
        again = write_mrc(self.path("ali_in.mrc"), aligned)
        a = self.volume("a.mrc", "-AlnFile", self.aln, "-VolZ", 40, "-FlipVol", 1)
        b = self.volume("b.mrc", "-AngFile", self.angle_file(), "-Align", 0, "-VolZ", 40, "-FlipVol", 1, source=again)
        self.assertEqual(a.shape, b.shape)
        inner = (slice(None), slice(16, -16), slice(16, -16))
        self.assertGreater(np.corrcoef(a[inner].ravel(), b[inner].ravel())[0, 1], 0.97)

    def test_dose_weighting_uses_the_doses_of_the_angle_file(self) -> None:
        kind = ["-AlnFile", self.aln, "-VolZ", 40, "-OutBin", 1, "-Wbp", 1, "-Kv", 300, "-PixSize", 3.0]
        plain = self.volume("p.mrc", *kind)
        weighted = self.volume("w.mrc", *kind, "-ImgDose", 3, "-AngFile", self.angle_file())
        by_order = self.text(
            "order.tlt",
            "".join(f"{r.tilt_deg} {r.order}\n" for r in parse_angle_file(Path(self.angle_file()).read_text())[0]),
        )
        ordered = self.volume("o.mrc", *kind, "-ImgDose", 3, "-AngFile", by_order)
        self.assertGreater(np.abs(weighted - plain).max(), 0.02 * np.abs(plain).max())
        np.testing.assert_allclose(ordered, weighted, atol=1e-6 * np.abs(plain).max())

    def test_after_any_dose_the_weights_are_numbers(self) -> None:
        kind = ["-AlnFile", self.aln, "-VolZ", 40, "-OutBin", 1, "-Wbp", 1, "-PixSize", 3.0, "-ImgDose", 3, "-AngFile"]
        rows = parse_angle_file(Path(self.angle_file()).read_text())[0]
        late = [AngleRow(r.tilt_deg, r.order, (r.pre_exposure or 0.0) + 20000) for r in rows]
        weighted = self.volume("w.mrc", *kind, self.angle_file())
        np.testing.assert_allclose(self.volume("l.mrc", *kind, self.text("late.tlt", format_angles(late))), weighted,
                                   atol=1e-4 * np.abs(weighted).max())  # fmt: skip

    def test_dose_weighting_that_cannot_be_done_is_said(self) -> None:
        path = self.path("out", "v.mrc")
        status, out, _ = self.run_it(
            "-InMrc", self.source, "-OutMrc", path, "-AlnFile", self.aln, "-VolZ", 40, "-OutBin", 4, "-ImgDose", 3
        )
        self.assertEqual(status, 0)
        self.assertIn("warning: -ImgDose without the angle file (-AngFile): the tilts are not dose weighted", out)

    def test_tilts_outside_the_range_and_blank_ones_are_left_out_and_named(self) -> None:
        images, _ = series()
        images = images.copy()
        images[3] = 5.0
        source = write_mrc(self.path("b.mrc"), images)
        status, out, _ = self.run_it(
            "-InMrc", source, "-OutMrc", self.path("out", "v.mrc"), "-AlnFile", self.aln, "-VolZ", 40, "-OutBin", 4,
            "-ReconRange", -50, 50,
        )  # fmt: skip
        self.assertEqual(status, 0)
        self.assertIn("section 4 is not used: blank", out)
        self.assertIn("section 1 is not used: outside -ReconRange", out)

    def test_patches_are_not_measured_beside_an_alignment_file_and_it_is_said(self) -> None:
        _, out, _ = self.run_it(
            "-InMrc", self.source, "-OutMrc", self.path("out", "v.mrc"), "-AlnFile", self.aln, "-VolZ", 40,
            "-OutBin", 4, "-Patch", 5, 5,
        )  # fmt: skip
        self.assertIn("warning: -Patch 5 5 is not used: the local shifts are those of the alignment file", out)


class WithSeries(InFolder):
    """A tilt series with its alignment, and where a volume is to go."""

    def setUp(self) -> None:
        super().setUp()
        images, shifts = series()
        self.source = write_mrc(self.path("TS_1.mrc"), images)
        self.aln = self.text("given.aln", aln_text(shifts, (128, 160)))
        self.target = self.path("out", "v.mrc")


class RefusalTest(WithSeries):
    def refused(self, pattern: str, *words: object) -> None:
        before = self.left()
        status, _, err = self.run_it(*words)
        self.assertEqual(status, 1)
        self.assertRegex(err, f"^tomostream-aretomo: error: .*{pattern}")
        self.assertEqual(err.count("\n"), 1)
        self.assertEqual(self.left(), before)

    def test_each_mistake_has_its_sentence_and_leaves_nothing(self) -> None:
        good = ["-InMrc", self.source, "-OutMrc", self.target]
        aln = ["-AlnFile", self.aln, "-VolZ", 40, "-OutBin", 4]
        short = self.text("short.tlt", "0\n3\n")
        words = self.text("words.tlt", "zero\n")
        other = self.text("other.aln", aln_text(series()[1], (100, 160)))
        self.refused("-InMrc is missing", "-OutMrc", self.target)
        self.refused("-OutMrc is missing", "-InMrc", self.source)
        self.refused("tilt angles are missing, and the header of .* has none", *good)
        self.refused("2 tilt angles, but the stack has 19", *good, "-AngFile", short)
        self.refused("line 1: 'zero' is not numbers", *good, "-AngFile", words)
        self.refused("-AngFile .*nowhere.tlt does not exist", *good, "-AngFile", self.path("nowhere.tlt"))
        self.refused("-InMrc .*nowhere.mrc does not exist", "-InMrc", self.path("nowhere.mrc"), *good[2:], *aln)
        self.refused("is for a stack of 160 x 100 px", *good, "-AlnFile", other)
        self.refused("does not exist", "-InMrc", self.source, "-OutMrc", self.path("no", "v.mrc"), *aln)
        self.refused("is the input itself", "-InMrc", self.source, "-OutMrc", self.source, *aln)
        self.refused("-CropVol is not supported", *good, *aln, "-CropVol", 50, 50)
        self.refused("-InEven and -InOdd go together", *good, *aln, "-InOdd", self.source)
        self.refused("give halves of the same tilts", *good, *aln, "-InEven", write_mrc(self.path("s.mrc"), np.ones((5, 32, 32))),
                     "-InOdd", self.source)  # fmt: skip
        self.refused("unknown option -VolX; did you mean -VolZ", *good, *aln, "-VolX", 50)
        self.refused("-OutBin must be 0 .* or at least 1", *good, "-AlnFile", self.aln, "-OutBin", 0.5)
        self.refused("too small", *good, "-AlnFile", self.aln, "-VolZ", 4, "-OutBin", 4)
        self.refused("no tilt is left", *good, *aln, "-ReconRange", 70, 80)
        self.refused("-StartAln is to be refined by an alignment", *good, "-AlnFile", self.aln, "-StartAln", self.aln)
        self.refused("-TiltCor must start with -1, 0 or 1", *good, "-AngFile", self.angle_file(), "-TiltCor", 7)
        self.refused("--threads must be from 0 to 1024", *good, *aln, "--threads", 10**6)

    def test_angles_of_no_tilt_series_are_refused_before_any_work(self) -> None:
        good = ["-InMrc", self.source, "-OutMrc", self.target, "-AngFile"]
        same = self.text("same.tlt", "0\n" * len(ANGLES))
        radians = self.text("radians.tlt", "".join(f"{math.radians(angle):.4f}\n" for angle in ANGLES))
        negative = self.text("negative.tlt", "".join(f"{angle} {i + 1} {i - 3}\n" for i, angle in enumerate(ANGLES)))
        with mock.patch("tomostream.engine.align.align_series", side_effect=AssertionError("it began to work")):
            self.refused("span 0 degrees only; give them in degrees", *good, same)
            self.refused("span 1.8.* degrees only; give them in degrees", *good, radians)
            self.refused("a dose before a tilt is negative", *good, negative)
            self.refused("-ReconRange 70 80 holds no tilt of .*, which has -54 to 54", *good, self.angle_file(),
                         "-ReconRange", 70, 80)  # fmt: skip

    def test_an_angle_file_with_the_mark_of_a_windows_editor_is_read(self) -> None:
        Path(self.path("bom.tlt")).write_text("".join(f"{angle}\n" for angle in ANGLES), encoding="utf-8-sig")
        status, out, _ = self.run_it("-InMrc", self.source, "-OutMrc", self.target, "-AngFile", self.path("bom.tlt"), "-Align", 0,
                                     "-VolZ", 40, "-OutBin", 4)  # fmt: skip
        self.assertEqual(status, 0, out)

    def test_no_result_replaces_what_is_read_or_another_result(self) -> None:
        angles = self.angle_file()
        self.refused("would replace .*TS_1.tlt, which is read", "-InMrc", self.source, "-OutMrc", angles, "-AngFile", angles)
        self.refused("two results would be called .*TS_1.aln", "-InMrc", self.source, "-OutMrc", self.path("out", "TS_1.aln"),
                     "-AngFile", angles)  # fmt: skip
        self.assertEqual(len(Path(angles).read_text().splitlines()), len(ANGLES))

    def test_images_of_too_little_specimen_are_refused(self) -> None:
        good = ["-InMrc", self.source, "-OutMrc", self.target, "-AngFile", self.angle_file(), "-TiltAxis", 84.7]
        self.refused("show 128 x 160 A of the specimen at 1 A/px, but 320 A are needed", *good, "-PixSize", 1)
        self.refused("a pixel of 3000 A is not that of a tilt series", *good, "-PixSize", 3000)

    def test_broken_stacks_are_refused(self) -> None:
        images, _ = series()
        aln = ["-AlnFile", self.aln, "-VolZ", 40, "-OutBin", 4]
        huge = write_mrc(self.path("huge.mrc"), images * 1e30)
        self.refused("no tilt is left .*too large for any image", "-InMrc", huge, "-OutMrc", self.target, *aln)
        flat = write_mrc(self.path("flat.mrc"), np.ones_like(images))
        self.refused("no tilt is left .*blank", "-InMrc", flat, "-OutMrc", self.target, *aln)
        cut = write_mrc(self.path("cut.mrc"), images)
        os.truncate(cut, 50000)
        self.refused("is truncated", "-InMrc", cut, "-OutMrc", self.target, *aln)
        nameless = write_mrc(self.path("nopix.mrc"), images, 0.0)
        self.refused("give -PixSize", "-InMrc", nameless, "-OutMrc", self.target, "-AngFile", self.angle_file())

    def test_one_image_with_values_that_are_not_finite_is_left_out(self) -> None:
        images = series()[0].copy()
        images[7, 3, 3] = np.nan
        bad = write_mrc(self.path("nan.mrc"), images)
        aln = self.text("nan.aln", aln_text(series()[1], (128, 160)))
        status, out, err = self.run_it("-InMrc", bad, "-OutMrc", self.target, "-AlnFile", aln, "-VolZ", 40, "-OutBin", 4)
        self.assertEqual((status, err), (0, ""), out)
        self.assertIn("section 8 is not used: holds values that are not finite", out)
        self.assertTrue(np.isfinite(np.asarray(open_stack(self.target).data)).all())

    def test_one_image_of_a_half_with_values_that_are_not_finite_is_left_out_of_all(self) -> None:
        images, shifts = series()
        half = images / 2
        odd = write_mrc(self.path("odd.mrc"), half)
        half[7, 3, 3] = np.inf
        even = write_mrc(self.path("even.mrc"), half)
        aln = self.text("x.aln", aln_text(shifts, (128, 160)))
        status, out, err = self.run_it(
            "-InMrc", self.source, "-InEven", even, "-InOdd", odd, "-OutMrc", self.target, "-AlnFile", aln, "-VolZ", 40,
            "-OutBin", 4, "-OutImod", 1)  # fmt: skip
        self.assertEqual((status, err), (0, ""), out)
        self.assertIn("section 8 is not used: holds values that are not finite, or too large for any image in", out)
        angles = Path(self.out, "TS_1_Imod", "TS_1_st.tlt").read_text().split()
        self.assertEqual([float(angle) for angle in angles], ANGLES.tolist())

    def test_a_volume_that_the_disk_cannot_hold_is_refused_before_the_alignment(self) -> None:
        disk = mock.Mock(f_bavail=10, f_frsize=4096)
        with mock.patch("os.statvfs", return_value=disk), mock.patch("tomostream.engine.steps.solve") as work:
            self.refused("v.mrc needs 0.00 GiB and .* has 0.00 GiB free", "-InMrc", self.source, "-OutMrc", self.target,
                         "-AngFile", self.angle_file(), "-VolZ", 40, "-OutBin", 2)  # fmt: skip
        work.assert_not_called()

    def test_a_full_disk_is_told_before_the_work(self) -> None:
        no_room = OSError(28, "No space left on device")
        with mock.patch("os.posix_fallocate", side_effect=no_room):
            self.refused("no space is left on the disk", "-InMrc", self.source, "-OutMrc", self.target,
                         "-AlnFile", self.aln, "-VolZ", 40, "-OutBin", 4)  # fmt: skip

    def test_ctrl_c_leaves_nothing_behind(self) -> None:
        kept = self.text("out/v.mrc", "what was there")
        with mock.patch("tomostream.engine.recon.slab.Slab.blocks", side_effect=KeyboardInterrupt):
            status, _, err = self.run_it(
                "-InMrc", self.source, "-OutMrc", self.target, "-AlnFile", self.aln, "-VolZ", 40, "-OutBin", 4
            )
        self.assertEqual(status, 130)
        self.assertIn("interrupted", err)
        self.assertEqual(self.left(), ["v.mrc"])
        self.assertEqual(Path(kept).read_text(), "what was there")


class CommandTest(unittest.TestCase):
    def test_help_and_version_import_nothing_heavy(self) -> None:
        code = (
            "import sys; from tomostream.engine.aretomo import main; status = main([sys.argv[1]]);"
            "heavy = {'numpy', 'scipy', 'numba', 'pyworkflow'} & set(sys.modules); sys.exit(status or bool(heavy))"
        )
        for word in ("--help", "--version"):
            done = subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("tomostream-aretomo", done.stdout)

    def test_every_flag_that_upstream_sends_is_known(self) -> None:
        sent = (
            "-InMrc -OutMrc -OutImod -Align -VolZ -OutBin -FlipInt -FlipVol -PixSize -Kv -DarkTol -AmpContrast -Gpu "
            "-ImgDose -AngFile -AlignZ -AlnFile -Sart -Wbp -Cs -ExtPhase -TiltAxis -TiltCor -RoiFile -Patch -Roi"
        )
        self.assertEqual([tag for tag in sent.split() if tag.lower() not in aretomo.KNOWN], [])

    def test_the_headers_size_is_that_of_the_format(self) -> None:
        self.assertEqual(HEADER_BYTES, 1024)


if __name__ == "__main__":
    unittest.main()
