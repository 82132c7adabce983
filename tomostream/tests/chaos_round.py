# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be done to a session, drawn from a seed; see `chaos`."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tomostream.tests.support import ORDER

#: Kind -> how often it is drawn.
KINDS = {"kill": 12, "kill-two": 4, "kill-all": 4, "unreadable": 3, "permission": 3, "stalled": 2, "paused-writer": 2,
         "full": 2, "locked": 1, "hang-up": 3, "clock": 4, "neighbour": 2, "scheduler": 3,
         "unmounted": 0}        # only where it is asked for, so that a seed means what it meant
#: Kinds of which a session has one at most: they take long, or need a place of their own.
ONCE = ("locked", "full", "neighbour")
#: What is done to a session whose programs are jobs of a queue.
WITH_SCHEDULER = ("scheduler", "kill", "kill-two", "kill-all", "unreadable", "stalled", "paused-writer", "locked", "hang-up")
#: How a scheduler behaves for a while; what ends the driver; by how many seconds a clock is set.
BEHAVIOURS, SIGNALS = ("absent", "down", "hangs", "silent", "forgets"), ("SIGHUP", "SIGTERM", "SIGINT")
STEPS = ("3600", "-3600", "-90")
#: Seconds from the end of one disturbance to the next; the first may come before the first movie.
WAITS, FIRST_WAIT = (0.3, 5.0), (-2.0, 5.0)
#: Of the databases that are locked: the set that others read, and what Scipion keeps of a run and of the project.
DATABASES = ("set", "set", "set", "run", "steps", "project")
#: Folders whose permission is removed: the microscope's, a run's, and the one that holds a run's files.
FOLDERS = ("frames", "mdocs", "run", "extra")
WITH_CHOICE = ("scheduler", "hang-up", "clock")


class Skipped(Exception):
    """This machine cannot make that disturbance; says why."""


@dataclass(frozen=True)
class Disturbance:
    """One thing that is done to a session: to which protocols (and to what of them), how long after the one before, and
    for how many seconds."""

    kind: str
    targets: tuple[str, ...]
    what: str
    wait: float
    seconds: float

    @classmethod
    def drawn(cls, draw: random.Random, kind: str, first: bool, lock_seconds: float) -> Disturbance:
        targets = tuple(draw.sample(ORDER, {"kill-two": 2, "kill-all": 4, "full": 4}.get(kind, 1)))
        wait = draw.uniform(*(FIRST_WAIT if first else WAITS))
        what = {"locked": draw.choice(DATABASES), "permission": draw.choice(FOLDERS)}.get(kind, "")
        what = draw.choice({"scheduler": BEHAVIOURS, "hang-up": SIGNALS, "clock": STEPS}[kind]) if kind in WITH_CHOICE else what
        if kind in ("locked", "unreadable", "full", "paused-writer", "permission", "unmounted"):
            wait = max(wait, 0.5)           # there is nothing to lock before
        return cls(kind, targets, what, wait, lock_seconds if kind == "locked" else draw.uniform(1.0, 6.0))

    def __str__(self) -> str:
        return f"{self.kind}{f' {self.what}' if self.what else ''} {'+'.join(self.targets)} after {self.wait:.1f} s"


@dataclass(frozen=True)
class Round:
    """The disturbances of one session."""

    seed: int
    disturbances: tuple[Disturbance, ...]

    @classmethod
    def of(cls, seed: int, kinds: dict[str, int] | None = None, many: int = 3, lock_seconds: float = 30.0) -> Round:
        draw, left, found = random.Random(seed), dict(kinds or KINDS), []
        for place in range(many):
            kind, = draw.choices(list(left), list(left.values()))
            if kind == "scheduler" and len(left) > 1:
                left = {name: weight for name, weight in left.items() if name in WITH_SCHEDULER}
            elif place == 0:
                left.pop("scheduler", None)
            if kind in ONCE and len(left) > 1:
                del left[kind]
            found.append(Disturbance.drawn(draw, kind, place == 0, lock_seconds))
        return cls(seed, tuple(found))

    def has(self, kind: str) -> bool:
        return any(each.kind == kind for each in self.disturbances)
