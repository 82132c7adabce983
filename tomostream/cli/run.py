# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream run`: a project, the four protocols, and a live table until they end."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tomostream.cli import INTERRUPTED, errors, home, places, readiness, refuse, table
from tomostream.cli.leaving import Interrupted, Leaving, reader_gone, say
from tomostream.files.patterns import folder_and_pattern, what_is_there
from tomostream.files.writing import write_text
from tomostream.journal import until
from tomostream.journal.layout import REPORT, page_of
from tomostream.journal.status import ARETOMO, COMPOSE, IMPORT, MOTIONCOR, ProjectStatus
from tomostream.programs.aretomo import VOXEL_A
from tomostream.report import attention, notify
from tomostream.report.announce import read_alarms

if TYPE_CHECKING:
    from tomostream.cli.project import Chain

ENGINES = {"auto": 0, "gpu": 1, "cpu": 2}
#: Seconds between two updates of the live table.
REFRESH_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="name of the project to make, or a path for it")
    parser.add_argument("--movies", required=True, metavar="PATTERN",
                        help="folder or pattern of the movies; it may still be empty (quote wildcards)")
    parser.add_argument("--mdocs", required=True, metavar="FOLDER", help="folder or pattern of the mdoc files")
    parser.add_argument("--set", action="append", default=[], metavar="PROTOCOL.PARAMETER=VALUE",
                        help="a parameter of import, motioncor, compose or aretomo; `tomostream parameters` lists them; may be "
                             "repeated")
    parser.add_argument("--engine", choices=sorted(ENGINES), default="auto", help="which programs to run")
    parser.add_argument("--timeout", default="12h", metavar="TIME",
                        help="end the import after this long without a new movie; seconds, or 30m, 12h (default 12h)")
    parser.add_argument("--until", metavar="TIME", help="end the import at this time even if movies still arrive: 08:00, or "
                        "'2026-11-30 08:00'; tomostream until changes it")
    parser.add_argument("--queue", metavar="NAME", help="run each program as a job of this queue in Scipion's hosts.conf")
    parser.add_argument("--json", metavar="FILE", help="at the end, write the status as JSON to FILE")
    parser.add_argument("--quiet", action="store_true", help="no live table, only the result")
    parser.add_argument("--no-report", action="store_true",
                        help="do not write the live page (report/index.html in the project)")
    parser.add_argument("--page", metavar="FOLDER", help="write the live page into this folder, e.g. that of a web server")
    parser.add_argument("--no-follow", action="store_true", help="return as soon as the protocols are running")


def main(options: argparse.Namespace) -> int:
    from tomostream.cli import project

    chain = None
    with places.refused(), Leaving() as leaving:
        try:
            options.json = json_place(options.json)
            options.page = os.path.abspath(options.page) if options.page else None
            settings = make_settings(options)
            home.configure(home.default_home(options.project))
            notes = [*refuse_early(options), *found_instead(settings)]
            chain = prepare(options, settings)
            for sentence in dict.fromkeys([*notes, *project.warnings(chain)]):
                say(f"Note: {sentence.rstrip('.')}.")
            say(f"Project: {chain.path}")
            not_started = project.start(chain, quiet if options.quiet else say, leaving)
            if not_started:
                say(project.stopped_while_starting(chain, not_started))
                return 0 if options.no_follow else INTERRUPTED
            for line in promised(chain, options.no_report):
                say(line)
            if options.no_follow:
                return 0
            return follow(chain, options, leaving)
        except Interrupted:
            say(f"\n{project.interrupted(chain)}" if chain else "\nInterrupted; nothing was started")
            return INTERRUPTED


def prepare(options: argparse.Namespace, settings: dict[str, dict[str, object]]) -> Chain:
    """Make the project and all that it needs; if it is refused, nothing is left behind.

    Raises
    ------
    UserError : see `project.create` and `project.validate`.
    OSError : something cannot be written.
    """
    from tomostream.cli import project

    before = os.getcwd()
    with home.made_for(home.project_path(options.project)):
        home.quiet_logs()
        chain = project.create(options.project, settings)
        try:
            if options.queue:
                project.use_queue(chain, options.queue)
            project.validate(chain)
            notify.keep(chain.path, os.environ)
            publish(chain.path, options.page)
        except BaseException:
            project.remove(chain.path)
            os.chdir(before)
            raise
    return chain


def refuse_early(options: argparse.Namespace) -> list[str]:
    """Make the quick checks of `tomostream check` before anything is created; return notes for the user.

    Raises
    ------
    UserError : the place of the project or the queue cannot be used.
    """
    from tomostream.cli import project

    project.refuse_place(home.project_path(options.project), options.project)
    refuse_queues()
    if not options.queue:
        return []
    try:
        absent = readiness.absent_of(options.queue)
    except readiness.NoQueue as error:
        raise errors.UserError(f"--queue {options.queue}: {error}") from error
    return [f"The queue '{options.queue}' takes no jobs here: {absent}"] if absent else []


def refuse_queues() -> None:
    """Refuse an invalid file of queues, which Scipion reads whether queues are used or not.

    Raises
    ------
    UserError : it is invalid.
    """
    try:
        readiness.read_queues()
    except readiness.NoQueue as error:
        raise errors.UserError(str(error)) from error


def promised(chain: Chain, no_report: bool) -> list[str]:
    """Return lines that say where the page and the tomograms will be."""
    binning = chain.protocols[ARETOMO].binFactor.get()
    size = f"binning {binning}" if binning else f"voxels of about {VOXEL_A:g} A; another binning: --set aretomo.binFactor=4"
    page = [] if no_report else [f"Page: {page_of(chain.path)}"]
    return [*page, f"Tomograms: {os.path.join(chain.folder(ARETOMO), 'extra', '*', '*.mrc')} ({size})"]


def publish(path: str, page: str | None) -> None:
    """Put the page of a new project into another folder, to which the one inside the project becomes a link.

    Raises
    ------
    OSError : the folder cannot be made.
    """
    if page:
        os.makedirs(page, exist_ok=True)
        os.symlink(os.path.abspath(page), os.path.join(path, REPORT))


def quiet(text: str) -> None:
    """Say nothing: what `say` is with --quiet."""


def make_settings(options: argparse.Namespace) -> dict[str, dict[str, object]]:
    """Return parameters of the four protocols from the command line."""
    from tomostream.cli.project import settings_of

    folder, pattern = movie_pattern(options.movies)
    mdoc_folder, mdoc_pattern = mdoc_pattern_of(options.mdocs)
    for option, given in (("--movies", options.movies), ("--mdocs", options.mdocs)):
        if why := places.unstorable(os.path.abspath(given)):
            raise errors.UserError(f"{option}: {why}")
    engine = ENGINES[options.engine]
    settings: dict[str, dict[str, object]] = {
        IMPORT: {"filesPath": folder, "filesPattern": pattern, "timeout": options.timeout,
                 "mdocsPath": os.path.join(mdoc_folder, mdoc_pattern)},
        MOTIONCOR: {"engine": engine}, COMPOSE: {"filesPath": mdoc_folder, "mdocPattern": mdoc_pattern},
        ARETOMO: {"engine": engine}}
    if options.until:
        settings[IMPORT]["until"] = until_time(options.until)
    if options.no_report:
        settings[COMPOSE]["liveReport"] = False
    for name, values in settings_of(options.set).items():
        settings[name] |= values
    return settings


def movie_pattern(given: str) -> tuple[str, str]:
    """Return folder and pattern for `--movies`, which is a folder or a pattern of files."""
    movies = os.path.abspath(given)
    is_folder = os.path.isdir(movies) or not any(sign in os.path.basename(movies) for sign in "*?[#")
    return (movies, "*") if is_folder else os.path.split(movies)


def mdoc_pattern_of(given: str) -> tuple[str, str]:
    """Return folder and pattern for `--mdocs`, which is a folder or a pattern of files."""
    return folder_and_pattern(os.path.abspath(given), ".mdoc")


def found_instead(settings: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Return notes on what is there instead where no movie, or no mdoc, matches the pattern given."""
    from tomostream.acquisition.movies import EXTENSIONS

    movies = os.path.join(str(settings[IMPORT]["filesPath"]), str(settings[IMPORT]["filesPattern"]))
    folder, pattern = str(settings[COMPOSE]["filesPath"]), str(settings[COMPOSE]["mdocPattern"])
    mdocs = os.path.join(folder, pattern) if folder else str(settings[IMPORT]["mdocsPath"])
    return [text[0].upper() + text[1:] for text in (what_is_there(movies, EXTENSIONS), what_is_there(mdocs, (".mdoc",))) if text]


def until_time(text: str) -> str:
    """Return the time of `--until` for the form.

    Raises
    ------
    UserError : it is not a time, or has passed.
    """
    try:
        at = until.parse(text, time.time())
    except ValueError as error:
        raise errors.UserError(f"--until: {error}") from error
    return "" if at is None else until.exact(at)


def follow(chain: Chain, options: argparse.Namespace, leaving: Leaving) -> int:
    """Show the state of the session until the four protocols end. Stopping this stops nothing else."""
    status = ProjectStatus(chain.path)
    screen = table.Screen(sys.stdout, enabled=not options.quiet)
    trouble = ""
    while not leaving.asked:
        try:
            ended = chain.ended()       # first this, so that the update includes what was written before the end
            status.update()
            screen.show(status, {name: chain.state(name) for name in chain.protocols})
        except OSError:
            raise
        except Exception as error:      # noqa: BLE001 - whatever it was, the session goes on: keep following it
            ended, before, trouble = False, trouble, f"{type(error).__name__}: {error}"
            if trouble != before:
                say(f"An unexpected error; the session continues and is still followed. Please report it with this:\n"
                    f"{traceback.format_exc()}".rstrip())
        if ended:
            break
        leaving.asked = leaving.asked or (reader_gone() and not options.json)
        leaving.wait(REFRESH_SECONDS)
    if leaving.asked:
        say(f"\nNo longer following. The protocols keep running; see: tomostream status {shlex.quote(chain.path)}")
        return INTERRUPTED
    screen.close(status)
    found = attention.processes(status)
    needs = attention.needs_attention(status, found, read_alarms(os.path.join(chain.path, REPORT)))
    for line in [*attention.lines(needs), *places.where(status)]:
        say(line)
    if options.json:
        try:
            write_json(status, options.json)
        except OSError as error:
            return refuse(getattr(options, "command", "run"), places.cannot_write(options.json, error))
    return exit_status(status, any(each.state == "dead" for each in found.values()))


def json_place(path: str | None) -> str | None:
    """Return the absolute path for the final status, because Scipion works in the project's folder.

    Raises
    ------
    OSError : it cannot be written there. Better to know that before the night than after it.
    """
    if path:
        path = os.path.abspath(path)
        places.check_file(path)
    return path


def write_json(status: ProjectStatus, path: str) -> None:
    """Write the status, complete or not at all."""
    write_text(path, json.dumps(status.as_json(), indent=1))


def exit_status(status: ProjectStatus, died: bool = False) -> int:
    """Return 0 when every series became a tomogram; 1 when some failed, movies belong to no series, or a protocol died; 2 when
    there is no tomogram."""
    done = [series for series in status.series.values() if series.state == "done"]
    if not done:
        return 2
    failed = len(done) != len(status.series) or any(movie.failed for movie in status.movies.values())
    return 1 if failed or died or status.unassigned_count else 0
