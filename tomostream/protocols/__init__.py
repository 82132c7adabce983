# SPDX-License-Identifier: GPL-3.0-or-later
"""The four protocols: forms, and the four parts (watch, decide, run, register) of each."""

from tomostream.protocols.protocol_aretomo import ProtTomoStreamAreTomo
from tomostream.protocols.protocol_compose import ProtTomoStreamComposeTS
from tomostream.protocols.protocol_import_movies import ProtTomoStreamImportMovies
from tomostream.protocols.protocol_motioncor import ProtTomoStreamMotionCor

__all__ = ["ProtTomoStreamAreTomo", "ProtTomoStreamComposeTS", "ProtTomoStreamImportMovies", "ProtTomoStreamMotionCor"]
