# SPDX-License-Identifier: GPL-3.0-or-later
"""Align and reconstruct every tilt series as it comes."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import aretomo
import mrcfile
import numpy as np
from aretomo.constants import ARETOMO_HOME, LOCAL_MOTION_COORDS
from aretomo.protocols.protocol_aretomo import ProtAreTomoAlignRecon
from pwem import ALIGN_2D
from pwem.objects import CTFModel, Transform
from pyworkflow.constants import BETA
from pyworkflow.mapper.sqlite import SqliteFlatMapperException
from pyworkflow.protocol import params
from tomo.objects import (
    CTFTomo,
    CTFTomoSeries,
    SetOfCTFTomoSeries,
    SetOfTiltSeries,
    SetOfTomograms,
    TiltImage,
    TiltSeries,
    TomoAcquisition,
    Tomogram,
)

from tomostream.acquisition.movies import check_movie
from tomostream.files.clock import steady
from tomostream.files.mrc import open_mrc
from tomostream.files.writing import sync_tree
from tomostream.journal import entries, ledger
from tomostream.journal.runs import DEAD, FINISHED, STOPPED
from tomostream.journal.space import bytes_of
from tomostream.programs import aretomo as files
from tomostream.programs.aln import (
    AlnError,
    AlnFile,
    AlnRow,
    AngleRow,
    format_aln,
    format_angles,
    parse_aln,
    raw_sections,
    row_from_xf,
    xf_of_row,
)
from tomostream.programs.ctf import CtfRow, ctf_sections, parse_ctf
from tomostream.programs.quality import Quality, parse_quality
from tomostream.protocols import actions, engines, forms, page
from tomostream.protocols.protocol_import_movies import NOMINAL_MAGNIFICATION
from tomostream.streaming.protocol import StreamingProtocol
from tomostream.streaming.rows import know_tables
from tomostream.streaming.work import BadInput, ProgramFailed, Task

ALIGNED, TOMOGRAMS, CTFS, FAILED = "TiltSeries", "Tomograms", "CTFTomoSeries", "FailedTiltSeries"
CPU_COMMAND = "tomostream-aretomo"
EVEN, ODD = "_even", "_odd"
#: The program may round the sizes of the volume; more than this many voxels off is a wrong volume.
SIZE_TOLERANCE = 2
LIMITS = {"binFactor": (1, 64), "alignZ": (1, 100000), "tomoThickness": (2, 100000), "SARTiter": (1, 1000),
          "SARTproj": (1, 1000), "darkTol": (0, 1), "patchX": (1, 100), "patchY": (1, 100), "minPhaseShift": (0, 360),
          "maxPhaseShift": (0, 360), "pollSeconds": (0.1, 3600)}
#: Upstream's choices, short enough for the box.
AXIS_CHOICES = ("No", "One refined axis for the series", "A refined axis for each tilt")
HELPS = {
    "inputSetOfTiltSeries": "The tilt series from the compose protocol. The set may still be empty and growing. To skip the "
                            "alignment they must be aligned already.",
    "makeTomo": "No: the series are aligned only.",
    "doEvenOdd": "Also reconstructs the even and the odd series, with the alignment of the whole one. The compose protocol "
                 "must have made them.",
    "binFactor": "The tomogram's voxels are so many times the pixels of the tilt series. The alignment is not affected.",
    "tomoThickness": "Height of the volume, in unbinned voxels (pixels of the tilt series): the specimen and some room "
                     "above and below. Thickness in A divided by the pixel size in A.",
    "doEstimateCtf": "Estimates the defocus of every tilt. Needs pixel size, voltage and spherical aberration, which the "
                     "import form asks for.",
    "doPhaseShiftSearch": "Only with a phase plate: searches the phase shift in the range below.",
    "minPhaseShift": "Smallest phase shift that is searched, in degrees.",
    "maxPhaseShift": "Largest phase shift that is searched, in degrees.",
    "doDW": "Weights the spatial frequencies of each tilt by the dose (e/A2) that the specimen had received before it.",
    "SARTiter": "Iterations of the iterative reconstruction.",
    "SARTproj": "Projections that are used together in one update.",
    "patchX": "Patches along x for the local alignment.",
    "patchY": "Patches along y for the local alignment.",
}


@dataclass(frozen=True)
class SourceTilt:
    """One tilt image of the input: what the program and the output need of it. Doses in e/A2, None unknown."""

    index: int
    angle: float
    order: int | None
    prior_dose: float | None
    enabled: bool
    transform: tuple[float, float, float, float, float, float] | None = None


@dataclass(frozen=True)
class Source:
    """One tilt series of the input, read in the main thread. `dose`: of one tilt, e/A2, None unknown."""

    series_id: str
    stack: str
    even: str
    odd: str
    size: tuple[int, int]
    pixel_size: float
    tilt_axis: float | None
    tilts: tuple[SourceTilt, ...]
    dose: float | None = None
    command: str = ""
    half_command: str = ""

    @property
    def used(self) -> tuple[SourceTilt, ...]:
        """The tilts that are given to the program, in the order of its sections: by angle.

        AreTomo2 takes an alignment file (-AlnFile: halves, aligned input) as being in the order of the stack, and sorts it not.
        """
        return tuple(sorted((tilt for tilt in self.tilts if tilt.enabled), key=lambda tilt: tilt.angle))


@dataclass(frozen=True)
class Original:
    """A series and its images as they were in the input when the series was handed out: a row may be replaced meanwhile."""

    series: TiltSeries
    images: list[TiltImage]


@dataclass(frozen=True)
class Result:
    """What came out for one series. `rows`: input index -> row of the alignment."""

    folder: str
    rows: Mapping[int, AlnRow] = field(default_factory=dict)
    reasons: Mapping[int, str] = field(default_factory=dict)
    ctf: tuple[CtfRow, ...] = ()
    ctf_order: tuple[int, ...] = ()
    quality: Quality | None = None
    commands: tuple[str, ...] = ()
    seconds: float = 0.0


class ProtTomoStreamAreTomo(StreamingProtocol, ProtAreTomoAlignRecon):
    """Aligns and reconstructs the tilt series of a running session with AreTomo2, or on the CPU.

    Each series becomes a tomogram as soon as it is composed. A series that is composed again (a late tilt, a repeated
    exposure) is reconstructed again, and its tomogram replaces the one before.
    """

    _label = "aretomo"
    _devStatus = BETA
    _possibleOutputs = {ALIGNED: SetOfTiltSeries, TOMOGRAMS: SetOfTomograms, CTFS: SetOfCTFTomoSeries,
                        FAILED: SetOfTiltSeries}

    done_event = entries.Reconstructed

    # ------------------------------------------------------------------ form
    def _defineParams(self, form):
        ProtAreTomoAlignRecon._defineParams(self, form)
        section = form.getSection("Input")
        engines.add_engine_param(section, "AreTomo2")
        forms.put_after(section, "engine", "inputSetOfTiltSeries")
        forms.set_labels(form, {"inputSetOfTiltSeries": "Input tilt series", "doDW": "Weight the tilts by dose?",
                                "tomoThickness": "Tomogram thickness (unbinned voxels)",
                                "alignZ": "Thickness for alignment (unbinned voxels)"})
        forms.set_helps(form, HELPS)
        form.getParam("refineTiltAxis").choices = list(AXIS_CHOICES)
        form.getParam("extraParams").default.set("")
        form.getParam("numberOfThreads").default.set(3)
        form.addSection(label="Streaming")
        form.addParam("newestFirst", params.BooleanParam, default=False, label="Newest series first?",
                      help="When series come faster than they are processed: Yes takes the newest first, so that you see "
                           "what the microscope does now; No takes them in order.")
        form.addParam("removeReplaced", params.BooleanParam, default=False, expertLevel=params.LEVEL_ADVANCED,
                      label="Remove tomograms that were replaced?",
                      help="A series that is composed again (a late tilt, a repeated exposure, a tilt that you took out) gets a "
                           "new tomogram. Yes deletes the files of the one before as soon as the new one is registered. Nothing "
                           "of ours refers to them any more, but a protocol of another plugin that read the old one does.")
        self.define_streaming_params(form, section=False)

    # ------------------------------------------------------------------ open
    def open_outputs(self):
        page.go_on(self)
        self._program = engines.choose(self.engine.get(), aretomo.Plugin, CPU_COMMAND)
        self._stepsExecutor.newest_first = self.newestFirst.get()
        self._reader = self.row_reader(self.inputSetOfTiltSeries)
        self._new: list[tuple[int, int]] = []
        self._originals: dict[tuple[str, int], Original] = {}
        self._told_ctf = False
        self.perTsAlignZ = self.readThicknessFile(self.alignZfile.get()) if self.alignZfile.get() else {}
        if self.makeTomo.get():
            self.open_output(TOMOGRAMS, SetOfTomograms, self._tomogram_template(), "_tsId", "tomograms.sqlite",
                             source="inputSetOfTiltSeries")
        if not self.skipAlign.get():
            self.open_output(ALIGNED, SetOfTiltSeries, self._series_template(), "_tsId", "tiltseries.sqlite",
                             source="inputSetOfTiltSeries")
        common = [output.versions for output in self.outputs.values()]
        self.done.update({key: version for key, version in common[0].items()
                          if all(other.get(key) == version for other in common)})
        for name, opener in ((FAILED, self._open_failed), (CTFS, self._open_ctfs)):
            if hasattr(self, name):
                opener()
        self.tell(entries.Session("", self._program.reason))

    def _series_template(self) -> TiltSeries:
        series = TiltSeries(tsId="template")
        series.setAcquisition(TomoAcquisition(magnification=NOMINAL_MAGNIFICATION, voltage=300.0))
        return series

    def _tomogram_template(self) -> Tomogram:
        tomogram = Tomogram(tsId="template")
        tomogram.setOrigin(Transform())
        tomogram.setAcquisition(TomoAcquisition(magnification=NOMINAL_MAGNIFICATION, voltage=300.0))
        tomogram.setHalfMaps(["", ""] if self.doEvenOdd.get() else [])
        return tomogram

    def _open_failed(self):
        return self.open_output(FAILED, SetOfTiltSeries, self._series_template(), "_tsId", "tiltseries_failed.sqlite",
                                self._describe, source="inputSetOfTiltSeries")

    def _open_ctfs(self):
        template = CTFTomoSeries(tsId="template")
        return self.open_output(CTFS, SetOfCTFTomoSeries, template, "_tsId", "ctftomoseries.sqlite",
                                lambda items: items.setSetOfTiltSeries(self.inputSetOfTiltSeries),
                                source="inputSetOfTiltSeries")

    def _describe(self, items) -> None:
        items.copyInfo(self._reader.items)

    # ------------------------------------------------------------------ watch
    def watch(self) -> bool:
        rows, closed = self._reader.read()
        self._new += [(row.getObjId(), self._reader.version_of(row.getObjId())) for row in rows]
        self.trouble("input", f"the tilt series cannot be read now: {self._reader.trouble}" if self._reader.trouble else "")
        if self.stop_asked():
            return True
        state = self.producer_state(self.inputSetOfTiltSeries)
        self.trouble("producer", f"the compose protocol is {state}: it must be continued before more series come"
                     if state in (DEAD, STOPPED) else "")
        return closed and state == FINISHED

    # ------------------------------------------------------------------ decide
    def decide(self) -> Iterable[Task]:
        """Tasks for the series that are new. A series that cannot be read now stays new."""
        new, self._new = self._new, []
        while new:
            try:
                task = self._task(*new[0])
            except (sqlite3.Error, SqliteFlatMapperException) as error:
                self._new = new
                self.trouble("series", f"a tilt series cannot be read now ({error}); retrying")
                return
            del new[0]
            self.trouble("series", "")
            if task is not None:
                yield task

    def inputs_of(self, task: Task) -> Iterable[str]:
        return [task.arguments[1].stack] if len(task.arguments) > 1 else []

    def _task(self, row_id: int, version: int) -> Task | None:
        """The task of one row of the input; None where it is done, in work, or cannot be done."""
        self._reader.items.loadAllProperties()      # known since the first series, not since this run began
        series = know_tables(self._reader.items[row_id])
        series_id = series.getTsId()
        running = self.attempts.get(series_id)
        if max(self.done.get(series_id, 0), running.task.version if running else 0) >= version:
            return None
        images = [image.clone() for image in series.iterItems(orderBy=TiltImage.INDEX_FIELD)]
        self._originals[series_id, version] = Original(series.clone(), images)
        try:
            source = self._source(series, images)
        except (AttributeError, TypeError, ValueError, OSError) as error:     # pyworkflow's ways to say "no such file"
            self.fail(Task(series_id, (series_id,), version), f"the series cannot be read: {error}")
            return None
        self.tell(entries.Started(series_id, f"to be aligned and reconstructed, {series.getSize()} tilts", version=version,
                                  tilts=series.getSize(), bytes=self._volume_bytes(source)))
        return Task(series_id, (series_id, source), version, needs_gpu=self._program.gpu)

    def _source(self, series: TiltSeries, images: Iterable[TiltImage]) -> Source:
        """Read all that is needed of a series; steps never see the set."""
        tilts = []
        even = odd = stack = ""
        for image in images:
            acquisition = image.getAcquisition()
            stack = image.getFileName()
            if image.hasOddEven():
                odd, even = image.getOdd(), image.getEven()
            matrix = image.getTransform().getMatrix() if image.hasTransform() else None
            transform = None if matrix is None else (*matrix[0, :2], *matrix[1, :2], matrix[0, 2], matrix[1, 2])
            tilts.append(SourceTilt(image.getIndex(), image.getTiltAngle(), image.getAcquisitionOrder(),
                                    None if acquisition is None else acquisition.getDoseInitial(), image.isEnabled(),
                                    transform))
        width, height, _ = series.getDim() or series.getFirstItem().getDim()
        even, odd = even and os.path.abspath(even), odd and os.path.abspath(odd)
        source = Source(series.getTsId(), os.path.abspath(stack), even, odd,
                        (width, height), series.getSamplingRate(), series.getAcquisition().getTiltAxisAngle(), tuple(tilts),
                        series.getAcquisition().getDosePerFrame())
        commands = {"command": self._genAretomoCmd(series, "IN", series.getTsId()),
                    "half_command": self._genAretomoCmd(series, "IN", series.getTsId(), even=True)}
        return Source(**{**source.__dict__, **commands})

    def _volume_bytes(self, source: Source) -> int:
        """Bytes of the tomogram of a series, or of three with its halves."""
        if not self.makeTomo.get():
            return 0
        size = expected_sizes(source.size, source.tilt_axis, self.tomoThickness.get(), self.binFactor.get(), self.flipVol.get())
        return math.prod(size[0]) * 4 * (3 if self.doEvenOdd.get() else 1)

    # ------------------------------------------------------------------ run
    def work(self, task: Task) -> Result:
        source: Source = task.arguments[1]
        began = steady()
        name = source.series_id if task.version == 1 else f"{source.series_id}-v{task.version}"
        folder = self.work_folder(name)
        self._check_input(source, folder)
        self._write_inputs(source, folder)
        commands = [self._run_program(source, folder, source.command, "")]
        result = self._read_results(source, folder)
        if self.doEvenOdd.get() and self.makeTomo.get():
            commands += [self._run_program(source, folder, source.half_command, suffix) for suffix in (EVEN, ODD)]
        target = self._getExtraPath(name)
        self._take_over(folder, target)
        return Result(target, result.rows, result.reasons, result.ctf, result.ctf_order, result.quality, tuple(commands),
                      steady() - began)

    def _check_input(self, source: Source, folder: str) -> None:
        check = check_movie(source.stack)
        if check.state != "complete":
            words = f"the stack {os.path.basename(source.stack)} is not complete: {check.reason}"
            raise ProgramFailed(words) if check.state == "growing" else BadInput(words)
        if len(source.used) < 3:
            raise BadInput(f"only {len(source.used)} of its tilts are enabled; three are the least that can be aligned")
        problem = files.name_problem(os.path.join(folder, f"{source.series_id}.mrcs"),
                                     os.path.join(folder, f"{source.series_id}.mrc"))
        if problem:
            raise BadInput(problem)
        if self.doDW.get() and (source.dose is None or any(tilt.prior_dose is None for tilt in source.used)):
            raise BadInput("dose weighting is asked for, but the mdoc does not tell the dose of every tilt")

    def _write_inputs(self, source: Source, folder: str) -> None:
        for suffix, stack in (("", source.stack), (EVEN, source.even), (ODD, source.odd)):
            if not stack or (suffix and not self.doEvenOdd.get()):
                continue
            link = os.path.join(folder, f"{source.series_id}{suffix}.mrcs")
            sections = [tilt.index - 1 for tilt in source.used]
            if sections == list(range(len(source.tilts))):
                os.symlink(stack, link)
            else:
                restack(stack, link, sections, source.pixel_size)
        rows = [AngleRow(tilt.angle, tilt.order, tilt.prior_dose) for tilt in source.used]
        if any(row.order is None for row in rows):
            rows = [AngleRow(row.tilt_deg) for row in rows]
        elif any(row.pre_exposure is None for row in rows):
            rows = [AngleRow(row.tilt_deg, row.order) for row in rows]
        with open(os.path.join(folder, f"{source.series_id}.tlt"), "w", encoding="utf-8") as file:
            file.write(format_angles(rows))
        if self.skipAlign.get():
            self._write_alignment(source, folder)

    def _write_alignment(self, source: Source, folder: str) -> None:
        rows = []
        for section, tilt in enumerate(source.used):
            if tilt.transform is None:
                raise BadInput("the alignment was to be skipped, but the input series has none")
            rot, tx, ty = row_from_xf(tilt.transform)
            rows.append(AlnRow(section, rot, tx, ty, tilt.angle))
        with open(os.path.join(folder, f"{source.series_id}.aln"), "w", encoding="utf-8") as file:
            file.write(format_aln(AlnFile(tuple(rows), raw_size=(*source.size, len(rows)))))

    def _run_program(self, source: Source, folder: str, command: str, suffix: str) -> str:
        """Run the program for the whole series or one half; return the command line. Its files are checked later."""
        stem = os.path.join(folder, source.series_id)
        flags = parse_flags(command)
        flags["-InMrc"], flags["-OutMrc"] = [f"{stem}{suffix}.mrcs"], [f"{stem}{suffix}.mrc"]
        if "-AngFile" in flags:
            flags["-AngFile"] = [f"{stem}.tlt"]
            flags["-TiltAxis"] = [tilt_axis_word(source.tilt_axis), flags["-TiltAxis"][1]]
        if "-AlnFile" in flags:
            flags["-AlnFile"] = [f"{stem}.aln"]
            flags.pop("-TiltAxis", None)
            if "-ImgDose" in flags:     # the doses before the tilts are in the angle file: without it halves are not weighted
                flags["-AngFile"] = [f"{stem}.tlt"]
        if not self._program.gpu:
            flags.pop("-Gpu", None)
            flags["--threads"] = [str(engines.threads_per_program(self._stepsExecutor.numberOfProcs))]
        arguments = " ".join(" ".join([flag, *map(quote_word, values)]) for flag, values in flags.items())
        log = f"{stem}{suffix}.log"
        if self._program.gpu:
            with self.hold_gpus():
                said = self.run_program(self._program.command, arguments, log, env=self._program.environment)
        else:
            said = self.run_program(self._program.command, arguments, log)
        if self.makeTomo.get():
            self._check_volume(source, f"{stem}{suffix}.mrc", said, log)
        return f"{self._program.command} {arguments}"

    def _check_volume(self, source: Source, path: str, said: str, log: str) -> None:
        check = check_movie(path)
        if check.state != "complete":
            self._keep_log(log)
            missing = "made no tomogram" if not os.path.exists(path) else f"left an incomplete tomogram ({check.reason})"
            raise ProgramFailed(f"{self._program_name()} {missing}: {said or 'it said nothing'}")
        found = (check.width, check.height, check.frames)
        wanted = expected_sizes(source.size, source.tilt_axis, self.tomoThickness.get(), self.binFactor.get(),
                                self.flipVol.get())
        if not any(all(abs(a - b) <= SIZE_TOLERANCE for a, b in zip(found, size, strict=True)) for size in wanted):
            self._keep_log(log)
            raise ProgramFailed(f"{self._program_name()} made a volume of {found[0]} x {found[1]} x {found[2]} voxels where "
                                f"{' x '.join(map(str, wanted[0]))} was expected")

    def _program_name(self) -> str:
        return os.path.basename(shlex.split(self._program.command)[0])

    def _keep_log(self, log: str) -> None:
        os.makedirs(self._getExtraPath("failed"), exist_ok=True)
        if os.path.exists(log):
            shutil.copyfile(log, self._getExtraPath("failed", os.path.basename(log)))

    def _read_results(self, source: Source, folder: str) -> Result:
        """The alignment, by section of what was given to the program, back to the images of the input."""
        out = files.OutputFiles.of(os.path.join(folder, f"{source.series_id}.mrcs"),
                                   os.path.join(folder, f"{source.series_id}.mrc"))
        quality = read_if_there(out.quality, parse_quality)
        if self.skipAlign.get():
            return Result(folder, quality=quality)
        try:
            aln = read_if_there(out.aln, parse_aln)
            if aln is None:
                raise ProgramFailed(f"{self._program_name()} wrote no alignment file")
            sections, _ = raw_sections(aln, len(source.used))
        except AlnError as error:
            raise ProgramFailed(f"the alignment file of {self._program_name()} makes no sense: {error}") from error
        used = source.used
        rows = {used[section].index: row for section, row in zip(sections, aln.rows, strict=True)}
        if not all(math.isfinite(value) for row in rows.values() for value in (row.rot_deg, row.tx, row.ty, row.tilt_deg)):
            raise ProgramFailed("the alignment holds values that are no numbers")
        reasons = {tilt.index: "excluded by the program (dark)" for tilt in used if tilt.index not in rows}
        if quality is not None:
            reasons |= {used[tilt.section].index: tilt.reason for tilt in quality.tilts
                        if not tilt.used and tilt.section < len(used)}
        ctf = (read_if_there(out.ctf_text, parse_ctf) if self.doEstimateCtf.get() else None) or ()
        of_ctf = ctf_sections(len(ctf), sections, len(used))
        return Result(folder, rows, reasons, ctf if of_ctf else (), tuple(used[section].index for section in of_ctf), quality)

    @staticmethod
    def _take_over(folder: str, target: str) -> None:
        """Rename the finished folder into extra/; what lies there under this name was never registered."""
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if name.endswith(".mrcs") or name.endswith("~"):
                os.remove(path)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(folder, target)
        sync_tree(target)

    # ------------------------------------------------------------------ register
    def register(self, task: Task, result: Result) -> None:
        source: Source = task.arguments[1]
        original = self._originals[task.key, task.version]
        if self.makeTomo.get() and self.outputs[TOMOGRAMS].versions.get(task.key, 0) < task.version:
            self._register_tomogram(task, source, result, original)
        if not self.skipAlign.get() and self.outputs[ALIGNED].versions.get(task.key, 0) < task.version:
            self._register_aligned(task, source, result, original)
        if result.ctf and not self.skipAlign.get():
            self._register_ctf(task, source, result)
        if FAILED in self.outputs:
            self.outputs[FAILED].remove(task.key)
        del self._originals[task.key, task.version]

    @staticmethod
    def _acquisition(original: Original, result: Result) -> TomoAcquisition:
        acquisition = original.series.getAcquisition().clone()
        if result.rows:
            acquisition.setTiltAxisAngle(next(iter(result.rows.values())).rot_deg)
        return acquisition

    def _register_tomogram(self, task: Task, source: Source, result: Result, original: Original) -> None:
        items = self.outputs[TOMOGRAMS].items
        path = os.path.join(result.folder, f"{task.key}.mrc")
        check = check_movie(path)
        size = (check.width, check.height, check.frames)
        pixel_size = source.pixel_size * self.binFactor.get()
        if items._samplingRate.get() is None:
            items.copyInfo(self._reader.items)
            items.setSamplingRate(pixel_size)
        tomogram = Tomogram(tsId=task.key)
        tomogram.setLocation(path)
        tomogram.setSamplingRate(pixel_size)
        origin = Transform()
        origin.setShifts(*(-0.5 * length * pixel_size for length in size))
        tomogram.setOrigin(origin)
        tomogram.setAcquisition(self._acquisition(original, result))
        halves = [os.path.join(result.folder, f"{task.key}{suffix}.mrc") for suffix in (ODD, EVEN)]
        tomogram.setHalfMaps(halves if self.doEvenOdd.get() else [])
        items.setDim(size)
        items._hasOddEven.set(self.doEvenOdd.get())
        self.outputs[TOMOGRAMS].put(task.key, tomogram, task.version)

    def _register_aligned(self, task: Task, source: Source, result: Result, original: Original) -> None:
        items = self.outputs[ALIGNED].items
        items.copyInfo(self._reader.items)
        items.setAlignment(ALIGN_2D)
        items._hasAlignment.set(True)
        items.setDim((*source.size, 1))
        items.setAnglesCount(len(source.tilts))
        series = TiltSeries(tsId=task.key)
        series.copyInfo(original.series)
        series.setAcquisition(self._acquisition(original, result))
        series.setAlignment2D()
        series.setDim((*source.size, 1))
        series.setAnglesCount(len(source.tilts))
        images = [self._aligned_image(image, result) for image in original.images]
        self.outputs[ALIGNED].put(task.key, series, task.version, children=images)

    @staticmethod
    def _aligned_image(original: TiltImage, result: Result) -> TiltImage:
        """The raw image with its alignment as a transform; disabled where it could not be aligned."""
        image = original.clone()
        image.copyInfo(original, copyTM=False)
        transform = Transform()
        row = result.rows.get(original.getIndex())
        if row is None:
            image.setEnabled(False)
            transform.setMatrix(np.identity(3))
        else:
            a11, a12, a21, a22, dx, dy = xf_of_row(row.rot_deg, row.tx, row.ty)
            transform.setMatrix(np.array([[a11, a12, dx], [a21, a22, dy], [0.0, 0.0, 1.0]]))
            image.setTiltAngle(row.tilt_deg)
            acquisition = original.getAcquisition().clone()
            acquisition.setTiltAxisAngle(row.rot_deg)
            image.setAcquisition(acquisition)
        image.setTransform(transform)
        return image

    def _register_ctf(self, task: Task, source: Source, result: Result) -> None:
        if CTFS not in self.outputs:
            self._open_ctfs()
        series = CTFTomoSeries(tsId=task.key)
        series.setTsId(task.key)
        spectra = os.path.join(result.folder, f"{task.key}_ctf.mrc")
        rows = {index: (place, row) for place, (index, row) in enumerate(zip(result.ctf_order, result.ctf, strict=True))}
        children = []
        for tilt in source.tilts:
            place, row = rows.get(tilt.index, (None, None)) if tilt.index in result.rows else (None, None)
            ctf = ctf_of_tilt(row, f"{place + 1}@{spectra}" if row and os.path.exists(spectra) else None)
            if self.doPhaseShiftSearch.get():       # of all tilts or of none: the first one makes the columns of the table
                ctf.setPhaseShift(math.degrees(row.phase_rad) if row else 0.0)
            ctf.setIndex(tilt.index)
            ctf.setAcquisitionOrder(tilt.order)
            children.append(ctf)
        self.outputs[CTFS].put(task.key, series, task.version, children=children)

    def on_registered(self, task: Task, result: Result) -> None:
        source: Source = task.arguments[1]
        quality = result.quality
        excluded = tuple(entries.Excluded(tilt.angle, result.reasons[tilt.index]) for tilt in source.tilts
                         if tilt.index in result.reasons)
        used = len(result.rows) or len(source.used)
        axis = next(iter(result.rows.values())).rot_deg if result.rows else source.tilt_axis
        words = f"{used} tilts aligned" + (f", {len(excluded)} excluded" if excluded else "")
        words += f", tilt axis {axis:.2f} degrees" if axis is not None else ""
        words += f", {quality.local.note}" if quality and quality.local and quality.local.applied else ""
        words += f", tomogram in {result.seconds:.0f} s" if self.makeTomo.get() else f" in {result.seconds:.0f} s"
        self.tell(entries.Reconstructed(
            task.key, words, version=task.version, tilts_used=used, excluded=excluded, tilt_axis=axis, folder=result.folder,
            seconds=round(result.seconds, 1), commands=result.commands,
            tomogram=os.path.join(result.folder, f"{task.key}.mrc") if self.makeTomo.get() else None,
            tilt_offset=quality.tilt_offset_deg if quality else None, thickness_A=quality.thickness_A if quality else None,
            quality=quality.quality if quality else None, quality_note=quality.quality_note if quality else "",
            local_note=quality.local.note if quality and quality.local else "", bytes=bytes_of([result.folder])))
        if self.removeReplaced.get():
            self._remove_before(task)
        if self.doEstimateCtf.get() and not self.skipAlign.get() and not result.ctf and not self._told_ctf:
            self._told_ctf = True
            note = (quality.ctf_note if quality else "") or "the program wrote none"
            self.warning(f"No CTF for {task.key}: {note}. Tilt series and tomograms come without it.")

    def _remove_before(self, task: Task) -> None:
        """Remove the files of the versions before this one."""
        for version in range(1, task.version):
            shutil.rmtree(self._getExtraPath(task.key if version == 1 else f"{task.key}-v{version}"), ignore_errors=True)

    def found_entry(self, key: str, version: int, reason: str) -> entries.Done:
        folder = self._getExtraPath(key if version == 1 else f"{key}-v{version}")
        tomogram = os.path.join(folder, f"{key}.mrc")
        return entries.Reconstructed(key, reason, version=version, folder=folder,
                                     tomogram=tomogram if os.path.exists(tomogram) else None)

    def on_failed(self, task: Task, reason: str) -> None:
        """The series goes to FailedTiltSeries as it came."""
        if FAILED not in self.outputs:
            self._open_failed()
        original = self._originals.pop((task.key, task.version))
        self.outputs[FAILED].items.copyInfo(self._reader.items)
        series = TiltSeries(tsId=task.key)
        series.copyInfo(original.series)
        series.setObjComment(reason)
        images = []
        for image in original.images:
            copy = image.clone()
            copy.copyInfo(image)
            images.append(copy)
        self.outputs[FAILED].put(task.key, series, task.version, children=images)

    def on_end(self):
        name = TOMOGRAMS if self.makeTomo.get() else ALIGNED
        failed = len(self.outputs[FAILED].ids) if FAILED in self.outputs else 0
        self.tell(entries.Session("", f"{len(self.outputs[name].ids)} series done, {failed} failed"))

    # ------------------------------------------------------------------ what people do and read
    def getActions(self):
        return super().getActions() + actions.of_series(self, TOMOGRAMS if self.makeTomo.get() else ALIGNED)

    @classmethod
    def validateInstallation(cls):
        return []

    def _validate(self):
        errors = self.threads_problem() + engines.problem(self.engine.get(), aretomo.Plugin, ARETOMO_HOME)
        errors += forms.number_problems(self, LIMITS)
        if self.inputSetOfTiltSeries.get() is None:
            errors.append("Input tilt series: choose the output of the compose protocol. It may still be empty.")
        if self.skipAlign.get() and not self.makeTomo.get():
            errors.append("Alignment and reconstruction are both switched off: nothing would be done.")
        inner, outer = self.alignZ.get(), self.tomoThickness.get()
        if not self.skipAlign.get() and self.makeTomo.get() and None not in (inner, outer) and inner > outer:
            errors.append(f"Thickness for alignment ({inner}) is more than the tomogram thickness ({outer}): it should be "
                          "about the thickness of the specimen.")
        if self.alignZfile.get() and not os.path.exists(self.alignZfile.get()):
            errors.append(f"There is no file {self.alignZfile.get()} with volume heights.")
        if ".mrc" in os.path.abspath(self._getPath()):
            errors.append("The folder of the project has .mrc in its name: AreTomo2 would write its files elsewhere. "
                          "Rename it.")
        return errors

    def _warnings(self):
        warnings = []
        program = engines.choose(self.engine.get(), aretomo.Plugin, CPU_COMMAND)
        if not program.gpu and self.sampleType.get() == LOCAL_MOTION_COORDS:
            warnings.append("The CPU engine measures local motion in patches, not at given places: it is left out. Choose "
                            "\"Well distributed\".")
        if program.gpu and self.doDW.get():
            warnings.append("AreTomo2 reads the dose, but up to version 1.1.3 weights no tilt by it. The CPU engine does.")
        items = self.inputSetOfTiltSeries.get()
        if items is not None and items.hasAlignment() and not self.skipAlign.get():
            warnings.append("The input is aligned already; it will be aligned anew from the raw images.")
        return warnings

    def _summary(self):
        return summarize_results(self)

    def _methods(self):
        output = getattr(self, TOMOGRAMS, None) or getattr(self, ALIGNED, None)
        if output is None or output.isEmpty():
            return ["No tilt series was processed yet."]
        gpu = engines.choose(self.engine.get(), aretomo.Plugin, CPU_COMMAND).gpu
        method = "SART" if self.reconMethod.get() == 0 else "weighted back-projection"
        return [f"{output.getSize()} tilt series were aligned and reconstructed ({method}, binning {self.binFactor.get()}) "
                f"with {'AreTomo2' if gpu else 'the CPU engine of tomostream'}."]

    def _citations(self):
        return ["Zheng2022"]


def quote_word(word: str) -> str:
    """A word of a command line for the shell; Scipion's GPU placeholder stays as it is."""
    return word if word == "%(GPU)s" else shlex.quote(word)


def parse_flags(command: str) -> dict[str, list[str]]:
    """Flags of a command line with their values; a flag given again replaces the one before. Negative numbers are values."""
    flags: dict[str, list[str]] = {}
    flag = ""
    for word in shlex.split(command):
        if word.startswith("-") and word.lstrip("-")[:1].isalpha():
            flag = word
            flags[flag] = []
        else:
            flags.setdefault(flag, []).append(word)
    return flags


def tilt_axis_word(tilt_axis: float | None) -> str:
    """The tilt axis for AreTomo2, degrees: 0 asks it for a full search, so an axis known to be 0 is passed as 0.01."""
    if tilt_axis is None:
        return "0"
    return "0.01" if tilt_axis == 0 else f"{tilt_axis:g}"


def expected_sizes(size: tuple[int, int], tilt_axis: float | None, thickness: int, binning: float,
                   flip_vol: bool) -> list[tuple[int, int, int]]:
    """Sizes (x, y, z of the file) that a tomogram of a series can have, the likeliest first.

    x and y are swapped where the axis is nearer to x than to y; the refined axis decides, so near 45 degrees both may be.
    """
    x, y = (int(length / binning + 0.1) // 2 * 2 for length in size)
    z = int(thickness / binning + 0.1) // 2 * 2
    swapped = tilt_axis is not None and abs(math.sin(math.radians(tilt_axis))) > 0.707
    pairs = [(y, x), (x, y)] if swapped else [(x, y), (y, x)]
    sure = tilt_axis is not None and abs(abs(math.sin(math.radians(tilt_axis))) - 0.707) > 0.1
    return [(a, b, z) if flip_vol else (a, z, b) for a, b in (pairs[:1] if sure else pairs)]


def restack(stack: str, target: str, sections: list[int], pixel_size: float) -> None:
    """Copy some sections (0-based) of a stack into a new one."""
    source = open_mrc(stack)
    with mrcfile.new(target) as out:
        out.set_data(np.stack([source.section(section) for section in sections]).astype(np.float32))
        out.voxel_size = pixel_size


def read_if_there(path: str, parse):
    """Parse a text file of the program; None when it is not there."""
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8", errors="replace") as file:
        return parse(file.read(), os.path.basename(path))


def ctf_of_tilt(row: CtfRow | None, spectrum: str | None) -> CTFTomo:
    """CTF of one tilt; disabled, with the wrong-defocus mark of Scipion, where there is none."""
    model = CTFModel()
    if row is None or row.defocus_max_A <= 0 or not math.isfinite(row.defocus_max_A):
        model.setWrongDefocus()
        ctf = CTFTomo.ctfModelToCtfTomo(model)
        ctf.setEnabled(False)
        return ctf
    model.setStandardDefocus(row.defocus_max_A, row.defocus_min_A, row.azimuth_deg)
    model.setFitQuality(row.score)
    model.setResolution(row.resolution_A)
    model.setPsdFile(spectrum or "")
    return CTFTomo.ctfModelToCtfTomo(model)


def summarize_results(protocol) -> list[str]:
    """Counts, what is in work, what failed and why, what was excluded."""
    last: dict[str, entries.AnyEntry] = {}
    for entry in ledger.read(protocol._getExtraPath(ledger.NAME)):
        last[entry.item] = entry
    done = {key: entry for key, entry in last.items() if isinstance(entry, entries.Reconstructed)}
    lines = [f"*{len(done)}* series aligned and reconstructed."]
    for kind, title in ((entries.Started, "In work"), (entries.Retried, "Tried again"), (entries.Failed, "Failed")):
        found = [(key, entry) for key, entry in last.items() if key and isinstance(entry, kind)]
        if found:
            lines.append(f"*{title}: {len(found)}*")
            lines += [f"  {key}: {entry.reason}" for key, entry in found[-20:]]
    for key, entry in list(done.items())[-20:]:
        lines.append(f"  {key}: {entry.reason}")
        lines += [f"    without {tilt.angle:.1f} degrees: {tilt.reason}" for tilt in entry.excluded]
        note = entry.quality_note
        if note and note != "trust":
            lines.append(f"    {note}")
    if isinstance(last.get(""), entries.Waiting):
        lines.append(f"*Waiting*: {last[''].reason}.")
    return lines
