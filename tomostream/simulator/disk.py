# SPDX-License-Identifier: GPL-3.0-or-later
"""The ways in which a microscope puts a file on disk."""

from __future__ import annotations

import os
from pathlib import Path


def put_whole(path: Path, data: bytes, incoming: Path | None = None) -> None:
    """Write a file under a hidden name, in the folder `incoming` or its own, and then rename it."""
    hidden = (incoming or path.parent) / f".{path.name}.part"
    hidden.write_bytes(data)
    os.replace(hidden, path)


def write_over(path: Path, data: bytes) -> None:
    """Overwrite a file in place from its first byte, without truncating it first."""
    with open(path, "r+b" if path.exists() else "wb") as file:
        file.write(data)


def append_up_to(path: Path, data: bytes) -> None:
    """Append to a file whatever it lacks of `data`, of which it holds the beginning."""
    have = path.stat().st_size if path.exists() else 0
    with open(path, "ab") as file:
        file.write(data[have:])
