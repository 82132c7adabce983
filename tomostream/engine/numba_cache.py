# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the machine code that numba compiles is kept.

Beside an installed package is often no place to write (a shared Scipion installation, a container), and then numba
refuses to cache or compiles anew at every start. `prepare` names a folder that belongs to the user, before numba is
imported. numba itself makes it safe for several processes: it writes an entry under a temporary name and renames it,
and its key holds the processor, so that a home folder shared by unlike machines does no harm.

Call it in the module that imports numba, before that import:

>>> from tomostream.engine import numba_cache       # doctest: +SKIP
>>> numba_cache.prepare()                           # doctest: +SKIP
>>> import numba                                    # doctest: +SKIP
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"


def prepare() -> str:
    """Choose the folder, make it, and tell numba (`NUMBA_CACHE_DIR`); return it.

    A folder that the user named in `NUMBA_CACHE_DIR` is kept if it can be written to. Else the first that can be of:
    ``$XDG_CACHE_HOME/tomostream/numba``, ``~/.cache/tomostream/numba``, a private folder of this user in the folder for
    temporary files, and a new folder that is removed at exit.
    """
    folder = next((str(path) for path in _candidates() if _usable(path)), "")
    if not folder:
        folder = tempfile.mkdtemp(prefix="tomostream-numba-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[VARIABLE] = folder
    config = getattr(sys.modules.get("numba"), "config", None)
    if config is not None:  # somebody imported numba before us: it has read the variable already
        config.CACHE_DIR = folder
    return folder


def _candidates() -> Iterator[Path]:
    if os.environ.get(VARIABLE):
        yield Path(os.environ[VARIABLE])
    if os.environ.get("XDG_CACHE_HOME"):
        yield Path(os.environ["XDG_CACHE_HOME"], "tomostream", "numba")
    home = os.path.expanduser("~")
    if os.path.isdir(home):
        yield Path(home, ".cache", "tomostream", "numba")
    yield Path(tempfile.gettempdir(), f"tomostream-{_user()}", "numba")


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "user"


def _usable(folder: Path) -> bool:
    """Whether the folder exists or can be made, is ours alone to write, and takes a file.

    Cached code is run when it is loaded: a folder that another user could have filled is no place for it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & stat.S_IWOTH):
            return False
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
