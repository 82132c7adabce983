# SPDX-License-Identifier: GPL-3.0-or-later
"""MotionCor3 and AreTomo2 as commands: arguments in, parsed output files back. Pure."""
