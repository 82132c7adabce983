# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream status`: where every movie and every series of a project stands."""

from __future__ import annotations

import argparse
import json
import os

from tomostream.choices.pending import Pending, PendingChoices
from tomostream.cli import refuse
from tomostream.cli.table import render
from tomostream.journal.runs import RUNNING, run_state
from tomostream.journal.space import SessionSpace
from tomostream.journal.status import COMPOSE, ProjectStatus

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
    from tomostream.cli.project import starting_file

    path = find(options.project)
    if path is None:
        return refuse("status", f"there is no Scipion project {options.project}")
    status = ProjectStatus(path)
    status.update()
    starting = not status.folders and os.path.exists(starting_file(path))
    if starting and not options.json:
        print(f"The protocols of {path} are starting.")
        return 0
    if not status.folders and not starting:
        return refuse("status", f"the project {path} has no tomostream protocols")
    space = SessionSpace(path)
    space.update()
    forecast = space.forecast()
    choices = PendingChoices(status)
    choices.update()
    if options.json:
        disk = {"free": forecast.free, "total": forecast.total, "series": forecast.per_series, "parts": dict(forecast.parts),
                "series_an_hour": forecast.pace, "short": forecast.shortage()}
        told = status.as_json()
        for each in told["series"]:
            pending = choices.of(status.series[each["id"]])
            each["pending"] = {"out": dict(pending.out), "back": list(pending.back)}
        print(json.dumps({**told, "disk": disk, "trouble": choices.trouble}, indent=1))
        return 0
    trouble = [f"which tilts were taken out is not known: {choices.trouble}"] if choices.trouble else []
    print("\n".join([*render(status, {}, notes(status, choices, options.project)), *trouble, f"disk: {forecast.text()}"]))
    return 0


def notes(status: ProjectStatus, choices: PendingChoices, project: str) -> dict[str, str]:
    """What people decided of which series that its newest version does not show: series -> words, and what to do."""
    found = {series.id: str(pending) for series in status.series.values() if (pending := choices.of(series)) != Pending()}
    if found and run_state(status.folders[COMPOSE]) != RUNNING:
        found = {name: f"{text}, by: tomostream resume {project} --again --from compose" for name, text in found.items()}
    return found
