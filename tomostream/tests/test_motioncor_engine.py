# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream-motioncor` on small movies whose truth is known: every format, reference and option, and bad input."""

import contextlib
import io
import os
import signal
import struct
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import mrcfile
import numpy as np
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tomostream.engine.frames import adding, align, interpolation, pipeline, sums
from tomostream.engine.frames.badpixels import outlying_pixels
from tomostream.engine.frames.job import Job
from tomostream.engine.frames.plan import IntegrationEntry, plan_fractions
from tomostream.engine.frames.references import References, usable_gain
from tomostream.engine.frames.store import FrameStore
from tomostream.engine.motioncor import main
from tomostream.programs.motioncor import parse_log
from tomostream.tests.dmfile import dm_file

SIZE = 256


def scene(size=SIZE, seed=1, contrast=0.3):
    """A periodic random image about 1 with detail of some 4 px, as a transform."""
    rng = np.random.default_rng(seed)
    k = np.hypot(np.fft.rfftfreq(size), np.fft.fftfreq(size)[:, None])
    spectrum = np.fft.rfft2(rng.normal(size=(size, size))) * np.exp(-((k / 0.12) ** 2)) * (k > 0)
    image = np.fft.irfft2(spectrum, s=(size, size))
    return spectrum * (contrast / image.std())


def moved(spectrum, x, y):
    """The scene with its content moved by x to the right and y up (row 0 is the bottom)."""
    size = spectrum.shape[0]
    kx, ky = np.fft.rfftfreq(size), np.fft.fftfreq(size)[:, None]
    return 1 + np.fft.irfft2(spectrum * np.exp(-2j * np.pi * (kx * x + ky * y)), s=(size, size))


def drifting(drift, flux=8.0, seed=2, size=SIZE, **kwargs):
    """Counted frames, (n, size, size) uint8, of a scene that drifts; row 0 is the bottom."""
    rng, spectrum = np.random.default_rng(seed), scene(size, **kwargs)
    return np.stack([rng.poisson(np.clip(flux * moved(spectrum, x, y), 0, None)) for x, y in drift]).astype(np.uint8)


DRIFT = np.array([(-5.3, 3.1), (-2.4, 1.2), (-0.8, 0.3), (0.0, 0.0), (0.7, -0.4), (1.1, -1.0)])


def eer_frame(pixels, positions, size, skip_bits=7):
    """The bits of one EER frame: events at sorted flat `pixels`, `positions` the 4 bits as they are stored."""
    top, bits, last = (1 << skip_bits) - 1, [], -1

    def put(value, width):
        bits.extend((value >> bit) & 1 for bit in range(width))

    def skip(gap):
        while gap >= top:
            put(top, skip_bits)
            if skip_bits == 8:
                put(0, 4)
            gap -= top
        put(gap, skip_bits)

    for pixel, position in zip(pixels, positions, strict=True):
        skip(pixel - last - 1)
        put(position, 4)
        last = pixel
    skip(size * size - last - 1)
    return np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes()


def write_eer(path, frames, size, compression=65001):
    """A TIFF whose pages are streams of events: what an EER file is."""
    out, links = bytearray(b"II*\0" + struct.pack("<I", 0)), [4]
    for data in frames:
        offset = len(out)
        out += data + b"\0" * (len(data) % 2)
        tags = [(256, 4, size), (257, 4, size), (258, 3, 1), (259, 3, compression), (262, 3, 1), (273, 4, offset),
                (277, 3, 1), (278, 4, size), (279, 4, len(data))]  # fmt: skip
        struct.pack_into("<I", out, links[-1], len(out))
        out += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in tags)
        links.append(len(out))
        out += struct.pack("<I", 0)
    Path(path).write_bytes(out)


class EngineTest(unittest.TestCase):
    """A folder for files, and the program run in this process."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def path(self, name):
        """A file in the folder."""
        return str(self.folder / name)

    def tiff(self, frames, name="movie.tif", compression="lzw"):
        """Write frames whose row 0 is the bottom as a TIFF, which begins at the top."""
        with tifffile.TiffWriter(self.path(name)) as writer:
            for frame in frames:
                writer.write(np.ascontiguousarray(frame[::-1]), compression=compression, rowsperstrip=16,
                             photometric="minisblack", contiguous=False, metadata=None)  # fmt: skip
        return self.path(name)

    def mrc(self, data, name):
        """Write an array as an MRC file."""
        with mrcfile.new(self.path(name), overwrite=True) as mrc:
            mrc.set_data(data)
        return self.path(name)

    def run_program(self, *words):
        """Run it; return status and what it said on standard error."""
        said, shown = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
            status = main([str(word) for word in words])
        self.shown = shown.getvalue()
        return status, said.getvalue()

    def result(self, *words, out="out.mrc", log=False):
        """Run it on good input; return the image (and the shifts of the log)."""
        extra = ["-LogDir", self.folder] if log else []
        status, said = self.run_program(*words, "-OutMrc", self.path(out), "--threads", 2, *extra)
        self.assertEqual(status, 0, said)
        self.said = said
        return self.image(out)

    def image(self, name):
        """The data of a result."""
        with mrcfile.open(self.path(name)) as mrc:
            self.assertEqual(mrc.header.mode, 2)
            return mrc.data.copy()

    def shifts(self, name="movie-Full.log"):
        """The shifts of the log, (n, 2)."""
        return np.array(parse_log(Path(self.path(name)).read_text()))

    def refused(self, *words, reason):
        """Run it on bad input: status 1, one line with the reason, and no file more than before."""
        before = sorted(os.listdir(self.folder))
        status, said = self.run_program(*words, "-OutMrc", self.path("out.mrc"))
        self.assertEqual(status, 1, said)
        self.assertRegex(said.splitlines()[-1], f"tomostream-motioncor: error: .*{reason}")
        self.assertEqual(sorted(os.listdir(self.folder)), before)


class TestMotion(EngineTest):
    """The measured shifts are minus the true drift."""

    def assert_shifts(self, drift, reference, tolerance=0.12, name="movie-Full.log", frames=None):
        """The log holds the true shifts; `frames` are those that count."""
        error = (self.shifts(name) + (drift - drift[reference]))[frames if frames is not None else slice(None)]
        self.assertLess(np.abs(error - error.mean(axis=0)).max(), tolerance)
        self.assertLess(np.abs(error.mean(axis=0)).max(), tolerance)

    def test_the_drift_of_a_counted_movie_is_found_and_undone(self):
        image = self.result("-InTiff", self.tiff(drifting(DRIFT)), log=True)
        self.assert_shifts(DRIFT, 3)
        ideal = moved(scene(), 0, 0)
        inner = np.s_[16:-16, 16:-16]
        still = drifting(DRIFT).sum(axis=0)
        corrected = np.corrcoef(image[inner].ravel(), ideal[inner].ravel())[0, 1]
        self.assertGreater(corrected, 0.9)
        self.assertGreater(corrected, np.corrcoef(still[inner].ravel(), ideal[inner].ravel())[0, 1] + 0.05)

    def test_upstreams_reader_takes_the_log(self):
        try:
            from motioncorr.convert import parseMovieAlignment2
        except ImportError as error:
            self.skipTest(f"the upstream plugin cannot be imported here: {error}")
        self.result("-InTiff", self.tiff(drifting(DRIFT)), log=True)
        found = np.stack(parseMovieAlignment2(self.path("movie-Full.log")), axis=1)
        np.testing.assert_allclose(found, DRIFT[0] - DRIFT, atol=0.15)  # shifts are minus the drift; the first is 0

    def test_the_reference_frame_stays_in_place(self):
        self.result("-InTiff", self.tiff(drifting(DRIFT)), "-FmRef", 1, log=True)
        self.assertEqual(self.shifts()[0].tolist(), [0.0, 0.0])
        self.assert_shifts(DRIFT, 0)

    def test_the_reference_frame_is_counted_in_the_file(self):
        self.result("-InTiff", self.tiff(drifting(DRIFT)), "-Throw", 1, "-FmRef", 3, log=True)
        np.testing.assert_array_equal(self.shifts()[1], 0)

    def test_places_that_add_up_beyond_the_frame_are_taken_within_it(self):
        """A transform repeats itself: a step across its border is one to the other side."""
        stage = SimpleNamespace(_spectra=SimpleNamespace(size=(100, 200)))
        near = align._Stage._nearest(stage, np.array([[0.0, 0.0], [2.0, 1.0], [198.0, -99.0], [1.0, 2.0], [-1.0, 1.0]]))
        np.testing.assert_allclose(near, [[0, 0], [2, 1], [-2, 1], [1, 2], [-1, 1]])

    def test_frames_beyond_the_outer_groups_do_not_run_away(self):
        moved, heights = np.array([[50.0, 0], [0, 0], [8, 0], [90, 0]]), np.array([1.0, 20.0, 20.0, 1.0])
        found, _ = align._spread(moved, heights, 4, 16)     # 2 px a frame between the groups at 5.5 and 9.5
        np.testing.assert_allclose(found[[0, 3, 5, 9, 12, 15], 0], [-4, -4, -1, 7, 12, 12])

    def test_frames_that_are_nearly_black_tell_nothing_of_the_motion(self):
        rng = np.random.default_rng(1)
        frames = [rng.poisson(mean, (32, 32)).astype(np.float32) for mean in (9, 8, 0.2, 10)] + [np.full((32, 32), 9, np.float32)]
        self.assertEqual(align.has_signal(frames).tolist(), [True, True, False, True, False])
        self.assertTrue(align.has_signal([frame - frame.mean() for frame in frames[:4]]).all())     # no level is known

    def test_groups_are_never_fewer_than_three(self):
        self.result("-InTiff", self.tiff(drifting(DRIFT)), "-Group", 100, log=True)
        self.assertLess(np.abs(self.shifts() + DRIFT - DRIFT[3]).max(), 1.5)

    def test_frames_of_single_bits(self):
        drift = np.array([(-3.0, 2.0), (0.0, 0.0), (2.0, -1.0)])
        self.result("-InTiff", self.tiff(drifting(drift) > 8, compression=None), log=True)
        self.assertLess(np.abs(self.shifts() + drift - drift[1]).max(), 0.3)

    def test_a_drift_of_a_hundred_pixels_is_found(self):
        drift = np.stack([np.linspace(0, 90, 7), np.linspace(0, -45, 7)], axis=1)
        self.result("-InTiff", self.tiff(drifting(drift, flux=4.0, size=512)), log=True)
        self.assert_shifts(drift, 3)

    def test_rectangular_frames_in_either_orientation(self):
        frames = drifting(DRIFT, size=384)
        for name, part in (("wide", np.s_[:, 60:316]), ("tall", np.s_[:, :, 60:316])):
            image = self.result("-InTiff", self.tiff(frames[part], name + ".tif"), log=True)
            self.assertEqual(image.shape, frames[part].shape[1:])
            self.assert_shifts(DRIFT, 3, name=name + "-Full.log")

    def test_blank_frames_do_not_disturb_the_others(self):
        frames = drifting(DRIFT)
        frames[0] = 0
        frames[4] = 255
        self.result("-InTiff", self.tiff(frames), log=True)
        self.assertIn("frames 1, 5 are blank", self.said)
        self.assert_shifts(DRIFT, 3, frames=[1, 2, 3, 5])

    def test_saturated_and_dark_corners_of_a_beam_stop_do_not_hold_the_frames(self):
        frames = drifting(DRIFT, contrast=0.1, flux=20.0, size=512)
        y, x = np.mgrid[:512, :512]
        frames[:, np.hypot(x, y) < 170] = 255
        frames[:, np.hypot(512 - x, 512 - y) < 170] = 0
        self.result("-InTiff", self.tiff(frames), log=True)
        self.assert_shifts(DRIFT, 3)

    def test_frames_of_noise_alone_are_summed_as_they_are(self):
        frames = np.random.default_rng(5).poisson(3.0, (6, SIZE, SIZE)).astype(np.uint8)
        image = self.result("-InTiff", self.tiff(frames), log=True)
        self.assertIn("too little in common", self.said)
        self.assertFalse(self.shifts().any())
        np.testing.assert_array_equal(image, frames.sum(axis=0))

    def test_one_frame_is_copied(self):
        frame = drifting([(0, 0)])
        np.testing.assert_array_equal(self.result("-InTiff", self.tiff(frame), log=True), frame[0])
        self.assertEqual(self.shifts().tolist(), [[0.0, 0.0]])

    def test_frames_can_be_summed_without_alignment(self):
        frames = drifting(DRIFT)
        image = self.result("-InTiff", self.tiff(frames), "-Align", 0, log=True)
        np.testing.assert_array_equal(image, frames.sum(axis=0))
        self.assertFalse(self.shifts().any())

    def test_very_faint_frames_are_grouped_by_themselves(self):
        drift = np.stack([np.linspace(-4, 4, 48), np.linspace(2, -2, 48)], axis=1)
        self.result("-InTiff", self.tiff(drifting(drift, flux=0.05)), log=True)
        self.assert_shifts(drift, 24, tolerance=0.7)

    def test_the_group_option_interpolates_between_groups(self):
        drift = np.stack([np.linspace(-4, 4, 12), np.linspace(2, -2, 12)], axis=1)
        self.result("-InTiff", self.tiff(drifting(drift)), "-Group", 3, 4, log=True)
        self.assert_shifts(drift, 6, tolerance=0.2)

    def test_patches_are_refused_in_one_line_and_the_log_is_where_readers_look(self):
        self.result("-InTiff", self.tiff(drifting(DRIFT)), "-Patch", 5, 5, 20, log=True)
        self.assertEqual(self.said.count("\n"), 1)
        self.assertIn("local motion is not corrected", self.said)
        self.assert_shifts(DRIFT, 3, name="movie-Patch-Full.log")


class TestPrecision(unittest.TestCase):
    """The error is what the noise allows."""

    @staticmethod
    def bound(spectrum, flux, count):
        """Cramer-Rao bound of the RMS error in x and y after the mean over `count` frames is taken out.

        One frame against the mean of the others, of a random field in white noise: Carter, Proc. IEEE 75 (1987) 236.
        """
        size, others = spectrum.shape[0], count - 1
        kx, ky = np.fft.rfftfreq(size), np.fft.fftfreq(size)[:, None]
        ring = np.rint(np.hypot(kx, ky) * size).astype(int).ravel()
        power = np.bincount(ring, np.abs(flux * spectrum).ravel() ** 2) / np.maximum(np.bincount(ring), 1)
        ratio = (power[ring] / (flux * size**2)).reshape(spectrum.shape)
        information = others * ratio**2 / (1 + count * ratio)
        information[:, 1:] *= 2
        by_axis = [(information * (2 * np.pi * k) ** 2).sum() for k in (kx, ky)]
        return float(np.sqrt(np.mean([others / count / own for own in by_axis])))

    def test_faint_frames_are_aligned_to_the_bound(self):
        drift, flux, spectrum = np.tile(DRIFT, (2, 1))[:8], 0.6, scene(contrast=0.15)
        errors = []
        with align_executor() as executor:
            for seed in range(8):
                rng = np.random.default_rng(seed)
                frames = [rng.poisson(np.clip(flux * moved(spectrum, x, y), 0, None)).astype(np.float32) for x, y in drift]
                found = align.measure(frames, 1, executor).displacement
                error = (found - found.mean(axis=0)) - (drift - drift.mean(axis=0))
                errors.append(np.sqrt((error**2).mean()))
        self.assertLess(np.sqrt(np.mean(np.square(errors))), 1.25 * self.bound(spectrum, flux, len(drift)))


class TestFormats(EngineTest):
    """Every format gives the same picture, the right way up."""

    def marked(self):
        """Two counted frames with a bright mark at the left, near the bottom."""
        frames = np.random.default_rng(3).poisson(4.0, (2, 64, 96)).astype(np.uint8)
        frames[:, 5:9, 10:20] = 15
        return frames

    def plain(self, *words):
        """The sum without alignment; the mark is no row of hot pixels."""
        return self.result(*words, "-Align", 0)

    def test_a_tiff_is_turned_over_whatever_its_compression(self):
        frames = self.marked()
        for compression in (None, "lzw", "zlib"):
            image = self.plain("-InTiff", self.tiff(frames, compression=compression))
            np.testing.assert_array_equal(image, frames.sum(axis=0))

    def test_tiff_of_every_number_type(self):
        frames = self.marked()
        for kind in ("u1", "i1", "u2", "i2", "f4"):
            np.testing.assert_array_equal(self.plain("-InTiff", self.tiff(frames.astype(kind))), frames.sum(axis=0))

    def test_mrc_of_every_mode(self):
        frames = self.marked()
        for kind in ("i1", "i2", "u2", "f4", "f2"):
            image = self.plain("-InMrc", self.mrc(frames.astype(kind), f"{kind}.mrc"))
            np.testing.assert_array_equal(image, frames.sum(axis=0))

    def test_the_right_way_up_and_the_right_shifts_whatever_the_format(self):
        """The same frames as TIFF (from the top) and MRC (from the bottom): the same sum and the same log."""
        frames = drifting(DRIFT)
        one = self.result("-InTiff", self.tiff(frames), log=True)
        other = self.result("-InMrc", self.mrc(frames.astype("u2"), "movie2.mrc"), log=True)
        np.testing.assert_allclose(one, other, atol=1e-4)
        np.testing.assert_allclose(self.shifts(), self.shifts("movie2-Full.log"), atol=0.011)

    def test_bytes_above_127_are_counts_unless_the_header_says_signed(self):
        frames = self.marked() * np.uint8(13)
        path = self.mrc(frames.view(np.int8), "bytes.mrc")
        with open(path, "r+b") as file:
            file.seek(76)
            file.write(struct.pack("<3f", 0, 255, 50))
        np.testing.assert_array_equal(self.plain("-InMrc", path), frames.sum(axis=0, dtype=int))

    def test_mrc_of_the_other_byte_order_and_with_an_extended_header(self):
        frames = self.marked()
        self.mrc(frames.astype("i2"), "little.mrc")
        raw = bytearray(Path(self.path("little.mrc")).read_bytes())
        header = np.frombuffer(bytes(raw[:1024]), "<i4").astype(">i4")
        header[23] = 80
        Path(self.path("big.mrc")).write_bytes(header.tobytes() + b"\7" * 80 + frames.astype(">i2").tobytes())
        np.testing.assert_array_equal(self.plain("-InMrc", self.path("big.mrc")), frames.sum(axis=0))

    def test_mrc_of_four_bits_with_an_odd_number_of_columns(self):
        frames = self.marked()[:, :, :95]
        padded = np.pad(frames, ((0, 0), (0, 0), (0, 1)))
        packed = padded[..., 0::2] | padded[..., 1::2] << 4
        header = np.zeros(256, "<i4")
        header[:4] = 95, 64, 2, 101
        Path(self.path("four.mrc")).write_bytes(header.tobytes() + packed.astype("u1").tobytes())
        np.testing.assert_array_equal(
            self.plain("-InMrc", self.path("four.mrc")), self.without_last_column(frames.sum(axis=0)))

    @staticmethod
    def without_last_column(image):
        """Results have even sizes; the odd column goes."""
        return image[:, : image.shape[1] // 2 * 2]

    def test_float_sums_of_one_frame_pass_through(self):
        frame = np.random.default_rng(4).normal(5, 1, (1, 64, 64)).astype("f4")
        np.testing.assert_array_equal(self.result("-InMrc", self.mrc(frame, "one.mrc")), frame[0])


class TestEer(EngineTest):
    """Electron events are counted where they arrived."""

    SIZE = 64

    def movie(self, count=4, seed=1, compression=65001, skip_bits=7):
        """Random events; returns their pixels and stored position bits, frame by frame."""
        rng = np.random.default_rng(seed)
        events = []
        for _ in range(count):
            pixels = np.sort(rng.choice(self.SIZE**2, 60, replace=False))
            events.append((pixels, rng.integers(0, 16, 60)))
        frames = [eer_frame(pixels, positions, self.SIZE, skip_bits) for pixels, positions in events]
        write_eer(self.path("movie.eer"), frames, self.SIZE, compression)
        return events

    def counted(self, events, factor):
        """The truth: row 0 is the first row of the camera; the top bit of a position is inverted."""
        image = np.zeros((self.SIZE * factor,) * 2)
        for pixels, positions in events:
            x, y = (positions & 3) ^ 2, (positions >> 2) ^ 2
            columns = (pixels % self.SIZE) * factor + x * factor // 4
            rows = (pixels // self.SIZE) * factor + y * factor // 4
            np.add.at(image, (rows, columns), 1)
        return image

    def test_events_are_counted_at_every_sampling(self):
        events = self.movie()
        for sampling, factor in ((1, 1), (2, 2), (3, 4)):
            image = self.result("-InEer", self.path("movie.eer"), "-EerSampling", sampling, "-Align", 0)
            np.testing.assert_array_equal(image, self.counted(events, factor))

    def events_of(self, counts, rng):
        """One EER frame with so many events in each pixel (at most one is kept), somewhere in the pixel."""
        pixels = np.flatnonzero(counts.ravel())
        return eer_frame(pixels, rng.integers(0, 16, pixels.size), counts.shape[1])

    def test_the_drift_of_an_eer_movie_is_found_in_pixels_after_up_sampling(self):
        rng, size = np.random.default_rng(8), 256
        drift = np.repeat(DRIFT, 5, axis=0)
        frames = [self.events_of(rng.poisson(np.clip(0.25 * moved(scene(size), x, y), 0, None)), rng) for x, y in drift]
        write_eer(self.path("movie.eer"), frames, size)
        Path(self.path("int.txt")).write_text("30 5 0.1\n")
        for sampling in (1, 2):
            self.result("-InEer", self.path("movie.eer"), "-FmIntFile", self.path("int.txt"), "-EerSampling", sampling, log=True)
            error = self.shifts() + sampling * (DRIFT - DRIFT[3])
            self.assertLess(np.abs(error).max(), 0.35 * sampling)

    def test_a_gain_file_is_flipped_for_eer_and_magnified_with_the_movie(self):
        """A .gain begins at the top, an EER movie at the bottom: -FlipGain 1 brings them together."""
        events = self.movie(count=20)
        gain = np.ones((self.SIZE, self.SIZE), np.float32)
        gain[: self.SIZE // 2, : self.SIZE // 4] = 3
        tifffile.imwrite(self.path("camera.gain"), gain)
        for sampling in (1, 2):
            with mock.patch("tomostream.engine.frames.badpixels.outlying_pixels", lambda i, *_: np.zeros(i.shape, bool)):
                image = self.result("-InEer", self.path("movie.eer"), "-EerSampling", sampling, "-Align", 0,
                                    "-Gain", self.path("camera.gain"), "-FlipGain", 1)  # fmt: skip
            expected = self.counted(events, sampling) * np.kron(gain, np.ones((sampling, sampling)))
            np.testing.assert_allclose(image, expected, rtol=1e-6)

    def test_a_defect_file_speaks_of_the_cameras_pixels(self):
        rng, size = np.random.default_rng(9), 64
        counts = rng.poisson(0.3, (40, size, size))
        counts[:, 10:13, 20:26] = 1
        write_eer(self.path("movie.eer"), [self.events_of(frame, rng) for frame in counts], size)
        Path(self.path("defects.txt")).write_text("20 10 6 3\n")
        image = self.result("-InEer", self.path("movie.eer"), "-EerSampling", 2, "-Align", 0,
                            "-DefectFile", self.path("defects.txt"))  # fmt: skip
        self.assertLess(image[20:26, 40:52].mean(), 1.5 * image.mean())
        self.assertLess(image[20:26, 40:52].mean(), 0.5 * 40 / 4)

    def test_files_of_eight_bits_are_read(self):
        events = self.movie(compression=65000, skip_bits=8)
        np.testing.assert_array_equal(
            self.result("-InEer", self.path("movie.eer"), "-Align", 0), self.counted(events, 1))

    def test_the_integration_file_says_which_frames_are_summed(self):
        events = self.movie(count=11)
        Path(self.path("int.txt")).write_text("8 4 0.1\n3 3 0.1\n")
        self.result("-InEer", self.path("movie.eer"), "-FmIntFile", self.path("int.txt"), "-Align", 0, "-OutStack", 1)
        stack = self.image("out_Stk.mrc")
        self.assertEqual(len(stack), 3)
        for section, part in zip(stack, (events[:4], events[4:8], events[8:]), strict=True):
            np.testing.assert_allclose(section, self.counted(part, 1), atol=1e-4)

    def test_frames_beyond_those_of_the_integration_file_go_with_its_last_line_and_fewer_are_taken_from_its_end(self):
        lines = (IntegrationEntry(8, 4, 0.1), IntegrationEntry(3, 3, 0.2))

        def planned(count, *lines):
            return [(part.first, part.number, round(part.dose, 6)) for part in plan_fractions(count, entries=lines)]

        self.assertEqual(planned(11, *lines), [(0, 4, 0.4), (4, 4, 0.4), (8, 3, 0.6)])
        self.assertEqual(planned(17, *lines), [(0, 4, 0.4), (4, 4, 0.4), (8, 3, 0.6), (11, 3, 0.6), (14, 3, 0.6)])
        self.assertEqual(planned(9, *lines), [(0, 4, 0.4), (4, 5, 0.5)])     # 1 fills no group: it goes with the one before
        self.assertEqual(planned(7, *lines), [(0, 4, 0.4), (4, 3, 0.6)])     # 3 of 7: they begin the next
        self.assertEqual(planned(3, *lines), [(0, 3, 0.6)])

    def test_a_long_file_without_integration_file_is_grouped_with_a_warning(self):
        self.movie(count=90)
        self.result("-InEer", self.path("movie.eer"), "-Align", 0)
        self.assertIn("the 90 frames of the file are summed by 3", self.said)

    def test_a_damaged_stream_and_a_tiff_are_refused(self):
        self.movie()
        raw = bytearray(Path(self.path("movie.eer")).read_bytes())
        raw[8:60] = b"\0" * 52
        Path(self.path("bad.eer")).write_bytes(raw[: len(raw) // 2])
        self.refused("-InEer", self.path("bad.eer"), reason="truncated|more frames|not a readable TIFF")
        self.refused("-InEer", self.tiff(drifting([(0, 0)])), reason="no electron events")
        self.refused("-InTiff", self.path("movie.eer"), reason="give it as -InEer")


class TestReferences(EngineTest):
    """Gain, dark and defects."""

    def asymmetric(self, rows, columns):
        """A gain that tells its eight orientations apart."""
        gain = np.ones((rows, columns), np.float32)
        gain[0, 0], gain[0, -1], gain[-1, 0] = 2, 3, 4
        return gain

    def corners(self, image):
        """Bottom left, bottom right, top left, top right."""
        return tuple(float(image[row, column]) for row in (0, -1) for column in (0, -1))

    def flat(self, rows=48, columns=48):
        """A movie of one frame that is 1 but for a pixel, so that the result is the gain."""
        frame = np.ones((1, rows, columns), np.int16)
        frame[0, rows // 2, columns // 2] = 2
        return self.mrc(frame, "flat.mrc")

    def gained(self, *words):
        """The result without replacement of the corners as hot pixels."""
        with mock.patch("tomostream.engine.frames.badpixels.outlying_pixels", lambda image, *_: np.zeros(image.shape, bool)):
            return self.result("-InMrc", self.flat(), *words)

    def test_a_gain_is_rotated_counter_clockwise_and_then_flipped(self):
        gain = self.mrc(self.asymmetric(48, 48), "gain.mrc")
        # bottom left, bottom right, top left, top right, as one sees them; a quarter counter-clockwise brings the
        # bottom right corner to the top right
        turned = {0: (2, 3, 4, 1), 1: (4, 2, 1, 3), 2: (1, 4, 3, 2), 3: (3, 1, 2, 4)}
        for quarters, (bl, br, tl, tr) in turned.items():
            for flip, expected in ((0, (bl, br, tl, tr)), (1, (tl, tr, bl, br)), (2, (br, bl, tr, tl))):
                image = self.gained("-Gain", gain, "-RotGain", quarters, "-FlipGain", flip)
                self.assertEqual(self.corners(image), expected, (quarters, flip))

    def test_a_gain_in_a_tiff_or_gain_file_is_turned_over_as_a_movie_is(self):
        gain = self.asymmetric(48, 48)
        for name in ("gain.tif", "gain.gain"):
            tifffile.imwrite(self.path(name), gain[::-1])
            self.assertEqual(self.corners(self.gained("-Gain", self.path(name))), (2, 3, 4, 1))

    def test_an_inverse_gain_divides(self):
        gain = self.mrc(self.asymmetric(48, 48), "gain.mrc")
        np.testing.assert_allclose(
            self.corners(self.gained("-Gain", gain, "-InvGain", 1)), (1 / 2, 1 / 3, 1 / 4, 1), rtol=1e-6)

    def test_a_gain_of_half_the_size_is_magnified(self):
        gain = self.mrc(self.asymmetric(24, 24), "gain.mrc")
        image = self.gained("-Gain", gain)
        self.assertEqual(image[:2, :2].tolist(), [[2, 2], [2, 2]])

    def test_a_gain_of_digitalmicrograph_is_read_with_its_first_row_at_the_bottom(self):
        gain = self.asymmetric(48, 48)
        for version in (3, 4):
            path = self.path(f"gain.dm{version}")
            Path(path).write_bytes(dm_file(gain, version))
            self.assertEqual(self.corners(self.gained("-Gain", path)), (2, 3, 4, 1))
            self.assertEqual(self.corners(self.gained("-Gain", path, "-FlipGain", 1)), (4, 1, 2, 3))
            whole = Path(path).read_bytes()
            for name, data in (("cut", whole[:-40]), ("start", whole[:60]), ("empty", b""), ("big", whole[:8] + b"\1" * 8)):
                Path(self.path(f"{name}.dm{version}")).write_bytes(data)
                self.refused("-InMrc", self.flat(), "-Gain", self.path(f"{name}.dm{version}"), reason="copy it again")

    def test_a_gain_of_super_resolution_is_averaged_for_counted_frames(self):
        gain = np.kron(self.asymmetric(48, 48), np.ones((2, 2))) + np.tile([[0.2, -0.2], [0, 0]], (48, 48))
        for quarters, expected in ((0, (2, 3, 4, 1)), (1, (4, 2, 1, 3))):
            image = self.gained("-Gain", self.mrc(gain.astype(np.float32), "super.mrc"), "-RotGain", quarters)
            np.testing.assert_allclose(self.corners(image), expected, rtol=1e-6)
        self.assertIn("the mean of 2 x 2 pixels is used", self.shown)
        gain[1, 1] = 0
        self.gained("-Gain", self.mrc(gain.astype(np.float32), "super.mrc"))
        self.assertIn("replaced 1 bad pixels", self.shown)

    def test_a_dark_reference_is_subtracted_before_the_gain(self):
        gain = self.mrc(np.full((48, 48), 3, np.float32), "gain.mrc")
        dark = self.mrc(np.full((48, 48), 0.5, np.float32), "dark.mrc")
        self.assertEqual(self.gained("-Gain", gain, "-Dark", dark)[0, 0], 1.5)

    def test_the_right_gain_makes_an_uneven_camera_even(self):
        rng = np.random.default_rng(1)
        response = rng.uniform(0.7, 1.3, (SIZE, SIZE))
        truth = np.stack([moved(scene(), x, y) for x, y in DRIFT])
        frames = rng.poisson(np.clip(30 * truth * response, 0, None)).astype(np.uint8)
        gain = self.mrc((1 / response).astype(np.float32), "gain.mrc")
        image = self.result("-InTiff", self.tiff(frames), "-Gain", gain, log=True)
        self.assertLess(np.abs(self.shifts() + DRIFT - DRIFT[3]).max(), 0.1)
        inner = np.s_[16:-16, 16:-16]
        self.assertGreater(np.corrcoef(image[inner].ravel(), truth[3][inner].ravel())[0, 1], 0.95)  # 0.85 without the gain

    def uneven(self):
        """A movie and the gain that makes it even, 5 % of response from pixel to pixel."""
        rng = np.random.default_rng(1)
        response = rng.normal(1, 0.05, (SIZE, SIZE))
        frames = rng.poisson(8 * np.stack([np.clip(moved(scene(), x, y), 0.1, None) for x, y in DRIFT]) * response)
        return self.tiff(frames.astype(np.uint8)), (1 / response).astype(np.float32)

    def test_a_gain_in_the_wrong_orientation_is_noticed_and_the_right_one_named(self):
        movie, gain = self.uneven()
        right = self.mrc(gain, "right.mrc")
        for flags, turned in (("-RotGain 0 -FlipGain 1", gain[::-1]), ("-RotGain 1 -FlipGain 0", np.rot90(gain, 1))):
            wrong = self.mrc(np.ascontiguousarray(turned), "wrong.mrc")
            for asked in ([], ["-RotGain", 2], ["-RotGain", 3, "-FlipGain", 1]):
                self.result("-InTiff", movie, "-Gain", wrong, *asked)
                self.assertIn(f"better with {flags} (", self.said)
            self.result("-InTiff", movie, "-Gain", wrong, *flags.split())
            self.assertEqual(self.said, "")
        self.result("-InTiff", movie, "-Gain", right, "-InvGain", 1)
        self.assertIn("-RotGain 0 -FlipGain 0 -InvGain 0", self.said)
        self.result("-InTiff", movie, "-Gain", right)
        self.assertEqual(self.said, "")

    def test_a_reference_of_another_size_is_refused(self):
        gain = self.mrc(np.ones((48, 30), np.float32), "gain.mrc")
        self.refused("-InMrc", self.flat(), "-Gain", gain, reason="-Gain .* has 30 x 48 pixels, the frames 48 x 48")

    def test_pixels_whose_gain_is_no_number_are_bad(self):
        gain = np.full((48, 48), 2, np.float32)
        gain[3, 5], gain[7, 9], gain[30, 1], gain[40, 40] = np.inf, np.nan, -1, 1e30
        used, bad = usable_gain(self.mrc(gain, "gain.mrc"), (48, 48))
        self.assertEqual(np.argwhere(bad).tolist(), [[3, 5], [7, 9], [30, 1], [40, 40]])
        self.assertEqual((used[bad].tolist(), float(used[0, 0])), ([1, 1, 1, 1], 2.0))

    def test_a_gain_of_zeros_or_of_an_unknown_kind_is_refused(self):
        self.refused("-InMrc", self.flat(), "-Gain", self.mrc(np.zeros((48, 48), "f4"), "g.mrc"), reason="not a gain")
        Path(self.path("g.raw")).write_bytes(b"x")
        self.refused("-InMrc", self.flat(), "-Gain", self.path("g.raw"), reason="give .mrc, .tif, .gain, .dm4 or .dm3")
        self.refused("-InMrc", self.flat(), "-Gain", self.path("none.mrc"), reason="none.mrc does not exist")

    def defective(self):
        """Counted frames with a stuck rectangle and a stuck pixel, and where they are."""
        frames = drifting(DRIFT)
        bad = np.zeros(frames.shape[1:], bool)
        bad[20:24, 30:90] = True
        bad[100, 7] = True
        frames[:, bad] = 40
        return frames, bad

    def assert_repaired(self, image, bad):
        """The bad pixels look like the others."""
        self.assertLess(abs(image[bad].mean() / image[~bad].mean() - 1), 0.15)
        self.assertLess(image[bad].max(), image[~bad].max() * 1.3)

    def test_a_defect_file_counts_from_the_lower_left(self):
        frames, bad = self.defective()
        Path(self.path("defects.txt")).write_text("30 20 60 4\n7 100 1 1\n")
        image = self.result("-InTiff", self.tiff(frames), "-DefectFile", self.path("defects.txt"), "-Align", 0)
        self.assert_repaired(image, bad)

    def test_the_defect_file_of_serialem_counts_from_the_top(self):
        frames, bad = self.defective()
        rows, columns = bad.shape
        Path(self.path("defects.txt")).write_text(
            f"CameraSizeX {columns}\nCameraSizeY {rows}\nRotationAndFlip 0\nUsableArea 0 0 0 0\n"
            f"PartialBadRow {rows - 24} 4 30 89\nBadPixels 7 {rows - 101}\n")
        image = self.result("-InTiff", self.tiff(frames), "-DefectFile", self.path("defects.txt"), "-Align", 0)
        self.assert_repaired(image, bad)
        Path(self.path("defects.txt")).write_text("CameraSizeX 100\nCameraSizeY 30\nBadColumns 7\n")
        self.refused("-InTiff", self.tiff(frames), "-DefectFile", self.path("defects.txt"), reason="for a camera of 100 x 30 ")

    def test_a_defect_map_is_oriented_as_the_movie(self):
        frames, bad = self.defective()
        tifffile.imwrite(self.path("map.tif"), bad[::-1].astype(np.uint8))
        for path in (self.path("map.tif"), self.mrc(bad.astype(np.int8), "map.mrc")):
            self.assert_repaired(self.result("-InTiff", self.tiff(frames), "-DefectMap", path, "-Align", 0), bad)

    def test_hot_pixels_are_found_without_a_map(self):
        frames = drifting(DRIFT)
        bad = np.zeros(frames.shape[1:], bool)
        bad.reshape(-1)[np.random.default_rng(2).choice(bad.size, 50, replace=False)] = True
        frames[:, bad] = 60
        image = self.result("-InTiff", self.tiff(frames), log=True)
        self.assert_repaired(image, bad)
        self.assertIn("50 hot or dead", self.shown)
        self.assertLess(np.abs(self.shifts() + DRIFT - DRIFT[3]).max(), 0.15)

    def outlying(self, total, **more):
        """Places (row, column) of pixels that are hot or dead in a sum of frames."""
        with ThreadPoolExecutor(2) as executor:
            return list(zip(*map(np.ndarray.tolist, np.nonzero(outlying_pixels(total, executor, **more))), strict=True))

    def test_a_very_hot_pixel_does_not_hide_a_hot_one_beside_it(self):
        total = np.random.default_rng(5).poisson(100, (64, 64)).astype(np.float32)
        total[20, 20], total[23, 27] = 60000, 400       # in the next block, which has 1037 on average without a second look
        self.assertEqual(self.outlying(total), [(20, 20), (23, 27)])

    def test_a_pixel_that_never_counts_is_dead_where_many_electrons_came_and_nowhere_else(self):
        total = np.random.default_rng(5).poisson(100, (64, 64)).astype(np.float32)
        total[20, 20] = 0
        self.assertEqual(self.outlying(total), [(20, 20)])
        self.assertEqual(self.outlying(np.random.default_rng(5).poisson(4, (64, 64)).astype(np.float32)), [])

    def test_the_dark_reference_of_every_frame_is_taken_from_their_sum(self):
        rng = np.random.default_rng(6)
        frames, dark = rng.poisson(9, (5, 16, 16)), rng.uniform(1, 2, (16, 16)).astype(np.float32)
        for gain in (None, rng.uniform(0.8, 1.2, (16, 16)).astype(np.float32)):
            references = References(gain, dark)
            for rows in (slice(None), slice(4, 9)):
                expected = sum(references.corrected(frame, slice(None)) for frame in frames)[rows]
                np.testing.assert_allclose(references.corrected_sum(frames.sum(axis=0), 5, rows), expected, rtol=1e-4)

    def test_where_too_many_pixels_look_hot_none_is_replaced(self):
        frames = np.random.default_rng(3).poisson(8, (3, 64, 64)).astype(np.uint8)
        frames[:, 2::8, 2:24:8] = frames[:, 5::8, 5:24:8] = 60       # 48 of 4096
        image = self.result("-InTiff", self.tiff(frames), "-Align", 0)
        self.assertIn("48 pixels look hot, too many to be", self.said)
        np.testing.assert_array_equal(image, frames.sum(axis=0))

    def test_no_pixel_of_a_good_camera_is_called_hot(self):
        frames = drifting(DRIFT)
        frames[:, :, 128:] = np.minimum(frames[:, :, 128:] * 3.0, 255).astype(np.uint8)
        self.result("-InTiff", self.tiff(frames))
        self.assertNotIn("hot", self.shown)

    def test_a_bad_line_of_a_defect_file_is_named(self):
        Path(self.path("defects.txt")).write_text("1 2 3 4\n5 6 7\n")
        self.refused("-InMrc", self.flat(), "-DefectFile", self.path("defects.txt"), reason="line 2: '5 6 7' is not")


class TestSums(EngineTest):
    """Binning, halves, ranges, dose weighting, stacks."""

    def test_sizes_and_pixel_size_after_binning(self):
        frames = drifting(DRIFT[:2])[:, :250, :255]
        for binning, size in ((1, (250, 254)), (1.5, (166, 170)), (2, (124, 128)), (4, (62, 64))):
            image = self.result("-InTiff", self.tiff(frames), "-FtBin", binning, "-PixSize", 1.5)
            self.assertEqual(image.shape, size)
            with mrcfile.open(self.path("out.mrc")) as mrc:
                self.assertAlmostEqual(float(mrc.voxel_size.x), 1.5 * binning, places=4)
            self.assertLess(abs(image.mean() / frames.sum(axis=0).mean() - 1), 0.02)

    def test_pixels_are_as_large_as_the_header_says_where_the_binning_does_not_divide_the_frame(self):
        """Of 251 columns binned by 4 as a whole 62 pixels of 4.05 would be made: a wave would be longer by a hundredth."""
        x = np.arange(251)
        path = self.mrc(np.tile(10 + 2 * np.cos(2 * np.pi * x / 31), (1, 248, 1)).astype(np.float32), "wave.mrc")
        image = self.result("-InMrc", path, "-FtBin", 4)
        self.assertEqual(image.shape, (62, 62))
        expected = 10 + 2 * np.cos(2 * np.pi * (4 * np.arange(62) + (251 - 248) // 2) / 31)
        np.testing.assert_allclose(image, np.tile(expected, (62, 1)), atol=1e-4)
        self.assertEqual(sums.used_window((4092, 5760), 4.0), (slice(2, 4090), slice(0, 5760)))

    def test_fourier_cropping_keeps_a_low_frequency_and_drops_a_high_one(self):
        x = np.arange(SIZE)
        frame = 10 + 2 * np.cos(2 * np.pi * 16 * x / SIZE) + 3 * np.cos(2 * np.pi * 100 * x / SIZE)
        path = self.mrc(np.tile(frame, (1, SIZE, 1)).astype(np.float32), "wave.mrc")
        image = self.result("-InMrc", path, "-FtBin", 2)
        expected = 10 + 2 * np.cos(2 * np.pi * 16 * np.arange(SIZE // 2) / (SIZE // 2))
        np.testing.assert_allclose(image, np.tile(expected, (SIZE // 2, 1)), atol=1e-4)

    def test_the_halves_add_up_and_the_odd_one_has_the_first_frame(self):
        frames = drifting(DRIFT)
        for extra in ([], ["-FtBin", 2]):
            total = self.result("-InTiff", self.tiff(frames), "-SplitSum", 1, *extra)
            np.testing.assert_allclose(self.image("out_ODD.mrc") + self.image("out_EVN.mrc"), total, rtol=1e-5, atol=1e-3)
        self.result("-InTiff", self.tiff(frames), "-SplitSum", 1, "-Align", 0)
        np.testing.assert_array_equal(self.image("out_ODD.mrc"), frames[0::2].sum(axis=0))

    def test_throw_and_trunc_leave_out_the_first_and_last_frames(self):
        frames = drifting(DRIFT)
        image = self.result("-InTiff", self.tiff(frames), "-Throw", 1, "-Trunc", 2, "-Align", 0, log=True)
        np.testing.assert_array_equal(image, frames[1:4].sum(axis=0))
        self.assertEqual(len(self.shifts()), 3)
        self.refused("-InTiff", self.path("movie.tif"), "-Throw", 4, "-Trunc", 2, reason="leave no frame of 6")

    def test_crop_takes_the_centre(self):
        frames = drifting(DRIFT[:1])
        image = self.result("-InTiff", self.tiff(frames), "-Crop", 100, 60)
        np.testing.assert_array_equal(image, frames[0, 98:158, 78:178])
        self.refused("-InTiff", self.path("movie.tif"), "-Crop", 300, 60, reason="larger than the frames")

    def test_the_aligned_stack_adds_up_to_the_sum(self):
        self.result("-InTiff", self.tiff(drifting(DRIFT, flux=20)), "-OutStack", 1, 2)
        stack = self.image("out_Stk.mrc")
        self.assertEqual(len(stack), 3)
        difference = stack.sum(axis=0) - self.image("out.mrc")
        self.assertLess(np.std(difference), 0.5 * np.std(stack.sum(axis=0)))

    def test_subpixel_shifts_keep_the_fine_detail(self):
        """A sum by whole pixels would keep 0.74 of the amplitude at 0.41 cycles a pixel; classes keep 0.93."""
        rng = np.random.default_rng(7)
        shifts = rng.uniform(-4, 4, (40, 2))
        x = np.arange(SIZE)
        k = 2 * np.pi * 105 / SIZE
        waves = [np.tile(np.cos(k * (x + shift[0])), (SIZE, 1)).astype(np.float32) for shift in shifts]
        with align_executor() as executor:
            total = sums.Summation(Plain(waves), shifts, (SIZE, SIZE), 1.0, executor, 1).parts(range(40))(0, SIZE)
        amplitude = 2 * np.abs(np.mean(total[:, 8:-8] * np.exp(-1j * k * x[8:-8]), axis=1)).mean() / 40
        self.assertGreater(amplitude, 0.92)
        self.assertLess(amplitude, 1.01)

    def test_whole_pixels_can_be_asked_for(self):
        frames = drifting(DRIFT)
        image = self.result("-InTiff", self.tiff(frames), "--whole-pixels", log=True)
        expected = np.zeros(image.shape, np.float32)
        for frame, (x, y) in zip(frames, self.shifts(), strict=True):
            adding.add_moved(expected, frame, (round(x), round(y)))
        np.testing.assert_array_equal(image, expected)

    def test_dose_weighting_follows_the_formula(self):
        frame = drifting([(0, 0)], flux=50)[0]
        path = self.tiff([frame] * 5)
        self.result("-InTiff", path, "-PixSize", 2.0, "-FmDose", 3.0, "-InitDose", 10.0, "-SumRange", 4, 10)
        spectrum = np.fft.rfft2(frame.astype(float))
        k = np.hypot(np.fft.rfftfreq(SIZE, 2.0), np.fft.fftfreq(SIZE, 2.0)[:, None])
        k[0, 0] = 1e-9
        critical = 0.24499 * k**-1.6649 + 2.8141
        weights = [np.exp(-dose / (2 * critical)) for dose in (13, 16, 19, 22, 25)]
        norm = np.sqrt(np.mean(np.square(weights), axis=0))
        for name, used in (("out_DW.mrc", weights), ("out_DWS.mrc", weights[1:3])):
            expected = np.fft.irfft2(spectrum * sum(used) / norm, s=frame.shape)
            np.testing.assert_allclose(self.image(name), expected, atol=2e-2)
        np.testing.assert_allclose(self.image("out.mrc"), 5.0 * frame, atol=1e-3)

    def test_after_any_dose_the_weights_are_numbers(self):
        """All weights become 0 in single precision; their ratios, of which the sum is made, do not."""
        path = self.tiff(drifting([(0, 0)] * 3, flux=50))
        self.result("-InTiff", path, "-PixSize", 2.0, "-FmDose", 1.0, "-InitDose", 5000)
        late = self.image("out_DW.mrc")
        self.result("-InTiff", path, "-PixSize", 2.0, "-FmDose", 1.0)
        np.testing.assert_allclose(late, self.image("out_DW.mrc"), atol=1e-2)

    def test_a_range_of_doses_that_is_no_range_selects_no_frame(self):
        fractions = plan_fractions(8, frame_dose=1.0)
        for asked, frames in (((3.0, 5.0), [2, 3, 4]), ((3.0, 4.0), []), ((0.0, 0.0), []), ((2.5, 4.0), [2, 3])):
            self.assertEqual(pipeline.in_range(Job("m.tif", "tiff", "m.mrc", sum_range=asked), fractions), frames)

    def test_without_dose_no_weighted_sum_is_written(self):
        self.result("-InTiff", self.tiff(drifting(DRIFT)), "-PixSize", 2.0)
        self.assertFalse((self.folder / "out_DW.mrc").exists())

    def test_weighting_with_halves_and_binning(self):
        self.result("-InTiff", self.tiff(drifting(DRIFT)), "-PixSize", 2.0, "-FmDose", 1.0, "-SplitSum", 1, "-FtBin", 2,
                    "-SumRange", 0, 0)  # fmt: skip
        np.testing.assert_allclose(self.image("out_ODD.mrc") + self.image("out_EVN.mrc"), self.image("out_DW.mrc"),
                                   atol=1e-3)  # fmt: skip
        self.assertFalse((self.folder / "out_DWS.mrc").exists())

    def test_borders_are_mirrored_not_left_empty(self):
        total, frame = np.zeros((4, 5), np.float32), np.arange(20).reshape(4, 5)
        adding.add_moved(total, frame, (2, -1))
        np.testing.assert_array_equal(total, np.pad(frame, ((0, 1), (2, 0)), mode="symmetric")[1:, :5])


class TestStore(unittest.TestCase):
    def test_a_frame_binned_in_bands_is_what_it_would_be_in_one(self):
        rng = np.random.default_rng(1)
        counts, gain = rng.poisson(3, (403, 50)).astype(np.uint8), rng.uniform(0.9, 1.1, (403, 50)).astype(np.float32)
        movie = mock.Mock(path="movie")
        movie.read.return_value = counts
        kept = FrameStore(movie, plan_fractions(1), (slice(0, 403), slice(0, 50)))
        for references in (References(), References(gain)):
            kept.references = references
            np.testing.assert_array_equal(kept.binned(0, 6), align.binned(references.corrected(counts), 6))


class TestFractions(unittest.TestCase):
    def test_raw_frames_left_over_are_added_to_the_last_fractions(self):
        fractions = plan_fractions(23, entries=(IntegrationEntry(23, 5, 0.1),))
        self.assertEqual([each.number for each in fractions], [5, 6, 6, 6])
        self.assertAlmostEqual(sum(each.dose for each in fractions), 2.3)


class TestInterpolation(unittest.TestCase):
    """Moving by parts of a pixel with a short kernel, and adding frames that reach over the border."""

    @staticmethod
    def wave(shape, frequency, shift=(0.0, 0.0), margin=0):
        """A plane wave about 3 of a frequency (x, y) in cycles a pixel, moved by `shift`; with a margin around `shape`."""
        y, x = np.mgrid[-margin : shape[0] + margin, -margin : shape[1] + margin]
        return 3 + np.cos(2 * np.pi * (frequency[0] * (x - shift[0]) + frequency[1] * (y - shift[1])))

    def summed(self, shape, frequency, moves, half=interpolation.HALF):
        """The sum of waves that are each moved by (x, (y, y, ...))."""
        image = self.wave(shape, frequency, margin=half).astype(np.float32)
        source = adding.MovedFrames((image,), ((0, 0),), len(image))
        columns = [interpolation.Column(x, ys, (source,) * len(ys)) for x, ys in moves]
        work = interpolation.Interpolation(columns, shape, half)
        return np.concatenate([work.rows(first, min(first + 70, shape[0])) for first in range(0, shape[0], 70)])

    @given(st.tuples(*[st.integers(20, 150)] * 2), st.tuples(*[st.floats(-0.4, 0.4)] * 2),
           st.lists(st.tuples(st.floats(-0.75, 0.25), st.lists(st.floats(-0.75, 0.25), min_size=1, max_size=2)),
                    min_size=1, max_size=2))  # fmt: skip
    @settings(deadline=None, max_examples=30)
    def test_waves_up_to_four_fifths_of_nyquist_are_moved_by_what_is_asked(self, shape, frequency, moves):
        truth = sum(self.wave(shape, frequency, (x, y)) for x, ys in moves for y in ys)
        error = self.summed(shape, frequency, [(x, tuple(ys)) for x, ys in moves]) - truth
        self.assertLess(np.abs(error).max(), 0.03 * sum(len(ys) for _, ys in moves))

    def test_a_shift_of_nothing_changes_nothing(self):
        image = np.random.default_rng(1).normal(size=(50, 70)).astype(np.float32)
        source = adding.MovedFrames((np.pad(image, interpolation.HALF),), ((0, 0),), 70)
        work = interpolation.Interpolation([interpolation.Column(0.0, (0.0,), (source,))], image.shape)
        np.testing.assert_allclose(work.rows(0, 50), image, atol=2e-6)

    def test_the_mean_is_kept(self):
        for fraction in (-0.7, -0.5, 0.0, 0.2):
            self.assertAlmostEqual(float(interpolation.kernel(fraction).sum()), 1.0, places=12)

    @given(st.integers(-45, 45), st.integers(-45, 45), st.integers(0, 12), st.integers(1, 30))
    @settings(deadline=None, max_examples=60)
    def test_a_frame_is_added_where_it_belongs_and_mirrored_beyond(self, x, y, margin, band):
        frame = np.random.default_rng(2).integers(0, 99, (40, 46)).astype(np.uint8)
        expected = np.pad(frame, 120, mode="symmetric")
        expected = expected[120 - margin - y : 160 + margin - y, 120 - margin - x : 166 + margin - x]
        if abs(x) + margin > 46 or abs(y) + margin > 40:
            return
        total = np.zeros((40 + 2 * margin, 46 + 2 * margin), np.uint16)
        source = adding.MovedFrames((frame,), ((x + margin, y + margin),), len(total))
        for first in range(0, len(total), band):
            source.add_to(total[first : first + band], first)
        np.testing.assert_array_equal(total, expected)


class Plain:
    """Frames that need no correction."""

    kept = True

    def __init__(self, frames):
        self._frames = frames

    def counts(self, index):
        """A frame."""
        return self._frames[index]

    @staticmethod
    def rows(counts, which):
        """Rows of it."""
        return counts[which]


def align_executor():
    """One thread."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1)


class TestBadInput(EngineTest):
    """Bad input ends in one line and status 1, and leaves nothing behind."""

    def test_a_missing_movie(self):
        self.refused("-InTiff", self.path("none.tif"), reason="none.tif does not exist")

    def test_no_movie_two_movies_or_no_output(self):
        self.refused(reason="give one movie")
        self.refused("-InTiff", "a.tif", "-InMrc", "a.mrc", reason="give one movie")
        status, said = self.run_program("-InTiff", "a.tif")
        self.assertEqual((status, "-OutMrc" in said), (1, True))

    def test_a_folder_and_serial_processing(self):
        self.refused("-InTiff", self.folder, reason="is a folder")
        self.refused("-InTiff", self.folder, "-Serial", 1, reason="once for each movie")
        self.result("-InTiff", self.tiff(drifting(DRIFT)), "-Serial", 1, "-Align", 0)

    def test_truncated_files_at_any_length(self):
        self.tiff(drifting(DRIFT))
        self.mrc(drifting(DRIFT).astype("i2"), "movie.mrc")
        for name, tag in (("movie.tif", "-InTiff"), ("movie.mrc", "-InMrc")):
            whole = Path(self.path(name)).read_bytes()
            for fraction in (0.0, 0.001, 0.3, 0.6, 0.9, 0.999):
                Path(self.path("short")).write_bytes(whole[: int(len(whole) * fraction)])
                self.refused(tag, self.path("short"), reason="truncated|damaged|too short")

    def test_bytes_that_were_changed_anywhere_end_in_a_result_or_in_one_line(self):
        rng, frames = np.random.default_rng(1), drifting(DRIFT[:3], size=96)
        events = [eer_frame(np.sort(rng.choice(96**2, 60, replace=False)), rng.integers(0, 16, 60), 96) for _ in range(3)]
        write_eer(self.path("movie.eer"), events, 96)
        whole = {"-InTiff": self.tiff(frames), "-InMrc": self.mrc(frames.astype("i2"), "m.mrc"), "-InEer": self.path("movie.eer")}
        for tag, path in whole.items():
            good = np.fromfile(path, np.uint8)
            for trial in range(30):
                data = good.copy()
                where = rng.integers(0, len(data) if trial % 2 else min(1100, len(data)), 1 + trial % 5)
                data[where] = rng.integers(0, 256, len(where))
                data.tofile(self.path("bad"))
                status, said = self.run_program(tag, self.path("bad"), "-OutMrc", self.path("out.mrc"), "--threads", 1)
                self.assertIn(status, (0, 1))
                if status == 1:
                    self.assertTrue(said.splitlines()[-1].startswith("tomostream-motioncor: error: "), said)
                    self.assertFalse(os.path.exists(self.path("out.mrc")))
                Path(self.path("out.mrc")).unlink(missing_ok=True)

    def test_a_file_that_becomes_shorter_while_it_is_read(self):
        path = self.mrc(drifting(DRIFT).astype("i2"), "movie.mrc")
        measure = align.measure

        def truncated(*arguments):
            os.truncate(path, 300_000)
            return measure(*arguments)

        with mock.patch.object(align, "measure", truncated), mock.patch("tomostream.engine.frames.store._CACHE_SHARE", 0.0):
            self.refused("-InMrc", path, reason="movie.mrc was truncated while being read")

    def test_a_file_of_another_kind(self):
        Path(self.path("text.mrc")).write_text("This is not a movie. " * 100)
        self.refused("-InMrc", self.path("text.mrc"), reason="not an MRC file")
        self.refused("-InTiff", self.path("text.mrc"), reason="not a readable TIFF")

    def test_values_that_are_not_numbers(self):
        frames = drifting(DRIFT).astype(np.float32)
        frames[2, 5, 5] = np.nan
        self.refused("-InMrc", self.mrc(frames, "nan.mrc"), reason="frame 3 holds values that are not numbers")

    def test_constant_movies(self):
        self.refused("-InTiff", self.tiff(np.full((3, 64, 64), 7, np.uint8)), reason="every frame is constant")

    def test_an_output_folder_that_does_not_exist(self):
        status, said = self.run_program("-InTiff", self.tiff(drifting(DRIFT)), "-OutMrc", self.path("no/out.mrc"))
        self.assertEqual((status, "does not exist" in said), (1, True))
        status, said = self.run_program(
            "-InTiff", self.path("movie.tif"), "-OutMrc", self.path("out.mrc"), "-LogDir", self.path("no"))
        self.assertEqual((status, "does not exist" in said), (1, True))
        self.assertEqual(os.listdir(self.folder), ["movie.tif"])

    def test_a_broken_integration_file(self):
        Path(self.path("int.txt")).write_text("eight 4 0.1\n")
        self.refused("-InTiff", self.tiff(drifting(DRIFT)), "-FmIntFile", self.path("int.txt"), reason="line 1: 'eight")

    def test_frames_too_small_to_work_on(self):
        for rows, columns in ((1, 1), (4, 4), (1, 256)):
            path = self.tiff(drifting(DRIFT)[:, :rows, :columns])
            self.refused("-InTiff", path, reason=f"{columns} x {rows} pixels are too few")
        self.refused("-InTiff", self.tiff(drifting(DRIFT)), "-Crop", 1, 1, reason="-Crop 1 1 is too small")

    def test_halves_of_a_single_frame(self):
        self.refused("-InTiff", self.tiff(drifting(DRIFT[:1])), "-SplitSum", 1, reason="-SplitSum 1 needs two frames or more")

    def test_values_that_no_camera_counts(self):
        self.refused("-InTiff", self.tiff(drifting(DRIFT).astype("f4") * 1e30), reason="frame 1 holds values beyond 1e")
        self.refused("-InTiff", self.tiff(drifting(DRIFT).astype("c8"), compression=None), reason="pixels of type complex64")

    def test_binning_below_1_and_a_range_that_ends_before_it_begins(self):
        path = self.tiff(drifting(DRIFT))
        self.refused("-InTiff", path, "-FtBin", 0.5, reason="-FtBin must be from 1 to 64, got 0.5")
        self.refused("-InTiff", path, "-SumRange", 5, 3, reason="-SumRange 5 3 starts after it ends")

    def test_a_reference_frame_that_is_not_there(self):
        path = self.tiff(drifting(DRIFT))
        self.refused("-InTiff", path, "-FmRef", 7, reason="-FmRef 7 is none of the frames, 1 to 6")
        self.refused("-InTiff", path, "-Throw", 2, "-FmRef", 2, reason="-FmRef 2 is none of the frames, 3 to 6")

    def test_defects_that_are_none(self):
        path = self.tiff(drifting(DRIFT))
        for line, reason in (("inf 1 2 3", "is not 'x y"), ("5 5 -3 2", "a defect of -3 x 2"), ("900 9 3 3", "outside the")):
            Path(self.path("defects.txt")).write_text(line)
            self.refused("-InTiff", path, "-DefectFile", self.path("defects.txt"), reason=f"line 1: .*{reason}")

    def test_a_dose_that_is_not_a_number(self):
        for dose in ("nan", "inf"):
            Path(self.path("int.txt")).write_text(f"6 1 {dose}\n")
            self.refused("-InTiff", self.tiff(drifting(DRIFT)), "-FmIntFile", self.path("int.txt"), reason="line 1: '6 1")

    def test_a_folder_for_a_gain(self):
        self.refused("-InTiff", self.tiff(drifting(DRIFT)), "-Gain", self.folder, reason="-Gain .* is a folder")

    def test_what_will_be_missing_is_said(self):
        path = self.tiff(drifting(DRIFT))
        Path(self.path("int.txt")).write_text("100 1 0.5\n")
        for words, warning in (
            (["-FmDose", 1], "no dose-weighted sum is made: -PixSize is not given"),
            (["-FmDose", 1, "-PixSize", 1, "-kV", 20], "no dose-weighted sum is made: -kV 20"),
            (["-FmDose", 1, "-PixSize", 1, "-SumRange", 50, 100], "no frames end within it \\(at 1 to 6 e/A2\\)"),
            (["-FmIntFile", self.path("int.txt"), "-PixSize", 1], "is for 100 frames, .* has 6"),
            (["-Group", 4], "fewer than three groups of 6 frames"),
        ):
            self.result("-InTiff", path, *words)
            self.assertRegex(self.said, f"^tomostream-motioncor: warning: .*{warning}.*\n$")

    def test_interruption_and_termination_leave_nothing(self):
        path = self.tiff(drifting(DRIFT))
        for number, expected in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            def interrupt(*_, number=number, **__):
                os.kill(os.getpid(), number)
                signal.pause()

            with mock.patch.object(align, "measure", interrupt):
                status, said = self.run_program("-InTiff", path, "-OutMrc", self.path("out.mrc"), "-LogDir", self.folder)
            self.assertEqual(status, expected, said)
            self.assertEqual(os.listdir(self.folder), ["movie.tif"])

    def test_ctf_options_are_accepted_with_one_note(self):
        self.result("-InTiff", self.tiff(drifting(DRIFT[:2])), "-Cs", 2.7, "-AmpCont", 0.07, "-kV", 300, "-Gpu", 0)
        self.assertEqual(self.said.count("\n"), 1)

    def test_what_the_upstream_plugin_sends_is_taken_without_a_word(self):
        words = ("-Throw 0 -Trunc 0 -Patch 0 0 -MaskCent 0 0 -MaskSize 1 1 -FtBin 1.0 -Tol 0.2 -PixSize 1.35 -kV 300.0 "
                 "-Cs 0 -OutStack 0 -Gpu 0 -SumRange 0.0 0.0 -InitDose 0 -FmDose 0.5 -Group 1 4").split()  # fmt: skip
        self.result("-InTiff", self.tiff(drifting(DRIFT)), *words, log=True)
        self.assertEqual(self.said, "")

    def test_a_movie_that_does_not_fit_into_memory_is_decoded_again(self):
        path = self.tiff(drifting(DRIFT))
        Path(self.path("defects.txt")).write_text("30 20 60 4\n")
        words = ["-InTiff", path, "-SplitSum", 1, "-DefectFile", self.path("defects.txt")]
        kept = self.result(*words, log=True)
        with mock.patch("tomostream.engine.frames.store._CACHE_SHARE", 0.0):
            np.testing.assert_array_equal(self.result(*words, log=True), kept)

    def test_the_same_input_gives_the_same_bytes(self):
        path = self.tiff(drifting(DRIFT))
        written = []
        for _ in range(2):
            self.result("-InTiff", path, "-PixSize", 2, "-FmDose", 1, "-SplitSum", 1, log=True)
            written.append([Path(self.path(name)).read_bytes() for name in sorted(os.listdir(self.folder))])
        self.assertEqual(*written)
