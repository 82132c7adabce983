# SPDX-License-Identifier: GPL-3.0-or-later
"""The command-line syntax of MotionCor3 and AreTomo2, read as they read it and checked where they do not.

The syntax
----------
A tag is ``-`` and a letter (``-InMrc``), in upper or lower case; its values run to the next tag, so that ``-5`` and
``-.5`` are values. If a tag is given twice, the first counts. Our own options start with two hyphens (``--threads 4``).
The originals ignore what they do not know or cannot read; here

* a tag that nobody knows is an error, with the nearest known one in the message;
* a known tag that the program does not act on is accepted, with a warning if that can change the result (`Use.WARNED`,
  unless the values are the defaults) and silently if it cannot (`Use.SILENT`: which GPU to use);
* a value that is not a number where one is needed, too few values, or one out of range is an error;
* more numbers than a tag takes are ignored with a warning, as the originals do; more than one file name is an error,
  since it is nearly always a path with spaces that lost its quotes.

Use
---
>>> KNOWN = flags(
...     Flag("-InMrc", str, help="input stack"),
...     Flag("-FtBin", float, default=(1.0,), low=0.1, help="binning in Fourier space"),
...     Flag("-Patch", int, count=(2, 3), default=(0, 0, 0), use=Use.WARNED, help="number of patches in x and y"),
...     Flag("-Gpu", int, count=(0, 99), use=Use.SILENT, help="not used: this program runs on the CPU"),
... )
>>> arguments = parse(["-inmrc", "a.mrc", "-FtBin", "2"], KNOWN)
>>> arguments.text("-InMrc"), arguments.number("-FtBin"), arguments.given("-Patch"), arguments.integers("-Patch")
('a.mrc', 2.0, False, (0, 0, 0))

This module imports nothing heavy: ``--help`` and errors come at once.
"""

from __future__ import annotations

import enum
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tomostream.engine import limits
from tomostream.files.errors import EngineError

Value = str | int | float


class Use(enum.Enum):
    """What the program does with a tag that it knows."""

    ACTED = "acted on"
    WARNED = "accepted with a warning"
    SILENT = "accepted silently"


@dataclass(frozen=True)
class Flag:
    """One tag: how many values of which type it takes, and what it means.

    Parameters
    ----------
    tag : str
        As the original spells it, with its hyphen(s).
    kind : type
        `str` (taken as it is), `int` (``3`` or ``3.0``) or `float` (finite).
    count : (int, int)
        Fewest and most values. ``(0, 0)`` is a switch.
    default : tuple
        The values when the tag is absent; where fewer values are given than here, the rest come from here, as in the
        originals. Empty: there is no default and `Arguments.text` gives "".
    low, high : float, optional
        Bounds of every value, both allowed.
    help, unit, group : str
        For ``--help``: a sentence, the unit of the values ("A", "e/A2", "degrees", "px"), and the heading.
    use : Use
        What the program does with it.
    note : str
        For `Use.WARNED`: the reason, which ends the warning ("... is ignored: <note>").
    """

    tag: str
    kind: type = str
    count: tuple[int, int] = (1, 1)
    default: tuple[Value, ...] = ()
    low: float | None = None
    high: float | None = None
    help: str = ""
    unit: str = ""
    group: str = "Options"
    use: Use = Use.ACTED
    note: str = "this program does not do that"


COMMON = (
    Flag("--threads", int, default=(0,), low=0, high=1024, group="Running",
         help="threads; 0: the CPUs that this process may use"),
    Flag("--help", str, (0, 0), help="show this text and exit", group="Running"),
    Flag("--version", str, (0, 0), help="show the version and exit", group="Running"),
)


def flags(*known: Flag) -> dict[str, Flag]:
    """Return flags by their tag in lower case, with those that every program of the engine has (`COMMON`).

    Parameters
    ----------
    *known : Flag
        Of the program, each tag once.
    """
    table = {flag.tag.lower(): flag for flag in (*known, *COMMON)}
    if len(table) != len(known) + len(COMMON):
        raise ValueError("a tag is defined twice")
    return table


@dataclass(frozen=True)
class Arguments:
    """The values of a command line, by tag (any case), with the defaults of `known` for what is absent.

    `warnings` are sentences for the user, in the order of the command line. Asking for a tag that is not in `known`
    raises `KeyError`: it is a mistake in the program.
    """

    known: Mapping[str, Flag]
    values: Mapping[str, tuple[Value, ...]]
    warnings: tuple[str, ...] = field(default=())

    def given(self, tag: str) -> bool:
        """Tell whether a `tag` is on the command line: a switch, or one with values."""
        return self.known[tag.lower()].tag.lower() in self.values

    def all(self, tag: str) -> tuple[Value, ...]:
        """Return the values of a `tag`: those given, completed by the default's."""
        given = self.values.get(tag.lower(), ())
        return given + self.known[tag.lower()].default[len(given):]

    def text(self, tag: str) -> str:
        """Return the first value of a `tag` as text; "" if it is absent and has no default."""
        values = self.all(tag)
        return str(values[0]) if values else ""

    def numbers(self, tag: str) -> tuple[float, ...]:
        """Return all values of a `tag` as floats."""
        return tuple(float(value) for value in self.all(tag))

    def integers(self, tag: str) -> tuple[int, ...]:
        """Return all values of a `tag` as integers."""
        return tuple(int(value) for value in self.all(tag))

    def number(self, tag: str) -> float:
        """Return the first value of a `tag` as a float."""
        return self.numbers(tag)[0]

    def integer(self, tag: str) -> int:
        """Return the first value of a `tag` as an integer."""
        return self.integers(tag)[0]


def parse(argv: Sequence[str], known: Mapping[str, Flag]) -> Arguments:
    """Read a command line.

    Parameters
    ----------
    argv : sequence of str
        Without the program's name (``sys.argv[1:]``).
    known : mapping
        From `flags`.

    Returns
    -------
    Arguments

    Raises
    ------
    EngineError
        For a tag nobody knows, a value without a tag, a missing, unreadable or out-of-range value. Not raised for
        anything when ``--help`` or ``--version`` is there: they are always answered.
    """
    argv = _as_callers_write(argv, known)
    words = [word.lower() for word in argv]
    for tag in ("--help", "--version"):
        if tag in words or (tag == "--help" and "-h" in words):
            return Arguments(known, {tag: ()})
    values: dict[str, tuple[Value, ...]] = {}
    warnings: list[str] = []
    for tag, given in _groups(argv):
        flag = known.get(tag.lower())
        if flag is None:
            raise EngineError(_unknown(tag, known))
        if tag.lower() in values:
            warnings.append(f"{flag.tag} is given twice; the first one counts, as in the original program")
        elif flag.use is Use.SILENT:
            continue
        elif flag.use is Use.WARNED:
            values[tag.lower()] = ()
            if not _is_default(flag, given):
                warnings.append(f"{' '.join([flag.tag, *given])} is ignored: {flag.note}")
        else:
            values[tag.lower()] = _converted(flag, given, warnings)
    return Arguments(known, values, tuple(warnings))


def _as_callers_write(argv: Sequence[str], known: Mapping[str, Flag]) -> list[str]:
    """Return the words, with ``-v`` as ``--version`` and numbers split at commas, as other programs send them."""
    out: list[str] = []
    flag: Flag | None = None
    for word in argv:
        if is_tag(word):
            flag = known.get(word.lower())
            out.append("--version" if word.lower() == "-v" and flag is None else word)
        elif flag is not None and flag.kind is not str:
            out.extend(part for part in word.split(",") if part)
        else:
            out.append(word)
    return out


def is_tag(word: str) -> bool:
    """Tell whether a word of the command line starts a new option: ``-letter`` or ``--letter``, not ``-5`` nor ``-``.

    Examples
    --------
    >>> [is_tag(word) for word in ("-InMrc", "--threads", "-5", "-.5", "-", "a.mrc")]
    [True, True, False, False, False, False]
    """
    name = word[2:] if word.startswith("--") else word[1:]
    return word.startswith("-") and name[:1].isalpha()


def _groups(argv: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Split a command line into tags with their values; ``--threads=4`` is the same as ``--threads 4``."""
    groups: list[tuple[str, list[str]]] = []
    for word in argv:
        if is_tag(word):
            name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
            groups.append((name, [value] if equals else []))
        elif groups:
            groups[-1][1].append(word)
        else:
            raise EngineError(f"{word!r} does not follow an option; an input is given as -InMrc {word} or the like")
    return groups


def _unknown(tag: str, known: Mapping[str, Flag]) -> str:
    """Return the message for a tag that is not known, with the nearest one that is."""
    import difflib  # costs 5 ms and is needed only here

    near = difflib.get_close_matches(tag.lower(), list(known), n=1)
    hint = f"did you mean {known[near[0]].tag}?" if near else "see --help"
    return f"unknown option {tag}; {hint}"


def _converted(flag: Flag, given: Sequence[str], warnings: list[str]) -> tuple[Value, ...]:
    """Check and convert the values of one flag; what is ignored is added to `warnings`."""
    fewest, most = flag.count
    if len(given) < fewest:
        hint = "; a file whose name starts with - is given as ./-name" if flag.kind is str else ""
        raise EngineError(f"{flag.tag} needs {_how_many(fewest)}, got {len(given)}{hint}")
    if len(given) > most:
        extra = " ".join(given[most:])
        if flag.kind is str:
            raise EngineError(f"{flag.tag} takes {_how_many(most)}, but {extra!r} follows; quote a path with spaces")
        warnings.append(f"{flag.tag} takes {_how_many(most)}; {extra} is ignored")
    return tuple(_value(flag, text) for text in given[:most])


def _is_default(flag: Flag, given: Sequence[str]) -> bool:
    """Tell whether the values of a flag ask for what happens anyway."""
    try:
        values = tuple(_value(flag, text) for text in given)
    except EngineError:
        return False  # not readable, so not the default; it is ignored with a warning, as the original ignores it
    return bool(values) and values == flag.default[: len(values)]


def _how_many(count: int) -> str:
    """Return a number of values in words."""
    return "no value" if count == 0 else "1 value" if count == 1 else f"{count} values"


def _value(flag: Flag, text: str) -> Value:
    """Convert one value. Raises `EngineError` if it is not of the flag's kind or out of its bounds."""
    if flag.kind is str:
        return text
    try:
        number = float(text)
    except ValueError:
        raise EngineError(f"{flag.tag} needs a number, got {text!r}") from None
    if not math.isfinite(number):
        raise EngineError(f"{flag.tag} needs a finite number, got {text!r}")
    if flag.kind is int and number != int(number):
        raise EngineError(f"{flag.tag} needs a whole number, got {text!r}")
    if (flag.low is not None and number < flag.low) or (flag.high is not None and number > flag.high):
        raise EngineError(f"{flag.tag} must be {_bounds(flag)}, got {text}")
    return int(number) if flag.kind is int else number


def _bounds(flag: Flag) -> str:
    """Return the bounds of a flag in words."""
    if flag.low is None:
        return f"at most {flag.high:g}"
    return f"at least {flag.low:g}" if flag.high is None else f"from {flag.low:g} to {flag.high:g}"


def help_text(intro: str, known: Mapping[str, Flag], width: int = 100) -> str:
    """Return the text of ``--help``: the introduction, then the flags under their headings, with units and defaults.

    Tags that are accepted without effect come last, on one list.

    Parameters
    ----------
    intro : str
        What the program does.
    known : mapping
        From `flags`.
    width : int
        Of a line, characters.
    """
    lines = [intro.rstrip(), ""]
    acted = [flag for flag in known.values() if flag.use is Use.ACTED]
    for group in dict.fromkeys(flag.group for flag in acted):
        lines.append(f"{group}:")
        lines.extend(line for flag in acted if flag.group == group for line in _entry(flag, width))
        lines.append("")
    idle = " ".join(flag.tag for flag in known.values() if flag.use is not Use.ACTED)
    if idle:
        lines.append("Accepted, without effect here:")
        lines.extend(textwrap.wrap(idle, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join(lines).rstrip() + "\n"


def _entry(flag: Flag, width: int) -> list[str]:
    """Return the lines of one flag in the help."""
    unit = f" [{flag.unit}]" if flag.unit else ""
    default = f" (default {' '.join(f'{value}' for value in flag.default)})" if flag.default else ""
    body = textwrap.wrap(f"{flag.help}{unit}{default}", width - 20) or [""]
    return [f"  {flag.tag:<16}  {body[0]}", *(f"{'':20}{line}" for line in body[1:])]


def thread_count(arguments: Arguments) -> int:
    """Return the number of threads that `arguments` ask for: --threads, else the CPUs that this process may use."""
    return arguments.integer("--threads") or limits.cpus()
