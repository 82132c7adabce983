# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a movie of the right name is that of a tilt: by the folders of its sisters, and by when it was written."""

from __future__ import annotations

import doctest
import unittest
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tomostream.acquisition import homes
from tomostream.acquisition.events import (
    Compose,
    Decision,
    Event,
    GiveUp,
    MdocRead,
    MicrographReady,
    MovieSeen,
    Policy,
    Stop,
    Tick,
)
from tomostream.acquisition.facts import MdocFacts, Tilt
from tomostream.acquisition.homes import Homes, Kin, Lag, lag_of
from tomostream.acquisition.matching import Found, Wanted
from tomostream.acquisition.naming import movie_key
from tomostream.acquisition.session import Session
from tomostream.tests.test_session import BEGIN, GAP, key, mdoc, tilts

#: Two folders of the camera's computer of which the names alone do not tell to which of them `ABOVE` belongs.
FIRST, SECOND = "X:\\session\\frames", "X:\\session\\second\\frames"
ABOVE, BELOW = "/s/frames", "/s/second/frames"
ZONE = 7200.0


def wanted(folder: str, time: float | None, mdocs: str = "/s/mdocs") -> Wanted:
    return Wanted("TS_01_001_0.0.tif", folder, mdocs, "TS_01", 0.0, time)


def homes_of(pairs: list[tuple[float, float | None]]) -> Homes:
    """Mdocs name both folders; movies in the folder above were given to tilts of the first at these times."""
    homes = Homes()
    homes.note(wanted(FIRST, None))
    homes.note(wanted(SECOND, None))
    for exposed, written in pairs:
        homes.give(wanted(FIRST, exposed), Found(f"{ABOVE}/a.tif", written))
    return homes


class TestLag(unittest.TestCase):
    def test_a_difference_that_varies_as_the_exposures_do_tells_nothing(self):
        exposed = [40.0 * k for k in range(20)]
        self.assertIsNone(lag_of([(each, 5000.0) for each in exposed]))             # copied at once
        self.assertIsNone(lag_of([(each, 5000.0 + each / 10) for each in exposed]))      # one after the other, afterwards
        self.assertIsNone(lag_of([(each, each) for each in exposed[:4]]))           # too few
        self.assertEqual(lag_of([(each, each + ZONE + 2.0) for each in exposed]), Lag(ZONE + 2.0, 0.0))

    def test_what_is_older_is_of_another_exposure_unless_a_clock_was_put_forward(self):
        lag = Lag(ZONE, 1.0)
        for difference, fits in ((ZONE, True), (ZONE - 50.0, True), (ZONE - 70.0, False), (ZONE - 2300.0, False),
                                 (ZONE - 3600.0, None), (ZONE - 7190.0, None), (ZONE + 100.0, None), (ZONE + 1e5, None)):
            self.assertEqual(lag.fits((1000.0, 1000.0 + difference)), fits, difference)

    @settings(max_examples=200, deadline=None)
    @given(st.floats(-14 * 3600.0, 14 * 3600.0), st.lists(st.floats(0.0, 60.0), min_size=10, max_size=60),
           st.sampled_from(["kept", "copied at once", "in batches"]), st.integers(-12, 12))
    def test_a_movie_of_its_own_is_never_refused_by_any_zone_transfer_or_change_of_the_hour(self, zone, delays, way, hours):
        exposed = [40.0 * k for k in range(len(delays))]
        written = [each + zone + delay for each, delay in zip(exposed, delays, strict=True)]
        if way == "copied at once":
            written = [exposed[-1] + zone + 1000.0] * len(written)
        elif way == "in batches":
            written = [(each // 900.0 + 1.0) * 900.0 for each in written]
        *known, (time, own) = zip(exposed, written, strict=True)
        homes = homes_of(list(known))
        self.assertFalse(homes.judge(wanted(SECOND, time), Found(f"{ABOVE}/a.tif", own)).foreign)
        self.assertFalse(homes.judge(wanted(SECOND, time), Found(f"{ABOVE}/a.tif", own + 3600.0 * hours)).foreign
                         and way == "kept" and hours > 0)
        self.assertFalse(homes.judge(wanted(SECOND, None), Found(f"{ABOVE}/a.tif", own)).foreign)
        self.assertFalse(homes.judge(wanted(SECOND, time), Found(f"{ABOVE}/a.tif")).foreign)

    @settings(max_examples=100, deadline=None)
    @given(st.floats(-14 * 3600.0, 14 * 3600.0), st.lists(st.floats(0.0, 2.0), min_size=10, max_size=60),
           st.floats(200.0, 3400.0))
    def test_where_times_are_kept_what_was_written_before_the_exposure_is_refused(self, zone, delays, older):
        known = [(40.0 * k, 40.0 * k + zone + delay) for k, delay in enumerate(delays)]
        found = Found(f"{ABOVE}/a.tif", 4000.0 + zone - older)
        self.assertEqual(homes_of(known).judge(wanted(SECOND, 4000.0), found), Kin.TOO_OLD)
        self.assertEqual(homes_of(known).judge(wanted(FIRST, 4000.0), found), Kin.OWN)      # where its sisters are: no doubt


class TestHomes(unittest.TestCase):
    def test_a_folder_that_only_one_mdoc_names_is_its_own_whatever_the_times_say(self):
        homes = homes_of([(40.0 * k, 40.0 * k) for k in range(20)])
        self.assertEqual(homes.judge(wanted(SECOND, 9e6), Found(f"{BELOW}/a.tif", 0.0)), Kin.OWN)

    def test_a_transfer_that_puts_all_into_one_folder_leaves_no_doubt(self):
        homes = homes_of([(40.0 * k, 40.0 * k) for k in range(20)])
        homes.give(wanted(SECOND, 1000.0), Found(f"{ABOVE}/a.tif", 1001.0))
        self.assertEqual(homes.judge(wanted(SECOND, 9000.0), Found(f"{ABOVE}/b.tif", 2000.0)), Kin.OWN)

    def test_without_times_the_folder_of_the_sisters_decides_and_nothing_is_known_before_there_is_one(self):
        homes = homes_of([(40.0 * k, None) for k in range(20)])
        self.assertEqual(homes.judge(wanted(SECOND, 1000.0), Found(f"{ABOVE}/a.tif")), Kin.UNKNOWN)
        homes.give(wanted(SECOND, 1000.0), Found(f"{BELOW}/a.tif"))
        self.assertEqual(homes.judge(wanted(SECOND, 1000.0), Found(f"{ABOVE}/a.tif")), Kin.ELSEWHERE)

    def test_the_time_says_that_a_movie_in_another_folder_is_its_own(self):
        homes = homes_of([(40.0 * k, 40.0 * k + ZONE) for k in range(20)])
        homes.give(wanted(SECOND, 1000.0), Found(f"{BELOW}/a.tif", 1000.0 + ZONE))
        self.assertEqual(homes.judge(wanted(SECOND, 1040.0), Found(f"{ABOVE}/a.tif", 1041.0 + ZONE)), Kin.OWN)


class Night:
    """A series above, movies above of an acquisition that no mdoc lists any more, and one below that was stopped by hand."""

    def __init__(self, change: Callable[[str], str] = str, written: Callable[[float], float | None] = lambda time: time + ZONE,
                 own: int = 6) -> None:
        self.change, self.written = change, written
        self.events: list[Event] = []
        self.movies(tilts("TS_01"), ABOVE, "")
        self.series("TS_01", tilts("TS_01"), "/s/mdocs", FIRST)
        self.movies(tilts("TS_02", begin=1000.0), ABOVE, "")
        self.last = tilts("TS_02", 8, 4000.0)
        for place, each in enumerate(self.last, start=1):
            self.series("TS_02", self.last[:place], "/s/second/mdocs", SECOND)
            if place <= own:
                self.movies((each,), BELOW, "second_")
        self.session = Session(Policy(min_tilts=3))
        self.decisions: list[Decision] = [each for event in [*self.events, Stop(4000.0 + 9 * GAP)]
                                          for each in self.session.handle(event)]

    def series(self, name: str, which: tuple[Tilt, ...], mdocs: str, folder: str) -> None:
        facts: MdocFacts = mdoc(name, tuple(replace(each, movie_folder=folder) for each in which), f"{mdocs}/{name}.mrc.mdoc")
        self.events.append(MdocRead(facts, self.now(which)))

    def movies(self, which: tuple[Tilt, ...], folder: str, prefix: str) -> None:
        for each in which:
            file = self.change(str(each.movie))
            seen = MovieSeen(prefix + movie_key(file), self.now(which), f"{folder}/{file}", self.written(self.now((each,)) - 1.0))
            self.events += [seen, MicrographReady(seen.movie, seen.time + 0.5)]

    @staticmethod
    def now(which: tuple[Tilt, ...]) -> float:
        """Seconds since the session began, a little after the last of these tilts."""
        time = which[-1].time
        return 1.0 + (0.0 if time is None else (time - tilts("TS_01")[0].time).total_seconds())     # type: ignore[operator]

    def made_below(self) -> list[Compose]:
        return [each for each in self.decisions if isinstance(each, Compose) and each.mdocs[0].startswith("/s/second")]


class TestAStoppedSeriesWithMoviesMissing(unittest.TestCase):
    CHANGES = (str, lambda name: name.replace("_0", "(0"))

    def test_is_not_given_those_of_a_replaced_acquisition_in_another_folder(self):
        for change in self.CHANGES:
            night = Night(change)
            last = night.made_below()[-1]
            self.assertEqual({movie_key(str(each.movie)) for each in last.tilts},
                             {f"second_{movie_key(change(str(each.movie)))}" for each in night.last[:6]})
            self.assertEqual([key(each.tilt) for each in last.left_out], sorted(
                map(key, night.last[6:]), key=lambda name: float(name.rsplit("_", 1)[1])))
            if change is str:
                self.assertIn("/s/frames/TS_02_006_-9.0.tif is not taken for it, because its folder is that of other movies",
                              last.left_out[0].reason)

    def test_is_not_given_them_where_the_transfer_did_not_keep_the_times(self):
        for written in (lambda time: None, lambda time: 5000.0):
            for change in self.CHANGES:
                last = Night(change, written).made_below()[-1]
                self.assertEqual([str(each.movie)[:7] for each in last.tilts], 6 * ["second_"])

    def test_is_not_composed_of_them_alone_where_times_tell(self):
        for change in self.CHANGES:
            night = Night(change, own=0)
            self.assertEqual(night.made_below(), [])
            failed = [each for each in night.decisions if isinstance(each, GiveUp) and each.mdocs[0].startswith("/s/second")]
            self.assertIn("it was written before this tilt was exposed", failed[0].reason)

    def test_movies_apart_from_the_others_of_which_nothing_tells_are_used_and_named(self):
        session = Session(Policy(expected_tilts=9))
        one = tuple(replace(each, movie_folder="X:\\one") for each in tilts("A", 9))
        two = tuple(replace(each, movie_folder="X:\\two") for each in tilts("B", 9, 1000.0))
        events: list[Event] = [MdocRead(mdoc("A", one, "/d/A.mrc.mdoc"), 1.0), MdocRead(mdoc("B", two, "/d/B.mrc.mdoc"), 1001.0)]
        for place, each in enumerate([*one, *two]):
            folder = "/disk2/x" if place in (3, 4) else "/disk1/x"
            seen = MovieSeen(key(each), 1002.0, f"{folder}/{each.movie}")
            events += [seen, MicrographReady(seen.movie, 1003.0)]
        made = [each for event in events for each in session.handle(event) if isinstance(each, Compose)]
        self.assertEqual([len(each.tilts) for each in made], [9, 9])
        told = [[text for text in each.warnings if "in a different folder" in text] for each in made]
        self.assertEqual((len(told[0]), told[1]), (1, []))
        self.assertIn("2 movies are in a different folder", told[0][0])
        self.assertIn(key(one[3]), told[0][0])

    def test_a_folder_a_series_of_which_mdocs_tell_none_is_not_given_the_movie_of_a_later_series_for_one_that_never_came(self):
        session = Session(Policy(expected_tilts=9, time_for_next_tilt=100.0))

        def came(name: str, begin: float, lost: int) -> list[Event]:
            which = [replace(each, movie=str(each.movie).replace(name, "frames")) for each in tilts(name, 9, begin)]
            seen = [MovieSeen(f"{name}_{place}", 1.0 + begin, f"/s/frames/{name}/{each.movie}")
                    for place, each in enumerate(which) if place != lost]
            return [*seen, MdocRead(mdoc(name, tuple(which), f"/s/mdocs/{name}.mrc.mdoc"), 2.0 + begin),
                    *(MicrographReady(each.movie, 3.0 + begin) for each in seen)]

        later = [each for each in came("TS_2", 1000.0, -1) if not isinstance(each, MdocRead)]
        events = [*came("TS_1", 0.0, 3), Tick(900.0), *later, Tick(1900.0)]
        made = [each for event in events for each in session.handle(event) if isinstance(each, Compose)]
        self.assertEqual([(each.series_id, len(each.tilts)) for each in made], [("TS_1", 8)])

    def test_the_examples_in_the_docstrings(self):
        self.assertEqual(doctest.testmod(homes).failed, 0)


class TestAnEarlierSession(unittest.TestCase):
    def test_is_left_aside_though_as_many_movies_of_today_wait_for_their_mdoc(self):
        noon = BEGIN.timestamp() + 3 * 86400.0

        def today(name: str, begin: float) -> list[Event]:
            return [MovieSeen(key(each), noon + begin, f"/s/frames/{each.movie}", noon + begin + GAP * place + 2.0)
                    for place, each in enumerate(tilts(name))]

        listed = mdoc("X", tilts("X", begin=3 * 86400.0))
        session = Session(Policy(expected_tilts=len(listed.tilts)))
        events: list[Event] = [*today("X", 0.0), MdocRead(listed, noon + 1.0), *today("Y", 2.0),
                               MdocRead(mdoc("old", tilts("old")), noon + 3.0), Stop(noon + 4.0)]
        given_up = [each for event in events for each in session.handle(event) if isinstance(each, GiveUp)]
        self.assertEqual([each.failed for each in given_up if each.series_name == "old"], [False])
        self.assertIn("Y_000_0.0", session.unassigned())


if __name__ == "__main__":
    unittest.main()
