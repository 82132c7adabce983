# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that the page shows of one series, made from its files: figures, pictures, the list of its files.

This runs in the painting thread. A problem with a file of the series is reported and not raised; an error is raised only if
nothing can be written, so that the series is retried.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tomostream.journal import entries
from tomostream.journal.status import MovieStatus
from tomostream.report import pictures
from tomostream.report.facts import SeriesFacts, with_files
from tomostream.report.judging import counts_of_expected

#: Ending of a file name -> what the file is.
MEANINGS = {".aln": "alignment (AreTomo)", "_ctf.txt": "CTF", "_quality.json": "quality", ".log": "log",
            "_angles.txt": "tilt angles, order, dose", ".xf": "alignment (IMOD)",
            "TiltSeries_Metrics.csv": "AreTomo3's figures", "AreTomo3_Session.json": "AreTomo3's settings"}
#: Errors that mean that nothing can be written into the folder of the page.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Made:
    """The result of the painting thread for one series."""

    facts: SeriesFacts
    pictures: dict[str, Any]
    trouble: str = ""


def paint(facts: SeriesFacts, movies: Mapping[str, MovieStatus], left_out: tuple[entries.LeftOut, ...], folder: str) -> Made:
    """Make all figures and pictures of one series.

    Raises
    ------
    OSError : nothing can be written into `folder` now.
    """
    os.makedirs(folder, exist_ok=True)
    made: dict[str, Any] = {}
    troubles: list[str] = []
    try:
        facts = with_files(facts, movies, left_out)
    except ValueError as error:
        troubles.append(f"no figures of its tilts: {error}")

    def film() -> None:
        nonlocal facts
        facts, pictures_of_tilts = pictures.paint_series(facts, folder)
        made.update(pictures_of_tilts)

    if facts.ended and facts.tilt_series and os.path.exists(facts.tilt_series):
        troubles += _tried("no film", film)
    if facts.state == "done" and facts.tomogram:
        shown = filtered_of(facts.tomogram)
        seen = replace(facts, tomogram=shown) if shown else facts
        troubles += _tried("no pictures of the tomogram", lambda: made.update(pictures.paint_tomogram(seen, folder)))
        made["filtered"] = bool(shown)
        if shown:
            troubles += _tried("no slices of the plain tomogram", lambda: made.update(pictures.paint_plain(facts, folder)))
    parts = zip(facts.tilts, counts_of_expected(facts.tilts), strict=True)
    facts = replace(facts, tilts=tuple(replace(tilt, counts_part=part) for tilt, part in parts))
    return Made(facts, made, "; ".join(troubles))


def filtered_of(tomogram: str) -> str:
    """Return the path of the filtered tomogram beside a tomogram; "" if there is none."""
    path = f"{os.path.splitext(tomogram)[0]}_wiener.mrc"
    return path if os.path.exists(path) else ""


def paint_preview(facts: SeriesFacts, volume: str, folder: str) -> Made:
    """Make the pictures of a preview, as version 0 of the series."""
    shown = replace(facts, version=0, tomogram=volume, z_first=True)
    try:
        os.makedirs(folder, exist_ok=True)
        made = pictures.paint_tomogram(shown, folder)
        return Made(replace(facts, version=0), {**made, "pixel_size_A": pictures.voxel_size(volume)})
    except (OSError, ValueError) as error:
        return Made(facts, {}, _words(error))


def _tried(what: str, act: Callable[[], None]) -> list[str]:
    """Call `act`; return what goes wrong, in words."""
    try:
        act()
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        return [f"{what}: {_words(error)}"]
    return []


def _words(error: Exception) -> str:
    """Say what is wrong with a file."""
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} does not exist (any more)"
    return f"{error.filename} cannot be read ({(error.strerror or str(error)).lower()})"


def files_of(facts: SeriesFacts, project: str) -> list[dict[str, Any]]:
    """Return the files of a series of interest to people: path relative to the project, size in bytes, what it is."""
    candidates = [("tilt series, raw", facts.tilt_series), ("tomogram", facts.tomogram)]
    if facts.tomogram:
        candidates.append(("filtered tomogram, for viewing", filtered_of(facts.tomogram)))
    if facts.folder and os.path.isdir(facts.folder):
        for name in sorted(os.listdir(facts.folder)):
            meaning = next((text for end, text in MEANINGS.items() if name.endswith(end)), None)
            if meaning:
                candidates.append((meaning, os.path.join(facts.folder, name)))
    found = []
    for meaning, path in candidates:
        if path and os.path.exists(path):
            found.append({"what": meaning, "path": os.path.relpath(path, project), "bytes": os.path.getsize(path)})
    return found + [{"what": "mdoc", "path": path, "bytes": None} for path in facts.mdocs]
