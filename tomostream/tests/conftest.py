# SPDX-License-Identifier: GPL-3.0-or-later
"""pytest alone: what Scipion needs before it can be imported, in a folder that goes away (`scipion test` sets its own)."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import tempfile

import pytest
from hypothesis import settings

from tomostream.cli.project import scipion_environment

# The same examples at every run: a change is judged by itself. `TOMOSTREAM_EXAMPLES=new` looks for others.
settings.register_profile("same", derandomize=True)
settings.register_profile("new", print_blob=True)
settings.load_profile(os.environ.get("TOMOSTREAM_EXAMPLES", "same"))

# CI and `nohup` start us with SIGINT ignored, and so would be every program that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

if "SCIPION_HOME" not in os.environ:
    HOME = tempfile.mkdtemp(prefix="tomostream-tests-")
    atexit.register(shutil.rmtree, HOME, ignore_errors=True)
    scipion_environment(HOME)
    os.environ["XDG_DATA_HOME"] = os.path.join(HOME, "data")        # where sessions are noted
    os.environ["TOMOSTREAM_INSTRUMENTS"] = os.path.join(HOME, "instruments.json")      # not the user's own

#: In the source of a module whose tests align, reconstruct or fit something, or start the engine's programs.
ENGINE_AT_WORK = re.compile(r"tomostream\.engine\.(?:align|ctf)\b|engine import (?:aretomo|quick)\b"
                            r"|[\"']tomostream\.engine\.(?:motioncor|aretomo|preview)[\"']")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what has the engine align something, by what its module imports: `make quick` leaves it out."""
    slow: dict[str, bool] = {}
    for item in items:
        path = str(item.path)
        if path not in slow:
            slow[path] = ENGINE_AT_WORK.search(item.path.read_text(encoding="utf-8")) is not None
        if slow[path]:
            item.add_marker(pytest.mark.slow)
