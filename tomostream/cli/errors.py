# SPDX-License-Identifier: GPL-3.0-or-later
"""What a command cannot do for its user."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can fix, in one sentence."""
