# SPDX-License-Identifier: GPL-3.0-or-later
"""Compose the aligned tilts of each series as soon as the series is complete."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Iterable, Set
from dataclasses import replace
from itertools import islice
from types import MappingProxyType
from typing import Any

from pwem.protocols import EMProtocol
from pyworkflow.constants import BETA
from tomo.objects import SetOfTiltSeries, TiltImage, TiltSeries, TomoAcquisition

from tomostream.acquisition import events, preview
from tomostream.acquisition.fromnames import NamedSeries
from tomostream.acquisition.mdoc import read_mdoc
from tomostream.acquisition.movies import check_movie
from tomostream.acquisition.naming import movie_key
from tomostream.acquisition.pixels import pixel_size_doubt
from tomostream.acquisition.session import Session
from tomostream.acquisition.unassigned import describe_unassigned
from tomostream.choices import exclusions
from tomostream.choices.exclusions import Exclusions
from tomostream.files.clock import steady
from tomostream.files.errors import EngineError
from tomostream.files.writing import sync
from tomostream.journal import entries, ledger, readers
from tomostream.journal.composed import RecordError, SeriesRecord, read_record, record_of, write_record
from tomostream.journal.layout import EVEN, ODD, SIGN, stem
from tomostream.journal.runs import CUT_SHORT, FINISHED, RUNNING, WORDS
from tomostream.journal.space import bytes_of
from tomostream.protocols import actions, compose_form, disk, mdocs, objects, page, signs, summaries
from tomostream.protocols.objects import EVEN_ODD_ATTRIBUTE, series_acquisition
from tomostream.protocols.stacks import find_image, stack_images
from tomostream.streaming import inputs
from tomostream.streaming.lookout import Lookout
from tomostream.streaming.protocol import StreamingProtocol
from tomostream.streaming.values import seconds_of
from tomostream.streaming.work import ProgramFailed, Task

TILT_SERIES = "tiltSeries"
#: States that are logged; a series that was composed or has failed gets a line of its own.
LOGGED_STATES = ("acquiring", "aligning", "waiting")
#: Seconds between two ledger updates on the states of series.
STATES_SECONDS = 1.0
#: Seconds between two searches for files of tilt angles, where there are no mdoc files.
ANGLES_SECONDS = 5.0
#: Seconds between two searches for movies that no series lists; and how many of them an entry names.
UNASSIGNED_SECONDS, MAX_UNASSIGNED = 30.0, 500
#: Seconds between two checks which protocols of other plugins work on the series.
READERS_SECONDS = 10.0


class ProtTomoStreamComposeTS(StreamingProtocol, EMProtocol):
    """Composes the tilt series of a running session from aligned tilts and the mdoc files of the microscope.

    A series is composed when its last tilt is aligned, or by its own deadline when tilts are missing; it never waits for
    the end of the session. Late tilts and repeated exposures compose it again, as a higher version of the same series.
    """

    _label = "compose series"
    _devStatus = BETA
    _possibleOutputs = {TILT_SERIES: SetOfTiltSeries}
    output_files = MappingProxyType({TILT_SERIES: "tiltseries.sqlite"})

    done_event = entries.Composed
    input_field = "inputMicrographs"

    # ------------------------------------------------------------------ form
    def _defineParams(self, form: Any) -> None:
        compose_form.define(form)

    # ------------------------------------------------------------------ open
    def open_outputs(self) -> None:
        page.start(self)
        self._micrographs: dict[str, tuple[str, str, str]] = {}
        self._decisions: list[events.Decision] = []
        self._reported: dict[str, tuple[Any, ...]] = {}
        self._reported_at = 0.0
        self._previewed: set[str] = set()
        reported = [each for each in ledger.read(self.ledger.path) if isinstance(each, entries.Unassigned)]
        self._unassigned: Set[str] = frozenset(reported[-1].movies) if reported else frozenset()
        self._looked_for_unassigned = steady()
        self._looked_for_readers = -math.inf
        self._producer_alive = True
        self._producer_running = False
        self._ended = False
        self._input_closed = False
        self._reader = self.row_reader(self.inputMicrographs, _files_of)
        self._ledgers = [ledger.LedgerReader(ledger.path_in(folder)) for folder in self._producer_folders()]
        folder, pattern = mdocs.place_of(self)
        self._named = NamedSeries(folder) if self.fromNames.get() else None
        self._angles_at = 0.0
        self._files = Lookout(os.path.join(folder, pattern), self.watcher, (".mdoc",), descend=pattern == mdocs.EVERY,
                              poll=self.pollSeconds.get(), full_every=60.0)
        output = self.open_output(TILT_SERIES, objects.series_template(), "_tsId")
        self.done.update(output.versions)
        self._session = Session(self._policy())
        self._exclusions = Exclusions(self._getExtraPath(exclusions.NAME))
        self._disk = disk.DiskKeeper(self)
        self._restore()

    def _producer_folders(self) -> list[str]:
        """Return the folders of the motioncor and import runs, whose ledgers say which movies failed."""
        pointers = [self.inputMicrographs, getattr(self.inputMicrographs.getObjValue(), "inputMovies", None)]
        files = [inputs.file_of(pointer) for pointer in pointers if pointer is not None]
        folders = [os.path.dirname(file) for file in files if file]
        for folder in folders:
            self.watcher.add(os.path.join(folder, "extra"), only=frozenset([ledger.NAME]))
        return folders

    def _policy(self) -> events.Policy:
        return events.Policy(
            time_for_next_tilt=seconds_of(self.time4NextTilt.get()),
            time_for_next_series=seconds_of(self.time4NextTS.get()),
            expected_tilts=self.expectedTilts.get(), min_tilts=self.minNumTilts.get(),
            min_percent=float(self.percentTiltsRequired.get()), tilt_axis=self.manualTiltAxisAngle.get(),
            excluded_words=tuple((self.excludedWords.get() or "").split()), prefix=(self.seriesPrefix.get() or "").strip(),
            project=shlex.quote(os.getcwd()), late=compose_form.LATE[self.lateTilts.get()])

    def _restore(self) -> None:
        """Tell the session what is already registered, from the output and the sidecars."""
        for series_id, version in self.outputs[TILT_SERIES].versions.items():
            record = self._known(series_id, version)
            if record is None:
                continue
            self._disk.remove_aligned(record)      # the run before may have been killed before it could
            self._feed(events.Restored(
                series_id, record.series_name, tuple(tilt.movie for tilt in record.tilts), version, steady(),
                mdocs=record.mdocs, micrograph_versions=tuple(tilt.micrograph_version for tilt in record.tilts)))

    def _known(self, series_id: str, version: int) -> SeriesRecord | None:
        """Return what a registered series is made of; None, with a warning, if its sidecar is lost or damaged."""
        path = self._sidecar(series_id, version)
        try:
            record = read_record(path)
            problem = "" if record is not None else f"{path} is gone"
        except RecordError as error:
            record, problem = None, str(error)
        if record is None:
            self.warning(f"{series_id}: the movies it was composed of are no longer known ({problem}); it stays as it is")
        return record

    def _sidecar(self, series_id: str, version: int) -> str:
        return self._getExtraPath(f"{stem(series_id, version)}.json")

    # ------------------------------------------------------------------ watch
    def _feed(self, event: events.Event) -> None:
        self._decisions += self._session.handle(event)

    def watch(self) -> bool:
        now = steady()
        self._watch_readers(now)
        self._watch_producers(now)
        self._watch_micrographs(now)
        self._watch_mdocs(now)
        for series_id, movies in self._exclusions.changes():
            self._feed(events.Excluded(series_id, movies, now))
        if self.stop_event.is_set():
            self._feed(events.Stop(now))
        self._feed(events.Tick(now))
        self._disk.look(now)
        self._ended = self._ended or any(isinstance(each, events.EndSession) for each in self._decisions)
        return self._ended

    def _watch_readers(self, now: float) -> None:
        """Tell the session which protocols of other plugins work on the series: these read a series more than once."""
        if now - self._looked_for_readers >= READERS_SECONDS:
            self._looked_for_readers = now
            self._feed(events.OtherReaders(readers.of_other_plugins(os.getcwd(), self.getObjId()), now))

    def _watch_producers(self, now: float) -> None:
        for reader in self._ledgers:
            for entry in reader.each():
                if isinstance(entry, entries.Failed) and entry.item:
                    self._feed(events.MovieFailed(movie_key(entry.item), entry.reason, now, entry.file))
                elif isinstance(entry, entries.Imported):
                    self._feed(events.MovieSeen(movie_key(entry.item), now, entry.file, entry.mtime))
                    if self._named is not None and (facts := self._named.add(entry.file)) is not None:
                        self._feed(events.MdocRead(facts, now))

    def _watch_micrographs(self, now: float) -> None:
        rows, closed = self._reader.read()
        for row_id, name, files in rows:
            key = movie_key(name)
            self._micrographs[key] = files
            self._feed(events.MicrographReady(key, now, self._reader.version_of(row_id)))
        self.trouble(entries.Topic.INPUT,
                     f"the micrographs cannot be read now: {self._reader.trouble}" if self._reader.trouble else "")
        self._watch_state(closed, now)

    def _watch_state(self, closed: bool, now: float) -> None:
        state = self.producer_state(self.inputMicrographs, closed)
        alive = state not in CUT_SHORT
        reason = ("the motioncor protocol continues" if alive else
                  f"the motioncor protocol {WORDS[state]}: continue it (or: tomostream resume {shlex.quote(os.getcwd())})")
        if alive != self._producer_alive:
            self.report((entries.Session if alive else entries.Waiting)("", reason), warn=not alive)
        if alive != self._producer_alive or (state == RUNNING) != self._producer_running:
            self._producer_alive, self._producer_running = alive, state == RUNNING
            self._feed(events.ProducerState(alive, reason, now, running=state == RUNNING))
        if closed and state == FINISHED and not self._input_closed:
            self._input_closed = True
            self._feed(events.InputClosed(now))

    def _watch_mdocs(self, now: float) -> None:
        if self._named is not None:
            if now - self._angles_at >= ANGLES_SECONDS:
                self._angles_at = now
                for facts in self._named.with_new_angles():
                    self._feed(events.MdocRead(facts, now))
            return
        for path, _ in self._files.changes():
            self._feed(events.MdocRead(read_mdoc(path), now))
        for path in self._files.gone():
            self._feed(events.MdocGone(path, now))
        trouble = self._files.trouble or self._files.lies
        self.trouble(entries.Topic.MDOCS, f"mdoc files: {trouble}" if trouble else "")

    def next_deadline(self) -> float | None:
        deadlines = [steady() + (self._files.seconds_to_next_look() if self._named is None else self.pollSeconds.get())]
        session = self._session.next_deadline()
        if session is not None:
            deadlines.append(session)
        return min(deadlines)

    # ------------------------------------------------------------------ decide
    def decide(self) -> Iterable[Task]:
        decided = bool(self._decisions)
        while self._decisions:
            decision = self._decisions[0]
            if isinstance(decision, events.Compose):
                yield self._compose_task(decision)
            elif isinstance(decision, events.GiveUp):
                self._give_up(decision)
            elif isinstance(decision, events.Keep):
                self.report(entries.Kept(decision.series_id, decision.reason, movies=decision.movies), warn=True)
            else:
                self.report(entries.Session("", decision.reason))
            del self._decisions[0]
        if steady() - self._reported_at >= STATES_SECONDS or decided or self._ended:
            self._report_states()

    def undecided(self) -> bool:
        return bool(self._decisions)

    def inputs_of(self, task: Task) -> Iterable[str]:
        return [tilt.micrograph for tilt in task.arguments[0].tilts[:1]]

    def _compose_task(self, decision: events.Compose) -> Task:
        self._reader.items.loadAllProperties()      # known since the first micrograph, not since this run began
        self._pixel_size = self._reader.items.getSamplingRate()
        record = self._record(decision)
        text = f"{len(record.tilts)} tilts, version {record.version}: {decision.reason}"
        self.report(entries.Started(record.series_id, text, version=record.version))
        for left in record.left_out:
            self.warning(f"{record.series_id}: composed without {left.movie or 'a tilt'} at {left.angle:.1f} degrees: "
                         f"{left.reason}")
        doubt = self._doubt_pixel_size(record)
        if doubt:
            self.warning(f"{record.series_id}: {doubt}")
            record = replace(record, warnings=(*record.warnings, doubt))
        return Task(record.series_id, (record,), record.version)

    def _doubt_pixel_size(self, record: SeriesRecord) -> str:
        """Return why the pixel size must be wrong; "" where the mdoc gives none, or agrees."""
        image = check_movie(record.tilts[0].micrograph)
        return pixel_size_doubt(self._pixel_size, (read_mdoc(path) for path in record.mdocs), image)

    def _record(self, decision: events.Compose) -> SeriesRecord:
        """Return a decision with the files of its tilts and the sign of the angles, which is decided and reported with the first
        series."""
        first = signs.read(self._getExtraPath(SIGN)) is None
        sign = signs.of_run(self, decision.mdocs)
        if first:
            self.report(entries.Session("", f"tilt angles {sign.words}"))
        return record_of(decision, self._micrographs, movie_key, sign.negated)

    def _give_up(self, decision: events.GiveUp) -> None:
        item = decision.series_id or decision.series_name
        kind = entries.Failed if decision.failed else entries.NotASeries
        self.report(kind(item, decision.reason, name=decision.series_name, mdocs=decision.mdocs, because=decision.evidence),
                    warn=decision.failed)

    def _report_states(self) -> None:
        """Write a ledger entry for every series whose state or counts changed, and a log line where the state did."""
        self._reported_at = steady()
        self._report_unassigned()
        for state in self._session.changed_states():
            if not state.series_id:
                continue
            counts = (state.state, state.tilts_seen, state.tilts_aligned, state.tilts_failed, state.tilts_expected, state.version)
            before = self._reported.get(state.series_id)
            if before == counts:
                continue
            self._reported[state.series_id] = counts
            if state.state in LOGGED_STATES and (before is None or before[0] != state.state):
                self.info(f"{state.series_id}: {state.state}: {state.reason}")
            self.ledger.write(entries.Series(
                state.series_id, state.reason, name=state.series_name, state=state.state, seen=state.tilts_seen,
                aligned=state.tilts_aligned, failed=state.tilts_failed, expected=state.tilts_expected, version=state.version))
            if self.liveReport.get() and self.previews.get() and preview.is_due(state):
                self._ask_preview(state)

    def _report_unassigned(self) -> None:
        """Report the movies that no series lists, when they change: while the session runs those that are settled, at its end
        all."""
        if not self._ended and self._reported_at - self._looked_for_unassigned < UNASSIGNED_SECONDS:
            return
        self._looked_for_unassigned = self._reported_at
        still = 0.0 if self._ended else seconds_of(self.time4NextTilt.get())
        loose = {key: (self._named.why_refused(key) if self._named is not None else "") or why.reason
                 for key, why in self._session.unassigned(still).items() if not why.expected}
        if loose.keys() != self._unassigned:
            self._unassigned = loose.keys()
            self.report(entries.Unassigned("", describe_unassigned(list(loose), self._session.without_movie()), count=len(loose),
                                           movies=dict(islice(loose.items(), MAX_UNASSIGNED))), warn=bool(loose) and self._ended)

    def _ask_preview(self, state: events.SeriesState) -> None:
        """Tell the page, once, which tilts to make a preview of. Nothing waits for it."""
        decision = None if state.series_id in self._previewed else self._session.as_it_stands(state.series_id)
        if decision is None:
            return
        self._previewed.add(state.series_id)
        self._reader.items.loadAllProperties()
        tilts = tuple((tilt.micrograph, tilt.angle) for tilt in self._record(decision).tilts)
        self.report(entries.Preview(
            state.series_id, f"{len(tilts)} of {state.tilts_expected} tilts are there: time for a preview", tilts=tilts,
            expected=state.tilts_expected or 0, tilt_axis=decision.tilt_axis.value,
            pixel_size_A=self._reader.items.getSamplingRate()))

    # ------------------------------------------------------------------ run
    def work(self, task: Task) -> tuple[int, int]:
        record: SeriesRecord = task.arguments[0]
        path = self._getExtraPath(stem(record.series_id, record.version))
        try:
            if self.doEvenOdd.get():
                for suffix in (ODD, EVEN):
                    stack_images(self._images(record, suffix), f"{path}{suffix}.mrcs", self._pixel_size)
            size = stack_images(self._images(record), f"{path}.mrcs", self._pixel_size)
            write_record(record, f"{path}.json")
            halves = [f"{path}{ODD}.mrcs", f"{path}{EVEN}.mrcs"] if self.doEvenOdd.get() else []
            sync([f"{path}.mrcs", f"{path}.json", *halves])
        except (OSError, EngineError) as error:
            raise ProgramFailed(f"the stack cannot be written: {error}") from error
        return size

    def _images(self, record: SeriesRecord, suffix: str = "") -> list[str]:
        """Return the images of a series; those already removed come from the stack of an earlier version."""
        earlier = [self._getExtraPath(stem(record.series_id, version)) for version in range(record.version - 1, 0, -1)]
        return [find_image(tilt, suffix, earlier) for tilt in record.tilts]

    def _insertFunctionStep(self, *args: Any, **kwargs: Any) -> int:
        """Scipion stores the arguments of a step for display only: the name of the series is enough."""
        return super()._insertFunctionStep(*[arg for arg in args if not isinstance(arg, SeriesRecord)], **kwargs)

    # ------------------------------------------------------------------ register
    def register(self, task: Task, result: tuple[int, int]) -> None:
        record: SeriesRecord = task.arguments[0]
        items = self.outputs[TILT_SERIES].items
        micrographs = self._reader.items
        acquisition = series_acquisition(record, micrographs.getAcquisition())
        items.setSamplingRate(micrographs.getSamplingRate())
        items.setAcquisition(acquisition.clone())
        items.setDim((result[0], result[1], 1))
        items.setAnglesCount(len(record.tilts))
        items._hasOddEven.set(self.doEvenOdd.get())
        series = TiltSeries(tsId=record.series_id)
        series.setSamplingRate(micrographs.getSamplingRate())
        series.setAcquisition(acquisition)
        series.setDim((result[0], result[1], 1))
        series.setAnglesCount(len(record.tilts))
        series.setObjLabel(record.series_name if record.series_name != record.series_id else "")
        self.outputs[TILT_SERIES].put(record.series_id, series, record.version,
                                      children=self._tilt_images(record, acquisition, micrographs.getSamplingRate()))

    def _tilt_images(self, record: SeriesRecord, acquisition: TomoAcquisition, pixel_size: float) -> list[TiltImage]:
        path = self._getExtraPath(stem(record.series_id, record.version))
        images = []
        for index, tilt in enumerate(record.tilts, start=1):
            image = TiltImage()
            image.setTsId(record.series_id)
            image.setLocation(index, f"{path}.mrcs")
            image.setTiltAngle(tilt.angle)
            image.setAcquisitionOrder(tilt.order)
            image.setSamplingRate(pixel_size)
            image.setOddEven([f"{path}{ODD}.mrcs", f"{path}{EVEN}.mrcs"] if self.doEvenOdd.get() else [])
            own = acquisition.clone()
            own.setDoseInitial(tilt.prior_dose)
            own.setAccumDose(None if tilt.prior_dose is None or tilt.dose is None else tilt.prior_dose + tilt.dose)
            own.setDosePerFrame(tilt.dose)
            image.setAcquisition(own)
            images.append(image)
        return images

    def on_registered(self, task: Task, result: object) -> None:
        record: SeriesRecord = task.arguments[0]
        left = f", without {len(record.left_out)}" if record.left_out else ""
        path = self._getExtraPath(stem(record.series_id, record.version))
        self.report(composed_entry(record, f"composed of {len(record.tilts)} tilts{left}: {record.reason}",
                                   bytes_of(f"{path}{suffix}.mrcs" for suffix in ("", ODD, EVEN))))
        self._disk.remove_aligned(record)

    def found_entry(self, key: str, version: int, reason: str) -> entries.Done:
        record = self._known(key, version)
        return entries.Composed(key, reason, version=version) if record is None else composed_entry(record, reason)

    def on_end(self) -> None:
        self.report(entries.Session("", f"{len(self.outputs[TILT_SERIES].ids)} tilt series composed"))

    # ------------------------------------------------------------------ what people do and read
    def getActions(self) -> list[tuple[str, Callable[..., None]]]:
        return super().getActions() + actions.of_series(self, TILT_SERIES)

    def input_problems(self) -> list[str]:
        return inputs.problem(self.inputMicrographs, "Input micrographs", "the motioncor protocol")

    def form_problems(self) -> list[str]:
        return self.threads_problem() + compose_form.problems(self)

    def _warnings(self) -> list[str]:
        return compose_form.warnings(self)

    def _summary(self) -> list[str]:
        return summaries.of_series(self, TILT_SERIES) + disk.summary(self) + signs.summary(self) + page.summary(self)

    def _methods(self) -> list[str]:
        output = getattr(self, TILT_SERIES, None)
        if output is None or output.isEmpty():
            return ["No tilt series has been composed yet."]
        return [f"{output.getSize()} tilt series were composed from the aligned tilts and the mdoc files while they were "
                "acquired, sorted by tilt angle, with the dose of each tilt before its exposure."]

    def _citations(self) -> list[str]:
        return ["Mastronarde2005"]


def _files_of(micrograph: Any) -> tuple[int, str, tuple[str, str, str]]:
    """Return the row, the name and the files of a micrograph: the sum, those of odd and of even frames ("": there are none)."""
    pair = getattr(micrograph, EVEN_ODD_ATTRIBUTE, None)
    odd, even = (pair[0], pair[1]) if pair is not None and len(pair) == 2 else ("", "")
    return micrograph.getObjId(), micrograph.getMicName(), (micrograph.getFileName(), odd, even)


def composed_entry(record: SeriesRecord, reason: str, size: int | None = None) -> entries.Composed:
    """Return the ledger entry of a composed series."""
    return entries.Composed(
        record.series_id, reason, version=record.version, name=record.series_name, tilts=len(record.tilts),
        movies=tuple(tilt.movie for tilt in record.tilts), tilt_axis=record.tilt_axis,
        tilt_axis_source=record.tilt_axis_source, warnings=record.warnings, left_out=record.left_out,
        because=record.evidence, bytes=size)
