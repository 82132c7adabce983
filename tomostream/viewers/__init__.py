# SPDX-License-Identifier: GPL-3.0-or-later
"""Analyze results, for each of the four protocols."""

from tomostream.viewers.viewer import (
    TomoStreamAreTomoViewer,
    TomoStreamComposeViewer,
    TomoStreamImportViewer,
    TomoStreamMotionCorViewer,
)

__all__ = ["TomoStreamAreTomoViewer", "TomoStreamComposeViewer", "TomoStreamImportViewer", "TomoStreamMotionCorViewer"]
