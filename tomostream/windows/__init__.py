# SPDX-License-Identifier: GPL-3.0-or-later
"""Our windows in Scipion, for decisions by people: tilts to leave out, thickness, the sign of the tilt angles.

Plain Tk, as in Scipion. What the decisions do is in `choices`; the windows only show and ask.
"""
