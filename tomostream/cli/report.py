# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream report`: the live page of a project."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping

from tomostream.cli import refuse
from tomostream.cli.places import cannot_write
from tomostream.files.disks import device_of
from tomostream.journal.layout import REPORT
from tomostream.journal.runs import run_state
from tomostream.journal.status import ProjectStatus
from tomostream.report.background import OnlyOne, SessionThresholds
from tomostream.report.notify import Destinations, Notifier
from tomostream.report.writer import ReportWriter

#: Niceness in the background: well behind the programs, but not so far that the page falls behind on a busy machine.
NICE = 10
#: Seconds between two looks at the project.
REFRESH_SECONDS = 2.0
#: Seconds for which a session with no running protocol is still followed: somebody may continue those that died or were stopped,
#: or they may not have been started yet.
PATIENCE_SECONDS = 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="name or path of the project")
    parser.add_argument("--follow", action="store_true", help="keep the page up to date until the session has ended")
    parser.add_argument("--out", metavar="REPORT", help="where to write the page (default: report in the project)")
    parser.add_argument("--threshold", action="append", default=[], metavar="NAME=VALUE",
                        help="when to raise an alarm, e.g. axis_deg=2 or drift_px=off; may be repeated")
    parser.add_argument("--background", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--quiet", action="store_true", help="do not print alarms")


def main(options: argparse.Namespace) -> int:
    from tomostream.cli.status import existing

    path = existing(options.project)
    if not options.follow and not tomostream_runs(path):
        return refuse("report", f"no tomostream protocol has run in {path}, so there is nothing to show. Use --follow to "
                      "wait for them")
    out = os.path.abspath(options.out or os.path.join(path, REPORT))
    only = OnlyOne(out)
    try:
        os.makedirs(out, exist_ok=True)
        if not only.taken():            # before anything is written there
            if options.background:      # started by a protocol that is continued: the page is already being written
                return 0
            print(f"tomostream report: another process is already writing {out}.", file=sys.stderr)
            return 1
        return write(path, out, options)
    except ValueError as error:
        return refuse("report", error)
    except OSError as error:
        return refuse("report", cannot_write(out, error))
    finally:
        only.release()


def write(path: str, out: str, options: argparse.Namespace) -> int:
    """Write the page of the project at `path` into `out`, once or until the session has ended.

    Raises
    ------
    ValueError : a threshold or a destination of alarms is invalid.
    OSError : the page cannot be written.
    """
    thresholds = SessionThresholds(path, options.threshold)
    notifier = Notifier(Destinations.configured(path), os.path.basename(path)) if options.follow else None
    writer = ReportWriter(path, out, thresholds.read(), notifier, states_of, None if options.quiet else say)
    try:
        if options.background:
            os.nice(NICE)
        if options.follow:
            writer.make_previews()
            return follow(writer, options.quiet, thresholds)
        writer.finish()
    finally:
        writer.close()
    if not options.quiet:
        say(os.path.join(writer.out, "index.html"))
    return 0


def tomostream_runs(path: str) -> bool:
    """Tell whether a project has runs of our protocols."""
    status = ProjectStatus(path)
    status.update()
    return bool(status.folders)


def states_of(folders: Mapping[str, str]) -> dict[str, str]:
    """Return the states of the runs in these folders (protocol -> folder); needs no Scipion."""
    return {name: run_state(path) for name, path in folders.items()}


def say(text: str) -> None:
    print(text, flush=True)


def follow(writer: ReportWriter, quiet: bool, thresholds: SessionThresholds | None = None) -> int:
    """Write the page until all four protocols have ended, the project is removed, or a signal arrives. A full disk, or one that
    is not mounted for a while, only delays it."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if not quiet:
        say(os.path.join(writer.out, "index.html"))
    reported, still, disk = "", 0.0, device_of(writer.project)
    while not stop.is_set():
        if not os.path.isdir(os.path.join(writer.project, "Runs")):
            if device_of(writer.project) == disk:
                return 1
            reported = report_once(f"{writer.project} is out of reach: is its disk mounted? Waiting for it", reported)
            stop.wait(REFRESH_SECONDS)
            continue
        still = 0.0 if writer.running else still + REFRESH_SECONDS
        ended = over(writer.states) or still > PATIENCE_SECONDS
        writer.alarms.thresholds = (thresholds.changed() if thresholds else None) or writer.alarms.thresholds
        try:
            if ended:
                writer.finish()
                writer.send_summary()
                return 0
            writer.update()
            if writer.summary_due():
                writer.send_summary()
            reported = ""
        except OSError as error:
            reported = report_once(f"for now {cannot_write(writer.out, error)}", reported)
        except Exception as error:      # noqa: BLE001 - whatever it is, keep following the session and its alarms
            trace = traceback.format_exc()
            reported = report_once(f"an unexpected error, the page is still followed ({type(error).__name__}: {error}); please "
                                   f"report it with this:\n{trace}".rstrip(), reported)
            if ended:
                return 1
        stop.wait(REFRESH_SECONDS)
    return 130


def report_once(trouble: str, before: str) -> str:
    """Log a trouble unless it is the one reported before; return it."""
    if trouble != before:
        print(f"tomostream report: {trouble}.", file=sys.stderr, flush=True)
    return trouble


def over(states: Mapping[str, str]) -> bool:
    """Tell whether all four protocols have finished."""
    return len(states) == 4 and all(state == "finished" for state in states.values())
