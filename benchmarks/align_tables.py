# SPDX-License-Identifier: GPL-3.0-or-later
"""The records of `engine_align.py` as tables: one with everything for the screen, two in reStructuredText for the README."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from simulated_series import CASES

from tomostream.programs.quality import Trust

#: Set -> its name for a reader, in the order of the README's tables.
WHOLE = {
    "base": "base", "thin": "thin (900 Å)", "400 A thin": "very thin (400 Å)", "4000 A thick": "very thick (4000 Å)",
    "hard": "hard (2200 Å, 2 e/Å²)", "pre-tilt 9": "pre-tilt 9 deg", "pre-tilt 4": "pre-tilt 4 deg",
    "lamella 17": "lamella of 17 deg", "lamella -20": "lamella of -20 deg",
    "lamella -15, -60 to 60": "lamella of -15 deg, -60 to 60", "-6, one side": "-6 deg, 0 to 60",
    "wedge": "model mismatch (a wedge)", "thicker to one side": "thicker to one side",
    "wide, axis -4": "384 x 544, axis -4", "wide, axis 88": "384 x 544, axis 88",
    "tall, axis 40": "544 x 384, axis 40", "unknown axis": "axis not known", "-40 to 64": "-40 to 64 deg, 53 tilts",
    "21 tilts": "21 tilts", "121 tilts": "121 tilts of 1 e/Å²", "small 256": "256 x 256, 17 tilts",
    "large 1024": "1024 x 1024",
}
SPOILED = {
    "bar sweeps in": "a bar sweeps in", "half blocked": "half of the field blocked", "ice": "ice falls on both faces",
    "ice, jumping": "ice, jumping", "slipped": "slipped", "out of the field": "out of the field",
    "mixed": "blank, dark, copy, noise at 0, bar", "axis 40 deg off": "start axis 40 deg off",
}
Record = dict[str, object]
ASTRAY_PX = 2.0
OFF_PX = 1.5  # from here on a tilt that is neither named nor left out is worse than it may be


def trusted(record: Record) -> bool:
    """Tell whether the engine trusts a series."""
    return record["trust"] == Trust.TRUSTED.value


@dataclass(frozen=True)
class Column:
    """The records of one set."""

    records: Sequence[Record]

    def values(self, name: str) -> np.ndarray:
        """Sizes of one quantity where it was measured, shape (n,)."""
        return np.abs([float(r[name]) for r in self.records if r.get(name) is not None])

    def pair(self, name: str, digits: int) -> str:
        """Median (worst)."""
        values = self.values(name)
        return f"{np.median(values):.{digits}f} ({values.max():.{digits}f})" if len(values) else "\\-"

    def median(self, name: str, digits: int) -> str:
        values = self.values(name)
        return f"{np.median(values):.{digits}f}" if len(values) else "\\-"

    def worst(self, name: str) -> str:
        values = self.values(name)
        return f"{values.max():.2f}" if len(values) else "-"

    def offset_z(self) -> str:
        """RMS of the error of the tilt offset over its standard deviation."""
        ratios = [float(r["offset_error_deg"]) / float(r["offset_sigma_deg"]) for r in self.records if r.get("offset_sigma_deg")]
        return f"{np.sqrt(np.mean(np.square(ratios))):.1f}" if ratios else "-"

    @property
    def trusted(self) -> Column:
        """Those of which the engine does not say that they are not to be trusted."""
        return Column([record for record in self.records if trusted(record)])

    def distrusted(self) -> str:
        """How many of the series are not to be trusted, as the engine says."""
        return f"{len(self.records) - len(self.trusted.records)} of {len(self.records)}"

    def count(self, name: str) -> int:
        """How many tilts a list names, over all series."""
        return sum(len(record[name]) for record in self.records)

    def tilts(self, name: str) -> str:
        """How many tilts a list names, of all tilts of all series."""
        return f"{self.count(name)} of {sum(int(record['tilts']) for record in self.records):,}"


def columns(records: Sequence[Record], names: Sequence[str]) -> Iterator[tuple[str, Column]]:
    """The sets of which there are records."""
    for name in names:
        mine = [record for record in records if record["set"] == name]
        if mine:
            yield name, Column(mine)


def screen(records: Sequence[Record]) -> Iterator[str]:
    """A line a set: medians, worst in brackets."""
    yield (
        f"{'set':16s} seeds  rms px (worst)  error/sigma  axis err deg    offset err deg  offset z  not named  cpu s  MiB  "
        "missed lost  "
        "distrusted  matching  tiltxcorr"
    )
    for name, mine in columns(records, [case.name for case in CASES]):
        ratio = np.median(mine.values("rms_px") / mine.values("sigma_px"))
        memory = f"{mine.values('extra_MiB').max():.0f}" if len(mine.values("extra_MiB")) else "-"
        yield (
            f"{name:16s} {len(mine.records):5d}  {mine.pair('rms_px', 2):14s}  {ratio:11.1f}  "
            f"{mine.pair('axis_error_deg', 2):14s}  {mine.pair('offset_error_deg', 1):14s}  "
            f"{mine.offset_z():>8s}  {mine.trusted.worst('worst_not_named_px'):>9s}  "
            f"{mine.median('cpu_seconds', 0):>5s}  {memory:>4s}  "
            f"{mine.count('bad_not_found'):6d} {mine.count('good_left_out'):4d}  "
            f"{sum(not trusted(r) for r in mine.records):10d}  {mine.pair('matching_px', 2):12s}  "
            f"{mine.pair('tiltxcorr_px', 1)}"
        )


def honesty(records: Sequence[Record]) -> Iterator[str]:
    """What is trusted, and how far it is off: a table by set, and each tilt that is off and that nothing warns of."""
    rows = []
    for name in dict.fromkeys(str(record["set"]) for record in records):
        mine = Column([record for record in records if record["set"] == name])
        good = mine.trusted
        named = f"{sum(int(r['named']) for r in good.records)} of {sum(int(r['tilts']) for r in good.records):,}"
        rows.append((name, str(len(mine.records)), str(len(good.records)), good.pair("rms_px", 2),
                     good.worst("worst_not_named_px"), named))
    yield from rst(("set", "series", "trusted", "RMS px", "worst tilt", "named"), rows)
    good = Column(records).trusted
    off = [record for record in good.records if float(record["worst_not_named_px"]) > OFF_PX]
    yield ""
    yield (f"{len(records)} series, {len(good.records)} trusted: RMS {good.pair('rms_px', 2)} px, median (worst); "
           f"{len(off)} with a tilt more than {OFF_PX:g} px off that is not named")
    for record in off:
        yield f"  {record['set']}, seed {record['seed']}: {float(record['worst_not_named_px']):.2f} px; {record['note']}"


def readme(records: Sequence[Record]) -> Iterator[str]:
    """The two tables of the README; errors of the series that are to be trusted."""
    counts = sorted({len(mine.records) for _, mine in columns(records, [*WHOLE, *SPOILED])})
    yield f"seeds a set: {' to '.join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))}; median (worst)"
    yield ""
    yield from rst(
        ("set", "RMS px", "sigma", "matching", "tiltxcorr", "axis error, deg", "left out"),
        [(WHOLE[name], mine.trusted.pair("rms_px", 2), mine.trusted.median("sigma_px", 2), mine.pair("matching_px", 2),
          mine.median("tiltxcorr_px", 1), mine.trusted.pair("axis_error_deg", 2), mine.tilts("good_left_out"))
         for name, mine in columns(records, list(WHOLE))])
    yield ""
    yield from rst(
        ("series", "RMS px", "matching", "tiltxcorr", "bad not found", "good left out", "not trusted"),
        [(SPOILED[name], mine.trusted.pair("rms_px", 2), mine.median("matching_px", 1), mine.median("tiltxcorr_px", 1),
          str(mine.count("bad_not_found")), mine.tilts("good_left_out"), mine.distrusted())
         for name, mine in columns(records, list(SPOILED))])
    yield ""
    for record in records:
        if record not in Column(records).trusted.records and float(record["rms_px"]) > ASTRAY_PX:
            yield (f"astray and said not to be trusted: {record['set']}, seed {record['seed']}: {record['rms_px']:.1f} px, axis "
                   f"{record['axis_error_deg']:+.1f} deg")


def rst(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A simple table of reStructuredText."""
    widths = [max(len(row[i]) for row in (titles, *rows)) for i in range(len(titles))]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (titles, *rows)]
    yield from (rule, lines[0], rule, *lines[1:], rule)
