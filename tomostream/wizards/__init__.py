# SPDX-License-Identifier: GPL-3.0-or-later
"""Form helpers: values read from the mdoc files."""

from tomostream.wizards.wizard import TomoStreamAxisWizard, TomoStreamImportWizard, TomoStreamTiltsWizard

__all__ = ["TomoStreamAxisWizard", "TomoStreamImportWizard", "TomoStreamTiltsWizard"]
