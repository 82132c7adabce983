# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks between processes, as files whose lock the kernel releases when its holder is gone.

One process per run, one writer of a page, one program per GPU slot, one writer at a time of a file that is read, changed
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

#: Errors of file systems that have no such locks (Lustre mounted without them).
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
#: No link or pipe that somebody put into a folder for temporary files may redirect or block us.
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: How long the writer of a small file waits for another one.
WRITER_SECONDS = 10.0


class Lock:
    """A lock that is held, or not yet: `take` tries once, `close` releases it (as does the end of the process)."""

    def __init__(self, path: str) -> None:
        """Open the lock file, creating it if necessary; its folder must exist.

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
        """Return the descriptor, for a program that should inherit the lock."""
        if self._file is None:
            raise ValueError(f"the lock {self.path} was released")
        return self._file

    def take(self) -> bool:
        """Take the lock now; return False if another process has it. A disk without locks lets everybody have it."""
        try:
            fcntl.flock(self.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in _NO_LOCKS
        return True

    def sign(self) -> None:
        """Write our process id into the file, for people. If that fails (disk full), nothing is lost."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.fileno(), 0)
            os.pwrite(self.fileno(), str(os.getpid()).encode(), 0)

    def close(self) -> None:
        """Release the lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _open(path: str) -> int:
    """Open a lock file, even one of another user: reading is enough to lock, and the kernel may forbid more."""
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
    """Tell whether a process holds the lock of a file now, without creating the file."""
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
    path : created if necessary. Its folder must exist.
    seconds : how long to wait for its holder.

    Returns
    -------
    The lock, which is released when it is closed or the process ends. None if it could not be taken.

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
def writing(path: str) -> Iterator[None]:
    """Hold the lock for reading, changing and writing a small file; the lock file is beside it.

    Raises
    ------
    OSError : another process holds it for longer than `WRITER_SECONDS`, or the lock file cannot be made.
    """
    name = f"{path}.lock"
    lock = hold(name, WRITER_SECONDS)
    if lock is None:
        raise TimeoutError(f"process {holder(name) or '(number unknown)'} has been writing it for {WRITER_SECONDS:g} s")
    with lock:
        yield


def holder(path: str) -> int | None:
    """Return the process id of the last holder of a lock; None if there was none."""
    try:
        with open(path, encoding="utf-8") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
