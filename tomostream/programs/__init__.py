# SPDX-License-Identifier: GPL-3.0-or-later
"""MotionCor3 and AreTomo2 as commands: arguments to the programs, and their output files parsed. Pure."""
