# SPDX-License-Identifier: GPL-3.0-or-later
"""pytest alone: what Scipion needs before it can be imported, in a folder that goes away (`scipion test` sets its own)."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile

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
    os.environ["TOMOSTREAM_INSTRUMENTS"] = os.path.join(HOME, "instruments.json")      # not the user's own
