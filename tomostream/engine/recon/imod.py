# SPDX-License-Identifier: GPL-3.0-or-later
"""The IMOD files of -OutImod: for Relion (1, the raw stack), Warp (2, without the dark tilts), or aligned (3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tomostream.engine.output import Outputs
from tomostream.engine.recon.aligned import aligned_size
from tomostream.engine.recon.images import write_aligned_stack
from tomostream.engine.recon.options import LABEL, ReconOptions
from tomostream.programs import aretomo as files
from tomostream.programs.aln import IDENTITY_XF, format_xf, xf_of_row
from tomostream.programs.ctf import CtfRow, format_imod_defocus

if TYPE_CHECKING:
    from tomostream.engine.recon.solution import Solution
    from tomostream.engine.recon.stack import TiltStack

RELION, WARP, ALIGNED = 1, 2, 3

_NEWST = """$newstack -StandardInput
InputFile	{source}
OutputFile	{stem}_st.ali
TransformFile	{stem}_st.xf
TaperAtFill	1,0
AdjustOrigin
OffsetsInXandY	0.0,0.0
ImagesAreBinned	1.0
BinByFactor	1
$if (-e ./savework) ./savework
"""
_TILT = """$tilt -StandardInput
InputProjections	{stem}_st.ali
OutputFile	{stem}_st.rec
IMAGEBINNED	1
TILTFILE	{stem}_st.tlt
THICKNESS	{depth}
RADIAL	0.35 0.035
FalloffIsTrueSigma	1
XAXISTILT	0.0
LOG	0.0
SCALE	0.0 250.0
PERPENDICULAR
MODE	2
FULLIMAGE	{nx} {ny}
SUBSETSTART	0 0
AdjustOrigin
ActionIfGPUFails	1,2
XTILTFILE	{stem}_st.xtilt
OFFSET	0.0
SHIFT	0.0 0.0
{exclude}$if (-e ./savework) ./savework
"""


@dataclass(frozen=True)
class ImodJob:
    """What the IMOD files are made of.

    Attributes
    ----------
    kind : int
        `RELION`, `WARP` or `ALIGNED`.
    names : OutputFiles
    source : str
        Path of the raw stack.
    orders : sequence of int
        Acquisition order of every section, 1 for the first.
    angles : sequence of float
        Tilt angle of every section, degrees.
    ctf : sequence of CtfRow
        Of the used tilts, or none.
    """

    kind: int
    names: files.OutputFiles
    source: str
    orders: Sequence[int]
    angles: Sequence[float]
    ctf: Sequence[CtfRow] = ()


def write_imod(
    outputs: Outputs, job: ImodJob, stack: TiltStack, solution: Solution, options: ReconOptions
) -> None:
    """Write the files of `<In>_Imod/`.

    Parameters
    ----------
    outputs : Outputs
        In which the folder has been made.
    job : ImodJob
    stack : TiltStack
        The raw images.
    solution : Solution
        With the used tilts.
    options : ReconOptions
        Depth and pixel size.
    """
    stem = job.names.imod("_st").rsplit("/", 1)[-1][: -len("_st")]
    rows = {t.section: xf_of_row(t.placement.rot_deg, t.placement.tx, t.placement.ty) for t in solution.used}
    kept = [t.section for t in solution.used]
    if job.kind == RELION:
        tilts, transforms = list(job.angles), [rows.get(s, IDENTITY_XF) for s in range(stack.sections)]
    else:
        tilts = [t.tilt_deg for t in solution.used]
        transforms = [rows[s] if job.kind == WARP else IDENTITY_XF for s in kept]
    outputs.text(job.names.imod("_st.tlt"), "".join(f"{tilt:8.2f}\n" for tilt in tilts))
    outputs.text(job.names.imod("_st.xf"), format_xf(transforms))
    outputs.text(job.names.imod("_st.xtilt"), "0\n" * len(tilts))
    outputs.text(job.names.imod("_st_order_list.csv"), _order_list(job, kept))
    outputs.text(job.names.imod("newst.com"), _NEWST.format(source=job.source, stem=stem))
    if job.ctf:
        views = [s + 1 for s in kept] if job.kind == RELION else range(1, len(kept) + 1)
        seen = [t.tilt_deg for t in solution.used]
        outputs.text(job.names.imod("_ctf.txt"), format_imod_defocus(job.ctf, list(views), seen))
    ny, nx = aligned_size(stack.shape, solution.tilt_axis_deg, 1.0)
    dark = sorted(set(range(stack.sections)) - set(kept))
    exclude = f"EXCLUDELIST {','.join(str(s + 1) for s in dark)}\n" if dark and job.kind == RELION else ""
    com = _TILT.format(stem=stem, depth=options.depth_px, nx=nx, ny=ny, exclude=exclude)
    outputs.text(job.names.imod("tilt.com"), com)
    _write_stack(outputs, job, stack, solution, options)


def _order_list(job: ImodJob, kept: Sequence[int]) -> str:
    """Return the acquisition order and tilt angle; for Relion all tilts without a heading, else the kept ones with it."""
    lines = {order: f"{order:4d},{angle:.2f}\n" for order, angle in zip(job.orders, job.angles, strict=True)}
    if job.kind == RELION:
        return "".join(lines[order] for order in sorted(lines))
    return "ImageNumber,TiltAngle\n" + "".join(lines[order] for order in sorted(job.orders[s] for s in kept))


def _write_stack(
    outputs: Outputs, job: ImodJob, stack: TiltStack, solution: Solution, options: ReconOptions
) -> None:
    """Write the stack: none for Relion; the kept raw tilts for Warp; the aligned ones at full size for 3."""
    path = job.names.imod("_st.mrc")
    if job.kind == WARP:
        shape = (len(solution.used), *stack.shape)
        out = outputs.mapped_mrc(path, shape, options.pixel_size_A, LABEL, volume=False)
        for place, tilt in enumerate(solution.used):
            out[place] = np.asarray(stack.section(tilt.section), dtype=np.float32)
    elif job.kind == ALIGNED:
        full = replace(options, binning=1.0, flip_contrast=False)
        write_aligned_stack(stack, solution.used, solution.tilt_axis_deg, full, outputs, path)
