# SPDX-License-Identifier: GPL-3.0-or-later
"""Joint fit of the defocus of all tilts of a series.

Unknown are a defocus for each tilt, one astigmatism for the series and the hand (on which side of the tilt axis the
defocus grows); known is the tilt geometry. With the modulation m(s) = power / background - 1 of one height and sector,
the log-likelihood of a defocus is, up to a constant,

    L(D) = sum_s n(s) (a(s) m(s) c(s, D) - a(s)^2 c(s, D)^2 / 2),    c = -cos 2 phase(s, D) = 2 CTF^2 - 1,

with n coefficients in a bin and a(s) the depth of the rings. Depth and background are measured from the series itself,
together, for what defoci are known, and both in turn. L is tabulated over D
once for every height and sector, and everything else is looking up: no step of the search computes a CTF.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.ctf.rings import profile, separated
from tomostream.engine.ctf.spectra import SECTORS, Optics, TiltSpectra
from tomostream.engine.peaks import vertex

Doubles = NDArray[np.float64]
# defoci for which the likelihood is tabulated, and from one to the next (A): rings change little within a step
_LOW, _HIGH, _STEP = 4000.0, 110000.0, 50.0
# by how much tilts depart from the series' defocus (A): refocusing, drift
_SPREAD = 2500.0
# largest and usual difference of the defoci (A): microscopes are stigmated, and what is much larger is a spectrum that no smooth
# background fits
_MAX_ASTIGMATISM, _USUAL_ASTIGMATISM = 4000.0, 500.0
# log-likelihood over no rings at all from which a CTF is believed, of the series and of each tilt: noise alone reaches 3 a tilt
_MIN_GAIN, _MIN_GAIN_TILT = 30.0, 4.0
# median score: wrong backgrounds reach 0.4, rings at 2 e/A2 and a steep envelope 0.75
_MIN_SCORE = 0.5
# log-likelihood over the next best hand at which the hand is believed
_MIN_HAND = 12.0
# rings that the images must hold: one alone looks like a background
_MIN_RINGS = 2.0
# rounds of: defoci for given rings and background, then rings and background for given defoci
_STAGES = 4
# how the defocus changes across the tilt axis at positive tilts: not, growing towards +x, falling
HANDS = (0, 1, -1)


@dataclass(frozen=True)
class CtfTilt:
    """The CTF of one tilt.

    Attributes
    ----------
    defocus_max_A, defocus_min_A : float
        Underfocus is positive.
    azimuth_deg : float
        Direction of the larger defocus, from x.
    phase_rad : float
        Phase shift.
    score : float
        Correlation of the ring profile with the CTF squared beyond its first zero, over heights and directions brought to one
        defocus, -1 to 1.
    resolution_A : float
        Up to which the rings are seen.
    sigma_A : float
        Standard deviation of the defocus, from the curvature of the likelihood.
    """

    defocus_max_A: float
    defocus_min_A: float
    azimuth_deg: float
    phase_rad: float
    score: float
    resolution_A: float
    sigma_A: float


@dataclass(frozen=True)
class CtfSeries:
    """The CTF of a series.

    Attributes
    ----------
    tilts : tuple of CtfTilt
        In the order given.
    hand : int
        1: the defocus grows towards +x across the axis at positive tilts, -1: it falls, 0: not known, or it does not change.
    found : bool
        False where there are no rings: the tilts have no meaning then.
    note : str
        What the fit is worth, in words.
    gain : float
        Log-likelihood over that of spectra without rings.
    """

    tilts: tuple[CtfTilt, ...]
    hand: int
    found: bool
    note: str
    gain: float


@dataclass(frozen=True)
class _Table:
    """Log-likelihood over D of every tilt and sector at one hand, heights summed, (K, SECTORS, D)."""

    values: Doubles

    def at(self, defocus: Doubles, astigmatism: tuple[float, float]) -> Doubles:
        """Return the log-likelihood of every tilt at its own trials: `defocus` (K, M) gives (K, M)."""
        size, azimuth = astigmatism
        shift = size * np.cos(2 * (np.arange(SECTORS) * math.pi / SECTORS - azimuth))
        place = (defocus[:, None, :] + shift[None, :, None] - _LOW) / _STEP
        low = np.clip(place.astype(int), 0, self.values.shape[2] - 2)
        part = np.clip(place - low, 0.0, 1.0)
        here = np.take_along_axis(self.values, low, axis=2)
        after = np.take_along_axis(self.values, low + 1, axis=2)
        return np.asarray((here + part * (after - here)).sum(axis=1))

    def gain(self, defocus: Doubles, astigmatism: tuple[float, float]) -> float:
        """Return the log-likelihood of the series, one defocus (K,) each, over that of spectra without rings; less a prior's."""
        prior = 0.5 * (2 * astigmatism[0] / _USUAL_ASTIGMATISM) ** 2
        return float(self.at(defocus[:, None], astigmatism).sum()) - prior


def _defoci() -> Doubles:
    """Return the grid of defoci on which the likelihood is tabulated, A."""
    return np.arange(_LOW, _HIGH + _STEP / 2, _STEP)


def _rings(s: Doubles, optics: Optics) -> Doubles:
    """Return c(s, D) on the grid of defoci, (D, S)."""
    return np.asarray(-np.cos(2 * optics.phase(s[None], _defoci()[:, None])))


def _tables(spectra: Sequence[TiltSpectra], rings: Doubles, depths: Doubles) -> dict[int, _Table]:
    """Return the tables of the three hands, with rings (D, S) of the depths (K, S)."""
    grid = _defoci()
    values = {hand: np.zeros((len(spectra), SECTORS, len(grid))) for hand in HANDS}
    linear, square = rings.astype(np.float32).T, (0.5 * rings**2).astype(np.float32).T
    for index, (tilt, depth) in enumerate(zip(spectra, depths.astype(np.float32), strict=True)):
        first = (tilt.weight * tilt.modulation * depth).reshape(-1, len(depth)) @ linear
        first -= (tilt.weight * depth**2).reshape(-1, len(depth)) @ square
        for height, rows in zip(tilt.heights, first.reshape(-1, SECTORS, len(grid)), strict=True):
            for hand in HANDS:
                values[hand][index] += _moved(rows, hand * height / _STEP)
    return {hand: _Table(table) for hand, table in values.items()}


def _moved(rows: NDArray[np.float32], steps: float) -> Doubles:
    """Return `rows` (n, D) at D + steps; beyond the ends the last value counts."""
    whole = math.floor(steps)
    index = np.arange(rows.shape[1]) + whole
    low, high = (np.clip(index + i, 0, rows.shape[1] - 1) for i in (0, 1))
    return np.asarray(rows[:, low] * (whole + 1 - steps) + rows[:, high] * (steps - whole), dtype=np.float64)


def fit_series(spectra: Sequence[TiltSpectra], optics: Optics, signal_top: float = math.inf) -> CtfSeries:
    """Fit all tilts of a series.

    Parameters
    ----------
    spectra : sequence of TiltSpectra
        One a tilt, all on the same grid (`tilt_spectra` of images of one size).
    optics : Optics
        Voltage, spherical aberration, amplitude contrast, phase shift.
    signal_top : float
        Frequency up to which the images hold more than noise, 1/A: rings beyond it prove nothing.

    Returns
    -------
    CtfSeries
        Defoci in A, one a tilt, with the astigmatism of the series and how well each is known.
    """
    rings = _rings(spectra[0].s, optics)
    depths = np.full((len(spectra), len(spectra[0].s)), 0.03)
    defocus, hand, astigmatism = np.zeros(len(spectra)), 0, (0.0, 0.0)
    tables: dict[int, _Table] = {}
    for stage in range(_STAGES):
        tables = _tables(spectra, rings, depths)
        if stage == 0:
            starts = {sign: _defocus_of_series(tables[sign]) for sign in HANDS}
            hand = max(HANDS, key=lambda sign: starts[sign][1])
            defocus = starts[hand][0]
        else:
            hand = max(HANDS, key=lambda sign: _settled(tables[sign], defocus, astigmatism)[2])
        defocus, astigmatism, _ = _settled(tables[hand], defocus, astigmatism)
        if stage < _STAGES - 1:
            depths, spectra = separated(spectra, optics, defocus, hand, astigmatism)
    gains = {sign: _settled(tables[sign], defocus, astigmatism)[2] for sign in HANDS}
    return _judged(spectra, optics, tables[hand], (defocus, hand, astigmatism, depths), gains, signal_top)


def _settled(
    table: _Table, defocus: Doubles, astigmatism: tuple[float, float]
) -> tuple[Doubles, tuple[float, float], float]:
    """Return defoci and astigmatism after fitting them in turn, and the log-likelihood there."""
    for _ in range(2):
        astigmatism = _astigmatism(table, defocus, astigmatism)
        defocus = _refined(table, defocus, astigmatism)
    return defocus, astigmatism, table.gain(defocus, astigmatism)


def _defocus_of_series(table: _Table) -> tuple[Doubles, float]:
    """Return the defocus of every tilt near the one that suits all best, and the log-likelihood."""
    from scipy.ndimage import gaussian_filter1d

    grid = _defoci()
    values = table.values.sum(axis=1)
    # a tilt may depart from the series: its evidence for a defocus is the likelihood averaged within reach
    together = np.zeros(len(grid))
    for row in values:
        spread = gaussian_filter1d(np.exp(row - row.max()), _SPREAD / 2 / _STEP)
        together += row.max() + np.log(np.maximum(spread, 1e-300))
    common = float(grid[int(np.argmax(together))])
    prior = -0.5 * ((grid - common) / _SPREAD) ** 2
    best = np.argmax(values + prior, axis=1)
    return grid[best], float((values + prior)[np.arange(len(best)), best].sum())


def _refined(table: _Table, defocus: Doubles, astigmatism: tuple[float, float]) -> Doubles:
    """Return the defocus of every tilt at the top of its likelihood and of a prior about the series' median."""
    middle = np.median(defocus)
    trials = defocus[:, None] + np.arange(-1500.0, 1501.0, 20.0)[None]
    value = table.at(trials, astigmatism) - 0.5 * ((trials - middle) / _SPREAD) ** 2
    top = np.array([_top(row) for row in value])
    return np.clip(trials[:, 0] + 20.0 * top, _LOW, _HIGH)


def _top(values: Doubles) -> float:
    """Return the place of the maximum between samples, by a parabola."""
    i = int(np.argmax(values))
    if i in (0, len(values) - 1):
        return float(i)
    return i + vertex(*values[i - 1 : i + 2])


def _astigmatism(table: _Table, defocus: Doubles, start: tuple[float, float]) -> tuple[float, float]:
    """Return half the difference of the defoci (A) and its azimuth (radians) at the top of the series' likelihood."""
    best = (table.gain(defocus, start), start)
    sizes, turns = np.geomspace(50.0, _MAX_ASTIGMATISM / 2, 8), np.arange(0, math.pi, math.pi / 12)
    for _ in range(4):
        for size in sizes:
            for turn in turns:
                trial = (float(size), float(turn))
                best = max(best, (table.gain(defocus, trial), trial))
        size, turn = best[1]
        sizes = np.clip(size + np.array([-0.3, -0.1, 0.1, 0.3]) * max(size, 50.0), 0, _MAX_ASTIGMATISM)
        turns = turn + np.array([-0.12, -0.04, 0.04, 0.12])
    return best[1][0], best[1][1] % math.pi


def _judged(
    spectra: Sequence[TiltSpectra],
    optics: Optics,
    table: _Table,
    solution: tuple[Doubles, int, tuple[float, float], Doubles],
    gains: dict[int, float],
    signal_top: float,
) -> CtfSeries:
    """Return the fit with its scores, and what it is worth."""
    defocus, hand, astigmatism, depths = solution
    size, azimuth = astigmatism
    around = table.at(defocus[:, None] + np.array([[-100.0, 0.0, 100.0]]), astigmatism)
    bends = (2 * around[:, 1] - around[:, 0] - around[:, 2]) / 100.0**2
    tilts = []
    for tilt, depth, value, bend in zip(spectra, depths, defocus, bends, strict=True):
        score, resolution = _score(tilt, optics, float(value), hand, astigmatism, depth)
        sigma = 1 / math.sqrt(max(float(bend), _SPREAD**-2))
        angle = math.degrees(azimuth)
        tilts.append(CtfTilt(value + size, value - size, angle, optics.phase_rad, score, resolution, sigma))
    gain, margin = gains[hand], gains[hand] - max(gains[sign] for sign in HANDS if sign != hand)
    seen = min(float(spectra[0].s[-1]), signal_top**2) - float(spectra[0].s[0])
    rings = optics.wavelength_A * float(np.median(defocus)) * seen
    score = float(np.median([t.score for t in tilts]))
    if gain < _MIN_GAIN + _MIN_GAIN_TILT * len(tilts) or rings < _MIN_RINGS or score < _MIN_SCORE:
        return CtfSeries(tuple(tilts), 0, False, "no Thon rings were found", gain)
    sure = hand if margin > _MIN_HAND else 0
    side = {
        1: "the defocus grows towards +x at positive tilts",
        -1: "the defocus falls towards +x at positive tilts",
        0: "how the defocus changes could not be determined" if hand else "the defocus does not change",
    }[sure]
    note = (
        f"median defocus {np.median(defocus):.0f} A, astigmatism {2 * size:.0f} A, median score "
        f"{score:.2f}; across the tilt axis {side}"
    )
    return CtfSeries(tuple(tilts), sure, True, note, gain)


def _score(
    tilt: TiltSpectra,
    optics: Optics,
    defocus: float,
    hand: int,
    astigmatism: tuple[float, float],
    depth: Doubles,
) -> tuple[float, float]:
    """Return the correlation of the profile with the rings where the series has rings, and the resolution up to which it lasts.

    The score leaves out the first ring, which is so wide that a wrong background looks like it. The rings last while the
    local correlation, over one and a half of them, is above one half.
    """
    measured, weight = profile(tilt, optics, defocus, hand, astigmatism)
    rings = -np.cos(2 * optics.phase(tilt.s, defocus))
    used = weight > 0.2 * np.median(weight)
    width = 1.5 / (optics.wavelength_A * max(defocus, 3000.0)) / (tilt.s[1] - tilt.s[0])
    half = round(float(np.clip(width / 2, 4, 60)))
    weights = np.ones(2 * half + 1)

    def local(values: Doubles) -> Doubles:
        return np.convolve(values * used, weights, mode="same")

    number = np.maximum(local(np.ones(len(rings))), 1)
    cross = local(measured * rings) - local(measured) * local(rings) / number
    norm = (local(measured**2) - local(measured) ** 2 / number) * (local(rings**2) - local(rings) ** 2 / number)
    correlation = cross / np.sqrt(np.maximum(norm, 1e-20))
    fallen = np.flatnonzero(correlation[half:] < 0.5)
    last = half + (int(fallen[0]) if len(fallen) else len(correlation) - half - 1)
    share = depth * used * (tilt.s > 1 / (optics.wavelength_A * max(defocus, 3000.0)))
    a, b = (values - (share * values).sum() / max(float(share.sum()), 1e-9) for values in (measured, rings))
    norm_all = float((share * a**2).sum() * (share * b**2).sum())
    score = float((share * a * b).sum() / math.sqrt(max(norm_all, 1e-20)))
    return score, float(1 / math.sqrt(tilt.s[min(last, len(tilt.s) - 1)]))
