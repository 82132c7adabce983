# SPDX-License-Identifier: GPL-3.0-or-later
"""A series as an etomo folder: etomo opens it, `newst.com` and `tilt.com` make the tomogram.

Tilts that are left out are treated as by IMOD's excludeviews: the stack, `.xf`, `.tlt`, `.rawtlt` and `.defocus` hold only
the remaining views, and `<series>_cutviews0.rawtlt` the angles of those that were cut. WarpTools and RELION expect this.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

from tomostream.files.writing import write_text
from tomostream.handoff.facts import NotPossible, Pose, Series, Tilt
from tomostream.handoff.files import bring, cut_stack, whole_folder
from tomostream.programs.aln import format_xf, xf_of_row
from tomostream.programs.ctf import CtfRow, format_imod_defocus

_NEWST = """$setenv IMOD_OUTPUT_FORMAT MRC
$newstack -StandardInput
AntialiasFilter\t-1
InputFile\t{name}.mrc
OutputFile\t{name}_ali.mrc
TransformFile\t{name}.xf
TaperAtFill\t1,1
AdjustOrigin
SizeToOutputInXandY\t{x},{y}
OffsetsInXandY\t0.0,0.0
ImagesAreBinned\t1.0
{binning}
$if (-e ./savework) ./savework
"""
_TILT = """$setenv IMOD_OUTPUT_FORMAT MRC
$tilt -StandardInput
InputProjections\t{name}_ali.mrc
OutputFile\t{name}_full_rec.mrc
IMAGEBINNED\t{binned}
TILTFILE\t{name}.tlt
XTILTFILE\t{name}.xtilt
THICKNESS\t{thickness}
RADIAL\t0.35 0.035
FalloffIsTrueSigma\t1
XAXISTILT\t0.0
SCALE\t0.0 1.0
PERPENDICULAR
MODE\t2
FULLIMAGE\t{x} {y}
SUBSETSTART\t0 0
AdjustOrigin
OFFSET\t0.0
SHIFT\t0.0 0.0
ActionIfGPUFails\t1,2
$if (-e ./savework) ./savework
"""
_EDF = """#Written for etomo by tomostream
Setup.DataSource=CCD
Setup.AxisType=Single Axis
Setup.DatasetName={name}
Setup.BackupDirectory=
Setup.RawImageStackExt=mrc
Setup.OrigRawImageStackExt=mrc
Setup.OrigScopeTemplate=
Setup.NamingStyle=1
Setup.PixelSize={pixel:.5f}
Setup.FiducialDiameter=0.0
Setup.ImageRotationA={axis:.3f}
Setup.Binning=1
Setup.AxisA.TiltAngle.Type=File
Setup.AxisA.TiltAngle.RangeMin={lowest:.2f}
Setup.AxisA.TiltAngle.RangeStep=1.0
Setup.AxisA.ExcludeProjections=
ProcessTrack.A.State.PreProcessing=Complete
ProcessTrack.A.State.CoarseAlignment=Complete
ProcessTrack.A.State.FiducialModel=Complete
ProcessTrack.A.State.FineAlignment=Complete
ProcessTrack.A.State.TomogramPositioning=Complete
ProcessTrack.A.State.FinalAlignedStack=In Progress
ProcessTrack.A.State.TomogramGeneration=Not started
ProcessTrack.RevisionNumber=3.0
"""


def poses(tilts: Iterable[Tilt]) -> list[Pose]:
    """Return the poses of tilts that are used."""
    return [tilt.pose for tilt in tilts if tilt.pose is not None]


def aligned_size(series: Series) -> tuple[int, int]:
    """Return (x, y) of the aligned images in px of the tilt series: swapped if the axis is nearer to x than to y."""
    x, y = series.size
    return (y, x) if abs(math.sin(math.radians(poses(series.used)[0].rot_deg))) > 0.707 else (x, y)


def column(values: Iterable[float]) -> str:
    """Return one number per line, as in IMOD's angle files."""
    return "".join(f"{value:8.2f}\n" for value in values)


def write(series: Series, out: str, copy: bool) -> None:
    """Write `OUT/imod/<series>/`, replacing what was there.

    Raises
    ------
    NotPossible : no tilt is aligned.
    OSError : it cannot be written.
    """
    used = series.used
    if not used:
        raise NotPossible(f"{series.name} has no aligned tilt")
    with whole_folder(os.path.join(out, series.name)) as folder:
        stem = os.path.join(folder, series.name)
        if series.sorted_whole:
            bring(series.stack, f"{stem}.mrc", copy)
        else:
            cut_stack(series.stack, f"{stem}.mrc", [tilt.section for tilt in used], series.pixel_size)
        _write_alignment(series, stem)
        _write_commands(series, folder, stem)


def _write_alignment(series: Series, stem: str) -> None:
    used = series.used
    placed = poses(used)
    write_text(f"{stem}.xf", format_xf([xf_of_row(pose.rot_deg, pose.tx, pose.ty) for pose in placed]))
    write_text(f"{stem}.tlt", column(pose.tilt_deg for pose in placed))
    write_text(f"{stem}.rawtlt", column(tilt.nominal_deg for tilt in used))
    write_text(f"{stem}.xtilt", column(0.0 for _ in used))
    if series.left_out:
        write_text(f"{stem}_cutviews0.rawtlt", column(tilt.nominal_deg for tilt in series.left_out))
    views: list[tuple[int, float, CtfRow]] = [(view, pose.tilt_deg, tilt.ctf)
                                              for view, (tilt, pose) in enumerate(zip(used, placed, strict=True), start=1)
                                              if tilt.ctf is not None]
    if views:
        numbers, angles, rows = zip(*views, strict=True)
        write_text(f"{stem}.defocus", format_imod_defocus(rows, numbers, angles))


def _write_commands(series: Series, folder: str, stem: str) -> None:
    x, y = aligned_size(series)
    binning = series.volume.binning if series.volume else 1.0
    whole = abs(binning - round(binning)) < 1e-6
    words = f"BinByFactor\t{round(binning)}" if whole else f"FourierReduceByFactor\t{binning:g}"
    size = [int(length / binning + 0.1) // 2 * 2 for length in (x, y)]
    write_text(os.path.join(folder, "newst.com"), _NEWST.format(name=series.name, x=size[0], y=size[1], binning=words))
    write_text(os.path.join(folder, "tilt.com"), _TILT.format(
        name=series.name, binned=round(binning) if whole else f"{binning:g}", thickness=series.thickness, x=x, y=y))
    placed = poses(series.used)
    write_text(f"{stem}.edf", _EDF.format(name=series.name, pixel=series.pixel_size / 10, axis=placed[0].rot_deg,
                                         lowest=min(tilt.nominal_deg for tilt in series.used)))
