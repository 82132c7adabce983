# SPDX-License-Identifier: GPL-3.0-or-later
"""The live page in a real browser: `make test-browser`. Not part of the ordinary suite."""
