# SPDX-License-Identifier: GPL-3.0-or-later
"""Forms that come from upstream: order of fields, texts, fields that mean nothing here; and what is wrong in a form."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tomostream.streaming.values import seconds_of


def put_after(group: Any, name: str, after: str) -> None:
    """Show a field of a section or group right after another one of it."""
    order = group._paramList
    order.remove(name)
    order.insert(order.index(after) + 1, name)


def put_first(group: Any, names: Sequence[str]) -> None:
    """Show these fields of a section or group first, in this order."""
    rest = [name for name in group._paramList if name not in names]
    group._paramList[:] = [*names, *rest]


def move(form: Any, names: Sequence[str], section: Any) -> None:
    """Show fields, lines or groups at the end of a section, in this order, and nowhere else; one left without any goes."""
    for other in form.iterSections():
        for group in (other, *(element for _, element in _elements(other) if hasattr(element, "_paramList"))):
            group._paramList[:] = [name for name in group._paramList if name not in names]
    section._paramList += names
    form._sectionList[:] = [each for each in form._sectionList if each._paramList or each is section]


def add_section(form: Any, label: str, after: str) -> Any:
    """Add a section right after another one; what is added to the form itself goes where it went before."""
    section = form.addSection(label=label, updateSection=False)
    order = form._sectionList
    order.remove(section)
    order.insert(order.index(form.getSection(after)) + 1, section)
    return section


def set_helps(form: Any, helps: Mapping[str, str]) -> None:
    """Help texts by name of the field."""
    for name, text in helps.items():
        form.getParam(name).help.set(text)


def set_labels(form: Any, labels: Mapping[str, str]) -> None:
    """Set labels by name of the field."""
    for name, text in labels.items():
        form.getParam(name).label.set(text)


def show_if(form: Any, name: str, condition: str) -> None:
    """Show a field of upstream's only under this condition; names in it are those of other fields."""
    param = form.getParam(name)
    param.condition.set(condition)
    form._analizeCondition(name, param)     # pyworkflow does it only when a field is added


def hide(form: Any, names: Sequence[str]) -> None:
    """Hide fields of upstream's protocol that have no effect in ours; they keep their defaults."""
    for name in names:
        form.getParam(name).condition.set("False")


def number_problems(protocol: Any, limits: Mapping[str, tuple[float, float]]) -> list[str]:
    """For `_validate`: numbers outside (lowest, highest), in words. Empty ones are Scipion's to refuse, or allowed."""
    problems = []
    for name, (lowest, highest) in limits.items():
        value = getattr(protocol, name).get()
        if value is None or lowest <= value <= highest:
            continue
        wanted = f"between {lowest:g} and {highest:g}" if math.isfinite(highest) else f"{lowest:g} or more"
        problems.append(f"{label_of(protocol, name)}: {value:g} is out of range; it must be {wanted}.")
    return problems


def words_problems(protocol: Any, name: str) -> list[str]:
    """For `_validate`: what is added to a command line must be whole words to the shell."""
    try:
        shlex.split(getattr(protocol, name).get() or "")
    except ValueError as error:
        return [f"{label_of(protocol, name)}: a quotation is not closed ({str(error).lower()})."]
    return []


def time_problems(protocol: Any, names: Sequence[str]) -> list[str]:
    """For `_validate`: texts that are no times, in words."""
    problems = []
    for name in names:
        try:
            seconds_of(getattr(protocol, name).get())
        except ValueError as error:
            problems.append(f"{label_of(protocol, name)}: {error}.")
    return problems


def label_of(protocol: Any, name: str) -> str:
    """Return what stands beside a field; with the line in front of it where it is one of several in a line."""
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
