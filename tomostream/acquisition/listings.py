# SPDX-License-Identifier: GPL-3.0-or-later
"""What the mdoc files of a session list: exposures, by the name of their movie and by when they were acquired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tomostream.acquisition.facts import Tilt
from tomostream.acquisition.naming import movie_key
from tomostream.acquisition.series import Exposure, Series, is_twin, seconds

Listed = tuple[Series, Exposure]


class Listings:
    """Exposures with their series, as files list them, or once did."""

    def __init__(self) -> None:
        self._by_name: dict[str, tuple[Listed, ...]] = {}
        #: By the second of their acquisition: those without and those with the name of a movie.
        self._nameless: dict[int, tuple[Listed, ...]] = {}
        self._named: dict[int, tuple[Listed, ...]] = {}

    def note_time(self, series: Series, exposure: Exposure) -> None:
        """Note when an exposure was acquired, if known."""
        if exposure.acquired is not None:
            listed = self._named if exposure.name else self._nameless
            second = round(exposure.acquired)
            listed[second] = (*listed.get(second, ()), (series, exposure))

    def note_name(self, series: Series, exposure: Exposure) -> None:
        """Note the name of the movie of an exposure."""
        listed = self.of_name(exposure.name)
        if not any(each is exposure for _, each in listed):
            self._by_name[exposure.name] = (*listed, (series, exposure))

    def of_name(self, name: str) -> tuple[Listed, ...]:
        """Return the exposures whose movie has this name."""
        return self._by_name.get(name, ())

    def remove(self, exposure: Exposure) -> None:
        """Forget an exposure."""
        self._keep(self._by_name, exposure.name, [one for one in self.of_name(exposure.name) if one[1] is not exposure])
        for listed in (self._nameless, self._named):
            listed.update({second: tuple(one for one in there if one[1] is not exposure) for second, there in listed.items()
                           if any(one[1] is exposure for one in there)})

    def remove_name(self, series: Series, name: str) -> None:
        """Forget the exposures of a series whose movie has this name."""
        self._keep(self._by_name, name, [one for one in self.of_name(name) if one[0] is not series])

    @staticmethod
    def _keep(names: dict[str, tuple[Listed, ...]], name: str, left: Sequence[Listed]) -> None:
        if left:
            names[name] = tuple(left)
        else:
            names.pop(name, None)

    def alike(self, exposure: Exposure) -> Iterator[Listed]:
        """Yield what files say, or once said, about the same exposure."""
        alike = list(self.of_name(exposure.name)) if exposure.name else []
        second = None if exposure.acquired is None else round(exposure.acquired)
        for listed in (self._nameless, self._named) if not exposure.name else (self._nameless,):
            alike += listed.get(second, ()) if second is not None else ()
        yield from ((series, each) for series, each in alike if is_twin(exposure, each))

    def listed_as(self, tilt: Tilt) -> Iterator[Listed]:
        """Yield each series of which a file lists this exposure, or once did, and what it is there."""
        name = movie_key(tilt.movie or "")
        return self.alike(Exposure((name, tilt.time), "", tilt, 0.0, seconds(tilt.time), name=name))

    def was_listed(self, tilt: Tilt) -> bool:
        """Tell whether a file of a series lists this exposure, or once did; it may have been exposed again since."""
        return any(True for _ in self.listed_as(tilt))
