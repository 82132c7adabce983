# SPDX-License-Identifier: GPL-3.0-or-later
"""Our own CPU programs, with the command lines of MotionCor3 and AreTomo2. Pure."""
