# SPDX-License-Identifier: GPL-3.0-or-later
"""The four protocols: forms, and the four parts (watch, decide, run, register) of each."""

import pwem

# Upstream's protocols read the variables of their plugins while they are imported: those must be known before.
pwem.Domain.getPlugins()

from tomostream.protocols.protocol_aretomo import ProtTomoStreamAreTomo  # noqa: E402
from tomostream.protocols.protocol_compose import ProtTomoStreamComposeTS  # noqa: E402
from tomostream.protocols.protocol_import_movies import ProtTomoStreamImportMovies  # noqa: E402
from tomostream.protocols.protocol_motioncor import ProtTomoStreamMotionCor  # noqa: E402

__all__ = ["ProtTomoStreamAreTomo", "ProtTomoStreamComposeTS", "ProtTomoStreamImportMovies", "ProtTomoStreamMotionCor"]
