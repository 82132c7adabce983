# SPDX-License-Identifier: GPL-3.0-or-later
"""When is which tilt series complete? One test a rule and a case, then a session at random held against an own model."""

from __future__ import annotations

import math
import unittest
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tomostream.acquisition.events import (
    Compose,
    Decision,
    EndSession,
    Event,
    Excluded,
    GiveUp,
    InputClosed,
    Keep,
    Late,
    MdocGone,
    MdocRead,
    MicrographReady,
    MovieFailed,
    MovieSeen,
    OtherReaders,
    Policy,
    ProducerState,
    Restored,
    SeriesState,
    Stop,
    Tick,
)
from tomostream.acquisition.evidence import RULES, Evidence, Production
from tomostream.acquisition.facts import Known, MdocFacts, Origin, Tilt
from tomostream.acquisition.frames import Targets
from tomostream.acquisition.mdoc import read_mdoc
from tomostream.acquisition.naming import parse_movie_name
from tomostream.acquisition.preview import SHARE, is_due
from tomostream.acquisition.rhythm import Rhythm
from tomostream.acquisition.schemes import Schemes
from tomostream.acquisition.series import Exposure, Series
from tomostream.acquisition.session import Session

BEGIN = datetime(2026, 3, 1, 12, 0, 0)
AXIS = Known(85.3, "title")
GAP = 30.0
DOSE_SYMMETRIC = tuple(angle for k in range(11) for angle in ((3.0 * k, -3.0 * k) if k else (0.0,)))
COUNT = len(DOSE_SYMMETRIC)


def tilt(series: str, index: int, angle: float | None = None, at: float | None = None, movie: str | None = None) -> Tilt:
    """Return the `index`-th tilt of a series; `at` in seconds after the start of the day."""
    angle = DOSE_SYMMETRIC[index] if angle is None else angle
    time = BEGIN + timedelta(seconds=GAP * index if at is None else at)
    return Tilt(movie or f"{series}_{index:03d}_{angle:.1f}.tif", angle, index + 1, time, Known(3.0, "field ExposureDose"))


def tilts(series: str, count: int = COUNT, begin: float = 0.0, gap: float = GAP,
          angles: tuple[float, ...] = DOSE_SYMMETRIC) -> tuple[Tilt, ...]:
    return tuple(tilt(series, k, angles[k], begin + gap * k) for k in range(count))


def mdoc(series: str, which: tuple[Tilt, ...], path: str = "", **other: object) -> MdocFacts:
    facts = MdocFacts(path or f"/data/{series}.mrc.mdoc", "tilt-series", series_name=series, tilts=which, tilt_axis=AXIS)
    return replace(facts, **other)


def key(of: Tilt) -> str:
    return str(of.movie).removesuffix(".tif")


class Player:
    """Feeds a session, wakes it at its deadlines, and keeps what it decided, with the times."""

    def __init__(self, **policy: object) -> None:
        self.session = Session(Policy(**policy))
        self.decided: list[tuple[float, Decision]] = []

    def feed(self, *events: Event) -> list[Decision]:
        """Feed events in order, with the ticks between them. Return what was decided."""
        before = len(self.decided)
        for event in events:
            self.wait(event.time)
            self.decided += [(event.time, each) for each in self.session.handle(event)]
        return [each for _, each in self.decided[before:]]

    def wait(self, until: float = float("inf")) -> None:
        """Let time pass, as far as the session asks to be woken."""
        for _ in range(100_000):
            due = self.session.next_deadline()
            if due is None or due >= until:
                return
            self.decided += [(due, each) for each in self.session.handle(Tick(due))]
        raise AssertionError("the session asks to be woken for ever")

    def acquire(self, series: str, which: tuple[Tilt, ...], begin: float = 0.0, lost: Iterable[int] = (),
                delay: float = 10.0, gap: float = GAP) -> float:
        """Acquire a series: the mdoc grows by a tilt every `gap` s, each micrograph comes `delay` s after its tilt."""
        events: list[Event] = []
        for k, each in enumerate(which):
            events.append(MdocRead(mdoc(series, which[: k + 1]), begin + gap * k))
            if k not in set(lost):
                events.append(MicrographReady(key(each), begin + gap * k + delay))
        self.feed(*sorted(events, key=lambda event: event.time))
        return begin + gap * (len(which) - 1)

    def of(self, kind: type) -> list[tuple[float, Decision]]:
        return [(time, each) for time, each in self.decided if isinstance(each, kind)]

    @property
    def composed(self) -> list[tuple[float, Compose]]:
        return [(time, each) for time, each in self.decided if isinstance(each, Compose)]

    @property
    def given_up(self) -> list[GiveUp]:
        return [each for _, each in self.decided if isinstance(each, GiveUp)]

    def state(self, series: str) -> SeriesState:
        return next(each for each in self.session.states() if each.series_name == series)


class TestCompleteness(unittest.TestCase):
    """The rules that say that a series is over."""

    def test_with_the_number_known_it_is_decided_the_moment_its_last_micrograph_is_there(self) -> None:
        player = Player(expected_tilts=COUNT)
        last = player.acquire("X", tilts("X"))
        self.assertEqual([time for time, _ in player.composed], [last + 10.0])
        decision = player.composed[0][1]
        self.assertEqual(len(decision.tilts), COUNT)
        self.assertEqual(decision.left_out, ())
        self.assertIn(f"all {COUNT} tilts that were expected", decision.reason)

    def test_tilts_are_composed_by_angle_and_keep_their_acquisition_order(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.acquire("X", tilts("X"))
        made = player.composed[0][1].tilts
        self.assertEqual([each.angle for each in made], sorted(DOSE_SYMMETRIC))
        self.assertEqual({each.movie: each.order for each in made}, {each.movie: each.order for each in tilts("X")})

    def test_with_the_number_unknown_it_is_decided_by_its_own_rhythm(self) -> None:
        player = Player()
        last = player.acquire("X", tilts("X"))
        player.wait()
        time, decision = player.composed[0]
        self.assertLess(time - last, 1.5 * GAP)
        self.assertIn("largest gap", decision.reason)

    def test_a_slow_series_is_not_cut_by_a_rhythm_faster_than_its_own(self) -> None:
        player = Player()
        player.acquire("X", tilts("X", gap=100.0), gap=100.0)
        self.assertEqual(player.composed, [])

    def test_the_time_for_the_next_tilt_is_the_upper_bound(self) -> None:
        player = Player(time_for_next_tilt=50.0)
        last = player.acquire("X", tilts("X", 5, gap=45.0), gap=45.0)
        player.wait()
        self.assertEqual(player.composed[0][0], last + 50.0)

    def test_rhythm_alone_does_not_end_a_series_with_one_end_of_the_range_to_come(self) -> None:
        player = Player()
        half = tuple(3.0 * k for k in range(12))
        last = player.acquire("X", tilts("X", 12, angles=half))
        player.wait()
        self.assertEqual(player.composed[0][0], last + 180.0)

    def test_rhythm_alone_does_not_end_a_series_that_has_fewer_tilts_than_expected(self) -> None:
        player = Player(expected_tilts=COUNT)
        last = player.acquire("X", tilts("X", COUNT - 4))
        player.wait()
        self.assertEqual(player.composed[0][0], last + 180.0)

    def test_the_third_series_of_a_scheme_is_decided_at_once(self) -> None:
        player = Player()
        for k, name in enumerate("ABC"):
            last = player.acquire(name, tilts(name, begin=2000.0 * k), begin=2000.0 * k)
        self.assertEqual(player.composed[-1][1].series_name, "C")
        self.assertEqual(player.composed[-1][0], last + 10.0)
        self.assertIn("2 complete series", player.composed[-1][1].reason)

    def test_what_the_end_of_the_session_cut_is_no_scheme(self) -> None:
        player = Player(time_for_next_tilt=3000.0, time_for_next_series=200.0)
        half = tuple(3.0 * k for k in range(12))        # one end of the range is to come: nothing says that it is over
        for name in "AB":
            player.acquire(name, tilts(name, 12, angles=half))
        player.wait()
        self.assertEqual([type(each) for _, each in player.decided], [Compose, Compose, EndSession])
        last = player.acquire("C", tilts("C", 12, begin=2000.0, angles=half), begin=2000.0)
        player.wait(last + 150.0)
        self.assertEqual([each.series_name for _, each in player.composed], ["A", "B"])

    def test_interleaved_series_do_not_confirm_each_other_s_scheme(self) -> None:
        player = Player()
        self._interleave(player, "ABC", COUNT - 6)
        player.wait(5000.0)
        last = player.acquire("D", tilts("D", COUNT - 6, begin=5000.0), begin=5000.0)
        self.assertEqual([each.series_name for time, each in player.composed if time <= last + 10.0], ["A", "B", "C"])

    def test_a_short_scheme_ends_no_series_of_a_longer_one_that_goes_on_from_there(self) -> None:
        short, schemes = (0.0, 3.0, -3.0, 6.0, -6.0), Schemes()
        for name in ("a", "b"):
            schemes.learn(name, short, ())
        self.assertEqual(schemes.complete(short).seen, ["a", "b"])
        for name in ("c", "d"):
            schemes.learn(name, (*short, 9.0, -9.0), ())
        self.assertIsNone(schemes.complete(short))
        self.assertEqual(schemes.complete((*short, 9.0, -9.0)).seen, ["c", "d"])
        self.assertEqual([schemes.expected(angles) for angles in (short, (*short, 9.0), (*short, 12.0))], [5, 7, None])

    def test_a_preview_needs_its_share_of_the_tilts_and_eight_of_them(self) -> None:
        for aligned, expected, due in ((7, 10, False), (8, 10, True), (8, 14, False), (9, 14, True), (8, None, False)):
            state = SeriesState("A", "A", "acquiring", "", aligned, aligned, 0, expected, 0)
            self.assertEqual(is_due(state), due, f"{aligned} of {expected}")

    def test_a_learned_number_of_tilts_is_reported_and_makes_a_preview_due(self) -> None:
        player = Player()
        for begin, series in enumerate(("A", "B")):
            player.acquire(series, tilts(series, begin=5000.0 * begin), 5000.0 * begin)
            player.wait(5000.0 * (begin + 1))
        due = math.ceil(SHARE * COUNT)
        player.acquire("C", tilts("C", due - 1, begin=10_000.0), 10_000.0)
        self.assertEqual((player.state("C").tilts_expected, is_due(player.state("C"))), (COUNT, False))
        last = tilt("C", due - 1, at=10_000.0 + GAP * (due - 1))
        player.feed(MdocRead(mdoc("C", (*tilts("C", due - 1, begin=10_000.0), last)), 10_000.0 + GAP * (due - 1)),
                    MicrographReady(key(last), 10_000.0 + GAP * (due - 1) + 10.0))
        self.assertTrue(is_due(player.state("C")))
        player = Player(rules_off=frozenset({"learned"}))
        self.assertEqual([player.acquire("A", tilts("A")) and player.state("A").tilts_expected], [None])

    def test_what_was_learned_never_cuts_a_series_that_has_more(self) -> None:
        player = Player()
        for k, name in enumerate("ABC"):
            player.acquire(name, tilts(name, 15, begin=2000.0 * k), begin=2000.0 * k)
        player.acquire("D", tilts("D", begin=8000.0), begin=8000.0)
        player.wait()
        self.assertEqual(len(player.composed[-1][1].tilts), COUNT)
        self.assertLessEqual(len([each for _, each in player.composed if each.series_name == "D"]), 2)

    def test_interleaved_targets_are_not_decided_between_their_turns(self) -> None:
        player = Player()
        self._interleave(player, [f"T{k:02d}" for k in range(20)], COUNT, delay=5.0)
        self.assertEqual(player.decided, [])
        player.wait()
        self.assertEqual(len(player.composed), 20)
        for _, each in player.composed:
            self.assertEqual(len(each.tilts), COUNT)
            self.assertTrue(all(str(one.movie).startswith(each.series_name) for one in each.tilts))

    def _interleave(self, player: Player, names: Iterable[str], count: int, delay: float = 10.0,
                    dropped: dict[str, int] | None = None) -> float:
        names, time, events = list(names), 0.0, []
        grown: dict[str, tuple[Tilt, ...]] = {name: () for name in names}
        for k in range(count):
            for name in names:
                if k < (dropped or {}).get(name, count):
                    time += GAP
                    grown[name] += (tilt(name, k, at=time),)
                    events += [MdocRead(mdoc(name, grown[name]), time), MicrographReady(key(grown[name][-1]), time + delay)]
        player.feed(*sorted(events, key=lambda event: event.time))
        return time

    def test_a_target_that_the_others_leave_behind_is_decided_before_they_are_done(self) -> None:
        player = Player(expected_tilts=COUNT)
        self._interleave(player, "ABCDEF", COUNT, dropped={"C": 8})
        first = player.composed[0]
        self.assertEqual((first[1].series_name, len(first[1].tilts)), ("C", 8))
        self.assertLess(first[0], 8 * 6 * GAP + 4 * 6 * GAP)

    def test_a_successor_ends_an_aborted_series(self) -> None:
        player = Player(time_for_next_tilt=1000.0)
        player.acquire("X", tilts("X", 4))
        player.acquire("Y", tilts("Y", 3, begin=300.0), begin=300.0)
        self.assertEqual([each.series_name for _, each in player.composed], ["X"])
        self.assertIn("Y", player.composed[0][1].reason)

    def test_a_neighbour_that_is_one_tilt_ahead_is_no_successor(self) -> None:
        player = Player(time_for_next_tilt=1000.0)
        player.feed(MdocRead(mdoc("A", tilts("A", 1)), 0.0), MdocRead(mdoc("B", tilts("B", 2, begin=60.0)), 90.0))
        player.wait(800.0)
        self.assertEqual(player.decided, [])

    def test_the_next_target_of_a_round_is_no_successor(self) -> None:
        player = Player(time_for_next_tilt=1000.0)
        for k, name in enumerate("ABCDEFGH"):
            player.feed(MdocRead(mdoc(name, tilts(name, 1, begin=60.0 * k)), 60.0 * k))
        self.assertEqual(player.decided, [])

    def test_a_file_that_appears_whole_is_decided_soon_after(self) -> None:
        player = Player()
        player.feed(*(MicrographReady(key(each), 30.0 * k) for k, each in enumerate(tilts("X"))),
                    MdocRead(mdoc("X", tilts("X"), dialect="Tomo5"), 700.0))
        player.wait(800.0)
        self.assertEqual([time for time, _ in player.composed], [710.0])

    def test_a_file_caught_half_written_is_not_complete(self) -> None:
        player = Player(expected_tilts=COUNT - 1)
        which = tilts("X")
        for k in range(COUNT - 1):
            player.feed(MicrographReady(key(which[k]), 1.0 * k))
        player.feed(MdocRead(mdoc("X", which[:-1], last_section_open=True), 700.0))
        self.assertEqual(player.composed, [])

    def test_a_section_that_lacks_only_its_end_counts_once_the_file_is_still_beyond_doubt(self) -> None:
        player = Player()
        which = tilts("X")
        player.feed(*(MicrographReady(key(each), 1.0 * k) for k, each in enumerate(which)),
                    MdocRead(mdoc("X", which[:-1], last_section_open=True, tilts_if_ended=which), 700.0))
        player.wait(900.0)
        self.assertEqual([(time, len(each.tilts)) for time, each in player.composed], [(880.0, COUNT)])

    def test_every_rule_can_be_switched_off_and_no_other(self) -> None:
        for name in RULES:
            player = Player(rules_off=frozenset({name}))
            player.acquire("X", tilts("X"))
            player.wait()
            self.assertEqual(len(player.composed[-1][1].tilts), COUNT, name)
        with self.assertRaisesRegex(ValueError, "There is no rule nonsense"):
            Session(Policy(rules_off=frozenset({"nonsense"})))

    def test_the_clock_of_the_file_server_does_not_matter(self) -> None:
        moments = []
        for skew in (-300.0, 0.0, 300.0):
            player = Player()
            player.acquire("X", tilts("X", begin=skew))
            player.wait()
            moments.append([time for time, _ in player.composed])
        self.assertEqual(moments[0], moments[1])
        self.assertEqual(moments[2], moments[1])


class TestMicrographs(unittest.TestCase):
    """Movies that are lost, late or failed, and the producer of their micrographs."""

    def test_a_series_with_a_lost_movie_is_composed_without_it_by_its_own_deadline_and_says_which(self) -> None:
        player = Player(expected_tilts=COUNT, time_for_next_series=1e6)
        last = player.acquire("X", tilts("X"), lost=[4])
        player.wait(last + 1000.0)
        time, decision = player.composed[0]
        self.assertEqual(time, last + 10.0 + 180.0)
        self.assertEqual([left.tilt.movie for left in decision.left_out], [tilts("X")[4].movie])
        self.assertIn("did not come", decision.left_out[0].reason)

    def test_a_failed_alignment_is_not_waited_for_and_its_reason_is_reported(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.feed(MovieFailed(key(tilts("X")[4]), "MotionCor ran out of memory twice", 1.0))
        last = player.acquire("X", tilts("X"), lost=[4])
        self.assertEqual(player.composed[0][0], last + 10.0)
        self.assertEqual([left.reason for left in player.composed[0][1].left_out], ["MotionCor ran out of memory twice."])

    def test_a_micrograph_after_a_failure_makes_the_series_whole(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.feed(MovieFailed(key(tilts("X")[4]), "out of memory", 1.0))
        last = player.acquire("X", tilts("X"), lost=[4])
        made = player.feed(MicrographReady(key(tilts("X")[4]), last + 500.0))
        self.assertEqual([(each.version, len(each.tilts), each.left_out) for each in made], [(2, COUNT, ())])
        self.assertIn("arrived late", made[0].reason)

    def test_a_series_that_others_work_on_stays_as_it_is_when_a_tilt_comes_late_and_this_is_reported_once(self) -> None:
        player = Player(expected_tilts=COUNT, time_for_next_series=1e6)
        which = tilts("X")
        last = player.acquire("X", which, lost=[4, 5])
        player.wait(last + 1000.0)
        player.feed(OtherReaders(("imod - preprocess",), last + 1000.0))
        made = player.feed(MicrographReady(key(which[4]), last + 1010.0), MdocRead(mdoc("X", which), last + 1011.0),
                           MicrographReady(key(which[4]), last + 1012.0))
        self.assertEqual([(type(each), each.movies) for each in made], [(Keep, (key(which[4]),))])
        self.assertIn("imod - preprocess would mix two versions", made[0].reason)
        self.assertEqual((player.state("X").state, player.state("X").version), ("composed", 1))
        again = player.feed(MicrographReady(key(which[5]), last + 1020.0))
        self.assertEqual([each.movies for each in again], [tuple(sorted(map(key, which[4:6])))])

    def test_what_a_person_chose_composes_a_series_again_that_others_work_on_with_what_came_late(self) -> None:
        player = Player(expected_tilts=COUNT, time_for_next_series=1e6)
        which = tilts("X")
        last = player.acquire("X", which, lost=[4])
        player.wait(last + 1000.0)
        player.feed(OtherReaders(("imod - preprocess",), last + 1000.0), MicrographReady(key(which[4]), last + 1010.0),
                    Excluded("X", {key(which[7]): "dark"}, last + 1020.0))
        player.feed(Excluded("X", {}, last + 1030.0))
        self.assertEqual([(each.version, len(each.tilts)) for _, each in player.composed],
                         [(1, COUNT - 1), (2, COUNT - 1), (3, COUNT)])

    def test_late_tilts_compose_again_although_others_read_or_never_as_the_form_says(self) -> None:
        for late, readers, versions in ((Late.AGAIN, ("imod",), [1, 2]), (Late.NEVER, (), [1]), (Late.UNLESS_READ, (), [1, 2])):
            player = Player(expected_tilts=COUNT, time_for_next_series=1e6, late=late)
            last = player.acquire("X", tilts("X"), lost=[4])
            player.wait(last + 1000.0)
            player.feed(OtherReaders(readers, last + 1000.0), MicrographReady(key(tilts("X")[4]), last + 1010.0))
            self.assertEqual(([each.version for _, each in player.composed], len(player.of(Keep))), (versions, len(versions) % 2))

    def test_a_queue_of_movies_is_not_taken_for_lost_ones(self) -> None:
        player = Player(expected_tilts=COUNT)
        which = tilts("X")
        player.feed(*(MdocRead(mdoc("X", which[: k + 1]), GAP * k) for k in range(COUNT)))
        player.feed(*(MicrographReady(key(each), 120.0 * (k + 1)) for k, each in enumerate(which)))
        self.assertEqual([(time, each.version, len(each.tilts)) for time, each in player.composed],
                         [(120.0 * COUNT, 1, COUNT)])

    def test_a_series_whose_turn_has_not_come_is_waited_for_while_the_producer_is_at_others(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.feed(MdocRead(mdoc("W", tilts("W")), 1.0), MdocRead(mdoc("X", tilts("X", begin=2000.0)), 2.0))
        queue = [*tilts("W"), *tilts("X")]
        player.feed(*(MicrographReady(key(each), 100.0 * (k + 1)) for k, each in enumerate(queue)))
        self.assertEqual([(each.series_name, each.version, len(each.tilts)) for _, each in player.composed],
                         [("W", 1, COUNT), ("X", 1, COUNT)])
        self.assertEqual(player.given_up, [])

    def test_while_the_producer_is_dead_nothing_is_decided_about_missing_micrographs(self) -> None:
        player = Player(expected_tilts=COUNT)
        last = player.acquire("X", tilts("X", COUNT - 1))
        player.feed(ProducerState(False, "it was killed", last + 5.0), MdocRead(mdoc("X", tilts("X")), last + 30.0))
        player.wait(last + 90_000.0)
        self.assertEqual(player.decided, [])
        self.assertIn("the producer is not running (it was killed)", player.state("X").reason)
        player.feed(ProducerState(True, "", last + 90_000.0), MicrographReady(key(tilts("X")[-1]), last + 90_030.0))
        self.assertEqual([len(each.tilts) for _, each in player.composed], [COUNT])

    def test_a_series_with_all_its_micrographs_does_not_need_the_producer(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.feed(ProducerState(False, "killed", 0.0))
        player.acquire("X", tilts("X"))
        self.assertEqual(len(player.composed), 1)

    def test_a_replaced_micrograph_recomposes_the_series_once_for_all_that_are_replaced(self) -> None:
        player = Player(expected_tilts=COUNT, time_for_next_series=1e6)
        last = player.acquire("X", tilts("X"))
        player.feed(*(MicrographReady(key(each), last + 500.0 + 20.0 * k, 2) for k, each in enumerate(tilts("X")[:6])))
        player.wait(last + 5000.0)
        again = player.composed[1:]
        self.assertEqual([each.version for _, each in again], [2])
        self.assertEqual(sorted(again[0][1].micrograph_versions), [1] * (COUNT - 6) + [2] * 6)

    def test_a_micrograph_reported_twice_changes_nothing(self) -> None:
        player = Player(expected_tilts=COUNT)
        last = player.acquire("X", tilts("X"))
        self.assertEqual(player.feed(*(MicrographReady(key(each), last + 60.0) for each in tilts("X"))), [])

    def test_movies_that_no_mdoc_lists_are_named_and_harm_nothing(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.feed(MicrographReady("search_map_001", 1.0), MovieSeen("another", 2.0))
        player.acquire("X", tilts("X"))
        loose = player.session.unassigned()
        self.assertEqual(set(loose), {"search_map_001", "another"})
        self.assertFalse(any(each.expected for each in loose.values()))
        self.assertEqual(set(player.session.unassigned(still=1e6)), set())
        self.assertEqual(len(player.composed), 1)

    def test_too_few_tilts_are_given_up_once_and_revived_by_a_late_one(self) -> None:
        player = Player(min_tilts=5)
        last = player.acquire("X", tilts("X", 4))
        player.wait(last + 400.0)
        self.assertEqual([each.reason for each in player.given_up], ["It has 4 tilts, and 5 are required."])
        player.feed(MdocRead(mdoc("X", tilts("X", 5)), last + 400.0), MicrographReady(key(tilts("X")[4]), last + 410.0))
        player.wait(last + 1000.0)
        self.assertEqual([(each.version, len(each.tilts)) for _, each in player.composed], [(1, 5)])
        self.assertEqual(len(player.given_up), 1)

    def test_too_small_a_part_is_given_up_with_the_reasons(self) -> None:
        player = Player(expected_tilts=COUNT, min_percent=95.0)
        player.feed(*(MovieFailed(key(each), "the movie is truncated", 1.0) for each in tilts("X")[:4]))
        player.acquire("X", tilts("X"), lost=[0, 1, 2, 3])
        self.assertEqual(len(player.given_up), 1)
        self.assertIn("95 % are required: the movie is truncated (4 tilts)", player.given_up[0].reason)


class TestFiles(unittest.TestCase):
    """Files that lie: renamed, shrunk, repeated, garbage, none of a series."""

    def test_the_half1_rename_keeps_one_series(self) -> None:
        player = Player(expected_tilts=13)
        angles = (0.0, *(3.0 * k for k in range(1, 7)), *(-3.0 * k for k in range(1, 7)))
        which = tilts("X", 13, angles=angles)
        player.feed(*(MicrographReady(key(each), 1.0 + k) for k, each in enumerate(which)))
        for k in range(7):
            player.feed(MdocRead(mdoc("X", which[: k + 1]), 20.0 + GAP * k))
        player.feed(MdocGone("/data/X.mrc.mdoc", 250.0),
                    MdocRead(mdoc("X", which[:7], path="/data/X.mrc-half1.mdoc"), 250.1),
                    MdocRead(mdoc("X", which[5:7], last_section_open=True), 250.2))
        for k in range(7, 13):
            player.feed(MdocRead(mdoc("X", which[: k + 1]), 300.0 + GAP * (k - 7)))
        self.assertEqual([each.series_id for _, each in player.composed], ["X"])
        self.assertEqual({each.movie for each in player.composed[0][1].tilts}, {each.movie for each in which})

    def test_shrinking_deletes_nothing(self) -> None:
        player = Player(expected_tilts=COUNT)
        which = tilts("X")
        player.feed(MdocRead(mdoc("X", which[:-1]), 0.0), MdocRead(mdoc("X", which[:3]), 10.0),
                    MdocRead(mdoc("X", (*which[:3], which[-1])), 20.0),
                    *(MicrographReady(key(each), 30.0) for each in which))
        self.assertEqual([len(each.tilts) for _, each in player.composed], [COUNT])

    def test_a_removed_mdoc_is_no_reason_to_forget_or_to_wait(self) -> None:
        player = Player()
        last = player.acquire("X", tilts("X"))
        player.feed(MdocGone("/data/X.mrc.mdoc", last + 11.0))
        player.wait()
        self.assertEqual([len(each.tilts) for _, each in player.composed], [COUNT])

    def test_a_repeated_exposure_replaces_the_old_one(self) -> None:
        player = Player(expected_tilts=COUNT)
        which = tilts("X")
        again = tilt("X", 99, which[5].angle, GAP * 5 + 20.0)
        player.feed(MdocRead(mdoc("X", which[:6]), 200.0), MdocRead(mdoc("X", (*which[:5], again)), 220.0),
                    MdocRead(mdoc("X", (*which[:5], again, *which[6:])), 800.0),
                    *(MicrographReady(key(each), 900.0) for each in (*which, again)))
        made = {each.movie for each in player.composed[0][1].tilts}
        self.assertIn(again.movie, made)
        self.assertNotIn(which[5].movie, made)
        self.assertTrue(player.session.unassigned()[key(which[5])].expected)
        self.assertTrue(any("exposed again" in text for text in player.composed[0][1].warnings))

    def test_a_repeat_of_a_composed_exposure_recomposes(self) -> None:
        player = Player(expected_tilts=COUNT)
        last = player.acquire("X", tilts("X"))
        again = tilt("X", 99, DOSE_SYMMETRIC[-1], last + 40.0)
        made = player.feed(MdocRead(mdoc("X", (*tilts("X")[:-1], again)), last + 41.0),
                           MicrographReady(key(again), last + 50.0))
        self.assertEqual([(each.version, len(each.tilts)) for each in made], [(2, COUNT)])
        self.assertNotIn(tilts("X")[-1].movie, {each.movie for each in made[0].tilts})

    def test_two_listed_exposures_at_one_angle_are_both_used(self) -> None:
        player = Player(expected_tilts=COUNT + 1)
        which = (tilt("X", 50, 0.0, -30.0), *tilts("X"))
        player.acquire("X", which)
        self.assertEqual(len(player.composed[0][1].tilts), COUNT + 1)

    def test_the_dose_of_a_repeated_exposure_is_in_what_the_specimen_received(self) -> None:
        player = Player(expected_tilts=3)
        def after(dose: float) -> Known[float]:
            return Known(dose, "running sum", Origin.SUMMED)

        summed = [replace(each, prior_dose=after(3.0 * k)) for k, each in enumerate(tilts("X", 3))]
        again = replace(tilt("X", 99, summed[1].angle, GAP + 10.0), prior_dose=after(3.0))
        player.feed(MdocRead(mdoc("X", tuple(summed[:2])), 1.0), MdocRead(mdoc("X", (summed[0], again)), 2.0),
                    MdocRead(mdoc("X", (summed[0], again, replace(summed[2], prior_dose=after(6.0)))), 3.0),
                    *(MicrographReady(key(each), 4.0) for each in (*summed, again)))
        doses = {each.movie: each.prior_dose.value for each in player.composed[0][1].tilts}
        self.assertEqual(doses, {summed[0].movie: 0.0, again.movie: 6.0, summed[2].movie: 9.0})

    def test_a_late_tilt_recomposes_with_the_next_version(self) -> None:
        player = Player()
        last = player.acquire("X", tilts("X", COUNT - 2))
        player.wait(last + 400.0)
        player.feed(MdocRead(mdoc("X", tilts("X")), last + 400.0),
                    *(MicrographReady(key(each), last + 410.0) for each in tilts("X")[-2:]))
        player.wait()
        self.assertEqual([(each.version, len(each.tilts)) for _, each in player.composed], [(1, COUNT - 2), (2, COUNT)])
        self.assertIn("arrived after it was decided", player.composed[1][1].reason)

    def test_a_late_tilt_that_cannot_be_aligned_composes_nothing_twice(self) -> None:
        player = Player()
        last = player.acquire("X", tilts("X", COUNT - 1))
        player.wait(last + 400.0)
        player.feed(MdocRead(mdoc("X", tilts("X")), last + 400.0), MovieFailed(key(tilts("X")[-1]), "broken", last + 405.0))
        player.wait()
        self.assertEqual(len(player.composed), 1)

    def test_a_name_used_again_in_the_same_folder_gives_a_new_version_of_the_new_exposures_only(self) -> None:
        player = Player()
        player.acquire("X", tilts("X"))
        new = tuple(replace(each, movie=f"again_{each.movie}") for each in tilts("X", begin=5000.0))
        for k, each in enumerate(new):
            player.feed(MdocRead(mdoc("X", new[: k + 1]), 2000.0 + GAP * k), MicrographReady(key(each), 2010.0 + GAP * k))
        player.wait()
        self.assertEqual([each.version for _, each in player.composed], [1, 2])
        self.assertEqual({each.movie for each in player.composed[1][1].tilts}, {each.movie for each in new})
        self.assertTrue(any("started over" in text for text in player.composed[1][1].warnings))

    def test_movies_overwritten_under_the_same_names_wait_for_their_own_micrographs(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.acquire("X", tilts("X"))
        new = tilts("X", begin=5000.0)
        player.feed(MdocRead(mdoc("X", new), 2000.0))
        self.assertEqual(len(player.composed), 1)
        player.feed(*(MicrographReady(key(each), 2001.0, 2) for each in new))
        self.assertEqual([(each.version, set(each.micrograph_versions)) for _, each in player.composed],
                         [(1, {1}), (2, {2})])

    def test_a_second_acquisition_that_comes_to_nothing_is_reported_and_the_first_stays(self) -> None:
        player = Player(time_for_next_series=1e6)
        last = player.acquire("X", tilts("X"))
        again = replace(tilt("X", 0, at=5000.0), movie="again.tif")
        player.feed(MdocRead(mdoc("X", (again,)), last + 900.0))
        player.wait(last + 2000.0)
        self.assertEqual([type(each) for _, each in player.decided], [Compose, GiveUp])
        self.assertIn("Version 1 stays", player.given_up[0].reason)

    def test_what_a_later_reading_says_of_a_tilt_counts(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.feed(MdocRead(mdoc("X", tilts("X")), 1.0))
        better = tuple(replace(each, prior_dose=Known(3.0 * k, "field PriorRecordDose")) for k, each in
                       enumerate(tilts("X")))
        player.feed(MdocRead(mdoc("X", better), 2.0), *(MicrographReady(key(each), 3.0) for each in better))
        self.assertEqual(max(each.prior_dose.value for each in player.composed[0][1].tilts), 3.0 * (COUNT - 1))

    def test_a_name_used_again_in_another_folder_is_distinguished(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.acquire("X", tilts("X"))
        new = tuple(replace(each, movie=f"again_{each.movie}") for each in tilts("X", begin=5000.0))
        player.feed(MdocRead(mdoc("X", new, path="/other/X.mrc.mdoc"), 2000.0),
                    *(MicrographReady(key(each), 2001.0) for each in new))
        self.assertEqual(len({each.series_id for _, each in player.composed}), 2)
        self.assertEqual([each.series_name for _, each in player.composed], ["X", "X"])

    def frame(self, each: Tilt, ending: str = "\n") -> MdocFacts:
        """The frame mdoc of a tilt of X, as SerialEM writes it."""
        text = (f"T = SerialEM: x\nVoltage = 300\n\n[FrameSet = 0]\nTiltAngle = {each.angle}\nRotationAngle = 174.2\n"
                f"PriorRecordDose = {3.0 * each.order}\nSubFramePath = D:\\{each.movie}\n"
                f"DateTime = {each.time:%d-%b-%Y  %H:%M:%S}{ending}")
        return read_mdoc(f"/data/{each.movie}.mdoc", text.encode())

    def test_a_frame_mdoc_that_was_caught_half_written_belongs_to_its_series(self) -> None:
        player = Player(expected_tilts=COUNT)
        for k, each in enumerate(tilts("X")):
            half = replace(self.frame(each), kind="unreadable", reason="It is not finished.", tilts=(), frame_series="")
            player.feed(MdocRead(half, GAP * k), MdocRead(self.frame(each, "" if k % 2 else "\n"), GAP * k + 5.0),
                        MicrographReady(key(each), GAP * k + 9.0))
        player.wait()
        self.assertEqual([(each.series_id, len(each.tilts)) for _, each in player.composed], [("X", COUNT)])
        self.assertEqual(player.given_up, [])

    def test_frame_mdocs_found_in_any_order_make_one_series(self) -> None:
        player = Player(expected_tilts=COUNT)
        for k, each in enumerate(sorted(tilts("X"), key=lambda each: str(each.movie)[::-1])):
            player.feed(MdocRead(self.frame(each), 0.01 * k), MicrographReady(key(each), 1.0))
        player.wait()
        self.assertEqual([(each.series_id, len(each.tilts)) for _, each in player.composed], [("X", COUNT)])
        self.assertEqual(player.given_up, [])

    def test_a_file_of_all_frame_sets_makes_no_series_of_its_own(self) -> None:
        for late in (False, True):
            player = Player(expected_tilts=COUNT)
            sets = MdocFacts("/data/all frames.mdoc", "tilt-series", series_name="all frames", tilts=tilts("X"), tilt_axis=AXIS,
                             frame_sets=True)
            player.feed(MdocRead(mdoc("X", tilts("X")) if late else sets, 1.0),
                        MdocRead(sets if late else mdoc("X", tilts("X")), 2.0),
                        *(MicrographReady(key(each), 3.0) for each in tilts("X")))
            player.wait()
            self.assertEqual([(each.series_name, len(each.tilts)) for _, each in player.composed], [("X", COUNT)])

    def test_the_mdoc_of_a_series_goes_before_the_file_of_all_frames_though_it_comes_much_later(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.acquire("X", tilts("X"))
        sets = MdocFacts("/data/frames/all.mdoc", "tilt-series", series_name="all", tilts=tilts("Y"), tilt_axis=AXIS,
                         frame_sets=True)
        player.feed(MdocRead(sets, 1000.0), *(MicrographReady(key(each), 1001.0) for each in tilts("Y")),
                    MdocRead(mdoc("Y", tilts("Y")), 2000.0))
        player.wait(2100.0)
        self.assertEqual([each.mdocs for _, each in player.composed], [("/data/X.mrc.mdoc",), ("/data/Y.mrc.mdoc",)])
        self.assertEqual(player.given_up, [])

    def test_a_last_line_without_an_end_counts_when_the_file_is_still(self) -> None:
        player = Player()
        ended = tilts("X")
        player.feed(*(MicrographReady(key(each), 1.0) for each in ended),
                    MdocRead(mdoc("X", ended[:-1], last_section_open=True, tilts_if_ended=ended), 2.0))
        player.wait()
        self.assertEqual([len(each.tilts) for _, each in player.composed], [COUNT])
        self.assertIn("ends without a line break", player.composed[0][1].reason)

    def test_frames_that_overwrite_each_other_fail_with_their_sentence(self) -> None:
        player = Player()
        one = tilts("X", 1)
        player.feed(MdocRead(mdoc("X", one), 1.0),
                    MdocRead(MdocFacts("/data/X.mrc.mdoc", "overwritten", "Its 2 tilts name one file.", series_name="X"), 30.0))
        player.wait()
        self.assertEqual([(each.reason, each.failed) for each in player.given_up], [("Its 2 tilts name one file.", True)])

    def test_frame_mdocs_whose_names_begin_with_the_date_make_one_series(self) -> None:
        player = Player(expected_tilts=COUNT)
        for k, each in enumerate(tilts("X")):
            movie = f"{each.time:%Y-%m-%d_%H.%M.%S}_X_{each.angle:.1f}.tif"
            text = (f"T = SerialEM: x\nVoltage = 300\n\n[FrameSet = 0]\nTiltAngle = {each.angle}\nRotationAngle = 174.2\n"
                    f"SubFramePath = D:\\{movie}\nDateTime = {each.time:%d-%b-%Y  %H:%M:%S}\n")
            player.feed(MdocRead(read_mdoc(f"/data/{movie}.mdoc", text.encode()), GAP * k),
                        MicrographReady(movie.removesuffix(".tif"), GAP * k + 5.0))
        self.assertEqual([(each.series_id, len(each.tilts)) for _, each in player.composed], [("X", COUNT)])

    def test_an_mdoc_of_an_earlier_session_is_left_aside_once_and_revived_by_its_movies(self) -> None:
        noon = BEGIN.timestamp() + 86400.0
        player = Player(expected_tilts=COUNT)
        player.feed(MdocRead(mdoc("old", tilts("old")), noon), MdocRead(mdoc("old", tilts("old")), noon + 60.0))
        player.acquire("X", tilts("X", begin=86400.0), noon + 10.0)
        self.assertEqual([(each.series_name, each.failed) for each in player.given_up], [("old", False)])
        self.assertIn("from an earlier session: its last tilt was at 2026-03-01", player.given_up[0].reason)
        self.assertEqual([each.series_name for _, each in player.composed], ["X"])
        player.feed(*(MicrographReady(key(each), noon + 2000.0) for each in tilts("old")))
        self.assertEqual([each.series_name for _, each in player.composed], ["X", "old"])

    def test_an_mdoc_from_shortly_before_the_session_is_not_called_old_but_one_from_hours_before_is(self) -> None:
        for hours, failed in ((0.5, True), (3.0, False)):      # the clock of the microscope may be wrong
            start = BEGIN.timestamp() + GAP * COUNT + 3600.0 * hours
            player = Player(expected_tilts=COUNT)
            player.feed(MdocRead(mdoc("old", tilts("old")), start), InputClosed(start + 1.0))
            player.wait(start + 3000.0)
            self.assertEqual([(each.series_name, each.failed) for each in player.given_up], [("old", failed)], hours)

    def test_an_mdoc_of_an_earlier_day_that_comes_late_is_left_aside_too_but_not_one_of_another_time_zone(self) -> None:
        for days, failed in ((3, False), (0.5, True)):
            start = BEGIN.timestamp() + 86400.0 * days
            player = Player(expected_tilts=COUNT)
            player.feed(MovieSeen("X_000_0.0", start), MdocRead(mdoc("old", tilts("old")), start + 60.0))
            player.wait(start + 3000.0)
            self.assertEqual([(each.series_name, each.failed) for each in player.given_up], [("old", failed)])

    def test_an_mdoc_whose_movies_may_be_here_under_other_names_is_not_called_old(self) -> None:
        noon = BEGIN.timestamp() + 86400.0
        player = Player(expected_tilts=COUNT)
        player.feed(*(MovieSeen(f"renamed_{k}", noon) for k in range(COUNT)), MdocRead(mdoc("old", tilts("old")), noon + 1.0),
                    InputClosed(noon + 2.0))
        player.wait()
        self.assertEqual([each.failed for each in player.given_up], [True])

    def test_a_name_used_again_is_a_new_acquisition_though_its_file_was_first_seen_empty_or_has_a_copy(self) -> None:
        again = tuple(replace(each, movie=f"b_{each.movie}") for each in tilts("X", begin=5000.0))
        for copied in (False, True):
            player = Player(expected_tilts=COUNT)
            player.acquire("X", tilts("X"))
            if copied:
                player.feed(MdocRead(mdoc("X", tilts("X", 7), "/data/Copy of X.mrc.mdoc", copy=True), 4000.0))
            player.feed(MdocRead(mdoc("X", (), last_section_open=True), 4900.0))
            for k, each in enumerate(again[:5]):
                player.feed(MdocRead(mdoc("X", again[: k + 1]), 5000.0 + GAP * k), MicrographReady(key(each), 5010.0 + GAP * k))
            player.wait()
            last = player.composed[-1][1]
            self.assertEqual({each.movie for each in last.tilts}, {each.movie for each in again[:5]}, copied)

    def test_two_series_of_one_name_and_folder_are_both_restored(self) -> None:
        player = Player(expected_tilts=COUNT)
        again = tuple(replace(each, movie=f"b_{each.movie}") for each in tilts("X", begin=5000.0))
        for series_id, which in (("X", tilts("X")), ("X_2", again)):
            player.feed(Restored(series_id, "X", tuple(str(each.movie) for each in which), 1, 0.0, mdocs=("/data/X.mrc.mdoc",),
                                 micrograph_versions=(1,) * COUNT))
        player.feed(MdocRead(mdoc("X", again), 1.0), *(MicrographReady(key(each), 2.0) for each in again))
        player.wait()
        self.assertEqual(player.composed, [])

    def test_frame_mdocs_collected_again_without_a_dose_are_a_series_of_their_own(self) -> None:
        player = Player(expected_tilts=COUNT)
        second = tuple(replace(each, movie=str(each.movie).replace("_0", "_5", 1)) for each in tilts("X", begin=5000.0))
        for begin, every in ((0.0, tilts("X")), (5000.0, second)):
            for k, each in enumerate(every):
                facts = replace(self.frame(each), evidence={})
                bare = replace(facts.tilts[0], prior_dose=Known(None, "not in the file"))
                player.feed(MdocRead(replace(facts, tilts=(bare,), tilts_if_ended=(bare,)), begin + GAP * k),
                            MicrographReady(key(each), begin + GAP * k + 5.0))
        player.wait()
        self.assertEqual([{each.movie for each in made.tilts} for _, made in player.composed],
                         [{each.movie for each in tilts("X")}, {each.movie for each in second}])

    def test_any_name_gives_a_valid_identifier(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.acquire("pl_(1)", tilts("pl_(1)"))
        self.assertRegex(player.composed[0][1].series_id, r"\A[A-Za-z_][A-Za-z0-9_]*\Z")
        self.assertEqual(player.composed[0][1].series_name, "pl_(1)")

    def test_a_copy_of_a_series_under_another_name_is_not_composed(self) -> None:
        player = Player(expected_tilts=COUNT)
        last = player.acquire("X", tilts("X"))
        made = player.feed(MdocRead(mdoc("backup", tilts("X")), last + 60.0))
        self.assertEqual([(type(each), each.failed) for each in made], [(GiveUp, False)])
        self.assertIn("belongs to the series X", made[0].reason)

    def test_a_garbage_mdoc_fails_at_its_deadline_with_the_true_reason_and_is_revived(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.feed(MdocRead(MdocFacts("/data/X.mrc.mdoc", "unreadable", "The file is empty.", series_name="X"), 5.0))
        self.assertEqual(player.decided, [])
        player.wait(300.0)
        self.assertEqual([(time, each.reason) for time, each in player.of(GiveUp)], [(185.0, "The file is empty.")])
        player.acquire("X", tilts("X"), begin=400.0)
        self.assertEqual([each.version for _, each in player.composed], [1])

    def test_what_is_no_tilt_series_is_reported_at_once_without_a_failure_and_read_again(self) -> None:
        player = Player(expected_tilts=COUNT)
        facts = MdocFacts("/data/X.mrc.mdoc", "montage", "It is a montage, not a tilt series.", series_name="X")
        made = player.feed(MdocRead(facts, 1.0), MdocRead(facts, 2.0))
        self.assertEqual([(each.reason, each.failed) for each in made], [("It is a montage, not a tilt series.", False)])
        player.acquire("X", tilts("X"), begin=400.0)
        self.assertEqual(len(player.composed), 1)

    def test_the_first_tilt_of_a_series_is_not_taken_for_an_image(self) -> None:
        player = Player(expected_tilts=COUNT)
        one = mdoc("X", tilts("X", 1), kind="image", reason="Its 1 images are all at one tilt angle.")
        self.assertEqual(player.feed(MdocRead(one, 1.0)), [])

    def test_excluded_words_keep_an_mdoc_out(self) -> None:
        player = Player(excluded_words=("override",))
        player.feed(MdocRead(mdoc("X", tilts("X"), path="/data/X_override.mdoc"), 0.0))
        player.wait()
        self.assertEqual(player.composed, [])
        self.assertIn("override", player.session.states()[0].reason)

    def test_frame_mdocs_make_one_series(self) -> None:
        player = Player(expected_tilts=COUNT)
        for k, each in enumerate(tilts("X")):
            facts = MdocFacts(f"/data/{key(each)}.mrc.mdoc", "frame", series_name=key(each), tilts=(each,), tilt_axis=AXIS,
                              frame_series="X")
            player.feed(MdocRead(facts, GAP * k), MicrographReady(key(each), GAP * k + 5.0))
        self.assertEqual([(each.series_id, len(each.tilts)) for _, each in player.composed], [("X", COUNT)])

    def test_frame_mdocs_stay_in_order_when_the_clock_is_put_back_in_their_midst(self) -> None:
        player = Player(expected_tilts=COUNT)
        for k, each in enumerate(tilts("X", gap=60.0)):
            by_clock = each.time + timedelta(hours=14, minutes=50) - timedelta(hours=1 if k > 9 else 0)    # from 02:50 on
            facts = MdocFacts(f"/data/{key(each)}.mrc.mdoc", "frame", series_name=key(each), tilt_axis=AXIS,
                              tilts=(replace(each, time=by_clock),), frame_series="X")
            player.feed(MdocRead(facts, GAP * k), MicrographReady(key(each), GAP * k + 5.0))
        ((_, composed),) = player.composed
        self.assertEqual([each.angle for each in sorted(composed.tilts, key=lambda each: each.order)], list(DOSE_SYMMETRIC))

    def test_frame_mdocs_beside_a_series_mdoc_make_no_series_of_their_own(self) -> None:
        player = Player(expected_tilts=COUNT)
        for k, each in enumerate(tilts("X")):
            player.feed(MdocRead(MdocFacts(f"/data/{key(each)}.mrc.mdoc", "frame", tilts=(each,), tilt_axis=AXIS,
                                           series_name=key(each), frame_series="all"), GAP * k),
                        MdocRead(mdoc("X", tilts("X", k + 1)), GAP * k + 1.0), MicrographReady(key(each), GAP * k + 5.0))
        player.wait()
        self.assertEqual([each.series_name for _, each in player.composed], ["X"])
        self.assertEqual([each.failed for each in player.given_up], [False])

    def test_tilts_without_a_movie_are_matched_by_series_order_and_angle(self) -> None:
        player = Player()
        bare = tuple(replace(each, movie=None) for each in tilts("Position_1"))
        player.feed(*(MicrographReady(f"Position_1_{k + 1:03d}_{each.angle:.2f}_20260301", 10.0 * k)
                      for k, each in enumerate(bare)), MdocRead(mdoc("Position_1", bare), 800.0))
        player.wait(1000.0)
        self.assertEqual([len(each.tilts) for _, each in player.composed], [COUNT])
        for each in player.composed[0][1].tilts:
            self.assertIn(f"_{each.angle:.2f}_", str(each.movie))

    def test_an_axis_of_zero_is_a_value(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.feed(*(MicrographReady(key(each), 1.0) for each in tilts("X")),
                    MdocRead(mdoc("X", tilts("X"), tilt_axis=Known(0.0, "title")), 2.0))
        self.assertEqual(player.composed[0][1].tilt_axis.value, 0.0)
        player = Player(expected_tilts=COUNT, tilt_axis=0.0)
        player.acquire("X", tilts("X"))
        self.assertEqual(player.composed[0][1].tilt_axis, Known(0.0, "given by the user"))

    def test_the_advice_for_an_unknown_axis_names_the_project_and_the_axis_that_another_series_has(self) -> None:
        player = Player(expected_tilts=COUNT, project="/data/night1")
        unknown: Known[float] = Known(None, "no title")
        for start, name, axis in ((1.0, "A", unknown), (100.0, "B", AXIS), (200.0, "C", unknown)):
            player.feed(*(MicrographReady(key(each), start) for each in tilts(name)),
                        MdocRead(mdoc(name, tilts(name), tilt_axis=axis), start + 1.0))
        self.assertIn("manualTiltAxisAngle=DEGREES", player.given_up[0].reason)
        self.assertIn(f"give the tilt axis in the form (B has {AXIS.value:g} degrees) and continue the protocol, or tomostream "
                      "resume /data/night1 --again --from compose --set compose.manualTiltAxisAngle="
                      f"{AXIS.value:g}", player.given_up[1].reason)

    def test_the_advice_names_the_axis_of_a_series_that_is_still_acquired_where_none_is_composed(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.feed(MdocRead(mdoc("B", tilts("B"), tilt_axis=AXIS), 1.0))
        player.feed(*(MicrographReady(key(each), 2.0) for each in tilts("A")),
                    MdocRead(mdoc("A", tilts("A"), tilt_axis=Known(None, "no title")), 3.0))
        self.assertIn(f"compose.manualTiltAxisAngle={AXIS.value:g}", player.given_up[0].reason)

    def test_an_unknown_axis_fails_that_series_with_the_reason(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.feed(*(MicrographReady(key(each), 1.0) for each in tilts("X")),
                    MdocRead(mdoc("X", tilts("X"), tilt_axis=Known(None, "not in the file")), 2.0))
        self.assertIn("tilt axis is unknown", player.given_up[0].reason)
        player.feed(MdocRead(mdoc("X", tilts("X")), 3.0))
        self.assertEqual(len(player.composed), 1)


class TestFigures(unittest.TestCase):
    """What the figures of the rules are worth: another figure is another decision."""

    def test_a_series_is_still_for_longer_than_its_largest_gap_before_its_rhythm_ends_it(self) -> None:
        rhythm = Rhythm()
        for gap in (20.0,) * 11 + (30.0,):
            rhythm.add(gap)
        self.assertAlmostEqual(rhythm.stillness() or 0.0, 42.0)

    def test_half_of_the_companions_going_on_is_no_majority(self) -> None:
        evidence = Evidence(Policy())
        still, twice, once = (Series(name, "/data", name, 0.0) for name in ("still", "twice", "once"))
        still.last_new, twice.last_but_one, twice.last_new, once.last_but_one, once.last_new = 10.0, 20.0, 30.0, 5.0, 30.0
        still.companions = {1: twice, 2: once}
        self.assertFalse(evidence._left_behind(still))
        once.last_but_one = 20.0
        self.assertTrue(evidence._left_behind(still))

    def test_lateness_is_remembered_and_fades_with_every_micrograph_that_comes_in_time(self) -> None:
        production = Production(lateness=100.0)
        production.deliver(Exposure(("a", None), "a", tilt("X", 0), 0.0, 1.0), 10.0)
        self.assertAlmostEqual(production.lateness, 95.0)


class TestSessionEnds(unittest.TestCase):
    """Restart, closing, stopping, silence."""

    def test_the_last_series_is_not_lost_because_the_input_closed(self) -> None:
        player = Player()
        last = player.acquire("X", tilts("X"))
        player.feed(InputClosed(last + 11.0))
        player.wait()
        self.assertEqual([type(each) for _, each in player.decided], [Compose, EndSession])
        self.assertEqual(len(player.composed[0][1].tilts), COUNT)

    def test_a_series_that_was_broken_off_does_not_wait_for_tilts_after_the_input_closed(self) -> None:
        player = Player()
        last = player.acquire("X", tilts("X")[:5])
        player.feed(InputClosed(last + 11.0))
        player.wait()
        self.assertEqual(player.composed[0][0], last + 11.0 + 20.0)
        self.assertEqual(len(player.composed[0][1].tilts), 5)

    def test_while_a_micrograph_is_listed_nowhere_the_file_may_still_grow_after_the_input_closed(self) -> None:
        player = Player()
        last = player.acquire("X", tilts("X")[:5])
        player.feed(MicrographReady(key(tilts("X")[5]), last + 10.5), InputClosed(last + 11.0))
        player.wait(last + 60.0)
        self.assertEqual(player.composed, [])
        player.feed(MdocRead(mdoc("X", tilts("X")[:6]), last + 60.0))
        player.wait()
        self.assertEqual([len(each.tilts) for _, each in player.composed], [6])

    def test_an_mdoc_written_after_the_input_closed_is_waited_for(self) -> None:
        player = Player()
        player.feed(*(MicrographReady(key(each), 1.0 * k) for k, each in enumerate(tilts("X"))), InputClosed(30.0))
        self.assertEqual(player.decided, [])
        player.feed(MdocRead(mdoc("X", tilts("X")), 60.0))
        player.wait()
        self.assertEqual([type(each) for _, each in player.decided], [Compose, EndSession])

    def test_after_the_input_closed_missing_micrographs_are_not_waited_for(self) -> None:
        player = Player(expected_tilts=COUNT)
        last = player.acquire("X", tilts("X"), lost=[2])
        player.feed(InputClosed(last + 15.0))
        self.assertEqual(player.composed[0][0], last + 15.0)
        self.assertIn("no more micrographs will come", player.composed[0][1].left_out[0].reason)

    def test_a_movie_that_never_arrived_is_distinguished_from_one_that_was_not_aligned(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.feed(*(MovieSeen(key(each), 0.0) for each in tilts("X") if each.order != 3))
        last = player.acquire("X", tilts("X"), lost=[2, 5])
        player.feed(InputClosed(last + 15.0))
        never, late = player.composed[0][1].left_out
        if never.tilt.order != 3:
            never, late = late, never
        self.assertIn("Its movie never arrived", never.reason)
        self.assertIn("Its micrograph is not there", late.reason)

    def test_tilts_that_the_user_takes_out_or_puts_back_compose_only_their_series_again(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.acquire("X", tilts("X"))
        last = player.acquire("Y", tilts("Y", begin=5000.0), begin=5000.0)
        out = {key(tilts("X")[4]): "ice"}
        made = player.feed(Excluded("X", out, last + 60.0))
        self.assertEqual([(each.series_id, each.version, len(each.tilts)) for each in made], [("X", 2, COUNT - 1)])
        self.assertEqual(made[0].left_out[0].reason, "The user took it out: ice.")
        self.assertEqual(player.feed(Excluded("X", out, last + 61.0)), [])
        made = player.feed(Excluded("X", {}, last + 62.0))
        self.assertEqual([(each.series_id, each.version, len(each.tilts)) for each in made], [("X", 3, COUNT)])

    def test_what_the_user_took_out_before_a_restart_stays_out(self) -> None:
        kept = [each for each in tilts("X") if each.order != 5]
        player = Player(expected_tilts=COUNT)
        player.feed(Restored("X", "X", tuple(key(each) for each in kept), 2, 0.0),
                    Excluded("X", {key(tilts("X")[4]): ""}, 0.0))
        player.acquire("X", tilts("X"), begin=1.0)
        self.assertEqual(player.composed, [])

    def test_frames_at_one_angle_are_single_particles_and_never_composed(self) -> None:
        player = Player(expected_tilts=6)
        for each in tilts("P", 6, angles=(0.0,) * 6):
            facts = mdoc("P", (each,), f"/data/{key(each)}.mdoc", kind="frame", frame_series="P")
            player.feed(MdocRead(facts, 30.0 * each.order), MicrographReady(key(each), 30.0 * each.order + 5.0))
        player.feed(InputClosed(400.0))
        self.assertEqual(player.composed, [])
        self.assertIn("single particles", player.given_up[-1].reason)
        self.assertFalse(player.given_up[-1].failed)

    def test_a_second_series_of_frames_under_one_name_is_distinguished_from_the_first_by_its_dose(self) -> None:
        player = Player(expected_tilts=5)
        for start in (0, 5):
            for place, each in enumerate(tilts("F", 5, begin=200.0 * start)):
                movie = f"F_{start + place + 1:03d}_{each.angle:.1f}.tif"
                each = replace(each, movie=movie, prior_dose=Known(3.0 * place, "field PriorRecordDose"))
                facts = mdoc("F", (each,), f"/data/{movie}.mdoc", kind="frame", frame_series="F")
                at = 200.0 * start + 30.0 * place
                player.feed(MdocRead(facts, at), MicrographReady(key(each), at + 5.0))
        self.assertEqual([(each.series_name, len(each.tilts)) for _, each in player.composed], [("F", 5), ("F_6", 5)])

    def test_frames_of_a_target_started_again_after_one_tilt_are_distinguished_by_place_although_the_stage_reads_back_otherwise(
            self) -> None:
        def frame(number: int, angle: float, shift: str, dose: float) -> MdocFacts:
            name = f"lam_{number:03d}_{angle:.1f}.tif"      # as written without the end of the last line
            return read_mdoc(f"/data/{name}.mdoc", (
                f"T = SerialEM: x\nVoltage = 300\n\n[FrameSet = 0]\nTiltAngle = {angle}\nStagePosition = 1 2\nExposureDose = 3\n"
                f"ImageShift = {shift}\nPriorRecordDose = {dose}\nSubFramePath = X:\\s\\{name}\n"
                f"DateTime = 15-Jan-2026  09:{number % 50:02d}:00").encode())

        targets = Targets("lam")
        frames = [frame(1, -27.006, "10 4", 0.1), *(frame(51 + k, 3.0 * k - 27.002, "15 6", 3.0 * k + 0.1) for k in range(5))]
        for each in frames:
            targets.add(each)
        self.assertEqual([targets.name_of(each) for each in frames], ["lam"] + ["lam_51"] * 5)

    def test_frames_of_a_series_collected_again_at_the_very_same_place_stay_together(self) -> None:
        targets = Targets("F")
        exposed = [replace(tilt("F", place, at=1000.0 * again + GAP * place), prior_dose=Known(3.0 * place, "x"),
                           movie=f"F_{11 * again + place:03d}_0.0.tif") for again in (0, 1) for place in range(11)]
        frames = [mdoc("F", (each,), f"/d/{each.movie}.mdoc", kind="frame", frame_series="F",
                       evidence={"StagePosition": "1.0 2.0"}) for each in exposed]
        for each in frames:
            targets.add(each)
        self.assertEqual([targets.name_of(each) for each in frames], ["F"] * 11 + ["F_11"] * 11)

    def test_after_a_restart_frames_go_on_with_their_series_though_the_first_of_them_is_not_in_it(self) -> None:
        which = tilts("F", 5)
        player = Player(min_tilts=3)
        player.feed(Restored("F_x", "F", tuple(key(each) for each in which[1:]), 2, 0.0))
        for each in which:
            player.feed(MdocRead(mdoc("F", (each,), f"/data/{each.movie}.mdoc", kind="frame", frame_series="F"), 1.0),
                        MicrographReady(key(each), 2.0))
        player.wait()
        self.assertEqual([(each.series_id, each.version, len(each.tilts)) for _, each in player.composed], [("F_x", 3, 5)])
        self.assertEqual(player.given_up, [])

    def frames_in_turns(self, name: str, angles: tuple[float, ...] = DOSE_SYMMETRIC[:11], targets: int = 2,
                        **evidence: tuple[str, ...]) -> Player:
        """Targets exposed in turns at each angle, a frame mdoc each; `name` of target, number and angle; evidence a target."""
        player = Player()
        for number, (angle, target) in enumerate(((a, t) for a in angles for t in range(targets)), start=1):
            each = tilt("lam", number, angle, GAP * number, f"{name.format(target=target + 1, number=number, angle=angle)}.tif")
            facts = mdoc("lam", (each,), f"/data/{each.movie}.mdoc", kind="frame",
                         frame_series=parse_movie_name(str(each.movie)).series,
                         evidence={what: values[target] for what, values in evidence.items()})
            player.feed(MdocRead(facts, GAP * number), MicrographReady(key(each), GAP * number + 5.0))
        player.feed(InputClosed(GAP * number + 10.0))
        player.wait()
        return player

    def test_targets_in_turns_whose_number_stands_before_the_angle_are_series_of_their_own(self) -> None:
        for targets in (1, 2, 3, 7):
            player = self.frames_in_turns("lam_ts_{target:03d}_{angle:.1f}", targets=targets)
            self.assertEqual(sorted((each.series_name, len(each.tilts)) for _, each in player.composed),
                             [(f"lam_ts_{target:03d}", 11) for target in range(1, targets + 1)])
            for _, each in player.composed:
                self.assertTrue(all(str(one.movie).startswith(each.series_name) for one in each.tilts))

    def test_targets_in_turns_under_one_name_are_distinguished_by_position_beam_and_navigator_item(self) -> None:
        for evidence in ({"StagePosition": ("10.0 20.0", "13.0 20.0")}, {"NavigatorLabel": ("4", "5")},
                         {"StagePosition": ("10.0 20.0",) * 2, "ImageShift": ("0.0 0.0", "2.5 0.0")}):
            player = self.frames_in_turns("lam_{number:03d}_{angle:.1f}", **evidence)
            self.assertEqual([(each.series_name, len(each.tilts)) for _, each in player.composed], [("lam", 11), ("lam_2", 11)])
            numbers = [parse_movie_name(str(each.movie)).order or 0 for each in player.composed[0][1].tilts]
            self.assertTrue(all(number % 2 == 1 for number in numbers))

    def test_targets_in_turns_that_nothing_tells_apart_are_never_mixed_and_this_is_reported(self) -> None:
        player = self.frames_in_turns("lam_{number:03d}_{angle:.1f}")
        self.assertEqual(player.composed, [])
        self.assertTrue(player.given_up[-1].failed)
        self.assertIn("several targets share this name", player.given_up[-1].reason)

    def test_a_file_of_the_frame_sets_of_two_series_makes_two_and_gives_way_to_their_mdocs_whenever_they_come(self) -> None:
        first, second = tilts("TS_01", 11), tilts("TS_02", 11, begin=1000.0)
        frames = mdoc("frames", (*first, *second), "/data/frames/session.mdoc", frame_sets=True)
        moved = tuple(replace(each, time=each.time + timedelta(seconds=2)) for each in first)
        series = [mdoc("TS_01", moved), mdoc("TS_02", second)]
        for order in ([frames], [frames, *series], [*series, frames]):
            player = Player()
            player.feed(*(MdocRead(each, 2000.0 + place) for place, each in enumerate(order)),
                        *(MicrographReady(key(each), 2010.0) for each in (*first, *second)), InputClosed(2020.0))
            player.wait()
            self.assertEqual(sorted((each.series_name, len(each.tilts)) for _, each in player.composed),
                             [("TS_01", 11), ("TS_02", 11)])
            self.assertFalse(any(each.failed for each in player.given_up))
            self.assertFalse({state.state for state in player.session.states()} & {"acquiring", "aligning", "waiting"})
            self.assertTrue(all(path in (frames.path, *(one.path for one in series))
                                for _, each in player.composed for path in each.mdocs))

    def test_a_series_collected_again_under_its_name_from_another_angle_is_not_mixed_with_the_first(self) -> None:
        player = Player(min_tilts=3)
        last = player.acquire("TS_01", tilts("TS_01", 5))
        player.feed(MdocGone("/data/TS_01.mrc.mdoc", last + 30.0))
        again = tuple(replace(each, angle=each.angle + 9.0, movie=f"TS_01_{each.order:03d}_{each.angle + 9.0:.1f}b.tif")
                      for each in tilts("TS_01", 11, begin=last + 1200.0))
        player.acquire("TS_01", again, begin=last + 1200.0)
        player.feed(InputClosed(last + 3000.0))
        player.wait()
        newest = player.composed[-1][1]
        self.assertEqual({each.movie for each in newest.tilts}, {each.movie for each in again})
        self.assertTrue(any("started over" in text for text in newest.warnings))

    def test_stop_decides_everything_now(self) -> None:
        player = Player()
        last = player.acquire("X", tilts("X", 10), lost=[9])
        made = player.feed(MdocRead(mdoc("Y", tilts("Y", 1)), last + 1.0), ProducerState(False, "killed", last + 2.0),
                           Stop(last + 3.0))
        self.assertEqual([type(each) for each in made], [Compose, GiveUp, EndSession])
        self.assertIn("stopped by the user", made[0].left_out[0].reason)
        self.assertIsNone(player.session.next_deadline())

    def test_a_session_ends_when_nothing_new_came_for_the_time_for_the_next_series(self) -> None:
        player = Player(time_for_next_series=600.0)
        last = player.acquire("X", tilts("X"))
        player.wait()
        self.assertEqual(player.of(EndSession)[0][0], last + 10.0 + 600.0)

    def test_a_session_stays_open_while_the_producer_runs_however_long_the_operator_pauses(self) -> None:
        player = Player(time_for_next_series=600.0)
        player.feed(ProducerState(True, "", 0.0, running=True))
        last = player.acquire("X", tilts("X"), begin=1.0)
        player.wait(last + 40_000.0)
        self.assertEqual(player.of(EndSession), [])
        later = player.acquire("Y", tilts("Y", begin=50_000.0), begin=50_000.0)
        player.feed(Tick(later + 100.0))
        self.assertEqual([each.series_name for _, each in player.composed], ["X", "Y"])
        player.feed(ProducerState(True, "it ended", later + 7000.0))
        player.wait()
        self.assertEqual(player.of(EndSession)[0][0], later + 7600.0)

    def test_a_session_does_not_end_before_anything_happened_nor_while_the_producer_is_dead(self) -> None:
        player = Player()
        self.assertIsNone(player.session.next_deadline())
        player.feed(ProducerState(False, "killed", 1.0))
        self.assertIsNone(player.session.next_deadline())

    def test_after_a_restart_nothing_is_composed_again(self) -> None:
        player = Player()
        player.feed(Restored("X", "X", tuple(str(each.movie) for each in tilts("X")), 3, 0.0),
                    MdocRead(mdoc("X", tilts("X")), 1.0), *(MicrographReady(key(each), 2.0, 2) for each in tilts("X")))
        player.wait()
        self.assertEqual([type(each) for _, each in player.decided], [EndSession])
        self.assertEqual(player.state("X").state, "composed")

    def test_after_a_restart_a_new_tilt_gives_the_next_version_under_the_same_identifier(self) -> None:
        player = Player()
        player.feed(Restored("old_id", "X", tuple(str(each.movie) for each in tilts("X", COUNT - 1)), 3, 0.0),
                    MdocRead(mdoc("X", tilts("X")), 1.0), *(MicrographReady(key(each), 2.0) for each in tilts("X")))
        player.wait()
        self.assertEqual([(each.series_id, each.version, len(each.tilts)) for _, each in player.composed],
                         [("old_id", 4, COUNT)])

    def test_after_a_restart_a_tilt_whose_last_line_has_no_end_stays_in_its_series(self) -> None:
        which = tilts("TS_01", 7)
        player = Player(time_for_next_tilt=60.0)
        player.feed(Restored("TS_01", "TS_01", tuple(key(each) for each in which), 1, 0.0, mdocs=("/data/TS_01.mrc.mdoc",),
                             micrograph_versions=(1,) * 7),
                    MdocRead(mdoc("TS_01", which[:-1], tilts_if_ended=which, last_section_open=True), 1.0),
                    *(MicrographReady(key(each), 2.0) for each in which))
        player.wait(500.0)
        self.assertEqual(player.composed, [])
        player.feed(*(MicrographReady(key(each), 500.0, 2) for each in which))
        player.wait()
        self.assertEqual([(each.version, len(each.tilts)) for _, each in player.composed], [(2, 7)])

    def test_after_a_restart_a_last_tilt_without_its_line_end_that_came_while_nothing_ran_is_composed(self) -> None:
        which = tilts("TS_01", 7)
        player = Player(time_for_next_tilt=60.0)
        player.feed(Restored("TS_01", "TS_01", tuple(key(each) for each in which[:-1]), 1, 0.0, mdocs=("/data/TS_01.mrc.mdoc",)),
                    *(MovieSeen(key(each), 0.5) for each in which),
                    MdocRead(mdoc("TS_01", which[:-1], tilts_if_ended=which, last_section_open=True), 1.0),
                    *(MicrographReady(key(each), 2.0) for each in which))
        player.wait(100.0)
        self.assertEqual([(each.version, len(each.tilts)) for _, each in player.composed], [(2, 7)])

    def test_after_a_restart_a_replaced_micrograph_is_noticed_where_its_version_was_kept(self) -> None:
        player = Player()
        movies = tuple(str(each.movie) for each in tilts("X"))
        player.feed(Restored("X", "X", movies, 1, 0.0, micrograph_versions=(1,) * COUNT),
                    MdocRead(mdoc("X", tilts("X")), 1.0),
                    *(MicrographReady(key(each), 2.0, 2 if k == 3 else 1) for k, each in enumerate(tilts("X"))))
        player.wait()
        self.assertEqual([each.version for _, each in player.composed], [2])

    def test_after_a_restart_what_was_given_up_is_not_given_up_again(self) -> None:
        player = Player()
        bad = MdocFacts("/data/bad.mdoc", "unreadable", "The file is empty.", series_name="bad")
        player.feed(Restored("bad", "bad", (), 0, 0.0, True, "The file is empty."), MdocRead(bad, 1.0))
        player.wait()
        self.assertEqual(player.given_up, [])

    def test_after_a_restart_a_renamed_copy_of_a_registered_series_is_not_composed(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.feed(Restored("X", "X", tuple(str(each.movie) for each in tilts("X")), 1, 0.0),
                    MdocRead(mdoc("copy", tilts("X")), 1.0), *(MicrographReady(key(each), 2.0) for each in tilts("X")))
        player.wait()
        self.assertEqual(player.composed, [])

    def test_states_say_what_is_waited_for(self) -> None:
        player = Player(expected_tilts=COUNT)
        player.acquire("X", tilts("X"), lost=[11, 12])
        state = player.state("X")
        self.assertEqual((state.state, state.tilts_seen, state.tilts_aligned), ("aligning", COUNT, COUNT - 2))
        self.assertEqual(state.reason, f"Waiting for the micrograph of 2 of {COUNT} tilts: "
                                       f"{key(tilts('X')[11])}, {key(tilts('X')[12])}.")

    def test_a_serialem_file_read_at_every_few_bytes_is_composed_once_and_whole(self) -> None:
        text = _serialem(tilts("X"))
        player = Player()
        player.feed(*(MicrographReady(key(each), 0.1) for each in tilts("X")))
        for step, end in enumerate(range(40, len(text) + 40, 40)):
            player.feed(MdocRead(read_mdoc("/data/X.mrc.mdoc", text[:end]), 1.0 + step))
        player.wait()
        self.assertEqual([type(each) for _, each in player.decided], [Compose, EndSession])
        self.assertEqual({each.movie for each in player.composed[0][1].tilts}, {each.movie for each in tilts("X")})

    def test_the_cost_of_an_event_does_not_grow_with_the_session(self) -> None:
        costs = []
        for series in (10, 300):
            player = Player(expected_tilts=COUNT)
            calls = _count_calls(player, series)
            costs.append(calls / series)
        self.assertLess(costs[1], 1.5 * costs[0])


def _serialem(which: tuple[Tilt, ...]) -> bytes:
    """Return the text of an mdoc as SerialEM writes it."""
    lines = ["PixelSpacing = 2.7", "Voltage = 300", "Version = SerialEM Version 4.1.0", "ImageFile = X.mrc", "",
             "[T = SerialEM: a microscope   01-Mar-26  12:00:00]", "",
             "[T = Tilt axis angle = 85.3, binning = 1  spot = 6  camera = 0]", ""]
    for k, each in enumerate(which):
        lines += [f"[ZValue = {k}]", f"TiltAngle = {each.angle}", "ExposureDose = 3.0", "RotationAngle = 175.3",
                  f"SubFramePath = D:\\frames\\{each.movie}", "NumSubFrames = 8",
                  f"DateTime = {each.time:%d}-Mar-26  {each.time:%H:%M:%S}", ""]
    return ("\r\n".join(lines) + "\r\n").encode()


def _count_calls(player: Player, series: int) -> int:
    """Return how many Python functions run in the last of some series, times their number."""
    import sys
    for k in range(series - 1):
        player.acquire(f"S{k}", tilts(f"S{k}", begin=2000.0 * k), begin=2000.0 * k)
    calls = 0

    def count(frame: object, what: str, argument: object) -> None:
        nonlocal calls
        calls += what == "call"

    sys.setprofile(count)
    try:
        player.acquire("last", tilts("last", begin=2000.0 * series), begin=2000.0 * series)
    finally:
        sys.setprofile(None)
    return calls * series


class SessionAtRandom(RuleBasedStateMachine):
    """Any events in any order; held against what was listed and aligned, and against what must never happen."""

    NAMES = ("A", "B", "C")

    @initialize(known=st.booleans(), bound=st.sampled_from((20.0, 180.0)))
    def begin(self, known: bool, bound: float) -> None:
        self.policy = Policy(expected_tilts=9 if known else None, time_for_next_tilt=bound, time_for_next_series=900.0)
        self.session = Session(self.policy)
        self.now = 0.0
        self.listed: dict[str, list[Tilt]] = {name: [] for name in self.NAMES}
        self.dropped: set[str] = set()
        self.retired: set[str] = set()
        self.ready: dict[str, int] = {}
        self.broken: set[str] = set()
        self.made: dict[str, list[Compose]] = {}
        self.lost: dict[str, int] = {}
        self.serial = 0
        self.over = self.stopped = self.unsound = False

    def _feed(self, event: Event) -> None:
        self.unsound = True
        for each in self.session.handle(event):
            self._check(each)
        self.unsound = False

    def _check(self, decision: Decision) -> None:
        assert decision.reason.strip()
        if isinstance(decision, EndSession):
            self.over = True
        elif isinstance(decision, GiveUp):
            self.lost[decision.series_id] = self.lost.get(decision.series_id, 0) + 1
            assert decision.series_id not in self.made, "given up although it is composed"
        else:
            self._check_compose(decision)

    def _check_compose(self, decision: Compose) -> None:
        earlier = self.made.setdefault(decision.series_id, [])
        content = [(each.movie, each.time, version) for each, version
                   in zip(decision.tilts, decision.micrograph_versions, strict=True)]
        for last in earlier[-1:]:       # not any before: an exposure that is taken again can bring an older content back
            assert content != [(each.movie, each.time, version) for each, version
                               in zip(last.tilts, last.micrograph_versions, strict=True)], "composed twice"
        assert decision.version == 1 + max((other.version for other in earlier), default=0)
        listed = {(each.movie, each.time) for each in self.listed[decision.series_name]}
        told = [*decision.tilts, *(left.tilt for left in decision.left_out)]
        assert len({(each.movie, each.time) for each in told}) == len(told)
        assert {(each.movie, each.time) for each in told} == listed, "a tilt of another series, or one not accounted for"
        assert all(left.reason.strip() for left in decision.left_out)
        assert len(decision.tilts) >= self.policy.min_tilts
        assert [each.angle for each in decision.tilts] == sorted(each.angle for each in decision.tilts)
        for each, version in zip(decision.tilts, decision.micrograph_versions, strict=True):
            assert self.ready[key(each)] == version
        assert all(self.ready.get(key(left.tilt)) is None for left in decision.left_out)
        earlier.append(decision)

    @precondition(lambda self: not self.stopped)
    @rule(name=st.sampled_from(NAMES), count=st.integers(1, 9), after=st.floats(0.5, 60.0), skip=st.integers(0, 12),
          quiet=st.booleans())
    def acquire(self, name: str, count: int, after: float, skip: int, quiet: bool) -> None:
        """Take some tilts; all but one get their micrographs at once, and it may be quiet for a while after."""
        self._wait(after + count)
        new = []
        for k in range(count):
            self.serial += 1
            place = len(self.listed[name])
            angle = DOSE_SYMMETRIC[place % COUNT] + (60.0 if place >= COUNT else 0.0)
            self.listed[name].append(tilt(name, self.serial, angle, self.now - count + k))
            new.append(self.listed[name][-1])
        self._feed(MdocRead(mdoc(name, tuple(self.listed[name])), self.now))
        for k, each in enumerate(new):
            if k != skip:
                self.ready[key(each)] = 1
                self._feed(MicrographReady(key(each), self.now))
        if quiet:
            self._wait(400.0)

    @precondition(lambda self: not self.stopped)
    @rule(name=st.sampled_from(NAMES))
    def repeat_the_last(self, name: str) -> None:
        if self.listed[name]:
            self.serial += 1
            self._wait(5.0)
            old = self.listed[name].pop()
            self.dropped.add(key(old))
            self.listed[name].append(tilt(name, self.serial, old.angle, self.now))
            self._feed(MdocRead(mdoc(name, tuple(self.listed[name])), self.now))

    @precondition(lambda self: not self.stopped)
    @rule(name=st.sampled_from(NAMES), part=st.floats(0.0, 1.0), opened=st.booleans())
    def read_a_part(self, name: str, part: float, opened: bool) -> None:
        some = tuple(self.listed[name][: int(part * len(self.listed[name]))])
        if some:
            self._feed(MdocRead(mdoc(name, some, last_section_open=opened), self.now))

    @precondition(lambda self: not self.stopped)
    @rule(name=st.sampled_from(NAMES))
    def read_under_another_name(self, name: str) -> None:
        if self.listed[name]:
            self._feed(MdocGone(f"/data/{name}.mrc.mdoc", self.now))
            self._feed(MdocRead(mdoc(name, tuple(self.listed[name]), path=f"/data/{name}_unsorted.mrc.mdoc"), self.now))
            self._feed(MdocRead(mdoc(name, tuple(self.listed[name])), self.now))

    @precondition(lambda self: not self.stopped)
    @rule(name=st.sampled_from(NAMES), pick=st.integers(0, 30), all_of_it=st.booleans())
    def align(self, name: str, pick: int, all_of_it: bool) -> None:
        which = self.listed[name] if all_of_it else self.listed[name][pick:pick + 1]
        for each in which:
            if key(each) not in self.ready:
                self.ready[key(each)] = 1
                self._feed(MicrographReady(key(each), self.now))

    @precondition(lambda self: not self.stopped)
    @rule(name=st.sampled_from(NAMES), pick=st.integers(0, 30))
    def align_again(self, name: str, pick: int) -> None:
        for each in self.listed[name][pick:pick + 1]:
            self.ready[key(each)] = self.ready.get(key(each), 0) + 1
            self._feed(MicrographReady(key(each), self.now, self.ready[key(each)]))

    @precondition(lambda self: not self.stopped)
    @rule(name=st.sampled_from(NAMES), pick=st.integers(0, 30))
    def fail(self, name: str, pick: int) -> None:
        for each in self.listed[name][pick:pick + 1]:
            self._feed(MovieFailed(key(each), "the movie is truncated", self.now))

    @precondition(lambda self: not self.stopped)
    @rule(alive=st.booleans())
    def producer(self, alive: bool) -> None:
        self._feed(ProducerState(alive, "killed", self.now))

    @precondition(lambda self: not self.stopped)
    @rule(name=st.sampled_from((*NAMES, "junk")), kind=st.sampled_from(("unreadable", "montage", "image")))
    def spoil(self, name: str, kind: str) -> None:
        self._feed(MdocRead(MdocFacts(f"/data/{name}.mrc.mdoc", kind, "It is spoiled.", series_name=name), self.now))

    @precondition(lambda self: not self.stopped)
    @rule(seconds=st.floats(1.0, 400.0))
    def wait(self, seconds: float) -> None:
        self._wait(seconds)

    def _wait(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(10_000):
            due = self.session.next_deadline()
            if due is None or due > until:
                self.now = until
                return
            self.now = max(self.now, due)
            self._feed(Tick(due))
        raise AssertionError("it asks to be woken for ever")

    @precondition(lambda self: not self.stopped)
    @rule()
    def restart(self) -> None:
        """Only what was registered, what lies on disk and what is aligned is known afterwards."""
        self.session, self.lost, self.over = Session(self.policy), {}, False
        for series_id, made in self.made.items():
            last = made[-1]
            self._feed(Restored(series_id, last.series_name, tuple(str(each.movie) for each in last.tilts), last.version,
                                self.now, micrograph_versions=last.micrograph_versions, mdocs=last.mdocs))
        for name, which in self.listed.items():
            if which:
                self._feed(MdocRead(mdoc(name, tuple(which)), self.now))
        for movie, version in self.ready.items():
            self._feed(MicrographReady(movie, self.now, version))

    @precondition(lambda self: not self.stopped and self.serial > 40)
    @rule(stop=st.booleans())
    def end(self, stop: bool) -> None:
        """However it ends: every series that could be composed is, with all that was aligned."""
        self._feed(ProducerState(True, "", self.now))
        for name, which in self.listed.items():
            if which:
                self._feed(MdocRead(mdoc(name, tuple(which)), self.now))
        self._feed(Stop(self.now) if stop else InputClosed(self.now))
        if not stop:
            self._wait(10_000.0)
        assert self.over
        self.stopped = True
        for name, which in self.listed.items():
            usable = {(each.movie, each.time) for each in which if key(each) in self.ready}
            made = self.made.get(name, [])
            if len(usable) >= self.policy.min_tilts:
                assert made, f"{name} is lost"
                assert usable <= {(each.movie, each.time) for each in made[-1].tilts}, f"{name} is truncated"
            elif which and not made:
                assert self.lost.get(name), f"{name} ended silently"

    @precondition(lambda self: self.stopped)
    @rule()
    def after_the_end(self) -> None:
        assert self.session.handle(Tick(self.now + 1e6)) == []

    def teardown(self) -> None:
        if not getattr(self, "stopped", True) and not self.unsound:
            self.end(False)

    @precondition(lambda self: not self.stopped)
    @invariant()
    def counts_add_up(self) -> None:
        states = {each.series_name: each for each in self.session.states()}
        for name, which in self.listed.items():
            if which and name in states:
                state = states[name]
                assert state.reason.strip()
                assert state.tilts_seen == len(which)
                assert state.tilts_aligned == sum(key(each) in self.ready for each in which)


SessionAtRandom.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None,
                                             suppress_health_check=list(HealthCheck))
TestSessionAtRandom = SessionAtRandom.TestCase


if __name__ == "__main__":
    unittest.main()
