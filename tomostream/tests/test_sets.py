# SPDX-License-Identifier: GPL-3.0-or-later
"""What we write into Scipion's sets can be read the way upstream's protocols and viewers read it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import unittest
from unittest.mock import patch

from pyworkflow.config import Config

Config.getDomain().getProtocols()       # the plugins below ours can be imported only once Scipion knows them

from pwem.objects import CTFModel  # noqa: E402
from pyworkflow.mapper.sqlite_db import SqliteDb  # noqa: E402
from tomo.objects import (  # noqa: E402
    CTFTomo,
    CTFTomoSeries,
    SetOfCTFTomoSeries,
    SetOfTiltSeries,
    TiltImage,
    TiltSeries,
    TomoAcquisition,
)

from tomostream.files.databases import readers_of  # noqa: E402
from tomostream.streaming.rows import RowReader, know_tables  # noqa: E402
from tomostream.streaming.sets import REPLACED, NotCommitted, OutputSet  # noqa: E402


class SetCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "set.sqlite")

    def output(self, cls, template) -> OutputSet:
        items = cls(filename=self.path)
        items.load()
        return OutputSet(items, template, "_tsId")

    def reopened(self, output: OutputSet):
        output.commit()
        output.items.close()
        items = type(output.items)(filename=self.path)
        items.loadAllProperties()
        self.addCleanup(items.close)
        return items


class TestCtfSeries(SetCase):
    """Upstream names the tables of a CTF series by the series' id in the set, those of a tilt series by its tsId."""

    @staticmethod
    def tilts(defoci) -> list[CTFTomo]:
        found = []
        for number, defocus in enumerate(defoci, start=1):
            model = CTFModel()
            model.setStandardDefocus(defocus, defocus - 500.0, 10.0)
            ctf = CTFTomo.ctfModelToCtfTomo(model)
            ctf.setIndex(number)
            found.append(ctf)
        return found

    def put(self, output: OutputSet, name: str, defoci, version: int = 1) -> None:
        series = CTFTomoSeries(tsId=name)
        output.put(name, series, version, children=self.tilts(defoci))

    def read(self, items) -> dict[str, list[float]]:
        items._getTiltSeriesFromTsId = lambda name: TiltSeries(tsId=name)       # there is no project here to point into
        return {series.getTsId(): [round(ctf.getDefocusU()) for ctf in series.iterItems()] for series in items.iterItems()}

    def test_each_series_comes_back_with_its_own_tilts(self):
        output = self.output(SetOfCTFTomoSeries, CTFTomoSeries(tsId="template"))
        self.put(output, "TS_01", (30000.0, 31000.0))
        self.put(output, "TS_02", (40000.0, 41000.0, 42000.0))
        self.assertEqual(self.read(self.reopened(output)), {"TS_01": [30000, 31000], "TS_02": [40000, 41000, 42000]})

    def test_the_first_tilt_of_the_first_series_is_read_as_the_viewer_reads_it(self):
        output = self.output(SetOfCTFTomoSeries, CTFTomoSeries(tsId="template"))
        self.put(output, "TS_01", (30000.0, 31000.0))
        first = self.reopened(output).getFirstItem()
        self.assertEqual(first.getSize(), 2)
        self.assertFalse(first.getFirstItem().hasPhaseShift())

    def test_a_higher_version_takes_the_place_of_the_one_before(self):
        output = self.output(SetOfCTFTomoSeries, CTFTomoSeries(tsId="template"))
        self.put(output, "TS_01", (30000.0, 31000.0))
        self.put(output, "TS_02", (40000.0,))
        output.commit()
        self.put(output, "TS_01", (35000.0, 36000.0, 37000.0), version=2)
        self.assertEqual(self.read(self.reopened(output)), {"TS_01": [35000, 36000, 37000], "TS_02": [40000]})


class TestAReaderThatDoesNotEnd(SetCase):
    """A protocol of another plugin that leaves a query open: nobody can write, so it is named."""

    READER = """
import sqlite3, sys
cursor = sqlite3.connect(sys.argv[1]).execute("SELECT * FROM Objects, (SELECT 1 UNION SELECT 2)")
cursor.fetchone()
print("reading", flush=True)
sys.stdin.read()
"""

    WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("BEGIN EXCLUSIVE")
print("writing", flush=True)
sys.stdin.read()
"""

    def test_it_is_named_until_it_ends(self):
        output = self.output(SetOfTiltSeries, TiltSeries(tsId="template"))
        output.put("TS_01", TiltSeries(tsId="TS_01"), 1)
        output.commit()
        output.connection.execute("PRAGMA busy_timeout=1")
        words = [sys.executable, "-c", self.READER, self.path, "Runs/000007_ProtForeign/logs/run.db"]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            self.assertEqual(reader.stdout.readline(), "reading\n")
            output.put("TS_02", TiltSeries(tsId="TS_02"), 1)
            with self.assertRaises(NotCommitted) as caught:
                output.commit()
            reader.stdin.close()
        self.assertEqual(str(caught.exception), f"database is locked: process {reader.pid} (Runs/000007_ProtForeign) keeps "
                                                f"reading {self.path}")
        self.assertEqual(readers_of(self.path), [])
        output.commit()
        self.assertEqual([item.getTsId() for item in self.reopened(output).iterItems()], ["TS_01", "TS_02"])


    def test_who_writes_is_no_reader(self):
        """The name of a writer would be wrong: it is done in a moment."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("CREATE TABLE Objects (id INTEGER)")
        words = [sys.executable, "-c", self.WRITER, self.path]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
            self.assertEqual(writer.stdout.readline(), "writing\n")
            self.assertEqual(readers_of(self.path), [])
            writer.stdin.close()


class TestTiltSeries(SetCase):
    """Tilt series, as upstream iterates them."""

    @staticmethod
    def series(name: str) -> TiltSeries:
        series = TiltSeries(tsId=name)
        series.setAcquisition(TomoAcquisition(magnification=50000, voltage=300.0))
        return series

    def images(self, name: str, angles) -> list[TiltImage]:
        images = []
        for index, angle in enumerate(angles, start=1):
            image = TiltImage()
            image.setLocation(index, f"{name}.mrcs")
            image.setTiltAngle(angle)
            image.setAcquisition(TomoAcquisition(magnification=50000, voltage=300.0))
            images.append(image)
        return images

    def put(self, output: OutputSet, name: str, angles) -> None:
        output.put(name, self.series(name), children=self.images(name, angles))

    def columns(self, prefix: str) -> dict[str, list[tuple]]:
        """Columns (name, type, part of the key) of the two tables of a series."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return {table: [(row[1], row[2], row[5]) for row in connection.execute(f"PRAGMA table_info({prefix}_{table})")]
                    for table in ("Classes", "Objects")}

    def test_tables_of_a_series_are_those_that_pyworkflow_makes(self):
        output = self.output(SetOfTiltSeries, self.series("template"))
        self.put(output, "TS_01", (-3.0, 0.0))
        output.commit()
        ours = self.columns("TS_01")
        output.items.close()
        os.remove(self.path)
        items = SetOfTiltSeries(filename=self.path)
        self.addCleanup(items.close)
        series = self.series("TS_01")
        items.append(series)
        for image in self.images("TS_01", (-3.0, 0.0)):
            image.setTsId("TS_01")
            series._getMapper().insert(image)
        items.write()
        self.assertEqual(ours, self.columns("TS_01"))

    def test_a_file_of_an_earlier_release_takes_attributes_that_came_later(self):
        from pyworkflow.object import Float

        output = self.output(SetOfTiltSeries, self.series("template"))
        self.put(output, "TS_01", (-3.0, 0.0))
        output.commit()
        output.items.close()
        later, series = self.series("template"), self.series("TS_02")
        later._alignmentSigma = Float()
        series._alignmentSigma = Float(2.5)
        output = self.output(SetOfTiltSeries, later)
        output.put("TS_02", series, children=self.images("TS_02", (-3.0, 0.0, 3.0)))
        first, second = [item.clone() for item in self.reopened(output).iterItems()]
        self.assertEqual((first.getTsId(), second.getTsId(), first.getAcquisition().getVoltage()), ("TS_01", "TS_02", 300.0))
        self.assertEqual((first._alignmentSigma.get(), second._alignmentSigma.get()), (None, 2.5))

    def test_upstream_adds_tilts_to_a_series_that_we_wrote(self):
        output = self.output(SetOfTiltSeries, self.series("template"))
        self.put(output, "TS_01", (-3.0, 0.0))
        items = self.reopened(output)
        series = items.getFirstItem()
        series.enableAppend()
        image = self.images("TS_01", (3.0,))[0]
        image.setObjId(3)
        series._getMapper().insert(image)
        series._getMapper().commit()
        self.assertEqual([each.getTiltAngle() for each in series.iterItems()], [-3.0, 0.0, 3.0])

    def test_a_reader_and_a_writer_never_list_the_tables_of_the_file(self):
        output = self.output(SetOfTiltSeries, self.series("template"))
        self.put(output, "TS_01", (-3.0, 0.0))
        output.set_stream_state(SetOfTiltSeries.STREAM_OPEN)
        output.commit()
        items = SetOfTiltSeries(filename=os.path.join(os.path.dirname(self.path), ".", "set.sqlite"))   # a connection of its own
        self.addCleanup(items.close)
        reader = RowReader(items, REPLACED, lambda row: row.clone())
        self.assertEqual(len(reader.read()[0]), 1)
        with patch.object(SqliteDb, "getTables", side_effect=AssertionError("all tables were listed")):
            self.put(output, "TS_02", (0.0, 3.0, 6.0))
            output.commit()
            rows, closed = reader.read()
            items.loadAllProperties()
            series = know_tables(items[rows[0].getObjId()])
            self.assertEqual([image.getTiltAngle() for image in series.iterItems()], [0.0, 3.0, 6.0])
        self.assertFalse(closed)

    def test_images_come_back_by_series(self):
        output = self.output(SetOfTiltSeries, self.series("template"))
        for name, angles in (("TS_01", (-3.0, 0.0)), ("TS_02", (0.0, 3.0, 6.0))):
            self.put(output, name, angles)
        found = {series.getTsId(): [image.getTiltAngle() for image in series.iterItems()]
                 for series in self.reopened(output).iterItems()}
        self.assertEqual(found, {"TS_01": [-3.0, 0.0], "TS_02": [0.0, 3.0, 6.0]})


if __name__ == "__main__":
    unittest.main()
