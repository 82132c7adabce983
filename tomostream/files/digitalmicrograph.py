# SPDX-License-Identifier: GPL-3.0-or-later
"""DigitalMicrograph images, ``.dm3`` and ``.dm4``: the format of gain references from Gatan cameras."""

from __future__ import annotations

import os
import struct
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomostream.files.errors import BadFileError, sentence_of

EXTENSIONS = (".dm3", ".dm4")
#: The version, then the length of what follows (4 or 8 bytes), then 1 if the data are little-endian.
_START = {3: ">III", 4: ">IQI"}
_LITTLE_ENDIAN = 1


def read_dm(path: str) -> NDArray[Any]:
    """Read the image of a DigitalMicrograph file, not its thumbnail: (rows, columns), the top row first.

    Raises
    ------
    BadFileError
        If the file is missing or damaged, or holds anything but single-channel images.
    """
    _check_start(path)
    from ncempy.io import dm  # with h5py, which takes half a second

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # counters overflow in a damaged file
            with dm.fileDM(path) as file:
                image = np.asarray(file.getDataset(0)["data"])
    except OSError as error:
        raise BadFileError(f"{path} cannot be read ({' '.join(str(error).split())[:200]}); copy it again") from error
    except MemoryError:
        raise
    except Exception as error:  # its reader may raise anything for a damaged file
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadFileError(f"{path} is damaged, or holds no image ({what}); copy it again") from error
    if image.dtype.kind not in "iuf":
        raise BadFileError(f"{path} holds pixels of type {image.dtype}; give an image of real numbers")
    return image


def _check_start(path: str) -> None:
    """Refuse files of any other kind before the reader maps them."""
    try:
        with open(path, "rb") as file:
            start, size = file.read(16), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise BadFileError(f"{sentence_of(error, path)}; check the path") from error
    version = struct.unpack_from(">I", start)[0] if len(start) == 16 else 0
    if version not in _START or struct.unpack_from(_START[version], start)[2] != _LITTLE_ENDIAN:
        raise BadFileError(f"{path} is not a .dm3 or .dm4 file of DigitalMicrograph ({size} bytes); copy it again")
