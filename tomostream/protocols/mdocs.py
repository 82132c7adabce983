# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the mdoc files of a session are: as the compose form says, else as the form of the import before it."""

from __future__ import annotations

from typing import Any

from tomostream.files.patterns import folder_and_pattern

EVERY = "*.mdoc"


def place_of(protocol: Any) -> tuple[str, str]:
    """Return folder and pattern of the mdoc files for a compose protocol; the folder is "" where neither form says."""
    folder, pattern = (protocol.filesPath.get() or "").strip(), protocol.mdocPattern.get() or ""
    imported = "" if folder else of_import(protocol)
    if not imported:
        return folder, pattern
    above, names = folder_and_pattern(imported, ".mdoc")
    return above, names if pattern == EVERY else pattern


def of_import(protocol: Any) -> str:
    """Return the folder or pattern of mdoc files given to the import, two protocols upstream; "" where there is none."""
    movies = getattr(protocol.inputMicrographs.getObjValue(), "inputMovies", None)
    given = getattr(movies.getObjValue() if movies is not None else None, "mdocsPath", None)
    return str(given.get() or "").strip() if given is not None else ""
