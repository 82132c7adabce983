# SPDX-License-Identifier: GPL-3.0-or-later
"""The form of the import protocol: its fields, and what is wrong or doubtful in them."""

from __future__ import annotations

import glob
import os
from typing import Any

from pyworkflow.protocol import params

from tomostream.files import patterns
from tomostream.journal import until
from tomostream.protocols import forms
from tomostream.streaming import form as streaming_form

LIMITS = {"settleSeconds": (0, 3600), "sphericalAberration": (0, 100),
          "amplitudeContrast": (0, 1), "dosePerFrame": (0, 1000), "doseInitial": (0, 10000), **streaming_form.LIMITS}


def define(form: Any) -> None:
    """Put our fields into upstream's form, in our order, with our words."""
    form.getParam("filesPath").help.set(
        "Folder into which the microscope writes its movies. It may be empty, or not exist yet.\n"
        "Wildcards select several folders, e.g. /data/session/*/frames.")
    pattern = form.getParam("filesPattern")
    pattern.default.set("*")
    pattern.help.set("Which files of the folder are movies, e.g. *.eer, *_fractions.tiff or */*.tif for subfolders.\n"
                     "Whatever the pattern, only EER, TIFF and MRC files are taken.")
    form.getParam("dataStreaming").default.set(True)
    forms.move(form, ["gainFile", "darkFile"], forms.add_section(form, "Gain and dark", "Import"))
    forms.hide(form, ["dataStreaming",          # it always streams
                      "acquisitionWizard", "haveDataBeenPhaseFlipped", "samplingRateMode"])     # not of movies
    forms.set_labels(form, {"filesPath": "Folder of the movies", "filesPattern": "Pattern of the movies",
                            "timeout": "End when no new movie came for (s, m, h)",
                            "fileTimeout": "Longest wait for one file (s, m, h)"})
    form.getParam("timeout").help.set(
        "Time without a new movie after which the import ends and closes its output. A plain number means seconds; "
        "30m and 12h are minutes and hours. STOP STREAMING (right click on the box) ends it at any time.")
    form.getParam("fileTimeout").help.set(
        "For files whose structure cannot be checked, or that look cut off: once unchanged for this long, such a file is "
        "imported, or reported as truncated. Complete files do not wait for it. Seconds by default.")
    _define_streaming(form.getSection("Streaming"))
    forms.move(form, ["copyFiles"], form.getSection("Streaming"))
    forms.put_after(form.getSection("Streaming"), "copyFiles", "fileTimeout")
    copy = form.getParam("copyFiles")
    copy.label.set("Copy movies into the project?")
    copy.expertLevel.set(params.LEVEL_NORMAL)
    copy.help.set("No: the project holds links, and the raw data stays where it is. Yes: every movie is copied, for "
                  "cameras whose buffer is purged during the session. Movies are read, never moved.")


def _define_streaming(section: Any) -> None:
    section.addParam("until", params.StringParam, default="", label="End at (08:00, or a date and a time)",
                     help="Time at which the import ends even if movies still arrive: 08:00 is the next time it is 08:00, "
                          "2026-11-30 08:00 is that time on that day, in this machine's time zone. Whatever was imported is "
                          "still processed. Empty: no such time. It can be changed during the run: tomostream until PROJECT "
                          "09:30.")
    forms.put_after(section, "until", "timeout")
    section.addParam("settleSeconds", params.FloatParam, default=1.0, expertLevel=params.LEVEL_ADVANCED,
                     label="Quiet time of a complete file (s)",
                     help="A file with a complete structure that was not seen being closed or moved into place is imported "
                          "after this many seconds without a change.")
    streaming_form.define_params(section)


def define_mdocs(form: Any) -> None:
    """Add the field for the mdoc files, from which empty fields are filled in."""
    form.addParam("mdocsPath", params.PathParam, allowsNull=True, label="Folder of the mdoc files",
                  help="Folder or pattern of the mdoc files. If pixel size, voltage or magnification are left empty below, "
                       "they are read from the first mdoc that gives them; the compose protocol takes its series from there.\n"
                       "If there is already an mdoc, the wizard reads it now and fills in the fields.")


def define_acquisition(form: Any) -> Any:
    """Allow fields that an mdoc gives to be left empty; return the group of acquisition fields."""
    for name, unit in (("samplingRate", "Pixel size of the movies in A"), ("voltage", "Acceleration voltage in kV"),
                       ("magnification", "Nominal magnification")):
        field = form.getParam(name)
        field.default.set(None)
        field.validators = [params.Format(int if name == "magnification" else float,
                                          error="should be a number, or empty", allowsNull=True)]
        field.help.set(f"{unit}. Empty: it is read from the first mdoc"
                       + (", or from the header of the first movie" if name == "samplingRate" else "")
                       + "; until then movies wait.")
    for name in ("amplitudeContrast", "magnification"):
        form.getParam(name).expertLevel.set(params.LEVEL_ADVANCED)
    group = form.getParam("Acquisition_info")
    forms.put_first(group, ["samplingRate", "scannedPixelSize", "voltage", "sphericalAberration"])
    forms.set_labels(form, {"samplingRate": "Pixel size (A/px)", "voltage": "Voltage (kV)",
                            "magnification": "Magnification"})
    forms.set_helps(form, {
        "dosePerFrame": "Dose of one frame in e/A2. Only needed for dose weighting inside MotionCor; the doses of the "
                        "series come from the mdoc files.",
        "doseInitial": "Dose in e/A2 before the first frame of a movie. 0 in tomography: what the specimen received in "
                       "earlier tilts comes from the mdoc files.",
        "scannedPixelSize": "Physical pixel of the camera in µm; with the magnification it gives the pixel "
                            "size."})
    return group


def problems(protocol: Any) -> list[str]:
    """Return what is wrong in the fields, for `_validate`."""
    errors = []
    if not (protocol.filesPath.get() or "").strip():
        errors.append("Folder of the movies is empty: say where the microscope writes its movies.")
    for label, path, found in (("Gain image", protocol.gainFile, protocol.getGain()),
                               ("Dark image", protocol.darkFile, protocol.getDark())):
        if not path.empty() and (not found or os.path.isdir(found)):
            errors.append(f"{label}: there is no file {path.get()}.")
    for name, label in (("samplingRate", "Pixel size"), ("voltage", "Voltage")):
        value = getattr(protocol, name).get()
        if value is not None and value <= 0:
            errors.append(f"{label} must be more than 0, or empty to be read from the first mdoc.")
    errors += forms.time_problems(protocol, ["timeout", "fileTimeout"])
    try:
        until.parse(protocol.until.get() or "", 0.0)
    except ValueError as error:
        errors.append(f"End at: {error}.")
    errors += forms.number_problems(protocol, LIMITS)
    return errors


def warnings(protocol: Any) -> list[str]:
    """Return what is doubtful in the fields."""
    warnings = []
    pattern = protocol.getPattern()
    folder = os.path.dirname(pattern) if protocol.filesPattern.get() else pattern
    if folder and not glob.has_magic(folder) and not os.path.isdir(folder):
        warnings.append(f"The folder {folder} does not exist yet{patterns.near(folder)}. The import will wait for it.")
    if protocol.voltage.get() is None and not protocol.mdocsPath.get():
        warnings.append("The voltage is empty, and no mdoc files are given from which it could be read: all movies "
                        "would wait for it.")
    return warnings
