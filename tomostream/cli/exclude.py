# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream exclude`: take tilts out of a series, or put them back; only that series is made again."""

from __future__ import annotations

import argparse
import json
import os
import sys

from tomostream import exclusions
from tomostream.status import COMPOSE, ProjectStatus

HELP = "take tilts out of a series or put them back; only that series is composed and reconstructed again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="name or path of the project")
    parser.add_argument("series", metavar="SERIES", help="the series, as `tomostream status` names it")
    parser.add_argument("tilts", nargs="*", metavar="TILT",
                        help="acquisition order (1 is the first) or movie name; none: list the tilts of the series")
    parser.add_argument("--back", action="store_true", help="put them back; without TILT, all of them")


def main(options: argparse.Namespace) -> int:
    from tomostream.cli.status import find

    path = find(options.project)
    status = ProjectStatus(path or options.project)
    status.update()
    series = status.series.get(options.series)
    if path is None or COMPOSE not in status.folders or series is None:
        what = f"the project has no series {options.series}" if path and status.series else \
            f"there is no project {options.project} with tilt series"
        return complain(what)
    extra = os.path.join(status.folders[COMPOSE], "extra")
    try:
        tilts = tilts_of(extra, series.id, series.version)
        file = os.path.join(extra, exclusions.NAME)
        excluded = exclusions.read(file)
        if not options.tilts and not options.back:
            return show(tilts, excluded.get(series.id, frozenset()))
        chosen = choose(options.tilts, tilts) if options.tilts else frozenset(tilts)
    except ValueError as error:
        return complain(str(error))
    before = excluded.get(series.id, frozenset())
    excluded[series.id] = before - chosen if options.back else before | chosen
    exclusions.write(file, excluded)
    left = len(tilts) - len(excluded[series.id])
    print(f"{series.id}: {left} of {len(tilts)} tilts are to be used. A running session composes and reconstructs the series "
          f"again at once; one that has ended does after: tomostream resume {options.project} --again")
    return 0


def complain(text: str) -> int:
    print(f"tomostream exclude: {text}.".replace("..", "."), file=sys.stderr)
    return 2


def tilts_of(extra: str, series_id: str, version: int) -> dict[str, tuple[int | None, float]]:
    """Movie key -> (acquisition order, angle in degrees) of all tilts of a composed series, those left out too.

    Raises
    ------
    ValueError : the series is not composed yet.
    """
    tilts: dict[str, tuple[int | None, float]] = {}
    for number in range(1, version + 1):
        stem = series_id if number == 1 else f"{series_id}-v{number}"
        try:
            with open(os.path.join(extra, f"{stem}.json"), encoding="utf-8") as file:
                record = json.load(file)
        except (OSError, ValueError):
            continue
        tilts |= {tilt["movie"]: (tilt["order"], tilt["angle"]) for tilt in record["tilts"]}
    if not tilts:
        raise ValueError(f"{series_id} is not composed yet: there is nothing to choose from")
    return tilts


def choose(words: list[str], tilts: dict[str, tuple[int | None, float]]) -> frozenset[str]:
    """The movies that the words name.

    Raises
    ------
    ValueError : a word names none; says what there is.
    """
    from tomostream.acquisition.naming import movie_key

    by_order = {str(order): movie for movie, (order, _) in tilts.items() if order is not None}
    chosen = set()
    for word in words:
        movie = by_order.get(word) or (movie_key(word) if movie_key(word) in tilts else None)
        if movie is None:
            raise ValueError(f"'{word}' is no tilt of it: write an acquisition order (1 to {len(tilts)}) or a movie name")
        chosen.add(movie)
    return frozenset(chosen)


def show(tilts: dict[str, tuple[int | None, float]], excluded: frozenset[str]) -> int:
    print(f"{'order':>6} {'angle':>8}  movie")
    for movie, (order, angle) in sorted(tilts.items(), key=lambda item: item[1][1]):
        print(f"{order if order is not None else '?':>6} {angle:8.2f}  {movie}{'  (taken out)' if movie in excluded else ''}")
    return 0
