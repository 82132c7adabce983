# SPDX-License-Identifier: GPL-3.0-or-later
"""The slab as a Gaussian random field: covariance between tilts, likelihood of a pose, its gradient and Fisher matrix.

Back-projecting tilt j through an even slab of thickness Z and projecting it again at tilt i multiplies by
sinc(Z kx (tan ti - tan tj)) in the stretched frame (`geometry`). With whitened images the covariance between tilts at a
frequency is therefore C_ij = sqrt(s_i s_j) sinc(Z kx (tan ti - tan tj)) off the diagonal and 1 on it, s_i being the
share of signal in the power of tilt i at that frequency. Every pair of tilts counts, each with the weight it deserves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.align.geometry import Floats, Pose
from tomostream.engine.align.kernels import invert_all
from tomostream.engine.align.spectra import LAST, RINGS_PER_CYCLE, Band, Complexes, phases
from tomostream.engine.threads import parallel

LOAD = 1e-3  # added to the diagonal, so that no pair of tilts is believed to be identical
MAX_SHARE = 0.95  # no pair of tilts is free of noise: with more, few strong coefficients would outweigh all others
MIN_SHARE = 1e-4  # keeps the covariance of tilts without signal regular
RINGS = RINGS_PER_CYCLE // 2 + 8  # to half a cycle per pixel, and some beyond for the corners of the transform
BLOCK = 1024  # cells that are worked on at once in double precision
SMOOTHING_RINGS = 12  # half width of the smoothing of the signal share over rings, 0.03 cycles/px


@dataclass(frozen=True)
class Model:
    """The covariance between tilts at a pose, as the likelihood needs it.

    Attributes
    ----------
    inverse : ndarray of float32, shape (cells, tilts, tilts)
        M, the inverse of the covariance C of each cell.
    coupling : ndarray of float32, shape (cells, tilts, tilts)
        M_ij C_ij, element by element.
    log_determinant : ndarray, shape (cells,)
        Logarithm of the determinant of C.
    """

    inverse: NDArray[np.float32]
    coupling: NDArray[np.float32]
    log_determinant: Floats


def signal_share(band: Band, pose: Pose, reach: int = 2) -> Floats:
    """Return the share of signal in the power of every tilt on every ring of raw-image frequency.

    It comes from the cross spectra with the nearest tilts on either side, where the slab predicts coherence. It is smoothed over
    rings, and over tilts by the median of three, so that a tilt that does not match neither gains nor spoils a share.

    Parameters
    ----------
    band : Band
        Whitened coefficients of the tilts, cut at `pose`.
    pose : Pose
        Gives the tilt angles and the slab's thickness (working px), and so the coherence that is expected.
    reach : int
        This many neighbours on either side, in the order of the angles, are compared with each tilt.

    Returns
    -------
    ndarray, shape (tilts, RINGS)
        Between `MIN_SHARE` and `MAX_SHARE`; ring r is the frequency r / `RINGS_PER_CYCLE` cycles/px.

    Notes
    -----
    With C_ij = sqrt(s_i s_j) sinc(Z kx (tan ti - tan tj)) expected between tilts i and j (the module's text), the least-squares
    estimate of the share on a ring is sum(Re(q_i q_j*) sinc) / sum(sinc^2), over the coefficients of the ring.
    """
    order = np.argsort(pose.tilts_deg[band.members], kind="stable")
    tangents = pose.tangents()[band.members]
    count = len(order)
    cross = np.zeros((count, RINGS))
    norm = np.zeros((count, RINGS))
    for step in range(1, reach + 1):
        for first in range(count - step):
            i, j = order[first], order[first + step]
            expected = coherence(pose.thickness, band.cells.kx, tangents[i] - tangents[j])
            expected = np.where(np.abs(expected) < 0.2, 0.0, expected)
            product = np.sum(band.values[:, i] * np.conj(band.values[:, j]) * band.cells.weight, axis=1)
            sums = np.real(product) * expected
            norms = np.sum(band.cells.weight, axis=1) * expected**2
            for tilt in (i, j):
                ring = np.minimum(band.ring[:, tilt], RINGS - 1)
                cross[tilt] += np.bincount(ring, sums, RINGS)
                norm[tilt] += np.bincount(ring, norms, RINGS)
    return _smoothed(cross, norm, order)


def _smoothed(cross: Floats, norm: Floats, order: NDArray[np.int64]) -> Floats:
    """Return shares from sums of cross power and of expected power: smooth over rings, median over three tilts."""
    kernel = np.hanning(2 * SMOOTHING_RINGS + 3)[1:-1]
    share = np.empty_like(cross)
    for tilt in range(len(cross)):
        top = np.convolve(cross[tilt], kernel, "same")
        bottom = np.convolve(norm[tilt], kernel, "same")
        share[tilt] = np.where(bottom > 1.0, top / np.maximum(bottom, 1.0), 0.0)
    sorted_share = share[order]
    if len(order) >= 3:
        padded = np.concatenate([sorted_share[:1], sorted_share, sorted_share[-1:]])
        sorted_share = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
    out = np.empty_like(share)
    out[order] = sorted_share
    return np.clip(out, MIN_SHARE, MAX_SHARE)


def amplitudes(band: Band, share: Floats) -> Floats:
    """Return the square root of the share of signal of every tilt in every cell.

    Parameters
    ----------
    band : Band
        Gives the ring of raw-image frequency of every tilt in every cell.
    share : ndarray, shape (tilts, RINGS)
        See `signal_share`.

    Returns
    -------
    ndarray, shape (cells, tilts)
        From `spectra.LAST` on, where working images were cropped, that of `MIN_SHARE`.
    """
    ring = np.minimum(band.ring, RINGS - 1)
    inside = band.ring < LAST * RINGS_PER_CYCLE
    out: Floats = np.sqrt(np.where(inside, share[np.arange(share.shape[0])[None], ring], MIN_SHARE))
    return out


def coherence(thickness: float, kx: Floats, difference: Floats) -> Floats:
    """Return the correlation of two noise-free projections of a slab, sinc(Z kx (tan ti - tan tj)); the arrays broadcast.

    Parameters
    ----------
    thickness : float
        Z of the slab, px.
    kx : ndarray
        Frequency across the tilt axis in the stretched frame, cycles/px.
    difference : ndarray
        tan ti - tan tj.

    Examples
    --------
    >>> import numpy as np
    >>> float(coherence(100.0, np.array(0.01), np.array(0.0)))          # one tilt with itself
    1.0
    >>> abs(float(coherence(100.0, np.array(0.01), np.array(1.0)))) < 1e-15    # one full period of height between them
    True
    """
    out: Floats = np.sinc(thickness * kx * difference)
    return out


def covariance(band: Band, pose: Pose, share: Floats) -> NDArray[np.float32]:
    """Return the covariance C between the tilts of a band in every cell.

    Parameters
    ----------
    band : Band
        Its tilts and cells.
    pose : Pose
        Tilt angles and thickness (px).
    share : ndarray, shape (tilts, RINGS)
        See `signal_share`.

    Returns
    -------
    ndarray of float32, shape (cells, tilts, tilts)
        Symmetric, 1 + `LOAD` on the diagonal: the coefficients are whitened.
    """
    tangents = pose.tangents()[band.members]
    signal = amplitudes(band, share).astype(np.float32)
    difference = tangents[:, None] - tangents[None]
    columns, which = np.unique(band.cells.kx, return_inverse=True)
    table = coherence(pose.thickness, columns[:, None, None], difference[None]).astype(np.float32)
    matrix = table[which]
    matrix *= signal[:, :, None]
    matrix *= signal[:, None, :]
    index = np.arange(len(tangents))
    matrix[:, index, index] = np.float32(1.0 + LOAD)
    return matrix


def model_of(band: Band, pose: Pose, share: Floats, threads: int = 1) -> Model:
    """Invert the covariance in every cell, blocks of cells in `threads` threads.

    Parameters
    ----------
    band : Band
        Its tilts and cells.
    pose : Pose
        Tilt angles and thickness (px).
    share : ndarray, shape (tilts, RINGS)
        See `signal_share`.
    threads : int

    Returns
    -------
    Model
        Of `covariance`.
    """
    matrix = covariance(band, pose, share)

    inverse = matrix.copy()
    log_determinant = np.empty(len(matrix))

    def invert(block: NDArray[np.int64]) -> None:
        invert_all(inverse[block[0] : block[-1] + 1], log_determinant[block[0] : block[-1] + 1])

    blocks = np.array_split(np.arange(len(matrix)), min(max(1, threads), len(matrix)))
    parallel(invert, blocks, threads)
    return Model(inverse, inverse * matrix, log_determinant)


def weighted(model: Model, values: Complexes) -> Complexes:
    """Return the product of the model's inverse with coefficients, M q, as real products of matrices.

    Parameters
    ----------
    model : Model
        See `model_of`.
    values : ndarray of complex64, shape (cells, tilts, places)
        Coefficients q.

    Returns
    -------
    ndarray of complex64, shape (cells, tilts, places)
    """
    flat = np.ascontiguousarray(values).view(np.float32)
    return np.matmul(model.inverse, flat).view(np.complex64)


def robust_weights(band: Band, model: Model) -> NDArray[np.float32]:
    """Return factors for coefficients that are far stronger over the series than the model predicts.

    Membranes, ice and gold make few coefficients much stronger than a random field's. The factor is that of a complex
    multivariate Student distribution with as many degrees of freedom as there are tilts, K:
    sqrt(2 K / (K + q* M q)), where the model predicts q* M q = K.

    Parameters
    ----------
    band : Band
        Its coefficients q are judged.
    model : Model
        What is expected of them.

    Returns
    -------
    ndarray of float32, shape (cells, 1, places)
        Below sqrt(2); 1 where a coefficient is as strong as expected.

    Notes
    -----
    The weight (nu + 2 K) / (nu + 2 q* M q) of K complex values, with nu = 2 K degrees of freedom, is that of Lange, Little and
    Taylor, J. Am. Stat. Assoc. 84 (1989) 881; the coefficients are multiplied by its root.
    """
    count = band.values.shape[1]
    strength = np.real(np.conj(band.values) * weighted(model, band.values)).sum(axis=1)
    out: NDArray[np.float32] = np.sqrt(2.0 * count / (count + np.maximum(strength, 0.0))).astype(np.float32)[:, None, :]
    return out


def down_weighted(band: Band, model: Model) -> Band:
    """Return the band with coefficients that are too strong scaled down, by `robust_weights` under the model."""
    return replace(band, values=band.values * robust_weights(band, model))


def log_likelihood_ratio(band: Band, model: Model, values: Complexes, product: Complexes) -> float:
    """Return the logarithm of the likelihood under the model over that of tilts that share nothing.

    The ratio, unlike the likelihood, may be compared between poses whose stretching leaves different frequencies empty: what is
    empty adds nothing.

    Parameters
    ----------
    band : Band
        Gives the weight of each coefficient.
    model : Model
        See `model_of`.
    values, product : ndarray of complex64, shape (cells, tilts, places)
        The coefficients where the tilts are now, and the model's inverse times them.

    Notes
    -----
    For complex coefficients q with covariance C: log p(q | C) - log p(q | 1) = q* (1 - inv(C)) q - log det C, summed over cells
    and places.
    """
    gain = np.real(np.conj(values) * (values - product)).sum(axis=1, dtype=np.float64)
    cell_weight = np.sum(band.cells.weight, axis=1)
    return float(np.sum(band.cells.weight * gain) - np.sum(cell_weight * model.log_determinant))


def gradient(band: Band, model: Model, values: Complexes) -> tuple[Floats, float]:
    """Return the gradient of the log-likelihood by the moves of every tilt, and the log-likelihood ratio.

    Parameters
    ----------
    band : Band
        Frequencies and weights.
    model : Model
        See `model_of`.
    values : ndarray of complex64, shape (cells, tilts, places)
        The coefficients where the tilts are now.

    Returns
    -------
    slope : ndarray, shape (tilts, 2)
        By dX and dY of each tilt in the stretched frame, 1/px.
    ratio : float
        See `log_likelihood_ratio`.

    Notes
    -----
    A move d multiplies a coefficient by exp(2 pi i k.d), so the derivative is -4 pi k Im(q* inv(C) q), summed over the
    coefficients of the tilt.
    """
    product = weighted(model, values)
    turn = np.imag(np.conj(values) * product) * band.cells.weight[:, None, :].astype(np.float32)
    slope = np.empty((values.shape[1], 2))
    slope[:, 0] = -4 * np.pi * np.einsum("c,ct->t", band.cells.kx, np.sum(turn, axis=2, dtype=np.float64))
    slope[:, 1] = -4 * np.pi * np.einsum("ctp,cp->t", turn, band.cells.ky, optimize=True)
    return slope, log_likelihood_ratio(band, model, values, product)


def fisher(band: Band, model: Model, share: Floats | None = None) -> Floats:
    """Return the Fisher matrix of the moves, in the order (dX0, dY0, dX1, ...).

    It is exactly singular for a shift of all tilts together: the inverses are of single precision and not quite symmetric, so it
    is made symmetric first.

    Parameters
    ----------
    band : Band
        Frequencies and weights.
    model : Model
        See `model_of`.
    share : ndarray, shape (tilts, tilts), optional
        Of the coefficients of each pair that are independent of each other.

    Returns
    -------
    ndarray, shape (2 tilts, 2 tilts)
        1/px^2. Its inverse, outside the common shift, bounds the covariance of the moves from below (Cramer and Rao).

    Notes
    -----
    F = (2 pi)^2 sum_k w k k^T 2 (delta_ij - M_ij C_ij), M the inverse of the covariance C; the number of coefficients is
    lowered for each pair of tilts by `share`.
    """
    kx, ky, weight = band.cells.kx, band.cells.ky, band.cells.weight
    moments = np.stack([kx**2 * weight.sum(axis=1), kx * (weight * ky).sum(axis=1), (weight * ky**2).sum(axis=1)])
    count = model.inverse.shape[1]
    coupling = np.zeros((3, count, count))
    for first in range(0, len(kx), BLOCK):
        cells = slice(first, first + BLOCK)
        coupling += np.tensordot(moments[:, cells], model.coupling[cells].astype(np.float64), axes=(1, 0))
    coupling *= 8.0 * np.pi**2
    matrix = np.zeros((2 * count, 2 * count))
    for moment, first, second in ((0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1)):
        block = 0.5 * (coupling[moment] + coupling[moment].T)
        block *= 1.0 if share is None else share
        np.fill_diagonal(block, 0.0)
        matrix[first::2, second::2] = block - np.diag(block.sum(axis=1))
    return matrix


def ascend(
    band: Band, model: Model, free: NDArray[np.bool_], steps: int, largest: float
) -> tuple[Floats, float, Floats]:
    """Maximise the likelihood by Fisher scoring on the moves of some tilts.

    A step that does not raise the likelihood is halved. Where all tilts may move, their common shift stays zero on average.

    Parameters
    ----------
    band : Band
        Coefficients at the start.
    model : Model
        Stays what it is: of the pose at the start.
    free : ndarray of bool, shape (tilts,)
        Which tilts may move, by position in the band.
    steps : int
        At most this many.
    largest : float
        Largest move of one step in either direction, px.

    Returns
    -------
    moves : ndarray, shape (tilts, 2)
        (dX, dY) in the stretched frame, px.
    ratio : float
        The log-likelihood ratio reached.
    information : ndarray, shape (2 tilts, 2 tilts)
        The Fisher matrix at the start, 1/px^2.
    """
    information = fisher(band, model)
    active = np.repeat(free, 2)
    reduced = information[np.ix_(active, active)]
    damped = reduced + 1e-3 * np.diag(np.diag(reduced)) + 1e-6 * np.eye(len(reduced))
    moves = np.zeros((len(free), 2))
    values = band.values
    slope, value = gradient(band, model, values)
    for _ in range(steps):
        step = np.zeros((len(free), 2))
        step[free] = np.linalg.solve(damped, slope[free].ravel()).reshape(-1, 2)
        if free.all():
            step -= step.mean(axis=0)
        step = np.clip(step, -largest, largest)
        for _ in range(4):
            trial_values = band.values * phases(band.cells, moves + step)
            trial_slope, trial_value = gradient(band, model, trial_values)
            if trial_value > value:
                break
            step *= 0.5
        else:
            break
        moves, values, slope, value = moves + step, trial_values, trial_slope, trial_value
        if np.abs(step).max() < 0.01:
            break
    return moves, value, information


