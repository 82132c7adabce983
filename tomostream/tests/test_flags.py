# SPDX-License-Identifier: GPL-3.0-or-later
"""What each program means by each flag, held against the forms in both directions.

Every field of a form that a user sees changes what the chosen program does, or the form says that it does not; every flag that
is sent is one that the program knows, with as many values of the right kind; every flag of a program is offered, or it is said
here why not. The tables are of MotionCor3 1.2.1, AreTomo2 1.1.3 and AreTomo3 2.3.1, as their sources read their command lines.
"""

from __future__ import annotations

import os
import re
import unittest
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

from pyworkflow.config import Config

Config.getDomain().getProtocols()       # the plugins below ours can be imported only once Scipion knows them

from aretomo.protocols.protocol_aretomo import ProtAreTomoAlignRecon  # noqa: E402
from motioncorr.protocols import ProtMotionCorrNewStreaming  # noqa: E402
from pyworkflow.protocol import params  # noqa: E402
from tomo.objects import TiltSeries, TomoAcquisition  # noqa: E402

from tomostream.constants import ENGINE_ARETOMO3, ENGINE_CPU, ENGINE_GPU  # noqa: E402
from tomostream.engine import aretomo as cpu_aretomo  # noqa: E402
from tomostream.engine import motioncor as cpu_motioncor  # noqa: E402
from tomostream.engine.commandline import Flag, Use  # noqa: E402
from tomostream.programs.words import parse_flags  # noqa: E402
from tomostream.protocols.aretomo3_run import Aretomo3Run  # noqa: E402
from tomostream.protocols.aretomo_run import AretomoRun  # noqa: E402
from tomostream.protocols.aretomo_series import Source  # noqa: E402
from tomostream.protocols.protocol_aretomo import ProtTomoStreamAreTomo, settings_of  # noqa: E402
from tomostream.tests.test_forms import FormCase, fields_of  # noqa: E402
from tomostream.tests.test_protocol_motioncor import OfAMovie  # noqa: E402

TEXT, NUMBERS = str, float


@dataclass(frozen=True)
class Meaning:
    """What a program means by a flag: in words, how many values of which kind. `acts` False: it is read and does nothing.
    `unoffered`: why no form sends it."""

    words: str
    count: tuple[int, int] = (1, 1)
    kind: type = NUMBERS
    acts: bool = True
    unoffered: str = ""


def path(words: str, unoffered: str = "") -> Meaning:
    return Meaning(words, kind=TEXT, unoffered=unoffered)


ONE_BY_ONE = "one movie or series a run"
OTHERWISE = "the protocol does it itself"
DEFAULT = "the program's default is right"
GPUS = Meaning("GPUs, from 0", (1, 99))
MOTIONCOR3: Mapping[str, Meaning] = {
    "-InMrc": path("MRC movie"), "-InTiff": path("TIFF movie"), "-InEer": path("EER movie"), "-OutMrc": path("sum"),
    "-LogDir": path("folder of the logs"), "-Gain": path("gain reference, MRC of 32-bit floats"),
    "-Dark": path("dark reference"), "-DefectFile": path("x y w h a line"), "-DefectMap": path("1 where bad"),
    "-RotGain": Meaning("quarters counter-clockwise"),
    "-FlipGain": Meaning("1 upside down, 2 left to right"), "-Patch": Meaning("patches in x, y, overlap in %", (2, 3)),
    "-FtBin": Meaning("Fourier binning"), "-Tol": Meaning("px at which the iteration ends"),
    "-PixSize": Meaning("A of the input"),
    "-kV": Meaning("kV"), "-Cs": Meaning("mm, 0: no CTF"), "-Throw": Meaning("frames left out at the beginning"),
    "-Trunc": Meaning("frames left out at the end"), "-Group": Meaning("frames summed for the alignment", (1, 2)),
    "-InitDose": Meaning("e/A2 before"), "-FmDose": Meaning("e/A2 a frame"), "-SumRange": Meaning("e/A2 of _DWS", (2, 2)),
    "-SplitSum": Meaning("1: odd and even sums"), "-OutStack": Meaning("1: aligned frames", (1, 2)), "-Gpu": GPUS,
    "-EerSampling": Meaning("1, 2, 3: 1, 2, 4 times the pixels"),
    "-FmIntFile": path("raw frames, how many a fraction, dose a line"),
    "-Mag": Meaning("major scale, minor scale, angle", (3, 3)),
    "-InvGain": Meaning("1: divide", unoffered="gains are multiplied in all of SerialEM, EPU and Tomo5"),
    "-InSuffix": path("of a folder's movies", ONE_BY_ONE), "-InSkips": path("of a folder's movies", ONE_BY_ONE),
    "-Serial": Meaning("1: a folder", unoffered=ONE_BY_ONE), "-ArcDir": path("4-bit archive", "movies are kept as they are"),
    "-FullSum": path("sum before the alignment", "nothing reads it"),
    "-InAln": path("alignment to use", "movies are aligned anew"),
    "-OutAln": path("alignment", "the log has it"), "-OutStar": Meaning("1: a star file", unoffered="Scipion's sets have it"),
    "-Iter": Meaning("iterations", unoffered=DEFAULT), "-Bft": Meaning("B-factors, A2", (1, 2), unoffered=DEFAULT),
    "-PhaseOnly": Meaning("1", unoffered=DEFAULT), "-TmpFile": path("unused", DEFAULT), "-StackZ": Meaning("unused", acts=False,
                                                                                                 unoffered=DEFAULT),
    "-Align": Meaning("0: only sum", unoffered=DEFAULT), "-AmpCont": Meaning("amplitude contrast", unoffered="no CTF is fitted"),
    "-ExtPhase": Meaning("degrees", unoffered="no CTF is fitted"), "-FmRef": Meaning("reference frame", unoffered=DEFAULT),
    "-Tilt": Meaning("angles", (1, 3), unoffered="of a former version"),
    "-Crop": Meaning("px", (2, 2), acts=False, unoffered="read and never used"),
    "-InFmMotion": Meaning("1: motion within frames", unoffered=DEFAULT),
    "-UseGpus": Meaning("GPUs of many", unoffered=OTHERWISE),
    "-GpuMemUsage": Meaning("share", unoffered=DEFAULT), "-TiffOrder": Meaning("1 or -1", unoffered=DEFAULT),
    "-CorrInterp": Meaning("1", unoffered=DEFAULT)}
ARETOMO2: Mapping[str, Meaning] = {
    "-InMrc": path("stack, MRC of mode 1, 2 or 6"), "-OutMrc": path("volume"), "-AngFile": path("angle, acquisition order"),
    "-AlnFile": path("alignment to use"), "-Align": Meaning("0: do not align"), "-TiltAxis": Meaning("degrees, refine", (1, 2)),
    "-AlignZ": Meaning("px of the volume for the alignment"), "-VolZ": Meaning("px of the volume"), "-OutBin": Meaning("binning"),
    "-TiltCor": Meaning("-1 off, 0 alignment only, 1 volume too; offset", (1, 2)), "-Gpu": GPUS, "-PixSize": Meaning("A"),
    "-Kv": Meaning("kV"), "-Cs": Meaning("mm; with kV and A fits the CTF"), "-AmpContrast": Meaning("share"),
    "-ExtPhase": Meaning("middle and whole width, degrees", (1, 2)), "-FlipVol": Meaning("1: x, y, z"),
    "-FlipInt": Meaning("1: dense is bright"), "-Sart": Meaning("iterations, projections an update", (1, 2)),
    "-Wbp": Meaning("1: weighted back-projection"), "-Patch": Meaning("patches in x, y", (2, 2)),
    "-RoiFile": path("x y a line"), "-DarkTol": Meaning("share, in (0, 1)"),
    "-ImgDose": Meaning("e/A2 a tilt", acts=False),
    "-OutImod": Meaning("IMOD files", unoffered="wrong names or a crash: made by the CPU engine"),
    "-TmpFile": path("debugging", DEFAULT), "-LogFile": path("log", OTHERWISE),
    "-TiltRange": Meaning("degrees", (2, 3), unoffered="every tilt's angle is known"),
    "-TiltScheme": Meaning("scheme", (3, 3), unoffered="every tilt's order is known"),
    "-ReconRange": Meaning("degrees", (2, 2), unoffered="tilts are taken out by people"),
    "-OutXF": Meaning("1: .xf", unoffered="made from the .aln"), "-CropVol": Meaning("px", (2, 2), unoffered=DEFAULT),
    "-Bft": Meaning("A2", (1, 2), unoffered=DEFAULT), "-IntpCor": Meaning("1", unoffered=DEFAULT)}
FROM_MOVIES = "of the motion correction, which is another protocol's"
ARETOMO3: Mapping[str, Meaning] = {
    "-InPrefix": path("stack, MRC of mode 1, 2 or 6"), "-OutDir": path("folder"), "-Cmd": Meaning("1 align, 2 reconstruct"),
    "-Serial": Meaning("0: one series"), "-Gpu": GPUS, "-kV": Meaning("kV"), "-Cs": Meaning("mm, 0: no CTF"),
    "-PixSize": Meaning("A", acts=False), "-SplitSum": Meaning("1: halves too"), "-TiltAxis": Meaning("degrees, refine", (1, 2)),
    "-AlignZ": Meaning("px, 0: measured"), "-VolZ": Meaning("px, -1: measured; at least 100 slices"),
    "-AtBin": Meaning("binnings", (1, 3)), "-TiltCor": Meaning("0 off, else on; offset", (1, 2)),
    "-AmpContrast": Meaning("share"), "-ExtPhase": Meaning("middle and whole width, degrees", (1, 2)),
    "-FlipVol": Meaning("1: x, y, z"), "-FlipInt": Meaning("1: dense is bright"),
    "-Sart": Meaning("iterations, projections an update", (1, 2)), "-Wbp": Meaning("1: weighted back-projection"),
    "-AtPatch": Meaning("patches, at least 4", (2, 2)), "-DarkTol": Meaning("share, 0: off"),
    "-CorrCTF": Meaning("0 off, 1 Wiener filter; low-pass", (1, 2)),
    "-InSuffix": path("of a folder", ONE_BY_ONE), "-InSkips": path("of a folder", ONE_BY_ONE),
    "-Resume": Meaning("1", unoffered=OTHERWISE),
    "-TmpDir": path("unused", DEFAULT), "-LogDir": path("unused", DEFAULT), "-FmDose": Meaning("e/A2", unoffered=FROM_MOVIES),
    "-TotalDose": Meaning("e/A2", unoffered=FROM_MOVIES), "-ExtZ": Meaning("px around the measured thickness", unoffered=DEFAULT),
    "-ReconRange": Meaning("degrees", (2, 2), unoffered="tilts are taken out by people"),
    "-OutXF": Meaning("1: .xf", unoffered="made from the .aln"), "-Align": Meaning("unused", acts=False, unoffered="-Cmd"),
    "-CropVol": Meaning("px", (2, 2), unoffered=DEFAULT), "-OutImod": Meaning("IMOD files", unoffered="made by the CPU engine"),
    "-Bft": Meaning("A2", (1, 2), unoffered=DEFAULT), "-IntpCor": Meaning("1", unoffered=DEFAULT)}


def offered_by(table: Mapping[str, Meaning]) -> frozenset[str]:
    return frozenset(flag for flag, meaning in table.items() if not meaning.unoffered)


def of_cpu(known: Mapping[str, Flag], offered: frozenset[str]) -> dict[str, Meaning]:
    """The table of a program of ours, from what it reads itself."""
    return {flag.tag: Meaning(flag.help or flag.note, flag.count, TEXT if flag.kind is str else NUMBERS, flag.use is Use.ACTED
                              and not flag.help.startswith(("not used", "accepted;")), "" if flag.tag in offered else DEFAULT)
            for flag in known.values()}


#: Fields of upstream's that act without a flag: by what the protocol does before or after the program, or as it runs it.
OTHERWISE_OF_ARETOMO = frozenset({"alignZfile", "doEvenOdd", "outImod", "inputSetOfTiltSeries", "extraParams", "skipAlign",
                                  "makeTomo", "gpuList"})
OTHERWISE_OF_MOTIONCOR = frozenset({"inputMovies", "extraParams2", "EERtext", "eerGroup", "gpuList"})
#: What must be chosen for a field to be seen.
CONTEXT_OF_ARETOMO = {
    "patchX": {"sampleType": 2}, "patchY": {"sampleType": 2}, "coordsFn": {"sampleType": 1},
    "sampleType": {"coordsFn": "places.txt"},
    "goldDiameter": {"eraseGold": 2},
    "minPhaseShift": {"doPhaseShiftSearch": True}, "maxPhaseShift": {"doPhaseShiftSearch": True}}
CONTEXT_OF_MOTIONCOR = {
    "scaleMaj": {"doMagCor": True}, "scaleMin": {"doMagCor": True}, "angDist": {"doMagCor": True},
    "patchOverlap": {"patchX": 5, "patchY": 5}, "groupLocal": {"patchX": 5, "patchY": 5}}


def other_values(name: str, param: params.Param) -> list[object]:
    """Values of a field that are not its default."""
    default = param.default.get()
    if isinstance(param, params.BooleanParam):
        return [str(default).lower() not in ("true", "1")]
    if isinstance(param, params.EnumParam):
        return [number for number in range(len(param.choices)) if number != int(default)]
    if isinstance(param, params.FloatParam):
        return [float(default or 0) * 0.5 + 0.1]
    if isinstance(param, params.IntParam):
        return [int(default or 0) + 3]
    return ["some.txt"]


class BothDirections:
    """Mixed into the cases of the two forms: `sent(values)` gives flags, `program` a table, `gpu_name` its name in helps."""

    def fields(self) -> list[tuple[str, params.Param]]:
        """Upstream's fields of the form, and ours for a flag, but for those that act otherwise."""
        upstream = set(self.upstream()._definition._paramsDict) | self.of_ours
        return [(name, param) for name, param in fields_of(self.form({})) if name in upstream - self.otherwise]

    def check_field(self, name: str, param: params.Param) -> list[str]:
        """What is wrong with a field: it changes nothing, and nobody says so."""
        wrong = []
        context = self.context.get(name, {})
        plain, _ = self.sent(context)
        for value in other_values(name, param):
            protocol = self.form({**context, name: value})
            if not protocol.evalParamCondition(name):
                continue
            flags, warned = self.sent({**context, name: value})
            changed = {flag for flag in flags.keys() | plain.keys() if flags.get(flag) != plain.get(flag)}
            acting = {flag for flag in changed if flag in self.table and self.table[flag].acts}
            if not acting and not warned and not self.is_said(param):
                wrong.append(f"{name}={value} changes {sorted(changed)}")
        return wrong

    def is_said(self, param: params.Param) -> bool:
        """The help text names the program, or all of the CPU engine's or the others, as one that does not use the field."""
        return any(word in (param.help.get() or "") for word in self.said)

    def check_flags(self, values: Mapping[str, object]) -> list[str]:
        """What is wrong with the flags that are sent: unknown, or with values of another number or kind."""
        wrong = []
        for flag, words in self.sent(values)[0].items():
            meaning = self.table.get(flag)
            if flag == "--threads":
                continue
            if meaning is None or meaning.unoffered:
                wrong.append(f"{flag}: {'unknown' if meaning is None else meaning.unoffered}")
            elif not meaning.count[0] <= len(words) <= meaning.count[1]:
                wrong.append(f"{flag} {words}: {meaning.count} values")
            elif meaning.kind is NUMBERS and not all(re.fullmatch(r"-?[\d.]+|%\(GPU\)s", word) for word in words):
                wrong.append(f"{flag} {words}: numbers")
        return wrong

    def test_every_field_acts_or_the_form_says_that_it_does_not(self):
        wrong, seen = [], 0
        for name, param in self.fields():
            seen += 1
            wrong += self.check_field(name, param)
        self.assertGreater(seen, 12)
        self.assertEqual(wrong, [])

    def test_every_flag_that_is_sent_is_known_with_values_of_this_number_and_kind(self):
        wrong = []
        for name, param in self.fields():
            for value in other_values(name, param):
                wrong += self.check_flags({**self.context.get(name, {}), name: value})
        self.assertEqual(sorted(set(wrong)), [])

    def test_every_flag_of_the_program_is_sent_or_it_is_reported_why_not(self):
        sent = set(self.sent({})[0]) | set(self.always)
        acting = [(name, self.form({}).getParam(name)) for name in self.otherwise]
        for name, param in [*self.fields(), *(each for each in acting if isinstance(each[1], (params.BooleanParam,
                                                                                             params.EnumParam)))]:
            for value in other_values(name, param):
                sent |= set(self.sent({**self.context.get(name, {}), name: value})[0])
        self.assertEqual({flag for flag, meaning in self.table.items() if not meaning.unoffered} - sent, set())


class OfAretomo(BothDirections):
    upstream, of_ours = ProtAreTomoAlignRecon, frozenset({"correctCtf", "eraseGold", "goldDiameter", "flatAngle"})
    otherwise, kind, always, context = OTHERWISE_OF_ARETOMO, AretomoRun, ("-AlnFile",), CONTEXT_OF_ARETOMO

    def form(self, values: Mapping[str, object]):
        return self.protocol("ProtTomoStreamAreTomo", engine=self.engine, **values)

    def sent(self, values: Mapping[str, object]) -> tuple[dict[str, list[str]], bool]:
        """(flags, whether the form warns of more than it does by default)."""
        protocol: ProtTomoStreamAreTomo = self.form(values)
        protocol.perTsAlignZ, protocol._reported_binning = {}, 2.0
        acquisition = TomoAcquisition(voltage=300.0, magnification=50000.0, sphericalAberration=2.7, amplitudeContrast=0.1)
        acquisition.setTiltAxisAngle(85.0)
        acquisition.setDosePerFrame(3.0)
        series = TiltSeries(tsId="TS_1")
        series.setSamplingRate(2.0)
        series.setAcquisition(acquisition)
        command = protocol.command_of(series)
        source = Source("TS_1", "", "", "", (64, 64), 2.0, 85.0, (), 3.0, command)
        runner = SimpleNamespace(gpu=self.engine != ENGINE_CPU, threads=2, name="program")
        found = self.kind(source, settings_of(protocol), "work", runner, runner).flags(runner, command, "")
        warnings = len(protocol.warnings()) > len(self.form({}).warnings())
        return {flag: [str(word) for word in words] for flag, words in found.items()}, warnings


class TestAretomo2(OfAretomo, FormCase):
    engine, table, said = ENGINE_GPU, ARETOMO2, ("AreTomo2",)


class TestAretomo3(OfAretomo, FormCase):
    engine, table, kind, said, always = ENGINE_ARETOMO3, ARETOMO3, Aretomo3Run, ("AreTomo3",), ()

    def test_a_field_that_the_program_has_nothing_for_is_not_seen(self):
        self.assertFalse(self.form({}).evalParamCondition("doDW"))
        self.assertTrue(self.form({}).evalParamCondition("correctCtf"))


class TestAretomoOnTheCpu(OfAretomo, FormCase):
    engine, said = ENGINE_CPU, ("CPU engine",)
    table = of_cpu(cpu_aretomo.KNOWN, offered_by(ARETOMO2) - {"-Gpu"} | {"-OutImod", "-Wiener", "-EraseGold"})


class OfMotioncor(BothDirections):
    upstream, of_ours, context = ProtMotionCorrNewStreaming, frozenset(), CONTEXT_OF_MOTIONCOR
    otherwise, always = OTHERWISE_OF_MOTIONCOR, ("-InMrc", "-InTiff", "-InEer", "-Gain", "-Dark", "-RotGain", "-FlipGain",
                                                 "-FmIntFile", "-EerSampling", "-LogDir")

    def form(self, values: Mapping[str, object]):
        return self.protocol("ProtTomoStreamMotionCor", engine=self.engine, **values)

    def sent(self, values: Mapping[str, object]) -> tuple[dict[str, list[str]], bool]:
        case = OfAMovie("run")
        case.setUp()
        try:
            movie = "m.eer" if any(name.startswith("eer") for name in values) else "m.tif"
            words = case.words(movie, "gain.mrc", "dark.mrc", gpu=self.engine == ENGINE_GPU,
                               **{"numberOfThreads": 3, **{name: value for name, value in values.items() if value is not None}})
        finally:
            case.doCleanups()
        warned = len(self.form(values).warnings()) > len(self.form({}).warnings())
        return parse_flags(" ".join(word if word else "''" for word in words)), warned


class TestMotioncor3(OfMotioncor, FormCase):
    engine, table, said = ENGINE_GPU, MOTIONCOR3, ("MotionCor3",)

    def test_crop_and_the_flags_that_it_does_not_know_are_never_sent(self):
        flags, warned = self.sent({"cropDimX": 100, "cropDimY": 100})
        self.assertEqual(({"-MaskCent", "-MaskSize", "-Crop"} & set(flags), warned), (set(), True))


class TestMotioncorOnTheCpu(OfMotioncor, FormCase):
    engine, said = ENGINE_CPU, ("CPU engine", "1 x 1 patches")
    table = of_cpu(cpu_motioncor.KNOWN, offered_by(MOTIONCOR3) - {"-Gpu"})

    def test_what_only_motioncor3_corrects_is_not_seen_and_warned_of(self):
        self.assertFalse(self.form({}).evalParamCondition("doMagCor"))
        self.assertTrue(self.sent({"doMagCor": True})[1])


class TestTheDocument(unittest.TestCase):
    DOCUMENT = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "programs.rst")

    @unittest.skipUnless(os.path.exists(DOCUMENT), "an installed package has no documents")
    def test_names_every_flag_that_is_sent(self):
        with open(self.DOCUMENT, encoding="utf-8") as file:
            text = file.read()
        for table in (MOTIONCOR3, ARETOMO2, ARETOMO3):
            self.assertEqual([flag for flag, meaning in table.items() if not meaning.unoffered and f"{flag}" not in text], [])


if __name__ == "__main__":
    unittest.main()
