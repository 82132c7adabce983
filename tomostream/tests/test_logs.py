# SPDX-License-Identifier: GPL-3.0-or-later
"""The words that are taken out of logs: the line that says what went wrong, whatever comes after it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import unittest

from tomostream.files import logs

#: A process that prints as libraries do, to a disk that is full.
PRINTS = ("import sys; from tomostream.files.logs import Lenient; sys.stdout = Lenient(open('/dev/full', 'w'))\n"
          "print('x' * 999999, flush=True); print(sys.stdout.write('x' * 1000000), 'and on', file=sys.stderr)")


class TestALog(unittest.TestCase):
    def log(self, text: str) -> str:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = os.path.join(folder.name, "program.log")
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        return path

    def test_ends_with_what_went_wrong_not_with_what_was_printed_after_it(self):
        self.assertEqual(logs.last_words(self.log("begin\nError: no memory\ntotal time 3 s\n")), "Error: no memory")
        self.assertEqual(logs.last_words(self.log("begin\nNo stack: it cannot be read\ntotal time 3 s\n")),
                         "No stack: it cannot be read")
        self.assertEqual(logs.last_words(self.log("begin\ntotal time 3 s\n\n  \n")), "total time 3 s")

    def test_with_a_line_of_progress_that_is_written_over_has_its_newest_state(self):
        path = self.log("begin\r 10 %\r 20 %\r")
        self.assertEqual((logs.last_line(path), logs.last_words(path)), ("20 %", "20 %"))

    def test_that_is_not_there_or_empty_says_nothing(self):
        for path in (self.log(""), "/nowhere/program.log"):
            self.assertEqual((logs.last_line(path), logs.last_words(path), logs.first_words(path)), ("", "", ""))

    def test_of_any_length_gives_one_line_of_limited_length(self):
        self.assertEqual(len(logs.last_words(self.log("x" * 100_000))), 300)


if __name__ == "__main__":
    unittest.main()


@unittest.skipUnless(os.path.exists("/dev/full"), "no device that is always full")
class TestWordsForAFullDisk(unittest.TestCase):
    def test_are_lost_and_whoever_prints_them_goes_on(self):
        done = subprocess.run([sys.executable, "-c", PRINTS], stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, "1000000 and on\n"))

    def test_leave_the_rest_of_the_stream_as_it_is(self):
        with open(os.devnull, "w", encoding="utf-8") as stream:
            self.assertEqual(logs.Lenient(stream).fileno(), stream.fileno())
