# SPDX-License-Identifier: GPL-3.0-or-later
"""Finished series as files for other programs: IMOD, RELION 5 and Warp."""
