# SPDX-License-Identifier: GPL-3.0-or-later
"""What Scipion's windows, templates and canvas ask of every protocol: fields, their values and problems, STOP STREAMING."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from pyworkflow.protocol import (
    MODE_RESTART,
    STATUS_ABORTED,
    STATUS_FAILED,
    STATUS_FINISHED,
    FloatParam,
    ProtStreamingBase,
    params,
)

from tomostream.journal import runs
from tomostream.journal.layout import stop_file
from tomostream.streaming.gpus import programs_per_gpu
from tomostream.streaming.values import convert

#: Range of the field of `define_params`.
LIMITS = {"pollSeconds": (0.1, 3600)}


def define_params(form: Any) -> None:
    """Add the field that every protocol has in its Streaming section."""
    form.addParam("pollSeconds", FloatParam, default=5.0, expertLevel=params.LEVEL_ADVANCED,
                  label="Interval on network disks (s)",
                  help="On a local disk new files and rows are noticed at once. On a network disk (NFS, Lustre, "
                       "GPFS, CIFS...) another machine writes and this one hears nothing: there the folder is "
                       "polled at this interval. 1 to 10 s are reasonable.")


class StreamingForm(ProtStreamingBase):
    """The part of a protocol that is there although nothing of it runs."""

    def getActions(self) -> list[tuple[str, Callable[..., None]]]:
        """STOP STREAMING, where pwem's own import protocols have it: right click on the box."""
        return [("STOP STREAMING", self.stop_streaming)] if self.isRunning() else []

    def stop_streaming(self, event: object = None) -> None:
        """Ask the running protocol to finish what is in flight, register what is decided, and close its outputs.

        Parameters
        ----------
        event : what Scipion's canvas hands to an action; its tree view hands nothing.
        """
        runs.ask_to_stop(self._getPath(), "STOP STREAMING")

    def stop_asked(self) -> bool:
        return os.path.exists(stop_file(self._getPath()))

    def processImportDict(self, importDict: dict[str, Any], importDir: str) -> dict[str, Any]:
        """Return a workflow file as it comes in. Values given as text (templates have no other) become what the parameter wants,
        an empty number is none, and folders stay as they are: pwem looks for relative ones beside the file, and fails on
        a folder without a slash that is not there yet."""
        return {name: self._imported(name, value) for name, value in importDict.items()}

    def _imported(self, name: str, value: object) -> object:
        param = self.getParam(name)
        points = isinstance(value, str) and re.fullmatch(r"\d+\.[A-Za-z_].*", value.strip())
        if param is None or points:         # "2.outputMovies" is another protocol's output
            return value
        try:
            return convert(param, value)
        except ValueError as error:
            raise ValueError(f"{self._label}: '{param.label.get() or name}' cannot be '{value}': {error}.") from error

    def input_problems(self) -> list[str]:
        """Return what is wrong with the input sets, for `_validate`; whoever starts a whole chain gives them later."""
        return []

    def form_problems(self) -> list[str]:
        """Return what is wrong with the other fields, for `_validate`."""
        return []

    def _validate(self) -> list[str]:
        return self.input_problems() + self.form_problems()

    def threads_problem(self) -> list[str]:
        """For `_validate`: one thread would leave none for the programs, and how many share a GPU must be a number."""
        try:
            programs_per_gpu()
        except ValueError as error:
            return [f"{error}."]
        threads = self.numberOfThreads.get()
        if threads is not None and threads < 2:
            return ["Threads must be 2 or more: by Scipion's convention one is the protocol itself, the others run the "
                    "programs, so with 1 nothing would be processed."]
        return []

    def getBinThreads(self) -> int:
        """pyworkflow prints it at the start; the programs get their threads by item, see `engines`."""
        return 1

    def isInStreaming(self) -> bool:
        """pyworkflow asks this only to allow a relaunch while other protocols depend on this one."""
        continuing = (self.getRunMode() != MODE_RESTART
                      and self.getStatus() in (STATUS_FAILED, STATUS_ABORTED, STATUS_FINISHED))
        return super().isInStreaming() or continuing
