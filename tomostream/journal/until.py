# SPDX-License-Identifier: GPL-3.0-or-later
"""The wall-clock time at which an import ends, kept beside its ledger so that it can be changed while the import runs.

`extra/until.json` of the import holds `at` (seconds since the epoch, null for never) and `form`, the value of the form when that
was decided: if the form is changed later, it decides again. `form` is null for a time that was given before the import started,
which counts whatever the form says.
"""

from __future__ import annotations

import json
import os
import re
import time
from datetime import datetime, timedelta

from tomostream.files.writing import write_text

NAME = "until.json"
NEVER = "never"
_TIME_OF_DAY = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def parse(text: str, now: float) -> float | None:
    """Parse a time; return seconds since the epoch, None for "never" and for empty text.

    Parameters
    ----------
    text : time of day (08:00: the next time it is 08:00), or date and time (2026-11-30 08:00), in this machine's time zone.
    now : seconds since the epoch.

    Raises
    ------
    ValueError : it is neither, or has passed; says what to write.
    """
    word = text.strip()
    if word in ("", NEVER):
        return None
    day = _TIME_OF_DAY.fullmatch(word)
    if day is not None:
        return _next_time(int(day[1]), int(day[2]), now)
    try:
        if ":" not in word:
            raise ValueError
        then = datetime.fromisoformat(word).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"'{text}' is not a time; write 08:00, 2026-11-30 08:00, or {NEVER}") from None
    if then <= now:
        raise ValueError(f"{text} has passed; it is {words(now)} on this machine")
    return then


def _next_time(hour: int, minute: int, now: float) -> float:
    """Return when it is next so late. In the night in which clocks go back it is so late two times; in the one in which they go
    forward, it is an hour later where it never is."""
    today = datetime.fromtimestamp(now).replace(hour=hour, minute=minute, second=0, microsecond=0)
    times = []
    for day in (today, today + timedelta(days=1)):
        first, second = (day.replace(fold=fold).timestamp() for fold in (0, 1))
        times += [first, max(first, second)]
    return min(at for at in times if at > now)


def exact(at: float) -> str:
    """Return a time as `parse` gives it back: as `words` says it, and with seconds and the time zone where that is not enough."""
    text = words(at)
    if datetime.fromisoformat(text).timestamp() == at:
        return text
    return datetime.fromtimestamp(at).astimezone().isoformat(" ", "seconds")


def words(at: float) -> str:
    """Format a time in this machine's time zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def read(run: str) -> float | None:
    """Return when the import in a folder will end; None if no time is set."""
    return _read(run)[0]


def write(run: str, at: float | None, form: str | None = None) -> None:
    """Set when the import in a folder will end. `form`: the value of its form; None: as before, or not known yet.

    Raises
    ------
    OSError : it cannot be written.
    """
    path = os.path.join(run, "extra", NAME)
    if form is None and os.path.exists(path):
        form = _read(run)[1]
    write_text(path, json.dumps({"at": at, "form": form}) + "\n")


def begin(run: str, form: str, now: float | None = None) -> float | None:
    """Note that an import starts or continues; return when it will end. A time that has passed no longer counts: whoever
    continues the import wants more movies.

    Raises
    ------
    OSError : it cannot be written.
    ValueError : the value of the form is invalid.
    """
    now = time.time() if now is None else now
    at, before = _read(run)
    if before is None:      # the time was given while the import was starting
        write(run, at, form)
    elif form != before:
        at = parse(form, now)
        write(run, at, form)
    elif at is not None and at <= now:
        at = None
        write(run, at)
    return at


def _read(run: str) -> tuple[float | None, str | None]:
    """Return the time and the value of the form: None if the import has not written it yet, "" if nothing was decided."""
    try:
        with open(os.path.join(run, "extra", NAME), encoding="utf-8") as file:
            kept = json.load(file)
        return None if kept["at"] is None else float(kept["at"]), None if kept["form"] is None else str(kept["form"])
    except (OSError, ValueError, TypeError, KeyError):
        return None, ""


def seconds_left(run: str) -> float | None:
    """Return the seconds until the import in a folder ends, 0 or less if that time has come; None if no time is set."""
    at = read(run)
    return None if at is None else at - time.time()
