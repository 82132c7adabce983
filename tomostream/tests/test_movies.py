# SPDX-License-Identifier: GPL-3.0-or-later
"""Complete, growing or broken: the structure of movie files, as writers leave it at any moment."""

from __future__ import annotations

import os
import random
import struct
import tempfile
import unittest
from pathlib import Path

import mrcfile
import numpy as np
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tomostream.acquisition.movies import BROKEN, COMPLETE, GROWING, UNKNOWN, MovieCheck, check_movie, why_no_movie

SHAPE = (5, 12, 20)


def frames(dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(7).poisson(2.0, SHAPE).astype(dtype)


def eer(count: int = 4, size: int = 16, metadata: bytes = b"", directory_first: bool = False) -> bytes:
    """A BigTIFF as Falcon cameras write: a strip and a directory a frame, chained one after the other."""
    data = bytearray(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
    pointer = 8
    for frame in range(count):
        extra = metadata if frame == 0 else b""
        strip = bytes([127] * 40)
        begin = len(data) + len(extra)
        data += extra + strip
        entries = [(256, 4, 1, size), (257, 4, 1, size), (258, 3, 1, 8), (259, 3, 1, 65001), (273, 16, 1, begin),
                   (279, 16, 1, len(strip)), *([(65001, 7, len(extra), begin - len(extra))] if extra else [])]
        struct.pack_into("<Q", data, pointer, len(data))
        data += struct.pack("<Q", len(entries)) + b"".join(struct.pack("<HHQQ", *entry) for entry in entries)
        pointer = len(data)
        data += struct.pack("<Q", 0)
    return bytes(data)


def tiff_with_directory_last() -> bytes:
    """A classic big-endian TIFF whose directory stands at the end, its offset patched in when all is written."""
    pixels = bytes(range(1, 201))
    head = struct.pack(">2sHI", b"MM", 42, 8 + len(pixels))
    entries = [(256, 4, 1, 20), (257, 4, 1, 10), (258, 3, 1, 8 << 16), (259, 3, 1, 1 << 16), (273, 4, 1, 8),
               (277, 3, 1, 1 << 16), (278, 4, 1, 10), (279, 4, 1, 200)]
    directory = struct.pack(">H", len(entries)) + b"".join(struct.pack(">HHII", *entry) for entry in entries)
    return head + pixels + directory + bytes(4)


def mrc(mode: int, width: int, height: int, count: int, extended: int = 0, order: str = "<", cell: float = 0.0) -> bytes:
    header = bytearray(1024)
    struct.pack_into(f"{order}10i", header, 0, width, height, count, mode, 0, 0, 0, width, height, max(count, 1))
    struct.pack_into(f"{order}3f", header, 40, cell * width, cell * height, float(count))
    struct.pack_into(f"{order}i", header, 92, extended)
    header[208:212] = b"MAP "
    header[212:214] = b"\x44\x44" if order == "<" else b"\x11\x11"
    return bytes(header)


class MovieTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def check(self, name: str, data: bytes) -> MovieCheck:
        path = self.folder / name
        path.write_bytes(data)
        return check_movie(path)

    def written(self, name: str, **options) -> bytes:
        path = self.folder / name
        tifffile.imwrite(path, options.pop("data", frames()), **options)
        return path.read_bytes()

    def assert_no_prefix_is_complete(self, name: str, data: bytes, allowed: int = 0) -> None:
        self.check(name, data)
        complete = []
        for cut in reversed(range(len(data))):
            os.truncate(self.folder / name, cut)
            complete += [cut] if check_movie(self.folder / name).state != GROWING else []
        self.assertLessEqual(len(complete), allowed, complete[:5])


class TestTiff(MovieTest):
    def test_a_whole_tiff_is_complete_and_described(self):
        for dtype in ("uint8", "int16", "uint16", "float32"):
            check = self.check("a.tif", self.written("w.tif", data=frames(dtype)))
            self.assertEqual(check, MovieCheck(COMPLETE, "", 20, 12, 5, dtype, None))

    def test_compressed_tiled_and_big_files_are_complete(self):
        for options in ({"compression": "lzw", "rowsperstrip": 3}, {"compression": "zlib", "tile": (16, 16)},
                        {"bigtiff": True}, {"byteorder": ">"}):
            self.assertEqual(self.check("a.tif", self.written("w.tif", **options)).frames, 5, options)

    def test_the_name_may_be_that_of_another_format(self):
        self.assertEqual(self.check("a.mrc", self.written("w.tif")).state, COMPLETE)

    def test_every_prefix_is_growing(self):
        self.assert_no_prefix_is_complete("a.tif", self.written("w.tif", compression="zlib"))
        self.assert_no_prefix_is_complete("a.tif", tiff_with_directory_last())
        self.assert_no_prefix_is_complete("a.tif", self.written("w.tif"), allowed=16)  # tifffile pads

    def test_a_directory_offset_that_is_patched_in_last_is_waited_for(self):
        whole = tiff_with_directory_last()
        self.assertEqual(self.check("a.tif", whole).frames, 1)
        self.assertEqual(self.check("a.tif", whole[:4] + bytes(4) + whole[8:]).state, GROWING)

    def test_a_file_made_at_its_full_length_and_filled_later_is_growing(self):
        whole = self.written("w.tif", compression="zlib")
        with tifffile.TiffFile(self.folder / "w.tif") as tiff:
            last_strip = max(tiff.pages[-1].dataoffsets)
        for cut in range(0, last_strip, 37):
            self.assertEqual(self.check("a.tif", whole[:cut] + bytes(len(whole) - cut)).state, GROWING, cut)
        last = tiff_with_directory_last()
        self.assertEqual(self.check("a.tif", last[:100] + bytes(len(last) - 100)).state, GROWING)

    def test_strips_without_data_yet_are_growing(self):
        data = bytearray(tiff_with_directory_last())
        place = bytes(data).index(struct.pack(">HHI", 273, 4, 1)) + 8
        struct.pack_into(">I", data, place, 0)
        self.assertEqual(self.check("a.tif", bytes(data)).state, GROWING)

    def test_fewer_bytes_than_the_pixels_need_are_growing(self):
        data = bytearray(tiff_with_directory_last())
        place = bytes(data).index(struct.pack(">HHI", 279, 4, 1)) + 8
        struct.pack_into(">I", data, place, 150)
        self.assertIn("fewer", self.check("a.tif", bytes(data)).reason)

    def test_a_chain_that_bites_its_tail_is_broken(self):
        data = bytearray(tiff_with_directory_last())
        struct.pack_into(">I", data, len(data) - 4, 208)
        self.assertEqual(self.check("a.tif", bytes(data)).state, BROKEN)

    def test_thumbnails_are_no_frames(self):
        path = self.folder / "a.tif"
        with tifffile.TiffWriter(path) as writer:
            for frame in frames():
                writer.write(frame, contiguous=False)
            writer.write(frames()[0, :6, :10], subfiletype=1)
        self.assertEqual(check_movie(path).frames, 5)

    def test_what_is_no_tiff_is_broken(self):
        for data in (b"<html>not found</html>", b"II\x2a\x01" + bytes(100), b"\x89PNG" + bytes(50)):
            self.assertEqual(self.check("a.tif", data).state, BROKEN, data[:4])

    def test_the_resolution_of_a_tiff_gives_the_pixel_size_if_a_movie_can_have_it(self):
        data = self.written("w.tif", resolution=((100_000_000, 1), (100_000_000, 1)), resolutionunit=3)
        self.assertAlmostEqual(self.check("a.tif", data).pixel_size, 1.0)
        data = self.written("w.tif", resolution=(72, 72), resolutionunit=2)
        self.assertIsNone(self.check("a.tif", data).pixel_size)


class TestEer(MovieTest):
    def test_a_whole_eer_file_is_complete(self):
        self.assertEqual(self.check("a.eer", eer()), MovieCheck(COMPLETE, "", 16, 16, 4, "eer", None))

    def test_metadata_give_the_pixel_size(self):
        metadata = b'<metadata><item name="sensorPixelSize.height" unit="m">1.5e-10</item></metadata>'
        self.assertAlmostEqual(self.check("a.eer", eer(metadata=metadata)).pixel_size, 1.5)
        metadata = b'<metadata><item name="sensorPixelSize.height" unit="m">1.4E-05</item></metadata>'
        self.assertIsNone(self.check("a.eer", eer(metadata=metadata)).pixel_size)

    def test_a_prefix_is_growing_until_its_last_directory_says_that_none_follows(self):
        self.assert_no_prefix_is_complete("a.eer", eer())

    def test_an_image_of_another_kind_in_the_file_is_no_frame(self):
        data = bytearray(eer())
        place = bytes(data).index(struct.pack("<HHQ", 259, 3, 1)) + 12
        struct.pack_into("<Q", data, place, 1)
        struct.pack_into("<Q", data, bytes(data).index(struct.pack("<HHQ", 256, 4, 1)) + 12, 2)
        struct.pack_into("<Q", data, bytes(data).index(struct.pack("<HHQ", 257, 4, 1)) + 12, 2)
        check = self.check("a.eer", bytes(data))
        self.assertEqual((check.state, check.width, check.frames, check.dtype), (COMPLETE, 16, 3, "eer"))

    def test_a_file_of_thousands_of_frames_is_followed_to_its_end(self):
        self.assertEqual(self.check("a.eer", eer(count=2000)).frames, 2000)


class TestMrc(MovieTest):
    def test_files_of_all_movie_modes_are_complete_and_every_prefix_is_growing(self):
        for mode, size in ((0, 15), (1, 30), (2, 60), (6, 30), (12, 30), (101, 9)):
            data = mrc(mode, 5, 3, 2, extended=100) + bytes(100 + 2 * size)
            self.assertEqual(self.check("a.mrcs", data).state, COMPLETE, mode)
            self.assert_no_prefix_is_complete("a.mrc", data)

    def test_what_mrcfile_writes_is_complete(self):
        path = self.folder / "a.mrc"
        with mrcfile.new(path) as movie:
            movie.set_data(frames("int16"))
            movie.voxel_size = 1.7
        self.assertEqual(check_movie(path), MovieCheck(COMPLETE, "", 20, 12, 5, "int16", 1.7))

    def test_big_endian_files_are_read(self):
        check = self.check("a.mrc", mrc(1, 4, 4, 3, order=">", cell=2.5) + bytes(96))
        self.assertEqual((check.state, check.frames, check.pixel_size), (COMPLETE, 3, 2.5))

    def test_a_pixel_size_of_exactly_one_is_unknown(self):
        self.assertIsNone(self.check("a.mrc", mrc(1, 4, 4, 3, cell=1.0) + bytes(96)).pixel_size)

    def test_a_header_that_says_no_frames_until_the_end_is_growing(self):
        self.assertEqual(self.check("a.mrc", mrc(1, 4, 4, 0) + bytes(96)).state, GROWING)
        self.assertEqual(self.check("a.mrc", bytes(4096)).state, GROWING)

    def test_more_frames_than_the_header_says_are_growing(self):
        self.assertEqual(self.check("a.mrc", mrc(1, 4, 4, 3) + bytes(96 + 32)).state, GROWING)
        self.assertEqual(self.check("a.mrc", mrc(1, 4, 4, 3) + bytes(96 + 31)).state, COMPLETE)

    def test_headers_that_no_movie_has_are_broken(self):
        for data in (mrc(3, 4, 4, 3), mrc(1, -4, 4, 3), mrc(1, 4, 2_000_000, 3), b"<html>" + bytes([1] * 2000)):
            self.assertEqual(self.check("a.mrc", data + bytes(500)).state, BROKEN)


class TestAnyFile(MovieTest):
    def test_missing_empty_and_odd_files_never_raise(self):
        self.assertEqual(check_movie(self.folder / "none.eer").state, GROWING)
        self.assertEqual(check_movie("a\0b.eer").state, GROWING)
        self.assertEqual(check_movie(self.folder).state, BROKEN)
        self.assertEqual(self.check("a.eer", b"").state, GROWING)
        self.assertEqual(self.check("a.dm4", b"something else").state, UNKNOWN)
        os.mkfifo(self.folder / "pipe.tif")
        self.assertEqual(check_movie(self.folder / "pipe.tif").state, BROKEN)

    def test_every_state_but_complete_has_a_reason(self):
        for data in (b"", b"II", b"junk", bytes(2000), eer()[:500]):
            self.assertTrue(self.check("a.eer", data).reason)

    def test_files_with_wrong_bytes_never_raise(self):
        rng = random.Random(5)
        for name, data in (("a.tif", self.written("w.tif", compression="lzw")), ("a.eer", eer()),
                           ("a.mrc", mrc(1, 4, 4, 3) + bytes(96))):
            for _ in range(150):
                changed = bytearray(data)
                for _ in range(rng.choice((1, 2, 8))):
                    place = rng.randrange(min(len(changed), rng.choice((16, 1100, 10**6))))
                    changed[place] = rng.choice((0, 1, 255, rng.randrange(256)))
                self.assertIn(self.check(name, bytes(changed)).state, (COMPLETE, GROWING, BROKEN))

    @settings(deadline=None, max_examples=100)
    @given(st.sampled_from([b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0", b""]), st.binary(max_size=300),
           st.sampled_from(["a.tif", "a.eer", "a.mrc", "a.xyz"]))
    def test_no_bytes_raise(self, magic, data, name):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_bytes(magic + data)
            self.assertIn(check_movie(path).state, (COMPLETE, GROWING, BROKEN, UNKNOWN))


class TestWhatIsNoMovie(unittest.TestCase):
    def test_one_image_is_an_average_or_a_reference_where_movies_have_frames(self) -> None:
        one, several = MovieCheck("complete", frames=1), MovieCheck("complete", frames=8)
        self.assertIn("average", why_no_movie("/data/TS_01_001_0.0.mrc", one, True))
        self.assertIn("reference", why_no_movie("/data/SuperRef_20260301_1234.mrc", one, False))
        self.assertEqual(why_no_movie("/data/TS_01_001_0.0.mrc", one, False), "")
        self.assertEqual(why_no_movie("/data/SuperRef_20260301_1234.mrc", several, True), "")
        self.assertEqual(why_no_movie("/data/TS_01_001_0.0.tif", MovieCheck("growing", "It ends early."), True), "")


if __name__ == "__main__":
    unittest.main()
