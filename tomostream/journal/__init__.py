# SPDX-License-Identifier: GPL-3.0-or-later
"""What happened in a session: the record that protocols write and everybody else reads."""
