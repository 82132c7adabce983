# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes an acquisition to a folder over time.

    OUT/frames/*          the movies
    OUT/mdocs/*.mdoc      SerialEM's mdocs, which grow by a section an exposure: first the movie, then its section
    OUT/truth.json        what is true of every tilt, before the first movie
    OUT/specimen.json     the plan, its faults, and what the phantom holds, before the first movie
    OUT/acquisition.csv   what was written when: time (s since the epoch), event, series, tilt, file
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from tomostream.simulator import mdoc, movies, specimen
from tomostream.simulator.plan import Exposure, truth_document
from tomostream.simulator.scene import Scene
from tomostream.simulator.timeline import Action, last_use, timeline

#: Bytes of finished movies that may wait in memory for their time.
AHEAD_BYTES = 512 * 1024**2


class Clock(Protocol):
    """Seconds since the start of the acquisition."""

    def start(self) -> None:
        """Begin at 0."""

    def now(self) -> float:
        """Seconds since the start."""

    def wait_until(self, moment: float) -> None:
        """Return at `moment`, at once if it has passed."""


class RealClock:
    """The clock on the wall. Ctrl-C ends a wait."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._never = threading.Event()

    def start(self) -> None:
        self._start = time.monotonic()

    def now(self) -> float:
        return time.monotonic() - self._start

    def wait_until(self, moment: float) -> None:
        while (left := moment - self.now()) > 0:
            self._never.wait(left)


class VirtualClock:
    """A clock that is moved by whoever waits: an acquisition of hours in no time."""

    def __init__(self) -> None:
        self._now = 0.0

    def start(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def wait_until(self, moment: float) -> None:
        self._now = max(self._now, moment)


def ignore(_message: str) -> None:
    """Tell nobody."""


class Writer:
    """Writes the files of a scene. `step` does the next action, `run` all of them, each at its time.

    Movies are rendered ahead, so that the time it takes to make one does not show in the times between exposures. Who
    calls `step` himself calls `prepare` before and `close` at the end.
    """

    def __init__(self, scene: Scene, out: str | Path, *, clock: Clock | None = None,
                 start_time: datetime | None = None, tell: Callable[[str], None] = ignore) -> None:
        plan = scene.plan
        self.scene, self.plan, self.out = scene, plan, Path(out)
        self.frames, self.mdocs = self.out / "frames", self.out / "mdocs"
        self._incoming = self.out / ".incoming"
        self._clock, self._tell = clock or RealClock(), tell
        start = (start_time or datetime.now()).replace(microsecond=0)
        self._style = mdoc.MdocStyle(plan, start, max(plan.interval, 1.0), plan.size, plan.pixel_size,
                                     plan.tilt_axis + plan.axis_error)  # fmt: skip
        self.actions = timeline(plan, scene.exposures, _turn(scene))
        self._last_use = last_use(self.actions)
        self._next = 0
        self._rendered: dict[int, bytes] = {}
        self._queue = list(dict.fromkeys(
            action.exposure.slot for action in self.actions if action.exposure and action.kind in ("movie", "piece")))
        self._sections: list[list[Exposure]] = [[] for _ in scene.ids]
        self._render_time = 0.0
        self._warned, self._dated_now = False, start_time is None
        self._rng = random.Random(plan.seed)

    def prepare(self) -> None:
        """Make the folders and write `truth.json` and `specimen.json`. Raise ValueError if the folder is in use."""
        if (self.out / "truth.json").exists():
            raise ValueError(f"{self.out} already holds an acquisition (truth.json): choose another folder.")
        for folder in (self.frames, self.mdocs, self._incoming):
            folder.mkdir(parents=True, exist_ok=True)
        self._log("time", "event", "series", "tilt", "file")
        _replace(self.out / "specimen.json", self._specimen_document().encode())
        _replace(self.out / "truth.json", truth_document(self.plan.pixel_size, self.scene.truth()).encode())

    @property
    def finished(self) -> bool:
        """Whether all has been written."""
        return self._next >= len(self.actions)

    def step(self) -> Action:
        """Wait for the time of the next action and do it."""
        action = self.actions[self._next]
        if action.exposure is not None and action.kind in ("movie", "piece"):
            self._movie(action.exposure)
        self._use_waiting_time(action.time)
        self._clock.wait_until(action.time)
        _DO[action.kind](self, action)
        if action.exposure is not None and self._last_use.get(action.exposure.slot) == self._next:
            self._rendered.pop(action.exposure.slot, None)
        self._next += 1
        return action

    def run_until(self, moment: float) -> None:
        """Write what is due up to `moment` (s after the start); with a virtual clock at once."""
        while not self.finished and self.actions[self._next].time <= moment:
            self.step()
        self._clock.wait_until(moment)

    def run(self) -> None:
        """Write everything, each thing at its time."""
        self.prepare()
        try:
            self._render_ahead()
            self._clock.start()
            self._set_date()
            while not self.finished:
                self._warn_if_late()
                self.step()
        finally:
            self.close()

    def _set_date(self) -> None:
        """Let the mdocs begin now, at the first exposure, if no other date was given."""
        if self._dated_now:
            first = datetime.now() + timedelta(seconds=self.plan.start_delay)
            self._style = replace(self._style, start=first.replace(microsecond=0))

    def close(self) -> None:
        """Remove the folder of unfinished files."""
        shutil.rmtree(self._incoming, ignore_errors=True)

    def _warn_if_late(self) -> None:
        """Say once that this machine does not keep up with the interval asked for."""
        late = self._clock.now() - self.actions[self._next].time
        if self.plan.interval > 0 and late > 2 * self.plan.interval and not self._warned:
            self._tell(f"This machine is {late:.0f} s behind: it takes {self._render_time:.2f} s to make a movie.")
            self._warned = True

    def _ahead_is_full(self) -> bool:
        return sum(map(len, self._rendered.values())) >= AHEAD_BYTES

    def _render_ahead(self) -> None:
        """Make movies before the clock starts: one, or all if one takes too long to be made between two exposures."""
        if self.plan.interval <= 0:
            return
        while self._queue and not self._ahead_is_full():
            self._movie(self.scene.exposures[self._queue[0]])
            if self.plan.interval > 2 * self._render_time:
                return

    def _use_waiting_time(self, moment: float) -> None:
        """Make movies that are due later as long as one surely fits in before `moment`."""
        while self._queue and moment - self._clock.now() > 1.5 * self._render_time and not self._ahead_is_full():
            self._movie(self.scene.exposures[self._queue[0]])

    def _movie(self, exposure: Exposure) -> bytes:
        """The bytes of the movie of an exposure, made now if they were not yet."""
        if exposure.slot not in self._rendered:
            begin = time.monotonic()
            frames = self.scene.render(exposure)
            self._rendered[exposure.slot] = movies.encode(frames, self.plan.pixel_size, self.plan.format)
            self._render_time = max(0.7 * self._render_time, time.monotonic() - begin)
            self._queue.remove(exposure.slot)
        return self._rendered[exposure.slot]

    def _log(self, *row: object) -> None:
        with open(self.out / "acquisition.csv", "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)

    def _say(self, event: str, action: Action, path: Path) -> None:
        """Log what was written."""
        series = self.scene.ids[action.series] if action.series >= 0 else ""
        tilt = action.exposure.tilt + 1 if action.exposure is not None else ""
        self._log(f"{time.time():.3f}", event, series, tilt, path.relative_to(self.out))
        if event == "movie":
            self._tell(f"{series}  tilt {tilt} of {self.plan.tilts}  {path.name}")

    def _write_movie(self, action: Action) -> None:
        """Put the movie, or a part of it, on disk: under its name at once, or growing in place."""
        exposure = _of(action)
        data, path = self._movie(exposure), self.frames / exposure.truth.movie
        length = round(action.part * len(data))
        have = path.stat().st_size if path.exists() else 0
        if action.kind == "movie" and have == 0 and self.plan.write == "atomic":
            hidden = self._incoming / f".{path.name}.part"
            hidden.write_bytes(data[:length])
            os.replace(hidden, path)
        elif self.plan.write == "frames" and self.plan.format == "tif" and length < len(data):
            frames = max(1, int(action.part * self.plan.frames))
            _write_over(path, movies.first_frames(data, frames))
        elif self.plan.write == "frames":
            _write_over(path, data[:length])
        else:
            with open(path, "ab") as file:
                file.write(data[have:length])
        self._say(action.kind, action, path)

    def _mdoc_path(self, series: int) -> Path:
        return self.mdocs / f"{self.scene.ids[series]}.mrc.mdoc"

    def _with_axis(self, series: int) -> bool:
        return self.plan.faults.of("no-axis", series + 1) is None

    def _section_text(self, exposure: Exposure, zvalue: int) -> str:
        return mdoc.section(self._style, exposure, zvalue, self._with_axis(exposure.series))

    def _whole_mdoc(self, series: int) -> bytes:
        """The mdoc of a series with the sections that it has by now."""
        text = mdoc.header(self._style, f"{self.scene.ids[series]}.mrc", self._with_axis(series))
        sections = (self._section_text(one, zvalue) for zvalue, one in enumerate(self._sections[series]))
        return (text + "".join(sections)).encode()

    def _append(self, series: int, whole: bytes, share: float = 1.0) -> Path:
        """Append to the mdoc what it lacks to be `whole`, or a `share` of that."""
        path = self._mdoc_path(series)
        have = path.stat().st_size if path.exists() else 0
        with open(path, "ab") as file:
            file.write(whole[have : have + round(share * (len(whole) - have))])
        return path

    def _list(self, exposure: Exposure) -> bool:
        """Put an exposure among the sections of its mdoc; say whether it replaces one."""
        listed = self._sections[exposure.series]
        if listed and listed[-1] is exposure:
            return False
        replaces = bool(listed) and listed[-1].replaced and listed[-1].tilt == exposure.tilt
        if replaces:
            listed.pop()
        listed.append(exposure)
        return replaces

    def _write_section(self, action: Action) -> None:
        """Append the section of an exposure, or write the file anew where a section was replaced."""
        exposure = _of(action)
        series = exposure.series
        if self._list(exposure) or self.plan.rewrite:
            path = self._mdoc_path(series)
            _replace(path, self._whole_mdoc(series), self._incoming)
        else:
            path = self._append(series, self._whole_mdoc(series))
        self._say("section", action, path)

    def _write_half_section(self, action: Action) -> None:
        """Append half of a section: an mdoc that is caught while it is written."""
        exposure = _of(action)
        listed = self._sections[exposure.series]
        if self.plan.rewrite or (listed and listed[-1].replaced):
            return
        self._list(exposure)
        path = self._append(exposure.series, self._whole_mdoc(exposure.series), 0.6)
        self._say("half-section", action, path)

    def _write_extra_section(self, action: Action) -> None:
        """Append a section of a movie that does not exist, one step beyond the last tilt."""
        exposure = _of(action)
        truth = exposure.truth
        angle = truth.angle + (1 if truth.angle >= 0 else -1) * self.plan.tilt_step
        never = _never(exposure, angle, self.plan.format)
        text = self._section_text(never, len(self._sections[exposure.series]))
        path = self._append(exposure.series, self._whole_mdoc(exposure.series) + text.encode())
        self._say("extra-section", action, path)

    def _write_half1(self, action: Action) -> None:
        """The turn of a bidirectional series: the mdoc becomes `-half1`, a new one begins, its sections reversed."""
        path = self._mdoc_path(action.series)
        if path.exists():
            half = path.with_name(path.name.replace(".mrc.mdoc", ".mrc-half1.mdoc"))
            os.replace(path, half)
            self._say("half1", action, half)
        self._sections[action.series].reverse()
        _replace(path, self._whole_mdoc(action.series), self._incoming)
        self._say("mdoc", action, path)

    def _write_spoiled_mdoc(self, action: Action) -> None:
        """Write the mdoc of a series as random bytes or empty."""
        garbage = self.plan.faults.of("garbage-mdoc", action.series + 1) is not None
        path = self._mdoc_path(action.series)
        path.write_bytes(self._rng.randbytes(400) if garbage else b"")
        self._say("spoiled-mdoc", action, path)

    def _write_other_mdoc(self, action: Action) -> None:
        """Write an mdoc that is not of a series."""
        texts = {"map.mrc.mdoc": mdoc.map_mdoc, "LMM.mrc.mdoc": mdoc.montage_mdoc}
        path = self.mdocs / action.name
        if action.name in texts:
            path.write_bytes(texts[action.name](self._style).encode())
        else:
            path.write_bytes(self._rng.randbytes(400) if action.name == "garbage.mdoc" else b"")
        self._say("other-mdoc", action, path)

    def _specimen_document(self) -> str:
        plan = asdict(self.plan)
        plan["faults"] = [asdict(fault) for fault in self.plan.faults.faults]
        marks = {name: {"from_A": start, "to_A": end} for name, (start, end) in specimen.MARKS.items()}
        return json.dumps({"plan": plan, "marks": marks}, indent=1) + "\n"


_DO: dict[str, Callable[[Writer, Action], None]] = {
    "movie": Writer._write_movie,
    "piece": Writer._write_movie,
    "section": Writer._write_section,
    "half-section": Writer._write_half_section,
    "extra-section": Writer._write_extra_section,
    "half1": Writer._write_half1,
    "spoiled-mdoc": Writer._write_spoiled_mdoc,
    "other-mdoc": Writer._write_other_mdoc,
}


def _of(action: Action) -> Exposure:
    if action.exposure is None:
        raise TypeError(f"An action of kind {action.kind} belongs to an exposure.")
    return action.exposure


def _turn(scene: Scene) -> int | None:
    """The tilt (from 0) at which a bidirectional series begins its second branch."""
    if scene.plan.scheme != "bidirectional":
        return None
    tilts = [one for one in scene.exposures if one.series == 0 and one.nominal < 0]
    return min((one.tilt for one in tilts), default=None)


def _never(exposure: Exposure, angle: float, extension: str) -> Exposure:
    """An exposure after this one that never took place."""
    truth = exposure.truth
    stem = truth.movie.rsplit("_", 2)[0]
    name = f"{stem}_{truth.order + 1:03d}_{angle:.1f}.{extension}"
    later = replace(truth, movie=name, angle=round(angle, 5), prior_dose=truth.prior_dose + truth.dose)
    return replace(exposure, truth=later, slot=exposure.slot + 1)


def _write_over(path: Path, data: bytes) -> None:
    """Write the file in place from its first byte, without cutting it short in between."""
    with open(path, "r+b" if path.exists() else "wb") as file:
        file.write(data)


def _replace(path: Path, data: bytes, folder: Path | None = None) -> None:
    """Write a file whole under a hidden name and give it its name."""
    hidden = (folder or path.parent) / f".{path.name}.part"
    hidden.write_bytes(data)
    os.replace(hidden, path)
