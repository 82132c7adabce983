# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read from mdoc files: every dialect, every trap, every byte at which a file can be caught."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import tempfile
import unittest
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomostream.acquisition.doctor import as_json, examine, find_mdocs
from tomostream.acquisition.facts import MdocFacts
from tomostream.acquisition.frames import group_frames
from tomostream.acquisition.mdoc import read_mdoc
from tomostream.acquisition.movies import MovieCheck
from tomostream.acquisition.pixels import movie_pixel_size, pixel_size_doubt
from tomostream.acquisition.tiltaxis import _apart
from tomostream.acquisition.times import parse_dates, with_clock_put_back
from tomostream.cli import main as command

DATA = Path(__file__).parent / "data" / "mdoc"
REAL = Path(__file__).parents[3] / "shared" / "data" / "mdoc"


def read(name: str) -> MdocFacts:
    return read_mdoc(DATA / name)


def read_text(text: str, path: str = "TS_1.mdoc") -> MdocFacts:
    return read_mdoc(path, text.encode())


def series_text(sections: list[str], header: str = "[T = SerialEM: x]\n\n[T = Tilt axis angle = 85.0, bin]\n") -> str:
    """Sections as SerialEM writes them: a blank line before each, none at the end."""
    return header + "".join(f"\n[ZValue = {place}]\n{section}" for place, section in enumerate(sections))


def section(angle: float, *lines: str) -> str:
    movie = f"SubFramePath = X:\\raw\\m_{angle:.1f}.tif"
    return "\n".join([f"TiltAngle = {angle}", *lines, *([] if any("SubFr" in line for line in lines) else [movie])]) + "\n"


class TestDialects(unittest.TestCase):
    def test_a_serialem_series_sorted_by_angle_comes_out_in_acquisition_order(self):
        facts = read("serialem_dosym.mrc.mdoc")
        self.assertEqual((facts.kind, facts.dialect, facts.series_name), ("tilt-series", "SerialEM", "serialem_dosym"))
        self.assertEqual([tilt.angle for tilt in facts.tilts], [0.000999877, -2.99985, 3.0001, 6.0003, -6.0002])
        self.assertEqual([tilt.order for tilt in facts.tilts], [1, 2, 3, 4, 5])
        self.assertEqual([tilt.prior_dose.value for tilt in facts.tilts], [0.01, 3.11, 6.21, 9.31, 12.84])
        self.assertEqual({tilt.prior_dose.source for tilt in facts.tilts}, {"field PriorRecordDose"})
        self.assertEqual(facts.tilts[0].movie, "grid-1_000_0.0.tif")
        self.assertEqual(facts.tilts[0].time, datetime(2023, 5, 3, 13, 0, 0))
        self.assertEqual((facts.tilt_axis.value, facts.tilt_axis.source), (84.3, "title"))
        self.assertEqual((facts.voltage.value, facts.pixel_size.value, facts.warnings), (300.0, 2.66, ()))

    def test_frame_doses_below_zero_are_no_doses(self):
        data = b"[ZValue = 0]\nTiltAngle = 0.0\nFrameDosesAndNumber = 1.0 4 -0.5 2\nDateTime = 01-Feb-24  10:00:00\n\n"
        data += data.replace(b"ZValue = 0", b"ZValue = 1").replace(b"TiltAngle = 0.0", b"TiltAngle = 3.0")
        self.assertIsNone(read_mdoc("x.mdoc", data).tilts[0].dose.value)

    def test_exposure_dose_wins_over_frame_doses_of_another_scale(self):
        doses = [tilt.dose for tilt in read("serialem_dosym.mrc.mdoc").tilts]
        self.assertEqual({(dose.value, dose.source) for dose in doses}, {(3.1, "field ExposureDose")})

    def test_a_tilt_axis_of_zero_is_a_value(self):
        facts = read("serialem_axis_zero.mdoc")
        self.assertEqual(facts.tilt_axis.value, 0.0)
        self.assertEqual(facts.warnings, ())

    def test_title_and_rotation_angle_that_disagree_are_warned_of(self):
        facts = read("serialem_axis_disagrees.mdoc")
        self.assertEqual(facts.tilt_axis.value, 84.3)
        self.assertTrue(any("RotationAngle = 84.3" in warning for warning in facts.warnings))

    def test_both_halves_of_a_bidirectional_series_are_one_series(self):
        first, second = read("bidir.mrc-half1.mdoc"), read("bidir.mrc.mdoc")
        self.assertEqual(first.series_name, second.series_name)
        self.assertEqual([(tilt.movie, tilt.time) for tilt in second.tilts[:3]],
                         [(tilt.movie, tilt.time) for tilt in first.tilts])
        self.assertEqual([tilt.prior_dose.value for tilt in second.tilts], [0.0, 3.0, 6.0, 9.0])
        self.assertEqual(second.evidence["bidir"], "0.0")

    def test_a_pacetomo_series_has_no_dose_where_it_was_not_calibrated(self):
        facts = read("pace_ts_001_unsorted.mrc.mdoc")
        self.assertEqual((facts.dialect, facts.series_name), ("PACEtomo", "pace_ts_001"))
        self.assertEqual([tilt.dose.value for tilt in facts.tilts], [None] * 3)
        self.assertEqual([tilt.prior_dose.value for tilt in facts.tilts], [None] * 3)
        self.assertIn("not calibrated", facts.tilts[0].dose.source)
        self.assertTrue(any("dose of 3 of 3" in warning for warning in facts.warnings))

    def test_a_section_with_fewer_keys_at_the_end_counts_only_when_the_file_has_ended(self):
        facts, unsorted = read("pace_ts_001.mrc.mdoc"), read("pace_ts_001_unsorted.mrc.mdoc")
        self.assertTrue(facts.last_section_open)
        self.assertEqual(len(facts.tilts), 2)
        self.assertEqual([(tilt.movie, tilt.time, tilt.order) for tilt in facts.tilts_if_ended],
                         [(tilt.movie, tilt.time, tilt.order) for tilt in unsorted.tilts])

    def test_tomo5_without_movie_paths_is_a_series_whose_movies_are_to_be_matched(self):
        facts = read("Position_1_2.mdoc")
        self.assertEqual((facts.kind, facts.dialect), ("tilt-series", "Tomo5"))
        self.assertEqual([tilt.movie for tilt in facts.tilts], [None] * 5)
        self.assertEqual((facts.tilt_axis.value, facts.voltage.value), (0.18, 200.0))
        self.assertEqual([tilt.prior_dose.value for tilt in facts.tilts], [0.0, 2.01, 4.02, 6.03, 8.04])

    def test_old_tomo5_dates_begin_with_the_year(self):
        facts = read("tomo5_year_first.mdoc")
        self.assertEqual([tilt.time for tilt in facts.tilts],
                         [datetime(2020, 3, 9, 23, 59, 10), datetime(2020, 3, 9, 23, 59, 50),
                          datetime(2020, 3, 10, 0, 0, 40)])
        self.assertEqual(facts.tilt_axis.value, 95.3)

    def test_new_tomo5_without_dose_and_rotation_angle_says_where_the_axis_is_from(self):
        facts, override = read("tomo5_new.mdoc"), read("tomo5_new_override.mdoc")
        self.assertAlmostEqual(facts.tilt_axis.value, 85.84)
        self.assertIn("TiltAxisAngle", facts.tilt_axis.source)
        self.assertEqual(override.tilt_axis.value, 85.84)
        self.assertEqual(override.series_name, facts.series_name)
        self.assertEqual({tilt.dose.value for tilt in facts.tilts}, {None})
        self.assertEqual({tilt.prior_dose.value for tilt in facts.tilts}, {None})
        self.assertEqual([tilt.angle for tilt in facts.tilts], [-11.03, -8.03, -14.03])
        self.assertIsNone(facts.movie_pixel_size.value)

    def test_a_jeol_series_is_read_like_any_of_serialem(self):
        facts = read("jeol.mrc.mdoc")
        self.assertEqual((facts.dialect, facts.tilt_axis.value, facts.voltage.value), ("SerialEM", 90.6, 120.0))
        self.assertEqual([tilt.angle for tilt in facts.tilts], [-0.1, 1.9, 4.0])
        self.assertAlmostEqual(facts.movie_pixel_size.value, 1.65)
        self.assertFalse(any("title" in warning for warning in facts.warnings), facts.warnings)

    def test_a_file_that_leaves_the_writer_unsaid_is_read_but_for_the_tilt_axis(self):
        facts = read("leginon_like.mdoc")
        self.assertEqual((facts.kind, facts.dialect, facts.tilt_axis.value), ("tilt-series", "unknown", None))
        self.assertEqual([(tilt.movie, tilt.prior_dose.value) for tilt in facts.tilts],
                         [("24jul16a_00012en.frames.tif", 0.0), ("24jul16a_00013en.frames.tif", 3.1),
                          ("24jul16a_00014en.frames.tif", 6.2)])

    def test_wrapped_titles_and_equals_signs_in_values_are_read(self):
        facts = read("wrapped_title.mdoc")
        self.assertEqual((facts.dialect, facts.tilt_axis.value), ("SerialEM", -85.7))
        self.assertEqual(facts.tilts[0].movie, "a = b_001_-0.0.tif")
        self.assertEqual((facts.tilts[0].dose.value, facts.tilts[0].dose.source), (2.0, "field FrameDosesAndNumber"))
        self.assertIsNone(facts.tilts[1].dose.value)
        self.assertEqual(facts.tilts[0].time, datetime(2023, 3, 9, 18, 1, 12))

    def test_a_file_without_a_last_line_end_is_short_of_its_last_tilt_and_says_so(self):
        facts = read("wrapped_title.mdoc")
        self.assertEqual((len(facts.tilts), len(facts.tilts_if_ended), facts.last_section_open), (2, 3, True))
        self.assertTrue(any("ZValue = 2) is not finished" in warning for warning in facts.warnings))


class TestKinds(unittest.TestCase):
    def test_what_is_not_a_tilt_series_is_named_with_the_reason(self):
        for name, kind, word in (("fast_tilt.mdoc", "fast-tilt", "one movie"), ("map.st.mdoc", "image", "without a movie"),
                                 ("montage.mrc.mdoc", "montage", "montage"),
                                 ("CA1_ts_28_001_0.0.eer.mdoc", "frame", "one movie")):
            facts = read(name)
            self.assertEqual(facts.kind, kind, name)
            self.assertIn(word, facts.reason, name)

    def test_bytes_that_are_no_mdoc_are_unreadable(self):
        for data in (b"", b"\n\n", b"test_data\n", b"\0" * 5000, b"\xff\xfe[\0Z\0", bytes(range(256)) * 40, b"[ZValue = 0]"):
            facts = read_mdoc("x.mdoc", data)
            self.assertEqual((facts.kind, facts.tilts), ("unreadable", ()), data[:20])
            self.assertTrue(facts.reason)

    def test_missing_files_and_folders_are_unreadable(self):
        with tempfile.TemporaryDirectory() as folder:
            self.assertIn("does not exist", read_mdoc(os.path.join(folder, "none.mdoc")).reason)
            self.assertIn("not a file", read_mdoc(folder).reason)
            self.assertEqual(read_mdoc("a\0b").kind, "unreadable")

    @unittest.skipIf(os.geteuid() == 0, "root may read everything")
    def test_a_file_that_may_not_be_read_is_unreadable(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "x.mdoc")
            path.write_text("x = 1\n")
            path.chmod(0)
            self.assertIn("permission", read_mdoc(path).reason)

    def test_images_at_one_angle_are_no_tilt_series(self):
        facts = read_text(series_text([section(5.0, f"SubFramePath = {name}.tif") for name in "abc"] + [""]))
        self.assertEqual(facts.kind, "image")
        self.assertIn("one tilt angle", facts.reason)

    def test_a_series_that_has_begun_is_a_tilt_series(self):
        facts = read_text(series_text([section(0.0)]) + "\n")
        self.assertEqual((facts.kind, len(facts.tilts)), ("tilt-series", 1))

    def test_images_that_share_a_movie_are_fast_tilting(self):
        facts = read_text(series_text([section(angle, "SubFramePath = all.eer") for angle in (0.0, 2.0, 4.0)]))
        self.assertEqual(facts.kind, "fast-tilt")


class TestTraps(unittest.TestCase):
    def test_a_series_without_times_is_ordered_by_prior_dose(self):
        facts = read_text(series_text([section(angle, f"PriorRecordDose = {prior}", "ExposureDose = 2")
                                       for angle, prior in ((-3.0, 4.1), (0.0, 0.1), (3.0, 2.1))]) + "\n")
        self.assertEqual([tilt.angle for tilt in facts.tilts], [0.0, 3.0, -3.0])

    def test_a_series_without_any_order_is_taken_as_it_stands_with_a_warning(self):
        facts = read_text(series_text([section(angle, "ExposureDose = 2") for angle in (0.0, 3.0, -3.0)]) + "\n")
        self.assertEqual([tilt.angle for tilt in facts.tilts], [0.0, 3.0, -3.0])
        self.assertTrue(any("order of the file" in warning for warning in facts.warnings))
        self.assertEqual([tilt.prior_dose.value for tilt in facts.tilts], [0.0, 2.0, 4.0])

    def test_the_dose_before_a_tilt_is_unknown_when_tilts_without_times_are_sorted_by_angle(self):
        facts = read_text(series_text([section(angle, "ExposureDose = 2") for angle in (-3.0, 0.0, 3.0)]) + "\n")
        self.assertEqual([tilt.prior_dose.value for tilt in facts.tilts], [None] * 3)
        self.assertIn("does not say when", facts.tilts[0].prior_dose.source)

    def test_numbers_in_movie_names_order_tilts_that_have_no_time(self):
        facts = read_text(series_text([section(angle, "ExposureDose = 2", f"SubFramePath = TS_{number:03d}_{angle:.1f}.tif")
                                       for angle, number in ((-3.0, 3), (0.0, 1), (3.0, 2))]) + "\n")
        self.assertEqual([tilt.angle for tilt in facts.tilts], [0.0, 3.0, -3.0])
        self.assertEqual([tilt.prior_dose.value for tilt in facts.tilts], [0.0, 2.0, 4.0])

    def test_numbers_in_movie_names_with_other_angles_than_those_of_the_tilts_order_nothing(self):
        facts = read_text(series_text([section(angle, "ExposureDose = 2", f"SubFramePath = TS_{number:03d}_{angle + 6:.1f}.tif")
                                       for angle, number in ((-3.0, 3), (0.0, 1), (3.0, 2))]) + "\n")
        self.assertEqual([tilt.angle for tilt in facts.tilts], [-3.0, 0.0, 3.0])

    def test_time_stamps_order_tilts_across_the_hour_that_comes_twice(self):
        facts = read_text(series_text([section(0.0, "DateTime = 29-Oct-2023  02:59:30", "TimeStamp = 100"),
                                       section(3.0, "DateTime = 29-Oct-2023  02:00:10", "TimeStamp = 140")]) + "\n")
        self.assertEqual([tilt.angle for tilt in facts.tilts], [0.0, 3.0])

    def night(self, minutes: list[int], *more: str) -> MdocFacts:
        """A series from 01:50 on, tilts after so many minutes by a clock that goes from 03:00 back to 02:00."""
        clock = [110 + minute if 110 + minute < 180 else 50 + minute for minute in minutes]
        return read_text(series_text([
            section(3.0 * number, f"DateTime = 26-Oct-25  0{at // 60}:{at % 60:02d}:00", "ExposureDose = 3",
                    *(line.format(3 * number) for line in more)) for number, at in enumerate(clock)]))

    def test_tilts_stay_in_order_when_the_clock_is_put_back_at_the_end_of_summer_time(self):
        for more in ((), ("PriorRecordDose = {}",)):
            facts = self.night([60, 63, 66, 69, 72, 75, 78], *more)
            self.assertEqual([tilt.angle for tilt in facts.tilts], [0.0, 3.0, 6.0, 9.0, 12.0, 15.0, 18.0])
            self.assertEqual([tilt.prior_dose.value for tilt in facts.tilts], [0.0, 3.0, 6.0, 9.0, 12.0, 15.0, 18.0])
            self.assertIn("put back to winter time", " ".join(facts.warnings))

    def test_sections_that_are_in_another_order_than_they_were_acquired_are_no_put_back_clock(self):
        for minutes in ([30, 33, 36, 0, 3, 6], [0, 3, 40, 6, 9], [9, 6, 3, 0]):
            facts = self.night(minutes)
            order = sorted(range(len(minutes)), key=minutes.__getitem__)
            self.assertEqual([tilt.angle for tilt in facts.tilts], [3.0 * number for number in order])

    def test_a_prior_dose_that_falls_is_replaced_by_the_running_sum_with_a_warning(self):
        facts = read_text(series_text([section(angle, "ExposureDose = 2", f"PriorRecordDose = {prior}",
                                               f"DateTime = 01-Jan-2024  10:0{place}:00")
                                       for place, (angle, prior) in enumerate(((0.0, 0), (3.0, 9), (-3.0, 4)))]) + "\n")
        self.assertEqual([(tilt.prior_dose.value, tilt.prior_dose.source) for tilt in facts.tilts],
                         [(0.0, "running sum"), (2.0, "running sum"), (4.0, "running sum")])
        self.assertTrue(any("PriorRecordDose" in warning for warning in facts.warnings))

    def test_prior_doses_that_are_all_zero_are_unknown(self):
        facts = read_text(series_text([section(angle, "ExposureDose = 0", "PriorRecordDose = 0",
                                               f"DateTime = 01-Jan-2024  10:0{place}:00")
                                       for place, angle in enumerate((0.0, 3.0, -3.0))]) + "\n")
        self.assertEqual([tilt.prior_dose.value for tilt in facts.tilts], [None] * 3)

    def test_an_unknown_dose_makes_the_sums_after_it_unknown(self):
        facts = read_text(series_text([section(angle, f"ExposureDose = {dose}", f"DateTime = 01-Jan-2024  10:0{place}:00")
                                       for place, (angle, dose) in enumerate(((0.0, 2), (3.0, "NaN"), (-3.0, 2)))]) + "\n")
        self.assertEqual([tilt.prior_dose.value for tilt in facts.tilts], [0.0, 2.0, None])

    def test_a_value_that_is_no_number_makes_no_tilt(self):
        for angle in ("NaN", "", "-11,03", "1 2", "1e400", "0x10", "1_0", "95", "٣"):
            last = f"TiltAngle = {angle}\nSubFramePath = z.tif\n"
            facts = read_text(series_text([section(0.0), section(3.0), last]) + "\n")
            self.assertEqual(len(facts.tilts), 2, angle)
            self.assertTrue(any("ZValue = 2" in warning for warning in facts.warnings), angle)

    def test_decimal_commas_are_read_as_points_where_the_whole_file_has_them(self):
        text = series_text([section(angle, "ExposureDose = 2.5", f"DateTime = 01-Jan-2024  10:0{place}:00")
                            for place, angle in enumerate((0.0, 3.0, -12.04))]) + "\n"
        names = [line for line in text.splitlines() if line.startswith("SubFramePath")]
        commas = text.replace(".", ",")
        for line in names:
            commas = commas.replace(line.replace(".", ","), line.replace(".0.tif", ",0.tif"))
        facts = read_text(commas)
        self.assertEqual([(tilt.angle, tilt.dose.value) for tilt in facts.tilts], [(0.0, 2.5), (3.0, 2.5), (-12.04, 2.5)])
        self.assertEqual(facts.tilt_axis.value, 85.0)
        self.assertEqual(sum("decimal commas: TiltAngle = 0,0 is read as 0.0" in warning for warning in facts.warnings), 1)

    def test_frames_that_overwrite_each_other_have_a_sentence_of_their_own(self):
        facts = read_text(series_text([section(3.0 * place, "SubFramePath = frames.tif", f"DateTime = 01-Jan-24  10:0{place}:00")
                                       for place in range(5)]) + "\n")
        self.assertEqual(facts.kind, "overwritten")
        self.assertIn("5 tilts name one file (frames.tif)", facts.reason)

    def test_movies_of_one_name_in_folders_of_their_own_overwrite_nothing(self):
        for kind in ("FrameSet", "ZValue"):
            text = "".join(f"[{kind} = {place}]\nTiltAngle = {3.0 * place}\nSubFramePath = X:\\TS_0{place}\\frames_001_0.0.tif\n"
                           f"DateTime = 01-Jan-24  10:0{place}:00\n\n" for place in range(3))
            facts = read_text("T = SerialEM: x\nVoltage = 300\n\n" + text)
            self.assertEqual((facts.kind, len(facts.tilts)), ("tilt-series", 3), kind)
            self.assertEqual([tilt.movie_folder for tilt in facts.tilts], [f"X:\\TS_0{place}" for place in range(3)])

    def test_a_section_that_contradicts_itself_is_left_out(self):
        twice = section(6.0) + "TiltAngle = 9.0\n"
        facts = read_text(series_text([section(0.0), section(3.0), twice, section(12.0)]) + "\n")
        self.assertEqual([tilt.angle for tilt in facts.tilts], [0.0, 3.0, 12.0])
        self.assertTrue(any("TiltAngle twice" in warning for warning in facts.warnings))

    def test_of_two_sections_that_name_one_movie_the_later_exposure_counts(self):
        facts = read_text(series_text([
            section(3.0, "SubFramePath = a.tif", "DateTime = 01-Jan-2024  10:00:00", "ExposureDose = 2"),
            section(6.0, "SubFramePath = b.tif", "DateTime = 01-Jan-2024  10:01:00", "ExposureDose = 2"),
            section(3.1, "SubFramePath = a.tif", "DateTime = 01-Jan-2024  10:02:00", "ExposureDose = 2")]) + "\n")
        self.assertEqual([(tilt.movie, tilt.angle, tilt.prior_dose.value) for tilt in facts.tilts],
                         [("b.tif", 6.0, 2.0), ("a.tif", 3.1, 4.0)])

    def test_frame_doses_of_another_scale_do_not_stand_in_for_a_missing_dose(self):
        facts = read_text(series_text([section(angle, f"ExposureDose = {dose}", "FrameDosesAndNumber = 0.03 10")
                                       for angle, dose in ((0.0, 3), (3.0, "NaN"), (-3.0, 3))]) + "\n")
        self.assertEqual([tilt.dose.value for tilt in facts.tilts], [3.0, None, 3.0])
        self.assertIn("another scale", facts.tilts[1].dose.source)

    def test_numbers_that_no_microscope_writes_are_unknown(self):
        facts = read_text(series_text([section(angle, "ExposureDose = 1e300", "PriorRecordDose = 1e300", "Voltage = 300000",
                                               "PixelSpacing = 1e99", "Binning = 1e-9", "RotationAngle = 1e9")
                                       for angle in (0.0, 3.0, -3.0)], header="[T = SerialEM: x]\n") + "\n")
        self.assertEqual({facts.voltage.value, facts.pixel_size.value, facts.tilt_axis.value, facts.movie_pixel_size.value},
                         {None})
        self.assertEqual({value for tilt in facts.tilts for value in (tilt.dose.value, tilt.prior_dose.value)}, {None})
        self.assertEqual(facts.voltage.source, "Voltage = 300000 in the file")

    def test_two_images_at_one_angle_are_both_kept(self):
        facts = read_text(series_text([section(angle, f"SubFramePath = {name}.tif") for angle, name in
                                       ((0.0, "a"), (0.0, "b"), (3.0, "c"))]))
        self.assertEqual([tilt.movie for tilt in facts.tilts], ["a.tif", "b.tif", "c.tif"])

    def test_zero_bytes_end_the_file(self):
        whole = series_text([section(0.0), section(3.0), section(6.0)]).encode()
        cut = whole.index(b"[ZValue = 2]")
        facts = read_mdoc("x.mdoc", whole[:cut] + b"\0" * 400)
        self.assertEqual(len(facts.tilts), 2)
        self.assertTrue(any("zero bytes" in warning for warning in facts.warnings))

    def test_a_file_with_blank_lines_inside_sections_is_not_cut_at_them(self):
        text = series_text([section(angle, f"DateTime = 01-Jan-2024  10:0{place}:00")
                            for place, angle in enumerate((0.0, 3.0, 6.0))])
        spaced = text.replace("\n", "\n\n").encode()
        cut = spaced.rindex(b"TiltAngle") + len(b"TiltAngle = 6.0\n\n")
        self.assertEqual([tilt.angle for tilt in read_mdoc("x.mdoc", spaced[:cut]).tilts], [0.0, 3.0])

    def test_a_blank_line_after_the_head_of_a_section_is_no_end_of_it(self):
        text = series_text([section(0.0), section(3.0)]).replace("]\nTilt", "]\n\nTilt") + "\n"
        self.assertEqual([tilt.angle for tilt in read_text(text.replace("Sub", "Defocus = 1\nSub", 1)).tilts], [0.0, 3.0])
        self.assertEqual(len(read_text(text[:text.rindex("Tilt")]).tilts), 1)

    def test_the_axis_of_an_unknown_writer_is_not_guessed_from_rotation_angle(self):
        facts = read_text(series_text([section(0.0, "RotationAngle = 175"), section(3.0, "RotationAngle = 175")], header=""))
        self.assertIsNone(facts.tilt_axis.value)
        self.assertIn("175", facts.tilt_axis.source)

    def test_serialem_without_a_title_gives_the_axis_by_rotation_angle_less_90(self):
        for rotation, axis in ((174.21, 84.21), (-176.0, 94.0), (0.0, -90.0), (90.0, 0.0)):
            facts = read_text(series_text([section(0.0, f"RotationAngle = {rotation}")] * 2, header="[T = SerialEM: x]\n"))
            self.assertAlmostEqual(facts.tilt_axis.value, axis, msg=str(rotation))

    def test_section_values_win_over_the_header(self):
        sections = [section(0.0, "PixelSpacing = 2", "Voltage = 300"), section(3.0, "PixelSpacing = 2")]
        facts = read_text("PixelSpacing = 9\nVoltage = 200\n" + series_text(sections) + "\n")
        self.assertEqual((facts.pixel_size.value, facts.voltage.value), (2.0, 300.0))

    def test_a_value_in_an_odd_encoding_does_not_disturb_the_others(self):
        text = series_text([section(0.0, "SubFramePath = C:\\Müller\\a.tif"), section(3.0, "SubFramePath = C:\\Ü\\b.tif")])
        for encoding in ("utf-8", "latin-1"):
            facts = read_mdoc("x.mdoc", (text + "\n").encode(encoding))
            self.assertEqual([tilt.movie for tilt in facts.tilts], ["a.tif", "b.tif"])

    def test_a_byte_order_mark_is_no_part_of_the_first_key(self):
        facts = read_mdoc("x.mdoc", b"\xef\xbb\xbfVoltage = 300\n" + series_text([section(0.0), section(3.0)]).encode())
        self.assertEqual(facts.voltage.value, 300.0)


class TestALastLineWithoutAnEnd(unittest.TestCase):
    """A tool rewrote the file and left the last line end out."""

    LAST = ("TimeStamp = 12345%d", "FilterSlitAndLoss = 20 0", "DateTime = 01-Jan-2024  10:0%d:00", "SubFramePath = D:\\m_%d.tif")

    def text(self, last: str, cut: int = 0) -> str:
        lines = [*(line for line in (self.LAST[3], self.LAST[2], "ExposureDose = 3") if line != last), last]
        sections = ["\n".join([f"TiltAngle = {3.0 * place}", *(line.replace("%d", str(place)) for line in lines)]) + "\n"
                    for place in range(4)]
        text = series_text(sections).rstrip("\n")
        return text[:len(text) - cut]

    def test_its_tilt_counts_at_rest_and_only_then(self):
        for last in self.LAST:
            data = self.text(last).encode()
            growing, still = read_mdoc("TS_1.mdoc", data), read_mdoc("TS_1.mdoc", data, at_rest=True)
            self.assertEqual((len(growing.tilts), len(growing.tilts_if_ended), growing.last_section_open), (3, 4, True), last)
            self.assertEqual((len(still.tilts), still.last_section_open), (4, False), last)
            self.assertFalse(any("does not count" in warning for warning in still.warnings), last)

    def test_half_a_value_never_counts(self):
        for last, cut in ((self.LAST[0], 3), (self.LAST[2], 4), (self.LAST[3], 4)):
            still = read_mdoc("TS_1.mdoc", self.text(last, cut).encode(), at_rest=True)
            self.assertTrue(all("m_3" != tilt.movie for tilt in still.tilts), last)
            self.assertEqual([tilt.movie for tilt in still.tilts][:3], [f"m_{place}.tif" for place in range(3)])
            if last == self.LAST[2]:
                self.assertEqual(len(still.tilts), 3)

    def test_the_doctor_counts_it_in_a_file_that_is_at_rest(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "TS_1.mdoc")
            Path(path).write_text(self.text(self.LAST[0]), encoding="utf-8")
            self.assertEqual(len(examine([path])[0].tilts), 3)
            os.utime(path, (1.0, 1.0))
            self.assertEqual(len(examine([path])[0].tilts), 4)


class TestAnAxis(unittest.TestCase):
    def test_is_the_same_after_half_a_turn(self):
        for one, other, apart in ((179.9, -0.1, 0.0), (-95.0, 85.2, 0.2), (1.0, 178.0, 3.0), (0.0, 90.0, 90.0)):
            self.assertAlmostEqual(_apart(one, other), apart)
            self.assertAlmostEqual(_apart(other, one), apart)


class TestDates(unittest.TestCase):
    def test_one_file_uses_one_order_of_day_and_year(self):
        self.assertEqual(parse_dates(["20-Mar-09  23:59:10", "20-Mar-10  00:01:10"], year_first=False)[1],
                         datetime(2020, 3, 10, 0, 1, 10))
        self.assertEqual(parse_dates(["09-Mar-20 23:59:10", "10-Mar-20 00:01:10"], year_first=True)[1],
                         datetime(2020, 3, 10, 0, 1, 10))
        self.assertEqual(parse_dates(["31-Mar-22 23:59:10"], year_first=False), (datetime(2022, 3, 31, 23, 59, 10),))

    def put_back(self, hour: int, minutes: int) -> bool:
        """Whether the fifth of six tilts, so many minutes apart, is taken for later than its time an hour before it says."""
        true = [datetime(2026, 10, 25, hour) + timedelta(minutes=minutes * number) for number in range(6)]
        read = with_clock_put_back([*true[:4], *(time - timedelta(hours=1) for time in true[4:])])
        self.assertEqual(list(read[:4]), true[:4])
        return list(read) == true

    def test_a_clock_is_put_back_at_night_alone(self):
        self.assertEqual([self.put_back(hour, 3) for hour in (1, 2, 12, 20)], [True, True, False, False])

    def test_a_clock_is_known_to_be_put_back_by_tilts_that_take_as_long_as_before(self):
        self.assertTrue(self.put_back(0, 18))        # longer than a tilt usually takes, but so did those before it

    def test_four_digits_say_which_is_the_year(self):
        for text in ("07-Jan-2026  18:19:19", "2026-Jan-07  18:19:19", "7-JAN-2026 18:19:19"):
            self.assertEqual(parse_dates([text], year_first=False), (datetime(2026, 1, 7, 18, 19, 19),))

    def test_what_is_no_date_is_unknown(self):
        for text in ("", "NaN", "32-Jan-2026 00:00:00", "01-Foo-2026 00:00:00", "01-Jan-2026 25:00:00",
                     "01-01-2026 00:00:00"):
            self.assertEqual(parse_dates([text], year_first=False), (None,), text)


class TestFrames(unittest.TestCase):
    def frames(self) -> list[MdocFacts]:
        return [read(f"CA1_ts_28_{name}.eer.mdoc") for name in ("002_3.0", "003_-3.0", "001_0.0")]

    def test_frame_mdocs_of_one_name_make_one_series(self):
        (series,) = group_frames([*self.frames(), read("montage.mrc.mdoc")])
        self.assertEqual((series.kind, series.series_name, series.dialect), ("tilt-series", "CA1_ts_28", "SerialEM"))
        self.assertEqual([(tilt.order, tilt.angle, tilt.prior_dose.value) for tilt in series.tilts],
                         [(1, 0.01, 0.1), (2, 3.02, 2.2), (3, -2.98, 4.3)])
        self.assertAlmostEqual(series.tilt_axis.value, 84.21)
        self.assertEqual(len(series.evidence["files"].split("\n")), 3)

    def test_one_frame_alone_does_not_know_what_came_before_it(self):
        facts = read("2023-09-25_14.13.07_Grid9-_template_0035.tif.mdoc")
        self.assertEqual((facts.kind, facts.tilts[0].prior_dose.value), ("frame", None))
        self.assertEqual(facts.movie_pixel_size.value, 1.965)

    def test_single_particle_frames_make_no_series(self):
        one = read("2023-09-25_14.13.07_Grid9-_template_0035.tif.mdoc")
        other = replace(one, tilts=(replace(one.tilts[0], movie="2023-09-25_14.13.07_Grid9-_template_0036.tif"),))
        self.assertEqual(group_frames([one, other]), [])

    def test_single_particles_of_two_stage_tilts_make_no_series(self):
        one = read("2023-09-25_14.13.07_Grid9-_template_0035.tif.mdoc")
        frames = [replace(one, tilts=(replace(one.tilts[0], movie=f"a_{number:04d}.tif", angle=30.0 * (number % 2)),),
                          frame_series="a") for number in range(12)]
        self.assertEqual(group_frames(frames), [])

    def test_movies_that_a_series_mdoc_lists_are_left_to_it(self):
        (series,) = group_frames(self.frames())
        self.assertEqual(group_frames([*self.frames(), series]), [])

    def test_a_counter_that_goes_on_into_the_next_series_does_not_mix_them(self):
        frames = self.frames()
        later = [replace(frame, tilts=(replace(frame.tilts[0], movie=f"CA1_ts_28_{place:03d}_{angle}.eer",
                                               time=datetime(2024, 11, 7, 1, place)),))
                 for place, angle, frame in ((4, "0.0", frames[2]), (5, "3.0", frames[0]), (6, "-3.0", frames[1]))]
        series = group_frames([*later, *frames])
        self.assertEqual([(one.series_name, len(one.tilts)) for one in series], [("CA1_ts_28", 3), ("CA1_ts_28_4", 3)])

    def test_frames_in_two_folders_are_two_series(self):
        frames = self.frames()
        moved = [replace(frame, path="/elsewhere/" + os.path.basename(frame.path)) for frame in frames]
        self.assertEqual(len(group_frames([*frames, *moved])), 2)


class TestPixelSize(unittest.TestCase):
    def facts(self, spacing: float, binning: str, image: str = "") -> MdocFacts:
        header = f"ImageSize = {image}\n" if image else ""
        return read_text(header + series_text([section(angle, f"PixelSpacing = {spacing}", f"Binning = {binning}")
                                               for angle in (0.0, 3.0)]))

    def test_a_binned_image_says_the_pixel_size_of_the_movie_by_its_binning(self):
        self.assertAlmostEqual(movie_pixel_size(self.facts(5.4, "4")).value, 1.35)
        self.assertAlmostEqual(movie_pixel_size(self.facts(1.2827, "0.5")).value, 1.2827)

    def test_the_size_of_a_movie_decides_whether_it_is_super_resolution(self):
        movie = MovieCheck("complete", width=11520, height=8184, frames=10, dtype="uint8")
        known = movie_pixel_size(self.facts(2.663, "1", "5760 4092"), movie)
        self.assertAlmostEqual(known.value, 2.663 / 2)
        self.assertIn("ImageSize", known.source)
        rotated = MovieCheck("complete", width=3838, height=3710, frames=10, dtype="uint8")
        self.assertAlmostEqual(movie_pixel_size(self.facts(5.4, "4", "924 958"), rotated).value, 1.35)

    def test_a_movie_of_another_area_says_nothing(self):
        movie = MovieCheck("complete", width=4096, height=4096, frames=10, dtype="uint8")
        self.assertAlmostEqual(movie_pixel_size(self.facts(5.4, "4", "924 958"), movie).value, 1.35)

    def test_a_pixel_size_of_another_binning_is_doubted_and_a_calibrated_one_is_not(self):
        counting = self.facts(2.663, "1", "5760 4092")
        for width, height, right in ((5760, 4092, 2.663), (2880, 2046, 5.326), (11520, 8184, 1.3315)):
            image = MovieCheck("complete", width=width, height=height, frames=1, dtype="float32")
            for factor in (1.0, 0.95, 1.05):
                self.assertEqual(pixel_size_doubt(factor * right, [counting], image), "")
            for factor in (0.5, 0.75, 2.0):
                self.assertIn(f"gives {right:.4g} A", pixel_size_doubt(factor * right, [counting], image))
        other = MovieCheck("complete", width=4096, height=4096, frames=1, dtype="float32")
        self.assertEqual(pixel_size_doubt(9.0, [counting, self.facts(5.4, "4")], other), "")

    def test_tilts_with_a_movie_each_are_a_series_though_the_file_is_flagged_as_a_montage(self):
        head = "PixelSpacing = 1.7\nVoltage = 200\nMontage = 1\n\n[T = Tilt axis angle = -88.7, binning = 1]\n\n"
        section = ("[ZValue = {n}]\nTiltAngle = {angle:.4f}\nSubFramePath = X:\\frames\\demo_{n}_{angle:.1f}.tif\n"
                   "DateTime = 30-May-21  22:{n:02d}:28\n\n")
        at_angles = head + "".join(section.format(n=n, angle=angle) for n, angle in enumerate((0.0, 3.0, -3.0)))
        facts = read_mdoc("demo.mrc.mdoc", at_angles.encode())
        self.assertEqual((facts.kind, [tilt.angle for tilt in facts.tilts]), ("tilt-series", [0.0, 3.0, -3.0]))
        at_one = head + "".join(section.format(n=n, angle=0.0) for n in range(3))
        self.assertEqual(read_mdoc("demo.mrc.mdoc", at_one.encode()).kind, "montage")

    def test_frame_sets_alone_are_known_as_such(self):
        section = ("[FrameSet = 0]\nTiltAngle = {angle}\nSubFramePath = D:\\TS_01_{n:03d}_{angle}.tif\n"
                   "DateTime = 30-May-21  22:0{n}:28\n\n")
        data = "".join(section.format(n=n, angle=3.0 * n) for n in range(3)).encode()
        self.assertTrue(read_mdoc("session.mdoc", data).frame_sets)
        self.assertFalse(read_mdoc("session.mdoc", data.replace(b"FrameSet", b"ZValue")).frame_sets)

    def test_maps_and_montages_say_nothing_of_the_movies(self):
        for name in ("map.st.mdoc", "montage.mrc.mdoc"):
            self.assertIsNone(read(name).movie_pixel_size.value, name)
            self.assertEqual(read(name).pixel_size.value, 656.0, name)

    def test_without_binning_the_pixel_size_of_the_movie_is_unknown(self):
        facts = read_text("PixelSpacing = 2\n" + series_text([section(0.0), section(3.0)]))
        self.assertIsNone(movie_pixel_size(facts).value)


def whole_tilts(facts: MdocFacts) -> set[tuple]:
    return {(tilt.movie, tilt.angle, tilt.time, tilt.dose, tilt.section) for tilt in facts.tilts_if_ended}


def section_ends(data: bytes) -> list[tuple[int, int]]:
    """Where each image section is finished (it has every key of the one before) and where its last line ends."""
    ends: list[list[int]] = []
    before, keys, position, inside = set(), set(), 0, False
    for line in data.split(b"\n")[:-1]:
        position += len(line) + 1
        if line.startswith(b"["):
            inside = line.startswith((b"[ZValue", b"[FrameSet"))
            before, keys = keys, set()
            ends.extend([[0, position]] if inside else [])
        elif line.strip() and inside:
            keys.add(line.partition(b"=")[0].strip())
            ends[-1][1] = position
            if ends[-1][0] == 0 and before and before <= keys:
                ends[-1][0] = position
    return [(first or last, last) for first, last in ends]


@pytest.mark.slow
class TestPrefixes(unittest.TestCase):
    """A file caught at any byte gives finished tilts only, at most one fewer, never a wrong one."""

    def check(self, data: bytes, cuts: range | list[int], name: str) -> None:
        whole, ends = whole_tilts(read_mdoc(name, data)), section_ends(data)
        kind = read_mdoc(name, data).kind
        for cut in cuts:
            facts = read_mdoc(name, data[:cut])
            begun, finished = (sum(end[place] <= cut for end in ends) for place in (0, 1))
            tilts = {(tilt.movie, tilt.angle, tilt.time, tilt.dose, tilt.section) for tilt in facts.tilts}
            self.assertLessEqual(tilts, whole, f"{name} cut at {cut}")
            frame = facts.kind == "frame" and not tilts - whole
            self.assertLessEqual(len(tilts), max(begun, 1 if frame else 0), f"{name} cut at {cut}")
            if kind in ("tilt-series", "frame"):
                self.assertGreaterEqual(len(tilts), finished - 1, f"{name} cut at {cut}")

    def cuts(self, data: bytes) -> list[int]:
        """Every byte around the start of a section, line ends and their neighbours, and a sample of the rest.

        `benchmarks/fuzz_mdoc.py --prefixes` takes every byte of every file.
        """
        if len(data) < 1500:
            return list(range(len(data) + 1))
        begin = data.find(b"\n[ZValue", len(data) // 4)
        lines = [place + step for place, byte in enumerate(data) if byte == 10 for step in (0, 1, 2)]
        sample = random.Random(1).sample(range(len(data)), 60)
        return [*range(begin - 120, begin + 120), *random.Random(2).sample(lines, min(80, len(lines))), *sample]

    def test_every_prefix_of_every_file_of_ours(self):
        for path in sorted(DATA.iterdir()):
            if "fast_tilt" not in path.name:
                data = path.read_bytes()
                self.check(data, range(len(data) + 1), path.name)

    @unittest.skipUnless(REAL.is_dir(), "the real mdoc files are not on this machine")
    def test_prefixes_of_every_real_file(self):
        for path in sorted(REAL.rglob("*.mdoc")):
            data = path.read_bytes()
            self.check(data, self.cuts(data), path.name)

    def test_prefixes_without_blank_lines_between_sections(self):
        text = series_text([section(angle, f"DateTime = 01-Jan-2024  10:0{place}:00", "ExposureDose = 2.5")
                            for place, angle in enumerate((0.0, 3.0, -3.0, -6.0))]).replace("\n\n", "\n")
        self.check(text.encode(), range(len(text)), "x.mdoc")


@unittest.skipUnless(REAL.is_dir(), "the real mdoc files are not on this machine")
class TestRealFiles(unittest.TestCase):
    """The real files against what was read off them by eye: kind, dialect, tilts, axis, dose of the first tilt, voltage."""

    TRUTH = MappingProxyType({
        "set-01/AreTomo3_issue24_framesets_eer.eer.mdoc": ("frame", "SerialEM", 1, 84.21, 2.0542, 300.0),
        "set-01/AreTomo3_issue61_new_tomo5.24.mdoc": ("unreadable", "Tomo5", 0, 85.84, None, None),
        "set-01/cets-aretomo3_Position_16_3_first4.mdoc": ("tilt-series", "Tomo5", 4, 83.94, 2.01, 300.0),
        "set-01/tomotools_issue17_L02_ts_002.mdoc": ("tilt-series", "SerialEM", 7, 80.2, None, 300.0),
        "set-02/test.mdoc": ("tilt-series", "PACEtomo", 11, 83.8, None, 300.0),
        "set-02/test_1.mdoc": ("tilt-series", "PACEtomo", 11, 83.8, None, 300.0),
        "set-03/2023-09-25_14.13.07_Grid9-_template_0035.tif.mdoc": ("frame", "SerialEM", 1, 84.13, 39.2291, 300.0),
        "set-03/TS_41.mrc.mdoc": ("tilt-series", "SerialEM", 40, 84.3, 3.08367, 300.0),
        "set-04/test.tif.mdoc": ("frame", "SerialEM", 1, 80.74, None, 300.0),
        "set-05/L1_ts_001.mrc.mdoc": ("tilt-series", "PACEtomo", 41, 94.0, None, 300.0),
        "set-06/TS_01.mrc.mdoc": ("tilt-series", "SerialEM", 41, 85.3, None, None),
        "set-06/frame_set_single.mdoc": ("frame", "SerialEM", 1, 88.414, 7.65892, 300.0),
        "set-06/montage_section.mdoc": ("montage", "SerialEM", 0, -86.7, None, 300.0),
        "set-06/tilt_series.mdoc": ("tilt-series", "SerialEM", 41, 85.3, None, None),
        "set-07/gm.mrc.mdoc": ("montage", "SerialEM", 0, 90.6, None, 120.0),
        "set-08/Position_1.mdoc": ("tilt-series", "Tomo5", 41, 0.18, 2.01, 200.0),
        "set-08/Position_1_3.mdoc": ("tilt-series", "Tomo5", 41, 0.18, 2.0, 200.0),
        "set-08/Position_3_3.mdoc": ("tilt-series", "Tomo5", 41, 0.18, 2.01, 200.0),
        "set-09/017.mdoc": ("tilt-series", "SerialEM", 60, 82.9, 2.23843, 300.0),
        "set-10/test_000.mdoc": ("image", "SerialEM", 2, -90.0, None, 300.0),
        "set-12/65b4057__foo-TS_run1.mdoc": ("tilt-series", "SerialEM", 5, 84.7, 2.35936, 300.0),
        "set-12/RUN1.mdoc": ("unreadable", "unknown", 0, None, None, None),
        "set-13/dummy.mrc.mdoc": ("tilt-series", "unknown", 3, 177.0, None, 300.0),
    })

    def test_real_files_are_read_as_by_eye(self):
        for name, truth in self.TRUTH.items():
            facts = read_mdoc(REAL / name)
            axis = None if facts.tilt_axis.value is None else round(facts.tilt_axis.value, 3)
            dose = facts.tilts[0].dose.value if facts.tilts else None
            self.assertEqual((facts.kind, facts.dialect, len(facts.tilts), axis, dose, facts.voltage.value), truth, name)

    def test_times_of_real_series_never_go_back_and_doses_never_fall(self):
        for path in sorted(REAL.rglob("*.mdoc")):
            tilts = read_mdoc(path).tilts
            times = [tilt.time for tilt in tilts if tilt.time is not None]
            priors = [tilt.prior_dose.value for tilt in tilts if tilt.prior_dose.value is not None]
            self.assertEqual(times, sorted(times), path.name)
            self.assertEqual(priors, sorted(priors), path.name)


ANGLES = st.floats(-70, 70).map(lambda angle: round(angle, 4))


@st.composite
def written_series(draw: st.DrawFn) -> tuple[str, list[tuple[str, float, float, float]], dict]:
    """An mdoc and its truth: (movie, angle, dose, prior dose) in acquisition order, in a file order of its own."""
    angles = draw(st.lists(ANGLES, min_size=2, max_size=12, unique_by=lambda angle: round(angle)))
    dose = draw(st.floats(0.1, 9).map(lambda value: round(value, 3)))
    tilts = [(f"m{place:03d}_{angle:.1f}.tif", angle, dose, round(place * dose, 6)) for place, angle in enumerate(angles)]
    year, axis = draw(st.sampled_from(["2024", "24"])), round(draw(st.floats(-180, 180)), 1)
    folder = draw(st.sampled_from(["", "X:\\a b\\", "\\\\srv\\x\\", "/data/raw/", "./", "C:"]))
    rows = draw(st.permutations(list(enumerate(tilts))))
    lines = draw(st.permutations(["Defocus = -3", "Binning = 1", "CountsPerElectron = NaN ", "ChannelName = "]))
    sections = [section(angle, *lines, f"ExposureDose = {given}", *([f"PriorRecordDose = {prior}"] if year == "24" else []),
                        f"SubFramePath = {folder}{movie}", f"DateTime = 01-Feb-{year}  10:{place:02d}:00")
                for place, (movie, angle, given, prior) in rows]
    text = series_text(sections, header=f"PixelSpacing = 2.1\nVoltage = 300\n[T = SerialEM: x ]\n\n"
                                        f"[T = Tilt axis angle = {axis}, binning = 1]\n")
    return draw(st.sampled_from([text, text.replace("\n", "\r\n")])), tilts, {"axis": axis}


class TestProperties(unittest.TestCase):
    @settings(deadline=None, max_examples=60)
    @given(written_series())
    def test_what_was_written_is_read(self, written):
        text, tilts, known = written
        facts = read_mdoc("TS_1.mrc.mdoc", text.encode())
        self.assertEqual([(tilt.movie, tilt.angle, tilt.dose.value) for tilt in facts.tilts], [tilt[:3] for tilt in tilts])
        for tilt, (_, _, _, prior) in zip(facts.tilts, tilts, strict=True):
            self.assertAlmostEqual(tilt.prior_dose.value, prior, places=4)
        self.assertEqual((facts.kind, facts.tilt_axis.value, facts.voltage.value), ("tilt-series", known["axis"], 300.0))

    @settings(deadline=None, max_examples=60)
    @given(written_series(), st.data())
    def test_a_prefix_never_gives_a_wrong_tilt(self, written, data):
        whole = written[0].encode()
        cut = data.draw(st.integers(0, len(whole)))
        truth = {(movie, angle, dose) for movie, angle, dose, _ in written[1]}
        given_tilts = read_mdoc("x.mdoc", whole[:cut]).tilts
        self.assertLessEqual({(tilt.movie, tilt.angle, tilt.dose.value) for tilt in given_tilts}, truth)

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=400), st.binary(max_size=200), st.integers(0, 1500))
    def test_no_bytes_raise(self, junk, more, place):
        text = series_text([section(angle, "ExposureDose = 2", "DateTime = 01-Feb-24  10:00:00") for angle in (0.0, 3.0)])
        data = text.encode()[:place] + junk + text.encode()[place:] + more
        for one in (data, junk):
            facts = read_mdoc("x.mdoc", one)
            self.assertTrue(facts.kind in ("tilt-series", "image", "frame", "fast-tilt", "montage") or facts.reason)

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.sampled_from([
        b"[", b"]", b"=", b"\n", b"\r\n", b" ", b"ZValue", b"T", b"TiltAngle = 3\n", b"-", b"\0", b"FrameSet", b"9e9",
        b"\xff", b"SubFramePath = a\\b.tif\n", b"DateTime = 01-Feb-24  10:00:00\n", b"Montage = 1\n", b"[ZValue = 1]\n",
        b"PriorRecordDose = "]), max_size=60))
    def test_no_sequence_of_its_own_words_raises(self, words):
        json.dumps(as_json([read_mdoc("x.mdoc", b"".join(words))]))

    def test_the_corpus_of_the_fuzzer_raises_nothing(self):
        for path in sorted((DATA.parent / "mdoc_corpus").glob("*")):
            facts = read_mdoc(path)
            json.dumps(as_json([facts, *group_frames([facts])]))


class TestDoctor(unittest.TestCase):
    KEYS = frozenset({"file", "kind", "reason", "dialect", "series_id", "tilt_axis_deg", "tilt_axis_source", "pixel_size_A",
                      "voltage_kV", "warnings", "tilts"})

    def run_command(self, *arguments: str) -> tuple[int, str]:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            status = command(["mdoc", *arguments])
        return status, out.getvalue()

    def test_json_has_the_agreed_keys_for_every_file(self):
        status, text = self.run_command("--json", str(DATA))
        objects = json.loads(text)
        self.assertEqual(status, 1)
        self.assertEqual({frozenset(one) for one in objects}, {self.KEYS})
        self.assertEqual(len(objects), len(find_mdocs([str(DATA)])) + 1)
        tilt = next(one for one in objects if "serialem_dosym" in one["file"])["tilts"][1]
        self.assertEqual(tilt, {"movie": "grid-1_001_-3.0.tif", "angle_deg": -2.99985, "dose_e_per_A2": 3.1,
                                "prior_dose_e_per_A2": 3.11, "acquisition_order": 2, "time": "2023-05-03T13:01:00"})

    def test_frame_mdocs_given_together_come_out_as_a_series_too(self):
        objects = as_json(examine([str(path) for path in DATA.glob("CA1*")]))
        self.assertEqual([one["kind"] for one in objects], ["frame"] * 3 + ["tilt-series"])
        self.assertEqual((objects[-1]["series_id"], objects[-1]["dialect"]), ("CA1_ts_28", "SerialEM"))

    def test_the_states_of_one_series_have_one_id(self):
        ids = {one["series_id"] for one in as_json(examine([str(path) for path in DATA.glob("bidir*")]))}
        self.assertEqual(ids, {"bidir"})

    def test_the_exit_status_is_0_when_all_can_be_used(self):
        for name in ("serialem_dosym.mrc.mdoc", "map.st.mdoc", "montage.mrc.mdoc"):
            self.assertEqual(self.run_command(str(DATA / name))[0], 0, name)

    def test_the_exit_status_is_1_when_a_file_cannot_be_used(self):
        with tempfile.TemporaryDirectory() as folder:
            for path in (str(DATA / "fast_tilt.mdoc"), os.path.join(folder, "none.mdoc"), folder):
                self.assertEqual(self.run_command(path)[0], 1, path)

    def test_the_text_says_the_reason_the_axis_and_the_tilts(self):
        _, text = self.run_command(str(DATA / "Position_1_2.mdoc"), str(DATA / "montage.mrc.mdoc"))
        self.assertIn("0.18 deg (field RotationAngle", text)
        self.assertIn("montage: It is a montage", text)
        self.assertIn("2024-07-24 13:42:25", text)


class TestTargetDefocus(unittest.TestCase):
    def test_underfocus_is_positive_and_what_nobody_has_set_is_unknown(self):
        for line, value in (("TargetDefocus = -3.50", 3.5), ("TargetDefocus = 0", None), ("", None),
                            ("TargetDefocus = -35000", None), ("TargetDefocus = 0.5", -0.5)):
            sections = [f"[ZValue = {n}]\nTiltAngle = {3 * n}\nSubFramePath = {n}.tif\n{line}\n" for n in range(2)]
            self.assertEqual(read_mdoc("/a.mdoc", "\n".join(sections).encode()).tilts[0].target_defocus, value, line)


if __name__ == "__main__":
    unittest.main()
