# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting the live page of a session: the compose protocol has the option, and a protocol that is continued restarts it."""

from __future__ import annotations

import os
from typing import Any

from pyworkflow.protocol import params

from tomostream.journal.layout import REPORT
from tomostream.protocols import alarms
from tomostream.report import background
from tomostream.report.alarms import KINDS
from tomostream.report.announce import read_alarms


def define_params(form: Any) -> None:
    """Add the fields of the compose protocol: the page and its previews. The alarms have a tab of their own, see `alarms`."""
    form.addParam("liveReport", params.BooleanParam, default=True, label="Write the live page?",
                  help="A page on the whole session, written into the folder report of the project while the session runs, by "
                       "a process of its own at low priority: open report/index.html in a browser, from the disk or from any "
                       "web share.")
    form.addParam("previews", params.BooleanParam, default=False, condition="liveReport", label="Previews before the end?",
                  help="Once 60 % of the expected tilts of a series are aligned (their number given or learned), a small, quick "
                       "tomogram of them appears on the live page, marked as a preview, until the final one replaces it. It is "
                       "on the page only; the CPU engine makes it when it has nothing else to do.")


def summary(protocol: Any) -> list[str]:
    """For `_summary`: where the page is, and the alarms that are on."""
    folder = os.path.join(protocol.getProject().getPath() if protocol.getProject() else os.getcwd(), REPORT)
    index = os.path.join(os.path.abspath(folder), "index.html")
    if not os.path.exists(index):
        return []
    return [f"*Live page*: {index}"] + [f"*Alarm* {KINDS.get(alarm.kind, alarm.kind)}: {alarm.text}"
                                        for alarm in read_alarms(folder) if alarm.acknowledged is None]


def start(protocol: Any) -> None:
    """Start writing the page, if the form asks for it. A failure must not stop the session."""
    if protocol.liveReport.get():
        _start(protocol, alarms.words_of(protocol))


def go_on(protocol: Any) -> None:
    """Continue the page of a protocol that is continued, with its old thresholds. A second writer exits by itself."""
    if os.path.isdir(os.path.join(os.getcwd(), REPORT)):
        _start(protocol, None)


def _start(protocol: Any, thresholds: list[str] | None) -> None:
    try:
        background.start(os.getcwd(), thresholds)
    except OSError as error:
        protocol.warning(f"the live page cannot be written: {error}")
