# SPDX-License-Identifier: GPL-3.0-or-later
"""Movies made in advance, so that the time it takes to make one does not show between exposures."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tomostream.simulator import movies
from tomostream.simulator.plan import Exposure
from tomostream.simulator.scene import Scene

#: Bytes of finished movies that may wait in memory for their turn.
LIMIT = 512 * 1024**2


class MoviesAhead:
    """The bytes of movies by exposure. `slots`: the exposures that will be written, in order of time."""

    def __init__(self, scene: Scene, slots: Sequence[int]) -> None:
        self._scene = scene
        self._to_make = dict.fromkeys(slots)
        self._made: dict[int, bytes] = {}
        self.seconds = 0.0  # that making the last one took

    def get(self, exposure: Exposure) -> bytes:
        """Return the movie of an exposure, making it now if necessary."""
        if exposure.slot not in self._made:
            begin = time.monotonic()
            frames, plan = self._scene.render(exposure), self._scene.plan
            self._made[exposure.slot] = movies.encode(frames, plan.pixel_size, plan.format)
            self.seconds = max(0.7 * self.seconds, time.monotonic() - begin)
            self._to_make.pop(exposure.slot, None)
        return self._made[exposure.slot]

    def forget(self, exposure: Exposure) -> None:
        """Note that the movie of this exposure is on disk."""
        self._made.pop(exposure.slot, None)

    def before_start(self, interval: float) -> None:
        """Make one movie, or as many as memory holds if making one takes longer than the time between two exposures."""
        while interval > 0 and self._make_next() and interval < 2 * self.seconds:
            pass

    def while_waiting(self, seconds: float) -> bool:
        """Make the next movie if that certainly takes less than `seconds`; return whether one was made."""
        return seconds > 1.5 * self.seconds and self._make_next()

    def _make_next(self) -> bool:
        """Make the movie that is due next; return whether there was one to make, and room for it."""
        if not self._to_make or sum(map(len, self._made.values())) >= LIMIT:
            return False
        self.get(self._scene.exposures[next(iter(self._to_make))])
        return True
