# SPDX-License-Identifier: GPL-3.0-or-later
"""The form of the aretomo protocol: its fields, what is wrong in them, and what has no effect with the chosen program."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

import aretomo
from aretomo.constants import ARETOMO_HOME, LOCAL_MOTION_COORDS, LOCAL_MOTION_PATCHES, RECON_SART
from pyworkflow.protocol import params

from tomostream.constants import ENGINE_ARETOMO3
from tomostream.programs import aretomo3
from tomostream.programs.aretomo import MAX_BINNING, MAX_SLICES_WITHOUT_VOLUME, VOXEL_A, binning_of, slices
from tomostream.programs.gold import MAX_NM, MIN_NM
from tomostream.protocols import engines, forms, handing
from tomostream.streaming import form as streaming_form
from tomostream.streaming import inputs

CPU_COMMAND = "tomostream-aretomo"
LIMITS = {"binFactor": (0, MAX_BINNING), "alignZ": (1, 100000), "tomoThickness": (2, 100000), "SARTiter": (1, 1000),
          "SARTproj": (1, 1000), "darkTol": (0, 1), "patchX": (1, 100), "patchY": (1, 100), "minPhaseShift": (0, 360),
          "maxPhaseShift": (0, 360), "goldDiameter": (MIN_NM, MAX_NM), "flatAngle": (-60, 60), **streaming_form.LIMITS}
#: Upstream's choices, short enough for the box.
AXIS_CHOICES = ("No", "One refined axis for the series", "A refined axis for each tilt")
LOCAL_CHOICES = ("No", "At positions from a file (AreTomo2)", "In patches")
#: Choices of *Erase gold beads?*, and the words of `-EraseGold`; "" where the diameter is given.
GOLD_CHOICES, GOLD_WORDS = ("No", "Automatic", "Of a diameter"), (None, "auto", "")
#: Numbers of those choices, and of those of the tilt angles.
AXIS_FOR_EACH_TILT, LEAVE_ANGLES, CORRECT_ANGLES = 2, 0, 2
HELPS = {
    "inputSetOfTiltSeries": "The tilt series from the compose protocol. The set may still be empty and growing. To skip the "
                            "alignment they must be aligned already.",
    "makeTomo": "No: the series are only aligned.",
    "doEvenOdd": "Also reconstructs the even and the odd series, with the alignment of the whole one. The compose protocol "
                 "must have made them.",
    "binFactor": "Pixels of the tilt series per voxel of the tomogram, along each axis. Does not affect the alignment. 0: "
                 f"chosen from the pixel size, for voxels of about {VOXEL_A:g} A.",
    "alignZ": "Thickness of the specimen in unbinned voxels (pixels of the tilt series). AreTomo aligns with a volume of this "
              "height. The CPU engine measures the thickness itself.",
    "alignZfile": "A text file with two columns, the name of a series and its thickness for alignment in unbinned voxels; all "
                  "other series use the value of the form. Not used by the CPU engine.",
    "tomoThickness": "Height of the volume, in unbinned voxels (pixels of the tilt series): the specimen plus some room above "
                     "and below. Thickness in A divided by the pixel size in A. AreTomo3 makes at least 100 binned slices; "
                     "with -1 it uses the thickness that it measures plus 300 voxels.",
    "refineTiltAngles": "The tilt of the specimen relative to the stage. No: it is not measured. Measure only: it is used in "
                        "the alignment, but the tomogram keeps the orientation of the stage. Measure and correct: the tomogram "
                        "is also levelled; the direction of the missing wedge then differs between tomograms. AreTomo3 measures "
                        "the tilt from the CTF, and either levels the tomogram or does not use it.",
    "flatAngle": "The stage angle at which the specimen is perpendicular to the beam, if you know it: for a lamella milled at "
                 "10 degrees it is -10 or 10, depending on how the grid was loaded; in most sessions it is the angle of the "
                 "first tilt. The tilt of the specimen is then not measured; this angle is subtracted from all tilt angles. "
                 "0: not known, the tilt is measured.",
    "refineTiltAxis": "No: the axis from the mdoc file is used unchanged. With either other choice the CPU engine and AreTomo3 "
                      "refine one axis for the series. AreTomo3 also turns it by 180 degrees where the defocus gradient says "
                      "so, which swaps front and back of the tomogram; with No it does not.",
    "doEstimateCtf": "Estimates the defocus of every tilt. Needs pixel size, voltage and spherical aberration, which the "
                     "import form asks for.",
    "doPhaseShiftSearch": "Only with a phase plate: searches for the phase shift in the range below.",
    "minPhaseShift": "Lower limit of the search, in degrees.",
    "maxPhaseShift": "Upper limit of the search, in degrees.",
    "doDW": "Weights the spatial frequencies of each tilt by the dose (e/A2) that the specimen had received before it. The CPU "
            "engine does this; AreTomo2 1.1.3 and AreTomo3 2.3.1 do not.",
    "SARTiter": "Iterations of the iterative reconstruction.",
    "SARTproj": "Projections used together in one update. Ignored by the CPU engine, which uses all of them.",
    "sampleType": "Local motion is measured in patches of the image or, by AreTomo2, at positions listed in a file.",
    "Patches": "Patches along x and y, in each of which the motion is measured; AreTomo3 needs at least 4 in all.",
    "patchX": "Patches along x for the local alignment; AreTomo3 needs at least 4 in all.",
    "patchY": "Patches along y for the local alignment.",
    "darkTol": "Dark tilts, blocked by a grid bar or thick ice, are left out. Between 0 and 1: the higher, the more tilts are "
               "left out; 0 and 1 leave none out.",
}


LABELS = {
    "inputSetOfTiltSeries": "Input tilt series", "doEvenOdd": "Even/odd tomograms too?",
    "binFactor": f"Binning (0: voxels of about {VOXEL_A:g} A)", "tomoThickness": "Tomogram thickness (unbinned voxels)",
    "alignZ": "Specimen thickness (unbinned voxels)", "alignZfile": "Specimen thickness of each series (file)",
    "refineTiltAngles": "Tilt of the specimen", "flatAngle": "Specimen is flat at (deg; 0: measure)",
    "refineTiltAxis": "Refine the tilt axis?",
    "darkTol": "Leave out dark tilts (0 to 1)", "Local_motion_correction": "Local motion", "sampleType": "Correct local motion?",
    "coordsFn": "File of positions", "Patches": "Patches", "patchX": "along x", "patchY": "along y",
    "outImod": "Files for other programs", "doPhaseShiftSearch": "Search the phase shift (phase plate)?",
    "Phase_shift_range__deg._": "Phase shift (deg)", "minPhaseShift": "from", "maxPhaseShift": "to",
    "doDW": "Weight the tilts by dose?", "SART_options": "SART", "flipInt": "Dense structures bright?",
    "flipVol": "Slices along z (as IMOD)?",
}


class AretomoProgram(str, Enum):
    """The programs, by the names used in messages."""

    ARETOMO2 = "AreTomo2"
    ARETOMO3 = "AreTomo3"
    CPU = "the CPU engine of tomostream"


def chosen(protocol: Any) -> engines.Program:
    """Return the program to run for a protocol."""
    return engines.choose(protocol.engine.get(), aretomo.Plugin, CPU_COMMAND)


def program_of(protocol: Any) -> AretomoProgram:
    """Return which of the programs that is."""
    if protocol.engine.get() == ENGINE_ARETOMO3:
        return AretomoProgram.ARETOMO3
    return AretomoProgram.ARETOMO2 if chosen(protocol).gpu else AretomoProgram.CPU


def define(form: Any) -> None:
    """Put our fields into upstream's form, in our order, with our words."""
    section = form.getSection("Input")
    engines.add_engine_param(section, "AreTomo2", aretomo3=True)
    forms.put_after(section, "engine", "inputSetOfTiltSeries")
    engines.put_gpus_below_engine(form, section, aretomo.Plugin)
    form.getParam("inputSetOfTiltSeries").allowsNull.set(True)      # `_validate` reports what is missing
    form.getParam("refineTiltAxis").choices = list(AXIS_CHOICES)
    form.getParam("sampleType").choices = list(LOCAL_CHOICES)
    form.getParam("extraParams").default.set("")
    form.getParam("binFactor").default.set(0)
    form.getParam("numberOfThreads").default.set(3)
    forms.hide(form, ["roiArea"])       # no program knows -Roi
    section.addParam("correctCtf", params.BooleanParam, default=True, label="Correct the tomograms for the CTF?",
                     condition=f"engine=={ENGINE_ARETOMO3} and doEstimateCtf and not skipAlign",
                     help="AreTomo3 corrects every tilt image for the CTF that it finds, taking the height of each point into "
                          "account. The tomograms are marked as corrected, so that nothing corrects them again.")
    section.addParam("filteredTomograms", params.BooleanParam, default=True, label="Filtered tomograms for viewing?",
                     condition="makeTomo",
                     help="Also makes, for every series, the tomogram that shows most: filtered and corrected for the CTF "
                          "according to specimen and noise as measured in the series itself, with no parameter to set. The page "
                          "shows it. It is a separate output, FilteredTomograms, for viewing, picking and segmentation; for "
                          "averaging use the others. The CPU engine makes it from the alignment of any program, in about the "
                          "time of one more reconstruction. Gold beads are always erased from it.")
    section.addParam("flatAngle", params.FloatParam, default=0.0, label="",  # AreTomo3 reads such an angle, no more
                     condition=f"engine!={ENGINE_ARETOMO3} and refineTiltAngles!={LEAVE_ANGLES} and not skipAlign")
    _define_gold(form)
    _lay_out(form)
    _show_what_has_an_effect(form)
    forms.set_labels(form, LABELS)
    forms.set_helps(form, HELPS)
    form.addSection(label="Streaming")
    form.addParam("newestFirst", params.BooleanParam, default=False, label="Newest series first?",
                  help="When series arrive faster than they are processed: Yes takes the newest first, so that you see "
                       "what the microscope is doing now; No takes them in order.")
    form.addParam("leaveOutDoubtful", params.BooleanParam, default=False, label="Leave out untrusted series?",
                  help="Every series in the outputs says whether its alignment can be trusted (attribute "
                       "_tomostreamTrusted), and if not, why. Yes: an untrusted series goes to FailedTiltSeries instead, and "
                       "no downstream protocol builds on it. Only the CPU engine judges its alignments.")
    form.addParam("removeReplaced", params.BooleanParam, default=False, expertLevel=params.LEVEL_ADVANCED,
                  label="Remove tomograms that were replaced?",
                  help="A series that is composed again (a late tilt, a repeated exposure, a tilt that you took out) gets a "
                       "new tomogram. Yes deletes the files of the old one as soon as the new one is registered. tomostream "
                       "no longer refers to them, but a protocol of another plugin that read the old one still does.")


def _define_gold(form: Any) -> None:
    section = form.getSection("Extra options")
    section.addParam("eraseGold", params.EnumParam, choices=list(GOLD_CHOICES), default=0, condition="makeTomo",
                     label="Erase gold beads?",
                     help="Gold makes streaks in tomograms. Beads are located with the alignment, as points visible in all "
                          "tilts, and replaced by noise like that around them before the reconstruction, in the same way for "
                          "the full, the even and the odd tomogram; so are hot pixels. Automatic: at least three beads of the "
                          "same size, 5 to 20 nm. The page shows how many were erased, and how far they are from where the "
                          "alignment predicts them. AreTomo2 and AreTomo3 erase nothing: with Automatic or a diameter they only "
                          "align, and the CPU engine makes all tomograms from their alignment.")
    section.addParam("goldDiameter", params.FloatParam, default=10.0, condition=f"makeTomo and eraseGold=={GOLD_WORDS.index('')}",
                     label="Diameter of the beads (nm)",
                     help="Nominal diameter; beads up to 30 % larger or smaller are erased too. The CPU engine erases them, not "
                          "AreTomo2 or AreTomo3.")


def gold_words(protocol: Any) -> str:
    """Return the value of `-EraseGold`; "" where gold is not erased."""
    word = GOLD_WORDS[protocol.eraseGold.get()]
    return "" if word is None else word or f"{protocol.goldDiameter.get():g}"


def _lay_out(form: Any) -> None:
    """Give each part of the work a tab: in one tab, the buttons fell below the edge of a low screen."""
    alignment = forms.add_section(form, "Alignment", "Input")
    ctf = forms.add_section(form, "CTF", "Alignment")
    form.getSection("Extra options").label.set("Reconstruction")
    alignment.addParam("alignmentSkipped", params.LabelParam, condition="skipAlign", label="The alignment of the input is used.",
                       help="With 'Skip alignment?' nothing is aligned, so these settings do not apply.")
    ctf.addParam("ctfSkipped", params.LabelParam, condition="skipAlign", label="Without an alignment no CTF is estimated.",
                 help="With 'Skip alignment?' there is no CTF output.")
    forms.move(form, ["alignZ", "alignZfile", "refineTiltAngles", "flatAngle", "refineTiltAxis", "darkTol",
                      "Local_motion_correction", "outImod"], alignment)
    forms.move(form, ["CTF"], ctf)
    forms.move(form, ["correctCtf"], form.getParam("CTF"))


def _show_what_has_an_effect(form: Any) -> None:
    """Show fields that only GPU programs read where one may be used, and those of patches only with patches."""
    gpu, aligned = engines.gpu_condition(aretomo.Plugin), "not skipAlign"
    for name in ("alignZ", "alignZfile"):
        forms.show_if(form, name, f"{aligned} and {gpu}")
    for name in ("Local_motion_correction", "sampleType"):
        forms.show_if(form, name, aligned)
    forms.show_if(form, "coordsFn", f"{aligned} and {gpu} and sampleType=={LOCAL_MOTION_COORDS}")
    for name in ("Patches", "patchX", "patchY"):
        forms.show_if(form, name, f"{aligned} and sampleType=={LOCAL_MOTION_PATCHES}")
    forms.show_if(form, "doPhaseShiftSearch", f"{aligned} and doEstimateCtf")
    for name in ("Phase_shift_range__deg._", "minPhaseShift", "maxPhaseShift"):
        forms.show_if(form, name, f"{aligned} and doEstimateCtf and doPhaseShiftSearch")
    sart = f"makeTomo and reconMethod=={RECON_SART}"
    for name in ("SART_options", "SARTiter", "SARTproj"):
        forms.show_if(form, name, f"{sart} and {gpu}" if name == "SARTproj" else sart)
    forms.show_if(form, "flipInt", "makeTomo")
    forms.show_if(form, "doDW", f"engine!={ENGINE_ARETOMO3}")


# ------------------------------------------------------------------------------------------------ a binning that is chosen
def min_slices(protocol: Any) -> int:
    """Return how many slices a volume must have for the program to make it at all."""
    return MAX_SLICES_WITHOUT_VOLUME + 1 if program_of(protocol) is AretomoProgram.ARETOMO2 else 0


def chosen_binning(protocol: Any, pixel_size: float, binning: int) -> str:
    """Say which binning was chosen for series of a pixel size in A, and why."""
    thickness, likely = protocol.tomoThickness.get(), binning_of(0, pixel_size)
    words = f"binning {binning}, chosen from the pixel size: voxels of {binning * pixel_size:.3g} A"
    if binning != likely:
        words += (f", not {likely * pixel_size:.3g} A, because AreTomo2 makes no volume of {MAX_SLICES_WITHOUT_VOLUME} slices or "
                  f"fewer and {thickness} px would be {slices(thickness, likely)}")
    if program_of(protocol) is AretomoProgram.ARETOMO3 and 0 < thickness < aretomo3.MIN_SLICES * binning:
        words += f"; {_thicker_by_aretomo3(thickness, binning)}"
    return words


def _thicker_by_aretomo3(thickness: int, binning: int) -> str:
    return (f"AreTomo3 makes at least {aretomo3.MIN_SLICES} slices: the tomograms will be {aretomo3.MIN_SLICES * binning} "
            f"unbinned voxels thick, not {thickness}")


# ------------------------------------------------------------------------------------------------------ what is wrong
def problems(protocol: Any) -> list[str]:
    """Return what in the form cannot be done, in sentences; the input is checked elsewhere."""
    program = program_of(protocol)
    errors = engines.problem(protocol.engine.get(), aretomo.Plugin, ARETOMO_HOME)
    limits: Mapping[str, tuple[float, float]] = LIMITS
    if program is AretomoProgram.ARETOMO3 and protocol.tomoThickness.get() == aretomo3.MEASURED_THICKNESS:
        limits = {name: bounds for name, bounds in LIMITS.items() if name != "tomoThickness"}
    errors += forms.number_problems(protocol, limits)
    if protocol.skipAlign.get() and not protocol.makeTomo.get():
        errors.append("Alignment and reconstruction are both switched off: nothing would be done.")
    if protocol.alignZfile.get() and not os.path.exists(protocol.alignZfile.get()):
        errors.append(f"There is no file {protocol.alignZfile.get()} with volume heights.")
    if program is AretomoProgram.ARETOMO2 and protocol.sampleType.get() == LOCAL_MOTION_COORDS:
        places = protocol.coordsFn.get() or ""
        if not os.path.isfile(places):
            errors.append(f"File of positions: there is no file '{places}'. Give one, or correct local motion in patches.")
    errors += forms.words_problems(protocol, "extraParams")
    return errors + handing.problems(protocol) + _thickness_problems(protocol, program)


def _thickness_problems(protocol: Any, program: AretomoProgram) -> list[str]:
    inner, outer, binning = protocol.alignZ.get(), protocol.tomoThickness.get(), protocol.binFactor.get()
    if not protocol.makeTomo.get() or None in (inner, outer, binning):
        return []
    if outer < 0:
        if program is AretomoProgram.ARETOMO3 and protocol.skipAlign.get():
            return ["Without the alignment AreTomo3 measures no thickness: give the thickness of the tomograms."]
        return []
    errors = []
    if not protocol.skipAlign.get() and inner > outer and program is not AretomoProgram.CPU:
        errors.append(f"Specimen thickness ({inner}) is more than the tomogram thickness ({outer}): it should be "
                      "about the thickness of the specimen.")
    binned = slices(outer, max(1, binning))
    if program is AretomoProgram.ARETOMO2 and binned <= MAX_SLICES_WITHOUT_VOLUME:
        errors.append(f"Tomogram thickness {outer} at binning {binning} is {binned} slices: AreTomo2 makes no volume of "
                      f"{MAX_SLICES_WITHOUT_VOLUME} slices or fewer. Give a larger thickness, less binning, or the CPU engine.")
    return errors


def with_known_tilt(command: str, protocol: Any) -> str:
    """Return upstream's command with the known tilt of the specimen: AreTomo adds the second value of -TiltCor to the angles, so
    it is 10 for a specimen that is flat at a stage angle of -10."""
    flat = protocol.flatAngle.get()
    if not flat or protocol.refineTiltAngles.get() == LEAVE_ANGLES or protocol.engine.get() == ENGINE_ARETOMO3:
        return command
    return re.sub(r"(-TiltCor -?\d+)", lambda found: f"{found[1]} {-flat:g}", command)


def warnings(protocol: Any) -> list[str]:
    """For `_warnings`: fields that have no effect, or not the one their name suggests, with this program."""
    found = _OF_PROGRAM[program_of(protocol)](protocol)
    if (protocol.roiArea.get() or "").strip():
        found.append("ROI for focused alignment has no effect: AreTomo2, AreTomo3 and the CPU engine align with the whole field.")
    if protocol.doEstimateCtf.get() and protocol.skipAlign.get():
        found.append("The alignment is taken from the input, so no CTF is estimated and there will be no CTF output.")
    items = inputs.set_of(protocol.inputSetOfTiltSeries)
    if items is not None and items.hasAlignment() and not protocol.skipAlign.get():
        found.append("The input is aligned already; it will be aligned again, from the raw images.")
    return found


def _warnings_of_cpu(protocol: Any) -> list[str]:
    found = []
    if protocol.sampleType.get() == LOCAL_MOTION_COORDS:
        found.append("The CPU engine measures local motion in patches, not at given positions, so it will not be corrected. "
                     "Choose \"In patches\".")
    if protocol.alignZfile.get():
        found.append("The file with volume heights has no effect: the CPU engine measures the thickness of each series.")
    return found


def _warnings_of_aretomo2(protocol: Any) -> list[str]:
    if protocol.doDW.get():
        return ["AreTomo2 reads the dose, but up to version 1.1.3 weights no tilt by it. The CPU engine does."]
    return []


def _warnings_of_aretomo3(protocol: Any) -> list[str]:
    found = []
    if protocol.doDW.get():
        found.append("AreTomo3 weights no tilt by dose up to version 2.3.1. The CPU engine does.")
    if protocol.sampleType.get() == LOCAL_MOTION_COORDS:
        found.append("AreTomo3 measures local motion in patches, not at given positions, so it will not be corrected. Choose "
                     "\"In patches\".")
    patches = protocol.patchX.get(), protocol.patchY.get()
    if protocol.sampleType.get() == LOCAL_MOTION_PATCHES and None not in patches \
            and patches[0] * patches[1] < aretomo3.MIN_PATCHES:
        found.append(f"{patches[0]} x {patches[1]} patches are too few: AreTomo3 needs at least {aretomo3.MIN_PATCHES}, so local "
                     "motion will not be corrected.")
    if protocol.refineTiltAngles.get() == CORRECT_ANGLES and not protocol.doEstimateCtf.get():
        found.append("AreTomo3 measures the tilt of the specimen from the CTF, which is not estimated, so the tilt will not be "
                     "corrected.")
    thickness, binning = protocol.tomoThickness.get(), protocol.binFactor.get()
    if protocol.makeTomo.get() and thickness is not None and binning and 0 < thickness / binning < aretomo3.MIN_SLICES:
        found.append(f"{_thicker_by_aretomo3(thickness, binning)}.")
    return found


_OF_PROGRAM = {AretomoProgram.CPU: _warnings_of_cpu, AretomoProgram.ARETOMO2: _warnings_of_aretomo2,
               AretomoProgram.ARETOMO3: _warnings_of_aretomo3}
