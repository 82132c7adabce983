# SPDX-License-Identifier: GPL-3.0-or-later
"""Local alignment: specimens that deform in a known way, from the images to the tomogram and its files."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import shutil
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import mrcfile
import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from tomostream.engine import aretomo
from tomostream.engine.align import Alignment, AlignOptions, TiltResult
from tomostream.engine.align.local import LocalMotion, local_motion, patches_of
from tomostream.engine.recon.aligned import LocalShifts
from tomostream.files.mrc_header import mrc_header
from tomostream.programs.aln import AlnFile, AngleRow, LocalShift, format_aln, format_angles, parse_aln
from tomostream.programs.quality import LocalQuality, Trust, parse_quality

Array = NDArray[np.float64]
PIXEL, SIDE, THICK, AXIS = 10.0, 256, 40, 84.7
ANGLES = np.arange(-60.0, 61.0, 5.0)
MOVED = 1.5  # times `motion`: 0.7 px RMS
RANK = np.argsort(np.argsort(np.abs(ANGLES) + 1e-3 * (ANGLES < 0)))  # acquired outward from 0 degrees


def motion(points: Array, tilt: int, amplitude: float) -> Array:
    """How far points (n, 3) have moved at a tilt, px: a shear and a bend in the plane that grow quickly, then slowly."""
    x, y = points[:, 0] / SIDE, points[:, 1] / SIDE
    grown = amplitude * (1.0 - math.exp(-RANK[tilt] / 8.0) - 0.6)
    return np.stack([grown * 2.0 * np.sin(4.0 * y + 0.5), grown * 2.5 * np.sin(3.0 * x - 0.4), np.zeros(len(x))], axis=1)


def seen(points: Array, tilt: int) -> Array:
    """Raw positions (n, 2) from the image centre, index n / 2, px."""
    t, a = math.radians(ANGLES[tilt]), math.radians(AXIS)
    x, y = points[:, 0] * math.cos(t) + points[:, 2] * math.sin(t), points[:, 1]
    return np.stack([x * math.cos(a) - y * math.sin(a), x * math.sin(a) + y * math.cos(a)], axis=1) + shifts()[tilt]


def shifts() -> Array:
    return np.random.default_rng(3).uniform(-4, 4, (len(ANGLES), 2)) * (ANGLES != 0)[:, None]


@functools.cache
def series(amplitude: float, noise: bool = True) -> NDArray[np.float32]:
    """Images (n, SIDE, SIDE) of a slab of dark blobs that moves by `amplitude` times `motion`."""
    random = np.random.default_rng(5)
    points = (random.random((9000, 3)) - 0.5) * [2.9 * SIDE, 1.4 * SIDE, THICK]
    images = []
    for tilt in range(len(ANGLES)):
        place = seen(points + motion(points, tilt, amplitude), tilt) + SIDE / 2
        image = np.zeros((SIDE, SIDE))
        for down in (0, 1):
            for right in (0, 1):
                i, j = np.floor(place[:, 1]).astype(int) + down, np.floor(place[:, 0]).astype(int) + right
                weight = (1 - np.abs(place[:, 1] - i)) * (1 - np.abs(place[:, 0] - j))
                inside = (i >= 0) & (j >= 0) & (i < SIDE) & (j < SIDE)
                np.add.at(image, (i[inside], j[inside]), weight[inside])
        counts = 200.0 * np.exp(-1.5 * scipy.ndimage.gaussian_filter(image, 1.4))
        images.append(random.poisson(counts) if noise else counts)
    return np.array(images, np.float32)


def global_answer(used: Callable[[int], bool] = lambda tilt: True) -> Alignment:
    """What a perfect global alignment of the rigid series is."""
    rows = tuple(
        TiltResult(i, float(t), used(i), "" if used(i) else "dark", float(s[0]), float(s[1]), AXIS, (0.1, 0.1))
        for i, (t, s) in enumerate(zip(ANGLES, shifts(), strict=True))
    )
    return Alignment(rows, AXIS, 0.0, THICK * PIXEL, 1.0, "trust", Trust.TRUSTED)


@functools.cache
def measured(amplitude: float, ordered: bool = True) -> LocalMotion:
    options = AlignOptions(PIXEL, AXIS, threads=2)
    order = [int(r) + 1 for r in RANK] if ordered else None
    return local_motion(series(amplitude), global_answer(), options, (3, 3), lambda line: None, order)


def blurring(amplitude: float, found: LocalMotion, sign: float = 1.0) -> float:
    """RMS over tilts and field, px, of the true motion minus `sign` times what was found, without the mean of each tilt and
    what a specimen of another shape at rest would show."""
    line = np.linspace(-0.35, 0.35, 7) * SIDE
    grid = np.stack(np.meshgrid(line, line, [0.0]), axis=-1).reshape(-1, 3)
    left = []
    for tilt in range(len(ANGLES)):
        error = seen(grid + motion(grid, tilt, amplitude), tilt) - seen(grid, tilt)
        if found.tilts:
            of = found.tilts[tilt]
            local = LocalShifts.through(LocalShifts(of.x, of.y, of.dx, of.dy), SIDE, SIDE)
            place = seen(grid, tilt)
            error -= sign * local.at(place[:, 0], place[:, 1], SIDE, SIDE).T
        left.append(error - error.mean(axis=0))
    rest = np.array(left)
    a, t = math.radians(AXIS), np.radians(ANGLES)
    across, along = rest @ [math.cos(a), math.sin(a)], rest @ [-math.sin(a), math.cos(a)]
    design = np.stack([np.cos(t), np.sin(t)], axis=1)
    across -= design @ np.linalg.lstsq(design, across, rcond=None)[0]
    return float(np.sqrt(np.mean(across**2 + (along - along.mean(axis=0)) ** 2)))


NOTHING = LocalMotion((), (3, 3), 0.0, "")


class MeasuredMotionTest(unittest.TestCase):
    def test_most_of_a_known_motion_is_found(self) -> None:
        before, after = blurring(MOVED, NOTHING), blurring(MOVED, measured(MOVED))
        self.assertGreater(before, 0.4)
        self.assertLess(after, 0.45 * before)

    def test_the_other_sign_would_make_it_worse(self) -> None:
        self.assertGreater(blurring(MOVED, measured(MOVED), -1.0), 1.5 * blurring(MOVED, NOTHING))

    def test_its_size_is_told_in_words_and_as_a_number(self) -> None:
        found = measured(MOVED)
        self.assertEqual(found.note, f"local motion {found.rms_px:.2f} px RMS over 3 x 3 patches")
        self.assertLess(abs(found.rms_px - blurring(MOVED, NOTHING)), 0.3 * blurring(MOVED, NOTHING))

    def test_a_rigid_specimen_keeps_its_global_alignment(self) -> None:
        found = measured(0.0)
        self.assertEqual((found.tilts, found.rms_px), ((), 0.0))
        self.assertEqual(found.note, "no local motion beyond the noise over 3 x 3 patches: the global alignment is kept")

    def test_a_gain_that_noise_has_too_is_no_motion(self) -> None:
        with mock.patch("tomostream.engine.align.local._maximise", return_value=(np.zeros(0), 0.7 * len(ANGLES))):
            found = local_motion(series(0.0), global_answer(), AlignOptions(PIXEL, AXIS, threads=2), (3, 3), lambda line: None)
        self.assertEqual(found.note, "no local motion beyond the noise over 3 x 3 patches: the global alignment is kept")

    def test_the_order_of_acquisition_need_not_be_known(self) -> None:
        self.assertLess(blurring(MOVED, measured(MOVED, False)), 0.6 * blurring(MOVED, NOTHING))

    def test_tilts_that_are_left_out_have_no_motion_and_do_not_disturb(self) -> None:
        images = series(MOVED).copy()
        images[4] = np.random.default_rng(0).poisson(200.0, images[4].shape)
        answer = global_answer(lambda tilt: tilt != 4)
        found = local_motion(images, answer, AlignOptions(PIXEL, AXIS, threads=2), (3, 3), lambda line: None)
        self.assertEqual([tilt.section for tilt in found.tilts], [i for i in range(len(ANGLES)) if i != 4])

    def test_the_number_of_threads_changes_nothing(self) -> None:
        order = [int(r) + 1 for r in RANK]
        options = AlignOptions(PIXEL, AXIS, threads=1)
        one = local_motion(series(MOVED), global_answer(), options, (3, 3), lambda line: None, order)
        for tilt, other in zip(one.tilts, measured(MOVED).tilts, strict=True):
            np.testing.assert_allclose(tilt.dx, other.dx, atol=1e-3)

    def test_few_tilts_and_small_fields_are_left_alone_in_words(self) -> None:
        options = AlignOptions(PIXEL, AXIS)
        few = local_motion(series(MOVED), global_answer(lambda tilt: tilt < 5), options, (3, 3), lambda line: None)
        self.assertEqual(few.note, "5 tilts are too few for local motion: the global alignment is kept")
        small = local_motion(series(MOVED)[:, :80, :80], global_answer(), options, (3, 3), lambda line: None)
        self.assertEqual(small.note, "the field is too small for patches: the global alignment is kept")


class PatchesTest(unittest.TestCase):
    def test_they_overlap_by_half_and_fill_the_frame(self) -> None:
        patches, used = patches_of((400, 600), 0.0, (5, 3))
        self.assertEqual((used, patches.size, len(patches.centres)), ((5, 3), (200, 200), 15))
        np.testing.assert_allclose(patches.centres[[0, -1]], [[-200, -100], [200, 100]])

    def test_those_along_x_of_the_image_are_along_the_axis_where_it_lies(self) -> None:
        self.assertEqual(patches_of((600, 400), 90.0, (5, 3))[0].size, (200, 200))

    def test_there_are_fewer_where_they_would_be_too_small(self) -> None:
        self.assertEqual(patches_of((256, 256), 0.0, (12, 2))[1], (4, 2))

    def test_there_are_not_more_than_a_smooth_field_needs(self) -> None:
        self.assertEqual(patches_of((2000, 2000), 0.0, (100, 5))[1], (8, 5))


class ShiftsBetweenPatchesTest(unittest.TestCase):
    def test_a_curved_field_is_not_flattened_by_the_mean_over_patches(self) -> None:
        line = np.linspace(-0.5, 0.5, 11) * 400
        x, y = (grid.ravel() for grid in np.meshgrid(line, line))
        wanted = LocalShifts(x, y, 5.0 * np.sin(x / 70.0), 5.0 * np.cos(y / 70.0))
        inside = np.random.default_rng(0).uniform(-150, 150, (2, 200))
        found = LocalShifts.through(wanted, 400, 400).at(*inside, 400, 400)
        truth = np.stack([5.0 * np.sin(inside[0] / 70.0), 5.0 * np.cos(inside[1] / 70.0)])
        self.assertLess(np.abs(found - truth).max(), 0.15)
        self.assertGreater(np.abs(wanted.at(*inside, 400, 400) - truth).max(), 0.3)


class ProgramTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        environment = mock.patch.dict(os.environ)
        environment.start()
        self.addCleanup(environment.stop)
        rows = [AngleRow(float(t), int(r) + 1) for t, r in zip(ANGLES, RANK, strict=True)]
        self.angles = self.path("TS_1.tlt")
        Path(self.angles).write_text(format_angles(rows))

    def path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def stack(self, data: NDArray[np.float32]) -> str:
        Path(self.path("TS_1.mrcs")).write_bytes(mrc_header(data.shape, PIXEL, (0, 0, 0, 0), "test", False) + data.tobytes())
        return self.path("TS_1.mrcs")

    def volume(self, name: str, *words: object, answer: Alignment | None = None) -> tuple[Array, str]:
        """The tomogram of the stack, and what the program says."""
        os.makedirs(self.path(name), exist_ok=True)
        command = ["-InMrc", self.path("TS_1.mrcs"), "-OutMrc", self.path(name, "v.mrc"), "-VolZ", 64, "-FlipVol", 1, "-Wbp", 1,
                   "-PixSize", PIXEL, "--threads", 2, *words]
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch("tomostream.engine.align.align_series", lambda *args: answer),
            contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
        ):  # fmt: skip
            status = aretomo.main(list(map(str, command)))
        self.assertEqual((status, err.getvalue()), (0, ""), out.getvalue())
        return np.array(mrcfile.read(self.path(name, "v.mrc")), float), out.getvalue()

    def aligned(self, name: str, *words: object) -> tuple[Array, str]:
        return self.volume(name, "-AngFile", self.angles, "-TiltAxis", AXIS, 1, *words, answer=global_answer())

    def test_the_tomogram_is_better_with_patches_and_worse_with_the_other_sign(self) -> None:
        self.stack(series(0.0, False))
        ideal, _ = self.aligned("ideal")
        self.stack(series(MOVED))
        plain, _ = self.aligned("plain")
        local, said = self.aligned("local", "-Patch", 3, 3)
        self.assertIn("px RMS over 3 x 3 patches", said)
        aln = parse_aln(Path(self.path("local", "TS_1.aln")).read_text())
        turned = tuple(LocalShift(s.row, s.patch, s.x, s.y, -s.dx, -s.dy, s.good) for s in aln.local)
        text = format_aln(AlnFile(aln.rows, aln.dark, aln.raw_size, aln.patches, turned))
        Path(self.path("turned.aln")).write_text(text)
        wrong, _ = self.volume("wrong", "-AlnFile", self.path("turned.aln"))

        def likeness(volume: Array) -> float:
            inner = (slice(8, -8), slice(24, -24), slice(24, -24))
            return float(np.corrcoef(volume[inner].ravel(), ideal[inner].ravel())[0, 1])

        self.assertGreater(likeness(local), likeness(plain) + 0.03)
        self.assertLess(likeness(wrong), likeness(plain) - 0.03)

    def test_the_alignment_file_holds_the_motion_and_gives_the_same_tomogram_again(self) -> None:
        self.stack(series(MOVED))
        first, _ = self.aligned("first", "-Patch", 3, 3)
        path = self.path("first", "TS_1.aln")
        aln = parse_aln(Path(path).read_text())
        self.assertEqual((aln.patches, len(aln.local)), (121, 121 * len(ANGLES)))
        again, said = self.volume("again", "-AlnFile", path, "-Patch", 3, 3)
        self.assertIn("with local shifts", said)
        self.assertIn("-Patch 3 3 is not used: the local shifts are those of the alignment file", said)
        self.assertLess(np.sqrt(np.mean((again - first) ** 2)), 0.03 * first.std())

    def test_the_quality_file_tells_the_motion(self) -> None:
        self.stack(series(MOVED))
        self.aligned("out", "-Patch", 3, 3)
        text = Path(self.path("out", "TS_1_quality.json")).read_text()
        told = json.loads(text)["local"]
        self.assertEqual((told["patches"], told["applied"]), ([3, 3], True))
        self.assertGreater(told["rms_px"], 0.3)
        local = parse_quality(text).local
        self.assertEqual(local, LocalQuality((3, 3), told["rms_px"], True, told["note"]))

    def test_a_rigid_specimen_gives_the_tomogram_of_the_global_alignment_to_the_byte(self) -> None:
        self.stack(series(0.0))
        self.aligned("global")
        _, said = self.aligned("local", "-Patch", 3, 3)
        self.aligned("off", "-Patch", 0, 0)
        self.assertIn("no local motion beyond the noise over 3 x 3 patches: the global alignment is kept", said)
        for name in ("v.mrc", "TS_1.aln"):
            whole = Path(self.path("global", name)).read_bytes()
            self.assertEqual(Path(self.path("local", name)).read_bytes(), whole)
            self.assertEqual(Path(self.path("off", name)).read_bytes(), whole)
        quality = Path(self.path("global", "TS_1_quality.json")).read_bytes()
        self.assertEqual(Path(self.path("off", "TS_1_quality.json")).read_bytes(), quality)


if __name__ == "__main__":
    unittest.main()
