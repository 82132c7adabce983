# SPDX-License-Identifier: GPL-3.0-or-later
"""An import that ends at a time: given at the start, changed while it runs, shown on the page, with a summary then."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
import unittest
from datetime import datetime, timezone
from unittest import mock

import pytest

from tomostream.cli import main, run
from tomostream.cli.errors import UserError
from tomostream.journal import entries, runs, until
from tomostream.journal.status import ARETOMO, COMPOSE, IMPORT, MOTIONCOR
from tomostream.report import notify
from tomostream.tests.made_project import FOLDERS, MadeProject
from tomostream.tests.support import Session, wait_for
from tomostream.tests.test_report import WithProject

NOON = datetime(2026, 11, 29, 12, 0).timestamp()


class TestATime(unittest.TestCase):
    def setUp(self) -> None:
        patch = mock.patch.dict(os.environ, TZ="CET-1CEST,M3.5.0,M10.5.0/3")
        patch.start()
        time.tzset()
        self.addCleanup(time.tzset)
        self.addCleanup(patch.stop)
        self.noon = datetime(2026, 11, 29, 12, 0).timestamp()

    def test_of_day_is_the_next_time_that_it_is_so_late(self):
        self.assertEqual(until.parse("13:30", self.noon), self.noon + 5400)
        self.assertEqual(until.parse("8:00", self.noon), self.noon + 20 * 3600)
        self.assertEqual(until.parse("12:00", self.noon), self.noon + 24 * 3600)

    def test_of_day_is_the_next_one_in_the_nights_in_which_clocks_are_set_too(self):
        """2026-10-25 at 3:00 clocks go back to 2:00 (1:00 UTC), 2026-03-29 at 2:00 they go to 3:00 (1:00 UTC)."""
        autumn, spring = (datetime(2026, *day, tzinfo=timezone.utc).timestamp() for day in ((10, 25), (3, 29)))
        for now, text, then in ((autumn + 1800, "02:45", autumn + 2700), (autumn + 1800, "02:10", autumn + 4200),
                                (autumn + 4500, "02:45", autumn + 6300), (autumn + 6600, "02:45", autumn + 92700),
                                (spring, "02:30", spring + 5400), (spring, "03:30", spring + 5400)):
            self.assertEqual((now, text, until.parse(text, now)), (now, text, then))
            self.assertEqual(until.parse(until.exact(then), now), then)

    def test_is_given_on_to_the_form_with_all_that_tells_it(self):
        then = datetime(2026, 10, 25, 1, 45, tzinfo=timezone.utc).timestamp()       # the second time that it is 2:45
        self.assertEqual(until.exact(then), "2026-10-25 02:45:00+01:00")
        self.assertEqual(until.exact(then - 3600), "2026-10-25 02:45")
        self.assertEqual(until.exact(then + 15), "2026-10-25 02:45:15+01:00")

    def test_with_a_date_is_that_time_and_must_be_to_come(self):
        self.assertEqual(until.parse("2026-11-30 08:00", self.noon), self.noon + 20 * 3600)
        with self.assertRaisesRegex(ValueError, "has passed; it is 2026-11-29 12:00"):
            until.parse("2026-11-29 08:00", self.noon)

    def test_that_is_none_is_refused_with_what_to_write(self):
        self.assertEqual([until.parse(text, self.noon) for text in ("", " never ")], [None, None])
        for text in ("8", "24:00", "08:60", "tomorrow", "2026-11-30"):
            with self.assertRaisesRegex(ValueError, f"'{text}' is not a time; write 08:00, 2026-11-30 08:00, or never"):
                until.parse(text, self.noon)

    def test_on_the_command_line_of_run_is_refused_before_anything_is_made(self):
        self.assertEqual(run.until_time("2099-01-02 03:04"), "2099-01-02 03:04")
        with self.assertRaisesRegex(UserError, "--until: '8' is not a time"):
            run.until_time("8")


class TestWhatIsKept(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.made = MadeProject(folder.name)
        self.folder = os.path.join(folder.name, "Runs", FOLDERS[IMPORT])

    def test_is_what_the_form_says_until_somebody_changes_it(self):
        self.assertEqual(until.begin(self.folder, "13:30", NOON), NOON + 5400)
        until.write(self.folder, NOON + 60)
        self.assertEqual(until.begin(self.folder, "13:30", NOON + 1), NOON + 60)
        self.assertEqual(until.begin(self.folder, "14:00", NOON + 1), NOON + 7200)      # the form says something else
        self.assertIsNone(until.begin(self.folder, "", NOON + 1))

    def test_no_longer_counts_when_it_has_passed_and_the_import_is_continued(self):
        until.begin(self.folder, "13:30", NOON)
        self.assertIsNone(until.begin(self.folder, "13:30", NOON + 5401))
        self.assertIsNone(until.begin(self.folder, "13:30", NOON + 5402))

    def test_that_was_given_while_the_import_was_coming_up_is_kept_whatever_its_form_says(self):
        for form in ("13:30", ""):
            until.write(self.folder, NOON + 60)
            self.assertEqual(until.begin(self.folder, form, NOON), NOON + 60)
            self.assertEqual(until.begin(self.folder, form, NOON + 1), NOON + 60)
            os.remove(os.path.join(self.folder, "extra", until.NAME))

    def test_is_nothing_where_it_cannot_be_read(self):
        for text in ("", "{}", '{"at": "soon", "form": ""}', "[]"):
            with open(os.path.join(self.folder, "extra", until.NAME), "w", encoding="utf-8") as file:
                file.write(text)
            self.assertIsNone(until.read(self.folder))

    def test_is_changed_by_the_command_while_the_import_runs(self):
        with mock.patch.object(runs, "run_state", return_value=runs.RUNNING):
            self.assertIn("ends at 2099-01-02 03:04.", self.command(0, "2099-01-02 03:04"))
            self.assertEqual(until.read(self.folder), datetime(2099, 1, 2, 3, 4).timestamp())
            self.assertIn("ends at 2099-01-02 03:04.", self.command(0))
            self.assertIn("no time is set", self.command(0, "never"))
            self.assertIn("'late' is not a time", self.command(2, "late"))
        self.assertIn("is not running", self.command(2, "08:00"))

    def command(self, status: int, *words: str) -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            self.assertEqual(main(["until", self.made.path, *words]), status)
        return out.getvalue()


class TestOnThePage(WithProject):
    def test_it_is_shown_and_a_summary_is_sent_once_when_it_has_come(self):
        self.project.whole("TS_01")
        folder = os.path.join(self.project.path, "Runs", FOLDERS[IMPORT])
        at = self.project.time + 60
        until.write(folder, at)
        sent = []
        notifier = mock.Mock(spec=notify.Notifier, trouble="")
        notifier.post.side_effect = sent.append
        self.states = dict.fromkeys((IMPORT, MOTIONCOR, COMPOSE, ARETOMO), "running")
        page = self.writer(notifier=notifier)
        page.update()
        self.assertEqual((self.read("data", "session.js")["until"], page.summary_due()), (at, False))
        self.project.time += 61
        for _ in range(2):
            page.update()
            if page.summary_due():
                page.send_summary()
        message, = sent
        self.assertEqual(message.subject, f"[tomostream] proj: session at {until.words(at)}")
        self.assertIn("1 of 1 series have tomograms", message.text)
        self.project.report(IMPORT, "", entries.Session, "the import ends")
        self.states = dict.fromkeys(self.states, "finished")
        page.finish()
        page.send_summary()
        self.assertEqual(sent[-1].subject, "[tomostream] proj: session ended")


@pytest.mark.chain
class TestARealImport(unittest.TestCase):
    def test_ends_at_the_time_that_is_given_while_it_runs_although_movies_still_come(self):
        with Session() as session:
            session.simulate("--series", "20", "--tilts", "31", "--frames", "2", "--size", "64", "--interval", "1")
            session.run("--timeout", "10m", "--until", "2099-01-01 00:00", "--no-report", settings={"compose.time4NextTS": "20s"})
            wait_for(lambda: session.events(IMPORT, entries.Imported), 240, "movie")
            self.assertTrue(any("will end at 2099-01-01 00:00" in each.reason for each in session.ledger(IMPORT)))
            for ahead in (4, 15, 60):           # a time that has passed when the command reads it is refused
                asked = int(time.time()) + ahead
                if session.call("until", session.project, datetime.fromtimestamp(asked).isoformat(" ")) == 0:
                    break
            wait_for(lambda: session.state(IMPORT) == "finished", 240, "end of the import")
            told = [each for each in session.events(IMPORT, entries.Session) if "time set for its end has come" in each.reason]
            self.assertEqual(len(told), 1)
            self.assertGreaterEqual(told[0].time, asked)
            self.assertIsNone(session.writer.poll())


if __name__ == "__main__":
    unittest.main()
