# SPDX-License-Identifier: GPL-3.0-or-later
"""A project as tomostream's protocols leave it, made in milliseconds and without Scipion: for tests and benchmarks."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import mrcfile
import numpy as np

from tomostream.journal import entries, ledger
from tomostream.journal.status import ARETOMO, CLASSES, COMPOSE, IMPORT, MOTIONCOR
from tomostream.programs import aretomo as files
from tomostream.programs.aln import AlnFile, AlnRow, DarkFrame, format_aln
from tomostream.programs.ctf import CtfRow, format_ctf
from tomostream.programs.quality import Quality, TiltQuality, Trust, format_quality

FOLDERS = {name: f"{place:06d}_{CLASSES[name]}" for place, name in enumerate((IMPORT, MOTIONCOR, COMPOSE, ARETOMO), start=2)}
ANGLES = (-40.0, -20.0, 0.0, 20.0, 40.0)
START = 1_800_000_000.0


class MadeProject:
    """Writes ledgers and files step by step, by a clock of its own (`time`, seconds since the epoch)."""

    def __init__(self, path: str, angles: Sequence[float] = ANGLES) -> None:
        self.path = path
        self.angles = tuple(angles)
        self.time = START
        self.ledgers = {}
        self._reported_command = False
        for name, folder in FOLDERS.items():
            os.makedirs(os.path.join(path, "Runs", folder, "extra"), exist_ok=True)
            self.ledgers[name] = ledger.Ledger(ledger.path_in(os.path.join(path, "Runs", folder)))

    def report(self, protocol: str, item: str, kind: type[entries.Entry], reason: str = "", /, **fields: object) -> None:
        self.ledgers[protocol].write(kind(item, reason, self.time, **fields))

    def extra(self, name: str, *parts: str) -> str:
        return os.path.join(self.path, "Runs", FOLDERS[name], "extra", *parts)

    def movies(self, series: str) -> list[str]:
        return [f"{series}_{order:03d}_{angle:.1f}" for order, angle in enumerate(self.angles, start=1)]

    # ------------------------------------------------------------------ the session, step by step
    def acquire(self, series: str, tilts: int | None = None, drift: float = 2.0, seconds: float = 60.0) -> None:
        """Movies come, are imported and aligned; the mdoc lists them."""
        names = self.movies(series)[:tilts]
        if not self._reported_command:
            self._reported_command = True
            self.report(MOTIONCOR, "", entries.Command, "aligned with", program="MotionCor3 1.2.1",
                        command=f'MotionCor3 -InTiff "{entries.MOVIE}" -OutMrc "{entries.OUTPUT}.mrc"')
        for count, movie in enumerate(names, start=1):
            self.time += seconds
            self.report(IMPORT, f"{movie}.tif", entries.Imported, "imported, 3 frames", mtime=self.time - 1, size=1, version=1)
            self.report(MOTIONCOR, f"{movie}.tif", entries.Aligned, "aligned", version=1, drift_px=drift,
                        movie=f"/movies/{movie}.tif", file=f"{movie}_aligned_mic.mrc")
            self.report(COMPOSE, series, entries.Series, f"{count} tilts so far, waiting for the next.", name=series,
                        state="acquiring", seen=count, aligned=count, failed=0, expected=len(self.angles), version=0)

    def compose(self, series: str, version: int = 1, image_files: bool = True, left_out: Sequence[Sequence[object]] = (),
                counts: Sequence[float] | None = None) -> None:
        """The tilt series and its sidecar; `counts`: mean of every tilt."""
        self.time += 1
        stem = self.extra(COMPOSE, series if version == 1 else f"{series}-v{version}")
        tilts = [{"movie": movie, "micrograph": "", "angle": angle, "order": order, "dose": 3.0,
                  "prior_dose": 3.0 * (order - 1), "target_defocus": 3.5}
                 for order, (movie, angle) in enumerate(zip(self.movies(series), self.angles, strict=True), start=1)]
        if image_files:
            with open(f"{stem}.json", "w", encoding="utf-8") as file:
                json.dump({"series_id": series, "tilts": tilts, "tilt_axis_source": "title", "voltage": 300.0,
                           "warnings": [], "mdocs": [f"/mdocs/{series}.mdoc"]}, file)
            write_mrc(f"{stem}.mrcs", stack_with_dot(self.angles, counts), 4.0)
        self.report(COMPOSE, series, entries.Composed, "composed", version=version, name=series, tilts=len(tilts),
                    movies=tuple(tilt["movie"] for tilt in tilts), tilt_axis=85.0,
                    left_out=tuple(entries.LeftOut(*each) for each in left_out))

    def reconstruct(self, series: str, version: int = 1, image_files: bool = True, axis: float = 85.0, excluded: int = 0,
                    filtered: bool = False, **figures: object) -> None:
        """The alignment and the tomogram, with a `filtered` one beside it; the first `excluded` tilts are left out."""
        self.time += 30
        name = series if version == 1 else f"{series}-v{version}"
        if image_files:
            self._alignment_files(series, name, axis, excluded, filtered)
        evidence = {"version": version, "tilts_used": len(self.angles) - excluded, "tilt_axis": axis, "seconds": 20.0,
                    "folder": os.path.relpath(self.extra(ARETOMO, name), self.path),
                    "commands": ("aretomo -FlipVol 1 -OutBin 2",), "z_first": True,
                    "excluded": tuple(entries.Excluded(angle, "too dark") for angle in self.angles[:excluded]),
                    "tomogram": os.path.relpath(self.extra(ARETOMO, name, f"{series}.mrc"), self.path), "tilt_offset": 1.5,
                    "thickness_A": 1500.0, "quality": 0.9, "quality_note": "trust", "trust": Trust.TRUSTED, **figures}
        self.report(ARETOMO, series, entries.Reconstructed, f"{evidence['tilts_used']} tilts aligned", **evidence)

    def _alignment_files(self, series: str, name: str, axis: float, excluded: int, filtered: bool) -> None:
        os.makedirs(self.extra(ARETOMO, name), exist_ok=True)
        out = files.OutputFiles.of(self.extra(ARETOMO, name, f"{series}.mrcs"), self.extra(ARETOMO, name, f"{series}.mrc"))
        rows = [AlnRow(place, axis, 2.0, -1.0, angle) for place, angle in enumerate(self.angles) if place >= excluded]
        dark = [DarkFrame(place, place, self.angles[place]) for place in range(excluded)]
        tilts = [TiltQuality(place, angle, place >= excluded, "" if place >= excluded else "too dark",
                                   0.1 + abs(angle) / 100, abs(angle) / 200)
                 for place, angle in enumerate(self.angles)]
        quality = Quality(tuple(tilts), axis, 1.5, 1500.0, 0.9, "trust", Trust.TRUSTED, "", "made 1.0")
        texts = {out.aln: format_aln(AlnFile(tuple(rows), tuple(dark), (32, 24, len(self.angles)))),
                 out.quality: format_quality(quality),
                 out.ctf_text: format_ctf([CtfRow(n + 1, 31000.0, 29000.0, 10.0, 0.0, 0.1, 8.0)
                                                 for n in range(len(rows))])}
        for path, text in texts.items():
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        write_mrc(out.volume, marked_volume(), 8.0)
        if filtered:
            write_mrc(f"{os.path.splitext(out.volume)[0]}_wiener.mrc", marked_volume(), 8.0)

    def whole(self, series: str, image_files: bool = True, **figures: object) -> None:
        """A series from its first movie to its tomogram."""
        self.acquire(series)
        self.compose(series, image_files=image_files)
        self.reconstruct(series, image_files=image_files, **figures)

    def close(self) -> None:
        """The last line of every protocol."""
        for name in self.ledgers:
            self.report(name, "", entries.Session, "ended")


def stack_with_dot(angles: Sequence[float], counts: Sequence[float] | None = None) -> np.ndarray:
    """Tilt images of 24 x 32 px with their mean as given (else falling with the cosine)."""
    noise = np.random.default_rng(1).normal(0.0, 0.5, (len(angles), 24, 32))
    means = counts or [100.0 * np.exp(-0.3 / np.cos(np.radians(angle))) for angle in angles]
    return np.asarray(noise - noise.mean(axis=(1, 2), keepdims=True) + np.asarray(means)[:, None, None], dtype=np.float32)


def marked_volume() -> np.ndarray:
    """Volume (z, y, x) of 12 x 24 x 16 with a bright block at high y, low x, high z."""
    volume = np.random.default_rng(2).normal(0.0, 0.1, (12, 24, 16)).astype(np.float32)
    volume[5:12, 18:24, 0:9] += 10.0
    return volume


def write_mrc(path: str, data: np.ndarray, pixel_size: float) -> None:
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(data)
        mrc.voxel_size = pixel_size
