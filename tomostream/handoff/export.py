# SPDX-License-Identifier: GPL-3.0-or-later
"""Series exported into a folder for other programs, one at a time; files common to all series are rewritten as a whole.

`OUT/.tomostream/<series>.json` holds the facts of every exported series: `tomograms.star` and `README.rst` are written
from all of them, so a series can be replaced or removed at any time, by one process at a time.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Collection, Sequence

import msgspec

from tomostream.files import locks
from tomostream.files.errors import EngineError
from tomostream.files.writing import write_text
from tomostream.handoff import imod, readme, relion, warp, zarr
from tomostream.handoff.facts import NotPossible, Series, Target

FACTS, LOCK, README = ".tomostream", ".lock", "README.rst"
#: Seconds that another process may spend writing into the same folder: a stack may have to be copied.
LOCK_SECONDS = 600.0

_WRITERS: dict[Target, Callable[[Series, str, bool], None]] = {
    Target.IMOD: imod.write, Target.RELION5: relion.write, Target.WARP: warp.write, Target.ZARR: zarr.write}


class Exported(msgspec.Struct, frozen=True):
    """An exported series: for which programs, and why not for others."""

    series: Series
    targets: tuple[Target, ...]
    refused: dict[str, str] = {}


def export(series: Series, out: str, targets: Collection[Target], copy: bool = False) -> dict[Target, str]:
    """Write a series for other programs, replacing an earlier version of it.

    Parameters
    ----------
    out : folder, created if necessary.
    copy : copy images and tomograms instead of linking them. Movies are always linked.

    Returns
    -------
    Why a program could not be served, by program; empty if all were.

    Raises
    ------
    OSError : it cannot be written.
    """
    os.makedirs(os.path.join(out, FACTS), exist_ok=True)
    with _alone(out):
        _remove_files(series.name, out)
        refused: dict[Target, str] = {}
        for target in targets:
            try:
                _write(series, out, target, copy)
            except NotPossible as error:
                refused[target] = str(error)
            except EngineError as error:
                raise OSError(str(error)) from error
        done = tuple(target for target in Target if target in targets and target not in refused)
        handed = Exported(series, done, {target.value: why for target, why in refused.items()})
        write_text(_facts(out, series.name), msgspec.json.format(msgspec.json.encode(handed)).decode())
        _write_shared(out)
    return refused


def _write(series: Series, out: str, target: Target, copy: bool) -> None:
    folder = os.path.join(out, target.value)
    os.makedirs(folder, exist_ok=True)
    _WRITERS[target](series, folder, copy)


def remove(name: str, out: str) -> bool:
    """Remove a series that failed when it was made again; return whether there was one.

    Raises
    ------
    OSError : the folder cannot be written.
    """
    if not os.path.exists(_facts(out, name)):
        return False
    with _alone(out):
        _remove_files(name, out)
        os.remove(_facts(out, name))
        _write_shared(out)
    return True


def exported_series(out: str) -> list[Exported]:
    """Return all series in a folder, by name. Facts that cannot be read are left out: they are rewritten with the
    series."""
    found = []
    for path in sorted(glob.glob(os.path.join(glob.escape(os.path.join(out, FACTS)), "*.json"))):
        handed = _read(path)
        if handed is not None:
            found.append(handed)
    return found


def _read(path: str) -> Exported | None:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=Exported)
    except (OSError, msgspec.DecodeError):
        return None


def _facts(out: str, name: str) -> str:
    return os.path.join(out, FACTS, f"{name}.json")


def _alone(out: str) -> locks.Lock:
    lock = locks.hold(os.path.join(out, FACTS, LOCK), LOCK_SECONDS)
    if lock is None:
        raise OSError(f"another process has been writing into {out} for {LOCK_SECONDS:.0f} s")
    return lock


def _remove_files(name: str, out: str) -> None:
    """Remove the files of an earlier version, which may have had other tilts."""
    before = _read(_facts(out, name))
    shutil.rmtree(os.path.join(out, Target.IMOD.value, name), ignore_errors=True)
    relion.remove(name, os.path.join(out, Target.RELION5.value))
    zarr.remove(name, os.path.join(out, Target.ZARR.value))
    if before is not None:
        warp.remove(before.series, os.path.join(out, Target.WARP.value))


def _write_shared(out: str) -> None:
    """Write the files common to all series."""
    every = exported_series(out)
    for_relion: Sequence[Series] = [each.series for each in every if Target.RELION5 in each.targets]
    if for_relion or os.path.isdir(os.path.join(out, Target.RELION5.value)):
        relion.write_tomograms(for_relion, os.path.join(out, Target.RELION5.value))
    decided = [readme.Handed(each.series, each.targets, each.refused) for each in every]
    write_text(os.path.join(out, README), readme.text(decided))
