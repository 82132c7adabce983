# SPDX-License-Identifier: GPL-3.0-or-later
"""Movies of every layout and of none: EER codes of any width, TIFF with thumbnails or one directory, damaged files."""

from __future__ import annotations

import struct
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tomostream.acquisition.movies import BROKEN, COMPLETE, GROWING, check_movie
from tomostream.engine.frames import align
from tomostream.engine.frames.movies import open_movie
from tomostream.files.errors import EngineError

SIDE = 16
Events = list[tuple[int, int, int]]
"""Flat pixel, and position in it in x and y, as numbers from the lower end of the pixel."""


def eer_frame(events: Events, bits: tuple[int, int, int], always_position: bool = False) -> bytes:
    """The bits of a frame of SIDE x SIDE pixels whose codes have `bits` for skip and position in x and y."""
    skip_bits, horizontal, vertical = bits
    top, stream, last = (1 << skip_bits) - 1, [], -1

    def put(value: int, width: int) -> None:
        stream.extend((value >> bit) & 1 for bit in range(width))

    def skip(gap: int) -> None:
        while gap >= top:
            put(top, skip_bits)
            if always_position:
                put(0, horizontal + vertical)
            gap -= top
        put(gap, skip_bits)

    for pixel, x, y in events:
        skip(pixel - last - 1)
        put(x ^ (1 << horizontal >> 1), horizontal)
        put(y ^ (1 << vertical >> 1), vertical)
        last = pixel
    skip(SIDE * SIDE - last - 1)
    return np.packbits(np.array(stream, np.uint8), bitorder="little").tobytes()


def eer_file(frames: list[bytes], compression: int = 65002, bits: tuple[int, ...] = (), side: int = SIDE) -> bytes:
    """A TIFF whose pages are streams of events."""
    out, link = bytearray(b"II*\0" + bytes(4)), 4
    for data in frames:
        offset = len(out)
        out += data + b"\0" * (len(data) % 2)
        tags = [(256, 4, side), (257, 4, side), (258, 3, 1), (259, 3, compression), (262, 3, 1), (273, 4, offset),
                (277, 3, 1), (278, 4, side), (279, 4, len(data)),
                *((tag, 3, value) for tag, value in zip((65007, 65008, 65009), bits, strict=False))]
        struct.pack_into("<I", out, link, len(out))
        out += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in tags)
        link = len(out)
        out += bytes(4)
    return bytes(out)


class MovieTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def file(self, data: bytes) -> str:
        path = self.folder / "movie"
        path.write_bytes(data)
        return str(path)

    def total(self, data: bytes, kind: str, upsampling: int = 1) -> np.ndarray:
        """The sum of all frames."""
        movie = open_movie(self.file(data), kind, upsampling)
        self.addCleanup(movie.close)
        return movie.read(0, movie.count)


class TestEer(MovieTest):
    @settings(deadline=None, max_examples=150)
    @given(st.integers(1, 16), st.integers(0, 4), st.integers(0, 4), st.integers(0, 2), st.integers(0, 99),
           st.integers(0, SIDE * SIDE))
    def test_every_electron_of_any_widths_is_counted_in_its_place(self, skip, across, down, doublings, seed, count) -> None:
        rng = np.random.default_rng(seed)
        pixels = np.sort(rng.permutation(SIDE * SIDE)[:count])
        events = [(int(p), int(rng.integers(1 << across)), int(rng.integers(1 << down))) for p in pixels]
        data = eer_file([eer_frame(events, (skip, across, down))] * 2, bits=(skip, across, down))
        if min(across, down) < doublings:
            with self.assertRaisesRegex(EngineError, "too few"):
                self.total(data, "eer", 1 << doublings)
            return
        truth = np.zeros((SIDE << doublings, SIDE << doublings), int)
        for pixel, x, y in events:
            row = (pixel // SIDE << doublings) + (y >> down - doublings)
            truth[row, (pixel % SIDE << doublings) + (x >> across - doublings)] += 2
        np.testing.assert_array_equal(self.total(data, "eer", 1 << doublings), truth)

    def test_widths_that_no_code_can_have_are_refused(self) -> None:
        frame = eer_frame([(5, 0, 0)], (7, 2, 2))
        for bits in ((0, 2, 2), (17, 2, 2), (7, 5, 2), (7, 2, 60000), (65535, 0, 0)):
            with self.assertRaisesRegex(EngineError, "bits"):
                self.total(eer_file([frame], bits=bits), "eer")

    def test_a_field_with_more_values_than_one_is_no_frame(self) -> None:
        data = bytearray(eer_file([eer_frame([(5, 0, 0)], (7, 2, 2))], 65001))
        place = data.rindex(struct.pack("<HHI", 259, 3, 1))
        struct.pack_into("<I", data, place + 4, 2)
        with self.assertRaisesRegex(EngineError, "cannot be decoded|no electron events"):
            self.total(bytes(data), "eer")

    def test_frames_that_would_take_all_memory_are_refused_before_they_do(self) -> None:
        for kind, side in (("eer", 100_000), ("tiff", 40_000)):
            data = eer_file([bytes(100)], 65001 if kind == "eer" else 8, (), side)
            with self.assertRaisesRegex(EngineError, "pixels, which no camera has"):
                self.total(data, kind)

    def test_a_frame_of_another_size_than_the_first_is_refused(self) -> None:
        frame = eer_frame([(5, 0, 0)], (7, 2, 2))
        data = bytearray(eer_file([frame] * 2, 65001))
        place = data.rindex(struct.pack("<HHI", 257, 4, 1)) + 8
        struct.pack_into("<I", data, place, SIDE * 1000)
        with self.assertRaisesRegex(EngineError, "frame 2 is"):
            self.total(bytes(data), "eer")

    @settings(deadline=None, max_examples=200)
    @given(st.sampled_from([65000, 65001, 65002]), st.binary(min_size=1, max_size=80),
           st.tuples(*[st.integers(0, 65535) | st.integers(0, 8)] * 3), st.integers(1, 40), st.sampled_from([1, 2, 4]))
    def test_any_stream_of_any_codec_is_counted_or_refused(self, compression, stream, bits, side, upsampling) -> None:
        try:
            image = self.total(eer_file([stream], compression, bits, side), "eer", upsampling)
        except EngineError:
            return
        self.assertEqual(image.shape, (side * upsampling, side * upsampling))
        self.assertLessEqual(int(image.sum()), len(stream) * 8)


class TestTiff(MovieTest):
    def frames(self, kind: str = "uint16") -> np.ndarray:
        return np.random.default_rng(1).poisson(3.0, (5, 12, 20)).astype(kind)

    def test_a_thumbnail_is_no_frame_for_either_reader(self) -> None:
        frames, path = self.frames(), self.folder / "movie.tif"
        for at_end in (True, False):
            with tifffile.TiffWriter(path) as writer:
                for frame in frames[:5 if at_end else 4]:
                    writer.write(frame, contiguous=False, metadata=None)
                writer.write(frames[0, :6, :10], subfiletype=1, contiguous=False, metadata=None)
                if not at_end:
                    writer.write(frames[4], contiguous=False, metadata=None)
            np.testing.assert_array_equal(self.total(path.read_bytes(), "tiff")[::-1], frames.sum(axis=0))
            self.assertEqual((check_movie(path).state, check_movie(path).frames), (COMPLETE, 5))

    def imagej(self, frames: np.ndarray, order: str) -> bytes:
        """A file with one directory for all frames, as ImageJ writes large ones."""
        path = self.folder / "one.tif"
        tifffile.imwrite(path, frames, imagej=True, byteorder=order)
        with tifffile.TiffFile(path) as file:
            link = file.pages.first.offset + 2 + 12 * len(file.pages.first.tags)
        data = bytearray(path.read_bytes())
        data[link:link + 4] = bytes(4)
        return bytes(data)

    def test_frames_behind_a_single_directory_of_imagej_are_read(self) -> None:
        for order in "<>":
            for kind in ("uint8", "uint16", "float32"):
                frames = self.frames(kind)
                data = self.imagej(frames, order)
                np.testing.assert_array_equal(self.total(data, "tiff")[::-1], frames.sum(axis=0))
                check = check_movie(self.file(data))
                self.assertEqual((check.state, check.frames, check.dtype), (COMPLETE, 5, kind))

    def test_frames_that_are_missing_behind_a_single_directory_are_waited_for(self) -> None:
        data = self.imagej(self.frames("float32"), "<")[:-1500]
        self.assertEqual(check_movie(self.file(data)).state, GROWING)
        with self.assertRaisesRegex(EngineError, "5 frames reach beyond"):
            self.total(data, "tiff")

    @settings(deadline=None, max_examples=200)
    @given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from([0, 1, 2, 3, 4, 127, 128, 255])), max_size=10),
           st.sampled_from(["lzw", "none", "imagej", "eer"]), st.floats(0.3, 1.0))
    def test_a_damaged_file_is_read_or_refused_and_never_called_complete_by_one_reader_alone(self, changes, kind, part):
        data = bytearray(self.whole(kind))
        for place, value in changes:
            data[place % len(data)] = value
        path = self.file(bytes(data[:max(8, int(len(data) * part))]))
        self.assertIn(check_movie(path).state, (COMPLETE, GROWING, BROKEN, "unknown"))
        for reader in ("tiff", "eer"):
            try:
                movie = open_movie(path, reader)
                with_frames = movie.read(0, min(movie.count, 20))
                movie.close()
            except EngineError as error:
                self.assertIn(path, str(error))
            else:
                self.assertEqual(with_frames.shape, movie.shape)

    def whole(self, kind: str) -> bytes:
        """An undamaged file."""
        if kind == "eer":
            return eer_file([eer_frame([(i, 1, 2) for i in range(0, 250, 9)], (7, 2, 2))] * 3, 65001)
        if kind == "imagej":
            return self.imagej(self.frames(), "<")
        path = self.folder / "w.tif"
        tifffile.imwrite(path, self.frames(), compression=None if kind == "none" else kind, metadata=None)
        return path.read_bytes()


class TestWeakFrames(unittest.TestCase):
    def test_frames_of_a_fixed_pattern_do_not_wrap_around(self) -> None:
        for seed, flux, spread in ((38, 0.3, 0.2), (42, 0.3, 0.5)):
            rng = np.random.default_rng(seed)
            rng.choice([0.3, 0.5, 1.0]), rng.choice([0.15, 0.2, 0.3, 0.5])
            response = np.clip(rng.normal(1, spread, (128, 128)), 0.0, None)
            response[rng.random((128, 128)) < 0.01] = 0
            frames = [rng.poisson(flux * response).astype(np.float32) for _ in range(30)]
            with ThreadPoolExecutor(1) as executor:
                motion = align.measure(frames, 1, executor)
            self.assertLess(np.abs(motion.displacement).max(), 3.0, f"seed {seed}")

    def test_a_frame_that_does_not_match_keeps_its_neighbours_place_and_is_named(self) -> None:
        rng = np.random.default_rng(2)
        scene = np.kron(rng.normal(20, 6, (64, 64)), np.ones((2, 2)))
        frames = [rng.poisson(np.clip(np.roll(scene, (0, index), (0, 1)), 0, None)).astype(np.float32) for index in range(8)]
        frames[5] = rng.poisson(np.full((128, 128), 20.0)).astype(np.float32)
        with ThreadPoolExecutor(1) as executor:
            motion = align.measure(frames, 1, executor)
        self.assertEqual(np.nonzero(~motion.measured)[0].tolist(), [5])
        self.assertAlmostEqual(float(motion.displacement[5, 0] - motion.displacement[4, 0]), 1.0, delta=0.3)


if __name__ == "__main__":
    unittest.main()
