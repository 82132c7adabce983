# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream report`: the live page of a project."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping

from tomostream.report.background import OnlyOne, SessionThresholds
from tomostream.report.notify import Destinations, Notifier
from tomostream.report.writer import ReportWriter
from tomostream.status import ProjectStatus

HELP = "write the live page of a project: open report/index.html in a browser"
#: In the background: far behind the programs, and yet not so far that on a full machine the page falls behind too.
NICE = 10
#: Seconds between two looks at the project.
REFRESH_SECONDS = 2.0
#: Seconds for which a session whose protocols died or were stopped is still followed: somebody may continue them. For so
#: long, too, it is waited for the protocols that do not exist yet.
PATIENCE_SECONDS = 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="name or path of the project")
    parser.add_argument("--follow", action="store_true", help="go on until the session has ended")
    parser.add_argument("--out", metavar="FOLDER", help="where to write the page (default: report in the project)")
    parser.add_argument("--threshold", action="append", default=[], metavar="NAME=VALUE",
                        help="when an alarm is raised, e.g. axis_deg=2 or drift_px=off; may be given again")
    parser.add_argument("--background", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--quiet", action="store_true", help="do not print alarms")


def main(options: argparse.Namespace) -> int:
    from tomostream.cli.status import find

    path = find(options.project)
    if path is None:
        print(f"tomostream report: there is no Scipion project {options.project}.", file=sys.stderr)
        return 2
    if not options.follow and not tomostream_runs(path):
        print(f"tomostream report: no protocol of tomostream has run in {path}; the page is made of what they tell. "
              "Use --follow to wait for them.", file=sys.stderr)
        return 2
    try:
        thresholds = SessionThresholds(path, options.threshold)
        notifier = Notifier(Destinations.configured(), os.path.basename(path)) if options.follow else None
        writer = ReportWriter(path, options.out, thresholds.read(), notifier, states_of(), None if options.quiet else say)
    except (ValueError, OSError) as error:
        print(f"tomostream report: {error}", file=sys.stderr)
        return 2
    only = OnlyOne(writer.out)
    try:
        if not only.taken():
            if options.background:      # a protocol that goes on: the page goes on anyway
                return 0
            print(f"tomostream report: another process writes {writer.out} already.", file=sys.stderr)
            return 1
        if options.background:
            os.nice(NICE)
        if options.follow:
            writer.make_previews()
        return follow(writer, options.quiet, thresholds) if options.follow else once(writer, options.quiet)
    finally:
        writer.close()
        only.release()


def tomostream_runs(path: str) -> bool:
    """Whether any of our protocols has a run in a project."""
    status = ProjectStatus(path)
    status.update()
    return bool(status.folders)


def states_of() -> Callable[[Mapping[str, str]], dict[str, str]]:
    """Reads the states of the protocols from their own run files; needs no Scipion."""
    from tomostream.streaming.watch import producer_state

    def states(folders: Mapping[str, str]) -> dict[str, str]:
        return {name: producer_state(path, int(os.path.basename(path).split("_")[0])) for name, path in folders.items()}

    return states


def say(text: str) -> None:
    print(text, flush=True)


def once(writer: ReportWriter, quiet: bool) -> int:
    """Write the page as the project stands."""
    try:
        writer.finish()
    except OSError as error:
        print(f"tomostream report: the page cannot be written: {error}", file=sys.stderr)
        return 1
    if not quiet:
        say(os.path.join(writer.out, "index.html"))
    return 0


def follow(writer: ReportWriter, quiet: bool, thresholds: SessionThresholds | None = None) -> int:
    """Write the page until all four protocols have ended, or a signal comes. A full disk only delays it."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if not quiet:
        say(os.path.join(writer.out, "index.html"))
    told, still = "", 0.0
    while not stop.is_set() and os.path.isdir(os.path.join(writer.project, "Runs")):
        still = 0.0 if writer.running else still + REFRESH_SECONDS
        ended = over(writer.states) or still > PATIENCE_SECONDS
        writer.alarms.thresholds = (thresholds.changed() if thresholds else None) or writer.alarms.thresholds
        try:
            if ended:
                writer.finish()
                return 0
            writer.update()
            told = ""
        except OSError as error:
            if str(error) != told:
                told = str(error)
                print(f"tomostream report: the page cannot be written now: {error}", file=sys.stderr, flush=True)
        stop.wait(REFRESH_SECONDS)
    return 130 if stop.is_set() else 1


def over(states: Mapping[str, str]) -> bool:
    """Whether all four protocols have finished."""
    return len(states) == 4 and all(state == "finished" for state in states.values())
