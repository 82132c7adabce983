# SPDX-License-Identifier: GPL-3.0-or-later
"""The buttons beside fields of the forms: values from mdoc files, from a quick reconstruction, or from a list."""

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
