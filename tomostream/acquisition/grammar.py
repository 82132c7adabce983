# SPDX-License-Identifier: GPL-3.0-or-later
"""The grammar of mdoc files: sections of `key = value` lines, and which of them are finished.

Why not mdocfile: it takes half a value for a value, FrameSet and MontSection for images, and raises on any line it does
not know; here a file may be caught at any byte while it is being written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tomostream.acquisition.times import is_date

_WORD = re.compile(r"\[\s*(\w*)", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)

#: A wrapped title closes its bracket within this many lines, or it is not a wrapped title.
_MAX_TITLE_LINES = 4

GLOBAL = "global"


@dataclass(frozen=True)
class Section:
    """One `[kind = name]` and its pairs. `finished`: everything the instrument meant to write is there."""

    kind: str
    name: str
    values: dict[str, tuple[str, ...]]
    finished: bool = True

    def text(self, key: str) -> str | None:
        """Return the value of `key`; None if it is absent, or given more than once with different values."""
        given = self.values.get(key, ())
        return given[0] if given and len(set(given)) == 1 else None

    def number(self, key: str, largest: float = math.inf) -> float | None:
        """Return the value of `key` as a finite number of magnitude at most `largest`; None if it is not one."""
        text = self.text(key)
        value = None if text is None else number(text)
        return value if value is not None and abs(value) <= largest else None

    def contradicts_itself(self, keys: Iterable[str]) -> str | None:
        """Return the first of `keys` that is given more than once with different values; None if there is none."""
        return next((key for key in keys if len(set(self.values.get(key, ()))) > 1), None)


@dataclass(frozen=True)
class Grammar:
    """An mdoc file as sections. `sections` hold neither titles nor globals; the last may be unfinished.

    `rest` is a last line without a line end; it is in no section.
    """

    header: Section
    titles: tuple[str, ...]
    sections: tuple[Section, ...]
    warnings: tuple[str, ...] = ()
    rest: str = ""

    def of_kind(self, kind: str) -> tuple[Section, ...]:
        """Return the sections of one kind, in file order, finished or not."""
        return tuple(section for section in self.sections if section.kind == kind)


def number(text: str) -> float | None:
    """Read one finite decimal number; None if `text` is anything else (`NaN`, `-11,03`, two numbers)."""
    stripped = text.strip()
    if len(stripped) > 64 or _NUMBER.fullmatch(stripped) is None:
        return None
    value = float(stripped)
    return value if math.isfinite(value) else None


def numbers(text: str) -> list[float | None]:
    """Read numbers separated by blanks, None for each word that is not one."""
    return [number(word) for word in text.split()]


def _decode(line: bytes) -> str:
    """Decode one line on its own, so that a stray byte affects only that line."""
    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError:
        return line.decode("latin-1").strip()


def ended_lines(data: bytes) -> tuple[list[str], str, bool]:
    """Return the lines whose end has been written, the rest, and whether zero bytes follow.

    Zero bytes are what a file server shows of data that it has not received yet: nothing from there on is read.
    """
    body, zero, _ = data.removeprefix(b"\xef\xbb\xbf").partition(b"\0")
    *ended, rest = body.split(b"\n")
    return [_decode(line) for line in ended], _decode(rest), bool(zero)


class _Builder:
    """Collects lines into sections, in one pass."""

    def __init__(self) -> None:
        self.kind, self.name = GLOBAL, ""
        self.values: dict[str, list[str]] = {}
        self.sections: list[Section] = []
        self.header: dict[str, list[str]] = {}
        self.titles: list[str] = []
        self.warnings: list[str] = []
        self.blank_after_keys = False
        self.blank_inside = False
        self.junk = 0

    def begin(self, kind: str, name: str) -> None:
        self.close(finished=True)
        self.kind, self.name, self.values, self.blank_after_keys = kind, name, {}, False

    def close(self, finished: bool) -> None:
        if self.kind in (GLOBAL, "T"):
            for key, values in self.values.items():
                self.header.setdefault(key, []).extend(values)
        else:
            self.sections.append(Section(self.kind, self.name, _frozen(self.values), finished))

    def line(self, line: str) -> None:
        if not line:
            self.blank_after_keys = bool(self.values)
            return
        key, equals, value = line.partition("=")
        key = key.strip()
        if not equals or not key:
            self.junk += 1
            return
        self.blank_inside = self.blank_inside or (self.blank_after_keys and self.kind not in (GLOBAL, "T"))
        self.blank_after_keys = False
        if key == "T" and self.kind == GLOBAL:
            self.titles.append(value.strip().removesuffix("]").strip())
        else:
            self.values.setdefault(key, []).append(value.strip())

    def last_is_finished(self) -> bool:
        """Tell whether the section at the end of the file is finished, by the rules of design/mdoc.md."""
        if not self.values:
            return False
        if self.blank_after_keys and not self.blank_inside:
            return True
        before = next((section for section in reversed(self.sections) if section.kind == self.kind), None)
        return before is not None and bool(before.values) and before.values.keys() <= self.values.keys()


def _frozen(values: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {key: tuple(given) for key, given in values.items()}


def _whole_header(lines: list[str], index: int) -> tuple[str, int]:
    """Join a title that was wrapped over several lines; return it and the number of lines."""
    first = lines[index]
    if first.endswith("]") or _WORD.match(first) is None or not first[1:].lstrip().startswith("T"):
        return first, 1
    for count in range(1, _MAX_TITLE_LINES):
        if index + count >= len(lines) or lines[index + count].startswith("["):
            break
        if lines[index + count].endswith("]"):
            return " ".join(lines[index:index + count + 1]), count + 1
    return first, 1


def parse(data: bytes) -> Grammar:
    """Read the bytes of an mdoc file, whatever they are, into sections. Never raises."""
    lines, rest, zeros = ended_lines(data)
    builder = _Builder()
    index = 0
    while index < len(lines):
        taken = 1
        if lines[index].startswith("["):
            text, taken = _whole_header(lines, index)
            _begin(builder, text)
        else:
            builder.line(lines[index])
        index += taken
    builder.close(rest.startswith("[") or builder.last_is_finished())
    warnings = builder.warnings
    if zeros:
        warnings.append("The file contains zero bytes; it was read up to the first.")
    if builder.junk > 0:
        warnings.append(f"{builder.junk} line(s) are neither 'key = value' nor '[section]' and were not read.")
    header = Section(GLOBAL, "", _frozen(builder.header))
    return _with_points(Grammar(header, tuple(builder.titles), tuple(builder.sections), tuple(warnings), "" if zeros else rest))


def parse_at_rest(data: bytes, grammar: Grammar) -> Grammar:
    """Read a file that is no longer being written: its last line counts even without a line end, if it can be whole.

    Either a tool that rewrote the file left the line end out, or the file was cut there. A truncated value looks unlike those of
    the sections before, unless nothing depends on it. `grammar` is what `parse` read.
    """
    return parse(data + b"\n") if grammar.rest and _can_be_whole(grammar) else grammar


#: Keys whose values are used, so that half a value would be a wrong one.
_USED = frozenset(("TiltAngle", "SubFramePath", "DateTime", "TimeStamp", "ExposureDose", "PriorRecordDose", "FrameDosesAndNumber",
                   "PixelSpacing", "Voltage", "Magnification", "Binning", "RotationAngle", "TargetDefocus"))


def _can_be_whole(grammar: Grammar) -> bool:
    key, equals, value = (part.strip() for part in grammar.rest.partition("="))
    if not equals or not grammar.sections:
        return False
    if key not in _USED or (key == "DateTime" and is_date(value)):
        return True
    last = grammar.sections[-1]
    sisters = {text for section in grammar.of_kind(last.kind)[:-1] for text in section.values.get(key, ())}
    return _shape(value) in {_shape(text) for text in sisters} or (key == "SubFramePath" and any(
        value[-4:] == text[-4:] for text in sisters))


def _shape(text: str) -> str:
    """Return the shape of a value: every digit alike, and every letter alike."""
    return re.sub(r"[A-Za-z]", "a", re.sub(r"[0-9]", "9", text))


_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+(?:[eE][+-]?[0-9]+)?", re.ASCII)
#: Values that are text, or in which a comma is one.
_NO_NUMBERS = ("SubFramePath", "DateTime", "NavigatorLabel", "ImageFile")


def _with_points(grammar: Grammar) -> Grammar:
    """Read decimal commas as points if the whole file has them: computers in some countries write numbers like that."""
    angles = [text for section in grammar.sections for text in section.values.get("TiltAngle", ())]
    commas = [text for text in angles if _COMMA.fullmatch(text)]
    if not commas or any("." in text for text in angles):
        return grammar
    warning = f"Its numbers have decimal commas: TiltAngle = {commas[0]} is read as {commas[0].replace(',', '.')}, and so on."
    titles = tuple(re.sub(r"(?<=[0-9]),(?=[0-9])", ".", title) for title in grammar.titles)
    return replace(grammar, header=_section_with_points(grammar.header), titles=titles, warnings=(*grammar.warnings, warning),
                   sections=tuple(map(_section_with_points, grammar.sections)))


def _section_with_points(section: Section) -> Section:
    return replace(section, values={
        key: given if key in _NO_NUMBERS else tuple(
            " ".join(word.replace(",", ".") if _COMMA.fullmatch(word) else word for word in text.split()) for text in given)
        for key, given in section.values.items()})


def _begin(builder: _Builder, text: str) -> None:
    kind, equals, name = text.removeprefix("[").removesuffix("]").partition("=")
    kind = kind.strip()
    title = kind == "T" and bool(equals)
    if not title and (not equals or not text.endswith("]") or not kind):
        word = _WORD.match(text)
        builder.begin(f"malformed {word[1] if word else ''}".strip(), "")
        builder.warnings.append(f"'{text[:60]}' is not a section; its values were not read.")
        return
    builder.begin(kind, name.strip())
    if title:
        builder.titles.append(name.strip())
