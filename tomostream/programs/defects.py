# SPDX-License-Identifier: GPL-3.0-or-later
"""Defects of a camera as rectangles of its frames: MotionCor's lists of them, and SerialEM's defect files.

A SerialEM defect file has lines with a keyword and whole numbers. Its coordinates count from the upper left pixel of the
picture, from 0, and belong to a camera of ``CameraSizeX`` x ``CameraSizeY`` pixels turned by ``RotationAndFlip``:
quarter turns counter-clockwise, with 4 mirrored in x before and with 8 after. Facts from the sources of SerialEM and IMOD.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tomostream.files.errors import BadFileError, sentence_of

Rectangle = tuple[int, int, int, int]
"""x, y of the lower left pixel, width and height."""
_Area = tuple[int, int, int, int]
"""Left, top, right and bottom, all inclusive; from the upper left."""
MAX_SIDE = 1_000_000
"""No camera has more pixels along a side: larger numbers are not from an intact file."""
_SINGLE = ("CameraSizeX", "CameraSizeY", "RotationAndFlip", "WasScaled")
_MIN_NUMBERS = {"UsableArea": 4, "PartialBadColumn": 4, "PartialBadRow": 4, "BadPixels": 2, "BadColumns": 1, "BadRows": 1,
                **dict.fromkeys(_SINGLE, 1)}


def is_of_serialem(text: str) -> bool:
    """Tell whether a defect file is SerialEM's: its first line begins with a word, not a number."""
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "")
    return first[:1].isalpha() and not first.lower().startswith(("nan", "inf"))


def read_text(path: str) -> str:
    """Return the text of a defect file.

    Raises
    ------
    BadFileError
        If it cannot be read.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            return file.read()
    except OSError as error:
        raise BadFileError(f"{sentence_of(error, path)}; check -DefectFile") from error


def rectangles(path: str, columns: int, rows: int, turned_over: bool) -> list[Rectangle]:
    """Read a defect file of either kind, for frames of this size.

    Parameters
    ----------
    path : str
    columns, rows : int
        Of the frames (of EER: of the camera).
    turned_over : bool
        Whether row 0 of the frames is the bottom of the picture, as in TIFF and MRC movies but not in EER. MotionCor's
        lists count in rows of the frames in any case.

    Raises
    ------
    BadFileError
        If it cannot be read, one of its lines is invalid, or it is for another camera.
    """
    text = read_text(path)
    if is_of_serialem(text):
        return _parse_serialem(text, path).rectangles(columns, rows, turned_over, path)
    return _parse_list(text, path, columns, rows)


def format_rectangles(defects: Iterable[Rectangle]) -> str:
    """Return MotionCor's list, one defect per line: x y width height."""
    return "".join("{} {} {} {}\n".format(*defect) for defect in defects)


def _parse_list(text: str, path: str, columns: int, rows: int) -> list[Rectangle]:
    found: list[Rectangle] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            x, y, width, height = (int(float(word)) for word in words)
        except (ValueError, OverflowError):
            raise BadFileError(f"{path}, line {number}: {' '.join(words)[:60]!r} is not 'x y width height'") from None
        if width < 1 or height < 1:
            raise BadFileError(f"{path}, line {number}: a defect of {width} x {height} pixels; 'x y width height' is needed")
        if x >= columns or y >= rows or x + width <= 0 or y + height <= 0:
            raise BadFileError(f"{path}, line {number}: the defect at {x} {y} is outside the frames, {columns} x {rows} "
                               "pixels; give the defects of this camera mode")
        found.append((x, y, width, height))
    return found


@dataclass(frozen=True)
class CameraDefects:
    """The content of a SerialEM defect file: the size of the camera, how it was turned, and the bad areas."""

    columns: int
    rows: int
    rotation_flip: int
    areas: tuple[_Area, ...]

    def rectangles(self, columns: int, rows: int, turned_over: bool, path: str) -> list[Rectangle]:
        """Return the defects for frames of this size; see `rectangles`.

        Frames may have a whole multiple of the camera's pixels (super-resolution), or fewer (binned). Those of a
        camera on its side were saved as the camera delivers them, without the rotation.
        """
        size, areas = (self.columns, self.rows), self.areas
        if not _scale(size, (columns, rows)) and self.rotation_flip % 2 and _scale(size[::-1], (columns, rows)):
            areas = tuple(_turned_back(area, self.rotation_flip, size) for area in areas)
            size = size[::-1]
        scale = _scale(size, (columns, rows))
        if not scale:
            raise BadFileError(f"{path} is for a camera of {self.columns} x {self.rows} pixels, the frames have {columns} x "
                               f"{rows}; give the defects of this camera mode")
        found = []
        for area in areas:
            left, top, right, bottom = _scaled(area, *scale)
            right, bottom = min(right, columns - 1), min(bottom, rows - 1)
            if left <= right and top <= bottom:
                y = rows - 1 - bottom if turned_over else top
                found.append((left, y, right - left + 1, bottom - top + 1))
        return found


def _scale(camera: tuple[int, int], frames: tuple[int, int]) -> tuple[int, int] | None:
    """Return (up, down), the factors from the camera's pixels to those of the frames, equal in both directions; else None."""
    up, down = frames[0] // camera[0], camera[0] // max(1, frames[0])
    if up and (camera[0] * up, camera[1] * up) == frames:
        return up, 1
    if down and (frames[0] * down, frames[1] * down) == camera:
        return 1, down
    return None


def _scaled(area: _Area, up: int, down: int) -> _Area:
    left, top, right, bottom = area
    return left * up // down, top * up // down, ((right + 1) * up - 1) // down, ((bottom + 1) * up - 1) // down


def _turned_back(area: _Area, operation: int, size: tuple[int, int]) -> _Area:
    """Return an area as the camera itself counts: the inverse of `operation` on an image of `size`, with an odd quarter."""
    left, top, right, bottom = area
    columns, rows = size
    if operation & 8:
        left, right = columns - 1 - right, columns - 1 - left
    if operation % 4 == 1:      # it was turned counter-clockwise, so turn it back clockwise
        left, top, right, bottom = rows - 1 - bottom, left, rows - 1 - top, right
    else:
        left, top, right, bottom = top, columns - 1 - right, bottom, columns - 1 - left
    if operation & 4:
        left, right = rows - 1 - right, rows - 1 - left
    return left, top, right, bottom


def _parse_serialem(text: str, path: str) -> CameraDefects:
    """Read SerialEM's keywords; the others say nothing about where defects are."""
    lines: list[tuple[int, str, list[int]]] = []
    single: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        keyword, *words = line.split() or ["#"]
        if keyword not in _MIN_NUMBERS:
            if not keyword.startswith("#") and not keyword[:1].isalpha():
                raise BadFileError(f"{path}, line {number}: {line.strip()[:60]!r} does not begin with a SerialEM keyword")
            continue
        values = _whole_numbers(words, _MIN_NUMBERS[keyword], f"{path}, line {number}: {keyword}")
        if keyword in _SINGLE:
            single[keyword] = values[0]
        else:
            lines.append((number, keyword, values))
    columns, rows = (single.get(name, 0) for name in _SINGLE[:2])
    if columns < 1 or rows < 1:
        raise BadFileError(f"{path} does not say the size of the camera, CameraSizeX and CameraSizeY; write it again with "
                           "SerialEM")
    block = {0: 1, 1: 2}.get(max(0, single.get("WasScaled", 0)), 4)
    areas: list[_Area] = []
    for number, keyword, values in lines:
        for left, top, right, bottom in _areas(keyword, values, columns, rows, block, f"{path}, line {number}"):
            if left >= columns or top >= rows or right < left or bottom < top:
                raise BadFileError(f"{path}, line {number}: {keyword} {' '.join(map(str, values[:4]))} is outside the camera, "
                                   f"{columns} x {rows} pixels; write it again with SerialEM")
            areas.append((left, top, min(right, columns - 1), min(bottom, rows - 1)))
    return CameraDefects(columns, rows, single.get("RotationAndFlip", 0) % 12, tuple(areas))


def _whole_numbers(words: Sequence[str], at_least: int, where: str) -> list[int]:
    try:
        values = [int(word) for word in words]
    except ValueError:
        raise BadFileError(f"{where} has {' '.join(words)[:60]!r}, which are not whole numbers") from None
    if len(values) < at_least or (at_least == 2 and len(values) % 2):
        raise BadFileError(f"{where} has {len(values)} numbers where {'pairs' if at_least == 2 else at_least} are needed")
    if not all(-1 <= value <= MAX_SIDE for value in values):
        raise BadFileError(f"{where} has {' '.join(words)[:60]!r}, which no camera has")
    return values


def _areas(keyword: str, values: list[int], columns: int, rows: int, block: int, where: str) -> list[_Area]:
    """Return the areas given by one line; `block` is the side of a bad pixel if the list was scaled up."""
    if keyword != "UsableArea" and min(values) < 0:
        raise BadFileError(f"{where}: {keyword} has a negative number, which no camera has")
    right, bottom = columns - 1, rows - 1
    if keyword == "BadColumns":
        return [(value, 0, value, bottom) for value in values]
    if keyword == "BadRows":
        return [(0, value, right, value) for value in values]
    if keyword == "BadPixels":
        return [(x, y, x + block - 1, y + block - 1) for x, y in zip(values[::2], values[1::2], strict=True)]
    first, extent, start, end = values[:4]
    if keyword == "PartialBadColumn":
        return [(first, start, first + extent - 1, end)]
    if keyword == "PartialBadRow":
        return [(start, first, end, first + extent - 1)]
    top, left, low, last = values[:4]       # UsableArea: 0 means no bound
    around = [(0, 0, right, top - 1)] * (top > 0) + [(0, 0, left - 1, bottom)] * (left > 0)
    around += [(0, low + 1, right, bottom)] * (0 < low < bottom) + [(last + 1, 0, right, bottom)] * (0 < last < right)
    return around
