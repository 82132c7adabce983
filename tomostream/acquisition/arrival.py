# SPDX-License-Identifier: GPL-3.0-or-later
"""When a movie that is being written may be used. Pure: the caller looks at the file and the clock.

A movie is used as soon as its structure is complete and it has stopped growing. A file that was moved into place has; so has
one that was closed, unless it is a TIFF or EER file of a session that writes frame by frame: such a file is structurally
complete, and may be closed, after every frame. So a movie with fewer frames than usual waits for the file time-out unless it
was moved into place, and until the usual number is known a movie must be still for longer than the gap between its frames. A
file on a network disk is still when it looked the same twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

COMPLETE, GROWING, BROKEN, UNKNOWN = "complete", "growing", "broken", "unknown"
#: Formats of which a file is complete after every frame.
BY_FRAMES = (".tif", ".tiff", ".eer")
#: A movie must be still for this many times the gap between its frames while their number is not known.
STILL_GAPS = 3.0
#: An EER file holds the frames that fell into its exposure: their number varies by this share.
EER_SPREAD = 0.05
#: Seconds between two looks at a file that is being written continuously.
LOOK_SECONDS = 0.2


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
    moved: bool = False
    frames: int | None = None


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
        self._frame_gap: float | None = None

    def see(self, path: str, size: int, mtime: float, now: float, closed: bool = False, moved: bool = False) -> None:
        """Note that a file is new, has changed, was closed by its writer, or was moved into place."""
        old = self.waiting.get(path)
        if old is None:
            self.waiting[path] = Candidate(path, size, mtime, now, now, closed, now, moved=moved)
            return
        changed = (old.size, old.mtime) != (size, mtime)
        due = now if closed or moved or not changed else max(now, min(old.due, now + LOOK_SECONDS))
        self.waiting[path] = replace(
            old, size=size, mtime=mtime, last_change=now if changed else old.last_change, due=due,
            closed=closed or (old.closed and not changed), moved=moved or (old.moved and not changed))

    def forget(self, path: str) -> None:
        self.waiting.pop(path, None)

    def due(self, now: float) -> list[Candidate]:
        """Return files to look at now, oldest first."""
        return sorted((c for c in self.waiting.values() if c.due <= now), key=lambda c: (c.mtime, c.path))

    def next_due(self) -> float | None:
        """When the next look is due; None when nothing waits."""
        return min((c.due for c in self.waiting.values()), default=None)

    def usual_frames(self) -> int | None:
        """Return the number of frames that most movies of this session have; None until three movies, and half of all, agree."""
        if not self._frames:
            return None
        frames = self._frames.most_common(1)[0][0]
        alike = sum(times for number, times in self._frames.items() if abs(number - frames) <= EER_SPREAD * frames)
        return frames if alike >= 3 and 2 * alike >= self._frames.total() else None

    def fewer_than_usual(self, path: str, frames: int | None) -> bool:
        """Tell whether a movie has fewer frames than it should; complete EER movies differ by a few."""
        usual = self.usual_frames()
        if usual is None or frames is None:
            return False
        return frames < (usual * (1 - EER_SPREAD) if path.lower().endswith(".eer") else usual)

    def movies_have_frames(self) -> bool:
        """Tell whether any movie with several frames is in use."""
        return any(frames > 1 for frames in self._frames)

    def any_in_use(self) -> bool:
        """Tell whether any movie is in use."""
        return bool(self._frames)

    def hold(self, path: str, until: float, reason: str) -> None:
        """Postpone the next look at a candidate."""
        self._wait(self.waiting[path], until, reason)

    def note_frames(self, frames: int | None) -> None:
        """Note that a movie with this many frames is in use."""
        if frames is not None:
            self._frames[frames] += 1

    def judge(self, path: str, state: str, reason: str, frames: int | None, now: float) -> Verdict:
        """Return what to do with a candidate whose file has just been checked (`state` and `reason` from `check_movie`)."""
        candidate = self.waiting[path]
        still = now - candidate.last_change
        expired = still >= self.time_out
        if state == COMPLETE:
            self._note_growth(candidate, frames)
            candidate = replace(candidate, frames=frames)
            usual = self.usual_frames()
            short = self.fewer_than_usual(path, frames) and not candidate.moved
            quiet = self._quiet_time(candidate, None if usual is not None and frames is not None and frames < usual else usual)
            if expired or (not short and still >= quiet):
                return self._decide(path, "ready", frames=frames)
            if short:
                reason = f"has {frames} frames so far, the others have {usual}"
                return self._wait(candidate, candidate.last_change + self.time_out, reason)
            return self._wait(candidate, candidate.last_change + quiet, "is complete, but may still be written to")
        if state == UNKNOWN and expired:
            return self._decide(path, "ready", frames=frames)
        if expired or (state == BROKEN and still >= min(self.time_out, 5.0)):
            return self._decide(path, "failed",
                                f"is not complete ({reason.rstrip('.')}) and has not changed for {still:.0f} s")
        wait = min(self.time_out, 5.0) if state == BROKEN else self.time_out
        return self._wait(candidate, candidate.last_change + wait, reason)

    def _note_growth(self, candidate: Candidate, frames: int | None) -> None:
        """Learn, from a file that was complete with fewer frames before, how far apart the frames of this session are."""
        if candidate.frames is not None and frames is not None and frames > candidate.frames:
            gap = (candidate.last_change - candidate.first_seen) / (frames - 1) if frames > 1 else 0.0
            self._frame_gap = max(self._frame_gap or 0.0, gap)

    def _quiet_time(self, candidate: Candidate, usual: int | None) -> float:
        """Return the seconds without a change after which a complete file counts as written."""
        if candidate.moved:
            return 0.0
        if usual is None and candidate.path.lower().endswith(BY_FRAMES):
            return min(self.time_out, max(2 * self.settle, STILL_GAPS * (self._frame_gap or 0.0)))
        return 0.0 if candidate.closed else self.settle

    def leftovers(self) -> Iterator[Candidate]:
        """Yield what never became complete, at the end of the session."""
        yield from sorted(self.waiting.values(), key=lambda c: c.path)

    def _decide(self, path: str, state: str, reason: str = "", frames: int | None = None) -> Verdict:
        del self.waiting[path]
        if state == "ready":
            self.note_frames(frames)
        return Verdict(path, state, reason)

    def _wait(self, candidate: Candidate, due: float, reason: str) -> Verdict:
        self.waiting[candidate.path] = replace(candidate, due=due, reason=reason)
        return Verdict(candidate.path, "wait", reason)
