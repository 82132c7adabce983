# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger: every entry is read once, whole and with its type, whatever was killed or full in between."""

from __future__ import annotations

import json
import os
import resource
import shutil
import tempfile
import time
import unittest
from unittest import mock

from tomostream.journal import entries, ledger
from tomostream.journal.status import CLASSES, COMPOSE, IMPORT, MOTIONCOR, ProjectStatus


class Case(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, ledger.NAME)

    def append(self, text: str) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(text)

    def items(self) -> list[str]:
        return [entry.item for entry in ledger.read(self.path)]


class TestALedger(Case):
    def test_gives_back_what_was_written(self):
        told = [entries.Failed("a, b", 'it said "no"', 3.5, version=2),
                entries.Composed("TS_1", "", 4.0, left_out=(entries.LeftOut("m.tif", 3.0, "no"),), movies=("a", "b"))]
        book = ledger.Ledger(self.path)
        for entry in told:
            book.write(entry)
        self.assertEqual(ledger.read(self.path), told)

    def test_begins_with_the_version_of_its_format(self):
        ledger.Ledger(self.path).write(entries.Imported("a"))
        ledger.Ledger(self.path).write(entries.Imported("b"))
        with open(self.path, encoding="utf-8") as file:
            first, *others = [json.loads(line) for line in file]
        self.assertEqual((first["event"], first.get("format", 1), len(others)), ("header", entries.FORMAT, 2))

    def test_keeps_a_reason_of_several_lines_in_one(self):
        ledger.Ledger(self.path).write(entries.Failed("a", "one\ntwo\r\n  three"))
        self.assertEqual(ledger.read(self.path)[0].reason, "one two three")

    def test_an_entry_without_a_time_is_of_now(self):
        before = time.time()
        ledger.Ledger(self.path).write(entries.Imported("a"))
        self.assertLessEqual(before, ledger.read(self.path)[0].time)

    def test_is_continued_by_the_next_run(self):
        ledger.Ledger(self.path).write(entries.Imported("a"))
        ledger.Ledger(self.path).write(entries.Imported("b"))
        self.assertEqual(self.items(), ["a", "b"])

    def test_loses_only_the_half_line_of_a_killed_writer(self):
        ledger.Ledger(self.path).write(entries.Imported("a"))
        self.append('{"event":"imported","item":"b","ti')
        ledger.Ledger(self.path).write(entries.Imported("c"))
        self.assertEqual(self.items(), ["a", "c"])

    def test_a_name_that_is_no_text_is_written_all_the_same(self):
        book = ledger.Ledger(self.path)
        book.write(entries.Failed(os.fsdecode(b"caf\xe9.tif"), os.fsdecode(b"caf\xe9.tif is no good")))
        book.write(entries.Failed("b.tif", "neither"))
        self.assertEqual(self.items(), ["caf\\udce9.tif", "b.tif"])

    def test_a_number_that_is_not_finite_is_not_known(self):
        ledger.Ledger(self.path).write(entries.Aligned("a", drift_px=float("nan")))
        entry, = ledger.read(self.path)
        self.assertIsNone(entry.drift_px)

    def test_of_a_run_that_never_wrote_is_empty(self):
        self.assertEqual(ledger.read(self.path), [])

    def test_a_line_of_any_length_is_read(self):
        mdocs = tuple(f"/data/session/frames/exposure_{number:05d}.tif.mdoc" for number in range(20_000))
        ledger.Ledger(self.path).write(entries.NotASeries("map", mdocs=mdocs))
        self.assertEqual(ledger.read(self.path)[0].mdocs, mdocs)

    def test_sixty_thousand_entries_are_read_in_well_under_a_second(self):
        line = ledger.encode(entries.Aligned("m.tif", "aligned, drift 0.5 px", 1.0, file="a.mrc", movie="/m.tif", drift_px=0.5))
        with open(self.path, "wb") as file:
            file.write(line * 60_000)
        began = time.process_time()
        self.assertEqual(len(ledger.read(self.path)), 60_000)
        self.assertLess(time.process_time() - began, 1.0)


class TestALine(unittest.TestCase):
    def test_with_a_field_of_a_later_version_is_read(self):
        entry = ledger.parse('{"event":"aligned","item":"a","time":1.0,"drift_px":2.0,"colour":"blue"}')
        self.assertEqual(entry, entries.Aligned("a", "", 1.0, drift_px=2.0))

    def test_with_a_wrong_field_is_an_error_that_names_it(self):
        with self.assertRaisesRegex(ledger.LedgerError, r"\$\.drift_px"):
            ledger.parse('{"event":"aligned","item":"a","time":1.0,"drift_px":"far"}')

    def test_of_no_time_or_an_impossible_one_is_an_error(self):
        for text in ('{"event":"aligned","item":"a"}', '{"event":"aligned","item":"a","time":1e12}'):
            with self.assertRaisesRegex(ledger.LedgerError, r"\$\.time"):
                ledger.parse(text)


class TestAReader(Case):
    def test_gives_every_entry_once(self):
        writer, reader = ledger.Ledger(self.path), ledger.LedgerReader(self.path)
        writer.write(entries.Imported("a"))
        self.assertEqual([entry.item for entry in reader.new()], ["a"])
        self.assertEqual(reader.new(), [])
        writer.write(entries.Imported("b"))
        self.assertEqual([entry.item for entry in reader.new()], ["b"])

    def test_gives_again_what_was_not_taken_up(self):
        writer, reader = ledger.Ledger(self.path), ledger.LedgerReader(self.path)
        for name in "abc":
            writer.write(entries.Imported(name))
        first = reader.each()
        self.assertEqual(next(first).item, "a")
        first.close()
        self.assertEqual([entry.item for entry in reader.each()], ["b", "c"])

    def test_waits_for_the_rest_of_a_line(self):
        for before in ("", '{"event":"header","time":1.0}\n'):
            with open(self.path, "w", encoding="utf-8") as file:
                file.write(before)
            reader = ledger.LedgerReader(self.path)
            self.append('{"event":"imported","item":"a",')
            self.assertEqual(reader.new(), [])
            self.append('"time":1.0}\n')
            self.assertEqual([entry.item for entry in reader.new()], ["a"])
            self.assertEqual(reader.wrong, 0)

    def test_passes_over_what_is_no_entry_and_says_so(self):
        reader = ledger.LedgerReader(self.path)
        self.append('{"event":"imported","item":"a","time":1.0}\nnonsense\n{"event":"imported","item":7,"time":1.0}\n')
        self.assertEqual([entry.item for entry in reader.new()], ["a"])
        self.assertEqual(reader.wrong, 2)
        self.assertIn("$.item", reader.trouble)

    def test_starts_again_when_the_file_was_made_again(self):
        writer, reader = ledger.Ledger(self.path), ledger.LedgerReader(self.path)
        writer.write(entries.Imported("a"))
        writer.write(entries.Imported("b"))
        reader.new()
        os.remove(self.path)
        ledger.Ledger(self.path).write(entries.Imported("c"))
        self.assertEqual([entry.item for entry in reader.new()], ["c"])


class TestAFullDisk(Case):
    """The kernel lets a file grow by a few bytes only, as a disk does that fills up in the middle of a line."""

    def setUp(self) -> None:
        super().setUp()
        self.writer = ledger.Ledger(self.path)
        self.writer.write(entries.Imported("a"))
        self.size = os.path.getsize(self.path)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size + 8, limits[1]))
            self.writer.write(entries.Imported("b"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    def test_keeps_the_lines_and_writes_them_whole_when_there_is_room(self):
        self.assertIn("File too large", self.writer.trouble)
        self.writer.write(entries.Imported("c"))
        self.assertEqual(self.writer.trouble, "")
        self.assertEqual(self.items(), ["a", "b", "c"])

    def test_leaves_no_half_line_behind(self):
        self.assertEqual(os.path.getsize(self.path), self.size)


class TestARunMadeAnew(unittest.TestCase):
    """Runs of one project that are not of one chain, or not of one time."""

    def setUp(self) -> None:
        self.path = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.path)

    def report(self, number: int, protocol: str, *told: entries.Entry) -> str:
        folder = os.path.join(self.path, "Runs", f"{number:06d}_{CLASSES[protocol]}")
        os.makedirs(os.path.join(folder, "extra"), exist_ok=True)
        writer = ledger.Ledger(ledger.path_in(folder))
        for entry in told:
            writer.write(entry)
        return folder

    def chain(self, first: int, movie: str, series: str) -> list[str]:
        """An import with one movie, a motioncor and a compose with one series, each reading the one before."""
        imported = self.report(first, IMPORT, entries.Session("", "starts"), entries.Imported(movie))
        aligned = self.report(first + 1, MOTIONCOR, entries.Session("", "starts", input_run=os.path.basename(imported)),
                              entries.Aligned(movie))
        composed = self.report(first + 2, COMPOSE, entries.Session("", "starts", input_run=os.path.basename(aligned)),
                               entries.Failed(series, "made up"))
        return [imported, aligned, composed]

    def test_two_chains_of_one_project_are_not_mixed(self):
        self.chain(2, "old.tif", "OLD")
        status = ProjectStatus(self.path)
        status.update()
        imported = self.report(12, IMPORT, entries.Session("", "starts"), entries.Imported("new.tif"))
        status.update()
        self.assertEqual((list(status.movies), list(status.series), status.folders), (["new"], [], {IMPORT: imported}))

    def test_a_protocol_behind_the_same_input_takes_the_place_of_the_older_one(self):
        imported, _, _ = self.chain(2, "a.tif", "OLD")
        status = ProjectStatus(self.path)
        status.update()
        newer = self.report(9, MOTIONCOR, entries.Session("", "starts", input_run=os.path.basename(imported)))
        status.update()
        self.assertEqual(status.folders, {IMPORT: imported, MOTIONCOR: newer})
        self.assertEqual((status.movie_counts()["aligned"], list(status.series)), (0, []))

    def test_a_run_that_never_says_what_it_reads_is_not_asked_at_every_update(self):
        many = [entries.Aligned(f"TS_{number:04d}_001_{'x' * 80}.tif", "aligned") for number in range(600)]
        self.report(2, IMPORT, entries.Session("", "starts"))
        self.report(3, MOTIONCOR, *many)
        status = ProjectStatus(self.path)
        status.update()
        with mock.patch.object(ledger, "read", wraps=ledger.read) as asked:
            status.update()
        self.assertEqual((asked.call_count, len(status.movies)), (0, 600))

    def test_a_run_that_was_restarted_makes_its_former_items_forgotten(self):
        folder = self.chain(2, "a.tif", "OLD")[2]
        status = ProjectStatus(self.path)
        status.update()
        shutil.rmtree(folder)
        later = mock.patch.object(ledger.clock, "time", return_value=time.time() + 60)
        later.start()
        self.addCleanup(later.stop)
        self.report(4, COMPOSE, entries.Session("", "starts", input_run=f"{3:06d}_{CLASSES[MOTIONCOR]}"),
                    *(entries.Failed(f"NEW_{number}", "made up") for number in range(20)))
        status.update()
        self.assertEqual([len(status.series), "OLD" in status.series, status.movie_counts()["aligned"]], [20, False, 1])


if __name__ == "__main__":
    unittest.main()
