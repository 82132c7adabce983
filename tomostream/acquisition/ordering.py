# SPDX-License-Identifier: GPL-3.0-or-later
"""The order in which the exposures of an mdoc were acquired, and what the specimen had received before each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from tomostream.acquisition.doses import running_sums
from tomostream.acquisition.facts import Known, Origin
from tomostream.acquisition.grammar import Section
from tomostream.acquisition.naming import parse_movie_name


@dataclass(frozen=True)
class Described:
    """One exposure as its section describes it, before it is put in order. `stamp`, `time`: when; `prior`, `dose` in e/A2."""

    section: Section
    index: int
    movie: str | None
    angle: float | None
    time: datetime | None
    stamp: float | None
    prior: float | None
    dose: Known[float]
    folder: str = ""


def in_order(exposures: Sequence[Described], warnings: list[str]) -> list[Described]:
    """Sort by TimeStamp, else DateTime, else PriorRecordDose, else as in the file, with a warning."""
    stamps = [exposure.stamp for exposure in exposures]
    times = [exposure.time for exposure in exposures]
    priors = [exposure.prior for exposure in exposures]
    if len(exposures) < 2:
        return list(exposures)
    if None not in stamps and len(set(stamps)) > 1:
        return sorted(exposures, key=lambda e: (e.stamp or 0.0, e.prior or 0.0, e.index))
    if None not in times and len(set(times)) > 1:
        return sorted(exposures, key=lambda e: (e.time or datetime.min, e.prior or 0.0, e.index))
    if None not in priors and len(set(priors)) == len(priors):
        return sorted(exposures, key=lambda e: (e.prior or 0.0, e.index))
    numbered = [(_number_in_name(exposure), exposure) for exposure in exposures]
    if len({number_of for number_of, _ in numbered} - {None}) == len(exposures):
        warnings.append("The order of the tilts was taken from the numbers in the names of their movies: the file holds "
                        "neither TimeStamp nor DateTime nor PriorRecordDose.")
        return [exposure for _, exposure in sorted(numbered, key=lambda pair: (pair[0] or 0, pair[1].index))]
    warnings.append("No TimeStamp, DateTime or PriorRecordDose says in which order the tilts were acquired: "
                    "the order of the file is taken.")
    return list(exposures)


def _number_in_name(exposure: Described) -> int | None:
    """Return the acquisition number in the name of the movie, if the angle next to it is that of the tilt."""
    fields = parse_movie_name(exposure.movie or "")
    agrees = exposure.angle is not None and fields.angle is not None and abs(fields.angle - exposure.angle) <= 1.0
    return fields.order if agrees else None


def _order_is_a_guess(ordered: Sequence[Described]) -> bool:
    """Tell whether tilts without times are listed by angle: it is unknown whether they were acquired so or sorted later."""
    if len(ordered) < 3 or any(_number_in_name(exposure) is not None for exposure in ordered):
        return False
    if all(exposure.stamp is not None or exposure.time is not None for exposure in ordered):
        return False
    angles = [exposure.angle for exposure in ordered if exposure.angle is not None]
    return angles == sorted(angles) or angles == sorted(angles, reverse=True)


def prior_doses(ordered: Sequence[Described], warnings: list[str]) -> list[Known[float]]:
    """Return the dose before each exposure, e/A2: PriorRecordDose if it grows with time, else the running sum."""
    priors = [exposure.prior for exposure in ordered]
    known = [prior for prior in priors if prior is not None]
    grows = all(a < b for a, b in pairwise(known)) and all(prior >= 0 for prior in known)
    uncalibrated = not any(known) and (len(known) > 1 or any(exposure.dose.value is None for exposure in ordered))
    if known and len(known) == len(priors) and grows and not uncalibrated:
        return [Known(prior, "field PriorRecordDose", Origin.PRIOR_DOSE) for prior in known]
    if known and not uncalibrated:
        problem = "does not grow from tilt to tilt" if not grows else "is not in every section"
        warnings.append(f"PriorRecordDose {problem}: the running sum of the doses is taken.")
    if _order_is_a_guess(ordered):
        return [Known(None, "the file lists the tilts by angle and does not say when each was acquired")] * len(ordered)
    return running_sums([exposure.dose for exposure in ordered])


def without_repeats(pairs: list[tuple[Described, Known[float]]],
                     warnings: list[str]) -> list[tuple[Described, Known[float]]]:
    """Keep the last of the sections that name one movie of one folder: the file on disk is that of the latest exposure."""
    last = {(one.folder, one.movie): place for place, (one, _) in enumerate(pairs) if one.movie is not None}
    kept = [pair for place, pair in enumerate(pairs) if pair[0].movie is None or last[pair[0].folder, pair[0].movie] == place]
    if len(kept) < len(pairs):
        warnings.append(f"{len(pairs) - len(kept)} section(s) name a movie that a later section names too: the later exposure "
                        "overwrote their frames, and they are left out.")
    return kept
