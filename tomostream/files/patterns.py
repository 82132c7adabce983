# SPDX-License-Identifier: GPL-3.0-or-later
"""Patterns of files: what they match, and what is there if they match nothing.

Case is ignored: cameras and file servers write `.TIF`, `.EER` and `.MDOC`.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from tomostream.files.logs import some

#: How many levels of subfolders are searched if a folder holds nothing, and how many names at most.
MAX_DEPTH, MAX_LOOKED_AT = 3, 20_000
#: What a microscope writes side by side: if one of these is there, the others may follow.
ACQUIRED = (".mdoc", ".eer", ".tif", ".tiff", ".mrc", ".mrcs")
#: Names in a sentence.
MAX_NAMED = 3


def above_wildcards(pattern: str) -> str:
    """Return the part of a glob above its first wildcard; in the name of an existing folder they are literal: `/data/run [2]`."""
    while glob.has_magic(pattern) and not os.path.isdir(pattern):
        pattern = os.path.dirname(pattern)
    return pattern


def existing_taken_literally(pattern: str) -> str:
    """Return a glob in which characters in the names of existing folders are not wildcards."""
    head = above_wildcards(pattern)
    return glob.escape(head) + pattern[len(head):]


def folder_and_pattern(given: str, ending: str) -> tuple[str, str]:
    """Return folder and pattern from the name of a folder or a pattern of files with this ending (".mdoc")."""
    names_files = given.lower().endswith(ending) or (glob.has_magic(os.path.basename(given)) and not os.path.isdir(given))
    return os.path.split(given) if names_files else (given, f"*{ending}")


def matches(name: str, pattern: str) -> bool:
    """Tell whether a file name matches a pattern, ignoring case. `*` does not match hidden files."""
    hidden = name.startswith(".") and not pattern.startswith(".")
    return not hidden and fnmatch.fnmatchcase(name.lower(), pattern.lower())


def folders_of(above: str, deeper: int = 0) -> list[str]:
    """Return the folders that a glob of folders matches, and those up to `deeper` levels below, sorted.

    Each only under its shortest path: `**` follows links, even those that lead back up.
    """
    start, found = existing_taken_literally(above or "."), set[str]()
    for level in range(deeper + 1):
        found.update(_globbed(start + "/*" * level))
    once: dict[str, str] = {}
    for folder in sorted(found, key=lambda path: (path.count(os.sep), path)):
        once.setdefault(os.path.realpath(folder), folder)
    return sorted(once.values())


def _globbed(pattern: str) -> Iterator[str]:
    """Yield the folders that a glob matches. With `**`, glob itself never ends if two links lead back up."""
    words = pattern.split(os.sep)
    if "**" not in words:
        yield from (path.rstrip(os.sep) or os.sep for path in glob.glob(pattern + os.sep))
        return
    place = words.index("**")
    head, tail = os.sep.join(words[:place]) or (os.sep if place else "."), os.sep.join(words[place + 1:])
    for top in _globbed(head):
        for folder in _all_below(top):
            yield from _globbed(os.path.join(glob.escape(folder), tail)) if tail else (folder,)


def _all_below(top: str) -> Iterator[str]:
    """Yield a folder and everything below it that is not hidden, each once, level by level."""
    seen, folders = set[str](), [top]
    while folders:
        level, folders = folders, []
        for folder in level:
            real = os.path.realpath(folder)
            if real not in seen:
                seen.add(real)
                yield folder
                folders += _folders_in(folder)


def _folders_in(folder: str) -> list[str]:
    """Return the folders in a folder, including links to folders, sorted; hidden ones are left out."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return sorted(os.path.join(folder, entry.name) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    return []


def files_of(pattern: str, deeper: int = 0) -> list[str]:
    """Return the files that a pattern matches, sorted."""
    above, base = os.path.split(pattern)
    above, base = (pattern, "*") if base == "**" else (above, base)
    return sorted(os.path.join(folder, name) for folder in folders_of(above, deeper)
                  for name in _listed(folder)[0] if matches(name, base))


def depth_of(pattern: str, endings: Sequence[str]) -> int:
    """Return how many levels below its folder the first files of a pattern with such endings are; 0 if there are none."""
    above, base = os.path.split(pattern)
    return next((depth for depth, _, name in _below(above, endings) if depth and matches(name, base)), 0)


def what_is_there(pattern: str, endings: Sequence[str]) -> str:
    """Say what is there if a pattern matches no file with such endings; "" if it matches one, or nothing is there.

    Parameters
    ----------
    pattern : a glob.
    endings : of the files meant, in lower case: (".mdoc",).
    """
    above, base = os.path.split(pattern)
    found = list(_below(above, endings))
    here = [name for depth, _, name in found if depth == 0]
    if any(matches(name, base) for name in here):
        return ""
    if here:
        are = "is" if len(here) == 1 else "are"
        return f"no file in {above} is named {base}, but {_endings(here)} {are} there, {_some(here)}"
    if found:
        folders = list(dict.fromkeys(os.path.relpath(folder, above) for _, folder, _ in found))
        levels = "/*" * found[0][0]
        return f"no {_of(base, endings)} in {above}, but {len(found)} in its subfolders, {_some(folders)}: {above}{levels}/{base}"
    others = [name for folder in folders_of(above) for name in _listed(folder)[0] if not name.lower().endswith(ACQUIRED)]
    return f"no {_of(base, endings)} in {above}, but {_endings(others)}, {_some(others)}" if others else ""


def near(folder: str) -> str:
    """Say what is similar to a missing folder, to follow its name: folders with similar names, or how much of its path exists."""
    above, missing = os.path.abspath(folder), ""
    while not os.path.isdir(above) and os.path.dirname(above) != above:
        above, missing = os.path.split(above)
    alike = difflib.get_close_matches(missing, _listed(above)[1], MAX_NAMED) if missing else []
    return f" ({above} has {' and '.join(alike)})" if alike else f" (of its path, {above} exists)" if missing else ""


def _of(base: str, endings: Sequence[str]) -> str:
    return base if base != "*" else f"file named {', '.join(f'*{ending}' for ending in endings)}"


def _below(above: str, endings: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Yield (level, folder, name) of files with such endings in and below a folder, level by level, while that is quick."""
    return islice(((depth, folder, name) for depth, folder, names in _levels(above) for name in names
                   if name.lower().endswith(tuple(endings))), MAX_LOOKED_AT)


def _levels(above: str) -> Iterator[tuple[int, str, list[str]]]:
    folders: Iterable[str] = folders_of(above)
    for depth in range(MAX_DEPTH + 1):
        deeper: list[str] = []
        for folder in folders:
            names, inside = _listed(folder)
            yield depth, folder, names
            deeper += [os.path.join(folder, name) for name in inside]
        folders = deeper


def _listed(folder: str) -> tuple[list[str], list[str]]:
    """Return the files and the folders in a folder, by name; hidden ones and links to folders are left out."""
    try:
        with os.scandir(folder) as entries:
            every = [(entry.name, entry.is_dir(follow_symlinks=False), entry.is_file()) for entry in entries]
    except OSError:
        return [], []
    seen = sorted(each for each in every if not each[0].startswith("."))
    return [name for name, _, is_file in seen if is_file], [name for name, is_folder, _ in seen if is_folder]


def _endings(names: Sequence[str]) -> str:
    """Say how many files with which endings there are: "12 *.eer and 3 *.mrc"."""
    counts = Counter(os.path.splitext(name)[1] for name in names).most_common(MAX_NAMED)
    return " and ".join(f"{number} *{ending}" if ending else f"{number} without an ending" for ending, number in counts)


def _some(names: Sequence[str]) -> str:
    return some(names, MAX_NAMED)
