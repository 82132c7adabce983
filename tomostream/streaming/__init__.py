# SPDX-License-Identifier: GPL-3.0-or-later
"""Watch, decide, run, register: the shape that every protocol has."""
