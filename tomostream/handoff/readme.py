# SPDX-License-Identifier: GPL-3.0-or-later
"""The README of an export: the next commands for each program, and what was decided about each series."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tomostream.handoff.conventions import relion_hand, warp_flip
from tomostream.handoff.facts import Series, Target
from tomostream.handoff.relion import USUAL_HAND, unbinned
from tomostream.handoff.zarr import size_on_disk

_IMOD = """IMOD
----
One folder per series, as etomo leaves it after fine alignment::

    cd imod/{name}
    submfg newst.com tilt.com
    trimvol -rotx {name}_full_rec.mrc {name}_rec.mrc

`etomo {name}.edf` opens it. `trimvol -rotx` gives the orientation of our tomogram (never `-yz`, which mirrors it). Where
tilts are left out, the stack holds only the others, and {name}_cutviews0.rawtlt the angles of those that were cut, as
`excludeviews` leaves them. `.defocus` is for `ctfphaseflip`.
"""
_RELION = """RELION 5
--------
`relion5` is a project folder: run RELION in it, and give `tomograms.star` wherever a tomogram set is requested::

    cd relion5
    relion_tomo_reconstruct_tomogram --t tomograms.star --o Tomograms/ --bin 4
    relion_tomo_subtomo --t tomograms.star --p particles.star --o Extract/ --b 128 --bin 4

Averages and their halves are in the tables, so motion correction and tilt series alignment are done. Movies are linked, for
Bayesian polishing.
"""
_WARP = """Warp
----
::

    cd warp
    WarpTools create_settings --folder_data tomostar --folder_processing warp_tiltseries --extension "*.tomostar" \\
        --angpix {pixel:g} --exposure {dose:g} --tomo_dimensions {x}x{y}x{z} --output warp_tiltseries.settings
    WarpTools ts_import_alignments --settings warp_tiltseries.settings --alignments alignments --alignment_angpix {pixel:g}
{hands}
    WarpTools ts_ctf --settings warp_tiltseries.settings --range_high 7 --defocus_max 8
    WarpTools ts_reconstruct --settings warp_tiltseries.settings --angpix {coarse:g}

Our averages are where `ts_*` looks for those of Warp's frame series (`warp_frameseries/average`). Warp's tilt angles are ours
with the opposite sign, as its `ts_import` makes them: do not mix the angle files of `imod` and `warp`.

With these angles Warp's "flip" is RELION's hand -1: towards +x of the image after rotation by the tilt axis,
defocus grows at IMOD's positive tilt angles. If it was not measured, flip is set, which is usual; to check it, compare
averages of both. (`ts_defocus_hand --check` and `ts_ctf --auto_hand` need frame series that Warp itself aligned, with a local
defocus.)
"""

_ZARR = """OME-Zarr
--------
A pyramid of chunks for each tomogram, which viewers open from the disk or from a web share::

    napari zarr/{name}.ome.zarr
    neuroglancer: zarr://https://SHARE/zarr/{name}.ome.zarr

About {size:.1f} GB each before compression.
"""


@dataclass(frozen=True)
class Handed:
    """A series, the programs for which it was exported, and why not for others."""

    series: Series
    targets: Sequence[Target]
    refused: Mapping[str, str]


def text(handed: Sequence[Handed]) -> str:
    """Return the README of a folder with these series."""
    parts = ["Tilt series and tomograms for other programs\n============================================\n\n"
             "Written by tomostream; a series that is made again is replaced here.\n"]
    for target, section in ((Target.IMOD, _imod), (Target.RELION5, _relion), (Target.WARP, _warp),
                            (Target.ZARR, _zarr)):
        series = [each.series for each in handed if target in each.targets]
        if series:
            parts.append(section(series))
    parts.append("What was decided\n----------------\n" + "\n".join(line for each in handed for line in decisions(each)))
    return "\n".join(parts) + "\n"


def _imod(series: Sequence[Series]) -> str:
    return _IMOD.format(name=series[0].name)


def _relion(series: Sequence[Series]) -> str:
    return _RELION


def _warp(series: Sequence[Series]) -> str:
    first = series[0]
    doses = [tilt.dose for tilt in first.used if tilt.dose is not None]
    x, y, z = unbinned(first)
    return _WARP.format(pixel=first.pixel_size, dose=sum(doses) / len(doses) if doses else 0.0, x=x, y=y, z=z,
                        hands="\n".join(f"    {line}" for line in warp_hand_commands(series)),
                        coarse=first.pixel_size * (first.volume.binning if first.volume else 4.0))


def warp_hand_commands(series: Sequence[Series]) -> list[str]:
    """Return the commands that give Warp the measured hand; series without one get that of the others, else the usual one."""
    command = "WarpTools ts_defocus_hand --settings warp_tiltseries.settings"
    options = {True: "--set_flip", False: "--set_noflip"}
    measured = {each.name: flip for each in series if (flip := warp_flip(each.defocus_hand)) is not None}
    usual = Counter(measured.values()).most_common(1)[0][0] if measured else bool(warp_flip(-USUAL_HAND))
    others = [name for name, flip in measured.items() if flip is not usual]
    lines = [f"{command} {options[usual]}"]
    if others:
        lines.append(f"{command} {options[not usual]} --input_data {' '.join(f'tomostar/{name}.tomostar' for name in others)}")
    return lines


def _zarr(series: Sequence[Series]) -> str:
    return _ZARR.format(name=series[0].name, size=size_on_disk(series[0]) / 1e9)


def decisions(handed: Handed) -> list[str]:
    """Return what was decided about one series, a line each."""
    series = handed.series
    hand = relion_hand(series.defocus_hand)
    measured = (f"rlnTomoHand {hand}, measured" if hand is not None else
                f"rlnTomoHand {USUAL_HAND}, not measured: the usual one; check it")
    lines = [f"* {series.name} (version {series.version})", "",
             f"  * defocus hand: {measured}"
             + ("" if hand is None else f"; in Warp {'flip' if warp_flip(series.defocus_hand) else 'no flip'}"),
             f"  * tilt angles: {'the sign of the mdoc was reversed' if series.negated else 'as in the mdoc'}"
             + ("" if series.tilt_offset is None else f", tilt offset {series.tilt_offset:.1f} degrees, added to all"),
             f"  * tilts left out: {_left_out(series)}"]
    if not any(tilt.ctf for tilt in series.used):
        lines.append("  * no defocus is given: none was found, or it cannot be trusted. Estimate it there")
    elif any(tilt.ctf is None for tilt in series.used):
        lines.append("  * tilts without their own defocus have that of the nearest angle (RELION: score 0)")
    if series.local:
        lines.append("  * local motion was applied to the tomogram; the files here hold the global alignment")
    if series.volume is not None and not series.volume.upright:
        lines.append("  * the tomogram is stored as (x, z, y) and is not named in tomograms.star")
    if series.volume is not None and series.volume.ctf_corrected:
        lines.append("  * the tomogram and its halves are already corrected for the CTF: do not correct them again")
    if series.quality_note:
        lines.append(f"  * alignment: {series.quality_note}")
    lines += [f"  * not exported for {target}: {why}" for target, why in handed.refused.items()]
    return [*lines, ""]


def _left_out(series: Series) -> str:
    return "; ".join(f"{tilt.nominal_deg:.1f} degrees ({tilt.excluded or 'no alignment'})" for tilt in series.left_out) or "none"
