# SPDX-License-Identifier: GPL-3.0-or-later
"""The name of the instrument, as the title of an mdoc file gives it."""

from __future__ import annotations

import re

#: The titles come before the first section.
_HEAD_BYTES = 8192
_TITLE = re.compile(rb"^\[T\s*=\s*(?:SerialEM|Tomography)\s*:\s*([^\]\r\n]*)", re.MULTILINE)
#: "Digitized on EMBL Krios    28-Apr-18  11:36:19": what SerialEM puts around the name.
_AROUND = re.compile(r"^(?:Digitized|Acquired)\s+(?:on|by)\s+", re.IGNORECASE)
_DATE = re.compile(r"\s+[0-9]{1,4}-[A-Za-z]{3}-[0-9]{1,4}(?:\s+[0-9:]*)?\s*$")


def instrument_name(path: str) -> str:
    """Return the name of the instrument in the title of an mdoc file; "" if it gives none or cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return ""
    found = _TITLE.search(head)
    if found is None:
        return ""
    name = _DATE.sub("", " " + found.group(1).decode("utf-8", errors="replace")).strip()
    return " ".join(_AROUND.sub("", name).split())
