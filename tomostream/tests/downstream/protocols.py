# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocols of other plugins behind ours, all scheduled before the first movie. Runs in the environment of `check_protocols`.

    python protocols.py FOLDER IMOD_HOME       runs a session in FOLDER and prints a JSON object of what came out

The chain: import, motioncor, compose; from the composed series the filter of views of scipion-em-tomo, IMOD's preprocessing,
coarse alignment and CTF; from our aligned series IMOD's reconstruction. IMOD's programs are stand-ins.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

#: Name -> class, the parameter of its input, from where, and its other parameters.
FOREIGN = {
    "filter": ("ProtExclViewFilter", "inTsSet", ("compose", "tiltSeries"),
               {"minTilt": -70.0, "maxTilt": 70.0, "maxDose": 500.0, "minViews": 3, "qualityFilterFactor": 0}),
    "preprocess": ("ProtImodTsNormalization", "inputSetOfTiltSeries", ("filter", "tiltSeries"),
                   {"binning": 2, "processOddEven": True}),
    "coarse": ("ProtImodXcorrPrealignment", "inputSetOfTiltSeries", ("preprocess", "TiltSeries"), {}),
    "ctf": ("ProtImodAutomaticCtfEstimation", "inputSetOfTiltSeries", ("compose", "tiltSeries"), {}),
    "reconstruction": ("ProtImodTomoReconstruction", "inputSetOfTiltSeries", ("aretomo", "TiltSeries"),
                       {"tomoThickness": 64, "useGpu": False, "processOddEven": True})}
OUTPUT = {"filter": "tiltSeries", "preprocess": "TiltSeries", "coarse": "TiltSeries", "ctf": "CTFTomoSeries",
          "reconstruction": "Tomograms"}
SECONDS = 900.0
CLI = [sys.executable, "-m", "tomostream.cli"]


def main() -> None:
    folder, imod = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    os.environ["IMOD_HOME"] = imod
    acquisition, place = os.path.join(folder, "acq"), os.path.join(folder, "project")
    from tomostream.cli import home, project

    home.scipion_environment(home.default_home(place))
    settings = {"import": {"filesPath": os.path.join(acquisition, "frames"), "mdocsPath": os.path.join(acquisition, "mdocs"),
                           "timeout": "4m"}, "motioncor": {"engine": "CPU", "splitEvenOdd": "yes"},
                "compose": {"filesPath": os.path.join(acquisition, "mdocs"), "doEvenOdd": "yes", "liveReport": "no",
                            "time4NextTilt": "20"},
                "aretomo": {"engine": "CPU", "tomoThickness": 200, "alignZ": 120, "binFactor": 2}}
    chain = project.create(place, settings)
    from pyworkflow.config import Config

    classes, made = Config.getDomain().getProtocols(), dict(chain.protocols)
    for name, (class_name, field, (source, output), values) in FOREIGN.items():
        protocol = chain.project.newProtocol(classes[class_name])
        protocol.setObjLabel(name)
        getattr(protocol, field).set(made[source])
        getattr(protocol, field).setExtended(output)
        for key, value in values.items():
            getattr(protocol, key).set(value)
        chain.project.saveProtocol(protocol)
        made[name] = protocol
    for protocol in (*(made[name] for name in FOREIGN), *(chain.protocols[name] for name in project.ORDER)):
        chain.project.scheduleProtocol(protocol)
    deadline = time.monotonic() + SECONDS
    while not all(os.path.exists(os.path.join(chain.folder(name), "extra", "ledger.jsonl")) for name in project.ORDER):
        time.sleep(2.0)
        if time.monotonic() > deadline:
            sys.exit("our protocols did not start")
    subprocess.run([*CLI, "simulate", acquisition, "--quiet", "--series", "2", "--tilts", "9", "--frames", "2", "--size", "192",
                    "--interval", "0.5", "--max-tilt", "40", "--thickness", "900"], check=True)
    while time.monotonic() < deadline:
        time.sleep(5.0)
        for name in FOREIGN:
            chain.project._updateProtocol(made[name])
        if all(made[name].getStatus() in ("finished", "failed", "aborted") for name in FOREIGN):
            break
    print(json.dumps({name: facts(made[name], OUTPUT[name]) for name in FOREIGN}))


def facts(protocol, output: str) -> dict:
    """What came out of a protocol, as anybody reads it."""
    items = getattr(protocol, output, None)
    found = {"status": protocol.getStatus(), "series": {}, "error": str(protocol.getErrorMessage())[:200]}
    if items is None:
        return found
    items.loadAllProperties()
    found["closed"] = items.isStreamClosed()
    for item in items.iterItems():
        one = {"pixel_size": getattr(item, "getSamplingRate", lambda: None)()}
        if output == "Tomograms":
            one |= {"halves": bool(item.getHalfMaps()), "axis": item.getAcquisition().getTiltAxisAngle()}
        elif output == "CTFTomoSeries":
            one["tilts"] = item.getSize()
        else:
            images = [image.clone() for image in item.iterItems(orderBy="_tiltAngle")]
            one |= {"angles": [image.getTiltAngle() for image in images], "halves": item.hasOddEven(),
                    "dose": [image.getAcquisition().getDoseInitial() for image in images],
                    "axis": item.getAcquisition().getTiltAxisAngle()}
        found["series"][item.getTsId()] = one
    return found


if __name__ == "__main__":
    main()
