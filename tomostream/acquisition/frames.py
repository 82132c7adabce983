# SPDX-License-Identifier: GPL-3.0-or-later
"""Frame mdocs, one file per movie: which of them form a tilt series together."""

from __future__ import annotations

import math
import os
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median

from tomostream.acquisition.doses import running_sums
from tomostream.acquisition.facts import FRAME_SET, Known, MdocFacts, Origin, Tilt
from tomostream.acquisition.grammar import numbers
from tomostream.acquisition.mdoc import SAME_ANGLE
from tomostream.acquisition.naming import ANGLE_TOLERANCE, movie_key, parse_movie_name, series_name, target_name, undated


def group_frames(facts: Iterable[MdocFacts]) -> list[MdocFacts]:
    """Form tilt series from the frame mdocs that belong together.

    Frame mdocs belong together if they are in one folder and the names of their movies begin alike (NAME_ORDER_ANGLE,
    or NAME_ORDER), unless `Targets` tells them apart.

    Parameters
    ----------
    facts : of any kind. Only frames are grouped; movies that a tilt series among `facts` lists are left to it.

    Returns
    -------
    list of MdocFacts of kind "tilt-series", in order of name. Frames at one angle (single particles) form none.
    """
    every = [part for one in facts for part in apart(one)]
    listed = {movie_key(tilt.movie) for one in every if one.kind == "tilt-series" for tilt in one.tilts if tilt.movie}
    groups: dict[tuple[str, str], list[MdocFacts]] = {}
    for one in every:
        if one.kind == "frame" and one.frame_series and one.tilts and movie_key(one.tilts[0].movie or "") not in listed:
            groups.setdefault((os.path.dirname(one.path), one.frame_series), []).append(one)
    series = [_series(folder, name, part)
              for (folder, prefix), frames in sorted(groups.items())
              for name, part in _split(prefix, _in_order(_latest(frames)))]
    return [one for one in series if one is not None]


def apart(facts: MdocFacts) -> list[MdocFacts]:
    """Split a file of frame sets into one frame mdoc per movie if the movies' names give their series; else return it as it is.

    Such a file is about movies, not about a series: the mdocs of the series, if there are any, say what belongs together. It may
    list a movie several times: a name that was reused in another folder, or later.
    """
    names = [parse_movie_name(tilt.movie) for tilt in facts.tilts if tilt.movie is not None]
    if not _is_of_many(facts) or not names or any(name.order is None and name.angle is None for name in names):
        return [facts]
    unknown: Known[float] = Known(None, "PriorRecordDose is not in the file")
    frames = []
    for tilt in facts.tilts:
        if tilt.movie is not None:
            alone = tilt if tilt.prior_dose.origin is not Origin.SUMMED else replace(tilt, prior_dose=unknown)
            frames.append(replace(
                facts, path=f"{facts.path}{FRAME_SET}{movie_key(tilt.movie)} {tilt.time or ''}".rstrip(), kind="frame",
                series_name=movie_key(tilt.movie), reason="",
                frame_series=undated(parse_movie_name(tilt.movie).series), tilts=(alone,), tilts_if_ended=(alone,), evidence={},
                frame_sets=False, last_section_open=False))
    return frames


def _is_of_many(facts: MdocFacts) -> bool:
    """Tell whether a file describes the movies of a whole session, or is the start of one: its name is not its only movie's."""
    if facts.kind != "frame" or not facts.tilts or facts.tilts[0].movie is None:
        return facts.frame_sets
    own, movie = series_name(facts.path).replace(" ", "_").casefold(), movie_key(facts.tilts[0].movie).casefold()
    return not (own.startswith(movie) or own.endswith(movie) or movie.startswith(own) or movie.endswith(own))


def _latest(frames: Sequence[MdocFacts]) -> list[MdocFacts]:
    """Keep one of the mdocs of each movie: the last by file name, as a re-read replaces a read."""
    return list({_movie(one): one for one in frames}.values())


def _movie(frame: MdocFacts) -> tuple[str, str]:
    """Return the folder and the name of the movie of a frame: a name may occur in several folders."""
    return frame.tilts[0].movie_folder, movie_key(frame.tilts[0].movie or frame.path)


def _number(frame: MdocFacts) -> int:
    return parse_movie_name(frame.tilts[0].movie or frame.series_name).order or 0


def _place_in_time(frame: MdocFacts) -> tuple[str, int]:
    """Return the key for sorting frames as they arrive: the time if there is one, then the number in the name."""
    return str(frame.tilts[0].time or ""), _number(frame)


def _in_order(frames: Sequence[MdocFacts]) -> list[MdocFacts]:
    """Sort by time if every frame has one, with the number in the name deciding within a second; else by the number."""
    times = [frame.tilts[0].time for frame in frames]
    if None not in times:
        return sorted(frames, key=lambda frame: (str(frame.tilts[0].time), _number(frame)))
    return sorted(frames, key=_number)


def _split(prefix: str, frames: Sequence[MdocFacts]) -> list[tuple[str, list[MdocFacts]]]:
    """Tell apart the series among frames of one name, given in order of acquisition. The first keeps the name."""
    targets = Targets(prefix)
    for frame in frames:
        targets.add(frame)
    parts: dict[str, list[MdocFacts]] = {}
    for frame in frames:
        parts.setdefault(targets.name_of(frame), []).append(frame)
    return list(parts.items())


@dataclass
class _Part:
    """One series among frames of one name: its last frame, and where each angle was exposed."""

    name: str
    last: MdocFacts
    exposed: list[MdocFacts] = field(default_factory=list)


#: After this many frames of one name it is settled that its numbers count targets.
FRAMES_TO_SETTLE = 200


class Targets:
    """Which frames of one name belong to which series. Frames are added as they arrive.

    Several targets exposed in turns may share a name. They are told apart by what the number in the names counts (an
    "acquisition number" that occurs at many angles is the number of a target), by navigator item, and by the position of stage
    and beam. One name may also continue through several series: another begins where PriorRecordDose falls.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.numbered = False
        self._frames: dict[tuple[str, str], MdocFacts] = {}
        self._angles: dict[int, set[float]] = {}
        self._parts: list[_Part] = []
        self._names: dict[tuple[str, str], str] = {}
        self._last = ("", -1)

    @property
    def frames(self) -> list[MdocFacts]:
        """All frames so far, the newest reading of each."""
        return list(self._frames.values())

    def without(self, paths: Container[str]) -> Targets:
        """Return what is known without these files."""
        kept = Targets(self.prefix)
        for frame in self.frames:
            if frame.path not in paths:
                kept.add(frame)
        return kept

    def add(self, frame: MdocFacts) -> bool:
        """Take in a frame. True: earlier frames got other names.

        That is when it becomes clear what the numbers in the names count, or a frame arrives after one that was exposed later.
        """
        key = _movie(frame)
        new = key not in self._frames
        self._frames[key] = frame
        angles = self._angles.setdefault(_number(frame), set())
        again = bool(angles) and round(frame.tilts[0].angle, 1) not in angles
        angles.add(round(frame.tilts[0].angle, 1))
        moved = False
        if new and _place_in_time(frame) < self._last:
            moved = self._place_all_anew(key)
        elif new:
            self._names[key], self._last = self._place(frame), _place_in_time(frame)
        if not (again or self.numbered) or (self.numbered and len(self._frames) > FRAMES_TO_SETTLE):
            return moved and not self.numbered
        before, self.numbered = self.numbered, number_counts_targets(_in_order(self.frames))
        return before != self.numbered or (moved and not self.numbered)

    def _place_all_anew(self, but: tuple[str, str]) -> bool:
        """Place all frames again, in order of acquisition. True: an earlier one (not `but`) got another name."""
        before, self._parts, self._names = self._names, [], {}
        for frame in _in_order(self.frames):
            self._names[_movie(frame)] = self._place(frame)
        return any(self._names[key] != name for key, name in before.items() if key != but)

    def name_of(self, frame: MdocFacts) -> str:
        """Return the name of the series of a frame that was added."""
        return undated(target_name(frame.tilts[0].movie or frame.series_name)) if self.numbered else self._names[_movie(frame)]

    def _place(self, frame: MdocFacts) -> str:
        """Find the series of a frame by label, position and dose; begin another if none fits."""
        same = [part for part in self._parts if not _other_label(part.last, frame)]
        distances = {id(part): _distance(part.last, frame) for part in same}
        known = [part for part in same if distances[id(part)] is not None]
        part = min(reversed(known), key=lambda each: distances[id(each)] or 0.0) if known else (same[-1] if same else None)
        if part is not None and (_dose_falls(part.last, frame) or _exposed_elsewhere(part, frame)
                                 or (distances[id(part)] or 0.0) > OTHER_PLACE or _begins_anew(part, frame)):
            part = None
        if part is None:
            part = _Part(f"{self.prefix}_{_number(frame)}" if self._parts else self.prefix, frame)
            self._parts.append(part)
        part.last = frame
        part.exposed.append(frame)
        return part.name


#: Points further apart are different targets if both were exposed at one angle; um. Tracking moves a target by less.
OTHER_TARGET = 1.0
#: Points further apart are different targets whatever their angles; um. No series wanders so far.
OTHER_PLACE = 20.0
#: After this many seconds without an exposure, and this many times the usual time, an angle exposed before begins another series.
PAUSE, MAX_GAPS = 300.0, 5.0


def number_counts_targets(frames: Sequence[MdocFacts]) -> bool:
    """Tell whether the number in the names of frames (in order of acquisition) counts targets rather than exposures.

    Then one number occurs at many angles, and targets are exposed one after another at each angle. A counter that started over
    also gives one number at several angles, but from exposure to exposure number and angle change together.
    """
    if any(parse_movie_name(frame.tilts[0].movie or frame.series_name).order is None for frame in frames):
        return False
    angles: dict[int, set[float]] = {}
    for frame in frames:
        angles.setdefault(_number(frame), set()).add(round(frame.tilts[0].angle, 1))
    if not any(max(each) - min(each) > SAME_ANGLE for each in angles.values()):
        return False
    steps = [(a, b) for a, b in pairwise(frames) if _number(a) != _number(b)]
    same = sum(abs(a.tilts[0].angle - b.tilts[0].angle) <= ANGLE_TOLERANCE for a, b in steps)
    return 2 * same >= len(steps)


def _other_label(before: MdocFacts, frame: MdocFacts) -> bool:
    """Tell whether two frames belong to different navigator items, or their movies were written into different folders."""
    if before.tilts[0].movie_folder != frame.tilts[0].movie_folder:
        return True
    labels = (before.evidence.get("NavigatorLabel"), frame.evidence.get("NavigatorLabel"))
    return None not in labels and labels[0] != labels[1]


def _dose_falls(before: MdocFacts, frame: MdocFacts) -> bool:
    old, new = before.tilts[0].prior_dose.value, frame.tilts[0].prior_dose.value
    return old is not None and new is not None and new < old


def _begins_anew(part: _Part, frame: MdocFacts) -> bool:
    """Tell whether a frame is the first of a series that was collected again under the same name, if no dose tells.

    Its angle was exposed earlier in the series, but not by the last exposure (repeats are immediate), and there was a pause.
    """
    times = [each.tilts[0].time for each in part.exposed]
    now = frame.tilts[0].time
    known = [time for time in times if time is not None]
    if now is None or len(known) < len(times) or len(times) < 3 or frame.tilts[0].prior_dose.value is not None:
        return False
    gaps = [(b - a).total_seconds() for a, b in pairwise(known)]
    pause = (now - known[-1]).total_seconds()
    angle = frame.tilts[0].angle
    return (pause >= max(PAUSE, MAX_GAPS * median(gaps)) and abs(part.last.tilts[0].angle - angle) > ANGLE_TOLERANCE
            and any(abs(each.tilts[0].angle - angle) <= ANGLE_TOLERANCE for each in part.exposed))


def _exposed_elsewhere(part: _Part, frame: MdocFacts) -> bool:
    """Tell whether this angle was already exposed in this series, at another place."""
    return any((_distance(each, frame) or 0.0) > OTHER_TARGET for each in part.exposed
               if abs(each.tilts[0].angle - frame.tilts[0].angle) <= ANGLE_TOLERANCE)


def _distance(one: MdocFacts, other: MdocFacts) -> float | None:
    """Return the distance between two exposures in um: stage and beam, each if known for both; None if neither is."""
    total: float | None = None
    for key in ("StagePosition", "ImageShift"):
        a, b = (_point(each.evidence.get(key, "")) for each in (one, other))
        if a is not None and b is not None:
            total = (total or 0.0) + math.dist(a, b)
    return total


def _point(text: str) -> tuple[float, float] | None:
    values = numbers(text)
    return (values[0], values[1]) if len(values) == 2 and values[0] is not None and values[1] is not None else None


def different_angles(angles: Sequence[float]) -> int:
    """Return how many tilt angles (degrees) differ by more than the stage's read-back error."""
    ordered = sorted(angles)
    return bool(ordered) + sum(after - before > SAME_ANGLE for before, after in pairwise(ordered))


def targets_share_a_name(different: int, exposures: int) -> bool:
    """Tell whether so many exposures at so few different angles are not one tilt series: the angles recur again and again."""
    return exposures > 2 and 3 * different < 2 * exposures


def _series(folder: str, name: str, frames: Sequence[MdocFacts]) -> MdocFacts | None:
    """Return the tilt series that these frames form; None if they are single particles: many at one angle."""
    different = different_angles([frame.tilts[0].angle for frame in frames])
    if different < 2 or targets_share_a_name(different, len(frames)):
        return None
    first = frames[0]
    warnings = list(dict.fromkeys(warning for frame in frames for warning in frame.warnings))
    if different < len(frames):
        warnings.append("Some tilt angles occur more than once: repeated exposures, or two series with one name.")
    return replace(
        first, path=os.path.join(folder, name), kind="tilt-series", reason="", series_name=name, frame_series="",
        tilts=_tilts(frames), tilts_if_ended=_tilts(frames), warnings=tuple(warnings),
        evidence={**first.evidence, "files": "\n".join(frame.path for frame in frames)})


def _tilts(frames: Sequence[MdocFacts]) -> tuple[Tilt, ...]:
    """Number the tilts from 1 and give each its prior dose: PriorRecordDose if all have it, else the running sum."""
    tilts = [frame.tilts[0] for frame in frames]
    priors: Sequence[Known[float]] = [tilt.prior_dose for tilt in tilts]
    if any(prior.origin is not Origin.PRIOR_DOSE for prior in priors):
        priors = running_sums([tilt.dose for tilt in tilts])
    return tuple(replace(tilt, order=place, prior_dose=prior)
                 for place, (tilt, prior) in enumerate(zip(tilts, priors, strict=True), start=1))
