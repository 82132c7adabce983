# SPDX-License-Identifier: GPL-3.0-or-later
"""Exporting finished series while a session runs, in a thread: writing a stack without its dark tilts takes a while."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pyworkflow.protocol import params

from tomostream.files.logs import one_sentence
from tomostream.handoff.collect import collect
from tomostream.handoff.export import export, exported_series, remove
from tomostream.handoff.facts import USUAL, NotPossible, Target
from tomostream.journal import entries
from tomostream.journal.status import ARETOMO, ProjectStatus

PROGRAMS = tuple(target.value for target in Target)


def define_params(form: Any) -> None:
    """Add the section to the form."""
    form.addSection(label="Export")
    form.addParam("handOff", params.FolderParam, default="", label="Folder for other programs",
                  help="Every finished series is written into this folder in the file formats of other programs, with a README "
                       "that gives the next commands. It is replaced when the series is made again, and removed if that "
                       "fails. Empty: nothing is written; `tomostream export PROJECT FOLDER` does it at any time. The series "
                       "must come from tomostream's compose protocol.")
    form.addParam("handOffTo", params.StringParam, default=",".join(target.value for target in USUAL), label="Programs",
                  help=f"Any of {', '.join(PROGRAMS)}, separated by commas. zarr is OME-Zarr, for napari and neuroglancer: "
                       "one more copy of every tomogram, a sixth larger.")
    form.addParam("handOffCopy", params.BooleanParam, default=False, label="Copy images and tomograms?",
                  help="No: they are linked. Movies are linked in any case.")


def targets_of(protocol: Any) -> list[Target]:
    """Return the programs named in the form.

    Raises
    ------
    ValueError : one is unknown.
    """
    return [Target(word.strip()) for word in (protocol.handOffTo.get() or "").split(",") if word.strip()]


def problems(protocol: Any) -> list[str]:
    """For `_validate`."""
    if not (protocol.handOff.get() or "").strip():
        return []
    try:
        found = targets_of(protocol)
    except ValueError:
        found = []
    known = ", ".join(PROGRAMS)
    return [] if found else [f"Programs (export) are '{protocol.handOffTo.get()}': use one or more of {known}."]


class Exporter:
    """Exports the series of a run, one after the other.

    Parameters
    ----------
    run : folder of the run, absolute.
    wake : called from the thread when something has been done.
    """

    def __init__(self, run: str, out: str, targets: Collection[Target], copy: bool, wake: Callable[[], None]) -> None:
        self._run, self._out, self._targets, self._copy, self._wake = run, out, targets, copy, wake
        self._status = ProjectStatus(os.path.dirname(os.path.dirname(run)))
        self._thread = ThreadPoolExecutor(1, "export")
        self._news: queue.SimpleQueue[entries.Session] = queue.SimpleQueue()
        self._waiting = 0

    @property
    def busy(self) -> bool:
        """Whether a series has yet to be written."""
        return self._waiting > 0

    def missing(self, done: Collection[tuple[str, int]]) -> list[str]:
        """Return the finished series (name, version) that an earlier process did not export."""
        there = {(each.series.name, each.series.version) for each in exported_series(self._out)}
        return sorted(name for name, version in done if (name, version) not in there)

    def export(self, name: str) -> None:
        """Write a series; its last entry must be in the ledger."""
        self._start(self._export, name)

    def remove(self, name: str) -> None:
        """Remove a series that failed when it was made again."""
        self._start(self._remove, name)

    def news(self) -> list[entries.Session]:
        """Return what was done since the last call."""
        found = []
        while not self._news.empty():
            found.append(self._news.get())
            self._waiting -= 1
        return found

    def _start(self, work: Callable[[str], str], name: str) -> None:
        self._waiting += 1

        def run() -> None:
            try:
                words = work(name)
            except Exception as error:  # noqa: BLE001 - the session continues; whatever it is, it is reported
                words = f"{name} could not be exported: {one_sentence(error)}"
            self._news.put(entries.Session("", words))
            self._wake()

        self._thread.submit(run)

    def _export(self, name: str) -> str:
        self._status.update()
        if os.path.realpath(self._status.folders.get(ARETOMO, "")) != os.path.realpath(self._run):
            raise NotPossible("this run is not the last of the newest chain of tomostream protocols in the project")
        refused = export(collect(self._status, self._status.series[name]), self._out, self._targets, self._copy)
        served = ", ".join(target.value for target in self._targets if target not in refused)
        words = f"{name} was exported for {served}" if served else f"{name} was not exported"
        return words + "".join(f"; not for {target.value}: {why}" for target, why in refused.items())

    def _remove(self, name: str) -> str:
        return f"{name} was removed from {self._out}" if remove(name, self._out) else f"{name} had not been exported"
