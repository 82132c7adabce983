# SPDX-License-Identifier: GPL-3.0-or-later
"""Which defoci are believed: the rings, the target of the microscope and the other series as evidence."""

from __future__ import annotations

import os
import tempfile
import unittest

from pyworkflow.config import Config

Config.getDomain().getProtocols()

from tomostream.journal import entries  # noqa: E402
from tomostream.journal.composed import SeriesRecord, TiltRecord, target_defocus, write_record  # noqa: E402
from tomostream.programs.ctf import CtfRow  # noqa: E402
from tomostream.programs.defocus import Doubt, Evidence, judge  # noqa: E402
from tomostream.programs.quality import Quality  # noqa: E402
from tomostream.protocols.aretomo_series import Result, Source  # noqa: E402
from tomostream.protocols.defoci import Defoci  # noqa: E402

PIXEL = 4.0


def rows(*defoci: float, resolution: float | None = 13.0, score: float = 0.6) -> tuple[CtfRow, ...]:
    """Defoci in um."""
    return tuple(CtfRow(number, 1e4 * value + 100, 1e4 * value - 100, 0.0, 0.0, score, resolution)
                 for number, value in enumerate(defoci, start=1))


class TestABelief(unittest.TestCase):
    """What the simulated series of seeds 2 and 5 gave: 0.93 µm where 4 µm is true, with a score of 0.67."""

    WRONG = rows(0.95, 0.93, 0.92, resolution=12.7, score=0.67)
    RIGHT = rows(5.8, 5.9, 6.0, resolution=22.5, score=0.76)

    def doubt(self, ctf, *evidence, pixel: float = PIXEL) -> Doubt:
        return judge(ctf, Evidence(*evidence), pixel).doubt

    def test_few_rings_are_not_believed_without_any_evidence(self):
        self.assertIs(self.doubt(self.WRONG), Doubt.RINGS)
        self.assertIs(self.doubt(self.RIGHT), Doubt.NONE)

    def test_what_the_target_contradicts_is_not_believed(self):
        self.assertIs(self.doubt(self.WRONG, 4.0), Doubt.TARGET)
        self.assertIs(self.doubt(self.RIGHT, 5.2), Doubt.NONE)
        belief = judge(self.WRONG, Evidence(4.0), PIXEL)
        self.assertEqual(belief.words, "a defocus of 0.93 µm is not believed: the target is 4.00 µm, and few rings support it")
        self.assertEqual(belief.tilts, {0, 1, 2})

    def test_a_target_speaks_for_few_rings(self):
        self.assertIs(self.doubt(rows(3.2, 3.1, resolution=22.5, score=0.53), 3.0), Doubt.NONE)

    def test_what_the_other_series_contradict_is_not_believed(self):
        self.assertIs(self.doubt(self.WRONG, None, (4.1, 3.8, 4.4)), Doubt.SERIES)
        self.assertIs(self.doubt(rows(4.6, 4.7), None, (4.1, 3.8, 4.4)), Doubt.NONE)

    def test_no_evidence_helps_where_there_is_hardly_a_ring(self):
        self.assertIs(self.doubt(rows(2.9, 2.8, resolution=23.4), 2.3), Doubt.RINGS)

    def test_one_other_series_says_nothing_yet(self):
        self.assertIs(self.doubt(self.RIGHT, None, (3.0,)), Doubt.NONE)

    def test_series_of_a_session_whose_defocus_varies_are_no_narrow_evidence(self):
        self.assertIs(self.doubt(rows(2.6, 2.6, resolution=13.0), None, (2.0, 3.0, 4.0, 5.0, 6.0)), Doubt.NONE)

    def test_many_rings_and_a_good_score_stand_against_a_target_and_this_is_reported(self):
        belief = judge(rows(2.0, 2.0, resolution=8.0, score=0.9), Evidence(4.0), 1.35)
        self.assertIs(belief.doubt, Doubt.NONE)
        self.assertIn("although the target is 4.00 µm", belief.words)

    def test_where_no_resolution_is_measured_the_pixels_must_hold_more_rings(self):
        self.assertIs(self.doubt(rows(0.93, 0.93, resolution=None)), Doubt.RINGS)
        self.assertIs(self.doubt(rows(4.0, 4.0, resolution=None)), Doubt.NONE)

    def test_one_tilt_far_from_its_series_is_not_believed(self):
        belief = judge(rows(4.0, 4.1, 0.9, 3.9), Evidence(4.0), PIXEL)
        self.assertEqual((belief.doubt, belief.tilts), (Doubt.NONE, {2}))

    def test_nothing_fitted_is_nothing_to_believe(self):
        self.assertIsNone(judge((), Evidence(4.0), PIXEL))


class TestTheSessionsDefoci(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def source(self, name: str) -> Source:
        return Source(name, os.path.join(self.folder, f"{name}.mrcs"), "", "", (8, 8), PIXEL, 85.0, ())

    def test_series_that_were_believed_speak_for_the_next_also_after_a_restart(self):
        told = [entries.Reconstructed("TS_1", defocus_um=4.0), entries.Reconstructed("TS_2", defocus_um=4.2),
                entries.Reconstructed("TS_3")]
        defoci = Defoci(told)
        defoci.judge(self.source("TS_4"), Result("", ctf=TestABelief.WRONG, quality=Quality(defocus_hand=1)), 300.0)
        self.assertIsNone(defoci.value("TS_4"))
        self.assertEqual(defoci.doubted("TS_4"), {0, 1, 2})
        self.assertIn("the other series are at 4.10 µm", defoci.words("TS_4"))
        self.assertIsNone(defoci.verdict(self.source("TS_4"), Result("", quality=Quality(defocus_hand=1))).hand)

    def test_a_series_is_no_evidence_for_itself_and_one_that_is_doubted_when_made_again_none_for_others(self):
        defoci = Defoci([entries.Reconstructed(name, defocus_um=4.0) for name in ("TS_1", "TS_4")])    # two would be enough
        defoci.judge(self.source("TS_4"), Result("", ctf=TestABelief.WRONG), 300.0)
        self.assertNotIn("the other series", defoci.words("TS_4"))
        self.assertIsNone(defoci.value("TS_4"))
        self.assertEqual(defoci._values, {"TS_1": 4.0})

    def test_a_hand_is_believed_with_its_defocus(self):
        defoci = Defoci([entries.Reconstructed("TS_1", defocus_um=5.9), entries.Reconstructed("TS_2", defocus_um=5.9)])
        result = Result("", ctf=TestABelief.RIGHT, quality=Quality(defocus_hand=1))
        defoci.judge(self.source("TS_4"), result, 300.0)
        self.assertEqual(defoci.value("TS_4"), 5.9)
        self.assertIsNotNone(defoci.verdict(self.source("TS_4"), result).hand)

    def test_the_target_comes_from_what_the_stack_was_made_of(self):
        source = self.source("TS_5")
        write_record(SeriesRecord("TS_5", tuple(TiltRecord("m", 0.0, target_defocus=value) for value in (3.9, 4.0, 4.1))),
                     os.path.join(self.folder, "TS_5.json"))
        self.assertEqual(target_defocus(source.stack), 4.0)
        self.assertIsNone(target_defocus(self.source("TS_6").stack))
        defoci = Defoci([])
        defoci.judge(source, Result("", ctf=TestABelief.WRONG), 300.0)
        self.assertIn("the target is 4.00 µm", defoci.words("TS_5"))
