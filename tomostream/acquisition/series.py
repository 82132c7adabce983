# SPDX-License-Identifier: GPL-3.0-or-later
"""One tilt series as the session knows it: what its mdoc files list, what replaced what, what is aligned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from tomostream.acquisition.copies import names_itself
from tomostream.acquisition.events import Phase
from tomostream.acquisition.facts import FRAME_SET, MdocFacts, Tilt
from tomostream.acquisition.matching import Step, parts
from tomostream.acquisition.naming import movie_key, parse_movie_name
from tomostream.acquisition.rhythm import Rhythm
from tomostream.acquisition.schemes import ANGLE_TOLERANCE, step_of
from tomostream.acquisition.times import NIGHT, with_clock_put_back

#: What identifies an exposure: its movie's key (or its angle if the mdoc names no movie) and its time.
Ident = tuple[str, "datetime | None"]

#: Kinds of mdoc whose tilts form a series.
SERIES_KINDS = ("tilt-series", "frame")

#: Seconds by which two files may disagree on when one movie was exposed.
TWO_WRITERS = 5.0

#: Degrees by which two files may disagree on the angle of one exposure, because they round it differently.
SAME_ANGLE = 0.01

_EPOCH = datetime(1970, 1, 1)


def seconds(time: datetime | None) -> float | None:
    """Return a time of the microscope in seconds, meaningful only for differences; None if unknown."""
    return None if time is None else (time.replace(tzinfo=None) - _EPOCH).total_seconds()


@dataclass(eq=False, slots=True)
class Exposure:
    """One exposure that an mdoc listed. `version` is that of its micrograph, 0 while there is none.

    `name` is the movie's name in the mdoc (`movie_key`), `key` that of the movie it was found to be (`bound`, by which `step`),
    or `name` until then. `state` is missing (its micrograph is awaited), aligned, failed, excluded (by the user) or taken (it
    belongs to another series, `owner`); `reason` says why for the last three. `refused`: why a movie of its name is not taken
    for its own. `movie_seen` False: the import has reported movies, but
    not this one. A micrograph counts from version `min_version` on, because the name of a movie can be reused.
    """

    ident: Ident
    key: str
    tilt: Tilt
    listed_at: float
    acquired: float | None
    state: str = "missing"
    version: int = 0
    reason: str = ""
    min_version: int = 1
    movie_seen: bool = True
    owner: Series | None = None
    name: str = ""
    bound: bool = False
    step: Step = Step.EXACT
    refused: str = ""


@dataclass
class Change:
    """What a reading of an mdoc brought: new exposures, replaced ones, and whether everything started over."""

    new: list[Exposure] = field(default_factory=list)
    replaced: list[Exposure] = field(default_factory=list)
    restored: list[Exposure] = field(default_factory=list)
    retired: list[Exposure] = field(default_factory=list)


@dataclass
class _File:
    """The last good content of one mdoc file. `dropped`: what it once listed and no longer does."""

    facts: MdocFacts
    listed: dict[Ident, None]
    dropped: dict[Ident, None]
    gone: bool = False


@dataclass(eq=False)
class Series:
    """A tilt series. The session changes its phases; `read` takes in mdocs.

    Phases: acquiring, aligning (acquisition is over, micrographs are awaited), composed, failed, ignored (no tilt series).
    `composed` maps the idents last composed to the version of their micrograph; `wrong_since`: when one of these turned out
    to belong to another tilt. `retired`: what was listed before the acquisition started over. `unsure`: unassigned movies of
    which it is unclear which are its own. `apart`: movies in a folder other than most of its own, of which it is unclear whether
    they are. `notes`: its relation to a series of its name in another folder. `number`
    counts the series of a session in order of arrival.
    """

    name: str
    folder: str
    series_id: str
    created: float
    files: dict[str, _File] = field(default_factory=dict)
    trouble: dict[str, MdocFacts] = field(default_factory=dict)
    exposures: dict[Ident, Exposure] = field(default_factory=dict)
    replaced: dict[Ident, tuple[Exposure, Exposure]] = field(default_factory=dict)
    retired: set[Ident] = field(default_factory=set)
    missing: dict[Ident, Exposure] = field(default_factory=dict)
    rhythm: Rhythm = field(default_factory=Rhythm)
    phase: Phase = "acquiring"
    version: int = 0
    composed: dict[Ident, int] = field(default_factory=dict)
    registered: dict[str, int] = field(default_factory=dict)
    composed_reason: str = ""
    given_up: str = ""
    reason: str = ""
    evidence: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    why_again: list[str] = field(default_factory=list)
    companions: dict[int, Series] = field(default_factory=dict)
    first_new: float | None = None
    last_new: float = 0.0
    last_but_one: float = 0.0
    last_micrograph: float = 0.0
    finished_at: float | None = None
    over_since: float | None = None
    successor: str = ""
    changed: float = 0.0
    first_acquired: float | None = None
    last_acquired: float | None = None
    came_whole: bool = False
    started_over: bool = False
    wrong_since: float | None = None
    unsure: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    wake: float | None = None
    deadline: float | None = None
    replace_rule: bool = True
    reacquire_rule: bool = True
    number: int = 0
    _low: float = 0.0
    _high: float = 0.0

    @property
    def pending(self) -> bool:
        """Whether a decision is still to come."""
        return self.phase in ("acquiring", "aligning")

    @property
    def open_section(self) -> str | None:
        """The path of a file of this series that was caught half-written; None if all are whole."""
        for path, file in self.files.items():
            if path in self.trouble:
                return path
            if file.facts.last_section_open and not self._is_overtaken(path, file):
                return path
        return None

    def _is_overtaken(self, path: str, file: _File) -> bool:
        """Tell whether another file lists all that this one does and more: then this is a copy made in mid-acquisition."""
        return any(other != path and len(each.listed) > len(file.listed) and file.listed.keys() <= each.listed.keys()
                   for other, each in self.files.items())

    @property
    def only_frames(self) -> bool:
        """Whether all its files are frame mdocs, one per movie."""
        return bool(self.files) and all(file.facts.kind == "frame" or file.facts.frame_sets for file in self.files.values())

    @property
    def only_frame_sets(self) -> bool:
        """Whether all that it knows is from files with the frames of a whole session."""
        return bool(self.files) and all(FRAME_SET in path for path in self.files)

    @property
    def is_copy(self) -> bool:
        """Whether all that it lists belongs to another series."""
        return bool(self.exposures) and all(each.state == "taken" and each.owner is not None for each in self.exposures.values())

    def ends_with_new_tilt(self, facts: MdocFacts) -> bool:
        """Whether a file ends with a new tilt of which only the end is missing: it counts once the file is at rest."""
        return facts.last_section_open and any(
            self._known_ident(_ident(tilt), tilt.angle) not in self.exposures for tilt in facts.tilts_if_ended)

    def began_after(self, facts: MdocFacts) -> bool:
        """Tell whether all that a file lists was exposed before this series began, with movies in the same folder, and was thus
        replaced."""
        known = [time for tilt in facts.tilts if (time := seconds(tilt.time)) is not None]
        if len(known) < len(facts.tilts) or not known or self.first_acquired is None or self.only_copies:
            return False
        folders = {parts(tilt.movie_folder) for tilt in facts.tilts} - {()}
        return max(known) < self.first_acquired and not folders.isdisjoint(
            parts(each.tilt.movie_folder) for each in self.exposures.values())

    @property
    def only_copies(self) -> bool:
        """Whether every one of its files is a copy of another, by name and content."""
        return bool(self.files) and all(file.facts.copy for file in self.files.values())

    def shares_with(self, facts: MdocFacts) -> bool:
        """Tell whether a file lists an exposure of this series; also if one of the two lists none, or the times cannot tell."""
        idents = [self._known_ident(_ident(tilt), tilt.angle) for tilt in facts.tilts]
        return not idents or not self.exposures or any(
            ident in known for ident in idents for known in (self.exposures, self.replaced, self.retired))

    @property
    def names_itself(self) -> bool:
        """Whether the content of one of its files agrees with the name of the series; that of a renamed copy does not."""
        return any(names_itself(file.facts) for file in self.files.values())

    def angles(self) -> list[float]:
        """Return the tilt angles in degrees, in acquisition order."""
        return [each.tilt.angle for each in self.in_order()]

    def in_order(self) -> list[Exposure]:
        """Return the exposures in acquisition order: by time, else by dose, else as listed."""
        return in_acquisition_order(list(self.exposures.values()))

    def angle_range(self) -> tuple[float, float]:
        """Return the lowest and the highest angle, degrees."""
        return self._low, self._high

    def read(self, facts: MdocFacts, time: float) -> Change:
        """Take in the content of an mdoc file of this series."""
        if facts.kind not in SERIES_KINDS:
            self.trouble[facts.path] = facts
            return Change()
        self.trouble.pop(facts.path, None)
        old = self.files.get(facts.path)
        change = Change()
        copied = {self._known_ident(_ident(tilt), tilt.angle) for tilt in facts.tilts} if facts.copy else set[Ident]()
        if copied & self.retired or (copied and self.began_after(facts)):       # a copy of what has been acquired again since
            self.retired |= copied
        if old is not None and old.facts.tilts and facts.tilts[: len(old.facts.tilts)] == old.facts.tilts:
            idents = [(self._known_ident(_ident(tilt), tilt.angle), tilt) for tilt in facts.tilts[len(old.facts.tilts):]]
            old.facts = facts
            self._list(old, idents, change, time)
        else:
            self._reread(facts, old, change, time)
        file = self.files[facts.path]
        file.gone = False
        if file.dropped and change.new and self.replace_rule:
            self._replace(file, change)
        if change.new or change.restored:
            self._follow(change, time)
        return change

    def lose(self, path: str) -> None:
        """Note that a file is gone. What it listed stays, unless the series is started over."""
        if path in self.files:
            self.files[path].gone = True

    def _reread(self, facts: MdocFacts, old: _File | None, change: Change, time: float) -> None:
        """Take in a file that is new or was rewritten."""
        idents = [(self._known_ident(_ident(tilt), tilt.angle), tilt) for tilt in facts.tilts]
        if self.reacquire_rule and self._started_over(idents, old, facts.kind == "frame", facts.copy):
            change.retired.extend(self.exposures.values())
            self.retired.update(self.exposures)
            self._forget_all()
            old = None
        file = self.files[facts.path] = _File(facts, {}, {**old.dropped, **old.listed} if old is not None else {})
        self._list(file, idents, change, time)

    def _list(self, file: _File, idents: Sequence[tuple[Ident, Tilt]], change: Change, time: float) -> None:
        for ident, tilt in idents:
            if ident in file.listed or (file.facts.copy and ident in self.retired):
                continue
            file.listed[ident] = None
            again = ident in file.dropped
            file.dropped.pop(ident, None)
            known = self.exposures.get(ident)
            if known is not None:
                known.tilt = tilt if tilt.movie is not None else replace(
                    tilt, movie=known.tilt.movie, movie_folder=known.tilt.movie_folder)
            elif ident in self.replaced and not again:
                continue
            elif ident in self.replaced:
                exposure = self.replaced.pop(ident)[0]
                self.exposures[ident] = exposure
                change.restored.append(exposure)
            else:
                key = movie_key(tilt.movie) if tilt.movie is not None else ""
                self.exposures[ident] = exposure = Exposure(ident, key, tilt, time, seconds(tilt.time), name=key)
                change.new.append(exposure)

    def _replace(self, file: _File, change: Change) -> None:
        """Find the exposures that this file no longer lists and that were taken again, at the same angle, later."""
        tolerance = self._tolerance()
        gone = [self.exposures[ident] for ident in file.dropped if ident in self.exposures]
        for later in change.new:
            for old in gone:
                in_time = old.acquired is None or later.acquired is None or old.acquired < later.acquired
                near = abs(old.tilt.angle - later.tilt.angle) <= tolerance
                if in_time and near and self.exposures.pop(old.ident, None) is not None:
                    self.replaced[old.ident] = (old, later)
                    change.replaced.append(old)

    def _tolerance(self) -> float:
        step = step_of(sorted(each.tilt.angle for each in self.exposures.values()))
        return ANGLE_TOLERANCE if step is None else min(ANGLE_TOLERANCE, 0.4 * step)

    def _started_over(self, idents: Sequence[tuple[Ident, Tilt]], old: _File | None, frame: bool, copy: bool) -> bool:
        """Tell whether a file holds another acquisition under the same name, rather than more of this one.

        It does if nothing that it lists is known, all of it is later than everything known, and no other file lists what is
        known (at the turn of a bidirectional series another does). A single repeated exposure is not one, because the others are
        still listed. A file with another name counts if those that listed what is known were removed, or are copies.
        """
        copies = self.only_copies and not copy
        if not idents or len(self.exposures) < 2 or (
                old is None and not copies and not any(file.gone for file in self.files.values())):
            return False
        times = [seconds(tilt.time) for _, tilt in idents]
        known = [each.acquired for each in self.exposures.values()]
        if any(each is None for each in times) or any(each is None for each in known):
            return False
        first_new, last_known = min(t for t in times if t is not None), max(k for k in known if k is not None)
        if any(ident in self.exposures for ident, _ in idents) or first_new <= last_known:
            return False
        if frame and old is not None and not old.gone:
            return not any(ident[1] is not None and seconds(ident[1]) == last_known for ident in old.listed)
        others = [file for file in self.files.values() if file is not old and not file.facts.copy and not file.gone]
        return not any(ident in file.listed for file in others for ident in self.exposures)

    def _forget_all(self) -> None:
        self.files = {path: replace(file, listed={}, dropped={}) for path, file in self.files.items() if file.facts.copy}
        self.exposures, self.replaced, self.rhythm = {}, {}, Rhythm()
        self.first_new, self.first_acquired, self.last_acquired = None, None, None

    def _known_ident(self, ident: Ident, angle: float) -> Ident:
        """Return the ident under which this exposure is known, if one of the two has no time or no name."""
        if ident in self.exposures:
            return ident
        if ident[0].startswith("?") and ident[1] is not None:   # a frame set of it names the movie
            return next((known for known, each in self.exposures.items() if known[1] == ident[1]
                         and abs(each.tilt.angle - angle) <= SAME_ANGLE), ident)
        if ident[1] is None:
            return next((known for known in self.exposures if known[0] == ident[0]), ident)
        if (ident[0], None) in self.exposures:
            return ident[0], None
        if not ident[0].startswith("?"):        # a movie that two files describe, each at the time at which it was written
            return next((known for known in self.exposures if known[0] == ident[0] and known[1] is not None
                         and abs((seconds(known[1]) or 0.0) - (seconds(ident[1]) or 0.0)) <= TWO_WRITERS), ident)
        return ident

    def _follow(self, change: Change, time: float) -> None:
        angles = [each.tilt.angle for each in self.exposures.values()]
        self._low, self._high = min(angles), max(angles)
        if self.first_new is None:
            self.first_new = time
            self.came_whole = len(change.new) > 2
        else:
            self.rhythm.add_burst(time - self.last_new)
            self.came_whole = False
        self._follow_times(change.new, time)
        self.last_but_one, self.last_new = self.last_new, time

    def _follow_times(self, new: Sequence[Exposure], time: float) -> None:
        """Add the gaps made by the new exposures. If one is earlier than the last known time, all gaps are computed again."""
        times = [each.acquired for each in new]
        if any(each is None for each in times):
            if self.last_new > 0.0 and len(new) == 1 and len(self.exposures) > 1:
                self.rhythm.add(time - self.last_new)
            return
        late = sorted(each for each in times if each is not None)
        if not late:
            return
        if self.last_acquired is not None and late[0] < self.last_acquired:
            late = sorted(each.acquired for each in self.exposures.values() if each.acquired is not None)
            self.rhythm = Rhythm(largest_burst=self.rhythm.largest_burst)
            self.last_acquired = None
        for each in late:
            if self.last_acquired is not None:
                self.rhythm.add(each - self.last_acquired)
            self.last_acquired = each
        self.first_acquired = late[0] if self.first_acquired is None else min(self.first_acquired, late[0])


def goes_before(series: Series, other: Series) -> bool:
    """Tell which of two series that list the same exposures keeps them: the first one; the other is a copy.

    But what is composed stays so, frame mdocs give way to a series' mdoc (theirs is the name of a movie), a file whose
    content disagrees with its name to one that bears its own, and of two files of one name the one that lists less.
    """
    for mine, its in ((bool(series.version), bool(other.version)), (not series.only_frames, not other.only_frames),
                      (not series.only_frame_sets, not other.only_frame_sets), (series.names_itself, other.names_itself)):
        if mine != its:
            return mine
    if series.name == other.name:
        return len(series.exposures) > len(other.exposures)
    return series.number < other.number


def is_twin(one: Exposure, other: Exposure) -> bool:
    """Tell whether two files list one exposure: of one name and folder on the microscope's computer, at one time and angle.

    If one of them does not name the movie, time and angle must be the same: a microscope exposes one image at a time.
    """
    if one.acquired is None or other.acquired is None or abs(one.tilt.angle - other.tilt.angle) > ANGLE_TOLERANCE:
        return False
    if not (one.name and other.name):
        return one.acquired == other.acquired and abs(one.tilt.angle - other.tilt.angle) <= SAME_ANGLE
    folders = parts(one.tilt.movie_folder), parts(other.tilt.movie_folder)
    return (one.name == other.name and abs(one.acquired - other.acquired) <= TWO_WRITERS
            and (folders[0] == folders[1] or not all(folders)))


def _ident(tilt: Tilt) -> Ident:
    return (movie_key(tilt.movie) if tilt.movie is not None else f"?{tilt.angle:.2f}"), tilt.time


def in_acquisition_order(exposures: Sequence[Exposure]) -> list[Exposure]:
    """Sort exposures by time, else by the dose before them, else by their order in one file, else as listed.

    If the clock was put back at night, the numbers in the movies' names decide: frame mdocs hold one time each.
    """
    if all(each.acquired is not None for each in exposures):
        return _by_number(exposures) or sorted(exposures, key=lambda each: each.acquired or 0.0)
    doses = [each.tilt.prior_dose.value for each in exposures]
    if all(each is not None for each in doses):
        return sorted(exposures, key=lambda each: each.tilt.prior_dose.value or 0.0)
    if len({each.tilt.order for each in exposures}) == len(exposures):
        return sorted(exposures, key=lambda each: each.tilt.order)
    return list(exposures)


def _by_number(exposures: Sequence[Exposure]) -> list[Exposure]:
    """Exposures by the numbers in their movies' names, if these show that the clock was put back; else none."""
    if not any(each.tilt.time is not None and each.tilt.time.hour in NIGHT for each in exposures):
        return []
    numbers = {parse_movie_name(each.key).order: each for each in exposures}
    if len(numbers) < len(exposures) or None in numbers:
        return []
    ordered = [numbers[number] for number in sorted(number for number in numbers if number is not None)]
    times = tuple(each.tilt.time for each in ordered)
    return ordered if with_clock_put_back(times) != times else []
