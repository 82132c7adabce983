# SPDX-License-Identifier: GPL-3.0-or-later
"""Movies in no series, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tomostream.acquisition.events import Unassigned
from tomostream.acquisition.frames import different_angles
from tomostream.acquisition.series import Series
from tomostream.acquisition.verdict import MAX_NAMES
from tomostream.files.logs import counted, some


def of_no_series(every: Iterable[Series], min_tilts: int) -> dict[str, Unassigned]:
    """Return movies at `min_tilts` or more angles that only their own frame mdocs list and whose series is unclear.

    Also those that only a file with the frame sets of the whole session lists, however few.
    """
    ignored = [series for series in every if series.phase == "ignored" and series.given_up == "frame"]
    alone = [each for series in ignored for each in series.exposures.values() if each.bound]
    left = dict.fromkeys(
        (each.key for series in ignored if series.only_frame_sets for each in series.exposures.values() if each.bound),
        Unassigned("No mdoc of a series lists it, only the file with the frame sets of the whole session."))
    if different_angles([each.tilt.angle for each in alone]) < max(min_tilts, 2):
        return left
    return left or dict.fromkeys((each.key for each in alone), Unassigned(
        "Only its own frame mdoc lists it, and its name does not say to which series it belongs: start the names of frames "
        "with that of their series, or save an mdoc for each series."))


def without_movie(every: Iterable[Series]) -> list[str]:
    """Return the names of the series that have tilts whose movie was never seen."""
    return [series.name for series in every
            if any((each.state == "missing" and not each.movie_seen) or not each.key for each in series.exposures.values())]


def exposed_again(by: str) -> Unassigned:
    """Return why a movie is in no series when another exposure took its place."""
    return Unassigned(f"It was exposed again: {by} is used in its place.", expected=True)


def describe_unassigned(movies: Sequence[str], incomplete: Sequence[str]) -> str:
    """Return a sentence about the movies that no series lists, and the series with tilts without a movie, which may be theirs."""
    if not movies:
        return "every movie belongs to a tilt series"
    text = f"{counted(len(movies), 'movie')} in no tilt series: {some(movies, MAX_NAMES)}"
    if incomplete:
        shown = ", ".join(incomplete[:MAX_NAMES])
        text += (f"; tilts of {shown} have no movie: if these are theirs, name the movies as SubFramePath does "
                 "in the mdoc files")
    return text
