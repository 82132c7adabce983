# SPDX-License-Identifier: GPL-3.0-or-later
"""The form of the motioncor protocol: its fields, what is wrong in them, and what has no effect with the chosen program."""

from __future__ import annotations

import math
from typing import Any

import motioncorr
from motioncorr.constants import MOTIONCOR_HOME
from pyworkflow.protocol import params

from tomostream.protocols import engines, forms
from tomostream.streaming import form as streaming_form

CPU_COMMAND = "tomostream-motioncor"
LIMITS = {"binFactor": (1, 16), "patchX": (0, 100), "patchY": (0, 100), "patchOverlap": (0, 100), "group": (1, math.inf),
          "groupLocal": (1, math.inf), "tol": (0.001, 100), "eerGroup": (1, math.inf), "eerDose": (0, 100),
          "scaleMaj": (0.5, 2), "scaleMin": (0.5, 2), **streaming_form.LIMITS}
#: Fields for which upstream sends flags that MotionCor3 does not know (-MaskCent, -MaskSize).
CROP = ("cropOffsetX", "cropOffsetY", "cropDimX", "cropDimY")
_LINES_OF_CROP = ("Crop_offsets__px_", "Crop_dimensions__px_")
_PATCH_LINE, _MAGNIFICATION = "Number_of_patches", ("doMagCor", "scaleMaj", "scaleMin", "angDist")
_MANY_PATCHES = "((patchX or 0) > 1 or (patchY or 0) > 1)"
HELPS = {
    "inputMovies": "The movies from the import protocol. The set may still be empty and growing.",
    "alignFrame0": "First frame that is aligned and summed; the first of a movie is 1. Of EER movies all are used.",
    "alignFrameN": "Last frame that is aligned and summed; 0 is the last one of each movie. Of EER movies all are used.",
    "binFactor": "Fourier binning of the sums: 2 doubles the pixel size. Fractions are allowed.",
    "group": "Number of frames summed before whole frames are aligned. More than 1 helps when frames hold very "
             "few electrons.",
    "groupLocal": "Number of frames summed before patches are aligned. No effect with 1 x 1 patches.",
    "patchOverlap": "Overlap of neighbouring patches, in per cent. No effect with 1 x 1 patches.",
    "defectFile": "Camera pixels to replace by good ones around them: SerialEM's defect file (defects_*.txt), or lines of x, y, "
                  "width and height, from the lower left corner, in pixels of the frames.",
    "tol": "The alignment ends when frames move by less than this many pixels. MotionCor3 only: the CPU engine iterates until "
           "nothing changes.",
    "EERtext": "EER movies hold hundreds of raw frames, which are summed into fractions before the alignment.",
    "doMagCor": "MotionCor3 stretches the images so that the magnification is the same in all directions. The CPU engine does "
                "not.",
    "scaleMaj": "Scale along the major axis of the distortion (no unit).",
    "scaleMin": "Scale along the minor axis of the distortion (no unit).",
    "angDist": "Angle of the major axis of the distortion in degrees.",
    "doApplyDoseFilter": "Dose weighting of the frames within a movie. Off by default: in tomography, dose weighting applies to "
                         "the whole series (aretomo's CPU engine does it with the dose of each tilt), not to the single "
                         "exposure. Yes: dose-weighted micrographs are a second output, micrographsDW.",
    "splitEvenOdd": "Also sums the even and the odd frames, as micrographsEven and micrographsOdd: for even/odd tilt series, "
                    "whose tomograms can train a denoiser.",
}
LABELS = {
    "inputMovies": "Input movies", "Frames_to_ALIGN_and_SUM": "Frames to align and sum",
    "doApplyDoseFilter": "Weight frames by dose?", "binFactor": "Binning of the sums",
    _PATCH_LINE: "Patches", "patchX": "along x", "patchY": "along y", "patchOverlap": "Overlap of patches (%)",
    "Group_N_frames": "Frames summed before", "group": "whole frames are aligned", "groupLocal": "patches are aligned",
    "tol": "Aligned when frames move less than (px)", "eerGroup": "Raw frames of a fraction", "eerSampling": "Upsampling",
    "EERtext": "For movies in EER format only.", "splitEvenOdd": "Even/odd sums too?",
    "gainRot": "Rotate the gain reference", "gainFlip": "Then flip the gain reference",
    "defectFile": "Defects of the camera: a list", "defectMap": "Defects of the camera: a map",
    "scaleMaj": "Scale along the major axis",
    "scaleMin": "Scale along the minor axis", "angDist": "Angle of the major axis (deg)",
}
_PATCHES = ("1 x 1 aligns whole frames. More patches correct local motion, which deforms the tilt image; the deformation "
            "differs from tilt to tilt, so the series no longer fits together. The CPU engine always aligns whole frames.")


def chosen(protocol: Any) -> engines.Program:
    """Return the program to run for a protocol."""
    return engines.choose(protocol.engine.get(), motioncorr.Plugin, CPU_COMMAND)


def define(form: Any) -> None:
    """Put our fields into upstream's form, in our order, with our words."""
    section = form.getSection("Input")
    engines.add_engine_param(section, "MotionCor3")
    forms.put_after(section, "engine", "inputMovies")
    form.getParam("inputMovies").allowsNull.set(True)      # `_validate` reports what is missing
    engines.put_gpus_below_engine(form, section, motioncorr.Plugin)
    forms.hide(form, ["doSaveMovie", "extraProtocolParams", "doSaveUnweightedMic", *CROP, *_LINES_OF_CROP])
    forms.move(form, _MAGNIFICATION, form.getSection("Motioncor params"))
    _show_what_has_an_effect(form)
    form.getSection("Motioncor params").label.set("Motion correction")
    forms.set_labels(form, LABELS)
    forms.set_helps(form, HELPS)
    for name in ("patchX", "patchY"):
        form.getParam(name).default.set(1)
        form.getParam(name).help.set(_PATCHES)
    form.getParam("doApplyDoseFilter").default.set(False)
    form.getParam("numberOfThreads").default.set(3)
    form.getSection("EER").addParam(
        "eerDose", params.FloatParam, default=0.0, label="or dose of a fraction (e/A2)",
        help="Raw frames are summed into fractions of about this dose, using the dose per frame of the import; 0.5 to 1.25 is "
             "usual. 0: the number above, which is also used where the dose per frame is not known.")
    forms.put_after(form.getSection("EER"), "eerDose", "eerGroup")
    form.addSection(label="Streaming")
    form.addParam("newestFirst", params.BooleanParam, default=False, label="Newest movies first?",
                  help="When movies arrive faster than they are processed: Yes takes the newest first, so that you see "
                       "what the microscope is doing now; No takes them in order.")


def _show_what_has_an_effect(form: Any) -> None:
    """Show fields that only MotionCor3 reads where it may be used, and those of patches only with more than one."""
    gpu = engines.gpu_condition(motioncorr.Plugin)
    for name in (_PATCH_LINE, "patchX", "patchY", "tol", "doMagCor"):
        forms.show_if(form, name, gpu)
    for name in ("patchOverlap", "groupLocal"):
        forms.show_if(form, name, f"{gpu} and {_MANY_PATCHES}")
    for name in ("scaleMaj", "scaleMin", "angDist"):
        forms.show_if(form, name, f"{gpu} and doMagCor")


def problems(protocol: Any) -> list[str]:
    """Return what in the form cannot be done, in sentences; the input is checked elsewhere."""
    errors = engines.problem(protocol.engine.get(), motioncorr.Plugin, MOTIONCOR_HOME)
    errors += forms.number_problems(protocol, LIMITS)
    errors += forms.words_problems(protocol, "extraParams2")
    first, last = protocol.alignFrame0.get(), protocol.alignFrameN.get()
    if None not in (first, last) and (first < 1 or (last != 0 and last <= first)):
        errors.append(f"Frames to align: from {first} to {last} is not a range; the first frame is 1, and 0 as the last "
                      "means all.")
    return errors


def raw_frames(dose: float | None, movies: Any, otherwise: int) -> int:
    """Return how many raw EER frames make a fraction of this dose (e/A2); `otherwise` where the dose per frame is not known."""
    acquisition = movies.getAcquisition()
    frame = (acquisition.getDosePerFrame() or 0.0) if acquisition is not None else 0.0
    return max(1, round(dose / frame)) if dose and frame > 0 else otherwise


def warnings(protocol: Any) -> list[str]:
    """For `_warnings`: what is unwise for a tilt series, and what has no effect."""
    found, gpu = [], chosen(protocol).gpu
    if max(protocol.patchX.get() or 0, protocol.patchY.get() or 0) > 1:
        sizes = f"Patches are {protocol.patchX.get()} x {protocol.patchY.get()}"
        found.append(f"{sizes}: local correction deforms every tilt image differently. Use 1 x 1 for tilt series." if gpu
                     else f"{sizes}, without effect: the CPU engine aligns whole frames.")
    if protocol.doApplyDoseFilter.get():
        found.append("Dose weighting of single exposures is on: in tomography it applies to the whole series.")
    if protocol.doMagCor.get() and not gpu:
        found.append("The anisotropic magnification is not corrected: MotionCor3 does it, the CPU engine does not.")
    movies = protocol.inputMovies.get()
    if protocol.eerDose.get() and movies is not None and not raw_frames(protocol.eerDose.get(), movies, 0):
        found.append("The dose of a fraction has no effect: the import gives no dose per frame.")
    if any(getattr(protocol, name).get() for name in CROP):
        found.append("Crop offsets and dimensions have no effect: neither MotionCor3 nor the CPU engine crops movies.")
    return found
