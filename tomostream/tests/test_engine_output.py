# SPDX-License-Identifier: GPL-3.0-or-later
"""Results are complete under their name, or not there; and the place for compiled code is the user's."""

import contextlib
import errno
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import mrcfile
import numpy as np

from tomostream.engine import numba_cache
from tomostream.engine.output import Outputs
from tomostream.files.errors import EngineError


class TestOutputs(unittest.TestCase):
    """Writing MRC and text files."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def listing(self):
        """What is in the folder."""
        return sorted(path.name for path in self.folder.iterdir())

    def test_an_image_is_a_valid_mrc_file_with_pixel_size_and_statistics(self):
        image = np.random.default_rng(1).normal(1000, 3, (37, 50)).astype(np.float32)
        with Outputs() as outputs:
            outputs.mrc(self.folder / "a.mrc", image, 1.35, "prog 1")
        with open(os.devnull, "w") as nowhere:
            self.assertTrue(mrcfile.validate(self.folder / "a.mrc", print_file=nowhere))
        with mrcfile.open(self.folder / "a.mrc") as mrc:
            np.testing.assert_array_equal(mrc.data, image)
            np.testing.assert_allclose(mrc.voxel_size.tolist(), 1.35, rtol=1e-6)
            np.testing.assert_allclose(
                [mrc.header.dmin, mrc.header.dmax, mrc.header.dmean, mrc.header.rms],
                [image.min(), image.max(), image.mean(dtype=float), image.std(dtype=float)], rtol=1e-5)

    def test_volumes_and_stacks_are_told_apart(self):
        data = np.zeros((3, 8, 8), np.float32)
        with Outputs() as outputs:
            outputs.mrc(self.folder / "v.mrc", data, 2.0, "prog", volume=True)
            outputs.mrc(self.folder / "s.mrc", data, 2.0, "prog")
        with mrcfile.open(self.folder / "v.mrc") as volume, mrcfile.open(self.folder / "s.mrc") as stack:
            self.assertTrue(volume.is_volume())
            self.assertTrue(stack.is_image_stack())
            self.assertEqual(float(stack.voxel_size.z), 2.0)

    def test_a_mapped_file_gets_the_statistics_of_what_was_put_in(self):
        with Outputs() as outputs:
            outputs.mapped_mrc(self.folder / "m.mrc", (2, 4, 5), 1.0, "prog")[1] = 7.0
        with mrcfile.open(self.folder / "m.mrc") as mrc:
            self.assertEqual((mrc.data.sum(), mrc.header.dmax, mrc.header.dmean), (140.0, 7.0, 3.5))

    def test_the_same_data_give_the_same_bytes(self):
        for name in ("a.mrc", "b.mrc"):
            with Outputs() as outputs:
                outputs.mrc(self.folder / name, np.arange(20.0).reshape(4, 5), 1.0, "prog")
        self.assertEqual((self.folder / "a.mrc").read_bytes(), (self.folder / "b.mrc").read_bytes())

    def test_an_error_leaves_nothing_and_what_was_there_stays(self):
        (self.folder / "a.mrc").write_bytes(b"before")
        for kind in (ValueError, KeyboardInterrupt):
            with self.assertRaises(kind), Outputs() as outputs:
                outputs.mrc(self.folder / "a.mrc", np.zeros((4, 4)), 1.0, "prog")
                outputs.text(self.folder / "b.log", "text")
                raise kind
        self.assertEqual(self.listing(), ["a.mrc"])
        self.assertEqual((self.folder / "a.mrc").read_bytes(), b"before")

    def test_the_main_result_gets_its_name_last(self):
        renamed = []
        with mock.patch("os.replace", lambda source, target: renamed.append(os.path.basename(target))), Outputs() as outputs:
            Path(outputs.reserve(self.folder / "volume.mrc")).write_text("3")
            outputs.text(self.folder / "a.aln", "1")
            outputs.text(self.folder / "b.txt", "2")
        self.assertEqual(renamed[-1], "volume.mrc")
        self.assertEqual(sorted(renamed), ["a.aln", "b.txt", "volume.mrc"])

    def test_a_name_that_was_reserved_and_not_written_is_taken_back(self):
        with Outputs() as outputs:
            outputs.reserve(self.folder / "never.mrc")
            outputs.text(self.folder / "a.log", "something")
        self.assertEqual(self.listing(), ["a.log"])

    def test_a_missing_folder_is_said_before_any_work(self):
        with self.assertRaisesRegex(EngineError, "nowhere does not exist"), Outputs() as outputs:
            outputs.reserve(self.folder / "nowhere" / "a.mrc")

    def test_a_folder_as_output_is_refused(self):
        (self.folder / "d").mkdir()
        with self.assertRaisesRegex(EngineError, "it is a folder"), Outputs() as outputs:
            outputs.reserve(self.folder / "d")

    def test_a_folder_that_may_not_be_written_is_said_in_words(self):
        with mock.patch("os.open", side_effect=PermissionError(13, "Permission denied")):
            with self.assertRaisesRegex(EngineError, "a.mrc: permission denied"), Outputs() as outputs:
                outputs.reserve(self.folder / "a.mrc")

    def test_a_signal_while_the_files_get_their_names_comes_too_late(self):
        rename = os.replace

        def interrupted(source, target):
            os.kill(os.getpid(), signal.SIGINT)
            rename(source, target)

        with mock.patch("os.replace", interrupted), Outputs() as outputs:
            for name in ("a.txt", "b.txt", "c.txt"):
                outputs.text(self.folder / name, name)
        self.assertEqual(self.listing(), ["a.txt", "b.txt", "c.txt"])

    def test_signals_while_files_are_removed_leave_none(self):
        remove = os.unlink

        def interrupted(path):
            os.kill(os.getpid(), signal.SIGINT)
            remove(path)

        with mock.patch("os.unlink", interrupted), self.assertRaises(ValueError), Outputs() as outputs:
            for name in ("a.txt", "b.txt", "c.txt"):
                outputs.reserve(self.folder / name)
            raise ValueError
        self.assertEqual(self.listing(), [])

    def test_an_interruption_at_the_moment_a_file_is_made_leaves_nothing(self):
        make = os.open

        def interrupted(*arguments):
            os.close(make(*arguments))
            raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt), Outputs() as outputs, mock.patch("os.open", interrupted):
            outputs.reserve(self.folder / "a.txt")
        self.assertEqual(self.listing(), [])

    def test_a_folder_for_results_stays_with_them_or_goes_with_them(self):
        for fails in (True, False):
            with contextlib.suppress(ValueError), Outputs() as outputs:
                outputs.folder(self.folder / "made")
                outputs.text(self.folder / "made" / "a.txt", "a")
                if fails:
                    raise ValueError
            self.assertEqual(self.listing(), [] if fails else ["made"])
        with self.assertRaises(ValueError), Outputs() as outputs:
            outputs.folder(self.folder / "made")
            raise ValueError
        self.assertEqual(self.listing(), ["made"])

    def test_a_name_as_long_as_a_file_system_takes_can_be_written(self):
        name = "\N{SNOWMAN}" * 83 + ".txt"
        with Outputs() as outputs:
            outputs.text(self.folder / name, "a")
        self.assertEqual(self.listing(), [name])

    def test_a_file_in_the_place_of_the_folder_is_said(self):
        (self.folder / "a").write_text("")
        with self.assertRaisesRegex(EngineError, "a is a file, not a folder"), Outputs() as outputs:
            outputs.reserve(self.folder / "a" / "b.mrc")

    def test_a_full_disk_leaves_nothing_behind(self):
        """A limit on the size of files stands for the end of the disk; it can only be lifted by ending the process."""
        code = f"""
import resource, signal, sys, numpy as np
from tomostream.engine.errors import exit_status
from tomostream.engine.output import Outputs
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
def work():
    with Outputs() as outputs:
        if sys.argv[1] == "map":
            outputs.mapped_mrc({str(self.folder / "a.mrc")!r}, (64, 64), 1.0, "prog")
        outputs.mrc({str(self.folder / "a.mrc")!r}, np.zeros((64, 64)), 1.0, "prog")
    return 0
sys.exit(exit_status("prog", work))
"""
        for how in ("map", "write"):
            done = subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, self.listing()), (1, []), done.stderr)
            self.assertRegex(done.stderr, r"^prog: error: .*a.mrc: file too large.*\n$")


class TestNumbaCache(unittest.TestCase):
    """The folder for compiled code."""

    def test_a_folder_named_by_the_user_is_used_and_one_of_the_user_else(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"NUMBA_CACHE_DIR": folder + "/own"}):
            with mock.patch.dict(sys.modules, {"numba": None}):
                self.assertEqual(numba_cache.prepare(), folder + "/own")
                os.environ.pop("NUMBA_CACHE_DIR")
                os.environ["XDG_CACHE_HOME"] = folder
                self.assertEqual(numba_cache.prepare(), str(Path(folder, "tomostream", "numba", numba_cache.version())))
                self.assertEqual(os.environ["NUMBA_CACHE_DIR"], str(Path(folder, "tomostream", "numba", numba_cache.version())))

    def test_every_version_of_the_loops_has_a_folder_of_its_own(self):
        engine = Path(numba_cache.__file__).parent
        compiled = {str(path.relative_to(engine)) for path in engine.rglob("*.py") if "import numba" in path.read_text()}
        self.assertEqual(compiled - {"numba_cache.py"}, set(numba_cache.COMPILED))
        before = numba_cache.version()
        read = Path.read_bytes
        with mock.patch.object(Path, "read_bytes", lambda path: read(path) + b"#"):
            self.assertNotEqual(numba_cache.version(), before)

    def test_a_folder_into_which_others_could_lay_code_is_not_used(self):
        with tempfile.TemporaryDirectory() as folder:
            for name, mode in (("ours", 0o755), ("of a group", 0o775), ("of all", 0o757)):
                path = Path(folder, name)
                path.mkdir()
                path.chmod(mode)
                self.assertEqual(numba_cache._usable(path), name == "ours", name)
            Path(folder, "of all", "below").mkdir(mode=0o700)       # its name could be given to another folder
            self.assertFalse(numba_cache._usable(Path(folder, "of all", "below")))
            Path(folder, "ours", "link").symlink_to(Path(folder, "of all"))
            self.assertFalse(numba_cache._usable(Path(folder, "ours")))

    def test_a_home_that_is_full_is_not_used_but_compiled_code_in_it_is(self):
        def full(size):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

        with tempfile.TemporaryDirectory() as folder, mock.patch("tempfile.TemporaryFile") as file:
            file.return_value.__enter__.return_value.write = full
            self.assertFalse(numba_cache._usable(Path(folder)))
            (Path(folder) / "kernels.nbi").write_bytes(b".")
            self.assertTrue(numba_cache._usable(Path(folder)))

    def test_files_that_a_crash_cut_short_are_removed(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"NUMBA_CACHE_DIR": folder}):
            for name, data in (("whole.nbi", pickle.dumps(1)), ("empty.nbc", b""), ("cut.nbi", pickle.dumps("x" * 99)[:50])):
                (Path(folder) / name).write_bytes(data)
            with mock.patch.dict(sys.modules, {"numba": None}):
                numba_cache.prepare()
            self.assertEqual(os.listdir(folder), ["whole.nbi"])

    def test_a_folder_that_others_may_write_is_not_trusted(self):
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o777)
            with mock.patch.dict(os.environ, {"NUMBA_CACHE_DIR": folder}), mock.patch.dict(sys.modules, {"numba": None}):
                self.assertNotEqual(numba_cache.prepare(), folder)
