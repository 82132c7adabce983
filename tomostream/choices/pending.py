# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tilts people took out or put back since the newest version of a series."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tomostream.acquisition.events import Why
from tomostream.acquisition.naming import movie_key
from tomostream.choices import exclusions
from tomostream.journal.status import COMPOSE, ProjectStatus, SeriesStatus

#: How many tilts are named; more are counted.
MAX_NAMES = 3


@dataclass(frozen=True)
class Pending:
    """What the next version of a series will change: movies to leave out, with the reason (may be ""), and movies to put back."""

    out: tuple[tuple[str, str], ...] = ()
    back: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the end of a sentence; "" if nothing will change."""
        parts = [f"without {some([movie for movie, _ in self.out])}"] if self.out else []
        parts += [f"with {some(self.back)} put back"] if self.back else []
        return f"to be made again {' and '.join(parts)}" if parts else ""


def some(movies: Sequence[str]) -> str:
    """Name tilts by their movies."""
    if len(movies) <= MAX_NAMES:
        return ", ".join(movies)
    return f"{', '.join(movies[:MAX_NAMES - 1])} and {len(movies) - MAX_NAMES + 1} more tilts"


class PendingChoices:
    """Follows what people decide in a project: `update()`, then `of()` any series. `trouble` says why nothing is known."""

    def __init__(self, status: ProjectStatus) -> None:
        self._status = status
        self._stamp: tuple[str, int, int] | None = None
        self._wanted: exclusions.Choice = {}
        self.trouble = ""

    def update(self) -> list[str]:
        """Take in new decisions; return the names of the series concerned."""
        folder = self._status.folders.get(COMPOSE)
        path = os.path.join(folder, "extra", exclusions.NAME) if folder else ""
        try:
            now = os.stat(path)
            stamp = (path, now.st_mtime_ns, now.st_size)
        except OSError:
            stamp = None
        if stamp == self._stamp:
            return []
        self._stamp, before, self.trouble = stamp, self._wanted, ""
        try:
            self._wanted = exclusions.read(path) if stamp else {}
        except ValueError as error:
            self._wanted, self.trouble = {}, str(error)
        return sorted(name for name in before.keys() | self._wanted.keys() if before.get(name) != self._wanted.get(name))

    def of(self, series: SeriesStatus) -> Pending:
        """Return the decisions not yet in the newest version of a series; empty if it has not been composed."""
        if series.composed is None or self.trouble:
            return Pending()
        wanted = self._wanted.get(series.id, {})
        taken_out = [movie_key(left.movie) for left in series.left_out if left.movie and left.why is Why.TAKEN_OUT]
        return Pending(tuple((movie, wanted[movie]) for movie in series.movies if movie in wanted),
                       tuple(movie for movie in taken_out if movie not in wanted))
