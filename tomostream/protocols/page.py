# SPDX-License-Identifier: GPL-3.0-or-later
"""The live page of a session, as the protocols start it: the compose protocol has the option, whoever goes on follows."""

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
                  help="A page of the whole session, written while it runs into the folder report of the project, by a "
                       "process of its own at low priority: open report/index.html in a browser, from the disk or "
                       "from any web share.")
    form.addParam("previews", params.BooleanParam, default=False, condition="liveReport", label="Previews before the end?",
                  help="Once 60 % of the expected tilts of a series are aligned (their number given or learned), a small, quick "
                       "tomogram of them appears on the live page, marked as a preview, until the final one replaces it. It is "
                       "on the page only, made by the CPU engine in time that nothing else needs.")


def summary(protocol: Any) -> list[str]:
    """For `_summary`: where the page is, and the alarms that hold."""
    folder = os.path.join(protocol.getProject().getPath() if protocol.getProject() else os.getcwd(), REPORT)
    index = os.path.join(os.path.abspath(folder), "index.html")
    if not os.path.exists(index):
        return []
    return [f"*Live page*: {index}"] + [f"*Alarm* {KINDS.get(alarm.kind, alarm.kind)}: {alarm.text}"
                                        for alarm in read_alarms(folder) if alarm.acknowledged is None]


def start(protocol: Any) -> None:
    """Start writing the page. It must never be a reason for the session to stop."""
    if protocol.liveReport.get():
        _start(protocol, alarms.words_of(protocol))


def go_on(protocol: Any) -> None:
    """A protocol that is continued: the page goes on where there is one, with the thresholds that it had. A second writer
    ends by itself."""
    if os.path.isdir(os.path.join(os.getcwd(), REPORT)):
        _start(protocol, None)


def _start(protocol: Any, thresholds: list[str] | None) -> None:
    try:
        background.start(os.getcwd(), thresholds)
    except OSError as error:
        protocol.warning(f"the live page cannot be written: {error}")
