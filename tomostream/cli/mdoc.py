# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream mdoc`: the mdoc doctor."""

from __future__ import annotations

import argparse
import json
import sys

from tomostream.acquisition.doctor import UNUSABLE, as_json, as_text, examine, find_mdocs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand to its parser."""
    parser.add_argument("paths", nargs="+", metavar="FILE-OR-FOLDER", help="mdoc files, or folders to look for them in")
    parser.add_argument("--json", action="store_true", help="print a list of objects, for programs")
    parser.epilog = ("Exit status: 0; 1 if a file cannot be used (it cannot be read, or one movie holds all its "
                     "tilts). Montages and maps are named, and no error.")


def main(args: argparse.Namespace) -> int:
    """Print what the files are; return the exit status."""
    files = find_mdocs(args.paths)
    if not files:
        print("[]" if args.json else f"There is no mdoc file in {', '.join(args.paths)}.",
              file=sys.stdout if args.json else sys.stderr)
        return 1
    facts = examine(files)
    text = json.dumps(as_json(facts), indent=2) if args.json else as_text(facts)
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
    return 1 if any(one.kind in UNUSABLE for one in facts) else 0
