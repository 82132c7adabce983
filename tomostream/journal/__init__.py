# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a session: what the protocols write and everybody else reads."""
