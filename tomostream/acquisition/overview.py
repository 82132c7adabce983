# SPDX-License-Identifier: GPL-3.0-or-later
"""Which movie belongs to which series in a whole folder, before anything is started: what the session would make of it.

The state machine itself decides, as in streaming: every movie counts as aligned, and the session as stopped.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tomostream.acquisition.doctor import AT_REST, UNUSABLE
from tomostream.acquisition.events import Event, GiveUp, MdocRead, MicrographReady, MovieSeen, Policy, Stop
from tomostream.acquisition.facts import MdocFacts, Tilt
from tomostream.acquisition.imported import MovieFiles
from tomostream.acquisition.matching import WORDS, Step
from tomostream.acquisition.mdoc import read_mdoc
from tomostream.acquisition.movies import EXTENSIONS, check_movie, why_no_movie
from tomostream.acquisition.naming import movie_key
from tomostream.acquisition.series import Exposure, Series
from tomostream.acquisition.session import Session
from tomostream.acquisition.verdict import repeated, tilt_axis
from tomostream.files import patterns
from tomostream.files.logs import counted, some

#: The structure of at most this many movies is checked, to tell references and averages from movies.
MAX_CHECKED = 2000


@dataclass(frozen=True)
class Match:
    """A tilt, the file of its movie ("" if there is none), and the step by which it was found (None: not found)."""

    tilt: Tilt
    file: str
    step: Step | None


@dataclass(frozen=True)
class SeriesOverview:
    """A series as it would be composed. `state` is composed, failed or ignored; `reason`: why it is not composed."""

    series_id: str
    name: str
    state: str
    reason: str
    mdocs: tuple[str, ...]
    matches: tuple[Match, ...]
    tilt_axis: float | None
    pixel_size: float | None
    dose: float | None
    warnings: tuple[str, ...]

    @property
    def missing(self) -> list[Match]:
        """The tilts without a movie."""
        return [each for each in self.matches if not each.file]

    @property
    def steps(self) -> dict[Step, int]:
        """How many movies were found by each step."""
        return dict(Counter(each.step for each in self.matches if each.step is not None))


@dataclass(frozen=True)
class Overview:
    """What is in the folders. `left`: files of movies in no series, and why; `ignored`: mdocs that are not series, and why;
    `unusable`: mdocs, ignored or not, that were meant to be series, and why they cannot be."""

    series: tuple[SeriesOverview, ...]
    left: Mapping[str, str]
    ignored: Mapping[str, str]
    movies: int
    unusable: Mapping[str, str] = field(default_factory=dict)

    @property
    def fine(self) -> bool:
        """Whether every series has all its movies, and every movie its series."""
        return bool(self.series) and not self.left and all(each.state == "composed" and not each.missing for each in self.series)


def survey(mdocs: Sequence[str], movies: Sequence[str], now: float) -> Overview:
    """Say what the session would make of these files.

    Parameters
    ----------
    mdocs, movies : paths.
    now : seconds since the epoch; files that are younger than `AT_REST` may still grow.
    """
    count = len(movies)
    movies, left = _without_references(sorted(movies, key=_written))
    project = MovieFiles(lambda _path: None)
    names = {path: movie_key(project.name(path)) for path in movies}
    session = Session(Policy(min_tilts=1))
    ignored: dict[str, str] = {}
    failed: dict[str, str] = {}
    for path in movies:
        session.handle(MovieSeen(names[path], now, path, _written(path)))
        session.handle(MicrographReady(names[path], now))
    read = [read_mdoc(path, at_rest=now - _written(path) > AT_REST) for path in mdocs]
    events: list[Event] = [*(MdocRead(facts, now) for facts in read), Stop(now)]
    for decision in [each for event in events for each in session.handle(event)]:
        if isinstance(decision, GiveUp):
            reasons = ignored if not decision.failed else failed
            reasons.update(dict.fromkeys(decision.mdocs, decision.reason))
    files = {name: path for path, name in names.items()}
    left.update({files[key]: why.reason for key, why in session.unassigned().items() if key in files and not why.expected})
    series = [_of(each, files, failed) for each in session.series if not _is_ignored(each)]
    unusable = {facts.path: facts.reason for facts in read if facts.kind in UNUSABLE}
    return Overview(tuple(sorted(series, key=lambda each: (each.name, each.mdocs))), left, ignored, count, unusable)


def _is_ignored(series: Series) -> bool:
    return series.phase == "ignored" or not (series.exposures or series.trouble)


def _of(series: Series, files: Mapping[str, str], failed: Mapping[str, str]) -> SeriesOverview:
    facts: list[MdocFacts] = [file.facts for file in series.files.values()]
    matches = tuple(_match(each, files) for each in series.in_order())
    doses = [each.tilt.dose.value for each in matches if each.tilt.dose.value is not None]
    paths = tuple(dict.fromkeys([*series.files, *series.trouble]))
    warnings = dict.fromkeys([*(text for each in facts for text in each.warnings), *series.warnings])
    return SeriesOverview(
        series.series_id, series.name, "composed" if series.version else "failed",
        next((failed[path] for path in paths if path in failed), "" if series.version else series.reason), paths, matches,
        tilt_axis(series, Policy()).value, next((each.pixel_size.value for each in facts if each.pixel_size.value), None),
        doses[0] if doses else None, tuple(warnings))


def _match(exposure: Exposure, files: Mapping[str, str]) -> Match:
    file = files.get(exposure.key, "") if exposure.bound else ""
    return Match(exposure.tilt, file, exposure.step if file else None)


def _without_references(movies: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the movies, and the files with a single image, which are not movies: references, maps, averages."""
    checks = {path: check_movie(path) for path in movies[:MAX_CHECKED]}
    frames = any((check.frames or 1) > 1 for check in checks.values())
    foreign = {path: why for path, check in checks.items() if (why := why_no_movie(path, check, frames))}
    reasons = {path: f"{why[:1].upper()}{why[1:]}." for path, why in foreign.items()}
    return [path for path in movies if path not in foreign], reasons


def _written(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def pattern_of(given: str) -> str:
    """Return a pattern of files: for a folder, or a pattern of folders, everything in it."""
    folders = os.path.isdir(given) or any(map(os.path.isdir, patterns.folders_of(given)))
    return os.path.join(given, "*") if folders else given


def movie_files(given: str) -> list[str]:
    """Return the movies of a folder or pattern; those of the subfolders if the folder itself holds none."""
    pattern = pattern_of(given)
    found = [path for path in patterns.files_of(pattern) if is_movie(path)]
    below = patterns.files_of(pattern, patterns.depth_of(pattern, EXTENSIONS)) if not found else []
    return found or [path for path in below if is_movie(path)]


def is_movie(path: str) -> bool:
    """Tell whether a file can be a movie, by the ending of its name."""
    return path.lower().endswith(EXTENSIONS)


# ---------------------------------------------------------------------------------------------- for people and programs

def as_text(overview: Overview, details: bool = False) -> str:
    """Return one line per series, those that differ first; with details the movie of every tilt too."""
    common = _common(overview.series)
    wrong = [each for each in overview.series if _differs(each, common)]
    fine = [each for each in overview.series if not _differs(each, common)]
    lines = [_head(overview, common)]
    for title, found in (("What differs:", wrong), ("All others:" if wrong else "", fine)):
        if found:
            lines += [title] if title else []
            lines += [text for each in found for text in _lines(each, common, details)]
    lines += _listed("movie", "in no series", overview.left)
    what = "that is not a series" if len(overview.ignored) == 1 else "that are not series"
    lines += _listed("mdoc file", what, overview.ignored)
    return "\n".join(line for line in lines if line)


def _common(series: Sequence[SeriesOverview]) -> tuple[int, float | None, float | None]:
    """Return what most series have: number of tilts, tilt axis, pixel size."""
    if not series:
        return 0, None, None
    axes = Counter(None if each.tilt_axis is None else round(each.tilt_axis, 1) for each in series)
    return (Counter(len(each.matches) for each in series).most_common(1)[0][0], axes.most_common(1)[0][0],
            Counter(each.pixel_size for each in series).most_common(1)[0][0])


def _head(overview: Overview, common: tuple[int, float | None, float | None]) -> str:
    tilts, axis, pixel = common
    count = len(overview.series)
    most = f", most of {tilts} tilts, tilt axis {_number(axis, 'degrees')}, {_number(pixel, 'A')}" if count else ""
    return f"{count} tilt series and {counted(overview.movies, 'movie')}{most}."


def _number(value: float | None, unit: str) -> str:
    return "not known" if value is None else f"{value:g} {unit}"


def _differs(series: SeriesOverview, common: tuple[int, float | None, float | None]) -> list[str]:
    """Say how a series differs from most, and what is wrong with it, the worst first."""
    differences = [series.reason.rstrip(".")] if series.reason else []
    if series.missing:
        names = [each.tilt.movie or f"the tilt at {each.tilt.angle:.1f} degrees" for each in series.missing]
        more = " ..." if len(names) > 3 else ""
        differences.append(f"no movie for {len(names)} of {len(series.matches)}: {', '.join(names[:3])}{more}")
    differences += [WORDS[step] for step in series.steps if WORDS[step]]
    if len(series.matches) != common[0] and not series.reason:
        differences.append(f"{len(series.matches)} tilts")
    axis = None if series.tilt_axis is None else round(series.tilt_axis, 1)
    if axis != common[1]:
        differences.append(f"tilt axis {_number(axis, 'degrees')}")
    if series.pixel_size != common[2]:
        differences.append(_number(series.pixel_size, "A"))
    again = repeated([each.tilt.angle for each in series.matches])
    return [*differences, again] if again else differences


def _lines(series: SeriesOverview, common: tuple[int, float | None, float | None], details: bool) -> list[str]:
    found = len(series.matches) - len(series.missing)
    text = ": ".join(filter(None, (f"{found:3d} movies", "; ".join(_differs(series, common)))))
    lines = [f"  {series.series_id:16} {len(series.matches):3d} tilts {text}"]
    if details:
        lines += [f"      {each.tilt.angle:7.2f} deg  {each.tilt.movie or '-'}  {each.file or 'no movie'}"
                  + (f"  ({each.step.value})" if each.step not in (None, Step.EXACT) else "") for each in series.matches]
        lines += [f"      {path}" for path in series.mdocs] + [f"      {text}" for text in series.warnings]
    return lines


def _listed(thing: str, what: str, files: Mapping[str, str]) -> list[str]:
    """Return files grouped by reason, a few names each."""
    if not files:
        return []
    by_reason: dict[str, list[str]] = {}
    for path, reason in files.items():
        by_reason.setdefault(reason, []).append(os.path.basename(path))
    lines = [f"{counted(len(files), thing)} {what}:"]
    for reason, names in by_reason.items():
        lines.append(f"  {some(names, 3)}: {reason}")
    return lines


def as_json(overview: Overview) -> dict[str, object]:
    """Return what `tomostream mdoc --movies --json` prints."""
    return {
        "movies": overview.movies,
        "series": [{
            "series_id": each.series_id, "name": each.name, "state": each.state, "reason": each.reason, "mdocs": list(each.mdocs),
            "tilt_axis_deg": each.tilt_axis, "pixel_size_A": each.pixel_size, "warnings": list(each.warnings),
            "tilts": [{"angle_deg": match.tilt.angle, "movie": match.tilt.movie, "file": match.file or None,
                       "step": None if match.step is None else match.step.value} for match in each.matches],
        } for each in overview.series],
        "movies_left": dict(overview.left),
        "mdocs_ignored": dict(overview.ignored),
    }
