# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of SerialEM's series mdocs: a header with two titles, one `[ZValue]` section per exposure, CRLF lines."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from tomostream.simulator.movies import electrons_per_pixel
from tomostream.simulator.plan import Exposure, Plan

_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_EPOCH = datetime(2020, 1, 1)  # SerialEM counts TimeStamp in seconds from here


@dataclass(frozen=True)
class MdocStyle:
    """What all mdocs of an acquisition share. `start` is the time of the first exposure, `step` s pass until the next.

    `size` is (nx, ny); `tilt_axis` in degrees as known to SerialEM, None for a file without one.
    """

    plan: Plan
    start: datetime
    step: float
    size: tuple[int, int]
    pixel_size: float
    tilt_axis: float

    @property
    def title_axis(self) -> float:
        """The tilt axis as given in the title: one decimal."""
        return round(self.tilt_axis, 1) + 0.0


def _date(moment: datetime) -> str:
    """`22-Nov-2026  10:00:05`, in English whatever the locale."""
    return f"{moment.day:02d}-{_MONTHS[moment.month - 1]}-{moment.year}  {moment:%H:%M:%S}"


def _lines(*lines: str) -> str:
    return "".join(line + "\r\n" for line in lines)


def magnification(pixel_size: float) -> int:
    """Return a plausible magnification for a pixel size in A."""
    return int(round(141000.0 / pixel_size, -2)) or 100


def header(style: MdocStyle, image_file: str, with_axis: bool = True, montage: bool = False) -> str:
    """Return everything above the first section."""
    plan, start = style.plan, style.start
    text = _lines(f"PixelSpacing = {style.pixel_size:g}", f"Voltage = {plan.voltage:g}", f"ImageFile = {image_file}",
                  f"ImageSize = {style.size[0]} {style.size[1]}", *(["Montage = 1"] if montage else []),
                  "DataMode = 1", "", f"[T = SerialEM: Simulated by tomostream              {_date(start)}    ]",
                  "")  # fmt: skip
    if with_axis:
        bidirectional = " bidir = 0.0" if plan.scheme == "bidirectional" else ""
        text += _lines(f"[T =     Tilt axis angle = {style.title_axis:.1f}, binning = 1  spot = 8  camera = 0"
                       f"{bidirectional}]", "")  # fmt: skip
    return text


def section(style: MdocStyle, exposure: Exposure, zvalue: int, with_axis: bool = True, folder: str = "D:\\DATA\\frames") -> str:
    """Return the section of one exposure, ending with a blank line. `folder` of the movie on the camera's computer; "": not
    given."""
    truth, plan = exposure.truth, style.plan
    frames = len(truth.drift)
    moment = style.start + timedelta(seconds=exposure.slot * style.step)
    seconds = 0.1 * frames
    rate = electrons_per_pixel(truth.dose, style.pixel_size, plan.thickness, truth.angle) / seconds
    track = truth.shift or (0.0, 0.0)
    rotation = (style.title_axis + 90 + 180) % 360 - 180
    defocus = plan.defocus or 0.0
    return _lines(
        f"[ZValue = {zvalue}]", f"TiltAngle = {truth.angle:g}",
        f"StagePosition = {20.79 + 40 * exposure.series:.4f} {155.28 + 0.01 * exposure.tilt:.3f}", "StageZ = 63.803",
        f"Magnification = {magnification(style.pixel_size)}", "Intensity = 0.134968",
        f"ExposureDose = {truth.dose:g}", f"DoseRate = {rate:.5f}", f"PixelSpacing = {style.pixel_size:g}",
        "SpotSize = 8", f"Defocus = {-defocus:g}",
        f"ImageShift = {track[0] * style.pixel_size * 1e-4:.6g} {track[1] * style.pixel_size * 1e-4:.6g}",
        *([f"RotationAngle = {rotation:g}"] if with_axis else []),
        f"ExposureTime = {seconds:g}", "Binning = 1", "CameraIndex = 0", "DividedBy2 = 0", "OperatingMode = 1",
        "MagIndex = 28", "LowDoseConSet = 4", "CountsPerElectron = 1", f"TargetDefocus = {-defocus:g}",
        f"PriorRecordDose = {truth.prior_dose:g}", f"SubFramePath = {folder}\\{exposure.camera}" if folder else "SubFramePath = ",
        f"NumSubFrames = {frames}", f"FrameDosesAndNumber = {truth.dose / frames:.6g} {frames}",
        f"DateTime = {_date(moment)}", "FilterSlitAndLoss = 20 0", f"UncroppedSize = {-style.size[0]} {-style.size[1]}",
        f"TimeStamp = {(moment - _EPOCH).total_seconds():.0f}", "",
    )  # fmt: skip


def map_mdoc(style: MdocStyle) -> str:
    """Return the mdoc of a map: one image at 0 degrees, without a movie."""
    return header(style, "map.mrc") + _still(style, 0, 656.139)


def montage_mdoc(style: MdocStyle) -> str:
    """Return the mdoc of a montage: pieces, then a MontSection."""
    pieces = "".join(_still(style, index, 656.139, f"PieceCoordinates = 0 {3400 * index} 0") for index in range(3))
    return header(style, "LMM.mrc", montage=True) + pieces + _lines("[MontSection = 0]", "NavigatorLabel = 1", "")


def _still(style: MdocStyle, zvalue: int, pixel_size: float, *more: str) -> str:
    """Return a section for an image that is not a movie."""
    return _lines(f"[ZValue = {zvalue}]", *more, "TiltAngle = -0.00654056", "StagePosition = 919.141 849.945",
                  "StageZ = 54.986", "Magnification = 135", "Intensity = 2.98776", "ExposureDose = 0",
                  f"PixelSpacing = {pixel_size:g}", "SpotSize = 7", "RotationAngle = 3.34915", "ExposureTime = 1",
                  "Binning = 1", "CameraIndex = 1", "MagIndex = 4", f"DateTime = {_date(style.start)}", "")  # fmt: skip
