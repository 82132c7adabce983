# SPDX-License-Identifier: GPL-3.0-or-later
"""The sessions that `check_protocols` runs: which protocols read what, and what must come out of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

SIZE, TILTS, SERIES, PIXEL, DOSE, THICKNESS, BINNING = 256, 15, 2, 8.0, 6.0, 200, 2
#: Degrees between tilts; and A of the specimen, less than that of the tomogram.
STEP, SLAB = 8.8, 900.0
#: Limits of upstream's filter: tilt angle in degrees, accumulated dose in e/A2. Three of fifteen tilts are out.
MAX_ANGLE, MAX_DOSE = 55, 76.0


class Shifts(str, Enum):
    """What the transforms of a series must be."""

    TRUE = "those of the simulation"
    COARSE = "those of tiltxcorr"
    FINE = "those of tiltalign after tiltxcorr"


class Doses(str, Enum):
    """What the doses before the tilts of a series must be."""

    TRUE = "those of the simulation"
    SPENT = "none: the images were weighted"
    #: tomo/protocols/protocol_compose_TS.py of scipion-em-tomo 3.12.4, generateOutTs: the larger one of the dose of the tilt
    #: itself and of the dose of a *frame* times the tilts before. Of two frames a tilt that is half of what it should be.
    UPSTREAM = "those of upstream's compose"
    #: imod/protocols/protocol_ctfCorrection.py of scipion-em-imod 3.9.1 copies one acquisition into all images.
    LAST = "that of the last tilt, in all"


@dataclass(frozen=True)
class Expected:
    """What must come out for every series. None and False: not looked for.

    `axis` : None, or 0.0 for turned images, 1.0 else.
    `limits` : the tilts out of the limits of the filter are disabled. `tomogram` : that of ours, to be compared. `without_late` :
    it is that of the version before the late tilt came.
    """

    angles: bool = False
    doses: Doses | None = None
    axis: float | None = None
    halves: bool | None = None
    shifts: Shifts | None = None
    limits: bool = False
    tomogram: bool = False
    without_late: bool = False


RAW = Expected(angles=True, doses=Doses.TRUE, axis=1.0)
RAW_HALVES = Expected(angles=True, doses=Doses.TRUE, axis=1.0, halves=True)
RAW_HALVES_UPSTREAM = Expected(angles=True, doses=Doses.UPSTREAM, axis=1.0, halves=True)
ALIGNED = Expected(angles=True, doses=Doses.TRUE, axis=1.0, shifts=Shifts.TRUE)
TOMOGRAM = Expected(axis=1.0, tomogram=True)
PRESENT = Expected()


@dataclass(frozen=True)
class Node:
    """A protocol: its class, from where each input comes (field -> (node, output)), its outputs and its other parameters.

    `ours` : one of the four of tomostream, whose choices are given in words. `after` : the node that must have ended before.
    """

    name: str
    protocol: str
    inputs: Mapping[str, tuple[str, str]]
    outputs: Mapping[str, Expected]
    values: Mapping[str, object] = field(default_factory=dict)
    ours: str = ""
    after: str = ""


@dataclass(frozen=True)
class Session:
    """Protocols that are all given to the scheduler before the first movie. `tilt_axis` in degrees is that of the simulation.

    `template` : of tomostream/workflows, filled in with `answers`; its protocols by their labels. `template_outputs` : those of
    it that are looked at. `compared` : the node whose tomograms are ours. `relion` : the node whose aligned series and CTFs are
    written by reliontomo's converter, of which its release offers no protocol that needs no particles. `late` : one movie of the
    first series comes when the series was composed without it and everybody behind has that.
    """

    nodes: tuple[Node, ...]
    tilt_axis: float
    template: str = ""
    answers: Mapping[str, str] = field(default_factory=dict)
    template_outputs: Mapping[str, Mapping[str, Expected]] = field(default_factory=dict)
    template_values: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    compared: str = ""
    relion: str = ""
    late: bool = False


IMPORT, MOTIONCOR, COMPOSE = "tomostream - import movies", "tomostream - motioncor", "tomostream - compose series"
ARETOMO = "tomostream - aretomo"
_CPU = {"engine": "CPU"}
#: Tomograms by weighted back-projection, as most of the others make them: a mirror image of one by SIRT, whose balls are longer,
#: correlates with it by 0.12.
WBP = 1
_ARETOMO = {**_CPU, "tomoThickness": THICKNESS, "alignZ": 140, "binFactor": BINNING, "reconMethod": WBP,
            "filteredTomograms": "no"}
_COMPOSE = {"doEvenOdd": "yes", "liveReport": "no", "expectedTilts": TILTS, "time4NextTilt": "10m"}
_TEMPLATE = {"engine": "CPU", "tilts": str(TILTS), "timeout": "1h"}
_HALVES = {MOTIONCOR: {"splitEvenOdd": True}, COMPOSE: {"doEvenOdd": True, "liveReport": False}}


def _aretomo(source: str, output: str, name: str = ARETOMO, halves: bool = True, aligned: Expected = ALIGNED) -> Node:
    return Node(name, "ProtTomoStreamAreTomo", {"inputSetOfTiltSeries": (source, output)},
                {"TiltSeries": aligned, "Tomograms": TOMOGRAM}, {**_ARETOMO, "doEvenOdd": "yes" if halves else "no"}, "aretomo")


OURS = (
    Node(IMPORT, "ProtTomoStreamImportMovies", {}, {}, {"timeout": "1h"}, "import"),
    Node(MOTIONCOR, "ProtTomoStreamMotionCor", {"inputMovies": (IMPORT, "outputMovies")}, {},
         {**_CPU, "splitEvenOdd": "yes"}, "motioncor"),
    Node(COMPOSE, "ProtTomoStreamComposeTS", {"inputMicrographs": (MOTIONCOR, "micrographs")}, {"tiltSeries": RAW_HALVES},
         _COMPOSE, "compose"),
    _aretomo(COMPOSE, "tiltSeries"))

FILTER = "tomo - exclude views filter"
IMOD = Session(
    tilt_axis=84.7,
    template="streaming_tomography_imod",
    answers={**_TEMPLATE, "minTilt": "-70", "maxTilt": "70", "quality": "0", "minViews": "3", "binning": str(BINNING),
             "thickness": str(THICKNESS // BINNING)},
    template_values=_HALVES,
    template_outputs={
        FILTER: {"tiltSeries": RAW_HALVES}, "imod - Tilt-series preprocess": {"TiltSeries": RAW},
        "imod - Coarse prealignment": {"TiltSeries": Expected(angles=True, doses=Doses.TRUE, axis=1.0, shifts=Shifts.COARSE)},
        "imod - Generate fiducial model": {"FiducialModelGaps": PRESENT},
        "imod - Fiducial alignment": {"TiltSeries": Expected(angles=True, doses=Doses.TRUE, axis=1.0, shifts=Shifts.FINE)},
        "imod - CTF estimation (auto)": {"CTFTomoSeries": PRESENT},
        "imod - CTF correction": {"TiltSeries": Expected(angles=True, doses=Doses.LAST, axis=0.0)},
        "imod - Tomo reconstruction": {"Tomograms": PRESENT}},
    nodes=(
        _aretomo(COMPOSE, "tiltSeries"),
        Node("imod - reconstruction of our alignment", "ProtImodTomoReconstruction",
             {"inputSetOfTiltSeries": (ARETOMO, "TiltSeries")},
             {"Tomograms": Expected(axis=1.0, halves=True, tomogram=True)},
             {"tomoThickness": THICKNESS, "useGpu": False, "processOddEven": True}),
        Node("imod - dose filter", "ProtImodDoseFilter", {"inputSetOfTiltSeries": (COMPOSE, "tiltSeries")},
             {"TiltSeries": Expected(angles=True, doses=Doses.SPENT, axis=1.0, halves=True)}, {"processOddEven": True}),
        Node("imod - beads", "ProtImodFiducialModel", {"inputSetOfTiltSeries": ("imod - Coarse prealignment", "TiltSeries")},
             {"FiducialModelGaps": PRESENT}, {"typeOfModel": 0}),
        Node("imod - fiducial alignment by beads", "ProtImodFiducialAlignment",
             {"inputSetOfLandmarkModels": ("imod - beads", "FiducialModelGaps")},
             {"TiltSeries": Expected(angles=True, doses=Doses.TRUE, axis=1.0, shifts=Shifts.FINE)})),
    compared=ARETOMO)

FILTERED = Session(
    tilt_axis=2.1,
    template="streaming_tomography_filtered",
    answers={**_TEMPLATE, "minTilt": str(-MAX_ANGLE), "maxTilt": str(MAX_ANGLE), "maxDose": str(MAX_DOSE), "quality": "0",
             "minViews": "3", "binning": str(BINNING), "alignZ": "140", "thickness": str(THICKNESS)},
    template_values=_HALVES,
    template_outputs={
        FILTER: {"tiltSeries": Expected(angles=True, doses=Doses.TRUE, axis=1.0, halves=True, limits=True)},
        ARETOMO: {"TiltSeries": Expected(angles=True, doses=Doses.TRUE, axis=1.0, halves=True, limits=True, shifts=Shifts.TRUE),
                  "Tomograms": Expected(axis=1.0)}},
    nodes=())

_CTF = ("cistem - CTFFIND 5", "CTFs")
OTHERS = Session(
    tilt_axis=-95.3,
    nodes=(
        *OURS,
        Node("cistem - CTFFIND 5", "CistemProtTsCtffind", {"inputTiltSeries": (COMPOSE, "tiltSeries")}, {"CTFs": PRESENT},
             {"windowSize": 128}),
        Node("tomo3d - reconstruction", "ProtTomo3dReconstrucTomo", {"inputSetOfTiltSeries": (ARETOMO, "TiltSeries")},
             {"tomograms": Expected(axis=1.0, halves=True, tomogram=True)}, {"height": THICKNESS, "doEvenOdd": True}),
        Node("tomo3d - denoising", "ProtTomo3dProtDenoiseTomogram", {"inputSetTomograms": (ARETOMO, "Tomograms")},
             {"tomograms": TOMOGRAM}),
        Node("warp - deconvolution of tilt series", "ProtWarpDeconvTS",
             {"inputTiltSeries": (ARETOMO, "TiltSeries"), "inputCTFs": _CTF}, {"TiltSeries": ALIGNED}, {"numberOfThreads": 1}),
        Node("warp - deconvolution of tomograms", "ProtWarpDeconvTomo",
             {"inputTomograms": (ARETOMO, "Tomograms"), "inputCTFs": _CTF}, {"Tomograms": Expected(axis=1.0)},
             {"numberOfThreads": 1}),
        Node("emantomo - CTF estimation", "EmanProtEstimateCTF", {"inputTS": (COMPOSE, "tiltSeries")}, {"CTFs": PRESENT}),
        Node("cryocare - training", "ProtCryoCARETraining", {"tomos": (ARETOMO, "Tomograms")}, {"model": PRESENT},
             {"patch_shape": 16}),
        Node("cryocare - prediction", "ProtCryoCAREPrediction", {"tomos": (ARETOMO, "Tomograms"),
                                                                 "model": ("cryocare - training", "model")},
             {"tomograms": TOMOGRAM}),
        Node("aretomo - reconstruction of our alignment", "ProtAreTomoAlignRecon",
             {"inputSetOfTiltSeries": (ARETOMO, "TiltSeries")}, {"Tomograms": Expected(axis=1.0, halves=True, tomogram=True)},
             {"skipAlign": True, "doEvenOdd": True, "tomoThickness": THICKNESS, "binFactor": BINNING, "reconMethod": WBP,
              "doEstimateCtf": False},
             after=ARETOMO)),       # without an alignment it leaves its input's database locked for as long as it runs
    compared=ARETOMO, relion="cistem - CTFFIND 5")

_UPSTREAM = "upstream - "
UPSTREAM = Session(
    tilt_axis=2.1,
    nodes=(
        Node(_UPSTREAM + "import movies", "ProtImportMovies", {}, {},
             {"filesPattern": "*.tif", "voltage": 300.0, "sphericalAberration": 2.7, "amplitudeContrast": 0.1,
              "magnification": 42000, "samplingRate": PIXEL, "dosePerFrame": DOSE / 2, "dataStreaming": True, "timeout": "100",
              "fileTimeout": "5"}),
        Node(_UPSTREAM + "motioncorr", "ProtMotionCorrNewStreaming",
             {"inputMovies": (_UPSTREAM + "import movies", "outputMovies")}, {},
             {"patchX": 1, "patchY": 1, "doApplyDoseFilter": False, "splitEvenOdd": True}),
        Node(_UPSTREAM + "compose", "ProtComposeTS", {"inputMicrographs": (_UPSTREAM + "motioncorr", "micrographs")},
             {"tiltSeries": RAW_HALVES_UPSTREAM}, {"time4NextTilt": "20", "doEvenOdd": True}),
        _aretomo(_UPSTREAM + "compose", "tiltSeries", "tomostream - aretomo behind upstream's compose",
                 aligned=Expected(angles=True, doses=Doses.UPSTREAM, axis=1.0, shifts=Shifts.TRUE)),
        Node(COMPOSE, "ProtTomoStreamComposeTS", {"inputMicrographs": (_UPSTREAM + "motioncorr", "micrographs")},
             {"tiltSeries": RAW_HALVES}, _COMPOSE, "compose"),
        Node(_UPSTREAM + "aretomo", "ProtAreTomoAlignRecon", {"inputSetOfTiltSeries": (COMPOSE, "tiltSeries")},
             {"TiltSeries": ALIGNED, "Tomograms": Expected(axis=1.0, halves=True, tomogram=True)},
             {"doEvenOdd": True, "tomoThickness": THICKNESS, "alignZ": 140, "binFactor": BINNING, "reconMethod": WBP,
              "doEstimateCtf": False}),
        Node(MOTIONCOR, "ProtTomoStreamMotionCor", {"inputMovies": (_UPSTREAM + "import movies", "outputMovies")}, {},
             {**_CPU, "splitEvenOdd": "yes"}, "motioncor"),
        Node(_UPSTREAM + "compose behind our motioncor", "ProtComposeTS", {"inputMicrographs": (MOTIONCOR, "micrographs")},
             {"tiltSeries": RAW_HALVES_UPSTREAM}, {"time4NextTilt": "20", "doEvenOdd": True})),
    compared="tomostream - aretomo behind upstream's compose")

_FILTER_OF_LATE = Node(FILTER, "ProtExclViewFilter", {"inTsSet": (COMPOSE, "tiltSeries")},
                       {"tiltSeries": replace(RAW_HALVES, without_late=True)},
                       {"minTilt": -70.0, "maxTilt": 70.0, "maxDose": 1000.0, "qualityFilterFactor": 0, "minViews": 3})
_UPSTREAM_OF_LATE = Node(
    _UPSTREAM + "aretomo", "ProtAreTomoAlignRecon", {"inputSetOfTiltSeries": (COMPOSE, "tiltSeries")},
    {"TiltSeries": replace(ALIGNED, without_late=True), "Tomograms": Expected(axis=1.0, halves=True)},
    {"doEvenOdd": True, "tomoThickness": THICKNESS, "alignZ": 140, "binFactor": BINNING, "reconMethod": WBP,
     "doEstimateCtf": False})


def _late(choice: str, without: bool, *others: Node) -> Session:
    """A session in which a tilt comes late; `without`: what is composed already stays as it is."""
    composed = replace(OURS[2], outputs={"tiltSeries": replace(RAW_HALVES, without_late=without)},
                       values={**_COMPOSE, "time4NextTilt": "60", "lateTilts": choice})
    ours = _aretomo(COMPOSE, "tiltSeries", aligned=replace(ALIGNED, without_late=without))
    return Session(tilt_axis=2.1, nodes=(*OURS[:2], composed, ours, _FILTER_OF_LATE, *others), compared=ARETOMO, late=True)


#: While protocols of other plugins read the series a late tilt is left out; where it is asked for, it is composed again all the
#: same, and those who have the version before keep that.
LATE = _late("compose again, unless other plugins read it", True, _UPSTREAM_OF_LATE)
LATE_AGAIN = _late("compose again", False)

SESSIONS = {"late": LATE, "late_again": LATE_AGAIN, "imod": IMOD, "filtered": FILTERED, "others": OTHERS, "upstream": UPSTREAM}
