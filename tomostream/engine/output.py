# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing results so that a file either is complete under its name or is not there.

Everything a program writes goes through one `Outputs`: each file is made under a hidden temporary name in its own
folder, and only when the ``with`` block ends well are all of them renamed (`os.replace`). An error, Ctrl-C or SIGTERM
(`tomostream.engine.errors`) removes them, and what was there before stays. A signal while they are renamed comes too late:
they all get their names.

>>> with Outputs() as outputs:                                            # doctest: +SKIP
...     outputs.mrc("sum.mrc", image, pixel_size=1.35, label="tomostream-motioncor 0.1.0")
...     volume = outputs.mapped_mrc("vol.mrc", (256, 1024, 1024), pixel_size=10.8, label="...", volume=True)
...     volume[0] = plane                       # a numpy memory map, float32; the header is finished at the end
...     outputs.text("movie-Full.log", lines)

MRC headers hold no date: the same data give the same bytes.
"""

from __future__ import annotations

import atexit
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

from tomostream.engine.errors import uninterrupted
from tomostream.files.errors import EngineError, sentence_of
from tomostream.files.mrc_header import HEADER_BYTES, mrc_header

if TYPE_CHECKING:
    import numpy as np

_CHUNK_ELEMENTS = 1 << 18
"""Statistics are summed by pieces of 1 MiB: in cache, and in the same order whatever the number of threads."""


class Outputs:
    """The files that one run of a program writes: all of them, or none.

    Use it as a context manager. Methods raise `EngineError` with one sentence when the folder does not exist, may not
    be written to, or is full.
    """

    def __init__(self) -> None:
        self._temporary: dict[str, str] = {}
        self._folders: list[str] = []
        self._maps: list[tuple[str, np.memmap, float, str, bool]] = []

    def __enter__(self) -> Outputs:
        atexit.register(self._discard)  # for a signal between the block's end and __exit__
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish_maps()
                with uninterrupted():
                    self._rename()
                    self._folders.clear()
        finally:
            self._maps.clear()
            with uninterrupted():
                self._discard()
            atexit.unregister(self._discard)

    def reserve(self, path: str | os.PathLike[str]) -> str:
        """Return the temporary name under which a result is to be written, and make that file now.

        Made at the start of a run, it shows at once, before any work, that a result could not be written.

        Parameters
        ----------
        path : str
            Final name.

        Raises
        ------
        EngineError
            If the folder does not exist or may not be written to, or the name is that of a folder.
        """
        final = os.path.abspath(path)
        if final not in self._temporary:
            folder, name = os.path.split(final)
            if not os.path.exists(folder):
                raise EngineError(f"{final} cannot be written: the folder {folder} does not exist; make it first")
            if not os.path.isdir(folder):
                raise EngineError(f"{final} cannot be written: {folder} is a file, not a folder; choose another one")
            if os.path.isdir(final):
                raise EngineError(f"{final} cannot be written: it is a folder; give a file name")
            temporary = os.path.join(folder, f".{_shortened(name)}.{uuid.uuid4().hex[:12]}.tmp")
            self._temporary[final] = temporary  # before it is there: a signal in between leaves nothing
            try:
                os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            except OSError as error:
                raise EngineError(f"{sentence_of(error, final)}; choose another folder for the output") from error
        return self._temporary[final]

    def folder(self, path: str | os.PathLike[str]) -> None:
        """Make a folder for some of the files, if it is not there; it is removed with them.

        Parameters
        ----------
        path : str
            Of the folder, whose parent must exist.

        Raises
        ------
        EngineError
            If it cannot be made.
        """
        final = os.path.abspath(path)
        if os.path.isdir(final):
            return
        self._folders.append(final)
        try:
            os.mkdir(final)
        except OSError as error:
            self._folders.remove(final)
            raise EngineError(f"{sentence_of(error, final)}; choose another folder for the output") from error

    def mrc(
        self, path: str | os.PathLike[str], data: np.ndarray, pixel_size: float, label: str, volume: bool = False
    ) -> None:
        """Write an array as an MRC file of mode 2.

        Parameters
        ----------
        path : str
            Final name.
        data : ndarray, shape (ny, nx) or (nz, ny, nx)
            Converted to float32; axis order as in the file, rows from the bottom of the image up.
        pixel_size : float
            A per pixel; 0 where it is not known.
        label : str
            The one label of the header: the program and its version.
        volume : bool
            Whether (nz, ny, nx) is a volume (space group 1) rather than a stack of images (space group 0).
        """
        import numpy as np

        temporary = self.reserve(path)
        array = np.ascontiguousarray(data, dtype="<f4")
        header = mrc_header(array.shape, pixel_size, statistics(array), label, volume)
        try:
            with open(temporary, "wb", buffering=0) as file:
                for piece in (header, array.reshape(-1).data.cast("B")):
                    _write_all(file.fileno(), piece)
        except OSError as error:
            raise EngineError(f"{sentence_of(error, path)}; free some space or choose another folder") from error

    def mapped_mrc(
        self, path: str | os.PathLike[str], shape: tuple[int, ...], pixel_size: float, label: str, volume: bool = True
    ) -> np.memmap:
        """Return a memory map of float32 zeros that becomes an MRC file.

        The space is taken now: a memory map on a full disk would kill the process later, silently.

        Parameters
        ----------
        path, pixel_size, label, volume
            As for `mrc`.
        shape : tuple of int
            (ny, nx) or (nz, ny, nx).

        Raises
        ------
        EngineError
            If the disk has too little space.
        """
        import numpy as np

        temporary = self.reserve(path)
        size = HEADER_BYTES + 4 * int(np.prod(shape, dtype=np.int64))
        try:
            with open(temporary, "r+b") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
        except OSError as error:
            need = f"{size / 2**30:.2f} GiB are needed"
            raise EngineError(f"{sentence_of(error, path)} ({need}); free some space") from error
        mapped = np.memmap(temporary, dtype="<f4", mode="r+", offset=HEADER_BYTES, shape=shape)
        self._maps.append((temporary, mapped, pixel_size, label, volume))
        return mapped

    def text(self, path: str | os.PathLike[str], content: str) -> None:
        """Write a text file (UTF-8, lines ending with a line feed).

        Parameters
        ----------
        path : str
            Final name.
        content : str
        """
        temporary = self.reserve(path)
        try:
            with open(temporary, "w", encoding="utf-8", newline="\n") as file:
                file.write(content)
        except OSError as error:
            raise EngineError(f"{sentence_of(error, path)}; free some space or choose another folder") from error

    def _finish_maps(self) -> None:
        """Write the headers of the memory-mapped files, with the statistics of what is in them now."""
        for temporary, mapped, pixel_size, label, volume in self._maps:
            header = mrc_header(mapped.shape, pixel_size, statistics(mapped), label, volume)
            mapped.flush()
            with open(temporary, "r+b") as file:
                file.write(header)

    def _rename(self) -> None:
        """Give every file its name; the one reserved first, the main result, last: once it is there, all are.

        What was reserved and never written is taken back: an empty file is no result.
        """
        for final, temporary in reversed(list(self._temporary.items())):
            try:
                if os.path.getsize(temporary) == 0:
                    os.unlink(temporary)
                else:
                    os.replace(temporary, final)
            except OSError as error:
                raise EngineError(sentence_of(error, final)) from error
            del self._temporary[final]

    def _discard(self) -> None:
        """Remove what has no final name yet, and the folders made for it."""
        for temporary in self._temporary.values():
            with suppress(OSError):  # not there yet, or its folder is gone: nothing can be done, and the cause is reported
                os.unlink(temporary)
        self._temporary.clear()
        for folder in reversed(self._folders):
            with suppress(OSError):  # somebody else put something into it
                os.rmdir(folder)
        self._folders.clear()


def check_room(path: str | os.PathLike[str], size: int) -> None:
    """Refuse to start where the disk has too little space, as far as it can be known.

    Parameters
    ----------
    path : str
        Of the result.
    size : int
        Bytes needed.

    Raises
    ------
    EngineError
    """
    folder = os.path.dirname(os.path.abspath(path))
    try:
        disk = os.statvfs(folder)
    except (OSError, AttributeError):
        return
    free = disk.f_bavail * disk.f_frsize
    if free < size:
        raise EngineError(
            f"{os.fspath(path)} needs {size / 2**30:.2f} GiB and {folder} has {free / 2**30:.2f} GiB free; free some space, or "
            "choose another folder or a smaller volume")


def _shortened(name: str) -> str:
    """Return as much of a name as leaves the temporary one short enough for a file system (255 bytes)."""
    return name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of `data`; one call of `os.write` takes at most 2 GiB and may write less than asked."""
    view = memoryview(data)
    while view.nbytes:
        view = view[os.write(descriptor, view[: 1 << 30]):]


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an array in pieces of `_CHUNK_ELEMENTS`."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK_ELEMENTS):
        yield flat[start:start + _CHUNK_ELEMENTS]


Statistics = tuple[float, float, float, float]
"""Minimum, maximum, mean and standard deviation."""


def statistics(array: np.ndarray) -> Statistics:
    """Return minimum, maximum, mean and standard deviation of an array (the header's dmin, dmax, dmean, rms).

    Parameters
    ----------
    array : ndarray
        Of real numbers; zeros are returned for an empty one.

    Notes
    -----
    Sums are in double precision, two passes in one: each piece's deviations are taken from its own mean (Chan, Golub and LeVeque,
    1979), so that a large mean does not cost the deviation its digits.

    Examples
    --------
    >>> import numpy as np
    >>> statistics(np.array([1.0, 2.0, 3.0], np.float32))[:3]
    (1.0, 3.0, 2.0)
    """
    import numpy as np

    low, high, count, mean, squares = np.inf, -np.inf, 0, 0.0, 0.0
    for piece in _pieces(array):
        low, high = min(low, float(piece.min())), max(high, float(piece.max()))
        own_mean = float(piece.mean(dtype=np.float64))
        deviation = piece - np.float32(own_mean)
        own_squares = float(np.dot(deviation, deviation))
        difference, total = own_mean - mean, count + piece.size
        mean += difference * piece.size / total
        squares += own_squares + difference * difference * count * piece.size / total
        count = total
    if count == 0:
        return 0.0, 0.0, 0.0, 0.0
    return low, high, mean, (squares / count) ** 0.5


