# SPDX-License-Identifier: GPL-3.0-or-later
"""AreTomo2 as a command: its arguments, the names of its files, and those files read and written.

Our own program `tomostream-aretomo` takes the same arguments and writes the same files, so that one protocol drives
either. Formats as in the sources of AreTomo2 1.1.3; the `.aln` files of AreTomo 1 and AreTomo3 are read as well.

Conventions. A shift (tx, ty) is in pixels of the raw image, measured from its centre:
`raw = R(rot) aligned + (tx, ty)`, with R the counter-clockwise rotation by the tilt axis angle and the centre at
(n - 1) / 2 in 0-based pixel indices (IMOD's convention: n / 2 where the first pixel's centre is at 0.5). Sections are
0-based unless said otherwise.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

# longest path that AreTomo2's fixed buffers hold
_MAX_PATH = 255
#: AreTomo2 silently makes no volume with this many binned slices or fewer.
MAX_SLICES_WITHOUT_VOLUME = 16


def slices(thickness: int, binning: float) -> int:
    """Return the number of slices of a volume of `thickness` unbinned px."""
    return int(thickness / binning) // 2 * 2


#: Approximate size of the voxels of a tomogram if nobody chooses a binning, A.
VOXEL_A = 10.0
#: No volume is binned by more.
MAX_BINNING = 64


# ---------------------------------------------------------------------------------------------------- names of files
@dataclass(frozen=True)
class OutputFiles:
    """Every file that a run can leave, by name. `<In>` is the input's name without folder and last extension."""

    volume: str
    aln: str
    ctf_text: str
    ctf_spectra: str
    proj_xy: str
    proj_xz: str
    imod_folder: str
    quality: str
    even: str
    odd: str
    wiener: str
    gold: str
    erased: str

    @classmethod
    def of(cls, in_mrc: str, out_mrc: str) -> OutputFiles:
        """Return the names of the outputs of `-InMrc in_mrc -OutMrc out_mrc`, all in the folder of `out_mrc`."""
        folder = os.path.dirname(out_mrc)
        stem = os.path.join(folder, os.path.splitext(os.path.basename(in_mrc))[0])
        out_stem = os.path.splitext(out_mrc)[0]
        return cls(
            volume=out_mrc,
            aln=stem + ".aln",
            ctf_text=stem + "_ctf.txt",
            ctf_spectra=stem + "_ctf.mrc",
            proj_xy=out_stem + "_projXY.mrc",
            proj_xz=out_stem + "_projXZ.mrc",
            imod_folder=stem + "_Imod",
            quality=stem + "_quality.json",
            even=out_stem + "_even.mrc",
            odd=out_stem + "_odd.mrc",
            wiener=out_stem + "_wiener.mrc",
            gold=stem + "_gold.star",
            erased=stem + "_erased.mrc",
        )

    def imod(self, suffix: str) -> str:
        """Return a file of the IMOD folder: `imod("_st.tlt")` is `<In>_Imod/<In>_st.tlt`; a `.com` file keeps its own name."""
        if suffix.endswith(".com"):
            return os.path.join(self.imod_folder, suffix)
        return os.path.join(self.imod_folder, os.path.basename(self.imod_folder)[: -len("_Imod")] + suffix)


def name_problem(in_mrc: str, out_mrc: str) -> str:
    """Return why AreTomo2 would misplace the files with these names, in words; "" if it would not.

    It cuts the path of the `.aln` at the first `.mrc` anywhere in it, folders included, and its buffers hold 255 bytes.
    """
    stem = os.path.splitext(os.path.basename(in_mrc))[0]
    if ".mrc" in os.path.join(os.path.dirname(out_mrc), stem):
        return f"AreTomo2 cuts its .aln path at the first '.mrc': rename the folder or series in {out_mrc}"
    longest = max((in_mrc, out_mrc, OutputFiles.of(in_mrc, out_mrc).imod("_st_order_list.csv")), key=len)
    if len(os.fsencode(longest)) > _MAX_PATH:
        return f"AreTomo2 holds paths of at most {_MAX_PATH} characters; this has {len(longest)}: {longest}"
    return ""


def binning_of(asked: int | None, pixel_size_A: float, thickness: int = 0, min_slices: int = 0) -> int:
    """Return the binning of a volume: as requested, else such that its voxels are about `VOXEL_A` large, or smaller if
    it would have too few slices.

    Parameters
    ----------
    asked : pixels of the tilt series per voxel; 0 and None leave it to the pixel size.
    pixel_size_A : of the tilt series.
    thickness : of the volume, unbinned px.
    min_slices : with fewer, the program makes no volume.
    """
    if asked:
        return asked
    binning = min(MAX_BINNING, max(1, round(VOXEL_A / pixel_size_A)))
    while binning > 1 and slices(thickness, binning) < min_slices:
        binning -= 1
    return binning
