# SPDX-License-Identifier: GPL-3.0-or-later
"""What people decide in a session, with what they need to see for it: tilts to leave out, thickness, the sign of the angles.

Pure: the command line and Scipion's windows come through here, so that both do the same.
"""
