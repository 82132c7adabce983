# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the page keeps what it shows of a series: a folder with its data and pictures."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any

from tomostream.files.writing import write_text
from tomostream.report import tables

DATA = "data.js"


class SeriesFolders:
    """The folders `series/NAME` of a page. A series keeps its folder for the life of this object.

    Parameters
    ----------
    out : folder of the page.
    """

    def __init__(self, out: str) -> None:
        self._root = os.path.join(out, "series")
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()

    def name(self, series_id: str) -> str:
        """Return the name of the folder of a series; it may not exist yet."""
        if series_id not in self._names:
            self._names[series_id] = safe_name(series_id, self._taken)
            self._taken.add(self._names[series_id].casefold())
        return self._names[series_id]

    def path(self, series_id: str) -> str:
        return os.path.join(self._root, self.name(series_id))

    def read(self, series_id: str) -> dict[str, Any]:
        """Return the data already there; empty if there is none, or it belongs to another series."""
        name, payload = read_data(self.path(series_id))
        return payload if name == series_id else {}

    def write(self, series_id: str, payload: dict[str, Any]) -> None:
        """Write the data of a series, for the page.

        Raises
        ------
        OSError : it cannot be written now.
        """
        write_text(os.path.join(self.path(series_id), DATA), tables.script("series", series_id, payload))

    def remove_older(self, series_id: str, version: int) -> None:
        """Remove the pictures of earlier versions."""
        for name in os.listdir(self.path(series_id)):
            match = re.match(r"v(\d+)-", name)
            if match and int(match[1]) < version:
                os.remove(os.path.join(self.path(series_id), name))


def read_data(folder: str) -> tuple[str, dict[str, Any]]:
    """Return the name of the series whose data are in a folder, and the data; "" and nothing if there are none."""
    try:
        with open(os.path.join(folder, DATA), encoding="utf-8") as file:
            _, name, payload = tables.unscript(file.read())
    except (OSError, ValueError):
        return "", {}
    return (str(name), payload) if isinstance(payload, dict) else ("", {})


def safe_name(series_id: str, taken: set[str]) -> str:
    """Return a folder name for any series name: only letters, digits, - and _, and different from others in more than case."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", series_id)[:60]
    if plain and plain == series_id and plain.casefold() not in taken:
        return plain
    return f"{plain}-{hashlib.sha256(series_id.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


