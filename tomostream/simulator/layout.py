# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders and names of an acquisition as found in practice: where files are, and what a transfer did to the camera's names."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

#: Layout -> what it is.
LAYOUTS = {
    "standard": "movies in frames/, mdocs in mdocs/",
    "flat": "movies and mdocs side by side in data/",
    "folder-per-series": "frames/TS_01/frames_001_0.0.tif: the same names in the folder of each series; mdocs in mdocs/",
    "two-grids": "grid1/ and grid2/ with half of the series each, both beginning with TS_01; movies in a folder frames/ of each",
    "samples": "Sample1/ and Sample2/, both beginning with Position_1; the mdocs leave SubFramePath empty",
}

#: Names -> what a transfer did to the camera's.
NAMES = {
    "exact": "those in the mdocs",
    "lower": "in lower case",
    "prefix": "with a prefix",
    "rounded": "the angle rounded differently",
    "brackets": "blanks and brackets replaced",
    "extension": "an extension other than in the mdocs",
    "accents": "accents as two characters where the camera wrote one",
}


@dataclass(frozen=True)
class Place:
    """The folders of a series, below that of the acquisition, and its name there."""

    name: str
    mdocs: str
    movies: str
    camera: str


def places(layout: str, prefix: str, series: int) -> list[Place]:
    """Return the place of every series. `camera` is the folder in SubFramePath; "" if that is left empty."""
    found = []
    for number in range(series):
        half = (series + 1) // 2
        grid, place = (1, number) if number < half else (2, number - half)
        name = f"{prefix}_{number + 1:02d}"
        if layout == "flat":
            found.append(Place(name, "data", "data", "D:\\DATA\\data"))
        elif layout == "folder-per-series":
            found.append(Place(name, "mdocs", f"frames/{name}", f"D:\\DATA\\frames\\{name}"))
        elif layout == "two-grids":
            found.append(Place(f"{prefix}_{place + 1:02d}", f"grid{grid}", f"grid{grid}/frames", f"D:\\DATA\\grid{grid}\\frames"))
        elif layout == "samples":
            found.append(Place(f"Position_{place + 1}", f"Sample{grid}", f"Sample{grid}", ""))
        else:
            found.append(Place(name, "mdocs", "frames", "D:\\DATA\\frames"))
    return found


def camera_name(layout: str, names: str, series: str, number: int, nominal: float, extension: str) -> str:
    """Return the name that the camera gives a movie: series, running number of the exposure, nominal angle."""
    stem = "frames" if layout == "folder-per-series" else series
    if names == "brackets":
        stem = f"lam [{stem}]"
    elif names == "accents":
        stem = f"Zellkörper_{stem}"
    ending = {"tif": "mrc", "mrc": "tif"}[extension] if names == "extension" else extension
    return f"{stem}_{number:03d}_{nominal:.1f}.{ending}"


def name_on_disk(names: str, camera: str, nominal: float, angle: float, extension: str) -> str:
    """Return the name of a movie after its transfer."""
    if names == "lower":
        return camera.lower()
    if names == "prefix":
        return f"session7_{camera}"
    if names == "rounded":
        return camera.replace(f"_{nominal:.1f}.", f"_{angle:.2f}.")
    if names == "brackets":
        return camera.replace("[", "").replace("]", "").replace(" ", "_")
    if names == "extension":
        return f"{camera.rsplit('.', 1)[0]}.{extension}"
    return unicodedata.normalize("NFD", camera) if names == "accents" else camera
