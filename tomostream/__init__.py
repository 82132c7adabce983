# SPDX-License-Identifier: GPL-3.0-or-later
"""On-the-fly cryo-electron tomography for Scipion.

The pure rooms (acquisition, programs, engine, simulator, report) and the command line must start in milliseconds, while
Scipion takes seconds to import. So the plugin class, which needs Scipion, is made only when somebody asks for it.
"""

__version__ = "0.1.0"
_logo = "logo.png"
_references = ["Zheng2017", "Zheng2022"]


def __getattr__(name: str) -> object:
    if name == "Plugin":
        from tomostream.plugin import Plugin

        return Plugin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
