# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of movies and series: keys, matches, and identifiers that Scipion and SQLite take."""

from __future__ import annotations

import os
import random
import re
import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from tomostream.acquisition.facts import Tilt
from tomostream.acquisition.naming import (
    MovieName,
    SeriesIds,
    basename,
    match_movies,
    movie_key,
    parse_movie_name,
    series_name,
    valid_id,
)


class TestMovieKey(unittest.TestCase):
    def test_the_key_is_the_basename_after_any_separator(self):
        for path in ("X:\\Users\\A B\\raw\\m_-12.0.tif", "\\\\10.0.0.2\\x\\\\y\\m_-12.0.tif", "/data/raw/m_-12.0.tif",
                     "./m_-12.0.tif", "m_-12.0.tif", "C:m_-12.0.tif", "a\\b/m_-12.0.tif  "):
            self.assertEqual(movie_key(path), "m_-12.0", path)

    def test_only_movie_extensions_are_cut_whatever_their_case(self):
        for name, key in (("a_-12.0.EER", "a_-12.0"), ("a_-12.0", "a_-12.0"), ("a.mrc.tif", "a"), ("a.b.c", "a.b.c"),
                          ("a.MRCS", "a"), ("a.TIFF", "a"), ("a.eer.gain", "a.eer.gain"), (".eer", ".eer"), ("", "")):
            self.assertEqual(movie_key(name), key, name)

    def test_the_name_of_a_series_can_be_stored_whatever_bytes_name_its_file(self):
        self.assertEqual(series_name(os.fsdecode(b"/data/caf\xe9 1.mrc.mdoc")), "caf? 1")
        self.assertEqual(series_name("/data/caf\u00e9.mdoc"), "caf\u00e9")

    def test_blanks_are_what_scipion_makes_of_them_so_that_mdoc_and_micrograph_meet(self):
        self.assertEqual(movie_key("X:\\raw\\TS 01_001_-3.0.tif"), movie_key("TS_01_001_-3.0.tif"))
        tilts = (Tilt(None, -3.0, 1),)
        self.assertEqual(match_movies(tilts, ["TS_01_001_-3.0.tif"], "TS 01")[0].movie, "TS_01_001_-3.0.tif")

    def test_suffixes_of_the_instrument_stay_in_the_key(self):
        self.assertEqual(movie_key("P_1_001_0.00_20240716_204232_EER.eer"), "P_1_001_0.00_20240716_204232_EER")


class TestSeriesName(unittest.TestCase):
    def test_all_states_of_a_file_have_one_series_name(self):
        for path in ("X.mrc.mdoc", "/a/X.mrc-half1.mdoc", "X.mrc-unsorted.mdoc", "X_unsorted.mrc.mdoc", "X_override.mdoc",
                     "X.mdoc", "X.st.mdoc", "C:\\a\\X.MRC.MDOC", "X.mrc", "X_override.mrc.mdoc"):
            self.assertEqual(series_name(path), "X", path)

    def test_dots_in_names_stay(self):
        self.assertEqual(series_name("grid.2_pos-1.0.mrc.mdoc"), "grid.2_pos-1.0")

    def test_a_name_is_never_cut_to_nothing(self):
        for path in (".mdoc", "_override.mdoc", "-half1", ".mrc.mdoc"):
            self.assertTrue(series_name(path), path)


class TestMovieName(unittest.TestCase):
    def test_series_order_and_angle_are_read_from_the_names_of_instruments(self):
        for name, truth in (
                ("CA1_G1_64kx_ts_28_011_35.0.eer", MovieName("CA1_G1_64kx_ts_28", 11, 35.0)),
                ("Position_1_2_003_-4.00_20240724_133945_EER.eer", MovieName("Position_1_2", 3, -4.0)),
                ("s_mmm_00993_33.0_Oct08_07.39.05.tif", MovieName("s_mmm", 993, 33.0)),
                ("lamella_tilt_012_angle_-33.0.tif", MovieName("lamella", 12, -33.0)),
                ("TS_01_000_-0.0.mrc", MovieName("TS_01", 0, -0.0)),
                ("09-25_14.13.07_Grid9-_template_0035.tif", MovieName("09-25_14.13.07_Grid9-_template", 35, None)),
                ("20240209_SJLN_3_1_2_0116.tif", MovieName("20240209_SJLN_3_1_2", 116, None)),
                ("nothing.tif", MovieName("nothing", None, None))):
            self.assertEqual(parse_movie_name(name), truth, name)

    def test_an_angle_in_brackets_is_read(self):
        for name in ("Position_1_003[-12.00]_20260115_090109_EER.eer", "Position_1_003_[-12.00]-55_fractions.tiff",
                     "Position_1_003[-12.00].eer"):
            fields = parse_movie_name(name)
            self.assertEqual((fields.series, fields.order, fields.angle), ("Position_1", 3, -12.0), name)


def tilts_of(*angles: float) -> list[Tilt]:
    return [Tilt(None, angle, order) for order, angle in enumerate(angles, start=1)]


class TestDatesInNames(unittest.TestCase):
    def test_a_date_in_a_name_is_no_part_of_the_series(self) -> None:
        for name, said in (("20240105_123045_lamella_-3.0.tif", ("lamella", None, -3.0)),
                           ("2023-09-25_14.13.07_lamella_-3.0.tif", ("lamella", None, -3.0)),
                           ("lamella_Sep25_14.13.07_12.0.tif", ("lamella", None, 12.0)),
                           ("2023-09-25_14.13.07_Grid9_0035.tif", ("Grid9", 35, None)),
                           ("TS_01_20240105_123045_-3.0.tif", ("TS_01_20240105", 123045, -3.0)),
                           ("TS_01_003_-6,0.tif", ("TS_01", 3, -6.0))):
            found = parse_movie_name(name)
            self.assertEqual((found.series, found.order, found.angle), said, name)


class TestMatchMovies(unittest.TestCase):
    NAMES = ("Position_1_001_0.00_x.eer", "Position_1_002_2.00_x.eer", "Position_1_003_-2.00_x.eer",
             "Position_1_2_001_0.00_x.eer", "Position_1_2_002_2.00_x.eer", "Position_1_2_003_-2.00_x.eer")

    def test_movies_are_matched_by_series_and_angle(self):
        for series in ("Position_1", "Position_1_2"):
            tilts = match_movies(tilts_of(0.01, 1.98, -2.02), self.NAMES, series)
            self.assertEqual([tilt.movie for tilt in tilts],
                             [f"{series}_{name}_x.eer" for name in ("001_0.00", "002_2.00", "003_-2.00")])

    def test_counters_that_begin_elsewhere_are_no_hindrance(self):
        tilts = match_movies(tilts_of(0, 3, -3), ["a_0012_3.0.tif", "a_0006_0.0.tif", "a_0018_-3.0.tif"], "a")
        self.assertEqual([tilt.movie for tilt in tilts], ["a_0006_0.0.tif", "a_0012_3.0.tif", "a_0018_-3.0.tif"])

    def matched(self, angles: tuple[float, ...], *names: str) -> list[str | None]:
        return [tilt.movie for tilt in match_movies(tilts_of(*angles), [f"a_{name}.tif" for name in names], "a")]

    def test_of_two_movies_at_one_angle_the_one_with_the_number_is_taken_where_numbers_are_those_of_the_tilts(self):
        self.assertEqual(self.matched((0, 3, -3), "001_0.0", "002_3.0", "003_-3.0", "007_3.0"),
                         ["a_001_0.0.tif", "a_002_3.0.tif", "a_003_-3.0.tif"])

    def test_a_repeated_exposure_is_not_mistaken_for_the_one_that_replaced_it(self):
        self.assertEqual(self.matched((0, 3), "001_0.0", "002_3.0", "003_3.0"), ["a_001_0.0.tif", None])
        self.assertEqual(self.matched((0, 3, -3), "001_0.0", "002_3.0", "003_3.0", "004_-3.0"),
                         ["a_001_0.0.tif", None, "a_004_-3.0.tif"])

    def test_nothing_is_matched_when_numbers_contradict_the_order(self):
        tilts = match_movies(tilts_of(0, 3), ["a_002_0.0.tif", "a_001_3.0.tif"], "a")
        self.assertEqual([tilt.movie for tilt in tilts], [None, None])

    def test_movies_that_have_a_tilt_are_not_given_to_another(self):
        tilts = [Tilt("a_001_0.0.tif", 0.0, 1), Tilt(None, 0.1, 2)]
        self.assertEqual(match_movies(tilts, ["a_001_0.0.tif"], "a"), tuple(tilts))

    def test_without_the_name_of_the_series_the_movies_must_agree_on_one(self):
        self.assertEqual(match_movies(tilts_of(0, 2), self.NAMES)[0].movie, None)
        self.assertEqual(match_movies(tilts_of(0, 2), self.NAMES[:3])[0].movie, self.NAMES[0])

    def test_a_movie_that_has_not_come_leaves_its_tilt_without_one(self):
        tilts = match_movies(tilts_of(0, 2, -2), [self.NAMES[0], self.NAMES[2]], "Position_1")
        self.assertEqual([tilt.movie for tilt in tilts], [self.NAMES[0], None, self.NAMES[2]])


class TestTargetsWithoutSubFramePath(unittest.TestCase):
    def test_a_number_that_counts_targets_is_part_of_the_name_of_the_series(self):
        names = [f"lam_ts_{target:03d}_{angle:.1f}.tif" for target in (1, 2) for angle in (0.0, 3.0, -3.0)]
        matched = match_movies(tilts_of(0, 3, -3), names, "lam_ts_002")
        self.assertEqual([tilt.movie for tilt in matched], names[3:])


NAMES = st.text(st.characters(), max_size=90) | st.from_regex(r"[A-Za-z0-9_\-. ]{1,20}", fullmatch=True)


class TestSeriesIds(unittest.TestCase):
    def test_a_valid_name_is_its_own_identifier(self):
        for name in ("TS_01", "Position_1_2", "_a", "a"):
            self.assertEqual(SeriesIds().id_for(name), name)

    def test_names_that_would_collapse_are_distinguished_in_any_order(self):
        names = ["TS-1", "TS_1", "TS 1", "TS.1", "1", "TS_1_", "ts-1", "TS--1", "é", "è", "017", "TS_017", "", " ",
                 "sqlite_x"]
        ids = SeriesIds()
        first = {name: ids.id_for(name) for name in names}
        random.Random(3).shuffle(names)
        again = SeriesIds()
        self.assertEqual({name: again.id_for(name) for name in names}, first)
        self.assertEqual(len({one.casefold() for one in first.values()}), len(names))
        self.assertEqual({ids.name_of(one) for one in first.values()}, set(names))

    def test_names_that_differ_by_case_get_two_identifiers(self):
        ids = SeriesIds()
        self.assertNotEqual(ids.id_for("TS_a").casefold(), ids.id_for("ts_A").casefold())
        self.assertEqual(ids.id_for("TS_a"), "TS_a")

    def test_one_name_in_two_folders_is_two_series(self):
        ids = SeriesIds()
        one, other = ids.id_for("TS_1", "/d/grid 1/mdocs"), ids.id_for("TS_1", "/d/grid 2/mdocs")
        self.assertEqual((one, ids.id_for("TS_1", "/d/grid 1/mdocs")), ("TS_1", "TS_1"))
        self.assertEqual((other, ids.id_for("TS_1", "/d/grid 3/mdocs")), ("grid_2_TS_1", "grid_3_TS_1"))
        self.assertEqual((ids.id_for("ts_1", "/d/grid 1/mdocs"), ids.id_for("TS_1", "/e/grid 2")), ("ts_1_2", "e_TS_1"))
        self.assertEqual((ids.id_for("TS_1", "/e/grid 1"), ids.id_for("TS_1", "/e/grid 1/b")),
                         ("e_grid_1_TS_1", "e_grid_1_b_TS_1"))

    def test_a_prefix_is_put_in_front_of_every_name(self):
        ids = SeriesIds("lam3_")
        self.assertEqual((ids.id_for("TS_1", "/a"), ids.id_for("1", "/a")[:6], ids.id_for("TS_1", "/b")),
                         ("lam3_TS_1", "lam3_1", "b_lam3_TS_1"))
        self.assertEqual(ids.name_of("lam3_TS_1"), "TS_1")

    def test_what_was_restored_is_given_again(self):
        before = SeriesIds()
        given_ids = [(name, folder, before.id_for(name, folder)) for name, folder in
                     (("TS_a", ""), ("ts_a", ""), ("TS_a", "/other"), ("1", ""))]
        after = SeriesIds()
        for name, folder, series_id in reversed(given_ids):
            after.restore(name, series_id, folder)
        self.assertEqual([after.id_for(name, folder) for name, folder, _ in given_ids], [one for _, _, one in given_ids])

    def test_what_contradicts_is_not_restored(self):
        ids = SeriesIds()
        ids.restore("a", "A")
        with self.assertRaisesRegex(ValueError, "'b' cannot be restored as 'A'"):
            ids.restore("b", "A")
        with self.assertRaisesRegex(ValueError, "'a' cannot be restored"):
            ids.restore("a", "B")

    def test_no_identifier_begins_as_sqlites_own_tables_do(self):
        for name in (":SQLITE", "sqlite_1", "SQLite", "sqlite-x"):
            self.assertFalse(valid_id(name).lower().startswith("sqlite_"), valid_id(name))

    @settings(deadline=None, max_examples=150)
    @given(st.lists(NAMES, unique=True, max_size=12))
    def test_any_names_give_valid_unique_stable_identifiers(self, names):
        ids = SeriesIds()
        got = [ids.id_for(name) for name in names]
        self.assertEqual(got, [ids.id_for(name) for name in names])
        self.assertEqual(len({one.casefold() for one in got}), len(names))
        for one in got:
            self.assertTrue(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", one, re.ASCII), one)
            self.assertFalse(one.endswith("_") or ".mrc" in one or one.lower().startswith("sqlite_"), one)

    @settings(deadline=None, max_examples=150)
    @given(st.text(st.characters(), max_size=200))
    def test_no_name_of_a_file_raises(self, name):
        self.assertEqual(valid_id(name), valid_id(name))
        self.assertEqual(basename(name), basename(basename(name)))
        parse_movie_name(name)
        match_movies(tilts_of(0, 1), [name, name + "_001_0.0.tif"], series_name(name))


if __name__ == "__main__":
    unittest.main()
