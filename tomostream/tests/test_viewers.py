# SPDX-License-Identifier: GPL-3.0-or-later
"""Analyze results without a display: what is read from a run's files, what is drawn of it, what the buttons are."""

from __future__ import annotations

import os
import pathlib
import tempfile
import unittest
from unittest import mock

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pyworkflow.config import Config

Config.getDomain().getProtocols()       # the plugins below ours can be imported only once Scipion knows them

from tomostream.journal import entries, ledger  # noqa: E402
from tomostream.journal.composed import ComposedSeries, Tilt  # noqa: E402
from tomostream.programs import aln, ctf, motioncor  # noqa: E402
from tomostream.programs.quality import Quality, TiltQuality, format_quality  # noqa: E402
from tomostream.viewers import plots, results  # noqa: E402

RUN = "Runs/000177_ProtTomoStreamAreTomo"
ANGLES = (-6.0, -3.0, 0.0, 3.0)
SHIFTS = ((4.0, -1.0), (2.0, -0.5), (0.0, 0.0), (-2.0, 0.5))


class RunCase(unittest.TestCase):
    """A project with one run folder, and in it what the test writes."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.project = folder.name
        self.folder = os.path.join(self.project, RUN)
        os.makedirs(os.path.join(self.folder, "extra"))

    def report(self, item: str, kind: type[entries.Entry], **fields) -> None:
        ledger.Ledger(ledger.path_in(self.folder)).write(kind(item, **fields))

    def write(self, name: str, text: str) -> None:
        path = os.path.join(self.folder, "extra", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def aligned_series(self, name: str = "TS_01", folder: str = "TS_01", **evidence) -> None:
        rows = tuple(aln.AlnRow(section, 84.5, *shift, angle)
                     for section, (shift, angle) in enumerate(zip(SHIFTS, ANGLES, strict=True)))
        self.write(f"{folder}/{name}.aln", aln.format_aln(aln.AlnFile(rows, raw_size=(64, 64, len(rows)))))
        tilts = tuple(TiltQuality(section, angle, True, "", 0.1 * (section + 1))
                      for section, angle in enumerate(ANGLES))
        quality = Quality(tilts, tilt_axis_deg=84.5, tilt_offset_deg=1.5, thickness_A=1800.0, quality=0.9,
                                  ctf_note="too few pixels")
        self.write(f"{folder}/{name}_quality.json", format_quality(quality))
        self.report(name, entries.Reconstructed, folder=f"{RUN}/extra/{folder}", **evidence)


class TestResults(RunCase):
    """What is read."""

    def test_the_frames_of_a_movie_come_from_the_program_s_log(self):
        self.report("a_001.tif", entries.Aligned, file="extra/a_001_aligned_mic.mrc")
        self.write("a_001_aligned_mic-Full.log", motioncor.format_log([(0.0, 0.0), (1.5, -0.5)]))
        self.assertEqual(results.frame_drift(self.folder, "a_001.tif"), ((0.0, 0.0), (1.5, -0.5)))

    def test_the_log_is_that_of_the_movie_whatever_its_name(self):
        for movie, stem, shift in (("a.mrc.tif", "a.mrc", 1.0), ("x.mrc", "x", 2.0), ("x.tif", "x_tif", 3.0),
                                   ("y.tif", "y_aligned_mic-v2", 4.0)):
            self.report(movie, entries.Aligned, file=f"extra/{stem}.mrc")
            self.write(f"{stem}-Full.log", motioncor.format_log([(0.0, 0.0), (shift, 0.0)]))
        for movie, shift in (("a.mrc.tif", 1.0), ("x.mrc", 2.0), ("x.tif", 3.0), ("y.tif", 4.0)):
            self.assertEqual(results.frame_drift(self.folder, movie)[1], (shift, 0.0))

    def test_a_movie_that_is_not_aligned_is_named(self):
        with self.assertRaisesRegex(results.NoResult, r"b_002\.tif is not aligned"):
            results.frame_drift(self.folder, "b_002.tif")

    def test_a_log_that_is_gone_is_reported(self):
        self.report("a_001.tif", entries.Aligned, file="extra/a_001_aligned_mic.mrc")
        with self.assertRaisesRegex(results.NoResult, "no log of the frames"):
            results.frame_drift(self.folder, "a_001.tif")

    def test_a_log_of_garbage_is_reported_with_its_name(self):
        self.report("a_001.tif", entries.Aligned, file="extra/a_001_aligned_mic.mrc")
        self.write("a_001_aligned_mic-Full.log", "nonsense here\n")
        with self.assertRaisesRegex(results.NoResult, r"a_001_aligned_mic-Full\.log cannot be shown"):
            results.frame_drift(self.folder, "a_001.tif")

    def test_movies_and_series_are_listed_newest_first(self):
        for name in ("a.tif", "b.tif", "a.tif"):
            self.report(name, entries.Aligned, drift_px=1.0)
        self.assertEqual(results.movies(self.folder), ["a.tif", "b.tif"])

    def test_shifts_and_uncertainties_belong_to_their_angles(self):
        self.aligned_series()
        series = results.alignment(self.project, self.folder, "TS_01")
        self.assertEqual([tilt.angle for tilt in series.tilts], list(ANGLES))
        self.assertEqual([tilt.shift for tilt in series.tilts], list(SHIFTS))
        for tilt, sigma in zip(series.tilts, (0.1, 0.2, 0.3, 0.4), strict=True):
            self.assertAlmostEqual(tilt.sigma, sigma)
        self.assertEqual((series.tilt_axis, series.tilt_offset, series.thickness), (84.5, 1.5, 1800.0))

    def test_tilts_that_were_left_out_stand_at_their_angle_with_why(self):
        self.aligned_series(excluded=(entries.Excluded(6.0, "dark"),))
        last = results.alignment(self.project, self.folder, "TS_01").tilts[-1]
        self.assertEqual((last.angle, last.shift, last.reason), (6.0, None, "dark"))

    def test_of_two_versions_the_last_registered_one_is_shown(self):
        self.aligned_series()
        self.aligned_series(folder="TS_01-v2", version=2)
        os.remove(os.path.join(self.folder, "extra", "TS_01", "TS_01.aln"))
        self.assertEqual(len(results.alignment(self.project, self.folder, "TS_01").tilts), len(ANGLES))

    def test_defoci_are_in_micrometres_at_their_angles(self):
        self.aligned_series()
        rows = [ctf.CtfRow(number + 1, 41000.0, 39000.0, 10.0, 0.0, 0.2, 8.0) for number in range(4)]
        self.write("TS_01/TS_01_ctf.txt", ctf.format_ctf(rows))
        found = results.ctf(self.project, self.folder, "TS_01")
        self.assertEqual([tilt.angle for tilt in found], list(ANGLES))
        self.assertAlmostEqual(found[0].defocus_max, 4.1)
        self.assertAlmostEqual(found[0].defocus_min, 3.9)

    def test_a_tilt_of_which_no_defocus_is_known_has_no_point(self):
        self.aligned_series()
        rows = [ctf.CtfRow(number + 1, 41000.0 * (number != 2), 39000.0 * (number != 2), 10.0, 0.0, 0.2, 8.0)
                for number in range(4)]
        self.write("TS_01/TS_01_ctf.txt", ctf.format_ctf(rows))
        self.assertEqual([tilt.angle for tilt in results.ctf(self.project, self.folder, "TS_01")], [*ANGLES[:2], ANGLES[3]])

    def test_a_missing_ctf_is_reported_with_the_program_s_reason(self):
        self.aligned_series()
        with self.assertRaisesRegex(results.NoResult, "no CTF of TS_01: too few pixels"):
            results.ctf(self.project, self.folder, "TS_01")

    def test_a_project_without_a_report_says_how_to_make_one(self):
        with self.assertRaisesRegex(results.NoResult, "tomostream report"):
            results.report_page(self.project)

    def test_the_report_is_found_where_it_is_written(self):
        page = os.path.join(self.project, "report", "index.html")
        os.makedirs(os.path.dirname(page))
        open(page, "w", encoding="utf-8").close()
        self.assertEqual(results.report_page(self.project), pathlib.Path(page).as_uri())
        self.assertTrue(results.series_page(self.project, "a/b #1").endswith("index.html#/series/a%2Fb%20%231"))


class TestPlots(unittest.TestCase):
    """What is drawn: the numbers are in the plot, at their places."""

    def figure(self) -> Figure:
        figure = Figure()
        FigureCanvasAgg(figure)
        return figure

    def test_the_path_of_the_frames_has_their_positions(self):
        figure = self.figure()
        plots.draw_frame_drift(figure, "a.tif", [(0.0, 0.0), (1.0, 2.0), (1.5, 2.5)])
        path, over = figure.axes
        self.assertEqual(list(path.lines[0].get_xdata()), [0.0, 1.0, 1.5])
        self.assertEqual(list(over.lines[1].get_ydata()), [0.0, 2.0, 2.5])
        figure.canvas.draw()

    def test_a_movie_of_one_frame_can_be_drawn(self):
        figure = self.figure()
        plots.draw_frame_drift(figure, "a.tif", [(0.0, 0.0)])
        figure.canvas.draw()

    def test_the_movie_with_the_most_drift_is_named(self):
        figure = self.figure()
        plots.draw_drifts(figure, [("calm.tif", 0.5), ("wild.tif", 9.0)])
        self.assertIn("wild.tif", [text.get_text() for text in figure.axes[0].texts])

    def test_excluded_tilts_are_marked_with_their_reason(self):
        tilts = (results.TiltAlignment(-3.0, (1.0, 2.0), 0.1), results.TiltAlignment(0.0, (0.0, 0.0), 0.1),
                 results.TiltAlignment(3.0, None, None, "dark"))
        figure = self.figure()
        plots.draw_alignment(figure, results.SeriesAlignment("TS_01", tilts, 0.0, None, None, None))
        self.assertIn("left out: dark", [text.get_text() for text in figure.axes[0].texts])
        self.assertEqual(list(figure.axes[0].lines[0].get_xdata()), [-3.0, 0.0])
        figure.canvas.draw()

    def test_a_tilt_axis_of_zero_is_written_and_an_unknown_one_is_not(self):
        words = [plots.alignment_words(results.SeriesAlignment("a", (), axis, None, None, None)) for axis in (0.0, None)]
        self.assertIn("tilt axis 0.00 degrees", words[0])
        self.assertEqual(words[1], "")

    def test_an_alignment_without_uncertainties_says_so(self):
        figure = self.figure()
        tilts = (results.TiltAlignment(0.0, (1.0, 1.0), None),)
        plots.draw_alignment(figure, results.SeriesAlignment("a", tilts, 84.0, None, None, None))
        self.assertIn("no uncertainty", figure.axes[1].texts[0].get_text())

    def test_the_mean_defocus_is_drawn_over_the_tilt_angle(self):
        figure = self.figure()
        plots.draw_ctf(figure, "TS_01", [results.TiltCtf(-3.0, 4.2, 3.8, 9.0), results.TiltCtf(0.0, 4.1, 4.1, 8.0)])
        line = figure.axes[0].lines[0]
        self.assertEqual(list(line.get_xdata()), [-3.0, 0.0])
        self.assertAlmostEqual(line.get_ydata()[0], 4.0)
        figure.canvas.draw()


    def test_the_acquisition_is_drawn_over_its_order_with_what_was_left_out_and_why(self):
        tilts = (Tilt("m3", -3.0, 3, 0, 6.0), Tilt("m1", 0.0, 1, 1, 0.0), Tilt("m2", 3.0, 2, None, 3.0, "excluded", "ice"),
                 Tilt("m4", 6.0, None, None, None, "missing", "Its movie never arrived."))
        figure = self.figure()
        plots.draw_acquisition(figure, ComposedSeries("TS_01", 2, "", "", tilts))
        angles, doses = figure.axes
        self.assertEqual([line.get_xydata().tolist() for line in angles.lines[:3]],
                         [[[1, 0.0], [2, 3.0], [3, -3.0]], [[1, 0.0], [3, -3.0]], [[2, 3.0]]])
        self.assertIn("ice", [text.get_text() for text in angles.texts])
        self.assertEqual(doses.lines[0].get_ydata().tolist(), [0.0, 3.0, 6.0])
        self.assertIn("2 of 4 tilts used; dotted: a tilt that never arrived", figure._suptitle.get_text())
        figure.canvas.draw()

    def test_a_series_without_doses_says_so(self):
        figure = self.figure()
        plots.draw_acquisition(figure, ComposedSeries("TS_01", 1, "", "", (Tilt("m1", 0.0, 1, 0),)))
        self.assertIn("does not give the doses", figure.axes[1].texts[0].get_text())


class TestViewers(RunCase):
    """The windows, as far as they go without a display."""

    def viewer(self, name: str):
        from pyworkflow.viewer import DESKTOP_TKINTER

        import tomostream.protocols as ours

        protocol = getattr(ours, name)()
        protocol.setWorkingDir(self.folder)
        first = Config.getDomain().findViewers(protocol, DESKTOP_TKINTER)[0]
        project = mock.Mock(path=self.project)
        project.getTmpPath.return_value = self.project
        viewer = first(project=project, protocol=protocol)
        viewer.setProtocol(protocol)
        return viewer

    def test_scipion_takes_ours_first_for_each_of_the_four(self):
        for name in ("ProtTomoStreamImportMovies", "ProtTomoStreamMotionCor", "ProtTomoStreamComposeTS",
                     "ProtTomoStreamAreTomo"):
            self.assertEqual(type(self.viewer(name)).__module__, "tomostream.viewers.viewer", name)

    def test_every_button_has_a_handler_and_every_handler_a_button(self):
        self.aligned_series()
        for name in ("ProtTomoStreamMotionCor", "ProtTomoStreamAreTomo"):
            viewer = self.viewer(name)
            for field in viewer._getVisualizeDict():
                self.assertIsNotNone(viewer.getParam(field), f"{name}: {field}")

    def test_a_run_without_results_opens_and_offers_no_series(self):
        for name in ("ProtTomoStreamComposeTS", "ProtTomoStreamAreTomo"):
            viewer = self.viewer(name)
            self.assertIsNone(viewer.getParam("series"))
            self.assertEqual(viewer.plot_handlers(), {})

    def test_taking_tilts_out_where_there_is_no_series_becomes_a_message(self):
        views = self.viewer("ProtTomoStreamComposeTS").decide_on_tilts()
        self.assertEqual([type(view).__name__ for view in views], ["MessageView"])
        self.assertIn("No tilt series has been composed yet", views[0]._msg)

    def test_a_plot_of_nothing_becomes_a_message(self):
        viewer = self.viewer("ProtTomoStreamMotionCor")
        views = viewer._getVisualizeDict()["showDrift"]("showDrift")
        self.assertEqual([type(view).__name__ for view in views], ["MessageView"])

    def test_the_drift_of_the_movie_that_is_named_in_part_is_drawn(self):
        for name in ("a_001.tif", "b_001.tif"):
            self.report(name, entries.Aligned, file=f"extra/{name[:5]}_aligned_mic.mrc", drift_px=1.0)
            self.write(f"{name[:5]}_aligned_mic-Full.log", motioncor.format_log([(0.0, 0.0), (1.0, 1.0)]))
        viewer = self.viewer("ProtTomoStreamMotionCor")
        viewer.movie.set("a_")
        self.assertEqual(viewer._chosen_movie(), "a_001.tif")
        viewer.movie.set("")
        self.assertEqual(viewer._chosen_movie(), "b_001.tif")

    def test_the_report_is_opened_in_the_browser(self):
        page = pathlib.Path(self.project, "report", "index.html")
        page.parent.mkdir()
        page.touch()
        viewer = self.viewer("ProtTomoStreamImportMovies")
        with mock.patch("webbrowser.open", return_value=True) as opened:
            self.assertEqual(viewer._open_report(), [])
        opened.assert_called_once_with(page.as_uri())

    def test_without_a_browser_the_path_of_the_report_is_reported(self):
        page = pathlib.Path(self.project, "report", "index.html")
        page.parent.mkdir()
        page.touch()
        viewer = self.viewer("ProtTomoStreamImportMovies")
        with mock.patch("webbrowser.open", return_value=False):
            views = viewer._open_report()
        self.assertIn(page.as_uri(), views[0]._msg)


if __name__ == "__main__":
    unittest.main()
