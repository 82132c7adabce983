# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream check`: before a night, check that everything a session needs is there."""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tomostream.cli import errors, home, readiness, refuse
from tomostream.cli.leaving import show
from tomostream.cli.readiness import Finding, Verdict
from tomostream.files.patterns import files_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from tomostream.cli.run import ENGINES

    parser.add_argument("project", nargs="?", metavar="PROJECT", help="name or path of the project to be made")
    parser.add_argument("--movies", metavar="PATTERN", help="folder or pattern of the movies, as for run")
    parser.add_argument("--mdocs", metavar="FOLDER", help="folder or pattern of the mdoc files, as for run")
    parser.add_argument("--engine", choices=sorted(ENGINES), default="auto", help="which programs will be run")
    parser.add_argument("--queue", metavar="NAME", help="the queue in Scipion's hosts.conf that will run the programs")
    parser.add_argument("--no-message", action="store_true", help="do not send a test message by mail and webhook")
    parser.epilog = "Prints one line per check. Exit status: 0; 1 if something is wrong."


def main(options: argparse.Namespace) -> int:
    try:
        problems = home.set_variables(home.default_home(options.project or ""))
        found = []
        for finding in findings(options, problems):
            found.append(finding)
            show(str(finding))
    except errors.UserError as error:
        return refuse("check", error)
    bad = sum(finding.verdict is Verdict.WRONG for finding in found)
    show(f"{bad} of {len(found)} checks found a problem." if bad else f"All {len(found)} checks passed.")
    return 1 if bad else 0


def findings(options: argparse.Namespace, problems: Sequence[str]) -> Iterator[Finding]:
    """Yield the results of all checks, the slow ones last.

    Parameters
    ----------
    problems : what is wrong with Scipion's configuration.
    """
    from tomostream.acquisition.movies import EXTENSIONS
    from tomostream.cli import project, run

    path = home.project_path(options.project or "project")
    if options.project:
        try:
            project.refuse_place(path, options.project)
        except errors.UserError as error:
            yield readiness.wrong("project", str(error))
    yield readiness.interpreter()
    yield readiness.packages()
    yield from readiness.configured(problems)
    movies: list[str] = []
    mdocs: list[str] = []
    if options.movies:
        pattern = os.path.join(*run.movie_pattern(options.movies))
        yield readiness.folder_of("movies", pattern, EXTENSIONS)
        movies = [path for path in files_of(pattern) if path.lower().endswith(EXTENSIONS)]
    if options.mdocs:
        pattern = os.path.join(*run.mdoc_pattern_of(options.mdocs))
        yield readiness.folder_of("mdoc files", pattern, (".mdoc",))
        mdocs = files_of(pattern)
        also = f" --movies {shlex.quote(options.movies)}" if options.movies else ""
        yield from readiness.series(mdocs, movies, f"tomostream mdoc {shlex.quote(options.mdocs)}{also}")
    yield readiness.place(path)
    yield readiness.clock(path)
    yield from readiness.microscope_clock([*movies, *mdocs], time.time())
    if options.queue:
        yield readiness.queue(options.queue)
    yield from programs(options)
    yield from readiness.messages(not options.no_message)


def programs(options: argparse.Namespace) -> Iterator[Finding]:
    """Yield the checks of programs and GPUs, as configured for Scipion's plugins."""
    from tomostream.cli import run

    scipion = os.environ["SCIPION_HOME"]
    with tempfile.TemporaryDirectory() as elsewhere:
        if not os.path.isdir(os.environ["SCIPION_HOME"]):
            os.environ["SCIPION_HOME"] = elsewhere          # Scipion makes folders in its home; a check must leave nothing behind
        home.quiet_logs()
        from pyworkflow.config import Config

        Config.getDomain().getProtocols()
        for finding in readiness.programs(run.ENGINES[options.engine]):
            yield replace(finding, text=finding.text.replace(elsewhere, scipion))
        if not options.queue:       # the nodes of a queue have GPUs of their own
            yield readiness.gpus()
