# SPDX-License-Identifier: GPL-3.0-or-later
"""The even and odd halves of a series: whether they add up to the whole, and the volume of one half from the other two.

A reconstruction is linear in the images but for hot pixels, which are replaced. So where the whole is the sum of its halves, to
the bit, and nothing has hot pixels, the volume of one half is that of the whole less that of the other, for a tenth of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tomostream.engine.output import Outputs, statistics
from tomostream.engine.recon.stack import TiltStack, sample_steps, spike_limit
from tomostream.engine.recon.volume import VolumeWriter
from tomostream.files.mrc import MAX_VALUE, open_mrc


@dataclass(frozen=True)
class Look:
    """What was seen of one section.

    Attributes
    ----------
    usable : tuple of bool
        Whether the whole and its halves can be used, in this order.
    adds_up : bool
        Whether the halves add up to the whole, and none has hot pixels.
    """

    usable: tuple[bool, ...]
    adds_up: bool


def look(whole: TiltStack, halves: Sequence[TiltStack], index: int) -> Look:
    """Return what is seen of a section of a series and of its halves, some rows at a time.

    Parameters
    ----------
    whole : TiltStack
    halves : sequence of TiltStack
        Two, of the same size.
    index : int
        Section, from 0.

    Returns
    -------
    Look
    """
    stacks, (down, over), first, adds_up = (whole, *halves), sample_steps(whole.shape), 0, True
    low, high = np.full(len(stacks), np.inf), np.full(len(stacks), -np.inf)
    samples: list[list[np.ndarray]] = [[] for _ in stacks]
    for pieces in zip(*(stack.pieces(index) for stack in stacks), strict=True):
        for number, piece in enumerate(pieces):
            low[number] = np.minimum(low[number], piece.min())       # NaN stays NaN
            high[number] = np.maximum(high[number], piece.max())
            samples[number].append(piece[-first % down :: down, ::over])
        adds_up = adds_up and np.array_equal(pieces[0], np.add(*pieces[1:], dtype=np.float32))
        first += len(pieces[0])
    usable = np.maximum(high, -low) < MAX_VALUE
    adds_up = adds_up and bool(usable.all())
    hot = adds_up and any(top > spike_limit(np.concatenate(sample)) for top, sample in zip(high, samples, strict=True))
    return Look(tuple(map(bool, usable)), adds_up and not hot)


def subtract(outputs: Outputs, whole: str, part: str, path: str, pixel_size_A: float, label: str) -> None:
    """Write the difference of two volumes of this run.

    Parameters
    ----------
    outputs : Outputs
        Has both under their temporary names.
    whole, part : str
        Final names of the volume and of what is taken from it.
    path : str
        Final name of the result.
    pixel_size_A, label
        For its header.
    """
    total, taken = (open_mrc(outputs.reserve(name)) for name in (whole, part))
    with VolumeWriter(outputs, path, total.shape, pixel_size_A, label, volume=True) as writer:
        for section in range(len(total)):
            rest = total.section(section) - taken.section(section)
            writer.write(rest[None], section)
            writer.add(statistics(rest), rest.size)
