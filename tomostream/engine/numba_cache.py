# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the machine code that numba compiles is kept.

Beside an installed package is often no place to write (a shared Scipion installation, a container), and then numba
refuses to cache or recompiles at every start. `prepare` names a folder that belongs to the user, before numba is
imported. numba itself makes it safe for several processes: it writes an entry under a temporary name and renames it,
and its key holds the processor, so that a home folder shared by unlike machines does no harm. What numba does not do: it
replaces the code of a former version in two steps, so each version of the loops gets a folder of its own here; and it
fails on files that a crash of the machine cut short, so these are removed.

Call it in the module that imports numba, before that import:

>>> from tomostream.engine import numba_cache       # doctest: +SKIP
>>> numba_cache.prepare()                           # doctest: +SKIP
>>> import numba                                    # doctest: +SKIP
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"
COMPILED = ("align/kernels.py", "frames/eer.py", "gold/kernels.py", "recon/kernels.py", "recon/spectral_kernels.py")
"""The modules whose loops are compiled."""
_ROOM = 1 << 20
"""Bytes that all compiled code takes, twice over."""


def prepare() -> str:
    """Choose the folder, make it, name it to numba (`NUMBA_CACHE_DIR`), and return it.

    A folder that the user named in `NUMBA_CACHE_DIR` is kept if it can be written to. Else the first that can be of:
    ``$XDG_CACHE_HOME/tomostream/numba/VERSION``, the same in ``~/.cache``, in a private folder of this user in the folder
    for temporary files, and a new folder that is removed at exit.
    """
    folder = next((str(path) for path in _candidates() if _usable(path)), "")
    if not folder:
        folder = tempfile.mkdtemp(prefix="tomostream-numba-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _remove_damaged(Path(folder))
    os.environ[VARIABLE] = folder
    config = getattr(sys.modules.get("numba"), "config", None)
    if config is not None:  # somebody imported numba before us: it has read the variable already
        config.CACHE_DIR = folder
    return folder


def _candidates() -> Iterator[Path]:
    """Yield folders for the compiled code, the preferred one first."""
    if os.environ.get(VARIABLE):
        yield Path(os.environ[VARIABLE])
    if os.environ.get("XDG_CACHE_HOME"):
        yield Path(os.environ["XDG_CACHE_HOME"], "tomostream", "numba", version())
    home = os.path.expanduser("~")
    if os.path.isdir(home):
        yield Path(home, ".cache", "tomostream", "numba", version())
    yield Path(tempfile.gettempdir(), f"tomostream-{_user()}", "numba", version())


def version() -> str:
    """Return a short name for the loops as they are written now."""
    engine = Path(__file__).parent
    return hashlib.sha256(b"".join((engine / name).read_bytes() for name in COMPILED)).hexdigest()[:12]


def _user() -> str:
    """Return a name of this user, the same in all sessions."""
    return str(os.getuid()) if hasattr(os, "getuid") else "user"


def _usable(folder: Path) -> bool:
    """Tell whether the folder exists or can be made, is ours alone to write, and has or takes the compiled code.

    Cached code is run when it is loaded: a folder that another user could have filled is no place for it. A home folder
    that is full or beyond its quota takes an empty file still.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _ours_alone(folder):
            return False
        if next(folder.rglob("*.nbi"), None) is not None:
            return os.access(folder, os.W_OK)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            return file.write(bytes(_ROOM)) == _ROOM
    except OSError:
        return False


def _ours_alone(folder: Path) -> bool:
    """Tell whether nobody else can put code there: the folder and what is in it belong to us, neither group nor others may write,
    and none of the folders above lets others rename it away."""
    if not hasattr(os, "getuid"):
        return True
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    if any(path.lstat().st_uid != os.getuid() or path.is_symlink() for path in folder.rglob("*")):
        return False
    return not any(_others_may_rename(above) for above in folder.resolve().parents)


def _others_may_rename(folder: Path) -> bool:
    """Tell whether others may replace what is in a folder. Those of the sticky kind (/tmp) keep each user's own safe."""
    status = folder.stat()
    theirs = status.st_uid not in (0, os.getuid())
    open_to_all = bool(status.st_mode & stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
    return theirs or open_to_all


def _remove_damaged(folder: Path) -> None:
    """Remove files that do not end as a pickle ends: their code is compiled again."""
    for path in folder.rglob("*.nb[ci]"):
        try:
            with path.open("rb") as file:
                whole = file.seek(0, os.SEEK_END) > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read() == b"."
            if not whole:
                path.unlink()
        except OSError:  # another process removed it, or it cannot be read: numba does without it
            continue
