# SPDX-License-Identifier: GPL-3.0-or-later
"""Analyze results, for each of the four protocols: the live page, the sets in upstream's viewers, plots, decisions."""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pwem.viewers import EmPlotter, EmProtocolViewer
from pyworkflow.config import Config
from pyworkflow.protocol import params
from pyworkflow.viewer import DESKTOP_TKINTER

from tomostream.choices.exclusions import read_choice
from tomostream.journal.composed import NoSeries
from tomostream.protocols import (
    ProtTomoStreamAreTomo,
    ProtTomoStreamComposeTS,
    ProtTomoStreamImportMovies,
    ProtTomoStreamMotionCor,
)
from tomostream.viewers import plots, results

REPORT, SHOW, TILTS, HAND = "openReport", "show_", "chooseTilts", "checkHand"
#: How many series are offered, the newest; the report has them all.
SERIES_OFFERED = 200


class StreamViewer(EmProtocolViewer):
    """What the four viewers have in common: a button for the live page and one for every output."""

    _environments = [DESKTOP_TKINTER]
    _label = "tomostream results"
    _targets: list[Any] = []
    #: Output -> label of its button.
    outputs: Mapping[str, str] = MappingProxyType({})

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Results")
        form.addParam(REPORT, params.LabelParam, label="Live report in the browser",
                      help="The page of the whole session: every series with its state, its pictures and its numbers.")
        for name, label in self.outputs.items():
            if self._output(name) is not None:
                form.addParam(SHOW + name, params.LabelParam, label=label,
                              help="Opens the set, as it is now, in the viewer of its plugin.")
        self.define_plots(form)

    def define_plots(self, form: Any) -> None:
        """Add the fields of one kind of protocol."""

    def plot_handlers(self) -> dict[str, Callable[..., Any]]:
        """Return field -> method, for one kind of protocol."""
        return {}

    def _getVisualizeDict(self) -> dict[str, Callable[..., Any]]:
        handlers = {SHOW + name: self._open_output for name in self.outputs if self._output(name) is not None}
        return {REPORT: self._open_report, **handlers, **{name: self._reported(call) for name, call in
                                                          self.plot_handlers().items()}}

    def _output(self, name: str) -> Any:
        return getattr(self.protocol, name, None)

    @property
    def folder(self) -> str:
        """Working folder of the run, relative to the project as Scipion keeps it."""
        return self.protocol.getWorkingDir()

    @property
    def project_path(self) -> str:
        return os.path.abspath(self.getProject().path)

    def _reported(self, call: Callable[[], list[Any]]) -> Callable[..., list[Any]]:
        """Return a handler that shows a message if there is nothing to show."""
        def shown(param: Any = None) -> list[Any]:
            try:
                return call()
            except (results.NoResult, NoSeries, ValueError) as problem:
                return [self.infoMessage(str(problem), title="Nothing to show yet")]
        return shown

    def _open_report(self, param: Any = None) -> list[Any]:
        return self._reported(lambda: self._browse(results.report_page(self.project_path)))()

    def _browse(self, address: str) -> list[Any]:
        """Open an address in the browser, or show the address if there is no browser."""
        if webbrowser.open(address):
            return []
        return [self.infoMessage(f"No browser could be started here. The page is {address}", title="Live report")]

    def _open_output(self, param: str) -> list[Any]:
        """Open the first viewer that Scipion knows for this set, as a double click on the output does."""
        output = self._output(param[len(SHOW):])
        if output.isEmpty():
            return [self.infoMessage("This set is still empty.", title="Nothing to show yet")]
        viewers = Config.getDomain().findViewers(output, DESKTOP_TKINTER)
        if not viewers:
            return [self.errorMessage(f"No viewer is installed for {output.getClassName()}.")]
        viewer = viewers[0](project=self.getProject(), protocol=self.protocol, parent=self.formWindow)
        viewer.visualize(output, windows=self.formWindow, protocol=self.protocol)
        return []

    # ------------------------------------------------------------------ one series
    def offer_series(self, form: Any, found: list[str]) -> Any:
        """Add the group for one series, with the field that chooses it; return None if there are no series yet."""
        self._series = found[:SERIES_OFFERED]
        if not self._series:
            return None
        group = form.addGroup("One series")
        group.addParam("series", params.EnumParam, choices=self._series, default=0, label="Series",
                       help=f"The newest first, at most {SERIES_OFFERED}; the report has them all.")
        return group

    @property
    def chosen_series(self) -> str:
        """The series chosen in the form; "" if there is no such field."""
        chosen = getattr(self, "series", None)
        return self._series[chosen.get()] if chosen is not None else ""

    # ------------------------------------------------------------------ decisions
    def define_decisions(self, form: Any) -> None:
        """Add the two buttons of the protocols that have series."""
        group = form.addGroup("Decisions")
        group.addParam(TILTS, params.LabelParam, label="Take tilts out or put them back",
                       help="Shows the tilts of a series with their images; only that series is made again.")
        group.addParam(HAND, params.LabelParam, label="Check the sign of the tilt angles",
                       help="Reconstructs one series with the angles as given and negated, explains what to look for, and "
                            "remembers the choice for the instrument.")

    def decision_handlers(self) -> dict[str, Callable[..., Any]]:
        return {TILTS: self._choose_tilts, HAND: self._check_hand}

    def decide_on_tilts(self) -> list[Any]:
        """Do what the button does, for the action in the menu of the box."""
        return self._reported(self._choose_tilts)()

    def _choose_tilts(self) -> list[Any]:
        from tomostream.windows.tilts import TiltsWindow

        TiltsWindow(self._root(), self.project_path, self.chosen_series)
        return []

    def _check_hand(self) -> list[Any]:
        from tomostream.windows.handedness import HandednessWindow

        HandednessWindow(self._root(), self.project_path)
        return []

    def _root(self) -> Any:
        """Return the Tk parent of our windows; None for Scipion's main window."""
        return self.formWindow.root if self.formWindow is not None else None

    @staticmethod
    def plotter(title: str, size: tuple[float, float] = (8.0, 5.0)) -> EmPlotter:
        """Return an empty figure in a window."""
        return EmPlotter(windowTitle=title, figsize=size)


class TomoStreamImportViewer(StreamViewer):
    """Results of the import."""

    _label = "import movies: results"
    _targets = [ProtTomoStreamImportMovies]
    outputs = MappingProxyType({"outputMovies": "Movies"})


class TomoStreamMotionCorViewer(StreamViewer):
    """Results of the motion correction."""

    _label = "motioncor: results"
    _targets = [ProtTomoStreamMotionCor]
    outputs = MappingProxyType({
        "micrographs": "Aligned tilts", "micrographsDW": "Aligned tilts, dose-weighted",
        "micrographsEven": "Sums of even frames", "micrographsOdd": "Sums of odd frames"})

    def define_plots(self, form: Any) -> None:
        form.addParam("showDrifts", params.LabelParam, label="Drift of all movies",
                      help="Length of the path along which the frames of each movie drift, in px of the movie.")
        group = form.addGroup("One movie")
        group.addParam("movie", params.StringParam, default="", label="Movie",
                       help="Name of the movie, or a part of it. Empty: the newest one.")
        group.addParam("showDrift", params.LabelParam, label="Drift of its frames",
                       help="Shift of every frame in px of the movie, as the program aligned it.")

    def plot_handlers(self) -> dict[str, Callable[..., Any]]:
        return {"showDrifts": self._plot_drifts, "showDrift": self._plot_drift}

    def _plot_drifts(self) -> list[Any]:
        drifts = results.drifts(self.folder)
        if not drifts:
            raise results.NoResult("No movie has been aligned yet.")
        plotter = self.plotter("Drift of all movies")
        plots.draw_drifts(plotter.figure, drifts)
        return [plotter]

    def _plot_drift(self) -> list[Any]:
        movie = self._chosen_movie()
        shifts = results.frame_drift(self.folder, movie)
        plotter = self.plotter(f"Frame drift of {movie}", (9.0, 4.5))
        plots.draw_frame_drift(plotter.figure, movie, shifts)
        return [plotter]

    def _chosen_movie(self) -> str:
        wanted = (self.movie.get() or "").strip()
        found = [movie for movie in results.movies(self.folder) if wanted in movie]
        if not found:
            raise results.NoResult(f"No aligned movie has '{wanted}' in its name." if wanted
                                   else "No movie has been aligned yet.")
        return found[0]


class TomoStreamComposeViewer(StreamViewer):
    """Results of the composition."""

    _label = "compose series: results"
    _targets = [ProtTomoStreamComposeTS]
    outputs = MappingProxyType({"tiltSeries": "Tilt series"})

    def define_plots(self, form: Any) -> None:
        group = self.offer_series(form, results.composed(self.folder))
        if group is None:
            return
        group.addParam("showTilts", params.LabelParam, label="How it was acquired",
                       help="Tilt angle and dose over the order of acquisition; what is missing or was taken out.")
        self.define_decisions(form)

    def plot_handlers(self) -> dict[str, Callable[..., Any]]:
        return {"showTilts": self._plot_tilts, **self.decision_handlers()} if self._series else {}

    def _plot_tilts(self) -> list[Any]:
        series = read_choice(self.project_path, self.chosen_series)
        plotter = self.plotter(f"Acquisition of {series.series_id}", (8.0, 6.0))
        plots.draw_acquisition(plotter.figure, series)
        return [plotter]


class TomoStreamAreTomoViewer(StreamViewer):
    """Results of alignment and reconstruction."""

    _label = "aretomo: results"
    _targets = [ProtTomoStreamAreTomo]
    outputs = MappingProxyType({
        "Tomograms": "Tomograms", "TiltSeries": "Aligned tilt series", "CTFTomoSeries": "CTF of the tilt series",
        "FailedTiltSeries": "Tilt series that failed"})

    def define_plots(self, form: Any) -> None:
        group = self.offer_series(form, results.series(self.folder))
        if group is None:
            return
        group.addParam("showPage", params.LabelParam, label="Its page in the live report",
                       help="Slices, film of the tilts, numbers and commands of this series, in the browser.")
        group.addParam("showAlignment", params.LabelParam, label="Alignment of its tilts",
                       help="Shift of every tilt and its uncertainty in px, and the tilts that were left out, with why.")
        group.addParam("showCtf", params.LabelParam, label="CTF of its tilts",
                       help="Defocus of every tilt in µm, and the resolution of the fit in A.")
        self.define_decisions(form)

    def plot_handlers(self) -> dict[str, Callable[..., Any]]:
        if not self._series:
            return {}
        return {"showPage": self._open_page, "showAlignment": self._plot_alignment, "showCtf": self._plot_ctf,
                **self.decision_handlers()}

    def _open_page(self) -> list[Any]:
        return self._browse(results.series_page(self.project_path, self.chosen_series))

    def _plot_alignment(self) -> list[Any]:
        series = results.alignment(self.project_path, self.folder, self.chosen_series)
        plotter = self.plotter(f"Alignment of {series.series_id}", (8.0, 6.0))
        plots.draw_alignment(plotter.figure, series)
        return [plotter]

    def _plot_ctf(self) -> list[Any]:
        series_id = self.chosen_series
        tilts = results.ctf(self.project_path, self.folder, series_id)
        plotter = self.plotter(f"CTF of {series_id}", (8.0, 6.0))
        plots.draw_ctf(plotter.figure, series_id, tilts)
        return [plotter]
