# SPDX-License-Identifier: GPL-3.0-or-later
"""What the microscope wrote: mdoc dialects, complete movie files, complete series. Pure."""
