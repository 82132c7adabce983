# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream until`: show or set when the import of a running session ends."""

from __future__ import annotations

import argparse
import time

from tomostream.cli import refuse
from tomostream.cli.places import cannot_write
from tomostream.journal import runs, until
from tomostream.journal.status import IMPORT, ProjectStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="name or path of the project")
    parser.add_argument("time", nargs="?", metavar="TIME",
                        help=f"08:00 (the next time it is 08:00), '2026-11-30 08:00', or {until.NEVER}; none: show when "
                             "it ends")


def main(options: argparse.Namespace) -> int:
    from tomostream.cli.status import existing

    path = existing(options.project)
    status = ProjectStatus(path)
    status.find()
    folder = status.folders.get(IMPORT)
    if folder is None:
        return refuse("until", f"the project {path} has no import protocol")
    if options.time is not None:
        if runs.run_state(folder) != runs.RUNNING:
            return refuse("until", f"the import of {path} is not running")
        try:
            until.write(folder, until.parse(options.time, time.time()))
        except ValueError as error:
            return refuse("until", error)
        except OSError as error:
            return refuse("until", cannot_write(str(error.filename or folder), error))
    at = until.read(folder)
    print("The import ends by its time-out or when it is stopped; no time is set." if at is None
          else f"The import ends at {until.words(at)}. Whatever was imported is still processed.")
    return 0
