# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions by people, with what they need to see for them: tilts to leave out, thickness, the sign of the angles.

The command line and Scipion's windows both use this room, so that they do the same.
"""
