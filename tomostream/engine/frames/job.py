# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of the motion correction of one movie, and the names of the files it writes. Imports nothing heavy."""

from __future__ import annotations

import os
from dataclasses import astuple, dataclass

from tomostream.files.errors import EngineError
from tomostream.programs.motioncor import OutputNames

DEFAULT_SUM_RANGE = (3.0, 25.0)


@dataclass(frozen=True)
class Job:
    """One movie to be corrected; names and defaults follow MotionCor3's options.

    Parameters
    ----------
    movie, kind : str
        Input file; "mrc", "tiff" or "eer".
    out : str
        -OutMrc.
    log_dir : str
        -LogDir; "" for no log.
    gain, dark, defect_file, defect_map : str
        References; "" where there is none.
    rotate_gain, flip_gain : int
        Quarter turns counter-clockwise, then 1 upside down or 2 left to right.
    inverse_gain : bool
        Whether the gain is to be divided by.
    throw, truncate, group : int
        Frames left out at the start and the end; frames summed for the alignment.
    binning : float
        -FtBin.
    frame_dose, initial_dose : float
        e/A2 a frame of the file; before the exposure.
    pixel_size, voltage : float
        A of the movie's pixels (after up-sampling); kV.
    sum_range : (float, float)
        Accumulated dose, e/A2, of the frames in the _DWS sum.
    reference : int
        -FmRef: 1-based, counting those thrown away, or negative for the one in the middle.
    align, split, patches : bool
        -Align, -SplitSum; whether -Patch asks for local motion (which only changes the name of the log).
    stack : bool
    stack_group : int
        -OutStack: write the aligned frames, summed in groups of this many.
    crop : (int, int)
        Columns and rows about the centre to use; 0 for all.
    integration_file : str
        -FmIntFile.
    upsampling : int
        Of EER: 1, 2 or 4.
    threads : int
    whole_pixels : bool
        --whole-pixels: no shifts by parts of a pixel in the sums without dose weighting.
    label : str
        For the header of the results.
    """

    movie: str
    kind: str
    out: str
    log_dir: str = ""
    gain: str = ""
    dark: str = ""
    defect_file: str = ""
    defect_map: str = ""
    rotate_gain: int = 0
    flip_gain: int = 0
    inverse_gain: bool = False
    throw: int = 0
    truncate: int = 0
    group: int = 1
    binning: float = 1.0
    frame_dose: float = 0.0
    initial_dose: float = 0.0
    pixel_size: float = 0.0
    voltage: float = 300.0
    sum_range: tuple[float, float] = DEFAULT_SUM_RANGE
    reference: int = -1
    align: bool = True
    split: bool = False
    patches: bool = False
    stack: bool = False
    stack_group: int = 1
    crop: tuple[int, int] = (0, 0)
    integration_file: str = ""
    upsampling: int = 1
    threads: int = 1
    whole_pixels: bool = False
    label: str = "tomostream-motioncor"

    @property
    def names(self) -> OutputNames:
        """The names of the results."""
        return OutputNames.of(self.movie, self.out, self.log_dir, self.patches)

    def check_files(self) -> None:
        """Check that the inputs are there and that no result would replace one of them.

        Raises
        ------
        EngineError
            With the path and the option that names it.
        """
        inputs = {
            "": self.movie, "-Gain ": self.gain, "-Dark ": self.dark, "-DefectFile ": self.defect_file,
            "-DefectMap ": self.defect_map, "-FmIntFile ": self.integration_file,
        }  # fmt: skip
        results = [name for name in astuple(self.names) if name and os.path.exists(name)]
        for what, path in inputs.items():
            if not path:
                continue
            if not os.path.exists(path):
                raise EngineError(f"{what}{path} does not exist; check the path")
            if any(os.path.samefile(path, name) for name in results):
                raise EngineError(f"the result would replace {path}, which is read; give another name as -OutMrc")

    @property
    def stem(self) -> str:
        """The movie's file name, for messages."""
        return os.path.basename(self.movie)
