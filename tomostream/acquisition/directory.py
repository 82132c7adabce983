# SPDX-License-Identifier: GPL-3.0-or-later
"""Which mdoc belongs to which series: by its name and folder, by its frames, and by what is already registered."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import count as counter

from tomostream.acquisition.agenda import Agenda
from tomostream.acquisition.continuation import why_another
from tomostream.acquisition.events import Restored
from tomostream.acquisition.evidence import Evidence
from tomostream.acquisition.facts import FRAME_SET, MdocFacts
from tomostream.acquisition.frames import Targets
from tomostream.acquisition.matching import parts
from tomostream.acquisition.naming import SeriesIds, movie_key, series_name
from tomostream.acquisition.roster import Roster
from tomostream.acquisition.series import SERIES_KINDS, Series, seconds


class Directory:
    """The series of a session, by the path of an mdoc, by name and folder, by identifier."""

    def __init__(self, agenda: Agenda, evidence: Evidence) -> None:
        self.roster = Roster(agenda, evidence, self.named)
        self._agenda = agenda
        self._evidence = evidence
        self._ids = SeriesIds(evidence.policy.prefix)
        self._elsewhere: dict[tuple[str, str], Series] = {}
        self._numbers = counter()
        self._series: dict[tuple[str, str], Series] = {}
        self._by_path: dict[str, Series] = {}
        self._by_name: dict[str, list[Series]] = {}
        self._restored: dict[str, list[Restored]] = {}
        self._targets: dict[tuple[str, str], Targets] = {}
        self._held: dict[str, MdocFacts] = {}
        self._settled: set[str] = set()
        self._series_have_mdocs = False

    @property
    def series(self) -> Iterable[Series]:
        """All series, in order of arrival."""
        return self._series.values()

    def named(self, name: str) -> Sequence[Series]:
        """Return the series with a name, in any folder."""
        return self._by_name.get(name, [])

    def with_id(self, series_id: str) -> Series | None:
        """Return the series with an identifier."""
        return next((each for each in self._series.values() if each.series_id == series_id), None)

    def knows_file(self, path: str) -> bool:
        """Tell whether a file, or one of its frame sets, has been read into a series or is held back."""
        return path in self._by_path or path in self._held or path in self._settled

    def hold(self, facts: MdocFacts) -> bool:
        """Hold back a frame set of the whole session if series have mdocs of their own: what these list is theirs.

        After a restart these have yet to be read. The first mdoc of a series takes back what was made from frame sets before it,
        unless that is composed.
        """
        if FRAME_SET in facts.path:
            path = facts.path.partition(FRAME_SET)[0]
            others = self._series_have_mdocs or any(path not in each.mdocs for same in self._restored.values() for each in same)
            if others:
                self._held[facts.path] = facts
                self.roster.note_folder(facts.tilts[0].movie_folder)
            return others
        if not self._series_have_mdocs and facts.kind in SERIES_KINDS and facts.tilts:
            self._series_have_mdocs = True
            for series in [each for each in self._series.values() if each.only_frame_sets and not each.version]:
                self._held.update((path, file.facts) for path, file in series.files.items())
                self._take_back(series)
            self._targets = {place: targets.without(self._held) for place, targets in self._targets.items()}
        return False

    def held_movies(self) -> dict[str, str]:
        """Return the files of frame sets that are held back and that no mdoc of a series lists, by their movies."""
        listed = [path for path, facts in self._held.items() if self.roster.was_listed(facts.tilts[0])]
        self._settled.update(listed)
        for path in listed:
            del self._held[path]
        return {movie: facts.path.partition(FRAME_SET)[0] for facts in self._held.values()
                for movie in self.roster.meant(facts.frame_series, os.path.dirname(facts.path), facts.tilts[0])}

    def take_held(self) -> list[MdocFacts]:
        """Return the frame sets that were held back and that no mdoc of a series lists, to be read after all."""
        held, self._held = self._held, {}
        return [facts for facts in held.values() if not self.roster.was_listed(facts.tilts[0]) and not self._is_replaced(facts)]

    def _is_replaced(self, frame: MdocFacts) -> bool:
        """Tell whether a frame set is of an exposure, or of a whole acquisition, that the mdoc of its series has replaced."""
        tilt = frame.tilts[0]
        time, folder = seconds(tilt.time), parts(tilt.movie_folder)
        return time is not None and any(
            series.last_acquired is not None and time < series.last_acquired and not series.only_frames
            and any(parts(each.tilt.movie_folder) == folder for each in series.exposures.values())
            for series in self.named(frame.frame_series))

    def lose(self, path: str) -> None:
        """Note that a file is gone, with its frame sets."""
        for each in (path, *(known for known in self._by_path if known.startswith(f"{path}{FRAME_SET}"))):
            if each in self._by_path:
                self._by_path[each].lose(each)

    def restore(self, event: Restored) -> None:
        """Note that this series is already registered."""
        same = self._restored.setdefault(event.series_name, [])
        older = next((each for each in same if each.series_id == event.series_id), None)
        if older is not None:
            if older.version >= event.version:
                return
            same.remove(older)
        same.append(event)
        self.roster.restore(event)
        folder = os.path.dirname(event.mdocs[0]) if event.mdocs else event.series_id
        try:
            self._ids.restore(event.series_name, event.series_id, folder)
        except ValueError:      # two acquisitions with one name: the identifier is not given to another
            self._ids.restore(event.series_name, event.series_id, event.series_id)

    def series_of(self, facts: MdocFacts) -> Series:
        """Return the series to which an mdoc belongs. Equal names are told apart by folder. `regroup` comes first."""
        name, folder = _name_and_folder(facts)
        known = self._placed(facts)
        if known is not None:
            return known
        self._leave(facts.path)
        targets = self._targets.get((folder, name)) if facts.kind == "frame" and facts.tilts else None
        if targets is not None:
            name = targets.name_of(facts)
        series = self._series.get((folder, name))
        if series is not None and facts.copy and not series.shares_with(facts) and not series.began_after(facts):
            name = series_name(facts.path)          # what it is a copy of is not what has this name here
            series = self._series.get((folder, name))
        if series is None:
            series = (self._take_over(name, folder, facts) or self._continued(name, folder, facts)
                      or self._new_series(name, folder, facts))
        elif facts.kind == "frame" and not series.version and self._restored.get(name):
            self._continue_from(series, facts)
        self._by_path[facts.path] = series
        return series

    def _continue_from(self, series: Series, frame: MdocFacts) -> None:
        """Continue from what a series is registered as, if this frame tells; earlier frames, which it lacks, could not."""
        restored = self._restored_for(series.name, frame)
        if restored is not None:
            self._ids.release(series.series_id)
            series.series_id = restored.series_id
            self._adopt(series, restored)

    def _take_over(self, name: str, folder: str, facts: MdocFacts) -> Series | None:
        """Return the series that was composed from frame sets before this mdoc arrived; from now on it is what the mdoc says.

        It keeps the identifier under which it is registered.
        """
        if facts.kind != "tilt-series" or facts.copy:
            return None
        listed = {id(each): (series, each) for tilt in facts.tilts for series, each in self.roster.listed_as(tilt)
                  if series.only_frame_sets and series.version}
        counts = Counter(series for series, _ in listed.values())
        series, count = counts.most_common(1)[0] if counts else (None, 0)
        if series is None or (2 * count < len(series.exposures) and count < len(facts.tilts)):
            return None
        self._hold_back(series)
        series.notes.append(f"it was composed as {series.series_id} from frame sets before {os.path.basename(facts.path)} came")
        last = max((time for tilt in facts.tilts if (time := seconds(tilt.time)) is not None), default=math.inf)
        for each in list(series.exposures.values()):
            if id(each) not in listed and (each.acquired is None or each.acquired <= last):
                self.roster.dismiss(series, each)
        self._rename(series, name, folder)
        return series

    def _hold_back(self, series: Series) -> None:
        """Use the frame sets of a series only as evidence about movies: it has, or will have, an mdoc."""
        self._held.update((path, file.facts) for path, file in series.files.items())
        self._by_path = {path: each for path, each in self._by_path.items() if each is not series}
        self._targets = {place: targets.without(self._held) for place, targets in self._targets.items()}
        series.files.clear()

    def _rename(self, series: Series, name: str, folder: str) -> None:
        self._series = {place: each for place, each in self._series.items() if each is not series}
        self._by_name[series.name].remove(series)
        series.name, series.folder = name, folder
        self._series[folder, name] = series
        self._by_name.setdefault(name, []).append(series)
        self._ids.release(series.series_id)
        self._ids.restore(name, series.series_id, folder)

    def _continued(self, name: str, folder: str, facts: MdocFacts) -> Series | None:
        """Return the series of this name in another folder that a session continues here; None if there is none."""
        series = self._elsewhere.get((folder, name))
        if series is not None or facts.kind != "tilt-series" or facts.copy:
            return series
        for other in reversed(self.named(name)):
            if not why_another(other, facts):
                other.notes.append(f"{facts.path} continues the series in {other.folder}: later, at angles that were "
                                   "missing, on the same specimen")
                self._elsewhere[folder, name] = other
                return other
        return None

    def regroup(self, facts: MdocFacts) -> list[MdocFacts]:
        """Note a frame mdoc; return those read earlier that turn out to belong to other series, to be read again.

        Frames of one name may continue through several series, which `frames` tells apart. Series that were wrong are taken back,
        unless they are composed.
        """
        if facts.kind != "frame" or not facts.tilts or self._placed(facts) is not None:
            return []
        name, folder = _name_and_folder(facts)
        targets = self._targets.setdefault((folder, name), Targets(name))
        if not targets.add(facts):
            return []
        frames = [each for each in targets.frames if each.path != facts.path]
        for series in {id(each): each for each in map(self._by_path.get, (one.path for one in frames)) if each}.values():
            if series.version == 0:
                self._take_back(series)
        return [frame for frame in frames if frame.path not in self._by_path]

    def _placed(self, facts: MdocFacts) -> Series | None:
        """Return the series that a file is known to belong to; None if it must be found (again)."""
        known = self._by_path.get(facts.path)
        name, _ = _name_and_folder(facts)
        if known is not None and facts.tilts and not known.exposures and len(self.named(name)) > 1:
            return None             # only now is it clear whether it continues another of its name
        if known is not None and (known.name == name or facts.kind not in SERIES_KINDS
                                  or (facts.kind == "frame" and known.files and known.name.startswith(f"{name}_"))):
            return known
        return None

    def _leave(self, path: str) -> None:
        """Undo what a file was taken for while it could not be read; a series with nothing else is not one."""
        known = self._by_path.get(path)
        if known is not None:
            known.trouble.pop(path, None)
            if not known.exposures and known.files.keys() <= {path} and not known.trouble and known.version == 0:
                self._take_back(known)

    def _take_back(self, series: Series) -> None:
        """Forget a series of frames that is not one; its movies and its identifier are free again."""
        self.roster.release(series)
        self._ids.release(series.series_id)
        self._by_path = {path: each for path, each in self._by_path.items() if each is not series}
        self._series = {place: each for place, each in self._series.items() if each is not series}
        self._by_name[series.name].remove(series)
        series.reason = "What it was made of belongs to other series."
        self._agenda.enter(series, "ignored")
        self._evidence.forget(series)

    def _new_series(self, name: str, folder: str, facts: MdocFacts) -> Series:
        restored = self._restored_for(name, facts)
        if restored is not None:
            series_id = restored.series_id
        else:
            series_id = self._ids.id_for(name, folder)
        now = self._agenda.now
        series = Series(name, folder, series_id, now, changed=now, last_new=now,
                        replace_rule=self._evidence.on("replaced"), reacquire_rule=self._evidence.on("reacquired"),
                        number=next(self._numbers))
        others = self.named(name)
        if others and facts.kind == "tilt-series" and not facts.copy:
            series.notes.append(f"it is not the {name} in {others[-1].folder}: {why_another(others[-1], facts)}")
        self._series[folder, name] = series
        self._by_name.setdefault(name, []).append(series)
        self._agenda.enter(series, "acquiring")
        if restored is not None:
            self._adopt(series, restored)
        return series

    def _restored_for(self, name: str, facts: MdocFacts) -> Restored | None:
        """Find what was registered before the restart under the name of an mdoc, by its path, else by its movies.

        The name alone is enough if nothing contradicts it: nothing was composed, or nothing is listed yet.
        """
        same_name = self._restored.get(name, [])
        copy = bool(facts.tilts) and all(map(self.roster.was_listed, facts.tilts))
        meant = [keys for tilt in facts.tilts if (keys := self.roster.meant(name, os.path.dirname(facts.path), tilt))]
        tests: tuple[Callable[[Restored], bool], ...] = (
            lambda each: facts.path in each.mdocs,
            lambda each: not copy and any(keys <= {movie_key(movie) for movie in each.movies} for keys in meant),
            lambda each: not copy and not each.mdocs and (not each.movies or not meant))
        found = next((each for test in tests for each in same_name if test(each)), None)
        if found is None and not copy and facts.kind == "tilt-series":
            found = self._of_frame_sets({key for keys in meant if len(keys) == 1 for key in keys})
        if found is not None:
            self._restored[found.series_name].remove(found)
            self.roster.adopted(found)
        return found

    def _of_frame_sets(self, keys: set[str]) -> Restored | None:
        """Find what was registered, under any name, from frame sets that are held back now and consist mostly of these movies."""
        held = {path.partition(FRAME_SET)[0] for path in self._held}
        return next((each for same in self._restored.values() for each in same if held and held.issuperset(each.mdocs)
                     and 2 * len(keys.intersection(map(movie_key, each.movies))) > len(each.movies)), None)

    def _adopt(self, series: Series, restored: Restored) -> None:
        """Let a series continue from what is registered of it."""
        versions = restored.micrograph_versions or (0,) * len(restored.movies)
        series.registered = {movie_key(movie): version for movie, version
                             in zip(restored.movies, versions, strict=False)}
        series.version = restored.version
        series.reason = series.composed_reason = restored.reason or "Decided before the restart."
        if restored.movies:
            self._agenda.enter(series, "composed")
        else:
            series.given_up = "restored"
            self._agenda.enter(series, "failed" if restored.failed else "ignored")


def _name_and_folder(facts: MdocFacts) -> tuple[str, str]:
    """Return the name and the folder of the series according to an mdoc."""
    name = (facts.frame_series if facts.kind == "frame" else "") or facts.series_name or series_name(facts.path)
    path, frame_set, _ = facts.path.partition(FRAME_SET)
    return name, path if frame_set else os.path.dirname(path)
