# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's programs as processes: how soon they answer, where they keep compiled code, what they leave when stopped."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

import numba
import numpy as np
import tifffile

from tomostream.engine import aretomo
from tomostream.programs.aln import AlnFile, AlnRow, format_aln
from tomostream.tests.test_motioncor_engine import DRIFT, drifting, eer_frame, write_eer

MOTIONCOR, ARETOMO = "tomostream.engine.motioncor", "tomostream.engine.aretomo"


def limited_files(size):
    """Let the child write no file longer than `size`: the end of the disk, without a disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


class ProgramTest(unittest.TestCase):
    """A folder with inputs, and programs started in it."""

    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def path(self, *names):
        """A file in the folder."""
        return os.path.join(self.folder, *names)

    def command(self, module, *words):
        """The command line."""
        return [sys.executable, "-m", module, *map(str, words)]

    def run_it(self, module, *words, **kwargs):
        """Run a program to its end."""
        return subprocess.run(self.command(module, *words), cwd=self.folder, env=self.environment, capture_output=True,
                              text=True, check=False, **kwargs)  # fmt: skip

    def start(self, module, *words):
        """Start a program."""
        return subprocess.Popen(self.command(module, *words), cwd=self.folder, env=self.environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip

    def movie(self, size=256, frames=DRIFT):
        """Write a movie; return its name."""
        with tifffile.TiffWriter(self.path("movie.tif")) as writer:
            for frame in drifting(frames, size=size):
                writer.write(frame, compression="lzw", photometric="minisblack", contiguous=False, metadata=None)
        return "movie.tif"

    def eer(self, size=64):
        """Write an EER movie; return its name."""
        rng = np.random.default_rng(3)
        frames = [eer_frame(np.sort(rng.choice(size**2, 900, replace=False)), rng.integers(0, 16, 900), size) for _ in range(4)]
        write_eer(self.path("movie.eer"), frames, size)
        return "movie.eer"

    def series(self):
        """Write a tilt series of noise, its angles and its alignment; return the words that reconstruct it."""
        from tomostream.engine.output import Outputs

        images = np.random.default_rng(1).normal(100, 10, (5, 64, 64)).astype(np.float32)
        with Outputs() as outputs:
            outputs.mrc(self.path("ts.mrc"), images, 10.0, "test")
        rows = tuple(AlnRow(i, 0.0, 0.0, 0.0, 20.0 * (i - 2)) for i in range(5))
        Path(self.path("ts.aln")).write_text(format_aln(AlnFile(rows, (), (64, 64, 5))))
        return ["-InMrc", "ts.mrc", "-AlnFile", "ts.aln", "-VolZ", 32, "--threads", 1]

    def left(self):
        """All files in the folder, but for compiled code."""
        return sorted(name for name in os.listdir(self.folder) if name != "cache")


class TestAnswers(ProgramTest):
    """Help, versions and mistakes are answered at once."""

    def cpu_seconds(self, module, *words):
        """User and system time of a run, the least of three."""
        times = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            self.run_it(module, *words)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(times)

    def test_help_and_wrong_arguments_take_less_than_three_tenths_of_a_second(self):
        cases = [[module, *words] for module in (MOTIONCOR, ARETOMO) for words in (["--help"], ["--version"], ["-Nonsense", 1])]
        cases += [[MOTIONCOR, "-InTiff", "none.tif", "-OutMrc", "o.mrc"], [ARETOMO, "-InMrc", "none.mrc", "-OutMrc", "o.mrc"]]
        for case in cases:
            self.assertLess(self.cpu_seconds(*case), 0.3, case)

    def test_a_mistake_is_one_line_with_the_programs_name_and_status_1(self):
        for module, name in ((MOTIONCOR, "tomostream-motioncor"), (ARETOMO, "tomostream-aretomo")):
            for words in (["-FtBinn", 2], ["-InMrc"], ["-InMrc", "none.mrc", "-OutMrc", "o.mrc", "-TiltRange", -60, 60]):
                done = self.run_it(module, *words)
                self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
                self.assertTrue(done.stderr.startswith(f"{name}: error: "), done.stderr)
                self.assertNotIn("Traceback", done.stderr)
        self.assertEqual(self.left(), [])


class TestCompiledCode(ProgramTest):
    """Compiled code is kept where the user can write."""

    def setUp(self):
        super().setUp()
        self.environment["XDG_CACHE_HOME"] = self.path("cache")
        self.environment.pop("NUMBA_CACHE_DIR", None)

    def compiled(self):
        """The files of the cache and when they were written."""
        return {str(path): path.stat().st_mtime_ns for path in Path(self.path("cache")).rglob("*.nb*")}

    def test_a_second_run_compiles_nothing(self):
        words = ["-InEer", self.eer(), "-OutMrc", "out.mrc"]
        self.assertEqual(self.run_it(MOTIONCOR, *words).returncode, 0)
        first = self.compiled()
        self.assertTrue(first)
        self.assertEqual(self.run_it(MOTIONCOR, *words).returncode, 0)
        self.assertEqual(self.compiled(), first)

    def test_four_started_at_once_without_any_compiled_code_all_give_the_same(self):
        self.eer()
        running = [self.start(MOTIONCOR, "-InEer", "movie.eer", "-OutMrc", f"out{number}.mrc") for number in range(4)]
        for process in running:
            _, said = process.communicate(timeout=300)
            self.assertEqual(process.returncode, 0, said)
        results = {Path(self.path(f"out{number}.mrc")).read_bytes() for number in range(4)}
        self.assertEqual(len(results), 1)

    def test_code_that_was_compiled_and_code_that_is_loaded_give_the_same_bytes(self):
        """Two at once without any compiled code, and one that loads it; alignment and tomogram, all files."""
        from tomostream.tests.test_aretomo_engine import ANGLES, series, write_mrc

        write_mrc(self.path("ts.mrc"), series()[0])
        Path(self.path("ts.tlt")).write_text("".join(f"{angle}\n" for angle in ANGLES))
        words = ["-InMrc", "ts.mrc", "-AngFile", "ts.tlt", "-TiltAxis", 84, "-VolZ", 60, "-OutBin", 2, "--threads", 1]
        results = []
        for names in (("a", "b"), ("c",)):
            for name in names:
                os.mkdir(self.path(name))
            running = [self.start(ARETOMO, *words, "-OutMrc", os.path.join(name, "out.mrc")) for name in names]
            for process in running:
                _, said = process.communicate(timeout=300)
                self.assertEqual(process.returncode, 0, said)
            results += [{path.name: path.read_bytes() for path in Path(self.path(name)).iterdir()} for name in names]
        self.assertEqual(sorted(results[0]), ["out.mrc", "out_projXY.mrc", "out_projXZ.mrc", "ts.aln", "ts_quality.json"])
        for other in results[1:]:
            self.assertEqual([name for name in results[0] if results[0][name] != other.get(name)], [])

    def test_compiled_code_that_a_crash_cut_short_is_compiled_again(self):
        words = ["-InEer", self.eer(), "-OutMrc", "out.mrc"]
        self.assertEqual(self.run_it(MOTIONCOR, *words).returncode, 0)
        first = Path(self.path("out.mrc")).read_bytes()
        for path in self.compiled():
            os.truncate(path, 0)
        done = self.run_it(MOTIONCOR, *words)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(Path(self.path("out.mrc")).read_bytes(), first)

    def test_movies_of_other_formats_need_no_compiled_code(self):
        self.assertEqual(self.run_it(MOTIONCOR, "-InTiff", self.movie(), "-OutMrc", "out.mrc").returncode, 0)
        self.assertFalse(os.path.exists(self.path("cache")))


class TestThreads(unittest.TestCase):
    def test_of_a_second_call_in_one_process_are_as_many_as_it_asks_for_and_compiling_goes_on(self):
        before = os.environ.get("NUMBA_NUM_THREADS")
        self.addCleanup(numba.set_num_threads, numba.get_num_threads())
        with mock.patch.dict(os.environ):
            aretomo._use_threads(1)
            self.assertEqual((numba.get_num_threads(), os.environ.get("NUMBA_NUM_THREADS")), (1, before))


class TestStopping(ProgramTest):
    """A signal at any moment leaves whole results or nothing, and no traceback."""

    def setUp(self):
        super().setUp()
        self.environment["PYTHONUNBUFFERED"] = "1"

    def command(self, module, *words):
        """The command line of the installed command, which begins in `entry`."""
        code = f"import sys; from tomostream.engine.entry import {module.rpartition('.')[2]} as main; sys.exit(main())"
        return [sys.executable, "-c", code, *map(str, words)]

    def check(self, module, words, moments):
        """Stop the program at moments spread over its run, by signals that come once or thrice."""
        before = self.left()
        self.run_it(module, *words)
        whole, begun = self.left(), time.monotonic()
        self.run_it(module, *words)
        lasts = time.monotonic() - begun
        for moment in range(moments):
            for name in set(whole) - set(before):
                Path(self.path(name)).unlink(missing_ok=True)
            process = self.start(module, *words)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1 + lasts * moment / moments)
            for number in [(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[moment % 3]] + [signal.SIGINT] * (moment % 2 * 2):
                process.send_signal(number)
            _, said = process.communicate(timeout=120)
            self.assertIn(self.left(), (before, whole), said)
            self.assertLessEqual(said.count("\n"), 1, said)
            if process.returncode == 0:
                self.assertEqual(self.left(), whole)

    def test_a_movie(self):
        movie = self.movie(512, [(0.5 * i, 0) for i in range(12)])
        self.check(MOTIONCOR, ["-InTiff", movie, "-OutMrc", "out.mrc", "-LogDir", ".", "-SplitSum", 1, "--threads", 2], 6)

    def test_a_tilt_series(self):
        self.check(ARETOMO, [*self.series(), "-OutMrc", "out.mrc"], 6)


class TestWriting(ProgramTest):
    """What cannot be written, or is stopped, leaves nothing."""

    def assert_refused(self, done, reason):
        """One line, status 1."""
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stderr.splitlines()[-1], f"^tomostream-.*: error: .*{reason}")
        self.assertNotIn("Traceback", done.stderr)

    def test_an_output_that_cannot_be_written_is_told_before_the_work(self):
        words = self.series()
        movie = self.movie()
        before = self.left()
        for target in ("/proc/out.mrc", self.path("no", "out.mrc"), self.path("ts.aln", "out.mrc")):
            self.assert_refused(self.run_it(MOTIONCOR, "-InTiff", movie, "-OutMrc", target), "out.mrc")
            self.assert_refused(self.run_it(ARETOMO, *words, "-OutMrc", target), "out.mrc")
        self.assertEqual(self.left(), before)

    def test_a_full_disk_leaves_nothing_behind(self):
        """Files may be 20 kB long: enough for a log, not for an image."""
        words = self.series()
        movie = self.movie()
        self.run_it(ARETOMO, *words, "-OutMrc", "first.mrc")  # compiles, as long as there is room
        before = self.left()
        limit = {"preexec_fn": limited_files(20_000)}
        options = ["-LogDir", ".", "-SplitSum", 1, "-OutStack", 1, "-FmDose", 1, "-PixSize", 1]
        self.assert_refused(self.run_it(MOTIONCOR, "-InTiff", movie, "-OutMrc", "out.mrc", *options, **limit), "out.*too large")
        self.assert_refused(self.run_it(ARETOMO, *words, "-OutMrc", "out.mrc", **limit), "too large")
        self.assertEqual(self.left(), before)

    def test_ctrl_c_and_termination_end_a_process_without_leftovers(self):
        movie = self.movie(1024, [(0.5 * i, 0) for i in range(24)])
        before = self.left()
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            process = self.start(MOTIONCOR, "-InTiff", movie, "-OutMrc", "out.mrc", "-LogDir", ".", "-SplitSum", 1)
            process.stdout.readline()  # it has begun
            process.send_signal(number)
            _, said = process.communicate(timeout=120)
            self.assertEqual((process.returncode, said.count("\n")), (status, 1), said)
            self.assertEqual(self.left(), before)

    def test_a_result_does_not_replace_what_is_read(self):
        movie = self.movie()
        os.symlink(movie, self.path("gain_ODD.mrc"))
        before = Path(self.path(movie)).read_bytes()
        os.link(self.path(movie), self.path("again.mrc"))
        for target in ("again.mrc", "gain.mrc"):
            done = self.run_it(MOTIONCOR, "-InTiff", movie, "-OutMrc", target, "-SplitSum", 1)
            self.assert_refused(done, "would replace movie.tif")
        self.assertEqual(Path(self.path(movie)).read_bytes(), before)

    def test_the_same_input_and_threads_give_the_same_bytes(self):
        words = self.series()
        movie = self.movie()
        for threads in (1, 2):
            found = []
            for _ in range(2):
                options = ["-SplitSum", 1, "-PixSize", 1, "-FmDose", 1, "-LogDir", ".", "--threads", threads]
                self.assertEqual(self.run_it(MOTIONCOR, "-InTiff", movie, "-OutMrc", "out.mrc", *options).returncode, 0)
                self.assertEqual(self.run_it(ARETOMO, *words, "-OutMrc", "vol.mrc").returncode, 0)
                found.append({name: Path(self.path(name)).read_bytes() for name in self.left()})
            self.assertEqual([name for name in found[0] if found[0][name] != found[1][name]], [])


if __name__ == "__main__":
    unittest.main()
