# SPDX-License-Identifier: GPL-3.0-or-later
"""The wands beside the fields of the forms."""

from __future__ import annotations

from collections.abc import Callable

from pyworkflow.viewer import DESKTOP_TKINTER
from pyworkflow.wizard import Wizard

from tomostream.protocols import ProtTomoStreamComposeTS, ProtTomoStreamImportMovies
from tomostream.wizards import readings


class MdocWizard(Wizard):
    """Reads mdoc files, fills fields, and says where each value comes from."""

    _environments = [DESKTOP_TKINTER]
    _targets: list = []

    def read(self, protocol) -> readings.Readings:
        """Values and words for the form of a protocol."""
        raise NotImplementedError

    def show(self, form, *params):
        try:
            found = self.read(form.protocol)
        except readings.NothingFound as problem:
            form.showInfo(str(problem))
            return
        for name, value in found.values.items():
            form.setVar(name, value)
        form.showInfo("\n".join(found.words))


class TomoStreamImportWizard(MdocWizard):
    """Pixel size, voltage, magnification and dose per frame from the first mdoc that tells them."""

    _targets = [(ProtTomoStreamImportMovies, ["mdocsPath"])]

    def read(self, protocol) -> readings.Readings:
        facts = readings.series_facts(readings.mdoc_files(protocol.mdocsPath.get()))
        return readings.acquisition(facts, protocol.filesPath.get())


class ComposeWizard(MdocWizard):
    """A value for the compose form from all mdoc files that are there."""

    reading: Callable

    def read(self, protocol) -> readings.Readings:
        files = readings.mdoc_files(protocol.filesPath.get(), protocol.mdocPattern.get() or "*.mdoc")
        return type(self).reading(readings.series_facts(files))


class TomoStreamAxisWizard(ComposeWizard):
    """The tilt axis that the mdoc files tell."""

    _targets = [(ProtTomoStreamComposeTS, ["manualTiltAxisAngle"])]
    reading = staticmethod(readings.tilt_axis)


class TomoStreamTiltsWizard(ComposeWizard):
    """The number of tilts that the mdoc files have."""

    _targets = [(ProtTomoStreamComposeTS, ["expectedTilts"])]
    reading = staticmethod(readings.expected_tilts)
