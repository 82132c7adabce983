# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream marks`: the marks that people gave to series, and Scipion sets of marked series."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, get_args

from tomostream.cli import refuse
from tomostream.cli.errors import UserError
from tomostream.journal.layout import REPORT
from tomostream.report import marks

if TYPE_CHECKING:
    from pyworkflow.project import Project
    from pyworkflow.protocol import Protocol

NAMES = tuple(name for name in get_args(marks.MarkName) if name)
#: Word of `--of` -> the output of the aretomo protocol.
OUTPUTS = {"tomograms": "Tomograms", "tilt-series": "TiltSeries", "filtered": "FilteredTomograms"}
USUAL = ("tomograms", "tilt-series")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="name or path of the project")
    parser.add_argument("--set", choices=NAMES, metavar="MARK",
                        help=f"make Scipion sets of the series with this mark ({', '.join(NAMES)}), as its 'create subset' does")
    parser.add_argument("--series-file", metavar="FILE",
                        help="use the list that the page saves, or one name per line, instead of the marks kept with the session")
    parser.add_argument("--of", default=",".join(USUAL), metavar="WHAT",
                        help=f"which sets: any of {','.join(OUTPUTS)} (default: {','.join(USUAL)})")


def main(options: argparse.Namespace) -> int:
    from tomostream.cli.status import existing

    path = existing(options.project)
    wanted = [word.strip() for word in options.of.split(",") if word.strip()]
    if not wanted or not set(wanted) <= OUTPUTS.keys():
        return refuse("marks", f"--of {options.of}: use one or more of {', '.join(OUTPUTS)}, separated by commas")
    try:
        known = marks_of(os.path.join(path, REPORT), options.series_file)
        if options.set is None and options.series_file is None:
            return report(known)
        chosen = [name for name, each in known.items() if options.set in (None, each.mark)]
        if not chosen:
            raise UserError(f"no series is marked {options.set}: mark them on the page (tomostream page {options.project} "
                            "--serve), or give the list that it saves with --series-file")
        return make_sets(options.project, chosen, [OUTPUTS[word] for word in wanted], label_of(options.set))
    except (UserError, ValueError, OSError) as error:
        return refuse("marks", error)


def marks_of(out: str, series_file: str | None) -> dict[str, marks.Mark]:
    """Return series -> mark, from a list that the page saved, or as kept beside the page in folder `out`.

    Raises
    ------
    OSError, ValueError : they cannot be read.
    """
    return marks.read(out) if series_file is None else marks.marks_in(series_file)


def report(known: dict[str, marks.Mark]) -> int:
    """Print a line for each mark."""
    width = max(map(len, known), default=0)
    for name, each in sorted(known.items()):
        print(f"{name:{width}}  {each.mark or '-':10}  {each.note}".rstrip())
    if not known:
        print("No series is marked.")
    return 0


def label_of(mark: str | None) -> str:
    return f"marked {mark.replace('-', ' ')}" if mark else "of a list"


def make_sets(project: str, series: Sequence[str], outputs: Collection[str], label: str) -> int:
    """Make a subset of each output of the aretomo run, as Scipion's own *create subset* does, and print what they hold.

    Raises
    ------
    UserError : the project has no aretomo run, or Scipion made no set; says where its log is.
    """
    from tomostream.cli import project as projects
    from tomostream.cli.home import default_home, quiet_logs, scipion_environment
    from tomostream.journal.status import ARETOMO

    scipion_environment(default_home(project))
    quiet_logs()
    chain = projects.load(project)
    aretomo = chain.protocols.get(ARETOMO)
    if aretomo is None:
        raise UserError(f"the project {chain.path} has no aretomo run to choose outputs from")
    if os.path.exists(aretomo.getDbPath()):     # the project may not know the latest outputs of the run
        chain.project._updateProtocol(aretomo)
    made = [make_set(chain.project, aretomo, output, series, label) for output in outputs]
    return 0 if any(made) else 1


def make_set(project: Project, aretomo: Protocol, output: str, series: Sequence[str], label: str) -> bool:
    """Make the subset of one output and print what it holds; return False if none of the series is in it.

    Raises
    ------
    UserError : Scipion made no set; says where its log is.
    """
    items: Any = getattr(aretomo, output, None)
    ids = {} if items is None else {item.getTsId(): item.getObjId() for item in items.iterItems()}
    chosen = [name for name in series if name in ids]
    missing = [name for name in series if name not in ids]
    lacks = f"; it has no {', '.join(missing)}" if chosen and missing else ""
    name = subset(project, aretomo, output, [ids[each] for each in chosen], f"{output} {label}") if chosen else ""
    print(f"{output}: {len(chosen)} of {len(ids)} series, in the box '{name}'{lacks}" if chosen
          else f"{output}: none of these series is in it (yet)")
    return bool(chosen)


def subset(project: Project, aretomo: Protocol, output: str, ids: Sequence[int], label: str) -> str:
    """Run Scipion's subset protocol on rows of an output; return the name of its box.

    Raises
    ------
    UserError : it failed; says where its log is.
    """
    from pwem.protocols import ProtUserSubSet

    made = project.newProtocol(ProtUserSubSet, other="", sqliteFile="", outputClassName=getattr(aretomo, output).getClassName())
    made.setObjLabel(label)
    made.inputObject.set(aretomo)
    made.inputObject.setExtended(output)
    project.saveProtocol(made)
    selection = made._getExtraPath("selected.txt")      # row ids on one line, as Scipion's viewer writes them
    os.makedirs(os.path.dirname(selection), exist_ok=True)
    with open(selection, "w", encoding="utf-8") as file:
        file.write(" ".join(map(str, ids)) + "\n")
    made.sqliteFile.set(f"{selection},")
    project.launchProtocol(made, wait=True)
    if not made.isFinished():
        raise UserError(f"Scipion made no set of {output}: see {os.path.join(project.path, made._getLogsPath('run.stderr'))}")
    return str(made.getObjLabel())
