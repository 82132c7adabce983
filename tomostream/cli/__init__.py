# SPDX-License-Identifier: GPL-3.0-or-later
"""The `tomostream` command. Each subcommand is a module of this room with `add_arguments` and `main`.

A module is imported only when its subcommand is called, so that `--help` imports neither numpy nor Scipion.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from tomostream import __version__
from tomostream.cli.errors import UserError
from tomostream.cli.leaving import OUTPUT_TROUBLE, READER_GONE, mute, ready_streams

#: Subcommand -> one line of help. The module of the same name does the work, or the one in `MODULES`.
COMMANDS = {
    "simulate": "write an acquisition over time, as a microscope does, with known truth",
    "check": "before a night: check programs, folders, disk, queue, mail and clocks",
    "run": "make a project, run the four protocols on a folder into which a microscope writes, and follow them",
    "parameters": "list the parameters of the four protocols, for --set",
    "watch": "start a project for each new session of a facility's microscopes, and write a page that lists them all",
    "status": "show what needs attention, and the state of every protocol, movie and series of a project",
    "list": "list the sessions of this machine, or in a folder, and their states",
    "report": "write the live page of a project: open report/index.html in a browser",
    "page": "show where the page of a project is; serve it with its buttons; write the summary to hand over",
    "marks": "list the series marked good, bad or to look at again, and make Scipion sets of them",
    "resume": "bring a dead session back: every protocol that was running continues",
    "until": "show or set the time at which the import of a running session ends",
    "stop": "end the protocols of a session, in order or (--now) at once; resume continues them",
    "acknowledge": "list the alarms of a session, or acknowledge them, so that they are no longer shown and counted",
    "exclude": "take tilts out of a series or put them back; only that series is made again",
    "export": "write finished series for IMOD, RELION 5 and Warp, with a README that gives the next commands",
    "handedness": "check the sign of the tilt angles by reconstructing one series both ways; remember the choice",
    "mdoc": "the mdoc doctor: what a file is, and what tomostream reads from it",
    "demo": "simulate a small acquisition and process it all the way to tomograms",
}


#: Exit status of a command that was interrupted.
INTERRUPTED = 130
#: A module called `list` would shadow the built-in.
MODULES = {"list": "sessions"}


def refuse(command: str, why: object) -> int:
    """Say in one sentence why a subcommand does nothing; return the exit status for that."""
    print(f"tomostream {command}: {str(why).rstrip('.')}.", file=sys.stderr)
    return 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `tomostream` command; return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    status, command = 0, ""
    ready_streams()
    try:
        options = parsed(arguments)
        command = options.command
        if not is_here():
            return refuse(command, "the folder from which it was called is gone (removed, or its disk is not mounted): cd to "
                          "another")
        status = int(options.main(options))
        sys.stdout.flush()
    except UserError as error:
        return refuse(command, error)
    except KeyboardInterrupt:       # also during the imports of the subcommand, which take a while on a busy machine
        return INTERRUPTED
    except OSError as error:
        if error.filename is not None or error.errno not in OUTPUT_TROUBLE:
            raise
        mute()
        if error.errno not in READER_GONE:
            return refuse(command, f"the output cannot be written: {error.strerror}")
    return status


def is_here() -> bool:
    """Tell whether the working folder is still there: a removed one, or that of a disk that is gone, has no name any more."""
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def parsed(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line; `main` of the result is the function of the subcommand."""
    parser = argparse.ArgumentParser(prog="tomostream", description="On-the-fly cryo-electron tomography.")
    parser.add_argument("--version", action="version", version=f"tomostream {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    subcommand: argparse.ArgumentParser | None = None
    for name, text in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == wanted:
            module = importlib.import_module(f"tomostream.cli.{MODULES.get(name, name)}")
            module.add_arguments(subparser)
            subparser.set_defaults(main=module.main)
            subcommand = subparser
    if subcommand is None or arguments[0] != wanted:
        return parser.parse_args(arguments)
    options = subcommand.parse_intermixed_args(arguments[1:])       # names may follow options: exclude P TS_01 --back 7
    options.command = wanted
    return options
