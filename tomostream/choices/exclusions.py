# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tilts people took out of which series, and why: a small file in the folder of the compose run.

`tomostream exclude`, the page and the window in Scipion write it; the compose protocol reads it when it changes, and composes
only the series concerned again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from tomostream.acquisition.events import Why
from tomostream.acquisition.naming import movie_key
from tomostream.files import locks
from tomostream.files.writing import write_text
from tomostream.journal.composed import ComposedSeries, Tilt, read_series
from tomostream.journal.layout import EXCLUDED

NAME = EXCLUDED
#: The version of the format.
FORMAT = 1
#: Series -> movie key -> why (may be "").
Choice = dict[str, dict[str, str]]


def read(path: str) -> Choice:
    """Return what is left out.

    Raises
    ------
    ValueError : the file is invalid, perhaps edited by hand; names it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        return {str(series): {str(movie): str(why) for movie, why in movies.items()} for series, movies in data["series"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): fix or remove it") from error


def write(path: str, excluded: Mapping[str, Mapping[str, str]]) -> None:
    """Write the file, complete or not at all."""
    chosen = {series: dict(sorted(movies.items())) for series, movies in sorted(excluded.items())}
    write_text(path, json.dumps({"format": FORMAT, "series": chosen}, indent=1))


def read_choice(project: str, series_id: str) -> ComposedSeries:
    """Return a composed series with the state of every tilt according to the file: whether it is excluded, and why.

    Raises
    ------
    NoSeries, ValueError : there is none, or the file cannot be read.
    """
    series = read_series(project, series_id)
    out = read(os.path.join(series.folder, NAME)).get(series_id, {})
    return replace(series, tilts=tuple(
        replace(tilt, state="excluded", reason=out[tilt.movie]) if tilt.movie in out
        else replace(tilt, reason="put back, not composed yet") if tilt.section is None and _by_person(tilt) else tilt
        for tilt in series.tilts))


def _by_person(tilt: Tilt) -> bool:
    return tilt.why is Why.TAKEN_OUT


def choose(words: Iterable[str], series: ComposedSeries) -> frozenset[str]:
    """Return the movies for words that are acquisition orders or names of movies.

    Raises
    ------
    ValueError : a word is neither; says what there is.
    """
    names = {tilt.movie for tilt in series.tilts}
    by_order = {str(tilt.order): tilt.movie for tilt in series.tilts if tilt.order is not None}
    chosen = set()
    for word in words:
        movie = by_order.get(word) or (movie_key(word) if movie_key(word) in names else None)
        if movie is None:
            raise ValueError(f"'{word}' is not one of its tilts: write an acquisition order (1 to {len(names)}) or a movie name")
        chosen.add(movie)
    return frozenset(chosen)


def change(series: ComposedSeries, words: Sequence[str], reason: str = "", back: bool = False) -> int:
    """Take tilts (see `choose`; without words all) out of a series, or put them back; see `apply`.

    Raises
    ------
    ValueError : as `choose` and `apply`.
    """
    chosen = choose(words, series) if words else frozenset(tilt.movie for tilt in series.tilts)
    return apply(series, {} if back else dict.fromkeys(chosen, reason), chosen if back else ())


def apply(series: ComposedSeries, out: Mapping[str, str] | None = None, back: Iterable[str] = ()) -> int:
    """Take tilts out of a series (movie -> why), or put them back; returns how many tilts it will then have.

    Raises
    ------
    ValueError : fewer than three would be left (nothing is written), or the file cannot be read or written.
    """
    path = os.path.join(series.folder, NAME)
    try:
        with locks.writing(path):       # somebody else may be writing a choice for another series
            return _apply(path, series, out or {}, frozenset(back))
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {(error.strerror or str(error)).lower()}") from error


def _apply(path: str, series: ComposedSeries, out: Mapping[str, str], back: frozenset[str]) -> int:
    """Read, change and write the file; see `apply`."""
    excluded = read(path)
    mine = {movie: why for movie, why in excluded.get(series.series_id, {}).items() if movie not in back}
    mine |= {movie: " ".join(why.split()) for movie, why in out.items()}
    left = [tilt for tilt in series.tilts if tilt.movie not in mine and (tilt.state != "missing" or _by_person(tilt))]
    if len(left) < 3:
        raise ValueError(f"only {len(left)} of the tilts of {series.series_id} would be left: at least three are needed to "
                         "align a series")
    excluded[series.series_id] = mine
    write(path, excluded)
    return len(left)


class Exclusions:
    """Follows the file: `changes` yields each series whose choice has changed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._stamp: tuple[int, int] | None = None
        self._known: Choice = {}

    def changes(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield series with the movies to leave out now, and why. A file that cannot be read changes nothing and is retried."""
        try:
            status = os.stat(self.path)
        except OSError:
            return
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp == self._stamp:
            return
        try:
            wanted = read(self.path)
        except ValueError:
            return
        self._stamp = stamp         # from before the reading: what is written meanwhile changes it
        for series in sorted(wanted.keys() | self._known.keys()):
            movies = wanted.get(series, {})
            if movies.keys() != self._known.get(series, {}).keys():
                yield series, movies
        self._known = wanted
