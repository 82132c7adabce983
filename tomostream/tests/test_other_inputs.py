# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream-aretomo` with what others know: angles in the header, transforms of IMOD, alignments of another binning."""

from __future__ import annotations

import math
import struct
import unittest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.recon.stack import open_stack
from tomostream.files.mrc_extended import read_tilts
from tomostream.files.mrc_header import mrc_header
from tomostream.programs.aln import AlnFile, AlnRow, LocalShift, format_xf, scale_to, scaled, stretch_of, xf_of_row
from tomostream.tests.test_aretomo_engine import ANGLES, AXIS, PIXEL, WithSeries, aln_text, series, write_mrc

Array = NDArray[np.float64]


class TestAnglesOfTheHeader(WithSeries):
    """Where no option gives the tilt angles."""

    def stack(self, extended: bytes, kind: bytes = b"", integers: int = 0, reals: int = 0) -> str:
        header = bytearray(mrc_header(series()[0].shape, PIXEL, (0, 0, 0, 0), "test", False))
        header[92:96] = len(extended).to_bytes(4, "little")
        header[104:104 + len(kind)] = kind
        header[128:132] = integers.to_bytes(2, "little") + reals.to_bytes(2, "little")
        with open(self.path("TS_1.mrc"), "wb") as file:
            file.write(bytes(header) + extended + series()[0].astype("<f4").tobytes())
        return self.path("TS_1.mrc")

    def used(self, path: str) -> tuple[list[float] | None, str]:
        found = read_tilts(path)
        return (None, "") if found is None else (list(found.tilts_deg), found.layout)

    def test_are_read_from_every_layout(self) -> None:
        serialem = b"".join(struct.pack("<5h", round(angle * 100), 0, 0, 9, 1) for angle in ANGLES)
        self.assertEqual(self.used(self.stack(serialem, b"SERI", 10, 1 + 4 + 8 + 16)), (ANGLES.tolist(), "SerialEM"))
        self.assertEqual(self.used(self.stack(serialem, b"", 10, 1 + 4 + 8 + 16)), (ANGLES.tolist(), "SerialEM"))
        agard = b"".join(struct.pack("<32f", angle, *range(31)) for angle in ANGLES).ljust(1024 * 128, b"\0")
        self.assertEqual(self.used(self.stack(agard, b"", 0, 32)), (ANGLES.tolist(), "Agard and FEI"))
        whole = b"".join(struct.pack("<2if", 7, 7, angle) for angle in ANGLES)
        self.assertEqual(self.used(self.stack(whole, b"AGAR", 2, 1)), (ANGLES.tolist(), "Agard and FEI"))
        for order, kind, length in (("<", b"FEI1", 768), (">", b"FEI1", 768), ("<", b"FEI2", 888)):
            start = struct.pack(f"{order}2i", length, 0) + struct.pack("<I", 1 << 7) + bytes(88)
            records = [(start + struct.pack(f"{order}d", angle)).ljust(length, b"\0") for angle in ANGLES]
            found = self.used(self.stack(b"".join(records), kind))
            self.assertEqual(found, (ANGLES.tolist(), kind.decode()))

    def test_are_none_where_they_were_not_filled_in_or_cannot_be_meant(self) -> None:
        cases = [(b"", b"", 0, 0), (bytes(10 * len(ANGLES)), b"SERI", 10, 29), (bytes(128 * 1024), b"", 0, 32),
                 (b"".join(struct.pack("<f", angle * 10) for angle in ANGLES), b"AGAR", 0, 1),
                 (struct.pack("<h", 100) * 3, b"SERI", 2, 1), (b"\xff" * 4000, b"FEI1", 0, 0), (b"\0" * 100, b"FEI2", -1, -1),
                 (struct.pack("<6h", *range(6)) * len(ANGLES), b"SERI", 12, 2 + 4 + 8)]
        for extended, kind, integers, reals in cases:
            path = self.stack(extended, kind, integers & 0xFFFF, reals & 0xFFFF)
            self.assertEqual(self.used(path), (None, ""), kind)

    def test_are_used_and_reported(self) -> None:
        serialem = b"".join(struct.pack("<h", round(angle * 100)) for angle in ANGLES)
        source = self.stack(serialem, b"SERI", 2, 1)
        status, out, err = self.run_it("-InMrc", source, "-OutMrc", self.target, "-Align", 0, "-VolZ", 40, "-OutBin", 4)
        self.assertEqual((status, err), (0, ""), out)
        self.assertIn("(layout of SerialEM): -54 to 54 degrees", out)
        given = self.path("out", "given.mrc")
        self.run_it("-InMrc", source, "-OutMrc", given, "-Align", 0, "-VolZ", 40, "-OutBin", 4, "-AngFile", self.angle_file())
        np.testing.assert_array_equal(np.asarray(open_stack(self.target).data), np.asarray(open_stack(given).data))


class TestTheWienerTomogram(WithSeries):
    def test_is_not_made_of_a_single_tilt_or_beside_an_aligned_stack_and_leaves_no_empty_file(self) -> None:
        cases = (["-VolZ", 40, "-ReconRange", -1, 1], "2 tilts are needed"), (["-VolZ", 0], "-VolZ 0 asks for the aligned stack")
        for words, reason in cases:
            status, out, err = self.run_it("-InMrc", self.source, "-OutMrc", self.target, "-AlnFile", self.aln, "-OutBin", 4,
                                           "-Wiener", 1, *words)  # fmt: skip
            self.assertEqual((status, err), (0, ""), out)
            self.assertIn(f"warning: -Wiener 1 is not used: {reason}", out)
            self.assertNotIn("v_wiener.mrc", self.left())


class TestAlignmentsOfOthers(WithSeries):
    """Alignments of another binning, and transforms of IMOD."""

    def volume(self, source: str, alignment: str, name: str, binning: float = 2, **other: str) -> tuple[Array, str]:
        target = self.path("out", f"{name}.mrc")
        words = ["-VolZ", round(40 * PIXEL / open_stack(source).pixel_size_A), "-OutBin", binning]
        words += [word for flag, value in other.items() for word in (f"-{flag}", value)]
        status, out, err = self.run_it("-InMrc", source, "-OutMrc", target, "-AlnFile", alignment, *words)
        self.assertEqual((status, err), (0, ""), out)
        return np.asarray(open_stack(target).data, float), out

    def test_an_alignment_of_another_binning_is_scaled_and_reported(self) -> None:
        images, shifts = series()
        binned = images.reshape(len(images), 64, 2, 80, 2).mean(axis=(2, 4))
        small = write_mrc(self.path("small.mrc"), binned, 2 * PIXEL)
        aln = self.text("large.aln", aln_text(shifts, (128, 160)))
        found, out = self.volume(small, aln, "small", 1)
        self.assertIn("large.aln is for images of 160 x 128 px: its shifts are scaled by 0.5", out)
        truth, _ = self.volume(self.source, aln, "large", 2)
        self.assertGreater(np.corrcoef(found.ravel(), truth.ravel())[0, 1], 0.97)
        lines = [line for line in Path(aln).read_text().splitlines(True) if "RawSize" not in line]
        without_size = self.text("no_size.aln", "".join(lines))
        unscaled, _ = self.volume(small, without_size, "unscaled", 1)
        self.assertLess(np.corrcoef(unscaled.ravel(), truth.ravel())[0, 1], 0.9)
        aln = self.text("small.aln", aln_text(shifts / 2, (64, 80)))
        found, out = self.volume(self.source, aln, "up", 2)
        self.assertIn("scaled by 2", out)
        self.assertGreater(np.corrcoef(found.ravel(), truth.ravel())[0, 1], 0.9999)

    def test_a_stack_of_bytes_gives_what_its_floats_give_whatever_they_mean(self) -> None:
        images = np.clip(np.round(series()[0] * 0.6), 0, 255).astype(np.uint8)
        truth, _ = self.volume(write_mrc(self.path("floats.mrc"), images), self.aln, "floats", 4)
        for name, flags, data in (("plain", None, images), ("stamped", 0, images), ("signed", 1, images ^ 128)):
            header = bytearray(mrc_header(images.shape, PIXEL, (0, 0, 0, 0), "test", False))
            struct.pack_into("<i", header, 12, 0)
            if flags is not None:
                struct.pack_into("<2i", header, 152, 1146047817, flags)
            Path(self.path(f"{name}.mrc")).write_bytes(bytes(header) + data.tobytes())
            found, _ = self.volume(self.path(f"{name}.mrc"), self.aln, name, 4)
            np.testing.assert_array_equal(found, truth, name)

    def test_local_shifts_are_scaled_with_the_others(self) -> None:
        row, local = AlnRow(0, 85.0, 4.0, -8.0, 0.0), LocalShift(0, 0, 100.0, -40.0, 2.0, 1.0, 1.0)
        found = scaled(AlnFile((row,), raw_size=(400, 200, 1), local=(local,), thickness=80.0), 0.25)
        self.assertEqual((found.rows[0].tx, found.rows[0].ty, found.thickness), (1.0, -2.0, 20.0))
        self.assertEqual(found.local[0], LocalShift(0, 0, 25.0, -10.0, 0.5, 0.25, 1.0))

    def test_images_that_were_cropped_or_are_others_are_refused(self) -> None:
        self.assertIsNone(scale_to(AlnFile((), raw_size=(4096, 4096, 41)), (4092, 4092, 41)))
        self.assertIsNone(scale_to(AlnFile((), raw_size=(4096, 4096, 41)), (2048, 1024, 41)))
        self.assertIsNone(scale_to(AlnFile((), raw_size=(4096, 4096, 41)), (2048, 2048, 40)))
        self.assertIsNone(scale_to(AlnFile((), raw_size=(0, 4096, 41)), (2048, 2048, 41)))
        self.assertAlmostEqual(scale_to(AlnFile((), raw_size=(5760, 4092, 41)), (1920, 1364, 41)) or 0.0, 1 / 3)
        self.assertAlmostEqual(scale_to(AlnFile((), raw_size=(4095, 4095, 41)), (1022, 1022, 41)) or 0.0, 0.25, 2)

    def test_transforms_of_imod_give_what_the_alignment_gives(self) -> None:
        shifts = series()[1]
        truth, _ = self.volume(self.source, self.aln, "aln")
        transforms = [xf_of_row(AXIS, float(x), float(y)) for x, y in shifts]
        xf = self.text("imod.xf", format_xf(transforms))
        self.text("imod.tlt", "".join(f"{angle:8.2f}\n" for angle in ANGLES))
        found, out = self.volume(self.source, xf, "xf")
        self.assertIn("tilt angles from", out)
        self.assertGreater(np.corrcoef(found.ravel(), truth.ravel())[0, 1], 0.9999)
        found, _ = self.volume(self.source, xf, "given", AngFile=self.angle_file())
        self.assertGreater(np.corrcoef(found.ravel(), truth.ravel())[0, 1], 0.9999)
        turned = self.text("turned.xf", format_xf([xf_of_row(AXIS, -float(x), -float(y)) for x, y in shifts]))
        found, _ = self.volume(self.source, turned, "turned", AngFile=self.angle_file())
        self.assertLess(np.corrcoef(found.ravel(), truth.ravel())[0, 1], 0.9)

    def test_transforms_that_stretch_or_are_too_few_are_refused(self) -> None:
        rotation = xf_of_row(AXIS, 1.0, 2.0)
        self.assertAlmostEqual(stretch_of(rotation), 0.0)
        self.assertAlmostEqual(stretch_of((1.03, 0.0, 0.0, 0.99, 0.0, 0.0)), 0.03)
        self.assertEqual(stretch_of((-1.0, 0.0, 0.0, 1.0, 0.0, 0.0)), math.inf)
        words = ["-InMrc", self.source, "-OutMrc", self.target, "-VolZ", 40, "-OutBin", 4, "-AngFile", self.angle_file()]
        words.append("-AlnFile")
        for change, pattern in (((1.0, 1.02), "transform 2 stretches the image by 2.0 %"), ((-1.0, 1.0), "transform 1 mirrors")):
            lines = [tuple(value * factor for value in rotation[:2]) + rotation[2:] for factor in (*change, *[1.0] * 17)]
            path = self.text("bad.xf", format_xf(lines))
            status, _, err = self.run_it(*words, path)
            self.assertEqual(status, 1)
            self.assertRegex(err, pattern)
        path = self.text("few.xf", format_xf([rotation] * 5))
        self.assertRegex(self.run_it(*words, path)[2], "5 transforms, but the stack has 19 sections")
        path = self.text("slight.xf", format_xf([(1.002, 0.0, 0.0, 1.0, 0.0, 0.0)] * 19))
        self.assertIn("stretches images by up to 0.20 %, which is not used", self.run_it(*words, path)[1])


if __name__ == "__main__":
    unittest.main()
