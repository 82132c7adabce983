# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream status`: where every movie and every series of a project stands."""

from __future__ import annotations

import argparse
import json
import os
import sys

from tomostream.cli.table import render
from tomostream.space import SessionSpace
from tomostream.status import ProjectStatus

HELP = "say where every movie and every series of a project stands"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="name or path of the project")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def find(project: str) -> str | None:
    """Folder of a project, by path or by name in the places where Scipion keeps projects."""
    from tomostream.cli.project import default_home

    homes = [os.environ.get("SCIPION_USER_DATA"), os.path.join(os.environ.get("SCIPION_HOME", ""), "ScipionUserData"),
             os.path.join(default_home(project), "ScipionUserData"), os.path.expanduser("~/ScipionUserData")]
    candidates = [project, *(os.path.join(home, "projects", project) for home in homes if home)]
    return next((os.path.abspath(path) for path in candidates if os.path.isdir(os.path.join(path, "Runs"))), None)


def main(options: argparse.Namespace) -> int:
    path = find(options.project)
    if path is None:
        print(f"tomostream status: there is no Scipion project {options.project}.", file=sys.stderr)
        return 2
    status = ProjectStatus(path)
    status.update()
    starting = not status.folders and os.path.exists(os.path.join(path, "Runs", ".starting"))
    if starting and not options.json:
        print(f"The protocols of {path} are starting.")
        return 0
    if not status.folders and not starting:
        print(f"tomostream status: the project {path} has no tomostream protocols.", file=sys.stderr)
        return 2
    space = SessionSpace(path)
    space.update()
    forecast = space.forecast()
    if options.json:
        disk = {"free": forecast.free, "total": forecast.total, "series": forecast.per_series, "parts": dict(forecast.parts),
                "series_an_hour": forecast.pace, "short": forecast.shortage()}
        print(json.dumps({**status.as_json(), "disk": disk}, indent=1))
        return 0
    print("\n".join([*render(status, {}), f"disk: {forecast.text()}"]))
    return 0
