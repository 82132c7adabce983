# SPDX-License-Identifier: GPL-3.0-or-later
"""Stacks of aligned tilts, and what is kept beside a stack so that the protocol can go on after it was killed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from tomostream.acquisition.events import Compose
from tomostream.engine.output import Outputs
from tomostream.files.errors import EngineError
from tomostream.files.mrc import open_mrc
from tomostream.streaming.work import BadInput

LABEL = "tomostream tilt series"


@dataclass(frozen=True)
class TiltRecord:
    """One tilt of a composed series, as it is registered. None is unknown. Doses in e/A2, angle in degrees, target defocus in
    um, underfocus positive."""

    movie: str
    micrograph: str
    angle: float
    order: int
    dose: float | None
    dose_source: str
    prior_dose: float | None
    prior_dose_source: str
    time: str | None
    micrograph_version: int
    even: str = ""
    odd: str = ""
    target_defocus: float | None = None


@dataclass(frozen=True)
class SeriesRecord:
    """A composed series: the sidecar of its stack. The outputs say that it is done, this says of what it is made."""

    series_id: str
    series_name: str
    version: int
    tilts: tuple[TiltRecord, ...]
    left_out: tuple[tuple[str, float, str], ...]
    tilt_axis: float
    tilt_axis_source: str
    voltage: float | None
    reason: str
    evidence: tuple[str, ...]
    mdocs: tuple[str, ...]
    warnings: tuple[str, ...]
    #: The angles are those of the mdoc with the other sign.
    negated: bool = False

    @classmethod
    def of(cls, decision: Compose, micrographs: Mapping[str, tuple[str, str, str]], key_of,
           negated: bool = False) -> SeriesRecord:
        """From a decision and the files (sum, odd, even) of each movie; `negated` gives all angles the other sign."""
        sign = -1.0 if negated else 1.0
        tilts = []
        versions = decision.micrograph_versions or (1,) * len(decision.tilts)
        for tilt, version in zip(decision.tilts, versions, strict=True):
            movie = key_of(tilt.movie or "")
            whole, odd, even = micrographs[movie]
            tilts.append(TiltRecord(movie, whole, sign * tilt.angle, tilt.order, tilt.dose.value, tilt.dose.source,
                                    tilt.prior_dose.value, tilt.prior_dose.source,
                                    None if tilt.time is None else tilt.time.isoformat(), version, even, odd,
                                    tilt.target_defocus))
        if negated:
            tilts.sort(key=lambda tilt: (tilt.angle, tilt.order))
        left_out = tuple((each.tilt.movie or "", sign * each.tilt.angle, each.reason) for each in decision.left_out)
        return cls(decision.series_id, decision.series_name, decision.version, tuple(tilts), left_out,
                   decision.tilt_axis.value, decision.tilt_axis.source, decision.voltage.value, decision.reason,
                   decision.evidence, decision.mdocs, decision.warnings, negated)

    def write(self, path: str) -> None:
        """Write the sidecar, complete or not at all."""
        part = f"{path}.part"
        with open(part, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
        os.replace(part, path)

    @classmethod
    def read(cls, path: str) -> SeriesRecord | None:
        """Read a sidecar; None when there is none (registered by another version, or removed by hand)."""
        try:
            with open(path, encoding="utf-8") as file:
                data = json.load(file)
        except (OSError, ValueError):
            return None
        data["tilts"] = tuple(TiltRecord(**tilt) for tilt in data["tilts"])
        for name in ("left_out", "evidence", "mdocs", "warnings"):
            data[name] = tuple(tuple(each) if isinstance(each, list) else each for each in data[name])
        return cls(**data)


def stack_images(paths: Sequence[str], target: str, pixel_size: float) -> tuple[int, int]:
    """Put single images together as one stack (MRC mode 2), written under another name until it is whole.

    Returns
    -------
    (width, height) in pixels.

    Raises
    ------
    BadInput : an image cannot be read or has another size than the first; names the file.
    EngineError : the stack cannot be written (disk full, no permission).
    """
    first = read_image(paths[0])
    with Outputs() as outputs:
        stack = outputs.mapped_mrc(target, (len(paths), *first.shape), pixel_size, LABEL, volume=False)
        stack[0] = first
        for index, path in enumerate(paths[1:], start=1):
            image = read_image(path)
            if image.shape != first.shape:
                raise BadInput(f"{os.path.basename(path)} is {image.shape[1]} x {image.shape[0]} pixels, but "
                               f"{os.path.basename(paths[0])} is {first.shape[1]} x {first.shape[0]}: they cannot be tilts "
                               "of one series")
            stack[index] = image
    return first.shape[1], first.shape[0]


def find_image(tilt: TiltRecord, suffix: str, earlier: Sequence[str]) -> str:
    """Where the image of a tilt is: its micrograph, or a section of an earlier stack where that was removed.

    Parameters
    ----------
    suffix : "", "_odd" or "_even".
    earlier : stems of the earlier versions of the series, the latest first.

    Returns
    -------
    path, or "section@path" with sections from 1.
    """
    own = {"": tilt.micrograph, "_odd": tilt.odd, "_even": tilt.even}[suffix]
    if os.path.exists(own):
        return own
    for stem in earlier:
        record, stack = SeriesRecord.read(f"{stem}.json"), f"{stem}{suffix}.mrcs"
        for section, other in enumerate(record.tilts if record else (), start=1):
            same = (other.movie, other.micrograph_version) == (tilt.movie, tilt.micrograph_version)
            if same and os.path.exists(stack):
                return f"{section}@{stack}"
    return own


def read_image(location: str) -> np.ndarray:
    """One image as float32, shape (height, width). `location`: a path, or "section@path" with sections from 1.

    Raises
    ------
    BadInput : it cannot be read, or is no single image.
    """
    section, at, path = location.partition("@")
    if not (at and section.isdigit()):
        section, path = "", location
    try:
        stack = open_mrc(path)
        if not section and len(stack) != 1:
            raise BadInput(f"{os.path.basename(path)} holds {len(stack)} images where one was expected")
        return stack.section(int(section or 1) - 1).astype(np.float32)
    except (OSError, ValueError, IndexError) as error:
        raise BadInput(f"the micrograph {os.path.basename(path)} cannot be read: {error}") from error


__all__ = ["EngineError", "SeriesRecord", "TiltRecord", "find_image", "read_image", "stack_images"]
