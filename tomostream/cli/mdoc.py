# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream mdoc`: the mdoc doctor, and which movie belongs to which series in a whole folder."""

from __future__ import annotations

import argparse
import json
import sys
import time

from tomostream.acquisition import overview
from tomostream.acquisition.doctor import UNUSABLE, as_json, as_lines, as_text, examine, find_mdocs
from tomostream.acquisition.movies import EXTENSIONS
from tomostream.files import patterns

#: Up to so many files are described in full; more get a line each.
MAX_IN_FULL = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand to its parser."""
    parser.add_argument("paths", nargs="+", metavar="FILE-OR-FOLDER", help="mdoc files, or folders to look for them in")
    parser.add_argument("--movies", metavar="PATTERN", action="append", default=[],
                        help="folder or pattern of the movies: show which series has which movies, and what is left over; may be "
                             "repeated")
    parser.add_argument("--details", action="store_true", help="show every tilt of every series (the default for up to "
                        f"{MAX_IN_FULL} files)")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.epilog = ("Exit status: 0; 1 if a file cannot be used (it cannot be read, or one movie holds all its "
                     "tilts). Montages and maps are listed and are not errors. With --movies: 0 if every series has all its "
                     "movies and every movie its series, else 1.")


def main(args: argparse.Namespace) -> int:
    """Describe the files; return the exit status."""
    files = find_mdocs(args.paths)
    if not files:
        print("[]" if args.json else f"There is no mdoc file in {', '.join(args.paths)}.",
              file=sys.stdout if args.json else sys.stderr)
        return 1
    if args.movies:
        return who_has_what(files, args)
    facts = examine(files)
    if args.json:
        print(json.dumps(as_json(facts), indent=2))
    else:
        print(as_text(facts) if args.details or len(files) <= MAX_IN_FULL else as_lines(facts))
    return 1 if any(one.kind in UNUSABLE for one in facts) else 0


def who_has_what(files: list[str], args: argparse.Namespace) -> int:
    """Print which movie belongs to which series; return the exit status."""
    movies = [path for given in args.movies for path in overview.movie_files(given)]
    if not movies:
        lies = "; ".join(filter(None, (patterns.what_is_there(overview.pattern_of(given), EXTENSIONS) for given in args.movies)))
        print(f"There is no movie in {', '.join(args.movies)}{': ' if lies else ''}{lies}.", file=sys.stderr)
        return 1
    found = overview.survey(files, movies, time.time())
    print(json.dumps(overview.as_json(found), indent=2) if args.json else overview.as_text(found, args.details))
    return 0 if found.fine else 1
