# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files the import protocol takes, without a project."""

from __future__ import annotations

import os
import tempfile
import threading
import unittest
from types import SimpleNamespace

from pyworkflow.config import Config

Config.getDomain().getProtocols()       # the plugins below ours can be imported only once Scipion knows them

from tomostream.acquisition.arrival import Arrivals  # noqa: E402
from tomostream.acquisition.movies import MovieCheck  # noqa: E402
from tomostream.acquisition.optics import Optics, find_optics  # noqa: E402
from tomostream.journal import entries  # noqa: E402
from tomostream.protocols.protocol_import_movies import ProtTomoStreamImportMovies, why_left_over  # noqa: E402
from tomostream.streaming.watch import Seen  # noqa: E402


class TestWatching(unittest.TestCase):
    def test_a_file_whose_name_cannot_be_stored_fails_alone(self):
        names = [b"a.tif", b"caf\xe9.tif", b"two\nlines.tif", "caf\u00e9 [1].tif".encode()]
        seen = [(os.fsdecode(b"/data/" + name), Seen(1, 0.0)) for name in names]
        told: list[tuple[str, type]] = []
        protocol = SimpleNamespace(
            _files=SimpleNamespace(changes=lambda: seen, gone=list, trouble="", lies=""), _arrivals=Arrivals(), _news_at=0.0,
            watcher=SimpleNamespace(how_written=lambda path: ""), timeout=SimpleNamespace(get=lambda: "1h"), attempts={},
            _wanted=lambda path: True, _is_new=lambda path, seen: True, trouble=lambda *words: None, _getPath=lambda: "",
            stop_event=threading.Event(),
            report=lambda entry, warn: told.append((entry.item, type(entry))))
        self.assertFalse(ProtTomoStreamImportMovies.watch(protocol))
        self.assertEqual(sorted(protocol._arrivals.waiting), ["/data/a.tif", "/data/caf\u00e9 [1].tif"])
        self.assertEqual(told, [("caf\\udce9.tif", entries.Failed), ("two lines.tif", entries.Failed)])



class TestOptics(unittest.TestCase):
    def test_a_whole_movie_is_not_called_incomplete_because_the_voltage_is_not_known(self):
        whole = why_left_over(MovieCheck("complete"), "voltage")
        self.assertTrue(whole.startswith("is complete"))
        self.assertIn("the voltage is not known", whole)
        self.assertEqual(why_left_over(MovieCheck("growing", "It ends early."), "voltage"),
                         "is not complete (It ends early), and the import ended")

    def test_what_came_from_the_form_and_what_from_which_mdoc_is_reported(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "TS_01.mrc.mdoc")
            with open(path, "w", encoding="utf-8") as file:
                file.write("PixelSpacing = 2.5\nVoltage = 200\nImageFile = TS_01.mrc\n\n[ZValue = 0]\nTiltAngle = 3\n\n"
                           "[ZValue = 1]\nTiltAngle = 6\n")
            movie = MovieCheck("complete", width=512, height=512)
            form = Optics(3.0, None, None, "pixel size from the form")
            found = find_optics(form, [path], movie)
        self.assertEqual((found.pixel_size, found.voltage), (3.0, 200.0))
        self.assertEqual(found.source, "pixel size from the form; voltage from TS_01.mrc.mdoc")


if __name__ == "__main__":
    unittest.main()
