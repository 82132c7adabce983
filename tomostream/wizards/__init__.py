# SPDX-License-Identifier: GPL-3.0-or-later
"""Form helpers."""
