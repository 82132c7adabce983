# SPDX-License-Identifier: GPL-3.0-or-later
"""The plugin as Scipion sees it."""

from __future__ import annotations

import os

import pwem
from pyworkflow import TOMO
from pyworkflow.utils import Environ

from tomostream.choices import instruments
from tomostream.constants import ARETOMO3_HOME, TOMOSTREAM_PROGRAMS_PER_GPU
from tomostream.report import notify
from tomostream.streaming import cores


class Plugin(pwem.Plugin):
    """No binaries of its own: the CPU engine comes with the package, the GPU programs with the upstream plugins."""

    __module__ = "tomostream"       # pyworkflow finds the package's folder through the module of its plugin class
    _url = "https://github.com/scipion-em/scipion-em-tomostream"
    _processingField = [TOMO]

    @classmethod
    def _defineVariables(cls) -> None:
        cls._defineVar(TOMOSTREAM_PROGRAMS_PER_GPU, "1",
                       description="How many programs one GPU may run at the same time, over all tomostream protocols "
                                   "of this machine.")
        cls._defineVar(cores.CORES, "", description=cores.DESCRIPTION)
        cls._defineVar(ARETOMO3_HOME, "", description="Folder of the program AreTomo3 (or of its bin). Empty: it is looked for "
                                                      "on the path.")
        for name, text in notify.VARIABLES.items():
            cls._defineVar(name, "", description=text)
        cls._defineVar(instruments.VARIABLE, "", description=instruments.DESCRIPTION)

    @classmethod
    def getEnviron(cls) -> Environ:
        return Environ(os.environ)

    @classmethod
    def validateInstallation(cls) -> list[str]:
        """Nothing must be installed: without a GPU program the CPU engine does the work."""
        return []

    def getPluginTemplateDir(self) -> str:
        return os.path.join(self.getPath(), "workflows")
