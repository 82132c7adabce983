# SPDX-License-Identifier: GPL-3.0-or-later
"""From the frames of a movie to one image: decoding, references, defects, global motion, sums, dose weighting.

Conventions, everywhere in this package
---------------------------------------
* An image is an array (rows, columns) whose row 0 is the bottom of the picture, as in an MRC file. TIFF files begin at
  the top and are turned over when they are read; EER and MRC files are not (as MotionCor3 does, and IMOD).
* A displacement (x, y) is in pixels of the movie (after up-sampling of EER, before binning): how far the content of a
  frame lies to the right of and above where it lies in the reference frame. A shift is what has to be applied to put it
  back: shift = -displacement. Log files list shifts, as MotionCor3's do.
* Doses are in e/A2 on the specimen.
"""
