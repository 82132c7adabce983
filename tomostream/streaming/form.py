# SPDX-License-Identifier: GPL-3.0-or-later
"""What Scipion's windows, templates and canvas need of every protocol: fields, their values and problems, STOP STREAMING."""

from __future__ import annotations

import os
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
                       "GPFS, CIFS...) another machine writes and this one is not notified, so the folder is polled "
                       "at this interval. 1 to 10 s are reasonable.")


class StreamingForm(ProtStreamingBase):
    """The part of a protocol that works whether it runs or not."""

    def getActions(self) -> list[tuple[str, Callable[..., None]]]:
        """Return STOP STREAMING, in the right-click menu of the box as in pwem's own import protocols."""
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
        """Convert the values of an imported workflow. Text (all that templates have) becomes the type of the parameter, and an
        empty number None. Folders stay as they are, where pwem looks for relative ones beside the file, and fails on a folder
        without a slash that does not exist yet."""
        return {name: self._imported(name, value) for name, value in importDict.items()}

    def _imported(self, name: str, value: object) -> object:
        param = self.getParam(name)
        if param is None:
            return value
        try:
            return convert(param, value)
        except ValueError as error:
            raise ValueError(f"{self._label}: '{param.label.get() or name}' cannot be '{value}': {error}.") from error

    def input_problems(self) -> list[str]:
        """For `_validate`: what is wrong with the input sets. Not checked when a whole chain is started, which sets them
        later."""
        return []

    def form_problems(self) -> list[str]:
        """For `_validate`: what is wrong with the other fields."""
        return []

    def _validate(self) -> list[str]:
        return self.input_problems() + self.form_problems()

    def threads_problem(self) -> list[str]:
        """For `_validate`: too few threads to run any program, or an invalid number of programs per GPU."""
        try:
            programs_per_gpu()
        except ValueError as error:
            return [f"{error}."]
        threads = self.numberOfThreads.get()
        if threads is not None and threads < 2:
            return ["Threads must be 2 or more: by Scipion's convention one is for the protocol itself and the others run the "
                    "programs, so with 1 nothing would be processed."]
        return []

    def getBinThreads(self) -> int:
        """Return 1, which pyworkflow only prints; the threads of the programs are set in `engines`."""
        return 1

    def isInStreaming(self) -> bool:
        """Tell whether the protocol streams, which pyworkflow asks only to allow a relaunch while others depend on this one."""
        continuing = (self.getRunMode() != MODE_RESTART
                      and self.getStatus() in (STATUS_FAILED, STATUS_ABORTED, STATUS_FINISHED))
        return super().isInStreaming() or continuing
