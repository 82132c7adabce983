# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be expected to go wrong, said in one sentence, and the exit status that tells it.

A program of the engine is `sys.exit(main())` with `main` returning ``exit_status(NAME, work)``: expected errors become
one line on standard error and exit status 1; Ctrl-C and SIGTERM unwind the work like an exception, so that every
temporary file is removed on the way (`tomostream.engine.output`), and end with 130 and 143 as a shell expects. An
unexpected exception keeps its traceback: it is a defect, and hiding where it happened would help nobody.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class EngineError(Exception):
    """Something that the user can put right. The message is one sentence: what is wrong, where, and what to do."""


class Terminated(BaseException):
    """SIGTERM arrived. Not an `Exception`, so that nothing on the way takes it for an error of the data."""


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


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` in the main thread while the block runs."""

    def on_term(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, on_term)
    except ValueError:  # not the main thread (called as a library): whoever owns the process owns its signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
        What `work` returned; 1 for an expected error; 130 after Ctrl-C; 143 after SIGTERM.
    """
    try:
        with _sigterm_unwinds():
            return work()
    except EngineError as error:
        return _complain(program, str(error), 1)
    except MemoryError as error:
        return _complain(program, f"not enough memory ({error}); close other programs or use a machine with more", 1)
    except OSError as error:
        return _complain(program, sentence_of(error), 1)
    except KeyboardInterrupt:
        return _complain(program, "interrupted; nothing was left behind", 130)
    except Terminated:
        return _complain(program, "terminated; nothing was left behind", 143)


def _complain(program: str, message: str, status: int) -> int:
    """Write one line to standard error; return `status`."""
    print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return status
