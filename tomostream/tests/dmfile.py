# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of DigitalMicrograph, written as their public description has it: a thumbnail, and an image of floats."""

from __future__ import annotations

import struct

import numpy as np

_GROUP, _DATA, _ARRAY = 20, 21, 20
_ULONG, _FLOAT, _OF_FLOATS, _OF_COLOURS = 5, 6, 2, 23


def dm_file(image: np.ndarray, version: int) -> bytes:
    """A file of version 3 or 4 with an image (rows, columns)."""
    length = "Q" if version == 4 else "I"

    def entry(kind: int, name: str, body: bytes) -> bytes:
        size = struct.pack(">Q", len(body)) if version == 4 else b""
        return struct.pack(">BH", kind, len(name)) + name.encode() + size + body

    def data(name: str, info: list[int], raw: bytes) -> bytes:
        return entry(_DATA, name, b"%%%%" + struct.pack(f">{len(info) + 1}{length}", len(info), *info) + raw)

    def number(name: str, value: int) -> bytes:
        return data(name, [_ULONG], struct.pack("<I", value))

    def real(name: str, value: float) -> bytes:
        return data(name, [_FLOAT], struct.pack("<f", value))

    def tags(entries: list[bytes]) -> bytes:
        return struct.pack(f">BB{length}", 1, 0, len(entries)) + b"".join(entries)

    def group(name: str, entries: list[bytes]) -> bytes:
        return entry(_GROUP, name, tags(entries))

    def of(pixels: np.ndarray, kind: int, encoded: int) -> bytes:
        axis = group("", [real("Origin", 0.0), real("Scale", 1.0), data("Units", [_ARRAY, 4, 2], "nm".encode("utf-16-le"))])
        return group("", [group("ImageData", [
            group("Calibrations", [group("Dimension", [axis, axis])]),
            data("Data", [_ARRAY, encoded, pixels.size], np.ascontiguousarray(pixels).tobytes()),
            number("DataType", kind),
            group("Dimensions", [number("", pixels.shape[1]), number("", pixels.shape[0])])])])

    images = [of(np.zeros((4, 5), "<u4"), _OF_COLOURS, _ULONG), of(image.astype("<f4"), _OF_FLOATS, _FLOAT)]
    root = tags([group("ImageList", images)])
    return struct.pack(f">I{length}I", version, len(root), 1) + root
