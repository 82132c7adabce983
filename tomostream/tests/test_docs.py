# SPDX-License-Identifier: GPL-3.0-or-later
"""The documents: short where they must be, valid, and nothing in them names a file or command that is not there."""

from __future__ import annotations

import doctest
import glob
import importlib.util
import io
import os
import pathlib
import pkgutil
import re
import unittest

import docutils.core

import tomostream
from tomostream import engine
from tomostream.cli import COMMANDS

PACKAGE = os.path.dirname(os.path.abspath(tomostream.__file__))
CHECKOUT = os.path.dirname(PACKAGE)
MAX_README_LINES = 350
#: A path of ours in double back-quotes: a room, a module, a benchmark, another document.
PATHS = re.compile(r"``(?:\.venv/bin/)?(?:python |tomostream/)?"
                   r"((?:[a-z_]+/)*[a-z_]+(?:\.(?:py|rst|toml|json\.template)|/))(?: [^`]*)?``")
PICTURES = re.compile(r"^\s*\.\. (?:image|figure):: (\S+)", re.MULTILINE)
#: What a document may name although it is in no checkout: what sessions write.
WRITTEN = frozenset({"report/", "frames/"})


def read(path: str) -> str:
    with open(os.path.join(CHECKOUT, path), encoding="utf-8") as file:
        return file.read()


@unittest.skipUnless(os.path.exists(os.path.join(CHECKOUT, "README.rst")), "an installed package has no documents")
class TestTheDocuments(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.documents = sorted(os.path.relpath(path, CHECKOUT) for pattern in ("*.rst", "docs/*.rst")
                               for path in glob.glob(os.path.join(CHECKOUT, pattern)))

    def test_the_readme_stays_short(self):
        self.assertLess(len(read("README.rst").splitlines()), MAX_README_LINES)

    def test_every_document_is_valid(self):
        for path in self.documents:
            warnings = io.StringIO()
            docutils.core.publish_string(read(path), source_path=path, writer="html5",
                                         settings_overrides={"warning_stream": warnings, "report_level": 2})
            self.assertEqual(warnings.getvalue(), "")

    def test_every_link_and_picture_is_there(self):
        wrong = []
        for path in self.documents:
            text = read(path)
            targets = re.findall(r"(?<!`)`[^`<]+ <([^`>]+)>`_", text) + PICTURES.findall(text)
            wrong += [(path, target) for target in targets if "://" not in target
                      and not os.path.exists(os.path.join(CHECKOUT, os.path.dirname(path), target))]
        self.assertEqual(wrong, [])

    def test_every_picture_is_shown(self):
        shown = {os.path.basename(target) for path in self.documents
                 for target in PICTURES.findall(read(path))}
        self.assertEqual(set(os.listdir(os.path.join(CHECKOUT, "docs", "images"))) - shown, set())

    def test_every_module_that_is_named_is_there(self):
        wrong, seen = [], 0
        for path in self.documents:
            for name in PATHS.findall(read(path)):
                seen += 1
                places = (CHECKOUT, PACKAGE, os.path.join(PACKAGE, "tests"), os.path.join(PACKAGE, "acquisition"),
                          os.path.join(PACKAGE, "streaming"))
                if name not in WRITTEN and not any(os.path.exists(os.path.join(place, name)) for place in places):
                    wrong.append((path, name))
        self.assertGreater(seen, 60)
        self.assertEqual(wrong, [])

    def test_every_room_is_in_the_architecture(self):
        rooms = {name for name in os.listdir(PACKAGE) if os.path.isfile(os.path.join(PACKAGE, name, "__init__.py"))}
        drawn = set(re.findall(r"[|] {1,2}(\w+) ", read("docs/architecture.rst")))
        self.assertEqual(rooms - drawn - {"tests", "workflows"}, set())

    def test_the_architecture_names_the_home_of_every_fact(self):
        """Of the engine and the simulator the folders, of the command line the modules that are no subcommand."""
        text, absent = read("docs/architecture.rst"), []
        for path in glob.glob(os.path.join(PACKAGE, "*", "*.py")):
            room, name = os.path.relpath(path, PACKAGE).split(os.sep)
            named = f"``{room}/{name}``" in text or name.startswith(("__", "protocol_"))
            if not named and room not in ("tests", "engine", "simulator", "cli"):
                absent.append(f"{room}/{name}")
        self.assertEqual(absent, [])

    def test_the_readme_names_every_subcommand(self):
        self.assertEqual([name for name in COMMANDS if f"tomostream {name} " not in read("README.rst").replace("\n", " ")], [])

    def test_every_make_target_that_is_named_exists(self):
        targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
        named = {target for path in self.documents for target in re.findall(r"``(?:\S+=\S+ )*make ([a-z-]+)", read(path))}
        self.assertEqual(named - targets, set())


if __name__ == "__main__":
    unittest.main()


class TestTheExamples(unittest.TestCase):
    def test_in_the_docstrings_of_the_engine_are_true(self):
        tried = 0
        for module in pkgutil.walk_packages(engine.__path__, f"{engine.__name__}."):
            if ">>>" in pathlib.Path(importlib.util.find_spec(module.name).origin).read_text():
                found = doctest.testmod(importlib.import_module(module.name))
                self.assertEqual(found.failed, 0, module.name)
                tried += found.attempted
        self.assertGreater(tried, 5)
