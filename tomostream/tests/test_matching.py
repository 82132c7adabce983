# SPDX-License-Identifier: GPL-3.0-or-later
"""Which movie belongs to which tilt: folders, names and times as found in practice."""

from __future__ import annotations

import doctest
import os
import random
import tempfile
import unicodedata
import unittest
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tomostream.acquisition import matching
from tomostream.acquisition.events import (
    Compose,
    Event,
    GiveUp,
    Late,
    MdocGone,
    MdocRead,
    MicrographReady,
    MovieSeen,
    Policy,
    Stop,
    Tick,
)
from tomostream.acquisition.facts import Known, MdocFacts, Origin
from tomostream.acquisition.fromnames import NamedSeries
from tomostream.acquisition.matching import Found, Step, Wanted, assign, search
from tomostream.acquisition.naming import basename, folder_of, movie_key
from tomostream.acquisition.session import Session
from tomostream.tests.test_session import GAP, Player, mdoc, tilt, tilts

COUNT = 9


class Microscope:
    """Series with their movies: what the mdocs list, and where the movies lie here."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.truth: dict[str, dict[str, float]] = {}
        self.names: dict[str, str] = {}

    def unique(self, path: str) -> str:
        """The name of a movie in the project: unique, as the import makes it."""
        if path not in self.names:
            name = movie_key(path)
            while name in self.names.values():
                name = f"other_{name}"
            self.names[path] = name
        return self.names[path]

    def series(self, path: str, movies: str, begin: float = 0.0, rename: dict[str, str] | None = None, name: str = "TS_01",
               folder: str = "", nameless: bool = False, written: bool = True) -> MdocFacts:
        """A series whose mdoc is at `path` and whose movies are in the folder `movies`; `folder` is that of SubFramePath."""
        which = tuple(replace(each, movie_folder=folder) for each in tilts(name, COUNT, begin))
        facts = mdoc(name, which, path)
        true = self.truth.setdefault(path, {})
        for k, each in enumerate(which):
            file = (rename or {}).get(str(each.movie), str(each.movie))
            key = self.unique(f"{movies}/{file}")
            true[key] = each.angle
            at = begin + GAP * k
            self.events += [MovieSeen(key, at + 2, f"{movies}/{file}", at + 1 if written else None),
                            MicrographReady(key, at + 5)]
        if nameless:
            facts = replace(facts, tilts=tuple(replace(each, movie=None) for each in which))
        self.events += [MdocRead(replace(facts, tilts=facts.tilts[:k]), begin + GAP * (k - 1)) for k in range(1, COUNT + 1)]
        return facts

    def run(self, events: list[Event] | None = None) -> dict[str, list[dict[str, float]]]:
        """What was composed of each mdoc, in all versions: movie -> angle."""
        self.session = Session(Policy(expected_tilts=COUNT))
        made: dict[str, list[dict[str, float]]] = {}
        self.decisions = []
        for event in events if events is not None else sorted(self.events, key=lambda each: each.time):
            self.decisions += self.session.handle(event)
        for each in self.decisions:
            if isinstance(each, Compose):
                made.setdefault(each.mdocs[0], []).append({movie_key(tilt.movie or ""): tilt.angle for tilt in each.tilts})
        return made


class TestFolders(unittest.TestCase):
    def test_two_grids_with_the_same_names_keep_their_movies_whatever_comes_first(self):
        for told in ("", "X:\\session\\{}\\frames"):
            scope = Microscope()
            for grid in ("grid1", "grid2"):
                scope.series(f"/d/{grid}/TS_01.mrc.mdoc", f"/d/{grid}/frames", 1000.0 * int(grid[-1]), folder=told.format(grid))
            mdocs = [each for each in scope.events if isinstance(each, MdocRead)]
            movies = [each for each in scope.events if not isinstance(each, MdocRead)]
            for seed in range(20):
                random.Random(seed).shuffle(movies)
                random.Random(seed).shuffle(mdocs)
                order = [replace(each, time=float(k)) for k, each in enumerate([*movies, *mdocs] if seed % 2 else
                                                                              [*mdocs, *movies])]
                made = scope.run(order)
                self.assertEqual({path: versions[-1] for path, versions in made.items()}, scope.truth)

    def test_a_folder_a_series_with_the_same_names_in_each(self):
        scope = Microscope()
        rename = {each.movie: f"frames_{k:03d}_{each.angle:.1f}.tif" for k, each in enumerate(tilts("TS_01", COUNT))}
        for name in ("TS_01", "TS_02", "TS_03"):
            names = {str(each.movie): f"frames_{k:03d}_{each.angle:.1f}.tif" for k, each in enumerate(tilts(name, COUNT))}
            facts = scope.series(f"/d/{name}.mrc.mdoc", f"/d/{name}", 1000.0 * int(name[-1]), names, name, f"D:\\raw\\{name}")
            listed = tuple(replace(each, movie=names[str(each.movie)]) for each in facts.tilts)
            scope.events = [replace(each, facts=replace(each.facts, tilts=listed[: len(each.facts.tilts)]))
                            if isinstance(each, MdocRead) and each.facts.series_name == name else each for each in scope.events]
        self.assertEqual(len(rename), COUNT)
        made = scope.run()
        self.assertEqual(made, {path: [movies] for path, movies in scope.truth.items()})

    def test_a_movie_that_only_one_folder_has_is_not_taken_for_that_of_the_other_grid(self):
        scope = Microscope()
        for grid in ("grid1", "grid2"):
            scope.series(f"/d/{grid}/TS_01.mrc.mdoc", f"/d/{grid}/frames", 2000.0 * int(grid[-1]))
        lost = scope.unique("/d/grid2/frames/TS_01_004_-6.0.tif")
        events = [each for each in sorted(scope.events, key=lambda each: each.time) if getattr(each, "movie", "") != lost]
        made = scope.run(events)
        self.assertNotIn("/d/grid2/TS_01.mrc.mdoc", made)
        self.assertEqual(made["/d/grid1/TS_01.mrc.mdoc"], [scope.truth["/d/grid1/TS_01.mrc.mdoc"]])

    def test_a_movie_of_the_other_grid_that_comes_before_its_mdoc_is_not_taken_for_one_that_is_late(self):
        scope = Microscope()
        one = scope.series("/d/grid1/TS_01.mrc.mdoc", "/d/grid1/frames", folder="X:\\s\\grid1\\frames")
        late = {movie_key(str(one.tilts[0].movie))}
        session = Session(Policy(min_tilts=3))
        decisions = [each for event in sorted(scope.events, key=lambda each: each.time)
                     if isinstance(event, MdocRead) or event.movie not in late for each in session.handle(event)]
        decisions += [each for event in (MovieSeen("other", 2000.0, f"/d/grid2/frames/{one.tilts[0].movie}", 1999.0),
                                         MicrographReady("other", 2001.0), Stop(2002.0)) for each in session.handle(event)]
        last = [each for each in decisions if isinstance(each, Compose)][-1]
        mine = scope.truth["/d/grid1/TS_01.mrc.mdoc"].keys() - late
        self.assertEqual({movie_key(str(tilt.movie)) for tilt in last.tilts}, mine)
        self.assertIn("other", session.unassigned())

    def test_a_composition_with_a_movie_of_another_series_is_replaced_soon_though_its_own_never_comes(self):
        one, two = tilts("TS_01", COUNT), tilts("TS_01", COUNT, 1000.0)
        for late in (Late.AGAIN, Late.NEVER):
            player = Player(min_tilts=3, late=late, expected_tilts=COUNT, time_for_next_tilt=3000.0)
            player.feed(MdocRead(mdoc("TS_01", one, "/d/grid1/TS_01.mrc.mdoc"), 1.0))
            for each, grid in zip(one, ("grid2", *["grid1"] * COUNT), strict=False):
                name = movie_key(each.movie)
                player.feed(MovieSeen(name, 2.0, f"/d/{grid}/{each.movie}"), MicrographReady(name, 3.0))
            player.wait(599.0)
            self.assertEqual(len(player.composed[-1][1].tilts), COUNT)
            player.feed(MdocRead(mdoc("TS_01", two, "/d/grid2/TS_01.mrc.mdoc"), 600.0))
            player.wait(621.0)
            time, last = player.composed[-1]
            self.assertEqual((time, last.series_id), (620.0, "TS_01"))
            self.assertEqual({movie_key(tilt.movie) for tilt in last.tilts}, {movie_key(each.movie) for each in one[1:]})

    def test_a_composition_whose_movies_are_all_of_another_series_is_reported_as_wrong(self):
        one, two = tilts("TS_01", COUNT), tilts("TS_01", COUNT, 1000.0)
        player = Player(min_tilts=3)
        player.feed(MdocRead(mdoc("TS_01", one, "/d/grid1/TS_01.mrc.mdoc"), 1.0))
        for each in one:
            name = movie_key(each.movie)
            player.feed(MovieSeen(name, 2.0, f"/d/grid2/{each.movie}"), MicrographReady(name, 3.0))
        player.wait(900.0)
        self.assertEqual(len(player.composed), 1)
        player.feed(MdocRead(mdoc("TS_01", two, "/d/grid2/TS_01.mrc.mdoc"), 1000.0))
        player.wait(1100.0)
        self.assertEqual([(each.series_id, each.failed) for each in player.given_up], [("TS_01", True)])
        self.assertIn("do not use it", player.given_up[0].reason)

    def test_a_series_that_loses_movies_to_their_own_mdoc_finds_its_own_under_changed_names(self):
        scope = Microscope()
        renamed = {str(each.movie): f"session7_{each.movie}" for each in tilts("TS_01", COUNT)}
        scope.series("/d/night1/TS_01.mrc.mdoc", "/d/night1/frames", rename=renamed, folder="X:\\frames")
        scope.series("/d/night2/TS_01.mrc.mdoc", "/d/night2/frames", 90000.0, folder="X:\\frames")
        movies = [each for each in scope.events if not isinstance(each, MdocRead)]
        mdocs = [each for each in scope.events if isinstance(each, MdocRead) and len(each.facts.tilts) == COUNT]
        for order in ((*movies, *mdocs), (*movies, *mdocs[::-1]), (*mdocs, *movies), (*mdocs, *movies[::-1])):
            made = scope.run([replace(each, time=float(k)) for k, each in enumerate(order)])
            self.assertEqual({path: versions[-1] for path, versions in made.items()}, scope.truth)

    def test_times_decide_where_no_folder_does(self):
        want = [Wanted("a.tif", "", "/d", "A", 0.0, time) for time in (100.0, 5000.0)]
        movies = [Found("/e/2/a.tif", 9000.0), Found("/e/1/a.tif", 4000.0)]
        self.assertEqual(assign(want, movies, [None, None]), [(1, Step.TIME), (0, Step.TIME)])

    def test_times_do_not_decide_against_folders(self):
        movies = [Found("/d/one/a.tif", 5.0), Found("/d/two/a.tif", 10.0), Found("/d/three/a.tif", 20.0)]
        for times, places in (((10.0, 20.0), [0, 1, 2]), ((20.0, 10.0), [0, None, None])):
            wants = [Wanted("a.tif", "d/one", "/m", "A", 0.0, 1.0), Wanted("a.tif", "one", "/d/two", "B", 0.0, times[0]),
                     Wanted("a.tif", "one", "/d/three", "C", 0.0, times[1])]
            given = assign(wants, movies, [None, None, None])
            self.assertEqual([None if each is None else each[0] for each in given], places, times)

    def test_of_movies_that_fit_alike_the_one_in_the_folder_of_others_is_left(self):
        wants, movies = [Wanted("a.tif", "", "", "A", 0.0)], [Found("/d/one/a.tif"), Found("/d/two/a.tif")]
        self.assertEqual(assign(wants, movies, [None]), [None])
        self.assertEqual(assign(wants, movies, [None], lambda _, movie: movie.path == "/d/one/a.tif"), [(1, Step.FOLDER)])

    def test_nothing_is_guessed_where_nothing_tells(self):
        want = [Wanted("a.tif", "", "/d", "A", 0.0, 100.0)]
        self.assertEqual(assign(want, [Found("/e/2/a.tif", 9000.0), Found("/e/1/a.tif", 4000.0)], [None]), [None])

    def test_of_movies_that_differ_in_their_extension_the_one_that_is_listed_is_taken(self):
        want = [Wanted("a.eer", "X:\\frames", "/d", "A", 0.0)]
        self.assertEqual(assign(want, [Found("/d/a.mrc"), Found("/d/a.eer")], [None]), [(1, Step.EXACT)])
        self.assertEqual(assign(want, [Found("/d/a.tif")], [None]), [(0, Step.EXTENSION)])

    def test_a_movie_says_that_another_folder_s_is_used(self):
        scope = Microscope()
        scope.series("/d/grid1/TS_01.mrc.mdoc", "/d/grid1/frames")
        scope.events += [MovieSeen("old", 0.0, "/d/older/frames/TS_01_004_-6.0.tif")]
        scope.run()
        self.assertEqual([*scope.session.unassigned()], ["old"])
        self.assertFalse(scope.session.unassigned()["old"].expected)
        self.assertIn("another folder", scope.session.unassigned()["old"].reason)


    def test_of_two_folders_of_mdocs_the_one_above_is_that_of_the_movies_beside_it(self):
        one = tuple(replace(each, movie_folder="X:\\s\\frames") for each in tilts("TS_01", COUNT))
        two = tuple(replace(each, movie_folder="X:\\s\\second\\frames") for each in tilts("TS_01", COUNT, 5000.0))
        player = Player(min_tilts=3)
        player.feed(MdocRead(mdoc("TS_01", one, "/s/TS_01.mrc.mdoc"), 1.0),
                    MdocRead(mdoc("TS_01", two, "/s/second/TS_01.mrc.mdoc"), 2.0))
        for each in one:
            path = f"/s/frames/{str(each.movie).replace('.0.tif', '.01.tif')}"
            player.feed(MovieSeen(movie_key(path), 3.0, path), MicrographReady(movie_key(path), 4.0))
        player.feed(Stop(5.0))
        self.assertEqual([(each.series_id, len(each.tilts)) for _, each in player.composed], [("TS_01", COUNT)])


class TestNoMovieInTwoSeries(unittest.TestCase):
    @settings(max_examples=120, deadline=None)
    @given(st.data())
    def test_same_names_in_any_folders_never_mix(self, data):
        """Several samples, in turns or one after the other; SubFramePath tells the folder, or the mdoc lies beside it."""
        scope = Microscope()
        samples = data.draw(st.integers(2, 3))
        told = data.draw(st.booleans())
        at_once = data.draw(st.booleans())
        for sample in range(samples):
            scope.series(f"/d/s{sample}/TS_01.mrc.mdoc" if not told else f"/m{sample}/TS_01.mdoc", f"/d/s{sample}/raw",
                         6.0 * sample if at_once else 1000.0 * sample, folder=f"X:\\y\\s{sample}\\raw" if told else "")
        events = sorted(scope.events, key=lambda each: each.time)
        movies = [each for each in events if not isinstance(each, MdocRead)]
        if data.draw(st.booleans()):        # all movies are there before the first mdoc
            events = [*movies, *(each for each in events if isinstance(each, MdocRead))]
            events = [replace(each, time=float(k)) for k, each in enumerate(events)]
        made = scope.run(events)
        self.assertEqual({path: versions[-1] for path, versions in made.items()}, scope.truth)
        for versions in made.values():
            for one in versions:
                self.assertEqual(len({folder_of(path) for path, key in scope.names.items() if key in one}), 1)


def code_page(text: str) -> str:
    return text.encode("utf-8").decode("cp1252")


class TestNamesThatATransferChanged(unittest.TestCase):
    CHANGES = (
        (Step.FOLDED, (str.upper, str.swapcase, lambda name: name.replace("_", " "), lambda name: name.replace("_", "("))),
        (Step.PREFIX, (lambda name: f"grid7_{name}", lambda name: f"20260301-{name}")),
    )

    def matched(self, change, name="TS_01", count=COUNT):
        scope = Microscope()
        rename = {str(each.movie): change(str(each.movie)) for each in tilts(name, COUNT)}
        scope.series(f"/d/{name}.mrc.mdoc", "/d/frames", rename=rename, name=name)
        return scope, scope.run()

    def test_each_change_is_undone_for_the_whole_series_and_reported(self):
        for step, changes in self.CHANGES:
            for change in changes:
                scope, made = self.matched(change)
                self.assertEqual({path: versions[-1] for path, versions in made.items()}, scope.truth, change("TS_01_x.tif"))
                series = next(iter(scope.session._directory.series))
                said = {each.step for each in series.exposures.values()}
                self.assertLessEqual(said, {step, Step.EXACT, Step.EXTENSION})

    def test_accents_composed_decomposed_and_in_a_code_page(self):
        for change in (lambda name: unicodedata.normalize("NFD", name), code_page, lambda name: name.replace("\u00e9", "\ufffd")):
            scope, made = self.matched(change, "Caf\u00e9")
            self.assertEqual({path: versions[-1] for path, versions in made.items()}, scope.truth)

    def test_angles_that_are_rounded_differently(self):
        want = [Wanted(f"A_{k:03d}[{angle - 0.01:.2f}].tif", "", "/d", "A", angle) for k, angle in enumerate((0.0, 3.0, -3.0))]
        movies = [Found(f"/d/A_{k:03d}[{angle:.2f}].tif") for k, angle in enumerate((0.0, 3.0, -3.0))]
        result = search(want, movies)
        self.assertEqual((result.step, result.pairs), (Step.ANGLE, {0: 0, 1: 1, 2: 2}))

    def test_the_movie_of_a_repeated_exposure_is_not_that_of_the_one_in_its_place(self):
        want = [Wanted("A_005_12.0.tif", "", "/d", "A", 12.0)]
        self.assertEqual(search(want, [Found("/d/A_004_12.0.tif")]).pairs, None)

    def test_one_movie_with_something_before_its_name_is_chance_and_two_are_not(self):
        wants = [Wanted(f"TS_01_{n:03d}.tif", "", "", "TS_01", 3.0 * n) for n in (1, 2)]
        movies = [Found(f"grid1_TS_01_{n:03d}.tif") for n in (1, 2)]
        self.assertIsNone(search(wants[:1], movies[:1]).step)
        self.assertEqual(search(wants, movies).step, Step.PREFIX)
        self.assertEqual(search(wants[:1], movies[:1], before=1).step, Step.PREFIX)

    def test_a_movie_whose_name_tells_another_angle_than_the_mdoc_is_not_meant(self):
        for angle, changed in ((-6.0, ""), (-6.9, ""), (12.0, None)):
            want = Wanted("TS_01_003_-6.0.tif", "", "", "TS_01", angle)
            self.assertEqual(matching.change(Step.FOLDED, want, "ts_01_003_-6.0.tif"), changed, angle)

    def test_series_order_and_angle_in_other_names(self):
        want = [Wanted(f"lam7_{k:03d}_{angle:.1f}.tif", "", "/d", "TS_07", angle) for k, angle in enumerate((0.0, 3.0, -3.0))]
        movies = [Found(f"/d/TS_07_{k:04d}_{angle:.2f}_20260301_120000.eer") for k, angle in enumerate((0.0, 3.0, -3.0))]
        self.assertEqual(search(want, movies).step, Step.PLACE)

    def test_two_prefixes_are_ambiguous_and_the_movies_are_named(self):
        want = [Wanted(f"A_{k:03d}_{angle:.1f}.tif", "", "/d", "A", angle) for k, angle in enumerate((0.0, 3.0))]
        movies = [Found(f"/d/{grid}_{one.name}") for one in want for grid in ("g1", "g2")]
        result = search(want, movies)
        self.assertEqual((result.step, result.ambiguous), (None, (0, 1, 2, 3)))

    def test_movies_that_two_series_may_mean_alike_are_given_to_neither(self):
        player = Player(min_tilts=3)
        for night, begin in (("a", 0.0), ("b", 90000.0)):
            player.feed(MdocRead(mdoc("TS_01", tilts("TS_01", COUNT, begin), f"/m/{night}/TS_01.mrc.mdoc"), 1.0))
        for each in tilts("TS_01", COUNT):
            path = f"/f/session7_{each.movie}"
            player.feed(MovieSeen(movie_key(path), 2.0, path), MicrographReady(movie_key(path), 3.0))
        self.assertEqual(len(player.session.unassigned()), COUNT)

    def test_the_exact_name_goes_before_a_likeness(self):
        """`X_TS_01` has no mdoc yet: its movies look like those of TS_01 with a prefix, until its own mdoc comes."""
        scope = Microscope()
        prefixed = {str(each.movie): f"X_{each.movie}" for each in tilts("TS_01", COUNT)}
        scope.series("/d/TS_01.mrc.mdoc", "/d/frames", 0.0, prefixed)
        truth = scope.truth.pop("/d/TS_01.mrc.mdoc")
        late = [replace(each, movie=f"X_{each.movie}") for each in tilts("TS_01", COUNT)]
        scope.events += [MdocRead(mdoc("X_TS_01", tuple(late), "/d/X_TS_01.mrc.mdoc"), 2000.0)]
        made = scope.run()
        self.assertEqual(made["/d/X_TS_01.mrc.mdoc"][-1], truth)
        self.assertIn("TS_01", scope.session.without_movie())

    def test_the_exact_name_goes_before_a_likeness_that_came_earlier(self):
        """The movies of `X_TS_01` are there when TS_01 begins, its own come late."""
        scope = Microscope()
        scope.series("/d/TS_01.mrc.mdoc", "/d/frames", 100.0)
        early = [MovieSeen(f"X_{movie_key(str(each.movie))}", 0.0, f"/d/frames/X_{each.movie}") for each in tilts("TS_01", COUNT)]
        mdocs = [each for each in scope.events if isinstance(each, MdocRead)]
        movies = [replace(each, time=2000.0) for each in scope.events if not isinstance(each, MdocRead)]
        made = scope.run([*early, *mdocs, *movies])
        self.assertEqual(made["/d/TS_01.mrc.mdoc"][-1], scope.truth["/d/TS_01.mrc.mdoc"])
        self.assertEqual(len(scope.session.unassigned()), COUNT)

    @settings(max_examples=80, deadline=None)
    @given(st.text("abAB _-[]()\u00e9.", min_size=0, max_size=12))
    def test_folding_twice_is_folding_once(self, text):
        self.assertEqual(matching.folded(matching.folded(text)), matching.folded(text))

    def test_the_examples_in_the_docstrings(self):
        self.assertEqual(doctest.testmod(matching).failed, 0)


class TestNameless(unittest.TestCase):
    def test_two_samples_with_one_name_and_no_subframepath(self):
        for at_once in (False, True):
            scope = Microscope()
            for sample in (1, 2):
                scope.series(f"/d/sample{sample}/Position_1.mdoc", f"/d/sample{sample}/frames", 3000.0 * sample,
                             name="Position_1", nameless=True)
            events = sorted(scope.events, key=lambda each: each.time)
            if at_once:
                events = [replace(each, time=float(k)) for k, each in enumerate(sorted(
                    events, key=lambda each: isinstance(each, MdocRead)))]
            made = scope.run(events)
            self.assertEqual({path: versions[-1] for path, versions in made.items()}, scope.truth)

    def test_folders_are_paired_with_series_in_order_of_time_where_nothing_else_tells(self):
        player, begins = Player(min_tilts=3), {"b": 90000.0, "a": 0.0}
        for sample, begin in begins.items():
            for each in tilts("TS_01", COUNT, begin):
                path, when = f"/{sample}{sample}/{each.movie}", each.time.timestamp() if each.time else 0.0
                player.feed(MovieSeen(f"{sample}-{movie_key(path)}", 1.0, path, when))
        for sample, begin in begins.items():
            bare = tuple(replace(each, movie=None) for each in tilts("TS_01", COUNT, begin))
            player.feed(MdocRead(mdoc("TS_01", bare, f"/m/{sample}/TS_01.mdoc"), 2.0))
        found = {series.folder: {each.key[:1] for each in series.exposures.values() if each.bound}
                 for series in player.session.series}
        self.assertEqual(found["/m/a"], {"a"})
        self.assertLessEqual(found["/m/b"], {"b"})

    def test_movies_go_to_the_nearer_mdoc_of_the_name_although_it_comes_later(self):
        bare = [tuple(replace(each, movie=None) for each in tilts("TS_01", COUNT, begin)) for begin in (0.0, 90000.0)]
        player = Player(min_tilts=3)
        player.feed(MdocRead(mdoc("TS_01", bare[0], "/d/other/TS_01.mdoc"), 1.0))
        for each in tilts("TS_01", COUNT):
            path = f"/d/sample/frames/{each.movie}"
            player.feed(MovieSeen(movie_key(path), 2.0, path), MicrographReady(movie_key(path), 3.0))
        player.feed(MdocRead(mdoc("TS_01", bare[1], "/d/sample/TS_01.mdoc"), 4.0))
        missing = {series.folder: len(series.missing) for series in player.session.series}
        self.assertEqual(missing, {"/d/other": COUNT, "/d/sample": 0})

    def test_two_samples_of_which_only_the_times_tell(self):
        scope = Microscope()
        for sample in (2, 1):
            scope.series(f"/m/{'ab'[sample - 1]}/Position_1.mdoc", f"/d/{'yx'[sample - 1]}", 3000.0 * sample, name="Position_1",
                         nameless=True)
        made = scope.run(sorted(scope.events, key=lambda each: each.time))
        self.assertEqual({path: versions[-1] for path, versions in made.items()}, scope.truth)


    def nameless(self, file: str, name: str = "Position_1", read: int = COUNT, others: tuple[str, ...] = (),
                 facts: dict[str, object] | None = None) -> Player:
        """A series of Tomo5 whose mdoc names no movies: `file` of {order} and {angle}; movies come first, then mdocs."""
        which = tilts(name, COUNT)
        player = Player(min_tilts=3)
        for each in which:
            path = f"/d/{file.format(order=each.order, angle=each.angle)}"
            player.feed(MovieSeen(movie_key(path), 1.0, path, 1.0), MicrographReady(movie_key(path), 2.0))
        for begin, other in enumerate((name, *others)):
            bare = tuple(replace(each, movie=None) for each in tilts(other, COUNT, 5000.0 * begin))
            player.feed(MdocRead(mdoc(other, bare[:read], f"/d/{other}.mdoc", tilts_if_ended=bare, **(facts or {})), 3.0))
        player.feed(Stop(4.0))
        return player

    def test_names_of_the_series_in_small_letters_with_something_before_or_of_the_folder_alone_are_found(self):
        for file, step in (("position_1_{order:03d}_{angle:.2f}.tif", Step.PLACE),
                           ("Position_1_{order:03d}[{angle:.2f}]_EER.eer", Step.PLACE),
                           ("2026_krios_Position_1_{order:03d}_{angle:.2f}.tif", Step.PREFIX),
                           ("Zellko\u0308rper_Position_1_{order:03d}_[{angle:.2f}]-7_EER.eer", Step.PREFIX),
                           ("Position_1/frames_{order:03d}_{angle:.1f}.tif", Step.HOME)):
            player = self.nameless(file)
            self.assertEqual([len(each.tilts) for _, each in player.composed], [COUNT], file)
            self.assertEqual({each.step for each in player.session.series[0].exposures.values()}, {step}, file)

    def test_a_name_with_something_before_it_is_that_of_the_series_it_names_whatever_came_first(self):
        for others in (("krios_Position_1",), ("1", "krios_Position_1")):
            player = self.nameless("krios_Position_1_{order:03d}_{angle:.2f}.tif", others=others)
            self.assertEqual([each.series_name for _, each in player.composed], ["krios_Position_1"])

    def test_movies_of_the_very_name_go_before_those_with_something_before_it_that_came_earlier(self):
        player, bare = Player(min_tilts=3), tuple(replace(each, movie=None) for each in tilts("Position_1", COUNT))
        player.feed(MdocRead(mdoc("Position_1", bare, "/d/Position_1.mdoc"), 1.0))
        for at, prefix in ((2.0, "krios_"), (3.0, "")):
            for each in bare:
                name = f"{prefix}Position_1_{each.order:03d}_{each.angle:.2f}"
                player.feed(MovieSeen(name, at, f"/d/{name}.tif"), MicrographReady(name, at))
        player.feed(Stop(4.0))
        self.assertEqual({movie_key(str(tilt.movie))[:8] for tilt in player.composed[-1][1].tilts}, {"Position"})
        self.assertEqual(len(player.session.unassigned()), COUNT)

    def test_movies_of_two_prefixes_are_not_guessed(self):
        which = tilts("Position_1", COUNT)
        player = Player(min_tilts=3)
        for each in which:
            for prefix in ("a", "b"):
                name = f"{prefix}_Position_1_{each.order:03d}_{each.angle:.2f}"
                player.feed(MovieSeen(name, 1.0, f"/d/{name}.tif"), MicrographReady(name, 2.0))
        player.feed(MdocRead(mdoc("Position_1", tuple(replace(each, movie=None) for each in which), "/d/Position_1.mdoc"), 3.0),
                    Stop(4.0))
        self.assertEqual(player.composed, [])
        self.assertEqual(len(player.session.unassigned()), 2 * COUNT)

    def test_of_a_mirrored_mdoc_and_its_original_either_has_the_movies_whichever_came_first(self):
        which = tilts("Position_1", COUNT)
        bare = tuple(replace(each, movie=None) for each in which)
        for folders in (("/s/mdocs", "/s/mirror/mdocs"), ("/s/mirror/mdocs", "/s/mdocs")):
            player = Player(min_tilts=3)
            player.feed(*(MdocRead(mdoc("Position_1", bare, f"{folder}/Position_1.mdoc"), 1.0) for folder in folders))
            for each in which:
                name = f"position_1_{each.order:03d}_{each.angle:.2f}"
                player.feed(MovieSeen(name, 2.0, f"/s/frames/Position_1/{name}.tif"), MicrographReady(name, 3.0))
            player.feed(Stop(4.0))
            self.assertEqual([len(each.tilts) for _, each in player.composed], [COUNT], folders)

    def test_the_last_tilt_of_a_file_without_its_last_line_end_finds_its_movie_by_its_place(self):
        player = self.nameless("Position_1_{order:03d}_{angle:.2f}.tif", read=COUNT - 1, facts={"last_section_open": True})
        self.assertEqual([len(each.tilts) for _, each in player.composed], [COUNT])


class TestTheSameNameAgain(unittest.TestCase):
    """A series collected again, or gone on with in another folder."""

    def facts(self, angles, begin, path="/d/TS_01.mrc.mdoc", dose=0.0, place="10.0 20.0", **other):
        which = tuple(replace(tilt("TS_01", k, angle, begin + GAP * k), prior_dose=Known(
            dose + 3.0 * k, "field PriorRecordDose", Origin.PRIOR_DOSE)) for k, angle in enumerate(angles))
        return mdoc("TS_01", which, path, evidence={"StagePosition": place}, **other)

    def play(self, *readings, gone=(), policy=None):
        session, decisions = Session(policy or Policy(time_for_next_series=1e6)), []
        for facts, begin in readings:
            folder = folder_of(facts.path)
            decisions += session.handle(MdocRead(replace(facts, kind="unreadable", tilts=(), reason="No section yet."), begin))
            for k in range(1, len(facts.tilts) + 1):
                at, movie = begin + GAP * k, str(facts.tilts[k - 1].movie)
                decisions += session.handle(MdocRead(replace(facts, tilts=facts.tilts[:k]), at))
                key = f"{basename(folder)}_{movie_key(movie)}"
                decisions += session.handle(MovieSeen(key, at + 4, f"{folder}/{movie}"))
                decisions += session.handle(MicrographReady(key, at + 5))
            for path in gone:
                decisions += session.handle(MdocGone(path, begin + GAP * len(facts.tilts) + 10))
        while (due := session.next_deadline()) is not None and due < 1e5:
            decisions += session.handle(Tick(due))
        return [each for each in decisions if isinstance(each, Compose)]

    def test_a_series_aborted_removed_and_collected_again_from_another_angle_is_not_mixed(self):
        first = self.facts((0.0, 3.0, -3.0, 6.0, -6.0), 0.0)
        again = self.facts((9.0, 12.0, 6.5, 15.0, 4.0, 18.0, 1.0, 21.0, -2.0, 24.0, -5.0), 1200.0)
        for gone in ((), (first.path,)):
            made = self.play((first, 0.0), (again, 1200.0), gone=gone)
            self.assertEqual(sorted(each.angle for each in made[-1].tilts), sorted(each.angle for each in again.tilts))
            self.assertTrue(any("started over" in text for text in made[-1].warnings))

    def test_frame_mdocs_of_an_aborted_series_that_were_removed_are_not_mixed_with_the_new_ones(self):
        def frames(angles, begin):
            return [(replace(self.facts(angles, begin), path=f"/d/TS_01_{k:03d}_{angle}.mdoc", kind="frame", frame_series="TS_01",
                             tilts=(replace(tilt("TS_01", k, angle, begin + GAP * k), prior_dose=Known(None, "")),)),
                     begin + GAP * k) for k, angle in enumerate(angles)]
        first, again = frames((0.0, 3.0, -3.0, 6.0, -6.0), 0.0), frames((9.0, 12.0, 15.0, 18.0, 21.0, 24.0, 27.0), 1200.0)
        session, decisions = Session(Policy(time_for_next_series=1e6)), []
        for part in (first, again):
            for facts, at in part:
                decisions += session.handle(MdocRead(facts, at))
                decisions += session.handle(MicrographReady(movie_key(str(facts.tilts[0].movie)), at + 5))
            for facts, _ in first if part is first else ():
                decisions += session.handle(MdocGone(facts.path, 600.0))
        while (due := session.next_deadline()) is not None and due < 1e5:
            decisions += session.handle(Tick(due))
        made = [each for each in decisions if isinstance(each, Compose)]
        self.assertEqual(sorted(each.angle for each in made[-1].tilts), [9.0, 12.0, 15.0, 18.0, 21.0, 24.0, 27.0])

    def test_a_session_that_goes_on_in_another_folder_is_one_series(self):
        first = self.facts((0.0, 3.0, -3.0, 6.0, -6.0), 0.0, "/d/a/TS_01.mrc.mdoc")
        more = self.facts((9.0, -9.0, 12.0, -12.0), 1200.0, "/d/b/TS_01.mrc.mdoc", 15.0)
        made = self.play((first, 0.0), (more, 1200.0))
        self.assertEqual({each.series_id for each in made}, {"TS_01"})
        self.assertEqual(len(made[-1].tilts), 9)
        self.assertTrue(any("continues the series" in text for text in made[-1].evidence))

    def test_another_specimen_in_another_folder_is_another_series_and_the_reason_is_reported(self):
        first = self.facts((0.0, 3.0, -3.0, 6.0, -6.0), 0.0, "/d/a/TS_01.mrc.mdoc")
        for other, word in ((self.facts((9.0, -9.0, 12.0), 1200.0, "/d/b/TS_01.mrc.mdoc", 15.0, "90.0 20.0"), "stage"),
                            (self.facts((9.0, -9.0, 12.0), 1200.0, "/d/b/TS_01.mrc.mdoc", 0.0), "less dose"),
                            (self.facts((0.0, 3.0, -3.0), 1200.0, "/d/b/TS_01.mrc.mdoc", 15.0), "already exposed there"),
                            (self.facts((9.0, -9.0, 12.0), 1200.0, "/d/b/TS_01.mrc.mdoc", 15.0,
                                        tilt_axis=Known(-4.0, "title")), "tilt axis")):
            made = self.play((first, 0.0), (other, 1200.0))
            self.assertEqual(sorted({each.series_id for each in made}), ["TS_01", "b_TS_01"])
            said = next(each.evidence for each in made if each.series_id == "b_TS_01")
            self.assertTrue(any(word in text for text in said), (word, said))

    def test_a_prefix_is_put_in_front_of_the_names(self):
        made = self.play((self.facts((0.0, 3.0, -3.0), 0.0), 0.0), policy=Policy(time_for_next_series=1e6, prefix="g1_"))
        self.assertEqual((made[0].series_id, made[0].series_name), ("g1_TS_01", "TS_01"))


class TestSeriesWithoutAnMdoc(unittest.TestCase):
    def test_series_order_and_angle_come_from_the_names_and_folders_stay_apart(self):
        named, session, decisions = NamedSeries(), Session(Policy(tilt_axis=85.0)), []
        paths = [f"/d/{grid}/TS_01_{each.order:03d}_{each.angle:.1f}.tif" for grid in ("g1", "g2")
                 for each in tilts("TS_01", COUNT)]
        random.Random(1).shuffle(paths)
        for at, path in enumerate(paths):
            facts, name = named.add(path), f"{path.split('/')[2]}_{movie_key(path)}"
            self.assertIsNotNone(facts)
            for event in (MovieSeen(name, float(at), path), MdocRead(facts, float(at)), MicrographReady(name, float(at))):
                decisions += session.handle(event)
        self.assertIsNone(named.add("/d/g1/gain.tif"))
        decisions += session.handle(Stop(1000.0))
        made = [each for each in decisions if isinstance(each, Compose)]
        self.assertEqual(sorted(each.series_id for each in made), ["TS_01", f"{made[1].series_id[:2]}_TS_01"])
        for each in made:
            true = {(tilt.angle, tilt.order) for tilt in tilts("TS_01", COUNT)}
            self.assertEqual({(tilt.angle, tilt.order) for tilt in each.tilts}, true)
            self.assertEqual(len({str(tilt.movie)[:2] for tilt in each.tilts}), 1)
            self.assertEqual(each.mdocs, ())


    def test_angles_of_a_stack_beside_the_movies_are_used_where_names_tell_which_is_whose(self):
        with tempfile.TemporaryDirectory() as folder:
            named = NamedSeries(os.path.join(folder, "stacks"))
            os.mkdir(os.path.join(folder, "stacks"))
            names = [f"{folder}/TS_{series}_{each.order:03d}_{each.angle:.1f}.tif" for series in "123" for each in tilts("x", 5)]
            for name in [*names, f"{folder}/TS_4_001.tif", f"{folder}/TS_5_001.tif"]:
                named.add(name)
            for file, angles in (("TS_1.rawtlt", (-6.01, -3.02, 0.004, 3.01, 6.02)), ("TS_4.rawtlt", (0.0, 3.0)),
                                 ("stacks/TS_2.mrc.rawtlt", (-6.0, -3.0, 0.0))):
                with open(os.path.join(folder, file), "w", encoding="utf-8") as out:
                    out.writelines(f" {angle:.3f}\n" for angle in angles)
            one, two = named.with_new_angles()
            self.assertEqual([(each.order, each.angle) for each in one.tilts],
                             [(1, 0.004), (2, 3.01), (3, -3.02), (4, 6.02), (5, -6.01)])
            self.assertIn("The tilt angles are those of TS_1.rawtlt.", one.warnings)
            self.assertEqual([each.angle for each in two.tilts], [0.0, 3.0, -3.0, 6.0, -6.0])
            self.assertIn("TS_2.mrc.rawtlt is not used: its angles are not those in the names of the movies.", two.warnings)
            self.assertEqual(named.with_new_angles(), [])
            self.assertIn("TS_4.rawtlt does not say which angle belongs to which movie", named.why_refused("TS_4_001"))
            self.assertIn("gives no tilt angle: without mdoc files", named.why_refused("TS_5_001"))
            self.assertEqual(named.why_refused(movie_key(names[0])), "")


class TestWhatIsSaid(unittest.TestCase):
    def test_by_which_step_movies_were_found(self):
        scope = Microscope()
        names = {str(each.movie): f"g7_{each.movie}" for each in tilts("TS_01", COUNT)}
        scope.series("/d/TS_01.mrc.mdoc", "/d/frames", rename=names)
        scope.run()
        made = [each for each in scope.decisions if isinstance(each, Compose)]
        self.assertTrue(any("9 movies found in another way" in text for text in made[-1].warnings), made[-1].warnings)

    def test_angles_that_were_exposed_more_than_once_are_named_in_the_reason(self):
        scope = Microscope()
        facts = scope.series("/d/TS_01.mrc.mdoc", "/d/frames")
        again = replace(facts.tilts[3], movie="TS_01_099_6.0.tif", time=facts.tilts[-1].time.replace(hour=23))
        scope.events += [MovieSeen("TS_01_099_6.0", 900.0, "/d/frames/TS_01_099_6.0.tif"),
                         MicrographReady("TS_01_099_6.0", 900.0),
                         MdocRead(replace(facts, tilts=(*facts.tilts, again)), 901.0), Stop(1000.0)]
        scope.run()
        reasons = [each.reason for each in scope.decisions if isinstance(each, Compose)]
        self.assertNotIn("more than once", reasons[0])
        self.assertIn("1 tilt angle was exposed more than once (6 degrees), and every exposure is used", reasons[-1])

    def test_movies_among_which_nothing_tells_are_named_with_what_to_change(self):
        scope = Microscope()
        names = {str(each.movie): f"g1_{each.movie}" for each in tilts("TS_01", COUNT)}
        facts = scope.series("/d/TS_01.mrc.mdoc", "/d/frames", rename=names)
        more = [MovieSeen(f"g2_{movie_key(str(each.movie))}", 0.0, f"/d/frames/g2_{each.movie}") for each in facts.tilts]
        made = scope.run([*more, *sorted(scope.events, key=lambda each: isinstance(each, MdocRead)), Stop(5000.0)])
        self.assertEqual(made, {})
        said = next(each for each in scope.decisions if isinstance(each, GiveUp))
        self.assertIn("18 movies in no tilt series may belong to it", said.reason)
        self.assertIn("SubFramePath", said.reason)


class TestBasenames(unittest.TestCase):
    def test_a_path_is_its_folder_and_its_name(self):
        for path, folder in (("X:\\a\\b.tif", "X:\\a"), ("/a/b.tif", "/a"), ("b.tif", ""), ("\\\\srv\\s\\b.tif", "\\\\srv\\s")):
            self.assertEqual((folder_of(path), basename(path)), (folder, "b.tif"))


if __name__ == "__main__":
    unittest.main()
