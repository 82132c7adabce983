# SPDX-License-Identifier: GPL-3.0-or-later
"""Series for WarpTools: `.tomostar` files, our averages where Warp looks for its own, and alignments to import.

Warp's tilt angles are ours with the opposite sign (`conventions`; its `ts_import` also inverts them). `ts_import_alignments`
expects as many lines in `.xf` and `.tlt` as there are used tilts, and excludes those whose angle is in `_cutviews0.rawtlt`,
within 0.2 degrees.
"""

from __future__ import annotations

import os
import shutil

from tomostream.files.writing import whole, write_text
from tomostream.handoff.facts import NotPossible, Series, Tilt
from tomostream.handoff.files import bring, cut_stack, whole_folder
from tomostream.handoff.imod import column, poses
from tomostream.programs.aln import format_xf, xf_of_row

FRAMESERIES, TOMOSTAR, ALIGNMENTS = "warp_frameseries", "tomostar", "alignments"
#: Angles (degrees) nearer to each other than this are equal for Warp.
SAME_ANGLE = 0.2


def write(series: Series, out: str, copy: bool) -> None:
    """Write the `.tomostar`, the averages and the alignment of a series.

    Raises
    ------
    NotPossible : Warp needs something that is unknown; says what.
    OSError : it cannot be written.
    """
    if not series.used:
        raise NotPossible(f"{series.name} has no aligned tilt")
    if any(tilt.prior_dose is None for tilt in series.tilts):
        raise NotPossible(f"Warp needs the dose before each tilt of {series.name}, which is not known")
    tilts = sorted((*series.used, *cut(series)), key=lambda tilt: -tilt.nominal_deg)
    for tilt in tilts:
        _bring_average(series, tilt, out, copy)
    _write_alignment(series, os.path.join(out, ALIGNMENTS, series.name))
    _write_tomostar(series, tilts, os.path.join(out, TOMOSTAR, f"{series.name}.tomostar"))


def cut(series: Series) -> list[Tilt]:
    """Return the unused tilts that Warp can tell from the used ones by their angle."""
    return [tilt for tilt in series.left_out
            if all(abs(tilt.nominal_deg - other.nominal_deg) > 2 * SAME_ANGLE for other in series.used)]


def root(series: Series, tilt: Tilt) -> str:
    """Return the name of a tilt in Warp, without extension."""
    name = os.path.basename(tilt.movie or tilt.micrograph)
    return os.path.splitext(name)[0] if name else f"{series.name}_{tilt.section:03d}"


def _bring_average(series: Series, tilt: Tilt, out: str, copy: bool) -> None:
    """Put the averages of a tilt, and of its halves, where Warp puts its own."""
    for folder, single, stack in (("", tilt.micrograph, series.stack), ("even", tilt.even, series.even),
                                  ("odd", tilt.odd, series.odd)):
        target = os.path.join(out, FRAMESERIES, "average", folder, f"{root(series, tilt)}.mrc")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if single and os.path.exists(single):
            bring(single, target, copy)
        elif stack:
            cut_stack(stack, target, [tilt.section], series.pixel_size)


def _write_alignment(series: Series, folder: str) -> None:
    used = sorted(series.used, key=lambda tilt: -tilt.nominal_deg)      # by Warp's angles
    with whole_folder(folder) as part:
        stem = os.path.join(part, series.name)
        write_text(f"{stem}.xf", format_xf([xf_of_row(pose.rot_deg, pose.tx, pose.ty) for pose in poses(used)]))
        write_text(f"{stem}.tlt", column(-pose.tilt_deg for pose in poses(used)))
        if cut(series):
            write_text(f"{stem}_cutviews0.rawtlt", column(-tilt.nominal_deg for tilt in cut(series)))


def _write_tomostar(series: Series, tilts: list[Tilt], path: str) -> None:
    """Write the tilts by Warp's angle, with nominal angles, because the alignment is imported."""
    import pandas
    import starfile

    axis = series.tilt_axis if series.tilt_axis is not None else poses(series.used)[0].rot_deg
    table = pandas.DataFrame({
        "wrpMovieName": [os.path.join("..", FRAMESERIES, _movie_name(series, tilt)) for tilt in tilts],
        "wrpAngleTilt": [-tilt.nominal_deg for tilt in tilts], "wrpAxisAngle": [axis] * len(tilts),
        "wrpDose": [tilt.prior_dose for tilt in tilts]})
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with whole(path) as part:
        starfile.write({"": table}, part, float_format="%.4f")


def _movie_name(series: Series, tilt: Tilt) -> str:
    return os.path.basename(tilt.movie) if tilt.movie else f"{root(series, tilt)}.mrc"


def remove(series: Series, out: str) -> None:
    """Remove what was written for a series."""
    shutil.rmtree(os.path.join(out, ALIGNMENTS, series.name), ignore_errors=True)
    average = os.path.join(out, FRAMESERIES, "average")
    for path in (os.path.join(out, TOMOSTAR, f"{series.name}.tomostar"),
                 *(os.path.join(average, folder, f"{root(series, tilt)}.mrc") for tilt in series.tilts
                   for folder in ("", "even", "odd"))):
        if os.path.lexists(path):
            os.remove(path)
