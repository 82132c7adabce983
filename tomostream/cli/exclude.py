# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream exclude`: take tilts out of a series, or put them back; only that series is made again."""

from __future__ import annotations

import argparse
import shlex

from tomostream.choices import exclusions
from tomostream.cli import refuse
from tomostream.journal import runs
from tomostream.journal.composed import ComposedSeries, NoSeries
from tomostream.journal.status import COMPOSE, ProjectStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="name or path of the project")
    parser.add_argument("series", metavar="SERIES", help="the series, as `tomostream status` names it")
    parser.add_argument("tilts", nargs="*", metavar="TILT",
                        help="acquisition order (the first is 1) or movie name; none: list the tilts of the series")
    parser.add_argument("--reason", default="", metavar="TEXT", help="the reason, for the page, the summary and the log")
    parser.add_argument("--back", action="store_true", help="put the tilts back; without TILT, all of them")


def main(options: argparse.Namespace) -> int:
    from tomostream.cli.status import existing

    path = existing(options.project)
    try:
        series = exclusions.read_choice(path, options.series)
        if not options.tilts and not options.back:
            return show(series)
        left = exclusions.change(series, options.tilts, options.reason, options.back)
    except (NoSeries, ValueError) as error:
        return refuse("exclude", str(error))
    then = ("It is composed and reconstructed again now" if composes(path) else
            f"The session has ended; make it again with: tomostream resume {shlex.quote(path)} --again --from compose")
    print(f"{series.series_id}: {left} of {len(series.tilts)} tilts will be used. {then}.")
    return 0


def composes(path: str) -> bool:
    """Tell whether the compose protocol of a project is running."""
    status = ProjectStatus(path)
    status.find()
    folder = status.folders.get(COMPOSE, "")
    return bool(folder) and runs.run_state(folder) == runs.RUNNING


def show(series: ComposedSeries) -> int:
    """Print the tilts by angle, with the state of each."""
    print(f"{'order':>6} {'angle':>8}  movie")
    for tilt in series.tilts:
        state = "" if tilt.state == "used" else f"  ({'taken out' if tilt.state == 'excluded' else tilt.state}"
        state += f": {tilt.reason})" if state and tilt.reason else ")" if state else ""
        print(f"{tilt.order if tilt.order is not None else '?':>6} {tilt.angle:8.2f}  {tilt.movie}{state}")
    return 0
