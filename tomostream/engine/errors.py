# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be expected to go wrong, said in one sentence, and the exit status for it.

A program of the engine is `sys.exit(main())` with `main` returning ``exit_status(NAME, work)``: expected errors become
one line on standard error and exit status 1; Ctrl-C, SIGTERM and the end of the terminal unwind the work like an
exception, so that every temporary file is removed on the way (`tomostream.engine.output`), and end with 130, 143 and 129
as a shell expects. An unexpected exception keeps its traceback: it is a defect, and hiding where it happened would help
nobody.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

from tomostream.files.errors import EngineError, sentence_of


class Terminated(BaseException):
    """A signal that ends the process arrived, `signum`. Not an `Exception`: nothing takes it for an error of the data."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


_PATIENCE = 2.0
_ENDING = tuple(getattr(signal, name) for name in ("SIGALRM", "SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
Handler = Callable[[int, FrameType | None], object] | int | None


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], signals: tuple[int, ...] = _ENDING) -> Iterator[None]:
    """Handle signals by `handler` while the block runs; those that are ignored (nohup) stay so.

    Outside the main thread (called as a library) nothing happens: whoever owns the process owns its signals.
    """
    before: list[tuple[int, Handler]] = []
    try:
        if threading.current_thread() is threading.main_thread():
            for signum in signals:
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    before.append((signum, signal.signal(signum, handler)))
        yield
    finally:
        for signum, former in before:
            signal.signal(signum, signal.SIG_DFL if former is None else former)


class _End:
    """Raises `Terminated` for the first signal, and again every `_PATIENCE` seconds until the program has ended.

    Signals in between do nothing: people press Ctrl-C more than once, and schedulers send more than one signal, and an
    exception in the middle of what the first one set off would cut that short. Again, because Python drops an exception
    that is raised while it is called by compiled code (the compiler, at the first use). `signum` is the first, 0 before.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._since = 0.0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signum and now - self._since < 0.9 * _PATIENCE:
            return
        if not self.signum:
            self.signum = signum
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, _PATIENCE, _PATIENCE)
        self._since = now
        raise Terminated(self.signum)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Have the signals while the block runs."""
        complain = sys.unraisablehook
        sys.unraisablehook = lambda it: None if isinstance(it.exc_value, Terminated) else complain(it)
        try:
            with _handled(self):
                yield
        finally:
            sys.unraisablehook = complain
            if self.signum and hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, 0.0)


@contextmanager
def uninterrupted() -> Iterator[list[int]]:
    """Keep signals that would end the process from doing so while the block runs; they are listed.

    For the few milliseconds in which files get their names or are removed: a second Ctrl-C would leave some behind.
    """
    arrived: list[int] = []
    with _handled(lambda signum, frame: arrived.append(signum)):
        yield arrived


def exit_status(program: str, work: Callable[[], int]) -> int:
    """Run `work` and return the exit status of the program.

    Parameters
    ----------
    program : str
        The program's name, the first word of the line that says what is wrong.
    work : callable
        Does everything and returns the status (0); it may raise `EngineError`, `OSError` or `MemoryError`.

    Returns
    -------
    int
        What `work` returned; 1 for an expected error; 130 after Ctrl-C; 143 after SIGTERM; 129 after SIGHUP.
    """
    end = _End()
    try:
        with end.watching():
            return work()
    except BaseException as error:  # noqa: BLE001 - what is not expected is raised again
        signum = end.signum or (signal.SIGINT if isinstance(error, KeyboardInterrupt) else 0)
        if signum:  # whatever came of it: joining a thread, for one, may fail with an error of its own
            how = "interrupted" if signum == signal.SIGINT else "terminated"
            return _complain(program, f"{how}; no incomplete file was left", 128 + signum)
        return _status_of(program, error)


def _status_of(program: str, error: BaseException) -> int:
    """Report an expected error and return the exit status; any other is raised again."""
    if isinstance(error, EngineError):
        return _complain(program, str(error), 1)
    if isinstance(error, MemoryError):
        return _complain(program, f"not enough memory ({error}); close other programs or use a machine with more", 1)
    if isinstance(error, BrokenPipeError):
        _to_nowhere(sys.stdout)
        return _complain(program, "nobody reads the progress any more; no incomplete file was left", 1)
    if isinstance(error, OSError):
        return _complain(program, sentence_of(error), 1)
    raise error


def _to_nowhere(stream: TextIO) -> None:
    """Let what is still to be flushed at the end of the process go nowhere, rather than fail once more."""
    with suppress(OSError, ValueError):  # a stream without a file, in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _complain(program: str, message: str, status: int) -> int:
    """Write one line to standard error; return `status`."""
    print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return status
