# SPDX-License-Identifier: GPL-3.0-or-later
"""Movies on disk: TIFF (LZW, zip, none), EER and MRC, read frame by frame, and refused in words when damaged.

A reader has `path`, `count` (frames in the file), `shape` (rows, columns) of a frame and `read(first, number)`, which
returns the sum of `number` frames from `first` on (0-based) as an array (rows, columns) with row 0 at the bottom; it
may be called from several threads.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tomostream.engine.frames.tiffs import DAMAGED, check_chain_end, check_inside, check_size, guarded, open_tiff, shown
from tomostream.files.errors import EngineError
from tomostream.files.mrc import MrcStack, open_mrc
from tomostream.files.tiff import EER_COMPRESSIONS, imagej_frames, is_reduced

_EER_BITS = {65000: (8, 2, 2), 65001: (7, 2, 2), 65002: (7, 2, 2)}
_MAX_SKIP_BITS, _MAX_POSITION_BITS = 16, 4
"""A code must lie within the 25 bits that are read at a time."""
_SKIP_BITS_TAG, _HORIZONTAL_BITS_TAG, _VERTICAL_BITS_TAG = 65007, 65008, 65009


class Movie(Protocol):
    """What every reader offers: `path`, `count` of frames and the `shape` (rows, columns) of one."""

    path: str
    count: int
    shape: tuple[int, int]

    def read(self, first: int, number: int) -> NDArray:
        """Return the sum of some frames; may be called from several threads.

        Parameters
        ----------
        first, number : int
            `number` frames from `first` on, from 0.

        Returns
        -------
        ndarray, shape (rows, columns)
            Row 0 is the bottom of the picture; of the file's type, or wide enough for the sum.

        Raises
        ------
        EngineError
            If a frame is damaged or cannot be read.
        """

    def close(self) -> None:
        """Close the file."""


def open_movie(path: str, kind: str, upsampling: int = 1) -> Movie:
    """Open a movie.

    Parameters
    ----------
    path : str
    kind : {"mrc", "tiff", "eer"}
        What the command line says it is; the file must agree.
    upsampling : {1, 2, 4}
        EER only: pixels of the result in each direction for a pixel of the camera.

    Returns
    -------
    Movie
        To be closed by the caller.

    Raises
    ------
    EngineError
        If the file is missing, is not of that kind, or is damaged.
    """
    if not os.path.exists(path):
        raise EngineError(f"{path} does not exist; check the path")
    if os.path.isdir(path):
        raise EngineError(f"{path} is a folder; give one movie (folders, -Serial 1, are not processed)")
    if kind == "mrc":
        return MrcMovie(open_mrc(path))
    return EerMovie(path, upsampling) if kind == "eer" else TiffMovie(path)


def total_type(kind: np.dtype[Any], number: int) -> np.dtype[Any]:
    """Return the smallest type that is sure to hold the sum of frames (float32 stays float32).

    Parameters
    ----------
    kind : dtype
        Of the frames.
    number : int
        How many are added.

    Examples
    --------
    >>> str(total_type(np.dtype(np.uint8), 256)), str(total_type(np.dtype(np.uint8), 257)), str(total_type(np.dtype("f4"), 9))
    ('uint16', 'uint32', 'float32')
    """
    if kind.kind == "f":
        return np.dtype("f4")
    return np.dtype(f"{kind.kind}{2 if kind.itemsize == 1 and number <= 256 else 4}")


def total(frames: list[NDArray]) -> NDArray:
    """Return the sum of frames in the smallest type that is sure to hold it (float32 stays float32).

    Parameters
    ----------
    frames : list of ndarray, shape (rows, columns)
        Of one type; one frame is returned as it is.
    """
    if len(frames) == 1:
        return frames[0]
    out = np.zeros(frames[0].shape, total_type(frames[0].dtype, len(frames)))
    for frame in frames:
        np.add(out, frame, out=out, casting="unsafe")
    return out


class MrcMovie:
    """An MRC stack."""

    def __init__(self, stack: MrcStack) -> None:
        self._stack = stack
        self.path, self.count, self.shape = stack.path, stack.shape[0], stack.shape[1:]

    def read(self, first: int, number: int) -> NDArray:
        """See `Movie.read`."""
        return total([self._native(self._stack.section(first + index)) for index in range(number)])

    @staticmethod
    def _native(section: NDArray) -> NDArray:
        """Return a section in this machine's byte order, half floats as float32, in which arithmetic is fast."""
        if section.dtype == np.float16:
            return section.astype(np.float32)
        return np.asarray(section, dtype=section.dtype.newbyteorder("="))

    def close(self) -> None:
        """Do nothing: the file is opened for each frame."""


class TiffMovie:
    """A TIFF file, one page a frame."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = open_tiff(path)
        try:
            self._pages = self._checked_pages()
        except BaseException:
            self._file.close()
            raise
        self.shape: tuple[int, int] = tuple(self._pages[0].shape[-2:])
        self._behind = self._behind_the_only_page()
        self.count = self._behind or len(self._pages)

    def _behind_the_only_page(self) -> int:
        """Return how many frames lie one behind another where there is one page for all of them; 0 where every one has its
        own."""
        page, count = self._pages[0], 0
        if len(self._file.pages) == 1 and page.compression == 1:
            count = imagej_frames(str(page.description))
        if count < 2:
            return 0
        starts, sizes = list(page.dataoffsets), list(page.databytecounts)
        whole = all(start + size == after for start, size, after in zip(starts, sizes, starts[1:], strict=False))
        if not whole or sum(sizes) != page.dtype.itemsize * page.shape[0] * page.shape[1]:
            raise EngineError(f"{self.path}: {count} frames in one directory, in pieces; write one directory a frame")
        if starts[0] + count * sum(sizes) > os.path.getsize(self.path):
            raise EngineError(f"{self.path}: its {count} frames reach beyond the end of the file; {DAMAGED}")
        return count

    def _checked_pages(self) -> list[Any]:
        """Return the pages that are frames, after checking that they are equal, grey and whole."""
        pages = guarded(self.path, lambda: [self._file.pages[i] for i in range(len(self._file.pages))])
        pages = guarded(self.path, lambda: [page for page in pages if not is_reduced(int(page.subfiletype or 0))])
        if not pages or len(pages[0].shape) != 2:
            raise EngineError(f"{self.path} holds no image of one channel; give a movie of grey frames")
        first = pages[0]
        check_size(self.path, first)
        if first.compression in EER_COMPRESSIONS:
            raise EngineError(f"{self.path} is an EER file; give it as -InEer")
        if first.dtype is None or first.dtype.kind not in "biuf":
            raise EngineError(f"{self.path} holds pixels of type {first.dtype}; give counts (integers or real numbers)")
        size = os.path.getsize(self.path)
        for index, page in enumerate(pages):
            if page.shape != first.shape or page.dtype != first.dtype:
                raise EngineError(
                    f"{self.path}: frame {index + 1} is {shown(page.shape)} {page.dtype}, the first {first.shape} "
                    f"{first.dtype}; give a movie of equal frames")
            check_inside(self.path, page, index, size)
        check_chain_end(self.path, self._file)
        return pages

    def read(self, first: int, number: int) -> NDArray:
        """See `Movie.read`."""
        return total([self._frame(first + index) for index in range(number)])

    def _frame(self, index: int) -> NDArray:
        """Return one frame, row 0 at the bottom; bits as bytes."""
        if self._behind:
            return self._frame_behind(index)
        page = self._pages[index]
        frame = guarded(f"{self.path}: frame {index + 1}", lambda: self._decoded(page))[::-1]
        if frame.shape != self.shape:
            raise EngineError(f"{self.path}: frame {index + 1} cannot be decoded; {DAMAGED}")
        return frame.view(np.uint8) if frame.dtype == bool else frame

    def _decoded(self, page: Any) -> NDArray:
        """Return the image of a page as it lies in the file. One that is compressed is decoded by libtiff, in half the time."""
        if page.is_contiguous or page.bitspersample < 8:
            image: NDArray = page.asarray(maxworkers=1)
            return image
        import imagecodecs

        image = imagecodecs.tiff_decode(self._bytes, index=page.index)
        return image

    @cached_property
    def _bytes(self) -> bytes:
        """The whole file, for libtiff. It is not mapped: see `MrcStack`."""
        return Path(self.path).read_bytes()

    def _frame_behind(self, index: int) -> NDArray:
        """Return frame `index` of those that share a page."""
        page = self._pages[0]
        kind = np.dtype(self._file.byteorder + page.dtype.str[1:])
        count = page.shape[0] * page.shape[1]
        start = int(page.dataoffsets[0]) + index * count * kind.itemsize
        raw = np.fromfile(self.path, kind, count, offset=start)
        if raw.size < count:
            raise EngineError(f"{self.path}: frame {index + 1} cannot be read; {DAMAGED}")
        return raw.reshape(page.shape)[::-1].astype(kind.newbyteorder("="))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class EerMovie:
    """An EER file: electron events, counted into images."""

    def __init__(self, path: str, upsampling: int) -> None:
        from tomostream.engine.frames import eer  # numba: half a second that other movies need not pay

        self._add_events = eer.add_events
        self.path = path
        self._upsampling_bits = {1: 0, 2: 1, 4: 2}[upsampling]
        self._file = open_tiff(path)
        try:
            self._pages = self._checked_pages()
        except BaseException:
            self._file.close()
            raise
        self.count = len(self._pages)
        rows, self._columns = (int(n) for n in self._pages[0].shape[-2:])
        self.shape = (rows * upsampling, self._columns * upsampling)

    def _checked_pages(self) -> list[Any]:
        """Return the pages of events; a file may hold an ordinary image besides."""
        pages = guarded(self.path, lambda: [self._file.pages[i] for i in range(len(self._file.pages))])
        events = guarded(self.path, lambda: [page for page in pages if int(page.compression) in EER_COMPRESSIONS])
        if not events:
            raise EngineError(f"{self.path} holds no electron events; if it is an ordinary TIFF, give it as -InTiff")
        size, first = os.path.getsize(self.path), events[0]
        check_size(self.path, first, 1 << self._upsampling_bits)
        for index, page in enumerate(events):
            if page.shape != first.shape:
                raise EngineError(f"{self.path}: frame {index + 1} is {shown(page.shape)}, the first {first.shape}; {DAMAGED}")
            check_inside(self.path, page, index, size)
            self._bits(page, index)
        check_chain_end(self.path, self._file)
        return events

    def read(self, first: int, number: int) -> NDArray:
        """See `Movie.read`. Counts are uint8, or uint16 where more than 255 frames are summed."""
        counts = np.zeros(self.shape, np.uint8 if number < 256 else np.uint16 if number < 1 << 16 else np.uint32)
        for index in range(first, first + number):
            self._add(index, counts)
        return counts

    def _add(self, index: int, counts: NDArray) -> None:
        """Add the events of one frame to `counts`."""
        page = self._pages[index]
        compression = int(page.compression)
        bits = self._bits(page, index)
        stream, size = self._stream(page, index)
        passed = self._add_events(
            stream, size, *bits, compression == 65000, self._upsampling_bits, self._columns, counts)  # fmt: skip
        rows = counts.shape[0] >> self._upsampling_bits
        if passed < rows * self._columns:
            raise EngineError(f"{self.path}: frame {index + 1} ends early ({passed} pixels); {DAMAGED}")

    def _bits(self, page: Any, index: int) -> tuple[int, int, int]:
        """Return the widths of the fields of a code, which compiled code relies on: skip, horizontal and vertical position."""
        compression = int(page.compression)
        skip, horizontal, vertical = _EER_BITS[compression]
        if compression == 65002:
            tags = (_SKIP_BITS_TAG, skip), (_HORIZONTAL_BITS_TAG, horizontal), (_VERTICAL_BITS_TAG, vertical)
            values = [page.tags.valueof(tag, default) for tag, default in tags]
            limits = (range(1, _MAX_SKIP_BITS + 1), *[range(_MAX_POSITION_BITS + 1)] * 2)
            if not all(isinstance(value, int) and value in limit for value, limit in zip(values, limits, strict=True)):
                raise EngineError(f"{self.path}: frame {index + 1} has codes of {values[0]} + {values[1]} + {values[2]} bits, "
                                  f"which are not read; {DAMAGED}")
            skip, horizontal, vertical = values
        if min(horizontal, vertical) < self._upsampling_bits:
            most = min(horizontal, vertical) + 1
            raise EngineError(f"{self.path} holds {1 << horizontal} x {1 << vertical} places in a pixel, too few for "
                              f"{1 << self._upsampling_bits} times as many pixels in each direction; "
                              f"give -EerSampling {most}{' or less' if most > 1 else ''}")
        return skip, horizontal, vertical

    def _stream(self, page: Any, index: int) -> tuple[NDArray[np.uint8], int]:
        """Return the bytes of a frame, followed by a few zeros, and how many they are."""
        counts, offsets = page.databytecounts, page.dataoffsets
        size = int(sum(counts))
        if size > os.path.getsize(self.path):
            raise EngineError(f"{self.path}: frame {index + 1} has more data than the file; {DAMAGED}")
        stream = np.zeros(size + 8, np.uint8)
        start = 0
        for offset, count in zip(offsets, counts, strict=True):
            part = os.pread(self._file.filehandle.fileno(), int(count), int(offset))
            if len(part) != count:
                raise EngineError(f"{self.path}: frame {index + 1} cannot be read; {DAMAGED}")
            stream[start:start + len(part)] = np.frombuffer(part, np.uint8)
            start += len(part)
        return stream, size

    def close(self) -> None:
        """Close the file."""
        self._file.close()
