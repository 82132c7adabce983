# SPDX-License-Identifier: GPL-3.0-or-later
"""A plugin of somebody else: its protocol reads at its start, once, what most protocols of Scipion read of their input."""

import pwem

__version__ = "1.0"
_logo = ""
_references = []


class Plugin(pwem.Plugin):
    """Nothing to install."""

    @classmethod
    def _defineVariables(cls):
        """None."""
