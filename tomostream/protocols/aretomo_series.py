# SPDX-License-Identifier: GPL-3.0-or-later
"""A tilt series on its way through AreTomo: what is known of it before, the settings, and the result."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tomo.objects import TiltImage, TiltSeries

from tomostream.programs.aln import AlnRow
from tomostream.programs.aretomo import binning_of
from tomostream.programs.ctf import CtfRow
from tomostream.programs.quality import Quality
from tomostream.protocols.objects import prior_doses


@dataclass(frozen=True)
class SourceTilt:
    """What the program and the output need of one tilt image. Doses in e/A2; None is unknown."""

    index: int
    angle: float
    order: int | None
    prior_dose: float | None
    enabled: bool
    transform: tuple[float, float, float, float, float, float] | None = None


@dataclass(frozen=True)
class Source:
    """One tilt series of the input, read in the main thread. `dose`: of one tilt, e/A2; None is unknown."""

    series_id: str
    stack: str
    even: str
    odd: str
    size: tuple[int, int]
    pixel_size: float
    tilt_axis: float | None
    tilts: tuple[SourceTilt, ...]
    dose: float | None = None
    command: str = ""
    half_command: str = ""

    @property
    def used(self) -> tuple[SourceTilt, ...]:
        """The tilts given to the program, by angle: with an alignment file (-AlnFile) AreTomo2 does not sort them itself."""
        return tuple(sorted((tilt for tilt in self.tilts if tilt.enabled), key=lambda tilt: tilt.angle))


@dataclass(frozen=True)
class Result:
    """The result for one series. `rows`: input index -> row of the alignment."""

    folder: str
    rows: Mapping[int, AlnRow] = field(default_factory=dict)
    reasons: Mapping[int, str] = field(default_factory=dict)
    ctf: tuple[CtfRow, ...] = ()
    ctf_order: tuple[int, ...] = ()
    quality: Quality | None = None
    commands: tuple[str, ...] = ()
    seconds: float = 0.0
    #: Remarks for people on how it was made.
    notes: tuple[str, ...] = ()
    #: Whether the tomograms are corrected for the CTF.
    ctf_corrected: bool = False
    #: Whether there is a filtered tomogram, for viewing.
    filtered: bool = False


@dataclass(frozen=True)
class Settings:
    """The settings for every series of a run.

    thickness : in unbinned px.
    binning : 0 chooses it from the pixel size, so that the volume has `min_slices`, with fewer of which the program makes none.
    imod : 0 none, 1 Relion, 2 Warp, 3 aligned images.
    correct_ctf : correct tomograms for the CTF, if the program can.
    filtered : also make a filtered tomogram for viewing.
    gold : the value of the CPU program's `-EraseGold`; "" leaves gold as it is.
    """

    skip_align: bool = False
    tomogram: bool = True
    halves: bool = False
    weight_by_dose: bool = False
    ctf: bool = True
    thickness: int = 1200
    binning: int = 1
    flip: bool = True
    imod: int = 0
    correct_ctf: bool = False
    filtered: bool = False
    min_slices: int = 0
    gold: str = ""

    def binning_for(self, pixel_size: float) -> int:
        """Return the binning of the tomograms of series of a pixel size, A."""
        return binning_of(self.binning, pixel_size, self.thickness, self.min_slices)


def source_of(series: TiltSeries, images: Iterable[TiltImage], command: str, half_command: str) -> Source:
    """Read what is needed of a series, because steps never see the set.

    Parameters
    ----------
    command, half_command : upstream's command lines for the series and for one of its halves.
    """
    tilts = []
    even = odd = stack = ""
    images = list(images)
    acquired = [image.getAcquisition() for image in images]
    priors = prior_doses([each and each.getDoseInitial() for each in acquired],
                         [each and each.getAccumDose() for each in acquired], [image.getAcquisitionOrder() for image in images])
    for image, prior in zip(images, priors, strict=True):
        stack = image.getFileName()
        if image.hasOddEven():
            odd, even = image.getOdd(), image.getEven()
        matrix = image.getTransform().getMatrix() if image.hasTransform() else None
        transform = None if matrix is None else (*matrix[0, :2], *matrix[1, :2], matrix[0, 2], matrix[1, 2])
        tilts.append(SourceTilt(image.getIndex(), image.getTiltAngle(), image.getAcquisitionOrder(), prior, image.isEnabled(),
                                transform))
    width, height, _ = series.getDim() or images[0].getDim()
    return Source(series.getTsId(), os.path.abspath(stack), even and os.path.abspath(even), odd and os.path.abspath(odd),
                  (width, height), series.getSamplingRate(), series.getAcquisition().getTiltAxisAngle(), tuple(tilts),
                  series.getAcquisition().getDosePerFrame(), command, half_command)
