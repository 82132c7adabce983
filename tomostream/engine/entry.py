# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the commands `tomostream-motioncor` and `tomostream-aretomo` start and end.

Nothing is imported before Ctrl-C is taken care of: until the program itself handles it (`errors.exit_status`), nothing
has been made that would have to be removed, and the process ends at once, without a traceback. When the program is
through, its results are there or gone, and a signal comes too late to say otherwise.
"""

from __future__ import annotations

import signal


def motioncor() -> int:
    """Run `tomostream-motioncor`; return its exit status."""
    _end_at_once_on_ctrl_c()
    from tomostream.engine.motioncor import main

    status = main()
    _ignore_signals()
    return status


def aretomo() -> int:
    """Run `tomostream-aretomo`; return its exit status."""
    _end_at_once_on_ctrl_c()
    from tomostream.engine.aretomo import main

    status = main()
    _ignore_signals()
    return status


def _end_at_once_on_ctrl_c() -> None:
    """Let Ctrl-C end the process, unless it is ignored (nohup, or a line that ends with &)."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored: nohup, or the end of a line by &
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _ignore_signals() -> None:
    """Ignore the signals that end a process."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
