# SPDX-License-Identifier: GPL-3.0-or-later
"""How many processors and how much memory this process may use: the machine's, or fewer where it is in a container.

A container, a SLURM job or a systemd service is bounded by control groups. The kernel shows them as files: in version 2
one tree (`cpu.max`, `memory.max`), in version 1 a tree for each kind. A bound anywhere above the process counts.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Iterator
from pathlib import Path

_MALLOPT = ((-1, (1 << 31) - 1), (-4, 0), (-8, 1))
"""M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX: nothing is given back, all threads take from one heap."""
_GROUPS = "/proc/self/cgroup"
_TREE = "/sys/fs/cgroup"


def cpus(groups: str = _GROUPS, tree: str = _TREE) -> int:
    """Return the processors that this process may use: its affinity and the quota of its group, rounded up, at least 1.

    Parameters
    ----------
    groups, tree : str
        Where the kernel lists the groups of this process, and the limits of all groups.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [float(allowed)]
    for folder in _folders("cpu", groups, tree):
        words = _words(folder / "cpu.max") or [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
        quota, period = [_number(word) for word in words] if len(words) == 2 else (math.inf, 1.0)
        if 0 < quota < math.inf and 0 < period < math.inf:  # -1 and "max" mean no bound
            quotas.append(quota / period)
    return max(1, math.ceil(min(quotas)))


def free_memory(groups: str = _GROUPS, tree: str = _TREE) -> float:
    """Return the bytes that this process can take without swapping or being ended for it; 4 GiB where the system does not say.

    Parameters
    ----------
    groups, tree : str
        As for `cpus`.
    """
    free = [_available()]
    for folder in _folders("memory", groups, tree):
        for bound, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            words = [*_words(folder / bound), *_words(folder / usage)]
            if len(words) == 2:
                room = _number(words[0]) - _number(words[1]) + _cached(folder)
                free.append(max(0.0, room))
    return min(free)


def blas_threads(count: int) -> None:
    """Let BLAS have some threads of its own; it reads this when it is loaded, with numpy.

    Parameters
    ----------
    count : int
        1 where the work is shared out to threads already.
    """
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(count)


def keep_freed_memory() -> None:
    """Let the C library use again what was freed, where it is glibc, instead of giving it back and taking it anew.

    Large arrays come and go, and the kernel clears each page that it gives: a sixth of the time of a series went into that.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for option, value in _MALLOPT:
            library.mallopt(option, value)


def _available() -> float:
    """Return what the whole machine has left, bytes."""
    for line in _lines(Path("/proc/meminfo")):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return _number(value.split()[0]) * 1024
    return 4.0 * 2**30


def _cached(folder: Path) -> float:
    """Return bytes of files in memory that count as used by a group but are given up when it needs them."""
    values = dict(line.split()[:2] for line in _lines(folder / "memory.stat") if len(line.split()) == 2)
    return _number(values.get("inactive_file", values.get("total_inactive_file", "0")))


def _folders(kind: str, groups: str, tree: str) -> Iterator[Path]:
    """Yield the folders of the groups of this process that bound `kind`, and of all above."""
    for line in _lines(Path(groups)):
        number, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if number == "0" and not kinds:
            root = Path(tree)
        elif kind in kinds.split(","):
            root = Path(tree, kinds) if Path(tree, kinds).is_dir() else Path(tree, kind)
        else:
            continue
        inner = Path(path.lstrip("/"))
        for part in (inner, *inner.parents):
            yield root / part


def _lines(path: Path) -> list[str]:
    """Return the lines of a file of the kernel; none where it is not there."""
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    """Return the words of the first line of a file of the kernel."""
    return [word for line in _lines(path)[:1] for word in line.split()]


def _number(word: str) -> float:
    """Return a number of the kernel's; infinite for "max" and whatever else is not a number."""
    try:
        return float(word)
    except ValueError:
        return math.inf
