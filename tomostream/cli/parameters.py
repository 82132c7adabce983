# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream parameters`: the names that `--set` accepts, with their defaults and labels."""

from __future__ import annotations

import argparse

from tomostream.cli import errors, home, refuse
from tomostream.journal.status import ARETOMO, CLASSES, COMPOSE, IMPORT, MOTIONCOR

#: Fields of every protocol that are Scipion's own.
SCIPIONS = frozenset(["runName", "runMode", "hostName"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("protocol", nargs="?", choices=(IMPORT, MOTIONCOR, COMPOSE, ARETOMO), metavar="PROTOCOL",
                        help="import, motioncor, compose or aretomo; none: all four")


def main(options: argparse.Namespace) -> int:
    from tomostream.cli import project

    try:
        home.scipion_environment(home.default_home(""))
    except errors.UserError as error:
        return refuse("parameters", error)
    home.quiet_logs()
    for name in [options.protocol] if options.protocol else project.ORDER:
        for line in listing(name):
            print(line)
    return 0


def listing(name: str) -> list[str]:
    """Return a line for each parameter with a field in the form: `protocol.parameter = default  # label`."""
    from pyworkflow.config import Config
    from pyworkflow.protocol import LabelParam, PointerParam

    Config.getDomain().getProtocols()
    import tomostream.protocols as ours

    lines = []
    for key, param in getattr(ours, CLASSES[name])()._definition.iterParams():
        if isinstance(param, (LabelParam, PointerParam)) or key in SCIPIONS or not param.label.get():
            continue
        default = "" if param.default.get() is None else param.default.get()
        choices = ", ".join(f"{number} {choice}" for number, choice in enumerate(getattr(param, "choices", None) or ()))
        lines.append(f"{f'{name}.{key} = {default}':44s} # {param.label.get()}" + (f" [{choices}]" if choices else ""))
    return lines
