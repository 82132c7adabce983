# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger entry, and so the line on the page, of a series that was aligned and reconstructed."""

from __future__ import annotations

import os

from tomostream.journal import entries
from tomostream.journal.space import bytes_of
from tomostream.programs.quality import Trust
from tomostream.protocols.aretomo_series import Result, Source
from tomostream.protocols.defoci import Defoci
from tomostream.streaming.work import Task


def reconstructed(task: Task, source: Source, result: Result, defoci: Defoci, z_first: bool | None) -> entries.Reconstructed:
    """Return the ledger entry of a finished series.

    Parameters
    ----------
    defoci : the believed defocus of each series.
    z_first : whether the slices of the tomogram are along z; None where there is no tomogram.
    """
    quality = result.quality
    excluded = tuple(entries.Excluded(tilt.angle, result.reasons[tilt.index]) for tilt in source.tilts
                     if tilt.index in result.reasons)
    used = len(result.rows) or len(source.used)
    axis = next(iter(result.rows.values())).rot_deg if result.rows else source.tilt_axis
    words = f"{used} tilts aligned" + (f", {len(excluded)} excluded" if excluded else "")
    words += f", tilt axis {axis:.2f} degrees" if axis is not None else ""
    words += f", {quality.local.note}" if quality and quality.local and quality.local.applied else ""
    gold = quality.gold if quality else None
    words += f", {gold.words}" if gold else ""
    words += "".join(f", {note}" for note in result.notes)
    words += f", {defoci.words(task.key)}" if defoci.words(task.key) else ""
    words += f", tomogram in {result.seconds:.0f} s" if z_first is not None else f" in {result.seconds:.0f} s"
    return entries.Reconstructed(
        task.key, words, version=task.version, tilts_used=used, excluded=excluded, tilt_axis=axis, folder=result.folder,
        seconds=round(result.seconds, 1), commands=result.commands,
        tomogram=os.path.join(result.folder, f"{task.key}.mrc") if z_first is not None else None,
        z_first=z_first,
        tilt_offset=quality.tilt_offset_deg if quality else None, thickness_A=quality.thickness_A if quality else None,
        resolution_xy_A=quality.resolution_xy_A if quality else None,
        resolution_z_A=quality.resolution_z_A if quality else None,
        quality=quality.quality if quality else None, quality_note=quality.quality_note if quality else "",
        trust=quality.trust if quality else Trust.UNKNOWN,
        defocus_um=defoci.value(task.key), defocus_note=defoci.words(task.key),
        defocus_doubted=tuple(sorted(result.ctf_order[place] for place in defoci.doubted(task.key))),
        ctf_corrected=result.ctf_corrected and z_first is not None,
        gold_beads=gold.beads if gold else None, gold_residual_px=gold.residual_px if gold else None,
        local_note=quality.local.note if quality and quality.local else "", bytes=bytes_of([result.folder]))
