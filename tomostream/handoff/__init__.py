# SPDX-License-Identifier: GPL-3.0-or-later
"""Finished series in the files of other programs: IMOD, RELION 5 and Warp."""
