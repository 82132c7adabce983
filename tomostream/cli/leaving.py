# SPDX-License-Identifier: GPL-3.0-or-later
"""Leaving while the protocols go on: Ctrl-C, a closed terminal, `timeout`, a pipe that nobody reads any longer."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import signal
import sys
from types import FrameType, TracebackType

#: Signals that ask this command to leave. The protocols have process sessions of their own and do not get them.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Errors of writing to a closed terminal, or to a pipe without a reader.
READER_GONE = (errno.EPIPE, errno.EIO)
#: Errors of any output that cannot be written: also a full disk, a quota.
OUTPUT_TROUBLE = (*READER_GONE, errno.ENOSPC, errno.EDQUOT)


class Interrupted(Exception):
    """Ctrl-C while protocols were being started; no more are started."""


class Leaving:
    """In this context signals are noted and not raised, so that none can arrive between the start of a process and the note of
    its id.

    A pipe wakes up whoever waits. An event must not be set in a signal handler, which may interrupt its own waiting.
    """

    def __init__(self) -> None:
        self.asked = self.interrupted = False
        self._read, self._write = os.pipe()
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Leaving:
        os.set_blocking(self._write, False)
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:      # nohup and background jobs keep ignoring them
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self.interrupted = self.interrupted or number == signal.SIGINT
        try:
            os.write(self._write, b".")
        except BlockingIOError:     # the pipe is full of signals: it wakes up anyway
            return

    def wait(self, seconds: float) -> bool:
        """Wait, at most until something asks to leave; return whether it does."""
        if not self.asked:
            select.select([self._read], [], [], seconds)
        return self.asked

    def pause(self, seconds: float) -> None:
        """Wait while protocols are being started. A hang-up or `timeout` lets the start finish first.

        Raises
        ------
        Interrupted : Ctrl-C.
        """
        if not self.interrupted:
            select.select([] if self.asked else [self._read], [], [], seconds)
        if self.interrupted:
            raise Interrupted


def say(text: str) -> None:
    """Print a line for people. It must not end the command if nobody reads any longer."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def show(text: str) -> None:
    """Print what was asked for. A reader that leaves early is no error: the exit status says the rest.

    Raises
    ------
    OSError : the output cannot be written for another reason.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        if error.errno not in READER_GONE:
            raise
        mute()


def ready_streams() -> None:
    """Make sure of input and outputs that every command can use: streams that whoever called has closed (`>&-`) go nowhere, and
    signs that the locale does not know are spelt out.

    A closed one would give its number to the next file that is opened, a database, into which any child might print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)      # takes the lowest number that is free: this one
        stream: object = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def reader_gone() -> bool:
    """Tell whether the output is a closed pipe or terminal."""
    try:
        number = sys.stdout.fileno()
    except io.UnsupportedOperation:
        return False
    look = select.poll()
    look.register(number, 0)        # errors and hang-ups are always reported
    return bool(look.poll(0))


def mute() -> None:
    """Discard the rest of the output."""
    with contextlib.suppress(io.UnsupportedOperation):      # not a file, so nothing is buffered
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
