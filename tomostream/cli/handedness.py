# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream handedness`: is the sign of the tilt angles right? One series both ways, and the choice remembered."""

from __future__ import annotations

import argparse
import os
import shlex
from typing import TYPE_CHECKING

from tomostream.choices import instruments
from tomostream.cli import refuse
from tomostream.journal.composed import NoSeries, read_series

if TYPE_CHECKING:
    from tomostream.choices.handedness import Check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="name or path of the project")
    parser.add_argument("series", metavar="SERIES", help="a composed series, as `tomostream status` names it")
    parser.add_argument("--choose", choices=(instruments.AS_GIVEN, instruments.NEGATED),
                        help="remember this for the instrument; sessions started afterwards use it")
    parser.add_argument("--instrument", metavar="NAME", help="name of the instrument (default: the one given in the mdoc)")


def main(options: argparse.Namespace) -> int:
    from tomostream.choices import handedness
    from tomostream.cli.status import existing
    from tomostream.engine import quick

    path = existing(options.project)
    try:
        series = read_series(path, options.series)
        found = handedness.read_check(path, options.series) if options.choose else None
        if options.choose is None:
            found = handedness.check(path, series, lambda line: print(line, flush=True))
            show(found, path)
            return 0
        name = options.instrument or (found.instrument if found else handedness.instrument_of(series))
        if not name:
            return refuse("handedness", "the mdoc does not give the name of the instrument: give --instrument NAME")
        file = instruments.remember(name, options.choose, options.series, found.evidence if found else "")
    except (NoSeries, quick.NotDone, ValueError) as error:
        return refuse("handedness", str(error))
    print(f"Remembered for {name}: tilt angles {options.choose} ({file}). Sessions started from now on use it; a running one "
          "keeps its sign.")
    return 0


def show(found: Check, project: str) -> None:
    """Print what was found, and what to do next."""
    from tomostream.choices import handedness

    print(f"\n{found.evidence}\n\nWhat to look for:")
    for text in handedness.LOOK_FOR:
        print(f"- {text}")
    print(f"\nBoth reconstructions: {os.path.join(found.folder, found.page)}\nInstrument: {found.instrument or 'not known'}\n"
          f"Then: tomostream handedness {shlex.quote(project)} {shlex.quote(found.series)} --choose as-given|negated "
          "[--instrument NAME]")
