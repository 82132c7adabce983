# SPDX-License-Identifier: GPL-3.0-or-later
"""The ground floor: files as every room reads and writes them."""
