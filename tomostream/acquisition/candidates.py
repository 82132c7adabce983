# SPDX-License-Identifier: GPL-3.0-or-later
"""Which unassigned movies may belong to a series, judging by the folders that they are in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tomostream.acquisition import matching
from tomostream.acquisition.loose import Movie
from tomostream.acquisition.matching import Wanted
from tomostream.acquisition.series import Exposure, Series


def wanted(series: Series, exposure: Exposure) -> Wanted:
    """Return what is known about the movie of an exposure."""
    tilt = exposure.tilt
    return Wanted(tilt.movie or "" if exposure.name else "", tilt.movie_folder, series.folder, series.name, tilt.angle,
                  exposure.acquired)


def by_folder(exposures: Sequence[Exposure]) -> list[list[Exposure]]:
    """Group exposures by the folder that the mdoc names."""
    found: dict[str, list[Exposure]] = {}
    for each in exposures:
        found.setdefault(each.tilt.movie_folder, []).append(each)
    return list(found.values())


def at_home(want: Wanted, homes: set[str], like: Sequence[Movie]) -> list[Movie]:
    """Leave out movies in folders other than those of the tilts that have theirs: movies written together stay together.

    Parameters
    ----------
    want : one of the tilts that lack a movie; all name one folder.
    homes : the folders of the movies of the other tilts that name this folder.
    like : movies whose names may be meant.
    """
    folders = {movie.folder for movie in like}
    if not folders:
        return []
    fits = {folder: matching.agreement(want, folder) for folder in {*folders, *homes}}
    best = max(fits[folder] for folder in folders)
    if any(fits[folder] >= best for folder in homes):
        return [movie for movie in like if movie.folder in homes]
    counts = Counter(movie.folder for movie in like if fits[movie.folder] == best)
    return [movie for movie in like if movie.folder == counts.most_common(1)[0][0]]


def nearest_folder(series: Series, folders: Mapping[str, list[Movie]], homes: set[str], same: Sequence[Series]) -> list[Movie]:
    """Of the movies that bear the name of a series, return those in its own folder; none if it is unclear which that is.

    Parameters
    ----------
    series : whose mdoc names no movies.
    folders : the unassigned movies that bear its name, by folder.
    homes : the folders of the movies that it has.
    same : all series with its name.
    """
    fits = {folder: nearness(series, folder) for folder in folders}
    folders = {folder: movies for folder, movies in folders.items()
               if all(nearness(each, folder) <= fits[folder] for each in same if not each.is_copy)}
    if len(folders) < 2:
        return next(iter(folders.values()), [])
    if len(homes) == 1:
        return folders.get(next(iter(homes)), [])
    fits = {folder: fits[folder] for folder in folders}
    best = {folder: movies for folder, movies in folders.items() if fits[folder] == max(fits.values())}
    if len(best) == 1:
        return next(iter(best.values()))
    folder = _by_time(series, best, same)
    return [] if folder is None else best[folder]


def nearness(series: Series, folder: str) -> tuple[int, int, int, int, int]:
    """Return how close a folder is to the mdoc of a series; see `matching.agreement`."""
    return matching.agreement(Wanted("", "", series.folder, series.name, 0.0), folder)


def _by_time(series: Series, folders: Mapping[str, Sequence[Movie]], same: Sequence[Series]) -> str | None:
    """Pair series of one name with folders in order of time, if there is one folder for each."""
    lacking = [each for each in same if each.first_acquired is not None
               and any(not one.bound and not one.name for one in each.missing.values())]
    if len(lacking) != len(folders) or any(movie.written is None for each in folders.values() for movie in each):
        return None
    lacking.sort(key=lambda each: each.first_acquired or 0.0)
    ordered = sorted(folders, key=lambda folder: min(movie.written or 0.0 for movie in folders[folder]))
    return ordered[lacking.index(series)] if series in lacking else None
