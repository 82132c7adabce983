# SPDX-License-Identifier: GPL-3.0-or-later
"""One module a room, plus the chain."""
