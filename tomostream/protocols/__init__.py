# SPDX-License-Identifier: GPL-3.0-or-later
"""The four protocols: forms, and the four parts (watch, decide, run, register) of each."""
