# SPDX-License-Identifier: GPL-3.0-or-later
"""Leaving while the protocols go on: Ctrl-C, a closed terminal, `timeout`, a pipe that nobody reads any more."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import signal
import sys
from types import FrameType, TracebackType

#: What asks this command to go. The protocols have sessions of their own and do not hear it.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: What a terminal that was closed, or a pipe without a reader, answers.
READER_GONE = (errno.EPIPE, errno.EIO)
#: What else an output answers that cannot be written: a full disk, a quota.
OUTPUT_TROUBLE = (*READER_GONE, errno.ENOSPC, errno.EDQUOT)


class Interrupted(Exception):
    """Ctrl-C while protocols were being started: not one more is."""


class Leaving:
    """While this holds, the signals are noted, not raised, so that none of them can fall between the start of a process and
    the note of its number.

    A pipe wakes up whoever waits: an event must not be set by a signal handler, which may interrupt its own waiting.
    """

    def __init__(self) -> None:
        self.asked = self.interrupted = False
        self._read, self._write = os.pipe()
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Leaving:
        os.set_blocking(self._write, False)
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:      # nohup, and jobs in the background, stay as they are
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
        except BlockingIOError:     # so many signals that the pipe is full: it wakes up all the same
            return

    def wait(self, seconds: float) -> bool:
        """Wait, or less long when something asks to leave; whether it does."""
        if not self.asked:
            select.select([self._read], [], [], seconds)
        return self.asked

    def pause(self, seconds: float) -> None:
        """Wait while protocols are being started. A hang-up and `timeout` let the start come to its end first.

        Raises
        ------
        Interrupted : Ctrl-C.
        """
        if not self.interrupted:
            select.select([] if self.asked else [self._read], [], [], seconds)
        if self.interrupted:
            raise Interrupted


def say(text: str) -> None:
    """Print a line for people. Nobody may read any more; that must not end what is being done."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def show(text: str) -> None:
    """Print what was asked for. That nobody reads it to the end changes nothing: the exit status says the rest.

    Raises
    ------
    OSError : it cannot be written for another reason.
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
    """Tell whether the output is a pipe that was closed, or a terminal that was."""
    try:
        number = sys.stdout.fileno()
    except io.UnsupportedOperation:
        return False
    look = select.poll()
    look.register(number, 0)        # errors and hang-ups are told unasked
    return bool(look.poll(0))


def mute() -> None:
    """Let the rest of the output go nowhere."""
    with contextlib.suppress(io.UnsupportedOperation):      # not a file: nothing is left in it
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
