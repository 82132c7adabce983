# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream resume`: every protocol of a session that died, failed or was stopped goes on from what is registered."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tomostream.cli import errors, home, places
from tomostream.cli.leaving import Interrupted, Leaving, say
from tomostream.journal import runs
from tomostream.journal.status import ARETOMO, CLASSES, COMPOSE, IMPORT, MOTIONCOR, ProjectStatus
from tomostream.report import notify

if TYPE_CHECKING:
    from pyworkflow.protocol import Protocol

    from tomostream.cli.project import Chain

def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="name or path of the project")
    parser.add_argument("--again", action="store_true",
                        help="continue finished protocols too: for movies that came after the session had ended")
    parser.add_argument("--from", dest="start", choices=(IMPORT, MOTIONCOR, COMPOSE, ARETOMO), metavar="PROTOCOL",
                        help="only this protocol (import, motioncor, compose, aretomo) and those after it")
    parser.add_argument("--set", action="append", default=[], metavar="PROTOCOL.PARAMETER=VALUE",
                        help="a parameter to change from now on, e.g. compose.manualTiltAxisAngle=84.3; for "
                             "protocols that are continued")
    parser.add_argument("--no-follow", action="store_true", help="return as soon as the protocols run")
    parser.add_argument("--json", metavar="FILE", help="write where everything stands to FILE, at the end")
    parser.add_argument("--quiet", action="store_true", help="no live table, only the end")


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
    """Say how each protocol ended, and continue those that are to be continued; returns those whose end was asked for before.

    Raises
    ------
    UserError : a setting is refused, or a protocol does not come up.
    Interrupted : Ctrl-C meanwhile.
    """
    from tomostream.cli import project

    states = {name: runs.producer_state(chain.folder(name), chain.protocols[name].getObjId(), patience=0.5)
              for name in project.ORDER if name in chain.protocols}
    wanted = to_continue(states, options.again, options.start)
    change(chain, settings, wanted)
    notes = [text for name in settings for text in project.warnings(chain, [name])]
    for sentence in filter(None, [*notes, notify.kept_in_vain(chain.path)]):
        say(f"Note: {sentence.rstrip('.')}.")
    for line in findings(states, wanted, found(chain.path)):
        say(line)
    if not wanted:
        say("There is nothing to continue." + ("" if options.again or runs.RUNNING in states.values() else
                                             f" For movies that came later: tomostream resume {shlex.quote(chain.path)} --again"))
    return continue_all(chain, states, wanted, leaving)


def to_continue(states: Mapping[str, str], again: bool = False, start: str | None = None) -> list[str]:
    """Return which protocols are to be continued, in the order of the chain, from `start` on.

    All that did not finish and do not run; and what had finished after one of these, because more will come to it.
    """
    wanted: list[str] = []
    names = list(CLASSES)
    for name, state in states.items():
        if start is not None and names.index(name) < names.index(start):
            continue
        if state in runs.BROKEN_OFF or state == runs.UNKNOWN or (state == runs.FINISHED and (again or wanted)):
            wanted.append(name)
    return wanted


def change(chain: Chain, settings: dict[str, dict[str, object]], wanted: list[str]) -> None:
    """Give protocols that are about to be continued other parameters.

    Raises
    ------
    UserError : a protocol is not continued, a parameter does not exist, or the protocol refuses the value.
    """
    from tomostream.cli import project

    for name, values in settings.items():
        if name not in wanted:
            raise errors.UserError(f"--set {name}.{next(iter(values))}: {name} is not continued now. Stop it first if it runs; "
                                    "if it has finished, give --again.")
        protocol = chain.protocols[name]
        project.apply(protocol, name, values)
        problems = protocol._validate()
        if problems:
            raise errors.UserError(f"{name}: {' '.join(problems)}")


def found(path: str) -> dict[str, str]:
    """Return what the ledgers say is done and what is not, in words: protocol -> text."""
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
        COMPOSE: f"{composed} series composed" + (f", still open: {some(open_series)}" if open_series else ""),
        ARETOMO: f"{done} series reconstructed" + (f", to be done: {some(to_make)}" if to_make else "")}


def some(names: list[str], most: int = 8) -> str:
    """Return names, the first of them where there are many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def findings(states: Mapping[str, str], wanted: list[str], done: dict[str, str]) -> list[str]:
    """Return a line for each protocol: how its run ended, what is done, what happens now."""
    return [f"{name} {runs.WORDS[state]}: {done[name]}" + ("; goes on" if name in wanted else "")
            for name, state in states.items()]


def continue_all(chain: Chain, states: Mapping[str, str], wanted: list[str], leaving: Leaving) -> list[str]:
    """Continue the protocols in order, each when the output that it reads is known to the project; returns those that were not
    continued, because somebody asked meanwhile for their end or for that of the one that they read.

    Raises
    ------
    UserError : a protocol did not come up, or pyworkflow refuses; says why.
    Interrupted : Ctrl-C; those that were continued go on.
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
        if states[name] in runs.BROKEN_OFF:
            mark_dead(chain, protocol)
        prepare(protocol)
        if not project.launch(chain, name):
            left.append(name)
    return left


def mark_dead(chain: Chain, protocol: Protocol) -> None:
    """Tell the project what it cannot see: it takes a process that nobody collected (a zombie) for alive."""
    if protocol.isActive():
        protocol.setFailed("Its process was not there any more when the session was resumed.")
        chain.project._storeProtocol(protocol)


def prepare(protocol: Protocol) -> None:
    """Continue, never restart: a restart would delete what is registered."""
    from pyworkflow.protocol import MODE_RESUME

    protocol.runMode.set(MODE_RESUME)
    protocol._prerequisites.clear()     # a run that was scheduled once would be scheduled again, and wait for ever
