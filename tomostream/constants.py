# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that several rooms share."""

#: Engine choices of the MotionCor and AreTomo forms, in the order of their enum.
ENGINE_AUTO, ENGINE_GPU, ENGINE_CPU = 0, 1, 2
ENGINES = ("automatic", "GPU", "CPU")

# Scipion variables of the alarms and of the engine choice
TOMOSTREAM_PROGRAMS_PER_GPU = "TOMOSTREAM_PROGRAMS_PER_GPU"
