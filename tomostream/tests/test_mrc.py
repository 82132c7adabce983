# SPDX-License-Identifier: GPL-3.0-or-later
"""The one MRC reader: what bytes mean, byte orders, packed pixels, and headers of every kind."""

from __future__ import annotations

import struct
import tempfile
import unittest
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tomostream.acquisition.movies import BROKEN, COMPLETE, GROWING, check_movie
from tomostream.engine.recon.stack import open_stack
from tomostream.files.errors import EngineError
from tomostream.files.mrc import open_mrc
from tomostream.files.mrc_header import parse_header

SHAPE = (3, 48, 64)


def images(mean: float = 120.0, spread: float = 30.0) -> np.ndarray:
    """Images of bytes about a mean."""
    values = np.random.default_rng(4).normal(mean, spread, SHAPE)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def mrc(data: bytes, shape: tuple[int, int, int], mode: int = 0, flags: int | None = None,
        limits: tuple[float, float] = (0.0, 0.0), order: str = "<", stamp: str = "") -> bytes:
    """An MRC file; `flags` with IMOD's stamp, None without; `limits` smallest and largest value of the header."""
    header = bytearray(1024)
    sections, rows, columns = shape
    struct.pack_into(f"{order}10i", header, 0, columns, rows, sections, mode, 0, 0, 0, columns, rows, sections)
    struct.pack_into(f"{order}3f", header, 40, 2.5 * columns, 2.5 * rows, 2.5 * sections)
    struct.pack_into(f"{order}2f", header, 76, *limits)
    if flags is not None:
        struct.pack_into(f"{order}2i", header, 152, 1146047817, flags)
    header[208:214] = b"MAP " + (b"\x44\x44" if (stamp or order) == "<" else b"\x11\x11")
    return bytes(header) + data


class MrcTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def file(self, data: bytes) -> str:
        path = self.folder / "stack.mrc"
        path.write_bytes(data)
        return str(path)


class TestBytes(MrcTest):
    def test_unsigned_bytes_are_read_as_they_are_whether_imod_stamped_them_or_not(self) -> None:
        truth = images()
        for flags, limits in ((0, (0.0, 0.0)), (None, (0.0, 0.0)), (None, (1.0, 0.0)), (None, (3.0, 240.0))):
            path = self.file(mrc(truth.tobytes(), SHAPE, flags=flags, limits=limits))
            np.testing.assert_array_equal(np.asarray(open_mrc(path)), truth, f"{flags} {limits}")
            np.testing.assert_array_equal(open_stack(path).section(1), truth[1])
            np.testing.assert_array_equal(open_stack(path).data[2], truth[2])

    def test_signed_bytes_of_imod_get_their_128_back(self) -> None:
        truth = images()
        path = self.file(mrc((truth ^ 128).tobytes(), SHAPE, flags=1))
        np.testing.assert_array_equal(np.asarray(open_mrc(path)), truth)
        np.testing.assert_array_equal(open_stack(path).section(0), truth[0])

    def test_without_a_stamp_a_negative_minimum_or_the_bytes_themselves_say_signed(self) -> None:
        truth = np.clip(np.rint(np.random.default_rng(3).normal(0, 20, SHAPE)), -128, 127).astype(np.int8)
        for limits in ((-90.0, 88.0), (0.0, 0.0)):
            path = self.file(mrc(truth.tobytes(), SHAPE, limits=limits))
            np.testing.assert_array_equal(np.asarray(open_mrc(path)), truth, str(limits))

    def test_a_few_saturated_pixels_do_not_make_counts_signed(self) -> None:
        truth = np.random.default_rng(3).poisson(2.0, SHAPE).astype(np.uint8)
        truth[:, 7, 9] = 255
        np.testing.assert_array_equal(np.asarray(open_mrc(self.file(mrc(truth.tobytes(), SHAPE)))), truth)

    def test_two_pixels_a_byte_are_as_many_columns_for_every_reader(self) -> None:
        truth = np.random.default_rng(3).integers(0, 16, SHAPE).astype(np.uint8)
        packed = truth[..., 0::2] | truth[..., 1::2] << 4
        for mode, flags, columns in ((0, 16, SHAPE[2] // 2), (101, None, SHAPE[2])):
            path = self.file(mrc(packed.tobytes(), (SHAPE[0], SHAPE[1], columns), mode, flags))
            np.testing.assert_array_equal(np.asarray(open_mrc(path)), truth)
            check = check_movie(path)
            self.assertEqual((check.state, check.width, check.height, check.frames), (COMPLETE, 64, 48, 3), check.reason)


class TestByteOrder(MrcTest):
    def test_a_wrong_machine_stamp_is_not_believed(self) -> None:
        truth = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3000
        for order, stamp in (("<", ">"), (">", "<"), (">", ">")):
            path = self.file(mrc(truth.astype(order + "i2").tobytes(), SHAPE, 1, order=order, stamp=stamp))
            np.testing.assert_array_equal(np.asarray(open_mrc(path)), truth)
            check = check_movie(path)
            self.assertEqual((check.state, check.width, check.frames, check.pixel_size), (COMPLETE, 64, 3, 2.5))

    def test_sizes_that_make_sense_in_both_orders_are_read_as_the_smaller_ones(self) -> None:
        """Sides of 256 and 512 are 65536 and 131072 in the other order, and whoever wrote the stamp may have had that."""
        for order in "<>":
            path = self.file(mrc(bytes(256 * 256), (1, 256, 256), 0, order=order))
            self.assertEqual(open_mrc(path).shape, (1, 256, 256))
            for stamp in "<>":
                header = parse_header(mrc(b"", (256, 512, 256), 0, order=order, stamp=stamp))
                self.assertEqual((header.order, header.columns, header.rows, header.sections), (order, 256, 512, 256))


class TestAnyHeader(MrcTest):
    @settings(deadline=None, max_examples=300)
    @given(st.lists(st.tuples(st.integers(0, 255), st.sampled_from([0, 1, 2, 3, 4, 16, 17, 64, 127, 255])), max_size=12),
           st.sampled_from([0, 1, 2, 6, 12, 101]), st.integers(0, 5000))
    def test_any_header_is_read_or_refused_in_a_sentence_and_both_readers_agree(self, changes, mode, length) -> None:
        data = bytearray(mrc(bytes(length), (2, 8, 12), mode, 0))
        for place, value in changes:
            data[place] = value
        path = self.file(bytes(data))
        state = check_movie(path).state
        try:
            stack = open_mrc(path)
            whole = np.asarray(stack)
        except EngineError:
            self.assertIn(state, (GROWING, BROKEN))
        else:
            self.assertEqual(whole.shape, stack.shape)
            self.assertIn(state, (COMPLETE, GROWING))       # growing: there is more behind the last section


if __name__ == "__main__":
    unittest.main()
