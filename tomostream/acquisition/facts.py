# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of an acquisition, as frozen facts. An unknown value is None, and its source says why."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
#: What an mdoc file describes; see `MdocFacts`.
Kind = Literal["tilt-series", "frame", "fast-tilt", "montage", "image", "overwritten", "unreadable"]


#: Stands between the path of a file of frame sets and the frame set that is meant.
FRAME_SET = " [FrameSet] "


class Origin(str, Enum):
    """Where a value came from, as far as decisions depend on it."""

    READ = "read"
    FRAME_DOSES = "frame-doses"         # the sum of FrameDosesAndNumber, which may be on another scale
    PRIOR_DOSE = "prior-dose"           # PriorRecordDose, which holds whatever else is known
    SUMMED = "summed"                   # the doses of earlier tilts, to be summed again if one is inserted


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
    """A value and where it came from.

    `value` is None if it is unknown; `source` then says why ("ExposureDose is 0 in the file"). Otherwise it says where it is
    from ("field ExposureDose", "title", "running sum", "given by the user"); `origin` decides.
    """

    value: T | None
    source: str
    origin: Origin = field(default=Origin.READ, compare=False)


@dataclass(frozen=True, slots=True)
class Tilt:
    """One exposure of a tilt series.

    Angle in degrees as read back from the stage; doses in e/A2 on the specimen, `prior_dose` being what the specimen
    had received before this exposure; `order` is the acquisition order, 1 for the first. `movie` is the basename of the
    movie file, None when the mdoc does not name it, and `movie_folder` its folder as the instrument wrote it. The identity of a
    tilt is (movie, time), never its ZValue.
    `target_defocus` is what the microscope was set to, in um, underfocus positive.
    """

    movie: str | None
    angle: float
    order: int
    time: datetime | None = None
    dose: Known[float] = Known(None, "not in the file")
    prior_dose: Known[float] = Known(None, "not in the file")
    section: str = ""
    target_defocus: float | None = None
    movie_folder: str = ""


@dataclass(frozen=True)
class MdocFacts:
    """One mdoc file, read. `tilts` are in acquisition order and hold finished sections only.

    `kind` is one of tilt-series, frame, fast-tilt, overwritten, montage, image, unreadable; `reason` says why it is not a tilt
    series ("" when it is); `dialect` is SerialEM, PACEtomo, Tomo5 or unknown. `tilt_axis` in degrees, IMOD's
    convention: rotation of the tilt axis from the y axis. `pixel_size` in A is that of the images the mdoc describes
    (at their binning), `movie_pixel_size` that of an unbinned movie pixel where the binning is known.
    `frame_series` is, for a frame mdoc, the name of the series to which it belongs.
    `frame_sets`: it describes only movies (SerialEM's "open .mdoc for frames"), possibly those of a whole session.
    `copy`: its name is that of a copy, and its content says of which series, which is `series_name`.
    `tilts_if_ended` are the tilts if nothing more is ever written to the file: `tilts`, and that of a last section that
    lacks only its end (`last_section_open`). They are for when the file has certainly stopped growing, never before.
    A kind can change while the file grows: image and frame to tilt-series or fast-tilt, unreadable to any.
    """

    path: str
    kind: Kind
    reason: str = ""
    dialect: str = "unknown"
    series_name: str = ""
    tilts: tuple[Tilt, ...] = ()
    tilt_axis: Known[float] = Known(None, "not in the file")
    pixel_size: Known[float] = Known(None, "not in the file")
    movie_pixel_size: Known[float] = Known(None, "not in the file")
    voltage: Known[float] = Known(None, "not in the file")
    magnification: Known[float] = Known(None, "not in the file")
    warnings: tuple[str, ...] = ()
    frame_series: str = ""
    frame_sets: bool = False
    copy: bool = False
    last_section_open: bool = False
    tilts_if_ended: tuple[Tilt, ...] = ()
    evidence: dict[str, str] = field(default_factory=dict, compare=False)
