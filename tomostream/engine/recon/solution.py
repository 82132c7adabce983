# SPDX-License-Identifier: GPL-3.0-or-later
"""Where every tilt of a series goes: from an alignment file, from our own alignment, or nowhere else than it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tomostream.engine.recon.aligned import LocalShifts, Placement
from tomostream.engine.recon.options import TiltUse
from tomostream.files.errors import EngineError, sentence_of
from tomostream.programs.aln import (
    AlnError,
    AlnFile,
    AlnRow,
    AngleRow,
    DarkFrame,
    LocalShift,
    SecondColumn,
    parse_aln,
    parse_angle_file,
    parse_xf,
    raw_sections,
    row_from_xf,
    scale_to,
    scaled,
    stretch_of,
)
from tomostream.programs.quality import LocalQuality, Quality, TiltQuality

if TYPE_CHECKING:
    from tomostream.engine.align import Alignment
    from tomostream.engine.align.local import LocalMotion
    from tomostream.engine.recon.stack import TiltStack

Content = TypeVar("Content")
MIN_STRETCH, MAX_STRETCH = 0.001, 0.01
"""Stretches in a transform of IMOD, as shares: 2 px at the edge of a large image are said, 20 px refused."""


@dataclass(frozen=True)
class Solution:
    """Where the tilts of a series go.

    Attributes
    ----------
    used : tuple of TiltUse
        Sorted by tilt angle, which is that of the reconstruction (with the offset, where it is applied).
    dark : tuple of DarkFrame
        The sections left out, as AreTomo lists them.
    reasons : tuple of (int, str)
        Why each section was left out.
    quality : Quality or None
        Of our own alignment.
    """

    used: tuple[TiltUse, ...]
    dark: tuple[DarkFrame, ...] = ()
    reasons: tuple[tuple[int, str], ...] = ()
    quality: Quality | None = None

    @property
    def tilt_axis_deg(self) -> float:
        """Tilt axis of the middle tilt: it decides, as in AreTomo2, whether x and y are swapped."""
        return self.used[len(self.used) // 2].placement.rot_deg

    def with_doses(self, doses: dict[int, float]) -> Solution:
        """Return the same with the dose (e/A2) before each tilt, `doses` by section."""
        return replace(self, used=tuple(replace(t, pre_exposure=doses[t.section]) for t in self.used))

    def without(self, reasons: dict[int, str]) -> Solution:
        """Return the same without some sections.

        Parameters
        ----------
        reasons : dict
            Why each of them is left out, by section.

        Raises
        ------
        EngineError
            Where none would be left.
        """
        used = tuple(t for t in self.used if t.section not in reasons)
        if not used:
            raise EngineError(f"no tilt is left to reconstruct from ({next(iter(reasons.values()))})")
        return replace(self, used=used, reasons=(*self.reasons, *sorted(reasons.items())))


def read_aln(path: str) -> AlnFile:
    """Read an alignment file.

    Parameters
    ----------
    path : str

    Raises
    ------
    EngineError
        Where it is missing or makes no sense.
    """
    return _parsed(path, "-AlnFile", parse_aln)


def _parsed(path: str, option: str, parse: Callable[[str, str], Content]) -> Content:
    """Return what `parse` makes of a text file and its name; an error names the file, and the `option` that gave it."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as handle:
            return parse(handle.read(), path)
    except OSError as error:
        raise EngineError(f"{sentence_of(error, path)}; check {option}") from None
    except AlnError as error:
        raise EngineError(str(error)) from None


def read_angles(path: str, sections: int) -> tuple[tuple[AngleRow, ...], SecondColumn]:
    """Read an angle file, and what its second column was taken for.

    Parameters
    ----------
    path : str
        Of the angle file.
    sections : int
        Of the stack.

    Returns
    -------
    rows : tuple of AngleRow
        In the order of the sections: the tilt angle in degrees, and what the second column says.
    meaning : SecondColumn
        Acquisition orders, doses, or nothing.

    Raises
    ------
    EngineError
        Where it is missing, malformed, or has another number of rows than `sections`.
    """
    rows, meaning = _parsed(path, "-AngFile", parse_angle_file)
    if len(rows) != sections:
        raise EngineError(f"{path} has {len(rows)} tilt angles, but the stack has {sections} sections: they must match")
    return rows, meaning


def of_aln(path: str, stack: TiltStack, say: Callable[[str], None] | None = None) -> Solution:
    """Return the solution in an alignment file; one for images of another binning is scaled.

    Parameters
    ----------
    path : str
        An `.aln` file, of AreTomo or ours: shifts in raw px from the centre of the image.
    stack : TiltStack
        The images that it is for.
    say : callable, optional
        Takes a sentence where the file is for images of another binning.

    Returns
    -------
    Solution
        Tilts by ascending angle.

    Raises
    ------
    EngineError
        Where the file is for other images.
    """
    aln = read_aln(path)
    ny, nx = stack.shape
    scale = scale_to(aln, (nx, ny, stack.sections))
    if aln.raw_size is not None and scale not in (None, 1.0):
        if say is not None:
            say("{} is for images of {} x {} px: its shifts are scaled by {:.4g}".format(path, *aln.raw_size[:2], scale))
        aln = scaled(aln, scale or 1.0)
    if aln.raw_size is not None and scale is None:
        raise EngineError(
            "{} is for a stack of {} x {} px and {} sections, but {} has {} x {} px and {} sections".format(
                path, *aln.raw_size, stack.path, nx, ny, stack.sections
            )
        )
    try:
        sections, dark = raw_sections(aln, stack.sections)
    except AlnError as error:
        raise EngineError(f"{path}: {error}") from None
    local = _local_shifts(aln)
    used = [
        TiltUse(section, row.tilt_deg, Placement(row.rot_deg, row.tx, row.ty, local.get(number)))
        for number, (section, row) in enumerate(zip(sections, aln.rows, strict=True))
    ]
    return Solution(tuple(sorted(used, key=lambda t: t.tilt_deg)), tuple(aln.dark), tuple((s, "dark") for s in dark))


def of_xf(path: str, angles: Sequence[float], say: Callable[[str], None]) -> Solution:
    """Return the solution in a transform file of IMOD.

    Parameters
    ----------
    path : str
        Lines of A11 A12 A21 A22 DX DY: from raw to aligned px, both from the centre.
    angles : sequence of float
        Tilt angles in degrees, one a section.
    say : callable
        Takes a sentence where a small change of magnification is left out.

    Returns
    -------
    Solution
        Tilts by ascending angle.

    Raises
    ------
    EngineError
        Where it is missing or malformed, has another number of lines, or stretches images.
    """
    transforms = _parsed(path, "-AlnFile", parse_xf)
    if len(transforms) != len(angles):
        raise EngineError(f"{path} has {len(transforms)} transforms, but the stack has {len(angles)} sections: they must match")
    stretch, line = max((stretch_of(xf), number) for number, xf in enumerate(transforms, start=1))
    if stretch > MAX_STRETCH:
        how = "mirrors the image" if math.isinf(stretch) else f"stretches the image by {100 * stretch:.1f} %"
        raise EngineError(f"{path}: transform {line} {how}, and only rotation and shift are used; align it again without a "
                          "change of magnification")
    if stretch > MIN_STRETCH:
        say(f"warning: {path} stretches images by up to {100 * stretch:.2f} %, which is not used")
    used = [TiltUse(section, angle, Placement(*row_from_xf(xf)))
            for section, (angle, xf) in enumerate(zip(angles, transforms, strict=True))]
    return Solution(tuple(sorted(used, key=lambda t: t.tilt_deg)))


def _local_shifts(aln: AlnFile) -> dict[int, LocalShifts]:
    """Return local shifts by row, of the patches that are marked good."""
    rows: dict[int, list[LocalShift]] = {}
    for shift in aln.local:
        if shift.good >= 0.9:
            rows.setdefault(shift.row, []).append(shift)
    return {
        row: LocalShifts(*(np.array([getattr(s, name) for s in shifts]) for name in ("x", "y", "dx", "dy")))
        for row, shifts in rows.items()
    }


def of_identity(angles: Sequence[float]) -> Solution:
    """Return the solution of a stack that is aligned already, its tilt axis along y.

    Parameters
    ----------
    angles : sequence of float
        Tilt angles in degrees, one a section.
    """
    used = [TiltUse(section, angle, Placement(0.0, 0.0, 0.0)) for section, angle in enumerate(angles)]
    return Solution(tuple(sorted(used, key=lambda t: t.tilt_deg)))


def of_alignment(alignment: Alignment, apply_offset: bool, given_offset: float = 0.0) -> Solution:
    """Return the solution in our own alignment.

    Its shifts are from pixel index n / 2 and are moved to the centre of the area, (n - 1) / 2, which IMOD and AreTomo
    mean, half a pixel further; then the specimen is moved in its plane, so that the least tilted image has no shift.

    Parameters
    ----------
    alignment : Alignment
        Its tilts hold the nominal angles.
    apply_offset : bool
        Whether the reconstruction is to use the tilt offset (-TiltCor 1).
    given_offset : float
        Offset of the user's own (degrees) that the alignment was given in its angles.

    Raises
    ------
    EngineError
        Where no tilt is used.
    """
    measured = alignment.tilt_offset_deg
    nominal = {t.section: t.tilt_deg - given_offset for t in alignment.tilts}
    offset = measured + given_offset
    shown = {section: tilt + (offset if apply_offset else 0.0) for section, tilt in nominal.items()}
    kept = [t for t in alignment.tilts if t.used]
    if not kept:
        raise EngineError("no tilt could be aligned: " + next((t.reason for t in alignment.tilts if t.reason), ""))
    reference = min(kept, key=lambda t: abs(t.tilt_deg))
    used = []
    for tilt in kept:
        cosine = math.cos(math.radians(tilt.tilt_deg + measured))
        share = cosine / math.cos(math.radians(reference.tilt_deg + measured))
        across, along = _turned(reference.tx + 0.5, reference.ty + 0.5, -reference.rot_deg)
        x, y = _turned(across * share, along, tilt.rot_deg)
        place = Placement(tilt.rot_deg, tilt.tx + 0.5 - x, tilt.ty + 0.5 - y)
        used.append(TiltUse(tilt.section, shown[tilt.section], place))
    ordered = sorted(nominal, key=lambda section: nominal[section])
    dark = tuple(
        DarkFrame(ordered.index(t.section), t.section, shown[t.section]) for t in alignment.tilts if not t.used
    )
    return Solution(
        used=tuple(sorted(used, key=lambda t: t.tilt_deg)),
        dark=tuple(sorted(dark, key=lambda d: d.frame)),
        reasons=tuple((t.section, t.reason) for t in alignment.tilts if not t.used),
        quality=_quality(alignment, nominal, offset),
    )


def with_local(solution: Solution, motion: LocalMotion, shape: tuple[int, int]) -> Solution:
    """Return the same with local motion, where there is any, and with it in the quality.

    Its places are in the raw image, from pixel index n / 2; those of `LocalShifts` from (n - 1) / 2, before the global shift.

    Parameters
    ----------
    solution : Solution
        The rigid alignment.
    motion : LocalMotion
        What was measured at patches of the raw images.
    shape : (int, int)
        (ny, nx) of these.
    """
    moved = {tilt.section: tilt for tilt in motion.tilts}

    def placed(tilt: TiltUse) -> TiltUse:
        if tilt.section not in moved:
            return tilt
        found, place = moved[tilt.section], tilt.placement
        wanted = LocalShifts(found.x + 0.5 - place.tx, found.y + 0.5 - place.ty, found.dx, found.dy)
        return replace(tilt, placement=replace(place, local=LocalShifts.through(wanted, shape[1], shape[0])))

    quality = solution.quality
    if quality is not None:
        quality = replace(quality, local=LocalQuality(motion.patches, motion.rms_px, bool(moved), motion.note))
    return replace(solution, used=tuple(placed(tilt) for tilt in solution.used), quality=quality)


def _turned(x: float, y: float, degrees: float) -> tuple[float, float]:
    """Return (x, y) turned counter-clockwise."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return c * x - s * y, s * x + c * y


def _quality(alignment: Alignment, nominal: dict[int, float], offset: float) -> Quality:
    """Return the quality file's content for an alignment."""
    return Quality(
        tilts=tuple(
            TiltQuality(
                section=t.section,
                tilt_deg=nominal[t.section],
                used=t.used,
                reason=t.reason,
                sigma_px=None if t.sigma_px is None else math.hypot(*t.sigma_px),
                residual_px=t.residual_px,
            )
            for t in alignment.tilts
        ),
        tilt_axis_deg=alignment.tilt_axis_deg,
        tilt_offset_deg=offset,
        tilt_offset_sigma_deg=alignment.tilt_offset_sigma_deg,
        thickness_A=alignment.thickness_A,
        quality=alignment.quality,
        quality_note=alignment.quality_note,
        trust=alignment.trust,
    )


def aln_of(solution: Solution, stack: TiltStack) -> AlnFile:
    """Return the content of the `.aln` file of a solution.

    Parameters
    ----------
    solution : Solution
    stack : TiltStack
        The images that it is for.
    """
    ny, nx = stack.shape
    rows = tuple(
        AlnRow(t.section, t.placement.rot_deg, t.placement.tx, t.placement.ty, t.tilt_deg) for t in solution.used
    )
    local = tuple(
        LocalShift(row, patch, float(x), float(y), float(dx), float(dy), 1.0)
        for row, tilt in enumerate(solution.used)
        if (of_tilt := tilt.placement.local) is not None
        for patch, (x, y, dx, dy) in enumerate(zip(of_tilt.x, of_tilt.y, of_tilt.dx, of_tilt.dy, strict=True))
    )
    patches = max((shift.patch + 1 for shift in local), default=0)
    return AlnFile(rows, solution.dark, (nx, ny, stack.sections), patches, local)
