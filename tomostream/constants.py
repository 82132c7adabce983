# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that several rooms share."""

#: Engine choices of the MotionCor and AreTomo forms, in the order of their enum; the last one is AreTomo's alone.
ENGINE_AUTO, ENGINE_GPU, ENGINE_CPU, ENGINE_ARETOMO3 = 0, 1, 2, 3
ENGINES = ("automatic", "GPU", "CPU")
ARETOMO_ENGINES = (*ENGINES, "GPU (AreTomo3)")

# Scipion variables of the alarms and of the engine choice
TOMOSTREAM_PROGRAMS_PER_GPU = "TOMOSTREAM_PROGRAMS_PER_GPU"
#: Folder of AreTomo3, for which there is no upstream plugin.
ARETOMO3_HOME = "ARETOMO3_HOME"
