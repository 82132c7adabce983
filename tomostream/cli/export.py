# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream export`: finished series in the file formats of IMOD, RELION 5 and Warp."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tomostream.cli import refuse
from tomostream.cli.places import cannot_write

if TYPE_CHECKING:
    from tomostream.handoff.facts import Target
    from tomostream.journal.status import ProjectStatus, SeriesStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="name or path of the project")
    parser.add_argument("out", metavar="OUT", help="folder to write into; an earlier export there is replaced, series by series")
    parser.add_argument("--to", default="imod,relion5,warp", metavar="PROGRAMS",
                        help="any of imod,relion5,warp,zarr (default: imod,relion5,warp; zarr is OME-Zarr, one more copy of "
                        "each tomogram)")
    parser.add_argument("--series", nargs="+", default=[], metavar="SERIES", help="only these series (default: all finished)")
    parser.add_argument("--series-file", metavar="FILE",
                        help="only the series listed in a file: the list that the page saves, or one name per line")
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--link", dest="copy", action="store_false", help="link images and tomograms (the default)")
    images.add_argument("--copy", dest="copy", action="store_true", help="copy images and tomograms; movies are always linked")
    parser.set_defaults(copy=False)


def main(options: argparse.Namespace) -> int:
    from tomostream.cli.status import existing
    from tomostream.handoff import collect
    from tomostream.handoff.facts import Target
    from tomostream.journal.status import ProjectStatus
    from tomostream.report.marks import series_in

    path = existing(options.project)
    known = [target.value for target in Target]
    wanted = [word.strip() for word in options.to.split(",") if word.strip()]
    wrong = [word for word in wanted if word not in known]
    if wrong or not wanted:
        return refuse("export", f"--to {options.to}: use one or more of {', '.join(known)}, separated by commas")
    status = ProjectStatus(path)
    status.update()
    done = {each.id: each for each in collect.finished(status)}
    try:
        named = [*options.series, *(series_in(options.series_file) if options.series_file else ())]
    except (OSError, ValueError) as error:
        return refuse("export", error)
    unknown = [name for name in named if name not in done]
    if unknown:
        return refuse("export", f"{', '.join(unknown)}: no such finished series; finished are {', '.join(done) or 'none'}")
    chosen = [done[name] for name in dict.fromkeys(named)] or list(done.values())
    if not chosen:
        return refuse("export", "no series has been reconstructed yet: there is nothing to export")
    return export_all(status, chosen, options, [Target(word) for word in wanted])


def export_all(status: ProjectStatus, chosen: Sequence[SeriesStatus], options: argparse.Namespace,
            targets: Sequence[Target]) -> int:
    """Write the chosen series, one after the other; return the exit status."""
    from tomostream.handoff import collect
    from tomostream.handoff.export import README, export
    from tomostream.handoff.facts import NotPossible

    failed = 0
    for each in chosen:
        try:
            refused = export(collect.collect(status, each), os.path.abspath(options.out), targets, options.copy)
        except NotPossible as error:
            print(f"{each.id}: not exported: {error}")
            failed += 1
            continue
        except OSError as error:
            return refuse("export", cannot_write(options.out, error) if error.errno else error)
        failed += bool(refused)
        served = ", ".join(target.value for target in targets if target not in refused)
        why_not = "".join(f"; not for {target.value}: {why}" for target, why in refused.items())
        print(f"{each.id}: {served or 'not exported'}{why_not}")
    print(f"Next steps, and what was decided: {os.path.join(options.out, README)}")
    return 1 if failed else 0
