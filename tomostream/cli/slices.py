# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of the central slices of tomograms, for the end of a demo."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Thickness over which slices are averaged, because single slices look like noise.
SLICE_A = 100.0


def central_slice(path: str) -> NDArray[np.uint8]:
    """Return the central XY slice of a tomogram (file order z, y, x), the mean of about 100 A, as uint8, density dark."""
    import mrcfile
    import numpy as np

    from tomostream.files.grey import grey_range, to_bytes

    with mrcfile.mmap(path, mode="r", permissive=True) as mrc:
        data, pixel = mrc.data, float(mrc.voxel_size.x) or 1.0
        half = max(1, round(0.5 * SLICE_A / pixel))
        middle = data.shape[0] // 2
        image = np.asarray(data[max(0, middle - half):middle + half], dtype=np.float32).mean(axis=0)
    margin = [max(1, length // 8) for length in image.shape]
    inner = image[margin[0]:-margin[0], margin[1]:-margin[1]]
    return to_bytes(image, grey_range(inner))


def picture(tomograms: Sequence[str], target: str, side: int = 700) -> str:
    """Write central slices side by side as a PNG; return its path."""
    from PIL import Image, ImageDraw

    tiles = []
    for path in tomograms:
        image = Image.fromarray(central_slice(path))
        scale = side / max(image.size)
        tile = image.resize((round(image.width * scale), round(image.height * scale)), Image.LANCZOS)
        ImageDraw.Draw(tile).text((8, 8), os.path.splitext(os.path.basename(path))[0], fill=255)
        tiles.append(tile)
    sheet = Image.new("L", (sum(tile.width for tile in tiles) + 8 * (len(tiles) - 1), max(tile.height for tile in tiles)), 255)
    left = 0
    for tile in tiles:
        sheet.paste(tile, (left, 0))
        left += tile.width + 8
    sheet.save(target)
    return target
