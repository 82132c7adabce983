# SPDX-License-Identifier: GPL-3.0-or-later
"""A file with the frame sets of the whole session tells of movies; a series is a run of tilts, and its own mdoc goes first.
What several files list belongs to one series, whether its movie has come or not.
"""

from __future__ import annotations

import unittest
from dataclasses import replace
from datetime import timedelta

from tomostream.acquisition.events import Event, InputClosed, MdocRead, MicrographReady, MovieSeen, Restored, Stop
from tomostream.acquisition.facts import MdocFacts, Tilt
from tomostream.acquisition.frames import apart, group_frames
from tomostream.acquisition.mdoc import read_mdoc
from tomostream.acquisition.naming import movie_key
from tomostream.tests.test_session import Player, key, mdoc, tilts

COUNT = 9


def in_folder(which: tuple[Tilt, ...], folder: str) -> tuple[Tilt, ...]:
    return tuple(replace(each, movie_folder=folder) for each in which)


def frame_sets(which: tuple[Tilt, ...], path: str = "/data/session.mdoc") -> MdocFacts:
    return mdoc("session", which, path, frame_sets=True)


def frame(tilt: Tilt, folder: str = "/data/frames") -> MdocFacts:
    name = str(tilt.movie)
    return mdoc(movie_key(name), (tilt,), f"{folder}/{name}.mdoc", kind="frame", frame_series=name.rsplit("_", 2)[0])


def movies(which: tuple[Tilt, ...], folder: str, time: float, prefix: str = "", aligned: bool = True) -> list[Event]:
    """Movies are seen and aligned; `prefix` is what the import puts before names that another folder has too."""
    found: list[Event] = []
    for each in which:
        name = f"{prefix}{key(each)}"
        found.append(MovieSeen(name, time, f"{folder}/{each.movie}", time))
        found += [MicrographReady(name, time)] if aligned else []
    return found


class TestFrameSetsOfTheWholeSession(unittest.TestCase):
    def composed(self, player: Player) -> dict[str, set[str]]:
        """What was composed last, by identifier: the movies."""
        return {each.series_id: {movie_key(str(tilt.movie)) for tilt in each.tilts} for _, each in player.composed}

    def test_names_used_in_two_folders_stay_two_series(self) -> None:
        one = in_folder(tilts("TS_01", COUNT), "X:\\s\\grid1")
        two = in_folder(tilts("TS_01", COUNT, 1000.0), "X:\\s\\grid2")
        player = Player(expected_tilts=COUNT)
        for count in range(1, COUNT + 1):
            player.feed(MdocRead(frame_sets(one[:count]), 30.0 * count),
                        MdocRead(mdoc("TS_01", one[:count], "/data/grid1/TS_01.mdoc"), 30.0 * count))
        player.feed(*movies(one[:6], "/data/grid1", 300.0), *movies(one[6:], "/data/grid1", 900.0))
        for count in range(1, COUNT + 1):
            player.feed(MdocRead(frame_sets((*one, *two[:count])), 1000.0 + 30.0 * count),
                        MdocRead(mdoc("TS_01", two[:count], "/data/grid2/TS_01.mdoc"), 1000.0 + 30.0 * count))
        player.feed(*movies(two, "/data/grid2", 1300.0, "grid2_"), InputClosed(1400.0))
        player.wait()
        self.assertEqual(self.composed(player), {"TS_01": {key(each) for each in one},
                                                 "grid2_TS_01": {f"grid2_{key(each)}" for each in two}})
        self.assertEqual(player.given_up, [])

    def test_names_used_in_two_folders_are_two_series_where_no_series_has_an_mdoc(self) -> None:
        one = in_folder(tilts("TS_01", COUNT), "X:\\s\\grid1")
        two = in_folder(tilts("TS_01", COUNT, 1000.0), "X:\\s\\grid2")
        player = Player(expected_tilts=COUNT)
        player.feed(MdocRead(frame_sets((*one, *two)), 1.0), *movies(one, "/data/grid1", 2.0),
                    *movies(two, "/data/grid2", 3.0, "g2_"), InputClosed(4.0))
        player.wait()
        self.assertEqual(sorted(self.composed(player).values(), key=min),
                         [{key(each) for each in one}, {f"g2_{key(each)}" for each in two}])

    def test_beside_frame_mdocs_every_series_is_whole(self) -> None:
        one, two = tilts("TS_01", COUNT), tilts("TS_02", COUNT, 1000.0)
        player = Player(expected_tilts=COUNT)
        listed: tuple[Tilt, ...] = ()
        for count, each in enumerate((*one, *two)):
            listed = (*listed, each)
            order = [MdocRead(frame_sets(listed), 60.0 * count), MdocRead(frame(each), 60.0 * count)]
            player.feed(*order[:: -1 if count % 2 else 1],
                        *movies((replace(each, movie=str(each.movie).lower()),), "/data/frames", 60.0 * count + 20.0))
        player.wait()
        self.assertEqual([len(each.tilts) for _, each in player.composed], [COUNT, COUNT])
        self.assertEqual([each for each in player.given_up if each.failed], [])

    def test_a_series_that_was_aborted_and_started_over_has_nothing_of_the_first(self) -> None:
        first = tilts("TS_01", 2)
        again = tuple(replace(each, movie=f"TS_01_{each.order + 50:03d}_{each.angle:.1f}.tif")
                      for each in tilts("TS_01", COUNT, 500.0))
        player = Player(expected_tilts=COUNT)
        player.feed(MdocRead(frame_sets(first), 1.0), MdocRead(mdoc("TS_01", first), 2.0), *movies(first, "/data", 3.0))
        for count in range(1, COUNT + 1):
            player.feed(MdocRead(frame_sets((*first, *again[:count])), 500.0 + 30.0 * count),
                        MdocRead(mdoc("TS_01", again[:count]), 501.0 + 30.0 * count))
        player.feed(*movies(again, "/data", 900.0), InputClosed(910.0))
        player.wait()
        self.assertEqual(self.composed(player), {"TS_01": {key(each) for each in again}})

    def test_what_no_mdoc_of_a_series_lists_is_composed_when_the_session_ends(self) -> None:
        one, two = tilts("TS_01", COUNT), tilts("TS_02", COUNT, 1000.0)
        for end in (InputClosed(2000.0), Stop(2000.0)):
            player = Player(expected_tilts=COUNT)
            player.feed(MdocRead(frame_sets((*one, *two)), 1.0), MdocRead(mdoc("TS_01", one), 2.0), *movies(one, "/data", 3.0),
                        *movies(two, "/data", 1500.0))
            player.wait(1999.0)
            self.assertEqual(list(self.composed(player)), ["TS_01"])
            self.assertIn("session.mdoc", player.session.unassigned()[key(two[0])].reason)
            player.feed(end)
            player.wait()
            self.assertEqual(self.composed(player), {"TS_01": {key(each) for each in one}, "TS_02": {key(each) for each in two}})
            self.assertEqual(player.session.unassigned(), {})

    def test_a_single_movie_that_no_mdoc_of_a_series_lists_is_reported(self) -> None:
        one = tilts("TS_01", COUNT)
        player = Player(min_tilts=3)
        player.feed(MdocRead(frame_sets(one), 1.0), MdocRead(mdoc("TS_01", one[:-1]), 2.0), *movies(one, "/data", 3.0), Stop(4.0))
        self.assertEqual(list(player.session.unassigned()), [key(one[-1])])

    def test_what_was_composed_of_them_goes_on_as_the_mdoc_says_that_comes_later_whatever_its_name(self) -> None:
        one = tilts("TS_01", COUNT)
        for name in ("TS_01", "lamella 1"):
            for bare in (False, True):
                player = Player(min_tilts=3, time_for_next_tilt=60.0)
                player.feed(MdocRead(frame_sets(one[:5]), 1.0), *movies(one[:5], "/data/frames", 2.0))
                player.wait(900.0)
                self.assertEqual([len(each.tilts) for _, each in player.composed], [5])
                listed = tuple(replace(each, movie=None) for each in one) if bare and name == "TS_01" else one
                player.feed(*movies(one[5:], "/data/frames", 900.0),
                            MdocRead(mdoc(name, listed, f"/data/mdocs/{name}.mdoc"), 901.0))
                player.wait()
                self.assertEqual(self.composed(player), {"TS_01": {key(each) for each in one}}, (name, bare))
                self.assertEqual(player.composed[-1][1].series_name, name)
                self.assertEqual([each for each in player.given_up if each.failed], [])

    def test_an_mdoc_goes_on_with_what_was_registered_of_frame_sets_before_a_restart(self) -> None:
        one, two = tilts("frames", COUNT), tilts("TS_02", COUNT, 1000.0)
        for mdocs in ((), ("/data/session.mdoc",)):
            player = Player(min_tilts=3)
            player.feed(Restored("frames", "frames", tuple(key(each) for each in one[:5]), 2, 0.0, mdocs=mdocs),
                        MdocRead(mdoc("TS_02", two, "/data/mdocs/TS_02.mdoc"), 0.5), MdocRead(frame_sets(one), 1.0),
                        *movies(one, "/data/frames", 2.0), MdocRead(mdoc("Position_1", one, "/data/mdocs/Position_1.mdoc"), 3.0))
            player.wait()
            self.assertEqual(self.composed(player), {"frames": {key(each) for each in one}}, mdocs)
            self.assertEqual([each.series_name for _, each in player.composed], ["Position_1"])

    def test_tilts_of_another_series_that_were_composed_of_them_are_given_back(self) -> None:
        one = tilts("TS_01", COUNT)
        two = tuple(replace(each, movie=f"TS_01_{each.order + 50:03d}_{each.angle + 0.3:.1f}.tif", angle=each.angle + 0.3)
                    for each in tilts("TS_01", COUNT, 15.0))
        player = Player(min_tilts=3, time_for_next_tilt=60.0)
        mixed = (*one[:4], *two[:3])
        player.feed(MdocRead(frame_sets(mixed), 1.0), *movies(mixed, "/data/frames", 2.0))
        player.wait(900.0)
        self.assertEqual([len(each.tilts) for _, each in player.composed], [7])
        player.feed(*movies((*one[4:], *two[3:]), "/data/frames", 900.0), MdocRead(mdoc("A", one, "/data/mdocs/A.mdoc"), 901.0),
                    MdocRead(mdoc("B", two, "/data/mdocs/B.mdoc"), 902.0))
        player.wait()
        self.assertEqual(self.composed(player), {"TS_01": {key(each) for each in one}, "B": {key(each) for each in two}})

    def test_those_of_an_acquisition_that_was_replaced_make_no_series_when_the_session_ends_after_a_restart(self) -> None:
        first = in_folder(tilts("TS_01", COUNT), "X:\\s")
        second = in_folder(tuple(replace(each, movie=f"TS_01_{each.order + 50:03d}_{each.angle:.1f}.tif")
                                 for each in tilts("TS_01", COUNT, 3000.0)), "X:\\s")
        player = Player(min_tilts=3)
        player.feed(Restored("TS_01", "TS_01", tuple(key(each) for each in second), 2, 0.0, mdocs=("/data/TS_01.mrc.mdoc",)),
                    MdocRead(frame_sets((*first, *second)), 1.0), MdocRead(mdoc("TS_01", second), 2.0),
                    *movies((*first, *second), "/data/frames", 3.0), Stop(9.0))
        self.assertEqual(player.composed, [])
        self.assertEqual(set(player.session.unassigned()), {key(each) for each in first})

    def test_what_was_made_of_them_before_the_first_mdoc_came_is_taken_back_and_its_name_is_free(self) -> None:
        one = tilts("TS_01", COUNT)
        player = Player(expected_tilts=COUNT)
        player.feed(MdocRead(frame_sets(one[:4]), 1.0))
        self.assertEqual([(each.series_id, each.state) for each in player.session.changed_states()], [("TS_01", "acquiring")])
        player.feed(MdocRead(mdoc("TS_01", one[:2], "/data/mdocs/TS_01.mdoc"), 2.0))
        states = player.session.changed_states()
        self.assertEqual([(each.series_id, each.state) for each in states], [("TS_01", "ignored"), ("TS_01", "acquiring")])
        player.feed(MdocRead(mdoc("TS_01", one, "/data/mdocs/TS_01.mdoc"), 3.0), *movies(one, "/data", 4.0))
        player.wait()
        self.assertEqual(self.composed(player), {"TS_01": {key(each) for each in one}})
        self.assertEqual(player.given_up, [])

    def test_a_file_with_one_section_that_is_not_named_by_its_movie_is_the_begin_of_one(self) -> None:
        one = tilts("TS_01", 1)[0]
        begin = replace(frame(one), path="/data/session.mdoc")
        self.assertIn("[FrameSet]", apart(begin)[0].path)
        for name in (f"{one.movie}.mdoc", f"{key(one)}.mdoc", f"grid1_{one.movie}.mdoc", f"{str(one.movie).upper()}.MDOC",
                     "TS_01_000.mdoc"):
            facts = replace(frame(one), path=f"/data/{name}")
            self.assertEqual(apart(facts), [facts], name)


class TestFrameMdocsAlone(unittest.TestCase):
    """No series has an mdoc: the names of the movies say what belongs together."""

    @staticmethod
    def read(name: str, place: int, angle: float) -> MdocFacts:
        return read_mdoc(f"/data/{name}.mdoc", (
            f"T = SerialEM: x\nVoltage = 300\n\n[FrameSet = 0]\nTiltAngle = {angle}\nExposureDose = 3\n"
            f"SubFramePath = X:\\f\\{name}\nDateTime = 15-Jan-26  09:{place:02d}:00\n\n").encode())

    def play(self, names: list[str]) -> Player:
        player = Player(tilt_axis=85.0)
        for place, name in enumerate(names):
            player.feed(MdocRead(self.read(name, place, 3.0 * place - 6.0), 1.0), MicrographReady(movie_key(name), 2.0))
        player.feed(InputClosed(3.0))
        player.wait()
        return player

    def test_the_date_in_front_of_a_name_is_no_part_of_the_name_of_the_series(self) -> None:
        for pattern, name in (("20260115_09{k:02d}00_TS_01_{n:03d}_{a:.1f}.tif", "TS_01"), ("Jan15_09.{k:02d}.00.tif", "Jan15"),
                              ("2026-01-15_09.{k:02d}.00_lam_{n:03d}_{a:.1f}.eer", "lam"),
                              ("Jan15_09.{k:02d}.00_lam_7_{a:.1f}.eer", "lam_7"),
                              ("20260115_TS_01_{n:03d}_{a:.1f}.tif", "20260115_TS_01")):
            names = [pattern.format(k=k, n=k + 1, a=3.0 * k - 6.0) for k in range(5)]
            player = self.play(names)
            self.assertEqual([(each.series_name, len(each.tilts)) for _, each in player.composed], [(name, 5)], pattern)
            facts = [self.read(each, k, 3.0 * k - 6.0) for k, each in enumerate(names)]
            self.assertEqual([(each.series_name, len(each.tilts)) for each in group_frames(facts)], [(name, 5)], pattern)

    def test_movies_whose_names_tell_no_series_are_reported(self) -> None:
        player = self.play([f"{word}.tif" for word in ("alpha", "beta", "gamma", "delta")])
        self.assertEqual(player.composed, [])
        loose = player.session.unassigned()
        self.assertEqual(sorted(loose), ["alpha", "beta", "delta", "gamma"])
        self.assertIn("start the names of frames with that of their series", loose["alpha"].reason)
        self.assertEqual(self.play(["trial.tif", "map.tif"]).session.unassigned(), {})      # so few are no series


class TestOneExposureInTwoFiles(unittest.TestCase):
    def test_a_copy_of_a_series_that_failed_is_a_copy_and_did_not_fail(self) -> None:
        which = in_folder(tilts("TS_01", COUNT), "X:\\s\\frames")
        for path in ("/data/backup/TS_01.mdoc", "/data/mdocs/Copy of TS_01.mdoc"):
            player = Player(expected_tilts=COUNT)
            copy = mdoc("TS_01", which, path, copy="Copy" in path)
            player.feed(MdocRead(mdoc("TS_01", which, "/data/mdocs/TS_01.mdoc"), 1.0), MdocRead(copy, 2.0),
                        *movies(which[:2], "/data/frames", 3.0), InputClosed(4.0))
            player.wait()
            self.assertEqual(player.composed, [])
            self.assertEqual([(each.mdocs[0], each.failed) for each in player.given_up if path not in each.mdocs or each.failed],
                             [("/data/mdocs/TS_01.mdoc", True)])

    def test_frame_mdocs_whose_clock_differs_by_seconds_from_that_of_the_series_are_of_it(self) -> None:
        which = in_folder(tilts("TS_01", COUNT), "X:\\s\\frames")
        later = tuple(replace(each, time=each.time + timedelta(seconds=2)) for each in which if each.time)
        for order in (1, -1):
            player = Player(expected_tilts=COUNT)
            files = [*(frame(each) for each in later), mdoc("TS_01", which, "/data/mdocs/TS_01.mdoc")][::order]
            player.feed(*(MdocRead(each, 1.0) for each in files), *movies(which, "/data/frames", 3.0))
            player.wait()
            self.assertEqual([len(each.tilts) for _, each in player.composed], [COUNT], order)
            self.assertFalse(any(each.failed for each in player.given_up))

    def test_neither_a_series_nor_its_mirrored_mdoc_takes_movies_from_the_folder_of_another_under_changed_names(self) -> None:
        """Left over from an acquisition of TS_01 that was started over, in the folder that mdocs give for TS_01."""
        names = tuple(f"frames_{k:03d}_{each.angle:.1f}.tif" for k, each in enumerate(tilts("x", COUNT)))
        which = in_folder(tuple(replace(each, movie=name) for each, name in zip(tilts("x", COUNT), names, strict=True)),
                          "X:\\s\\TS_04")
        there = tuple(replace(each, movie=f"krios_{each.movie}") for each in which)
        again = in_folder(tilts("TS_01", COUNT, 5000.0), "X:\\s\\TS_01")
        player = Player(expected_tilts=COUNT)
        player.feed(MdocRead(mdoc("TS_01", again), 1.0), *movies(there, "/data/TS_01", 2.0))
        for path in ("/data/mdocs/TS_04.mdoc", "/data/mirror/TS_04.mdoc"):
            player.feed(MdocRead(mdoc("TS_04", which, path), 3.0))
        player.feed(*movies(there, "/data/TS_04", 4.0, "TS_04_"), InputClosed(5.0))
        player.wait()
        self.assertEqual([{movie_key(str(tilt.movie)) for tilt in each.tilts} for _, each in player.composed],
                         [{f"TS_04_{key(each)}" for each in there}])


class TestFoldersOfOthers(unittest.TestCase):
    def test_a_movie_with_the_right_name_in_the_folder_of_another_series_is_not_taken(self) -> None:
        """A folder a series, the same names in each; the movie of one tilt is lost."""
        names = tuple(f"frames_{k:03d}_{each.angle:.1f}.tif" for k, each in enumerate(tilts("x", COUNT)))
        one, two = (tuple(replace(each, movie=name, movie_folder=f"X:\\s\\{folder}")
                          for each, name in zip(tilts("x", COUNT, begin), names, strict=True))
                    for begin, folder in ((0.0, "TS_01"), (2000.0, "TS_02")))
        player = Player(expected_tilts=COUNT)
        player.feed(MdocRead(mdoc("TS_01", one), 1.0), *movies((*one[:4], *one[5:]), "/data/TS_01", 2.0),
                    MdocRead(mdoc("TS_02", two[:4]), 3.0), *movies(two[:5], "/data/TS_02", 4.0, "TS_02_"), Stop(5.0))
        self.assertEqual([(each.series_name, len(each.tilts)) for _, each in player.composed], [("TS_01", 8), ("TS_02", 4)])

    def test_movies_of_the_other_sample_that_came_first_go_to_it_when_its_mdoc_comes(self) -> None:
        named = {sample: tilts("Position_1", COUNT, 2000.0 * sample) for sample in (1, 2)}
        bare = {sample: tuple(replace(each, movie=None) for each in which) for sample, which in named.items()}
        for first in (1, 2):
            player = Player(expected_tilts=COUNT)
            other = 3 - first
            player.feed(MdocRead(mdoc("Position_1", bare[first], f"/data/S{first}/Position_1.mdoc"), 1.0),
                        *movies(named[other][::2], f"/data/S{other}", 2.0, f"S{other}_"),
                        *movies(named[first], f"/data/S{first}", 3.0, f"S{first}_"),
                        MdocRead(mdoc("Position_1", bare[other], f"/data/S{other}/Position_1.mdoc"), 4.0),
                        *movies(named[other][1::2], f"/data/S{other}", 5.0, f"S{other}_"), InputClosed(6.0))
            player.wait()
            last = {each.mdocs[0].split("/")[2]: each for _, each in player.composed}
            self.assertEqual({place: {str(tilt.movie)[:2] for tilt in each.tilts} for place, each in last.items()},
                             {"S1": {"S1"}, "S2": {"S2"}})
            self.assertEqual({len(each.tilts) for each in last.values()}, {COUNT})


class TestAfterARestart(unittest.TestCase):
    def test_frame_sets_that_are_read_first_do_not_take_a_series_from_its_own_mdoc(self) -> None:
        one = tilts("TS_01", COUNT)
        for mdocs, own in ((("/data/TS_01.mrc.mdoc",), True), ((), True), (("/data/session.mdoc",), False)):
            player = Player(expected_tilts=COUNT)
            player.feed(Restored("TS_01", "TS_01", tuple(map(key, one)), 1, 1.0, mdocs=mdocs), *movies(one, "/data", 2.0),
                        MdocRead(frame_sets(one), 3.0), *([MdocRead(mdoc("TS_01", one), 4.0)] if own else []), InputClosed(5.0))
            player.wait()
            self.assertEqual((player.composed, player.given_up), ([], []))
            self.assertEqual([(each.series_id, each.state) for each in player.session.states()], [("TS_01", "composed")])

    def test_a_series_whose_names_a_transfer_changed_is_known_again_by_its_movies(self) -> None:
        which = tilts("TS_01", COUNT)
        player = Player(expected_tilts=COUNT)
        there = tuple(replace(each, movie=f"krios_{each.movie}") for each in which)
        player.feed(Restored("TS_01", "TS_01", tuple(key(each) for each in there), 1, 1.0), *movies(there, "/data", 2.0),
                    MdocRead(mdoc("TS_01", which), 3.0), InputClosed(4.0))
        player.wait()
        self.assertEqual([each.series_id for each in player.session.states()], ["TS_01"])
        self.assertEqual((player.composed, player.given_up), ([], []))

    def test_a_series_with_the_same_names_in_another_folder_is_not_taken_for_the_one_that_is_registered(self) -> None:
        one, two = tilts("TS_01", COUNT), tilts("TS_01", COUNT, 2000.0)
        player = Player(expected_tilts=COUNT)
        player.feed(Restored("TS_01", "TS_01", tuple(key(each) for each in one), 1, 1.0), *movies(one, "/data/g1", 2.0),
                    *movies(two, "/data/g2", 2.0, "g2_"), MdocRead(mdoc("TS_01", two, "/data/g2/TS_01.mdoc"), 3.0),
                    InputClosed(4.0))
        player.wait()
        self.assertEqual([(each.series_id == "TS_01", len(each.tilts)) for _, each in player.composed], [(False, COUNT)])


if __name__ == "__main__":
    unittest.main()
