# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be expected to go wrong, said in one sentence, and the exit status that tells it.

A program of the engine is `sys.exit(main())` with `main` returning ``exit_status(NAME, work)``: expected errors become
one line on standard error and exit status 1; Ctrl-C, SIGTERM and the end of the terminal unwind the work like an
exception, so that every temporary file is removed on the way (`tomostream.engine.output`), and end with 130, 143 and 129
as a shell expects. An unexpected exception keeps its traceback: it is a defect, and hiding where it happened would help
nobody.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO


class EngineError(Exception):
    """Something that the user can put right. The message is one sentence: what is wrong, where, and what to do."""


class Terminated(BaseException):
    """A signal that ends the process arrived, `signum`. Not an `Exception`: nothing takes it for an error of the data."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


_NO_ROOM = {errno.ENOSPC: "no space is left on the disk", errno.EDQUOT: "the disk quota is used up"}


def sentence_of(error: OSError, path: str | os.PathLike[str] = "") -> str:
    """Return an operating-system error as one sentence that names the file.

    Parameters
    ----------
    error : OSError
        As caught.
    path : str, optional
        The file that was read or written, used where the error does not name one itself (a failed `write` does not).
    """
    name = os.fspath(path) or error.filename or "the file"
    reason = _NO_ROOM.get(error.errno or 0) or (error.strerror or str(error)).lower()
    return f"{name}: {reason}"


_ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
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


def _raise(signum: int, frame: FrameType | None) -> None:
    raise Terminated(signum)


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
    try:
        with _handled(_raise):
            return work()
    except EngineError as error:
        return _complain(program, str(error), 1)
    except MemoryError as error:
        return _complain(program, f"not enough memory ({error}); close other programs or use a machine with more", 1)
    except BrokenPipeError:
        _to_nowhere(sys.stdout)
        return _complain(program, "nobody reads the lines of progress any more; nothing was left behind", 1)
    except OSError as error:
        return _complain(program, sentence_of(error), 1)
    except KeyboardInterrupt:
        return _complain(program, "interrupted; nothing was left behind", 128 + signal.SIGINT)
    except Terminated as end:
        how = "interrupted" if end.signum == signal.SIGINT else "terminated"
        return _complain(program, f"{how}; nothing was left behind", 128 + end.signum)


def _to_nowhere(stream: TextIO) -> None:
    """Let what is still to be flushed at the end of the process go nowhere, rather than fail once more."""
    with suppress(OSError, ValueError):  # a stream without a file, in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _complain(program: str, message: str, status: int) -> int:
    """Write one line to standard error; return `status`."""
    print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return status
