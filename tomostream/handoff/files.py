# SPDX-License-Identifier: GPL-3.0-or-later
"""How files get into an export: links or copies, stacks without unused tilts, whole folders at once."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence

from tomostream.engine.output import Outputs
from tomostream.files.mrc import open_mrc
from tomostream.files.writing import whole

LABEL = "tomostream: tilts that take part"


def bring(source: str, target: str, copy: bool) -> str:
    """Link or copy a file; return the target.

    Raises
    ------
    OSError : the source does not exist, or the target cannot be written.
    """
    if not os.path.exists(source):
        raise FileNotFoundError(2, "No such file", source)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with whole(target) as part:
        if copy:
            shutil.copyfile(source, part)
        else:
            os.symlink(os.path.realpath(source), part)
    return target


def cut_stack(source: str, target: str, sections: Sequence[int], pixel_size: float) -> None:
    """Write a stack of some sections (from 1) of another one, with one section at a time in memory."""
    stack = open_mrc(source)
    with Outputs() as outputs:
        out = outputs.mapped_mrc(target, (len(sections), *stack.section(0).shape), pixel_size, LABEL, volume=False)
        for place, section in enumerate(sections):
            out[place] = stack.section(section - 1)


@contextlib.contextmanager
def whole_folder(path: str) -> Iterator[str]:
    """Give a folder to fill, which replaces the existing one if the block succeeds."""
    part = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.part")
    shutil.rmtree(part, ignore_errors=True)
    os.makedirs(part)
    try:
        yield part
        shutil.rmtree(path, ignore_errors=True)
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
