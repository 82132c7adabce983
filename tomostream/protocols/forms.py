# SPDX-License-Identifier: GPL-3.0-or-later
"""Small changes to forms that come from upstream: order of fields, texts, fields that mean nothing here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def put_after(group, name: str, after: str) -> None:
    """Show a field of a section or group right after another one of it."""
    order = group._paramList
    order.remove(name)
    order.insert(order.index(after) + 1, name)


def put_first(group, names: Sequence[str]) -> None:
    """Show these fields of a section or group first, in this order."""
    rest = [name for name in group._paramList if name not in names]
    group._paramList[:] = [*names, *rest]


def set_helps(form, helps: Mapping[str, str]) -> None:
    """Help texts by name of the field."""
    for name, text in helps.items():
        form.getParam(name).help.set(text)


def set_labels(form, labels: Mapping[str, str]) -> None:
    """Labels by name of the field."""
    for name, text in labels.items():
        form.getParam(name).label.set(text)


def hide(form, names: Sequence[str]) -> None:
    """Fields of upstream's protocol that have no effect in ours; they keep their defaults."""
    for name in names:
        form.getParam(name).condition.set("False")
