# SPDX-License-Identifier: GPL-3.0-or-later
"""Which defocus values of a session are believed, series by series; the others are disabled in the output, and reported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tomostream.journal import entries
from tomostream.journal.composed import target_defocus
from tomostream.programs.defocus import Belief, Doubt, Evidence, judge
from tomostream.protocols.aretomo_series import Result, Source
from tomostream.protocols.objects import Verdict


class Defoci:
    """The believed defocus of each series of a run.

    Parameters
    ----------
    ledger : the entries of the run so far.
    """

    def __init__(self, ledger: Iterable[entries.AnyEntry]) -> None:
        self._values = {entry.item: entry.defocus_um for entry in ledger
                        if isinstance(entry, entries.Reconstructed) and entry.defocus_um is not None}
        self._beliefs: dict[str, Belief | None] = {}

    def judge(self, source: Source, result: Result, voltage: float | None) -> None:
        """Judge the CTF of a series by its Thon rings, the target defocus in the mdoc and the other series."""
        name = source.series_id
        others = tuple(value for other, value in self._values.items() if other != name)
        belief = judge(result.ctf, Evidence(target_defocus(source.stack), others), source.pixel_size, voltage or 300.0)
        self._values.pop(name, None)
        if belief is not None and belief.doubt is Doubt.NONE:
            self._values[name] = belief.defocus_um
        self._beliefs[name] = belief

    def doubted(self, name: str) -> frozenset[int]:
        """Return the indices of the CTF rows of a series that are not believed."""
        belief = self._beliefs[name]
        return belief.tilts if belief is not None else frozenset()

    def verdict(self, source: Source, result: Result) -> Verdict:
        """Return the verdict on the alignment, without the hand where the defocus is not believed."""
        verdict, belief = Verdict.of(result.quality, source.pixel_size), self._beliefs[source.series_id]
        return verdict if belief is None or belief.doubt is Doubt.NONE else replace(verdict, hand=None)

    def words(self, name: str) -> str:
        """Return the remark on the defocus of a series, or ""."""
        belief = self._beliefs[name]
        return belief.words if belief is not None else ""

    def value(self, name: str) -> float | None:
        """Return the believed defocus in um, or None."""
        belief = self._beliefs[name]
        return round(belief.defocus_um, 3) if belief is not None and belief.doubt is Doubt.NONE else None
