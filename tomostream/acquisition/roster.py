# SPDX-License-Identifier: GPL-3.0-or-later
"""Who owns which movie: movies as they arrive, exposures as mdocs list them, and what each exposure got. No clock, no disk.

A movie is its file. If several folders hold files of one name, `matching` decides which is whose, and again when another
file or another exposure of that name arrives: wrong assignments are undone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from tomostream.acquisition import matching
from tomostream.acquisition.agenda import Agenda
from tomostream.acquisition.candidates import wanted
from tomostream.acquisition.doubts import Doubts
from tomostream.acquisition.events import Restored, Unassigned
from tomostream.acquisition.evidence import Evidence
from tomostream.acquisition.finding import Finder
from tomostream.acquisition.listings import Listings
from tomostream.acquisition.loose import Loose, Movie
from tomostream.acquisition.matching import CHANGED_NAMES, Signature, Step
from tomostream.acquisition.naming import folder_of, movie_key, parse_movie_name
from tomostream.acquisition.series import Exposure, Series, goes_before, is_twin
from tomostream.acquisition.tilt_states import TiltStates
from tomostream.acquisition.unassigned import exposed_again
from tomostream.acquisition.verdict import called


class Roster:
    """All movies of a session, and the exposures to which they belong.

    Parameters
    ----------
    agenda, evidence : of the session.
    named : returns the series with a name.
    """

    def __init__(self, agenda: Agenda, evidence: Evidence, named: Callable[[str], Sequence[Series]]) -> None:
        self._agenda = agenda
        self._evidence = evidence
        self.named = named
        self._movies: dict[str, Movie] = {}
        self._of_name: dict[str, tuple[Movie, ...]] = {}
        self.states = TiltStates(agenda, evidence, self.movie_of)
        self.loose = Loose()
        self._listings = Listings()
        self.listed_as, self.was_listed = self._listings.listed_as, self._listings.was_listed
        self._wanting: dict[Signature, dict[int, Series]] = {}
        self._changed: dict[int, Series] = {}
        self._robbed: dict[int, Series] = {}
        self._restored: dict[str, Restored] = {}
        self._finder = Finder(self)
        self._doubts = Doubts(self._finder, self._listings)
        self.refuses = self._doubts.refuses
        self.search, self.meant, self.note_folder = self._finder.search, self._finder.meant, self._finder.note_folder

    # ------------------------------------------------------------------ movies

    def knows(self, key: str) -> bool:
        """Tell whether a movie is known, by its file or by an mdoc."""
        return key in self._movies or bool(self._listings.of_name(key))

    def movie(self, key: str, path: str = "", written: float | None = None) -> Movie:
        """Return what is known about a movie. One that is new, or whose file is, looks for its exposure."""
        movie = self._movies.get(key)
        if movie is None:
            movie = self._movies[key] = Movie(key, movie_key(path or key), path, written, self._agenda.now)
            self._join(movie)
        elif path and (path != movie.path or written not in (None, movie.written)):
            for series, exposure in list(movie.listed):
                if exposure.step in CHANGED_NAMES:      # its name was not that of its file
                    self.unbind(series, exposure)
            self.loose.remove(movie)
            self._of_name[movie.name] = tuple(each for each in self._of_name[movie.name] if each is not movie)
            movie.name, movie.path, movie.written = movie_key(path), path, written
            self._join(movie)
        return movie

    def _join(self, movie: Movie) -> None:
        """Give a file its place among those of its name."""
        self._of_name[movie.name] = (*self._of_name.get(movie.name, ()), movie)
        self._assign(movie.name)
        if not movie.listed:
            self.loose.add(movie)
            for series in self.who_wants(movie):
                self._let_go(series, movie)
                self._finder.search(series)

    def _let_go(self, series: Series, movie: Movie) -> None:
        """Take back what a tilt was given if a movie has arrived that fits better, by its folder or by its name."""
        fields, labels = parse_movie_name(movie.name), matching.labels(movie.name)
        own = None not in (fields.order, fields.angle) and matching.folded(series.name) in labels
        for each in [each for each in series.exposures.values() if each.bound and each.step in CHANGED_NAMES]:
            want = wanted(series, each)
            if own and not each.name and each.step is not Step.PLACE:
                self.unbind(series, each)
            elif ((not each.name or matching.change(each.step, want, movie.found.path) is not None)
                    and matching.agreement(want, movie.folder) > matching.agreement(want, self._movies[each.key].folder)):
                self.unbind(series, each)

    def of_name(self, name: str) -> Sequence[Movie]:
        """Return the movies whose files have a name."""
        return self._of_name.get(name, ())

    def movie_of(self, exposure: Exposure) -> Movie:
        """Return the movie of an exposure that has one."""
        return self._movies[exposure.key]

    def who_wants(self, movie: Movie) -> list[Series]:
        """Return the series that lack a movie and may mean this one."""
        found: dict[int, Series] = {}
        for signature in movie.signatures if self._wanting else ():
            found.update(self._wanting.get(signature, {}))
        return list(found.values())

    def see(self, key: str, path: str = "", written: float | None = None) -> None:
        """Note that the import reported a movie."""
        self.states.see(self.movie(key, path, written))

    def none_arrived(self, series: Series) -> bool:
        """Tell whether no movie of a series was seen, and no unlisted one can be one of its own under another name."""
        return (not any(each.bound for each in series.exposures.values())
                and 2 * sum(not self._why_unlisted(movie).expected and not self._doubts.of_another_day(series, movie)
                            for movie in self.loose.all()) < len(series.exposures))

    def all_listed(self) -> bool:
        """Tell whether every movie is in a series."""
        return not self.loose

    def unlisted(self, still: float) -> dict[str, Unassigned]:
        """Return the movies that no file has listed for `still` seconds, and why."""
        return {each.key: self._why_unlisted(each) for each in self.loose.all() if self._agenda.now - each.since >= still}

    def _why_unlisted(self, movie: Movie) -> Unassigned:
        """Say why no mdoc lists a movie: its name tells whether another exposure in its folder is used in its place."""
        name = parse_movie_name(movie.name)
        for series in self.named(name.series) if name.angle is not None else []:
            for each in series.exposures.values():
                if parse_movie_name(each.name or each.key).angle == name.angle and (
                        not each.bound or self._movies[each.key].folder == movie.folder) and each.name != movie.name:
                    return exposed_again(each.key)
        if len(self.of_name(movie.name)) > 1:
            return Unassigned("No mdoc lists it: another folder has a movie of this name, which is used.")
        return Unassigned("No mdoc lists it.")

    def take_changed(self) -> list[Series]:
        """Return the series that got or lost movies without a new mdoc being read. What was lost is looked for again."""
        robbed, self._robbed = self._robbed, {}
        for series in robbed.values():
            if series.missing:
                self._finder.search(series)
        changed, self._changed = self._changed, {}
        return list(changed.values())

    # ------------------------------------------------------------------ what was registered before a restart

    def restore(self, restored: Restored) -> None:
        """Note that these movies belong to a series that is registered."""
        for movie in restored.movies:
            self._restored[movie_key(movie)] = restored

    def adopted(self, restored: Restored) -> None:
        """Note that the series was recognised, and owns its movies itself."""
        for movie in restored.movies:
            self._restored.pop(movie_key(movie), None)

    # ------------------------------------------------------------------ exposures

    def enlist(self, series: Series, exposure: Exposure) -> None:
        """Connect an exposure, listed for the first time or again, with its movie."""
        self._listings.note_time(series, exposure)
        if exposure.bound:
            self._claim(series, exposure, self._movies[exposure.key])
        elif not exposure.name:
            self.states.set(series, exposure, "missing")
        else:
            self._finder.note_folder(exposure.tilt.movie_folder)
            self._doubts.note(series, exposure)
            self._listings.note_name(series, exposure)
            self.states.wait(series, exposure)
            self._assign(exposure.name)
            for other, twin in self._listings.of_name(exposure.name) if not exposure.bound else ():
                if twin.bound and twin.step in CHANGED_NAMES and self._list_the_same(series, exposure, other, twin, twin.key):
                    self.bind(series, exposure, self._movies[twin.key], twin.step)
                    break
        if not exposure.bound:
            self._want(series, exposure)
        self._see_twins(series, exposure)
        self._changed.pop(id(series), None)

    def dismiss(self, series: Series, exposure: Exposure) -> None:
        """Remove an exposure from a series to which it does not belong after all."""
        if exposure.bound:
            self.unbind(series, exposure)
        for each in (series.exposures, series.missing):
            each.pop(exposure.ident, None)
        self._listings.remove(exposure)

    def _twins(self, series: Series, exposure: Exposure) -> list[tuple[Series, Exposure]]:
        """Return this exposure as files of other series list it, whether or not its movie is there."""
        return [(other, each) for other, each in self._listings.alike(exposure)
                if other is not series and each.ident in other.exposures]

    def _see_twins(self, series: Series, exposure: Exposure) -> None:
        """Give an exposure that several files list to one series, whether or not its movie is there."""
        for other, each in self._twins(series, exposure) if self._evidence.on("taken") else ():
            if exposure.owner is None and each.owner is not series:
                self._one_owner(series, exposure, other, each)

    def _want(self, series: Series, exposure: Exposure) -> None:
        """Note that a tilt lacks its movie, which is looked for among those that arrive."""
        for signature in matching.wanted_signatures(wanted(series, exposure)):
            self._wanting.setdefault(signature, {})[id(series)] = series

    def _assign(self, name: str) -> None:
        """Assign their movies to the exposures of one name."""
        movies = self.of_name(name)
        if not movies:
            return
        live = [(series, each) for series, each in self._listings.of_name(name)
                if each.ident in series.exposures and each.owner is None]
        kept = [next((place for place, movie in enumerate(movies) if each.bound and movie.key == each.key), None)
                for _, each in live]
        means = [wanted(series, each) for series, each in live]
        given = matching.assign(means, [each.found for each in movies], kept,
                                lambda want, movie: self._finder.is_of_another(want, folder_of(movie.path)))
        given = [None if choice is not None and self._doubts.refuses_name(*each, movies[choice[0]]) else choice
                 for each, choice in zip(live, given, strict=True)]
        for (series, exposure), choice in zip(live, given, strict=True):
            if choice is None and exposure.bound and exposure.step not in CHANGED_NAMES:
                self.unbind(series, exposure)
        for (series, exposure), choice in zip(live, given, strict=True):
            if choice is not None:
                self.bind(series, exposure, movies[choice[0]], choice[1])

    def reconsider(self, series: Series) -> None:
        """Take away from a series, before it is decided, the movies that are by now known not to be its own."""
        for each in self._doubts.reconsider(series, self.movie_of):
            self.unbind(series, each)

    def bind(self, series: Series, exposure: Exposure, movie: Movie, step: Step) -> None:
        exposure.step = step
        if exposure.bound and exposure.key == movie.key:
            return
        if exposure.bound:
            self.unbind(series, exposure)
        if step not in CHANGED_NAMES:
            for other, each in list(movie.listed):
                if each.step in CHANGED_NAMES:      # the name alone was not enough: now its owner is known
                    self.unbind(other, each)
        exposure.key, exposure.bound, exposure.step = movie.key, True, step
        self._doubts.give(series, exposure, movie)
        self._changed[id(series)] = series
        self._claim(series, exposure, movie)
        for other, twin in self._listings.of_name(exposure.name) if step in CHANGED_NAMES and exposure.name else ():
            if not twin.bound and twin.ident in other.exposures and self._list_the_same(series, exposure, other, twin, movie.key):
                self.bind(other, twin, movie, step)

    def _list_the_same(self, series: Series, exposure: Exposure, other: Series, each: Exposure, key: str) -> bool:
        """Tell whether two files list one exposure, whose movie was found, so that one is a copy of the other."""
        folder = self._movies[key].folder
        fits = [matching.agreement(wanted(*one), folder)[:2] for one in ((series, exposure), (other, each))]
        return bool(folder) and each.ident == exposure.ident and fits[0] == fits[1]

    def unbind(self, series: Series, exposure: Exposure) -> None:
        """Take its movie away from an exposure to which it does not belong after all."""
        movie = self._movies[exposure.key]
        movie.listed = [(other, each) for other, each in movie.listed if each is not exposure]
        exposure.key, exposure.bound, exposure.step = exposure.name, False, Step.EXACT
        exposure.version, exposure.min_version, exposure.owner = 0, 1, None
        if not exposure.name:
            exposure.tilt = replace(exposure.tilt, movie=None)
        if series.composed.pop(exposure.ident, None) is not None:
            series.why_again.append(f"{movie.key} belongs to another tilt")
            series.wrong_since = self._agenda.now if series.wrong_since is None else series.wrong_since
        self._changed[id(series)] = series
        if exposure.state != "excluded":
            self.states.wait(series, exposure)
        for other, each in [(other, each) for other, each in movie.listed if each.owner is series and is_twin(exposure, each)]:
            self.unbind(other, each)
        if exposure.ident in series.exposures:
            self._see_twins(series, exposure)
        self._want(series, exposure)
        self._robbed[id(series)] = series
        if not movie.listed:
            self.loose.add(movie)
        for other, each in movie.listed:
            if each.state == "taken" and each.ident in other.exposures and each.owner in (None, series):
                each.owner = None
                self.states.match(other, each, movie)
                self._changed[id(other)] = other

    def _claim(self, series: Series, exposure: Exposure, movie: Movie) -> None:
        """Handle an exposure that got its movie: see whether another has it too, and what has become of it."""
        exposure.movie_seen = self.states.is_seen(movie)
        self.loose.remove(movie)
        if exposure.key in series.registered:       # after a restart: a registered movie is composed already
            series.composed[exposure.ident] = series.registered.pop(exposure.key)
        others = [(other, each) for other, each in movie.listed if each is not exposure]
        movie.listed = [*others, (series, exposure)]
        for other, each in others:
            self._share(series, exposure, other, each, movie)
        owner = self._restored.get(exposure.key)
        if owner is not None and self._evidence.on("taken") and _same_folder(owner, series):
            self.states.set(series, exposure, "taken", f"It is already registered in the series {owner.series_name}.")
        if exposure.state in ("missing", "failed"):
            self.states.match(series, exposure, movie)
        self.states.exclude_chosen(series, exposure)

    def _share(self, series: Series, exposure: Exposure, other: Series, each: Exposure, movie: Movie) -> None:
        """Decide between two exposures that name one movie. The same exposure belongs to the first series; a later one takes it.

        The images of a later exposure are in a later version of the movie than those of the earlier one.
        """
        if exposure.acquired is not None and each.acquired is not None and not is_twin(exposure, each):
            old_series, old = (other, each) if each.acquired < exposure.acquired else (series, exposure)
            if old is each:
                exposure.min_version = max(exposure.min_version, movie.version + 1)
            if old.ident in old_series.exposures and old.ident not in old_series.composed and old.owner is None:
                self.states.set(old_series, old, "taken", f"The name of its movie, {old.key}, was used again later.")
        elif self._evidence.on("taken") and other is not series and each.ident in other.exposures:
            self._one_owner(series, exposure, other, each)

    def _one_owner(self, series: Series, exposure: Exposure, other: Series, each: Exposure) -> None:
        """Give an exposure that two series list to the one that has the others that both list, or comes first."""
        if any(one.owner is series for one in other.exposures.values()):
            self._take(series, other, each)
        elif goes_before(series, other) and not any(one.owner is other for one in series.exposures.values()):
            self._take(series, other, each)
        else:
            self._take(other, series, exposure)

    def _take(self, owner: Series, series: Series, exposure: Exposure) -> None:
        """Give an exposure that two series list to the other one."""
        exposure.owner = owner
        self.states.set(series, exposure, "taken", f"It belongs to the series {called(owner, series)}, which lists it too.")
        if series.is_copy:
            self._agenda.schedule(series, self._agenda.now)

    def take_over(self, series: Series) -> None:
        """Make a file that lists more than the one of which it was a copy the original. All that both list belongs to one."""
        for owner in {id(each.owner): each.owner for each in series.exposures.values()}.values():
            if owner is None:
                continue
            each_of_other = any(each.owner is series for each in owner.exposures.values())
            if goes_before(series, owner) or (each_of_other and not goes_before(owner, series) and series.number < owner.number):
                self._move(owner, series)
            elif each_of_other:
                self._move(series, owner)

    def _move(self, loser: Series, winner: Series) -> None:
        """Move what a series holds, and another one lists too, to the other."""
        for exposure in [each for each in winner.exposures.values() if each.owner is loser]:
            listed = self._movies[exposure.key].listed if exposure.bound else self._twins(winner, exposure)
            twins = [each for other, each in listed if other is loser and each.ident in loser.exposures]
            exposure.owner = None
            self.states.wait(winner, exposure)
            for each in twins:
                self._take(winner, loser, each)
                if each.bound and not exposure.bound:
                    self.bind(winner, exposure, self._movies[each.key], each.step)
            if exposure.bound:
                self.states.match(winner, exposure, self._movies[exposure.key])
            else:
                self._want(winner, exposure)
            winner.given_up = ""
            self._changed[id(winner)] = winner

    def release(self, series: Series) -> None:
        """Free the movies of a series that turned out not to be one; what it had of others is theirs again."""
        for exposure in list(series.exposures.values()):
            twins = [(other, each) for other, each in self._twins(series, exposure) if each.owner is series]
            self._listings.remove_name(series, exposure.name)
            if exposure.bound:
                self.unbind(series, exposure)
            for other, each in twins:
                each.owner = None
                if not each.bound:
                    self.states.wait(other, each)
                    self._assign(exposure.name)
                    self._want(other, each)
                    self._changed[id(other)] = other
        for wanting in self._wanting.values():
            wanting.pop(id(series), None)
        for changed in (self._changed, self._robbed):
            changed.pop(id(series), None)


def _same_folder(restored: Restored, series: Series) -> bool:
    return not restored.mdocs or any(os.path.dirname(path) == series.folder for path in restored.mdocs)
