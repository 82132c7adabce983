# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions with folders and names as found in practice: written by the simulator, taken as the import and the compose
protocol take them, and every image of every series compared with what the microscope exposed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
import unittest
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mrcfile
import numpy as np
import tifffile

from tomostream.acquisition import overview
from tomostream.acquisition.matching import Step
from tomostream.cli import main as command
from tomostream.simulator import Plan, SimulatedScene, VirtualClock, Writer
from tomostream.simulator.layout import LAYOUTS, NAMES

SMALL = Plan(series=2, tilts=5, frames=2, size=(48, 40), pixel_size=12.0, drift=1.0, max_shift=2.0, defocus=None)


@dataclass(frozen=True)
class Case:
    """One session: how it is written, what happens to its files, by which step its movies are found, what is reported."""

    plan: Plan
    step: Step = Step.EXACT
    touch: Callable[[Path], None] | None = None
    left: int = 0
    ignored: int = 0
    series: int = 0


def of(layout: str = "standard", names: str = "exact", **changes: object) -> Plan:
    return replace(SMALL, layout=layout, names=names, **changes)


def copies(out: Path) -> None:
    mdoc = out / "mdocs" / "TS_01.mrc.mdoc"
    for name in ("Copy of TS_01.mrc.mdoc", "TS_01.mrc - Copy.mdoc", "TS_01.mrc (1).mdoc"):
        shutil.copy(mdoc, mdoc.with_name(name))


def backup_folder(out: Path) -> None:
    shutil.copytree(out / "mdocs", out / "mdocs" / "backup")


def reference(out: Path) -> None:
    tifffile.imwrite(out / "frames" / "SuperRef_7.tif", np.ones((80, 96), np.float32))


def capitals(out: Path) -> None:
    for path in [*(out / "frames").iterdir(), *(out / "mdocs").iterdir()]:
        path.rename(path.with_name(path.name.replace(".tif", ".TIF").replace(".mdoc", ".MDOC")))


def no_last_line_end(out: Path) -> None:
    for path in (out / "mdocs").iterdir():
        path.write_bytes(path.read_bytes().rstrip(b"\r\n"))
        os.utime(path, (1.0, 1.0))


def earlier(out: Path) -> None:
    text = (out / "mdocs" / "TS_01.mrc.mdoc").read_text()
    for year in ("2026", "2027"):
        text = text.replace(f"-{year}  ", "-2019  ")
    (out / "mdocs" / "old.mrc.mdoc").write_text(text.replace("TS_01_", "old_").replace("TS_01", "old"))


def sections(mdoc: Path) -> list[str]:
    """The sections of an mdoc as frame sets."""
    return [f"[FrameSet = 0]{part.partition(']')[2]}" for part in mdoc.read_text().split("[ZValue = ")[1:]]


def frames_of_all(out: Path) -> None:
    """SerialEM's "Open .mdoc for Frames": one file with the frame sets of the whole session, beside the mdocs of the series."""
    every = [part for path in sorted((out / "mdocs").iterdir()) for part in sections(path)]
    (out / "mdocs" / "session.mdoc").write_text("T = SerialEM: x\nVoltage = 300\n\n" + "".join(every))


def frame_mdocs(out: Path) -> None:
    """One mdoc a movie, and none of a series, which alone tell the tilt axis."""
    for path in sorted((out / "data").glob("*.mdoc")):
        title = next(line for line in path.read_text().splitlines() if "xis" in line and line.startswith("[T"))
        for part in sections(path):
            name = next(line for line in part.splitlines() if line.startswith("SubFramePath")).rpartition("\\")[2]
            (out / "data" / f"{name}.mdoc").write_text(f"T = SerialEM: x\nVoltage = 300\n\n{title}\n\n{part}")
        path.unlink()


def averages(out: Path) -> None:
    for path in list((out / "frames").glob("*.tif")):
        with mrcfile.new(path.with_suffix(".mrc")) as file:
            file.set_data(tifffile.imread(path).mean(0).astype(np.float32))


def aborted(out: Path) -> None:
    """Movies of an acquisition of TS_01 that was started over."""
    for number, path in enumerate(sorted((out / "frames").glob("TS_01_*.tif"))[:2]):
        shutil.copy(path, path.with_name(path.name.replace("TS_01_", f"TS_01_{number}5")))


def commas(out: Path) -> None:
    for path in (out / "mdocs").iterdir():
        lines = [line if line.startswith(("SubFramePath", "ImageFile")) else line.replace(".", ",")
                 for line in path.read_text().splitlines()]
        path.write_text("\n".join([*lines, ""]))


def maps(out: Path) -> None:
    (out / "mdocs" / "map.st.mdoc").write_text("PixelSpacing = 80\n\n[ZValue = 0]\nTiltAngle = 0.01\n\n")
    (out / "mdocs" / "LMM.mrc.mdoc").write_text("Montage = 1\n\n[ZValue = 0]\nTiltAngle = 0.0\n\n[MontSection = 0]\n\n")


CASES = {
    "as the simulator always wrote": Case(of()),
    "movies and mdocs side by side": Case(of("flat")),
    "a folder a series, the same names in each": Case(of("folder-per-series", series=3), Step.FOLDER),
    "two grids, the same names in both": Case(of("two-grids", series=4), Step.FOLDER),
    "two grids, in small letters": Case(of("two-grids", "lower", series=4), Step.FOLDED),
    "two grids, with a prefix": Case(of("two-grids", "prefix", series=4), Step.PREFIX),
    "samples, no SubFramePath": Case(of("samples", series=4), Step.PLACE),
    "in small letters": Case(of(names="lower"), Step.FOLDED),
    "with a prefix": Case(of(names="prefix"), Step.PREFIX),
    "a folder a series, with a prefix": Case(of("folder-per-series", "prefix", series=3), Step.PREFIX),
    "the angle rounded otherwise": Case(of(names="rounded"), Step.ANGLE),
    "blanks and brackets replaced": Case(of(names="brackets"), Step.FOLDED),
    "another extension": Case(of(names="extension"), Step.EXTENSION),
    "accents decomposed": Case(of(names="accents"), Step.FOLDED),
    "targets in turns, side by side": Case(of("flat", series=3, interleave=True)),
    "copies of an mdoc": Case(of(), touch=copies, ignored=3),
    "a backup folder of the mdocs": Case(of(), touch=backup_folder, ignored=2),
    "a gain reference among the movies": Case(of(), touch=reference, left=1),
    "endings in capitals": Case(of(), touch=capitals),
    "no last line end": Case(of(), touch=no_last_line_end),
    "an mdoc of an earlier session": Case(of(), touch=earlier, ignored=1),
    "decimal commas": Case(of(), touch=commas),
    "maps and montages": Case(of(), touch=maps, ignored=2),
    "the frame sets of all in one mdoc": Case(of(), touch=frames_of_all),
    "frame mdocs alone": Case(of("flat"), touch=frame_mdocs),
    "frame mdocs alone, targets in turns": Case(of("flat", series=3, interleave=True), touch=frame_mdocs),
    "averages beside the movies": Case(of(), touch=averages, left=10),
    "movies left over from an aborted acquisition": Case(of(), touch=aborted),
}


class TestRealFolders(unittest.TestCase):
    @contextlib.contextmanager
    def session(self, case: Case) -> Iterator[tuple[SimulatedScene, Path]]:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "session"
            scene = SimulatedScene(case.plan)
            Writer(scene, out, clock=VirtualClock()).run()
            if case.touch is not None:
                case.touch(out)
            yield scene, out

    @staticmethod
    def mdocs(out: Path) -> list[str]:
        return sorted(str(path) for path in out.rglob("*") if path.name.lower().endswith(".mdoc"))

    def check(self, name: str, case: Case) -> None:
        """Every series has the images that were exposed for it, and nothing else."""
        with self.session(case) as (scene, out):
            movies = [str(path) for path in out.rglob("*") if overview.is_movie(str(path))]
            found = overview.survey(self.mdocs(out), movies, 4e9)
            exposed = {(place.mdocs, place.name): [each for each in scene.exposures if each.series == number]
                       for number, place in enumerate(scene.places)}
            self.assertEqual(len(found.series), len(exposed), name)
            self.assertEqual((len(found.left), len(found.ignored)), (case.left, case.ignored), (name, found.left, found.ignored))
            for series in found.series:
                self.assertEqual((series.state, series.missing), ("composed", []), (name, series.reason))
                self.assertIn(case.step, series.steps, name)
                self.assertLessEqual(set(series.steps), {case.step, Step.EXACT}, name)
                where = os.path.relpath(os.path.dirname(series.mdocs[0]), out)
                for exposure, match in zip(exposed[where.removesuffix("/backup"), series.name], series.matches, strict=True):
                    image = tifffile.imread(match.file).astype(float).sum(0)[::-1]
                    np.testing.assert_array_equal(image, scene.render(exposure).astype(float).sum(0), f"{name}: {match.file}")
                    self.assertAlmostEqual(match.tilt.angle, exposure.truth.angle, places=5)

    def test_there_are_enough_of_them_and_every_layout_and_every_kind_of_names_is_among_them(self) -> None:
        self.assertGreaterEqual(len(CASES), 15)
        self.assertEqual({case.plan.layout for case in CASES.values()}, set(LAYOUTS))
        self.assertEqual({case.plan.names for case in CASES.values()}, set(NAMES))

    def test_the_command_says_who_has_what_and_what_is_left_over(self) -> None:
        with self.session(Case(of("two-grids", "prefix", series=4))) as (_, out):
            for path in sorted((out / "grid2" / "frames").iterdir())[:1]:
                path.rename(out / "grid2" / "frames" / "lost.tif")
            text = io.StringIO()
            with contextlib.redirect_stdout(text):
                status = command(["mdoc", str(out), "--movies", str(out / "*" / "frames")])
            self.assertEqual(status, 1)
            lines = text.getvalue().splitlines()
            self.assertEqual(lines[0], "4 tilt series and 20 movies, most of 5 tilts, tilt axis 84.7 degrees, 12 A.")
            self.assertTrue(any("no movie for 1 of 5" in line for line in lines), lines)
            self.assertIn("1 movie in no series:", lines)
            text = io.StringIO()
            with contextlib.redirect_stdout(text):
                command(["mdoc", str(out), "--movies", str(out), "--json"])
            written = json.loads(text.getvalue())
            self.assertEqual(len(written["series"]), 4)
            self.assertEqual(written["series"][0]["tilts"][0]["step"], "prefix")

    def test_the_command_finds_movies_below_a_folder_that_holds_none(self) -> None:
        with self.session(Case(of("samples", series=4))) as (_, out):
            self.assertEqual(len(overview.movie_files(str(out))), 20)
            with contextlib.redirect_stdout(io.StringIO()):
                self.assertEqual(command(["mdoc", str(out), "--movies", str(out)]), 0)

    def test_many_files_get_a_line_each_and_what_differs_comes_first(self) -> None:
        with self.session(Case(of(series=4))) as (_, out):
            text = io.StringIO()
            with contextlib.redirect_stdout(text):
                command(["mdoc", str(out)])
            self.assertEqual(len(text.getvalue().splitlines()), 5)
            self.assertIn("5 tilts from -6 to 6 deg, axis 84.7 deg, 12 A, 300 kV", text.getvalue().splitlines()[0])


def _add(name: str, case: Case) -> None:
    def test(self: TestRealFolders) -> None:
        self.check(name, case)

    setattr(TestRealFolders, f"test_{name.replace(' ', '_').replace(',', '')}", test)


for _name, _case in CASES.items():
    _add(_name, _case)


if __name__ == "__main__":
    unittest.main()
