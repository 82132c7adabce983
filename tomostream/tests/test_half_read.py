# SPDX-License-Identifier: GPL-3.0-or-later
"""Nobody who reads a set of another process keeps it from being written: what was read to its first item alone holds a lock."""

from __future__ import annotations

import gc
import os
import sqlite3
import subprocess
import sys
import tempfile
import unittest
from types import SimpleNamespace
from unittest import mock

from pyworkflow.config import Config

Config.getDomain().getProtocols()       # the plugins below ours can be imported only once Scipion knows them

from pwem.objects import Acquisition, Movie, SetOfMovies  # noqa: E402
from tomo.objects import SetOfTiltSeries, TiltImage, TiltSeries, TomoAcquisition  # noqa: E402

from tomostream.protocols.aretomo_series import source_of  # noqa: E402
from tomostream.protocols.protocol_motioncor import NewMovie, ProtTomoStreamMotionCor, UniqueNames  # noqa: E402
from tomostream.protocols.references import References  # noqa: E402
from tomostream.streaming.rows import RowReader, first_item  # noqa: E402
from tomostream.streaming.sets import REPLACED  # noqa: E402
from tomostream.wizards.wizard import quick_source  # noqa: E402

#: What another process does that writes: 0 where nobody is in its way.
WRITER = ("import sqlite3, sys\n"
          "connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)\n"
          "try:\n    connection.execute('BEGIN EXCLUSIVE')\n"
          "except sqlite3.OperationalError:\n    sys.exit(7)\n"
          "connection.execute('ROLLBACK')\n")
LOCKED = 7


def write(path: str) -> int:
    """Write to a database from another process: 0, or `LOCKED`."""
    return subprocess.run([sys.executable, "-S", "-c", WRITER, path], check=False).returncode


def disk_error(*_: object, **__: object) -> None:
    raise sqlite3.OperationalError("disk I/O error")


class WithoutGarbageCollection(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        gc.disable()
        self.addCleanup(gc.enable)

    def movies(self) -> SetOfMovies:
        movies = SetOfMovies(filename=os.path.join(self.folder, "movies.sqlite"))
        self.addCleanup(movies.close)
        movies.setSamplingRate(1.5)
        acquisition = Acquisition(voltage=300.0, magnification=50000.0, doseInitial=0.0, dosePerFrame=0.4)
        movies.setAcquisition(acquisition)
        for name in ("a.tif", "b.tif", "c.tif"):
            movie = Movie()
            movie.setLocation(name)
            movie.setMicName(name)
            movie.setAcquisition(acquisition)
            movie.setSamplingRate(1.5)
            for each in (movie, movies):
                each.setFramesRange([1, 4, 1])
            movies.setDim((64, 64, 4))
            movies.append(movie)
        movies.write()
        movies.close()
        return movies

    def series(self) -> SetOfTiltSeries:
        items = SetOfTiltSeries(filename=os.path.join(self.folder, "tiltseries.sqlite"))
        self.addCleanup(items.close)
        items.setSamplingRate(1.5)
        for name in ("A", "B"):
            series = TiltSeries(tsId=name)
            series.setAcquisition(TomoAcquisition(tiltAxisAngle=85.0, dosePerFrame=3.0))
            series.setSamplingRate(1.5)
            items.append(series)
            for index in (1, 2, 3):
                image = TiltImage(tsId=name, tiltAngle=3.0 * index, acquisitionOrder=index)
                image.setLocation(index, f"{name}.mrcs")
                image.setSamplingRate(1.5)
                image._firstDim = None
                series.append(image)
            series.write()
            items.update(series)
        items.write()
        items.close()
        return items


class TestReading(WithoutGarbageCollection):
    def test_the_first_item_as_pyworkflow_does_holds_a_lock_and_as_we_do_does_not(self) -> None:
        movies = self.movies()
        movies.load()
        self.assertEqual(movies.getFirstItem().getMicName(), "a.tif")
        self.assertEqual(write(movies.getFileName()), LOCKED)
        self.assertEqual(first_item(movies).getMicName(), "a.tif")
        self.assertEqual(write(movies.getFileName()), 0)

    def test_of_rows_that_breaks_off_holds_no_lock(self) -> None:
        movies = self.movies()
        reader = RowReader(movies, REPLACED, lambda row: row.clone())
        with mock.patch.object(Movie, "clone", disk_error):
            self.assertEqual(reader.read(), ([], False))
        self.assertIn("disk I/O error", reader.trouble)
        self.assertEqual(write(movies.getFileName()), 0)
        self.assertEqual([row.getMicName() for row in reader.read()[0]], ["a.tif", "b.tif", "c.tif"])


class TestProtocols(WithoutGarbageCollection):
    def test_motioncor_has_let_go_of_the_movies_when_it_knows_its_command_line(self) -> None:
        movies = self.movies()
        os.mkdir("extra")
        protocol = ProtTomoStreamMotionCor(workingDir=".")
        protocol.inputMovies.set(movies)
        protocol._reader, protocol.outputs, protocol._names = RowReader(movies, REPLACED, NewMovie.of), {}, UniqueNames()
        protocol._template_args, protocol._references = None, References("extra", lambda line: None)
        protocol._runner = SimpleNamespace(gpu=False, name="MotionCor3", threads=1)
        protocol._new, _ = protocol._reader.read()
        self.assertEqual([task.key for task in protocol.decide()], ["a.tif", "b.tif", "c.tif"])
        self.assertEqual(write(movies.getFileName()), 0)

    def test_what_aretomo_needs_of_a_series_is_in_its_images(self) -> None:
        items = self.series()
        items.load()
        series = items[1]
        images = [image.clone() for image in series.iterItems()]
        for image in images:
            image.getDim = lambda: (8, 6, 1)
        with mock.patch.object(type(series), "getDim", return_value=None):
            self.assertEqual(source_of(series, images, "", "").size, (8, 6))
        self.assertEqual(write(items.getFileName()), 0)


class TestWizards(WithoutGarbageCollection):
    def test_the_thickness_holds_no_lock_though_a_series_cannot_be_read(self) -> None:
        items = self.series()
        self.assertEqual(quick_source(items).series_id, "A")
        self.assertEqual(write(items.getFileName()), 0)
        try:
            with mock.patch.object(TiltSeries, "iterItems", disk_error):
                quick_source(items)
        except sqlite3.OperationalError:
            pass
        else:
            self.fail("it was read")
        self.assertEqual(write(items.getFileName()), 0)


if __name__ == "__main__":
    unittest.main()
