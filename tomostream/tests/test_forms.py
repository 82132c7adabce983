# SPDX-License-Identifier: GPL-3.0-or-later
"""The forms of the four protocols: every field explains itself; wrong values are refused in words, not with a traceback."""

from __future__ import annotations

import os
import tempfile
import unittest
from unittest import mock

from pyworkflow.config import Config
from pyworkflow.protocol import params

from tomostream.constants import ENGINE_ARETOMO3, ENGINE_CPU, ENGINE_GPU
from tomostream.streaming.values import seconds_of

NAMES = ("ProtTomoStreamImportMovies", "ProtTomoStreamMotionCor", "ProtTomoStreamComposeTS", "ProtTomoStreamAreTomo")
#: Labels in the tree and on the boxes are cut at about 24 characters, with "tomostream - " in front.
LABEL_LENGTH = 14


def fields_of(protocol):
    """(name, field) of everything a user can see in a form."""
    def walk(group):
        for name, element in group.iterParams():
            if hasattr(element, "iterParams"):
                yield from walk(element)
            elif str(element.condition.get()) != "False":
                yield name, element

    for section in protocol._definition.iterSections():
        if section.label.get() not in ("General", "Parallelization"):       # these are Scipion's own
            yield from walk(section)


class FormCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        from pyworkflow.project import Manager

        Config.getDomain().getProtocols()
        cls.before = os.getcwd()
        cls.folder = tempfile.TemporaryDirectory()
        cls.project = Manager().createProject("forms", location=cls.folder.name)
        os.chdir(cls.project.path)

    @classmethod
    def tearDownClass(cls):
        os.chdir(cls.before)
        cls.project.closeMapper()
        cls.folder.cleanup()

    def protocol(self, name: str, **values):
        import tomostream.protocols as ours

        protocol = self.project.newProtocol(getattr(ours, name))
        for key, value in values.items():
            getattr(protocol, key).set(value)
        return protocol

    def problems(self, name: str, **values) -> str:
        return "\n".join(self.protocol(name, **values).validate())


class TestFields(FormCase):
    """What stands in the forms."""

    def test_every_visible_field_has_a_label_and_a_help(self):
        bare = [f"{name}.{field}" for name in NAMES for field, param in fields_of(self.protocol(name))
                if not param.label.get() or not param.help.get()]
        self.assertEqual(bare, [])

    def test_names_of_the_protocols_fit_into_the_tree(self):
        import tomostream.protocols as ours

        for name in NAMES:
            self.assertLessEqual(len(getattr(ours, name)._label), LABEL_LENGTH, name)

    def test_the_engine_stands_right_below_the_input(self):
        for name, pointer in (("ProtTomoStreamMotionCor", "inputMovies"), ("ProtTomoStreamAreTomo", "inputSetOfTiltSeries")):
            order = [field for field, _ in fields_of(self.protocol(name))]
            self.assertEqual(order.index("engine"), order.index(pointer) + 1, name)

    def test_upstream_s_names_of_parameters_are_kept(self):
        compose = self.protocol("ProtTomoStreamComposeTS")
        for field in ("filesPath", "mdocPattern", "excludedWords", "manualTiltAxisAngle", "minNumTilts",
                      "percentTiltsRequired", "time4NextTilt", "doEvenOdd", "time4NextTS", "expectedTilts"):
            self.assertIsNotNone(compose.getParam(field), field)

    def test_no_tab_is_higher_than_a_screen_of_768_pixels_whatever_is_chosen(self):
        """Ten rows beside what Scipion has above and below them; the frame of a group is as high as one."""
        for name in NAMES:
            for values in self.choices(name):
                protocol = self.protocol(name, **values)
                for section in protocol._definition.iterSections():
                    if section.label.get() not in ("General", "Parallelization"):
                        self.assertLessEqual(self.rows(protocol, section), 10, (name, section.label.get(), values))

    @staticmethod
    def choices(name: str) -> list[dict]:
        """What makes the most fields appear."""
        if name == "ProtTomoStreamAreTomo":
            common = {"doPhaseShiftSearch": True, "sampleType": 2}
            return [{"engine": engine, **common} for engine in (ENGINE_CPU, ENGINE_GPU, ENGINE_ARETOMO3)] + [{"skipAlign": True}]
        return [{"engine": ENGINE_GPU, "patchX": 5, "doMagCor": True}] if name == "ProtTomoStreamMotionCor" else [{}]

    def rows(self, protocol, group) -> int:
        """Rows of a section or group, with the fields for experts."""
        count = 0
        for name, element in group.iterParams():
            if not protocol.evalParamCondition(name):
                continue
            inside = self.rows(protocol, element) if type(element).__name__ == "Group" else 0
            count += 1 + inside if inside or not hasattr(element, "iterParams") or type(element).__name__ == "Line" else 0
        return count

    def seen(self, name: str, **values) -> set[str]:
        protocol = self.protocol(name, **values)
        return {field for field, _ in fields_of(protocol) if protocol.evalParamCondition(field)}

    def test_what_a_gpu_program_alone_reads_is_asked_for_with_a_gpu_engine(self):
        for name, fields in (("ProtTomoStreamMotionCor", {"gpuList", "patchX", "patchY", "tol", "doMagCor"}),
                             ("ProtTomoStreamAreTomo", {"gpuList", "alignZ", "alignZfile", "SARTproj"})):
            self.assertLessEqual(fields, self.seen(name, engine=ENGINE_GPU))
            self.assertEqual(fields & self.seen(name, engine=ENGINE_CPU), set())
            self.assertFalse(self.protocol(name).allowsGpu(), "the header of the form asks for GPUs, too")
            self.assertEqual(self.protocol(name, gpuList="0 2").getGpuList(), [0, 2])

    def test_the_automatic_choice_asks_for_gpus_where_the_gpu_program_is_installed(self):
        import aretomo
        import motioncorr

        for name, plugin in (("ProtTomoStreamMotionCor", motioncorr.Plugin), ("ProtTomoStreamAreTomo", aretomo.Plugin)):
            for program, expected in ((os.path.realpath(__file__), True), ("/nowhere/program", False)):
                with mock.patch.object(plugin, "getProgram", return_value=program):
                    self.assertEqual("gpuList" in self.seen(name), expected, (name, program))

    def test_fields_of_patches_are_seen_when_patches_are_used(self):
        of_patches = {"patchX", "patchY"}
        self.assertEqual(of_patches & self.seen("ProtTomoStreamAreTomo"), set())
        self.assertLessEqual(of_patches, self.seen("ProtTomoStreamAreTomo", sampleType=2))
        overlap = {"patchOverlap", "groupLocal"}
        self.assertEqual(overlap & self.seen("ProtTomoStreamMotionCor", engine=ENGINE_GPU), set())
        self.assertLessEqual(overlap, self.seen("ProtTomoStreamMotionCor", engine=ENGINE_GPU, patchX=5))

    def test_without_an_alignment_nothing_of_it_is_asked_and_the_form_says_so(self):
        seen = self.seen("ProtTomoStreamAreTomo", skipAlign=True, engine=ENGINE_GPU)
        self.assertLessEqual({"alignmentSkipped", "ctfSkipped"}, seen)
        self.assertEqual({"alignZ", "refineTiltAxis", "sampleType", "darkTol", "doEstimateCtf"} & seen, set())

    def test_units_are_written_as_on_the_microscope(self):
        for name in NAMES:
            for field, param in fields_of(self.protocol(name)):
                self.assertNotRegex(f"{param.label.get()} {param.help.get()}", r"\b(um|micrometres)\b", (name, field))

    def test_patches_are_one_by_one_and_dose_weighting_is_off_by_default(self):
        motioncor = self.protocol("ProtTomoStreamMotionCor")
        self.assertEqual((motioncor.patchX.get(), motioncor.patchY.get()), (1, 1))
        self.assertIs(motioncor.doApplyDoseFilter.get(), False)
        self.assertEqual(motioncor.numberOfThreads.get(), 3)


class TestValidation(FormCase):
    """Wrong values."""

    def assert_in_words(self, text: str):
        for word in ("Traceback", "Error:", "object has no attribute", "NoneType"):
            self.assertNotIn(word, text)

    def test_empty_forms_say_what_is_missing(self):
        for name, words in zip(NAMES, ("Folder of the movies is empty", "Input movies: choose", "Input micrographs: choose",
                                       "Input tilt series: choose"), strict=True):
            self.assertIn(words, self.problems(name))
            self.assert_in_words(self.problems(name))

    def test_no_empty_field_raises_whichever_it_is(self):
        for name in NAMES:
            for field, param in fields_of(self.protocol(name)):
                if isinstance(param, (params.PointerParam, params.LabelParam)):
                    continue
                protocol = self.protocol(name, **{field: None})
                self.assert_in_words("\n".join(protocol.validate() + protocol.warnings() + protocol.summary()))

    def test_one_empty_field_gives_one_message(self):
        for name in NAMES:
            usual = self.protocol(name).validate()
            for field, _ in fields_of(self.protocol(name)):
                said = [text for text in self.protocol(name, **{field: None}).validate() if text not in usual]
                self.assertLessEqual(len(said), 1, (name, field))

    def test_no_number_far_out_raises_whichever_it_is(self):
        for name in NAMES:
            for field, param in fields_of(self.protocol(name)):
                if isinstance(param, (params.IntParam, params.FloatParam)) and not isinstance(param, params.EnumParam):
                    for value in (-7, 0, 10 ** 7):
                        protocol = self.protocol(name, **{field: value})
                        self.assert_in_words("\n".join(protocol.validate() + protocol.warnings()))

    def test_words_where_a_time_is_wanted_are_refused_with_an_example(self):
        for name, field in (("ProtTomoStreamImportMovies", "timeout"), ("ProtTomoStreamImportMovies", "fileTimeout"),
                            ("ProtTomoStreamComposeTS", "time4NextTilt"), ("ProtTomoStreamComposeTS", "time4NextTS")):
            for text in ("soon", "", "0", "-5", "__import__('os')"):
                found = self.problems(name, **{field: text})
                self.assertIn("is not a time; write seconds, or 30m", found)
                self.assert_in_words(found)

    def test_a_tilt_axis_of_zero_is_accepted_and_one_of_four_thousand_is_not(self):
        self.assertNotIn("Tilt axis", self.problems("ProtTomoStreamComposeTS", manualTiltAxisAngle=0.0))
        self.assertIn("Tilt axis", self.problems("ProtTomoStreamComposeTS", manualTiltAxisAngle=4000.0))

    def test_a_gain_reference_that_is_not_there_is_named(self):
        self.assertIn("/nowhere/gain.mrc", self.problems("ProtTomoStreamImportMovies", gainFile="/nowhere/gain.mrc"))

    def test_a_movie_folder_that_is_not_there_yet_is_a_warning(self):
        protocol = self.protocol("ProtTomoStreamImportMovies", filesPath="/nowhere/frames", voltage=300.0)
        self.assertEqual(protocol.validate(), [])
        self.assertIn("/nowhere/frames does not exist yet", "\n".join(protocol.warnings()))

    def test_patches_give_a_warning(self):
        for engine, words in ((ENGINE_GPU, "deforms"), (ENGINE_CPU, "without effect")):
            self.assertIn(words, "\n".join(self.protocol("ProtTomoStreamMotionCor", engine=engine, patchX=5).warnings()))

    def test_a_quotation_that_is_not_closed_is_refused_before_it_reaches_the_shell(self):
        for name, field in (("ProtTomoStreamMotionCor", "extraParams2"), ("ProtTomoStreamAreTomo", "extraParams")):
            self.assertIn("Additional parameters: a quotation mark is not closed", self.problems(name, **{field: "-Iter '7"}))

    def test_local_motion_at_places_needs_their_file(self):
        values = {"engine": ENGINE_GPU, "sampleType": 1}
        self.assertIn("File of positions: there is no file ''", self.problems("ProtTomoStreamAreTomo", **values))
        path = os.path.join(self.folder.name, "it's here.txt")
        with open(path, "w", encoding="utf-8"):
            pass
        self.assertNotIn("File of positions", self.problems("ProtTomoStreamAreTomo", **values, coordsFn=path))

    def test_a_volume_that_aretomo2_would_not_make_is_refused_with_the_reason(self):
        for engine, expected in ((ENGINE_GPU, True), (ENGINE_CPU, False), (ENGINE_ARETOMO3, False)):
            found = self.problems("ProtTomoStreamAreTomo", engine=engine, tomoThickness=64, alignZ=40, binFactor=4)
            self.assertEqual("AreTomo2 makes no volume of 16 slices or fewer" in found, expected, engine)

    def test_a_measured_thickness_is_aretomo3_s_alone(self):
        for engine, expected in ((ENGINE_GPU, True), (ENGINE_CPU, True), (ENGINE_ARETOMO3, False)):
            found = self.problems("ProtTomoStreamAreTomo", engine=engine, tomoThickness=-1)
            self.assertEqual("-1 is out of range" in found, expected)

    def test_a_project_folder_may_have_mrc_in_its_name(self):
        from pyworkflow.project import Manager

        import tomostream.protocols as ours

        before = os.getcwd()
        project = Manager().createProject("a.mrc", location=os.path.join(self.folder.name, "night.mrc"))
        try:
            os.chdir(project.path)
            found = project.newProtocol(ours.ProtTomoStreamAreTomo).validate()
        finally:
            os.chdir(before)
            project.closeMapper()
        self.assertNotIn(".mrc", "\n".join(found))

    def test_one_thread_is_refused_with_the_reason(self):
        for name in NAMES[1:]:
            self.assertIn("Threads must be 2 or more", self.problems(name, numberOfThreads=1))


class TestAlarmFields(FormCase):
    """The tab of the alarms: units of the microscope in, thresholds out."""

    def thresholds(self, **values):
        from tomostream.protocols import alarms
        from tomostream.report.judging import Thresholds

        return Thresholds.parse(alarms.words_of(self.protocol("ProtTomoStreamComposeTS", **values)))

    def test_the_form_as_it_comes_gives_the_defaults(self):
        from tomostream.protocols import alarms
        from tomostream.report.judging import Thresholds

        self.assertEqual(alarms.words_of(self.protocol("ProtTomoStreamComposeTS")), [])
        self.assertEqual(self.thresholds(), Thresholds())

    def test_per_cent_and_nanometres_become_shares_and_angstroms(self):
        found = self.thresholds(alarmCounts=50.0, alarmTiltsUsed=90.0, alarmThin=40.0, alarmThick=250.0, alarmTarget=3.0)
        self.assertEqual((found.counts_min, found.tilts_used_min, found.thickness_min_A, found.thickness_max_A,
                          found.defocus_target_um), (0.5, 0.9, 400.0, 2500.0, 3.0))

    def test_zero_switches_every_alarm_off(self):
        from tomostream.protocols import alarms

        for field in alarms.FIELDS:
            found = self.thresholds(**{field.name: 0.0})
            self.assertIsNone(getattr(found, field.switch or field.threshold), field.name)

    def test_words_count_more_than_fields(self):
        self.assertEqual(self.thresholds(alarmAxis=3.0, alarmThresholds="axis_deg=2 quiet_series=5").axis_deg, 2.0)

    def test_what_cannot_be_is_refused_with_the_name_of_the_field(self):
        for values, words in (({"alarmCounts": 150.0}, "Counts less than (%): 150 is out of range"),
                              ({"alarmDrift": -1.0}, "Drift more than (px): -1 is out of range"),
                              ({"alarmThin": 400.0, "alarmThick": 300.0}, "cannot be thicker than 300 nm and thinner than 400"),
                              ({"alarmThresholds": "speed=3"}, "'speed=3' is not a threshold")):
            self.assertIn(words, self.problems("ProtTomoStreamComposeTS", **values))

    def test_the_command_line_sets_them_by_name(self):
        from tomostream.cli.project import apply

        protocol = self.protocol("ProtTomoStreamComposeTS")
        apply(protocol, "compose", {"alarmAxis": "2.5", "alarmThresholds": "quiet_series=5", "angleSign": "negated"})
        from tomostream.protocols import alarms, signs

        self.assertEqual(alarms.words_of(protocol), ["axis_deg=2.5", "quiet_series=5"])
        self.assertEqual(protocol.angleSign.get(), signs.NEGATED)


class TestTheMdocFolder(FormCase):
    """It is given once: compose takes what was given to the import."""

    def chain(self, mdocs: str, **values):
        """The compose form behind motioncor and an import that looks for mdoc files there."""
        movies = self.protocol("ProtTomoStreamImportMovies", mdocsPath=mdocs)
        self.project.saveProtocol(movies)
        motioncor = self.protocol("ProtTomoStreamMotionCor")
        motioncor.inputMovies.set(movies)
        motioncor.inputMovies.setExtended("outputMovies")
        self.project.saveProtocol(motioncor)
        compose = self.protocol("ProtTomoStreamComposeTS", **values)
        compose.inputMicrographs.set(motioncor)
        compose.inputMicrographs.setExtended("micrographs")
        return compose

    def test_an_empty_field_is_the_import_s_folder_or_pattern(self):
        from tomostream.protocols import mdocs

        self.assertEqual(mdocs.place_of(self.chain("/data/mdocs")), ("/data/mdocs", "*.mdoc"))
        self.assertEqual(mdocs.place_of(self.chain("/data/mdocs/TS_*.mdoc")), ("/data/mdocs", "TS_*.mdoc"))
        self.assertEqual(mdocs.place_of(self.chain("/data/mdocs", mdocPattern="TS_*.mdoc")), ("/data/mdocs", "TS_*.mdoc"))
        self.assertEqual(mdocs.place_of(self.chain("/data/mdocs", filesPath="/other")), ("/other", "*.mdoc"))
        self.assertNotIn("mdoc", "\n".join(self.chain("/data/mdocs").form_problems()))

    def test_where_neither_form_says_it_is_refused_once_and_not_before_the_input_is_chosen(self):
        self.assertEqual(len([text for text in self.chain("").form_problems() if "mdoc files is empty" in text]), 1)
        self.assertEqual(self.protocol("ProtTomoStreamComposeTS").form_problems(), [])
        self.assertEqual([text for text in self.chain("", fromNames=True).form_problems() if "mdoc files" in text], [])

    def test_the_wizards_of_compose_read_there_too(self):
        from tomostream.wizards.readings import NothingFound
        from tomostream.wizards.wizard import TomoStreamTiltsWizard

        with self.assertRaisesRegex(NothingFound, r"/nowhere/mdocs/\*\.mdoc"):
            TomoStreamTiltsWizard().read(self.chain("/nowhere/mdocs"))


class TestSignOfTheAngles(FormCase):
    """One run has one sign."""

    def test_a_run_that_composed_with_one_sign_is_not_continued_with_the_other(self):
        import json

        from pyworkflow.protocol import MODE_RESTART, MODE_RESUME

        from tomostream.protocols import signs

        protocol = self.protocol("ProtTomoStreamComposeTS", angleSign=signs.AS_GIVEN)
        self.project.saveProtocol(protocol)
        os.makedirs(protocol._getExtraPath())
        with open(protocol._getExtraPath(signs.SIGN), "w", encoding="utf-8") as file:
            json.dump({"negated": True, "words": "negated, as remembered for Krios 7"}, file)
        self.assertIn("as remembered for Krios 7", "\n".join(protocol.summary()))
        self.assertTrue(signs.of_run(protocol, ()).negated)
        protocol.runMode.set(MODE_RESUME)
        self.assertIn("has composed series with the angles negated", "\n".join(protocol.validate()))
        protocol.runMode.set(MODE_RESTART)
        self.assertNotIn("Sign of the tilt angles", "\n".join(protocol.validate()))

    def test_the_choice_in_the_form_goes_before_what_is_remembered(self):
        from tomostream.protocols import signs

        self.assertEqual([signs.decide(choice, "Krios 7", ()).negated for choice in (signs.AS_GIVEN, signs.NEGATED)],
                         [False, True])

    def test_the_sign_is_kept_with_the_first_series_whatever_is_remembered_afterwards(self):
        from unittest import mock

        from tomostream.choices import instruments
        from tomostream.protocols import signs

        protocol = self.protocol("ProtTomoStreamComposeTS", instrument="Krios 7")
        self.project.saveProtocol(protocol)
        os.makedirs(protocol._getExtraPath())
        with mock.patch.dict(os.environ, {instruments.VARIABLE: os.path.join(self.folder.name, "instruments.json")}):
            self.assertFalse(signs.of_run(protocol, ()).negated)
            instruments.remember("Krios 7", instruments.NEGATED, "TS_01")
            self.assertFalse(signs.of_run(protocol, ()).negated)
            os.remove(protocol._getExtraPath(signs.SIGN))
            self.assertTrue(signs.of_run(protocol, ()).negated)


class TestStopStreaming(FormCase):
    """The action in the menu of a box."""

    def test_it_is_offered_once_and_only_while_the_protocol_runs(self):
        for name in NAMES:
            protocol = self.protocol(name)
            self.assertEqual([text for text, _ in protocol.getActions()], [])
            protocol.setStatus("running")
            self.assertEqual([text for text, _ in protocol.getActions()], ["STOP STREAMING"])

    def test_a_run_with_series_offers_to_take_tilts_out_also_when_it_has_ended(self):
        from tomo.objects import SetOfTiltSeries

        from tomostream.protocols.actions import TILTS

        for name, output in (("ProtTomoStreamComposeTS", "tiltSeries"), ("ProtTomoStreamAreTomo", "Tomograms")):
            protocol = self.protocol(name)
            setattr(protocol, output, SetOfTiltSeries(filename=os.path.join(self.folder.name, f"{name}.sqlite")))
            self.assertEqual([text for text, _ in protocol.getActions()], [TILTS])

    def test_the_canvas_calls_it_with_an_event_and_the_tree_without(self):
        for arguments in ((), (object(),)):
            protocol = self.protocol("ProtTomoStreamImportMovies")
            self.project.saveProtocol(protocol)
            os.makedirs(protocol._getExtraPath())
            protocol.setStatus("running")
            protocol.getActions()[0][1](*arguments)
            self.assertTrue(protocol.stop_asked())

    def test_continuing_takes_the_request_back_and_one_that_comes_while_the_process_starts_stays(self):
        from pyworkflow.protocol import MODE_RESUME

        from tomostream.files import locks
        from tomostream.streaming.protocol import LOCK_FILE

        protocol = self.protocol("ProtTomoStreamImportMovies")
        self.project.saveProtocol(protocol)
        protocol.runMode.set(MODE_RESUME)
        protocol.makePathsAndClean()
        protocol.stop_streaming()
        with locks.hold(protocol._getExtraPath(LOCK_FILE), 0.0):
            protocol.makePathsAndClean()
            self.assertTrue(protocol.stop_asked(), "one that is at work must still hear it")
        protocol.makePathsAndClean()        # as whoever launches it does
        self.assertFalse(protocol.stop_asked())
        protocol.stop_streaming()           # before the process of the run is there
        executor = mock.Mock(numberOfProcs=2, gpuList=[], hostConfig=None)
        with mock.patch.object(protocol, "_open", side_effect=InterruptedError):
            protocol.setStepsExecutor(executor)
            with self.assertRaises(InterruptedError):
                protocol._insertAllSteps()
        protocol.watcher.stop()
        self.assertTrue(protocol.stop_asked())


class TestTimes(unittest.TestCase):
    """Times as people write them."""

    def test_units_and_sums_of_them(self):
        for text, seconds in (("90", 90), ("90s", 90), ("30m", 1800), ("12h", 43200), ("1d 6h", 108000), ("1h30m", 5400),
                              ("1.5 h", 5400), (" 2 m 5 ", 125), (45, 45)):
            self.assertEqual(seconds_of(text), seconds, text)

    def test_what_is_no_time_is_quoted(self):
        with self.assertRaisesRegex(ValueError, "'3 weeks' is not a time"):
            seconds_of("3 weeks")


if __name__ == "__main__":
    unittest.main()
