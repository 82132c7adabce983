# SPDX-License-Identifier: GPL-3.0-or-later
"""MotionCor3 as a command: its arguments, the names of its files, and its logs read and written.

Our own program `tomostream-motioncor` takes the same arguments and writes the same files, so that one protocol drives
either. Formats and names as in the sources of MotionCor3 1.2.1.

Shifts in the logs are x and y in pixels of the movie, whatever the binning (for EER: after up-sampling): what must be
applied to a frame to match the reference frame, i.e. minus the drift of its content. y grows upward
(row 0 of an MRC file is the bottom).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from tomostream.files.tiff import EER_COMPRESSIONS

__all__ = [
    "LogError",
    "OutputNames",
    "eer_problem",
    "format_log",
    "gain_not_applied",
    "input_tag",
    "log_stem",
    "parse_log",
    "safe_name",
    "sum_size",
]

_INPUT_TAGS = {".mrc": "-InMrc", ".mrcs": "-InMrc", ".tif": "-InTiff", ".tiff": "-InTiff", ".eer": "-InEer"}
_FULL_FRAME_HEADER = "# full frame alignment"


class LogError(ValueError):
    """A log is invalid. The message names the file, the line and what is wrong."""


# ---------------------------------------------------------------------------------------------------- names of files
def log_stem(movie: str) -> str:
    """Return the movie's file name up to the first ``.mrc``, else the first ``.tif``, else the first ``.eer``, as in the logs.

    >>> log_stem("/data/TS_01_003.mrc.tif"), log_stem("a_Fractions.TIFF"), log_stem("b.eer")
    ('TS_01_003', 'a_Fractions', 'b')
    """
    name = os.path.basename(movie)
    for extension in (".mrc", ".tif", ".eer"):
        cut = name.lower().find(extension)
        if cut >= 0:
            return name[:cut]
    return os.path.splitext(name)[0]


@dataclass(frozen=True)
class OutputNames:
    """Every file that a run can leave. `log` is "" without a log folder.

    `total` is the sum of all frames; `weighted` (_DW) the dose-weighted one, `weighted_range` (_DWS) that of the frames
    in -SumRange; `odd` the sum of frames 1, 3, ..., `even` that of 2, 4, ... (both dose-weighted if dose weighting is
    on); `stack` the aligned frames.
    """

    total: str
    weighted: str
    weighted_range: str
    odd: str
    even: str
    stack: str
    log: str

    @classmethod
    def of(cls, movie: str, out_mrc: str, log_dir: str = "", patches: bool = False) -> OutputNames:
        """Return the names of the outputs of `-In... movie -OutMrc out_mrc -LogDir log_dir`.

        `patches`: whether both numbers of -Patch are above 1; only then is the log the `-Patch-Full.log`.
        """
        stem = out_mrc[:-4] if out_mrc.lower().endswith(".mrc") else out_mrc
        log = os.path.join(log_dir, f"{log_stem(movie)}{'-Patch' if patches else ''}-Full.log") if log_dir else ""
        total, weighted, weighted_range, odd, even, stack = (
            f"{stem}{suffix}.mrc" for suffix in ("", "_DW", "_DWS", "_ODD", "_EVN", "_Stk"))  # fmt: skip
        return cls(total, weighted, weighted_range, odd, even, stack, log)


def input_tag(movie: str) -> str:
    """Return ``-InMrc``, ``-InTiff`` or ``-InEer``, by the extension.

    Raises
    ------
    ValueError
        For any other extension.
    """
    extension = os.path.splitext(movie)[1].lower()
    if extension not in _INPUT_TAGS:
        raise ValueError(f"{movie}: a movie ends with one of {', '.join(_INPUT_TAGS)}")
    return _INPUT_TAGS[extension]


#: MotionCor3 cuts the paths of outputs and logs at the first of these, in any folder or name.
_CUTS = (".mrc", ".st", ".tif", ".eer")


def safe_name(name: str) -> str:
    """Return a name for MotionCor3's outputs in which it finds nothing to cut: the name itself if there is nothing like that.

    >>> safe_name("TS_01_003_aligned_mic"), safe_name("a.mrc_2").startswith("a_mrc_2-")
    ('TS_01_003_aligned_mic', True)
    """
    if not any(cut in name.lower() for cut in _CUTS):
        return name
    return f"{name.replace('.', '_')}-{zlib.crc32(name.encode(errors='surrogateescape')):08x}"


def sum_size(size: tuple[int, int], binning: float) -> tuple[int, int]:
    """Return the size of a sum (x, y) in px for a movie of this size: halves are rounded up, then both sides are made even."""
    x, y = (int(length / binning + 0.5) // 2 * 2 for length in size)
    return x, y


# --------------------------------------------------------------------------- what MotionCor3 does wrong silently
_GAIN_NOT_APPLIED = ("gain size does not match frame size", "unable to apply gain reference")


def gain_not_applied(log: str) -> str:
    """Return what MotionCor3's log says about a gain reference that was requested and not applied; "" if nothing."""
    if not os.path.exists(log):
        return ""
    with open(log, encoding="utf-8", errors="replace") as file:
        for line in file:
            if any(words in line.lower() for words in _GAIN_NOT_APPLIED):
                return f"did not apply the gain reference ({line.strip()[:200]})"
    return ""


_EER_OF_8_BITS, _EER_OF_ANY_BITS, _POSITION_BITS_TAGS = 65000, 65002, (65008, 65009)


def eer_problem(path: str, pixels: int) -> str:
    """Return why MotionCor3 renders an EER movie wrongly at `pixels` (1, 2, 4) per camera pixel; "" if it does not."""
    if pixels == 1:
        return ""
    compression, bits = _eer_coding(path)
    name = os.path.basename(path)
    if compression == _EER_OF_8_BITS:
        return (f"{name} is 8-bit EER (compression {compression}), which MotionCor3 scrambles at {pixels}x; choose EER "
                "upsampling 1x, or the CPU engine")
    if compression == _EER_OF_ANY_BITS and 2 ** bits < pixels:
        return (f"{name} locates electrons to 1/{2 ** bits} of a pixel, from which MotionCor3 makes no {pixels}x image; choose "
                f"EER upsampling {2 ** bits}x, or the CPU engine")
    return ""


def _eer_coding(path: str) -> tuple[int | None, int]:
    """Return the compression of an EER movie (None: unknown), and the bits for the place of an electron inside its pixel."""
    from tifffile import TiffFile, TiffFileError, TiffPage  # large, and most movies are not EER

    try:
        with TiffFile(path) as tiff:
            for page in islice(tiff.pages, 4):
                if isinstance(page, TiffPage) and int(page.compression) in EER_COMPRESSIONS:
                    tags = [page.tags.get(tag) for tag in _POSITION_BITS_TAGS]
                    return int(page.compression), min(2 if tag is None else int(tag.value) for tag in tags)
    except (OSError, ValueError, TypeError, TiffFileError):
        return None, 2      # faults of the file itself are found by its own check
    return None, 2


# ------------------------------------------------------------------------------------------------------------- logs
def format_log(shifts: Sequence[tuple[float, float]]) -> str:
    """Return the text of a `-Full.log`: shifts (x, y) in pixels, frame by frame."""
    rows = [f"{number:4d}  {_rounded(x):8.2f}  {_rounded(y):8.2f}" for number, (x, y) in enumerate(shifts, 1)]
    return "\n".join([_FULL_FRAME_HEADER, *rows]) + "\n"


def _rounded(value: float) -> float:
    """Round to the two decimals of the log, without a negative zero."""
    return round(value, 2) + 0.0


def parse_log(text: str, name: str = "log") -> tuple[tuple[float, float], ...]:
    """Read a `-Full.log` or `-Patch-Full.log`: shifts (x, y) in pixels of frames 1, 2, ...

    Parameters
    ----------
    text : str
        Content of the file.
    name : str
        Its name, for the message of an error.

    Raises
    ------
    LogError
        If a line is not ``frame x y``, a frame is missing, or there is none.
    """
    shifts: list[tuple[float, float]] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            frame, x, y = int(words[0]), float(words[1]), float(words[2])
        except (ValueError, IndexError):
            raise LogError(f"{name}, line {number}: {line.strip()!r} is not 'frame x y'") from None
        if frame != len(shifts) + 1:
            raise LogError(f"{name}, line {number}: frame {frame} follows frame {len(shifts)}")
        shifts.append((x, y))
    if not shifts:
        raise LogError(f"{name} lists no frame")
    return tuple(shifts)
