# SPDX-License-Identifier: GPL-3.0-or-later
"""What the two protocols that run a program share: reading rows of the input, running the program, keeping its log."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tomostream.journal import entries
from tomostream.journal.runs import CUT_SHORT, FINISHED, WORDS
from tomostream.protocols import engines

if TYPE_CHECKING:
    from tomostream.streaming.protocol import StreamingProtocol

#: Logs of programs that failed, in extra/.
FAILED_LOGS = "failed"


class Runner:
    """Runs the program of a protocol: under the lock of a GPU, or on its share of the cores."""

    def __init__(self, protocol: StreamingProtocol, program: engines.Program) -> None:
        self._protocol = protocol
        self._program = program

    @property
    def gpu(self) -> bool:
        return self._program.gpu

    @property
    def command(self) -> str:
        return self._program.command

    @property
    def reason(self) -> str:
        """Why it was chosen."""
        return self._program.reason

    @property
    def name(self) -> str:
        """The name of the program in messages."""
        return os.path.basename(shlex.split(self._program.command)[0])

    @property
    def threads(self) -> int:
        """Threads for a CPU program when every worker of the protocol runs one."""
        return engines.threads_per_program(self._protocol._stepsExecutor.numberOfProcs)

    def run(self, arguments: str, log: str) -> str:
        """Run the program; return the end of its log."""
        if not self.gpu:
            with self._protocol.workplace.hold_cores(self.threads):
                return self._protocol.workplace.run(self.command, arguments, log)
        with self._protocol.workplace.hold_gpus():
            return self._protocol.workplace.run(self.command, arguments, log, env=self._program.environment)

    def keep_log(self, log: str, name: str) -> None:
        """Keep the log of a failed program, for people to read."""
        if os.path.exists(log):
            folder = self._protocol._getExtraPath(FAILED_LOGS)
            os.makedirs(folder, exist_ok=True)
            shutil.copyfile(log, os.path.join(folder, name))


def read_rows(protocol: StreamingProtocol, pointer: Any, what: str, producer: str) -> tuple[list[Any], bool]:
    """Return (new rows of the input, whether these were the last); reports what prevents reading.

    `what` and `producer` are the words for messages: "movies", "the import".
    """
    rows, closed = protocol._reader.read()
    trouble = protocol._reader.trouble
    protocol.trouble(entries.Topic.INPUT, f"the {what} cannot be read now: {trouble}" if trouble else "")
    if protocol.stop_event.is_set():
        return rows, True
    state = protocol.producer_state(pointer, closed)
    protocol.trouble(entries.Topic.PRODUCER, f"{producer} {WORDS[state]}: it must be continued before more {what} come "
                                             f"(tomostream resume {shlex.quote(os.getcwd())})" if state in CUT_SHORT else "")
    return rows, closed and state == FINISHED


def in_all(versions: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the items that all outputs hold in the same version: only these are done."""
    first, *others = versions
    return {key: version for key, version in first.items() if all(other.get(key) == version for other in others)}
