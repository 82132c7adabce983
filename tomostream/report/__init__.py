# SPDX-License-Identifier: GPL-3.0-or-later
"""The live page, its data and the alarms."""
