# SPDX-License-Identifier: GPL-3.0-or-later
"""The entry that runs with series add to the menu of their box, below STOP STREAMING."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyworkflow.config import Config
from pyworkflow.viewer import DESKTOP_TKINTER

TILTS = "TILTS: TAKE OUT OR PUT BACK"


def of_series(protocol: Any, output: str) -> list[tuple[str, Callable[..., None]]]:
    """Return the action; none before the run has its output."""
    def choose(event: object = None) -> None:
        """Scipion's canvas hands an event to an action, its tree view nothing."""
        viewer = Config.getDomain().findViewers(protocol, DESKTOP_TKINTER)[0](project=protocol.getProject(), protocol=protocol)
        viewer.protocol = protocol
        for view in viewer.decide_on_tilts():
            view.show()

    return [(TILTS, choose)] if getattr(protocol, output, None) is not None else []
