# SPDX-License-Identifier: GPL-3.0-or-later
"""pytest alone: what Scipion needs before it can be imported, in a folder that goes away (`scipion test` sets its own)."""

from __future__ import annotations

import atexit
import functools
import inspect
import os
import pathlib
import re
import shutil
import signal
import tempfile

import pytest
from hypothesis import is_hypothesis_test, settings

from tomostream.cli.home import scipion_environment

# The same examples at every run: a change is judged by itself. `TOMOSTREAM_EXAMPLES=new` looks for others.
settings.register_profile("same", derandomize=True)
settings.register_profile("new", print_blob=True)
settings.load_profile(os.environ.get("TOMOSTREAM_EXAMPLES", "same"))

# CI and `nohup` start us with SIGINT ignored, and so would be every program that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

if "SCIPION_HOME" not in os.environ or "PYTEST_XDIST_WORKER" in os.environ:     # a home for each worker of `make quick`
    HOME = tempfile.mkdtemp(prefix="tomostream-tests-")
    atexit.register(shutil.rmtree, HOME, ignore_errors=True)
    scipion_environment(HOME)
    os.environ["XDG_DATA_HOME"] = os.path.join(HOME, "data")        # where sessions are noted
    os.environ["TOMOSTREAM_INSTRUMENTS"] = os.path.join(HOME, "instruments.json")      # not the user's own

#: In the source of a class whose tests start processes of ours and wait for them: in a terminal, or the page's own. (A session of
#: Scipion processes is marked `chain` where it is started.)
PROCESSES = re.compile(r"\bpty\.|\bbackground\.start\(|\bLAUNCH\b")
#: A property test that tries so many examples, or more, takes its time.
MANY_EXAMPLES = 50
#: In the source of a module whose tests align, reconstruct or fit something, or start the engine's programs.
ENGINE_AT_WORK = re.compile(r"tomostream\.engine\.(?:align|ctf|frames|recon)\b|engine import (?:aretomo|motioncor|quick)\b"
                            r"|tests\.hostile import|[\"']tomostream\.engine\.(?:motioncor|aretomo|preview)[\"']")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow, by rule: `make quick` leaves out what aligns something, starts processes, or tries very many inputs."""
    for item in items:
        if isinstance(item, pytest.Function) and (engine_at_work(item.path) or starts_processes(item.cls) or tries_many(item)):
            item.add_marker(pytest.mark.slow)


@functools.cache
def engine_at_work(path: pathlib.Path) -> bool:
    """Whether the tests of a module have the engine align something, by what it imports."""
    return ENGINE_AT_WORK.search(path.read_text(encoding="utf-8")) is not None


@functools.cache
def starts_processes(cls: type | None) -> bool:
    """Whether the tests of a class start processes of ours, themselves or by a class that they share."""
    ours = [each for each in (cls.__mro__ if cls is not None else ()) if each.__module__.startswith("tomostream.tests.test_")]
    return any(PROCESSES.search(inspect.getsource(each)) for each in ours)


def tries_many(item: pytest.Function) -> bool:
    """Whether a property test tries very many examples, or a state machine very many steps."""
    if not is_hypothesis_test(item.obj):
        return False
    given = getattr(item.obj, "_hypothesis_internal_use_settings", None) or getattr(item.cls, "settings", settings.default)
    return bool(given.max_examples >= MANY_EXAMPLES)
