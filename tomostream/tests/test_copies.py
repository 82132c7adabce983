# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies, backups and other files beside the mdoc files of the series: one acquisition is one series, under its own name."""

from __future__ import annotations

import os
import tempfile
import unittest
from dataclasses import replace
from itertools import permutations

from tomostream.acquisition.copies import names_itself, original_name, without_backup
from tomostream.acquisition.events import GiveUp, MdocRead, MicrographReady
from tomostream.acquisition.facts import MdocFacts, Tilt
from tomostream.acquisition.mdoc import read_mdoc
from tomostream.journal import entries, ledger
from tomostream.journal.status import ProjectStatus
from tomostream.tests.test_session import COUNT, Player, key, mdoc, tilts

#: Names that people and programs give to a copy of TS_01.mrc.mdoc.
COPIES = ("Copy of TS_01.mrc.mdoc", "Copy (2) of TS_01.mrc.mdoc", "Kopie von TS_01.mrc.mdoc", "TS_01.mrc - Copy.mdoc",
          "TS_01.mrc - Copy (3).mdoc", "TS_01.mrc (1).mdoc", "TS_01 (1).mrc.mdoc", "TS_01(1).mrc.mdoc", "TS_01.mrc (copy).mdoc",
          "TS_01.mrc copy 2.mdoc", "copy_of_TS_01.mdoc", "TS_01_copy.mrc.mdoc", "TS_01.mrc.mdoc~", "TS_01.mrc.mdoc.bak",
          "TS_01.mrc.mdoc.bak2", "TS_01.mrc.mdoc.orig")


def text_of(count: int, stack: str = "TS_01.mrc", movies: str = "TS_01") -> bytes:
    """An mdoc of the tilts of test_session, as SerialEM writes it."""
    head = f"PixelSpacing = 2\nVoltage = 300\nImageFile = {stack}\n\n[T = SerialEM: x]\n\n[T =  Tilt axis angle = 85.3, bin]\n"
    sections = (f"\n[ZValue = {place}]\nTiltAngle = {tilt.angle}\nSubFramePath = D:\\{tilt.movie}\nDateTime = "
                f"{tilt.time:%d-%b-%Y  %H:%M:%S}\n" for place, tilt in enumerate(tilts(movies, count)))
    return (head + "".join(sections) + "\n").encode()


def read(name: str, count: int = COUNT, folder: str = "/data", stack: str = "TS_01.mrc", movies: str = "TS_01") -> MdocFacts:
    return read_mdoc(f"{folder}/{name}", text_of(count, stack, movies))


class TestNamesOfCopies(unittest.TestCase):
    def test_the_original_is_known_from_the_name(self) -> None:
        for name in COPIES:
            self.assertEqual(original_name(f"/data/{name}"), "TS_01", name)

    def test_the_states_of_one_file_are_no_copies(self) -> None:
        for name in ("TS_01.mrc.mdoc", "TS_01.mrc-half1.mdoc", "TS_01_unsorted.mrc.mdoc", "TS_01_override.mdoc", "copy.mdoc"):
            self.assertIsNone(original_name(name), name)

    def test_a_series_that_the_operator_named_like_a_copy_keeps_its_name(self) -> None:
        facts = read("lamella (2).mrc.mdoc", stack="lamella (2).mrc", movies="lamella (2)")
        self.assertEqual((facts.series_name, facts.copy), ("lamella (2)", False))

    def test_a_copy_bears_the_name_of_its_series(self) -> None:
        for name in COPIES:
            facts = read(name)
            self.assertEqual((facts.series_name, facts.copy), ("TS_01", True), name)
            self.assertFalse(names_itself(facts), name)
        self.assertTrue(names_itself(read("TS_01.mrc.mdoc")))

    def test_a_backup_of_a_backup_is_one(self) -> None:
        self.assertEqual([without_backup(f"/data/{name}") for name in ("TS_01.mrc.mdoc.bak~", "TS_01.mrc.mdoc.old.~2~", "~")],
                         ["TS_01.mrc.mdoc", "TS_01.mrc.mdoc", "~"])


class TestCopiesInASession(unittest.TestCase):
    """The files come in every order; there is one series TS_01, and every copy is named as such."""

    def play(self, *files: MdocFacts) -> Player:
        player = Player(expected_tilts=COUNT)
        for each in tilts("TS_01"):
            player.feed(MicrographReady(key(each), 1.0))
        for place, facts in enumerate(files):
            player.feed(MdocRead(facts, 10.0 + place))
        player.wait()
        return player

    def test_one_acquisition_is_one_series_whatever_came_first(self) -> None:
        original = read("TS_01.mrc.mdoc")
        for name in COPIES:
            for files in ((read(name), original), (original, read(name)), (read(name, 5), original), (original, read(name, 5))):
                player = self.play(*files)
                self.assertEqual([(each.series_id, len(each.tilts), each.version) for _, each in player.composed],
                                 [("TS_01", COUNT, 1)], name)
                self.assertEqual([(each.series_name, each.failed) for each in player.given_up], [(name, False)])
                self.assertIn("a copy of TS_01.mrc.mdoc", player.given_up[0].reason)

    def test_a_copy_alone_is_the_series(self) -> None:
        player = self.play(read("Copy of TS_01.mrc.mdoc"))
        self.assertEqual([each.series_id for _, each in player.composed], ["TS_01"])
        self.assertEqual(player.given_up, [])

    def test_the_same_file_in_two_folders_is_one_series(self) -> None:
        for count in (COUNT, 7):
            for files in ((read("TS_01.mrc.mdoc"), read("TS_01.mrc.mdoc", count, "/data/backup")),
                          (read("TS_01.mrc.mdoc", count, "/data/backup"), read("TS_01.mrc.mdoc"))):
                player = self.play(*files)
                self.assertEqual([len(each.tilts) for _, each in player.composed], [COUNT])
                self.assertEqual([each.failed for each in player.given_up], [False])
                self.assertIn("copy", player.given_up[0].reason)
                self.assertEqual({each.state for each in player.session.states()}, {"composed", "ignored"})

    def test_a_folder_that_is_mirrored_while_it_grows_splits_no_series(self) -> None:
        for late in (0, 1):
            player = Player(expected_tilts=COUNT)
            for count in range(1, COUNT + 1):
                for facts in (read("TS_01.mrc.mdoc", count), read("TS_01.mrc.mdoc", max(1, count - late), "/data/backup"))[::-1]:
                    player.feed(MdocRead(facts, 30.0 * count))
                player.feed(MicrographReady(key(tilts("TS_01")[count - 1]), 30.0 * count + 9.0))
            player.feed(MdocRead(read("TS_01.mrc.mdoc", COUNT, "/data/backup"), 30.0 * COUNT + 10.0))
            player.wait()
            self.assertEqual([len(each.tilts) for _, each in player.composed], [COUNT], late)
            self.assertEqual({each.failed for each in player.given_up}, {False}, late)
            self.assertLessEqual(len(player.given_up), 2, late)     # each of the two was the one that lists more

    def test_a_copy_of_an_mdoc_that_names_no_movies_shares_those_of_its_original(self) -> None:
        bare = tuple(replace(each, movie=None) for each in tilts("Position_1"))
        for first in (0, 1):
            player = Player(expected_tilts=COUNT)
            paths = ["/data/Position_1.mdoc", "/mirror/Position_1.mdoc"]
            for k, each in enumerate(tilts("Position_1")):
                if k == 7:
                    player.feed(*(MdocRead(mdoc("Position_1", bare, path), 100.0) for path in (paths[first], paths[1 - first])))
                player.feed(MicrographReady(f"Position_1_{k + 1:03d}_{each.angle:.2f}", 100.0))
            player.wait()
            self.assertEqual([len(each.tilts) for _, each in player.composed], [COUNT], first)
            self.assertEqual([each.failed for each in player.given_up], [False], first)

    def test_a_copy_under_another_name_gives_way_to_the_original(self) -> None:
        player = self.play(read("the good one.mdoc", 9), read("TS_01.mrc.mdoc"))
        self.assertEqual([(each.series_id, len(each.tilts)) for _, each in player.composed], [("TS_01", COUNT)])
        self.assertIn("belongs to the series TS_01", player.given_up[0].reason)

    def test_a_file_with_the_name_of_a_copy_and_other_tilts_is_a_series_of_its_own(self) -> None:
        other = tuple(replace(each, movie=f"old_{each.movie}", time=each.time.replace(year=2025)) for each in tilts("TS_01"))
        player = self.play(read("TS_01.mrc.mdoc"), mdoc("TS_01", other, "/data/TS_01 (1).mrc.mdoc", copy=True))
        self.assertEqual([len(each.tilts) for _, each in player.composed], [COUNT])
        self.assertEqual({each.series_name for each in player.session.states()}, {"TS_01", "TS_01 (1)"})

    def test_copies_of_an_acquisition_that_was_replaced_are_never_mixed_with_the_one_in_its_place(self) -> None:
        def in_camera_folder(which: tuple[Tilt, ...]) -> tuple[Tilt, ...]:
            return tuple(replace(each, movie_folder="X:\\session") for each in which)

        first = in_camera_folder(tilts("TS_01"))
        second = in_camera_folder(tuple(replace(each, movie=f"TS_01_{each.order + 50:03d}_{each.angle:.1f}.tif")
                                        for each in tilts("TS_01", begin=3000.0)))
        files = [mdoc("TS_01", second), mdoc("TS_01", first[:7], "/data/copy_of_TS_01.mrc.mdoc", copy=True),
                 mdoc("TS_01", first[:10], "/data/TS_01.mrc (1).mdoc", copy=True)]
        for order in permutations(files):
            player = Player(expected_tilts=COUNT)
            player.feed(*(MicrographReady(key(each), 1.0) for each in (*first, *second)))
            player.feed(*(MdocRead(facts, 10.0 + place) for place, facts in enumerate(order)))
            player.wait()
            self.assertEqual([{str(tilt.movie) for tilt in each.tilts} for _, each in player.composed],
                             [{str(each.movie) for each in second}])
            self.assertEqual({path for each in player.given_up for path in each.mdocs}, {each.path for each in files[1:]})
            self.assertIn("before the series was acquired again", player.given_up[0].reason)

    def test_a_copy_delays_nothing(self) -> None:
        plain, copied = Player(expected_tilts=COUNT), Player(expected_tilts=COUNT)
        for player in (plain, copied):
            player.feed(MdocRead(mdoc("TS_01", tilts("TS_01", 7)), 10.0))
        half = mdoc("TS_01", tilts("TS_01", 7), "/data/TS_01 - Copy.mdoc", copy=True, last_section_open=True)
        copied.feed(MdocRead(half, 11.0))
        for player in (plain, copied):
            for each in tilts("TS_01"):
                player.feed(MicrographReady(key(each), 12.0))
            player.feed(MdocRead(mdoc("TS_01", tilts("TS_01")), 20.0))
            player.wait()
        self.assertEqual([time for time, _ in plain.composed], [time for time, _ in copied.composed])


class TestWhatIsNoSeries(unittest.TestCase):
    def test_never_counts_as_unfinished(self) -> None:
        player = Player()
        for place, (kind, reason) in enumerate((("montage", "It is a montage, not a tilt series."),
                                                ("image", "It describes one image without a movie."))):
            facts = MdocFacts(f"/data/map{place}.mdoc", kind, reason, series_name=f"map{place}")
            made = player.feed(MdocRead(facts, 1.0 + place))
            self.assertEqual([(type(each), each.reason, each.failed) for each in made], [(GiveUp, reason, False)])
            self.assertEqual([each.state for each in player.session.changed_states()], ["ignored"])

    def test_is_not_acquiring_in_the_status_though_its_state_is_reported_after_its_reason(self) -> None:
        with tempfile.TemporaryDirectory() as project:
            for number, name in ((2, "ProtTomoStreamImportMovies"), (66, "ProtTomoStreamMotionCor"),
                                 (128, "ProtTomoStreamComposeTS")):
                os.makedirs(os.path.join(project, "Runs", f"{number:06d}_{name}", "extra"))
            path = ledger.path_in(os.path.join(project, "Runs", "000128_ProtTomoStreamComposeTS"))
            written = ledger.Ledger(path)
            written.write(entries.Series("LMM", "1 tilt so far.", name="LMM", state="acquiring", seen=1))
            written.write(entries.NotASeries("LMM", "It is a montage, not a tilt series.", name="LMM"))
            written.write(entries.Series("LMM", "It is a montage, not a tilt series.", name="LMM", state="ignored"))
            status = ProjectStatus(project)
            status.update()
        self.assertEqual(status.series, {})
        self.assertEqual(status.not_series, {"LMM": "It is a montage, not a tilt series."})


if __name__ == "__main__":
    unittest.main()
