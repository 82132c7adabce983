# SPDX-License-Identifier: GPL-3.0-or-later
"""The form of the compose protocol: its fields, and what is wrong or doubtful in them."""

from __future__ import annotations

import glob
import math
import os
import re
from typing import Any

from pyworkflow.protocol import params

from tomostream.acquisition.events import Late
from tomostream.files import patterns
from tomostream.protocols import alarms, disk, forms, mdocs, page, signs
from tomostream.streaming import form as streaming_form
from tomostream.streaming.values import seconds_of

LIMITS = {"expectedTilts": (1, math.inf), "expectedSeries": (1, math.inf), "minNumTilts": (1, math.inf),
          "percentTiltsRequired": (0, 100), "manualTiltAxisAngle": (-360, 360), **streaming_form.LIMITS}
#: The choices for late tilts, in the order of the form.
LATE = (Late.UNLESS_READ, Late.AGAIN, Late.NEVER)
#: A prefix of series names; these name tables of databases.
PREFIX = re.compile(r"([A-Za-z][A-Za-z0-9_]{0,29})?", re.ASCII)


def define(form: Any) -> None:
    """Define the fields."""
    form.addSection(label="Input")
    form.addParam("inputMicrographs", params.PointerParam, pointerClass="SetOfMicrographs", important=True,
                  allowsNull=True,      # `_validate` reports what is missing
                  label="Input micrographs",
                  help="The aligned tilts, from the motioncor protocol. The set may still be empty and growing.")
    form.addParam("filesPath", params.PathParam, label="Folder of the mdoc files (empty: the import's)",
                  help="Where the microscope writes its *.mdoc files. Wildcards select several folders. If the folder "
                       "itself holds none, its subfolders are searched. Empty: the folder given in the import protocol.")
    form.addParam("mdocPattern", params.StringParam, default="*.mdoc", label="Mdoc pattern",
                  help="Which files of the folder are mdoc files of tilt series. SerialEM, PACEtomo and Tomo5 are "
                       "understood; maps, montages and targets are recognised automatically.")
    form.addParam("excludedWords", params.StringParam, default="", label="Exclusion words",
                  help="Words separated by blanks. An mdoc file whose name contains one of them is ignored.")
    form.addParam("fromNames", params.BooleanParam, default=False, expertLevel=params.LEVEL_ADVANCED,
                  label="Series from the names of the movies alone?",
                  help="For sessions without mdoc files whose movies are called NAME_ORDER_ANGLE, e.g. TS_01_012_-18.0.tif. "
                       "Doses are then unknown, and the tilt axis angle must be given below. Mdoc files are not read.")
    form.addParam("seriesPrefix", params.StringParam, default="", label="Prefix of the series' names",
                  help="Put in front of the name of every series, e.g. grid1_ for grid1_TS_01: for sessions that will be "
                       "merged later. Letters, digits and underscores. Series with the same name in two folders get the "
                       "folder name in front automatically.")
    form.addParam("doEvenOdd", params.BooleanParam, default=False, label="Even/odd tilt series too?",
                  help="Also composes series of the sums of even and of odd frames. The motioncor protocol must have made them.")
    _define_geometry(form)
    _define_streaming(form)
    form.addParallelSection(threads=3, mpi=0)


def _define_geometry(form: Any) -> None:
    group = form.addSection(label="Geometry and completeness")
    group.addParam("manualTiltAxisAngle", params.FloatParam, allowsNull=True, default=None,
                   label="Tilt axis angle (deg)",
                   help="Rotation of the tilt axis from the y axis of the image, counter-clockwise, in degrees (IMOD's "
                        "convention). Empty: from each mdoc file. 0 is a value.")
    signs.define_params(group)
    group.addParam("expectedTilts", params.IntParam, allowsNull=True, default=None, label="Tilts per series",
                   help="How many tilts a complete series has. Empty: learned from earlier series. When it is known, a series "
                        "is composed the moment its last tilt is aligned.")
    group.addParam("minNumTilts", params.IntParam, default=3, label="Minimum number of tilts",
                   help="Series with fewer aligned tilts are reported as failed, and not composed.")
    group.addParam("percentTiltsRequired", params.IntParam, default=50, expertLevel=params.LEVEL_ADVANCED,
                   label="Minimum of aligned tilts (%)",
                   help="A series with a smaller share of its acquired tilts aligned is reported as failed, and not composed.")


def _define_streaming(form: Any) -> None:
    form.addSection(label="Streaming")
    form.addParam("time4NextTilt", params.StringParam, default="3m", label="Time for the next tilt (s, m, h)",
                  help="Upper limit: a series with nothing new for this long is composed as it is. Most series are composed "
                       "earlier, because the number of tilts is known or by their own rhythm, which also works for series "
                       "acquired in turns (PACEtomo). 20 s is the recommended minimum. A plain number means seconds; 3m and 1h "
                       "are minutes and hours.")
    form.addParam("lateTilts", params.EnumParam, choices=[each.value for each in LATE], default=0, label="Late tilts",
                  help="What happens when a tilt arrives after its series was composed, or is aligned again. tomostream's own "
                       "protocols follow a series that is composed again. Protocols of other plugins read a series several "
                       "times while they work on it, and would combine the alignment of one version with the tilts of "
                       "another: while one of them works on the series, late tilts are left out and reported. A choice made by "
                       "hand (tilts to leave out) always composes the series again.")
    form.addParam("time4NextTS", params.StringParam, default="30m", label="Time for the next tilt series (s, m, h)",
                  help="The protocol never ends while the motioncor protocol before it is running, however long the "
                       "microscope pauses. It ends as soon as its input is closed and every mdoc has been dealt with. If its "
                       "input ended without being closed, it ends after this long without anything new.")
    disk.define_params(form)
    page.define_params(form)
    streaming_form.define_params(form)
    alarms.define_params(form)


def problems(protocol: Any) -> list[str]:
    """Return what is wrong in the fields, for `_validate`."""
    errors = []
    if protocol.fromNames.get() and protocol.manualTiltAxisAngle.get() is None:
        errors.append("Tilt axis angle: series made from the names of movies alone need it, because no mdoc file gives it.")
    if not protocol.fromNames.get() and protocol.inputMicrographs.getObjValue() is not None and not mdocs.place_of(protocol)[0]:
        errors.append("Folder of the mdoc files is empty, here and in the import: say where the microscope writes them.")
    if not (protocol.mdocPattern.get() or "").strip():
        errors.append("Mdoc pattern is empty: *.mdoc takes all of them.")
    if not PREFIX.fullmatch((protocol.seriesPrefix.get() or "").strip()):
        errors.append("Prefix of the series' names: use at most 30 letters, digits and underscores, beginning with a letter.")
    errors += signs.problems(protocol) + alarms.problems(protocol)
    return errors + forms.time_problems(protocol, ["time4NextTilt", "time4NextTS"]) + forms.number_problems(protocol, LIMITS)


def warnings(protocol: Any) -> list[str]:
    """Return what is doubtful in the fields."""
    warnings = []
    if not forms.time_problems(protocol, ["time4NextTilt"]) and seconds_of(protocol.time4NextTilt.get()) < 20:
        warnings.append("Time for the next tilt is below the recommended minimum of 20 s: a series may be composed "
                        "before its last tilts (they would compose it again, as a higher version).")
    producer = protocol.inputMicrographs.getObjValue()
    makes = getattr(producer, "splitEvenOdd", None)
    if protocol.doEvenOdd.get() and not hasattr(producer, "micrographsEven") and not (makes is not None and makes.get()):
        warnings.append("Even/odd series are asked for, but the input protocol has no even/odd sums yet.")
    folder, _ = mdocs.place_of(protocol)
    if folder and not glob.has_magic(folder) and not os.path.isdir(folder):
        warnings.append(f"The folder {folder} does not exist yet{patterns.near(folder)}. The protocol will wait for it.")
    return warnings
