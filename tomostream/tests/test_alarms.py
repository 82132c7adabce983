# SPDX-License-Identifier: GPL-3.0-or-later
"""Alarms: what is judged, raised once and reported when over; and that a dead server disturbs nobody."""

from __future__ import annotations

import json
import math
import os
import shutil
import socketserver
import ssl
import subprocess
import tempfile
import threading
import time
import unittest
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from tomostream.journal.runs import Process
from tomostream.journal.space import Room
from tomostream.journal.status import ProjectStatus
from tomostream.programs.ctf import CtfRow
from tomostream.programs.quality import Trust
from tomostream.report import acknowledged, attention, notify
from tomostream.report.alarms import KINDS, Alarm, Alarms, Change, Event, SessionFacts
from tomostream.report.announce import ALARMS, read_alarms
from tomostream.report.facts import SeriesFacts, TiltFacts, _ctf_of
from tomostream.report.judging import Thresholds, counts_of_expected, judge_series
from tomostream.report.notify import Destinations, Notifier, as_mail, message_of, utc
from tomostream.tests.support import wait_for

ANGLES = [float(angle) for angle in range(-60, 61, 3)]


def done(series_id: str, **facts) -> SeriesFacts:
    return SeriesFacts(series_id, state="done", **{"tilts_used": 41, "tilts_seen": 41, "tilt_axis_deg": 85.0, **facts})


def with_counts(scale=lambda angle: 1.0) -> list[TiltFacts]:
    """Tilts of a slab as thick as 0.8 mean free paths; `scale` spoils some."""
    return [TiltFacts(f"m{angle}", angle, mean_counts=50 * math.exp(-0.8 / math.cos(math.radians(angle))) * scale(angle))
            for angle in ANGLES]


def kinds(alarms: Alarms) -> list[tuple[str, bool]]:
    return [(event.kind, event.raised) for event in alarms.take_events()]


class TestWhatNeedsAPerson(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def test_a_session_with_a_dead_protocol_is_dead_though_others_run(self):
        for states, word in ((("running", "dead"), "dead"), (("stopped", "running"), "running"), (("finished",), "finished"),
                             (("finished", "stopped"), "stopped"), ((), "never-started")):
            found = {str(n): Process(state) for n, state in enumerate(states)}
            self.assertEqual(attention.session_state(found), word, states)

    def test_an_alarm_that_is_acknowledged_needs_nobody(self):
        alarms = [Alarm("drift", 1.0, "much"), Alarm("disk", 1.0, "little room", acknowledged=2.0)]
        self.assertEqual(attention.needs_attention(ProjectStatus(self.folder), {}, alarms), [f"{KINDS['drift']}: much"])

    def test_an_alarm_that_began_after_the_one_that_was_acknowledged_is_not_known(self):
        os.makedirs(os.path.join(self.folder, "data"))
        with open(os.path.join(self.folder, ALARMS), "w", encoding="utf-8") as file:
            json.dump([{"kind": "drift", "since": 100.0, "text": "much"}], file)
        for when, known in ((50.0, None), (100.0, 100.0), (150.0, 150.0)):
            acknowledged.acknowledge(self.folder, {"drift"}, when)
            self.assertEqual([alarm.acknowledged for alarm in read_alarms(self.folder)], [known], when)


class TestWhatIsWrongWithASeries(unittest.TestCase):
    def found(self, facts, **context):
        return {finding.kind for finding in judge_series(facts, Thresholds(), **context)}

    def test_a_good_series_shows_nothing(self):
        facts = done("a", tilts=tuple(with_counts()), thickness_A=1500.0, quality=0.9)
        self.assertEqual(self.found(facts, median_axis_deg=84.0, drift_limit_px=60.0), set())

    def test_counts_that_fall_with_the_cosine_are_what_is_expected(self):
        for part in counts_of_expected(with_counts()):
            self.assertAlmostEqual(part, 1.0, places=6)

    def test_a_grid_bar_at_high_tilt_is_found_and_nothing_else(self):
        tilts = tuple(with_counts(lambda angle: 0.3 if angle > 45 else 1.0))
        finding, = judge_series(done("a", tilts=tilts), Thresholds())
        self.assertEqual((finding.kind, finding.tilts), ("counts", tuple(f"m{angle}" for angle in ANGLES if angle > 45)))

    def test_doses_that_differ_from_tilt_to_tilt_are_no_low_counts(self):
        tilts = [TiltFacts(tilt.movie, tilt.angle_deg, dose_e_A2=1.0 if tilt.angle_deg > 45 else 3.0,
                           mean_counts=tilt.mean_counts * (1.0 if tilt.angle_deg > 45 else 3.0)) for tilt in with_counts()]
        self.assertEqual(judge_series(done("a", tilts=tuple(tilts)), Thresholds()), ())

    def test_lost_tilts_are_counted_against_the_expected_ones(self):
        self.assertEqual(self.found(done("a", tilts_used=30, tilts_expected=41)), {"tilts-lost"})
        self.assertEqual(self.found(done("a", tilts_used=38, tilts_expected=41)), set())
        self.assertEqual(self.found(done("a", tilts_used=17, tilts_expected=20)), set())       # 85 % are enough

    def test_the_defocus_of_a_series_is_that_of_tilts_up_to_45_degrees(self):
        tilts = tuple(TiltFacts(f"m{angle}", angle, defocus_um=9.0 if abs(angle) > 45 else 3.0)
                      for angle in (-60.0, -51.0, -45.0, 0.0, 48.0, 57.0))
        self.assertEqual(done("a", tilts=tilts).median_defocus_um, 3.0)
        self.assertIsNone(done("a", tilts=tilts[:2]).median_defocus_um)

    def test_the_tilt_nearest_to_0_degrees_and_the_dose_of_a_series_are_those_of_its_tilts(self):
        tilts = tuple(TiltFacts(f"m{angle}", angle, used=angle != 0.0, prior_dose_e_A2=prior, dose_e_A2=3.0)
                      for angle, prior in ((0.0, 0.0), (3.0, 3.0), (-6.0, 6.0)))
        facts = done("a", tilts=tilts)
        self.assertEqual((facts.least_tilt, facts.dose_e_A2), (tilts[1], 9.0))

    def test_astigmatism_is_the_difference_of_both_defoci_and_a_fit_of_nothing_is_no_defocus(self):
        row = CtfRow(1, 42_000.0, 38_000.0, 10.0, 0.0, 0.5, None)
        self.assertEqual(_ctf_of(row), {"defocus_um": 4.0, "astigmatism_um": 0.4, "ctf_resolution_A": None})
        self.assertEqual(_ctf_of(replace(row, defocus_max_A=0.0, defocus_min_A=0.0)), {})

    def test_an_axis_of_zero_degrees_is_a_value_and_axes_wrap_at_180(self):
        self.assertEqual(self.found(done("a", tilt_axis_deg=0.0), median_axis_deg=3.0), {"axis"})
        self.assertEqual(self.found(done("a", tilt_axis_deg=179.5), median_axis_deg=-0.5), set())
        self.assertEqual(self.found(done("a", tilt_axis_deg=86.4), median_axis_deg=85.0), set())
        self.assertEqual(self.found(done("a", tilt_axis_deg=86.6), median_axis_deg=85.0), {"axis"})

    def test_thickness_quality_residual_defocus_and_drift_have_limits(self):
        tilts = tuple(TiltFacts(f"m{n}", n * 3.0, sigma_px=9.0 if n == 2 else 0.2, defocus_um=3.0,
                                 drift_px=80.0 if n == 4 else 2.0)
                      for n in range(6))
        facts = done("a", tilts=tilts, thickness_A=6000.0, quality=0.1)
        self.assertEqual(self.found(facts, target_defocus_um=5.5, drift_limit_px=60.0),
                         {"thickness", "quality", "residual", "defocus", "drift"})
        self.assertEqual(self.found(done("a", thickness_A=200.0)), {"thickness"})

    def test_a_tilt_away_from_where_the_others_let_expect_it_has_a_residual_too_large(self):
        tilts = tuple(TiltFacts(f"m{n}", 3.0 * n, sigma_px=0.2, residual_px=7.5 if n == 2 else 0.3) for n in range(5))
        finding, = judge_series(done("a", tilts=tilts), Thresholds())
        self.assertEqual((finding.kind, finding.tilts), ("residual", ("m2",)))
        self.assertIn("7.5 px away", finding.text)

    def test_the_defocus_is_judged_by_the_users_target_else_the_microscopes_else_the_session(self):
        def series(name, defocus, target=None):
            return done(name, tilts=tuple(TiltFacts(f"m{n}", 3.0 * n, defocus_um=defocus, target_defocus_um=target)
                                          for n in range(5)))

        told = Alarms().series(series("a", 6.0, 4.0), 1.0)
        self.assertEqual([(each.kind, each.text) for each in told], [("defocus", "defocus 6.0 µm, where 4.0 µm was expected")])
        self.assertEqual(Alarms().series(series("a", 6.0), 1.0), ())
        self.assertEqual(Alarms(Thresholds(defocus_target_um=6.0)).series(series("a", 6.0, 4.0), 1.0), ())
        session = Alarms()
        for n in range(3):
            session.series(series(f"s{n}", 3.0), n)
        self.assertEqual(len(session.series(series("far", 6.0), 4.0)), 1)
        self.assertEqual(session.series(series("as it was set", 6.0, 6.0), 5.0), ())

    def test_an_alignment_that_is_not_to_be_trusted_is_reported_at_any_quality(self):
        facts = done("a", quality=0.69, quality_note="do not trust: only 8 tilts are used", trust=Trust.DOUBTFUL)
        finding, = judge_series(facts, Thresholds())
        self.assertEqual((finding.kind, finding.text), ("quality", "do not trust: only 8 tilts are used"))
        self.assertEqual(self.found(done("a", quality=0.9, quality_note="trust", trust=Trust.TRUSTED)), set())

    def test_whether_to_trust_is_not_read_from_the_words(self):
        self.assertEqual(self.found(done("a", quality=0.9, quality_note="do not trust", trust=Trust.TRUSTED)), set())
        self.assertEqual(self.found(done("a", quality=0.9, quality_note="", trust=Trust.DOUBTFUL)), {"quality"})

    def test_a_failed_series_says_why(self):
        finding, = judge_series(SeriesFacts("a", state="failed", reason="two tilts only"), Thresholds())
        self.assertEqual((finding.kind, finding.text), ("series-failed", "two tilts only"))

    def test_a_threshold_that_is_off_finds_nothing(self):
        limits = Thresholds.parse(["thickness_max_A=off", "quality_min=off"])
        self.assertEqual(judge_series(done("a", thickness_A=9999.0, quality=0.0), limits), ())


class TestRaisedOnceAndToldWhenOver(unittest.TestCase):
    def test_the_second_bad_series_says_nothing_and_three_good_ones_end_it(self):
        alarms = Alarms()
        alarms.series(done("bad1", thickness_A=9000.0), 1.0)
        self.assertEqual(kinds(alarms), [("thickness", True)])
        alarms.series(done("good1"), 2.0)
        alarms.series(done("good2"), 3.0)
        alarms.series(done("bad2", thickness_A=9000.0), 4.0)
        for n in range(2):
            alarms.series(done(f"good{n + 3}"), 5.0 + n)
        self.assertEqual(kinds(alarms), [])
        self.assertEqual(alarms.active["thickness"].items, ("bad1", "bad2"))
        alarms.series(done("good9"), 9.0)
        self.assertEqual(kinds(alarms), [("thickness", False)])
        self.assertEqual(alarms.active, {})

    def test_a_series_made_again_without_it_is_no_sign_that_it_is_over_while_others_show_it(self):
        alarms = Alarms(Thresholds(quiet_series=3))
        for name in ("a", "b"):
            alarms.series(done(name, thickness_A=9000.0), 0.0)
        alarms.series(done("a", thickness_A=1500.0, version=2), 1.0)
        for name in ("c", "d"):
            alarms.series(done(name, thickness_A=1500.0), 2.0)
        self.assertEqual(kinds(alarms), [("thickness", True)])
        alarms.series(done("e", thickness_A=1500.0), 4.0)
        self.assertEqual(kinds(alarms), [("thickness", False)])

    def test_a_series_made_again_without_it_ends_the_alarm_at_once(self):
        alarms = Alarms()
        alarms.series(done("a", tilts_used=20), 1.0)
        alarms.series(done("a", tilts_used=41, version=2), 2.0)
        self.assertEqual(kinds(alarms), [("tilts-lost", True), ("tilts-lost", False)])

    def test_the_same_series_judged_twice_counts_once(self):
        alarms = Alarms()
        for _ in range(5):
            alarms.series(done("a", tilts_used=20), 1.0)
        self.assertEqual((kinds(alarms), alarms.active["tilts-lost"].count), ([("tilts-lost", True)], 1))

    def test_the_axis_is_judged_by_the_series_before(self):
        alarms = Alarms()
        for n, axis in enumerate((84.9, 85.0, 85.2)):
            alarms.series(done(f"s{n}", tilt_axis_deg=axis), n)
        alarms.series(done("turned", tilt_axis_deg=88.0), 4.0)
        self.assertEqual(kinds(alarms), [("axis", True)])

    def test_drift_is_judged_as_the_movies_come(self):
        alarms = Alarms()
        for n in range(30):
            alarms.tilt(n, f"m{n}", 2.0)
        alarms.tilt(31.0, "shaken", 15.0)       # 6 times the median of 2 px
        alarms.tilt(32.0, "shaken too", 15.0)
        self.assertEqual(kinds(alarms), [("drift", True)])
        for n in range(20):
            alarms.tilt(40 + n, f"n{n}", 2.0)
        self.assertEqual(kinds(alarms), [("drift", False)])

    def test_a_series_that_is_made_again_counts_once_for_the_usual_tilt_axis(self):
        alarms = Alarms()
        for version in (1, 2, 3):
            alarms.series(done("a", tilt_axis_deg=80.0, version=version), version)
        alarms.series(done("b", tilt_axis_deg=90.0), 4.0)
        self.assertEqual(kinds(alarms), [])

    def test_an_alarm_that_is_over_is_not_raised_again_for_a_series_that_is_as_it_was(self):
        alarms = Alarms()
        alarms.series(done("a", thickness_A=9000.0), 1.0)
        for n in range(alarms.thresholds.quiet_series):
            alarms.series(done(f"s{n}"), 2.0)
        alarms.series(done("a", thickness_A=9000.0, version=2), 3.0)
        self.assertEqual(kinds(alarms), [("thickness", True), ("thickness", False)])

    def test_falling_behind_is_over_when_it_is_well_below_its_limit(self):
        alarms = Alarms(Thresholds(behind_minutes=10.0, release=0.7))
        held = []
        for now, minutes in enumerate((11.0, 9.0, 6.0)):
            alarms.session(SessionFacts(running=True, backlog_tilts=5, backlog_minutes=minutes), float(now))
            held.append("behind" in alarms.active)
        self.assertEqual(held, [True, True, False])

    def test_the_drift_of_a_session_is_no_measure_before_twenty_movies_are_known(self):
        alarms = Alarms(Thresholds(drift_px=None, drift_factor=5.0, drift_min_px=1.0))
        for n in range(19):
            alarms.tilt(n, f"m{n}", 2.0)
        self.assertIsNone(alarms.drift_limit())
        alarms.tilt(19.0, "m19", 2.0)
        self.assertEqual(alarms.drift_limit(), 10.0)

    def test_a_movie_that_failed_raises_an_alarm_with_its_reason(self):
        alarms = Alarms()
        alarms.tilt(1.0, "m1", failed="it is cut short")
        event, = alarms.take_events()
        self.assertIn("it is cut short", event.text)

    def test_a_movie_that_fails_twice_is_counted_once(self):
        alarms = Alarms()
        for n, movie in enumerate(("m1", "m1", "m2")):
            alarms.tilt(n, movie, failed="it is cut short")
        self.assertEqual((alarms.active["movie-failed"].items, alarms.active["movie-failed"].count), (("m1", "m2"), 2))

    def test_nothing_is_raised_while_the_session_rests_for_less_than_its_rhythm(self):
        alarms = Alarms()
        alarms.session(SessionFacts(seconds_since_movie=1000.0, rhythm_s=400.0), 1.0)
        self.assertEqual(kinds(alarms), [])
        alarms.session(SessionFacts(seconds_since_movie=1300.0, rhythm_s=400.0), 2.0)
        alarms.session(SessionFacts(seconds_since_movie=1400.0, rhythm_s=400.0), 3.0)
        alarms.session(SessionFacts(seconds_since_movie=2.0, rhythm_s=400.0), 4.0)
        self.assertEqual(kinds(alarms), [("silence", True), ("silence", False)])

    def test_a_session_that_ended_is_neither_silent_nor_behind(self):
        alarms = Alarms()
        alarms.session(SessionFacts(seconds_since_movie=5000.0, backlog_minutes=99.0), 1.0)
        alarms.session(SessionFacts(running=False, seconds_since_movie=9000.0, backlog_minutes=99.0), 2.0)
        self.assertEqual(kinds(alarms), [("silence", True), ("behind", True), ("silence", False), ("behind", False)])

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.floats(11.0, 16.0), max_size=40))
    def test_a_backlog_that_wavers_about_its_threshold_is_reported_once(self, minutes):
        alarms = Alarms()
        for n, value in enumerate([20.0, *minutes]):
            alarms.session(SessionFacts(backlog_minutes=value), n)
        self.assertEqual(kinds(alarms), [("behind", True)])

    def test_the_disk_must_have_more_than_the_threshold_again(self):
        alarms = Alarms()
        for n, free in enumerate((100.0, 4.0, 5.5, 4.5, 9.0)):
            alarms.session(SessionFacts(disk=Room(round(free * 1e9), round(100e9))), n)
        self.assertEqual(kinds(alarms), [("disk", True), ("disk", False)])

    def test_a_disk_that_is_too_small_for_the_session_is_the_same_alarm_as_one_that_is_nearly_full(self):
        alarms, roomy = Alarms(), Room(round(50e9), round(100e9))
        alarms.session(SessionFacts(disk=roomy, shortage="12 h at the present pace need 60 GB"), 1.0)
        alarms.session(SessionFacts(disk=Room(round(1e9), round(100e9))), 2.0)
        alarms.session(SessionFacts(disk=roomy), 3.0)
        self.assertEqual(kinds(alarms), [("disk", True), ("disk", False)])

    def test_a_full_disk_is_reported_by_the_threshold_of_the_form_alone_where_it_has_one(self):
        alarms = Alarms(Thresholds.parse(["disk_free_GB=20", "disk_free_fraction=off"]))
        alarms.session(SessionFacts(disk=Room(round(19e9), round(1000e9))), 1.0)
        self.assertEqual(kinds(alarms), [("disk", True)])
        off = Alarms(Thresholds.parse(["disk_free_GB=off", "disk_free_fraction=off"]))
        off.session(SessionFacts(disk=Room(1, round(1000e9))), 1.0)
        self.assertEqual(kinds(off), [])

    def test_entries_that_cannot_be_read_are_an_alarm_of_their_protocol(self):
        alarms = Alarms()
        alarms.session(SessionFacts(unreadable={"compose": "1 entry cannot be read and is left out (ledger.jsonl: ...)"}), 1.0)
        alarm, = alarms.open
        self.assertEqual((alarm.key, alarm.text), (
            "unreadable/compose", "compose: 1 entry cannot be read and is left out (ledger.jsonl: ...)"))

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60))
    def test_raised_and_over_take_turns_whatever_comes(self, session):
        alarms = Alarms()
        for n, (name, bad) in enumerate(session):
            alarms.series(done(f"s{name}", tilts_used=10 if bad else 41), n)
        told = [raised for _, raised in kinds(alarms)]
        self.assertEqual(told, [place % 2 == 0 for place in range(len(told))])
        self.assertEqual("tilts-lost" in alarms.active, len(told) % 2 == 1)

    def test_every_failed_series_is_an_alarm_of_its_own_and_stays_whatever_comes_after(self):
        alarms = Alarms()
        for n in range(2):
            alarms.series(SeriesFacts(f"bad{n}", state="failed", reason="no axis"), n)
        for n in range(10):
            alarms.series(done(f"good{n}"), 10.0 + n)
        self.assertEqual(kinds(alarms), [("series-failed", True), ("series-failed", True)])
        self.assertEqual([alarm.of for alarm in alarms.open], ["bad0", "bad1"])

    def test_a_failed_series_is_over_when_it_is_made_or_turns_out_to_be_none(self):
        alarms = Alarms()
        for name in ("a", "b"):
            alarms.series(SeriesFacts(name, state="failed", reason="no axis"), 1.0)
        alarms.series(done("a", version=2), 2.0)
        alarms.gone("b", 3.0)
        self.assertEqual([(event.of, event.change) for event in alarms.take_events()],
                         [("a", Change.RAISED), ("b", Change.RAISED), ("a", Change.OVER), ("b", Change.OVER)])

    def test_an_acknowledged_alarm_is_not_over_and_not_raised_again_for_what_was_seen(self):
        alarms = Alarms()
        alarms.series(SeriesFacts("a", state="failed", reason="no axis"), 1.0)
        alarms.acknowledge({"series-failed/a": 5.0}, 5.0)
        alarms.acknowledge({"series-failed/a": 5.0}, 6.0)
        alarms.series(SeriesFacts("a", state="failed", reason="no axis"), 7.0)
        alarms.series(SeriesFacts("b", state="failed", reason="no axis"), 8.0)
        self.assertEqual([(event.of, event.change) for event in alarms.take_events()],
                         [("a", Change.RAISED), ("a", Change.ACKNOWLEDGED), ("b", Change.RAISED)])
        self.assertEqual(([alarm.of for alarm in alarms.open], len(alarms.active)), (["b"], 2))

    def test_an_alarm_that_was_acknowledged_is_raised_again_for_one_more_series(self):
        alarms = Alarms()
        alarms.series(done("a", thickness_A=9000.0), 1.0)
        alarms.acknowledge({"thickness": 2.0}, 2.0)
        alarms.series(done("b", thickness_A=9000.0), 3.0)
        alarms.acknowledge({"thickness": 2.0}, 4.0)
        self.assertEqual([alarm.kind for alarm in alarms.open], ["thickness"])

    def test_a_protocol_that_died_is_an_alarm_until_it_runs_again_though_the_session_no_longer_runs(self):
        alarms = Alarms()
        alarms.session(SessionFacts(running=False, dead=("import", "compose")), 1.0)
        alarms.session(SessionFacts(running=False, dead=("compose",)), 2.0)
        self.assertEqual([(event.of, event.change) for event in alarms.take_events()],
                         [("import", Change.RAISED), ("compose", Change.RAISED), ("import", Change.OVER)])

    def test_a_session_stands_still_when_work_is_there_for_long_and_nothing_comes_of_it(self):
        alarms = Alarms()
        for minute in range(31):        # the pause before was long: that is no standstill
            alarms.session(SessionFacts(backlog_tilts=3, seconds_since_result=9000.0 + 60 * minute), 60.0 * minute)
            self.assertEqual("standstill" in alarms.active, minute > 20, minute)
        alarms.session(SessionFacts(backlog_tilts=3, seconds_since_result=5.0), 1900.0)
        self.assertEqual(kinds(alarms), [("standstill", True), ("standstill", False)])

    def test_long_tomograms_are_no_standstill(self):
        alarms = Alarms()
        for minute in range(60):
            alarms.session(SessionFacts(backlog_series=1, seconds_since_result=60.0 * minute, series_s=1200.0), 60.0 * minute)
        self.assertEqual(kinds(alarms), [])

    def test_a_queue_that_does_not_answer_for_minutes_is_an_alarm_of_its_protocol(self):
        alarms = Alarms()
        for minute in (0.0, 4.0, 5.0, 6.0):
            alarms.session(SessionFacts(queues={"motioncor": "the queue does not answer"}), 60.0 * minute)
        alarms.session(SessionFacts(), 420.0)
        told = alarms.take_events()
        self.assertEqual([(event.kind, event.of, event.change, event.time) for event in told],
                         [("queue", "motioncor", Change.RAISED, 300.0), ("queue", "motioncor", Change.OVER, 420.0)])
        self.assertIn("the queue does not answer", told[0].text)

    def test_thresholds_are_refused_in_words(self):
        for word, part in (("axis=2", "not a threshold"), ("axis_deg=much", "cannot be 'much'"),
                           ("quiet_series=off", "cannot be")):
            with self.assertRaisesRegex(ValueError, part):
                Thresholds.parse([word])
        self.assertEqual(Thresholds.parse(["axis_deg=2.5"]).axis_deg, 2.5)


class Mails(socketserver.StreamRequestHandler):
    """As much of a mail server as smtplib talks to."""

    def handle(self):
        self.wfile.write(b"220 here\r\n")
        while True:
            line = self.rfile.readline().decode()
            word = line[:4].upper()
            if word == "DATA":
                self.wfile.write(b"354 go on\r\n")
                text = b""
                while not text.endswith(b"\r\n.\r\n"):
                    text += self.rfile.readline()
                self.server.got.append(text.decode())
            if word in ("QUIT", ""):
                self.wfile.write(b"221 bye\r\n")
                return
            self.wfile.write(b"250 ok\r\n")


class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.headers["Content-Type"], json.loads(body)))
        self.send_response(500 if len(self.server.got) <= self.server.failures else 200)
        self.end_headers()

    def log_message(self, *_):
        pass


class TestSending(unittest.TestCase):
    event = Event(1_800_000_000.0, "axis", Change.RAISED, "TS_7: tilt axis 88.0 degrees", 1_800_000_000.0)

    def serve(self, kind, handler, failures=0):
        server = kind(("127.0.0.1", 0), handler)
        server.got, server.failures = [], failures
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        return server, f"127.0.0.1:{server.server_address[1]}"

    def send(self, destinations, events=(event,), wait=10.0):
        notifier = Notifier(destinations, "night", time_out=2.0)
        for event in events:
            notifier.send(event)
        notifier.close(wait)
        return notifier

    def test_a_mail_server_gets_the_alarm_and_its_end(self):
        server, address = self.serve(socketserver.TCPServer, Mails)
        over = Event(1_800_000_600.0, "axis", Change.OVER, "the last 3 were without it", 1_800_000_000.0)
        notifier = self.send(Destinations(("me@lab.org", "you@lab.org"), "scope@lab.org", address), (self.event, over))
        self.assertEqual((notifier.trouble, len(server.got)), ("", 2))
        self.assertIn("Subject: [tomostream] night: Tilt axis\r\n", server.got[0])
        self.assertIn("To: me@lab.org, you@lab.org", server.got[0])
        self.assertIn("TS_7: tilt axis 88.0 degrees", server.got[0])
        self.assertIn("Tilt axis: over", server.got[1])
        self.assertIn(f"It began at {utc(1_800_000_000.0)}", server.got[1])

    def test_an_error_that_nobody_foresaw_is_reported_and_the_next_alarm_is_sent(self):
        notifier = Notifier(Destinations(webhook="http://chat"), "night")
        with mock.patch.object(notify, "deliver", side_effect=[RuntimeError("unforeseen"), [("the webhook", "")]]):
            notifier.send(self.event)
            wait_for(lambda: "unexpected error (RuntimeError: unforeseen)" in notifier.trouble, 60, "word of it", every=0.01)
            notifier.send(self.event)
            notifier.close(10.0)
        self.assertEqual((notifier.sent, notifier.trouble), (1, ""))

    def test_a_webhook_gets_json(self):
        server, address = self.serve(HTTPServer, Hook)
        self.send(Destinations(webhook=f"http://{address}/alarm"))
        kind, body = server.got[0]
        self.assertEqual(kind, "application/json")
        self.assertEqual(body, {"format": 1, "session": "night", "kind": "axis", "state": "raised",
                                "time": "2027-01-15T08:00:00Z", "of": "", "since": "2027-01-15T08:00:00Z",
                                "message": "TS_7: tilt axis 88.0 degrees",
                                "text": "night – Tilt axis: TS_7: tilt axis 88.0 degrees"})

    def test_a_webhook_that_fails_once_is_tried_again(self):
        server, address = self.serve(HTTPServer, Hook, failures=1)
        notifier = self.send(Destinations(webhook=f"http://{address}/"))
        self.assertEqual((len(server.got), notifier.trouble, notifier.sent), (2, "", 1))

    def test_a_dead_server_is_reported_and_delays_nothing(self):
        listener = socketserver.TCPServer(("127.0.0.1", 0), Mails)      # accepts, and never says a word
        self.addCleanup(listener.server_close)
        silent = f"127.0.0.1:{listener.server_address[1]}"
        began = time.monotonic()
        both = Destinations(("me@lab.org",), server=silent, webhook="http://127.0.0.1:1/")
        notifier = Notifier(both, "night", time_out=0.2)
        for _ in range(300):
            notifier.send(self.event)
        self.assertLess(time.monotonic() - began, 10.0)         # 300 that waited for the time-out would take a minute
        self.assertIn("are waiting to be sent", notifier.trouble)
        notifier.close(0.1)
        wait_for(lambda: all(thread.name != "tomostream-alarms" for thread in threading.enumerate()), 60, "no thread left over")
        short = self.send(Destinations(webhook="http://127.0.0.1:1/"))
        self.assertRegex(short.trouble, "webhook at 127.0.0.1 did not accept the alarm.*refused")

    def test_a_name_with_line_ends_cannot_write_headers(self):
        event = Event(1.0, "axis", Change.RAISED, "x\r\nBcc: all@lab.org", 1.0)
        message = as_mail(message_of(event, "night\r\nBcc: all@lab.org"), Destinations(("me@lab.org",)))
        self.assertIsNone(message["Bcc"])

    def test_a_name_that_is_no_text_is_sent_all_the_same(self):
        server, address = self.serve(HTTPServer, Hook)
        mails, mail_address = self.serve(socketserver.TCPServer, Mails)
        event = Event(1.0, "axis", Change.RAISED, "TS_\udcff\n1: tilt axis", 1.0)
        sent = self.send(Destinations(("me@lab.org",), server=mail_address, webhook=f"http://{address}/"), (event,))
        self.assertEqual((sent.trouble, server.got[0][1]["message"], len(mails.got)), ("", "TS_? 1: tilt axis", 1))

    def test_a_test_message_says_of_each_way_whether_it_was_taken(self):
        server, address = self.serve(socketserver.TCPServer, Mails)
        both = Destinations(("me@lab.org",), server=address, webhook="http://127.0.0.1:1/")
        mail, hook = notify.test_message(both, "night", 2.0)
        self.assertEqual((mail, len(server.got)), ((f"the mail server {address}", ""), 1))
        self.assertRegex(hook[1], "webhook at 127.0.0.1 did not accept.*refused")

    def test_wrong_destinations_are_refused_in_words(self):
        for name, value in (("TOMOSTREAM_ALARM_EMAIL", "me"), ("TOMOSTREAM_SMTP_SERVER", "host:mail"),
                            ("TOMOSTREAM_WEBHOOK", "file:///etc/passwd")):
            with self.assertRaisesRegex(ValueError, name):
                Destinations.from_environment({name: value})
        self.assertFalse(Destinations.from_environment({}))

    def test_variables_come_from_the_environment_else_from_the_users_else_from_scipions_configuration(self):
        with tempfile.TemporaryDirectory() as home:
            os.makedirs(os.path.join(home, "config"))
            local = os.path.join(home, "mine.conf")
            with open(os.path.join(home, "config", "scipion.conf"), "w", encoding="utf-8") as file:
                file.write("[PYWORKFLOW]\nSCIPION_NOTIFY = False\n[PLUGINS]\nEM_ROOT = software/em\n"
                           "TOMOSTREAM_ALARM_EMAIL = all@lab.org\nTOMOSTREAM_SMTP_SERVER = home:2525\n"
                           "TOMOSTREAM_SMTP_PASSWORD = 10%secret\nTOMOSTREAM_WEBHOOK =\n")
            with open(local, "w", encoding="utf-8") as file:
                file.write("[PLUGINS]\nTOMOSTREAM_ALARM_EMAIL = me@lab.org\n")
            environment = {"SCIPION_HOME": home, "SCIPION_LOCAL_CONFIG": local, "TOMOSTREAM_SMTP_SERVER": "here:25"}
            with mock.patch.dict(os.environ, environment):
                found = Destinations.configured()
            self.assertEqual(found, Destinations(("me@lab.org",), server="here:25", password="10%secret"))
            with open(local, "w", encoding="utf-8") as file:
                file.write("no configuration\x00")
            with mock.patch.dict(os.environ, environment):
                self.assertEqual(Destinations.configured().email, ("all@lab.org",))

    def test_without_destinations_no_thread_is_started(self):
        notifier = self.send(Destinations())
        self.assertIsNone(notifier._thread)


class SecureMails(Mails):
    """A mail server that offers STARTTLS with a certificate of its own making, and then wants a password."""

    def handle(self):
        self.wfile.write(b"220 here\r\n")
        private = False
        while line := self.rfile.readline().decode():
            word = line[:4].upper()
            if word == "EHLO":
                self.wfile.write(b"250-here\r\n" + (b"250 AUTH PLAIN\r\n" if private else b"250 STARTTLS\r\n"))
            elif word == "STAR":
                self.wfile.write(b"220 go on\r\n")
                try:
                    self.request = self.server.tls.wrap_socket(self.request, server_side=True)
                except OSError:
                    return              # they did not trust us
                self.rfile, self.wfile, private = self.request.makefile("rb"), self.request.makefile("wb", 0), True
            elif word == "AUTH":
                self.server.passwords.append((private, line))
                self.wfile.write(b"235 ok\r\n")
            elif word == "DATA":
                self.wfile.write(b"354 go on\r\n")
                while self.rfile.readline() != b".\r\n":
                    pass
                self.server.got.append(private)
                self.wfile.write(b"250 ok\r\n")
            elif word == "QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            else:
                self.wfile.write(b"250 ok\r\n")


@unittest.skipUnless(shutil.which("openssl"), "no openssl to make a certificate")
class TestPrivateMail(unittest.TestCase):
    """Mail over TLS with a verified certificate; no password over an open line."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.certificate, key = os.path.join(folder.name, "cert.pem"), os.path.join(folder.name, "key.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", self.certificate,
                        "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
                       check=True, capture_output=True)
        self.server = socketserver.TCPServer(("127.0.0.1", 0), SecureMails)
        self.server.got, self.server.passwords = [], []
        self.server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.tls.load_cert_chain(self.certificate, key)
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(self.server.shutdown)
        self.to = Destinations(("me@lab.org",), server=f"127.0.0.1:{self.server.server_address[1]}", user="me", password="secret")

    def test_mail_and_password_travel_over_tls_with_a_certificate_that_is_trusted(self):
        trusted = ssl.create_default_context(cafile=self.certificate)
        with mock.patch.object(notify.ssl, "create_default_context", return_value=trusted):
            (_, problem), = notify.test_message(self.to, time_out=5.0)
        self.assertEqual((problem, self.server.got), ("", [True]))
        self.assertEqual([private for private, _ in self.server.passwords], [True])

    def test_a_certificate_that_nobody_vouches_for_gets_neither_mail_nor_password(self):
        (_, problem), = notify.test_message(self.to, time_out=5.0)
        self.assertRegex(problem, "certificate that cannot be trusted")
        self.assertEqual((self.server.got, self.server.passwords), ([], []))

    def test_this_machines_own_mail_server_may_sign_its_own_certificate_where_no_password_is_at_stake(self):
        (_, problem), = notify.test_message(replace(self.to, user="", password=""), time_out=5.0)
        self.assertEqual((problem, self.server.got), ("", [True]))

    def test_a_server_elsewhere_is_verified_with_and_without_a_password(self):
        for password in (False, True):
            context = notify.tls_context("mail.lab.org", password)
            self.assertEqual((context.verify_mode, context.check_hostname), (ssl.CERT_REQUIRED, True))

    def test_a_password_is_not_sent_to_a_server_without_tls(self):
        with mock.patch.object(SecureMails, "handle", Mails.handle):
            (_, problem), = notify.test_message(self.to, time_out=5.0)
        self.assertRegex(problem, "offers no TLS.*password is not sent unencrypted")
        self.assertEqual(self.server.got, [])


if __name__ == "__main__":
    unittest.main()
