# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tomostream.cli` is the `tomostream` command."""

import sys

from tomostream.cli import main

sys.exit(main())
