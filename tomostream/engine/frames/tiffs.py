# SPDX-License-Identifier: GPL-3.0-or-later
"""TIFF files as cameras write them (EER files and gains among them), opened and checked: what is damaged is refused in words."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from tomostream.files.errors import EngineError, sentence_of

_MAX_SIDE, _MAX_PIXELS = 1 << 17, 1 << 30
"""No camera has more: what claims so would take all memory before it is found to be damaged."""
DAMAGED = "it is truncated or damaged; wait for the copy to finish, or copy it again"


def guarded(what: str, read: Callable[[], Any]) -> Any:
    """Return what `read` returns; whatever a damaged TIFF makes the libraries raise becomes one sentence.

    Parameters
    ----------
    what : str
        What is read, the start of the sentence.
    read : callable
        Takes nothing.

    Raises
    ------
    EngineError
        For any error but those of memory.
    """
    try:
        return read()
    except OSError as error:
        raise EngineError(f"{sentence_of(error, what)}; {DAMAGED}") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes tifffile and its decoders raise nearly anything
        raise EngineError(f"{what} cannot be decoded ({error}); {DAMAGED}") from error


def open_tiff(path: str) -> Any:
    """Open a TIFF (or EER, or .gain) with tifffile, quietly; pages may then be read from several threads.

    Parameters
    ----------
    path : str

    Returns
    -------
    tifffile.TiffFile
        To be closed by the caller.

    Raises
    ------
    EngineError
        If it cannot be opened or is no TIFF.
    """
    import logging

    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what matters is raised as one sentence
    try:
        file = tifffile.TiffFile(path)
    except OSError as error:
        raise EngineError(f"{sentence_of(error, path)}; check the path") from error
    except MemoryError:
        raise
    except Exception as error:  # see `guarded`
        raise EngineError(f"{path} is not a readable TIFF ({error}); {DAMAGED}") from error
    file.filehandle.set_lock(True)
    return file


def check_size(path: str, page: Any, upsampling: int = 1) -> None:
    """Refuse a page that is not an image of a size that a camera can have.

    Parameters
    ----------
    path : str
        For the message.
    page : tifffile.TiffPage
    upsampling : int
        Pixels of the frames along each side for one of the page.

    Raises
    ------
    EngineError
    """
    shape = page.shape
    possible = len(shape) == 2 and all(isinstance(n, int) and 0 < n * upsampling <= _MAX_SIDE for n in shape)
    if not possible or shape[0] * shape[1] * upsampling**2 > _MAX_PIXELS:
        raise EngineError(f"{path} holds images of {shown(shape)} pixels, which no camera has; {DAMAGED}")


def shown(shape: tuple[Any, ...]) -> str:
    """Return a shape for a message, whatever a damaged file made of it."""
    text = str(tuple(shape))
    return text if len(text) < 60 else f"{text[:60]} ..."


def check_inside(path: str, page: Any, index: int, size: int) -> None:
    """Refuse a page whose data reach beyond the end of the file: decoders would fill up with zeros.

    Parameters
    ----------
    path : str
        For the message.
    page : tifffile.TiffPage
    index : int
        Of the frame, from 0.
    size : int
        Of the file, bytes.

    Raises
    ------
    EngineError
    """
    if len(page.dataoffsets) != len(page.databytecounts):
        raise EngineError(f"{path}: frame {index + 1} has {len(page.dataoffsets)} pieces of {len(page.databytecounts)} sizes; "
                          f"{DAMAGED}")
    pieces = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if not all(isinstance(number, (int, np.integer)) and number >= 0 for piece in pieces for number in piece):
        raise EngineError(f"{path}: frame {index + 1} has pieces at no places; {DAMAGED}")
    ends = [int(offset) + int(count) for offset, count in pieces]
    if not ends or max(ends) > size:
        raise EngineError(f"{path}: frame {index + 1} reaches beyond the end of the file; {DAMAGED}")


def check_chain_end(path: str, file: Any) -> None:
    """Refuse a file whose list of pages does not end where it should: the frames that follow were not written yet.

    Parameters
    ----------
    path : str
        For the message.
    file : tifffile.TiffFile

    Raises
    ------
    EngineError
    """
    position = file.pages.next_page_offset
    if not position:
        return
    layout = file.tiff.offsetformat
    raw = os.pread(file.filehandle.fileno(), struct.calcsize(layout), int(position))
    if len(raw) < struct.calcsize(layout) or struct.unpack(layout, raw)[0] != 0:
        raise EngineError(f"{path} has more frames than can be read ({len(file.pages)} can); {DAMAGED}")
