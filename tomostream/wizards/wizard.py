# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizards beside the fields of the forms."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pyworkflow.gui.dialog import ListDialog
from pyworkflow.gui.tree import ListTreeProviderString
from pyworkflow.object import String
from pyworkflow.viewer import DESKTOP_TKINTER
from pyworkflow.wizard import Wizard
from tomo.objects import SetOfTiltSeries, TiltImage, TiltSeries

from tomostream.acquisition.facts import MdocFacts
from tomostream.choices import instruments
from tomostream.choices.thickness import Heights
from tomostream.engine import quick
from tomostream.journal.composed import NoSeries
from tomostream.programs.aln import AngleRow
from tomostream.protocols import ProtTomoStreamAreTomo, ProtTomoStreamComposeTS, ProtTomoStreamImportMovies, mdocs, signs
from tomostream.streaming.rows import let_go
from tomostream.viewers import TomoStreamMotionCorViewer, results
from tomostream.wizards import readings

#: The quick reconstruction uses the series with the most tilts among so many.
SERIES_LOOKED_AT = 20


class MdocWizard(Wizard):
    """Reads mdoc files, fills fields, and says where each value comes from."""

    _environments = [DESKTOP_TKINTER]
    _targets: list[Any] = []

    def read(self, protocol: Any) -> readings.Readings:
        """Return values and words for the form of a protocol."""
        raise NotImplementedError

    def show(self, form: Any, *params: Any) -> None:
        try:
            found = self.read(form.protocol)
        except readings.NothingFound as problem:
            form.showInfo(str(problem))
            return
        for name, value in found.values.items():
            form.setVar(name, value)
        form.showInfo("\n".join(found.words))


class TomoStreamImportWizard(MdocWizard):
    """Pixel size, voltage, magnification and dose per frame from the mdoc files; which movie belongs to which series."""

    _targets = [(ProtTomoStreamImportMovies, ["mdocsPath"])]

    def read(self, protocol: Any) -> readings.Readings:
        files, folder = readings.mdoc_files(protocol.mdocsPath.get(), largest=readings.MAX_MOVIES), protocol.filesPath.get()
        found = readings.acquisition(readings.series_facts(files[:readings.FILES_READ]), folder)
        pattern = os.path.join(folder, protocol.filesPattern.get() or "*") if folder else ""
        return replace(found, words=(*found.words, *readings.who_has_what(files, pattern)))


class ComposeWizard(MdocWizard):
    """A value for the compose form from the existing mdoc files."""

    reading: Callable[[list[MdocFacts]], readings.Readings]

    def read(self, protocol: Any) -> readings.Readings:
        folder, pattern = mdocs.place_of(protocol)
        files = readings.mdoc_files(folder, pattern or mdocs.EVERY)
        return type(self).reading(readings.series_facts(files))


class TomoStreamAxisWizard(ComposeWizard):
    """The tilt axis in the mdoc files."""

    _targets = [(ProtTomoStreamComposeTS, ["manualTiltAxisAngle"])]
    reading = staticmethod(readings.tilt_axis)


class TomoStreamTiltsWizard(ComposeWizard):
    """The number of tilts in the mdoc files."""

    _targets = [(ProtTomoStreamComposeTS, ["expectedTilts"])]
    reading = staticmethod(readings.expected_tilts)


class TomoStreamThicknessWizard(Wizard):
    """Thickness of the specimen and height of the tomogram, judged in a quick reconstruction of a series of the input."""

    _environments = [DESKTOP_TKINTER]
    _targets = [(ProtTomoStreamAreTomo, ["tomoThickness", "alignZ"])]

    def show(self, form: Any, *params: Any) -> None:
        from tomostream.windows import thickness

        try:
            source = quick_source(form.protocol.inputSetOfTiltSeries.get())
        except readings.NothingFound as problem:
            form.showInfo(str(problem))
            return

        def use(found: Heights) -> None:
            form.setVar("tomoThickness", found.tomogram)
            form.setVar("alignZ", found.alignment)

        thickness.start(form.root, source, use)


def quick_source(items: SetOfTiltSeries | None) -> quick.Source:
    """Return, of the first series of a set, the one with the most tilts, as on disk now: the set may be growing.

    Raises
    ------
    NothingFound : no set is chosen, or it has no series that can be aligned (yet).
    """
    if items is None:
        raise readings.NothingFound("Choose the input tilt series first.")
    found: list[tuple[TiltSeries, list[TiltImage]]] = []
    if os.path.exists(items.getFileName()):
        now = SetOfTiltSeries(filename=items.getFileName())
        try:
            for series in now.iterItems(limit=SERIES_LOOKED_AT):
                images = [image.clone() for image in series.iterItems(orderBy=TiltImage.INDEX_FIELD) if image.isEnabled()]
                found.append((series.clone(), images))
        finally:
            let_go(now)         # a window stays open for hours
    series, images = max(found, key=lambda each: len(each[1]), default=(None, []))
    if series is None or len(images) < 3:
        raise readings.NothingFound("There is no tilt series in the input yet: wait for the first one, then try again.")
    rows = tuple(AngleRow(image.getTiltAngle(), image.getAcquisitionOrder()) for image in images)
    return quick.Source(series.getTsId(), os.path.abspath(images[0].getFileName()), series.getSamplingRate(), rows,
                        tuple(image.getIndex() - 1 for image in images), series.getAcquisition().getTiltAxisAngle())


class TomoStreamSignWizard(Wizard):
    """The handedness check: one series of the project both ways, and the choice remembered for the instrument."""

    _environments = [DESKTOP_TKINTER]
    _targets = [(ProtTomoStreamComposeTS, ["angleSign"])]

    def show(self, form: Any, *params: Any) -> None:
        from tomostream.windows.handedness import HandednessWindow

        def chosen(instrument: str, angles: str) -> None:
            form.setVar("angleSign", signs.CHOICES[signs.REMEMBERED])
            form.setVar("instrument", instrument)

        try:
            HandednessWindow(form.root, os.path.abspath(form.protocol.getProject().getPath()), chosen)
        except NoSeries:
            form.showInfo(f"The check needs one composed series in this project, and there is none yet.\n{memory_words()}")


def memory_words() -> str:
    """Return a line for each remembered instrument."""
    try:
        known = instruments.read()
    except ValueError as problem:
        return f"{problem}."
    lines = [f"{name}: angles {entry.angles} ({entry.date}, {entry.user})" for name, entry in known.items()]
    return "\n".join(["Remembered so far:", *lines]) if lines else "Nothing is remembered for any instrument so far."


class TomoStreamMovieWizard(Wizard):
    """A movie from the list of aligned ones, the newest first."""

    _environments = [DESKTOP_TKINTER]
    _targets = [(TomoStreamMotionCorViewer, ["movie"])]

    def show(self, form: Any, *params: Any) -> None:
        movies = results.movies(form.protocol.folder)
        if not movies:
            form.showInfo("No movie has been aligned yet.")
            return
        provider = ListTreeProviderString([String(movie) for movie in movies])
        dialog = ListDialog(form.root, "Aligned movies, newest first", provider, "Its frame drift is shown.")
        if dialog.values:
            form.setVar("movie", dialog.values[0].get())
