# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks between processes, as files that the kernel frees when their holder is gone.

One process at a run, one writer of a page, one program on a GPU slot, one writer at a time of a file that is read, changed
and written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Iterator

#: What file systems answer that have no such locks (Lustre mounted without them).
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
#: Neither a link nor a pipe that somebody laid in a folder for temporary files may send us elsewhere or block us.
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: How long the writer of a small file waits for another one.
WRITER_SECONDS = 10.0


class Lock:
    """A lock that is held, or not yet: `take` tries once, `close` gives it back (as does the end of the process)."""

    def __init__(self, path: str) -> None:
        """Open the lock file, making it if it is not there; its folder must be.

        Raises
        ------
        OSError : it cannot be opened, or is not a regular file.
        """
        self.path = path
        self._file: int | None = _open(path)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor, for a program that is to inherit the lock."""
        if self._file is None:
            raise ValueError(f"the lock {self.path} was given back")
        return self._file

    def take(self) -> bool:
        """Take the lock now; False when another has it. A disk that knows no locks lets everybody."""
        try:
            fcntl.flock(self.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in _NO_LOCKS
        return True

    def sign(self) -> None:
        """Write our process id into the file, for people. One that cannot be written (disk full) costs nothing."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.fileno(), 0)
            os.pwrite(self.fileno(), str(os.getpid()).encode(), 0)

    def close(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _open(path: str) -> int:
    """Open a lock file, also one that another user made: reading is enough to lock, and the kernel may forbid more."""
    try:
        descriptor = os.open(path, os.O_RDWR | _SAFELY)
    except FileNotFoundError:
        descriptor = _make(path)
    except PermissionError:
        descriptor = os.open(path, os.O_RDONLY | _SAFELY)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _not_a_lock(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_a_lock(path)
    return descriptor


def _make(path: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFELY, 0o644)
    except FileExistsError:             # another process was faster
        return os.open(path, os.O_RDONLY | _SAFELY)
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, 0o644)    # whatever the umask: other users lock it too
    return descriptor


def _not_a_lock(path: str) -> OSError:
    return OSError(errno.EINVAL, "is not a regular file, so it cannot be a lock: remove it", path)


def is_held(path: str) -> bool:
    """Tell whether a process holds the lock of a file now; it is not made for that."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _SAFELY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _NO_LOCKS
    finally:
        os.close(descriptor)
    return False


def hold(path: str, seconds: float) -> Lock | None:
    """Take the lock of a file and write our process id into it.

    Parameters
    ----------
    path : made if it is not there. Its folder must be.
    seconds : for how long to wait for whoever holds it.

    Returns
    -------
    The lock: whoever closes it, or ends, gives it back. None when it was not to be had.

    Raises
    ------
    OSError : the file cannot be opened.
    """
    lock, pause, end = Lock(path), threading.Event(), time.monotonic() + seconds
    while not lock.take():
        if time.monotonic() >= end:
            lock.close()
            return None
        pause.wait(0.1)
    lock.sign()
    return lock


@contextlib.contextmanager
def writing(path: str, seconds: float = WRITER_SECONDS) -> Iterator[None]:
    """Be the only one who reads, changes and writes a file; the lock lies beside it.

    Raises
    ------
    OSError : another process is at it for longer than `seconds`, or the lock file cannot be made.
    """
    name = f"{path}.lock"
    lock = hold(name, seconds)
    if lock is None:
        raise TimeoutError(f"process {holder(name) or '(number unknown)'} has been writing it for {seconds:g} s")
    with lock:
        yield


def holder(path: str) -> int | None:
    """Return the process id of who took a lock last; None where nobody did."""
    try:
        with open(path, encoding="utf-8") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
