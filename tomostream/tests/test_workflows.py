# SPDX-License-Identifier: GPL-3.0-or-later
"""The shipped workflow: every key is a parameter, every value given in the template's dialog arrives in the protocols."""

from __future__ import annotations

import glob
import json
import os
import re
import tempfile
import unittest

from pyworkflow.config import Config
from pyworkflow.template import LocalTemplate, Validations

import tomostream
from tomostream.constants import ENGINE_CPU
from tomostream.streaming.values import convert

FOLDER = os.path.join(os.path.dirname(tomostream.__file__), "workflows")
TEMPLATES = sorted(glob.glob(os.path.join(FOLDER, "*.json.template")))
#: Keys of a workflow file that belong to the protocol as such, not to its form.
COMMON = {"object.className", "object.id", "object.label", "object.comment"}
ANSWERS = {"movies": "/not/there/yet/frames", "pattern": "*.eer", "mdocs": "/not/there/yet/mdocs", "pixelSize": "1.35",
           "voltage": "", "gain": "", "copy": "yes", "timeout": "30m", "engine": "CPU", "gpus": "0 1", "gainRotation": "1",
           "gainFlip": "2", "tiltAxis": "0", "tilts": "", "binning": "4", "alignZ": "900", "thickness": "1500",
           "doseWeighting": "no"}


def filled(path: str, answers: dict[str, str]) -> list[dict]:
    """The workflow of a template with the dialog filled in (alias -> text), as Scipion makes it."""
    template = LocalTemplate("tomostream", path)
    template.replaceEnvVariables()
    template.parseContent()
    for alias, value in answers.items():
        template.setParamValue(alias, value)
    template._replaceFields()
    return json.loads("".join(template.getContent()))


def protocol_of(entry: dict):
    """A protocol with what a workflow's entry gives."""
    protocol = Config.getDomain().getProtocols()[entry["object.className"]]()
    protocol.imported = protocol.processImportDict(entry, "/tmp")
    return protocol


class TestStreamingTemplate(unittest.TestCase):
    """`tomostream-streaming_tomography`, as the dialog and `python -m scipion template` use it."""

    @classmethod
    def setUpClass(cls):
        Config.getDomain().getProtocols()
        cls.path = os.path.join(FOLDER, "streaming_tomography.json.template")
        cls.entries = filled(cls.path, ANSWERS)
        cls.protocols = {entry["object.className"]: protocol_of(entry) for entry in cls.entries}

    def imported(self, name: str) -> dict:
        return self.protocols[name].imported

    def test_the_plugin_offers_it_under_its_name(self):
        from tomostream.plugin import Plugin

        plugin = Config.getDomain().getPlugins()["tomostream"]._pluginInstance
        names = [template.getObjId() for template in plugin.getTemplates()]
        self.assertIn("tomostream-streaming_tomography", names)
        self.assertTrue(os.path.samefile(Plugin().getPluginTemplateDir(), FOLDER))

    def test_it_says_what_it_is(self):
        self.assertIn("tomograms", LocalTemplate("tomostream", self.path).description)

    def test_every_key_is_a_parameter_of_its_protocol(self):
        wrong = [f"{entry['object.className']}.{key}" for entry in self.entries for key in entry
                 if key not in COMMON and self.protocols[entry["object.className"]].getParam(key) is None]
        self.assertEqual(wrong, [])

    def test_every_default_passes_the_check_of_its_dialog(self):
        """A field that refuses its own default would block the dialog; its check boxes never pass their own check."""
        template = LocalTemplate("tomostream", self.path)
        template.replaceEnvVariables()
        template.parseContent()
        for field in template.getParams().values():
            self.assertIsNone(Validations.check(field.getValue(), field.getType()), field.getTitle())
            self.assertIsNotNone(field.getAlias(), field.getTitle())
            self.assertNotEqual(field.getType(), 1, field.getTitle())

    def test_titles_are_unique_because_scipion_keeps_one_field_a_title(self):
        with open(self.path, encoding="utf-8") as file:
            fields = re.findall(r"~([^~]*)~", file.read())
        self.assertEqual(len({field.split("|")[0] for field in fields}), len(fields))

    def test_the_answers_used_here_are_all_there_are(self):
        with open(self.path, encoding="utf-8") as file:
            aliases = {field.split("|")[3] for field in re.findall(r"~([^~]*)~", file.read())}
        self.assertEqual(aliases, set(ANSWERS))

    def test_a_folder_that_is_not_there_yet_is_kept(self):
        self.assertEqual(self.imported("ProtTomoStreamImportMovies")["filesPath"], "/not/there/yet/frames")

    def test_the_folder_of_the_mdoc_files_is_asked_for_once_and_compose_takes_the_import_s(self):
        self.assertEqual(self.imported("ProtTomoStreamImportMovies")["mdocsPath"], "/not/there/yet/mdocs")
        self.assertNotIn("filesPath", self.imported("ProtTomoStreamComposeTS"))

    def test_an_empty_number_is_none_and_a_zero_axis_is_zero(self):
        self.assertIsNone(self.imported("ProtTomoStreamImportMovies")["voltage"])
        self.assertIsNone(self.imported("ProtTomoStreamComposeTS")["expectedTilts"])
        self.assertEqual(self.imported("ProtTomoStreamComposeTS")["manualTiltAxisAngle"], 0.0)

    def test_choices_and_switches_are_given_in_words(self):
        self.assertEqual(self.imported("ProtTomoStreamMotionCor")["engine"], ENGINE_CPU)
        self.assertEqual(self.imported("ProtTomoStreamAreTomo")["engine"], ENGINE_CPU)
        self.assertIs(self.imported("ProtTomoStreamImportMovies")["copyFiles"], True)
        self.assertIs(self.imported("ProtTomoStreamAreTomo")["doDW"], False)

    def test_a_wrong_word_is_refused_with_the_choices(self):
        with self.assertRaisesRegex(ValueError, r"Engine.*turbo.*automatic, GPU, CPU, GPU \(AreTomo3\)"):
            self.protocols["ProtTomoStreamAreTomo"].processImportDict({"engine": "turbo"}, "/tmp")
        with self.assertRaisesRegex(ValueError, "cannot be '2.outputMovies': write a"):       # no number is linked to an output
            self.protocols["ProtTomoStreamAreTomo"].processImportDict({"tomoThickness": "2.outputMovies"}, "/tmp")

    def test_its_defaults_are_those_of_the_forms(self):
        """Whoever starts from the template, from a form or from the command line gets the same."""
        wrong = []
        for entry in filled(self.path, {}):
            protocol = protocol_of(entry)
            for key in entry.keys() - COMMON - {"inputMovies", "inputMicrographs", "inputSetOfTiltSeries"}:
                param = protocol.getParam(key)
                form = convert(param, str("" if param.default.get() is None else param.default.get()))
                if (protocol.imported[key] or None) != (form or None):
                    wrong.append((entry["object.className"], key, protocol.imported[key], form))
        self.assertEqual(wrong, [])

    def test_the_protocols_are_chained_output_to_input(self):
        names = {entry["object.id"]: entry["object.className"] for entry in self.entries}
        for name, key in (("ProtTomoStreamMotionCor", "inputMovies"), ("ProtTomoStreamComposeTS", "inputMicrographs"),
                          ("ProtTomoStreamAreTomo", "inputSetOfTiltSeries")):
            number, output = self.imported(name)[key].split(".")
            self.assertIn(output, self.protocols[names[number]]._possibleOutputs)

    def test_the_defaults_of_the_dialog_are_valid_settings(self):
        """With only the folders filled in, nothing but the inputs (which come later) is missing."""
        for entry in filled(self.path, {"movies": tempfile.gettempdir(), "mdocs": tempfile.gettempdir()}):
            protocol = protocol_of(entry)
            for name, value in protocol.imported.items():
                param = protocol.getParam(name)
                if param is not None and not name.startswith("input"):
                    getattr(protocol, name).set(convert(param, value))
            self.assertEqual(protocol.form_problems(), [])


class TestTheOtherTemplates(unittest.TestCase):
    """The templates with protocols of other plugins. Those of a plugin that is not installed are run as a whole by
    `make test-downstream`, in an environment that has it."""

    @classmethod
    def setUpClass(cls):
        cls.known = Config.getDomain().getProtocols()
        cls.entries = {os.path.basename(path): filled(path, {"movies": "/not/there/yet", "mdocs": "/not/there/yet"})
                       for path in TEMPLATES}

    def test_there_is_one_with_imod_and_one_with_a_filter_before_aretomo(self):
        names = [f"streaming_tomography{name}.json.template" for name in ("", "_filtered", "_imod")]
        self.assertEqual(sorted(self.entries), names)

    def test_every_key_is_a_parameter_of_its_protocol(self):
        wrong = []
        for name, found in self.entries.items():
            for entry in found:
                protocol = self.known.get(entry["object.className"])
                made = protocol() if protocol is not None else None
                wrong += [(name, entry["object.className"], key) for key in entry
                          if made is not None and key not in COMMON and made.getParam(key) is None]
        self.assertEqual(wrong, [])

    def test_the_protocols_of_other_plugins_are_those_that_are_named(self):
        missing = {entry["object.className"] for found in self.entries.values() for entry in found} - set(self.known)
        self.assertEqual({name for name in missing if not name.startswith("ProtImod")}, set())

    def test_the_protocols_are_chained_output_to_input(self):
        for name, found in self.entries.items():
            classes = {entry["object.id"]: entry["object.className"] for entry in found}
            for entry in found:
                for key, value in entry.items():
                    points = re.fullmatch(r"(\d+)\.([A-Za-z]+)", str(value)) if key.startswith("in") else None
                    protocol = self.known.get(classes[points[1]]) if points else None
                    if protocol is not None:
                        outputs = getattr(protocol, "_possibleOutputs", None) or {}
                        names = list(outputs) if isinstance(outputs, dict) else [output.name for output in outputs]
                        self.assertIn(points[2], names, (name, entry["object.className"], key))

    def test_each_asks_for_the_folder_of_the_mdoc_files_once(self):
        for path in TEMPLATES:
            with open(path, encoding="utf-8") as file:
                self.assertEqual(file.read().count("|mdocs~"), 1, path)

    def test_titles_are_unique_and_every_default_passes_the_check_of_its_dialog(self):
        for path in TEMPLATES:
            with open(path, encoding="utf-8") as file:
                fields = re.findall(r"~([^~]*)~", file.read())
            self.assertEqual(len({field.split("|")[0] for field in fields}), len(fields), path)
            template = LocalTemplate("tomostream", path)
            template.replaceEnvVariables()
            template.parseContent()
            for field in template.getParams().values():
                self.assertIsNone(Validations.check(field.getValue(), field.getType()), (path, field.getTitle()))


class TestConvert(unittest.TestCase):
    """Texts as parameters want them."""

    def test_numbers_are_distinguished_from_words(self):
        from pyworkflow.protocol import FloatParam, IntParam

        self.assertEqual(convert(IntParam(), " 41 "), 41)
        self.assertIsNone(convert(FloatParam(), ""))
        with self.assertRaisesRegex(ValueError, "whole number"):
            convert(IntParam(), "3.5")

    def test_what_is_no_text_stays_as_it_is(self):
        from pyworkflow.protocol import IntParam

        self.assertEqual(convert(IntParam(), 7), 7)


if __name__ == "__main__":
    unittest.main()
