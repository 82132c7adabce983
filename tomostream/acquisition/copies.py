# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of an mdoc file: people and programs leave them beside the original, or in a folder of their own.

An acquisition is one series, under its own name. A name that looks like that of a copy proves nothing (`lamella (1)` may be
what the operator typed), so a file is taken for a copy only if its content says what it describes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from tomostream.acquisition.facts import MdocFacts
from tomostream.acquisition.naming import basename, parse_movie_name, series_name

#: What editors and scripts append to the name of a file that they keep. No instrument names files like this.
_BACKUP = re.compile(r"(?:~|\.~\d+~|\.(?:bak|old|orig|backup|save)\d*)\Z", re.IGNORECASE)

#: What Windows, macOS and Linux desktops turn a name into, in the languages found at microscopes.
_PREFIX = re.compile(r"\A(?:copy(?: \(\d+\))? of |copy_of_|kopie(?: \(\d+\))? von |copie(?: \(\d+\))? de |"
                     r"c[oó]pia(?: \(\d+\))? (?:de|di) |copia(?: \(\d+\))? (?:de|di) )", re.IGNORECASE)
_SUFFIX = re.compile(r"(?: - (?:copy|kopie|copie|copia|cópia|kopia)(?: \(\d+\))?| ?\(\d+\)|"
                     r" \((?:copy|another copy|\d+(?:st|nd|rd|th) copy)\)|[ _-]copy(?:[ _-]?\d+)?)\Z", re.IGNORECASE)


def without_backup(path: str | os.PathLike[str]) -> str:
    """Return the name of a file without what editors append to backups (`~`, `.bak`)."""
    name = basename(os.fsdecode(path))
    while (shorter := _BACKUP.sub("", name)) != name and shorter:
        name = shorter
    return name


def original_name(path: str | os.PathLike[str]) -> str | None:
    """Return the series name of the original, judging by the name of this copy; None if the name is not that of a copy.

    Examples
    --------
    >>> original_name("Copy of TS_01.mrc.mdoc"), original_name("TS_01.mrc - Copy (2).mdoc"), original_name("TS_01.mrc.mdoc")
    ('TS_01', 'TS_01', None)
    """
    own = series_name(path)
    name = series_name(without_backup(path))
    while True:
        shorter = series_name(_SUFFIX.sub("", _PREFIX.sub("", name)) or name)
        if shorter == name:
            return None if name == own else name
        name = shorter


def described_name(image_file: str | None, movies: Iterable[str]) -> str | None:
    """Return the series name according to the content of an mdoc: that of its stack, else the one shared by all its movies."""
    if image_file:
        return series_name(image_file)
    names = {parse_movie_name(movie).series for movie in movies}
    return names.pop() if len(names) == 1 else None


def own_name(path: str | os.PathLike[str], image_file: str | None, movies: Iterable[str]) -> tuple[str, bool]:
    """Return the name of the series that a file describes, and whether name and content show that it is a copy of another.

    Parameters
    ----------
    path : of the file.
    image_file : the stack that it says it belongs to; None if it does not say.
    movies : the names of its movies.
    """
    own, original = series_name(path), original_name(path)
    if original is None:
        return own, False
    if without_backup(path) != basename(os.fsdecode(path)) or described_name(image_file, movies) == original:
        return original, True
    return own, False


def names_itself(facts: MdocFacts) -> bool:
    """Tell whether the content of a file agrees with its name: that of an original does, that of a renamed copy does not."""
    movies = [tilt.movie for tilt in facts.tilts if tilt.movie is not None]
    return not facts.copy and described_name(facts.evidence.get("ImageFile"), movies) == facts.series_name
