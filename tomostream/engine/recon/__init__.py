# SPDX-License-Identifier: GPL-3.0-or-later
"""From a tilt series and its alignment to a tomogram: aligned images, filter, back-projection, a volume on disk."""
