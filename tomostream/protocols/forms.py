# SPDX-License-Identifier: GPL-3.0-or-later
"""Helpers for forms inherited from upstream: order, texts and visibility of fields; checks of what was entered."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tomostream.streaming.values import seconds_of


def put_after(group: Any, name: str, after: str) -> None:
    """Show a field of a section or group right after another field of it."""
    order = group._paramList
    order.remove(name)
    order.insert(order.index(after) + 1, name)


def put_first(group: Any, names: Sequence[str]) -> None:
    """Show these fields of a section or group first, in this order."""
    rest = [name for name in group._paramList if name not in names]
    group._paramList[:] = [*names, *rest]


def move(form: Any, names: Sequence[str], section: Any) -> None:
    """Move fields, lines or groups to the end of a section, in this order; sections left empty are removed."""
    for other in form.iterSections():
        for group in (other, *(element for _, element in _elements(other) if hasattr(element, "_paramList"))):
            group._paramList[:] = [name for name in group._paramList if name not in names]
    section._paramList += names
    form._sectionList[:] = [each for each in form._sectionList if each._paramList or each is section]


def add_section(form: Any, label: str, after: str) -> Any:
    """Add a section right after another one. What is added to the form itself later goes where it would have gone before."""
    section = form.addSection(label=label, updateSection=False)
    order = form._sectionList
    order.remove(section)
    order.insert(order.index(form.getSection(after)) + 1, section)
    return section


def set_helps(form: Any, helps: Mapping[str, str]) -> None:
    """Set help texts by name of the field."""
    for name, text in helps.items():
        form.getParam(name).help.set(text)


def set_labels(form: Any, labels: Mapping[str, str]) -> None:
    """Set labels by name of the field."""
    for name, text in labels.items():
        form.getParam(name).label.set(text)


def show_if(form: Any, name: str, condition: str) -> None:
    """Show an upstream field only under this condition, an expression in the names of other fields."""
    param = form.getParam(name)
    param.condition.set(condition)
    form._analizeCondition(name, param)     # pyworkflow does it only when a field is added


def hide(form: Any, names: Sequence[str]) -> None:
    """Hide upstream fields that have no effect in our protocol; they keep their defaults."""
    for name in names:
        form.getParam(name).condition.set("False")


def number_problems(protocol: Any, limits: Mapping[str, tuple[float, float]]) -> list[str]:
    """For `_validate`: numbers outside (lowest, highest), in sentences. Empty fields are allowed, or refused by Scipion."""
    problems = []
    for name, (lowest, highest) in limits.items():
        value = getattr(protocol, name).get()
        if value is None or lowest <= value <= highest:
            continue
        wanted = f"between {lowest:g} and {highest:g}" if math.isfinite(highest) else f"{lowest:g} or more"
        problems.append(f"{label_of(protocol, name)}: {value:g} is out of range; it must be {wanted}.")
    return problems


def words_problems(protocol: Any, name: str) -> list[str]:
    """For `_validate`: extra command-line words must be well-formed for the shell."""
    try:
        shlex.split(getattr(protocol, name).get() or "")
    except ValueError as error:
        return [f"{label_of(protocol, name)}: a quotation mark is not closed ({str(error).lower()})."]
    return []


def time_problems(protocol: Any, names: Sequence[str]) -> list[str]:
    """For `_validate`: texts that are not times, in sentences."""
    problems = []
    for name in names:
        try:
            seconds_of(getattr(protocol, name).get())
        except ValueError as error:
            problems.append(f"{label_of(protocol, name)}: {error}.")
    return problems


def label_of(protocol: Any, name: str) -> str:
    """Return the label of a field, with the label of its line in front where several share a line."""
    param = protocol.getParam(name)
    for section in protocol._definition.iterSections():
        for _, group in _elements(section):
            if name in getattr(group, "_paramList", ()) and type(group).__name__ == "Line":
                return f"{group.label.get()}, {param.label.get()}"
    return str(param.label.get())


def _elements(group: Any) -> Iterator[tuple[str, Any]]:
    """Yield everything of a section or group, and of the groups and lines in it."""
    for name, element in group.iterParams():
        yield name, element
        if hasattr(element, "iterParams"):
            yield from _elements(element)
