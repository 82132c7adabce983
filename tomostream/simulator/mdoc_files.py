# SPDX-License-Identifier: GPL-3.0-or-later
"""The growing mdoc files of an acquisition: one section per exposure, with what SerialEM and faults do to them."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from tomostream.simulator import mdoc
from tomostream.simulator.disk import append_up_to, put_whole
from tomostream.simulator.layout import Place
from tomostream.simulator.plan import Exposure, Plan

#: Length in bytes of an mdoc with random bytes.
GARBAGE = 400


class MdocFiles:
    """The mdocs of the series, each in its place below `out`; rewritten files are made in the folder `incoming`."""

    def __init__(self, plan: Plan, places: list[Place], out: Path, incoming: Path, start: datetime) -> None:
        self._plan, self._places, self._out, self._incoming = plan, places, out, incoming
        self._folder = out / places[0].mdocs
        self._sections: list[list[Exposure]] = [[] for _ in places]
        self._random = random.Random(plan.seed)
        self.set_start(start)

    def set_start(self, start: datetime) -> None:
        """Set the time of the first exposure. Exposures are at least a second apart, because times have no finer resolution."""
        plan = self._plan
        axis = plan.tilt_axis + plan.axis_error
        start = start.replace(microsecond=0)
        self._style = mdoc.MdocStyle(plan, start, max(plan.interval, 1.0), plan.size, plan.pixel_size, axis)

    def path(self, series: int) -> Path:
        """Return the mdoc of a series (from 0)."""
        return self._out / self._places[series].mdocs / f"{self._places[series].name}.mrc.mdoc"

    def add(self, exposure: Exposure) -> Path:
        """Append the section of an exposure, or rewrite the file if it replaces one."""
        path = self.path(exposure.series)
        if self._list(exposure) or self._plan.rewrite:
            put_whole(path, self._text(exposure.series), self._incoming)
        else:
            append_up_to(path, self._text(exposure.series))
        return path

    def add_half(self, exposure: Exposure) -> Path | None:
        """Append part of a section: an mdoc caught while being written. None if the file is rewritten."""
        path, listed = self.path(exposure.series), self._sections[exposure.series]
        if self._plan.rewrite or (listed and listed[-1].replaced):
            return None
        before = path.stat().st_size if path.exists() else 0
        self._list(exposure)
        whole = self._text(exposure.series)
        append_up_to(path, whole[: before + 6 * (len(whole) - before) // 10])
        return path

    def add_extra(self, last: Exposure) -> Path:
        """Append a section for a movie that does not exist, one step beyond the last tilt."""
        series, path = last.series, self.path(last.series)
        section = self._section(_never(last, self._plan), len(self._sections[series]))
        append_up_to(path, self._text(series) + section.encode())
        return path

    def turn(self, series: int) -> Path:
        """Turn a bidirectional series: its mdoc becomes `-half1`, and a new one begins, with its sections reversed."""
        path = self.path(series)
        if path.exists():
            os.replace(path, path.with_name(path.name.replace(".mrc.mdoc", ".mrc-half1.mdoc")))
        self._sections[series].reverse()
        put_whole(path, self._text(series), self._incoming)
        return path

    def spoil(self, series: int) -> Path:
        """Write the mdoc of a series as random bytes, or empty."""
        garbage = self._plan.faults.of("garbage-mdoc", series + 1) is not None
        self.path(series).write_bytes(self._random.randbytes(GARBAGE) if garbage else b"")
        return self.path(series)

    def add_other(self, name: str) -> Path:
        """Write an mdoc that does not belong to a series: a map, a montage, random bytes, or empty."""
        texts = {"map.mrc.mdoc": mdoc.map_mdoc, "LMM.mrc.mdoc": mdoc.montage_mdoc}
        path = self._folder / name
        if name in texts:
            path.write_bytes(texts[name](self._style).encode())
        else:
            path.write_bytes(self._random.randbytes(GARBAGE) if name == "garbage.mdoc" else b"")
        return path

    def _list(self, exposure: Exposure) -> bool:
        """Add an exposure to the sections of its mdoc; return whether it replaces one."""
        listed = self._sections[exposure.series]
        if listed and listed[-1] is exposure:
            return False
        replaces = bool(listed) and listed[-1].replaced and listed[-1].tilt == exposure.tilt
        if replaces:
            listed.pop()
        listed.append(exposure)
        return replaces

    def _text(self, series: int) -> bytes:
        """Return the mdoc of a series with the sections that it has so far."""
        text = mdoc.header(self._style, f"{self._places[series].name}.mrc", self._with_axis(series))
        sections = (self._section(one, zvalue) for zvalue, one in enumerate(self._sections[series]))
        return (text + "".join(sections)).encode()

    def _section(self, exposure: Exposure, zvalue: int) -> str:
        return mdoc.section(self._style, exposure, zvalue, self._with_axis(exposure.series), self._places[exposure.series].camera)

    def _with_axis(self, series: int) -> bool:
        return self._plan.faults.of("no-axis", series + 1) is None


def _never(last: Exposure, plan: Plan) -> Exposure:
    """Return an exposure after the last one that never took place, one step further out."""
    truth = last.truth
    angle = truth.angle + (plan.tilt_step if truth.angle >= 0 else -plan.tilt_step)
    stem = truth.movie.rsplit("_", 2)[0]
    name = f"{stem}_{truth.order + 1:03d}_{angle:.1f}.{plan.format}"
    later = replace(truth, movie=name, angle=angle, prior_dose=truth.prior_dose + truth.dose)
    return replace(last, truth=later, slot=last.slot + 1, camera=name)
