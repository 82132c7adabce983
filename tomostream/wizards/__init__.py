# SPDX-License-Identifier: GPL-3.0-or-later
"""Form helpers: values read from the mdoc files, measured in a quick reconstruction, chosen from what is there."""

from tomostream.wizards.wizard import (
    TomoStreamAxisWizard,
    TomoStreamImportWizard,
    TomoStreamMovieWizard,
    TomoStreamSignWizard,
    TomoStreamThicknessWizard,
    TomoStreamTiltsWizard,
)

__all__ = ["TomoStreamAxisWizard", "TomoStreamImportWizard", "TomoStreamMovieWizard", "TomoStreamSignWizard",
           "TomoStreamThicknessWizard", "TomoStreamTiltsWizard"]
