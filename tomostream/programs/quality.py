# SPDX-License-Identifier: GPL-3.0-or-later
"""What our alignment says about itself: `_quality.json`, written by the CPU program and read by all others."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tomostream.programs.aln import AlnError

#: The version of the format.
FORMAT = 1


class Trust(str, Enum):
    """Whether an alignment can be trusted, by its own checks."""

    TRUSTED = "trusted"
    DOUBTFUL = "doubtful"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> Trust:
        """Map values of a later version to unknown."""
        return cls.UNKNOWN


@dataclass(frozen=True)
class TiltQuality:
    """One section of the input: whether it is used, and why not; `sigma_px`: standard deviation of its shift (raw px);
    `residual_px`: distance from its position to where it best matches what the other tilts predict; `gold_px`: distance of all
    its gold beads together from where the alignment puts them, if there are enough."""

    section: int
    tilt_deg: float
    used: bool
    reason: str = ""
    sigma_px: float | None = None
    residual_px: float | None = None
    gold_px: float | None = None


@dataclass(frozen=True)
class LocalQuality:
    """Local motion, if requested: the number of `patches` (along x, y) with which it was measured, its RMS in raw px, whether it
    is in the alignment (not if it does not stand out from the noise), and that in words."""

    patches: tuple[int, int]
    rms_px: float
    applied: bool
    note: str


@dataclass(frozen=True)
class GoldQuality:
    """Gold, if it was to be erased: the number of `beads`, their diameter (A), and, as an independent check of the alignment,
    their distance from where it puts them (RMS over beads and tilts, raw px; None if there are few); hot pixels replaced."""

    beads: int
    diameter_A: float | None = None
    residual_px: float | None = None
    hot_pixels: int = 0

    @property
    def words(self) -> str:
        """What was erased."""
        if not self.beads or self.diameter_A is None:
            return "no gold beads found"
        return f"{self.beads} gold bead{'s' * (self.beads > 1)} of {self.diameter_A / 10:.1f} nm erased"


@dataclass(frozen=True)
class Quality:
    """What is known about an alignment beyond AreTomo2's own files. None is unknown.

    `defocus_hand` 1: at positive tilts the defocus grows towards +x across the tilt axis, so +z of the tomogram points to
    the electron source; -1: it falls; 0: it could not be determined. `tilt_offset_sigma_deg`: standard deviation of the offset.
    `resolution_xy_A` and `resolution_z_A`: where the correlation of the even and the odd tomogram falls below 0.143, in the
    plane and along z; None if there are no halves, or they have nothing in common.
    """

    tilts: tuple[TiltQuality, ...] = ()
    tilt_axis_deg: float | None = None
    tilt_offset_deg: float | None = None
    thickness_A: float | None = None
    quality: float | None = None
    quality_note: str = ""
    trust: Trust = Trust.UNKNOWN
    ctf_note: str = ""
    program: str = ""
    defocus_hand: int | None = None
    local: LocalQuality | None = None
    tilt_offset_sigma_deg: float | None = None
    resolution_xy_A: float | None = None
    resolution_z_A: float | None = None
    gold: GoldQuality | None = None


def format_quality(quality: Quality) -> str:
    """Return `<In>_quality.json`: valid JSON; what is unknown (or not finite) is null."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "program": quality.program,
        "tilt_axis_deg": _finite(quality.tilt_axis_deg),
        "tilt_offset_deg": _finite(quality.tilt_offset_deg),
        "tilt_offset_sigma_deg": _finite(quality.tilt_offset_sigma_deg),
        "thickness_A": _finite(quality.thickness_A),
        "resolution_xy_A": _finite(quality.resolution_xy_A),
        "resolution_z_A": _finite(quality.resolution_z_A),
        "quality": _finite(quality.quality),
        "quality_note": quality.quality_note,
        "trust": quality.trust.value,
        "ctf_note": quality.ctf_note,
        "defocus_hand": quality.defocus_hand,
        "tilts": [
            {
                "section": t.section,
                "tilt_deg": _finite(t.tilt_deg),
                "used": t.used,
                "reason": t.reason,
                "sigma_px": _finite(t.sigma_px),
                "residual_px": _finite(t.residual_px),
                "gold_px": _finite(t.gold_px),
            }
            for t in quality.tilts
        ],
    }
    if quality.local is not None:
        local = quality.local
        document["local"] = {
            "patches": list(local.patches), "rms_px": _finite(local.rms_px), "applied": local.applied, "note": local.note}
    if quality.gold is not None:
        gold = quality.gold
        document["gold"] = {"beads": gold.beads, "diameter_A": _finite(gold.diameter_A),
                            "residual_px": _finite(gold.residual_px), "hot_pixels": gold.hot_pixels}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _finite(value: float | None) -> float | None:
    return round(float(value), 6) if value is not None and math.isfinite(value) else None


def parse_quality(text: str, source: str = "quality file") -> Quality:
    """Read `<In>_quality.json`; unknown keys are ignored. Raises AlnError if it is not such a file."""
    try:
        document = json.loads(text)
        tilts = tuple(
            TiltQuality(
                section=int(t["section"]),
                tilt_deg=float(t["tilt_deg"]),
                used=bool(t["used"]),
                reason=str(t.get("reason", "")),
                sigma_px=t.get("sigma_px"),
                residual_px=t.get("residual_px"),
                gold_px=t.get("gold_px"),
            )
            for t in document.get("tilts", [])
        )
        local = document.get("local")
        if local is not None:
            across, down = local["patches"]
            local = LocalQuality((int(across), int(down)), float(local["rms_px"]), bool(local["applied"]), str(local["note"]))
        gold = document.get("gold")
        if gold is not None:
            gold = GoldQuality(int(gold["beads"]), gold.get("diameter_A"), gold.get("residual_px"), int(gold["hot_pixels"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AlnError(f"{source} is not a quality file: {error}") from None
    return Quality(
        tilts=tilts,
        tilt_axis_deg=document.get("tilt_axis_deg"),
        tilt_offset_deg=document.get("tilt_offset_deg"),
        thickness_A=document.get("thickness_A"),
        quality=document.get("quality"),
        quality_note=str(document.get("quality_note", "")),
        trust=Trust(document.get("trust")),
        ctf_note=str(document.get("ctf_note", "")),
        program=str(document.get("program", "")),
        defocus_hand=document.get("defocus_hand"),
        local=local,
        tilt_offset_sigma_deg=document.get("tilt_offset_sigma_deg"),
        resolution_xy_A=document.get("resolution_xy_A"),
        resolution_z_A=document.get("resolution_z_A"),
        gold=gold,
    )
