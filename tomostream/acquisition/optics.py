# SPDX-License-Identifier: GPL-3.0-or-later
"""Pixel size, voltage and magnification: what the form leaves empty is read from mdoc files or a movie's header."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tomostream.acquisition.mdoc import read_mdoc
from tomostream.acquisition.movies import MovieCheck
from tomostream.acquisition.pixels import movie_pixel_size


@dataclass(frozen=True)
class Optics:
    """What must be known before the first movie is registered: pixel size (A) of a movie pixel, voltage (kV)."""

    pixel_size: float | None
    voltage: float | None
    magnification: float | None
    source: str

    def missing(self) -> str:
        names = [name for name, value in (("pixel size", self.pixel_size), ("voltage", self.voltage)) if value is None]
        return " and ".join(names)


UNKNOWN = Optics(None, None, None, "")


def find_optics(form: Optics, mdocs: Iterable[str], movie: MovieCheck) -> Optics:
    """Fill the gaps of the form from the first mdocs that give the values, then the pixel size from the header of a movie."""
    found = form
    for path in mdocs:
        if not found.missing():
            break
        facts = read_mdoc(path)
        if facts.kind not in ("tilt-series", "frame"):      # a map has another magnification
            continue
        pixel = found.pixel_size if found.pixel_size is not None else movie_pixel_size(facts, movie).value
        voltage = found.voltage if found.voltage is not None else facts.voltage.value
        magnification = found.magnification if found.magnification is not None else facts.magnification.value
        more = Optics(pixel, voltage, magnification, "")
        found = replace(more, source=known_from(found, more, os.path.basename(path)))
    if found.pixel_size is None and movie.pixel_size is not None:
        more = replace(found, pixel_size=movie.pixel_size)
        found = replace(more, source=known_from(found, more, "the header of a movie"))
    return found


def known_from(before: Optics, after: Optics, where: str) -> str:
    """Return the source of `before`, and what `after` knows in addition, from where: "voltage from the form; pixel size from
    X"."""
    new = [name for name, old, now in (("pixel size", before.pixel_size, after.pixel_size),
                                       ("voltage", before.voltage, after.voltage)) if old is None and now is not None]
    return "; ".join(filter(None, (before.source, f"{' and '.join(new)} from {where}" if new else "")))
