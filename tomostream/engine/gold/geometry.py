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
    from tomostream.engine.recon.options import TiltUse

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Geometry:
    """The tilts of a series, as gold needs them.

    Attributes
    ----------
    tilts : tuple of TiltUse
        K of them, in the order of the reconstruction.
    shape : (int, int)
        (ny, nx) of a raw image.
    cosines, sines : ndarray, shape (K,)
        Of the tilt angles.
    shifts : ndarray, shape (K, 2)
        (tx, ty), raw px.
    """

    tilts: tuple[TiltUse, ...]
    shape: tuple[int, int]
    cosines: Doubles
    sines: Doubles
    shifts: Doubles

    @classmethod
    def of(cls, tilts: Sequence[TiltUse], shape: tuple[int, int]) -> Geometry:
        """Return the geometry of tilts with raw images of `shape` (ny, nx)."""
        angles = np.radians([tilt.tilt_deg for tilt in tilts])
        shifts = np.array([[tilt.placement.tx, tilt.placement.ty] for tilt in tilts])
        return cls(tuple(tilts), shape, np.cos(angles), np.sin(angles), shifts)

    @property
    def _moving(self) -> list[int]:
        """Tilts with local shifts."""
        return [number for number, tilt in enumerate(self.tilts) if tilt.placement.local is not None]

    def places(self, points: Doubles) -> Doubles:
        """Return where points are seen in every tilt.

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
        """Return where points are seen in one tilt.

        Parameters
        ----------
        tilt : int
            In the order of the tilts.
        points : ndarray, shape (..., 3)
            As for `places`.

        Returns
        -------
        ndarray, shape (..., 2)
        """
        across = points[..., 0] * self.cosines[tilt] + points[..., 2] * self.sines[tilt]
        return self.raw(tilt, np.stack([across, points[..., 1]], axis=-1))

    def raw(self, tilt: int, aligned: Doubles) -> Doubles:
        """Return where places of the aligned image are in the raw one: the inverse of `aligned`.

        Parameters
        ----------
        tilt : int
            In the order of the tilts.
        aligned : ndarray, shape (..., 2)
            (across, along) the tilt axis, raw px from the middle of the aligned image.

        Returns
        -------
        ndarray, shape (..., 2)
            (x, y) in raw px from the middle of the raw image.
        """
        place = self.tilts[tilt].placement
        turned = _turned(aligned[..., 0], aligned[..., 1], place.rot_deg)
        out = turned + self.shifts[tilt]
        return out if place.local is None else out + self._local(tilt, turned)

    def aligned(self, tilt: int, places: Doubles) -> Doubles:
        """Return where places of the raw image are in the aligned one.

        Parameters
        ----------
        tilt : int
            In the order of the tilts.
        places : ndarray, shape (n, 2)
            (x, y) in raw px from the middle of the image.

        Returns
        -------
        ndarray, shape (n, 2)
            (across, along) the tilt axis, raw px.

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
        """Return the local shifts (..., 2) of a tilt at places before the global shift; 0 where it has none."""
        local = self.tilts[tilt].placement.local
        if local is None:
            return np.zeros_like(before)
        flat = before.reshape(-1, 2)
        return local.at(flat[:, 0], flat[:, 1], self.shape[1], self.shape[0]).T.reshape(before.shape)


def _turned(x: Doubles, y: Doubles, degrees: float | Doubles) -> Doubles:
    """Return (x, y) turned counter-clockwise, (..., 2)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.stack([c * x - s * y, s * x + c * y], axis=-1)
