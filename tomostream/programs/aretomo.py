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
from typing import Any

from tomostream.programs.aln import AlnError

# longest path that AreTomo2's fixed buffers hold
_MAX_PATH = 255
#: AreTomo2 makes no volume of so many binned slices or fewer, and says nothing.
MAX_SLICES_WITHOUT_VOLUME = 16


def slices(thickness: int, binning: float) -> int:
    """Return slices of a volume of `thickness` unbinned px."""
    return int(thickness / binning) // 2 * 2

#: Where nobody chooses a binning, the voxels of a tomogram are about so large, A.
VOXEL_A = 10.0
#: No volume is binned more.
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

    @classmethod
    def of(cls, in_mrc: str, out_mrc: str) -> OutputFiles:
        """Return the names of the outputs of `-InMrc in_mrc -OutMrc out_mrc`: all in the folder of `out_mrc`."""
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
        )

    def imod(self, suffix: str) -> str:
        """Return a file of the IMOD folder: `imod("_st.tlt")` is `<In>_Imod/<In>_st.tlt`; a `.com` file keeps its own name."""
        if suffix.endswith(".com"):
            return os.path.join(self.imod_folder, suffix)
        return os.path.join(self.imod_folder, os.path.basename(self.imod_folder)[: -len("_Imod")] + suffix)


def name_problem(in_mrc: str, out_mrc: str) -> str:
    """Return why AreTomo2 would misplace the files of these names, in words; "" when it would not.

    It cuts the path of the `.aln` at the first `.mrc` anywhere in it, folders included, and its buffers hold 255 bytes.
    """
    stem = os.path.splitext(os.path.basename(in_mrc))[0]
    if ".mrc" in os.path.join(os.path.dirname(out_mrc), stem):
        return f"AreTomo2 cuts its .aln path at the first '.mrc': rename the folder or series in {out_mrc}"
    longest = max((in_mrc, out_mrc, OutputFiles.of(in_mrc, out_mrc).imod("_st_order_list.csv")), key=len)
    if len(os.fsencode(longest)) > _MAX_PATH:
        return f"AreTomo2 holds paths of at most {_MAX_PATH} characters; this has {len(longest)}: {longest}"
    return ""


# ------------------------------------------------------------------------------------------------------- arguments
@dataclass(frozen=True)
class AretomoRequest:
    """What is asked of AreTomo2. Lengths in pixels of the input unless named otherwise; None = leave the flag out.

    `tilt_axis` in degrees; an axis known to be 0 is passed as 0.01, because 0 asks for a full search (`search_axis`).
    `refine_axis`: -1 no, 0 one axis for the series, 1 an axis for each tilt. `tilt_cor`: -1 off, 0 measured for the
    alignment only, 1 applied to the reconstruction too. `vol_z` 0 writes the aligned stack. `dose_e_A2` per tilt.
    `ext_phase_deg`: guess and search range of a phase plate's phase shift.
    """

    in_mrc: str
    out_mrc: str
    ang_file: str | None = None
    aln_file: str | None = None
    align: bool = True
    align_z: int | None = None
    vol_z: int = 1200
    out_bin: float = 1.0
    tilt_axis: float | None = None
    search_axis: bool = False
    refine_axis: int = 0
    tilt_cor: int = 0
    tilt_offset: float | None = None
    wbp: bool = False
    sart: tuple[int, int] = (15, 5)
    dark_tol: float | None = None
    pixel_size_A: float | None = None
    voltage_kV: float | None = None
    cs_mm: float | None = None
    amplitude_contrast: float | None = None
    ext_phase_deg: tuple[float, float] | None = None
    dose_e_A2: float | None = None
    flip_vol: bool = True
    flip_int: bool = False
    out_imod: int = 0
    patch: tuple[int, int] | None = None
    roi_file: str | None = None
    gpu: str | None = None
    extra: tuple[str, ...] = ()


def _axis_arguments(request: AretomoRequest) -> list[str]:
    if request.search_axis:
        return ["-TiltAxis", "0", str(max(request.refine_axis, 0))]
    if request.tilt_axis is None:
        return []
    axis = 0.01 if request.tilt_axis == 0 else request.tilt_axis
    return ["-TiltAxis", f"{axis:g}", str(request.refine_axis)]


def _optional_arguments(request: AretomoRequest) -> list[str]:
    pairs: list[tuple[str, Any]] = [
        ("-DarkTol", request.dark_tol),
        ("-PixSize", request.pixel_size_A),
        ("-Kv", request.voltage_kV),
        ("-Cs", request.cs_mm),
        ("-AmpContrast", request.amplitude_contrast),
        ("-ImgDose", request.dose_e_A2),
        ("-RoiFile", request.roi_file),
        ("-Gpu", request.gpu),
    ]
    out = [word for flag, value in pairs if value is not None for word in (flag, _word(value))]
    if request.ext_phase_deg is not None:
        out += ["-ExtPhase", *(_word(v) for v in request.ext_phase_deg)]
    if request.patch is not None:
        out += ["-Patch", *(_word(v) for v in request.patch)]
    return out


def _word(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def aretomo_arguments(request: AretomoRequest) -> list[str]:
    """Return the arguments of AreTomo2 or `tomostream-aretomo` for `request`, one word an item.

    Raises
    ------
    AlnError
        Where neither an angle file nor an alignment file is given.
    """
    if request.ang_file is None and request.aln_file is None:
        raise AlnError(f"{request.in_mrc}: AreTomo2 needs an angle file or an alignment file")
    out = ["-InMrc", request.in_mrc, "-OutMrc", request.out_mrc]
    if request.aln_file is not None:
        out += ["-AlnFile", request.aln_file, "-Align", "0"]
    else:
        out += ["-AngFile", str(request.ang_file), "-Align", "1" if request.align else "0"]
        if request.align_z is not None:
            out += ["-AlignZ", str(request.align_z)]
        out += _axis_arguments(request)
        out += ["-TiltCor", str(request.tilt_cor)]
        out += [] if request.tilt_offset is None else [_word(request.tilt_offset)]
    out += ["-VolZ", str(request.vol_z), "-OutBin", _word(request.out_bin)]
    if request.vol_z > 0:
        out += ["-Wbp", "1"] if request.wbp else ["-Sart", str(request.sart[0]), str(request.sart[1])]
    out += ["-FlipVol", str(int(request.flip_vol)), "-FlipInt", str(int(request.flip_int))]
    out += ["-OutImod", str(request.out_imod)]
    return [*out, *_optional_arguments(request), *request.extra]


def binning_of(asked: int | None, pixel_size_A: float) -> int:
    """Return the binning of a volume: what was asked for, else what makes its voxels about `VOXEL_A` large.

    Parameters
    ----------
    asked : pixels of the tilt series that make a voxel; 0 and None leave it to the pixel size.
    pixel_size_A : of the tilt series.
    """
    return asked or min(MAX_BINNING, max(1, round(VOXEL_A / pixel_size_A)))
