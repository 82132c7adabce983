# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual sessions in folders, with names and transfers as found in practice. On top of the rhythms and faults of
`virtual_sessions`: which file lies where, what it is called there, and what the mdoc files say, as text.

This knows how people name and move files, and nothing of how tomostream decides: it imports nothing of it.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random

from virtual_sessions import Mdoc, Shot, TrueSeries, VirtualSession, virtual_session

LAYOUTS = ("flat", "frames apart", "a folder a series", "two grids, same names", "samples, same names")
NAMES = ("exact", "lower case", "a prefix", "angle rounded otherwise", "blanks and brackets replaced", "another extension",
         "accents decomposed")
TRANSFERS = ("as acquired", "mdocs late", "movies in batches", "all there at the start")
EXTRAS = ("copies of mdocs", "a folder mirrored", "frames of all in one mdoc", "frame mdocs of targets in turns",
          "mdocs of an earlier session", "no last line end", "maps and montages", "empty SubFramePath",
          "SubFramePath tells no folder")
#: When the sessions are, by every clock.
BEGIN = datetime(2026, 1, 15, 9, 0, 0)


@dataclass(eq=False)
class Text:
    """An mdoc file at a time: rendered when it is read."""

    path: str
    render: Callable[[], bytes]
    shots: tuple[Shot, ...] = ()

    def data(self) -> bytes:
        return self.render()


@dataclass
class FolderSession:
    """A session in folders. Events are (time, what, data): mdoc (Text), gone (path), movie (Shot), and those of
    `VirtualSession`; times by `BEGIN`. `paths`, `written`: of each shot's movie on disk. `others`: mdoc files of no series."""

    base: VirtualSession
    layout: str
    names: str
    transfer: str
    extras: frozenset[str]
    events: list[tuple[float, str, object]] = field(default_factory=list)
    paths: dict[int, str] = field(default_factory=dict)
    written: dict[int, float] = field(default_factory=dict)
    mdocs: dict[int, list[str]] = field(default_factory=dict)
    others: dict[str, float] = field(default_factory=dict)

    @property
    def series(self) -> list[TrueSeries]:
        return self.base.series

    def path_of(self, shot: Shot) -> str:
        return self.paths[id(shot)]


def folder_session(seed: int) -> FolderSession:
    """Make one session from a seed."""
    rng = Random(seed + 7_000_000)
    base = virtual_session(seed, small=True)
    layout = rng.choice(LAYOUTS)
    if layout == "samples, same names" and not base.scheme.startswith("Tomo5"):
        layout = "two grids, same names"
    names = rng.choice(NAMES) if rng.random() < 0.6 else "exact"
    transfer = rng.choice(TRANSFERS) if rng.random() < 0.5 else TRANSFERS[0]
    extras = frozenset(extra for extra in EXTRAS if rng.random() < 0.12)
    session = FolderSession(base, layout, names, transfer, extras)
    _Dresser(session, rng).dress()
    return session


class _Dresser:
    """Puts the files of a session into folders."""

    def __init__(self, session: FolderSession, rng: Random) -> None:
        self.session, self.rng, self.base = session, rng, session.base
        self.tomo5 = self.base.scheme.startswith("Tomo5")
        self.frames = self.base.scheme == "frame mdocs"
        self.place: dict[int, tuple[str, str]] = {}         # series -> folder of its mdoc, of its movies
        self.named: dict[int, str] = {}                     # shot -> its movie's name as the camera wrote it
        self.number = {id(series): number for number, series in enumerate(self.base.series)}
        self.extension = rng.choice((".tif", ".tif", ".mrc", ".eer"))
        self.mine = {id(shot): series for series in self.base.series for shot in series.shots}

    def dress(self) -> None:
        self._folders()
        self._movies()
        events = [each for event in self.base.events for each in self._event(*event)]
        events += self._movies_seen()
        self._extras(events)
        events = self._transferred(sorted(events, key=lambda event: event[0]))
        zero = BEGIN.timestamp()
        self.session.events = [(zero + time, what, data) for time, what, data in events]
        self.session.written = {key: zero + time for key, time in self.session.written.items()}

    # ------------------------------------------------------------------ folders and names

    def _folders(self) -> None:
        """Say in which folder each series lies, and give those of the second grid the names of the first."""
        two = self.session.layout in ("two grids, same names", "samples, same names")
        jobs = sorted({_job(series) for series in self.base.series})
        half = (len(jobs) + 1) // 2
        originals = {id(series): (series.name, series.folder) for series in self.base.series}
        for series in self.base.series:
            root = "/s" if series.folder == "/data" else "/s/second"
            job = jobs.index(_job(series))
            if two and len(jobs) > 1:
                grid = 1 if job < half else 2
                root += f"/grid{grid}" if self.session.layout.startswith("two") else f"/Sample{grid}"
                if grid == 2:
                    series.name = series.name.replace(f"_{jobs[job]}", f"_{jobs[job - half]}", 1)
            frames = {"flat": root, "frames apart": f"{root}/frames", "a folder a series": f"{root}/frames/{series.name}",
                      }.get(self.session.layout, f"{root}/frames" if not self.tomo5 else root)
            mdocs = f"{root}/mdocs" if self.session.layout in ("frames apart", "a folder a series") else root
            if self.frames:
                mdocs = frames
            self.place[id(series)] = (mdocs, frames)
        self.originals = originals

    def _movies(self) -> None:
        """Name every movie as the camera does, and say where it lies after its transfer."""
        plain = self.session.layout == "a folder a series" and not self.frames and self.rng.random() < 0.6
        blanks = self.session.names == "blanks and brackets replaced"
        taken: set[str] = set()
        for series in self.base.series:
            stem = "frames" if plain else f"lam [a] {series.name}" if blanks else series.name
            if self.session.names == "accents decomposed":
                stem = f"Zellkörper_{stem}"
            for shot in series.shots:
                nominal = round(shot.angle)
                name = f"{stem}_{shot.order:03d}_{nominal:.1f}{self.extension}"
                if self.tomo5:
                    day = BEGIN + timedelta(seconds=shot.stamp)
                    kind = {".eer": "_EER", ".mrc": "_Fractions"}.get(self.extension, "_Fractions")
                    name = f"{stem}_{shot.order:03d}[{shot.angle:.2f}]_{day:%Y%m%d_%H%M%S}{kind}{self.extension}"
                    if self.session.names != "angle rounded otherwise":
                        name = name.replace("[", "_").replace("]", "")
                folder, number = self.place[id(series)][1], shot.order
                while f"{folder}/{name}" in taken:      # the number in a name goes on where there is such a file already
                    name = name.replace(f"_{number:03d}", f"_{number + 50:03d}", 1)
                    number += 50
                taken.add(f"{folder}/{name}")
                self.named[id(shot)] = name
                self.session.paths[id(shot)] = f"{folder}/{self._moved(name, shot)}"

    def _moved(self, name: str, shot: Shot) -> str:
        """Return what a transfer has made of a name."""
        change = self.session.names
        if change == "lower case":
            return name.lower()
        if change == "a prefix":
            return f"2026Jan15_krios_{name}"
        if change == "angle rounded otherwise":
            if self.tomo5:
                return name.replace(f"[{shot.angle:.2f}]", f"[{round(shot.angle):.2f}]")
            return name.replace(f"_{round(shot.angle):.1f}.", f"_{shot.angle:.2f}.")
        if change == "blanks and brackets replaced":
            return name.replace("[", "").replace("]", "").replace(" ", "_")
        if change == "another extension":
            return name.rsplit(".", 1)[0] + {".tif": ".tiff", ".mrc": ".tif", ".eer": ".tif"}[self.extension]
        return unicodedata.normalize("NFD", name) if change == "accents decomposed" else name

    # ------------------------------------------------------------------ events

    def _event(self, time: float, what: str, data: object) -> Iterable[tuple[float, str, object]]:
        if isinstance(data, Mdoc):
            if data.kind not in ("tilt-series", "frame") or data.path in self.base.junk:
                return
            series = self.mine[id(data.shots[0])] if data.shots else self._named(data)
            if series is not None:
                yield time, what, self._text(self._path(series, data.path), series, data)
        elif what == "gone":
            yield from ((time, what, path) for path in {self._path(series, str(data)) for series in self.base.series
                                                        if str(data).startswith(f"{self.originals[id(series)][1]}/"
                                                                                f"{self.originals[id(series)][0]}.")})
        else:
            yield time, what, data

    def _named(self, mdoc: Mdoc) -> TrueSeries | None:
        folder = mdoc.path.rsplit("/", 1)[0]
        return next((series for series in self.base.series if self.originals[id(series)] == (mdoc.series, folder)), None)

    def _path(self, series: TrueSeries, path: str) -> str:
        name = path.rsplit("/", 1)[1]
        if self.frames:
            shot = next(shot for shot in series.shots if name.startswith(shot.movie[:-4]))
            name = f"{self.named[id(shot)]}.mdoc"
        else:
            name = name.replace(self.originals[id(series)][0], series.name, 1)
        where = f"{self.place[id(series)][0]}/{name}"
        known = self.session.mdocs.setdefault(id(series), [])
        if where not in known:
            known.append(where)
        return where

    def _text(self, path: str, series: TrueSeries, mdoc: Mdoc) -> Text:
        empty = not mdoc.names_movies or (self.tomo5 and "empty SubFramePath" in self.session.extras)
        kind = "FrameSet" if mdoc.kind == "frame" else "ZValue"
        return Text(path, lambda: self._render(series.name, mdoc.shots, kind, mdoc.open_section, empty), mdoc.shots)

    def _render(self, name: str, shots: Iterable[Shot], kind: str, unfinished: bool = False, empty: bool = False) -> bytes:
        title = ("[T = Tomography_5.24: KRIOS-1    15-Jan-2026  09:00:00]\n\n[T =   TiltAxisAngle = -175.00  Binning = 1]\n"
                 if self.tomo5 else "[T = SerialEM: Krios    15-Jan-26  09:00:00    ]\n\n[T =     Tilt axis angle = 85.0, bin]\n")
        head = f"PixelSpacing = 2\nVoltage = 300\nImageFile = {name}.mrc\nImageSize = 4096 4096\n\n{title}\n"
        if kind == "FrameSet":
            head = "T = SerialEM: Krios    15-Jan-26  09:00:00\nVoltage = 300\n\n"
        text = head + "".join(self._section(shot, kind, place, empty) for place, shot in enumerate(shots))
        if unfinished:
            text += f"[{kind} = 99]\nTiltAngle = 1"
        elif "no last line end" in self.session.extras:
            text = text.rstrip("\n")
        return text.encode()

    def _section(self, shot: Shot, kind: str, place: int, empty: bool) -> str:
        series = self.mine[id(shot)]
        when = BEGIN + timedelta(seconds=shot.stamp)
        moved = self.number[id(series)]
        dose = "" if self.tomo5 else f"PriorRecordDose = {3.0 * (shot.order - 1) + 0.1:g}\n"
        return (f"[{kind} = {place}]\nTiltAngle = {shot.angle:.4f}\nStagePosition = {100.0 * (moved // 5):g} 20\n"
                f"Magnification = 42000\nExposureDose = 3\nPixelSpacing = 2\nRotationAngle = 175\nBinning = 1\n"
                f"ImageShift = {5.0 * (moved % 5):g} {2.0 * (moved % 5):g}\n{dose}"
                f"SubFramePath = {'' if empty else self._written_path(shot)}\nNumSubFrames = 8\n"
                f"DateTime = {when:%d-%b-%Y  %H:%M:%S}\n\n")

    def _written_path(self, shot: Shot) -> str:
        """What the camera's computer calls the movie: its own drive, then the folders that were moved with it, or none."""
        folder = self.place[id(self.mine[id(shot)])][1].removeprefix("/s").strip("/")
        if "SubFramePath tells no folder" in self.session.extras:
            folder = ""
        parts = ["X:", "Session26", *folder.split("/"), self.named[id(shot)]]
        return "\\".join(part for part in parts if part)

    def _movies_seen(self) -> list[tuple[float, str, object]]:
        """A movie is imported a little before it is aligned; when it was written is kept by most transfers."""
        events: list[tuple[float, str, object]] = []
        kept = self.rng.random() < 0.7
        seen: set[int] = set()
        for time, what, data in self.base.events:
            shot = data[0] if what == "micrograph" and isinstance(data, tuple) else data if what == "failed" else None
            if isinstance(shot, Shot) and id(shot) not in seen:
                seen.add(id(shot))
                when = max(shot.time + 0.2, time - self.rng.uniform(0.2, 8.0))
                self.session.written[id(shot)] = shot.time + self.rng.uniform(0.0, 2.0) if kept else when
                events.append((min(when, time - 0.01), "movie", shot))
        return events

    # ------------------------------------------------------------------ what else lies there

    def _extras(self, events: list[tuple[float, str, object]]) -> None:
        extras, rng = self.session.extras, self.rng
        last = max(time for time, _, _ in events)
        texts = [(time, data) for time, what, data in events if what == "mdoc" and isinstance(data, Text)]
        if "copies of mdocs" in extras and not self.frames:
            for time, text in rng.sample(texts, min(3, len(texts))):
                folder, name = text.path.rsplit("/", 1)
                stem = name[:-5]
                copy = rng.choice((f"Copy of {name}", f"{stem} - Copy.mdoc", f"{stem} (1).mdoc", f"copy_of_{name}",
                                   f"{name}.bak"))
                self._other(events, min(last, time + rng.uniform(0.5, 600.0)), Text(f"{folder}/{copy}", text.render))
        if "a folder mirrored" in extras and not self.frames:
            for time, text in texts:
                path = f"/s/mirror{text.path.removeprefix('/s')}"
                self._other(events, time + rng.uniform(-0.02, 30.0), Text(path, text.render))
        if "frames of all in one mdoc" in extras:
            self._all_frames(events)
        if "frame mdocs of targets in turns" in extras and not self.tomo5 and not self.frames:
            self._frame_mdocs(events)
        if "mdocs of an earlier session" in extras:
            for number in range(rng.randint(1, 3)):
                self._other(events, 0.1 * number, Text(f"/s/old_{number:02d}.mrc.mdoc", self._earlier(number)))
        if "maps and montages" in extras:
            for name, content in (("LMM.mrc.mdoc", _MONTAGE), ("map.st.mdoc", _MAP)):
                self._other(events, rng.uniform(0.0, last), Text(f"/s/{name}", content.encode))

    def _other(self, events: list[tuple[float, str, object]], time: float, text: Text) -> None:
        events.append((time, "mdoc", text))
        self.session.others.setdefault(text.path, time)

    def _all_frames(self, events: list[tuple[float, str, object]]) -> None:
        """SerialEM's "Open .mdoc for frames": one file with the frame sets of the whole session."""
        shots = sorted((shot for series in self.base.series for shot in series.shots), key=lambda shot: shot.time)
        for count in sorted({*range(1, len(shots), max(1, len(shots) // 30)), len(shots)}):
            part = tuple(shots[:count])
            self._other(events, part[-1].time + 0.6, Text("/s/frames_session.mdoc", _bound(self._render, part)))

    def _frame_mdocs(self, events: list[tuple[float, str, object]]) -> None:
        """PACEtomo with frame mdocs alone: no series has a file of its own."""
        events[:] = [event for event in events if event[1] not in ("mdoc", "gone")]
        self.session.others.clear()
        for series in self.base.series:
            self.session.mdocs[id(series)] = []
            for shot in series.shots:
                path = f"{self.place[id(series)][1]}/{self.named[id(shot)]}.mdoc"
                self.session.mdocs[id(series)].append(path)
                events.append((shot.time + 0.5, "mdoc", Text(path, _bound(self._render, (shot,)), (shot,))))

    def _earlier(self, number: int) -> Callable[[], bytes]:
        shots = tuple(Shot(f"old_{k}.tif", 3.0 * k, 0.0, -86400.0 * 3 + 40.0 * k, k + 1) for k in range(-5, 6))
        owner = TrueSeries(f"old_{number:02d}", "/s")
        for shot in shots:
            self.mine[id(shot)], self.named[id(shot)] = owner, f"old_{number:02d}_{shot.order:03d}.tif"
        self.number[id(owner)], self.place[id(owner)] = 99, ("/s", "/s/gone")
        self.kept = [*getattr(self, "kept", []), shots, owner]          # their identities are keys
        return lambda: self._render(owner.name, shots, "ZValue")

    # ------------------------------------------------------------------ transfers

    def _transferred(self, events: list[tuple[float, str, object]]) -> list[tuple[float, str, object]]:
        """Let files come as the transfer brings them."""
        rng, way = self.rng, self.session.transfer
        if way == "as acquired" or any(what in ("killed", "stop") for _, what, _ in events):
            self.session.transfer = TRANSFERS[0]
            return events
        if way == "mdocs late":
            delay = rng.uniform(20.0, 150.0)
            return sorted(((time + delay if what in ("mdoc", "gone") else time, what, data) for time, what, data in events),
                          key=lambda event: event[0])
        if way == "movies in batches":
            every = rng.uniform(120.0, 900.0)
            return sorted(((math.ceil(time / every) * every + 0.001 * (time % every) if what in ("movie", "micrograph", "failed")
                            else time, what, data) for time, what, data in events), key=lambda event: event[0])
        ends = max(time for time, _, _ in events)
        final: dict[str, tuple[float, str, object]] = {}
        for event in events:
            if event[1] == "mdoc" and isinstance(event[2], Text):
                final[event[2].path] = event
            elif event[1] == "gone":
                final.pop(str(event[2]), None)
        found = [(ends + rng.uniform(0.0, 0.2), what, data) for _, what, data in final.values()]
        seen = [(ends + rng.uniform(0.0, 3.0), what, data) for _, what, data in events if what == "movie"]
        rest = [(ends + 10.0 + 0.5 * place, what, data) for place, (_, what, data) in enumerate(
            event for event in events if event[1] in ("micrograph", "failed"))]
        closed = [(ends + 60.0 + 0.5 * len(rest), what, data) for _, what, data in events if what == "closed"]
        return sorted([*found, *seen, *rest, *closed], key=lambda event: event[0])


def _bound(render: Callable[..., bytes], shots: tuple[Shot, ...]) -> Callable[[], bytes]:
    return lambda: render("frames", shots, "FrameSet")


def _job(series: TrueSeries) -> str:
    return series.name.split("_")[1]


_MONTAGE = ("PixelSpacing = 656\nImageFile = LMM.mrc\nMontage = 1\n\n[T = SerialEM: Krios]\n\n"
            + "".join(f"[ZValue = {k}]\nPieceCoordinates = 0 {k} 0\nTiltAngle = -0.01\nDateTime = 15-Jan-2026  08:00:00\n\n"
                      for k in range(3)) + "[MontSection = 0]\nNavigatorLabel = 1\n\n")
_MAP = ("PixelSpacing = 80\nImageFile = map.st\n\n[T = SerialEM: Krios]\n\n[ZValue = 0]\nTiltAngle = 0.01\n"
        "DateTime = 15-Jan-2026  08:00:00\n\n")
