# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the commands `tomostream-motioncor` and `tomostream-aretomo` begin.

Nothing is imported before Ctrl-C is taken care of: until the program itself handles it (`errors.exit_status`), and after
that, nothing has been made that would have to be removed, and the process ends at once, without a traceback.
"""

from __future__ import annotations

import signal


def motioncor() -> int:
    """Run `tomostream-motioncor`; return its exit status."""
    _end_at_once_on_ctrl_c()
    from tomostream.engine.motioncor import main

    return main()


def aretomo() -> int:
    """Run `tomostream-aretomo`; return its exit status."""
    _end_at_once_on_ctrl_c()
    from tomostream.engine.aretomo import main

    return main()


def _end_at_once_on_ctrl_c() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored: nohup, or the end of a line by &
        signal.signal(signal.SIGINT, signal.SIG_DFL)
