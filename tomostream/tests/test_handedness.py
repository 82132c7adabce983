# SPDX-License-Identifier: GPL-3.0-or-later
"""The sign of the tilt angles: what it does to a volume of known hand, what speaks for which, and how a choice is remembered."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest import mock

import mrcfile
import numpy as np
import scipy.fft

from tomostream.acquisition import events
from tomostream.acquisition.facts import Known, Tilt
from tomostream.acquisition.instrument import instrument_name
from tomostream.choices import handedness, instruments
from tomostream.cli import main
from tomostream.engine import quick
from tomostream.engine.ctf import Optics, fit_series
from tomostream.journal import entries, ledger
from tomostream.journal.composed import ComposedSeries, read_series
from tomostream.programs.aln import AlnFile, AlnRow, format_aln
from tomostream.programs.quality import Quality, format_quality
from tomostream.simulator.projector import Optics as Lens
from tomostream.simulator.projector import projection_spectrum
from tomostream.simulator.specimen import Specimen, _marks
from tomostream.tests import test_ctf

SIDE, PIXEL, AXIS = 112, 18.0, 84.0
ANGLES = tuple(float(angle) for angle in range(-50, 51, 10))
SHIFTS = tuple((0.4 * k - 2.0, 1.0 - 0.3 * k) for k in range(len(ANGLES)))
COMPOSE, ARETOMO = "000131_ProtTomoStreamComposeTS", "000177_ProtTomoStreamAreTomo"


def stack_of_marks(path: str) -> None:
    """The three tubes of the simulator, seen without noise: the shortest goes along +Z, nothing along -Z."""
    points, weight = _marks(np.random.default_rng(1))
    specimen = Specimen(points.astype(np.float32), np.full(len(points), weight, np.float32), 1000.0)
    images = []
    for angle, shift in zip(ANGLES, SHIFTS, strict=True):
        spectrum = projection_spectrum(specimen, (SIDE, SIDE), PIXEL, angle, AXIS, shift, Lens(None))
        images.append(1.0 - scipy.fft.irfft2(spectrum, (SIDE, SIDE)))
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data((1000.0 * np.stack(images)).astype(np.float32))
        mrc.voxel_size = PIXEL


class ProjectCase(unittest.TestCase):
    """A project with one composed series, and a memory of instruments of its own."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.project = folder.name
        patch = mock.patch.dict(os.environ, {instruments.VARIABLE: os.path.join(self.project, "memory", "instruments.json")})
        patch.start()
        self.addCleanup(patch.stop)
        self.extra = os.path.join(self.project, "Runs", COMPOSE, "extra")
        os.makedirs(self.extra)

    def compose(self, negated: bool = False) -> None:
        """The series in the project, its true alignment as that of an AreTomo run."""
        mdoc = os.path.join(self.project, "TS_01.mdoc")
        with open(mdoc, "w", encoding="utf-8") as file:
            file.write("[T = SerialEM: Digitized on Krios 7                  28-Apr-18  11:36:19    ]\n")
        sign = -1 if negated else 1
        tilts = [{"movie": f"TS_01_{place:03d}", "order": place + 1, "angle": sign * angle} for place, angle in enumerate(ANGLES)]
        with open(os.path.join(self.extra, "TS_01.json"), "w", encoding="utf-8") as file:
            json.dump({"version": 1, "tilts": tilts, "left_out": [], "tilt_axis": AXIS, "voltage": 300.0, "mdocs": [mdoc],
                       "negated": negated}, file)
        stack_of_marks(os.path.join(self.extra, "TS_01.mrcs"))
        ledger.Ledger(os.path.join(self.extra, ledger.NAME)).write(entries.Composed("TS_01", "", version=1))

    def align(self, **quality: object) -> None:
        folder = os.path.join(self.project, "Runs", ARETOMO, "extra", "TS_01")
        os.makedirs(folder)
        rows = tuple(AlnRow(place, AXIS, *SHIFTS[place], angle) for place, angle in enumerate(ANGLES))
        with open(os.path.join(folder, "TS_01.aln"), "w", encoding="utf-8") as file:
            file.write(format_aln(AlnFile(rows, raw_size=(SIDE, SIDE, len(rows)))))
        with open(os.path.join(folder, "TS_01_quality.json"), "w", encoding="utf-8") as file:
            file.write(format_quality(Quality(**quality)))  # type: ignore[arg-type]
        path = os.path.join(self.project, "Runs", ARETOMO, "extra", ledger.NAME)
        ledger.Ledger(path).write(entries.Reconstructed("TS_01", folder=f"Runs/{ARETOMO}/extra/TS_01"))


class TestGeometry(ProjectCase):
    """Known truth: a mark that lies above the middle of the specimen."""

    def tube(self, volume) -> float:
        """How much denser (darker) the place of the tube is than its mirror image below."""
        depth, height, width = volume.shape
        z, y, x = np.mgrid[:depth, :height, :width]
        z, y, x = ((each - (length - 1) / 2) * PIXEL for each, length in zip((z, y, x), volume.shape, strict=True))
        wall = np.abs(np.hypot(x, y) - 105.0) < 30.0
        above, below = (wall & (side * z > 100.0) & (side * z < 300.0) for side in (1, -1))
        return float(volume[below].mean() - volume[above].mean()) / float(volume.std())

    def both(self, negated: bool) -> tuple[float, float]:
        """With the angles as the mdoc gives them, and negated; whatever the series was composed with."""
        self.compose(negated)
        if not negated:
            self.align()
        source = handedness.source_of(self.project, read_series(self.project, "TS_01"))
        if negated:         # the quick reconstruction would align by itself: give it the truth, this is about the signs
            self.align()
            source = quick.Source(**{**source.__dict__, "alignment": os.path.join(
                self.project, "Runs", ARETOMO, "extra", "TS_01", "TS_01.aln")})
        self.assertEqual([row.tilt_deg for row in source.rows], list(ANGLES))
        work = os.path.join(self.project, "work")
        os.makedirs(work)
        given = quick.reconstruct(source, work, lambda _: None)
        other = quick.reconstruct(source, work, lambda _: None, keep=given, negated=True)
        self.assertEqual(given.volume, other.volume)
        return (self.tube(quick.read_volume(given.volume)),
                self.tube(quick.read_volume(os.path.join(work, "quick_negated.mrc"))))

    def test_angles_of_the_other_sign_mirror_the_volume_in_z(self):
        given, negated = self.both(negated=False)
        self.assertGreater(given, 1.0)
        self.assertLess(negated, -1.0)

    def test_a_series_that_was_composed_negated_is_shown_as_the_mdoc_gives_it(self):
        given, negated = self.both(negated=True)
        self.assertGreater(given, 1.0)
        self.assertLess(negated, -1.0)


class TestCheck(ProjectCase):
    """The whole check, as the command makes it."""

    def command(self, *words: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["handedness", self.project, *words])
        return status, out.getvalue(), err.getvalue()

    def test_it_writes_a_page_with_both_and_says_what_speaks_for_which(self):
        self.compose()
        self.align(defocus_hand=-1, ctf_note="median defocus 30000 A")
        status, out, _ = self.command("TS_01")
        self.assertEqual(status, 0)
        self.assertIn("right negated", out)
        self.assertIn("What to look for", out)
        folder = os.path.join(self.project, "handedness", "TS_01")
        self.assertEqual(sorted(os.listdir(folder)), ["both.png", "check.json", "index.html"])
        found = handedness.read_check(self.project, "TS_01")
        self.assertEqual((found.hand, found.advice, found.instrument), (-1, "negated", "Krios 7"))

    def test_a_choice_is_remembered_under_the_name_that_the_mdoc_tells_or_that_is_given(self):
        self.compose()
        self.assertEqual(self.command("TS_01", "--choose", "negated")[0], 0)
        self.assertEqual(self.command("TS_01", "--choose", "as-given", "--instrument", "The other one")[0], 0)
        self.assertTrue(instruments.remembered("krios  7").negated)
        self.assertFalse(instruments.remembered("The other one").negated)

    def test_a_series_that_is_not_there_is_one_line(self):
        self.compose()
        for words in (("TS_07",), ("TS_07", "--choose", "negated")):
            status, _, err = self.command(*words)
            self.assertEqual((status, len(err.splitlines())), (2, 1))
            self.assertIn("no series TS_07", err)

    def test_a_stack_that_cannot_be_read_is_named_and_nothing_is_left_behind(self):
        self.compose()
        with open(os.path.join(self.extra, "TS_01.mrcs"), "wb") as file:
            file.write(b"no stack")
        status, _, err = self.command("TS_01")
        self.assertEqual((status, len(err.splitlines())), (2, 1))
        self.assertIn("TS_01", err)

    def test_without_a_name_of_the_instrument_one_is_asked_for(self):
        self.compose()
        os.remove(os.path.join(self.project, "TS_01.mdoc"))
        status, _, err = self.command("TS_01", "--choose", "negated")
        self.assertEqual(status, 2)
        self.assertIn("--instrument NAME", err)


class TestEvidenceOfTheProject(ProjectCase):
    """What the registered reconstruction measured, for the angles as the mdoc gives them."""

    def hand(self, series: ComposedSeries) -> tuple[int | None, str]:
        """As found, without looking at the images: there is a sentence in place of that."""
        with mock.patch.object(handedness, "_measured_hand", return_value=(None, "looked at the images")):
            return handedness.defocus_hand(self.project, series, mock.Mock(), mock.Mock(), "")

    def test_where_the_series_was_composed_with_negated_angles_it_is_the_other_hand(self):
        self.compose()
        self.align(defocus_hand=-1, ctf_note="seen clearly")
        self.assertEqual(self.hand(read_series(self.project, "TS_01")), (-1, "seen clearly"))
        self.compose(negated=True)
        self.assertEqual(self.hand(read_series(self.project, "TS_01")), (1, "seen clearly"))

    def test_what_was_measured_of_another_version_says_nothing_of_this_one(self):
        """The series was looked up, and then composed and reconstructed again with other tilts."""
        self.compose()
        series = read_series(self.project, "TS_01")
        self.align(defocus_hand=-1, ctf_note="seen clearly")
        ledger.Ledger(os.path.join(self.extra, ledger.NAME)).write(entries.Composed("TS_01", "", version=2))
        path = os.path.join(self.project, "Runs", ARETOMO, "extra", ledger.NAME)
        ledger.Ledger(path).write(entries.Reconstructed("TS_01", folder=f"Runs/{ARETOMO}/extra/TS_01", version=2))
        self.assertEqual(self.hand(series), (None, "looked at the images"))


class TestEvidence(unittest.TestCase):
    def test_where_points_nearer_to_the_source_have_less_defocus_the_true_angles_are_advised(self):
        """The physics once more: at tilt t the specimen plane is -x' tan t high at x', and the defocus smaller by that."""
        _, spectra, fit = test_ctf.case(32000.0, 1, True)
        self.assertEqual(handedness.judge(fit.hand, "")[0], instruments.AS_GIVEN)
        negated = [replace(each, tilt_deg=-each.tilt_deg, heights=-each.heights) for each in spectra]
        self.assertEqual(handedness.judge(fit_series(negated, Optics()).hand, "")[0], instruments.NEGATED)

    def test_the_defocus_that_grows_towards_x_speaks_for_the_angles_as_given(self):
        self.assertEqual(handedness.judge(1, "")[0], instruments.AS_GIVEN)
        self.assertEqual(handedness.judge(-1, "")[0], instruments.NEGATED)

    def test_where_the_data_tell_nothing_nothing_is_advised_and_why_is_reported(self):
        for hand, why in ((None, "no Thon rings were found"), (0, "the CTF was fitted, but how the defocus changes")):
            advice, words = handedness.judge(hand, "no Thon rings were found")
            self.assertEqual(advice, "")
            self.assertIn(f"The data do not tell: {why}", words)


class TestInstruments(ProjectCase):
    """The memory, and the names in it."""

    def test_titles_of_real_files_give_the_name_without_date_and_verbs(self):
        for title, name in (("SerialEM: Digitized on EMBL Krios                       28-Apr-18  11:36:19    ", "EMBL Krios"),
                            ("SerialEM: eBIC Krios 3                                  01-Aug-2022  18:58:31", "eBIC Krios 3"),
                            ("Tomography: KRIOS-9930543    16-Jul-2024  20:42:33", "KRIOS-9930543"),
                            ("SerialEM: TU Delft JEM-1400/HC w. F416   05-Feb-20  14:41:21    ", "TU Delft JEM-1400/HC w. F416"),
                            ("SerialEM: Digitized on EMBL Krios", "EMBL Krios"), ("TiltAxisAngle = -90.18  Binning = 1", "")):
            path = os.path.join(self.project, "a.mdoc")
            with open(path, "w", encoding="utf-8") as file:
                file.write(f"PixelSpacing = 1.35\n[T =     {title}]\n[ZValue = 0]\n")
            self.assertEqual(instrument_name(path), name)
        self.assertEqual(instrument_name(os.path.join(self.project, "nowhere.mdoc")), "")

    def test_a_new_choice_for_the_same_instrument_replaces_the_one_before_and_no_other(self):
        instruments.remember("Krios 1", instruments.NEGATED, "TS_01")
        instruments.remember("Krios 2", instruments.NEGATED, "TS_02")
        instruments.remember("KRIOS  1", instruments.AS_GIVEN, "TS_03")
        self.assertEqual({name: entry.angles for name, entry in instruments.read().items()},
                         {"KRIOS 1": "as-given", "Krios 2": "negated"})

    def test_choices_for_many_instruments_at_the_same_time_are_all_remembered(self):
        names = [f"Krios {number}" for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: instruments.remember(name, instruments.NEGATED, "TS_01"), names))
        self.assertEqual(sorted(instruments.read()), sorted(names))

    def test_a_memory_that_is_no_memory_is_named(self):
        for text in ("{", '{"instruments": {"A": {"angles": "perhaps", "date": "", "user": "", "series": ""}}}', "[]"):
            os.makedirs(os.path.dirname(instruments.path()), exist_ok=True)
            with open(instruments.path(), "w", encoding="utf-8") as file:
                file.write(text)
            with self.assertRaisesRegex(ValueError, r"instruments\.json"):
                instruments.read()


class TestSign(ProjectCase):
    """What the compose protocol makes of it."""

    def setUp(self) -> None:
        from pyworkflow.config import Config

        super().setUp()
        Config.getDomain().getProtocols()

    def test_the_form_s_choice_counts_and_else_what_is_remembered_and_the_words_say_which(self):
        from tomostream.protocols import signs

        instruments.remember("Krios 7", instruments.NEGATED, "TS_01")
        self.assertEqual(signs.decide(signs.AS_GIVEN, "Krios 7", ()),
                         signs.Sign(False, "as given in the mdoc, chosen in the form"))
        self.assertTrue(signs.decide(signs.NEGATED, "", ()).negated)
        sign = signs.decide(signs.REMEMBERED, "Krios 7", ())
        self.assertTrue(sign.negated)
        self.assertIn("as remembered for Krios 7", sign.words)

    def test_an_instrument_that_the_mdoc_names_is_looked_up_and_an_unknown_one_keeps_its_angles(self):
        from tomostream.protocols import signs

        self.compose()
        mdoc = os.path.join(self.project, "TS_01.mdoc")
        sign = signs.decide(signs.REMEMBERED, "", [mdoc])
        self.assertEqual((sign.negated, sign.words), (False, "as given in the mdoc; nothing is remembered for Krios 7"))
        instruments.remember("Krios 7", instruments.NEGATED, "TS_01")
        self.assertTrue(signs.decide(signs.REMEMBERED, "", [mdoc]).negated)

    def test_a_negated_series_is_sorted_by_its_new_angles_and_keeps_movies_and_doses_together(self):
        from tomostream.journal.composed import record_of

        tilts = tuple(Tilt(f"m{order}.tif", angle, order, None, Known(3.0, ""), Known(3.0 * (order - 1), ""))
                      for order, angle in ((3, -3.0), (1, 0.0), (2, 3.0)))
        late = events.LeftOut(Tilt("m4.tif", 6.0, 4), "late")
        decision = events.Compose("S", "S", tilts, (late,), Known(85.0, ""), Known(1.0, ""), Known(300.0, ""), 1, "complete")
        record = record_of(decision, {f"m{order}.tif": ("a", "", "") for order in (1, 2, 3)}, str, negated=True)
        self.assertEqual([(tilt.angle, tilt.movie, tilt.prior_dose) for tilt in record.tilts],
                         [(-3.0, "m2.tif", 3.0), (0.0, "m1.tif", 0.0), (3.0, "m3.tif", 6.0)])
        self.assertEqual((record.left_out, record.negated), ((entries.LeftOut("m4.tif", -6.0, "late"),), True))


if __name__ == "__main__":
    unittest.main()
