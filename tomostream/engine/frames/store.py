# SPDX-License-Identifier: GPL-3.0-or-later
"""The frames of one movie while it is worked on: decoded once if memory allows, bad pixels replaced, references applied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tomostream.engine import limits
from tomostream.engine.frames import plan
from tomostream.engine.frames.align import binned
from tomostream.engine.frames.movies import Movie
from tomostream.engine.frames.references import References
from tomostream.files.errors import EngineError

_CACHE_SHARE = 0.4
"""Decoded frames are kept while they take less than this share of the free memory; else they are decoded again."""
_BAND_ROWS = 128
_MAX_COUNT = 1e15
"""Counts beyond this are none, and their squares would overflow."""


class FrameStore:
    """The frames of a movie as counts, cut to the window, with bad pixels replaced; kept in memory if they fit.

    `references` are applied by `binned` and `rows`; they are set once the bad pixels are known (`replace`).

    Parameters
    ----------
    movie : Movie
        Open as long as the store is used.
    fractions : sequence of Fraction
        Which frames of the file make each frame.
    window : (slice, slice)
        Rows and columns that are used.
    """

    def __init__(self, movie: Movie, fractions: Sequence[plan.Fraction], window: tuple[slice, slice]) -> None:
        self._movie, self._fractions, self._window = movie, fractions, window
        self._kept: dict[int, NDArray] = {}
        self._keep: bool | None = None
        self._bad: tuple[NDArray, ...] | None = None
        self.references = References()

    def __len__(self) -> int:
        return len(self._fractions)

    @property
    def kept(self) -> bool:
        """Whether all frames are in memory."""
        return len(self._kept) == len(self)

    def counts(self, index: int) -> NDArray:
        """Return a frame without references.

        Parameters
        ----------
        index : int
            From 0.

        Returns
        -------
        ndarray, shape (rows, columns)
            Of the file's type (wider if frames were summed); not to be written to.

        Raises
        ------
        EngineError
            If the frame cannot be read, or holds values that are not finite or too large.
        """
        frame = self._kept.get(index)
        if frame is None:
            frame = self._patched(self._decoded(index))
            if self._keep is None:
                self._keep = frame.nbytes * len(self) < _CACHE_SHARE * limits.free_memory()
            if self._keep:
                self._kept[index] = frame
        return frame

    def rows(self, counts: NDArray, which: slice) -> NDArray:
        """Return rows of a frame, corrected: in the counts' own type if there are no references, else float32.

        Parameters
        ----------
        counts : ndarray, shape (rows, columns)
            The whole frame, as `counts` returns it.
        which : slice
            Its rows.
        """
        return self.references.corrected(counts[which], which)

    def binned(self, index: int, factor: int) -> NDArray[np.float32]:
        """Return a frame, corrected and summed over squares of pixels, in bands that stay in the processor's cache.

        Parameters
        ----------
        index : int
            From 0.
        factor : int
            Side of the squares.
        """
        counts, step = self.counts(index), factor * max(1, _BAND_ROWS // factor)
        bands = (slice(first, first + step) for first in range(0, len(counts) // factor * factor, step))
        return np.concatenate([binned(self.rows(counts, band), factor) for band in bands])

    def _decoded(self, index: int) -> NDArray:
        """Return a frame as it is in the file, cut to the window."""
        fraction = self._fractions[index]
        frame = np.ascontiguousarray(self._movie.read(fraction.first, fraction.number)[self._window])
        if frame.dtype.kind == "f" and not max(float(frame.max()), -float(frame.min())) < _MAX_COUNT:  # nor if it is NaN
            what = "values that are not numbers" if not np.isfinite(frame).all() else f"values beyond {_MAX_COUNT:g}"
            raise EngineError(f"{self._movie.path}: frame {fraction.first + 1} holds {what}; make the movie again")
        return frame

    def _patched(self, frame: NDArray) -> NDArray:
        """Return a frame with its bad pixels replaced, in place where it can be written to."""
        if self._bad is None:
            return frame
        if not frame.flags.writeable:
            frame = np.array(frame)
        flat = frame.reshape(-1)
        flat[self._bad[0]] = flat[self._bad[1]]
        return frame

    def replace(self, bad: NDArray[np.intp], source: NDArray[np.intp]) -> None:
        """Give bad pixels the values of others in every frame from now on.

        Parameters
        ----------
        bad, source : ndarray of int
            Flat indices, as `badpixels.replacements` returns them.
        """
        self._bad = (bad, source)
        for index, frame in list(self._kept.items()):
            self._kept[index] = self._patched(frame)
