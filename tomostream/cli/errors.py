# SPDX-License-Identifier: GPL-3.0-or-later
"""The error that ends a command."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can fix, in one sentence."""
