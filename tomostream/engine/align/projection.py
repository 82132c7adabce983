# SPDX-License-Identifier: GPL-3.0-or-later
"""Projection matching: each tilt against what the tilts already placed predict.

The expectation is the conditional mean of the Gaussian slab model (`likelihood`), that is, the best linear mixture of
the neighbours' images; the map over all shifts of its likelihood ratio is one inverse Fourier transform. A peak that
does not stand out of the map means that the tilt does not fit, and then it is not used for the next ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tomostream.engine.align.geometry import Floats, Pose, fast_even
from tomostream.engine.align.kernels import invert_all
from tomostream.engine.align.likelihood import RINGS, amplitudes, coherence
from tomostream.engine.align.spectra import RINGS_PER_CYCLE, Band, Complexes, phases
from tomostream.engine.peaks import vertex

NEIGHBOURS = 8  # that predict a tilt: farther ones have next to nothing in common with it
NEAR = 0.6  # samples from the highest one at which the top of its parabola is believed
SIGNIFICANT = 5.5  # standard deviations of the map; the highest of 10^4 independent values of noise is about 4


@dataclass(frozen=True)
class Match:
    """The best move of a tilt, and how far it stands out.

    Attributes
    ----------
    move : (float, float)
        (dX, dY) in the stretched frame, working pixels: how far the tilt's content lies from where it matches best.
    height : float
        Height of the map there over its mean, in its standard deviations.
    height_here : float
        The same at no move.
    """

    move: tuple[float, float]
    height: float
    height_here: float


def default_share(count: int, pixel_A: float) -> Floats:
    """Return the signal share that is taken before anything was measured: it falls with the frequency.

    Parameters
    ----------
    count : int
        Tilts.
    pixel_A : float
        Of the working images.

    Returns
    -------
    ndarray, shape (count, RINGS)
        0.7 exp(-50 A k) at the frequency k of each ring, 1/A.
    """
    frequency = np.arange(RINGS) / RINGS_PER_CYCLE / pixel_A
    return np.broadcast_to(0.7 * np.exp(-frequency * 50.0), (count, RINGS)).copy()


def expectation(
    band: Band, pose: Pose, share: Floats, tilt: int, others: Sequence[int], values: Complexes
) -> tuple[Complexes, Floats]:
    """Return what some tilts predict for another one, and with which precision.

    Parameters
    ----------
    band : Band
        Its cells and members.
    pose : Pose
        Tilt angles and thickness (px).
    share : ndarray, shape (tilts, RINGS)
        See `likelihood.signal_share`.
    tilt, others : int, sequence of int
        Positions in the band: the tilt that is predicted, those that predict it.
    values : ndarray of complex64, shape (cells, tilts, places)
        The coefficients where the tilts are now.

    Returns
    -------
    mean : ndarray of complex64, shape (cells, places)
    precision : ndarray, shape (cells,)
        1/v, v the variance of what is left over; a likelihood ratio weights the mean by it.

    Notes
    -----
    The conditional mean of a Gaussian: c inv(C) q with C the covariance of `others` and c theirs with `tilt`; the variance of
    what is left over is v = 1 - c inv(C) c.
    """
    tangents = pose.tangents()[band.members]
    signal = amplitudes(band, share)
    pick = np.asarray(others)
    difference = tangents[pick][:, None] - tangents[pick][None]
    kx = band.cells.kx
    inner = coherence(pose.thickness, kx[:, None, None], difference[None])
    inner *= signal[:, pick][:, :, None] * signal[:, pick][:, None, :]
    index = np.arange(len(pick))
    inner[:, index, index] = 1.001
    inner = inner.astype(np.float32)
    invert_all(inner, np.empty(len(inner)))
    outer = coherence(pose.thickness, kx[:, None], (tangents[pick] - tangents[tilt])[None])
    outer = outer * signal[:, pick] * signal[:, [tilt]]
    mixture = np.matmul(inner, outer[:, :, None].astype(np.float32))[:, :, 0]
    variance = np.maximum(1.0 - np.sum(mixture * outer, axis=1), 0.02)
    mean = np.einsum("ct,ctp->cp", mixture.astype(np.float32), values[:, pick])
    return mean, 1.0 / variance


def shift_map(band: Band, product: Complexes) -> tuple[Floats, tuple[float, float]]:
    """Return the sum over frequencies of a product times exp(2 pi i k.d), on a grid of moves d around (0, 0).

    Parameters
    ----------
    band : Band
        Says where each coefficient lies in the transform.
    product : ndarray of complex64, shape (cells, places)
        Of an image with the complex conjugate of what is expected, weighted.

    Returns
    -------
    map : ndarray, shape (rows, columns)
        No move is at index (0, 0); negative moves follow from the end.
    spacing : (float, float)
        px, of rows and of columns.
    """
    rows, columns = band.cells.shape
    size = tuple(min(full, fast_even(int(3.0 * band.cells.highest * full) + 8)) for full in (rows, columns))
    plane = np.zeros((size[0], size[1] // 2 + 1), np.complex64)
    inside = band.cells.weight > 0
    row = np.where(band.cells.row < rows // 2, band.cells.row, band.cells.row - rows) % size[0]
    plane[row[inside], band.cells.column[inside]] = product[inside]
    return scipy.fft.irfft2(plane, s=size) * (size[0] * size[1]), (rows / size[0], columns / size[1])


def find_peak(values: Floats, spacing: tuple[float, float], radius: float) -> Match:
    """Return the highest place of a map within `radius` pixels of no move, refined by parabolas.

    Parameters
    ----------
    values : ndarray, shape (rows, columns)
        A map of `shift_map`, with no move at index (0, 0).
    spacing : (float, float)
        px of the stretched frame, of rows and of columns.
    radius : float
        Largest move in either direction, px.

    Returns
    -------
    Match
        The height over the mean of the map, in its standard deviations.
    """
    rows, columns = values.shape
    dy = scipy.fft.fftfreq(rows, 1.0 / rows)[:, None] * spacing[0]
    dx = scipy.fft.fftfreq(columns, 1.0 / columns)[None] * spacing[1]
    near = (np.abs(dy) <= radius) & (np.abs(dx) <= radius)
    index = int(np.argmax(np.where(near, values, -np.inf)))
    row, column = divmod(index, columns)
    spread = float(values.std())
    middle = float(values.mean())

    across = vertex(values[row, column - 1], values[row, column], values[row, (column + 1) % columns], limit=NEAR)
    along = vertex(values[row - 1, column], values[row, column], values[(row + 1) % rows, column], limit=NEAR)
    move = (float(dx[0, column]) + across * spacing[1], float(dy[row, 0]) + along * spacing[0])
    scale = spread if spread > 0.0 else 1.0
    return Match(move, (float(values[row, column]) - middle) / scale, (float(values[0, 0]) - middle) / scale)


def match_tilt(
    band: Band, pose: Pose, share: Floats, tilt: int, others: Sequence[int], values: Complexes, radius: float
) -> Match:
    """Find the move of a tilt that best matches what others predict.

    Parameters
    ----------
    band, pose, share, tilt, others, values
        As for `expectation`.
    radius : float
        Largest move in either direction, px of the stretched frame.

    Returns
    -------
    Match
    """
    mean, precision = expectation(band, pose, share, tilt, others, values)
    product = values[:, tilt] * np.conj(mean) * precision[:, None].astype(np.float32)
    grid, spacing = shift_map(band, product)
    return find_peak(grid, spacing, radius)


def outward_order(tilts_deg: Floats, start: int) -> list[int]:
    """Return positions in the order in which tilts are placed, from `start` outward.

    Parameters
    ----------
    tilts_deg : ndarray, shape (n,)
        Tilt angles.
    start : int
        Position of the first one.

    Examples
    --------
    >>> import numpy as np
    >>> outward_order(np.array([-6.0, -3.0, 0.0, 3.0]), 2)
    [2, 1, 3, 0]
    """
    return [int(i) for i in np.argsort(np.abs(tilts_deg - tilts_deg[start]), kind="stable")]


def nearest(tilts_deg: Floats, tilt: int, among: Sequence[int], count: int = NEIGHBOURS) -> list[int]:
    """Return the members of `among` that are nearest in angle to a tilt, itself left out.

    Parameters
    ----------
    tilts_deg : ndarray, shape (tilts,)
        Tilt angles, by position in the band.
    tilt, among : int, sequence of int
        Positions in the band.
    count : int
        At most this many.
    """
    others = [other for other in among if other != tilt]
    return sorted(others, key=lambda other: abs(float(tilts_deg[other] - tilts_deg[tilt])))[:count]


@dataclass(frozen=True)
class Sweep:
    """What an outward sweep found.

    Attributes
    ----------
    moves : ndarray, shape (tilts, 2)
        (dX, dY) in the stretched frame, working pixels.
    heights : ndarray, shape (tilts,)
        Of each tilt's peak (`Match.height`); infinite for the one that stays.
    placed : ndarray of bool, shape (tilts,)
        Which tilts matched.
    """

    moves: Floats
    heights: Floats
    placed: NDArray[np.bool_]


def sweep(band: Band, pose: Pose, share: Floats, start: int, radius: float, follow: bool) -> Sweep:
    """Place the band's tilts one after the other, outward in angle.

    Tilts that do not match are tried once more after all others were placed.

    Parameters
    ----------
    band, pose, share
        As for `expectation`.
    start : int
        Position in the band of the tilt that stays where it is.
    radius : float
        Largest move of a tilt, px; with `follow` beyond that of its neighbours.
    follow : bool
        Whether a tilt is first moved along with its nearest placed neighbours, as in a series that is not aligned yet.

    Returns
    -------
    Sweep
    """
    angles = pose.tilts_deg[band.members]
    count = len(band.members)
    moves = np.zeros((count, 2))
    heights = np.zeros(count)
    values = band.values.copy()
    placed = [start]
    waiting: list[int] = []
    for second_try in (False, True):
        for tilt in waiting if second_try else outward_order(angles, start)[1:]:
            others = nearest(angles, tilt, placed)
            if follow:
                moves[tilt] = np.median(moves[others[:3]], axis=0)  # the nearest alone may have jumped
                values[:, tilt] = (band.values[:, [tilt]] * phases(band.cells, moves[[tilt]]))[:, 0]
            match = match_tilt(band, pose, share, tilt, others, values, radius)
            heights[tilt] = match.height
            if match.height < SIGNIFICANT:
                if not second_try:
                    waiting = [*waiting, tilt]
                continue
            moves[tilt] += match.move
            values[:, tilt] = (band.values[:, [tilt]] * phases(band.cells, moves[[tilt]]))[:, 0]
            placed.append(tilt)
    done = np.zeros(count, bool)
    done[placed] = True
    heights[start] = np.inf
    return Sweep(moves, heights, done)
