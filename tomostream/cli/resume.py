# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream resume`: continue every protocol of a session that died, failed or was stopped, from what is registered."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tomostream.cli import errors, home, places
from tomostream.cli.leaving import Interrupted, Leaving, say
from tomostream.files.logs import some
from tomostream.journal import runs
from tomostream.journal.status import ARETOMO, CLASSES, COMPOSE, IMPORT, MOTIONCOR, ProjectStatus
from tomostream.report import notify

if TYPE_CHECKING:
    from pyworkflow.protocol import Protocol

    from tomostream.cli.project import Chain

#: How many series are named in a line.
MAX_NAMES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="name or path of the project")
    parser.add_argument("--again", action="store_true",
                        help="continue finished protocols too, for movies that arrived after the session had ended")
    parser.add_argument("--from", dest="start", choices=(IMPORT, MOTIONCOR, COMPOSE, ARETOMO), metavar="PROTOCOL",
                        help="only this protocol (import, motioncor, compose, aretomo) and those after it")
    parser.add_argument("--set", action="append", default=[], metavar="PROTOCOL.PARAMETER=VALUE",
                        help="change a parameter from now on, e.g. compose.manualTiltAxisAngle=84.3; only of protocols "
                             "that are continued")
    parser.add_argument("--no-follow", action="store_true", help="return as soon as the protocols are running")
    parser.add_argument("--json", metavar="FILE", help="at the end, write the status as JSON to FILE")
    parser.add_argument("--quiet", action="store_true", help="no live table, only the result")


def main(options: argparse.Namespace) -> int:
    from tomostream.cli import INTERRUPTED, project, run
    from tomostream.cli.status import existing

    chain = None
    with places.refused(), Leaving() as leaving:
        try:
            options.project = existing(options.project)
            options.json = run.json_place(options.json)
            settings = project.settings_of(options.set)
            home.scipion_environment(home.default_home(options.project))
            run.refuse_queues()
            home.quiet_logs()
            with project.starting(options.project, say, leaving):
                chain = project.load(options.project)
                not_continued = bring_back(chain, options, settings, leaving)
            if not_continued:
                say(project.stopped_while_starting(chain, not_continued))
                return 0 if options.no_follow else INTERRUPTED
            if options.no_follow or set(chain.protocols) != set(project.ORDER):
                return 0
            return run.follow(chain, options, leaving)
        except Interrupted:
            say(f"\n{project.interrupted(chain)}" if chain else "\nInterrupted; nothing was continued")
            return INTERRUPTED


def bring_back(chain: Chain, options: argparse.Namespace, settings: dict[str, dict[str, object]],
               leaving: Leaving) -> list[str]:
    """Say how each protocol ended, and continue those that should be; return those that were asked to stop meanwhile.

    Raises
    ------
    UserError : a setting is refused, or a protocol does not start.
    Interrupted : Ctrl-C meanwhile.
    """
    from tomostream.cli import project

    states = {name: runs.producer_state(chain.folder(name), chain.protocols[name].getObjId(), patience=0.5)
              for name in project.ORDER if name in chain.protocols}
    wanted = to_continue(states, options.again, options.start)
    change(chain, settings, wanted)
    notes = [text for name in settings for text in project.warnings(chain, [name])]
    for sentence in filter(None, [*notes, notify.kept_trouble(chain.path)]):
        say(f"Note: {sentence.rstrip('.')}.")
    for line in findings(states, wanted, found(chain.path)):
        say(line)
    if not wanted:
        again = f" For movies that arrived later: tomostream resume {shlex.quote(chain.path)} --again"
        say("There is nothing to continue." + ("" if options.again or runs.RUNNING in states.values() else again))
    return continue_all(chain, states, wanted, leaving)


def to_continue(states: Mapping[str, str], again: bool = False, start: str | None = None) -> list[str]:
    """Return which protocols to continue, in the order of the chain, from `start` on.

    Those that neither finished nor are running, and finished ones after one of these, because they will get more input.
    """
    wanted: list[str] = []
    names = list(CLASSES)
    for name, state in states.items():
        if start is not None and names.index(name) < names.index(start):
            continue
        if state in runs.CUT_SHORT or state == runs.UNKNOWN or (state == runs.FINISHED and (again or wanted)):
            wanted.append(name)
    return wanted


def change(chain: Chain, settings: dict[str, dict[str, object]], wanted: list[str]) -> None:
    """Change parameters of protocols that are about to be continued.

    Raises
    ------
    UserError : a protocol is not continued, a parameter does not exist, or the protocol refuses the value.
    """
    from tomostream.cli import project

    for name, values in settings.items():
        if name not in wanted:
            raise errors.UserError(f"--set {name}.{next(iter(values))}: {name} is not being continued. Stop it first if it is "
                                    "running; if it has finished, add --again.")
        protocol = chain.protocols[name]
        project.apply(protocol, name, values)
        problems = protocol._validate()
        if problems:
            raise errors.UserError(f"{name}: {' '.join(problems)}")


def found(path: str) -> dict[str, str]:
    """Return what is done and what is not according to the ledgers: protocol -> text."""
    status = ProjectStatus(path)
    status.update()
    movies, series = status.movies.values(), status.series.values()
    imported = sum(movie.imported is not None for movie in movies)
    waiting = sum(movie.imported is None and not movie.failed for movie in movies)
    aligned = sum(movie.aligned is not None for movie in movies)
    failed = sum(bool(movie.failed) and movie.imported is not None for movie in movies)
    composed = sum(each.composed is not None for each in series)
    done = sum(each.state == "done" for each in series)
    open_series = [each.id for each in series if each.composed is None and not each.ended]
    to_make = [each.id for each in series if each.composed is not None and not each.ended]
    return {
        IMPORT: f"{imported} movies imported"
                + (f", {waiting} that were not complete are looked at again" if waiting else ""),
        MOTIONCOR: f"{aligned} movies aligned, {max(0, imported - aligned - failed)} to do"
                   + (f", {failed} that failed will be retried" if failed else ""),
        COMPOSE: f"{composed} series composed" + (f", still open: {some(open_series, MAX_NAMES)}" if open_series else ""),
        ARETOMO: f"{done} series reconstructed" + (f", to be done: {some(to_make, MAX_NAMES)}" if to_make else "")}


def findings(states: Mapping[str, str], wanted: list[str], done: dict[str, str]) -> list[str]:
    """Return a line for each protocol: how its run ended, what is done, whether it is continued."""
    return [f"{name} {runs.WORDS[state]}: {done[name]}" + ("; continues" if name in wanted else "")
            for name, state in states.items()]


def continue_all(chain: Chain, states: Mapping[str, str], wanted: list[str], leaving: Leaving) -> list[str]:
    """Continue the protocols in order, each as soon as its input is open; return those not continued because they, or the one
    whose output they read, were asked to stop meanwhile.

    Raises
    ------
    UserError : a protocol did not start, or pyworkflow refuses; says why.
    Interrupted : Ctrl-C; those already continued go on.
    """
    from tomostream.cli import project

    left: list[str] = []
    for name in wanted:
        leaving.pause(0.0)
        protocol = chain.protocols[name]
        source = project.POINTERS[name][1] if name in project.POINTERS else None
        if source in chain.protocols and not project.wait_for_output(chain, source, leaving):
            left.append(name)
            continue
        if states[name] in runs.CUT_SHORT:
            mark_dead(chain, protocol)
        prepare(protocol)
        if not project.launch(chain, name):
            left.append(name)
    return left


def mark_dead(chain: Chain, protocol: Protocol) -> None:
    """Tell the project that a protocol is dead, because it takes a zombie process for alive."""
    if protocol.isActive():
        protocol.setFailed("Its process was gone when the session was resumed.")
        chain.project._storeProtocol(protocol)


def prepare(protocol: Protocol) -> None:
    """Set a protocol to continue, never to restart, which would delete what is registered."""
    from pyworkflow.protocol import MODE_RESUME

    protocol.runMode.set(MODE_RESUME)
    protocol._prerequisites.clear()     # else a run that was once scheduled would be scheduled again, and wait for ever
