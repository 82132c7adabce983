# SPDX-License-Identifier: GPL-3.0-or-later
"""Gold beads of an aligned tilt series: found as single points in three dimensions, erased from the tilt images.

`find.find_gold` takes where the tilts go and returns where the beads are; `erase.ErasedStack` is the same stack without them.
"""
