# SPDX-License-Identifier: GPL-3.0-or-later
"""What the windows do with what is clicked, dragged and typed. They are not shown: a display is not needed."""

from __future__ import annotations

import unittest
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tomostream.acquisition.events import Why
from tomostream.choices import exclusions, handedness, instruments
from tomostream.choices.thickness import Heights, Measured
from tomostream.engine import quick
from tomostream.journal.composed import ComposedSeries, Tilt
from tomostream.windows.handedness import HandednessWindow
from tomostream.windows.thickness import BOTTOM, TOP, ThicknessWindow
from tomostream.windows.tilts import BACK, OUT, TiltsWindow


class Entry:
    """A field with a text."""

    def __init__(self, text: str = "") -> None:
        self.text = text

    def get(self) -> str:
        return self.text

    def delete(self, first: object, last: object) -> None:
        self.text = ""

    def insert(self, place: object, text: str) -> None:
        self.text = text

    def selection_clear(self) -> None:
        """Nothing is selected."""


class TestTilts(unittest.TestCase):
    """Marks of the window in which tilts are taken out or put back."""

    def setUp(self) -> None:
        tilts = (Tilt("m_1", -3.0, 2, 0), Tilt("m_2", 0.0, 1, 1), Tilt("m_3", 3.0, 3, 2),
                 Tilt("m_4", 6.0, 4, None, state="excluded", why=Why.TAKEN_OUT), Tilt("m_5", 9.0, 5, None, state="missing"))
        self.window = TiltsWindow.__new__(TiltsWindow)
        self.window.series = ComposedSeries("TS_01", 1, "folder", "", tilts)
        self.window.marks, self.window.project = {}, "project"
        self.window.table, self.window.reason = mock.Mock(), Entry("  grid bar ")
        self.asked: list[str] = []
        for name, does in (("refresh", None), ("load", None), ("_next", None), ("report", self.asked.append),
                           ("ask", lambda text: self.asked.append(text) or True)):
            patch = mock.patch.object(self.window, name, mock.Mock(side_effect=does), create=True)
            patch.start()
            self.addCleanup(patch.stop)

    def mark(self, *movies: str) -> dict[str, str]:
        """Mark these tilts; returns all marks."""
        with mock.patch.object(self.window.table, "selection", return_value=movies):
            self.window.mark()
        return self.window.marks

    def test_one_in_use_is_to_be_taken_out_one_taken_out_put_back_and_one_that_never_came_neither(self) -> None:
        self.assertEqual(self.mark("m_2", "m_4", "m_5", "stranger"), {"m_2": OUT, "m_4": BACK})

    def test_a_second_mark_takes_the_first_away(self) -> None:
        self.mark("m_1", "m_4")
        self.assertEqual(self.mark("m_1", "m_3"), {"m_4": BACK, "m_3": OUT})

    def test_what_is_marked_is_asked_for_and_then_written_with_the_reason(self) -> None:
        self.mark("m_1", "m_4")
        with mock.patch.object(exclusions, "apply", return_value=3) as applied:
            self.window.apply()
        applied.assert_called_once_with(self.window.series, {"m_1": "  grid bar "}, ["m_4"])
        self.assertIn("TS_01: take 1 tilt out and put 1 tilt back because of: grid bar?", self.asked[0])

    def test_what_would_leave_too_few_is_reported_and_the_marks_stay(self) -> None:
        self.mark("m_1")
        with mock.patch.object(exclusions, "apply", side_effect=ValueError("only 2 would be left")):
            self.window.apply()
        self.assertEqual(self.asked[-1], "Nothing was changed: only 2 would be left.")
        self.assertEqual(self.window.marks, {"m_1": OUT})

    def test_nothing_is_written_where_the_answer_is_no(self) -> None:
        self.mark("m_1")
        with mock.patch.object(self.window, "ask", return_value=False), mock.patch.object(exclusions, "apply") as applied:
            self.window.apply()
        applied.assert_not_called()


class TestThickness(unittest.TestCase):
    """Lines of a window whose views are 200 rows for 2000 A."""

    def setUp(self) -> None:
        self.window = ThicknessWindow.__new__(ThicknessWindow)
        self.window.source = quick.Source("TS_01", "TS_01.mrcs", 5.0, (), ())
        self.window.measured = Measured(10.0, 2, 700.0, 100.0, None)
        self.window.lines = {TOP: 700.0, BOTTOM: 100.0}
        self.window.depth, self.window._held = 2000.0, None
        self.window.canvases, self.window.entry = [], Entry()
        self.window.words = mock.Mock()

    def event(self, y: float) -> Any:
        """A click on, or a move to, a row of a view."""
        return SimpleNamespace(y=y, widget=SimpleNamespace(cget=lambda _: "200"))

    def typed(self, text: str) -> dict[str, float]:
        self.window.entry.insert(0, text)
        self.window.typed()
        return self.window.lines

    def test_a_thickness_that_is_typed_keeps_the_middle_of_the_specimen(self) -> None:
        self.assertEqual(self.typed("30"), {TOP: 550.0, BOTTOM: 250.0})
        self.assertEqual(self.typed("50,5"), {TOP: 652.5, BOTTOM: 147.5})

    def test_what_is_no_thickness_moves_nothing_and_is_reported(self) -> None:
        for text in ("", "thick", "0", "-3", "nan", "99999"):
            self.assertEqual(self.typed(text), {TOP: 700.0, BOTTOM: 100.0}, text)
            self.assertIn("is not a thickness", self.window.words.configure.call_args.kwargs["text"])

    def test_the_line_that_is_near_follows_and_the_other_stays(self) -> None:
        self.window._take(self.event(33))       # the upper face is at row 30
        self.window._drag(self.event(20))
        self.assertEqual(self.window.lines, {TOP: 800.0, BOTTOM: 100.0})
        self.window._take(self.event(60))       # near to neither
        self.window._drag(self.event(20))
        self.assertEqual(self.window.lines, {TOP: 800.0, BOTTOM: 100.0})
        self.window._take(self.event(95))
        self.window._drag(self.event(130))
        self.assertEqual(self.window.lines[TOP], 800.0)
        self.assertAlmostEqual(self.window.lines[BOTTOM], -300.0)

    def test_no_line_leaves_the_view_or_crosses_the_other(self) -> None:
        self.window._held = TOP
        self.window._drag(self.event(-50))
        self.assertEqual(self.window.lines[TOP], 1000.0)
        self.window._drag(self.event(190))
        self.assertEqual(self.window.lines[TOP], 110.0)
        self.window._held = BOTTOM
        self.window._drag(self.event(0))
        self.assertEqual(self.window.lines[BOTTOM], 100.0)
        self.window._drag(self.event(400))
        self.assertEqual(self.window.lines[BOTTOM], -1000.0)

    def test_the_values_of_the_lines_go_into_the_form(self) -> None:
        used: list[Heights] = []
        self.window._use = used.append
        with mock.patch.object(self.window, "destroy"):
            self.window.use()
        self.assertEqual(used, [Heights(292, 120)])     # 600 A of 5 A, and as much as from the middle to the top and some room


class TestHandedness(unittest.TestCase):
    """What is remembered for an instrument."""

    def setUp(self) -> None:
        self.window = HandednessWindow.__new__(HandednessWindow)
        self.window.project, self.chosen = "project", []
        self.window._chosen = lambda *choice: self.chosen.append(choice)
        self.window.found = handedness.Check("TS_01", "Krios 7", -1, instruments.NEGATED, "the defocus falls", "folder")
        self.window.name, self.window.choice = Entry("Krios 7"), Entry("TS_01")
        self.said: list[str] = []
        for name in ("report", "destroy"):
            patch = mock.patch.object(self.window, name, mock.Mock(side_effect=self.said.append if name == "report" else None))
            patch.start()
            self.addCleanup(patch.stop)

    def remember(self, sign: str) -> mock.Mock:
        self.window.sign = Entry(sign)
        with mock.patch.object(instruments, "remember", return_value="instruments.json") as remembered:
            self.window.remember()
        return remembered

    def test_the_sign_that_is_chosen_is_kept_with_the_evidence_and_goes_into_the_form(self) -> None:
        self.remember(instruments.AS_GIVEN).assert_called_once_with("Krios 7", instruments.AS_GIVEN, "TS_01", "the defocus falls")
        self.assertEqual(self.chosen, [("Krios 7", instruments.AS_GIVEN)])

    def test_nothing_is_kept_before_a_sign_is_chosen(self) -> None:
        self.remember("").assert_not_called()
        self.assertEqual((self.chosen, self.said), ([], ["Choose first: angles as given, or negated."]))


if __name__ == "__main__":
    unittest.main()
