# SPDX-License-Identifier: GPL-3.0-or-later
"""Which movies with the right name are not taken for a tilt, and the reason that people read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tomostream.acquisition import matching
from tomostream.acquisition.candidates import wanted
from tomostream.acquisition.finding import Finder
from tomostream.acquisition.homes import WHY_FOREIGN, Homes, Kin, beside_named
from tomostream.acquisition.listings import Listings
from tomostream.acquisition.loose import Movie
from tomostream.acquisition.series import Exposure, Series

#: Seconds.
DAY = 86400.0


class Doubts:
    """Compares each movie with the others of its series. See `homes`.

    Parameters
    ----------
    finder, listings : of the roster.
    """

    def __init__(self, finder: Finder, listings: Listings) -> None:
        self._finder = finder
        self._listings = listings
        self._homes = Homes()

    def note(self, series: Series, exposure: Exposure) -> None:
        """Note that an mdoc lists an exposure."""
        self._homes.note(wanted(series, exposure))

    def give(self, series: Series, exposure: Exposure, movie: Movie) -> None:
        """Note that an exposure got a movie."""
        exposure.refused = ""
        if exposure.name:
            self._homes.give(wanted(series, exposure), movie.found)

    def refuses(self, series: Series, exposure: Exposure, movie: Movie) -> bool:
        """Tell whether a movie is not that of a tilt, and note why, for people."""
        sisters = self._finder.homes(series, exposure.tilt.movie_folder, exposure)
        kin = (Kin.ELSEWHERE if beside_named(series.name, sisters, movie.folder)
               else self._homes.judge(wanted(series, exposure), movie.found))
        return self._refuse(exposure, movie, kin)

    def refuses_name(self, series: Series, exposure: Exposure, movie: Movie) -> bool:
        """As `refuses`, for a movie with exactly the right name."""
        if self._strays(series, exposure, movie):
            return self._refuse(exposure, movie, Kin.ELSEWHERE)
        return self.refuses(series, exposure, movie)

    @staticmethod
    def _refuse(exposure: Exposure, movie: Movie, kin: Kin) -> bool:
        if kin.foreign:
            exposure.refused = f"{movie.found.path} is not taken for it, because {WHY_FOREIGN[kin]}"
        return kin.foreign

    def _strays(self, series: Series, exposure: Exposure, movie: Movie) -> bool:
        """Tell whether a movie with the right name is in the folder of other movies, if the name occurs in several folders.

        Then its series has its own movies elsewhere, or mdocs give the name in several folders.
        """
        want = wanted(series, exposure)
        homes = self._finder.homes(series, exposure.tilt.movie_folder, exposure)
        fits = [matching.same_end(want.folder, folder) for folder in homes]
        if fits and min(fits) > matching.same_end(want.folder, movie.folder):
            return True
        if not self._finder.is_of_another(want, movie.folder):
            return False
        folders = {each.tilt.movie_folder for _, each in self._listings.of_name(exposure.name)}
        return len(folders) > 1 or (bool(homes) and movie.folder not in homes)

    def of_another_day(self, series: Series, movie: Movie) -> bool:
        """Tell whether a movie was written a day or more after a series: whatever its name, it does not belong to it."""
        return self._homes.is_later(series.last_acquired, movie.found, DAY)

    def reconsider(self, series: Series, movie_of: Callable[[Exposure], Movie]) -> list[Exposure]:
        """Return the exposures of a series whose movie is by now known not to be theirs, before the series is decided.

        Note those in a folder other than most, if it is unclear whether they are.
        """
        bound = [(each, movie_of(each)) for each in series.exposures.values() if each.bound and each.name]
        foreign = [each for each, movie in bound if self.refuses(series, each, movie)]
        left = [(each, movie) for each, movie in bound if each not in foreign]
        folders = Counter(movie.folder for _, movie in left)
        series.apart = tuple(
            each.key for each, movie in (left if len(folders) > 1 else ()) if 2 * folders[movie.folder] < len(left)
            and self._homes.judge(wanted(series, each), movie.found) is Kin.UNKNOWN)
        return foreign
