# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a series, judged by thresholds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from statistics import median
from typing import get_args, get_type_hints

from tomostream.journal.space import Limits
from tomostream.programs.quality import Trust
from tomostream.report.facts import SeriesFacts, TiltFacts


@dataclass(frozen=True)
class Thresholds:
    """When an alarm is raised, and when it is over. None switches the alarm off. Units as in the names."""

    #: A tilt drifted more than this (length of the frames' path, px of the movie) ...
    drift_px: float | None = 60.0
    #: ... or more than this many times the session's median, and more than `drift_min_px`.
    drift_factor: float | None = 6.0
    drift_min_px: float = 8.0
    #: Share of the expected (or acquired) tilts that are in the tomogram.
    tilts_used_min: float | None = 0.85
    #: Counts of a tilt relative to what its cosine predicts: a grid bar, thick ice.
    counts_min: float | None = 0.6
    #: Target defocus, um, underfocus positive; None: from the mdoc, else the session's median. The tolerance is for a series and
    #: for a tilt.
    defocus_target_um: float | None = None
    defocus_tolerance_um: float | None = 1.5
    #: Difference of the tilt axis from the session's median, degrees.
    axis_deg: float | None = 1.5
    #: Thickness of the specimen, A.
    thickness_min_A: float | None = 300.0
    thickness_max_A: float | None = 5000.0
    #: Residual of a tilt, and the uncertainty (sigma) of its shift, px.
    residual_px: float | None = 5.0
    #: Quality of the alignment, 0 to 1; one that its program does not trust raises the alarm at any quality.
    quality_min: float | None = 0.3
    #: Nothing arrived for this many times the longest usual gap, and for `silence_min_minutes`.
    silence_factor: float | None = 3.0
    silence_min_minutes: float = 10.0
    #: Backlog, in minutes of processing.
    behind_minutes: float | None = 15.0
    #: Work is waiting and none was finished for so long (and for four times what a tomogram takes).
    standstill_minutes: float | None = 20.0
    #: Something (a queue that does not answer, a missing program) has kept a protocol from going on for so long.
    held_up_minutes: float | None = 5.0
    #: Free space, as a share of the disk and in GB: whichever is reached first. What the session needs is judged separately.
    disk_free_fraction: float | None = Limits.share
    disk_free_GB: float | None = Limits.bytes / 1e9
    #: Tilts or series in a row without the condition after which its alarm is over.
    quiet_tilts: int = 20
    quiet_series: int = 3
    #: A value must fall to this share of its threshold (or rise accordingly) before its alarm is over.
    release: float = 0.7

    @property
    def room(self) -> Limits:
        """When disk space is running low."""
        return Limits(self.disk_free_fraction or 0.0, round(1e9 * (self.disk_free_GB or 0.0)))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of all thresholds."""
        return tuple(item.name for item in fields(cls))

    @classmethod
    def parse(cls, words: Iterable[str]) -> Thresholds:
        """Parse NAME=VALUE words; `off` is None.

        Raises
        ------
        ValueError : an unknown name, or a value that is not a number; says which.
        """
        known = get_type_hints(cls)
        values: dict[str, float | int | None] = {}
        for word in words:
            name, equals, text = word.partition("=")
            if not equals or name not in known:
                raise ValueError(f"'{word}' is not a threshold: write NAME=VALUE with one of {', '.join(known)}")
            if text == "off" and type(None) in get_args(known[name]):
                values[name] = None
                continue
            try:
                values[name] = int(text) if known[name] is int else float(text)
            except ValueError:
                raise ValueError(f"threshold {name} cannot be '{text}': write a number, or off") from None
        return replace(cls(), **values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Finding:
    """Something wrong with one series: kind, a sentence, and the tilts (movies) concerned."""

    kind: str
    text: str
    tilts: tuple[str, ...] = ()


SERIES_KINDS = ("series-failed", "tilts-lost", "counts", "defocus", "axis", "thickness", "residual", "quality")


def judge_series(facts: SeriesFacts, limits: Thresholds, median_axis_deg: float | None = None,
                 target_defocus_um: float | None = None, drift_limit_px: float | None = None) -> tuple[Finding, ...]:
    """Return everything that is wrong with one series, the most serious first."""
    if facts.state == "failed":
        return (Finding("series-failed", facts.reason or "failed"),)
    found = [_tilts_lost(facts, limits), _low_counts(facts, limits), _axis(facts, limits, median_axis_deg),
             _residual(facts, limits), *_figures(facts, limits), _defocus(facts, limits, target_defocus_um),
             _drift(facts, drift_limit_px)]
    return tuple(finding for finding in found if finding is not None)


def _angles(tilts: Sequence[TiltFacts]) -> str:
    shown = ", ".join(f"{tilt.angle_deg:.0f}" for tilt in tilts[:8])
    return f"{shown}{' ...' if len(tilts) > 8 else ''} degrees"


def _tilts_lost(facts: SeriesFacts, limits: Thresholds) -> Finding | None:
    wanted = facts.tilts_expected or facts.tilts_seen
    if limits.tilts_used_min is None or facts.tilts_used is None or not wanted:
        return None
    if facts.tilts_used >= limits.tilts_used_min * wanted:
        return None
    return Finding("tilts-lost", f"{facts.tilts_used} of {wanted} tilts are in the tomogram")


def _low_counts(facts: SeriesFacts, limits: Thresholds) -> Finding | None:
    if limits.counts_min is None:
        return None
    low = [tilt for tilt, part in zip(facts.tilts, counts_of_expected(facts.tilts), strict=True)
           if part is not None and part < limits.counts_min]
    if not low:
        return None
    return Finding("counts", f"less than {100 * limits.counts_min:.0f} % of the counts that the tilt predicts at "
                   f"{_angles(low)}: a grid bar or thick ice", tuple(tilt.movie for tilt in low))


def counts_of_expected(tilts: Sequence[TiltFacts]) -> list[float | None]:
    """Return the mean counts of every tilt relative to what is expected; None where unknown.

    Counts fall as exp(-t / (L cos(tilt))) for a slab of thickness t and mean free path L. So the logarithm of counts per
    dose is fitted by a line in 1 / cos(tilt), with the Theil-Sen estimator, which tolerates up to 29 % of outliers.
    """
    points: list[tuple[float, float] | None] = []
    for tilt in tilts:
        known = tilt.mean_counts is not None and tilt.mean_counts > 0 and abs(tilt.angle_deg) < 85
        dose = tilt.dose_e_A2 if tilt.dose_e_A2 is not None and tilt.dose_e_A2 > 0 else 1.0
        points.append((1 / math.cos(math.radians(tilt.angle_deg)), math.log((tilt.mean_counts or 1.0) / dose))
                      if known else None)
    known_points = [point for point in points if point is not None]
    if len(known_points) < 5:
        return [None] * len(points)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(known_points) for b in known_points[i + 1:]
              if abs(b[0] - a[0]) > 0.02]
    slope = median(slopes) if slopes else 0.0
    base = median(y - slope * x for x, y in known_points)
    return [None if point is None else math.exp(point[1] - base - slope * point[0]) for point in points]


def _axis(facts: SeriesFacts, limits: Thresholds, center: float | None) -> Finding | None:
    if limits.axis_deg is None or facts.tilt_axis_deg is None or center is None:
        return None
    away = abs((facts.tilt_axis_deg - center + 90.0) % 180.0 - 90.0)
    if away <= limits.axis_deg:
        return None
    return Finding("axis", f"tilt axis {facts.tilt_axis_deg:.1f} degrees, {away:.1f} from the session's {center:.1f}")


def _residual(facts: SeriesFacts, limits: Thresholds) -> Finding | None:
    limit = limits.residual_px
    if limit is None:
        return None
    away = [tilt for tilt in facts.tilts if tilt.used and tilt.residual_px is not None and tilt.residual_px > limit]
    loose = [tilt for tilt in facts.tilts if tilt.used and tilt.sigma_px is not None and tilt.sigma_px > limit]
    words = [f"{max(tilt.residual_px or 0.0 for tilt in away):.1f} px away from where the other tilts predict it, at "
             f"{_angles(away)}"] if away else []
    words += [f"the shift is known to no better than {max(tilt.sigma_px or 0.0 for tilt in loose):.1f} px at "
              f"{_angles(loose)}"] if loose else []
    if not words:
        return None
    return Finding("residual", "; ".join(words), tuple(dict.fromkeys(tilt.movie for tilt in [*away, *loose])))


def _figures(facts: SeriesFacts, limits: Thresholds) -> list[Finding]:
    found = []
    thick = facts.thickness_A
    if thick is not None and limits.thickness_max_A is not None and thick > limits.thickness_max_A:
        found.append(Finding("thickness", f"the specimen is {thick / 10:.0f} nm thick, more than "
                             f"{limits.thickness_max_A / 10:.0f}"))
    if thick is not None and limits.thickness_min_A is not None and thick < limits.thickness_min_A:
        found.append(Finding("thickness", f"the specimen is {thick / 10:.0f} nm thick, less than "
                             f"{limits.thickness_min_A / 10:.0f}"))
    doubtful = facts.trust is Trust.DOUBTFUL
    if limits.quality_min is not None and (
            doubtful or (facts.quality is not None and facts.quality < limits.quality_min)):
        figure = "unknown" if facts.quality is None else f"{facts.quality:.2f}"
        found.append(Finding("quality", (facts.quality_note or "the alignment cannot be trusted") if doubtful
                             else f"alignment quality {figure}"))
    return found


def _defocus(facts: SeriesFacts, limits: Thresholds, target: float | None) -> Finding | None:
    if limits.defocus_tolerance_um is None:
        return None
    middle = facts.median_defocus_um
    if middle is not None and target is not None and abs(middle - target) > limits.defocus_tolerance_um:
        return Finding("defocus", f"defocus {middle:.1f} µm, where {target:.1f} µm was expected")
    bad = [tilt for tilt in facts.tilts if tilt.defocus_um is not None and middle is not None and abs(tilt.angle_deg) <= 45
           and abs(tilt.defocus_um - middle) > limits.defocus_tolerance_um]
    if not bad:
        return None
    return Finding("defocus", f"defocus far from the series' {middle:.1f} µm at {_angles(bad)}",
                   tuple(tilt.movie for tilt in bad))


def _drift(facts: SeriesFacts, limit: float | None) -> Finding | None:
    bad = [tilt for tilt in facts.tilts if tilt.drift_px is not None and limit is not None and tilt.drift_px > limit]
    if not bad:
        return None
    return Finding("drift", f"more than {limit:.0f} px of drift at {_angles(bad)}", tuple(tilt.movie for tilt in bad))
