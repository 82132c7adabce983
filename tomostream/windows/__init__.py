# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows of our own in Scipion, for what people decide: tilts to leave out, thickness, the sign of the tilt angles.

Plain Tk, which Scipion uses. What they do is in `decisions`; here it is only shown and asked.
"""
