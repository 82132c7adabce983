# SPDX-License-Identifier: GPL-3.0-or-later
"""Reconstruction of a slab from aligned images: weighted back-projection, or SIRT in closed form.

Geometry. The tilt axis is y. A point (X, Y, Z) of the specimen, from the centre of the volume, is seen in the image of
tilt t at x' = X cos t + Z sin t, y' = Y. Stretching an image by 1 / cos t puts it on specimen coordinates, where the
slice at height Z is the image shifted by Z tan t.

WBP. V = sum over tilts of dt |nu| P(nu) (Radon's inversion with the local angular step dt in radians), tapered with a
Hamming window in nu.

SIRT. n iterations V <- V + C A^T R (d - A V) from V = 0, with C = 1 / K and R = 1 / depth (Gilbert 1972), are a linear
operation on the data. In stretched coordinates A at one frequency kx is the K x depth matrix exp(2 pi i kx z tan t), so
A A^T = H with H_kl = sum over z of exp(2 pi i kx z (tan t_l - tan t_k)), a Dirichlet kernel, real and symmetric. Hence
V = A^T G d with the K x K matrix G = lambda sum_{j<n} (1 - lambda H)^j, lambda = 1 / (K depth): SIRT costs as much as
WBP.

Both leave the volume in units of the images per pixel of path: its sum along a ray is the image's value (the part of it
that the tilt range holds).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomostream.files.errors import EngineError

Floats = NDArray[np.float32]
# beyond this the stretched images have no end (tan) and hold next to nothing
MAX_TILT_DEG = 80.0
# bytes of one block of rows of the volume; the other buffers of a block are smaller than that
_BLOCK_BYTES = 96 << 20
# multiply-adds of a matrix product below which BLAS works with one thread
_SMALL_PRODUCT = 250_000
# frequencies whose SIRT filters are made at a time
_FREQUENCIES_AT_ONCE = 64


@dataclass(frozen=True)
class Method:
    """How to reconstruct: weighted back-projection (`iterations` 0), or SIRT with that many iterations."""

    iterations: int = 0

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return f"SIRT, {self.iterations} iterations in closed form" if self.iterations else "weighted back-projection"


@dataclass(frozen=True)
class Block:
    """Rows `y0` to before `y1` of a volume.

    Attributes
    ----------
    y0, y1 : int
    data : ndarray of float32, shape (rows, depth, nx) or, upright, (depth, rows, nx)
        A view, overwritten by the next block.
    projection : ndarray, shape (rows, nx)
        Sum over z.
    stats : ndarray, shape (rows, 4)
        Minimum, maximum, sum, sum of squares.
    """

    y0: int
    y1: int
    data: Floats
    projection: NDArray[np.float64]
    stats: NDArray[np.float64]


def angular_steps(tilts_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the width in radians that each tilt stands for: half the way to its neighbours; tilts at one angle share it.

    The ends count as far outward as inward. A gap counts at most three times the median step: what was not measured cannot
    be made up by its neighbours' noise.

    Parameters
    ----------
    tilts_deg : ndarray, shape (K,)
        In any order.

    Returns
    -------
    ndarray, shape (K,)

    Examples
    --------
    >>> import numpy as np
    >>> np.degrees(angular_steps(np.array([-3.0, 0.0, 3.0]))).round(6).tolist()
    [3.0, 3.0, 3.0]
    """
    distinct, place, count = np.unique(np.round(tilts_deg, 3), return_inverse=True, return_counts=True)
    if len(distinct) == 1:
        return np.full(len(tilts_deg), math.pi / 60 / len(tilts_deg))
    gaps = np.diff(distinct)
    gaps = np.minimum(gaps, 3 * np.median(gaps))
    steps = np.concatenate([gaps[:1], 0.5 * (gaps[1:] + gaps[:-1]), gaps[-1:]])
    return np.radians(steps / count)[place.ravel()]


class Slab:
    """Reconstructs rows of a slab, block by block.

    Parameters
    ----------
    tilts_deg : (K,)
        Tilt angles of the images, any order.
    nx : int
        Width of the images and of the volume, px.
    depth : int
        Thickness of the volume, px.
    method : Method
    threads : int

    Raises
    ------
    EngineError
        Where no tilt is within 80 degrees.
    """

    def __init__(self, tilts_deg: NDArray[np.float64], nx: int, depth: int, method: Method, threads: int = 1) -> None:
        import scipy.fft

        self.tilts_deg = np.asarray(tilts_deg, dtype=np.float64)
        if len(self.tilts_deg) == 0 or np.abs(self.tilts_deg).max() > MAX_TILT_DEG:
            raise EngineError(f"a slab needs tilts within +-{MAX_TILT_DEG:g} degrees")
        self.nx, self.depth, self.method, self.threads = nx, depth, method, threads
        self.cosines = np.cos(np.radians(self.tilts_deg))
        self.tangents = np.tan(np.radians(self.tilts_deg))
        reach = math.ceil(depth / 2 * np.abs(self.tangents).max()) + 4
        self.length = scipy.fft.next_fast_len(nx + 2 * reach + (nx + 2 * reach) % 2, real=True)
        while (self.length - nx) % 2:
            self.length = scipy.fft.next_fast_len(self.length + 1, real=True)
        self.offset = (self.length - nx) // 2
        frequencies = np.arange(self.length // 2 + 1) / self.length
        if method.iterations:
            parts = [frequencies[i : i + _FREQUENCIES_AT_ONCE] for i in range(0, len(frequencies), _FREQUENCIES_AT_ONCE)]
            with ThreadPoolExecutor(threads) as pool:
                made = pool.map(lambda part: sirt_filter(part, self.tilts_deg, depth, method.iterations), parts)
                self._filter = np.concatenate(list(made))
        else:
            self._filter = wbp_filter(frequencies, self.tilts_deg)

    def block_rows(self, ny: int) -> int:
        """Return the rows of a block: about 96 MB of volume, an even share of the `ny` rows of the volume."""
        most = max(8, _BLOCK_BYTES // (4 * self.nx * self.depth))
        blocks = math.ceil(ny / most)
        return math.ceil(ny / blocks)

    def blocks(self, images: Floats, upright: bool, part: tuple[int, int] | None = None) -> Iterator[Block]:
        """Reconstruct all rows of aligned images, a block at a time.

        Parameters
        ----------
        images : ndarray of float32, shape (K, ny, nx)
            Aligned images, each minus its mean.
        upright : bool
            With it the block is (depth, rows, nx) and Z grows with the first index (x, y, z: AreTomo's -FlipVol 1);
            else it is (rows, depth, nx) and Z falls with the second (x, z, y, turned by 90 degrees about x, not mirrored).
        part : (int, int), optional
            First slice and the one after the last, growing with Z, that are wanted; by default all.

        Yields
        ------
        Block
            Valid until the next one is asked for.
        """
        first, last = part if part is not None else (0, self.depth)
        middle = (first + last) / 2 - self.depth / 2

        def fill(y0: int, lines: Floats) -> None:
            self._filtered(images, y0, lines, middle)

        yield from self._projected(fill, np.ones(last - first, np.float32), images.shape[1], upright)

    def projected(self, lines: Floats, fade: Floats, ny: int, upright: bool) -> Iterator[Block]:
        """Back-project stretched, filtered lines into a slab about Z = 0, block by block.

        Parameters
        ----------
        lines : ndarray of float32, shape (K, >= ny, >= length)
            Stretched across the tilt axis by 1 / cos t, and filtered.
        fade : ndarray of float32, shape (depth,)
            Factors of the slices, by growing Z; their number is the depth.
        ny : int
            Rows of the volume.
        upright : bool
            Which way the volume lies; see `blocks`.

        Yields
        ------
        Block
        """

        def fill(y0: int, out: Floats) -> None:
            out[: len(self.tilts_deg)] = lines[:, y0 : y0 + out.shape[1], : self.length]
            out[len(self.tilts_deg):] = 0.0

        yield from self._projected(fill, fade, ny, upright)

    def _projected(self, fill: Callable[[int, Floats], None], fade: Floats, ny: int, upright: bool) -> Iterator[Block]:
        """Back-project lines that `fill` gives for the rows from y0 on, block by block."""
        from tomostream.engine.recon.kernels import backproject

        rows, depth = self.block_rows(ny), len(fade)
        faded = fade if upright else np.ascontiguousarray(fade[::-1])
        padded = -(-len(self.tilts_deg) // 4) * 4
        stretched = np.empty((padded, rows, self.length), np.float32)
        tangents = np.concatenate([self.tangents, np.zeros(padded - len(self.tilts_deg))])
        data = np.empty(rows * depth * self.nx, np.float32)
        for y0 in range(0, ny, rows):
            y1 = min(y0 + rows, ny)
            here = y1 - y0
            lines = stretched[:, :here] if here == rows else np.empty((padded, here, self.length), np.float32)
            fill(y0, lines)
            out = data[: here * depth * self.nx].reshape(-1, self.nx)
            projection, stats = np.empty((here, self.nx)), np.empty((here, 4))
            strides = (1, here) if upright else (depth, 1)
            sign = 1 if upright else -1
            backproject(lines, tangents, self.offset, sign, depth, faded, *strides, out, projection, stats)
            shape = (depth, here, self.nx) if upright else (here, depth, self.nx)
            yield Block(y0, y1, out.reshape(shape), projection, stats)

    def _filtered(self, images: Floats, y0: int, lines: Floats, middle: float) -> None:
        """Stretch rows of `images` (K, ny, nx) from `y0` on into `lines` (>= K, rows, length) and filter them there, for a part
        of the volume about Z = `middle`."""
        from tomostream.engine.recon.kernels import stretch

        stretch(images, y0, self.cosines, lines)
        tilts = len(self.tilts_deg)
        # few enough rows at a time for BLAS not to make threads of its own for each of the many small products
        step = max(4, _SMALL_PRODUCT // (2 * tilts * tilts))
        parts = [lines[:tilts, y : y + step] for y in range(0, lines.shape[1], step)]
        with ThreadPoolExecutor(self.threads) as pool:
            deque(pool.map(lambda part: self._filter_part(part, middle), parts), maxlen=0)

    def _filter_part(self, part: Floats, middle: float) -> None:
        """Filter rows (K, rows, length) in place, and shift them by what Z = `middle` is to the middle of the volume."""
        import scipy.fft

        spectra = scipy.fft.rfft(part, axis=2)
        if self.method.iterations:
            spectra = _mixed(self._filter, spectra)
        else:
            spectra *= self._filter[:, None, :]
        if middle:
            frequencies = np.arange(self.length // 2 + 1) / self.length
            spectra *= np.exp(2j * np.pi * middle * self.tangents[:, None] * frequencies).astype(np.complex64)[:, None]
        part[...] = scipy.fft.irfft(spectra, self.length, axis=2, overwrite_x=True)


def _mixed(matrices: Floats, spectra: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Multiply the spectra (K, rows, F) of all tilts by a K x K real matrix at each frequency (F, K, K)."""
    tilts, rows, count = spectra.shape
    vectors = np.ascontiguousarray(spectra.transpose(2, 0, 1)).view(np.float32).reshape(count, tilts, 2 * rows)
    mixed = np.matmul(matrices, vectors).view(np.complex64)
    return np.ascontiguousarray(mixed.transpose(1, 2, 0))


def _taper(nu: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a Hamming window of the image frequency `nu` (cycles/px), 0 beyond Nyquist."""
    return np.where(nu <= 0.5, 0.54 + 0.46 * np.cos(2 * np.pi * np.minimum(nu, 0.5)), 0.0)


def _interpolation_gain(frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what linear interpolation has to be divided by to be nearest to exact shifts, in least squares.

    Its gain g at a fraction a is 1 - a + a exp(2 pi i f), against exp(2 pi i f a); on average over a the real part of
    the ratio is sinc^2 f, and |g|^2 is 2/3 + cos(2 pi f) / 3. Dividing by their quotient loses nothing of the signal
    and does not raise the noise near Nyquist, as dividing by sinc^2 would.
    """
    return np.asarray(np.sinc(frequencies) ** -2 * (2 + np.cos(2 * np.pi * frequencies)) / 3)


def wbp_filter(frequencies: NDArray[np.float64], tilts_deg: NDArray[np.float64]) -> Floats:
    """Return the ramp of every tilt in stretched coordinates.

    Parameters
    ----------
    frequencies : ndarray, shape (F,)
        Cycles per px of specimen x, from 0.
    tilts_deg : ndarray, shape (K,)
        Tilt angles.

    Returns
    -------
    ndarray of float32, shape (K, F)
        |k| times the angle that the tilt stands for (`angular_steps`): R-weighted back-projection, Radermacher in "Electron
        Tomography" (Frank, ed., 2006), chapter 8.
    """
    nu = frequencies[None] / np.cos(np.radians(tilts_deg))[:, None]
    ramp = angular_steps(tilts_deg)[:, None] * nu * _taper(nu)
    return (ramp / _interpolation_gain(frequencies)[None]).astype(np.float32)


def sirt_filter(
    frequencies: NDArray[np.float64], tilts_deg: NDArray[np.float64], depth: int, iterations: int
) -> Floats:
    """Return the filter of SIRT, G of the module's text, at every frequency, with the projection's cos t on the data's side.

    Parameters
    ----------
    frequencies : ndarray, shape (F,)
        Cycles per px of specimen x.
    tilts_deg : ndarray, shape (K,)
        Tilt angles.
    depth : int
        Of the slab, px.
    iterations : int
        Of SIRT; their sum is taken in closed form.

    Returns
    -------
    ndarray of float32, shape (F, K, K)

    Notes
    -----
    The sum of powers is taken by doubling: S_2m = S_m + R^m S_m, S_m+1 = 1 + R S_m.
    """
    angles = np.radians(np.asarray(tilts_deg, dtype=np.float64))
    tangents, tilts = np.tan(angles), len(angles)
    scale = 1.0 / (depth * tilts)
    phase = np.pi * frequencies[:, None, None] * (tangents[:, None] - tangents[None])[None]
    sine = np.sin(phase)
    near = np.abs(sine) < 1e-9
    kernel = np.where(near, depth * np.cos(phase) ** (depth - 1), np.sin(depth * phase) / np.where(near, 1.0, sine))
    one = np.eye(tilts)[None]
    rest = one - scale * kernel
    total = np.broadcast_to(one, kernel.shape)
    power = rest
    for bit in bin(iterations)[3:]:
        total = total + power @ total
        power = power @ power
        if bit == "1":
            total = one + rest @ total
            power = rest @ power
    nu = frequencies[:, None] / np.cos(angles)[None]
    data_side = np.where(nu <= 0.5, np.cos(angles)[None], 0.0)
    gain = scale / _interpolation_gain(frequencies)
    return (total * data_side[:, None, :] * gain[:, None, None]).astype(np.float32)
