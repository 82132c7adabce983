# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong at a microscope, on purpose: `--fault KIND[:SERIES[:TILT[:SECONDS]]]`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FaultKind:
    """What arguments a fault takes: `required` of series, tilt, seconds are required, `allowed` are allowed."""

    text: str
    required: int
    allowed: int


#: Fault -> what it does. S is the series, T the exposure (acquisition order), both from 1.
KINDS = {
    "missing": FaultKind("missing:S:T - the movie is never written; the mdoc lists it", 2, 2),
    "truncated": FaultKind("truncated:S:T - the movie ends at half its bytes (--write frames: of its frames)", 2, 2),
    "late": FaultKind("late:S:T[:SECONDS] - the movie arrives SECONDS (60) after its exposure", 2, 3),
    "stuck": FaultKind("stuck:S:T[:SECONDS] - the movie stops growing half-way, is completed SECONDS (30) later", 2, 3),
    "dark": FaultKind("dark:S:T - a blank image, as behind a grid bar", 2, 2),
    "reacquired": FaultKind(
        "reacquired:S:T - the exposure is repeated: a new movie, the mdoc rewritten with its section replaced; "
        "the old movie stays, listed nowhere", 2, 2),
    "extra-section": FaultKind("extra-section:S - the mdoc ends with a tilt that never existed", 1, 1),
    "no-axis": FaultKind("no-axis:S - the mdoc gives no tilt axis", 1, 1),
    "garbage-mdoc": FaultKind("garbage-mdoc[:S] - random bytes for the mdoc of series S, or as one more mdoc", 0, 1),
    "empty-mdoc": FaultKind("empty-mdoc[:S] - an empty mdoc for series S, or as one more mdoc", 0, 1),
    "map": FaultKind("map - the mdoc of a map and of a montage lie beside those of the series", 0, 0),
}  # fmt: skip

#: Delays in s if the fault gives none.
DEFAULT_SECONDS = {"late": 60.0, "stuck": 30.0}


def _not_understood(text: str, form: FaultKind) -> str:
    """Say how a fault is written, and what its letters stand for."""
    letters = [f"{letter} is the number of {what}, from 1" for letter, what in (("S", "the series"), ("T", "the exposure"))
            if f":{letter}" in form.text]
    return f"The fault {text!r} is not understood: {form.text}{'; ' if letters else ''}{'; '.join(letters)}."


@dataclass(frozen=True)
class Fault:
    """One fault: its kind, its series and tilt (acquisition order) from 1, and its delay in s, if it has them."""

    kind: str
    series: int | None = None
    tilt: int | None = None
    seconds: float | None = None


def parse_fault(text: str) -> Fault:
    """Parse `KIND[:S[:T[:SECONDS]]]`. Raises ValueError with a sentence that shows the right form."""
    kind, *arguments = text.split(":")
    if kind not in KINDS:
        raise ValueError(f"There is no fault {kind!r}: choose one of {', '.join(KINDS)}.")
    form = KINDS[kind]
    try:
        numbers = [int(value) for value in arguments[:2]] + [float(value) for value in arguments[2:]]
    except ValueError:
        raise ValueError(_not_understood(text, form)) from None
    if not form.required <= len(numbers) <= form.allowed or any(value < 0 for value in numbers):
        raise ValueError(_not_understood(text, form))
    seconds = float(numbers[2]) if len(numbers) > 2 else DEFAULT_SECONDS.get(kind)
    series, tilt = ([int(value) for value in numbers[:2]] + [None, None])[:2]
    return Fault(kind, series, tilt, seconds)


@dataclass(frozen=True)
class Faults:
    """All faults of an acquisition, looked up by series and tilt (both from 1)."""

    faults: tuple[Fault, ...] = ()

    def of(self, kind: str, series: int | None = None, tilt: int | None = None) -> Fault | None:
        """Return the fault of this kind for this series and tilt; None if there is none."""
        for fault in self.faults:
            if (fault.kind, fault.series, fault.tilt) == (kind, series, tilt):
                return fault
        return None

    def check(self, series: int, tilts: int) -> None:
        """Raise ValueError if a fault names a series or a tilt that the acquisition does not have."""
        for fault in self.faults:
            if fault.series is not None and not 1 <= fault.series <= series:
                raise ValueError(f"The fault {fault.kind} names series {fault.series}; there are {series}, from 1.")
            if fault.tilt is not None and not 1 <= fault.tilt <= tilts:
                raise ValueError(f"The fault {fault.kind} names tilt {fault.tilt}; there are {tilts} per series, from 1.")
