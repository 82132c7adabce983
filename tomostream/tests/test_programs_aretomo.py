# SPDX-License-Identifier: GPL-3.0-or-later
"""AreTomo2's arguments and files: what is written can be read, and real files of all its versions are understood."""

from __future__ import annotations

import json
import math
import unittest
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tomostream.programs import aretomo as at
from tomostream.programs.aln import (
    IDENTITY_XF,
    AlnError,
    AlnFile,
    AlnRow,
    AngleRow,
    DarkFrame,
    LocalShift,
    SecondColumn,
    format_aln,
    format_angles,
    format_xf,
    parse_aln,
    parse_angle_file,
    parse_xf,
    raw_sections,
    row_from_xf,
    xf_of_row,
)
from tomostream.programs.ctf import CtfRow, format_ctf, parse_ctf
from tomostream.programs.quality import Quality, TiltQuality, Trust, format_quality, parse_quality

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "programs"
needs_real = unittest.skipUnless(REAL.is_dir(), "the real program outputs are not beside this checkout")

HEADER = "# AreTomo Alignment / Priims bprmMn \n# RawSize = 100 80 {n}\n# NumPatches = 0\n"


def row(section: int, tilt: float = 0.0) -> str:
    return f"{section:5d}  {85.0:9.4f}  1.00000  1.500  -2.500  1.00  1.00  1.00  0.00  {tilt:8.2f}\n"


class AlnTest(unittest.TestCase):
    def test_what_is_written_is_read_back(self) -> None:
        aln = AlnFile(
            rows=(AlnRow(0, 84.1234, -12.345, 678.901, -60.01), AlnRow(2, 84.1234, 0.0, 0.0, 3.0)),
            dark=(DarkFrame(1, 1, -57.0),),
            raw_size=(4096, 5760, 3),
            patches=1,
            local=(LocalShift(0, 0, -10.5, 20.25, 1.5, -2.25, 1.0),),
            alpha_offset=0.0,
            beta_offset=0.0,
        )
        self.assertEqual(parse_aln(format_aln(aln)), aln)

    def test_the_text_has_the_columns_of_aretomo2(self) -> None:
        text = format_aln(AlnFile((AlnRow(3, 84.5, 1.25, -2.5, -60.0),), raw_size=(10, 20, 4)))
        columns = "    3    84.5000    1.00000      1.250     -2.500     1.00     1.00     1.00     0.00    -60.00"
        self.assertEqual(text.splitlines()[-1], columns)
        self.assertIn("# RawSize = 10 20 4\n# NumPatches = 0\n", text)
        dark = format_aln(AlnFile((AlnRow(0, 0, 0, 0, 0),), (DarkFrame(1, 1, 3.0),), (10, 20, 2)))
        self.assertIn("# DarkFrame =     1    1     3.00\n", dark)

    def test_sections_from_zero_are_taken_as_they_are(self) -> None:
        aln = parse_aln(HEADER.format(n=3) + row(0) + row(1) + row(2))
        self.assertEqual(raw_sections(aln), ((0, 1, 2), ()))

    def test_sections_from_one_become_zero_based(self) -> None:
        aln = parse_aln(HEADER.format(n=3) + row(1) + row(2) + row(3))
        self.assertEqual(raw_sections(aln), ((0, 1, 2), ()))

    def test_a_missing_first_tilt_does_not_turn_zero_based_into_one_based(self) -> None:
        text = HEADER.format(n=4) + "# DarkFrame =     0    0   -60.00\n" + row(1) + row(2) + row(3)
        self.assertEqual(raw_sections(parse_aln(text)), ((1, 2, 3), (0,)))
        # Scipion lists no dark frames: sections 1..2 of 4 are 0-based there
        self.assertEqual(raw_sections(parse_aln(HEADER.format(n=4) + row(1) + row(2))), ((1, 2), ()))

    def test_one_based_dark_frames_follow_their_rows(self) -> None:
        text = HEADER.format(n=4) + "# DarkFrame =     4    4    60.00\n" + row(1) + row(2) + row(3)
        self.assertEqual(raw_sections(parse_aln(text)), ((0, 1, 2), (3,)))

    def test_sections_counted_among_kept_tilts_are_moved_past_the_dark_ones(self) -> None:
        text = HEADER.format(n=5) + "# DarkFrame = 0 0 -60\n# DarkFrame = 2 2 0\n" + row(0) + row(1) + row(2)
        self.assertEqual(raw_sections(parse_aln(text)), ((1, 3, 4), (0, 2)))

    def test_where_the_section_column_is_zero_the_frame_column_tells_which_tilts_are_dark(self) -> None:
        """As AreTomo3 writes it: rows from 1, dark frames from 0 by their place in the stack, and no section."""
        for dark in (0, 2, 4):
            rows = [n for n in range(5) if n != dark]
            text = HEADER.format(n=5) + f"# DarkFrame = {dark} 0 0.0\n" + "".join(row(n + 1) for n in rows)
            self.assertEqual(raw_sections(parse_aln(text)), (tuple(rows), (dark,)), dark)
        text = HEADER.format(n=5) + "# DarkFrame = 0 0 -6\n# DarkFrame = 3 0 3\n" + row(2) + row(3) + row(5)
        self.assertEqual(raw_sections(parse_aln(text)), ((1, 2, 4), (0, 3)))
        renumbered = HEADER.format(n=5) + "# DarkFrame = 3 0 3\n" + row(0) + row(1) + row(2) + row(3)
        self.assertEqual(raw_sections(parse_aln(renumbered)), ((0, 1, 2, 4), (3,)))

    def test_a_section_that_the_stack_does_not_have_is_refused(self) -> None:
        with self.assertRaisesRegex(AlnError, "section 9, but the stack has 3"):
            raw_sections(parse_aln(HEADER.format(n=3) + row(0) + row(9)))
        with self.assertRaisesRegex(AlnError, "twice"):
            raw_sections(parse_aln(HEADER.format(n=3) + row(1) + row(1)))

    def test_a_broken_line_is_named(self) -> None:
        with self.assertRaisesRegex(AlnError, r"x\.aln, line 4: .*not numbers"):
            parse_aln(HEADER.format(n=1) + "  0  85.0  what\n", "x.aln")
        with self.assertRaisesRegex(AlnError, r"line 4: .*10 columns"):
            parse_aln(HEADER.format(n=1) + "  0  85.0  1.0\n", "x.aln")
        with self.assertRaisesRegex(AlnError, "no aligned tilt"):
            parse_aln(HEADER.format(n=1), "x.aln")
        with self.assertRaisesRegex(AlnError, "not finite"):
            parse_aln(HEADER.format(n=1) + row(0).replace("1.500", "nan"), "x.aln")

    @needs_real
    def test_every_real_file_is_understood(self) -> None:
        rows = {p.name: len(parse_aln(p.read_text(), p.name).rows) for p in sorted((REAL / "aretomo").glob("*.aln"))}
        self.assertEqual(rows["TS_121.aln"], 31)
        self.assertEqual(rows["example_v1_2_0.aln"], 41)
        self.assertEqual(rows["global_no_local.aln"], 61)
        self.assertEqual(rows["global_and_local.aln"], 37)

    def test_whether_a_local_shift_is_good_is_read_and_assumed_if_it_is_missing(self) -> None:
        text = "# RawSize = 100 100 1\n0 85 1 0 0 1 1 1 0 0\n# Local Alignment\n0 0 1 2 3 4 0.0\n0 1 1 2 3 4 1.0\n0 2 1 2 3 4\n"
        self.assertEqual([shift.good for shift in parse_aln(text).local], [0.0, 1.0, 1.0])

    @needs_real
    def test_local_alignment_and_aretomo3s_offsets_are_read(self) -> None:
        aln = parse_aln((REAL / "aretomo" / "global_and_local.aln").read_text())
        self.assertEqual((aln.patches, len(aln.local), len(aln.dark)), (16, 37 * 16, 14))
        self.assertEqual((aln.alpha_offset, aln.thickness), (12.3, 1910))
        sections, dark = raw_sections(aln)
        # the file counts kept tilts only: tilt angles 2 degrees apart prove that row 0 is section 14
        self.assertEqual((sections[0], sections[-1], dark), (14, 50, tuple(range(14))))
        nominal = [r.tilt_deg - aln.alpha_offset for r in aln.rows]
        for section, tilt in zip(sections, nominal, strict=True):
            self.assertAlmostEqual(tilt, -68 + 2 * section, delta=0.1)

    @needs_real
    def test_the_newer_aretomo3_file_counts_from_one(self) -> None:
        aln = parse_aln((REAL / "aretomo" / "global_no_local.aln").read_text())
        self.assertEqual(raw_sections(aln)[0], tuple(range(61)))


class XfTest(unittest.TestCase):
    @needs_real
    def test_imod_transforms_equal_those_aretomo_wrote_beside_its_alignment(self) -> None:
        aln = parse_aln((REAL / "aretomo" / "TS_121.aln").read_text())
        written = parse_xf((REAL / "aretomo" / "TS_121.xf").read_text())
        for r, expected in zip(aln.rows, written, strict=True):
            found = xf_of_row(r.rot_deg, r.tx, r.ty)
            for a, b, tolerance in zip(found, expected, (1e-3,) * 4 + (0.02,) * 2, strict=True):
                self.assertAlmostEqual(a, b, delta=tolerance)

    @given(
        st.floats(-179.9, 179.9), st.floats(-3000, 3000, allow_nan=False), st.floats(-3000, 3000, allow_nan=False)
    )
    @settings(deadline=None, max_examples=50)
    def test_a_row_survives_the_way_through_a_transform(self, rot: float, tx: float, ty: float) -> None:
        found = row_from_xf(xf_of_row(rot, tx, ty))
        for a, b in zip(found, (rot, tx, ty), strict=True):
            self.assertAlmostEqual(a, b, places=6)

    def test_the_transform_undoes_the_shift_sense(self) -> None:
        rot, tx, ty, aligned = 84.7, 12.5, -7.25, (100.0, -40.0)
        c, s = math.cos(math.radians(rot)), math.sin(math.radians(rot))
        raw = (c * aligned[0] - s * aligned[1] + tx, s * aligned[0] + c * aligned[1] + ty)
        a11, a12, a21, a22, dx, dy = xf_of_row(rot, tx, ty)
        self.assertAlmostEqual(a11 * raw[0] + a12 * raw[1] + dx, aligned[0])
        self.assertAlmostEqual(a21 * raw[0] + a22 * raw[1] + dy, aligned[1])

    def test_xf_text_is_read_back(self) -> None:
        xf = xf_of_row(84.7, 12.5, -7.25)
        for a, b in zip(parse_xf(format_xf([xf, IDENTITY_XF]))[0], xf, strict=True):
            self.assertAlmostEqual(a, b, delta=6e-4)


class AngleFileTest(unittest.TestCase):
    def test_three_columns_are_read_back(self) -> None:
        rows = (AngleRow(-3.0, 2, 3.0), AngleRow(0.0, 1, 0.0), AngleRow(3.0, 3, 6.1))
        self.assertEqual(parse_angle_file(format_angles(rows))[0], rows)

    def test_comments_blank_lines_and_zero_based_orders_are_accepted(self) -> None:
        rows = parse_angle_file("# tilt order\n-3 1\n\n 0 0 # first\n")[0]
        self.assertEqual(rows, (AngleRow(-3.0, 2), AngleRow(0.0, 1)))

    def test_an_accumulated_dose_in_the_second_column_gives_the_order(self) -> None:
        rows = parse_angle_file("-3 6.2\n0 3.1\n3 9.3\n")[0]
        self.assertEqual([r.order for r in rows], [2, 1, 3])

    def test_whole_doses_are_distinguished_from_an_order_by_their_spacing_and_range(self) -> None:
        angles = sorted(range(-54, 55, 3), key=lambda angle: (abs(angle), angle))
        after = "".join(f"{angle} {3 * place:.4f}\n" for place, angle in enumerate(angles, start=1))
        before = "".join(f"{angle} {3 * place}\n" for place, angle in enumerate(angles))
        uneven = "".join(f"{angle} {3 * place + place % 2 + 4}\n" for place, angle in enumerate(angles))
        for text, meaning, last in ((after, SecondColumn.DOSE_AFTER, 108), (before, SecondColumn.DOSE_BEFORE, 108),
                                    (uneven, SecondColumn.DOSE_AFTER, None)):
            rows, found = parse_angle_file(text)
            self.assertIs(found, meaning)
            self.assertEqual([row.order for row in rows], list(range(1, 38)))
            if last is not None:
                self.assertEqual((rows[0].pre_exposure, rows[-1].pre_exposure), (0.0, last))

    def test_an_order_is_one_with_tilts_missing_or_counted_from_zero(self) -> None:
        for orders in ([2, 1, 3], [1, 0, 2], [5, 4, 1], [7, 2, 6, 3, 8], [1, 3, 5, 7]):
            rows, found = parse_angle_file("".join(f"{3 * i} {order}\n" for i, order in enumerate(orders)))
            self.assertIs(found, SecondColumn.ORDER, orders)
            self.assertEqual([row.order for row in rows], [order - min(orders) + 1 for order in orders])
        self.assertIs(parse_angle_file("0 1\n3 1\n")[1], SecondColumn.NONE)

    def test_what_is_not_an_angle_is_refused(self) -> None:
        for text, why in (("", "no tilt"), ("a b\n", "line 1"), ("120\n", "90 degrees"), ("1 2\n3\n", "columns")):
            with self.assertRaisesRegex(AlnError, why):
                parse_angle_file(text)


class OtherFilesTest(unittest.TestCase):
    def test_ctf_text_is_read_back(self) -> None:
        rows = (CtfRow(1, 25951.41, 24469.37, 88.08, 0.0, 0.1234, 11.5),)
        self.assertEqual(parse_ctf(format_ctf(rows)), rows)

    def test_a_resolution_of_10_in_every_row_is_unknown(self):
        rows = tuple(CtfRow(n, 30000.0, 29000.0, 10.0, 0.0, 0.1, 10.0) for n in (1, 2))
        self.assertEqual([row.resolution_A for row in parse_ctf(format_ctf(rows))], [None, None])
        mixed = (rows[0], CtfRow(2, 30000.0, 29000.0, 10.0, 0.0, 0.1, 8.5))
        self.assertEqual([row.resolution_A for row in parse_ctf(format_ctf(mixed))], [10.0, 8.5])

    @needs_real
    def test_a_real_ctf_file_is_read(self) -> None:
        rows = parse_ctf((REAL / "aretomo" / "test_CTF.txt").read_text())
        self.assertEqual(rows[0].defocus_max_A, 25951.41)
        self.assertEqual(rows[0].resolution_A, 24.6784)

    def test_quality_is_read_back_and_unknown_values_are_null(self) -> None:
        quality = Quality(
            tilts=(TiltQuality(0, -60.0, False, "dark", None), TiltQuality(1, 0.0, True, "", 0.12)),
            tilt_axis_deg=84.7,
            tilt_offset_deg=float("nan"),
            quality=0.9,
            quality_note="trust",
            trust=Trust.TRUSTED,
        )
        text = format_quality(quality)
        self.assertIsNone(json.loads(text)["tilt_offset_deg"])
        back = parse_quality(text)
        self.assertEqual(back.tilts, quality.tilts)
        self.assertEqual((back.tilt_axis_deg, back.tilt_offset_deg, back.quality_note, back.trust),
                         (84.7, None, "trust", Trust.TRUSTED))
        self.assertEqual(json.loads(text)["trust"], "trusted")
        with self.assertRaisesRegex(AlnError, r"q\.json is not a quality file"):
            parse_quality("{", "q.json")

    def test_outputs_are_named_after_the_input_in_the_folder_of_the_output(self) -> None:
        files = at.OutputFiles.of("tmp/TS_1.mrcs", "extra/TS_1/tomo.mrc")
        self.assertEqual(files.aln, "extra/TS_1/TS_1.aln")
        self.assertEqual(files.ctf_text, "extra/TS_1/TS_1_ctf.txt")
        self.assertEqual(files.proj_xy, "extra/TS_1/tomo_projXY.mrc")
        self.assertEqual(files.imod("_st.tlt"), "extra/TS_1/TS_1_Imod/TS_1_st.tlt")
        self.assertEqual(files.imod("tilt.com"), "extra/TS_1/TS_1_Imod/tilt.com")

    def test_names_that_aretomo2_would_cut_are_reported(self) -> None:
        self.assertEqual(at.name_problem("in/TS_1.mrc", "out/TS_1.mrc"), "")
        self.assertIn(".mrc", at.name_problem("in/TS.mrc_1.mrc", "out/TS_1.mrc"))
        self.assertIn("255", at.name_problem("in/TS_1.mrc", "o" * 250 + "/TS_1.mrc"))


if __name__ == "__main__":
    unittest.main()
