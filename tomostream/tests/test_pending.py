# SPDX-License-Identifier: GPL-3.0-or-later
"""People's decisions on a series' tilts are reported by `tomostream status` and the page until the newest version shows them."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

from tomostream.acquisition.events import Why
from tomostream.choices import exclusions
from tomostream.choices.pending import Pending, some
from tomostream.cli import main, status
from tomostream.journal import entries
from tomostream.journal.status import COMPOSE, IMPORT
from tomostream.tests.test_report import WithProject


class TestPendingChoices(WithProject):
    def setUp(self):
        super().setUp()
        self.project.whole("TS_01")
        self.project.whole("TS_02")
        self.first = self.project.movies("TS_01")[0]

    def decide(self, **choice: dict[str, str]) -> None:
        exclusions.write(self.project.extra(COMPOSE, exclusions.NAME), choice)

    def status(self, *words: str, running: bool = False) -> str:
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out), \
                mock.patch.object(status.runs, "run_state", return_value="running" if running else "finished"):
            self.assertEqual(main(["status", self.project.path, *words]), 0)
        return out.getvalue()

    def line(self, series: str, **options) -> str:
        return next(line for line in self.status(**options).splitlines() if line.startswith(series))

    def remade(self, *names: str) -> None:
        """The compose protocol has made version 2 of the first series, without these."""
        gone = [entries.LeftOut(f"{name}.tif", -40.0, "The user took it out: grid bar.", Why.TAKEN_OUT) for name in names]
        movies = [name for name in self.project.movies("TS_01") if name not in names]
        self.project.report(COMPOSE, "TS_01", entries.Composed, "composed again", version=2, movies=movies, left_out=tuple(gone))

    def test_a_tilt_that_was_taken_out_is_named_in_the_line_of_its_series_alone(self):
        self.assertNotIn("again", self.status())
        self.decide(TS_01={self.first: "grid bar"})
        self.assertTrue(self.line("TS_01", running=True).endswith(f"5 tilts aligned; to be made again without {self.first}"))
        self.assertNotIn("again", self.line("TS_02"))

    def test_where_nothing_runs_it_says_what_to_do(self):
        self.decide(TS_01={self.first: ""})
        self.assertTrue(self.line("TS_01").endswith(f"by: tomostream resume {self.project.path} --again --from compose"))

    def test_it_is_over_when_the_new_version_is_composed(self):
        self.decide(TS_01={self.first: "grid bar"})
        self.remade(self.first)
        self.assertNotIn("to be made again", self.status())
        self.decide(TS_01={})
        self.assertIn(f"to be made again with {self.first} put back", self.line("TS_01"))

    def test_json_tells_movies_and_reasons(self):
        self.decide(TS_01={self.first: "grid bar"})
        told = {each["id"]: each["pending"] for each in json.loads(self.status("--json"))["series"]}
        self.assertEqual(told, {"TS_01": {"out": {self.first: "grid bar"}, "back": []}, "TS_02": {"out": {}, "back": []}})

    def test_a_choice_that_cannot_be_read_is_reported_and_hides_nothing_else(self):
        with open(self.project.extra(COMPOSE, exclusions.NAME), "w", encoding="utf-8") as file:
            file.write('{"TS_01": ')
        text = self.status()
        self.assertIn(f"{exclusions.NAME} cannot be read", text)
        self.assertIn("5 tilts aligned", text)
        self.assertIn("cannot be read", json.loads(self.status("--json"))["trouble"])

    def test_the_page_tells_it_at_once_paints_nothing_again_and_forgets_it_when_it_is_done(self):
        page = self.writer()
        page.finish()
        self.states = {IMPORT: "running", COMPOSE: "running"}
        self.decide(TS_01={self.first: "grid bar"})
        page.update()
        self.assertFalse(page.busy)
        page.finish()
        self.assertEqual([row["pending"] for row in self.rows()], [f"to be made again without {self.first}", ""])
        os.remove(self.project.extra(COMPOSE, exclusions.NAME))
        page.finish()
        self.assertEqual([row["pending"] for row in self.rows()], ["", ""])
        self.decide(TS_01={self.first: "grid bar"})
        self.remade(self.first)
        page.finish()
        self.assertEqual([row["pending"] for row in self.rows()], ["", ""])

    def test_of_many_tilts_some_are_named(self):
        self.assertEqual(some(list("abc")), "a, b, c")
        self.assertEqual(some(list("abcdef")), "a, b and 4 more tilts")
        self.assertEqual(str(Pending((("a", "ice"),), ("b",))), "to be made again without a and with b put back")
        self.assertEqual(str(Pending()), "")
