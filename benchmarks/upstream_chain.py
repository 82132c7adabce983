# SPDX-License-Identifier: GPL-3.0-or-later
"""The chain of the four upstream protocols (pwem, motioncorr, tomo, aretomo) on a folder that is being written.

    python upstream_chain.py PROJECT FRAMES MDOCS JSON     JSON: {"import": {parameter: value}, "motioncor": ...}

Started by `latency.py`, in an environment of its own. Handed over to Scipion at once: import launched, the others scheduled.
"""

from __future__ import annotations

import json
import os
import sys

from pyworkflow.config import Config
from pyworkflow.project import Manager

CLASSES = {"import": "ProtImportMovies", "motioncor": "ProtMotionCorrNewStreaming", "compose": "ProtComposeTS",
           "aretomo": "ProtAreTomoAlignRecon"}
POINTERS = {"motioncor": ("inputMovies", "import", "outputMovies"),
            "compose": ("inputMicrographs", "motioncor", "micrographs"),
            "aretomo": ("inputSetOfTiltSeries", "compose", "tiltSeries")}


def main(path: str, frames: str, mdocs: str, settings: dict[str, dict]) -> None:
    domain = Config.getDomain()
    domain.getProtocols()
    project = Manager().createProject(os.path.basename(path), location=os.path.dirname(path))
    os.chdir(project.path)
    fixed = {
        "import": {"filesPath": frames, "filesPattern": "*.tif", "voltage": 300.0, "sphericalAberration": 2.7,
                   "amplitudeContrast": 0.1, "magnification": 42000, "samplingRate": 6.0, "dosePerFrame": 1.0,
                   "dataStreaming": True},
        "motioncor": {"patchX": 1, "patchY": 1, "doApplyDoseFilter": False, "gpuList": "16"},
        "compose": {"filesPath": mdocs, "mdocPattern": "*.mdoc"},
        "aretomo": {"binFactor": 2, "alignZ": 20, "tomoThickness": 40, "gpuList": "17"}}
    protocols: dict = {}
    for name, class_name in CLASSES.items():
        protocol = project.newProtocol(domain.findClass(class_name))
        for key, value in {**fixed[name], **settings.get(name, {})}.items():
            getattr(protocol, key).set(value)
        if name in POINTERS:
            field, source, output = POINTERS[name]
            getattr(protocol, field).set(protocols[source])
            getattr(protocol, field).setExtended(output)
        project.saveProtocol(protocol)
        protocols[name] = protocol
    project.launchProtocol(protocols["import"])
    for name in POINTERS:
        project.scheduleProtocol(protocols[name])
    print("started", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:4], json.loads(sys.argv[4]))
