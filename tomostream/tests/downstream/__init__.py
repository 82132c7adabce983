# SPDX-License-Identifier: GPL-3.0-or-later
"""What other programs make of ours; `make test-downstream`, in an environment of its own. Not part of `make test`."""
