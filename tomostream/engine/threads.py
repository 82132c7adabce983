# SPDX-License-Identifier: GPL-3.0-or-later
"""Work shared out to threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def parallel(work: Callable[[A], B], items: Sequence[A], threads: int) -> list[B]:
    """Return `work` of every item, in the order of the items.

    Parameters
    ----------
    work : callable
        Of one item; it should release the interpreter lock, or threads gain nothing.
    items : sequence
    threads : int
        At most this many at a time; with 1 no thread is made.
    """
    if threads <= 1 or len(items) <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(max_workers=threads) as pool:
        return list(pool.map(work, items))
