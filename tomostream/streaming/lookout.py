# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that match a pattern, and what else is in the folder while nothing matches."""

from __future__ import annotations

from collections.abc import Sequence

from tomostream.files import patterns
from tomostream.files.clock import steady
from tomostream.streaming.watch import FolderWatch, Seen, Watcher

#: Seconds between two looks at what else is in a folder in which nothing matches.
LOOK_SECONDS = 15.0


class Lookout(FolderWatch):
    """A `FolderWatch` of files with certain endings. Until one is found, `lies` says what is there instead.

    Parameters
    ----------
    pattern, watcher, poll, full_every : of `FolderWatch`.
    endings : of the files looked for, in lower case.
    descend : search subfolders too, where the folder itself holds none.
    """

    def __init__(self, pattern: str, watcher: Watcher, endings: Sequence[str], descend: bool = False, poll: float = 5.0,
                 full_every: float = 600.0) -> None:
        super().__init__(pattern, watcher, poll, full_every)
        self.lies = ""
        self._endings, self._descend = tuple(endings), descend
        self._found = False
        self._look_at = 0.0

    def changes(self, now: float | None = None) -> list[tuple[str, Seen]]:
        found = super().changes(now)
        if self._found or any(path.lower().endswith(self._endings) for path, _ in found):
            self._found, self.lies = True, ""
            return found
        if steady() >= self._look_at:
            self._look_at = steady() + LOOK_SECONDS
            self.deeper = patterns.depth_of(self.pattern, self._endings) if self._descend else 0
            self.lies = "" if self.deeper else patterns.what_is_there(self.pattern, self._endings)
            if self.deeper:
                self.look_at_all()
                found += super().changes(now)
                self._found = True
        return found

    def seconds_to_next_look(self, now: float | None = None) -> float:
        seconds = super().seconds_to_next_look(now)
        return seconds if self._found else min(seconds, max(0.0, self._look_at - steady()))
