# SPDX-License-Identifier: GPL-3.0-or-later
"""The form tabs with the thresholds of the alarms, in the units used at the microscope."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pyworkflow.protocol import params

from tomostream.protocols import forms
from tomostream.report.judging import Thresholds


@dataclass(frozen=True)
class Field:
    """A field of the tabs: `threshold` times `unit`. 0 in the form switches the alarm off."""

    name: str
    threshold: str
    label: str
    help: str
    unit: float = 1.0
    highest: float = math.inf
    #: The threshold that 0 switches off; empty: `threshold` itself.
    switch: str = ""

    @property
    def default(self) -> float:
        return round(float(getattr(Thresholds(), self.threshold)) * self.unit, 6)


GROUPS: tuple[tuple[str, tuple[Field, ...]], ...] = (
    ("Tilts", (
        Field("alarmDrift", "drift_px", "Drift more than (px)",
              "Length of the path along which the frames of a movie drift, in pixels of the movie. A tilt that drifts six times "
              "as much as usual in this session raises the alarm too."),
        Field("alarmCounts", "counts_min", "Counts less than (%)",
              "Mean counts of a tilt, relative to what its angle predicts (the cosine): a grid bar, thick ice, a blanked beam.",
              100.0, 100.0),
    )),
    ("Session", (
        Field("alarmSilence", "silence_min_minutes", "Nothing arrives for (min)",
              "At least this long, and three times the longest usual gap of this session.", switch="silence_factor"),
        Field("alarmBehind", "behind_minutes", "Backlog longer than (min)",
              "Minutes of processing still to be done: the microscope is faster than this machine."),
        Field("alarmDisk", "disk_free_GB", "Free disk space less than (GB)",
              "On the disk of the project. Less than 5 %, or less than the session needs, raises the alarm too."),
    )),
    ("Series", (
        Field("alarmTiltsUsed", "tilts_used_min", "Tilts used less than (%)",
              "Tilts in the tomogram, relative to those that the series should have.", 100.0, 100.0),
        Field("alarmDefocus", "defocus_tolerance_um", "Defocus off by more than (µm)",
              "Difference from the target: the field below, else the mdoc, else the median of the session."),
        Field("alarmAxis", "axis_deg", "Tilt axis off by more than (deg)",
              "Difference from the median of the session: a misaligned series, or a changed magnification."),
        Field("alarmThin", "thickness_min_A", "Specimen thinner than (nm)", "As measured by the alignment.", 0.1),
        Field("alarmThick", "thickness_max_A", "Specimen thicker than (nm)", "As measured by the alignment.", 0.1),
        Field("alarmResidual", "residual_px", "Shift uncertain by more than (px)",
              "Uncertainty (one standard deviation) of the shift of the worst tilt, in pixels of the tilt series. Only "
              "the CPU engine measures it."),
        Field("alarmQuality", "quality_min", "Quality of alignment less than",
              "From 0 to 1. An alignment that the program itself does not trust raises the alarm at any value.", 1.0, 1.0),
    )),
)
FIELDS = tuple(field for _, group in GROUPS for field in group)
LIMITS = {field.name: (0.0, field.highest) for field in FIELDS}


def define_params(form: Any) -> None:
    """Add the tabs, shown with the live page, which raises the alarms. There are two so that the form fits on a low screen."""
    tabs = {"Tilts": "Alarms", "Series": "Series alarms"}
    for title, fields in GROUPS:
        if title in tabs:
            form.addSection(label=tabs[title])
        group = form.addGroup(title, condition="liveReport")
        for field in fields:
            group.addParam(field.name, params.FloatParam, default=field.default, condition="liveReport", label=field.label,
                           help=f"{field.help} 0 switches the alarm off.")
            if field.name == "alarmDefocus":
                group.addParam("alarmTarget", params.FloatParam, allowsNull=True, default=None, condition="liveReport",
                               label="Target defocus (µm)",
                               help="Underfocus is positive. Empty: from the mdoc, else the median of the session.")
    form.addParam("alarmThresholds", params.StringParam, default="", expertLevel=params.LEVEL_ADVANCED, condition="liveReport",
                  label="Other thresholds",
                  help="NAME=VALUE words separated by blanks, for thresholds without a field; they override the fields above. "
                       f"E.g. quiet_series=5 drift_factor=off. Names: {', '.join(Thresholds.names())}.")


def words_of(protocol: Any) -> list[str]:
    """Return what differs from the defaults, as NAME=VALUE words; those typed by the user come last and win."""
    words = []
    for field in FIELDS:
        value = getattr(protocol, field.name).get()
        if value is None or value == field.default:
            continue
        if value == 0:
            words.append(f"{field.switch or field.threshold}=off")
        else:
            words.append(f"{field.threshold}={value / field.unit:.10g}")
    target = protocol.alarmTarget.get()
    if target is not None:
        words.append(f"defocus_target_um={target:g}")
    return words + (protocol.alarmThresholds.get() or "").split()


def thresholds_of(protocol: Any) -> Thresholds:
    """Return the thresholds of the form; the defaults where these are invalid (`problems` says so)."""
    try:
        return Thresholds.parse(words_of(protocol))
    except ValueError:
        return Thresholds()


def problems(protocol: Any) -> list[str]:
    """For `_validate`."""
    found = forms.number_problems(protocol, {**LIMITS, "alarmTarget": (-20.0, 20.0)})
    thin, thick = protocol.alarmThin.get(), protocol.alarmThick.get()
    if thin is not None and thick is not None and 0 < thick <= thin:
        found.append(f"Alarms: a specimen cannot be thicker than {thick:g} nm and thinner than {thin:g} nm at once.")
    try:
        Thresholds.parse(words_of(protocol))
    except ValueError as error:
        found.append(f"Other thresholds of the alarms: {error}.")
    return found
