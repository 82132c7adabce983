# SPDX-License-Identifier: GPL-3.0-or-later
"""Work for one item, and the attempts at it."""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds after which an item that found the disk full is tried again: at first, and at most.
DISK_SECONDS, MAX_DISK_SECONDS = 5.0, 600.0
#: How many of the items that are held up are looked at in a turn: the file server may be slow to say no.
HELD_A_TURN = 20


class BadInput(Exception):
    """The input itself is wrong: trying again would not help."""


class ProgramFailed(Exception):
    """A program ended without its output; once more is worth a try."""


@dataclass(frozen=True)
class Task:
    """Work for one item. `arguments` are plain values (names, numbers), never sets or rows.

    `run` False: there is nothing to run, the item is registered at once.
    """

    key: str
    arguments: tuple = ()
    version: int = 1
    run: bool = True
    needs_gpu: bool = False


@dataclass
class Attempt:
    """A task in flight: its step, what it returned, how often it was tried."""

    task: Task
    tries: int = 1
    result: object = None
    error: Exception | None = None
    disk_full: bool = False
    obstacle: str = ""
