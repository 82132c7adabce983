# SPDX-License-Identifier: GPL-3.0-or-later
"""Align the frames of every movie as it arrives, one movie at a time."""

from __future__ import annotations

import glob
import math
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from motioncorr.constants import DEFECTS_FILE_EER
from motioncorr.convert import parseMovieAlignment2
from motioncorr.protocols import ProtMotionCorrNewStreaming
from pwem.objects import Acquisition, Micrograph, Movie, SetOfMicrographs
from pyworkflow.constants import BETA
from pyworkflow.object import CsvList
from pyworkflow.utils import removeBaseExt

from tomostream.acquisition.movies import MovieCheck, check_movie
from tomostream.files.errors import BadFileError, EngineError
from tomostream.files.logs import first_words
from tomostream.files.mrc import open_mrc
from tomostream.files.writing import sync
from tomostream.journal import entries, versions
from tomostream.journal.layout import frames_log, micrograph_stem
from tomostream.journal.space import bytes_of
from tomostream.programs.motioncor import eer_problem, gain_not_applied, input_tag, safe_name, sum_size
from tomostream.protocols import engines, motioncor_form, programs, summaries
from tomostream.protocols.objects import EVEN_ODD_ATTRIBUTE, NOMINAL_MAGNIFICATION
from tomostream.protocols.references import References, write_eer_defects
from tomostream.streaming import form as streaming_form
from tomostream.streaming import inputs
from tomostream.streaming.protocol import StreamingProtocol
from tomostream.streaming.rows import first_item
from tomostream.streaming.work import BadInput, ProgramFailed, Task

MICROGRAPHS, WEIGHTED, EVEN, ODD = "micrographs", "micrographsDW", "micrographsEven", "micrographsOdd"
#: Output -> what the program appends to the name of the file.
SUFFIXES = {MICROGRAPHS: "", WEIGHTED: "_DW", EVEN: "_EVN", ODD: "_ODD"}
#: Flags of the files that the program reads with a movie; and flags that upstream sends although no program knows them.
REFERENCES, UNKNOWN = ("-Gain", "-Dark", "-DefectFile", "-DefectMap"), ("-MaskCent", "-MaskSize")
#: A pixel size in the header of a sum may be off by this share.
PIXEL_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class NewMovie:
    """What is needed of a movie of the input."""

    row: int
    name: str
    file: str
    frames: int

    @classmethod
    def of(cls, movie: Movie) -> NewMovie:
        return cls(movie.getObjId(), movie.getMicName(), movie.getFileName(), movie.getNumberOfFrames())


@dataclass(frozen=True)
class Aligned:
    """The result for one movie: files by output name, the total drift in px of the movie, and what was run in which folder."""

    files: dict[str, str]
    drift: float | None
    folder: str = ""
    command: str = ""
    program: str = ""


class ProtTomoStreamMotionCor(engines.GpusBelowEngine, StreamingProtocol, ProtMotionCorrNewStreaming):
    """Aligns the frames of each movie of a running tomography session with MotionCor, or on the CPU.

    One movie at a time, no batches: a micrograph is there as soon as its movie can be aligned.
    """

    _label = "motioncor"
    input_field = "inputMovies"
    _devStatus = BETA
    _possibleOutputs = {name: SetOfMicrographs for name in SUFFIXES}
    output_files = MappingProxyType({name: f"{name}.sqlite" for name in SUFFIXES})

    # ------------------------------------------------------------------ form
    def _defineParams(self, form: Any) -> None:
        ProtMotionCorrNewStreaming._defineParams(self, form)
        motioncor_form.define(form)
        streaming_form.define_params(form)

    # ------------------------------------------------------------------ open
    def open_outputs(self) -> None:
        self._runner = programs.Runner(self, motioncor_form.chosen(self))
        self._stepsExecutor.newest_first = self.newestFirst.get()
        self._template_args: dict[str, Any] | None = None
        self._command = ""
        self._program_divides = False
        self._references = References(self._getExtraPath(), self.info)
        self._new: list[NewMovie] = []
        self._names = UniqueNames()
        self._reader = self.row_reader(self.inputMovies, NewMovie.of)
        names = [MICROGRAPHS, *([WEIGHTED] if self.doApplyDoseFilter.get() else []),
                 *([EVEN, ODD] if self.splitEvenOdd.get() else [])]
        for name in names:
            self.open_output(name, self._template(name), "_micName")
        self.done.update(programs.in_all(output.versions for output in self.outputs.values()))
        self.report(entries.Session("", self._runner.reason))

    def _template(self, name: str) -> Micrograph:
        acquisition = Acquisition(magnification=NOMINAL_MAGNIFICATION, voltage=300.0)
        return self._micrograph(name, "", {key: "" for key in SUFFIXES}, acquisition, 1.0)

    def _micrograph(self, output: str, name: str, files: dict[str, str], acquisition: Acquisition,
                    pixel_size: float) -> Micrograph:
        micrograph = Micrograph()
        micrograph.setLocation(files[output])
        micrograph.setMicName(name)
        micrograph.setSamplingRate(pixel_size)
        micrograph.setAcquisition(acquisition)
        if self.splitEvenOdd.get() and output in (MICROGRAPHS, WEIGHTED):
            pair = CsvList(pType=str)       # upstream's convention: odd first
            pair.set([files[ODD], files[EVEN]])
            setattr(micrograph, EVEN_ODD_ATTRIBUTE, pair)
        return micrograph

    # ------------------------------------------------------------------ watch and decide
    def watch(self) -> bool:
        rows, ended = programs.read_rows(self, self.inputMovies, "movies", "the import")
        self._new += rows
        return ended

    def inputs_of(self, task: Task) -> Iterable[str]:
        """Return the movie, and the references that its program reads with it."""
        args = self._template_args or {}
        return [task.arguments[0], *(str(args[tag]).strip('"') for tag in REFERENCES if args.get(tag))]

    def decide(self) -> Iterable[Task]:
        if self._new and self._template_args is None:
            self._reader.items.loadAllProperties()
            if self._reader.items.getSamplingRate() is None:
                return      # an import that was killed between its first row and the properties of its set
            try:
                self._prepare()
            finally:
                self._reader.release()      # upstream looks at the first movie
        new, self._new = self._new, []
        for movie in new:
            yield Task(movie.name, (os.path.abspath(movie.file), movie.frames, self._names.of(movie.name)),
                       self._reader.version_of(movie.row), needs_gpu=self._runner.gpu)

    def _prepare(self) -> None:
        """With the first movie, set what holds for all: the command line and the description of the sets."""
        self.isEER = first_item(self._reader.items).getFileName().lower().endswith(".eer")
        if self.isEER and self._reader.items.getGain():
            write_eer_defects(self._reader.items.getGain(), self._getExtraPath(DEFECTS_FILE_EER), self.info)
        patches = self.patchX.get(), self.patchY.get()
        self._template_args = {tag: value for tag, value in self._getMcArgs().items() if tag not in UNKNOWN}
        self.patchX.set(patches[0])         # _getMcArgs rewrites a 1 as 0, in the stored form too
        self.patchY.set(patches[1])
        self._pixel_size = self._reader.items.getSamplingRate() * self._getBinFactor() / self._stretch()
        self._fraction_dose = self._getCorrectedDose()[1] if self.doApplyDoseFilter.get() else 0.0
        for output in self.outputs.values():
            output.items.copyInfo(self._reader.items)
            output.items.setSamplingRate(self._pixel_size)

    # ------------------------------------------------------------------ run
    def work(self, task: Task) -> Aligned:
        movie, frames, name = task.arguments
        check = check_movie(movie)
        if check.state not in ("complete", "unknown"):
            words = f"{os.path.basename(movie)} is not complete: {check.reason}"
            raise ProgramFailed(words) if check.state == "growing" else BadInput(words)
        self._refuse_what_comes_out_wrong(movie)
        given = self._given_references(check)
        stem = micrograph_stem(name, task.version)
        folder = self.workplace.folder(safe_name(stem))
        target = os.path.join(folder, f"{safe_name(stem)}.mrc")
        log = os.path.join(folder, "program.log")
        divides = self._program_divides
        arguments = self._arguments(movie, check.frames or frames, target, folder, divides, given)
        said = self._runner.run(arguments, log)
        if not divides and self._has_divided(target):
            self._program_divides = True
            arguments = self._arguments(movie, check.frames or frames, target, folder, True, given)
            said = self._runner.run(arguments, log)
        program = versions.of_program(self._runner.command, first_words(log))
        self._check_sums(target, stem, said, self._expected_size(check))
        return replace(self._collect_files(target, folder, stem), command=f"{self._runner.command} {arguments}",
                       program=program)

    def _gain(self) -> str:
        """Return the gain reference given to the program, or ""."""
        return str((self._template_args or {}).get("-Gain", "")).strip('"')

    def _refuse_what_comes_out_wrong(self, movie: str) -> None:
        """Refuse what MotionCor3 would do wrong and still exit with 0: leave the gain out, or render EER wrongly."""
        if is_eer(movie) != self.isEER and self._eer_pixels() != 1:
            raise BadInput(f"it is {'an EER movie' if is_eer(movie) else 'no EER movie'}, unlike the first movies of this run, "
                           "and up-sampled sums have another pixel size: align it in a run of its own, or without up-sampling")
        if not self._runner.gpu:
            return
        gain = self._gain()
        if gain and not os.path.exists(gain):
            raise ProgramFailed(f"there is no gain reference {gain}: MotionCor3 would align without it")
        problem = eer_problem(movie, self._eer_pixels()) if is_eer(movie) else ""
        if problem:
            raise BadInput(problem)

    def _given_references(self, check: MovieCheck) -> dict[str, str]:
        """Return flags and files of those references that must be converted for MotionCor3."""
        if not self._runner.gpu or not check.width or not check.height:
            return {}
        args = {tag: str(value).strip('"') for tag, value in (self._template_args or {}).items() if tag in REFERENCES}
        size = check.width, check.height
        given: dict[str, str] = {}
        try:
            given |= {tag: self._references.image(tag, args[tag], *size) for tag in ("-Gain", "-Dark") if tag in args}
            if "-DefectFile" in args:
                given["-DefectFile"] = self._references.defects(args["-DefectFile"], *size, check.dtype != "eer")
        except EngineError as error:
            raise BadInput(str(error)) from error
        return given

    def _expected_size(self, check: MovieCheck) -> tuple[int, int] | None:
        """Return the size of the sums in px; None where that of the movie is not known, or extra parameters may change it."""
        if not check.width or not check.height or (self.extraParams2.get() or "").strip():
            return None
        pixels = self._eer_pixels() if check.dtype == "eer" else 1
        return sum_size((check.width * pixels, check.height * pixels), self.binFactor.get())

    def _has_divided(self, target: str) -> bool:
        """Tell from the sum of an EER movie whether the program divides the pixel size by the up-sampling itself, as MotionCor3
        does since 1.2.3: the pixel size in the header is then divided twice."""
        if not self.isEER or not self._runner.gpu or self._eer_pixels() == 1 or not os.path.exists(target):
            return False
        try:
            found = open_mrc(target).pixel_size_A
        except BadFileError:        # what is wrong with it is found by its own check
            return False
        return abs(found * self._eer_pixels() / self._pixel_size - 1) < PIXEL_TOLERANCE

    def _arguments(self, movie: str, frames: int, target: str, folder: str, divides: bool = False,
                   given: Mapping[str, str] = MappingProxyType({})) -> str:
        """Return the command line; `divides`: see `_has_divided`; `given`: converted references."""
        args: dict[str, Any] = {**(self._template_args or {}), **given}
        last = self.alignFrameN.get()
        if not is_eer(movie):
            args = {tag: value for tag, value in args.items() if tag not in ("-EerSampling", "-FmIntFile")}
            args |= {"-Trunc": max(0, frames - last)} if last > 0 else {}
        if is_eer(movie):
            args["-FmIntFile"] = shlex.quote(self._fraction_file(frames, folder))
            args["-PixSize"] = self._reader.items.getSamplingRate() / (1 if divides else self._eer_pixels())
        args |= {tag: shlex.quote(str(args[tag]).strip('"')) for tag in REFERENCES if tag in args}
        args["-OutMrc"], args["-LogDir"] = shlex.quote(target), shlex.quote(folder)
        if not self._runner.gpu:
            args.pop("-Gpu", None)
            args["--threads"] = self._runner.threads
        text = " ".join(f"{key} {value}" for key, value in args.items())
        return f"{input_tag(movie)} {shlex.quote(movie)} {text} {self.extraParams2.get() or ''}".strip()

    def _eer_pixels(self) -> int:
        """Return the up-sampling along one axis: 1, 2 or 4 (upstream stores 0, 1, 2)."""
        return 2 ** self.eerSampling.get()

    def _getBinFactor(self) -> float:
        """Return the pixel size of the sums, in pixels of the imported movie."""
        return self.binFactor.get() / (self._eer_pixels() if self.isEER else 1)

    def _stretch(self) -> float:
        """Return by how much the program enlarges an image when it corrects anisotropic magnification: the larger scale."""
        return max(self.scaleMaj.get(), self.scaleMin.get()) if self.doMagCor.get() and self._runner.gpu else 1.0

    def _fraction_file(self, frames: int, folder: str) -> str:
        """Write, for EER, the number of raw frames, how many make a fraction, and the dose of a raw frame (e/A2)."""
        path = os.path.join(folder, "FmIntFile.txt")
        with open(path, "w", encoding="utf-8") as file:
            group = motioncor_form.raw_frames(self.eerDose.get(), self._reader.items, self.eerGroup.get())
            file.write(f"{frames} {group} {self._fraction_dose}\n")
        return path

    def _made(self, target: str) -> dict[str, str]:
        """Return the file that the program writes for each output."""
        base, extension = os.path.splitext(target)
        return {name: f"{base}{SUFFIXES[name]}{extension}" for name in self.outputs}

    def _check_sums(self, target: str, stem: str, said: str, size: tuple[int, int] | None) -> None:
        """Check that all sums are there, complete, of the expected size, and with the gain applied."""
        log = os.path.join(os.path.dirname(target), "program.log")
        problems = [_problem_of_sum(name, path, said, size) for name, path in self._made(target).items()]
        if self._gain():
            problems.append(gain_not_applied(log))
        problem = next(filter(None, problems), "")
        if problem:
            self._runner.keep_log(log, f"{stem}.log")
            raise ProgramFailed(f"{self._runner.name} {problem}")

    def _collect_files(self, target: str, folder: str, stem: str) -> Aligned:
        """Move the files of the program into extra/ under the name of the micrograph; what is there is complete."""
        made = self._made(target)
        drift = self._drift(folder)
        kept = {}
        for name, path in sorted(made.items(), key=lambda item: item[0] == MICROGRAPHS):
            kept[name] = self._getExtraPath(f"{stem}{SUFFIXES[name]}.mrc")
            os.replace(path, kept[name])
        sync(kept.values())
        for path in glob.glob(os.path.join(glob.escape(folder), "*-Full.log")):
            # MotionCor3 cuts its own name at the first .mrc or .tif
            os.replace(path, self._getExtraPath(frames_log(stem, path.endswith("-Patch-Full.log"))))
        self.workplace.discard(folder)
        return Aligned(kept, drift, folder)

    @staticmethod
    def _drift(folder: str) -> float | None:
        """Return the length of the path of the frames in px of the movie; None without a usable log."""
        logs = glob.glob(os.path.join(glob.escape(folder), "*-Full.log"))
        if not logs:
            return None
        xs, ys = parseMovieAlignment2(logs[0])
        length = sum(((xs[i] - xs[i - 1]) ** 2 + (ys[i] - ys[i - 1]) ** 2) ** 0.5 for i in range(1, len(xs)))
        return length if math.isfinite(length) else None

    # ------------------------------------------------------------------ register
    def register(self, task: Task, result: Aligned) -> None:
        for name, output in self.outputs.items():
            if output.versions.get(task.key, 0) < task.version:
                micrograph = self._micrograph(name, task.key, result.files, self._reader.items.getAcquisition(),
                                              self._pixel_size)
                if output.items._firstDim.isEmpty():
                    check = check_movie(result.files[name])
                    output.items.setDim((check.width, check.height, 1))
                output.put(task.key, micrograph, task.version)

    def on_registered(self, task: Task, result: Aligned) -> None:
        file = result.files[MICROGRAPHS]
        if task.version > 1:
            self.report(entries.Replaced(task.key, f"aligned again: version {task.version} replaces the one before",
                                         version=task.version, file=file))
        self._report_command(task, result)
        drift = None if result.drift is None else round(result.drift, 3)
        words = "aligned; the program left no log of the drift" if drift is None else f"aligned, drift {drift:.1f} px"
        optics = self._reader.items.getAcquisition()
        self.report(entries.Aligned(
            task.key, words, version=task.version, file=file, movie=task.arguments[0], drift_px=drift,
            pixel_size_A=self._reader.items.getSamplingRate(), voltage_kV=optics.getVoltage(),
            cs_mm=optics.getSphericalAberration(), amplitude_contrast=optics.getAmplitudeContrast(),
            bytes=bytes_of(result.files.values())))

    def _report_command(self, task: Task, result: Aligned) -> None:
        """Report the command line, once for all movies whose commands differ only in file names."""
        name, _ = os.path.splitext(os.path.basename(result.files[MICROGRAPHS]))
        command = result.command.replace(task.arguments[0], entries.MOVIE).replace(result.folder, self.workplace.root)
        command = command.replace(safe_name(name), entries.OUTPUT)
        if command != self._command:
            self._command = command
            self.report(entries.Command("", f"{task.key} was aligned by {result.program}: {result.command}", command=command,
                                        program=result.program))

    def found_entry(self, key: str, version: int, reason: str) -> entries.Done:
        stem = micrograph_stem(self._names.of(key), version)
        return entries.Aligned(key, reason, version=version, file=self._getExtraPath(f"{stem}.mrc"))

    def on_end(self) -> None:
        done = len(self.outputs[MICROGRAPHS].ids)
        self.report(entries.Session("", f"{done} micrographs, {len(self.done) - done} movies failed"))

    # ------------------------------------------------------------------ what people read
    @classmethod
    def validateInstallation(cls) -> list[str]:
        return []

    def input_problems(self) -> list[str]:
        problems = inputs.problem(self.inputMovies, "Input movies", "the import protocol")
        if problems:
            return problems
        if self.doApplyDoseFilter.get() and not (self._dose_per_frame() or 0) > 0:
            return ["Dose weighting needs the dose per frame, which the import form asks for."]
        return []

    def form_problems(self) -> list[str]:
        return self.threads_problem() + motioncor_form.problems(self)

    def _dose_per_frame(self) -> float | None:
        """Return the dose of a frame in e/A2: from the movies, or from the import form while there are none."""
        dose = inputs.set_of(self.inputMovies).getAcquisition().getDosePerFrame()
        given = getattr(self.inputMovies.getObjValue(), "dosePerFrame", None)
        return dose if dose is not None or given is None else given.get()

    def _warnings(self) -> list[str]:
        return motioncor_form.warnings(self)

    def _summary(self) -> list[str]:
        return summaries.of_movies(self, MICROGRAPHS, "aligned")

    def _methods(self) -> list[str]:
        micrographs = getattr(self, MICROGRAPHS, None)
        if micrographs is None or micrographs.isEmpty():
            return ["No movie has been aligned yet."]
        program = "MotionCor3" if motioncor_form.chosen(self).gpu else "tomostream's CPU engine"
        return [f"The frames of {micrographs.getSize()} movies were aligned as whole frames and summed with {program}"
                f" (binning {self.binFactor.get():g}, pixel size of the sums {micrographs.getSamplingRate():g} A)."]

    def _citations(self) -> list[str]:
        return ["Zheng2017"]


class UniqueNames:
    """Names of output files: the movie's without its extension, unless two would then be the same (x.mrc and x.tif)."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def of(self, movie: str) -> str:
        """Return the name for a movie: always the same, and no other movie's."""
        if movie not in self._names:
            name = removeBaseExt(movie)
            while self._owners.setdefault(name, movie) != movie:
                name = f"{name}_{os.path.splitext(movie)[1].lstrip('.') or 'movie'}"
            self._names[movie] = name
        return self._names[movie]


def is_eer(movie: str) -> bool:
    """Tell whether this movie is EER; a run may hold both kinds."""
    return movie.lower().endswith(".eer")


def _problem_of_sum(name: str, path: str, said: str, size: tuple[int, int] | None) -> str:
    """Return what is wrong with a sum that the program should have written, or ""."""
    check = check_movie(path)
    if check.state != "complete":
        missing = "made no" if not os.path.exists(path) else f"left an incomplete ({check.reason})"
        return f"{missing} {name}: {said or 'it said nothing'}"
    if size is not None and (check.width, check.height) != size:
        return (f"made {name} of {check.width} x {check.height} px where {size[0]} x {size[1]} were expected: their pixel size "
                "would be wrong")
    return ""
