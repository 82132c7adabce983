# SPDX-License-Identifier: GPL-3.0-or-later
"""`tomostream acknowledge`: acknowledge alarms, so that they are no longer shown, sent or counted."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence

from tomostream.cli import refuse
from tomostream.cli.places import cannot_write
from tomostream.journal.layout import REPORT
from tomostream.report import acknowledged
from tomostream.report.alarms import KINDS, Alarm
from tomostream.report.announce import read_alarms
from tomostream.report.notify import one_line, utc


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="name or path of the project")
    parser.add_argument("names", nargs="*", metavar="SERIES|KIND",
                        help="a series or protocol that has an alarm, or a kind of alarm; none: list the alarms")
    parser.add_argument("--all", action="store_true", help="all alarms that are on")


def main(options: argparse.Namespace) -> int:
    from tomostream.cli.status import existing

    path = existing(options.project)
    out = os.path.join(path, REPORT)
    alarms = read_alarms(out)
    if not options.names and not options.all:
        return show(alarms)
    chosen = alarms if options.all else []
    for name in options.names:
        named = [alarm for alarm in alarms if name in (alarm.of, alarm.kind, alarm.key)]
        if not named:
            known = ", ".join(sorted({alarm.of or alarm.kind for alarm in alarms})) or "none"
            return refuse("acknowledge", f"no alarm is called '{name}'; there are: {known}")
        chosen = [*chosen, *named]
    try:
        if chosen:
            acknowledged.acknowledge(out, {alarm.key for alarm in chosen}, time.time())
    except OSError as error:
        return refuse("acknowledge", cannot_write(out, error))
    return show(read_alarms(out))


def show(alarms: Sequence[Alarm]) -> int:
    """Print a line for each alarm: since when it is on, whether it is acknowledged, which, and why."""
    if not alarms:
        print("No alarms.")
    for alarm in sorted(alarms, key=lambda each: (each.acknowledged is not None, each.since)):
        known = "acknowledged" if alarm.acknowledged is not None else "ALARM"
        which = f"{alarm.of or alarm.kind} - {KINDS.get(alarm.kind, alarm.kind)}"
        print(one_line(f"{utc(alarm.since)} {known} {which}: {alarm.text}"))
    return 0
