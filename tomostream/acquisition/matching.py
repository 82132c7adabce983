# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of the movies present is the one that an mdoc means. Pure: names, folders and times in, pairs out.

A movie is its path: two folders can hold the same names. If a name alone does not tell, the folder of SubFramePath decides,
then the mdoc's own folder, then times. If no movie has the name, names that a transfer changed are tried in steps, each only
if it is unambiguous for the whole series.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from tomostream.acquisition.naming import (
    ANGLE_TOLERANCE,
    basename,
    folder_of,
    movie_key,
    parse_movie_name,
    target_name,
    undated,
)


class Step(str, Enum):
    """How a movie was found, from the surest to the least sure."""

    EXACT = "exact"
    FOLDER = "folder"
    TIME = "time"
    EXTENSION = "extension"
    FOLDED = "folded"
    ANGLE = "angle"
    PREFIX = "prefix"
    PLACE = "place"
    HOME = "home"


#: What people read about movies found by a step; "" if there is nothing to report.
WORDS = {
    Step.EXACT: "",
    Step.FOLDER: "several folders hold movies of these names; the folder in SubFramePath and that of the mdoc decided",
    Step.TIME: "several movies have these names; the times decided",
    Step.EXTENSION: "the extension differs from that in SubFramePath",
    Step.FOLDED: "the names differ from SubFramePath in case, accents, blanks or brackets",
    Step.ANGLE: "the names differ from SubFramePath in how the angle is rounded",
    Step.PREFIX: "the names have a prefix that SubFramePath does not have",
    Step.PLACE: "the names give series, order and angle",
    Step.HOME: "their folder bears the name of the series, and their names give order and angle",
}

#: The steps for names that a transfer changed, in order, and all steps that find movies without the exact name.
SEARCHED = (Step.FOLDED, Step.ANGLE, Step.PREFIX, Step.PLACE)
CHANGED_NAMES = (*SEARCHED, Step.HOME)
#: Steps that can be right for one tilt of a series whose other tilts were found by their exact names.
FOR_SINGLE_TILTS = (Step.FOLDED, Step.ANGLE)
#: By how many degrees the angle in the name of a movie may differ from the tilt's.
MAX_ANGLE_DIFFERENCE = 1.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an mdoc says about the movie of a tilt.

    `name` is the basename in SubFramePath ("" if there is none), `folder` its folder as written there, `mdoc_folder`
    and `series` those of the mdoc; `angle` in degrees, `time` of the exposure in seconds.
    """

    name: str
    folder: str
    mdoc_folder: str
    series: str
    angle: float
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A movie that is present: its path, or its name if the path is unknown; when it was written, in seconds."""

    path: str
    written: float | None = None


@lru_cache(maxsize=4096)
def parts(folder: str) -> tuple[str, ...]:
    """Return the parts of a folder in any notation, folded, without the drive.

    Examples
    --------
    >>> parts("X:\\\\Session\\\\Grid1/frames")
    ('session', 'grid1', 'frames')
    """
    words = (unicodedata.normalize("NFC", word).casefold() for word in re.split(r"[\\/]+", folder))
    return tuple(word for word in words if word and word != "." and not word.endswith(":"))


def agreement(wanted: Wanted, folder: str) -> tuple[int, int, int, int, int]:
    """Tell how well a folder fits what an mdoc says: larger is better, earlier numbers take precedence.

    How many of its last parts are those of SubFramePath's folder; how many parts it shares with SubFramePath, the mdoc's folder
    and the name of the series; how many of its first parts are those of the mdoc's folder; how few of its parts are in neither;
    how few parts of the mdoc's folder it lacks.
    """
    there, written, own = parts(folder), parts(wanted.folder), parts(wanted.mdoc_folder)
    known = {*written, *own, wanted.series.casefold()}
    shared = len(known.intersection(there))
    return (common(there[::-1], written[::-1]), shared, common(there, own), shared - len(set(there)),
            -len(set(own).difference(there)))


@lru_cache(maxsize=4096)
def same_end(written: str, folder: str) -> int:
    """Return how many of the last parts two folders share."""
    return common(parts(folder)[::-1], parts(written)[::-1])


def common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many of the first parts two folders share."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def fit(wanted: Wanted, found: Found) -> tuple[int, int, int, int, int, int]:
    """Tell how well a movie with the right name fits: by its folder, then by whether its name is exactly the same."""
    return (*agreement(wanted, folder_of(found.path)), int(basename(found.path) == wanted.name))


def assign(wanted: Sequence[Wanted], found: Sequence[Found], kept: Sequence[int | None],
           strays: Callable[[Wanted, Found], bool] = lambda _wanted, _found: False) -> list[tuple[int, Step] | None]:
    """Assign to tilts that name one basename the movies that have it.

    Parameters
    ----------
    wanted : tilts of any series, with one basename.
    found : movies with this basename.
    kept : for each tilt, the movie that it has now.
    strays : whether a movie is in the folder of other movies than a tilt's: of two that fit equally, the other one is taken.

    Returns
    -------
    For each tilt, its movie and how it was found; None if it has none, or it is unclear which. Two tilts share a movie
    only if it is the only one and fits both equally: then the name was reused, or two files list one exposure.
    """
    if not found:
        return [None] * len(wanted)
    chosen = [_best(one, found, mine, strays) for one, mine in zip(wanted, kept, strict=True)]
    for movie in range(len(found)):
        claims = [place for place, each in enumerate(chosen) if each is not None and each[0] == movie]
        fits = {place: agreement(wanted[place], folder_of(found[movie].path))[:2] for place in claims}
        for place in claims:
            if fits[place] != max(fits.values()) and not _same_time(wanted, claims):
                chosen[place] = None
    return _by_time(wanted, found, chosen) if len(found) > 1 else chosen


def _best(wanted: Wanted, found: Sequence[Found], kept: int | None,
          strays: Callable[[Wanted, Found], bool]) -> tuple[int, Step] | None:
    if len(found) == 1:
        return 0, _how(wanted, found[0])
    fits = [fit(wanted, each) for each in found]
    top = max(fits)
    best = [place for place, each in enumerate(fits) if each == top]
    if len(best) > 1:
        best = [place for place in best if not strays(wanted, found[place])] or best
    if len(best) == 1:
        same_folder = {folder_of(each.path) for each in found}
        return best[0], Step.FOLDER if len(same_folder) > 1 else _how(wanted, found[best[0]])
    return (kept, Step.TIME) if kept in best else None


def _same_time(wanted: Sequence[Wanted], places: Sequence[int]) -> bool:
    return len({wanted[place].time for place in places}) == 1


def _by_time(wanted: Sequence[Wanted], found: Sequence[Found],
             chosen: list[tuple[int, Step] | None]) -> list[tuple[int, Step] | None]:
    """Pair what folders leave open in order of time, if as many movies are left as tilts."""
    sure = {each[0] for each in chosen if each is not None and each[1] is not Step.TIME}
    tilts = [place for place, each in enumerate(chosen) if each is None or each[1] is Step.TIME]
    movies = [place for place in range(len(found)) if place not in sure]
    times = [wanted[place].time for place in tilts]
    if len(tilts) != len(movies) or None in times or len(set(times)) < len(times) or any(
            found[place].written is None for place in movies):
        return chosen
    tilts.sort(key=lambda place: wanted[place].time or 0.0)
    movies.sort(key=lambda place: found[place].written or 0.0)
    if any(agreement(wanted[tilt], folder_of(found[movie].path)) < max(
            agreement(wanted[tilt], folder_of(found[other].path)) for other in movies)
            for tilt, movie in zip(tilts, movies, strict=True)):
        return chosen           # folders disagree
    for tilt, movie in zip(tilts, movies, strict=True):
        chosen[tilt] = (movie, Step.TIME)
    return chosen


def _how(wanted: Wanted, found: Found) -> Step:
    """Tell how the only movie with a name fits it: with its extension, or without."""
    mine, its = basename(wanted.name).rsplit(".", 1)[-1].lower(), basename(found.path).rsplit(".", 1)[-1].lower()
    known = movie_key(wanted.name) != wanted.name.replace(" ", "_") and movie_key(found.path) != basename(
        found.path).replace(" ", "_")
    return Step.EXTENSION if known and mine != its else Step.EXACT


# ---------------------------------------------------------------------------------------------- names that were changed
_ANGLE = re.compile(r"(?<![0-9.])[+-]?[0-9]{1,2}\.[0-9]+(?![0-9.])")


@lru_cache(maxsize=4096)
def folded(name: str) -> str:
    """Return a name without what a transfer changes: case, accents composed or not or in a code page, blanks, brackets.

    Examples
    --------
    >>> folded("Café 1[-12.00]_Fractions.tiff"), folded("Cafe\\u0301_1_-12.00__fractions")
    ('caf_1_-12.00_fractions', 'caf_1_-12.00_fractions')
    """
    text = unicodedata.normalize("NFC", movie_key(name)).casefold()
    return re.sub(r"[^a-z0-9.+-]+", "_", text).strip("_")


@lru_cache(maxsize=4096)
def without_angle(name: str) -> tuple[str, float | None]:
    """Return a folded name with a mark in place of its angle, and the angle in degrees."""
    text = folded(name)
    found = list(_ANGLE.finditer(text))
    if not found:
        return text, None
    last = found[-1]
    return f"{text[: last.start()]}@{text[last.end():]}", float(last[0])


def change(step: Step, wanted: Wanted, path: str) -> str | None:
    """Return what this step says was changed in the name of a movie; None if the movie is not the one by this step.

    It must be the same for all tilts of a series.
    """
    name = basename(path)
    fields = parse_movie_name(name)
    if fields.angle is not None and abs(fields.angle - wanted.angle) > MAX_ANGLE_DIFFERENCE:
        return None
    if step is Step.FOLDED:
        return "" if wanted.name and folded(name) == folded(wanted.name) else None
    if step is Step.ANGLE:
        (mine, angle), (its, other) = without_angle(wanted.name), without_angle(name)
        same = angle is not None and other is not None and abs(angle - other) <= ANGLE_TOLERANCE
        return "" if same and mine == its else None
    if step is Step.PREFIX:
        mine, text = folded(wanted.name), folded(name)
        before = text.removesuffix(mine) if mine and text.endswith(mine) else ""
        return before if before.endswith(("_", "-", ".")) else None
    return _place(wanted, name)


def _place(wanted: Wanted, name: str) -> str | None:
    """Return series, order and angle; the order must be that in SubFramePath's name."""
    mine, its = parse_movie_name(wanted.name), parse_movie_name(name)
    if None in (mine.order, its.order, its.angle) or mine.order != its.order:
        return None
    if abs((its.angle or 0.0) - wanted.angle) > ANGLE_TOLERANCE:
        return None
    series = folded(wanted.series)
    return folded(undated(its.series)) if series in map(folded, (its.series, undated(its.series), target_name(name))) else None


#: Keys by which a search looks up movies, so that its cost does not grow with their number.
Signature = tuple[str, str, int, int]


@lru_cache(maxsize=4096)
def signatures(path: str) -> frozenset[Signature]:
    """Return the keys by which a movie can be found: each ending of its name, the name without its angle, place and folder."""
    file = basename(path)
    text, fields = folded(file), parse_movie_name(file)
    found: set[Signature] = {("ending", ending, 0, 0) for ending in _endings(text)}
    found.update((("angle", without_angle(file)[0], 0, 0), ("folder", folded(basename(folder_of(path))), 0, 0)))
    for series in labels(file):
        found.add(("series", series, 0, 0))
        found.update(("tail", ending, 0, 0) for ending in _endings(series)[1:])
        if fields.order is not None and fields.angle is not None:
            found.add(("place", series, fields.order, round(fields.angle)))
    return frozenset(found)


def _endings(text: str) -> list[str]:
    """Return the part of a folded name from each of its words on."""
    return [text[begin:] for begin in (0, *(found.end() for found in re.finditer("[_.-]+", text)))]


def labels(file: str) -> dict[str, str]:
    """Return what the name of a movie may say about its series: folded, and as written."""
    series = parse_movie_name(file).series
    return {folded(each): each for each in (target_name(file), undated(series), series)}


def wanted_signatures(wanted: Wanted) -> frozenset[Signature]:
    """Return what movies that may be meant have in `signatures`."""
    if not wanted.name:
        return frozenset((kind, folded(wanted.series), 0, 0) for kind in ("series", "tail", "folder"))
    found: set[Signature] = {("ending", folded(wanted.name), 0, 0), ("angle", without_angle(wanted.name)[0], 0, 0)}
    order = parse_movie_name(wanted.name).order
    if order is not None:
        found.update(("place", folded(wanted.series), order, round(wanted.angle) + step) for step in (-1, 0, 1))
    return frozenset(found)


@dataclass(frozen=True)
class Search:
    """The result of a search: the pairs (tilt, movie) and the step; or `ambiguous`, the movies among which nothing decides."""

    step: Step | None = None
    pairs: Mapping[int, int] | None = None
    ambiguous: tuple[int, ...] = ()


def search(wanted: Sequence[Wanted], found: Sequence[Found], steps: Iterable[Step] = SEARCHED, before: int = 0) -> Search:
    """Find the movies of tilts of one series for which none has the exact name.

    Parameters
    ----------
    wanted : tilts of one series, without a movie.
    found : unassigned movies.
    steps : to be tried, in order.
    before : how many tilts of the series have already been found by the same steps.

    Returns
    -------
    Search. A step counts only if each tilt has at most one movie by it, each movie is that of one tilt, and the same was
    changed in all names.
    """
    unsure: tuple[int, ...] = ()
    for step in steps:
        found_by = {tilt: _candidates(step, one, found) for tilt, one in enumerate(wanted)}
        found_by = {tilt: each for tilt, each in found_by.items() if each}
        if not found_by:
            continue
        movies = [movie for each in found_by.values() for movie, _ in each]
        changes = {what for each in found_by.values() for _, what in each}
        alone = all(len(each) == 1 for each in found_by.values()) and len(set(movies)) == len(movies) and len(changes) == 1
        if not alone:
            unsure = unsure or tuple(sorted(set(movies)))
            continue
        if step in (Step.PREFIX, Step.PLACE) and len(movies) + before < 2:
            continue
        return Search(step, {tilt: each[0][0] for tilt, each in found_by.items()})
    return Search(ambiguous=unsure)


def _candidates(step: Step, wanted: Wanted, found: Sequence[Found]) -> list[tuple[int, str]]:
    """Return the movies that may be meant by a step, with what was changed: of several, those whose folder fits best."""
    all_of_them = [(movie, what) for movie, each in enumerate(found) if (what := change(step, wanted, each.path)) is not None]
    if len(all_of_them) < 2:
        return all_of_them
    best = max(agreement(wanted, folder_of(found[movie].path)) for movie, _ in all_of_them)
    return [(movie, what) for movie, what in all_of_them if agreement(wanted, folder_of(found[movie].path)) == best]
