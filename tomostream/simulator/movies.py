# SPDX-License-Identifier: GPL-3.0-or-later
"""Movies: drifting frames, counted electrons, and the bytes of a TIFF or MRC file."""

from __future__ import annotations

import io
import math

import numpy as np
import scipy.fft
import tifffile
from numpy.typing import NDArray

#: Mean free path of electrons at 300 kV in vitreous ice, in A, with an energy filter.
MEAN_FREE_PATH = 3100.0
#: Detective quantum efficiency of the counting camera at low frequency.
QUANTUM_EFFICIENCY = 0.6


def drift_path(rng: np.random.Generator, frames: int, length: float) -> tuple[tuple[float, float], ...]:
    """Return the displacement in px of every frame from the first: fast at first, then settling, with a random walk on top.

    `length` is the approximate distance in px from the first to the last frame.
    """
    direction = rng.uniform(0, 2 * math.pi)
    speed = np.exp(-np.arange(frames - 1) / max(1.0, frames / 4))
    steps = speed[:, None] / max(float(speed.sum()), 1e-9) * [math.cos(direction), math.sin(direction)] * 0.8
    steps = (steps + rng.normal(scale=0.35 / math.sqrt(max(frames - 1, 1)), size=(frames - 1, 2))) * length
    path = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    return tuple((round(float(x), 4), round(float(y), 4)) for x, y in path)


def electrons_per_pixel(dose: float, pixel_size: float, thickness: float, tilt: float) -> float:
    """Return counts per pixel behind the specimen. `dose` in e/A2 before it; the path in the slab grows with 1 / cos(tilt)."""
    passed = math.exp(-thickness / MEAN_FREE_PATH / math.cos(math.radians(tilt)))
    return dose * pixel_size**2 * QUANTUM_EFFICIENCY * passed


def shifted_image(spectrum: NDArray[np.complex64], shape: tuple[int, int], shift: tuple[float, float],
                  crop: tuple[int, int]) -> NDArray[np.float32]:
    """Return the image of `shape` (rows, columns) behind `spectrum`, shifted by `shift` (x, y) px, cropped about its centre.

    `crop` (rows, columns) must be odd if `shape` is odd, and even if it is even, to have the same centre.
    """
    ky, kx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    phase = np.exp(-2j * np.pi * (kx * shift[0] + ky * shift[1])).astype(np.complex64)
    image = scipy.fft.irfft2(spectrum * phase, s=shape)
    top, left = (shape[0] - crop[0]) // 2, (shape[1] - crop[1]) // 2
    return image[top : top + crop[0], left : left + crop[1]]


def as_counts(frames: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the frames in the smallest type that holds them: uint8 as counting cameras write, else uint16."""
    return frames.astype(np.uint8 if frames.max(initial=0) < 256 else np.uint16)


def encode(frames: NDArray[np.integer], pixel_size: float, file_format: str) -> bytes:
    """Return the bytes of a movie file from frames (n, rows, columns), row 0 at the bottom (MRC's order)."""
    return _tiff(frames, pixel_size) if file_format == "tif" else _mrc(frames, pixel_size)


def _tiff(frames: NDArray[np.integer], pixel_size: float) -> bytes:
    """Return a TIFF, LZW in strips, as SerialEM writes it.

    A TIFF begins with the top row of the picture, an MRC file with the bottom one; SerialEM, IMOD and
    MotionCor all reverse the rows between the two, so that both show the same picture.
    """
    out = io.BytesIO()
    per_centimetre = 1e8 / pixel_size
    with tifffile.TiffWriter(out) as writer:
        for frame in as_counts(frames)[:, ::-1]:
            writer.write(
                np.ascontiguousarray(frame), compression="lzw", rowsperstrip=32, photometric="minisblack",
                metadata=None, contiguous=False, software="tomostream simulate",
                resolution=(per_centimetre, per_centimetre), resolutionunit="CENTIMETER")  # fmt: skip
    return out.getvalue()


def first_frames(data: bytes, count: int) -> bytes:
    """Return the bytes of a TIFF movie made by `encode` as they were when `count` of its frames had been written.

    A TIFF writer appends the directory and the strips of a frame, and only then makes the previous directory point to
    it: a movie that grows by frames always looks like a complete, shorter one.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if count >= len(file.pages):
            return data
        last, following = file.pages[count - 1], file.pages[count]
        pointer = last.offset + 2 + 12 * int.from_bytes(data[last.offset : last.offset + 2], "little")
        return data[:pointer] + bytes(4) + data[pointer + 4 : following.offset]


def _mrc(frames: NDArray[np.integer], pixel_size: float) -> bytes:
    """Return an MRC stack of mode 1 (int16), IMOD's header: 1024 bytes, little-endian (MRC2014)."""
    count, rows, columns = frames.shape
    data = np.ascontiguousarray(frames.clip(0, 32767), dtype="<i2")
    header = np.zeros(256, "<i4")
    real = header.view("<f4")
    header[[0, 1, 2, 3]] = columns, rows, count, 1
    header[[7, 8, 9]] = columns, rows, count
    real[[10, 11, 12]] = columns * pixel_size, rows * pixel_size, count * pixel_size
    real[[13, 14, 15]] = 90.0
    header[[16, 17, 18]] = 1, 2, 3
    real[[19, 20, 21]] = data.min(), data.max(), data.mean()
    header[27] = 20140
    text = bytearray(header.tobytes())
    text[208:216] = b"MAP " + bytes([0x44, 0x44, 0, 0])
    return bytes(text) + data.tobytes()
