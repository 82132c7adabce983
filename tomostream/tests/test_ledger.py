# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger: what is told is read once, whole, whatever was killed or full in between."""

from __future__ import annotations

import os
import resource
import tempfile
import unittest

from tomostream.journal import ledger


class Case(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, ledger.NAME)

    def append(self, text: str) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(text)


class TestALedger(Case):
    def test_gives_back_what_was_written(self):
        ledger.Ledger(self.path).write("a, b", ledger.FAILED, 'it said "no"', {"version": 2}, time=3.5)
        self.assertEqual(ledger.read(self.path), [ledger.Entry(3.5, "a, b", ledger.FAILED, 'it said "no"', {"version": 2})])

    def test_keeps_a_reason_of_several_lines_in_one(self):
        ledger.Ledger(self.path).write("a", ledger.FAILED, "one\ntwo\r\n  three")
        self.assertEqual(ledger.read(self.path)[0].reason, "one two three")

    def test_is_continued_by_the_next_run(self):
        ledger.Ledger(self.path).write("a", ledger.IMPORTED)
        ledger.Ledger(self.path).write("b", ledger.IMPORTED)
        self.assertEqual([entry.item for entry in ledger.read(self.path)], ["a", "b"])

    def test_loses_only_the_half_line_of_a_killed_writer(self):
        ledger.Ledger(self.path).write("a", ledger.IMPORTED)
        self.append("12.5,b,impo")
        ledger.Ledger(self.path).write("c", ledger.IMPORTED)
        self.assertEqual([entry.item for entry in ledger.read(self.path)], ["a", "c"])

    def test_a_quotation_that_a_killed_writer_left_open_swallows_nothing(self):
        half = '1.0,TS_01,series,"half a reas'
        whole = '2.0,TS_02,composed,"of 41 tilts, all of them","{""version"": 1}"'
        found = list(ledger.parse(f"{half}\n{whole}\n{half}\n"))
        self.assertEqual([(entry.item, entry.evidence) for entry in found], [("TS_02", {"version": 1})])

    def test_a_name_that_is_no_text_is_written_all_the_same(self):
        book = ledger.Ledger(self.path)
        book.write(os.fsdecode(b"caf\xe9.tif"), ledger.FAILED, os.fsdecode(b"caf\xe9.tif is no good"))
        book.write("b.tif", ledger.FAILED, "neither")
        self.assertEqual([entry.item for entry in ledger.read(self.path)], ["caf\\udce9.tif", "b.tif"])

    def test_of_a_run_that_never_wrote_is_empty(self):
        self.assertEqual(ledger.read(self.path), [])

    def test_passes_over_evidence_that_is_no_json(self):
        self.append("1.0,a,imported,,{\n2.0,b,imported,,\n")
        self.assertEqual([entry.item for entry in ledger.read(self.path)], ["b"])


class TestAReader(Case):
    def test_gives_every_entry_once(self):
        writer, reader = ledger.Ledger(self.path), ledger.LedgerReader(self.path)
        writer.write("a", ledger.IMPORTED)
        self.assertEqual([entry.item for entry in reader.new()], ["a"])
        self.assertEqual(reader.new(), [])
        writer.write("b", ledger.IMPORTED)
        self.assertEqual([entry.item for entry in reader.new()], ["b"])

    def test_waits_for_the_rest_of_a_line(self):
        reader = ledger.LedgerReader(self.path)
        self.append("1.0,a,impor")
        self.assertEqual(reader.new(), [])
        self.append("ted,,\n")
        self.assertEqual([entry.item for entry in reader.new()], ["a"])

    def test_starts_again_when_the_file_was_made_anew(self):
        reader = ledger.LedgerReader(self.path)
        self.append("1.0,a,imported,,\n2.0,b,imported,,\n")
        reader.new()
        os.remove(self.path)
        self.append("3.0,c,imported,,\n")
        self.assertEqual([entry.item for entry in reader.new()], ["c"])


class TestAFullDisk(Case):
    """The kernel lets a file grow by a few bytes only, as a disk does that fills up in the middle of a line."""

    def setUp(self) -> None:
        super().setUp()
        self.writer = ledger.Ledger(self.path)
        self.writer.write("a", ledger.IMPORTED)
        self.size = os.path.getsize(self.path)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size + 8, limits[1]))
            self.writer.write("b", ledger.IMPORTED)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    def test_keeps_the_lines_and_writes_them_whole_when_there_is_room(self):
        self.assertIn("File too large", self.writer.trouble)
        self.writer.write("c", ledger.IMPORTED)
        self.assertEqual(self.writer.trouble, "")
        self.assertEqual([entry.item for entry in ledger.read(self.path)], ["a", "b", "c"])

    def test_leaves_no_half_line_behind(self):
        self.assertEqual(os.path.getsize(self.path), self.size)


if __name__ == "__main__":
    unittest.main()
