# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream watch`: a project for each new session of the microscopes of a facility, and a page above all of them."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Sequence

from tomostream.cli import errors, home, places, refuse
from tomostream.cli.facility import ConfigError, Facility, read, variables
from tomostream.cli.leaving import Leaving, say
from tomostream.cli.newcomers import NOTES, Newcomers, Note, Stage
from tomostream.files.locks import hold, holder
from tomostream.journal.layout import REPORT
from tomostream.report.index import Index, Listed
from tomostream.report.notify import FORMAT, Destinations, Message, deliver, one_line, scipion_variables

#: Held by the one that watches; another `--once` meanwhile has nothing to do.
LOCK = os.path.join(NOTES, ".lock")
#: Seconds between two looks while sessions are being started.
STARTING_SECONDS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a TOML file; docs/facility.rst has an example")
    parser.add_argument("--once", action="store_true", help="look once, start what is new, and end: for cron")
    parser.add_argument("--check", action="store_true", help="say what would be started, and start nothing")


def main(options: argparse.Namespace) -> int:

    try:
        facility = read(options.config)
        home.scipion_environment(home.default_home(os.path.join(facility.projects, "project")))
        home.quiet_logs()
        refuse_settings(facility)
        if options.check:
            return check(facility)
        os.makedirs(os.path.join(facility.projects, NOTES), exist_ok=True)
        lock = hold(os.path.join(facility.projects, LOCK), 0.0)
        if lock is None:
            words = f"process {holder(os.path.join(facility.projects, LOCK))} watches {facility.projects} already"
            if options.once:
                say(f"Nothing to do: {words}.")
                return 0
            return refuse("watch", words)
        with lock, Leaving() as leaving:
            return Watch(facility).follow(leaving, options.once)
    except (ConfigError, errors.UserError) as error:
        return refuse("watch", error)
    except OSError as error:
        if error.filename is None:
            raise
        return refuse("watch", places.cannot_write(str(error.filename), error))


def refuse_settings(facility: Facility) -> None:
    """Try the parameters of all microscopes now, and not when the first session comes in the night.

    Raises
    ------
    ConfigError : a parameter does not exist or does not take the value.
    """
    from tomostream.cli import project

    if not any(each.settings for each in facility.microscopes):
        return
    from pyworkflow.config import Config

    Config.getDomain().getProtocols()
    import tomostream.protocols as ours
    from tomostream.journal.status import CLASSES

    for microscope in facility.microscopes:
        for name, values in project.settings_of(microscope.settings).items():
            try:
                project.apply(getattr(ours, CLASSES[name])(), name, values)
            except errors.UserError as error:
                raise ConfigError(f"{facility.path}: microscope '{microscope.name}': set.{name}: {error}") from error


def check(facility: Facility) -> int:
    """Say what is there, and what would be started; exit status 1 where a root cannot be read."""
    troubles = 0
    for microscope in facility.microscopes:
        newcomers = Newcomers(facility, microscope)
        first = newcomers.notes.first
        wanted = newcomers.preview()
        troubles += bool(newcomers.trouble)
        say(f"{microscope.name}: {newcomers.trouble or microscope.root}{' (watched for the first time)' if first else ''}")
        say(f"  to be started: {', '.join(map(one_line, wanted)) or 'nothing'}")
    return 1 if troubles else 0


class Watch:
    """Looks again and again. `turn` is one look."""

    def __init__(self, facility: Facility) -> None:
        self.facility = facility
        self._newcomers = [Newcomers(facility, each) for each in facility.microscopes]
        self._index = Index(facility.index)
        self._reported: dict[str, str] = {}
        self._read_at = os.stat(facility.path).st_mtime_ns

    def follow(self, leaving: Leaving, once: bool) -> int:
        """Watch until somebody asks to leave; with `once` until what is new has been started."""
        say(f"Watching {len(self._newcomers)} microscopes; the page: {os.path.join(self.facility.index, 'index.html')}")
        begin = True
        while not leaving.asked:
            try:
                self.turn(begin)
            except OSError as error:
                self._report("disk", f"for now {places.cannot_write(str(error.filename or self.facility.projects), error)}")
            except Exception as error:      # noqa: BLE001 - whatever it is, the microscopes are watched on
                words = f"{type(error).__name__}: {one_line(str(error))}"
                if self._report("unforeseen", f"an unexpected error; watching continues ({words})"):
                    traceback.print_exc()
            else:
                self._report("disk", "")
                self._report("unforeseen", "")
            begin = not once
            if once and not any(each.starting for each in self._newcomers):
                return 1 if any(note.stage is Stage.REFUSED for each in self._newcomers for note in each.notes.all()) else 0
            leaving.wait(STARTING_SECONDS if any(each.starting for each in self._newcomers) else self.facility.every)
        say("No longer watching; the sessions keep running.")
        return 0

    def turn(self, begin: bool = True) -> None:
        """One look: what has been started, what is new, the page.

        Raises
        ------
        OSError : something cannot be written now.
        """
        self._read_again()
        for each in self._newcomers:
            for note in each.collect():
                self._started(each, note)
        for each in self._newcomers if begin else ():
            wanted = each.look()
            self._report(each.microscope.name, each.trouble)
            for session in wanted:
                if sum(other.starting for other in self._newcomers) >= self.facility.starts:
                    break
                if each.begin(session):
                    say(f"{stamp()} {each.microscope.name}: {one_line(session)} is new and is being started")
        self._index.write(self.listed(), [f"{name}: {text}" for name, text in self._reported.items() if text and name != "disk"])

    def _read_again(self) -> None:
        """Adopt a changed configuration; an invalid one is reported, and the previous one stays in use."""
        try:
            changed = os.stat(self.facility.path).st_mtime_ns
        except OSError:
            return
        if changed == self._read_at or any(each.starting for each in self._newcomers):
            return
        self._read_at = changed
        try:
            facility = read(self.facility.path)
            refuse_settings(facility)
        except ConfigError as error:
            self._report("configuration", f"the one before stays in force: {error}")
            return
        if facility.projects != self.facility.projects:
            self._report("configuration",
                         f"the one before stays in force: projects is now {facility.projects}; restart the watch")
            return
        self._report("configuration", "")
        self.facility, self._index = facility, Index(facility.index)
        self._newcomers = [Newcomers(facility, each) for each in facility.microscopes]
        say(f"{stamp()} the configuration was read again")

    def _started(self, newcomers: Newcomers, note: Note) -> None:
        name = f"{note.microscope}: {one_line(note.session)}"
        if note.stage is Stage.STARTED:
            self._reported.pop(name, None)
            say(f"{stamp()} {name} was started in {note.project}")
        elif self._report(name, f"could not be started: {note.reason}"):
            for way, problem in deliver(message(note), destinations(newcomers)):
                if problem:
                    print(f"{stamp()} {way}: {problem}", file=sys.stderr, flush=True)

    def _report(self, name: str, text: str) -> bool:
        """Say what is wrong, once, and that it is over; whether it is news."""
        before = self._reported.get(name, "")
        if text == before:
            return False
        self._reported[name] = text
        if text:
            print(f"{stamp()} {name}: {text}", file=sys.stderr, flush=True)
        else:
            say(f"{stamp()} {name}: over: {before}")
        return True

    def listed(self) -> Sequence[Listed]:
        """Return all sessions that were started, or could not be."""
        return [Listed(note.microscope, note.session, note.project, os.path.join(note.project, REPORT),
                       f"not started: {note.reason}" if note.stage is Stage.REFUSED else "")
                for each in self._newcomers for note in each.notes.all() if note.stage is not Stage.IGNORED]


def destinations(newcomers: Newcomers) -> Destinations:
    """Return where the alarms of a microscope go."""
    return Destinations.from_environment({**scipion_variables(os.environ), **os.environ, **variables(newcomers.microscope)})


def message(note: Note) -> Message:
    """Say that a session could not be started."""
    name, text = f"{note.microscope} {one_line(note.session)}", f"it could not be started: {one_line(note.reason)}"
    body: dict[str, object] = {
        "format": FORMAT, "session": name, "kind": "not-started", "state": "raised", "message": text, "text": f"{name} – {text}"}
    return Message(f"[tomostream] {name}: not started", f"The session {name}: {text}.\n", body)


def stamp() -> str:
    """Return the time, for a line of the log."""
    return time.strftime("%Y-%m-%d %H:%M:%S")
