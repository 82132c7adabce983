# SPDX-License-Identifier: GPL-3.0-or-later
"""Frame mdocs, one file a movie: which of them together make a tilt series."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from tomostream.acquisition.doses import running_sums
from tomostream.acquisition.facts import Known, MdocFacts, Tilt
from tomostream.acquisition.mdoc import SAME_ANGLE
from tomostream.acquisition.naming import movie_key, parse_movie_name


def group_frames(facts: Iterable[MdocFacts]) -> list[MdocFacts]:
    """Make one tilt series of the frame mdocs that belong together.

    Frame mdocs belong together when they are in one folder and the names of their movies begin alike (NAME_ORDER_ANGLE,
    or NAME_ORDER). The counter of the instrument may go on through several series of one name: a new series begins
    where PriorRecordDose falls, or where the navigator item changes.

    Parameters
    ----------
    facts : of any kind. Only frames are grouped; movies that a tilt series among `facts` lists are left to it.

    Returns
    -------
    list of MdocFacts of kind "tilt-series", in order of name. Frames at one angle (single particles) make none.
    """
    every = list(facts)
    listed = {movie_key(tilt.movie) for one in every if one.kind == "tilt-series" for tilt in one.tilts if tilt.movie}
    groups: dict[tuple[str, str], list[MdocFacts]] = {}
    for one in every:
        if one.kind == "frame" and one.frame_series and one.tilts and movie_key(one.tilts[0].movie or "") not in listed:
            groups.setdefault((os.path.dirname(one.path), one.frame_series), []).append(one)
    series = [_series(folder, name, part)
              for (folder, prefix), frames in sorted(groups.items())
              for name, part in _split(prefix, _in_order(_latest(frames)))]
    return [one for one in series if one is not None]


def _latest(frames: Sequence[MdocFacts]) -> list[MdocFacts]:
    """Keep one of the mdocs of each movie: the last by name of the file, as a re-read replaces a read."""
    return list({movie_key(one.tilts[0].movie or one.path): one for one in frames}.values())


def _number(frame: MdocFacts) -> int:
    return parse_movie_name(frame.tilts[0].movie or frame.series_name).order or 0


def _in_order(frames: Sequence[MdocFacts]) -> list[MdocFacts]:
    """Sort by time where every frame has one, the number in the name deciding within a second; else by the number."""
    times = [frame.tilts[0].time for frame in frames]
    if None not in times:
        return sorted(frames, key=lambda frame: (str(frame.tilts[0].time), _number(frame)))
    return sorted(frames, key=_number)


def _split(prefix: str, frames: Sequence[MdocFacts]) -> list[tuple[str, list[MdocFacts]]]:
    """Cut frames of one name where another series begins. The first keeps the name, others add their first number."""
    parts: list[list[MdocFacts]] = []
    for frame in frames:
        if not parts or begins_another_series(parts[-1][-1], frame):
            parts.append([])
        parts[-1].append(frame)
    return [(prefix if place == 0 else f"{prefix}_{_number(part[0])}", part) for place, part in enumerate(parts)]


def begins_another_series(before: MdocFacts, frame: MdocFacts) -> bool:
    """Tell whether `frame`, acquired next after `before` under the same name, belongs to another series.

    PriorRecordDose is then less than before, or the item of the navigator is another.
    """
    old, new = before.tilts[0].prior_dose.value, frame.tilts[0].prior_dose.value
    if old is not None and new is not None and new < old:
        return True
    labels = (before.evidence.get("NavigatorLabel"), frame.evidence.get("NavigatorLabel"))
    return None not in labels and labels[0] != labels[1]


def different_angles(angles: Sequence[float]) -> int:
    """Return how many tilt angles (degrees) differ by more than the stage's read-back error."""
    ordered = sorted(angles)
    return 1 + sum(after - before > SAME_ANGLE for before, after in pairwise(ordered))


def _series(folder: str, name: str, frames: Sequence[MdocFacts]) -> MdocFacts | None:
    """Return the tilt series that these frames make, None if they are single particles: many at one angle."""
    different = different_angles([frame.tilts[0].angle for frame in frames])
    if different < 2 or different < len(frames) / 2:
        return None
    first = frames[0]
    warnings = list(dict.fromkeys(warning for frame in frames for warning in frame.warnings))
    if different < len(frames):
        warnings.append("Some tilt angles come more than once: repeated exposures, or two series of one name.")
    return replace(
        first, path=os.path.join(folder, name), kind="tilt-series", reason="", series_name=name, frame_series="",
        tilts=_tilts(frames), tilts_if_ended=_tilts(frames), warnings=tuple(warnings),
        evidence={**first.evidence, "files": "\n".join(frame.path for frame in frames)})


def _tilts(frames: Sequence[MdocFacts]) -> tuple[Tilt, ...]:
    """Number the tilts from 1 and give each its prior dose: PriorRecordDose where all have it, else the running sum."""
    tilts = [frame.tilts[0] for frame in frames]
    priors: Sequence[Known[float]] = [tilt.prior_dose for tilt in tilts]
    if any(prior.source != "field PriorRecordDose" for prior in priors):
        priors = running_sums([tilt.dose for tilt in tilts])
    return tuple(replace(tilt, order=place, prior_dose=prior)
                 for place, (tilt, prior) in enumerate(zip(tilts, priors, strict=True), start=1))
