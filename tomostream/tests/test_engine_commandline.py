# SPDX-License-Identifier: GPL-3.0-or-later
"""The originals' command-line syntax, and errors as one line with an exit status."""

import contextlib
import errno
import io
import os
import platform
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from tomostream.engine import limits
from tomostream.engine.commandline import Flag, Use, flags, help_text, parse, thread_count
from tomostream.engine.errors import Terminated, exit_status
from tomostream.files.errors import EngineError, sentence_of

KNOWN = flags(
    Flag("-InMrc", help="input"),
    Flag("-FtBin", float, default=(1.0,), low=0.5, unit="px", help="binning"),
    Flag("-TiltAxis", float, (1, 2), (0.0, 1.0), help="axis"),
    Flag("-Throw", int, default=(0,), low=0, help="frames"),
    Flag("-Mag", float, (3, 3), (1.0, 1.0, 0.0), use=Use.WARNED, note="magnification is not corrected"),
    Flag("-Gpu", int, (0, 9), use=Use.SILENT),
)


def status_and_line(work):
    """Run `work` as a program; return its status and what it said on standard error."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        return exit_status("prog", work), said.getvalue()


class TestParse(unittest.TestCase):
    """Command lines are read as the originals read them, and checked where they do not."""

    def test_tags_are_found_in_any_case_and_negative_numbers_are_values(self):
        arguments = parse(["-INMRC", "a.mrc", "-tiltaxis", "-85.3", "-.5"], KNOWN)
        self.assertEqual(arguments.text("-InMrc"), "a.mrc")
        self.assertEqual(arguments.numbers("-TiltAxis"), (-85.3, -0.5))

    def test_values_not_given_come_from_the_default(self):
        self.assertEqual(parse(["-TiltAxis", "3"], KNOWN).numbers("-TiltAxis"), (3.0, 1.0))
        self.assertEqual(parse([], KNOWN).number("-FtBin"), 1.0)
        self.assertEqual(parse([], KNOWN).text("-InMrc"), "")

    def test_a_zero_that_was_given_is_given(self):
        arguments = parse(["-TiltAxis", "0"], KNOWN)
        self.assertTrue(arguments.given("-TiltAxis"))
        self.assertFalse(parse([], KNOWN).given("-TiltAxis"))

    def test_whole_numbers_may_be_written_as_decimals_but_must_be_whole(self):
        self.assertEqual(parse(["-Throw", "2.0"], KNOWN).integer("-Throw"), 2)
        with self.assertRaisesRegex(EngineError, "-Throw needs a whole number, got '1.5'"):
            parse(["-Throw", "1.5"], KNOWN)

    def test_the_first_of_two_counts_with_a_warning(self):
        arguments = parse(["-Throw", "1", "-throw", "2"], KNOWN)
        self.assertEqual(arguments.integer("-Throw"), 1)
        self.assertIn("given twice", arguments.warnings[0])

    def test_an_unknown_tag_is_refused_with_the_nearest_known_one(self):
        with self.assertRaisesRegex(EngineError, "unknown option -InMcr; did you mean -InMrc"):
            parse(["-InMcr", "a"], KNOWN)

    def test_what_is_not_acted_on_is_warned_about_only_if_it_asks_for_something(self):
        self.assertEqual(parse(["-Gpu", "0", "1", "-Mag", "1", "1", "0"], KNOWN).warnings, ())
        warning = parse(["-Mag", "1.01", "1", "0"], KNOWN).warnings[0]
        self.assertEqual(warning, "-Mag 1.01 1 0 is ignored: magnification is not corrected")

    def test_a_path_that_lost_its_quotes_is_refused(self):
        with self.assertRaisesRegex(EngineError, "quote a path with spaces"):
            parse(["-InMrc", "my", "file.mrc"], KNOWN)

    def test_too_many_numbers_are_ignored_with_a_warning(self):
        arguments = parse(["-FtBin", "2", "3"], KNOWN)
        self.assertEqual((arguments.number("-FtBin"), len(arguments.warnings)), (2.0, 1))

    def test_missing_unreadable_and_impossible_values_are_refused(self):
        for words, reason in (
            (["-FtBin"], "needs 1 value"),
            (["-FtBin", "two"], "needs a number"),
            (["-FtBin", "nan"], "finite"),
            (["-FtBin", "0"], "at least 0.5"),
            (["stray"], "'stray' does not follow"),
        ):
            with self.assertRaisesRegex(EngineError, reason):
                parse(words, KNOWN)

    def test_help_and_version_are_answered_whatever_else_is_there(self):
        self.assertTrue(parse(["-Nonsense", "--help"], KNOWN).given("--help"))
        self.assertTrue(parse(["--version", "-FtBin"], KNOWN).given("--version"))

    def test_threads_are_those_asked_for_or_those_allowed(self):
        self.assertEqual(thread_count(parse(["--threads", "3"], KNOWN)), 3)
        self.assertEqual(thread_count(parse(["--threads=5"], KNOWN)), 5)
        self.assertGreaterEqual(thread_count(parse([], KNOWN)), 1)

    def test_a_number_of_threads_that_is_asked_for_wins_over_affinity(self):
        with mock.patch("os.sched_getaffinity", return_value={0}, create=True):
            self.assertEqual(thread_count(parse(["--threads", "6"], KNOWN)), 6)
            self.assertEqual(thread_count(parse([], KNOWN)), 1)
        with self.assertRaisesRegex(EngineError, "--threads must be from 0 to 1024"):
            parse(["--threads", "100000"], KNOWN)

    def test_a_file_name_that_looks_like_an_option_is_explained(self):
        with self.assertRaisesRegex(EngineError, "-InMrc needs 1 value, got 0; .* given as ./-name"):
            parse(["-InMrc", "-a.mrc"], KNOWN)

    def test_a_drop_in_takes_what_its_callers_send(self):
        from tomostream.engine.aretomo import KNOWN

        arguments = parse(["-AlignZ", "333.333", "-OutBin", "0", "-Serial", "1", "-Patch", "5,4", "-DarkTol", "1"], KNOWN)
        self.assertEqual((arguments.number("-AlignZ"), arguments.integers("-Patch")), (333.333, (5, 4)))
        self.assertTrue(parse(["-v"], KNOWN).given("--version"))
        self.assertEqual(parse(["-InMrc", "a,b.mrc"], KNOWN).text("-InMrc"), "a,b.mrc")

    def test_help_names_every_option_with_unit_and_default(self):
        text = help_text("intro", KNOWN)
        for flag in KNOWN.values():
            self.assertIn(flag.tag, text)
        self.assertIn("binning [px] (default 1.0)", text)

    @given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2))
    @settings(deadline=None, max_examples=50)
    def test_any_numbers_come_back_as_they_were_written(self, numbers):
        arguments = parse(["-TiltAxis", *map(repr, numbers)], KNOWN)
        self.assertEqual(arguments.numbers("-TiltAxis")[: len(numbers)], tuple(numbers))


class TestLimits(unittest.TestCase):
    """Processors and memory are those of the container, where there is one."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        affinity = mock.patch("os.sched_getaffinity", return_value=set(range(16)), create=True)
        affinity.start()
        self.addCleanup(affinity.stop)

    def tree(self, groups, **bounds):
        """The kernel's files: the groups of the process, and bounds by path below the tree, `__` for a slash."""
        (self.folder / "groups").write_text(groups)
        for name, value in bounds.items():
            path = self.folder / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(value)
        return str(self.folder / "groups"), str(self.folder)

    def test_without_bounds_the_affinity_counts(self):
        self.assertEqual(limits.cpus(*self.tree("0::/\n", cpu_DOT_max="max 100000\n")), 16)
        self.assertEqual(limits.cpus("/nowhere/at/all", "/nowhere"), 16)

    def test_a_quota_of_version_2_counts_wherever_it_is_above_the_process(self):
        where = self.tree("0::/slurm/job/step\n", slurm__job__cpu_DOT_max="250000 100000\n",
                          slurm__cpu_DOT_max="800000 100000\n", slurm__job__step__cpu_DOT_max="max 100000\n")  # fmt: skip
        self.assertEqual(limits.cpus(*where), 3)

    def test_a_quota_of_version_1_counts(self):
        where = self.tree("4:cpu,cpuacct:/docker/a\n2:memory:/docker/a\n", cpu__docker__a__cpu_DOT_cfs_quota_us="150000\n",
                          cpu__docker__a__cpu_DOT_cfs_period_us="100000\n", cpu__cpu_DOT_cfs_quota_us="-1\n",
                          cpu__cpu_DOT_cfs_period_us="100000\n")  # fmt: skip
        self.assertEqual(limits.cpus(*where), 2)

    def test_free_memory_is_that_of_the_group_where_it_is_less(self):
        where = self.tree("0::/job\n", job__memory_DOT_max="3000000\n", job__memory_DOT_current="2500000\n",
                          job__memory_DOT_stat="anon 1500000\ninactive_file 1000000\n")  # fmt: skip
        self.assertEqual(limits.free_memory(*where), 1500000)
        where = self.tree("2:memory:/job\n", memory__job__memory_DOT_limit_in_bytes="3000000\n",
                          memory__job__memory_DOT_usage_in_bytes="2500000\n")  # fmt: skip
        self.assertEqual(limits.free_memory(*where), 500000)
        self.assertGreater(limits.free_memory(*self.tree("0::/job\n", job__memory_DOT_max="max\n")), 3000000)

    @unittest.skipUnless(platform.libc_ver()[0] == "glibc", "another C library keeps what it keeps")
    def test_memory_that_was_freed_is_used_again_instead_of_being_taken_anew(self):
        code = """
import resource, numpy as np
from tomostream.engine import limits
limits.keep_freed_memory()
faults = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
for _ in range(9):
    np.ones(1 << 22, np.float32)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[1] - faults[0], faults[-1] - faults[1])"""
        ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        first, later = map(int, ran.stdout.split())
        self.assertLess(later, max(first, 8))


class TestErrors(unittest.TestCase):
    """What can be expected to go wrong is one line and a status."""

    def test_an_engine_error_is_one_line_and_status_1(self):
        def work():
            raise EngineError("a.mrc is\ntruncated")

        self.assertEqual(status_and_line(work), (1, "prog: error: a.mrc is truncated\n"))

    def test_a_full_disk_is_said_in_words(self):
        sentence = sentence_of(OSError(errno.ENOSPC, "No space left on device"), "x.mrc")
        self.assertEqual(sentence, "x.mrc: no space is left on the disk")

    def test_ctrl_c_and_sigterm_unwind_and_give_the_shells_status(self):
        cleaned = []

        def work(number):
            try:
                os.kill(os.getpid(), number)
                signal.pause()
            finally:
                cleaned.append(number)

        if not hasattr(signal, "pause"):
            self.skipTest("no POSIX signals here")
        self.assertEqual(status_and_line(lambda: work(signal.SIGINT))[0], 130)
        self.assertEqual(status_and_line(lambda: work(signal.SIGTERM))[0], 143)
        self.assertEqual(cleaned, [signal.SIGINT, signal.SIGTERM])

    def test_more_signals_do_not_cut_short_what_the_first_one_set_off(self):
        cleaned = []

        def work():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                signal.pause()
            finally:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    os.kill(os.getpid(), number)
                cleaned.append(True)

        self.assertEqual(status_and_line(work), (143, "prog: error: terminated; no incomplete file was left\n"))
        self.assertEqual(cleaned, [True])

    def test_a_signal_that_was_lost_in_compiled_code_comes_again(self):
        def work():
            with contextlib.suppress(Terminated):  # as Python does, after it has printed it, in a callback
                os.kill(os.getpid(), signal.SIGTERM)
                signal.pause()
            while True:
                signal.pause()

        with mock.patch("tomostream.engine.errors._PATIENCE", 0.05):
            self.assertEqual(status_and_line(work)[0], 143)
        self.assertEqual(signal.getitimer(signal.ITIMER_REAL), (0.0, 0.0))

    def test_an_error_that_a_signal_led_to_is_not_shown(self):
        def work():
            try:
                os.kill(os.getpid(), signal.SIGINT)
                signal.pause()
            finally:
                raise RuntimeError("release unlocked lock")

        self.assertEqual(status_and_line(work), (130, "prog: error: interrupted; no incomplete file was left\n"))

    def test_signals_that_are_ignored_stay_so(self):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        self.assertEqual(status_and_line(lambda: os.kill(os.getpid(), signal.SIGHUP) or 0), (0, ""))

    def test_a_reader_that_went_away_ends_the_program_in_a_sentence(self):
        def work():
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        with contextlib.redirect_stdout(io.StringIO()):
            status, said = status_and_line(work)
        self.assertEqual((status, said.count("\n")), (1, 1))
        self.assertIn("nobody reads", said)

    def test_the_handler_of_sigterm_is_put_back(self):
        before = signal.getsignal(signal.SIGTERM)
        status_and_line(lambda: 0)
        self.assertIs(signal.getsignal(signal.SIGTERM), before)

    def test_a_defect_keeps_its_traceback(self):
        with self.assertRaises(ZeroDivisionError):
            status_and_line(lambda: 1 // 0)


class TestStartUp(unittest.TestCase):
    """Help does not wait for what the work needs."""

    def test_ctrl_c_before_the_program_is_loaded_and_after_its_end_shows_no_traceback(self):
        before = "import os, signal; from tomostream.engine import entry; entry._end_at_once_on_ctrl_c(); "
        late = "import os, sys; sys.argv = ['p', '--version']; from tomostream.engine import entry; status = entry.motioncor(); "
        kill = "os.kill(os.getpid(), 2); "
        for code, status in ((f"{before}{kill}", -2), (f"{late}{kill} sys.exit(status)", 0)):
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                                  preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip
            self.assertEqual((done.returncode, done.stderr), (status, ""))

    def test_where_the_commands_begin_nothing_else_of_ours_is_imported(self):
        code = "import sys, tomostream.engine.entry; print(*sorted(n for n in sys.modules if n.startswith('tomostream')))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout.split(), ["tomostream", "tomostream.engine", "tomostream.engine.entry"])

    def test_help_imports_no_numerical_library(self):
        code = (
            "import sys; from tomostream.engine.motioncor import main; status = main(['--help']); "
            "heavy = {'numpy', 'scipy', 'numba', 'tifffile', 'mrcfile'} & set(sys.modules); "
            "print(status, sorted(heavy), file=sys.stderr)")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        self.assertEqual(done.stderr.strip(), "0 []")
        self.assertIn("-OutMrc", done.stdout)
