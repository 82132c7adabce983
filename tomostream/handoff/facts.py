# SPDX-License-Identifier: GPL-3.0-or-later
"""What is handed over about a finished series: typed facts, from which all files for other programs are written."""

from __future__ import annotations

from enum import Enum

import msgspec

from tomostream.programs.ctf import CtfRow


class Target(str, Enum):
    """Another program that continues with our series; `ZARR` is for programs that show tomograms."""

    IMOD = "imod"
    RELION5 = "relion5"
    WARP = "warp"
    ZARR = "zarr"


#: The default targets: OME-Zarr is another copy of every tomogram.
USUAL = (Target.IMOD, Target.RELION5, Target.WARP)


class NotPossible(Exception):
    """A series cannot be exported for a program; says what is missing."""


class Pose(msgspec.Struct, frozen=True):
    """The place of a tilt, as in the `.aln`: tilt angle and in-plane rotation in degrees, shift in px of the raw image."""

    tilt_deg: float
    rot_deg: float
    tx: float
    ty: float


class Tilt(msgspec.Struct, frozen=True):
    """One section of the composed stack. Angles in degrees, doses in e/A2, defocus in um; None and "" are unknown.

    `section` counts from 1. `pose` is None if the tilt is not used, and `excluded` says why. Paths are absolute.
    """

    section: int
    nominal_deg: float
    order: int | None = None
    prior_dose: float | None = None
    dose: float | None = None
    movie: str = ""
    frames: int | None = None
    micrograph: str = ""
    even: str = ""
    odd: str = ""
    target_defocus: float | None = None
    pose: Pose | None = None
    excluded: str = ""
    ctf: CtfRow | None = None


class Optics(msgspec.Struct, frozen=True):
    """Voltage in kV, spherical aberration in mm, amplitude contrast as a share; None is unknown."""

    voltage: float | None = None
    cs: float | None = None
    amplitude_contrast: float | None = None


class Volume(msgspec.Struct, frozen=True):
    """A tomogram: its file, those of its halves ("" if there are none), its size (x, y, z) in voxels, and how many pixels of
    the tilt series make a voxel. `upright`: sections are slices in z; `ctf_corrected`: all three are corrected for the CTF."""

    path: str
    size: tuple[int, int, int]
    binning: float
    even: str = ""
    odd: str = ""
    upright: bool = True
    ctf_corrected: bool = False


class Series(msgspec.Struct, frozen=True):
    """A finished series. Sizes in px, pixel sizes in A, axis in degrees as in the mdoc; `tilts` by section.

    `thickness` of the volume in px of the tilt series. `defocus_hand` and `trusted` as in `Quality`; `negated`: the angles
    have the opposite sign to those of the mdoc.
    """

    name: str
    version: int
    stack: str
    size: tuple[int, int]
    pixel_size: float
    tilts: tuple[Tilt, ...]
    even: str = ""
    odd: str = ""
    movie_pixel_size: float | None = None
    tilt_axis: float | None = None
    thickness: int = 0
    optics: Optics = Optics()
    volume: Volume | None = None
    defocus_hand: int | None = None
    tilt_offset: float | None = None
    quality_note: str = ""
    negated: bool = False
    local: bool = False

    @property
    def used(self) -> tuple[Tilt, ...]:
        """The tilts that are used, by nominal angle."""
        return tuple(sorted((tilt for tilt in self.tilts if tilt.pose is not None), key=lambda tilt: tilt.nominal_deg))

    @property
    def left_out(self) -> tuple[Tilt, ...]:
        """The sections of the stack that are not used."""
        return tuple(tilt for tilt in self.tilts if tilt.pose is None)

    @property
    def sorted_whole(self) -> bool:
        """Whether the whole composed stack is used: every section, in the order of the angles."""
        return [tilt.section for tilt in self.used] == list(range(1, len(self.tilts) + 1))
