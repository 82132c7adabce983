# SPDX-License-Identifier: GPL-3.0-or-later
"""The dates of mdoc files: three orders of day and year, English months, one format a file, local time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

_MONTHS = {name: number for number, name in enumerate(
    ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1)}
_DATE = re.compile(r"([0-9]{1,4})-([A-Za-z]{3})-([0-9]{1,4})\s+([0-9]{1,2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]+)?",
                   re.ASCII)

#: Seconds by which clocks go back at the end of summer time, and the hours (by the earlier clock) at which they do.
_PUT_BACK, NIGHT = 3600.0, (0, 1, 2, 3)
#: From one tilt to the next takes no longer than this many times the usual, or this many seconds.
_LONGER, _LONGEST_FIRST = 3.0, 600.0

DAY_FIRST, YEAR_FIRST = "dd-Mon-yy", "yy-Mon-dd"


def parse_date(text: str, order: str) -> datetime | None:
    """Read one `DateTime` in one order of day and year; None if it is not a date then.

    A four-digit year determines the order by itself. Two-digit years are in this century, as digital cameras are.
    """
    found = _DATE.fullmatch(text.strip())
    if found is None:
        return None
    first, month, last = found[1], _MONTHS.get(found[2].lower()), found[3]
    day, year = (first, last) if order == DAY_FIRST else (last, first)
    if len(first) == 4 or len(last) == 4:
        day, year = (last, first) if len(first) == 4 else (first, last)
    if month is None or len(year) not in (2, 4) or len(day) > 2:
        return None
    full_year = int(year) if len(year) == 4 else 2000 + int(year)
    try:
        return datetime(full_year, month, int(day), int(found[4]), int(found[5]), int(found[6]))
    except ValueError:
        return None


def is_date(text: str) -> bool:
    """Tell whether this is a complete date and time. Half of one never is: it ends with the two digits of the seconds."""
    return parse_date(text, DAY_FIRST) is not None or parse_date(text, YEAR_FIRST) is not None


def parse_dates(texts: Sequence[str | None], year_first: bool) -> tuple[datetime | None, ...]:
    """Read the dates of one file in the one order of day and year that fits them all.

    The order is the one in which more of them are dates, then the one in which they are closer together (a session that
    runs past midnight changes the day, not the year), then the dialect's: `year_first`.
    """
    preferred, other = (YEAR_FIRST, DAY_FIRST) if year_first else (DAY_FIRST, YEAR_FIRST)
    readings = [tuple(None if text is None else parse_date(text, order) for text in texts)
                for order in (preferred, other)]
    return min(readings, key=lambda dates: (sum(date is None for date in dates), _span(dates)))


def _span(dates: Sequence[datetime | None]) -> timedelta:
    known = [date for date in dates if date is not None]
    return max(known) - min(known) if known else timedelta(0)


def with_clock_put_back(times: Sequence[datetime | None]) -> tuple[datetime | None, ...]:
    """Return times of one series in the order of its file, with an hour added after the clock was put back to winter time.

    Local time goes back then, and tilts sorted by it would be in the wrong order, with wrong doses. This is assumed if
    the file goes back in time once, at night, and an added hour makes that step like those before it.
    """
    known = [time for time in times if time is not None]
    steps = [(later - earlier).total_seconds() for earlier, later in pairwise(known)]
    back = [index for index, step in enumerate(steps) if step < 0]
    if len(known) < len(times) or len(back) != 1 or known[back[0]].hour not in NIGHT:
        return tuple(times)
    before = steps[:back[0]]
    longest = max(_LONGER * median(before) if len(before) > 2 else 0.0, _LONGEST_FIRST)
    if not 0 < steps[back[0]] + _PUT_BACK <= longest:
        return tuple(times)
    return (*known[:back[0] + 1], *(time + timedelta(seconds=_PUT_BACK) for time in known[back[0] + 1:]))
