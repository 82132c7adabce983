# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/formats.rst against the types and what is really written: no field without a line, no line without a field."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tempfile
import unittest
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from enum import Enum
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin, get_type_hints
from unittest import mock

import msgspec

import tomostream
from tomostream.acquisition import doctor, facts, matching, overview
from tomostream.acquisition.facts import MdocFacts, Tilt
from tomostream.choices import exclusions, instruments
from tomostream.cli import COMMANDS
from tomostream.cli import main as command
from tomostream.journal import composed, entries, runs, status
from tomostream.programs import quality
from tomostream.report import alarms, attention, marks, notify, tables
from tomostream.report.summary import Summary
from tomostream.report.writer import ReportWriter
from tomostream.tests.made_project import MadeProject

DOCUMENT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(tomostream.__file__))), "docs", "formats.rst")
MARK = re.compile(r"^\.\. fields: (.+)$")
FIELD = re.compile(r"^:(\w+): (.+)$")
#: The types that are written as they are.
TYPES = {f"entries.{kind.__name__}": kind for kind in (*get_args(entries.AnyEntry), entries.LeftOut, entries.Excluded)} | {
    "composed.SeriesRecord": composed.SeriesRecord, "composed.TiltRecord": composed.TiltRecord,
    "instruments.Entry": instruments.Entry, "marks.Mark": marks.Mark}
COMMON = frozenset(msgspec.structs.fields(entries.Entry)[place].name for place in range(3))


def documented() -> dict[str, dict[str, str]]:
    """Mark -> field -> its description."""
    found: dict[str, dict[str, str]] = {}
    mark = field = ""
    with open(DOCUMENT, encoding="utf-8") as file:
        for line in file:
            if matched := MARK.match(line.strip()):
                mark = matched[1]
                found[mark] = {}
            elif matched := FIELD.match(line):
                field = matched[1]
                found[mark][field] = matched[2]
            elif field and line.startswith("   "):
                found[mark][field] += line.rstrip()
            else:
                field = ""
    return found


def names_of(kind: type) -> list[str]:
    """Names of the fields of a type, without those that all entries have."""
    names = [each.name for each in (fields(kind) if is_dataclass(kind) else msgspec.structs.fields(kind))]
    return [name for name in names if not (issubclass(kind, entries.Entry) and name in COMMON)]


def words_of(kind: object) -> Iterable[str]:
    """The values that a field may have, where they can be counted."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [each.value for each in kind]
    if get_origin(kind) is Literal:
        return [word for word in get_args(kind) if word]
    return []


@unittest.skipUnless(os.path.exists(DOCUMENT), "an installed package has no documents")
class TestTheFormats(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.documented = documented()

    def same(self, mark: str, names: Iterable[str]) -> None:
        self.assertEqual(sorted(self.documented.get(mark, {})), sorted(names), f"{mark} in docs/formats.rst")

    def test_every_type_is_documented_field_by_field(self):
        for mark, kind in TYPES.items():
            self.same(mark, names_of(kind))
        self.same("entries.Entry", [*COMMON, "event"])

    def test_every_value_that_a_field_may_have_is_named(self):
        seen = 0
        for mark, kind in TYPES.items():
            for name, hint in get_type_hints(kind).items():
                for word in words_of(hint):
                    seen += 1
                    self.assertIn(f"``{word}``", self.documented[mark][name], f"{mark}: {name}")
        for mark, name, kind in (
                ("mdoc", "kind", facts.Kind), ("mdoc movies tilt", "step", matching.Step),
                ("status series", "state", status.State),
                ("session.json columns", "state", status.State), ("webhook alarm", "state", alarms.Change),
                ("quality.Quality", "trust", quality.Trust), ("session.json columns", "trust", quality.Trust),
                ("status protocol", "state", runs.ProcessState), ("list", "state", attention.SessionState),
                ("session.json session", "protocols", runs.RunState)):
            for word in words_of(kind):
                seen += 1
                self.assertIn(f"``{word}``", self.documented[mark][name], f"{mark}: {name}")
        self.assertGreater(seen, 25)

    def test_nothing_is_documented_that_is_not_written(self):
        others = {"entries.Entry", "quality.Quality", "quality.TiltQuality", "quality.LocalQuality",
                  "quality.GoldQuality", "excluded", "instruments",
                  "session.json", "session.json columns", "session.json session", "webhook alarm", "webhook summary",
                  "webhook test", "status", "status series", "status protocol", "list", "mdoc", "mdoc tilt",
                  "mdoc movies", "mdoc movies series", "mdoc movies tilt"}
        self.assertEqual(self.documented.keys() - TYPES.keys() - others, set())

    def test_the_events_are_titles(self):
        with open(DOCUMENT, encoding="utf-8") as file:
            lines = file.read().splitlines()
        titles = {line.strip("`") for line, under in pairwise(lines) if under and set(under) == {"-"}}
        self.assertEqual({kind.__struct_config__.tag for kind in get_args(entries.AnyEntry)} - titles, set())

    def test_the_quality_of_an_alignment(self):
        local = quality.LocalQuality((4, 4), 0.5, True, "moved")
        gold = quality.GoldQuality(9, 100.0, 0.4, 2)
        known = quality.Quality((quality.TiltQuality(0, 3.0, True),), local=local, gold=gold)
        written = json.loads(quality.format_quality(known))
        self.same("quality.Quality", written)
        self.same("quality.TiltQuality", written["tilts"][0])
        self.same("quality.LocalQuality", written["local"])
        self.same("quality.GoldQuality", written["gold"])

    def test_what_people_decide(self):
        with tempfile.TemporaryDirectory() as folder:
            exclusions.write(os.path.join(folder, exclusions.NAME), {"TS_01": {"a": "ice"}})
            with mock.patch.dict(os.environ, {instruments.VARIABLE: os.path.join(folder, "instruments.json")}):
                instruments.remember("Krios", instruments.NEGATED, "TS_01")
            self.same("excluded", self.json_of(folder, exclusions.NAME))
            self.same("instruments", self.json_of(folder, "instruments.json"))
        for word in (instruments.AS_GIVEN, instruments.NEGATED):
            self.assertIn(f"``{word}``", self.documented["instruments.Entry"]["angles"])

    def test_the_table_of_a_session(self):
        with tempfile.TemporaryDirectory() as folder:
            project = MadeProject(os.path.join(folder, "night"))
            project.whole("TS_01")
            page = ReportWriter(project.path, clock=lambda: project.time)
            self.addCleanup(page.close)
            page.finish()
            written = self.json_of(page.out, "session.json")
            self.same("session.json", written)
            self.same("session.json columns", written["series"][0])
            self.same("session.json session", written["session"])
        self.assertEqual(list(self.documented["session.json columns"]), [column.name for column in tables.COLUMNS])

    def test_what_a_webhook_gets(self):
        event = alarms.Event(1.8e9, "drift", alarms.Change.RAISED, "it drifted", 1.8e9)
        self.same("webhook alarm", notify.as_json(event, "night"))
        self.same("webhook summary", Summary("night", {}, {}, 0, 0, None, None, [], "index.html").message().body)
        with mock.patch.object(notify, "deliver") as deliver:
            notify.test_message(notify.Destinations())
        self.same("webhook test", deliver.call_args[0][0].body)

    def test_the_status(self):
        with tempfile.TemporaryDirectory() as folder:
            project = MadeProject(os.path.join(folder, "night"))
            project.whole("TS_01", image_files=False)
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                command(["status", project.path, "--json"])
            self.same("list", attention.overview(project.path).as_json())
        written = json.loads(out.getvalue())
        self.same("status", written)
        self.same("status series", written["series"][0])
        self.same("status protocol", written["protocols"]["import"])

    def test_the_mdoc_doctor(self):
        written = doctor.as_json([MdocFacts("a.mdoc", "tilt-series", tilts=(Tilt("a.tif", 3.0, 1),))])[0]
        self.same("mdoc", written)
        self.same("mdoc tilt", written["tilts"][0])
        match = overview.Match(Tilt("a.tif", 3.0, 1), "/data/a.tif", matching.Step.EXACT)
        series = overview.SeriesOverview("a", "a", "composed", "", ("a.mdoc",), (match,), 85.0, 2.0, 3.0, ())
        found: Any = overview.as_json(overview.Overview((series,), {}, {}, 1))
        self.same("mdoc movies", found)
        self.same("mdoc movies series", found["series"][0])
        self.same("mdoc movies tilt", found["series"][0]["tilts"][0])

    def test_every_file_says_its_version_and_every_subcommand_its_exit_status(self):
        formats = [mark for mark, names in self.documented.items() if "format" in names]
        self.assertEqual(set(formats), {
            "entries.Header", "composed.SeriesRecord", "quality.Quality", "excluded", "instruments", "session.json",
            "webhook alarm", "webhook summary", "webhook test", "status"})
        for mark, version in (("entries.Header", entries.FORMAT), ("composed.SeriesRecord", composed.FORMAT),
                              ("quality.Quality", quality.FORMAT), ("excluded", exclusions.FORMAT),
                              ("instruments", instruments.FORMAT), ("session.json", tables.FORMAT),
                              ("webhook alarm", notify.FORMAT), ("status", status.FORMAT)):
            self.assertRegex(self.documented[mark]["format"], rf", {version}$")
        with open(DOCUMENT, encoding="utf-8") as file:
            text = file.read()
        self.assertEqual([name for name in COMMANDS if not re.search(rf"^``{name}`` +\S", text, re.MULTILINE)], [])

    @staticmethod
    def json_of(*parts: str) -> Any:
        with open(os.path.join(*parts), encoding="utf-8") as file:
            return json.load(file)


if __name__ == "__main__":
    unittest.main()
