# SPDX-License-Identifier: GPL-3.0-or-later
"""An acquisition written over time, with known truth. Pure."""
