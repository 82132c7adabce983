# SPDX-License-Identifier: GPL-3.0-or-later
"""Names: the key of a movie, the name of a series, its identifier in Scipion, and what movie names say about a tilt."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from tomostream.acquisition.facts import Tilt

#: Extensions of movie files. Only these are removed: names are full of dots (`TS_01_-12.0.tif`).
MOVIE_EXTENSIONS = (".eer", ".tif", ".tiff", ".mrc", ".mrcs")

#: Extensions of the file of a series before `.mdoc`.
_STACK_EXTENSIONS = (*MOVIE_EXTENSIONS, ".st", ".idoc", ".mdoc")

#: Left by SerialEM (half1 at the turn of a bidirectional series, unsorted after a dose-symmetric one), PACEtomo
#: (_unsorted) and Tomo5 (_override). They are other states of the same series.
_SERIES_SUFFIXES = ("-half1", "-unsorted", "_unsorted", "_override")

#: NAME_ORDER_ANGLE[_anything]: the angle always has decimals (SerialEM one, Tomo5 two), so that `_2_0116` is not one. Some
#: versions of Tomo5 write it in brackets: `Position_1_001[-12.00]_EER.eer`.
_ORDER_ANGLE = re.compile(r"(?P<series>.*[^_])_(?P<order>[0-9]{1,6})(?:_(?P<angle>[+-]?[0-9]{1,2}[.,][0-9]+)(?:_.*)?|"
                          r"_?\[(?P<bracketed>[+-]?[0-9]{1,2}[.,][0-9]+)\](?:[_-].*)?)", re.ASCII | re.DOTALL)
#: Newer PACEtomo: NAME_tilt_ORDER_angle_ANGLE.
_PACETOMO = re.compile(r"(?P<series>.+)_tilt_(?P<order>[0-9]{1,6})_angle_(?P<angle>[+-]?[0-9]{1,2}[.,][0-9]+)(?:_.*)?",
                       re.ASCII | re.DOTALL)
#: SerialEM can put the date and time of the exposure into a name, usually at the front; they are not part of the series' name.
_DATE = re.compile(r"(?:\A|_)(?P<day>[0-9]{8}|[0-9]{4}-[0-9]{2}-[0-9]{2}|[A-Z][a-z]{2}[0-9]{2})[_-]"
                   r"(?P<time>[0-9]{6}|[0-9]{2}[.-][0-9]{2}[.-][0-9]{2})(?=_|\Z)", re.ASCII)
_ANGLE_ONLY = re.compile(r"(?P<series>.*[^_])_(?P<angle>[+-]?[0-9]{1,2}[.,][0-9]+)", re.ASCII | re.DOTALL)
_ORDER_ONLY = re.compile(r"(?P<series>.*[^_-])[_-](?P<order>[0-9]{1,6})", re.ASCII | re.DOTALL)

_VALID_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_MAX_ID = 64

#: How far the nominal angle in a name may be from the angle read back from the stage, degrees.
ANGLE_TOLERANCE = 0.5


@lru_cache(maxsize=4096)
def basename(path: str) -> str:
    """Return the last part of a path written by any instrument: Windows, UNC or POSIX, whatever system this is."""
    last = path.strip().replace("\\", "/").rsplit("/", 1)[-1]
    if len(last) > 2 and last[1] == ":" and last[0].isascii() and last[0].isalpha():
        last = last[2:]
    return last.strip()


@lru_cache(maxsize=4096)
def folder_of(path: str) -> str:
    """Return the folder of a path written by any instrument, as it was written; "" if there is none."""
    name = basename(path)
    return path.rstrip()[: -len(name)].rstrip("\\/") if name else path


def _cut(name: str, endings: Sequence[str]) -> str:
    """Remove known endings from `name` until none is left, whatever their case, but never the whole name."""
    shorter = name
    while True:
        low = shorter.lower()
        ending = next((end for end in endings if low.endswith(end) and len(low) > len(end)), None)
        if ending is None:
            return shorter
        shorter = shorter[: -len(ending)]


@lru_cache(maxsize=4096)
def movie_key(name: str) -> str:
    """Return what a movie, its micrograph and the mdoc's SubFramePath share: the basename without movie extensions.

    Blanks become underscores, as in the names of Scipion's movies.
    """
    return sys.intern(_cut(basename(name), MOVIE_EXTENSIONS).replace(" ", "_"))        # movies and exposures keep one, not four


def series_name(path: str | os.PathLike[str]) -> str:
    """Return the name of the series that an mdoc (or a stack) describes, the same for all states of its file.

    `X.mrc.mdoc`, `X.mrc-half1.mdoc`, `X_unsorted.mrc.mdoc` and `X_override.mdoc` are all X.
    """
    text = os.fsdecode(path).encode("utf-8", "replace").decode("utf-8")     # Scipion stores nothing else
    return _cut(basename(text), (*_STACK_EXTENSIONS, *_SERIES_SUFFIXES))


@dataclass(frozen=True, slots=True)
class MovieName:
    """What the name of a movie says: its series, its number there (as counted by the instrument), its nominal angle."""

    series: str
    order: int | None
    angle: float | None


@lru_cache(maxsize=4096)
def parse_movie_name(name: str) -> MovieName:
    """Read series, order and nominal angle (degrees) from a movie's name, as far as they are in it."""
    key = movie_key(name)
    if (found := _PACETOMO.fullmatch(key)) is not None:
        return MovieName(found["series"], int(found["order"]), _angle(found["angle"]))
    if (found := _ORDER_ANGLE.fullmatch(key)) is not None:
        return MovieName(found["series"], int(found["order"]), _angle(found["angle"] or found["bracketed"]))
    if (date := _DATE.fullmatch(key)) is not None:
        return MovieName(date["day"], int(re.sub("[.-]", "", date["time"])), None)
    rest = _DATE.sub("", key).lstrip("_")
    if rest and rest != key:
        found = _ANGLE_ONLY.fullmatch(rest)
        fields = parse_movie_name(rest)
        return fields if found is None or fields.angle is not None else MovieName(found["series"], None, _angle(found["angle"]))
    found = _ORDER_ONLY.fullmatch(key)
    if found is not None:
        return MovieName(found["series"], int(found["order"]), None)
    return MovieName(key, None, None)


def undated(series: str) -> str:
    """Return what a movie's name says about its series, without the date and time of the exposure, different in every name.

    Examples
    --------
    >>> undated("Jan15_09.30.00_TS_01"), undated("20260115_TS_01")
    ('TS_01', '20260115_TS_01')
    """
    return _DATE.sub("", series).strip("_-") or series


def _angle(text: str) -> float:
    """Read an angle in a name, whose decimal point can be a comma."""
    return float(text.replace(",", "."))


def target_name(name: str) -> str:
    """Return what a movie's name has before its angle: the name of the series if the number there counts targets.

    Examples
    --------
    >>> target_name("lam_ts_001_-3.0.tif")
    'lam_ts_001'
    """
    key = movie_key(name)
    found = _ORDER_ANGLE.fullmatch(key)
    return key if found is None else key[: found.end("order")]


def match_movies(tilts: Sequence[Tilt], available_names: Iterable[str], series: str = "") -> tuple[Tilt, ...]:
    """Assign to tilts without a movie the one movie whose name can only mean them.

    A movie is a candidate if its name contains the name of the series and the tilt's nominal angle within
    `ANGLE_TOLERANCE`. Of several, the one with the tilt's order number is taken, but only if the numbers of the other
    movies, later ones included, are those of their tilts: a counter also counts repeated exposures. What is
    not unique stays unknown, and if the numbers contradict the order of the tilts, nothing is matched.

    Parameters
    ----------
    tilts : of one series, in acquisition order.
    available_names : names or paths of movies, of any series.
    series : name of the series. Without it, all movies must carry the same series name.

    Returns
    -------
    tuple of Tilt, the same tilts in the same order; `movie` is filled where it was None and the match is unique.
    """
    taken = {movie_key(tilt.movie) for tilt in tilts if tilt.movie is not None}
    names = sorted({basename(name) for name in available_names if movie_key(name) not in taken})
    parsed = {name: parse_movie_name(name) for name in names}
    wanted = series.replace(" ", "_") if series else _only_series(parsed.values())      # as in `movie_key`
    candidates = {name: fields for name, fields in parsed.items()
                  if wanted in (fields.series, undated(fields.series)) and fields.angle is not None}
    counted = bool(candidates)
    if not counted:         # the number before the angle counts targets: it is part of the series' name
        candidates = {name: replace(fields, order=None) for name, fields in parsed.items()
                      if fields.angle is not None and fields.order is not None and target_name(name) == wanted}
    near = {index: _near(tilt, candidates) for index, tilt in enumerate(tilts) if tilt.movie is None}
    found = {index: names[0] for index, names in near.items() if len(names) == 1}
    numbered = [index for index, name in found.items() if candidates[name].order == tilts[index].order]
    for index, several in near.items():
        same = [name for name in several if candidates[name].order == tilts[index].order]
        if len(several) > 1 and len(same) == 1 and len(numbered) == len(found) and max(numbered, default=-1) > index:
            found = {**found, index: same[0]}
            numbered.append(index)
    orders = [candidates[found[index]].order for index in sorted(found)]
    in_order = all(a is not None and b is not None and a < b for a, b in pairwise(orders))
    if len(set(found.values())) != len(found) or (counted and not in_order):
        return tuple(tilts)
    return tuple(replace(tilt, movie=found.get(index, tilt.movie)) for index, tilt in enumerate(tilts))


def _only_series(names: Iterable[MovieName]) -> str | None:
    series = {name.series for name in names if name.angle is not None}
    return series.pop() if len(series) == 1 else None


def _near(tilt: Tilt, candidates: dict[str, MovieName]) -> list[str]:
    return [name for name, fields in candidates.items()
            if fields.angle is not None and abs(fields.angle - tilt.angle) <= ANGLE_TOLERANCE]


def folder_that_differs(path: str, other: str) -> str:
    """Return the first folder of a path in which it differs from another path, in a form that can be part of a name.

    Examples
    --------
    >>> folder_that_differs("/d/grid 2/frames/a.tif", "/d/grid1/frames/a.tif")
    'grid_2'
    """
    mine, its = (each.split(os.sep)[:-1] for each in (path, other))
    for place, folder in enumerate(mine):
        if place >= len(its) or folder != its[place]:
            return folder.replace(" ", "_")
    return mine[-1].replace(" ", "_") if mine else ""


class SeriesIds:
    """Valid, stable, unique Scipion identifiers (tsId) for names of series; the original names are kept.

    An identifier names SQLite tables and files: a letter or underscore first, then letters, digits and underscores; it
    does not end in an underscore, because Scipion gives `A` and `A_` the same table; no two differ only in case,
    because SQLite ignores case. A name that is already valid is its own identifier. Any other has a hash of the
    original name appended, so that its identifier does not depend on which name came first. Only for names that
    differ only in case, and for one name in two folders, the order of arrival decides; `restore` preserves it. If a name is in
    two folders, the second is prefixed with the folder that differs: `grid2_TS_01`; if that is taken, more: `night2_grid2_TS_01`.

    Parameters
    ----------
    prefix : prepended to every name.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._ids: dict[tuple[str, str], str] = {}
        self._owners: dict[str, tuple[str, str]] = {}

    def id_for(self, name: str, folder: str = "") -> str:
        """Return the identifier of the series `name` (in `folder`, if one name may be in several)."""
        key = (folder, name)
        if key not in self._ids:
            self._take(key, self._choose(name, folder))
        return self._ids[key]

    def restore(self, name: str, series_id: str, folder: str = "") -> None:
        """Restore the identifier that `name` had before the restart.

        Raises
        ------
        ValueError : if the identifier belongs to another name, or the name has another identifier.
        """
        key = (folder, name)
        owner = self._owners.get(series_id.casefold())
        if owner not in (None, key) or self._ids.get(key, series_id) != series_id:
            raise ValueError(f"Series '{name}' cannot be restored as '{series_id}': "
                             f"that belongs to '{owner[1] if owner else self._ids[key]}'.")
        self._take(key, series_id)

    def release(self, series_id: str) -> None:
        """Free the identifier of a series that turned out not to be one."""
        owner = self._owners.pop(series_id.casefold(), None)
        if owner is not None:
            self._ids.pop(owner, None)

    def name_of(self, series_id: str) -> str | None:
        """Return the original name for an identifier; None if it was never given."""
        owner = self._owners.get(series_id.casefold())
        return None if owner is None else owner[1]

    def _take(self, key: tuple[str, str], series_id: str) -> None:
        self._ids[key] = series_id
        self._owners[series_id.casefold()] = key

    def _choose(self, name: str, folder: str) -> str:
        wanted = valid_id(f"{self._prefix}{name}")
        words: list[str] = []
        while (owner := self._owners.get(wanted.casefold())) is not None and folder and owner[0] != folder:
            differs = re.sub(r"[^A-Za-z0-9]+", "_", folder_that_differs(f"{folder}/{name}", f"{owner[0]}/{name}")).strip("_")
            if not differs or differs in words:
                break
            words.append(differs)
            wanted = valid_id("_".join([*words, f"{self._prefix}{name}"]))
        series_id, count = wanted, 2
        while series_id.casefold() in self._owners:
            series_id, count = f"{wanted[: _MAX_ID - 8].rstrip('_')}_{count}", count + 1
        return series_id


def valid_id(name: str) -> str:
    """Return `name` if it is a valid Scipion tsId, else one made from it and its hash."""
    reserved = name.casefold().startswith("sqlite_")
    if _VALID_ID.fullmatch(name) and not name.endswith("_") and len(name) <= _MAX_ID and not reserved:
        return name
    stem = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    if not stem or stem[0].isdigit() or f"{stem}_".casefold().startswith("sqlite_"):
        stem = f"TS_{stem}".strip("_")
    return f"{stem[: _MAX_ID - 8].rstrip('_')}_{_digest(name, 6)}"


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]
