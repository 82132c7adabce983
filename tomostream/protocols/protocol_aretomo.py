# SPDX-License-Identifier: GPL-3.0-or-later
"""Align and reconstruct every tilt series as it arrives."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from aretomo.protocols.protocol_aretomo import ProtAreTomoAlignRecon
from pwem import ALIGN_2D
from pyworkflow.constants import BETA
from pyworkflow.mapper.sqlite import SqliteFlatMapperException
from tomo.objects import (
    CTFTomoSeries,
    SetOfCTFTomoSeries,
    SetOfTiltSeries,
    SetOfTomograms,
    TiltImage,
    TiltSeries,
)

from tomostream.acquisition.movies import check_movie
from tomostream.constants import ENGINE_ARETOMO3
from tomostream.files.clock import steady
from tomostream.journal import entries, ledger
from tomostream.journal.layout import stem
from tomostream.programs.aretomo import VOXEL_A
from tomostream.programs.aretomo3 import MIN_SLICES
from tomostream.programs.quality import Trust
from tomostream.protocols import actions, aretomo_form, engines, handing, objects, page, programs, summaries
from tomostream.protocols.aretomo3_run import Aretomo3Run
from tomostream.protocols.aretomo_run import EVEN, ODD, AretomoRun, expected_sizes, take_over
from tomostream.protocols.aretomo_series import Result, Settings, Source, source_of
from tomostream.protocols.defoci import Defoci
from tomostream.protocols.objects import Original
from tomostream.protocols.reconstructed import reconstructed
from tomostream.streaming import form as streaming_form
from tomostream.streaming import inputs
from tomostream.streaming.protocol import StreamingProtocol
from tomostream.streaming.rows import know_tables
from tomostream.streaming.sets import OutputSet
from tomostream.streaming.work import BadInput, Task

#: Unbinned px: for the forecast of disk space where the program chooses the height of the volume.
LIKELY_THICKNESS = 1500
ALIGNED, TOMOGRAMS, CTFS, FAILED = "TiltSeries", "Tomograms", "CTFTomoSeries", "FailedTiltSeries"
FILTERED = "FilteredTomograms"


class ProtTomoStreamAreTomo(engines.GpusBelowEngine, StreamingProtocol, ProtAreTomoAlignRecon):
    """Aligns and reconstructs the tilt series of a running session with AreTomo2, or on the CPU.

    Each series becomes a tomogram as soon as it is composed. A series that is composed again (a late tilt, a repeated
    exposure) is reconstructed again, and its tomogram replaces the one before.
    """

    _label = "aretomo"
    _devStatus = BETA
    _possibleOutputs = {ALIGNED: SetOfTiltSeries, TOMOGRAMS: SetOfTomograms, CTFS: SetOfCTFTomoSeries,
                        FAILED: SetOfTiltSeries, FILTERED: SetOfTomograms}
    output_files = MappingProxyType({ALIGNED: "tiltseries.sqlite", TOMOGRAMS: "tomograms.sqlite", CTFS: "ctftomoseries.sqlite",
                                     FAILED: "tiltseries_failed.sqlite", FILTERED: "tomograms_filtered.sqlite"})

    done_event = entries.Reconstructed
    input_field = "inputSetOfTiltSeries"
    #: The pixel size, A, for which the binning was last reported.
    _reported_binning = 0.0

    # ------------------------------------------------------------------ form
    def _defineParams(self, form: Any) -> None:
        ProtAreTomoAlignRecon._defineParams(self, form)
        aretomo_form.define(form)
        streaming_form.define_params(form)
        handing.define_params(form)

    # ------------------------------------------------------------------ open
    def open_outputs(self) -> None:
        page.go_on(self)
        self._runner = programs.Runner(self, aretomo_form.chosen(self))
        self._cpu = programs.Runner(self, engines.cpu(aretomo_form.CPU_COMMAND))
        self._settings = settings_of(self)
        self._stepsExecutor.newest_first = self.newestFirst.get()
        self._reader = self.row_reader(self.inputSetOfTiltSeries, lambda series: series.getObjId())
        self._new: list[tuple[int, int]] = []
        self._originals: dict[tuple[str, int], Original] = {}
        self._reported_ctf = False
        self._defoci = Defoci(ledger.read(self.ledger.path))
        self.perTsAlignZ = self.readThicknessFile(self.alignZfile.get()) if self.alignZfile.get() else {}
        if self.makeTomo.get():
            self.open_output(TOMOGRAMS, objects.tomogram_template(self.doEvenOdd.get()), "_tsId", self._describe_tomograms)
        if not self.skipAlign.get():
            self.open_output(ALIGNED, objects.aligned_template(), "_tsId", self._describe_aligned)
        self.done.update(programs.in_all(output.versions for output in self.outputs.values()))
        for name, opener in ((FAILED, self._open_failed), (CTFS, self._open_ctfs), (FILTERED, self._open_filtered)):
            if os.path.exists(self._getPath(self.output_files[name])):
                opener()
        self.report(entries.Session("", self._runner.reason))
        self._exporter = self._start_exporting()

    def _start_exporting(self) -> handing.Exporter | None:
        """Export what an earlier process did not; None if the form names no folder."""
        folder = (self.handOff.get() or "").strip()
        if not folder:
            return None
        started = handing.Exporter(os.path.abspath(self._getPath()), os.path.abspath(folder), handing.targets_of(self),
                                  self.handOffCopy.get(), self._stepsExecutor.wake)
        for name in started.missing(self.done.items()):
            started.export(name)
        return started

    def _open_failed(self) -> OutputSet:
        return self.open_output(FAILED, objects.series_template(), "_tsId", self._describe)

    def _open_ctfs(self) -> OutputSet:
        template = CTFTomoSeries(tsId="template")
        return self.open_output(CTFS, template, "_tsId", lambda items: objects.point_at(items, self.inputSetOfTiltSeries))

    def _open_filtered(self) -> OutputSet:
        return self.open_output(FILTERED, objects.filtered_template(), "_tsId", objects.describe_filtered)

    @staticmethod
    def _describe_aligned(items: Any) -> None:
        """Set what is known of the aligned series before there is one."""
        items.setAlignment(ALIGN_2D)
        items._hasAlignment.set(True)

    def _describe_tomograms(self, items: Any) -> None:
        """Set what is known of the tomograms before there is one."""
        items._hasOddEven.set(self.doEvenOdd.get())

    def _describe(self, items: Any) -> None:
        items.copyInfo(self._reader.items)

    # ------------------------------------------------------------------ watch
    def watch(self) -> bool:
        rows, ended = programs.read_rows(self, self.inputSetOfTiltSeries, "tilt series", "the compose protocol")
        self._new += [(row_id, self._reader.version_of(row_id)) for row_id in rows]
        return ended

    def undecided(self) -> bool:
        for entry in self._exporter.news() if self._exporter is not None else ():
            self.report(entry)
        return super().undecided() or (self._exporter is not None and self._exporter.busy)

    # ------------------------------------------------------------------ decide
    def decide(self) -> Iterable[Task]:
        """Yield a task for each new series. A series that cannot be read now stays new."""
        if not self._new:
            return
        try:
            yield from self._tasks_of_new()
        finally:
            self._reader.release()      # once for all of them: after a restart all series of the session are new

    def _tasks_of_new(self) -> Iterator[Task]:
        new, self._new = self._new, []
        while new:
            try:
                task = self._task(*new[0])
            except (sqlite3.Error, SqliteFlatMapperException) as error:
                self._new = new
                self.trouble(entries.Topic.SERIES, f"a tilt series cannot be read now ({error}); retrying")
                return
            del new[0]
            self.trouble(entries.Topic.SERIES, "")
            if task is not None:
                yield task

    def inputs_of(self, task: Task) -> Iterable[str]:
        return [task.arguments[1].stack] if len(task.arguments) > 1 else []

    def _task(self, row_id: int, version: int) -> Task | None:
        """Return the task for one row of the input; None if it is done, in progress, or impossible."""
        self._reader.items.loadAllProperties()      # known since the first series, not since this run began
        series = know_tables(self._reader.items[row_id])
        series_id = series.getTsId()
        running = self.attempts.get(series_id)
        if max(self.done.get(series_id, 0), running.task.version if running else 0) >= version:
            return None
        images = [image.clone() for image in series.iterItems(orderBy=TiltImage.INDEX_FIELD)]
        self._originals[series_id, version] = Original(series.clone(), images)
        try:
            source = source_of(series, images, self.command_of(series), self.command_of(series, even=True))
        except (AttributeError, TypeError, ValueError, OSError) as error:     # pyworkflow's ways to say "no such file"
            self.fail(Task(series_id, (series_id,), version), f"the series cannot be read: {error}")
            return None
        self.report(entries.Started(series_id, f"to be aligned and reconstructed, {series.getSize()} tilts", version=version,
                                    tilts=series.getSize(), bytes=self._volume_bytes(source)))
        return Task(series_id, (series_id, source), version, needs_gpu=self._runner.gpu)

    def _binning(self, pixel_size: float) -> int:
        return settings_of(self).binning_for(pixel_size)

    def _genAretomoCmd(self, ts: TiltSeries, *arguments: Any, **options: Any) -> str:
        """As upstream, which takes the binning from the form; 0 there is replaced by the chosen binning."""
        asked, pixel_size = self.binFactor.get(), ts.getSamplingRate()
        if not asked and self.makeTomo.get() and pixel_size != self._reported_binning:
            self._reported_binning = pixel_size
            self.report(entries.Session("", aretomo_form.chosen_binning(self, pixel_size, self._binning(pixel_size))))
        self.binFactor.set(self._binning(pixel_size))
        try:
            return str(super()._genAretomoCmd(ts, *arguments, **options))
        finally:
            self.binFactor.set(asked)

    def command_of(self, series: TiltSeries, even: bool | None = None) -> str:
        """Return upstream's command for a series or one of its halves, with the only path that we keep in it quoted."""
        command = aretomo_form.with_known_tilt(self._genAretomoCmd(series, "IN", series.getTsId(), even=even), self)
        places = self.coordsFn.get() or ""
        return str(command).replace(f"-RoiFile {places}", f"-RoiFile {shlex.quote(places)}") if places else str(command)

    def _volume_bytes(self, source: Source) -> int:
        """Return the size in bytes of the tomogram of a series, its halves and the filtered one."""
        if not self.makeTomo.get():
            return 0
        thickness = self.tomoThickness.get() if self.tomoThickness.get() > 0 else LIKELY_THICKNESS
        if self.engine.get() == ENGINE_ARETOMO3:
            thickness = max(thickness, MIN_SLICES * self._binning(source.pixel_size))
        size = expected_sizes(source.size, source.tilt_axis, thickness, self._binning(source.pixel_size), self.flipVol.get())
        return math.prod(size[0]) * 4 * (1 + 2 * bool(self.doEvenOdd.get()) + bool(self.filteredTomograms.get()))

    # ------------------------------------------------------------------ run
    def work(self, task: Task) -> Result:
        source: Source = task.arguments[1]
        began = steady()
        name = stem(task.key, task.version)
        folder = self.workplace.folder(name)
        kind = Aretomo3Run if self.engine.get() == ENGINE_ARETOMO3 else AretomoRun
        result = kind(source, self._settings, folder, self._runner, self._cpu).run()
        target = self._getExtraPath(name)
        take_over(folder, target)
        if self.leaveOutDoubtful.get() and result.quality is not None and result.quality.trust is Trust.DOUBTFUL:
            raise BadInput(f"left out of the outputs, as requested in the form, because its alignment is doubtful "
                           f"({result.quality.quality_note}); its files are in {target}")
        return replace(result, folder=target, seconds=steady() - began)

    # ------------------------------------------------------------------ register
    def register(self, task: Task, result: Result) -> None:
        source: Source = task.arguments[1]
        original = self._originals[task.key, task.version]
        self._defoci.judge(source, result, self._reader.items.getAcquisition().getVoltage())
        if self.makeTomo.get() and self.outputs[TOMOGRAMS].versions.get(task.key, 0) < task.version:
            self._register_tomogram(TOMOGRAMS, task, source, result, original)
        if result.filtered:
            if FILTERED not in self.outputs:
                self._open_filtered()
            self._register_tomogram(FILTERED, task, source, result, original)
        if not self.skipAlign.get() and self.outputs[ALIGNED].versions.get(task.key, 0) < task.version:
            self._register_aligned(task, source, result, original)
        if result.ctf and not self.skipAlign.get():
            self._register_ctf(task, source, result)
        for name in (FAILED, *([] if result.filtered else [FILTERED])):     # the one of the version before is gone
            if name in self.outputs:
                self.outputs[name].remove(task.key)
        del self._originals[task.key, task.version]

    def _register_tomogram(self, output: str, task: Task, source: Source, result: Result, original: Original) -> None:
        filtered, items = output == FILTERED, self.outputs[output].items
        path = os.path.join(result.folder, f"{task.key}{'_wiener' if filtered else ''}.mrc")
        check = check_movie(path)
        size = (check.width or 0, check.height or 0, check.frames or 0)        # checked when the program ended
        pixel_size = source.pixel_size * self._binning(source.pixel_size)
        if items._samplingRate.get() is None:
            items.copyInfo(self._reader.items)
            items.setSamplingRate(pixel_size)
        items.setDim(size)
        with_halves = self.doEvenOdd.get() and not filtered
        halves = [os.path.join(result.folder, f"{task.key}{suffix}.mrc") for suffix in (ODD, EVEN)] if with_halves else []
        tomogram = objects.tomogram(task.key, path, size, pixel_size, objects.aligned_acquisition(original, result.rows), halves,
                                    self._defoci.verdict(source, result))
        if filtered:
            objects.describe_filtered(items)
            objects.mark_filtered(tomogram)
        else:
            tomogram.setCtfCorrected(result.ctf_corrected)
            items.setCtfCorrected(result.ctf_corrected)
            items._hasOddEven.set(with_halves)
        self.outputs[output].put(task.key, tomogram, task.version)

    def _register_aligned(self, task: Task, source: Source, result: Result, original: Original) -> None:
        items = self.outputs[ALIGNED].items
        items.copyInfo(self._reader.items)
        self._describe_aligned(items)
        items.setDim((*source.size, 1))
        items.setAnglesCount(len(source.tilts))
        series = TiltSeries(tsId=task.key)
        series.copyInfo(original.series)
        series.setAcquisition(objects.aligned_acquisition(original, result.rows))
        series.setAlignment2D()
        series.setDim((*source.size, 1))
        series.setAnglesCount(len(source.tilts))
        objects.add_verdict(series, self._defoci.verdict(source, result))
        sigmas = objects.sigmas_of(result.quality, [tilt.index for tilt in source.used], source.pixel_size)
        images = objects.aligned_series(original, result.rows, sigmas)
        self.outputs[ALIGNED].put(task.key, series, task.version, children=images)

    def _register_ctf(self, task: Task, source: Source, result: Result) -> None:
        if CTFS not in self.outputs:
            self._open_ctfs()
        series = CTFTomoSeries(tsId=task.key)
        series.setTsId(task.key)
        spectra = os.path.join(result.folder, f"{task.key}_ctf.mrc")
        doubted = self._defoci.doubted(task.key)
        rows = {index: (place, row) for place, (index, row) in enumerate(zip(result.ctf_order, result.ctf, strict=True))
                if place not in doubted}
        series.setEnabled(bool(rows))
        children = []
        for tilt in source.tilts:
            place, row = rows.get(tilt.index, (0, None)) if tilt.index in result.rows else (0, None)
            ctf = objects.ctf_of_tilt(row, f"{place + 1}@{spectra}" if row and os.path.exists(spectra) else None)
            if self.doPhaseShiftSearch.get():       # of all tilts or of none: the first one makes the columns of the table
                ctf.setPhaseShift(math.degrees(row.phase_rad) if row else 0.0)
            ctf.setIndex(tilt.index)
            ctf.setAcquisitionOrder(tilt.order)
            children.append(ctf)
        self.outputs[CTFS].put(task.key, series, task.version, children=children)

    def on_registered(self, task: Task, result: Result) -> None:
        made = self.makeTomo.get()
        self.report(reconstructed(task, task.arguments[1], result, self._defoci, self.flipVol.get() if made else None))
        if self.removeReplaced.get():
            self._remove_before(task)
        if self._exporter is not None:
            self._exporter.export(task.key)
        if self.doEstimateCtf.get() and not self.skipAlign.get() and not result.ctf and not self._reported_ctf:
            self._reported_ctf = True
            note = (result.quality.ctf_note if result.quality else "") or "the program wrote none"
            self.report(entries.Session("", f"no CTF for {task.key}: {note}. Tilt series and tomograms come without it"),
                        warn=True)

    def _remove_before(self, task: Task) -> None:
        """Remove the files of the versions before this one."""
        for version in range(1, task.version):
            shutil.rmtree(self._getExtraPath(stem(task.key, version)), ignore_errors=True)

    def found_entry(self, key: str, version: int, reason: str) -> entries.Done:
        folder = self._getExtraPath(stem(key, version))
        tomogram = os.path.join(folder, f"{key}.mrc")
        return entries.Reconstructed(key, reason, version=version, folder=folder,
                                     tomogram=tomogram if os.path.exists(tomogram) else None)

    def on_failed(self, task: Task, reason: str) -> None:
        """Put the series into FailedTiltSeries as it came."""
        if FAILED not in self.outputs:
            self._open_failed()
        original = self._originals.pop((task.key, task.version))
        self.outputs[FAILED].items.copyInfo(self._reader.items)
        series = TiltSeries(tsId=task.key)
        series.copyInfo(original.series)
        series.setObjComment(reason)
        self.outputs[FAILED].put(task.key, series, task.version, children=objects.copied_images(original.images))
        if self._exporter is not None:
            self._exporter.remove(task.key)

    def on_end(self) -> None:
        name = TOMOGRAMS if self.makeTomo.get() else ALIGNED
        failed = len(self.outputs[FAILED].ids) if FAILED in self.outputs else 0
        self.report(entries.Session("", f"{len(self.outputs[name].ids)} series done, {failed} failed"))
        if self.doEstimateCtf.get() and CTFS not in self.outputs:
            why = "the alignment is skipped" if self.skipAlign.get() else "no series gave one"
            self.report(entries.Session("", f"there is no output {CTFS} and there will be none: {why}. Protocols waiting for it "
                                        "can be stopped"), warn=True)

    # ------------------------------------------------------------------ what people do and read
    def getActions(self) -> list[tuple[str, Callable[..., None]]]:
        return super().getActions() + actions.of_series(self, TOMOGRAMS if self.makeTomo.get() else ALIGNED)

    @classmethod
    def validateInstallation(cls) -> list[str]:
        return []

    def input_problems(self) -> list[str]:
        return inputs.problem(self.inputSetOfTiltSeries, "Input tilt series", "the compose protocol")

    def form_problems(self) -> list[str]:
        return self.threads_problem() + aretomo_form.problems(self)

    def _warnings(self) -> list[str]:
        return aretomo_form.warnings(self)

    def _summary(self) -> list[str]:
        return summaries.of_results(self)

    def _methods(self) -> list[str]:
        output = getattr(self, TOMOGRAMS, None) or getattr(self, ALIGNED, None)
        if output is None or output.isEmpty():
            return ["No tilt series has been processed yet."]
        method = "SART" if self.reconMethod.get() == 0 else "weighted back-projection"
        words = [f"{output.getSize()} tilt series were aligned and reconstructed ({method}, {self._binning_words()}) "
                 f"with {aretomo_form.program_of(self).value}."]
        if aretomo_form.gold_words(self) and self.makeTomo.get():
            words.append("Gold beads were located in 3D with the alignment and replaced in the tilt images by noise like that "
                         f"around them; the tomograms were made by {aretomo_form.AretomoProgram.CPU.value}.")
        return words

    def _binning_words(self) -> str:
        if self.binFactor.get():
            return f"binning {self.binFactor.get()}"
        series = inputs.set_of(self.inputSetOfTiltSeries)
        pixel_size = series.getSamplingRate() if series is not None else None
        if not pixel_size:
            return f"voxels of about {VOXEL_A:g} A"
        return f"binning {self._binning(pixel_size)}, voxels of {self._binning(pixel_size) * pixel_size:.3g} A"

    def _citations(self) -> list[str]:
        return ["Zheng2022"]


def settings_of(protocol: ProtTomoStreamAreTomo) -> Settings:
    """Return the settings of the form that hold for every series."""
    align = not protocol.skipAlign.get()
    return Settings(skip_align=not align, tomogram=protocol.makeTomo.get(), halves=protocol.doEvenOdd.get(),
                    weight_by_dose=protocol.doDW.get(), ctf=protocol.doEstimateCtf.get(), thickness=protocol.tomoThickness.get(),
                    binning=protocol.binFactor.get() or 0, flip=protocol.flipVol.get(),
                    imod=protocol.outImod.get() if align else 0, filtered=protocol.filteredTomograms.get(),
                    correct_ctf=protocol.engine.get() == ENGINE_ARETOMO3 and protocol.correctCtf.get(),
                    min_slices=aretomo_form.min_slices(protocol), gold=aretomo_form.gold_words(protocol))
