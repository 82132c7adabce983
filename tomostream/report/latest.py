# SPDX-License-Identifier: GPL-3.0-or-later
"""The latest aligned tilt, for the front page from the first minute on: its image, power spectrum and fitted CTF."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.ctf.fit import CtfTilt
from tomostream.engine.ctf.picture import curves, zeros
from tomostream.engine.ctf.series import of_image
from tomostream.engine.ctf.spectra import Optics
from tomostream.files.grey import Array, grey_range, shrink, to_bytes
from tomostream.files.mrc import open_mrc
from tomostream.journal.status import number
from tomostream.programs.ctf import CtfRow
from tomostream.programs.defocus import MANY_RINGS, Doubt, Evidence, judge
from tomostream.report.pictures import save

#: Longest edge of the picture; largest and smallest edge of the tiles of the power spectrum; maximum of tiles along each side.
EDGE, MAX_TILE, MIN_TILE, MAX_TILES = 700, 512, 128, 4
#: How many rings are drawn into the power spectrum.
MAX_ZEROS = 12
#: Minimum of seconds between two pictures: tilts arrive faster than anybody looks.
EVERY = 15.0
PICTURE, SPECTRUM = os.path.join("data", "tilt.webp"), os.path.join("data", "spectrum.webp")


@dataclass(frozen=True)
class LatestTilt:
    """A tilt whose movie was aligned: the movie, the file of its sum, when (seconds since the epoch), its drift, the optics."""

    movie: str
    file: str
    time: float
    drift_px: float | None = None
    drift_A: float | None = None
    optics: Optics | None = None
    #: The believed defoci of the session's series, µm.
    others: tuple[float, ...] = ()


class TiltPainter:
    """Has the latest aligned tilt painted by a thread that it shares.

    Parameters
    ----------
    project, out : folders of the project and of the page.
    painter : the thread.
    say : called with a sentence for every picture that cannot be made.
    """

    def __init__(self, project: str, out: str, painter: ThreadPoolExecutor, say: Callable[[str], None]) -> None:
        self._project, self._out, self._painter, self._say = project, out, painter, say
        self._at = 0.0
        self._job: Future[dict[str, Any]] | None = None
        #: The data of the latest picture, for the page.
        self.shown: dict[str, Any] = {}

    def follow(self, tilt: LatestTilt | None, now: float, idle: bool) -> bool:
        """Have a tilt painted if the thread is `idle`; return True when there is a new picture."""
        job = self._job
        if job is not None and job.done():
            self._job = None
            try:
                self.shown = job.result()
            except (OSError, ValueError):       # it was replaced or removed: the next one is painted
                return False
            except Exception as error:  # noqa: BLE001 - one picture less; the next tilt is painted
                self._say(f"no picture of {tilt.movie if tilt else 'a tilt'}: {error}")
                return False
            return True
        new = tilt is not None and tilt.time != self.shown.get("time")
        if (tilt is not None and new and job is None and idle and now - self._at >= EVERY
                and os.path.exists(os.path.join(self._project, tilt.file))):
            self._at = now
            self._job = self._painter.submit(paint_tilt, tilt, self._project, self._out)
        return False

    def wait(self, seconds: float) -> None:
        """Wait until the picture in progress is made, for at most this long."""
        if self._job is not None:
            wait([self._job], seconds)


def paint_tilt(tilt: LatestTilt, project: str, out: str) -> dict[str, Any]:
    """Write the pictures of a tilt; return their data for the page.

    Raises
    ------
    OSError, ValueError : the sum cannot be read, the pictures cannot be written.
    """
    sums = open_mrc(os.path.join(project, tilt.file))
    image = np.asarray(sums.section(0), dtype=np.float32)
    small = shrink(image, EDGE)
    save(to_bytes(small, grey_range(small, 1, 99)), os.path.join(out, PICTURE))
    made: dict[str, Any] = {
        "movie": tilt.movie,
        "time": tilt.time,
        "drift_px": number(tilt.drift_px),
        "drift_A": number(tilt.drift_A),
        "mean_counts": number(float(image.mean())),
        "shape": [image.shape[1], image.shape[0]],
    }
    spectrum = power_spectrum(image)
    if spectrum is not None:
        save(to_bytes(spectrum, grey_range(spectrum, 2, 99.7)), os.path.join(out, SPECTRUM))
    return {**made, "spectrum": spectrum is not None, **fit_of(image, tilt.optics, sums.pixel_size_A, tilt.others)}


def fit_of(image: Array, optics: Optics | None, pixel_A: float, others: tuple[float, ...] = ()) -> dict[str, Any]:
    """Return the CTF fit of one image for the page (`k` in 1/A, `zeros` as fractions of Nyquist), or why there is none, as
    `ctf_note`."""
    if optics is None:
        return {"ctf_note": "voltage and spherical aberration are not known"}
    if pixel_A <= 0 or min(image.shape) < MIN_TILE or not np.isfinite(image).all() or image.std() == 0:
        return {"ctf_note": "the image holds nothing to fit"}
    found = of_image(image, optics, pixel_A)
    ctf, spectra = found.ctf, found.spectra
    if ctf is None or spectra is None:
        return {"ctf_note": found.note}
    if doubt := _doubt(ctf, Evidence(None, others), pixel_A, optics.voltage_kV):
        return {"ctf_note": doubt}
    k, measured, fitted = (_thinned(values) for values in curves(spectra, ctf, optics))
    return {"ctf": {
        "defocus_um": round(5e-5 * (ctf.defocus_max_A + ctf.defocus_min_A), 3),
        "astigmatism_um": round(1e-4 * (ctf.defocus_max_A - ctf.defocus_min_A), 3), "azimuth_deg": round(ctf.azimuth_deg, 1),
        "resolution_A": round(ctf.resolution_A, 2), "score": round(ctf.score, 3), "nyquist_A": 2 * pixel_A,
        "k": k, "measured": measured, "fitted": fitted,
        "zeros": [[round(2 * pixel_A * k, 4) for k in pair] for pair in zeros(spectra, ctf, optics)[:MAX_ZEROS]]}}


def _doubt(ctf: CtfTilt, evidence: Evidence, pixel_A: float, voltage_kV: float) -> str:
    """Return why the fit of one image is not believed; "" if it is. Without other evidence it needs many rings."""
    row = CtfRow(1, ctf.defocus_max_A, ctf.defocus_min_A, ctf.azimuth_deg, ctf.phase_rad, ctf.score, ctf.resolution_A)
    belief = judge([row], evidence, pixel_A, voltage_kV)
    if belief is None or belief.doubt is not Doubt.NONE:
        return belief.words if belief else "the fit gave no defocus"
    if evidence.expected() is None and belief.rings < MANY_RINGS:
        return f"a defocus of {belief.defocus_um:.2f} µm is not believed: one image alone must show {MANY_RINGS:g} rings"
    return ""


def _thinned(values: NDArray[np.float64]) -> list[float]:
    """Return the means of pairs of values of a curve, which has more than a screen can show."""
    pairs = values[:len(values) // 2 * 2].reshape(-1, 2).mean(axis=1)
    return [round(float(each), 4) for each in pairs]


def power_spectrum(image: Array) -> NDArray[np.float32] | None:
    """Return the logarithm of the mean power of tiles relative to its smooth radial decay, as a square with zero frequency in the
    middle and Nyquist at the edge. None for an image that is empty, or smaller than a tile."""
    tile = min(MAX_TILE, 1 << (min(image.shape).bit_length() - 1))
    if tile < MIN_TILE:
        return None
    starts = [np.unique(np.linspace(0, length - tile, min(MAX_TILES, length // tile)).astype(int)) for length in image.shape]
    tiles = [image[y:y + tile, x:x + tile] for y in starts[0] for x in starts[1]]
    tiles = [each for each in tiles if np.isfinite(each).all() and each.std() > 0]
    if not tiles:
        return None
    window = np.outer(np.hanning(tile), np.hanning(tile)).astype(np.float32)
    power = sum(np.abs(np.fft.fft2((each - each.mean()) * window)) ** 2 for each in tiles)
    logs = np.log(np.fft.fftshift(np.asarray(power)) + 1e-12)
    y, x = np.ogrid[:tile, :tile]
    radius = np.hypot(y - tile // 2, x - tile // 2).astype(int)
    mean = np.bincount(radius.ravel(), logs.ravel()) / np.maximum(np.bincount(radius.ravel()), 1)
    smooth = np.convolve(np.pad(mean, 20, mode="edge"), np.ones(41) / 41, mode="valid")
    return np.asarray(logs - smooth[radius], dtype=np.float32)
