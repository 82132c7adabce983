# SPDX-License-Identifier: GPL-3.0-or-later
"""The bit stream of an EER frame: electron events as run lengths, counted into an image.

A frame is a stream of codes: `skip_bits` say how many pixels to pass over, then `horizontal + vertical` bits say where
in the pixel the electron arrived. A skip of all ones passes over that many pixels without an event; after it the next
code follows at once in files of 7 bits (compression 65001) and of any number (65002), while those of 8 bits (65000)
have the position bits all the same. The highest bit of each position is inverted (they are signed numbers about the
pixel's centre). Layout: the format's documentation by Thermo Fisher Scientific; Guo et al., IUCrJ 7 (2020).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tomostream.engine import numba_cache

numba_cache.prepare()

import numba as nb  # noqa: E402 - the cache's place must be known before


@nb.njit(inline="always")
def _word(stream, bit):  # type: ignore[no-untyped-def]
    """Return the 25 or more bits from `bit` on, lowest first."""
    byte = np.uint64(bit) >> np.uint64(3)  # unsigned: no index is looked at for being negative, and four loads become one
    word = (
        np.uint32(stream[byte])
        | (np.uint32(stream[byte + np.uint64(1)]) << np.uint32(8))
        | (np.uint32(stream[byte + np.uint64(2)]) << np.uint32(16))
        | (np.uint32(stream[byte + np.uint64(3)]) << np.uint32(24))
    )
    return word >> np.uint32(bit & 7)


@nb.njit(nogil=True, cache=True)
def add_events(
    stream: NDArray[np.uint8],
    size: int,
    skip_bits: int,
    horizontal_bits: int,
    vertical_bits: int,
    always_position: bool,
    upsampling_bits: int,
    width: int,
    counts: NDArray,
) -> int:
    """Add the electrons of one frame to `counts`.

    Parameters
    ----------
    stream : ndarray of uint8
        The frame's bytes, followed by at least 4 more (any value).
    size : int
        Bytes of the frame.
    skip_bits, horizontal_bits, vertical_bits : int
        Widths of the fields: 1 to 16, and 0 to 4 each but no fewer than `upsampling_bits`. They are not checked here.
    always_position : bool
        Whether position bits follow a skip of all ones too.
    upsampling_bits : int
        0 for the camera's pixels, 1 for twice, 2 for four times as many in each direction.
    width : int
        Columns of the camera.
    counts : ndarray, shape (rows << upsampling_bits, columns << upsampling_bits)
        Added to in place; row 0 is the first row of the stream.

    Returns
    -------
    int
        Pixels passed when the stream ended: fewer than the camera has if the frame is damaged.
    """
    skip_mask, position_bits = (1 << skip_bits) - 1, horizontal_bits + vertical_bits
    horizontal_mask, vertical_mask = (1 << horizontal_bits) - 1, (1 << vertical_bits) - 1
    flip_x, flip_y = (1 << horizontal_bits) >> 1, (1 << vertical_bits) >> 1
    pixels, flat = (counts.shape[0] >> upsampling_bits) * width, counts.reshape(-1)
    bits, bit, pixel = size * 8, 0, 0
    row, row_end = 0, width
    while bit + skip_bits <= bits:
        word = _word(stream, bit)
        skip = int(word) & skip_mask
        # 0 or 1 is added, for which of them is as good as random: a branch would be mispredicted at every other code
        event = int(skip != skip_mask)
        bit += skip_bits + position_bits * (event | int(always_position))
        pixel += skip
        if pixel >= pixels or bit > bits:
            break
        while pixel >= row_end:
            row += 1
            row_end += width
        position = int(word) >> skip_bits
        x = ((position & horizontal_mask) ^ flip_x) >> (horizontal_bits - upsampling_bits)
        y = (((position >> horizontal_bits) & vertical_mask) ^ flip_y) >> (vertical_bits - upsampling_bits)
        line = ((row << upsampling_bits) | y) * (width << upsampling_bits)
        flat[np.uint64(line + (((pixel - row_end + width) << upsampling_bits) | x))] += event
        pixel += event
    return pixel
