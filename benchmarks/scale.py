# SPDX-License-Identifier: GPL-3.0-or-later
"""What does one more movie cost when 600, 6,000 or 60,000 are done?

    python benchmarks/scale.py 600 6000 60000

A project is filled as if so many movies (60 a series) had gone the whole way; its four protocols are continued, and more
series are acquired: one, so that all is loaded that is loaded once, and three that are measured. CPU time is that of the
protocol processes alone (from /proc), without what idling costs; the programs are stand-ins of no run time. Printed for each
protocol: CPU ms a new movie, seconds until it ran, memory, size of its databases; and the seconds from the last movie of the
new series to its tomogram. At the end, the CPU a movie relative to the first size. 600 and 6,000 take some 4 minutes together,
60,000 some 10.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
import threading
import time

from tomostream.journal import composed as sidecars
from tomostream.journal import entries, ledger
from tomostream.journal.status import ARETOMO, COMPOSE, IMPORT, MOTIONCOR
from tomostream.tests.support import ORDER, Session, wait_for

TILTS, SIZE, PIXEL_SIZE, AXIS, VOLTAGE = 60, 32, 6.0, 84.7, 300.0
IDLE_SECONDS, INTERVAL = 10.0, 0.25
#: Series that are measured: the kernel counts CPU time in steps of 10 ms, and aretomo takes some 50 ms a series.
MEASURED = 3
SETTINGS = {
    IMPORT: {"samplingRate": PIXEL_SIZE, "voltage": VOLTAGE, "timeout": "12h"}, MOTIONCOR: {"engine": 1, "gpuList": "20"},
    COMPOSE: {"expectedTilts": TILTS, "time4NextTilt": "10m", "mdocPattern": "*.mdoc"},
    ARETOMO: {"engine": 1, "gpuList": "21", "tomoThickness": 40, "alignZ": 20}}


def angle(order: int) -> float:
    """Dose-symmetric, 1.5 degrees apart; `order` from 1."""
    return round((order // 2) * 1.5 * (1 if order % 2 == 0 else -1), 1) or 0.0


def movies_of(series: int) -> list[str]:
    return [f"S{series:04d}_{order:03d}_{angle(order)}.tif" for order in range(1, TILTS + 1)]


def mdoc_of(series: int) -> str:
    lines = [f"PixelSpacing = {PIXEL_SIZE}", f"Voltage = {VOLTAGE:g}", f"ImageFile = S{series:04d}.mrc",
             f"ImageSize = {SIZE} {SIZE}", "DataMode = 1", "", "[T = SerialEM: made by scale.py]", "",
             f"[T =     Tilt axis angle = {AXIS}, binning = 1  spot = 8  camera = 0]", ""]
    for order, movie in enumerate(movies_of(series), start=1):
        moment = series * TILTS + order
        date = time.strftime("%d-%b-%Y  %H:%M:%S", time.gmtime(1_700_000_000 + 10 * moment))
        lines += [f"[ZValue = {order - 1}]", f"TiltAngle = {angle(order)}", "ExposureDose = 2", f"PixelSpacing = {PIXEL_SIZE}",
                  f"PriorRecordDose = {2 * (order - 1)}", f"SubFramePath = D:\\DATA\\{movie}", "NumSubFrames = 2",
                  f"DateTime = {date}", ""]
    return "\n".join(lines)


def write_mdoc(folder: str, series: int) -> None:
    path = os.path.join(folder, f"S{series:04d}.mrc.mdoc")
    with open(f"{path}.part", "w", encoding="utf-8") as file:
        file.write(mdoc_of(series))
    os.replace(f"{path}.part", path)


# ---------------------------------------------------------------------- filling, in a process with Scipion's environment
def fill(project: str, frames: str, mdocs: str, series: int) -> None:
    """Make a project in which so many series are done."""
    from tomostream.cli import home
    from tomostream.cli import project as command

    home.scipion_environment(home.default_home(project))
    settings = {name: dict(values) for name, values in SETTINGS.items()}
    settings[IMPORT].update(filesPath=frames, filesPattern="*.tif")
    settings[COMPOSE].update(filesPath=mdocs)
    chain = command.create(project, settings)
    for name in ORDER:
        os.makedirs(chain.protocols[name]._getExtraPath(), exist_ok=True)
    fill_movies(chain.protocols, frames, series)
    fill_series(chain.protocols, mdocs, series)


def output(protocol, cls, file_name: str, template, key: str):
    from tomostream.streaming.sets import OutputSet

    items = cls(filename=protocol._getPath(file_name))
    items.load()
    opened = OutputSet(items, template, key)
    items.setSamplingRate(PIXEL_SIZE)
    items.setAcquisition(template.getAcquisition())
    opened.set_stream_state(cls.STREAM_OPEN)
    return opened


def fill_movies(protocols, frames: str, series: int) -> None:
    from pwem.objects import Acquisition, SetOfMicrographs, SetOfMovies

    importing, aligning = protocols[IMPORT], protocols[MOTIONCOR]
    acquisition = Acquisition(magnification=50000, voltage=VOLTAGE)
    movies = output(importing, SetOfMovies, "movies.sqlite", importing._template(), "_micName")
    movies.items.setDim((SIZE, SIZE, 2))
    micrographs = output(aligning, SetOfMicrographs, "micrographs.sqlite", aligning._template("micrographs"), "_micName")
    micrographs.items.setDim((SIZE, SIZE, 1))
    books = [ledger.Ledger(ledger.path_in(protocol.getWorkingDir())) for protocol in (importing, aligning)]
    for number in range(series):
        for name in movies_of(number):
            path = os.path.join(frames, name)
            status = os.stat(path)
            movies.put(name, importing._movie(name, path, 2, acquisition, PIXEL_SIZE))
            file = aligning._getExtraPath(f"{name[:-4]}_aligned_mic.mrc")
            micrographs.put(name, aligning._micrograph("micrographs", name, {"micrographs": file}, acquisition, PIXEL_SIZE))
            books[0].write(entries.Imported(name, "imported, 2 frames", file=path, size=status.st_size, mtime=status.st_mtime))
            books[1].write(entries.Aligned(name, "aligned, drift 0.5 px", drift_px=0.5, file=file))
        movies.commit()
        micrographs.commit()


def fill_series(protocols, mdocs: str, series: int) -> None:
    from pwem.objects import Transform
    from tomo.objects import SetOfTiltSeries, SetOfTomograms, TiltSeries, Tomogram

    from tomostream.protocols import objects
    from tomostream.protocols.objects import series_acquisition
    from tomostream.protocols.protocol_compose import composed_entry

    composing, reconstructing = protocols[COMPOSE], protocols[ARETOMO]
    composed = output(composing, SetOfTiltSeries, "tiltseries.sqlite", objects.series_template(), "_tsId")
    aligned = output(reconstructing, SetOfTiltSeries, "tiltseries.sqlite", objects.series_template(), "_tsId")
    tomograms = output(reconstructing, SetOfTomograms, "tomograms.sqlite", objects.tomogram_template(False), "_tsId")
    books = [ledger.Ledger(ledger.path_in(protocol.getWorkingDir())) for protocol in (composing, reconstructing)]
    for number in range(series):
        record = record_of(number, mdocs)
        sidecars.write_record(record, composing._sidecar(record.series_id, 1))
        acquisition = series_acquisition(record, protocols[IMPORT]._template().getAcquisition())
        for target, with_transform in ((composed, False), (aligned, True)):
            item = TiltSeries(tsId=record.series_id)
            item.setSamplingRate(PIXEL_SIZE)
            item.setAcquisition(acquisition)
            images = composing._tilt_images(record, acquisition, PIXEL_SIZE)
            for image in images if with_transform else ():
                image.setTransform(Transform())
            target.put(record.series_id, item, 1, children=images)
            target.commit()
        tomogram = Tomogram(tsId=record.series_id)
        tomogram.setLocation(reconstructing._getExtraPath(record.series_id, f"{record.series_id}.mrc"))
        tomogram.setSamplingRate(2 * PIXEL_SIZE)
        tomogram.setOrigin(Transform())
        tomogram.setAcquisition(acquisition)
        objects.add_verdict(tomogram, objects.Verdict())
        tomograms.put(record.series_id, tomogram)
        books[0].write(composed_entry(record, "composed of 60 tilts"))
        books[1].write(entries.Reconstructed(record.series_id, "60 tilts aligned", tilts_used=TILTS))
    tomograms.commit()


def record_of(number: int, mdocs: str) -> sidecars.SeriesRecord:
    tilts = [sidecars.TiltRecord(movie[:-4], angle(order), "", order, 2.0, "mdoc", 2.0 * (order - 1), "mdoc")
             for order, movie in enumerate(movies_of(number), start=1)]
    name = f"S{number:04d}"
    return sidecars.SeriesRecord(
        name, tuple(sorted(tilts, key=lambda tilt: tilt.angle)), series_name=name, tilt_axis=AXIS, tilt_axis_source="title",
        voltage=VOLTAGE, reason="complete", mdocs=(os.path.join(mdocs, f"{name}.mrc.mdoc"),))


# ---------------------------------------------------------------------- measuring
def cpu_of(pid: int) -> float:
    """CPU seconds of a process, without its children."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_calm(pids: dict[str, int]) -> float:
    """Until all protocols have taken in what is done; return when."""
    pause, before = threading.Event(), {pid: cpu_of(pid) for pid in pids.values()}
    while True:
        pause.wait(3.0)
        now = {pid: cpu_of(pid) for pid in pids.values()}
        if all(now[pid] - before[pid] < 0.1 for pid in now):
            return time.time()
        before = now


def memory_of(pid: int) -> float:
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def make_files(session: Session, series: int) -> str:
    """Movies and mdocs of the series that are done; all movies are copies of one file."""
    import numpy as np
    import tifffile

    os.makedirs(session.frames)
    os.makedirs(session.mdocs)
    one = os.path.join(session.folder, "one.tif")
    tifffile.imwrite(one, np.zeros((2, SIZE, SIZE), np.uint8), photometric="minisblack")
    for number in range(series):
        for name in movies_of(number):
            shutil.copyfile(one, os.path.join(session.frames, name))
        write_mdoc(session.mdocs, number)
    return one


def measure(movies: int) -> dict[str, float]:
    """Fill, continue, acquire; print, and return CPU ms a new movie by protocol."""
    series = max(1, movies // TILTS)
    with Session() as session:
        session.use_standins("0")
        one = make_files(session, series)
        began = time.time()
        subprocess.run([sys.executable, os.path.abspath(__file__), "--fill", session.project, session.frames, session.mdocs,
                        str(series)], env=session.environment, check=True, stdout=subprocess.DEVNULL)
        print(f"{series * TILTS} movies in {series} series (filled in {time.time() - began:.0f} s)", flush=True)
        began = time.time()
        if session.call("resume", session.project, "--no-follow", seconds=1200):
            raise SystemExit(session.said("resume"))
        wait_for(lambda: all(started(session, name) for name in ORDER), 600, "start of the protocols")
        up = {name: started(session, name) for name in ORDER}
        pids = {name: session.pids(name)[-1] for name in ORDER}
        calm = wait_until_calm(pids)
        acquire(session, one, series)
        wait_for_tomogram(session, series)
        wait_until_calm(pids)
        series += 1
        idle = {name: cpu_of(pid) for name, pid in pids.items()}
        threading.Event().wait(IDLE_SECONDS)
        idle = {name: (cpu_of(pid) - idle[name]) / IDLE_SECONDS for name, pid in pids.items()}
        before, moment = {name: cpu_of(pid) for name, pid in pids.items()}, time.time()
        for number in range(series, series + MEASURED):
            last = acquire(session, one, number)
            done = wait_for_tomogram(session, number)
        seconds, costs = time.time() - moment, {}
        for name, pid in pids.items():
            spent = costs[name] = (cpu_of(pid) - before[name] - idle[name] * seconds) / TILTS / MEASURED * 1000
            size = sum(map(os.path.getsize, glob.glob(os.path.join(session.folder_of(name), "*.sqlite")))) / 2**20
            print(f"  {name:10s} {spent:7.2f} CPU ms a new movie   idle {60 * idle[name]:5.2f} CPU-s a minute   "
                  f"{memory_of(pid):6.0f} MB   sets {size:6.1f} MB   running after {up[name] - began:5.1f} s")
        print(f"  last movie -> tomogram {done - last:.2f} s; all were calm {calm - began:.0f} s after `tomostream resume`",
              flush=True)
        return costs


def wait_for_tomogram(session: Session, series: int) -> float:
    """When the tomogram of a series was registered."""
    def found() -> list[float]:
        return [entry.time for entry in session.events(ARETOMO, entries.Reconstructed) if entry.item == f"S{series:04d}"]

    wait_for(found, 300, "tomogram", every=0.5)
    return found()[0]


def started(session: Session, name: str) -> float:
    """When a protocol said that it continues, or 0."""
    return next((entry.time for entry in session.ledger(name) if "continues with" in entry.reason), 0.0)


def acquire(session: Session, one: str, series: int) -> float:
    """One more series; the time of its last movie."""
    pause = threading.Event()
    for name in movies_of(series):
        shutil.copyfile(one, os.path.join(session.folder, name))
        os.replace(os.path.join(session.folder, name), os.path.join(session.frames, name))
        last = time.time()
        pause.wait(INTERVAL)
    write_mdoc(session.mdocs, series)
    return last


def main() -> int:
    if sys.argv[1:2] == ["--fill"]:
        fill(*sys.argv[2:5], int(sys.argv[5]))
        return 0
    if not sys.argv[1:] or not all(word.isdigit() for word in sys.argv[1:]):
        print(__doc__)
        return 2
    first: dict[str, float] = {}
    for movies in map(int, sys.argv[1:]):
        costs = measure(movies)
        if first:
            ratios = ", ".join(f"{name} {costs[name] / first[name]:.2f}" for name in ORDER)
            print(f"  relative to the first: {ratios}", flush=True)
        first = first or costs
    return 0


if __name__ == "__main__":
    sys.exit(main())


