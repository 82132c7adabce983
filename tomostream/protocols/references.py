# SPDX-License-Identifier: GPL-3.0-or-later
"""Gain references and defect files in the form that MotionCor3 reads: made once for all movies of a size."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy as np
from motioncorr.convert import parseEERDefects

from tomostream.engine.frames.references import Say, averaged, read_image, super_resolution
from tomostream.engine.frames.tiffs import guarded
from tomostream.engine.output import Outputs
from tomostream.files.errors import BadFileError, EngineError
from tomostream.files.mrc import open_mrc
from tomostream.files.writing import write_text
from tomostream.programs import defects
from tomostream.programs.motioncor import safe_name

_LABEL = "reference, converted by tomostream"
_LIST_OF_MOTIONCOR = "defects_{}x{}.txt"


def write_eer_defects(gain: str, path: str, say: Say) -> None:
    """Write the defects listed in the ``.gain`` of an EER camera, if any, in the form that both programs read.

    As upstream does, except that a damaged file is only reported: the movies that need it fail with the reason.
    """
    try:
        found = guarded(gain, lambda: [tuple(map(int, defect)) for defect in parseEERDefects(gain)])
    except EngineError as error:
        say(f"no defects are taken from the gain reference: {error}")
        return
    if found:
        write_text(path, defects.format_rectangles(found))


class References:
    """Converts references that MotionCor3 would silently ignore; the converted files are in a folder of the run.

    Parameters
    ----------
    folder : str
        Where they are written.
    say : callable
        Called once for each file made, with a sentence.
    """

    def __init__(self, folder: str, say: Say) -> None:
        self._folder = folder
        self._say = say
        self._lock = threading.Lock()       # several movies are aligned at the same time
        self._made: dict[tuple[str, str, int, int], str] = {}

    def image(self, flag: str, path: str, columns: int, rows: int) -> str:
        """Return the gain or dark reference to give to MotionCor3 for frames of this size: an MRC file of 32-bit floats.

        One of another format or type is converted, and a gain of super-resolution is averaged, in the orientation that it has.
        A ``.gain``, which the program reads itself, stays.

        Raises
        ------
        EngineError
            If it cannot be read, or written.
        """
        return self._once((flag, path, columns, rows), lambda: self._image(flag, path, (rows, columns)))

    def _once(self, key: tuple[str, str, int, int], make: Callable[[], str]) -> str:
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]

    def _image(self, flag: str, path: str, shape: tuple[int, int]) -> str:
        average = flag == "-Gain"
        if path.lower().endswith(".gain"):
            read_image(path, flag)      # the program would crash with one that is damaged, or leave it out
            return path
        if path.lower().endswith((".mrc", ".mrcs")):
            stack = open_mrc(path)
            fits = not average or self._factor(stack.shape[1:], shape) == 1
            if fits and stack.dtype == np.float32 and len(stack) == 1:
                return path
        image = read_image(path, flag).astype(np.float32)
        factor = self._factor(image.shape, shape) if average else 1
        if factor > 1:
            bad = ~np.isfinite(image) | (image <= 0)
            image, bad = averaged(np.where(bad, np.float32(1), image), bad, factor)
            image[bad] = 0
        stem = safe_name(os.path.splitext(os.path.basename(path))[0])
        made = os.path.abspath(os.path.join(self._folder, f"{stem}_{image.shape[1]}x{image.shape[0]}{flag.lower()}.mrc"))
        with Outputs() as outputs:
            outputs.mrc(made, image, 0.0, _LABEL)
        how = f", the mean of {factor} x {factor} pixels of super-resolution" if factor > 1 else ""
        self._say(f"MotionCor3 is given {made} as {flag}, made of {path}{how}")
        return made

    @staticmethod
    def _factor(gain: tuple[int, ...], frames: tuple[int, int]) -> int:
        """Return the factor by which to average a gain, which may be rotated by 90 degrees."""
        return max(super_resolution(gain, frames), super_resolution(gain[::-1], frames))

    def defects(self, path: str, columns: int, rows: int, turned_over: bool) -> str:
        """Return the defect file to give to MotionCor3 for frames of this size: that of SerialEM as a list of rectangles.

        Raises
        ------
        EngineError
            If it cannot be read, or is for another camera.
        """
        return self._once(("-DefectFile", path, columns, rows), lambda: self._defects(path, columns, rows, turned_over))

    def _defects(self, path: str, columns: int, rows: int, turned_over: bool) -> str:
        if not defects.is_of_serialem(defects.read_text(path)):
            return path
        found = defects.rectangles(path, columns, rows, turned_over)
        made = os.path.abspath(os.path.join(self._folder, _LIST_OF_MOTIONCOR.format(columns, rows)))
        try:
            write_text(made, defects.format_rectangles(found))
        except OSError as error:
            raise BadFileError(f"{made} cannot be written ({error})") from error
        self._say(f"MotionCor3 is given {made}, the {len(found)} defects of {path}")
        return made
