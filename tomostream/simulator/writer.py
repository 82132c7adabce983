# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes an acquisition to a folder over time.

    OUT/frames/*          the movies, or where the plan's layout has them
    OUT/mdocs/*.mdoc      SerialEM's mdocs, which grow by one section per exposure: first the movie, then its section
    OUT/truth.json        what is true of every tilt, before the first movie
    OUT/specimen.json     the plan, its faults, and what is on the grid, before the first movie
    OUT/acquisition.csv   what was written when: time (s since the epoch), event, series, tilt, file
"""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path

from tomostream.simulator import movies
from tomostream.simulator.ahead import MoviesAhead
from tomostream.simulator.clock import Clock, RealClock
from tomostream.simulator.disk import append_up_to, put_whole, write_over
from tomostream.simulator.mdoc_files import MdocFiles
from tomostream.simulator.plan import Exposure, truth_document
from tomostream.simulator.scene import Scene
from tomostream.simulator.timeline import Action, last_use, timeline

LOG_COLUMNS = ("time", "event", "series", "tilt", "file")


def ignore(_message: str) -> None:
    """Report nothing."""


class Writer:
    """Writes the files of a scene. `step` does the next action, `run` all of them, each at its time.

    `start_time` is the date of the first exposure in the mdocs, by default the time at which it is made. Callers of
    `step` or `run_until` call `prepare` before and `close` at the end.
    """

    def __init__(self, scene: Scene, out: str | Path, *, clock: Clock | None = None,
                 start_time: datetime | None = None, report: Callable[[str], None] = ignore) -> None:
        self.scene, self.plan, self.out = scene, scene.plan, Path(out)
        self._incoming = self.out / ".incoming"
        self._clock, self._report, self._start_time = clock or RealClock(), report, start_time
        self._mdocs = MdocFiles(self.plan, scene.places, self.out, self._incoming, start_time or datetime.now())
        self.actions = timeline(self.plan, scene.exposures, _turn(scene))
        self._last_use = last_use(self.actions)
        self._ahead = MoviesAhead(scene, [_of(action).slot for action in self.actions if action.writes_movie])
        self._next, self._warned = 0, False

    def prepare(self) -> None:
        """Create the folders and write `truth.json` and `specimen.json`. Raises ValueError if the folder is in use."""
        if (self.out / "truth.json").exists():
            raise ValueError(f"{self.out} already holds an acquisition (truth.json): choose another folder.")
        for folder in {self._incoming, *(self.out / each for place in self.scene.places for each in (place.movies, place.mdocs))}:
            folder.mkdir(parents=True, exist_ok=True)
        self._log(*LOG_COLUMNS, mode="w")
        put_whole(self.out / "specimen.json", self._specimen_document().encode())
        put_whole(self.out / "truth.json", truth_document(self.plan.pixel_size, self.scene.truth()).encode())

    @property
    def finished(self) -> bool:
        """Whether everything has been written."""
        return self._next >= len(self.actions)

    def step(self) -> Action:
        """Wait for the time of the next action and do it."""
        action = self.actions[self._next]
        if action.writes_movie:
            self._ahead.get(_of(action))
        while self._ahead.while_waiting(action.time - self._clock.now()):
            pass
        self._clock.wait_until(action.time)
        self._do(action)
        if action.writes_movie and self._last_use[_of(action).slot] == self._next:
            self._ahead.forget(_of(action))
        self._next += 1
        return action

    def run_until(self, moment: float) -> None:
        """Write what is due up to `moment` (s after the start); with a virtual clock immediately."""
        while not self.finished and self.actions[self._next].time <= moment:
            self.step()
        self._clock.wait_until(moment)

    def run(self) -> None:
        """Write everything, each file at its time."""
        self.prepare()
        try:
            self._ahead.before_start(self.plan.interval)
            self._clock.start()
            if self._start_time is None:
                self._mdocs.set_start(datetime.now() + timedelta(seconds=self.plan.start_delay))
            while not self.finished:
                self._warn_if_late()
                self.step()
        finally:
            self.close()

    def close(self) -> None:
        """Remove the folder of unfinished files."""
        shutil.rmtree(self._incoming, ignore_errors=True)

    def _do(self, action: Action) -> None:
        """Write what an action says, and log it."""
        path = self._write_movie(action) if action.writes_movie else self._write_mdoc(action)
        if path is None:
            return
        series = self.scene.ids[action.series] if action.series >= 0 else ""
        tilt = action.exposure.tilt + 1 if action.exposure is not None else ""
        self._log(f"{time.time():.3f}", action.kind, series, tilt, path.relative_to(self.out))
        if action.kind == "movie":
            self._report(f"{series}  tilt {tilt} of {self.plan.tilts}  {path.name}")

    def _write_movie(self, action: Action) -> Path:
        """Put the movie, or part of it, on disk: under its name immediately, or growing in place."""
        exposure, write = _of(action), self.plan.write
        data, path = self._ahead.get(exposure), self.out / self.scene.places[exposure.series].movies / exposure.truth.movie
        part = data[: round(action.part * len(data))]
        if write == "frames":
            whole_frames = self.plan.format == "tif" and action.part < 1
            write_over(path, movies.first_frames(data, max(1, int(action.part * self.plan.frames)))
                       if whole_frames else part)  # fmt: skip
        elif write == "slow" or action.kind == "piece" or path.exists():
            append_up_to(path, part)
        else:
            put_whole(path, part, self._incoming)
        return path

    def _write_mdoc(self, action: Action) -> Path | None:
        """Do to the mdocs what an action says; return the path of the file, None if nothing was written."""
        if action.kind == "other-mdoc":
            return self._mdocs.add_other(action.name)
        if action.kind == "spoiled-mdoc":
            return self._mdocs.spoil(action.series)
        if action.kind == "half1":
            return self._mdocs.turn(action.series)
        add = {"section": self._mdocs.add, "half-section": self._mdocs.add_half, "extra-section": self._mdocs.add_extra}
        return add[action.kind](_of(action))

    def _warn_if_late(self) -> None:
        """Report once that this machine does not keep up with the requested interval."""
        late = self._clock.now() - self.actions[self._next].time
        if self.plan.interval > 0 and late > 2 * self.plan.interval and not self._warned:
            self._report(f"This machine is {late:.0f} s behind: it takes {self._ahead.seconds:.2f} s to make a movie.")
            self._warned = True

    def _log(self, *row: object, mode: str = "a") -> None:
        with open(self.out / "acquisition.csv", mode, newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)

    def _specimen_document(self) -> str:
        plan = asdict(self.plan)
        plan["faults"] = [asdict(fault) for fault in self.plan.faults.faults]
        return json.dumps({"plan": plan, "specimen": self.scene.about()}, indent=1) + "\n"


def _of(action: Action) -> Exposure:
    """Return the exposure of an action that has one."""
    if action.exposure is None:
        raise TypeError(f"An action of kind {action.kind} belongs to an exposure.")
    return action.exposure


def _turn(scene: Scene) -> int | None:
    """Return the tilt (from 0) at which a bidirectional series begins its second branch."""
    if scene.plan.scheme != "bidirectional":
        return None
    return min((one.tilt for one in scene.exposures if one.nominal < 0), default=None)
