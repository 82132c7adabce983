# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a point of the specimen is seen in the raw tilt images, and back.

Points are (X, Y, Z) in raw pixels from the centre of the specimen; places in an image are (x, y) in raw pixels from its centre.
The conventions are those of the reconstruction: what is erased here is what would be reconstructed there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tomostream.engine.recon.tomogram import TiltUse

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Geometry:
    """The tilts of a series, in their order; `shape` (ny, nx) of a raw image."""

    tilts: tuple[TiltUse, ...]
    shape: tuple[int, int]
    cosines: Doubles
    sines: Doubles
    shifts: Doubles

    @classmethod
    def of(cls, tilts: Sequence[TiltUse], shape: tuple[int, int]) -> Geometry:
        angles = np.radians([tilt.tilt_deg for tilt in tilts])
        shifts = np.array([[tilt.placement.tx, tilt.placement.ty] for tilt in tilts])
        return cls(tuple(tilts), shape, np.cos(angles), np.sin(angles), shifts)

    @property
    def _moving(self) -> list[int]:
        """Tilts with local shifts."""
        return [number for number, tilt in enumerate(self.tilts) if tilt.placement.local is not None]

    def places(self, points: Doubles) -> Doubles:
        """Return where points (n, 3) are seen: (K, n, 2).

        Parameters
        ----------
        points : ndarray, shape (n, 3)
            (x, y, z) in raw px from the middle of the volume: x across the tilt axis, y along it, z upward.

        Returns
        -------
        ndarray, shape (K, n, 2)
            (x, y) in raw px from the middle of each raw image.

        Notes
        -----
        Of a tilt t, turned by r: (x cos t + z sin t, y), rotated by r, plus the shift, plus the local shift there.
        """
        across = np.multiply.outer(self.cosines, points[:, 0]) + np.multiply.outer(self.sines, points[:, 2])
        turned = _turned(across, points[:, 1], np.array([[tilt.placement.rot_deg] for tilt in self.tilts]))
        out = turned + self.shifts[:, None]
        for tilt in self._moving:
            out[tilt] += self._local(tilt, turned[tilt])
        return out

    def place(self, tilt: int, points: Doubles) -> Doubles:
        """Return where points (..., 3) are seen in one tilt: (..., 2).

        Parameters
        ----------
        tilt : int
            In the order of the tilts.
        points : ndarray, shape (..., 3)
            As for `places`.
        """
        across = points[..., 0] * self.cosines[tilt] + points[..., 2] * self.sines[tilt]
        return self.raw(tilt, np.stack([across, points[..., 1]], axis=-1))

    def raw(self, tilt: int, aligned: Doubles) -> Doubles:
        """Return the inverse of `aligned`: where (across, along) the axis, (..., 2), is in the raw image.

        Parameters
        ----------
        tilt : int
            In the order of the tilts.
        aligned : ndarray, shape (..., 2)
            Raw px from the middle of the aligned image.
        """
        place = self.tilts[tilt].placement
        turned = _turned(aligned[..., 0], aligned[..., 1], place.rot_deg)
        out = turned + self.shifts[tilt]
        return out if place.local is None else out + self._local(tilt, turned)

    def aligned(self, tilt: int, places: Doubles) -> Doubles:
        """(across, along) the tilt axis, in raw pixels, of places (n, 2) in the raw image.

        Parameters
        ----------
        tilt : int
            In the order of the tilts.
        places : ndarray, shape (n, 2)
            (x, y) in raw px from the middle of the image.

        Notes
        -----
        Local shifts are known at the place before them, which is found by putting the first guess in once more.
        """
        place = self.tilts[tilt].placement
        before = places - self.shifts[tilt]
        if place.local is not None:
            before = before - self._local(tilt, before - self._local(tilt, before))
        return _turned(before[..., 0], before[..., 1], -place.rot_deg)

    def _local(self, tilt: int, before: Doubles) -> Doubles:
        local = self.tilts[tilt].placement.local
        if local is None:
            return np.zeros_like(before)
        flat = before.reshape(-1, 2)
        return local.at(flat[:, 0], flat[:, 1], self.shape[1], self.shape[0]).T.reshape(before.shape)


def _turned(x: Doubles, y: Doubles, degrees: float | Doubles) -> Doubles:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.stack([c * x - s * y, s * x + c * y], axis=-1)
