# SPDX-License-Identifier: GPL-3.0-or-later
"""Series as RELION 5 has them after alignment: `tomograms.star` and a table of tilts for each.

The folder is a RELION project: all paths are relative to it. Read by RELION's `TomogramSet` and `Tomogram::setProjectionMatrix`:
projection = shift Rz(rlnTomoZRot) Ry(rlnTomoYTilt) Rx(rlnTomoXTilt), shifts in A in the raw image.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Any

from tomostream.files.writing import whole
from tomostream.handoff.conventions import relion_hand
from tomostream.handoff.facts import NotPossible, Series, Tilt
from tomostream.handoff.files import bring
from tomostream.handoff.imod import poses
from tomostream.programs.ctf import CtfRow

TOMOGRAMS, TILT_SERIES = "tomograms.star", "tilt_series"
#: What RELION assumes if the hand is unknown.
USUAL_HAND = -1
OPTICS_GROUP = "opticsGroup1"


def write(series: Series, out: str, copy: bool) -> None:
    """Write the table of tilts of a series, and link or copy its images.

    Raises
    ------
    NotPossible : RELION needs something that is unknown; says what.
    OSError : it cannot be written.
    """
    used, optics = series.used, series.optics
    if not used:
        raise NotPossible(f"{series.name} has no aligned tilt")
    missing = [word for word, value in (("the voltage", optics.voltage), ("the spherical aberration", optics.cs),
                                        ("the amplitude contrast", optics.amplitude_contrast)) if value is None]
    missing += ["the dose before each tilt"] if any(tilt.prior_dose is None for tilt in used) else []
    if missing:
        raise NotPossible(f"RELION needs {' and '.join(missing)} of {series.name}, which is not known")
    images = Images(series, out, copy)
    rows = [_tilt(series, tilt, images) for tilt in used]
    _write_star({series.name: _columns(rows)}, os.path.join(out, TILT_SERIES, f"{series.name}.star"))
    images.bring_volumes()


class Images:
    """The images of a series in the RELION project: those of the micrographs, or, if these were removed, sections of the
    composed stack."""

    def __init__(self, series: Series, out: str, copy: bool) -> None:
        self._series, self._out, self._copy = series, out, copy

    def path(self, *parts: str) -> str:
        """Return the absolute path for a path relative to the project."""
        return os.path.join(self._out, *parts)

    def of(self, tilt: Tilt, suffix: str) -> str:
        """Return the image of a tilt ("", "_even", "_odd"), relative to the project; "" if there is none."""
        single = {"": tilt.micrograph, "_even": tilt.even, "_odd": tilt.odd}[suffix]
        stack = {"": self._series.stack, "_even": self._series.even, "_odd": self._series.odd}[suffix]
        if single and os.path.exists(single):
            name = os.path.join("micrographs", self._series.name, os.path.basename(single))
            bring(single, self.path(name), self._copy)
            return name
        if not stack:
            return ""
        name = os.path.join("micrographs", self._series.name, f"{self._series.name}{suffix}.mrcs")
        if not os.path.exists(self.path(name)):
            bring(stack, self.path(name), self._copy)
        return f"{tilt.section:06d}@{name}"

    def movie(self, tilt: Tilt) -> str:
        """Return the movie of a tilt, relative to the project. Raw data are never copied."""
        if not (tilt.movie and os.path.exists(tilt.movie)):
            return ""
        name = os.path.join("movies", self._series.name, os.path.basename(tilt.movie))
        bring(tilt.movie, self.path(name), copy=False)
        return name

    def bring_volumes(self) -> None:
        """Link or copy the tomogram and its halves."""
        for source, target in volumes(self._series).values():
            bring(source, self.path(target), self._copy)


def volumes(series: Series) -> dict[str, tuple[str, str]]:
    """Return label -> (file, path in the project) of the tomogram and its halves; RELION's first half is that of even frames."""
    volume = series.volume
    if volume is None or not volume.upright:
        return {}
    files = {"": volume.path, "Half1": volume.even, "Half2": volume.odd}
    suffixes = {"": "", "Half1": "_half1", "Half2": "_half2"}
    return {f"rlnTomoReconstructedTomogram{half}": (path, os.path.join("tomograms", f"rec{suffixes[half]}_{series.name}.mrc"))
            for half, path in files.items() if path and os.path.exists(path)}


def _tilt(series: Series, tilt: Tilt, images: Images) -> dict[str, Any]:
    """Return the row of a tilt."""
    pose, = poses([tilt])
    row: dict[str, Any] = {
        "rlnMicrographMovieName": images.movie(tilt) or None, "rlnTomoTiltMovieFrameCount": tilt.frames,
        "rlnTomoNominalStageTiltAngle": tilt.nominal_deg, "rlnTomoNominalTiltAxisAngle": series.tilt_axis,
        "rlnMicrographPreExposure": tilt.prior_dose,
        "rlnTomoNominalDefocus": None if tilt.target_defocus is None else -tilt.target_defocus,
        "rlnMicrographName": images.of(tilt, ""), "rlnMicrographNameEven": images.of(tilt, "_even") or None,
        "rlnMicrographNameOdd": images.of(tilt, "_odd") or None,
        "rlnTomoXTilt": 0.0, "rlnTomoYTilt": pose.tilt_deg, "rlnTomoZRot": pose.rot_deg,
        "rlnTomoXShiftAngst": pose.tx * series.pixel_size, "rlnTomoYShiftAngst": pose.ty * series.pixel_size}
    ctf = ctf_of(series.used, tilt)
    if ctf is not None:
        row |= {"rlnDefocusU": ctf.defocus_max_A, "rlnDefocusV": ctf.defocus_min_A, "rlnDefocusAngle": ctf.azimuth_deg,
                "rlnCtfFigureOfMerit": ctf.score, "rlnCtfMaxResolution": ctf.resolution_A,
                "rlnPhaseShift": _degrees(ctf.phase_rad)}
    return row


def _degrees(radians: float) -> float | None:
    from math import degrees

    return degrees(radians) or None


def ctf_of(used: Sequence[Tilt], tilt: Tilt) -> CtfRow | None:
    """Return the CTF of a tilt; one without its own gets that of the nearest angle, with a score of 0. None: no tilt
    has."""
    if tilt.ctf is not None:
        return tilt.ctf
    near = min((other for other in used if other.ctf is not None),
               key=lambda other: abs(other.nominal_deg - tilt.nominal_deg), default=None)
    if near is None or near.ctf is None:
        return None
    ctf = near.ctf
    return CtfRow(ctf.number, ctf.defocus_max_A, ctf.defocus_min_A, ctf.azimuth_deg, ctf.phase_rad, 0.0, None)


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns that are known for every row, in order."""
    return {label: [row[label] for row in rows] for label in rows[0]
            if all(row.get(label) is not None for row in rows)}


def write_tomograms(every: Sequence[Series], out: str) -> None:
    """Write `tomograms.star`: one row per series."""
    path = os.path.join(out, TOMOGRAMS)
    if not every:
        if os.path.exists(path):
            os.remove(path)
        return
    _write_star({"global": _shared([_tomogram(series) for series in every])}, path)


def _tomogram(series: Series) -> dict[str, Any]:
    doses = [tilt.dose for tilt in series.used if tilt.dose is not None]
    binning = series.volume.binning if series.volume else 1.0
    x, y, z = unbinned(series)
    row: dict[str, Any] = {
        "rlnTomoName": series.name, "rlnVoltage": series.optics.voltage, "rlnSphericalAberration": series.optics.cs,
        "rlnAmplitudeContrast": series.optics.amplitude_contrast,
        "rlnMicrographOriginalPixelSize": series.movie_pixel_size or series.pixel_size,
        "rlnTomoHand": float(relion_hand(series.defocus_hand) or USUAL_HAND), "rlnOpticsGroupName": OPTICS_GROUP,
        "rlnTomoTiltSeriesPixelSize": series.pixel_size,
        "rlnTomoTiltSeriesStarFile": os.path.join(TILT_SERIES, f"{series.name}.star"),
        "rlnTomoFrameCount": len(series.used),
        "rlnTomoImportFractionalDose": sum(doses) / len(doses) if doses else None,
        "rlnTomoSizeX": x, "rlnTomoSizeY": y, "rlnTomoSizeZ": z, "rlnTomoTomogramBinning": binning}
    return row | {label: target for label, (_, target) in volumes(series).items()}


def unbinned(series: Series) -> tuple[int, int, int]:
    """Return the size (x, y, z) of the tomogram in px of the tilt series."""
    from tomostream.handoff.imod import aligned_size

    if series.volume is None:
        return (*aligned_size(series), series.thickness)
    a, b, c = (round(length * series.volume.binning) for length in series.volume.size)
    return (a, b, c) if series.volume.upright else (a, c, b)


def _shared(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns of all series; one that is unknown for any series is left out for all, but files are named if there are
    any."""
    labels = list(dict.fromkeys(label for row in rows for label in row))
    return {label: [row.get(label) if row.get(label) is not None else "None" for row in rows] for label in labels
            if label.startswith("rlnTomoReconstructed") or all(row.get(label) is not None for row in rows)}


def _write_star(tables: dict[str, dict[str, list[Any]]], path: str) -> None:
    """Write tables (name -> columns), complete or not at all."""
    import pandas
    import starfile

    os.makedirs(os.path.dirname(path), exist_ok=True)
    with whole(path) as part:
        starfile.write({name: pandas.DataFrame(columns) for name, columns in tables.items()}, part, float_format="%.6f")


def remove(name: str, out: str) -> None:
    """Remove what was written for a series."""
    for folder in ("micrographs", "movies"):
        shutil.rmtree(os.path.join(out, folder, name), ignore_errors=True)
    for path in (os.path.join(out, TILT_SERIES, f"{name}.star"),
                 *(os.path.join(out, "tomograms", f"rec{half}_{name}.mrc") for half in ("", "_half1", "_half2"))):
        if os.path.lexists(path):
            os.remove(path)
