# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream status`: what needs attention, and the state of every protocol, movie and series."""

from __future__ import annotations

import argparse
import json
import os
import shlex

from tomostream.choices.pending import Pending, PendingChoices
from tomostream.cli import refuse, table
from tomostream.cli.errors import UserError
from tomostream.cli.leaving import show
from tomostream.cli.places import nearest, where
from tomostream.journal import runs
from tomostream.journal.layout import REPORT
from tomostream.journal.space import Forecast, SessionSpace
from tomostream.journal.status import CLASSES, COMPOSE, ProjectStatus
from tomostream.report import attention
from tomostream.report.announce import read_alarms

#: Exit status if something needs attention.
NEEDS_ATTENTION = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="name or path of the project")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--all", action="store_true", help=f"show every series (default: {table.MAX_ROWS}, failed ones first)")
    parser.epilog = ("Exit status: 0 nothing needs attention; 3 something does: a dead protocol, a failed series, an alarm that "
                     "is on and not acknowledged; 2 there is no such project.")


def project_folders(project: str) -> list[str]:
    """Return where Scipion may keep projects of a name, the nearest first."""
    from tomostream.cli.home import default_home

    homes = [os.environ.get("SCIPION_USER_DATA"), os.path.join(os.environ.get("SCIPION_HOME", ""), "ScipionUserData"),
             os.path.join(default_home(project), "ScipionUserData"), os.path.expanduser("~/ScipionUserData")]
    return [os.path.join(home, "projects") for home in homes if home]


def find(project: str) -> str | None:
    """Return the folder of a project, by path or by name in the places where Scipion keeps projects."""
    candidates = [project, *(os.path.join(folder, project) for folder in project_folders(project))]
    return next((os.path.abspath(path) for path in candidates if os.path.isdir(os.path.join(path, "Runs"))), None)


def existing(project: str) -> str:
    """Return the folder of a project; see `find`.

    Raises
    ------
    UserError : there is none.
    """
    path = find(project)
    if path is None:
        above = nearest(project)
        if os.path.isdir(above) and not os.access(above, os.R_OK | os.X_OK):
            raise UserError(f"you have no permission to enter {above}")
        raise UserError(f"there is no Scipion project {project}")
    return path


def main(options: argparse.Namespace) -> int:
    path = existing(options.project)
    status = ProjectStatus(path)
    status.update()
    starting = not status.folders and attention.is_starting(path)
    if starting and not options.json:
        print(f"The protocols of {path} are starting.")
        return 0
    if not status.folders and not starting and not runs.made_classes(path, CLASSES.values()):
        return refuse("status", f"the project {path} has no tomostream protocols")
    found = attention.processes(status)
    needs = attention.needs_attention(status, found, read_alarms(os.path.join(path, REPORT)))
    space = SessionSpace(path)
    space.update()
    choices = PendingChoices(status)
    choices.update()
    if options.json:
        data = {"project": path, "protocols": attention.as_json(found), "needs_attention": needs,
                **as_json(status, choices), "disk": disk(space.forecast()), "trouble": choices.trouble}
        show(json.dumps(data, indent=1))
    else:
        protocols = {name: each.state.replace("-", " ") for name, each in found.items()}
        lines = table.render(status, protocols, notes(status, choices, path), None if options.all else table.MAX_ROWS)
        trouble = [f"it is not known which tilts were taken out: {choices.trouble}"] if choices.trouble else []
        show("\n".join([*attention.lines(needs), *lines, *trouble, f"disk: {space.forecast().text()}", *where(status)]))
    return NEEDS_ATTENTION if needs else 0


def as_json(status: ProjectStatus, choices: PendingChoices) -> dict[str, object]:
    """Return the status, with the decisions by people that the newest version of each series does not show yet."""
    data = status.as_json()
    for each in data["series"]:
        pending = choices.of(status.series[each["id"]])
        each["pending"] = {"out": dict(pending.out), "back": list(pending.back)}
    return data


def disk(forecast: Forecast) -> dict[str, object]:
    """Return the forecast of disk space, in bytes."""
    return {"free": forecast.free, "total": forecast.total, "series": forecast.per_series, "parts": dict(forecast.parts),
            "series_an_hour": forecast.pace, "short": forecast.shortage()}


def notes(status: ProjectStatus, choices: PendingChoices, project: str) -> dict[str, str]:
    """Return the decisions by people that the newest versions do not show yet, and what to do: series -> words."""
    found = {series.id: str(pending) for series in status.series.values() if (pending := choices.of(series)) != Pending()}
    if found and runs.run_state(status.folders[COMPOSE]) != runs.RUNNING:
        found = {name: f"{text}, by: tomostream resume {shlex.quote(project)} --again --from compose"
                 for name, text in found.items()}
    return found
