# SPDX-License-Identifier: GPL-3.0-or-later
"""The evidence for local motion: a Gaussian process with strengths of its own, against patches that each move by themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from scipy.optimize import minimize

from tomostream.engine.align.geometry import Floats
from tomostream.engine.align.patches import Job, Terms

# Logarithms of the lowest and highest strengths of the prior: motion in the plane (working px), in height and of
# each tilt by itself relative to it, and of each patch by itself (working px). Then what is usual of the middle two.
LIMITS = np.log([[1e-3, 0.2, 1e-3, 1e-3], [20.0, 2.5, 1.0, 20.0]])
USUAL, USUAL_SPREAD = np.log([1.0, 0.05]), np.array([0.5, 1.2])


def prior_root(job: Job, strength: Floats) -> Floats:
    """Return a square root of the prior covariance of one shape's amounts at all used tilts.

    Parameters
    ----------
    job : Job
    strength : ndarray, shape (3,) or more
        Logarithms of the motion in the plane (working px), of the motion in height relative to it, and of the share of variance
        that is each tilt's own.

    Returns
    -------
    ndarray, shape (2K, 2K)
        In the order (dX0, dY0, dX1, ...). A specimen of another shape at rest (the same in X, Y and Z at all tilts) is taken out,
        by least squares in the image.
    """
    size, height, own = np.exp(strength[:3])
    count, tangents, cosines = len(job.members), job.tangents, job.cosines
    slow = np.exp(-np.abs(job.times[:, None] - job.times[None]))
    root = np.zeros((2 * count, 2 * count))
    ridge = 1e-9 * np.eye(count)
    across = slow * (1.0 + height**2 * np.outer(tangents, tangents))
    root[0::2, 0::2] = np.linalg.cholesky(across + np.diag(own / cosines**2) + ridge)
    root[1::2, 1::2] = np.linalg.cholesky(slow + own * np.eye(count) + ridge)
    rest = np.zeros((2 * count, 3))
    rest[0::2, 0], rest[0::2, 1], rest[1::2, 2] = 1.0, tangents, 1.0
    seen = np.ones((2 * count, 1))
    seen[0::2, 0] = cosines
    out: Floats = size * (root - rest @ (np.linalg.pinv(seen * rest) @ (seen * root)))
    return out


@dataclass(frozen=True)
class Evidence:
    """What the terms of one round say of the prior.

    Attributes
    ----------
    job : Job
    fishers : ndarray, shape (P, 2K, 2K)
        Of the patches, lowered by the excess of noise.
    pull : ndarray, shape (P, 2K)
        The gradients that the patches would have where there is no motion.
    """

    job: Job
    fishers: Floats
    pull: Floats

    @classmethod
    def of(cls, job: Job, terms: Terms, amounts: Floats) -> Evidence:
        """Return the evidence of terms that were made at `amounts`, (M, 2K)."""
        there = np.einsum("pij,pj->pi", terms.fishers, job.smooth.at_patches @ amounts)
        return cls(job, terms.fishers / terms.excess, (terms.gradients + there) / terms.excess)

    def at(self, strength: Floats, modes: int) -> tuple[Floats, float]:
        """Return the most probable amounts, and the log-evidence over that of no motion at all.

        Parameters
        ----------
        strength : ndarray, shape (4,)
            Logarithms: the three of `prior_root`, and of each patch's own motion (working px).
        modes : int
            Number of leading shapes; 0: patches that each move by themselves.

        Returns
        -------
        amounts : ndarray, shape (modes, 2K)
            Working pixels.
        gain : float
            With a penalty for strengths that are unusual.

        Notes
        -----
        With a prior of covariance R R^T for each shape, Fisher matrices F and pulls f: the posterior mean is R x with
        (1 + R^T F R) x = R^T f, the evidence f^T R x / 2 - log det(1 + R^T F R) / 2, the shapes of all patches taken together.
        """
        strength = np.clip(strength, LIMITS[0], LIMITS[1])
        root = prior_root(self.job, strength)
        fishers, pull, gain = _apart(self.fishers, self.pull, np.exp(strength[3] - strength[0]) * root)
        amounts = np.zeros((0, len(root)))
        if modes > 0:
            amounts, together = _posterior(fishers, self.job.smooth.at_patches[:, :modes], pull, root)
            gain += together
        # what the data do not determine stays near what is usual
        return amounts, gain - 0.5 * float(np.sum(((strength[1:3] - USUAL) / USUAL_SPREAD) ** 2))

    def strongest(self, start: Floats, modes: int, trials: int) -> Floats:
        """Return the strengths of the prior, (4,), at which the evidence is highest.

        Parameters
        ----------
        start : ndarray, shape (4,)
            Where the search starts (Nelder and Mead).
        modes : int
            As for `at`.
        trials : int
            At most this many.
        """
        simplex = start + np.vstack([np.zeros(4), 0.6 * np.eye(4)])
        answer = minimize(lambda trial: -self.at(trial, modes)[1], start, method="Nelder-Mead",
                          options={"maxfev": trials, "initial_simplex": simplex})
        out: Floats = np.clip(answer.x, LIMITS[0], LIMITS[1])
        return out


def _apart(fishers: Floats, pull: Floats, root: Floats) -> tuple[Floats, Floats, float]:
    """Return Fisher matrices and pulls of patches that may each move by itself as well, and what the log-evidence gains by that.

    The prior of their own motion has the covariance root @ root.T: the content of a patch is no even slab, and ice may come down
    on it.
    """
    freed, pulled, gain = np.empty_like(fishers), np.empty_like(pull), 0.0
    for patch, (fisher_matrix, force) in enumerate(zip(fishers, pull, strict=True)):
        turned = fisher_matrix @ root
        factor = scipy.linalg.cholesky(root.T @ turned + np.eye(len(root)), lower=True, overwrite_a=True, check_finite=False)
        both = np.column_stack([turned.T, root.T @ force])
        solved = scipy.linalg.solve_triangular(factor, both, lower=True, overwrite_b=True, check_finite=False)
        left, right = solved[:, :-1], solved[:, -1]
        freed[patch], pulled[patch] = fisher_matrix - left.T @ left, force - left.T @ right
        gain += 0.5 * float(right @ right) - float(np.log(np.diag(factor)).sum())
    return freed, pulled, gain


def _posterior(fishers: Floats, shapes: Floats, pull: Floats, root: Floats) -> tuple[Floats, float]:
    """Return the most probable amounts (M, 2K) under a prior of covariance root @ root.T for each shape, and the gain in
    log-evidence."""
    modes, size = shapes.shape[1], len(root)
    fishers = np.matmul(root.T, np.matmul(fishers, root))
    pairs = (shapes[:, :, None] * shapes[:, None, :]).reshape(len(shapes), -1)
    matrix = (pairs.T @ fishers.reshape(len(shapes), -1)).reshape(modes, modes, size, size)
    matrix = matrix.transpose(0, 2, 1, 3).reshape(modes * size, modes * size)
    matrix[np.diag_indices_from(matrix)] += 1.0
    right = (shapes.T @ (pull @ root)).ravel()
    factor = scipy.linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    half = scipy.linalg.solve_triangular(factor, right, lower=True, check_finite=False)
    whole = scipy.linalg.solve_triangular(factor, half, lower=True, trans="T", check_finite=False)
    return whole.reshape(modes, size) @ root.T, float(0.5 * half @ half - np.log(np.diag(factor)).sum())
