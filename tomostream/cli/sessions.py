# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream list`: the sessions of this machine, or those below some folders."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence

from tomostream.cli import refuse
from tomostream.journal import sessions
from tomostream.report.attention import Overview, local, overview


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="*", metavar="FOLDER",
                        help="look for projects here and up to two levels below; none: those started from the command line, and "
                             "those in Scipion's projects folders")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def main(options: argparse.Namespace) -> int:
    from tomostream.cli.status import project_folders

    absent = next((folder for folder in options.folders if not os.path.isdir(folder)), None)
    if absent is not None:
        return refuse("list", f"there is no folder {absent}")
    projects = ([project for folder in options.folders for project in sessions.below(folder)] if options.folders
                else sessions.all_of(project_folders("")))
    found = [each for each in map(overview, dict.fromkeys(projects)) if each is not None]
    found.sort(key=lambda each: each.last_event or 0.0, reverse=True)
    if options.json:
        print(json.dumps([each.as_json() for each in found], indent=1))
    else:
        print("\n".join(lines(found)) if found else "No sessions.")
    return 0


def lines(found: Sequence[Overview]) -> list[str]:
    """Return a line for each session and, below it, the first thing that needs attention."""
    text = [f"{'state':14s}{'series':>9s}{'failed':>8s}{'movies':>13s}  {'last event':18s}project"]
    for each in found:
        series = f"{each.series.get('done', 0)}/{sum(each.series.values())}"
        movies = f"{each.movies['aligned']}/{each.movies['found']}"
        text.append(f"{each.state.replace('-', ' '):14s}{series:>9s}{each.series.get('failed', 0):>8d}{movies:>13s}  "
                    f"{local(each.last_event or 0.0):18s}{each.project}")
        more = f" (and {len(each.attention) - 1} more: tomostream status)" if len(each.attention) > 1 else ""
        text += [f"    needs attention: {each.attention[0]}{more}"] if each.attention else []
    return text
