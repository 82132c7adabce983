# SPDX-License-Identifier: GPL-3.0-or-later
"""One of the sessions of `sessions`, in an environment with Scipion and the plugins: what came out of it.

    python -m tomostream.tests.downstream.protocols FOLDER SESSION      prints a JSON object: node -> output -> facts

Everything is given to Scipion's scheduler before the first movie.
"""

from __future__ import annotations

import glob
import json
import os
import sqlite3
import subprocess
import sys
import time

import numpy as np

from tomostream.files.databases import select
from tomostream.journal import runs
from tomostream.simulator import Plan, SimulatedScene, VirtualClock, Writer
from tomostream.tests import foreign_geometry
from tomostream.tests.downstream import imod_standins, sessions, specimen
from tomostream.tests.downstream.sessions import Node, Session

#: Seconds after which a session is given up: for a machine that is busy with other work.
SECONDS = 5400.0
CLI = [sys.executable, "-m", "tomostream.cli"]
RELION = "reliontomo - converter"
#: Which tilt is late.
LATE = "late.json"


class Running:
    """A project with the protocols of a session, by their names."""

    def __init__(self, session: Session, folder: str) -> None:
        from pyworkflow.config import Config
        from pyworkflow.project import Manager

        self.acquisition, self.place = os.path.join(folder, "acq"), os.path.join(folder, "project")
        for name in ("frames", "mdocs"):
            os.makedirs(os.path.join(self.acquisition, name), exist_ok=True)
        self.session = session
        self._classes = Config.getDomain().getProtocols()
        self.project = Manager().createProject("project", location=folder)
        os.chdir(self.project.path)
        self.protocols = self._fill_in() if session.template else {}
        for node in session.nodes:
            self.protocols[node.name] = self._make(node)

    def _fill_in(self) -> dict:
        """Protocols of the template, as its dialog makes them."""
        from pyworkflow.template import LocalTemplate

        import tomostream

        path = os.path.join(os.path.dirname(tomostream.__file__), "workflows", f"{self.session.template}.json.template")
        template = LocalTemplate("tomostream", path)
        template.replaceEnvVariables()
        template.parseContent()
        for alias, value in {"movies": os.path.join(self.acquisition, "frames"),
                             "mdocs": os.path.join(self.acquisition, "mdocs"), **self.session.answers}.items():
            template.setParamValue(alias, value)
        template._replaceFields()
        filled = os.path.join(self.acquisition, "workflow.json")
        with open(filled, "w", encoding="utf-8") as file:
            file.write("".join(template.getContent()))
        self.project.loadProtocols(filename=filled)
        made = {protocol.getObjLabel(): protocol for protocol in self.project.getRuns()}
        for name, values in self.session.template_values.items():
            for key, value in values.items():
                getattr(made[name], key).set(value)
            self.project.saveProtocol(made[name])
        return made

    def _make(self, node: Node):
        from tomostream.cli import project

        protocol = self.project.newProtocol(self._classes[node.protocol])
        protocol.setObjLabel(node.name)
        values = dict(node.values)
        for key, folder in (("filesPath", "mdocs" if "Compose" in node.protocol else "frames"), ("mdocsPath", "mdocs")):
            if protocol.getParam(key) is not None:
                values[key] = os.path.join(self.acquisition, folder)
        if node.ours:
            project.apply(protocol, node.ours, values)
        else:
            for key, value in values.items():
                getattr(protocol, key).set(value)
        for key, (source, output) in node.inputs.items():
            getattr(protocol, key).set(self.protocols[source])
            getattr(protocol, key).setExtended(output)
        if node.after:
            protocol.addPrerequisites(self.protocols[node.after].getObjId())
        self.project.saveProtocol(protocol)
        return protocol

    def schedule(self) -> None:
        for protocol in self.protocols.values():
            self.project.scheduleProtocol(protocol)

    def ours_run(self) -> bool:
        """Whether those of ours that read no other plugin's have begun."""
        ours = [protocol for name, protocol in self.protocols.items()
                if name in (sessions.IMPORT, sessions.MOTIONCOR, sessions.COMPOSE)]
        return sessions.IMPORT not in self.protocols or all(
            os.path.exists(os.path.join(protocol.getWorkingDir(), "extra", "ledger.jsonl")) for protocol in ours)

    def ended(self) -> bool:
        """Whether all have, as their own databases say: on a busy machine Scipion takes one that is ending for dead."""
        return all(runs.run_state(protocol.getWorkingDir()) in runs.ENDED for protocol in self.protocols.values())

    def take_in(self) -> None:
        """Read what came out, once all have ended."""
        for protocol in self.protocols.values():
            self.project._updateProtocol(protocol)

    def looked_at(self):
        """(node, output, what is expected) of every output that is looked at."""
        named = {**self.session.template_outputs, **{node.name: node.outputs for node in self.session.nodes}}
        return [(name, output, expected) for name, outputs in named.items() for output, expected in outputs.items()]


def run(session: Session, folder: str) -> Running:
    running = Running(session, folder)
    running.schedule()
    deadline = time.monotonic() + SECONDS
    wait(running.ours_run, deadline, "our protocols did not start")
    acquire(running.acquisition, session.tilt_axis, session.late)
    if session.late:
        deliver_late(running, deadline)
    if sessions.IMPORT in running.protocols:
        wait(lambda: imported(running) == sessions.SERIES * sessions.TILTS, deadline, "not all movies were imported")
        subprocess.run([*CLI, "stop", running.place, "import"], check=False, stdout=sys.stderr)
    wait(Settled(running.ended), deadline)
    running.take_in()
    return running


def acquire(folder: str, tilt_axis: float, late: bool = False) -> None:
    """Write the movies and mdocs of a session, as a microscope does. `late`: the movie of one tilt is kept back."""
    plan = Plan(series=sessions.SERIES, tilts=sessions.TILTS, tilt_step=sessions.STEP, frames=2,
                size=(sessions.SIZE, sessions.SIZE), pixel_size=sessions.PIXEL, dose=sessions.DOSE, interval=0.3,
                tilt_axis=tilt_axis, thickness=sessions.SLAB, max_shift=sessions.SIZE / 40)
    scene = SimulatedScene(plan, specimen.balls)
    if not late:
        Writer(scene, folder).run()
        return
    staged = os.path.join(folder, "staged")
    Writer(scene, staged, clock=VirtualClock()).run()
    with open(os.path.join(staged, "truth.json"), encoding="utf-8") as file:
        first = json.load(file)["series"][0]
    tilt = first["tilts"][2 * sessions.TILTS // 3]
    with open(os.path.join(folder, LATE), "w", encoding="utf-8") as file:
        json.dump({"id": first["id"], "movie": tilt["movie"], "angle_deg": tilt["angle_deg"]}, file)
    for path in glob.glob(os.path.join(staged, "*.json")) + glob.glob(os.path.join(staged, "*", "*")):
        if os.path.basename(path) != tilt["movie"]:
            os.replace(path, os.path.join(folder, os.path.relpath(path, staged)))


def deliver_late(running: Running, deadline: float) -> None:
    """Let the movie that was kept back come, once everybody has the series without it."""
    with open(os.path.join(running.acquisition, LATE), encoding="utf-8") as file:
        late = json.load(file)
    names = {name for name, _, _ in running.looked_at()}
    wait(lambda: all(has_series(running.protocols[name].getWorkingDir(), late["id"]) for name in names), deadline,
         "the series without its late tilt did not come out of all protocols")
    os.replace(os.path.join(running.acquisition, "staged", "frames", late["movie"]),
               os.path.join(running.acquisition, "frames", late["movie"]))


def has_series(folder: str, name: str) -> bool:
    """Whether a set of a protocol has a row of a series."""
    for path in glob.glob(os.path.join(folder, "*.sqlite")):
        try:
            if any(name in row for row in select(path, "SELECT * FROM Objects")):
                return True
        except sqlite3.Error:       # in the middle of being written
            continue
    return False


class Settled:
    """Whether something holds, and has done for a while: a protocol that is being started looks dead for a moment."""

    def __init__(self, holds, looks: int = 6) -> None:
        self._holds, self._looks, self._seen = holds, looks, 0

    def __call__(self) -> bool:
        self._seen = self._seen + 1 if self._holds() else 0
        return self._seen >= self._looks


def imported(running: Running) -> int:
    path = os.path.join(running.protocols[sessions.IMPORT].getWorkingDir(), "extra", "ledger.jsonl")
    with open(path, encoding="utf-8") as file:
        return sum('"imported"' in line for line in file)


def wait(done, deadline: float, why: str = "") -> None:
    """Until it is done; past the deadline that is an error where `why` is given."""
    while not done():
        time.sleep(3.0)
        if time.monotonic() > deadline:
            if why:
                sys.exit(why)
            return


# ------------------------------------------------------------------------------------------------------ what came out
def facts(running: Running) -> dict:
    ours = tomograms(running.protocols[running.session.compared], "Tomograms") if running.session.compared else {}
    found: dict = {}
    for name, output, expected in running.looked_at():
        protocol = running.protocols[name]
        one = facts_of(protocol, output)
        if expected.tomogram:
            for series, path in tomograms(protocol, output).items():
                if series in one["series"] and series in ours:
                    one["series"][series]["likeness"] = likeness(path, ours[series])
        found.setdefault(name, {})[output] = one
    if running.session.relion:
        found[RELION] = {"stars": by_relion(running, ours)}
    return found


def by_relion(running: Running, ours: dict[str, str]) -> dict:
    """What RELION 5 makes of the files that reliontomo's converter writes of our aligned series and the CTFs of a node."""
    from reliontomo.convert import convert50_tomo

    aligned = running.protocols[running.session.compared].TiltSeries
    estimated = running.protocols[running.session.relion].CTFs
    series, ctfs = ({item.getTsId(): item.clone(ignoreAttrs=[]) for item in items} for items in (aligned, estimated))
    folder = os.path.join(running.acquisition, "relion")
    os.makedirs(folder)
    writer = convert50_tomo.Writer()
    writer.alignedTsSet2Star(series, folder, outFileName="tomograms.star")
    writer.tsSet2Star(series, ctfs, folder)
    found: dict = {"status": "finished", "closed": True, "series": {}}
    for name in series:
        views = foreign_geometry.relion_views(os.getcwd(), name, os.path.join(folder, "tomograms.star"))
        shape = (sessions.THICKNESS // sessions.BINNING, *[sessions.SIZE // sessions.BINNING] * 2)
        path = os.path.join(folder, f"{name}.mrc")
        imod_standins.write_mrc(path, foreign_geometry.back_project(views, shape, sessions.BINNING))
        found["series"][name] = {"likeness": likeness(path, ours[name])}
    return found


def tomograms(protocol, output: str) -> dict[str, str]:
    items = getattr(protocol, output, None)
    return {} if items is None else {item.getTsId(): item.getFileName() for item in items.iterItems()}


def likeness(path: str, other: str) -> list[float]:
    """`foreign_geometry.compared` of a tomogram, binned to the size of ours and moved by a voxel at most, and ours.

    Where Scipion itself turns the images (tomo3d) it does so about another middle, and the tomogram is 0.7 of our voxels off.
    """
    import mrcfile

    one, ours = (np.asarray(mrcfile.read(name), float) for name in (path, other))
    binning = round(one.shape[2] / ours.shape[2])
    if binning > 1:
        z, y, x = ours.shape
        one = one[:z * binning, :y * binning, :x * binning].reshape(z, binning, y, binning, x, binning).mean((1, 3, 5))
    if one.shape != ours.shape:
        return [0.0, 1.0]
    return list(foreign_geometry.compared(moved_onto(one, ours), ours))


def moved_onto(one: np.ndarray, ours: np.ndarray, most: float = 1.0) -> np.ndarray:
    """A volume moved to where it is most like another of its size, along each axis by `most` voxels at most."""
    transform = np.fft.fftn(one - one.mean())
    like = np.fft.ifftn(np.fft.fftn(ours - ours.mean()) * transform.conj()).real
    peak = np.unravel_index(int(like.argmax()), like.shape)
    for axis, (place, length) in enumerate(zip(peak, like.shape, strict=True)):
        line = tuple(slice(None) if each == axis else peak[each] for each in range(3))
        before, middle, after = np.roll(like[line], 1 - place)[:3]
        shift = (place + length // 2) % length - length // 2 + 0.5 * (before - after) / (before - 2 * middle + after)
        frequency = np.fft.fftfreq(length).reshape([-1 if each == axis else 1 for each in range(3)])
        transform = transform * np.exp(-2j * np.pi * frequency * np.clip(shift, -most, most))
    return np.fft.ifftn(transform).real


def facts_of(protocol, output: str) -> dict:
    """What an output says of itself, as anybody reads it."""
    items = getattr(protocol, output, None)
    found = {"status": runs.run_state(protocol.getWorkingDir()), "series": {}, "error": str(protocol.getErrorMessage())[:200]}
    if items is None:
        return found
    if not hasattr(items, "iterItems"):
        return {**found, "closed": True, "series": {name: {} for name in series_of_inputs(protocol)}}
    items.loadAllProperties()
    found["closed"] = items.isStreamClosed()
    kind = type(items).__name__
    found["rows"] = 0
    for item in items.iterItems():
        found["rows"] += 1
        one: dict = {}
        if kind == "SetOfTomograms":
            halves = item.getHalfMaps(asList=True) if item.getHalfMaps() else []
            one = {"halves": bool(halves) and all(os.path.exists(path) for path in halves), "file": item.getFileName(),
                   "axis": item.getAcquisition().getTiltAxisAngle()}
        elif kind == "SetOfTiltSeries":
            one = facts_of_series(item)
        found["series"][item.getTsId()] = one
    return found


def series_of_inputs(protocol) -> list[str]:
    """Of an output that is one for all: the series that went in."""
    return [item.getTsId() for _, pointer in protocol.iterInputAttributes() for item in pointer.get().iterItems()]


def facts_of_series(item) -> dict:
    images = [image.clone() for image in item.iterItems(orderBy="_tiltAngle")]
    halves = [path for image in images for path in image.getOddEven() or []]
    return {
        "angles": [image.getTiltAngle() for image in images], "enabled": [bool(image.isEnabled()) for image in images],
        "halves": len(halves) == 2 * len(images) and all(os.path.exists(path) for path in halves),
        "dose": [image.getAcquisition().getDoseInitial() for image in images],
        "axis": item.getAcquisition().getTiltAxisAngle(),
        "matrices": [image.getTransform().getMatrix()[:2].tolist() if image.hasTransform() else None for image in images]}


def end_all(place: str) -> None:
    """End the schedulers and protocols of the project that are left."""
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        if any(word.startswith(place) for word in process.info["cmdline"] or ()):
            process.kill()


def main() -> None:
    folder, name = os.path.abspath(sys.argv[1]), sys.argv[2]
    from tomostream.cli import home

    home.scipion_environment(home.default_home(os.path.join(folder, "project")))
    try:
        running = run(sessions.SESSIONS[name], folder)
        print(json.dumps(facts(running)))
    finally:
        end_all(os.path.join(folder, "project"))


if __name__ == "__main__":
    main()
