# SPDX-License-Identifier: GPL-3.0-or-later
"""When a movie that is being written may be used. Pure: the caller looks at the file and the clock.

A movie is used as soon as its structure is complete and it has stopped growing. A file that was closed or moved into place
has; one on a network disk has when two looks saw the same. A TIFF that is written frame by frame is structurally complete
after every frame, so a movie with fewer frames than the session's others waits for the file time-out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

COMPLETE, GROWING, BROKEN, UNKNOWN = "complete", "growing", "broken", "unknown"


@dataclass(frozen=True)
class Candidate:
    """A file that is not used yet. Times by the caller's clock, in seconds."""

    path: str
    size: int
    mtime: float
    first_seen: float
    last_change: float
    closed: bool = False
    due: float = 0.0
    reason: str = "just seen"


@dataclass(frozen=True)
class Verdict:
    """`state` is ready, wait or failed; the reason is a sentence for wait and failed."""

    path: str
    state: str
    reason: str = ""


class Arrivals:
    """Candidates and when to look at them again.

    Parameters
    ----------
    settle : seconds without a change after which a structurally complete file counts as written.
    time_out : seconds without a change after which a file is taken as it is: used if its structure cannot be checked,
        failed if it is not complete.
    """

    def __init__(self, settle: float = 1.0, time_out: float = 30.0) -> None:
        self.settle = min(settle, time_out)
        self.time_out = time_out
        self.waiting: dict[str, Candidate] = {}
        self._frames: Counter[int] = Counter()

    def see(self, path: str, size: int, mtime: float, now: float, closed: bool = False) -> None:
        """A file is new, has changed, or was closed by its writer."""
        old = self.waiting.get(path)
        changed = old is None or (old.size, old.mtime) != (size, mtime)
        self.waiting[path] = Candidate(
            path, size, mtime, now if old is None else old.first_seen,
            now if old is None or changed else old.last_change,
            closed or (old is not None and old.closed and not changed), now, "just seen" if old is None else old.reason)

    def forget(self, path: str) -> None:
        self.waiting.pop(path, None)

    def due(self, now: float) -> list[Candidate]:
        """Files to look at now, oldest first."""
        return sorted((c for c in self.waiting.values() if c.due <= now), key=lambda c: (c.mtime, c.path))

    def next_due(self) -> float | None:
        """When the next look is due; None when nothing waits."""
        return min((c.due for c in self.waiting.values()), default=None)

    def usual_frames(self) -> int | None:
        """The number of frames that most movies of this session have; None before three movies agree."""
        if not self._frames:
            return None
        frames, times = self._frames.most_common(1)[0]
        return frames if times >= 3 else None

    def note_frames(self, frames: int | None) -> None:
        """A movie of so many frames is in use."""
        if frames is not None:
            self._frames[frames] += 1

    def judge(self, path: str, state: str, reason: str, frames: int | None, now: float) -> Verdict:
        """What to do with a candidate whose file was just looked at (`state` and `reason` from `check_movie`)."""
        candidate = self.waiting[path]
        still = now - candidate.last_change
        expired = still >= self.time_out
        if state == COMPLETE:
            usual = self.usual_frames()
            short = usual is not None and frames is not None and frames < usual
            if expired or (not short and (candidate.closed or still >= self.settle)):
                return self._decide(path, "ready", frames=frames)
            if short:
                reason = f"has {frames} frames so far, the others have {usual}"
                return self._wait(candidate, candidate.last_change + self.time_out, reason)
            return self._wait(candidate, candidate.last_change + self.settle, "is complete, may still be written to")
        if state == UNKNOWN and expired:
            return self._decide(path, "ready", frames=frames)
        if expired or (state == BROKEN and still >= min(self.time_out, 5.0)):
            return self._decide(path, "failed", f"is not complete ({reason.rstrip('.')}) and has not changed for {still:.0f} s")
        wait = min(self.time_out, 5.0) if state == BROKEN else self.time_out
        return self._wait(candidate, candidate.last_change + wait, reason)

    def leftovers(self) -> Iterator[Candidate]:
        """What never became complete, when the session ends."""
        yield from sorted(self.waiting.values(), key=lambda c: c.path)

    def _decide(self, path: str, state: str, reason: str = "", frames: int | None = None) -> Verdict:
        del self.waiting[path]
        if state == "ready":
            self.note_frames(frames)
        return Verdict(path, state, reason)

    def _wait(self, candidate: Candidate, due: float, reason: str) -> Verdict:
        self.waiting[candidate.path] = replace(candidate, due=due, reason=reason)
        return Verdict(candidate.path, "wait", reason)
