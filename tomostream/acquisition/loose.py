# SPDX-License-Identifier: GPL-3.0-or-later
"""The movies that belong to no series, found by what their names say, however many there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tomostream.acquisition.matching import Found, Signature, folded, signatures
from tomostream.acquisition.naming import folder_of
from tomostream.acquisition.series import Exposure, Series


@dataclass(eq=False, slots=True)
class Movie:
    """What is known about a movie: its file, version of its micrograph (0: none), or why it failed; and who lists it.

    `key` is its name in the project, unique to it; `name` is that of its file (`movie_key`), which may occur in another folder
    too; `written` is when the file was last written, in seconds.
    """

    key: str
    name: str
    path: str = ""
    written: float | None = None
    since: float = 0.0
    version: int = 0
    failed: str = ""
    seen: bool = False
    listed: list[tuple[Series, Exposure]] = field(default_factory=list)

    @property
    def found(self) -> Found:
        """The movie as `matching` takes it."""
        return Found(self.path or self.key, self.written)

    @property
    def signatures(self) -> frozenset[Signature]:
        """The keys by which a search finds it."""
        return signatures(self.path or self.key)

    @property
    def folder(self) -> str:
        """Its folder; "" if unknown."""
        return folder_of(self.path)


class Loose:
    """Movies without a series.

    The keys of a search are computed when somebody searches: most movies are in their series before that, and when a long
    session is continued they would be larger than everything else that is kept about its movies.
    """

    def __init__(self) -> None:
        self._movies: dict[str, Movie] = {}
        self._not_indexed: dict[str, Movie] = {}
        self._by_signature: dict[Signature, dict[str, Movie]] = {}

    def __len__(self) -> int:
        return len(self._movies)

    def __contains__(self, movie: Movie) -> bool:
        return movie.key in self._movies

    def all(self) -> Iterable[Movie]:
        """Return all of them, in order of arrival."""
        return list(self._movies.values())

    def add(self, movie: Movie) -> None:
        """Note that a movie is in no series."""
        self._movies[movie.key] = self._not_indexed[movie.key] = movie

    def remove(self, movie: Movie) -> None:
        """Note that a movie is in a series."""
        if self._movies.pop(movie.key, None) is not None and self._not_indexed.pop(movie.key, None) is None:
            for signature in movie.signatures:
                alike = self._by_signature[signature]
                alike.pop(movie.key)
                if not alike:
                    del self._by_signature[signature]       # else a long session keeps five empty ones for every movie

    def _index(self) -> Mapping[Signature, Mapping[str, Movie]]:
        """Return the movies by the keys of a search."""
        for movie in self._not_indexed.values():
            for signature in movie.signatures:
                self._by_signature.setdefault(signature, {})[movie.key] = movie
        self._not_indexed.clear()
        return self._by_signature

    def like(self, signatures: Iterable[Signature]) -> list[Movie]:
        """Return the movies that have one of these signatures."""
        found: dict[str, Movie] = {}
        index = self._index()
        for signature in signatures:
            found.update(index.get(signature, {}))
        return list(found.values())

    def of_series(self, name: str, how: str = "series") -> dict[str, list[Movie]]:
        """Return the movies whose names begin with that of a series, by folder.

        `how` "tail": those with something before it; "folder": those in a folder of that name.
        """
        folders: dict[str, list[Movie]] = {}
        for movie in self._index().get((how, folded(name), 0, 0), {}).values():
            folders.setdefault(movie.folder, []).append(movie)
        return folders
