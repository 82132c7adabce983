# SPDX-License-Identifier: GPL-3.0-or-later
"""The plots, each drawn into a given matplotlib figure: the same on a display, in a file and in a test."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from tomostream.journal.composed import ComposedSeries
from tomostream.viewers.results import SeriesAlignment, TiltCtf

X_COLOUR, Y_COLOUR, BAD_COLOUR = "#1f6fb4", "#d9822b", "#c23030"
GRID = {"color": "0.85", "linewidth": 0.7}


def draw_frame_drift(figure: Any, movie: str, shifts: Sequence[tuple[float, float]]) -> None:
    """Draw the position of the specimen in every frame: its path in the image plane, and both components over the frames."""
    x, y = [shift[0] for shift in shifts], [shift[1] for shift in shifts]
    frames = range(1, len(shifts) + 1)
    path, over = figure.subplots(1, 2)
    path.plot(x, y, "-", color="0.6", linewidth=1)
    path.scatter(x, y, c=list(frames), cmap="viridis", s=22, zorder=3)
    path.annotate("first frame", (x[0], y[0]), textcoords="offset points", xytext=(6, 6), fontsize=8)
    path.set(xlabel="x (px)", ylabel="y (px)", title="Path")
    path.set_aspect("equal", adjustable="datalim")
    over.plot(frames, x, ".-", color=X_COLOUR, label="x")
    over.plot(frames, y, ".-", color=Y_COLOUR, label="y")
    over.set(xlabel="frame", ylabel="shift (px)", title="Shift of each frame")
    over.legend(frameon=False)
    _finish(figure, f"Frame drift of {movie}", path, over)


def draw_drifts(figure: Any, drifts: Sequence[tuple[str, float]]) -> None:
    """Draw the length of the drift of every movie, in order of alignment."""
    axes = figure.subplots()
    values = [drift for _, drift in drifts]
    axes.plot(range(1, len(values) + 1), values, ".", color=X_COLOUR, markersize=5)
    worst = max(range(len(values)), key=values.__getitem__)
    axes.annotate(drifts[worst][0], (worst + 1, values[worst]), textcoords="offset points", xytext=(0, 6), fontsize=8,
                  ha="center")
    axes.set(xlabel="movie, in order of alignment", ylabel="length of the path of its frames (px)", ylim=(0, None))
    axes.margins(y=0.15)
    _finish(figure, "Drift of all movies", axes)


def draw_alignment(figure: Any, series: SeriesAlignment) -> None:
    """Draw the shift of every tilt with its standard deviation, and the tilts left out, with the reasons."""
    shifts, sigmas = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 2)})
    used = [(tilt.angle, tilt.shift, tilt.sigma) for tilt in series.tilts if tilt.shift is not None]
    angles = [angle for angle, _, _ in used]
    shifts.plot(angles, [shift[0] for _, shift, _ in used], ".-", color=X_COLOUR, label="x")
    shifts.plot(angles, [shift[1] for _, shift, _ in used], ".-", color=Y_COLOUR, label="y")
    shifts.set(ylabel="shift (px)")
    known = [(angle, sigma) for angle, _, sigma in used if sigma is not None]
    if known:
        sigmas.bar([angle for angle, _ in known], [sigma for _, sigma in known], width=_bar_width(angles), color="0.55")
    else:
        sigmas.text(0.5, 0.5, "the program gives no uncertainty", transform=sigmas.transAxes, ha="center", color="0.4")
    sigmas.set(xlabel="tilt angle (degrees)", ylabel="uncertainty of\nthe shift (px)")
    for tilt in series.tilts:
        if tilt.shift is None:
            for axes in (shifts, sigmas):
                axes.axvline(tilt.angle, color=BAD_COLOUR, linestyle=":", linewidth=1.2)
            shifts.annotate(f"left out: {tilt.reason}", (tilt.angle, 1), xycoords=("data", "axes fraction"), rotation=90,
                            va="top", ha="right", fontsize=7, color=BAD_COLOUR)
    shifts.legend(frameon=False, loc="best")
    _finish(figure, f"Alignment of {series.series_id}{alignment_words(series)}", shifts, sigmas)


def alignment_words(series: SeriesAlignment) -> str:
    """Return axis, offset, thickness and quality in words, as far as known."""
    words = [text for text, value in (
        (f"tilt axis {series.tilt_axis or 0:.2f} degrees", series.tilt_axis),
        (f"tilt offset {series.tilt_offset or 0:+.1f} degrees", series.tilt_offset),
        (f"thickness {(series.thickness or 0) / 10:.0f} nm", series.thickness),
        (f"quality {series.quality or 0:.2f}", series.quality)) if value is not None]
    return f"\n{', '.join(words)}" if words else ""


def draw_acquisition(figure: Any, series: ComposedSeries) -> None:
    """Draw angle and prior dose of each tilt over the order of acquisition; and what is missing or taken out, with the
    reasons."""
    angles, doses = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 2)})
    known = sorted((tilt for tilt in series.tilts if tilt.order is not None), key=lambda tilt: tilt.order or 0)
    used = [tilt for tilt in known if tilt.state == "used"]
    angles.plot([tilt.order for tilt in known], [tilt.angle for tilt in known], "-", color="0.8", linewidth=1)
    angles.plot([tilt.order for tilt in used], [tilt.angle for tilt in used], "o", color=X_COLOUR, markersize=5, label="used")
    for state, marker, words in (("missing", "x", "missing"), ("excluded", "s", "taken out")):
        these = [tilt for tilt in known if tilt.state == state]
        if these:
            angles.plot([tilt.order for tilt in these], [tilt.angle for tilt in these], marker, color=BAD_COLOUR, label=words)
        for tilt in these:
            angles.annotate(tilt.reason[:40], (tilt.order, tilt.angle), textcoords="offset points", xytext=(6, 4), fontsize=7,
                            color=BAD_COLOUR)
    lost = [tilt for tilt in series.tilts if tilt.order is None]
    for tilt in lost:
        angles.axhline(tilt.angle, color=BAD_COLOUR, linestyle=":", linewidth=1.2)
    angles.set(ylabel="tilt angle (degrees)")
    angles.legend(frameon=False, loc="best")
    with_dose = [tilt for tilt in known if tilt.prior_dose is not None]
    if with_dose:
        doses.plot([tilt.order for tilt in with_dose], [tilt.prior_dose for tilt in with_dose], ".-", color=Y_COLOUR)
    else:
        doses.text(0.5, 0.5, "the mdoc does not give the doses", transform=doses.transAxes, ha="center", color="0.4")
    doses.set(xlabel="order of acquisition", ylabel="dose before\nthe tilt (e/A$^2$)")
    doses.xaxis.get_major_locator().set_params(integer=True)
    angles.margins(y=0.12)
    note = f"\nversion {series.version}, {len(series.used)} of {len(series.tilts)} tilts used"
    note += "; dotted: a tilt that never arrived" if lost else ""
    _finish(figure, f"Acquisition of {series.series_id}{note}", angles, doses)


def draw_ctf(figure: Any, series_id: str, tilts: Sequence[TiltCtf]) -> None:
    """Draw the defocus of every tilt in um (underfocus positive), and the resolution of the fit in A."""
    defocus, resolution = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 2)})
    angles = [tilt.angle for tilt in tilts]
    defocus.fill_between(angles, [tilt.defocus_min for tilt in tilts], [tilt.defocus_max for tilt in tilts],
                         color=X_COLOUR, alpha=0.2, linewidth=0, label="astigmatism")
    defocus.plot(angles, [(tilt.defocus_min + tilt.defocus_max) / 2 for tilt in tilts], ".-", color=X_COLOUR, label="mean")
    defocus.set(ylabel="defocus (µm)")
    defocus.legend(frameon=False)
    resolution.plot(angles, [tilt.resolution for tilt in tilts], ".-", color=Y_COLOUR)
    resolution.set(xlabel="tilt angle (degrees)", ylabel="fit reaches (A)")
    resolution.invert_yaxis()
    _finish(figure, f"CTF of {series_id}", defocus, resolution)


def _bar_width(angles: Sequence[float]) -> float:
    """Return the width of bars in degrees: most of the step between tilts."""
    steps = [after - before for before, after in itertools.pairwise(angles) if after > before]
    return 0.7 * min(steps, default=1.0)


def _finish(figure: Any, title: str, *axes: Any) -> None:
    for each in axes:
        each.grid(**GRID)
        each.set_axisbelow(True)
        for side in ("top", "right"):
            each.spines[side].set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
