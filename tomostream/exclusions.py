# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tilts the user takes out of which series: a small file in the folder of the compose run.

`tomostream exclude` writes it, the compose protocol reads it when it changes and composes only those series again. Pure.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping

NAME = "excluded.json"


def read(path: str) -> dict[str, frozenset[str]]:
    """Series -> keys of the movies that are left out; empty when nothing is.

    Raises
    ------
    ValueError : the file was edited by hand into something else; names the file.
    """
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        return {str(series): frozenset(map(str, movies)) for series, movies in data.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): mend or remove it") from error


def write(path: str, excluded: Mapping[str, frozenset[str]]) -> None:
    """Write the file, complete or not at all."""
    part = f"{path}.part"
    with open(part, "w", encoding="utf-8") as file:
        json.dump({series: sorted(movies) for series, movies in sorted(excluded.items())}, file, indent=1)
    os.replace(part, path)


class Exclusions:
    """Follows the file: `changes` gives each series whose choice is another than before."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._stamp: tuple[int, int] | None = None
        self._known: dict[str, frozenset[str]] = {}

    def changes(self) -> Iterator[tuple[str, frozenset[str]]]:
        """Series and the movies to leave out now; a file that cannot be read changes nothing."""
        try:
            status = os.stat(self.path)
        except OSError:
            return
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            wanted = read(self.path)
        except ValueError:
            return
        for series in sorted(wanted.keys() | self._known.keys()):
            movies = wanted.get(series, frozenset())
            if movies != self._known.get(series, frozenset()):
                yield series, movies
        self._known = wanted
