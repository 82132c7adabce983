# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps a protocol from going on although nothing is wrong with any item; reported when it begins and when it is over."""

from __future__ import annotations

from typing import Protocol

from tomostream.journal import entries, ledger


class Host(Protocol):
    """What is needed of the protocol: its log and its ledger."""

    ledger: ledger.Ledger

    def info(self, text: str) -> None:
        """Write a line in the log."""

    def warning(self, text: str) -> None:
        """Write a warning in the log."""


class Troubles:
    """The troubles of a protocol by topic. One that continues in other words is still the same."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._present: dict[entries.Topic, str] = {}

    def report(self, topic: entries.Topic, text: str) -> None:
        """Report trouble of a topic in words; "" when there is none, or it is over."""
        before = self._present.pop(topic, "")
        if text:
            self._present[topic] = text
            if not before:
                self._host.warning(text[0].upper() + text[1:])
                self._host.ledger.write(entries.Waiting("", text, topic=topic))
        elif before:
            self._host.info(f"Over: {before}")
            self._host.ledger.write(entries.Session("", f"over: {before}", over=topic))
