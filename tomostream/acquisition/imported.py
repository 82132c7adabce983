# SPDX-License-Identifier: GPL-3.0-or-later
"""Which file gave which movie of a project: one name per file, one movie per file, whatever paths lead to it.

A file is identified by its device and inode, its size and time, then its path. The caller looks at the disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from tomostream.acquisition.matching import parts
from tomostream.acquisition.mdoc import read_mdoc
from tomostream.acquisition.movies import MovieCheck
from tomostream.acquisition.naming import folder_that_differs, movie_key, parse_movie_name


class Sight(str, Enum):
    """What a file that was seen is: new (or changed), already known, known by another path, or moved."""

    NEW = "new"
    KNOWN = "known"
    SAME = "same"
    MOVED = "moved"


@dataclass(frozen=True)
class FileFacts:
    """What the disk says about a file. Device and inode 0: unknown."""

    size: int
    mtime: float
    device: int = 0
    inode: int = 0


#: Formats in order of preference, for when one folder has files of one name in several.
KINDS = {".eer": "EER", ".tif": "TIFF", ".tiff": "TIFF", ".mrc": "MRC", ".mrcs": "MRC"}
_RANKS = ("EER", "TIFF", "MRC")


def kind_of(path: str) -> str:
    """Return the format of a movie, according to its name."""
    return KINDS.get(os.path.splitext(path)[1].lower(), "")


class MovieFiles:
    """The files of an import.

    Parameters
    ----------
    look : returns what the disk says about a path, None if nothing is there.
    """

    def __init__(self, look: Callable[[str], FileFacts | None]) -> None:
        self._look = look
        self._names: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._registered: dict[str, tuple[int, float]] = {}
        self._by_content: dict[tuple[int, float], list[tuple[str, str]]] = {}
        self._inodes: dict[tuple[int, int], str] = {}
        self._used: dict[tuple[str, str], str] = {}

    def __bool__(self) -> bool:
        return bool(self._names)

    # ------------------------------------------------------------------ what is known

    def remember(self, path: str, name: str) -> None:
        """Note that an earlier run gave this name to a file."""
        self._names[path] = name
        self._owners[movie_key(name)] = path
        facts = self._look(path)
        if facts is not None and facts.inode:
            self._inodes[facts.device, facts.inode] = path

    def register(self, path: str, name: str, size: int, mtime: float) -> None:
        """Note that a movie made from this file is in the output. `path` "": only its copy in the project is known."""
        self._registered[name] = (size, mtime)
        self._by_content.setdefault((size, mtime), []).append((path, name))
        if path:
            self._names[path] = name
            self._owners[movie_key(name)] = path
            self._used[os.path.dirname(path), movie_key(path)] = path
        else:
            self._owners.setdefault(movie_key(name), "")

    def registered(self, name: str) -> tuple[int, float]:
        """Return the size and time of the file from which a registered movie was made."""
        return self._registered[name]

    # ------------------------------------------------------------------ what is seen

    def sight(self, path: str, facts: FileFacts) -> tuple[Sight, str]:
        """Tell what a file is, with the other path if it is known by one or was moved."""
        name = self._names.get(path) or self._names.get(os.path.abspath(path))
        if name is not None:
            self._names[path] = name
            same = self._registered.get(name) == (facts.size, facts.mtime)
            return (Sight.KNOWN if same else Sight.NEW), ""
        other = self._inodes.get((facts.device, facts.inode)) if facts.inode else None
        if other is not None and other != path:
            there = self._look(other)
            if there is not None and (there.device, there.inode) == (facts.device, facts.inode):
                return Sight.SAME, other
        if facts.inode:
            self._inodes[facts.device, facts.inode] = path
        return self._moved(path, facts, other)

    def _moved(self, path: str, facts: FileFacts, renamed: str | None) -> tuple[Sight, str]:
        """Tell whether a file was elsewhere before: its name, size and time are those of one that is gone."""
        plain = os.path.basename(path).replace(" ", "_")
        found = [(other, name) for other, name in self._by_content.get((facts.size, facts.mtime), ())
                 if (other and other == renamed) or (other and os.path.basename(other).replace(" ", "_") == plain)
                 or (not other and (name == plain or name.endswith(f"_{plain}")))]
        gone = [(other, name) for other, name in found if not other or self._look(other) is None]
        if not gone:
            return Sight.NEW, ""
        other, name = max(gone, key=lambda each: _common_end(path, each[0]))
        self.register(path, name, facts.size, facts.mtime)
        self._by_content[facts.size, facts.mtime].remove((other, name))
        return Sight.MOVED, other

    # ------------------------------------------------------------------ names

    def name(self, path: str) -> str:
        """Return the movie's name in the project: that of its file, prefixed with a folder if another movie has that name.

        No two names are equal without their extensions, because micrographs have none.
        """
        name = self._names.get(path)
        if name is None:
            name = self._choose(path)
            self._names[path] = name
            self._owners[movie_key(name)] = path
        return name

    def _choose(self, path: str) -> str:
        plain = os.path.basename(path).replace(" ", "_")
        owner = self._owners.get(movie_key(plain))
        if owner is None:
            return plain
        stem, extension = os.path.splitext(plain)
        name = f"{stem}_{extension[1:]}{extension}" if os.path.dirname(owner) == os.path.dirname(path) else (
            f"{folder_that_differs(path, owner)}_{plain}".lstrip("_"))
        stem, extension = os.path.splitext(name)
        count = 2
        while movie_key(name) in self._owners:
            name, count = f"{stem}_{count}{extension}", count + 1
        return name

    # ------------------------------------------------------------------ one movie of a name in a folder

    def use(self, path: str) -> None:
        """Note that this file is the movie of its name in its folder."""
        self._used[os.path.dirname(path), movie_key(path)] = path

    def beside(self, path: str) -> str:
        """Return the movie with the same name in the same folder that is used; "" if there is none."""
        other = self._used.get((os.path.dirname(path), movie_key(path)), path)
        return other if other != path and self._look(other) is not None else ""


def _common_end(path: str, other: str) -> int:
    count = 0
    for mine, its in zip(reversed(parts(os.path.dirname(path))), reversed(parts(os.path.dirname(other))), strict=False):
        if mine != its:
            break
        count += 1
    return count


def other_formats(path: str) -> list[str]:
    """Return what the movie of a path would be called in other formats."""
    stem, _ = os.path.splitext(path)
    return [f"{stem}{spelt}" for ending in KINDS for spelt in (ending, ending.upper())]


def goes_first(path: str, other: str) -> bool:
    """Tell whether the first of two files with one folder and name is the movie: EER before TIFF before MRC."""
    mine, its = kind_of(path), kind_of(other)
    same_name = os.path.dirname(path) == os.path.dirname(other) and movie_key(path) == movie_key(other)
    return same_name and mine in _RANKS and its in _RANKS and _RANKS.index(mine) < _RANKS.index(its)


def why_stack(path: str, check: MovieCheck, kinds: frozenset[str]) -> str:
    """Say why an MRC file of several images is the stack of a tilt series rather than a movie; "" if it may be a movie.

    Parameters
    ----------
    path : of the file; an mdoc of its name beside it says what its images are.
    check : what its structure says.
    kinds : formats of the movies in use from its folder.
    """
    if check.state != "complete" or kind_of(path) != "MRC":
        return ""
    mdoc = f"{path}.mdoc"
    if os.path.exists(mdoc):
        facts = read_mdoc(mdoc)
        if facts.kind in ("tilt-series", "image", "montage", "fast-tilt") and not facts.frame_sets:
            return f"{os.path.basename(mdoc)} describes its images: a stack, not a movie"
    if kinds & {"EER", "TIFF"} and parse_movie_name(path).angle is None:
        return f"the movies of this folder are {' and '.join(sorted(kinds - {'MRC'}))} files, and its name gives no tilt angle"
    return ""
