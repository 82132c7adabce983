# SPDX-License-Identifier: GPL-3.0-or-later
"""The live page and its data. Pure."""
