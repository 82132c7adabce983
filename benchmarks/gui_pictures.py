# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens a project that ran tomostream's protocols in Scipion's own windows, under a virtual display, and takes pictures.

    python benchmarks/gui_pictures.py PROJECT OUT [--docs docs/images]

OUT/project.png is the project window with the last run selected, OUT/form_*.png are the four forms, OUT/summary_*.png the
summaries of the runs, OUT/viewer_*.png the windows of `Analyze results`, OUT/plot_*.png their plots, OUT/wizard_*.png what the
wizards fill in and OUT/window_*.png the windows in which people decide (thickness, tilts, sign of the angles). Nothing is
installed: what is missing is named. With --docs the pictures of the manual are written as well, small. Ends with status 1
when a form, a summary, a wizard, a viewer or a window raised an error.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import time
import traceback
from typing import Any

from tomostream.cli import home
from tomostream.journal.status import CLASSES

PACKAGES = "xvfb"
SCREEN = (1400, 860)
#: Seconds for Tk to draw what was asked for.
DRAW_SECONDS = 1.0
#: Seconds for a window of ours, a quick reconstruction included.
WINDOW_SECONDS = 240.0
#: Wizard -> the windows that it opens, one after the other; field of a viewer -> its window.
WINDOWS = {"TomoStreamThicknessWizard": ("Progress", "ThicknessWindow"), "TomoStreamSignWizard": ("HandednessWindow",)}
DECISIONS = {"chooseTilts": "TiltsWindow", "checkHand": "HandednessWindow"}
#: Picture of the tour -> its name in the manual.
DOCS = {"project": "project", "form_compose": "form_compose", "form_compose_4": "form_alarms",
        "form_aretomo": "form_aretomo", "wizard_import": "wizard_import", "plot_aretomo_showAlignment": "plot_alignment",
        "plot_compose_showTilts": "plot_acquisition", "window_thickness": "window_thickness", "window_tilts": "window_tilts",
        "window_handedness": "window_handedness"}
#: Pictures have a palette of so many colours, which keeps them small.
COLOURS = 128


class Stop(Exception):
    """What the user must do first, in one sentence."""


@contextlib.contextmanager
def display():
    """A virtual display of our own, whatever DISPLAY says: the pictures must not depend on somebody's desktop."""
    program = shutil.which("Xvfb")
    if program is None:
        raise Stop(f"There is no virtual display here: apt-get install -y --no-install-recommends {PACKAGES}")
    read_end, write_end = os.pipe()
    server = subprocess.Popen([program, "-displayfd", str(write_end), "-screen", "0", f"{SCREEN[0]}x{SCREEN[1]}x24"],
                              pass_fds=(write_end,), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(write_end)
    with os.fdopen(read_end, encoding="ascii") as pipe:
        number = pipe.readline().strip()
    if not number:
        raise Stop("Xvfb did not start.")
    os.environ["DISPLAY"] = f":{number}"
    try:
        yield
    finally:
        server.terminate()
        server.wait()


class Camera:
    """Takes pictures of Tk windows and notes what went wrong in them."""

    def __init__(self, out: str) -> None:
        self.out = out
        self.taken: list[str] = []
        self.errors: list[str] = []

    @staticmethod
    def draw(root, seconds: float = DRAW_SECONDS) -> None:
        """Let Tk work for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            root.update()
            time.sleep(0.02)

    def take(self, window, name: str, height: int | None = None) -> None:
        """A picture of a window as it is on the screen."""
        from PIL import ImageGrab

        window.lift()
        self.draw(window)
        left, top = max(0, window.winfo_rootx()), max(0, window.winfo_rooty())
        right = min(SCREEN[0], left + window.winfo_width())
        bottom = min(SCREEN[1], top + (height or window.winfo_height()))
        picture = ImageGrab.grab(xdisplay=os.environ["DISPLAY"]).crop((left, top, right, bottom))
        path = os.path.join(self.out, f"{name}.png")
        picture.convert("P", palette=1, colors=COLOURS).save(f"{path}.part", format="PNG", optimize=True)
        os.replace(f"{path}.part", path)
        self.taken.append(path)

    @contextlib.contextmanager
    def watching(self, what: str):
        """An error in one window is noted, and the tour goes on."""
        try:
            yield
        except Exception:  # noqa: BLE001 - whatever a window raises is what this looks for
            self.errors.append(f"{what}:\n{traceback.format_exc()}")


def open_project(path: str):
    """Scipion's project window."""
    from pyworkflow.config import Config

    Config.getDomain().getProtocols()
    from pyworkflow.gui.project.project import ProjectWindow

    window = ProjectWindow(path)
    window.root.geometry(f"{SCREEN[0]}x{SCREEN[1]}+0+0")
    window.root.deiconify()
    return window


def runs_of(window) -> dict[str, object]:
    """The four runs of a project by their short names."""
    names = {value: key for key, value in CLASSES.items()}
    return {names[run.getClassName()]: run for run in window.project.getRuns() if run.getClassName() in names}


def choose_view(window, name: str) -> None:
    """The tree at the left, as the selector at its top chooses it."""
    view = window.getViewWidget()
    view.settings.setProtocolView(name)
    view.protCfg = view.getCurrentProtocolView()
    view.updateProtocolsTree(view.protCfg)
    for widget in widgets_of(window.root, "TCombobox"):
        if name in widget.cget("values"):
            widget.set(name)


def select(view, run) -> None:
    """A click on a box."""
    items = [node.item for node in view.project.getRunsGraph().getNodes()
             if node.run is not None and node.run.getObjId() == run.getObjId() and hasattr(node, "item")]
    for item in items:
        view.runsGraphCanvas.selectItem(item)
        view._runItemClick(item)


def summaries(window, camera: Camera, runs: dict[str, Any]) -> None:
    """Each run selected: the project window with its summary and its methods."""
    view = window.getViewWidget()
    for name, run in runs.items():
        with camera.watching(f"summary of {name}"):
            select(view, run)
            camera.take(window.root, f"summary_{name}")
            text = " ".join(run.summary() + run.methods())
            if "Error" in text or "Traceback" in text:
                camera.errors.append(f"summary of {name}: {text}")


def forms(window, camera: Camera, runs: dict[str, Any], expert: bool) -> None:
    """The four forms, every tab of each."""
    from pyworkflow.gui.form import FormWindow

    for name, run in runs.items():
        with camera.watching(f"form of {name}"):
            form = FormWindow(f"Protocol Run: {run.getClassName()}", run, lambda *_: None, window)
            if expert:
                form.protocol.expertLevel.set(1)
                form._onExpertLevelChanged()
            form.adjustSize()
            form.root.geometry("+20+10")
            form.root.deiconify()
            camera.draw(form.root)
            for number, tab in enumerate(tabs_of(form)):
                tab.select(number)
                camera.take(form.root, f"form_{name}" + (f"_{number + 1}" if number else ""))
            form.root.destroy()


def wizards(window, camera: Camera, runs: dict[str, Any]) -> None:
    """The wizards of ours: what they fill in and say."""
    from pyworkflow.gui.form import FormWindow

    for name, run in runs.items():
        with camera.watching(f"wizards of {name}"):
            copy = window.project.newProtocol(run.getClass())
            copy.copyDefinitionAttributes(run)
            form = FormWindow(f"Protocol Run: {run.getClassName()}", copy, lambda *_: None, window)
            said: list[str] = []
            form.showInfo = lambda text, *_, said=said: said.append(text)
            ours = {each for each in form.wizards.values() if each.__module__.startswith("tomostream.")}
            for wizard in sorted(ours, key=lambda each: each.__name__):
                wizard().show(form)
                for kind in WINDOWS.get(wizard.__name__, ()):
                    visit(window, camera, kind)
            if ours:
                print("\n".join(said))
                form.adjustSize()
                form.root.geometry("+20+10")
                form.root.deiconify()
                camera.take(form.root, f"wizard_{name}")
            form.root.destroy()


def visit(window, camera: Camera, name: str) -> None:
    """A window of ours, as soon as it is there; what is chosen in it is what it proposes."""
    import tomostream.windows.base as base

    end = time.monotonic() + WINDOW_SECONDS
    while time.monotonic() < end:
        camera.draw(window.root, 0.3)
        found = [each for each in toplevels(window.root.nametowidget("."), base.Window) if type(each).__name__ == name]
        if found:
            break
    else:
        camera.errors.append(f"{name} did not appear within {WINDOW_SECONDS:.0f} s")
        return
    shown = found[-1]
    shown.geometry("+10+10")
    if name == "TiltsWindow":
        shown.mark()
    camera.take(shown, f"window_{name.removesuffix('Window').lower()}")
    if name == "ThicknessWindow":
        shown.use()
    elif name != "Progress":
        shown.destroy()


def toplevels(root, kind: Any) -> list:
    """All windows of a class below another one."""
    found = [child for child in root.winfo_children() if isinstance(child, kind) and child.winfo_exists()]
    return found + [each for child in root.winfo_children() for each in toplevels(child, kind)]


def menu(window, camera: Camera, runs: dict[str, Any]) -> None:
    """The action of ours in the menu of a box, called as Scipion's canvas calls it."""
    for name in ("compose", "aretomo"):
        with camera.watching(f"menu of {name}"):
            offered = dict(runs[name].getActions())
            if not offered:
                camera.errors.append(f"menu of {name}: nothing is offered")
            for text, action in offered.items():
                if not text.startswith("STOP"):
                    action(object())
                    visit(window, camera, "TiltsWindow")


def tabs_of(form) -> list:
    """The form's notebook, once for each of its tabs."""
    notebooks = widgets_of(form.root, "TNotebook")
    return [notebooks[0]] * len(notebooks[0].tabs()) if notebooks else []


def widgets_of(root, kind: str) -> list:
    """All widgets of a Tk class below another one."""
    found = []
    for child in root.winfo_children():
        if child.winfo_class() == kind:
            found.append(child)
        found += widgets_of(child, kind)
    return found


def viewers(window, camera: Camera, runs: dict[str, Any]) -> None:
    """Analyze results of each run: its window, and every plot of it."""
    from pyworkflow.config import Config
    from pyworkflow.gui.form import FormWindow
    from pyworkflow.viewer import DESKTOP_TKINTER

    for name, run in runs.items():
        with camera.watching(f"viewer of {name}"):
            viewer = Config.getDomain().findViewers(run, DESKTOP_TKINTER)[0](project=window.project, protocol=run,
                                                                              parent=window)
            shown: list = []
            FormWindow.show = lambda form, shown=shown, **_: shown.append(form)
            viewer.visualize(run, windows=window)
            form = shown[0]
            form.adjustSize()
            form.root.geometry("+60+60")
            form.root.deiconify()
            camera.take(form.root, f"viewer_{name}")
            for field in set(viewer.plot_handlers()) - {"showPage"}:        # that one would start a browser
                with camera.watching(f"{field} of {name}"):
                    if field in DECISIONS:
                        viewer._getVisualizeDict()[field](field)
                        visit(window, camera, DECISIONS[field])
                    else:
                        plots(viewer, camera, name, field)
            form.root.destroy()


def plots(viewer, camera: Camera, name: str, field: str) -> None:
    """One plot of a viewer, as it is drawn into its window."""
    for view in viewer._getVisualizeDict()[field](field):
        figure = getattr(view, "figure", None)
        if figure is None:
            print(f"{field} of {name}: {view._msg if hasattr(view, '_msg') else view}")
            continue
        path = os.path.join(camera.out, f"plot_{name}_{field}.png")
        figure.savefig(path, dpi=80)
        camera.taken.append(path)


def tour(path: str, camera: Camera, expert: bool) -> None:
    """Everything, one after the other."""
    os.chdir(path)
    window = open_project(path)
    camera.draw(window.root, 2.0)
    choose_view(window, "tomostream")
    runs = runs_of(window)
    summaries(window, camera, runs)
    camera.take(window.root, "project")
    forms(window, camera, runs, expert)
    wizards(window, camera, runs)
    menu(window, camera, runs)
    viewers(window, camera, runs)
    import matplotlib.pyplot

    matplotlib.pyplot.close("all")
    window.root.destroy()


def for_docs(camera: Camera, folder: str) -> None:
    """The pictures that the manual shows, in few colours and at most 900 px wide."""
    from PIL import Image

    os.makedirs(folder, exist_ok=True)
    taken = {os.path.splitext(os.path.basename(path))[0]: path for path in camera.taken}
    for name, target in DOCS.items():
        if name not in taken:
            camera.errors.append(f"{name} was not taken, {target}.png stays as it was")
            continue
        with Image.open(taken[name]) as picture:
            small = picture.convert("RGB")
        if small.width > 900:
            small = small.resize((900, round(900 * small.height / small.width)), Image.Resampling.LANCZOS)
        path = os.path.join(folder, f"{target}.png")
        small.quantize(COLOURS, Image.Quantize.FASTOCTREE).save(f"{path}.part", format="PNG", optimize=True)
        os.replace(f"{path}.part", path)
        print(f"{path}  {os.path.getsize(path) // 1024} kB")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("project", help="name or path of a project that ran")
    parser.add_argument("out", help="folder of the pictures")
    parser.add_argument("--docs", metavar="FOLDER", help="where the pictures of the manual go")
    parser.add_argument("--expert", action="store_true", help="with the fields for experts")
    options = parser.parse_args()
    out, docs = os.path.abspath(options.out), options.docs and os.path.abspath(options.docs)
    os.makedirs(out, exist_ok=True)
    camera = Camera(out)
    try:
        home.scipion_environment(home.default_home(options.project))
        os.environ.pop("MPLBACKEND", None)
        path = home.project_path(options.project)
        if not os.path.isdir(os.path.join(path, "Runs")):
            raise Stop(f"There is no Scipion project in {path}.")
        with display():
            tour(path, camera, options.expert)
        if docs:
            for_docs(camera, docs)
    except Stop as problem:
        print(f"gui_pictures: {problem}", file=sys.stderr)
        return 2
    for each in camera.taken:
        print(f"{each}  {os.path.getsize(each) // 1024} kB")
    for each in camera.errors:
        print(each, file=sys.stderr)
    return 1 if camera.errors else 0


if __name__ == "__main__":
    sys.exit(main())
