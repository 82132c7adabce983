# SPDX-License-Identifier: GPL-3.0-or-later
"""Import the movies of a running acquisition, one per tilt, as soon as each is written."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pwem.constants import SAMPLING_FROM_IMAGE
from pwem.objects import Acquisition, Movie, SetOfMovies
from pwem.protocols import ProtImportMovies
from pwem.protocols.protocol_import.micrographs import ProtImportMicBase
from pyworkflow.constants import BETA

from tomostream.acquisition.arrival import Arrivals, Candidate
from tomostream.acquisition.imported import FileFacts, MovieFiles, Sight, goes_first, kind_of, other_formats, why_stack
from tomostream.acquisition.movies import EXTENSIONS, MovieCheck, check_movie, why_no_movie
from tomostream.acquisition.optics import UNKNOWN, Optics, find_optics, known_from
from tomostream.files import patterns
from tomostream.files.clock import steady
from tomostream.files.writing import remove_parts, sync, whole
from tomostream.journal import entries, ledger, until
from tomostream.protocols import import_form, summaries
from tomostream.protocols.objects import NOMINAL_MAGNIFICATION
from tomostream.streaming.lookout import Lookout
from tomostream.streaming.obstacles import out_of_reach
from tomostream.streaming.protocol import StreamingProtocol
from tomostream.streaming.values import seconds_of
from tomostream.streaming.watch import Seen
from tomostream.streaming.work import BadInput, Task

MOVIES = "outputMovies"
#: Seconds between two searches for the first mdoc while pixel size or voltage is not known.
FACTS_SECONDS = 2.0
#: Seconds between two tries to read movies in a folder that is out of reach.
REACH_SECONDS = 2.0


class ProtTomoStreamImportMovies(StreamingProtocol, ProtImportMovies):
    """Imports the movies of a running tomography session while the microscope writes them.

    Every tilt is a movie, imported as in single-particle work. The protocol can be started before the first movie exists.
    A movie is registered as soon as its file is structurally complete and no longer growing.
    """

    _label = "import movies"
    _devStatus = BETA
    _possibleOutputs = {MOVIES: SetOfMovies}
    _outputClassName = "SetOfMovies"
    output_files = MappingProxyType({MOVIES: "movies.sqlite"})

    done_event = entries.Imported

    # ------------------------------------------------------------------ form
    def _defineParams(self, form: Any) -> None:
        ProtImportMicBase._defineParams(self, form)
        import_form.define(form)

    def _defineImportParams(self, form: Any) -> None:
        import_form.define_mdocs(form)

    def _defineAcquisitionParams(self, form: Any) -> Any:
        ProtImportMovies._defineAcquisitionParams(self, form)
        return import_form.define_acquisition(form)

    # ------------------------------------------------------------------ open
    def open_outputs(self) -> None:
        self._optics = UNKNOWN
        self._optics_look = self._reach_at = 0.0
        self._arrivals = Arrivals(self.settleSeconds.get(), seconds_of(self.fileTimeout.get()))
        self._files = Lookout(self.getPattern(), self.watcher, EXTENSIONS, poll=self.pollSeconds.get())
        remove_parts(self._getExtraPath())
        self._mine = {os.path.realpath(path) for path in (self.getGain(), self.getDark()) if path}
        self._movie_files = MovieFiles(_look)
        self._kinds: dict[str, set[str]] = {}
        self._news_at = steady()
        self._until = math.inf
        self._looked_again = self._ending = False
        self._missing_text = "pixel size or voltage"
        output = self.open_output(MOVIES, self._template(), "_micName", self._set_facts)
        self.done.update(output.versions)
        self._remember_files()
        at = until.begin(self._getPath(), (self.until.get() or "").strip())
        if at is not None:
            self.report(entries.Session("", f"the import will end at {until.words(at)}"))

    def _template(self) -> Movie:
        return self._movie("", "", 1, Acquisition(magnification=NOMINAL_MAGNIFICATION, voltage=300.0), 1.0)

    @staticmethod
    def _movie(name: str, path: str, frames: int, acquisition: Acquisition, pixel_size: float | None) -> Movie:
        movie = Movie()
        movie.setLocation(path)
        movie.setMicName(name)
        movie.setSamplingRate(pixel_size)
        movie.setAcquisition(acquisition)
        movie.setFramesRange([1, frames, 1])
        return movie

    def _set_facts(self, movies: SetOfMovies) -> None:
        movies.setGain(self.getGain())
        movies.setDark(self.getDark())

    def _remember_files(self) -> None:
        """Take from the ledger which file gave which movie, to notice a file that is written again."""
        versions: dict[str, int] = {}
        registered: dict[str, tuple[str, int, float]] = {}
        for entry in ledger.each(self.ledger.path):
            if not isinstance(entry, (entries.Imported, entries.Replaced, entries.Failed)) or not entry.file:
                continue
            self._movie_files.remember(entry.file, entry.item)
            if isinstance(entry, entries.Failed) or entry.size is None or entry.mtime is None:
                continue
            if entry.item in self.done:
                registered[entry.item] = (entry.file, entry.size, entry.mtime)
                versions[entry.item] = entry.version
        for name, version in self.done.items():
            if versions.get(name, 0) < version:         # killed before it was reported: the link or the copy says
                target = self._getExtraPath(name)
                registered[name] = (os.readlink(target) if os.path.islink(target) else "", *self._size_of(target))
        for name, (path, size, mtime) in registered.items():
            self._movie_files.register(path, name, size, mtime)

    @staticmethod
    def _source_of(target: str) -> str:
        return os.readlink(target) if os.path.islink(target) else target

    @staticmethod
    def _size_of(path: str) -> tuple[int, float]:
        try:
            status = os.stat(path)
        except OSError:
            return -1, 0.0
        return status.st_size, status.st_mtime

    # ------------------------------------------------------------------ watch
    def watch(self) -> bool:
        now = steady()
        for path, seen in self._files.changes():
            if not self._wanted(path):
                continue
            if not os.path.basename(path).isprintable():
                readable = " ".join(os.path.basename(path).encode("utf-8", "backslashreplace").decode("utf-8").split())
                self.report(entries.Failed(readable, "its name is not one line of UTF-8 text, which Scipion cannot store: "
                                           "rename it", file=path), warn=True)
            elif self._is_new(path, seen):
                written = self.watcher.how_written(path)
                self._arrivals.see(path, seen.size, seen.mtime, now, closed=bool(written), moved=written == "moved")
                self._news_at = now
                self._looked_again = False
        for path in self._files.gone():
            self._arrivals.forget(path)
        trouble = self._files.trouble or self._files.lies
        self.trouble(entries.Topic.FOLDER, f"no movies can be found: {trouble}" if trouble else "")
        if self.stop_event.is_set():
            return self._end("STOP STREAMING was asked for")
        left = until.seconds_left(self._getPath())
        self._until = math.inf if left is None else now + left
        if now >= self._until:
            return self._end("the time set for its end has come")
        if self._files.trouble and self._movie_files:
            self._news_at = now                 # new movies cannot be seen now
        if now - self._news_at > seconds_of(self.timeout.get()) and not self.attempts:
            if self._looked_again:
                return self._end(f"no new movie came for {self.timeout.get()}")
            self._looked_again = True           # the kernel may have lost an event
            self._files.look_at_all()
        return False

    def _is_new(self, path: str, seen: Seen) -> bool:
        """Tell whether a file must be looked at: it is not yet imported under this path or another."""
        sight, other = self._movie_files.sight(path, FileFacts(seen.size, seen.mtime, seen.device, seen.inode))
        if sight is Sight.SAME:
            self._ignore_file(path, f"it is the same file as {other}")
        elif sight is Sight.MOVED:
            name = self._movie_files.name(path)
            if not self.copyFiles.get():
                self._link(path, self._getExtraPath(name))
            self.report(entries.Imported(name, f"its file is {path} now", version=self.done.get(name, 1), file=path,
                                         size=seen.size, mtime=seen.mtime))
        return sight is Sight.NEW

    def _wanted(self, path: str) -> bool:
        return (path.lower().endswith(EXTENSIONS) and not os.path.basename(path).startswith(".")
                and not (self._mine and os.path.realpath(path) in self._mine) and not self.isBlacklisted(path))

    def _end(self, reason: str) -> bool:
        self.report(entries.Session("", f"the import ends: {reason}"))
        self._ending = True
        return True

    def next_deadline(self) -> float | None:
        dues = [steady() + self._files.seconds_to_next_look(),
                self._news_at + seconds_of(self.timeout.get()) + 0.01]
        if self._until < math.inf:
            dues.append(self._until + 0.01)
        due = self._arrivals.next_due()
        if due is not None:
            dues.append(max(due, self._reach_at, self._optics_look if self._optics.missing() else 0.0))
        return min(dues)

    # ------------------------------------------------------------------ decide
    def decide(self) -> Iterable[Task]:
        now = steady()
        ending = self._watch_ended or self._ending
        if now < self._reach_at and not ending:
            return
        for candidate in self._arrivals.due(now):
            size, mtime = self._size_of(candidate.path)
            if (size, mtime) != (candidate.size, candidate.mtime):      # between two looks at a network disk
                self._arrivals.see(candidate.path, size, mtime, now)
            check = check_movie(candidate.path)
            if check.state == "growing" and (why := out_of_reach(candidate.path)):
                self.trouble(entries.Topic.REACH, f"the movies cannot be read now: {why}")
                self._reach_at = now + REACH_SECONDS
                break
            self.trouble(entries.Topic.REACH, "")
            foreign = self._why_no_movie(candidate.path, check)
            if foreign:                     # it must decide neither the pixel size nor the size of the images
                if self._arrivals.judge(candidate.path, check.state, check.reason, check.frames, now).state == "ready":
                    self._ignore_file(candidate.path, foreign)
                continue
            if self._waits_for_frames(candidate, check, now):
                continue
            if check.state in ("complete", "unknown") and not self._optics_known(candidate.path, check):
                break
            verdict = self._arrivals.judge(candidate.path, check.state, check.reason, check.frames, now)
            if verdict.state == "ready":
                yield self._task(candidate.path, check)
            elif verdict.state == "failed":
                self._fail_file(candidate.path, verdict.reason)
            elif candidate.reason != verdict.reason and check.state != "complete":
                self.ledger.write(entries.Waiting(self._name(candidate.path), verdict.reason))
        if ending:
            yield from self._last_look()

    def _why_no_movie(self, path: str, check: MovieCheck) -> str:
        """Return why a file is not a movie of this session, by its structure and the files beside it; "" where it is."""
        beside = self._movie_files.beside(path) or next(
            (other for other in other_formats(path) if other in self._arrivals.waiting and goes_first(other, path)), "")
        if beside and check.state == "complete":
            return f"{os.path.basename(beside)}, a movie of the same name, is used"
        kinds = frozenset(self._kinds.get(os.path.dirname(path), ()))
        return why_no_movie(path, check, self._arrivals.movies_have_frames()) or why_stack(path, check, kinds)

    def _waits_for_frames(self, candidate: Candidate, check: MovieCheck, now: float) -> bool:
        """Tell whether a file of one image must wait: if movies with frames arrive, it is an average and not a movie."""
        until = candidate.last_change + self._arrivals.time_out
        if check.state != "complete" or check.frames != 1 or self._arrivals.any_in_use() or now >= until:
            return False
        self._arrivals.hold(candidate.path, until, "holds one image: movies with frames may come")
        return True

    def _last_look(self) -> Iterable[Task]:
        """At the end of the session: import what is complete, and report the rest."""
        for candidate in list(self._arrivals.leftovers()):
            self._arrivals.forget(candidate.path)
            check = check_movie(candidate.path)
            if foreign := self._why_no_movie(candidate.path, check):
                self._ignore_file(candidate.path, foreign)
            elif check.state == "complete" and self._optics_known(candidate.path, check):
                yield self._task(candidate.path, check)
            else:
                self._fail_file(candidate.path, why_left_over(check, self._missing_text))

    def _optics_known(self, path: str, check: MovieCheck) -> bool:
        """Tell whether pixel size and voltage are known: from the form, else the first mdoc, else the header."""
        if not self._optics.missing():
            return True
        now = steady()
        if now < self._optics_look:
            return False
        self._optics_look = now + FACTS_SECONDS
        optics = find_optics(self._form_optics(), self._mdoc_files(), check)
        if optics.missing():
            self.trouble(entries.Topic.OPTICS, f"the {optics.missing()} is not given in the form, and no mdoc file gives "
                                   "it yet")
            self._missing_text = optics.missing()
            return False
        self._optics = optics
        self.trouble(entries.Topic.OPTICS, "")
        self.report(entries.Session("", f"pixel size {optics.pixel_size:g} A, voltage {optics.voltage:g} kV ({optics.source})"))
        self._describe_set(check)
        return True

    def _form_optics(self) -> Optics:
        pixel = self.samplingRate.get()
        if self.samplingRateMode.get() != SAMPLING_FROM_IMAGE and self.magnification.get():
            pixel = 1e4 * self.scannedPixelSize.get() / self.magnification.get()
        form = Optics(pixel, self.voltage.get(), self.magnification.get(), "")
        given = known_from(UNKNOWN, form, "the form")
        return replace(form, source=given)

    def _mdoc_files(self) -> list[str]:
        given = self.mdocsPath.get()
        if not given:
            return []
        pattern = os.path.join(given, "*.mdoc") if os.path.isdir(given) else given
        return patterns.files_of(pattern) or patterns.files_of(pattern, patterns.depth_of(pattern, (".mdoc",)))

    def _acquisition(self) -> Acquisition:
        optics = self._optics
        return Acquisition(
            voltage=optics.voltage, sphericalAberration=self.sphericalAberration.get(),
            amplitudeContrast=self.amplitudeContrast.get(),
            magnification=NOMINAL_MAGNIFICATION if optics.magnification is None else optics.magnification,
            doseInitial=self.doseInitial.get() or 0.0,
            dosePerFrame=self.dosePerFrame.get() or 0.0)        # upstream's compose protocol multiplies it: None breaks it

    def _describe_set(self, check: MovieCheck) -> None:
        movies = self.outputs[MOVIES].items
        movies.setAcquisition(self._acquisition())
        movies.setSamplingRate(self._optics.pixel_size)
        movies.setIsPhaseFlipped(self.haveDataBeenPhaseFlipped.get())
        if check.state == "complete" and movies._firstDim.isEmpty():
            movies.setDim((check.width, check.height, check.frames))
            movies.setFramesRange([1, check.frames, 1])

    def _name(self, path: str) -> str:
        """Return the movie's name in Scipion: its file name, with its folder in front where two folders hold that name."""
        return self._movie_files.name(path)

    def inputs_of(self, task: Task) -> Iterable[str]:
        return task.arguments[:1] if self.copyFiles.get() else ()

    def _task(self, path: str, check: MovieCheck) -> Task:
        name = self._name(path)
        self._movie_files.use(path)
        if check.frames != 1:
            self._kinds.setdefault(os.path.dirname(path), set()).add(kind_of(path))
        size, mtime = self._size_of(path)
        version = self.done.get(name, 0) + 1
        return Task(name, (path, size, mtime, check.width, check.height, check.frames), version,
                    run=self.copyFiles.get())

    def _ignore_file(self, path: str, reason: str) -> None:
        """Report a file that is not a movie. If it changes, it is looked at again."""
        self.report(entries.Session("", f"{os.path.basename(path)} is ignored: {reason}"))

    def _fail_file(self, path: str, reason: str) -> None:
        """Report a file that cannot be used. If it changes, it is looked at again, so it does not count as done."""
        self.report(entries.Failed(self._name(path), reason, file=path), warn=True)

    # ------------------------------------------------------------------ run
    def work(self, task: Task) -> None:
        """Copy, for cameras whose buffer is purged."""
        source, size = task.arguments[:2]
        target = self._getExtraPath(task.key)
        try:
            with whole(target) as part:
                shutil.copyfile(source, part)
                if os.path.getsize(part) != size:
                    raise BadInput(f"{source} changed while it was copied")
                os.utime(part, (task.arguments[2], task.arguments[2]))
            sync([target])
        except OSError as error:
            raise BadInput(f"{source} cannot be copied into the project: {error}") from error

    # ------------------------------------------------------------------ register
    def register(self, task: Task, result: object) -> None:
        source, _, _, width, height, frames = task.arguments
        target = self._getExtraPath(task.key)
        if not self.copyFiles.get():
            with whole(target) as part:
                os.symlink(os.path.abspath(source), part)
        movies = self.outputs[MOVIES].items
        if movies._firstDim.isEmpty() and frames is not None:
            movies.setDim((width, height, frames))
            movies.setFramesRange([1, frames, 1])
        movie = self._movie(task.key, target, frames or 1, self._acquisition(), self._optics.pixel_size)
        self.outputs[MOVIES].put(task.key, movie, task.version)

    def on_registered(self, task: Task, result: object) -> None:
        source, size, mtime, *_, frames = task.arguments
        self._movie_files.register(source, task.key, size, mtime)
        text = f"imported, {frames} frames" if frames else "imported"       # not known of every format
        short = self._arrivals.fewer_than_usual(source, frames)
        if short:
            text += f", fewer than usual: most have {self._arrivals.usual_frames()}; it is used as it is"
        if task.version > 1:
            self.report(entries.Replaced(task.key, f"the file was written again: version {task.version} replaces the one before",
                                         version=task.version, file=source, size=size, mtime=mtime))
        self.report(entries.Imported(task.key, text, version=task.version, file=source, size=size, mtime=mtime,
                                     bytes=size if self.copyFiles.get() else None), warn=short)

    def found_entry(self, key: str, version: int, reason: str) -> entries.Done:
        size, mtime = self._movie_files.registered(key)
        return entries.Imported(key, reason, version=version, file=self._source_of(self._getExtraPath(key)), size=size,
                                mtime=mtime)

    def on_end(self) -> None:
        done = len(self.outputs[MOVIES].ids)
        self.report(entries.Session("", f"{done} movies imported"))

    # ------------------------------------------------------------------ what people read
    def form_problems(self) -> list[str]:
        return import_form.problems(self) + self._validateBlacklist()

    def _warnings(self) -> list[str]:
        return import_form.warnings(self)

    def _summary(self) -> list[str]:
        return summaries.of_movies(self, MOVIES, "imported")

    def _methods(self) -> list[str]:
        movies = getattr(self, MOVIES, None)
        if movies is None or movies.isEmpty():
            return ["No movie has been imported yet."]
        return [f"{movies.getSize()} movies, one per tilt, were imported while they were acquired "
                f"(pixel size {movies.getSamplingRate():g} A, {movies.getAcquisition().getVoltage():g} kV)."]

    def _citations(self) -> list[str]:
        return ["Mastronarde2005"]


def _look(path: str) -> FileFacts | None:
    """Return the facts of a file on disk; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return FileFacts(status.st_size, status.st_mtime, status.st_dev, status.st_ino)


def why_left_over(movie: MovieCheck, missing: str) -> str:
    """Return why a movie was not imported when the import ended. `missing`: "pixel size", "voltage" or both."""
    if movie.state != "complete":
        return f"is not complete ({movie.reason.rstrip('.')}), and the import ended"
    return (f"is complete, but the import ended and the {missing} is not known: give it in the import form, or put an mdoc file "
            "into the folder named there, and continue the import")
